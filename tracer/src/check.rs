//! Checks of what was seen, beside the engine: pure, like it.

pub mod accounting;
