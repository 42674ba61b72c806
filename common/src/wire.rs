//! The wire format: what one probe hands to user space, byte for byte.
//!
//! An event is a fixed [`Header`] of 48 bytes and one body by kind; all of it little-endian, as the
//! kernel that wrote it. `docs/wire-format.md` is the same thing for people who read the bytes
//! from another language. Layouts are pinned at compile time below each type.
//!
//! Three rules keep old recordings readable:
//! * a kind's number is never used again for another meaning;
//! * a field is only appended, and [`Header::len`] says how far the event goes;
//! * [`ABI`] changes only when the header itself does.

mod decode;
mod event;
mod hold;
mod kind;
mod lockdep;
mod reason;
pub mod sched;
mod watch;

pub use decode::{DecodeError, decode, header};
pub use event::{Event, Provenance};
pub use hold::{Held, HoldFacts, hold_arg};
pub use kind::{BODY_MMAP, BODY_VMA, Body, Kind};
pub use lockdep::{CODE_PERIOD, acquire_arg, release_arg};
pub use reason::Reason;
pub use watch::{WATCH_AFTER, WATCH_BEFORE, WATCH_STACK, WatchEvent, WatchFound, WatchRuns, WatchTarget};

/// Version of the [`Header`] layout; the first byte of every event.
pub const ABI: u8 = 1;

/// Length of a command name in the kernel (`TASK_COMM_LEN`), in bytes.
pub const COMM_LEN: usize = 16;

/// The largest event that is ever written, in bytes.
pub const MAX_EVENT: usize = 96;

/// What precedes every body: who, where, when, and how sure.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Always [`ABI`].
    pub abi: u8,
    /// A [`Kind`] as its number.
    pub kind: u8,
    /// Length of header and body together, in bytes; a multiple of 8.
    pub len: u16,
    /// The CPU that the probe ran on.
    pub cpu: u16,
    /// Bits of [`flag`]: which fields are there, and small facts.
    pub flags: u16,
    /// `CLOCK_MONOTONIC` in nanoseconds, taken after the space for the event was reserved.
    pub ts_ns: u64,
    /// Number of this event among all that this CPU produced, dropped ones included; wraps.
    pub seq: u32,
    /// Process (the kernel's `tgid`).
    pub pid: u32,
    /// Thread (the kernel's `pid`).
    pub tid: u32,
    /// Which place in the kernel this was seen at: an index into the plan's table of sites.
    pub site: u32,
    /// Command name of the thread, padded with zero bytes; may hold anything a user can set.
    pub comm: [u8; COMM_LEN],
}

/// Body of the `mmap_*` kinds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmapBody {
    /// Address of the `mm_struct`.
    pub mm: u64,
    /// `mm->mm_lock_seq`, if [`flag::MM_SEQ`].
    pub mm_lock_seq: u32,
    /// Unused, zero.
    pub pad: u32,
}

/// Body of the `vma_*` and `fault_*` kinds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmaBody {
    /// Address of the `mm_struct`, if [`flag::MM`].
    pub mm: u64,
    /// Address of the `vm_area_struct`, if [`flag::VMA`].
    pub vma: u64,
    /// First address of the range, if [`flag::RANGE`]; the address that was asked for, if [`flag::ADDR`].
    pub vm_start: u64,
    /// First address after the range, if [`flag::RANGE`].
    pub vm_end: u64,
    /// `vma->vm_refcnt`, if [`flag::REFCNT`].
    pub vm_refcnt: u32,
    /// `vma->vm_lock_seq`, if [`flag::VMA_SEQ`].
    pub vm_lock_seq: u32,
    /// `mm->mm_lock_seq`, if [`flag::MM_SEQ`].
    pub mm_lock_seq: u32,
    /// By kind: `fault_begin` has the `FAULT_FLAG_*` bits in the upper half; `fault_end` has them
    /// too, and the `VM_FAULT_*` bits in the lower half; `vma_read_fail`,
    /// `vma_read_refused` and `vma_write_fail` have the errno in the lower half (0: a null pointer was
    /// returned); these and `vma_read_temporary` have a [`Reason`] in the upper half. `lockdep_acquire` has
    /// lockdep's `read` (0: for writing) in the lowest byte. `task_*`, `sched_*` and `stack`: see [`sched`]; `hold`:
    /// [`HoldFacts`].
    pub arg: u32,
}

