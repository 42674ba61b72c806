//! What a page fault costs while it is traced: without anybody, with all of tracer's probes, and with bpftrace looking
//! at the same faults, all in one guest, in turns.
//!
//! The guest's time advances with its instructions (`-icount`), so a nanosecond is an instruction and two runs differ
//! hardly. `faultstorm` takes the time inside the guest, of its own thread and of the clock on the wall: since there is one
//! processor, the latter has in it what runs besides, such as the recorder.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Row, thousands};
use crate::vm::{Guest, Tools};
use crate::{build, kernels, peers, ui, ws};

pub(super) const FAULT_COST: &str = "fault-cost";

const KERNEL: &str = "7.3";
/// How often each mode has its turn.
const ROUNDS: usize = 3;
/// Storms in a turn.
const STORMS: usize = 5;
/// Faults in a storm.
const FAULTS: u64 = 5120;

/// Instructions that tracer may add to a fault, as a multiple of what bpftrace's histogram adds.
const MOST_OF_HISTOGRAM: f64 = 2.5;
/// Instructions of a traced fault, as a multiple of those of an untraced one.
const MOST_OF_NONE: f64 = 1.6;

/// Who looks at the faults, in the order in which they have their turns.
const MODES: [Mode; 6] = [
    NOBODY,
    Mode {
        name: TRACER,
        label: "tracer record, all probes",
        who: Who::Tracer { args: "", sees: true },
    },
    Mode {
        name: HOLDS,
        label: "tracer record, mode holds",
        who: Who::Tracer {
            args: "--mode holds",
            sees: true,
        },
    },
    Mode {
        name: SUMMARY,
        label: "tracer stats, mode summary",
        who: Who::Sums("summary"),
    },
    Mode {
        name: HISTOGRAM,
        label: "bpftrace, histogram of holds",
        // Acquire and release of the same lock, paired in the kernel: the least that tells how long it was held.
        who: Who::Bpftrace {
            program: "fexit:vmlinux:lock_vma_under_rcu /retval/ { @at[tid] = nsecs; } \
                 fexit:vmlinux:handle_mm_fault /@at[tid]/ { @held = hist(nsecs - @at[tid]); delete(@at[tid]); }",
            sysctl: None,
        },
    },
    Mode {
        name: "counter",
        label: "bpftrace, number of faults",
        who: Who::Bpftrace {
            program: "fexit:vmlinux:handle_mm_fault { @faults = count(); }",
            sysctl: None,
        },
    },
];

/// What all others are compared with.
pub(super) const NOBODY: Mode = Mode {
    name: NONE,
    label: "nobody",
    who: Who::Nobody,
};
const NONE: &str = "none";
const TRACER: &str = "tracer";
const HOLDS: &str = "holds";
const SUMMARY: &str = "summary";
const HISTOGRAM: &str = "histogram";

/// One way to look at the faults.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mode {
    /// As files and JSON have it.
    pub(super) name: &'static str,
    /// As a person reads it.
    pub(super) label: &'static str,
    /// Who does it.
    pub(super) who: Who,
}

