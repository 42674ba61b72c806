//! How much of what happens comes out of the kernel: each event, or sums alone (`--mode`).

use tracer_common::wire::Kind;

use crate::cli::{Command, LiveArgs, StacksFrom};

/// How much comes out of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Each event as it happens: all tables, the screen, recordings.
    #[default]
    Stream,
    /// One event for one hold, from its beginning to its end, brought together in the kernel: recordings, and the tables that
    /// need no more.
    Holds,
    /// Sums and histograms of waits and holds, made in the kernel: no events, and the least cost.
    Summary,
}

impl Mode {
    /// The name in all output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Holds => "holds",
            Self::Summary => "summary",
        }
    }

    /// Whether what shows this operation is needed: what begins or ends a wait or hold, or is counted besides.
    pub const fn needs(self, operation: Kind) -> bool {
        match self {
            Self::Stream => true,
            Self::Holds => is_of_holds(operation),
            Self::Summary => {
                is_of_holds(operation)
                    || matches!(
                        operation,
                        Kind::VmaReadFail | Kind::VmaWriteStart | Kind::VmaWriteAcquire
                    )
            }
        }
    }
}

const fn is_of_holds(operation: Kind) -> bool {
    matches!(
        operation,
        Kind::MmapStart
            | Kind::MmapAcquire
            | Kind::MmapRelease
            | Kind::VmaReadAcquire
            | Kind::VmaReadRelease
            | Kind::FaultEnd
    )
}

/// What is wrong with how a mode was asked for, in words that say what does it instead.
pub fn misuse(command: &Option<Command>, top: &LiveArgs) -> Option<String> {
    match command {
        None => of_events("top", top),
        Some(Command::Top(args)) => of_events("top", &args.live),
        Some(Command::Check(args)) => of_events("check", &args.live),
        Some(Command::Serve(args)) => of_events("serve", &args.live),
        Some(Command::Record(args)) => match args.live.mode {
            Mode::Holds if !args.on.is_empty() => {
                Some("--on looks at single events; leave out it or --mode holds".to_owned())
            }
            Mode::Stream | Mode::Holds => needs_events(&args.live),
            Mode::Summary => Some(
                "record writes events, and with --mode summary there are none; `tracer stats --mode summary --json` \
                 prints what the kernel summed up"
                    .to_owned(),
            ),
        },
        Some(Command::Stats(args)) => {
            if args.live.mode == Mode::Summary && !args.sections.is_empty() {
                return Some(format!(
                    "--section chooses among the tables of --mode stream; --mode {} has its own",
                    args.live.mode.name()
                ));
            }
            no_sums("stats", &args.live).or_else(|| needs_events(&args.live))
        }
        _ => None,
    }
}

/// A command that looks at single events.
fn of_events(command: &str, args: &LiveArgs) -> Option<String> {
    match args.mode {
        Mode::Stream => no_sums(command, args),
        mode => Some(format!(
            "{command} looks at single events, and with --mode {} there are none; `tracer stats --mode {0}` prints what \
             is known of waits and holds then",
            mode.name()
        )),
    }
}

fn no_sums(command: &str, args: &LiveArgs) -> Option<String> {
    args.sums
        .is_some()
        .then(|| format!("--sums belongs to record, not to {command}"))
}

/// Options that are about single events.
fn needs_events(args: &LiveArgs) -> Option<String> {
    if args.mode == Mode::Stream {
        return None;
    }
    let given = [
        ("--only", !args.only.is_empty()),
        // The kernel knows how long a hold was.
        ("--min-hold", args.min_hold.is_some() && args.mode != Mode::Holds),
        ("--min-wait", args.min_wait.is_some()),
        ("--stacks", args.stacks != StacksFrom::default()),
        ("--user-symbols", args.user_symbols),
        ("--truth", args.truth),
        ("--linger", !args.linger.is_zero()),
    ];
    let (option, _) = given.into_iter().find(|&(_, given)| given)?;
    Some(format!(
        "{option} is about single events, and with --mode {} there are none; leave out one of the two",
        args.mode.name()
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn misuse_of(words: &[&str]) -> Option<String> {
        let cli = Cli::try_parse_from([&["tracer"], words].concat()).unwrap();
        misuse(&cli.command, &cli.top)
    }

    #[test]
    fn what_has_no_events_is_not_shown_by_who_needs_them() {
        let serve = &["serve", "--listen", "127.0.0.1:9"][..];
        for words in [&["top"], &["check"], serve] {
            let command = words[0];
            let said = misuse_of(&[words, &["--mode", "summary"]].concat()).unwrap();
            assert!(
                said.contains(command) && said.contains("tracer stats --mode summary"),
                "{said}"
            );
            assert_eq!(misuse_of(&[words, &["--mode", "stream"]].concat()), None);
        }
        assert!(misuse_of(&["--mode", "summary"]).unwrap().contains("top"));
        assert!(
            misuse_of(&["top", "--mode", "holds"])
                .unwrap()
                .contains("tracer stats --mode holds")
        );
        assert_eq!(misuse_of(&["record", "-o", "a", "--mode", "holds"]), None);
        let both = ["record", "-o", "a", "--mode", "holds", "--on", "wait>1ms"];
        assert!(misuse_of(&both).unwrap().contains("--on"));
        let said = misuse_of(&["record", "-o", "a", "--mode", "summary"]).unwrap();
        assert!(said.contains("stats --mode summary"), "{said}");
    }

    #[test]
    fn options_of_single_events_are_refused_where_there_are_none() {
        for option in [
            &["--only", "mmap_start"][..],
            &["--min-hold", "1ms"],
            &["--min-wait", "1ms"],
            &["--stacks", "off"],
            &["--user-symbols"],
            &["--section", "waits"],
            &["--sums", "a"],
        ] {
            let words = [&["stats", "--mode", "summary"], option].concat();
            let said = misuse_of(&words).unwrap();
            assert!(said.contains(option[0]), "{said}");
        }
        for fine in [
            &["-p", "1"][..],
            &["--addr", "0x1000+4K"],
            &["--json"],
            &["--without", "kprobe"],
        ] {
            assert_eq!(misuse_of(&[&["stats", "--mode", "summary"], fine].concat()), None);
        }
        assert_eq!(misuse_of(&["stats", "--only", "mmap_start"]), None);
        // Holds are sifted where they end; of their waits nothing is known before.
        assert_eq!(
            misuse_of(&["stats", "--mode", "holds", "--min-hold", "1ms"]),
            None
        );
        assert_eq!(
            misuse_of(&["stats", "--mode", "holds", "--section", "waits"]),
            None
        );
        assert!(misuse_of(&["record", "-o", "a", "--mode", "holds", "--min-wait", "1ms"]).is_some());
    }
}
