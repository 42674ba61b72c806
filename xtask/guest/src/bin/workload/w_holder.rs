//! Tasks that wait for a known time, on locks that known tasks hold.
//!
//! The kernel takes care not to sleep for long with these locks held: it drops them before it waits for a missing
//! userfaultfd page, or for a page that is read. There are gaps: a write to a shared mapping of a file waits for the
//! page's writeback under the VMA lock, and mmap of some files waits for it under mmap_lock. With a disk of our own
//! that takes its time, both last as long as one likes. Without such a disk, a holder can still be made by taking the
//! processor away: a task of real-time priority starts to spin on the holder's processor while that is inside a long
//! operation under the lock.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::cli::{Entry, Opts, PLAIN};
use crate::fuse::SlowDisk;
use crate::hog::{Hog, Throttle, realtime};
use crate::report::Report;
use crate::sys::{self, Mapping, PAGE, impossible};
use crate::uffd::{FEATURE_NONE, Mode, Uffd};
use crate::{name_thread, pin};

/// The workloads of this file.
pub(crate) const TABLE: &[Entry] = &[Entry {
    name: "holder",
    about: "A task holds a lock for a known time while known tasks wait for it",
    detail: "Kinds, by what the task `w-holder` does for --duration:\n\
             read   is in madvise(MADV_DONTNEED) of a large mapping, its processor taken away by `w-hog`: under the \
             VMA's read lock on kernels that have this (6.18 and later), else under mmap_lock for reading;\n\
             write  is in mprotect of it, its processor taken away: under mmap_lock for writing, the VMA \
             write-locked;\n\
             fault  sleeps in a page fault, waiting for writeback to a slow disk: under the VMA's read lock;\n\
             mmap   sleeps in mmap, waiting for writeback: under mmap_lock for writing;\n\
             uffd   sleeps in a page fault that userfaultfd reports and nobody answers: it holds nothing.\n\
             Meanwhile `w-writer` calls mprotect on the same mapping, then `w-mmap` calls mmap, then `w-fault` touches \
             another page of the mapping. `waits` tells for each of them whether it slept, and between which times \
             (CLOCK_MONOTONIC) it was inside its call; `hold_ns` between which times the hold is certain. The names \
             are those of the threads in a trace.\n\
             read and write need two processors and root (real-time priority), fault and mmap need FUSE and root.",
    threads: 0,
    pages: 16384,
    rounds: 0,
    millis: 2000,
    kinds: &["read", "write", "fault", "mmap", "uffd"],
    run: holder,
    ..PLAIN
}];

/// How a task is doing.
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
    /// Gets ready on a processor, waits for its turn, and makes its call.
    fn run(
        &self,
        name: &str,
        cpu: usize,
        stop: &AtomicBool,
        call: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        name_thread(name)?;
        pin(cpu)?;
        self.tid.store(sys::tid(), Ordering::Release);
        while !self.go.load(Ordering::Acquire) {
            if stop.load(Ordering::Acquire) {
                return Ok(());
            }
            thread::sleep(Duration::from_micros(200));
        }
        self.begin.store(sys::now(), Ordering::Release);
        let result = call();
        self.end.store(sys::now(), Ordering::Release);
        result
    }

    fn inside(&self) -> bool {
        self.begin.load(Ordering::Acquire) != 0 && self.end.load(Ordering::Acquire) == 0
    }

    fn done(&self) -> bool {
        self.end.load(Ordering::Acquire) != 0
    }

    fn json(&self, role: &str, waits_for: &str, slept: bool) -> Value {
        json!({
            "role": role,
            "tid": self.tid.load(Ordering::Acquire),
            "waits_for": if slept { waits_for } else { "" },
            "slept": slept,
            "begin_ns": self.begin.load(Ordering::Acquire),
            "end_ns": self.end.load(Ordering::Acquire),
        })
    }
}

/// A task's `stat`, opened early: looking at it takes no lock of the mm.
struct Stat(File);

