//! Beginnings and ends of waits and holds, brought together in the kernel: for `--mode summary`.
//!
//! An array indexed by the low bits of the thread number, and the number itself beside what has begun; no lock is taken and
//! no hash map changed, since this runs inside page faults. Only a task itself changes its slot, so that needs no atomics.
//! A slot keeps two holds of VMAs and two of `mmap_lock`s, which is what the kernel takes at once (fork holds two
//! `mmap_lock`s, userfaultfd's move two VMAs), and one wait of each kind. What does not fit is counted, never guessed:
//! * two threads that share a slot take it from each other: what had begun there is `crowded`. Only if both are between
//!   the same two instructions at one instant, on one VMA, could one's beginning meet the other's end;
//! * an end that finds no beginning is `unbegun`, and makes no time;
//! * a third hold drops the oldest, which is `unended`: nothing else would ever take away one whose end no probe sees;
//! * these programs have no second ones (see [`crate::twice`]): a run that the kernel skips shows as one of the last two,
//!   and is told as `missed`, too.

use aya_ebpf::{Global, helpers::bpf_ktime_get_ns, macros::map, maps::Array};
use tracer_common::{
    summary::{Count, Measure},
    wire::{Kind, fault},
};

use crate::{filter::Task, summary};

/// 1: events go to user space as they happen.
#[unsafe(no_mangle)]
static STREAM: Global<u8> = Global::new(1);
/// 1: they are brought together here.
#[unsafe(no_mangle)]
static PAIRS: Global<u8> = Global::new(0);

const SLOTS: u32 = 1 << 15;

/// What has begun, and when; 0: nothing has.
#[repr(C)]
#[derive(Clone, Copy)]
struct Begun {
    /// The VMA, or the mm.
    what: u64,
    since: u64,
}

impl Begun {
    const NOTHING: Self = Self { what: 0, since: 0 };

    #[inline(always)]
    fn is(&self, what: u64) -> bool {
        self.since != 0 && self.what == what
    }

    /// Since when, if it is that; then it is over.
    #[inline(always)]
    fn end(&mut self, what: u64) -> Option<u64> {
        let since = self.is(what).then_some(self.since);
        if since.is_some() {
            self.since = 0;
        }
        since
    }
}

/// What has begun of one thread.
#[repr(C)]
struct Slot {
    tid: u32,
    /// Which of `mms` are for writing, a byte each.
    write: [u8; 2],
    pad: u16,
    /// The VMAs that it holds for reading, the latest first.
    vmas: [Begun; 2],
    /// The `mmap_lock`s that it holds, the latest first.
    mms: [Begun; 2],
    /// The `mmap_lock` that it awaits.
    wait: Begun,
    /// The VMA that it is about to lock for writing.
    vma_write: Begun,
}

/// In other modes the loader makes it as short as can be.
#[map]
static PAIRED: Array<Slot> = Array::with_max_entries(SLOTS, 0);

/// Whether user space gets each event.
#[inline(always)]
pub(crate) fn streams() -> bool {
    STREAM.load() != 0
}

/// Whether anything is brought together.
#[inline(always)]
fn is_on() -> bool {
    PAIRS.load() != 0
}

#[inline(always)]
fn at(tid: u32) -> Option<&'static mut Slot> {
    // SAFETY: the map gave a valid pointer; see the module's head for who writes what.
    Some(unsafe { &mut *PAIRED.get_ptr_mut(tid & (SLOTS - 1))? })
}

/// The task's slot, taken over if need be.
#[inline(always)]
fn own(tid: u32) -> Option<&'static mut Slot> {
    let slot = at(tid)?;
    if slot.tid != tid {
        slot.take_over(tid);
    }
    Some(slot)
}

/// The task's slot, if it is its.
#[inline(always)]
fn slot_of(tid: u32) -> Option<&'static mut Slot> {
    at(tid).filter(|slot| slot.tid == tid)
}

/// The time of an event, or now if there is none.
#[inline(always)]
fn time(event: Option<u64>) -> u64 {
    // SAFETY: the helper has no precondition.
    event.unwrap_or_else(|| unsafe { bpf_ktime_get_ns() })
}

