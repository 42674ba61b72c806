//! The command line: `tracer model list | run | explore | mutants | questions`.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tracer_common::lock::{Alteration, Family};

use super::bugs::{self, Bug};
use super::check::{check, moves};
use super::listing::{LEGEND, json as listing_json, replay, text};
use super::memory::TASKS;
use super::mutants::{Fate, mutants, try_mutant};
use super::questions;
use super::scenario::{Bounds, Scenario, all, exclusion, find};
use super::search::{Ending, INTERRUPTED, Outcome};
use crate::say::{say, tell};

/// Exit codes of the program.
mod exit {
    pub(super) const DONE: u8 = 0;
    pub(super) const FAILED: u8 = 1;
    pub(super) const USAGE: u8 = 2;
    pub(super) const VIOLATION: u8 = 3;
}

/// The bundled lock under the model checker.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  tracer model list
  tracer model run exclusion
  tracer model run killed-writer --with killed-keeps-flag
  tracer model run CVE-2025-38554
  tracer model explore --bounds readers=3,writers=1,detachers=1
  tracer model mutants")]
pub struct ModelArgs {
    #[command(subcommand)]
    action: Option<Action>,
    /// Write JSON instead of text; docs/model.md has the schema
    #[arg(long, global = true)]
    json: bool,
    /// Which form of the lock
    #[arg(long, global = true, value_enum, default_value = "7.0")]
    family: FamilyArg,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// The scenarios, the historical bugs and the mutants
    List,
    /// Search one scenario; a bug is searched with and without
    Run {
        /// A name from the list
        scenario: String,
        /// Change one step of the lock: a name from the list of mutants
        #[arg(long, value_name = "MUTANT")]
        with: Option<String>,
    },
    /// Search all scenarios of all families, exhaustively within bounds
    Explore {
        /// For example readers=3,writers=1,detachers=1,rounds=1
        #[arg(long, value_name = "BOUNDS", value_parser = parse_bounds)]
        bounds: Option<Bounds>,
        /// Search even if the estimate says that it will take long
        #[arg(long)]
        force: bool,
    },
    /// Try every mutant; exits with 1 if one survives
    Mutants,
    /// The mail thread's questions, answered; the text that docs/assertions.md includes
    Questions,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FamilyArg {
    /// A rw_semaphore per VMA: 6.4 to 6.14
    #[value(name = "6.12")]
    V6_12,
    /// vm_refcnt: 6.15 to 6.19
    #[value(name = "6.15")]
    V6_15,
    /// vm_refcnt: 7.0 and later
    #[value(name = "7.0")]
    V7_0,
}

impl From<FamilyArg> for Family {
    fn from(arg: FamilyArg) -> Self {
        match arg {
            FamilyArg::V6_12 => Self::Rwsem,
            FamilyArg::V6_15 => Self::Refcnt6_15,
            FamilyArg::V7_0 => Self::Refcnt7_0,
        }
    }
}

fn parse_bounds(text: &str) -> Result<Bounds, String> {
    let mut bounds = Bounds::default();
    for part in text.split(',') {
        let (name, number) = part
            .split_once('=')
            .ok_or_else(|| format!("`{part}` is not NAME=NUMBER"))?;
        let number: u32 = number
            .parse()
            .map_err(|_| format!("`{number}` is not a number"))?;
        match name {
            "readers" => bounds.readers = number,
            "writers" => bounds.writers = number,
            "detachers" => bounds.detachers = number,
            "rounds" => bounds.rounds = number,
            _ => return Err(format!("`{name}` is none of readers, writers, detachers, rounds")),
        }
    }
    let tasks = bounds.readers + bounds.writers + bounds.detachers;
    if tasks == 0 || tasks as usize > TASKS || !(1..=20).contains(&bounds.rounds) {
        return Err(format!("between 1 and {TASKS} tasks in all, and 1 to 20 rounds"));
    }
    Ok(bounds)
}

/// Runs `tracer model`; the result is the exit code.
///
/// # Errors
/// If a scenario is unknown or the bounds are too large.
pub fn run(args: ModelArgs) -> anyhow::Result<u8> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second signal ends the program the usual way.
        signal_hook::flag::register_conditional_default(signal, stopped()).context("cannot watch for ^C")?;
        signal_hook::flag::register(signal, stopped()).context("cannot watch for ^C")?;
    }
    let family = args.family.into();
    match args.action.unwrap_or(Action::List) {
        Action::List => list(family, args.json),
        Action::Run { scenario, with } => run_one(&scenario, with.as_deref(), family, args.json),
        Action::Explore { bounds, force } => explore(bounds.unwrap_or_default(), force, args.json),
        Action::Mutants => run_mutants(args.json),
        Action::Questions => {
            crate::say::text(format_args!("{}", questions::markdown()));
            Ok(exit::DONE)
        }
    }
}

