//! What is known of one kernel, as a plain value that can be captured, stored and planned from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Btf, Capabilities, Lockdown, config, symbols};
use crate::info::Family;
use crate::outside;

/// Where the kernel tells about itself. Another root gives another kernel.
#[derive(Clone, Debug)]
pub struct Paths {
    /// `/sys/kernel/btf/vmlinux`
    pub btf: PathBuf,
    /// `/proc/kallsyms`
    pub kallsyms: PathBuf,
    /// `available_filter_functions`, the first that can be read.
    pub filter_functions: Vec<PathBuf>,
    /// `/sys/kernel/debug/sched/preempt`
    pub preempt: PathBuf,
    /// `/sys/kernel/security/lockdown`
    pub lockdown: PathBuf,
    /// `/proc/self/status`
    pub status: PathBuf,
    /// `/proc/sys/kernel/osrelease`
    pub osrelease: PathBuf,
    /// `/proc/sys/kernel/version`
    pub version: PathBuf,
    /// `/proc/config.gz`
    pub proc_config: PathBuf,
    /// Folder with `config-RELEASE`.
    pub boot: PathBuf,
    /// `/sys/bus/event_source/devices`
    pub event_sources: PathBuf,
    /// `/sys/kernel/debug/kprobes/enabled`
    pub kprobes_enabled: PathBuf,
    /// `/proc/lockdep_stats`
    pub lockdep_stats: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            btf: "/sys/kernel/btf/vmlinux".into(),
            kallsyms: "/proc/kallsyms".into(),
            filter_functions: vec![
                "/sys/kernel/tracing/available_filter_functions".into(),
                "/sys/kernel/debug/tracing/available_filter_functions".into(),
            ],
            preempt: "/sys/kernel/debug/sched/preempt".into(),
            lockdown: "/sys/kernel/security/lockdown".into(),
            status: "/proc/self/status".into(),
            osrelease: "/proc/sys/kernel/osrelease".into(),
            version: "/proc/sys/kernel/version".into(),
            proc_config: "/proc/config.gz".into(),
            boot: "/boot".into(),
            event_sources: "/sys/bus/event_source/devices".into(),
            kprobes_enabled: "/sys/kernel/debug/kprobes/enabled".into(),
            lockdep_stats: "/proc/lockdep_stats".into(),
        }
    }
}

/// Offsets in bytes of the fields that the probes read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// `vm_area_struct.vm_start`
    pub vm_start: Option<u32>,
    /// `vm_area_struct.vm_end`
    pub vm_end: Option<u32>,
    /// `vm_area_struct.vm_mm`
    pub vm_mm: Option<u32>,
    /// `vm_area_struct.vm_refcnt` (6.15 and later)
    pub vm_refcnt: Option<u32>,
    /// `vm_area_struct.vm_lock` (6.4 to 6.14)
    pub vm_lock: Option<u32>,
    /// `vm_area_struct.vm_lock_seq`
    pub vm_lock_seq: Option<u32>,
    /// `mm_struct.mm_lock_seq`
    pub mm_lock_seq: Option<u32>,
    /// Whether `mm_lock_seq` is a seqcount, which is odd while the lock is held for writing.
    pub mm_lock_seq_is_seqcount: bool,
    /// `task_struct.pid`
    pub task_pid: Option<u32>,
    /// `task_struct.tgid`
    pub task_tgid: Option<u32>,
    /// `vm_area_struct.vmlock_dep_map`, which only kernels with lockdep have.
    #[serde(default)]
    pub vma_dep_map: Option<u32>,
    /// `mm_struct.mmap_lock.dep_map`, which only kernels with lockdep have.
    #[serde(default)]
    pub mmap_dep_map: Option<u32>,
    /// `lockdep_map.name`
    #[serde(default)]
    pub dep_map_name: Option<u32>,
    /// `lockdep_map.key`
    #[serde(default)]
    pub dep_map_key: Option<u32>,
    /// `task_struct.mm`
    #[serde(default)]
    pub task_mm: Option<u32>,
    /// `task_struct.comm`
    #[serde(default)]
    pub task_comm: Option<u32>,
    /// `task_struct.__state`
    #[serde(default)]
    pub task_state: Option<u32>,
    /// `task_struct.flags`
    #[serde(default)]
    pub task_flags: Option<u32>,
    /// `task_struct.in_iowait`: its byte, and its bit as a mask.
    #[serde(default)]
    pub task_iowait: Option<(u32, u8)>,
    /// `task_struct.signal`
    #[serde(default)]
    pub task_signal: Option<u32>,
    /// `signal_struct.live`
    #[serde(default)]
    pub signal_live: Option<u32>,
}

