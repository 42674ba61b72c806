//! What tracer says, beside what is so: by lockdep's own tracepoints on the oracle kernel, and by the lock's own count
//! on stock kernels. Also a scenario of `cargo xtask test`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Row, thousands};
use crate::vm::{Guest, Tools};
use crate::{build, kernels, ui, ws};

pub(super) const ACCURACY: &str = "accuracy";
pub(super) const ACCOUNTING: &str = "accounting";

/// Kernels whose lock counts its readers.
pub(crate) const COUNTING: [&str; 8] = ["6.16", "6.17", "6.18", "6.19", "7.0", "7.1", "7.2", "7.3"];

/// What the oracle kernel is told to do without, by the name of the plan that comes of it.
pub(crate) const PLANS: [(&str, &str); 2] = [
    ("without-lockdep", "lockdep"),
    ("as-stock", "lockdep,kprobe-notrace"),
];

/// At least so many instants are looked at with each plan: with both, a million.
const INSTANTS: u64 = 500_000;

/// At least so many of a hundred observed counts are explained.
const CLOSED: f64 = 99.9;

/// All workloads, each in a form that ends soon under emulation: a name, and the command line.
const WORKLOADS: &[(&str, &str)] = &[
    ("anon", "anon -t 3 -p 64 -r 4"),
    ("anon-read", "anon-read -t 3 -p 64 -r 4"),
    ("shmem", "shmem -t 3 -p 64 -r 4"),
    ("file", "file -t 3 -p 64 -r 4"),
    ("file-io", "file-io -t 2 -p 8"),
    ("hugetlb", "hugetlb -t 2 -p 4"),
    ("swap", "swap -t 2 -p 32"),
    ("wp", "wp -p 64 -r 4"),
    ("fork", "fork -r 3"),
    ("mixed", "mixed -t 3 -r 3"),
    ("mprotect", "mprotect -t 3 -r 8"),
    ("munmap", "munmap -t 3 -r 8"),
    ("mremap", "mremap -t 3 -r 8"),
    ("stack", "stack -t 2 -p 32"),
    ("exit", "exit -r 3"),
    ("writer-edge", "writer --kind edge -p 256"),
    ("writer-whole", "writer --kind whole -p 256"),
    ("detach-unmap", "detach --kind unmap -r 40"),
    ("detach-replace", "detach --kind replace -r 40"),
    ("madvise-dontneed", "madvise-dontneed -t 3 -r 4"),
    ("madvise-free", "madvise-free -t 3 -r 4"),
    ("madvise-guard", "madvise-guard -t 3 -r 4"),
    ("proc-maps", "proc-maps --kind maps -t 3 -r 6"),
    ("proc-smaps", "proc-maps --kind smaps -t 3 -r 3"),
    ("proc-numa-maps", "proc-maps --kind numa_maps -t 3 -r 3"),
    ("procmap-query", "procmap-query -t 3 -r 8"),
    ("tcp-zerocopy", "tcp-zerocopy"),
    ("uffd-missing", "uffd-missing -t 2 -p 16"),
    ("uffd-wp", "uffd-wp -t 2 -p 16"),
    ("uffd-minor", "uffd-minor -t 2 -p 16"),
    ("uffd-copy", "uffd-copy -t 2 -p 32"),
    ("uffd-zeropage", "uffd-zeropage -t 2 -p 32"),
    ("uffd-continue", "uffd-continue -t 2 -p 32"),
    ("uffd-move", "uffd-move -t 2 -p 32"),
    ("uffd-poison", "uffd-poison -t 2 -p 16"),
    ("holder-read", "holder --kind read -d 300 -p 4096"),
    ("holder-write", "holder --kind write -d 300 -p 4096"),
    ("holder-fault", "holder --kind fault -d 300"),
    ("holder-mmap", "holder --kind mmap -d 300"),
    ("holder-uffd", "holder --kind uffd -d 300"),
    ("storm", "storm -t 3 -d 300"),
    ("tick", "tick -p 20"),
];

