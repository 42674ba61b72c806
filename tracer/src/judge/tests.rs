//! Small made-up streams, each with one thing wrong, or right.

use tracer_common::wire::{Event, Kind, Provenance, acquire_arg, flag, release_arg};

use super::command::parse_parts;
use super::places::Places;
use super::{Judge, Part, Report};
use crate::info::{Losses, SiteInfo, SourceInfo};
use crate::sink::address::Addresses;

const VMA: u64 = 0x1000;
const OTHER: u64 = 0x2000;
const MM: u64 = 0x100;

/// Lockdep's and ours, by short names.
#[derive(Clone, Copy)]
enum Is {
    /// lockdep: a reader has it.
    Read,
    /// lockdep: a writer keeps readers out.
    Write,
    /// lockdep: it is given back; nothing else has run for so long.
    Gone(u64),
    /// Ours.
    Acquire,
    Release,
    Temporary,
    Gap,
}
use Is::{Acquire, Gap, Gone, Read, Release, Temporary, Write};

fn event(ts_ns: u64, tid: u32, vma: u64, is: Is) -> Event {
    let (kind, arg) = match is {
        Read => (Kind::LockdepAcquire, acquire_arg(0x40, true)),
        Write => (Kind::LockdepAcquire, acquire_arg(0x40, false)),
        Gone(undisturbed) => (Kind::LockdepRelease, release_arg(0x80, undisturbed)),
        Acquire => (Kind::VmaReadAcquire, 0),
        Release => (Kind::VmaReadRelease, 0),
        Temporary => (Kind::VmaReadTemporary, 0),
        Gap => (Kind::Gap, 1),
    };
    let mut event = Event::synthetic(kind, ts_ns);
    event.header.tid = tid;
    event.header.pid = 1;
    event.header.site = 32;
    if kind != Kind::Gap {
        event.header.flags = flag::VMA | flag::MM;
        event.body.vma = vma;
        event.body.mm = MM;
    }
    event.body.arg = arg;
    event
}

/// A plan in which each release is seen at its own place.
fn info() -> SourceInfo {
    let mut sites = vec![SiteInfo::default(); 33];
    sites[32] = SiteInfo {
        operation: "vma_read_release".to_owned(),
        function: "vma_refcount_put".to_owned(),
        place: "proc_get_vma+0x10".to_owned(),
        mechanism: "kprobe".to_owned(),
        provenance: "observed".to_owned(),
        attached: true,
        ..SiteInfo::default()
    };
    SourceInfo {
        sites,
        truth: true,
        ..SourceInfo::default()
    }
}

fn judge_in_parts(events: &[Event], parts: Vec<Part>) -> Report {
    let info = info();
    let mut judge = Judge::new(&info, parts);
    for event in events {
        judge.event(event);
    }
    judge.finish();
    Report::new(&judge, &info, &Losses::default(), &Places::new(&info, None))
}

fn judge(events: &[(u64, Is)]) -> Report {
    let events: Vec<Event> = events.iter().map(|&(at, is)| event(at, 7, VMA, is)).collect();
    judge_in_parts(&events, Vec::new())
}

#[test]
fn what_agrees_is_exact() {
    let report = judge(&[
        (10, Read),
        (12, Acquire),
        (20, Gone(100)),
        (23, Release),
        (30, Read),
        (32, Acquire),
        (40, Gone(100)),
        (43, Release),
    ]);
    assert!(report.exact, "{}", report.text());
    let (acquires, releases) = (&report.total.acquires, &report.total.releases);
    assert_eq!((acquires.truth, acquires.matched, releases.matched), (2, 2, 2));
    let error = acquires.errors_ns["observed"];
    assert_eq!((error.count, error.min, error.max), (2, 2, 2));
    assert_eq!(releases.errors_ns["observed"].p50, 3);
    assert_eq!(report.vma_held.different, 0);
    assert_eq!(
        report.vma_held.instants,
        report.vma_held.equal + report.vma_held.in_transition
    );
    assert!(report.text().contains("100.0%"));
}

#[test]
fn what_is_missing_is_missed_at_its_place() {
    let report = judge(&[
        (10, Read),
        (12, Acquire),
        (20, Gone(100)),
        (30, Read),
        (32, Acquire),
        (40, Gone(100)),
        (43, Release),
        (50, Read),
        (60, Gone(100)),
        (63, Release),
        (70, Read),
        (72, Acquire),
        (80, Gone(100)),
        (83, Release),
    ]);
    assert!(!report.exact);
    let (acquires, releases) = (&report.total.acquires, &report.total.releases);
    assert_eq!((acquires.truth, acquires.matched, acquires.missed), (4, 3, 1));
    // The engine infers it from the next acquire, which is no substitute for seeing it.
    assert_eq!((releases.truth, releases.matched, releases.inferred), (4, 4, 1));
    assert_eq!((acquires.invented, releases.invented), (0, 0));
    let code = |code| format!("code {:#x}", Addresses::of(&SourceInfo::default()).show(code));
    assert_eq!(acquires.missed_at[&code(0x40)], 1);
    assert_eq!(releases.inferred_at[&code(0x80)], 1);
    // What comes later is matched with its own truth, not with what was missed.
    assert_eq!(releases.errors_ns["observed"].max, 3);
    assert!(report.vma_held.different > 0);
    assert!(report.text().contains("75.0%"), "{}", report.text());
}

