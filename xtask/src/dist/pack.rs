//! Archives whose bytes depend on nothing but what is in them: the same files, at the same time, make the same bytes.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use flate2::{Compression, GzBuilder};
use md5::{Digest as _, Md5};
use sha2::Sha256;

const DIR: u32 = 0o755;
/// Mode of a file that is only read.
pub(super) const DATA: u32 = 0o644;
/// Mode of a program.
pub(super) const PROGRAM: u32 = 0o755;

/// Files of an archive by their paths, which are relative. Folders are implied.
#[derive(Debug, Default, Clone)]
pub(super) struct Tree(BTreeMap<String, File>);

#[derive(Debug, Clone)]
struct File {
    mode: u32,
    bytes: Vec<u8>,
}

impl Tree {
    /// Adds a file.
    pub(super) fn add(&mut self, path: impl Into<String>, mode: u32, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        self.0.insert(path.into(), File { mode, bytes });
    }

    /// The paths of its files, sorted.
    #[cfg(test)]
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// A compressed tar archive of it, all of it under `root`: a folder such as `tracer-1.0/`, or `./`.
    ///
    /// # Errors
    /// A path that is longer than the 100 bytes that every tar has room for.
    fn tar_gz(&self, root: &str, time: u64) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(gzip(time));
        let mut seen = vec![root.to_owned()];
        add(&mut tar, root, tar::EntryType::Directory, DIR, time, &[])?;
        for (path, file) in &self.0 {
            for (at, _) in path.match_indices('/') {
                let folder = format!("{root}{}/", &path[..at]);
                if !seen.contains(&folder) {
                    add(&mut tar, &folder, tar::EntryType::Directory, DIR, time, &[])?;
                    seen.push(folder);
                }
            }
            let path = format!("{root}{path}");
            let regular = tar::EntryType::Regular;
            add(&mut tar, &path, regular, file.mode, time, &file.bytes)?;
        }
        tar.into_inner()?.finish().context("compressing an archive")
    }
}

fn gzip(time: u64) -> flate2::write::GzEncoder<Vec<u8>> {
    // A time that gzip has no room for is left out, as is the operating system.
    let time = u32::try_from(time).unwrap_or(0);
    GzBuilder::new()
        .mtime(time)
        .operating_system(255)
        .write(Vec::new(), Compression::default())
}

fn add(
    tar: &mut tar::Builder<impl std::io::Write>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    time: u64,
    bytes: &[u8],
) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    // Put there as it is: the leading `./` of Debian's packages is to stay.
    let name = &mut header.as_old_mut().name;
    ensure!(
        path.len() <= name.len(),
        "the path {path:?} is longer than the {} bytes that a tar archive has room for",
        name.len()
    );
    name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(time);
    header.set_uid(0);
    header.set_gid(0);
    header.set_username("root")?;
    header.set_groupname("root")?;
    header.set_size(bytes.len() as u64);
    header.set_cksum();
    tar.append(&header, bytes)
        .with_context(|| format!("packing {path}"))
}

/// A file by itself, compressed, as manual pages are.
pub(super) fn gz(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut out = gzip(0);
    out.write_all(bytes).context("compressing a file")?;
    out.finish().context("compressing a file")
}

/// An archive for anybody, with everything in one folder.
pub(super) fn tarball(tree: &Tree, folder: &str, time: u64) -> Result<Vec<u8>> {
    tree.tar_gz(&format!("{folder}/"), time)
}

/// A Debian package. `control` is what its control file says, but for the size, which is added.
pub(super) fn deb(tree: &Tree, control: &str, time: u64) -> Result<Vec<u8>> {
    // In KiB, each file rounded up by itself.
    let size: usize = tree.0.values().map(|file| file.bytes.len().div_ceil(1024)).sum();
    let sums: String = tree
        .0
        .iter()
        .map(|(path, file)| format!("{}  {path}\n", hex(&Md5::digest(&file.bytes))))
        .collect();
    let mut about = Tree::default();
    about.add(
        "control",
        DATA,
        format!("{}\nInstalled-Size: {size}\n", control.trim_end()),
    );
    about.add("md5sums", DATA, sums);
    let parts = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", about.tar_gz("./", time)?),
        ("data.tar.gz", tree.tar_gz("./", time)?),
    ];
    let mut ar = ar::Builder::new(Vec::new());
    for (name, bytes) in parts {
        let mut header = ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64);
        header.set_mtime(time);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mode(0o100_644);
        ar.append(&header, bytes.as_slice())
            .with_context(|| format!("packing {name}"))?;
    }
    ar.into_inner().context("packing a Debian package")
}

/// What `sha256sum` says of files, given by name and content: `sha256sum -c` reads it.
pub(super) fn sums<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    files
        .into_iter()
        .map(|(name, bytes)| format!("{}  {name}\n", hex(&Sha256::digest(bytes))))
        .collect()
}

