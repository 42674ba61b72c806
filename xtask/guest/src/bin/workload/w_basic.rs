//! First touches of anonymous and shared memory.

use anyhow::Result;

use crate::cli::{Entry, Opts, PLAIN};
use crate::report::{Count, Report};
use crate::sys::{self, Mapping};
use crate::team::measure;

/// The workloads of this file.
pub(crate) const TABLE: &[Entry] = &[
    Entry {
        name: "anon",
        about: "Threads write to fresh anonymous memory, page by page",
        detail: "touches = threads x rounds x pages, each one fault (huge pages are off). All threads share one \
                 mapping, made before the measured part.",
        run: anon,
        ..PLAIN
    },
    Entry {
        name: "anon-read",
        about: "Threads read fresh anonymous memory (the zero page), then write to it",
        detail: "touches = wp_faults = threads x rounds x pages: each page takes one fault when it is read and one \
                 when the zero page is replaced.",
        run: anon_read,
        ..PLAIN
    },
    Entry {
        name: "shmem",
        about: "Threads write to shared memory (memfd) whose pages do not exist yet",
        detail: "shmem_faults = threads x rounds x pages, each one fault.",
        run: shmem,
        ..PLAIN
    },
];

/// The mapping of the dry run (one round) and the real one.
fn twice(make: impl Fn(usize) -> Result<Mapping>, opts: &Opts) -> Result<[Mapping; 2]> {
    let pages = opts.threads * opts.pages;
    Ok([make(pages)?, make(pages * opts.rounds)?])
}

fn anon(opts: &Opts) -> Result<Report> {
    let areas = twice(Mapping::anon, opts)?;
    first_touch(opts, &areas, Count::Touches)
}

fn shmem(opts: &Opts) -> Result<Report> {
    let make = |pages: usize| {
        let len = pages * sys::PAGE;
        let fd = sys::memfd(0)?;
        sys::truncate(&fd, len)?;
        Mapping::file(&fd, len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED)
    };
    let areas = twice(make, opts)?;
    first_touch(opts, &areas, Count::ShmemFaults)
}

fn first_touch(opts: &Opts, areas: &[Mapping; 2], count: Count) -> Result<Report> {
    measure(
        opts.threads,
        |index, phase| Ok((index, &areas[phase.index()])),
        |(index, area), counts| {
            // Neighbouring pages go to different threads: they meet on the same page tables.
            for page in (*index..area.pages()).step_by(opts.threads) {
                area.write(page);
                counts.add(count, 1);
            }
            Ok(())
        },
        |_| Ok(()),
    )
}

fn anon_read(opts: &Opts) -> Result<Report> {
    let areas = twice(Mapping::anon, opts)?;
    measure(
        opts.threads,
        |index, phase| Ok((index, &areas[phase.index()])),
        |(index, area), counts| {
            let mine = || (*index..area.pages()).step_by(opts.threads);
            for page in mine() {
                area.read(page);
                counts.add(Count::Touches, 1);
            }
            for page in mine() {
                area.write(page);
                counts.add(Count::WpFaults, 1);
            }
            Ok(())
        },
        |_| Ok(()),
    )
}
