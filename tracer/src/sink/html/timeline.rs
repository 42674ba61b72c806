//! What happened when, in bounded memory: sums over steps that grow with the recording, and the longest waits and holds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tracer_common::wire::{COMM_LEN, Event, Kind, Provenance};

use crate::export::Interval;
use crate::state::{Lock, What};

/// Steps at most; when there are more, two become one.
const STEPS: usize = 2_000;
/// Waits and holds that are kept.
const LONGEST: usize = 4_000;

/// Sums over one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) events: u64,
    /// Time that was waited for somebody, of waits that ended in it, in nanoseconds.
    pub(super) waited_ns: u64,
    /// Look-ups that failed.
    pub(super) failed: u64,
    /// Events that are missing.
    pub(super) lost: u64,
}

/// Sums over time.
#[derive(Debug)]
pub(super) struct Timeline {
    start_ns: u64,
    pub(super) step_ns: u64,
    pub(super) steps: Vec<Step>,
}

impl Timeline {
    pub(super) fn new(start_ns: u64) -> Self {
        Self {
            start_ns,
            step_ns: 1_000,
            steps: Vec::new(),
        }
    }

    pub(super) fn event(&mut self, event: &Event) {
        let step = self.at(event.header.ts_ns);
        step.events += 1;
        match event.kind {
            Kind::VmaReadFail => step.failed += 1,
            Kind::Gap => step.lost += u64::from(event.body.arg),
            _ => {}
        }
    }

    pub(super) fn waited(&mut self, ts_ns: u64, ns: u64) {
        self.at(ts_ns).waited_ns += ns;
    }

    fn at(&mut self, ts_ns: u64) -> &mut Step {
        let since = ts_ns.saturating_sub(self.start_ns);
        while since / self.step_ns >= STEPS as u64 {
            self.step_ns *= 2;
            let halves = core::mem::take(&mut self.steps);
            self.steps = halves
                .chunks(2)
                .map(|pair| {
                    pair.iter().fold(Step::default(), |sum, step| Step {
                        events: sum.events + step.events,
                        waited_ns: sum.waited_ns + step.waited_ns,
                        failed: sum.failed + step.failed,
                        lost: sum.lost + step.lost,
                    })
                })
                .collect();
        }
        // Below STEPS, by the loop.
        let at = usize::try_from(since / self.step_ns).unwrap_or(STEPS);
        if at >= self.steps.len() {
            self.steps.resize(at + 1, Step::default());
        }
        &mut self.steps[at]
    }
}

/// One wait or hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bar {
    pub(super) ns: u64,
    pub(super) begin_ns: u64,
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) comm: [u8; COMM_LEN],
    pub(super) what: What,
    pub(super) lock: Lock,
    pub(super) how: Provenance,
    /// The thread that was waited for; 0: none.
    pub(super) holder: u32,
}

impl Ord for Bar {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        let key = |bar: &Self| (bar.ns, bar.begin_ns, bar.tid, bar.what as u8, bar.lock as u8);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Bar {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The longest ones.
#[derive(Debug, Default)]
pub(super) struct Longest {
    heap: BinaryHeap<Reverse<Bar>>,
    /// All, the others included.
    pub(super) seen: u64,
}

impl Longest {
    pub(super) fn add(&mut self, interval: &Interval) {
        let (Some(ns), Some(begin_ns)) = (interval.ns(), interval.begin_ns()) else {
            return;
        };
        self.seen += 1;
        if self.heap.len() >= LONGEST && self.heap.peek().is_some_and(|least| ns <= least.0.ns) {
            return;
        }
        let span = &interval.span;
        self.heap.push(Reverse(Bar {
            ns,
            begin_ns,
            pid: span.who.pid,
            tid: span.who.tid,
            comm: interval.comm,
            what: span.what,
            lock: span.lock,
            how: span.how,
            holder: interval.holder.map_or(0, |holder| holder.tid),
        }));
        if self.heap.len() > LONGEST {
            self.heap.pop();
        }
    }

    /// The kept ones, in no order.
    pub(super) fn bars(&self) -> impl ExactSizeIterator<Item = &Bar> {
        self.heap.iter().map(|Reverse(bar)| bar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_stay_when_steps_grow() {
        let mut timeline = Timeline::new(1_000);
        for at in 0..10_000u64 {
            timeline.event(&Event::synthetic(Kind::MmapStart, 1_000 + at * at));
        }
        timeline.waited(1_000, 7);
        assert!(timeline.steps.len() <= STEPS && timeline.steps.len() > STEPS / 4);
        assert_eq!(timeline.steps.iter().map(|step| step.events).sum::<u64>(), 10_000);
        assert_eq!(timeline.steps[0].waited_ns, 7);
    }
}