/// Bytes as `sha256sum` prints them.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    const TIME: u64 = 1_700_000_000;

    fn tree(order: [usize; 3]) -> Tree {
        let files = [
            ("usr/bin/x", PROGRAM, b"program".to_vec()),
            ("usr/share/doc/x/a", DATA, vec![0; 5000]),
            ("usr/share/doc/x/b", DATA, Vec::new()),
        ];
        let mut tree = Tree::default();
        for at in order {
            let (path, mode, bytes) = files[at].clone();
            tree.add(path, mode, bytes);
        }
        tree
    }

    /// (path, kind, mode, time, owner, size) of all that is in a compressed tar archive.
    fn list(bytes: &[u8]) -> Vec<(String, bool, u32, u64, u64, u64)> {
        let mut archive = tar::Archive::new(GzDecoder::new(bytes));
        let entries = archive.entries().unwrap();
        entries
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                (
                    String::from_utf8(entry.path_bytes().into_owned()).unwrap(),
                    header.entry_type().is_dir(),
                    header.mode().unwrap(),
                    header.mtime().unwrap(),
                    header.uid().unwrap() + header.gid().unwrap(),
                    header.size().unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn the_same_files_make_the_same_bytes() {
        let (one, other) = (tree([0, 1, 2]), tree([2, 0, 1]));
        assert_eq!(
            tarball(&one, "x", TIME).unwrap(),
            tarball(&other, "x", TIME).unwrap()
        );
        let control = "Package: x\nVersion: 1";
        let deb_one = deb(&one, control, TIME).unwrap();
        assert_eq!(deb_one, deb(&other, control, TIME).unwrap());
        assert_ne!(deb_one, deb(&one, control, TIME + 1).unwrap());
        assert_ne!(deb_one, deb(&one, "Package: x\nVersion: 2", TIME).unwrap());
    }

    #[test]
    fn an_archive_has_folders_before_files_and_nobodys_name_or_time() {
        let named = |path: &str, dir, mode, size| (path.to_owned(), dir, mode, TIME, 0, size);
        assert_eq!(
            list(&tarball(&tree([1, 2, 0]), "x-1", TIME).unwrap()),
            [
                named("x-1/", true, 0o755, 0),
                named("x-1/usr/", true, 0o755, 0),
                named("x-1/usr/bin/", true, 0o755, 0),
                named("x-1/usr/bin/x", false, 0o755, 7),
                named("x-1/usr/share/", true, 0o755, 0),
                named("x-1/usr/share/doc/", true, 0o755, 0),
                named("x-1/usr/share/doc/x/", true, 0o755, 0),
                named("x-1/usr/share/doc/x/a", false, 0o644, 5000),
                named("x-1/usr/share/doc/x/b", false, 0o644, 0),
            ]
        );
    }

    #[test]
    fn a_debian_package_has_its_three_parts_in_order() {
        let bytes = deb(&tree([0, 1, 2]), "Package: x\n", TIME).unwrap();
        let mut archive = ar::Archive::new(bytes.as_slice());
        let mut parts = Vec::new();
        while let Some(entry) = archive.next_entry() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let name = String::from_utf8(entry.header().identifier().to_vec()).unwrap();
            parts.push((name, bytes));
        }
        let names: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["debian-binary", "control.tar.gz", "data.tar.gz"]);
        assert_eq!(parts[0].1, b"2.0\n");
        let mut control = tar::Archive::new(GzDecoder::new(parts[1].1.as_slice()));
        let mut said = String::new();
        for entry in control.entries().unwrap() {
            entry.unwrap().read_to_string(&mut said).unwrap();
        }
        // 1 KiB, 5 KiB and nothing; the sums are those of md5sum.
        assert_eq!(
            said,
            "Package: x\nInstalled-Size: 6\n\
             a9c449d4fa44e9e5a41c574ae55ce4d9  usr/bin/x\n\
             6bf95a48f366bdf8af3a198c7b723c77  usr/share/doc/x/a\n\
             d41d8cd98f00b204e9800998ecf8427e  usr/share/doc/x/b\n"
        );
        assert!(list(&parts[2].1).iter().any(|(path, ..)| path == "./usr/bin/x"));
    }

    #[test]
    fn a_path_that_no_tar_has_room_for_is_refused() {
        let mut tree = Tree::default();
        tree.add("x".repeat(101), DATA, "");
        let error = tarball(&tree, "x", TIME).unwrap_err().to_string();
        assert!(error.contains("100 bytes"), "{error}");
    }

    #[test]
    fn sums_are_those_of_sha256sum() {
        assert_eq!(
            sums([("a.deb", b"".as_slice())]),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a.deb\n"
        );
    }
}
