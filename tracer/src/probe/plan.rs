//! From facts to a plan, with reasons. Pure: no file, no system call, no clock.

use std::fmt;

use tracer_common::site::{self, SiteEntry};
use tracer_common::wire::Kind;

use super::catalogue::{Hook, ROWS, Row};
use crate::info::{Family, SiteInfo, UnseenInfo};
use crate::kernel::{Facts, Layout};
use crate::text::Sites;

/// What to attach, how, why, and what stays unseen.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Programs in the order of attaching.
    pub probes: Vec<Planned>,
    /// One entry for each number that an event can carry as its site; unused numbers are empty.
    pub sites: Vec<SiteInfo>,
    /// What no probe of this plan shows.
    pub unseen: Vec<UnseenInfo>,
    /// Constants for the programs.
    pub globals: Globals,
    /// Whether hooks get a second program.
    pub twice: bool,
    /// Single instructions, all run by one program.
    pub points: Vec<Point>,
}

/// One instruction that the program for all of them is put at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// The number that its events carry.
    pub site: u32,
    /// Where it is.
    pub address: u64,
    /// [`Mechanism::Kprobe`], [`Mechanism::KprobeNotrace`] or [`Mechanism::Breakpoint`].
    pub by: Mechanism,
    /// What the program has to know.
    pub entry: SiteEntry,
}

/// A way to see what a kernel does. The names are those of `doctor` and `--without`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Mechanism {
    /// A tracepoint, with typed arguments.
    #[value(name = "tp_btf")]
    TpBtf,
    /// Entry and return of a function, through ftrace.
    Fentry,
    /// lockdep's tracepoints.
    Lockdep,
    /// An instruction, by kprobe.
    Kprobe,
    /// An instruction in a function that ftrace does not know, by kprobe.
    KprobeNotrace,
    /// An instruction, by a hardware breakpoint.
    Breakpoint,
}

impl Mechanism {
    /// The name in all output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf",
            Self::Fentry => "fentry",
            Self::Lockdep => "lockdep",
            Self::Kprobe => "kprobe",
            Self::KprobeNotrace => "kprobe-notrace",
            Self::Breakpoint => "breakpoint",
        }
    }
}

/// What the user wants of the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Mechanisms to leave out.
    pub without: Vec<Mechanism>,
    /// Record what lockdep says beside all else, and take nothing from it.
    pub truth: bool,
}

/// Where the operations are inlined, or why that is not known.
pub type Found = Result<Sites, String>;

/// One program and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its name in the object.
    pub program: &'static str,
    /// Where it goes.
    pub attach: Attach,
    /// The number that its events carry.
    pub site: u32,
    /// A second program of the same work, which steps in where the kernel skips the first one because another
    /// task was preempted inside it.
    pub again: Option<String>,
}