impl Layout {
    /// The offsets that are known, by their names here, and what else is known as 0 or 1.
    pub fn offsets(&self) -> BTreeMap<String, u32> {
        // Through JSON, so that a field that is added shows without another line here.
        let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(self) else {
            return BTreeMap::new();
        };
        let number = |value: serde_json::Value| match value {
            serde_json::Value::Bool(is) => Some(u32::from(is)),
            other => other.as_u64().and_then(|offset| u32::try_from(offset).ok()),
        };
        fields
            .into_iter()
            .filter_map(|(name, value)| Some((name, number(value)?)))
            .collect()
    }
}

/// Which argument of the `mmap_lock` tracepoints is which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracepointArgs {
    /// Index of `write`.
    pub write: u8,
}

/// What is known of one kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// As `uname -r` has it.
    pub release: String,
    /// As `uname -v` has it.
    pub version: String,
    /// As `uname -m` has it.
    pub machine: String,
    /// Which form the lock has; `None`: this kernel has no per-VMA lock.
    pub family: Option<Family>,
    /// Where the fields are.
    pub layout: Layout,
    /// The `mmap_lock` tracepoints, if the kernel has them.
    pub mmap_tracepoints: Option<TracepointArgs>,
    /// Whether `sched_process_exit` tells if the task is the last of its process (6.16 and later).
    #[serde(default)]
    pub exit_tells_last: bool,
    /// Functions of interest that have a type: number of parameters, and whether they return something.
    pub functions: BTreeMap<String, (usize, bool)>,
    /// Those that ftrace can patch; `None` if the kernel does not let us read that.
    pub traceable: Option<BTreeSet<String>>,
    /// Addresses of symbols of interest; `None` if the kernel hides them.
    pub addresses: Option<BTreeMap<String, Vec<u64>>>,
    /// `CONFIG_KPROBE_EVENTS_ON_NOTRACE`, if the kernel tells.
    pub kprobes_on_notrace: Option<bool>,
    /// Whether kprobes can be made at all, if the kernel tells: it was built with them, and they are not switched off.
    #[serde(default)]
    pub kprobes: Option<bool>,
    /// Whether lockdep is at work; `None`: the kernel does not have it, or not with tracepoints as we know them. It
    /// ends with the first bug that it finds.
    #[serde(default)]
    pub lockdep: Option<bool>,
    /// Hardware breakpoints that somebody could use, if that is known. Whether they are free shows when attaching.
    #[serde(default = "breakpoints")]
    pub breakpoints_free: Option<u8>,
    /// Preemption as the kernel runs with it (`none`, `voluntary`, `lazy`, `full`), if it tells.
    #[serde(default)]
    pub preemption: Option<String>,
    /// Lockdown.
    pub lockdown: Lockdown,
    /// What this process may do.
    pub capabilities: Capabilities,
}

/// Functions that some probe asks about.
pub const FUNCTIONS: &[&str] = &[
    "lock_vma_under_rcu",
    "lock_next_vma",
    "vma_start_read",
    "vma_refcount_put",
    "handle_mm_fault",
    "__vma_start_write",
    "vma_mark_detached",
    "__vma_exclude_readers_for_detach",
    "vm_area_free",
    "__bad_area",
    "uffd_lock_vma",
];

