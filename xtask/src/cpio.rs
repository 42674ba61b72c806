//! A writer of initial ramdisks: the "newc" cpio format, uncompressed, as the kernel unpacks it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;

/// Writes entries one after another; paths are relative, without a leading slash, and parents come first.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    to: W,
    inode: u32,
    seen: std::collections::HashSet<String>,
}

impl<W: Write> Writer<W> {
    /// An archive that goes to `to`.
    pub(crate) fn new(to: W) -> Self {
        Self {
            to,
            inode: 1,
            seen: std::collections::HashSet::new(),
        }
    }

    fn entry(&mut self, path: &str, mode: u32, rdev: (u32, u32), length: u64) -> io::Result<()> {
        let length = u32::try_from(length)
            .map_err(|_| io::Error::other(format!("{path} is over 4 GiB, more than the format holds")))?;
        let name = path.len() + 1;
        let links = if mode & S_IFDIR == S_IFDIR { 2 } else { 1 };
        let inode = self.inode;
        self.inode += 1;
        let (major, minor) = rdev;
        write!(
            self.to,
            "070701{inode:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{length:08x}{:08x}{:08x}{major:08x}{minor:08x}{name:08x}{:08x}",
            0, 0, 0, 0, 0, 0
        )?;
        self.to.write_all(path.as_bytes())?;
        self.to.write_all(&[0])?;
        pad(&mut self.to, 110 + name)
    }

    /// A folder and every folder above it, each once.
    pub(crate) fn dir(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let part = &path[..at];
            if !part.is_empty() && self.seen.insert(part.to_owned()) {
                self.entry(part, S_IFDIR | 0o755, (0, 0), 0)?;
            }
        }
        Ok(())
    }

    fn parent(&mut self, path: &str) -> io::Result<()> {
        path.rsplit_once('/')
            .map_or(Ok(()), |(parent, _)| self.dir(parent))
    }

    /// A file of these bytes.
    pub(crate) fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        let path = path.trim_matches('/');
        self.parent(path)?;
        self.entry(path, S_IFREG | mode & 0o7777, (0, 0), bytes.len() as u64)?;
        self.to.write_all(bytes)?;
        pad(&mut self.to, bytes.len())
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        self.parent(path)?;
        self.entry(path, S_IFLNK | 0o777, (0, 0), target.len() as u64)?;
        self.to.write_all(target.as_bytes())?;
        pad(&mut self.to, target.len())
    }

    /// A character device.
    pub(crate) fn device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.parent(path)?;
        self.entry(path, S_IFCHR | 0o600, (major, minor), 0)
    }

    /// A file or a whole folder of this machine, at `path`.
    pub(crate) fn add(&mut self, from: &Path, path: &str) -> Result<()> {
        let path = path.trim_matches('/');
        let at = || format!("packing {} for the guest", from.display());
        // What was named by the user is followed; links inside a folder are kept as links.
        let meta = fs::metadata(from).with_context(at)?;
        if meta.is_dir() {
            self.dir(path).with_context(at)?;
            return self.tree(from, path);
        }
        let bytes = fs::read(from).with_context(at)?;
        self.file(path, meta.permissions().mode(), &bytes)
            .with_context(at)
    }

    fn tree(&mut self, from: &Path, path: &str) -> Result<()> {
        let at = || format!("packing {} for the guest", from.display());
        let mut entries = fs::read_dir(from)
            .with_context(at)?
            .collect::<io::Result<Vec<_>>>()
            .with_context(at)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                bail!(
                    "packing {} for the guest: a name that is not UTF-8",
                    entry.path().display()
                );
            };
            let inner = format!("{path}/{name}");
            let kind = entry.file_type().with_context(at)?;
            if kind.is_symlink() {
                let target = fs::read_link(entry.path()).with_context(at)?;
                self.link(&inner, &target.to_string_lossy()).with_context(at)?;
            } else if kind.is_dir() {
                self.dir(&inner).with_context(at)?;
                self.tree(&entry.path(), &inner)?;
            } else if kind.is_file() {
                self.add(&entry.path(), &inner)?;
            } else {
                bail!(
                    "packing {} for the guest: not a file, folder or link",
                    entry.path().display()
                );
            }
        }
        Ok(())
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), 0)?;
        self.to.flush()?;
        Ok(self.to)
    }
}

/// Everything is aligned to four bytes.
fn pad(to: &mut impl Write, written: usize) -> io::Result<()> {
    to.write_all(&[0; 3][..(4 - written % 4) % 4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::Scratch;

    /// Names, modes and bytes, read back by the format's own rules.
    fn parse(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * n..14 + 8 * n]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, length, name) = (field(1), field(6) as usize, field(11) as usize);
            let text = String::from_utf8(bytes[110..110 + name - 1].to_vec()).unwrap();
            let data = (110 + name).next_multiple_of(4);
            let end = (data + length).next_multiple_of(4);
            if text == "TRAILER!!!" {
                assert_eq!(end, bytes.len());
                return entries;
            }
            entries.push((text, mode, bytes[data..data + length].to_vec()));
            bytes = &bytes[end..];
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut cpio = Writer::new(Vec::new());
        cpio.file("/a/b/c", 0o755, b"hello").unwrap();
        cpio.file("a/b/d", 0o100_644, b"").unwrap();
        cpio.link("a/l", "b/c").unwrap();
        cpio.device("dev/console", 5, 1).unwrap();
        let entries = parse(&cpio.finish().unwrap());
        let brief: Vec<_> = entries
            .iter()
            .map(|(n, m, b)| (n.as_str(), *m, b.as_slice()))
            .collect();
        assert_eq!(
            brief,
            [
                ("a", 0o040_755, &b""[..]),
                ("a/b", 0o040_755, b""),
                ("a/b/c", 0o100_755, b"hello"),
                ("a/b/d", 0o100_644, b""),
                ("a/l", 0o120_777, b"b/c"),
                ("dev", 0o040_755, b""),
                ("dev/console", 0o020_600, b""),
            ]
        );
    }

    #[test]
    fn folders_go_in_with_what_is_in_them() {
        let scratch = Scratch::new(None).unwrap();
        let dir = scratch.path().join("d");
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/f"), "x").unwrap();
        std::os::unix::fs::symlink("sub/f", dir.join("l")).unwrap();
        let mut cpio = Writer::new(Vec::new());
        cpio.add(&dir, "/add/d").unwrap();
        let names: Vec<_> = parse(&cpio.finish().unwrap()).into_iter().map(|e| e.0).collect();
        assert_eq!(names, ["add", "add/d", "add/d/l", "add/d/sub", "add/d/sub/f"]);
        assert!(Writer::new(Vec::new()).add(&dir.join("none"), "x").is_err());
    }
}
