//! At sampled instants: the locks that the engine believes held, beside those that lockdep was told of.
//!
//! Both sides learn of an acquire or a release at slightly different times, so an instant may lie between. Such a
//! difference is kept until the other side has spoken: if it then says the same, the instant was *in transition*,
//! and for how long it would have been is told; if not, it is *different*.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use serde::Serialize;
use tracer_common::wire::{Event, Kind};

use super::Key;
use super::pairs::{Interval, Pair};
use crate::state::{Engine, Lock};

/// So many differences are told in words.
const EXAMPLES: usize = 8;

/// What came of looking at many instants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// How many instants.
    pub instants: u64,
    /// Both sides named the same locks.
    pub equal: u64,
    /// Of those: lockdep was told of locks that nobody took, to check their order (`might_lock_read`).
    pub annotated: u64,
    /// They differed in locks that were just being taken or given back.
    pub in_transition: u64,
    /// They differed.
    pub different: u64,
    /// What is missing from the recording could explain the difference.
    pub torn: u64,
    /// Locks held, over all instants, by lockdep.
    pub held: u64,
    /// The longest that a transition took, in nanoseconds.
    pub longest_transition_ns: u64,
    /// The first instants that differ.
    pub examples: Vec<String>,
}

/// What became of a difference; the later ones outweigh the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Annotation,
    Transition(u64),
    Torn,
    Different,
}

impl Verdict {
    /// Of an interval that is over. `last`: the recording ended with it, so that a half may be missing.
    pub(super) fn of(interval: &Interval, last: bool) -> Self {
        let start = (interval.truth_start, interval.our_start);
        let end = (interval.truth_end, interval.our_end);
        let (Some(truth), Some(ours)) = end else {
            return if last { Self::Torn } else { Self::Different };
        };
        let late = truth.ts_ns.abs_diff(ours.ts_ns);
        match start {
            (Some(truth), Some(ours)) => Self::Transition(late.max(truth.ts_ns.abs_diff(ours.ts_ns))),
            _ if interval.before => Self::Torn,
            _ => Self::Different,
        }
    }
}

/// An instant with differences.
#[derive(Debug)]
struct Open {
    waiting: usize,
    verdict: Verdict,
    text: String,
}

/// All instants of one kind of lock.
#[derive(Debug, Default)]
struct Samples {
    open: FxHashMap<u32, Open>,
    next: u32,
    found: Compared,
}

impl Samples {
    /// Notes an instant; gives the number by which its differences are to be settled.
    fn note(&mut self, held: usize, differences: &[String]) -> u32 {
        self.found.instants += 1;
        self.found.held += held as u64;
        let number = self.next;
        self.next += 1;
        if differences.is_empty() {
            self.found.equal += 1;
        } else {
            let open = Open {
                waiting: differences.len(),
                verdict: Verdict::Annotation,
                text: differences.join("; "),
            };
            self.open.insert(number, open);
        }
        number
    }

    fn settle(&mut self, number: u32, verdict: Verdict) {
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        open.verdict = open.verdict.max(verdict);
        open.waiting -= 1;
        if open.waiting > 0 {
            return;
        }
        let Some(open) = self.open.remove(&number) else {
            return;
        };
        match open.verdict {
            Verdict::Annotation => {
                self.found.equal += 1;
                self.found.annotated += 1;
            }
            Verdict::Transition(ns) => {
                self.found.in_transition += 1;
                self.found.longest_transition_ns = self.found.longest_transition_ns.max(ns);
            }
            Verdict::Torn => self.found.torn += 1,
            Verdict::Different => {
                self.found.different += 1;
                if self.found.examples.len() < EXAMPLES {
                    self.found.examples.push(open.text);
                }
            }
        }
    }

    fn settle_all(&mut self, verdict: Verdict) {
        let numbers: Vec<u32> = self.open.keys().copied().collect();
        for number in numbers {
            while self.open.contains_key(&number) {
                self.settle(number, verdict);
            }
        }
    }
}

