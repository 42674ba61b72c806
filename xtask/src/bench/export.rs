//! `tracer export` of ten million events.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Row, thousands};
use crate::{build, ui, ws};

pub(super) const EXPORT: &str = "export";
pub(super) const JSONL: &str = "export-jsonl";
pub(super) const PARQUET: &str = "export-parquet";
pub(super) const PERFETTO: &str = "export-perfetto";
pub(super) const CSV: &str = "export-csv";
pub(super) const HTML: &str = "export-html";
pub(super) const FOLDED: &str = "export-folded";

const EVENTS: u64 = 10_000_000;
/// The most memory that any of them may ever have had, in KiB.
const MEMORY_KIB: u64 = 256 << 10;
const RUNS: usize = 3;

/// Row, format, and the events a second that are required of it.
const FORMATS: [(&str, &str, Option<f64>); 6] = [
    (JSONL, "jsonl", Some(1.5e6)),
    (PARQUET, "parquet", Some(2e6)),
    (PERFETTO, "perfetto", Some(1e6)),
    (CSV, "csv", None),
    (HTML, "html", None),
    (FOLDED, "folded", None),
];

/// What one run took.
#[derive(Debug)]
struct Run {
    wall_s: f64,
    cpu_s: f64,
    memory_kib: u64,
}

impl Run {
    fn rate(&self) -> f64 {
        EVENTS as f64 / self.wall_s
    }
}

/// Measures all formats.
pub(super) fn run() -> Result<Vec<Row>> {
    let tracer = build::tracer()?;
    let scratch = ws::Scratch::new(Some(&ws::target().join("bench")))?;
    let recording = scratch.path().join("big.rec");
    ui::step("export: making a recording of 10 million events", || {
        ws::capture(
            Command::new(build::sample()?)
                .arg(&recording)
                .arg(EVENTS.to_string()),
        )
        .map(drop)
    })?;
    let bytes = fs::metadata(&recording).context("big.rec")?.len();
    let mut rows = Vec::new();
    let mut worst = 0;
    let mut by_format = Vec::new();
    for (name, format, required) in FORMATS {
        let mut runs = Vec::new();
        for n in 1..=RUNS {
            let label = format!("export: {format}, run {n} of {RUNS}");
            runs.push(ui::step(&label, || {
                export(&tracer, &recording, format, scratch.path())
            })?);
        }
        let most = runs.iter().map(|run| run.memory_kib).max().unwrap_or(0);
        worst = worst.max(most);
        by_format.push(format!("{format} {} KiB", thousands(most)));
        rows.push(row(name, required, &runs));
    }
    rows.insert(
        0,
        Row {
            name: EXPORT,
            measured: format!("{} KiB", thousands(worst)),
            required: Some(format!("at most {} KiB", thousands(MEMORY_KIB))),
            met: worst > 0 && worst <= MEMORY_KIB,
            method: "the most memory that any run below ever had, by the kernel's own account",
            notes: vec![
                by_format.join(", "),
                format!(
                    "the recording: {} events, {} bytes",
                    thousands(EVENTS),
                    thousands(bytes)
                ),
            ],
            figures: json!({"max_rss_kib": worst, "required_kib": MEMORY_KIB, "recording_bytes": bytes}),
        },
    );
    Ok(rows)
}

fn row(name: &'static str, required: Option<f64>, runs: &[Run]) -> Row {
    let best = runs.iter().map(Run::rate).fold(0.0, f64::max);
    let notes = runs.iter().enumerate().map(|(n, run)| {
        format!(
            "run {}: {} events/s, {:.2} s, {:.2} s of CPU time, {} KiB",
            n + 1,
            thousands(run.rate() as u64),
            run.wall_s,
            run.cpu_s,
            thousands(run.memory_kib)
        )
    });
    let all: Vec<Value> = runs
        .iter()
        .map(|run| json!({"wall_s": run.wall_s, "cpu_s": run.cpu_s, "max_rss_kib": run.memory_kib}))
        .collect();
    Row {
        name,
        measured: format!("{} events/s", thousands(best as u64)),
        required: required.map(|rate| format!("{} events/s", thousands(rate as u64))),
        met: required.is_none_or(|rate| best >= rate),
        method: "best of 3 runs of the whole command on 10 million events, from its start to its end",
        notes: notes.collect(),
        figures: json!({"runs": all, "required_events_per_s": required}),
    }
}

fn export(tracer: &Path, recording: &Path, format: &str, scratch: &Path) -> Result<Run> {
    // What is written to a disk would measure the disk; a folder has to be one.
    let to = if format == "parquet" {
        scratch.join("lake")
    } else {
        PathBuf::from("/dev/null")
    };
    let mut command = Command::new(tracer);
    command
        .arg("export")
        .arg(recording)
        .args(["-f", format, "-o"])
        .arg(&to)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    ws::dies_with_us(&mut command, libc::SIGKILL);
    let start = Instant::now();
    let child = command
        .spawn()
        .with_context(|| format!("starting {}", tracer.display()))?;
    let pid = libc::pid_t::try_from(child.id()).context("a process ID")?;
    let mut status = 0;
    // SAFETY: all zeroes is a value of this plain structure.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: the pointers are to our own variables, and the child is ours and not waited for elsewhere.
        let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
        if waited == pid {
            break;
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error).context("waiting for tracer");
        }
    }
    let wall_s = start.elapsed().as_secs_f64();
    if format == "parquet" {
        fs::remove_dir_all(&to).with_context(|| format!("removing {}", to.display()))?;
    }
    ensure!(libc::WIFEXITED(status), "tracer was killed (status {status})");
    if libc::WEXITSTATUS(status) != 0 {
        bail!("`{}` failed ({})", ws::show(&command), libc::WEXITSTATUS(status));
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(Run {
        wall_s,
        cpu_s: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        // On Linux in KiB.
        memory_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
    })
}
