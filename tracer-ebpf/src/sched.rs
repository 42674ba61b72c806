//! What tasks do beside their locks: they are born, run other programs, end, leave and get their CPU.
//!
//! The scheduler's tracepoints run with its locks held and interrupts off: nothing here wakes user space, waits, or
//! logs. For the same reason nothing preempts these programs, and they need no second ones.

use aya_ebpf::{
    Global,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_comm, bpf_get_current_task_btf},
    },
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use tracer_common::{
    site,
    wire::{COMM_LEN, Kind, flag, sched},
};

use crate::{
    args::arg,
    emit, filter,
    filter::Task,
    follow::{OFF_TASK_PID, OFF_TASK_TGID},
    kread::{ABSENT, Fields, Memory as _, Typed},
    mark::{self, out},
    point::OFF_TASK_MM,
};

/// `task_struct.comm`
#[unsafe(no_mangle)]
static OFF_TASK_COMM: Global<u32> = Global::new(ABSENT);
/// `task_struct.__state`
#[unsafe(no_mangle)]
static OFF_TASK_STATE: Global<u32> = Global::new(ABSENT);
/// `task_struct.flags`
#[unsafe(no_mangle)]
static OFF_TASK_FLAGS: Global<u32> = Global::new(ABSENT);
/// The byte with `task_struct.in_iowait`.
#[unsafe(no_mangle)]
static OFF_TASK_IOWAIT: Global<u32> = Global::new(ABSENT);
/// Its bit in there, as a mask.
#[unsafe(no_mangle)]
static MASK_TASK_IOWAIT: Global<u8> = Global::new(0);
/// `task_struct.signal`
#[unsafe(no_mangle)]
static OFF_TASK_SIGNAL: Global<u32> = Global::new(ABSENT);
/// `signal_struct.live`
#[unsafe(no_mangle)]
static OFF_SIGNAL_LIVE: Global<u32> = Global::new(ABSENT);
/// 1: `sched_process_exit` says itself whether the task is the last of its process (6.16 and later).
#[unsafe(no_mangle)]
static EXIT_TELLS_LAST: Global<u8> = Global::new(0);

/// The task reclaims memory.
const PF_MEMALLOC: u32 = 0x800;

/// A field of a task that the verifier knows as one; 0 where the kernel does not have it.
#[inline(always)]
fn field<T: Copy + Default>(task: u64, offset: u32) -> T {
    if offset == ABSENT {
        return T::default();
    }
    Typed::read::<T>(task, offset).unwrap_or_default()
}

#[inline(always)]
fn comm(task: u64) -> [u64; 2] {
    let offset = OFF_TASK_COMM.load();
    if offset == ABSENT {
        return [0; 2];
    }
    [field(task, offset), field(task, offset + 8)]
}

/// The current task's name as it lies in the task, zeroes behind it: two loads, where the helper measures and copies it
/// letter by letter. `None` where it is not known where that is.
#[inline(always)]
pub(crate) fn current_comm() -> Option<[u64; 2]> {
    if OFF_TASK_COMM.load() == ABSENT {
        return None;
    }
    // SAFETY: the helper has no precondition.
    Some(comm(unsafe { bpf_get_current_task_btf() } as u64))
}

/// `task->mm`, if it has one.
#[inline(always)]
fn put_mm(task: u64, fields: &mut Fields) {
    fields.body.mm = field::<u64>(task, OFF_TASK_MM.load());
    if fields.body.mm != 0 {
        fields.flags |= flag::MM;
    }
}

twice!(btf_tracepoint("sched_process_fork") task_fork, task_fork_again, BtfTracePointContext => on_fork);
/// `sched_process_fork(parent, child)`: before the child runs.
#[inline(always)]
fn on_fork<const AGAIN: bool>(ctx: &BtfTracePointContext) -> i32 {
    let child = arg::<1>(ctx);
    let tid = field::<u32>(child, OFF_TASK_PID.load());
    mark::forget(tid);
    let Some(task) = filter::wanted::<AGAIN>(Kind::TaskFork, site::TASK_FORK) else {
        return 0;
    };
    let mut fields = Fields::EMPTY;
    put_mm(child, &mut fields);
    fields.body.vm_refcnt = field::<u32>(child, OFF_TASK_TGID.load());
    fields.body.arg = tid;
    emit::vma(Kind::TaskFork, site::TASK_FORK, &task, &fields);
    0
}

twice!(btf_tracepoint("sched_process_exec") task_exec, task_exec_again, BtfTracePointContext => on_exec);
/// `sched_process_exec(task, tid before, program)`: the task has its new address space.
#[inline(always)]
fn on_exec<const AGAIN: bool>(ctx: &BtfTracePointContext) -> i32 {
    let Some(task) = filter::wanted::<AGAIN>(Kind::TaskExec, site::TASK_EXEC) else {
        return 0;
    };
    let mut fields = Fields::EMPTY;
    put_mm(arg::<0>(ctx), &mut fields);
    fields.body.arg = arg::<1>(ctx) as u32;
    emit::vma(Kind::TaskExec, site::TASK_EXEC, &task, &fields);
    0
}

