//! From facts to a plan, with reasons. Pure: no file, no system call, no clock.

use std::fmt;

use tracer_common::site::{self, SiteEntry};
use tracer_common::wire::Kind;

use super::catalogue::{Hook, ROWS, Row};
use super::points::{self, Seen};
use super::ways::{Ways, Why};
use crate::info::{Family, SiteInfo, UnseenInfo};
use crate::kernel::{Facts, Layout};
use crate::mode::Mode;
use crate::text::{Kprobe, Operation, Sites};

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
    /// Instructions that were found and need no probe, and why.
    pub elsewhere: Vec<Elsewhere>,
}

/// A found instruction that needs no probe of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Where it is.
    pub address: u64,
    /// The same for people: symbol and distance.
    pub place: String,
    /// What it does, as `tracer sites` has it.
    pub operation: Operation,
    /// What shows it.
    pub why: &'static str,
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

/// How long after the end of a fault its lock is given back, in nanoseconds, if nothing interrupts the task. Chosen
/// for emulated processors, on which `cargo xtask bench accuracy` measures it.
const FAULT_RELEASE_BOUND_NS: u64 = 1_000_000;

/// What the user wants of the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Mechanisms to leave out.
    pub without: Vec<Mechanism>,
    /// Record what lockdep says beside all else, and take nothing from it.
    pub truth: bool,
    /// Kinds that nobody wants to see, one bit by number; what shows nothing else is left out.
    pub unwanted: u64,
    /// Faults are filtered by the address of their VMA, which may be gone at their end.
    pub by_address: bool,
    /// Take stacks of waits and holds from this length on, in nanoseconds.
    pub stacks_from_ns: Option<u64>,
    /// How much comes out of the kernel: what only shows more than that is left out.
    pub mode: Mode,
    /// Keep readers in narrow places for a while: only to provoke states of the lock.
    pub linger: bool,
}

