//! The per-VMA lock.

use tracer_common::site;
use tracer_common::wire::{Event, Header, Kind, Provenance, VmaBody, flag};

use super::counters::AnomalyKind;
use super::lock::Writer;
use super::task::{OpenPut, Start};
use super::{Engine, Hold, Lock, Meta, Wait, WriteLocked};

impl Engine {
    pub(super) fn vma_read_acquire(&mut self, t: u32, event: &Event) {
        let Some(address) = event.vma() else { return };
        self.abandon_retry(t);
        let start = self.take_tentative(t, address);
        if let Some(at) = self.tasks[t].read_of(address)
            && self.tasks[t].holds[at].by_lockdep
        {
            // What lockdep said and something else has confirmed before.
            self.tasks[t].holds[at].by_lockdep = false;
            self.vma_of(event);
            return;
        }
        self.close_before(t, address, event);
        let Some(v) = self.vma_of(event) else { return };
        if let Some(writer) = self.write_locked_by(v) {
            self.anomaly(AnomalyKind::ReadOfWriteLocked, event, Some(writer));
        }
        let (provenance, bound_ns) = self.own;
        let start = start.unwrap_or(Start {
            since_ns: event.header.ts_ns,
            provenance,
            bound_ns,
        });
        self.take_read(t, v, event, start);
    }

    /// What a new read lock tells of those that the task had.
    fn close_before(&mut self, t: u32, address: u64, event: &Event) {
        if self.sites.releases_complete {
            if let Some(at) = self.tasks[t].read_of(address) {
                self.hole(AnomalyKind::DoubleRead, t, at, event);
                self.close_read(t, at, event);
            }
            return;
        }
        let one_at_a_time = self
            .sites
            .get(event.header.site)
            .is_some_and(|site| site.is_next_vma);
        if one_at_a_time || self.tasks[t].reads() >= 2 {
            self.close_reads(t, event, None);
        } else if let Some(at) = self.tasks[t].read_of(address) {
            self.close_read(t, at, event);
        }
    }

    /// A read lock was taken.
    pub(super) fn take_read(&mut self, t: u32, v: u32, event: &Event, start: Start) {
        let mm = self.vmas[v].mm;
        if mm != 0 {
            let m = self.mm_of(mm, event);
            self.mms[m].count(Lock::VmaRead);
        }
        self.totals.took(Lock::VmaRead, start.provenance);
        self.tasks[t].counters.acquires[Lock::VmaRead as usize] += 1;
        self.hold_vma(t, v, start);
    }

    pub(super) fn hold_vma(&mut self, t: u32, v: u32, start: Start) {
        let vma = &self.vmas[v];
        let start_known = start.provenance != Provenance::Unknown;
        let hold = Hold {
            lock: Lock::VmaRead,
            certainty: match (self.sites.releases_complete, start_known) {
                (false, _) => Provenance::Bounded,
                (true, false) => Provenance::Derived,
                (true, true) => Provenance::Observed,
            },
            start_known,
            start: start.provenance,
            start_bound_ns: start.bound_ns,
            by_lockdep: false,
            epoch: self.epoch,
            mm: vma.mm,
            vma: self.vmas.key(v),
            vm_start: vma.vm_start,
            vm_end: vma.vm_end,
            since_ns: start.since_ns,
            stacks: (0, 0),
        };
        self.add_hold(t, hold);
    }

