//! Whatever comes in: the engine never panics, its books balance, both sides of every hold agree,
//! and right after a gap it claims nothing.

use proptest::prelude::*;
use tracer::info::{SiteInfo, SourceInfo, UnseenInfo};
use tracer::state::{Blocks, Engine, Limits, Lock, RunState};
use tracer_common::site;
use tracer_common::wire::{Event, Kind, Provenance, flag};

/// Few tasks, VMAs and address spaces, so that they meet; the rest is anything.
fn any_event() -> impl Strategy<Value = Event> {
    (
        0..Kind::ALL.len(),
        (1u32..5, 1u32..3),
        (0u64..3, 0u64..4),
        any::<u16>(),
        prop_oneof![
            Just(0u32),
            Just(0x1040_0000),
            Just(0x1040_0400),
            Just(0x0040_0000),
            any::<u32>()
        ],
        (0u64..5, 0u16..3, 0u32..3),
    )
        .prop_map(|(kind, (tid, pid), (mm, vma), flags, arg, (step, cpu, site))| {
            // Gaps are rarer than one in sixteen, or hardly anything would ever be certain.
            let kind = match Kind::ALL[kind] {
                Kind::Gap if flags % 4 != 0 => Kind::MmapAcquire,
                kind => kind,
            };
            let mut event = Event::synthetic(kind, step);
            event.header.cpu = cpu;
            event.header.tid = tid;
            // Mostly one process a thread.
            event.header.pid = if flags % 8 == 0 { pid } else { tid };
            event.header.site = site;
            event.header.flags = flags & 0x3fff | if flags % 16 == 0 { 0 } else { flag::MM | flag::VMA };
            event.body.mm = 0x100 * mm;
            event.body.vma = 0x1000 * vma;
            event.body.arg = arg;
            event.body.mm_lock_seq = arg >> 5 & 7;
            if matches!(kind, Kind::TaskFork | Kind::TaskExec | Kind::SchedWake) {
                event.body.arg = arg % 5;
                event.body.vm_refcnt = pid;
            }
            event
        })
}

/// How releases are seen.
#[derive(Clone, Copy, Debug)]
enum Seen {
    /// Not at all.
    Nowhere,
    /// Each at its own place.
    Everywhere,
    /// As on a stock kernel: at their places, but for faults.
    Mixed,
    /// The same, and some are not seen.
    MixedWithHoles,
    /// By lockdep.
    Lockdep,
}

const WAYS: [Seen; 5] = [
    Seen::Nowhere,
    Seen::Everywhere,
    Seen::Mixed,
    Seen::MixedWithHoles,
    Seen::Lockdep,
];

fn engine(seen: Seen, limits: Limits) -> Engine {
    let mut info = SourceInfo::default();
    let observed = SiteInfo {
        provenance: "observed".into(),
        ..SiteInfo::default()
    };
    info.sites
        .resize(site::FIRST_DYNAMIC as usize + 1, observed.clone());
    let mut attach = |at: u32, kind: Kind| {
        info.sites[at as usize].operation = kind.name().into();
        info.sites[at as usize].attached = true;
    };
    match seen {
        Seen::Nowhere => {}
        Seen::Everywhere => attach(site::VMA_REFCOUNT_PUT, Kind::VmaReadRelease),
        Seen::Mixed | Seen::MixedWithHoles => {
            attach(site::USER, Kind::VmaReadRelease);
            attach(site::FIRST_DYNAMIC, Kind::VmaReadRelease);
        }
        Seen::Lockdep => attach(site::LOCKDEP, Kind::LockdepAcquire),
    }
    if matches!(seen, Seen::MixedWithHoles) {
        info.unseen.push(UnseenInfo {
            operation: Kind::VmaReadRelease.name().into(),
            ..UnseenInfo::default()
        });
    }
    Engine::with_limits(&info, limits)
}