impl Wishes {
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.unwanted & (1 << kind as u8) == 0
    }

    /// Whether what tasks do on their CPUs is to be seen.
    fn has_scheduler(&self) -> bool {
        [Kind::SchedOut, Kind::SchedIn, Kind::SchedWake]
            .into_iter()
            .any(|kind| self.has(kind))
    }
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
    /// A tracepoint as perf calls it, by category and name.
    Tracepoint(&'static str, &'static str),
    /// Entry of a function.
    FEntry(&'static str),
    /// Return of a function.
    FExit(&'static str),
    /// Entry of every copy of a function, as offsets from `_text`.
    KProbe(Vec<u64>),
    /// Return of every copy of a function, as offsets from `_text`.
    KRetProbe(Vec<u64>),
    /// All instructions of [`Plan::points`].
    Instructions,
}

/// Constants for the programs, by their names in the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Globals {
    /// 32-bit ones.
    pub words: Vec<(&'static str, u32)>,
    /// 8-bit ones.
    pub bytes: Vec<(&'static str, u8)>,
    /// 64-bit ones.
    pub longs: Vec<(&'static str, u64)>,
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
pub fn plan(facts: &Facts, found: &Found, wishes: &Wishes) -> Result<Plan, Refusal> {
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

    // What is brought together in the kernel takes nothing from lockdep, which tells of acquires before its checks.
    let pared = wishes.clone().pared();
    let wishes = &pared;
    let ways = Ways::new(facts, wishes);
    let rows: Vec<(&Row, Placed)> = ROWS.iter().map(|row| (row, place(facts, &ways, row))).collect();
    let possible = |program: &str| {
        rows.iter()
            .any(|(row, placed)| row.program == program && matches!(placed, Placed::At(_)))
    };
    let seen = Seen {
        family,
        lockdep: ways.lockdep(),
        rcu_return: possible("lock_vma_under_rcu"),
        next_return: possible("lock_next_vma"),
        write: possible("write_start") && possible("write_acquire"),
        detach: possible("mark_detached"),
        fault_end: possible("fault_end"),
        bad_area: possible("bad_area"),
        linger: wishes.linger,
    };
    let mut plan = Plan {
        probes: Vec::new(),
        sites: vec![SiteInfo::default(); site::FIRST_DYNAMIC as usize],
        unseen: Vec::new(),
        globals: globals(facts, args.write),
        // A run that is skipped leaves a beginning without an end, or an end without a beginning, which is counted.
        twice: facts.is_preemptible() && wishes.mode == Mode::Stream,
        points: Vec::new(),
        elsewhere: Vec::new(),
    };
    // What is found in the text says which of the rows are needed.
    let stand_in = match found {
        Ok(sites) => points::add(&mut plan, sites, &ways, &seen),
        Err(_) => points::StandIn::unread(&seen, possible("vma_refcount_put")),
    };
    for (row, placed) in rows {
        let needed = wishes.mode.needs(row.operation)
            && match row.program {
                "bad_area" => stand_in.bad_area,
                "area_free" => stand_in.area_free,
                "vma_refcount_put" | "vma_start_read_return" | "vma_start_read_entry" => {
                    found.is_err() && !seen.lockdep
                }
                "lockdep_acquire" | "lockdep_release" => seen.lockdep || wishes.truth,
                "write_start" | "write_acquire" => seen.write || !plan.has_points_of(Kind::VmaWriteAcquire),
                "mark_detached" => seen.detach,
                "task_exit" | "task_exec" | "task_fork" => wishes.has(row.operation),
                "sched_switch" | "sched_waking" | "sched_wakeup" => wishes.has_scheduler(),
                _ => true,
            };
        match placed {
            Placed::At(attach) if needed => plan.add(row, attach, wishes.truth),
            Placed::Unseen(mut why) if needed => {
                // Acquires are then seen inside, but the failure of the whole is not.
                if row.operation == Kind::VmaReadAcquire
                    && plan.has_points_in(Kind::VmaReadAcquire, &why.function)
                {
                    Kind::VmaReadFail.name().clone_into(&mut why.operation);
                }
                plan.unseen.push(why);
            }
            _ => {}
        }
    }
    if stand_in.fault {
        plan.derive_releases();
    }
    plan.tell_unseen(family, found, &seen, &ways);
    plan.pare(wishes.mode);
    let told = plan.has("vma_start_read_return");
    super::lockdep::add(&mut plan, facts, wishes);
    if !plan.add_marks(seen.lockdep, wishes) {
        plan.pare_unwanted(wishes);
    }
    plan.globals.bytes.push(("TWICE", u8::from(plan.twice)));
    plan.globals.bytes.push(("START_READ_SEEN", u8::from(told)));
    Ok(plan)
}

pub(super) fn unseen(operation: Kind, function: &str, reason: &str, remedy: &str) -> UnseenInfo {
    UnseenInfo {
        operation: operation.name().to_owned(),
        function: function.to_owned(),
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
    }
}

/// Where a row goes on this kernel.
enum Placed {
    At(Attach),
    Unseen(UnseenInfo),
    /// Nowhere, and nothing is lost by that.
    Nowhere,
}

fn place(facts: &Facts, ways: &Ways<'_>, row: &Row) -> Placed {
    let target = row.hook.target();
    let refused = |why: &Why| Placed::Unseen(unseen(row.operation, target, &why.reason, &why.remedy));
    match row.hook {
        Hook::Tracepoint(name) => match ways.tp_btf() {
            Ok(()) => Placed::At(Attach::TpBtf(name)),
            Err(why) => refused(why),
        },
        Hook::Lockdep(name) => match ways.lockdep_works() {
            Ok(()) => Placed::At(Attach::Tracepoint("lock", name)),
            Err(why) => refused(why),
        },
        Hook::Entry(_) | Hook::Return(..) => {
            // Functions that only one family has, or that a later kernel inlines, are no loss: what
            // stands in for them has a row of its own, or is found in the text.
            let Some(&(params, _)) = facts.functions.get(target) else {
                return Placed::Nowhere;
            };
            if let Err(why) = ways.fentry() {
                return refused(why);
            }
            if let Hook::Return(_, expected) = row.hook
                && expected != 0
                && params != expected
            {
                return Placed::Unseen(unseen(
                    row.operation,
                    target,
                    &format!("it takes {params} arguments on this kernel, {expected} are known here"),
                    "a newer version of tracer",
                ));
            }
            let listed = |list: &std::collections::BTreeSet<String>| list.contains(target);
            if !facts.traceable.as_ref().is_none_or(listed) {
                return Placed::Unseen(unseen(
                    row.operation,
                    target,
                    "ftrace does not know it (it is marked notrace, or is a copy of an inline function)",
                    "none without another kernel build",
                ));
            }
            Placed::At(if matches!(row.hook, Hook::Entry(_)) {
                Attach::FEntry(target)
            } else {
                Attach::FExit(target)
            })
        }
        Hook::Kprobe(_) | Hook::Kretprobe(_) => match offsets(facts, target) {
            Some(offsets) if ways.kprobe_notrace().is_ok() => {
                Placed::At(if matches!(row.hook, Hook::Kprobe(_)) {
                    Attach::KProbe(offsets)
                } else {
                    Attach::KRetProbe(offsets)
                })
            }
            _ => Placed::Nowhere,
        },
    }
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
        task_mm,
        task_comm,
        task_state,
        task_flags,
        task_iowait,
        task_signal,
        signal_live,
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
            ("OFF_TASK_MM", task_mm),
            ("OFF_TASK_COMM", task_comm),
            ("OFF_TASK_STATE", task_state),
            ("OFF_TASK_FLAGS", task_flags),
            ("OFF_TASK_IOWAIT", task_iowait.map(|(offset, _)| offset)),
            ("OFF_TASK_SIGNAL", task_signal),
            ("OFF_SIGNAL_LIVE", signal_live),
        ]
        .map(|(name, offset)| (name, offset.unwrap_or(absent)))
        .to_vec(),
        bytes: vec![
            ("ARG_WRITE", write),
            ("SEQ_IS_COUNT", u8::from(facts.layout.mm_lock_seq_is_seqcount)),
            ("RET_START_WRITE", ret_start_write),
            ("MASK_TASK_IOWAIT", task_iowait.map_or(0, |(_, mask)| mask)),
            ("EXIT_TELLS_LAST", u8::from(facts.exit_tells_last)),
        ],
        longs: Vec::new(),
    }
}

impl Plan {
    pub(super) fn has(&self, program: &str) -> bool {
        self.probes.iter().any(|probe| probe.program == program)
    }

    fn has_points_of(&self, kind: Kind) -> bool {
        self.points
            .iter()
            .any(|point| self.sites[point.site as usize].operation == kind.name())
    }

    fn has_points_in(&self, kind: Kind, function: &str) -> bool {
        self.points.iter().any(|point| {
            let site = &self.sites[point.site as usize];
            site.operation == kind.name() && site.function == function
        })
    }

    fn add(&mut self, row: &Row, attach: Attach, truth: bool) {
        // Where both exist, the function itself is better than its callers.
        let caller = matches!(row.program, "lock_vma_under_rcu" | "lock_next_vma");
        let operation = if caller && self.has("vma_start_read_return") {
            Kind::VmaReadFail
        } else {
            row.operation
        };
        let reason = match row.hook {
            Hook::Lockdep(_) if truth => {
                "recorded as the truth to judge the others by; nothing is taken from it"
            }
            Hook::Lockdep(_) => "lockdep is told of each get, before its checks, and of each put",
            _ => row.derived.unwrap_or("at the very place"),
        };
        self.sites[row.site as usize] = SiteInfo {
            operation: operation.name().to_owned(),
            function: row.hook.target().to_owned(),
            place: String::new(),
            program: row.program.to_owned(),
            mechanism: row.hook.mechanism().to_owned(),
            provenance: if row.derived.is_some() {
                "derived"
            } else {
                "observed"
            }
            .to_owned(),
            bound_ns: None,
            reason: reason.to_owned(),
            attached: false,
        };
        // A kprobe's handler cannot be preempted, nor what perf calls, nor what runs inside the scheduler.
        let whole = matches!(
            attach,
            Attach::KProbe(_) | Attach::KRetProbe(_) | Attach::Tracepoint(..)
        ) || matches!(row.site, site::SCHED_SWITCH | site::SCHED_WAKE);
        let again = (self.twice && !whole).then(|| format!("{}_again", row.program));
        self.probes.push(Planned {
            program: row.program,
            attach,
            site: row.site,
            again,
        });
    }

    /// Tells the programs whether to mark the tasks that hold or await a lock, and for how long. Tells whether they do.
    fn add_marks(&mut self, by_lockdep: bool, wishes: &Wishes) -> bool {
        let stacks = wishes
            .stacks_from_ns
            .filter(|_| wishes.has(Kind::Stack) || self.has("sched_switch"));
        if stacks.is_some() {
            self.sites[site::STACK as usize] = SiteInfo {
                operation: Kind::Stack.name().to_owned(),
                function: "bpf_get_stack".to_owned(),
                place: String::new(),
                program: String::new(),
                mechanism: "helper".to_owned(),
                provenance: "observed".to_owned(),
                bound_ns: None,
                reason: "after what ends a long wait or hold, where the task is then".to_owned(),
                attached: true,
            };
        }
        let marks = self.has("sched_switch") || stacks.is_some();
        self.globals.bytes.extend([
            ("MARKS", u8::from(marks)),
            ("MARKS_BY_LOCKDEP", u8::from(by_lockdep)),
        ]);
        self.globals
            .longs
            .push(("STACKS_FROM_NS", stacks.unwrap_or(u64::MAX)));
        marks
    }

    /// Releases that no probe sees at their own place are taken from the end of the fault.
    fn derive_releases(&mut self) {
        if !self.has("fault_end") {
            return;
        }
        self.sites[site::USER as usize] = SiteInfo {
            operation: Kind::VmaReadRelease.name().to_owned(),
            function: "do_user_addr_fault".to_owned(),
            place: String::new(),
            program: String::new(),
            mechanism: "derived".to_owned(),
            provenance: "derived".to_owned(),
            bound_ns: Some(FAULT_RELEASE_BOUND_NS),
            reason: "no probe may be there (NOKPROBE): the lock is given back some instructions after \
                     handle_mm_fault returned; if the task is interrupted there, before its next event at the latest"
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
            self.unseen.push(points::fault_end_unseen());
        }
    }

    fn tell_unseen(&mut self, family: Family, found: &Found, seen: &Seen, ways: &Ways<'_>) {
        if let Err(error) = found {
            // Without kprobes it would be of little use to know where.
            let refused = ways.at(Kprobe::Yes).err();
            let remedy = refused
                .as_ref()
                .map_or_else(|| unread_remedy(error), |why| why.remedy.as_str());
            let mut tell = |operation, function, what: &str| {
                let reason = format!("{what}; where, is not known: {error}");
                self.unseen.push(unseen(operation, function, &reason, remedy));
            };
            if !seen.lockdep {
                tell(
                    Kind::VmaReadRelease,
                    "userfaultfd, madvise, /proc/PID/maps, TCP zerocopy receive, drivers",
                    "the release is inlined into these users of the lock",
                );
            }
            tell(
                Kind::VmaReadAcquire,
                "vma_start_read_locked",
                "it is inlined into userfaultfd, which takes it under mmap_lock when the lock-free look-up failed",
            );
            tell(
                Kind::VmaReadRefused,
                "vma_start_read",
                "it is inlined: a failed look-up is seen, but not which VMA refused it, nor why",
            );
            if family == Family::Rwsem {
                tell(
                    Kind::VmaWriteAcquire,
                    "vma_start_write",
                    "it is inlined, and so is its wait",
                );
            }
        }
        let writes = self.has("write_acquire")
            || self.has_points_of(Kind::VmaWriteAcquire)
            || self
                .unseen
                .iter()
                .any(|known| known.operation == Kind::VmaWriteAcquire.name());
        if !writes {
            self.unseen.push(unseen(
                Kind::VmaWriteAcquire,
                "__vma_start_write",
                "this kernel has no such function with a type",
                "none without another kernel build",
            ));
        }
        if !seen.rcu_return
            && !self
                .unseen
                .iter()
                .any(|known| known.function == "lock_vma_under_rcu")
        {
            self.unseen.push(unseen(
                Kind::VmaReadAcquire,
                "lock_vma_under_rcu",
                "this kernel has no such function that could be attached to",
                "a kernel built with CONFIG_PER_VMA_LOCK and CONFIG_FUNCTION_TRACER",
            ));
        }
    }
}

/// What helps when the text could not be searched.
fn unread_remedy(error: &str) -> &'static str {
    for (word, remedy) in [
        (
            "hides the addresses",
            "sysctl kernel.kptr_restrict=1, and CAP_SYSLOG",
        ),
        (
            "build id",
            "--kernel-text with the image of the kernel that runs (/boot/vmlinuz-RELEASE)",
        ),
        (
            "do not belong together",
            "--kernel-text with the image of the kernel that runs (/boot/vmlinuz-RELEASE)",
        ),
        (
            "lockdown",
            "--kernel-text /boot/vmlinuz-RELEASE, or boot with lockdown=none",
        ),
        (
            "no such file",
            "a kernel with CONFIG_PROC_KCORE, or --kernel-text /boot/vmlinuz-RELEASE",
        ),
    ] {
        if error.contains(word) {
            return remedy;
        }
    }
    "--kernel-text /boot/vmlinuz-RELEASE; `tracer sites` tells more"
}