    pub(super) fn vma_read_release(&mut self, t: u32, event: &Event) {
        let Some(address) = event.vma() else { return };
        let in_bad_area = event.header.site == site::BAD_AREA;
        if in_bad_area && self.sites.bad_area_put {
            // Its own instruction comes next.
            return;
        }
        if self.takes_back(t, address) {
            return;
        }
        // A temporary reader gives back what may belong to another address space by now: that is
        // no news of this VMA, so its entry is not touched unless the lock was really held.
        if let Some(at) = self.tasks[t].read_of(address) {
            self.vma_of(event);
            // Taking note of the VMA may have closed the hold, if the address has a new owner.
            if self.tasks[t].read_of(address) == Some(at) {
                self.ended = Some(self.start_of(&self.tasks[t].holds[at]));
                self.end_hold(t, at, event.header.ts_ns, self.own);
                self.tasks[t].echo = Some(address);
                return;
            }
        }
        if self.echo == Some(address) {
            self.totals.echoes += 1;
            return;
        }
        self.tasks[t].open_put = Some(OpenPut {
            vma: address,
            ts_ns: event.header.ts_ns,
            mm: event.mm().unwrap_or(0),
            by_lockdep: false,
        });
    }

    /// What became of a release without a known acquire, now that the task's next event is there.
    #[cold]
    pub(super) fn resolve_put(&mut self, t: u32, put: OpenPut, next: &Event) {
        if put.by_lockdep {
            self.resolve_taken_back(t, put, next);
            return;
        }
        let of_it = next.vma().is_none_or(|vma| vma == put.vma);
        if next.kind == Kind::VmaReadTemporary && of_it {
            return;
        }
        if next.kind == Kind::VmaReadRefused && of_it {
            self.count_temporary(t, put.vma, next.reason());
            return;
        }
        let all_seen = self.sites.acquires_observed && self.sites.temporaries_observed;
        if all_seen && put.ts_ns > 0 && self.tasks[t].reads_known == self.epoch {
            let mut event = Event::synthetic(Kind::VmaReadRelease, put.ts_ns);
            event.header.tid = next.header.tid;
            event.header.pid = next.header.pid;
            event.header.comm = next.header.comm;
            event.header.cpu = next.header.cpu;
            event.header.flags = flag::VMA | if put.mm == 0 { 0 } else { flag::MM };
            event.body.vma = put.vma;
            event.body.mm = put.mm;
            self.anomaly(AnomalyKind::ReleaseWithoutAcquire, &event, None);
        }
        self.book_unknown_put();
    }

    pub(super) fn book_unknown_put(&mut self) {
        self.totals.books(Lock::VmaRead).unknown_starts += 1;
        // The event is of another moment, but of the same place.
        self.totals.gave(Lock::VmaRead, Provenance::Observed);
        self.totals.unknown_hold(Lock::VmaRead, Provenance::Unknown);
    }

    pub(super) fn vma_write_start(&mut self, t: u32, event: &Event) {
        let Some(v) = self.vma_of(event) else { return };
        let address = self.vmas.key(v);
        if let Some(old) = self.take_wait(t, |wait| wait.lock == Lock::VmaWrite)
            && old.epoch == self.epoch
        {
            self.anomaly(AnomalyKind::StartWhileWaiting, event, None);
        }
        if let Some(other) = self.vmas[v].waiting_writer {
            // Writers exclude each other by the mmap_lock, so the other one's end went unseen.
            self.drop_waits(other, |wait| wait.vma == address);
        }
        self.vmas[v].waiting_writer = Some(self.key(t));
        let mm = self.vmas[v].mm;
        let wait = Wait {
            lock: Lock::VmaWrite,
            certainty: Provenance::Observed,
            epoch: self.epoch,
            mm,
            vma: address,
            since_ns: event.header.ts_ns,
        };
        self.add_wait(t, wait);
    }

