//! What is printed is what is documented.

use std::collections::BTreeSet;

use serde_json::Value;
use tracer::check::accounting::Accounting;
use tracer::contention::Contention;
use tracer::info::{CpuLosses, Losses, SourceInfo, UnseenInfo};
use tracer::order::Order;
use tracer::sink::address::Addresses;
use tracer::sink::jsonl::JsonlWriter;
use tracer::sink::stats::{Inputs, Report, Style, render};
use tracer::stacks::Stacks;
use tracer::state::Engine;
use tracer_common::wire::{Event, Kind, flag};

fn docs(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name);
    std::fs::read_to_string(path).unwrap()
}

/// A fault under the VMA lock, a writer that still holds, one that waits, a gap.
fn events() -> Vec<Event> {
    let mut events = Vec::new();
    let mut push = |kind: Kind, tid: u32, flags: u16, arg: u32| {
        let at = u32::try_from(events.len()).unwrap();
        let mut event = Event::synthetic(kind, 1_000 + 1_000 * u64::from(at));
        event.header.seq = at;
        event.header.tid = tid;
        event.header.pid = 7;
        event.header.comm[..4].copy_from_slice(b"work");
        event.header.flags = flag::MM | flags;
        event.body.mm = 0xffff_8880_1234_0000;
        event.body.vma = 0xffff_8881_1234_0000;
        event.body.vm_start = 0x1000;
        event.body.vm_end = 0x2000;
        // Nobody knows who those six are that the writer meets.
        event.body.vm_refcnt = if kind == Kind::VmaWriteAcquire { 7 } else { 2 };
        event.body.arg = arg;
        events.push(event);
    };
    let vma = flag::VMA | flag::RANGE | flag::REFCNT;
    push(Kind::VmaReadAcquire, 8, vma, 0);
    push(Kind::FaultBegin, 8, vma, 0x1040_0000);
    push(Kind::FaultEnd, 8, vma, 0x1040_0000);
    push(Kind::MmapStart, 9, flag::WRITE, 0);
    push(Kind::MmapAcquire, 9, flag::WRITE, 0);
    push(Kind::VmaWriteStart, 9, vma, 0);
    push(Kind::VmaWriteAcquire, 9, vma, 0);
    push(Kind::MmapStart, 8, 0, 0);
    push(Kind::MmapRelease, 77, 0, 0);
    events
}

fn run(
    out: &mut impl FnMut(&Event, &tracer::state::Meta),
) -> (SourceInfo, Engine, Accounting, Contention, Order, Losses) {
    let mut info = SourceInfo {
        source: "live".into(),
        self_pid: 7,
        ..SourceInfo::default()
    };
    info.kernel.release = "7.3.4".into();
    info.kernel.machine = "x86_64".into();
    info.unseen.push(UnseenInfo {
        operation: "vma_read_release".into(),
        function: "userfaultfd, madvise, /proc/PID/maps".into(),
        reason: "it is inlined there, and this version attaches to functions only: such a release is \
                 bounded by the task's next event"
            .into(),
        remedy: String::new(),
    });
    let mut engine = Engine::new(&info);
    engine.keep_notes();
    let mut contention = Contention::default();
    let mut order = Order::new(0);
    for event in &events() {
        order.push(event);
    }
    let losses = Losses {
        cpus: vec![CpuLosses {
            produced: 12,
            dropped: 3,
            received: 9,
        }],
        missed: 0,
        ..Losses::default()
    };
    let mut accounting = Accounting::new(&info);
    order.finish(&losses, &mut |event| {
        engine.apply(event, out);
        accounting.observe(&engine, event);
        contention.observe(&engine, event);
    });
    accounting.finish();
    contention.finish(&engine);
    (info, engine, accounting, contention, order, losses)
}

fn report() -> Report {
    let (info, engine, accounting, contention, order, losses) = run(&mut |_, _| {});
    Report::new(&Inputs {
        info: &info,
        engine: &engine,
        order: &order,
        accounting: Some(&accounting),
        contention: Some(&contention),
        stacks: &Stacks::default(),
        losses: &losses,
        complete: true,
        warnings: vec!["a.rec: truncated at offset 16; what comes before is good".into()],
        addresses: &Addresses::raw(),
    })
}

