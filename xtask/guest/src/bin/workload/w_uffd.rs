//! Faults that userspace resolves, and the ioctls that resolve them.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, bail};

use crate::cli::{Entry, Opts, PLAIN};
use crate::report::{Count, Counts, Report};
use crate::sys::{self, Mapping, PAGE};
use crate::team::{Phase, measure};
use crate::trap;
use crate::uffd::{FEATURE_MINOR, FEATURE_MOVE, FEATURE_NONE, FEATURE_POISON, FEATURE_WP, Mode, Uffd};

/// The workloads of this file.
pub(crate) const TABLE: &[Entry] = &[
    Entry {
        name: "uffd-missing",
        about: "Threads touch missing pages; another thread supplies them with UFFDIO_COPY",
        detail: "uffd_faults = uffd_messages = uffd_copy_calls = threads x pages: each touch is one fault, which drops \
                 its lock, sleeps, and is taken up again under mmap_lock. One thread more than --threads serves them.",
        rounds: 0,
        run: |opts| served(opts, &MISSING),
        ..PLAIN
    },
    Entry {
        name: "uffd-wp",
        about: "Threads write to pages that are write-protected through userfaultfd; another thread lifts that",
        detail: "uffd_faults = uffd_messages = uffd_writeprotect_calls = threads x pages. One thread more than \
                 --threads serves them.",
        rounds: 0,
        run: |opts| served(opts, &WP),
        ..PLAIN
    },
    Entry {
        name: "uffd-minor",
        about: "Threads touch pages that are in the page cache but not mapped; another thread maps them",
        detail: "uffd_faults = uffd_messages = uffd_continue_calls = threads x pages, on a memfd. One thread more than \
                 --threads serves them with UFFDIO_CONTINUE.",
        rounds: 0,
        run: |opts| served(opts, &MINOR),
        ..PLAIN
    },
    Entry {
        name: "uffd-copy",
        about: "Threads fill a mapping with UFFDIO_COPY, then write it without faults",
        detail: "uffd_copy_calls = threads x pages, each of one page; no faults.",
        rounds: 0,
        run: |opts| filled(opts, Filler::Copy),
        ..PLAIN
    },
    Entry {
        name: "uffd-zeropage",
        about: "Threads fill a mapping with UFFDIO_ZEROPAGE, read it without faults, then write it",
        detail: "uffd_zeropage_calls = wp_faults = threads x pages: each call maps one zero page, which a write \
                 replaces.",
        rounds: 0,
        run: |opts| filled(opts, Filler::Zero),
        ..PLAIN
    },
    Entry {
        name: "uffd-continue",
        about: "Threads map pages of the page cache with UFFDIO_CONTINUE, then write them without faults",
        detail: "uffd_continue_calls = threads x pages, each of one page of a memfd; no faults.",
        rounds: 0,
        run: |opts| filled(opts, Filler::Continue),
        ..PLAIN
    },
    Entry {
        name: "uffd-move",
        about: "Threads move pages between mappings with UFFDIO_MOVE, then write them without faults",
        detail: "uffd_move_calls = threads x pages, each of one page; no faults. A call that the kernel asks to repeat \
                 (EAGAIN, EBUSY) is repeated and counted each time.",
        rounds: 0,
        run: |opts| filled(opts, Filler::Move),
        ..PLAIN
    },
    Entry {
        name: "uffd-poison",
        about: "Threads poison pages with UFFDIO_POISON and run into them",
        detail: "uffd_poison_calls = signals = threads x pages: each access ends in SIGBUS, a fault that getrusage \
                 does not count.",
        rounds: 0,
        run: |opts| filled(opts, Filler::Poison),
        ..PLAIN
    },
];