/// Who looks at the faults.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Nobody.
    Nobody,
    /// `tracer record` with arguments; if it `sees`, every fault has to be in the recording.
    Tracer { args: &'static str, sees: bool },
    /// `tracer stats` in a mode in which the kernel pairs by itself; every fault has to be among its holds.
    Sums(&'static str),
    /// bpftrace with a program that counts every fault in a map. `ADDRESS` in it is that of `handle_mm_fault`, and
    /// `OFFSET` of an instruction in `lock_vma_under_rcu`. The setting is for its turn only: one that is 1 otherwise.
    Bpftrace {
        program: &'static str,
        sysctl: Option<&'static str>,
    },
}

impl Who {
    /// The line of the guest's script that gives it its turn.
    fn turn(&self, name: &str) -> String {
        match self {
            Self::Nobody => format!("storm {name}"),
            Self::Tracer { args, .. } => format!("trace {name} {args}"),
            Self::Sums(mode) => format!("sums {name} {mode}"),
            Self::Bpftrace { program, sysctl } => {
                let turn = format!("peer {name} '{program}'");
                match sysctl {
                    None => turn,
                    Some(key) => {
                        format!("sysctl -q -w {key}=0 || exit 1\n  {turn}\n  sysctl -q -w {key}=1 || exit 1")
                    }
                }
            }
        }
    }

    /// Did it see every fault of every storm? There are others in the guest, so there may be more.
    fn saw_all(&self, said: &str) -> Result<()> {
        let seen = match self {
            Self::Nobody => return Ok(()),
            Self::Tracer { sees, .. } => {
                let stats: Value = serde_json::from_str(said).context("what `tracer stats` said")?;
                let count = |at: &str| stats.pointer(at).and_then(Value::as_u64);
                for lost in ["/events/dropped", "/events/missing", "/events/missed"] {
                    ensure!(count(lost) == Some(0), "{lost} is {:?}", stats.pointer(lost));
                }
                if !sees {
                    return Ok(());
                }
                let kinds = ["fault_end", "hold"].map(|kind| count(&format!("/events/by_kind/{kind}")));
                kinds.into_iter().flatten().max().unwrap_or(0)
            }
            Self::Sums(_) => {
                let report: Value = serde_json::from_str(said).context("what `tracer stats` said")?;
                ensure!(
                    report["lost"]["missed"] == 0,
                    "the kernel skipped runs: {}",
                    report["lost"]
                );
                report["holds"]["vma_read"]["count"].as_u64().unwrap_or(0)
            }
            Self::Bpftrace { .. } => counted(said),
        };
        let storms = FAULTS * STORMS as u64;
        ensure!(
            seen >= storms,
            "{} faults were made, and {} were seen",
            thousands(storms),
            thousands(seen)
        );
        Ok(())
    }
}

/// What bpftrace counted in its map, or in its histogram.
fn counted(said: &str) -> u64 {
    let values = said
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let maps = values.filter_map(|value| value["data"].as_object().cloned());
    let sums = maps.flatten().filter(|(name, _)| name.starts_with('@'));
    let sums = sums.map(|(_, value)| match value {
        Value::Array(buckets) => buckets.iter().filter_map(|b| b["count"].as_u64()).sum(),
        value => value.as_u64().unwrap_or(0),
    });
    sums.max().unwrap_or(0)
}

/// Each has its turn, and says at its end how many faults it saw. A peer says that it attaches and not that it has;
/// whoever came too late has seen too few. To sleep costs nothing here.
const SCRIPT: &str = r#"
storm() { faultstorm --faults FAULTS --rounds STORMS > /out/$1.$round || exit 1; }
tell() { echo "$1 ended early:"; cat $2; exit 1; }
trace() {
  name=$1; shift
  tracer record -o /tmp/a.rec "$@" 2> /out/$name.$round.err & t=$!
  until test -s /tmp/a.rec; do
    kill -0 $t 2> /dev/null || tell tracer /out/$name.$round.err >&2; sleep 0.1
  done
  sleep 1; storm $name; kill -INT $t; wait $t || exit 1
  tracer stats --json /tmp/a.rec > /out/$name.$round.said || exit 1
  rm /tmp/a.rec
}
sums() {
  tracer stats --mode $2 --json > /out/$1.$round.said 2> /out/$1.$round.err & t=$!
  sleep 20
  kill -0 $t 2> /dev/null || tell tracer /out/$1.$round.err >&2
  storm $1; kill -INT $t; wait $t || exit 1
}
peer() {
  program=$(echo "$2" | sed "s/ADDRESS/$address/; s/OFFSET/$offset/")
  bpftrace -f json -e "$program" > /out/$1.$round.said 2> /out/$1.$round.err & p=$!
  until grep -q attached_probes /out/$1.$round.said; do
    kill -0 $p 2> /dev/null || tell bpftrace /out/$1.$round.err >&2; sleep 0.1
  done
  sleep 3; storm $1; kill -INT $p; wait $p || exit 1
}
address=0x$(awk '$3 == "handle_mm_fault" { print $1 }' /proc/kallsyms)
for offset in $(seq 6 64); do
  echo "p:probe lock_vma_under_rcu+$offset" 2> /dev/null > /sys/kernel/tracing/kprobe_events && break
done
echo > /sys/kernel/tracing/kprobe_events
sleep 3
for round in ROUNDS; do
  TURNS
done
tracer doctor --json > /out/doctor.json || exit 1
"#;

/// What a storm took, in nanoseconds, each of which is an instruction.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Storm {
    /// Of the thread that faulted, a fault.
    cpu: f64,
    /// Of everybody, a fault.
    wall: f64,
}

/// What all storms under one pair of eyes took.
#[derive(Debug)]
pub(super) struct Cost {
    /// Who looked.
    pub(super) mode: &'static Mode,
    storms: Vec<Storm>,
}

impl Cost {
    /// Instructions a fault, of the thread that faulted.
    pub(super) fn cpu(&self) -> f64 {
        median(self.storms.iter().map(|storm| storm.cpu))
    }

