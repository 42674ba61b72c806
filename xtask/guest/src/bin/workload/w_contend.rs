//! Faults against changes of the same mapping.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Result, bail};

use crate::Random;
use crate::cli::{Entry, Opts, PLAIN};
use crate::report::{Count, Counts, Report};
use crate::sys::{self, Mapping, PAGE};
use crate::team::{Phase, measure, others_work};
use crate::trap;

/// The workloads of this file.
pub(crate) const TABLE: &[Entry] = &[
    Entry {
        name: "writer",
        about: "A thread write-locks a mapping again and again while others fault on it",
        detail: "The first thread mprotects until the others are done, who write each page of the mapping once: touches \
                 = (threads - 1) x pages. Kinds:\n\
                 edge   it takes the last page's permission to be written and gives it back, so that the mapping is \
                 split and merged; the others' pages are not concerned and all counts are exact;\n\
                 whole  it makes all of the mapping executable and no longer, which changes the entries of pages while \
                 they are touched: some touches cost a second fault, and only the kernel's count tells how many.",
        threads: 3,
        pages: 2048,
        rounds: 0,
        kinds: &["edge", "whole"],
        run: writer,
        ..PLAIN
    },
    Entry {
        name: "detach",
        about: "A thread unmaps and maps memory again that others fault on",
        detail: "The first thread does so --rounds times, the others write to random pages of it until it is done. \
                 Kinds:\n\
                 unmap    munmap, then mmap at the same place: a write in between ends in SIGSEGV, which is survived \
                 and counted (signals; every fourth round waits for a write);\n\
                 replace  mmap over it, without a gap.\n\
                 mmap_calls, munmap_calls and signals are exact. How many of the others' writes were faults \
                 depends on when they came: only the kernel's count tells.",
        threads: 3,
        pages: 64,
        rounds: 200,
        kinds: &["unmap", "replace"],
        run: detach,
        ..PLAIN
    },
];

fn writer(opts: &Opts) -> Result<Report> {
    if opts.threads < 2 {
        bail!("--threads is 1, but it takes one that writes and at least one other");
    }
    let others = opts.threads - 1;
    let areas = [
        Mapping::anon(others * 4 + 1)?,
        Mapping::anon(others * opts.pages + 1)?,
    ];
    let left = [AtomicUsize::new(others), AtomicUsize::new(others)];
    let whole = opts.kind == "whole";
    let all = libc::PROT_READ | libc::PROT_WRITE;
    let mut report = measure(
        opts.threads,
        |index, phase: Phase| Ok((index, &areas[phase.index()], &left[phase.index()])),
        |(index, area, left), counts| {
            let last = area.pages() - 1;
            if *index > 0 {
                for page in (*index - 1..last).step_by(others) {
                    area.write(page);
                    counts.add(Count::Touches, 1);
                }
                left.fetch_sub(1, Ordering::Release);
                return Ok(());
            }
            loop {
                if whole {
                    area.protect(0, last, all | libc::PROT_EXEC)?;
                    area.protect(0, last, all)?;
                } else {
                    area.protect(last, 1, libc::PROT_READ)?;
                    area.protect(last, 1, all)?;
                }
                counts.add(Count::Mprotect, 2);
                if left.load(Ordering::Acquire) == 0 {
                    return Ok(());
                }
                others_work()?;
            }
        },
        |_| Ok(()),
    )?;
    report.exact = !whole;
    report.set("kind", opts.kind.clone());
    Ok(report)
}

/// Lets the others stop, however the first thread ends.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn detach(opts: &Opts) -> Result<Report> {
    if opts.threads < 2 {
        bail!("--threads is 1, but it takes one that unmaps and at least one other");
    }
    trap::install()?;
    let areas = [Mapping::anon(opts.pages)?, Mapping::anon(opts.pages)?];
    let done = [AtomicBool::new(false), AtomicBool::new(false)];
    let stores = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let gap = opts.kind == "unmap";
    let mut report = measure(
        opts.threads,
        |index, phase: Phase| {
            let random = Random::new(opts.seed, index);
            Ok((index, phase, random))
        },
        |(index, phase, random), counts| {
            let (area, done) = (&areas[phase.index()], &done[phase.index()]);
            let stores = &stores[phase.index()];
            if *index == 0 {
                let _done = Done(done);
                let rounds = if *phase == Phase::Dry { 3 } else { opts.rounds };
                return churn(area, rounds, gap, stores, counts);
            }
            while !done.load(Ordering::Acquire) {
                if !trap::store(area.page(random.below(area.pages()))) {
                    counts.add(Count::Signals, 1);
                }
                stores.fetch_add(1, Ordering::Release);
            }
            Ok(())
        },
        |_| Ok(()),
    )?;
    report.exact = false;
    report.set("kind", opts.kind.clone());
    Ok(report)
}

/// Waits until some other thread has written once more, so that every change meets somebody.
fn wait_for_a_store(stores: &AtomicUsize) -> Result<()> {
    let before = stores.load(Ordering::Acquire);
    while stores.load(Ordering::Acquire) == before {
        others_work()?;
        std::thread::yield_now();
    }
    Ok(())
}

fn churn(area: &Mapping, rounds: usize, gap: bool, stores: &AtomicUsize, counts: &mut Counts) -> Result<()> {
    for round in 0..rounds {
        wait_for_a_store(stores)?;
        if gap {
            sys::unmap_at(area.base(), area.pages() * PAGE)?;
            counts.add(Count::Munmap, 1);
            if round % 4 == 0 {
                wait_for_a_store(stores)?;
            }
        }
        sys::map_over(area.base(), area.len(), libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)?;
        counts.add(Count::Mmap, 1);
    }
    Ok(())
}
