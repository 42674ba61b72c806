//! `tracer stats --mode summary`: what the kernel summed up, for people and for programs.
//!
//! [`Report`] is the documented JSON (`docs/schema/summary.md`); [`render`] makes the tables from it.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;
use tracer_common::summary::{Count, Measure};

use super::stats::{ProbesReport, Style};
use super::text::{count, duration, wrap};
use crate::info::{Losses, SourceInfo, UnseenInfo};
use crate::outside;
use crate::sums::{Sums, Times};
use crate::tui::header::ppm;

/// Name and version of the JSON.
pub const SCHEMA: &str = "tracer.summary.v1";

/// Everything that `stats --mode summary --json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Version of the program.
    pub tracer_version: String,
    /// The kernel that was watched.
    pub kernel: super::stats::Kernel,
    /// Filters that ran in the kernel.
    pub filters: Vec<String>,
    /// When it began (`CLOCK_MONOTONIC`).
    pub start_ns: u64,
    /// For how long it went on.
    pub duration_ns: u64,
    /// Why it ended.
    pub ended: &'static str,
    /// How long locks were held, by lock.
    pub holds: BTreeMap<&'static str, TimesReport>,
    /// Of `holds.vma_read`: those whose end is derived from the end of their fault, and those whose end was observed.
    pub vma_read_by_provenance: BTreeMap<&'static str, TimesReport>,
    /// From the start of taking a lock to having it, by lock.
    pub waits: BTreeMap<&'static str, TimesReport>,
    /// What was only counted.
    pub counts: BTreeMap<&'static str, u64>,
    /// What is in none of the times above.
    pub lost: LostReport,
    /// What the probes cost while the kernel measured it; `null` where it was not measured.
    pub probes: Option<ProbesReport>,
    /// Operations that this kernel does not show.
    pub unseen: Vec<UnseenInfo>,
}

/// Waits and holds that are in no histogram, and why.
#[derive(Clone, Debug, Serialize)]
pub struct LostReport {
    /// Runs of probes that the kernel skipped; each shows as one of the others, too.
    pub missed: u64,
    /// Beginnings and ends that did not find each other, by reason.
    #[serde(flatten)]
    pub unpaired: BTreeMap<&'static str, u64>,
}

/// Some times.
#[derive(Clone, Debug, Serialize)]
pub struct TimesReport {
    /// How many, exact.
    pub count: u64,
    /// Their sum, exact.
    pub total_ns: u64,
    /// The mean.
    pub mean_ns: u64,
    /// Half of all do not exceed this; percentiles and the longest are rounded up by at most a quarter.
    pub p50_ns: u64,
    /// 90 of 100.
    pub p90_ns: u64,
    /// 99 of 100.
    pub p99_ns: u64,
    /// 999 of 1000.
    pub p999_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// Those that are not empty, from the shortest times on.
    pub buckets: Vec<BucketReport>,
}

/// One bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BucketReport {
    /// The shortest time in it.
    pub from_ns: u64,
    /// The shortest time after it; `null`: there is none.
    pub to_ns: Option<u64>,
    /// How many.
    pub count: u64,
}

impl TimesReport {
    fn new(times: &Times) -> Self {
        let count = times.count();
        Self {
            count,
            total_ns: times.total_ns(),
            mean_ns: times.total_ns().checked_div(count).unwrap_or(0),
            p50_ns: times.percentile(500),
            p90_ns: times.percentile(900),
            p99_ns: times.percentile(990),
            p999_ns: times.percentile(999),
            max_ns: times.longest_ns(),
            buckets: times
                .buckets()
                .map(|(from_ns, to_ns, count)| BucketReport {
                    from_ns,
                    to_ns: (to_ns != u64::MAX).then_some(to_ns),
                    count,
                })
                .collect(),
        }
    }
}

/// What a report is made from.
pub struct Inputs<'a> {
    /// What is known of the source.
    pub info: &'a SourceInfo,
    /// What the kernel summed up.
    pub sums: &'a Sums,
    /// At the end.
    pub losses: &'a Losses,
    /// When it ended (`CLOCK_MONOTONIC`).
    pub end_ns: u64,
    /// Why.
    pub ended: &'static str,
}

