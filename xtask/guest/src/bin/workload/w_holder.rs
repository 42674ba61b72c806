//! Tasks that wait for a known time, on locks that known tasks hold.
//!
//! No system call holds mmap_lock or a VMA lock for as long as one likes: the kernel drops them before it sleeps, for
//! a missing userfaultfd page as for I/O. So a holder is made by taking the processor away: a task of real-time
//! priority starts to spin on the holder's processor while the holder is inside a long operation under the lock, and
//! the holder, of lower priority, stays there until the spinning ends.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::cli::{Entry, Opts, PLAIN};
use crate::report::Report;
use crate::sys::{self, Mapping, impossible};
use crate::{name_thread, pin};

/// The workloads of this file.
pub(crate) const TABLE: &[Entry] = &[Entry {
    name: "holder",
    about: "A task holds a lock for a known time while known tasks wait for it",
    detail: "Kinds:\n\
             read   the holder is in madvise(MADV_DONTNEED) of a large mapping: under the VMA's read lock on kernels \
             that have this (6.18 and later), else under mmap_lock for reading;\n\
             write  the holder is in mprotect of it: under mmap_lock for writing, the VMA write-locked.\n\
             The holder's processor is taken away for --duration. Meanwhile the task `w-writer` calls mprotect on the \
             same mapping, then `w-mmap` calls mmap, then `w-fault` touches a page of the mapping; each is seen to \
             sleep before the next one starts. `waits` tells for each task whether it slept, and between which times \
             (CLOCK_MONOTONIC) it was inside its call. The names are those of the threads in a trace; the holder is \
             `w-holder`, the task that takes its processor `w-hog`. Needs two processors and root (real-time \
             priority). Nothing else about its faults is exact.",
    threads: 0,
    pages: 16384,
    rounds: 0,
    millis: 2000,
    kinds: &["read", "write"],
    run: holder,
    ..PLAIN
}];

/// How a task is doing that shall wait.
#[derive(Debug, Default)]
struct Task {
    tid: AtomicI32,
    /// May it call?
    go: AtomicBool,
    /// When it entered its call, and when it came back; 0 before.
    begin: AtomicU64,
    end: AtomicU64,
}

impl Task {
    fn ready(&self, name: &str, cpu: usize) -> Result<()> {
        name_thread(name)?;
        pin(cpu)?;
        self.tid.store(sys::tid(), Ordering::Release);
        Ok(())
    }

    fn wait_for_go(&self, stop: &AtomicBool) -> bool {
        while !self.go.load(Ordering::Acquire) {
            if stop.load(Ordering::Acquire) {
                return false;
            }
            thread::sleep(Duration::from_micros(200));
        }
        true
    }

    fn timed(&self, call: impl FnOnce() -> Result<()>) -> Result<()> {
        self.begin.store(sys::now(), Ordering::Release);
        let result = call();
        self.end.store(sys::now(), Ordering::Release);
        result
    }

    fn inside(&self) -> bool {
        self.begin.load(Ordering::Acquire) != 0 && self.end.load(Ordering::Acquire) == 0
    }

    fn json(&self, role: &str, waits_for: &str, slept: bool) -> Value {
        json!({
            "role": role,
            "tid": self.tid.load(Ordering::Acquire),
            "waits_for": waits_for,
            "slept": slept,
            "begin_ns": self.begin.load(Ordering::Acquire),
            "end_ns": self.end.load(Ordering::Acquire),
        })
    }
}

/// A task's `stat`, opened early so that looking at it later takes no lock.
struct Stat(File);

impl Stat {
    fn of(tid: i32) -> Result<Self> {
        let path = format!("/proc/self/task/{tid}/stat");
        Ok(Self(File::open(&path).with_context(|| path.clone())?))
    }

    /// Does it sleep where no signal wakes it, or, with a killable wait, only a deadly one?
    fn sleeps(&self) -> bool {
        let mut buffer = [0_u8; 128];
        let Ok(n) = self.0.read_at(&mut buffer, 0) else {
            return false;
        };
        let text = String::from_utf8_lossy(&buffer[..n]);
        text.rsplit(") ").next().is_some_and(|s| s.starts_with('D'))
    }
}

fn realtime(priority: i32) -> Result<()> {
    let param = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: `param` outlives the call, which concerns this thread only.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) };
    if result != 0 {
        return Err(impossible(format!(
            "{:#}: real-time priority needs root, or CAP_SYS_NICE",
            sys::last("sched_setscheduler")
        )));
    }
    Ok(())
}

/// Real-time tasks are normally stopped for a twentieth of each second.
struct Throttle(Option<String>);

