//! From the engine's state to the parts of the report.

use std::collections::BTreeMap;

use tracer_common::wire::{Event, Kind, Provenance, Reason};

use super::{
    AccountingReport, Anomalies, AnomalyReport, BalanceReport, CountersReport, CpuReport, DroppedAt, Events,
    FailureReport, HoldReport, Inputs, MOST_TEMPORARY, MmReport, Odd, OpenCaseReport, SuretyReport,
    TaskReport, TemporaryReport, VmaReport, WaitReport, by_lock_name, name,
};
use crate::check::accounting::{Case, OpenReason};
use crate::info::SourceInfo;
use crate::outside;
use crate::sink::address::Addresses;
use crate::state::{AnomalyKind, Engine, Hold, Lock, TaskView, Wait};

pub(super) fn events(inputs: &Inputs<'_>) -> Events {
    let totals = inputs.engine.totals();
    let order = inputs.order.stats();
    let kinds = Kind::ALL.iter();
    let provenances = [
        Provenance::Observed,
        Provenance::Derived,
        Provenance::Bounded,
        Provenance::Unknown,
    ];
    Events {
        total: totals.events(),
        received: totals.received,
        derived: totals.derived,
        gaps: totals.gaps,
        missing: order.missing(),
        dropped: inputs.losses.dropped(),
        dropped_at: dropped_at(inputs),
        missed: inputs.losses.missed,
        // A recording can have any names.
        unpaired: inputs
            .losses
            .unpaired
            .iter()
            .map(|(why, &number)| (outside::plain(why).into_owned(), number))
            .collect(),
        odd: Odd {
            disordered: order.disordered,
            late: order.late,
            duplicates: order.duplicates,
            unknown_kinds: order.unknown_kinds,
        },
        by_kind: kinds.map(|&kind| (kind.name(), totals.of_kind(kind))).collect(),
        by_provenance: provenances
            .iter()
            .map(|&provenance| (provenance.name(), totals.by_provenance[provenance as usize]))
            .collect(),
    }
}

pub(super) fn cpus(inputs: &Inputs<'_>) -> Vec<CpuReport> {
    let counted: Vec<(u64, u64)> = inputs.order.by_cpu().collect();
    let losses = &inputs.losses.cpus;
    (0..counted.len().max(losses.len()))
        .map(|cpu| {
            let (received, missing) = counted.get(cpu).copied().unwrap_or_default();
            let kernel = losses.get(cpu).copied().unwrap_or_default();
            CpuReport {
                cpu,
                produced: kernel.produced,
                received,
                dropped: kernel.dropped,
                missing,
                balanced: kernel.produced == received + kernel.dropped,
            }
        })
        .collect()
}

pub(super) fn balance(engine: &Engine) -> BTreeMap<&'static str, BalanceReport> {
    let held = engine.held();
    let one = |&lock: &Lock| {
        let books = engine.totals().balance[lock as usize];
        let held = held[lock as usize];
        let came = books.acquires + books.unknown_starts + books.converted_in;
        let went = books.releases + books.converted_out + books.lost + held;
        let report = BalanceReport {
            acquires: books.acquires,
            unknown_starts: books.unknown_starts,
            converted_in: books.converted_in,
            releases: books.releases,
            converted_out: books.converted_out,
            lost: books.lost,
            held,
            balanced: came == went,
        };
        (lock.name(), report)
    };
    Lock::ALL.iter().map(one).collect()
}

pub(super) fn provenance(engine: &Engine) -> BTreeMap<&'static str, SuretyReport> {
    let totals = engine.totals();
    let one = |&lock: &Lock| {
        let at = lock as usize;
        let report = SuretyReport {
            acquires: totals.acquires_by[at].into(),
            releases: totals.releases_by[at].into(),
            holds: totals.holds_by[at].into(),
        };
        (lock.name(), report)
    };
    Lock::ALL.iter().map(one).collect()
}

