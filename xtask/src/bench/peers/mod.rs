//! What it costs to be looked at, by tracer and by those who do the same job: a page fault, a pair of `mmap` and `munmap`,
//! an `mprotect`, all in one guest, in turns; and the least that any probe at the same places can cost.
//!
//! Instructions come from a guest that counts them, and the clock from a second one. What cannot run on the kernel is in
//! the report with what it said, and whoever saw less than there was, with how much it missed.

mod native;
mod observers;
mod picture;
pub(super) mod said;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use self::observers::{ALL, LIMITS, Side};
use self::said::Made;
use super::turns::{Frame, KERNEL, Observer, Outcome, Seen, Storms, Took, Turn, Turns, median, whole};
use super::{Machine, Row, thousands};
use crate::{build, ws};

pub(super) const PEERS: &str = "peers";

/// What is done: as `opstorm` calls it, and as a person does.
const OPERATIONS: [(&str, &str); 3] = [
    ("fault", "page fault"),
    ("mmap", "mmap and munmap"),
    ("mprotect", "mprotect"),
];
/// Events that one may see and another not: not all begin at the same instruction of the command's start.
const AT_THE_START: u64 = 50;

/// Where instructions are counted all turns are the same; elsewhere they are not.
const COUNTED: Turns = Turns {
    observers: &ALL,
    operations: &["fault", "mmap", "mprotect"],
    times: 2048,
    storms: 5,
    rounds: 1,
    first: FIRST,
    last: "",
};
/// The limit is a matter of instructions, and every turn takes the better part of a minute on a busy machine.
const CLOCK: Turns = Turns {
    observers: ALL.split_at(ALL.len() - LIMITS).0,
    storms: 2,
    rounds: 3,
    ..COUNTED
};

/// How much the kernel counts: of the whole, and of each operation in two sizes, which differ by [`FURTHER`] of them.
const FIRST: &str = r#"
set -f
tracer sites > /dev/null || exit 1
tracer record -o /tmp/f --duration 100ms 2> /tmp/err || { cat /tmp/err >&2; exit 1; }
tracer info --json /tmp/f > /tmp/plan.json || exit 1
cp /tmp/plan.json /out
made() {
  to=/out/made.$1; shift
  perf stat -x, -o $to -e mmap_lock:* opstorm "$@" > /dev/null 2> /tmp/err || { cat /tmp/err >&2; exit 1; }
}
made all --times TIMES --rounds STORMS OPERATIONS
for one in OPERATIONS; do
  made $one.few --times 100 --rounds 1 $one
  made $one.many --times 600 --rounds 1 $one
done
limit --copy 100000 > /out/copy.json || exit 1
"#;
/// The round that is not told is one of them.
const FURTHER: f64 = 1000.0;

/// Goals of ours: who, in which operation, how much of what whom adds. They are compared in instructions.
const GOALS: [Goal; 7] = [
    Goal {
        who: "tracer",
        whom: "bpftrace-histogram",
        operation: "fault",
        most: 0.7,
    },
    Goal {
        who: "tracer-holds",
        whom: "bpftrace-histogram",
        operation: "fault",
        most: 0.5,
    },
    Goal {
        who: "tracer-summary",
        whom: "bpftrace-histogram",
        operation: "fault",
        most: 0.4,
    },
    Goal {
        who: "tracer",
        whom: "klockstat",
        operation: "mmap",
        most: 0.5,
    },
    Goal {
        who: "tracer",
        whom: LEAST,
        operation: "fault",
        most: 2.0,
    },
    Goal {
        who: "tracer",
        whom: LEAST,
        operation: "mmap",
        most: 2.0,
    },
    Goal {
        who: "tracer",
        whom: LEAST,
        operation: "mprotect",
        most: 2.0,
    },
];
/// The limit that ours is compared with: an event of our size, reserved and submitted.
const LEAST: &str = "limit-submit96";

struct Goal {
    who: &'static str,
    whom: &'static str,
    operation: &'static str,
    most: f64,
}

