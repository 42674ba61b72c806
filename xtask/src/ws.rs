//! Where things are, and how commands are run.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};

use crate::ui;

/// The workspace's folder: the one above this crate's.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The workspace's own `target`, whatever `CARGO_TARGET_DIR` says: what is built here is found here.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// Kernels and what else is fetched, outside of the tree so that every clone shares it.
pub(crate) fn cache() -> Result<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    if let Some(dir) = set("TRACER_CACHE") {
        return Ok(dir);
    }
    if let Some(dir) = set("XDG_CACHE_HOME") {
        return Ok(dir.join("tracer"));
    }
    let home = set("HOME").context("no HOME: set TRACER_CACHE to the folder that may hold kernels")?;
    Ok(home.join(".cache/tracer"))
}

/// Is this process root?
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// A command as a person would type it, for messages.
pub(crate) fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(quote).collect::<Vec<_>>().join(" ")
}

/// One word of a shell command.
pub(crate) fn quote(word: impl AsRef<OsStr>) -> String {
    let word = word.as_ref().to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs a command that prints to our own stderr and stdout; an error if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("starting `{}`", show(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", show(command));
    }
    Ok(())
}

/// Runs a command and returns its standard output; its standard error is part of the error if it fails.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting `{}`", show(command)))?;
    if !out.status.success() {
        bail!(
            "`{}` failed ({})\n{}",
            show(command),
            out.status,
            String::from_utf8_lossy(&out.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs a command whose words matter only if it fails; then all of them are the error.
pub(crate) fn capture_all(command: &mut Command) -> Result<()> {
    command.env("CARGO_TERM_COLOR", "never").stdin(Stdio::null());
    let out = command
        .output()
        .with_context(|| format!("starting `{}`", show(command)))?;
    if out.status.success() {
        return Ok(());
    }
    let said = [out.stdout, out.stderr].concat();
    bail!(
        "`{}` failed ({})\n{}",
        show(command),
        out.status,
        String::from_utf8_lossy(&said).trim_end()
    );
}

/// Makes a command die with us, however we die: a terminal's ^C reaches it by itself, a kill of us does not.
pub(crate) fn dies_with_us(command: &mut Command, signal: libc::c_int) {
    // SAFETY: prctl is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(move || match libc::prctl(libc::PR_SET_PDEATHSIG, signal) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// Runs a long and chatty command under a progress line; all it says goes to `log`, whose end is part of the error.
pub(crate) fn run_logged(label: &str, command: &mut Command, log: &Path) -> Result<()> {
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    let err = file
        .try_clone()
        .with_context(|| format!("using {}", log.display()))?;
    dies_with_us(command, libc::SIGTERM);
    let progress = ui::Progress::follow(label, log);
    let status = command.stdin(Stdio::null()).stdout(file).stderr(err).status();
    let status = status.with_context(|| format!("starting `{}`", show(command)))?;
    if status.success() {
        progress.done();
        return Ok(());
    }
    drop(progress);
    let said = fs::read(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().collect();
    let tail = lines[lines.len().saturating_sub(40)..].join("\n");
    bail!(
        "{label}: `{}` failed ({status}); all of it is in {}\n{tail}",
        show(command),
        log.display()
    );
}

/// Keeps other xtasks out of a folder for as long as the file lives.
pub(crate) fn lock(dir: &Path, waiting: &str) -> Result<File> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    ui::step(waiting, || {
        file.lock().with_context(|| format!("locking {}", path.display()))
    })?;
    Ok(file)
}

/// Is there a program of this name in PATH?
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    // Debian keeps a few in sbin, which a person's PATH lacks.
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|d| d.join(name))
        .find(|p| p.is_file())
}

/// A folder that is removed when the value is dropped, and when another xtask finds that its owner has died.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

const SCRATCH: &str = "tracer-xtask-";
static NEXT: AtomicU32 = AtomicU32::new(0);

impl Scratch {
    /// A new folder under the system's temporary folder, or under `parent`.
    pub(crate) fn new(parent: Option<&Path>) -> Result<Self> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        fs::create_dir_all(&parent).with_context(|| format!("creating {}", parent.display()))?;
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        sweep(&parent);
        let dir = parent.join(format!("{SCRATCH}{}-{n}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Self(dir))
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("xtask: removing {}: {error}", self.0.display());
        }
    }
}

/// Removes what xtasks that were killed left behind.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|n| n.strip_prefix(SCRATCH))
            .and_then(|n| n.split('-').next());
        if let Some(pid) = pid.and_then(|p| p.parse::<u32>().ok())
            && !Path::new("/proc").join(pid.to_string()).exists()
        {
            // One that cannot be removed is another user's, and theirs to sweep.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Makes a folder appear at `to` whole or not at all: `fill` writes into a temporary neighbour.
pub(crate) fn atomically(to: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = to.parent().context("a path without a parent")?;
    let scratch = Scratch::new(Some(parent))?;
    let inner = scratch.path().join("new");
    fs::create_dir(&inner).with_context(|| format!("creating {}", inner.display()))?;
    fill(&inner)?;
    match fs::rename(&inner, to) {
        Ok(()) => Ok(()),
        // Somebody else was quicker, and theirs is as good.
        Err(_) if to.is_dir() => Ok(()),
        Err(error) => Err(error).with_context(|| format!("creating {}", to.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quote("a-b=c"), "a-b=c");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
        let mut command = Command::new("sh");
        command.args(["-c", "echo a b"]);
        assert_eq!(show(&command), "sh -c 'echo a b'");
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let scratch = Scratch::new(None).unwrap();
        let to = scratch.path().join("x");
        assert!(atomically(&to, |_| bail!("no")).is_err());
        assert!(!to.exists());
        atomically(&to, |dir| Ok(fs::write(dir.join("f"), "1")?)).unwrap();
        atomically(&to, |dir| Ok(fs::write(dir.join("f"), "2")?)).unwrap();
        assert_eq!(fs::read_to_string(to.join("f")).unwrap(), "1");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }
}
