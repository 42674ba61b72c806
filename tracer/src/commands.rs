//! What each command does: wires the parts together and turns errors into exit codes.

use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};
use tracer_common::wire::Event;

use crate::check::accounting::Accounting;
use crate::child::Output;
use crate::cli::{Cli, Command, DoctorArgs, LiveArgs, RecordArgs, StacksFrom, StatsArgs};
use crate::contention::Contention;
use crate::disk;
use crate::doctor;
use crate::info::{Losses, SourceInfo};
use crate::kernel::{Depth, NoTypes};
use crate::live_setup::{self, Started};
use crate::logger;
use crate::mode::{self, Mode};
use crate::order::Order;
use crate::outside;
use crate::pipeline::{self, Consumer, Stop};
use crate::probe::{self, Refusal, Wishes, attach};
use crate::recording::{self, RecordWriter, is_broken_pipe};
use crate::say::tell;
use crate::sink::address::Addresses;
use crate::sink::stats::{self, Inputs};
use crate::sink::summary;
use crate::sink::text as words;
use crate::source::Source;
use crate::source::live::Live;
use crate::source::replay::Replay;
use crate::source::sieve::Sieved;
use crate::stacks::Stacks;
use crate::state::{Engine, Meta};
use crate::tui::{self, ScreenArgs};
use crate::{export, files, flight, judge, model, provoke, serve, sim, text, validate, watch};

/// Done.
const DONE: u8 = 0;
/// Failed.
const FAILED: u8 = 1;
/// Wrong usage.
const USAGE: u8 = 2;
/// A violation was found.
const VIOLATION: u8 = 3;
/// Not permitted, or not possible on this kernel.
const IMPOSSIBLE: u8 = 4;

/// Runs the program; gives its exit code.
pub fn main() -> u8 {
    let cli = Cli::try_parse().unwrap_or_else(|error| refuse(&error));
    logger::install(cli.verbose);
    match run(cli) {
        Ok(code) => code,
        Err(error)
            if error.downcast_ref::<Refusal>().is_some()
                || error.downcast_ref::<NoTypes>().is_some()
                || error.downcast_ref::<watch::Impossible>().is_some() =>
        {
            tell!("{error:#}");
            IMPOSSIBLE
        }
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => DONE,
        Err(error) => {
            // What is written to a file says which; only what is printed comes without a place.
            let is_printed = error.chain().len() == 1
                && error
                    .downcast_ref::<io::Error>()
                    .is_some_and(|error| error.kind() == io::ErrorKind::StorageFull);
            let place = if is_printed {
                "cannot write to the standard output: "
            } else {
                ""
            };
            tell!("{place}{error:#}");
            FAILED
        }
    }
}

/// Ends the program with what is wrong with its arguments, or with help. Arguments come from scripts and from names of
/// files, too, and are in the message as they were given.
fn refuse(error: &clap::Error) -> ! {
    let is_harmless = std::env::args_os()
        .skip(1)
        .all(|argument| !argument.to_string_lossy().contains(outside::is_harmful));
    if is_harmless || !error.use_stderr() {
        error.exit();
    }
    let text = error.render().to_string();
    let _ = crate::say::lines(&mut io::stderr().lock(), &text);
    std::process::exit(error.exit_code());
}

fn run(cli: Cli) -> anyhow::Result<u8> {
    let log = cli.verbose > 0;
    if let Some(command) = &cli.command
        && cli.top.is_set()
    {
        tell!(
            "options before the command are those of `top`; put them after {}",
            command.name()
        );
        return Ok(USAGE);
    }
    if let Some(wrong) = mode::misuse(&cli.command, &cli.top) {
        tell!("{wrong}");
        return Ok(USAGE);
    }
    match cli.command {
        None => top(&cli.top, &cli.screen, log),
        Some(Command::Top(args)) => top(&args.live, &args.screen, log),
        Some(Command::Replay(args)) => tui::replay::run(&args).map(|()| DONE),
        Some(Command::Record(args)) => record(&args, log),
        Some(Command::Stats(args)) => stats(&args, log),
        Some(Command::Check(args)) => Ok(if validate::run(&args, log)? {
            DONE
        } else {
            VIOLATION
        }),
        Some(Command::Export(args)) => export::run(&args),
        Some(Command::Serve(args)) => serve::run(&args, log),
        Some(Command::Info(args)) => files::info(&args),
        Some(Command::Verify(args)) => files::verify(&args),
        Some(Command::Cut(args)) => files::cut(&args),
        Some(Command::Merge(args)) => files::merge(&args),
        Some(Command::Doctor(args)) => doctor(&args, log),
        Some(Command::Watch(args)) => watch::run(&args).map(|()| DONE),
        Some(Command::Model(args)) => model::run(args),
        Some(Command::Sim(args)) => sim::run(&args),
        Some(Command::Provoke(args)) => provoke::run(&args, log),
        Some(Command::Sites(args)) => text::main_sites(&args).map(|()| DONE),
        Some(Command::Judge(args)) => Ok(if judge::run(&args)? { DONE } else { VIOLATION }),
        Some(Command::Man { folder: Some(folder) }) => {
            let said = || format!("cannot write manual pages to {}", outside::path(&folder));
            manual(&folder).with_context(said)?;
            Ok(DONE)
        }
        Some(Command::Man { folder: None }) => {
            clap_mangen::Man::new(Cli::command()).render(&mut io::stdout())?;
            Ok(DONE)
        }
        Some(Command::Completions { shell }) => {
            clap_complete::generate(shell, &mut Cli::command(), "tracer", &mut io::stdout());
            Ok(DONE)
        }
    }
}

