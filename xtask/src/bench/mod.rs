//! `cargo xtask bench`: measures what the project promises. `docs/benchmarks.md` says what each row means.

pub(crate) mod accuracy;
mod cargo;
mod export;
pub(crate) mod fault_cost;
mod guest;
mod native;
mod peers;
mod probe_cost;
mod provoke;
mod recorders;
mod turns;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Only the row of this name
    #[arg(value_name = "NAME", value_parser = known)]
    name: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Draw what `peers` measures into docs/benchmarks, with the figures beside it
    #[arg(long)]
    svg: bool,
}

/// What measures, and the rows that come of it.
struct Group {
    rows: &'static [&'static str],
    run: fn() -> Result<Vec<Row>>,
}

/// In this order: first what another load disturbs most.
const GROUPS: &[Group] = &[
    Group {
        rows: &[native::THROUGHPUT, native::MEMORY],
        run: native::run,
    },
    Group {
        rows: &[guest::FIRST_EVENT, guest::ATTACH_DETACH],
        run: guest::run,
    },
    Group {
        rows: &[fault_cost::FAULT_COST],
        run: fault_cost::run,
    },
    Group {
        rows: &[probe_cost::PROBE_COST],
        run: probe_cost::run,
    },
    Group {
        rows: &[recorders::RECORDERS],
        run: recorders::run,
    },
    Group {
        rows: &[peers::PEERS],
        run: peers::run,
    },
    Group {
        rows: &[accuracy::ACCURACY],
        run: accuracy::run,
    },
    Group {
        rows: &[accuracy::ACCOUNTING],
        run: accuracy::run_accounting,
    },
    Group {
        rows: &[provoke::PROVOKE],
        run: provoke::run,
    },
    Group {
        rows: &[cargo::ENGINE],
        run: cargo::engine,
    },
    Group {
        rows: &[cargo::GROWTH],
        run: cargo::growth,
    },
    Group {
        rows: &[
            export::EXPORT,
            export::JSONL,
            export::PARQUET,
            export::PERFETTO,
            export::CSV,
            export::HTML,
            export::FOLDED,
        ],
        run: export::run,
    },
    Group {
        rows: &[cargo::RECORDING],
        run: cargo::recording,
    },
    Group {
        rows: &[cargo::SCREEN],
        run: cargo::screen,
    },
    Group {
        rows: &[cargo::EVENT_SIZE],
        run: cargo::event_size,
    },
    Group {
        rows: &[cargo::LOCK],
        run: cargo::lock,
    },
];

/// Rows that are measured along with another one when that is asked for by name: what we say has to be right by
/// lockdep, by the lock's own count, and cheap enough to be asked.
const PARTS: &[(&str, &[&str])] = &[
    (
        accuracy::ACCURACY,
        &[accuracy::ACCOUNTING, fault_cost::FAULT_COST],
    ),
    (
        export::EXPORT,
        &[
            export::JSONL,
            export::PARQUET,
            export::PERFETTO,
            export::CSV,
            export::HTML,
            export::FOLDED,
        ],
    ),
];

fn is_part_of(row: &str, whole: &str) -> bool {
    PARTS
        .iter()
        .any(|(name, parts)| *name == whole && parts.contains(&row))
}

fn names() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().flat_map(|group| group.rows.iter().copied())
}

fn known(name: &str) -> Result<String, String> {
    if names().any(|known| known == name) {
        return Ok(name.to_owned());
    }
    Err(format!(
        "no such row; there are {}",
        names().collect::<Vec<_>>().join(", ")
    ))
}

/// One thing that was measured.
#[derive(Debug, Default)]
struct Row {
    name: &'static str,
    /// The figure that counts, with its unit.
    measured: String,
    /// What is required of it; none: it is only reported.
    required: Option<String>,
    /// Is it as required?
    met: bool,
    /// How it was measured, in a line.
    method: &'static str,
    /// Every run, and what else is worth knowing, a line each.
    notes: Vec<String>,
    /// The same for programs.
    figures: Value,
}

impl Row {
    /// A row that could not be measured is not met.
    fn failed(name: &'static str, error: &anyhow::Error) -> Self {
        Self {
            name,
            measured: "could not be measured".to_owned(),
            required: Some("to be measured".to_owned()),
            notes: format!("{error:#}").lines().map(ToOwned::to_owned).collect(),
            figures: json!({"error": format!("{error:#}")}),
            ..Self::default()
        }
    }

