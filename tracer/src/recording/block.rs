//! Events in memory, for whoever keeps them before they are written, if ever.

use tracer_common::wire::{DecodeError, Event, Kind, MAX_EVENT, decode};

/// Room for events in a block, in bytes.
const BLOCK_LIMIT: usize = 64 << 10;

/// Wire events in the order of time.
#[derive(Debug)]
pub struct MemoryBlock {
    bytes: Vec<u8>,
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
pub const BLOCK_MEMORY: usize = BLOCK_LIMIT + size_of::<MemoryBlock>();

impl Default for MemoryBlock {
    fn default() -> Self {
        Self {
            bytes: Vec::with_capacity(BLOCK_LIMIT),
            count: 0,
            gaps: 0,
            first_ns: 0,
            last_ns: 0,
        }
    }
}

impl MemoryBlock {
    /// Whether no further event is sure to fit.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.bytes.len() + MAX_EVENT > BLOCK_LIMIT
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
        (self.count, self.gaps, self.first_ns, self.last_ns) = (0, 0, 0, 0);
    }

    /// The events in it.
    ///
    /// # Errors
    /// None, as long as what was pushed can be read again.
    pub fn events(&self) -> impl Iterator<Item = Result<Event, DecodeError>> + '_ {
        let mut rest = self.bytes.as_slice();
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
