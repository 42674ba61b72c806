//! One to one, in order: what lockdep was told of one task and one VMA, beside what we say of them.
//!
//! A task has a VMA's read lock once at a time, so truth is a row of intervals, and each of our events belongs to
//! the one that it lies in. Ours come after lockdep's or before, by some nanoseconds, but never beyond the
//! neighbour: a task does one thing after the other. Only a *bounded* release may come later, with what proves it.

use tracer_common::wire::Provenance;

use super::Order;

/// One of our events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ours {
    pub ts_ns: u64,
    pub site: u32,
    pub provenance: Provenance,
    pub bound_ns: Option<u64>,
    /// The task's events until then.
    pub order: Order,
}

/// One of lockdep's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Truth {
    pub ts_ns: u64,
    /// Where lockdep was called from, as [`tracer_common::wire::Event::lockdep_code`] has it.
    pub code: u64,
    /// For how long nothing else had run there.
    pub undisturbed_ns: u64,
    /// It is given back; only then is the time before known.
    pub is_end: bool,
    /// The task's events until then.
    pub order: Order,
}

/// One time that the lock was held.
#[derive(Clone, Debug, Default)]
pub(super) struct Interval {
    pub truth_start: Option<Truth>,
    pub truth_end: Option<Truth>,
    pub our_start: Option<Ours>,
    pub our_end: Option<Ours>,
    /// The count was raised and taken back at once; our one event stands for both ends.
    pub temporary: bool,
    /// It was held when the recording, or what is known, began.
    pub before: bool,
    /// Differences that began while it was the newest.
    pub samples: Vec<u32>,
}

impl Interval {
    /// Whether both sides have said all.
    fn is_complete(&self) -> bool {
        let start = self.truth_start.is_some() && self.our_start.is_some() || self.before;
        start && self.truth_end.is_some() && self.our_end.is_some()
    }

    /// Held, by lockdep.
    pub(super) fn truly_held(&self) -> bool {
        self.truth_start.is_some() && self.truth_end.is_none()
    }

    /// The latest time that anything was said of it.
    pub(super) fn last_ns(&self) -> u64 {
        let truth = [self.truth_start, self.truth_end].into_iter().flatten();
        let ours = [self.our_start, self.our_end].into_iter().flatten();
        truth
            .map(|event| event.ts_ns)
            .chain(ours.map(|event| event.ts_ns))
            .max()
            .unwrap_or(0)
    }
}

/// More than these are not kept waiting for their other half.
const OPEN: usize = 3;

/// One task and one VMA.
#[derive(Clone, Debug, Default)]
pub(super) struct Pair {
    /// Oldest first. Complete ones go at once.
    open: Vec<Interval>,
    /// A writer or detacher tells lockdep that it keeps readers out.
    exclusive: bool,
    /// The latest interval was a temporary one, so the put that ends it may still come.
    was_temporary: bool,
}

/// What a single event came to, beside the intervals that it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Usual,
    /// The put of a temporary reader, whose event has told of it already.
    PutOfTemporary,
    /// Of a writer: not a reader's release.
    Exclusive,
    /// lockdep has a release without an acquire, where one must have been.
    Odd,
}

impl Pair {
    pub(super) fn newest(&mut self) -> Option<&mut Interval> {
        self.open.last_mut()
    }

    /// All that waits for its other half.
    pub(super) fn open(self) -> Vec<Interval> {
        self.open
    }

    pub(super) fn is_truly_held(&self) -> bool {
        self.open.last().is_some_and(Interval::truly_held)
    }

    pub(super) fn exclude(&mut self) {
        self.exclusive = true;
    }

    pub(super) fn truth_start(&mut self, event: Truth, done: &mut Vec<Interval>) {
        self.was_temporary = false;
        match self.open.last_mut() {
            // Ours came first: some probes sit between the count and the call of lockdep.
            Some(early)
                if early.truth_start.is_none()
                    && early.our_start.is_some()
                    && early.our_end.is_none()
                    && early.truth_end.is_none() =>
            {
                early.truth_start = Some(event);
            }
            _ => self.push(
                Interval {
                    truth_start: Some(event),
                    ..Interval::default()
                },
                done,
            ),
        }
    }

    /// `may_be_old`: it may have been held when the recording began.
    pub(super) fn truth_end(&mut self, event: Truth, may_be_old: bool, done: &mut Vec<Interval>) -> Step {
        let newest = self.open.last_mut().filter(|newest| newest.truth_end.is_none());
        let step = match newest {
            Some(newest) if newest.truth_start.is_some() => {
                newest.truth_end = Some(event);
                Step::Usual
            }
            _ if self.exclusive => {
                self.exclusive = false;
                return Step::Exclusive;
            }
            Some(newest) => {
                newest.truth_end = Some(event);
                newest.before = may_be_old;
                if may_be_old { Step::Usual } else { Step::Odd }
            }
            None => {
                let interval = Interval {
                    truth_end: Some(event),
                    before: true,
                    ..Interval::default()
                };
                self.push(interval, done);
                if may_be_old { Step::Usual } else { Step::Odd }
            }
        };
        self.take_complete(done);
        step
    }

    pub(super) fn our_start(&mut self, event: Ours, done: &mut Vec<Interval>) {
        match self.open.last_mut() {
            Some(newest) if newest.our_start.is_none() && newest.our_end.is_none() && !newest.before => {
                newest.our_start = Some(event);
                self.take_complete(done);
            }
            _ => self.push(
                Interval {
                    our_start: Some(event),
                    ..Interval::default()
                },
                done,
            ),
        }
    }

    pub(super) fn our_temporary(&mut self, event: Ours, done: &mut Vec<Interval>) {
        self.was_temporary = true;
        let newest = self.open.last_mut();
        let newest =
            newest.filter(|newest| newest.our_start.is_none() && newest.our_end.is_none() && !newest.before);
        if let Some(newest) = newest {
            newest.our_start = Some(event);
            newest.our_end = Some(event);
            newest.temporary = true;
            self.take_complete(done);
        } else {
            let interval = Interval {
                our_start: Some(event),
                our_end: Some(event),
                temporary: true,
                ..Interval::default()
            };
            self.push(interval, done);
        }
    }

    pub(super) fn our_end(&mut self, event: Ours, done: &mut Vec<Interval>) -> Step {
        if self.was_temporary && self.open.last().is_none_or(|newest| newest.temporary) {
            self.was_temporary = false;
            return Step::PutOfTemporary;
        }
        let late = event.provenance >= Provenance::Bounded;
        let wants = |interval: &&mut Interval| interval.our_end.is_none();
        let found = if late {
            self.open
                .iter_mut()
                .find(|interval| interval.our_start.is_some() && interval.our_end.is_none())
        } else {
            self.open.last_mut().filter(wants)
        };
        match found {
            Some(interval) => interval.our_end = Some(event),
            None => self.push(
                Interval {
                    our_end: Some(event),
                    ..Interval::default()
                },
                done,
            ),
        }
        self.take_complete(done);
        Step::Usual
    }

    fn push(&mut self, interval: Interval, done: &mut Vec<Interval>) {
        self.open.push(interval);
        if self.open.len() > OPEN {
            done.push(self.open.remove(0));
        }
    }

    fn take_complete(&mut self, done: &mut Vec<Interval>) {
        done.extend(self.open.extract_if(.., |interval| interval.is_complete()));
    }

    /// Whether nothing needs to be remembered.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty() && !self.exclusive && !self.was_temporary
    }
}