#[test]
fn what_lockdep_does_not_know_is_invented() {
    let report = judge(&[
        (10, Read),
        (12, Acquire),
        (20, Gone(100)),
        (23, Release),
        (25, Release),
        (30, Acquire),
        (31, Release),
        (40, Read),
        (42, Acquire),
        (50, Gone(100)),
        (53, Release),
    ]);
    let (acquires, releases) = (&report.total.acquires, &report.total.releases);
    assert_eq!((acquires.missed, releases.missed), (0, 0));
    assert_eq!((acquires.matched, releases.matched), (2, 2));
    assert!(acquires.invented + releases.invented >= 2, "{}", report.text());
    let at = &releases.invented_at;
    assert!(
        at.keys().all(|place| place == "proc_get_vma+0x10 (kprobe)"),
        "{at:?}"
    );
    assert!(!report.exact);
}

#[test]
fn two_vmas_in_swapped_order_are_two_stories() {
    let of = |at, vma, is| event(at, 7, vma, is);
    let report = judge_in_parts(
        &[
            of(10, VMA, Read),
            of(11, VMA, Acquire),
            of(20, OTHER, Read),
            of(21, OTHER, Acquire),
            of(30, VMA, Gone(100)),
            of(31, VMA, Release),
            of(40, OTHER, Gone(100)),
            of(41, OTHER, Release),
            // The same with our words exchanged between the two.
            of(50, VMA, Read),
            of(51, OTHER, Acquire),
            of(60, OTHER, Gone(100)),
            of(61, VMA, Release),
            of(70, VMA, Read),
        ],
        Vec::new(),
    );
    assert!(report.total.acquires.missed > 0 && report.total.acquires.matched >= 2);
    assert!(!report.exact);
}

#[test]
fn ours_may_come_before_lockdeps() {
    // A probe right behind the count sees it before lockdep is called; a put is seen at its call.
    let report = judge(&[
        (10, Acquire),
        (12, Read),
        (20, Release),
        (22, Gone(100)),
        (30, Acquire),
        (32, Read),
        (40, Release),
        (42, Gone(100)),
    ]);
    assert!(report.exact, "{}", report.text());
    assert_eq!(report.total.acquires.errors_ns["observed"].min, -2);
    assert_eq!(report.total.releases.errors_ns["observed"].max, -2);
}

#[test]
fn a_temporary_reader_is_both_ends_and_no_hold() {
    let report = judge(&[
        (10, Read),
        (12, Temporary),
        (13, Gone(100)),
        (20, Read),
        (22, Temporary),
        (23, Gone(100)),
        // Its put is seen, too.
        (24, Release),
        (30, Read),
        (32, Acquire),
        (40, Gone(100)),
        (43, Release),
    ]);
    assert!(report.exact, "{}", report.text());
    assert_eq!(report.total.temporaries, 2);
    assert_eq!(
        (report.total.acquires.matched, report.total.releases.matched),
        (3, 3)
    );
}

#[test]
fn a_writer_is_no_reader() {
    let report = judge(&[
        (10, Write),
        (20, Gone(100)),
        (30, Read),
        (32, Acquire),
        (40, Gone(5)),
        (43, Release),
    ]);
    assert!(report.exact, "{}", report.text());
    assert_eq!((report.total.exclusive, report.total.releases.truth), (2, 1));
}

#[test]
fn what_began_before_or_ends_after_is_told_apart() {
    let report = judge(&[
        (10, Gone(100)),
        (12, Release),
        (20, Read),
        (22, Acquire),
        (30, Gone(5)),
    ]);
    assert!(report.exact, "{}", report.text());
    let (acquires, releases) = (&report.total.acquires, &report.total.releases);
    assert_eq!((acquires.before, acquires.matched), (1, 1));
    assert_eq!((releases.matched, releases.cut_off), (1, 1));
}

#[test]
fn a_gap_tears_and_is_counted() {
    let report = judge(&[
        (10, Read),
        (12, Acquire),
        (15, Gap),
        (20, Gone(100)),
        (22, Release),
        (30, Read),
        (32, Acquire),
        (40, Gone(100)),
        (42, Release),
    ]);
    assert!(report.exact, "{}", report.text());
    assert_eq!((report.gaps, report.total.torn), (1, 1));
    assert_eq!(report.total.releases.matched, 2);
}

