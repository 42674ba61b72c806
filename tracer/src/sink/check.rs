//! `tracer check`: is the lock in a state that it can be in, and would the kernel's assertions be right?
//!
//! [`Report`] is the documented JSON (`docs/schema/check.md`); [`render`] makes the tables from it, so that both say
//! the same.

mod collect;
mod render;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::check::Checker;
use crate::info::{Losses, SourceInfo, UnseenInfo};
use crate::order::Order;
use crate::outside;
use crate::sink::address::Addresses;
use crate::sink::stats::Kernel;
use crate::state::Engine;

pub use render::render;

/// Name and version of the JSON.
pub const SCHEMA: &str = "tracer.check.v1";

/// What a report is made from.
pub struct Inputs<'a> {
    /// What is known of the stream.
    pub info: &'a SourceInfo,
    /// After the last event.
    pub engine: &'a Engine,
    /// After its `finish`.
    pub checker: &'a Checker,
    /// After its `finish`.
    pub order: &'a Order,
    /// At the end.
    pub losses: &'a Losses,
    /// Whether the stream came to its end on purpose.
    pub complete: bool,
    /// What the reader should know, such as that a recording is cut.
    pub warnings: Vec<String>,
    /// How to show addresses.
    pub addresses: &'a Addresses,
}

/// Everything that `check --json` prints.
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
    /// What the reader should know.
    pub warnings: Vec<String>,
    /// Filters that ran in the kernel.
    pub filters: Vec<String>,
    /// From the start of the source to the last event.
    pub duration_ns: u64,
    /// How much came, and how much is missing.
    pub events: Events,
    /// Operations that this kernel does not show.
    pub unseen: Vec<UnseenInfo>,
    /// What verdicts are judged by: `rebuilt`, or `lockdep` where the kernel has it.
    pub truth: Truth,
    /// Whether what was read of the lock is what is known of its holders.
    pub accounting: AccountingReport,
    /// States that the lock cannot be in.
    pub violation_count: u64,
    /// The same by kind, those that occurred.
    pub violations_by_kind: BTreeMap<&'static str, u64>,
    /// The first ones.
    pub violations: Vec<ViolationReport>,
    /// Found odd, and explained by a gap that turned up later.
    pub taken_back: u64,
    /// Read locks that were found gone although all releases should be seen: some place has no probe.
    pub coverage_holes: u64,
    /// Why nothing could be judged at some instants, those that occurred.
    pub unknown_by_reason: BTreeMap<&'static str, u64>,
    /// What each assertion would have said.
    pub assertions: Vec<AssertionReport>,
}

/// Counts of events and losses.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Events {
    /// From the kernel.
    pub received: u64,
    /// Gaps.
    pub gaps: u64,
    /// Events known to be missing by the numbering.
    pub missing: u64,
    /// Events that found the ring buffer full, by the kernel's own count.
    pub dropped: u64,
    /// Runs of probes that the kernel skipped.
    pub missed: u64,
    /// Events that came out of order, late or twice, or are of unknown kinds.
    pub odd: u64,
}

/// What verdicts are judged by.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Truth {
    /// `rebuilt` from the events, or `lockdep`.
    pub by: &'static str,
    /// With lockdep: how often what we had rebuilt was compared with it.
    pub compared: u64,
    /// How often it was not the same.
    pub differed: u64,
}

/// `checked = closed + open`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AccountingReport {
    /// Values that were read and could be predicted.
    pub checked: u64,
    /// As predicted, within what concurrency allows: the sum of the next two.
    pub closed: u64,
    /// Just as predicted.
    pub closed_exact: u64,
    /// Explained by operations in flight.
    pub closed_concurrent: u64,
    /// Neither.
    pub open: u64,
    /// Why, those that occurred.
    pub open_by_reason: BTreeMap<&'static str, u64>,
    /// The same by what was predicted: `vm_refcnt vm_lock_seq mm_lock_seq outcome`.
    pub by_quantity: BTreeMap<&'static str, QuantityReport>,
}

/// The same for one quantity.
#[derive(Clone, Debug, Default, Serialize)]
pub struct QuantityReport {
    /// Whether this kernel shows it.
    pub applies: bool,
    /// See [`AccountingReport`].
    pub checked: u64,
    /// See [`AccountingReport`].
    pub closed_exact: u64,
    /// See [`AccountingReport`].
    pub closed_concurrent: u64,
    /// See [`AccountingReport`].
    pub open: u64,
    /// See [`AccountingReport`].
    pub open_by_reason: BTreeMap<&'static str, u64>,
}

