//! Readers of a process's mappings, while they change.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};

use crate::cli::{Entry, Opts, PLAIN};
use crate::report::{Count, Counts, Report};
use crate::sys::{self, Mapping, PAGE, impossible};
use crate::team::{Phase, measure, others_work};

/// The workloads of this file.
pub(crate) const TABLE: &[Entry] = &[
    Entry {
        name: "proc-maps",
        about: "A thread reads /proc/PID/maps or smaps while others change the mappings",
        detail: "The first thread opens the file of --kind and reads it to its end, --rounds times. The others map \
                 --pages pages, write them, mprotect the first, unmap all, and twice mprotect a page of a mapping that \
                 they share, again and again until the reader is done, at least once for each pass. proc_opens, proc_reads (read calls, the last \
                 empty one of each pass included) and map_lines (mappings seen) are the reader's; touches, mmap_calls, \
                 munmap_calls and mprotect_calls the others'.",
        threads: 3,
        pages: 8,
        rounds: 32,
        kinds: &["maps", "smaps", "numa_maps"],
        run: proc_maps,
        ..PLAIN
    },
    Entry {
        name: "procmap-query",
        about: "A thread asks for mappings by ioctl (PROCMAP_QUERY) while others change them",
        detail: "The first thread asks --rounds x --pages times, in turn for an address that stays mapped \
                 (queries_found), for one that is never mapped (queries_missed), and for the next mapping after that \
                 (queries_found). The others do as in proc-maps. Needs Linux 6.11.",
        threads: 3,
        pages: 32,
        rounds: 64,
        run: procmap_query,
        ..PLAIN
    },
];

/// What the threads have in common.
struct World {
    /// The others split and merge this.
    shared: Mapping,
    /// Stays as it is.
    steady: Mapping,
    /// Changes that the others have made.
    changes: AtomicUsize,
    done: AtomicBool,
}

impl World {
    fn new(threads: usize) -> Result<Self> {
        let shared = Mapping::anon(2 * threads + 1)?;
        shared.write_all();
        let steady = Mapping::anon(1)?;
        Ok(Self {
            shared,
            steady,
            changes: AtomicUsize::new(0),
            done: AtomicBool::new(false),
        })
    }

    /// Waits until the others have changed something once more, so that the reader meets changes.
    fn wait_for_a_change(&self) -> Result<()> {
        let before = self.changes.load(Ordering::Acquire);
        while self.changes.load(Ordering::Acquire) == before {
            others_work()?;
            std::thread::yield_now();
        }
        Ok(())
    }

    /// One thread's changes, until the reader is done.
    fn change(&self, index: usize, pages: usize, counts: &mut Counts) -> Result<()> {
        let all = libc::PROT_READ | libc::PROT_WRITE;
        let mut once = false;
        while !once || !self.done.load(Ordering::Acquire) {
            once = true;
            let area = Mapping::anon(pages)?;
            counts.add(Count::Mmap, 1);
            area.write_all();
            counts.add(Count::Touches, pages);
            area.protect(0, 1, libc::PROT_READ)?;
            self.shared.protect(2 * index, 1, libc::PROT_READ)?;
            self.shared.protect(2 * index, 1, all)?;
            counts.add(Count::Mprotect, 3);
            self.changes.fetch_add(1, Ordering::Release);
            area.unmap()?;
            counts.add(Count::Munmap, 1);
        }
        Ok(())
    }
}

/// Lets the others stop, however the reader ends.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A file of our own directory in /proc, opened without allocating.
struct ProcFile {
    path: CString,
    buffer: Vec<u8>,
}

impl ProcFile {
    fn new(name: &str) -> Result<Self> {
        let path = CString::new(format!("/proc/{}/{name}", std::process::id())).context("a path")?;
        Ok(Self {
            path,
            buffer: vec![1; 16 << 10],
        })
    }

