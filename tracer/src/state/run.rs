//! What a task does with its processor: from the scheduler's events, and from its making events at all.
//!
//! The three kinds come from different processors, but events are sorted by time, and the kernel's own order holds
//! between them: a task is taken off before it is woken, woken before it is put on. Only where a wake is told
//! *before* the task left (`sched_waking` looks at it too early) may the two cross; what came of it is then
//! doubtful until the task runs again.

use tracer_common::wire::sched::out;
use tracer_common::wire::{Event, Kind, Provenance};

use super::{Engine, Lock};

/// What a task does with its processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RunState {
    /// Nothing is known: no scheduler events are asked for, none was seen of it yet, or some may be lost.
    #[default]
    Unknown,
    /// It is on a processor.
    Running,
    /// It could run, and waits for a processor.
    Runnable,
    /// It left its processor in order to wait.
    Sleeping,
}

impl RunState {
    /// The name in all output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Running => "running",
            Self::Runnable => "runnable",
            Self::Sleeping => "sleeping",
        }
    }
}

/// What a task does with its processor, since when, and with which stacks it left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// What it does.
    pub state: RunState,
    /// How surely. `Bounded`: it sleeps, unless a wake that was told too early ended that.
    pub certainty: Provenance,
    /// Since when, in nanoseconds.
    pub since_ns: u64,
    /// Whether `since_ns` is when that began, and not just when it was first known.
    pub since_known: bool,
    /// The kernel's state of the task with which it left its processor last (`TASK_INTERRUPTIBLE` and others); 0: it
    /// stayed runnable.
    pub task_state: u16,
    /// It left in order to wait for I/O.
    pub iowait: bool,
    /// It left while it reclaimed memory.
    pub reclaim: bool,
    /// It left against its will.
    pub preempted: bool,
    /// It was woken after it last began to run: that may have been told too early.
    woken: bool,
    /// Number of the kernel stack with which it left its processor last; 0: none.
    pub kernel_stack: u32,
    /// Number of the user stack with which it left its processor last; 0: none.
    pub user_stack: u32,
    /// The state of knowledge in which this was found out.
    epoch: u32,
}

impl Run {
    /// As it is in a state of knowledge: what is older counts no more.
    pub(super) fn seen_in(&self, epoch: u32) -> Self {
        if self.epoch == epoch {
            *self
        } else {
            Self {
                certainty: Provenance::Unknown,
                ..Self::default()
            }
        }
    }

    /// Whether it says already what an event of the task's own tells.
    #[inline]
    pub(super) fn says_running(&self, epoch: u32) -> bool {
        self.epoch == epoch && matches!(self.state, RunState::Running)
    }

    fn begin(&mut self, state: RunState, since_ns: u64, epoch: u32) {
        self.state = state;
        self.certainty = Provenance::Observed;
        self.since_ns = since_ns;
        self.since_known = true;
        self.woken = false;
        self.epoch = epoch;
    }
}

impl Engine {
    /// Who makes an event runs, by what was seen of it since a time that is not known.
    #[cold]
    pub(super) fn is_running(&mut self, t: u32, ts_ns: u64) {
        let epoch = self.epoch;
        let run = &mut self.tasks[t].run;
        run.begin(RunState::Running, ts_ns, epoch);
        run.since_known = false;
        run.certainty = Provenance::Derived;
    }

    pub(super) fn sched_out(&mut self, t: u32, event: &Event) {
        self.runs_known = true;
        let epoch = self.epoch;
        let run = &mut self.tasks[t].run;
        let task_state = event.sched_state();
        let crossed = task_state != 0 && run.woken && run.epoch == epoch;
        let state = if task_state == 0 {
            RunState::Runnable
        } else {
            RunState::Sleeping
        };
        run.begin(state, event.header.ts_ns, epoch);
        if crossed {
            run.certainty = Provenance::Bounded;
        }
        run.task_state = task_state;
        run.iowait = event.sched_out_is(out::IOWAIT);
        run.reclaim = event.sched_out_is(out::RECLAIM);
        run.preempted = event.sched_out_is(out::PREEMPTED);
        (run.kernel_stack, run.user_stack) = event.stacks();
    }

    pub(super) fn sched_in(&mut self, t: u32, event: &Event) {
        let epoch = self.epoch;
        self.tasks[t]
            .run
            .begin(RunState::Running, event.header.ts_ns, epoch);
    }

    /// Another task can run again. Of one that is not known there is nothing to note: its `sched_in` will come.
    pub(super) fn sched_wake(&mut self, event: &Event) {
        let Some((pid, tid)) = event.other_task() else {
            return;
        };
        let Some(t) = self.tasks.find(u64::from(tid)) else {
            return;
        };
        let epoch = self.epoch;
        if tid == 0 || self.tasks[t].pid != pid {
            return;
        }
        let run = &mut self.tasks[t].run;
        if run.epoch == epoch && matches!(run.state, RunState::Running | RunState::Runnable) {
            run.woken = true;
        } else {
            run.begin(RunState::Runnable, event.header.ts_ns, epoch);
        }
    }

    /// Where the task's latest event was made; kept with the hold that it began.
    pub(super) fn stack(&mut self, t: u32, event: &Event) {
        let mmap = |lock| matches!(lock, Lock::MmapRead | Lock::MmapWrite);
        let task = &mut self.tasks[t];
        let hold = match event.stack_of() {
            Some(Kind::MmapAcquire | Kind::MmapDowngrade) => {
                task.holds.iter_mut().rev().find(|hold| mmap(hold.lock))
            }
            Some(Kind::VmaReadAcquire) => task
                .holds
                .iter_mut()
                .rev()
                .find(|hold| hold.lock == Lock::VmaRead),
            _ => None,
        };
        if let Some(hold) = hold {
            hold.stacks = event.stacks();
        }
    }
}
