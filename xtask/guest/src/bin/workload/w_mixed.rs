//! All the ordinary users of the locks at once.

use std::os::fd::OwnedFd;
use std::sync::Mutex;

use anyhow::{Result, anyhow};

use crate::Random;
use crate::child::{Nursery, seal};
use crate::cli::{Entry, Opts, PLAIN};
use crate::report::{Child, Count, Counts, Report};
use crate::sys::{self, AROUND, Mapping, PAGE};
use crate::team::{Phase, measure};

/// The workloads of this file.
pub(crate) const TABLE: &[Entry] = &[Entry {
    name: "mixed",
    about: "Threads do anonymous faults, mprotect, munmap, file faults and forks, in random order",
    detail: "In each round every thread does five things in an order that the seed decides:\n\
             - maps memory, keeps it from children, writes its pages, mprotects it twice, unmaps it;\n\
             - maps memory, keeps it from children, reads its pages (zero page), writes them, unmaps it;\n\
             - writes pages of a mapping that all threads share, and twice mprotects a page of its own in it, so that \
             the others meet a mapping that is being split and merged;\n\
             - maps a file and reads one page of each 64 KiB block of it, unmaps it;\n\
             - maps the file shared and writes its pages, unmaps it.\n\
             Besides, the first thread forks a child in every round, which writes half of the pages that it has from \
             its parent and exits; then the thread writes all of them again: wp_faults.\n\
             All counts are exact; huge pages are off. Children take some faults of their own on text and stack, which \
             `children` tells as the kernel counted them.",
    threads: 4,
    pages: 32,
    rounds: 8,
    run: mixed,
    ..PLAIN
}];

/// Blocks of 64 KiB that the file has.
const BLOCKS: usize = 8;

/// What exists before the measured part; one for the dry run, one for the real one.
struct World {
    shared: Mapping,
    file: OwnedFd,
    rounds: usize,
    threads: usize,
    pages: usize,
    /// Memory of the first thread, with which its children begin.
    forked: Mapping,
    nursery: Nursery,
    children: Mutex<Vec<Child>>,
}

impl World {
    fn new(opts: &Opts, rounds: usize) -> Result<Self> {
        // The last pages, every other one, belong to one thread each.
        let shared = Mapping::anon(opts.threads * rounds * opts.pages + 2 * opts.threads)?;
        shared.advise(libc::MADV_DONTFORK)?;
        let forked = Mapping::anon(opts.pages)?;
        forked.write_all();
        let len = (BLOCKS * AROUND).max(opts.pages * PAGE);
        Ok(Self {
            shared,
            file: sys::memfd(len)?,
            rounds,
            threads: opts.threads,
            pages: opts.pages,
            forked,
            nursery: Nursery::new()?,
            children: Mutex::new(Vec::with_capacity(rounds)),
        })
    }
}

/// One thread's place in the world.
struct Member<'a> {
    world: &'a World,
    index: usize,
    random: Random,
}