/// One instant: an event, what it read, and who else held the lock.
#[derive(Clone, Debug, Serialize)]
pub struct InstantReport {
    /// When it was read at the latest (`CLOCK_MONOTONIC`).
    pub ts_ns: u64,
    /// The event.
    pub kind: &'static str,
    /// CPU.
    pub cpu: u16,
    /// The event's number on its CPU.
    pub seq: u32,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Command name, control characters escaped.
    pub comm: String,
    /// Address space, as its name in this report.
    pub mm: Option<String>,
    /// VMA, as its name in this report.
    pub vma: Option<String>,
    /// First address of the VMA.
    pub vm_start: Option<u64>,
    /// First address after it.
    pub vm_end: Option<u64>,
    /// The kernel function or instruction.
    pub site: Option<String>,
    /// `vm_refcnt`, if it was read.
    pub vm_refcnt: Option<u32>,
    /// `vm_lock_seq`, if it was read.
    pub vm_lock_seq: Option<u32>,
    /// `mm_lock_seq`, if it was read.
    pub mm_lock_seq: Option<u32>,
    /// Threads that held it for reading after the event, the first few.
    pub readers: Vec<u32>,
    /// How many there were.
    pub reader_count: u32,
    /// The thread that held it for writing.
    pub writer: Option<u32>,
    /// The thread that waited for its readers.
    pub waiting_writer: Option<u32>,
    /// The thread that held the `mmap_lock` for writing.
    pub mmap_writer: Option<u32>,
}

/// One state that the lock cannot be in.
#[derive(Clone, Debug, Serialize)]
pub struct ViolationReport {
    /// What is impossible.
    pub violation: &'static str,
    /// In a sentence, with the numbers.
    pub what: String,
    /// What should have been read.
    pub expected: u32,
    /// When the proof was complete.
    pub proven_ns: u64,
    /// Where and when.
    #[serde(flatten)]
    pub instant: InstantReport,
}

/// One assertion in one configuration from one viewpoint:
/// `evaluated = right + false_positive + false_negative + unknown + unclaimed`.
#[derive(Clone, Debug, Serialize)]
pub struct AssertionReport {
    /// `baseline v2 lockdep-first merged`, or `kernel` for what is the same in all of them.
    pub variant: &'static str,
    /// Its name.
    pub assertion: &'static str,
    /// `on`, `off`, or `any` where it makes no difference.
    pub lockdep: &'static str,
    /// Who asks: `self bystander other_reader other_writer`.
    pub viewpoint: &'static str,
    /// Instants.
    pub evaluated: u64,
    /// It said what is so.
    pub right: u64,
    /// It fired, and should not have.
    pub false_positive: u64,
    /// It was silent, and should not have been.
    pub false_negative: u64,
    /// It hangs on what is not known.
    pub unknown: u64,
    /// The kernel asserts nothing there.
    pub unclaimed: u64,
    /// Wrong verdicts in states of which the model checker did not say so.
    pub unpredicted: u64,
    /// A wrong verdict.
    pub example: Option<ExampleReport>,
}

/// One wrong verdict.
#[derive(Clone, Debug, Serialize)]
pub struct ExampleReport {
    /// What it said: `silent`, or what it complained of.
    pub verdict: String,
    /// What the asking task was to the VMA, by the model's names.
    pub standing: &'static str,
    /// The class of `vm_refcnt`, by the model's names.
    pub refcnt_class: &'static str,
    /// Whether the sequence numbers were equal.
    pub seq_equal: bool,
    /// Who held the `mmap_lock`, by the model's names; several: it may have been each of these.
    pub mmap_lock: Vec<&'static str>,
    /// Whether `docs/assertions.md` has this state among the wrong ones of this assertion.
    pub predicted: bool,
    /// Where and when.
    #[serde(flatten)]
    pub instant: InstantReport,
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
        let Inputs {
            engine,
            checker,
            order,
            losses,
            ..
        } = inputs;
        let totals = engine.totals();
        let stats = order.stats();
        let violations = checker.violations();
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
            warnings: inputs.warnings.clone(),
            filters: info.filters.clone(),
            duration_ns: engine.now_ns().saturating_sub(info.start_monotonic_ns),
            events: Events {
                received: totals.received,
                gaps: totals.gaps,
                missing: stats.missing(),
                dropped: losses.dropped(),
                missed: losses.missed,
                odd: stats.disordered + stats.late + stats.duplicates + stats.unknown_kinds,
            },
            unseen: info.unseen.clone(),
            truth: collect::truth(checker),
            accounting: collect::accounting(checker),
            violation_count: violations.total(),
            violations_by_kind: collect::violations_by_kind(checker),
            violations: violations
                .kept()
                .iter()
                .map(|violation| collect::violation(inputs, violation))
                .collect(),
            taken_back: violations.taken_back(),
            coverage_holes: totals.coverage_holes,
            unknown_by_reason: collect::unknown(checker),
            assertions: collect::assertions(inputs),
        }
    }

    /// As JSON, with a newline at its end.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn to_json(&self) -> serde_json::Result<String> {
        outside::formats::json_pretty(self).map(|text| text + "\n")
    }
}
