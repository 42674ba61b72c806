//! Differences between what is held by lockdep and by us, from one instant to another, and what explains them.
//!
//! A difference is *in transition* only if it lies wholly between the two words for one and the same start or end, and
//! these belong together: the task did nothing else in between, or they are no further apart than what is stated for
//! ours, or something else is known to have run on that processor. If they do not belong together it is *beyond*.
//! What lies between no two words is *different*.

use super::Key;
use super::pairs::{Interval, Ours, Truth};

/// What became of a difference; the later ones outweigh the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Equal,
    Annotation,
    Transition(u64),
    Torn,
    Beyond(u64),
    Different,
}

/// A lock in which the two sides differ, or did.
#[derive(Clone, Debug)]
pub(super) struct Episode {
    pub key: Key,
    /// lockdep has it, and we do not; else the other way round.
    pub truth: bool,
    /// Numbers and times of the first and the last instant.
    pub first: u64,
    pub first_ns: u64,
    pub last: u64,
    pub last_ns: u64,
    /// It goes on.
    pub open: bool,
    pub verdict: Option<Verdict>,
}

impl Episode {
    pub(super) fn new(key: Key, truth: bool, instant: u64, ns: u64) -> Self {
        Self {
            key,
            truth,
            first: instant,
            first_ns: ns,
            last: instant,
            last_ns: ns,
            open: true,
            verdict: None,
        }
    }

    pub(super) fn end(&mut self, (instant, ns): (u64, u64)) {
        self.open = false;
        (self.last, self.last_ns) = (instant, ns);
    }

    pub(super) fn describe(&self, what: &str, verdict: Verdict) -> String {
        let (holds, not) = if self.truth {
            ("lockdep", "the engine")
        } else {
            ("the engine", "lockdep")
        };
        let how = match verdict {
            Verdict::Beyond(ns) => format!(", {ns} ns apart"),
            _ => String::new(),
        };
        let (tid, lock) = self.key;
        format!(
            "from {} ns to {} ns thread {tid} holds {what} {lock:#x} by {holds}, not by {not}{how}",
            self.first_ns, self.last_ns
        )
    }
}

/// Two words for one start or end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slip {
    from_ns: u64,
    to_ns: u64,
    explained: bool,
}

impl Slip {
    /// `own`: so many words of the same interval lie between the two.
    pub(super) fn of(truth: Truth, ours: Ours, own: u64) -> Self {
        let error = truth.ts_ns.abs_diff(ours.ts_ns);
        let (truths, our) = (truth.order, ours.order);
        let in_flight = if truth.is_end {
            truths.all.abs_diff(our.all) <= 1 + own
        } else {
            truths.but_mmap_release.abs_diff(our.but_mmap_release) <= 1 + own
        };
        let stated = ours.bound_ns.is_some_and(|bound| error <= bound);
        let disturbed = ours.ts_ns < truth.ts_ns && truth.undisturbed_ns < error && truth.is_end;
        Self {
            from_ns: truth.ts_ns.min(ours.ts_ns),
            to_ns: truth.ts_ns.max(ours.ts_ns),
            explained: in_flight || stated || disturbed,
        }
    }

    /// What is to be said of a difference that lies between the two.
    pub(super) fn judge(self, episode: &Episode) -> Option<Verdict> {
        let between = self.from_ns <= episode.first_ns && episode.last_ns <= self.to_ns;
        let ns = self.to_ns - self.from_ns;
        between.then_some(if self.explained {
            Verdict::Transition(ns)
        } else {
            Verdict::Beyond(ns)
        })
    }
}

/// What the start and the end of a hold explain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Explains {
    /// What is to be said if neither does.
    otherwise: Verdict,
    slips: [Option<Slip>; 2],
}

impl Explains {
    /// By an interval that is over. `last`: the recording ended with it, so that a half may be missing.
    pub(super) fn by(interval: &Interval, last: bool) -> Self {
        // A temporary reader has one event of ours, at the put: lockdep has told of both ends by then.
        let end_between = interval.temporary
            && interval
                .truth_end
                .zip(interval.our_start)
                .is_some_and(|(end, ours)| end.ts_ns < ours.ts_ns);
        let own = u64::from(end_between);
        let slip = |truth: Option<Truth>, ours: Option<Ours>| {
            let truth = truth?;
            Some(Slip::of(truth, ours?, if truth.is_end { 0 } else { own }))
        };
        let start = slip(interval.truth_start, interval.our_start);
        let end = slip(interval.truth_end, interval.our_end);
        let torn = interval.before || (last && end.is_none());
        Self {
            otherwise: if torn { Verdict::Torn } else { Verdict::Different },
            slips: [start, end],
        }
    }

    pub(super) fn judge(&self, episode: &Episode) -> Verdict {
        let verdicts = self.slips.iter().flatten().filter_map(|slip| slip.judge(episode));
        verdicts.min().unwrap_or(self.otherwise)
    }
}
