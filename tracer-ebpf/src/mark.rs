//! Which tasks hold or await a lock, and since when: for the scheduler's tracepoints, and for stacks of long waits.
//!
//! An array indexed by the low bits of the thread number, and the number itself beside the marks; no lock is taken and
//! no hash map changed, since this runs inside page faults and in the scheduler. Only a task itself changes its marks,
//! so they need no atomics. A mark too many is harmless: the task's way off its CPU is reported though it holds nothing.
//! A mark too few loses something, so:
//! * a task is marked before the event that says so is made, and its mark goes after the one that ends it;
//! * a task whose last mark has gone `lingers`: what comes right before the end of a hold is seen, not the end itself,
//!   and if the task is preempted in between, it still has the lock;
//! * two tasks that share a slot take it from each other, and that is counted.
//!
//! An end that no probe sees leaves a mark behind. It goes with the task's next page fault from user mode, where a task
//! holds nothing else.

use aya_ebpf::{EbpfContext, Global, helpers::bpf_ktime_get_ns, macros::map, maps::Array};
use tracer_common::{
    site,
    wire::{Kind, fault},
};

use crate::{emit, filter::Task};

/// 1: somebody wants to know.
#[unsafe(no_mangle)]
static MARKS: Global<u8> = Global::new(0);
/// 1: lockdep tells of VMA locks, so that nothing else has to.
#[unsafe(no_mangle)]
static MARKS_BY_LOCKDEP: Global<u8> = Global::new(0);
/// Waits and holds of at least this length get a stack, in nanoseconds; the largest number: none.
#[unsafe(no_mangle)]
static STACKS_FROM_NS: Global<u64> = Global::new(u64::MAX);

const SLOTS: u32 = 1 << 15;

/// Values of [`Slot::out`].
pub(crate) mod out {
    /// It runs, or nobody was told that it does not.
    pub(crate) const NOT: u8 = 0;
    /// It left its CPU, but could run.
    pub(crate) const RUNNABLE: u8 = 1;
    /// It left its CPU to sleep.
    pub(crate) const SLEEPS: u8 = 2;
}

/// What is known of one task. Each field that two may write at once is a byte or word of its own.
#[repr(C)]
pub(crate) struct Slot {
    tid: u32,
    /// `mmap_lock`s that it holds or awaits.
    mmap: u8,
    /// VMAs that it holds for reading.
    vma: u8,
    /// Its last mark has just gone.
    lingers: u8,
    /// One of [`out`]; written by the scheduler's programs.
    pub(crate) out: u8,
    /// The first of its `mmap_lock`s, and since when it waits for it or holds it; 0: not known.
    mm: u64,
    mmap_since: u64,
    /// The same of its VMAs.
    first_vma: u64,
    vma_since: u64,
    /// Since when it waits for a VMA's readers.
    write_since: u64,
    /// Who wakes it.
    pub(crate) waker: Task,
    /// The waker's name.
    pub(crate) waker_comm: [u64; 2],
}

#[map]
static TASKS: Array<Slot> = Array::with_max_entries(SLOTS, 0);

/// Whether events of that kind change marks.
#[inline(always)]
pub(crate) fn need(kind: Kind) -> bool {
    MARKS.load() != 0
        && matches!(
            kind,
            Kind::MmapStart
                | Kind::MmapAcquire
                | Kind::MmapFail
                | Kind::MmapRelease
                | Kind::VmaReadAcquire
                | Kind::VmaReadRelease
                | Kind::VmaWriteStart
                | Kind::VmaWriteAcquire
                | Kind::FaultBegin
                | Kind::FaultEnd
                | Kind::LockdepAcquire
                | Kind::LockdepRelease
        )
}

/// The slot of a task, if it is its.
#[inline(always)]
pub(crate) fn slot_of(tid: u32) -> Option<&'static mut Slot> {
    // SAFETY: the map gave a valid pointer; see the module's head for who writes what.
    let slot = unsafe { &mut *TASKS.get_ptr_mut(tid & (SLOTS - 1))? };
    (slot.tid == tid).then_some(slot)
}

