//! `tracer stats`: what happened, as one report for people and for programs.
//!
//! [`Report`] is the documented JSON (`docs/schema/stats.md`); [`render`] makes the tables from it,
//! so that both say the same.

mod chains;
mod collect;
mod fault_groups;
mod groups;
mod probes;
mod render;

pub(super) use collect::site;

use std::collections::BTreeMap;

use serde::Serialize;
use tracer_common::wire::Reason;

use crate::check::accounting::Accounting;
use crate::contention::Contention;
use crate::info::{Flight, Losses, SourceInfo, UnseenInfo};
use crate::order::Order;
use crate::outside;
use crate::sink::address::Addresses;
use crate::stacks::Stacks;
use crate::state::{ByReason, Durations, Engine, Faults, Histogram, Lock, TaskCounters};

pub use chains::ChainsReport;
pub use fault_groups::FaultGroupsReport;
pub use groups::GroupsReport;
pub use probes::{ProbesReport, ProgramReport};
pub use render::{Section, Style, render};

/// Name and version of the JSON.
pub const SCHEMA: &str = "tracer.stats.v1";

/// What a report is made from.
pub struct Inputs<'a> {
    /// What is known of the stream.
    pub info: &'a SourceInfo,
    /// After the last event.
    pub engine: &'a Engine,
    /// After its `finish`.
    pub order: &'a Order,
    /// After its `finish`; without it nothing is said of it.
    pub accounting: Option<&'a Accounting>,
    /// After its `finish`; without it nothing is said of it.
    pub contention: Option<&'a Contention>,
    /// Those that events have numbers of.
    pub stacks: &'a Stacks,
    /// At the end.
    pub losses: &'a Losses,
    /// Whether the stream came to its end on purpose.
    pub complete: bool,
    /// What the reader should know, such as that a recording is cut.
    pub warnings: Vec<String>,
    /// How to show addresses.
    pub addresses: &'a Addresses,
}

/// Everything that `stats --json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// `live`, `sim`, or what a recording was made from.
    pub source: String,
    /// Version of the program that made the events.
    pub tracer_version: String,
    /// The kernel that was watched.
    pub kernel: Kernel,
    /// Whether the stream came to its end on purpose.
    pub complete: bool,
    /// Why a flight recorder wrote it, if one did.
    pub flight: Option<Flight>,
    /// What the reader should know.
    pub warnings: Vec<String>,
    /// Filters that ran in the kernel.
    pub filters: Vec<String>,
    /// When the source began (`CLOCK_MONOTONIC`).
    pub start_ns: u64,
    /// From the start of the source to the last event.
    pub duration_ns: u64,
    /// Counts of events and losses.
    pub events: Events,
    /// The same by CPU.
    pub cpus: Vec<CpuReport>,
    /// Page faults of all tasks.
    pub faults: FaultReport,
    /// The same from user mode only: one for each page touched.
    pub user_faults: FaultReport,
    /// What `/proc/vmstat` should have counted meanwhile, where it counts.
    pub vmstat: Vmstat,
    /// Whether what was taken was given back, by lock.
    pub balance: BTreeMap<&'static str, BalanceReport>,
    /// How surely is known what was taken, given back and held, by lock.
    pub provenance: BTreeMap<&'static str, SuretyReport>,
    /// Why VMAs were not read-locked, by reason, those that occurred.
    pub read_failures: BTreeMap<&'static str, FailureReport>,
    /// Waits by lock.
    pub waits: BTreeMap<&'static str, Distribution>,
    /// Holds by lock.
    pub holds: BTreeMap<&'static str, Distribution>,
    /// Tasks, the most active first.
    pub tasks: Vec<TaskReport>,
    /// Address spaces, the most active first.
    pub mms: Vec<MmReport>,
    /// VMAs in sum.
    pub vmas: VmaReport,
    /// Names that were seen to be used a second time: what was known by them was dropped then.
    pub reused: ReusedReport,
    /// What the tracer itself did; part of the above.
    #[serde(rename = "self")]
    pub own: CountersReport,
    /// What the probes cost while the kernel measured it; `null` where it was not measured.
    pub probes: Option<ProbesReport>,
    /// Operations that this kernel does not show.
    pub unseen: Vec<UnseenInfo>,
    /// What should not be.
    pub anomalies: Anomalies,
    /// Whether every observed `vm_refcnt` is what is known of its VMA; `null` where readers are not counted.
    pub accounting: Option<AccountingReport>,
    /// Waits and holds in groups, who was in whose way, why faults took the `mmap_lock`; `null` if it was not asked for.
    pub contention: Option<ContentionReport>,
    /// What had to be forgotten to stay within bounds.
    pub aged: AgedReport,
}

