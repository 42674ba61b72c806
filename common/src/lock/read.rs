//! The reader's side: `lock_vma_under_rcu`, `vma_start_read`, `vma_start_read_locked`, `vma_end_read`.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use super::alteration::Alteration;
use super::lockdep::{LockClass, Mode};
use super::refcnt::{__vma_are_readers_excluded, VM_REFCNT_EXCLUDE_READERS_FLAG, VM_REFCNT_LIMIT};
use super::rwsem;
use super::world::{Cx, Family, Flow, MmId, Note, Op, Slot, TaskId, VmaId, Word, World, task_state};

/// Why a VMA was not read-locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadFailure {
    /// The first look found it write-locked.
    WriteLockedEarly,
    /// A writer keeps readers out, or there are too many readers.
    Excluded,
    /// It belongs to another mm by now.
    OtherMm,
    /// The second look found it write-locked.
    WriteLockedLate,
    /// The address is no longer in its range.
    OutOfRange,
    /// There is no VMA at the address.
    NotFound,
}

/// How `vma_start_read` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadOutcome {
    /// Read-locked.
    Locked,
    /// Not locked; the caller takes the mmap_lock instead.
    Failed(ReadFailure),
    /// Detached meanwhile; the caller walks the tree again (`-EAGAIN`).
    Detached,
}

/// `vma_start_read`: tries to read-lock a VMA that was found without any lock, under RCU alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StartRead {
    mm: MmId,
    vma: VmaId,
    pc: StartReadPc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum StartReadPc {
    /// (1) A plain look that spares the counter most hopeless attempts.
    EarlySeq,
    EarlyMmSeq {
        vm_lock_seq: u32,
    },
    /// (2) Take a reference, unless detached or full or excluded.
    Count,
    Take {
        old: u32,
    },
    /// (3) is lockdep's and belongs to the step before. (4) Still our mm's?
    CheckMm {
        refcnt: u32,
    },
    /// (5) Not write-locked?
    LateSeq {
        refcnt: u32,
    },
    LateMmSeq {
        refcnt: u32,
        vm_lock_seq: u32,
    },
    /// 6.12 has the mm from the VMA.
    LateVmMm {
        refcnt: u32,
        vm_lock_seq: u32,
    },
    /// Write-locked: give the reference back.
    PutLate(Put),
    /// Recycled: hold on to the other mm first, whose sleeper may have to be woken.
    OtherMm,
    GrabOther {
        mm: MmId,
    },
    PutOther {
        put: Put,
        grabbed: Option<MmId>,
    },
    DropOther {
        mm: MmId,
    },
}

impl StartRead {
    /// Ready to start.
    #[inline]
    #[must_use]
    pub const fn new(mm: MmId, vma: VmaId) -> Self {
        Self {
            mm,
            vma,
            pc: StartReadPc::EarlySeq,
        }
    }

    /// The VMA on which the task is a temporary reader at this step: it has raised `vm_refcnt` and
    /// does not know yet whether it may stay.
    #[must_use]
    pub const fn temporary_reader(&self) -> Option<VmaId> {
        match &self.pc {
            StartReadPc::CheckMm { .. }
            | StartReadPc::LateSeq { .. }
            | StartReadPc::LateMmSeq { .. }
            | StartReadPc::LateVmMm { .. }
            | StartReadPc::OtherMm
            | StartReadPc::GrabOther { .. } => Some(self.vma),
            StartReadPc::PutLate(put) | StartReadPc::PutOther { put, .. } => put.reference(),
            StartReadPc::EarlySeq
            | StartReadPc::EarlyMmSeq { .. }
            | StartReadPc::Count
            | StartReadPc::Take { .. }
            | StartReadPc::DropOther { .. } => None,
        }
    }

