//! `tracer check`: what is impossible is found, what is wrong is counted, and the report says so as documented.

use std::path::Path;

use serde_json::Value;
use tracer::check::Checker;
use tracer::check::violation::ViolationKind;
use tracer::info::{Losses, SiteInfo, SourceInfo};
use tracer::order::Order;
use tracer::sink::address::Addresses;
use tracer::sink::check::{Inputs, Report, render};
use tracer::sink::stats::Style;
use tracer::state::Engine;
use tracer_common::wire::{Event, Kind, flag};

const MM: u64 = 0xffff_8881_0000_1000;
const VMA: u64 = 0xffff_8881_0000_2000;

/// A stream as it would come from a kernel that shows everything.
fn info() -> SourceInfo {
    let site = |kind: Kind, function: &str, mechanism: &str| SiteInfo {
        operation: kind.name().into(),
        function: function.into(),
        mechanism: mechanism.into(),
        provenance: "observed".into(),
        attached: true,
        ..SiteInfo::default()
    };
    SourceInfo {
        sites: vec![
            site(Kind::MmapAcquire, "mmap_lock_acquire_returned", "tp_btf"),
            site(Kind::VmaReadRelease, "vma_refcount_put", "kprobe"),
            site(Kind::VmaWriteAcquire, "__vma_start_write", "fexit"),
        ],
        ..SourceInfo::default()
    }
}

struct Stream {
    ts_ns: u64,
    engine: Engine,
    checker: Checker,
    mm_seq: u32,
    vma_seq: u32,
}

impl Stream {
    fn new() -> Self {
        let info = info();
        Self {
            ts_ns: 100,
            engine: Engine::new(&info),
            checker: Checker::new(&info),
            mm_seq: 10,
            vma_seq: 5,
        }
    }

    fn event(&mut self, kind: Kind, tid: u32, refcnt: u32) -> Event {
        self.ts_ns += 10;
        let mut event = Event::synthetic(kind, self.ts_ns);
        event.header.tid = tid;
        event.header.pid = 100;
        event.header.flags = flag::MM | flag::MM_SEQ;
        event.header.site = match kind {
            Kind::VmaReadRelease => 1,
            Kind::VmaWriteAcquire => 2,
            _ => 0,
        };
        event.body.mm = MM;
        event.body.mm_lock_seq = self.mm_seq;
        if !kind.name().starts_with("mmap") {
            event.header.flags |= flag::VMA | flag::RANGE | flag::REFCNT | flag::VMA_SEQ;
            event.body.vma = VMA;
            (event.body.vm_start, event.body.vm_end) = (0x1000, 0x3000);
            event.body.vm_refcnt = refcnt;
            event.body.vm_lock_seq = self.vma_seq;
        }
        event
    }

    fn apply(&mut self, event: &Event) {
        self.checker.apply(&mut self.engine, event, &mut |_, _| {});
    }

    fn push(&mut self, kind: Kind, tid: u32, refcnt: u32) {
        let event = self.event(kind, tid, refcnt);
        self.apply(&event);
    }

    fn mmap(&mut self, kind: Kind, tid: u32, write: bool) {
        let mut event = self.event(kind, tid, 0);
        event.header.flags |= if write { flag::WRITE } else { 0 };
        self.apply(&event);
    }

    /// The writer takes the `mmap_lock` and the VMA.
    fn write_lock(&mut self, tid: u32) {
        self.mmap(Kind::MmapStart, tid, true);
        self.mm_seq += 1;
        self.mmap(Kind::MmapAcquire, tid, true);
        self.push(Kind::VmaWriteStart, tid, 1);
        self.vma_seq = self.mm_seq;
        self.push(Kind::VmaWriteAcquire, tid, 1);
    }

    fn write_unlock(&mut self, tid: u32) {
        self.mmap(Kind::MmapRelease, tid, true);
        self.mm_seq += 1;
    }

    fn report(&mut self) -> Report {
        self.checker.finish();
        let mut order = Order::new(0);
        order.finish(&Losses::default(), &mut |_| {});
        Report::new(&Inputs {
            info: &info(),
            engine: &self.engine,
            checker: &self.checker,
            order: &order,
            losses: &Losses::default(),
            complete: true,
            warnings: vec!["a.rec: truncated at offset 16; what comes before is good".into()],
            addresses: &Addresses::raw(),
        })
    }