/// What one guest gave.
#[derive(Debug)]
struct Measured {
    made: Made,
    /// Faults that the storms made, at least.
    faults: u64,
    /// Events of `mmap_lock` in each operation.
    events: BTreeMap<&'static str, f64>,
    /// Nanoseconds to copy an event in user space, by its bytes.
    copy: Value,
    /// Places where tracer had a probe, by mechanism.
    places: BTreeMap<String, u64>,
    /// In the order of the table.
    all: Vec<Watched>,
}

/// One observer in one guest.
#[derive(Debug)]
struct Watched {
    observer: &'static Observer,
    turns: Vec<Turn>,
    /// What it saw in each turn in which it looked.
    seen: Vec<Seen>,
}

impl Measured {
    fn read(out: &Path, turns: &Turns) -> Result<Self> {
        let text = |name: &str| {
            fs::read_to_string(out.join(name)).with_context(|| format!("the guest left no {name}"))
        };
        let made = said::made(&text("made.all")?)?;
        let mut events = BTreeMap::new();
        for (operation, _) in OPERATIONS {
            let [few, many] =
                ["few", "many"].map(|size| said::made(&text(&format!("made.{operation}.{size}"))?));
            let further = many?.events as f64 - few?.events as f64;
            events.insert(operation, further / FURTHER);
        }
        let plan: Value = serde_json::from_str(&text("plan.json")?).context("what `tracer info` said")?;
        let mut all = Vec::new();
        for observer in turns.observers {
            let of = turns.read(out, observer)?;
            all.push(Watched::new(observer, of));
        }
        Ok(Self {
            made,
            faults: turns.made(),
            events,
            copy: serde_json::from_str(&text("copy.json")?).context("what `limit --copy` said")?,
            places: places(&plan),
            all,
        })
    }

    fn of(&self, name: &str) -> Result<&Watched> {
        let found = self.all.iter().find(|one| one.observer.name == name);
        found.with_context(|| format!("nothing was measured for {name}"))
    }

    /// What an operation takes that nobody looks at.
    fn nobody(&self, operation: &str) -> Took {
        let storms = self.all.iter().flat_map(|one| one.turns.iter());
        Took::median(storms.flat_map(|turn| turn.before[operation].iter()))
    }

    /// What an observer adds to an operation; none if it did not look.
    fn added(&self, one: &Watched, operation: &str) -> Option<Took> {
        let with = one.with().flat_map(|storms| storms[operation].iter());
        with.clone().next()?;
        let (with, nobody) = (Took::median(with), self.nobody(operation));
        Some(Took {
            cpu: with.cpu - nobody.cpu,
            wall: with.wall - nobody.wall,
        })
    }

    /// What one adds by what another adds.
    fn ratio(&self, who: &str, whom: &str, operation: &str) -> Result<Option<f64>> {
        let added = |name| -> Result<Option<f64>> {
            let one = self.of(name)?;
            Ok(self.added(one, operation).map(|took| took.cpu))
        };
        Ok(match (added(who)?, added(whom)?) {
            (Some(ours), Some(theirs)) if theirs > 0.0 => Some(ours / theirs),
            _ => None,
        })
    }

    /// What of the made it missed, by its own count, in the worst of its turns.
    fn missed(&self, one: &Watched) -> Missed {
        let mut worst = Missed::default();
        for seen in &one.seen {
            let short = |seen: Option<u64>, made: u64, tolerated: u64| {
                let short = made.saturating_sub(seen?);
                Some(if short > tolerated { short } else { 0 })
            };
            let more = |a: Option<u64>, b: Option<u64>| b.map_or(a, |b| Some(a.unwrap_or(0).max(b)));
            worst.mmap = more(worst.mmap, short(seen.events, self.made.events, AT_THE_START));
            worst.mmap = more(worst.mmap, short(seen.holds, self.made.holds, AT_THE_START));
            worst.faults = more(worst.faults, short(seen.faults, self.faults, 0));
            worst.lost = worst.lost.max(seen.lost);
        }
        worst
    }
}

/// Where tracer had probes, by mechanism, each place once.
fn places(plan: &Value) -> BTreeMap<String, u64> {
    let sites = plan["sites"].as_array().into_iter().flatten();
    let attached = sites.filter(|site| site["attached"] == true);
    let places: BTreeSet<[&str; 3]> = attached
        .map(|site| ["mechanism", "function", "place"].map(|name| site[name].as_str().unwrap_or_default()))
        .collect();
    let mut found = BTreeMap::new();
    for [mechanism, ..] in places {
        *found.entry(mechanism.to_owned()).or_default() += 1;
    }
    found
}

