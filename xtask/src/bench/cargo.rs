//! Rows that `cargo bench` or the compiler gives.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tracer_common::wire;

use super::Row;
use crate::{build, deps, ui, ws};

pub(super) const ENGINE: &str = "engine";
pub(super) const GROWTH: &str = "growth";
pub(super) const EVENT_SIZE: &str = "event-size";
pub(super) const RECORDING: &str = "recording";
pub(super) const SCREEN: &str = "screen";
pub(super) const LOCK: &str = "lock";

/// Events a second that the engine must take, in millions.
const ENGINE_RATE: f64 = 2.0;
/// The stage with the shadow lock and all assertions.
const CHECKS: &str = "engine + checks";
/// Largest event, in bytes.
const LARGEST: usize = 96;

fn bench(package: &str, target: &str) -> Result<String> {
    let mut command = deps::cargo();
    command.args(["bench", "--quiet", "--package", package, "--bench", target]);
    command.arg("--target-dir").arg(ws::target());
    ui::step(&format!("cargo bench of {package}: {target}"), || {
        ws::capture(&mut command)
    })
}

/// `tracer/benches/engine.rs`.
pub(super) fn engine() -> Result<Vec<Row>> {
    // The program embeds the eBPF object, so nothing compiles without it.
    build::ebpf()?;
    let said = bench("tracer", "engine")?;
    let stages = rates(&said);
    let engine = stages.iter().find(|(name, _)| name == "engine");
    let (_, rate) = engine.with_context(|| format!("the benchmark told no rate of the engine:\n{said}"))?;
    let checks = stages.iter().find(|(name, _)| name == CHECKS);
    let (_, checks) = checks.with_context(|| format!("the benchmark told no rate of the checks:\n{said}"))?;
    let mut figures = json!({"required_million_per_s": ENGINE_RATE});
    for (name, rate) in &stages {
        figures[name] = json!(rate);
    }
    Ok(vec![Row {
        name: ENGINE,
        measured: format!("{rate:.2} million events/s, {checks:.2} with all checks"),
        required: Some(format!(
            "{ENGINE_RATE} million events/s on one CPU, checks included"
        )),
        met: rate.min(*checks) >= ENGINE_RATE,
        method: "`cargo bench -p tracer --bench engine`: 4 million made events, best of 3 passes of each stage",
        notes: said.lines().map(str::trim_end).map(ToOwned::to_owned).collect(),
        figures,
    }])
}

/// How many times as much an event may take when 10,000 times as many VMAs or tasks are known.
const GROWS: f64 = 10.0;
/// What is measured of each size, and as people call it.
const GROWING: [(&str, &str); 3] = [
    ("engine_ns", "engine"),
    ("statistics_ns", "with statistics"),
    ("checks_ns", "with checks"),
];

/// `tracer/benches/growth.rs`.
pub(super) fn growth() -> Result<Vec<Row>> {
    build::ebpf()?;
    let said = bench("tracer", "growth")?;
    let figures = said
        .lines()
        .last()
        .and_then(|line| serde_json::from_str::<Value>(line).ok());
    let figures = figures.with_context(|| format!("the last line of the benchmark is no JSON:\n{said}"))?;
    let (mut measured, mut most) = (Vec::new(), 0.0_f64);
    for (name, label) in [("vmas", "VMAs"), ("tasks", "tasks")] {
        let all = figures[name].as_array().map(Vec::as_slice).unwrap_or_default();
        let (Some(first), Some(last)) = (all.first(), all.last()) else {
            bail!("the benchmark told of no {name}:\n{said}");
        };
        let mut words = Vec::new();
        for (stage, label) in GROWING {
            let each = |one: &Value| {
                let ns = one[stage].as_f64().filter(|ns| *ns > 0.0);
                ns.with_context(|| format!("the benchmark told no {stage}:\n{said}"))
            };
            let times = each(last)? / each(first)?;
            most = most.max(times);
            words.push(format!("{times:.1} ({label})"));
        }
        measured.push(format!(
            "from {} to {} {label} an event takes {} times as long",
            first["size"],
            last["size"],
            words.join(", ")
        ));
    }
    Ok(vec![Row {
        name: GROWTH,
        measured: measured.join("; "),
        required: Some(format!("at most {GROWS} times as long, for 10,000 times as many")),
        met: most <= GROWS,
        method: "`cargo bench -p tracer --bench growth`: 1.5 million made events, best of 3 passes of each",
        notes: said.lines().map(str::trim_end).map(ToOwned::to_owned).collect(),
        figures,
    }])
}

/// Lines such as `engine + jsonl   1.23 million events/s`.
fn rates(said: &str) -> Vec<(String, f64)> {
    let lines = said
        .lines()
        .filter_map(|line| line.trim_end().strip_suffix(" million events/s"));
    lines
        .filter_map(|line| {
            let (name, rate) = line.trim_end().rsplit_once(' ')?;
            Some((name.trim_end().to_owned(), rate.parse().ok()?))
        })
        .collect()
}

/// `tracer/benches/recording.rs`: what is measured, what a unit of it is called, how many of the benchmark's own units
/// that is, and its limit.
const RECORDING_LIMITS: [(&str, &str, f64, Limit); 5] = [
    ("bytes_per_event", "bytes an event", 1.0, Limit::AtMost(12.0)),
    ("write_per_s", "million/s written", 1e6, Limit::AtLeast(1.0)),
    ("read_per_s", "million/s read", 1e6, Limit::AtLeast(10.0)),
    (
        "seek_worst_ms",
        "ms for the slowest of 100 seeks",
        1.0,
        Limit::AtMost(50.0),
    ),
    ("resident_kib", "MiB resident", 1024.0, Limit::AtMost(256.0)),
];

/// What a figure has to be.
#[derive(Clone, Copy)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

