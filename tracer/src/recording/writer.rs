//! Writing a recording, frame by whole frame.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;
use tracer_common::wire::{self, Event, Kind};
use zstd::bulk::Compressor;

use super::Summary;
use super::block::MemoryBlock;
use super::columns::Encoder;
use super::frame::{Codec, FRAME_LEN, FrameHeader, FrameType, PAYLOAD_LIMIT, VERSION, checksum, prefix};
use super::index::{Entry, Index};
use super::sync::Syncer;
use crate::clock;
use crate::disk::{self, Target};
use crate::info::{Anchor, Losses, SourceInfo};
use crate::outside;
use crate::stacks::{Stack, Stacks};

/// Events in a block at most. Small enough to be found and read in milliseconds, large enough for zstd to learn.
const BLOCK_EVENTS: u32 = 16 << 10;
/// About the most bytes of a block before compression; more only with events that are kept as bytes.
const BLOCK_BYTES: usize = 512 << 10;
/// zstd's own default. On columns it costs little, since most of them are nearly empty.
const LEVEL: i32 = 3;
/// A block goes out at the latest after this time, so that little is lost by a kill.
const BLOCK_AGE: Duration = Duration::from_secs(1);
/// Clocks drift apart by less than a millisecond in this time, as long as nobody sets them.
const CLOCK_PAUSE: Duration = Duration::from_secs(60);
/// Stacks in a frame at most: even with the longest names they stay below the limit of a frame.
const STACKS_AT_A_TIME: usize = 256;

/// A frame of stacks.
#[derive(Serialize)]
struct StacksOut<'a> {
    first: usize,
    stacks: &'a [Stack],
}

/// Writes one recording. Events are collected in blocks; nothing is allocated for each one.
pub struct RecordWriter {
    target: Target,
    name: String,
    encoder: Encoder,
    compressor: Compressor<'static>,
    /// What goes into a frame before compression, and the frame.
    raw: Vec<u8>,
    frame: Vec<u8>,
    first_ns: u64,
    last_ns: u64,
    block_began: Instant,
    /// Bytes that are in the file, all of them whole frames.
    written: u64,
    failed: bool,
    summary: Summary,
    info: SourceInfo,
    index: Index,
    /// How many stacks are in the file.
    stacks: usize,
    syncer: Option<Syncer>,
    /// When to look at the clocks next; `None`: nobody called [`Self::tick`], so these events are of another time.
    next_clock: Option<Instant>,
}

/// Opens `path` for a recording, `-` being standard output, and writes what comes before the events.
///
/// A new file is readable by its owner only. An existing one is overwritten if it is a regular file of
/// this user; a symbolic link is not followed, since in a folder that others can write to it could
/// point anywhere.
///
/// # Errors
/// If the file cannot be made or written.
pub fn create(path: &Path, info: &SourceInfo) -> anyhow::Result<RecordWriter> {
    if path.as_os_str() == "-" {
        let stdout = io::stdout().as_fd().try_clone_to_owned();
        let file = File::from(stdout.context("cannot write to standard output")?);
        return RecordWriter::new(Target::Stream(file), "standard output".into(), info);
    }
    let name = outside::path(path);
    let target = disk::overwrite(path).with_context(|| format!("cannot write the recording {name}"))?;
    RecordWriter::new(target, name, info)
}

impl RecordWriter {
    fn new(target: Target, name: String, info: &SourceInfo) -> anyhow::Result<Self> {
        let syncer = match &target {
            Target::File(file) => Syncer::start(file),
            Target::Stream(_) => None,
        };
        let mut writer = Self {
            target,
            name,
            encoder: Encoder::new(),
            compressor: Compressor::new(LEVEL).context("cannot set up the compression of a recording")?,
            raw: Vec::new(),
            frame: Vec::new(),
            first_ns: 0,
            last_ns: 0,
            block_began: Instant::now(),
            written: 0,
            failed: false,
            summary: Summary::default(),
            info: info.clone(),
            index: Index::default(),
            stacks: 0,
            syncer,
            next_clock: None,
        };
        writer.write_whole(&prefix())?;
        writer.write_json(FrameType::Header, 0, info)?;
        Ok(writer)
    }

    /// Adds an event. Events come in the order of time, gaps included, derived ones left out.
    ///
    /// # Errors
    /// If a block was full and could not be written: the file ends with its last whole frame then,
    /// and takes nothing more.
    #[inline]
    pub fn push(&mut self, event: &Event) -> anyhow::Result<()> {
        self.make_room(event.header.ts_ns)?;
        self.summary.gaps += u64::from(event.kind == Kind::Gap);
        self.encoder.push(event);
        Ok(())
    }

