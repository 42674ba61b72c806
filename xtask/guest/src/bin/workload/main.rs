//! Known numbers of operations on the locks that tracer watches, for the tests that count them.
//!
//! Every workload touches one kind of user of the per-VMA lock, with several threads, and says exactly what it did
//! as the kernel must have seen it: `workload --list` names them, `workload NAME --help` explains one. It measures
//! itself: where faults are known exactly and the kernel's own count differs, it fails.

mod child;
mod cli;
mod fuse;
mod hog;
mod report;
mod sys;
mod team;
mod trap;
mod uffd;
mod w_basic;
mod w_change;
mod w_contend;
mod w_file;
mod w_fork;
mod w_holder;
mod w_madvise;
mod w_mixed;
mod w_net;
mod w_proc;
mod w_swap;
mod w_time;
mod w_uffd;

use std::ffi::CString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, anyhow};

/// A workload cannot run on this kernel, or with these privileges.
const IMPOSSIBLE: u8 = 3;

fn main() -> ExitCode {
    let (entry, opts) = match cli::parse() {
        cli::Parsed::Run(entry, opts) => (entry, opts),
        cli::Parsed::Done(Ok(())) => return ExitCode::SUCCESS,
        cli::Parsed::Done(Err(error)) => {
            eprintln!("workload: writing the list: {error}");
            return ExitCode::FAILURE;
        }
    };
    match run(entry, &opts) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("workload {}: {error:#}", entry.name);
            if error.is::<sys::Impossible>() {
                ExitCode::from(IMPOSSIBLE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn run(entry: &cli::Entry, opts: &cli::Opts) -> Result<()> {
    without_rseq()?;
    settle()?;
    let report = (entry.run)(opts)?;
    team::verify(&report)?;
    let mut json = report.json(entry.name);
    json["threads"] = if opts.threads > 0 {
        opts.threads
    } else {
        report.tids.len()
    }
    .into();
    json["pages"] = opts.pages.into();
    json["rounds"] = opts.rounds.into();
    json["seed"] = opts.seed.into();
    cli::print(&json, opts.json)
}

/// Starts this program anew without restartable sequences.
///
/// The kernel writes to a thread's rseq area whenever it moves the thread; a child of ours has none of the parent's
/// memory, so that this would kill it, and elsewhere it could be a fault that nobody counts.
fn without_rseq() -> Result<()> {
    const NAME: &str = "GLIBC_TUNABLES";
    const OFF: &str = "glibc.pthread.rseq=0";
    if std::env::var_os(NAME).is_some_and(|v| v == OFF) {
        return Ok(());
    }
    let error = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .env(NAME, OFF)
        .exec();
    Err(anyhow!(error).context("starting /proc/self/exe anew (is /proc mounted?)"))
}

/// Makes this process take no faults but those that it means to.
fn settle() -> Result<()> {
    // Huge pages off: one touch, one fault.
    // SAFETY: changes flags of this process only.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    sys::check(result, "prctl PR_SET_THP_DISABLE")?;
    // SAFETY: settings of the allocator: one arena, grown in one go, never given back, nothing mapped apart.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TOP_PAD, 2 << 20);
    }
    drop(std::hint::black_box(vec![1_u8; 256 << 10]));
    sys::now();
    // What is mapped now stays in memory: text, data, heap, this stack. Memory mapped later is not concerned.
    // SAFETY: moves nothing, changes no contents.
    let result = unsafe { libc::mlockall(libc::MCL_CURRENT) };
    if result != 0 {
        eprintln!(
            "workload: {:#}: text and data may be faulted in late, and a fault be counted that was not made; run it as \
             root or raise `ulimit -l`",
            sys::last("mlockall")
        );
    }
    Ok(())
}

/// The release of the running kernel.
fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|s| s.trim().to_owned())
        .unwrap_or_default()
}

/// A pseudo-random sequence that is the same for the same seed.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn new(seed: u64, index: usize) -> Self {
        Self((seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            let other = self.below(at + 1);
            items.swap(at, other);
        }
    }
}

/// Pins the calling thread to a processor.
fn pin(cpu: usize) -> Result<()> {
    // SAFETY: an all-zero set is valid; the set outlives the call, which concerns this thread only.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    sys::check(result, "sched_setaffinity").with_context(|| format!("moving a thread to processor {cpu}"))?;
    Ok(())
}

/// Names the calling thread, so that it is recognised in a trace.
fn name_thread(name: &str) -> Result<()> {
    let name = CString::new(name).context("a thread's name")?;
    // SAFETY: the name is NUL-terminated and outlives the call.
    let result = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    sys::check(result, "prctl PR_SET_NAME")?;
    Ok(())
}
