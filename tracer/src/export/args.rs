//! The command line of `tracer export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tracer_common::wire::Kind;

use super::pick::Moment;
use crate::cli::parse_kind;

/// Options of `export`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    tracer export a.rec -f jsonl -o a.jsonl\n  \
    tracer export a.rec -f csv -o - --kinds mmap_acquire,mmap_release --since 2s --until 2500ms | head\n  \
    tracer record -o - -- make | tracer export - -f jsonl -o -")]
pub struct ExportArgs {
    /// The recording; `-` is the standard input.
    pub file: PathBuf,
    /// What to write.
    #[arg(short, long, value_enum)]
    pub format: Format,
    /// Where to; `-` is the standard output. A file is replaced at the end, in one step; until then it stays as it was.
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    /// For folded and flamegraph: which time.
    #[arg(long, value_enum, default_value = "waited")]
    pub measure: Measure,
    /// Which part of it.
    #[command(flatten)]
    pub pick: PickArgs,
    /// How much of it is told.
    #[command(flatten)]
    pub privacy: PrivacyArgs,
}

/// Which events are written. All of them are read, so that what is held and awaited is known as well as without this.
#[derive(Args, Clone, Debug, Default)]
pub struct PickArgs {
    /// Nothing before this: a time since the recording began, such as 2s or 1500ms, or a date and time with its zone,
    /// such as 2026-11-22T10:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub since: Option<Moment>,
    /// Nothing from this on.
    #[arg(long, value_name = "TIME")]
    pub until: Option<Moment>,
    /// Only of this process; may be given several times. Gaps concern everybody and stay.
    #[arg(short, long = "pid", value_name = "PID")]
    pub pids: Vec<u32>,
    /// Only these kinds of events, separated by commas. Waits and holds go by the event that ends them. Gaps stay.
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = parse_kind)]
    pub kinds: Vec<Kind>,
}

/// What helps an attacker, or tells more than was asked.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct PrivacyArgs {
    /// Kernel addresses as they are. Otherwise they are hashed, alike within one recording.
    #[arg(long)]
    pub raw_addresses: bool,
    /// The command line of the recorder, where the format has a place for it. Otherwise it is left out.
    #[arg(long)]
    pub command_lines: bool,
}

/// Formats of `export`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object a line, an event each (docs/schema/jsonl.md).
    Jsonl,
    /// A table with a header line, an event each, for spreadsheets and scripts (docs/exports.md).
    Csv,
    /// A folder of tables for DuckDB, Spark and their like: events, holds and waits, by host and date (docs/fleet.md).
    Parquet,
    /// A trace for the Perfetto UI: tasks as tracks, waits and holds as slices, flows from waiters to holders.
    Perfetto,
    /// Time by stack, for flame graph tools: a line for each command, stack and lock, and nanoseconds.
    Folded,
    /// The flame graph itself, as one SVG.
    Flamegraph,
    /// One page with timeline, tables, histograms, wait chains and assertions, that needs no network.
    Html,
}

/// What `folded` and `flamegraph` sum up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Measure {
    /// Time that was waited for locks.
    Waited,
    /// Time that locks were held.
    Held,
}
