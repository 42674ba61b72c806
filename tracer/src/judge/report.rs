//! What the judge found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::places::Places;
use super::spread::Quantiles;
use super::{Compared, Judge, Side, Spot, Tally};
use crate::info::{Losses, SourceInfo};

/// The schema's name; it changes with the meaning of a field.
const SCHEMA: &str = "tracer.judge.v1";

/// From when on events belong to a part of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Time of its first event, in nanoseconds.
    pub from_ns: u64,
    /// What it is called.
    pub name: String,
}

/// All that the judge says.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The kernel's release.
    pub kernel: String,
    /// Mechanisms that were left out of the plan.
    pub without: Vec<String>,
    /// Nothing is missed, inferred or invented, and nothing differs.
    pub exact: bool,
    /// All parts together.
    pub total: PartReport,
    /// Each part.
    pub parts: Vec<PartReport>,
    /// VMA read locks held, at all instants.
    pub vma_held: Compared,
    /// The same of `mmap_lock`.
    pub mmap_held: Compared,
    /// Holes in the recording.
    pub gaps: u64,
    /// Events that found the ring full.
    pub dropped: u64,
    /// Runs of probes that the kernel skipped.
    pub missed_runs: u64,
}

/// One part.
#[derive(Clone, Debug, Serialize)]
pub struct PartReport {
    /// Its name; empty for what comes before the first.
    pub name: String,
    /// Acquires of VMA read locks, those of temporary readers included.
    pub acquires: SideReport,
    /// Their releases.
    pub releases: SideReport,
    /// Temporary readers among what matched.
    pub temporaries: u64,
    /// Releases that are not observed, against the error that is stated for them.
    pub derived: DerivedReport,
    /// lockdep's events about writers that keep readers out: not judged.
    pub exclusive: u64,
    /// lockdep's releases without an acquire: the truth itself is broken.
    pub odd: u64,
    /// Holds that a gap tore apart: not judged.
    pub torn: u64,
}

/// Acquires, or releases.
#[derive(Clone, Debug, Serialize)]
pub struct SideReport {
    /// lockdep's.
    pub truth: u64,
    /// Those that we have, too.
    pub matched: u64,
    /// In percent; 100 only if it is all.
    pub percent: f64,
    /// Of those, known only to lie between two times: no probe saw them.
    pub inferred: u64,
    /// Those that we do not have.
    pub missed: u64,
    /// Ours that lockdep does not have.
    pub invented: u64,
    /// Held when the recording or what is known began: not judged.
    pub before: u64,
    /// The other half lies behind the end of the recording: not judged.
    pub cut_off: u64,
    /// Our time less the true one, in nanoseconds, by provenance.
    pub errors_ns: BTreeMap<&'static str, Quantiles>,
    /// Where what was missed happened.
    pub missed_at: BTreeMap<String, u64>,
    /// Where what was inferred happened.
    pub inferred_at: BTreeMap<String, u64>,
    /// Where what was invented was seen.
    pub invented_at: BTreeMap<String, u64>,
}

/// See [`super::Bounds`].
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct DerivedReport {
    /// Within the error that was stated.
    pub within_bound: u64,
    /// Not within it; an interrupt or another task came between.
    pub beyond_disturbed: u64,
    /// Not within it.
    pub beyond: u64,
    /// No error was stated.
    pub without_bound: u64,
}

impl Report {
    /// Of a judge that has seen all.
    pub(super) fn new(judge: &Judge, info: &SourceInfo, losses: &Losses, places: &Places<'_>) -> Self {
        let names = std::iter::once("").chain(judge.parts.iter().map(|part| part.name.as_str()));
        let parts: Vec<PartReport> = names
            .zip(&judge.tallies)
            .filter(|(name, tally)| !name.is_empty() || !tally.is_empty())
            .map(|(name, tally)| PartReport::new(name, tally, places))
            .collect();
        let mut all = Tally::default();
        for tally in &judge.tallies {
            all.add(tally);
        }
        let total = PartReport::new("total", &all, places);
        let (vma, mmap) = judge.held.found();
        Self {
            schema: SCHEMA,
            kernel: info.kernel.release.clone(),
            without: info.without.clone(),
            exact: total.is_exact() && vma.unexplained() + mmap.unexplained() == 0,
            total,
            parts,
            vma_held: vma.clone(),
            mmap_held: mmap.clone(),
            gaps: judge.gaps,
            dropped: losses.dropped(),
            missed_runs: losses.missed,
        }
    }

