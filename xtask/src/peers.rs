//! Programs of other people that tracer is compared with, for guests: Debian packages with all that they depend on,
//! unpacked into the cache and never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt::{Apt, Suites};
use crate::{ui, ws};

/// A program to compare with.
#[derive(Debug)]
pub(crate) struct Peer {
    /// What it is called, here and in a guest's PATH.
    pub(crate) name: &'static str,
    /// The package that has it.
    package: &'static str,
}

/// All of them. A new one needs a line here and nothing else.
const PEERS: [Peer; 8] = [
    Peer {
        name: "bpftrace",
        package: "bpftrace",
    },
    Peer {
        name: "perf",
        package: "linux-perf",
    },
    Peer {
        name: "trace-cmd",
        package: "trace-cmd",
    },
    Peer {
        name: "klockstat",
        package: "libbpf-tools",
    },
    // The same tool in Python, which compiles its programs where it runs.
    Peer {
        name: "klockstat-bpfcc",
        package: "bpfcc-tools",
    },
    // Nothing to compare with, but a terminal that programs can look at.
    Peer {
        name: "tmux",
        package: "tmux",
    },
    // What it calls UTF-8; whole systems have it, so nothing asks for it.
    Peer {
        name: "locale",
        package: "libc-bin",
    },
    // Installs what is released.
    Peer {
        name: "dpkg",
        package: "dpkg",
    },
];

/// Folders of a package that no program reads in a guest.
const NEEDLESS: [&str; 6] = [
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/lib/x86_64-linux-gnu/gconv",
];

/// Where dynamic programs look for their loader. In packages it is under `usr`, and whole systems link `/lib64` there.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// What a guest needs to run peers.
#[derive(Debug)]
pub(crate) struct Peers {
    /// Files and folders of this machine, and where the guest shall see them.
    pub(crate) adds: Vec<(PathBuf, String)>,
    /// Names and versions, such as `bpftrace 0.23.2-1`.
    pub(crate) versions: Vec<String>,
}

/// Gets peers by name; what is cached is not asked for again.
pub(crate) fn get(names: &[&str]) -> Result<Peers> {
    let mut found = Peers {
        adds: Vec::new(),
        versions: Vec::new(),
    };
    let mut folders: Vec<PathBuf> = Vec::new();
    for name in names {
        let Some(peer) = PEERS.iter().find(|peer| peer.name == *name) else {
            let known: Vec<_> = PEERS.iter().map(|peer| peer.name).collect();
            bail!("no peer is called {name:?}; there are {}", known.join(", "));
        };
        let closure = peer.get().with_context(|| peer.unreachable())?;
        for package in &closure {
            if let Some(version) = package.strip_prefix(&format!("{}=", peer.package)) {
                found.versions.push(format!("{name} {version}"));
            }
            let folder = unpacked(package)?;
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
    }
    for folder in folders {
        let loader = folder.join("usr").join(LOADER);
        if loader.exists() {
            found.adds.push((loader, format!("/{LOADER}")));
        }
        let usr = folder.join("usr");
        if usr.is_dir() {
            found.adds.push((usr, "/usr".to_owned()));
        }
    }
    Ok(found)
}

impl Peer {
    /// The packages that it consists of, as `NAME=VERSION`, all of them unpacked.
    fn get(&self) -> Result<Vec<String>> {
        if let Some(packages) = self.cached()? {
            return Ok(packages);
        }
        let apt = Apt::open(Suites::Peers)?;
        // Another xtask may have fetched it while we waited for the lock.
        if let Some(packages) = self.cached()? {
            return Ok(packages);
        }
        apt.refresh()?;
        let packages = apt.closure(self.package)?;
        let mut missing = Vec::new();
        for package in &packages {
            if !unpacked(package)?.is_dir() {
                missing.push(package.clone());
            }
        }
        if !missing.is_empty() {
            fetch(&apt, self.name, &missing)?;
        }
        // Written last: who finds the list finds all that it names.
        let list = self.list()?;
        let text = packages.join("\n") + "\n";
        fs::write(&list, text).with_context(|| format!("writing {}", list.display()))?;
        Ok(packages)
    }

    fn list(&self) -> Result<PathBuf> {
        Ok(store()?.join(format!("{}.packages", self.name)))
    }

    fn cached(&self) -> Result<Option<Vec<String>>> {
        let Ok(list) = fs::read_to_string(self.list()?) else {
            return Ok(None);
        };
        let packages: Vec<String> = list.lines().map(ToOwned::to_owned).collect();
        for package in &packages {
            if !unpacked(package)?.is_dir() {
                return Ok(None);
            }
        }
        Ok(Some(packages))
    }

    /// What to do when it cannot be had.
    fn unreachable(&self) -> String {
        let store = store().unwrap_or_default();
        format!(
            "{} is needed to compare with, and could not be fetched from Debian's archive; try again when this machine \
             reaches it, or copy {} from a machine that has it",
            self.name,
            store.display()
        )
    }
}

fn store() -> Result<PathBuf> {
    Ok(ws::cache()?.join("peers"))
}

/// Where a package, given as `NAME=VERSION`, is unpacked.
fn unpacked(package: &str) -> Result<PathBuf> {
    Ok(store()?.join(package))
}

/// Downloads packages and unpacks each into a folder of its own.
fn fetch(apt: &Apt, name: &str, packages: &[String]) -> Result<()> {
    let store = store()?;
    let scratch = ws::Scratch::new(Some(&store))?;
    let label = match packages.len() {
        1 => name.to_owned(),
        n => format!("{name} and what it depends on, {n} packages"),
    };
    apt.download(&label, packages, scratch.path())?;
    let entries = fs::read_dir(scratch.path()).with_context(|| format!("reading {}", store.display()))?;
    let debs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    ui::step(&format!("unpacking {name}"), || {
        for package in packages {
            let deb = debs.iter().find(|deb| holds(deb, package));
            let deb = deb.with_context(|| format!("apt-get download left no {package} behind"))?;
            ws::atomically(&store.join(package), |new| unpack(deb, new))?;
        }
        Ok(())
    })
}

/// Is this the file of that package?
fn holds(deb: &Path, package: &str) -> bool {
    let file = deb.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut parts = file.split('_');
    let (name, version) = (parts.next(), parts.next());
    match (name, version) {
        (Some(name), Some(version)) => format!("{name}={}", version.replace("%3a", ":")) == package,
        _ => false,
    }
}

fn unpack(deb: &Path, to: &Path) -> Result<()> {
    ws::capture(Command::new("dpkg-deb").arg("-x").arg(deb).arg(to))?;
    for needless in NEEDLESS {
        let folder = to.join(needless);
        if folder.is_dir() {
            fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_package() {
        let deb = Path::new("/x/zlib1g_1%3a1.3.dfsg-1+b1_amd64.deb");
        assert!(holds(deb, "zlib1g=1:1.3.dfsg-1+b1"));
        assert!(!holds(deb, "zlib1g=1:1.3.dfsg-1"));
        assert!(!holds(deb, "zlib1=1:1.3.dfsg-1+b1"));
        assert!(!holds(Path::new("/x/lock"), "zlib1g=1"));
    }

    #[test]
    fn an_unknown_peer_is_refused_by_name() {
        let error = get(&["nonsense"]).unwrap_err().to_string();
        assert!(
            error.contains("nonsense") && error.contains("bpftrace"),
            "{error}"
        );
    }

    #[test]
    fn peers_have_names_of_their_own() {
        for (at, peer) in PEERS.iter().enumerate() {
            assert!(PEERS[..at].iter().all(|other| other.name != peer.name));
        }
    }
}
