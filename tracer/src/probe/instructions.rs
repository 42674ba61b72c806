//! Attaches the one program for instructions to all of them, several at a time.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use super::perf::{self, Attached};
use super::{Mechanism, Point};

/// How many threads attach and detach. The kernel does the work under locks of its own; but much of its time it waits.
const WORKERS: usize = 16;

/// What is attached to instructions. Dropping it detaches all.
#[derive(Debug, Default)]
pub(super) struct Instructions {
    attached: Vec<(u32, Vec<Attached>)>,
}

/// The programs, as loaded.
pub(super) struct Programs<'a> {
    /// For kprobes.
    pub(super) kprobe: Option<BorrowedFd<'a>>,
    /// For breakpoints.
    pub(super) breakpoint: Option<BorrowedFd<'a>>,
}

/// Attaches what it can; gives the numbers of the sites that failed, and why.
pub(super) fn attach(
    points: &[Point],
    programs: &Programs<'_>,
    cpus: &[u32],
) -> (Instructions, Vec<(u32, io::Error)>) {
    let start = Instant::now();
    let kprobe_type = perf::kprobe_type();
    let results = in_parallel(points.iter().collect(), |point: &Point| {
        (point.site, one(point, programs, &kprobe_type, cpus))
    });
    let mut instructions = Instructions::default();
    let mut failed = Vec::new();
    for (site, result) in results {
        match result {
            Ok(attached) => instructions.attached.push((site, attached)),
            Err(error) => failed.push((site, error)),
        }
    }
    failed.sort_by_key(|&(site, _)| site);
    log::debug!(
        "{} instructions attached, {} refused, in {} ms",
        instructions.attached.len(),
        failed.len(),
        start.elapsed().as_millis()
    );
    (instructions, failed)
}

fn one(
    point: &Point,
    programs: &Programs<'_>,
    kprobe_type: &io::Result<u32>,
    cpus: &[u32],
) -> io::Result<Vec<Attached>> {
    let not_loaded = || io::Error::other("its program was refused");
    let cookie = u64::from(point.site - tracer_common::site::FIRST_DYNAMIC);
    if point.by == Mechanism::Breakpoint {
        let program = programs.breakpoint.ok_or_else(not_loaded)?;
        // On all CPUs or on none: a place that is seen on some only would be worse than one that is not.
        return cpus
            .iter()
            .map(|&cpu| perf::breakpoint(program, point.address, cookie, cpu))
            .collect();
    }
    let program = programs.kprobe.ok_or_else(not_loaded)?;
    let kprobe_type = match kprobe_type {
        Ok(number) => *number,
        Err(error) => return Err(io::Error::new(error.kind(), "this kernel has no kprobes")),
    };
    Ok(vec![perf::kprobe(kprobe_type, program, point.address, cookie)?])
}

impl Instructions {
    /// How often the kernel skipped a kprobe, by the number of its site; only those that it did skip.
    pub(super) fn missed(&self) -> Vec<(u32, u64)> {
        self.attached
            .iter()
            .map(|(site, attached)| (*site, attached.iter().filter_map(Attached::missed).sum()))
            .filter(|&(_, missed)| missed != 0)
            .collect()
    }
}

impl Drop for Instructions {
    fn drop(&mut self) {
        let count = self.attached.len();
        if count == 0 {
            return;
        }
        let start = Instant::now();
        in_parallel(std::mem::take(&mut self.attached), drop);
        log::debug!(
            "{count} instructions detached in {} ms",
            start.elapsed().as_millis()
        );
    }
}

/// Does `work` on each of `jobs`, on several threads, in no order.
fn in_parallel<T: Send, R: Send>(jobs: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let workers = WORKERS.min(jobs.len());
    let jobs = Mutex::new(jobs);
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let job = jobs.lock().map(|mut jobs| jobs.pop());
                    let Ok(Some(job)) = job else { break };
                    let result = work(job);
                    if let Ok(mut results) = results.lock() {
                        results.push(result);
                    }
                }
            });
        }
    });
    results.into_inner().unwrap_or_default()
}
