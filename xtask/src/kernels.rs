//! Kernels by short name: the newest of each family in Debian's archive, cached outside the tree.

use std::cmp::Ordering;
use std::fs;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use lzma_rust2::XzReader;

use crate::apt::{Apt, Suites};
use crate::{oracle, ws};

/// Families that Debian ships, by short name, oldest first, and what is to be said about them.
pub(crate) const FAMILIES: [(&str, &str); 10] = [
    ("6.1", "refused by tracer, used by the tests for that"),
    ("6.12", ""),
    ("6.16", ""),
    ("6.17", ""),
    ("6.18", ""),
    ("6.19", ""),
    ("7.0", ""),
    ("7.1", ""),
    ("7.2", ""),
    ("7.3", "the default"),
];

/// The kernel that `vm run` takes when none is named.
pub(crate) const DEFAULT: &str = "7.3";
/// The name of the kernel that is built here.
pub(crate) const ORACLE: &str = "oracle";

const FLAVOUR: &str = "-cloud-amd64";

/// A kernel that can be booted.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// Full version, or the path that was named.
    pub(crate) version: String,
    /// The image.
    pub(crate) image: PathBuf,
    /// Modules that the guest needs to reach the host, in the order in which to load them.
    pub(crate) modules: Vec<PathBuf>,
}

/// What reaches the host over virtio serial ports. Built in from 6.12 on; Debian's 6.1 has them as modules.
const MODULES: [&str; 6] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_console",
];

/// One line of `vm list`.
#[derive(Debug)]
pub(crate) struct Listed {
    /// Short name.
    pub(crate) name: &'static str,
    /// Full version of the cached kernel, else of the one that would be fetched.
    pub(crate) version: Option<String>,
    /// Is it cached?
    pub(crate) cached: bool,
    /// What else is to be said.
    pub(crate) note: String,
}

/// Finds a kernel by short name, full version or path; fetches or builds it if it is not cached.
pub(crate) fn get(name: &str) -> Result<Kernel> {
    if name == ORACLE {
        return oracle::get();
    }
    if name.contains('/') {
        let image = fs::canonicalize(name).with_context(|| format!("the kernel {name}"))?;
        return Ok(Kernel {
            version: name.to_owned(),
            image,
            modules: Vec::new(),
        });
    }
    if let Some(kernel) = cached(name)? {
        return Ok(kernel);
    }
    let known = FAMILIES.iter().any(|(family, _)| *family == name);
    if !known && !name.ends_with(FLAVOUR) {
        let names: Vec<_> = FAMILIES.iter().map(|(family, _)| *family).collect();
        bail!(
            "no kernel is called {name:?}; there are {}, {ORACLE}, full versions as `cargo xtask vm list` shows \
             them, and paths (with a slash in them)",
            names.join(", ")
        );
    }
    let apt = Apt::open(Suites::Kernels)?;
    // Another xtask may have fetched it while we waited for the lock.
    if let Some(kernel) = cached(name)? {
        return Ok(kernel);
    }
    apt.refresh()?;
    let version =
        newest(&apt, name)?.with_context(|| format!("Debian's archive has no kernel {name} any more"))?;
    fetch(&apt, &version)
}

/// What `vm list` shows. Asks the network only if it never has.
pub(crate) fn list() -> Result<Vec<Listed>> {
    let mut list = Vec::new();
    let mut index: Option<Result<Apt>> = None;
    for (name, note) in FAMILIES {
        let mut listed = Listed {
            name,
            version: None,
            cached: false,
            note: note.to_owned(),
        };
        if let Some(kernel) = cached(name)? {
            listed.version = Some(kernel.version);
            listed.cached = true;
        } else {
            let index = index.get_or_insert_with(|| {
                let apt = Apt::open(Suites::Kernels)?;
                if !apt.has_index() {
                    apt.refresh()?;
                }
                Ok(apt)
            });
            match index {
                Ok(apt) => listed.version = newest(apt, name)?,
                Err(error) => listed.note = format!("not known: {}", error.root_cause()),
            }
        }
        list.push(listed);
    }
    let cached = oracle::cached()?;
    list.push(Listed {
        name: ORACLE,
        version: cached.as_ref().map(|k| k.version.clone()),
        cached: cached.is_some(),
        note: "built here with lockdep: the exact truth about every lock".into(),
    });
    Ok(list)
}