    /// As a table.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let without = if self.without.is_empty() {
            String::new()
        } else {
            format!(" without {}", self.without.join(", "))
        };
        let _ = writeln!(text, "Linux {}{without}, judged by lockdep", self.kernel);
        let _ = writeln!(
            text,
            "{:<18} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8}",
            "", "acquires", "matched", "releases", "matched", "inferred", "missed", "invented"
        );
        for part in self.parts.iter().chain([&self.total]) {
            part.line(&mut text);
        }
        self.total.places(&mut text);
        self.total.errors(&mut text);
        for (what, held) in [("VMA", &self.vma_held), ("mmap", &self.mmap_held)] {
            let _ = writeln!(
                text,
                "{what} locks held at {} instants ({} locks; {} changes): {} equal, {} in transition (longest {} ns), {} beyond, {} different, {} torn",
                held.instants,
                held.held,
                held.changed,
                held.equal,
                held.in_transition,
                held.longest_transition_ns,
                held.beyond,
                held.different,
                held.torn
            );
            for example in &held.examples {
                let _ = writeln!(text, "  {example}");
            }
        }
        let _ = writeln!(
            text,
            "{} gaps, {} events dropped, {} runs of probes skipped",
            self.gaps, self.dropped, self.missed_runs
        );
        text
    }
}

impl PartReport {
    fn new(name: &str, tally: &Tally, places: &Places<'_>) -> Self {
        Self {
            name: name.to_owned(),
            acquires: SideReport::new(&tally.acquires, places),
            releases: SideReport::new(&tally.releases, places),
            temporaries: tally.temporaries,
            derived: DerivedReport {
                within_bound: tally.bounds.within,
                beyond_disturbed: tally.bounds.disturbed,
                beyond: tally.bounds.beyond,
                without_bound: tally.bounds.unstated,
            },
            exclusive: tally.exclusive,
            odd: tally.odd,
            torn: tally.torn,
        }
    }

    /// Nothing missed, inferred or invented, and the truth is sound.
    pub fn is_exact(&self) -> bool {
        let sides = [&self.acquires, &self.releases];
        let bad = |side: &SideReport| side.missed + side.inferred + side.invented;
        self.odd == 0 && sides.iter().all(|side| bad(side) == 0)
    }

    fn line(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "{:<18} {:>9} {:>8}% {:>9} {:>8}% {:>8} {:>8} {:>8}",
            self.name,
            self.acquires.truth,
            percent(self.acquires.percent),
            self.releases.truth,
            percent(self.releases.percent),
            self.acquires.inferred + self.releases.inferred,
            self.acquires.missed + self.releases.missed,
            self.acquires.invented + self.releases.invented
        );
    }

    fn places(&self, text: &mut String) {
        for (what, list) in [
            ("missed acquires at", &self.acquires.missed_at),
            ("missed releases at", &self.releases.missed_at),
            ("releases inferred at", &self.releases.inferred_at),
            ("invented acquires at", &self.acquires.invented_at),
            ("invented releases at", &self.releases.invented_at),
        ] {
            for (place, count) in list {
                let _ = writeln!(text, "{what} {place}: {count}");
            }
        }
        let sides = [("acquires", &self.acquires), ("releases", &self.releases)];
        for (what, side) in sides {
            if side.before + side.cut_off > 0 {
                let _ = writeln!(
                    text,
                    "{what} not judged: {} from before, {} cut off at the end",
                    side.before, side.cut_off
                );
            }
        }
        if self.torn + self.odd > 0 {
            let _ = writeln!(
                text,
                "{} holds torn by gaps; {} releases of lockdep without an acquire",
                self.torn, self.odd
            );
        }
    }

    fn errors(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "{:<32} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "error in ns (ours - true)", "count", "min", "p50", "p99", "max"
        );
        for (what, side) in [("start", &self.acquires), ("end", &self.releases)] {
            for (provenance, q) in &side.errors_ns {
                let _ = writeln!(
                    text,
                    "{:<32} {:>9} {:>9} {:>9} {:>9} {:>9}",
                    format!("  {what}, {provenance}"),
                    q.count,
                    q.min,
                    q.p50,
                    q.p99,
                    q.max
                );
            }
        }
        let d = &self.derived;
        let _ = writeln!(
            text,
            "releases not observed: {} within their bound, {} beyond it but disturbed, {} beyond it, {} without a bound",
            d.within_bound, d.beyond_disturbed, d.beyond, d.without_bound
        );
    }
}

/// With one place behind the point, and 100.0 only for all.
fn percent(value: f64) -> String {
    format!("{:.1}", (value * 10.0).floor() / 10.0)
}

impl SideReport {
    fn new(side: &Side, places: &Places<'_>) -> Self {
        let named = |spots: &BTreeMap<Spot, u64>| {
            let mut named = BTreeMap::new();
            for (&spot, count) in spots {
                *named.entry(places.name(spot)).or_default() += count;
            }
            named
        };
        Self {
            truth: side.truth,
            matched: side.matched,
            percent: if side.truth == 0 {
                100.0
            } else {
                side.matched as f64 * 100.0 / side.truth as f64
            },
            inferred: side.inferred,
            missed: side.truth - side.matched,
            invented: side.invented,
            before: side.before,
            cut_off: side.cut_off,
            errors_ns: side
                .errors
                .iter()
                .map(|(provenance, spread)| (provenance.name(), spread.quantiles()))
                .collect(),
            missed_at: named(&side.missed_at),
            inferred_at: named(&side.inferred_at),
            invented_at: named(&side.invented_at),
        }
    }
}
