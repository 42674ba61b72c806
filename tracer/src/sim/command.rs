//! The command line of `tracer sim`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use tracer_common::lock::Family;
use tracer_common::wire::Event;

use super::worker::Worker;
use super::{Setup, Shared, Sim};
use crate::info::Losses;
use crate::order::Order;
use crate::pipeline::{self, Consumer, Stop};
use crate::recording::{self, RecordWriter};
use crate::say::{say, tell};

const DONE: u8 = 0;
const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// Options of `sim`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    tracer sim                                   how fast the bundled lock is here\n  \
    tracer sim -o a.rec --duration 2s            record it; no privileges needed\n  \
    tracer sim -o - --duration 2s | tracer stats -")]
pub struct SimArgs {
    /// Threads, writers included.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// Mapped VMAs.
    #[arg(long, value_name = "M", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub vmas: u32,
    /// Threads that map, unmap and change VMAs; the others read.
    #[arg(long, value_name = "W", default_value_t = 1)]
    pub writers: u32,
    /// Start of the random numbers.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Which form of the lock: 6.12, 6.15 or 7.0.
    #[arg(long, value_name = "FAMILY", default_value = "7.0", value_parser = parse_family)]
    pub family: Family,
    /// How long, such as 500ms or 10s.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_time)]
    pub duration: Duration,
    /// Record the events into this file; `-` is the standard output. Without it nothing is traced
    /// and the speed is measured.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write the measurement as JSON.
    #[arg(long)]
    pub json: bool,
}

fn parse_family(text: &str) -> Result<Family, String> {
    let known = Family::ALL.iter().copied().find(|f| f.name() == text);
    known.ok_or_else(|| format!("`{text}` is none of 6.12, 6.15, 7.0"))
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let milliseconds = match unit {
        "ms" => 1.0,
        "s" => 1e3,
        "m" => 60e3,
        _ => return Err(format!("`{text}` is no time such as 500ms, 10s or 2m")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("`{number}` is not a number"))?;
    if !(0.0..=86_400e3).contains(&(number * milliseconds)) {
        return Err(format!("`{text}` is not between nothing and a day"));
    }
    Ok(Duration::from_secs_f64(number * milliseconds / 1e3))
}

/// Runs `tracer sim`; the result is the exit code.
///
/// # Errors
/// When the recording cannot be written, or a thread found the lock broken.
pub fn run(args: &SimArgs) -> anyhow::Result<u8> {
    if args.writers > args.threads {
        tell!(
            "--writers {} are more than --threads {}",
            args.writers,
            args.threads
        );
        return Ok(USAGE);
    }
    let setup = Setup {
        threads: args.threads,
        vmas: args.vmas,
        writers: args.writers,
        seed: args.seed,
        family: args.family,
    };
    match &args.output {
        Some(path) => record(setup, args.duration, path),
        None => measure(setup, args),
    }
}

fn record(setup: Setup, duration: Duration, path: &std::path::Path) -> anyhow::Result<u8> {
    let mut sim = Sim::start(setup, false);
    let mut stop = Stop::new(Some(duration))?;
    let writer = recording::create(path, &sim.info)?;
    let mut recorder = Recording { writer };
    let outcome = pipeline::run(&mut sim, &mut stop, &mut recorder)?;
    let summary = recorder.writer.finish(&outcome.losses, outcome.ended.name())?;
    tell!(
        "{} events of the bundled lock, {} warnings of it",
        summary.events,
        sim.warnings()
    );
    Ok(if sim.warnings() == 0 { DONE } else { FAILED })
}

struct Recording {
    writer: RecordWriter,
}

impl Consumer for Recording {
    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        self.writer.push(event)
    }
    fn round(&mut self, _: &Order) -> anyhow::Result<()> {
        self.writer.tick()
    }
    fn losses(&mut self, _: &Losses) -> anyhow::Result<()> {
        Ok(())
    }
}

fn measure(setup: Setup, args: &SimArgs) -> anyhow::Result<u8> {
    let shared = Arc::new(Shared::new(setup, false));
    let stopped = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stopped))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stopped)))
            .context("cannot catch signals")?;
    }
    let begun = Instant::now();
    let threads: Vec<_> = (0..setup.threads)
        .map(|id| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || Worker::new(&shared, id).run_unwatched())
        })
        .collect();
    while begun.elapsed() < args.duration && !stopped.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(5));
    }
    shared.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().ok().context("a thread found the lock broken")?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let by = |writers: bool| -> u64 {
        let counted = shared.operations.iter().enumerate();
        counted
            .filter(|(id, _)| (*id < setup.writers as usize) == writers)
            .map(|(_, n)| n.load(Ordering::Relaxed))
            .sum()
    };
    let (readers, writers, warnings) = (by(false), by(true), shared.arena.warnings());
    let per_second = (readers + writers) as f64 / seconds;
    if args.json {
        let measured = serde_json::json!({
            "family": setup.family.name(), "threads": setup.threads, "writers": setup.writers,
            "vmas": setup.vmas, "seed": setup.seed, "seconds": seconds,
            "operations": { "readers": readers, "writers": writers, "per_second": per_second },
            "warnings": warnings,
        });
        say!("{measured:#}");
    } else {
        say!(
            "{:.1} million lock operations/s: {readers} by {} readers, {writers} by {} writers, {seconds:.2} s, {warnings} warnings",
            per_second / 1e6,
            setup.threads - setup.writers,
            setup.writers,
        );
    }
    Ok(if warnings == 0 { DONE } else { FAILED })
}