/// Writes the manual pages of the program and of all commands that are not hidden.
fn manual(folder: &Path) -> anyhow::Result<()> {
    fn pages(command: &clap::Command, folder: &Path) -> anyhow::Result<()> {
        for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
            pages(command, folder)?;
        }
        let page = clap_mangen::Man::new(command.clone());
        let mut text = Vec::new();
        page.render(&mut text)?;
        // Everybody may read how the program is used.
        disk::replace_public(&folder.join(page.get_filename()), &text)?;
        Ok(())
    }

    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    pages(&command, folder)
}

fn top(args: &LiveArgs, screen: &ScreenArgs, log: bool) -> anyhow::Result<u8> {
    tui::require_terminal()?;
    let Started { mut live, mut stop } = live_setup::start(args, log, Output::Hidden)?;
    tui::live::run(&mut live, &mut stop, screen).map(|()| DONE)
}

fn record(args: &RecordArgs, log: bool) -> anyhow::Result<u8> {
    if !args.on.is_empty() {
        return flight::record(args, log).map(|()| DONE);
    }
    let Started { mut live, mut stop } = live_setup::start(&args.live, log, Output::Shown)?;
    live_setup::tell_unseen(&live);
    let writer = recording::create(&args.output, live.info())?;
    let mut recorder = Recorder {
        writer,
        progress: Progress::new(),
        losses: Losses::default(),
    };
    let outcome = pipeline::run(&mut live, &mut stop, &mut recorder)?;
    let reason = outcome.ended.name();
    if let Some(file) = &args.live.sums {
        let said = || format!("cannot write {}", outside::path(file));
        let sums = sums_of(&live, &outcome)?.to_json()?;
        disk::replace(file, sums.as_bytes()).with_context(said)?;
    }
    let bytes = recorder.writer.bytes_written();
    let summary = recorder.writer.finish(&outcome.losses, reason)?;
    recorder.progress.clear();
    tell!(
        "{} events, {} dropped, {} gaps, {} KiB",
        words::count(summary.events),
        words::count(outcome.losses.dropped()),
        words::count(summary.gaps),
        words::count(bytes.div_ceil(1024)),
    );
    let Losses {
        missed,
        marks,
        stacks,
        crowded,
        unpaired,
        ..
    } = outcome.losses;
    if missed > 0 {
        tell!(
            "the kernel skipped {} runs of probes: what was under way then is uncertain",
            words::count(missed)
        );
    }
    if !unpaired.is_empty() {
        let all = unpaired.values().sum();
        tell!(
            "{} beginnings or ends did not find each other, and make no hold; `tracer stats` tells more",
            words::count(all)
        );
    }
    if crowded > 0 {
        tell!(
            "{} events were kept before it was known whether they belong to a long hold or wait: too many waited for that",
            words::count(crowded)
        );
    }
    if marks + stacks > 0 {
        tell!(
            "{} tasks may have left a CPU with a lock unreported, {} stacks were not to be had",
            words::count(marks),
            words::count(stacks)
        );
    }
    Ok(DONE)
}

/// Writes events to a file.
struct Recorder {
    writer: RecordWriter,
    progress: Progress,
    losses: Losses,
}

