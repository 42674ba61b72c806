//! What other people's work is inside of the program, under which licences, and their texts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use spdx::{Expression, LicenseReq, ParseMode};

use super::inside::Crate;
use crate::ws;

/// Where the licences are listed that a program under MIT or Apache-2.0 may contain without more than being told so.
/// `cargo deny` reads the same list.
const RULES: &str = "deny.toml";

const HEAD: &str = "\
This program contains the work of others. Below are the crates, each with the licence that its authors give, and then
the texts. It also contains parts of Rust's standard library (MIT OR Apache-2.0) and, linked statically, of the GNU C
library (LGPL-2.1-or-later): whoever wants to link it with another one builds it anew from its source, with `cargo xtask
dist`.
";

/// The text that goes with the program.
///
/// # Errors
/// A crate has no licence that [`RULES`] allow.
pub(super) fn text(crates: &[Crate]) -> Result<String> {
    let rules = ws::root().join(RULES);
    let rules = fs::read_to_string(&rules).with_context(|| format!("reading {}", rules.display()))?;
    let known = listed(&rules)?;
    let mut said = HEAD.to_owned();
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    said.push('\n');
    // Our own crates have their licences beside the program.
    for one in crates.iter().filter(|one| !one.is_ours()) {
        let Crate { name, version, .. } = one;
        let licence = one.licence.as_ref();
        let licence = licence.with_context(|| format!("{name} {version} names no licence"))?;
        allowed(licence, &known).with_context(|| format!("the program contains {name} {version}"))?;
        said.push_str(&format!("{name} {version}: {licence}\n"));
        for text in texts_in(&one.folder)? {
            texts.entry(text).or_default().push(name.clone());
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

/// The licences that rules allow.
fn listed(rules: &str) -> Result<Vec<String>> {
    let rules: toml::Table = rules.parse().context(RULES)?;
    let allow = rules.get("licenses").and_then(|section| section.get("allow"));
    let allow = allow.and_then(toml::Value::as_array);
    let allow = allow.with_context(|| format!("{RULES} has no licenses.allow"))?;
    let allow = allow.iter().filter_map(toml::Value::as_str);
    Ok(allow.map(ToOwned::to_owned).collect())
}

/// Whether the program may contain what is under this licence.
fn allowed(licence: &str, allow: &[String]) -> Result<()> {
    let parsed = Expression::parse_mode(licence, ParseMode::LAX).map_err(|error| {
        anyhow::anyhow!("its licence {licence:?} is no SPDX expression: {}", error.reason)
    })?;
    let known = |req: &LicenseReq| {
        let id = req.license.id();
        // An exception only ever permits more.
        id.is_some_and(|id| allow.iter().any(|known| known == id.name))
    };
    if !parsed.evaluate(known) {
        bail!(
            "its licence is {licence}; allowed are {}: do without it, or, if it may be in there, add it to the list in {RULES}",
            allow.join(", ")
        );
    }
    Ok(())
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
    use crate::dist::inside;

    #[test]
    fn licences_that_ask_for_more_are_refused() {
        let rules = fs::read_to_string(ws::root().join(RULES)).unwrap();
        let known = listed(&rules).unwrap();
        for fine in [
            "MIT",
            "MIT/Apache-2.0",
            "MIT OR GPL-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR MIT",
        ] {
            allowed(fine, &known).unwrap();
        }
        for refused in [
            "GPL-2.0",
            "LGPL-2.1-or-later",
            "MIT AND MPL-2.0",
            "CDDL-1.0",
            "mine",
        ] {
            let error = format!("{:#}", allowed(refused, &known).unwrap_err());
            assert!(error.contains(refused), "{error}");
        }
    }

    #[test]
    fn what_is_inside_the_program_is_told_with_its_licence() {
        let said = text(&inside::crates().unwrap().inside).unwrap();
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
