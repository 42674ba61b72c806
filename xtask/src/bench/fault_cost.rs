//! What a page fault costs while it is traced: without anybody, with all of tracer's probes, and with bpftrace looking
//! at the same faults, all in one guest, in turns (see [`turns`](super::turns)).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::peers::said;
use super::turns::{self, Frame, Observer, Outcome, Seen, Took, Turns, whole};
use super::{Row, thousands};
use crate::vm::Guest;

pub(super) const FAULT_COST: &str = "fault-cost";

/// How often each has its turn.
const ROUNDS: usize = 3;

/// Instructions that tracer adds to a fault as of now, by what it was asked for. To add more has to be meant, and written down
/// here.
const ADDED: [(&str, f64); 4] = [(TRACER, 2676.0), (BOTH, 1749.0), (HOLDS, 976.0), (SUMMARY, 768.0)];
/// How much more is tolerated, in percent: the next release of the kernel has other code around probes.
const TOLERATED: f64 = 10.0;
/// What it shall add at most, as a multiple of what bpftrace's histogram adds: goals.
const GOALS: [(&str, f64); 3] = [(BOTH, 0.7), (HOLDS, 0.5), (SUMMARY, 0.4)];

const TRACER: &str = "tracer";
const BOTH: &str = "both";
const HOLDS: &str = "holds";
const SUMMARY: &str = "summary";
const HISTOGRAM: &str = "histogram";

/// Who looks at the faults, in the order in which they have their turns.
static OBSERVERS: [Observer; 6] = [
    tracer(TRACER, "tracer record, all probes", "tracer record -o /tmp/f"),
    tracer(
        BOTH,
        "tracer record, two events a fault",
        "tracer record -o /tmp/f --only vma_read_acquire,vma_read_release,fault_end",
    ),
    Observer {
        read: said::tracer_holds,
        ..tracer(
            HOLDS,
            "tracer record, mode holds",
            "tracer record --mode holds -o /tmp/f",
        )
    },
    Observer {
        // It says nothing before its end; to sleep costs nothing.
        ready: "sleep 20",
        tell: "cat /tmp/said",
        read: said::tracer_sums,
        ..tracer(
            SUMMARY,
            "tracer stats, mode summary",
            "tracer stats --mode summary --json",
        )
    },
    // Acquire and release of the same lock, paired in the kernel: the least that tells how long it was held.
    bpftrace(
        HISTOGRAM,
        "bpftrace, histogram of holds",
        "bpftrace -f json -e 'fexit:vmlinux:lock_vma_under_rcu /retval/ { @at[tid] = nsecs; }
          fexit:vmlinux:handle_mm_fault /@at[tid]/ { @held = hist(nsecs - @at[tid]); delete(@at[tid]); }'",
    ),
    bpftrace(
        "counter",
        "bpftrace, number of faults",
        "bpftrace -f json -e 'fexit:vmlinux:handle_mm_fault { @faults = count(); }'",
    ),
];

/// The turns of these.
const TURNS: Turns = Turns {
    observers: &OBSERVERS,
    operations: &["fault"],
    times: 5120,
    storms: 5,
    rounds: ROUNDS,
    first: "",
    last: "tracer doctor --json > /out/doctor.json || exit 1",
};

/// tracer by a command.
pub(super) const fn tracer(name: &'static str, label: &'static str, command: &'static str) -> Observer {
    Observer {
        name,
        label,
        command,
        ready: "test -s /tmp/f",
        tell: "tracer stats --json /tmp/f",
        without: None,
        read: said::tracer,
    }
}

/// bpftrace by a command, with a program that counts every fault in a map.
pub(super) const fn bpftrace(name: &'static str, label: &'static str, command: &'static str) -> Observer {
    Observer {
        name,
        label,
        command,
        ready: "grep -q attached_probes /tmp/said",
        tell: "cat /tmp/said",
        without: None,
        read: counted,
    }
}

