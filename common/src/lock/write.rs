//! The writer's side: `vma_start_write`, killable or not, attaching and detaching.
//!
//! All of it happens with the mmap_lock held exclusively, so there is one such task per mm.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use super::alteration::Alteration;
use super::lockdep::{LockClass, Mode};
use super::refcnt::{VM_LOCK_SEQ_NEVER, VM_REFCNT_EXCLUDE_READERS_FLAG};
use super::rwsem::{self, DownWrite};
use super::world::{Cx, Family, Flow, MmId, Note, Op, Slot, VmaId, Warning, Word, World, task_state};

/// How keeping readers out ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Excluded {
    /// All readers are gone; the flag is set.
    Exclusive,
    /// There was nothing to exclude from: the VMA is detached.
    WasDetached,
    /// Killed while waiting.
    Interrupted,
}

/// `__vma_start_exclude_readers` (6.15: `__vma_enter_locked`): sets the flag and waits for readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Exclude {
    mm: MmId,
    vma: VmaId,
    detaching: bool,
    killable: bool,
    pc: ExcludePc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ExcludePc {
    /// Add the flag, unless detached.
    Count,
    AddFlag {
        old: u32,
    },
    /// Announce who is to be woken.
    Prepare,
    /// Announce sleep.
    SetState,
    /// Are the readers gone?
    Check,
    /// Not gone: killed?
    Signal,
    /// Sleep until woken.
    Sleep,
    /// Nobody to be woken any more.
    Forget {
        interrupted: bool,
    },
    Run {
        interrupted: bool,
    },
    /// Killed: take the flag back.
    EndExclude(EndExclude),
    /// 6.12.
    Down(DownWrite),
}

impl Exclude {
    #[inline]
    const fn new(mm: MmId, vma: VmaId, detaching: bool, killable: bool) -> Self {
        Self {
            mm,
            vma,
            detaching,
            killable,
            pc: ExcludePc::Count,
        }
    }

    const fn place(&self) -> &'static str {
        match self.pc {
            ExcludePc::Count | ExcludePc::AddFlag { .. } => "exclude readers: add the flag",
            ExcludePc::Prepare => "exclude readers: register in vma_writer_wait",
            ExcludePc::SetState => "exclude readers: announce sleep",
            ExcludePc::Check => "exclude readers: are they gone?",
            ExcludePc::Signal => "exclude readers: killed?",
            ExcludePc::Sleep => "exclude readers: sleep",
            ExcludePc::Forget { .. } => "exclude readers: leave vma_writer_wait",
            ExcludePc::Run { .. } => "exclude readers: run on",
            ExcludePc::EndExclude(_) => "exclude readers: killed, take the flag back",
            ExcludePc::Down(_) => "down_write(vm_lock)",
        }
    }

    /// The value of `vm_refcnt` at which nobody else is left.
    #[inline]
    fn target<W: World>(&self, world: &W) -> u32 {
        let attached = if world.altered(Alteration::WaitTargetDetached) {
            0
        } else {
            1
        };
        let detached = u32::from(world.altered(Alteration::WaitTargetAttached));
        VM_REFCNT_EXCLUDE_READERS_FLAG + if self.detaching { detached } else { attached }
    }

    #[inline]
    fn add_flag<W: World>(&mut self, world: &W, old: u32) -> Flow<Excluded> {
        if old == 0 && !world.altered(Alteration::FlagAddedToZero) {
            // Only attaching could raise it, and that needs the mmap_lock we hold.
            return Flow::Done(Excluded::WasDetached);
        }
        self.pc = ExcludePc::AddFlag { old };
        Flow::Again
    }
}

