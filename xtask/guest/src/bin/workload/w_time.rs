//! Workloads that run for a time.

use std::sync::Mutex;

use anyhow::{Result, anyhow};

use crate::cli::{Entry, Opts, PLAIN};
use crate::report::{Count, Report};
use crate::sys::{self, Mapping};
use crate::team::{Phase, measure};

/// The workloads of this file.
pub(crate) const TABLE: &[Entry] = &[
    Entry {
        name: "storm",
        about: "Threads fault as fast as they can, for a time",
        detail: "Every thread writes its pages, gives them back (MADV_DONTNEED) and starts again until the time is up; \
                 each write is one fault. per_second is the rate of faults of all threads together.",
        pages: 512,
        rounds: 0,
        millis: 3000,
        run: storm,
        ..PLAIN
    },
    Entry {
        name: "tick",
        about: "A thread touches one fresh page every 10 ms",
        detail: "touch_ns has the times (CLOCK_MONOTONIC) just before each touch, for tests of latency: the event of \
                 a touch should be seen soon after. --pages says how many.",
        threads: 0,
        pages: 100,
        rounds: 0,
        run: tick,
        ..PLAIN
    },
];

fn storm(opts: &Opts) -> Result<Report> {
    let mut report = measure(
        opts.threads,
        |_, phase| {
            let millis = if phase == Phase::Dry { 1 } else { 0 };
            // Giving all pages of a page table back gives the table back, too; a thread that was about to fault in it
            // would fault twice. So no two threads have one in common.
            Ok((Mapping::anon_apart(opts.pages)?, millis))
        },
        |(area, millis), counts| {
            let long = if *millis > 0 {
                *millis * 1_000_000
            } else {
                nanos(opts)
            };
            let until = sys::now() + long;
            while sys::now() < until {
                for page in 0..opts.pages {
                    area.write(page);
                }
                counts.add(Count::Touches, opts.pages);
                area.advise_part(0, opts.pages, libc::MADV_DONTNEED)?;
                counts.add(Count::Madvise, 1);
            }
            Ok(())
        },
        |_| Ok(()),
    )?;
    let seconds = (report.end_ns - report.begin_ns) as f64 / 1e9;
    let rate = report.counts.get(Count::Touches) as f64 / seconds;
    report.set("per_second", rate.round());
    Ok(report)
}

fn nanos(opts: &Opts) -> u64 {
    u64::try_from(opts.duration.as_nanos()).unwrap_or(u64::MAX / 2)
}

const TICK: u64 = 10_000_000;

fn tick(opts: &Opts) -> Result<Report> {
    let stamps = Mutex::new(Vec::new());
    let mut report = measure(
        1,
        |_, phase| {
            let pages = if phase == Phase::Dry { 2 } else { opts.pages };
            Ok((Mapping::anon(pages)?, vec![1_u64; pages]))
        },
        |(area, times), counts| {
            let start = sys::now();
            for (page, time) in times.iter_mut().enumerate() {
                sys::sleep_until(start + page as u64 * TICK);
                *time = sys::now();
                area.write(page);
                counts.add(Count::Touches, 1);
            }
            *stamps.lock().map_err(|_| anyhow!("another thread panicked"))? = std::mem::take(times);
            Ok(())
        },
        |_| Ok(()),
    )?;
    let stamps = stamps.into_inner().map_err(|_| anyhow!("a thread panicked"))?;
    report.set("touch_ns", stamps);
    report.set("period_ns", TICK);
    Ok(report)
}
