//! What it costs to be traced, on a real kernel.

use anyhow::{Result, ensure};

use super::guests::{Check, Ctx, On, Scenario};
use crate::bench::fault_cost::{self, Costs};
use crate::ui;
use crate::vm::Outcome;

/// Each mode has so many turns.
const ROUNDS: usize = 2;

const CHECKS: &[Check] = &[
    ("adds-no-more-than-is-written-down", |e| {
        e.succeeded()?;
        let costs = Costs::read(&e.ctx.out(), ROUNDS)?;
        let table = costs.table()?;
        for line in &table {
            ui::line(&format!("       {line}"));
        }
        ui::line(&format!("       fault-cost: {}", costs.summary()?));
        let too_much = costs.too_much()?;
        ensure!(
            too_much.is_empty(),
            "{}\nif that is how it has to be, write it down in xtask/src/bench/fault_cost.rs",
            too_much.join("\n")
        );
        Ok(())
    }),
    // bpftrace looks for tracefs where it used to be.
    ("kernel-is-content", |e| {
        e.kernel_is_content_but_for(&["Automounting of tracing to debugfs"])
    }),
];

/// Scenarios of cost.
pub(crate) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "fault-cost",
    on: On::These(&["7.3"]),
    boot,
    checks: CHECKS,
}];

fn boot(ctx: &Ctx) -> Result<Outcome> {
    let mut guest = ctx.guest();
    fault_cost::prepare(&mut guest)?;
    guest.sh(&fault_cost::script(ROUNDS))
}
