//! At every instant: the locks that the engine believes held, beside those that lockdep was told of.
//!
//! Nothing changes between two events, so every distinct time of an event is an instant, and there are no others. Both
//! sets, and their difference, are kept up to date key by key; now and then all of it is counted anew from the engine
//! and from the truth, and has to be the same.
//!
//! Both sides learn of an acquire or a release at slightly different times, so an instant may lie between. Such a
//! difference is kept, as an *episode*, until the other side has spoken ([`super::episode`] has what explains it).

use std::collections::{BTreeMap, VecDeque};

use rustc_hash::{FxHashMap, FxHashSet};
use serde::Serialize;
use tracer_common::wire::{Event, Kind, Provenance};

use super::Key;
use super::episode::{Episode, Explains, Slip, Verdict};
use super::pairs::{Ours, Pair, Truth};
use crate::state::{Engine, Lock, TaskView};

/// So many differences are told in words.
const EXAMPLES: usize = 8;
/// After so many instants everything is counted anew.
const AUDIT_EVERY: u64 = 4096;

/// What came of looking at all instants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// How many instants: distinct times at which both sets were compared, of all tasks.
    pub instants: u64,
    /// Those at which either set was another one than at the instant before.
    pub changed: u64,
    /// Both sides named the same locks.
    pub equal: u64,
    /// Of those: lockdep was told of locks that nobody took, to check their order (`might_lock_read`).
    pub annotated: u64,
    /// They differed in locks that were just being taken or given back.
    pub in_transition: u64,
    /// They differed in a lock that was being taken or given back, for longer than can be explained.
    pub beyond: u64,
    /// They differed.
    pub different: u64,
    /// What is missing from the recording could explain the difference.
    pub torn: u64,
    /// Locks held, over all instants, by lockdep.
    pub held: u64,
    /// The longest that a transition took, in nanoseconds.
    pub longest_transition_ns: u64,
    /// Times that everything was counted anew.
    pub audits: u64,
    /// The first differences without an explanation.
    pub examples: Vec<String>,
}

impl Compared {
    /// Instants that nothing explains.
    pub(super) fn unexplained(&self) -> u64 {
        self.beyond + self.different
    }
}

/// An instant whose differences are not all settled, or that waits for an earlier one.
#[derive(Clone, Copy, Debug)]
struct Open {
    waiting: usize,
    verdict: Verdict,
}

/// All instants of one kind of lock.
#[derive(Debug)]
struct Samples {
    name: &'static str,
    open: VecDeque<Open>,
    /// Number and time of the latest instant; they are numbered from 1.
    now: (u64, u64),
    episodes: FxHashMap<u32, Episode>,
    next: u32,
    /// Locks in which the two sides differ, each with its episode.
    differing: FxHashMap<Key, u32>,
    truth: FxHashSet<Key>,
    ours: FxHashSet<Key>,
    changed: bool,
    found: Compared,
}

