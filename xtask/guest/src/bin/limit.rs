//! `limit`: attaches programs that do next to nothing to the hooks that tracer has, until ^C. What a probe costs beyond
//! them is tracer's own.
//!
//! An empty program counts nothing, so that it ran is told by the kernel: `--runs` has it count (which costs time, and is
//! not for measurements). Whoever only wants to know what it takes to copy an event asks for `--copy`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{MapData, RingBuf};
use aya::programs::{BtfTracePoint, FEntry, FExit, KProbe, ProgramError, ProgramInfo};
use aya::sys::Stats;
use aya::{Btf, Ebpf, EbpfLoader};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

/// Where each finds what the other has built.
const OBJECT: &str = "/usr/lib/tracer-limit-ebpf";

#[derive(Debug, Parser)]
#[command(
    about = "Attaches programs that do next to nothing to the hooks that tracer has",
    after_help = "Example: tracer info --json a.rec > p; limit --hooks p --program submit96 > counts & …; kill -INT $!"
)]
struct Cli {
    /// The programs
    #[arg(long, default_value = OBJECT, value_name = "FILE")]
    object: PathBuf,
    /// What each of them does
    #[arg(long, value_enum, default_value_t = Does::Empty)]
    program: Does,
    /// What `tracer info --json` says of a recording
    #[arg(long, value_name = "FILE", required_unless_present = "copy")]
    hooks: Option<PathBuf>,
    /// Only hooks of this mechanism, such as tp_btf
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Let the kernel count the runs
    #[arg(long)]
    runs: bool,
    /// Copy so many events in user space instead, and tell what one took
    #[arg(long, value_name = "N")]
    copy: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Does {
    /// Nothing
    Empty,
    /// Reserves 64 bytes in a ring buffer, and submits them
    Submit64,
    /// The same with 96
    Submit96,
    /// Writes all of the 64 bytes in between
    Write64,
    /// The same with 96
    Write96,
}

impl Does {
    fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Submit64 => "submit64",
            Self::Submit96 => "submit96",
            Self::Write64 => "write64",
            Self::Write96 => "write96",
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.copy {
        Some(times) => copy(times),
        None => run(&cli),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("limit: {error:#}");
            ExitCode::FAILURE
        }
    }
}

const KPROBE: &str = "kprobe";

/// A place in the kernel, and how it is looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Hook {
    mechanism: String,
    /// The tracepoint or function; for an instruction, function and distance.
    place: String,
}

/// A program, and what it is hooked to: one place, or all that are reached by kprobes.
struct Hooked {
    name: String,
    ebpf: Ebpf,
    ring: Option<RingBuf<MapData>>,
    events: u64,
    /// Places that the kernel does not find by their names: several functions are called the same.
    refused: Vec<String>,
}

fn run(cli: &Cli) -> Result<()> {
    let end = End::block()?;
    let path = cli.hooks.as_ref().context("--hooks is missing")?;
    let said = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let plan: Value = serde_json::from_slice(&said).context("what tracer info said")?;
    let object = fs::read(&cli.object).with_context(|| format!("reading {}", cli.object.display()))?;
    let btf = Btf::from_sys_fs().context("reading the kernel's types")?;
    let (hooks, left_out) = hooks(&plan, cli.only.as_deref());
    ensure!(!hooks.is_empty(), "tracer had its probes on no hook");
    let (instructions, functions): (Vec<Hook>, Vec<Hook>) =
        hooks.into_iter().partition(|hook| hook.mechanism == KPROBE);
    let number = instructions.len() + functions.len();
    let mut all = Vec::new();
    for hook in functions {
        let name = format!("{} {}", hook.mechanism, hook.place);
        let hooked = attach(&object, &btf, cli.program, &name, &[hook]);
        all.push(hooked.with_context(|| name)?);
    }
    if !instructions.is_empty() {
        all.push(attach(&object, &btf, cli.program, KPROBE, &instructions).context("by kprobe")?);
    }
    // Until it is closed.
    let _counting = match cli.runs {
        true => Some(aya::sys::enable_stats(Stats::RunTime).context("having the kernel count runs")?),
        false => None,
    };
    // Whoever waits for it reads this.
    let refused: Vec<&String> = all.iter().flat_map(|one| &one.refused).collect();
    let attached = number - refused.len();
    println!(
        "{}",
        json!({"attached": attached, "left_out": left_out, "refused": refused})
    );
    let mut last = false;
    loop {
        for one in &mut all {
            one.drain();
        }
        if last {
            break;
        }
        last = end.wait_ms(10)?;
    }
    let mut told = BTreeMap::new();
    for one in &all {
        let info = one.info()?;
        let runs = cli.runs.then(|| info.run_count());
        let ns = cli.runs.then(|| info.run_time().as_nanos() as u64);
        told.insert(
            one.name.clone(),
            json!({"events": one.events, "runs": runs, "run_ns": ns}),
        );
    }
    println!("{}", json!({"program": cli.program.name(), "hooks": told}));
    Ok(())
}

