//! Writing a recording, frame by whole frame.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;
use tracer_common::wire::{Event, Kind, MAX_EVENT};

use super::{
    BLOCK_LIMIT, Block, Codec, FRAME_LEN, FrameHeader, FrameType, MAGIC, PAYLOAD_LIMIT, PREFIX_LEN, Summary,
    VERSION, checksum,
};
use crate::info::{Losses, SourceInfo};
use crate::stacks::Stacks;

/// A block goes out at the latest after this time, so that little is lost by a kill.
const BLOCK_AGE: Duration = Duration::from_secs(1);

/// Where a recording goes to.
#[derive(Debug)]
enum Target {
    /// A regular file, which is cut back to its last whole frame if one cannot be written.
    File(File),
    /// A pipe or a terminal.
    Stream(File),
}

/// Writes one recording. Events are collected in blocks; nothing is allocated for each one.
#[derive(Debug)]
pub struct RecordWriter {
    target: Target,
    name: String,
    /// The block at hand, with room for its frame header at the front.
    block: Vec<u8>,
    count: u32,
    first_ns: u64,
    last_ns: u64,
    block_began: Instant,
    /// Bytes that are in the file, all of them whole frames.
    written: u64,
    failed: bool,
    /// Stacks that are in the file.
    stacks: usize,
    summary: Summary,
}

/// Stacks in one frame; each has some kilobytes at most.
const STACKS_AT_ONCE: usize = 512;

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
    let name = path.display().to_string();
    let (file, is_regular) = open_file(path).with_context(|| format!("cannot write the recording {name}"))?;
    let target = if is_regular {
        Target::File(file)
    } else {
        Target::Stream(file)
    };
    RecordWriter::new(target, name, info)
}

fn open_file(path: &Path) -> anyhow::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    match options.clone().create_new(true).open(path) {
        Ok(file) => return Ok((file, true)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.into()),
    }
    let file = options.open(path).map_err(|error| {
        if error.raw_os_error() == Some(libc::ELOOP) {
            anyhow::anyhow!("it is a symbolic link, which is not followed; name the file itself")
        } else {
            error.into()
        }
    })?;
    let meta = file.metadata()?;
    let kind = meta.file_type();
    if kind.is_fifo() || kind.is_char_device() {
        return Ok((file, false));
    }
    if !kind.is_file() {
        bail!("it is neither a regular file nor a pipe");
    }
    // SAFETY: geteuid has no preconditions.
    let user = unsafe { libc::geteuid() };
    let owner = meta.uid();
    if owner != user {
        bail!("it belongs to user {owner}, and would be overwritten; remove it or name another file");
    }
    if meta.nlink() > 1 {
        bail!("it has several names (hard links), and would be overwritten; remove it or name another file");
    }
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.set_len(0)?;
    Ok((file, true))
}

impl RecordWriter {
    fn new(target: Target, name: String, info: &SourceInfo) -> anyhow::Result<Self> {
        let mut block = Vec::with_capacity(FRAME_LEN + BLOCK_LIMIT);
        block.resize(FRAME_LEN, 0);
        let mut writer = Self {
            target,
            name,
            block,
            count: 0,
            first_ns: 0,
            last_ns: 0,
            block_began: Instant::now(),
            written: 0,
            failed: false,
            stacks: 0,
            summary: Summary::default(),
        };
        let mut prefix = [0; PREFIX_LEN];
        prefix[..8].copy_from_slice(&MAGIC);
        prefix[8..12].copy_from_slice(&VERSION.to_le_bytes());
        writer.write_whole(&prefix)?;
        writer.write_json(FrameType::Header, info)?;
        Ok(writer)
    }

    /// Adds an event. Events come in the order of time, gaps included, derived ones left out.
    ///
    /// # Errors
    /// If a block was full and could not be written: the file ends with its last whole frame then,
    /// and takes nothing more.
    #[inline]
    pub fn push(&mut self, event: &Event) -> anyhow::Result<()> {
        if self.block.len() + MAX_EVENT > FRAME_LEN + BLOCK_LIMIT {
            self.flush()?;
        }
        let ts_ns = event.header.ts_ns;
        if self.count == 0 {
            self.first_ns = ts_ns;
            if self.summary.events == 0 {
                self.summary.first_ns = ts_ns;
            }
        }
        self.count += 1;
        self.last_ns = ts_ns;
        self.summary.events += 1;
        self.summary.gaps += u64::from(event.kind == Kind::Gap);
        self.summary.last_ns = ts_ns;
        let mut bytes = [0; MAX_EVENT];
        let len = event.encode(&mut bytes);
        self.block.extend_from_slice(&bytes[..len]);
        Ok(())
    }

