//! What the operations stand on: words of shared memory, and a world that holds them.

use core::sync::atomic::Ordering;

use super::alteration::Alteration;
use super::assertion::{HeldAnswer, LockState};
use super::lockdep::{Complaint, Held, HeldLocks, LockClass, Mode, Order};

/// A VMA of the pool, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmaId(pub u32);

/// An mm, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MmId(pub u32);

/// A task, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u32);

/// An address, as the number of the range it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// The forms that the lock has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// 6.4 to 6.14, with the `seqcount_t` that 6.12.y has: a `rw_semaphore` per VMA, and VMAs are
    /// freed through RCU.
    Rwsem,
    /// 6.15 to 6.19: `vm_refcnt`, `VMA_LOCK_OFFSET`; the whole look-up runs inside RCU.
    Refcnt6_15,
    /// 7.0 and later: `vm_refcnt`, `VM_REFCNT_EXCLUDE_READERS_FLAG`; RCU ends once the VMA is held,
    /// and before a recycled VMA is dropped.
    Refcnt7_0,
}

impl Family {
    /// All of them, oldest first.
    pub const ALL: [Self; 3] = [Self::Rwsem, Self::Refcnt6_15, Self::Refcnt7_0];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rwsem => "6.12",
            Self::Refcnt6_15 => "6.15",
            Self::Refcnt7_0 => "7.0",
        }
    }

    /// What the kernel of this family calls the flag.
    #[must_use]
    pub const fn flag_name(self) -> &'static str {
        match self {
            Self::Rwsem => "none",
            Self::Refcnt6_15 => "VMA_LOCK_OFFSET",
            Self::Refcnt7_0 => "VM_REFCNT_EXCLUDE_READERS_FLAG",
        }
    }

    /// What the kernel of this family calls the limit.
    #[must_use]
    pub const fn limit_name(self) -> &'static str {
        match self {
            Self::Rwsem => "none",
            Self::Refcnt6_15 => "VMA_REF_LIMIT",
            Self::Refcnt7_0 => "VM_REFCNT_LIMIT",
        }
    }
}

/// A word of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Word {
    /// `vma->vm_refcnt`.
    Refcnt(VmaId),
    /// `vma->vm_lock_seq`.
    LockSeq(VmaId),
    /// `vma->vm_mm`.
    VmMm(VmaId),
    /// `vma->vm_start`, as the number of the range.
    Start(VmaId),
    /// What a writer may change and a reader may read: `vm_flags`, `vm_policy`, `anon_vma`.
    Data(VmaId, u8),
    /// What readers may change: a page table entry below the VMA.
    Pte(VmaId),
    /// 6.12: `vma->vm_lock->lock`.
    Rwsem(VmaId),
    /// 6.12: `vma->detached`.
    Detached(VmaId),
    /// `mm->mm_lock_seq`.
    MmSeq(MmId),
    /// `mm->mmap_lock`.
    MmapLock(MmId),
    /// `mm->vma_writer_wait`: the sleeping task's number plus one, or 0.
    Waiter(MmId),
    /// `mm->mm_count`.
    MmCount(MmId),
    /// The tree's answer for an address: the VMA's number plus one, or 0.
    Tree(MmId, Slot),
    /// `task->__state`, one of [`task_state`].
    TaskState(TaskId),
    /// A fatal signal is pending for the task.
    Killed(TaskId),
}

/// Values of [`Word::TaskState`].
pub mod task_state {
    /// Runs, or may run.
    pub const RUNNING: u32 = 0;
    /// Sleeps until woken.
    pub const UNINTERRUPTIBLE: u32 = 1;
    /// Sleeps until woken or killed.
    pub const KILLABLE: u32 = 2;
}