/// Where tracer has a probe, each once; and how many it has that no program here can be put on.
fn hooks(plan: &Value, only: Option<&str>) -> (Vec<Hook>, u64) {
    let mut found = Vec::new();
    let mut left_out = 0;
    for site in plan["sites"].as_array().into_iter().flatten() {
        if site["attached"] != true {
            continue;
        }
        let word = |name: &str| site[name].as_str().unwrap_or_default().to_owned();
        let mechanism = word("mechanism");
        let place = match mechanism.as_str() {
            "tp_btf" | "fentry" | "fexit" => word("function"),
            KPROBE => word("place"),
            "" | "none" => continue,
            _ => {
                left_out += 1;
                continue;
            }
        };
        if only.is_none_or(|only| only == mechanism) {
            found.push(Hook { mechanism, place });
        }
    }
    found.sort();
    found.dedup();
    (found, left_out)
}

/// Puts one program on hooks of one mechanism; on more than one only by kprobe.
fn attach(object: &[u8], btf: &Btf, does: Does, name: &str, hooks: &[Hook]) -> Result<Hooked> {
    let first = hooks.first().context("no hook")?;
    let mut ebpf = EbpfLoader::new().load(object).context("loading the object")?;
    let program = format!("{}_{}", does.name(), first.mechanism);
    let program = ebpf
        .program_mut(&program)
        .with_context(|| format!("the object has no program {program}"))?;
    let mut refused = Vec::new();
    match first.mechanism.as_str() {
        "tp_btf" => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(&first.place, btf)?;
            program.attach()?;
        }
        "fentry" => {
            let program: &mut FEntry = program.try_into()?;
            program.load(&first.place, btf)?;
            program.attach()?;
        }
        "fexit" => {
            let program: &mut FExit = program.try_into()?;
            program.load(&first.place, btf)?;
            program.attach()?;
        }
        KPROBE => {
            let program: &mut KProbe = program.try_into()?;
            program.load()?;
            for hook in hooks {
                let (function, distance) = distance(&hook.place)?;
                match program.attach(function, distance) {
                    Ok(_) => {}
                    Err(error) if is_ambiguous(&error) => refused.push(hook.place.clone()),
                    Err(error) => return Err(error).with_context(|| format!("at {}", hook.place)),
                }
            }
        }
        other => bail!("there is no program for {other}"),
    }
    let ring = match does {
        Does::Empty => None,
        _ => Some(RingBuf::try_from(
            ebpf.take_map("EVENTS").context("the object has no ring buffer")?,
        )?),
    };
    Ok(Hooked {
        name: name.to_owned(),
        ebpf,
        ring,
        events: 0,
        refused,
    })
}

/// Whether the kernel has no, or more than one, function of that name. tracer says the address instead.
fn is_ambiguous(error: &ProgramError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(one) = cause {
        if let Some(io) = one.downcast_ref::<std::io::Error>() {
            return matches!(io.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENOENT));
        }
        cause = one.source();
    }
    false
}

