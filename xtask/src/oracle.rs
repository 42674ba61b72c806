//! The oracle: a kernel built here from Debian's source package, with lockdep and the VMA lock's own counters.
//!
//! Every lock it takes can be seen at a tracepoint, so it says how far off a tracer is on a stock kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use tracer_guest::Checksum;

use crate::apt::{Apt, Suites};
use crate::kernels::{self, Kernel};
use crate::{deps, ui, ws};

const SOURCE: &str = "linux-source-7.3";
/// What is set beyond the defaults. Part of the cache's key.
const RECIPE: &str = include_str!("../oracle.config");
/// What the recipe goes on top of. Part of the cache's key.
const BASE: [&str; 2] = ["x86_64_defconfig", "kvm_guest.config"];

fn key() -> String {
    let mut sum = Checksum::default();
    // Comments and blank lines change nothing about the kernel.
    let recipe = RECIPE
        .lines()
        .map(str::trim)
        .filter(|l| l.starts_with("CONFIG_") || l.starts_with("# CONFIG_"));
    for part in BASE.into_iter().chain(recipe) {
        sum.add(part.as_bytes());
        sum.add(&[0]);
    }
    format!("{:08x}", sum.finish() >> 32)
}

fn store() -> Result<PathBuf> {
    Ok(ws::cache()?.join("oracle"))
}

/// The newest cached build of the recipe as it is now.
pub(crate) fn cached() -> Result<Option<Kernel>> {
    let store = store()?;
    let key = key();
    let Ok(entries) = fs::read_dir(&store) else {
        return Ok(None);
    };
    let newest = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| {
            name.strip_suffix(key.as_str())
                .is_some_and(|rest| rest.ends_with('-'))
        })
        .max_by(|a, b| kernels::compare(a, b));
    Ok(newest.map(|name| Kernel {
        image: store.join(&name).join("bzImage"),
        version: name,
        modules: Vec::new(),
    }))
}

/// The cached oracle, built if there is none.
pub(crate) fn get() -> Result<Kernel> {
    if let Some(kernel) = cached()? {
        return Ok(kernel);
    }
    deps::kernel_build()?;
    // Two xtasks do not build the same kernel side by side; apt is free for others meanwhile.
    let store = store()?;
    let _lock = ws::lock(&store, "waiting for another xtask that builds the oracle kernel")?;
    if let Some(kernel) = cached()? {
        return Ok(kernel);
    }
    let work = ws::Scratch::new(Some(&store))?;
    let version = fetch(work.path())?;
    let name = format!("{version}-{}", key());
    let dir = store.join(&name);
    let logs = ws::target().join("oracle");
    ws::atomically(&dir, |new| {
        let tree = unpack(work.path(), &logs)?;
        configure(&tree, &logs)?;
        compile(&tree, &logs)?;
        for (from, to) in [
            ("arch/x86/boot/bzImage", "bzImage"),
            ("vmlinux", "vmlinux"),
            (".config", "config"),
        ] {
            let from = tree.join(from);
            fs::copy(&from, new.join(to)).with_context(|| format!("copying {}", from.display()))?;
        }
        Ok(())
    })?;
    Ok(Kernel {
        image: dir.join("bzImage"),
        version: name,
        modules: Vec::new(),
    })
}

/// Fetches the source package and returns its version.
fn fetch(work: &Path) -> Result<String> {
    let apt = Apt::open(Suites::Kernels)?;
    apt.refresh()?;
    let version = apt.candidate(SOURCE)?;
    let version = version.with_context(|| format!("Debian's archive has no {SOURCE} any more"))?;
    apt.unpack(SOURCE, work)?;
    Ok(version)
}

fn unpack(work: &Path, logs: &Path) -> Result<PathBuf> {
    let archive = work.join("usr/src").join(format!("{SOURCE}.tar.xz"));
    ensure!(archive.is_file(), "{SOURCE} holds no {}", archive.display());
    let mut tar = Command::new("tar");
    tar.arg("-xJf").arg(&archive).arg("-C").arg(work);
    ws::run_logged(&format!("unpacking {SOURCE}"), &mut tar, &logs.join("unpack.log"))?;
    fs::remove_file(&archive).with_context(|| format!("removing {}", archive.display()))?;
    Ok(work.join(SOURCE))
}

