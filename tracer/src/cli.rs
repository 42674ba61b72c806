//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tracer_common::wire::Kind;

use crate::export::ExportArgs;
use crate::files::{CutArgs, InfoArgs, MergeArgs, VerifyArgs};
use crate::filter::{Filter, FilterError};
use crate::judge::JudgeArgs;
use crate::mode::Mode;
use crate::model::ModelArgs;
use crate::probe::Mechanism;
use crate::provoke::ProvokeArgs;
use crate::range::Range;
use crate::serve::ServeArgs;
use crate::sim::SimArgs;
use crate::sink::stats::Section;
use crate::text::SitesArgs;
use crate::trigger::Trigger;
use crate::tui::ScreenArgs;
use crate::tui::replay::ReplayArgs;
use crate::validate::CheckArgs;
use crate::watch::WatchArgs;

/// Shows who holds and who waits for the per-VMA locks and the mmap_lock of a live Linux kernel.
#[derive(Debug, Parser)]
#[command(
    name = "tracer",
    version,
    about,
    after_help = "Examples:\n  \
        sudo tracer                              the live table of tasks, holds and waits\n  \
        sudo tracer -p 1234                      the same, of one process\n  \
        sudo tracer --cgroup system.slice        the same, of a group of processes\n  \
        sudo tracer record -o a.rec -- make -j8  record a command and its children\n  \
        tracer stats a.rec                       tables of what was recorded\n  \
        sudo tracer doctor                       what this kernel lets us see\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong usage, 3 violation found, 4 not permitted or not possible here."
)]
pub struct Cli {
    /// What to do; without it, `top`.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of `top`.
    #[command(flatten)]
    pub top: LiveArgs,
    /// The screen of `top`.
    #[command(flatten)]
    pub screen: ScreenArgs,
    /// Tell more: once for what the program does, twice for what the verifier says.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Live table of tasks: what they hold, what they wait for, since when, and how sure that is.
    #[command(after_help = "Examples:\n  \
        sudo tracer top -p 1234\n  \
        sudo tracer top --ascii --fps 2")]
    Top(TopArgs),
    /// The same screen on a recording: play, step, go back, jump to long waits, violations and gaps.
    Replay(ReplayArgs),
    /// Record until ^C, until the duration is over, or until CMD ends.
    #[command(after_help = "Examples:\n  \
        sudo tracer record -o a.rec --duration 10s\n  \
        sudo tracer record -o a.rec -p 1234 --only mmap_acquire,mmap_release\n  \
        sudo tracer record -o a.rec --on 'wait>10ms' --on 'hold>5ms' --last 2s\n  \
        sudo tracer record -o a.rec --on violation --repeat 5\n  \
        sudo tracer record -o a.rec --mode holds --min-hold 100us -- make -j8\n  \
        sudo tracer record -o - -- ls -R /usr | tracer stats -")]
    Record(RecordArgs),
    /// Tables of a recording, or of the live kernel until ^C: tasks, waits, holds, faults, losses.
    #[command(after_help = "Examples:\n  \
        tracer stats a.rec\n  \
        tracer stats a.rec --section waits,chains\n  \
        tracer stats a.rec --json | jq .events.by_kind\n  \
        sudo tracer stats --duration 5s\n  \
        sudo tracer stats --mode summary --duration 5s\n  \
        sudo tracer stats --mode summary --json -- make -j8 | jq .holds.vma_read.p99_ns")]
    Stats(StatsArgs),
    /// Is the lock in a state that it can be in, and would the kernel's assertions be right? Exit code 3 if not the former.
    #[command(after_help = "Examples:\n  \
        tracer check a.rec\n  \
        tracer check a.rec --json | jq '.assertions[] | select(.false_positive > 0)'\n  \
        sudo tracer check --duration 10s\n  \
        sudo tracer check -- make -j8")]
    Check(CheckArgs),
    /// Turn a recording into a format that other tools read.
    Export(ExportArgs),
    /// Numbers for monitoring: for Prometheus to fetch, or pushed by OTLP; until ^C.
    Serve(ServeArgs),
    /// What a recording says of itself: host, kernel, plan, clocks, times, losses.
    Info(InfoArgs),
    /// Read every byte of a recording, and say what is damaged and where.
    Verify(VerifyArgs),
    /// A part of a recording as a recording, by time or process; with --recover all that is left of a damaged one.
    Cut(CutArgs),
    /// Several recordings as one, of several hosts too, on one clock.
    Merge(MergeArgs),
    /// What this kernel lets us see, by which mechanism, what stays unseen and why.
    Doctor(DoctorArgs),
    /// Every change of one VMA's lock, by a hardware watchpoint: the truth about one lock, inlined or not.
    #[command(after_help = "Examples:\n  \
        sudo tracer watch --pid 1234 --addr 0x7f0012345000\n  \
        sudo tracer watch -p 1234 -a 0x7f0012345000 --json -n 1000 | jq -r .place")]
    Watch(WatchArgs),
    /// The bundled lock under the model checker: scenarios, searches, counterexamples step by step.
    Model(ModelArgs),
    /// The bundled lock, contended by real threads, as a source of events; needs no privileges.
    Sim(SimArgs),
    /// Small workloads that bring the lock into all its states, and how often each was reached.
    Provoke(ProvokeArgs),
    /// Where the operations of the lock are inlined in the kernel's text.
    #[command(hide = true)]
    Sites(SitesArgs),
    /// Compares a recording made with --truth with what lockdep says in it.
    #[command(hide = true)]
    Judge(JudgeArgs),
    /// The manual page, on standard output; with a folder, those of all commands as files in it.
    #[command(after_help = "Example:\n  tracer man /usr/local/share/man/man1")]
    Man {
        /// The folder.
        folder: Option<PathBuf>,
    },
    /// Completions for a shell, on standard output.
    #[command(after_help = "Example:\n  tracer completions bash > /etc/bash_completion.d/tracer")]
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Options of `top`.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    /// What to watch.
    #[command(flatten)]
    pub live: LiveArgs,
    /// The screen.
    #[command(flatten)]
    pub screen: ScreenArgs,
}

