//! `opstorm`: does one operation on memory again and again, and says what it took: a page fault, a pair of `mmap` and
//! `munmap`, an `mprotect`.
//!
//! One thread. All that an operation needs is made beforehand (page tables, `anon_vma`, the setting for huge pages,
//! neighbours that no VMA can be merged with), so that every time in a round does the same as the one before.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use serde_json::json;

#[derive(Debug, Parser)]
#[command(
    about = "Does operations on memory, and says in JSON, a line a round, what they took",
    after_help = "Example: opstorm --times 5120 --rounds 5 fault mmap mprotect"
)]
struct Cli {
    /// How often in a round
    #[arg(long, default_value_t = 5120, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    times: u32,
    /// Rounds that are told; one more comes before them
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// What, one after the other
    #[arg(required = true)]
    operations: Vec<Operation>,
}

/// What is done.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Operation {
    /// Touch an anonymous page for the first time
    Fault,
    /// Map a page, and unmap it
    Mmap,
    /// Change the access to a page that is a VMA by itself
    Mprotect,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Mmap => "mmap",
            Self::Mprotect => "mprotect",
        }
    }

    /// Faults in so many times.
    fn faults(self, times: u32) -> i64 {
        match self {
            Self::Fault => i64::from(times),
            Self::Mmap | Self::Mprotect => 0,
        }
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("opstorm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let mut place = Place::make(cli.times as usize)?;
    let mut told = Vec::with_capacity(cli.operations.len() * cli.rounds as usize);
    for operation in &cli.operations {
        // Makes the page tables, and lets everything else that happens for the first time do so.
        round(&mut place, *operation, cli.times)?;
        for _ in 0..cli.rounds {
            let took = round(&mut place, *operation, cli.times)?;
            told.push((*operation, took));
        }
    }
    // Not before the end: to write is to fault and to wake somebody.
    for (operation, took) in told {
        let expected = operation.faults(cli.times);
        ensure!(
            took.faults == expected,
            "a round of {} makes {expected} faults, and the kernel counted {}: something else is in the measurement",
            operation.name(),
            took.faults
        );
        println!(
            "{}",
            json!({"operation": operation.name(), "times": cli.times, "wall_ns": took.wall_ns, "cpu_ns": took.cpu_ns})
        );
    }
    Ok(())
}

/// Does it so often.
fn round(place: &mut Place, operation: Operation, times: u32) -> Result<Round> {
    place.prepare(operation)?;
    let before = now()?;
    place.repeat(operation, times)?;
    let after = now()?;
    Ok(Round {
        faults: after.faults - before.faults,
        wall_ns: after.wall_ns - before.wall_ns,
        cpu_ns: after.cpu_ns - before.cpu_ns,
    })
}

/// What a round took, or the time: the kernel's count of this thread's faults, and two clocks.
#[derive(Debug, Clone, Default)]
struct Round {
    faults: i64,
    wall_ns: i64,
    cpu_ns: i64,
}

fn now() -> Result<Round> {
    // SAFETY: all zeroes is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is valid for writing.
    let done = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    ensure!(done == 0, "getrusage: {}", std::io::Error::last_os_error());
    Ok(Round {
        faults: usage.ru_minflt,
        wall_ns: clock(libc::CLOCK_MONOTONIC)?,
        cpu_ns: clock(libc::CLOCK_THREAD_CPUTIME_ID)?,
    })
}

fn clock(which: libc::clockid_t) -> Result<i64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for writing.
    let done = unsafe { libc::clock_gettime(which, &raw mut time) };
    ensure!(done == 0, "clock_gettime: {}", std::io::Error::last_os_error());
    Ok(time.tv_sec * 1_000_000_000 + time.tv_nsec)
}

/// Where it is done: an anonymous mapping for faults, and a page between two that nobody may touch.
struct Place {
    start: *mut u8,
    len: usize,
    page: usize,
    /// The first of the three pages.
    fence: *mut u8,
}

impl Place {
    fn make(pages: usize) -> Result<Self> {
        // SAFETY: sysconf has no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).context("the page size")?;
        let len = pages * page;
        let place = Self {
            start: map(len, libc::PROT_READ | libc::PROT_WRITE)?,
            len,
            page,
            fence: map(3 * page, libc::PROT_NONE)?,
        };
        // A kernel without huge pages refuses this, and needs no telling.
        let _ = place.advise(libc::MADV_NOHUGEPAGE);
        place.protect(libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: the middle page was made writable above, and is ours alone.
        unsafe { place.fence.add(page).write_volatile(1) };
        Ok(place)
    }

    /// Gives back what a round has used up.
    fn prepare(&self, operation: Operation) -> Result<()> {
        match operation {
            Operation::Fault => self.advise(libc::MADV_DONTNEED).context("giving the pages back"),
            Operation::Mmap | Operation::Mprotect => Ok(()),
        }
    }

    fn repeat(&mut self, operation: Operation, times: u32) -> Result<()> {
        match operation {
            Operation::Fault => self.touch(),
            Operation::Mmap => {
                for _ in 0..times {
                    let page = map(self.page, libc::PROT_READ | libc::PROT_WRITE)?;
                    // SAFETY: the mapping was made above, and nothing points into it.
                    let done = unsafe { libc::munmap(page.cast(), self.page) };
                    ensure!(done == 0, "munmap: {}", std::io::Error::last_os_error());
                }
            }
            Operation::Mprotect => {
                for time in 0..times {
                    let write = if time % 2 == 0 { 0 } else { libc::PROT_WRITE };
                    self.protect(libc::PROT_READ | write)?;
                }
            }
        }
        Ok(())
    }

    fn touch(&mut self) {
        for at in (0..self.len).step_by(self.page) {
            // SAFETY: `at` lies inside the mapping, which is writable and ours alone.
            unsafe { self.start.add(at).write_volatile(1) };
        }
    }

    /// Sets the access to the page in the middle.
    fn protect(&self, access: libc::c_int) -> Result<()> {
        // SAFETY: the page is the second of three that are ours, and nobody holds a reference into it.
        let done = unsafe { libc::mprotect(self.fence.add(self.page).cast(), self.page, access) };
        ensure!(done == 0, "mprotect: {}", std::io::Error::last_os_error());
        Ok(())
    }

    fn advise(&self, what: libc::c_int) -> std::io::Result<()> {
        // SAFETY: the range is a mapping of ours to which nobody holds a reference.
        match unsafe { libc::madvise(self.start.cast(), self.len, what) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

fn map(len: usize, access: libc::c_int) -> Result<*mut u8> {
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping where the kernel likes touches nothing that exists.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0) };
    ensure!(
        start != libc::MAP_FAILED,
        "mapping {len} bytes: {}",
        std::io::Error::last_os_error()
    );
    Ok(start.cast())
}