fn mixed(opts: &Opts) -> Result<Report> {
    let worlds = [World::new(opts, 1)?, World::new(opts, opts.rounds)?];
    let seal_all = || seal(&[&worlds[0].forked, &worlds[1].forked]);
    let mut report = measure(
        opts.threads,
        |index, phase: Phase| {
            Ok(Member {
                world: &worlds[phase.index()],
                index,
                random: Random::new(opts.seed, index),
            })
        },
        |member, counts| {
            for round in 0..member.world.rounds {
                member.round(round, counts)?;
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
    Ok(report)
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Anon,
    Zero,
    Shared,
    FileRead,
    FileWrite,
    Fork,
}

impl Member<'_> {
    fn round(&mut self, round: usize, counts: &mut Counts) -> Result<()> {
        let mut ops = [
            Op::Anon,
            Op::Zero,
            Op::Shared,
            Op::FileRead,
            Op::FileWrite,
            Op::Fork,
        ];
        self.random.shuffle(&mut ops);
        for op in ops {
            match op {
                Op::Anon => self.anon(counts)?,
                Op::Zero => self.zero(counts)?,
                Op::Shared => self.shared(round, counts)?,
                Op::FileRead => self.file_read(counts)?,
                Op::FileWrite => self.file_write(counts)?,
                Op::Fork if self.index == 0 => self.fork(counts)?,
                Op::Fork => {}
            }
        }
        Ok(())
    }

    /// New memory that children do not get: a fork between the touch of a page and the instruction after it would
    /// write-protect the page, and the touch be two faults.
    fn fresh(&self, counts: &mut Counts) -> Result<Mapping> {
        let area = Mapping::anon(self.world.pages)?;
        counts.add(Count::Mmap, 1);
        area.advise(libc::MADV_DONTFORK)?;
        counts.add(Count::Madvise, 1);
        counts.add(Count::MadviseWrite, 1);
        Ok(area)
    }

    fn anon(&self, counts: &mut Counts) -> Result<()> {
        let area = self.fresh(counts)?;
        area.write_all();
        counts.add(Count::Touches, area.pages());
        area.protect(0, area.pages(), libc::PROT_READ)?;
        area.protect(0, area.pages(), libc::PROT_READ | libc::PROT_WRITE)?;
        counts.add(Count::Mprotect, 2);
        // Pages that only this process has became writable along with the mapping: no faults.
        area.write_all();
        area.unmap()?;
        counts.add(Count::Munmap, 1);
        Ok(())
    }

    fn zero(&self, counts: &mut Counts) -> Result<()> {
        let area = self.fresh(counts)?;
        for page in 0..area.pages() {
            area.read(page);
        }
        counts.add(Count::Touches, area.pages());
        area.write_all();
        counts.add(Count::WpFaults, area.pages());
        area.unmap()?;
        counts.add(Count::Munmap, 1);
        Ok(())
    }

    fn shared(&self, round: usize, counts: &mut Counts) -> Result<()> {
        let World { shared, threads, .. } = self.world;
        let pages = self.world.pages;
        let own = shared.pages() - 2 * threads + 2 * self.index;
        let first = (round * threads + self.index) * pages;
        for page in 0..pages {
            shared.write(first + page);
            counts.add(Count::Touches, 1);
            if page == pages / 2 {
                shared.protect(own, 1, libc::PROT_READ)?;
                shared.protect(own, 1, libc::PROT_READ | libc::PROT_WRITE)?;
                counts.add(Count::Mprotect, 2);
            }
        }
        Ok(())
    }

    fn file_read(&self, counts: &mut Counts) -> Result<()> {
        let map = Mapping::file(
            &self.world.file,
            BLOCKS * AROUND,
            libc::PROT_READ,
            libc::MAP_PRIVATE,
        )?;
        counts.add(Count::Mmap, 1);
        for block in 0..BLOCKS {
            map.read(block * AROUND / PAGE);
        }
        counts.add(Count::FileFaults, BLOCKS);
        map.unmap()?;
        counts.add(Count::Munmap, 1);
        Ok(())
    }

    fn file_write(&self, counts: &mut Counts) -> Result<()> {
        let map = Mapping::file(
            &self.world.file,
            self.world.pages * PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
        )?;
        counts.add(Count::Mmap, 1);
        map.write_all();
        counts.add(Count::FileFaults, map.pages());
        map.unmap()?;
        counts.add(Count::Munmap, 1);
        Ok(())
    }

    fn fork(&self, counts: &mut Counts) -> Result<()> {
        let World { forked, nursery, .. } = self.world;
        let half = forked.pages() / 2;
        let pid = nursery.start(forked.base(), half, 0, 0, false)?;
        counts.add(Count::Forks, 1);
        let child = nursery.wait(pid)?;
        counts.add(Count::ChildFaults, half);
        forked.write_all();
        counts.add(Count::WpFaults, forked.pages());
        self.world
            .children
            .lock()
            .map_err(|_| anyhow!("another thread panicked"))?
            .push(child);
        Ok(())
    }
}
