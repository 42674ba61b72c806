//! `tracer export`: a recording in the formats of other tools. `docs/exports.md` says what each is good for.
//!
//! Events go by one at a time, and nothing that grows with the recording is kept.

mod args;
mod intervals;
mod output;
mod pick;
mod progress;
mod stdin;

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tracer_common::wire::Event;

use crate::check::Checker;
use crate::contention::Contention;
use crate::info::{Losses, SourceInfo};
use crate::order::Order;
use crate::outside;
use crate::pipeline::{Ended, Stop};
use crate::recording::RecordReader;
use crate::say::tell;
use crate::sink::address::Addresses;
use crate::sink::csv::CsvWriter;
use crate::sink::folded::FoldedWriter;
use crate::sink::html::HtmlWriter;
use crate::sink::jsonl::JsonlWriter;
use crate::sink::parquet::ParquetWriter;
use crate::sink::perfetto::PerfettoWriter;
use crate::sink::text as words;
use crate::source::replay::Replay;
use crate::source::{Poll, Source as _};
use crate::stacks::Stacks;
use crate::state::{Engine, Meta};
use stdin::Stdin;

pub use args::{ExportArgs, Format, Measure, PickArgs, PrivacyArgs};
pub use intervals::{Holder, Interval, Intervals, Waiter};
pub use output::{Output, Whole};
pub use pick::{Moment, Pick};
pub use progress::{Meter, Progress};

const DONE: u8 = 0;

/// Takes what a recording holds, and writes it in some format.
pub trait Exporter {
    /// One event that was asked for, derived ones included, in the order of time.
    ///
    /// # Errors
    /// If it cannot be written.
    fn event(&mut self, _event: &Event, _meta: &Meta, _stacks: &Stacks) -> anyhow::Result<()> {
        Ok(())
    }

    /// Whether [`Self::interval`] shall be called.
    fn wants_intervals(&self) -> bool {
        false
    }

    /// Whether [`Ending::checker`] and [`Ending::contention`] shall be there, which takes time.
    fn wants_checks(&self) -> bool {
        false
    }

    /// One wait or hold that was asked for and has ended, nearly in the order of their ends.
    ///
    /// # Errors
    /// If it cannot be written.
    fn interval(&mut self, _interval: &Interval, _stacks: &Stacks) -> anyhow::Result<()> {
        Ok(())
    }

    /// What is known to be missing by `ts_ns`, now and then.
    ///
    /// # Errors
    /// If it cannot be written.
    fn losses(&mut self, _ts_ns: u64, _losses: &Losses) -> anyhow::Result<()> {
        Ok(())
    }

    /// Writes what is left, and puts the file in its place.
    ///
    /// # Errors
    /// If it cannot be written.
    fn finish(self: Box<Self>, end: &Ending<'_>) -> anyhow::Result<()>;
}

/// What is known at the end.
pub struct Ending<'a> {
    /// What is known of the stream.
    pub info: &'a SourceInfo,
    /// After the last event.
    pub engine: &'a Engine,
    /// After its `finish`.
    pub order: &'a Order,
    /// In sum.
    pub losses: &'a Losses,
    /// All stacks.
    pub stacks: &'a Stacks,
    /// The checks, after their `finish`, if they were wanted.
    pub checker: Option<&'a Checker>,
    /// Who was in whose way, if that was wanted.
    pub contention: Option<&'a Contention>,
    /// What was asked for.
    pub pick: &'a Pick,
    /// Whether the recording came to its end on purpose, and was read to there.
    pub complete: bool,
    /// What the reader should know.
    pub warnings: Vec<String>,
}

/// Runs `tracer export`; the result is the exit code.
///
/// # Errors
/// If the recording cannot be read, or the output cannot be written: then it is not at its place.
pub fn run(args: &ExportArgs) -> anyhow::Result<u8> {
    let mut reading = Reading::open(&args.file, &args.pick)?;
    let info = reading.replay.info().clone();
    let addresses = if args.privacy.raw_addresses {
        Addresses::raw()
    } else {
        Addresses::of(&info)
    };
    let exporter: Box<dyn Exporter> = match args.format {
        Format::Jsonl => Box::new(JsonlWriter::new(Output::create(&args.output)?, &info, addresses)),
        Format::Parquet => Box::new(ParquetWriter::new(&args.output, &info, addresses, args.privacy)?),
        Format::Perfetto => Box::new(PerfettoWriter::new(
            Output::create(&args.output)?,
            &info,
            addresses,
            args.privacy,
        )),
        Format::Folded | Format::Flamegraph => Box::new(FoldedWriter::new(
            Output::create(&args.output)?,
            args.measure,
            args.format == Format::Flamegraph,
        )),
        Format::Html => Box::new(HtmlWriter::new(
            Output::create(&args.output)?,
            info.start_monotonic_ns,
            addresses,
            args.privacy,
        )),
        Format::Csv => Box::new(CsvWriter::new(Output::create(&args.output)?, &info, addresses)?),
    };
    reading
        .run(exporter)
        .with_context(|| format!("cannot export to {}", outside::path(&args.output)))?;
    Ok(DONE)
}

