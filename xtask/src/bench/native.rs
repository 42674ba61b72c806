//! `tracer record` on this machine's own kernel, under a storm of `mmap_lock` events.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Row, thousands};
use crate::{build, ui, ws};

pub(super) const THROUGHPUT: &str = "native-throughput";
pub(super) const MEMORY: &str = "record-memory";

/// Events a second that must be recorded without loss.
const REQUIRED: f64 = 200_000.0;
/// The storm's pace in events a second: a little more, since the machine is not ours alone.
const PACE: f64 = 235_000.0;
/// Most memory that `record` may ever have had, in KiB.
const MEMORY_KIB: u64 = 64 << 10;
const RUNS: usize = 3;
const LONG: Duration = Duration::from_secs(5);

/// What one run gave.
#[derive(Debug)]
struct Run {
    /// Events that the storm alone made in its slowest second.
    slowest: f64,
    /// The same of all its seconds.
    rate: f64,
    /// Events in the recording: the storm's, and those of all else that ran.
    received: u64,
    dropped: u64,
    gaps: u64,
    /// `produced = received + dropped`, and none missing beyond, on each CPU.
    balanced: bool,
    by_cpu: Vec<u64>,
    memory_kib: u64,
    /// Time that the recorder spent on a CPU, start included.
    cpu_s: f64,
}

impl Run {
    fn is_lossless(&self) -> bool {
        self.dropped == 0 && self.gaps == 0 && self.balanced
    }

    fn is_well(&self) -> bool {
        self.is_lossless() && self.slowest >= REQUIRED
    }

    fn line(&self, name: &str) -> String {
        let cpus: Vec<_> = self.by_cpu.iter().map(|&n| thousands(n)).collect();
        format!(
            "{name}: {} events/s, {} in its slowest second; {} received ({} by CPU), {} dropped, {} gaps, {}; \
             the recorder took {:.2} s of CPU time and {} KiB",
            whole(self.rate),
            whole(self.slowest),
            thousands(self.received),
            cpus.join(" + "),
            thousands(self.dropped),
            self.gaps,
            if self.balanced {
                "produced = received + dropped"
            } else {
                "produced IS NOT received + dropped"
            },
            self.cpu_s,
            thousands(self.memory_kib),
        )
    }

    fn json(&self) -> Value {
        json!({
            "events_per_s": self.rate.round(), "slowest_second": self.slowest.round(),
            "received": self.received, "dropped": self.dropped,
            "gaps": self.gaps, "balanced": self.balanced, "received_by_cpu": self.by_cpu,
            "vm_hwm_kib": self.memory_kib, "cpu_s": self.cpu_s,
        })
    }
}

fn whole(rate: f64) -> String {
    thousands(rate.round() as u64)
}

/// Measures both rows.
pub(super) fn run() -> Result<Vec<Row>> {
    ensure!(
        ws::is_root(),
        "recording needs root: start `cargo xtask bench` as root"
    );
    let place = Place {
        tracer: build::tracer()?,
        storm: build::guest_bin("mmapstorm")?,
        scratch: ws::Scratch::new(Some(&ws::target().join("bench")))?,
    };
    // How many events a pair gives is the kernel's affair; the pace in events is ours.
    let per_pair = ui::step("native: how many events a pair of mmap and munmap gives", || {
        place.calibrate()
    })?;
    let pace = (PACE / per_pair) as u64;
    let mut runs = Vec::new();
    for n in 1..=RUNS {
        runs.push(ui::step(
            &format!("native: paced storm, run {n} of {RUNS}"),
            || place.measure(pace, per_pair),
        )?);
    }
    let full = ui::step("native: storm without a pace", || place.measure(0, per_pair))?;
    Ok(vec![throughput(per_pair, &runs, &full), memory(&runs, &full)])
}

fn throughput(per_pair: f64, runs: &[Run], full: &Run) -> Row {
    // Lossless before lossy, then the steadiest.
    let key = |run: &&Run| (run.is_lossless(), run.slowest as u64);
    let Some(best) = runs.iter().max_by_key(key) else {
        return Row::default();
    };
    let mut notes = vec![format!(
        "{per_pair:.2} events for each pair of mmap and munmap; rates are the storm's, from its own count of pairs"
    )];
    notes.extend((1..).zip(runs).map(|(n, run)| run.line(&format!("run {n}"))));
    notes.push(full.line("without a pace"));
    let all: Vec<_> = runs.iter().map(Run::json).collect();
    Row {
        name: THROUGHPUT,
        measured: format!(
            "{} events/s in the slowest second, {} dropped, {} gaps",
            whole(best.slowest),
            best.dropped,
            best.gaps
        ),
        required: Some(format!(
            "{} events/s, 0 dropped, 0 gaps, accounts balanced in every run",
            whole(REQUIRED)
        )),
        // Losses may be the machine's fault; accounts that do not balance are ours.
        met: best.is_well() && runs.iter().chain([full]).all(|run| run.balanced),
        method: "best of 3 runs of 5 s: two processes map and unmap at a pace, tracer records all of the machine",
        notes,
        figures: json!({"runs": all, "unpaced": full.json(), "events_per_pair": per_pair, "required_events_per_s": REQUIRED}),
    }
}

