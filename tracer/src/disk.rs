//! The one place where files are opened for writing: recordings, exports, captures, what is remembered of a kernel.
//!
//! The program often runs as root, and its files say what happens on a host, so that
//! - they are their owner's alone, whatever the umask is;
//! - a new file is new: nothing that was put under its name before is written to;
//! - no symbolic link is followed that somebody else put into a folder where others can put links (`/tmp`, say), neither as
//!   the file nor on the way to it;
//! - what was checked is what is used: folders are opened once, and files named by them.

mod at;

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, Permissions};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use crate::outside;

/// Of files.
const OWNER: u32 = 0o600;
/// Of folders.
const OWNER_FOLDER: u32 = 0o700;
/// As many as the kernel follows.
const LINKS: u32 = 40;
/// More bytes of a name are not taken into that of its draft, which is longer and must not be too long.
const NAME: usize = 200;

fn refused(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why.into())
}

/// Whom links on the way to a file may belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// This user, root, and who owns the folder, unless that is one that somebody put where everybody can.
    Usual,
    /// This user and root, and all folders, too.
    Own,
}

/// An open folder.
#[derive(Debug)]
pub struct Folder(File);

impl Folder {
    /// Opens a folder.
    ///
    /// # Errors
    /// If there is none, or the way to it leads over a link that is not to be trusted.
    pub fn open(path: &Path) -> io::Result<Self> {
        walk(path, Trust::Usual, false).map(Self)
    }

    /// The same, and makes those that are missing, for their owner only.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn make(path: &Path) -> io::Result<Self> {
        walk(path, Trust::Usual, true).map(Self)
    }

    /// Opens one that is this user's own, as are all on the way to it or else root's, and that nobody else can write to.
    /// `make`: if it is not there, it is made.
    ///
    /// # Errors
    /// If it is another one.
    pub fn own(path: &Path, make: bool) -> io::Result<Self> {
        let folder = walk(path, Trust::Own, make)?;
        let meta = folder.metadata()?;
        if meta.uid() != at::user() || meta.mode() & 0o022 != 0 {
            return Err(refused(format!(
                "others can write to the folder {}",
                outside::path(path)
            )));
        }
        Ok(Self(folder))
    }

    /// The folder that a file is in, and its name there.
    fn around(path: &Path) -> io::Result<(Self, OsString)> {
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::other("it has no name"))?;
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Ok((Self::open(folder)?, name.to_owned()))
    }

    /// A new file, for its owner only unless `mode` says otherwise.
    fn create(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let file = at::open(Some(&self.0), name, flags, OWNER)?;
        // The umask may have taken away more.
        if file.metadata()?.mode() & 0o7777 != mode {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(file)
    }

    /// What has that name, a link being itself; `None`: nothing.
    fn look(&self, name: &OsStr) -> io::Result<Option<Metadata>> {
        match at::open(Some(&self.0), name, libc::O_PATH | libc::O_NOFOLLOW, 0) {
            Ok(found) => found.metadata().map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a file of this user that nobody else can have written, for reading.
    ///
    /// # Errors
    /// If it is something else.
    pub fn read_own(&self, name: &OsStr) -> io::Result<File> {
        let file = at::open(
            Some(&self.0),
            name,
            libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK,
            0,
        );
        let file = file.map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => refused("it is a symbolic link"),
            _ => error,
        })?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(refused("it is no file"));
        }
        if meta.uid() != at::user() || meta.mode() & 0o022 != 0 {
            return Err(refused("others can write it"));
        }
        Ok(file)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// If it cannot be.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        at::remove(&self.0, name)
    }

    /// Starts a file that appears under its name when it is whole.
    ///
    /// # Errors
    /// If nothing can be made here.
    pub fn draft(self, name: &OsStr) -> io::Result<Draft> {
        Draft::new(self, name, OWNER, &mut random)
    }

    /// A pipe or a device that somebody else put where everybody can would give away what is written, or never take it.
    fn trusts_stream(&self, meta: &Metadata) -> io::Result<()> {
        let folder = self.0.metadata()?;
        let owner = meta.uid();
        if folder.mode() & 0o022 != 0 && ![at::user(), 0, folder.uid()].contains(&owner) {
            return Err(refused(format!(
                "it is a pipe or device of user {owner} in a folder that others can write to"
            )));
        }
        Ok(())
    }

    /// Opens for writing what is there: what was looked at, and nothing that was put in its place since.
    fn open_known(&self, name: &OsStr, known: &Metadata, flags: libc::c_int) -> io::Result<File> {
        let file = at::open(Some(&self.0), name, libc::O_WRONLY | libc::O_NOFOLLOW | flags, 0)?;
        let meta = file.metadata()?;
        if (meta.dev(), meta.ino()) != (known.dev(), known.ino()) {
            return Err(refused("something else was put in its place meanwhile"));
        }
        Ok(file)
    }
}

