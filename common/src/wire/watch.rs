//! What a hardware watchpoint hands to user space. It goes its own way, apart from the stream of events:
//! watching one lock costs others nothing.
//!
//! Nothing here is ever stored: both sides are one build.

use super::COMM_LEN;

/// Return addresses that are kept of a kernel stack.
pub const WATCH_STACK: usize = 24;
/// Bytes of code kept before the instruction that follows the write: no instruction is longer than 15.
pub const WATCH_BEFORE: usize = 16;
/// Bytes of code kept from there on; enough to get past a detour that a kprobe has made.
pub const WATCH_AFTER: usize = 40;

/// The VMA that is watched, set by user space before anything is armed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchTarget {
    /// Thread whose look-up of a VMA is listened to; 0: none.
    pub finder_tid: u32,
    /// 1: changes are reported.
    pub on: u32,
    /// Address of the `vm_area_struct`; 0: none yet.
    pub vma: u64,
}
const _: () = assert!(size_of::<WatchTarget>() == 16);

/// What the kernel's own look-up of a VMA gave.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchFound {
    /// Address of the `vm_area_struct`; 0: nothing was seen.
    pub vma: u64,
    /// Address of the `mm_struct` that was searched.
    pub searched_mm: u64,
    /// `vma->vm_mm`.
    pub mm: u64,
    /// `vma->vm_start`.
    pub vm_start: u64,
    /// `vma->vm_end`.
    pub vm_end: u64,
    /// Look-ups that found a VMA, so far.
    pub calls: u32,
    /// `vma->vm_lock_seq`.
    pub vm_lock_seq: u32,
}
const _: () = assert!(size_of::<WatchFound>() == 48);

/// What one CPU counts: hits of the watchpoints = `made` + `off` + what the kernel held back.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchRuns {
    /// Events that were made, whether they found room or not.
    pub made: u64,
    /// Runs while changes were not to be reported.
    pub off: u64,
}
const _: () = assert!(size_of::<WatchRuns>() == 16);

/// One write to a watched field, seen right after the instruction that made it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// `CLOCK_MONOTONIC` in nanoseconds, some hundred nanoseconds after the write.
    pub ts_ns: u64,
    /// Number of this event among those of this CPU, from 0.
    pub number: u64,
    /// The address that was written to.
    pub address: u64,
    /// The instruction after the one that wrote.
    pub ip: u64,
    /// The flags register after the write.
    pub rflags: u64,
    /// The general registers after the write, by the number that instructions encode.
    pub registers: [u64; 16],
    /// `vma->vm_mm` a little later.
    pub mm: u64,
    /// `vma->vm_start` a little later.
    pub vm_start: u64,
    /// `vma->vm_end` a little later.
    pub vm_end: u64,
    /// `vma->vm_refcnt` a little later: others may have changed it meanwhile.
    pub vm_refcnt: u32,
    /// `vma->vm_lock_seq` a little later.
    pub vm_lock_seq: u32,
    /// `mm->mm_lock_seq` a little later.
    pub mm_lock_seq: u32,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// The CPU.
    pub cpu: u32,
    /// Bits of [`super::flag`]: which fields could be read.
    pub flags: u32,
    /// Bytes of the stack, or the negative errno with which it was refused.
    pub stack_bytes: i32,
    /// Command name of the thread, padded with zero bytes.
    pub comm: [u8; COMM_LEN],
    /// The code before `ip`; zeroes if it cannot be read.
    pub before: [u8; WATCH_BEFORE],
    /// The code from `ip` on; zeroes if it cannot be read.
    pub after: [u8; WATCH_AFTER],
    /// The kernel stack, innermost first; the first one is `ip`.
    pub stack: [u64; WATCH_STACK],
}
// five u64 = 40, registers 128, three u64 = 24, eight u32 = 32, comm 16, code 56, stack 192.
const _: () = assert!(size_of::<WatchEvent>() == 488 && align_of::<WatchEvent>() == 8);

impl WatchEvent {
    /// Of the bytes that the kernel side wrote; `None` if they are too few.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was checked; every bit pattern is a valid value of these integers and arrays of
        // integers, and the read needs no alignment.
        Some(unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) })
    }
}