impl Op for Exclude {
    type Output = Excluded;

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<Excluded> {
        let (mm, vma, me) = (self.mm, self.vma, cx.task.id);
        match self.pc {
            ExcludePc::Count if cx.world.family() == Family::Rwsem => {
                cx.lockdep_acquire(LockClass::VmLock, vma.0, Mode::Exclusive, false);
                self.pc = ExcludePc::Down(DownWrite::new(Word::Rwsem(vma), self.killable));
            }
            ExcludePc::Down(ref mut down) => match down.step(cx) {
                Flow::Done(true) => return Flow::Done(Excluded::Exclusive),
                Flow::Done(false) => {
                    cx.lockdep_release(LockClass::VmLock, vma.0);
                    return Flow::Done(Excluded::Interrupted);
                }
                Flow::Blocked { at, value, killable } => return Flow::Blocked { at, value, killable },
                Flow::Again => {}
            },
            ExcludePc::Count if cx.world.altered(Alteration::FlagNotSet) => {
                cx.lockdep_acquire(LockClass::VmLock, vma.0, Mode::Exclusive, false);
                self.pc = ExcludePc::Prepare;
            }
            ExcludePc::Count => {
                let old = cx.world.load(Word::Refcnt(vma), Relaxed);
                return self.add_flag(cx.world, old);
            }
            ExcludePc::AddFlag { old } => {
                let new = old.wrapping_add(VM_REFCNT_EXCLUDE_READERS_FLAG);
                match cx.world.compare_exchange(Word::Refcnt(vma), old, new, Relaxed) {
                    Err(newer) => return self.add_flag(cx.world, newer),
                    Ok(_) => {
                        cx.lockdep_acquire(LockClass::VmLock, vma.0, Mode::Exclusive, false);
                        if cx.world.altered(Alteration::WaitSkipped) {
                            return Flow::Done(Excluded::Exclusive);
                        }
                        self.pc = ExcludePc::Prepare;
                    }
                }
            }
            ExcludePc::Prepare => {
                cx.world.store(Word::Waiter(mm), me.0 + 1, Release);
                self.pc = if cx.world.altered(Alteration::SleepUnannounced) {
                    ExcludePc::Check
                } else {
                    ExcludePc::SetState
                };
            }
            ExcludePc::SetState => {
                let state = if self.killable {
                    task_state::KILLABLE
                } else {
                    task_state::UNINTERRUPTIBLE
                };
                cx.world.store(Word::TaskState(me), state, Relaxed);
                // Full: either a leaving reader sees this sleeper, or we see its new count.
                if !cx.world.altered(Alteration::SleepUnfenced) {
                    cx.world.fence(SeqCst);
                }
                self.pc = if cx.world.altered(Alteration::SleepUnannounced) {
                    ExcludePc::Sleep
                } else {
                    ExcludePc::Check
                };
            }
            ExcludePc::Check => {
                // The kernel leans on a control dependency here: its stores come after this load.
                // C11 and Rust have none, and what readers did must be seen by loads too: acquire.
                let order = if cx.world.altered(Alteration::WaitRelaxed) {
                    Relaxed
                } else {
                    Acquire
                };
                let mut target = self.target(cx.world);
                if cx.world.altered(Alteration::FlagNotSet) {
                    target -= VM_REFCNT_EXCLUDE_READERS_FLAG;
                }
                self.pc = if cx.world.load(Word::Refcnt(vma), order) == target {
                    ExcludePc::Forget { interrupted: false }
                } else if self.killable {
                    ExcludePc::Signal
                } else if cx.world.altered(Alteration::SleepUnannounced) {
                    ExcludePc::SetState
                } else {
                    ExcludePc::Sleep
                };
            }
            ExcludePc::Signal => {
                self.pc = if cx.world.load(Word::Killed(me), Acquire) != 0 {
                    ExcludePc::Forget { interrupted: true }
                } else {
                    ExcludePc::Sleep
                };
            }
            ExcludePc::Sleep => match cx.world.update(Word::TaskState(me), Acquire, |_| None) {
                Err(task_state::RUNNING) if cx.world.altered(Alteration::WaitOnce) => {
                    self.pc = ExcludePc::Forget { interrupted: false };
                }
                Err(task_state::RUNNING) if cx.world.altered(Alteration::SleepUnannounced) => {
                    self.pc = ExcludePc::Check;
                }
                Err(task_state::RUNNING) | Ok(_) => self.pc = ExcludePc::SetState,
                Err(value) => {
                    return Flow::Blocked {
                        at: Word::TaskState(me),
                        value,
                        killable: false,
                    };
                }
            },
            ExcludePc::Forget { interrupted } => {
                cx.world.store(Word::Waiter(mm), 0, Release);
                self.pc = ExcludePc::Run { interrupted };
            }
            ExcludePc::Run { interrupted } => {
                cx.world.store(Word::TaskState(me), task_state::RUNNING, Relaxed);
                if !interrupted {
                    return Flow::Done(Excluded::Exclusive);
                }
                self.pc = ExcludePc::EndExclude(EndExclude { vma });
            }
            ExcludePc::EndExclude(ref mut end) => {
                if cx.world.altered(Alteration::KilledKeepsFlag) {
                    cx.lockdep_release(LockClass::VmLock, vma.0);
                    return Flow::Done(Excluded::Interrupted);
                }
                if let Flow::Done(_) = end.step(cx) {
                    return Flow::Done(Excluded::Interrupted);
                }
            }
        }
        Flow::Again
    }
}

