//! What lockdep says, where it is a source: exact times for the locks of VMAs.
//!
//! It is told of a get before its checks are done, so that a get alone is no hold: only a `vma_read_acquire`
//! of the same VMA makes it one, which then began when lockdep was told. Where no such event is asked for, whatever
//! the task does next makes it one, unless that takes it back. A release is exact. Of the `mmap_lock`
//! lockdep knows nothing that the tracepoints do not: its events confirm and change nothing.

use tracer_common::wire::{Event, Kind, Provenance, Reason};

use super::task::{Attempt, OpenPut, Start, Tentative};
use super::{Engine, Lock};

/// More than so many gets at a time no task has open: the oldest is forgotten.
const TENTATIVE_LIMIT: usize = 8;

impl Engine {
    pub(super) fn lockdep_acquire(&mut self, t: u32, event: &Event) {
        let Some(address) = event.vma().filter(|_| self.sites.lockdep) else {
            return;
        };
        self.vma_of(event);
        let write = event.body.arg & 0xff == 0;
        let tentative = Tentative {
            vma: address,
            since_ns: event.header.ts_ns,
            write,
            seen: false,
            epoch: self.epoch,
        };
        // No task has two gets of one VMA open: what became of the older one was lost.
        self.tasks[t].tentative.retain(|older| older.vma != address);
        if self.tasks[t].tentative.len() >= TENTATIVE_LIMIT {
            self.tasks[t].tentative.remove(0);
        }
        self.tasks[t].tentative.push(tentative);
        // Under the mmap_lock there is nothing to check: who gets it, has it. If that is not seen at its own place
        // it is said here.
        let mm = event.mm().unwrap_or(0);
        let unseen = !self.sites.acquires_observed || self.sites.acquires_by_lockdep;
        if !write && unseen && mm != 0 && self.has_mmap_lock(t, mm) {
            self.confirm_tentative(t, address, event);
        }
    }

    /// The start of a hold that lockdep was told of.
    pub(super) fn take_tentative(&mut self, t: u32, address: u64) -> Option<Start> {
        self.drop_stale_tentative(t);
        let tentative = &mut self.tasks[t].tentative;
        let at = tentative
            .iter()
            .rposition(|tentative| tentative.vma == address && !tentative.write)?;
        let since_ns = tentative.remove(at).since_ns;
        Some(Start {
            since_ns,
            provenance: Provenance::Observed,
            bound_ns: None,
        })
    }

    /// `event` proves that a get came to be a hold, although its acquire was not seen. Whether there was one.
    pub(super) fn confirm_tentative(&mut self, t: u32, address: u64, event: &Event) -> bool {
        let Some(start) = self.take_tentative(t, address) else {
            return false;
        };
        let v = if event.vma() == Some(address) {
            self.vma_of(event)
        } else {
            self.vmas.find(address)
        };
        let Some(v) = v else { return false };
        self.take_read(t, v, event, start);
        if let Some(hold) = self.tasks[t].holds.last_mut() {
            hold.by_lockdep = true;
        }
        let hold = self.tasks[t].holds.last().copied().unwrap_or_default();
        let mut acquire = self.release_event(t, event, &hold);
        acquire.kind = Kind::VmaReadAcquire;
        acquire.header.kind = Kind::VmaReadAcquire as u8;
        let bound_ns = Some(event.header.ts_ns.saturating_sub(hold.since_ns));
        let derived = Self::derived(acquire, Provenance::Derived, bound_ns, None);
        self.before.push(derived);
        true
    }

