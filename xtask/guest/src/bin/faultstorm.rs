//! `faultstorm`: touches fresh anonymous pages and says what a touch took: the page fault, and whatever hangs on it.
//!
//! One thread, one mapping whose page tables, `anon_vma` and huge page setting are made beforehand, so that every
//! touch in the measurement is the same plain fault that the kernel handles under the VMA's own lock.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde_json::json;

#[derive(Debug, Parser)]
#[command(
    about = "Touches fresh anonymous pages, and says in JSON, a line a round, what they took",
    after_help = "Example: faultstorm --faults 5120 --rounds 5"
)]
struct Cli {
    /// Pages to touch in a round, each for the first time
    #[arg(long, default_value_t = 5120, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    faults: u32,
    /// Rounds that are told; one more comes before them
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("faultstorm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let mut pages = Pages::map(cli.faults as usize)?;
    let mut rounds = vec![Round::default(); cli.rounds as usize];
    // Makes the page tables, and lets everything else that faults for the first time do so.
    round(&mut pages)?;
    for told in &mut rounds {
        *told = round(&mut pages)?;
    }
    // Not before the end: to write is to fault and to wake somebody.
    for told in rounds {
        ensure!(
            told.faults == i64::from(cli.faults),
            "{} pages were touched, and the kernel counted {} faults: somebody else's memory is in the measurement",
            cli.faults,
            told.faults
        );
        println!(
            "{}",
            json!({"faults": told.faults, "wall_ns": told.wall_ns, "cpu_ns": told.cpu_ns})
        );
    }
    Ok(())
}

/// Touches every page for the first time.
fn round(pages: &mut Pages) -> Result<Round> {
    pages.forget()?;
    let before = now()?;
    pages.touch();
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

/// An anonymous mapping.
struct Pages {
    start: *mut u8,
    len: usize,
    page: usize,
}

impl Pages {
    fn map(pages: usize) -> Result<Self> {
        // SAFETY: sysconf has no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).context("the page size")?;
        let len = pages * page;
        let (access, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping where the kernel likes touches nothing that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0) };
        ensure!(
            start != libc::MAP_FAILED,
            "mapping {pages} pages: {}",
            std::io::Error::last_os_error()
        );
        let pages = Self {
            start: start.cast(),
            len,
            page,
        };
        // A kernel without huge pages refuses this, and needs no telling.
        let _ = pages.advise(libc::MADV_NOHUGEPAGE);
        Ok(pages)
    }

    fn touch(&mut self) {
        for at in (0..self.len).step_by(self.page) {
            // SAFETY: `at` lies inside the mapping, which is writable and ours alone.
            unsafe { self.start.add(at).write_volatile(1) };
        }
    }

    /// Gives all pages back; the mapping stays.
    fn forget(&mut self) -> Result<()> {
        self.advise(libc::MADV_DONTNEED).context("giving the pages back")
    }

    fn advise(&self, what: libc::c_int) -> std::io::Result<()> {
        // SAFETY: the range is a mapping of ours to which nobody holds a reference.
        match unsafe { libc::madvise(self.start.cast(), self.len, what) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}
