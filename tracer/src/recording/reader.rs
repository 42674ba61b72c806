//! Reading a recording: all that is good of it, and what is wrong with the rest.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use thiserror::Error;

use super::{
    Codec, FRAME_LEN, FrameHeader, FrameType, MAGIC, PAYLOAD_LIMIT, PREFIX_LEN, Summary, VERSION, checksum,
};
use crate::info::{Losses, SourceInfo};
use crate::stacks::Stack;

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
    /// It ends or breaks before the header that tells what the events mean.
    #[error("{name} is damaged before its first event ({end}): nothing in it can be used")]
    NoHeader {
        /// The file.
        name: String,
        /// How.
        end: End,
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
    /// A frame is damaged; what follows it is not read.
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

/// One frame, its payload already checked.
#[derive(Debug)]
pub enum Frame<'a> {
    /// A block of wire events.
    Events(&'a [u8]),
    /// What was missing by then.
    Losses(Losses),
    /// The summary.
    Summary(Box<Summary>),
    /// Stacks, numbered on from those before.
    Stacks(Vec<Stack>),
}

/// Reads frames one by one. Memory is bounded by [`PAYLOAD_LIMIT`], whatever the file says.
pub struct RecordReader<R> {
    input: R,
    name: String,
    info: SourceInfo,
    /// Where the next frame starts, in bytes.
    offset: u64,
    payload: Vec<u8>,
    end: Option<End>,
    unknown_frames: u64,
}

impl RecordReader<Box<dyn Read + Send>> {
    /// Opens a file, `-` being standard input.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        if path.as_os_str() == "-" {
            return Self::new(Box::new(io::stdin()), "standard input");
        }
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| ReadError::Io {
            name: name.clone(),
            error,
        })?;
        Self::new(Box::new(file), &name)
    }
}

enum Raw {
    Frame(FrameHeader),
    End(End),
}

