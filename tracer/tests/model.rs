//! What the model checker proves, finds and answers; kept small enough for every test run.

use tracer::model::check::check;
use tracer::model::listing::{json, replay, text};
use tracer::model::mutants::{mutants, try_mutant};
use tracer::model::scenario::{Bounds, all, find};
use tracer::model::search::Ending;
use tracer::model::state::Violation;
use tracer::model::{bugs, questions};
use tracer_common::lock::{Alteration, Family};

/// Unoptimised, the largest scenarios take minutes: there a smaller pool of tasks has to do. The whole
/// of it is `tracer model explore`.
const BOUNDS: Bounds = Bounds {
    readers: if cfg!(debug_assertions) { 1 } else { 2 },
    writers: 1,
    detachers: 1,
    rounds: 1,
};

fn affordable(name: &str) -> bool {
    !(cfg!(debug_assertions) && matches!(name, "recycling-both" | "weak-exclusion"))
}

#[test]
fn every_scenario_is_proved_for_every_family() {
    for family in Family::ALL {
        for scenario in all(family, BOUNDS).iter().filter(|s| affordable(s.name)) {
            let outcome = check(scenario, u64::MAX);
            assert!(
                outcome.proved(),
                "{} {}: {:?}",
                family.name(),
                scenario.name,
                outcome.ending
            );
        }
    }
}

#[test]
fn every_historical_bug_is_found_and_its_absence_proved() {
    for family in Family::ALL {
        for bug in bugs::all(family) {
            let (on, off) = (check(&bug.on, u64::MAX), check(&bug.off, u64::MAX));
            assert!(off.proved(), "{} {}: {:?}", family.name(), bug.name, off.ending);
            // 6.12 frees VMAs through RCU, so that none comes back under a reader.
            let possible = !(family == Family::Rwsem && bug.name == "CVE-2025-38554");
            assert_eq!(
                matches!(on.ending, Ending::Violated(..)),
                possible,
                "{} {}",
                family.name(),
                bug.name
            );
        }
    }
}

/// The CVE is about a wake-up on a freed mm, and nothing else.
#[test]
fn the_cve_is_shown_as_what_it_is() {
    let bug = bugs::find("CVE-2025-38554", Family::Refcnt7_0).unwrap();
    let Ending::Violated(Violation::FreedMmUsed(_), moves) = check(&bug.on, u64::MAX).ending else {
        panic!("another violation");
    };
    let lines = replay(&bug.on, &moves);
    let listing = text(&bug.on, &lines);
    assert!(
        lines.last().unwrap().place.contains("wake the writer"),
        "{listing}"
    );
    assert_eq!(listing.lines().count(), lines.len() + 1);
    assert_eq!(json(&bug.on, &lines).as_array().unwrap().len(), lines.len());
}

#[test]
fn every_mutant_is_killed() {
    // The expensive scenarios come last and are not needed for any.
    let survivors: Vec<_> = mutants().map(try_mutant).filter(|f| f.killed.is_none()).collect();
    println!(
        "mutants killed {}/{}",
        mutants().count() - survivors.len(),
        mutants().count()
    );
    assert!(survivors.is_empty(), "{survivors:?}");
}

#[test]
fn a_schedule_can_be_played_back() {
    let scenario = find("killed-writer", Family::Refcnt7_0, Bounds::default())
        .unwrap()
        .with(Alteration::KilledKeepsFlag);
    let Ending::Violated(_, moves) = check(&scenario, u64::MAX).ending else {
        panic!("nothing found")
    };
    let last = replay(&scenario, &moves).pop().unwrap();
    assert!(
        last.refcnt > 1 << 30,
        "the flag is left behind: {:#x}",
        last.refcnt
    );
}

/// The answers in the document are those the checker gives today.
/// `tracer model questions` prints them anew.
#[test]
fn the_document_is_not_stale() {
    let document = include_str!("../../docs/assertions.md");
    let (_, rest) = document
        .split_once("<!-- tracer model questions -->\n")
        .expect("the opening marker");
    let (answers, _) = rest.split_once("<!-- end -->").expect("the closing marker");
    let fresh = questions::markdown();
    let differs = answers.lines().zip(fresh.lines()).find(|(a, b)| a != b);
    assert!(
        differs.is_none() && answers.trim() == fresh.trim(),
        "stale: {differs:?}; see `tracer model questions`"
    );
}
