//! Reading a recording: all that is good of it, and what is wrong with the rest.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tracer_common::wire::{DecodeError, decode};

use super::Summary;
use super::columns::{BlockError, Decoder, Item};
use super::error::{Damage, End, ReadError};
use super::frame::{
    BYTE_ORDER, Codec, FRAME_LEN, FRAME_MAGIC, FrameHeader, FrameType, MAGIC, PREFIX_LEN, VERSION, checksum,
};
use super::index::{Entry, Index};
use super::input::{Input, Source};
use crate::info::{Anchor, Losses, SourceInfo};
use crate::outside;
use crate::stacks::{Stack, Stacks};

/// Most bytes of stacks, as JSON, that are kept: damage cannot claim more.
const STACKS_LIMIT: usize = 64 << 20;

/// One frame, its payload already checked.
pub enum Frame<'a> {
    /// A block of events.
    Events(Block<'a>),
    /// What was missing by then.
    Losses(Losses),
    /// What the clocks said.
    Clock(Anchor),
    /// More stacks, which are in [`RecordReader::stacks`] now.
    Stacks,
    /// The summary.
    Summary(Box<Summary>),
    /// A part that could not be read, in a reader that was asked to recover.
    Damage(Damage),
}

/// A block of events.
pub struct Block<'a> {
    entry: Entry,
    bytes: &'a [u8],
    /// `None`: wire events one after the other.
    decoder: Option<&'a mut Decoder>,
}

impl Block<'_> {
    /// Where it is, how many events it has, and of which time they are.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Hands over its events.
    ///
    /// # Errors
    /// If what came through its checksum is still no block; the events before the damage have been handed over then.
    pub fn read(self, mut sink: impl FnMut(Item<'_>)) -> Result<(), BlockError> {
        match self.decoder {
            Some(decoder) => decoder.read(self.bytes, self.entry.count, &mut sink),
            None => read_wire(self.bytes, self.entry.count, sink),
        }
    }
}

