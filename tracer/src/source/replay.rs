//! A recording as a source.

use std::path::Path;
use std::time::Duration;

use tracer_common::wire::{Event, Header, Kind, header};

use super::{Poll, Source};
use crate::info::{Losses, SourceInfo};
use crate::order;
use crate::recording::{Damage, End, Frame, Item, ReadError, RecordReader, Summary};
use crate::stacks::Stacks;

/// A place between two blocks of a recording.
#[derive(Clone, Debug)]
pub struct Place {
    offset: u64,
    losses: Losses,
    unknown_kinds: u64,
    latest_ns: u64,
}

/// Events of a recording, as fast as they can be read.
///
/// Events of kinds that this version does not know are handed over as placeholders, so that
/// [`crate::order::Order`] does not take their numbers for lost; it counts them and passes none on. What a
/// reader that recovers had to leave out is handed over as a gap, see [`gap`].
pub struct Replay {
    reader: RecordReader,
    losses: Losses,
    summary: Option<Summary>,
    unknown_kinds: u64,
    stopped: bool,
    damage: Option<String>,
    damages: Vec<Damage>,
    latest_ns: u64,
}

/// Most damages that are kept to be told one by one.
const DAMAGES: usize = 1_000;

impl Place {
    /// In bytes from the start of the file.
    pub fn position(&self) -> u64 {
        self.offset
    }
}