    /// The step that comes next, as the kernel's source numbers and names it.
    #[must_use]
    pub const fn place(&self) -> &'static str {
        match &self.pc {
            StartReadPc::EarlySeq | StartReadPc::EarlyMmSeq { .. } => "vma_start_read (1) early look",
            StartReadPc::Count | StartReadPc::Take { .. } => "vma_start_read (2) take a reference",
            StartReadPc::CheckMm { .. } => "vma_start_read (4) recycled?",
            StartReadPc::LateSeq { .. } | StartReadPc::LateVmMm { .. } | StartReadPc::LateMmSeq { .. } => {
                "vma_start_read (5) write-locked?"
            }
            StartReadPc::PutLate(put) => put.place(),
            StartReadPc::OtherMm => "vma_start_read (4) recycled: whose?",
            StartReadPc::GrabOther { .. } => "vma_start_read (4) recycled: mmgrab",
            StartReadPc::PutOther { put, .. } => put.place(),
            StartReadPc::DropOther { .. } => "vma_start_read (4) recycled: mmdrop",
        }
    }

    #[inline]
    fn refuse<W: World>(&self, cx: &mut Cx<'_, W>, why: ReadFailure) -> Flow<ReadOutcome> {
        cx.note(Note::ReadRefused(self.mm, self.vma));
        Flow::Done(ReadOutcome::Failed(why))
    }

    #[inline]
    fn took<W: World>(&mut self, cx: &mut Cx<'_, W>, refcnt: u32) {
        cx.lockdep_acquire(LockClass::VmLock, self.vma.0, Mode::Shared, true);
        // Freed through RCU, a VMA of 6.12 cannot turn into another mm's under our eyes.
        let checks = cx.world.family() != Family::Rwsem && !cx.world.altered(Alteration::MmCheckSkipped);
        self.pc = if checks {
            StartReadPc::CheckMm { refcnt }
        } else {
            StartReadPc::LateSeq { refcnt }
        };
    }

    #[inline]
    fn locked<W: World>(&self, cx: &mut Cx<'_, W>, refcnt: u32) -> Flow<ReadOutcome> {
        cx.note(Note::ReadAcquired(self.mm, self.vma, refcnt));
        Flow::Done(ReadOutcome::Locked)
    }
}

impl Op for StartRead {
    type Output = ReadOutcome;

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<ReadOutcome> {
        let (mm, vma) = (self.mm, self.vma);
        match self.pc {
            StartReadPc::EarlySeq => {
                let vm_lock_seq = cx.world.load(Word::LockSeq(vma), Relaxed);
                self.pc = StartReadPc::EarlyMmSeq { vm_lock_seq };
            }
            StartReadPc::EarlyMmSeq { vm_lock_seq } => {
                if vm_lock_seq == cx.world.load(Word::MmSeq(mm), Relaxed) {
                    cx.note(Note::SeemsWriteLocked(mm, vma));
                    return self.refuse(cx, ReadFailure::WriteLockedEarly);
                }
                self.pc = StartReadPc::Count;
            }
            StartReadPc::Count if cx.world.family() == Family::Rwsem => {
                if !rwsem::try_down_read(cx, Word::Rwsem(vma)) {
                    return self.refuse(cx, ReadFailure::Excluded);
                }
                self.took(cx, 0);
            }
            StartReadPc::Count => {
                let old = cx.world.load(Word::Refcnt(vma), Relaxed);
                return self.judge(cx, old);
            }
            StartReadPc::Take { old } => {
                if cx.world.altered(Alteration::CountByStore) {
                    cx.world.store(Word::Refcnt(vma), old + 1, Release);
                    self.took(cx, old + 1);
                    return Flow::Again;
                }
                // Acquire: nothing of steps 4 to 6 may be done before the reference is held.
                let order = if cx.world.altered(Alteration::CountRelaxed) {
                    Relaxed
                } else {
                    Acquire
                };
                match cx.world.compare_exchange(Word::Refcnt(vma), old, old + 1, order) {
                    Ok(_) => self.took(cx, old + 1),
                    Err(newer) => return self.judge(cx, newer),
                }
            }
            StartReadPc::CheckMm { refcnt } => {
                if MmId(cx.world.load(Word::VmMm(vma), Relaxed)) != mm {
                    if cx.world.altered(Alteration::RecycledWithoutGrab) {
                        cx.world.rcu_read_unlock(cx.task.id);
                        self.pc = StartReadPc::PutOther {
                            put: Put::temporary(vma),
                            grabbed: None,
                        };
                    } else {
                        self.pc = StartReadPc::OtherMm;
                    }
                } else if cx.world.altered(Alteration::LateSeqSkipped) {
                    return self.locked(cx, refcnt);
                } else {
                    self.pc = StartReadPc::LateSeq { refcnt };
                }
            }
            StartReadPc::LateSeq { refcnt } => {
                // Reliable now: a writer changes it only while no reference is held.
                let vm_lock_seq = cx.world.load(Word::LockSeq(vma), Relaxed);
                self.pc = if cx.world.family() == Family::Rwsem {
                    StartReadPc::LateVmMm { refcnt, vm_lock_seq }
                } else {
                    StartReadPc::LateMmSeq { refcnt, vm_lock_seq }
                };
            }
            StartReadPc::LateVmMm { refcnt, vm_lock_seq } => {
                self.mm = MmId(cx.world.load(Word::VmMm(vma), Relaxed));
                self.pc = StartReadPc::LateMmSeq { refcnt, vm_lock_seq };
            }
            StartReadPc::LateMmSeq { refcnt, vm_lock_seq } => {
                // Acquire: racing with the end of all write locks, what the writer did is seen before
                // the VMA is used. Pairs with the release there.
                let relaxed = cx.world.altered(Alteration::LateSeqRelaxed)
                    || cx.world.altered(Alteration::SeqWithoutOrder);
                let order = if relaxed { Relaxed } else { Acquire };
                if vm_lock_seq != cx.world.load(Word::MmSeq(mm), order) {
                    return self.locked(cx, refcnt);
                }
                cx.note(Note::SeemsWriteLocked(mm, vma));
                self.pc = StartReadPc::PutLate(Put::temporary(vma));
            }
            StartReadPc::PutLate(ref mut put) => {
                if let Flow::Done(()) = put.step(cx) {
                    return self.refuse(cx, ReadFailure::WriteLockedLate);
                }
            }
            StartReadPc::OtherMm => {
                let other = MmId(cx.world.load(Word::VmMm(vma), Relaxed));
                cx.world.rcu_read_unlock(cx.task.id);
                self.pc = StartReadPc::GrabOther { mm: other };
            }
            StartReadPc::GrabOther { mm } => {
                cx.world.fetch_add(Word::MmCount(mm), 1, Relaxed);
                self.pc = StartReadPc::PutOther {
                    put: Put::temporary(vma),
                    grabbed: Some(mm),
                };
            }
            StartReadPc::PutOther { ref mut put, grabbed } => {
                if let Flow::Done(()) = put.step(cx) {
                    match grabbed {
                        Some(mm) => self.pc = StartReadPc::DropOther { mm },
                        None => return self.refuse(cx, ReadFailure::OtherMm),
                    }
                }
            }
            StartReadPc::DropOther { mm } => {
                cx.world.fetch_sub(Word::MmCount(mm), 1, AcqRel);
                if cx.world.family() == Family::Refcnt6_15 {
                    // Its callers expect to be in the read section still.
                    cx.world.rcu_read_lock(cx.task.id);
                }
                return self.refuse(cx, ReadFailure::OtherMm);
            }
        }
        Flow::Again
    }
}

