//! How much work the programs make for the verifier of each kernel, and whether that is still what it was.
//!
//! A kernel refuses a program at a million instructions, all ways through it counted. A program that comes near that fails on some
//! kernel that nobody tried; one that suddenly takes much more than it did is looked at before that.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::kernels::{self, FAMILIES, ORACLE};
use crate::table::{self, Table};
use crate::ui;
use crate::vm::{Guest, Tools};

/// How much more a program may take than the table says, in percent: a kernel's next release looks at some a little longer.
const TOLERATED: u32 = 25;

/// Instructions that a verifier looked at, by program.
pub(crate) type Counts = BTreeMap<String, u64>;

#[derive(Debug, Args)]
pub(crate) struct VerifierArgs {
    /// Only these kernels, by short name (all but 6.1, which tracer refuses)
    kernels: Vec<String>,
}

const TABLE: Table = Table("tracer/tests/fixtures/verified.json");

/// What `tracer doctor --json` says of programs.
pub(crate) fn counts(report: &Value) -> Result<Counts> {
    let programs = report["programs"]
        .as_array()
        .context("the report has no programs")?;
    let counts = programs.iter().map(|program| {
        let name = program["name"].as_str().context("a program without a name")?;
        let count = program["verified"].as_u64();
        Ok((
            name.to_owned(),
            count.with_context(|| format!("{name} has no count"))?,
        ))
    });
    counts.collect()
}

/// Holds what was counted on a kernel against the table.
pub(crate) fn check(kernel: &str, seen: &Counts) -> Result<()> {
    let table: Value = TABLE.read()?;
    let known = &table[kernel]["programs"];
    let known: Counts = serde_json::from_value(known.clone())
        .ok()
        .with_context(|| format!("{} has no kernel {kernel}; {}", TABLE.0, again(kernel)))?;
    let differ = table::differ(&known, seen, TOLERATED);
    ensure!(
        differ.is_empty(),
        "the verifier's work is not what {} says:\n{}\nif that is how it has to be: {}",
        TABLE.0,
        differ.join("\n"),
        again(kernel)
    );
    Ok(())
}

fn again(kernel: &str) -> String {
    format!("`cargo xtask vm verifier {kernel}` writes it down")
}

/// Boots kernels one after the other, and writes down what their verifiers say.
pub(crate) fn command(args: &VerifierArgs) -> Result<()> {
    let all = FAMILIES
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| *name != "6.1");
    let mut chosen: Vec<&str> = args.kernels.iter().map(String::as_str).collect();
    if chosen.is_empty() {
        chosen = all.chain([ORACLE]).collect();
    }
    let tools = Tools::get(true)?;
    for name in chosen {
        let kernel = kernels::get(name)?;
        let version = kernel.version.clone();
        let mut guest = Guest::new(kernel, tools.clone());
        guest.timeout = Duration::from_secs(600);
        let outcome = ui::step(&format!("loading all programs on {name}"), || {
            guest.sh("tracer doctor --json")
        })?;
        let said = outcome.stdout_text();
        let report: Value = serde_json::from_str(&said).with_context(|| {
            format!(
                "{name}: {said}{}",
                outcome.trouble().unwrap_or_else(|| outcome.console_tail(20))
            )
        })?;
        let counts = counts(&report)?;
        ui::line(&format!("{name}: {}", summary(&counts)));
        // After each, so that what has been booted for is not lost with the next one.
        write(name, &version, &counts)?;
    }
    Ok(())
}

/// A line about a kernel.
pub(crate) fn summary(counts: &Counts) -> String {
    let most = counts.iter().max_by_key(|(_, count)| **count);
    let most = most.map_or_else(String::new, |(name, count)| format!(", most {name} with {count}"));
    format!(
        "the verifier looked at {} instructions in {} programs{most}",
        counts.values().sum::<u64>(),
        counts.len()
    )
}

fn write(kernel: &str, version: &str, counts: &Counts) -> Result<()> {
    let mut table = if TABLE.exists() { TABLE.read()? } else { json!({}) };
    // Of a kernel that is built here the version is a path.
    let version = if version.contains('/') {
        "built here"
    } else {
        version
    };
    table[kernel] = json!({"version": version, "programs": counts});
    TABLE.write(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_says_is_read() {
        let report = json!({"programs": [{"name": "a", "verified": 7}]});
        assert_eq!(counts(&report).unwrap(), Counts::from([("a".to_owned(), 7)]));
        for wrong in [json!({}), json!({"programs": [{"name": "a"}]})] {
            assert!(counts(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_table_has_known_kernels_and_no_program_near_the_end() {
        // That all kernels are in there is for the check on each to see.
        let table: Value = TABLE.read().unwrap();
        let table = table.as_object().unwrap();
        assert!(!table.is_empty());
        for (kernel, told) in table {
            let mut known = FAMILIES.iter().map(|(name, _)| *name).chain([ORACLE]);
            assert!(known.any(|name| name == kernel), "there is no kernel {kernel}");
            let counts: Counts = serde_json::from_value(told["programs"].clone())
                .unwrap_or_else(|error| panic!("{kernel}: {error}"));
            assert!(counts.len() > 10, "{kernel}: {counts:?}");
            for (name, count) in counts {
                // Five times what is looked at may still be let in.
                assert!(count < 200_000, "{kernel}: {name} takes {count}");
            }
        }
    }
}