/// Something the lock says about itself while it works, as a tracepoint would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// The mmap_lock is asked for.
    MmapStart(MmId, Mode),
    /// The answer; `false` if a try failed or the waiting task was killed.
    MmapAcquired(MmId, Mode, bool),
    /// The mmap_lock is about to be released.
    MmapReleased(MmId, Mode),
    /// The mmap_lock is about to turn from exclusive to shared.
    MmapDowngrade(MmId),
    /// A VMA is read-locked; `vm_refcnt` right after.
    ReadAcquired(MmId, VmaId, u32),
    /// A reader's look at the sequence numbers says that this VMA is write-locked.
    SeemsWriteLocked(MmId, VmaId),
    /// One attempt met a VMA that is write-locked, detached, or another mm's.
    ReadRefused(MmId, VmaId),
    /// The whole look-up failed.
    ReadFailed(MmId, Slot),
    /// A VMA's reference is about to be dropped. Temporary readers' are reported too, with `false`.
    ReadReleasing(MmId, VmaId, bool),
    /// It is gone; `vm_refcnt` right after.
    ReadReleased(MmId, VmaId, u32, bool),
    /// A writer starts to keep readers out.
    WriteStart(MmId, VmaId),
    /// The VMA is write-locked now; the value of `mm_lock_seq` it is locked with.
    WriteAcquired(MmId, VmaId, u32),
    /// The writer was killed while it waited.
    WriteFailed(MmId, VmaId),
    /// The VMA is detached.
    Detached(MmId, VmaId),
}

/// A warning of the lock's own code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Warning {
    /// Lockdep in small has something to say.
    Lockdep(Complaint),
    /// A VMA that was to stay attached was found detached when its writer finished.
    DetachedUnderWriter(VmaId),
    /// A VMA that was to be detached is not.
    StillAttached(VmaId),
}

/// The shared memory and the environment an operation runs in.
///
/// `&mut self` because the model checker keeps the memory by value; the world of real threads is a
/// handle on atomics.
pub trait World {
    /// Which form of the lock this world has.
    fn family(&self) -> Family;

    /// Is this change switched on? Worlds that only run the lock as it is do not implement it.
    #[inline(always)]
    fn altered(&self, _change: Alteration) -> bool {
        false
    }

    /// Loads a word.
    fn load(&mut self, at: Word, order: Ordering) -> u32;
    /// Stores a word.
    fn store(&mut self, at: Word, value: u32, order: Ordering);
    /// Replaces `current` by `new`; returns what was there, as an error if it was something else.
    /// A failure orders nothing.
    ///
    /// # Errors
    /// The value found.
    fn compare_exchange(&mut self, at: Word, current: u32, new: u32, order: Ordering) -> Result<u32, u32>;
    /// Subtracts; returns what was there.
    fn fetch_sub(&mut self, at: Word, value: u32, order: Ordering) -> u32;
    /// Adds; returns what was there.
    fn fetch_add(&mut self, at: Word, value: u32, order: Ordering) -> u32;
    /// Replaces a word by a function of its newest value, as one indivisible action. The kernel's
    /// own sleeping locks and its scheduler, which are not the subject here, are made of it.
    ///
    /// # Errors
    /// The value found, if `f` gave none.
    fn update(&mut self, at: Word, order: Ordering, f: impl FnMut(u32) -> Option<u32>) -> Result<u32, u32>;
    /// A barrier.
    fn fence(&mut self, order: Ordering);

    /// Lets whoever is blocked on this word look again.
    #[inline(always)]
    fn wake(&mut self, _at: Word) {}

    /// The task is about to look again at something that only another task can change.
    #[inline(always)]
    fn relax(&mut self) {}

    /// The task enters an RCU read section.
    #[inline(always)]
    fn rcu_read_lock(&mut self, _task: TaskId) {}
    /// The task leaves its RCU read section, if it is in one.
    #[inline(always)]
    fn rcu_read_unlock(&mut self, _task: TaskId) {}

