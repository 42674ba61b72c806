//! From the checks' state to the parts of the report.

use std::collections::BTreeMap;

use tracer_common::lock::VM_REFCNT_EXCLUDE_READERS_FLAG as FLAG;
use tracer_common::wire::Event;

use super::{
    AccountingReport, AssertionReport, ExampleReport, Inputs, InstantReport, QuantityReport, Truth,
    ViolationReport,
};
use crate::check::accounting::{OpenReason, Totals};
use crate::check::assertions::{Row, Unknown};
use crate::check::violation::{Violation, ViolationKind};
use crate::check::{Checker, Holders};
use crate::outside;
use crate::sink::stats;

pub(super) fn truth(checker: &Checker) -> Truth {
    let (compared, differed) = checker.lockdep();
    Truth {
        by: if checker.has_lockdep() {
            "lockdep"
        } else {
            "rebuilt"
        },
        compared,
        differed,
    }
}

pub(super) fn accounting(checker: &Checker) -> AccountingReport {
    let mut sum = AccountingReport::default();
    for (name, applies, totals) in checker.quantities() {
        sum.checked += totals.checked;
        sum.closed_exact += totals.closed_exact;
        sum.closed_concurrent += totals.closed_concurrent;
        sum.open += totals.open;
        let quantity = quantity(applies, totals);
        for (&reason, &count) in &quantity.open_by_reason {
            *sum.open_by_reason.entry(reason).or_default() += count;
        }
        sum.by_quantity.insert(name, quantity);
    }
    sum.closed = sum.closed_exact + sum.closed_concurrent;
    sum
}

fn quantity(applies: bool, totals: &Totals) -> QuantityReport {
    let reasons = OpenReason::ALL.iter();
    QuantityReport {
        applies,
        checked: totals.checked,
        closed_exact: totals.closed_exact,
        closed_concurrent: totals.closed_concurrent,
        open: totals.open,
        open_by_reason: reasons
            .map(|&reason| (reason.name(), totals.open_by_reason[reason as usize]))
            .filter(|&(_, count)| count > 0)
            .collect(),
    }
}

pub(super) fn violations_by_kind(checker: &Checker) -> BTreeMap<&'static str, u64> {
    let kinds = ViolationKind::ALL.iter();
    kinds
        .map(|&kind| (kind.name(), checker.violations().count(kind)))
        .filter(|&(_, count)| count > 0)
        .collect()
}

pub(super) fn unknown(checker: &Checker) -> BTreeMap<&'static str, u64> {
    let counts = checker.assertions().unknown();
    let reasons = Unknown::ALL.iter();
    reasons
        .map(|&why| (why.name(), counts[why as usize]))
        .filter(|&(_, count)| count > 0)
        .collect()
}

fn instant(inputs: &Inputs<'_>, event: &Event, holders: &Holders) -> InstantReport {
    let header = &event.header;
    let range = event.range();
    InstantReport {
        ts_ns: header.ts_ns,
        kind: event.kind.name(),
        cpu: header.cpu,
        seq: header.seq,
        pid: header.pid,
        tid: header.tid,
        comm: outside::name(&header.comm).into_owned(),
        mm: event.mm().and_then(|mm| stats::name(inputs.addresses, mm)),
        vma: event.vma().and_then(|vma| stats::name(inputs.addresses, vma)),
        vm_start: range.map(|(start, _)| start),
        vm_end: range.map(|(_, end)| end),
        site: stats::site(inputs.info, event),
        vm_refcnt: event.vm_refcnt(),
        vm_lock_seq: event.vm_lock_seq(),
        mm_lock_seq: event.mm_lock_seq(),
        readers: holders.readers().to_vec(),
        reader_count: holders.reader_count,
        writer: holders.writer,
        waiting_writer: holders.waiting_writer,
        mmap_writer: holders.mmap_writer,
    }
}