/// Statistics of contention.
#[derive(Clone, Debug, Serialize)]
pub struct ContentionReport {
    /// Waits and holds in groups.
    pub groups: GroupsReport,
    /// Who was in whose way.
    pub chains: ChainsReport,
    /// Faults by process and VMA.
    pub faults: FaultGroupsReport,
}

impl ContentionReport {
    fn new(inputs: &Inputs<'_>) -> Option<Self> {
        let contention = inputs.contention?;
        let names = groups::Names {
            addresses: inputs.addresses,
            info: inputs.info,
            stacks: inputs.stacks,
        };
        let now_ns = inputs.engine.now_ns();
        let duration_ns = now_ns.saturating_sub(inputs.info.start_monotonic_ns);
        Some(Self {
            groups: GroupsReport::new(names, contention),
            chains: ChainsReport::new(names, contention, now_ns),
            faults: FaultGroupsReport::new(names, contention, duration_ns),
        })
    }
}

/// The watched kernel.
#[derive(Clone, Debug, Serialize)]
pub struct Kernel {
    /// As `uname -r` has it.
    pub release: String,
    /// As `uname -v` has it.
    pub version: String,
    /// As `uname -m` has it.
    pub machine: String,
    /// Form of the per-VMA lock.
    pub family: crate::info::Family,
}

/// Counts of events: `total = received + derived + gaps`, and `total` is the sum of `by_kind`.
#[derive(Clone, Debug, Serialize)]
pub struct Events {
    /// All.
    pub total: u64,
    /// From the kernel.
    pub received: u64,
    /// Made by the engine.
    pub derived: u64,
    /// Gaps.
    pub gaps: u64,
    /// Events known to be missing by the numbering.
    pub missing: u64,
    /// Events that found the ring buffer full, by the kernel's own count.
    pub dropped: u64,
    /// The same by the place that they come from, the most first.
    pub dropped_at: Vec<DroppedAt>,
    /// Runs of probes that the kernel skipped.
    pub missed: u64,
    /// Beginnings and ends that did not find each other in the kernel, with `--mode holds`, by why, those that occurred.
    pub unpaired: BTreeMap<String, u64>,
    /// Events that came out of order, late or twice, or are of unknown kinds.
    pub odd: Odd,
    /// By kind, all kinds.
    pub by_kind: BTreeMap<&'static str, u64>,
    /// By how surely they are known.
    pub by_provenance: BTreeMap<&'static str, u64>,
}

/// Events of one place that found the ring buffer full.
#[derive(Clone, Debug, Serialize)]
pub struct DroppedAt {
    /// What they tell of.
    pub operation: String,
    /// Where.
    pub place: String,
    /// How many.
    pub dropped: u64,
}

/// Events that are not as they should be.
#[derive(Clone, Debug, Serialize)]
pub struct Odd {
    /// After later ones had been handed on.
    pub disordered: u64,
    /// After they had been declared missing.
    pub late: u64,
    /// Twice.
    pub duplicates: u64,
    /// Of unknown kinds.
    pub unknown_kinds: u64,
}

/// One CPU: `produced = received + dropped` if nothing is wrong.
#[derive(Clone, Debug, Serialize)]
pub struct CpuReport {
    /// Its number.
    pub cpu: usize,
    /// By the kernel's own count.
    pub produced: u64,
    /// Counted here.
    pub received: u64,
    /// By the kernel's own count.
    pub dropped: u64,
    /// By the numbering.
    pub missing: u64,
    /// Whether the equation holds.
    pub balanced: bool,
}