impl Report {
    /// Makes one.
    pub fn new(inputs: &Inputs<'_>) -> Self {
        let Inputs {
            info,
            sums,
            losses,
            end_ns,
            ended,
        } = inputs;
        let plain = |text: &str| outside::plain(text).into_owned();
        let times = |measure| TimesReport::new(sums.times(measure));
        Self {
            schema: SCHEMA,
            tracer_version: info.tracer_version.clone(),
            kernel: super::stats::Kernel {
                release: plain(&info.kernel.release),
                version: plain(&info.kernel.version),
                machine: plain(&info.kernel.machine),
                family: info.kernel.family,
            },
            filters: info.filters.iter().map(|filter| plain(filter)).collect(),
            start_ns: info.start_monotonic_ns,
            duration_ns: end_ns.saturating_sub(info.start_monotonic_ns),
            ended,
            holds: BTreeMap::from([
                ("mmap_read", times(Measure::HoldMmapRead)),
                ("mmap_write", times(Measure::HoldMmapWrite)),
                (
                    "vma_read",
                    TimesReport::new(&sums.both(Measure::HoldVmaFault, Measure::HoldVmaOther)),
                ),
            ]),
            vma_read_by_provenance: BTreeMap::from([
                ("derived", times(Measure::HoldVmaFault)),
                ("observed", times(Measure::HoldVmaOther)),
            ]),
            waits: BTreeMap::from([
                ("mmap_read", times(Measure::WaitMmapRead)),
                ("mmap_write", times(Measure::WaitMmapWrite)),
                ("vma_write", times(Measure::WaitVmaWrite)),
            ]),
            counts: by_name(sums, |one| !one.is_of_unpaired()),
            lost: LostReport {
                missed: losses.missed,
                unpaired: by_name(sums, Count::is_of_unpaired),
            },
            probes: ProbesReport::new(&losses.costs),
            unseen: info.unseen.clone(),
        }
    }

    /// As JSON.
    ///
    /// # Errors
    /// Of the formatter; there is no reason for any.
    pub fn to_json(&self) -> anyhow::Result<String> {
        Ok(outside::formats::json_pretty(self)? + "\n")
    }

    /// Waits and holds that are in no histogram.
    fn all_lost(&self) -> u64 {
        self.lost.unpaired.values().sum::<u64>() + self.lost.missed
    }
}

fn by_name(sums: &Sums, wanted: impl Fn(Count) -> bool) -> BTreeMap<&'static str, u64> {
    let all = Count::ALL.iter().filter(|&&one| wanted(one));
    all.map(|&one| (one.name(), sums.count(one))).collect()
}

/// What a count means, for people.
fn words(name: &str) -> &'static str {
    let found = Count::ALL.iter().find(|one| one.name() == name);
    found.map_or("", |one| match one {
        Count::VmaReadFails => "look-ups that gave no VMA: the task falls back to the mmap_lock",
        Count::MmapReadAcquires => "mmap_lock taken for reading",
        Count::MmapWriteAcquires => "mmap_lock taken for writing",
        Count::MmapFails => "mmap_lock not got: a failed trylock, or killed",
        Count::MmapDowngrades => "writers of the mmap_lock that went on as readers",
        Count::VmaWriteFails => "writers killed while they waited for a VMA's readers",
        Count::FaultsRetried => "faults that lost their VMA lock inside, to come again",
        Count::FaultsCompleted => "faults that lost their VMA lock inside, and were done",
        Count::FaultsMmapLock => "faults under the mmap_lock",
        Count::VmaUnbegun => "VMA read holds of which only the end was seen",
        Count::VmaUnended => "VMA read holds whose end was not seen",
        Count::MmapUnbegun => "mmap_lock holds of which only the end was seen",
        Count::MmapUnended => "mmap_lock holds whose end was not seen",
        Count::WaitUnbegun => "waits of which only the end was seen",
        Count::WaitUnended => "waits whose end was not seen",
        Count::Crowded => "begun, then lost: two threads share a place in the table",
    })
}

