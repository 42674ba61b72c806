//! The shadow lock: what each event has read, against what the lock must have come to.
//!
//! The operations of the bundled lock run along with the events, each where its event stands ([`words`]), and leave what
//! `vm_lock_seq` and `mm_lock_seq` have to be next, and whether a task gets what it wants. The count is
//! [`super::accounting`]'s.
//!
//! # What concurrency allows
//!
//! An event reads within its window, after its task's previous event. Writers of one address space exclude each other;
//! the event of a write lock comes after `mm_lock_seq` has become odd, that of its end before it becomes even. So between
//! these two events the number is known exactly. Outside it may lag while the last writer is on its way out, until that
//! task's next event, and be ahead while somebody waits for the lock. `vm_lock_seq` changes only under such a writer, and
//! never while somebody reads.
//!
//! # What an event proves by itself
//!
//! Some states need no history: the task of the event holds the lock while the fields are read, and what it holds rules
//! out what is read. `vm_lock_seq` is read before `mm_lock_seq`, and the latter only grows, so that both being equal
//! proves that the VMA was write-locked when the former was read.

mod tables;
mod words;

use std::collections::VecDeque;

use tracer_common::lock::VM_REFCNT_EXCLUDE_READERS_FLAG as FLAG;
use tracer_common::lock::read::ReadOutcome;
use tracer_common::lock::refcnt::VM_LOCK_SEQ_NEVER;
use tracer_common::wire::{Event, Kind, Reason, fault, flag};

use super::accounting::{OpenReason, Place, Totals};
use super::holders::Holders;
use super::violation::{Violation, ViolationKind, Violations};
use crate::info::{Family, SiteInfo, SourceInfo};
use crate::state::{Engine, Start, VmaEntry};
use tables::{MmShadow, Slots, TaskShadow, VmaShadow};
use words::Words;

/// After these results the lock was given back inside the fault, and nothing of the VMA was read.
const DROPPED: u16 = fault::RESULT_RETRY | fault::RESULT_COMPLETED;
const SEQS: u16 = flag::VMA | flag::MM | flag::VMA_SEQ | flag::MM_SEQ;

/// Quantities, as places in the totals.
const VMA_SEQ: usize = 0;
const MM_SEQ: usize = 1;
const OUTCOME: usize = 2;
/// So many open ones can be explained by a gap that turns up later.
const RECENT: usize = 4096;

/// How a prediction came out.
enum Met {
    /// Just so.
    Exactly,
    /// By operations in flight.
    InFlight,
    /// Not, and why.
    Not(OpenReason),
    /// Nothing was predicted.
    New,
}

/// The check; see the module.
#[derive(Clone, Debug)]
pub(super) struct Shadow {
    /// Readers are counted, and `mm_lock_seq` is odd under a writer.
    refcount: bool,
    filtered: bool,
    /// By number of the site: it tells of a VMA that has just been write-locked, or has just left.
    returns: Vec<bool>,
    mms: Slots<MmShadow>,
    vmas: Slots<VmaShadow>,
    tasks: Slots<TaskShadow>,
    totals: [Totals; 3],
    /// The latest that were open: when, which quantity, and why.
    recent: VecDeque<(u64, usize, OpenReason)>,
}

impl Shadow {
    /// For a stream that `info` tells about.
    pub(super) fn new(info: &SourceInfo) -> Self {
        Self {
            refcount: info.kernel.family == Family::Refcount,
            filtered: !info.filters.is_empty(),
            returns: info.sites.iter().map(returns).collect(),
            mms: Slots::default(),
            vmas: Slots::default(),
            tasks: Slots::default(),
            totals: Default::default(),
            recent: VecDeque::new(),
        }
    }

    /// Whether the watched kernel's numbers are of the form that is predicted here.
    pub(super) fn applies(&self) -> bool {
        self.refcount
    }

    /// What came of predicting `vm_lock_seq`, `mm_lock_seq`, and outcomes.
    pub(super) fn totals(&self) -> &[Totals; 3] {
        &self.totals
    }