/// A workload that cannot run on the guest's kernel.
const IMPOSSIBLE: &str = "3";

/// What the guest has to have besides the usual.
pub(crate) fn prepare(guest: &mut Guest) -> Result<()> {
    guest
        .adds
        .push((build::guest_bin("stamp")?, "/usr/bin/stamp".to_owned()));
    guest.smp = 4;
    guest.mem = guest.mem.max(2048);
    guest.timeout = Duration::from_secs(900);
    Ok(())
}

/// Records all workloads, one after the other, with these options.
pub(crate) fn script(options: &str) -> String {
    let mut all = String::new();
    for (name, command) in WORKLOADS {
        all.push_str(&format!(
            "stamp /out/{name}.start workload {command} --json > /out/{name}.json 2> /out/{name}.err; echo $? > /out/{name}.code\n"
        ));
    }
    format!(
        "cat > /tmp/all <<'END'\n{all}END\n\
         for try in 1 2 3; do\n\
         rm -f /out/a.rec\n\
         tracer record {options} --buffer 64M -o /out/a.rec -- sh /tmp/all > /dev/null 2> /out/err || {{ cat /out/err >&2; exit 1; }}\n\
         tracer stats --json /out/a.rec > /out/stats.json || exit 1\n\
         grep -q '\"missed\": 0' /out/stats.json && break\n\
         done\n\
         cp /proc/kallsyms /out/kallsyms"
    )
}

/// Workloads that this kernel could not run, each with the reason.
///
/// # Errors
/// When one failed for any other reason.
pub(crate) fn not_run(out: &Path) -> Result<Vec<String>> {
    let mut impossible = Vec::new();
    for (name, _) in WORKLOADS {
        let text = |ending: &str| {
            let file = out.join(format!("{name}.{ending}"));
            fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
        };
        let said = text("err")?.trim().to_owned();
        match text("code")?.trim() {
            "0" => {}
            IMPOSSIBLE => impossible.push(said.lines().last().unwrap_or(name).to_owned()),
            code => anyhow::bail!("workload {name} ended with {code}: {said}"),
        }
    }
    Ok(impossible)
}

/// What the judge says of a recording that [`script`] made with `--truth`.
#[derive(Debug)]
pub(crate) struct Judged {
    report: Value,
    /// Workloads that could not run.
    pub(crate) impossible: Vec<String>,
}

impl Judged {
    /// Lets `tracer` judge what the guest left in `out`.
    pub(crate) fn new(tracer: &Path, out: &Path) -> Result<Self> {
        let impossible = not_run(out)?;
        let mut parts = String::new();
        for (name, _) in WORKLOADS {
            let start = fs::read_to_string(out.join(format!("{name}.start")))
                .with_context(|| format!("when {name} began"))?;
            parts.push_str(&format!("{} {name}\n", start.trim()));
        }
        let file = out.join("parts");
        fs::write(&file, parts).with_context(|| format!("writing {}", file.display()))?;
        let output = Command::new(tracer)
            .args(["judge", "--json", "--kallsyms"])
            .arg(out.join("kallsyms"))
            .arg("--parts")
            .arg(&file)
            .arg(out.join("a.rec"))
            .output()
            .context("starting tracer judge")?;
        let report = serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "tracer judge said no JSON, but: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
        Ok(Self { report, impossible })
    }

    fn number(&self, at: &str) -> u64 {
        self.report
            .pointer(at)
            .and_then(Value::as_u64)
            .unwrap_or_default()
    }

    /// `100.0 %` only of all.
    fn percent(&self, side: &str) -> String {
        let percent = self
            .report
            .pointer(&format!("/total/{side}/percent"))
            .and_then(Value::as_f64)
            .unwrap_or_default();
        format!("{:.1} %", (percent * 10.0).floor() / 10.0)
    }

