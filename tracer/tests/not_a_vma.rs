//! A probe at an instruction that finds no VMA there: whatever it was, some lock may have changed.

use tracer::info::SourceInfo;
use tracer::state::{AnomalyKind, Engine};
use tracer_common::site::FIRST_DYNAMIC;
use tracer_common::wire::{Event, Kind, Provenance, flag};

fn event(kind: Kind, ts_ns: u64) -> Event {
    let mut event = Event::synthetic(kind, ts_ns);
    event.header.pid = 7;
    event.header.tid = 7;
    event
}

fn odd(engine: &Engine) -> u64 {
    engine.totals().anomalies[AnomalyKind::NotAVma as usize]
}

#[test]
fn it_is_counted_and_nothing_is_certain_any_more() {
    let mut engine = Engine::new(&SourceInfo::default());
    let mut write = event(Kind::MmapAcquire, 100);
    write.header.flags = flag::MM | flag::WRITE;
    write.body.mm = 0xffff_8880_0000_1000;
    engine.apply(&write, &mut |_, _| {});
    let surely = |engine: &Engine| {
        engine
            .held_set()
            .map(|held| held.hold.certainty)
            .collect::<Vec<_>>()
    };
    assert_eq!(surely(&engine), [Provenance::Observed]);
    assert_eq!(odd(&engine), 0);

    let mut put = event(Kind::VmaReadRelease, 200);
    put.header.site = FIRST_DYNAMIC;
    put.header.flags = flag::READ_FAULT;
    engine.apply(&put, &mut |_, _| {});
    assert_eq!(odd(&engine), 1);
    assert_eq!(surely(&engine), [Provenance::Unknown]);
}

#[test]
fn a_field_that_could_not_be_read_is_no_such_thing() {
    let mut engine = Engine::new(&SourceInfo::default());
    let mut put = event(Kind::VmaReadRelease, 200);
    put.header.site = FIRST_DYNAMIC;
    put.header.flags = flag::VMA | flag::READ_FAULT;
    put.body.vma = 0xffff_8880_0000_2000;
    engine.apply(&put, &mut |_, _| {});
    assert_eq!(odd(&engine), 0);
}