/// What somebody missed; none: it does not look at such.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Missed {
    /// Events or holds of `mmap_lock`.
    mmap: Option<u64>,
    faults: Option<u64>,
    /// What it says itself.
    lost: u64,
}

impl Missed {
    fn is_nothing(self) -> bool {
        self.lost == 0 && self.mmap.unwrap_or(0) == 0 && self.faults.unwrap_or(0) == 0
    }

    /// Does it see anything of an operation?
    fn sees(self, operation: &str) -> bool {
        match operation {
            "fault" => self.faults.is_some(),
            _ => self.mmap.is_some(),
        }
    }
}

impl Watched {
    /// Whose words cannot be understood has not been seen to look.
    fn new(observer: &'static Observer, mut turns: Vec<Turn>) -> Self {
        let mut seen = Vec::new();
        for turn in &mut turns {
            if let Outcome::Looked {
                told, err, status, ..
            } = &turn.outcome
            {
                match (observer.read)(told) {
                    Ok(one) => seen.push(one),
                    Err(error) => {
                        let why = format!("it ended with {status}: {} {error:#}", err.trim());
                        turn.outcome = Outcome::Refused(crate::vm::plain(&why));
                    }
                }
            }
        }
        Self {
            observer,
            turns,
            seen,
        }
    }

    /// Storms that it looked at.
    fn with(&self) -> impl Iterator<Item = &Storms> + Clone {
        self.turns.iter().filter_map(|turn| match &turn.outcome {
            Outcome::Looked { with, .. } => Some(with),
            Outcome::Refused(_) => None,
        })
    }

    /// Why it did not look, if it did in no turn.
    fn refused(&self) -> Option<&str> {
        if self.with().next().is_some() {
            return None;
        }
        self.turns.iter().find_map(|turn| match &turn.outcome {
            Outcome::Refused(why) => Some(why.as_str()),
            Outcome::Looked { .. } => None,
        })
    }

    /// How many times as long an operation takes by the clock, when it looks: the median of all turns, each beside its own
    /// storm that nobody looked at.
    fn times_as_long(&self, operation: &str) -> Option<f64> {
        let pairs = self.turns.iter().filter_map(|turn| match &turn.outcome {
            Outcome::Looked { with, .. } => {
                let (with, before) = (&with[operation], &turn.before[operation]);
                Some(Took::median(with.iter()).wall / Took::median(before.iter()).wall)
            }
            Outcome::Refused(_) => None,
        });
        let all: Vec<f64> = pairs.collect();
        (!all.is_empty()).then(|| median(all.into_iter()))
    }
}

/// Measures the row.
pub(super) fn run() -> Result<Vec<Row>> {
    let measured = measure()?;
    Ok(vec![measured.row()?])
}

