//! What is known about a stream of events before its first one: kernel, plan, coverage, clocks.
//!
//! Live, replay and sim all hand one [`SourceInfo`] to everything downstream, and a recording
//! starts with it as JSON. Fields are only added; readers ignore what they do not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tracer_common::wire::Provenance;

use crate::outside;

/// Everything that a reader needs in order to judge the events that follow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceInfo {
    /// Version of the program that made the events.
    pub tracer_version: String,
    /// `live` or `sim`.
    pub source: String,
    /// The kernel that was watched.
    pub kernel: KernelInfo,
    /// Host name.
    pub host: String,
    /// Arguments of the program that made the events.
    pub command: Vec<String>,
    /// CPUs that can produce events, numbered from 0.
    pub cpus: u32,
    /// Process ID of the tracer itself, so that its own activity can be told apart.
    pub self_pid: u32,
    /// `CLOCK_MONOTONIC` at the start, in nanoseconds: the clock of all events.
    pub start_monotonic_ns: u64,
    /// `CLOCK_REALTIME` at the same instant, in nanoseconds since 1970.
    pub start_realtime_ns: u64,
    /// What is known of these two readings and of the clock on the wall; recordings have more of them later on.
    pub anchor: Option<Anchor>,
    /// Which run of the kernel it was: recordings with the same one share `CLOCK_MONOTONIC`. Empty: not known.
    pub boot_id: String,
    /// Version of the wire format of the events (`abi` in their headers).
    pub wire_version: u8,
    /// Version of the recording's format; 0 for what is no recording.
    pub format_version: u32,
    /// What was done to the recording since it was made, such as cutting; the latest last.
    pub history: Vec<String>,
    /// The recordings that this one was merged from; empty: it was not merged.
    pub parts: Vec<PartInfo>,
    /// Filters that ran in the kernel, as the user wrote them; empty: everything was recorded.
    pub filters: Vec<String>,
    /// Whether the tracer's own process was left out in the kernel.
    pub self_excluded: bool,
    /// Size of the ring buffer in bytes.
    pub ring_bytes: u64,
    /// The places that events come from; `Header::site` is an index into this table.
    pub sites: Vec<SiteInfo>,
    /// Operations that cannot be seen on this kernel, and why.
    pub unseen: Vec<UnseenInfo>,
    /// Mechanisms that the user left out of the plan (`--without`).
    pub without: Vec<String>,
    /// Whether events of lockdep are there beside the others as the truth to judge them by.
    pub truth: bool,
    /// Key of the hash that hides kernel addresses in exports, 32 hexadecimal digits; empty: there is none. Whoever has
    /// it has the addresses as well.
    pub address_key: String,
    /// In a recording that begins in the middle: by CPU, the number of its first event. Empty: all begin with 0.
    pub first_numbers: Vec<u32>,
    /// Why and how a flight recorder wrote this; `None`: it did not.
    pub flight: Option<Flight>,
}

impl SourceInfo {
    /// All of it, with every text harmless: for whoever shows it. What is written to a recording stays as it was found.
    pub fn shown(&self) -> Self {
        let mut shown = self.clone();
        // By name, so that nobody adds a text and forgets it here.
        let Self {
            tracer_version,
            source,
            kernel,
            host,
            command,
            cpus: _,
            self_pid: _,
            start_monotonic_ns: _,
            start_realtime_ns: _,
            anchor: _,
            boot_id,
            wire_version: _,
            format_version: _,
            history,
            parts,
            filters,
            self_excluded: _,
            ring_bytes: _,
            sites,
            unseen,
            without,
            truth: _,
            address_key: _,
            first_numbers: _,
            flight,
        } = &mut shown;
        let KernelInfo {
            release,
            version,
            machine,
            family: _,
            layout: _,
        } = kernel;
        for text in [tracer_version, source, host, boot_id, release, version, machine] {
            outside::clean(text);
        }
        for text in [command, history, filters, without].into_iter().flatten() {
            outside::clean(text);
        }
        for part in parts {
            for text in [
                &mut part.file,
                &mut part.host,
                &mut part.boot_id,
                &mut part.release,
            ] {
                outside::clean(text);
            }
        }
        for site in sites {
            let SiteInfo {
                operation,
                function,
                place,
                program,
                mechanism,
                provenance,
                bound_ns: _,
                reason,
                attached: _,
            } = site;
            for text in [operation, function, place, program, mechanism, provenance, reason] {
                outside::clean(text);
            }
        }
        for one in unseen {
            for text in [
                &mut one.operation,
                &mut one.function,
                &mut one.reason,
                &mut one.remedy,
            ] {
                outside::clean(text);
            }
        }
        if let Some(Flight { fired, .. }) = flight {
            for text in [
                &mut fired.trigger,
                &mut fired.comm,
                &mut fired.lock,
                &mut fired.what,
            ] {
                outside::clean(text);
            }
        }
        shown
    }
}

