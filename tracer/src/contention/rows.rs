//! Rows by key, bounded: the heaviest stay, the others are merged into a row that says how many they were.

use core::hash::Hash;

use rustc_hash::FxHashMap;

/// What is counted for a key.
pub trait Row: Default {
    /// How much it matters to keep it.
    fn weight(&self) -> u64;
    /// As new; memory may be kept.
    fn reset(&mut self);
}

/// Rows by key. When there are more than the limit, the lighter half goes.
#[derive(Clone, Debug)]
pub struct Rows<K, R> {
    index: FxHashMap<K, u32>,
    rows: Vec<(K, R)>,
    limit: usize,
    /// The key that was asked for last.
    last: Option<(K, u32)>,
    /// Weight of the heaviest row that ever went.
    cut: u64,
    refused: u32,
    /// Changes whenever rows may have moved.
    moves: u32,
    /// For the sort; kept to take no memory each time.
    weights: Vec<(u64, u32)>,
    free: Vec<R>,
}

/// Once there are too many keys, one in so many new ones is let in whatever it weighs.
const ADMIT: u32 = 16;

impl<K: Copy + Eq + Hash, R: Row> Rows<K, R> {
    /// At most `limit` rows (at least 2).
    pub fn new(limit: usize) -> Self {
        Self {
            index: FxHashMap::default(),
            rows: Vec::new(),
            limit: limit.clamp(2, u32::MAX as usize),
            last: None,
            cut: 0,
            refused: 0,
            moves: 0,
            weights: Vec::new(),
            free: Vec::new(),
        }
    }

    /// The row of that key. `None`: there is no room for another key that weighs so little; it belongs to the others.
    /// `gone` gets the rows that make room.
    #[inline]
    pub fn row(&mut self, key: K, weight: u64, gone: impl FnMut(&K, &R)) -> Option<&mut R> {
        let at = self.place(key, weight, gone)?;
        Some(&mut self.rows[at as usize].1)
    }

    /// As [`Self::row`], by number; the number is good until [`Self::moves`] changes.
    #[inline]
    pub fn place(&mut self, key: K, weight: u64, gone: impl FnMut(&K, &R)) -> Option<u32> {
        if let Some((last, at)) = self.last
            && last == key
        {
            return Some(at);
        }
        let at = match self.index.get(&key) {
            Some(&at) => at,
            None => self.insert(key, weight, gone)?,
        };
        self.last = Some((key, at));
        Some(at)
    }

    /// The row with that number.
    #[inline]
    pub fn at(&mut self, at: u32) -> &mut R {
        &mut self.rows[at as usize].1
    }

    /// Another number whenever rows may have moved.
    #[inline]
    pub fn moves(&self) -> u32 {
        self.moves
    }

    /// The row of that key, if it is there.
    pub fn find(&mut self, key: &K) -> Option<&mut R> {
        let at = *self.index.get(key)?;
        Some(&mut self.rows[at as usize].1)
    }

    /// All rows, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &(K, R)> {
        self.rows.iter()
    }

    /// Whether some had to go: rows may then lack a part, which is among the others.
    pub fn is_cut(&self) -> bool {
        self.moves > 0
    }

    fn insert(&mut self, key: K, weight: u64, gone: impl FnMut(&K, &R)) -> Option<u32> {
        if self.is_cut() && self.rows.len() >= self.limit / 2 && weight < self.cut {
            self.refused += 1;
            if !self.refused.is_multiple_of(ADMIT) {
                return None;
            }
        }
        if self.rows.len() >= self.limit {
            self.shrink(gone);
        }
        let at = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        self.rows.push((key, self.free.pop().unwrap_or_default()));
        self.index.insert(key, at);
        Some(at)
    }

    #[cold]
    fn shrink(&mut self, mut gone: impl FnMut(&K, &R)) {
        self.weights.clear();
        let weights = self.rows.iter().zip(0..).map(|((_, row), at)| (row.weight(), at));
        self.weights.extend(weights);
        let keep = self.limit / 2;
        self.weights
            .select_nth_unstable_by_key(keep, |&(weight, at)| (core::cmp::Reverse(weight), at));
        let out = &mut self.weights[keep..];
        out.sort_unstable_by_key(|&(_, at)| core::cmp::Reverse(at));
        for &(weight, at) in &self.weights[keep..] {
            self.cut = self.cut.max(weight);
            let (key, mut row) = self.rows.swap_remove(at as usize);
            gone(&key, &row);
            row.reset();
            self.free.push(row);
        }
        self.index.clear();
        for (at, (key, _)) in (0..).zip(&self.rows) {
            self.index.insert(*key, at);
        }
        self.last = None;
        self.moves = self.moves.wrapping_add(1).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, Default)]
    struct Count(u64);
    impl Row for Count {
        fn weight(&self) -> u64 {
            self.0
        }
        fn reset(&mut self) {
            self.0 = 0;
        }
    }

    #[test]
    fn nothing_is_lost_and_the_heaviest_stay() {
        let mut rows = Rows::<u64, Count>::new(64);
        let mut others = 0;
        let mut sum = 0;
        let mut random = 7_u64;
        for _ in 0..100_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Eight keys come often, thousands now and then.
            let key = if random >> 60 < 8 {
                random >> 60
            } else {
                8 + (random >> 40) % 5_000
            };
            sum += 1;
            let mut gone = 0;
            match rows.row(key, 1, |_, row| gone += row.0) {
                Some(row) => row.0 += 1,
                None => others += 1,
            }
            others += gone;
            assert!(rows.iter().count() <= 64);
        }
        assert_eq!(rows.iter().map(|(_, row)| row.0).sum::<u64>() + others, sum);
        let mut most: Vec<_> = rows.iter().map(|(key, row)| (row.0, *key)).collect();
        most.sort_unstable_by(|one, two| two.cmp(one));
        let mut keys: Vec<u64> = most[..8].iter().map(|&(_, key)| key).collect();
        keys.sort_unstable();
        assert_eq!(keys, (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn a_heavy_newcomer_is_let_in() {
        let mut rows = Rows::<u64, Count>::new(4);
        for key in 0..40 {
            if let Some(row) = rows.row(key, 1, |_, _| ()) {
                row.0 += 1;
            }
        }
        assert!(rows.is_cut());
        rows.row(1_000, 50, |_, _| ()).unwrap().0 += 50;
        assert_eq!(rows.find(&1_000).unwrap().0, 50);
    }
}