    /// Is lockdep on? Off, [`Task::held`] is not kept.
    #[inline(always)]
    fn lockdep(&self) -> bool {
        true
    }
    /// The order in which classes were taken so far.
    fn class_order(&self) -> Order;
    /// Adds to that order.
    fn add_class_order(&mut self, order: Order);

    /// Takes notice of what the lock does.
    #[inline(always)]
    fn note(&mut self, _task: &Task, _note: Note) {}
    /// Takes notice of a warning.
    fn warn(&mut self, task: TaskId, warning: Warning);
}

/// The part of a task that the lock keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Task {
    /// Its number.
    pub id: TaskId,
    /// What it holds.
    pub held: HeldLocks,
}

impl Task {
    /// A task that holds nothing.
    #[must_use]
    pub fn new(id: TaskId) -> Self {
        Self {
            id,
            held: HeldLocks::default(),
        }
    }
}

/// What a step led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow<T> {
    /// There are more steps.
    Again,
    /// No use in another step until the word has another value than this one, or, if `killable`,
    /// the task is killed.
    Blocked {
        /// The word.
        at: Word,
        /// The value it had.
        value: u32,
        /// Does a fatal signal end the wait?
        killable: bool,
    },
    /// The operation is over.
    Done(T),
}

/// A step's surroundings.
pub struct Cx<'a, W> {
    /// Shared memory.
    pub world: &'a mut W,
    /// The task that takes the step.
    pub task: &'a mut Task,
}

/// An operation of the lock.
pub trait Op {
    /// What it results in.
    type Output;
    /// Takes the next step: at most one access to shared memory that others can see.
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<Self::Output>;
}

impl<W: World> Cx<'_, W> {
    #[inline]
    pub(super) fn note(&mut self, note: Note) {
        self.world.note(self.task, note);
    }

    #[inline]
    pub(super) fn lockdep_acquire(&mut self, class: LockClass, instance: u32, mode: Mode, trylock: bool) {
        if !self.world.lockdep() {
            return;
        }
        let order = self.world.class_order();
        match self.task.held.acquire(
            Held {
                class,
                instance,
                mode,
            },
            trylock,
            order,
        ) {
            Ok(Order(0)) => {}
            Ok(added) => self.world.add_class_order(added),
            Err(complaint) => self.world.warn(self.task.id, Warning::Lockdep(complaint)),
        }
    }

    #[inline]
    pub(super) fn lockdep_release(&mut self, class: LockClass, instance: u32) {
        if !self.world.lockdep() {
            return;
        }
        if let Err(complaint) = self.task.held.release(class, instance) {
            self.world.warn(self.task.id, Warning::Lockdep(complaint));
        }
    }
}

/// What the assertions would see if this task called one now.
///
/// The loads are relaxed and not one action: as in the kernel, where nothing else is possible.
pub fn capture<W: World>(cx: &mut Cx<'_, W>, vma: VmaId) -> LockState {
    let mm = MmId(cx.world.load(Word::VmMm(vma), Ordering::Relaxed));
    let mmap_lock = cx.world.load(Word::MmapLock(mm), Ordering::Relaxed);
    let on = cx.world.lockdep();
    let held = |class, instance, mode| -> HeldAnswer { cx.task.held.lock_is_held(on, class, instance, mode) };
    LockState {
        held: held(LockClass::VmLock, vma.0, None),
        mmap_write_held_by_me: held(LockClass::MmapLock, mm.0, Some(Mode::Exclusive)),
        mmap_held_by_me: held(LockClass::MmapLock, mm.0, None),
        mmap_write_locked_by_anyone: super::rwsem::is_write_locked(mmap_lock),
        mmap_locked_by_anyone: super::rwsem::is_locked(mmap_lock),
        refcnt: cx.world.load(Word::Refcnt(vma), Ordering::Relaxed),
        vm_lock_seq: cx.world.load(Word::LockSeq(vma), Ordering::Relaxed),
        mm_lock_seq: cx.world.load(Word::MmSeq(mm), Ordering::Relaxed),
    }
}