    /// Events are missing since then, on whatever CPU.
    #[cold]
    pub(super) fn gap(&mut self, from_ns: u64) {
        for (_, quantity, reason) in self.recent.drain(..).filter(|&(ns, ..)| ns >= from_ns) {
            let open = &mut self.totals[quantity].open_by_reason;
            open[reason as usize] -= 1;
            open[OpenReason::Gap as usize] += 1;
        }
    }

    /// Takes in one event, after the engine has. `ended`: the start of the read hold that the event ends.
    #[inline]
    pub(super) fn observe(
        &mut self,
        engine: &Engine,
        event: &Event,
        place: Place,
        ended: Option<Start>,
        violations: &mut Violations,
    ) {
        if event.has(flag::READ_FAULT) {
            return;
        }
        if let Some((kind, expected)) = self.alone(event, ended) {
            violations.add(violation(engine, event, kind, expected));
        }
        if !self.refcount {
            return;
        }
        self.leave(place.task, event.header.ts_ns);
        let vma = event.vma().and_then(|address| engine.vma_entry(address));
        let mm_seq = self.observe_mm(engine, event, place, violations);
        if let Some(vma) = vma
            && let Some(seq) = event.vm_lock_seq()
        {
            self.observe_vma(engine, event, place, ended, &vma, seq, violations);
            self.outcome(engine, event, place, &vma, mm_seq);
        }
    }

    /// What the event proves by itself.
    #[inline]
    fn alone(&self, event: &Event, ended: Option<Start>) -> Option<(ViolationKind, u32)> {
        let body = &event.body;
        if holds(event, ended) {
            if event.has(SEQS) && body.vm_lock_seq == body.mm_lock_seq {
                return Some((ViolationKind::ReaderInsideWriter, body.mm_lock_seq));
            }
            // Itself, and the VMA, which nobody takes out while it is read.
            let count = event.vm_refcnt().filter(|_| self.refcount);
            return (count.is_some_and(|count| count & !FLAG < 2))
                .then_some((ViolationKind::CountBelowHolders, 2));
        }
        if !self.refcount {
            return None;
        }
        let odd = event.mm_lock_seq().map(|seq| seq & 1 == 1);
        let count = event.vm_refcnt().filter(|&count| count != 0);
        match event.kind {
            Kind::VmaWriteAcquire if self.returns(event) => (event.has(SEQS)
                && body.vm_lock_seq != body.mm_lock_seq)
                .then_some((ViolationKind::WriteLockNotTaken, body.mm_lock_seq)),
            Kind::MmapAcquire | Kind::MmapRelease if event.is_write() => {
                (odd == Some(false)).then_some((ViolationKind::SeqEvenUnderWriter, body.mm_lock_seq | 1))
            }
            Kind::MmapAcquire | Kind::MmapRelease => {
                (odd == Some(true)).then_some((ViolationKind::SeqOddUnderReader, body.mm_lock_seq + 1))
            }
            Kind::VmaAttach => count.map(|_| (ViolationKind::AttachOfAttached, 0)),
            Kind::VmaDetach if self.returns(event) => count.map(|_| (ViolationKind::DetachLeftReaders, 0)),
            _ => None,
        }
    }

    /// Whether the event comes from the end of the function, and not from some instruction inside.
    #[inline]
    fn returns(&self, event: &Event) -> bool {
        let site = self.returns.get(event.header.site as usize);
        site.copied().unwrap_or(false)
    }

    /// The task has an event: if it was on its way out of a write lock, it is out.
    #[inline]
    fn leave(&mut self, task: u32, ts_ns: u64) {
        let task = self.tasks.get(task);
        if task.leaves != 0 {
            let mm = self.mms.get(core::mem::take(&mut task.leaves) - 1);
            mm.until_ns = mm.until_ns.min(ts_ns);
        }
    }