/// One task and one `mmap_lock`.
#[derive(Debug, Default)]
struct MmPair {
    /// lockdep has been told that the task takes it, this often and since then; it is told before the task waits.
    claimed: u32,
    since_ns: u64,
    /// When we last said that it gave it back.
    ended_ns: u64,
    /// Instants at which lockdep said so and we did not.
    behind: Vec<(u32, u64)>,
}

/// Both kinds of locks.
#[derive(Debug)]
pub(super) struct Held {
    every: u64,
    truths: u64,
    vma: Samples,
    mmap: Samples,
    mms: FxHashMap<Key, MmPair>,
    /// What lockdep has spoken of: a lock that was held before is unknown to it.
    known_mms: BTreeSet<Key>,
    /// Code that tells lockdep of real releases: those that we told of, too.
    real_ends: BTreeSet<u64>,
    /// Instants within a claim of which we said nothing at all, by the code that ended it. Whether somebody held the
    /// lock is known when it is known which code really releases it.
    silent: BTreeMap<u64, Vec<u32>>,
}

impl Held {
    pub(super) fn new(every: u64) -> Self {
        Self {
            every: every.max(1),
            truths: 0,
            vma: Samples::default(),
            mmap: Samples::default(),
            mms: FxHashMap::default(),
            known_mms: BTreeSet::new(),
            real_ends: BTreeSet::new(),
            silent: BTreeMap::new(),
        }
    }

    pub(super) fn truth_of_mm(&mut self, tid: u32, mm: u64, event: &Event) {
        let ts_ns = event.header.ts_ns;
        let code = event.lockdep_code().unwrap_or(0);
        self.known_mms.insert((tid, mm));
        let pair = self.mms.entry((tid, mm)).or_default();
        if event.kind == Kind::LockdepAcquire {
            if pair.claimed == 0 {
                pair.since_ns = ts_ns;
            }
            pair.claimed += 1;
            return;
        }
        pair.claimed = pair.claimed.saturating_sub(1);
        if pair.claimed > 0 {
            return;
        }
        // We said it before lockdep did: the tracepoint comes before the lock is given back.
        if pair.ended_ns > pair.since_ns {
            self.real_ends.insert(code);
            let late = ts_ns.saturating_sub(pair.ended_ns);
            for (number, _) in core::mem::take(&mut pair.behind) {
                self.mmap.settle(number, Verdict::Transition(late));
            }
        } else {
            let numbers = pair.behind.iter().map(|&(number, _)| number);
            self.silent.entry(code).or_default().extend(numbers);
        }
        self.mms.remove(&(tid, mm));
    }

    pub(super) fn ours_of_mm(&mut self, tid: u32, mm: u64, event: &Event) {
        let ts_ns = event.header.ts_ns;
        let Some(pair) = self.mms.get_mut(&(tid, mm)) else {
            return;
        };
        match event.kind {
            Kind::MmapRelease => pair.ended_ns = ts_ns,
            Kind::MmapAcquire | Kind::MmapDowngrade => {
                for (number, at_ns) in core::mem::take(&mut pair.behind) {
                    self.mmap
                        .settle(number, Verdict::Transition(ts_ns.saturating_sub(at_ns)));
                }
            }
            _ => {}
        }
    }

    /// One more event of lockdep has come; now and then, looks at all that is held.
    pub(super) fn sample(&mut self, engine: &Engine, pairs: &mut FxHashMap<Key, Pair>, ts_ns: u64) {
        self.truths += 1;
        if !self.truths.is_multiple_of(self.every) {
            return;
        }
        let mut ours = BTreeSet::new();
        let mut ours_mm = BTreeSet::new();
        let mut waits = BTreeSet::new();
        for view in engine.tasks() {
            let tid = view.task().tid;
            for hold in view.holds() {
                match hold.lock {
                    Lock::VmaRead => drop(ours.insert((tid, hold.vma))),
                    Lock::MmapRead | Lock::MmapWrite => drop(ours_mm.insert((tid, hold.mm))),
                    Lock::VmaWrite => {}
                }
            }
            let waiting = view.waits().filter(|wait| wait.lock != Lock::VmaWrite);
            waits.extend(waiting.map(|wait| (tid, wait.mm)));
        }
        self.compare_vmas(&ours, pairs, ts_ns);
        self.compare_mms(&ours_mm, &waits, ts_ns);
    }

