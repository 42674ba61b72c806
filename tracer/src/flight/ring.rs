//! The latest events, bounded in time and in bytes.

use std::collections::VecDeque;

use tracer_common::wire::{Event, Kind};

use crate::recording::{BLOCK_MEMORY, MemoryBlock};

/// Part of the time that one block spans at most, so that what is too old can go in small pieces.
const PARTS: u64 = 32;
/// Events of one CPU may stand in another order than their numbers, but not by more than so many.
const PERMUTED: u32 = 64;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Nanoseconds before the latest event. A block more may be kept.
    pub last_ns: u64,
    /// Bytes of memory, for events; at least one block is kept.
    pub bytes: usize,
}

/// What had to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Events that had become too old.
    pub by_time: u64,
    /// Events that had not, but for which there was no more memory.
    pub by_bytes: u64,
    /// Time of the last of these, in nanoseconds; 0: there was none.
    pub by_bytes_ns: u64,
}

/// The latest events, oldest first.
#[derive(Debug)]
pub struct Ring {
    blocks: VecDeque<MemoryBlock>,
    spare: Vec<MemoryBlock>,
    limits: Limits,
    /// Nothing goes: it is being written.
    kept: bool,
    evicted: Evicted,
    /// By CPU: the number that comes next, as far as events tell.
    next: Vec<u32>,
}

impl Ring {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        Self {
            blocks: VecDeque::new(),
            spare: Vec::new(),
            limits,
            kept: false,
            evicted: Evicted::default(),
            next: Vec::new(),
        }
    }

    /// Adds an event, the latest by now, and lets go what is too old or too much.
    #[inline]
    pub fn push(&mut self, event: &Event) {
        self.count(event);
        let ts_ns = event.header.ts_ns;
        let fits = self.blocks.back().is_some_and(|block| {
            !block.is_full() && ts_ns.saturating_sub(block.first_ns) <= self.limits.last_ns / PARTS
        });
        if !fits {
            self.make_room(ts_ns);
        }
        if let Some(block) = self.blocks.back_mut() {
            block.push(event);
        }
    }

    fn count(&mut self, event: &Event) {
        let cpu = usize::from(event.header.cpu);
        if cpu >= self.next.len() {
            self.next.resize(cpu + 1, 0);
        }
        let after = event.header.seq.wrapping_add(numbers(event));
        if is_ahead(after, self.next[cpu]) {
            self.next[cpu] = after;
        }
    }

    #[cold]
    fn make_room(&mut self, now_ns: u64) {
        while let Some(front) = self.blocks.front().filter(|_| !self.kept) {
            if now_ns.saturating_sub(front.last_ns) > self.limits.last_ns {
                self.evicted.by_time += u64::from(front.count);
            } else if (self.blocks.len() + 1) * BLOCK_MEMORY > self.limits.bytes {
                self.evicted.by_bytes += u64::from(front.count);
                self.evicted.by_bytes_ns = front.last_ns;
            } else {
                break;
            }
            self.pop();
        }
        let block = self.spare.pop().unwrap_or_default();
        self.blocks.push_back(block);
    }

    fn pop(&mut self) {
        if let Some(mut block) = self.blocks.pop_front() {
            block.clear();
            // One is enough: for each that comes, one goes.
            if self.spare.is_empty() {
                self.spare.push(block);
            }
        }
    }

    /// Whether all is to be kept from now on, whatever the limits; whoever wants that takes care of the memory.
    pub fn keep_all(&mut self, all: bool) {
        self.kept = all;
    }

    /// Whether it takes as much memory as it may.
    pub fn is_at_limit(&self) -> bool {
        (self.blocks.len() + 1) * BLOCK_MEMORY > self.limits.bytes
    }

    /// Hands the oldest block on, and forgets it if that went well.
    ///
    /// # Errors
    /// Of `take`.
    pub fn drain_one<E>(&mut self, take: impl FnOnce(&mut MemoryBlock) -> Result<(), E>) -> Result<bool, E> {
        let Some(block) = self.blocks.front_mut() else {
            return Ok(false);
        };
        take(block)?;
        self.pop();
        Ok(true)
    }

    /// What had to go so far.
    pub fn evicted(&self) -> Evicted {
        self.evicted
    }

    /// Events in it.
    pub fn len(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.count)).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.blocks.iter().all(|block| block.count == 0)
    }

    /// Memory that it takes, in bytes.
    pub fn memory(&self) -> usize {
        (self.blocks.len() + self.spare.len()) * BLOCK_MEMORY
    }

    /// Times of the first and the last event, in nanoseconds.
    pub fn span(&self) -> Option<(u64, u64)> {
        Some((self.blocks.front()?.first_ns, self.blocks.back()?.last_ns))
    }

    /// By CPU: the number of its first event here, or of the next one to come if there is none.
    pub fn first_numbers(&self) -> Vec<u32> {
        let mut first: Vec<Option<u32>> = vec![None; self.next.len()];
        let mut missing = first.len();
        'all: for (at, block) in self.blocks.iter().enumerate() {
            for event in block.events().flatten() {
                let slot = &mut first[usize::from(event.header.cpu)];
                match slot {
                    None => {
                        *slot = Some(event.header.seq);
                        missing -= 1;
                    }
                    // Neighbours may have come swapped.
                    Some(known) if known.wrapping_sub(event.header.seq).wrapping_sub(1) < PERMUTED => {
                        *known = event.header.seq;
                    }
                    Some(_) => {}
                }
            }
            if missing == 0 && at > 0 {
                break 'all;
            }
        }
        let known = first.into_iter().zip(&self.next);
        known.map(|(first, &next)| first.unwrap_or(next)).collect()
    }

    /// By CPU: the number that comes next.
    pub fn next_numbers(&self) -> &[u32] {
        &self.next
    }
}

