//! What the user did not ask for is dropped here, before anything is read.
//!
//! A filter that is off costs nothing: its switch is a constant to the verifier.

use aya_ebpf::{
    Global,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, generated::bpf_get_current_ancestor_cgroup_id,
    },
    macros::map,
    maps::{Array, HashMap},
};
use tracer_common::wire::{COMM_LEN, Kind};

use crate::{
    emit::BPF_F_MMAPABLE,
    inflight,
    kread::{self, Memory},
    mark, twice,
};

/// Kinds to record, one bit by number.
#[unsafe(no_mangle)]
static FILTER_KINDS: Global<u64> = Global::new(u64::MAX);
/// Process that is left out (the tracer itself), 0: none.
#[unsafe(no_mangle)]
static FILTER_SELF: Global<u32> = Global::new(0);
/// 1: any of the following is on, and has to be asked for.
#[unsafe(no_mangle)]
static FILTER_TASKS: Global<u8> = Global::new(1);
/// 1: only processes in [`PIDS`].
#[unsafe(no_mangle)]
static FILTER_PIDS: Global<u8> = Global::new(0);
/// 1: only threads in [`TIDS`].
#[unsafe(no_mangle)]
static FILTER_TIDS: Global<u8> = Global::new(0);
/// 1: only threads called [`COMM`].
#[unsafe(no_mangle)]
static FILTER_COMM: Global<u8> = Global::new(0);
/// The name for [`FILTER_COMM`], padded with zeroes.
#[unsafe(no_mangle)]
static COMM: Global<[u8; COMM_LEN]> = Global::new([0; COMM_LEN]);

/// Only tasks in the cgroup with this number or below it; 0: all.
#[unsafe(no_mangle)]
static FILTER_CGROUP: Global<u64> = Global::new(0);
/// How far that may be below the root, at least and at most: the same, where the root is in sight.
#[unsafe(no_mangle)]
static CGROUP_FROM: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static CGROUP_TO: Global<u32> = Global::new(0);
/// Only VMAs that reach into this range of addresses; the end is not in it. 0 as the end: all.
#[unsafe(no_mangle)]
static ADDR_START: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static ADDR_END: Global<u64> = Global::new(0);

/// 1 while events are wanted. Probes are attached and detached one after the other; with this they all
/// begin and end at one instant, so that nothing is seen to begin whose end goes by unseen.
#[map]
static ENABLED: Array<u32> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Processes to record. Looked up on hot paths without a lock; changed only by user space and at fork and exit.
#[map]
pub(crate) static PIDS: HashMap<u32, u8> = HashMap::with_max_entries(16384, 0);
/// Threads to record.
#[map]
static TIDS: HashMap<u32, u8> = HashMap::with_max_entries(1024, 0);

/// A task, by its numbers.
#[repr(C)]
pub(crate) struct Task {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
}

/// Whether the user wants events of that kind.
#[inline(always)]
pub(crate) fn is_asked(kind: Kind) -> bool {
    FILTER_KINDS.load() & (1 << kind as u8) != 0
}

/// Whether such an event is to be made now, of whatever task.
#[inline(always)]
pub(crate) fn is_on(kind: Kind) -> bool {
    is_asked(kind) && ENABLED.get(0) == Some(&1)
}

/// The current task, if the user wants events of that kind by it, or if they change its marks.
#[inline(always)]
pub(crate) fn passes(kind: Kind) -> Option<Task> {
    let task = current(kind)?;
    is_chosen(&task).then_some(task)
}

/// The current task, if the user wants events of that kind by whomever, or if they change marks.
#[inline(always)]
fn current(kind: Kind) -> Option<Task> {
    if !is_asked(kind) && !mark::need(kind) {
        return None;
    }
    if ENABLED.get(0) != Some(&1) {
        return None;
    }
    let both = bpf_get_current_pid_tgid();
    let pid = (both >> 32) as u32;
    let tid = both as u32;
    Some(Task { pid, tid })
}