impl Slot {
    /// Whether the task holds or awaits something.
    #[inline(always)]
    pub(crate) fn is_marked(&self) -> bool {
        self.mmap | self.vma != 0
    }

    /// Whether it may be on its way off its CPU with a lock; to be asked when it goes.
    #[inline(always)]
    pub(crate) fn leaves_with_lock(&mut self, preempted: bool) -> bool {
        if self.is_marked() {
            return true;
        }
        let lingers = self.lingers != 0;
        if lingers && !preempted {
            self.lingers = 0;
        }
        lingers && preempted
    }

    #[inline(always)]
    fn unmarked(&mut self) {
        self.lingers = u8::from(!self.is_marked());
    }
}

/// The current task's own slot, taken over if need be.
#[inline(always)]
fn own(tid: u32) -> Option<&'static mut Slot> {
    // SAFETY: as above.
    let slot = unsafe { &mut *TASKS.get_ptr_mut(tid & (SLOTS - 1))? };
    if slot.tid != tid {
        take_over(slot, tid);
    }
    Some(slot)
}

#[inline(always)]
fn take_over(slot: &mut Slot, tid: u32) {
    if slot.is_marked() || slot.out != out::NOT {
        // The other one's marks are lost, unless it has ended.
        emit::dropped(site::MARKS);
    }
    slot.mmap = 0;
    slot.vma = 0;
    slot.lingers = 0;
    slot.out = out::NOT;
    slot.mmap_since = 0;
    slot.vma_since = 0;
    slot.write_since = 0;
    slot.tid = tid;
}

/// A new task has the number: what its predecessor left behind is void.
#[inline(always)]
pub(crate) fn forget(tid: u32) {
    if MARKS.load() == 0 {
        return;
    }
    if let Some(slot) = slot_of(tid) {
        slot.mmap = 0;
        slot.vma = 0;
        slot.out = out::NOT;
        slot.lingers = 0;
    }
}

/// Whether stacks are wanted at all.
#[inline(always)]
pub(crate) fn stacks() -> bool {
    STACKS_FROM_NS.load() != u64::MAX
}

/// The time of an event, or now if it was not wanted.
#[inline(always)]
fn at(event: Option<u64>) -> u64 {
    // SAFETY: the helper has no precondition.
    event.unwrap_or_else(|| unsafe { bpf_ktime_get_ns() })
}

/// The stacks of a wait or hold that ended, if it was long.
#[inline(always)]
fn ended(ctx: &impl EbpfContext, task: &Task, of: Kind, since: u64, now: u64) {
    let length = now.wrapping_sub(since);
    if since != 0 && (length as i64) >= 0 && length >= STACKS_FROM_NS.load() {
        emit::stack(ctx, task, of, length);
    }
}

/// Before an event of an `mmap_lock`.
#[inline(always)]
pub(crate) fn before_mmap(kind: Kind, task: &Task, mm: u64) {
    if MARKS.load() == 0 || !matches!(kind, Kind::MmapStart) {
        return;
    }
    if let Some(slot) = own(task.tid) {
        if slot.mmap == 0 {
            slot.mm = mm;
            slot.mmap_since = 0;
        }
        slot.mmap = slot.mmap.saturating_add(1);
    }
}

/// After an event of an `mmap_lock`, which happened at `event`.
#[inline(always)]
pub(crate) fn after_mmap(ctx: &impl EbpfContext, kind: Kind, task: &Task, mm: u64, event: Option<u64>) {
    if MARKS.load() == 0 {
        return;
    }
    let Some(slot) = slot_of(task.tid) else { return };
    let first = slot.mmap == 1 && slot.mm == mm;
    match kind {
        Kind::MmapStart => {
            if stacks() && first {
                slot.mmap_since = at(event);
            }
        }
        Kind::MmapAcquire => {
            if stacks() && first {
                let now = at(event);
                ended(ctx, task, kind, slot.mmap_since, now);
                slot.mmap_since = now;
            }
        }
        Kind::MmapRelease | Kind::MmapFail => {
            // One alone that is another's is given back on behalf of another task.
            if slot.mmap == 0 || slot.mmap == 1 && slot.mm != mm && slot.mm != 0 {
                return;
            }
            if stacks() && first && matches!(kind, Kind::MmapRelease) {
                ended(ctx, task, kind, slot.mmap_since, at(event));
            }
            if first {
                slot.mmap_since = 0;
            }
            slot.mmap -= 1;
            slot.unmarked();
        }
        _ => {}
    }
}