    /// Writes the block at hand if it has waited for a second; to be called now and then.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn tick(&mut self) -> anyhow::Result<()> {
        if self.block_began.elapsed() >= BLOCK_AGE {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the block at hand, if there is anything in it.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.block_began = Instant::now();
        if self.count == 0 {
            return Ok(());
        }
        let mut block = core::mem::take(&mut self.block);
        let header = FrameHeader {
            kind: FrameType::Events as u8,
            codec: Codec::Raw as u8,
            stored_len: 0,
            raw_len: 0,
            count: self.count,
            crc: 0,
            first_ns: self.first_ns,
            last_ns: self.last_ns,
        };
        let result = self.write_frame(header, &mut block);
        block.clear();
        block.resize(FRAME_LEN, 0);
        self.block = block;
        self.count = 0;
        result
    }

    /// Writes a block of events that come after all that were pushed, as it is.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn write_block(&mut self, block: &mut Block) -> anyhow::Result<()> {
        self.flush()?;
        if block.count == 0 {
            return Ok(());
        }
        if self.summary.events == 0 {
            self.summary.first_ns = block.first_ns;
        }
        self.summary.last_ns = block.last_ns;
        let header = FrameHeader {
            kind: FrameType::Events as u8,
            codec: Codec::Raw as u8,
            stored_len: 0,
            raw_len: 0,
            count: block.count,
            crc: 0,
            first_ns: block.first_ns,
            last_ns: block.last_ns,
        };
        self.write_frame(header, &mut block.bytes)?;
        self.summary.events += u64::from(block.count);
        self.summary.gaps += block.gaps;
        Ok(())
    }

    /// Notes the stacks that are new since the last call, before the events that have their numbers.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn stacks(&mut self, stacks: &Stacks) -> anyhow::Result<()> {
        let new = stacks.since(self.stacks);
        if new.is_empty() {
            return Ok(());
        }
        self.flush()?;
        for some in new.chunks(STACKS_AT_ONCE) {
            self.write_json(FrameType::Stacks, &some)?;
        }
        self.stacks = stacks.len();
        Ok(())
    }

    /// Notes what is known to be missing by now. Losses up to here come before the events that follow.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn losses(&mut self, losses: &Losses) -> anyhow::Result<()> {
        self.flush()?;
        self.write_json(FrameType::Losses, losses)
    }

    /// Ends the recording on purpose.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self, losses: &Losses, reason: &str) -> anyhow::Result<Summary> {
        self.flush()?;
        let mut summary = core::mem::take(&mut self.summary);
        summary.losses = losses.clone();
        summary.reason = reason.to_owned();
        self.write_json(FrameType::Summary, &summary)?;
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

    fn write_json(&mut self, kind: FrameType, value: &impl Serialize) -> anyhow::Result<()> {
        let mut bytes = vec![0; FRAME_LEN];
        serde_json::to_writer(&mut bytes, value).context("cannot turn a frame of the recording into JSON")?;
        let header = FrameHeader {
            kind: kind as u8,
            codec: Codec::Raw as u8,
            stored_len: 0,
            raw_len: 0,
            count: 0,
            crc: 0,
            first_ns: self.summary.last_ns,
            last_ns: self.summary.last_ns,
        };
        self.write_frame(header, &mut bytes)
    }

    /// Writes a frame whose payload stands behind room for the header.
    fn write_frame(&mut self, mut header: FrameHeader, bytes: &mut [u8]) -> anyhow::Result<()> {
        let len = u32::try_from(bytes.len() - FRAME_LEN).unwrap_or(u32::MAX);
        if len > PAYLOAD_LIMIT {
            bail!(
                "a frame of the recording {} would have {len} bytes, more than readers take",
                self.name
            );
        }
        header.stored_len = len;
        header.raw_len = len;
        header.crc = checksum(&header.encode(), &bytes[FRAME_LEN..]);
        bytes[..FRAME_LEN].copy_from_slice(&header.encode());
        self.write_whole(bytes)
    }

    fn write_whole(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.failed {
            bail!("the recording {} has already failed", self.name);
        }
        let (Target::File(file) | Target::Stream(file)) = &mut self.target;
        let Err(error) = file.write_all(bytes) else {
            self.written += bytes.len() as u64;
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
        let events = self.summary.events - u64::from(self.count);
        let written = self.written;
        Err(anyhow::Error::new(error).context(format!(
            "cannot write to the recording {} after {written} bytes and {events} events: {state}",
            self.name
        )))
    }
}

/// Whether an error is that nobody reads any more what is written, which is no failure.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
