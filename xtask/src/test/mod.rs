//! `cargo xtask test`: lints, tests, and real kernels, in one command.

mod accuracy_checks;
mod agreement;
mod check_checks;
mod contention_checks;
mod cost_checks;
mod dist_checks;
mod doctor_checks;
mod export_checks;
mod filter_checks;
mod guests;
mod libtest;
mod modes_checks;
mod provoke_checks;
mod report;
mod sched_checks;
mod screen_checks;
#[cfg(test)]
mod security;
mod tracer_checks;
mod truth_checks;
mod vm_checks;
mod watch_checks;

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::deny::{self, Advisories};
use crate::{build, deps, instructions, tidy, ui, ws};
use report::Report;

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Without virtual machines
    #[arg(long, conflicts_with = "only")]
    quick: bool,
    /// Only the checks whose name (vm/KERNEL/SCENARIO/CHECK or export/FORMAT/CONSUMER) contains this
    #[arg(long, value_name = "SUBSTR")]
    only: Option<String>,
    /// Print the names of these checks, and run nothing
    #[arg(long, conflicts_with = "quick")]
    list: bool,
}

/// Runs the tests; the last line it prints is `N passed, N failed`, and `, N skipped` where something could not be checked.
pub(crate) fn run(args: &TestArgs) -> Result<ExitCode> {
    if args.list {
        let only = args.only.as_deref().unwrap_or_default();
        for name in export_checks::names(only).into_iter().chain(guests::names(only)) {
            println!("{name}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let start = Instant::now();
    let report = Report::default();
    if args.only.is_none() {
        lints(&report);
    }
    let only = args.only.as_deref().unwrap_or_default();
    export_checks::run(&report, only);
    // Where only exports are asked for, no machine boots; a name that nothing has is told there.
    let exports_alone = !export_checks::names(only).is_empty() && guests::names(only).is_empty();
    if !args.quick && !exports_alone {
        guests::run(&report, only);
    }
    let well = report.close(start.elapsed());
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Everything that needs no virtual machine.
fn lints(report: &Report) {
    // The program embeds the eBPF object, so nothing else compiles without it.
    step(report, "eBPF programs build", "cargo xtask build-ebpf", || {
        build::ebpf().map(drop)
    });
    step(report, "format", "cargo fmt --check", || {
        let mut fmt = deps::cargo();
        fmt.args(["fmt", "--check", "--", "--color", "never"]);
        ws::capture_all(&mut fmt).context("`cargo fmt` mends it")
    });
    step(report, "tidy", "cargo xtask tidy", tidy::check);
    supply(report);
    const CLIPPY: [&str; 9] = [
        "clippy",
        "--workspace",
        "--exclude",
        "tracer-ebpf",
        "--exclude",
        "tracer-limit-ebpf",
        "--all-targets",
        "--target-dir",
        "target",
    ];
    step(
        report,
        "clippy",
        &format!("cargo {} -- -D warnings", CLIPPY[..7].join(" ")),
        || {
            let mut clippy = deps::cargo();
            clippy.args(CLIPPY).args(["--", "-D", "warnings"]);
            ws::capture_all(&mut clippy)
        },
    );
    const LINT: &str = "cargo xtask build-ebpf --lint";
    step(report, "clippy of the eBPF programs", LINT, build::lint_ebpf);
    cargo_test(report, "cargo test", &[]);
    // Two more model checkers for the lock; they need its atomics to be theirs, and optimisation.
    const MODEL_CHECKERS: [&str; 9] = [
        "--release",
        "--package",
        "tracer-common",
        "--features",
        "loom,shuttle",
        "--test",
        "lock_loom",
        "--test",
        "lock_shuttle",
    ];
    cargo_test(
        report,
        "cargo test of the lock under loom and shuttle",
        &MODEL_CHECKERS,
    );
    // The whole search and every mutant, in the program that ships, for it takes ten times as long unoptimised.
    for (name, action) in [
        ("model: every search", "explore"),
        ("model: every mutant", "mutants"),
    ] {
        step(
            report,
            name,
            &format!("cargo xtask run -- model {action}"),
            || {
                let said = ws::capture(Command::new(build::tracer()?).args(["model", action]))?;
                ui::line(said.lines().last().unwrap_or_default());
                Ok(())
            },
        );
    }
    step(
        report,
        "instructions an event",
        "cargo xtask instructions",
        instructions::check,
    );
}

/// The crates of other people.
fn supply(report: &Report) {
    const AGAIN: &str = "cargo xtask deny";
    step(report, "crates: licences, sources, versions", AGAIN, deny::rules);
    step(report, "crates: compiler", AGAIN, deny::msrv);
    const ADVISORIES: &str = "crates: advisories";
    let start = Instant::now();
    match deny::advisories() {
        Ok(Advisories::Clean(age)) => {
            let name = age.map_or_else(|| ADVISORIES.to_owned(), |age| format!("{ADVISORIES}, {age}"));
            report.result(&name, Some(start.elapsed()), Ok(()), AGAIN);
        }
        Ok(Advisories::Unknown(why)) => report.skipped(ADVISORIES, &why, AGAIN),
        Err(error) => {
            let failure = Err(format!("{error:#}"));
            report.result(ADVISORIES, Some(start.elapsed()), failure, AGAIN);
        }
    }
}

fn step(report: &Report, name: &str, rerun: &str, work: impl FnOnce() -> Result<()>) {
    let start = Instant::now();
    let progress = ui::Progress::start(name);
    let result = work().map_err(|e| format!("{e:#}"));
    drop(progress);
    report.result(name, Some(start.elapsed()), result, rerun);
}

/// Tests of the workspace, every one of which counts.
fn cargo_test(report: &Report, name: &str, args: &[&str]) {
    let rerun = ["cargo test", &args.join(" ")].join(" ");
    let rerun = rerun.trim_end();
    let start = Instant::now();
    let log = ws::target().join(format!("test/{}.log", name.replace(' ', "-")));
    let mut command = deps::cargo();
    command
        .args(["test", "--no-fail-fast", "--color", "never", "--target-dir"])
        .arg(ws::target())
        .args(args);
    let ended = ws::run_logged(name, &mut command, &log);
    let said = fs::read(&log)
        .map(|b| String::from_utf8_lossy(&b).into_owned())
        .unwrap_or_default();
    let summary = libtest::parse(&said);
    let mut accounted = false;
    for failed in &summary.failed {
        accounted = true;
        let name = format!("{} ({})", failed.test, failed.program);
        let short = failed.test.split(" - ").next().unwrap_or(&failed.test);
        report.result(
            &name,
            None,
            Err(failed.output.clone()),
            &format!("{rerun} {short}"),
        );
    }
    for program in &summary.crashed {
        accounted = true;
        let failure = format!(
            "the test program ended without a result; its output is in {}",
            log.display()
        );
        report.result(&format!("{name}: {program}"), None, Err(failure), rerun);
    }
    if summary.ignored > 0 {
        let failure = format!(
            "{} tests are switched off; a test runs or it goes",
            summary.ignored
        );
        report.result(&format!("{name}: every test runs"), None, Err(failure), rerun);
    }
    for _ in 0..summary.passed {
        report.quiet(name, Ok(()), rerun);
    }
    match ended {
        // Failing tests make cargo fail, too, and they are told already.
        Err(error) if !accounted => {
            report.result(name, Some(start.elapsed()), Err(format!("{error:#}")), rerun);
        }
        Ok(()) if summary.passed == 0 => {
            let failure = format!("{name} ran no test; its output is in {}", log.display());
            report.result(name, Some(start.elapsed()), Err(failure), rerun);
        }
        _ => ui::line(&format!(
            "{} {name}: {} passed, {} failed ({})",
            if accounted { "FAILED" } else { "ok    " },
            summary.passed,
            summary.failed.len() + summary.crashed.len(),
            ui::elapsed(start.elapsed())
        )),
    }
}