impl Samples {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            open: VecDeque::new(),
            now: (0, 0),
            episodes: FxHashMap::default(),
            next: 0,
            differing: FxHashMap::default(),
            truth: FxHashSet::default(),
            ours: FxHashSet::default(),
            changed: false,
            found: Compared::default(),
        }
    }

    /// What both sides say of a lock at the instant that is about to be noted. Gives the number of the episode if a
    /// difference begins with it.
    fn update(&mut self, key: Key, truth: bool, ours: bool, differs: bool, ns: u64) -> Option<u32> {
        for (set, holds) in [(&mut self.truth, truth), (&mut self.ours, ours)] {
            self.changed |= if holds { set.insert(key) } else { set.remove(&key) };
        }
        if let Some(&number) = self.differing.get(&key) {
            let goes_on = self
                .episodes
                .get(&number)
                .is_some_and(|episode| differs && episode.truth == truth);
            if goes_on {
                return None;
            }
            self.end(number);
        }
        if !differs {
            return None;
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.episodes
            .insert(number, Episode::new(key, truth, self.now.0 + 1, ns));
        self.differing.insert(key, number);
        Some(number)
    }

    /// Notes the instant.
    fn note(&mut self, ns: u64) {
        self.now = (self.now.0 + 1, ns);
        self.found.instants += 1;
        self.found.held += self.truth.len() as u64;
        self.found.changed += u64::from(core::mem::take(&mut self.changed));
        let waiting = self.differing.len();
        self.open.push_back(Open {
            waiting,
            verdict: Verdict::Equal,
        });
        self.close_instants();
    }

    /// A difference is over, or what comes of it from now on is another matter.
    fn end(&mut self, number: u32) {
        let now = self.now;
        if let Some(episode) = self.episodes.get_mut(&number).filter(|episode| episode.open) {
            episode.end(now);
            self.differing.remove(&episode.key);
            self.book(number);
        }
    }

    /// It is known what became of a difference. `goes_on`: so it stays, for as long as it lasts.
    fn settle(&mut self, number: u32, goes_on: bool, verdict: impl FnOnce(&Episode) -> Verdict) {
        let now = self.now;
        let Some(episode) = self.episodes.get_mut(&number) else {
            return;
        };
        if episode.open {
            (episode.last, episode.last_ns) = now;
        }
        if episode.verdict.is_none() {
            episode.verdict = Some(verdict(episode));
        }
        if !episode.open {
            self.book(number);
        } else if !goes_on {
            self.end(number);
        }
    }

    /// Books the instants of a difference that is over, once it is known what became of it.
    fn book(&mut self, number: u32) {
        let Some(verdict) = self.episodes.get(&number).and_then(|episode| episode.verdict) else {
            return;
        };
        let Some(episode) = self.episodes.remove(&number) else {
            return;
        };
        let unexplained = matches!(verdict, Verdict::Beyond(_) | Verdict::Different);
        if unexplained && self.found.examples.len() < EXAMPLES {
            self.found.examples.push(episode.describe(self.name, verdict));
        }
        let first_open = self.now.0 + 1 - self.open.len() as u64;
        for instant in episode.first..=episode.last {
            let at = instant
                .checked_sub(first_open)
                .and_then(|at| usize::try_from(at).ok());
            if let Some(open) = at.and_then(|at| self.open.get_mut(at)) {
                open.waiting -= 1;
                open.verdict = open.verdict.max(verdict);
            }
        }
        self.close_instants();
    }

    /// Counts the instants of which all is known.
    fn close_instants(&mut self) {
        while self.open.front().is_some_and(|open| open.waiting == 0)
            && let Some(open) = self.open.pop_front()
        {
            let found = &mut self.found;
            match open.verdict {
                Verdict::Equal => found.equal += 1,
                Verdict::Annotation => {
                    found.equal += 1;
                    found.annotated += 1;
                }
                Verdict::Transition(ns) => {
                    found.in_transition += 1;
                    found.longest_transition_ns = found.longest_transition_ns.max(ns);
                }
                Verdict::Torn => found.torn += 1,
                Verdict::Beyond(_) => found.beyond += 1,
                Verdict::Different => found.different += 1,
            }
        }
    }

    fn settle_all(&mut self, verdict: Verdict) {
        let numbers: Vec<u32> = self.episodes.keys().copied().collect();
        for number in numbers {
            self.settle(number, false, |_| verdict);
        }
    }

    /// Compares what was kept up to date with what is so.
    fn audit(&mut self, truth: FxHashSet<Key>, ours: FxHashSet<Key>) {
        self.found.audits += 1;
        if truth == self.truth && ours == self.ours {
            return;
        }
        // The judge's own mistake: nothing that it says can be relied on.
        self.found.different += 1;
        let text = format!(
            "at {} ns the judge's books of {}s were wrong",
            self.now.1, self.name
        );
        self.found.examples.push(text);
        (self.truth, self.ours) = (truth, ours);
    }
}

/// One task and one `mmap_lock`.
#[derive(Debug, Default)]
struct MmPair {
    /// lockdep has been told that the task takes it, this often and since then; it is told before the task waits.
    claimed: u32,
    since: Option<Truth>,
    /// When we last said that it gave it back.
    ended: Option<Ours>,
    /// Differences in which lockdep said so and we did not.
    behind: Vec<u32>,
}

/// What the engine says that a task holds of locks of VMAs and of `mmap_lock`s, and which of these it waits for.
#[derive(Clone, Debug, Default)]
struct Mirror {
    vmas: Vec<u64>,
    mms: Vec<u64>,
    waits: Vec<u64>,
}

impl Mirror {
    /// What is doubtful is not said.
    fn of(view: &TaskView<'_>) -> Self {
        let mut mirror = Self::default();
        // The locks of VMAs for writing come last, and lockdep is not told of them.
        for hold in view.holds().take_while(|hold| hold.lock != Lock::VmaWrite) {
            if hold.certainty == Provenance::Unknown {
                continue;
            }
            match hold.lock {
                Lock::VmaRead => mirror.vmas.push(hold.vma),
                _ => mirror.mms.push(hold.mm),
            }
        }
        let sure =
            |wait: &crate::state::Wait| wait.lock != Lock::VmaWrite && wait.certainty != Provenance::Unknown;
        mirror.waits.extend(view.waits().filter(sure).map(|wait| wait.mm));
        mirror
    }
}

