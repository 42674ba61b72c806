//! Faults on mapped files.

use anyhow::Result;

use crate::cli::{Entry, Opts, PLAIN};
use crate::report::{Count, Report};
use crate::sys::{self, AROUND, Mapping, PAGE};
use crate::team::measure;

/// The workloads of this file.
pub(crate) const TABLE: &[Entry] = &[Entry {
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
}];

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