fn check(engine: &Engine) {
    let held = engine.held();
    for lock in Lock::ALL {
        let books = &engine.totals().balance[lock as usize];
        assert_eq!(
            books.acquires + books.unknown_starts + books.converted_in,
            books.releases + books.converted_out + books.lost + held[lock as usize],
            "books of {} do not balance",
            lock.name()
        );
        let totals = engine.totals();
        let by = |counts: &[[u64; 4]; 4]| counts[lock as usize].iter().sum::<u64>();
        assert_eq!(by(&totals.acquires_by), books.acquires);
        assert_eq!(by(&totals.releases_by), books.releases);
        assert_eq!(
            by(&totals.holds_by),
            totals.holds[lock as usize].count() + totals.holds_unknown[lock as usize]
        );
    }
    engine.audit().unwrap();
    let mut vma_reads = 0;
    let mut mmap_reads = 0;
    let mut mmap_writes = 0;
    for task in engine.tasks() {
        let tid = task.task().tid;
        for hold in task.holds() {
            match hold.lock {
                Lock::VmaRead => {
                    vma_reads += 1;
                    let vma = engine.vmas().find(|vma| vma.address == hold.vma);
                    assert!(vma.is_some_and(|vma| vma.readers().any(|reader| reader == tid)));
                }
                Lock::MmapRead => {
                    mmap_reads += 1;
                    let mm = engine.mms().find(|mm| mm.address == hold.mm);
                    assert!(mm.is_some_and(|mm| mm.readers().any(|reader| reader == tid)));
                }
                Lock::MmapWrite => {
                    mmap_writes += 1;
                    let mm = engine.mms().find(|mm| mm.address == hold.mm);
                    assert!(mm.is_some_and(|mm| mm.writer() == Some(tid)));
                }
                Lock::VmaWrite => {}
            }
        }
        let run = task.run();
        assert!(run.state == RunState::Unknown || run.certainty != Provenance::Unknown);
        for blocker in task.blockers() {
            let other = engine.task(blocker.tid).unwrap();
            match blocker.why {
                Blocks::Holds(hold) => assert!(other.holds().any(|held| held == hold)),
                Blocks::Ahead(wait) => assert!(other.waits().any(|waits| waits == wait)),
            }
        }
        for wait in task.waits() {
            if wait.lock == Lock::VmaWrite {
                continue;
            }
            let mm = engine.mms().find(|mm| mm.address == wait.mm);
            assert!(mm.is_some_and(|mm| mm.waiters().any(|waiter| waiter == tid)));
        }
    }
    assert_eq!(
        vma_reads,
        engine.vmas().map(|vma| vma.readers().count()).sum::<usize>()
    );
    assert_eq!(
        mmap_reads,
        engine.mms().map(|mm| mm.readers().count()).sum::<usize>()
    );
    assert_eq!(
        mmap_writes,
        engine.mms().filter(|mm| mm.writer().is_some()).count()
    );
}

fn claims_nothing(engine: &Engine) {
    for task in engine.tasks() {
        assert!(task.holds().all(|hold| hold.certainty == Provenance::Unknown));
        assert!(task.waits().all(|wait| wait.certainty == Provenance::Unknown));
        assert_eq!(task.run().state, RunState::Unknown);
    }
}