/// The flag that signals set, as signal-hook wants it; a thread hands it on to the searches.
fn stopped() -> std::sync::Arc<std::sync::atomic::AtomicBool> {
    use std::sync::{Arc, OnceLock, atomic::AtomicBool};
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        let watched = Arc::clone(&flag);
        std::thread::spawn(move || {
            while !watched.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
            }
            INTERRUPTED.store(true, Ordering::Relaxed);
        });
        flag
    })
    .clone()
}

fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

fn list(family: Family, as_json: bool) -> anyhow::Result<u8> {
    let scenarios = all(family, Bounds::default());
    let bugs = bugs::all(family);
    if as_json {
        let scenario = |s: &Scenario| {
            let tasks: Vec<_> = s.roles.iter().map(|r| r.name.clone()).collect();
            json!({ "name": s.name, "about": s.about, "memory": memory(s), "tasks": tasks })
        };
        print_json(&json!({
            "family": family.name(),
            "scenarios": scenarios.iter().map(scenario).collect::<Vec<_>>(),
            "bugs": bugs.iter().map(|b| json!({ "name": b.name, "what": b.what, "fix": b.fix })).collect::<Vec<_>>(),
            "mutants": mutants().map(|m| json!({ "name": m.name(), "what": m.what() })).collect::<Vec<_>>(),
        }));
        return Ok(exit::DONE);
    }
    say!(
        "Scenarios ({}: {}, {}):",
        family.name(),
        family.flag_name(),
        family.limit_name()
    );
    for s in &scenarios {
        say!(
            "  {:22} {:11} {} tasks  {}",
            s.name,
            memory(s),
            s.roles.len(),
            s.about
        );
    }
    say!("\nBugs that the kernel had:");
    for b in &bugs {
        say!("  {:22} {}", b.name, b.what);
    }
    say!("\nMutants, for `run SCENARIO --with MUTANT`:");
    for m in mutants() {
        say!("  {:22} {}", m.name(), m.what());
    }
    Ok(exit::DONE)
}

fn memory(s: &Scenario) -> &'static str {
    if s.weak { "weak" } else { "interleaved" }
}

fn run_one(name: &str, with: Option<&str>, family: Family, as_json: bool) -> anyhow::Result<u8> {
    if let Some(bug) = bugs::find(name, family) {
        return Ok(run_bug(&bug, as_json));
    }
    let Some(mut scenario) = find(name, family, Bounds::default()) else {
        tell!("{}", unknown("scenario", name, &scenario_names(family)));
        return Ok(exit::USAGE);
    };
    if let Some(with) = with {
        let Some(change) = Alteration::from_name(with) else {
            tell!(
                "{}",
                unknown(
                    "mutant",
                    with,
                    &Alteration::ALL.iter().map(|a| a.name()).collect::<Vec<_>>()
                )
            );
            return Ok(exit::USAGE);
        };
        scenario = scenario.with(change);
    }
    let outcome = check(&scenario, u64::MAX);
    if as_json {
        print_json(&outcome_json(&scenario, &outcome));
    } else {
        print_outcome(&scenario, &outcome);
    }
    Ok(code(&outcome))
}

fn code(outcome: &Outcome) -> u8 {
    match outcome.ending {
        Ending::Complete => exit::DONE,
        Ending::Violated(..) => exit::VIOLATION,
        _ => exit::FAILED,
    }
}

