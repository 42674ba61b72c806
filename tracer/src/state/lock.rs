//! What is known of one VMA and of one address space.

use super::small::Small;
use super::table::Idle;
use super::task::Lock;

/// Identity of a task in the engine: its tid, except that the idle tasks of all CPUs, which share tid
/// 0, are told apart.
pub(super) type TaskKey = u32;

/// One VMA, by the address of its `vm_area_struct`.
#[derive(Clone, Debug, Default)]
pub struct Vma {
    /// Address of the `mm_struct` that it belongs to; 0 if unknown.
    pub mm: u64,
    /// First address.
    pub vm_start: u64,
    /// First address after it; 0: range unknown.
    pub vm_end: u64,
    /// `vm_refcnt` as last seen.
    pub vm_refcnt: Option<u32>,
    /// `vm_lock_seq` as last seen.
    pub vm_lock_seq: Option<u32>,
    /// Whether it left its address space.
    pub detached: bool,
    /// Time of the latest event, in nanoseconds.
    pub last_ns: u64,
    /// Times that a reader raised its count and had to take it back.
    pub temporary_reads: u64,
    pub(super) readers: Small<TaskKey, 4>,
    pub(super) writer: Option<Writer>,
    pub(super) waiting_writer: Option<TaskKey>,
}

/// Who write-locked a VMA, and until when that counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer {
    pub task: TaskKey,
    /// [`Mm::write_life`] when it was taken: another value there means that it has ended.
    pub life: u64,
    /// Where it stands in [`Mm::write_locked`].
    pub at: u32,
    pub epoch: u32,
}

impl Idle for Vma {
    fn is_idle(&self) -> bool {
        self.readers.is_empty() && self.waiting_writer.is_none()
    }
}

/// A VMA that is write-locked until its `mm`'s write side ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteLocked {
    /// Address of the `vm_area_struct`.
    pub vma: u64,
    /// First address.
    pub vm_start: u64,
    /// First address after it; 0: range unknown.
    pub vm_end: u64,
    /// Since when, in nanoseconds.
    pub since_ns: u64,
    pub(super) epoch: u32,
    /// The VMA's memory has become another VMA since: this one is gone.
    pub(super) gone: bool,
}

/// One address space, by the address of its `mm_struct`.
#[derive(Clone, Debug, Default)]
pub struct Mm {
    /// Its process: the one that was seen to run in it last, else the one that was first seen with it.
    pub pid: u32,
    /// `mm_lock_seq` as last seen.
    pub mm_lock_seq: Option<u32>,
    /// Times that each lock of it was taken, by [`Lock`].
    pub acquires: [u64; 4],
    /// Time of the latest event, in nanoseconds.
    pub last_ns: u64,
    pub(super) writer: Option<TaskKey>,
    pub(super) readers: Small<TaskKey, 4>,
    pub(super) waiters: Small<TaskKey, 4>,
    pub(super) write_locked: Vec<WriteLocked>,
    /// How many of those are gone.
    pub(super) write_gone: u32,
    /// VMA read locks in it that are held, and waits for its VMAs' readers.
    pub(super) links: u32,
    pub(super) seen: Option<Seen>,
    /// Grows by one whenever all VMA write locks of this `mm` end.
    pub(super) write_life: u64,
}

/// `mm_lock_seq` as it was read by one who had the `mmap_lock`, so that nobody changed it meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub ts_ns: u64,
    pub seq: u32,
    /// The same, of the latest time that the lock was taken for writing.
    pub write: Option<u32>,
}

impl Seen {
    /// Whether a value read later can only be another address space's: it never goes back, and is another one each time
    /// that the lock is taken for writing.
    pub(super) fn is_of_other_life(&self, ts_ns: u64, seq: u32, takes_write: bool) -> bool {
        let back = |old: u32| seq.wrapping_sub(old) > u32::MAX / 2;
        let same = takes_write && self.write.is_some_and(|old| old == seq || back(old));
        ts_ns > self.ts_ns && (same || back(self.seq))
    }
}

impl Mm {
    /// VMAs that are write-locked until the write side ends.
    pub(super) fn write_held(&self) -> impl Iterator<Item = (usize, &WriteLocked)> {
        let all = self.write_locked.iter().enumerate();
        all.filter(|(_, locked)| !locked.gone)
    }

    /// How many those are.
    pub(super) fn write_count(&self) -> u64 {
        self.write_locked.len() as u64 - u64::from(self.write_gone)
    }

    pub(super) fn count(&mut self, lock: Lock) {
        self.acquires[lock as usize] += 1;
    }
}

impl Idle for Mm {
    fn is_idle(&self) -> bool {
        self.writer.is_none()
            && self.readers.is_empty()
            && self.waiters.is_empty()
            && self.write_locked.is_empty()
            && self.links == 0
    }
}

/// Takes one occurrence of a key out of a list.
pub(super) fn unlink<const N: usize>(list: &mut Small<TaskKey, N>, key: TaskKey) {
    if let Some(at) = list.iter().position(|&other| other == key) {
        list.remove(at);
    }
}
