//! `cargo xtask deny`: what the crates of other people may be (`deny.toml`), checked by cargo-deny; whether a compiler of the
//! version that we promise can build them; and whether one of them is known to be dangerous.
//!
//! The last needs the RustSec database, a public git repository. Where that cannot be reached nothing is known, and nothing
//! else is said.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{deps, ui, ws};

/// The one version that is tried.
const CARGO_DENY: &str = "0.20.2";
/// The database, from where cargo-deny has it by default.
const DATABASE: &str = "the RustSec database";

/// A database whose last change is older says too little of today.
const OLDEST: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// What came of asking the database.
#[derive(Debug)]
pub(crate) enum Advisories {
    /// None says anything of our crates. With whose word that is, if it is not today's.
    Clean(Option<String>),
    /// It could not be asked, with why.
    Unknown(String),
}

/// The command. Not to know of advisories is a failure, since who types it wants to know.
pub(crate) fn command() -> Result<()> {
    rules()?;
    ui::line("licences, sources, versions, build scripts: as deny.toml says");
    msrv()?;
    ui::line("no crate wants a newer compiler than rust-version says");
    match advisories()? {
        Advisories::Clean(None) => ui::line("advisories: none"),
        Advisories::Clean(Some(age)) => ui::line(&format!("advisories: none, {age}")),
        Advisories::Unknown(why) => bail!("advisories were NOT checked: {why}"),
    }
    Ok(())
}

/// Licences, sources, versions, build scripts.
pub(crate) fn rules() -> Result<()> {
    let mut deny = deny()?;
    deny.args(["check", "--hide-inclusion-graph", "licenses", "bans", "sources"]);
    ws::capture_all(&mut deny).context("what crates may be is in deny.toml")
}

/// Whether an advisory speaks of one of our crates.
///
/// # Errors
/// One does.
pub(crate) fn advisories() -> Result<Advisories> {
    let mut fetch = deny()?;
    // Nobody is there to be asked for a password, and a connection that stands still is none.
    fetch
        .args(["fetch", "db"])
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_HTTP_LOW_SPEED_LIMIT", "1000")
        .env("GIT_HTTP_LOW_SPEED_TIME", "30");
    let fetched = ws::capture_all(&mut fetch);
    let mut check = deny()?;
    match fetched {
        Ok(()) => {
            check.args(["check", "advisories"]);
            ws::capture_all(&mut check)?;
            Ok(Advisories::Clean(None))
        }
        Err(error) => {
            let why = format!(
                "{DATABASE} could not be fetched ({})",
                reason(&format!("{error:#}"))
            );
            let Some((day, written)) = copy()? else {
                return Ok(Advisories::Unknown(format!("{why}, and no earlier copy is here")));
            };
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let age = now
                .unwrap_or_default()
                .saturating_sub(Duration::from_secs(written));
            if age > OLDEST {
                return Ok(Advisories::Unknown(format!(
                    "{why}, and the copy here is of {day}"
                )));
            }
            check.args(["--offline", "check", "advisories"]);
            ws::capture_all(&mut check).with_context(|| format!("by a database of {day}, since {why}"))?;
            Ok(Advisories::Clean(Some(format!(
                "by a database of {day}, since {why}"
            ))))
        }
    }
}

/// What git said last, without the rest of what cargo-deny tells.
fn reason(said: &str) -> &str {
    let said = said.lines().map(str::trim);
    let mut fatal = said.clone().filter(|line| line.starts_with("fatal: "));
    let reason = fatal.next_back().or_else(|| said.clone().next());
    reason.unwrap_or_default().trim_start_matches("fatal: ")
}

/// The day, and the second since 1970, of the last change in the database that cargo-deny fetched here before, if it has. It is changed several times a
/// week. What cargo-deny itself goes by is the time of the last *try* to fetch it.
fn copy() -> Result<Option<(String, u64)>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let entries = home.and_then(|home| std::fs::read_dir(home.join("advisory-dbs")).ok());
    let mut entries = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    let Some(database) = entries.find(|path| path.join("crates").is_dir()) else {
        return Ok(None);
    };
    let mut git = Command::new("git");
    git.arg("-C")
        .arg(&database)
        .args(["log", "-1", "--format=%cs %ct"]);
    let said = ws::capture(&mut git)?;
    let known = said.trim().split_once(' ');
    let known = known.and_then(|(day, second)| Some((day.to_owned(), second.parse().ok()?)));
    let known = known.with_context(|| format!("git says {said:?} of {}", database.display()))?;
    Ok(Some(known))
}

