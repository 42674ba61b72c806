//! Every single-step change of the lock, and what notices it.

use tracer_common::lock::{Alteration, Family};

use super::check::check;
use super::scenario::{Bounds, Scenario, all};
use super::search::{Ending, INTERRUPTED};
use super::state::Violation;

/// What became of a mutant.
#[derive(Clone, Debug)]
pub struct Fate {
    /// The change.
    pub mutant: Alteration,
    /// The scenario that killed it, what it found, and after how many steps.
    pub killed: Option<(&'static str, Violation, usize)>,
    /// States visited until then.
    pub states: u64,
    /// Scenarios in which the search did not come to its end.
    pub undecided: Vec<&'static str>,
}

/// Enough for every scenario of the default bounds, mutated or not.
const LIMIT: u64 = 4_000_000;

/// Tries one mutant on all scenarios, cheapest first, until one kills it.
pub fn try_mutant(mutant: Alteration) -> Fate {
    let mut fate = Fate {
        mutant,
        killed: None,
        states: 0,
        undecided: Vec::new(),
    };
    for scenario in by_cost() {
        let name = scenario.name;
        let outcome = check(&scenario.with(mutant), LIMIT);
        fate.states += outcome.states;
        match outcome.ending {
            Ending::Violated(violation, moves) => {
                fate.killed = Some((name, violation, moves.len()));
                break;
            }
            Ending::Complete | Ending::Reached(_) => {}
            Ending::Interrupted | Ending::TooMany => fate.undecided.push(name),
        }
        if INTERRUPTED.load(std::sync::atomic::Ordering::Relaxed) {
            break;
        }
    }
    fate
}

fn by_cost() -> Vec<Scenario> {
    let mut scenarios = all(Family::Refcnt7_0, Bounds::default());
    // The largest ones last.
    scenarios.sort_by_key(|s| matches!(s.name, "exclusion" | "recycling-both" | "weak-exclusion"));
    scenarios
}

/// All mutants: every change that is not a historical bug.
pub fn mutants() -> impl Iterator<Item = Alteration> {
    Alteration::ALL.iter().copied().filter(|a| !a.historical())
}