/// Logical faults by how they ended.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct FaultReport {
    /// Completed ones: the sum of the next four.
    pub total: u64,
    /// Done under the VMA lock.
    pub vma_lock: u64,
    /// Sent back under the VMA lock, then done under the `mmap_lock`.
    pub retried: u64,
    /// Done under the `mmap_lock` from the start.
    pub mmap_lock: u64,
    /// Ended in an error.
    pub error: u64,
    /// Sent back and not come again.
    pub abandoned: u64,
}

impl From<Faults> for FaultReport {
    fn from(faults: Faults) -> Self {
        Self {
            total: faults.total(),
            vma_lock: faults.vma_lock,
            retried: faults.retried,
            mmap_lock: faults.mmap_lock,
            error: faults.error,
            abandoned: faults.abandoned,
        }
    }
}

/// The counters of `CONFIG_PER_VMA_LOCK_STATS`, from events.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Vmstat {
    /// Rounds of faults under the VMA lock that ended without RETRY.
    pub vma_lock_success: u64,
    /// Rounds of faults under the VMA lock that ended with RETRY.
    pub vma_lock_retry: u64,
    /// Failed look-ups.
    pub vma_lock_abort: u64,
    /// Look-ups that met a detached VMA, where that is seen.
    pub vma_lock_miss: u64,
}

/// `acquires + unknown_starts + converted_in = releases + converted_out + lost + held`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BalanceReport {
    /// Seen to be taken.
    pub acquires: u64,
    /// Held without their start having been seen.
    pub unknown_starts: u64,
    /// Became one of these by a downgrade.
    pub converted_in: u64,
    /// Given back.
    pub releases: u64,
    /// Became another by a downgrade.
    pub converted_out: u64,
    /// Gone, nobody knows when.
    pub lost: u64,
    /// Held at the end.
    pub held: u64,
    /// Whether the equation holds.
    pub balanced: bool,
}

/// Counts by how surely it is known: `observed derived bounded unknown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Surety {
    /// Seen at the very place.
    pub observed: u64,
    /// Follows from another event.
    pub derived: u64,
    /// Lies between two times.
    pub bounded: u64,
    /// Not known.
    pub unknown: u64,
}

impl From<[u64; 4]> for Surety {
    fn from([observed, derived, bounded, unknown]: [u64; 4]) -> Self {
        Self {
            observed,
            derived,
            bounded,
            unknown,
        }
    }
}

/// How surely is known what happened to one kind of lock.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SuretyReport {
    /// In sum `balance.LOCK.acquires`.
    pub acquires: Surety,
    /// In sum `balance.LOCK.releases`.
    pub releases: Surety,
    /// Each by the less sure one of its two ends; in sum `holds.LOCK.count + unknown`.
    pub holds: Surety,
}

/// One reason why VMAs were not read-locked.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FailureReport {
    /// Look-ups that failed, for the reason of their last try.
    pub failed: u64,
    /// Tries at one VMA that were refused; a look-up may make several.
    pub refused: u64,
    /// Tries that raised the count and had to take it back.
    pub temporary: u64,
}

/// Durations in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Distribution {
    /// How many have a known length.
    pub count: u64,
    /// How many have not.
    pub unknown: u64,
    /// Sum.
    pub total_ns: u64,
    /// Longest, exact.
    pub max_ns: u64,
    /// Half of all do not exceed this; percentiles are rounded up by at most 1/16.
    pub p50_ns: u64,
    /// 90 of 100.
    pub p90_ns: u64,
    /// 99 of 100.
    pub p99_ns: u64,
    /// 999 of 1000.
    pub p999_ns: u64,
}

impl Distribution {
    fn new(histogram: &Histogram, unknown: u64) -> Self {
        Self {
            count: histogram.count(),
            unknown,
            total_ns: histogram.total_ns(),
            max_ns: histogram.max_ns(),
            p50_ns: histogram.percentile(50.0),
            p90_ns: histogram.percentile(90.0),
            p99_ns: histogram.percentile(99.0),
            p999_ns: histogram.percentile(99.9),
        }
    }
}

/// Count, sum and maximum of durations.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Sums {
    /// How many.
    pub count: u64,
    /// Sum in nanoseconds.
    pub total_ns: u64,
    /// Longest in nanoseconds.
    pub max_ns: u64,
}

