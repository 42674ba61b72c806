//! Building the eBPF object, the program, and what runs inside guests.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow};

use crate::{deps, ws};

/// What everything but the eBPF programs is built for.
pub(crate) const HOST: &str = "x86_64-unknown-linux-gnu";
const BPF: &str = "bpfel-unknown-none";

/// Flags of the eBPF build: the architecture whose registers the programs read, debug information. No BTF of our own:
/// bpf-linker 0.10 gives unions names that the kernel refuses. Instruction set v3 has atomics that return the old value, and every kernel that is traced knows it.
/// bpf-linker is found through PATH. Left to itself it keeps LLVM from making stores of what fills or copies memory, so that each
/// event was zeroed by a function, byte by byte.
const BPF_FLAGS: [&str; 4] = [
    "--cfg=bpf_target_arch=\"x86_64\"",
    "-Cdebuginfo=0",
    "-Ctarget-cpu=v3",
    "-Clink-arg=--disable-expand-memcpy-in-order",
];

/// The crates of eBPF programs: the product's, and those that it is measured by.
const PROBES: &str = "tracer-ebpf";
const LIMIT: &str = "tracer-limit-ebpf";

/// A cargo command for one of them, `build` or `clippy`.
fn bpf_cargo(verb: &str, package: &str) -> Result<Command> {
    deps::rust_src()?;
    let bin = deps::bpf_linker()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&path))).context("PATH")?;
    let mut command = deps::nightly_cargo();
    command
        .args([
            verb,
            "--package",
            package,
            "-Z",
            "build-std=core",
            "--target",
            BPF,
            "--release",
        ])
        .arg("--target-dir")
        .arg(ws::target().join("ebpf-build"))
        .env("PATH", path)
        .env("CARGO_ENCODED_RUSTFLAGS", BPF_FLAGS.join("\u{1f}"));
    Ok(command)
}

/// Builds the eBPF object and returns where it is.
pub(crate) fn ebpf() -> Result<PathBuf> {
    object(PROBES)
}

/// Builds the object of programs that do next to nothing, and returns where it is.
pub(crate) fn limit_ebpf() -> Result<PathBuf> {
    object(LIMIT)
}

fn object(package: &str) -> Result<PathBuf> {
    let mut command = bpf_cargo("build", package)?;
    cargo(&mut command).with_context(|| format!("building the eBPF programs of {package}"))?;
    let built = ws::target()
        .join("ebpf-build")
        .join(BPF)
        .join("release")
        .join(package);
    let object = ws::target().join("ebpf").join(package);
    copy_if_changed(&built, &object)?;
    Ok(object)
}

/// Runs clippy over the eBPF programs.
pub(crate) fn lint_ebpf() -> Result<()> {
    for package in [PROBES, LIMIT] {
        let mut command = bpf_cargo("clippy", package)?;
        command.args(["--", "-D", "warnings"]);
        ws::capture_all(&mut command)?;
    }
    Ok(())
}

/// Copies only what differs, so that cargo does not rebuild the program for a new time stamp.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    fs::write(to, new).with_context(|| format!("writing {}", to.display()))
}

/// Builds tracer, static so that the same file runs here and in every guest.
pub(crate) fn tracer() -> Result<PathBuf> {
    ebpf()?;
    static_build("tracer", &["--bins"])?;
    Ok(output("tracer"))
}

/// Builds the first process of guests.
pub(crate) fn guest_init() -> Result<PathBuf> {
    static_build("tracer-guest", &["--bin", "guest-init"])?;
    Ok(output("guest-init"))
}

/// Builds what guests have in PATH besides tracer: the workload whose locks are counted, the witness of what
/// the kernel counted itself, and one hot VMA to watch.
pub(crate) fn guest_programs() -> Result<Vec<(&'static str, PathBuf)>> {
    static_build(
        "tracer-guest",
        &["--bin", "workload", "--bin", "witness", "--bin", "hotvma"],
    )?;
    Ok(["workload", "witness", "hotvma"]
        .map(|name| (name, output(name)))
        .to_vec())
}

/// Builds one more program for guests, or for benchmarks, by its name.
pub(crate) fn guest_bin(name: &str) -> Result<PathBuf> {
    static_build("tracer-guest", &["--bin", name])?;
    Ok(output(name))
}

/// Builds what makes recordings out of nothing.
pub(crate) fn sample() -> Result<PathBuf> {
    // The library embeds the eBPF object, so nothing compiles without it.
    ebpf()?;
    // In the profile and the folder that tests have built the library in.
    let mut cargo = deps::cargo();
    cargo
        .args([
            "build",
            "--package",
            "tracer",
            "--example",
            "sample",
            "--target-dir",
        ])
        .arg(ws::target());
    ws::capture_all(&mut cargo)?;
    Ok(ws::target().join("debug/examples/sample"))
}

fn output(name: &str) -> PathBuf {
    ws::target().join(HOST).join("release").join(name)
}

fn static_build(package: &str, which: &[&str]) -> Result<()> {
    let moved = remapped();
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    flags.extend(moved.iter().map(|path| format!("--remap-path-prefix={path}")));
    let c_flags: Vec<String> = moved
        .iter()
        .map(|path| ws::quote(format!("-ffile-prefix-map={path}")))
        .collect();
    let mut command = deps::cargo();
    command
        .args(["build", "--release", "--package", package, "--target", HOST])
        .args(which)
        .arg("--target-dir")
        .arg(ws::target())
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CFLAGS_x86_64_unknown_linux_gnu", c_flags.join(" "))
        .env("CC_SHELL_ESCAPED_FLAGS", "1");
    cargo(&mut command).with_context(|| format!("building {package}"))
}

/// Paths of this machine and what stands for them in programs, as `FROM=TO`: where something was built shall not be
/// seen in it. Later ones win.
fn remapped() -> Vec<String> {
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let mut paths: Vec<String> = cargo
        .iter()
        .map(|path| format!("{}=/cargo", path.display()))
        .collect();
    paths.push(format!("{}=/tracer", ws::root().display()));
    paths
}

/// Runs cargo. It shows its own progress, and only if it has something to do: nothing is said about what is up
/// to date. Its words go to stderr, as ours do.
fn cargo(command: &mut Command) -> Result<()> {
    if !std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        // Without a terminal the list of crates is noise in somebody's log; warnings and errors still show.
        command.arg("--quiet");
    }
    ws::run(command)
}

/// Starts tracer in our place, through sudo if we are not root.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let tracer = tracer()?;
    let mut command = if ws::is_root() {
        Command::new(&tracer)
    } else {
        let sudo = ws::in_path("sudo").with_context(|| {
            format!(
                "tracer needs root, and there is no sudo here; as root, run: {}",
                tracer.display()
            )
        })?;
        let mut command = Command::new(sudo);
        command.arg("--").arg(&tracer);
        command
    };
    let error = command.args(args).exec();
    Err(anyhow!(error).context(format!("starting `{}`", ws::show(&command))))
}
