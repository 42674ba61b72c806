//! Why faults took the `mmap_lock`, as it is printed.

use std::collections::BTreeMap;

use serde::Serialize;
use tracer_common::wire::Reason;

use super::groups::{Names, ProcessId, VmaId};
use super::{FaultReport, Vmstat, by_reason, name};
use crate::contention::Contention;
use crate::contention::faults::{FALLBACKS, FaultRow, fallback_name};
use crate::contention::places::retry_reason;
use crate::outside;

/// Rows that are printed; the rest is in `others`.
const ROWS: usize = 500;

/// Rounds that were sent back for one reason.
#[derive(Clone, Debug, Serialize)]
pub struct RetryReport {
    /// The reason, as far as the function tells.
    pub reason: &'static str,
    /// The function that gave the VMA lock back; `null`: that was not seen.
    pub function: Option<String>,
    /// How many.
    pub rounds: u64,
}

/// Faults of one process or VMA.
#[derive(Clone, Debug, Serialize)]
pub struct FaultGroupReport {
    /// Logical faults by how they ended.
    #[serde(flatten)]
    pub faults: FaultReport,
    /// Completed faults a second, over the whole time that was observed.
    pub per_second: f64,
    /// The part of completed faults that took the `mmap_lock`: `(retried + mmap_lock) / total`; 0 if there are none.
    pub mmap_lock_share: f64,
    /// Why faults ran under the `mmap_lock` from the start; in sum `mmap_lock`.
    pub fallbacks: BTreeMap<&'static str, u64>,
    /// Why rounds under the VMA lock were sent back; in sum `vmstat.vma_lock_retry`.
    pub retries: Vec<RetryReport>,
    /// What `/proc/vmstat` counts, for this row alone. Misses are counted by process only.
    pub vmstat: Vmstat,
    /// Failed look-ups by reason; in sum `vmstat.vma_lock_abort`.
    pub look_ups_failed: BTreeMap<&'static str, u64>,
    /// Of these, so many after which no fault came: no VMA, or not on behalf of a fault.
    pub look_ups_failed_alone: u64,
}

/// One row.
#[derive(Clone, Debug, Serialize)]
pub struct FaultRowReport<K> {
    /// What it is of.
    #[serde(flatten)]
    pub of: K,
    /// Its faults.
    #[serde(flatten)]
    pub faults: FaultGroupReport,
}

/// A table: rows, those with the most `mmap_lock` first.
#[derive(Clone, Debug, Serialize)]
pub struct FaultTableReport<K> {
    /// The rows.
    pub rows: Vec<FaultRowReport<K>>,
    /// All that is in no row.
    pub others: FaultGroupReport,
    /// How many rows were merged into `others`; one may have been so several times.
    pub merged: u64,
    /// Whether rows may lack a part, which is then in `others`.
    pub cut: bool,
}

/// Faults by process and by VMA; each table sums up to the report's `faults` and `vmstat`.
#[derive(Clone, Debug, Serialize)]
pub struct FaultGroupsReport {
    /// By process.
    pub processes: FaultTableReport<ProcessId>,
    /// By VMA; a row without a range has what met no VMA, or one whose range is not known.
    pub vmas: FaultTableReport<VmaId>,
}

impl FaultGroupsReport {
    pub(super) fn new(names: Names<'_>, contention: &Contention, duration_ns: u64) -> Self {
        let tables = &contention.faults;
        let processes = tables.processes.iter().map(|(pid, row)| {
            let id = ProcessId {
                pid: *pid,
                comm: outside::name(&row.comm).into_owned(),
            };
            (id, u64::from(*pid), row)
        });
        let vmas = tables.vmas.iter().map(|(key, row)| {
            let known = key.vm_end != 0;
            let id = VmaId {
                pid: key.mm.pid,
                mm: name(names.addresses, key.mm.mm),
                vm_start: known.then_some(key.vm_start),
                vm_end: known.then_some(key.vm_end),
            };
            (id, key.vm_start, row)
        });
        let cut = (tables.processes.is_cut(), tables.vmas.is_cut());
        Self {
            processes: table(names, processes, (tables.other_processes(), cut.0), duration_ns),
            vmas: table(names, vmas, (tables.other_vmas(), cut.1), duration_ns),
        }
    }
}

fn table<'a, K>(
    names: Names<'_>,
    rows: impl Iterator<Item = (K, u64, &'a FaultRow)>,
    (others, cut): (&FaultRow, bool),
    duration_ns: u64,
) -> FaultTableReport<K> {
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by_key(|(_, order, row)| {
        let took = row.retried + row.mmap_lock + row.error + row.look_ups_failed();
        (core::cmp::Reverse((took, row.vma_lock)), *order)
    });
    let mut others = others.clone();
    for (_, _, row) in rows.iter().skip(ROWS) {
        others.merge(row);
        others.merged += 1;
    }
    let one = |(of, _, row): (K, u64, &FaultRow)| FaultRowReport {
        of,
        faults: group(names, row, duration_ns),
    };
    FaultTableReport {
        rows: rows.into_iter().take(ROWS).map(one).collect(),
        merged: others.merged,
        others: group(names, &others, duration_ns),
        cut,
    }
}

fn group(names: Names<'_>, row: &FaultRow, duration_ns: u64) -> FaultGroupReport {
    let total = row.total();
    let ratio = |part: u64, whole: f64| if whole > 0.0 { part as f64 / whole } else { 0.0 };
    let mut retries: Vec<RetryReport> = row
        .causes()
        .map(|(cause, rounds)| {
            let function = cause.site.and_then(|site| names.function(site));
            RetryReport {
                reason: retry_reason(function, cause),
                function: function.map(str::to_owned),
                rounds,
            }
        })
        .collect();
    if row.other_causes > 0 {
        retries.push(RetryReport {
            reason: "other",
            function: None,
            rounds: row.other_causes,
        });
    }
    retries.sort_by_key(|retry| (core::cmp::Reverse(retry.rounds), retry.reason));
    FaultGroupReport {
        faults: FaultReport {
            total,
            vma_lock: row.vma_lock,
            retried: row.retried,
            mmap_lock: row.mmap_lock,
            error: row.error,
            abandoned: row.abandoned,
        },
        per_second: ratio(total, duration_ns as f64 / 1e9),
        mmap_lock_share: ratio(row.retried + row.mmap_lock, total as f64),
        fallbacks: (0..FALLBACKS)
            .map(|at| (fallback_name(at), row.fallbacks[at]))
            .filter(|&(_, count)| count > 0)
            .collect(),
        retries,
        vmstat: Vmstat {
            vma_lock_success: row.rounds_done,
            vma_lock_retry: row.rounds_retried,
            vma_lock_abort: row.look_ups_failed(),
            vma_lock_miss: row.misses,
        },
        look_ups_failed: by_reason(&row.failed),
        look_ups_failed_alone: row.failed_alone,
    }
}

const _: () = assert!(FALLBACKS == Reason::ALL.len() + 2);