impl From<Durations> for Sums {
    fn from(durations: Durations) -> Self {
        Self {
            count: durations.count,
            total_ns: durations.total_ns,
            max_ns: durations.max_ns,
        }
    }
}

/// What one task or several did.
#[derive(Clone, Debug, Serialize)]
pub struct CountersReport {
    /// Events, derived ones not counted.
    pub events: u64,
    /// Times that each lock was taken.
    pub acquires: BTreeMap<&'static str, u64>,
    /// VMA read locks wanted and not got.
    pub vma_read_fails: u64,
    /// The same by reason, those that occurred.
    pub vma_read_fails_by_reason: BTreeMap<&'static str, u64>,
    /// Tries at one VMA that were refused; the look-up may have gone on.
    pub vma_read_refused: u64,
    /// VMAs whose count it raised and had to take back.
    pub temporary_reads: u64,
    /// Tries for the `mmap_lock` that failed.
    pub mmap_fails: u64,
    /// Page faults.
    pub faults: FaultReport,
    /// The same from user mode only.
    pub user_faults: FaultReport,
    /// Waits by lock.
    pub waits: BTreeMap<&'static str, Sums>,
    /// Holds by lock.
    pub holds: BTreeMap<&'static str, Sums>,
}

impl CountersReport {
    fn new(counters: &TaskCounters) -> Self {
        let by_lock = |durations: &[Durations; 4]| {
            Lock::ALL
                .iter()
                .map(|&lock| (lock.name(), Sums::from(durations[lock as usize])))
                .collect()
        };
        Self {
            events: counters.events,
            acquires: by_lock_name(&counters.acquires),
            vma_read_fails: counters.read_fails,
            vma_read_fails_by_reason: by_reason(&counters.fails),
            vma_read_refused: counters.refused,
            temporary_reads: counters.temporary_reads,
            mmap_fails: counters.mmap_fails,
            faults: counters.faults().into(),
            user_faults: counters.user_faults.into(),
            waits: by_lock(&counters.waits),
            holds: by_lock(&counters.holds),
        }
    }
}

fn by_reason(counts: &ByReason) -> BTreeMap<&'static str, u64> {
    Reason::ALL
        .iter()
        .map(|&reason| (reason.name(), counts[reason as usize]))
        .filter(|&(_, count)| count > 0)
        .collect()
}

fn by_lock_name(counts: &[u64; 4]) -> BTreeMap<&'static str, u64> {
    Lock::ALL
        .iter()
        .map(|&lock| (lock.name(), counts[lock as usize]))
        .collect()
}

/// One task.
#[derive(Clone, Debug, Serialize)]
pub struct TaskReport {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Command name, control characters escaped.
    pub comm: String,
    /// Whether it is the tracer's own.
    pub is_self: bool,
    /// What it did.
    #[serde(flatten)]
    pub counters: CountersReport,
    /// What it held at the end.
    pub held: Vec<HoldReport>,
    /// What it waited for at the end.
    pub wait: Option<WaitReport>,
}

/// One lock that is held.
#[derive(Clone, Debug, Serialize)]
pub struct HoldReport {
    /// Which way.
    pub lock: &'static str,
    /// How surely.
    pub certainty: &'static str,
    /// Since when (`CLOCK_MONOTONIC`); `null` if its start was not seen.
    pub since_ns: Option<u64>,
    /// How surely `since_ns` is known.
    pub since_provenance: &'static str,
    /// It began at most so far from `since_ns`.
    pub since_bound_ns: Option<u64>,
    /// Address space, as its name in this report.
    pub mm: Option<String>,
    /// VMA, as its name in this report.
    pub vma: Option<String>,
    /// First address of the VMA.
    pub vm_start: Option<u64>,
    /// First address after it.
    pub vm_end: Option<u64>,
}

/// One lock that is waited for.
#[derive(Clone, Debug, Serialize)]
pub struct WaitReport {
    /// Which way.
    pub lock: &'static str,
    /// How surely.
    pub certainty: &'static str,
    /// Since when (`CLOCK_MONOTONIC`).
    pub since_ns: u64,
    /// Address space, as its name in this report.
    pub mm: Option<String>,
    /// VMA, as its name in this report.
    pub vma: Option<String>,
}

