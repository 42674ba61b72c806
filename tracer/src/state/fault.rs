//! Page faults: which lock they ran under, how they ended, and what that tells of the VMA lock.

use tracer_common::wire::{Event, Provenance, fault, flag};

use super::counters::{AnomalyKind, Faults};
use super::task::{Retry, Start};
use super::{Engine, Frame, Hold, Lock, Note, Place, Round, RoundEnd};

pub(super) use tracer_common::wire::fault::FLAG_VMA_LOCK as VMA_LOCK;

/// After these the lock was given back inside.
const DROPPED: u16 = fault::RESULT_RETRY | fault::RESULT_COMPLETED;

impl Engine {
    pub(super) fn fault_begin(&mut self, t: u32, event: &Event) {
        let flags = event.fault_flags();
        if flags & fault::FLAG_USER != 0 && self.tasks[t].exited_ns != 0 {
            self.revive(t);
        }
        if flags & fault::FLAG_USER != 0 && !self.tasks[t].frames.is_empty() {
            // The task was in user mode, so it is in no other fault.
            if self.tasks[t].frames.iter().any(|frame| frame.epoch == self.epoch) {
                self.anomaly(AnomalyKind::FaultWithoutEnd, event, None);
            }
            self.tasks[t].frames.clear();
        }
        if self.tasks[t].frames.len() >= super::FRAMES_LIMIT {
            self.anomaly(AnomalyKind::FaultWithoutEnd, event, None);
            self.tasks[t].frames.clear();
        }
        let depth = self.tasks[t].frames.len();
        if self.tasks[t]
            .retry
            .is_some_and(|retry| retry.depth > depth || flags & VMA_LOCK != 0)
        {
            self.abandon_retry(t);
        }
        let v = self.vma_of(event);
        if flags & VMA_LOCK != 0
            && let Some(v) = v
        {
            self.know_fault_lock(t, v, event);
        }
        let place = v.map_or(Place::default(), |v| {
            let vma = &self.vmas[v];
            Place {
                mm: vma.mm,
                vma: self.vmas.key(v),
                vm_start: vma.vm_start,
                vm_end: vma.vm_end,
            }
        });
        if flags & fault::FLAG_USER != 0
            && let Some(m) = self.mms.find(place.mm)
        {
            self.mms[m].pid = event.header.pid;
        }
        let frame = Frame {
            vma: place.vma,
            mm: place.mm,
            vm_start: place.vm_start,
            vm_end: place.vm_end,
            flags,
            released: false,
            epoch: self.epoch,
            since_ns: event.header.ts_ns,
        };
        self.tasks[t].frames.push(frame);
    }

    /// A fault under the VMA lock: the task holds this VMA, and no other if it comes from user mode.
    fn know_fault_lock(&mut self, t: u32, v: u32, event: &Event) {
        let address = self.vmas.key(v);
        if self.sites.releases_complete {
            while let Some(at) = self.tasks[t]
                .holds
                .iter()
                .position(|hold| hold.lock == Lock::VmaRead && hold.vma != address)
            {
                self.hole(AnomalyKind::ReadKeptInUserMode, t, at, event);
                self.close_read(t, at, event);
            }
        } else {
            self.close_reads(t, event, Some(address));
        }
        self.tasks[t].reads_known = self.epoch;
        if let Some(at) = self.tasks[t].read_of(address) {
            if self.tasks[t].holds[at].epoch == self.epoch {
                return;
            }
            self.lose_hold(t, at);
        }
        if self.confirm_tentative(t, address, event) {
            return;
        }
        self.totals.books(Lock::VmaRead).unknown_starts += 1;
        let start = Start {
            since_ns: event.header.ts_ns,
            provenance: Provenance::Unknown,
            bound_ns: None,
        };
        self.hold_vma(t, v, start);
    }

    pub(super) fn fault_end(&mut self, t: u32, event: &Event) {
        let frame = self.take_frame(t, event);
        let flags = event.fault_flags();
        let result = event.fault_result();
        if result & DROPPED == 0 {
            self.vma_of(event);
        }
        self.count_fault(t, event, frame.as_ref());
        if flags & VMA_LOCK == 0 {
            return;
        }
        if result & DROPPED != 0 {
            self.dropped_inside(t, event, frame);
        } else if self.sites.release_at_fault_end {
            self.release_after(t, event, frame);
        }
    }

    fn take_frame(&mut self, t: u32, event: &Event) -> Option<Frame> {
        let vma = event.vma().unwrap_or(0);
        let found = self.tasks[t].frames.iter().rposition(|frame| frame.vma == vma);
        let Some(at) = found else {
            if self.tasks[t]
                .frames
                .last()
                .is_some_and(|frame| frame.epoch == self.epoch)
            {
                self.anomaly(AnomalyKind::FaultEndWithoutBegin, event, None);
            }
            return None;
        };
        while self.tasks[t].frames.len() > at + 1 {
            let last = self.tasks[t].frames.len() - 1;
            let lost = self.tasks[t].frames.remove(last);
            if lost.epoch == self.epoch {
                self.anomaly(AnomalyKind::FaultWithoutEnd, event, None);
            }
        }
        Some(self.tasks[t].frames.remove(at))
    }

