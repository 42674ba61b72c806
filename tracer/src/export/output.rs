//! Files that appear whole: written beside their name, and moved there at the end.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tempfile::{NamedTempFile, TempPath};

/// Where an export goes. What is dropped without [`Output::finish`] leaves nothing behind.
#[derive(Debug)]
pub enum Output {
    /// The standard output.
    Stdout(io::Stdout),
    /// A pipe or a device that was there already.
    Stream(fs::File),
    /// A file that is not at its place yet.
    File {
        /// What is written, readable by its owner only.
        file: NamedTempFile,
        /// Its place.
        path: PathBuf,
    },
}

impl Output {
    /// Starts to write `path`, `-` being the standard output.
    ///
    /// # Errors
    /// If it is a folder, or nothing can be made beside it.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stdout(io::stdout()));
        }
        // What a symbolic link points to is not looked at: the link itself is replaced.
        if let Ok(meta) = fs::symlink_metadata(path) {
            let kind = meta.file_type();
            if kind.is_dir() {
                bail!(
                    "cannot write {}: it is a folder; name a file in it",
                    path.display()
                );
            }
            if kind.is_fifo() || kind.is_char_device() {
                let file = fs::OpenOptions::new().write(true).open(path);
                return Ok(Self::Stream(
                    file.with_context(|| format!("cannot write {}", path.display()))?,
                ));
            }
        }
        let name = path
            .file_name()
            .with_context(|| format!("cannot write {}: it has no name", path.display()))?;
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // Hidden, and with an end that no reader of tables takes for one.
        let file = tempfile::Builder::new()
            .prefix(&format!(".{}.", name.to_string_lossy()))
            .suffix(".unfinished")
            .tempfile_in(folder)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self::File {
            file,
            path: path.to_owned(),
        })
    }

    /// Puts the file in its place, over one that may be there.
    ///
    /// # Errors
    /// If the last bytes cannot be written, or the file cannot be moved; the old one stays then.
    pub fn finish(self) -> anyhow::Result<()> {
        self.close()?.map_or(Ok(()), Whole::place)
    }

    /// Ends the file, but leaves it out of its place; `None` if it never had another one, as a pipe.
    ///
    /// # Errors
    /// If the last bytes cannot be written.
    pub fn close(mut self) -> anyhow::Result<Option<Whole>> {
        self.flush()?;
        let Self::File { file, path } = self else {
            return Ok(None);
        };
        file.as_file()
            .sync_data()
            .with_context(|| format!("cannot write {}", path.display()))?;
        let file = file.into_temp_path();
        Ok(Some(Whole { file, path }))
    }
}

/// A file that is whole and not at its place yet; without [`Self::place`] it goes away.
#[derive(Debug)]
pub struct Whole {
    file: TempPath,
    path: PathBuf,
}

impl Whole {
    /// Its place.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts it in its place, over one that may be there.
    ///
    /// # Errors
    /// If it cannot be moved; the old one stays then.
    pub fn place(self) -> anyhow::Result<()> {
        let Self { file, path } = self;
        file.persist(&path)
            .map_err(|error| error.error)
            .with_context(|| format!("cannot put {} in its place", path.display()))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::Stream(file) => file.write(bytes),
            Self::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::Stream(file) => file.flush(),
            Self::File { file, .. } => file.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn a_file_is_replaced_at_the_end_and_is_its_owners() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        fs::write(&path, "old").unwrap();
        let mut output = Output::create(&path).unwrap();
        output.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        output.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_given_up_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        fs::write(&path, "old").unwrap();
        let mut output = Output::create(&path).unwrap();
        output.write_all(b"new").unwrap();
        drop(output);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_replaced_and_what_it_points_to_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a.csv"), folder.path().join("other"));
        fs::write(&other, "mine").unwrap();
        symlink(&other, &path).unwrap();
        Output::create(&path).unwrap().finish().unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"mine");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        let error = Output::create(folder.path()).unwrap_err().to_string();
        assert!(error.contains("folder"), "{error}");
    }
}