fn scenario_names(family: Family) -> Vec<&'static str> {
    let bugs = bugs::all(family).into_iter().map(|b| b.name);
    all(family, Bounds::default())
        .into_iter()
        .map(|s| s.name)
        .chain(bugs)
        .collect()
}

/// The complaint about an unknown name, with the nearest one and the list.
fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let near = known
        .iter()
        .min_by_key(|k| distance(k, name))
        .copied()
        .unwrap_or_default();
    format!(
        "unknown {what} `{name}`; did you mean `{near}`?\nknown: {}",
        known.join(", ")
    )
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn run_bug(bug: &Bug, as_json: bool) -> u8 {
    let (on, off) = (check(&bug.on, u64::MAX), check(&bug.off, u64::MAX));
    if as_json {
        print_json(&json!({
            "name": bug.name, "what": bug.what, "fix": bug.fix,
            "with": outcome_json(&bug.on, &on),
            "without": outcome_json(&bug.off, &off),
        }));
    } else {
        say!(
            "{}: {}.\nPut right: {}.\n\nWith the bug:",
            bug.name,
            bug.what,
            bug.fix
        );
        print_outcome(&bug.on, &on);
        say!("\nWithout it:");
        print_outcome(&bug.off, &off);
    }
    if !off.proved() {
        return code(&off);
    }
    // 6.12 cannot have the bug of recycling: there is nothing to find.
    let found =
        matches!(on.ending, Ending::Violated(..)) || on.proved() && bug.on.rules.family == Family::Rwsem;
    if found { exit::DONE } else { exit::FAILED }
}

fn verdict(outcome: &Outcome) -> String {
    match &outcome.ending {
        Ending::Complete => "proved: no property is violated".into(),
        Ending::Violated(violation, moves) => format!("VIOLATED after {} steps: {violation}", moves.len()),
        Ending::Reached(moves) => format!("reached after {} steps", moves.len()),
        Ending::Interrupted => "INCOMPLETE, stopped: no property was violated so far".into(),
        Ending::TooMany => "INCOMPLETE, too many states: no property was violated so far".into(),
    }
}

fn print_outcome(scenario: &Scenario, outcome: &Outcome) {
    say!("{}", row(scenario, outcome));
    if let Some(moves) = moves(outcome) {
        say!("\n{}\n{LEGEND}", text(scenario, &replay(scenario, moves)));
    }
}

fn row(scenario: &Scenario, outcome: &Outcome) -> String {
    format!(
        "{:5} {:24} {:11} {:>9} states {:>9} steps  depth {:>3} {:>9.3} s  {}",
        scenario.rules.family.name(),
        scenario.name,
        memory(scenario),
        outcome.states,
        outcome.steps,
        outcome.depth,
        outcome.time.as_secs_f64(),
        verdict(outcome),
    )
}

fn outcome_json(scenario: &Scenario, outcome: &Outcome) -> Value {
    let ending = match &outcome.ending {
        Ending::Complete => "complete",
        Ending::Violated(..) => "violated",
        Ending::Reached(_) => "reached",
        Ending::Interrupted | Ending::TooMany => "incomplete",
    };
    let violation = match &outcome.ending {
        Ending::Violated(violation, _) => Value::from(violation.to_string()),
        _ => Value::Null,
    };
    json!({
        "scenario": scenario.name,
        "family": scenario.rules.family.name(),
        "memory": memory(scenario),
        "alteration": scenario.rules.alteration.map(Alteration::name),
        "ending": ending,
        "violation": violation,
        "states": outcome.states,
        "steps": outcome.steps,
        "depth": outcome.depth,
        "seconds": outcome.time.as_secs_f64(),
        "schedule": moves(outcome).map(|moves| listing_json(scenario, &replay(scenario, moves))),
    })
}

/// More than this needs `--force`: about ten minutes and 4 GiB.
const TOO_MANY_STATES: f64 = 2e7;

