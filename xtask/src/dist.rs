//! `cargo xtask dist`: what is handed to others. One static program with the eBPF object inside, its manual pages and
//! completions, as a Debian package and as an archive for everybody else, and the sums of it all.
//!
//! Two builds of one commit give the same bytes: times are the commit's, names and owners are fixed, and no path of the
//! building machine is in the program (`build::remapped`).

mod inside;
mod licences;
mod pack;
mod sbom;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::{build, deps, ui, ws};
use pack::{DATA, PROGRAM, Tree};

#[derive(Debug, Args)]
pub(crate) struct DistArgs {
    /// Where to put it; it gets a folder of this name
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Build the last commit once more, in a clone elsewhere, and fail if a byte differs (takes as long as the first build)
    #[arg(long)]
    verify: bool,
}

/// The version of what is handed out.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
const NAME: &str = "tracer";
const SUMS: &str = "SHA256SUMS";

/// Completions: the shell, where Debian's shells look for them, and their name for who copies them there by hand.
const SHELLS: [(&str, &str, &str); 3] = [
    (
        "bash",
        "usr/share/bash-completion/completions/tracer",
        "tracer.bash",
    ),
    ("zsh", "usr/share/zsh/vendor-completions/_tracer", "_tracer"),
    (
        "fish",
        "usr/share/fish/vendor_completions.d/tracer.fish",
        "tracer.fish",
    ),
];

const LICENCES: [&str; 3] = ["LICENSE-MIT", "LICENSE-APACHE", "LICENSE-GPL2"];
const OTHERS: &str = "LICENSES-OF-OTHERS.txt";
/// The bill of materials.
pub(crate) const BILL: &str = "tracer.cdx.json";

/// What the package's manager shows of it.
const DESCRIPTION: &str = "\
Description: shows who holds and who waits for the per-VMA locks of Linux
 Since Linux 6.4 every mapping of a process has a lock of its own, beside the
 mmap_lock of the whole process. This program attaches eBPF programs to a stock
 kernel and rebuilds from their events which task holds which of these locks,
 who waits for it, since when, and how surely that is known: live, recorded, as
 statistics, and as files for other tools.
 .
 It is one static program with the eBPF programs inside; it needs nothing but
 Linux 6.4 or later on x86_64, and root for the live kernel.
";

/// The command.
pub(crate) fn run(args: &DistArgs) -> Result<()> {
    let to = args.out.clone().unwrap_or_else(|| ws::target().join("dist"));
    let tracer = build::tracer()?;
    let made = package(&tracer, &to)?;
    if let Some(changed) = uncommitted()? {
        eprintln!("warning: {changed} differs from the last commit: nobody else can build these bytes");
    }
    for path in &made {
        println!("{}", path.display());
    }
    if args.verify {
        verify(&to)?;
    }
    Ok(())
}

/// Packs a program that was built, into a folder, and says what is there then.
///
/// # Errors
/// No git, or a file cannot be read or written.
pub(crate) fn package(tracer: &Path, to: &Path) -> Result<Vec<PathBuf>> {
    let time = time()?;
    let contents = ui::step("dist: gathering what is packed", || {
        Contents::gather(tracer, time)
    })?;
    let folder = format!("{NAME}-{VERSION}-x86_64-linux");
    let (deb, archive) = ui::step("dist: packing", || {
        let deb = pack::deb(&contents.installed()?, &control(), time)?;
        let archive = pack::tarball(&contents.portable(), &folder, time)?;
        Ok((deb, archive))
    })?;
    let mut files = vec![
        (NAME.to_owned(), contents.program),
        (BILL.to_owned(), contents.bill.into_bytes()),
        (format!("{folder}.tar.gz"), archive),
        (format!("{NAME}_{VERSION}_amd64.deb"), deb),
    ];
    let sums = pack::sums(
        files
            .iter()
            .map(|(name, bytes)| (name.as_str(), bytes.as_slice())),
    );
    files.push((SUMS.to_owned(), sums.into_bytes()));
    // What an earlier version left would not be in the sums.
    if to.exists() {
        ensure!(
            to.join(SUMS).is_file() || is_empty(to)?,
            "{} is there and was not made by this command; name a folder that is new",
            to.display()
        );
        fs::remove_dir_all(to).with_context(|| format!("removing {}", to.display()))?;
    }
    fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    let mut made = Vec::new();
    for (name, bytes) in files {
        let path = to.join(&name);
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
        if name == NAME {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(&path, fs::Permissions::from_mode(PROGRAM))
                .with_context(|| format!("making {} a program", path.display()))?;
        }
        made.push(path);
    }
    Ok(made)
}

