//! The `mmap_lock`.

use tracer_common::wire::{Event, Kind, Provenance, flag};

use super::counters::AnomalyKind;
use super::notes::write_lock_ended;
use super::{Engine, Hold, Lock, Wait, What, Who};

impl Engine {
    pub(super) fn mmap_start(&mut self, t: u32, event: &Event) {
        let Some(address) = event.mm() else { return };
        let m = self.mm_of(address, event);
        // Inside a fault under the VMA lock only an interrupt can try for an mmap_lock: that proves
        // nothing about the task, whose fault_end will tell.
        if !self.tasks[t]
            .frames
            .iter()
            .any(|frame| frame.flags & super::fault::VMA_LOCK != 0)
        {
            self.close_reads(t, event, None);
            self.tasks[t].reads_known = self.epoch;
        }
        let lock = Lock::mmap(event.is_write());
        if let Some(old) = self.take_wait(t, |wait| wait.lock == lock && wait.mm == address)
            && old.epoch == self.epoch
        {
            self.anomaly(AnomalyKind::StartWhileWaiting, event, None);
        }
        // A task waits for nothing that it holds, so what is doubtful anyway is over.
        self.lose_stale(t, address);
        let wait = Wait {
            lock,
            certainty: Provenance::Observed,
            epoch: self.epoch,
            mm: address,
            vma: 0,
            since_ns: event.header.ts_ns,
        };
        self.add_wait(t, wait);
        let key = self.key(t);
        self.mms[m].waiters.push(key);
    }

    pub(super) fn mmap_acquire(&mut self, t: u32, event: &Event) {
        let Some(address) = event.mm() else { return };
        let lock = Lock::mmap(event.is_write());
        let wait = self.take_wait(t, |wait| wait.lock == lock && wait.mm == address);
        let m = self.held_mm_of(address, event);
        match wait {
            Some(wait) => self.record_wait(t, &wait, event.header.ts_ns),
            // A downgrade looks like this where the kernel gives no other sign of it.
            None if lock == Lock::MmapRead && self.holds_write(t, address) => {
                let mut downgrade = *event;
                downgrade.kind = Kind::MmapDowngrade;
                downgrade.header.kind = Kind::MmapDowngrade as u8;
                self.rewritten = Some(downgrade);
                self.mmap_downgrade(t, event);
                return;
            }
            None => {
                self.totals.waits_unknown[lock as usize] += 1;
                if self.tasks[t].knows_mm(address, self.epoch) {
                    self.anomaly(AnomalyKind::AcquireWithoutStart, event, None);
                }
            }
        }
        self.evict_contradicted(t, m, event, lock);
        self.totals.took(lock, self.own.0);
        self.tasks[t].counters.acquires[lock as usize] += 1;
        self.mms[m].count(lock);
        self.tasks[t].learn_mm(address, self.epoch);
        self.hold_mmap(t, address, lock, event, true);
    }

    fn holds_write(&self, t: u32, address: u64) -> bool {
        let task = &self.tasks[t];
        task.position(Lock::MmapWrite, address)
            .is_some_and(|at| task.holds[at].epoch == self.epoch)
    }

    /// Whoever cannot hold the `mmap_lock` any more now that another got it.
    fn evict_contradicted(&mut self, t: u32, m: u32, event: &Event, lock: Lock) {
        let key = self.key(t);
        let mm = &self.mms[m];
        let (kind, other) = match lock {
            Lock::MmapWrite if mm.writer.is_some() || !mm.readers.is_empty() => (
                AnomalyKind::WriterBesideHolder,
                mm.writer.or(mm.readers.first().copied()),
            ),
            _ if mm.writer.is_some() => (AnomalyKind::ReaderBesideWriter, mm.writer),
            _ => return,
        };
        let certain = if lock == Lock::MmapWrite {
            self.has_certain_holder(m)
        } else {
            let writer = self.mms[m].writer;
            writer.is_some_and(|writer| self.is_certain(writer, m, Lock::MmapWrite))
        };
        if certain {
            self.anomaly(kind, event, other.filter(|&other| other != key));
        }
        if lock == Lock::MmapWrite {
            self.lose_others(m, None);
        } else {
            self.lose_writer(m);
        }
        self.end_vma_writes(None, m, event.header.ts_ns);
    }

    fn has_certain_holder(&mut self, m: u32) -> bool {
        let writer = self.mms[m].writer;
        if writer.is_some_and(|writer| self.is_certain(writer, m, Lock::MmapWrite)) {
            return true;
        }
        (0..self.mms[m].readers.len()).any(|at| {
            let reader = self.mms[m].readers[at];
            self.is_certain(reader, m, Lock::MmapRead)
        })
    }