/// What bpftrace counted in its map, or in its histogram.
fn counted(said: &str) -> Result<Seen> {
    let values = said
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let maps = values.filter_map(|value| value["data"].as_object().cloned());
    let sums = maps.flatten().filter(|(name, _)| name.starts_with('@'));
    let sums = sums.map(|(_, value)| match value {
        Value::Array(buckets) => buckets.iter().filter_map(|b| b["count"].as_u64()).sum(),
        value => value.as_u64().unwrap_or(0),
    });
    Ok(Seen {
        faults: Some(sums.max().unwrap_or(0)),
        ..Seen::default()
    })
}

/// Did it lose nothing, and see every fault of every storm, if it looks at faults? There are others in the guest, so there
/// may be more.
fn saw_all(seen: Seen, made: u64) -> Result<()> {
    ensure!(seen.lost == 0, "{} events were lost", thousands(seen.lost));
    let faults = seen.faults.unwrap_or(made);
    ensure!(
        faults >= made,
        "{} faults were made, and {} were seen",
        thousands(made),
        thousands(faults)
    );
    Ok(())
}

/// What all storms under one pair of eyes took.
#[derive(Debug)]
pub(super) struct Cost {
    /// Who looked.
    pub(super) observer: &'static Observer,
    storms: Storms,
}

/// Storms with the same eyes on them.
#[derive(Debug)]
struct Storms(Vec<Took>);

impl Storms {
    /// Instructions a fault.
    fn median(&self) -> Took {
        Took::median(self.0.iter())
    }

    /// Least and most of the thread that faulted.
    fn range(&self) -> (f64, f64) {
        let all = self.0.iter().map(|took| took.cpu);
        (all.clone().fold(f64::MAX, f64::min), all.fold(0.0, f64::max))
    }
}

impl Cost {
    /// Instructions a fault, of the thread that faulted.
    pub(super) fn cpu(&self) -> f64 {
        self.storms.median().cpu
    }
}

/// What came of a guest: a cost for each who looked.
#[derive(Debug)]
pub(crate) struct Costs {
    pub(super) all: Vec<Cost>,
    none: Storms,
    /// Places that tracer looked at, by mechanism: a cost means nothing without.
    places: BTreeMap<String, u64>,
}

/// Makes a guest one that measures; its `/out` has to go somewhere.
pub(crate) fn prepare(guest: &mut Guest) -> Result<()> {
    turns::furnish(guest, &["bpftrace"], &["opstorm"])?;
    turns::count(guest);
    guest.timeout = Duration::from_secs(900);
    Ok(())
}

/// The same turns, so many for each.
fn of_rounds(rounds: usize) -> Turns {
    Turns { rounds, ..TURNS }
}

/// What the guest runs, with so many turns for each.
pub(crate) fn script(rounds: usize) -> String {
    of_rounds(rounds).script()
}

impl Costs {
    /// Reads what the guest left; an error if somebody who should have looked saw too little.
    pub(crate) fn read(out: &Path, rounds: usize) -> Result<Self> {
        Self::read_of(&of_rounds(rounds), out)
    }

    /// The same for other turns.
    pub(super) fn read_of(turns: &Turns, out: &Path) -> Result<Self> {
        let (mut all, mut none) = (Vec::new(), Vec::new());
        for observer in turns.observers {
            let mut storms = Vec::new();
            for turn in turns.read(out, observer)? {
                none.extend(turn.before.into_values().flatten());
                match turn.outcome {
                    Outcome::Refused(why) => bail!("{} did not look: {why}", observer.label),
                    Outcome::Looked { with, told, err, .. } => {
                        storms.extend(with.into_values().flatten());
                        let seen = (observer.read)(&told).and_then(|seen| saw_all(seen, turns.made()));
                        seen.with_context(|| format!("{} {}", observer.label, err.trim()))?;
                    }
                }
            }
            all.push(Cost {
                observer,
                storms: Storms(storms),
            });
        }
        let doctor = out.join("doctor.json");
        let doctor = fs::read(&doctor).with_context(|| format!("reading {}", doctor.display()))?;
        let doctor: Value = serde_json::from_slice(&doctor).context("what doctor said")?;
        let places = mechanisms(&doctor);
        ensure!(
            !places.is_empty(),
            "tracer doctor names no place that tracer looks at: {doctor}"
        );
        Ok(Self {
            all,
            none: Storms(none),
            places,
        })
    }

