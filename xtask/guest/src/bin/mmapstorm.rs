//! Maps and unmaps, at a steady pace or as fast as it goes: events of `mmap_lock` for benchmarks.
//!
//! Each thread has the process's one `mmap_lock` to share with the others. With `--processes` each is a process, and
//! has its own: then the tracer, and not the lock, is what limits.

use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde_json::{Value, json};

/// Pace is kept by catching up this often.
const TICK: Duration = Duration::from_millis(1);

#[derive(Debug, Parser)]
#[command(
    about = "Maps and unmaps a page again and again, and says how often",
    after_help = "Example: mmapstorm --threads 2 --pace 35000 --millis 5000"
)]
struct Cli {
    /// Threads
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// A process for each instead of a thread
    #[arg(long)]
    processes: bool,
    /// Pairs of mmap and munmap a second, of all together; 0: as many as go
    #[arg(long, default_value_t = 0, value_name = "N")]
    pace: u64,
    /// How long
    #[arg(long, default_value_t = 5000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    millis: u64,
    /// So many pairs of each thread, however long they take, instead of a time
    #[arg(long, value_name = "N", conflicts_with_all = ["millis", "pace", "processes"])]
    pairs: Option<u64>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mmapstorm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let start = Instant::now();
    if let Some(pairs) = cli.pairs {
        return counted(cli.threads, pairs, start);
    }
    let share = cli.pace as f64 / f64::from(cli.threads);
    let all: Vec<Vec<u64>> = if cli.processes && cli.threads > 1 {
        processes(cli)?
    } else {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..cli.threads)
                .map(|_| scope.spawn(|| storm(start, share, Duration::from_millis(cli.millis))))
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
                .collect::<Result<_>>()
        })?
    };
    let seconds = start.elapsed().as_secs_f64();
    let longest = all.iter().map(Vec::len).max().unwrap_or(0);
    let by_second: Vec<u64> = (0..longest)
        .map(|second| all.iter().filter_map(|one| one.get(second)).sum())
        .collect();
    println!(
        "{}",
        json!({"pairs": by_second.iter().sum::<u64>(), "seconds": seconds, "by_second": by_second})
    );
    Ok(())
}

/// A fixed number of pairs, so that several runs make the same events.
fn counted(threads: u32, pairs: u64, start: Instant) -> Result<()> {
    if threads == 1 {
        // Nothing else happens in the process meanwhile, so that two runs are alike.
        (0..pairs).try_for_each(|_| pair())?;
        return told(1, pairs, start);
    }
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| (0..pairs).try_for_each(|_| pair())))
            .collect();
        threads
            .into_iter()
            .try_for_each(|t| t.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })?;
    told(threads, pairs, start)
}

fn told(threads: u32, pairs: u64, start: Instant) -> Result<()> {
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({"pairs": pairs * u64::from(threads), "seconds": seconds})
    );
    Ok(())
}

/// The same program again, once for each share.
fn processes(cli: &Cli) -> Result<Vec<Vec<u64>>> {
    let me = std::env::current_exe().context("finding this program")?;
    let children: Vec<_> = (0..cli.threads)
        .map(|_| {
            Command::new(&me)
                .args([
                    "--threads",
                    "1",
                    "--pace",
                    &(cli.pace / u64::from(cli.threads)).to_string(),
                ])
                .args(["--millis", &cli.millis.to_string()])
                .stdout(Stdio::piped())
                .spawn()
                .context("starting this program again")
        })
        .collect::<Result<_>>()?;
    children
        .into_iter()
        .map(|child| {
            let out = child.wait_with_output().context("waiting for a process")?;
            ensure!(out.status.success(), "a process failed ({})", out.status);
            let said: Value = serde_json::from_slice(&out.stdout).context("reading what a process said")?;
            let seconds = said["by_second"].as_array().context("a process said nothing")?;
            Ok(seconds.iter().filter_map(Value::as_u64).collect())
        })
        .collect()
}

/// Pairs done in each second.
fn storm(start: Instant, pace: f64, long: Duration) -> Result<Vec<u64>> {
    let mut by_second = Vec::with_capacity(usize::try_from(long.as_secs() + 2).unwrap_or(16));
    let mut done = 0_u64;
    loop {
        let now = start.elapsed();
        if now >= long {
            return Ok(by_second);
        }
        let second = usize::try_from(now.as_secs()).unwrap_or(0);
        if by_second.len() <= second {
            by_second.resize(second + 1, 0);
        }
        let due = if pace == 0.0 {
            done + 64
        } else {
            ((now + TICK).as_secs_f64() * pace) as u64
        };
        // Not all at once if we are late, so that the time is looked at.
        let batch = due.saturating_sub(done).min(64);
        for _ in 0..batch {
            pair()?;
        }
        done += batch;
        by_second[second] += batch;
        if done >= due && pace > 0.0 {
            thread::sleep(TICK);
        }
    }
}

/// One mapping comes and goes.
fn pair() -> Result<()> {
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    ensure!(
        page != libc::MAP_FAILED,
        "mmap: {}",
        std::io::Error::last_os_error()
    );
    // SAFETY: the mapping was made above, and nothing points into it.
    let result = unsafe { libc::munmap(page, 4096) };
    ensure!(result == 0, "munmap: {}", std::io::Error::last_os_error());
    Ok(())
}
