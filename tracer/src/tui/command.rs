//! What can be typed behind `:`.

use super::snapshot::View;
use crate::filter::{Filter, FilterError, parse::duration};
use crate::trigger::Trigger;

/// A command, understood.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Leave.
    Quit,
    /// Show the help.
    Help,
    /// Go to a view.
    View(View),
    /// Set the filter of this table, or none.
    Filter(Option<Filter>),
    /// Sort this table by the column of that name.
    Sort(String),
    /// Write what is shown to a file; without a name, to one that is made up.
    Export(Option<String>),
    /// Record to a file; without a name, to one that is made up.
    Record(Option<String>),
    /// Stop recording.
    Stop,
    /// Hold the screen when it comes true; none: never.
    Trigger(Option<Trigger>),
    /// In a recording: to a time since its start, in nanoseconds.
    Goto(u64),
    /// In a recording: to an event by its number.
    Event(u64),
    /// In a recording: play so fast, in thousandths of real time.
    Speed(u64),
    /// Which waits are long, in nanoseconds.
    Wait(u64),
    /// Look at the address space of a process.
    Pid(u32),
    /// Look at a thread.
    Tid(u32),
    /// Pictures a second.
    Frames(u32),
}

/// Name, argument, help; in the order of the help.
pub const COMMANDS: [(&str, &str, &str); 16] = [
    ("q", "", "leave"),
    ("help", "", "the help"),
    ("view", "NAME", "go to a view"),
    ("filter", "[EXPR]", "show only what fits; without EXPR everything"),
    ("sort", "COLUMN", "sort by a column"),
    ("export", "[FILE]", "write what is shown to a file"),
    ("record", "[FILE]", "record to a file"),
    ("stop", "", "stop recording"),
    (
        "trigger",
        "[EXPR]",
        "hold the screen when EXPR comes true, as with record --on; without EXPR never",
    ),
    ("pid", "PID", "look at the address space of a process"),
    ("tid", "TID", "look at a thread"),
    (
        "wait",
        "TIME",
        "waits of that length or longer are what w goes to",
    ),
    ("fps", "N", "pictures a second, 1 to 60"),
    (
        "goto",
        "TIME",
        "recording: to this time since its start, such as 1.5s or 20ms",
    ),
    ("event", "N", "recording: to the event of this number"),
    (
        "speed",
        "FACTOR",
        "recording: play so many times as fast, such as 10 or 0.01",
    ),
];

/// Understands a command.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<Command, String> {
    let text = text.trim();
    let (name, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let argument = argument.trim();
    let number = || -> Result<u64, String> {
        argument
            .parse()
            .map_err(|_| format!(":{name} takes a number, not '{argument}'"))
    };
    let filter = || -> Result<Option<Filter>, String> {
        if argument.is_empty() {
            return Ok(None);
        }
        argument
            .parse()
            .map(Some)
            .map_err(|error: FilterError| error.to_string())
    };
    let trigger = || -> Result<Option<Trigger>, String> {
        let some = Some(argument).filter(|argument| !argument.is_empty());
        some.map(Trigger::parse)
            .transpose()
            .map_err(|error| error.to_string())
    };
    let file = || Some(argument.to_owned()).filter(|name| !name.is_empty());
    Ok(match name {
        "q" | "quit" | "q!" => Command::Quit,
        "help" | "h" => Command::Help,
        "view" => {
            let wanted = argument.to_lowercase();
            let mut fitting = View::ALL
                .into_iter()
                .filter(|view| !wanted.is_empty() && view.name().to_lowercase().starts_with(&wanted));
            match (fitting.next(), fitting.next()) {
                (Some(view), None) => Command::View(view),
                _ => {
                    let names: Vec<_> = View::ALL.iter().map(|view| view.name()).collect();
                    return Err(format!(":view takes one of {}", names.join(", ")));
                }
            }
        }
        "filter" => Command::Filter(filter()?),
        "sort" if argument.is_empty() => return Err(":sort takes the name of a column".into()),
        "sort" => Command::Sort(argument.to_lowercase()),
        "export" => Command::Export(file()),
        "record" => Command::Record(file()),
        "stop" => Command::Stop,
        "trigger" => Command::Trigger(trigger()?),
        "goto" => Command::Goto(duration(argument)?),
        "event" => Command::Event(number()?),
        "speed" => {
            let factor: f64 = argument
                .trim_end_matches(['x', '×'])
                .parse()
                .map_err(|_| format!(":speed takes a factor such as 10 or 0.01, not '{argument}'"))?;
            if !(0.001..=1e6).contains(&factor) {
                return Err(":speed goes from 0.001 to 1000000".into());
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "within these bounds"
            )]
            let permille = (factor * 1000.0) as u64;
            Command::Speed(permille)
        }
        "wait" => Command::Wait(duration(argument)?),
        "pid" => Command::Pid(u32::try_from(number()?).map_err(|_| "no such process".to_owned())?),
        "tid" => Command::Tid(u32::try_from(number()?).map_err(|_| "no such thread".to_owned())?),
        "fps" => match number()? {
            frames @ 1..=60 => Command::Frames(u32::try_from(frames).unwrap_or(10)),
            _ => return Err(":fps goes from 1 to 60".into()),
        },
        "" => return Err("a command is missing; :help lists them".into()),
        _ => {
            let names: Vec<_> = COMMANDS.iter().map(|(name, ..)| *name).collect();
            return Err(format!(
                "no command is called {name}; there are {}",
                names.join(", ")
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_help_is_understood() {
        let arguments = [
            ("NAME", "tasks"),
            ("[EXPR]", "wait>1ms"),
            ("COLUMN", "wait"),
            ("[FILE]", "a.csv"),
            ("PID", "7"),
            ("TID", "7"),
            ("TIME", "1.5s"),
            ("N", "20"),
            ("FACTOR", "0.01"),
            ("", ""),
        ];
        for (name, argument, _) in COMMANDS {
            let (_, value) = arguments.iter().find(|(kind, _)| *kind == argument).unwrap();
            assert!(parse(&format!("{name} {value}")).is_ok(), "{name}");
            if argument.starts_with('[') {
                assert!(parse(name).is_ok(), "{name}");
            } else if !argument.is_empty() {
                assert!(parse(name).is_err(), "{name}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, words) in [
            ("", "missing"),
            ("wibble", "no command is called wibble"),
            ("view x", "Overview"),
            ("view", "Overview"),
            ("goto 5", "1ms"),
            ("speed fast", "factor"),
            ("speed 0", "0.001"),
            ("fps 0", "1 to 60"),
            ("filter comm=", "value is missing"),
            ("trigger violations", "needs a field"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert_eq!(parse("goto 1.5s"), Ok(Command::Goto(1_500_000_000)));
        assert_eq!(parse("speed 0.5x"), Ok(Command::Speed(500)));
    }
}
