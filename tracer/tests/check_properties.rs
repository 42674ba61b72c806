//! Faults seeded into streams that are in order: each is reported as exactly what it is, and nothing that is merely
//! missing is ever taken for a violation.

use proptest::prelude::*;
use tracer::check::Checker;
use tracer::check::violation::ViolationKind;
use tracer::info::{Losses, SiteInfo, SourceInfo};
use tracer::order::Order;
use tracer::state::Engine;
use tracer_common::wire::{Event, Kind, flag};

const MM: u64 = 0xffff_8881_0000_1000;
const TASKS: usize = 5;
const VMAS: usize = 3;

/// A kernel that shows everything.
fn info() -> SourceInfo {
    let site = |kind: Kind, function: &str, mechanism: &str| SiteInfo {
        operation: kind.name().into(),
        function: function.into(),
        mechanism: mechanism.into(),
        provenance: "observed".into(),
        attached: true,
        ..SiteInfo::default()
    };
    SourceInfo {
        sites: vec![
            site(Kind::MmapAcquire, "mmap_lock_acquire_returned", "tp_btf"),
            site(Kind::VmaReadRelease, "vma_refcount_put", "kprobe"),
            site(Kind::VmaWriteAcquire, "__vma_start_write", "fexit"),
        ],
        ..SourceInfo::default()
    }
}

/// The lock as it is, one operation at a time; makes the events that the kernel would show.
struct Lock {
    events: Vec<Event>,
    mm_seq: u32,
    vma_seq: [u32; VMAS],
    /// By task: the VMA that it reads.
    reads: [Option<usize>; TASKS],
    writer: Option<usize>,
}

impl Lock {
    fn new() -> Self {
        Self {
            events: Vec::new(),
            mm_seq: 10,
            vma_seq: [3, 5, 7],
            reads: [None; TASKS],
            writer: None,
        }
    }

    fn readers(&self, vma: usize) -> u32 {
        self.reads.iter().filter(|&&read| read == Some(vma)).count() as u32
    }

    fn push(&mut self, kind: Kind, task: usize, vma: Option<usize>, arg: u32) {
        let mut event = Event::synthetic(kind, 1000 + 10 * self.events.len() as u64);
        event.header.cpu = task as u16;
        event.header.tid = 200 + task as u32;
        event.header.pid = 100;
        event.header.flags = flag::MM | flag::MM_SEQ;
        event.header.site = match kind {
            Kind::VmaReadRelease => 1,
            Kind::VmaWriteAcquire => 2,
            _ => 0,
        };
        (event.body.mm, event.body.mm_lock_seq, event.body.arg) = (MM, self.mm_seq, arg);
        if let Some(vma) = vma {
            event.header.flags |= flag::VMA | flag::RANGE | flag::REFCNT | flag::VMA_SEQ;
            event.body.vma = 0xffff_8882_0000_0000 + 0x100 * vma as u64;
            (event.body.vm_start, event.body.vm_end) = (0x1000 << vma, 0x2000 << vma);
            event.body.vm_refcnt = 1 + self.readers(vma) + u32::from(kind == Kind::VmaReadTemporary);
            event.body.vm_lock_seq = self.vma_seq[vma];
        } else if self.writer == Some(task) {
            event.header.flags |= flag::WRITE;
        }
        self.events.push(event);
    }

    /// What a task does next: it takes or gives back what it can.
    fn act(&mut self, task: usize, vma: usize, choice: u8) {
        let locked = self.vma_seq[vma] == self.mm_seq;
        if self.writer == Some(task) {
            if choice < 3 && !locked && self.readers(vma) == 0 {
                self.push(Kind::VmaWriteStart, task, Some(vma), 0);
                self.vma_seq[vma] = self.mm_seq;
                self.push(Kind::VmaWriteAcquire, task, Some(vma), 0);
            } else {
                self.push(Kind::MmapRelease, task, None, 0);
                self.writer = None;
                self.mm_seq += 1;
            }
        } else if let Some(read) = self.reads[task] {
            if choice < 3 {
                self.push(Kind::FaultBegin, task, Some(read), 0x1040_0000);
            } else {
                self.push(Kind::VmaReadRelease, task, Some(read), 0);
                self.reads[task] = None;
            }
        } else if choice == 0 && self.writer.is_none() {
            self.writer = Some(task);
            self.push(Kind::MmapStart, task, None, 0);
            self.mm_seq += 1;
            self.push(Kind::MmapAcquire, task, None, 0);
        } else if locked {
            self.push(Kind::VmaReadTemporary, task, Some(vma), 0x2_0000);
        } else {
            self.reads[task] = Some(vma);
            self.push(Kind::VmaReadAcquire, task, Some(vma), 0);
        }
    }
}