    fn of(&self, name: &str) -> Result<&Cost> {
        let found = self.all.iter().find(|cost| cost.observer.name == name);
        found.with_context(|| format!("nothing was measured for {name}"))
    }

    /// Instructions of a fault that nobody looks at.
    pub(super) fn untraced(&self) -> f64 {
        self.none.median().cpu
    }

    /// Instructions that somebody adds to a fault.
    pub(super) fn added(&self, name: &str) -> Result<f64> {
        Ok(self.of(name)?.cpu() - self.untraced())
    }

    /// A traced fault's instructions by an untraced one's.
    fn by_none(&self) -> Result<f64> {
        Ok(self.of(TRACER)?.cpu() / self.untraced())
    }

    /// What one of ours adds by what bpftrace's histogram adds.
    fn by_histogram(&self, name: &str) -> Result<f64> {
        let theirs = self.added(HISTOGRAM)?;
        ensure!(
            theirs > 0.0,
            "a fault under bpftrace's histogram took no longer than an untraced one: it was not measured"
        );
        Ok(self.added(name)? / theirs)
    }

    /// What takes more than is tolerated, a line each.
    pub(crate) fn too_much(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for (name, known) in ADDED {
            let added = self.added(name)?;
            if added > known * (1.0 + TOLERATED / 100.0) {
                lines.push(format!(
                    "{}: adds {} instructions to a fault instead of {}",
                    self.of(name)?.observer.label,
                    whole(added),
                    whole(known)
                ));
            }
        }
        Ok(lines)
    }

    /// Goals, reached or not, a line each.
    fn goals(&self) -> Result<Vec<String>> {
        let goal = |(name, most): (&str, f64)| {
            let (ours, label) = (self.by_histogram(name)?, self.of(name)?.observer.label);
            let reached = if ours <= most { "reached" } else { "not reached" };
            Ok(format!(
                "goal: {label} adds at most {most} × what bpftrace's histogram adds: {ours:.2} ×, {reached}"
            ))
        };
        GOALS.into_iter().map(goal).collect()
    }

    /// In a line.
    pub(crate) fn summary(&self) -> Result<String> {
        Ok(format!(
            "{} instructions a fault with all probes, {:.2} × untraced; adds {:.2} × what bpftrace's histogram adds",
            whole(self.of(TRACER)?.cpu()),
            self.by_none()?,
            self.by_histogram(TRACER)?
        ))
    }

    /// What is required, in a line.
    fn required() -> String {
        let added = ADDED.map(|(name, known)| format!("{name} {}", whole(known)));
        format!(
            "adds at most {TOLERATED} % more than is written down: {}",
            added.join(", ")
        )
    }

    /// A table, a line each.
    pub(crate) fn table(&self) -> Result<Vec<String>> {
        let none = self.none.median();
        let theirs = self.added(HISTOGRAM)?;
        let mut lines = vec![format!(
            "{:<30}{:>12}{:>9}{:>11}{:>14}{:>12}{:>12}",
            "instructions a fault", "its thread", "added", "× nobody", "× histogram", "everybody", "× nobody"
        )];
        lines.push(format!(
            "{:<30}{:>12}{:>46}",
            "nobody",
            whole(none.cpu),
            whole(none.wall)
        ));
        for cost in &self.all {
            let (took, added) = (cost.storms.median(), self.added(cost.observer.name)?);
            lines.push(format!(
                "{:<30}{:>12}{:>9}{:>11.3}{:>14.2}{:>12}{:>12.3}",
                cost.observer.label,
                whole(took.cpu),
                whole(added),
                took.cpu / none.cpu,
                added / theirs,
                whole(took.wall),
                took.wall / none.wall
            ));
        }
        let all = self.all.iter().map(|cost| (cost.observer.name, &cost.storms));
        let spreads: Vec<String> = [("nobody", &self.none)]
            .into_iter()
            .chain(all)
            .map(|(name, storms)| {
                let (least, most) = storms.range();
                format!("{name} {} to {}", whole(least), whole(most))
            })
            .collect();
        lines.push(format!(
            "medians of {} storms of {} faults each, {} with nobody; least and most of its thread: {}",
            self.of(TRACER)?.storms.0.len(),
            thousands(u64::from(TURNS.times)),
            self.none.0.len(),
            spreads.join(", ")
        ));
        let places: Vec<String> = self
            .places
            .iter()
            .map(|(how, n)| format!("{n} by {how}"))
            .collect();
        lines.push(format!("places that tracer looked at: {}", places.join(", ")));
        Ok(lines)
    }

