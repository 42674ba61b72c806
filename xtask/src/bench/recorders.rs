//! What a recording costs beside those of `perf record` and `trace-cmd record`: the same three tracepoints of the
//! `mmap_lock`, the same storm, all in one guest, in turns. Bytes, processor time, and processor time until it is text.
//!
//! It is done in two guests, since neither tells all. In the first, time is counted in instructions, as in
//! [`fault_cost`](super::fault_cost): a busy machine changes nothing there, but all pairs take the same time to the
//! nanosecond, and whoever packs times packs those to next to nothing. In the second, with two processors, time is the
//! clock's: files have the size that they have elsewhere, and losses are those of two processors, but its processor time
//! hangs on what else this machine does. Figures are compared within a guest only.
//!
//! Each storm comes in two sizes: what the larger one takes more is that of its events, and what is left is that of
//! starting and stopping, which differs much between recorders.

pub(super) mod said;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use self::said::Lost;
use super::{Row, thousands};
use crate::vm::{Guest, Tools};
use crate::{build, kernels, peers, ui, ws};

pub(super) const RECORDERS: &str = "recorders";

const KERNEL: &str = "7.3";
/// How often each has its turn, in each size, in the guest that counts instructions and in the other.
const ROUNDS_COUNTED: usize = 2;
const ROUNDS_CLOCK: usize = 3;

/// Pairs of `mmap` and `munmap` in the two sizes of the storm, as files and scripts have them.
const SIZES: [(&str, u64); 2] = [("few", 500), ("many", 10_000)];
/// Events of a pair: start, acquired and released of both calls, and one more if `munmap` downgrades.
const EVENTS_A_PAIR: u64 = 6;
/// Events that one recorder may see and another not: they do not begin at the same instruction of the command's start.
const AT_THE_START: u64 = 50;

/// Who records.
struct Recorder {
    /// As files and JSON have it.
    name: &'static str,
    /// As a person reads it.
    label: &'static str,
    /// Records the command that follows, and its children, into `/tmp/f`.
    record: &'static str,
    /// Makes text of that, an event a line.
    text: &'static str,
    /// What each of these lines has in it, and no other, for `grep -E`.
    line: &'static str,
    /// Says what was lost.
    lost: &'static str,
    /// Reads it.
    read_lost: fn(&str) -> Result<Lost>,
}

/// The first is ours. Each as its manual has it for one command and its children, with the buffers and the format that it
/// takes by itself; perf's file is packed only when asked for, ours and trace-cmd's always.
static ALL: [Recorder; 4] = [
    Recorder {
        name: "tracer",
        label: "tracer record",
        record: "tracer record -o /tmp/f --only mmap_start,mmap_acquire,mmap_fail,mmap_release,mmap_downgrade --",
        text: "tracer export /tmp/f -f csv -o -",
        line: ",mmap_(start|acquire|fail|release|downgrade),",
        lost: "tracer stats --json /tmp/f",
        read_lost: said::lost_by_tracer,
    },
    Recorder {
        name: "perf",
        label: "perf record",
        record: "perf record -o /tmp/f -e mmap_lock:*",
        text: PERF_TEXT,
        line: PERF_LINE,
        lost: PERF_LOST,
        read_lost: said::lost_by_perf,
    },
    Recorder {
        name: "perf-z",
        label: "perf record -z",
        record: "perf record -z -o /tmp/f -e mmap_lock:*",
        text: PERF_TEXT,
        line: PERF_LINE,
        lost: PERF_LOST,
        read_lost: said::lost_by_perf,
    },
    Recorder {
        name: "trace-cmd",
        label: "trace-cmd record",
        record: "trace-cmd record -o /tmp/f -F -c -e mmap_lock",
        text: "trace-cmd report -i /tmp/f",
        line: " mmap_lock_",
        lost: "trace-cmd report -i /tmp/f --stat",
        read_lost: said::lost_by_trace_cmd,
    },
];

const PERF_TEXT: &str = "perf script -i /tmp/f";
const PERF_LINE: &str = " mmap_lock:mmap_lock_";
const PERF_LOST: &str = "perf report --stats -i /tmp/f";

/// Without a recorder, to be taken off.
const NOBODY: &str = "nobody";

