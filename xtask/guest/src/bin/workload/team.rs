//! Runs the measured part of a workload on several threads, and nothing else in it.
//!
//! The faults of a measured part must be the ones that the workload counts. So all else happens before: threads are
//! created, their stacks touched, their code run once on other memory (the dry run); then everybody waits. Only then
//! is the beginning noted and the gate opened, and the end is noted when everybody waits again.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::report::{Count, Counts, Report};
use crate::sys::{self, Faults};

/// Which of the two times that a workload's code runs this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not measured: warms code and data.
    Dry,
    /// The measured one.
    Real,
}

impl Phase {
    /// 0 for the dry run, 1 for the real one: an index into whatever exists twice.
    pub(crate) fn index(self) -> usize {
        usize::from(self == Self::Real)
    }
}

/// Has the work of some thread failed?
static FAILED: AtomicBool = AtomicBool::new(false);

const OTHER: &str = "another thread failed";

/// Fails if the work of another thread has: for loops that wait for one.
pub(crate) fn others_work() -> Result<()> {
    if FAILED.load(Ordering::Relaxed) {
        bail!(OTHER);
    }
    Ok(())
}

/// Notes a failure for [`others_work`].
fn noting<T>(result: Result<T>) -> Result<T> {
    if result.is_err() {
        FAILED.store(true, Ordering::Relaxed);
    }
    result
}

/// What a thread hands back.
struct Done {
    tid: i32,
    counts: Counts,
    counted: Faults,
}

/// Threads' stacks: enough for every workload, small enough to be touched in no time.
const STACK: usize = 512 << 10;

/// How deep [`touch_stack`] goes on them.
const DEPTH: usize = 7;

/// Uses the stack once as deep as any workload goes.
#[inline(never)]
pub(crate) fn touch_stack(depth: usize) -> u8 {
    let mut block = [0_u8; 32 << 10];
    for at in (0..block.len()).step_by(sys::PAGE) {
        // SAFETY: `at` is inside the block.
        unsafe { std::ptr::write_volatile(block.as_mut_ptr().add(at), 1) };
    }
    let below = if depth == 0 { 0 } else { touch_stack(depth - 1) };
    std::hint::black_box(&block)[0] ^ below
}