    /// In a line.
    pub(crate) fn summary(&self) -> String {
        let both = |what: &str| {
            self.number(&format!("/total/acquires/{what}")) + self.number(&format!("/total/releases/{what}"))
        };
        format!(
            "acquires {} of {}, releases {} of {}, {} missed, {} inferred, {} invented; held sets differ at {} of {} instants (mmap_lock {} of {})",
            self.percent("acquires"),
            thousands(self.number("/total/acquires/truth")),
            self.percent("releases"),
            thousands(self.number("/total/releases/truth")),
            both("missed"),
            both("inferred"),
            both("invented"),
            self.number("/vma_held/different") + self.number("/vma_held/beyond"),
            thousands(self.number("/vma_held/instants")),
            self.number("/mmap_held/different") + self.number("/mmap_held/beyond"),
            thousands(self.number("/mmap_held/instants")),
        )
    }

    /// Fails unless every acquire and every release matched, none was invented, and there were some.
    pub(crate) fn matched(&self) -> Result<()> {
        let lost = ["gaps", "dropped", "missed_runs"].map(|what| self.number(&format!("/{what}")));
        ensure!(
            lost == [0; 3],
            "[gaps, dropped, missed] are {lost:?}: the recording is not whole"
        );
        for side in ["acquires", "releases"] {
            let of = |what: &str| self.number(&format!("/total/{side}/{what}"));
            ensure!(of("truth") > 1000, "only {} {side} by lockdep", of("truth"));
            ensure!(
                of("matched") == of("truth") && of("invented") == 0 && of("inferred") == 0,
                "{}\n{}",
                self.summary(),
                self.places().join("\n")
            );
        }
        ensure!(
            self.number("/total/odd") == 0,
            "lockdep's own events do not pair: {}",
            self.report["total"]["odd"]
        );
        Ok(())
    }

    /// Fails unless what was derived lies within the bound that is stated for it, but for interrupted tasks. An
    /// emulated processor also stands still without the guest's knowing: two in a hundred are let pass.
    pub(crate) fn bounds(&self) -> Result<()> {
        let of = |what: &str| self.number(&format!("/total/derived/{what}"));
        let (within, beyond, without) = (of("within_bound"), of("beyond"), of("without_bound"));
        let derived = &self.report["total"]["derived"];
        ensure!(without == 0, "no bound is stated for some: {derived}");
        ensure!(within > 1000, "too few derived releases: {derived}");
        ensure!(beyond * 50 <= within, "beyond the stated bound: {derived}");
        Ok(())
    }

    /// Fails unless the same locks are held at all instants, of which there have to be so many, and each difference is
    /// explained.
    pub(crate) fn held(&self) -> Result<()> {
        for what in ["vma_held", "mmap_held"] {
            let held = &self.report[what];
            let of = |field: &str| self.number(&format!("/{what}/{field}"));
            ensure!(
                of("instants") >= INSTANTS,
                "{what}: fewer than {INSTANTS} instants: {held}"
            );
            let settled = of("equal") + of("in_transition") + of("torn");
            ensure!(of("beyond") + of("different") == 0, "{what}: {held}");
            ensure!(settled == of("instants"), "{what}: instants are missing: {held}");
            ensure!(
                of("torn") * 1000 <= of("instants"),
                "{what}: too many cannot be judged: {held}"
            );
        }
        Ok(())
    }

    fn places(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for side in ["acquires", "releases"] {
            for what in ["missed_at", "inferred_at", "invented_at"] {
                let list = self.report["total"][side][what].as_object();
                for (place, count) in list.into_iter().flatten() {
                    lines.push(format!("{side} {} {place}: {count}", what.replace("_at", " at")));
                }
            }
        }
        lines
    }

