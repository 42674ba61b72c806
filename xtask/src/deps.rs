//! What has to be on the machine, fetched if it can be, else a failure with the command to type.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt::{Apt, Suites};
use crate::{kernels, ui, ws};

/// The one version that links with the nightly compiler's own LLVM and builds without a system LLVM.
pub(crate) const BPF_LINKER: &str = "0.10.1";
/// The package of the emulator.
pub(crate) const QEMU_PACKAGE: &str = "qemu-system-x86";
/// Older ones reset the guest at random under multi-threaded emulation with the oracle kernel.
pub(crate) const QEMU_OLDEST: u32 = 8;

/// `cargo` of the nightly toolchain, free of what an outer cargo put into the environment.
pub(crate) fn nightly_cargo() -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]);
    clean(&mut command);
    command
}

/// `cargo` of the toolchain that built xtask.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for key in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(key);
    }
    command.current_dir(ws::root());
    command
}

fn clean(command: &mut Command) {
    for key in [
        "CARGO",
        "RUSTC",
        "RUSTDOC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTUP_TOOLCHAIN",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "CARGO_MANIFEST_DIR",
    ] {
        command.env_remove(key);
    }
    command.current_dir(ws::root());
}

/// The nightly compiler's library sources, which `core` for the kernel's virtual machine is built from.
pub(crate) fn rust_src() -> Result<()> {
    let mut rustc = Command::new("rustup");
    rustc.args(["run", "nightly", "rustc", "--print", "sysroot"]);
    clean(&mut rustc);
    let sysroot = ws::capture(&mut rustc).context(
        "the eBPF programs need a nightly toolchain; install it: rustup toolchain install nightly",
    )?;
    let sources = PathBuf::from(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if sources.is_file() {
        return Ok(());
    }
    let mut add = Command::new("rustup");
    add.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
    clean(&mut add);
    ui::step("adding rust-src to the nightly toolchain", || {
        ws::capture(&mut add).map(drop)
    })
    .with_context(|| {
        format!(
            "the eBPF programs need the sources of core; add them: {}",
            ws::show(&add)
        )
    })
}

/// The folder that holds the pinned bpf-linker.
pub(crate) fn bpf_linker() -> Result<PathBuf> {
    let tools = ws::target().join("tools");
    let bin = tools.join("bin");
    let linker = bin.join("bpf-linker");
    if linker.is_file() {
        let version = ws::capture(Command::new(&linker).arg("--version"))?;
        if version.split_whitespace().nth(1) == Some(BPF_LINKER) {
            return Ok(bin);
        }
    }
    let mut install = nightly_cargo();
    install
        .args([
            "install",
            "bpf-linker",
            "--version",
            BPF_LINKER,
            "--locked",
            "--force",
            "--root",
        ])
        .arg(&tools);
    ws::run_logged(
        &format!("installing bpf-linker {BPF_LINKER} into target/tools"),
        &mut install,
        &ws::target().join("tools/bpf-linker.log"),
    )?;
    Ok(bin)
}

/// An emulator that is new enough.
pub(crate) fn qemu() -> Result<PathBuf> {
    const NAME: &str = "qemu-system-x86_64";
    let installed = match ws::in_path(NAME) {
        Some(path) => Some((qemu_version(&path)?, path)),
        None => None,
    };
    if let Some(((major, _), path)) = &installed
        && *major >= QEMU_OLDEST
    {
        return Ok(path.clone());
    }
    let apt = Apt::open(Suites::Machine)?;
    apt.refresh()?;
    let why = match &installed {
        Some(((major, minor), _)) => format!(
            "a virtual machine (QEMU {major}.{minor} is installed, but it resets guests at random; {QEMU_OLDEST} or later does not)"
        ),
        None => "a virtual machine".to_owned(),
    };
    apt.install(&[QEMU_PACKAGE], &why)?;
    let path =
        ws::in_path(NAME).with_context(|| format!("{QEMU_PACKAGE} was installed but brought no {NAME}"))?;
    let (major, minor) = qemu_version(&path)?;
    if major < QEMU_OLDEST {
        bail!("Debian's archive has QEMU {major}.{minor} for this release; {QEMU_OLDEST} or later is needed");
    }
    Ok(path)
}

fn qemu_version(path: &std::path::Path) -> Result<(u32, u32)> {
    let said = ws::capture(Command::new(path).arg("--version"))?;
    parse_qemu(&said).with_context(|| format!("{} --version says {said:?}", path.display()))
}

/// `QEMU emulator version 10.0.2 (Debian …)`.
fn parse_qemu(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said
        .split("version ")
        .nth(1)?
        .split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Packages that building a kernel takes, with a file by which each is known to be there.
const KERNEL_PACKAGES: [(&str, &str); 13] = [
    ("gcc", "/usr/bin/gcc"),
    ("make", "/usr/bin/make"),
    ("flex", "/usr/bin/flex"),
    ("bison", "/usr/bin/bison"),
    ("bc", "/usr/bin/bc"),
    ("libelf-dev", "/usr/include/libelf.h"),
    ("libssl-dev", "/usr/include/openssl/ssl.h"),
    ("libdw-dev", "/usr/include/elfutils/libdw.h"),
    ("dwarves", "/usr/bin/pahole"),
    ("cpio", "/usr/bin/cpio"),
    ("kmod", "/usr/bin/kmod"),
    ("xz-utils", "/usr/bin/xz"),
    ("perl", "/usr/bin/perl"),
];

/// Whatever building a kernel takes.
pub(crate) fn kernel_build() -> Result<()> {
    let missing: Vec<&str> = KERNEL_PACKAGES
        .iter()
        .filter(|(_, file)| !PathBuf::from(file).exists())
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    debian(&missing, "building the oracle kernel")
}

/// Installs packages of the machine's own release.
pub(crate) fn debian(packages: &[&str], why: &str) -> Result<()> {
    let apt = Apt::open(Suites::Machine)?;
    apt.refresh()?;
    apt.install(packages, why)
}

/// What counts the instructions of a program.
pub(crate) fn valgrind() -> Result<PathBuf> {
    const NAME: &str = "valgrind";
    if let Some(path) = ws::in_path(NAME) {
        return Ok(path);
    }
    debian(&[NAME], "counting instructions")?;
    ws::in_path(NAME).with_context(|| format!("{NAME} was installed but brought no {NAME}"))
}

/// A static busybox, unpacked into the cache and not installed.
pub(crate) fn busybox() -> Result<PathBuf> {
    const PACKAGE: &str = "busybox-static";
    let store = ws::cache()?.join("busybox");
    let cached = || {
        let versions = fs::read_dir(&store).into_iter().flatten().flatten();
        versions
            .filter_map(|e| e.file_name().into_string().ok())
            .max_by(|a, b| kernels::compare(a, b))
    };
    if let Some(version) = cached() {
        return Ok(store.join(version).join("busybox"));
    }
    let apt = match (Apt::open(Suites::Machine), ws::in_path("busybox")) {
        (Ok(apt), _) => apt,
        // No Debian: one that was installed by hand may do.
        (Err(_), Some(installed)) => return Ok(installed),
        (Err(error), None) => return Err(error),
    };
    if let Some(version) = cached() {
        return Ok(store.join(version).join("busybox"));
    }
    apt.refresh()?;
    let version = apt
        .candidate(PACKAGE)?
        .with_context(|| format!("Debian's archive has no {PACKAGE}"))?;
    let dir = store.join(&version);
    ws::atomically(&dir, |new| {
        let unpacked = ws::Scratch::new(new.parent())?;
        apt.unpack(PACKAGE, unpacked.path())?;
        let found = ["usr/bin/busybox", "bin/busybox"]
            .map(|p| unpacked.path().join(p))
            .into_iter()
            .find(|p| p.is_file());
        let found =
            found.with_context(|| format!("{PACKAGE} {version} holds no busybox where it used to be"))?;
        fs::copy(&found, new.join("busybox")).with_context(|| format!("copying {}", found.display()))?;
        Ok(())
    })?;
    Ok(dir.join("busybox"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_tells_its_version() {
        assert_eq!(
            parse_qemu("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\n"),
            Some((10, 0))
        );
        assert_eq!(parse_qemu("QEMU emulator version 7.2.22 (Debian)"), Some((7, 2)));
        assert_eq!(parse_qemu("nonsense"), None);
    }
}