impl Consumer for Recorder {
    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        self.writer.push(event)
    }

    fn stacks(&mut self, stacks: &Stacks) -> anyhow::Result<()> {
        self.writer.stacks(stacks)
    }

    fn round(&mut self, _order: &Order) -> anyhow::Result<()> {
        self.writer.tick()?;
        let Self { writer, losses, .. } = self;
        self.progress.show(|| {
            format!(
                "recording: {} events, {} dropped, {} KiB; ^C stops",
                words::count(writer.events()),
                words::count(losses.dropped()),
                words::count(writer.bytes_written() / 1024)
            )
        });
        Ok(())
    }

    fn losses(&mut self, losses: &Losses) -> anyhow::Result<()> {
        if losses.dropped() != self.losses.dropped()
            || losses.missed != self.losses.missed
            || losses.unpaired != self.losses.unpaired
        {
            self.writer.losses(losses)?;
        }
        self.losses.clone_from(losses);
        Ok(())
    }
}

/// One line on standard error that says how far we are, if anybody sits there.
pub(crate) struct Progress {
    next: Option<Instant>,
    shown: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let next = io::stderr()
            .is_terminal()
            .then(|| Instant::now() + Duration::from_secs(1));
        Self { next, shown: false }
    }

    pub(crate) fn show(&mut self, line: impl FnOnce() -> String) {
        if let Some(next) = self.next
            && Instant::now() >= next
        {
            crate::say::progress(&line());
            self.next = Some(Instant::now() + Duration::from_millis(500));
            self.shown = true;
        }
    }

    pub(crate) fn clear(&self) {
        if self.shown {
            crate::say::progress("");
        }
    }
}

/// Feeds the engine, and hands on what comes out of it.
struct Analysis<F> {
    engine: Engine,
    accounting: Option<Accounting>,
    contention: Option<Contention>,
    missed: u64,
    progress: export::Progress,
    out: F,
}

impl<F: FnMut(&Event, &Meta) -> anyhow::Result<()>> Analysis<F> {
    fn new(info: &SourceInfo, out: F) -> Self {
        Self {
            engine: Engine::new(info),
            accounting: None,
            contention: None,
            missed: 0,
            progress: export::Progress::default(),
            out,
        }
    }
}

impl<F: FnMut(&Event, &Meta) -> anyhow::Result<()>> Consumer for Analysis<F> {
    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        let mut result = Ok(());
        let out = &mut self.out;
        let mut accounting = self.accounting.as_mut();
        self.engine.apply(event, &mut |event, meta| {
            if let Some(accounting) = accounting.as_mut().filter(|_| meta.derived) {
                accounting.derived(event, meta);
            }
            if result.is_ok() {
                result = out(event, meta);
            }
        });
        if let Some(accounting) = &mut self.accounting {
            accounting.observe(&self.engine, event);
        }
        if let Some(contention) = &mut self.contention {
            contention.observe(&self.engine, event);
        }
        result
    }

    fn round(&mut self, _order: &Order) -> anyhow::Result<()> {
        self.progress.show(self.engine.totals().received);
        Ok(())
    }

    fn far(&mut self, read: u64, length: u64) {
        self.progress.far(read, length);
    }

    fn losses(&mut self, losses: &Losses) -> anyhow::Result<()> {
        // A run that the kernel skipped leaves no hole in the numbering.
        if losses.missed != self.missed {
            self.missed = losses.missed;
            self.engine.forget();
        }
        Ok(())
    }
}

fn stats(args: &StatsArgs, log: bool) -> anyhow::Result<u8> {
    match &args.file {
        Some(file) => {
            anyhow::ensure!(
                !args.live.is_set(),
                "filters apply to the live kernel; leave out either them or {}",
                outside::path(file)
            );
            let mut replay = Replay::open(file)?;
            let mut stop = Stop::new(None)?;
            analyse(&mut replay, &mut stop, args, |replay| {
                (replay.summary().is_some(), replay.warning().into_iter().collect())
            })
        }
        None => {
            let Started { mut live, mut stop } = live_setup::start(&args.live, log, Output::Shown)?;
            live_setup::tell_unseen(&live);
            if args.live.mode == Mode::Summary {
                return summarise(&mut live, &mut stop, args.json);
            }
            analyse(&mut live, &mut stop, args, |_| (true, Vec::new()))
        }
    }
}

/// Takes no events, for there are none.
struct Nobody;

