//! Judges what we say by what lockdep was told: a recording made with `--truth` has both.
//!
//! Acquires and releases of VMA read locks are matched one to one, in order, for each task and VMA ([`pairs`]); what
//! we say has gone through the engine, so that what it derives is judged, too. At every instant the locks that
//! the engine believes held are compared with lockdep's ([`held`]). Pure and streaming: what is matched is forgotten.
//!
//! What cannot be judged is counted, never dropped: what was held when the recording began, what it cut off at its
//! end, and what a gap tore apart.

mod command;
mod episode;
mod held;
mod pairs;
mod places;
mod report;
mod spread;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use tracer_common::wire::{Event, Kind, Provenance};

use crate::info::SourceInfo;
use crate::state::{Engine, Meta, Note};
pub use command::{JudgeArgs, run};
use episode::Explains;
pub use held::Compared;
use held::Held;
use pairs::{Interval, Ours, Pair, Step, Truth};
pub use report::{Part, Report};
use spread::Spread;

/// Thread and VMA.
type Key = (u32, u64);

/// A task may hold two VMAs when it is first seen, and a writer may add one.
const FIRST_EVENTS: u32 = 4;

/// Where something that did not match happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Spot {
    /// Code, as [`Event::lockdep_code`] has it.
    Code(u64),
    /// A number of the table of sites.
    Site(u32),
}

/// Acquires, or releases.
#[derive(Clone, Debug, Default)]
struct Side {
    truth: u64,
    matched: u64,
    /// Of those that match: only inferred from what cannot be otherwise, within wide bounds.
    inferred: u64,
    invented: u64,
    /// Held since before what is known, so that only one side can tell.
    before: u64,
    /// The other half would have come after the recording's end.
    cut_off: u64,
    /// How far ours is from the truth, in nanoseconds, by how surely we say to know.
    errors: BTreeMap<Provenance, Spread>,
    missed_at: BTreeMap<Spot, u64>,
    inferred_at: BTreeMap<Spot, u64>,
    invented_at: BTreeMap<Spot, u64>,
}

/// Releases that are not observed, against the error that is stated for them.
#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    within: u64,
    /// Beyond it, and something else ran on that CPU in between.
    disturbed: u64,
    /// Beyond it with no excuse.
    beyond: u64,
    /// Nothing was stated.
    unstated: u64,
}

/// What came of one part of a recording.
#[derive(Clone, Debug, Default)]
struct Tally {
    acquires: Side,
    releases: Side,
    /// Temporary readers that matched, both ends of each.
    temporaries: u64,
    bounds: Bounds,
    /// lockdep's events about writers that keep readers out.
    exclusive: u64,
    /// lockdep has a release without an acquire.
    odd: u64,
    /// Intervals that a gap tore apart.
    torn: u64,
}

/// How many events of a task there were, so that it can be told whether it did anything between two of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Order {
    all: u64,
    /// Without those that give back an `mmap_lock`: functions that take a VMA's lock under it do that before they return,
    /// and some acquires are seen only then.
    but_mmap_release: u64,
}

