//! What a run of a probe takes on this machine's own kernel, as BPF's own statistics have it: tracer's programs beside
//! those that do next to nothing at the same places. Under lockdown these are the three tracepoints of `mmap_lock`.

use std::fs::{self, File};
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use super::super::native::Recorder;
use super::super::turns::median;
use crate::{build, ui, ws};

/// Each has its turn so often.
const ROUNDS: usize = 5;
/// Pairs of mmap and munmap in a turn.
const PAIRS: &str = "100000";
const LIMITS: [&str; 3] = ["empty", "submit96", "write96"];

/// Runs, and nanoseconds that they took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Ran {
    runs: u64,
    ns: u64,
}

pub(super) fn run() -> Result<Value> {
    ensure!(ws::is_root(), "only root may attach programs");
    let tracer = build::tracer()?;
    let (limit, object) = (build::guest_bin("limit")?, build::limit_ebpf()?);
    let storm = build::guest_bin("mmapstorm")?;
    let scratch = ws::Scratch::new(Some(&ws::target().join("bench")))?;
    let file = scratch.path().join("a.rec");
    let plan = scratch.path().join("plan.json");
    let (mut record, mut info) = (Command::new(&tracer), Command::new(&tracer));
    record.args(["record", "--duration", "100ms", "-o"]).arg(&file);
    ws::capture(&mut record)?;
    let said = ws::capture(info.args(["info", "--json"]).arg(&file))?;
    fs::write(&plan, said).with_context(|| format!("writing {}", plan.display()))?;
    let storm = || {
        let mut storm = Command::new(&storm);
        storm.args(["--threads", "1", "--pairs", PAIRS]);
        ws::dies_with_us(&mut storm, libc::SIGKILL);
        ws::capture(&mut storm).map(drop)
    };
    let ours = || -> Result<Ran> {
        let _ = fs::remove_file(&file);
        let mut recorder = Recorder::start(&tracer, &file, &scratch.path().join("tracer.log"))?;
        // Held open for as long as the kernel is to count.
        let _counting = count_runs()?;
        storm()?;
        let ran = programs_of(recorder.id())?;
        recorder.stop()?;
        Ok(ran)
    };
    let theirs = |program: &str| -> Result<Ran> {
        let told = scratch.path().join("limit.json");
        let mut command = Command::new(&limit);
        command.arg("--object").arg(&object).arg("--hooks").arg(&plan);
        command.args(["--runs", "--only", "tp_btf", "--program", program]);
        let mut limit = Limit::start(command, &told)?;
        storm()?;
        limit.stop()?;
        let said = fs::read_to_string(&told).with_context(|| format!("reading {}", told.display()))?;
        ran_of(&said)
    };
    let mut all: Vec<(String, Vec<Ran>)> = vec![("tracer".to_owned(), Vec::new())];
    all.extend(LIMITS.map(|program| (format!("limit-{program}"), Vec::new())));
    ui::step("native: what a run of a probe takes", || {
        for _ in 0..ROUNDS {
            for (at, (_, ran)) in all.iter_mut().enumerate() {
                ran.push(match at.checked_sub(1) {
                    None => ours()?,
                    Some(at) => theirs(LIMITS[at])?,
                });
            }
        }
        Ok(())
    })?;
    let mut programs = Map::new();
    for (name, ran) in all {
        let ns = median(ran.iter().map(|ran| ran.ns as f64 / ran.runs.max(1) as f64));
        let runs: u64 = ran.iter().map(|ran| ran.runs).sum();
        ensure!(runs > 0, "{name} did not run");
        programs.insert(name, json!({"ns_a_run": ns, "runs": runs}));
    }
    Ok(json!({"programs": programs, "rounds": ROUNDS}))
}

/// In words.
pub(super) fn lines(native: &Value) -> Vec<String> {
    let programs = native["programs"].as_object().into_iter().flatten();
    let told: Vec<String> = programs
        .map(|(name, program)| {
            let ns = program["ns_a_run"].as_f64().unwrap_or(0.0);
            let runs = program["runs"].as_u64().unwrap_or(0);
            format!("{name} {ns:.0} ns in {} runs", super::thousands(runs))
        })
        .collect();
    vec![format!(
        "on this machine's own kernel, a run of a tp_btf program by BPF's statistics (the clock's own time included): {}",
        told.join(", ")
    )]
}

