//! Where events come from: a live kernel, a recording, or the bundled lock. All give the same type.

mod frames;
pub mod live;
pub mod replay;
mod ring;
pub mod sieve;
mod user_names;

use std::sync::LazyLock;
use std::time::Duration;

use tracer_common::wire::Event;

use crate::info::{Losses, SourceInfo};
use crate::stacks::Stacks;

/// What one call of [`Source::poll`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Events were handed over, or time passed; there may be more.
    ///
    /// No event that is still to come happened before `watermark_ns` (`CLOCK_MONOTONIC`): all up
    /// to there can be put in order and passed on.
    More {
        /// In nanoseconds.
        watermark_ns: u64,
    },
    /// The source is at its end; all events have been handed over.
    End,
}

/// A stream of events, in the order in which they arrive: by CPU nearly sorted, across CPUs not.
pub trait Source {
    /// What is known before the first event.
    fn info(&self) -> &SourceInfo;

    /// Hands over what is there, waiting up to `wait` if there is nothing. `sink` is called for each event.
    ///
    /// # Errors
    /// When the source can give no more than it gave; what was handed over stays good.
    fn poll(&mut self, wait: Duration, sink: &mut dyn FnMut(&Event)) -> anyhow::Result<Poll>;

    /// Ends the source: what it already has can still be polled, then comes [`Poll::End`].
    fn stop(&mut self);

    /// The stacks that its events so far have numbers of.
    fn stacks(&self) -> &Stacks {
        static NONE: LazyLock<Stacks> = LazyLock::new(Stacks::default);
        &NONE
    }

    /// How many of how many bytes it has read; `None`: nobody knows how many there will be.
    fn far(&self) -> Option<(u64, u64)> {
        None
    }

    /// What is known to be missing so far.
    ///
    /// # Errors
    /// When the source cannot tell.
    fn losses(&mut self) -> anyhow::Result<Losses>;
}
