//! What the tasks of a scenario do: short programs made of the lock's operations.

use tracer_common::lock::{MmId, Slot, TaskId, VmaId};

/// One instruction. An instruction that needs a lock or a VMA which the task did not get is skipped,
/// so that programs need no branches for failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Instr {
    /// `lock_vma_under_rcu`.
    LockVma(MmId, Slot),
    /// Skips so many instructions if a VMA is read-locked.
    SkipIfLocked(u8),
    /// `vma_start_read_locked` of the VMA that was found.
    StartReadLocked(MmId),
    /// Reads both words of what the VMA's lock guards, in two steps.
    ReadData,
    /// Like a fault that trusts what it knows of the VMA: the second word must not be 0.
    UseAnon,
    /// Looks at that word under the lock; if it is 0, the next instruction is skipped.
    CheckAnon,
    /// Looks at that word without any lock; the VMA counts as unsuitable if it is 0.
    PeekAnon(MmId, Slot),
    /// Writes a page table entry, as a fault does.
    TouchPte,
    /// `vma_end_read`.
    EndRead,

    /// `mmap_write_lock`; true: killable.
    MmapWriteLock(MmId, bool),
    /// `mmap_write_unlock`.
    MmapWriteUnlock(MmId),
    /// `mmap_write_downgrade`.
    MmapDowngrade(MmId),
    /// `mmap_read_lock`.
    MmapReadLock(MmId),
    /// `mmap_read_trylock`.
    MmapReadTrylock(MmId),
    /// `mmap_read_unlock`.
    MmapReadUnlock(MmId),

    /// Finds the VMA at an address, with the mmap_lock held.
    Find(MmId, Slot),
    /// `vma_start_write`; true: killable.
    StartWrite(MmId, bool),
    /// Changes both words of what the VMA's lock guards, in two steps, to this value.
    WriteData(u32),
    /// Changes the second word only.
    WriteAnon(u32),
    /// Reads the page table entry, as unmapping does.
    ReadPte,
    /// `vma_mark_detached`.
    Detach(MmId),
    /// Takes the VMA out of the tree.
    Unlink(MmId, Slot),
    /// Gives the VMA back to the pool.
    Free,
    /// Takes a VMA from the pool and initialises it.
    Alloc(MmId, Slot),
    /// `vma_mark_attached`, and puts the VMA into the tree.
    Attach(MmId, Slot),
    /// `mmdrop`: the last one frees the mm.
    MmDrop(MmId),

    /// `mmap_lock_speculate_try_begin`.
    SpeculateBegin(MmId),
    /// Reads both words of the VMA without a lock, in two steps.
    SpeculateRead(VmaId),
    /// `mmap_lock_speculate_retry`: what was read must be consistent if it says so.
    SpeculateEnd(MmId),

    /// A fatal signal.
    Kill(TaskId),
}

impl Instr {
    /// May it change anything but the count and what readers may change?
    fn is_read_side(self) -> bool {
        matches!(
            self,
            Self::LockVma(..)
                | Self::SkipIfLocked(_)
                | Self::ReadData
                | Self::UseAnon
                | Self::CheckAnon
                | Self::TouchPte
                | Self::EndRead
        )
    }
}

/// A task of a scenario.
#[derive(Clone, Debug)]
pub struct Role {
    /// What it is called in listings.
    pub name: String,
    /// What it does.
    pub program: Vec<Instr>,
}

impl Role {
    /// A task with this name and program.
    pub fn new(name: impl Into<String>, program: impl Into<Vec<Instr>>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
        }
    }

    /// May tasks that run this program be exchanged for one another without any difference?
    pub fn interchangeable(&self) -> bool {
        self.program.iter().all(|i| i.is_read_side())
    }
}