const RT_RUNTIME: &str = "/proc/sys/kernel/sched_rt_runtime_us";

impl Throttle {
    fn off() -> Self {
        let mut old = String::new();
        let read = File::open(RT_RUNTIME).and_then(|mut f| f.read_to_string(&mut old));
        if read.is_err() || std::fs::write(RT_RUNTIME, "-1").is_err() {
            eprintln!(
                "workload: {RT_RUNTIME} cannot be set: a long hold may be cut short by the kernel's throttling"
            );
            return Self(None);
        }
        Self(Some(old))
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        if let Some(old) = &self.0
            && let Err(error) = std::fs::write(RT_RUNTIME, old)
        {
            eprintln!("workload: setting {RT_RUNTIME} back to {}: {error}", old.trim());
        }
    }
}

/// What all tasks share.
#[derive(Default)]
struct Scene {
    stop: AtomicBool,
    holder: Task,
    writer: Task,
    mapper: Task,
    faulter: Task,
    hog_tid: AtomicI32,
    /// Until when the hog spins; 0: it sleeps.
    hog_until: AtomicU64,
    hog_runs: AtomicBool,
}

impl Scene {
    /// Runs a task; if it fails all stop, since the others would wait for it.
    fn stopping(&self, task: impl FnOnce() -> Result<()>) -> Result<()> {
        let result = task();
        if result.is_err() {
            self.stop.store(true, Ordering::Release);
        }
        result
    }
}

fn holder(opts: &Opts) -> Result<Report> {
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cpus < 2 {
        return Err(impossible(
            "it needs two processors, one of which is taken from the holder; there is one",
        ));
    }
    const TRIES: usize = 50;
    for _ in 0..TRIES {
        if let Some(report) = attempt(opts)? {
            return Ok(report);
        }
    }
    bail!(
        "the holder was not caught inside its call in {TRIES} tries; use more --pages so that it stays there longer"
    )
}

/// One try. `None` if the holder was not inside its call when its processor was taken.
fn attempt(opts: &Opts) -> Result<Option<Report>> {
    let area = Mapping::anon(opts.pages)?;
    // The last page stays untouched for the fault.
    for page in 0..area.pages() - 1 {
        area.write(page);
    }
    let scene = Scene::default();
    let throttle = Throttle::off();
    let report = thread::scope(|scope| {
        let mut handles = Vec::new();
        handles.push(scope.spawn(|| scene.stopping(|| hog(&scene))));
        handles.push(scope.spawn(|| scene.stopping(|| hold(&scene, &area, opts.kind == "write"))));
        handles.push(scope.spawn(|| {
            scene.writer.ready("w-writer", 0)?;
            if scene.writer.wait_for_go(&scene.stop) {
                let all = libc::PROT_READ | libc::PROT_WRITE;
                scene.writer.timed(|| area.protect(0, 1, libc::PROT_READ))?;
                area.protect(0, 1, all)?;
            }
            Ok(())
        }));
        handles.push(scope.spawn(|| {
            scene.mapper.ready("w-mmap", 0)?;
            if scene.mapper.wait_for_go(&scene.stop) {
                scene.mapper.timed(|| Mapping::anon(1)?.unmap())?;
            }
            Ok(())
        }));
        handles.push(scope.spawn(|| {
            scene.faulter.ready("w-fault", 0)?;
            if scene.faulter.wait_for_go(&scene.stop) {
                scene.faulter.timed(|| {
                    area.write(area.pages() - 1);
                    Ok(())
                })?;
            }
            Ok(())
        }));
        let directed = direct(opts, &scene);
        scene.stop.store(true, Ordering::Release);
        scene.hog_until.store(1, Ordering::Release);
        for handle in handles {
            handle.join().map_err(|_| anyhow!("a task panicked"))??;
        }
        directed
    })?;
    drop(throttle);
    Ok(report.map(|mut report| {
        let tids = [&scene.holder, &scene.writer, &scene.mapper, &scene.faulter];
        report.tids = tids.iter().map(|t| t.tid.load(Ordering::Acquire)).collect();
        let slept: Vec<bool> = report
            .more
            .get("slept")
            .and_then(Value::as_array)
            .map(|a| a.iter().map(|v| v == true).collect())
            .unwrap_or_default();
        report.more.remove("slept");
        let slept = |i: usize| slept.get(i).copied().unwrap_or(false);
        let held = if opts.kind == "write" {
            "mmap_lock for writing, and the VMA"
        } else {
            "the VMA for reading (6.18 and later), or mmap_lock for reading"
        };
        report.set("kind", opts.kind.clone());
        report.set("held", held);
        report.set("vma_start", area.base());
        report.set("vma_end", area.base() + area.len());
        report.set("hog_tid", scene.hog_tid.load(Ordering::Acquire));
        report.set("holder", scene.holder.json("w-holder", "", false));
        report.set(
            "waits",
            json!([
                scene.writer.json("w-writer", "w-holder", slept(0)),
                scene.mapper.json("w-mmap", "w-writer", slept(1)),
                scene.faulter.json("w-fault", "w-writer", slept(2)),
            ]),
        );
        report
    }))
}