/// A way to have faults served.
struct Service {
    feature: (u64, &'static str),
    mode: Mode,
    count: Count,
    resolve: fn(&World, usize) -> Result<()>,
}

const MISSING: Service = Service {
    feature: FEATURE_NONE,
    mode: Mode::Missing,
    count: Count::UffdCopy,
    resolve: |world, at| world.uffd.copy(at, world.source.base()),
};
const WP: Service = Service {
    feature: FEATURE_WP,
    mode: Mode::Wp,
    count: Count::UffdWp,
    resolve: |world, at| world.uffd.protect(at, 1, false),
};
const MINOR: Service = Service {
    feature: FEATURE_MINOR,
    mode: Mode::Minor,
    count: Count::UffdContinue,
    resolve: |world, at| world.uffd.proceed(at),
};

/// What exists before the measured part.
struct World {
    uffd: Uffd,
    area: Mapping,
    /// What copies come from: one page, or as many as there are.
    source: Mapping,
    /// Keeps the file of a shared mapping open.
    _file: Option<OwnedFd>,
    /// Pages that are still to be touched.
    left: AtomicUsize,
}

impl World {
    fn new(pages: usize, feature: (u64, &str), mode: Mode, source: usize) -> Result<Self> {
        let uffd = Uffd::new(feature)?;
        let mut file = None;
        let area = if mode == Mode::Minor {
            let fd = sys::memfd(pages * PAGE)?;
            let all = libc::PROT_READ | libc::PROT_WRITE;
            let area = Mapping::file(&fd, pages * PAGE, all, libc::MAP_SHARED)?;
            file = Some(fd);
            area
        } else {
            Mapping::anon(pages)?
        };
        let source = Mapping::anon(source)?;
        source.write_all();
        if mode == Mode::Wp {
            area.write_all();
        }
        uffd.register(&area, mode)?;
        if mode == Mode::Wp {
            uffd.protect(area.base(), pages, true)?;
        }
        Ok(Self {
            uffd,
            area,
            source,
            _file: file,
            left: AtomicUsize::new(pages),
        })
    }
}

/// One thread serves the faults that all others make.
fn served(opts: &Opts, service: &Service) -> Result<Report> {
    let new = |pages| World::new(opts.threads * pages, service.feature, service.mode, 1);
    let worlds = [new(2)?, new(opts.pages)?];
    measure(
        opts.threads + 1,
        |index, phase: Phase| Ok((index, &worlds[phase.index()])),
        |(index, world), counts| {
            if *index == 0 {
                return serve(world, service, counts);
            }
            for page in (*index - 1..world.area.pages()).step_by(opts.threads) {
                world.area.write(page);
                counts.add(Count::UffdFaults, 1);
                world.left.fetch_sub(1, Ordering::Release);
            }
            Ok(())
        },
        |_| Ok(()),
    )
}

fn serve(world: &World, service: &Service, counts: &mut Counts) -> Result<()> {
    let mut idle = 0;
    while world.left.load(Ordering::Acquire) > 0 {
        let served = world.uffd.serve(|at| {
            (service.resolve)(world, at)?;
            counts.add(service.count, 1);
            Ok(())
        });
        match served {
            Ok(0) => idle += 1,
            Ok(n) => {
                counts.add(Count::UffdMessages, n);
                idle = 0;
            }
            Err(error) => fatal(&error),
        }
        if idle > 1500 {
            fatal(&"no fault was reported for 30 s");
        }
    }
    Ok(())
}

/// Ends the process: threads sleep in faults that nobody would resolve.
fn fatal(error: &dyn std::fmt::Display) -> ! {
    eprintln!("workload: serving faults: {error:#}");
    std::process::exit(1);
}

/// How pages come in without a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filler {
    Copy,
    Zero,
    Continue,
    Move,
    Poison,
}

fn filled(opts: &Opts, filler: Filler) -> Result<Report> {
    let (feature, mode) = match filler {
        Filler::Copy | Filler::Zero => (FEATURE_NONE, Mode::Missing),
        Filler::Continue => (FEATURE_MINOR, Mode::Minor),
        Filler::Move => (FEATURE_MOVE, Mode::Missing),
        Filler::Poison => (FEATURE_POISON, Mode::Missing),
    };
    trap::install()?;
    let new = |pages| {
        let pages = opts.threads * pages;
        let source = if filler == Filler::Move { pages } else { 1 };
        World::new(pages, feature, mode, source)
    };
    let worlds = [new(2)?, new(opts.pages)?];
    measure(
        opts.threads,
        |index, phase: Phase| Ok((index, &worlds[phase.index()])),
        |(index, world), counts| {
            for page in (*index..world.area.pages()).step_by(opts.threads) {
                fill(world, page, filler, counts)?;
            }
            Ok(())
        },
        |_| Ok(()),
    )
}

/// Brings a page in, and uses it.
fn fill(world: &World, page: usize, filler: Filler, counts: &mut Counts) -> Result<()> {
    let at = world.area.page(page);
    match filler {
        Filler::Copy => {
            world.uffd.copy(at, world.source.base())?;
            counts.add(Count::UffdCopy, 1);
        }
        Filler::Zero => {
            world.uffd.zero(at, 1)?;
            counts.add(Count::UffdZero, 1);
            world.area.read(page);
            counts.add(Count::WpFaults, 1);
        }
        Filler::Continue => {
            world.uffd.proceed(at)?;
            counts.add(Count::UffdContinue, 1);
        }
        Filler::Move => {
            let mut tries = 0;
            loop {
                counts.add(Count::UffdMove, 1);
                match world.uffd.transfer(at, world.source.page(page)) {
                    Ok(()) => break,
                    Err(error) if tries < 1000 && retry(&error) => tries += 1,
                    Err(error) => return Err(error),
                }
            }
        }
        Filler::Poison => {
            world.uffd.poison(at)?;
            counts.add(Count::UffdPoison, 1);
            if trap::load(at) {
                bail!("reading a poisoned page worked");
            }
            counts.add(Count::Signals, 1);
            return Ok(());
        }
    }
    world.area.write(page);
    Ok(())
}

fn retry(error: &anyhow::Error) -> bool {
    matches!(sys::errno(error), libc::EAGAIN | libc::EBUSY)
}
