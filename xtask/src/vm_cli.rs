//! `cargo xtask vm`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use crate::verifier::{self, VerifierArgs};
use crate::vm::{Guest, Tools};
use crate::{kernels, ui};

#[derive(Debug, Subcommand)]
pub(crate) enum VmTask {
    /// List the kernels by short name
    List {
        /// As JSON: an array of objects with name, version (or null), cached, note
        #[arg(long)]
        json: bool,
    },
    /// Boot a kernel and run a command in it as root
    ///
    /// tracer, workload and busybox are in the guest's PATH. Standard output, standard error and the exit status are
    /// the command's. Statuses of our own: 124 when the guest was killed at its timeout, 125 when it stopped before
    /// the command had ended, 126 and 127 when the command cannot be run or does not exist, 128 + N for signal N.
    ///
    /// Example: cargo xtask vm run --kernel 6.18 --out o -- sh -c 'tracer record -o /out/a --duration 5s'
    Run(RunArgs),
    /// Load all programs on each kernel, and write down how many instructions its verifier looks at
    ///
    /// `cargo xtask test` fails where that has grown by a quarter (tracer/tests/fixtures/verified.json).
    Verifier(VerifierArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Short name or full version as `vm list` shows them, or the path of a kernel image
    #[arg(long, default_value = kernels::DEFAULT, value_name = "NAME|PATH")]
    kernel: String,
    /// Processors; 2, or 1 with --icount
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    smp: Option<u32>,
    /// Memory in MiB; what is added and what is left in /out lies in it
    #[arg(long, default_value_t = 1024, value_name = "MiB", value_parser = clap::value_parser!(u32).range(192..))]
    mem: u32,
    /// A file or folder of this machine for the guest; by default it appears as /add/NAME, and /add is in PATH
    #[arg(long, value_name = "HOST[:GUEST]")]
    add: Vec<String>,
    /// Copy what the command leaves in /out into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Kill the guest after this many seconds, boot included
    #[arg(long, default_value_t = 120, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Let a nanosecond of the guest's time be one instruction, whatever the host does; takes one processor
    ///
    /// Then a time measured in the guest is a count of instructions, the same in every run but for some that
    /// hang on when the host answers. It says nothing of caches or of several processors. Sleeping costs nothing.
    #[arg(long)]
    icount: bool,
    /// More words for the kernel's command line
    #[arg(long, default_value = "", value_name = "ARGS", allow_hyphen_values = true)]
    append: String,
    /// Show the kernel's console, too, when the guest has ended
    #[arg(long)]
    console: bool,
    /// Leave tracer and workload out, and do not build them
    #[arg(long, hide = true)]
    no_tracer: bool,
    /// The command to run in the guest
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Runs a `vm` command.
pub(crate) fn run(task: &VmTask) -> Result<ExitCode> {
    match task {
        VmTask::List { json } => list(*json).map(|()| ExitCode::SUCCESS),
        VmTask::Run(args) => boot(args),
        VmTask::Verifier(args) => verifier::command(args).map(|()| ExitCode::SUCCESS),
    }
}

fn list(json: bool) -> Result<()> {
    let list = kernels::list()?;
    if json {
        let rows: Vec<_> = list
            .iter()
            .map(|k| serde_json::json!({"name": k.name, "version": k.version, "cached": k.cached, "note": k.note}))
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows).context("writing JSON")?);
        return Ok(());
    }
    println!("{:<8} {:<34} {:<7} NOTE", "NAME", "VERSION", "CACHED");
    for kernel in list {
        let version = kernel.version.as_deref().unwrap_or("-");
        let cached = if kernel.cached { "yes" } else { "no" };
        println!(
            "{}",
            format!("{:<8} {version:<34} {cached:<7} {}", kernel.name, kernel.note).trim_end()
        );
    }
    Ok(())
}

fn boot(args: &RunArgs) -> Result<ExitCode> {
    let adds = args
        .add
        .iter()
        .map(|add| parse_add(add))
        .collect::<Result<Vec<_>>>()?;
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    }
    let kernel = kernels::get(&args.kernel)?;
    let tools = Tools::get(!args.no_tracer)?;
    let mut guest = Guest::new(kernel, tools);
    guest.icount = args.icount;
    guest.smp = processors(args.smp, args.icount)?;
    guest.mem = args.mem;
    guest.adds = adds;
    guest.timeout = Duration::from_secs(args.timeout);
    guest.append.clone_from(&args.append);
    guest.out.clone_from(&args.out);
    guest.pass_through = true;
    let outcome = guest.run(&args.command)?;
    for note in &outcome.notes {
        ui::say(note);
    }
    if args.console {
        eprintln!("{}", outcome.console.trim_end());
    }
    if let Some(trouble) = outcome.trouble() {
        ui::say(&trouble);
    }
    Ok(ExitCode::from(outcome.status))
}

/// How many processors a guest gets. Instructions can be counted on one only.
fn processors(asked: Option<u32>, icount: bool) -> Result<u32> {
    match (asked, icount) {
        (Some(smp), true) if smp > 1 => {
            bail!("--icount counts the instructions of one processor: leave out --smp {smp}")
        }
        (None | Some(_), true) => Ok(1),
        (asked, false) => Ok(asked.unwrap_or(2)),
    }
}

/// `HOST[:GUEST]`; a host path may hold colons if the guest's path is given.
fn parse_add(add: &str) -> Result<(PathBuf, String)> {
    let (host, guest) = match add.rsplit_once(":/") {
        Some((host, guest)) => (host, format!("/{guest}")),
        None => (add, String::new()),
    };
    let host = PathBuf::from(host);
    if !host.exists() {
        bail!("--add {add}: there is no {}", host.display());
    }
    if !guest.is_empty() {
        return Ok((host, guest));
    }
    let whole = std::fs::canonicalize(&host).with_context(|| format!("--add {add}"))?;
    let name = Path::new(&host).file_name().or_else(|| whole.file_name());
    let name = name
        .and_then(|n| n.to_str())
        .with_context(|| format!("--add {add}: what shall it be called? Say --add {add}:/PATH"))?;
    Ok((host.clone(), format!("/add/{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_counted_on_one_processor() {
        assert_eq!(processors(None, false).unwrap(), 2);
        assert_eq!(processors(Some(5), false).unwrap(), 5);
        assert_eq!(processors(None, true).unwrap(), 1);
        assert_eq!(processors(Some(1), true).unwrap(), 1);
        let refused = processors(Some(2), true).unwrap_err().to_string();
        assert!(refused.contains("leave out --smp 2"), "{refused}");
    }

    #[test]
    fn what_is_added_has_a_place() {
        let host = env!("CARGO_MANIFEST_DIR");
        assert_eq!(
            parse_add(host).unwrap(),
            (PathBuf::from(host), "/add/xtask".into())
        );
        assert_eq!(
            parse_add(&format!("{host}:/x/y")).unwrap(),
            (PathBuf::from(host), "/x/y".into())
        );
        assert_eq!(parse_add(&format!("{host}/.")).unwrap().1, "/add/xtask");
        assert!(parse_add("/no/such/file").is_err());
    }
}
