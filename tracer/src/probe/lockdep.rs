//! What the programs on lockdep's tracepoints need besides their rows in the catalogue.

use tracer_common::site;

use super::{Attach, Plan, Planned, Wishes};
use crate::kernel::Facts;

/// Programs that note when a CPU turns to something else than the task that it runs, and their tracepoints. Beside
/// the truth they tell how much of an error is ours.
const DISTURBANCES: [(&str, &str); 8] = [
    ("disturb_switch", "sched_switch"),
    ("disturb_irq", "irq_handler_entry"),
    ("disturb_softirq", "softirq_entry"),
    ("disturb_timer", "local_timer_entry"),
    ("disturb_reschedule", "reschedule_entry"),
    ("disturb_call", "call_function_entry"),
    ("disturb_call_single", "call_function_single_entry"),
    ("disturb_irq_work", "irq_work_entry"),
];

/// Whether a program is one of these. The kernel skips runs of them all the time, for the locks that it takes
/// around other programs; nothing is lost by it.
pub(super) fn is_one(program: &str) -> bool {
    program.starts_with("lockdep_") || program.starts_with("disturb_")
}

/// Adds what they need, if they are planned.
pub(super) fn add(plan: &mut Plan, facts: &Facts, wishes: &Wishes) {
    if !plan.has("lockdep_acquire") {
        return;
    }
    let absent = u32::MAX;
    plan.globals.words.extend([
        ("OFF_VMA_LOCKDEP", facts.layout.vma_dep_map.unwrap_or(absent)),
        ("OFF_MM_LOCKDEP", facts.layout.mmap_dep_map.unwrap_or(absent)),
    ]);
    plan.globals.bytes.push(("DISTURBANCES", u8::from(wishes.truth)));
    if wishes.truth {
        // First, so that the site counts as attached when lockdep's own are.
        let programs = DISTURBANCES.map(|(program, tracepoint)| Planned {
            program,
            attach: Attach::TpBtf(tracepoint),
            site: site::LOCKDEP,
            again: None,
        });
        plan.probes.splice(0..0, programs);
    }
}