/// One address space.
#[derive(Clone, Debug, Serialize)]
pub struct MmReport {
    /// Its name in this report.
    pub mm: String,
    /// The process that was first seen with it.
    pub pid: u32,
    /// `mm_lock_seq` as last seen.
    pub mm_lock_seq: Option<u32>,
    /// Times that each lock of it was taken.
    pub acquires: BTreeMap<&'static str, u64>,
    /// Thread that holds the `mmap_lock` for writing.
    pub writer: Option<u32>,
    /// Threads that hold it for reading.
    pub readers: Vec<u32>,
    /// Threads that wait for it.
    pub waiters: Vec<u32>,
    /// VMAs that are write-locked.
    pub vmas_write_locked: u64,
}

/// Names that were seen to be used a second time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ReusedReport {
    /// Times that the memory of a VMA was another one's.
    pub vmas: u64,
    /// Times that the memory of an address space was another one's.
    pub mms: u64,
    /// Times that the number of a thread was another process's.
    pub tids: u64,
}

/// VMAs in sum.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VmaReport {
    /// Remembered at the end.
    pub known: u64,
    /// Of these, detached ones.
    pub detached: u64,
    /// Of these, read-locked ones.
    pub read_locked: u64,
    /// Of these, write-locked ones.
    pub write_locked: u64,
    /// Of these, with a writer that waits for readers.
    pub awaited: u64,
    /// Times that the memory of one was seen to be another's.
    pub recycled: u64,
    /// Readers who backed out before they had the lock.
    pub temporary_reads: u64,
    /// The VMAs with the most of them.
    pub most_temporary: Vec<TemporaryReport>,
}

/// A VMA whose count was raised for nothing.
#[derive(Clone, Debug, Serialize)]
pub struct TemporaryReport {
    /// Its name in this report.
    pub vma: Option<String>,
    /// How often.
    pub temporary_reads: u64,
}

/// How many of [`VmaReport::most_temporary`] are listed.
const MOST_TEMPORARY: usize = 10;

/// What should not be.
#[derive(Clone, Debug, Serialize)]
pub struct Anomalies {
    /// All.
    pub total: u64,
    /// Read locks that were found gone although all releases should be seen.
    pub coverage_holes: u64,
    /// Releases that were seen a second time, at another place.
    pub echoes: u64,
    /// By kind, those that occurred.
    pub by_kind: BTreeMap<&'static str, u64>,
    /// The first ones.
    pub first: Vec<AnomalyReport>,
}

/// One thing that should not be.
#[derive(Clone, Debug, Serialize)]
pub struct AnomalyReport {
    /// What.
    pub anomaly: &'static str,
    /// When (`CLOCK_MONOTONIC`).
    pub ts_ns: u64,
    /// The event at which it showed.
    pub kind: &'static str,
    /// CPU.
    pub cpu: u16,
    /// The event's number on its CPU.
    pub seq: u32,
    /// Thread.
    pub tid: u32,
    /// The other thread in it.
    pub other_tid: Option<u32>,
    /// Command name.
    pub comm: String,
    /// Address space.
    pub mm: Option<String>,
    /// VMA.
    pub vma: Option<String>,
    /// The kernel function or tracepoint of the event.
    pub site: Option<String>,
    /// Since when it was held, if it is about a hold and that is known.
    pub held_since_ns: Option<u64>,
}

/// Observed counts: `checked = closed + open`.
#[derive(Clone, Debug, Serialize)]
pub struct AccountingReport {
    /// All.
    pub checked: u64,
    /// Equal to what is known, within what concurrency allows: the sum of the next two.
    pub closed: u64,
    /// Equal to what was known at that moment.
    pub closed_exact: u64,
    /// Explained by operations in flight.
    pub closed_concurrent: u64,
    /// Neither.
    pub open: u64,
    /// Why, those that occurred.
    pub open_by_reason: BTreeMap<&'static str, u64>,
    /// The first open ones.
    pub first: Vec<OpenCaseReport>,
}