impl Stat {
    fn of(task: &Task) -> Result<Self> {
        let path = format!("/proc/self/task/{}/stat", task.tid.load(Ordering::Acquire));
        let stat = Self(File::open(&path).with_context(|| path.clone())?);
        // The first read of a file in /proc costs most.
        stat.state();
        Ok(stat)
    }

    /// R, S, D …
    fn state(&self) -> u8 {
        let mut buffer = [0_u8; 128];
        let n = self.0.read_at(&mut buffer, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&buffer[..n]);
        text.rsplit(") ")
            .next()
            .and_then(|s| s.bytes().next())
            .unwrap_or(b'?')
    }
}

/// How a task comes to hold a lock.
struct Act<'a> {
    /// What it holds.
    held: &'static str,
    /// What the others work on: they mprotect its first page and touch its last one.
    area: &'a Mapping,
    /// What the holder does.
    call: Box<dyn Fn() -> Result<()> + Sync + 'a>,
    /// The task that takes the holder's processor, if it does not sleep by itself.
    hog: Option<Hog>,
    /// Ends the hold if it does not end by itself.
    release: Box<dyn Fn() -> Result<()> + Sync + 'a>,
    /// Told when the hold is to end.
    until: Box<dyn Fn(u64) + Sync + 'a>,
}

const ALL: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn holder(opts: &Opts) -> Result<Report> {
    let nothing = || Ok(());
    match opts.kind.as_str() {
        "fault" => {
            let (disk, file, area) = dirty_file()?;
            return play(
                opts,
                Act {
                    held: "the VMA for reading",
                    area: &area,
                    call: Box::new(|| {
                        sys::poke(area.page(1));
                        Ok(())
                    }),
                    hog: None,
                    release: Box::new(nothing),
                    until: Box::new(|at| {
                        disk.disk.write_until.store(at, Ordering::Release);
                        // The writeback starts here and write-protects the page.
                        // SAFETY: no memory is involved.
                        unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
                        until(|| disk.disk.writes.load(Ordering::Acquire) > 0, 1000, NAP);
                    }),
                },
            )?
            .context("the holder did not sleep in its fault");
        }
        "mmap" => {
            let (disk, _file, area) = dirty_file()?;
            let direct = disk.open(libc::O_DIRECT)?;
            let other = Mapping::anon(16)?;
            other.write_all();
            return play(
                opts,
                Act {
                    held: "mmap_lock for writing",
                    area: &other,
                    call: Box::new(|| {
                        // This makes the kernel drop the file's pages from its cache, and first write them.
                        Mapping::file(&direct, area.len(), libc::PROT_READ, libc::MAP_PRIVATE).map(drop)
                    }),
                    hog: None,
                    release: Box::new(nothing),
                    until: Box::new(|at| disk.disk.write_until.store(at, Ordering::Release)),
                },
            )?
            .context("the holder did not sleep in mmap");
        }
        "uffd" => {
            let uffd = Uffd::new(FEATURE_NONE)?;
            let area = Mapping::anon(16)?;
            let source = Mapping::anon(1)?;
            source.write_all();
            for page in [0, 15] {
                area.write(page);
            }
            uffd.register(&area, Mode::Missing)?;
            return play(
                opts,
                Act {
                    held: "nothing: a fault drops its lock before it waits for userfaultfd",
                    area: &area,
                    call: Box::new(|| {
                        sys::poke(area.page(1));
                        Ok(())
                    }),
                    hog: None,
                    release: Box::new(|| uffd.copy(area.page(1), source.base())),
                    until: Box::new(|_| ()),
                },
            )?
            .context("the holder did not sleep in its fault");
        }
        _ => {}
    }
    hogged(opts)
}

