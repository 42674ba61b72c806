//! The native recording: an append-only file of checksummed frames.
//!
//! `docs/recording-format.md` is the same thing for people who read the bytes from another
//! language. In short: 16 bytes that say what it is and which version, then frames, each with a
//! header of [`FRAME_LEN`] bytes. The first frame is the [`crate::info::SourceInfo`] as JSON; events follow in blocks,
//! [`crate::info::Losses`] now and then; a [`Summary`] ends a recording that was ended on purpose.
//! What was killed, or met a full disk, is good up to its last whole frame.

mod block;
mod reader;
mod writer;

use serde::{Deserialize, Serialize};

use crate::info::Losses;

pub use block::{BLOCK_MEMORY, Block};
pub use reader::{End, Frame, ReadError, RecordReader};
pub use writer::{RecordWriter, create, is_broken_pipe};

/// The first eight bytes. The first is no text, the line ends show a file mangled in transfer, and
/// the last but one ends a listing on a terminal.
pub const MAGIC: [u8; 8] = *b"\x89VMATR\x1a\n";

/// The version that this program writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// Length of what precedes the first frame: [`MAGIC`], [`VERSION`], four zero bytes.
pub const PREFIX_LEN: usize = 16;

/// Length of a frame's header in bytes.
pub const FRAME_LEN: usize = 40;

/// The first four bytes of every frame.
pub const FRAME_MAGIC: [u8; 4] = *b"fRm\x01";

/// Largest payload of a block of events, in bytes.
pub const BLOCK_LIMIT: usize = 64 << 10;

/// Largest payload of any frame, in bytes. A length above is damage.
pub const PAYLOAD_LIMIT: u32 = 16 << 20;

/// What a frame holds. Numbers are never used again.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameType {
    /// [`crate::info::SourceInfo`] as JSON; the first frame, once.
    Header = 1,
    /// Wire events one after the other, in the order of time.
    Events = 2,
    /// [`Losses`] as JSON, cumulative.
    Losses = 3,
    /// [`Summary`] as JSON; the last frame.
    Summary = 4,
    /// A list of [`crate::stacks::Stack`] as JSON, which goes on where the one before ended.
    Stacks = 5,
}

/// How a payload is stored. Numbers are never used again.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// As it is.
    Raw = 0,
}

/// What a recording that was ended on purpose says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Events in the file, gaps included.
    pub events: u64,
    /// Gaps among them.
    pub gaps: u64,
    /// Time of the first event, in nanoseconds; 0 if there is none.
    pub first_ns: u64,
    /// Time of the last event, in nanoseconds; 0 if there is none.
    pub last_ns: u64,
    /// What is known to be missing.
    pub losses: Losses,
    /// Why it ended: `duration`, `interrupt`, `command`, `source`, ….
    pub reason: String,
}

/// A frame's header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FrameHeader {
    kind: u8,
    codec: u8,
    stored_len: u32,
    raw_len: u32,
    count: u32,
    crc: u32,
    first_ns: u64,
    last_ns: u64,
}

/// Where the checksum stands: it covers all of the header before it and after it, and the payload.
const CRC_AT: usize = 20;

impl FrameHeader {
    fn encode(&self) -> [u8; FRAME_LEN] {
        let mut bytes = [0; FRAME_LEN];
        bytes[..4].copy_from_slice(&FRAME_MAGIC);
        bytes[4] = self.kind;
        bytes[5] = self.codec;
        bytes[8..12].copy_from_slice(&self.stored_len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.raw_len.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.count.to_le_bytes());
        bytes[CRC_AT..24].copy_from_slice(&self.crc.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_ns.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.last_ns.to_le_bytes());
        bytes
    }

    /// `None` if the bytes are no frame's header.
    fn decode(bytes: &[u8; FRAME_LEN]) -> Option<Self> {
        if bytes[..4] != FRAME_MAGIC {
            return None;
        }
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Some(Self {
            kind: bytes[4],
            codec: bytes[5],
            stored_len: u32_at(8),
            raw_len: u32_at(12),
            count: u32_at(16),
            crc: u32_at(CRC_AT),
            first_ns: u64_at(24),
            last_ns: u64_at(32),
        })
    }
}

/// The checksum of a frame.
fn checksum(header: &[u8; FRAME_LEN], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..CRC_AT]);
    hasher.update(&header[CRC_AT + 4..]);
    hasher.update(payload);
    hasher.finalize()
}