/// About how many states an exhaustive search of the bounded scenario visits. Fitted to measured
/// searches: each task multiplies by its steps, of which the lock lets about a third coincide.
fn estimate(bounds: Bounds) -> f64 {
    let rounds = f64::from(bounds.rounds);
    let readers = (8.6 * rounds.powf(1.6)).powi(bounds.readers as i32);
    let writers = 8.4_f64.powi(bounds.writers as i32) * 9.5_f64.powi(bounds.detachers as i32);
    4.0 * readers * writers
}

fn explore(bounds: Bounds, force: bool, as_json: bool) -> anyhow::Result<u8> {
    let expected = estimate(bounds);
    if expected > TOO_MANY_STATES && !force {
        bail!(
            "these bounds mean some {:.0} million states, about {:.0} minutes and {:.0} GiB; \
             say --force to search all the same",
            expected / 1e6,
            expected / 150_000.0 / 60.0 + 1.0,
            expected * 200.0 / f64::from(1 << 30) + 1.0,
        );
    }
    let begun = Instant::now();
    let mut work: Vec<Scenario> = Vec::new();
    for family in Family::ALL {
        work.extend(all(family, bounds));
    }
    if bounds == Bounds::default() {
        // Beyond what is asked for: one reader, one writer and one round more, each apart.
        for more in [
            Bounds { readers: 3, ..bounds },
            Bounds { writers: 2, ..bounds },
            Bounds { rounds: 2, ..bounds },
        ] {
            work.push(exclusion(Family::Refcnt7_0, more));
        }
    }
    let done = in_parallel(&work, as_json);

    let bugs: Vec<(Bug, Outcome, Outcome)> = Family::ALL
        .into_iter()
        .flat_map(bugs::all)
        .take_while(|_| !interrupted())
        .map(|b| (b.clone(), check(&b.on, u64::MAX), check(&b.off, u64::MAX)))
        .collect();
    let states: u64 = done.iter().map(|(_, o)| o.states).sum();
    let proved = done.iter().filter(|(_, o)| o.proved()).count();
    let violated = done.iter().any(|(_, o)| matches!(o.ending, Ending::Violated(..)))
        || bugs
            .iter()
            .any(|(_, _, off)| matches!(off.ending, Ending::Violated(..)));
    let complete = !interrupted()
        && done
            .iter()
            .all(|(_, o)| !matches!(o.ending, Ending::Interrupted | Ending::TooMany));
    let seconds = begun.elapsed().as_secs_f64();
    if as_json {
        print_json(&json!({
            "bounds": { "readers": bounds.readers, "writers": bounds.writers, "detachers": bounds.detachers, "rounds": bounds.rounds },
            "complete": complete, "proved": proved, "states": states, "seconds": seconds,
            "scenarios": done.iter().map(|(s, o)| outcome_json(s, o)).collect::<Vec<_>>(),
            "bugs": bugs.iter().map(|(b, on, off)| json!({
                "name": b.name, "family": b.on.rules.family.name(), "with": verdict(on), "without": verdict(off),
            })).collect::<Vec<_>>(),
        }));
    } else {
        say!("");
        for (bug, on, off) in &bugs {
            say!(
                "{:5} {:24} with: {}; without: {}",
                bug.on.rules.family.name(),
                bug.name,
                verdict(on),
                verdict(off)
            );
        }
        let word = if complete { "complete" } else { "INCOMPLETE" };
        say!(
            "\n{word}: {proved} of {} searches proved, {states} states, {seconds:.1} s; bounds readers={},writers={},detachers={},rounds={}",
            done.len(),
            bounds.readers,
            bounds.writers,
            bounds.detachers,
            bounds.rounds
        );
    }
    Ok(match (violated, complete) {
        (true, _) => exit::VIOLATION,
        (false, true) => exit::DONE,
        (false, false) => exit::FAILED,
    })
}