fn is_empty(folder: &Path) -> Result<bool> {
    let mut entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    Ok(entries.next().is_none())
}

/// All that is handed out.
struct Contents {
    program: Vec<u8>,
    /// Manual pages by name.
    pages: Vec<(String, Vec<u8>)>,
    /// As in [`SHELLS`].
    completions: Vec<Vec<u8>>,
    /// What there is to read, by path in the repository.
    documents: Vec<(String, Vec<u8>)>,
    /// The licences of what is inside of the program.
    others: String,
    /// What is inside of the program, for programs.
    bill: String,
}

impl Contents {
    fn gather(tracer: &Path, time: u64) -> Result<Self> {
        let scratch = ws::Scratch::new(None)?;
        let pages = scratch.path().join("man");
        fs::create_dir(&pages).with_context(|| format!("creating {}", pages.display()))?;
        ws::capture(Command::new(tracer).arg("man").arg(&pages))?;
        let mut documents = Vec::from(["README.md", "CHANGELOG.md", "SECURITY.md"].map(ToOwned::to_owned));
        documents.extend(tracked("docs")?);
        documents.extend(LICENCES.map(ToOwned::to_owned));
        let program = stripped(tracer, scratch.path())?;
        let crates = inside::crates()?;
        let toolchains = sbom::Toolchains::ask()?;
        Ok(Self {
            others: licences::text(&crates.inside)?,
            bill: sbom::text(&crates, &toolchains, VERSION, &program, time)?,
            program,
            pages: files(&pages)?,
            completions: SHELLS
                .iter()
                .map(|(shell, ..)| {
                    ws::capture(Command::new(tracer).args(["completions", shell])).map(String::into_bytes)
                })
                .collect::<Result<_>>()?,
            documents: documents
                .into_iter()
                .map(|path| Ok((path.clone(), read(&ws::root().join(path))?)))
                .collect::<Result<_>>()?,
        })
    }

    /// As it lies on a Debian machine.
    fn installed(&self) -> Result<Tree> {
        let mut tree = Tree::default();
        tree.add(format!("usr/bin/{NAME}"), PROGRAM, self.program.clone());
        for (name, page) in &self.pages {
            tree.add(format!("usr/share/man/man1/{name}.gz"), DATA, pack::gz(page)?);
        }
        for ((_, path, _), text) in SHELLS.iter().zip(&self.completions) {
            tree.add(*path, DATA, text.clone());
        }
        let place = format!("usr/share/doc/{NAME}");
        let mut copyright = COPYRIGHT.to_owned();
        for (path, text) in &self.documents {
            if path == "CHANGELOG.md" {
                tree.add(format!("{place}/changelog.gz"), DATA, pack::gz(text)?);
            } else if LICENCES.contains(&path.as_str()) {
                copyright.push_str(&format!("\n{}\n{}\n\n", "-".repeat(80), path));
                copyright.push_str(&String::from_utf8_lossy(text));
            } else {
                tree.add(format!("{place}/{path}"), DATA, text.clone());
            }
        }
        tree.add(format!("{place}/copyright"), DATA, copyright);
        tree.add(
            format!("{place}/{OTHERS}.gz"),
            DATA,
            pack::gz(self.others.as_bytes())?,
        );
        tree.add(
            format!("{place}/{BILL}.gz"),
            DATA,
            pack::gz(self.bill.as_bytes())?,
        );
        Ok(tree)
    }

