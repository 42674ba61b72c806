//! The native recording: an append-only file of checksummed frames.
//!
//! `docs/recording-format.md` is the same thing for people who read the bytes from another
//! language. In short: 16 bytes that say what it is and which version, then frames, each with a
//! header of [`FRAME_LEN`] bytes. The first frame is the [`crate::info::SourceInfo`] as JSON; events follow in
//! compressed blocks, [`crate::info::Losses`], stacks and readings of the clocks now and then; an index and a [`Summary`]
//! end a recording that was ended on purpose. What was killed, or met a full disk, is good up to its last whole frame.

mod block;
pub mod columns;
mod error;
mod frame;
mod index;
mod input;
mod reader;
mod sync;
mod writer;

use serde::{Deserialize, Serialize};

use crate::info::Losses;

pub use block::{BLOCK_MEMORY, MemoryBlock};
pub use columns::{BlockError, Item};
pub use error::{Damage, End, ReadError};
pub use frame::{FRAME_LEN, FRAME_MAGIC, FrameType, MAGIC, PAYLOAD_LIMIT, PREFIX_LEN, VERSION};
pub use index::{Entry, Index};
pub use reader::{Block, Frame, RecordReader};
pub use writer::{RecordWriter, create, is_broken_pipe};

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
