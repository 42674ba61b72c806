//! What an event goes through, for benchmarks: each a whole pass, which fails if it came out wrong.

use std::hint::black_box;
use std::time::Instant;

use tracer::check::Checker;
use tracer::contention::Contention;
use tracer::info::{SiteInfo, SourceInfo};
use tracer::state::{Engine, Lock, What};
use tracer_common::wire::Event;

/// A source whose only site is seen at its own place.
pub(crate) fn info() -> SourceInfo {
    SourceInfo {
        sites: vec![SiteInfo {
            provenance: "observed".into(),
            ..SiteInfo::default()
        }],
        ..SourceInfo::default()
    }
}

/// The engine alone; events that came out of it.
pub(crate) fn engine(info: &SourceInfo, events: &[Event]) -> u64 {
    let mut engine = Engine::new(info);
    let mut count = 0;
    for event in events {
        engine.apply(event, &mut |_, _| count += 1);
    }
    assert_eq!(engine.totals().anomalies.iter().sum::<u64>(), 0);
    count
}

/// With statistics; holds of VMAs.
pub(crate) fn statistics(info: &SourceInfo, events: &[Event]) -> u64 {
    let mut engine = Engine::new(info);
    engine.keep_notes();
    let mut contention = Contention::default();
    for event in events {
        engine.apply(event, &mut |_, _| {});
        contention.observe(&engine, event);
    }
    contention.finish(&engine);
    let row = contention.groups.all.get(What::Hold, Lock::VmaRead);
    row.map_or(0, |row| row.count)
}

/// With all checks; verdicts that were asked for.
pub(crate) fn checks(info: &SourceInfo, events: &[Event]) -> u64 {
    let mut engine = Engine::new(info);
    let mut checker = Checker::new(info);
    for event in events {
        checker.apply(&mut engine, event, &mut |_, _| {});
    }
    checker.finish();
    assert_eq!(
        checker.violations().total(),
        0,
        "{:?}",
        checker.violations().kept()
    );
    checker.assertions().rows().iter().map(|row| row.evaluated).sum()
}

/// Seconds of the best of three passes.
pub(crate) fn best(mut run: impl FnMut() -> u64) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        black_box(run());
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}
