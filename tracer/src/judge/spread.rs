//! How far times are off, as a distribution that needs little memory.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::state::hist;

/// A distribution of signed numbers. Quantiles are within a sixteenth of the number; the ends are exact.
#[derive(Clone, Debug, Default)]
pub(super) struct Spread {
    /// Counts by bucket, in the order of the numbers.
    buckets: BTreeMap<i32, u64>,
    count: u64,
    min: i64,
    max: i64,
}

/// What is told of it, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// How many.
    pub count: u64,
    /// The smallest.
    pub min: i64,
    /// As many are below as above.
    pub p50: i64,
    /// One in a hundred is above.
    pub p99: i64,
    /// The largest.
    pub max: i64,
}

fn bucket(value: i64) -> i32 {
    let index = hist::index(value.unsigned_abs()) as i32;
    if value < 0 { -index } else { index }
}

/// The number in the bucket that is nearest to zero.
fn number(bucket: i32) -> i64 {
    let size = hist::lowest(bucket.unsigned_abs() as usize) as i64;
    if bucket < 0 { -size } else { size }
}

impl Spread {
    pub(super) fn add(&mut self, value: i64) {
        if self.count == 0 {
            (self.min, self.max) = (value, value);
        }
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.count += 1;
        *self.buckets.entry(bucket(value)).or_default() += 1;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            (self.min, self.max) = (other.min, other.max);
        }
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.count += other.count;
        for (&bucket, count) in &other.buckets {
            *self.buckets.entry(bucket).or_default() += count;
        }
    }

    pub(super) fn quantiles(&self) -> Quantiles {
        let at = |share: f64| {
            let wanted = (self.count as f64 * share) as u64;
            let mut seen = 0;
            for (&bucket, count) in &self.buckets {
                seen += count;
                if seen > wanted {
                    return number(bucket).clamp(self.min, self.max);
                }
            }
            self.max
        };
        Quantiles {
            count: self.count,
            min: self.min,
            p50: at(0.5),
            p99: at(0.99),
            max: self.max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_their_numbers() {
        for size in [0, 1, 15, 16, 17, 31, 32, 33, 1000, 123_456_789, i64::MAX] {
            for value in [size, -size] {
                let back = number(bucket(value));
                assert!(
                    back.abs() <= size && size - back.abs() <= size / 16,
                    "{value} became {back}"
                );
            }
        }
    }

    #[test]
    fn quantiles_of_both_signs() {
        let mut spread = Spread::default();
        assert_eq!(spread.quantiles(), Quantiles::default());
        for value in -10..=10 {
            spread.add(value);
        }
        spread.add(1000);
        let found = spread.quantiles();
        assert_eq!((found.count, found.min, found.max), (22, -10, 1000));
        assert_eq!(found.p50, 1);
    }
}