    fn compare_vmas(&mut self, ours: &BTreeSet<Key>, pairs: &mut FxHashMap<Key, Pair>, ts_ns: u64) {
        let truth: BTreeSet<Key> = pairs
            .iter()
            .filter(|(_, pair)| pair.is_truly_held())
            .map(|(key, _)| *key)
            .collect();
        let differing: Vec<Key> = truth.symmetric_difference(ours).copied().collect();
        let texts: Vec<String> = differing
            .iter()
            .map(|key| describe(*key, "VMA", truth.contains(key), ts_ns))
            .collect();
        let number = self.vma.note(truth.len(), &texts);
        for key in differing {
            match pairs.get_mut(&key).and_then(Pair::newest) {
                Some(interval) => interval.samples.push(number),
                None => self.vma.settle(number, Verdict::Different),
            }
        }
    }

    fn compare_mms(&mut self, ours: &BTreeSet<Key>, waits: &BTreeSet<Key>, ts_ns: u64) {
        let claimed = |key: &Key| self.mms.get(key).is_some_and(|pair| pair.claimed > 0);
        let behind: Vec<Key> = self
            .mms
            .iter()
            .filter(|(key, pair)| pair.claimed > 0 && !ours.contains(key) && !waits.contains(key))
            .map(|(key, _)| *key)
            .collect();
        let ahead: Vec<Key> = ours.iter().filter(|key| !claimed(key)).copied().collect();
        let held = self.mms.values().filter(|pair| pair.claimed > 0).count();
        let texts: Vec<String> = behind
            .iter()
            .map(|key| describe(*key, "mm", true, ts_ns))
            .chain(ahead.iter().map(|key| describe(*key, "mm", false, ts_ns)))
            .collect();
        let number = self.mmap.note(held, &texts);
        for key in behind {
            if let Some(pair) = self.mms.get_mut(&key) {
                pair.behind.push((number, ts_ns));
            }
        }
        for key in ahead {
            // lockdep cannot know of what was held before it was listened to.
            let verdict = if self.known_mms.contains(&key) {
                Verdict::Different
            } else {
                Verdict::Torn
            };
            self.mmap.settle(number, verdict);
        }
    }

    pub(super) fn settle(&mut self, samples: &[u32], verdict: Verdict) {
        for &number in samples {
            self.vma.settle(number, verdict);
        }
    }

    /// What was held is not known any more.
    pub(super) fn forget(&mut self) {
        self.mms.clear();
        self.known_mms.clear();
        self.mmap.settle_all(Verdict::Torn);
        self.vma.settle_all(Verdict::Torn);
    }

    pub(super) fn finish(&mut self) {
        for (code, numbers) in core::mem::take(&mut self.silent) {
            let verdict = if self.real_ends.contains(&code) {
                Verdict::Different
            } else {
                Verdict::Annotation
            };
            for number in numbers {
                self.mmap.settle(number, verdict);
            }
        }
        self.mmap.settle_all(Verdict::Torn);
        self.vma.settle_all(Verdict::Torn);
    }

    pub(super) fn found(&self) -> (&Compared, &Compared) {
        (&self.vma.found, &self.mmap.found)
    }
}

fn describe((tid, lock): Key, what: &str, truth: bool, ts_ns: u64) -> String {
    let (holds, not) = if truth {
        ("lockdep", "the engine")
    } else {
        ("the engine", "lockdep")
    };
    format!("at {ts_ns} ns thread {tid} holds {what} {lock:#x} by {holds}, not by {not}")
}