/// Symbols besides [`FUNCTIONS`] whose address is asked for.
const SYMBOLS: &[&str] = &["_text", "rcuwait_wake_up"];

/// The kernel tells nothing of its types.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot use {}: {why}. Without the kernel's types (CONFIG_DEBUG_INFO_BTF=y) no field of a lock can be found; \
     recordings can still be read: tracer stats FILE",
    outside::path(path)
)]
pub struct NoTypes {
    /// Where they should be.
    pub path: PathBuf,
    /// What is wrong.
    pub why: String,
}

/// How much to gather.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What attaching needs. Lists that the kernel has to print first are left out where attaching
    /// itself answers the question: they take longer than all the rest.
    Attach,
    /// Everything.
    Full,
}

impl Facts {
    /// Whether a task can be preempted while it runs a probe. Where the kernel does not tell what it runs with,
    /// one that could be preemptible counts as such: a second program too many only costs time.
    pub fn is_preemptible(&self) -> bool {
        match self.preemption.as_deref() {
            Some(model) => !matches!(model, "none" | "voluntary"),
            None => self.version.contains("PREEMPT"),
        }
    }

    /// Gathers what this kernel tells; its types are handed on, for what else is asked of them.
    ///
    /// # Errors
    /// When it has no type information, without which nothing can be read from it.
    pub fn gather(paths: &Paths, depth: Depth) -> Result<(Self, Btf), NoTypes> {
        let no_types = |why: String| NoTypes {
            path: paths.btf.clone(),
            why,
        };
        let bytes = fs::read(&paths.btf).map_err(|error| no_types(error.to_string()))?;
        let btf = Btf::parse(bytes).map_err(|error| no_types(error.to_string()))?;
        let read = |path| {
            fs::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .unwrap_or_default()
        };
        let release = read(&paths.osrelease);
        let names: Vec<&str> = FUNCTIONS.iter().chain(SYMBOLS).copied().collect();
        let kprobes_on_notrace = config::option(
            &paths.proc_config,
            &paths.boot.join(format!("config-{release}")),
            "CONFIG_KPROBE_EVENTS_ON_NOTRACE",
        );
        let full = depth == Depth::Full;
        let facts = Self {
            version: read(&paths.version),
            machine: std::env::consts::ARCH.to_owned(),
            family: family(&btf),
            layout: layout(&btf),
            mmap_tracepoints: mmap_tracepoints(&btf),
            exit_tells_last: btf
                .tracepoint("sched_process_exit")
                .is_some_and(|shape| shape.params == 2),
            functions: FUNCTIONS
                .iter()
                .filter_map(|&name| {
                    let shape = btf.function(name)?;
                    Some((name.to_owned(), (shape.params, shape.returns)))
                })
                .collect(),
            traceable: full
                .then(|| {
                    paths
                        .filter_functions
                        .iter()
                        .find_map(|path| symbols::traceable(path, FUNCTIONS))
                })
                .flatten(),
            addresses: (full || kprobes_on_notrace == Some(true))
                .then(|| symbols::addresses(&paths.kallsyms, &names))
                .flatten(),
            kprobes_on_notrace,
            kprobes: kprobes(paths),
            lockdep: lockdep(&btf, paths),
            breakpoints_free: breakpoints(),
            preemption: fs::read_to_string(&paths.preempt)
                .ok()
                .as_deref()
                .and_then(in_parentheses),
            lockdown: Lockdown::read(&paths.lockdown),
            capabilities: Capabilities::read(&paths.status).unwrap_or_default(),
            release,
        };
        Ok((facts, btf))
    }
}

/// Debug registers of x86_64; the kernel gives them to whoever asks first.
#[expect(clippy::unnecessary_wraps, reason = "other machines do not tell")]
const fn breakpoints() -> Option<u8> {
    Some(4)
}