#[test]
fn a_release_that_lockdep_never_saw_taken_breaks_the_truth() {
    let mut events = Vec::new();
    for round in 0..4 {
        let at = 100 * round;
        events.extend([
            (at + 10, Read),
            (at + 12, Acquire),
            (at + 20, Gone(9)),
            (at + 22, Release),
        ]);
    }
    events.extend([(900, Gone(9)), (902, Release)]);
    let report = judge(&events);
    assert_eq!(report.total.odd, 1);
    assert!(!report.exact);
}

#[test]
fn derived_ends_are_held_to_their_bound() {
    let mut info = info();
    info.sites[32].provenance = "derived".to_owned();
    info.sites[32].bound_ns = Some(10);
    let mut judge = Judge::new(&info, Vec::new());
    // Within it; beyond it, with and without a disturbance in between.
    for (at, late, undisturbed) in [(100, 8, 1000), (200, 50, 20), (300, 50, 1000)] {
        for (at, is) in [
            (at, Read),
            (at + 1, Acquire),
            (at + 10, Release),
            (at + 10 + late, Gone(undisturbed)),
        ] {
            let mut event = event(at, 7, VMA, is);
            if matches!(is, Acquire) {
                event.header.site = 0;
            }
            judge.event(&event);
        }
    }
    judge.finish();
    let report = Report::new(&judge, &info, &Losses::default(), &Places::new(&info, None));
    let derived = report.total.derived;
    assert_eq!(
        (derived.within_bound, derived.beyond_disturbed, derived.beyond),
        (1, 1, 1)
    );
    let errors = &report.total.releases.errors_ns;
    assert_eq!(errors[Provenance::Derived.name()].min, -50);
}

#[test]
fn parts_are_told_apart() {
    let parts = parse_parts("100 second\n0 first\n").unwrap();
    let of = |at, is| event(at, 7, VMA, is);
    let report = judge_in_parts(
        &[
            of(10, Read),
            of(12, Acquire),
            of(20, Gone(100)),
            of(23, Release),
            of(110, Read),
            of(112, Acquire),
            of(120, Gone(100)),
            of(130, Read),
            of(132, Acquire),
            of(140, Gone(100)),
            of(143, Release),
        ],
        parts,
    );
    let found: Vec<_> = report
        .parts
        .iter()
        .map(|part| (part.name.as_str(), part.acquires.truth, part.releases.inferred))
        .collect();
    assert_eq!(found, [("first", 1, 0), ("second", 2, 1)]);
    assert!(parse_parts("nonsense").is_err());
}

#[test]
fn mmap_locks_are_compared_as_held_or_awaited() {
    let mm = |ts_ns: u64, kind: Kind| {
        let mut event = Event::synthetic(kind, ts_ns);
        event.header.tid = 7;
        event.header.pid = 1;
        event.header.flags = flag::MM;
        event.body.mm = MM;
        event
    };
    let round = |at| {
        [
            mm(at, Kind::MmapStart),
            mm(at + 2, Kind::LockdepAcquire),
            mm(at + 5, Kind::MmapAcquire),
            mm(at + 9, Kind::MmapRelease),
            mm(at + 10, Kind::LockdepRelease),
        ]
    };
    let mut events: Vec<Event> = (0..4).flat_map(|n| round(n * 100)).collect();
    let good = judge_in_parts(&events, Vec::new());
    assert_eq!((good.mmap_held.different, good.mmap_held.instants), (0, 20));
    // This one is ended by code that never releases the lock: nobody took it.
    let end = |ts_ns, code| {
        let mut event = mm(ts_ns, Kind::LockdepRelease);
        event.body.arg = release_arg(code, 0);
        event
    };
    events.extend([mm(800, Kind::LockdepAcquire), end(810, 0x10)]);
    let good = judge_in_parts(&events, Vec::new());
    assert_eq!((good.mmap_held.different, good.mmap_held.annotated), (0, 1));
    // Of the last round we say nothing.
    events.extend([mm(900, Kind::LockdepAcquire), end(910, 0)]);
    let bad = judge_in_parts(&events, Vec::new());
    assert_eq!(bad.mmap_held.different, 1, "{}", bad.text());
    assert!(!bad.exact);
}

/// A release that we tell of long before lockdep does.
fn released_early(meanwhile: &[(u64, Is)]) -> Report {
    let mut events = vec![
        event(10, 7, VMA, Read),
        event(12, 7, VMA, Acquire),
        event(20, 7, VMA, Release),
    ];
    events.extend(meanwhile.iter().map(|&(at, is)| event(at, 7, OTHER, is)));
    events.extend([event(500, 7, VMA, Gone(1000)), event(600, 7, VMA, Read)]);
    events.extend([
        event(601, 7, VMA, Acquire),
        event(610, 7, VMA, Gone(100)),
        event(611, 7, VMA, Release),
    ]);
    judge_in_parts(&events, Vec::new())
}

