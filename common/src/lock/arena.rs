//! The lock on real atomics: a pool of VMAs, some mms, some tasks, and threads that work on them.

use core::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};

use super::alteration::Alteration;
use super::lockdep::{Complaint, Order};
use super::mmap::{
    GiveUp, Kill, MmapGiveUp, MmapReadLock, MmapReadTrylock, MmapReadUnlock, MmapWriteLock, SpeculateRetry,
    SpeculateTryBegin,
};
use super::platform::{AtomicWord, Platform, Std, Turnstile};
use super::read::{LockVmaUnderRcu, Put, ReadFailure, StartReadLocked};
use super::refcnt::VM_LOCK_SEQ_NEVER;
use super::world::{
    Cx, Family, Flow, MmId, Note, Op, Slot, Task, TaskId, VmaId, Warning, Word, World, capture,
};
use super::write::{InitVma, MarkAttached, MarkDetached, StartWrite, WriteOutcome};
use super::{LockState, assertion};

/// How large an [`Arena`] is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// VMAs in the pool.
    pub vmas: u32,
    /// Address spaces.
    pub mms: u32,
    /// Ranges in each address space.
    pub slots: u32,
    /// Tasks.
    pub tasks: u32,
}

/// One VMA, on a cache line of its own.
#[repr(align(64))]
struct Vma<P: Platform> {
    refcnt: P::Atomic,
    lock_seq: P::Atomic,
    vm_mm: P::Atomic,
    start: P::Atomic,
    data: [P::Atomic; 2],
    pte: P::Atomic,
    rwsem: P::Atomic,
    detached: P::Atomic,
}

#[repr(align(64))]
struct Mm<P: Platform> {
    seq: P::Atomic,
    mmap_lock: P::Atomic,
    waiter: P::Atomic,
    count: P::Atomic,
    tree: Box<[P::Atomic]>,
    turnstile: P::Turnstile,
}

#[repr(align(64))]
struct TaskWords<P: Platform> {
    state: P::Atomic,
    killed: P::Atomic,
    /// Odd inside an RCU read section; kept only for 6.12, the one family that frees through RCU.
    rcu: P::Atomic,
    turnstile: P::Turnstile,
}

/// Shared memory of the lock.
pub struct Arena<P: Platform = Std> {
    vmas: Box<[Vma<P>]>,
    mms: Box<[Mm<P>]>,
    tasks: Box<[TaskWords<P>]>,
    /// One bit per VMA in the pool; the lowest free one is reused first, and at once.
    pool: Box<[P::Atomic]>,
    class_order: P::Atomic,
    warnings: P::Atomic,
    /// For 6.12's per-VMA semaphores, which may be in any VMA.
    turnstile: P::Turnstile,
    family: Family,
    alteration: Option<Alteration>,
    lockdep: bool,
}

fn words<A: AtomicWord>(number: u32, value: impl Fn(u32) -> u32) -> Box<[A]> {
    (0..number).map(|n| A::new(value(n))).collect()
}

impl<P: Platform> Arena<P> {
    /// An arena in which every VMA is in the pool and every address is unmapped.
    ///
    /// With `lockdep`, every task knows what it holds; without, nobody asks.
    #[must_use]
    pub fn new(family: Family, size: Size, lockdep: bool) -> Self {
        let word = P::Atomic::new;
        let vma = |_| Vma {
            refcnt: word(0),
            lock_seq: word(VM_LOCK_SEQ_NEVER),
            vm_mm: word(0),
            start: word(0),
            data: [word(0), word(0)],
            pte: word(0),
            rwsem: word(0),
            detached: word(1),
        };
        let mm = |_| Mm {
            seq: word(0),
            mmap_lock: word(0),
            waiter: word(0),
            count: word(1),
            tree: words(size.slots, |_| 0),
            turnstile: P::Turnstile::new(),
        };
        let task = |_| TaskWords {
            state: word(0),
            killed: word(0),
            rcu: word(0),
            turnstile: P::Turnstile::new(),
        };
        Self {
            vmas: (0..size.vmas).map(vma).collect(),
            mms: (0..size.mms).map(mm).collect(),
            tasks: (0..size.tasks).map(task).collect(),
            pool: words(size.vmas.div_ceil(32), |n| match size.vmas - n * 32 {
                0..32 => (1 << (size.vmas % 32)) - 1,
                _ => u32::MAX,
            }),
            class_order: word(0),
            warnings: word(0),
            turnstile: P::Turnstile::new(),
            family,
            alteration: None,
            lockdep,
        }
    }

