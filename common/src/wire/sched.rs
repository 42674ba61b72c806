//! What tasks do beside their locks: they are born, run other programs, end, leave and get their CPU.
//!
//! These kinds have the body of the `vma_*` ones, with other meanings and none of its flags but `MM`:
//!
//! | kind | `vma` | `vm_start` | `vm_end` | `vm_refcnt` | `arg` |
//! |---|---|---|---|---|---|
//! | `task_fork` | | | | child's process | child's tid |
//! | `task_exec` | | | | | tid before |
//! | `task_exit` | | | | | 1: the last thread of its process |
//! | `sched_out` | kernel stack | user stack | | | state, and bits of [`out`] |
//! | `sched_in` | | | | | |
//! | `sched_wake` | | | | woken process | woken tid |
//! | `stack` | kernel stack | user stack | length of the wait or hold in ns | | kind of the event that it belongs to |
//!
//! Stacks are numbers of entries in a table beside the events; 0: none. On the way from the kernel the frames follow
//! the body (see [`Frames`]), and user space numbers them.

use super::{Event, Kind, VmaEvent};

/// Bits of `arg` of a `sched_out` above the lower half, which has the task's state as the kernel keeps it
/// (0: it stays runnable).
pub mod out {
    /// It waits for I/O (`task_struct.in_iowait`).
    pub const IOWAIT: u32 = 1 << 16;
    /// It reclaims memory (`PF_MEMALLOC`).
    pub const RECLAIM: u32 = 1 << 17;
    /// It was preempted.
    pub const PREEMPTED: u32 = 1 << 18;
}

/// `TASK_INTERRUPTIBLE`.
pub const TASK_INTERRUPTIBLE: u16 = 1;
/// `TASK_UNINTERRUPTIBLE`.
pub const TASK_UNINTERRUPTIBLE: u16 = 2;

/// Frames of the kernel stack that are kept, innermost first.
pub const KERNEL_FRAMES: usize = 24;
/// Frames of the user stack that are kept, innermost first.
pub const USER_FRAMES: usize = 24;

/// What follows the body of a `sched_out` or `stack` in the ring buffer: return addresses, innermost first,
/// ended by zeroes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames {
    /// Of the kernel.
    pub kernel: [u64; KERNEL_FRAMES],
    /// Of the program.
    pub user: [u64; USER_FRAMES],
}
const _: () = assert!(size_of::<Frames>() == 384);

/// A `sched_out` or `stack` with its frames, as the probe writes it: 480 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackEvent {
    /// Header and body; `header.len` is that of the whole.
    pub event: VmaEvent,
    /// The frames.
    pub frames: Frames,
}
const _: () = assert!(size_of::<StackEvent>() == 480);

impl Frames {
    /// The frames behind the body of the event that starts `bytes`, if there are any.
    pub fn after_body(bytes: &[u8]) -> Option<Self> {
        let tail = bytes.get(size_of::<VmaEvent>()..size_of::<StackEvent>())?;
        let (words, _) = tail.as_chunks::<8>();
        let mut all = words.iter().map(|word| u64::from_le_bytes(*word));
        Some(Self {
            kernel: core::array::from_fn(|_| all.next().unwrap_or(0)),
            user: core::array::from_fn(|_| all.next().unwrap_or(0)),
        })
    }
}

impl Event {
    /// Whether it is of one of the kinds that this module is about.
    pub const fn is_about_tasks(&self) -> bool {
        matches!(
            self.kind,
            Kind::TaskFork
                | Kind::TaskExec
                | Kind::TaskExit
                | Kind::SchedOut
                | Kind::SchedIn
                | Kind::SchedWake
                | Kind::Stack
        )
    }

    /// The task that a `task_fork` or `sched_wake` is about: its process and its tid.
    pub const fn other_task(&self) -> Option<(u32, u32)> {
        match self.kind {
            Kind::TaskFork | Kind::SchedWake => Some((self.body.vm_refcnt, self.body.arg)),
            _ => None,
        }
    }

    /// The task's state with which a `sched_out` left its CPU; 0: still runnable.
    pub const fn sched_state(&self) -> u16 {
        match self.kind {
            Kind::SchedOut => self.body.arg as u16,
            _ => 0,
        }
    }

    /// Whether a `sched_out` has that bit of [`out`].
    pub const fn sched_out_is(&self, bit: u32) -> bool {
        matches!(self.kind, Kind::SchedOut) && self.body.arg & bit != 0
    }

    /// Numbers of the kernel and the user stack of a `sched_out` or `stack`; 0: none.
    pub const fn stacks(&self) -> (u32, u32) {
        match self.kind {
            Kind::SchedOut | Kind::Stack => (self.body.vma as u32, self.body.vm_start as u32),
            _ => (0, 0),
        }
    }

    /// The kind of the event that a `stack` belongs to: the task's event before it.
    pub const fn stack_of(&self) -> Option<Kind> {
        match self.kind {
            Kind::Stack => Kind::from_number(self.body.arg as u8),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{MAX_EVENT, decode};

    #[test]
    fn frames_follow_the_body() {
        let event = Event::synthetic(Kind::Stack, 7);
        let mut start = [0; MAX_EVENT];
        assert_eq!(event.encode(&mut start), MAX_EVENT);
        let mut bytes = [0; size_of::<StackEvent>()];
        bytes[..MAX_EVENT].copy_from_slice(&start);
        bytes[2..4].copy_from_slice(&480_u16.to_le_bytes());
        bytes[96] = 1;
        bytes[96 + 8 * KERNEL_FRAMES] = 2;
        let frames = Frames::after_body(&bytes).unwrap();
        assert_eq!((frames.kernel[0], frames.kernel[1]), (1, 0));
        assert_eq!((frames.user[0], frames.user[1]), (2, 0));
        let (found, len) = decode(&bytes).unwrap();
        assert_eq!((found.kind, len), (Kind::Stack, 480));
        assert_eq!(Frames::after_body(&bytes[..479]), None);
    }
}