/// Options of everything that watches the live kernel.
#[derive(Args, Clone, Debug)]
pub struct LiveArgs {
    /// Only this process (all its threads); may be given several times.
    #[arg(short, long = "pid", value_name = "PID")]
    pub pids: Vec<u32>,
    /// Only this thread; may be given several times.
    #[arg(short, long = "tid", value_name = "TID")]
    pub tids: Vec<u32>,
    /// Only threads with this command name (at most 15 bytes, as the kernel keeps it).
    #[arg(long, value_name = "NAME")]
    pub comm: Option<String>,
    /// Only tasks in this cgroup (v2) or below it: its folder, or its path as /proc/PID/cgroup has it.
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<PathBuf>,
    /// Only VMAs that reach into these addresses, such as 0x7f0000000000-0x7f0000010000 or 0x7f0000000000+64K, and failed
    /// look-ups of addresses in there. Events of the mmap_lock have no address and stay; --only leaves them out.
    #[arg(long, value_name = "LO-HI")]
    pub addr: Option<Range>,
    /// Only holds of at least this time, such as 500us or 10ms, with what their tasks do meanwhile. Waits are left out, unless
    /// --min-wait asks for them, too. Applied when events have arrived: it makes recordings smaller, not probes cheaper.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub min_hold: Option<Duration>,
    /// Only waits of at least this time, with the holds that they led to. Who was in the way --min-hold shows. Applied when
    /// events have arrived.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub min_wait: Option<Duration>,
    /// Only these kinds of events, separated by commas (see docs/wire-format.md).
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = parse_kind)]
    pub only: Vec<Kind>,
    /// How much comes out of the kernel: each event, one event for each hold, or sums that the kernel makes itself, which
    /// cost the least (docs/modes.md).
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    pub mode: Mode,
    /// Stop after this time, such as 500ms, 10s or 2m.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Size of the buffer between kernel and program, such as 4M; a power of two.
    #[arg(long, value_name = "SIZE", default_value = "8M", value_parser = parse_size)]
    pub buffer: u32,
    /// Record this program's own activity too; it is marked as such.
    #[arg(long)]
    pub include_self: bool,
    /// How not to see: leave these mechanisms out of the plan, separated by commas, so that a rich kernel plays
    /// a poor one (see tracer doctor).
    #[arg(long, value_name = "MECHANISMS", value_delimiter = ',', value_enum)]
    pub without: Vec<Mechanism>,
    /// Where the kernel's own text is read, to find inlined operations: a vmlinux or boot image of the running
    /// kernel, instead of its memory.
    #[arg(long, value_name = "FILE")]
    pub kernel_text: Option<PathBuf>,
    /// Take the stacks of waits and holds that lasted this long, such as 500us or 10ms; 0: of all; off: of none, nor
    /// of tasks that go to sleep with a lock.
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = parse_stacks)]
    pub stacks: StacksFrom,
    /// Name the frames of programs in stacks, too. For that, /proc/PID/maps is read once a process, and the kernel takes
    /// locks of that process meanwhile: its mmap_lock, or those of its VMAs; so --include-self is set. Without it such
    /// frames are addresses.
    #[arg(long)]
    pub user_symbols: bool,
    /// Record what lockdep says beside all else, and take nothing from it: for judging this program.
    #[arg(long, hide = true)]
    pub truth: bool,
    /// Keep temporary readers from leaving for so long.
    #[arg(long, hide = true, value_name = "TIME", default_value = "0ms", value_parser = parse_duration)]
    pub linger: Duration,
    /// Let the kernel sum up besides, and write that to this file.
    #[arg(long, hide = true, value_name = "FILE")]
    pub sums: Option<PathBuf>,
    /// Start this command, and watch it and its children, until it ends.
    #[arg(last = true, value_name = "CMD")]
    pub cmd: Vec<String>,
}

