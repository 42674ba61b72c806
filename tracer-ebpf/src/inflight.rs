//! What a task was doing at a function's entry, for the probe at its return.
//!
//! An array indexed by the low bits of the thread number, and the number itself beside the value:
//! two threads that share a slot lose the earlier value, and know it. No lock is taken, since this
//! runs inside the page fault.

use aya_ebpf::{macros::map, maps::Array};

const SLOTS: u32 = 1 << 16;

#[repr(C)]
struct Slot {
    tid: u64,
    value: u64,
}

#[map]
static INFLIGHT: Array<Slot> = Array::with_max_entries(SLOTS, 0);
/// The VMAs of faults that passed the filter by address.
#[map]
static FAULTS: Array<Slot> = Array::with_max_entries(SLOTS, 0);

/// Remembers `value` for the thread.
#[inline(always)]
pub(crate) fn begin(tid: u32, value: u64) {
    remember(&INFLIGHT, tid, value);
}

/// Remembers the VMA of a thread's fault.
#[inline(always)]
pub(crate) fn fault_begins(tid: u32, vma: u64) {
    remember(&FAULTS, tid, vma);
}

/// Whether that VMA was remembered. A fault inside another one takes the note of the outer one away.
#[inline(always)]
pub(crate) fn fault_began(tid: u32, vma: u64) -> bool {
    let Some(slot) = FAULTS.get_ptr_mut(tid & (SLOTS - 1)) else {
        return false;
    };
    // SAFETY: the map gave a valid pointer.
    unsafe { (*slot).tid == u64::from(tid) && (*slot).value == vma }
}

#[inline(always)]
fn remember(notes: &Array<Slot>, tid: u32, value: u64) {
    if let Some(slot) = notes.get_ptr_mut(tid & (SLOTS - 1)) {
        // SAFETY: the map gave a valid pointer; torn values are told by the thread number.
        unsafe {
            (*slot).value = value;
            (*slot).tid = u64::from(tid);
        }
    }
}

/// Takes what was remembered, if it is still there.
#[inline(always)]
pub(crate) fn end(tid: u32) -> Option<u64> {
    let slot = INFLIGHT.get_ptr_mut(tid & (SLOTS - 1))?;
    // SAFETY: the map gave a valid pointer.
    unsafe {
        if (*slot).tid != u64::from(tid) {
            return None;
        }
        (*slot).tid = 0;
        Some((*slot).value)
    }
}
