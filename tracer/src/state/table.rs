//! A map with an upper bound: when it is full, what has been idle for long makes room, and is counted.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

/// What can be forgotten without contradicting anything.
pub(super) trait Idle {
    /// Whether nothing is held, awaited or referred to here.
    fn is_idle(&self) -> bool;

    /// Whether it is over with: it is the first to make room then.
    fn is_done(&self) -> bool {
        false
    }
}

/// Numbered slots, found by key. A slot number stays valid until [`Table`] gives the slot away.
#[derive(Clone, Debug)]
pub(super) struct Table<V> {
    index: FxHashMap<u64, u32>,
    slots: Vec<Slot<V>>,
    hand: usize,
    limit: usize,
    /// The key that was asked for last, which is the next one too more often than not.
    last: (u64, u32),
    aged: u64,
    aged_busy: u64,
    /// Slots whose entries will not be asked for any more, as far as is known; each stands here once.
    retired: VecDeque<u32>,
}

#[derive(Clone, Debug)]
struct Slot<V> {
    key: u64,
    /// Used since the hand came by.
    recent: bool,
    /// Waits in [`Table::retired`].
    retired: bool,
    value: V,
}

/// How many slots are looked at for an idle one before a busy one has to go.
const LOOK_AT: usize = 256;

impl<V: Idle> Table<V> {
    /// At most `limit` entries (at least 1).
    pub(super) fn new(limit: usize) -> Self {
        Self {
            index: FxHashMap::default(),
            slots: Vec::new(),
            hand: 0,
            limit: limit.clamp(1, u32::MAX as usize),
            last: (0, u32::MAX),
            aged: 0,
            aged_busy: 0,
            retired: VecDeque::new(),
        }
    }

    /// The slot with that key.
    #[inline]
    pub(super) fn find(&mut self, key: u64) -> Option<u32> {
        if self.last.0 == key && self.last.1 != u32::MAX {
            self.slots[self.last.1 as usize].recent = true;
            return Some(self.last.1);
        }
        let at = *self.index.get(&key)?;
        self.last = (key, at);
        self.slots[at as usize].recent = true;
        Some(at)
    }

    /// The slot with that key and its value, without being noted as used.
    #[inline]
    pub(super) fn peek_slot(&self, key: u64) -> Option<(u32, &V)> {
        let at = if self.last.0 == key && self.last.1 != u32::MAX {
            self.last.1
        } else {
            *self.index.get(&key)?
        };
        Some((at, &self.slots[at as usize].value))
    }

    /// The value with that key, without being noted as used.
    pub(super) fn peek(&self, key: u64) -> Option<&V> {
        self.index.get(&key).map(|&at| &self.slots[at as usize].value)
    }

    /// The slot that a new key will get if it is inserted next: `None` if there is room, else the
    /// one that has to go, whose value the caller may look at and unlink before.
    pub(super) fn make_room(&mut self) -> Option<u32> {
        if self.slots.len() < self.limit {
            return None;
        }
        while let Some(at) = self.retired.pop_front() {
            let slot = &mut self.slots[at as usize];
            slot.retired = false;
            if slot.value.is_done() && slot.value.is_idle() {
                return Some(at);
            }
        }
        for _ in 0..LOOK_AT.min(self.slots.len() * 2) {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[at];
            if slot.recent {
                slot.recent = false;
            } else if slot.value.is_idle() {
                return u32::try_from(at).ok();
            }
        }
        let at = self.hand;
        self.hand = (self.hand + 1) % self.slots.len();
        u32::try_from(at).ok()
    }

    /// Puts a new key in: at the slot that [`Self::make_room`] named, or in a new slot. Gives the slot
    /// and what was there before.
    pub(super) fn insert(&mut self, room: Option<u32>, key: u64, value: V) -> (u32, Option<V>) {
        let new = Slot {
            key,
            recent: true,
            retired: false,
            value,
        };
        let (at, old) = if let Some(at) = room {
            // If it stands among the retired ones, it goes on standing there.
            let retired = self.slots[at as usize].retired;
            let old = core::mem::replace(&mut self.slots[at as usize], Slot { retired, ..new });
            self.index.remove(&old.key);
            self.aged += 1;
            self.aged_busy += u64::from(!old.value.is_idle());
            (at, Some(old.value))
        } else {
            self.slots.push(new);
            (u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX), None)
        };
        self.index.insert(key, at);
        self.last = (key, at);
        (at, old)
    }

    /// An entry is over with.
    pub(super) fn retire(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        if !slot.retired {
            slot.retired = true;
            self.retired.push_back(at);
        }
    }

    /// The key of a slot.
    pub(super) fn key(&self, at: u32) -> u64 {
        self.slots[at as usize].key
    }

    /// How many slots there are.
    pub(super) fn len(&self) -> u32 {
        // No more than the limit, which is one of 32 bits.
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// How many had to make room, and how many of those were not idle.
    pub(super) fn aged(&self) -> (u64, u64) {
        (self.aged, self.aged_busy)
    }

    /// All keys and values, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        self.slots.iter().map(|slot| (slot.key, &slot.value))
    }

    /// All of them, those that are a few places ahead being told of before: one who looks at little of each waits for
    /// memory most of the time otherwise.
    pub(super) fn iter_ahead(&self, ahead: impl Fn(&V)) -> impl Iterator<Item = (u64, &V)> {
        const FAR: usize = 6;
        self.slots.iter().enumerate().map(move |(at, slot)| {
            if let Some(next) = self.slots.get(at + FAR) {
                ahead(&next.value);
            }
            (slot.key, &slot.value)
        })
    }
}

impl<V> core::ops::Index<u32> for Table<V> {
    type Output = V;

    #[inline]
    fn index(&self, at: u32) -> &V {
        &self.slots[at as usize].value
    }
}

impl<V> core::ops::IndexMut<u32> for Table<V> {
    #[inline]
    fn index_mut(&mut self, at: u32) -> &mut V {
        &mut self.slots[at as usize].value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Entry(bool);
    impl Idle for Entry {
        fn is_idle(&self) -> bool {
            self.0
        }
    }

    fn put(table: &mut Table<Entry>, key: u64, idle: bool) -> Option<bool> {
        let room = table.make_room();
        table.insert(room, key, Entry(idle)).1.map(|old| old.0)
    }

    #[test]
    fn idle_ones_make_room_first() {
        let mut table = Table::new(3);
        put(&mut table, 1, false);
        put(&mut table, 2, true);
        put(&mut table, 3, false);
        assert_eq!(put(&mut table, 4, true), Some(true));
        assert!(table.find(2).is_none());
        assert!(table.find(1).is_some() && table.find(3).is_some() && table.find(4).is_some());
        assert_eq!(table.aged(), (1, 0));
    }

    #[test]
    fn a_busy_one_goes_when_all_are_busy() {
        let mut table = Table::new(2);
        put(&mut table, 1, false);
        put(&mut table, 2, false);
        assert_eq!(put(&mut table, 3, false), Some(false));
        assert_eq!(table.iter().count(), 2);
        assert_eq!(table.aged(), (1, 1));
    }

    #[test]
    fn key_zero_is_a_key() {
        let mut table = Table::new(2);
        assert_eq!(table.find(0), None);
        put(&mut table, 0, true);
        assert!(table.find(0).is_some());
    }
}