/// Events of version 1: as they came from the kernel.
fn read_wire(mut rest: &[u8], count: u32, mut sink: impl FnMut(Item<'_>)) -> Result<(), BlockError> {
    let mut found = 0u32;
    while !rest.is_empty() {
        match decode(rest) {
            Ok((event, len)) => {
                sink(Item::Event(&event));
                rest = &rest[len..];
            }
            Err(DecodeError::Kind { len, .. }) if usize::from(len) <= rest.len() => {
                let (event, after) = rest.split_at(usize::from(len));
                sink(Item::Unknown(event));
                rest = after;
            }
            Err(error) => return Err(BlockError::Wire(error)),
        }
        found += 1;
    }
    if found == count {
        Ok(())
    } else {
        Err(BlockError::Count)
    }
}

/// A frame of stacks.
#[derive(Deserialize)]
#[serde(untagged)]
enum StacksIn {
    Numbered {
        first: usize,
        stacks: Vec<Stack>,
    },
    /// Version 1: they go on where the frame before ended.
    On(Vec<Stack>),
}

/// Reads frames one by one. Memory is bounded, whatever the file says.
///
/// A regular file can be sought in: [`Self::index`] has all blocks with their times, [`Self::seek`] goes to a time
/// in well under a millisecond, and reading on from there costs a block of at most 16,384 events before the first
/// one that was asked for. To have the engine's state at a time, keep copies of the engine every so often, seek to the
/// last one before it, and replay from there.
pub struct RecordReader {
    input: Input,
    name: String,
    version: u32,
    info: SourceInfo,
    recover: bool,
    /// The frame in the window that was handed out last, in bytes.
    taken: usize,
    /// Unpacked payload.
    raw: Vec<u8>,
    unpacker: zstd::bulk::Decompressor<'static>,
    decoder: Decoder,
    stacks: Stacks,
    stack_bytes: usize,
    /// Frames of stacks before here have been read, in bytes.
    stacks_until: u64,
    latest_ns: u64,
    finished: bool,
    end: Option<End>,
    /// Damage that was met before the first frame, and is yet to be told.
    pending: Option<Damage>,
    unknown_frames: u64,
    index: Option<Index>,
}

enum Step {
    Frame(FrameHeader),
    Damage(Damage),
    End(End),
}

impl RecordReader {
    /// Opens a file, `-` being standard input.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        Self::open_as(path, false)
    }

    /// Opens a file to read whatever can be read of it: damage is skipped, and told as [`Frame::Damage`].
    ///
    /// # Errors
    /// If there is no whole frame in it, or it cannot be read.
    pub fn recover(path: &Path) -> Result<Self, ReadError> {
        Self::open_as(path, true)
    }

    /// One of the two above.
    ///
    /// # Errors
    /// As they have it.
    pub fn open_as(path: &Path, recover: bool) -> Result<Self, ReadError> {
        if path.as_os_str() == "-" {
            return Self::start(Source::Stream(Box::new(io::stdin())), "standard input", recover);
        }
        let name = outside::path(path);
        let io_error = |error| ReadError::Io {
            name: name.clone(),
            error,
        };
        let file = File::open(path).map_err(io_error)?;
        let is_file = file.metadata().map_err(io_error)?.is_file();
        let source = if is_file {
            Source::File(file)
        } else {
            Source::Stream(Box::new(file))
        };
        Self::start(source, &name, recover)
    }

    /// Reads from anywhere; `name` is for messages.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn new(input: Box<dyn Read + Send>, name: &str) -> Result<Self, ReadError> {
        Self::start(Source::Stream(input), name, false)
    }

    /// The same, skipping damage.
    ///
    /// # Errors
    /// As [`Self::recover`].
    pub fn new_recovering(input: Box<dyn Read + Send>, name: &str) -> Result<Self, ReadError> {
        Self::start(Source::Stream(input), name, true)
    }

    fn start(source: Source, name: &str, recover: bool) -> Result<Self, ReadError> {
        let io_error = |error| ReadError::Io {
            name: name.to_owned(),
            error,
        };
        let mut reader = Self {
            input: Input::new(source),
            name: name.to_owned(),
            version: VERSION,
            info: SourceInfo::default(),
            recover,
            taken: 0,
            raw: Vec::new(),
            unpacker: zstd::bulk::Decompressor::new().map_err(io_error)?,
            decoder: Decoder::default(),
            stacks: Stacks::default(),
            stack_bytes: 0,
            stacks_until: 0,
            latest_ns: 0,
            finished: false,
            end: None,
            pending: None,
            unknown_frames: 0,
            index: None,
        };
        match reader.read_prefix() {
            Ok(()) => {}
            // Frames say what they are, each by itself.
            Err(error) => {
                if !recover || !reader.holds_a_frame(&error)? {
                    return Err(error);
                }
            }
        }
        reader.read_header()?;
        Ok(reader)
    }

    fn read_prefix(&mut self) -> Result<(), ReadError> {
        let name = self.name.clone();
        let len = self.input.want(PREFIX_LEN).map_err(|error| ReadError::Io {
            name: name.clone(),
            error,
        })?;
        let prefix = self.input.window();
        if len < PREFIX_LEN {
            let is_cut = len > 0 && prefix[..len.min(8)] == MAGIC[..len.min(8)];
            return Err(if is_cut {
                let end = End::Truncated { offset: 0 };
                ReadError::NoHeader { name, end }
            } else {
                ReadError::Foreign { name }
            });
        }
        let u32_at =
            |at: usize| u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]]);
        let (version, order) = (u32_at(8), u32_at(12));
        if prefix[..8] != MAGIC || version == 0 {
            return Err(ReadError::Foreign { name });
        }
        if order == BYTE_ORDER.swap_bytes() || version > VERSION && version.swap_bytes() <= VERSION {
            return Err(ReadError::Endian { name });
        }
        if version > VERSION {
            return Err(ReadError::Newer { name, found: version });
        }
        if version >= 2 && order != BYTE_ORDER {
            let reason = "the mark of the order of bytes is none".to_owned();
            let end = End::Corrupt { offset: 12, reason };
            return Err(ReadError::NoHeader { name, end });
        }
        self.version = version;
        self.taken = PREFIX_LEN;
        Ok(())
    }

    /// Whether there is a whole frame anywhere ahead; what is before it is skipped then.
    fn holds_a_frame(&mut self, why: &ReadError) -> Result<bool, ReadError> {
        let Some(header) = self.search()? else {
            return Ok(false);
        };
        self.version = u32::from(header.version);
        self.pending = Some(Damage {
            offset: 0,
            len: self.input.offset(),
            reason: why.to_string(),
            before_ns: 0,
            after_ns: header.first_ns,
        });
        Ok(true)
    }

    fn read_header(&mut self) -> Result<(), ReadError> {
        let offset = self.position();
        let mut damage = Damage {
            offset,
            len: 0,
            reason: String::new(),
            before_ns: 0,
            after_ns: 0,
        };
        // Where events may follow, should the header be unreadable.
        let resume;
        match self.step()? {
            Step::Frame(header) if header.kind == FrameType::Header as u8 => match self.json() {
                Ok(info) => {
                    self.info = info;
                    self.info.format_version = self.version;
                    return Ok(());
                }
                Err(error) => {
                    resume = self.position();
                    damage.len = header.frame_len();
                    damage.reason = format!("the header cannot be understood: {error}");
                }
            },
            Step::Frame(header) => {
                resume = offset;
                damage.reason = format!("a frame of type {} where the header should be", header.kind);
            }
            Step::Damage(found) => {
                resume = self.position();
                damage = found;
            }
            Step::End(end) => {
                return Err(ReadError::NoHeader {
                    name: self.name.clone(),
                    end,
                });
            }
        }
        if !self.recover {
            return Err(ReadError::NoHeader {
                name: self.name.clone(),
                end: End::Corrupt {
                    offset,
                    reason: damage.reason,
                },
            });
        }
        // A copy stands near the end, if the recording got there. A pipe cannot be asked for it.
        let is_found = self.go_to(resume)? && self.find_header()?;
        if !is_found {
            log::warn!(
                "{}: what it says of the kernel and of its probes is lost ({}); events are read without it",
                self.name,
                damage.reason
            );
        }
        self.info.format_version = self.version;
        self.pending.get_or_insert(damage);
        if !self.go_to(resume)? && resume == offset {
            // A frame that is no header was taken for one: it is the next.
            self.taken = 0;
        }
        Ok(())
    }

    fn find_header(&mut self) -> Result<bool, ReadError> {
        loop {
            match self.step()? {
                Step::Frame(header) if header.kind == FrameType::Header as u8 => {
                    if let Ok(info) = self.json() {
                        self.info = info;
                        return Ok(true);
                    }
                }
                Step::Frame(_) | Step::Damage(_) => {}
                Step::End(_) => return Ok(false),
            }
        }
    }

    /// What is known of the events.
    pub fn info(&self) -> &SourceInfo {
        &self.info
    }

    /// Version of the format that the file has.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// How the recording ends, once [`Self::next_frame`] gave `None`.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Frames of types that this version does not know.
    pub fn unknown_frames(&self) -> u64 {
        self.unknown_frames
    }

    /// Name of the file, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The stacks that the events so far have numbers of.
    pub fn stacks(&self) -> &Stacks {
        &self.stacks
    }

    /// Where the next frame starts, in bytes.
    pub fn position(&self) -> u64 {
        self.input.offset() + self.taken as u64
    }

    /// Length of the file in bytes; `None` if it is a pipe.
    pub fn len(&self) -> Option<u64> {
        self.input
            .file()
            .and_then(|file| file.metadata().ok())
            .map(|meta| meta.len())
    }

    /// Whether there is nothing in it: never, since it has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// All frames with their places and times: the index of the file, or if it has none (its recorder was killed, it is
    /// of version 1) one made from the headers of its frames, up to the first damage.
    ///
    /// # Errors
    /// [`ReadError::NotSeekable`] if it is a pipe, or if it cannot be read.
    pub fn index(&mut self) -> Result<&Index, ReadError> {
        let index = match self.index.take() {
            Some(index) => index,
            None => self.load_index()?,
        };
        Ok(self.index.insert(index))
    }

    fn load_index(&self) -> Result<Index, ReadError> {
        let Some(file) = self.input.file() else {
            return Err(ReadError::NotSeekable {
                name: self.name.clone(),
            });
        };
        Index::of(file).map_err(|error| self.io_error(error))
    }

    /// Goes to the block in which the first event at `ts_ns` (`CLOCK_MONOTONIC`) or later is, back or forth: the next
    /// frame is that block, or the frame after the last block. Events of that block before `ts_ns` come first. All
    /// stacks that its events name are known afterwards.
    ///
    /// # Errors
    /// As [`Self::index`].
    pub fn seek(&mut self, ts_ns: u64) -> Result<(), ReadError> {
        let known_until = self.stacks_until;
        let index = self.index()?;
        let last_end = index
            .blocks()
            .last()
            .map_or(PREFIX_LEN as u64, |b| b.offset + b.len);
        let offset = index.find(ts_ns).map_or(last_end, |entry| entry.offset);
        let unread = known_until..offset;
        let stacks: Vec<u64> = index
            .entries()
            .iter()
            .filter(|entry| entry.kind == FrameType::Stacks as u8 && unread.contains(&entry.offset))
            .map(|entry| entry.offset)
            .collect();
        for at in stacks {
            self.go_to(at)?;
            if let Step::Frame(header) = self.step()? {
                // What is wrong with it is told when it is read in its turn.
                drop(self.take_stacks(at, &header));
            }
        }
        self.go_to(offset)?;
        self.pending = None;
        Ok(())
    }

    /// Goes on from where a frame starts, as [`Self::position`] had it.
    ///
    /// # Errors
    /// As [`Self::index`].
    pub fn resume(&mut self, offset: u64) -> Result<(), ReadError> {
        if self.go_to(offset)? {
            Ok(())
        } else {
            Err(ReadError::NotSeekable {
                name: self.name.clone(),
            })
        }
    }

    /// `false` if that cannot be done here.
    fn go_to(&mut self, offset: u64) -> Result<bool, ReadError> {
        if !self.input.seek(offset).map_err(|error| self.io_error(error))? {
            return Ok(false);
        }
        self.taken = 0;
        self.finished = false;
        self.end = None;
        self.latest_ns = 0;
        Ok(true)
    }

    /// The next frame; `None` at the end, whose kind [`Self::end`] tells.
    ///
    /// # Errors
    /// If the file cannot be read. Damage is no error here, but an [`End`].
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, ReadError> {
        if let Some(damage) = self.pending.take() {
            return Ok(Some(Frame::Damage(damage)));
        }
        loop {
            if self.end.is_some() {
                return Ok(None);
            }
            let offset = self.position();
            let header = match self.step()? {
                Step::Frame(header) => header,
                Step::Damage(damage) => return Ok(Some(Frame::Damage(damage))),
                Step::End(end) => {
                    self.end = Some(end);
                    return Ok(None);
                }
            };
            let reason = match FrameType::from_number(header.kind) {
                Some(FrameType::Events | FrameType::Columns) => {
                    self.latest_ns = self.latest_ns.max(header.last_ns);
                    let is_wire = header.kind == FrameType::Events as u8;
                    return Ok(Some(Frame::Events(Block {
                        entry: Entry::new(offset, &header),
                        bytes: &self.raw,
                        decoder: (!is_wire).then_some(&mut self.decoder),
                    })));
                }
                Some(FrameType::Losses) => match self.json() {
                    Ok(losses) => return Ok(Some(Frame::Losses(losses))),
                    Err(reason) => reason,
                },
                Some(FrameType::Clock) => match self.json() {
                    Ok(anchor) => return Ok(Some(Frame::Clock(anchor))),
                    Err(reason) => reason,
                },
                Some(FrameType::Stacks) => match self.take_stacks(offset, &header) {
                    Ok(()) => return Ok(Some(Frame::Stacks)),
                    Err(reason) => reason,
                },
                Some(FrameType::Summary) => match self.json() {
                    Ok(summary) => {
                        self.summarised();
                        return Ok(Some(Frame::Summary(summary)));
                    }
                    Err(reason) => reason,
                },
                Some(FrameType::End) => {
                    self.finished = true;
                    continue;
                }
                Some(FrameType::Header | FrameType::Index) => continue,
                None => {
                    self.unknown_frames += 1;
                    continue;
                }
            };
            if self.recover {
                return Ok(Some(Frame::Damage(Damage {
                    offset,
                    len: header.frame_len(),
                    reason,
                    before_ns: self.latest_ns,
                    after_ns: 0,
                })));
            }
            self.end = Some(End::Corrupt { offset, reason });
        }
    }

    fn summarised(&mut self) {
        // In version 1 nothing follows.
        if self.version == 1 {
            self.end = Some(End::Clean);
        }
    }

    /// Whether damage is skipped.
    pub fn recovers(&self) -> bool {
        self.recover
    }

    fn json<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_slice(&self.raw).map_err(|error| error.to_string())
    }

    fn take_stacks(&mut self, offset: u64, header: &FrameHeader) -> Result<(), String> {
        if offset < self.stacks_until {
            // Read before, by a seek.
            return Ok(());
        }
        self.stacks_until = offset + header.frame_len();
        let known = self.stacks.len();
        let (first, stacks) = match self.json()? {
            StacksIn::Numbered { first, stacks } => (first, stacks),
            StacksIn::On(stacks) => (known + 1, stacks),
        };
        if first <= known {
            return Err(format!("stacks from {first} on, which are known up to {known}"));
        }
        // A hole in the numbers is what damage leaves; it is filled, but not at any price.
        self.stack_bytes += self.raw.len() + first.saturating_sub(known).saturating_mul(size_of::<Stack>());
        if self.stack_bytes > STACKS_LIMIT {
            return Err(format!("more stacks than a recording may have ({first})"));
        }
        while self.stacks.len() + 1 < first {
            self.stacks.push(Stack::default());
        }
        for stack in stacks {
            self.stacks.push(stack);
        }
        Ok(())
    }

    /// Reads the next frame, and unpacks its payload.
    fn step(&mut self) -> Result<Step, ReadError> {
        self.input.skip(self.taken);
        self.taken = 0;
        let offset = self.input.offset();
        let end = match self.frame()? {
            Ok(header) => return Ok(Step::Frame(header)),
            Err(end) => end,
        };
        let reason = match &end {
            End::Clean | End::Unfinished { .. } => return Ok(Step::End(end)),
            _ if !self.recover => return Ok(Step::End(end)),
            End::Truncated { .. } => "the recording ends within a frame, or a length is damaged".to_owned(),
            End::Corrupt { reason, .. } => reason.clone(),
        };
        let before_ns = self.latest_ns;
        self.input.skip(1);
        let found = self.search()?;
        Ok(match found {
            Some(header) => Step::Damage(Damage {
                offset,
                len: self.input.offset() - offset,
                reason,
                before_ns,
                after_ns: header.first_ns,
            }),
            None => Step::End(end),
        })
    }

    /// Moves the window to the next whole frame; `None` if there is none, and then the window is at the end.
    fn search(&mut self) -> Result<Option<FrameHeader>, ReadError> {
        loop {
            let len = self.want(FRAME_LEN)?;
            let window = self.input.window();
            match memchr::memmem::find(window, &FRAME_MAGIC) {
                Some(0) if len == FRAME_LEN => {
                    if let Ok(header) = self.frame()? {
                        self.taken = 0;
                        return Ok(Some(header));
                    }
                    self.input.skip(1);
                }
                Some(0) | None if len < FRAME_LEN => {
                    self.input.skip(len);
                    return Ok(None);
                }
                Some(at) => self.input.skip(at),
                None => {
                    let keep = FRAME_MAGIC.len() - 1;
                    let skipped = window.len() - keep;
                    self.input.skip(skipped);
                }
            }
        }
    }

    /// Looks at the frame at the start of the window.
    fn frame(&mut self) -> Result<Result<FrameHeader, End>, ReadError> {
        let offset = self.input.offset();
        let len = self.want(FRAME_LEN)?;
        let window = self.input.window();
        if len == 0 {
            return Ok(Err(if self.finished {
                End::Clean
            } else {
                End::Unfinished { offset }
            }));
        }
        let corrupt = |reason: String| Ok(Err(End::Corrupt { offset, reason }));
        if len < FRAME_LEN {
            let known = len.min(FRAME_MAGIC.len());
            if window[..known] != FRAME_MAGIC[..known] {
                return corrupt("no frame starts here".into());
            }
            return Ok(Err(End::Truncated { offset }));
        }
        let mut bytes = [0; FRAME_LEN];
        bytes.copy_from_slice(&window[..FRAME_LEN]);
        let Some(header) = FrameHeader::decode(&bytes) else {
            return corrupt("no frame starts here".into());
        };
        if let Some(impossible) = header.impossible() {
            return corrupt(impossible);
        }
        let frame_len = FRAME_LEN + header.stored_len as usize;
        if self.want(frame_len)? < frame_len {
            return Ok(Err(End::Truncated { offset }));
        }
        let payload = &self.input.window()[FRAME_LEN..frame_len];
        let found = checksum(&bytes, payload);
        if found != header.crc {
            return corrupt(format!("checksum {found:08x} instead of {:08x}", header.crc));
        }
        if let Err(reason) = unpack(&mut self.unpacker, &header, payload, &mut self.raw) {
            return corrupt(reason);
        }
        self.taken = frame_len;
        Ok(Ok(header))
    }

    fn want(&mut self, len: usize) -> Result<usize, ReadError> {
        self.input.want(len).map_err(|error| ReadError::Io {
            name: self.name.clone(),
            error,
        })
    }

    fn io_error(&self, error: io::Error) -> ReadError {
        ReadError::Io {
            name: self.name.clone(),
            error,
        }
    }
}

/// Unpacks a payload whose header was found possible.
fn unpack(
    unpacker: &mut zstd::bulk::Decompressor<'_>,
    header: &FrameHeader,
    stored: &[u8],
    raw: &mut Vec<u8>,
) -> Result<(), String> {
    let raw_len = header.raw_len as usize;
    raw.clear();
    if header.codec == Codec::Raw as u8 {
        raw.extend_from_slice(stored);
    } else if header.codec == Codec::Zstd as u8 {
        // One byte more, so that what is too long shows.
        raw.reserve(raw_len + 1);
        unpacker
            .decompress_to_buffer(stored, raw)
            .map_err(|error| format!("its compression is damaged: {error}"))?;
    } else {
        return Err(format!(
            "unknown compression {}: use a newer tracer",
            header.codec
        ));
    }
    if raw.len() == raw_len {
        Ok(())
    } else {
        Err(format!("{} bytes unpacked instead of {raw_len}", raw.len()))
    }
}
