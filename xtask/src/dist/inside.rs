//! Which crates the program is made of, and which only made it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{build, deps, ws};

/// The crates that are the program, and what is inside of it.
const ROOTS: [&str; 2] = ["tracer", "tracer-ebpf"];

/// One crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Crate {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) licence: Option<String>,
    /// Where its authors keep it.
    pub(super) repository: Option<String>,
    /// SHA-256 of the file that crates.io has of it, by our `Cargo.lock`; none of our own ones.
    pub(super) sum: Option<String>,
    /// The library of another language that it brings along, by the name that cargo's `links` gives it.
    pub(super) links: Option<String>,
    pub(super) folder: PathBuf,
    /// Those of the crates inside that it uses.
    pub(super) uses: BTreeSet<Id>,
}

/// Name and version.
pub(super) type Id = (String, String);

impl Crate {
    pub(super) fn id(&self) -> Id {
        (self.name.clone(), self.version.clone())
    }

    /// Is it of this repository?
    pub(super) fn is_ours(&self) -> bool {
        self.sum.is_none()
    }
}

/// Crates, sorted by name and version.
#[derive(Debug)]
pub(super) struct Crates {
    /// Inside of the program.
    pub(super) inside: Vec<Crate>,
    /// Run while it is built: procedural macros, build scripts, and what those use.
    pub(super) builders: Vec<Crate>,
}

/// All crates of the program.
pub(super) fn crates() -> Result<Crates> {
    let inside = tree("normal,no-proc-macro")?;
    let all = tree("normal,build")?;
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
    let lock = ws::root().join("Cargo.lock");
    let lock = fs::read_to_string(&lock).with_context(|| format!("reading {}", lock.display()))?;
    let sums = sums(&lock)?;
    let uses = uses(&metadata);
    let find = |id: &Id| -> Result<Crate> {
        let (name, version) = id;
        let package = metadata["packages"].as_array().into_iter().flatten();
        let package = package
            .into_iter()
            .find(|p| p["name"] == *name && p["version"] == *version)
            .with_context(|| format!("`cargo metadata` has no {name} {version}, which `cargo tree` has"))?;
        let text = |key: &str| package[key].as_str().map(ToOwned::to_owned);
        let manifest = PathBuf::from(text("manifest_path").unwrap_or_default());
        let sum = sums.get(id).cloned();
        if !package["source"].is_null() && sum.is_none() {
            bail!("Cargo.lock has no sum of {name} {version}: it does not come from crates.io");
        }
        let uses = uses.get(package["id"].as_str().unwrap_or_default());
        Ok(Crate {
            name: name.clone(),
            version: version.clone(),
            licence: text("license"),
            repository: text("repository"),
            sum,
            links: text("links"),
            folder: manifest.parent().map(Path::to_owned).unwrap_or_default(),
            uses: uses.map_or_else(BTreeSet::new, |uses| {
                uses.intersection(&inside).cloned().collect()
            }),
        })
    };
    let builders = all.difference(&inside).map(find).collect::<Result<_>>()?;
    let inside = inside.iter().map(find).collect::<Result<_>>()?;
    Ok(Crates { inside, builders })
}

/// What `cargo tree` shows of [`ROOTS`].
fn tree(edges: &str) -> Result<BTreeSet<Id>> {
    let mut tree = deps::cargo();
    tree.args(["tree", "--locked", "--edges", edges, "--target", build::HOST]);
    tree.args(["--prefix", "none", "--format", "{p}"]);
    for root in ROOTS {
        tree.args(["--package", root]);
    }
    let tree = ws::capture(&mut tree)?;
    let found = named(&tree);
    if found.is_empty() {
        bail!("`cargo tree` named no crate:\n{tree}");
    }
    Ok(found)
}

/// Name and version of each line such as `libc v0.2.1` or `tracer v0.1.0 (/path) (*)`.
fn named(tree: &str) -> BTreeSet<Id> {
    tree.lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let name = words.next()?.to_owned();
            Some((name, words.next()?.strip_prefix('v')?.to_owned()))
        })
        .collect()
}

/// The sums in a `Cargo.lock`.
fn sums(lock: &str) -> Result<BTreeMap<Id, String>> {
    let lock: toml::Table = lock.parse().context("Cargo.lock")?;
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let packages = packages.context("Cargo.lock has no packages")?;
    let text = |package: &toml::Value, key: &str| {
        let value = package.get(key).and_then(toml::Value::as_str);
        value.map(ToOwned::to_owned)
    };
    let known = packages.iter().filter_map(|package| {
        let id = (text(package, "name")?, text(package, "version")?);
        Some((id, text(package, "checksum")?))
    });
    Ok(known.collect())
}

/// What each package uses when it runs, by its id in `cargo metadata`.
fn uses(metadata: &Value) -> BTreeMap<String, BTreeSet<Id>> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let ids: BTreeMap<&str, Id> = packages
        .filter_map(|package| {
            let text = |key: &str| package[key].as_str();
            Some((
                text("id")?,
                (text("name")?.to_owned(), text("version")?.to_owned()),
            ))
        })
        .collect();
    let nodes = metadata["resolve"]["nodes"].as_array().into_iter().flatten();
    nodes
        .filter_map(|node| {
            let used = node["deps"].as_array().into_iter().flatten();
            let used = used
                .filter(|used| {
                    let kinds = used["dep_kinds"].as_array().into_iter().flatten();
                    // One that is neither for building nor for testing has no kind.
                    kinds.into_iter().any(|kind| kind["kind"].is_null())
                })
                .filter_map(|used| ids.get(used["pkg"].as_str()?).cloned());
            Some((node["id"].as_str()?.to_owned(), used.collect()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str, version: &str) -> Id {
        (name.to_owned(), version.to_owned())
    }

    #[test]
    fn crates_are_read_off_the_tree() {
        let tree = "tracer v0.1.0 (/x)\nlibc v0.2.1\nlibc v0.2.1 (*)\n\n";
        assert_eq!(
            named(tree),
            BTreeSet::from([id("tracer", "0.1.0"), id("libc", "0.2.1")])
        );
    }

    #[test]
    fn sums_are_those_of_the_lock() {
        let lock = "version = 4\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"ab\"\n\
                    [[package]]\nname = \"ours\"\nversion = \"0.1.0\"\n";
        assert_eq!(
            sums(lock).unwrap(),
            BTreeMap::from([(id("a", "1.0.0"), "ab".to_owned())])
        );
    }

    #[test]
    fn what_is_inside_is_told_from_what_builds_it() {
        let crates = crates().unwrap();
        let has = |list: &[Crate], name: &str| list.iter().any(|one| one.name == name);
        assert!(has(&crates.inside, "aya") && has(&crates.inside, "aya-ebpf"));
        // It only makes code at build time.
        assert!(has(&crates.builders, "serde_derive") && !has(&crates.inside, "serde_derive"));
        // It only tests.
        assert!(!has(&crates.inside, "insta") && !has(&crates.builders, "insta"));
        let tracer = crates.inside.iter().find(|one| one.name == "tracer").unwrap();
        assert!(tracer.is_ours());
        assert!(tracer.uses.iter().any(|(name, _)| name == "aya"));
    }
}