    /// One round ended; the fault itself may come again.
    fn count_fault(&mut self, t: u32, event: &Event, frame: Option<&Frame>) {
        let (flags, result) = (event.fault_flags(), event.fault_result());
        let user = flags & fault::FLAG_USER != 0;
        let under_vma = flags & VMA_LOCK != 0;
        let retry = result & fault::RESULT_RETRY != 0;
        if under_vma && retry {
            self.totals.vma_rounds_retried += 1;
        } else if under_vma {
            self.totals.vma_rounds_done += 1;
        }
        let task = &mut self.tasks[t];
        let depth = task.frames.len();
        let before = task.retry.filter(|before| before.depth == depth);
        let was_vma = before.is_some_and(|before| before.was_vma);
        if retry {
            task.retry = Some(Retry {
                depth,
                was_vma: was_vma || under_vma,
                user,
            });
            let end = RoundEnd::SentBack;
            self.note_round(t, event, frame, (end, was_vma || under_vma));
            return;
        }
        if before.is_some() {
            task.retry = None;
        }
        let faults = origin(&mut task.counters, user);
        let end = if result & fault::RESULT_ERROR != 0 {
            faults.error += 1;
            RoundEnd::Error
        } else if under_vma {
            faults.vma_lock += 1;
            RoundEnd::VmaLock
        } else if was_vma {
            faults.retried += 1;
            RoundEnd::Retried
        } else {
            faults.mmap_lock += 1;
            RoundEnd::MmapLock
        };
        self.note_round(t, event, frame, (end, was_vma || under_vma));
    }

    #[inline]
    fn note_round(&mut self, t: u32, event: &Event, frame: Option<&Frame>, how: (RoundEnd, bool)) {
        if !self.notes.is_on() {
            return;
        }
        let (who, place) = (self.who(t), self.place_of_fault(event, frame));
        let flags = event.fault_flags();
        self.notes.add(|| {
            Note::Round(Round {
                who,
                place,
                end: how.0,
                under_vma: flags & VMA_LOCK != 0,
                user: flags & fault::FLAG_USER != 0,
                was_vma: how.1,
            })
        });
    }

    /// The task does something that it would not do on the way from a RETRY to the next round.
    pub(super) fn abandon_retry(&mut self, t: u32) {
        let task = &mut self.tasks[t];
        if let Some(retry) = task.retry.take() {
            origin(&mut task.counters, retry.user).abandoned += 1;
            let who = self.who(t);
            self.notes.add(|| Note::Abandoned(who));
        }
    }

    /// The lock is given back right after a fault that needs no other round.
    fn release_after(&mut self, t: u32, event: &Event, frame: Option<Frame>) {
        let Some(address) = event.vma() else { return };
        let bound_ns = self.sites.fault_end_bound_ns.or(self.own.1);
        let end = (Provenance::Derived, bound_ns);
        let (hold, start) = if let Some(at) = self.tasks[t].read_of(address) {
            let start = self.start_of(&self.tasks[t].holds[at]);
            (self.end_hold(t, at, event.header.ts_ns, end), Some(start))
        } else if frame.is_some_and(|frame| frame.epoch == self.epoch && frame.released) {
            return;
        } else {
            (self.hold_from_before(event, address, end.0), None)
        };
        let mut release = self.release_event(t, event, &hold);
        // The lock is still held here, so what was read of it is as it is before the release.
        release.header.flags |= event.header.flags & (flag::REFCNT | flag::VMA_SEQ | flag::MM_SEQ);
        release.body.vm_refcnt = event.body.vm_refcnt;
        release.body.vm_lock_seq = event.body.vm_lock_seq;
        release.body.mm_lock_seq = event.body.mm_lock_seq;
        self.after.push(Engine::derived(release, end.0, end.1, start));
        self.tasks[t].echo = Some(address);
    }

    /// The lock was given back inside the fault. Where that was seen there is nothing to add.
    fn dropped_inside(&mut self, t: u32, event: &Event, frame: Option<Frame>) {
        let Some(address) = event.vma() else { return };
        let ts_ns = event.header.ts_ns;
        let current = frame.filter(|frame| frame.epoch == self.epoch);
        let end = |since_ns: u64| match current {
            Some(frame) => {
                let bound_ns = ts_ns.saturating_sub(frame.since_ns.max(since_ns));
                (Provenance::Bounded, Some(bound_ns))
            }
            None => (Provenance::Unknown, None),
        };
        let (hold, end, start) = if let Some(at) = self.tasks[t].read_of(address) {
            self.hole(AnomalyKind::CoverageHole, t, at, event);
            let hold = self.tasks[t].holds[at];
            let (start, end) = (self.start_of(&hold), end(hold.since_ns));
            (self.end_hold(t, at, ts_ns, end), end, Some(start))
        } else if self.sites.releases_complete || current.is_some_and(|frame| frame.released) {
            return;
        } else {
            let end = end(0);
            (self.hold_from_before(event, address, end.0), end, None)
        };
        let release = self.release_event(t, event, &hold);
        self.after.push(Engine::derived(release, end.0, end.1, start));
    }

    /// Books a hold of a fault that began before all that is known of the task.
    fn hold_from_before(&mut self, event: &Event, address: u64, end: Provenance) -> Hold {
        self.totals.books(Lock::VmaRead).unknown_starts += 1;
        self.totals.gave(Lock::VmaRead, end);
        self.totals.unknown_hold(Lock::VmaRead, Provenance::Unknown);
        let vma = self.vmas.peek(address);
        Hold {
            lock: Lock::VmaRead,
            mm: event.mm().or(vma.map(|vma| vma.mm)).unwrap_or(0),
            vma: address,
            vm_start: vma.map_or(0, |vma| vma.vm_start),
            vm_end: vma.map_or(0, |vma| vma.vm_end),
            ..Hold::default()
        }
    }
}

pub(super) fn origin(counters: &mut super::TaskCounters, user: bool) -> &mut Faults {
    if user {
        &mut counters.user_faults
    } else {
        &mut counters.kernel_faults
    }
}