    /// The same arena with one change of the lock.
    ///
    /// # Panics
    /// If the platform has no alterations compiled in.
    #[must_use]
    pub fn altered(mut self, change: Alteration) -> Self {
        assert!(P::ALTERABLE, "this platform runs the lock as it is");
        self.alteration = Some(change);
        self
    }

    /// Warnings of the lock and of its lockdep so far.
    pub fn warnings(&self) -> u32 {
        self.warnings.load(Acquire)
    }

    #[inline(always)]
    fn word(&self, at: Word) -> &P::Atomic {
        let vma = |v: VmaId| &self.vmas[v.0 as usize];
        let mm = |m: MmId| &self.mms[m.0 as usize];
        let task = |t: TaskId| &self.tasks[t.0 as usize];
        match at {
            Word::Refcnt(v) => &vma(v).refcnt,
            Word::LockSeq(v) => &vma(v).lock_seq,
            Word::VmMm(v) => &vma(v).vm_mm,
            Word::Start(v) => &vma(v).start,
            Word::Data(v, n) => &vma(v).data[usize::from(n)],
            Word::Pte(v) => &vma(v).pte,
            Word::Rwsem(v) => &vma(v).rwsem,
            Word::Detached(v) => &vma(v).detached,
            Word::MmSeq(m) => &mm(m).seq,
            Word::MmapLock(m) => &mm(m).mmap_lock,
            Word::Waiter(m) => &mm(m).waiter,
            Word::MmCount(m) => &mm(m).count,
            Word::Tree(m, slot) => &mm(m).tree[slot.0 as usize],
            Word::TaskState(t) => &task(t).state,
            Word::Killed(t) => &task(t).killed,
        }
    }

    fn turnstile(&self, at: Word) -> &P::Turnstile {
        match at {
            Word::MmapLock(m) => &self.mms[m.0 as usize].turnstile,
            Word::TaskState(t) => &self.tasks[t.0 as usize].turnstile,
            _ => &self.turnstile,
        }
    }

    /// Waits until no task is in an RCU read section that began before.
    fn synchronize_rcu(&self) {
        P::fence(SeqCst);
        for task in &self.tasks {
            let then = task.rcu.load(SeqCst);
            while then & 1 == 1 && task.rcu.load(SeqCst) == then {
                P::yield_now();
            }
        }
    }
}

/// Takes notice of what the lock does, as tracepoints would.
pub trait Observer {
    /// Called at the instant of the note, in the thread that makes it, with the words it may read.
    fn note<P: Platform>(&mut self, arena: &Arena<P>, task: &Task, note: Note);
}

/// Nobody watches: nothing of the notes is compiled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    #[inline(always)]
    fn note<P: Platform>(&mut self, _: &Arena<P>, _: &Task, _: Note) {}
}

/// A thread's access to an arena: one task of it.
pub struct Thread<'a, P: Platform = Std, O: Observer = Unobserved> {
    arena: &'a Arena<P>,
    task: Task,
    /// Who watches this thread.
    pub observer: O,
}

struct Handle<'a, P: Platform, O> {
    arena: &'a Arena<P>,
    observer: &'a mut O,
}

