//! Faults on mapped files.

use std::sync::atomic::Ordering;

use anyhow::{Result, bail};

use crate::cli::{Entry, Opts, PLAIN};
use crate::fuse::SlowDisk;
use crate::report::{Count, Report};
use crate::sys::{self, AROUND, Mapping, PAGE};
use crate::team::measure;

/// The workloads of this file.
pub(crate) const TABLE: &[Entry] = &[FILE, FILE_IO];

const FILE: Entry = Entry {
    name: "file",
    about: "Threads read and write mapped pages of a file that is in the page cache",
    detail: "In each round every thread maps the file privately and reads one page of every 64 KiB block (the kernel \
             maps the rest of a block along, so that one page is one fault), then maps it shared and writes every \
             of --pages pages. file_faults is the sum of both, exact on tmpfs and ramfs; other file \
             systems may take a second fault to make a page writable. --pages counts pages of the shared \
             mapping that are written; as many blocks are read.",
    dir: true,
    run: file,
    ..PLAIN
};

const FILE_IO: Entry = Entry {
    name: "file-io",
    about: "Threads read mapped pages of a file that is not in the page cache, from a slow disk",
    detail: "The disk is a FUSE file system of this program's own, whose thread `w-disk` takes --duration for each \
             page. Each page is one fault that drops its lock before it sleeps and is taken up again afterwards: \
             file_faults = ru_majflt = disk_reads = threads x pages. Needs FUSE and root.",
    pages: 16,
    rounds: 0,
    millis: 2,
    run: file_io,
    ..PLAIN
};

fn file_io(opts: &Opts) -> Result<Report> {
    const DRY: usize = 2;
    let new = |pages: usize| -> Result<(SlowDisk, Mapping)> {
        let len = opts.threads * pages * PAGE;
        let disk = SlowDisk::start(len)?;
        let file = disk.open(0)?;
        let map = Mapping::file(&file, len, libc::PROT_READ, libc::MAP_SHARED)?;
        // No pages but those that are asked for.
        map.advise(libc::MADV_RANDOM)?;
        Ok((disk, map))
    };
    let worlds = [new(DRY)?, new(opts.pages)?];
    let millis = u64::try_from(opts.duration.as_nanos()).unwrap_or(u64::MAX);
    worlds[1].0.disk.read_ns.store(millis, Ordering::Release);
    let mut report = measure(
        opts.threads,
        |index, phase| Ok((index, &worlds[phase.index()].1)),
        |(index, map), counts| {
            for page in (*index..map.pages()).step_by(opts.threads) {
                map.read(page);
                counts.add(Count::FileFaults, 1);
            }
            Ok(())
        },
        |_| Ok(()),
    )?;
    let reads = worlds[1].0.disk.reads.load(Ordering::Acquire);
    report.set("disk_reads", reads);
    report.set("read_ns", millis);
    let pages = opts.threads * opts.pages;
    if reads != pages as u64 {
        bail!("{pages} pages were touched, but the disk was asked for {reads}");
    }
    Ok(report)
}

fn file(opts: &Opts) -> Result<Report> {
    // As many blocks as pages would be a large file: 16 blocks are read again and again in new mappings.
    let len = (opts.pages * PAGE).next_multiple_of(AROUND).max(16 * AROUND);
    let fd = sys::file_in(&opts.dir, len)?;
    measure(
        opts.threads,
        |_, _| Ok(()),
        |(), counts| {
            for _ in 0..opts.rounds {
                let mut blocks = opts.pages;
                while blocks > 0 {
                    let map = Mapping::file(&fd, len, libc::PROT_READ, libc::MAP_PRIVATE)?;
                    counts.add(Count::Mmap, 1);
                    let now = blocks.min(len / AROUND);
                    for block in 0..now {
                        map.read(block * AROUND / PAGE);
                        counts.add(Count::FileFaults, 1);
                    }
                    blocks -= now;
                    map.unmap()?;
                    counts.add(Count::Munmap, 1);
                }
                let map = Mapping::file(&fd, len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED)?;
                counts.add(Count::Mmap, 1);
                for page in 0..opts.pages {
                    map.write(page);
                    counts.add(Count::FileFaults, 1);
                }
                map.unmap()?;
                counts.add(Count::Munmap, 1);
            }
            Ok(())
        },
        |_| Ok(()),
    )
}
