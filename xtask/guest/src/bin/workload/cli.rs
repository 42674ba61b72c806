//! The command line: one subcommand for each workload, all made from one table.

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::Value;

use crate::report::Report;

/// One workload.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) name: &'static str,
    /// One sentence.
    pub(crate) about: &'static str,
    /// What is counted, what is exact, and what it needs.
    pub(crate) detail: &'static str,
    /// Default number of threads; 0 if it is fixed.
    pub(crate) threads: usize,
    /// Default number of pages.
    pub(crate) pages: usize,
    /// Default number of rounds; 0 if there are none.
    pub(crate) rounds: usize,
    /// Default duration in milliseconds; 0 if it ends by itself.
    pub(crate) millis: u64,
    /// Values of `--kind`, the default first.
    pub(crate) kinds: &'static [&'static str],
    /// Does it read files of a directory?
    pub(crate) dir: bool,
    /// May it be given a block device?
    pub(crate) device: bool,
    /// Runs it.
    pub(crate) run: fn(&Opts) -> Result<Report>,
}

/// An entry with the defaults that most have.
pub(crate) const PLAIN: Entry = Entry {
    name: "",
    about: "",
    detail: "",
    threads: 2,
    pages: 64,
    rounds: 8,
    millis: 0,
    kinds: &[],
    dir: false,
    device: false,
    run: |_| Ok(Report::default()),
};

/// What the command line says.
#[derive(Debug, Clone)]
pub(crate) struct Opts {
    pub(crate) threads: usize,
    pub(crate) pages: usize,
    pub(crate) rounds: usize,
    pub(crate) seed: u64,
    pub(crate) duration: Duration,
    pub(crate) kind: String,
    pub(crate) dir: String,
    pub(crate) device: String,
    pub(crate) json: bool,
}

/// What is to be done.
pub(crate) enum Parsed {
    /// Run this.
    Run(&'static Entry, Opts),
    /// All done.
    Done(io::Result<()>),
}

fn table() -> impl Iterator<Item = &'static Entry> {
    [
        crate::w_mixed::TABLE,
        crate::w_basic::TABLE,
        crate::w_file::TABLE,
        crate::w_fork::TABLE,
        crate::w_change::TABLE,
        crate::w_madvise::TABLE,
        crate::w_uffd::TABLE,
        crate::w_swap::TABLE,
        crate::w_contend::TABLE,
        crate::w_proc::TABLE,
        crate::w_net::TABLE,
        crate::w_time::TABLE,
        crate::w_holder::TABLE,
    ]
    .into_iter()
    .flatten()
}

fn command() -> Command {
    let json = Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .global(true)
        .help("Print one line of JSON");
    let mut command = Command::new("workload")
        .about("Known numbers of operations on the locks that tracer watches")
        .after_help(
            "Every workload prints what it did as the kernel must have seen it. The main keys of its JSON:\n  \
             begin_ns, end_ns   the measured part (CLOCK_MONOTONIC); its threads do nothing else in it\n  \
             pid, tids          the process, and its threads that did the work, in order of their index\n  \
             faults             page faults that the threads made, in all; by_thread has them one by one\n  \
             touches, ..._faults  the same by kind: first touches, wp_faults, file_faults, ...\n  \
             signals            accesses that ended in SIGSEGV or SIGBUS; not among the faults\n  \
             ru_minflt, ru_majflt  faults as the kernel counted them over the measured part\n  \
             exact              they must be equal; if they are not the workload fails\n  \
             mmap_write_locks   how often mmap_lock of this process was taken for writing\n  \
             ..._calls, forks   how often each call was made\n  \
             children           of forks: pid, faults made on purpose, faults counted from fork to exit\n\n\
             Huge pages are off (PR_SET_THP_DISABLE): one touch is one fault.\n\n\
             Exit status: 0 done, 1 failed, 2 usage, 3 not possible on this kernel or with these privileges.\n\n\
             Example: workload mixed --threads 4 --rounds 8 --json",
        )
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_value_name("NAME")
        .subcommand_help_heading("Workloads")
        .disable_help_subcommand(true)
        .arg(json)
        .arg(
            Arg::new("list")
                .long("list")
                .action(ArgAction::SetTrue)
                .help("List the workloads, each with a sentence"),
        );
    for entry in table() {
        command = command.subcommand(subcommand(entry));
    }
    command
}

