//! The mmap_lock with the sequence counter that ends all VMA write locks at once, and speculation.

use core::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release};

use super::alteration::Alteration;
use super::lockdep::{LockClass, Mode};
use super::rwsem::{self, DownRead, DownWrite};
use super::world::{Cx, Flow, MmId, Note, Op, TaskId, Warning, Word, World, task_state};

/// `mmap_write_lock` and `mmap_write_lock_killable`; false if killed while waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MmapWriteLock {
    mm: MmId,
    pc: WriteLockPc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum WriteLockPc {
    Start {
        killable: bool,
    },
    Down(DownWrite),
    /// `mm_lock_seq` turns odd.
    SeqBegin,
}

impl MmapWriteLock {
    /// Ready to start.
    #[inline]
    #[must_use]
    pub const fn new(mm: MmId, killable: bool) -> Self {
        Self {
            mm,
            pc: WriteLockPc::Start { killable },
        }
    }

    /// The step that comes next.
    #[must_use]
    pub const fn place(&self) -> &'static str {
        match self.pc {
            WriteLockPc::Start { .. } | WriteLockPc::Down(_) => "mmap_write_lock: down_write",
            WriteLockPc::SeqBegin => "mmap_write_lock: mm_lock_seq turns odd",
        }
    }

    #[inline]
    fn acquired<W: World>(&self, cx: &mut Cx<'_, W>, success: bool) -> Flow<bool> {
        cx.note(Note::MmapAcquired(self.mm, Mode::Exclusive, success));
        Flow::Done(success)
    }
}

impl Op for MmapWriteLock {
    type Output = bool;

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<bool> {
        if let WriteLockPc::Start { killable } = self.pc {
            cx.note(Note::MmapStart(self.mm, Mode::Exclusive));
            cx.lockdep_acquire(LockClass::MmapLock, self.mm.0, Mode::Exclusive, false);
            self.pc = WriteLockPc::Down(DownWrite::new(Word::MmapLock(self.mm), killable));
        }
        match self.pc {
            WriteLockPc::Start { .. } => {}
            WriteLockPc::Down(ref mut down) => match down.step(cx) {
                Flow::Again => {}
                Flow::Blocked { at, value, killable } => return Flow::Blocked { at, value, killable },
                Flow::Done(true) if cx.world.altered(Alteration::SeqBeginSkipped) => {
                    return self.acquired(cx, true);
                }
                Flow::Done(true) => self.pc = WriteLockPc::SeqBegin,
                Flow::Done(false) => {
                    cx.lockdep_release(LockClass::MmapLock, self.mm.0);
                    return self.acquired(cx, false);
                }
            },
            WriteLockPc::SeqBegin => {
                // Release: a reader that sees this odd number has passed the even one before it, and
                // takes it as the end of the former writer's lock just as well. The kernel's store
                // is plain; there the acquire of the mmap_lock carries over to whoever sees a later
                // store, which C11 and Rust do not promise. `docs/model.md` has the schedule.
                let relaxed = cx.world.altered(Alteration::SeqBeginRelaxed);
                seq_step(cx.world, self.mm, if relaxed { Relaxed } else { Release });
                // Whoever sees a change made under the lock sees the odd number too.
                if !cx.world.altered(Alteration::SeqBeginUnfenced) {
                    cx.world.fence(Release);
                }
                return self.acquired(cx, true);
            }
        }
        Flow::Again
    }
}

/// Advances `mm_lock_seq`. Its only writer is the holder of the mmap_lock, so a plain load and a
/// plain store are one action.
#[inline]
fn seq_step<W: World>(world: &mut W, mm: MmId, order: Ordering) {
    let seq = world.load(Word::MmSeq(mm), Relaxed);
    world.store(Word::MmSeq(mm), seq.wrapping_add(1), order);
}

/// `vma_end_write_all`: ends every VMA write lock of the mm.
#[inline]
fn vma_end_write_all<W: World>(world: &mut W, mm: MmId) {
    let relaxed = world.altered(Alteration::SeqEndRelaxed) || world.altered(Alteration::SeqWithoutOrder);
    if !relaxed {
        world.fence(Release);
    }
    seq_step(world, mm, Relaxed);
}

/// How the exclusive mmap_lock is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GiveUp {
    /// `mmap_write_unlock`.
    Unlock,
    /// `mmap_write_downgrade`: goes on holding it shared.
    Downgrade,
}

/// `mmap_write_unlock` and `mmap_write_downgrade`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MmapGiveUp {
    mm: MmId,
    how: GiveUp,
    pc: GiveUpPc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum GiveUpPc {
    Start,
    EndWriteAll,
    Up,
    /// A mutant ends the write locks only now.
    EndWriteAllLate,
}

impl MmapGiveUp {
    /// Ready to start.
    #[inline]
    #[must_use]
    pub const fn new(mm: MmId, how: GiveUp) -> Self {
        Self {
            mm,
            how,
            pc: GiveUpPc::Start,
        }
    }

    /// Are the VMA write locks still held?
    #[must_use]
    pub const fn write_locks_held(&self) -> bool {
        matches!(self.pc, GiveUpPc::Start | GiveUpPc::EndWriteAll)
    }

    /// The step that comes next.
    #[must_use]
    pub const fn place(&self) -> &'static str {
        match (self.pc, self.how) {
            (GiveUpPc::Start | GiveUpPc::EndWriteAll | GiveUpPc::EndWriteAllLate, _) => {
                "vma_end_write_all: mm_lock_seq turns even"
            }
            (GiveUpPc::Up, GiveUp::Unlock) => "mmap_write_unlock: up_write",
            (GiveUpPc::Up, GiveUp::Downgrade) => "mmap_write_downgrade: downgrade_write",
        }
    }
}