/// Opens a folder, one name after the other.
fn walk(path: &Path, trust: Trust, make: bool) -> io::Result<File> {
    const FOLDER: libc::c_int = libc::O_PATH | libc::O_NOFOLLOW | libc::O_DIRECTORY;
    let start = |path: &Path| OsString::from(if path.is_absolute() { "/" } else { "." });
    let names = |path: &Path| -> VecDeque<OsString> {
        let named = path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        });
        named.collect()
    };
    let mut folder = at::open(None, &start(path), FOLDER, 0)?;
    let mut rest = names(path);
    let mut links = 0;
    // Whether somebody else may have put here what we are in.
    let mut foreign = false;
    while let Some(name) = rest.pop_front() {
        let found = match at::open(Some(&folder), &name, libc::O_PATH | libc::O_NOFOLLOW, 0) {
            Err(error) if make && error.kind() == io::ErrorKind::NotFound => {
                match at::make_folder(&folder, &name, OWNER_FOLDER) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                }
                let made = at::open(Some(&folder), &name, FOLDER, 0)?;
                let meta = made.metadata()?;
                if meta.uid() == at::user() && meta.mode() & OWNER_FOLDER != OWNER_FOLDER {
                    // The umask has taken away too much. A folder that is open by its path alone is changed so.
                    let path = format!("/proc/self/fd/{}", made.as_raw_fd());
                    std::fs::set_permissions(path, Permissions::from_mode(OWNER_FOLDER))?;
                }
                made
            }
            other => other?,
        };
        let (around, meta) = (folder.metadata()?, found.metadata()?);
        let ours = |owner: u32| owner == at::user() || owner == 0;
        if meta.is_symlink() {
            let trusted = match trust {
                _ if ours(meta.uid()) => true,
                Trust::Own => false,
                Trust::Usual => !foreign && (around.mode() & 0o022 == 0 || meta.uid() == around.uid()),
            };
            if !trusted {
                return Err(refused(format!(
                    "{} on the way to it is a symbolic link of user {}, in a folder that others can write to",
                    outside::path(&name),
                    meta.uid()
                )));
            }
            links += 1;
            if links > LINKS {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            let target = PathBuf::from(at::target(&found)?);
            if target.is_absolute() {
                folder = at::open(None, &start(&target), FOLDER, 0)?;
                foreign = false;
            }
            let mut first = names(&target);
            first.append(&mut rest);
            rest = first;
            continue;
        }
        if !meta.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
        }
        if trust == Trust::Own && !ours(meta.uid()) {
            return Err(refused(format!(
                "the folder {} on the way to it belongs to user {}",
                outside::path(&name),
                meta.uid()
            )));
        }
        foreign = !ours(meta.uid()) && (foreign || around.mode() & 0o002 != 0);
        folder = found;
    }
    Ok(folder)
}

/// Something that was open when the program began, by the names that the system has for it.
pub fn inherited(path: &Path) -> Option<io::Result<File>> {
    let number = match path.to_str()? {
        "/dev/stdout" => 1,
        "/dev/stderr" => 2,
        path => {
            let number = path
                .strip_prefix("/dev/fd/")
                .or_else(|| path.strip_prefix("/proc/self/fd/"));
            number?.parse().ok()?
        }
    };
    Some(at::again(number))
}

/// Whether a recording can be written there later: what can be told without making it.
///
/// # Errors
/// Why not.
pub fn check(path: &Path) -> io::Result<()> {
    if inherited(path).is_some() {
        return Ok(());
    }
    let (folder, name) = Folder::around(path)?;
    match folder.look(&name)? {
        Some(meta) => overwritable(&folder, &meta).map(drop),
        None => at::is_writable(&folder.0),
    }
}

/// A new file; nothing is overwritten.
///
/// # Errors
/// If there is something of that name, or it cannot be made.
pub fn create_new(path: &Path) -> io::Result<File> {
    let (folder, name) = Folder::around(path)?;
    folder.create(&name, OWNER)
}

/// What is written as it comes.
#[derive(Debug)]
pub enum Target {
    /// A regular file, and empty.
    File(File),
    /// A pipe or a device.
    Stream(File),
}

