//! `tracer provoke`: starts the workload, watches it if it can, and tells what came of it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, Parser};
use serde::{Deserialize, Serialize};
use tracer_common::wire::Event;

use super::report::{Operation, Report, SCHEMA, Seen};
use super::scenario::{SCENARIOS, Scenario};
use super::states::States;
use super::sys::Impossible;
use super::team::Team;
use crate::check::Checker;
use crate::child::Output;
use crate::cli::{LiveArgs, parse_duration, parse_size};
use crate::info::{Losses, SourceInfo};
use crate::kernel::NoTypes;
use crate::live_setup::{self, Started};
use crate::outside;
use crate::pipeline::{self, Consumer};
use crate::probe::{Mechanism, Refusal};
use crate::say::tell;
use crate::source::Source as _;
use crate::state::Engine;

const DONE: u8 = 0;
const USAGE: u8 = 2;
const VIOLATION: u8 = 3;
const IMPOSSIBLE: u8 = 4;

/// Options of `provoke`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    tracer provoke list                                  what there is\n  \
    sudo tracer provoke detach                           one scenario, and which states of the lock it reached\n  \
    sudo tracer provoke all --duration 5s --json         all of them, 5 s each\n  \
    sudo tracer provoke move --linger 5ms --duration 3m  temporary readers that meet a writer who detaches\n  \
    tracer provoke fork --unprivileged --duration 1m     only the workload, for another tool to watch\n\n\
    Without privileges the workload runs all the same, and nothing is counted.\n\
    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 violation found, 4 not possible here.")]
pub struct ProvokeArgs {
    /// A scenario, `all`, or `list`.
    #[arg(default_value = "list")]
    pub scenario: String,
    /// How long each scenario runs, such as 500ms or 10s.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Threads; without it one more than there are processors, at least 3 and at most 8.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=256))]
    pub threads: Option<u16>,
    /// Keep temporary readers in the kernel for so long, or until a writer shuts readers out: states that last some
    /// nanoseconds are met then. Interrupts wait meanwhile; at most 20ms.
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = parse_linger)]
    pub linger: Duration,
    /// As JSON, see docs/schema/provoke.md.
    #[arg(long)]
    pub json: bool,
    /// Only run the workload, and count nothing.
    #[arg(long)]
    pub unprivileged: bool,
    /// Size of the buffer between kernel and program, such as 64M; a power of two.
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = parse_size)]
    pub buffer: u32,
    /// How not to see: leave these mechanisms out of the plan, separated by commas (see tracer doctor).
    #[arg(long, value_name = "MECHANISMS", value_delimiter = ',', value_enum)]
    pub without: Vec<Mechanism>,
    /// This process is the workload of another one, and says there what it did.
    #[arg(long, hide = true, value_name = "FD")]
    pub report_fd: Option<i32>,
}

fn parse_linger(text: &str) -> Result<Duration, String> {
    const MOST: Duration = Duration::from_millis(20);
    let time = parse_duration(text)?;
    if time > MOST {
        return Err("more than 20ms would stop the machine".to_owned());
    }
    Ok(time)
}

/// What the workload's process says of itself.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Work {
    duration_ns: u64,
    threads: usize,
    operations: Vec<(String, u64)>,
    impossible: Vec<String>,
    failure: Option<String>,
}

/// Runs `provoke`; gives the exit code.
///
/// # Errors
/// When the workload, the tracing or the output fails.
pub fn run(args: &ProvokeArgs, log: bool) -> anyhow::Result<u8> {
    if args.scenario == "list" {
        list(&mut io::stdout().lock())?;
        return Ok(DONE);
    }
    let Some(chosen) = choose(&args.scenario) else {
        let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        tell!(
            "there is no scenario {}; there are all, {}",
            args.scenario,
            names.join(", ")
        );
        return Ok(USAGE);
    };
    let threads = args.threads.map_or_else(default_threads, usize::from);
    if let Some(fd) = args.report_fd {
        // SAFETY: our parent opened it for us, and nobody else here knows of it.
        let mut pipe = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        let work = work(&chosen, threads, args.duration)?;
        let text = serde_json::to_vec(&work).context("cannot tell what was done")?;
        pipe.write_all(&text).context("cannot tell what was done")?;
        return Ok(DONE);
    }
    let (work, seen) = if args.unprivileged {
        (
            work(&chosen, threads, args.duration)?,
            Err("--unprivileged was given".to_owned()),
        )
    } else {
        watched(args, &chosen, threads, log)?
    };
    if let Some(failure) = work.failure {
        anyhow::bail!("{failure}");
    }
    let report = report(args, work, seen);
    let mut out = io::stdout().lock();
    if args.json {
        let text = outside::formats::json_pretty(&report).context("cannot turn the report into JSON")?;
        writeln!(out, "{text}")?;
    } else {
        report.render(&mut out)?;
    }
    out.flush()?;
    Ok(if report.has_violations() {
        VIOLATION
    } else if report.impossible.len() == chosen.len() {
        IMPOSSIBLE
    } else {
        DONE
    })
}

