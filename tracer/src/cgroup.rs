//! A control group (v2), as users name it and as the probes know it.

use std::os::linux::fs::MetadataExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::{ffi, fs, mem};

use anyhow::{Context as _, ensure};

use crate::outside;

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// The kernel's number for it, which is the one of its folder.
    pub id: u64,
    /// Its path below the root that is in sight, in plain text.
    pub path: String,
    /// How far it is below the root of all; `None`: that root is not in sight, as inside a container.
    depth: Option<u32>,
}

/// So deep groups are looked for where the root of all is not in sight. Nobody nests them deeper: each level costs.
const DEEPEST: u32 = 32;
/// The number of the root of all.
const ROOT: u64 = 1;
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

impl Cgroup {
    /// The group by its folder, or by its path below the root: with or without a slash, or as a line of /proc/PID/cgroup.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(given: &Path) -> anyhow::Result<Self> {
        let mounts =
            fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
        let root = root_of(&mounts).with_context(|| {
            format!(
                "--cgroup {}: no cgroup v2 hierarchy is mounted here; mount -t cgroup2 none /sys/fs/cgroup",
                given.display()
            )
        })?;
        Self::below(&root, given)
    }

    fn below(root: &Path, given: &Path) -> anyhow::Result<Self> {
        let name = given.as_os_str().as_bytes();
        let name = name.strip_prefix(b"0::").unwrap_or(name);
        ensure!(
            !name.is_empty(),
            "--cgroup wants a path, such as {}/system.slice",
            root.display()
        );
        let start = name.iter().position(|&byte| byte != b'/').unwrap_or(name.len());
        let beneath = if given.starts_with(root) {
            given.to_path_buf()
        } else {
            root.join(Path::new(ffi::OsStr::from_bytes(&name[start..])))
        };
        let candidates = [given.to_path_buf(), beneath];
        let Some(folder) = candidates.iter().find(|path| path.is_dir() && is_cgroup2(path)) else {
            let exists = candidates.iter().find(|path| path.exists());
            return Err(match exists {
                Some(path) => anyhow::anyhow!(
                    "--cgroup {}: {} is no folder of cgroup v2; those are {} and what is below it",
                    given.display(),
                    path.display(),
                    root.display()
                ),
                None => anyhow::anyhow!(
                    "--cgroup {}: there is no such cgroup ({} does not exist); /proc/PID/cgroup tells that of a process, \
                     systemd-cgls shows them all",
                    given.display(),
                    candidates[1].display()
                ),
            });
        };
        let said = |path: &Path| format!("cannot look at {}", path.display());
        // What links and dots lead through are no levels.
        let folder = fs::canonicalize(folder).with_context(|| said(folder))?;
        let id = fs::metadata(&folder).with_context(|| said(&folder))?.st_ino();
        let root_id = fs::metadata(root).with_context(|| said(root))?.st_ino();
        let below = folder.strip_prefix(root).ok();
        let levels = below.map(|below| u32::try_from(below.components().count()).unwrap_or(u32::MAX));
        Ok(Self {
            id,
            path: outside::path(below.map_or_else(|| folder.clone(), |below| Path::new("/").join(below))),
            depth: levels.filter(|_| root_id == ROOT),
        })
    }

    /// How far it may be below the root of all, at least and at most.
    pub fn depth(&self) -> (u32, u32) {
        self.depth.map_or((0, DEEPEST), |depth| (depth, depth))
    }
}

/// Where the hierarchy of version 2 is mounted, by a `mountinfo`: the first one, before which others may be.
fn root_of(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        // After the fields of the mount comes a dash, then the kind of file system.
        let (mount, kind) = line.split_once(" - ")?;
        let at = mount.split(' ').nth(4)?;
        (kind.split(' ').next()? == "cgroup2").then(|| PathBuf::from(unescaped(at)))
    })
}

/// The kernel writes spaces and the like as three octal digits.
fn unescaped(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}

fn is_cgroup2(path: &Path) -> bool {
    let Ok(path) = ffi::CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: a plain C structure for which all zeroes is a valid value.
    let mut stat: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: the path ends with a zero, and the structure lives until the call returns.
    unsafe { libc::statfs(path.as_ptr(), &raw mut stat) == 0 && stat.f_type == CGROUP2_SUPER_MAGIC }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
24 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
31 24 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw
32 24 0:28 / /sys/fs/cgroup/cpu rw,nosuid shared:10 - cgroup cgroup rw,cpu
";

    #[test]
    fn the_hierarchy_of_version_2_is_found_beside_others() {
        assert_eq!(root_of(MOUNTS), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(root_of("24 1 8:1 / / rw - ext4 /dev/sda1 rw\n"), None);
        assert_eq!(
            root_of("24 1 0:9 / /mnt/my\\040groups rw - cgroup2 none rw\n"),
            Some("/mnt/my groups".into())
        );
    }

    #[test]
    fn what_is_no_cgroup_is_refused_with_what_to_do() {
        let error = |given: &str| {
            let root = Path::new("/nonexistent/cgroup");
            format!("{:#}", Cgroup::below(root, Path::new(given)).unwrap_err())
        };
        assert!(
            error("/proc").contains("/proc is no folder of cgroup v2"),
            "{}",
            error("/proc")
        );
        let whole = "/nonexistent/cgroup/no-such.slice";
        for given in ["/no-such.slice", "no-such.slice", "0::/no-such.slice", whole] {
            let error = error(given);
            assert!(
                error.contains("there is no such cgroup (/nonexistent/cgroup/no-such.slice does"),
                "{error}"
            );
            assert!(error.contains("/proc/PID/cgroup"), "{error}");
        }
        assert!(error("").contains("wants a path"), "{}", error(""));
    }
}
