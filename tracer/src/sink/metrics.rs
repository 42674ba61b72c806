//! Numbers for monitoring: what the engine counted, as families with a handful of labels each.
//!
//! No label has a value that somebody else can choose, such as a command's name or a number of a task, so that there are
//! always the same few hundred series. Units are the base units: seconds.

mod otlp;
mod text;

use tracer_common::wire::{Kind, Reason};

use crate::info::{Losses, SourceInfo};
use crate::order::Order;
use crate::state::{Engine, Histogram, Lock};

pub use otlp::otlp;
pub use text::{Dialect, text};

/// Upper bounds of the buckets of all histograms, as powers of two of nanoseconds: 1 µs to 17 s. The engine's own, finer
/// buckets end there, too, so that these counts are exact.
const BOUNDS_LOG2: [u32; 13] = [10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34];

/// What a family is.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Only grows.
    Counter(Vec<(Label, u64)>),
    /// Goes up and down.
    Gauge(Vec<(Label, u64)>),
    /// Durations.
    Seconds(Vec<(Label, Distribution)>),
}

/// A label's name and value; `None`: the series has no label.
pub type Label = Option<(&'static str, &'static str)>;

/// Durations in buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// By bucket, the last one being what is longer than all bounds.
    pub buckets: Vec<u64>,
    /// In nanoseconds.
    pub total_ns: u64,
    /// How many.
    pub count: u64,
}

/// Series that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Without the suffixes that formats want.
    pub name: &'static str,
    /// In a sentence.
    pub help: &'static str,
    /// The series.
    pub values: Values,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Name, value.
    pub about: Vec<(&'static str, String)>,
    /// When counting began, in nanoseconds since 1970.
    pub start_ns: u64,
    /// All families, always the same ones in the same order.
    pub families: Vec<Family>,
}

impl Metrics {
    /// What is known after the latest event.
    pub fn new(info: &SourceInfo, engine: &Engine, order: Option<&Order>, losses: &Losses) -> Self {
        let totals = engine.totals();
        let faults = engine.all_tasks().faults();
        let by_lock = |value: &dyn Fn(usize) -> u64| {
            Lock::ALL
                .iter()
                .map(|&lock| (Some(("lock", lock.name())), value(lock as usize)))
                .collect::<Vec<_>>()
        };
        let seconds = |histograms: &[Histogram; 4]| {
            let one = |&lock: &Lock| {
                let found = Distribution::new(&histograms[lock as usize]);
                (Some(("lock", lock.name())), found)
            };
            Values::Seconds(Lock::ALL.iter().map(one).collect())
        };
        let held = engine.held();
        let missing = order.map_or(totals.missing, |order| order.stats().missing());
        let family = |name, help, values| Family { name, help, values };
        let kinds = Kind::ALL
            .iter()
            .map(|&kind| (Some(("kind", kind.name())), totals.of_kind(kind)));
        let reasons = Reason::ALL
            .iter()
            .map(|&reason| (Some(("reason", reason.name())), totals.fails[reason as usize]));
        let result = |name, count| (Some(("result", name)), count);
        let cause = |name, count| (Some(("cause", name)), count);
        Self {
            about: vec![
                ("version", info.tracer_version.clone()),
                ("kernel", info.kernel.release.clone()),
                ("host", info.host.clone()),
            ],
            start_ns: info.start_realtime_ns,
            families: vec![
                family(
                    "tracer_events",
                    "Events, by kind.",
                    Values::Counter(kinds.collect()),
                ),
                family(
                    "tracer_lock_acquires",
                    "Times that a lock was taken, by lock and mode.",
                    Values::Counter(by_lock(&|at| totals.balance[at].acquires)),
                ),
                family(
                    "tracer_wait_seconds",
                    "Waits of known length for a lock, those included that nobody was in the way of.",
                    seconds(&totals.waits),
                ),
                family(
                    "tracer_hold_seconds",
                    "Holds of known length of a lock.",
                    seconds(&totals.holds),
                ),
                family(
                    "tracer_waits_unknown",
                    "Waits whose length is not known.",
                    Values::Counter(by_lock(&|at| totals.waits_unknown[at])),
                ),
                family(
                    "tracer_holds_unknown",
                    "Holds whose length is not known, or only bounded.",
                    Values::Counter(by_lock(&|at| totals.holds_unknown[at])),
                ),
                family(
                    "tracer_locks_held",
                    "Locks that are held now, doubtful ones included.",
                    Values::Gauge(by_lock(&|at| held[at])),
                ),
                family(
                    "tracer_vma_read_failures",
                    "Look-ups of a VMA that did not get its lock, by reason.",
                    Values::Counter(reasons.collect()),
                ),
                family(
                    "tracer_faults",
                    "Page faults, by how they ended.",
                    Values::Counter(vec![
                        result("vma_lock", faults.vma_lock),
                        result("retried", faults.retried),
                        result("mmap_lock", faults.mmap_lock),
                        result("error", faults.error),
                        result("abandoned", faults.abandoned),
                    ]),
                ),
                family(
                    "tracer_lost_events",
                    "Events that are not there: found the ring buffer full, are missing by their numbers (in which the \
                     former are, too), or runs of a probe that the kernel skipped.",
                    Values::Counter(vec![
                        cause("ring_full", losses.dropped()),
                        cause("missing", missing),
                        cause("probe_skipped", losses.missed),
                    ]),
                ),
                family(
                    "tracer_anomalies",
                    "Things that should not be.",
                    Values::Counter(vec![(None, totals.anomalies.iter().sum())]),
                ),
            ],
        }
    }

