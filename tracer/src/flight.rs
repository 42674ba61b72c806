//! The flight recorder: `tracer record --on CONDITION` keeps the latest events in memory, and writes them when the
//! condition comes true.
//!
//! Memory is bounded in time and in bytes; what has been kept is a few hundred blocks just as they stand in a file, so that
//! writing them costs next to nothing. A recording that comes of it is one like any other, save that it begins in the
//! middle: its header has the number of the first event of each CPU, and says why it was written.

mod command;
mod recorder;
mod ring;

pub use command::record;
pub use recorder::{Options, Outcome, Recorder};
pub use ring::{Evicted, Limits, Ring};