impl StartRead {
    /// Step 2's decision about a value of `vm_refcnt`, before and after a lost race for it.
    #[inline]
    fn judge<W: World>(&mut self, cx: &mut Cx<'_, W>, old: u32) -> Flow<ReadOutcome> {
        match may_count(cx.world, old) {
            None => {
                cx.note(Note::ReadRefused(self.mm, self.vma));
                Flow::Done(ReadOutcome::Detached)
            }
            Some(false) => self.refuse(cx, ReadFailure::Excluded),
            Some(true) => {
                self.pc = StartReadPc::Take { old };
                Flow::Again
            }
        }
    }
}

/// May a reader be added to this count? `None` if there is nothing to add to.
#[inline]
fn may_count<W: World>(world: &W, old: u32) -> Option<bool> {
    if old == 0 && !world.altered(Alteration::ZeroIgnored) {
        return None;
    }
    // Below the flag, the limit refuses both too many readers and any reader while the flag is set.
    let limit = if world.altered(Alteration::FlagIsLimit) {
        VM_REFCNT_EXCLUDE_READERS_FLAG
    } else {
        VM_REFCNT_LIMIT
    };
    Some(old < limit || world.altered(Alteration::LimitIgnored))
}

/// `vma_start_read_locked`: read-locks a VMA under the mmap_lock, held shared, so that there can be
/// no writer. False only at the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StartReadLocked {
    mm: MmId,
    vma: VmaId,
    old: Option<u32>,
}

impl StartReadLocked {
    /// Ready to start.
    #[inline]
    #[must_use]
    pub const fn new(mm: MmId, vma: VmaId) -> Self {
        Self { mm, vma, old: None }
    }
}