#[test]
fn lines_have_the_fields_and_types_of_their_schema() {
    let schema: Value = serde_json::from_str(&docs("schema/event.schema.json")).unwrap();
    let properties = schema["properties"].as_object().unwrap();
    let kinds: BTreeSet<&str> = properties["kind"]["enum"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let known: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(kinds, known);

    let mut writer = JsonlWriter::new(Vec::new(), &SourceInfo::default(), Addresses::hashed());
    run(&mut |event, meta| writer.write(event, meta).unwrap());
    let text = String::from_utf8(writer.finish().unwrap()).unwrap();
    assert_eq!(text.lines().count(), 11);
    let prose = docs("schema/jsonl.md");
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let line = line.as_object().unwrap();
        assert!(line.keys().eq(properties.keys()), "fields differ: {line:?}");
        for (name, value) in line {
            let property = &properties[name];
            let fits = match &property["enum"] {
                Value::Array(values) => values.contains(value),
                _ => {
                    let types = property["type"].to_string();
                    types.contains(match value {
                        Value::Null => "null",
                        Value::Bool(_) => "boolean",
                        Value::Number(_) => "integer",
                        Value::String(_) => "string",
                        _ => "nothing",
                    })
                }
            };
            assert!(fits, "{name}: {value}");
            assert!(prose.contains(&format!("`{name}`")), "{name} is not documented");
        }
    }
}

#[test]
fn the_report_has_what_is_documented() {
    let value: Value = serde_json::from_str(&report().to_json().unwrap()).unwrap();
    let prose = docs("schema/stats.md");
    for name in value.as_object().unwrap().keys() {
        assert!(prose.contains(&format!("`{name}")), "{name} is not documented");
    }
    assert_eq!(value["schema"], "tracer.stats.v1");
    assert_eq!(value["kernel"]["release"], "7.3.4");
    let events = &value["events"];
    let by_kind = events["by_kind"].as_object().unwrap();
    assert_eq!(by_kind.len(), Kind::ALL.len());
    let sum: u64 = by_kind.values().filter_map(Value::as_u64).sum();
    assert_eq!(events["total"], sum);
    assert_eq!(
        (
            &events["received"],
            &events["derived"],
            &events["gaps"],
            &events["missing"],
            &events["dropped"]
        ),
        (&9.into(), &1.into(), &1.into(), &3.into(), &3.into())
    );
    assert_eq!(value["cpus"][0]["balanced"], true);
    let accounting = &value["accounting"];
    assert_eq!(
        (&accounting["checked"], &accounting["closed"], &accounting["open"]),
        (&5.into(), &4.into(), &1.into())
    );
    assert_eq!(accounting["first"][0]["vm_refcnt"], 7);
    assert_eq!(accounting["open_by_reason"]["gap"], 1, "the stream ends in a gap");
    for name in accounting.as_object().unwrap().keys() {
        assert!(
            prose.contains(&format!("`{name}")) || prose.contains(name),
            "{name} is not documented"
        );
    }
    assert_eq!(value["faults"]["vma_lock"], 1);
    assert_eq!(value["user_faults"]["total"], 1);
    assert_eq!(value["self"]["events"], 9);
    for lock in ["mmap_read", "mmap_write", "vma_read", "vma_write"] {
        assert_eq!(value["balance"][lock]["balanced"], true, "{lock}");
    }
    let writer = value["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|task| task["tid"] == 9)
        .unwrap();
    assert_eq!(writer["held"][0]["lock"], "mmap_write");
    assert_eq!(
        writer["held"][0]["certainty"], "unknown",
        "the stream ends in a gap"
    );
    assert_eq!(writer["is_self"], true);
    let waiting = value["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|task| task["tid"] == 8)
        .unwrap();
    assert_eq!(waiting["wait"]["lock"], "mmap_read");
}

#[test]
fn the_tables_fit_into_80_columns() {
    let mut out = Vec::new();
    render(
        &report(),
        Style {
            bold: false,
            rows: 20,
            sections: Vec::new(),
        },
        &mut out,
    )
    .unwrap();
    let text = String::from_utf8(out).unwrap();
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    insta::assert_snapshot!(text);
}

#[test]
fn an_empty_stream_makes_a_report() {
    let info = SourceInfo::default();
    let report = Report::new(&Inputs {
        info: &info,
        engine: &Engine::new(&info),
        order: &Order::new(0),
        accounting: None,
        contention: None,
        stacks: &Stacks::default(),
        losses: &Losses::default(),
        complete: false,
        warnings: Vec::new(),
        addresses: &Addresses::hashed(),
    });
    let mut out = Vec::new();
    render(&report, Style::default(), &mut out).unwrap();
    assert!(String::from_utf8(out).unwrap().contains("none"));
}
