//! The command lines.

use std::path::PathBuf;

use clap::Args;

use crate::export::Moment;

/// Options of `info`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    tracer info a.rec\n  \
    tracer info a.rec --json | jq .kernel.layout")]
pub struct InfoArgs {
    /// The recording; `-` is the standard input, which is read to its end.
    pub file: PathBuf,
    /// As JSON, see docs/schema/info.md.
    #[arg(long)]
    pub json: bool,
    /// Skip what is damaged.
    #[arg(long)]
    pub recover: bool,
}

/// Options of `verify`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    tracer verify a.rec && echo good\n  \
    tracer verify a.rec --recover          all damages, not only the first one\n\n\
    Exit codes: 0 every byte is good, 1 something is wrong.")]
pub struct VerifyArgs {
    /// The recording; `-` is the standard input.
    pub file: PathBuf,
    /// As JSON, see docs/schema/verify.md.
    #[arg(long)]
    pub json: bool,
    /// Go on after damage, and tell all of it.
    #[arg(long)]
    pub recover: bool,
}

/// Options of `cut`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    tracer cut a.rec -o b.rec --from 2s --to 2.5s\n  \
    tracer cut a.rec -o b.rec --from 2026-11-22T10:00:00Z --pid 1234\n  \
    tracer cut broken.rec -o whole.rec --recover")]
pub struct CutArgs {
    /// The recording; `-` is the standard input.
    pub file: PathBuf,
    /// The file to write, readable only by you; `-` is the standard output.
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    /// Events from this time on: since the recording began, such as 2s, or a date and time with its zone.
    #[arg(long, value_name = "TIME")]
    pub from: Option<Moment>,
    /// Events before this time.
    #[arg(long, value_name = "TIME")]
    pub to: Option<Moment>,
    /// Only events of this process, and gaps; may be given several times.
    #[arg(short, long = "pid", value_name = "PID")]
    pub pids: Vec<u32>,
    /// Skip what is damaged; it becomes a gap.
    #[arg(long)]
    pub recover: bool,
}

/// Options of `merge`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  tracer merge host1.rec host2.rec -o both.rec\n\n\
    Recordings of one run of a kernel share its clock. Those of several hosts are aligned by their clocks on the \
    wall; how far that may be off is said, and is in the new file. Process and thread IDs, kernel addresses and CPUs \
    of the second and later hosts are changed so that they stay apart; the new file says how (tracer info).")]
pub struct MergeArgs {
    /// The recordings.
    #[arg(required = true, num_args = 1..)]
    pub files: Vec<PathBuf>,
    /// The file to write, readable only by you; `-` is the standard output.
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    /// Skip what is damaged; it becomes a gap.
    #[arg(long)]
    pub recover: bool,
}
