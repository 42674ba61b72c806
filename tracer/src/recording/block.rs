//! A block of events as it stands in a file, for whoever keeps events in memory before they are written, if ever.

use tracer_common::wire::{DecodeError, Event, Kind, MAX_EVENT, decode};

use super::{BLOCK_LIMIT, FRAME_LEN};

/// Encoded events in the order of time, with room for a frame's header in front.
#[derive(Debug)]
pub struct Block {
    pub(super) bytes: Vec<u8>,
    /// Events in it.
    pub count: u32,
    /// Gaps among them.
    pub gaps: u64,
    /// Time of the first one, in nanoseconds.
    pub first_ns: u64,
    /// Time of the last one, in nanoseconds.
    pub last_ns: u64,
}

/// Memory that a block takes, full or not, in bytes.
pub const BLOCK_MEMORY: usize = FRAME_LEN + BLOCK_LIMIT + size_of::<Block>();

impl Default for Block {
    fn default() -> Self {
        let mut bytes = Vec::with_capacity(FRAME_LEN + BLOCK_LIMIT);
        bytes.resize(FRAME_LEN, 0);
        Self {
            bytes,
            count: 0,
            gaps: 0,
            first_ns: 0,
            last_ns: 0,
        }
    }
}

impl Block {
    /// Whether no further event is sure to fit.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.bytes.len() + MAX_EVENT > FRAME_LEN + BLOCK_LIMIT
    }

    /// Adds an event; the block is not full.
    #[inline]
    pub fn push(&mut self, event: &Event) {
        let mut bytes = [0; MAX_EVENT];
        let len = event.encode(&mut bytes);
        self.bytes.extend_from_slice(&bytes[..len]);
        if self.count == 0 {
            self.first_ns = event.header.ts_ns;
        }
        self.last_ns = event.header.ts_ns;
        self.count += 1;
        self.gaps += u64::from(event.kind == Kind::Gap);
    }

    /// Takes everything out; the memory stays.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(FRAME_LEN, 0);
        (self.count, self.gaps, self.first_ns, self.last_ns) = (0, 0, 0, 0);
    }

    /// The events in it.
    ///
    /// # Errors
    /// None, as long as what was pushed can be read again.
    pub fn events(&self) -> impl Iterator<Item = Result<Event, DecodeError>> + '_ {
        let mut rest = &self.bytes[FRAME_LEN..];
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            match decode(rest) {
                Ok((event, len)) => {
                    rest = &rest[len..];
                    Some(Ok(event))
                }
                Err(error) => {
                    rest = &[];
                    Some(Err(error))
                }
            }
        })
    }
}