impl Consumer for Nobody {
    fn event(&mut self, _event: &Event) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Lets the kernel sum up until it is time, and prints that.
fn summarise(live: &mut Sieved<Live>, stop: &mut Stop, json: bool) -> anyhow::Result<u8> {
    let outcome = pipeline::run(live, stop, &mut Nobody)?;
    let report = sums_of(live, &outcome)?;
    let mut out = io::stdout().lock();
    if json {
        write!(out, "{}", report.to_json()?)?;
    } else {
        summary::render(&report, &stats::Style::for_stdout(), &mut out)?;
    }
    out.flush()?;
    Ok(DONE)
}

/// What the kernel summed up by now.
fn sums_of(live: &Sieved<Live>, outcome: &pipeline::Outcome) -> anyhow::Result<summary::Report> {
    let sums = live.inner().sums().context("the kernel has not summed up")?;
    Ok(summary::Report::new(&summary::Inputs {
        info: live.info(),
        sums: &sums,
        losses: &outcome.losses,
        end_ns: live.inner().end_ns(),
        ended: outcome.ended.name(),
    }))
}

fn analyse<S: Source>(
    source: &mut S,
    stop: &mut Stop,
    args: &StatsArgs,
    end: impl FnOnce(&S) -> (bool, Vec<String>),
) -> anyhow::Result<u8> {
    let info = source.info().clone();
    let mut analysis = Analysis::new(&info, |_, _| Ok(()));
    analysis.accounting = Some(Accounting::new(&info));
    analysis.contention = Some(Contention::default());
    analysis.engine.keep_notes();
    let outcome = pipeline::run(source, stop, &mut analysis)?;
    analysis.progress.clear();
    if let Some(accounting) = &mut analysis.accounting {
        accounting.finish();
    }
    if let Some(contention) = &mut analysis.contention {
        contention.finish(&analysis.engine);
    }
    let (complete, warnings) = end(source);
    for warning in &warnings {
        tell!("{warning}");
    }
    let report = stats::Report::new(&Inputs {
        info: &info,
        engine: &analysis.engine,
        order: &outcome.order,
        accounting: analysis.accounting.as_ref(),
        contention: analysis.contention.as_ref(),
        stacks: source.stacks(),
        losses: &outcome.losses,
        complete,
        warnings,
        addresses: &Addresses::hashed(),
    });
    let mut out = io::stdout().lock();
    if args.json {
        write!(
            out,
            "{}",
            report.to_json().context("cannot turn the report into JSON")?
        )?;
    } else {
        let style = stats::Style {
            sections: args.sections.clone(),
            ..stats::Style::for_stdout()
        };
        stats::render(&report, style, &mut out)?;
    }
    out.flush()?;
    Ok(DONE)
}

fn doctor(args: &DoctorArgs, verbose: bool) -> anyhow::Result<u8> {
    let live_setup::Known { facts, found, loader } =
        live_setup::gather(Depth::Full, args.kernel_text.as_deref())?;
    let wishes = Wishes {
        without: args.without.clone(),
        stacks_from_ns: StacksFrom::default().0,
        ..Wishes::default()
    };
    if let Some(file) = &args.capture {
        let text = serde_json::to_string_pretty(&facts).context("cannot turn facts into JSON")?;
        disk::replace(file, (text + "\n").as_bytes())
            .with_context(|| format!("cannot write {}", outside::path(file)))?;
    }
    // Before anything of ours is there.
    let host = doctor::Host::read(Path::new("/"), facts.capabilities, doctor::free_breakpoints());
    // It attaches for real, since only that tells what the kernel refuses, and the very programs that `record -- CMD`
    // attaches, since the verifier looks at nothing that is switched off; but none of them makes an event.
    let options = attach::Options {
        ring_bytes: 4096,
        exclude_pid: std::process::id(),
        pids: Vec::new(),
        follow: true,
        tids: Vec::new(),
        comm: None,
        cgroup: None,
        addr: None,
        kinds: u64::MAX,
        user_symbols: false,
        linger_ns: 0,
        mode: Mode::Stream,
        holds_from_ns: 0,
        sums: false,
        log: false,
        idle: true,
    };
    let start = Instant::now();
    let live = Live::start(&facts, &found, &wishes, loader, &options, Vec::new());
    if live.is_err() && !args.json {
        // Who may not attach learns what is in the way all the same.
        crate::say::lines(&mut io::stdout().lock(), &host.in_the_way())?;
    }
    let mut live = live?;
    live.complete();
    log::info!("attached in {} ms", start.elapsed().as_millis());
    let elsewhere = probe::plan(&facts, &found, &wishes)?.elsewhere;
    let report = doctor::Report::new(&doctor::Inputs {
        info: live.info(),
        lockdown: facts.lockdown,
        host: &host,
        found: &found,
        elsewhere: &elsewhere,
        verified: &live.verified(),
    });
    let start = Instant::now();
    drop(live);
    log::info!("detached in {} ms", start.elapsed().as_millis());
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", outside::formats::json_pretty(&report)?)?;
    } else {
        crate::say::lines(&mut out, &report.text(verbose))?;
    }
    Ok(DONE)
}
