//! What a task is to a VMA, what the assertions are, and what they should say: the words that the checks and the model
//! checker share.

use tracer_common::lock::assertion::{vma_assert_can_modify, vma_assert_stabilised, vma_assert_write_locked};
use tracer_common::lock::{HeldAnswer, LockState, Lockdep, Variant, Verdict};

/// What a task is to a VMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Read-locked it, and may use it.
    Reader,
    /// Raised `vm_refcnt` and does not know yet whether it may stay.
    TemporaryReader,
    /// In the middle of `vma_refcount_put`.
    Releasing,
    /// Write-locked it.
    Writer,
    /// Write-locked it and detaches it, or has detached it.
    Detacher,
    /// In the middle of write-locking, initialising or attaching it.
    Changing,
    /// None of these.
    Bystander,
}

impl Standing {
    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::TemporaryReader => "temporary reader",
            Self::Releasing => "releasing reader",
            Self::Writer => "writer",
            Self::Detacher => "detacher",
            Self::Changing => "in vma_start_write",
            Self::Bystander => "bystander",
        }
    }
}

/// Who holds the mmap_lock, as far as assertions can tell the difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mmap {
    /// The asking task, exclusively.
    WrittenByMe,
    /// Another task, exclusively.
    WrittenByOther,
    /// The asking task, shared.
    SharedByMe,
    /// Other tasks, shared.
    SharedByOthers,
    /// Nobody.
    Free,
}

impl Mmap {
    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WrittenByMe => "me, exclusive",
            Self::WrittenByOther => "another, exclusive",
            Self::SharedByMe => "me, shared",
            Self::SharedByOthers => "others, shared",
            Self::Free => "nobody",
        }
    }

    /// As a task with these answers sees it.
    pub fn of(s: &LockState) -> Self {
        match (s.mmap_write_held_by_me, s.mmap_held_by_me) {
            (HeldAnswer::Held, _) => Self::WrittenByMe,
            _ if s.mmap_write_locked_by_anyone => Self::WrittenByOther,
            (_, HeldAnswer::Held) => Self::SharedByMe,
            _ if s.mmap_locked_by_anyone => Self::SharedByOthers,
            _ => Self::Free,
        }
    }
}

/// One assertion in one configuration.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// With lockdep or without.
    pub lockdep: Lockdep,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Locked(Variant),
    WriteLocked,
    Stabilised,
    CanModify,
}

impl Column {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let mut columns = Vec::new();
        for lockdep in [Lockdep::On, Lockdep::Off] {
            let column = |name, what| Self { name, lockdep, what };
            columns.extend(Variant::ALL.map(|v| column(v.name(), What::Locked(v))));
            columns.push(column("vma_assert_write_locked", What::WriteLocked));
            columns.push(column("vma_assert_stabilised", What::Stabilised));
            columns.push(column("vma_assert_can_modify", What::CanModify));
        }
        columns
    }

    /// What it says.
    pub fn verdict(&self, s: &LockState) -> Verdict {
        match self.what {
            What::Locked(variant) => variant.vma_assert_locked(self.lockdep, s),
            What::WriteLocked => vma_assert_write_locked(self.lockdep, s),
            What::Stabilised => vma_assert_stabilised(self.lockdep, s),
            What::CanModify => vma_assert_can_modify(self.lockdep, s),
        }
    }

    /// What it should say: fire or not; `None` where the kernel makes no claim, because it does not
    /// assert there.
    pub fn should_fire(&self, standing: Standing, s: &LockState) -> Option<bool> {
        let unclear = matches!(
            standing,
            Standing::TemporaryReader | Standing::Releasing | Standing::Changing | Standing::Detacher
        );
        match self.what {
            What::Locked(_) if unclear => None,
            What::Locked(_) => Some(standing == Standing::Bystander),
            What::Stabilised if s.mmap_held_by_me == HeldAnswer::Held => Some(false),
            What::Stabilised if unclear => None,
            What::Stabilised => Some(standing == Standing::Bystander),
            What::CanModify if s.refcnt == 0 => None,
            What::WriteLocked | What::CanModify if unclear => None,
            What::WriteLocked | What::CanModify => Some(standing != Standing::Writer),
        }
    }
}