    fn violations(&self) -> Vec<ViolationKind> {
        let kept = self.checker.violations().kept();
        kept.iter().map(|violation| violation.kind).collect()
    }
}

fn count(report: &Report, variant: &str, lockdep: &str, viewpoint: &str) -> (u64, u64, u64) {
    let row = report
        .assertions
        .iter()
        .find(|row| (row.variant, row.lockdep, row.viewpoint) == (variant, lockdep, viewpoint))
        .unwrap();
    (row.right, row.false_positive, row.false_negative)
}

#[test]
fn an_orderly_stream_has_no_violation() {
    let mut stream = Stream::new();
    for _ in 0..3 {
        stream.push(Kind::VmaReadAcquire, 1, 2);
        stream.push(Kind::VmaReadRelease, 1, 2);
        stream.write_lock(2);
        stream.write_unlock(2);
    }
    let report = stream.report();
    assert_eq!(stream.violations(), []);
    assert_eq!(report.accounting.checked, report.accounting.closed);
    assert_eq!(count(&report, "merged", "on", "self").1, 0);
}

/// `__vma_start_write` sets `vm_lock_seq`, then tells lockdep that readers are no longer kept out, and only then returns.
#[test]
fn a_writer_tells_lockdep_after_it_has_set_the_number() {
    let mut stream = Stream::new();
    // So that the number is known.
    stream.write_lock(2);
    stream.write_unlock(2);
    stream.mmap(Kind::MmapStart, 2, true);
    stream.mm_seq += 1;
    stream.mmap(Kind::MmapAcquire, 2, true);
    stream.push(Kind::VmaWriteStart, 2, 1);
    stream.vma_seq = stream.mm_seq;
    stream.push(Kind::LockdepRelease, 2, 1);
    stream.push(Kind::VmaWriteAcquire, 2, 1);
    stream.write_unlock(2);
    let numbers = &stream.report().accounting.by_quantity["vm_lock_seq"];
    assert_eq!((numbers.open, numbers.closed_concurrent), (0, 1), "{numbers:?}");
}

/// The case that the mail does not mention: v2 fires on the writer while somebody tries.
#[test]
fn v2_fires_falsely_on_a_writer_beside_a_temporary_reader() {
    let mut stream = Stream::new();
    stream.write_lock(2);
    stream.push(Kind::VmaReadTemporary, 1, 2);
    stream.write_unlock(2);
    let report = stream.report();
    assert_eq!(stream.violations(), []);
    let row = report
        .assertions
        .iter()
        .find(|row| (row.variant, row.lockdep, row.viewpoint) == ("v2", "on", "other_writer"));
    // A VMA that is seen to leave only afterwards could be leaving just now.
    assert_eq!(row.map(|row| row.unknown), Some(1));
    // What the writer itself reads is sure.
    let mut stream = Stream::new();
    stream.mmap(Kind::MmapStart, 2, true);
    stream.mm_seq += 1;
    stream.mmap(Kind::MmapAcquire, 2, true);
    stream.push(Kind::VmaWriteStart, 2, 1);
    stream.vma_seq = stream.mm_seq;
    stream.push(Kind::VmaWriteAcquire, 2, 2);
    stream.push(Kind::VmaReadTemporary, 1, 2);
    stream.write_unlock(2);
    let report = stream.report();
    assert_eq!(count(&report, "v2", "on", "self"), (0, 1, 0));
    assert_eq!(count(&report, "v2", "off", "self"), (1, 0, 0));
    assert_eq!(count(&report, "merged", "on", "self"), (1, 0, 0));
    let row = report
        .assertions
        .iter()
        .find(|row| (row.variant, row.lockdep, row.viewpoint) == ("v2", "on", "self"))
        .unwrap();
    assert_eq!(row.unpredicted, 0, "the model predicts it");
    assert!(row.example.as_ref().unwrap().predicted);
}

/// A count says that somebody reads, not who: whoever holds nothing is not told.
#[test]
fn the_baseline_is_silent_for_a_bystander_of_a_reader() {
    let mut stream = Stream::new();
    stream.push(Kind::VmaReadAcquire, 1, 2);
    stream.push(Kind::VmaReadRelease, 1, 2);
    let report = stream.report();
    assert_eq!(count(&report, "baseline", "on", "bystander"), (0, 0, 2));
    assert_eq!(count(&report, "merged", "on", "bystander"), (2, 0, 0));
    assert_eq!(count(&report, "merged", "off", "bystander"), (0, 0, 2));
}