fn make(tree: &Path) -> Command {
    // At low priority: a build of ten minutes should not be felt elsewhere.
    let mut make = Command::new("nice");
    make.args(["-n", "10", "make", "-C"]).arg(tree);
    for key in [
        "MAKEFLAGS",
        "MFLAGS",
        "CFLAGS",
        "LDFLAGS",
        "ARCH",
        "CROSS_COMPILE",
    ] {
        make.env_remove(key);
    }
    make.env("KBUILD_BUILD_USER", "tracer")
        .env("KBUILD_BUILD_HOST", "oracle");
    make.env("KBUILD_BUILD_TIMESTAMP", "1970-01-01");
    make
}

fn configure(tree: &Path, logs: &Path) -> Result<()> {
    ws::run_logged(
        "configuring the oracle kernel",
        make(tree).args(BASE),
        &logs.join("defconfig.log"),
    )?;
    let path = tree.join(".config");
    let config = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    fs::write(&path, format!("{config}\n{RECIPE}")).with_context(|| format!("writing {}", path.display()))?;
    ws::run_logged(
        "configuring the oracle kernel",
        make(tree).arg("olddefconfig"),
        &logs.join("config.log"),
    )?;
    let config = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let broken = unmet(RECIPE, &config);
    if !broken.is_empty() {
        bail!(
            "the kernel's configuration did not take these lines of xtask/oracle.config (a dependency is missing, \
             or another option forces them):\n{}",
            broken.join("\n")
        );
    }
    Ok(())
}

/// The lines of a recipe that a configuration does not fulfil.
fn unmet(recipe: &str, config: &str) -> Vec<String> {
    let have: std::collections::HashSet<&str> = config.lines().map(str::trim).collect();
    let set = |name: &str| {
        config
            .lines()
            .any(|l| l.strip_prefix(name).is_some_and(|r| r.starts_with('=')))
    };
    recipe
        .lines()
        .map(str::trim)
        .filter(|line| {
            let off = line
                .strip_prefix("# ")
                .and_then(|l| l.strip_suffix(" is not set"));
            match off {
                // An option whose dependencies are off is not mentioned at all.
                Some(name) if name.starts_with("CONFIG_") => set(name),
                _ => line.starts_with("CONFIG_") && !have.contains(line),
            }
        })
        .map(ToOwned::to_owned)
        .collect()
}

fn compile(tree: &Path, logs: &Path) -> Result<()> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from) + 1;
    let label = "building the oracle kernel (about 11 minutes on two processors)";
    ws::run_logged(
        label,
        make(tree).arg(format!("-j{jobs}")).arg("bzImage"),
        &logs.join("build.log"),
    )
}

/// `cargo xtask kernel oracle`.
pub(crate) fn command() -> Result<()> {
    let before = cached()?.is_some();
    let kernel = get()?;
    if before {
        ui::say(&format!("cached: {}", kernel.image.display()));
    }
    println!("{}", kernel.image.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_that_did_not_hold_is_told() {
        let recipe = "# a comment\nCONFIG_A=y\nCONFIG_B=16\n# CONFIG_C is not set\n# CONFIG_D is not set\n\n";
        let config = "CONFIG_A=m\nCONFIG_B=16\nCONFIG_C=y\n# CONFIG_DD is not set\nCONFIG_D_MORE=y\n";
        assert_eq!(unmet(recipe, config), ["CONFIG_A=y", "# CONFIG_C is not set"]);
        assert!(unmet(recipe, "CONFIG_A=y\nCONFIG_B=16").is_empty());
    }

    #[test]
    fn the_recipe_says_nothing_twice() {
        let mut names: Vec<&str> = RECIPE
            .lines()
            .filter_map(|l| l.strip_prefix("# ").unwrap_or(l).strip_prefix("CONFIG_"))
            .filter_map(|l| l.split(['=', ' ']).next())
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