pub(super) fn read_failures(engine: &Engine) -> BTreeMap<&'static str, FailureReport> {
    let totals = engine.totals();
    let one = |&reason: &Reason| {
        let at = reason as usize;
        let report = FailureReport {
            failed: totals.fails[at],
            refused: totals.refused[at],
            temporary: totals.temporary[at],
        };
        (reason.name(), report)
    };
    let occurred = |(_, report): &(_, FailureReport)| report.failed + report.refused + report.temporary > 0;
    Reason::ALL.iter().map(one).filter(occurred).collect()
}

fn hold(addresses: &Addresses, hold: &Hold) -> HoldReport {
    let has_range = hold.vm_end != 0;
    HoldReport {
        lock: hold.lock.name(),
        certainty: hold.certainty.name(),
        since_ns: hold.start_known.then_some(hold.since_ns),
        since_provenance: hold.start.name(),
        since_bound_ns: hold.start_bound_ns,
        mm: name(addresses, hold.mm),
        vma: name(addresses, hold.vma),
        vm_start: has_range.then_some(hold.vm_start),
        vm_end: has_range.then_some(hold.vm_end),
    }
}

fn wait(addresses: &Addresses, wait: &Wait) -> WaitReport {
    WaitReport {
        lock: wait.lock.name(),
        certainty: wait.certainty.name(),
        since_ns: wait.since_ns,
        mm: name(addresses, wait.mm),
        vma: name(addresses, wait.vma),
    }
}

pub(super) fn tasks(inputs: &Inputs<'_>) -> Vec<TaskReport> {
    let one = |view: TaskView<'_>| {
        let task = view.task();
        TaskReport {
            pid: task.pid,
            tid: task.tid,
            comm: outside::name(&task.comm).into_owned(),
            is_self: task.pid == inputs.info.self_pid && task.pid != 0,
            counters: CountersReport::new(&task.counters),
            held: view.holds().map(|held| hold(inputs.addresses, &held)).collect(),
            wait: view
                .waits()
                .next()
                .map(|awaited| wait(inputs.addresses, &awaited)),
        }
    };
    let mut tasks: Vec<TaskReport> = inputs.engine.tasks().map(one).collect();
    tasks.sort_by_key(|task| (core::cmp::Reverse(task.counters.events), task.tid));
    tasks
}

pub(super) fn mms(inputs: &Inputs<'_>) -> Vec<MmReport> {
    let mut views: Vec<_> = inputs.engine.mms().collect();
    views.sort_by_key(|view| {
        let sum: u64 = view.mm().acquires.iter().sum();
        (core::cmp::Reverse(sum), view.mm().pid, view.address)
    });
    let one = |view: &crate::state::MmView<'_>| MmReport {
        mm: name(inputs.addresses, view.address).unwrap_or_default(),
        pid: view.mm().pid,
        mm_lock_seq: view.mm().mm_lock_seq,
        acquires: by_lock_name(&view.mm().acquires),
        writer: view.writer(),
        readers: view.readers().collect(),
        waiters: view.waiters().collect(),
        vmas_write_locked: view.write_locked().count() as u64,
    };
    views.iter().map(one).collect()
}

pub(super) fn vmas(inputs: &Inputs<'_>) -> VmaReport {
    let engine = inputs.engine;
    let mut most: Vec<(u64, u64)> = engine
        .vmas()
        .map(|view| (view.vma().temporary_reads, view.address))
        .filter(|&(count, _)| count > 0)
        .collect();
    most.sort_unstable_by_key(|&(count, address)| (core::cmp::Reverse(count), address));
    let most = most
        .iter()
        .take(MOST_TEMPORARY)
        .map(|&(temporary_reads, address)| TemporaryReport {
            vma: name(inputs.addresses, address),
            temporary_reads,
        });
    let mut report = VmaReport {
        recycled: engine.totals().recycled_vmas,
        temporary_reads: engine.totals().temporary_reads,
        most_temporary: most.collect(),
        ..VmaReport::default()
    };
    for view in engine.vmas() {
        report.known += 1;
        report.detached += u64::from(view.vma().detached);
        report.read_locked += u64::from(view.readers().next().is_some());
        report.write_locked += u64::from(view.writer().is_some());
        report.awaited += u64::from(view.waiting_writer().is_some());
    }
    report
}

