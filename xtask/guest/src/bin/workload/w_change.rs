//! Changes of mappings.

use anyhow::Result;

use crate::cli::{Entry, Opts, PLAIN};
use crate::report::{Count, Report};
use crate::sys::Mapping;
use crate::team::{Phase, measure};

/// The workloads of this file.
pub(crate) const TABLE: &[Entry] = &[Entry {
    name: "mprotect",
    about: "Threads change the protection of their mappings and touch them",
    detail: "In each round every thread makes its mapping read-only and writable again (mprotect_calls = 2 x threads x \
             rounds), then writes pages that it has not touched yet (touches = threads x rounds x pages) and all \
             pages that it has: those became writable along with the mapping and cost no fault.",
    run: mprotect,
    ..PLAIN
}];

fn rounds(opts: &Opts, phase: Phase) -> usize {
    if phase == Phase::Dry { 1 } else { opts.rounds }
}

fn mprotect(opts: &Opts) -> Result<Report> {
    measure(
        opts.threads,
        |_, phase| Mapping::anon(rounds(opts, phase) * opts.pages),
        |area, counts| {
            for first in (0..area.pages()).step_by(opts.pages) {
                area.protect(0, area.pages(), libc::PROT_READ)?;
                area.protect(0, area.pages(), libc::PROT_READ | libc::PROT_WRITE)?;
                counts.add(Count::Mprotect, 2);
                for page in 0..first + opts.pages {
                    area.write(page);
                }
                counts.add(Count::Touches, opts.pages);
            }
            Ok(())
        },
        |_| Ok(()),
    )
}