/// Bits of [`Header::flags`].
pub mod flag {
    /// `mm` is known.
    pub const MM: u16 = 1 << 0;
    /// `vma` is known.
    pub const VMA: u16 = 1 << 1;
    /// `vm_start` and `vm_end` are known.
    pub const RANGE: u16 = 1 << 2;
    /// `vm_refcnt` is known.
    pub const REFCNT: u16 = 1 << 3;
    /// `vm_lock_seq` is known.
    pub const VMA_SEQ: u16 = 1 << 4;
    /// `mm_lock_seq` is known.
    pub const MM_SEQ: u16 = 1 << 5;
    /// `vm_start` holds the address that was looked for, not the start of a VMA.
    pub const ADDR: u16 = 1 << 6;
    /// The lock is meant for writing (`mmap_*` kinds).
    pub const WRITE: u16 = 1 << 7;
    /// The release happened on behalf of another task (`mmap_read_unlock_non_owner`).
    pub const NON_OWNER: u16 = 1 << 8;
    /// A read of kernel memory failed while this event was made; what it was to give is not there.
    pub const READ_FAULT: u16 = 1 << 9;
    /// Upper two bits: [`super::Provenance`] as its number.
    pub const PROVENANCE_SHIFT: u16 = 14;
}

/// A `VM_FAULT_*` or `FAULT_FLAG_*` bit that somebody asks about.
pub mod fault {
    /// `FAULT_FLAG_WRITE`: the access was a write.
    pub const FLAG_WRITE: u16 = 1 << 0;
    /// `FAULT_FLAG_TRIED`: not the first round of this fault.
    pub const FLAG_TRIED: u16 = 1 << 5;
    /// `FAULT_FLAG_USER`: from user mode.
    pub const FLAG_USER: u16 = 1 << 6;
    /// `FAULT_FLAG_REMOTE`: on behalf of another process.
    pub const FLAG_REMOTE: u16 = 1 << 7;
    /// `FAULT_FLAG_VMA_LOCK`: under the per-VMA lock.
    pub const FLAG_VMA_LOCK: u16 = 1 << 12;
    /// `VM_FAULT_OOM | VM_FAULT_SIGBUS | VM_FAULT_SIGSEGV | VM_FAULT_HWPOISON*`: it ended in an error.
    pub const RESULT_ERROR: u16 = 0x0073;
    /// `VM_FAULT_MAJOR`: it had to wait for a page.
    pub const RESULT_MAJOR: u16 = 0x0004;
    /// `VM_FAULT_RETRY`: the lock was dropped inside; the fault is to be taken again.
    pub const RESULT_RETRY: u16 = 0x0400;
    /// `VM_FAULT_COMPLETED`: the lock was dropped inside; the fault is done.
    pub const RESULT_COMPLETED: u16 = 0x4000;
}

// 4 x u8/u16 pairs = 8, ts 8, four u32 = 16, comm 16.
const _: () = assert!(size_of::<Header>() == 48 && align_of::<Header>() == 8);
// mm 8, seq and padding 8.
const _: () = assert!(size_of::<MmapBody>() == 16);
// four u64 = 32, four u32 = 16.
const _: () = assert!(size_of::<VmaBody>() == 48);
const _: () = assert!(size_of::<Header>() + size_of::<VmaBody>() == MAX_EVENT);

/// Header and body of an `mmap_*` event, as the probe writes it: 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmapEvent {
    /// Who, where, when.
    pub header: Header,
    /// The lock.
    pub body: MmapBody,
}

/// Header and body of a `vma_*` or `fault_*` event, as the probe writes it: 96 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmaEvent {
    /// Who, where, when.
    pub header: Header,
    /// The lock.
    pub body: VmaBody,
}

const _: () = assert!(size_of::<MmapEvent>() == 64);
const _: () = assert!(size_of::<VmaEvent>() == 96);

/// What one CPU counts in the kernel; `produced = received + dropped` holds for each CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuCounters {
    /// Events that passed the filters, whether they found room or not.
    pub produced: u64,
    /// Events that found the ring buffer full.
    pub dropped: u64,
}
const _: () = assert!(size_of::<CpuCounters>() == 16);

/// The same, alone in its cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuSlot {
    /// What it counts.
    pub counters: CpuCounters,
}
const _: () = assert!(size_of::<CpuSlot>() == 64);

/// Upper bound on sites in a plan: the kernel counts hits and drops of each one apart.
pub const MAX_SITES: u32 = 1024;

/// What one CPU counts for one site.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteCounters {
    /// Times that the probe ran and its filters let it pass.
    pub hits: u64,
    /// Events of it that found the ring buffer full.
    pub dropped: u64,
    /// Skipped runs of its second program that lost nothing, since the first one had run.
    pub spared: u64,
}
const _: () = assert!(size_of::<SiteCounters>() == 24);