/// `__vma_end_exclude_readers` (6.15: `__vma_exit_locked`): true if the VMA is detached now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct EndExclude {
    vma: VmaId,
}

impl Op for EndExclude {
    type Output = bool;

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<bool> {
        if cx.world.family() == Family::Rwsem {
            rwsem::up_write(cx, Word::Rwsem(self.vma));
            cx.lockdep_release(LockClass::VmLock, self.vma.0);
            return Flow::Done(false);
        }
        if cx.world.altered(Alteration::FlagNotSet) {
            cx.lockdep_release(LockClass::VmLock, self.vma.0);
            return Flow::Done(false);
        }
        // Release: who takes a reference after this sees vm_lock_seq as it was set under the flag.
        let order = if cx.world.altered(Alteration::FlagSubRelaxed) {
            Relaxed
        } else {
            Release
        };
        let old = cx
            .world
            .fetch_sub(Word::Refcnt(self.vma), VM_REFCNT_EXCLUDE_READERS_FLAG, order);
        let detached = old == VM_REFCNT_EXCLUDE_READERS_FLAG;
        if detached {
            cx.world.fence(Acquire);
        }
        cx.lockdep_release(LockClass::VmLock, self.vma.0);
        Flow::Done(detached)
    }
}

/// How `vma_start_write` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriteOutcome {
    /// It was write-locked in this cycle already.
    Already,
    /// Write-locked.
    Locked,
    /// Killed while waiting (`-EINTR`); the VMA is as it was.
    Interrupted,
}

/// `vma_start_write` and `vma_start_write_killable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StartWrite {
    mm: MmId,
    vma: VmaId,
    killable: bool,
    pc: StartWritePc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum StartWritePc {
    LockSeq,
    MmSeq {
        vm_lock_seq: u32,
    },
    /// A mutant sets `vm_lock_seq` before it waits.
    StoreEarly {
        mm_lock_seq: u32,
    },
    Exclude {
        exclude: Exclude,
        mm_lock_seq: u32,
    },
    StoreSeq {
        mm_lock_seq: u32,
        exclusive: bool,
    },
    EndExclude {
        end: EndExclude,
        mm_lock_seq: u32,
    },
    /// A mutant sets it after it let readers in again.
    StoreLate {
        mm_lock_seq: u32,
    },
}

impl StartWrite {
    /// Ready to start.
    #[inline]
    #[must_use]
    pub const fn new(mm: MmId, vma: VmaId, killable: bool) -> Self {
        Self {
            mm,
            vma,
            killable,
            pc: StartWritePc::LockSeq,
        }
    }

    /// The step that comes next.
    #[must_use]
    pub const fn place(&self) -> &'static str {
        match &self.pc {
            StartWritePc::LockSeq | StartWritePc::MmSeq { .. } => "vma_start_write: write-locked already?",
            StartWritePc::Exclude { exclude, .. } => exclude.place(),
            StartWritePc::StoreEarly { .. }
            | StartWritePc::StoreSeq { .. }
            | StartWritePc::StoreLate { .. } => "__vma_start_write: set vm_lock_seq",
            StartWritePc::EndExclude { .. } => "__vma_start_write: take the flag back",
        }
    }

    #[inline]
    fn exclude(&mut self, mm_lock_seq: u32) {
        let exclude = Exclude::new(self.mm, self.vma, false, self.killable);
        self.pc = StartWritePc::Exclude { exclude, mm_lock_seq };
    }

    #[inline]
    fn locked<W: World>(&self, cx: &mut Cx<'_, W>, mm_lock_seq: u32) -> Flow<WriteOutcome> {
        cx.note(Note::WriteAcquired(self.mm, self.vma, mm_lock_seq));
        Flow::Done(WriteOutcome::Locked)
    }
}