/// A stream in order, which begins with a quiet point of each VMA, and ends with one if `ends`.
fn stream(acts: &[(usize, usize, u8)], ends: bool) -> Vec<Event> {
    let mut lock = Lock::new();
    let quiet = |lock: &mut Lock| {
        for vma in 0..VMAS {
            lock.act(0, vma, 9);
            lock.act(0, vma, 9);
        }
    };
    quiet(&mut lock);
    for &(task, vma, choice) in acts {
        lock.act(task, vma, choice);
    }
    if ends {
        for task in 0..TASKS {
            while lock.writer == Some(task) || lock.reads[task].is_some() {
                lock.act(task, 0, 9);
            }
        }
        quiet(&mut lock);
        quiet(&mut lock);
    }
    lock.events
}

fn check(events: &[Event]) -> (Engine, Checker) {
    let info = info();
    let (mut engine, mut checker) = (Engine::new(&info), Checker::new(&info));
    for event in events {
        checker.apply(&mut engine, event, &mut |_, _| {});
    }
    checker.finish();
    (engine, checker)
}

fn found(checker: &Checker) -> Vec<(ViolationKind, u64)> {
    let kept = checker.violations().kept();
    kept.iter()
        .map(|violation| (violation.kind, violation.event.header.ts_ns))
        .collect()
}

fn acts(len: usize) -> impl Strategy<Value = Vec<(usize, usize, u8)>> {
    proptest::collection::vec((0..TASKS, 0..VMAS, 0u8..6), 1..len)
}