/// `tracer/benches/recording.rs`.
pub(super) fn recording() -> Result<Vec<Row>> {
    build::ebpf()?;
    let said = bench("tracer", "recording")?;
    let figures = said
        .lines()
        .last()
        .and_then(|line| serde_json::from_str::<Value>(line).ok());
    let figures = figures.with_context(|| format!("the last line of the benchmark is no JSON:\n{said}"))?;
    let (mut measured, mut required, mut met) = (Vec::new(), Vec::new(), true);
    for (name, unit, each, limit) in RECORDING_LIMITS {
        let value = figures[name].as_f64();
        let value = value.with_context(|| format!("the benchmark told no {name}:\n{said}"))? / each;
        measured.push(format!("{value:.2} {unit}"));
        let (words, most) = match limit {
            Limit::AtLeast(least) => ("at least", least),
            Limit::AtMost(most) => ("at most", most),
        };
        required.push(format!("{words} {most} {unit}"));
        met &= match limit {
            Limit::AtLeast(least) => value >= least,
            Limit::AtMost(most) => value <= most,
        };
    }
    Ok(vec![Row {
        name: RECORDING,
        measured: measured.join(", "),
        required: Some(required.join(", ")),
        met,
        method: "`cargo bench -p tracer --bench recording`: 10 million events of the bundled lock; rates by the time that the processor gave to all threads",
        notes: said.lines().map(str::trim_end).map(ToOwned::to_owned).collect(),
        figures,
    }])
}

/// `tracer/benches/screen.rs`: what is measured, its most, and its unit.
const SCREEN_LIMITS: [(&str, f64, &str); 7] = [
    ("frame-p99", 8.0, "ms"),
    ("cpu", 10.0, "%"),
    ("input-p99", 100.0, "ms"),
    ("lost", 0.0, "events"),
    ("lost-at-60", 0.0, "events"),
    ("start", 2.0, "s"),
    ("back-worst", 200.0, "ms"),
];
/// Frames a second that have to be drawn when 60 are asked for.
const FRAMES: f64 = 55.0;

/// `tracer/benches/screen.rs`.
pub(super) fn screen() -> Result<Vec<Row>> {
    build::ebpf()?;
    let said = bench("tracer", "screen")?;
    let mut figures = json!({});
    let (mut measured, mut required) = (Vec::new(), Vec::new());
    let told = |name| figure(&said, name).with_context(|| format!("the benchmark told no {name}:\n{said}"));
    let frames = told("frames-at-60")?;
    figures["frames-at-60"] = json!(frames);
    let mut met = frames >= FRAMES;
    for (name, most, unit) in SCREEN_LIMITS {
        required.push(format!("{name} {most} {unit}"));
        // Needs root, and a kernel that lets itself be traced.
        if name == "start" && figure(&said, name).is_none() {
            measured.push("start not measured".to_owned());
            met = false;
            continue;
        }
        let value = told(name)?;
        figures[name] = json!(value);
        measured.push(format!("{name} {value} {unit}"));
        met &= value <= most;
    }
    measured.push(format!("{frames} frames a second of 60"));
    Ok(vec![Row {
        name: SCREEN,
        measured: measured.join(", "),
        required: Some(format!(
            "at most {}; {FRAMES} frames a second of 60",
            required.join(", ")
        )),
        met,
        method: "`cargo bench -p tracer --bench screen`: 200,000 events/s of 10,000 tasks by the clock for 40 s, a key every 211 ms, all views at 200x60; 10 million events to go back in; `tracer` started on a terminal here",
        notes: said.lines().map(str::trim_end).map(ToOwned::to_owned).collect(),
        figures,
    }])
}

/// Of a line such as `cpu 3.20 %` the number.
fn figure(said: &str, name: &str) -> Option<f64> {
    said.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
    })
}

/// What the compiler says of the wire format.
pub(super) fn event_size() -> Result<Vec<Row>> {
    let (mmap, vma) = (size_of::<wire::MmapEvent>(), size_of::<wire::VmaEvent>());
    let largest = mmap.max(vma);
    ensure!(
        largest <= wire::MAX_EVENT,
        "an event is larger than MAX_EVENT says"
    );
    Ok(vec![Row {
        name: EVENT_SIZE,
        measured: format!("{largest} bytes"),
        required: Some(format!("at most {LARGEST} bytes")),
        met: largest <= LARGEST,
        method: "size_of the types that the probes write",
        notes: vec![format!(
            "mmap_*: {mmap} bytes; vma_*, fault_*: {vma} bytes; the ring adds 8 to each"
        )],
        figures: json!({"mmap": mmap, "vma": vma, "max_event": wire::MAX_EVENT}),
    }])
}

/// `common/benches/lock.rs`.
pub(super) fn lock() -> Result<Vec<Row>> {
    if !ws::root().join("common/benches/lock.rs").exists() {
        return Ok(vec![Row {
            name: LOCK,
            measured: "not measured: common has no such benchmark yet".to_owned(),
            ..Row::default()
        }]);
    }
    let said = bench("tracer-common", "lock")?;
    if said.trim().is_empty() {
        bail!("the benchmark printed nothing");
    }
    Ok(vec![Row {
        name: LOCK,
        measured: "as printed below".to_owned(),
        method: "`cargo bench -p tracer-common --bench lock`, as it is",
        notes: said.lines().map(str::trim_end).map(ToOwned::to_owned).collect(),
        figures: json!({"output": said}),
        ..Row::default()
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_found() {
        let said = "order      10.50 million events/s\nnoise\nengine + jsonl        0.75 million events/s\n";
        assert_eq!(
            rates(said),
            [("order".to_owned(), 10.5), ("engine + jsonl".to_owned(), 0.75)]
        );
    }
}