impl LiveArgs {
    /// Whether the user gave any of them.
    pub fn is_set(&self) -> bool {
        let Self {
            pids,
            tids,
            comm,
            cgroup,
            addr,
            min_hold,
            min_wait,
            only,
            mode,
            duration,
            buffer,
            include_self,
            without,
            kernel_text,
            stacks,
            user_symbols,
            truth,
            linger,
            sums,
            cmd,
        } = self;
        !(pids.is_empty() && tids.is_empty() && only.is_empty() && cmd.is_empty() && without.is_empty())
            || comm.is_some()
            || cgroup.is_some()
            || addr.is_some()
            || min_hold.is_some()
            || min_wait.is_some()
            || *mode != Mode::Stream
            || sums.is_some()
            || duration.is_some()
            || *include_self
            || kernel_text.is_some()
            || *user_symbols
            || *truth
            || !linger.is_zero()
            || *stacks != StacksFrom::default()
            || *buffer != DEFAULT_BUFFER
    }
}

impl Command {
    /// Its name on the command line.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Top(_) => "top",
            Self::Replay(_) => "replay",
            Self::Record(_) => "record",
            Self::Stats(_) => "stats",
            Self::Check(_) => "check",
            Self::Export(_) => "export",
            Self::Serve(_) => "serve",
            Self::Info(_) => "info",
            Self::Verify(_) => "verify",
            Self::Cut(_) => "cut",
            Self::Merge(_) => "merge",
            Self::Doctor(_) => "doctor",
            Self::Watch(_) => "watch",
            Self::Model(_) => "model",
            Self::Sim(_) => "sim",
            Self::Provoke(_) => "provoke",
            Self::Sites(_) => "sites",
            Self::Judge(_) => "judge",
            Self::Man { .. } => "man",
            Self::Completions { .. } => "completions",
        }
    }
}