/// Places of events that satisfy something.
fn places(events: &[Event], which: impl Fn(&Event) -> bool) -> Vec<usize> {
    (0..events.len()).filter(|&at| which(&events[at])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_in_order_is_found_to_be(acts in acts(200), ends: bool) {
        let events = stream(&acts, ends);
        let (engine, checker) = check(&events);
        prop_assert_eq!(found(&checker), []);
        prop_assert_eq!(engine.totals().coverage_holes, 0);
        for (name, _, totals) in checker.quantities() {
            prop_assert_eq!(totals.open, 0, "{}: {:?}", name, totals);
            prop_assert_eq!(totals.checked, totals.closed_exact + totals.closed_concurrent);
        }
    }

    /// A release that is not there is a hole in what is seen, of that task and that VMA, and no violation.
    #[test]
    fn a_removed_release_is_a_coverage_hole(acts in acts(200), which: prop::sample::Index) {
        let mut events = stream(&acts, true);
        let at = places(&events, |event| event.kind == Kind::VmaReadRelease);
        let removed = events.remove(at[which.index(at.len())]);
        let (engine, checker) = check(&events);
        prop_assert_eq!(found(&checker), []);
        let held = engine.tasks().any(|task| {
            task.task().tid == removed.header.tid && task.holds().any(|hold| hold.vma == removed.body.vma)
        });
        prop_assert!(engine.totals().coverage_holes == 1 || held);
        if engine.totals().coverage_holes == 1 {
            let named = engine.anomalies().iter().any(|anomaly| {
                [anomaly.other_tid, anomaly.event.header.tid].contains(&removed.header.tid)
            });
            prop_assert!(named, "{:?} by {}", engine.anomalies(), removed.header.tid);
        }
    }

    /// A count that leaves no room for the task itself.
    #[test]
    fn a_count_that_is_too_low_is_found_there(acts in acts(200), which: prop::sample::Index) {
        let mut events = stream(&acts, true);
        let at = places(&events, |event| {
            matches!(event.kind, Kind::VmaReadAcquire | Kind::VmaReadRelease | Kind::FaultBegin)
        });
        let at = at[which.index(at.len())];
        events[at].body.vm_refcnt = 1;
        let (_, checker) = check(&events);
        prop_assert_eq!(found(&checker), [(ViolationKind::CountBelowHolders, events[at].header.ts_ns)]);
    }

    /// A count that has one or more readers that nobody is.
    #[test]
    fn a_count_that_is_too_high_is_found_there(acts in acts(200), which: prop::sample::Index, more in 1u32..4) {
        let mut events = stream(&acts, true);
        let at = places(&events, |event| event.vm_refcnt().is_some() && event.kind != Kind::VmaReadTemporary);
        // Not within the first quiet points, before which nothing is known of a VMA.
        let at: Vec<usize> = at.into_iter().filter(|&at| at >= 2 * VMAS).collect();
        let at = at[which.index(at.len())];
        events[at].body.vm_refcnt += more;
        let (_, checker) = check(&events);
        let found = found(&checker);
        let there = [(ViolationKind::CountAboveHolders, events[at].header.ts_ns)];
        // Operations that may be in flight explain some; then it is no violation, and none is reported.
        prop_assert!(found.is_empty() || found == there, "{:?} at {}", found, events[at].header.ts_ns);
    }

    /// A reader inside a writer.
    #[test]
    fn a_reader_inside_a_writer_is_found_there(acts in acts(200), which: prop::sample::Index) {
        let mut lock = stream(&acts, true);
        let at = places(&lock, |event| event.kind == Kind::VmaWriteAcquire);
        prop_assume!(!at.is_empty());
        let at = at[which.index(at.len())];
        let mut inside = lock[at];
        (inside.kind, inside.header.kind) = (Kind::VmaReadAcquire, Kind::VmaReadAcquire as u8);
        inside.header.tid = 999;
        inside.header.site = 0;
        inside.header.ts_ns += 1;
        inside.body.vm_refcnt += 1;
        let mut gone = inside;
        (gone.kind, gone.header.kind) = (Kind::VmaReadRelease, Kind::VmaReadRelease as u8);
        gone.header.site = 1;
        gone.header.ts_ns += 1;
        lock.splice(at + 1..at + 1, [inside, gone]);
        let (_, checker) = check(&lock);
        let expected = [inside, gone].map(|event| (ViolationKind::ReaderInsideWriter, event.header.ts_ns));
        prop_assert_eq!(found(&checker), expected);
    }

    /// Events of one task are missing for a while, and that is told only afterwards.
    #[test]
    fn a_gap_is_never_a_violation(
        acts in acts(200), from: prop::sample::Index, len in 1usize..40, cpu in 0u16..TASKS as u16, ends: bool
    ) {
        let all = stream(&acts, ends);
        let from = from.index(all.len());
        let to = (from + len).min(all.len() - 1);
        let mut events = all[..from].to_vec();
        events.extend(all[from..to].iter().filter(|event| event.header.cpu != cpu));
        let mut gap = Event::synthetic(Kind::Gap, all[to].header.ts_ns);
        gap.body.vm_start = all[from].header.ts_ns;
        gap.body.arg = 1;
        events.push(gap);
        events.extend(&all[to..]);
        let (_, checker) = check(&events);
        prop_assert_eq!(found(&checker), []);
        for (name, _, totals) in checker.quantities() {
            prop_assert_eq!(totals.checked, totals.closed_exact + totals.closed_concurrent + totals.open, "{}", name);
        }
    }

    /// Cut at both ends, and handed over in disorder: what can be judged is judged.
    #[test]
    fn cuts_and_disorder_are_no_violation(acts in acts(200), cut: prop::sample::Index, end: prop::sample::Index, step in 1usize..16) {
        let all = stream(&acts, true);
        let from = cut.index(all.len());
        let to = from + end.index(all.len() - from);
        let mut order = Order::new(0);
        let mut seqs = [0u32; TASKS];
        let mut numbered: Vec<Event> = all[from..to].to_vec();
        for event in &mut numbered {
            let seq = &mut seqs[usize::from(event.header.cpu)];
            event.header.seq = *seq;
            *seq += 1;
        }
        let mut events = Vec::new();
        for chunk in numbered.chunks(step) {
            for event in chunk.iter().rev() {
                order.push(event);
            }
        }
        order.finish(&Losses::default(), &mut |event| events.push(*event));
        let (_, checker) = check(&events);
        prop_assert_eq!(found(&checker), []);
    }
}
