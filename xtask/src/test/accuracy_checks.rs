//! What tracer says, beside what is so.

use anyhow::{Result, ensure};

use super::guests::{Check, Ctx, Evidence, On, Scenario};
use crate::bench::accuracy::{self, Closed, Judged, PLANS};
use crate::ui;
use crate::vm::Outcome;

const JUDGED: &[Check] = &[
    ("every-acquire-and-release-is-matched", |e| {
        let judged = judged(e)?;
        for line in judged.table() {
            ui::line(&format!("       {line}"));
        }
        judged.matched()
    }),
    ("held-sets-are-equal", |e| judged(e)?.held()),
    ("derived-releases-are-within-their-bound", |e| judged(e)?.bounds()),
    ("kernel-is-content", Evidence::kernel_is_content),
];

/// Scenarios of accuracy.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "accuracy-as-stock",
        on: On::These(&["oracle"]),
        boot: |ctx| boot(ctx, &format!("--truth --without {}", PLANS[1].1)),
        checks: JUDGED,
    },
    Scenario {
        name: "accuracy-without-lockdep",
        on: On::These(&["oracle"]),
        boot: |ctx| boot(ctx, &format!("--truth --without {}", PLANS[0].1)),
        checks: JUDGED,
    },
    Scenario {
        name: "accounting",
        on: On::These(&accuracy::COUNTING),
        boot: |ctx| boot(ctx, ""),
        checks: &[
            ("closes", |e| {
                e.succeeded()?;
                let closed = Closed::new(&e.ctx.out())?;
                ui::line(&format!("       {}: {}", e.ctx.name, closed.summary()));
                closed.required()
            }),
            ("workloads-run", |e| {
                e.succeeded()?;
                let not_run = accuracy::not_run(&e.ctx.out())?;
                for why in &not_run {
                    ui::line(&format!("       {}: not run: {why}", e.ctx.name));
                }
                ensure!(
                    not_run.len() < 10,
                    "too many workloads are impossible here: {not_run:?}"
                );
                Ok(())
            }),
        ],
    },
];

fn boot(ctx: &Ctx, options: &str) -> Result<Outcome> {
    let mut guest = ctx.guest();
    accuracy::prepare(&mut guest)?;
    guest.sh(&accuracy::script(options))
}

fn judged(e: &Evidence) -> Result<Judged> {
    e.succeeded()?;
    Judged::new(e.ctx.program("tracer")?, &e.ctx.out())
}