impl<P: Platform, O: Observer> World for Handle<'_, P, O> {
    #[inline(always)]
    fn family(&self) -> Family {
        self.arena.family
    }
    #[inline(always)]
    fn altered(&self, change: Alteration) -> bool {
        P::ALTERABLE && self.arena.alteration == Some(change)
    }
    #[inline(always)]
    fn load(&mut self, at: Word, order: Ordering) -> u32 {
        self.arena.word(at).load(order)
    }
    #[inline(always)]
    fn store(&mut self, at: Word, value: u32, order: Ordering) {
        self.arena.word(at).store(value, order);
    }
    #[inline(always)]
    fn compare_exchange(&mut self, at: Word, current: u32, new: u32, order: Ordering) -> Result<u32, u32> {
        self.arena.word(at).compare_exchange(current, new, order)
    }
    #[inline(always)]
    fn fetch_sub(&mut self, at: Word, value: u32, order: Ordering) -> u32 {
        self.arena.word(at).fetch_sub(value, order)
    }
    #[inline(always)]
    fn fetch_add(&mut self, at: Word, value: u32, order: Ordering) -> u32 {
        self.arena.word(at).fetch_add(value, order)
    }
    #[inline(always)]
    fn update(
        &mut self,
        at: Word,
        order: Ordering,
        mut f: impl FnMut(u32) -> Option<u32>,
    ) -> Result<u32, u32> {
        let word = self.arena.word(at);
        let mut old = word.load(Acquire);
        while let Some(new) = f(old) {
            match word.compare_exchange(old, new, order) {
                Ok(_) => return Ok(old),
                Err(newer) => old = newer,
            }
        }
        Err(old)
    }
    #[inline(always)]
    fn fence(&mut self, order: Ordering) {
        P::fence(order);
    }
    #[inline(always)]
    fn wake(&mut self, at: Word) {
        if let Word::Killed(task) = at {
            // It may be blocked anywhere.
            for mm in &self.arena.mms {
                mm.turnstile.wake_all();
            }
            self.arena.turnstile.wake_all();
            self.arena.tasks[task.0 as usize].turnstile.wake_all();
            return;
        }
        self.arena.turnstile(at).wake_all();
    }
    #[inline(always)]
    fn relax(&mut self) {
        if P::ALTERABLE {
            // Model checkers want to be told that there is no use in going on at once.
            P::yield_now();
        } else {
            core::hint::spin_loop();
        }
    }
    #[inline(always)]
    fn rcu_read_lock(&mut self, task: TaskId) {
        let rcu = &self.arena.tasks[task.0 as usize].rcu;
        if self.arena.family == Family::Rwsem && rcu.load(Relaxed) & 1 == 0 {
            rcu.fetch_add(1, SeqCst);
            P::fence(SeqCst);
        }
    }
    #[inline(always)]
    fn rcu_read_unlock(&mut self, task: TaskId) {
        let rcu = &self.arena.tasks[task.0 as usize].rcu;
        if self.arena.family == Family::Rwsem && rcu.load(Relaxed) & 1 == 1 {
            rcu.fetch_add(1, SeqCst);
        }
    }
    #[inline(always)]
    fn lockdep(&self) -> bool {
        self.arena.lockdep
    }
    #[inline(always)]
    fn class_order(&self) -> Order {
        Order(self.arena.class_order.load(Relaxed) as u8)
    }
    #[inline(always)]
    fn add_class_order(&mut self, order: Order) {
        let bits = u32::from(order.0);
        // Once all orders have been seen, which is soon, this is a load.
        if self.arena.class_order.load(Relaxed) & bits != bits {
            let _ = self.update_order(bits);
        }
    }
    #[inline(always)]
    fn note(&mut self, task: &Task, note: Note) {
        self.observer.note(self.arena, task, note);
    }
    #[cold]
    fn warn(&mut self, _task: TaskId, _warning: Warning) {
        self.arena.warnings.fetch_add(1, AcqRel);
    }
}

impl<P: Platform, O> Handle<'_, P, O> {
    fn update_order(&self, bits: u32) -> Result<u32, u32> {
        let word = &self.arena.class_order;
        let old = word.load(Relaxed);
        word.compare_exchange(old, old | bits, Relaxed)
    }
}

