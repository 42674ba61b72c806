//! A sleeping read-write lock that lets no new reader pass a waiting writer.
//!
//! The kernel's `rw_semaphore` is not the subject; what matters of it is that it excludes, that it
//! orders memory, and that a waiting writer keeps new readers out, on which two of the historical
//! deadlocks hang. Each action is therefore a single step.

use core::sync::atomic::Ordering::{Acquire, Release};

use super::world::{Cx, Flow, Op, Word, World};

/// Set while a writer holds the lock.
const WRITER: u32 = 1 << 31;
/// One waiting writer; the field above the readers counts them.
const ONE_WAITING: u32 = 1 << 16;
const READERS: u32 = ONE_WAITING - 1;
const WAITING: u32 = WRITER - ONE_WAITING;

/// Does a writer hold it?
#[inline]
#[must_use]
pub const fn is_write_locked(word: u32) -> bool {
    word & WRITER != 0
}

/// Does anyone hold it?
#[inline]
#[must_use]
pub const fn is_locked(word: u32) -> bool {
    word & (WRITER | READERS) != 0
}

/// The word as people read it.
#[must_use]
pub const fn parts(word: u32) -> (bool, u32, u32) {
    (
        is_write_locked(word),
        (word & WAITING) / ONE_WAITING,
        word & READERS,
    )
}

#[inline]
fn read(word: u32) -> Option<u32> {
    (word & (WRITER | WAITING) == 0).then_some(word + 1)
}

/// `down_read_trylock`, in one step.
#[inline]
pub fn try_down_read<W: World>(cx: &mut Cx<'_, W>, at: Word) -> bool {
    cx.world.update(at, Acquire, read).is_ok()
}

/// `up_read`, in one step.
#[inline]
pub fn up_read<W: World>(cx: &mut Cx<'_, W>, at: Word) {
    cx.world.fetch_sub(at, 1, Release);
    cx.world.wake(at);
}

/// `up_write`, in one step.
#[inline]
pub fn up_write<W: World>(cx: &mut Cx<'_, W>, at: Word) {
    cx.world.fetch_sub(at, WRITER, Release);
    cx.world.wake(at);
}

/// `downgrade_write`, in one step.
#[inline]
pub fn downgrade_write<W: World>(cx: &mut Cx<'_, W>, at: Word) {
    cx.world.fetch_sub(at, WRITER - 1, Release);
    cx.world.wake(at);
}

/// `down_read`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DownRead {
    /// The lock.
    pub at: Word,
}

impl Op for DownRead {
    type Output = ();
    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<()> {
        match cx.world.update(self.at, Acquire, read) {
            Ok(_) => Flow::Done(()),
            Err(value) => Flow::Blocked {
                at: self.at,
                value,
                killable: false,
            },
        }
    }
}

/// `down_write` and `down_write_killable`; the result is false if the task was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DownWrite {
    at: Word,
    killable: bool,
    pc: WritePc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum WritePc {
    /// Take it, or queue.
    Enter,
    /// Queued: take it when it is free.
    Queued,
    /// Queued and not free: is there a signal?
    Signal { seen: u32 },
    /// Killed: leave the queue.
    Leave,
}

impl DownWrite {
    /// Ready to start.
    #[inline]
    #[must_use]
    pub const fn new(at: Word, killable: bool) -> Self {
        Self {
            at,
            killable,
            pc: WritePc::Enter,
        }
    }
}

impl Op for DownWrite {
    type Output = bool;
    #[inline]
    fn step<W: World>(&mut self, cx: &mut Cx<'_, W>) -> Flow<bool> {
        let at = self.at;
        match self.pc {
            WritePc::Enter => {
                let enter = |word| {
                    Some(if is_locked(word) {
                        word + ONE_WAITING
                    } else {
                        word | WRITER
                    })
                };
                match cx.world.update(at, Acquire, enter) {
                    Ok(word) if is_locked(word) => self.pc = WritePc::Queued,
                    _ => return Flow::Done(true),
                }
            }
            WritePc::Queued => {
                let take = |word| (!is_locked(word)).then_some((word - ONE_WAITING) | WRITER);
                match cx.world.update(at, Acquire, take) {
                    Ok(_) => return Flow::Done(true),
                    Err(seen) if self.killable => self.pc = WritePc::Signal { seen },
                    Err(value) => {
                        return Flow::Blocked {
                            at,
                            value,
                            killable: false,
                        };
                    }
                }
            }
            WritePc::Signal { seen } => {
                if cx.world.load(Word::Killed(cx.task.id), Acquire) != 0 {
                    self.pc = WritePc::Leave;
                } else {
                    self.pc = WritePc::Queued;
                    return Flow::Blocked {
                        at,
                        value: seen,
                        killable: true,
                    };
                }
            }
            WritePc::Leave => {
                // Readers that queued behind this writer may go on.
                cx.world.fetch_sub(at, ONE_WAITING, Release);
                cx.world.wake(at);
                return Flow::Done(false);
            }
        }
        Flow::Again
    }
}
