//! Debian packages through the machine's own apt, but with lists of our own.
//!
//! Kernels of every family come from several Debian suites, most of which the machine does not use itself. A
//! private apt configuration reads those suites from the very archive that the machine's configuration names (so
//! that no host name has to stand in the project, and a mirror stays a mirror), and apt verifies everything with
//! the machine's keyring. The machine's own lists and sources stay as they are.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{ui, ws};

/// The one release without backports.
const UNSTABLE: &str = "sid";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Which suites a private configuration reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suites {
    /// Every suite that has kernels: only ever downloaded and unpacked, never installed.
    Kernels,
    /// The machine's own release and its backports: may be installed.
    Machine,
    /// The one suite whose programs tracer is compared with, so that the comparison is the same on every machine.
    /// Only ever downloaded and unpacked; to this configuration nothing is installed, so that whatever a package
    /// depends on is named.
    Peers,
}

const KERNEL_SUITES: [&str; 5] = [
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
    "sid",
];

const PEER_SUITE: &str = "trixie";

/// A private apt configuration. Its lock is held as long as the value lives.
#[derive(Debug)]
pub(crate) struct Apt {
    dir: PathBuf,
    codename: String,
    /// What sources.list says.
    sources: String,
    _lock: File,
}

impl Apt {
    /// Opens the configuration, and writes it if it is new. Waits for another xtask that is using it.
    pub(crate) fn open(suites: Suites) -> Result<Self> {
        let dir = ws::cache()?.join(match suites {
            Suites::Kernels => "apt-kernels",
            Suites::Machine => "apt-machine",
            Suites::Peers => "apt-peers",
        });
        for sub in ["lists/partial", "cache/archives/partial"] {
            let sub = dir.join(sub);
            fs::create_dir_all(&sub).with_context(|| format!("creating {}", sub.display()))?;
        }
        let lock = ws::lock(&dir, "waiting for another xtask that is using apt")?;
        let codename = codename()?;
        let mut apt = Self {
            dir,
            codename,
            sources: String::new(),
            _lock: lock,
        };
        apt.sources = apt.sources(suites)?;
        let mut conf = format!(
            "Dir::State::Lists \"{0}/lists\";\nDir::Cache \"{0}/cache\";\nDir::Etc::SourceList \"{0}/sources.list\";\n\
             Dir::Etc::SourceParts \"-\";\nAcquire::Languages \"none\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             // Images for containers switch apt's own cache off, and then every look-up parses all lists again.\n\
             Dir::Cache::pkgcache \"pkgcache.bin\";\nDir::Cache::srcpkgcache \"srcpkgcache.bin\";\n\
             // The machine's hooks are about the machine's lists.\n\
             #clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n\
             // The cache may lie where apt's unprivileged user cannot go.\nAPT::Sandbox::User \"root\";\n",
            apt.dir.display()
        );
        if suites == Suites::Peers {
            let status = apt.dir.join("status");
            fs::write(&status, "").with_context(|| format!("writing {}", status.display()))?;
            conf.push_str(&format!("Dir::State::status \"{}\";\n", status.display()));
        }
        for (name, text) in [("sources.list", &apt.sources), ("apt.conf", &conf)] {
            let path = apt.dir.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(apt)
    }

    fn sources(&self, suites: Suites) -> Result<String> {
        let out = ws::capture(
            Command::new("apt-get")
                // An empty folder of lists: everything would have to be fetched, so everything is named.
                .arg("-o")
                .arg(format!("Dir::State::Lists={}/none", self.dir.display()))
                .args(["update", "--print-uris"]),
        )
        .context("asking this machine's apt for its sources")?;
        let own = releases(&out);
        let main = own
            .iter()
            .find(|(_, suite)| *suite == self.codename)
            .or_else(|| own.iter().find(|(uri, _)| uri.trim_end_matches('/').ends_with("/debian")))
            .with_context(|| {
                format!(
                    "this machine's apt has no Debian archive (it has {own:?}); add one to /etc/apt/sources.list.d, \
                     or name a kernel by its path: cargo xtask vm run --kernel /boot/vmlinuz-…"
                )
            })?
            .0
            .clone();
        let signed = if Path::new(KEYRING).exists() {
            format!(" [signed-by={KEYRING}]")
        } else {
            String::new()
        };
        let mut lines = String::new();
        let mut add = |uri: &str, suite: &str| lines.push_str(&format!("deb{signed} {uri} {suite} main\n"));
        match suites {
            Suites::Kernels => KERNEL_SUITES.iter().for_each(|suite| add(&main, suite)),
            Suites::Peers => add(&main, PEER_SUITE),
            Suites::Machine => {
                let backports = format!("{}-backports", self.codename);
                for (uri, suite) in &own {
                    if *suite != backports && suite.starts_with(&self.codename) {
                        add(uri, suite);
                    }
                }
                if self.codename != UNSTABLE {
                    add(&main, &backports);
                }
            }
        }
        Ok(lines)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(self.dir.join("apt.conf"))
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// Has the index ever been fetched?
    pub(crate) fn has_index(&self) -> bool {
        self.dir.join("fetched").exists()
    }

    /// Fetches the index, unless it was fetched within the hour: ten kernels fetched one after another need one.
    pub(crate) fn refresh(&self) -> Result<()> {
        let fetched = fs::metadata(self.dir.join("fetched")).and_then(|m| m.modified());
        let young = fetched.is_ok_and(|t| t.elapsed().is_ok_and(|age| age.as_secs() < 3600));
        if young && fs::read_to_string(self.dir.join("fetched")).is_ok_and(|s| s == self.sources) {
            return Ok(());
        }
        self.update()
    }

    /// Fetches the index.
    fn update(&self) -> Result<()> {
        let mut command = self.command("apt-get");
        // A suite that cannot be had is an error, not a warning.
        command.args(["-o", "APT::Update::Error-Mode=any", "update"]);
        ws::run_logged(
            "fetching the index of Debian packages",
            &mut command,
            &self.dir.join("update.log"),
        )?;
        let stamp = self.dir.join("fetched");
        fs::write(&stamp, &self.sources).with_context(|| format!("writing {}", stamp.display()))
    }

    /// The names of all packages that begin so.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let out = ws::capture(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(out.lines().map(ToOwned::to_owned).collect())
    }

    /// The version that apt would take, if there is one.
    pub(crate) fn candidate(&self, package: &str) -> Result<Option<String>> {
        let out = ws::capture(self.command("apt-cache").args(["policy", package]))?;
        let found = out.lines().find_map(|l| l.trim().strip_prefix("Candidate: "));
        Ok(found.filter(|v| *v != "(none)").map(ToOwned::to_owned))
    }

    /// The packages, as `NAME=VERSION`, that installing one would take besides what is installed: all that it
    /// depends on when the configuration says that nothing is ([`Suites::Peers`]).
    pub(crate) fn closure(&self, package: &str) -> Result<Vec<String>> {
        let mut command = self.command("apt-get");
        command.args([
            "install",
            "--print-uris",
            "--yes",
            "--no-install-recommends",
            package,
        ]);
        let named = packages(&ws::capture(&mut command)?);
        if named.is_empty() {
            bail!("`{}` named no package", ws::show(&command));
        }
        Ok(named)
    }

    /// Downloads packages, given by name or `NAME=VERSION` and verified by apt, into `to`.
    pub(crate) fn download(&self, label: &str, packages: &[String], to: &Path) -> Result<()> {
        let mut command = self.command("apt-get");
        command.arg("download").args(packages).current_dir(to);
        ws::run_logged(
            &format!("fetching {label}"),
            &mut command,
            &self.dir.join("download.log"),
        )
    }

    /// Downloads a package, verified by apt, and unpacks it into `to` without installing it.
    pub(crate) fn unpack(&self, package: &str, to: &Path) -> Result<()> {
        let scratch = ws::Scratch::new(Some(&self.dir))?;
        self.download(package, &[package.to_owned()], scratch.path())?;
        let mut debs = fs::read_dir(scratch.path())
            .with_context(|| format!("reading {}", scratch.path().display()))?
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "deb"));
        let deb = debs
            .next()
            .with_context(|| format!("`apt-get download {package}` left no package behind"))?;
        ui::step(&format!("unpacking {package}"), || {
            ws::capture(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(to)).map(drop)
        })
    }

    /// Installs packages when root; otherwise fails with the command to type.
    pub(crate) fn install(&self, packages: &[&str], why: &str) -> Result<()> {
        let backports = format!("{}-backports", self.codename);
        // QEMU is the one thing that the release itself may have too old.
        let qemu = packages.contains(&crate::deps::QEMU_PACKAGE);
        let mut command = self.command("apt-get");
        if qemu && self.codename != UNSTABLE {
            command.args(["-t", &backports]);
        }
        command
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages);
        if !ws::is_root() {
            bail!(
                "{why} needs Debian packages that are not installed: {}\nInstall them, then try again:\n  sudo {}",
                packages.join(" "),
                ws::show(&command)
            );
        }
        let label = format!("installing {} for {why}", packages.join(" "));
        ws::run_logged(&label, &mut command, &self.dir.join("install.log"))
    }
}

