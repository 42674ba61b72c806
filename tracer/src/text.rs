//! Finds, in the kernel's own text and without debug information, every instruction that changes the
//! lock of a VMA.
//!
//! The operations on that lock are inlined all over the kernel, so no function's entry or return
//! shows them; but each leaves a fingerprint (`docs/sites.md`). [`Text`] and [`Symbols`] are the
//! inputs, [`Offsets`] says where the fields are, [`find`] is a pure function from these to
//! [`Sites`], and [`discover`] runs it on the kernel that we are on, with a cache.

mod cache;
mod capture;
mod cli;
mod flow;
mod matcher;
mod sites;
mod source;
mod symbols;

pub use cache::Cache;
pub use capture::Capture;
pub use cli::{SitesArgs, discover, main_sites, table as table_for};
pub use matcher::{Blacklist, Offsets, find, find_in_part};
pub use sites::{
    Confidence, Evidence, Failure, Form, FoundSite, Kprobe, Operation, Place, Reason, Register, Sites, Spot,
    Stats, Unrecognised,
};
pub use source::{Text, build_id};
pub use symbols::{Symbol, Symbols};

use std::io;
use std::path::Path;

use crate::outside;

/// Why sites cannot be looked for. Each is a line in `doctor`.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The kernel does not let us.
    #[error("{path}: refused: kernel lockdown, or CAP_SYS_RAWIO is missing")]
    Refused {
        /// What was to be read.
        path: String,
    },
    /// It is not there.
    #[error("{path}: there is no such file")]
    Missing {
        /// What was to be read.
        path: String,
    },
    /// It cannot be read for another reason.
    #[error("{path}: {why}")]
    Unreadable {
        /// What was to be read.
        path: String,
        /// What the system said.
        why: String,
    },
    /// Not what it should be.
    #[error("broken kernel image: {what}")]
    Broken {
        /// What is wrong.
        what: &'static str,
    },
    /// The packed kernel in a boot image is broken.
    #[error("the kernel in the boot image cannot be unpacked: broken {method} data")]
    Packed {
        /// How it is packed.
        method: &'static str,
    },
    /// The packed kernel in a boot image is packed in a way that we do not know.
    #[error("the kernel in the boot image is packed with {method}, which is not supported")]
    UnknownPacking {
        /// How it is packed.
        method: &'static str,
    },
    /// No symbols at all.
    #[error("no symbols")]
    NoSymbols,
    /// All addresses are zero.
    #[error("the kernel hides the addresses of its symbols (kernel.kptr_restrict, or CAP_SYSLOG is missing)")]
    HiddenSymbols,
    /// One that every kernel has is not there.
    #[error("no symbol {name}")]
    NoSymbol {
        /// Its name.
        name: &'static str,
    },
    /// Symbols and text are of different kernels.
    #[error("text and symbols do not belong together: {address:#x} is not in the text")]
    Outside {
        /// Where a symbol points.
        address: u64,
    },
    /// Text and running kernel are different.
    #[error("the text has build id {text}, the running kernel {running}")]
    BuildId {
        /// Of the text.
        text: String,
        /// Of the running kernel.
        running: String,
    },
    /// Symbols and text are of different kernels, or of different places.
    #[error("text and symbols do not belong together: only {good} of {tried} functions begin like one")]
    NotFunctions {
        /// How many do.
        good: usize,
        /// How many were looked at.
        tried: usize,
    },
    /// Text and type information are of different kernels.
    #[error("text and type information do not belong together: {what}")]
    Layout {
        /// What shows it.
        what: String,
    },
    /// No per-VMA locks, or type information of something else.
    #[error("the kernel's type information has no {field}")]
    NoField {
        /// What is missing.
        field: &'static str,
    },
}

impl TextError {
    fn unreadable(path: &Path, error: &io::Error) -> Self {
        let path = outside::path(path);
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Refused { path },
            io::ErrorKind::NotFound => Self::Missing { path },
            _ => Self::Unreadable {
                path,
                why: error.to_string(),
            },
        }
    }
}