pub(super) fn anomalies(inputs: &Inputs<'_>) -> Anomalies {
    let counts = &inputs.engine.totals().anomalies;
    let one = |anomaly: &crate::state::Anomaly| AnomalyReport {
        anomaly: anomaly.kind.name(),
        ts_ns: anomaly.event.header.ts_ns,
        kind: anomaly.event.kind.name(),
        cpu: anomaly.event.header.cpu,
        seq: anomaly.event.header.seq,
        tid: anomaly.event.header.tid,
        other_tid: (anomaly.other_tid != 0).then_some(anomaly.other_tid),
        comm: outside::name(&anomaly.event.header.comm).into_owned(),
        mm: anomaly.event.mm().and_then(|mm| name(inputs.addresses, mm)),
        vma: anomaly.event.vma().and_then(|vma| name(inputs.addresses, vma)),
        site: site(inputs.info, &anomaly.event),
        held_since_ns: anomaly
            .hold
            .filter(|start| start.provenance != Provenance::Unknown)
            .map(|start| start.since_ns),
    };
    Anomalies {
        total: counts.iter().sum(),
        coverage_holes: inputs.engine.totals().coverage_holes,
        echoes: inputs.engine.totals().echoes,
        by_kind: AnomalyKind::ALL
            .iter()
            .map(|&kind| (kind.name(), counts[kind as usize]))
            .filter(|&(_, count)| count > 0)
            .collect(),
        first: inputs.engine.anomalies().iter().map(one).collect(),
    }
}

/// Where an event was seen: the instruction, or else the function.
pub(in crate::sink) fn site(info: &SourceInfo, event: &Event) -> Option<String> {
    let site = info.sites.get(event.header.site as usize)?;
    let place = if site.place.is_empty() {
        &site.function
    } else {
        &site.place
    };
    (!place.is_empty()).then(|| place.clone())
}

fn dropped_at(inputs: &Inputs<'_>) -> Vec<DroppedAt> {
    let one = |(&site, &dropped): (&u32, &u64)| {
        let site = inputs.info.sites.get(site as usize);
        let place = site.map(|site| {
            let exact = (!site.place.is_empty()).then_some(&site.place);
            exact.unwrap_or(&site.function).clone()
        });
        DroppedAt {
            operation: site.map(|site| site.operation.clone()).unwrap_or_default(),
            place: place.unwrap_or_default(),
            dropped,
        }
    };
    let mut all: Vec<_> = inputs.losses.dropped_at.iter().map(one).collect();
    all.sort_by_key(|one| core::cmp::Reverse(one.dropped));
    all
}

pub(super) fn accounting(inputs: &Inputs<'_>) -> Option<AccountingReport> {
    let accounting = inputs.accounting.filter(|accounting| accounting.applies())?;
    let totals = accounting.totals();
    let one = |case: &Case| OpenCaseReport {
        reason: case.reason.name(),
        ts_ns: case.event.header.ts_ns,
        kind: case.event.kind.name(),
        cpu: case.event.header.cpu,
        seq: case.event.header.seq,
        tid: case.event.header.tid,
        comm: outside::name(&case.event.header.comm).into_owned(),
        mm: case.event.mm().and_then(|mm| name(inputs.addresses, mm)),
        vma: case.event.vma().and_then(|vma| name(inputs.addresses, vma)),
        site: site(inputs.info, &case.event),
        vm_refcnt: case.event.body.vm_refcnt,
        definite: case.definite,
        possible: case.possible,
    };
    Some(AccountingReport {
        checked: totals.checked,
        closed: totals.closed_exact + totals.closed_concurrent,
        closed_exact: totals.closed_exact,
        closed_concurrent: totals.closed_concurrent,
        open: totals.open,
        open_by_reason: OpenReason::ALL
            .iter()
            .map(|&reason| (reason.name(), totals.open_by_reason[reason as usize]))
            .filter(|&(_, count)| count > 0)
            .collect(),
        first: accounting.cases().iter().map(one).collect(),
    })
}
