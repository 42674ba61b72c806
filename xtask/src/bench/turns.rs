//! The frame of what is measured in guests: who looks at the same operations has its turn after another, each beside a
//! storm that nobody looks at.
//!
//! In a guest that counts instructions (`-icount`), a nanosecond is an instruction, and two runs differ hardly. `opstorm`
//! takes the time inside the guest, of its own thread and of the clock on the wall: since there is one processor, the
//! latter has in it what runs besides, such as the recorder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::thousands;
use crate::vm::{Guest, Tools};
use crate::{build, kernels, peers, ui, ws};

/// The kernel that all of this is measured on.
pub(super) const KERNEL: &str = "7.3";

/// One who looks, and how it is had to.
#[derive(Debug)]
pub(super) struct Observer {
    /// As files and JSON have it.
    pub(super) name: &'static str,
    /// As a person reads it.
    pub(super) label: &'static str,
    /// Its command, as the guest's shell reads it; ^C ends it. What it writes to standard output and standard error is
    /// in `/tmp/said` and `/tmp/err`.
    pub(super) command: &'static str,
    /// A command of the shell that succeeds once it looks. Whoever is believed too early has seen too few.
    pub(super) ready: &'static str,
    /// A command that tells, after its end, what it saw.
    pub(super) tell: &'static str,
    /// A setting of the kernel that is 0 for its turn only, and 1 otherwise.
    pub(super) without: Option<&'static str>,
    /// Reads what was told.
    pub(super) read: fn(&str) -> Result<Seen>,
}

/// What somebody says that it saw: at least that, since others may have done the same. None: it does not look at it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Events of the three `mmap_lock` tracepoints.
    pub(super) events: Option<u64>,
    /// Times that `mmap_lock` was held.
    pub(super) holds: Option<u64>,
    /// Page faults, or the VMA locks that they took.
    pub(super) faults: Option<u64>,
    /// What it says itself that it lost.
    pub(super) lost: u64,
}

/// What the guest does, and with whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turns {
    /// In this order.
    pub(super) observers: &'static [Observer],
    /// What is done, as `opstorm` calls it.
    pub(super) operations: &'static [&'static str],
    /// Times in a storm.
    pub(super) times: u32,
    /// Storms of each operation in a turn, and as many before it that nobody looks at.
    pub(super) storms: usize,
    /// Turns of each.
    pub(super) rounds: usize,
    /// What the guest does before.
    pub(super) first: &'static str,
    /// What it does at the end.
    pub(super) last: &'static str,
}

/// To sleep costs nothing where time is instructions, and elsewhere lets what was started come to rest.
const SCRIPT: &str = r#"
storm() { opstorm --times TIMES --rounds STORMS OPERATIONS > /out/$1 || exit 1; }
refused() { { tail -n 20 /tmp/err; tail -n 20 /tmp/said; } > /out/$1.refused; rm -f /tmp/f; }
turn() {
  at=$2.$round; rm -f /tmp/f
  storm $at.before
  ( start_$1 ) > /tmp/said 2> /tmp/err & p=$!
  until ready_$1; do
    kill -0 $p 2> /dev/null || { refused $at; return; }
    sleep 0.2
  done 2> /dev/null
  sleep 3
  storm $at.with
  kill -INT $p 2> /dev/null || { refused $at; return; }
  wait $p; echo $? > /out/$at.status
  tell_$1 > /out/$at.told 2> /out/$at.err
  rm -f /tmp/f
}
FUNCTIONS
FIRST
sleep 3
for round in ROUNDS; do
  TURNS
done
LAST
"#;

impl Turns {
    /// What the guest runs.
    pub(super) fn script(&self) -> String {
        let mut functions = Vec::new();
        let mut turns = Vec::new();
        for (at, one) in self.observers.iter().enumerate() {
            functions.push(format!("start_{at}() {{ exec {}\n}}", one.command));
            functions.push(format!("ready_{at}() {{ {}\n}}", one.ready));
            functions.push(format!("tell_{at}() {{ {}\n}}", one.tell));
            let turn = format!("turn {at} {}", one.name);
            turns.push(match one.without {
                None => turn,
                Some(key) => {
                    format!("sysctl -q -w {key}=0 || exit 1\n  {turn}\n  sysctl -q -w {key}=1 || exit 1")
                }
            });
        }
        let rounds: Vec<String> = (1..=self.rounds).map(|round| round.to_string()).collect();
        // Those of the tables last: they may use the other words.
        SCRIPT
            .replace("ROUNDS", &rounds.join(" "))
            .replace("FUNCTIONS", &functions.join("\n"))
            .replace("FIRST", self.first)
            .replace("LAST", self.last)
            .replace("TURNS", &turns.join("\n  "))
            .replace("TIMES", &self.times.to_string())
            .replace("STORMS", &self.storms.to_string())
            .replace("OPERATIONS", &self.operations.join(" "))
    }

    /// Times that each operation is done in a turn, the round that is not told included.
    pub(super) fn made(&self) -> u64 {
        u64::from(self.times) * (self.storms as u64 + 1)
    }