/// Opens a new file, or what is there: a pipe, a device, or a file of this user, which is emptied.
///
/// # Errors
/// If it is something else, or cannot be opened.
pub fn overwrite(path: &Path) -> io::Result<Target> {
    if let Some(stream) = inherited(path) {
        return stream.map(Target::Stream);
    }
    let (folder, name) = Folder::around(path)?;
    let Some(meta) = folder.look(&name)? else {
        return folder.create(&name, OWNER).map(Target::File);
    };
    if overwritable(&folder, &meta)? {
        return folder.open_known(&name, &meta, 0).map(Target::Stream);
    }
    // Who could read the old one may have it open, and would read on in the new one.
    if meta.mode() & 0o077 != 0 && folder.remove(&name).is_ok() {
        return folder.create(&name, OWNER).map(Target::File);
    }
    let file = folder.open_known(&name, &meta, libc::O_NONBLOCK)?;
    file.set_permissions(Permissions::from_mode(OWNER))?;
    file.set_len(0)?;
    Ok(Target::File(file))
}

/// Whether it is a stream, if it may be written to at all.
fn overwritable(folder: &Folder, meta: &Metadata) -> io::Result<bool> {
    let kind = meta.file_type();
    if kind.is_symlink() {
        return Err(refused(
            "it is a symbolic link, which is not followed; name the file itself",
        ));
    }
    if kind.is_fifo() || kind.is_char_device() {
        return folder.trusts_stream(meta).map(|()| true);
    }
    if !kind.is_file() {
        return Err(refused("it is neither a regular file nor a pipe"));
    }
    let owner = meta.uid();
    if owner != at::user() {
        return Err(refused(format!(
            "it belongs to user {owner}, and would be overwritten; remove it or name another file"
        )));
    }
    if meta.nlink() > 1 {
        return Err(refused(
            "it has several names (hard links), and would be overwritten; remove it or name another file",
        ));
    }
    Ok(false)
}

/// Opens a pipe or a device that has that name; `None`: it is something else, or nothing, which a draft replaces.
///
/// # Errors
/// If it is a folder, or cannot be opened.
pub fn stream(path: &Path) -> io::Result<Option<File>> {
    if let Some(stream) = inherited(path) {
        return stream.map(Some);
    }
    let (folder, name) = Folder::around(path)?;
    let Some(meta) = folder.look(&name)? else {
        return Ok(None);
    };
    let kind = meta.file_type();
    if kind.is_dir() {
        return Err(io::Error::other("it is a folder; name a file in it"));
    }
    // What a symbolic link points to is not looked at: the link itself is replaced.
    if kind.is_fifo() || kind.is_char_device() {
        folder.trusts_stream(&meta)?;
        return folder.open_known(&name, &meta, 0).map(Some);
    }
    Ok(None)
}

/// Puts a file in its place, whole, over one that may be there.
///
/// # Errors
/// If it cannot be written; the old one stays then.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(mut stream) = stream(path)? {
        return stream.write_all(bytes);
    }
    Draft::beside(path)?.write_whole(bytes)
}

/// The same with a file that everybody may read, such as a manual page, which says nothing of this host.
///
/// # Errors
/// As [`replace`].
pub fn replace_public(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (folder, name) = Folder::around(path)?;
    Draft::new(folder, &name, 0o644, &mut random)?.write_whole(bytes)
}

/// A file that is not at its place yet. What is dropped without [`Draft::place`] is gone.
#[derive(Debug)]
pub struct Draft {
    file: File,
    folder: Folder,
    /// What it has to be called in the end.
    name: OsString,
    /// What it is called; `None`: it is in its place.
    hidden: Option<OsString>,
}

impl Draft {
    /// Starts a file in the folder of its place.
    ///
    /// # Errors
    /// If nothing can be made there.
    pub fn beside(path: &Path) -> io::Result<Self> {
        let (folder, name) = Folder::around(path)?;
        folder.draft(&name)
    }

    /// `random`: what makes its hidden name one that nobody has guessed.
    fn new(folder: Folder, name: &OsStr, mode: u32, random: &mut dyn FnMut() -> u64) -> io::Result<Self> {
        let short = &name.as_bytes()[..name.len().min(NAME)];
        loop {
            // With an end that no reader of tables takes for one.
            let mut hidden = OsString::from(".");
            hidden.push(OsStr::from_bytes(short));
            hidden.push(format!(".{:012x}.unfinished", random() >> 16));
            match folder.create(&hidden, mode) {
                Ok(file) => {
                    return Ok(Self {
                        file,
                        folder,
                        name: name.to_owned(),
                        hidden: Some(hidden),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn write_whole(mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.sync()?;
        self.place()
    }

    /// Has all of it written to the disk.
    ///
    /// # Errors
    /// If that fails.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Puts it in its place, over one that may be there.
    ///
    /// # Errors
    /// If it cannot be moved; the old one stays then.
    pub fn place(mut self) -> io::Result<()> {
        if let Some(hidden) = &self.hidden {
            at::rename(&self.folder.0, hidden, &self.name)?;
            self.hidden = None;
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            let _ = at::remove(&self.folder.0, hidden);
        }
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests;
