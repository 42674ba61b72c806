//! From the command line's options to a running source.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use crate::cgroup::Cgroup;
use crate::child::{Child, Output};
use crate::cli::LiveArgs;
use crate::kernel::{Depth, FUNCTIONS, Facts, Paths};
use crate::mode::Mode;
use crate::pipeline::{Ended, Stop};
use crate::probe::{Found, Wishes, attach};
use crate::say::tell;
use crate::source::Source;
use crate::source::live::Live;
use crate::source::sieve::{Least, Sieved};
use crate::text::{SitesArgs, discover};

/// A source that runs, and when it is to stop.
pub struct Started {
    /// The source.
    pub live: Sieved<Live>,
    /// When to stop.
    pub stop: Stop,
}

/// Checks the options, attaches, and lets the command begin.
///
/// # Errors
/// When an option names what does not exist, or nothing can be attached.
pub fn start(args: &LiveArgs, log: bool, output: Output) -> anyhow::Result<Started> {
    for &pid in &args.pids {
        check_process(Path::new("/proc"), pid)?;
    }
    for &tid in &args.tids {
        check_thread(Path::new("/proc"), tid)?;
    }
    let comm = args.comm.as_deref().map(comm).transpose()?;
    let cgroup = args.cgroup.as_deref().map(Cgroup::find).transpose()?;
    let filters = filters(args, cgroup.as_ref());
    let Known { facts, found, loader } = gather(Depth::Attach, args.kernel_text.as_deref())?;
    let streams = args.mode == Mode::Stream;
    let least = Least {
        // What is paired in the kernel is sifted there, too.
        hold_ns: args.min_hold.filter(|_| streams).map(nanoseconds),
        wait_ns: args.min_wait.map(nanoseconds),
    };
    let asked = if args.only.is_empty() {
        u64::MAX
    } else {
        args.only.iter().fold(0, |mask, &kind| mask | 1 << kind as u8)
    };
    // What tells how long something lasts has to come here, wanted or not.
    let kinds = if least == Least::default() {
        asked
    } else {
        asked | Least::kinds()
    };
    let wishes = Wishes {
        without: args.without.clone(),
        truth: args.truth,
        unwanted: !kinds,
        by_address: args.addr.is_some(),
        stacks_from_ns: args.stacks.0.filter(|_| streams),
        mode: args.mode,
        linger: !args.linger.is_zero(),
    };
    let options = attach::Options {
        // Where nothing goes through it, it is as small as can be.
        ring_bytes: if args.mode == Mode::Summary {
            4096
        } else {
            args.buffer
        },
        // What takes locks of the traced processes must not be hidden.
        exclude_pid: if args.include_self || args.user_symbols {
            0
        } else {
            std::process::id()
        },
        pids: args.pids.clone(),
        follow: !args.cmd.is_empty(),
        tids: args.tids.clone(),
        comm,
        cgroup,
        addr: args.addr,
        kinds,
        user_symbols: args.user_symbols,
        linger_ns: u32::try_from(args.linger.as_nanos()).unwrap_or(u32::MAX),
        mode: args.mode,
        holds_from_ns: args
            .min_hold
            .filter(|_| args.mode == Mode::Holds)
            .map_or(0, nanoseconds),
        sums: args.sums.is_some(),
        log,
        idle: false,
    };

    let mut live = Live::start(&facts, &found, &wishes, loader, &options, filters)?;
    let mut stop = Stop::new(args.duration)?;
    if !args.cmd.is_empty() {
        // The command waits for us anyway, so it meets everything in place.
        live.complete();
        let mut child = Child::start(&args.cmd, output)?;
        live.follow(child.pid)?;
        child.go()?;
        stop.also(move || {
            let ended = child.ended()?;
            if let Some(how) = &ended {
                log::info!("{how}");
            }
            Ok(ended.map(|_| Ended::Command))
        });
    }
    Ok(Started {
        live: Sieved::new(live, least, asked),
        stop,
    })
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What is known of this kernel, and aya's side of it.
pub struct Known {
    /// What the kernel tells.
    pub facts: Facts,
    /// Where its text has the operations inlined.
    pub found: Found,
    /// aya, ready to load.
    pub loader: attach::Loader,
}

/// Asks the kernel, reads its text, and lets aya's loader read all the kernel's types, wanted or not; side by side.
///
/// # Errors
/// When the kernel does not tell its types.
pub fn gather(depth: Depth, kernel_text: Option<&Path>) -> anyhow::Result<Known> {
    let sites = SitesArgs {
        kernel_text: kernel_text.map(Path::to_path_buf),
        ..SitesArgs::default()
    };
    std::thread::scope(|scope| {
        let loader = scope.spawn(aya::EbpfLoader::new);
        let found = scope.spawn(|| discover(&sites).map_err(|error| error.to_string()));
        let (facts, types) = Facts::gather(&Paths::default(), depth)?;
        let pared = types.pared(FUNCTIONS);
        let btf = aya::Btf::parse(&pared, aya::Endianness::default());
        let btf = btf.context("cannot use /sys/kernel/btf/vmlinux")?;
        let loader = loader
            .join()
            .map_err(|_| anyhow::anyhow!("reading the kernel's types failed"))?;
        let found = found
            .join()
            .map_err(|_| anyhow::anyhow!("reading the kernel's text failed"))?;
        Ok(Known {
            facts,
            found,
            loader: attach::Loader { btf, loader },
        })
    })
}

/// The filters in words, for whoever reads the recording later.
fn filters(args: &LiveArgs, cgroup: Option<&Cgroup>) -> Vec<String> {
    let mut filters = Vec::new();
    if args.mode != Mode::Stream {
        filters.push(format!("mode {}", args.mode.name()));
    }
    filters.extend(args.pids.iter().map(|pid| format!("pid {pid}")));
    filters.extend(args.tids.iter().map(|tid| format!("tid {tid}")));
    filters.extend(args.comm.iter().map(|comm| format!("comm {comm}")));
    filters.extend(cgroup.map(|cgroup| format!("cgroup {}", cgroup.path)));
    filters.extend(args.addr.map(|addr| format!("addr {addr}")));
    for (name, time) in [("min-hold", args.min_hold), ("min-wait", args.min_wait)] {
        filters.extend(time.map(|time| format!("{name} {time:?}")));
    }
    if !args.only.is_empty() {
        let kinds: Vec<_> = args.only.iter().map(|kind| kind.name()).collect();
        filters.push(format!("only {}", kinds.join(",")));
    }
    if !args.cmd.is_empty() {
        filters.push(format!("command {}", args.cmd.join(" ")));
    }
    filters
}

fn comm(name: &str) -> anyhow::Result<[u8; 16]> {
    anyhow::ensure!(
        name.len() <= 15 && !name.is_empty(),
        "--comm {name}: the kernel keeps 1 to 15 bytes of a command's name, this has {}; see `ps -eo comm`",
        name.len()
    );
    let mut padded = [0; 16];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    Ok(padded)
}

fn tgid(proc: &Path, id: u32) -> Option<u32> {
    let status = fs::read_to_string(proc.join(id.to_string()).join("status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:"))?
        .trim()
        .parse()
        .ok()
}

fn check_process(proc: &Path, pid: u32) -> anyhow::Result<()> {
    let tgid = tgid(proc, pid).with_context(|| format!("there is no process {pid}; see `ps -e`"))?;
    anyhow::ensure!(
        tgid == pid,
        "{pid} is a thread of process {tgid}: give -t {pid} or -p {tgid}"
    );
    Ok(())
}

fn check_thread(proc: &Path, tid: u32) -> anyhow::Result<()> {
    tgid(proc, tid)
        .map(drop)
        .with_context(|| format!("there is no thread {tid}; see `ps -eL`"))
}

/// Tells on standard error what this kernel does not show, in a line; silence would be a lie.
pub fn tell_unseen(live: &impl Source) {
    let info = live.info();
    if info.unseen.is_empty() {
        return;
    }
    let mut operations: Vec<&str> = info
        .unseen
        .iter()
        .map(|unseen| unseen.operation.as_str())
        .collect();
    operations.sort_unstable();
    operations.dedup();
    let refused = info
        .unseen
        .iter()
        .find(|unseen| unseen.reason.starts_with("refused"));
    tell!(
        "not (or not wholly) seen on this kernel: {}{}. `tracer doctor` tells why",
        operations.join(", "),
        refused
            .map(|unseen| format!(" ({})", unseen.reason))
            .unwrap_or_default()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_process_is_named() {
        let error = check_process(Path::new("/proc"), u32::MAX).unwrap_err();
        assert!(
            format!("{error:#}").contains("no process 4294967295"),
            "{error:#}"
        );
    }

    #[test]
    fn a_thread_is_not_taken_for_a_process() {
        let tid = std::thread::spawn(|| {
            // SAFETY: no precondition.
            let tid = unsafe { libc::gettid() } as u32;
            assert!(check_thread(Path::new("/proc"), tid).is_ok());
            let error = check_process(Path::new("/proc"), tid).unwrap_err();
            assert!(format!("{error:#}").contains("give -t"), "{error:#}");
        });
        tid.join().unwrap();
    }

    #[test]
    fn names_longer_than_the_kernel_keeps_are_refused() {
        assert!(comm("exactly15bytes.").is_ok());
        assert!(comm("sixteen bytes it").is_err());
        assert!(comm("").is_err());
    }
}