/// The machine's Debian release.
fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let field = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name))
            .map(|v| v.trim_matches('"').to_owned())
    };
    if field("ID=").as_deref() != Some("debian") || ws::in_path("apt-get").is_none() {
        bail!(
            "kernels and QEMU are fetched as Debian packages, and this machine is {}; install qemu-system-x86_64 {} \
             or later and a static busybox by hand, and name a kernel by its path: cargo xtask vm run --kernel FILE",
            field("PRETTY_NAME=").unwrap_or_else(|| "no Debian".into()),
            crate::deps::QEMU_OLDEST
        );
    }
    // Debian unstable has no code name there.
    Ok(field("VERSION_CODENAME=").unwrap_or_else(|| UNSTABLE.into()))
}

/// (archive, suite) of every release file that `apt-get update --print-uris` names.
fn releases(print_uris: &str) -> Vec<(String, String)> {
    print_uris
        .lines()
        .filter_map(|line| {
            let uri = line.strip_prefix('\'')?.split('\'').next()?;
            let (archive, suite) = uri.strip_suffix("/InRelease")?.split_once("/dists/")?;
            Some((archive.to_owned(), suite.to_owned()))
        })
        .collect()
}

/// `NAME=VERSION` of every file that `apt-get install --print-uris` names: `'URI' NAME_VERSION_ARCH.deb SIZE HASH`.
fn packages(print_uris: &str) -> Vec<String> {
    print_uris
        .lines()
        .filter_map(|line| {
            let file = line.strip_prefix('\'')?.split(' ').nth(1)?;
            let mut parts = file.strip_suffix(".deb")?.split('_');
            let (name, version) = (parts.next()?, parts.next()?);
            // In the names of files apt writes the epoch's colon so.
            Some(format!("{name}={}", version.replace("%3a", ":")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_read_off_what_apt_would_fetch() {
        let said = "Reading package lists...\n\
                    'http://mirror.invalid/p/zlib1g_1.3.1-1%2bb1_amd64.deb' zlib1g_1%3a1.3.1-1+b1_amd64.deb 88892 MD5Sum:32\n\
                    'http://mirror.invalid/p/libc6_2.41-12_amd64.deb' libc6_2.41-12_amd64.deb 2846580 MD5Sum:55\n";
        assert_eq!(packages(said), ["zlib1g=1:1.3.1-1+b1", "libc6=2.41-12"]);
        assert!(packages("E: Unable to locate package x\n").is_empty());
    }

    #[test]
    fn sources_are_read_off_what_apt_would_fetch() {
        let said = "'http://mirror.invalid/debian/dists/bookworm/InRelease' mirror_InRelease 0 \n\
                    'http://mirror.invalid/security/dists/bookworm-security/InRelease' x 0 \n\
                    'http://mirror.invalid/debian/dists/bookworm/main/binary-amd64/Packages.xz' y 0 \n";
        assert_eq!(
            releases(said),
            [
                ("http://mirror.invalid/debian".to_owned(), "bookworm".to_owned()),
                (
                    "http://mirror.invalid/security".to_owned(),
                    "bookworm-security".to_owned()
                ),
            ]
        );
    }
}
