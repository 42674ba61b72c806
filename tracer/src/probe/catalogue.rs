//! The table of probes: one row for each program in the object.

use tracer_common::{site, wire::Kind};

/// How a row is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// A tracepoint, by its BTF.
    Tracepoint(&'static str),
    /// One of lockdep's tracepoints.
    Lockdep(&'static str),
    /// Entry of a function, through ftrace.
    Entry(&'static str),
    /// Return of a function, through ftrace. With how many arguments the program expects before the
    /// return value; 0: any number, the loader tells it.
    Return(&'static str, usize),
    /// Entry of a function, by kprobe: it is inlined or `notrace` on stock kernels.
    Kprobe(&'static str),
    /// Return of such a function.
    Kretprobe(&'static str),
}

impl Hook {
    pub(super) const fn target(self) -> &'static str {
        match self {
            Self::Tracepoint(name)
            | Self::Lockdep(name)
            | Self::Entry(name)
            | Self::Return(name, _)
            | Self::Kprobe(name)
            | Self::Kretprobe(name) => name,
        }
    }

    pub(super) const fn mechanism(self) -> &'static str {
        match self {
            Self::Tracepoint(_) => "tp_btf",
            Self::Lockdep(_) => "lockdep",
            Self::Entry(_) => "fentry",
            Self::Return(..) => "fexit",
            Self::Kprobe(_) => "kprobe-notrace",
            Self::Kretprobe(_) => "kretprobe-notrace",
        }
    }
}

/// One program.
pub(super) struct Row {
    /// Its name in the object.
    pub(super) program: &'static str,
    /// The number that its events carry.
    pub(super) site: u32,
    /// What it shows.
    pub(super) operation: Kind,
    pub(super) hook: Hook,
    /// `None`: seen at the very place; else how late, in words.
    pub(super) derived: Option<&'static str>,
}

/// In the order of attaching: what ends something first, what begins it last, so that nothing is
/// seen to begin whose end goes by unseen.
pub(super) const ROWS: &[Row] = &[
    Row {
        program: "task_exit",
        site: site::TASK_EXIT,
        operation: Kind::TaskExit,
        hook: Hook::Tracepoint("sched_process_exit"),
        derived: None,
    },
    Row {
        program: "task_exec",
        site: site::TASK_EXEC,
        operation: Kind::TaskExec,
        hook: Hook::Tracepoint("sched_process_exec"),
        derived: None,
    },
    Row {
        program: "task_fork",
        site: site::TASK_FORK,
        operation: Kind::TaskFork,
        hook: Hook::Tracepoint("sched_process_fork"),
        derived: None,
    },
    Row {
        program: "sched_waking",
        site: site::SCHED_WAKE,
        operation: Kind::SchedWake,
        hook: Hook::Tracepoint("sched_waking"),
        derived: None,
    },
    Row {
        program: "sched_wakeup",
        site: site::SCHED_WAKE,
        operation: Kind::SchedWake,
        hook: Hook::Tracepoint("sched_wakeup"),
        derived: None,
    },
    Row {
        program: "sched_switch",
        site: site::SCHED_SWITCH,
        operation: Kind::SchedOut,
        hook: Hook::Tracepoint("sched_switch"),
        derived: None,
    },
    Row {
        program: "mmap_release",
        site: site::MMAP_RELEASE,
        operation: Kind::MmapRelease,
        hook: Hook::Tracepoint("mmap_lock_released"),
        derived: None,
    },
    Row {
        program: "lockdep_release",
        site: site::LOCKDEP,
        operation: Kind::LockdepRelease,
        hook: Hook::Lockdep("lock_release"),
        derived: None,
    },
    Row {
        program: "vma_refcount_put",
        site: site::VMA_REFCOUNT_PUT,
        operation: Kind::VmaReadRelease,
        hook: Hook::Kprobe("vma_refcount_put"),
        derived: None,
    },
    Row {
        program: "bad_area",
        site: site::BAD_AREA,
        operation: Kind::VmaReadRelease,
        hook: Hook::Entry("__bad_area"),
        derived: Some("a fault that the VMA does not allow: the lock is given back inside, right after this"),
    },
    Row {
        program: "fault_end",
        site: site::FAULT_END,
        operation: Kind::FaultEnd,
        hook: Hook::Return("handle_mm_fault", 4),
        derived: None,
    },
    Row {
        program: "mark_detached",
        site: site::MARK_DETACHED,
        operation: Kind::VmaDetach,
        hook: Hook::Return("vma_mark_detached", 1),
        derived: None,
    },
    Row {
        program: "area_free",
        site: site::AREA_FREE,
        operation: Kind::VmaDetach,
        hook: Hook::Entry("vm_area_free"),
        derived: Some("vma_mark_detached is inlined here: the VMA was detached some time before it is freed"),
    },
    Row {
        program: "mmap_acquire",
        site: site::MMAP_ACQUIRE,
        operation: Kind::MmapAcquire,
        hook: Hook::Tracepoint("mmap_lock_acquire_returned"),
        derived: None,
    },
    Row {
        program: "write_acquire",
        site: site::WRITE_ACQUIRE,
        operation: Kind::VmaWriteAcquire,
        hook: Hook::Return("__vma_start_write", 0),
        derived: None,
    },
    Row {
        program: "lockdep_acquire",
        site: site::LOCKDEP,
        operation: Kind::LockdepAcquire,
        hook: Hook::Lockdep("lock_acquire"),
        derived: None,
    },
    Row {
        program: "vma_start_read_return",
        site: site::VMA_START_READ,
        operation: Kind::VmaReadAcquire,
        hook: Hook::Kretprobe("vma_start_read"),
        derived: None,
    },
    Row {
        program: "vma_start_read_entry",
        site: site::VMA_START_READ,
        operation: Kind::VmaReadAcquire,
        hook: Hook::Kprobe("vma_start_read"),
        derived: None,
    },
    Row {
        program: "lock_vma_under_rcu",
        site: site::LOCK_VMA_UNDER_RCU,
        operation: Kind::VmaReadAcquire,
        hook: Hook::Return("lock_vma_under_rcu", 2),
        derived: None,
    },
    Row {
        program: "lock_next_vma",
        site: site::LOCK_NEXT_VMA,
        operation: Kind::VmaReadAcquire,
        hook: Hook::Return("lock_next_vma", 3),
        derived: None,
    },
    Row {
        program: "fault_begin",
        site: site::FAULT_BEGIN,
        operation: Kind::FaultBegin,
        hook: Hook::Entry("handle_mm_fault"),
        derived: None,
    },
    Row {
        program: "write_start",
        site: site::WRITE_START,
        operation: Kind::VmaWriteStart,
        hook: Hook::Entry("__vma_start_write"),
        derived: None,
    },
    Row {
        program: "mmap_start",
        site: site::MMAP_START,
        operation: Kind::MmapStart,
        hook: Hook::Tracepoint("mmap_lock_start_locking"),
        derived: None,
    },
];