impl<R: Read> RecordReader<R> {
    /// Starts to read; `name` is for messages.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn new(mut input: R, name: &str) -> Result<Self, ReadError> {
        let io_error = |error| ReadError::Io {
            name: name.to_owned(),
            error,
        };
        let mut prefix = [0; PREFIX_LEN];
        let len = read_full(&mut input, &mut prefix).map_err(io_error)?;
        if len < PREFIX_LEN || prefix[..8] != MAGIC {
            let is_cut = len < PREFIX_LEN && len > 0 && prefix[..len.min(8)] == MAGIC[..len.min(8)];
            let name = name.to_owned();
            return Err(if is_cut {
                let end = End::Truncated { offset: 0 };
                ReadError::NoHeader { name, end }
            } else {
                ReadError::Foreign { name }
            });
        }
        let version = u32::from_le_bytes([prefix[8], prefix[9], prefix[10], prefix[11]]);
        if version == 0 {
            let name = name.to_owned();
            return Err(ReadError::Foreign { name });
        }
        if version > VERSION {
            return Err(ReadError::Newer {
                name: name.to_owned(),
                found: version,
            });
        }
        let mut reader = Self {
            input,
            name: name.to_owned(),
            info: SourceInfo::default(),
            offset: PREFIX_LEN as u64,
            payload: Vec::new(),
            end: None,
            unknown_frames: 0,
        };
        reader.read_header()?;
        Ok(reader)
    }

    fn read_header(&mut self) -> Result<(), ReadError> {
        let no_header = |reader: &Self, end| ReadError::NoHeader {
            name: reader.name.clone(),
            end,
        };
        let offset = self.offset;
        match self.read_frame()? {
            Raw::End(end) => Err(no_header(self, end)),
            Raw::Frame(header) if header.kind == FrameType::Header as u8 => {
                self.info = serde_json::from_slice(&self.payload).map_err(|error| {
                    let reason = format!("the header cannot be understood: {error}");
                    no_header(self, End::Corrupt { offset, reason })
                })?;
                Ok(())
            }
            Raw::Frame(header) => {
                let reason = format!("a frame of type {} where the header should be", header.kind);
                Err(no_header(self, End::Corrupt { offset, reason }))
            }
        }
    }

    /// What is known of the events.
    pub fn info(&self) -> &SourceInfo {
        &self.info
    }

    /// How the recording ends, once [`Self::next_frame`] gave `None`.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Frames of types that this version does not know.
    pub fn unknown_frames(&self) -> u64 {
        self.unknown_frames
    }

    /// Where the next frame starts, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes on from where a frame starts, which `input` stands at.
    pub fn resume(&mut self, input: R, offset: u64) {
        self.input = input;
        self.offset = offset;
        self.end = None;
    }

    /// Name of the file, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next frame; `None` at the end, whose kind [`Self::end`] tells.
    ///
    /// # Errors
    /// If the file cannot be read. Damage is no error here, but an [`End`].
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, ReadError> {
        loop {
            if self.end.is_some() {
                return Ok(None);
            }
            let offset = self.offset;
            let header = match self.read_frame()? {
                Raw::Frame(header) => header,
                Raw::End(end) => {
                    self.end = Some(end);
                    return Ok(None);
                }
            };
            let corrupt = |error: serde_json::Error| End::Corrupt {
                offset,
                reason: error.to_string(),
            };
            match header.kind {
                kind if kind == FrameType::Events as u8 => return Ok(Some(Frame::Events(&self.payload))),
                kind if kind == FrameType::Losses as u8 => match serde_json::from_slice(&self.payload) {
                    Ok(losses) => return Ok(Some(Frame::Losses(losses))),
                    Err(error) => self.end = Some(corrupt(error)),
                },
                kind if kind == FrameType::Stacks as u8 => match serde_json::from_slice(&self.payload) {
                    Ok(stacks) => return Ok(Some(Frame::Stacks(stacks))),
                    Err(error) => self.end = Some(corrupt(error)),
                },
                kind if kind == FrameType::Summary as u8 => match serde_json::from_slice(&self.payload) {
                    Ok(summary) => {
                        self.end = Some(End::Clean);
                        return Ok(Some(Frame::Summary(summary)));
                    }
                    Err(error) => self.end = Some(corrupt(error)),
                },
                _ => self.unknown_frames += 1,
            }
        }
    }

    fn read_frame(&mut self) -> Result<Raw, ReadError> {
        let offset = self.offset;
        let mut bytes = [0; FRAME_LEN];
        let len = self.fill(&mut bytes)?;
        if len == 0 {
            return Ok(Raw::End(End::Unfinished { offset }));
        }
        let corrupt = |reason: String| Ok(Raw::End(End::Corrupt { offset, reason }));
        if len < FRAME_LEN {
            let known = len.min(super::FRAME_MAGIC.len());
            if bytes[..known] != super::FRAME_MAGIC[..known] {
                return corrupt("no frame starts here".into());
            }
            return Ok(Raw::End(End::Truncated { offset }));
        }
        let Some(header) = FrameHeader::decode(&bytes) else {
            return corrupt("no frame starts here".into());
        };
        if header.stored_len > PAYLOAD_LIMIT || header.raw_len > PAYLOAD_LIMIT {
            return corrupt(format!("impossible length {}", header.stored_len));
        }
        // Read in the measure in which it is there, so that a wrong length cannot claim memory.
        self.payload.clear();
        let wanted = u64::from(header.stored_len);
        let got = (&mut self.input)
            .take(wanted)
            .read_to_end(&mut self.payload)
            .map_err(|error| self.io_error(error))?;
        if (got as u64) < wanted {
            return Ok(Raw::End(End::Truncated { offset }));
        }
        let found = checksum(&bytes, &self.payload);
        if found != header.crc {
            return corrupt(format!("checksum {found:08x} instead of {:08x}", header.crc));
        }
        if header.codec != Codec::Raw as u8 {
            return corrupt(format!(
                "unknown compression {}: use a newer tracer",
                header.codec
            ));
        }
        self.offset += FRAME_LEN as u64 + wanted;
        Ok(Raw::Frame(header))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, ReadError> {
        read_full(&mut self.input, bytes).map_err(|error| self.io_error(error))
    }

    fn io_error(&self, error: io::Error) -> ReadError {
        ReadError::Io {
            name: self.name.clone(),
            error,
        }
    }
}

/// Fills `bytes` as far as there is input.
fn read_full(input: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < bytes.len() {
        match input.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}