/// Measures the row, and draws it into the documents.
pub(super) fn draw(row: &Row) -> Result<()> {
    let folder = ws::root().join("docs/benchmarks");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let text = serde_json::to_string_pretty(&row.figures).context("writing JSON")? + "\n";
    for (name, text) in [("peers.json", &text), ("peers.svg", &picture::svg(&row.figures)?)] {
        let file = folder.join(name);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// All that was measured.
struct Report {
    counted: Measured,
    /// Instructions tell without it.
    clock: Result<Measured>,
    native: Result<Value>,
    versions: Vec<String>,
}

fn measure() -> Result<Report> {
    let names = ["bpftrace", "perf", "trace-cmd", "klockstat", "klockstat-bpfcc"];
    let mut clock = Frame::new(&names, &["opstorm", "limit"])?;
    clock.add(build::limit_ebpf()?, "/usr/lib/tracer-limit-ebpf");
    let label = |turns: &Turns| {
        format!(
            "{} observers, {} turns of each",
            turns.observers.len(),
            turns.rounds
        )
    };
    let counted = clock.counted().run(&label(&COUNTED), &COUNTED.script(), |out| {
        Measured::read(out, &COUNTED)
    })?;
    let versions = clock.versions.clone();
    let clock = clock.run(&label(&CLOCK), &CLOCK.script(), |out| Measured::read(out, &CLOCK));
    Ok(Report {
        counted,
        clock,
        // Not everybody who measures is root, and not every kernel lets itself be traced.
        native: native::run(),
        versions,
    })
}

impl Report {
    fn by_clock(&self, name: &str) -> Option<&Watched> {
        self.clock.as_ref().ok()?.of(name).ok()
    }

    fn row(&self) -> Result<Row> {
        let ours = self.counted.of("tracer")?;
        let missed = self.counted.missed(ours);
        ensure!(
            ours.refused().is_none(),
            "tracer itself did not run: {}",
            ours.refused().unwrap_or_default()
        );
        let mut measured = Vec::new();
        for (operation, label) in OPERATIONS {
            let added = self.counted.added(ours, operation).map_or(0.0, |took| took.cpu);
            let by = |whom, word: &str| -> Result<String> {
                let ratio = self.counted.ratio("tracer", whom, operation)?;
                Ok(ratio.map_or(format!("no {word}"), |ratio| format!("{ratio:.2} × {word}")))
            };
            measured.push(format!(
                "{label}: adds {} instructions, {}, {}",
                whole(added),
                by("bpftrace-histogram", "bpftrace's histogram")?,
                by(LEAST, "the limit")?
            ));
        }
        let mut notes = self.table();
        notes.extend(self.who_missed());
        notes.extend(self.goals()?);
        notes.extend(self.beside()?);
        notes.push(format!("compared with {}", self.versions.join(", ")));
        Ok(Row {
            name: PEERS,
            measured: measured.join("; "),
            required: Some("nothing missed by tracer, where instructions are counted".to_owned()),
            met: missed.is_nothing(),
            method: "7.3 guests; the same operations with everybody in turns, each beside nobody; one with 1 CPU and 1 instruction = 1 ns, one with 2 CPUs and the clock",
            notes,
            figures: self.json()?,
        })
    }

    /// A line each.
    fn table(&self) -> Vec<String> {
        let mut head = format!("{:<34}", "instructions added, 1 CPU");
        for (_, label) in OPERATIONS {
            head += &format!("{label:>17}{:>11}{:>9}", "everybody", "clock");
        }
        let mut lines = vec![head];
        let mut line = format!("{:<34}", "(nobody: what it takes)");
        for (operation, _) in OPERATIONS {
            let took = self.counted.nobody(operation);
            line += &format!("{:>17}{:>11}{:>9}", whole(took.cpu), whole(took.wall), "1.00");
        }
        lines.push(line);
        for counted in &self.counted.all {
            let clock = self.by_clock(counted.observer.name);
            let mut line = format!("{:<34}", counted.observer.label);
            if let Some(why) = counted.refused() {
                let last = why.lines().last().unwrap_or_default();
                lines.push(format!("{line}   did not run: {last}"));
                continue;
            }
            let sees = self.counted.missed(counted);
            for (operation, _) in OPERATIONS {
                let added = self.counted.added(counted, operation);
                let added = added.map_or((String::new(), String::new()), |took| {
                    (whole(took.cpu), whole(took.wall))
                });
                // What it does not look at costs next to nothing, and is no merit.
                let blind = if sees.sees(operation) { "" } else { "(blind) " };
                let clock = clock.and_then(|one| one.times_as_long(operation));
                line += &format!(
                    "{:>17}{:>11}{:>9}",
                    format!("{blind}{}", added.0),
                    added.1,
                    clock.map_or("-".to_owned(), |times| format!("{times:.2}"))
                );
            }
            lines.push(line);
        }
        lines.push(
            "its thread and everybody: instructions an operation; clock: times as long as beside it with nobody, medians of paired rounds on 2 CPUs"
                .to_owned(),
        );
        lines
    }

    /// Whoever did not see all.
    fn who_missed(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let clock = self
            .clock
            .as_ref()
            .ok()
            .map(|guest| ("2 CPUs, by the clock", guest));
        for (how, guest) in [("1 CPU, by instructions", &self.counted)]
            .into_iter()
            .chain(clock)
        {
            lines.push(format!(
                "{how}: the kernel counted {} events of mmap_lock and {} holds; faults: {}",
                thousands(guest.made.events),
                thousands(guest.made.holds),
                thousands(guest.faults)
            ));
            for one in &guest.all {
                let missed = guest.missed(one);
                if !missed.is_nothing() {
                    lines.push(format!(
                        "    {} MISSED {} of mmap_lock and {} faults in the worst turn; says itself that it lost {}",
                        one.observer.label,
                        thousands(missed.mmap.unwrap_or(0)),
                        thousands(missed.faults.unwrap_or(0)),
                        thousands(missed.lost)
                    ));
                }
            }
        }
        lines
    }

    /// Goals, and how far they are reached.
    fn goals(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for goal in &GOALS {
            let ratio = self.counted.ratio(goal.who, goal.whom, goal.operation)?;
            let (ratio, verdict) = match ratio {
                Some(ratio) if ratio <= goal.most => (format!("{ratio:.2}"), "reached"),
                Some(ratio) => (format!("{ratio:.2}"), "NOT REACHED"),
                None => ("?".to_owned(), "not measured"),
            };
            lines.push(format!(
                "goal: {} adds at most {} × what {} adds to {}: {ratio}, {verdict}",
                goal.who, goal.most, goal.whom, goal.operation
            ));
        }
        Ok(lines)
    }

    /// What stands beside the table.
    fn beside(&self) -> Result<Vec<String>> {
        let events: Vec<String> = OPERATIONS
            .iter()
            .map(|(operation, label)| format!("{label} {:.2}", self.counted.events[operation]))
            .collect();
        let places = self.counted.places.iter().map(|(how, n)| format!("{n} by {how}"));
        let mut lines = vec![
            format!(
                "events of mmap_lock an operation, by the kernel's count: {}",
                events.join(", ")
            ),
            format!(
                "places that tracer looked at, and of those by name the limit: {}",
                places.collect::<Vec<_>>().join(", ")
            ),
            format!(
                "to copy an event in user space: {} instructions for 64 bytes, {} for 96",
                self.counted.copy["64"], self.counted.copy["96"]
            ),
        ];
        if let Err(error) = &self.clock {
            lines.push(format!("by the clock: not measured: {error:#}"));
        }
        match &self.native {
            Ok(native) => lines.extend(native::lines(native)),
            Err(error) => lines.push(format!("on this machine's own kernel: not measured: {error:#}")),
        }
        Ok(lines)
    }

    fn json(&self) -> Result<Value> {
        let mut operations = Map::new();
        for (operation, label) in OPERATIONS {
            let counted = self.counted.nobody(operation);
            let clock = self.clock.as_ref().ok().map(|guest| guest.nobody(operation).wall);
            operations.insert(
                operation.to_owned(),
                json!({
                    "label": label, "instructions": counted.cpu, "instructions_everybody": counted.wall,
                    "clock_ns": clock, "mmap_lock_events": self.counted.events[operation],
                }),
            );
        }
        let mut observers = Vec::new();
        for counted in &self.counted.all {
            let side = Side::of(counted.observer);
            let clock = self.by_clock(counted.observer.name);
            let missed = self.counted.missed(counted);
            let missed_clock = match (&self.clock, clock) {
                (Ok(guest), Some(one)) => Some(guest.missed(one)),
                _ => None,
            };
            let mut of = Map::new();
            for (operation, _) in OPERATIONS {
                let Some(added) = self.counted.added(counted, operation) else {
                    continue;
                };
                let one = json!({
                    "added": added.cpu, "added_everybody": added.wall, "sees": missed.sees(operation),
                    "by_limit": self.counted.ratio(counted.observer.name, LEAST, operation)?,
                    "clock_times": clock.and_then(|one| one.times_as_long(operation)),
                });
                of.insert(operation.to_owned(), one);
            }
            let losses = |missed: Missed| json!({"mmap_lock": missed.mmap, "faults": missed.faults, "lost": missed.lost});
            observers.push(json!({
                "name": counted.observer.name, "label": counted.observer.label, "side": side.name(),
                "command": counted.observer.command, "operations": of, "refused": counted.refused(),
                "missed": {"counted": losses(missed), "clock": missed_clock.map(losses)},
            }));
        }
        let mut goals = Vec::new();
        for goal in &GOALS {
            goals.push(json!({
                "who": goal.who, "whom": goal.whom, "operation": goal.operation, "most": goal.most,
                "ratio": self.counted.ratio(goal.who, goal.whom, goal.operation)?,
            }));
        }
        let turns =
            |turns: &Turns| json!({"times": turns.times, "storms": turns.storms, "rounds": turns.rounds});
        let made = |guest: &Measured| json!({"mmap_lock_events": guest.made.events, "mmap_lock_holds": guest.made.holds, "faults": guest.faults});
        Ok(json!({
            "schema": "tracer.bench.peers.v1", "machine": Machine::read().json(), "kernel": KERNEL,
            "peers": self.versions, "operations": operations, "observers": observers, "goals": goals,
            "copy_instructions": self.counted.copy, "places": self.counted.places,
            "turns": {"counted": turns(&COUNTED), "clock": turns(&CLOCK)},
            "made": {"counted": made(&self.counted), "clock": self.clock.as_ref().ok().map(made)},
            "native": self.native.as_ref().ok(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storms(each: f64) -> Storms {
        let took = Took {
            cpu: each,
            wall: 2.0 * each,
        };
        OPERATIONS
            .iter()
            .map(|(operation, _)| ((*operation).to_owned(), vec![took; 3]))
            .collect()
    }

    fn watched(name: &str, with: f64, seen: Seen) -> Watched {
        let observer = ALL.iter().find(|one| one.name == name).unwrap();
        let turn = Turn {
            before: storms(100.0),
            outcome: Outcome::Looked {
                with: storms(with),
                told: String::new(),
                err: String::new(),
                status: 0,
            },
        };
        Watched {
            observer,
            turns: vec![turn],
            seen: vec![seen],
        }
    }

    fn guest() -> Measured {
        let all = Seen {
            events: Some(1000),
            holds: Some(300),
            faults: Some(50),
            lost: 0,
        };
        let some = Seen {
            events: Some(900),
            holds: None,
            faults: None,
            lost: 7,
        };
        Measured {
            made: Made {
                events: 1000,
                holds: 300,
            },
            faults: 50,
            events: OPERATIONS
                .iter()
                .map(|(operation, _)| (*operation, 6.0))
                .collect(),
            copy: json!({"64": 8, "96": 12}),
            places: BTreeMap::new(),
            all: vec![
                watched("tracer", 150.0, all),
                watched("perf-record", 300.0, some),
                watched(LEAST, 125.0, all),
            ],
        }
    }

    #[test]
    fn ratios_are_of_what_is_added() {
        let guest = guest();
        assert_eq!(guest.ratio("tracer", LEAST, "fault").unwrap(), Some(2.0));
        assert_eq!(guest.ratio("tracer", "perf-record", "mmap").unwrap(), Some(0.25));
        assert!(guest.ratio("tracer", "nobody", "mmap").is_err());
        assert_eq!(guest.all[0].times_as_long("fault"), Some(1.5));
    }

    #[test]
    fn who_missed_something_is_told_from_who_does_not_look() {
        let guest = guest();
        assert!(guest.missed(&guest.all[0]).is_nothing());
        let missed = guest.missed(&guest.all[1]);
        let expected = Missed {
            mmap: Some(100),
            faults: None,
            lost: 7,
        };
        assert_eq!(missed, expected);
        assert!(!missed.sees("fault") && missed.sees("mmap") && !missed.is_nothing());
    }

    #[test]
    fn who_did_not_run_has_no_figure() {
        let mut guest = guest();
        guest.all[1].turns[0].outcome = Outcome::Refused("no such program".to_owned());
        assert_eq!(guest.all[1].refused(), Some("no such program"));
        assert_eq!(guest.added(&guest.all[1], "fault"), None);
        assert_eq!(guest.ratio("tracer", "perf-record", "fault").unwrap(), None);
        assert_eq!(guest.all[1].times_as_long("fault"), None);
    }
}