impl<P: Platform> Arena<P> {
    /// A thread that works as this task. Each task is for one thread at a time.
    #[must_use]
    pub fn thread(&self, task: TaskId) -> Thread<'_, P> {
        self.observed_thread(task, Unobserved)
    }

    /// The same, watched.
    #[must_use]
    pub fn observed_thread<O: Observer>(&self, task: TaskId, observer: O) -> Thread<'_, P, O> {
        assert!(
            (task.0 as usize) < self.tasks.len(),
            "the arena has {} tasks",
            self.tasks.len()
        );
        Thread {
            arena: self,
            task: Task::new(task),
            observer,
        }
    }

    /// The value of a word, for observers and tests.
    #[inline]
    pub fn peek(&self, at: Word) -> u32 {
        self.word(at).load(Relaxed)
    }

    /// Changes a word that the lock guards, for those who hold the lock.
    #[inline]
    pub fn poke(&self, at: Word, value: u32) {
        self.word(at).store(value, Relaxed);
    }
}

impl<'a, P: Platform, O: Observer> Thread<'a, P, O> {
    /// Runs an operation to its end.
    #[inline]
    pub fn run<T: Op>(&mut self, mut op: T) -> T::Output {
        let arena = self.arena;
        loop {
            let mut world = Handle {
                arena,
                observer: &mut self.observer,
            };
            match op.step(&mut Cx {
                world: &mut world,
                task: &mut self.task,
            }) {
                Flow::Again => {}
                Flow::Done(output) => return output,
                Flow::Blocked { at, value, killable } => {
                    let killed = Word::Killed(self.task.id);
                    arena.turnstile(at).wait(&mut || {
                        arena.word(at).load(Acquire) == value
                            && !(killable && arena.word(killed).load(Acquire) != 0)
                    });
                }
            }
        }
    }

