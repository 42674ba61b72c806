//! How a recording ends, and why it cannot be read.

use std::io;

use thiserror::Error;

use super::frame::VERSION;

/// Why a file is no recording that this program can read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It cannot be opened or read.
    #[error("cannot read the recording {name}")]
    Io {
        /// The file.
        name: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It is something else.
    #[error("{name} is no recording of this program; it should have been made by `tracer record`")]
    Foreign {
        /// The file.
        name: String,
    },
    /// It is from the future.
    #[error(
        "{name} has recording format {found}, and this program reads up to {VERSION}: use a newer tracer"
    )]
    Newer {
        /// The file.
        name: String,
        /// Its version.
        found: u32,
    },
    /// Its bytes are the other way round.
    #[error(
        "{name} was written on a machine with the other order of bytes (big-endian); this program reads little-endian ones"
    )]
    Endian {
        /// The file.
        name: String,
    },
    /// It ends or breaks before the header that tells what the events mean.
    #[error("{name} is damaged before its first event ({end}); --recover reads what is left")]
    NoHeader {
        /// The file.
        name: String,
        /// How.
        end: End,
    },
    /// It cannot be sought in: it is a pipe.
    #[error("{name} is no file: it can be read only from its start to its end")]
    NotSeekable {
        /// What it is.
        name: String,
    },
}

/// How a recording ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// On purpose, with a summary.
    Clean,
    /// After a whole frame but without a summary: the recorder was killed, or could not go on.
    Unfinished {
        /// Where, in bytes.
        offset: u64,
    },
    /// In the middle of a frame.
    Truncated {
        /// Where the last whole frame ends, in bytes.
        offset: u64,
    },
    /// A frame is damaged; what follows it is not read, unless the reader was asked to recover.
    Corrupt {
        /// Where the frame starts, in bytes.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
}

impl core::fmt::Display for End {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Clean => write!(f, "complete"),
            Self::Unfinished { offset } => write!(
                f,
                "ends without a summary at offset {offset}: the recorder was stopped before it could finish"
            ),
            Self::Truncated { offset } => write!(f, "truncated at offset {offset}"),
            Self::Corrupt { offset, reason } => write!(f, "corrupt at offset {offset}: {reason}"),
        }
    }
}

/// A part of a recording that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it starts, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
    /// What is wrong.
    pub reason: String,
    /// Time of the last event before it, in nanoseconds; 0: there is none.
    pub before_ns: u64,
    /// Time of the first event after it, in nanoseconds; 0: there is none.
    pub after_ns: u64,
}
