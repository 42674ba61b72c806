//! What a value of `vm_refcnt` means, and the three predicates the kernel computes from it.
//!
//! Source: `include/linux/mm_types.h` and `include/linux/mmap_lock.h` of 6.15 and later.

/// Set in `vm_refcnt` while a task keeps readers out of a VMA, to write-lock or to detach it.
///
/// Called `VMA_LOCK_OFFSET` from 6.15 to 6.19.
pub const VM_REFCNT_EXCLUDE_READERS_FLAG: u32 = 1 << 30;

/// The largest count readers may raise `vm_refcnt` to. It lies below the flag, so one comparison
/// refuses a reader both at the limit and while readers are excluded.
///
/// Called `VMA_REF_LIMIT` from 6.15 to 6.19.
pub const VM_REFCNT_LIMIT: u32 = VM_REFCNT_EXCLUDE_READERS_FLAG - 1;

/// `vm_lock_seq` of a VMA that was never write-locked (`UINT_MAX`).
pub const VM_LOCK_SEQ_NEVER: u32 = u32::MAX;

/// Every state that the value of `vm_refcnt` alone can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RefcntClass {
    /// 0: in no tree; readers cannot raise it.
    Detached,
    /// 1: attached, and unlocked or write-locked. Also a detaching VMA with one temporary reader
    /// whose detacher has not set the flag yet.
    Attached,
    /// 2 to the limit: readers, or a write-locked VMA with temporary readers.
    Readers,
    /// The flag alone: detached, the flag is about to go.
    Flag,
    /// The flag plus one: write-locking with no readers left, or detaching with one temporary reader.
    FlagPlusOne,
    /// Above: a writer or detacher waits for readers.
    Waiting,
    /// Neither reachable nor documented: `refcount_t` saturated, or memory that is not a VMA.
    Undocumented,
}

impl RefcntClass {
    /// All classes, in ascending order of the values they stand for.
    pub const ALL: [Self; 7] = [
        Self::Detached,
        Self::Attached,
        Self::Readers,
        Self::Flag,
        Self::FlagPlusOne,
        Self::Waiting,
        Self::Undocumented,
    ];

    /// The class of a value.
    #[inline]
    #[must_use]
    pub const fn of(refcnt: u32) -> Self {
        const F: u32 = VM_REFCNT_EXCLUDE_READERS_FLAG;
        match refcnt {
            0 => Self::Detached,
            1 => Self::Attached,
            2..F => Self::Readers,
            F => Self::Flag,
            _ if refcnt == F + 1 => Self::FlagPlusOne,
            // The flag plus as many references as the limit allows.
            _ if refcnt <= F + VM_REFCNT_LIMIT => Self::Waiting,
            _ => Self::Undocumented,
        }
    }

    /// How the documents write the class; `F` is the flag.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Detached => "0",
            Self::Attached => "1",
            Self::Readers => "2..F-1",
            Self::Flag => "F",
            Self::FlagPlusOne => "F+1",
            Self::Waiting => ">=F+2",
            Self::Undocumented => "undocumented",
        }
    }
}

/// Does this value say that a writer keeps readers out and none is left? (7.0 and later)
///
/// The answer is yes for a detaching VMA with one temporary reader left, too: there the detacher
/// waits for the flag alone. `docs/assertions.md` says who can see that.
#[inline]
#[must_use]
pub const fn __vma_are_readers_excluded(refcnt: u32) -> bool {
    refcnt & VM_REFCNT_EXCLUDE_READERS_FLAG != 0 && refcnt <= VM_REFCNT_EXCLUDE_READERS_FLAG + 1
}

/// The name and, word for word, the meaning that [`__vma_are_readers_excluded`] had from 6.15 to 6.19.
#[inline]
#[must_use]
pub const fn is_vma_writer_only(refcnt: u32) -> bool {
    __vma_are_readers_excluded(refcnt)
}

/// The mail's second version: more than the attachment is counted, and it is not a lone writer.
#[inline]
#[must_use]
pub const fn vma_is_read_locked(refcnt: u32) -> bool {
    refcnt > 1 && !is_vma_writer_only(refcnt)
}

#[cfg(test)]
mod tests {
    use super::*;

    const F: u32 = VM_REFCNT_EXCLUDE_READERS_FLAG;

    #[test]
    fn classes_border_where_documented() {
        for (value, class) in [
            (0, RefcntClass::Detached),
            (1, RefcntClass::Attached),
            (2, RefcntClass::Readers),
            (VM_REFCNT_LIMIT, RefcntClass::Readers),
            (F, RefcntClass::Flag),
            (F + 1, RefcntClass::FlagPlusOne),
            (F + 2, RefcntClass::Waiting),
            (F + VM_REFCNT_LIMIT, RefcntClass::Waiting),
            (2 * F, RefcntClass::Undocumented),
            (u32::MAX, RefcntClass::Undocumented),
        ] {
            assert_eq!(RefcntClass::of(value), class, "{value:#x}");
        }
    }

    #[test]
    fn a_lone_writer_is_not_a_reader() {
        assert!(!vma_is_read_locked(1) && vma_is_read_locked(2) && vma_is_read_locked(VM_REFCNT_LIMIT));
        assert!(!vma_is_read_locked(F) && !vma_is_read_locked(F + 1) && vma_is_read_locked(F + 2));
    }
}
