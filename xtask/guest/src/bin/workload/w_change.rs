//! Changes of mappings.

use anyhow::{Result, bail};

use crate::child::{Nursery, seal};
use crate::cli::{Entry, Opts, PLAIN};
use crate::report::{Child, Count, Report};
use crate::sys::{self, Mapping, PAGE};
use crate::team::{Phase, measure};

/// The workloads of this file.
pub(crate) const TABLE: &[Entry] = &[
    Entry {
        name: "mprotect",
        about: "Threads change the protection of their mappings and touch them",
        detail: "In each round every thread makes its mapping read-only and writable again (mprotect_calls = 2 x \
                 threads x rounds), then writes pages that it has not touched yet (touches = threads x rounds x \
                 pages) and all pages that it has: those became writable along with the mapping and cost no fault.",
        run: mprotect,
        ..PLAIN
    },
    Entry {
        name: "munmap",
        about: "Threads map, touch and unmap memory, in pieces, while others fault elsewhere",
        detail: "Every other thread maps three times its pages in each round, writes all, unmaps the middle third and \
                 then the two ends: mmap_calls = churning threads x rounds, munmap_calls three times that. The others \
                 write fresh pages of one lasting mapping. touches counts both.",
        run: munmap,
        ..PLAIN
    },
    Entry {
        name: "mremap",
        about: "Threads grow, move and shrink mappings, and touch them",
        detail: "In each round every thread maps its pages, writes them, grows the mapping to twice that (the kernel \
                 may move it), writes the new half, moves it to where another mapping was (which that unmaps), \
                 shrinks it to half and unmaps it. touches = 2 x threads x rounds x pages; mremap_calls = 3 x threads \
                 x rounds, mmap_calls = 2 x, munmap_calls = 1 x that.",
        run: mremap,
        ..PLAIN
    },
    Entry {
        name: "stack",
        about: "Threads touch growing stacks (MAP_GROWSDOWN) page by page downwards",
        detail: "Each touch is one fault below the mapping, which grows under mmap_lock for writing: touches = \
                 stack_expansions = threads x pages. No more than 1,000 pages, since the kernel limits stacks.",
        rounds: 0,
        run: stack,
        ..PLAIN
    },
    Entry {
        name: "exit",
        about: "Processes with many mappings are forked, touch them, and exit",
        detail: "Every thread forks one child in each round (forks = threads x rounds), which makes --pages mappings \
                 of two pages, neighbours with different protections, writes all pages (child_faults = forks x 2 x \
                 pages) and exits with them. `children` tells what the kernel counted, faults on text and stack \
                 included.",
        run: exit,
        ..PLAIN
    },
];

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

fn munmap(opts: &Opts) -> Result<Report> {
    let lasting = [
        Mapping::anon(opts.threads * opts.pages)?,
        Mapping::anon(opts.threads * opts.pages * opts.rounds)?,
    ];
    measure(
        opts.threads,
        |index, phase| Ok((index, phase)),
        |(index, phase), counts| {
            let rounds = rounds(opts, *phase);
            if *index % 2 == 1 {
                let area = &lasting[phase.index()];
                for page in (*index..area.pages()).step_by(opts.threads) {
                    area.write(page);
                    counts.add(Count::Touches, 1);
                }
                return Ok(());
            }
            for _ in 0..rounds {
                let third = opts.pages * PAGE;
                let area = Mapping::anon(3 * opts.pages)?;
                counts.add(Count::Mmap, 1);
                area.write_all();
                counts.add(Count::Touches, area.pages());
                for piece in area.split3(third) {
                    piece.unmap()?;
                    counts.add(Count::Munmap, 1);
                }
            }
            Ok(())
        },
        |_| Ok(()),
    )
}

fn mremap(opts: &Opts) -> Result<Report> {
    measure(
        opts.threads,
        |_, phase| Ok(rounds(opts, phase)),
        |rounds, counts| {
            for _ in 0..*rounds {
                let place = Mapping::anon(2 * opts.pages)?;
                let area = Mapping::anon(opts.pages)?;
                counts.add(Count::Mmap, 2);
                area.write_all();
                let area = area.remap(2 * opts.pages, None)?;
                for page in opts.pages..2 * opts.pages {
                    area.write(page);
                }
                counts.add(Count::Touches, 2 * opts.pages);
                let area = area.remap(2 * opts.pages, Some(place))?.remap(opts.pages, None)?;
                counts.add(Count::Mremap, 3);
                area.write_all();
                area.unmap()?;
                counts.add(Count::Munmap, 1);
            }
            Ok(())
        },
        |_| Ok(()),
    )
}

/// Addresses for growing stacks: a page that is mapped so that it grows, with nothing below it but, at the end, pages
/// that cannot be accessed, for which the kernel leaves no gap.
struct Stacks {
    whole: Mapping,
    each: usize,
    pages: usize,
}

/// Inaccessible pages below each stack.
const BELOW: usize = 16;

impl Stacks {
    fn new(threads: usize, pages: usize) -> Result<Self> {
        let each = (BELOW + pages + 1) * PAGE;
        let whole = Mapping::map(
            threads * each,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
        )?;
        let stacks = Self { whole, each, pages };
        for index in 0..threads {
            sys::map_over(
                stacks.top(index),
                PAGE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_GROWSDOWN,
            )?;
        }
        Ok(stacks)
    }

    /// The page that is there from the start.
    fn top(&self, index: usize) -> usize {
        self.whole.base() + index * self.each + (BELOW + self.pages) * PAGE
    }

    /// Makes room for the stacks to grow; from then on other mappings might come there, so it is done late.
    fn open(&self) -> Result<()> {
        let count = self.whole.len() / self.each;
        for index in 0..count {
            let room = self.pages * PAGE;
            sys::unmap_at(self.top(index) - room, room)?;
        }
        Ok(())
    }
}

fn stack(opts: &Opts) -> Result<Report> {
    if opts.pages > 1000 {
        bail!("--pages is {}, but stacks may have 1000 pages", opts.pages);
    }
    let stacks = [
        Stacks::new(opts.threads, 2)?,
        Stacks::new(opts.threads, opts.pages)?,
    ];
    measure(
        opts.threads,
        |index, phase: Phase| Ok((index, &stacks[phase.index()])),
        |(index, stacks), counts| {
            for page in 1..=stacks.pages {
                sys::poke(stacks.top(*index) - page * PAGE);
                counts.add(Count::Touches, 1);
                counts.add(Count::Expansions, 1);
            }
            Ok(())
        },
        |phase| stacks[phase.index()].open(),
    )
}

fn exit(opts: &Opts) -> Result<Report> {
    let children = std::sync::Mutex::new(Vec::<Child>::with_capacity(opts.threads * opts.rounds));
    let mut report = measure(
        opts.threads,
        |_, phase| Ok((Nursery::new()?, phase)),
        |(nursery, phase), counts| {
            for _ in 0..rounds(opts, *phase) {
                let pid = nursery.start(0, 0, opts.pages, 2, false)?;
                counts.add(Count::Forks, 1);
                let child = nursery.wait(pid)?;
                counts.add(Count::ChildFaults, 2 * opts.pages);
                if *phase == Phase::Real
                    && let Ok(mut children) = children.lock()
                {
                    children.push(child);
                }
            }
            Ok(())
        },
        |_| seal(&[]),
    )?;
    report.children = children.into_inner().unwrap_or_default();
    report.set("child_mmap_calls", opts.pages * report.children.len());
    Ok(report)
}