fn report(args: &ProvokeArgs, work: Work, seen: Result<Seen, String>) -> Report {
    let seconds = (work.duration_ns as f64 / 1e9).max(1e-9);
    let operations = work.operations.into_iter().map(|(name, count)| Operation {
        name,
        count,
        per_second: (count as f64 / seconds) as u64,
    });
    let (seen, untraced) = match seen {
        Ok(seen) => (Some(seen), None),
        Err(why) => (None, Some(why)),
    };
    Report {
        schema: SCHEMA,
        scenario: args.scenario.clone(),
        duration_ns: work.duration_ns,
        threads: work.threads,
        impossible: work.impossible,
        operations: operations.collect(),
        untraced,
        seen,
    }
}

fn list(out: &mut impl io::Write) -> anyhow::Result<()> {
    for scenario in SCENARIOS {
        writeln!(out, "{:<18} {}", scenario.name, scenario.about)?;
        writeln!(out, "{:<18} after {}", "", scenario.reaches)?;
    }
    writeln!(out, "{:<18} each of these in turn", "all")?;
    Ok(())
}

fn choose(name: &str) -> Option<Vec<&'static Scenario>> {
    let chosen: Vec<_> = SCENARIOS
        .iter()
        .filter(|scenario| name == "all" || scenario.name == name)
        .collect();
    (!chosen.is_empty()).then_some(chosen)
}

fn default_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    (processors + 1).clamp(3, 8)
}

/// Runs the scenarios here.
fn work(chosen: &[&Scenario], threads: usize, duration: Duration) -> anyhow::Result<Work> {
    static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
    let interrupted: &'static Arc<AtomicBool> = &INTERRUPTED;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(interrupted)).context("cannot catch signals")?;
    }
    let team = Team::new(threads, duration, interrupted)?;
    let begin = Instant::now();
    let mut done = Work::default();
    for scenario in chosen {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        match scenario.run(&team) {
            Ok(()) => {}
            Err(error) if error.downcast_ref::<Impossible>().is_some() => {
                done.impossible.push(format!("{}: {error:#}", scenario.name));
            }
            Err(error) => {
                done.failure = Some(format!("scenario {}: {error:#}", scenario.name));
                break;
            }
        }
    }
    done.duration_ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
    done.threads = team.most_threads();
    done.operations = team
        .done()
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .collect();
    Ok(done)
}

/// Runs the scenarios in a process of the user who called, and watches that, if that is possible.
fn watched(
    args: &ProvokeArgs,
    chosen: &[&Scenario],
    threads: usize,
    log: bool,
) -> anyhow::Result<(Work, Result<Seen, String>)> {
    let (mut reader, writer) = io::pipe().context("cannot make a pipe")?;
    // SAFETY: a descriptor of ours; the child is to inherit it.
    let kept = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFD, 0) };
    anyhow::ensure!(kept == 0, "cannot hand a pipe on: {}", io::Error::last_os_error());
    let live = live_args(args, threads, writer.as_raw_fd())?;
    let Started { mut live, mut stop } = match live_setup::start(&live, log, Output::Shown) {
        Ok(started) => started,
        Err(error)
            if error.downcast_ref::<Refusal>().is_some() || error.downcast_ref::<NoTypes>().is_some() =>
        {
            let seen = Err(format!("{error:#}"));
            return Ok((work(chosen, threads, args.duration)?, seen));
        }
        Err(error) => return Err(error),
    };
    drop(writer);
    let info = live.info().clone();
    let mut watcher = Watcher::new(&info);
    let outcome = pipeline::run(&mut live, &mut stop, &mut watcher)?;
    watcher.checker.finish();
    let seen = Seen::new(
        &info,
        &watcher.engine,
        &watcher.states,
        &watcher.checker,
        &outcome.losses,
    );
    let mut said = String::new();
    reader
        .read_to_string(&mut said)
        .context("cannot read what the workload did")?;
    let work = serde_json::from_str(&said)
        .context("the workload ended before its time, and did not tell what it did")?;
    Ok((work, Ok(seen)))
}

