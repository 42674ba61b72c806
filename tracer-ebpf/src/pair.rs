//! Beginnings and ends of waits and holds, brought together in the kernel: for `--mode holds` and `--mode summary`.
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
    site,
    summary::{Count, Measure},
    wire::{Kind, Provenance, fault, flag, hold_arg},
};

use crate::{
    emit,
    filter::Task,
    kread::{self, Fields, Memory, Typed},
    summary,
};

/// 1: events go to user space as they happen.
#[unsafe(no_mangle)]
static STREAM: Global<u8> = Global::new(1);
/// 1: they are brought together here.
#[unsafe(no_mangle)]
static PAIRS: Global<u8> = Global::new(0);
/// 1: user space gets an event for each hold.
#[unsafe(no_mangle)]
static HOLDS: Global<u8> = Global::new(0);
/// Of holds that are as long as this, in nanoseconds; 0: of all.
#[unsafe(no_mangle)]
static HOLDS_FROM_NS: Global<u64> = Global::new(0);

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

/// An `mmap_lock` that is held.
#[repr(C)]
#[derive(Clone, Copy)]
struct Mmap {
    begun: Begun,
    /// How long it had been waited for, in nanoseconds; the largest number: not known.
    waited: u64,
    /// 1: for writing.
    write: u32,
    /// Bits of [`hold_arg`] that are known by now.
    arg: u32,
}

impl Mmap {
    const NOTHING: Self = Self {
        begun: Begun::NOTHING,
        waited: 0,
        write: 0,
        arg: 0,
    };
}

/// What has begun of one thread.
#[repr(C)]
struct Slot {
    tid: u32,
    pad: u32,
    /// The VMAs that it holds for reading, the latest first.
    vmas: [Begun; 2],
    /// The `mmap_lock`s that it holds, the latest first.
    mms: [Mmap; 2],
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
            self.mms[0].begun,
            self.mms[1].begun,
            self.wait,
            self.vma_write,
        ];
        for begun in open {
            // Of a thread that has ended, maybe; nobody can tell.
            if begun.since != 0 {
                summary::lost(Count::Crowded);
            }
        }
        self.vmas = [Begun::NOTHING; 2];
        self.mms = [Mmap::NOTHING; 2];
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
                summary::lost(Count::VmaUnended);
            }
        }
    }
}

/// A hold is over: at `event`, or now.
#[inline(always)]
fn over<const NMI: bool>(
    task: &Task,
    site: u32,
    measure: Measure,
    since: u64,
    event: Option<u64>,
    fill: impl FnOnce(&mut Fields),
) {
    let now = if HOLDS.load() == 0 {
        time(event)
    } else {
        let least = HOLDS_FROM_NS.load();
        if least != 0 && time(event).saturating_sub(since) < least {
            return;
        }
        let mut fields = Fields::EMPTY;
        fill(&mut fields);
        emit::hold::<NMI>(site, task, since, &fields)
    };
    summary::record(measure, since, now);
}