impl Replay {
    /// Opens a recording, `-` being standard input.
    ///
    /// # Errors
    /// If it cannot be read, is none, or is from a newer version.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        Ok(Self::new(RecordReader::open(path)?))
    }

    /// Opens a recording; with `recover`, damage in it is skipped.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as(path: &Path, recover: bool) -> Result<Self, ReadError> {
        Ok(Self::new(RecordReader::open_as(path, recover)?))
    }

    /// Takes a recording that has been opened.
    pub fn new(reader: RecordReader) -> Self {
        Self {
            reader,
            losses: Losses::default(),
            summary: None,
            unknown_kinds: 0,
            stopped: false,
            damage: None,
            damages: Vec::new(),
            latest_ns: 0,
        }
    }

    /// Name of the file, for messages.
    pub fn name(&self) -> &str {
        self.reader.name()
    }

    /// Length of the file in bytes; `None` if it is a pipe.
    pub fn len(&self) -> Option<u64> {
        self.reader.len()
    }

    /// Whether there is nothing in it: never, since it has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The recording itself: its index, how far it was read.
    pub fn reader(&mut self) -> &mut RecordReader {
        &mut self.reader
    }

    /// Goes to the block with the first event at `ts_ns` or later; see [`RecordReader::seek`]. What follows needs an
    /// [`order::Order`] of its own, made with [`order::Order::midway`].
    ///
    /// # Errors
    /// If the recording is a pipe, or cannot be read.
    pub fn seek(&mut self, ts_ns: u64) -> Result<(), ReadError> {
        self.reader.seek(ts_ns)?;
        self.stopped = false;
        self.damage = None;
        self.latest_ns = 0;
        Ok(())
    }

    /// Where the next block begins, in bytes from the start of the file.
    pub fn position(&self) -> u64 {
        self.reader.position()
    }

    /// Where the next block begins, with what was known by then.
    pub fn place(&self) -> Place {
        Place {
            offset: self.reader.position(),
            losses: self.losses.clone(),
            unknown_kinds: self.unknown_kinds,
            latest_ns: self.latest_ns,
        }
    }

    /// Goes on from a place.
    ///
    /// # Errors
    /// If the recording is no file, or cannot be read any more.
    pub fn go_to(&mut self, place: &Place) -> anyhow::Result<()> {
        self.reader.resume(place.offset)?;
        self.losses.clone_from(&place.losses);
        self.unknown_kinds = place.unknown_kinds;
        self.latest_ns = place.latest_ns;
        self.summary = None;
        self.damage = None;
        self.stopped = false;
        Ok(())
    }

    /// What is wrong with the recording, in a sentence; known at its end.
    pub fn warning(&self) -> Option<String> {
        let name = self.reader.name();
        let lost = match self.damages.as_slice() {
            [] => String::new(),
            [first, rest @ ..] => {
                let bytes: u64 = self.damages.iter().map(|damage| damage.len).sum();
                let more = match rest.len() {
                    0 => String::new(),
                    more => format!(", and in {more} more places"),
                };
                let Damage { offset, reason, .. } = first;
                format!("{bytes} bytes could not be read at offset {offset} ({reason}){more}; ")
            }
        };
        let end = match (&self.damage, self.reader.end()) {
            (Some(damage), _) => Some(format!("{damage}; what comes before is good")),
            (None, Some(End::Clean) | None) => None,
            (None, Some(end)) => Some(format!("{end}; what comes before is good")),
        };
        match (lost.is_empty(), end) {
            (_, Some(end)) => Some(format!("{name}: {lost}{end}")),
            (false, None) => Some(format!("{name}: {lost}the rest is good")),
            (true, None) => (self.unknown_kinds > 0).then(|| {
                let count = self.unknown_kinds;
                format!("{name}: {count} events of kinds that this version does not know were skipped")
            }),
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

    /// What could not be read so far; the first thousand of it.
    pub fn damages(&self) -> &[Damage] {
        &self.damages
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
            Some(Frame::Summary(summary)) => {
                self.losses = summary.losses.clone();
                self.summary = Some(*summary);
            }
            Some(Frame::Clock(_) | Frame::Stacks) => {}
            Some(Frame::Damage(damage)) => {
                sink(&gap(&damage));
                if self.damages.len() < DAMAGES {
                    self.damages.push(damage);
                }
            }
            Some(Frame::Events(block)) => {
                let entry = *block.entry();
                let (latest_ns, unknown_kinds) = (&mut self.latest_ns, &mut self.unknown_kinds);
                let result = block.read(|item| match item {
                    Item::Event(event) => {
                        *latest_ns = (*latest_ns).max(event.header.ts_ns);
                        sink(event);
                    }
                    Item::Unknown(bytes) => {
                        *unknown_kinds += 1;
                        let event = order::placeholder(header(bytes).unwrap_or(NO_HEADER));
                        *latest_ns = (*latest_ns).max(event.header.ts_ns);
                        sink(&event);
                    }
                });
                if let Err(error) = result {
                    let offset = entry.offset;
                    if self.reader.recovers() {
                        let damage = Damage {
                            offset,
                            len: entry.len,
                            reason: error.to_string(),
                            before_ns: *latest_ns,
                            after_ns: 0,
                        };
                        sink(&gap(&damage));
                        self.damages.push(damage);
                    } else {
                        self.damage = Some(format!("corrupt at offset {offset}: {error}"));
                    }
                }
            }
        }
        Ok(Poll::More {
            // The file is in the order of time already.
            watermark_ns: self.latest_ns,
        })
    }

    fn stop(&mut self) {
        self.stopped = true;
    }

    fn far(&self) -> Option<(u64, u64)> {
        Some((self.reader.position(), self.reader.len()?))
    }

    fn stacks(&self) -> &Stacks {
        self.reader.stacks()
    }

    fn losses(&mut self) -> anyhow::Result<Losses> {
        Ok(self.losses.clone())
    }
}

/// Readers hand over no event without a whole header.
const NO_HEADER: Header = Event::synthetic(Kind::Gap, 0).header;

/// The gap that stands for a damaged part of a recording. How many events it had is not known (`arg` is 0): what is
/// missing by the numbering of each CPU shows as gaps of their own. `vma` has its offset in the file, `mm` its length in
/// bytes, `vm_start` and `vm_end` have the times around it, as in any gap. No flag is set: none is an address.
pub fn gap(damage: &Damage) -> Event {
    let mut event = Event::synthetic(Kind::Gap, damage.before_ns);
    event.body.vma = damage.offset;
    event.body.mm = damage.len;
    event.body.vm_start = damage.before_ns;
    event.body.vm_end = damage.after_ns;
    event
}
