//! madvise, which takes the read lock of a VMA on newer kernels and mmap_lock on older ones.

use anyhow::{Result, bail};

use crate::cli::{Entry, Opts, PLAIN};
use crate::report::{Count, Counts, Report};
use crate::sys::{self, Mapping, impossible};
use crate::team::{Phase, measure};
use crate::trap;

/// The workloads of this file.
pub(crate) const TABLE: &[Entry] = &[
    Entry {
        name: "madvise-dontneed",
        about: "Threads write pages and give them back with MADV_DONTNEED",
        detail: "touches = threads x rounds x pages, madvise_calls = threads x rounds: a page that was given back is \
                 fresh again. All threads work in one mapping, each on its own pages.",
        run: dontneed,
        ..PLAIN
    },
    Entry {
        name: "madvise-free",
        about: "Threads write pages and mark them as free with MADV_FREE",
        detail: "touches = threads x pages, madvise_calls = threads x rounds: as long as memory is not short, pages \
                 that were marked stay mapped and cost no fault when they are written again.",
        run: free,
        ..PLAIN
    },
    Entry {
        name: "madvise-guard",
        about: "Threads put guards on pages (MADV_GUARD_INSTALL), run into them, and take them away",
        detail: "In each round every thread guards its pages, writes to each (a SIGSEGV: signals = threads x rounds x \
                 pages, faults that getrusage does not count), removes the guards and writes again (touches = \
                 signals). madvise_calls = 2 x threads x rounds. Needs Linux 6.13.",
        run: guard,
        ..PLAIN
    },
];

/// MADV_GUARD_INSTALL.
const INSTALL: i32 = 102;
/// MADV_GUARD_REMOVE.
const REMOVE: i32 = 103;

/// Runs `round` on every thread, `opts.rounds` times, with one mapping and the first of the thread's own pages.
fn rounds(
    opts: &Opts,
    round: impl Fn(usize, &Mapping, usize, &mut Counts) -> Result<()> + Sync,
) -> Result<Report> {
    let pages = opts.threads * opts.pages;
    let areas = [Mapping::anon(pages)?, Mapping::anon(pages)?];
    measure(
        opts.threads,
        |index, phase: Phase| Ok((index * opts.pages, &areas[phase.index()], phase)),
        |(first, area, phase), counts| {
            let rounds = if *phase == Phase::Dry { 2 } else { opts.rounds };
            for at in 0..rounds {
                round(at, area, *first, counts)?;
            }
            Ok(())
        },
        |_| Ok(()),
    )
}

fn dontneed(opts: &Opts) -> Result<Report> {
    if opts.pages >= 512 {
        bail!(
            "with --pages 512 or more a call may give a page table back, too, and a touch by another thread be two faults"
        );
    }
    rounds(opts, |_, area, first, counts| {
        for page in 0..opts.pages {
            area.write(first + page);
        }
        counts.add(Count::Touches, opts.pages);
        area.advise_part(first, opts.pages, libc::MADV_DONTNEED)?;
        counts.add(Count::Madvise, 1);
        Ok(())
    })
}

fn free(opts: &Opts) -> Result<Report> {
    rounds(opts, |round, area, first, counts| {
        for page in 0..opts.pages {
            area.write(first + page);
        }
        if round == 0 {
            counts.add(Count::Touches, opts.pages);
        }
        area.advise_part(first, opts.pages, libc::MADV_FREE)?;
        counts.add(Count::Madvise, 1);
        Ok(())
    })
}

fn guard(opts: &Opts) -> Result<Report> {
    let probe = Mapping::anon(1)?;
    if let Err(error) = probe.advise(INSTALL) {
        if sys::errno(&error) == libc::EINVAL {
            return Err(impossible(
                "MADV_GUARD_INSTALL needs Linux 6.13 and this kernel has it not",
            ));
        }
        return Err(error);
    }
    trap::install()?;
    rounds(opts, |_, area, first, counts| {
        area.advise_part(first, opts.pages, INSTALL)?;
        for page in 0..opts.pages {
            if trap::store(area.page(first + page)) {
                bail!("writing to a guarded page worked");
            }
            counts.add(Count::Signals, 1);
        }
        area.advise_part(first, opts.pages, REMOVE)?;
        counts.add(Count::Madvise, 2);
        for page in 0..opts.pages {
            area.write(first + page);
        }
        counts.add(Count::Touches, opts.pages);
        Ok(())
    })
}
