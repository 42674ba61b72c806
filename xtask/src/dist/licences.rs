//! What other people's work is inside of the program, under which licences, and their texts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use spdx::{Expression, LicenseReq, ParseMode};

use crate::{build, deps, ws};

/// Licences that a program under MIT or Apache-2.0 may contain without more than being told so.
const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// The crates that are the program, and what is inside of it.
const ROOTS: [&str; 2] = ["tracer", "tracer-ebpf"];

const HEAD: &str = "\
This program contains the work of others. Below are the crates, each with the licence that its authors give, and then
the texts. It also contains parts of Rust's standard library (MIT OR Apache-2.0) and, linked statically, of the GNU C
library (LGPL-2.1-or-later): whoever wants to link it with another one builds it anew from its source, with `cargo xtask
dist`.
";

/// One crate of somebody else.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    name: String,
    version: String,
    licence: String,
    folder: PathBuf,
}

/// The text that goes with the program.
///
/// # Errors
/// A crate has no licence that [`ALLOWED`] has.
pub(super) fn text() -> Result<String> {
    let crates = crates()?;
    let mut said = HEAD.to_owned();
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    said.push('\n');
    for one in &crates {
        allowed(&one.licence)
            .with_context(|| format!("the program contains {} {}", one.name, one.version))?;
        said.push_str(&format!("{} {}: {}\n", one.name, one.version, one.licence));
        for text in texts_in(&one.folder)? {
            texts.entry(text).or_default().push(one.name.clone());
        }
    }
    // In the order of who uses them first, which no machine changes.
    let mut texts: Vec<(Vec<String>, String)> =
        texts.into_iter().map(|(text, users)| (users, text)).collect();
    texts.sort();
    for (users, text) in texts {
        said.push_str(&format!("\n{}\n{}\n\n{text}\n", "-".repeat(80), users.join(", ")));
    }
    Ok(said)
}

/// Whether the program may contain what is under this licence.
fn allowed(licence: &str) -> Result<()> {
    let parsed = Expression::parse_mode(licence, ParseMode::LAX).map_err(|error| {
        anyhow::anyhow!("its licence {licence:?} is no SPDX expression: {}", error.reason)
    })?;
    let known = |req: &LicenseReq| {
        let id = req.license.id();
        // An exception only ever permits more.
        id.is_some_and(|id| ALLOWED.contains(&id.name))
    };
    if !parsed.evaluate(known) {
        bail!(
            "its licence is {licence}; allowed are {}: do without it, or, if it may be in there, add it to the list in {}",
            ALLOWED.join(", "),
            file!()
        );
    }
    Ok(())
}

/// All crates inside of the program, sorted.
fn crates() -> Result<Vec<Crate>> {
    let mut tree = deps::cargo();
    tree.args([
        "tree",
        "--locked",
        "--edges",
        "normal,no-proc-macro",
        "--target",
        build::HOST,
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    for root in ROOTS {
        tree.args(["--package", root]);
    }
    let tree = ws::capture(&mut tree)?;
    let mut metadata = deps::cargo();
    metadata.args([
        "metadata",
        "--locked",
        "--format-version",
        "1",
        "--filter-platform",
        build::HOST,
    ]);
    let metadata: Value = serde_json::from_str(&ws::capture(&mut metadata)?).context("`cargo metadata`")?;
    let mut found = Vec::new();
    for (name, version) in named(&tree) {
        let package = metadata["packages"].as_array().into_iter().flatten();
        let package = package
            .into_iter()
            .find(|p| p["name"] == name && p["version"] == version)
            .with_context(|| format!("`cargo metadata` has no {name} {version}, which `cargo tree` has"))?;
        // Our own crates have their licences beside the program.
        if package["source"].is_null() {
            continue;
        }
        let text = |key: &str| package[key].as_str().map(ToOwned::to_owned);
        let manifest = PathBuf::from(text("manifest_path").unwrap_or_default());
        found.push(Crate {
            name: name.to_owned(),
            version: version.to_owned(),
            licence: text("license").with_context(|| format!("{name} {version} names no licence"))?,
            folder: manifest.parent().map(Path::to_owned).unwrap_or_default(),
        });
    }
    if found.is_empty() {
        bail!("`cargo tree` named no crate:\n{tree}");
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// (name, version) of each line such as `libc v0.2.1` or `tracer v0.1.0 (/path) (*)`.
fn named(tree: &str) -> Vec<(&str, &str)> {
    tree.lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?.strip_prefix('v')?))
        })
        .collect()
}

/// Licences and notices in a crate's folder, by name.
fn texts_in(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.is_file() && is_licence(path));
    paths.sort();
    let mut texts = Vec::new();
    for path in paths {
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
        texts.push(text.trim_matches('\n').to_owned());
    }
    Ok(texts)
}

fn is_licence(path: &Path) -> bool {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    [
        "license",
        "licence",
        "copying",
        "copyright",
        "notice",
        "unlicense",
    ]
    .iter()
    .any(|known| name.starts_with(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_that_ask_for_more_are_refused() {
        for fine in [
            "MIT",
            "MIT/Apache-2.0",
            "MIT OR GPL-2.0",
            "(MIT OR Apache-2.0) AND Unicode-DFS-2016",
            "Apache-2.0 WITH LLVM-exception OR MIT",
        ] {
            allowed(fine).unwrap();
        }
        for refused in [
            "GPL-2.0",
            "LGPL-2.1-or-later",
            "MIT AND MPL-2.0",
            "CDDL-1.0",
            "mine",
        ] {
            let error = format!("{:#}", allowed(refused).unwrap_err());
            assert!(error.contains(refused), "{error}");
        }
    }

    #[test]
    fn crates_are_read_off_the_tree() {
        let tree = "tracer v0.1.0 (/x)\nlibc v0.2.1\nlibc v0.2.1 (*)\n\n";
        assert_eq!(
            named(tree),
            [("tracer", "0.1.0"), ("libc", "0.2.1"), ("libc", "0.2.1")]
        );
    }

    #[test]
    fn what_is_inside_the_program_is_told_with_its_licence() {
        let said = text().unwrap();
        assert!(
            said.contains("\naya 0.14.0: ") && said.contains("\naya-ebpf "),
            "{said}"
        );
        // It only makes code at build time.
        assert!(!said.contains("\nserde_derive "), "{said}");
        assert!(
            said.contains("WITHOUT WARRANTY OF ANY KIND"),
            "no text of a licence"
        );
    }
}
