//! The whole set of probes on a real kernel, in a virtual machine: how long until the first event.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::native::field;
use super::{Row, thousands};
use crate::vm::{Guest, Tools};
use crate::{build, kernels, ui, ws};

pub(super) const FIRST_EVENT: &str = "first-event";
pub(super) const ATTACH_DETACH: &str = "attach-detach";

const KERNEL: &str = "7.3";
/// From exec to the first event, in ms.
const REQUIRED_MS: f64 = 1000.0;
const RUNS: usize = 3;

/// A thread touches a fresh page every 10 ms, so there is always an event soon. Run `v` is only for its messages:
/// they cost time, and so does the kernel side of them.
const SCRIPT: &str = "
workload tick --pages 100000 >/dev/null 2>/out/tick.err &
tick=$!
sleep 1
tracer sites >/dev/null || exit 1
n=1
while [ $n -le RUNS ]; do
  stamp /out/$n.start tracer record -o /out/$n.rec --duration 200ms 2>/out/$n.err || exit 1
  n=$((n + 1))
done
stamp /out/v.start tracer -vv record -o /out/v.rec --duration 2s 2>/out/v.err &
v=$!
while kill -0 $v 2>/dev/null; do
  cat /proc/$v/status >/out/status.new 2>/dev/null && grep -q VmHWM /out/status.new && mv /out/status.new /out/status
  sleep 0.2
done
wait $v || exit 1
n=1
while [ $n -le RUNS ]; do
  tracer -v doctor >/out/doctor 2>/out/$n.doctor || exit 1
  n=$((n + 1))
done
kill -0 $tick || exit 1
kill $tick
";

/// One start of `record`, in ms since its exec.
#[derive(Debug)]
struct Start {
    /// Its probes are on: the recording's own start.
    started: f64,
    /// The first event.
    first: f64,
}

impl Start {
    fn read(out: &Path, name: &str) -> Result<Self> {
        let stamp = out.join(format!("{name}.start"));
        let text = fs::read_to_string(&stamp).with_context(|| format!("reading {}", stamp.display()))?;
        let exec: u64 = text.trim().parse().context("the time of exec")?;
        let recording = out.join(format!("{name}.rec"));
        let bytes = fs::read(&recording).with_context(|| format!("reading {}", recording.display()))?;
        let (start, first) = times(&bytes).with_context(|| format!("in {name}.rec"))?;
        let since = |ns: u64| ns.saturating_sub(exec) as f64 / 1e6;
        Ok(Self {
            started: since(start),
            first: since(first),
        })
    }

    fn line(&self, name: &str) -> String {
        format!(
            "{name}: first event after {:.0} ms; the recording starts after {:.0} ms",
            self.first, self.started
        )
    }

    fn json(&self) -> Value {
        json!({"first_event_ms": self.first, "recording_starts_ms": self.started})
    }
}

/// Start of the source and time of the first event, from the frames of a recording.
fn times(bytes: &[u8]) -> Result<(u64, u64)> {
    const PREFIX: usize = 16;
    const FRAME: usize = 40;
    const HEADER: u8 = 1;
    const EVENTS: u8 = 2;
    let mut start = None;
    let mut rest = bytes.get(PREFIX..).context("it is too short")?;
    loop {
        let Some((frame, behind)) = rest.split_at_checked(FRAME) else {
            bail!("it has no events");
        };
        let number = |at: usize, len: usize| {
            frame[at..at + len]
                .iter()
                .rev()
                .fold(0, |n, &b| n << 8 | u64::from(b))
        };
        ensure!(
            frame.starts_with(b"fRm\x01"),
            "it has no frame where one should be"
        );
        let len = usize::try_from(number(8, 4)).context("the length of a frame")?;
        let (payload, next) = behind.split_at_checked(len).context("a frame is cut off")?;
        match frame[4] {
            HEADER => {
                let info: Value = serde_json::from_slice(payload).context("its header")?;
                start = info["start_monotonic_ns"].as_u64();
            }
            EVENTS => return Ok((start.context("its header tells no start")?, number(24, 8))),
            _ => {}
        }
        rest = next;
    }
}

/// What one guest gave.
struct Booted {
    starts: Vec<Start>,
    /// The one that told its phases.
    verbose: Start,
    phases: Vec<String>,
    memory_kib: u64,
    /// Attached and detached, in ms.
    doctor: Vec<(u64, u64)>,
}