#[test]
fn a_reader_inside_a_writer_is_reported_as_that() {
    let mut stream = Stream::new();
    stream.write_lock(2);
    stream.push(Kind::VmaReadAcquire, 1, 2);
    stream.push(Kind::VmaReadRelease, 1, 2);
    stream.write_unlock(2);
    let report = stream.report();
    assert_eq!(stream.violations()[0], ViolationKind::ReaderInsideWriter);
    let first = &report.violations[0];
    assert_eq!((first.instant.tid, first.instant.mmap_writer), (1, Some(2)));
    assert!(first.what.contains("11"), "{}", first.what);
}

#[test]
fn what_holds_and_what_is_read_contradict_each_other() {
    let mut stream = Stream::new();
    stream.push(Kind::VmaReadAcquire, 1, 1);
    assert_eq!(stream.violations(), [ViolationKind::CountBelowHolders]);

    let mut stream = Stream::new();
    stream.mmap(Kind::MmapStart, 2, true);
    stream.mmap(Kind::MmapAcquire, 2, true);
    assert_eq!(stream.violations(), [ViolationKind::SeqEvenUnderWriter]);

    let mut stream = Stream::new();
    stream.mm_seq = 11;
    stream.mmap(Kind::MmapStart, 2, false);
    stream.mmap(Kind::MmapAcquire, 2, false);
    assert_eq!(stream.violations(), [ViolationKind::SeqOddUnderReader]);

    let mut stream = Stream::new();
    stream.write_lock(2);
    stream.vma_seq = 7;
    stream.push(Kind::VmaWriteAcquire, 2, 1);
    assert_eq!(stream.violations(), [ViolationKind::WriteLockNotTaken]);

    let mut stream = Stream::new();
    stream.push(Kind::VmaAttach, 2, 1);
    assert_eq!(stream.violations(), [ViolationKind::AttachOfAttached]);
}

fn docs(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_report_has_what_is_documented() {
    let mut stream = Stream::new();
    stream.write_lock(2);
    stream.push(Kind::VmaReadAcquire, 1, 2);
    stream.write_unlock(2);
    let report = stream.report();
    let value: Value = serde_json::from_str(&report.to_json().unwrap()).unwrap();
    let prose = docs("schema/check.md");
    let documented = |value: &Value| {
        for name in value.as_object().unwrap().keys() {
            assert!(prose.contains(name.as_str()), "{name} is not documented");
        }
    };
    documented(&value);
    assert_eq!(value["schema"], "tracer.check.v1");
    documented(&value["accounting"]);
    documented(&value["violations"][0]);
    for row in value["assertions"].as_array().unwrap() {
        documented(row);
        let number = |name: &str| row[name].as_u64().unwrap();
        let parts = [
            "right",
            "false_positive",
            "false_negative",
            "unknown",
            "unclaimed",
        ];
        assert_eq!(
            number("evaluated"),
            parts.iter().map(|part| number(part)).sum::<u64>()
        );
        if row["example"].is_object() {
            documented(&row["example"]);
        }
    }
    let page = docs("check.md");
    for kind in ViolationKind::ALL {
        assert!(
            page.contains(kind.name()),
            "docs/check.md does not tell of {}",
            kind.name()
        );
    }
}

#[test]
fn the_tables_fit_into_80_columns() {
    let mut stream = Stream::new();
    stream.write_lock(2);
    stream.push(Kind::VmaReadTemporary, 1, 2);
    stream.push(Kind::VmaReadAcquire, 3, 2);
    stream.write_unlock(2);
    let mut out = Vec::new();
    render(&stream.report(), Style::default(), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(text.contains("reader_inside_writer"), "{text}");
    assert!(text.contains("predicted by the model"), "{text}");
}

#[test]
fn an_empty_stream_makes_a_report() {
    let mut stream = Stream::new();
    let mut out = Vec::new();
    render(&stream.report(), Style::default(), &mut out).unwrap();
    assert!(String::from_utf8(out).unwrap().contains("VIOLATIONS: none"));
}
