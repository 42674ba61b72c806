//! Durations of one group: count, sum, longest with its circumstances, percentiles.

use tracer_common::wire::COMM_LEN;

use crate::state::hist;
use crate::state::{Lock, Place, Span, What, Who};

/// Counts by size, only as wide as the values that came: most groups see few sizes. As exact as
/// [`crate::state::Histogram`].
#[derive(Clone, Debug, Default)]
struct Sizes {
    /// The bucket of `counts[0]`.
    first: u16,
    counts: Vec<u32>,
}

/// Buckets are added by so many, which is a doubling.
const STEP: usize = 16;

impl Sizes {
    #[inline]
    fn add(&mut self, at: usize, number: u32) {
        let first = usize::from(self.first);
        match at.checked_sub(first).and_then(|at| self.counts.get_mut(at)) {
            Some(count) => *count = count.saturating_add(number),
            None => self.widen(at, number),
        }
    }

    #[cold]
    fn widen(&mut self, at: usize, number: u32) {
        let start = at / STEP * STEP;
        if self.counts.is_empty() {
            self.first = u16::try_from(start).unwrap_or(u16::MAX);
        }
        let first = usize::from(self.first);
        if start < first {
            let more = first - start;
            self.counts.splice(0..0, std::iter::repeat_n(0, more));
            self.first = u16::try_from(start).unwrap_or(u16::MAX);
        }
        let at = at - usize::from(self.first);
        if at >= self.counts.len() {
            self.counts.resize((at / STEP + 1) * STEP, 0);
        }
        self.counts[at] = self.counts[at].saturating_add(number);
    }

    fn merge(&mut self, other: &Self) {
        for (at, &number) in other.counts.iter().enumerate() {
            if number > 0 {
                self.add(usize::from(other.first) + at, number);
            }
        }
    }

    /// The highest value of the bucket that has the value of this rank.
    fn of_rank(&self, rank: u64) -> u64 {
        let mut seen = 0;
        for (at, &count) in self.counts.iter().enumerate() {
            seen += u64::from(count);
            if seen >= rank {
                return hist::highest(usize::from(self.first) + at);
            }
        }
        u64::MAX
    }
}

/// The longest one of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Longest {
    /// How long, in nanoseconds.
    pub ns: u64,
    /// Since when.
    pub since_ns: u64,
    /// Which lock, and whether it was a wait.
    pub lock: Lock,
    /// Whose.
    pub who: Who,
    /// Its command name, raw.
    pub comm: [u8; COMM_LEN],
    /// Of what.
    pub place: Place,
    /// The site of the event that ended it.
    pub site: u32,
    /// Numbers of the kernel and the user stack at its end; 0: none.
    pub stacks: (u32, u32),
    /// For how long others waited for it, summed over them, in nanoseconds. Holds only.
    pub caused_ns: u64,
    /// How many did. Holds only.
    pub waiters: u32,
}

impl Longest {
    /// Whether it is this very span.
    pub(super) fn is(&self, span: &Span) -> bool {
        self.who == span.who && self.since_ns == span.since_ns && Some(self.ns) == span.ns
    }
}

/// What others waited for a hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caused {
    /// Summed over the waiters, in nanoseconds.
    pub ns: u64,
    /// How many.
    pub waiters: u32,
}

/// Durations of one kind in one group.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many have a known length.
    pub count: u64,
    /// How many have not.
    pub unknown: u64,
    /// Their sum in nanoseconds.
    pub total_ns: u64,
    /// Holds that others waited for; the rest were idle.
    pub contended: u64,
    /// For how long, in nanoseconds.
    pub caused_ns: u64,
    /// The longest.
    pub longest: Longest,
    sizes: Sizes,
}

impl Summary {
    /// Adds one; `comm` is asked for when it is the longest.
    #[inline]
    pub fn record(&mut self, span: &Span, caused: Caused, comm: impl FnOnce() -> [u8; COMM_LEN]) {
        let Some(ns) = span.ns else {
            self.unknown += 1;
            return;
        };
        self.count += 1;
        self.total_ns = self.total_ns.saturating_add(ns);
        self.sizes.add(hist::index(ns), 1);
        if caused.ns > 0 {
            self.contended += 1;
            self.caused_ns = self.caused_ns.saturating_add(caused.ns);
        }
        if ns > self.longest.ns || self.count == 1 {
            self.longest = Longest {
                ns,
                since_ns: span.since_ns,
                lock: span.lock,
                who: span.who,
                comm: comm(),
                place: span.place,
                site: span.site,
                stacks: (0, 0),
                caused_ns: caused.ns,
                waiters: caused.waiters,
            };
        }
    }