impl Slot {
    #[inline(always)]
    fn take_over(&mut self, tid: u32) {
        let open = [
            self.vmas[0],
            self.vmas[1],
            self.mms[0],
            self.mms[1],
            self.wait,
            self.vma_write,
        ];
        for begun in open {
            // Of a thread that has ended, maybe; nobody can tell.
            if begun.since != 0 {
                summary::count(Count::Crowded);
            }
        }
        self.vmas = [Begun::NOTHING; 2];
        self.mms = [Begun::NOTHING; 2];
        self.wait = Begun::NOTHING;
        self.vma_write = Begun::NOTHING;
        self.tid = tid;
    }

    #[inline(always)]
    fn end_vma(&mut self, vma: u64) -> Option<u64> {
        self.vmas[0].end(vma).or_else(|| self.vmas[1].end(vma))
    }

    /// What is still open though the task can hold nothing.
    #[inline(always)]
    fn drop_vmas(&mut self) {
        for begun in &mut self.vmas {
            if begun.since != 0 {
                begun.since = 0;
                summary::count(Count::VmaUnended);
            }
        }
    }
}

/// A VMA was read-locked, at `event` or now.
#[inline(always)]
pub(crate) fn vma_taken(task: &Task, vma: u64, event: Option<u64>) {
    if !is_on() {
        return;
    }
    summary::count(Count::VmaReadAcquires);
    let Some(slot) = own(task.tid) else { return };
    if slot.vmas[0].since != 0 {
        if slot.vmas[1].since != 0 {
            summary::count(Count::VmaUnended);
        }
        slot.vmas[1] = slot.vmas[0];
    }
    slot.vmas[0] = Begun {
        what: vma,
        since: time(event),
    };
}

/// A look-up gave no VMA.
#[inline(always)]
pub(crate) fn vma_not_taken() {
    if is_on() {
        summary::count(Count::VmaReadFails);
    }
}

/// A VMA's read lock is given back at a place of its own.
#[inline(always)]
pub(crate) fn vma_given(task: &Task, vma: u64, event: Option<u64>) {
    if !is_on() {
        return;
    }
    match slot_of(task.tid).and_then(|slot| slot.end_vma(vma)) {
        Some(since) => summary::record(Measure::HoldVmaOther, since, time(event)),
        None => summary::count(Count::VmaUnbegun),
    }
}

/// A page fault has ended: if it was under the VMA's lock, and did not lose it inside, that is given back right after.
#[inline(always)]
pub(crate) fn fault_ended(task: &Task, vma: u64, flags: u16, result: u16, event: Option<u64>) {
    if !is_on() {
        return;
    }
    if flags & fault::FLAG_VMA_LOCK == 0 {
        summary::count(Count::FaultsMmapLock);
        return;
    }
    let mut slot = slot_of(task.tid);
    let since = slot.as_mut().and_then(|slot| slot.end_vma(vma));
    if result & (fault::RESULT_RETRY | fault::RESULT_COMPLETED) == 0 {
        match since {
            Some(since) => summary::record(Measure::HoldVmaFault, since, time(event)),
            None => summary::count(Count::VmaUnbegun),
        }
    } else {
        summary::count(if result & fault::RESULT_RETRY != 0 {
            Count::FaultsRetried
        } else {
            Count::FaultsCompleted
        });
        if since.is_some() {
            // It was given back some time before, where no probe is.
            summary::count(Count::VmaUnended);
        }
    }
    // What faulted in user mode has held nothing else.
    if flags & fault::FLAG_USER != 0
        && let Some(slot) = slot
    {
        slot.drop_vmas();
    }
}

