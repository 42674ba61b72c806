//! `tracer merge`: several recordings as one, on one clock.

mod arrange;
mod clocks;
mod overlap;
mod part;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::args::MergeArgs;
use super::keep_apart;
use super::numbers::Numbers;
use crate::export::{Meter, Progress};
use crate::info::{Losses, PartInfo};
use crate::outside;
use crate::recording;
use crate::say::tell;
use crate::sink::text::{count, duration};
use crate::stacks::Stacks;
use arrange::arrange;
use overlap::Overlap;
use part::Part;

const DONE: u8 = 0;

/// Runs `tracer merge`; the result is the exit code.
///
/// # Errors
/// If a recording cannot be read, the new one cannot be written, or there are too many hosts or CPUs.
pub fn run(args: &MergeArgs) -> anyhow::Result<u8> {
    let inputs: Vec<&Path> = args.files.iter().map(AsRef::as_ref).collect();
    keep_apart(&inputs, &args.output)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("cannot catch signals")?;
    }
    let mut parts = Vec::new();
    for file in &args.files {
        parts.push(Part::open(file, args.recover)?);
    }
    let info = arrange(&mut parts)?;
    for part in &info.shown().parts {
        tell!("{}", placed(part));
    }
    let mut writer = recording::create(&args.output, &info)?;
    let meter = Meter::default();
    let mut progress = Progress::over(parts.iter().filter_map(Part::len).sum(), meter.clone());
    let mut numbers = Numbers::default();
    let mut stacks = Stacks::default();
    let mut overlap = Overlap::default();
    let mut written = 0u64;
    let mut interrupted = false;
    while let Some(next) = earliest(&mut parts)? {
        let part = &mut parts[next];
        part.take_stacks(&mut stacks);
        writer.stacks(&stacks)?;
        let Some(mut event) = part.pop() else { continue };
        part.change(&mut event)?;
        overlap.saw(next, event.header.cpu);
        numbers.number(&mut event);
        writer.push(&event)?;
        written += 1;
        if written.is_multiple_of(4096) {
            meter.set(parts.iter_mut().map(Part::position).sum());
            progress.show(written);
            interrupted = stop.load(Ordering::Relaxed);
            if interrupted {
                break;
            }
        }
    }
    progress.clear();
    for part in &parts {
        if let Some(warning) = part.warning() {
            tell!("{warning}");
        }
    }
    for (one, other) in overlap.found() {
        tell!(
            "{} and {} are of one time and one CPU: what both recorded is in {} twice",
            parts[one].name(),
            parts[other].name(),
            outside::path(&args.output)
        );
    }
    let mut whole = Losses::default();
    for part in &parts {
        let losses = part.losses();
        whole.missed += losses.missed;
        whole.marks += losses.marks;
        whole.stacks += losses.stacks;
        for (why, number) in &losses.unpaired {
            *whole.unpaired.entry(why.clone()).or_default() += number;
        }
    }
    let reason = if interrupted { "interrupt" } else { "merge" };
    let summary = writer.finish(&numbers.losses(&whole), reason)?;
    tell!(
        "{} events of {} recordings, {} gaps",
        count(summary.events - summary.gaps),
        parts.len(),
        count(summary.gaps)
    );
    Ok(DONE)
}

/// The part whose next event comes first; all parts have one at hand or are at their end then.
fn earliest(parts: &mut [Part]) -> anyhow::Result<Option<usize>> {
    let mut found: Option<(u64, usize)> = None;
    for (at, part) in parts.iter_mut().enumerate() {
        if let Some(ts_ns) = part.peek()?
            && found.is_none_or(|(earliest, _)| ts_ns < earliest)
        {
            found = Some((ts_ns, at));
        }
    }
    Ok(found.map(|(_, at)| at))
}

fn placed(part: &PartInfo) -> String {
    let host = if part.host.is_empty() {
        "a host without a name"
    } else {
        &part.host
    };
    let clock = match part.uncertainty_ns {
        Some(0) => "its clock is that of the first".to_owned(),
        Some(error) => format!(
            "its clock was moved by {:+} ns, which is within {}",
            part.shift_ns,
            duration(error)
        ),
        None => format!(
            "its clock was moved by {:+} ns, and nothing tells how exact that is: a clock on the wall was not kept in step",
            part.shift_ns
        ),
    };
    format!(
        "{} of {host}: CPUs from {}, process IDs + {}; {clock}",
        part.file, part.first_cpu, part.pid_base
    )
}
