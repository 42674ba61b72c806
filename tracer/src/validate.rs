//! `tracer check`: the checks, over a recording or the live kernel.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use tracer_common::wire::Event;

use crate::check::Checker;
use crate::child::Output;
use crate::cli::LiveArgs;
use crate::export::Progress;
use crate::info::{Losses, SourceInfo};
use crate::live_setup::{self, Started};
use crate::order::Order;
use crate::outside;
use crate::pipeline::{self, Consumer, Stop};
use crate::say::tell;
use crate::sink::address::Addresses;
use crate::sink::check::{self, Inputs};
use crate::sink::stats::Style;
use crate::sink::text;
use crate::source::Source;
use crate::source::replay::Replay;
use crate::state::Engine;

/// Options of `check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The recording; `-` is the standard input; without it, the live kernel.
    pub file: Option<PathBuf>,
    /// As JSON, see docs/schema/check.md.
    #[arg(long)]
    pub json: bool,
    /// Kernel addresses as they are. Otherwise they are hashed, alike within one report.
    #[arg(long)]
    pub raw_addresses: bool,
    /// What to watch, without a file.
    #[command(flatten)]
    pub live: LiveArgs,
}

/// The engine with all checks, fed by a pipeline.
struct Bench {
    engine: Engine,
    checker: Checker,
    missed: u64,
    progress: Progress,
}

impl Bench {
    fn new(info: &SourceInfo) -> Self {
        Self {
            engine: Engine::new(info),
            checker: Checker::new(info),
            missed: 0,
            progress: Progress::default(),
        }
    }
}

impl Consumer for Bench {
    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        self.checker.apply(&mut self.engine, event, &mut |_, _| {});
        Ok(())
    }

    fn round(&mut self, _order: &Order) -> anyhow::Result<()> {
        let violations = self.checker.violations();
        self.progress.show_with(self.engine.totals().received, || {
            format!(", {} violations", text::count(violations.total()))
        });
        Ok(())
    }

    fn far(&mut self, read: u64, length: u64) {
        self.progress.far(read, length);
    }

    fn losses(&mut self, losses: &Losses) -> anyhow::Result<()> {
        // A run that the kernel skipped leaves no hole in the numbering.
        let missed = losses.missed != self.missed;
        self.missed = losses.missed;
        self.checker.losses(&mut self.engine, missed);
        Ok(())
    }
}

/// Checks; gives whether no violation was found.
///
/// # Errors
/// When the recording cannot be read, or the kernel cannot be watched.
pub fn run(args: &CheckArgs, log: bool) -> anyhow::Result<bool> {
    match &args.file {
        Some(file) => {
            anyhow::ensure!(
                !args.live.is_set(),
                "filters apply to the live kernel; leave out either them or {}",
                outside::path(file)
            );
            let mut replay = Replay::open(file)?;
            let mut stop = Stop::new(None)?;
            judge(args, &mut replay, &mut stop, |replay| {
                (replay.summary().is_some(), replay.warning().into_iter().collect())
            })
        }
        None => {
            let Started { mut live, mut stop } = live_setup::start(&args.live, log, Output::Shown)?;
            live_setup::tell_unseen(&live);
            judge(args, &mut live, &mut stop, |_| (true, Vec::new()))
        }
    }
}

fn judge<S: Source>(
    args: &CheckArgs,
    source: &mut S,
    stop: &mut Stop,
    end: impl FnOnce(&S) -> (bool, Vec<String>),
) -> anyhow::Result<bool> {
    let info = source.info().clone();
    let mut bench = Bench::new(&info);
    let outcome = pipeline::run(source, stop, &mut bench)?;
    bench.progress.clear();
    bench.checker.finish();
    let (complete, warnings) = end(source);
    for warning in &warnings {
        tell!("{warning}");
    }
    let addresses = if args.raw_addresses {
        Addresses::raw()
    } else {
        Addresses::hashed()
    };
    let report = check::Report::new(&Inputs {
        info: &info,
        engine: &bench.engine,
        checker: &bench.checker,
        order: &outcome.order,
        losses: &outcome.losses,
        complete,
        warnings,
        addresses: &addresses,
    });
    let mut out = io::stdout().lock();
    if args.json {
        let json = report.to_json().context("cannot turn the report into JSON")?;
        out.write_all(json.as_bytes())?;
    } else {
        check::render(&report, Style::for_stdout(), &mut out)?;
    }
    out.flush()?;
    Ok(report.violation_count == 0)
}
