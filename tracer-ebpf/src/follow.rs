//! Keeps the set of traced processes closed under fork, for `-- CMD` and its children.
//!
//! These run at fork and exit, far from any lock that we trace, so they may change a hash map.

use aya_ebpf::{
    Global, helpers::bpf_get_current_pid_tgid, macros::btf_tracepoint, programs::BtfTracePointContext,
};

use aya_log_ebpf::{debug, warn};
use tracer_common::site;

use crate::{
    args::arg,
    emit,
    filter::PIDS,
    kread::{ABSENT, Memory as _, Typed},
};

/// `task_struct.pid`
#[unsafe(no_mangle)]
pub(crate) static OFF_TASK_PID: Global<u32> = Global::new(ABSENT);
/// `task_struct.tgid`
#[unsafe(no_mangle)]
pub(crate) static OFF_TASK_TGID: Global<u32> = Global::new(ABSENT);

/// `task->pid` and `task->tgid` of a task that the verifier knows as one.
#[inline(always)]
fn ids(task: u64) -> Option<(u32, u32)> {
    let pid = Typed::read::<u32>(task, OFF_TASK_PID.load()).ok()?;
    let tgid = Typed::read::<u32>(task, OFF_TASK_TGID.load()).ok()?;
    Some((pid, tgid))
}

twice!(btf_tracepoint("sched_process_fork") follow_fork, follow_fork_again, BtfTracePointContext => on_fork);
/// `sched_process_fork(parent, child)`; doing it twice does no harm.
#[inline(always)]
fn on_fork<const AGAIN: bool>(ctx: &BtfTracePointContext) -> i32 {
    let parent = (bpf_get_current_pid_tgid() >> 32) as u32;
    if PIDS.get_ptr(parent).is_none() {
        return 0;
    }
    let Some((_, tgid)) = ids(arg::<1>(ctx)) else {
        return 0;
    };
    if tgid == parent {
        return 0;
    }
    if PIDS.insert(tgid, 1, 0).is_ok() {
        debug!(ctx, "following process {}, a child of {}", tgid, parent);
    } else {
        // The map is full: this process goes untraced, and the count says so.
        warn!(ctx, "cannot follow process {}: too many processes", tgid);
        emit::dropped(site::FOLLOW);
    }
    0
}

/// `sched_process_free(task)`: the last of a process is its first thread; its number may be used again.
#[btf_tracepoint(function = "sched_process_free")]
pub(crate) fn follow_free(ctx: BtfTracePointContext) -> i32 {
    if let Some((pid, tgid)) = ids(arg::<0>(&ctx))
        && pid == tgid
    {
        // Not being in the map is the usual case.
        let _ = PIDS.remove(tgid);
    }
    0
}