impl Op for StartReadLocked {
    type Output = bool;

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<bool> {
        let vma = self.vma;
        let found = match self.old {
            None if cx.world.family() == Family::Rwsem => {
                // 6.12 takes the lock with down_read, which nobody can contend here.
                let locked = rwsem::try_down_read(cx, Word::Rwsem(vma));
                if locked {
                    cx.lockdep_acquire(LockClass::VmLock, vma.0, Mode::Shared, true);
                    cx.note(Note::ReadAcquired(self.mm, vma, 0));
                }
                return Flow::Done(locked);
            }
            None => cx.world.load(Word::Refcnt(vma), Relaxed),
            Some(old) => match cx
                .world
                .compare_exchange(Word::Refcnt(vma), old, old + 1, Acquire)
            {
                Ok(_) => {
                    cx.lockdep_acquire(LockClass::VmLock, vma.0, Mode::Shared, true);
                    cx.note(Note::ReadAcquired(self.mm, vma, old + 1));
                    return Flow::Done(true);
                }
                Err(newer) => newer,
            },
        };
        if may_count(cx.world, found) != Some(true) {
            cx.note(Note::ReadRefused(self.mm, vma));
            return Flow::Done(false);
        }
        self.old = Some(found);
        Flow::Again
    }
}

/// `vma_refcount_put`, which is all there is to `vma_end_read`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Put {
    vma: VmaId,
    /// A reader that got in, as opposed to a temporary one.
    full: bool,
    pc: PutPc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum PutPc {
    /// Copy `vm_mm` while the VMA cannot go away.
    CopyMm,
    /// Drop the reference.
    Sub { mm: MmId },
    /// A mutant reads `vm_mm` only now.
    CopyMmLate,
    /// The last reader wakes the writer.
    Wake(WakeUp),
    /// A mutant woke first.
    WokeFirst { mm: MmId, wake: Option<WakeUp> },
}

impl Put {
    /// Ready to drop the reference of a reader that got in.
    #[inline]
    #[must_use]
    pub const fn new(vma: VmaId) -> Self {
        Self {
            vma,
            full: true,
            pc: PutPc::CopyMm,
        }
    }

    #[inline]
    const fn temporary(vma: VmaId) -> Self {
        Self {
            vma,
            full: false,
            pc: PutPc::CopyMm,
        }
    }

    /// The VMA whose reference is not dropped yet.
    #[must_use]
    pub const fn reference(&self) -> Option<VmaId> {
        match self.pc {
            PutPc::CopyMm | PutPc::Sub { .. } | PutPc::WokeFirst { .. } => Some(self.vma),
            PutPc::CopyMmLate | PutPc::Wake(_) => None,
        }
    }

    /// Has lockdep been told already, while the reference is still there?
    #[must_use]
    pub const fn lockdep_released(&self) -> bool {
        !matches!(self.pc, PutPc::CopyMm)
    }

    /// The step that comes next.
    #[must_use]
    pub const fn place(&self) -> &'static str {
        match self.pc {
            PutPc::CopyMm | PutPc::CopyMmLate => "vma_refcount_put: copy vm_mm",
            PutPc::Sub { .. } => "vma_refcount_put: drop the reference",
            PutPc::Wake(_) | PutPc::WokeFirst { .. } => "vma_refcount_put: wake the writer",
        }
    }
}