    fn is_well(&self) -> bool {
        self.required.is_none() || self.met
    }

    fn verdict(&self) -> &'static str {
        match (&self.required, self.met) {
            (None, _) => "reported",
            (Some(_), true) => "met",
            (Some(_), false) => "NOT MET",
        }
    }

    fn show(&self) {
        let required = self.required.as_deref().map(|r| format!("  (required: {r})"));
        ui::line(&format!(
            "{:<9} {:<18} {}{}",
            self.verdict(),
            self.name,
            self.measured,
            required.unwrap_or_default()
        ));
        if !self.method.is_empty() {
            ui::line(&format!("            how: {}", self.method));
        }
        for note in &self.notes {
            ui::line(&format!("            {note}"));
        }
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "measured": self.measured, "required": self.required,
            "met": self.required.as_ref().map(|_| self.met),
            "method": self.method, "notes": self.notes, "figures": self.figures,
        })
    }
}

/// Measures; fails if something is not as required.
pub(crate) fn run(args: &BenchArgs) -> Result<ExitCode> {
    let wanted = |name: &str| {
        args.name
            .as_deref()
            .is_none_or(|only| only == name || is_part_of(name, only))
    };
    if args.svg && !wanted(peers::PEERS) {
        bail!("--svg draws what peers measures: cargo xtask bench peers --svg");
    }
    let machine = Machine::read();
    if !args.json {
        ui::line(&machine.text());
    }
    let mut all = Vec::new();
    for group in GROUPS {
        if !group.rows.iter().any(|name| wanted(name)) {
            continue;
        }
        let rows = (group.run)().unwrap_or_else(|error| {
            let rows = group.rows.iter();
            rows.map(|name| Row::failed(name, &error)).collect()
        });
        for row in rows.into_iter().filter(|row| wanted(row.name)) {
            if !args.json {
                row.show();
            }
            // What could not be measured leaves the picture as it is.
            if args.svg && row.name == peers::PEERS && !row.method.is_empty() {
                peers::draw(&row)?;
            }
            all.push(row);
        }
    }
    if all.is_empty() {
        bail!("nothing was measured");
    }
    let well = all.iter().all(Row::is_well);
    if args.json {
        let rows: Vec<_> = all.iter().map(Row::json).collect();
        let report =
            json!({"schema": "tracer.bench.v1", "machine": machine.json(), "rows": rows, "all_met": well});
        println!(
            "{}",
            serde_json::to_string_pretty(&report).context("writing JSON")?
        );
    } else {
        let required = all.iter().filter(|row| row.required.is_some()).count();
        let met = all.iter().filter(|row| row.required.is_some() && row.met).count();
        ui::line(&format!("{met} of {required} requirements met"));
    }
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Where figures come from: without it they mean nothing.
struct Machine {
    cpus: usize,
    model: String,
    kernel: String,
    load: String,
}

impl Machine {
    fn read() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let model = info.lines().find_map(|line| line.strip_prefix("model name"));
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            model: model
                .unwrap_or_default()
                .trim_matches(['\t', ' ', ':'])
                .to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned(),
        }
    }

    fn text(&self) -> String {
        format!(
            "{} CPUs, {}, Linux {}, load {} at the start",
            self.cpus, self.model, self.kernel, self.load
        )
    }

    fn json(&self) -> Value {
        json!({"cpus": self.cpus, "model": self.model, "kernel": self.kernel, "load": self.load})
    }
}

/// A number with its thousands apart.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        let shown: Vec<_> = [0, 999, 1000, 1_234_567].map(thousands).into();
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn what_could_not_be_measured_is_not_met() {
        let row = Row::failed("x", &anyhow::anyhow!("a\nb"));
        assert!(!row.is_well());
        assert_eq!(row.notes, ["a", "b"]);
    }

    #[test]
    fn rows_have_names_of_their_own() {
        let mut all: Vec<_> = names().collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), names().count());
        assert!(known("engine").is_ok());
        assert!(known("nonsense").unwrap_err().contains("first-event"));
    }
}
