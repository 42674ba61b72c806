//! Durations by size: logarithmic, 16 steps to each doubling, so a value is known to 1/16.

const STEPS_LOG2: u32 = 4;
const STEPS: usize = 1 << STEPS_LOG2;
/// Values below `STEPS` have a bucket each; each doubling above has `STEPS`.
const BUCKETS: usize = STEPS + (64 - STEPS_LOG2 as usize) * STEPS;

/// A histogram of nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    total_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS].into(),
            count: 0,
            total_ns: 0,
            max_ns: 0,
        }
    }
}

impl Histogram {
    /// Adds one duration.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        self.buckets[index(ns)] += 1;
        self.count += 1;
        self.total_ns = self.total_ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum in nanoseconds.
    pub fn total_ns(&self) -> u64 {
        self.total_ns
    }

    /// The longest in nanoseconds, exact.
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// Every bucket that is not empty, from the shortest durations on: its smallest and its largest value in
    /// nanoseconds, and how many lie in it.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let counted = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        counted.map(|(at, &count)| (lowest(at), highest(at), count))
    }

    /// The duration that `percent` of all do not exceed, rounded up by at most 1/16; 0 if there are none.
    pub fn percentile(&self, percent: f64) -> u64 {
        if self.count == 0 {
            return 0;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank within count"
        )]
        let rank = ((percent / 100.0 * self.count as f64).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        for (at, &count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return highest(at).min(self.max_ns);
            }
        }
        self.max_ns
    }
}

#[inline]
/// The bucket of a value.
pub(crate) fn index(ns: u64) -> usize {
    if ns < STEPS as u64 {
        return usize::try_from(ns).unwrap_or(0);
    }
    let doubling = 63 - ns.leading_zeros();
    let step = (ns >> (doubling - STEPS_LOG2)) & (STEPS as u64 - 1);
    STEPS + (doubling - STEPS_LOG2) as usize * STEPS + usize::try_from(step).unwrap_or(0)
}

/// The smallest value in a bucket.
pub(crate) fn lowest(at: usize) -> u64 {
    at.checked_sub(1).map_or(0, |before| highest(before) + 1)
}

/// The largest value in a bucket.
pub(crate) fn highest(at: usize) -> u64 {
    if at < STEPS {
        return at as u64;
    }
    let doubling = (at - STEPS) / STEPS;
    let step = ((at - STEPS) % STEPS) as u64;
    let low = (STEPS as u64 + step) << doubling;
    low + ((1 << doubling) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        for shift in 0..64 {
            for delta in [-1i64, 0, 1, 7] {
                let ns = (1u64 << shift).wrapping_add_signed(delta);
                let at = index(ns);
                assert!(at < BUCKETS);
                assert!(highest(at) >= ns, "{ns}");
                assert!(at == 0 || highest(at - 1) < ns, "{ns}");
            }
        }
    }

    #[test]
    fn percentiles_are_within_a_sixteenth() {
        let mut histogram = Histogram::default();
        for ns in 1..=10_000 {
            histogram.record(ns);
        }
        for (percent, exact) in [(50.0, 5_000), (99.0, 9_900), (100.0, 10_000)] {
            let found = histogram.percentile(percent);
            assert!(
                found >= exact && found <= exact + exact / 16,
                "{percent}: {found}"
            );
        }
        assert_eq!(histogram.max_ns(), 10_000);
        assert_eq!(histogram.count(), 10_000);
    }

    #[test]
    fn an_empty_one_has_zeros() {
        assert_eq!(Histogram::default().percentile(99.0), 0);
    }
}