/// cargo-deny, for this repository.
fn deny() -> Result<Command> {
    let tools = ws::target().join("tools");
    let program = tools.join("bin/cargo-deny");
    let there = || {
        let said = ws::capture(Command::new(&program).arg("--version"));
        said.is_ok_and(|said| said.trim().ends_with(CARGO_DENY))
    };
    if !program.is_file() || !there() {
        let mut install = deps::cargo();
        // Unoptimised it is there in half the time, and runs for three seconds.
        install
            .args(["install", "cargo-deny", "--version", CARGO_DENY])
            .args(["--locked", "--debug", "--force", "--root"])
            .arg(&tools);
        let build = tools.join("cargo-deny-build");
        install.env("CARGO_TARGET_DIR", &build);
        ws::run_logged(
            &format!("installing cargo-deny {CARGO_DENY} into target/tools"),
            &mut install,
            &ws::target().join("tools/cargo-deny.log"),
        )?;
        // What it was built from is of no more use.
        std::fs::remove_dir_all(&build).with_context(|| format!("removing {}", build.display()))?;
    }
    let mut command = Command::new(program);
    command
        .args(["--color", "never"])
        .current_dir(ws::root())
        .env("CARGO_TERM_COLOR", "never");
    Ok(command)
}

/// Whether the compiler that we promise is one that every crate takes, by what they say themselves.
pub(crate) fn msrv() -> Result<()> {
    let mut metadata = deps::cargo();
    metadata.args(["metadata", "--locked", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&ws::capture(&mut metadata)?).context("`cargo metadata`")?;
    let newer = newer(&metadata)?;
    ensure!(
        newer.is_empty(),
        "rust-version in Cargo.toml promises less than these crates ask for: {}",
        newer.join(", ")
    );
    Ok(())
}

/// Crates that want a newer compiler than our own crates do.
fn newer(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let ours = packages.clone().filter(|package| package["source"].is_null());
    let mut promised = ours.map(|package| parts(package["rust_version"].as_str().unwrap_or_default()));
    let promised = promised.next().flatten();
    let promised = promised.context("our own crates state no rust-version")?;
    Ok(packages
        .filter_map(|package| {
            let wants = package["rust_version"].as_str()?;
            (parts(wants)? > promised)
                .then(|| format!("{} {} ({wants})", package["name"], package["version"]).replace('"', ""))
        })
        .collect())
}

/// `1.90`, `1.90.0`
fn parts(version: &str) -> Option<[u32; 3]> {
    let mut parts = [0; 3];
    for (at, part) in version.split('.').enumerate() {
        *parts.get_mut(at)? = part.parse().ok()?;
    }
    (parts[0] > 0).then_some(parts)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_crate_that_wants_a_newer_compiler_is_named() {
        let metadata = json!({"packages": [
            {"name": "tracer", "version": "0.1.0", "source": null, "rust_version": "1.90"},
            {"name": "old", "version": "1.0.0", "source": "x", "rust_version": "1.9"},
            {"name": "same", "version": "1.0.0", "source": "x", "rust_version": "1.90.0"},
            {"name": "silent", "version": "1.0.0", "source": "x", "rust_version": null},
            {"name": "newer", "version": "1.0.0", "source": "x", "rust_version": "1.90.1"},
        ]});
        assert_eq!(newer(&metadata).unwrap(), ["newer 1.0.0 (1.90.1)"]);
        assert!(newer(&json!({"packages": []})).is_err());
    }

    #[test]
    fn why_the_database_is_not_there_is_told_in_a_line() {
        let said = "`cargo-deny fetch db` failed\n[ERROR] failed to clone\nCloning into 'x'...\n\
                    fatal: unable to access 'y': Could not resolve host\n";
        assert_eq!(reason(said), "unable to access 'y': Could not resolve host");
        assert_eq!(reason("no git here\nat all"), "no git here");
    }
}