/// The task that takes the holder's processor.
fn hog(scene: &Scene) -> Result<()> {
    name_thread("w-hog")?;
    pin(1)?;
    realtime(20)?;
    scene.hog_tid.store(sys::tid(), Ordering::Release);
    loop {
        let until = scene.hog_until.load(Ordering::Acquire);
        if until != 0 {
            scene.hog_runs.store(true, Ordering::Release);
            while sys::now() < scene.hog_until.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            return Ok(());
        }
        if scene.stop.load(Ordering::Acquire) {
            return Ok(());
        }
        thread::sleep(Duration::from_micros(100));
    }
}

/// The holder.
fn hold(scene: &Scene, area: &Mapping, write: bool) -> Result<()> {
    realtime(10)?;
    scene.holder.ready("w-holder", 1)?;
    if !scene.holder.wait_for_go(&scene.stop) {
        return Ok(());
    }
    scene.holder.timed(|| {
        if write {
            area.protect(0, area.pages() - 1, libc::PROT_READ)
        } else {
            area.advise_part(0, area.pages() - 1, libc::MADV_DONTNEED)
        }
    })
}

/// Waits until something holds, for at most so long.
///
/// Between two looks it sleeps; without a sleep it is quick, but tasks on this processor get little time.
fn until(what: impl Fn() -> bool, millis: u64, nap: Duration) -> bool {
    let end = sys::now() + millis * 1_000_000;
    while !what() {
        if sys::now() > end {
            return false;
        }
        if nap.is_zero() {
            std::hint::spin_loop();
        } else {
            thread::sleep(nap);
        }
    }
    true
}

const NAP: Duration = Duration::from_micros(100);

fn direct(opts: &Opts, scene: &Scene) -> Result<Option<Report>> {
    pin(0)?;
    let tasks = [&scene.writer, &scene.mapper, &scene.faulter];
    let all = [&scene.holder, tasks[0], tasks[1], tasks[2]];
    let ready = |tid: &AtomicI32| {
        let up = || tid.load(Ordering::Acquire) != 0;
        until(|| up() || scene.stop.load(Ordering::Acquire), 5000, NAP) && up()
    };
    if !all.iter().all(|t| ready(&t.tid)) || !ready(&scene.hog_tid) {
        // The task itself says why.
        return Ok(None);
    }
    let stats: Vec<Stat> = tasks
        .iter()
        .map(|t| Stat::of(t.tid.load(Ordering::Acquire)))
        .collect::<Result<_>>()?;
    for stat in &stats {
        // The first read of a file in /proc costs most.
        stat.sleeps();
    }
    let duration = u64::try_from(opts.duration.as_nanos()).unwrap_or(u64::MAX / 2);
    scene.holder.go.store(true, Ordering::Release);
    if !until(
        || scene.holder.begin.load(Ordering::Acquire) != 0,
        5000,
        Duration::ZERO,
    ) {
        return Ok(None);
    }
    let begin = sys::now();
    scene.hog_until.store(begin + duration, Ordering::Release);
    if !until(|| scene.hog_runs.load(Ordering::Acquire), 1000, Duration::ZERO) || !scene.holder.inside() {
        return Ok(None);
    }
    let caught = sys::now();
    let mut slept = Vec::new();
    for (task, stat) in tasks.iter().zip(&stats) {
        task.go.store(true, Ordering::Release);
        let mut asleep = until(|| task.inside() && stat.sleeps(), 50, NAP);
        // Not just for a moment.
        asleep &= {
            thread::sleep(Duration::from_millis(1));
            task.inside() && stat.sleeps()
        };
        if slept.is_empty() && !asleep {
            // The holder was before or after its lock.
            return Ok(None);
        }
        slept.push(asleep);
    }
    sys::sleep_until(begin + duration);
    let done = || all.iter().all(|t| t.end.load(Ordering::Acquire) != 0);
    if !until(done, 10_000, NAP) {
        bail!("the tasks did not come back within 10 s after the hold");
    }
    let mut report = Report {
        begin_ns: begin,
        end_ns: sys::now(),
        ..Report::default()
    };
    report.set("slept", slept);
    report.set("hold_ns", json!([caught, begin + duration]));
    Ok(Some(report))
}
