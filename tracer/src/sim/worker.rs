//! What a thread of the simulation does: faults, and changes of address spaces.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::SyncSender;

use tracer_common::lock::arena::{Observer, Thread, Unobserved};
use tracer_common::lock::platform::Std;
use tracer_common::lock::{MmId, Slot, Task, TaskId, VmaId, Word};

use super::observe::{Batch, Changes, Recorder};
use super::{MMS, PAUSE, Shared};

/// One thread.
pub(super) struct Worker<'a> {
    shared: &'a Shared,
    id: u32,
    random: u64,
}

impl<'a> Worker<'a> {
    pub(super) fn new(shared: &'a Shared, id: u32) -> Self {
        let random = shared.setup.seed ^ (u64::from(id) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { shared, id, random }
    }

    /// splitmix64.
    fn random(&mut self, below: u32) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u64::from((z ^ z >> 31) as u32) * u64::from(below)) >> 32) as u32
    }

    pub(super) fn run_watched(self, sender: SyncSender<Batch>) {
        let recorder = Recorder::new(self.shared, self.id, sender);
        let thread = self.shared.arena.observed_thread(TaskId(self.id), recorder);
        self.run(thread).observer.finish();
    }

    /// At full speed: nobody watches.
    pub(super) fn run_unwatched(self) {
        let thread = self.shared.arena.thread(TaskId(self.id));
        self.run(thread);
    }

    fn run<O: Watcher>(mut self, mut thread: Thread<'a, Std, O>) -> Thread<'a, Std, O> {
        let mut operations = 0;
        while !self.shared.stop.load(Relaxed) && !thread.observer.closed() {
            // A round is some hundred operations, so that counting and looking cost nothing.
            for _ in 0..64 {
                operations += if self.id < self.shared.setup.writers {
                    self.change(&mut thread)
                } else {
                    self.fault(&mut thread)
                };
                if O::WATCHES && (self.shared.stop.load(Relaxed) || thread.observer.closed()) {
                    break;
                }
            }
            self.shared.operations[self.id as usize].store(operations, Relaxed);
        }
        thread
    }

    fn slot(&mut self) -> Slot {
        Slot(self.random(self.shared.setup.slots()))
    }

    /// A page fault: the VMA's lock if it can be had, else the mmap_lock. The number of lock
    /// operations: each attempt to take a lock is one, each release is one.
    fn fault<O: Watcher>(&mut self, thread: &mut Thread<'a, Std, O>) -> u64 {
        let (mm, slot) = (MmId(self.id % MMS), self.slot());
        if let Ok(vma) = thread.lock_vma_under_rcu(mm, slot) {
            between(thread, &Changes::default());
            self.look(thread, vma);
            thread.vma_end_read(vma);
            between(thread, &Changes::default());
            return 2;
        }
        between(thread, &Changes::default());
        if self.random(4) == 0 {
            if !thread.mmap_read_trylock(mm) {
                between(thread, &Changes::default());
                return 2;
            }
        } else {
            thread.mmap_read_lock(mm);
        }
        between(thread, &Changes::default());
        let locked = thread
            .find(mm, slot)
            .filter(|&vma| thread.vma_start_read_locked(mm, vma));
        between(thread, &Changes::default());
        thread.mmap_read_unlock(mm);
        between(thread, &Changes::default());
        let Some(vma) = locked else { return 4 };
        self.look(thread, vma);
        thread.vma_end_read(vma);
        between(thread, &Changes::default());
        5
    }

    /// Under the read lock: the two halves of every change belong together.
    fn look<O: Watcher>(&self, thread: &Thread<'a, Std, O>, vma: VmaId) {
        let half = |n| thread.arena().peek(Word::Data(vma, n));
        assert_eq!(half(0), half(1), "the lock let a reader in beside a writer");
    }

    /// A system call that changes the address space.
    fn change<O: Watcher>(&mut self, thread: &mut Thread<'a, Std, O>) -> u64 {
        let mm = MmId(self.random(MMS));
        let mut changes = Changes::default();
        let mut operations = 2;
        thread.mmap_write_lock(mm);
        between(thread, &changes);
        for _ in 0..=self.random(3) {
            let slot = self.slot();
            let found = thread.find(mm, slot);
            match (self.random(4), found) {
                (0, Some(vma)) => {
                    thread.unmap(mm, slot);
                    changes.detach(vma);
                    operations += 2;
                }
                (_, None) => {
                    if let Some(vma) = thread.map(mm, slot) {
                        changes.lock(mm, vma);
                    }
                    operations += 2;
                }
                (_, Some(vma)) => {
                    thread.vma_start_write(mm, vma);
                    changes.lock(mm, vma);
                    let value = self.random(u32::MAX);
                    thread.arena().poke(Word::Data(vma, 0), value);
                    thread.arena().poke(Word::Data(vma, 1), value);
                    operations += 1;
                }
            }
            between(thread, &changes);
        }
        if self.random(8) == 0 {
            thread.mmap_write_downgrade(mm);
            between(thread, &Changes::default());
            thread.mmap_read_unlock(mm);
            operations += 1;
        } else {
            thread.mmap_write_unlock(mm);
        }
        between(thread, &Changes::default());
        if !O::WATCHES {
            for _ in 0..self.random(PAUSE) {
                std::hint::spin_loop();
            }
        }
        operations
    }
}

/// An observer that is also told of the instants between two operations.
pub(super) trait Watcher: Observer {
    /// Does it do anything?
    const WATCHES: bool;
    /// Between two operations.
    fn between(&mut self, task: &Task, changes: &Changes);
    /// Is there no use in going on?
    fn closed(&self) -> bool;
}

impl Watcher for Unobserved {
    const WATCHES: bool = false;
    #[inline(always)]
    fn between(&mut self, _: &Task, _: &Changes) {}
    #[inline(always)]
    fn closed(&self) -> bool {
        false
    }
}

impl Watcher for Recorder<'_> {
    const WATCHES: bool = true;
    fn between(&mut self, task: &Task, changes: &Changes) {
        Self::between(self, task, changes);
    }
    fn closed(&self) -> bool {
        self.closed
    }
}

fn between<O: Watcher>(thread: &mut Thread<'_, Std, O>, changes: &Changes) {
    let task = *thread.task();
    thread.observer.between(&task, changes);
}