/// A file of a slow disk, and a shared mapping of it of which one page is dirty.
fn dirty_file() -> Result<(SlowDisk, std::os::fd::OwnedFd, Mapping)> {
    const LEN: usize = 16 * PAGE;
    let disk = SlowDisk::start(LEN)?;
    let file = disk.open(0)?;
    let area = Mapping::file(&file, LEN, ALL, libc::MAP_SHARED)?;
    for page in 0..area.pages() {
        area.read(page);
    }
    area.write(1);
    Ok((disk, file, area))
}

/// The kinds that take the holder's processor away.
fn hogged(opts: &Opts) -> Result<Report> {
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cpus < 2 {
        return Err(impossible(
            "it needs two processors, one of which is taken from the holder; there is one",
        ));
    }
    let write = opts.kind == "write";
    let held = if write {
        "mmap_lock for writing, and the VMA"
    } else {
        "the VMA for reading (6.18 and later), or mmap_lock for reading"
    };
    const TRIES: usize = 50;
    for _ in 0..TRIES {
        let area = Mapping::anon(opts.pages.max(16))?;
        // The last page stays untouched for the fault.
        let most = area.pages() - 1;
        for page in 0..most {
            area.write(page);
        }
        let _throttle = Throttle::off();
        let act = Act {
            held,
            area: &area,
            call: Box::new(|| {
                if write {
                    area.protect(0, most, libc::PROT_READ)
                } else {
                    area.advise_part(0, most, libc::MADV_DONTNEED)
                }
            }),
            hog: Some(Hog::default()),
            release: Box::new(|| Ok(())),
            until: Box::new(|_| ()),
        };
        if let Some(report) = play(opts, act)? {
            return Ok(report);
        }
    }
    bail!(
        "the holder was not caught inside its call in {TRIES} tries; use more --pages so that it stays there longer"
    )
}

/// What all tasks share.
#[derive(Default)]
struct Scene {
    stop: AtomicBool,
    holder: Task,
    writer: Task,
    mapper: Task,
    faulter: Task,
}

impl Scene {
    /// If a task fails all stop, since the others would wait for it.
    fn stopping(&self, result: Result<()>) -> Result<()> {
        if result.is_err() {
            self.stop.store(true, Ordering::Release);
        }
        result
    }
}