fn memory(runs: &[Run], full: &Run) -> Row {
    let most = runs.iter().map(|run| run.memory_kib).max().unwrap_or(0);
    let all: Vec<_> = runs.iter().map(|run| run.memory_kib).collect();
    let list: Vec<_> = all.iter().map(|&kib| thousands(kib)).collect();
    Row {
        name: MEMORY,
        measured: format!("{} KiB", thousands(most.max(full.memory_kib))),
        required: Some(format!("at most {} KiB", thousands(MEMORY_KIB))),
        met: most > 0 && most.max(full.memory_kib) <= MEMORY_KIB,
        method: "VmHWM of the recorder at its end, the worst of the runs above, the one without a pace included",
        notes: vec![format!(
            "runs: {} KiB; without a pace {} KiB",
            list.join(", "),
            thousands(full.memory_kib)
        )],
        figures: json!({"vm_hwm_kib": all, "unpaced_vm_hwm_kib": full.memory_kib}),
    }
}

struct Place {
    tracer: PathBuf,
    storm: PathBuf,
    scratch: ws::Scratch,
}

impl Place {
    /// Events for each pair of mmap and munmap, with nothing but the storm in the recording.
    fn calibrate(&self) -> Result<f64> {
        let file = self.file()?;
        let mut command = Command::new(&self.tracer);
        command
            .args(["record", "-o"])
            .arg(&file)
            .arg("--")
            .arg(&self.storm);
        command.args(["--threads", "1", "--pace", "20000", "--millis", "1000"]);
        ws::dies_with_us(&mut command, libc::SIGTERM);
        let storm: Value =
            serde_json::from_str(&ws::capture(&mut command)?).context("what the storm printed")?;
        let pairs = storm["pairs"].as_f64().context("the storm told no pairs")?;
        let events = number(&self.stats(&file)?, "/events/received")?;
        ensure!(
            pairs > 0.0 && events > 0,
            "the storm did nothing that tracer has seen"
        );
        Ok(events as f64 / pairs)
    }

    /// Records one storm.
    fn measure(&self, pace: u64, per_pair: f64) -> Result<Run> {
        let file = self.file()?;
        let mut recorder = Recorder::start(&self.tracer, &file, &self.scratch.path().join("tracer.log"))?;
        let mut storm = Command::new(&self.storm);
        storm.args(["--processes", "--threads", "2", "--pace", &pace.to_string()]);
        storm.args(["--millis", &LONG.as_millis().to_string()]);
        ws::dies_with_us(&mut storm, libc::SIGKILL);
        let storm = ws::capture(&mut storm)?;
        recorder.stop()?;
        let storm: Value = serde_json::from_str(&storm).context("what the storm printed")?;
        evaluate(&storm, &self.stats(&file)?, &recorder, per_pair)
    }

    /// A name for a recording; the one before goes, to make room.
    fn file(&self) -> Result<PathBuf> {
        let file = self.scratch.path().join("storm.rec");
        if file.exists() {
            fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        }
        Ok(file)
    }

    fn stats(&self, file: &Path) -> Result<Value> {
        let mut stats = Command::new(&self.tracer);
        stats.arg("stats").arg(file).arg("--json");
        serde_json::from_str(&ws::capture(&mut stats)?).context("what stats printed")
    }
}

fn number(stats: &Value, path: &str) -> Result<u64> {
    let value = stats.pointer(path).and_then(Value::as_u64);
    value.with_context(|| format!("stats tells no {path}"))
}