    fn json(&self) -> Result<Value> {
        let mut modes = serde_json::Map::new();
        let all = self.all.iter().map(|cost| (cost.observer.name, &cost.storms));
        for (name, storms) in [("none", &self.none)].into_iter().chain(all) {
            let ((least, most), took) = (storms.range(), storms.median());
            let one = json!({
                "instructions": took.cpu, "least": least, "most": most,
                "added": took.cpu - self.untraced(), "everybody": took.wall, "storms": storms.0.len(),
            });
            modes.insert(name.to_owned(), one);
        }
        Ok(json!({
            "faults_a_storm": TURNS.times, "modes": modes, "places": self.places,
            "by_none": self.by_none()?, "by_histogram": self.by_histogram(TRACER)?,
            "written_down": BTreeMap::from(ADDED), "tolerated_percent": TOLERATED,
            "goals_by_histogram": BTreeMap::from(GOALS),
            "everybody_by_none": self.of(TRACER)?.storms.median().wall / self.none.median().wall,
        }))
    }
}

/// Measures the row.
pub(super) fn run() -> Result<Vec<Row>> {
    let (costs, versions) = measure(&TURNS)?;
    let mut notes = costs.table()?;
    notes.extend(costs.goals()?);
    let too_much = costs.too_much()?;
    notes.extend(too_much.iter().cloned());
    notes.push(format!("compared with {}", versions.join(", ")));
    let mut figures = costs.json()?;
    figures["peers"] = json!(versions);
    Ok(vec![Row {
        name: FAULT_COST,
        measured: costs.summary()?,
        required: Some(Costs::required()),
        met: too_much.is_empty(),
        method: "7.3 guest, 1 CPU, 1 instruction = 1 ns; the same storm of anonymous faults with tracer and bpftrace in turns, each beside nobody",
        notes,
        figures,
    }])
}

/// Boots a guest and gives each its turns; the costs, and the versions of the peers.
pub(super) fn measure(turns: &Turns) -> Result<(Costs, Vec<String>)> {
    let frame = Frame::new(&["bpftrace"], &["opstorm"])?.counted();
    let label = format!(
        "faults in {} ways, {} turns each",
        turns.observers.len() + 1,
        turns.rounds
    );
    let costs = frame.run(&label, &turns.script(), |out| Costs::read_of(turns, out))?;
    Ok((costs, frame.versions))
}