    fn is_certain(&mut self, key: u32, m: u32, lock: Lock) -> bool {
        let address = self.mms.key(m);
        let epoch = self.epoch;
        let Some(t) = self.tasks.find(u64::from(key)) else {
            return false;
        };
        let task = &self.tasks[t];
        // Of one that has ended since, the release is the more likely to be missing.
        task.position(lock, address).is_some_and(|at| {
            let hold = &task.holds[at];
            hold.epoch == epoch && hold.since_ns >= task.exited_ns
        })
    }

    /// Forgets all holders of an `mmap_lock`, `keep` excepted.
    pub(super) fn lose_others(&mut self, m: u32, keep: Option<u32>) {
        self.lose_writer(m);
        let address = self.mms.key(m);
        let mut at = 0;
        while let Some(&key) = self.mms[m].readers.get(at) {
            if Some(key) == keep {
                at += 1;
                continue;
            }
            let t = self.tasks.find(u64::from(key));
            match t.and_then(|t| Some((t, self.tasks[t].position(Lock::MmapRead, address)?))) {
                Some((t, hold)) => self.lose_hold(t, hold),
                None => {
                    self.mms[m].readers.remove(at);
                }
            }
        }
    }

    fn lose_writer(&mut self, m: u32) {
        let address = self.mms.key(m);
        if let Some(key) = self.mms[m].writer.take()
            && let Some(t) = self.tasks.find(u64::from(key))
            && let Some(at) = self.tasks[t].position(Lock::MmapWrite, address)
        {
            self.lose_hold(t, at);
        }
    }

    /// Forgets what a task was thought to hold of an `mmap_lock` before the last gap.
    fn lose_stale(&mut self, t: u32, address: u64) {
        let epoch = self.epoch;
        while let Some(at) = self.tasks[t]
            .holds
            .iter()
            .position(|hold| hold.epoch != epoch && hold.vma == 0 && hold.mm == address)
        {
            self.lose_hold(t, at);
        }
    }

    pub(super) fn hold_mmap(&mut self, t: u32, mm: u64, lock: Lock, event: &Event, start_known: bool) {
        self.add_hold(
            t,
            Hold {
                lock,
                certainty: if start_known {
                    Provenance::Observed
                } else {
                    Provenance::Derived
                },
                start_known,
                start: if start_known {
                    self.own.0
                } else {
                    Provenance::Unknown
                },
                start_bound_ns: if start_known { self.own.1 } else { None },
                epoch: self.epoch,
                mm,
                since_ns: event.header.ts_ns,
                ..Hold::default()
            },
        );
    }

    pub(super) fn mmap_fail(&mut self, t: u32, event: &Event) {
        let Some(address) = event.mm() else { return };
        self.mm_of(address, event);
        let lock = Lock::mmap(event.is_write());
        match self.take_wait(t, |wait| wait.lock == lock && wait.mm == address) {
            Some(wait) => {
                let known = wait.epoch == self.epoch;
                let ns = known.then(|| event.header.ts_ns.saturating_sub(wait.since_ns));
                self.note_wait(t, &wait, What::GaveUp, ns);
            }
            None => self.totals.waits_unknown[lock as usize] += 1,
        }
        self.tasks[t].counters.mmap_fails += 1;
    }

    pub(super) fn mmap_release(&mut self, t: u32, event: &Event) {
        let Some(address) = event.mm() else { return };
        let m = self.held_mm_of(address, event);
        let write = event.is_write();
        let lock = Lock::mmap(write);
        if write {
            self.end_vma_writes(Some(t), m, event.header.ts_ns);
        }
        let known = self.tasks[t].knows_mm(address, self.epoch);
        if let Some(at) = self.tasks[t].position(lock, address) {
            self.ended = Some(self.start_of(&self.tasks[t].holds[at]));
            self.end_hold(t, at, event.header.ts_ns, self.own);
        } else if let Some(at) = self.tasks[t].position(Lock::mmap(!write), address) {
            if self.tasks[t].holds[at].epoch == self.epoch {
                self.anomaly(AnomalyKind::ReleaseInOtherMode, event, None);
            }
            self.lose_hold(t, at);
            self.book_unknown(lock);
        } else if !write && (known || event.has(flag::NON_OWNER)) && !self.mms[m].readers.is_empty() {
            self.release_of_another(m, event);
        } else if let Some(writer) = self.mms[m].writer.filter(|_| write) {
            if self.is_certain(writer, m, Lock::MmapWrite) {
                self.anomaly(AnomalyKind::ReleaseOfOthersWrite, event, Some(writer));
            }
            self.lose_writer(m);
            self.book_unknown(lock);
        } else {
            if known {
                self.anomaly(AnomalyKind::ReleaseWithoutAcquire, event, None);
            }
            self.book_unknown(lock);
        }
        let epoch = self.epoch;
        self.tasks[t].learn_mm(address, epoch);
    }