/// Searches on as many threads as there are processors, smallest scenario first, so that much is
/// proved when somebody stops it; prints each as it is done; returns those that were begun, in the order given.
fn in_parallel(work: &[Scenario], quiet: bool) -> Vec<(Scenario, Outcome)> {
    use std::sync::Mutex;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let size = |s: &Scenario| (s.name == "exclusion") as usize * 100 + s.roles.len();
    let mut order: Vec<usize> = (0..work.len()).collect();
    order.sort_by_key(|&n| std::cmp::Reverse(size(&work[n])));
    let queue = Mutex::new(order);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !interrupted()
                    && let Some(n) = queue.lock().unwrap_or_else(|e| e.into_inner()).pop()
                {
                    let outcome = check(&work[n], u64::MAX);
                    let mut done = done.lock().unwrap_or_else(|e| e.into_inner());
                    if !quiet {
                        say!("{}", row(&work[n], &outcome));
                    }
                    done.push((n, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
    done.sort_by_key(|(n, _)| *n);
    done.into_iter()
        .map(|(n, outcome)| (work[n].clone(), outcome))
        .collect()
}

fn run_mutants(as_json: bool) -> anyhow::Result<u8> {
    let mut fates: Vec<Fate> = Vec::new();
    for mutant in mutants() {
        if interrupted() {
            break;
        }
        let fate = try_mutant(mutant);
        if !as_json {
            let what = match &fate.killed {
                Some((scenario, violation, steps)) => {
                    format!("killed in {scenario} after {steps} steps: {violation}")
                }
                None if fate.undecided.is_empty() => "SURVIVED".into(),
                None => format!("UNDECIDED in {}", fate.undecided.join(", ")),
            };
            say!("{:22} {what}", mutant.name());
        }
        fates.push(fate);
    }
    let (killed, tried) = (fates.iter().filter(|f| f.killed.is_some()).count(), fates.len());
    if as_json {
        let fate = |f: &Fate| {
            let killed = f.killed.map(|(scenario, violation, steps)| {
                json!({ "scenario": scenario, "violation": violation.to_string(), "steps": steps })
            });
            json!({ "mutant": f.mutant.name(), "what": f.mutant.what(), "killed": killed, "states": f.states })
        };
        let mutants: Vec<_> = fates.iter().map(fate).collect();
        print_json(
            &json!({ "killed": killed, "tried": tried, "complete": !interrupted(), "mutants": mutants }),
        );
    } else if interrupted() {
        say!("INCOMPLETE, stopped: mutants killed {killed}/{tried} so far");
    } else {
        say!("mutants killed {killed}/{tried}");
    }
    Ok(if killed == tried && !interrupted() {
        exit::DONE
    } else {
        exit::FAILED
    })
}

fn print_json(value: &Value) {
    say!("{value:#}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered() {
        let complaint = unknown("scenario", "recyling", &scenario_names(Family::Refcnt7_0));
        assert!(
            complaint.starts_with("unknown scenario `recyling`; did you mean `recycling`?"),
            "{complaint}"
        );
    }

    #[test]
    fn bounds_are_parsed_and_limited() {
        assert_eq!(
            parse_bounds("readers=3,rounds=2").unwrap(),
            Bounds {
                readers: 3,
                rounds: 2,
                ..Bounds::default()
            }
        );
        for bad in ["readers", "readers=x", "cats=1", "readers=9", "rounds=0"] {
            assert!(parse_bounds(bad).is_err(), "{bad}");
        }
    }

    /// Measured with the search itself; the estimate decides only about a refusal.
    #[test]
    fn the_estimate_is_of_the_right_size() {
        for (readers, writers, rounds, measured) in [
            (2, 1, 1, 24_060.0),
            (3, 1, 1, 203_262.0),
            (2, 2, 1, 203_060.0),
            (2, 1, 2, 100_261.0),
            (3, 2, 1, 1_773_810.0),
        ] {
            let off = estimate(Bounds {
                readers,
                writers,
                detachers: 1,
                rounds,
            }) / measured;
            assert!(
                (0.25..4.0).contains(&off),
                "{readers} {writers} {rounds}: off by {off}"
            );
        }
    }

    #[test]
    fn too_large_bounds_are_refused_with_an_estimate() {
        let bounds = Bounds {
            readers: 5,
            writers: 2,
            detachers: 1,
            rounds: 1,
        };
        let refusal = explore(bounds, false, true).unwrap_err().to_string();
        assert!(
            refusal.contains("million states") && refusal.contains("--force"),
            "{refusal}"
        );
    }
}
