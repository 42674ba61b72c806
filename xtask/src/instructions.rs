//! How many instructions the program takes for an event, and whether that is still what it was.
//!
//! Machines are shared, and a second here is not a second there; an instruction is an instruction. valgrind counts those of the
//! program that ships, on two recordings that differ in length only: what they differ by is the price of the events between.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::table::{self, Table};
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
const TOLERATED: u32 = 5;

/// Instructions an event, by stage.
type Counts = BTreeMap<String, f64>;

const TABLE: Table = Table("tracer/tests/fixtures/instructions.json");

/// What is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    /// What compiled the program: another one makes other instructions of it.
    compiler: String,
    instructions: Counts,
}

/// Counts, one stage after the other.
fn count() -> Result<Counts> {
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
    info["events"]
        .as_i64()
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

/// The compiler that builds the program.
fn compiler() -> Result<String> {
    let said = ws::capture(Command::new("rustc").arg("--version").current_dir(ws::root()))?;
    Ok(said.trim().to_owned())
}

/// Counts, tells that beside what is written down, and fails where it has become more.
pub(crate) fn check() -> Result<()> {
    let written: Written = TABLE.read()?;
    let counts = count()?;
    for (name, count) in &counts {
        let known = written.instructions.get(name);
        let known = known.map_or_else(String::new, |known| format!(", {known} are written down"));
        ui::line(&format!("       {name}: {count} instructions an event{known}"));
    }
    let differ = table::differ(&written.instructions, &counts, TOLERATED);
    ensure!(
        differ.is_empty(),
        "an event takes other instructions than {} says:\n{}\ncompiled by {} there, by {} here; if that is how it has to be: \
         `cargo xtask instructions --write`",
        TABLE.0,
        differ.join("\n"),
        written.compiler,
        compiler()?
    );
    Ok(())
}

/// Counts, and holds that against the table, or writes it there.
pub(crate) fn command(args: &InstructionsArgs) -> Result<()> {
    if !args.write {
        return check();
    }
    let (compiler, instructions) = (compiler()?, count()?);
    for (name, count) in &instructions {
        ui::line(&format!("{name}: {count} instructions an event"));
    }
    TABLE.write(&Written {
        compiler,
        instructions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found() {
        let said = "==7== Cachegrind\n==7== \n==7== I refs:        12,345,678\n";
        assert_eq!(instructions(said), Some(12_345_678));
        assert_eq!(instructions("==7== I   refs:      9\n"), Some(9));
        assert_eq!(instructions("==7== D   refs:      9\n"), None);
        assert_eq!(instructions(""), None);
    }

    #[test]
    fn the_table_has_every_stage() {
        let Written {
            instructions: known, ..
        } = TABLE.read().unwrap();
        let stages: Vec<_> = STAGES.iter().map(|(name, _)| *name).collect();
        assert_eq!(known.len(), stages.len());
        assert!(
            stages
                .iter()
                .all(|name| known.get(*name).is_some_and(|count| *count > 0.0))
        );
    }
}