const MEASURED: [(&str, &str); 3] = [
    ("mmap_read", "mmap_lock, reading"),
    ("mmap_write", "mmap_lock, writing"),
    ("vma_read", "VMA, reading"),
];
const AWAITED: [(&str, &str); 3] = [
    ("mmap_read", "mmap_lock, for reading"),
    ("mmap_write", "mmap_lock, for writing"),
    ("vma_write", "VMA's readers, for writing"),
];

/// Writes the report for people.
///
/// # Errors
/// Those of `out`.
pub fn render(report: &Report, style: &Style, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "kernel {} {}   summed up in the kernel   {}",
        report.kernel.release,
        report.kernel.machine,
        duration(report.duration_ns)
    )?;
    if !report.filters.is_empty() {
        writeln!(out, "only {}", report.filters.join(", "))?;
    }
    if report.all_lost() > 0 {
        writeln!(
            out,
            "NOT ALL: {} beginnings or ends did not find each other; see LOST",
            count(report.all_lost())
        )?;
    }
    let (bold, plain) = if style.bold {
        ("\x1b[1m", "\x1b[0m")
    } else {
        ("", "")
    };
    let heading = |out: &mut dyn Write, title: &str| {
        writeln!(
            out,
            "\n{bold}{title:<28}{:>12}{:>11}{:>10}{:>10}{:>10}{:>10}{:>10}{plain}",
            "count", "sum", "mean", "half", "90 %", "99 %", "longest"
        )
    };
    heading(out, "HOLDS")?;
    for (name, words) in MEASURED {
        line(out, words, &report.holds[name])?;
    }
    let derived = &report.vma_read_by_provenance["derived"];
    if derived.count > 0 {
        line(out, "  by faults, end derived", derived)?;
        line(
            out,
            "  others, end observed",
            &report.vma_read_by_provenance["observed"],
        )?;
    }
    heading(out, "WAITS")?;
    for (name, words) in AWAITED {
        line(out, words, &report.waits[name])?;
    }
    writeln!(
        out,
        "counts, sums and means are exact; the rest is rounded up by at most a quarter"
    )?;
    for (kind, all, names) in [
        ("held", &report.holds, MEASURED),
        ("awaited", &report.waits, AWAITED),
    ] {
        for (name, words) in names {
            if all[name].count > 0 {
                writeln!(out, "\n{bold}{words}: how long {kind}{plain}")?;
                bars(out, &all[name].buckets)?;
            }
        }
    }
    writeln!(out, "\n{bold}COUNTS{plain}")?;
    for (name, number) in &report.counts {
        writeln!(out, "{:>14}  {}", count(*number), words(name))?;
    }
    writeln!(out, "\n{bold}LOST: in no count of holds or waits above{plain}")?;
    writeln!(
        out,
        "{:>14}  runs of probes that the kernel skipped; each is one of the following, too",
        count(report.lost.missed)
    )?;
    for (name, number) in &report.lost.unpaired {
        writeln!(out, "{:>14}  {}", count(*number), words(name))?;
    }
    if let Some(probes) = &report.probes {
        writeln!(
            out,
            "\n{bold}PROBES{plain}: {} of one CPU, measured for {}",
            ppm(probes.cpu_ppm),
            duration(probes.measured_ns)
        )?;
        for program in &probes.programs {
            writeln!(
                out,
                "{:<34}{:>14} runs{:>10} ns a run",
                program.program,
                count(program.runs),
                count(program.ns_a_run)
            )?;
        }
    }
    if !report.unseen.is_empty() {
        writeln!(out, "\n{bold}NOT SEEN on this kernel{plain}")?;
        for unseen in &report.unseen {
            writeln!(out, "{} in {}:", unseen.operation, unseen.function)?;
            for line in wrap(&unseen.reason, 76) {
                writeln!(out, "    {line}")?;
            }
        }
    }
    Ok(())
}

fn line(out: &mut dyn Write, words: &str, times: &TimesReport) -> io::Result<()> {
    let time = |ns: u64| {
        if times.count == 0 {
            "-".to_owned()
        } else {
            duration(ns)
        }
    };
    writeln!(
        out,
        "{words:<28}{:>12}{:>11}{:>10}{:>10}{:>10}{:>10}{:>10}",
        count(times.count),
        time(times.total_ns),
        time(times.mean_ns),
        time(times.p50_ns),
        time(times.p90_ns),
        time(times.p99_ns),
        time(times.max_ns)
    )
}