    /// `mm_lock_seq`; gives what it certainly was when the event read, if that is known.
    #[inline]
    fn observe_mm(
        &mut self,
        engine: &Engine,
        event: &Event,
        place: Place,
        violations: &mut Violations,
    ) -> Option<(u32, u64)> {
        let (address, read) = (event.mm()?, event.mm_lock_seq()?);
        let entry = engine.mm_entry(address)?;
        let epoch = engine.epoch();
        let mm = self.mms.get(entry.slot);
        let (ts_ns, tid) = (event.header.ts_ns, event.header.tid);
        let known = mm.epoch == epoch && mm.address == address;
        if event.kind == Kind::VmaReadRefused {
            // What was read may be of a moment that has passed.
            return known.then_some((mm.seq, mm.since_ns));
        }
        let locks = event.kind == Kind::MmapAcquire && event.is_write();
        let unlocks =
            event.kind == Kind::MmapDowngrade || event.kind == Kind::MmapRelease && event.is_write();
        if !known {
            *mm = MmShadow {
                address,
                epoch,
                seq: read,
                writer: if locks { tid } else { 0 },
                since_ns: ts_ns,
                until_ns: 0,
            };
            self.mm_step(place.task, entry.slot, unlocks, ts_ns);
            return None;
        }
        let before = *mm;
        let expected = if locks { step(before.seq, true) } else { before.seq };
        let ahead = read.wrapping_sub(expected).cast_signed();
        let met = if ahead == 0 {
            Met::Exactly
        } else if before.seq & 1 == 1 && !locks {
            let inside = place.prev_ns >= before.since_ns;
            let own = before.writer == tid && (unlocks || event.kind == Kind::VmaWriteAcquire);
            if own {
                violations.add(violation(
                    engine,
                    event,
                    ViolationKind::SeqChangedUnderHolder,
                    before.seq,
                ));
                Met::Not(OpenReason::Violation)
            } else if ahead < 0 && !inside {
                Met::InFlight
            } else {
                Met::Not(self.unseen_writer(ahead))
            }
        } else if ahead == -1 && before.until_ns > place.prev_ns
            || ahead < 0 && !locks && before.since_ns > place.prev_ns
            || ahead == 1 && !locks && entry.is_wanted()
        {
            // The last writer has not left yet, or the next one is in already.
            Met::InFlight
        } else {
            Met::Not(self.unseen_writer(ahead))
        };
        let resync = matches!(met, Met::Not(_));
        self.count(MM_SEQ, &met, ts_ns);
        let mm = self.mms.get(entry.slot);
        if locks || resync {
            mm.seq = read;
            mm.since_ns = ts_ns;
            mm.writer = if locks { tid } else { 0 };
            mm.until_ns = 0;
        }
        let now = self.mm_step(place.task, entry.slot, unlocks, ts_ns);
        (!resync).then_some((if unlocks { before.seq } else { now }, before.since_ns))
    }

    /// Runs what the event does to the number; gives it.
    #[inline]
    fn mm_step(&mut self, task: u32, slot: u32, unlocks: bool, ts_ns: u64) -> u32 {
        let mm = self.mms.get(slot);
        if unlocks && mm.seq & 1 == 1 {
            // The event comes before the number changes.
            mm.seq = step(mm.seq, false);
            mm.since_ns = ts_ns;
            mm.until_ns = u64::MAX;
            let seq = mm.seq;
            self.tasks.get(task).leaves = slot + 1;
            return seq;
        }
        mm.seq
    }

    /// Why a number is not what it should be: another one's, or changed by a writer that was not seen.
    fn unseen_writer(&self, ahead: i32) -> OpenReason {
        if ahead < 0 {
            OpenReason::Recycled
        } else if self.filtered {
            OpenReason::Filtered
        } else {
            OpenReason::UnseenWriter
        }
    }