/// `usage` tells what a command and its children took: outside, of recorder and storm together, and inside, of the storm,
/// in which the kernel's part of recording runs. What counts the events without a buffer is `perf stat`.
const SCRIPT: &str = r#"
set -f
tell() { echo "$1 failed:"; tail -n 20 $2; exit 1; }
turn() {
  at=/out/$1.$2.$round
  usage $at.all $4 usage $at.work mmapstorm --threads 1 --pairs $3 > $at.said 2>&1 || tell "$4" $at.said >&2
  test -n "$5" || return 0
  wc -c < /tmp/f > $at.bytes
  usage $at.text $5 > /tmp/text 2> $at.said || tell "$5" $at.said >&2
  grep -cE "$6" /tmp/text > $at.events
  wc -c < /tmp/text > $at.letters
  $7 > $at.lost 2>&1 || tell "$7" $at.lost >&2
  rm /tmp/f /tmp/text
}
kernel() {
  perf stat -x, -o /out/kernel.$1 -e mmap_lock:* usage /tmp/work mmapstorm --threads 1 --pairs $2 > /tmp/said 2>&1 ||
    tell "perf stat" /tmp/said >&2
}
sleep 1
KERNELS
for round in ROUNDS; do
  TURNS
done
"#;

fn script(rounds: usize) -> String {
    let mut turns = Vec::new();
    for (size, pairs) in SIZES {
        turns.push(format!("turn {NOBODY} {size} {pairs} '' ''"));
        for who in &ALL {
            let words = [who.record, who.text, who.line, who.lost].map(|word| format!("'{word}'"));
            turns.push(format!("turn {} {size} {pairs} {}", who.name, words.join(" ")));
        }
    }
    let rounds: Vec<String> = (1..=rounds).map(|n| n.to_string()).collect();
    SCRIPT
        .replace(
            "KERNELS",
            &SIZES
                .map(|(size, pairs)| format!("kernel {size} {pairs}"))
                .join("\n"),
        )
        .replace("ROUNDS", &rounds.join(" "))
        .replace("TURNS", &turns.join("\n  "))
}

/// What the turns of one recorder, or of nobody, in one size came to. Times in nanoseconds; what disturbs only ever
/// adds to them, so they are the least of all rounds, and the rest is that of the round with the median of bytes.
#[derive(Debug, Default, Clone, PartialEq)]
struct Taken {
    /// Of recorder and storm.
    all: f64,
    /// Of the storm.
    work: f64,
    text: f64,
    bytes: f64,
    letters: f64,
    events: u64,
    /// What the recorder says that it lost, the most of all rounds.
    lost: Lost,
    /// The fewest events of all rounds.
    fewest: u64,
}

impl Taken {
    fn read(out: &Path, name: &str, size: &str, rounds: usize, who: Option<&Recorder>) -> Result<Self> {
        let mut turns = Vec::new();
        for round in 1..=rounds {
            let text = |what: &str| {
                let file = format!("{name}.{size}.{round}.{what}");
                fs::read_to_string(out.join(&file)).with_context(|| format!("the guest left no {file}"))
            };
            let number = |what: &str| -> Result<u64> {
                let said = text(what)?;
                said.trim()
                    .parse()
                    .with_context(|| format!("{name} left {said:?} as {what}"))
            };
            let mut turn = Self {
                all: said::cpu(&text("all")?)?,
                work: said::cpu(&text("work")?)?,
                ..Self::default()
            };
            if let Some(who) = who {
                turn.text = said::cpu(&text("text")?)?;
                turn.bytes = number("bytes")? as f64;
                turn.letters = number("letters")? as f64;
                turn.events = number("events")?;
                turn.lost = (who.read_lost)(&text("lost")?).with_context(|| who.label)?;
            }
            turns.push(turn);
        }
        Self::of(turns)
    }

    /// All turns as one.
    fn of(mut turns: Vec<Self>) -> Result<Self> {
        let least = |of: fn(&Self) -> f64| turns.iter().map(of).fold(f64::MAX, f64::min);
        let (all, work, text) = (
            least(|turn| turn.all),
            least(|turn| turn.work),
            least(|turn| turn.text),
        );
        let mut lost = Lost::new();
        for (way, count) in turns.iter().flat_map(|turn| &turn.lost) {
            let most = lost.entry(way).or_default();
            *most = (*most).max(*count);
        }
        let fewest = turns.iter().map(|turn| turn.events).min().unwrap_or(0);
        turns.sort_by(|a, b| a.bytes.total_cmp(&b.bytes));
        let middle = turns.get(turns.len() / 2).context("no turn was made")?;
        Ok(Self {
            all,
            work,
            text,
            lost,
            fewest,
            ..middle.clone()
        })
    }
}

