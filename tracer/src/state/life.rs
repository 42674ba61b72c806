//! Tasks begin, run other programs and end; their numbers, and the memory of their locks, are used again.

use tracer_common::wire::{Event, Kind, Provenance};

use super::counters::AnomalyKind;
use super::lock::Seen;
use super::notes::write_lock_ended;
use super::{Engine, Lock, Note, Span, Task, TaskKey, Wait, What, Who};

impl Engine {
    /// A task was made. If its number is known, that was another task.
    pub(super) fn task_fork(&mut self, event: &Event) {
        let Some((pid, tid)) = event.other_task().filter(|&(_, tid)| tid != 0) else {
            return;
        };
        let Some(t) = self.tasks.find(u64::from(tid)) else {
            return;
        };
        self.replace_task(t);
        let task = &mut self.tasks[t];
        task.tid = tid;
        task.pid = pid;
        task.comm = event.header.comm;
        task.last_ns = event.header.ts_ns;
    }

    /// The number of a task is another one's now. What the old one held is gone.
    #[cold]
    pub(super) fn replace_task(&mut self, t: u32) {
        self.totals.reused_tids += 1;
        self.unlink_task(t);
        let old = core::mem::take(&mut self.tasks[t]);
        self.keep_counters(&old);
    }

    /// The task runs another program, in another address space: it holds nothing, and knows nothing of what comes.
    pub(super) fn task_exec(&mut self, t: u32, event: &Event) {
        self.leave_all(t, event);
        // The thread that runs the program takes the place of its process's first one, which is gone.
        let before = event.body.arg;
        if before != 0
            && before != event.header.tid
            && let Some(old) = self.tasks.find(u64::from(before))
            && self.tasks[old].pid == event.header.pid
        {
            self.leave_all(old, event);
            let counters = core::mem::take(&mut self.tasks[old].counters);
            self.tasks[t].counters.add(&counters);
            self.end_task(old, event.header.ts_ns);
        }
        let epoch = self.epoch;
        let task = &mut self.tasks[t];
        task.exited_ns = 0;
        task.known_mms = Default::default();
        task.reads_known = epoch;
        if let Some(m) = event.mm().and_then(|mm| self.mms.find(mm)) {
            self.mms[m].pid = event.header.pid;
        }
    }

    /// The task ends. It gives back its address space only now, and takes its `mmap_lock` for that; a lock that it
    /// holds all the same stays locked, and is shown as held.
    pub(super) fn task_exit(&mut self, t: u32, event: &Event) {
        // Nobody comes back from the way out of the kernel: reads whose release was not seen ended before.
        self.close_reads(t, event, None);
        self.tasks[t].reads_known = self.epoch;
        self.drop_all_waits(t);
        self.abandon_retry(t);
        self.tasks[t].frames.clear();
        self.end_task(t, event.header.ts_ns);
    }

    fn end_task(&mut self, t: u32, ts_ns: u64) {
        let task = &mut self.tasks[t];
        task.exited_ns = ts_ns.max(1);
        task.run = Default::default();
        self.tasks.retire(t);
    }

    /// A task that was thought to have ended is at work in user mode: its number belongs to another one.
    #[cold]
    pub(super) fn revive(&mut self, t: u32) {
        let Task { tid, pid, comm, .. } = self.tasks[t];
        self.replace_task(t);
        let task = &mut self.tasks[t];
        (task.tid, task.pid, task.comm) = (tid, pid, comm);
    }

    /// The event proves that the task holds nothing, waits for nothing and is in no fault.
    fn leave_all(&mut self, t: u32, event: &Event) {
        while let Some(hold) = self.tasks[t].holds.first().copied() {
            let sure = hold.epoch == self.epoch && hold.certainty <= Provenance::Derived;
            if hold.lock == Lock::VmaRead {
                self.hole(AnomalyKind::HeldAcrossExec, t, 0, event);
                self.close_read(t, 0, event);
                continue;
            }
            if sure {
                self.anomaly(AnomalyKind::HeldAcrossExec, event, None);
            }
            self.lose_hold(t, 0);
        }
        self.drop_all_waits(t);
        self.abandon_retry(t);
        let task = &mut self.tasks[t];
        task.frames.clear();
        task.attempt = None;
        task.tentative.clear();
    }

    fn drop_all_waits(&mut self, t: u32) {
        while let Some(wait) = self.take_wait(t, |_| true) {
            self.lose_wait(t, &wait);
        }
    }