    /// Adds an event of a kind that this program does not know, as it is on the wire: its whole header, and what
    /// follows it.
    ///
    /// # Errors
    /// As [`Self::push`], and if it is shorter than a header.
    pub fn push_unknown(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let Some(header) = wire::header(bytes) else {
            bail!("an event of {} bytes has no whole header", bytes.len());
        };
        self.make_room(header.ts_ns)?;
        self.encoder.push_bytes(header.cpu, bytes);
        Ok(())
    }

    #[inline]
    fn make_room(&mut self, ts_ns: u64) -> anyhow::Result<()> {
        if self.encoder.count() >= BLOCK_EVENTS || self.encoder.len() >= BLOCK_BYTES {
            self.flush()?;
        }
        if self.encoder.count() == 0 {
            self.first_ns = ts_ns;
            if self.summary.events == 0 {
                self.summary.first_ns = ts_ns;
            }
        }
        self.last_ns = ts_ns;
        self.summary.events += 1;
        self.summary.last_ns = ts_ns;
        Ok(())
    }

    /// Writes the block at hand if it has waited for a second, and once a minute what the clocks say; to be called now
    /// and then by whoever records what happens at this moment.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn tick(&mut self) -> anyhow::Result<()> {
        if self.block_began.elapsed() >= BLOCK_AGE {
            self.flush()?;
        }
        if self.next_clock.is_none_or(|next| Instant::now() >= next) {
            // The first one is in the header.
            if self.next_clock.is_some() {
                self.clock(&clock::anchor())?;
            }
            self.next_clock = Some(Instant::now() + CLOCK_PAUSE);
        }
        Ok(())
    }

    /// Writes the block at hand, if there is anything in it.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.block_began = Instant::now();
        if self.encoder.count() == 0 {
            return Ok(());
        }
        let header = FrameHeader {
            kind: FrameType::Columns as u8,
            count: self.encoder.count(),
            first_ns: self.first_ns,
            last_ns: self.last_ns,
            ..FrameHeader::default()
        };
        self.raw.clear();
        self.encoder.finish(&mut self.raw);
        self.encoder.clear();
        self.write_frame(header, Codec::Zstd)
    }

    /// Writes a block of events that come after all that were pushed.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn write_block(&mut self, block: &MemoryBlock) -> anyhow::Result<()> {
        for event in block.events() {
            self.push(&event.context("a block in memory is damaged")?)?;
        }
        Ok(())
    }

    /// Notes what is known to be missing by now. Losses up to here come before the events that follow.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn losses(&mut self, losses: &Losses) -> anyhow::Result<()> {
        self.flush()?;
        self.write_json(FrameType::Losses, 0, losses)
    }

    /// Writes the stacks that are not in the file yet. To be called before events with their numbers are added.
    ///
    /// # Errors
    /// As [`Self::push`].
    #[inline]
    pub fn stacks(&mut self, stacks: &Stacks) -> anyhow::Result<()> {
        if stacks.len() > self.stacks {
            self.new_stacks(stacks.since(self.stacks))?;
        }
        Ok(())
    }

    #[cold]
    fn new_stacks(&mut self, stacks: &[Stack]) -> anyhow::Result<()> {
        // Some at a time: a frame has a limit, and a reader takes no larger one.
        for stacks in stacks.chunks(STACKS_AT_A_TIME) {
            let first = self.stacks + 1;
            self.stacks += stacks.len();
            self.write_json(
                FrameType::Stacks,
                stacks.len() as u32,
                &StacksOut { first, stacks },
            )?;
        }
        Ok(())
    }

    /// Notes what the clocks said.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn clock(&mut self, anchor: &Anchor) -> anyhow::Result<()> {
        self.write_json(FrameType::Clock, 0, anchor)
    }

    /// Ends the recording on purpose.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self, losses: &Losses, reason: &str) -> anyhow::Result<Summary> {
        self.flush()?;
        if self.next_clock.is_some() {
            self.clock(&clock::anchor())?;
        }
        // Once more, should the first one be damaged.
        let info = core::mem::take(&mut self.info);
        self.write_json(FrameType::Header, 0, &info)?;
        let at = self.written;
        self.raw.clear();
        self.index.encode(&mut self.raw);
        if self.raw.len() <= PAYLOAD_LIMIT as usize {
            self.write_frame(self.plain(FrameType::Index, 0), Codec::Raw)?;
        }
        let mut summary = core::mem::take(&mut self.summary);
        summary.losses = losses.clone();
        summary.reason = reason.to_owned();
        self.write_json(FrameType::Summary, 0, &summary)?;
        self.raw.clear();
        self.raw.extend(at.to_le_bytes());
        self.write_frame(self.plain(FrameType::End, 0), Codec::Raw)?;
        Ok(summary)
    }

    /// Bytes that are in the file.
    pub fn bytes_written(&self) -> u64 {
        self.written
    }

    /// Events taken in so far.
    pub fn events(&self) -> u64 {
        self.summary.events
    }

    /// The header of a frame without events.
    fn plain(&self, kind: FrameType, count: u32) -> FrameHeader {
        // Events of the block at hand are not in the file yet.
        let last = self.index.entries().last();
        let last_ns = last.map_or(0, |entry| entry.last_ns);
        FrameHeader {
            kind: kind as u8,
            count,
            first_ns: last_ns,
            last_ns,
            ..FrameHeader::default()
        }
    }

    fn write_json(&mut self, kind: FrameType, count: u32, value: &impl Serialize) -> anyhow::Result<()> {
        self.raw.clear();
        serde_json::to_writer(&mut self.raw, value)
            .context("cannot turn a frame of the recording into JSON")?;
        self.write_frame(self.plain(kind, count), Codec::Zstd)
    }

    /// Writes what is in `raw` as a frame.
    fn write_frame(&mut self, mut header: FrameHeader, codec: Codec) -> anyhow::Result<()> {
        let len = u32::try_from(self.raw.len()).unwrap_or(u32::MAX);
        if len > PAYLOAD_LIMIT {
            bail!(
                "a frame of the recording {} would have {len} bytes, more than readers take",
                self.name
            );
        }
        let mut frame = core::mem::take(&mut self.frame);
        frame.clear();
        frame.resize(FRAME_LEN, 0);
        header.version = VERSION as u8;
        header.codec = codec as u8;
        header.raw_len = len;
        match codec {
            Codec::Raw => frame.extend_from_slice(&self.raw),
            Codec::Zstd => {
                frame.resize(FRAME_LEN + zstd::zstd_safe::compress_bound(self.raw.len()), 0);
                let stored = self
                    .compressor
                    .compress_to_buffer(&self.raw, &mut frame[FRAME_LEN..])
                    .with_context(|| format!("cannot compress a frame of the recording {}", self.name))?;
                frame.truncate(FRAME_LEN + stored);
            }
        }
        header.stored_len = u32::try_from(frame.len() - FRAME_LEN).unwrap_or(u32::MAX);
        header.crc = checksum(&header.encode(), &frame[FRAME_LEN..]);
        frame[..FRAME_LEN].copy_from_slice(&header.encode());
        let entry = Entry::new(self.written, &header);
        let result = self.write_whole(&frame);
        self.frame = frame;
        result?;
        self.index.push(entry);
        Ok(())
    }

    fn write_whole(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.failed {
            bail!("the recording {} has already failed", self.name);
        }
        let (Target::File(file) | Target::Stream(file)) = &mut self.target;
        let Err(error) = file.write_all(bytes) else {
            self.written += bytes.len() as u64;
            if let Some(syncer) = &self.syncer {
                syncer.more();
            }
            return Ok(());
        };
        self.failed = true;
        let mut state = "what reached the reader ends in a broken frame";
        if let Target::File(file) = &self.target {
            state = match file.set_len(self.written) {
                Ok(()) => "the file is good up to its last whole frame",
                Err(_) => "the file ends in a broken frame, which readers will tell",
            };
        }
        let events = self.index.events();
        let written = self.written;
        Err(anyhow::Error::new(error).context(format!(
            "cannot write to the recording {} after {written} bytes and {events} events: {state}",
            self.name
        )))
    }
}

/// Whether an error is that nobody reads any more what is written, which is no failure.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    // Two libraries have the error inside and do not tell of it in the chain.
    let kind = |cause: &(dyn std::error::Error + 'static)| {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            Some(error.kind())
        } else if let Some(error) = cause.downcast_ref::<serde_json::Error>() {
            error.io_error_kind()
        } else if let Some(csv::ErrorKind::Io(error)) = cause.downcast_ref().map(csv::Error::kind) {
            Some(error.kind())
        } else {
            None
        }
    };
    error
        .chain()
        .any(|cause| kind(cause) == Some(io::ErrorKind::BrokenPipe))
}