impl Taken {
    fn lost(&self) -> u64 {
        self.lost.values().sum()
    }

    /// In words.
    fn losses(&self) -> String {
        let ways = self.lost.iter().filter(|(_, count)| **count > 0);
        let ways: Vec<_> = ways
            .map(|(way, count)| format!("{} {way}", thousands(*count)))
            .collect();
        if ways.is_empty() {
            "none".to_owned()
        } else {
            ways.join(", ")
        }
    }
}

/// What an event takes.
#[derive(Debug, Clone, PartialEq)]
struct Each {
    bytes: f64,
    /// Nanoseconds of the recorder's own processes.
    own: f64,
    /// Nanoseconds that it adds to the storm.
    added: f64,
    /// Nanoseconds until it is text.
    text: f64,
}

/// What can be compared, as JSON has it.
type Measure = fn(&Each) -> f64;
const BYTES: Measure = |each| each.bytes;
const CPU: Measure = |each| each.own + each.added;
const TEXT: Measure = |each| each.text;
const MEASURES: [(&str, Measure); 3] = [("bytes", BYTES), ("cpu_ns", CPU), ("text_ns", TEXT)];

impl Each {
    /// Of all events of the larger storm, with starting and stopping.
    fn whole(taken: &Taken, nobody: &Taken) -> Self {
        Self::by(
            taken.events as f64,
            taken.bytes,
            taken.text,
            taken.work - nobody.work,
            taken.all - nobody.all,
        )
    }

    /// Of each event that the larger storm has more.
    fn further(few: &Taken, many: &Taken, nobody: [&Taken; 2]) -> Result<Self> {
        ensure!(
            many.events > few.events,
            "the larger storm has no more events in it than the smaller one"
        );
        Ok(Self::by(
            (many.events - few.events) as f64,
            many.bytes - few.bytes,
            many.text - few.text,
            (many.work - nobody[1].work) - (few.work - nobody[0].work),
            (many.all - nobody[1].all) - (few.all - nobody[0].all),
        ))
    }

    fn by(events: f64, bytes: f64, text: f64, added: f64, all: f64) -> Self {
        Self {
            bytes: bytes / events,
            own: (all - added) / events,
            added: added / events,
            text: text / events,
        }
    }

    fn json(&self) -> Value {
        json!({
            "bytes": self.bytes, "cpu_ns": self.own + self.added, "recorder_cpu_ns": self.own,
            "workload_cpu_ns": self.added, "text_ns": self.text,
        })
    }
}

/// Each of the further events, or of all.
type Of = fn(&Figures) -> &Each;
const FURTHER: Of = |figures| &figures.further;
const WHOLE: Of = |figures| &figures.whole;

/// One recorder in one guest.
struct Figures {
    who: &'static Recorder,
    few: Taken,
    many: Taken,
    further: Each,
    whole: Each,
}

/// One guest.
struct Booted {
    all: Vec<Figures>,
    /// Events that the kernel counted, in each size.
    counted: [u64; 2],
}

impl Booted {
    fn read(out: &Path, rounds: usize) -> Result<Self> {
        let [few, many] = SIZES.map(|(size, pairs)| -> Result<u64> {
            let file = format!("kernel.{size}");
            let said =
                fs::read_to_string(out.join(&file)).with_context(|| format!("the guest left no {file}"))?;
            let count = said::counted(&said)?;
            ensure!(
                count >= pairs * EVENTS_A_PAIR,
                "{pairs} pairs of mmap and munmap were made, and the kernel counted {count} events"
            );
            Ok(count)
        });
        let counted = [few?, many?];
        let sizes = |name: &str, who: Option<&Recorder>| -> Result<[Taken; 2]> {
            let [few, many] = SIZES.map(|(size, _)| Taken::read(out, name, size, rounds, who));
            Ok([few?, many?])
        };
        let nobody = sizes(NOBODY, None)?;
        let mut all = Vec::new();
        for who in &ALL {
            let [few, many] = sizes(who.name, Some(who))?;
            all.push(Figures::new(who, few, many, [&nobody[0], &nobody[1]])?);
        }
        Ok(Self { all, counted })
    }

