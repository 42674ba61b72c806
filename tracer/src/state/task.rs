//! What one task holds, waits for and has done.

use tracer_common::wire::{COMM_LEN, Provenance, Reason};

use super::counters::TaskCounters;
use super::run::Run;
use super::small::{Small, fetch};
use super::table::Idle;

/// The four ways to hold a lock; also the index of everything that is counted by them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Lock {
    /// `mmap_lock`, shared.
    #[default]
    MmapRead = 0,
    /// `mmap_lock`, exclusive.
    MmapWrite = 1,
    /// A VMA's lock, shared.
    VmaRead = 2,
    /// A VMA's lock, exclusive; ends with the `mmap_lock` write side.
    VmaWrite = 3,
}

impl Lock {
    /// All, by index.
    pub const ALL: [Self; 4] = [Self::MmapRead, Self::MmapWrite, Self::VmaRead, Self::VmaWrite];

    /// The name in all output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MmapRead => "mmap_read",
            Self::MmapWrite => "mmap_write",
            Self::VmaRead => "vma_read",
            Self::VmaWrite => "vma_write",
        }
    }

    /// The `mmap_lock` in that mode.
    pub const fn mmap(write: bool) -> Self {
        if write { Self::MmapWrite } else { Self::MmapRead }
    }
}

/// A lock that a task holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    /// Which way.
    pub lock: Lock,
    /// How surely it is held at this moment. `Bounded`: its release may have gone unseen.
    pub certainty: Provenance,
    /// Whether `since_ns` is when it was taken, and not just when it was first known to be held.
    pub start_known: bool,
    /// How surely `since_ns` is known; not at all if the start was not seen.
    pub start: Provenance,
    /// It was taken at most so long before or after `since_ns`, in nanoseconds, where that is known.
    pub start_bound_ns: Option<u64>,
    /// Only lockdep told of it so far.
    pub(super) by_lockdep: bool,
    /// The state of knowledge (see the module) in which this was found out.
    pub(super) epoch: u32,
    /// Address of the `mm_struct`; 0 if unknown.
    pub mm: u64,
    /// Address of the `vm_area_struct`; 0 for the `mmap_lock`.
    pub vma: u64,
    /// First address of the VMA, if known.
    pub vm_start: u64,
    /// First address after the VMA; 0: range unknown.
    pub vm_end: u64,
    /// Since when, in nanoseconds.
    pub since_ns: u64,
    /// Numbers of the kernel's and the user's stack with which it was taken; 0: not known.
    pub stacks: (u32, u32),
}

/// When a hold began, and how surely that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Since when, in nanoseconds.
    pub since_ns: u64,
    /// How surely; unknown: it is just when it was first known to be held.
    pub provenance: Provenance,
    /// It was taken at most so long before or after, in nanoseconds, where that is known.
    pub bound_ns: Option<u64>,
}

/// A lock that a task waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// Which way.
    pub lock: Lock,
    /// How surely it waits at this moment.
    pub certainty: Provenance,
    pub(super) epoch: u32,
    /// Address of the `mm_struct`; 0 if unknown.
    pub mm: u64,
    /// Address of the `vm_area_struct`; 0 for the `mmap_lock`.
    pub vma: u64,
    /// Since when, in nanoseconds.
    pub since_ns: u64,
}

/// A `handle_mm_fault` that a task is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Address of the `vm_area_struct`.
    pub vma: u64,
    /// Address of the `mm_struct`; 0 if unknown.
    pub mm: u64,
    /// First address of the VMA, if known.
    pub vm_start: u64,
    /// First address after the VMA; 0: range unknown.
    pub vm_end: u64,
    /// `FAULT_FLAG_*`.
    pub flags: u16,
    /// The VMA lock's release was seen inside.
    pub(super) released: bool,
    pub(super) epoch: u32,
    /// Since when, in nanoseconds.
    pub since_ns: u64,
}

/// A fault that was told to come again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    /// How many other faults it is nested in.
    pub depth: usize,
    /// It was under the VMA lock when it was sent back.
    pub was_vma: bool,
    /// It came from user mode.
    pub user: bool,
}