/// Before an event of a VMA's lock; `by_lockdep`: it is lockdep that tells.
#[inline(always)]
pub(crate) fn before_vma(kind: Kind, task: &Task, vma: u64, by_lockdep: bool) {
    if MARKS.load() == 0
        || by_lockdep != (MARKS_BY_LOCKDEP.load() != 0)
        || !matches!(kind, Kind::VmaReadAcquire | Kind::LockdepAcquire)
    {
        return;
    }
    if let Some(slot) = own(task.tid) {
        if slot.vma == 0 {
            slot.first_vma = vma;
            slot.vma_since = 0;
        }
        slot.vma = slot.vma.saturating_add(1);
    }
}

/// After an event of a VMA's lock, which happened at `event`.
#[inline(always)]
pub(crate) fn after_vma(
    ctx: &impl EbpfContext,
    kind: Kind,
    task: &Task,
    vma: u64,
    event: Option<u64>,
    by_lockdep: bool,
) {
    let reads = matches!(
        kind,
        Kind::VmaReadAcquire | Kind::LockdepAcquire | Kind::VmaReadRelease | Kind::LockdepRelease
    );
    if MARKS.load() == 0 || reads && by_lockdep != (MARKS_BY_LOCKDEP.load() != 0) {
        return;
    }
    let Some(slot) = slot_of(task.tid) else { return };
    let first = slot.vma == 1 && slot.first_vma == vma;
    match kind {
        Kind::VmaReadAcquire | Kind::LockdepAcquire => {
            if stacks() && first {
                slot.vma_since = at(event);
            }
        }
        Kind::VmaReadRelease | Kind::LockdepRelease => {
            if slot.vma == 0 {
                return;
            }
            if first {
                if stacks() {
                    ended(ctx, task, kind, slot.vma_since, at(event));
                }
                slot.vma_since = 0;
            }
            slot.vma -= 1;
            slot.unmarked();
        }
        Kind::VmaWriteStart if stacks() => slot.write_since = at(event),
        Kind::VmaWriteAcquire if stacks() => {
            ended(ctx, task, kind, slot.write_since, at(event));
            slot.write_since = 0;
        }
        _ => {}
    }
}

/// A page fault begins. One from user mode tells exactly what its task holds: the VMA, or else the `mmap_lock`.
#[inline(always)]
pub(crate) fn fault_begin(task: &Task, vma: u64, flags: u16) {
    if MARKS.load() == 0 || flags & fault::FLAG_USER == 0 {
        return;
    }
    let Some(slot) = own(task.tid) else { return };
    if flags & fault::FLAG_VMA_LOCK != 0 {
        if slot.vma != 1 || slot.first_vma != vma {
            slot.vma = 1;
            slot.first_vma = vma;
            slot.vma_since = 0;
        }
        slot.mmap = 0;
    } else {
        if slot.mmap != 1 {
            slot.mmap = 1;
            slot.mm = 0;
            slot.mmap_since = 0;
        }
        slot.vma = 0;
    }
}

/// A page fault has ended, and with it the hold of its VMA: right after this, or before.
#[inline(always)]
pub(crate) fn fault_end(
    ctx: &impl EbpfContext,
    task: &Task,
    vma: u64,
    flags: u16,
    dropped: bool,
    event: Option<u64>,
) {
    if MARKS.load() == 0 || flags & fault::FLAG_VMA_LOCK == 0 {
        return;
    }
    let Some(slot) = slot_of(task.tid) else { return };
    if stacks() && !dropped && slot.vma == 1 && slot.first_vma == vma {
        ended(ctx, task, Kind::FaultEnd, slot.vma_since, at(event));
    }
    slot.vma_since = 0;
    slot.vma = 0;
    slot.unmarked();
}
