//! `cargo xtask fuzz`: the targets of `fuzz/` under libFuzzer, for as long as somebody wants.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::{build, deps, ui, ws};

/// The one version that is tried; it needs a nightly compiler.
const CARGO_FUZZ: &str = "0.13.2";
const HOST: &str = "x86_64-unknown-linux-gnu";
/// Most memory of one target, in MiB: a file cannot claim more.
const MEMORY_MIB: u32 = 1_024;
/// Most time for one input, in seconds.
const SLOWEST: u32 = 10;
/// Longest input that is made up, in bytes.
const LONGEST: u32 = 1 << 16;

#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Only this target (all of them, one after the other)
    target: Option<String>,
    /// For each target: 90s, 10m, 1h
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = time)]
    time: Duration,
    /// Run the target on this one input instead
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
    /// Print the names of the targets
    #[arg(long)]
    list: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    let error = || format!("{text} is no time such as 90s, 10m or 1h");
    let unit = text.chars().last().ok_or_else(error)?;
    let each = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        _ => return Err(error()),
    };
    let count = text[..text.len() - 1].parse::<u32>().map_err(|_| error())?;
    if count == 0 {
        return Err("no time at all".to_owned());
    }
    Ok(Duration::from_secs(u64::from(count) * each))
}

/// Set by ^C; the target at work gets it, too, and ends.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupted(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Runs the command. Code 1: something was found.
pub(crate) fn run(args: &FuzzArgs) -> Result<ExitCode> {
    let known = targets()?;
    if args.list {
        known.iter().for_each(|name| ui::line(name));
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = match &args.target {
        Some(name) if known.contains(name) => vec![name.clone()],
        Some(name) => bail!("no target {name}; there are {}", known.join(", ")),
        None => known,
    };
    build(args.target.as_deref())?;
    if let (Some(name), Some(input)) = (&args.target, &args.input) {
        let input = fs::canonicalize(input).with_context(|| input.display().to_string())?;
        ws::run(limited(&mut Command::new(program(name))).arg(input))?;
        ui::line(&format!("{name}: nothing is wrong with that input"));
        return Ok(ExitCode::SUCCESS);
    }
    // SAFETY: the handler only stores to an atomic; programs that we start have the default again.
    unsafe {
        libc::signal(libc::SIGINT, interrupted as *const () as libc::sighandler_t);
    }
    let mut found = 0;
    for name in &chosen {
        found += u32::from(!fuzz(name, args.time)?);
        if INTERRUPTED.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(if found == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The names of the targets, sorted.
fn targets() -> Result<Vec<String>> {
    let dir = ws::root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry.with_context(|| dir.display().to_string())?.path();
        if path.extension().is_some_and(|end| end == "rs")
            && let Some(name) = path.file_stem()
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn folder() -> PathBuf {
    ws::target().join("fuzz")
}

fn program(name: &str) -> PathBuf {
    folder().join(HOST).join("release").join(name)
}

/// The folder that holds cargo-fuzz.
fn cargo_fuzz() -> Result<PathBuf> {
    let tools = ws::target().join("tools");
    let bin = tools.join("bin");
    let found = bin.join("cargo-fuzz");
    if found.is_file() && ws::capture(Command::new(&found).args(["fuzz", "--version"]))?.contains(CARGO_FUZZ)
    {
        return Ok(bin);
    }
    let mut install = deps::nightly_cargo();
    install
        .args(["install", "cargo-fuzz", "--version", CARGO_FUZZ])
        .args(["--locked", "--force", "--root"])
        .arg(&tools);
    ws::run_logged(
        &format!("installing cargo-fuzz {CARGO_FUZZ} into target/tools"),
        &mut install,
        &tools.join("cargo-fuzz.log"),
    )
    .context("fuzzing needs a nightly toolchain (rustup toolchain install nightly) and cargo-fuzz")?;
    Ok(bin)
}

fn build(target: Option<&str>) -> Result<()> {
    // The program embeds the eBPF object, so nothing compiles without it.
    build::ebpf()?;
    let bin = cargo_fuzz()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&path))).context("PATH")?;
    let mut command = deps::nightly_cargo();
    // What is fuzzed is safe Rust: without the address sanitizer twice as much of it is tried.
    command
        .args(["fuzz", "build", "--fuzz-dir", "fuzz", "--sanitizer", "none"])
        .arg("--target-dir")
        .arg(folder())
        .args(target)
        .env("PATH", path);
    ws::run_logged(
        "building the fuzz targets",
        &mut command,
        &folder().join("build.log"),
    )
}

/// With the limits of every run.
fn limited(command: &mut Command) -> &mut Command {
    command.args([
        format!("-rss_limit_mb={MEMORY_MIB}"),
        format!("-timeout={SLOWEST}"),
        format!("-max_len={LONGEST}"),
    ])
}

/// One target for its time; `false`: it found something.
fn fuzz(name: &str, time: Duration) -> Result<bool> {
    let (corpus, finds) = (
        folder().join("corpus").join(name),
        folder().join("finds").join(name),
    );
    for dir in [&corpus, &finds] {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    let seeds = ws::root().join("fuzz/seeds").join(name);
    ensure!(seeds.is_dir(), "{} is not there", seeds.display());
    let log = folder().join(format!("{name}.log"));
    let file = fs::File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let mut command = Command::new(program(name));
    limited(&mut command)
        .arg(format!("-max_total_time={}", time.as_secs()))
        .arg(format!("-artifact_prefix={}/", finds.display()))
        .arg("-print_final_stats=1")
        .args([&corpus, &seeds])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file);
    ws::dies_with_us(&mut command, libc::SIGINT);
    let start = Instant::now();
    let progress = ui::Progress::follow(&format!("{name}, for {}", ui::elapsed(time)), &log);
    let status = command.status();
    drop(progress);
    let status = status.with_context(|| format!("starting {}", program(name).display()))?;
    let inputs = tidy(&corpus)?;
    let said = fs::read(&log).with_context(|| log.display().to_string())?;
    let said = String::from_utf8_lossy(&said);
    let figures = format!(
        "{} inputs in {}, at most {} MiB; corpus: {inputs} inputs",
        stat(&said, "number_of_executed_units"),
        ui::elapsed(start.elapsed()),
        stat(&said, "peak_rss_mb"),
    );
    if let Some(input) = find(&said) {
        ui::line(&format!("{name}: FOUND {}; {figures}", reason(&said)));
        ui::line(&format!("  the input: {input}"));
        ui::line(&format!("  again: cargo xtask fuzz {name} --input {input}"));
        return Ok(false);
    }
    let by_hand = INTERRUPTED.load(Ordering::Relaxed);
    if !status.success() && !by_hand {
        bail!(
            "{name} ended with {status} and left no input; see {}",
            log.display()
        );
    }
    let until = if by_hand { ", stopped" } else { "" };
    ui::line(&format!("{name}: nothing found{until}; {figures}"));
    Ok(true)
}

/// Removes what was not written when the target was stopped; gives how many inputs there are.
fn tidy(corpus: &Path) -> Result<usize> {
    let mut inputs = 0;
    for entry in fs::read_dir(corpus).with_context(|| corpus.display().to_string())? {
        let entry = entry.with_context(|| corpus.display().to_string())?;
        if entry.metadata().is_ok_and(|meta| meta.len() == 0) {
            fs::remove_file(entry.path()).with_context(|| entry.path().display().to_string())?;
        } else {
            inputs += 1;
        }
    }
    Ok(inputs)
}

/// Of a line such as `stat::peak_rss_mb: 71` the number.
fn stat<'a>(said: &'a str, name: &str) -> &'a str {
    said.lines()
        .find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name)?.strip_prefix(':'))
        .map_or("?", str::trim)
}