    /// What came of all turns of one observer.
    pub(super) fn read(&self, out: &Path, observer: &'static Observer) -> Result<Vec<Turn>> {
        let turns = (1..=self.rounds).map(|round| {
            let at = format!("{}.{round}", observer.name);
            self.turn(out, &at)
                .with_context(|| format!("{}, turn {round}", observer.label))
        });
        turns.collect()
    }

    fn turn(&self, out: &Path, at: &str) -> Result<Turn> {
        let text = |what: &str| {
            fs::read_to_string(out.join(format!("{at}.{what}")))
                .with_context(|| format!("the guest left no {at}.{what}"))
        };
        let before = self.storms_of(&text("before")?)?;
        if let Ok(why) = text("refused") {
            let why = crate::vm::plain(why.trim());
            return Ok(Turn {
                before,
                outcome: Outcome::Refused(why),
            });
        }
        let status = text("status")?;
        Ok(Turn {
            before,
            outcome: Outcome::Looked {
                with: self.storms_of(&text("with")?)?,
                told: text("told")?,
                err: crate::vm::plain(&text("err")?),
                status: status.trim().parse().context("an exit status")?,
            },
        })
    }

    /// The lines of `opstorm`, by operation.
    fn storms_of(&self, said: &str) -> Result<Storms> {
        let mut storms = Storms::new();
        for line in said.lines() {
            let told: Value = serde_json::from_str(line).with_context(|| format!("opstorm said {line:?}"))?;
            let number = |name: &str| {
                let number = told[name].as_f64().filter(|number| *number > 0.0);
                number.with_context(|| format!("opstorm told no {name} in {line:?}"))
            };
            let times = number("times")?;
            let name = told["operation"].as_str().unwrap_or_default();
            storms.entry(name.to_owned()).or_default().push(Took {
                cpu: number("cpu_ns")? / times,
                wall: number("wall_ns")? / times,
            });
        }
        for operation in self.operations {
            let told = storms.get(*operation).map_or(0, Vec::len);
            ensure!(
                told == self.storms,
                "opstorm told {told} storms of {operation} instead of {}",
                self.storms
            );
        }
        Ok(storms)
    }
}

/// What an operation took, in nanoseconds, each of which is an instruction where they are counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Took {
    /// Of the thread that did it.
    pub(super) cpu: f64,
    /// Of everybody.
    pub(super) wall: f64,
}

impl Took {
    /// The medians of both.
    pub(super) fn median<'a>(all: impl Iterator<Item = &'a Self> + Clone) -> Self {
        Self {
            cpu: median(all.clone().map(|took| took.cpu)),
            wall: median(all.map(|took| took.wall)),
        }
    }
}

/// Storms by operation.
pub(super) type Storms = BTreeMap<String, Vec<Took>>;

/// One turn of one observer.
#[derive(Debug)]
pub(super) struct Turn {
    /// What the storms took that nobody looked at.
    pub(super) before: Storms,
    pub(super) outcome: Outcome,
}

/// How it went.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It did not come so far, or ended by itself; what it said.
    Refused(String),
    /// It looked.
    Looked {
        with: Storms,
        /// What it told of what it saw.
        told: String,
        /// What it complained of while it told.
        err: String,
        /// What it ended with.
        status: u8,
    },
}

/// A guest that is ready to measure, but for its script.
#[derive(Debug)]
pub(super) struct Frame {
    guest: Guest,
    /// Names and versions of the peers in it.
    pub(super) versions: Vec<String>,
}

impl Frame {
    /// With peers and with programs for guests, and with time that is the clock's.
    pub(super) fn new(peers: &[&str], programs: &[&str]) -> Result<Self> {
        let mut guest = Guest::new(kernels::get(KERNEL)?, Tools::get(true)?);
        let versions = furnish(&mut guest, peers, programs)?;
        guest.timeout = Duration::from_secs(1800);
        Ok(Self { guest, versions })
    }

    /// The same guest with time that is instructions.
    pub(super) fn counted(&self) -> Self {
        let mut guest = self.guest.clone();
        count(&mut guest);
        Self {
            guest,
            versions: self.versions.clone(),
        }
    }

    /// One more file for it.
    pub(super) fn add(&mut self, file: PathBuf, place: &str) {
        self.guest.adds.push((file, place.to_owned()));
    }