pub(super) fn violation(inputs: &Inputs<'_>, violation: &Violation) -> ViolationReport {
    ViolationReport {
        violation: violation.kind.name(),
        what: spelled_out(violation),
        expected: violation.expected,
        proven_ns: violation.proven_ns,
        instant: instant(inputs, &violation.event, &violation.holders),
    }
}

/// A count as the documents write it: `F+2` for a flag and two more.
pub(super) fn refcnt(count: u32) -> String {
    match (count & FLAG != 0, count & !FLAG) {
        (false, rest) => rest.to_string(),
        (true, 0) => "F".to_owned(),
        (true, rest) => format!("F+{rest}"),
    }
}

fn spelled_out(violation: &Violation) -> String {
    let body = &violation.event.body;
    let (count, expected) = (refcnt(body.vm_refcnt), violation.expected);
    let (vma_seq, mm_seq) = (body.vm_lock_seq, body.mm_lock_seq);
    match violation.kind {
        ViolationKind::CountBelowHolders => {
            format!("vm_refcnt is {count}, but with those who certainly are inside it is at least {expected}")
        }
        ViolationKind::CountAboveHolders => {
            format!("vm_refcnt is {count}, but with all who may be inside it is at most {expected}")
        }
        ViolationKind::FlagWithoutWriter => {
            format!("vm_refcnt is {count}: readers are kept out, but no writer is near")
        }
        ViolationKind::ReaderInsideWriter => format!(
            "the task holds the VMA for reading, but it is write-locked: vm_lock_seq = mm_lock_seq = {mm_seq}"
        ),
        ViolationKind::WriteLockNotTaken => {
            format!("the VMA was just write-locked, but vm_lock_seq is {vma_seq} and mm_lock_seq is {mm_seq}")
        }
        ViolationKind::SeqEvenUnderWriter => {
            format!("the task holds the mmap_lock for writing, but mm_lock_seq is {mm_seq}, which is even")
        }
        ViolationKind::SeqOddUnderReader => {
            format!("the task holds the mmap_lock for reading, but mm_lock_seq is {mm_seq}, which is odd")
        }
        ViolationKind::SeqChangedUnderHolder => {
            format!("the mmap_lock is held since mm_lock_seq was {expected}, but now it is {mm_seq}")
        }
        ViolationKind::VmaSeqChangedUnderReader => format!(
            "the task holds the VMA for reading since vm_lock_seq was {expected}, but now it is {vma_seq}"
        ),
        ViolationKind::AttachOfAttached => {
            format!("the VMA joins an address space, but vm_refcnt is {count} and not 0")
        }
        ViolationKind::DetachLeftReaders => {
            format!("the VMA has left its address space, but vm_refcnt is {count} and not 0")
        }
    }
}

pub(super) fn assertions(inputs: &Inputs<'_>) -> Vec<AssertionReport> {
    let rows = inputs.checker.assertions().rows();
    rows.iter().map(|row| assertion(inputs, row)).collect()
}

fn assertion(inputs: &Inputs<'_>, row: &Row) -> AssertionReport {
    let example = row.example.as_ref().map(|(key, example, predicted)| {
        let verdict = key.states().next().map(|(_, state)| row.which.verdict(&state));
        ExampleReport {
            verdict: verdict.unwrap_or_default().to_string(),
            standing: key.standing.name(),
            refcnt_class: key.class.name(),
            seq_equal: key.eq,
            mmap_lock: key.mmap.possible().iter().map(|mmap| mmap.name()).collect(),
            predicted: *predicted,
            instant: instant(inputs, &example.event, &example.holders),
        }
    });
    AssertionReport {
        variant: row.which.variant(),
        assertion: row.which.assertion(),
        lockdep: row.which.lockdep(),
        viewpoint: row.viewpoint.name(),
        evaluated: row.evaluated,
        right: row.right,
        false_positive: row.false_positive,
        false_negative: row.false_negative,
        unknown: row.unknown,
        unclaimed: row.unclaimed,
        unpredicted: row.unpredicted,
        example,
    }
}
