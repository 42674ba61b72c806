//! `tracer cut`: a part of a recording as a recording.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracer_common::wire::{Event, Kind};

use super::args::CutArgs;
use super::keep_apart;
use super::numbers::Numbers;
use crate::export::{Moment, Progress};
use crate::info::{Losses, SourceInfo};
use crate::order::Order;
use crate::pipeline::{self, Consumer, Ended, Stop};
use crate::recording::{self, RecordWriter};
use crate::say::tell;
use crate::sink::text::count;
use crate::source::Source as _;
use crate::source::replay::Replay;
use crate::stacks::Stacks;

const DONE: u8 = 0;
const USAGE: u8 = 2;

/// Runs `tracer cut`; the result is the exit code.
///
/// # Errors
/// If the recording cannot be read, or the new one not be written.
pub fn run(args: &CutArgs) -> anyhow::Result<u8> {
    keep_apart(&[&args.file], &args.output)?;
    let mut replay = Replay::open_as(&args.file, args.recover)?;
    let info = replay.info().clone();
    let from_ns = args.from.map_or(0, |from| from.monotonic_ns(&info));
    let to_ns = args.to.map_or(u64::MAX, |to| to.monotonic_ns(&info));
    if from_ns >= to_ns {
        tell!("--from is not before --to: nothing lies between them");
        return Ok(USAGE);
    }
    let mut stop = Stop::new(None)?;
    let mut cutter = Cutter {
        writer: recording::create(&args.output, &header(&info, args, from_ns))?,
        numbers: Numbers::default(),
        from_ns,
        to_ns,
        pids: args.pids.clone(),
        enough: stop.switch(),
        progress: Progress::default(),
        seen: 0,
        whole: Losses::default(),
    };
    let outcome = pipeline::run(&mut replay, &mut stop, &mut cutter)?;
    cutter.progress.clear();
    if let Some(warning) = replay.warning() {
        tell!("{warning}");
    }
    let losses = cutter.numbers.losses(&cutter.whole);
    let reason = if outcome.ended == Ended::Signal {
        "interrupt"
    } else {
        "cut"
    };
    let summary = cutter.writer.finish(&losses, reason)?;
    tell!(
        "{} events, {} gaps{}",
        count(summary.events - summary.gaps),
        count(summary.gaps),
        if reason == "interrupt" {
            ", up to where it was stopped"
        } else {
            ""
        }
    );
    Ok(DONE)
}

/// What the new recording says of itself.
fn header(info: &SourceInfo, args: &CutArgs, from_ns: u64) -> SourceInfo {
    let mut info = info.clone();
    // Nobody is to think that nothing happened before.
    let later = from_ns.saturating_sub(info.start_monotonic_ns);
    info.start_monotonic_ns += later;
    if info.start_realtime_ns > 0 {
        info.start_realtime_ns += later;
    }
    info.first_numbers = Vec::new();
    let mut what = vec![format!("cut from {}", args.file.display())];
    let said = |name: &str, moment: Option<Moment>| moment.map(|moment| format!("{name} {moment}"));
    what.extend(said("--from", args.from));
    what.extend(said("--to", args.to));
    for pid in &args.pids {
        what.push(format!("--pid {pid}"));
        info.filters.push(format!("pid {pid} (cut)"));
    }
    info.history.push(what.join(" "));
    info
}

struct Cutter {
    writer: RecordWriter,
    numbers: Numbers,
    from_ns: u64,
    to_ns: u64,
    pids: Vec<u32>,
    enough: Arc<AtomicBool>,
    progress: Progress,
    seen: u64,
    whole: Losses,
}

impl Consumer for Cutter {
    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        self.seen += 1;
        let ts_ns = event.header.ts_ns;
        if ts_ns >= self.to_ns {
            self.enough.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let is_gap = event.kind == Kind::Gap;
        if ts_ns < self.from_ns || !(is_gap || self.pids.is_empty() || self.pids.contains(&event.header.pid))
        {
            return Ok(());
        }
        let mut event = *event;
        self.numbers.number(&mut event);
        self.writer.push(&event)
    }

    fn stacks(&mut self, stacks: &Stacks) -> anyhow::Result<()> {
        self.writer.stacks(stacks)
    }

    fn far(&mut self, read: u64, length: u64) {
        self.progress.far(read, length);
    }

    fn round(&mut self, _order: &Order) -> anyhow::Result<()> {
        self.progress.show(self.seen);
        Ok(())
    }

    fn losses(&mut self, losses: &Losses) -> anyhow::Result<()> {
        self.whole.clone_from(losses);
        Ok(())
    }
}