/// Of `proc_get_vma+0x1c4` both parts.
fn distance(place: &str) -> Result<(&str, u64)> {
    let Some((function, distance)) = place.split_once('+') else {
        return Ok((place, 0));
    };
    let digits = distance.strip_prefix("0x").unwrap_or(distance);
    let distance = u64::from_str_radix(digits, 16).with_context(|| format!("the distance in {place}"))?;
    Ok((function, distance))
}

impl Hooked {
    /// Throws away what came; the number stays.
    fn drain(&mut self) {
        while let Some(event) = self.ring.as_mut().and_then(RingBuf::next) {
            black_box(&*event);
            self.events += 1;
        }
    }

    fn info(&self) -> Result<ProgramInfo> {
        for (_, program) in self.ebpf.programs() {
            match program.info() {
                Ok(info) => return Ok(info),
                // All the others of the object.
                Err(ProgramError::NotLoaded) => {}
                Err(error) => return Err(error).context("asking the kernel for a program"),
            }
        }
        bail!("no program is loaded")
    }
}

/// ^C and its like, which end it.
struct End(libc::sigset_t);

impl End {
    /// From now on they wait until they are asked for.
    fn block() -> Result<Self> {
        // SAFETY: all zeroes is a valid set.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` is valid for writing, and the signals exist.
        let done = unsafe {
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
        };
        ensure!(done == 0, "sigprocmask: {}", std::io::Error::last_os_error());
        Ok(Self(set))
    }

    /// Whether one has come, or comes in so long.
    fn wait_ms(&self, ms: i64) -> Result<bool> {
        let time = libc::timespec {
            tv_sec: 0,
            tv_nsec: ms * 1_000_000,
        };
        // SAFETY: both are valid for reading; nothing is wanted of the signal but its number.
        let got = unsafe { libc::sigtimedwait(&raw const self.0, std::ptr::null_mut(), &raw const time) };
        if got > 0 {
            return Ok(true);
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => Ok(false),
            _ => Err(error).context("waiting for a signal"),
        }
    }
}

/// What it takes to copy an event of either size from one place in memory to another.
fn copy(times: u32) -> Result<()> {
    fn one<const BYTES: usize>(times: u32) -> f64 {
        let from = black_box([1_u8; BYTES]);
        let mut to = [0_u8; BYTES];
        let start = Instant::now();
        for _ in 0..times {
            *black_box(&mut to) = *black_box(&from);
        }
        let copied = start.elapsed();
        let start = Instant::now();
        for _ in 0..times {
            black_box(&mut to);
            black_box(&from);
        }
        (copied.as_nanos() as f64 - start.elapsed().as_nanos() as f64) / f64::from(times)
    }
    ensure!(times > 0, "--copy wants a number above 0");
    println!("{}", json!({"64": one::<64>(times), "96": one::<96>(times)}));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_those_of_tracer_each_once() {
        let site = |mechanism: &str, function: &str, place: &str| json!({"mechanism": mechanism, "function": function, "place": place, "attached": true});
        let mut plan = json!({"sites": [
            site("fexit", "f", ""), site("none", "g", ""), site("fexit", "f", ""), site("kprobe", "h", "h+0x1c"),
            site("breakpoint", "i", "i+0x2"), site("fentry", "off", "")]});
        plan["sites"][5]["attached"] = json!(false);
        let (all, left_out) = hooks(&plan, None);
        let places: Vec<&str> = all.iter().map(|hook| hook.place.as_str()).collect();
        assert_eq!((places, left_out), (vec!["f", "h+0x1c"], 1));
        assert_eq!(hooks(&plan, Some("kprobe")).0.len(), 1);
    }

    #[test]
    fn distances_are_hexadecimal() {
        assert_eq!(distance("h+0x1c").unwrap(), ("h", 28));
        assert_eq!(distance("h").unwrap(), ("h", 0));
        assert!(distance("h+x").is_err());
    }
}