    pub(super) fn vma_write_acquire(&mut self, t: u32, event: &Event) {
        let Some(v) = self.vma_of(event) else { return };
        self.end_write_wait(t, v, event);
        self.close_readers(v, event, Some(AnomalyKind::WriteOfReadLocked));
        self.totals.took(Lock::VmaWrite, self.own.0);
        self.tasks[t].counters.acquires[Lock::VmaWrite as usize] += 1;
        let (address, mm) = (self.vmas.key(v), self.vmas[v].mm);
        if mm == 0 {
            // Without its mm the end of the lock cannot be recognised.
            self.totals.books(Lock::VmaWrite).lost += 1;
            return;
        }
        let m = self.mm_of(mm, event);
        self.mms[m].count(Lock::VmaWrite);
        if self.mms[m].write_locked.len() >= super::WRITE_LOCKED_LIMIT {
            self.end_vma_writes(None, m, event.header.ts_ns);
        }
        self.require_writer(t, m, mm, event);
        let vma = &self.vmas[v];
        let before = vma.writer.filter(|writer| writer.life == self.mms[m].write_life);
        let locked = WriteLocked {
            vma: address,
            vm_start: vma.vm_start,
            vm_end: vma.vm_end,
            since_ns: event.header.ts_ns,
            epoch: self.epoch,
            gone: false,
        };
        let write_locked = &mut self.mms[m].write_locked;
        let at = match before {
            // It stands there already: what is new is when it was taken, if that had become doubtful.
            Some(writer) => {
                self.totals.books(Lock::VmaWrite).lost += 1;
                if writer.epoch != self.epoch {
                    write_locked[writer.at as usize] = locked;
                }
                writer.at
            }
            None => {
                write_locked.push(locked);
                // There are WRITE_LOCKED_LIMIT of them at most.
                u32::try_from(write_locked.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.vmas[v].writer = Some(Writer {
            task: self.key(t),
            life: self.mms[m].write_life,
            at,
            epoch: self.epoch,
        });
    }

    fn end_write_wait(&mut self, t: u32, v: u32, event: &Event) {
        let address = self.vmas.key(v);
        match self.take_wait(t, |wait| wait.lock == Lock::VmaWrite && wait.vma == address) {
            Some(wait) => self.record_wait(t, &wait, event.header.ts_ns),
            None => {
                self.totals.waits_unknown[Lock::VmaWrite as usize] += 1;
                let mm = self.vmas[v].mm;
                if self.tasks[t].position(Lock::MmapWrite, mm).is_some_and(|at| {
                    let hold = &self.tasks[t].holds[at];
                    hold.start_known && hold.epoch == self.epoch
                }) {
                    self.anomaly(AnomalyKind::WriteWithoutStart, event, None);
                }
            }
        }
    }

    /// A VMA is write-locked only under the `mmap_lock`'s write side: if that was not seen, it is
    /// known from now on.
    fn require_writer(&mut self, t: u32, m: u32, mm: u64, event: &Event) {
        if let Some(at) = self.tasks[t].position(Lock::MmapWrite, mm) {
            if self.tasks[t].holds[at].epoch == self.epoch {
                return;
            }
            self.lose_this_hold(t, at);
        } else if self.tasks[t].knows_mm(mm, self.epoch) {
            self.anomaly(AnomalyKind::WriteWithoutMmapLock, event, None);
        }
        self.lose_others(m, None);
        self.totals.books(Lock::MmapWrite).unknown_starts += 1;
        self.hold_mmap(t, mm, Lock::MmapWrite, event, false);
    }

    pub(super) fn vma_write_fail(&mut self, t: u32, event: &Event) {
        if let Some(v) = self.vma_of(event) {
            self.end_write_wait(t, v, event);
        }
    }

    pub(super) fn vma_detach(&mut self, event: &Event) {
        let Some(v) = self.vma_of(event) else { return };
        self.close_readers(v, event, Some(AnomalyKind::WriteOfReadLocked));
        self.vmas[v].detached = true;
    }

    /// Who holds the VMA for writing, as far as it is certain.
    pub(super) fn write_locked_by(&mut self, v: u32) -> Option<u32> {
        let vma = &self.vmas[v];
        let (writer, mm) = (vma.writer?, vma.mm);
        if writer.epoch != self.epoch {
            return None;
        }
        let m = self.mms.find(mm)?;
        (self.mms[m].write_life == writer.life).then_some(writer.task)
    }

    /// The event proves that the task holds no VMA for reading, `keep` excepted.
    pub(super) fn close_reads(&mut self, t: u32, event: &Event, keep: Option<u64>) {
        let mut at = 0;
        while let Some(hold) = self.tasks[t].holds.get(at) {
            let stale = hold.epoch != self.epoch;
            let kept = Some(hold.vma) == keep || (self.sites.releases_complete && !stale);
            if hold.lock != Lock::VmaRead || kept {
                at += 1;
            } else {
                self.close_read(t, at, event);
            }
        }
    }

    /// The event proves that nobody holds the VMA for reading. `anomaly`: what it is if somebody
    /// was certain to.
    pub(super) fn close_readers(&mut self, v: u32, event: &Event, anomaly: Option<AnomalyKind>) {
        let address = self.vmas.key(v);
        while let Some(&key) = self.vmas[v].readers.first() {
            let Some((t, at)) = self.reader(key, address) else {
                super::unlink(&mut self.vmas[v].readers, key);
                continue;
            };
            self.hole(anomaly.unwrap_or(AnomalyKind::CoverageHole), t, at, event);
            self.close_read(t, at, event);
        }
    }

    /// A read hold is gone without its release having been seen. Where all are seen that is odd.
    pub(super) fn hole(&mut self, kind: AnomalyKind, t: u32, at: usize, event: &Event) {
        let hold = self.tasks[t].holds[at];
        if !self.sites.releases_complete || hold.epoch != self.epoch || !self.whole {
            return;
        }
        self.totals.coverage_holes += 1;
        let key = self.key(t);
        let other = (key != super::task_key(event)).then_some(key);
        self.anomaly(kind, event, other);
        self.recent.mark_hole();
        let start = self.start_of(&hold);
        if let Some(anomaly) = self.anomalies.last_mut()
            && (anomaly.kind, anomaly.event.header.ts_ns) == (kind, event.header.ts_ns)
        {
            anomaly.hold = Some(start);
        }
    }

    /// Ends a read hold whose release was not seen: between its start and this event, unless a gap
    /// lies between.
    pub(super) fn close_read(&mut self, t: u32, at: usize, event: &Event) {
        let hold = self.tasks[t].holds[at];
        if hold.epoch != self.epoch {
            self.lose_hold(t, at);
            return;
        }
        let ts_ns = event.header.ts_ns;
        let end = (Provenance::Bounded, Some(ts_ns.saturating_sub(hold.since_ns)));
        let start = self.start_of(&hold);
        self.end_hold(t, at, ts_ns, end);
        let release = self.release_event(t, event, &hold);
        self.before
            .push(Engine::derived(release, end.0, end.1, Some(start)));
    }

    /// A `vma_read_release` of the task's hold that comes from `event`.
    pub(super) fn release_event(&self, t: u32, event: &Event, hold: &Hold) -> Event {
        let task = &self.tasks[t];
        let mut flags = flag::VMA;
        flags |= if hold.mm == 0 { 0 } else { flag::MM };
        flags |= if hold.vm_end == 0 { 0 } else { flag::RANGE };
        Event {
            kind: Kind::VmaReadRelease,
            header: Header {
                kind: Kind::VmaReadRelease as u8,
                len: Kind::VmaReadRelease.wire_len(),
                flags,
                pid: task.pid,
                tid: task.tid,
                comm: task.comm,
                ..event.header
            },
            body: VmaBody {
                mm: hold.mm,
                vma: hold.vma,
                vm_start: hold.vm_start,
                vm_end: hold.vm_end,
                vm_refcnt: 0,
                vm_lock_seq: 0,
                mm_lock_seq: 0,
                arg: 0,
            },
        }
    }

    pub(super) fn derived(
        event: Event,
        provenance: Provenance,
        bound_ns: Option<u64>,
        hold: Option<Start>,
    ) -> (Event, Meta) {
        (
            event.with_provenance(provenance),
            Meta {
                provenance,
                bound_ns,
                derived: true,
                hold,
            },
        )
    }
}