    /// `mmap_read_unlock_non_owner`: somebody's read hold ends. With several readers it is not
    /// known whose, so that all of them become doubtful.
    fn release_of_another(&mut self, m: u32, event: &Event) {
        let address = self.mms.key(m);
        self.totals.non_owner_releases += 1;
        let several = self.mms[m].readers.len() > 1;
        let mut oldest: Option<(u64, u32, usize)> = None;
        for at in 0..self.mms[m].readers.len() {
            let key = self.mms[m].readers[at];
            let Some(t) = self.tasks.find(u64::from(key)) else {
                continue;
            };
            let Some(hold) = self.tasks[t].position(Lock::MmapRead, address) else {
                continue;
            };
            if several {
                self.tasks[t].holds[hold].certainty = Provenance::Unknown;
            }
            let since_ns = self.tasks[t].holds[hold].since_ns;
            if oldest.is_none_or(|(oldest_ns, ..)| since_ns < oldest_ns) {
                oldest = Some((since_ns, t, hold));
            }
        }
        match oldest {
            Some((_, t, hold)) => {
                let end = if several {
                    (Provenance::Unknown, None)
                } else {
                    self.own
                };
                self.end_hold(t, hold, event.header.ts_ns, end);
            }
            None => self.book_unknown(Lock::MmapRead),
        }
    }

    pub(super) fn mmap_downgrade(&mut self, t: u32, event: &Event) {
        let Some(address) = event.mm() else { return };
        let m = self.held_mm_of(address, event);
        self.end_vma_writes(Some(t), m, event.header.ts_ns);
        if let Some(at) = self.tasks[t].position(Lock::MmapWrite, address) {
            let hold = self.drop_hold(t, at);
            self.ended = Some(self.start_of(&hold));
            self.record_hold(t, &hold, event.header.ts_ns, self.own.0);
        } else {
            if self.tasks[t].knows_mm(address, self.epoch) {
                self.anomaly(AnomalyKind::ReleaseWithoutAcquire, event, None);
            }
            self.totals.books(Lock::MmapWrite).unknown_starts += 1;
            self.totals.unknown_hold(Lock::MmapWrite, Provenance::Unknown);
            if self.mms[m].writer.is_some() {
                self.lose_writer(m);
            }
        }
        self.totals.books(Lock::MmapWrite).converted_out += 1;
        self.totals.books(Lock::MmapRead).converted_in += 1;
        let epoch = self.epoch;
        self.tasks[t].learn_mm(address, epoch);
        self.hold_mmap(t, address, Lock::MmapRead, event, true);
    }

    /// All VMA write locks of an address space end at once. `t` is the writer, if it is known.
    pub(super) fn end_vma_writes(&mut self, t: Option<u32>, m: u32, ts_ns: u64) {
        self.lives += 1;
        let life = self.lives;
        let epoch = self.epoch;
        let who = t.map_or(Who::default(), |t| self.who(t));
        let (address, site) = (self.mms.key(m), self.notes.site);
        let mm = &mut self.mms[m];
        mm.write_life = life;
        for (_, locked) in mm.write_held() {
            let at = Lock::VmaWrite as usize;
            match t {
                Some(t) if locked.epoch == epoch => {
                    let ns = ts_ns.saturating_sub(locked.since_ns);
                    self.totals.holds[at].record(ns);
                    self.totals.holds_by[at][Provenance::Derived as usize] += 1;
                    self.tasks[t].counters.holds[at].record(ns);
                    self.notes
                        .add(|| write_lock_ended(who, address, locked, Some(ns), site));
                }
                _ => {
                    self.totals.unknown_hold(Lock::VmaWrite, Provenance::Unknown);
                    self.notes
                        .add(|| write_lock_ended(who, address, locked, None, site));
                }
            }
            match t {
                Some(_) => self.totals.gave(Lock::VmaWrite, Provenance::Derived),
                None => self.totals.balance[at].lost += 1,
            }
        }
        mm.write_locked.clear();
        mm.write_gone = 0;
        mm.write_locked.shrink_to(1024);
    }

    /// A hold that was only learned of by its release.
    fn book_unknown(&mut self, lock: Lock) {
        self.totals.books(lock).unknown_starts += 1;
        self.totals.gave(lock, self.own.0);
        self.totals.unknown_hold(lock, Provenance::Unknown);
    }
}