    /// The task, with the locks it holds: the truth about "do I hold it".
    #[inline]
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// The arena.
    #[inline]
    pub fn arena(&self) -> &'a Arena<P> {
        self.arena
    }

    /// What the assertions would see if this task called one now.
    pub fn capture(&mut self, vma: VmaId) -> LockState {
        let mut world = Handle {
            arena: self.arena,
            observer: &mut self.observer,
        };
        capture(
            &mut Cx {
                world: &mut world,
                task: &mut self.task,
            },
            vma,
        )
    }

    /// Finds and read-locks the VMA at an address, without the mmap_lock.
    ///
    /// # Errors
    /// Why the caller has to take the mmap_lock instead.
    #[inline]
    pub fn lock_vma_under_rcu(&mut self, mm: MmId, slot: Slot) -> Result<VmaId, ReadFailure> {
        self.run(LockVmaUnderRcu::new(mm, slot))
    }

    /// Read-locks a VMA under the shared mmap_lock.
    #[inline]
    pub fn vma_start_read_locked(&mut self, mm: MmId, vma: VmaId) -> bool {
        self.run(StartReadLocked::new(mm, vma))
    }

    /// Releases a VMA read lock.
    #[inline]
    pub fn vma_end_read(&mut self, vma: VmaId) {
        self.run(Put::new(vma));
    }

    /// Takes the mmap_lock exclusively.
    #[inline]
    pub fn mmap_write_lock(&mut self, mm: MmId) {
        self.run(MmapWriteLock::new(mm, false));
    }

    /// Takes the mmap_lock exclusively, unless killed while waiting.
    #[inline]
    pub fn mmap_write_lock_killable(&mut self, mm: MmId) -> bool {
        self.run(MmapWriteLock::new(mm, true))
    }

    /// Releases the exclusive mmap_lock and with it all VMA write locks.
    #[inline]
    pub fn mmap_write_unlock(&mut self, mm: MmId) {
        self.run(MmapGiveUp::new(mm, GiveUp::Unlock));
    }

    /// Turns the exclusive mmap_lock into a shared one and ends all VMA write locks.
    #[inline]
    pub fn mmap_write_downgrade(&mut self, mm: MmId) {
        self.run(MmapGiveUp::new(mm, GiveUp::Downgrade));
    }

    /// Takes the mmap_lock shared.
    #[inline]
    pub fn mmap_read_lock(&mut self, mm: MmId) {
        self.run(MmapReadLock::new(mm));
    }

    /// Takes the mmap_lock shared if that needs no waiting.
    #[inline]
    pub fn mmap_read_trylock(&mut self, mm: MmId) -> bool {
        self.run(MmapReadTrylock { mm })
    }

    /// Releases the shared mmap_lock.
    #[inline]
    pub fn mmap_read_unlock(&mut self, mm: MmId) {
        self.run(MmapReadUnlock { mm });
    }

    /// Begins to read without any lock.
    #[inline]
    pub fn mmap_lock_speculate_try_begin(&mut self, mm: MmId) -> Option<u32> {
        self.run(SpeculateTryBegin { mm })
    }

    /// Must what was read be thrown away?
    #[inline]
    pub fn mmap_lock_speculate_retry(&mut self, mm: MmId, seq: u32) -> bool {
        self.run(SpeculateRetry { mm, seq })
    }

    /// Write-locks a VMA until the exclusive mmap_lock is given up.
    #[inline]
    pub fn vma_start_write(&mut self, mm: MmId, vma: VmaId) {
        self.run(StartWrite::new(mm, vma, false));
    }

    /// The same, unless killed while waiting for readers.
    #[inline]
    pub fn vma_start_write_killable(&mut self, mm: MmId, vma: VmaId) -> WriteOutcome {
        self.run(StartWrite::new(mm, vma, true))
    }

    /// Sends a fatal signal.
    pub fn kill(&mut self, task: TaskId) {
        self.run(Kill::new(task));
    }

    /// The VMA at an address, for a task that holds the mmap_lock.
    #[inline]
    pub fn find(&self, mm: MmId, slot: Slot) -> Option<VmaId> {
        self.arena
            .word(Word::Tree(mm, slot))
            .load(Acquire)
            .checked_sub(1)
            .map(VmaId)
    }

    /// Maps a VMA from the pool at an unmapped address; needs the exclusive mmap_lock. The VMA is
    /// write-locked afterwards, as a new one is in the kernel. `None` if the pool is empty.
    pub fn map(&mut self, mm: MmId, slot: Slot) -> Option<VmaId> {
        let vma = self.take_from_pool()?;
        self.run(InitVma::new(mm, vma, slot));
        self.run(StartWrite::new(mm, vma, false));
        self.run(MarkAttached { vma });
        self.arena.word(Word::Tree(mm, slot)).store(vma.0 + 1, Release);
        Some(vma)
    }

    /// Unmaps what is at an address and gives the VMA back to the pool, from which it may come back
    /// at once; needs the exclusive mmap_lock. False if nothing was mapped.
    pub fn unmap(&mut self, mm: MmId, slot: Slot) -> bool {
        let Some(vma) = self.find(mm, slot) else {
            return false;
        };
        self.run(StartWrite::new(mm, vma, false));
        self.run(MarkDetached::new(mm, vma));
        self.arena.word(Word::Tree(mm, slot)).store(0, Release);
        if self.arena.family == Family::Rwsem {
            self.arena.synchronize_rcu();
        }
        let bit = 1 << (vma.0 % 32);
        self.arena.pool[vma.0 as usize / 32].fetch_add(bit, Release);
        true
    }

    fn take_from_pool(&self) -> Option<VmaId> {
        for (n, word) in self.arena.pool.iter().enumerate() {
            let mut free = word.load(Acquire);
            while free != 0 {
                let lowest = free.trailing_zeros();
                match word.compare_exchange(free, free & (free - 1), Acquire) {
                    Ok(_) => return Some(VmaId(n as u32 * 32 + lowest)),
                    Err(newer) => free = newer,
                }
            }
        }
        None
    }

    /// Does lockdep find this task in order: nothing held that should not be?
    ///
    /// # Errors
    /// The lock that is still held.
    pub fn expect_nothing_held(&self) -> Result<(), Complaint> {
        match self.task.held.iter().next() {
            None => Ok(()),
            Some(held) => Err(Complaint::NotHeld(held.class)),
        }
    }

    /// `vma_assert_locked` as merged, about this task and now.
    pub fn vma_assert_locked(&mut self, vma: VmaId) -> assertion::Verdict {
        let state = self.capture(vma);
        let lockdep = if self.arena.lockdep {
            assertion::Lockdep::On
        } else {
            assertion::Lockdep::Off
        };
        assertion::vma_assert_locked_merged(lockdep, &state)
    }
}