/// With `--only` the kernel sends the starts of things without their ends: nothing may grow by that.
#[test]
fn one_kind_alone_does_not_pile_up() {
    for &kind in Kind::ALL {
        for seen in WAYS {
            let mut engine = engine(
                seen,
                Limits {
                    tasks: 4,
                    vmas: 64,
                    mms: 64,
                },
            );
            for at in 0..20_000u64 {
                let mut event = Event::synthetic(kind, at);
                event.header.tid = 7;
                event.header.flags = flag::MM | flag::VMA;
                event.body.mm = 0x1000 + at % 100;
                event.body.vma = 0x10_0000 + at;
                event.body.arg = if at % 2 == 0 { 0x1000_0000 } else { 0 };
                engine.apply(&event, &mut |_, _| {});
            }
            check(&engine);
            for task in engine.tasks() {
                assert!(task.holds().filter(|hold| hold.lock != Lock::VmaWrite).count() <= 64);
                assert!(task.waits().count() <= 4);
                assert!(task.frames().len() <= 8);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_stream_leaves_a_consistent_state(
        events in proptest::collection::vec(any_event(), 1..200),
        way in 0..WAYS.len(),
        tight: bool,
    ) {
        let limits = if tight { Limits { tasks: 2, vmas: 2, mms: 2 } } else { Limits::default() };
        let mut engine = engine(WAYS[way], limits);
        let mut ts_ns = 0;
        let (mut total, mut derived) = (0u64, 0u64);
        for (seq, event) in (0u32..).zip(&events) {
            ts_ns += event.header.ts_ns;
            let mut event = *event;
            event.header.ts_ns = ts_ns;
            event.header.seq = seq;
            engine.apply(&event, &mut |out, meta| {
                total += 1;
                derived += u64::from(meta.derived);
                assert_eq!((out.header.seq, out.header.ts_ns), (seq, ts_ns));
            });
            check(&engine);
            if event.kind == Kind::Gap {
                claims_nothing(&engine);
            }
        }
        let totals = engine.totals();
        prop_assert_eq!(totals.events(), total);
        prop_assert_eq!(totals.derived, derived);
        prop_assert_eq!(totals.received + totals.gaps, events.len() as u64);
        prop_assert_eq!(totals.by_provenance.iter().sum::<u64>(), total);
    }

    /// What starts in the open and meets no other task never looks wrong, and a gap anywhere in it
    /// never makes it look wrong.
    #[test]
    fn a_gap_is_never_taken_for_an_anomaly(
        operations in proptest::collection::vec((1u32..4, 0u8..8), 1..60),
        lost in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut events = Vec::new();
        for &(tid, what) in &operations {
            operation(&mut events, tid, what);
        }
        let mut gaps: Vec<usize> = lost.iter().map(|index| index.index(events.len())).collect();
        gaps.sort_unstable();
        gaps.dedup();
        for &at in &gaps {
            events[at] = Event::synthetic(Kind::Gap, 0);
            events[at].body.arg = 1;
        }
        for seen in [Seen::Nowhere, Seen::Everywhere, Seen::MixedWithHoles] {
            let mut engine = engine(seen, Limits::default());
            for (ts_ns, event) in (1u64..).zip(&events) {
                let mut event = *event;
                event.header.ts_ns = ts_ns;
                if event.kind == Kind::VmaReadRelease && matches!(seen, Seen::Nowhere) {
                    continue;
                }
                engine.apply(&event, &mut |_, _| {});
                check(&engine);
            }
            prop_assert_eq!(engine.totals().anomalies.iter().sum::<u64>(), 0, "{:?}", engine.anomalies());
        }
    }
}

/// One whole operation, as the kernel would show it; each task has an address space of its own.
fn operation(events: &mut Vec<Event>, tid: u32, what: u8) {
    let mut push = |kind: Kind, flags: u16, arg: u32| {
        let mut event = Event::synthetic(kind, 0);
        event.header.tid = tid;
        event.header.pid = tid;
        event.header.flags = flag::MM | flags;
        event.body.mm = u64::from(tid) << 12;
        event.body.vma = u64::from(tid) << 20;
        event.body.arg = arg;
        events.push(event);
    };
    let vma = flag::VMA;
    match what {
        0 => {
            push(Kind::VmaReadAcquire, vma, 0);
            push(Kind::FaultBegin, vma, 0x1040_0000);
            push(Kind::FaultEnd, vma, 0x1040_0000);
            push(Kind::VmaReadRelease, vma, 0);
        }
        1 => {
            push(Kind::VmaReadAcquire, vma, 0);
            push(Kind::FaultBegin, vma, 0x1040_0000);
            push(Kind::VmaReadRelease, vma, 0);
            push(Kind::FaultEnd, vma, 0x1040_0400);
            push(Kind::MmapStart, 0, 0);
            push(Kind::MmapAcquire, 0, 0);
            push(Kind::FaultBegin, vma, 0x0040_0000);
            push(Kind::FaultEnd, vma, 0x0040_0000);
            push(Kind::MmapRelease, 0, 0);
        }
        2 => {
            push(Kind::MmapStart, flag::WRITE, 0);
            push(Kind::MmapAcquire, flag::WRITE, 0);
            push(Kind::VmaWriteStart, vma, 0);
            push(Kind::VmaWriteAcquire, vma, 0);
            push(Kind::MmapRelease, flag::WRITE, 0);
        }
        // The whole life of a task, and another one under the same number.
        5 => {
            push(Kind::SchedOut, 0, 2);
            push(Kind::SchedWake, 0, tid);
            push(Kind::SchedIn, 0, 0);
            push(Kind::TaskExec, 0, tid);
            push(Kind::MmapStart, flag::WRITE, 0);
            push(Kind::MmapAcquire, flag::WRITE, 0);
            push(Kind::SchedOut, 0, 0);
            push(Kind::SchedIn, 0, 0);
            push(Kind::MmapRelease, flag::WRITE, 0);
            push(Kind::TaskExit, 0, 1);
            push(Kind::MmapStart, 0, 0);
            push(Kind::MmapAcquire, 0, 0);
            push(Kind::Stack, 0, Kind::MmapAcquire as u32);
            push(Kind::MmapRelease, 0, 0);
            push(Kind::TaskFork, 0, tid);
        }
        // A VMA is unmapped and its memory used again, under one lock.
        6 => {
            push(Kind::MmapStart, flag::WRITE, 0);
            push(Kind::MmapAcquire, flag::WRITE, 0);
            push(Kind::VmaWriteStart, vma, 0);
            push(Kind::VmaWriteAcquire, vma, 0);
            push(Kind::VmaDetach, vma, 0);
            push(Kind::VmaWriteStart, vma, 0);
            push(Kind::VmaWriteAcquire, vma, 0);
            push(Kind::VmaAttach, vma, 0);
            push(Kind::MmapRelease, flag::WRITE, 0);
        }
        3 => {
            push(Kind::MmapStart, flag::WRITE, 0);
            push(Kind::MmapAcquire, flag::WRITE, 0);
            push(Kind::MmapDowngrade, 0, 0);
            push(Kind::MmapRelease, 0, 0);
        }
        _ => {
            push(Kind::MmapStart, flag::WRITE, 0);
            push(Kind::MmapFail, flag::WRITE, 0);
            push(Kind::VmaReadFail, 0, 0);
        }
    }
}
