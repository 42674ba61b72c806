//! `tracer judge FILE`.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use tracer_common::wire::Event;

use super::places::Places;
use super::{Judge, Part, Report};
use crate::info::Losses;
use crate::outside;
use crate::pipeline::{self, Consumer, Stop};
use crate::say::tell;
use crate::sink::address::Addresses;
use crate::source::Source as _;
use crate::source::replay::Replay;

/// Options of `judge`.
#[derive(Args, Debug)]
pub struct JudgeArgs {
    /// A recording made with `--truth` on a kernel with lockdep; `-` is the standard input.
    pub file: PathBuf,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    /// Names for addresses: a copy of the kernel's /proc/kallsyms.
    #[arg(long, value_name = "FILE")]
    pub kallsyms: Option<PathBuf>,
    /// Where parts begin: lines with a time in nanoseconds and a name.
    #[arg(long, value_name = "FILE")]
    pub parts: Option<PathBuf>,
}

struct Bench {
    judge: Judge,
    /// Locks are told apart by what stands for their addresses.
    addresses: Addresses,
    missed: u64,
}

impl Consumer for Bench {
    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        let mut event = *event;
        self.addresses.hide(&mut event);
        self.judge.event(&event);
        Ok(())
    }

    fn losses(&mut self, losses: &Losses) -> anyhow::Result<()> {
        if losses.missed != self.missed {
            self.missed = losses.missed;
            self.judge.forget();
        }
        Ok(())
    }
}

/// Judges a recording; gives whether it is exact.
///
/// # Errors
/// When it cannot be read, or has no truth in it.
pub fn run(args: &JudgeArgs) -> anyhow::Result<bool> {
    let parts = args
        .parts
        .as_deref()
        .map(read_parts)
        .transpose()?
        .unwrap_or_default();
    let mut replay = Replay::open(&args.file)?;
    let info = replay.info().clone();
    anyhow::ensure!(
        info.truth,
        "{} was not made with --truth: there is nothing to judge it by",
        outside::path(&args.file)
    );
    let mut bench = Bench {
        judge: Judge::new(&info, parts),
        addresses: Addresses::of(&info),
        missed: 0,
    };
    let outcome = pipeline::run(&mut replay, &mut Stop::new(None)?, &mut bench)?;
    if let Some(warning) = replay.warning() {
        tell!("{warning}");
    }
    bench.judge.finish();
    let places = Places::new(&info, args.kallsyms.as_deref());
    let report = Report::new(&bench.judge, &info, &outcome.losses, &places);
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", outside::formats::json_pretty(&report)?)?;
    } else {
        crate::say::lines(&mut out, &report.text())?;
    }
    out.flush()?;
    Ok(report.exact)
}

fn read_parts(path: &Path) -> anyhow::Result<Vec<Part>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", outside::path(path)))?;
    parse_parts(&text).with_context(|| format!("in {}", outside::path(path)))
}

pub(super) fn parse_parts(text: &str) -> anyhow::Result<Vec<Part>> {
    let mut parts = Vec::new();
    for line in text.lines() {
        let part = line.split_once(' ').and_then(|(ns, name)| {
            Some(Part {
                from_ns: ns.parse().ok()?,
                name: name.trim().to_owned(),
            })
        });
        parts.push(part.with_context(|| format!("a time in nanoseconds and a name, not '{line}'"))?);
    }
    parts.sort_by_key(|part: &Part| part.from_ns);
    Ok(parts)
}
