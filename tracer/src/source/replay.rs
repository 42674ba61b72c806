//! A recording as a source.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use tracer_common::wire::{ABI, DecodeError, Event, Header, MAX_EVENT, decode};

use super::{Poll, Source};
use crate::info::{Losses, SourceInfo};
use crate::order;
use crate::recording::{End, Frame, ReadError, RecordReader, Summary};
use crate::stacks::Stacks;

/// Events of a recording, as fast as they can be read.
///
/// Events of kinds that this version does not know are handed over as placeholders, so that
/// [`crate::order::Order`] does not take their numbers for lost; it counts them and passes none on.
pub struct Replay {
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
        Ok(Self::new(RecordReader::open(path)?))
    }

    /// Takes a recording that has been opened.
    pub fn new(reader: RecordReader<Box<dyn Read + Send>>) -> Self {
        Self {
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