impl Op for MmapGiveUp {
    type Output = ();

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<()> {
        let at = Word::MmapLock(self.mm);
        let downgrade = self.how == GiveUp::Downgrade;
        if self.pc == GiveUpPc::Start {
            cx.note(match self.how {
                GiveUp::Unlock => Note::MmapReleased(self.mm, Mode::Exclusive),
                GiveUp::Downgrade => Note::MmapDowngrade(self.mm),
            });
            let late = cx.world.altered(Alteration::SeqEndLate);
            let skipped = cx.world.altered(Alteration::SeqEndSkipped);
            self.pc = if downgrade && (late || skipped) {
                GiveUpPc::Up
            } else {
                GiveUpPc::EndWriteAll
            };
        }
        match self.pc {
            GiveUpPc::Start => {}
            GiveUpPc::EndWriteAll => {
                vma_end_write_all(cx.world, self.mm);
                self.pc = GiveUpPc::Up;
            }
            GiveUpPc::Up if downgrade => {
                if let Err(complaint) = cx.task.held.downgrade(LockClass::MmapLock, self.mm.0)
                    && cx.world.lockdep()
                {
                    cx.world.warn(cx.task.id, Warning::Lockdep(complaint));
                }
                rwsem::downgrade_write(cx, at);
                if !cx.world.altered(Alteration::SeqEndLate) {
                    return Flow::Done(());
                }
                self.pc = GiveUpPc::EndWriteAllLate;
            }
            GiveUpPc::Up => {
                cx.lockdep_release(LockClass::MmapLock, self.mm.0);
                rwsem::up_write(cx, at);
                return Flow::Done(());
            }
            GiveUpPc::EndWriteAllLate => {
                vma_end_write_all(cx.world, self.mm);
                return Flow::Done(());
            }
        }
        Flow::Again
    }
}

/// `mmap_read_lock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MmapReadLock {
    mm: MmId,
    started: bool,
}

impl MmapReadLock {
    /// Ready to start.
    #[inline]
    #[must_use]
    pub const fn new(mm: MmId) -> Self {
        Self { mm, started: false }
    }
}

impl Op for MmapReadLock {
    type Output = ();

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<()> {
        if !self.started {
            self.started = true;
            cx.note(Note::MmapStart(self.mm, Mode::Shared));
            cx.lockdep_acquire(LockClass::MmapLock, self.mm.0, Mode::Shared, false);
        }
        let flow = DownRead {
            at: Word::MmapLock(self.mm),
        }
        .step(cx);
        if flow == Flow::Done(()) {
            cx.note(Note::MmapAcquired(self.mm, Mode::Shared, true));
        }
        flow
    }
}

/// `mmap_read_trylock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MmapReadTrylock {
    /// The mm.
    pub mm: MmId,
}

impl Op for MmapReadTrylock {
    type Output = bool;

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<bool> {
        cx.note(Note::MmapStart(self.mm, Mode::Shared));
        let locked = rwsem::try_down_read(cx, Word::MmapLock(self.mm));
        if locked {
            cx.lockdep_acquire(LockClass::MmapLock, self.mm.0, Mode::Shared, true);
        }
        cx.note(Note::MmapAcquired(self.mm, Mode::Shared, locked));
        Flow::Done(locked)
    }
}

/// `mmap_read_unlock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MmapReadUnlock {
    /// The mm.
    pub mm: MmId,
}

impl Op for MmapReadUnlock {
    type Output = ();

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<()> {
        cx.note(Note::MmapReleased(self.mm, Mode::Shared));
        cx.lockdep_release(LockClass::MmapLock, self.mm.0);
        rwsem::up_read(cx, Word::MmapLock(self.mm));
        Flow::Done(())
    }
}

/// `mmap_lock_speculate_try_begin`: the sequence number to validate with, unless write-locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpeculateTryBegin {
    /// The mm.
    pub mm: MmId,
}

impl Op for SpeculateTryBegin {
    type Output = Option<u32>;

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<Option<u32>> {
        let seq = cx.world.load(Word::MmSeq(self.mm), Acquire);
        let even = seq & 1 == 0 || cx.world.altered(Alteration::SpeculateOdd);
        Flow::Done(even.then_some(seq))
    }
}

/// `mmap_lock_speculate_retry`: true if what was read since the beginning is worth nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpeculateRetry {
    /// The mm.
    pub mm: MmId,
    /// What [`SpeculateTryBegin`] gave.
    pub seq: u32,
}

impl Op for SpeculateRetry {
    type Output = bool;

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<bool> {
        if !cx.world.altered(Alteration::RetryUnfenced) {
            cx.world.fence(Acquire);
        }
        Flow::Done(cx.world.load(Word::MmSeq(self.mm), Relaxed) != self.seq)
    }
}

/// A fatal signal to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kill {
    task: TaskId,
    sent: bool,
}

impl Kill {
    /// Ready to start.
    #[inline]
    #[must_use]
    pub const fn new(task: TaskId) -> Self {
        Self { task, sent: false }
    }
}

impl Op for Kill {
    type Output = ();

    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<()> {
        if !self.sent {
            self.sent = true;
            // An exchange orders as the kernel's lock around signals does.
            let _ = cx.world.update(Word::Killed(self.task), AcqRel, |_| Some(1));
            cx.world.fence(core::sync::atomic::Ordering::SeqCst);
            cx.world.wake(Word::Killed(self.task));
            return Flow::Again;
        }
        let state = Word::TaskState(self.task);
        let wake = |s| (s == task_state::KILLABLE).then_some(task_state::RUNNING);
        if cx.world.update(state, AcqRel, wake).is_ok() {
            cx.world.wake(state);
        }
        Flow::Done(())
    }
}