    /// Everything, as a table.
    pub(crate) fn table(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{:<18}{:>9}{:>9}{:>10}{:>9}{:>9}{:>8}{:>10}",
            "", "acquires", "matched", "releases", "matched", "inferred", "missed", "invented"
        )];
        let parts = self.report["parts"].as_array().into_iter().flatten();
        for part in parts.chain([&self.report["total"]]) {
            let of = |side: &str, what: &str| part[side][what].as_u64().unwrap_or_default();
            let both = |what: &str| of("acquires", what) + of("releases", what);
            lines.push(format!(
                "{:<18}{:>9}{:>9}{:>10}{:>9}{:>9}{:>8}{:>10}",
                part["name"].as_str().unwrap_or_default(),
                of("acquires", "truth"),
                of("acquires", "matched"),
                of("releases", "truth"),
                of("releases", "matched"),
                both("inferred"),
                both("missed"),
                both("invented")
            ));
        }
        lines.extend(self.places());
        for (side, what) in [("acquires", "start"), ("releases", "end")] {
            let errors = self.report["total"][side]["errors_ns"].as_object();
            for (provenance, q) in errors.into_iter().flatten() {
                lines.push(format!(
                    "{what}, {provenance}: ours - true in ns: min {}, p50 {}, p99 {}, max {} of {}",
                    q["min"], q["p50"], q["p99"], q["max"], q["count"]
                ));
            }
        }
        lines.push(format!(
            "releases not observed: {}",
            self.report["total"]["derived"]
        ));
        for what in ["vma_held", "mmap_held"] {
            lines.push(format!("{what}: {}", self.report[what]));
        }
        lines.extend(self.impossible.iter().map(|why| format!("not run: {why}")));
        lines
    }
}

/// Whether the observed counts of a stock kernel are explained by what is known of its readers.
#[derive(Debug)]
pub(crate) struct Closed(Value);

impl Closed {
    /// From what `stats --json` said.
    pub(crate) fn new(out: &Path) -> Result<Self> {
        let text = fs::read_to_string(out.join("stats.json")).context("stats.json")?;
        let stats: Value = serde_json::from_str(&text).context("stats.json")?;
        let accounting = &stats["accounting"];
        ensure!(
            accounting.is_object(),
            "stats has no accounting: {}",
            stats["accounting"]
        );
        Ok(Self(accounting.clone()))
    }

    fn number(&self, what: &str) -> u64 {
        self.0[what].as_u64().unwrap_or_default()
    }

    fn percent(&self) -> f64 {
        self.number("closed") as f64 * 100.0 / self.number("checked").max(1) as f64
    }

    /// In a line.
    pub(crate) fn summary(&self) -> String {
        // Rare ones are hard to meet again: one says most of what there is to know.
        let first = self.0["first"]
            .get(0)
            .map_or_else(String::new, |first| format!(", such as {first}"));
        format!(
            "{:.3} % of {} closed, {} open {}{first}",
            (self.percent() * 1000.0).floor() / 1000.0,
            thousands(self.number("checked")),
            self.number("open"),
            self.0["open_by_reason"]
        )
    }

    /// Fails unless nearly all are, and there were some.
    pub(crate) fn required(&self) -> Result<()> {
        ensure!(self.number("checked") > 1000, "too little: {}", self.summary());
        ensure!(
            self.percent() >= CLOSED,
            "{}; the first: {}",
            self.summary(),
            self.0["first"]
        );
        Ok(())
    }
}

/// Boots a kernel, records, and hands what the guest left to `look`.
fn boot<T>(kernel: &str, options: &str, look: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let tools = Tools::get(true)?;
    let mut guest = Guest::new(kernels::get(kernel)?, tools);
    prepare(&mut guest)?;
    let scratch = ws::Scratch::new(Some(&ws::target().join("bench")))?;
    guest.out = Some(scratch.path().to_owned());
    let outcome = guest.sh(&script(options))?;
    outcome.ended_well()?;
    look(scratch.path())
}

