//! `tracer check` on real kernels: no violation, and nearly all that is read is as predicted.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::guests::{Ctx, Evidence, On, Scenario, expect};
use crate::ui;
use crate::vm::Outcome;

/// At least so many of a hundred predictions come true.
pub(super) const CLOSED: f64 = 99.9;

/// Scenarios of this file.
pub(crate) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "check",
    on: On::These(&["6.18", "7.0", "7.3", "oracle"]),
    boot,
    checks: &[
        ("finds-no-violation", |e| {
            let report = report(e)?;
            let violations = &report["violations"];
            ensure!(report["violation_count"] == 0, "{violations:#}");
            expect("exit code", &e.out_text("code")?.trim(), &"0")
        }),
        ("closes", |e| {
            let report = report(e)?;
            let accounting = &report["accounting"];
            let number = |what: &str| accounting[what].as_u64().unwrap_or_default();
            let percent = number("closed") as f64 * 100.0 / number("checked").max(1) as f64;
            ui::line(&format!(
                "       {}: {percent:.3} % of {} closed, open {}",
                e.ctx.name,
                number("checked"),
                accounting["open_by_reason"]
            ));
            ensure!(number("checked") > 10_000, "too little: {accounting:#}");
            ensure!(percent >= CLOSED, "{accounting:#}");
            Ok(())
        }),
        ("assertions-are-judged", |e| {
            let report = report(e)?;
            let rows = report["assertions"].as_array().context("no assertions")?;
            let right = |variant: &str| {
                rows.iter()
                    .filter(|row| row["variant"] == variant && row["lockdep"] == "on")
                    .map(|row| {
                        (
                            row["right"].as_u64().unwrap_or(0),
                            row["false_positive"].as_u64().unwrap_or(0),
                        )
                    })
                    .fold((0, 0), |sum, row| (sum.0 + row.0, sum.1 + row.1))
            };
            let (merged, wrong) = right("merged");
            ensure!(
                merged > 10_000 && wrong == 0,
                "merged: {merged} right, {wrong} false positives"
            );
            Ok(())
        }),
        ("the-truth-is-lockdeps-where-it-is", |e| {
            let truth = &report(e)?["truth"];
            let by = if e.ctx.name == "oracle" {
                "lockdep"
            } else {
                "rebuilt"
            };
            ensure!(truth["by"] == by && truth["differed"] == 0, "{truth}");
            Ok(())
        }),
        ("kernel-is-content", Evidence::kernel_is_content),
    ],
}];

fn boot(ctx: &Ctx) -> Result<Outcome> {
    ctx.guest().sh(r#"cat > /tmp/all <<'END'
workload anon -t 2 -p 64 -r 4
workload mixed -t 3 -r 3
workload munmap -t 2 -r 8
workload writer --kind edge -p 128
workload detach --kind unmap -r 20
workload proc-maps --kind maps -t 2 -r 3
END
for try in 1 2 3; do
rm -f /out/a.rec
tracer record --buffer 64M -o /out/a.rec -- sh /tmp/all > /dev/null || exit 1
tracer check --json /out/a.rec > /out/check.json
echo $? > /out/code
grep -q '"missed": 0' /out/check.json && break
done
exit 0"#)
}

fn report(e: &Evidence) -> Result<Value> {
    e.succeeded()?;
    let file = e.ctx.out().join("check.json");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    serde_json::from_str(&text).context("what tracer check said")
}