/// Options of `record`.
#[derive(Args, Debug)]
pub struct RecordArgs {
    /// The file to write, readable only by you; `-` is the standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Keep the latest events in memory, and write them when this comes true: 'wait>10ms', 'hold>5ms', violation,
    /// 'fallback-rate>50%', or an event fits: 'comm=post* && wait>1ms' (docs/tui.md, Filters); may be given several times.
    #[arg(long, value_name = "CONDITION", value_parser = parse_trigger)]
    pub on: Vec<Trigger>,
    /// How much before it came true is written.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration, requires = "on")]
    pub last: Duration,
    /// How much after it.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration, requires = "on")]
    pub after: Duration,
    /// Memory for events that are kept, such as 64M; what finds no room goes, and that is told.
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = parse_memory, requires = "on")]
    pub max_bytes: usize,
    /// End after the first recording; so it is without --repeat, too.
    #[arg(long, requires = "on", conflicts_with = "repeat")]
    pub once: bool,
    /// End after so many recordings: FILE with a number before its ending.
    #[arg(long, value_name = "N", requires = "on", value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: Option<u32>,
    /// Look for it in this recording instead of the live kernel.
    #[arg(long, value_name = "FILE", requires = "on")]
    pub from: Option<PathBuf>,
    /// What to watch.
    #[command(flatten)]
    pub live: LiveArgs,
}

/// Options of `stats`.
#[derive(Args, Debug)]
pub struct StatsArgs {
    /// The recording; `-` is the standard input; without it, the live kernel.
    pub file: Option<PathBuf>,
    /// As JSON, see docs/schema/stats.md.
    #[arg(long)]
    pub json: bool,
    /// Only these parts, in full, separated by commas. Otherwise all of them, in short.
    #[arg(
        long = "section",
        value_name = "PARTS",
        value_delimiter = ',',
        value_enum,
        conflicts_with = "json"
    )]
    pub sections: Vec<Section>,
    /// What to watch, without a file.
    #[command(flatten)]
    pub live: LiveArgs,
}

/// Options of `doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    /// Leave these mechanisms out of the plan, separated by commas.
    #[arg(long, value_name = "MECHANISMS", value_delimiter = ',', value_enum)]
    pub without: Vec<Mechanism>,
    /// A vmlinux or boot image of the running kernel to read its text from, instead of its memory.
    #[arg(long, value_name = "FILE")]
    pub kernel_text: Option<PathBuf>,
    /// Also write what is known of this kernel to a file, as a fixture for the planner's tests.
    #[arg(long, value_name = "FILE", hide = true)]
    pub capture: Option<PathBuf>,
}

const DEFAULT_BUFFER: u32 = 8 << 20;

/// From which length on waits and holds get stacks, in nanoseconds; `None`: no stacks at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StacksFrom(pub Option<u64>);

impl Default for StacksFrom {
    fn default() -> Self {
        Self(Some(1_000_000))
    }
}

fn parse_stacks(text: &str) -> Result<StacksFrom, String> {
    if text == "off" {
        return Ok(StacksFrom(None));
    }
    let length = parse_duration(text).map_err(|error| format!("{error}, or off"))?;
    let length = u64::try_from(length.as_nanos()).map_err(|_| "too long".to_owned())?;
    Ok(StacksFrom(Some(length)))
}

fn parse_trigger(text: &str) -> Result<Trigger, String> {
    Trigger::parse(text).map_err(|error| error.pointing_at(text))
}

/// A filter, for options.
pub(crate) fn parse_filter(text: &str) -> Result<Filter, String> {
    text.parse().map_err(|error: FilterError| error.pointing_at(text))
}