/// The options of whatever watches the live kernel, for the workload as its command.
fn live_args(args: &ProvokeArgs, threads: usize, fd: i32) -> anyhow::Result<LiveArgs> {
    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        live: LiveArgs,
    }
    let mut words = vec!["tracer".to_owned(), format!("--buffer={}K", args.buffer >> 10)];
    words.extend(args.without.iter().map(|one| format!("--without={}", one.name())));
    // This program by whatever name it was started, also if the user behind sudo may not look into its folder.
    words.push(format!("--linger={}us", args.linger.as_micros()));
    words.extend(["--", "/proc/self/exe", "provoke"].map(str::to_owned));
    words.push(args.scenario.clone());
    words.push(format!("--duration={}us", args.duration.as_micros()));
    words.push(format!("--threads={threads}"));
    words.push(format!("--report-fd={fd}"));
    Ok(Words::try_parse_from(words)
        .context("these options cannot be handed on")?
        .live)
}

/// Feeds the engine, the checks and the counts of states.
struct Watcher {
    engine: Engine,
    checker: Checker,
    states: States,
    missed: u64,
}

impl Watcher {
    fn new(info: &SourceInfo) -> Self {
        Self {
            engine: Engine::new(info),
            checker: Checker::new(info),
            states: States::default(),
            missed: 0,
        }
    }
}

impl Consumer for Watcher {
    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        let Self {
            engine,
            checker,
            states,
            ..
        } = self;
        let mut handed_on = None;
        checker.apply(engine, event, &mut |event, meta| {
            if !meta.derived {
                handed_on = Some(*event);
            }
        });
        if let Some(event) = handed_on {
            states.observe(engine, &event);
        }
        Ok(())
    }

    fn losses(&mut self, losses: &Losses) -> anyhow::Result<()> {
        let missed = losses.missed != self.missed;
        self.missed = losses.missed;
        self.checker.losses(&mut self.engine, missed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn what_is_handed_on_to_the_workload_is_understood() {
        let words = [
            "tracer",
            "provoke",
            "detach",
            "--duration",
            "1500ms",
            "--without",
            "kprobe",
            "--linger",
            "5ms",
        ];
        let Some(crate::cli::Command::Provoke(args)) = Cli::parse_from(words).command else {
            panic!("this is no provoke");
        };
        let live = live_args(&args, 4, 9).unwrap();
        assert_eq!(live.buffer, 64 << 20);
        assert_eq!(live.linger, Duration::from_millis(5));
        assert_eq!(live.without, [Mechanism::from_str("kprobe", false).unwrap()]);
        let child = std::iter::once("tracer".to_owned()).chain(live.cmd.into_iter().skip(1));
        let Some(crate::cli::Command::Provoke(child)) = Cli::parse_from(child).command else {
            panic!("this is no provoke");
        };
        assert_eq!(child.duration, Duration::from_millis(1500));
        assert_eq!((child.threads, child.report_fd), (Some(4), Some(9)));
        assert_eq!(child.scenario, "detach");
    }

    #[test]
    fn the_list_names_every_scenario() {
        let mut out = Vec::new();
        list(&mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        for scenario in SCENARIOS {
            assert!(out.contains(scenario.name) && out.contains(scenario.reaches));
            assert!(choose(scenario.name).is_some_and(|chosen| chosen.len() == 1));
        }
        assert!(choose("everything").is_none());
        assert_eq!(choose("all").map(|chosen| chosen.len()), Some(SCENARIOS.len()));
    }
}
