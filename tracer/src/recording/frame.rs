//! The prefix of a recording and the headers of its frames, as bytes.

/// The first eight bytes. The first is no text, the line ends show a file mangled in transfer, and
/// the last but one ends a listing on a terminal.
pub const MAGIC: [u8; 8] = *b"\x89VMATR\x1a\n";

/// The version that this program writes, and the newest that it reads.
pub const VERSION: u32 = 2;

/// Length of what precedes the first frame: [`MAGIC`], [`VERSION`], [`BYTE_ORDER`].
pub const PREFIX_LEN: usize = 16;

/// Length of a frame's header in bytes.
pub const FRAME_LEN: usize = 40;

/// The first three bytes of every frame; the version follows.
pub const FRAME_MAGIC: [u8; 3] = *b"fRm";

/// Shows the order of bytes, from version 2 on.
pub(super) const BYTE_ORDER: u32 = 0x0102_0304;

/// Largest payload of any frame, stored or unpacked, in bytes. A length above is damage.
pub const PAYLOAD_LIMIT: u32 = 16 << 20;

/// Largest block of columns when unpacked, in bytes; it bounds what a reader remembers while it reads one.
pub(super) const COLUMNS_LIMIT: u32 = 4 << 20;

/// What a frame holds. Numbers are never used again.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameType {
    /// [`crate::info::SourceInfo`] as JSON; the first frame, and once more near the end.
    Header = 1,
    /// Wire events one after the other, in the order of time (version 1).
    Events = 2,
    /// [`crate::info::Losses`] as JSON, cumulative.
    Losses = 3,
    /// [`super::Summary`] as JSON.
    Summary = 4,
    /// [`crate::stacks::Stack`]s as JSON, from a number on; before the events that have their numbers.
    Stacks = 5,
    /// Events as [`super::columns`].
    Columns = 6,
    /// [`crate::info::Anchor`] as JSON: what the clocks said.
    Clock = 7,
    /// An [`super::Index`] of all frames before it.
    Index = 8,
    /// Where the index is; the last frame.
    End = 9,
}

impl FrameType {
    /// All, by number.
    pub const ALL: [Self; 9] = [
        Self::Header,
        Self::Events,
        Self::Losses,
        Self::Summary,
        Self::Stacks,
        Self::Columns,
        Self::Clock,
        Self::Index,
        Self::End,
    ];

    /// The type with that number; `None` for one that this version does not know.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| kind as u8 == number)
    }

    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Events | Self::Columns => "events",
            Self::Losses => "losses",
            Self::Summary => "summary",
            Self::Stacks => "stacks",
            Self::Clock => "clock",
            Self::Index => "index",
            Self::End => "end",
        }
    }

    /// Whether it holds events.
    pub const fn is_block(self) -> bool {
        matches!(self, Self::Events | Self::Columns)
    }
}

/// How a payload is stored. Numbers are never used again.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// As it is.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

/// A frame's header, decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Version of the format: its magic says it, so that a frame can be understood without the prefix.
    pub(super) version: u8,
    /// [`FrameType`] as its number.
    pub(super) kind: u8,
    pub(super) codec: u8,
    /// Length of the payload in the file, in bytes.
    pub(super) stored_len: u32,
    /// Length of the payload when unpacked, in bytes.
    pub(super) raw_len: u32,
    /// Events, or stacks, in the payload.
    pub(super) count: u32,
    pub(super) crc: u32,
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
}

/// Where the header's own checksum stands, and that of all.
const CHECK_AT: usize = 6;
const CRC_AT: usize = 20;

impl FrameHeader {
    pub(super) fn encode(&self) -> [u8; FRAME_LEN] {
        let mut bytes = [0; FRAME_LEN];
        bytes[..3].copy_from_slice(&FRAME_MAGIC);
        bytes[3] = self.version;
        bytes[4] = self.kind;
        bytes[5] = self.codec;
        bytes[8..12].copy_from_slice(&self.stored_len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.raw_len.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.count.to_le_bytes());
        bytes[CRC_AT..24].copy_from_slice(&self.crc.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_ns.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.last_ns.to_le_bytes());
        if self.version >= 2 {
            let check = check(&bytes);
            bytes[CHECK_AT..8].copy_from_slice(&check.to_le_bytes());
        }
        bytes
    }

    /// `None` if the bytes are no frame's header.
    pub(super) fn decode(bytes: &[u8; FRAME_LEN]) -> Option<Self> {
        if bytes[..3] != FRAME_MAGIC || !(1..=VERSION as u8).contains(&bytes[3]) {
            return None;
        }
        let said = u16::from_le_bytes([bytes[CHECK_AT], bytes[CHECK_AT + 1]]);
        if said != if bytes[3] == 1 { 0 } else { check(bytes) } {
            return None;
        }
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Some(Self {
            version: bytes[3],
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

    /// Length of the whole frame in the file, in bytes.
    pub(super) fn frame_len(&self) -> u64 {
        FRAME_LEN as u64 + u64::from(self.stored_len)
    }

    /// What its lengths may not be.
    pub(super) fn impossible(&self) -> Option<String> {
        let limit = if self.kind == FrameType::Columns as u8 {
            COLUMNS_LIMIT
        } else {
            PAYLOAD_LIMIT
        };
        let largest = self.stored_len.max(self.raw_len);
        (largest > limit).then(|| format!("impossible length {largest}"))
    }
}

/// Lets a header be believed before its payload is read. It covers all but itself and the checksum of the whole.
fn check(header: &[u8; FRAME_LEN]) -> u16 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..CHECK_AT]);
    hasher.update(&header[CHECK_AT + 2..CRC_AT]);
    hasher.update(&header[CRC_AT + 4..]);
    hasher.finalize() as u16
}

/// The checksum of a frame: all of the header but the checksum itself, and the payload.
pub(super) fn checksum(header: &[u8; FRAME_LEN], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..CRC_AT]);
    hasher.update(&header[CRC_AT + 4..]);
    hasher.update(payload);
    hasher.finalize()
}

/// The first bytes of a recording.
pub(super) fn prefix() -> [u8; PREFIX_LEN] {
    let mut prefix = [0; PREFIX_LEN];
    prefix[..8].copy_from_slice(&MAGIC);
    prefix[8..12].copy_from_slice(&VERSION.to_le_bytes());
    prefix[12..].copy_from_slice(&BYTE_ORDER.to_le_bytes());
    prefix
}