impl Op for StartWrite {
    type Output = WriteOutcome;

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<WriteOutcome> {
        let (mm, vma) = (self.mm, self.vma);
        match self.pc {
            StartWritePc::LockSeq => {
                let vm_lock_seq = cx.world.load(Word::LockSeq(vma), Relaxed);
                self.pc = StartWritePc::MmSeq { vm_lock_seq };
            }
            StartWritePc::MmSeq { vm_lock_seq } => {
                let mm_lock_seq = cx.world.load(Word::MmSeq(mm), Relaxed);
                if vm_lock_seq == mm_lock_seq {
                    return Flow::Done(WriteOutcome::Already);
                }
                cx.note(Note::WriteStart(mm, vma));
                if cx.world.altered(Alteration::SeqStoredEarly) {
                    self.pc = StartWritePc::StoreEarly { mm_lock_seq };
                } else {
                    self.exclude(mm_lock_seq);
                }
            }
            StartWritePc::StoreEarly { mm_lock_seq } => {
                cx.world.store(Word::LockSeq(vma), mm_lock_seq, Relaxed);
                self.exclude(mm_lock_seq);
            }
            StartWritePc::Exclude {
                ref mut exclude,
                mm_lock_seq,
            } => match exclude.step(cx) {
                Flow::Again => {}
                Flow::Blocked { at, value, killable } => return Flow::Blocked { at, value, killable },
                Flow::Done(Excluded::Interrupted) => {
                    cx.note(Note::WriteFailed(mm, vma));
                    return Flow::Done(if cx.world.altered(Alteration::KilledSeemsDone) {
                        WriteOutcome::Locked
                    } else {
                        WriteOutcome::Interrupted
                    });
                }
                Flow::Done(how) => {
                    let exclusive = how == Excluded::Exclusive;
                    self.pc = if exclusive && cx.world.altered(Alteration::SeqStoredLate) {
                        StartWritePc::EndExclude {
                            end: EndExclude { vma },
                            mm_lock_seq,
                        }
                    } else {
                        StartWritePc::StoreSeq {
                            mm_lock_seq,
                            exclusive,
                        }
                    };
                }
            },
            StartWritePc::StoreSeq {
                mm_lock_seq,
                exclusive,
            } => {
                if !cx.world.altered(Alteration::SeqStoreSkipped) {
                    cx.world.store(Word::LockSeq(vma), mm_lock_seq, Relaxed);
                }
                if !exclusive {
                    return self.locked(cx, mm_lock_seq);
                }
                self.pc = StartWritePc::EndExclude {
                    end: EndExclude { vma },
                    mm_lock_seq,
                };
            }
            StartWritePc::EndExclude {
                ref mut end,
                mm_lock_seq,
            } => {
                if let Flow::Done(detached) = end.step(cx) {
                    if detached {
                        cx.world.warn(cx.task.id, Warning::DetachedUnderWriter(vma));
                    }
                    if cx.world.altered(Alteration::SeqStoredLate) {
                        self.pc = StartWritePc::StoreLate { mm_lock_seq };
                    } else {
                        return self.locked(cx, mm_lock_seq);
                    }
                }
            }
            StartWritePc::StoreLate { mm_lock_seq } => {
                cx.world.store(Word::LockSeq(vma), mm_lock_seq, Relaxed);
                return self.locked(cx, mm_lock_seq);
            }
        }
        Flow::Again
    }
}

/// `vma_mark_detached`, of a write-locked VMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MarkDetached {
    mm: MmId,
    vma: VmaId,
    pc: DetachPc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum DetachPc {
    /// Drop the reference that stands for being attached.
    Sub,
    /// Temporary readers are in the way: wait for them.
    Exclude(Exclude),
    EndExclude(EndExclude),
}

