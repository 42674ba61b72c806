//! Numbers of the places that have a probe program of their own, shared by both sides.
//!
//! `Header::site` is one of these, or, from [`FIRST_DYNAMIC`] on, an index into the table of
//! instructions that the loader found on this kernel.

use crate::wire::Kind;

macro_rules! sites {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        $($(#[$doc])* pub const $name: u32 = $number;)*
    };
}

sites! {
    /// Tracepoint `mmap_lock_start_locking`.
    MMAP_START = 0;
    /// Tracepoint `mmap_lock_acquire_returned`.
    MMAP_ACQUIRE = 1;
    /// Tracepoint `mmap_lock_released`.
    MMAP_RELEASE = 2;
    /// Return of `lock_vma_under_rcu`.
    LOCK_VMA_UNDER_RCU = 3;
    /// Return of `lock_next_vma`.
    LOCK_NEXT_VMA = 4;
    /// Return of `vma_start_read`.
    VMA_START_READ = 5;
    /// Entry of `vma_refcount_put`.
    VMA_REFCOUNT_PUT = 6;
    /// Entry of `handle_mm_fault`.
    FAULT_BEGIN = 7;
    /// Return of `handle_mm_fault`.
    FAULT_END = 8;
    /// Entry of `__vma_start_write`.
    WRITE_START = 9;
    /// Return of `__vma_start_write`.
    WRITE_ACQUIRE = 10;
    /// Return of `vma_mark_detached`.
    MARK_DETACHED = 11;
    /// Entry of `vm_area_free`.
    AREA_FREE = 12;
    /// Entry of `__bad_area`.
    BAD_AREA = 13;
    /// Made by user space.
    USER = 14;
    /// Fork and exit of traced processes: counts the ones that could not be followed as drops.
    FOLLOW = 15;
    /// lockdep's own tracepoints.
    LOCKDEP = 16;
    /// Tracepoint `sched_process_fork`.
    TASK_FORK = 17;
    /// Tracepoint `sched_process_exec`.
    TASK_EXEC = 18;
    /// Tracepoint `sched_process_exit`.
    TASK_EXIT = 19;
    /// Tracepoint `sched_switch`.
    SCHED_SWITCH = 20;
    /// Tracepoints `sched_waking` and `sched_wakeup`.
    SCHED_WAKE = 21;
    /// Stacks of long waits and holds.
    STACK = 22;
    /// No probe: tasks that took each other's place in the table of marks, counted as drops.
    MARKS = 23;
    /// No probe: stacks that the kernel did not give, counted as drops.
    FRAMES = 24;
    /// The first number for a site that was found at run time.
    FIRST_DYNAMIC = 32;
}

/// What the probe at an instruction reports. Numbers are shared with the programs, not written to files.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Nothing: the entry is not in use.
    #[default]
    None = 0,
    /// `vma_read_acquire`: the lock is there, all checks have passed.
    ReadAcquire = 1,
    /// `vma_read_release`: the lock is about to be given back.
    ReadRelease = 2,
    /// `vma_read_temporary`: the count was raised, and is about to be taken back.
    ReadTemporary = 3,
    /// `vma_read_refused`: an attempt failed, without raising the count.
    ReadRefused = 4,
    /// `vma_write_start`: a writer is about to shut readers out.
    WriteStart = 5,
    /// `vma_write_acquire`: the sequence number is about to be set.
    WriteAcquire = 6,
    /// `vma_detach`: the VMA's own reference is about to be given back.
    Detach = 7,
    /// `vma_attach`: the VMA's count is about to become 1.
    Attach = 8,
    /// No event: a reader is about to raise the count, and is kept from it until the VMA is write-locked, for a while.
    Linger = 9,
}

impl Role {
    /// All roles, by number.
    pub const ALL: [Self; 10] = [
        Self::None,
        Self::ReadAcquire,
        Self::ReadRelease,
        Self::ReadTemporary,
        Self::ReadRefused,
        Self::WriteStart,
        Self::WriteAcquire,
        Self::Detach,
        Self::Attach,
        Self::Linger,
    ];

    /// The kind of event that it makes.
    pub const fn kind(self) -> Option<Kind> {
        Some(match self {
            Self::None | Self::Linger => return None,
            Self::ReadAcquire => Kind::VmaReadAcquire,
            Self::ReadRelease => Kind::VmaReadRelease,
            Self::ReadTemporary => Kind::VmaReadTemporary,
            Self::ReadRefused => Kind::VmaReadRefused,
            Self::WriteStart => Kind::VmaWriteStart,
            Self::WriteAcquire => Kind::VmaWriteAcquire,
            Self::Detach => Kind::VmaDetach,
            Self::Attach => Kind::VmaAttach,
        })
    }
}

/// How a program computes the VMA from the registers.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// It cannot.
    #[default]
    None = 0,
    /// Register plus displacement.
    Register = 1,
    /// The eight bytes at register plus offset, plus displacement.
    Memory = 2,
}

/// What the one program for all found instructions has to know of the one that it runs at. The table of these is
/// filled by the loader; the index is the site's number less [`FIRST_DYNAMIC`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteEntry {
    /// A [`Role`].
    pub role: u8,
    /// A [`Place`].
    pub place: u8,
    /// Number of the register as instructions encode it: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.
    pub register: u8,
    /// Bits: [`Self::SHARED`], [`Self::OWN_MM`].
    pub shared: u8,
    /// The [`super::wire::Reason`]s that lead here, one bit by number; several: the program asks the lock which.
    pub reasons: u32,
    /// Added to the register before memory is read ([`Place::Memory`]).
    pub offset: i64,
    /// Added last.
    pub displacement: i64,
}
const _: () = assert!(size_of::<SiteEntry>() == 24);

impl SiteEntry {
    /// Control comes here for other reasons too; the program asks the lock whether this is one of `reasons`, and
    /// says nothing if it is none.
    pub const SHARED: u8 = 1 << 0;
    /// The VMA has to be one of the task's own address space, else it was recycled.
    pub const OWN_MM: u8 = 1 << 1;
}