impl Op for Put {
    type Output = ();

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<()> {
        let vma = self.vma;
        match self.pc {
            PutPc::CopyMm => {
                // A copy, since the VMA may be freed once the reference is dropped.
                let mm = MmId(cx.world.load(Word::VmMm(vma), Relaxed));
                if !cx.world.altered(Alteration::LockdepKept) {
                    cx.lockdep_release(LockClass::VmLock, vma.0);
                }
                self.pc = if cx.world.altered(Alteration::WakeBeforeSub) {
                    PutPc::WokeFirst { mm, wake: None }
                } else {
                    PutPc::Sub { mm }
                };
            }
            PutPc::Sub { mm } if cx.world.family() == Family::Rwsem => {
                cx.note(Note::ReadReleasing(mm, vma, self.full));
                rwsem::up_read(cx, Word::Rwsem(vma));
                cx.note(Note::ReadReleased(mm, vma, 0, self.full));
                return Flow::Done(());
            }
            PutPc::Sub { mm } => {
                cx.note(Note::ReadReleasing(mm, vma, self.full));
                // Release: what the reader did is done before a writer can find it gone.
                let order = if cx.world.altered(Alteration::PutRelaxed) {
                    Relaxed
                } else {
                    Release
                };
                let new = cx.world.fetch_sub(Word::Refcnt(vma), 1, order).wrapping_sub(1);
                cx.note(Note::ReadReleased(mm, vma, new, self.full));
                if new == 0 {
                    cx.world.fence(Acquire);
                }
                if !wakes(cx.world, new) {
                    return Flow::Done(());
                }
                self.pc = if cx.world.altered(Alteration::MmCopiedLate) {
                    PutPc::CopyMmLate
                } else {
                    PutPc::Wake(WakeUp::new(mm))
                };
            }
            PutPc::CopyMmLate => {
                let mm = MmId(cx.world.load(Word::VmMm(vma), Relaxed));
                self.pc = PutPc::Wake(WakeUp::new(mm));
            }
            PutPc::Wake(ref mut wake) => return wake.step(cx),
            PutPc::WokeFirst { mm, ref mut wake } => match wake {
                None => {
                    let new = cx.world.load(Word::Refcnt(vma), Relaxed).wrapping_sub(1);
                    if wakes(cx.world, new) {
                        *wake = Some(WakeUp::new(mm));
                    } else {
                        cx.world.fetch_sub(Word::Refcnt(vma), 1, Release);
                        return Flow::Done(());
                    }
                }
                Some(WakeUp {
                    pc: WakePc::Woken, ..
                }) => {
                    cx.world.fetch_sub(Word::Refcnt(vma), 1, Release);
                    return Flow::Done(());
                }
                Some(wake) => {
                    if let Flow::Done(()) = wake.step(cx) {
                        wake.pc = WakePc::Woken;
                    }
                }
            },
        }
        Flow::Again
    }
}

/// Is a writer to be woken after the count fell to this value?
#[inline]
fn wakes<W: World>(world: &W, new: u32) -> bool {
    if world.altered(Alteration::WakeNever) {
        return false;
    }
    if world.altered(Alteration::WakeOffByOne) {
        return new == VM_REFCNT_EXCLUDE_READERS_FLAG;
    }
    // Spurious if temporary readers come and go, or if a detacher waits for one more; the writer
    // looks again.
    new != 0 && __vma_are_readers_excluded(new)
}

/// `rcuwait_wake_up` of `mm->vma_writer_wait`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct WakeUp {
    mm: MmId,
    pc: WakePc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum WakePc {
    FindTask,
    Wake { task: TaskId },
    Woken,
}

impl WakeUp {
    #[inline]
    const fn new(mm: MmId) -> Self {
        Self {
            mm,
            pc: WakePc::FindTask,
        }
    }
}

impl Op for WakeUp {
    type Output = ();

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<()> {
        match self.pc {
            WakePc::FindTask => {
                // Full: either this task sees the sleeper, or the sleeper sees the new count.
                if !cx.world.altered(Alteration::WakeUnfenced) {
                    cx.world.fence(SeqCst);
                }
                match cx.world.load(Word::Waiter(self.mm), Acquire) {
                    0 => Flow::Done(()),
                    waiter => {
                        self.pc = WakePc::Wake {
                            task: TaskId(waiter - 1),
                        };
                        Flow::Again
                    }
                }
            }
            WakePc::Wake { task } => {
                let state = Word::TaskState(task);
                let wake = |s| (s != task_state::RUNNING).then_some(task_state::RUNNING);
                if cx.world.update(state, AcqRel, wake).is_ok() {
                    cx.world.wake(state);
                }
                Flow::Done(())
            }
            WakePc::Woken => Flow::Done(()),
        }
    }
}

/// `lock_vma_under_rcu`: finds the VMA at an address and read-locks it, without the mmap_lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LockVmaUnderRcu {
    mm: MmId,
    slot: Slot,
    pc: LookupPc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum LookupPc {
    Walk,
    Start(StartRead, VmaId),
    /// 6.12: was it detached before it was locked?
    Detached(VmaId),
    PutDetached(Put),
    /// (6) Is the address still in its range?
    Range(VmaId),
    PutBack(Put),
}

impl LockVmaUnderRcu {
    /// Ready to start.
    #[inline]
    #[must_use]
    pub const fn new(mm: MmId, slot: Slot) -> Self {
        Self {
            mm,
            slot,
            pc: LookupPc::Walk,
        }
    }

    /// See [`StartRead::temporary_reader`]. After step 5 the VMA is held, but may still be the
    /// wrong one.
    #[must_use]
    pub const fn temporary_reader(&self) -> Option<VmaId> {
        match &self.pc {
            LookupPc::Walk => None,
            LookupPc::Start(start, _) => start.temporary_reader(),
            LookupPc::Detached(vma) | LookupPc::Range(vma) => Some(*vma),
            LookupPc::PutDetached(put) | LookupPc::PutBack(put) => put.reference(),
        }
    }