/// Has the holder hold and the others wait. `None` if the holder was not inside its call when it should be.
#[expect(
    clippy::needless_pass_by_value,
    reason = "an act is played once: its hog cannot be used again"
)]
fn play(opts: &Opts, act: Act<'_>) -> Result<Option<Report>> {
    let scene = Scene::default();
    let Scene { stop, .. } = &scene;
    let report = thread::scope(|scope| {
        let (scene, act) = (&scene, &act);
        let mut handles = Vec::new();
        if let Some(hog) = &act.hog {
            handles.push(scope.spawn(|| scene.stopping(hog.run(1, stop))));
        }
        handles.push(scope.spawn(move || {
            let realtime = if act.hog.is_some() { realtime(10) } else { Ok(()) };
            let cpu = usize::from(act.hog.is_some());
            scene.stopping(realtime.and_then(|()| scene.holder.run("w-holder", cpu, stop, &act.call)))
        }));
        handles.push(scope.spawn(move || {
            let protect = || act.area.protect(0, 1, libc::PROT_READ);
            scene.stopping(scene.writer.run("w-writer", 0, stop, protect))
        }));
        handles.push(scope.spawn(move || {
            let map = || Mapping::anon(1)?.unmap();
            scene.stopping(scene.mapper.run("w-mmap", 0, stop, map))
        }));
        handles.push(scope.spawn(move || {
            let touch = || {
                act.area.write(act.area.pages() - 1);
                Ok(())
            };
            scene.stopping(scene.faulter.run("w-fault", 0, stop, touch))
        }));
        let directed = direct(opts, scene, act);
        stop.store(true, Ordering::Release);
        if !matches!(directed, Ok(Some(_))) {
            // Whoever sleeps must be woken, whatever went wrong.
            if let Some(hog) = &act.hog {
                hog.until.store(1, Ordering::Release);
            }
            (act.until)(1);
            drop((act.release)());
        }
        for handle in handles {
            handle.join().map_err(|_| anyhow!("a task panicked"))??;
        }
        directed
    })?;
    Ok(report.map(|mut report| {
        let tasks = [&scene.holder, &scene.writer, &scene.mapper, &scene.faulter];
        report.tids = tasks.iter().map(|t| t.tid.load(Ordering::Acquire)).collect();
        report.set("kind", opts.kind.clone());
        report.set("held", act.held);
        report.set("vma_start", act.area.base());
        report.set("vma_end", act.area.base() + act.area.len());
        if let Some(hog) = &act.hog {
            report.set("hog_tid", hog.tid.load(Ordering::Acquire));
        }
        report
    }))
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
const NO_NAP: Duration = Duration::ZERO;

/// Starts one after the other, and looks whether each sleeps.
fn direct(opts: &Opts, scene: &Scene, act: &Act<'_>) -> Result<Option<Report>> {
    pin(0)?;
    let others = [&scene.writer, &scene.mapper, &scene.faulter];
    let all = [&scene.holder, others[0], others[1], others[2]];
    let ready = |tid: &AtomicI32| {
        let up = || tid.load(Ordering::Acquire) != 0;
        until(|| up() || scene.stop.load(Ordering::Acquire), 5000, NAP) && up()
    };
    if !all.iter().all(|t| ready(&t.tid)) || !act.hog.as_ref().is_none_or(|h| ready(&h.tid)) {
        // The task itself says why.
        return Ok(None);
    }
    let holder = Stat::of(&scene.holder)?;
    let stats: Vec<Stat> = others.iter().map(|t| Stat::of(t)).collect::<Result<_>>()?;
    let long = u64::try_from(opts.duration.as_nanos()).unwrap_or(u64::MAX / 2);
    let begin = sys::now();
    let end = begin + long;
    (act.until)(end);
    scene.holder.go.store(true, Ordering::Release);
    if !until(|| scene.holder.begin.load(Ordering::Acquire) != 0, 5000, NO_NAP) {
        return Ok(None);
    }
    if let Some(hog) = &act.hog {
        hog.until.store(end, Ordering::Release);
        until(|| hog.runs.load(Ordering::Acquire), 1000, NO_NAP);
    } else {
        until(|| matches!(holder.state(), b'D' | b'S'), 1000, NAP);
    }
    if !scene.holder.inside() {
        return Ok(None);
    }
    let caught = sys::now();
    let holds = !act.held.starts_with("nothing");
    let mut slept = Vec::new();
    for (task, stat) in others.iter().zip(&stats) {
        task.go.store(true, Ordering::Release);
        let sleeps = || task.inside() && stat.state() == b'D';
        // With lockdep, and emulated, a call may take a tenth of a second to its lock.
        let mut asleep = until(|| sleeps() || task.done(), 1000, NAP);
        // Not just for a moment.
        thread::sleep(Duration::from_millis(2));
        asleep &= sleeps();
        if slept.is_empty() && !asleep && holds {
            // The holder was before or after its lock.
            return Ok(None);
        }
        slept.push(asleep);
    }
    sys::sleep_until(end);
    (act.release)()?;
    if !until(|| all.iter().all(|t| t.done()), 10_000, NAP) {
        bail!("the tasks did not come back within 10 s after the hold");
    }
    let mut report = Report {
        begin_ns: begin,
        end_ns: sys::now(),
        ..Report::default()
    };
    report.set("hold_ns", json!([caught, end]));
    report.set("holder", scene.holder.json("w-holder", "", act.hog.is_none()));
    let blocker = if slept[0] { "w-writer" } else { "w-holder" };
    report.set(
        "waits",
        json!([
            scene.writer.json("w-writer", "w-holder", slept[0]),
            scene.mapper.json("w-mmap", blocker, slept[1]),
            scene.faulter.json("w-fault", blocker, slept[2]),
        ]),
    );
    Ok(Some(report))
}