fn kprobes(paths: &Paths) -> Option<bool> {
    if fs::read_to_string(&paths.kprobes_enabled).is_ok_and(|text| text.trim() == "0") {
        return Some(false);
    }
    let sources = paths.event_sources.is_dir();
    sources.then(|| paths.event_sources.join("kprobe").exists())
}

fn lockdep(btf: &Btf, paths: &Paths) -> Option<bool> {
    // What perf hands to programs: the address of the lock and then its name, both at these places.
    let acquire = |field| btf.offset("trace_event_raw_lock_acquire", field);
    let release = |field| btf.offset("trace_event_raw_lock", field);
    let known = (acquire("flags")?, acquire("lockdep_addr")?, acquire("__data")?) == (8, 16, 24)
        && (release("lockdep_addr")?, release("__data")?) == (16, 24);
    let stats = fs::read_to_string(&paths.lockdep_stats).unwrap_or_default();
    let mut off = stats
        .lines()
        .filter_map(|line| line.trim().strip_prefix("debug_locks:"));
    known.then(|| off.all(|value| value.trim() != "0"))
}

/// The word in parentheses, which is how the kernel marks what it runs with.
fn in_parentheses(text: &str) -> Option<String> {
    Some(text.split_once('(')?.1.split_once(')')?.0.to_owned())
}

/// Fields decide, never the version: distributions carry changes back.
fn family(btf: &Btf) -> Option<Family> {
    if btf.offset("vm_area_struct", "vm_refcnt").is_some() {
        Some(Family::Refcount)
    } else if btf.offset("vm_area_struct", "vm_lock").is_some() {
        Some(Family::Rwsem)
    } else {
        None
    }
}

fn layout(btf: &Btf) -> Layout {
    let vma = |field| btf.offset("vm_area_struct", field);
    let sequence = btf.offset("mm_struct", "mm_lock_seq.sequence");
    let vma_dep_map = vma("vmlock_dep_map");
    let lockdep = |structure, field| vma_dep_map.and_then(|_| btf.offset(structure, field));
    Layout {
        vm_start: vma("vm_start"),
        vm_end: vma("vm_end"),
        vm_mm: vma("vm_mm"),
        vm_refcnt: vma("vm_refcnt"),
        vm_lock: vma("vm_lock"),
        vm_lock_seq: vma("vm_lock_seq"),
        mm_lock_seq: sequence.or_else(|| btf.offset("mm_struct", "mm_lock_seq")),
        mm_lock_seq_is_seqcount: sequence.is_some(),
        task_pid: btf.offset("task_struct", "pid"),
        task_tgid: btf.offset("task_struct", "tgid"),
        vma_dep_map,
        mmap_dep_map: lockdep("mm_struct", "mmap_lock.dep_map"),
        dep_map_name: lockdep("lockdep_map", "name"),
        dep_map_key: lockdep("lockdep_map", "key"),
        task_mm: btf.offset("task_struct", "mm"),
        task_comm: btf.offset("task_struct", "comm"),
        task_state: btf.offset("task_struct", "__state"),
        task_flags: btf.offset("task_struct", "flags"),
        task_iowait: btf.bit("task_struct", "in_iowait"),
        task_signal: btf.offset("task_struct", "signal"),
        signal_live: btf.offset("signal_struct", "live"),
    }
}

fn mmap_tracepoints(btf: &Btf) -> Option<TracepointArgs> {
    let start = btf.tracepoint("mmap_lock_start_locking")?.params;
    let returned = btf.tracepoint("mmap_lock_acquire_returned")?.params;
    let released = btf.tracepoint("mmap_lock_released")?.params;
    // (mm, write), and with the older memcg_path (mm, path, write); `success` comes last.
    let args = |write: u8| TracepointArgs { write };
    match (start, returned, released) {
        (2, 3, 2) => Some(args(1)),
        (3, 4, 3) => Some(args(2)),
        _ => None,
    }
}
