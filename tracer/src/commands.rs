//! What each command does: wires the parts together and turns errors into exit codes.

use anyhow::Context as _;
use clap::Parser as _;

use crate::cli::{Cli, Command, DoctorArgs};
use crate::doctor;
use crate::kernel::{Facts, Paths};
use crate::logger;
use crate::probe::{Refusal, attach};
use crate::source::Source as _;
use crate::source::live::Live;

/// Done.
const DONE: u8 = 0;
/// Failed.
const FAILED: u8 = 1;
/// Not permitted, or not possible on this kernel.
const IMPOSSIBLE: u8 = 4;

/// Runs the program; gives its exit code.
pub fn main() -> u8 {
    let cli = Cli::parse();
    logger::install(cli.verbose);
    match run(cli) {
        Ok(code) => code,
        Err(error) if error.downcast_ref::<Refusal>().is_some() => {
            eprintln!("tracer: {error:#}");
            IMPOSSIBLE
        }
        Err(error) => {
            eprintln!("tracer: {error:#}");
            FAILED
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<u8> {
    match cli.command {
        Some(Command::Doctor(args)) => doctor(&args),
        _ => anyhow::bail!("soon"),
    }
}

fn doctor(args: &DoctorArgs) -> anyhow::Result<u8> {
    let facts = Facts::gather(&Paths::default())?;
    if let Some(file) = &args.capture {
        let text = serde_json::to_string_pretty(&facts).context("cannot turn facts into JSON")?;
        std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    let options = attach::Options {
        ring_bytes: 4096,
        exclude_pid: std::process::id(),
        pids: Vec::new(),
        follow: true,
        tids: Vec::new(),
        comm: None,
        kinds: 0,
        log: false,
    };
    let t=std::time::Instant::now();
    let mut live = Live::start(&facts, &options, Vec::new())?;
    eprintln!("start {:?}", t.elapsed());
    let report = doctor::Report::new(&facts, live.info());
    let t=std::time::Instant::now();
    live.stop();
    eprintln!("stop {:?}", t.elapsed());
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.text());
    }
    Ok(DONE)
}