twice!(btf_tracepoint("sched_process_exit") task_exit, task_exit_again, BtfTracePointContext => on_exit);
/// `sched_process_exit(task[, last])`.
#[inline(always)]
fn on_exit<const AGAIN: bool>(ctx: &BtfTracePointContext) -> i32 {
    let Some(task) = filter::wanted::<AGAIN>(Kind::TaskExit, site::TASK_EXIT) else {
        return 0;
    };
    let mut fields = Fields::EMPTY;
    fields.body.arg = if EXIT_TELLS_LAST.load() != 0 {
        arg::<1>(ctx) as u32 & 1
    } else if OFF_TASK_SIGNAL.load() == ABSENT || OFF_SIGNAL_LIVE.load() == ABSENT {
        0
    } else {
        // Threads that end at one time may each find that none is left.
        let signal = field::<u64>(arg::<0>(ctx), OFF_TASK_SIGNAL.load());
        u32::from(field::<u32>(signal, OFF_SIGNAL_LIVE.load()) == 0)
    };
    emit::vma(Kind::TaskExit, site::TASK_EXIT, &task, &fields);
    0
}

/// `sched_switch(preempted, who leaves, who comes, state)`: the current task is still the one that leaves.
#[btf_tracepoint(function = "sched_switch")]
pub(crate) fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    leaves(&ctx);
    comes(arg::<2>(&ctx));
    0
}

#[inline(always)]
fn leaves(ctx: &BtfTracePointContext) {
    let both = bpf_get_current_pid_tgid();
    let task = Task {
        pid: (both >> 32) as u32,
        tid: both as u32,
    };
    let preempted = arg::<0>(ctx) & 1 != 0;
    let Some(slot) = mark::slot_of(task.tid) else {
        return;
    };
    if !slot.leaves_with_lock(preempted) {
        return;
    }
    let prev = arg::<1>(ctx);
    // Preempted, or with a signal that came just now, it stays runnable whatever it was about to do.
    let runnable = preempted || field::<u32>(prev, OFF_TASK_STATE.load()) == 0;
    let state = if runnable {
        0
    } else {
        arg::<3>(ctx) as u32 & 0xffff
    };
    slot.out = if state == 0 { out::RUNNABLE } else { out::SLEEPS };
    if !filter::is_on(Kind::SchedOut) {
        return;
    }
    let mut fields = Fields::EMPTY;
    let mut more = 0;
    if field::<u8>(prev, OFF_TASK_IOWAIT.load()) & MASK_TASK_IOWAIT.load() != 0 {
        more |= sched::out::IOWAIT;
    }
    if field::<u32>(prev, OFF_TASK_FLAGS.load()) & PF_MEMALLOC != 0 {
        more |= sched::out::RECLAIM;
    }
    if preempted {
        more |= sched::out::PREEMPTED;
    }
    fields.body.arg = state | more;
    if state != 0 && mark::stacks() {
        emit::with_frames(ctx, Kind::SchedOut, site::SCHED_SWITCH, &task, &fields);
    } else {
        emit::quietly(Kind::SchedOut, site::SCHED_SWITCH, &task, None, &fields);
    }
}

#[inline(always)]
fn comes(next: u64) {
    let tid = field::<u32>(next, OFF_TASK_PID.load());
    let Some(slot) = mark::slot_of(tid) else { return };
    if slot.out == out::NOT {
        return;
    }
    slot.out = out::NOT;
    if filter::is_on(Kind::SchedIn) {
        let task = Task {
            pid: field(next, OFF_TASK_TGID.load()),
            tid,
        };
        emit::quietly(
            Kind::SchedIn,
            site::SCHED_SWITCH,
            &task,
            Some(comm(next)),
            &Fields::EMPTY,
        );
    }
}

/// `sched_waking(task)`: on the waker's own CPU, but maybe before the task has wholly left its own. The event itself
/// is made by `sched_wakeup`, which comes later, and maybe on another CPU.
#[btf_tracepoint(function = "sched_waking")]
pub(crate) fn sched_waking(ctx: BtfTracePointContext) -> i32 {
    let tid = field::<u32>(arg::<0>(&ctx), OFF_TASK_PID.load());
    let Some(slot) = mark::slot_of(tid) else { return 0 };
    if !slot.is_marked() && slot.out == out::NOT {
        return 0;
    }
    let both = bpf_get_current_pid_tgid();
    slot.waker = Task {
        pid: (both >> 32) as u32,
        tid: both as u32,
    };
    // SAFETY: the buffer is as long as said.
    unsafe { bpf_get_current_comm((&raw mut slot.waker_comm).cast(), COMM_LEN as u32) };
    0
}

/// `sched_wakeup(task)`: the task has left its CPU, and was made runnable.
#[btf_tracepoint(function = "sched_wakeup")]
pub(crate) fn sched_wakeup(ctx: BtfTracePointContext) -> i32 {
    let woken = arg::<0>(&ctx);
    let tid = field::<u32>(woken, OFF_TASK_PID.load());
    let Some(slot) = mark::slot_of(tid) else { return 0 };
    if slot.out != out::SLEEPS {
        return 0;
    }
    slot.out = out::RUNNABLE;
    if filter::is_on(Kind::SchedWake) {
        let mut fields = Fields::EMPTY;
        fields.body.vm_refcnt = field(woken, OFF_TASK_TGID.load());
        fields.body.arg = tid;
        let Task { pid, tid } = slot.waker;
        let waker = Task { pid, tid };
        emit::quietly(
            Kind::SchedWake,
            site::SCHED_WAKE,
            &waker,
            Some(slot.waker_comm),
            &fields,
        );
    }
    0
}
