//! How many instructions the program takes for an event, and whether that is still what it was.
//!
//! Machines are shared, and a second here is not a second there; an instruction is an instruction. valgrind counts those of the
//! program that ships, on two recordings that differ in length only: what they differ by is the price of the events between.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::Value;

use crate::{build, deps, ui, ws};

#[derive(Debug, Args)]
pub(crate) struct InstructionsArgs {
    /// Write the counts into the table that tests hold them against
    #[arg(long)]
    write: bool,
}

/// Who asks for it, and how: a name, and the command whose `FILE` is the recording.
const STAGES: &[(&str, &[&str])] = &[
    ("stats", &["stats", "--json", "FILE"]),
    ("check", &["check", "--json", "FILE"]),
    (
        "export-jsonl",
        &["export", "FILE", "-f", "jsonl", "-o", "/dev/null"],
    ),
    ("export-csv", &["export", "FILE", "-f", "csv", "-o", "/dev/null"]),
    (
        "export-perfetto",
        &["export", "FILE", "-f", "perfetto", "-o", "/dev/null"],
    ),
];

/// Events of the two recordings: tables that grow have grown in the first one.
const FEW: u64 = 50_000;
const MANY: u64 = 150_000;

/// How much more than in the table is tolerated, in percent: another processor has other instructions to copy memory
/// with.
const TOLERATED: f64 = 5.0;

/// Instructions an event, by stage.
pub(crate) type Counts = BTreeMap<String, f64>;

fn table() -> PathBuf {
    ws::root().join("tracer/tests/fixtures/instructions.json")
}

/// Counts, one stage after the other.
pub(crate) fn count() -> Result<Counts> {
    let valgrind = deps::valgrind()?;
    let tracer = build::tracer()?;
    let sample = build::sample()?;
    let scratch = ws::Scratch::new(Some(&ws::target().join("bench")))?;
    let recording = |events: u64| {
        let path = scratch.path().join(format!("{events}.rec"));
        ws::capture(Command::new(&sample).arg(&path).arg(events.to_string()))?;
        Ok::<_, anyhow::Error>((events_of(&tracer, &path)?, path))
    };
    let (few, many) = (recording(FEW)?, recording(MANY)?);
    let further = (many.0 - few.0) as f64;
    let mut counts = Counts::new();
    for (name, args) in STAGES {
        let of = |path: &Path| {
            let mut command = Command::new(&valgrind);
            command
                .args([
                    "--tool=cachegrind",
                    "--cache-sim=no",
                    "--cachegrind-out-file=/dev/null",
                ])
                .arg(&tracer);
            for arg in *args {
                match *arg {
                    "FILE" => command.arg(path),
                    arg => command.arg(arg),
                };
            }
            run(&mut command)
        };
        let each = ui::step(&format!("counting instructions of {name}"), || {
            Ok((of(&many.1)? - of(&few.1)?) as f64 / further)
        })?;
        counts.insert((*name).to_owned(), (each * 10.0).round() / 10.0);
    }
    Ok(counts)
}

fn events_of(tracer: &Path, recording: &Path) -> Result<i64> {
    let said = ws::capture(Command::new(tracer).args(["info", "--json"]).arg(recording))?;
    let info: Value = serde_json::from_str(&said).context("what `tracer info` said")?;
    let events = info
        .pointer("/events")
        .or_else(|| info.pointer("/events/received"));
    events
        .and_then(Value::as_i64)
        .with_context(|| format!("`tracer info` tells no events: {said}"))
}

/// Runs a program under valgrind; its instructions.
fn run(command: &mut Command) -> Result<i64> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", ws::show(command)))?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(
        out.status.success(),
        "`{}` ended with {}:\n{said}",
        ws::show(command),
        out.status
    );
    instructions(&said).with_context(|| format!("`{}` told no count:\n{said}", ws::show(command)))
}

/// `==7== I refs:        1,234`, with any number of blanks.
fn instructions(said: &str) -> Option<i64> {
    let line = said.lines().find(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some("I") && words.next() == Some("refs:")
    })?;
    line.rsplit(' ').next()?.replace(',', "").parse().ok()
}

/// Holds what was counted against the table.
pub(crate) fn check(counts: &Counts) -> Result<()> {
    let known = read()?;
    let differ = differ(&known, counts);
    ensure!(
        differ.is_empty(),
        "an event takes other instructions than {} says:\n{}\nif that is how it has to be: `cargo xtask instructions --write`",
        table().strip_prefix(ws::root()).unwrap_or(&table()).display(),
        differ.join("\n")
    );
    Ok(())
}

fn read() -> Result<Counts> {
    let path = table();
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

/// What is not as known, a line each. To take less is no fault.
fn differ(known: &Counts, counted: &Counts) -> Vec<String> {
    let mut differ = Vec::new();
    for (name, count) in counted {
        match known.get(name) {
            None => differ.push(format!("{name}: {count}, and it is not in there")),
            Some(known) if *count > known * (1.0 + TOLERATED / 100.0) => differ.push(format!(
                "{name}: {count} instead of {known}, more than {TOLERATED} % above"
            )),
            Some(_) => {}
        }
    }
    let gone = known.keys().filter(|name| !counted.contains_key(*name));
    differ.extend(gone.map(|name| format!("{name}: not counted, and it is in there")));
    differ
}

/// A line for each stage, with the table's count where there is one.
pub(crate) fn lines(counts: &Counts) -> Vec<String> {
    let known = read().unwrap_or_default();
    let line = |(name, count): (&String, &f64)| {
        let known = known.get(name).map(|known| format!(" ({known} in the table)"));
        format!(
            "{name}: {count} instructions an event{}",
            known.unwrap_or_default()
        )
    };
    counts.iter().map(line).collect()
}

/// Counts, and holds that against the table, or writes it there.
pub(crate) fn command(args: &InstructionsArgs) -> Result<()> {
    let counts = count()?;
    for line in lines(&counts) {
        ui::line(&line);
    }
    if !args.write {
        return check(&counts);
    }
    let path = table();
    let text = serde_json::to_string_pretty(&counts).context("writing JSON")?;
    fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &[(&str, f64)]) -> Counts {
        list.iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    }

    #[test]
    fn the_count_is_found() {
        let said = "==7== Cachegrind\n==7== \n==7== I refs:        12,345,678\n";
        assert_eq!(instructions(said), Some(12_345_678));
        assert_eq!(instructions("==7== I   refs:      9\n"), Some(9));
        assert_eq!(instructions("==7== D   refs:      9\n"), None);
        assert_eq!(instructions(""), None);
    }

    #[test]
    fn more_than_is_tolerated_is_told() {
        let known = of(&[("a", 100.0), ("b", 100.0), ("c", 100.0)]);
        assert!(differ(&known, &of(&[("a", 105.0), ("b", 100.0), ("c", 1.0)])).is_empty());
        assert_eq!(
            differ(&known, &of(&[("a", 105.1), ("b", 100.0), ("new", 1.0)])),
            [
                "a: 105.1 instead of 100, more than 5 % above",
                "new: 1, and it is not in there",
                "c: not counted, and it is in there",
            ]
        );
    }

    #[test]
    fn the_table_has_every_stage() {
        let known = read().unwrap();
        let stages: Vec<_> = STAGES.iter().map(|(name, _)| *name).collect();
        assert_eq!(known.len(), stages.len());
        assert!(
            stages
                .iter()
                .all(|name| known.get(*name).is_some_and(|count| *count > 0.0))
        );
    }
}