    /// The VMA that step 5 found not write-locked, so that no writer may be inside it now.
    #[must_use]
    pub const fn entered(&self) -> Option<VmaId> {
        match &self.pc {
            LookupPc::Walk | LookupPc::Start(..) => None,
            LookupPc::Detached(vma) | LookupPc::Range(vma) => Some(*vma),
            LookupPc::PutDetached(put) | LookupPc::PutBack(put) => put.reference(),
        }
    }

    /// The release that is running, if one is.
    #[must_use]
    pub const fn putting(&self) -> Option<&Put> {
        match &self.pc {
            LookupPc::Start(
                StartRead {
                    pc: StartReadPc::PutLate(put),
                    ..
                },
                _,
            )
            | LookupPc::Start(
                StartRead {
                    pc: StartReadPc::PutOther { put, .. },
                    ..
                },
                _,
            )
            | LookupPc::PutDetached(put)
            | LookupPc::PutBack(put) => Some(put),
            _ => None,
        }
    }

    /// The step that comes next.
    #[must_use]
    pub const fn place(&self) -> &'static str {
        match &self.pc {
            LookupPc::Walk => "lock_vma_under_rcu: walk the tree",
            LookupPc::Start(start, _) => start.place(),
            LookupPc::Detached(_) => "lock_vma_under_rcu: detached?",
            LookupPc::Range(_) => "lock_vma_under_rcu (6) in range?",
            LookupPc::PutDetached(put) | LookupPc::PutBack(put) => put.place(),
        }
    }

    #[inline]
    fn give_up<W: World>(&self, cx: &mut Cx<'_, W>, why: ReadFailure) -> Flow<Result<VmaId, ReadFailure>> {
        cx.world.rcu_read_unlock(cx.task.id);
        cx.note(Note::ReadFailed(self.mm, self.slot));
        Flow::Done(Err(why))
    }
}

impl Op for LockVmaUnderRcu {
    type Output = Result<VmaId, ReadFailure>;

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<Self::Output> {
        match self.pc {
            LookupPc::Walk => {
                cx.world.rcu_read_lock(cx.task.id);
                match cx.world.load(Word::Tree(self.mm, self.slot), Acquire) {
                    0 => return self.give_up(cx, ReadFailure::NotFound),
                    found => {
                        let vma = VmaId(found - 1);
                        self.pc = LookupPc::Start(StartRead::new(self.mm, vma), vma);
                    }
                }
            }
            LookupPc::Start(ref mut start, vma) => match start.step(cx) {
                Flow::Done(ReadOutcome::Locked) => {
                    self.pc = if cx.world.family() == Family::Rwsem {
                        LookupPc::Detached(vma)
                    } else {
                        LookupPc::Range(vma)
                    };
                    // 7.0 needs no RCU for a VMA that it holds; before, it went on to the end.
                    if cx.world.family() == Family::Refcnt7_0 {
                        cx.world.rcu_read_unlock(cx.task.id);
                    }
                }
                Flow::Done(ReadOutcome::Detached) => {
                    cx.world.relax();
                    self.pc = LookupPc::Walk;
                }
                Flow::Done(ReadOutcome::Failed(why)) => return self.give_up(cx, why),
                Flow::Again | Flow::Blocked { .. } => {}
            },
            LookupPc::Detached(vma) => {
                self.pc = if cx.world.load(Word::Detached(vma), Relaxed) == 0 {
                    LookupPc::Range(vma)
                } else {
                    LookupPc::PutDetached(Put::new(vma))
                };
            }
            LookupPc::PutDetached(ref mut put) => {
                if let Flow::Done(()) = put.step(cx) {
                    cx.world.relax();
                    self.pc = LookupPc::Walk;
                }
            }
            LookupPc::Range(vma) => {
                let start = Slot(cx.world.load(Word::Start(vma), Relaxed));
                if start == self.slot || cx.world.altered(Alteration::RangeCheckSkipped) {
                    cx.world.rcu_read_unlock(cx.task.id);
                    return Flow::Done(Ok(vma));
                }
                self.pc = LookupPc::PutBack(Put::new(vma));
            }
            LookupPc::PutBack(ref mut put) => {
                if let Flow::Done(()) = put.step(cx) {
                    return self.give_up(cx, ReadFailure::OutOfRange);
                }
            }
        }
        Flow::Again
    }
}
