//! How often the false verdicts that the mail and the model foretell are met on real kernels: `tracer provoke` for longer
//! than a test takes. Also what the accounting says of so many events.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use super::{Row, thousands};
use crate::vm::{Guest, Tools};
use crate::{kernels, ui, ws};

pub(super) const PROVOKE: &str = "provoke";

/// A stock kernel, and one with lockdep.
const KERNELS: [&str; 2] = ["7.3", "oracle"];
/// The scenarios that are after those states, and for how long.
const RUNS: [(&str, &str); 3] = [
    ("temporary-readers", "60s"),
    ("detach", "10s"),
    ("write-lock", "10s"),
];

/// Measures the row.
pub(super) fn run() -> Result<Vec<Row>> {
    let mut figures = Map::new();
    let mut notes = Vec::new();
    let mut measured = Vec::new();
    let mut met = true;
    for kernel in KERNELS {
        let reports = ui::step(&format!("guest {kernel}: provoke"), || boot(kernel))?;
        let (mut events, mut violations) = (0, 0);
        for (scenario, report) in &reports {
            let number = |at: &str| report.pointer(at).and_then(Value::as_u64).unwrap_or_default();
            events += number("/seen/events");
            violations += number("/seen/accounting/violations");
            notes.push(format!(
                "{kernel} {scenario}: {} events, {} lost; {} of {} counts closed",
                thousands(number("/seen/events")),
                thousands(number("/seen/lost")),
                thousands(number("/seen/accounting/closed")),
                thousands(number("/seen/accounting/checked")),
            ));
            for claim in report["seen"]["claims"].as_array().into_iter().flatten() {
                notes.push(format!(
                    "    {}: {} times in {} tries",
                    claim["claim"].as_str().unwrap_or_default(),
                    thousands(claim["count"].as_u64().unwrap_or_default()),
                    thousands(claim["tries"].as_u64().unwrap_or_default()),
                ));
            }
            for seen in report["seen"]["assertions"].as_array().into_iter().flatten() {
                let count = |what: &str| thousands(seen[what].as_u64().unwrap_or_default());
                notes.push(format!(
                    "    vma_assert_locked {}, lockdep {}: asked {}, false positives {}, false negatives {}, unknown {}",
                    seen["variant"].as_str().unwrap_or_default(),
                    seen["lockdep"].as_str().unwrap_or_default(),
                    count("evaluated"),
                    count("false_positive"),
                    count("false_negative"),
                    count("unknown"),
                ));
            }
        }
        met &= violations == 0;
        measured.push(format!(
            "{kernel}: {} events, {violations} violations",
            thousands(events)
        ));
        figures.insert(
            kernel.to_owned(),
            reports
                .iter()
                .map(|(name, report)| json!({"scenario": name, "seen": report["seen"]}))
                .collect(),
        );
    }
    Ok(vec![Row {
        name: PROVOKE,
        measured: measured.join("; "),
        required: Some("no violation".to_owned()),
        met,
        method: "tracer provoke in guests with 4 processors; false verdicts are counted, not required",
        notes,
        figures: Value::Object(figures),
    }])
}

fn boot(kernel: &str) -> Result<Vec<(&'static str, Value)>> {
    let out = ws::Scratch::new(Some(&ws::target().join("bench")))?;
    let mut guest = Guest::new(kernels::get(kernel)?, Tools::get(true)?);
    guest.smp = 4;
    guest.mem = guest.mem.max(2048);
    guest.timeout = Duration::from_secs(900);
    // Readers are to lose their processor inside the kernel, too, between two instructions that matter.
    "preempt=full".clone_into(&mut guest.append);
    guest.out = Some(out.path().to_owned());
    let script: String = RUNS
        .iter()
        .map(|(scenario, duration)| {
            format!(
                "tracer provoke {scenario} --duration {duration} --json > /out/{scenario}.json || exit 1\n"
            )
        })
        .collect();
    let outcome = guest.sh(&script)?;
    if let Some(trouble) = outcome.trouble() {
        anyhow::bail!("{trouble}");
    }
    ensure!(
        outcome.status == 0,
        "tracer provoke ended with {}: {}",
        outcome.status,
        crate::vm::plain(&String::from_utf8_lossy(&outcome.stderr))
    );
    let read = |(scenario, _): &(&'static str, &str)| {
        let file = out.path().join(format!("{scenario}.json"));
        let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let report = serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))?;
        Ok((*scenario, report))
    };
    RUNS.iter().map(read).collect()
}