    /// Our figure by that of a peer.
    fn ratio(&self, peer: &Figures, of: Of, measure: Measure) -> f64 {
        let ours = self.all.first().map_or(f64::NAN, |ours| measure(of(ours)));
        ours / measure(of(peer))
    }

    fn peers(&self) -> impl Iterator<Item = &Figures> {
        self.all.iter().skip(1)
    }

    /// Our ratios to all peers, in words.
    fn ratios(&self, of: Of, measure: Measure) -> String {
        let all = self.peers().map(|peer| {
            let ratio = self.ratio(peer, of, measure);
            format!("{ratio:.2} × {}", peer.who.label)
        });
        all.collect::<Vec<_>>().join(", ")
    }

    /// Ours of something, in words, with its ratios.
    fn measured(&self, what: &str, digits: usize, measure: Measure) -> String {
        let ours = self.all.first().map_or(f64::NAN, |ours| measure(&ours.further));
        format!("{what} {ours:.digits$} ({})", self.ratios(FURTHER, measure))
    }

    /// What an event takes, with times where they mean something.
    fn table(&self, times: bool) -> Vec<String> {
        let mut lines = Vec::new();
        for (kind, of) in [("a further event", FURTHER), ("an event of the whole", WHOLE)] {
            let mut head = format!("    {kind:<24}{:>9}", "bytes");
            if times {
                head += &format!(
                    "{:>16}{:>14}{:>14}{:>14}",
                    "ns, recorder", "storm", "both", "text"
                );
            }
            lines.push(head);
            for figures in &self.all {
                let each = of(figures);
                let mut line = format!("      {:<22}{:>9.2}", figures.who.label, each.bytes);
                if times {
                    line += &format!(
                        "{:>16.0}{:>14.0}{:>14.0}{:>14.0}",
                        each.own,
                        each.added,
                        CPU(each),
                        each.text
                    );
                }
                lines.push(line);
            }
            let compared: &[(&str, Measure)] = &[("bytes", BYTES), ("both", CPU), ("text", TEXT)];
            for (what, measure) in &compared[..if times { 3 } else { 1 }] {
                lines.push(format!("      {what}: ours is {}", self.ratios(of, *measure)));
            }
        }
        lines
    }

    /// Who saw how much, in a line each.
    fn seen(&self) -> Vec<String> {
        let line = |figures: &Figures| {
            let sizes = [(&figures.few, self.counted[0]), (&figures.many, self.counted[1])];
            let seen = sizes.map(|(taken, counted)| {
                format!(
                    "{} of {}, lost {}",
                    thousands(taken.fewest),
                    thousands(counted),
                    taken.losses()
                )
            });
            let verdict = if figures.saw_all(self.counted) {
                ""
            } else {
                "; NOT ALL: its figures are those of what it saw"
            };
            format!(
                "    {}: recorded {}; {}{verdict}",
                figures.who.label, seen[0], seen[1]
            )
        };
        self.all.iter().map(line).collect()
    }

    /// Whoever did not see all, for the line of the row; empty if there is none.
    fn short(&self, how: &str) -> String {
        let short = self.all.iter().filter(|figures| !figures.saw_all(self.counted));
        let short = short.map(|figures| {
            format!(
                "; {how} {} recorded {} of {} events, lost {}",
                figures.who.label,
                thousands(figures.many.fewest),
                thousands(self.counted[1]),
                figures.many.losses()
            )
        });
        short.collect()
    }

    fn json(&self) -> Value {
        let mut all = Map::new();
        for figures in &self.all {
            let size = |taken: &Taken| {
                json!({
                    "events": taken.events, "fewest_events": taken.fewest, "lost": taken.lost, "bytes": taken.bytes,
                    "cpu_ns": taken.all, "workload_cpu_ns": taken.work, "text_cpu_ns": taken.text,
                    "text_bytes": taken.letters,
                })
            };
            let mut ours_by = Map::new();
            for (name, measure) in MEASURES {
                ours_by.insert(
                    name.to_owned(),
                    json!({
                        "further": self.ratio(figures, FURTHER, measure),
                        "whole": self.ratio(figures, WHOLE, measure),
                    }),
                );
            }
            all.insert(figures.who.name.to_owned(), json!({
                "record": figures.who.record, "text": figures.who.text, "few": size(&figures.few),
                "many": size(&figures.many), "further_event": figures.further.json(), "event": figures.whole.json(),
                "ours_by_this": ours_by, "saw_all": figures.saw_all(self.counted),
            }));
        }
        json!({"counted_by_kernel": self.counted, "recorders": all})
    }
}

