//! Kinds of events: their numbers, names and bodies.

/// Which body follows the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// [`super::MmapBody`].
    Mmap,
    /// [`super::VmaBody`].
    Vma,
}

/// Length of an event with a [`super::MmapBody`], in bytes.
pub const BODY_MMAP: u16 = 64;
/// Length of an event with a [`super::VmaBody`], in bytes.
pub const BODY_VMA: u16 = 96;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $body:ident;)*) => {
        /// What happened. Numbers are part of the wire format and never used again.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Kind {
            /// All kinds, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in all output.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The kind with that number; `None` for a number that this version does not know.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }

            /// Which body it has.
            pub const fn body(self) -> Body {
                match self { $(Self::$variant => Body::$body,)* }
            }
        }
    };
}

kinds! {
    /// A task begins to wait for, or to try, the mmap_lock.
    MmapStart = 1, "mmap_start", Mmap;
    /// It has it.
    MmapAcquire = 2, "mmap_acquire", Mmap;
    /// It did not get it: a failed trylock, or killed while it waited.
    MmapFail = 3, "mmap_fail", Mmap;
    /// It is about to give it back.
    MmapRelease = 4, "mmap_release", Mmap;
    /// A writer goes on as a reader.
    MmapDowngrade = 5, "mmap_downgrade", Mmap;

    /// A task has a VMA's lock for reading.
    VmaReadAcquire = 16, "vma_read_acquire", Vma;
    /// A task that wanted a VMA's lock for reading has to take another way.
    VmaReadFail = 17, "vma_read_fail", Vma;
    /// A task gave a VMA's read lock back.
    VmaReadRelease = 18, "vma_read_release", Vma;
    /// A writer starts to lock a VMA, which may mean waiting for its readers.
    VmaWriteStart = 19, "vma_write_start", Vma;
    /// The VMA is write-locked, until the mmap_lock's write side ends.
    VmaWriteAcquire = 20, "vma_write_acquire", Vma;
    /// The VMA left its address space.
    VmaDetach = 21, "vma_detach", Vma;
    /// A writer was killed while it waited for readers.
    VmaWriteFail = 22, "vma_write_fail", Vma;
    /// One attempt at a VMA met one that it may not have; the walk may go on. `arg` says why. The failure of
    /// the whole is `vma_read_fail`.
    VmaReadRefused = 23, "vma_read_refused", Vma;
    /// A task raised a VMA's count, found that it must not have it, and is about to put it back. Never a hold.
    VmaReadTemporary = 24, "vma_read_temporary", Vma;
    /// The VMA joined an address space: its count becomes 1.
    VmaAttach = 25, "vma_attach", Vma;

    /// `handle_mm_fault` starts.
    FaultBegin = 32, "fault_begin", Vma;
    /// `handle_mm_fault` returned.
    FaultEnd = 33, "fault_end", Vma;

    /// A lock was held, from its acquire to now: one event for both, with `--mode holds`; see [`super::HoldFacts`].
    Hold = 34, "hold", Vma;

    /// A task made another one: `arg` is its tid, `vm_refcnt` its process, `mm` its address space.
    TaskFork = 40, "task_fork", Vma;
    /// A task runs another program: `mm` is its new address space, `arg` the tid that it had before.
    TaskExec = 41, "task_exec", Vma;
    /// A task is on its way out. It may still take and give back locks while it tears down its address space.
    TaskExit = 42, "task_exit", Vma;
    /// A task that holds or awaits a lock leaves its CPU; see [`super::sched`].
    SchedOut = 43, "sched_out", Vma;
    /// A task that left its CPU like that runs again.
    SchedIn = 44, "sched_in", Vma;
    /// A task that left its CPU like that was made runnable: `arg` is its tid, the header's task the one that woke it.
    SchedWake = 45, "sched_wake", Vma;
    /// Stacks of the task's event before this one, a wait or a hold that ended; see [`super::sched`].
    Stack = 46, "stack", Vma;

    /// lockdep was told that a task has a VMA's lock, or an mmap_lock: the truth, where the kernel has it.
    LockdepAcquire = 48, "lockdep_acquire", Vma;
    /// lockdep was told that a task gives it back.
    LockdepRelease = 49, "lockdep_release", Vma;

    /// Events are missing here. Made by user space: `cpu` says where, `arg` how many (0: not known).
    Gap = 64, "gap", Vma;
}

impl Kind {
    /// The kind with that name in output.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Length of an event of this kind as this version writes it, in bytes.
    pub const fn wire_len(self) -> u16 {
        match self.body() {
            Body::Mmap => BODY_MMAP,
            Body::Vma => BODY_VMA,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back() {
        for &kind in Kind::ALL {
            assert_eq!(Kind::from_number(kind as u8), Some(kind));
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
        }
    }

    #[test]
    fn an_unknown_number_is_no_kind() {
        assert_eq!(Kind::from_number(0), None);
        assert_eq!(Kind::from_number(255), None);
    }
}