#[test]
fn a_transition_is_one_only_while_the_task_does_nothing_else() {
    let report = released_early(&[]);
    assert!(report.exact, "{}", report.text());
    assert_eq!(report.vma_held.longest_transition_ns, 480);
    let report = released_early(&[(100, Read), (102, Acquire), (110, Gone(100)), (113, Release)]);
    assert_eq!(report.total.releases.missed + report.total.releases.invented, 0);
    // At 20, 100, 102, 110 and 113.
    assert_eq!((report.vma_held.beyond, report.vma_held.different), (5, 0));
    assert!(
        !report.exact && report.text().contains("480 ns apart"),
        "{}",
        report.text()
    );
}

/// lockdep tells of both ends before the put at which we see a temporary reader. Both are words for what our one event
/// tells, so the task has done nothing else in between.
#[test]
fn both_ends_of_a_temporary_reader_are_told_before_our_event() {
    let mut events = vec![
        event(10, 7, VMA, Read),
        event(15, 8, OTHER, Temporary),
        event(20, 7, VMA, Gone(5)),
        event(300, 7, VMA, Temporary),
    ];
    let report = judge_in_parts(&events, Vec::new());
    assert_eq!((report.vma_held.beyond, report.vma_held.different), (0, 0));
    assert!(report.vma_held.in_transition >= 2, "{}", report.text());
    // Had it done something else, that would not be so.
    for (at, is) in [(100, Read), (102, Acquire), (110, Gone(100)), (113, Release)] {
        events.insert(events.len() - 1, event(at, 7, OTHER, is));
    }
    let report = judge_in_parts(&events, Vec::new());
    assert!(report.vma_held.beyond > 0, "{}", report.text());
}

#[test]
fn what_others_do_is_no_word_of_the_task() {
    let mut events = vec![event(10, 7, VMA, Read)];
    for at in 11..15 {
        events.push(event(at, 8, OTHER, Temporary));
    }
    events.extend([
        event(20, 7, VMA, Acquire),
        event(30, 7, VMA, Gone(9)),
        event(31, 7, VMA, Release),
    ]);
    let report = judge_in_parts(&events, Vec::new());
    assert_eq!((report.vma_held.beyond, report.vma_held.different), (0, 0));
    // At 10 to 14, and at 30.
    assert_eq!(report.vma_held.in_transition, 6, "{}", report.text());
    assert_eq!(report.vma_held.instants, 8);
}

#[test]
fn instants_are_distinct_times() {
    let report = judge(&[(10, Read), (10, Acquire), (20, Gone(100)), (20, Release)]);
    let held = &report.vma_held;
    assert_eq!((held.instants, held.changed, held.equal, held.held), (2, 2, 2, 1));
    assert_eq!(held.audits, 1);
}

#[test]
fn a_difference_that_no_start_and_no_end_explains_is_one() {
    // By our word the lock was given back and taken again in the middle, which nobody told lockdep.
    let report = judge(&[
        (10, Read),
        (12, Acquire),
        (20, Release),
        (40, Acquire),
        (60, Gone(100)),
        (63, Release),
    ]);
    assert!(
        report.vma_held.beyond + report.vma_held.different > 0,
        "{}",
        report.text()
    );
    assert!(!report.exact);
}

#[test]
fn a_lock_taken_under_the_mmap_lock_may_outlast_it() {
    let mm = |ts_ns: u64, kind: Kind| {
        let mut event = event(ts_ns, 7, 0, Acquire);
        (event.kind, event.header.flags) = (kind, flag::MM);
        event.body.arg = 0;
        event
    };
    let around = |inside: [Event; 2]| {
        let mut events = vec![
            mm(1, Kind::MmapStart),
            mm(2, Kind::LockdepAcquire),
            mm(3, Kind::MmapAcquire),
        ];
        events.push(event(10, 7, VMA, Read));
        events.extend(inside);
        events.push(event(20, 7, VMA, Acquire));
        events.extend([event(30, 7, VMA, Gone(9)), event(31, 7, VMA, Release)]);
        judge_in_parts(&events, Vec::new())
    };
    let report = around([mm(12, Kind::MmapRelease), mm(13, Kind::LockdepRelease)]);
    assert_eq!(
        (report.vma_held.beyond, report.vma_held.different),
        (0, 0),
        "{}",
        report.text()
    );
    // It is another matter to take one.
    let report = around([mm(12, Kind::MmapRelease), mm(13, Kind::MmapStart)]);
    assert_eq!(report.vma_held.beyond, 3, "{}", report.text());
}