impl Order {
    fn count(&mut self, event: &Event) {
        self.all += 1;
        let is_mmap_release =
            event.kind == Kind::MmapRelease || event.kind == Kind::LockdepRelease && event.vma().is_none();
        self.but_mmap_release += u64::from(!is_mmap_release);
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct TaskState {
    /// lockdep's events of it since all was known last.
    truths: u32,
    /// Its events about locks and faults so far, of both sides.
    order: Order,
    last_ns: u64,
}

/// The judge; see the module.
pub struct Judge {
    engine: Engine,
    pairs: FxHashMap<Key, Pair>,
    tasks: FxHashMap<u32, TaskState>,
    parts: Vec<Part>,
    tallies: Vec<Tally>,
    held: Held,
    gaps: u64,
    /// Kept for its memory.
    done: Vec<Interval>,
}

impl Judge {
    /// For a stream that `info` tells about, cut into `parts`.
    pub fn new(info: &SourceInfo, parts: Vec<Part>) -> Self {
        let mut engine = Engine::new(info);
        // They name every task whose holds end.
        engine.keep_notes();
        Self {
            engine,
            pairs: FxHashMap::default(),
            tasks: FxHashMap::default(),
            tallies: vec![Tally::default(); parts.len() + 1],
            parts,
            held: Held::new(),
            gaps: 0,
            done: Vec::new(),
        }
    }

    /// Takes the next event in the order of time.
    pub fn event(&mut self, event: &Event) {
        if event.kind == Kind::Gap {
            self.engine.apply(event, &mut |_, _| {});
            self.gap();
            return;
        }
        self.held
            .advance(event.header.ts_ns, &self.engine, &mut self.pairs);
        let task = self.tasks.entry(event.header.tid).or_default();
        if !beside_locks(event.kind) {
            task.order.count(event);
        }
        let order = task.order;
        match event.kind {
            Kind::LockdepAcquire | Kind::LockdepRelease => self.truth(event, order),
            _ => self.ours(event, order),
        }
    }

    /// Events are missing that left no hole in the numbering.
    pub fn forget(&mut self) {
        self.engine.forget();
        self.gap();
    }

    fn gap(&mut self) {
        self.gaps += 1;
        self.held.forget(&self.engine, &mut self.pairs);
        for (_, pair) in self.pairs.drain() {
            for interval in pair.open() {
                let part = part_of(&self.parts, interval.last_ns());
                self.tallies[part].torn += 1;
            }
        }
        self.tasks.clear();
    }

    fn truth(&mut self, event: &Event, order: Order) {
        let tid = event.header.tid;
        let task = self.tasks.entry(tid).or_default();
        let may_be_old = task.truths < FIRST_EVENTS;
        task.truths += 1;
        task.last_ns = event.header.ts_ns;
        let truth = Truth {
            ts_ns: event.header.ts_ns,
            code: event.lockdep_code().unwrap_or(0),
            undisturbed_ns: event.undisturbed_ns().unwrap_or(0),
            is_end: event.kind == Kind::LockdepRelease,
            order,
        };
        if let Some(vma) = event.vma() {
            self.truth_of_vma((tid, vma), event, truth, may_be_old);
        } else if let Some(mm) = event.mm() {
            self.held.truth_of_mm(tid, mm, event, truth);
        }
    }

    fn truth_of_vma(&mut self, key: Key, event: &Event, truth: Truth, may_be_old: bool) {
        self.held.touch_vma(key);
        let tally = &mut self.tallies[part_of(&self.parts, truth.ts_ns)];
        let pair = self.pairs.entry(key).or_default();
        if event.kind == Kind::LockdepRelease {
            match pair.truth_end(truth, may_be_old, &mut self.done) {
                Step::Exclusive => tally.exclusive += 1,
                Step::Odd => tally.odd += 1,
                Step::Usual | Step::PutOfTemporary => {}
            }
        } else if event.is_lockdep_read() {
            pair.truth_start(truth, &mut self.done);
        } else {
            pair.exclude();
            tally.exclusive += 1;
        }
        self.settle_done(key);
    }

    fn ours(&mut self, event: &Event, order: Order) {
        let mut said: Vec<(Event, Meta)> = Vec::new();
        self.engine
            .apply(event, &mut |event, meta| said.push((*event, *meta)));
        self.held.touch_task(event.header.tid, &self.engine);
        for note in self.engine.notes() {
            if let Note::Span(span) = note
                && span.who.tid != event.header.tid
            {
                self.held.touch_task(span.who.tid, &self.engine);
            }
        }
        for (event, meta) in &said {
            let tid = event.header.tid;
            self.tasks.entry(tid).or_default().last_ns = event.header.ts_ns;
            let ours = Ours {
                ts_ns: event.header.ts_ns,
                site: event.header.site,
                provenance: meta.provenance,
                bound_ns: meta.bound_ns,
                order,
            };
            match (event.vma(), event.mm()) {
                (Some(vma), _) => self.ours_of_vma((tid, vma), event, ours),
                (None, Some(mm)) => self.held.ours_of_mm(tid, mm, event.kind, ours),
                _ => {}
            }
        }
    }

    fn ours_of_vma(&mut self, key: Key, event: &Event, ours: Ours) {
        if !matches!(
            event.kind,
            Kind::VmaReadAcquire | Kind::VmaReadRelease | Kind::VmaReadTemporary
        ) {
            return;
        }
        let pair = self.pairs.entry(key).or_default();
        match event.kind {
            Kind::VmaReadAcquire => pair.our_start(ours, &mut self.done),
            Kind::VmaReadTemporary => pair.our_temporary(ours, &mut self.done),
            _ => {
                pair.our_end(ours, &mut self.done);
            }
        }
        self.settle_done(key);
    }

    /// Books what is complete, and forgets what need not be remembered.
    fn settle_done(&mut self, key: Key) {
        let mut done = core::mem::take(&mut self.done);
        for interval in done.drain(..) {
            self.settle(&interval, false);
        }
        self.done = done;
        if self.pairs.get(&key).is_some_and(Pair::is_idle) {
            self.pairs.remove(&key);
        }
    }

    /// Books one interval. `last`: the recording ended with it.
    fn settle(&mut self, interval: &Interval, last: bool) {
        let at = interval.truth_start.or(interval.truth_end);
        let at_ns = at.map_or_else(|| interval.last_ns(), |truth| truth.ts_ns);
        let tally = &mut self.tallies[part_of(&self.parts, at_ns)];
        let start = (interval.truth_start, interval.our_start);
        let end = (interval.truth_end, interval.our_end);
        if interval.before {
            tally.acquires.before += 1;
        } else {
            tally.acquires.book(start, last && end.1.is_none());
        }
        tally.releases.book(end, last);
        if interval.temporary && start.0.is_some() && end.0.is_some() {
            tally.temporaries += 1;
        } else if let (Some(truth), Some(ours)) = end {
            tally.bounds.book(truth, ours);
        }
        self.held.settle(&interval.samples, &Explains::by(interval, last));
    }

    /// Ends the stream.
    fn finish(&mut self) {
        self.held.finish(&self.engine, &mut self.pairs);
        let pairs = core::mem::take(&mut self.pairs);
        for ((tid, _), pair) in pairs {
            let last_ns = self.tasks.get(&tid).map_or(0, |task| task.last_ns);
            for interval in pair.open() {
                self.settle(&interval, interval.last_ns() >= last_ns);
            }
        }
        self.held.finish_open();
    }
}

/// Whether events of a kind tell of no lock and no fault: they may come between any two others.
fn beside_locks(kind: Kind) -> bool {
    (Kind::TaskFork as u8..=Kind::Stack as u8).contains(&(kind as u8))
}

/// Parts are few, and mostly it is the last one that began.
fn part_of(parts: &[Part], ts_ns: u64) -> usize {
    parts
        .iter()
        .rposition(|part| part.from_ns <= ts_ns)
        .map_or(0, |at| at + 1)
}

impl Side {
    fn book(&mut self, both: (Option<Truth>, Option<Ours>), last: bool) {
        match both {
            (Some(truth), Some(ours)) => {
                self.truth += 1;
                self.matched += 1;
                let error = ours.ts_ns as i64 - truth.ts_ns as i64;
                self.errors.entry(ours.provenance).or_default().add(error);
                if ours.provenance >= Provenance::Bounded {
                    self.inferred += 1;
                    *self.inferred_at.entry(Spot::Code(truth.code)).or_default() += 1;
                }
            }
            (Some(_), None) | (None, Some(_)) if last => self.cut_off += 1,
            (Some(truth), None) => {
                self.truth += 1;
                *self.missed_at.entry(Spot::Code(truth.code)).or_default() += 1;
            }
            (None, Some(ours)) => {
                self.invented += 1;
                *self.invented_at.entry(Spot::Site(ours.site)).or_default() += 1;
            }
            (None, None) => {}
        }
    }
}

impl Bounds {
    fn book(&mut self, truth: Truth, ours: Ours) {
        if ours.provenance == Provenance::Observed {
            return;
        }
        let error = truth.ts_ns.abs_diff(ours.ts_ns);
        match ours.bound_ns {
            None => self.unstated += 1,
            Some(bound) if error <= bound => self.within += 1,
            // What disturbed is looked for between our event and the true one.
            Some(_) if ours.ts_ns < truth.ts_ns && truth.undisturbed_ns < error => self.disturbed += 1,
            Some(_) => self.beyond += 1,
        }
    }
}

impl Side {
    fn add(&mut self, other: &Self) {
        self.truth += other.truth;
        self.matched += other.matched;
        self.inferred += other.inferred;
        self.invented += other.invented;
        self.before += other.before;
        self.cut_off += other.cut_off;
        for (&provenance, spread) in &other.errors {
            self.errors.entry(provenance).or_default().merge(spread);
        }
        for (mine, theirs) in [
            (&mut self.missed_at, &other.missed_at),
            (&mut self.inferred_at, &other.inferred_at),
            (&mut self.invented_at, &other.invented_at),
        ] {
            for (&spot, count) in theirs {
                *mine.entry(spot).or_default() += count;
            }
        }
    }
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.acquires.add(&other.acquires);
        self.releases.add(&other.releases);
        self.temporaries += other.temporaries;
        self.bounds.within += other.bounds.within;
        self.bounds.disturbed += other.bounds.disturbed;
        self.bounds.beyond += other.bounds.beyond;
        self.bounds.unstated += other.bounds.unstated;
        self.exclusive += other.exclusive;
        self.odd += other.odd;
        self.torn += other.torn;
    }

    fn is_empty(&self) -> bool {
        let events = |side: &Side| side.truth + side.invented + side.before + side.cut_off;
        events(&self.acquires) + events(&self.releases) + self.exclusive + self.odd + self.torn == 0
    }
}