    /// The same, of everybody.
    fn wall(&self) -> f64 {
        median(self.storms.iter().map(|storm| storm.wall))
    }

    /// Least and most.
    fn range(&self) -> (f64, f64) {
        let all = self.storms.iter().map(|storm| storm.cpu);
        (all.clone().fold(f64::MAX, f64::min), all.fold(0.0, f64::max))
    }
}

/// What came of a guest: a cost for each mode.
#[derive(Debug)]
pub(crate) struct Costs {
    pub(super) all: Vec<Cost>,
    /// Places that tracer looked at, by mechanism: a cost means nothing without.
    places: BTreeMap<String, u64>,
}

/// Makes a guest one that measures; its `/out` has to go somewhere. Returns the versions of the peers in it.
pub(crate) fn prepare(guest: &mut Guest) -> Result<Vec<String>> {
    let peers = peers::get(&["bpftrace"])?;
    guest.adds.extend(peers.adds);
    guest
        .adds
        .push((build::guest_bin("faultstorm")?, "/usr/bin/faultstorm".to_owned()));
    guest.icount = true;
    guest.smp = 1;
    // The peer and its libraries are 300 MB, twice while they are unpacked.
    guest.mem = 3072;
    guest.timeout = Duration::from_secs(900);
    Ok(peers.versions)
}

/// What the guest runs, with so many turns for each.
pub(crate) fn script(rounds: usize) -> String {
    script_of(&MODES, rounds)
}

/// The same for other modes.
pub(super) fn script_of(modes: &[Mode], rounds: usize) -> String {
    let numbers: Vec<String> = (1..=rounds).map(|n| n.to_string()).collect();
    let turns: Vec<String> = modes.iter().map(|mode| mode.who.turn(mode.name)).collect();
    SCRIPT
        .replace("FAULTS", &FAULTS.to_string())
        .replace("STORMS", &STORMS.to_string())
        .replace("ROUNDS", &numbers.join(" "))
        .replace("TURNS", &turns.join("\n  "))
}

impl Costs {
    /// Reads what the guest left; an error if somebody who should have looked saw too little.
    pub(crate) fn read(out: &Path, rounds: usize) -> Result<Self> {
        Self::read_of(&MODES, out, rounds)
    }

    /// The same for other modes.
    pub(super) fn read_of(modes: &'static [Mode], out: &Path, rounds: usize) -> Result<Self> {
        let text = |name: &str| {
            fs::read_to_string(out.join(name)).with_context(|| format!("the guest left no {name}"))
        };
        let mut all = Vec::new();
        for mode in modes {
            let mut cost = Cost {
                mode,
                storms: Vec::new(),
            };
            for round in 1..=rounds {
                let name = format!("{}.{round}", mode.name);
                cost.storms
                    .extend(storms(&text(&name)?).with_context(|| format!("in {name}"))?);
                if mode.who != Who::Nobody {
                    let said = text(&format!("{name}.said"))?;
                    let seen = mode.who.saw_all(&said);
                    seen.with_context(|| format!("{}, turn {round}", mode.label))?;
                }
            }
            all.push(cost);
        }
        let doctor: Value = serde_json::from_str(&text("doctor.json")?).context("what doctor said")?;
        let places = mechanisms(&doctor);
        ensure!(
            !places.is_empty(),
            "tracer doctor names no place that tracer looks at: {doctor}"
        );
        Ok(Self { all, places })
    }

    fn of(&self, name: &str) -> Result<&Cost> {
        let found = self.all.iter().find(|cost| cost.mode.name == name);
        found.with_context(|| format!("nothing was measured for {name}"))
    }

    /// Instructions that a mode adds to a fault.
    pub(super) fn added(&self, name: &str) -> Result<f64> {
        Ok(self.of(name)?.cpu() - self.of(NONE)?.cpu())
    }

    /// A traced fault's instructions by an untraced one's.
    pub(crate) fn by_none(&self) -> Result<f64> {
        Ok(self.of(TRACER)?.cpu() / self.of(NONE)?.cpu())
    }

    /// What tracer adds by what bpftrace's histogram adds.
    pub(crate) fn by_histogram(&self) -> Result<f64> {
        let theirs = self.added(HISTOGRAM)?;
        ensure!(
            theirs > 0.0,
            "a fault under bpftrace's histogram took no longer than an untraced one: it was not measured"
        );
        Ok(self.added(TRACER)? / theirs)
    }

    /// Is it within what is tolerated?
    pub(crate) fn tolerable(&self) -> Result<bool> {
        Ok(self.by_none()? <= MOST_OF_NONE && self.by_histogram()? <= MOST_OF_HISTOGRAM)
    }