pub(crate) fn parse_kind(name: &str) -> Result<Kind, String> {
    Kind::from_name(name)
        .filter(|&kind| kind != Kind::Gap)
        .ok_or_else(|| {
            let names: Vec<_> = Kind::ALL
                .iter()
                .filter(|&&kind| kind != Kind::Gap)
                .map(|kind| kind.name())
                .collect();
            format!("no such kind; there are {}", names.join(", "))
        })
}

pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number
        .parse()
        .map_err(|_| "a number and a unit, such as 10s".to_owned())?;
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("no such unit '{unit}'; there are us, ms, s, m, h")),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| "too long".to_owned())
}

pub(crate) fn parse_size(text: &str) -> Result<u32, String> {
    let (number, factor) = match text.strip_suffix(['K', 'k']) {
        Some(number) => (number, 1u64 << 10),
        None => match text.strip_suffix(['M', 'm']) {
            Some(number) => (number, 1 << 20),
            None => (text, 1),
        },
    };
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| "a number of bytes, such as 512K or 8M".to_owned())?;
    match u32::try_from(bytes) {
        Ok(bytes) if bytes.is_power_of_two() && (4096..=1 << 30).contains(&bytes) => Ok(bytes),
        _ => Err("a power of two between 4K and 1024M".to_owned()),
    }
}

/// Bytes of memory, such as 64M or 1G.
fn parse_memory(text: &str) -> Result<usize, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        _ => return Err(format!("no such unit '{unit}'; there are K, M, G")),
    };
    let bytes = number
        .parse::<usize>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift));
    match bytes {
        Some(bytes) if bytes >= 1 << 20 => Ok(bytes),
        Some(_) => Err("at least 1M".to_owned()),
        None => Err("a number of bytes, such as 64M".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("3"), Ok(Duration::from_secs(3)));
        assert!(parse_duration("3 parsecs").is_err());
        assert!(parse_duration("s").is_err());
    }

    #[test]
    fn stacks_can_be_had_of_all_and_of_none() {
        assert_eq!(parse_stacks("1ms"), Ok(StacksFrom::default()));
        assert_eq!(parse_stacks("0"), Ok(StacksFrom(Some(0))));
        assert_eq!(parse_stacks("off"), Ok(StacksFrom(None)));
        assert!(parse_stacks("on").unwrap_err().contains("off"));
    }

    #[test]
    fn sizes_are_powers_of_two() {
        assert_eq!(parse_size("8M"), Ok(8 << 20));
        assert_eq!(parse_size("4K"), Ok(4096));
        assert!(parse_size("3M").is_err());
        assert!(parse_size("1K").is_err());
        assert!(parse_size("18446744073709551615M").is_err());
    }

    #[test]
    fn memory_has_units() {
        assert_eq!(parse_memory("64M"), Ok(64 << 20));
        assert_eq!(parse_memory("3G"), Ok(3 << 30));
        for bad in ["1K", "64", "M", "64 M", "99999999999999999999G", "64T"] {
            assert!(parse_memory(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_belongs_to_triggers_needs_one() {
        let parse = |words: &[&str]| Cli::try_parse_from([&["tracer", "record", "-o", "a"], words].concat());
        assert!(parse(&["--on", "wait>10ms", "--last", "2s", "--repeat", "3"]).is_ok());
        assert!(parse(&["--last", "2s"]).is_err());
        assert!(parse(&["--on", "wait>10ms", "--once", "--repeat", "2"]).is_err());
        let error = parse(&["--on", "wait>10"]).unwrap_err().to_string();
        assert!(error.contains("wait>10\n       ^"), "{error}");
    }

    #[test]
    fn a_gap_cannot_be_asked_for() {
        assert_eq!(parse_kind("mmap_start"), Ok(Kind::MmapStart));
        assert!(parse_kind("gap").is_err());
        assert!(parse_kind("nonsense").unwrap_err().contains("vma_read_acquire"));
    }
}