/// Measures both rows.
pub(super) fn run() -> Result<Vec<Row>> {
    let kernel = kernels::get(KERNEL)?;
    let tools = Tools::get(true)?;
    let stamp = build::guest_bin("stamp")?;
    let boot = |icount: bool, runs: usize| -> Result<Booted> {
        let scratch = ws::Scratch::new(Some(&ws::target().join("bench")))?;
        let mut guest = Guest::new(kernel.clone(), tools.clone());
        guest.adds.push((stamp.clone(), "/usr/bin/stamp".to_owned()));
        guest.out = Some(scratch.path().to_owned());
        guest.timeout = Duration::from_secs(if icount { 300 } else { 180 });
        guest.icount = icount;
        if icount {
            guest.smp = 1;
        }
        let outcome = guest.sh(&SCRIPT.replace("RUNS", &runs.to_string()))?;
        if let Some(trouble) = outcome.trouble() {
            bail!("{trouble}");
        }
        let said = |name: &str| fs::read_to_string(scratch.path().join(name)).unwrap_or_default();
        ensure!(
            outcome.status == 0,
            "the guest's command ended with {}: {}{}{}",
            outcome.status,
            String::from_utf8_lossy(&outcome.stderr),
            said("1.err"),
            said("tick.err")
        );
        gather(scratch.path(), runs)
    };
    let clock = ui::step(&format!("guest {KERNEL}: first event, {RUNS} times"), || {
        boot(false, RUNS)
    })?;
    // Only a help to compare two builds: it must not take the measurement with it.
    let counted = ui::step(
        &format!("guest {KERNEL}: the same, time counted in instructions"),
        || boot(true, RUNS),
    );
    Ok(vec![
        first_event(&clock, &counted),
        attach_detach(&clock, &counted),
    ])
}

fn gather(out: &Path, runs: usize) -> Result<Booted> {
    let text =
        |name: &str| fs::read_to_string(out.join(name)).with_context(|| format!("the guest left no {name}"));
    let starts = (1..=runs).map(|n| Start::read(out, &n.to_string()));
    let doctor = (1..=runs).map(|n| {
        let said = text(&format!("{n}.doctor"))?;
        let ms =
            |what: &str| after(&said, what).with_context(|| format!("doctor did not say `{what}`:\n{said}"));
        Ok((ms("note: attached in ")?, ms("note: detached in ")?))
    });
    Ok(Booted {
        starts: starts.collect::<Result<_>>()?,
        verbose: Start::read(out, "v")?,
        phases: phases(&text("v.err")?),
        memory_kib: field(&text("status")?, "VmHWM:").context("the recorder's memory")?,
        doctor: doctor.collect::<Result<_>>()?,
    })
}

/// The number that follows `what` in a line.
fn after(said: &str, what: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| line.split_once(what))?.1;
    line.split(' ').next()?.parse().ok()
}

/// The phases that `-vv` tells, in ms; those of single programs are added up.
fn phases(said: &str) -> Vec<String> {
    let mut list = Vec::new();
    let (mut programs, mut sum, mut slowest) = (0, 0, (0, ""));
    for line in said.lines() {
        let Some((what, ms)) = line
            .strip_prefix("tracer: debug: ")
            .and_then(|l| l.split_once(" in "))
        else {
            continue;
        };
        let Some(ms) = ms.strip_suffix(" ms").and_then(|ms| ms.parse::<u64>().ok()) else {
            continue;
        };
        match what.strip_suffix(" attached") {
            Some(program) => {
                programs += 1;
                sum += ms;
                slowest = slowest.max((ms, program));
            }
            None => list.push(format!("{what} {ms} ms")),
        }
    }
    if programs > 0 {
        list.push(format!(
            "{programs} programs attached {sum} ms (slowest: {} {} ms)",
            slowest.1, slowest.0
        ));
    }
    list
}