/// A VMA was read-locked, at `event` or now.
#[inline(always)]
pub(crate) fn vma_taken(task: &Task, vma: u64, event: Option<u64>) {
    if !is_on() {
        return;
    }
    let Some(slot) = own(task.tid) else { return };
    if slot.vmas[0].since != 0 {
        if slot.vmas[1].since != 0 {
            summary::lost(Count::VmaUnended);
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

const fn with(provenance: Provenance) -> u16 {
    (provenance as u16) << flag::PROVENANCE_SHIFT
}

/// A VMA's read lock is given back at a place of its own; `flags` say how surely.
#[inline(always)]
pub(crate) fn vma_given<M: Memory, const NMI: bool>(
    task: &Task,
    site: u32,
    vma: u64,
    flags: u16,
    event: Option<u64>,
) {
    if !is_on() {
        return;
    }
    match slot_of(task.tid).and_then(|slot| slot.end_vma(vma)) {
        Some(since) => over::<NMI>(task, site, Measure::HoldVmaOther, since, event, |fields| {
            fields.flags = flags;
            kread::place::<M>(vma, fields);
        }),
        None => summary::lost(Count::VmaUnbegun),
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
    // What faulted in user mode has held nothing else.
    if flags & fault::FLAG_USER != 0
        && let Some(slot) = slot
    {
        slot.drop_vmas();
    }
    if result & (fault::RESULT_RETRY | fault::RESULT_COMPLETED) != 0 {
        summary::count(if result & fault::RESULT_RETRY != 0 {
            Count::FaultsRetried
        } else {
            Count::FaultsCompleted
        });
        if since.is_some() {
            // It was given back some time before, where no probe is.
            summary::lost(Count::VmaUnended);
        }
        return;
    }
    let Some(since) = since else {
        return summary::lost(Count::VmaUnbegun);
    };
    over::<false>(
        task,
        site::FAULT_END,
        Measure::HoldVmaFault,
        since,
        event,
        |fields| {
            fields.flags = with(Provenance::Derived);
            kread::place::<Typed>(vma, fields);
            fields.body.arg = u32::from(flags) << 16 | u32::from(result);
        },
    );
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
                summary::lost(Count::WaitUnended);
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
                None => summary::lost(Count::WaitUnbegun),
            }
        }
        _ => {}
    }
}

/// An event of a VMA's lock, of whichever kind.
#[inline(always)]
pub(crate) fn vma<M: Memory, const NMI: bool>(
    kind: Kind,
    task: &Task,
    site: u32,
    vma: u64,
    flags: u16,
    event: Option<u64>,
) {
    match kind {
        Kind::VmaReadAcquire => vma_taken(task, vma, event),
        Kind::VmaReadRelease => vma_given::<M, NMI>(task, site, vma, flags, event),
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
                summary::lost(Count::WaitUnended);
            }
            slot.wait = Begun {
                what: mm,
                since: time(event),
            };
        }
        Kind::MmapAcquire | Kind::MmapDowngrade => {
            let Some(slot) = own(task.tid) else { return };
            mmap_taken(slot, task, mm, write, time(event));
        }
        Kind::MmapFail => {
            summary::count(Count::MmapFails);
            if slot_of(task.tid).and_then(|slot| slot.wait.end(mm)).is_none() {
                summary::lost(Count::WaitUnbegun);
            }
        }
        Kind::MmapRelease => mmap_given(task, mm, write, event),
        _ => {}
    }
}

#[inline(always)]
fn mmap_taken(slot: &mut Slot, task: &Task, mm: u64, write: bool, now: u64) {
    let mut waited = u64::MAX;
    if let Some(since) = slot.wait.end(mm) {
        let measure = if write {
            Measure::WaitMmapWrite
        } else {
            Measure::WaitMmapRead
        };
        waited = now.saturating_sub(since);
        summary::record(measure, since, now);
    } else {
        // Nobody waits for what he holds, save a writer who goes on as a reader: he does not wait.
        if !write {
            for at in 0..2 {
                if slot.mms[at].begun.is(mm) && slot.mms[at].write != 0 {
                    return downgraded(&mut slot.mms[at], task, now);
                }
            }
        }
        summary::lost(Count::WaitUnbegun);
    }
    summary::count(if write {
        Count::MmapWriteAcquires
    } else {
        Count::MmapReadAcquires
    });
    if slot.mms[0].begun.since != 0 {
        if slot.mms[1].begun.since != 0 {
            summary::lost(Count::MmapUnended);
        }
        slot.mms[1] = slot.mms[0];
    }
    slot.mms[0] = Mmap {
        begun: Begun { what: mm, since: now },
        waited,
        write: u32::from(write),
        arg: 0,
    };
}

#[inline(always)]
fn downgraded(hold: &mut Mmap, task: &Task, now: u64) {
    summary::count(Count::MmapDowngrades);
    hold.arg |= hold_arg::TO_READER;
    mmap_over(hold, task, site::MMAP_ACQUIRE, hold.begun.since, Some(now));
    hold.begun.since = now;
    hold.waited = u64::MAX;
    hold.write = 0;
    hold.arg = hold_arg::FROM_WRITER;
}

#[inline(always)]
fn mmap_over(hold: &Mmap, task: &Task, site: u32, since: u64, event: Option<u64>) {
    let (measure, flags) = if hold.write != 0 {
        (Measure::HoldMmapWrite, flag::MM | flag::WRITE)
    } else {
        (Measure::HoldMmapRead, flag::MM)
    };
    over::<false>(task, site, measure, since, event, |fields| {
        fields.flags = flags;
        fields.body.mm = hold.begun.what;
        if hold.waited != u64::MAX {
            fields.body.vm_start = hold.waited;
            fields.body.vm_end = 1;
        }
        fields.body.arg = hold.arg;
    });
}

#[inline(always)]
fn mmap_given(task: &Task, mm: u64, write: bool, event: Option<u64>) {
    if let Some(slot) = slot_of(task.tid) {
        for at in 0..2 {
            let hold = &mut slot.mms[at];
            if let Some(since) = hold.begun.end(mm) {
                if (hold.write != 0) == write {
                    return mmap_over(hold, task, site::MMAP_RELEASE, since, event);
                }
                // In between something went by unseen.
                summary::lost(Count::MmapUnended);
            }
        }
    }
    summary::lost(Count::MmapUnbegun);
}
