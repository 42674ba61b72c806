//! Files that appear whole: written beside their name, and moved there at the end.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::disk::{self, Draft};
use crate::outside;

/// Where an export goes. What is dropped without [`Output::finish`] leaves nothing behind.
#[derive(Debug)]
pub enum Output {
    /// The standard output.
    Stdout(io::Stdout),
    /// A pipe or a device that was there already.
    Stream(File),
    /// A file that is not at its place yet.
    File {
        /// What is written, readable by its owner only.
        file: Draft,
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
        let failed = || format!("cannot write {}", outside::path(path));
        if let Some(stream) = disk::stream(path).with_context(failed)? {
            return Ok(Self::Stream(stream));
        }
        Ok(Self::File {
            file: Draft::beside(path).with_context(failed)?,
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
        file.sync()
            .with_context(|| format!("cannot write {}", outside::path(&path)))?;
        Ok(Some(Whole { file, path }))
    }
}

/// A file that is whole and not at its place yet; without [`Self::place`] it goes away.
#[derive(Debug)]
pub struct Whole {
    file: Draft,
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
        file.place()
            .with_context(|| format!("cannot put {} in its place", outside::path(&path)))
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
    use std::fs;
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
        let error = format!("{:#}", Output::create(folder.path()).unwrap_err());
        assert!(error.contains("folder"), "{error}");
    }
}