/// How many places tracer looked at, by mechanism, as `tracer doctor --json` has it.
fn mechanisms(doctor: &Value) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let operations = doctor["operations"].as_array().into_iter().flatten();
    for site in operations.flat_map(|operation| operation["sites"].as_array().into_iter().flatten()) {
        match site["mechanism"].as_str() {
            None | Some("none") => {}
            Some(mechanism) => *found.entry(mechanism.to_owned()).or_default() += 1,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(tracer: f64, histogram: f64) -> Costs {
        let storms = |cpu| {
            let took = Took { cpu, wall: 2.0 * cpu };
            Storms(vec![took; 3])
        };
        let all = OBSERVERS
            .iter()
            .zip([tracer, 9000.0, 8500.0, 8400.0, histogram, 8100.0]);
        let all = all.map(|(observer, cpu)| Cost {
            observer,
            storms: storms(cpu),
        });
        Costs {
            all: all.collect(),
            none: storms(8000.0),
            places: BTreeMap::from([("kprobe".to_owned(), 7)]),
        }
    }

    #[test]
    fn ratios_are_of_what_is_added() {
        let costs = costs(10_000.0, 9000.0);
        assert_eq!(costs.by_none().unwrap(), 1.25);
        assert_eq!(costs.by_histogram(TRACER).unwrap(), 2.0);
        assert_eq!(costs.by_histogram(SUMMARY).unwrap(), 0.4);
        let goals = costs.goals().unwrap();
        assert!(
            goals[0].ends_with("1.00 ×, not reached") && goals[2].ends_with("0.40 ×, reached"),
            "{goals:?}"
        );
        let table = costs.table().unwrap().join("\n");
        assert!(
            table.contains("10,000") && table.contains("2.00") && table.contains("7 by kprobe"),
            "{table}"
        );
    }

    #[test]
    fn much_more_than_is_written_down_is_told() {
        assert!(costs(10_900.0, 9000.0).too_much().unwrap().is_empty());
        let told = costs(11_000.0, 9000.0).too_much().unwrap();
        assert_eq!(
            told,
            ["tracer record, all probes: adds 3,000 instructions to a fault instead of 2,676"]
        );
    }

    #[test]
    fn a_peer_that_costs_nothing_was_not_there() {
        let error = costs(10_000.0, 8000.0)
            .by_histogram(TRACER)
            .unwrap_err()
            .to_string();
        assert!(error.contains("not measured"), "{error}");
    }

    #[test]
    fn who_saw_too_little_is_found_out() {
        let read = |name: &str, said: &str| {
            let observer = OBSERVERS.iter().find(|one| one.name == name).unwrap();
            (observer.read)(said).and_then(|seen| saw_all(seen, 25_600))
        };
        let tracer = |ends: u64, dropped: u64| {
            let stats = json!({"events": {"dropped": dropped, "missing": 0, "missed": 0, "by_kind": {"fault_end": ends}}});
            read(TRACER, &stats.to_string())
        };
        assert!(tracer(25_600, 0).is_ok());
        assert!(tracer(25_599, 0).is_err());
        assert!(tracer(25_600, 1).is_err());
        assert!(tracer(0, 0).is_err());
        let attached = "{\"type\": \"attached_probes\", \"data\": {\"probes\": 2}}\n";
        let hist = |last: u64| {
            let data = json!({"type": "hist", "data": {"@held": [
                {"min": 1024, "max": 2047, "count": 600}, {"min": 2048, "max": 4095, "count": last}]}});
            read(HISTOGRAM, &format!("{attached}{data}\n"))
        };
        assert!(hist(25_000).is_ok());
        assert!(hist(24_999).is_err());
        let counter = format!(
            "{attached}{}\n",
            json!({"type": "map", "data": {"@faults": 25_600}})
        );
        assert!(read("counter", &counter).is_ok());
        assert!(read("counter", attached).is_err());
        let holds = |holds: u64| {
            let stats =
                json!({"events": {"dropped": 0, "missing": 0, "missed": 0, "by_kind": {"hold": holds}}});
            read(HOLDS, &stats.to_string())
        };
        assert!(holds(25_600).is_ok());
        assert!(holds(25_599).is_err());
        let sums = |count: u64, missed: u64| {
            let sums = json!({"holds": {"vma_read": {"count": count}}, "lost": {"missed": missed}});
            read(SUMMARY, &sums.to_string())
        };
        assert!(sums(25_600, 0).is_ok());
        assert!(sums(25_599, 0).is_err());
        assert!(sums(25_600, 1).is_err());
    }

    #[test]
    fn mechanisms_are_counted() {
        let doctor = json!({"operations": [
            {"sites": [{"mechanism": "fentry"}, {"mechanism": "none"}]},
            {"sites": [{"mechanism": "fentry"}, {"mechanism": "kprobe"}]}]});
        let found = mechanisms(&doctor);
        assert_eq!(
            found,
            BTreeMap::from([("fentry".to_owned(), 2), ("kprobe".to_owned(), 1)])
        );
    }
}
