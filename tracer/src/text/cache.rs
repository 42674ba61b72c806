//! Sites that were found before, by the kernel's build id, in the user's cache folder.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::Sites;
use crate::disk::Folder;
use crate::outside;

/// Changes whenever the matcher or its output does.
const VERSION: u32 = 4;
const MAGIC: &str = "tracer-sites";
/// Nothing that we wrote is larger.
const MAX_LEN: u64 = 64 << 20;

/// A folder of files, one for each kernel.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The user's own, if the environment tells where that is.
    pub fn of_user() -> Option<Self> {
        let folder = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute());
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        Some(Self {
            folder: folder
                .or_else(home)
                .filter(|path| path.is_absolute())?
                .join("tracer"),
        })
    }

    /// In a given folder.
    pub fn at(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        let plain = !key.is_empty()
            && key.len() <= 200
            && key.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        plain.then(|| self.folder.join(format!("sites-{key}.json")))
    }

    /// What was stored under a key; `Err` says why what is there cannot be used.
    ///
    /// # Errors
    /// With a line for people.
    pub fn load(&self, key: &str) -> Result<Option<Sites>, String> {
        let Some(path) = self.path(key) else {
            return Ok(None);
        };
        let name = path.file_name().unwrap_or_default();
        let ignored = |why: &str| format!("{} is ignored: {why}", outside::path(&path));
        let folder = match Folder::own(&self.folder, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| ignored(&error.to_string()))?,
        };
        // What we attach to comes from here: nobody else may have written it.
        let file = match folder.read_own(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| ignored(&error.to_string()))?,
        };
        let mut text = String::new();
        file.take(MAX_LEN + 1)
            .read_to_string(&mut text)
            .map_err(|error| ignored(&error.to_string()))?;
        if text.len() as u64 > MAX_LEN {
            return Err(ignored("not a file of ours"));
        }
        let (head, body) = text.split_once('\n').ok_or_else(|| ignored("cut short"))?;
        let sum = crc32fast::hash(body.as_bytes());
        if !head.starts_with(&format!("{MAGIC} {VERSION} ")) {
            return Err(ignored("written by another version"));
        }
        if head != format!("{MAGIC} {VERSION} {key} {sum:08x}") {
            return Err(ignored("broken, or of another kernel"));
        }
        serde_json::from_str(body)
            .map(Some)
            .map_err(|error| ignored(&error.to_string()))
    }

    /// Stores what was found. Whole or not at all.
    ///
    /// # Errors
    /// With a line for people.
    pub fn store(&self, key: &str, sites: &Sites) -> Result<(), String> {
        let Some(path) = self.path(key) else { return Ok(()) };
        let name = path.file_name().unwrap_or_default();
        let failed = |error: std::io::Error| format!("{} cannot be written: {error}", outside::path(&path));
        let folder = Folder::own(&self.folder, true).map_err(failed)?;
        let body = serde_json::to_string(sites).map_err(|error| failed(error.into()))?;
        let sum = crc32fast::hash(body.as_bytes());
        let write = || {
            let mut draft = folder.draft(name)?;
            write!(draft, "{MAGIC} {VERSION} {key} {sum:08x}\n{body}")?;
            draft.sync()?;
            draft.place()
        };
        write().map_err(failed)
    }
}