    /// In a line.
    pub(crate) fn summary(&self) -> Result<String> {
        Ok(format!(
            "{} instructions a fault with all probes, {:.2} × untraced; adds {:.2} × what bpftrace's histogram adds",
            whole(self.of(TRACER)?.cpu()),
            self.by_none()?,
            self.by_histogram()?
        ))
    }

    /// What is required, in a line.
    pub(crate) fn required() -> String {
        format!("at most {MOST_OF_NONE} × untraced, adds at most {MOST_OF_HISTOGRAM} × bpftrace's histogram")
    }

    /// A table, a line each.
    pub(crate) fn table(&self) -> Result<Vec<String>> {
        let none = self.of(NONE)?;
        let theirs = self.added(HISTOGRAM)?;
        let mut lines = vec![format!(
            "{:<30}{:>12}{:>9}{:>11}{:>14}{:>12}{:>12}",
            "instructions a fault", "its thread", "added", "× nobody", "× histogram", "everybody", "× nobody"
        )];
        for cost in &self.all {
            let mut line = format!("{:<30}{:>12}", cost.mode.label, whole(cost.cpu()));
            if cost.mode.who == Who::Nobody {
                line += &format!("{:>46}", whole(cost.wall()));
            } else {
                let added = self.added(cost.mode.name)?;
                line += &format!(
                    "{:>9}{:>11.3}{:>14.2}{:>12}{:>12.3}",
                    whole(added),
                    cost.cpu() / none.cpu(),
                    added / theirs,
                    whole(cost.wall()),
                    cost.wall() / none.wall()
                );
            }
            lines.push(line);
        }
        let spreads: Vec<String> = self
            .all
            .iter()
            .map(|cost| {
                let (least, most) = cost.range();
                format!("{} {} to {}", cost.mode.name, whole(least), whole(most))
            })
            .collect();
        lines.push(format!(
            "medians of {} storms of {} faults; least and most of its thread: {}",
            none.storms.len(),
            thousands(FAULTS),
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
        for cost in &self.all {
            let (least, most) = cost.range();
            let one = json!({
                "instructions": cost.cpu(), "least": least, "most": most,
                "added": self.added(cost.mode.name)?, "everybody": cost.wall(), "storms": cost.storms.len(),
            });
            modes.insert(cost.mode.name.to_owned(), one);
        }
        Ok(json!({
            "faults_a_storm": FAULTS, "modes": modes, "places": self.places,
            "by_none": self.by_none()?, "by_none_most": MOST_OF_NONE,
            "by_histogram": self.by_histogram()?, "by_histogram_most": MOST_OF_HISTOGRAM,
            "everybody_by_none": self.of(TRACER)?.wall() / self.of(NONE)?.wall(),
        }))
    }
}

/// Measures the row.
pub(super) fn run() -> Result<Vec<Row>> {
    let (costs, versions) = measure(&MODES, ROUNDS)?;
    let mut notes = costs.table()?;
    notes.push(format!("compared with {}", versions.join(", ")));
    let mut figures = costs.json()?;
    figures["peers"] = json!(versions);
    Ok(vec![Row {
        name: FAULT_COST,
        measured: costs.summary()?,
        required: Some(Costs::required()),
        met: costs.tolerable()?,
        method: "7.3 guest, 1 CPU, 1 instruction = 1 ns; the same storm of anonymous faults with nobody, tracer, bpftrace in turns",
        notes,
        figures,
    }])
}

/// Boots a guest and gives each mode its turns; the costs, and the versions of the peers.
pub(super) fn measure(modes: &'static [Mode], rounds: usize) -> Result<(Costs, Vec<String>)> {
    let kernel = kernels::get(KERNEL)?;
    let tools = Tools::get(true)?;
    let scratch = ws::Scratch::new(Some(&ws::target().join("bench")))?;
    let mut guest = Guest::new(kernel, tools);
    guest.out = Some(scratch.path().to_owned());
    let versions = prepare(&mut guest)?;
    let outcome = ui::step(
        &format!(
            "guest {KERNEL}: faults in {} ways, {rounds} turns each",
            modes.len()
        ),
        || guest.sh(&script_of(modes, rounds)),
    )?;
    outcome.ended_well()?;
    Ok((Costs::read_of(modes, scratch.path(), rounds)?, versions))
}

/// The lines of `faultstorm`.
fn storms(said: &str) -> Result<Vec<Storm>> {
    let mut storms = Vec::new();
    for line in said.lines() {
        let told: Value = serde_json::from_str(line).with_context(|| format!("faultstorm said {line:?}"))?;
        let number = |name: &str| {
            let number = told[name].as_f64().filter(|number| *number > 0.0);
            number.with_context(|| format!("faultstorm told no {name} in {line:?}"))
        };
        let faults = number("faults")?;
        storms.push(Storm {
            cpu: number("cpu_ns")? / faults,
            wall: number("wall_ns")? / faults,
        });
    }
    ensure!(
        storms.len() == STORMS,
        "faultstorm told {} storms instead of {STORMS}",
        storms.len()
    );
    Ok(storms)
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

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = numbers.collect();
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

/// A number of instructions as a person reads it.
fn whole(number: f64) -> String {
    let sign = if number < 0.0 { "-" } else { "" };
    format!("{sign}{}", thousands(number.abs().round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(tracer: f64, histogram: f64) -> Costs {
        let cost = |mode, cpu| Cost {
            mode,
            storms: vec![Storm { cpu, wall: 2.0 * cpu }; 3],
        };
        Costs {
            all: vec![
                cost(&MODES[0], 8000.0),
                cost(&MODES[1], tracer),
                cost(&MODES[2], 8500.0),
                cost(&MODES[3], 8400.0),
                cost(&MODES[4], histogram),
                cost(&MODES[5], 8100.0),
            ],
            places: BTreeMap::from([("kprobe".to_owned(), 7)]),
        }
    }

    #[test]
    fn ratios_are_of_what_is_added() {
        let costs = costs(10_000.0, 9000.0);
        assert_eq!(costs.by_none().unwrap(), 1.25);
        assert_eq!(costs.by_histogram().unwrap(), 2.0);
        assert!(costs.tolerable().unwrap());
        let table = costs.table().unwrap().join("\n");
        assert!(
            table.contains("10,000") && table.contains("2.00") && table.contains("7 by kprobe"),
            "{table}"
        );
    }

    #[test]
    fn too_much_of_either_is_not_tolerated() {
        assert!(!costs(13_000.0, 12_000.0).tolerable().unwrap());
        assert!(!costs(10_600.0, 9000.0).tolerable().unwrap());
    }

    #[test]
    fn a_peer_that_costs_nothing_was_not_there() {
        let error = costs(10_000.0, 8000.0).by_histogram().unwrap_err().to_string();
        assert!(error.contains("not measured"), "{error}");
    }

    #[test]
    fn storms_are_read_whole_or_not_at_all() {
        let line = "{\"cpu_ns\":51200,\"faults\":5120,\"wall_ns\":102400}\n";
        let read = storms(&line.repeat(STORMS)).unwrap();
        assert_eq!(
            read[0],
            Storm {
                cpu: 10.0,
                wall: 20.0
            }
        );
        assert!(storms(line).is_err());
        assert!(storms(&line.replace("51200", "0").repeat(STORMS)).is_err());
    }

    #[test]
    fn who_saw_too_little_is_found_out() {
        let tracer = |ends: u64, dropped: u64| {
            let stats = json!({"events": {"dropped": dropped, "missing": 0, "missed": 0, "by_kind": {"fault_end": ends}}});
            MODES[1].who.saw_all(&stats.to_string())
        };
        assert!(tracer(25_600, 0).is_ok());
        assert!(tracer(25_599, 0).is_err());
        assert!(tracer(25_600, 1).is_err());
        let attached = "{\"type\": \"attached_probes\", \"data\": {\"probes\": 2}}\n";
        let hist = |last: u64| {
            let data = json!({"type": "hist", "data": {"@held": [
                {"min": 1024, "max": 2047, "count": 600}, {"min": 2048, "max": 4095, "count": last}]}});
            MODES[4].who.saw_all(&format!("{attached}{data}\n"))
        };
        assert!(hist(25_000).is_ok());
        assert!(hist(24_999).is_err());
        let counter = format!(
            "{attached}{}\n",
            json!({"type": "map", "data": {"@faults": 25_600}})
        );
        assert!(MODES[5].who.saw_all(&counter).is_ok());
        assert!(MODES[5].who.saw_all(attached).is_err());
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

    #[test]
    fn the_script_is_whole() {
        let script = script(2);
        assert!(script.contains("for round in 1 2; do"));
        for word in ["FAULTS", "STORMS", "ROUNDS", "TURNS"] {
            assert!(!script.contains(word), "{word} is left in\n{script}");
        }
        assert!(
            script.contains(
                "  trace tracer \n  trace holds --mode holds\n  sums summary summary\n  peer histogram '"
            ),
            "{script}"
        );
    }
}