fn evaluate(storm: &Value, stats: &Value, recorder: &Recorder, per_pair: f64) -> Result<Run> {
    let cpus = stats["cpus"].as_array().context("stats tells no cpus")?;
    let received = number(stats, "/events/received")?;
    let dropped = number(stats, "/events/dropped")?;
    let mut balanced = !cpus.is_empty() && stats["complete"] == true && number(stats, "/events/missed")? == 0;
    let mut by_cpu = Vec::new();
    for cpu in cpus {
        let (received, dropped) = (number(cpu, "/received")?, number(cpu, "/dropped")?);
        balanced &= number(cpu, "/produced")? == received + dropped;
        by_cpu.push(received);
    }
    balanced &= by_cpu.iter().sum::<u64>() == received;
    let seconds = storm["by_second"]
        .as_array()
        .context("the storm told no seconds")?;
    ensure!(
        seconds.len() >= LONG.as_secs() as usize,
        "the storm missed whole seconds"
    );
    let whole = seconds
        .iter()
        .take(LONG.as_secs() as usize)
        .filter_map(Value::as_f64);
    let (pairs, slowest) = whole.fold((0.0, f64::MAX), |(sum, least), n| (sum + n, least.min(n)));
    Ok(Run {
        slowest: slowest * per_pair,
        rate: pairs * per_pair / LONG.as_secs_f64(),
        received,
        dropped,
        gaps: number(stats, "/events/gaps")?,
        balanced,
        by_cpu,
        memory_kib: recorder.memory_kib,
        cpu_s: recorder.cpu_s,
    })
}

/// A `tracer record` that runs.
pub(super) struct Recorder {
    child: Child,
    log: PathBuf,
    memory_kib: u64,
    cpu_s: f64,
}

impl Recorder {
    /// Starts it, and waits until its probes are attached: then it writes the file's first frame.
    pub(super) fn start(tracer: &Path, file: &Path, log: &Path) -> Result<Self> {
        let mut command = Command::new(tracer);
        command.args(["record", "-o"]).arg(file).stdin(Stdio::null());
        let err = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        command.stdout(Stdio::null()).stderr(err);
        ws::dies_with_us(&mut command, libc::SIGTERM);
        let child = command
            .spawn()
            .with_context(|| format!("starting `{}`", ws::show(&command)))?;
        let mut recorder = Self {
            child,
            log: log.to_owned(),
            memory_kib: 0,
            cpu_s: 0.0,
        };
        let until = Instant::now() + Duration::from_secs(30);
        while fs::metadata(file).map_or(0, |meta| meta.len()) == 0 {
            if recorder.child.try_wait().context("waiting for tracer")?.is_some() || Instant::now() > until {
                bail!("tracer does not record: {}", recorder.said());
            }
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(Duration::from_millis(100));
        Ok(recorder)
    }

    /// Its process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log)
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    /// Ends it as ^C does, and waits.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.look();
        let pid = libc::pid_t::try_from(self.child.id()).context("a process number")?;
        // SAFETY: a signal to our own child, which has not been waited for.
        let sent = unsafe { libc::kill(pid, libc::SIGINT) };
        ensure!(
            sent == 0,
            "cannot stop tracer: {}",
            std::io::Error::last_os_error()
        );
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            self.look();
            if let Some(status) = self.child.try_wait().context("waiting for tracer")? {
                ensure!(status.success(), "tracer failed ({status}): {}", self.said());
                ensure!(self.memory_kib > 0, "tracer's memory could not be read");
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "tracer does not end at ^C: {}",
                self.said()
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Reads what the kernel tells of it, for as long as it lives.
    fn look(&mut self) {
        let proc = Path::new("/proc").join(self.child.id().to_string());
        let status = fs::read_to_string(proc.join("status")).unwrap_or_default();
        if let Some(kib) = field(&status, "VmHWM:") {
            self.memory_kib = self.memory_kib.max(kib);
        }
        let stat = fs::read_to_string(proc.join("stat")).unwrap_or_default();
        // The name may hold anything; the 12th and 13th field after it are times in ticks.
        if let Some((_, rest)) = stat.rsplit_once(") ") {
            let ticks: u64 = rest
                .split(' ')
                .skip(11)
                .take(2)
                .filter_map(|n| n.parse::<u64>().ok())
                .sum();
            // SAFETY: sysconf has no preconditions.
            let per_s = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1);
            self.cpu_s = self.cpu_s.max(ticks as f64 / per_s as f64);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A number of `/proc/PID/status`.
pub(super) fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        let own = fs::read_to_string("/proc/self/status").unwrap();
        assert!(field(&own, "VmHWM:").unwrap() > 0);
        assert_eq!(field("a: 1\nVmHWM:\t  12 kB\n", "VmHWM:"), Some(12));
        assert_eq!(field("", "VmHWM:"), None);
    }
}