    /// All series of a family together, for tests.
    #[cfg(test)]
    fn find(&self, name: &str) -> &Values {
        &self
            .families
            .iter()
            .find(|family| family.name == name)
            .unwrap()
            .values
    }
}

impl Distribution {
    fn new(histogram: &Histogram) -> Self {
        let mut buckets = vec![0; BOUNDS_LOG2.len() + 1];
        for (_, high, count) in histogram.buckets() {
            let at = BOUNDS_LOG2.partition_point(|&log2| high > 1 << log2);
            buckets[at] += count;
        }
        Self {
            buckets,
            total_ns: histogram.total_ns(),
            count: histogram.count(),
        }
    }
}

/// The bounds in seconds.
#[expect(clippy::cast_precision_loss, reason = "powers of two are exact")]
fn bounds_s() -> [f64; BOUNDS_LOG2.len()] {
    BOUNDS_LOG2.map(|log2| (1u64 << log2) as f64 / 1e9)
}

/// Nanoseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "seconds as floating point")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_common::wire::{Event, flag};

    pub(super) fn sample() -> Metrics {
        let info = SourceInfo {
            host: "a\"b\\c\nd".into(),
            ..SourceInfo::default()
        };
        let mut engine = Engine::new(&info);
        let mut ts_ns = 1_000;
        for (kind, ns) in [
            (Kind::MmapStart, 0),
            (Kind::MmapAcquire, 1_024),
            (Kind::MmapRelease, 1_025),
        ] {
            ts_ns += ns;
            let mut event = Event::synthetic(kind, ts_ns);
            event.header.tid = 7;
            event.header.flags = flag::MM | flag::WRITE;
            event.body.mm = 0xabc;
            engine.apply(&event, &mut |_, _| {});
        }
        Metrics::new(&info, &engine, None, &Losses::default())
    }

    #[test]
    fn durations_are_in_the_bucket_of_their_bound() {
        let metrics = sample();
        let Values::Seconds(waits) = metrics.find("tracer_wait_seconds") else {
            panic!("no histogram")
        };
        let write = &waits[Lock::MmapWrite as usize].1;
        assert_eq!((write.count, write.total_ns), (1, 1_024));
        let Values::Seconds(holds) = metrics.find("tracer_hold_seconds") else {
            panic!("no histogram")
        };
        assert_eq!(holds[Lock::MmapWrite as usize].1.buckets[1], 1);
    }

    #[test]
    fn there_are_always_the_same_series() {
        let count = |metrics: &Metrics| {
            metrics
                .families
                .iter()
                .map(|family| match &family.values {
                    Values::Counter(all) | Values::Gauge(all) => all.len(),
                    Values::Seconds(all) => all.len() * (BOUNDS_LOG2.len() + 3),
                })
                .sum::<usize>()
        };
        let info = SourceInfo::default();
        let empty = Metrics::new(&info, &Engine::new(&info), None, &Losses::default());
        assert_eq!(count(&empty), count(&sample()));
        assert!(count(&empty) < 300);
    }
}
