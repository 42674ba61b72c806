//! The latest anomalies, as far as a hole that shows late may explain them.

use std::collections::VecDeque;

use super::{AnomalyKind, Totals};

/// How many are remembered. A hole that shows later than after so many takes back only these.
const KEPT: usize = 4096;

/// One anomaly.
#[derive(Clone, Copy, Debug)]
struct Odd {
    ts_ns: u64,
    kind: AnomalyKind,
    /// It was counted as a coverage hole, too.
    hole: bool,
}

/// The latest anomalies, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent(VecDeque<Odd>);

impl Recent {
    pub(super) fn push(&mut self, ts_ns: u64, kind: AnomalyKind) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Odd {
            ts_ns,
            kind,
            hole: false,
        });
    }

    /// The latest one was counted as a coverage hole, too.
    pub(super) fn mark_hole(&mut self) {
        if let Some(last) = self.0.back_mut() {
            last.hole = true;
        }
    }

    /// Takes back what was counted since.
    pub(super) fn take_back(&mut self, from_ns: u64, totals: &mut Totals) {
        while let Some(&odd) = self.0.back()
            && odd.ts_ns >= from_ns
        {
            self.0.pop_back();
            let count = &mut totals.anomalies[odd.kind as usize];
            *count = count.saturating_sub(1);
            if odd.hole {
                totals.coverage_holes = totals.coverage_holes.saturating_sub(1);
            }
        }
    }
}