/// An event of a VMA's writer.
#[inline(always)]
pub(crate) fn vma_write(kind: Kind, task: &Task, vma: u64, event: Option<u64>) {
    if !is_on() {
        return;
    }
    match kind {
        Kind::VmaWriteStart => {
            let Some(slot) = own(task.tid) else { return };
            if slot.vma_write.since != 0 {
                summary::count(Count::WaitUnended);
            }
            slot.vma_write = Begun {
                what: vma,
                since: time(event),
            };
        }
        Kind::VmaWriteAcquire | Kind::VmaWriteFail => {
            let since = slot_of(task.tid).and_then(|slot| slot.vma_write.end(vma));
            match since {
                _ if matches!(kind, Kind::VmaWriteFail) => summary::count(Count::VmaWriteFails),
                Some(since) => summary::record(Measure::WaitVmaWrite, since, time(event)),
                None => summary::count(Count::WaitUnbegun),
            }
        }
        _ => {}
    }
}

/// An event of a VMA's lock, of whichever kind.
#[inline(always)]
pub(crate) fn vma(kind: Kind, task: &Task, vma: u64, event: Option<u64>) {
    match kind {
        Kind::VmaReadAcquire => vma_taken(task, vma, event),
        Kind::VmaReadRelease => vma_given(task, vma, event),
        _ => vma_write(kind, task, vma, event),
    }
}

/// An event of an `mmap_lock`. A downgrade may come as an acquire for reading.
#[inline(always)]
pub(crate) fn mmap(kind: Kind, task: &Task, mm: u64, write: bool, event: Option<u64>) {
    if !is_on() {
        return;
    }
    match kind {
        Kind::MmapStart => {
            let Some(slot) = own(task.tid) else { return };
            if slot.wait.since != 0 {
                summary::count(Count::WaitUnended);
            }
            slot.wait = Begun {
                what: mm,
                since: time(event),
            };
        }
        Kind::MmapAcquire | Kind::MmapDowngrade => {
            let Some(slot) = own(task.tid) else { return };
            mmap_taken(slot, mm, write, time(event));
        }
        Kind::MmapFail => {
            summary::count(Count::MmapFails);
            if slot_of(task.tid).and_then(|slot| slot.wait.end(mm)).is_none() {
                summary::count(Count::WaitUnbegun);
            }
        }
        Kind::MmapRelease => mmap_given(task, mm, write, event),
        _ => {}
    }
}

#[inline(always)]
fn mmap_taken(slot: &mut Slot, mm: u64, write: bool, now: u64) {
    if let Some(since) = slot.wait.end(mm) {
        let measure = if write {
            Measure::WaitMmapWrite
        } else {
            Measure::WaitMmapRead
        };
        summary::record(measure, since, now);
    } else {
        // Nobody waits for what he holds, save a writer who goes on as a reader: he does not wait.
        for at in 0..2 {
            if !write && slot.mms[at].is(mm) && slot.write[at] != 0 {
                summary::count(Count::MmapDowngrades);
                summary::record(Measure::HoldMmapWrite, slot.mms[at].since, now);
                slot.mms[at].since = now;
                slot.write[at] = 0;
                return;
            }
        }
        summary::count(Count::WaitUnbegun);
    }
    summary::count(if write {
        Count::MmapWriteAcquires
    } else {
        Count::MmapReadAcquires
    });
    if slot.mms[0].since != 0 {
        if slot.mms[1].since != 0 {
            summary::count(Count::MmapUnended);
        }
        slot.mms[1] = slot.mms[0];
        slot.write[1] = slot.write[0];
    }
    slot.mms[0] = Begun { what: mm, since: now };
    slot.write[0] = u8::from(write);
}

#[inline(always)]
fn mmap_given(task: &Task, mm: u64, write: bool, event: Option<u64>) {
    if let Some(slot) = slot_of(task.tid) {
        for at in 0..2 {
            if let Some(since) = slot.mms[at].end(mm) {
                if (slot.write[at] != 0) == write {
                    let measure = if write {
                        Measure::HoldMmapWrite
                    } else {
                        Measure::HoldMmapRead
                    };
                    summary::record(measure, since, time(event));
                    return;
                }
                // In between something went by unseen.
                summary::count(Count::MmapUnended);
            }
        }
    }
    summary::count(Count::MmapUnbegun);
}