fn store() -> Result<PathBuf> {
    Ok(ws::cache()?.join("kernels"))
}

/// The newest cached kernel of that name.
fn cached(name: &str) -> Result<Option<Kernel>> {
    let store = store()?;
    let Ok(entries) = fs::read_dir(&store) else {
        return Ok(None);
    };
    let versions: Vec<String> = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    let found = pick(versions.iter().map(String::as_str), name).map(ToOwned::to_owned);
    found
        .map(|version| load(&store.join(&version), version))
        .transpose()
}

/// A kernel from its folder in the cache.
fn load(dir: &Path, version: String) -> Result<Kernel> {
    let mut modules = Vec::new();
    for module in MODULES {
        let path = dir.join(format!("{module}.ko"));
        if path
            .try_exists()
            .with_context(|| format!("looking for {}", path.display()))?
        {
            modules.push(path);
        }
    }
    Ok(Kernel {
        version,
        image: dir.join("vmlinuz"),
        modules,
    })
}

fn newest(apt: &Apt, name: &str) -> Result<Option<String>> {
    let mut versions = Vec::new();
    for prefix in ["linux-image-", "linux-binary-"] {
        for package in apt.names(prefix)? {
            versions.push(package[prefix.len()..].to_owned());
        }
    }
    Ok(pick(versions.iter().map(String::as_str), name).map(ToOwned::to_owned))
}

/// The newest of the versions that belong to a family, or the one that is named in full.
fn pick<'a>(versions: impl Iterator<Item = &'a str>, name: &str) -> Option<&'a str> {
    versions
        .filter(|v| v.ends_with(FLAVOUR) && v.starts_with(|c: char| c.is_ascii_digit()))
        .filter(|v| *v == name || v.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
        .max_by(|a, b| compare(a, b))
}

fn fetch(apt: &Apt, version: &str) -> Result<Kernel> {
    let dir = store()?.join(version);
    ws::atomically(&dir, |new| {
        let unpacked = ws::Scratch::new(new.parent())?;
        // Which of the two holds the image changed over time, and for some versions both packages exist.
        let mut tried = Vec::new();
        for prefix in ["linux-binary-", "linux-image-"] {
            let package = format!("{prefix}{version}");
            if !apt.names(&package)?.contains(&package) {
                continue;
            }
            apt.unpack(&package, unpacked.path())?;
            for place in [
                format!("boot/vmlinuz-{version}"),
                format!("usr/lib/modules/{version}/vmlinuz"),
            ] {
                let image = unpacked.path().join(place);
                if image.is_file() {
                    let to = new.join("vmlinuz");
                    fs::copy(&image, &to).with_context(|| format!("copying to {}", to.display()))?;
                    return copy_modules(unpacked.path(), new);
                }
            }
            tried.push(package);
        }
        bail!("no kernel image for {version} in {tried:?}")
    })?;
    load(&dir, version.to_owned())
}

/// One module of a family's kernel, ready for `insmod` in a guest; fetched with its package if it is not cached.
pub(crate) fn module(kernel: &Kernel, name: &str) -> Result<PathBuf> {
    let dir = store()?.join(&kernel.version);
    let cached = dir.join(format!("{name}.ko"));
    if cached.is_file() {
        return Ok(cached);
    }
    let apt = Apt::open(Suites::Kernels)?;
    apt.refresh()?;
    let unpacked = ws::Scratch::new(Some(&store()?))?;
    for prefix in ["linux-image-", "linux-modules-", "linux-binary-"] {
        let package = format!("{prefix}{}", kernel.version);
        if !apt.names(&package)?.contains(&package) {
            continue;
        }
        apt.unpack(&package, unpacked.path())?;
        let wanted = format!("{name}.ko.xz");
        let mut all = files(unpacked.path())?.into_iter();
        let Some(packed) = all.find(|path| path.file_name().is_some_and(|file| *file == *wanted)) else {
            continue;
        };
        let reading = || format!("unpacking {}", packed.display());
        let draft = dir.join(format!(".{name}.{}", std::process::id()));
        let from = BufReader::new(fs::File::open(&packed).with_context(reading)?);
        let mut to = fs::File::create(&draft).with_context(|| format!("creating {}", draft.display()))?;
        io::copy(&mut XzReader::new(from, true), &mut to).with_context(reading)?;
        fs::rename(&draft, &cached).with_context(|| format!("creating {}", cached.display()))?;
        return Ok(cached);
    }
    bail!("no package of Linux {} holds the module {name}", kernel.version)
}