/// Measures the row of the oracle kernel.
pub(super) fn run() -> Result<Vec<Row>> {
    let tracer = build::tracer()?;
    let mut notes = Vec::new();
    let mut figures = serde_json::Map::new();
    let mut measured = Vec::new();
    let mut met = true;
    for (name, without) in PLANS {
        let judged = ui::step(&format!("guest oracle: accuracy {name}"), || {
            boot("oracle", &format!("--truth --without {without}"), |out| {
                Judged::new(&tracer, out)
            })
        })?;
        for check in [judged.matched(), judged.held(), judged.bounds()] {
            if let Err(error) = check {
                met = false;
                notes.push(format!("{name}: {}", format!("{error:#}").replace('\n', "; ")));
            }
        }
        measured.push(format!("{name}: {}", judged.summary()));
        notes.extend(judged.table().iter().map(|line| format!("{name}: {line}")));
        figures.insert(name.to_owned(), judged.report);
    }
    Ok(vec![Row {
        name: ACCURACY,
        measured: measured.join("; "),
        required: Some("100.0 % of acquires and releases matched, none invented, held sets equal".to_owned()),
        met,
        method: "all workloads on the oracle kernel, recorded with --truth, judged by lockdep's own tracepoints",
        notes,
        figures: Value::Object(figures),
    }])
}

/// Measures the row of stock kernels.
pub(super) fn run_accounting() -> Result<Vec<Row>> {
    let mut notes = Vec::new();
    let mut figures = serde_json::Map::new();
    let mut least = 100.0_f64;
    let mut met = true;
    for kernel in COUNTING {
        let closed = ui::step(&format!("guest {kernel}: accounting"), || {
            boot(kernel, "", |out| {
                notes.extend(
                    not_run(out)?
                        .iter()
                        .map(|why| format!("{kernel}: not run: {why}")),
                );
                Closed::new(out)
            })
        })?;
        met &= closed.required().is_ok();
        least = least.min(closed.percent());
        notes.push(format!("{kernel}: {}", closed.summary()));
        figures.insert(kernel.to_owned(), closed.0);
    }
    Ok(vec![Row {
        name: ACCOUNTING,
        measured: format!("{:.3} % closed on the worst of {} kernels", least, COUNTING.len()),
        required: Some(format!("at least {CLOSED} % on each")),
        met,
        method: "all workloads on stock kernels; each observed vm_refcnt against 1 + known readers",
        notes,
        figures: json!(figures),
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(missed: u64, invented: u64) -> Judged {
        let side = json!({
            "truth": 2000, "matched": 2000 - missed, "missed": missed, "inferred": 0, "invented": invented,
            "percent": (2000 - missed) as f64 / 20.0, "missed_at": {"proc_get_vma+0x10": missed},
        });
        let held = json!({"instants": 500_200, "equal": 500_100, "in_transition": 100, "torn": 0, "beyond": 0, "different": 0});
        Judged {
            report: json!({
                "total": {"name": "total", "acquires": side, "releases": side, "odd": 0},
                "parts": [], "vma_held": held, "mmap_held": held,
                "gaps": 0, "dropped": 0, "missed_runs": 0,
            }),
            impossible: Vec::new(),
        }
    }

    #[test]
    fn one_of_two_thousand_is_not_all() {
        assert!(judged(0, 0).matched().is_ok());
        let missed = judged(1, 0);
        let error = missed.matched().unwrap_err().to_string();
        assert!(
            error.contains("99.9 %") && error.contains("proc_get_vma+0x10: 1"),
            "{error}"
        );
        assert!(judged(0, 1).matched().is_err());
        assert!(judged(0, 0).held().is_ok());
        for (field, value) in [
            ("instants", 499_999),
            ("beyond", 1),
            ("different", 1),
            ("equal", 500_000),
        ] {
            let mut other = judged(0, 0);
            other.report["mmap_held"][field] = json!(value);
            assert!(other.held().is_err(), "{field}");
        }
    }

    #[test]
    fn names_are_unique_and_the_script_runs_them_all() {
        let script = script("--truth");
        let mut names: Vec<_> = WORKLOADS.iter().map(|(name, _)| *name).collect();
        for name in &names {
            assert!(script.contains(&format!("/out/{name}.code")), "{name}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), WORKLOADS.len());
    }
}
