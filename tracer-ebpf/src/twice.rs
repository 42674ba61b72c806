//! Two programs on each hook, so that preemption loses no event.
//!
//! The kernel does not run a program that is already running on the same CPU. That is meant against
//! recursion, but on a preemptible kernel it also hits whoever runs while a task is preempted *inside*
//! the program: all of its events on that CPU are skipped until the other task goes on. So each hook
//! gets a second program. The first one notes in the task's slot that it did the work; the second one,
//! which runs right after it, finds the note and does nothing. If the first one was skipped there is no
//! note, and the second one does the work. An event is lost only if both are held up on one CPU at once.
//! The kernel counts skipped runs of the second one; most of them lose nothing, and are found by the note
//! that nobody took away. The difference is what was lost, and is shown as `missed`.
//!
//! The order of the two is the loader's business. Where the kernel cannot preempt a program, the second
//! one is not attached, and the note costs two stores.

use aya_ebpf::{Global, macros::map, maps::Array};
use tracer_common::site::{FIRST_DYNAMIC, FOLLOW};

use crate::emit::{self, BPF_F_MMAPABLE};

/// Makes the two programs of a hook, `$name` and `$again`, of one body.
macro_rules! twice {
    ($attribute:ident($function:literal) $name:ident, $again:ident, $context:ty => $body:ident) => {
        #[$attribute(function = $function)]
        pub(crate) fn $name(ctx: $context) -> i32 {
            $body::<false>(&ctx)
        }

        #[$attribute(function = $function)]
        pub(crate) fn $again(ctx: $context) -> i32 {
            $body::<true>(&ctx)
        }
    };
}

/// 1: the second programs are attached.
#[unsafe(no_mangle)]
static TWICE: Global<u8> = Global::new(0);

const SLOTS: u32 = 1 << 16;
/// Notes of one thread, one byte for each site, so that nothing has to be read to write one.
#[repr(C)]
struct Slot {
    tid: u32,
    done: [u8; FIRST_DYNAMIC as usize],
    pad: u32,
}

/// By the low bits of the thread number. Two threads that share a slot at the same instant take each other's
/// notes away: then an event comes twice, and the engine finds it odd. User space reads what is left at the end in one go.
#[map]
static NOTES: Array<Slot> = Array::with_max_entries(SLOTS, BPF_F_MMAPABLE);

#[inline(always)]
fn slot(tid: u32) -> Option<*mut Slot> {
    NOTES.get_ptr_mut(tid & (SLOTS - 1))
}

/// The first program does the work.
#[inline(always)]
pub(crate) fn done(tid: u32, site: u32) {
    if TWICE.load() == 0 || site >= FIRST_DYNAMIC {
        return;
    }
    if let Some(slot) = slot(tid) {
        // SAFETY: the map gave a valid pointer, and the index is below the array's length.
        unsafe {
            if (*slot).tid != tid {
                take_over(slot, tid);
            } else if (*slot).done[site as usize] != 0 {
                // From this thread's last time here: the second program was skipped after the first had run.
                emit::spared(site, 1);
            }
            (*slot).done[site as usize] = 1;
        }
    }
}

/// The slot was another thread's, whose notes nobody will take away any more.
///
/// # Safety
/// `slot` points into the map.
#[inline(always)]
unsafe fn take_over(slot: *mut Slot, tid: u32) {
    let mut left = 0;
    for site in 0..FIRST_DYNAMIC as usize {
        // SAFETY: the caller's pointer; the index is below the array's length.
        unsafe {
            left += u64::from((*slot).done[site]);
            (*slot).done[site] = 0;
        }
    }
    // SAFETY: the caller's pointer.
    unsafe { (*slot).tid = tid };
    if left != 0 {
        // Of which sites does not matter for the sum.
        emit::spared(FOLLOW, left);
    }
}

/// Whether it did; takes the note away.
#[inline(always)]
pub(crate) fn was_done(tid: u32, site: u32) -> bool {
    if site >= FIRST_DYNAMIC {
        return false;
    }
    let Some(slot) = slot(tid) else { return false };
    // SAFETY: as above.
    unsafe {
        let noted = (*slot).tid == tid && (*slot).done[site as usize] == 1;
        (*slot).done[site as usize] = 0;
        noted
    }
}