    /// The memory of a VMA has become another VMA: whoever read it has left, and its writer's lock went with it.
    #[cold]
    pub(super) fn recycle_vma(&mut self, v: u32, event: &Event) {
        self.totals.recycled_vmas += 1;
        self.close_readers(v, event, None);
        let address = self.vmas.key(v);
        if let Some(key) = self.vmas[v].waiting_writer.take() {
            self.lose_waits(key, |wait| wait.vma == address);
        }
        if let Some(writer) = self.vmas[v].writer.take()
            && let Some(m) = self.mms.find(self.vmas[v].mm)
            && self.mms[m].write_life == writer.life
        {
            let (mm_address, site) = (self.mms.key(m), self.notes.site);
            let mm = &mut self.mms[m];
            let locked = &mut mm.write_locked[writer.at as usize];
            locked.gone = true;
            mm.write_gone += 1;
            let who = Who::default();
            self.notes.add(|| {
                let note = write_lock_ended(who, mm_address, locked, None, site);
                match note {
                    Note::Span(span) => Note::Span(Span {
                        how: Provenance::Bounded,
                        ..span
                    }),
                    other => other,
                }
            });
            self.totals.gave(Lock::VmaWrite, Provenance::Bounded);
            self.totals.unknown_hold(Lock::VmaWrite, Provenance::Bounded);
        }
        let vma = &mut self.vmas[v];
        vma.detached = false;
        vma.vm_end = 0;
        (vma.vm_refcnt, vma.vm_lock_seq) = (None, None);
    }

    /// Something in an address space refers to it, beside its `mmap_lock`.
    #[inline]
    pub(super) fn link(&mut self, t: u32, mm: u64) {
        if mm == 0 {
            return;
        }
        let m = match self.mms.find(mm) {
            Some(m) => m,
            None => self.insert_mm(mm, self.tasks[t].pid),
        };
        self.mms[m].links += 1;
    }

    #[inline]
    pub(super) fn unlink(&mut self, mm: u64) {
        if let Some(m) = self.mms.find(mm) {
            let links = &mut self.mms[m].links;
            *links = links.saturating_sub(1);
        }
    }

    /// The same, by an event of a task that has its `mmap_lock`: then the sequence tells whether it is still the same.
    pub(super) fn held_mm_of(&mut self, address: u64, event: &Event) -> u32 {
        let m = self.mm_of(address, event);
        if let Some(seq) = event.mm_lock_seq() {
            let ts_ns = event.header.ts_ns;
            let takes_write = event.kind == Kind::MmapAcquire && event.is_write();
            let seen = self.mms[m].seen;
            if seen.is_some_and(|seen| seen.is_of_other_life(ts_ns, seq, takes_write)) {
                self.recycle_mm(m, event);
            }
            let mm = &mut self.mms[m];
            let write = mm.seen.and_then(|seen| seen.write).filter(|_| !takes_write);
            mm.seen = Some(Seen {
                ts_ns,
                seq,
                write: write.or(takes_write.then_some(seq)),
            });
        }
        m
    }

    /// The memory of an `mm` has become another one: what was held in the old one, and awaited, is gone. What began
    /// after the old one was seen last may be of the new one already.
    #[cold]
    pub(super) fn recycle_mm(&mut self, m: u32, event: &Event) {
        self.totals.recycled_mms += 1;
        let seen_ns = self.mms[m].seen.map_or(0, |seen| seen.ts_ns);
        let address = self.mms.key(m);
        self.lose_others(m, None);
        self.end_vma_writes(None, m, event.header.ts_ns);
        let mut at = 0;
        while let Some(&key) = self.mms[m].waiters.get(at) {
            let before = self.mms[m].waiters.len();
            self.lose_waits(key, |wait| {
                wait.vma == 0 && wait.mm == address && wait.since_ns <= seen_ns
            });
            if self.mms[m].waiters.len() == before {
                at += 1;
            }
        }
        self.lose_links(m, seen_ns);
        let mm = &mut self.mms[m];
        mm.pid = event.header.pid;
        mm.acquires = [0; 4];
        mm.seen = None;
    }

    /// Forgets the VMA read locks in an address space, and the waits for its VMAs' readers, that began until then.
    pub(super) fn lose_links(&mut self, m: u32, until_ns: u64) {
        let address = self.mms.key(m);
        let mut t = 0;
        while self.mms[m].links > 0 && t < self.tasks.len() {
            let mut at = 0;
            while let Some(hold) = self.tasks[t].holds.get(at) {
                let is_in = hold.lock == Lock::VmaRead && hold.mm == address;
                if is_in && hold.since_ns <= until_ns {
                    self.lose_hold(t, at);
                } else {
                    at += 1;
                }
            }
            while let Some(wait) = self.take_wait(t, |wait| {
                wait.lock == Lock::VmaWrite && wait.mm == address && wait.since_ns <= until_ns
            }) {
                self.lose_wait(t, &wait);
            }
            t += 1;
        }
    }

    /// A wait is over, nobody knows since when.
    fn lose_wait(&mut self, t: u32, wait: &Wait) {
        self.totals.waits_unknown[wait.lock as usize] += 1;
        self.note_wait(t, wait, What::Wait, None);
    }

    /// Forgets waits of a task; how long they were is not known.
    fn lose_waits(&mut self, key: TaskKey, fits: impl Fn(&Wait) -> bool) {
        let Some(t) = self.tasks.find(u64::from(key)) else {
            return;
        };
        while let Some(wait) = self.take_wait(t, &fits) {
            self.lose_wait(t, &wait);
        }
    }
}
