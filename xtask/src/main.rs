//! `cargo xtask`: builds, runs, tests, virtual machines, kernels.

mod apt;
mod bench;
mod build;
mod consumers;
mod cpio;
mod deny;
mod deps;
mod dist;
mod fuzz;
mod instructions;
mod kernels;
mod oracle;
mod peers;
mod rustlex;
mod table;
mod test;
mod tidy;
mod ui;
mod verifier;
mod vm;
mod vm_cli;
mod vm_out;
mod ws;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Builds, runs and tests tracer"
)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Get what is missing, build, and start tracer (through sudo when not root)
    ///
    /// Example: cargo xtask run -- record -o a.rec --duration 3s -- ls -R /usr
    Run {
        /// Arguments of tracer
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Build tracer, static, with its eBPF programs inside
    Build,
    /// Build the eBPF programs
    BuildEbpf {
        /// Run clippy over them instead, and fail on any warning
        #[arg(long)]
        lint: bool,
    },
    /// Run all tests: lints, unit tests, real kernels; the last line is `N passed, N failed`
    Test(test::TestArgs),
    /// Measure what the project promises, and fail if a promise is not kept
    Bench(bench::BenchArgs),
    /// Build what is handed to others: the program, a Debian package, an archive, and their sums, in target/dist
    Dist(dist::DistArgs),
    /// Hand made-up input to every parser, guided by coverage, for as long as you like
    Fuzz(fuzz::FuzzArgs),
    /// Count the instructions that an event takes when a recording is read, and fail if they have become more
    Instructions(instructions::InstructionsArgs),
    /// Check the crates of other people: licences, sources, versions, build scripts, compiler, advisories
    Deny,
    /// Check the rules about the source that no compiler holds
    Tidy,
    /// Virtual machines
    #[command(subcommand)]
    Vm(vm_cli::VmTask),
    /// Kernels that are built here
    #[command(subcommand)]
    Kernel(KernelTask),
}

#[derive(Debug, Subcommand)]
enum KernelTask {
    /// Build the lockdep kernel from the distribution's source package, and print where it is
    Oracle,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(task: Task) -> Result<ExitCode> {
    match task {
        Task::Run { args } => build::run(&args)?,
        Task::Build => {
            println!("{}", build::tracer()?.display());
            build::guest_init()?;
            build::guest_programs()?;
        }
        Task::BuildEbpf { lint: true } => build::lint_ebpf()?,
        Task::BuildEbpf { lint: false } => println!("{}", build::ebpf()?.display()),
        Task::Test(args) => return test::run(&args),
        Task::Bench(args) => return bench::run(&args),
        Task::Dist(args) => dist::run(&args)?,
        Task::Fuzz(args) => return fuzz::run(&args),
        Task::Instructions(args) => instructions::command(&args)?,
        Task::Deny => deny::command()?,
        Task::Tidy => tidy::check()?,
        Task::Vm(task) => return vm_cli::run(&task),
        Task::Kernel(KernelTask::Oracle) => oracle::command()?,
    }
    Ok(ExitCode::SUCCESS)
}