/// Has the kernel count runs and time of BPF programs for as long as this is open.
fn count_runs() -> Result<OwnedFd> {
    const BPF_ENABLE_STATS: libc::c_long = 32;
    // An attribute of one word: what is to be counted, 0 for time and runs.
    let attribute = 0_u32;
    // SAFETY: the attribute is valid for reading, and its size is told.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_ENABLE_STATS,
            &raw const attribute,
            size_of_val(&attribute),
        )
    };
    ensure!(
        fd >= 0,
        "having the kernel count runs: {}",
        std::io::Error::last_os_error()
    );
    let fd = RawFd::try_from(fd).context("a file descriptor")?;
    // SAFETY: the kernel gave it to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the tracing programs of a process ran, as its open files have it.
fn programs_of(pid: u32) -> Result<Ran> {
    let folder = Path::new("/proc").join(pid.to_string()).join("fdinfo");
    let files = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut all = Vec::new();
    for file in files.flatten() {
        // It may have been closed since.
        let said = fs::read_to_string(file.path()).unwrap_or_default();
        all.extend(program(&said));
    }
    // Of one program there may be several files.
    all.sort_unstable();
    all.dedup_by_key(|(id, ..)| *id);
    let sum = |of: fn(&(u64, u64, u64)) -> u64| all.iter().map(of).sum();
    Ok(Ran {
        runs: sum(|program| program.1),
        ns: sum(|program| program.2),
    })
}

/// Number, runs and nanoseconds of a tracing program, if the file is one.
fn program(said: &str) -> Option<(u64, u64, u64)> {
    const TRACING: u64 = 26;
    let number = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u64>().ok()
    };
    (number("prog_type:")? == TRACING).then_some(())?;
    Some((number("prog_id:")?, number("run_cnt:")?, number("run_time_ns:")?))
}

/// What `limit --runs` told last.
fn ran_of(said: &str) -> Result<Ran> {
    let last = said.lines().last().unwrap_or_default();
    let told: Value = serde_json::from_str(last).with_context(|| format!("`limit` told {said:?}"))?;
    let hooks = told["hooks"].as_object().context("`limit` told of no hooks")?;
    let sum = |name: &str| hooks.values().filter_map(|hook| hook[name].as_u64()).sum();
    Ok(Ran {
        runs: sum("runs"),
        ns: sum("run_ns"),
    })
}

/// A `limit` that runs.
struct Limit(Child);

impl Limit {
    /// Starts it, and waits until it says that it is attached.
    fn start(mut command: Command, told: &Path) -> Result<Self> {
        let out = File::create(told).with_context(|| format!("creating {}", told.display()))?;
        command.stdin(Stdio::null()).stdout(out);
        ws::dies_with_us(&mut command, libc::SIGTERM);
        let child = command
            .spawn()
            .with_context(|| format!("starting `{}`", ws::show(&command)))?;
        let mut limit = Self(child);
        let until = Instant::now() + Duration::from_secs(30);
        while !fs::read_to_string(told).unwrap_or_default().contains("attached") {
            let ended = limit.0.try_wait().context("waiting for limit")?;
            ensure!(
                ended.is_none() && Instant::now() < until,
                "`{}` does not attach its programs",
                ws::show(&command)
            );
            thread::sleep(Duration::from_millis(5));
        }
        Ok(limit)
    }

    /// Ends it as ^C does, and waits.
    fn stop(&mut self) -> Result<()> {
        let pid = libc::pid_t::try_from(self.0.id()).context("a process number")?;
        // SAFETY: a signal to our own child, which has not been waited for.
        let sent = unsafe { libc::kill(pid, libc::SIGINT) };
        ensure!(
            sent == 0,
            "cannot stop limit: {}",
            std::io::Error::last_os_error()
        );
        let status = self.0.wait().context("waiting for limit")?;
        ensure!(status.success(), "limit failed ({status})");
        Ok(())
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_their_files() {
        let said = "pos:\t0\nflags:\t02000002\nprog_type:\t26\nprog_id:\t41\nrun_time_ns:\t1200\nrun_cnt:\t10\nrecursion_misses:\t0\n";
        assert_eq!(program(said), Some((41, 10, 1200)));
        assert_eq!(program(&said.replace("26", "2")), None);
        assert_eq!(program("pos:\t0\n"), None);
    }

    #[test]
    fn runs_of_all_hooks_are_added() {
        let said = "{\"attached\":2}\n{\"hooks\":{\"a\":{\"runs\":2,\"run_ns\":30},\"b\":{\"runs\":1,\"run_ns\":5}}}\n";
        assert_eq!(ran_of(said).unwrap(), Ran { runs: 3, ns: 35 });
        assert!(ran_of("").is_err());
    }
}
