//! One VMA and its mm as a world of the bundled lock, in which one operation runs to its end.
//!
//! The operations are those of [`tracer_common::lock`], step for step; nobody comes between their steps, since what others
//! do meanwhile is the matter of whoever compares.

use core::sync::atomic::Ordering;

use tracer_common::lock::lockdep::Order;
use tracer_common::lock::mmap::{GiveUp, MmapGiveUp, MmapWriteLock};
use tracer_common::lock::read::{Put, ReadOutcome, StartRead};
use tracer_common::lock::world::{Cx, Flow, MmId, Op, Task, TaskId, VmaId, Warning, Word, World};
use tracer_common::lock::write::{MarkDetached, StartWrite, WriteOutcome};
use tracer_common::lock::{Family, VM_REFCNT_EXCLUDE_READERS_FLAG as FLAG};

const VMA: VmaId = VmaId(0);
const MM: MmId = MmId(0);
/// No operation of one task alone takes more steps.
const STEPS: u32 = 64;
/// The word of an `mmap_lock` that one task holds for writing.
const WRITTEN: u32 = 1 << 31;

/// The words that operations touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub refcnt: u32,
    pub vm_lock_seq: u32,
    pub mm_lock_seq: u32,
    mmap_lock: u32,
    /// Of no consequence for whoever is alone.
    state: u32,
}

impl Words {
    pub(super) const fn new(refcnt: u32, vm_lock_seq: u32, mm_lock_seq: u32) -> Self {
        Self {
            refcnt,
            vm_lock_seq,
            mm_lock_seq,
            mmap_lock: if mm_lock_seq & 1 == 1 { WRITTEN } else { 0 },
            state: 0,
        }
    }

    /// Runs an operation; nothing if it waits for somebody.
    #[inline]
    fn run<O: Op>(&mut self, mut op: O) -> Option<O::Output> {
        let mut task = Task::new(TaskId(0));
        let mut cx = Cx {
            world: self,
            task: &mut task,
        };
        for _ in 0..STEPS {
            match op.step(&mut cx) {
                Flow::Again => {}
                Flow::Blocked { .. } => return None,
                Flow::Done(output) => return Some(output),
            }
        }
        None
    }

    /// `vma_start_read`.
    #[inline]
    pub(super) fn start_read(&mut self) -> Option<ReadOutcome> {
        self.run(StartRead::new(MM, VMA))
    }

    /// `vma_refcount_put` of a reader.
    #[inline]
    pub(super) fn put(&mut self) -> bool {
        self.refcnt & !FLAG != 0 && self.run(Put::new(VMA)).is_some()
    }

    /// `vma_start_write`; false if it waits for readers.
    #[inline]
    pub(super) fn start_write(&mut self) -> bool {
        matches!(
            self.run(StartWrite::new(MM, VMA, false)),
            Some(WriteOutcome::Already | WriteOutcome::Locked)
        )
    }

    /// `vma_mark_detached`; false if it waits for readers.
    #[inline]
    pub(super) fn detach(&mut self) -> bool {
        self.refcnt != 0 && self.run(MarkDetached::new(MM, VMA)).is_some()
    }

    /// `mmap_write_lock`; false if somebody writes.
    #[inline]
    pub(super) fn mmap_write_lock(&mut self) -> bool {
        self.run(MmapWriteLock::new(MM, false)).is_some()
    }

    /// `mmap_write_unlock`.
    #[inline]
    pub(super) fn mmap_write_unlock(&mut self) -> bool {
        self.run(MmapGiveUp::new(MM, GiveUp::Unlock)).is_some()
    }

    #[inline]
    fn word(&mut self, at: Word) -> &mut u32 {
        match at {
            Word::Refcnt(_) => &mut self.refcnt,
            Word::LockSeq(_) => &mut self.vm_lock_seq,
            Word::MmSeq(_) => &mut self.mm_lock_seq,
            Word::MmapLock(_) => &mut self.mmap_lock,
            _ => &mut self.state,
        }
    }
}

impl World for Words {
    #[inline(always)]
    fn family(&self) -> Family {
        Family::Refcnt7_0
    }

    #[inline]
    fn load(&mut self, at: Word, _: Ordering) -> u32 {
        match at {
            Word::VmMm(_) => MM.0,
            Word::Waiter(_) | Word::MmCount(_) | Word::Killed(_) => 0,
            _ => *self.word(at),
        }
    }

    #[inline]
    fn store(&mut self, at: Word, value: u32, _: Ordering) {
        if !matches!(at, Word::VmMm(_) | Word::Waiter(_) | Word::MmCount(_)) {
            *self.word(at) = value;
        }
    }

    #[inline]
    fn compare_exchange(&mut self, at: Word, current: u32, new: u32, _: Ordering) -> Result<u32, u32> {
        let word = self.word(at);
        if *word == current {
            Ok(core::mem::replace(word, new))
        } else {
            Err(*word)
        }
    }

    #[inline]
    fn fetch_sub(&mut self, at: Word, value: u32, _: Ordering) -> u32 {
        let word = self.word(at);
        core::mem::replace(word, word.wrapping_sub(value))
    }

    #[inline]
    fn fetch_add(&mut self, at: Word, value: u32, _: Ordering) -> u32 {
        let word = self.word(at);
        core::mem::replace(word, word.wrapping_add(value))
    }

    #[inline]
    fn update(&mut self, at: Word, _: Ordering, mut f: impl FnMut(u32) -> Option<u32>) -> Result<u32, u32> {
        let word = self.word(at);
        match f(*word) {
            Some(new) => Ok(core::mem::replace(word, new)),
            None => Err(*word),
        }
    }

    #[inline(always)]
    fn fence(&mut self, _: Ordering) {}

    #[inline(always)]
    fn lockdep(&self) -> bool {
        false
    }

    fn class_order(&self) -> Order {
        Order::default()
    }

    fn add_class_order(&mut self, _: Order) {}

    fn warn(&mut self, _: TaskId, _: Warning) {}
}

#[cfg(test)]
mod tests {
    use tracer_common::lock::read::ReadFailure;

    use super::*;

    #[test]
    fn a_round_of_operations() {
        let mut words = Words::new(1, u32::MAX, 0);
        assert_eq!(words.start_read(), Some(ReadOutcome::Locked));
        assert_eq!(words.refcnt, 2);
        let mut waits = Words::new(2, u32::MAX, 1);
        assert!(!waits.start_write(), "it waits for the reader");
        assert_eq!(waits.refcnt, FLAG + 2);
        assert!(words.put());
        assert!(words.mmap_write_lock());
        assert_eq!(words.mm_lock_seq, 1);
        assert!(words.start_write());
        assert_eq!((words.refcnt, words.vm_lock_seq), (1, 1));
        assert_eq!(
            words.start_read(),
            Some(ReadOutcome::Failed(ReadFailure::WriteLockedEarly))
        );
        assert!(words.detach());
        assert_eq!(words.refcnt, 0);
        assert!(words.mmap_write_unlock());
        assert_eq!(words.mm_lock_seq, 2);
        assert_eq!(words.start_read(), Some(ReadOutcome::Detached));
    }

    #[test]
    fn readers_are_kept_out() {
        let mut words = Words::new(FLAG + 2, 1, 3);
        assert_eq!(
            words.start_read(),
            Some(ReadOutcome::Failed(ReadFailure::Excluded))
        );
        assert!(!Words::new(2, 3, 3).detach(), "a temporary reader is inside");
        assert!(!Words::new(1, 1, 3).mmap_write_lock(), "somebody writes");
    }
}