/// Both kinds of locks.
#[derive(Debug)]
pub(super) struct Held {
    vma: Samples,
    mmap: Samples,
    /// Time of the events since the latest instant.
    pending_ns: Option<u64>,
    /// What may have changed since the latest instant.
    dirty_vmas: Vec<Key>,
    dirty_mms: Vec<Key>,
    mirrors: FxHashMap<u32, Mirror>,
    mms: FxHashMap<Key, MmPair>,
    /// What lockdep has spoken of: a lock that was held before is unknown to it.
    known_mms: FxHashSet<Key>,
    /// Code that tells lockdep of real releases: those that we told of, too.
    real_ends: FxHashSet<u64>,
    /// Differences within a claim of which we said nothing at all, by the code that ended it. Whether somebody held
    /// the lock is known when it is known which code really releases it.
    silent: BTreeMap<u64, Vec<u32>>,
}

impl Held {
    pub(super) fn new() -> Self {
        Self {
            vma: Samples::new("VMA"),
            mmap: Samples::new("mm"),
            pending_ns: None,
            dirty_vmas: Vec::new(),
            dirty_mms: Vec::new(),
            mirrors: FxHashMap::default(),
            mms: FxHashMap::default(),
            known_mms: FxHashSet::default(),
            real_ends: FxHashSet::default(),
            silent: BTreeMap::new(),
        }
    }

    /// An event of that time comes: if it is a later one than that of the last event, an instant is over.
    pub(super) fn advance(&mut self, ts_ns: u64, engine: &Engine, pairs: &mut FxHashMap<Key, Pair>) {
        if let Some(ns) = self.pending_ns.filter(|&ns| ns != ts_ns) {
            self.look(ns, engine, pairs);
        }
        self.pending_ns = Some(ts_ns);
    }

    /// lockdep spoke of this VMA, or we did.
    pub(super) fn touch_vma(&mut self, key: Key) {
        self.dirty_vmas.push(key);
    }

    /// What the engine believes of a task may be something else now.
    pub(super) fn touch_task(&mut self, tid: u32, engine: &Engine) {
        let mut mirror = Mirror::default();
        // The idle tasks of all processors are one to lockdep's events.
        if tid == 0 {
            let idle = engine.tasks().filter(|view| view.task().tid == 0);
            for view in idle {
                let one = Mirror::of(&view);
                mirror.vmas.extend(one.vmas);
                mirror.mms.extend(one.mms);
                mirror.waits.extend(one.waits);
            }
        } else if let Some(view) = engine.task(tid) {
            mirror = Mirror::of(&view);
        }
        let before = self.mirrors.remove(&tid).unwrap_or_default();
        for list in [&before.vmas, &mirror.vmas] {
            self.dirty_vmas.extend(list.iter().map(|&vma| (tid, vma)));
        }
        for list in [&before.mms, &mirror.mms, &before.waits, &mirror.waits] {
            self.dirty_mms.extend(list.iter().map(|&mm| (tid, mm)));
        }
        if !(mirror.vmas.is_empty() && mirror.mms.is_empty() && mirror.waits.is_empty()) {
            self.mirrors.insert(tid, mirror);
        }
    }

    pub(super) fn truth_of_mm(&mut self, tid: u32, mm: u64, event: &Event, truth: Truth) {
        self.dirty_mms.push((tid, mm));
        self.known_mms.insert((tid, mm));
        let pair = self.mms.entry((tid, mm)).or_default();
        if event.kind == Kind::LockdepAcquire {
            if pair.claimed == 0 {
                pair.since = Some(truth);
            }
            pair.claimed += 1;
            return;
        }
        pair.claimed = pair.claimed.saturating_sub(1);
        if pair.claimed > 0 {
            return;
        }
        let behind = core::mem::take(&mut pair.behind);
        // We said it before lockdep did: the tracepoint comes before the lock is given back.
        if let Some(ended) = pair.ended {
            self.real_ends.insert(truth.code);
            let slip = Slip::of(truth, ended, 0);
            for number in behind {
                let verdict = |episode: &Episode| slip.judge(episode).unwrap_or(Verdict::Different);
                self.mmap.settle(number, false, verdict);
            }
        } else {
            for &number in &behind {
                self.mmap.end(number);
            }
            self.silent.entry(truth.code).or_default().extend(behind);
        }
        self.mms.remove(&(tid, mm));
    }

    pub(super) fn ours_of_mm(&mut self, tid: u32, mm: u64, kind: Kind, ours: Ours) {
        let Some(pair) = self.mms.get_mut(&(tid, mm)) else {
            return;
        };
        match kind {
            Kind::MmapRelease => pair.ended = Some(ours),
            Kind::MmapAcquire | Kind::MmapDowngrade => {
                let slip = pair.since.map(|since| Slip::of(since, ours, 0));
                for number in core::mem::take(&mut pair.behind) {
                    let verdict = |episode: &Episode| {
                        slip.and_then(|slip| slip.judge(episode))
                            .unwrap_or(Verdict::Different)
                    };
                    self.mmap.settle(number, false, verdict);
                }
            }
            _ => {}
        }
    }