/// One count that is not accounted for.
#[derive(Clone, Debug, Serialize)]
pub struct OpenCaseReport {
    /// Why.
    pub reason: &'static str,
    /// When it was read at the latest (`CLOCK_MONOTONIC`).
    pub ts_ns: u64,
    /// The event that read it.
    pub kind: &'static str,
    /// CPU.
    pub cpu: u16,
    /// The event's number on its CPU.
    pub seq: u32,
    /// Thread.
    pub tid: u32,
    /// Command name.
    pub comm: String,
    /// Address space.
    pub mm: Option<String>,
    /// VMA.
    pub vma: Option<String>,
    /// The kernel function or tracepoint of the event.
    pub site: Option<String>,
    /// The count.
    pub vm_refcnt: u32,
    /// Readers that were certainly inside.
    pub definite: u32,
    /// Further ones that may have been.
    pub possible: u32,
}

/// What had to be forgotten.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct AgedReport {
    /// Tasks; their counters are in the sums still.
    pub tasks: u64,
    /// VMAs.
    pub vmas: u64,
    /// Address spaces.
    pub mms: u64,
    /// Of all these, those that were in use: what they held counts as lost.
    pub in_use: u64,
}

pub(super) fn name(addresses: &Addresses, address: u64) -> Option<String> {
    (address != 0).then(|| format!("{:016x}", addresses.show(address)))
}

impl Report {
    /// Makes the report.
    pub fn new(inputs: &Inputs<'_>) -> Self {
        let info = &inputs.info.shown();
        let inputs = &Inputs {
            info,
            warnings: outside::plain_all(&inputs.warnings),
            ..*inputs
        };
        let engine = inputs.engine;
        let totals = engine.totals();
        let all = engine.all_tasks();
        let aged = engine.aged();
        let start = info.start_monotonic_ns;
        let by_lock = |histograms: &[Histogram; 4], unknown: &[u64; 4]| {
            let one = |&lock: &Lock| {
                let at = lock as usize;
                (lock.name(), Distribution::new(&histograms[at], unknown[at]))
            };
            Lock::ALL.iter().map(one).collect()
        };
        Self {
            schema: SCHEMA,
            source: info.source.clone(),
            tracer_version: info.tracer_version.clone(),
            kernel: Kernel {
                release: info.kernel.release.clone(),
                version: info.kernel.version.clone(),
                machine: info.kernel.machine.clone(),
                family: info.kernel.family,
            },
            complete: inputs.complete,
            flight: inputs.info.flight.clone(),
            warnings: inputs.warnings.clone(),
            filters: info.filters.clone(),
            start_ns: start,
            duration_ns: engine.now_ns().saturating_sub(start),
            events: collect::events(inputs),
            cpus: collect::cpus(inputs),
            faults: all.faults().into(),
            user_faults: all.user_faults.into(),
            vmstat: Vmstat {
                vma_lock_success: totals.vma_rounds_done,
                vma_lock_retry: totals.vma_rounds_retried,
                vma_lock_abort: totals.read_fails,
                vma_lock_miss: totals.read_misses,
            },
            balance: collect::balance(engine),
            provenance: collect::provenance(engine),
            read_failures: collect::read_failures(engine),
            waits: by_lock(&totals.waits, &totals.waits_unknown),
            holds: by_lock(&totals.holds, &totals.holds_unknown),
            tasks: collect::tasks(inputs),
            mms: collect::mms(inputs),
            vmas: collect::vmas(inputs),
            reused: ReusedReport {
                vmas: totals.recycled_vmas,
                mms: totals.recycled_mms,
                tids: totals.reused_tids,
            },
            own: CountersReport::new(&engine.own_tasks()),
            probes: ProbesReport::new(&inputs.losses.costs),
            unseen: info.unseen.clone(),
            anomalies: collect::anomalies(inputs),
            accounting: collect::accounting(inputs),
            contention: ContentionReport::new(inputs),
            aged: AgedReport {
                tasks: aged.tasks.0,
                vmas: aged.vmas.0,
                mms: aged.mms.0,
                in_use: aged.tasks.1 + aged.vmas.1 + aged.mms.1,
            },
        }
    }

    /// As JSON, with a line end.
    pub fn to_json(&self) -> serde_json::Result<String> {
        Ok(outside::formats::json_pretty(self)? + "\n")
    }
}