/// Copies those of [`MODULES`] that a package holds; the others are built in.
fn copy_modules(from: &Path, to: &Path) -> Result<()> {
    for path in files(from)? {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if path.extension().is_some_and(|e| e == "ko") && stem.is_some_and(|stem| MODULES.contains(&stem)) {
            let to = to.join(path.file_name().unwrap_or_default());
            fs::copy(&path, &to).with_context(|| format!("copying to {}", to.display()))?;
        }
    }
    Ok(())
}

/// All files in a folder and below it.
fn files(from: &Path) -> Result<Vec<PathBuf>> {
    let mut dirs = vec![from.to_owned()];
    let mut files = Vec::new();
    while let Some(dir) = dirs.pop() {
        let reading = || format!("reading {}", dir.display());
        for entry in fs::read_dir(&dir).with_context(reading)? {
            let entry = entry.with_context(reading)?;
            if entry.file_type().with_context(reading)?.is_dir() {
                dirs.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

/// Debian's order of versions, as `dpkg --compare-versions` has it, for versions without an epoch: runs of
/// non-digits (letters before everything else, `~` before even the end) and runs of digits take turns.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    fn weight(c: Option<u8>) -> i32 {
        match c {
            Some(b'~') => -1,
            None | Some(b'0'..=b'9') => 0,
            Some(c) if c.is_ascii_alphabetic() => i32::from(c),
            Some(c) => i32::from(c) + 256,
        }
    }
    fn number<'a>(text: &mut &'a [u8]) -> &'a [u8] {
        let digits = text.iter().take_while(|c| c.is_ascii_digit()).count();
        let (number, rest) = text.split_at(digits);
        *text = rest;
        let zeros = number.iter().take_while(|c| **c == b'0').count();
        &number[zeros..]
    }
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        let word = |t: &[u8]| t.first().is_some_and(|c| !c.is_ascii_digit());
        while word(a) || word(b) {
            let order = weight(a.first().copied()).cmp(&weight(b.first().copied()));
            if order.is_ne() {
                return order;
            }
            a = a.get(1..).unwrap_or_default();
            b = b.get(1..).unwrap_or_default();
        }
        let (x, y) = (number(&mut a), number(&mut b));
        let order = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_order_as_dpkg_orders_them() {
        let ascending = [
            "6.1.0-47-cloud-amd64",
            "6.1.0-50-cloud-amd64",
            "6.12.9+deb12-cloud-amd64",
            "6.12.90+deb12-cloud-amd64",
            "6.12.90+deb12.1-cloud-amd64",
            "6.12.94+deb12-cloud-amd64",
            "6.12.94+deb13-cloud-amd64",
            "6.12.107+deb13-cloud-amd64",
            "7.3~rc1",
            "7.3",
            "7.3.4-1~bpo13+1",
            "7.3.4-1",
        ];
        for pair in ascending.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
        assert_eq!(compare("1.01", "1.1"), Ordering::Equal);
    }

    #[test]
    fn a_short_name_means_the_newest_of_its_family_and_no_other() {
        let all = [
            "6.1.0-47-cloud-amd64",
            "6.1.0-50-cloud-amd64",
            "6.12.9+deb12-cloud-amd64",
            "6.12.107+deb13-cloud-amd64",
            "6.12.108+deb13-rt-amd64",
            "7.3.4+deb13-cloud-amd64",
            "cloud-amd64",
        ];
        let pick = |name| pick(all.iter().copied(), name);
        assert_eq!(pick("6.1"), Some("6.1.0-50-cloud-amd64"));
        assert_eq!(pick("6.12"), Some("6.12.107+deb13-cloud-amd64"));
        assert_eq!(pick("6.12.9+deb12-cloud-amd64"), Some("6.12.9+deb12-cloud-amd64"));
        assert_eq!(pick("7"), Some("7.3.4+deb13-cloud-amd64"));
        assert_eq!(pick("7.4"), None);
    }
}