/// What a flight recorder says of a recording that it wrote.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flight {
    /// The reason.
    pub fired: Fired,
    /// How much from before that is there, in nanoseconds.
    pub before_ns: u64,
    /// Whether that is less than was asked for, since memory for events was short.
    pub cut_short: bool,
}

/// Why a flight recorder wrote a recording: what came true, and whose doing it was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fired {
    /// The trigger as the user wrote it.
    pub trigger: String,
    /// When, `CLOCK_MONOTONIC` in nanoseconds.
    pub ts_ns: u64,
    /// Process; 0: it is nobody's doing.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Its command name, with what is no plain text escaped.
    pub comm: String,
    /// Which lock, if it is about a wait or a hold.
    pub lock: String,
    /// How long that had lasted by then, in nanoseconds.
    pub length_ns: u64,
    /// Whether it still went on.
    pub ongoing: bool,
    /// All of this in a sentence.
    pub what: String,
}

/// The watched kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct KernelInfo {
    /// As `uname -r` has it.
    pub release: String,
    /// As `uname -v` has it.
    pub version: String,
    /// As `uname -m` has it.
    pub machine: String,
    /// Which form of the per-VMA lock it has.
    pub family: Family,
    /// Offsets in bytes, by BTF, of the fields that the probes read; a truth about the layout is 0 or 1.
    pub layout: BTreeMap<String, u32>,
}

/// What two clocks said at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Anchor {
    /// `CLOCK_MONOTONIC` in nanoseconds: the clock of all events.
    pub monotonic_ns: u64,
    /// `CLOCK_REALTIME` in nanoseconds since 1970.
    pub realtime_ns: u64,
    /// How far apart the two readings may be, in nanoseconds.
    pub read_error_ns: u64,
    /// How far the clock on the wall may be from true time, in nanoseconds, by the kernel's own account
    /// (`adjtimex`, `maxerror`); `None`: nothing keeps it in step, or the kernel does not tell.
    pub realtime_error_ns: Option<u64>,
}

/// One of the recordings that another one was merged from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PartInfo {
    /// Its file.
    pub file: String,
    /// Its host name.
    pub host: String,
    /// Its run of the kernel.
    pub boot_id: String,
    /// Its kernel, as `uname -r` has it.
    pub release: String,
    /// Its CPU 0 has this number here, the others follow.
    pub first_cpu: u32,
    /// How many CPUs it has.
    pub cpus: u32,
    /// What was added to its process and thread IDs, so that those of several hosts stay apart.
    pub pid_base: u32,
    /// What its kernel addresses were changed by (exclusive or), likewise.
    pub address_mask: u64,
    /// What was added to the numbers of its sites that are single instructions; the others have the same numbers
    /// everywhere.
    pub first_site: u32,
    /// What was added to its times, in nanoseconds.
    pub shift_ns: i64,
    /// How far from true that may be, in nanoseconds, against the first part; `None`: nothing tells.
    pub uncertainty_ns: Option<u64>,
}

/// The forms that the per-VMA lock has had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// `vma->vm_refcnt`, Linux 6.15 and later.
    #[default]
    Refcount,
    /// `vma->vm_lock->lock`, a `rw_semaphore`, Linux 6.4 to 6.14.
    Rwsem,
}

/// One place in the kernel that events come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SiteInfo {
    /// What is seen here: the name of a kind of event, such as `vma_read_acquire`.
    pub operation: String,
    /// The kernel function or tracepoint.
    pub function: String,
    /// Where in it, for a single instruction: symbol and distance, such as `proc_get_vma+0x1c4`.
    pub place: String,
    /// The program that runs here.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub program: String,
    /// How it is attached: `tp_btf`, `fentry`, `fexit`, `kprobe`, `kretprobe`, ….
    pub mechanism: String,
    /// How surely its facts are known: `observed`, `derived`, `bounded`, `unknown`.
    pub provenance: String,
    /// Largest error of the time of its events, in nanoseconds, where it is known.
    pub bound_ns: Option<u64>,
    /// Why this mechanism, in a sentence.
    pub reason: String,
    /// Whether it is attached; if not, `reason` says why.
    pub attached: bool,
}