    /// Boots it, runs the script, and reads what it left in `/out`.
    pub(super) fn run<T>(
        &self,
        label: &str,
        script: &str,
        read: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<T> {
        let scratch = ws::Scratch::new(Some(&ws::target().join("bench")))?;
        let mut guest = self.guest.clone();
        guest.out = Some(scratch.path().to_owned());
        let how = if guest.icount {
            "time counted in instructions".to_owned()
        } else {
            format!("{} CPUs", guest.smp)
        };
        let label = format!("guest {KERNEL}: {label}, {how}");
        let mut outcome = ui::step(&label, || guest.sh(script))?;
        if outcome.never_came_up() {
            outcome = ui::step(&format!("{label}, again: it did not come up"), || {
                guest.sh(script)
            })?;
        }
        let ended = outcome.ended_well();
        ended
            .and_then(|()| read(scratch.path()))
            .with_context(|| format!("in the guest with {how}"))
    }
}

/// Gives a guest peers and programs, and memory for them. Returns the versions of the peers.
pub(super) fn furnish(guest: &mut Guest, peers: &[&str], programs: &[&str]) -> Result<Vec<String>> {
    let peers = peers::get(peers)?;
    guest.adds.extend(peers.adds);
    for name in programs {
        guest
            .adds
            .push((build::guest_bin(name)?, format!("/usr/bin/{name}")));
    }
    // The peers and their libraries are 300 MB, twice while they are unpacked; files and texts are in memory, too.
    guest.mem = 3072;
    Ok(peers.versions)
}

/// Makes a guest one that counts instructions.
pub(super) fn count(guest: &mut Guest) {
    guest.icount = true;
    guest.smp = 1;
}

/// The one in the middle.
pub(super) fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = numbers.collect();
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

/// A number of instructions as a person reads it.
pub(super) fn whole(number: f64) -> String {
    let sign = if number <= -0.5 { "-" } else { "" };
    format!("{sign}{}", thousands(number.abs().round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    static TWO: [Observer; 2] = [
        Observer {
            name: "one",
            label: "The first",
            command: "watch 'a b'",
            ready: "test -s /tmp/f",
            tell: "cat /tmp/f",
            without: None,
            read: |_| Ok(Seen::default()),
        },
        Observer {
            name: "other",
            label: "The other",
            command: "look",
            ready: "true",
            tell: "true",
            without: Some("debug.kprobes-optimization"),
            read: |_| Ok(Seen::default()),
        },
    ];

    fn turns() -> Turns {
        Turns {
            observers: &TWO,
            operations: &["fault", "mmap"],
            times: 100,
            storms: 2,
            rounds: 2,
            first: "prepare",
            last: "tidy up",
        }
    }

    #[test]
    fn the_script_is_whole() {
        let script = turns().script();
        for word in [
            "ROUNDS",
            "FUNCTIONS",
            "FIRST",
            "LAST",
            "TURNS",
            "TIMES",
            "STORMS",
            "OPERATIONS",
        ] {
            assert!(!script.contains(word), "{word} is left in\n{script}");
        }
        assert!(
            script.contains("for round in 1 2; do\n  turn 0 one\n"),
            "{script}"
        );
        assert!(script.contains("start_0() { exec watch 'a b'\n}"), "{script}");
        assert!(script.contains("--times 100 --rounds 2 fault mmap >"), "{script}");
        let lines: Vec<&str> = script.lines().map(str::trim).collect();
        let at = lines.iter().position(|line| *line == "turn 1 other").unwrap();
        // A setting is for one turn only.
        assert_eq!(
            lines[at - 1],
            "sysctl -q -w debug.kprobes-optimization=0 || exit 1"
        );
        assert_eq!(
            lines[at + 1],
            "sysctl -q -w debug.kprobes-optimization=1 || exit 1"
        );
    }

    #[test]
    fn storms_are_read_whole_or_not_at_all() {
        let line = |name: &str| {
            format!("{{\"operation\":\"{name}\",\"cpu_ns\":1000,\"times\":100,\"wall_ns\":2000}}\n")
        };
        let said = line("fault").repeat(2) + &line("mmap").repeat(2);
        let read = turns().storms_of(&said).unwrap();
        let expected = Took {
            cpu: 10.0,
            wall: 20.0,
        };
        assert_eq!(read["mmap"], [expected; 2]);
        assert!(turns().storms_of(&line("fault")).is_err());
        assert!(turns().storms_of(&said.replace("1000", "0")).is_err());
    }

    #[test]
    fn who_refused_is_no_measurement() {
        let out = ws::Scratch::new(None).unwrap();
        let line = |name: &str| {
            format!("{{\"operation\":\"{name}\",\"cpu_ns\":1000,\"times\":100,\"wall_ns\":2000}}\n")
        };
        let said = line("fault").repeat(2) + &line("mmap").repeat(2);
        let write = |name: &str, text: &str| fs::write(out.path().join(name), text).unwrap();
        for round in 1..=2 {
            write(&format!("one.{round}.before"), &said);
        }
        write("one.1.with", &said);
        write("one.1.status", "0\n");
        write("one.1.told", "7\n");
        write("one.1.err", "");
        write("one.2.refused", "no such program\n");
        let read = turns().read(out.path(), &TWO[0]).unwrap();
        assert!(matches!(&read[0].outcome, Outcome::Looked { told, status: 0, .. } if told == "7\n"));
        assert!(matches!(&read[1].outcome, Outcome::Refused(why) if why == "no such program"));
        assert!(turns().read(out.path(), &TWO[1]).is_err());
    }
}
