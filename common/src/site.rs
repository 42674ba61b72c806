//! Numbers of the places that have a probe program of their own, shared by both sides.
//!
//! `Header::site` is one of these, or, from [`FIRST_DYNAMIC`] on, an index into the table of
//! instructions that the loader found on this kernel.

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
    /// The first number for a site that was found at run time.
    FIRST_DYNAMIC = 32;
}