fn subcommand(entry: &'static Entry) -> Command {
    let mut command = Command::new(entry.name)
        .about(entry.about)
        .long_about(format!("{}\n\n{}", entry.about, entry.detail));
    let mut example = format!("Example: workload {} --json", entry.name);
    let number = |name: &'static str, short: char, default: usize, help: &'static str| {
        Arg::new(name)
            .long(name)
            .short(short)
            .value_name("N")
            .value_parser(value_parser!(u64).range(1..=1_000_000))
            .default_value(default.to_string())
            .help(help)
    };
    if entry.threads > 0 {
        command = command.arg(number(
            "threads",
            't',
            entry.threads,
            "Threads that do the measured work",
        ));
        example.push_str(&format!(" --threads {}", entry.threads));
    }
    if entry.pages > 0 {
        command = command.arg(number(
            "pages",
            'p',
            entry.pages,
            "Pages for each thread and round",
        ));
        example.push_str(&format!(" --pages {}", entry.pages));
    }
    if entry.rounds > 0 {
        command = command.arg(number(
            "rounds",
            'r',
            entry.rounds,
            "How often each thread does it",
        ));
    }
    if entry.millis > 0 {
        command = command.arg(
            Arg::new("duration")
                .long("duration")
                .short('d')
                .value_name("MS")
                .value_parser(value_parser!(u64).range(1..=3_600_000))
                .default_value(entry.millis.to_string())
                .help("How long, in milliseconds"),
        );
        example.push_str(&format!(" --duration {}", entry.millis));
    }
    if !entry.kinds.is_empty() {
        command = command.arg(
            Arg::new("kind")
                .long("kind")
                .value_parser(entry.kinds.to_vec())
                .default_value(entry.kinds[0])
                .help("Which of its kinds"),
        );
        example.push_str(&format!(" --kind {}", entry.kinds[0]));
    }
    if entry.dir {
        command = command.arg(
            Arg::new("dir")
                .long("dir")
                .value_name("DIR")
                .default_value("/dev/shm")
                .help("Where its file is created; counts are exact on tmpfs and ramfs"),
        );
    }
    if entry.device {
        command = command.arg(
            Arg::new("device")
                .long("device")
                .value_name("DEV")
                .help("Block device to overwrite and use if no swap space is active"),
        );
    }
    command
        .arg(
            Arg::new("seed")
                .long("seed")
                .value_name("S")
                .value_parser(value_parser!(u64))
                .default_value("1")
                .help("Decides the order of operations where it is random"),
        )
        .after_help(example)
}

/// Reads the command line; on errors it ends the process, as clap does.
pub(crate) fn parse() -> Parsed {
    let mut command = command();
    let matches = command.get_matches_mut();
    if matches.get_flag("list") {
        return Parsed::Done(list(matches.get_flag("json")));
    }
    let found = matches
        .subcommand()
        .and_then(|(name, sub)| table().find(|e| e.name == name).map(|e| (e, sub)));
    let Some((entry, sub)) = found else {
        command
            .error(
                clap::error::ErrorKind::MissingSubcommand,
                "which workload? `workload --list` names them",
            )
            .exit()
    };
    Parsed::Run(entry, opts(sub))
}

fn opts(sub: &ArgMatches) -> Opts {
    let number = |name: &str| match sub.try_get_one::<u64>(name) {
        Ok(Some(n)) => usize::try_from(*n).unwrap_or(usize::MAX),
        // Not an argument of this workload.
        _ => 0,
    };
    let text = |name: &str| match sub.try_get_one::<String>(name) {
        Ok(Some(text)) => text.clone(),
        _ => String::new(),
    };
    Opts {
        threads: number("threads"),
        pages: number("pages"),
        rounds: number("rounds"),
        seed: number("seed") as u64,
        duration: Duration::from_millis(number("duration") as u64),
        kind: text("kind"),
        dir: text("dir"),
        device: text("device"),
        json: sub.get_flag("json"),
    }
}

fn list(json: bool) -> io::Result<()> {
    let mut text = String::new();
    if json {
        let all: Vec<Value> = table()
            .map(|e| serde_json::json!({"name": e.name, "about": e.about}))
            .collect();
        text = format!("{}\n", Value::Array(all));
    } else {
        for entry in table() {
            text.push_str(&format!("{:<18} {}\n", entry.name, entry.about));
        }
    }
    write(&text)
}

/// Prints a result, as JSON or for people. A reader that has gone away is no failure.
pub(crate) fn print(json: &Value, as_json: bool) -> Result<()> {
    let mut text = String::new();
    if as_json {
        text = format!("{json}\n");
    } else {
        for (key, value) in json.as_object().into_iter().flatten() {
            match value {
                _ if key == "by_thread" => {}
                Value::String(word) => text.push_str(&format!("{key:<20} {word}\n")),
                other => text.push_str(&format!("{key:<20} {other}\n")),
            }
        }
    }
    write(&text).context("writing the result")
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_has_a_name_of_its_own_and_says_what_it_does() {
        command().debug_assert();
        let mut names: Vec<_> = table().map(|e| e.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(count, names.len(), "two workloads have one name");
        for entry in table() {
            assert!(
                !entry.about.is_empty() && !entry.about.ends_with('.'),
                "{}",
                entry.name
            );
            assert!(entry.detail.len() > entry.about.len() / 2, "{}", entry.name);
            let help = subcommand(entry).render_long_help().to_string();
            assert!(
                help.contains(&format!("Example: workload {}", entry.name)),
                "{help}"
            );
        }
    }

    #[test]
    fn options_that_a_workload_lacks_are_refused() {
        let parse = |words: &[&str]| command().try_get_matches_from(words).is_ok();
        assert!(parse(&[
            "workload",
            "anon",
            "--threads",
            "3",
            "--seed",
            "7",
            "--json"
        ]));
        assert!(parse(&["workload", "--list", "--json"]));
        assert!(!parse(&["workload", "anon", "--threads", "0"]));
        assert!(!parse(&["workload", "anon", "--duration", "5"]));
        assert!(!parse(&["workload", "no-such-workload"]));
    }
}