/// How wide the longest bar is.
const BAR: u64 = 50;

/// A bar for each power of two.
fn bars(out: &mut dyn Write, buckets: &[BucketReport]) -> io::Result<()> {
    let mut doublings: BTreeMap<u32, u64> = BTreeMap::new();
    for bucket in buckets {
        *doublings
            .entry(bucket.from_ns.checked_ilog2().unwrap_or(0))
            .or_default() += bucket.count;
    }
    let most = doublings.values().copied().max().unwrap_or(1).max(1);
    let first = doublings.keys().next().copied().unwrap_or(0);
    let last = doublings.keys().last().copied().unwrap_or(0);
    for at in first..=last {
        let number = doublings.get(&at).copied().unwrap_or(0);
        // What is there at all shows.
        let wide = u128::from(number) * u128::from(BAR) / u128::from(most);
        let wide = wide.max(u128::from(number > 0)) as usize;
        writeln!(
            out,
            "{:>10} ..{:>10} {:>14} {}",
            duration(if at == 0 { 0 } else { 1 << at }),
            duration(1 << (at + 1)),
            count(number),
            "#".repeat(wide)
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sums::tests::sums_of;

    fn report() -> Report {
        let info = SourceInfo {
            start_monotonic_ns: 1_000,
            filters: vec!["pid 7".to_owned()],
            ..SourceInfo::default()
        };
        let sums = sums_of(
            &[
                &[(Measure::HoldVmaFault, 1_000), (Measure::HoldVmaFault, 3_000)],
                &[(Measure::HoldVmaOther, 70_000), (Measure::WaitVmaWrite, 9)],
            ],
            &[(Count::VmaReadFails, 4), (Count::VmaUnended, 1)],
        );
        Report::new(&Inputs {
            info: &info,
            sums: &sums,
            losses: &Losses::default(),
            end_ns: 2_000_001_000,
            ended: "duration",
        })
    }

    #[test]
    fn every_count_is_in_one_place_and_in_words() {
        let report = report();
        assert_eq!(report.counts.len() + report.lost.unpaired.len(), Count::ALL.len());
        for one in Count::ALL {
            assert!(!words(one.name()).is_empty(), "{}", one.name());
        }
    }

    #[test]
    fn both_kinds_of_ends_make_one_sum() {
        let report = report();
        let vma = &report.holds["vma_read"];
        assert_eq!((vma.count, vma.total_ns, vma.mean_ns), (3, 74_000, 24_666));
        assert_eq!(report.vma_read_by_provenance["derived"].count, 2);
        assert_eq!(report.vma_read_by_provenance["observed"].count, 1);
        assert_eq!(report.duration_ns, 2_000_000_000);
        assert_eq!(vma.buckets.iter().map(|bucket| bucket.count).sum::<u64>(), 3);
    }

    #[test]
    fn people_see_what_is_missing() {
        let mut out = Vec::new();
        render(&report(), &Style::default(), &mut out).expect("memory");
        let text = String::from_utf8(out).expect("text");
        for shown in [
            "NOT ALL: 1 ",
            "only pid 7",
            "VMA, reading",
            "end derived",
            "24.6 µs",
            "#",
        ] {
            assert!(text.contains(shown), "no {shown} in\n{text}");
        }
    }

    #[test]
    fn the_schema_tells_of_each_field() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema/summary.md");
        let page = std::fs::read_to_string(page).expect("docs/schema/summary.md");
        let value = serde_json::to_value(report()).expect("JSON");
        fn names(value: &serde_json::Value, found: &mut Vec<String>) {
            if let serde_json::Value::Object(fields) = value {
                for (name, value) in fields {
                    found.push(name.clone());
                    names(value, found);
                }
            }
            for value in value.as_array().into_iter().flatten() {
                names(value, found);
            }
        }
        let mut found = Vec::new();
        names(&value, &mut found);
        for name in found {
            assert!(
                page.contains(&name),
                "docs/schema/summary.md does not tell of {name}"
            );
        }
    }
}