    /// `vm_lock_seq`.
    #[expect(clippy::too_many_arguments, reason = "one hot function, called in one place")]
    #[inline]
    fn observe_vma(
        &mut self,
        engine: &Engine,
        event: &Event,
        place: Place,
        ended: Option<Start>,
        entry: &VmaEntry<'_>,
        read: u32,
        violations: &mut Violations,
    ) {
        if event.kind == Kind::VmaReadRefused {
            // What was read may be of a moment that has passed, or of a VMA in the making.
            return;
        }
        if holds(event, ended) {
            let since = ended.map(|start| start.since_ns);
            let since_ns = since.or_else(|| entry.current_hold().map(|hold| hold.since_ns));
            let task = self.tasks.get(place.task);
            let hold = (entry.address, since_ns.unwrap_or(0));
            if since_ns.is_some() && task.hold == hold && task.vm_lock_seq != read {
                let expected = task.vm_lock_seq;
                violations.add(violation(
                    engine,
                    event,
                    ViolationKind::VmaSeqChangedUnderReader,
                    expected,
                ));
            }
            (task.hold, task.vm_lock_seq) = (hold, read);
        }
        let epoch = engine.epoch();
        let vma = *self.vmas.get(entry.slot);
        let known = vma.epoch == epoch && vma.address == entry.address;
        let met = match event.kind {
            // A new life of this memory.
            Kind::VmaAttach => Met::New,
            Kind::VmaWriteAcquire => {
                let mut words = Words::new(
                    1,
                    if known { vma.seq } else { VM_LOCK_SEQ_NEVER },
                    event.body.mm_lock_seq,
                );
                match (
                    event.has(flag::MM_SEQ) && words.start_write(),
                    words.vm_lock_seq == read,
                ) {
                    (true, true) => Met::Exactly,
                    (true, false) => Met::Not(OpenReason::UnseenWriter),
                    (false, _) => Met::New,
                }
            }
            _ if !known => Met::New,
            _ if vma.seq == read => Met::Exactly,
            // Only a VMA in the making has this number, once it has had another one.
            _ if read == VM_LOCK_SEQ_NEVER => Met::New,
            Kind::VmaReadTemporary if entry.is_awaited() => Met::InFlight,
            // A writer that is still inside `vma_start_write` tells lockdep after it has set the number.
            Kind::LockdepRelease if entry.is_awaited() && read == event.body.mm_lock_seq => Met::InFlight,
            _ => Met::Not(self.unseen_writer(read.wrapping_sub(vma.seq).cast_signed())),
        };
        let detached = event.kind == Kind::VmaDetach;
        *self.vmas.get(entry.slot) = VmaShadow {
            address: entry.address,
            // What it is next, nobody knows.
            epoch: if detached { 0 } else { epoch },
            seq: if matches!(met, Met::InFlight) {
                vma.seq
            } else {
                read
            },
        };
        self.count(VMA_SEQ, &met, event.header.ts_ns);
    }

    /// Whether the task gets what it wants.
    #[inline]
    fn outcome(
        &mut self,
        engine: &Engine,
        event: &Event,
        place: Place,
        entry: &VmaEntry<'_>,
        mm_seq: Option<(u32, u64)>,
    ) {
        let Some((mm_seq, since_ns)) = mm_seq else { return };
        let attached = u32::from(!entry.is_detached());
        let flag = if entry.is_awaited() { FLAG } else { 0 };
        let own = u32::from(entry.is_read_by_current());
        let vma_seq = event.body.vm_lock_seq;
        let met = match event.kind {
            Kind::VmaReadAcquire => {
                let readers = entry.readers().saturating_sub(own);
                let mut words = Words::new(attached + readers + flag, vma_seq, mm_seq);
                match words.start_read() {
                    Some(ReadOutcome::Locked) => Met::Exactly,
                    // It came before the writer did, and says so after that.
                    _ if flag != 0 => Met::InFlight,
                    _ => Met::Not(OpenReason::UnseenWriter),
                }
            }
            Kind::VmaReadRelease => {
                let mut words = Words::new(attached + entry.readers() + 1 + flag, vma_seq, mm_seq);
                if words.put() && words.refcnt == attached + entry.readers() + flag {
                    Met::Exactly
                } else {
                    Met::Not(OpenReason::UnseenWriter)
                }
            }
            Kind::VmaWriteAcquire => {
                if Words::new(attached + entry.readers(), vma_seq, mm_seq).start_write() {
                    Met::Exactly
                } else {
                    Met::Not(OpenReason::UnseenRelease)
                }
            }
            Kind::VmaReadTemporary | Kind::VmaReadRefused => {
                let recent = since_ns >= place.prev_ns;
                self.refusal(engine, event, entry, mm_seq, recent)
            }
            Kind::VmaDetach if entry.readers() == 0 => {
                // The engine knows it as detached by now; it was not.
                if Words::new(1, vma_seq, mm_seq).detach() {
                    Met::Exactly
                } else {
                    Met::New
                }
            }
            _ => Met::New,
        };
        self.count(OUTCOME, &met, event.header.ts_ns);
    }