    pub(super) fn lockdep_release(&mut self, t: u32, event: &Event) {
        let Some(address) = event.vma().filter(|_| self.sites.lockdep) else {
            return;
        };
        self.drop_stale_tentative(t);
        let tentative = &mut self.tasks[t].tentative;
        let known = tentative.iter().rposition(|tentative| tentative.vma == address);
        let confirms = self.sites.acquires_by_lockdep && self.sites.temporaries_observed;
        if confirms && known.is_some_and(|at| !tentative[at].write && !tentative[at].seen) {
            // It was not taken back, so it was a hold, which no other event met.
            self.confirm_tentative(t, address, event);
            self.end_by_lockdep(t, address, event);
        } else if let Some(at) = known {
            let tentative = tentative.remove(at);
            if !tentative.write && !tentative.seen {
                if self.sites.temporaries_have_places {
                    // Lockdep is told right before: its own event comes next, and knows why.
                    self.tasks[t].open_put = Some(OpenPut {
                        vma: address,
                        ts_ns: event.header.ts_ns,
                        mm: event.mm().unwrap_or(0),
                        by_lockdep: true,
                    });
                } else {
                    self.vma_of(event);
                    let mm = event.mm().unwrap_or(0);
                    let temporary = self.make_temporary(t, (address, mm), Reason::Unknown, event);
                    self.after
                        .push(Self::derived(temporary, Provenance::Derived, None, None));
                }
            }
        } else if self.echo != Some(address) {
            self.end_by_lockdep(t, address, event);
        }
        // The release may be seen at its own place too, right after this.
        self.tasks[t].echo = Some(address);
    }

    /// A gap may have swallowed what became of a get.
    #[inline]
    fn drop_stale_tentative(&mut self, t: u32) {
        let epoch = self.epoch;
        let tentative = &mut self.tasks[t].tentative;
        if tentative.iter().any(|get| get.epoch != epoch) {
            tentative.retain(|get| get.epoch == epoch);
        }
    }

    fn end_by_lockdep(&mut self, t: u32, address: u64, event: &Event) {
        let Some(at) = self.tasks[t].read_of(address) else {
            return;
        };
        let start = self.start_of(&self.tasks[t].holds[at]);
        let hold = self.end_hold(t, at, event.header.ts_ns, (Provenance::Observed, None));
        let release = self.release_event(t, event, &hold);
        self.after
            .push(Self::derived(release, Provenance::Observed, None, Some(start)));
    }

    /// Where only lockdep tells of acquires: what the task does next tells which gets have come to be holds.
    #[inline]
    pub(super) fn settle_tentative(&mut self, t: u32, event: &Event) {
        if !self.sites.acquires_by_lockdep || self.tasks[t].tentative.is_empty() {
            return;
        }
        let undecided = match event.kind {
            Kind::VmaReadRefused | Kind::VmaReadFail => return,
            Kind::VmaReadTemporary | Kind::LockdepRelease | Kind::VmaReadRelease => event.vma(),
            _ => None,
        };
        let mut at = 0;
        while let Some(tentative) = self.tasks[t].tentative.get(at).copied() {
            if tentative.write || tentative.seen || Some(tentative.vma) == undecided {
                at += 1;
            } else {
                self.confirm_tentative(t, tentative.vma, event);
            }
        }
    }

    /// What became of a get that was taken back, now that the task's next event is there: that should tell of it.
    #[cold]
    pub(super) fn resolve_taken_back(&mut self, t: u32, put: OpenPut, next: &Event) {
        let of_it = next.vma() == Some(put.vma);
        let reason = match next.kind {
            Kind::VmaReadTemporary if of_it => return,
            Kind::VmaReadRefused if of_it => next.reason(),
            _ => Reason::Unknown,
        };
        let temporary = self.make_temporary(t, (put.vma, put.mm), reason, next);
        let bound_ns = Some(next.header.ts_ns.saturating_sub(put.ts_ns));
        self.before
            .push(Self::derived(temporary, Provenance::Derived, bound_ns, None));
    }

    /// A get that was taken back, and that no probe saw at its own place: the event that there was not, at the time of
    /// another one.
    fn make_temporary(&mut self, t: u32, (vma, mm): (u64, u64), reason: Reason, event: &Event) -> Event {
        self.count_temporary(t, vma, reason);
        self.tasks[t].attempt = Some(Attempt {
            vma,
            reason,
            raised: true,
        });
        let hold = super::Hold {
            lock: Lock::VmaRead,
            mm,
            vma,
            ..super::Hold::default()
        };
        let mut temporary = self.release_event(t, event, &hold);
        temporary.kind = Kind::VmaReadTemporary;
        temporary.header.kind = Kind::VmaReadTemporary as u8;
        temporary.body.arg = (reason as u32) << 16;
        temporary
    }
}