impl Figures {
    fn new(who: &'static Recorder, few: Taken, many: Taken, nobody: [&Taken; 2]) -> Result<Self> {
        let further = Each::further(&few, &many, nobody).with_context(|| who.label)?;
        let whole = Each::whole(&many, nobody[1]);
        Ok(Self {
            who,
            few,
            many,
            further,
            whole,
        })
    }

    /// Did it lose nothing, by its own word and by the kernel's count?
    fn saw_all(&self, counted: [u64; 2]) -> bool {
        let sizes = [(&self.few, counted[0]), (&self.many, counted[1])];
        sizes
            .iter()
            .all(|(taken, counted)| taken.lost() == 0 && taken.fewest + AT_THE_START >= *counted)
    }
}

/// Measures the row.
pub(super) fn run() -> Result<Vec<Row>> {
    let peers = peers::get(&["perf", "trace-cmd"])?;
    let tools = Tools::get(true)?;
    let kernel = kernels::get(KERNEL)?;
    let mut programs = peers.adds;
    for name in ["mmapstorm", "usage"] {
        programs.push((build::guest_bin(name)?, format!("/usr/bin/{name}")));
    }
    let boot = |icount: bool, rounds: usize| {
        let mut guest = Guest::new(kernel.clone(), tools.clone());
        guest.adds.clone_from(&programs);
        guest.icount = icount;
        guest.smp = if icount { 1 } else { 2 };
        // The peers and their libraries are 300 MB, twice while they are unpacked; files and texts are in memory, too.
        guest.mem = 3072;
        guest.timeout = Duration::from_secs(1800);
        let how = if icount {
            "time counted in instructions"
        } else {
            "2 CPUs"
        };
        ui::step(
            &format!("guest {KERNEL}: recorders in turns, {how}, {rounds} of each"),
            || booted(guest, rounds).with_context(|| format!("in the guest with {how}")),
        )
    };
    let instructions = boot(true, ROUNDS_COUNTED)?;
    let clock = boot(false, ROUNDS_CLOCK)?;
    let mut notes = vec!["1 instruction = 1 ns, 1 CPU:".to_owned()];
    notes.extend(instructions.seen());
    notes.extend(instructions.table(true));
    notes.push("by the emulated clock, 2 CPUs:".to_owned());
    notes.extend(clock.seen());
    notes.extend(clock.table(false));
    notes.push(format!("compared with {}", peers.versions.join(", ")));
    Ok(vec![Row {
        name: RECORDERS,
        measured: format!(
            "{}; {}; {}{}{}",
            clock.measured("bytes an event", 2, BYTES),
            instructions.measured("instructions to record one", 0, CPU),
            instructions.measured("to make text of one", 0, TEXT),
            clock.short("by the clock"),
            instructions.short("by instructions"),
        ),
        method: "7.3 guests; the same storm of mmap and munmap recorded in turns by each; what 20 times as many pairs take more",
        notes,
        figures: json!({
            "icount": instructions.json(), "clock": clock.json(), "peers": peers.versions,
            "pairs": SIZES.map(|(_, pairs)| pairs), "rounds": {"icount": ROUNDS_COUNTED, "clock": ROUNDS_CLOCK},
        }),
        ..Row::default()
    }])
}