    fn open(&self) -> Result<OwnedFd> {
        // SAFETY: the path is NUL-terminated; the descriptor is ours alone.
        let fd = unsafe { libc::open(self.path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        sys::check(fd, "open")?;
        // SAFETY: as above.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Reads it to its end and counts the mappings.
    fn pass(&mut self, counts: &mut Counts) -> Result<()> {
        let fd = self.open()?;
        counts.add(Count::Opens, 1);
        let mut line_start = true;
        let mut is_range = false;
        loop {
            let buffer = &mut self.buffer;
            // SAFETY: the buffer is as long as is said.
            let n = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            sys::check(n as i64, "reading a file in /proc")?;
            counts.add(Count::Reads, 1);
            if n == 0 {
                return Ok(());
            }
            counts.add(Count::Bytes, n.cast_unsigned());
            for &byte in &buffer[..n.cast_unsigned()] {
                // A mapping's line begins with an address in small hexadecimal digits, a detail's with a name.
                if line_start {
                    is_range = byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                }
                line_start = byte == b'\n';
                if line_start && is_range {
                    counts.add(Count::MapLines, 1);
                }
            }
        }
    }
}

fn proc_maps(opts: &Opts) -> Result<Report> {
    if opts.threads < 2 {
        bail!("--threads is 1, but it takes a reader and at least one other");
    }
    let name = &opts.kind;
    if let Err(error) = ProcFile::new(name)?.open() {
        if sys::errno(&error) == libc::ENOENT {
            return Err(impossible(format!("this kernel has no /proc/PID/{name}")));
        }
        return Err(error);
    }
    let worlds = [World::new(opts.threads)?, World::new(opts.threads)?];
    let mut report = measure(
        opts.threads,
        |index, phase: Phase| {
            let rounds = if phase == Phase::Dry { 2 } else { opts.rounds };
            Ok((index, &worlds[phase.index()], ProcFile::new(name)?, rounds))
        },
        |(index, world, file, rounds), counts| {
            if *index > 0 {
                return world.change(*index, opts.pages, counts);
            }
            let _done = Done(&world.done);
            for _ in 0..*rounds {
                world.wait_for_a_change()?;
                file.pass(counts)?;
            }
            Ok(())
        },
        |_| Ok(()),
    )?;
    report.set("file", name.clone());
    Ok(report)
}

/// struct procmap_query, in words.
type Query = [u64; 13];

/// PROCMAP_QUERY: both directions, 104 bytes, 'f', 17.
const PROCMAP_QUERY: u64 = (3 << 30) | ((size_of::<Query>() as u64) << 16) | ((b'f' as u64) << 8) | 17;
/// PROCMAP_QUERY_COVERING_OR_NEXT_VMA.
const OR_NEXT: u64 = 0x10;

/// Where the mapping begins that covers an address (or, with `OR_NEXT`, follows it).
fn query(fd: &OwnedFd, address: usize, flags: u64) -> Result<Option<usize>> {
    let mut words: Query = [0; 13];
    words[0] = size_of::<Query>() as u64;
    words[1] = flags;
    words[2] = address as u64;
    // SAFETY: the structure is as long as the request number says, and names no other memory.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), PROCMAP_QUERY, words.as_mut_ptr()) };
    if result == 0 {
        return Ok(Some(words[3] as usize));
    }
    let error = sys::last("PROCMAP_QUERY");
    match sys::errno(&error) {
        libc::ENOENT => Ok(None),
        libc::ENOTTY => Err(impossible(
            "PROCMAP_QUERY needs Linux 6.11 and this kernel has it not",
        )),
        _ => Err(error),
    }
}

fn procmap_query(opts: &Opts) -> Result<Report> {
    if opts.threads < 2 {
        bail!("--threads is 1, but it takes one that asks and at least one other");
    }
    query(&ProcFile::new("maps")?.open()?, 0, 0)?;
    let worlds = [World::new(opts.threads)?, World::new(opts.threads)?];
    measure(
        opts.threads,
        |index, phase: Phase| {
            let rounds = if phase == Phase::Dry {
                3
            } else {
                opts.rounds * opts.pages
            };
            Ok((
                index,
                &worlds[phase.index()],
                ProcFile::new("maps")?.open()?,
                rounds,
            ))
        },
        |(index, world, file, rounds), counts| {
            if *index > 0 {
                return world.change(*index, opts.pages.min(8), counts);
            }
            let _done = Done(&world.done);
            // No mapping of a process begins below 64 KiB.
            const NEVER: usize = PAGE;
            for at in 0..*rounds {
                if at % 8 == 0 {
                    world.wait_for_a_change()?;
                }
                let found = match at % 3 {
                    0 => {
                        query(file, world.steady.base(), 0)?.is_some_and(|start| start <= world.steady.base())
                    }
                    1 => query(file, NEVER, 0)?.is_some(),
                    _ => query(file, NEVER, OR_NEXT)?.is_some(),
                };
                if found != (at % 3 != 1) {
                    bail!("PROCMAP_QUERY gave a wrong answer to question {}", at % 3);
                }
                counts.add(
                    if found {
                        Count::QueryFound
                    } else {
                        Count::QueryMissed
                    },
                    1,
                );
            }
            Ok(())
        },
        |_| Ok(()),
    )
}