/// How many numbers an event covers.
fn numbers(event: &Event) -> u32 {
    if event.kind == Kind::Gap {
        event.body.arg
    } else {
        1
    }
}

/// Whether a wrapping number comes after another.
fn is_ahead(number: u32, other: u32) -> bool {
    number.wrapping_sub(other).wrapping_sub(1) < 1 << 31
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn event(ts_ns: u64, cpu: u16, seq: u32) -> Event {
        let mut event = Event::synthetic(Kind::FaultEnd, ts_ns);
        (event.header.cpu, event.header.seq) = (cpu, seq);
        event
    }

    fn kept(ring: &mut Ring) -> Vec<u64> {
        let mut times = Vec::new();
        while ring
            .drain_one(|block| {
                times.extend(block.events().map(|event| event.unwrap().header.ts_ns));
                Ok::<(), ()>(())
            })
            .unwrap()
        {}
        times
    }

    #[test]
    fn what_is_old_goes_and_what_is_young_stays() {
        let mut ring = Ring::new(Limits {
            last_ns: 100 * MS,
            bytes: 64 << 20,
        });
        for ms in 0..1000 {
            ring.push(&event(ms * MS, 0, ms as u32));
        }
        assert_eq!(ring.evicted().by_bytes, 0);
        let (first, last) = ring.span().unwrap();
        assert_eq!(last, 999 * MS);
        // At most a block and the event that opened the latest one more.
        assert!((100 * MS..=108 * MS).contains(&(last - first)), "{first}");
        assert_eq!(ring.first_numbers(), [(first / MS) as u32]);
        assert_eq!(ring.evicted().by_time + ring.len(), 1000);
        assert_eq!(kept(&mut ring).len() as u64, 1000 - ring.evicted().by_time);
    }

    #[test]
    fn memory_has_an_end_and_what_it_cost_is_told() {
        let bytes = 1 << 20;
        let mut ring = Ring::new(Limits {
            last_ns: u64::MAX,
            bytes,
        });
        for at in 0..200_000 {
            ring.push(&event(at, 0, at as u32));
            assert!(ring.memory() <= bytes + BLOCK_MEMORY);
        }
        let evicted = ring.evicted();
        assert_eq!(evicted.by_time, 0);
        assert!(evicted.by_bytes > 0);
        assert_eq!(evicted.by_bytes + ring.len(), 200_000);
        assert_eq!(ring.span().unwrap().0, evicted.by_bytes_ns + 1);
    }

    #[test]
    fn a_cpu_that_was_quiet_goes_on_where_it_was() {
        let mut ring = Ring::new(Limits {
            last_ns: 10 * MS,
            bytes: 64 << 20,
        });
        ring.push(&event(0, 1, 41));
        for ms in 1..200 {
            ring.push(&event(ms * MS, 0, ms as u32));
        }
        assert_eq!(ring.first_numbers()[1], 42);
    }

    #[test]
    fn numbers_that_came_swapped_and_numbers_that_wrap_are_known() {
        let mut ring = Ring::new(Limits {
            last_ns: u64::MAX,
            bytes: 64 << 20,
        });
        for (ts, seq) in [(1, u32::MAX), (2, u32::MAX - 1), (3, 0), (4, 1)] {
            ring.push(&event(ts, 0, seq));
        }
        assert_eq!(ring.first_numbers(), [u32::MAX - 1]);
        assert_eq!(ring.next_numbers(), [2]);
    }

    proptest! {
        #[test]
        fn nothing_disappears_uncounted(
            steps in prop::collection::vec(0..20 * MS, 1..400),
            last in 1..200 * MS,
            blocks in 1..6_usize,
        ) {
            let mut ring = Ring::new(Limits { last_ns: last, bytes: blocks * BLOCK_MEMORY });
            let mut now = 0;
            for (seq, step) in steps.iter().enumerate() {
                now += step;
                ring.push(&event(now, 0, seq as u32));
                prop_assert!(ring.memory() <= (blocks + 1) * BLOCK_MEMORY);
            }
            let evicted = ring.evicted();
            prop_assert_eq!(evicted.by_time + evicted.by_bytes + ring.len(), steps.len() as u64);
            // What is left is the end of the stream, without a hole.
            let first = ring.first_numbers()[0];
            prop_assert_eq!(u64::from(first), steps.len() as u64 - ring.len());
            // Nothing younger than asked for had to go for its age.
            if evicted.by_bytes == 0
                && let Some((first, last_event)) = ring.span()
            {
                prop_assert!(evicted.by_time == 0 || last_event - first + 20 * MS >= last);
            }
        }
    }
}