/// The last try for a VMA's read lock that came to nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    /// 0 if unknown.
    pub vma: u64,
    pub reason: Reason,
    /// The count was raised, and what takes it back was not seen yet.
    pub raised: bool,
}

/// A get that lockdep told of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tentative {
    pub vma: u64,
    pub since_ns: u64,
    pub write: bool,
    /// It was seen at its own place to be a temporary one.
    pub seen: bool,
    /// The state of knowledge that it belongs to.
    pub epoch: u32,
}

/// A release without a known acquire, whose meaning the task's next event tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenPut {
    pub vma: u64,
    pub ts_ns: u64,
    pub mm: u64,
    /// Lockdep told of it, and that it is no release of a hold.
    pub by_lockdep: bool,
}

/// One task.
#[derive(Clone, Debug, Default)]
pub struct Task {
    /// Thread.
    pub tid: u32,
    /// Process.
    pub pid: u32,
    /// Command name, raw.
    pub comm: [u8; COMM_LEN],
    /// Time of its latest event, in nanoseconds.
    pub last_ns: u64,
    /// What it did so far.
    pub counters: TaskCounters,
    pub(super) holds: Small<Hold, 4>,
    pub(super) waits: Small<Wait, 2>,
    pub(super) frames: Small<Frame, 2>,
    pub(super) retry: Option<Retry>,
    pub(super) open_put: Option<OpenPut>,
    pub(super) attempt: Option<Attempt>,
    /// Empty, and without memory, where lockdep is no source.
    pub(super) tentative: Vec<Tentative>,
    /// The latest event gave this VMA back; it may be seen to do so at another place as well.
    pub(super) echo: Option<u64>,
    /// The state of knowledge in which it was last known to hold no VMA for reading but those listed.
    pub(super) reads_known: u32,
    /// The `mmap_lock`s about which all is known of this task, and in which state of knowledge.
    pub(super) known_mms: [(u64, u32); 2],
    pub(super) run: Run,
    /// When it ended; 0: it has not, as far as that was seen.
    pub(super) exited_ns: u64,
}

impl Task {
    /// Tells the processor that what views show of it is about to be read.
    #[inline]
    pub(super) fn fetch(&self) {
        fetch(&self.comm);
        fetch(&self.counters.events);
        fetch(&self.counters.user_faults);
        fetch(&self.counters.waits[0]);
        fetch(&self.counters.waits[3]);
        fetch(&self.counters.holds[1]);
        fetch(&self.counters.holds[3]);
        self.holds.fetch();
        self.waits.fetch();
        fetch(&self.run);
    }

    /// The same for what [`Engine::standing`](super::Engine::standing) reads.
    #[inline]
    pub(super) fn fetch_standing(&self) {
        fetch(&self.counters.user_faults);
        fetch(&self.counters.kernel_faults);
        self.holds.fetch();
        self.waits.fetch();
    }

    /// Whether, in this state of knowledge, the task was seen to take or leave this `mmap_lock`.
    pub(super) fn knows_mm(&self, mm: u64, epoch: u32) -> bool {
        self.known_mms.contains(&(mm, epoch))
    }

    pub(super) fn learn_mm(&mut self, mm: u64, epoch: u32) {
        if self.known_mms[0] != (mm, epoch) {
            if self.known_mms[0].0 != mm {
                self.known_mms[1] = self.known_mms[0];
            }
            self.known_mms[0] = (mm, epoch);
        }
    }

    pub(super) fn position(&self, lock: Lock, mm: u64) -> Option<usize> {
        self.holds
            .iter()
            .rposition(|hold| hold.lock == lock && hold.mm == mm)
    }

    pub(super) fn read_of(&self, vma: u64) -> Option<usize> {
        self.holds
            .iter()
            .rposition(|hold| hold.lock == Lock::VmaRead && hold.vma == vma)
    }

    pub(super) fn reads(&self) -> usize {
        self.holds
            .iter()
            .filter(|hold| hold.lock == Lock::VmaRead)
            .count()
    }
}

impl Idle for Task {
    fn is_idle(&self) -> bool {
        self.holds.is_empty() && self.waits.is_empty() && self.frames.is_empty()
    }

    fn is_done(&self) -> bool {
        self.exited_ns != 0
    }
}