    /// Compares all that is held at this instant.
    fn look(&mut self, ns: u64, engine: &Engine, pairs: &mut FxHashMap<Key, Pair>) {
        let mut dirty = core::mem::take(&mut self.dirty_vmas);
        for key in dirty.drain(..) {
            let truth = pairs.get(&key).is_some_and(Pair::is_truly_held);
            let mirror = self.mirrors.get(&key.0);
            let ours = mirror.is_some_and(|mirror| mirror.vmas.contains(&key.1));
            if let Some(number) = self.vma.update(key, truth, ours, truth != ours, ns) {
                match pairs.get_mut(&key).and_then(Pair::newest) {
                    Some(interval) => interval.samples.push(number),
                    None => self.vma.settle(number, true, |_| Verdict::Different),
                }
            }
        }
        self.dirty_vmas = dirty;
        self.look_at_mms(ns);
        self.vma.note(ns);
        self.mmap.note(ns);
        if self.vma.found.instants.is_multiple_of(AUDIT_EVERY) {
            self.audit(engine, pairs);
        }
    }

    fn look_at_mms(&mut self, ns: u64) {
        let mut dirty = core::mem::take(&mut self.dirty_mms);
        for key in dirty.drain(..) {
            let claimed = self.mms.get(&key).is_some_and(|pair| pair.claimed > 0);
            let mirror = self.mirrors.get(&key.0);
            let ours = mirror.is_some_and(|mirror| mirror.mms.contains(&key.1));
            let waits = mirror.is_some_and(|mirror| mirror.waits.contains(&key.1));
            let differs = if claimed { !ours && !waits } else { ours };
            let Some(number) = self.mmap.update(key, claimed, ours, differs, ns) else {
                continue;
            };
            match self.mms.get_mut(&key) {
                Some(pair) if claimed => pair.behind.push(number),
                // lockdep cannot know of what was held before it was listened to.
                _ if self.known_mms.contains(&key) => {
                    self.mmap.settle(number, true, |_| Verdict::Different);
                }
                _ => self.mmap.settle(number, true, |_| Verdict::Torn),
            }
        }
        self.dirty_mms = dirty;
    }

    /// Counts everything anew, from the engine and from the truth.
    fn audit(&mut self, engine: &Engine, pairs: &FxHashMap<Key, Pair>) {
        let mut vmas = FxHashSet::default();
        let mut mms = FxHashSet::default();
        for view in engine.tasks() {
            let tid = view.task().tid;
            let mirror = Mirror::of(&view);
            vmas.extend(mirror.vmas.iter().map(|&vma| (tid, vma)));
            mms.extend(mirror.mms.iter().map(|&mm| (tid, mm)));
        }
        let true_vmas = pairs.iter().filter(|(_, pair)| pair.is_truly_held());
        self.vma.audit(true_vmas.map(|(key, _)| *key).collect(), vmas);
        let claimed = self.mms.iter().filter(|(_, pair)| pair.claimed > 0);
        self.mmap.audit(claimed.map(|(key, _)| *key).collect(), mms);
    }

    pub(super) fn settle(&mut self, samples: &[u32], explains: &Explains) {
        for &number in samples {
            self.vma.settle(number, false, |episode| explains.judge(episode));
        }
    }

    /// What was held is not known any more; the engine has been told so.
    pub(super) fn forget(&mut self, engine: &Engine, pairs: &mut FxHashMap<Key, Pair>) {
        if let Some(ns) = self.pending_ns.take() {
            self.look(ns, engine, pairs);
        }
        self.mms.clear();
        self.known_mms.clear();
        self.silent.clear();
        for samples in [&mut self.mmap, &mut self.vma] {
            samples.settle_all(Verdict::Torn);
            samples.truth.clear();
            samples.ours.clear();
        }
        self.mirrors.clear();
        self.dirty_vmas.clear();
        self.dirty_mms.clear();
    }

    pub(super) fn finish(&mut self, engine: &Engine, pairs: &mut FxHashMap<Key, Pair>) {
        if let Some(ns) = self.pending_ns.take() {
            self.look(ns, engine, pairs);
            self.audit(engine, pairs);
        }
        for (code, numbers) in core::mem::take(&mut self.silent) {
            let verdict = if self.real_ends.contains(&code) {
                Verdict::Different
            } else {
                Verdict::Annotation
            };
            for number in numbers {
                self.mmap.settle(number, false, |_| verdict);
            }
        }
    }

    /// Whatever nobody has spoken of any more by now was cut off by the end.
    pub(super) fn finish_open(&mut self) {
        self.mmap.settle_all(Verdict::Torn);
        self.vma.settle_all(Verdict::Torn);
    }

    pub(super) fn found(&self) -> (&Compared, &Compared) {
        (&self.vma.found, &self.mmap.found)
    }
}
