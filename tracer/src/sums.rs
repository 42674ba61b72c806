//! What the kernel has summed up (`--mode summary`), on all CPUs.

use std::collections::BTreeMap;

use tracer_common::summary::{BUCKETS, COUNTS, Count, HISTOGRAM_WORDS, MEASURES, Measure, least};

/// Times in buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Times {
    buckets: [u64; BUCKETS],
    sum_ns: u64,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
            sum_ns: 0,
        }
    }
}

impl Times {
    /// How many.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Their sum in nanoseconds, exact.
    pub fn total_ns(&self) -> u64 {
        self.sum_ns
    }

    /// Adds those of another.
    pub fn add(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket = bucket.saturating_add(*more);
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// Every bucket that is not empty: its least time, the least one after it, and how many are in it.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let counted = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        counted.map(|(at, &count)| (least(at), least(at + 1), count))
    }

    /// The time that `permille` of 1000 do not exceed: the longest of its bucket, so rounded up by at most a quarter; 0 if
    /// there are none. The last bucket has no longest: its shortest then.
    pub fn percentile(&self, permille: u64) -> u64 {
        let count = self.count();
        let wanted = u64::try_from((u128::from(count) * u128::from(permille)).div_ceil(1000));
        let wanted = wanted.unwrap_or(u64::MAX).max(1);
        let mut seen = 0;
        for (from_ns, to_ns, count) in self.buckets() {
            seen += count;
            if seen >= wanted {
                return if to_ns == u64::MAX { from_ns } else { to_ns - 1 };
            }
        }
        0
    }

    /// The longest of all, rounded like [`Self::percentile`].
    pub fn longest_ns(&self) -> u64 {
        self.percentile(1000)
    }
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums {
    times: [Times; MEASURES],
    counts: [u64; COUNTS],
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            times: [const {
                Times {
                    buckets: [0; BUCKETS],
                    sum_ns: 0,
                }
            }; MEASURES],
            counts: [0; COUNTS],
        }
    }
}

impl Sums {
    /// From the kernel's `CpuSummary` of so many CPUs, word by word.
    pub fn of_words(cpus: usize, word: impl Fn(usize, usize) -> u64) -> Self {
        let mut sums = Self::default();
        for cpu in 0..cpus {
            for (at, times) in sums.times.iter_mut().enumerate() {
                let first = at * HISTOGRAM_WORDS;
                for (bucket, count) in times.buckets.iter_mut().enumerate() {
                    *count += word(cpu, first + bucket);
                }
                times.sum_ns = times.sum_ns.saturating_add(word(cpu, first + BUCKETS));
            }
            for (at, count) in sums.counts.iter_mut().enumerate() {
                *count += word(cpu, MEASURES * HISTOGRAM_WORDS + at);
            }
        }
        sums
    }

    /// The times of one measure.
    pub fn times(&self, measure: Measure) -> &Times {
        &self.times[measure as usize]
    }

    /// Those of two together.
    pub fn both(&self, one: Measure, other: Measure) -> Times {
        let mut both = self.times(one).clone();
        both.add(self.times(other));
        both
    }

    /// What makes no time, by name, as far as there is any.
    pub fn unpaired(&self) -> BTreeMap<String, u64> {
        let all = Count::ALL.iter().filter(|one| one.is_of_unpaired());
        all.map(|&one| (one.name().to_owned(), self.count(one)))
            .filter(|&(_, number)| number > 0)
            .collect()
    }

    /// What was only counted.
    pub fn count(&self, count: Count) -> u64 {
        self.counts[count as usize]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tracer_common::summary::bucket;

    use super::*;

    /// As the kernel would have it, of one CPU after the other.
    pub(crate) fn sums_of(cpus: &[&[(Measure, u64)]], counts: &[(Count, u64)]) -> Sums {
        let words = MEASURES * HISTOGRAM_WORDS + COUNTS;
        let mut memory = vec![vec![0_u64; words]; cpus.len().max(1)];
        for (cpu, times) in cpus.iter().enumerate() {
            for &(measure, ns) in *times {
                let first = measure as usize * HISTOGRAM_WORDS;
                memory[cpu][first + bucket(ns)] += 1;
                memory[cpu][first + BUCKETS] += ns;
            }
        }
        for &(count, number) in counts {
            memory[0][MEASURES * HISTOGRAM_WORDS + count as usize] = number;
        }
        Sums::of_words(memory.len(), |cpu, word| memory[cpu][word])
    }

    #[test]
    fn all_cpus_are_summed() {
        let held = Measure::HoldVmaFault;
        let sums = sums_of(
            &[&[(held, 1000), (held, 5)], &[(held, 1000)]],
            &[(Count::Crowded, 3)],
        );
        let times = sums.times(held);
        assert_eq!((times.count(), times.total_ns()), (3, 2005));
        assert_eq!(times.buckets().collect::<Vec<_>>(), [(5, 6, 1), (896, 1024, 2)]);
        assert_eq!(sums.times(Measure::WaitVmaWrite).count(), 0);
        assert_eq!(
            (sums.count(Count::Crowded), sums.count(Count::VmaReadFails)),
            (3, 0)
        );
        let both = sums.both(held, Measure::HoldVmaOther);
        assert_eq!(&both, times);
    }

    #[test]
    fn percentiles_are_rounded_up_within_a_bucket() {
        let held = Measure::HoldMmapRead;
        let many: Vec<_> = (1..=100).map(|n| (held, n * 100)).collect();
        let sums = sums_of(&[&many], &[]);
        let times = sums.times(held);
        for (permille, exact) in [(500, 5_000), (900, 9_000), (990, 9_900), (1000, 10_000)] {
            let found = times.percentile(permille);
            assert!(
                found >= exact && found <= exact + exact / 4,
                "{permille}: {found}"
            );
        }
        assert_eq!(Times::default().percentile(500), 0);
        let endless = sums_of(&[&[(held, u64::MAX / 2)]], &[]);
        assert!(endless.times(held).longest_ns() < u64::MAX / 2);
    }
}
