//! Forks, and what they leave write-protected.

use std::sync::Mutex;

use anyhow::{Result, anyhow};

use crate::child::{Nursery, seal};
use crate::cli::{Entry, Opts, PLAIN};
use crate::report::{Child, Count, Report};
use crate::sys::{Mapping, PAGE};
use crate::team::measure;

/// The workloads of this file.
pub(crate) const TABLE: &[Entry] = &[
    Entry {
        name: "fork",
        about: "A thread forks; children write pages that they share with it; then it writes them, too",
        detail: "forks = rounds. Each child writes the first half of the thread's pages (child_faults) and exits; then \
                 the thread writes all of them: wp_faults = rounds x pages. Only the first thread forks, the others \
                 touch fresh memory meanwhile that children do not get (touches = (threads - 1) x rounds x pages). \
                 Children take some faults of their own on text and stack, which `children` tells.",
        run: |opts| forks(opts, true),
        ..PLAIN
    },
    Entry {
        name: "wp",
        about: "A thread writes pages again and again that a fork has write-protected",
        detail: "wp_faults = rounds x pages, forks = rounds: like fork, but the child touches nothing and lives until \
                 the thread has written all its pages, so that every write copies. One thread.",
        threads: 0,
        run: |opts| forks(opts, false),
        ..PLAIN
    },
];

/// What there is for the dry run, and for the real one.
struct World {
    forked: Mapping,
    fresh: Mapping,
    nursery: Nursery,
    rounds: usize,
    children: Mutex<Vec<Child>>,
}

impl World {
    fn new(opts: &Opts, rounds: usize) -> Result<Self> {
        let forked = Mapping::anon(opts.pages)?;
        forked.write_all();
        Ok(Self {
            forked,
            fresh: Mapping::anon((opts.threads.max(1) * rounds * opts.pages).max(1))?,
            nursery: Nursery::new()?,
            rounds,
            children: Mutex::new(Vec::with_capacity(rounds)),
        })
    }
}

fn forks(opts: &Opts, wait_first: bool) -> Result<Report> {
    let threads = opts.threads.max(1);
    let worlds = [World::new(opts, 1)?, World::new(opts, opts.rounds)?];
    let seal_all = || seal(&[&worlds[0].forked, &worlds[1].forked]);
    let mut report = measure(
        threads,
        |index, phase| Ok((index, &worlds[phase.index()])),
        |(index, world), counts| {
            if *index > 0 {
                for page in (*index - 1..world.fresh.pages()).step_by(threads) {
                    world.fresh.write(page);
                    counts.add(Count::Touches, 1);
                }
                return Ok(());
            }
            for _ in 0..world.rounds {
                let touched = if wait_first { opts.pages / 2 } else { 0 };
                let pid = world
                    .nursery
                    .start(world.forked.base(), touched, 0, 0, !wait_first)?;
                counts.add(Count::Forks, 1);
                let mut child = None;
                if wait_first {
                    child = Some(world.nursery.wait(pid)?);
                }
                world.forked.write_all();
                counts.add(Count::WpFaults, opts.pages);
                let child = match child {
                    Some(child) => child,
                    None => {
                        world.nursery.release();
                        world.nursery.wait(pid)?
                    }
                };
                counts.add(Count::ChildFaults, touched);
                world
                    .children
                    .lock()
                    .map_err(|_| anyhow!("another thread panicked"))?
                    .push(child);
            }
            Ok(())
        },
        |_| {
            seal_all()?;
            // Children of the dry run have left it write-protected, and this thread is not measured.
            worlds[1].forked.write_all();
            Ok(())
        },
    )?;
    let [_, world] = worlds;
    report.children = world
        .children
        .into_inner()
        .map_err(|_| anyhow!("a thread panicked"))?;
    report.set("forked_bytes", opts.pages * PAGE);
    Ok(report)
}
