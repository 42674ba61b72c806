//! `tracer record --on`: wires a source to the recorder.

use anyhow::Context as _;
use tracer_common::wire::Event;

use super::recorder::{Options, Recorder};
use super::ring::Limits;
use crate::child::Output;
use crate::cli::RecordArgs;
use crate::commands::Progress;
use crate::disk;
use crate::info::Losses;
use crate::live_setup::{self, Started};
use crate::order::Order;
use crate::outside;
use crate::pipeline::{self, Consumer, Stop};
use crate::say::tell;
use crate::sink::text::count;
use crate::source::Source;
use crate::source::replay::Replay;
use crate::stacks::Stacks;

/// Records when a trigger fires.
///
/// # Errors
/// When the source fails, or a recording cannot be written.
pub fn record(args: &RecordArgs, log: bool) -> anyhow::Result<()> {
    let options = options(args)?;
    match &args.from {
        Some(file) => {
            anyhow::ensure!(
                !args.live.is_set(),
                "filters apply to the live kernel; leave out either them or --from {}",
                outside::path(file)
            );
            let mut replay = Replay::open(file)?;
            let stop = Stop::new(None)?;
            watch(&mut replay, stop, options)?;
            if let Some(warning) = replay.warning() {
                tell!("{warning}");
            }
            Ok(())
        }
        None => {
            let Started { mut live, stop } = live_setup::start(&args.live, log, Output::Shown)?;
            live_setup::tell_unseen(&live);
            watch(&mut live, stop, options)
        }
    }
}

fn options(args: &RecordArgs) -> anyhow::Result<Options> {
    let times = args.repeat.unwrap_or(1);
    if args.output.as_os_str() == "-" {
        anyhow::ensure!(
            times == 1,
            "several recordings do not fit into the standard output; give -o FILE"
        );
    } else {
        // Better now than when the moment has come.
        disk::check(&args.output)
            .with_context(|| format!("cannot write the recording {}", outside::path(&args.output)))?;
    }
    Ok(Options {
        output: args.output.clone(),
        triggers: args.on.clone(),
        limits: Limits {
            last_ns: u64::try_from(args.last.as_nanos()).unwrap_or(u64::MAX),
            bytes: args.max_bytes,
        },
        after_ns: u64::try_from(args.after.as_nanos()).unwrap_or(u64::MAX),
        times,
    })
}

fn watch<S: Source>(source: &mut S, mut stop: Stop, options: Options) -> anyhow::Result<()> {
    let last_ns = options.limits.last_ns;
    let mut shown = Shown {
        recorder: Recorder::new(options, source.info(), stop.switch()),
        progress: Progress::new(),
    };
    let outcome = pipeline::run(source, &mut stop, &mut shown)?;
    let evicted = shown.recorder.evicted();
    let done = shown.recorder.finish()?;
    shown.progress.clear();
    for line in &done.lines {
        tell!("{line}");
    }
    let events = count(outcome.order.stats().received);
    let dropped = count(outcome.losses.dropped());
    if done.files == 0 {
        tell!("no trigger fired in {events} events, {dropped} dropped; nothing was written");
    } else {
        let fired = count(u64::from(done.files) + done.meanwhile);
        tell!(
            "{fired} fired in {events} events, {dropped} dropped; {} written",
            if done.files == 1 {
                "1 recording was".to_owned()
            } else {
                format!("{} recordings were", done.files)
            }
        );
    }
    if evicted.by_bytes > 0 {
        tell!(
            "{} events younger than {} had to make room; give more --max-bytes",
            count(evicted.by_bytes),
            crate::sink::text::duration(last_ns)
        );
    }
    Ok(())
}

struct Shown {
    recorder: Recorder,
    progress: Progress,
}

impl Consumer for Shown {
    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        self.recorder.event(event)
    }

    fn stacks(&mut self, stacks: &Stacks) -> anyhow::Result<()> {
        self.recorder.stacks(stacks)
    }

    fn round(&mut self, order: &Order) -> anyhow::Result<()> {
        self.recorder.round(order)?;
        let Self { recorder, progress } = self;
        progress.show(|| recorder.progress());
        Ok(())
    }

    fn losses(&mut self, losses: &Losses) -> anyhow::Result<()> {
        self.recorder.losses(losses)
    }
}