    /// A try that came to nothing, for a reason that the shadow knows of.
    fn refusal(
        &self,
        engine: &Engine,
        event: &Event,
        entry: &VmaEntry<'_>,
        mm_seq: u32,
        recent: bool,
    ) -> Met {
        let written = mm_seq & 1 == 1;
        let mm = event.mm().and_then(|mm| engine.mm_entry(mm));
        let near = written || recent || entry.is_awaited() || mm.is_some_and(|mm| mm.is_wanted());
        let exact = match event.reason() {
            Reason::WriteLocked => written && event.body.vm_lock_seq == mm_seq,
            Reason::WriterWaiting => entry.is_awaited(),
            Reason::Detached => entry.is_detached(),
            // What these depend on is not the lock's.
            _ => return Met::New,
        };
        match (exact, near) {
            (true, _) => Met::Exactly,
            (false, true) => Met::InFlight,
            (false, false) => Met::Not(self.unseen_writer(1)),
        }
    }
}

impl Shadow {
    #[inline]
    fn count(&mut self, quantity: usize, met: &Met, ts_ns: u64) {
        let totals = &mut self.totals[quantity];
        match met {
            Met::New => return,
            Met::Exactly => totals.closed_exact += 1,
            Met::InFlight => totals.closed_concurrent += 1,
            Met::Not(reason) => {
                totals.open += 1;
                totals.open_by_reason[*reason as usize] += 1;
                if self.recent.len() == RECENT {
                    self.recent.pop_front();
                }
                self.recent.push_back((ts_ns, quantity, *reason));
            }
        }
        totals.checked += 1;
    }
}

/// Whether the task of the event certainly holds the VMA for reading while the event reads.
#[inline]
pub(super) fn holds(event: &Event, ended: Option<Start>) -> bool {
    match event.kind {
        Kind::VmaReadAcquire => true,
        // Only what gives back what was seen to be taken; else it may be a try that is taken back.
        Kind::VmaReadRelease => ended.is_some(),
        Kind::FaultBegin => event.is_vma_fault(),
        Kind::FaultEnd => event.is_vma_fault() && event.fault_result() & DROPPED == 0,
        _ => false,
    }
}

/// The next `mm_lock_seq`, by the bundled lock's own operations.
#[inline]
fn step(seq: u32, locks: bool) -> u32 {
    let mut words = Words::new(1, 1, seq);
    if locks && seq & 1 == 0 {
        words.mmap_write_lock();
    } else if !locks {
        words.mmap_write_unlock();
    } else {
        // A writer that was not seen to leave.
        words.mm_lock_seq = seq.wrapping_add(2);
    }
    words.mm_lock_seq
}

#[cold]
fn violation(engine: &Engine, event: &Event, kind: ViolationKind, expected: u32) -> Violation {
    Violation {
        kind,
        event: *event,
        expected,
        holders: Holders::of(engine, event),
        proven_ns: event.header.ts_ns,
    }
}

fn returns(site: &SiteInfo) -> bool {
    matches!(site.mechanism.as_str(), "fexit" | "kretprobe" | "sim")
        && matches!(site.function.as_str(), "__vma_start_write" | "vma_mark_detached")
}