/// Whether the user chose only some tasks: one constant for all the ways to, as even one that is off is two instructions.
#[inline(always)]
fn chooses() -> bool {
    FILTER_TASKS.load() != 0
}

/// Whether the user wants events by the current task.
#[inline(always)]
fn is_chosen(task: &Task) -> bool {
    let self_pid = FILTER_SELF.load();
    if self_pid != 0 && self_pid == task.pid {
        return false;
    }
    if !chooses() {
        return true;
    }
    if FILTER_PIDS.load() != 0 && PIDS.get_ptr(task.pid).is_none() {
        return false;
    }
    if FILTER_TIDS.load() != 0 && TIDS.get_ptr(task.tid).is_none() {
        return false;
    }
    if FILTER_COMM.load() != 0 {
        let Ok(comm) = bpf_get_current_comm() else {
            return false;
        };
        if comm != COMM.load() {
            return false;
        }
    }
    FILTER_CGROUP.load() == 0 || is_in_cgroup()
}

/// Whether the current task is in the cgroup, or below it: one of the cgroups above it is that one. A function of its own, so
/// that there is one loop in the object and not one in every program.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_in_cgroup() -> bool {
    for level in CGROUP_FROM.load()..=CGROUP_TO.load() {
        // SAFETY: the helper has no precondition. It walks up from the current task's cgroup under RCU.
        let above = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        if above == FILTER_CGROUP.load() {
            return true;
        }
        if above == 0 {
            // The task's own was the one before.
            return false;
        }
    }
    false
}

/// Whether only a range of addresses is wanted.
#[inline(always)]
pub(crate) fn is_by_address() -> bool {
    ADDR_END.load() != 0
}

/// Whether a VMA of that range is wanted.
#[inline(always)]
pub(crate) fn has_range(start: u64, end: u64) -> bool {
    !is_by_address() || start < ADDR_END.load() && end > ADDR_START.load()
}

/// Whether an address is wanted.
#[inline(always)]
pub(crate) fn has_address(address: u64) -> bool {
    !is_by_address() || address >= ADDR_START.load() && address < ADDR_END.load()
}

/// Whether a VMA is wanted. What cannot be read is: that is told, not left out. A VMA's range does not change while
/// somebody reads it, so its acquire and its release meet the same answer.
#[inline(always)]
pub(crate) fn has_vma<M: Memory>(vma: u64) -> bool {
    if !is_by_address() {
        return true;
    }
    kread::range::<M>(vma).is_none_or(|(start, end)| has_range(start, end))
}

/// The same where a fault begins, for [`has_fault_end`].
#[inline(always)]
pub(crate) fn has_fault_begin<M: Memory>(task: &Task, vma: u64) -> bool {
    let wanted = has_vma::<M>(vma);
    if wanted && is_by_address() {
        inflight::fault_begins(task.tid, vma);
    }
    wanted
}

/// The same where a fault has ended. Its VMA may be gone then: what counts is how it began.
#[inline(always)]
pub(crate) fn has_fault_end<M: Memory>(task: &Task, vma: u64, dropped: bool) -> bool {
    if !is_by_address() {
        return true;
    }
    if dropped {
        inflight::fault_began(task.tid, vma)
    } else {
        has_vma::<M>(vma)
    }
}

/// [`passes`], and this program is the one to do the work; see [`crate::twice`].
#[inline(always)]
pub(crate) fn wanted<const AGAIN: bool>(kind: Kind, site: u32) -> Option<Task> {
    if !AGAIN {
        let task = passes(kind)?;
        twice::done(task.tid, site);
        return Some(task);
    }
    // Mostly the first program did the work, so the note comes first; where only some tasks are chosen mostly nobody had any.
    if chooses() {
        let task = passes(kind)?;
        (!twice::was_done(task.tid, site)).then_some(task)
    } else {
        let task = current(kind)?;
        (!twice::was_done(task.tid, site) && is_chosen(&task)).then_some(task)
    }
}
