//! Runs a scenario to the end, in the memory it asks for.

use super::memory::{Interleaved, Memory, Views};
use super::scenario::Scenario;
use super::search::{Ending, Move, Outcome, Search};
use super::state::State;

/// Visits all states of a scenario, or stops at the first violation, whose schedule can be replayed.
pub fn check(scenario: &Scenario, limit: u64) -> Outcome {
    if scenario.weak {
        check_in::<Views>(scenario, limit)
    } else {
        check_in::<Interleaved>(scenario, limit)
    }
}

fn check_in<M: Memory>(scenario: &Scenario, limit: u64) -> Outcome {
    let mut search = Search::<M>::new(scenario, true);
    search.limit = limit;
    let outcome = search.run(|_| false);
    if !matches!(outcome.ending, Ending::Violated(..)) || !search.symmetric() {
        return outcome;
    }
    // Under symmetry the tasks of a schedule change places. The plain search finds one as short.
    let mut search = Search::<M>::new(scenario, false);
    search.limit = limit.saturating_mul(8);
    search.run(|_| false)
}

/// The shortest schedule to a state that `goal` accepts, if there is one.
pub fn reach(scenario: &Scenario, mut goal: impl FnMut(&State<Interleaved>) -> bool) -> Outcome {
    assert!(!scenario.weak, "goals are looked for in interleavings");
    Search::<Interleaved>::new(scenario, false).run(|visit| goal(visit.state))
}

/// The moves of a violation or of a goal.
pub fn moves(outcome: &Outcome) -> Option<&[Move]> {
    match &outcome.ending {
        Ending::Violated(_, moves) | Ending::Reached(moves) => Some(moves),
        _ => None,
    }
}
