//! Tries for a VMA's read lock that came to nothing: refused, taken back, given up.

use tracer_common::wire::{Event, Kind, Reason};

use super::task::{Attempt, Lock};
use super::{Engine, Note};

/// `EAGAIN`: `vma_start_read` met a detached VMA.
const EAGAIN: u16 = 11;

impl Engine {
    /// One try met a VMA that it may not have, without having raised its count. The walk may go on.
    pub(super) fn vma_read_refused(&mut self, t: u32, event: &Event) {
        // The task has no hold on that VMA, so what it read of it, its mm above all, may be of a moment that has
        // passed, or of a VMA in the making: no news of it.
        let mut reason = reason_of(event);
        self.totals.refused[reason as usize] += 1;
        if reason == Reason::Detached {
            self.totals.read_misses += 1;
            let who = self.who(t);
            self.notes.add(|| Note::Miss(who));
        }
        let task = &mut self.tasks[t];
        task.counters.refused += 1;
        let vma = event.vma().unwrap_or(0);
        if let Some(attempt) = task.attempt
            && reason == Reason::Unknown
            && attempt.vma == vma
        {
            // The same try, seen a second time at a place that knows less.
            reason = attempt.reason;
        }
        task.attempt = Some(Attempt {
            vma,
            reason,
            raised: false,
        });
    }

    /// One try raised a VMA's count and is about to take it back: a reader for a moment, never a hold.
    pub(super) fn vma_read_temporary(&mut self, t: u32, event: &Event) {
        let Some(address) = event.vma() else { return };
        let reason = event.reason();
        self.vma_of(event);
        self.count_temporary(t, address, reason);
        for tentative in self.tasks[t].tentative.iter_mut() {
            tentative.seen |= tentative.vma == address;
        }
        self.tasks[t].attempt = Some(Attempt {
            vma: address,
            reason,
            raised: true,
        });
    }

    pub(super) fn count_temporary(&mut self, t: u32, address: u64, reason: Reason) {
        self.totals.temporary_reads += 1;
        self.totals.temporary[reason as usize] += 1;
        self.tasks[t].counters.temporary_reads += 1;
        if let Some(v) = self.vmas.find(address) {
            self.vmas[v].temporary_reads += 1;
        }
    }

    /// The look-up as a whole gave up: for the reason of its last try, where that was seen. Nothing is concluded
    /// from nothing having been seen.
    pub(super) fn vma_read_fail(&mut self, t: u32, event: &Event) {
        self.abandon_retry(t);
        let attempt = self.tasks[t].attempt.take();
        let mut reason = event.reason();
        if let Some(attempt) = attempt
            && reason == Reason::Unknown
            && attempt.reason != Reason::Unknown
        {
            reason = attempt.reason;
            let mut explained = *event;
            explained.body.arg = explained.body.arg & 0xffff | (reason as u32) << 16;
            self.rewritten = Some(explained);
        }
        self.totals.read_fails += 1;
        self.totals.fails[reason as usize] += 1;
        let counters = &mut self.tasks[t].counters;
        counters.read_fails += 1;
        counters.fails[reason as usize] += 1;
        if !self.notes.is_on() {
            return;
        }
        let vma = event.vma().or(attempt.map(|attempt| attempt.vma)).unwrap_or(0);
        let (who, place) = (self.who(t), self.place_of_vma(vma, event.mm().unwrap_or(0)));
        self.notes.add(|| Note::LookUpFailed(who, place, reason));
    }

    /// Whether this release takes back what a temporary reader had raised.
    pub(super) fn takes_back(&mut self, t: u32, address: u64) -> bool {
        match &mut self.tasks[t].attempt {
            Some(attempt) if attempt.raised && attempt.vma == address => {
                attempt.raised = false;
                true
            }
            _ => false,
        }
    }

    /// The VMA is in an address space, again or as another one.
    pub(super) fn vma_attach(&mut self, event: &Event) {
        let Some(v) = self.vma_of(event) else { return };
        // Its count was 0 until now: nobody holds it. A writer may, from before it left.
        self.close_readers(v, event, None);
        self.vmas[v].detached = false;
    }

    /// What a task does next tells that its last try is over.
    #[inline]
    pub(super) fn end_attempt(&mut self, t: u32, kind: Kind) {
        let goes_on = matches!(
            kind,
            Kind::VmaReadRefused
                | Kind::VmaReadTemporary
                | Kind::VmaReadFail
                | Kind::VmaReadRelease
                | Kind::LockdepAcquire
                | Kind::LockdepRelease
        );
        let task = &mut self.tasks[t];
        if task.attempt.is_some() && !goes_on {
            task.attempt = None;
        }
    }

    /// Whether the task has the `mmap_lock` of that address space, in whichever way.
    pub(super) fn has_mmap_lock(&self, t: u32, mm: u64) -> bool {
        let task = &self.tasks[t];
        [Lock::MmapRead, Lock::MmapWrite]
            .iter()
            .any(|&lock| task.position(lock, mm).is_some())
    }
}

fn reason_of(event: &Event) -> Reason {
    match event.reason() {
        Reason::Unknown if event.errno() == EAGAIN => Reason::Detached,
        reason => reason,
    }
}