/// Where a program goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attach {
    /// A tracepoint, with typed arguments.
    TpBtf(&'static str),
    /// Entry of a function.
    FEntry(&'static str),
    /// Return of a function.
    FExit(&'static str),
    /// Entry of every copy of a function, as offsets from `_text`.
    KProbe(Vec<u64>),
    /// Return of every copy of a function, as offsets from `_text`.
    KRetProbe(Vec<u64>),
}

/// Constants for the programs, by their names in the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Globals {
    /// 32-bit ones.
    pub words: Vec<(&'static str, u32)>,
    /// 8-bit ones.
    pub bytes: Vec<(&'static str, u8)>,
}

/// Why nothing can be done on this kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Capabilities are missing.
    NotPermitted(Vec<&'static str>),
    /// There is no per-VMA lock.
    NoVmaLock {
        /// The kernel's release.
        release: String,
    },
    /// The `mmap_lock` tracepoints are not there, or not as we know them.
    NoTracepoints {
        /// The kernel's release.
        release: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPermitted(missing) => write!(
                f,
                "not permitted: this process lacks {}; run it with sudo, or give it both capabilities \
                 (setcap cap_bpf,cap_perfmon+ep). Recordings can be read without: tracer stats FILE",
                missing.join(" and ")
            ),
            Self::NoVmaLock { release } => write!(
                f,
                "Linux {release} has no per-VMA lock (struct vm_area_struct has neither vm_refcnt nor vm_lock): \
                 Linux 6.4 or later is needed. Recordings from other machines can be read here"
            ),
            Self::NoTracepoints { release } => write!(
                f,
                "Linux {release} does not have the mmap_lock tracepoints in a form that is known here \
                 (CONFIG_TRACING, and arguments mm, [memcg_path,] write[, success]); recordings from other \
                 machines can be read here"
            ),
        }
    }
}

impl std::error::Error for Refusal {}

/// Decides what to attach on a kernel of which `facts` are known.
///
/// # Errors
/// When nothing useful can be attached at all.
pub fn plan(facts: &Facts, _found: &Found, _wishes: &Wishes) -> Result<Plan, Refusal> {
    let release = || facts.release.clone();
    let Some(family) = facts.family else {
        return Err(Refusal::NoVmaLock { release: release() });
    };
    let missing = facts.capabilities.missing();
    if !missing.is_empty() {
        return Err(Refusal::NotPermitted(missing));
    }
    let Some(args) = facts.mmap_tracepoints else {
        return Err(Refusal::NoTracepoints { release: release() });
    };

    let mut plan = Plan {
        probes: Vec::new(),
        sites: vec![SiteInfo::default(); site::FIRST_DYNAMIC as usize],
        unseen: Vec::new(),
        globals: globals(facts, args.write),
        twice: facts.is_preemptible(),
        points: Vec::new(),
    };
    for row in ROWS {
        match place(facts, row) {
            Ok(attach) => plan.add(row, attach),
            Err(Some(why)) => plan.unseen.push(why),
            Err(None) => {}
        }
    }
    plan.derive_releases();
    plan.tell_unseen(family);
    plan.globals.bytes.push(("TWICE", u8::from(plan.twice)));
    plan.globals
        .bytes
        .push(("START_READ_SEEN", u8::from(plan.has("vma_start_read_return"))));
    Ok(plan)
}

fn unseen(operation: Kind, function: &str, reason: &str, remedy: &str) -> UnseenInfo {
    UnseenInfo {
        operation: operation.name().to_owned(),
        function: function.to_owned(),
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
    }
}

/// Where a row goes on this kernel; `Err(None)`: nowhere, and nothing is lost by that.
fn place(facts: &Facts, row: &Row) -> Result<Attach, Option<UnseenInfo>> {
    let target = row.hook.target();
    match row.hook {
        Hook::MmapTracepoint(name) => Ok(Attach::TpBtf(name)),
        Hook::Entry(_) | Hook::Return(..) => {
            // Functions that only one family has, or that a later kernel inlines, are no loss: what
            // stands in for them has a row of its own, or `tell_unseen` names the gap.
            let Some(&(params, _)) = facts.functions.get(target) else {
                return Err(None);
            };
            let better = match row.program {
                "area_free" => facts.functions.contains_key("vma_mark_detached"),
                _ => false,
            };
            if better {
                return Err(None);
            }
            if let Hook::Return(_, expected) = row.hook
                && expected != 0
                && params != expected
            {
                return Err(Some(unseen(
                    row.operation,
                    target,
                    &format!("it takes {params} arguments on this kernel, {expected} are known here"),
                    "a newer version of tracer",
                )));
            }
            if facts
                .traceable
                .as_ref()
                .is_some_and(|list| !list.contains(target))
            {
                return Err(Some(unseen(
                    row.operation,
                    target,
                    "ftrace does not know it (it is marked notrace, or is a copy of an inline function)",
                    "none without another kernel build",
                )));
            }
            Ok(if matches!(row.hook, Hook::Entry(_)) {
                Attach::FEntry(target)
            } else {
                Attach::FExit(target)
            })
        }
        Hook::Kprobe(_) | Hook::Kretprobe(_) => {
            if !out_of_line(facts) {
                return Err(None);
            }
            let Some(offsets) = offsets(facts, target) else {
                return Err(None);
            };
            Ok(if matches!(row.hook, Hook::Kprobe(_)) {
                Attach::KProbe(offsets)
            } else {
                Attach::KRetProbe(offsets)
            })
        }
    }
}

/// Whether this kernel lets us probe copies of inline functions: one built with
/// `KPROBE_EVENTS_ON_NOTRACE`, which stock kernels are not.
fn out_of_line(facts: &Facts) -> bool {
    facts.kprobes_on_notrace == Some(true)
}

fn offsets(facts: &Facts, symbol: &str) -> Option<Vec<u64>> {
    let addresses = facts.addresses.as_ref()?;
    let text = *addresses.get("_text")?.first()?;
    let copies = addresses.get(symbol)?;
    copies.iter().map(|address| address.checked_sub(text)).collect()
}

fn globals(facts: &Facts, write: u8) -> Globals {
    let absent = u32::MAX;
    let Layout {
        vm_start,
        vm_end,
        vm_mm,
        vm_refcnt,
        vm_lock_seq,
        mm_lock_seq,
        task_pid,
        task_tgid,
        ..
    } = facts.layout;
    // The return value stands behind the arguments; a function without one always succeeds.
    let ret_start_write = match facts.functions.get("__vma_start_write") {
        Some(&(params, true)) => params as u8,
        _ => 0,
    };
    Globals {
        words: [
            ("OFF_VM_START", vm_start),
            ("OFF_VM_END", vm_end),
            ("OFF_VM_MM", vm_mm),
            ("OFF_VM_REFCNT", vm_refcnt),
            ("OFF_VM_LOCK_SEQ", vm_lock_seq),
            ("OFF_MM_LOCK_SEQ", mm_lock_seq),
            ("OFF_TASK_PID", task_pid),
            ("OFF_TASK_TGID", task_tgid),
        ]
        .map(|(name, offset)| (name, offset.unwrap_or(absent)))
        .to_vec(),
        bytes: vec![
            ("ARG_WRITE", write),
            ("SEQ_IS_COUNT", u8::from(facts.layout.mm_lock_seq_is_seqcount)),
            ("RET_START_WRITE", ret_start_write),
        ],
    }
}

impl Plan {
    pub(super) fn has(&self, program: &str) -> bool {
        self.probes.iter().any(|probe| probe.program == program)
    }

    fn add(&mut self, row: &Row, attach: Attach) {
        // Where both exist, the function itself is better than its callers.
        let caller = matches!(row.program, "lock_vma_under_rcu" | "lock_next_vma");
        let operation = if caller && self.has("vma_start_read_return") {
            Kind::VmaReadFail
        } else {
            row.operation
        };
        self.sites[row.site as usize] = SiteInfo {
            operation: operation.name().to_owned(),
            function: row.hook.target().to_owned(),
            place: String::new(),
            mechanism: row.hook.mechanism().to_owned(),
            provenance: if row.derived.is_some() {
                "derived"
            } else {
                "observed"
            }
            .to_owned(),
            bound_ns: None,
            reason: row.derived.unwrap_or("at the very place").to_owned(),
            attached: false,
        };
        // A kprobe's handler cannot be preempted.
        let kprobe = matches!(attach, Attach::KProbe(_) | Attach::KRetProbe(_));
        let again = (self.twice && !kprobe).then(|| format!("{}_again", row.program));
        self.probes.push(Planned {
            program: row.program,
            attach,
            site: row.site,
            again,
        });
    }

    /// Releases that no probe sees at their own place are taken from the end of the fault.
    fn derive_releases(&mut self) {
        if !self.has("fault_end") {
            return;
        }
        self.sites[site::USER as usize] = SiteInfo {
            operation: Kind::VmaReadRelease.name().to_owned(),
            function: "handle_mm_fault".to_owned(),
            place: String::new(),
            mechanism: "derived".to_owned(),
            provenance: "derived".to_owned(),
            bound_ns: None,
            reason:
                "a fault under the VMA lock gives it back right after handle_mm_fault returned, or, with \
                     VM_FAULT_RETRY or VM_FAULT_COMPLETED, some time inside (then bounded by the fault)"
                    .to_owned(),
            attached: true,
        };
    }

    /// Takes out what was not attached, and what was to be derived from it.
    pub(super) fn settle(&mut self) {
        let Self { probes, sites, .. } = self;
        probes.retain(|probe| sites[probe.site as usize].attached);
        if !self.has("fault_end") && self.sites[site::USER as usize].attached {
            let derived = &mut self.sites[site::USER as usize];
            derived.attached = false;
            "nothing tells the end of a fault".clone_into(&mut derived.reason);
            self.unseen.push(unseen(
                Kind::VmaReadRelease,
                "handle_mm_fault",
                "it would be derived from the end of the fault, which is not seen here",
                "see fault_end",
            ));
        }
    }

    fn tell_unseen(&mut self, family: Family) {
        let rebuild = "a kernel built with CONFIG_PROVE_LOCKING and CONFIG_KPROBE_EVENTS_ON_NOTRACE";
        // A copy out of line serves only a few callers, so it does not replace this.
        self.unseen.push(unseen(
            Kind::VmaReadRelease,
            "userfaultfd, madvise, /proc/PID/maps, TCP zerocopy receive, drivers",
            "the release is inlined into these users of the lock: it is bounded by the task's next event",
            "none yet: it takes a probe at each inlined place",
        ));
        if !self.has("vma_start_read_return") {
            self.unseen.push(unseen(
                Kind::VmaReadRefused,
                "vma_start_read",
                "it is inlined: a failed look-up is seen, but not which VMA refused it, nor why",
                rebuild,
            ));
            self.unseen.push(unseen(
                Kind::VmaReadAcquire,
                "vma_start_read_locked",
                "it is inlined into userfaultfd, which takes it under mmap_lock when the lock-free look-up failed",
                rebuild,
            ));
        }
        match family {
            Family::Rwsem => self.unseen.push(unseen(
                Kind::VmaWriteAcquire,
                "vma_start_write",
                "it is inlined on kernels with a rw_semaphore for each VMA (6.4 to 6.14), and so is its wait",
                "Linux 6.15 or later",
            )),
            Family::Refcount if !self.has("write_acquire") => self.unseen.push(unseen(
                Kind::VmaWriteAcquire,
                "__vma_start_write",
                "this kernel has no such function with a type",
                "none without another kernel build",
            )),
            Family::Refcount => {}
        }
        if !self.has("lock_vma_under_rcu") {
            self.unseen.push(unseen(
                Kind::VmaReadAcquire,
                "lock_vma_under_rcu",
                "this kernel has no such function that could be attached to",
                "a kernel built with CONFIG_PER_VMA_LOCK and CONFIG_FUNCTION_TRACER",
            ));
        }
    }
}