/// A recording that is being read, and the engine that follows it.
pub struct Reading {
    replay: Replay,
    pick: Pick,
    progress: Progress,
    stop: Stop,
}

impl Reading {
    /// Opens a recording, `-` being the standard input.
    ///
    /// # Errors
    /// If it is none, or `pick` leaves nothing of it.
    pub fn open(path: &Path, pick: &PickArgs) -> anyhow::Result<Self> {
        let meter = Meter::default();
        let stop = Stop::new(None)?;
        let reader = if path.as_os_str() == "-" {
            let input = Stdin::new(stop.signal()).context("cannot read the standard input")?;
            RecordReader::new(Box::new(meter.count(input)) as Box<_>, "standard input")?
        } else {
            let name = outside::path(path);
            let file = File::open(path).with_context(|| format!("cannot read the recording {name}"))?;
            RecordReader::new(Box::new(meter.count(file)) as Box<_>, &name)?
        };
        let replay = Replay::new(reader);
        let pick = Pick::new(pick, replay.info())?;
        Ok(Self {
            replay,
            pick,
            progress: Progress::new(path, meter),
            stop,
        })
    }

    /// Reads to the end, or to what is asked for, or to ^C; then the exporter has written whole files.
    fn run(&mut self, mut exporter: Box<dyn Exporter>) -> anyhow::Result<()> {
        let info = self.replay.info().clone();
        let mut engine = Engine::new(&info);
        let mut intervals = exporter.wants_intervals().then(Intervals::default);
        let mut checks = exporter
            .wants_checks()
            .then(|| (Checker::new(&info), Contention::default()));
        if intervals.is_some() || checks.is_some() {
            engine.keep_notes();
        }
        let mut order = Order::beginning_with(info.start_monotonic_ns, &info.first_numbers);
        let mut ended = None;
        let mut missed = 0;
        let mut known = Losses::default();
        loop {
            if ended.is_none()
                && let Some(reason) = self.stop.due()?
            {
                ended = Some(reason);
                self.replay.stop();
            }
            let poll = self.replay.poll(Duration::ZERO, &mut |event| order.push(event))?;
            let losses = self.replay.losses()?;
            if losses != known {
                // A run that the kernel skipped leaves no hole in the numbering.
                let skipped = losses.missed != missed;
                missed = losses.missed;
                match &mut checks {
                    Some((checker, _)) => checker.losses(&mut engine, skipped),
                    None if skipped => engine.forget(),
                    None => {}
                }
                exporter.losses(engine.now_ns(), &losses)?;
                known.clone_from(&losses);
            }
            let stacks = self.replay.stacks();
            let pick = &self.pick;
            let mut past = false;
            let mut result = Ok(());
            let mut take = |event: &Event| {
                past |= pick.is_past(event.header.ts_ns);
                if past || result.is_err() {
                    return;
                }
                let mut hand_on = |event: &Event, meta: &Meta| {
                    if pick.takes(event) && result.is_ok() {
                        result = exporter.event(event, meta, stacks);
                    }
                };
                match &mut checks {
                    Some((checker, contention)) => {
                        checker.apply(&mut engine, event, &mut hand_on);
                        contention.observe(&engine, event);
                    }
                    None => engine.apply(event, &mut hand_on),
                }
                if let Some(intervals) = &mut intervals {
                    intervals.observe(&engine, event, pick, &mut |interval| {
                        if result.is_ok() {
                            result = exporter.interval(interval, stacks);
                        }
                    });
                }
            };
            match poll {
                Poll::More { watermark_ns } => order.advance(watermark_ns, &mut take),
                Poll::End => order.finish(&losses, &mut take),
            }
            result?;
            self.progress.show(engine.totals().received);
            if past || poll == Poll::End {
                break;
            }
        }
        // The input may have ended because of it.
        if ended.is_none() && self.replay.summary().is_none() {
            ended = self.stop.due()?;
        }
        let stacks = self.replay.stacks();
        if let Some(intervals) = &mut intervals {
            let mut result = Ok(());
            intervals.finish(&mut |interval| {
                if result.is_ok() {
                    result = exporter.interval(interval, stacks);
                }
            });
            result?;
        }
        if let Some((checker, contention)) = &mut checks {
            checker.finish();
            contention.finish(&engine);
        }
        self.progress.clear();
        let mut warnings: Vec<String> = self.replay.warning().into_iter().collect();
        if ended == Some(Ended::Signal) {
            let seconds = engine.now_ns().saturating_sub(info.start_monotonic_ns) / 1_000_000;
            warnings.push(format!(
                "stopped by a signal: what was written is whole and has {} events, to {seconds} ms after the start",
                words::count(engine.totals().received)
            ));
        }
        for warning in &warnings {
            tell!("{warning}");
        }
        exporter.finish(&Ending {
            info: &info,
            engine: &engine,
            order: &order,
            losses: &known,
            stacks,
            checker: checks.as_ref().map(|(checker, _)| checker),
            contention: checks.as_ref().map(|(_, contention)| contention),
            pick: &self.pick,
            complete: self.replay.summary().is_some() && ended.is_none(),
            warnings,
        })
    }
}