/// The input that libFuzzer has kept.
fn find(said: &str) -> Option<&str> {
    said.lines().find_map(|line| {
        line.split_once("Test unit written to ")
            .map(|(_, path)| path.trim())
    })
}

/// What is wrong, in a line.
fn reason(said: &str) -> String {
    let lines = || said.lines();
    let panic = lines().position(|line| line.contains("panicked at"));
    let told = match panic {
        Some(at) => lines().skip(at).take(2).collect::<Vec<_>>().join(" "),
        None => lines()
            .find(|line| line.contains("ERROR: libFuzzer"))
            .unwrap_or("something")
            .to_owned(),
    };
    told.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(time("1h"), Ok(Duration::from_secs(3_600)));
        for wrong in ["", "s", "10", "0s", "1d", "-1m", "é"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_target_says_is_understood() {
        let said = "#2 INITED\nthread '<unnamed>' panicked at a.rs:1:2:\nboom\n\
            ==1== ERROR: libFuzzer: deadly signal\n\
            artifact_prefix='x/'; Test unit written to x/crash-1\nstat::number_of_executed_units: 12\n\
            stat::peak_rss_mb:              71\n";
        assert_eq!(find(said), Some("x/crash-1"));
        assert_eq!(stat(said, "peak_rss_mb"), "71");
        assert_eq!(stat(said, "number_of_executed_units"), "12");
        assert_eq!(reason(said), "thread '<unnamed>' panicked at a.rs:1:2: boom");
        assert_eq!(find("#2 INITED"), None);
    }

    #[test]
    fn every_target_has_seeds() {
        let targets = targets().unwrap();
        assert!(!targets.is_empty());
        for name in targets {
            let seeds = ws::root().join("fuzz/seeds").join(&name);
            assert!(
                fs::read_dir(&seeds).is_ok_and(|mut dir| dir.next().is_some()),
                "{name}"
            );
        }
    }
}