impl MarkDetached {
    /// Ready to start.
    #[inline]
    #[must_use]
    pub const fn new(mm: MmId, vma: VmaId) -> Self {
        Self {
            mm,
            vma,
            pc: DetachPc::Sub,
        }
    }

    /// The step that comes next.
    #[must_use]
    pub const fn place(&self) -> &'static str {
        match &self.pc {
            DetachPc::Sub => "vma_mark_detached: drop the attachment",
            DetachPc::Exclude(exclude) => exclude.place(),
            DetachPc::EndExclude(_) => "vma_mark_detached: take the flag back",
        }
    }

    #[inline]
    fn detached<W: World>(&self, cx: &mut Cx<'_, W>) -> Flow<()> {
        cx.note(Note::Detached(self.mm, self.vma));
        Flow::Done(())
    }
}

impl Op for MarkDetached {
    type Output = ();

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<()> {
        let vma = self.vma;
        match self.pc {
            DetachPc::Sub if cx.world.family() == Family::Rwsem => {
                cx.world.store(Word::Detached(vma), 1, Relaxed);
                return self.detached(cx);
            }
            DetachPc::Sub => {
                let old = cx.world.fetch_sub(Word::Refcnt(vma), 1, Release);
                if old == 1 {
                    cx.world.fence(Acquire);
                }
                if old == 1 || cx.world.altered(Alteration::DetachWithoutWait) {
                    return self.detached(cx);
                }
                self.pc = DetachPc::Exclude(Exclude::new(self.mm, vma, true, false));
            }
            DetachPc::Exclude(ref mut exclude) => match exclude.step(cx) {
                Flow::Again => {}
                Flow::Blocked { at, value, killable } => return Flow::Blocked { at, value, killable },
                // The last temporary reader left before the flag was set.
                Flow::Done(Excluded::WasDetached) => return self.detached(cx),
                Flow::Done(_) => self.pc = DetachPc::EndExclude(EndExclude { vma }),
            },
            DetachPc::EndExclude(ref mut end) => {
                if let Flow::Done(detached) = end.step(cx) {
                    if !detached {
                        cx.world.warn(cx.task.id, Warning::StillAttached(vma));
                    }
                    return self.detached(cx);
                }
            }
        }
        Flow::Again
    }
}

/// `vma_mark_attached`, of a write-locked and detached VMA: readers may come from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MarkAttached {
    /// The VMA.
    pub vma: VmaId,
}

impl Op for MarkAttached {
    type Output = ();

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<()> {
        if cx.world.family() == Family::Rwsem {
            cx.world.store(Word::Detached(self.vma), 0, Relaxed);
        } else {
            // Release: who takes a reference sees vm_mm and the range of this life of the VMA.
            let order = if cx.world.altered(Alteration::AttachRelaxed) {
                Relaxed
            } else {
                Release
            };
            cx.world.store(Word::Refcnt(self.vma), 1, order);
        }
        Flow::Done(())
    }
}

/// `vma_init` of a VMA from the pool: a new life, possibly in another mm. `vm_refcnt` is 0 before
/// and after, which is what keeps late readers of the former life out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InitVma {
    mm: MmId,
    vma: VmaId,
    slot: Slot,
    done: u8,
}

impl InitVma {
    /// Ready to start.
    #[inline]
    #[must_use]
    pub const fn new(mm: MmId, vma: VmaId, slot: Slot) -> Self {
        Self {
            mm,
            vma,
            slot,
            done: 0,
        }
    }
}

impl Op for InitVma {
    type Output = ();

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<()> {
        self.done += 1;
        match self.done {
            1 => cx.world.store(Word::VmMm(self.vma), self.mm.0, Relaxed),
            2 => cx.world.store(Word::Start(self.vma), self.slot.0, Relaxed),
            _ => {
                cx.world
                    .store(Word::LockSeq(self.vma), VM_LOCK_SEQ_NEVER, Relaxed);
                return Flow::Done(());
            }
        }
        Flow::Again
    }
}