    /// The stack of the span that was recorded last, if it is the longest.
    pub(super) fn stack(&mut self, span: &Span, stacks: (u32, u32)) {
        if self.longest.is(span) {
            self.longest.stacks = stacks;
        }
    }

    /// Takes in another.
    pub fn merge(&mut self, other: &Self) {
        if other.longest.ns > self.longest.ns || self.count == 0 {
            self.longest = other.longest;
        }
        self.count += other.count;
        self.unknown += other.unknown;
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        self.contended += other.contended;
        self.caused_ns = self.caused_ns.saturating_add(other.caused_ns);
        self.sizes.merge(&other.sizes);
    }

    /// The duration that `per_mille` of 1000 do not exceed, rounded up by at most 1/16; 0 if there are none.
    pub fn percentile(&self, per_mille: u64) -> u64 {
        if self.count == 0 {
            return 0;
        }
        let rank = (u128::from(self.count) * u128::from(per_mille)).div_ceil(1000);
        let rank = u64::try_from(rank).unwrap_or(u64::MAX).clamp(1, self.count);
        self.sizes.of_rank(rank).min(self.longest.ns)
    }

    fn reset(&mut self) {
        let mut sizes = core::mem::take(&mut self.sizes);
        sizes.counts.clear();
        *self = Self {
            sizes,
            ..Self::default()
        };
    }
}

/// All durations of one group, by [`What`] and [`Lock`].
#[derive(Clone, Debug, Default)]
pub struct Summaries {
    all: [Option<Box<Summary>>; Self::SLOTS],
    /// Kept for another use.
    #[expect(clippy::vec_box, reason = "they go back into boxes without new memory")]
    spare: Vec<Box<Summary>>,
    /// Rows that were merged into this one.
    pub merged: u64,
}

impl Summaries {
    const SLOTS: usize = What::ALL.len() * Lock::ALL.len();

    const fn at(what: What, lock: Lock) -> usize {
        what as usize * Lock::ALL.len() + lock as usize
    }

    /// Those of one kind; `None`: there are none.
    pub fn get(&self, what: What, lock: Lock) -> Option<&Summary> {
        self.all[Self::at(what, lock)].as_deref()
    }

    /// Those of one kind, to add to.
    #[inline]
    pub fn of(&mut self, what: What, lock: Lock) -> &mut Summary {
        let spare = &mut self.spare;
        self.all[Self::at(what, lock)].get_or_insert_with(|| spare.pop().unwrap_or_default())
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.all.iter().all(Option::is_none)
    }

    /// Time waited and caused to others, in nanoseconds.
    pub fn contention_ns(&self) -> u64 {
        let of = |at: usize| {
            self.all[at].as_deref().map_or(0, |summary| {
                if at / Lock::ALL.len() == What::Hold as usize {
                    summary.caused_ns
                } else {
                    summary.total_ns
                }
            })
        };
        (0..Self::SLOTS).map(of).fold(0, u64::saturating_add)
    }

    /// Time held, in nanoseconds.
    pub fn held_ns(&self) -> u64 {
        let of = |&lock: &Lock| self.get(What::Hold, lock).map_or(0, |summary| summary.total_ns);
        Lock::ALL.iter().map(of).fold(0, u64::saturating_add)
    }

    /// Takes in another.
    pub fn merge(&mut self, other: &Self) {
        self.merged += other.merged;
        for what in What::ALL {
            for lock in Lock::ALL {
                if let Some(summary) = other.get(what, lock) {
                    self.of(what, lock).merge(summary);
                }
            }
        }
    }
}

impl super::rows::Row for Summaries {
    /// Waiting, and making others wait, counts most.
    fn weight(&self) -> u64 {
        self.contention_ns()
            .saturating_mul(16)
            .saturating_add(self.held_ns())
    }

    fn reset(&mut self) {
        for slot in &mut self.all {
            if let Some(mut summary) = slot.take() {
                summary.reset();
                self.spare.push(summary);
            }
        }
        self.merged = 0;
    }
}
