//! Where events and state end up: tables, lines of JSON, the screen.

pub mod address;
pub mod check;
pub mod jsonl;
pub mod stats;
pub mod text;
pub mod top;