    /// For other systems, in one folder from which the program runs.
    fn portable(&self) -> Tree {
        let mut tree = Tree::default();
        tree.add(NAME, PROGRAM, self.program.clone());
        for (name, page) in &self.pages {
            tree.add(format!("man/man1/{name}"), DATA, page.clone());
        }
        for ((.., name), text) in SHELLS.iter().zip(&self.completions) {
            tree.add(format!("completions/{name}"), DATA, text.clone());
        }
        for (path, text) in &self.documents {
            tree.add(path.clone(), DATA, text.clone());
        }
        tree.add(OTHERS, DATA, self.others.clone());
        tree.add(BILL, DATA, self.bill.clone());
        tree
    }
}

const COPYRIGHT: &str = "\
tracer is under the MIT licence or the Apache licence 2.0, the eBPF programs inside of it are under the MIT licence or
the GNU General Public License, version 2, each at your option. Their texts follow. What the program contains of others,
and its licences, is in LICENSES-OF-OTHERS.txt.gz beside this file.
";

fn control() -> String {
    format!(
        "Package: {NAME}\nVersion: {VERSION}\nArchitecture: amd64\nMaintainer: the developers of tracer\n\
         Section: kernel\nPriority: optional\n{DESCRIPTION}"
    )
}

/// The program without what only a debugger reads; the names of functions stay, for backtraces.
fn stripped(tracer: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let to = scratch.join(NAME);
    ws::capture(
        Command::new("strip")
            .args(["--strip-debug", "--enable-deterministic-archives", "-o"])
            .arg(&to)
            .arg(tracer),
    )
    .context("strip comes with the linker, in Debian's package binutils")?;
    read(&to)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// The files in a folder, by name, sorted.
fn files(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        files.push((name, read(&entry.path())?));
    }
    files.sort();
    Ok(files)
}

fn git(args: &[&str]) -> Result<String> {
    ws::capture(Command::new("git").arg("-C").arg(ws::root()).args(args))
}

/// Files under a path that git knows: what lies about is not handed out.
fn tracked(path: &str) -> Result<Vec<String>> {
    let listed = git(&["ls-files", "-z", path])?;
    Ok(listed.split_terminator('\0').map(ToOwned::to_owned).collect())
}

/// One path that differs from the last commit, if there is one.
fn uncommitted() -> Result<Option<String>> {
    let said = git(&["status", "--porcelain", "-z", "--untracked-files=no"])?;
    let first = said.split_terminator('\0').next();
    Ok(first.and_then(|entry| entry.get(3..)).map(ToOwned::to_owned))
}

/// The time of all that is packed, in seconds since 1970: `SOURCE_DATE_EPOCH`, or that of the last commit.
fn time() -> Result<u64> {
    let (said, by) = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(said) => (said, "SOURCE_DATE_EPOCH"),
        Err(_) => (
            git(&["log", "-1", "--format=%ct"])
                .context("the time of the last commit; without git, set SOURCE_DATE_EPOCH")?,
            "git log",
        ),
    };
    let said = said.trim();
    said.parse()
        .with_context(|| format!("{by} says {said:?}, which is no number of seconds"))
}

/// Builds the last commit in a clone of its own, and compares.
fn verify(ours: &Path) -> Result<()> {
    if let Some(changed) = uncommitted()? {
        bail!("{changed} differs from the last commit, of which the second build would be; commit first");
    }
    let scratch = ws::Scratch::new(None)?;
    let clone = scratch.path().join("elsewhere");
    ws::capture(
        Command::new("git")
            .args(["clone", "--quiet", "--no-hardlinks"])
            .arg(ws::root())
            .arg(&clone),
    )?;
    // The linker of eBPF programs is a tool of one version, wherever it lies.
    let target = clone.join("target");
    fs::create_dir(&target).with_context(|| format!("creating {}", target.display()))?;
    std::os::unix::fs::symlink(ws::target().join("tools"), target.join("tools"))
        .context("linking target/tools")?;
    let theirs = scratch.path().join("dist");
    let mut again = deps::cargo();
    again
        .current_dir(&clone)
        .args(["xtask", "dist", "--out"])
        .arg(&theirs);
    ws::run_logged(
        "dist: building the last commit elsewhere",
        &mut again,
        &ws::target().join("dist-verify.log"),
    )?;
    let differ = differing(ours, &theirs)?;
    ensure!(
        differ.is_empty(),
        "a second build elsewhere differs in: {}",
        differ.join(", ")
    );
    println!("a second build elsewhere gave the same bytes");
    Ok(())
}

