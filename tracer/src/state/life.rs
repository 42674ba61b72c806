//! Tasks begin, run other programs and end; their numbers, and the memory of their locks, are used again.

use tracer_common::wire::{Event, Provenance};

use super::counters::AnomalyKind;
use super::{Engine, Lock, Task};

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
            self.totals.waits_unknown[wait.lock as usize] += 1;
        }
    }
}
