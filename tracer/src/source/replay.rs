//! A recording as a source.

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tracer_common::wire::{ABI, DecodeError, Event, Header, MAX_EVENT, decode};

use super::{Poll, Source};
use crate::info::{Losses, SourceInfo};
use crate::order;
use crate::recording::{End, Frame, ReadError, RecordReader, Summary};
use crate::stacks::Stacks;

/// A place between two blocks of a recording.
#[derive(Clone, Debug)]
pub struct Place {
    offset: u64,
    losses: Losses,
    stacks: usize,
    unknown_kinds: u64,
    latest_ns: u64,
}

/// Events of a recording, as fast as they can be read.
///
/// Events of kinds that this version does not know are handed over as placeholders, so that
/// [`crate::order::Order`] does not take their numbers for lost; it counts them and passes none on.
pub struct Replay {
    /// The file, if it can be opened again.
    path: Option<PathBuf>,
    reader: RecordReader<Box<dyn Read + Send>>,
    losses: Losses,
    summary: Option<Summary>,
    unknown_kinds: u64,
    stopped: bool,
    damage: Option<String>,
    latest_ns: u64,
    stacks: Stacks,
}

impl Replay {
    /// Opens a recording, `-` being standard input.
    ///
    /// # Errors
    /// If it cannot be read, is none, or is from a newer version.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let mut replay = Self::new(RecordReader::open(path)?);
        replay.path = (path.as_os_str() != "-").then(|| path.to_path_buf());
        Ok(replay)
    }

    /// Takes a recording that has been opened.
    pub fn new(reader: RecordReader<Box<dyn Read + Send>>) -> Self {
        Self {
            path: None,
            reader,
            losses: Losses::default(),
            summary: None,
            unknown_kinds: 0,
            stopped: false,
            damage: None,
            latest_ns: 0,
            stacks: Stacks::default(),
        }
    }

    /// What is wrong with the recording, in a sentence; known at its end.
    pub fn warning(&self) -> Option<String> {
        let name = self.reader.name();
        if let Some(damage) = &self.damage {
            return Some(format!("{name}: {damage}; what comes before is good"));
        }
        match self.reader.end() {
            Some(End::Clean) | None => (self.unknown_kinds > 0).then(|| {
                let count = self.unknown_kinds;
                format!("{name}: {count} events of kinds that this version does not know were skipped")
            }),
            Some(end) => Some(format!("{name}: {end}; what comes before is good")),
        }
    }

    /// Where the next block begins, with what was known by then.
    pub fn place(&self) -> Place {
        Place {
            offset: self.reader.offset(),
            losses: self.losses.clone(),
            stacks: self.stacks.len(),
            unknown_kinds: self.unknown_kinds,
            latest_ns: self.latest_ns,
        }
    }

    /// Goes on from a place.
    ///
    /// # Errors
    /// If the recording is no file, or cannot be read any more.
    pub fn go_to(&mut self, place: &Place) -> anyhow::Result<()> {
        let path = self.path.as_deref().context("a pipe cannot be gone back in")?;
        let again = || format!("cannot read the recording {} again", path.display());
        let mut file = File::open(path).with_context(again)?;
        file.seek(SeekFrom::Start(place.offset)).with_context(again)?;
        self.reader.resume(Box::new(file), place.offset);
        self.losses.clone_from(&place.losses);
        self.stacks.truncate(place.stacks);
        self.unknown_kinds = place.unknown_kinds;
        self.latest_ns = place.latest_ns;
        self.summary = None;
        self.damage = None;
        self.stopped = false;
        Ok(())
    }

    /// How the recording ends, once it was read to there.
    pub fn end(&self) -> Option<&End> {
        self.reader.end()
    }

    /// The summary, if the recording was ended on purpose and read to there.
    pub fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }

    /// Events of kinds that this version does not know.
    pub fn unknown_kinds(&self) -> u64 {
        self.unknown_kinds
    }
}

impl Source for Replay {
    fn info(&self) -> &SourceInfo {
        self.reader.info()
    }

    fn poll(&mut self, _wait: Duration, sink: &mut dyn FnMut(&Event)) -> anyhow::Result<Poll> {
        if self.stopped || self.damage.is_some() {
            return Ok(Poll::End);
        }
        match self.reader.next_frame()? {
            None => return Ok(Poll::End),
            Some(Frame::Losses(losses)) => self.losses = losses,
            Some(Frame::Stacks(stacks)) => {
                for stack in stacks {
                    self.stacks.push(stack);
                }
            }
            Some(Frame::Summary(summary)) => {
                self.losses = summary.losses.clone();
                self.summary = Some(*summary);
            }
            Some(Frame::Events(bytes)) => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let (event, len) = match decode(rest) {
                        Ok(found) => found,
                        Err(DecodeError::Kind { len, .. }) if usize::from(len) <= rest.len() => {
                            self.unknown_kinds += 1;
                            (order::placeholder(header_of(rest)), usize::from(len))
                        }
                        Err(error) => {
                            self.damage =
                                Some(format!("a block holds no event where one should be: {error}"));
                            break;
                        }
                    };
                    self.latest_ns = self.latest_ns.max(event.header.ts_ns);
                    sink(&event);
                    rest = &rest[len..];
                }
            }
        }
        Ok(Poll::More {
            // The file is in the order of time already.
            watermark_ns: self.latest_ns,
        })
    }

    fn stacks(&self) -> &Stacks {
        &self.stacks
    }

    fn stop(&mut self) {
        self.stopped = true;
    }

    fn losses(&mut self) -> anyhow::Result<Losses> {
        Ok(self.losses.clone())
    }
}

/// The header of an event whose kind is unknown: the decoder has found it whole, and its layout is
/// the same for all kinds.
fn header_of(bytes: &[u8]) -> Header {
    let mut known = [0; MAX_EVENT];
    let len = bytes.len().min(MAX_EVENT);
    known[..len].copy_from_slice(&bytes[..len]);
    let number = known[1];
    // Any known kind will do to have the header read.
    known[0] = ABI;
    known[1] = tracer_common::wire::Kind::Gap as u8;
    let wire_len = tracer_common::wire::Kind::Gap.wire_len();
    known[2..4].copy_from_slice(&wire_len.to_le_bytes());
    match decode(&known) {
        Ok((event, _)) => Header {
            kind: number,
            ..event.header
        },
        Err(_) => Event::synthetic(tracer_common::wire::Kind::Gap, 0).header,
    }
}
