//! A hole that shows late explains what seemed odd since it began.

use tracer::info::SourceInfo;
use tracer::state::Engine;
use tracer_common::wire::{Event, Kind, flag};

fn writer(kind: Kind, tid: u32, ts_ns: u64) -> Event {
    let mut event = Event::synthetic(kind, ts_ns);
    event.header.flags = flag::MM | flag::WRITE;
    event.header.pid = tid;
    event.header.tid = tid;
    event.body.mm = 0xffff_8880_0000_1000;
    event
}

/// Two writers at once, and then a gap that says since when events are missing.
fn anomalies_after_gap_since(from_ns: u64) -> usize {
    let mut engine = Engine::new(&SourceInfo::default());
    let mut gap = Event::synthetic(Kind::Gap, 400);
    gap.body.arg = 1;
    gap.body.vm_start = from_ns;
    gap.body.vm_end = 500;
    for event in [
        writer(Kind::MmapStart, 1, 100),
        writer(Kind::MmapAcquire, 1, 110),
        writer(Kind::MmapStart, 2, 290),
        writer(Kind::MmapAcquire, 2, 300),
    ] {
        engine.apply(&event, &mut |_, _| {});
    }
    assert!(!engine.anomalies().is_empty(), "two writers at once are odd");
    engine.apply(&gap, &mut |_, _| {});
    let total: u64 = engine.totals().anomalies.iter().sum();
    assert_eq!(total, engine.anomalies().len() as u64);
    engine.anomalies().len()
}

#[test]
fn a_gap_explains_what_seemed_odd_since_it_began() {
    assert_eq!(anomalies_after_gap_since(200), 0);
}

#[test]
fn a_gap_explains_nothing_that_was_odd_before() {
    assert!(anomalies_after_gap_since(350) > 0);
}

#[test]
fn a_gap_takes_back_more_findings_than_are_kept_with_their_events() {
    let mut engine = Engine::new(&SourceInfo::default());
    // Everybody writes at once.
    for tid in 1..=200 {
        engine.apply(
            &writer(Kind::MmapAcquire, tid, 1000 + u64::from(tid)),
            &mut |_, _| {},
        );
    }
    let count = |engine: &Engine| engine.totals().anomalies.iter().sum::<u64>();
    assert!(count(&engine) > 100, "{}", count(&engine));
    let mut gap = Event::synthetic(Kind::Gap, 2000);
    gap.body.arg = 1;
    gap.body.vm_start = 900;
    engine.apply(&gap, &mut |_, _| {});
    assert_eq!(count(&engine), 0);
    assert!(engine.anomalies().is_empty());
}