impl SourceInfo {
    /// Whether no filter takes apart what one task does with one lock: else what looks wrong was only left out.
    pub fn has_all_kinds(&self) -> bool {
        let takes_apart = |filter: &String| {
            ["only ", "addr ", "min-hold ", "min-wait "]
                .iter()
                .any(|name| filter.trim_start_matches("--").starts_with(name))
        };
        !self.filters.iter().any(takes_apart)
    }
}

impl SiteInfo {
    /// The provenance as a value; what is not understood is unknown.
    pub fn provenance(&self) -> Provenance {
        match self.provenance.as_str() {
            "observed" => Provenance::Observed,
            "derived" => Provenance::Derived,
            "bounded" => Provenance::Bounded,
            _ => Provenance::Unknown,
        }
    }
}

/// An operation, or one place of it, that cannot be seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnseenInfo {
    /// The operation, as the name of its kind of event.
    pub operation: String,
    /// Where it happens.
    pub function: String,
    /// Why it is not seen.
    pub reason: String,
    /// What would change that.
    pub remedy: String,
}

/// Losses that a source knows of, cumulative since its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Losses {
    /// By CPU: events produced, dropped and received.
    pub cpus: Vec<CpuLosses>,
    /// Runs of a probe that the kernel skipped because the probe was already running on that CPU.
    pub missed: u64,
    /// Times that a task's mark was taken over by another one: its way off its CPU may have gone unreported.
    pub marks: u64,
    /// Stacks of the kernel or a program that the kernel did not give.
    pub stacks: u64,
    /// Events that were kept since too many waited to be known for long or short ones, with `--min-hold` or `--min-wait`.
    #[serde(skip_serializing_if = "is_zero")]
    pub crowded: u64,
    /// Beginnings and ends that did not find each other in the kernel, with `--mode holds`, by why, as far as there are any;
    /// see docs/modes.md.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unpaired: BTreeMap<String, u64>,
    /// Events that found the ring buffer full, by the site that they come from, as far as any did.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped_at: BTreeMap<u32, u64>,
    /// What the probes cost meanwhile, where that was measured.
    #[serde(skip_serializing_if = "ProbeCosts::is_empty")]
    pub costs: ProbeCosts,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What the probes cost, as the kernel measured it for a part of the time. On the measured kernel itself a run is some
/// tens of nanoseconds longer while it is measured; what leads to the program, such as a trap, is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeCosts {
    /// For how long the kernel measured, in nanoseconds.
    pub measured_ns: u64,
    /// Share of one CPU that all programs together took in the latest measurement, in millionths.
    pub latest_ppm: u64,
    /// By program, those that ran while it measured.
    pub programs: Vec<ProgramCost>,
}

/// What one program cost while the kernel measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgramCost {
    /// Its name.
    pub program: String,
    /// How often it ran.
    pub runs: u64,
    /// How long, in nanoseconds.
    pub ns: u64,
}

impl ProbeCosts {
    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.measured_ns == 0
    }

    /// Share of one CPU that all programs together took, in millionths.
    pub fn ppm(&self) -> u64 {
        let ns: u64 = self.programs.iter().map(|program| program.ns).sum();
        self.share_ppm(ns)
    }

    /// Share of one CPU that so many nanoseconds are of the time that was measured, in millionths.
    pub fn share_ppm(&self, ns: u64) -> u64 {
        let ppm = u128::from(ns) * 1_000_000 / u128::from(self.measured_ns.max(1));
        u64::try_from(ppm).unwrap_or(u64::MAX)
    }

    /// The cost of a program, if it ran.
    pub fn of(&self, program: &str) -> Option<&ProgramCost> {
        self.programs.iter().find(|cost| cost.program == program)
    }
}

impl ProgramCost {
    /// Of one run, in nanoseconds.
    pub fn ns_a_run(&self) -> u64 {
        self.ns / self.runs.max(1)
    }
}

/// Losses on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuLosses {
    /// Events that passed the filters.
    pub produced: u64,
    /// Events that found the ring buffer full.
    pub dropped: u64,
    /// Events that arrived here.
    pub received: u64,
}

impl Losses {
    /// Events that found the ring buffer full, on all CPUs.
    pub fn dropped(&self) -> u64 {
        self.cpus.iter().map(|cpu| cpu.dropped).sum()
    }
}
