//! Programs of other people that read what tracer exports: Python packages in an environment of their own, outside of
//! the tree, and Debian packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::apt::{Apt, Suites};
use crate::{deps, ws};

/// Python packages, by name and version, so that a test says the same on every machine.
const PACKAGES: &[(&str, &str)] = &[
    ("cyclonedx-python-lib[json-validation]", "11.12.0"),
    ("duckdb", "2.0.0"),
    ("jsonschema", "4.26.0"),
    ("opentelemetry-proto", "1.45.2"),
    ("perfetto", "0.59.1"),
    ("prometheus-client", "0.26.0"),
    ("protobuf", "7.36.2"),
    ("pyspark", "4.3.0"),
    ("pytz", "2026.6"),
    ("websocket-client", "1.9.2"),
];

/// A Python that has all of [`PACKAGES`].
pub(crate) fn python() -> Result<PathBuf> {
    let store = ws::cache()?.join("consumers");
    let wanted: String = PACKAGES
        .iter()
        .map(|(name, version)| format!("{name}=={version}\n"))
        .collect();
    let home = store.join("python");
    let python = home.join("bin/python3");
    let there = || fs::read_to_string(home.join("requirements.txt")).is_ok_and(|had| had == wanted);
    if there() {
        return Ok(python);
    }
    let _lock = ws::lock(
        &store,
        "waiting for another xtask that is installing Python packages",
    )?;
    if there() {
        return Ok(python);
    }
    let base = base_python()?;
    if home.exists() {
        fs::remove_dir_all(&home).with_context(|| format!("removing {}", home.display()))?;
    }
    ws::capture(Command::new(base).args(["-m", "venv"]).arg(&home))?;
    let list = store.join("requirements.txt");
    fs::write(&list, &wanted).with_context(|| format!("writing {}", list.display()))?;
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-input",
        "-r",
    ])
    .arg(&list);
    ws::run_logged(
        "installing Python packages that read exports (600 MB, once)",
        &mut pip,
        &store.join("pip.log"),
    )?;
    // Last: who finds the list finds all that it names.
    fs::rename(&list, home.join("requirements.txt")).context("finishing the Python environment")?;
    Ok(python)
}

/// A Python that can make environments.
fn base_python() -> Result<PathBuf> {
    let able = |path: &Path| ws::capture(Command::new(path).args(["-c", "import ensurepip, venv"])).is_ok();
    if let Some(found) = ws::in_path("python3").filter(|path| able(path)) {
        return Ok(found);
    }
    deps::debian(
        &["python3", "python3-venv"],
        "reading exports with other people's programs",
    )?;
    ws::in_path("python3").context("the package python3 was installed but brought no python3")
}

/// A program that a Debian package brings, which is installed if it is not there.
pub(crate) fn installed(program: &str, package: &str) -> Result<PathBuf> {
    if let Some(path) = ws::in_path(program) {
        return Ok(path);
    }
    deps::debian(&[package], &format!("{program}, which reads exports,"))?;
    ws::in_path(program)
        .with_context(|| format!("the package {package} was installed but brought no {program}"))
}

/// A program of a Debian package that needs nothing but the C library: unpacked into the cache, since installing the
/// package would start a service.
pub(crate) fn unpacked(program: &str, package: &str) -> Result<PathBuf> {
    if let Some(path) = ws::in_path(program) {
        return Ok(path);
    }
    let home = ws::cache()?.join("consumers").join(package);
    let path = home.join("usr/bin").join(program);
    if !path.is_file() {
        let apt = Apt::open(Suites::Machine)?;
        apt.refresh()?;
        ws::atomically(&home, |new| apt.unpack(package, new))?;
    }
    Ok(path)
}

/// Runs one of the scripts in `xtask/consumers/`; what it says is the error if it fails.
pub(crate) fn run(script: &str, args: &[&Path], environment: &[(&str, &Path)]) -> Result<String> {
    let path = ws::root().join("xtask/consumers").join(script);
    let mut command = Command::new(python()?);
    // No file of Python's own beside the scripts.
    command.args(["-B", "-W", "ignore"]).arg(&path).args(args);
    for (name, value) in environment {
        command.env(name, value);
    }
    ws::dies_with_us(&mut command, libc::SIGTERM);
    ws::capture(&mut command)
}

/// inferno's flame graph maker. It is under the CDDL, so it is a tool of the tests and no part of the program.
pub(crate) fn inferno() -> Result<PathBuf> {
    const VERSION: &str = "0.12.8";
    let tools = ws::target().join("tools").join(format!("inferno-{VERSION}"));
    let program = tools.join("bin/inferno-flamegraph");
    if program.is_file() {
        return Ok(program);
    }
    let mut install = crate::deps::cargo();
    install
        .args([
            "install",
            "--locked",
            "--debug",
            "--version",
            VERSION,
            "--no-default-features",
        ])
        .args([
            "--features",
            "cli",
            "--bin",
            "inferno-flamegraph",
            "inferno",
            "--root",
        ])
        .arg(&tools)
        .env("CARGO_TARGET_DIR", tools.join("build"));
    ws::run_logged(
        &format!("installing inferno {VERSION} into target/tools"),
        &mut install,
        &ws::target().join("tools/inferno.log"),
    )?;
    // What it was built from is of no more use.
    let build = tools.join("build");
    fs::remove_dir_all(&build).with_context(|| format!("removing {}", build.display()))?;
    Ok(program)
}
