//! How the clock of one recording stands to that of another.

use super::part::Part;
use crate::info::Anchor;

/// What is known of a recording's clock.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    boot_id: String,
    anchors: Vec<Anchor>,
}

/// How to bring times onto another clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Aligned {
    /// To be added, in nanoseconds.
    pub(super) shift_ns: i64,
    /// How far from true that may be; `None`: nothing tells.
    pub(super) uncertainty_ns: Option<u64>,
}

impl Clock {
    pub(super) fn of(part: &mut Part) -> anyhow::Result<Self> {
        let info = part.info().clone();
        let first = info.anchor.unwrap_or(Anchor {
            monotonic_ns: info.start_monotonic_ns,
            realtime_ns: info.start_realtime_ns,
            read_error_ns: 0,
            realtime_error_ns: None,
        });
        let mut anchors = vec![first];
        anchors.extend(part.anchors()?);
        Ok(Self {
            boot_id: info.boot_id,
            anchors,
        })
    }

    /// Onto the clock `other`.
    pub(super) fn against(&self, other: &Self) -> Aligned {
        if !self.boot_id.is_empty() && self.boot_id == other.boot_id {
            return Aligned {
                shift_ns: 0,
                uncertainty_ns: Some(0),
            };
        }
        let ((mine, my_error), (theirs, their_error)) = (self.offset(), other.offset());
        let shift = mine - theirs;
        Aligned {
            shift_ns: i64::try_from(shift).unwrap_or(if shift < 0 { i64::MIN } else { i64::MAX }),
            uncertainty_ns: my_error
                .zip(their_error)
                .map(|(mine, theirs)| mine.saturating_add(theirs)),
        }
    }

    /// Wall time less monotonic time, and how far off it may be over the whole recording.
    fn offset(&self) -> (i128, Option<u64>) {
        let offset = |anchor: &Anchor| i128::from(anchor.realtime_ns) - i128::from(anchor.monotonic_ns);
        let offsets: Vec<i128> = self.anchors.iter().map(offset).collect();
        let (least, most) = offsets
            .iter()
            .fold((i128::MAX, i128::MIN), |(least, most), &offset| {
                (least.min(offset), most.max(offset))
            });
        // Whoever keeps the clock on the wall in step moves it: the middle is off by half of that at most.
        let middle = least + (most - least) / 2;
        let moved = u64::try_from((most - least + 1) / 2).unwrap_or(u64::MAX);
        let known = |anchor: &Anchor| Some(anchor.realtime_error_ns?.saturating_add(anchor.read_error_ns));
        let error = self
            .anchors
            .iter()
            .map(known)
            .try_fold(0, |most: u64, error| Some(most.max(error?)));
        (middle, error.map(|error| error.saturating_add(moved)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(boot_id: &str, anchors: &[(u64, u64, Option<u64>)]) -> Clock {
        let anchor = |&(monotonic_ns, realtime_ns, realtime_error_ns): &(u64, u64, Option<u64>)| Anchor {
            monotonic_ns,
            realtime_ns,
            read_error_ns: 1,
            realtime_error_ns,
        };
        Clock {
            boot_id: boot_id.to_owned(),
            anchors: anchors.iter().map(anchor).collect(),
        }
    }

    #[test]
    fn one_run_of_a_kernel_has_one_clock() {
        let same = clock("a", &[(0, 500, None)]).against(&clock("a", &[(0, 900, None)]));
        assert_eq!((same.shift_ns, same.uncertainty_ns), (0, Some(0)));
        let unknown = clock("", &[(0, 500, None)]).against(&clock("", &[(0, 900, None)]));
        assert_eq!((unknown.shift_ns, unknown.uncertainty_ns), (-400, None));
    }

    #[test]
    fn hosts_are_aligned_by_their_wall_clocks_and_errors_add_up() {
        let first = clock("a", &[(1_000, 501_000, Some(10))]);
        let second = clock("b", &[(7_000, 501_000, Some(20)), (8_000, 502_100, Some(15))]);
        let aligned = second.against(&first);
        // Offsets 500,000 against 494,000 to 494,100: the same wall time is 5,950 later on the second's own clock.
        assert_eq!(aligned.shift_ns, -5_950);
        assert_eq!(aligned.uncertainty_ns, Some(10 + 1 + 20 + 1 + 50));
        assert_eq!(7_000 + aligned.shift_ns, 1_050);
    }

    #[test]
    fn a_clock_that_nobody_keeps_is_as_uncertain_as_it_is() {
        let first = clock("a", &[(0, 0, Some(10))]);
        let second = clock("b", &[(0, 0, Some(10)), (1, 1, None)]);
        assert_eq!(second.against(&first).uncertainty_ns, None);
    }
}