fn first_event(clock: &Booted, counted: &Result<Booted>) -> Row {
    let best = clock.starts.iter().map(|s| s.first).fold(f64::MAX, f64::min);
    let mut notes: Vec<_> = (1..)
        .zip(&clock.starts)
        .map(|(n, s)| s.line(&format!("run {n}")))
        .collect();
    let tell = |notes: &mut Vec<String>, how: &str, booted: &Booted| {
        notes.push(booted.verbose.line(&format!("{how}, with -vv")));
        notes.push(format!("{how}, phases: {}", booted.phases.join(", ")));
        notes.push(format!(
            "{how}: the recorder took {} KiB",
            thousands(booted.memory_kib)
        ));
    };
    tell(&mut notes, "emulated", clock);
    match counted {
        Ok(counted) => {
            let starts = (1..).zip(&counted.starts);
            notes.extend(starts.map(|(n, s)| s.line(&format!("1 instruction = 1 ns, one CPU, run {n}"))));
            tell(&mut notes, "1 instruction = 1 ns", counted);
        }
        Err(error) => notes.push(format!("counting instructions failed: {error:#}")),
    }
    let all = |booted: &Booted| {
        let starts: Vec<_> = booted.starts.iter().map(Start::json).collect();
        json!({
            "runs": starts, "verbose": booted.verbose.json(), "phases": booted.phases,
            "vm_hwm_kib": booted.memory_kib,
        })
    };
    Row {
        name: FIRST_EVENT,
        measured: format!("{best:.0} ms after exec, in an emulated {KERNEL} guest"),
        required: Some(format!("at most {REQUIRED_MS} ms")),
        met: best <= REQUIRED_MS,
        method: "best of 3 starts of `tracer record`, all probes: time of the first event less time of exec",
        notes,
        figures: json!({
            "required_ms": REQUIRED_MS, "emulated": all(clock), "icount": counted.as_ref().ok().map(all),
        }),
    }
}

fn attach_detach(clock: &Booted, counted: &Result<Booted>) -> Row {
    let fastest = |booted: &Booted| {
        let attach = booted.doctor.iter().map(|d| d.0).min().unwrap_or(0);
        let detach = booted.doctor.iter().map(|d| d.1).min().unwrap_or(0);
        (attach, detach)
    };
    let (attach, detach) = fastest(clock);
    let mut notes: Vec<_> = (1..)
        .zip(&clock.doctor)
        .map(|(n, (attach, detach))| format!("run {n}: attached in {attach} ms, detached in {detach} ms"))
        .collect();
    if let Ok(counted) = counted {
        let (attach, detach) = fastest(counted);
        notes.push(format!(
            "1 instruction = 1 ns, one CPU: attached in {attach} ms, detached in {detach} ms"
        ));
    }
    Row {
        name: ATTACH_DETACH,
        measured: format!("attached in {attach} ms, detached in {detach} ms"),
        method: "best of 3 of `tracer -v doctor` in the same guest; attaching includes the verifier",
        notes,
        figures: json!({
            "emulated": clock.doctor, "icount": counted.as_ref().ok().map(|c| &c.doctor),
        }),
        ..Row::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_from_the_frames() {
        let mut bytes = vec![0; 16];
        let mut frame = |kind: u8, first: u64, payload: &[u8]| {
            let mut header = [0; 40];
            header[..4].copy_from_slice(b"fRm\x01");
            header[4] = kind;
            header[8] = u8::try_from(payload.len()).unwrap();
            header[24..32].copy_from_slice(&first.to_le_bytes());
            bytes.extend_from_slice(&header);
            bytes.extend_from_slice(payload);
        };
        frame(1, 0, br#"{"start_monotonic_ns": 123456789012}"#);
        frame(3, 0, b"{}");
        frame(2, 0x0102_0304_0506, b"events");
        assert_eq!(times(&bytes).unwrap(), (123_456_789_012, 0x0102_0304_0506));
        assert!(times(&bytes[..bytes.len() - 1]).is_err());
        assert!(times(&bytes[..60]).is_err());
        assert!(times(b"").is_err());
    }

    #[test]
    fn phases_are_added_up() {
        let said = "tracer: debug: maps made in 26 ms\ntracer: note: x in 3 ms\n\
                    tracer: debug: a attached in 1 ms\ntracer: debug: b attached in 4 ms\n";
        assert_eq!(
            phases(said),
            ["maps made 26 ms", "2 programs attached 5 ms (slowest: b 4 ms)"]
        );
        assert_eq!(
            after("tracer: note: attached in 17 ms\n", "attached in "),
            Some(17)
        );
    }
}