/// Boots a guest, and gives each recorder its turns.
fn booted(mut guest: Guest, rounds: usize) -> Result<Booted> {
    let scratch = ws::Scratch::new(Some(&ws::target().join("bench")))?;
    guest.out = Some(scratch.path().to_owned());
    let outcome = guest.sh(&script(rounds))?;
    outcome.ended_well()?;
    Booted::read(scratch.path(), rounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(all: f64, work: f64, text: f64, bytes: f64, events: u64) -> Taken {
        Taken {
            all,
            work,
            text,
            bytes,
            events,
            fewest: events,
            ..Taken::default()
        }
    }

    fn booted(theirs: [Taken; 2]) -> Booted {
        let nobody = [taken(20.0, 10.0, 0.0, 0.0, 0), taken(200.0, 190.0, 0.0, 0.0, 0)];
        let ours = [
            taken(1020.0, 110.0, 500.0, 400.0, 100),
            taken(2200.0, 690.0, 1400.0, 2200.0, 1000),
        ];
        let figures =
            |who, [few, many]: [Taken; 2]| Figures::new(who, few, many, [&nobody[0], &nobody[1]]).unwrap();
        Booted {
            all: vec![figures(&ALL[0], ours), figures(&ALL[1], theirs)],
            counted: [100, 1000],
        }
    }

    #[test]
    fn what_a_further_event_takes_is_without_starting_and_stopping() {
        let theirs = [
            taken(1020.0, 110.0, 500.0, 400.0, 100),
            taken(3000.0, 690.0, 3200.0, 9400.0, 1000),
        ];
        let booted = booted(theirs);
        let ours = &booted.all[0];
        assert_eq!(
            ours.further,
            Each {
                bytes: 2.0,
                own: 6.0 / 9.0,
                added: 4.0 / 9.0,
                text: 1.0
            }
        );
        assert_eq!(
            ours.whole,
            Each {
                bytes: 2.2,
                own: 1.5,
                added: 0.5,
                text: 1.4
            }
        );
        let ratio = |measure| booted.ratio(&booted.all[1], FURTHER, measure);
        assert_eq!(ratio(BYTES), 0.2);
        assert_eq!(ratio(TEXT), 1.0 / 3.0);
        assert!(
            booted
                .measured("bytes", 1, BYTES)
                .contains("2.0 (0.20 × perf record)")
        );
        assert_eq!(booted.short("by the clock"), "");
        assert_eq!(
            booted.json()["recorders"]["perf"]["ours_by_this"]["bytes"]["further"],
            0.2
        );
        assert!(
            booted
                .table(true)
                .join("\n")
                .contains("bytes: ours is 0.20 × perf record")
        );
    }

    #[test]
    fn who_lost_something_is_named_beside_its_figures() {
        let few = || taken(1020.0, 110.0, 500.0, 400.0, 100);
        let many = || taken(2200.0, 690.0, 1400.0, 2200.0, 1000);
        let less = booted([few(), taken(2200.0, 690.0, 1400.0, 2200.0, 600)]);
        assert_eq!(
            less.short("by the clock"),
            "; by the clock perf record recorded 600 of 1,000 events, lost none"
        );
        let lost = booted([
            few(),
            Taken {
                lost: Lost::from([("dropped", 1)]),
                ..many()
            },
        ]);
        assert!(!lost.short("by the clock").is_empty());
        assert!(lost.seen()[1].contains("NOT ALL"), "{:?}", lost.seen());
        assert!(!lost.seen()[0].contains("NOT ALL"));
        assert_eq!(lost.json()["recorders"]["perf"]["saw_all"], false);
    }

    #[test]
    fn a_storm_that_did_not_grow_is_no_measurement() {
        let few = taken(1.0, 1.0, 1.0, 1.0, 100);
        assert!(Each::further(&few, &few, [&few, &few]).is_err());
    }

    #[test]
    fn of_all_turns_the_least_time_and_the_worst_loss_count() {
        let turn = |all, bytes, lost| Taken {
            lost: Lost::from([("overrun", lost)]),
            ..taken(all, 1.0, 1.0, bytes, 7)
        };
        let one = Taken::of(vec![turn(5.0, 30.0, 0), turn(4.0, 10.0, 2), turn(6.0, 20.0, 1)]).unwrap();
        assert_eq!((one.all, one.bytes, one.lost()), (4.0, 20.0, 2));
        assert!(Taken::of(Vec::new()).is_err());
    }

    #[test]
    fn the_script_is_whole() {
        let script = script(2);
        assert!(script.contains("for round in 1 2; do"));
        for word in ["KERNELS", "ROUNDS", "TURNS"] {
            assert!(!script.contains(word), "{word} is left in\n{script}");
        }
        assert!(
            script.contains("\nkernel few 500\nkernel many 10000\n"),
            "{script}"
        );
        assert!(script.contains("  turn nobody many 10000 '' ''\n"), "{script}");
        assert!(
            script.contains("  turn perf few 500 'perf record -o /tmp/f -e mmap_lock:*' 'perf script "),
            "{script}"
        );
    }

    #[test]
    fn recorders_have_names_of_their_own() {
        for (at, one) in ALL.iter().enumerate() {
            assert!(
                ALL[..at]
                    .iter()
                    .all(|other| other.name != one.name && other.label != one.label)
            );
        }
    }
}