/// Runs `prepare`, then `work`, on every thread, first dry and then for real; only the real `work` is measured.
///
/// `ready` runs on the main thread while all others wait: before the dry run, and, when all threads are prepared, just
/// before the measured part.
pub(crate) fn measure<S>(
    threads: usize,
    prepare: impl Fn(usize, Phase) -> Result<S> + Sync,
    work: impl Fn(&mut S, &mut Counts) -> Result<()> + Sync,
    ready: impl Fn(Phase) -> Result<()>,
) -> Result<Report> {
    let gate = Barrier::new(threads + 1);
    let stop = AtomicBool::new(false);
    let mut report = Report {
        exact: true,
        ..Report::default()
    };
    touch_stack(2);
    let results = thread::scope(|scope| -> Result<Vec<Result<Done>>> {
        let mut handles = Vec::new();
        let mut failed = None;
        for index in 0..threads {
            let (gate, stop, prepare, work) = (&gate, &stop, &prepare, &work);
            let spawned = thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, move || member(index, gate, stop, prepare, work));
            match spawned {
                Ok(handle) => handles.push(handle),
                // The threads that exist wait for all: there is no way on.
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        if let Some(error) = failed {
            eprintln!(
                "workload: creating thread {} of {threads}: {error}; use fewer --threads",
                handles.len()
            );
            std::process::exit(1);
        }
        let stop_if_failed = |result: Result<()>| {
            if result.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            result
        };
        gate.wait();
        let readied = stop_if_failed(ready(Phase::Dry));
        gate.wait();
        gate.wait();
        gate.wait();
        let readied = readied.and(stop_if_failed(ready(Phase::Real)));
        let before = (Faults::of(libc::RUSAGE_THREAD), sys::now());
        let before = (before.0, Faults::of(libc::RUSAGE_SELF), sys::now());
        gate.wait();
        gate.wait();
        report.end_ns = sys::now();
        let own = Faults::of(libc::RUSAGE_THREAD).since(before.0);
        report.counted = Faults::of(libc::RUSAGE_SELF).since(before.1);
        report.begin_ns = before.2;
        gate.wait();
        let results = handles
            .into_iter()
            .map(|h| h.join().unwrap_or_else(|_| Err(anyhow!("it panicked"))))
            .collect();
        readied?;
        if own != Faults::default() {
            bail!("the main thread took {} faults while it waited", own.all());
        }
        Ok(results)
    })?;
    // The first cause comes first: others fail because of it.
    let mut results: Vec<_> = results
        .into_iter()
        .enumerate()
        .map(|(index, result)| result.with_context(|| format!("thread {index}")))
        .collect();
    if let Some(first) = results
        .iter()
        .position(|r| r.as_ref().is_err_and(|e| e.root_cause().to_string() != OTHER))
    {
        results.swap(0, first);
    }
    let mut by_thread = Vec::new();
    for result in results {
        let done = result?;
        report.tids.push(done.tid);
        report.counts.merge(&done.counts);
        by_thread.push((done.counts.faults(), done.counted.all()));
    }
    report.set(
        "by_thread",
        by_thread
            .iter()
            .map(|(ours, counted)| serde_json::json!({"faults": ours, "counted": counted}))
            .collect::<Vec<_>>(),
    );
    Ok(report)
}

fn member<S>(
    index: usize,
    gate: &Barrier,
    stop: &AtomicBool,
    prepare: &(impl Fn(usize, Phase) -> Result<S> + Sync),
    work: &(impl Fn(&mut S, &mut Counts) -> Result<()> + Sync),
) -> Result<Done> {
    touch_stack(DEPTH);
    gate.wait();
    gate.wait();
    // Whatever happens, all barriers must be passed, or the others wait for ever.
    let stopped = || stop.load(Ordering::Relaxed);
    let mut dry = Ok(());
    if !stopped() {
        dry = prepare(index, Phase::Dry)
            .and_then(|mut state| noting(work(&mut state, &mut Counts::default())))
            .context("dry run");
        dry = noting(dry);
    }
    gate.wait();
    let mut prepared = dry.and_then(|()| prepare(index, Phase::Real).context("preparing"));
    if prepared.is_err() {
        stop.store(true, Ordering::Relaxed);
    }
    let mut counts = Counts::default();
    touch_stack(DEPTH);
    Faults::of(libc::RUSAGE_THREAD);
    gate.wait();
    let before = Faults::of(libc::RUSAGE_THREAD);
    gate.wait();
    let worked = match &mut prepared {
        Ok(state) if !stopped() => noting(work(state, &mut counts)),
        _ => Ok(()),
    };
    let counted = Faults::of(libc::RUSAGE_THREAD).since(before);
    gate.wait();
    gate.wait();
    drop(prepared?);
    worked?;
    Ok(Done {
        tid: sys::tid(),
        counts,
        counted,
    })
}

/// Fails if the kernel counted other faults than the workload did, on any thread.
pub(crate) fn verify(report: &Report) -> Result<()> {
    if !report.exact {
        return Ok(());
    }
    let threads = report.more.get("by_thread").and_then(|v| v.as_array());
    for (index, thread) in threads.into_iter().flatten().enumerate() {
        let (ours, counted) = (&thread["faults"], &thread["counted"]);
        if ours != counted {
            bail!("thread {index} made {ours} faults, but the kernel counted {counted} in it: {ADVICE}");
        }
    }
    let (ours, counted) = (report.counts.faults(), report.counted.all());
    if ours != counted {
        bail!("{ours} faults were made, but the kernel counted {counted} in this process: {ADVICE}");
    }
    for child in &report.children {
        if child.known > child.counted.all() {
            bail!(
                "child {} made {} faults, but the kernel counted {}",
                child.pid,
                child.known,
                child.counted.all()
            );
        }
    }
    let known: u64 = report.children.iter().map(|c| c.known).sum();
    if known != report.counts.get(Count::ChildFaults) {
        bail!(
            "children made {known} faults, but {} were expected of them",
            report.counts.get(Count::ChildFaults)
        );
    }
    Ok(())
}

const ADVICE: &str = "something else moved pages meanwhile (swapping, compaction, huge pages), or this kernel counts \
     otherwise; run it again with free memory, and tell us if it stays so";