/// Names of files that are not the same in two folders.
pub(crate) fn differing(one: &Path, other: &Path) -> Result<Vec<String>> {
    let (one, other) = (files(one)?, files(other)?);
    let missing = |from: &[(String, Vec<u8>)], file: &(String, Vec<u8>)| !from.contains(file);
    let mut names: Vec<String> = one
        .iter()
        .filter(|file| missing(&other, file))
        .chain(other.iter().filter(|file| missing(&one, file)))
        .map(|(name, _)| name.clone())
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> Contents {
        Contents {
            program: b"program".to_vec(),
            pages: vec![("tracer.1".to_owned(), b".TH".to_vec())],
            completions: vec![b"bash".to_vec(), b"zsh".to_vec(), b"fish".to_vec()],
            documents: ["README.md", "CHANGELOG.md", "docs/x.md", "LICENSE-MIT"]
                .map(|path| (path.to_owned(), path.as_bytes().to_vec()))
                .to_vec(),
            others: "others".to_owned(),
            bill: "{}".to_owned(),
        }
    }

    #[test]
    fn a_debian_machine_finds_everything_where_it_looks() {
        let tree = contents().installed().unwrap();
        assert_eq!(
            tree.paths().collect::<Vec<_>>(),
            [
                "usr/bin/tracer",
                "usr/share/bash-completion/completions/tracer",
                "usr/share/doc/tracer/LICENSES-OF-OTHERS.txt.gz",
                "usr/share/doc/tracer/README.md",
                "usr/share/doc/tracer/changelog.gz",
                "usr/share/doc/tracer/copyright",
                "usr/share/doc/tracer/docs/x.md",
                "usr/share/doc/tracer/tracer.cdx.json.gz",
                "usr/share/fish/vendor_completions.d/tracer.fish",
                "usr/share/man/man1/tracer.1.gz",
                "usr/share/zsh/vendor-completions/_tracer",
            ]
        );
    }

    #[test]
    fn the_folder_for_others_has_the_same_in_it() {
        let tree = contents().portable();
        assert_eq!(
            tree.paths().collect::<Vec<_>>(),
            [
                "CHANGELOG.md",
                "LICENSE-MIT",
                "LICENSES-OF-OTHERS.txt",
                "README.md",
                "completions/_tracer",
                "completions/tracer.bash",
                "completions/tracer.fish",
                "docs/x.md",
                "man/man1/tracer.1",
                "tracer",
                "tracer.cdx.json",
            ]
        );
    }

    #[test]
    fn every_field_of_the_control_file_is_on_lines_of_its_own() {
        for line in control().lines() {
            let field = line.split_once(": ").is_some_and(|(key, _)| !key.contains(' '));
            assert!(field || line.starts_with(' '), "{line:?}");
            assert!(line.len() <= 80, "{line:?}");
        }
    }

    #[test]
    fn what_differs_is_named() {
        let scratch = ws::Scratch::new(None).unwrap();
        let [one, other] = ["one", "other"].map(|name| scratch.path().join(name));
        for (folder, names) in [
            (&one, ["same", "differs", "gone"]),
            (&other, ["same", "differs", "new"]),
        ] {
            fs::create_dir(folder).unwrap();
            for name in names {
                let text = if name == "same" { Path::new("x") } else { folder };
                fs::write(folder.join(name), text.to_string_lossy().as_bytes()).unwrap();
            }
        }
        assert_eq!(differing(&one, &other).unwrap(), ["differs", "gone", "new"]);
        assert!(differing(&one, &one).unwrap().is_empty());
    }
}
