//! Shows who holds and who waits for the per-VMA locks and the mmap_lock of a live Linux kernel.
//!
//! Events flow one way: `source` → `order` → `state` → `sink`. `docs/architecture.md` is the map.

pub mod cgroup;
pub mod check;
pub mod child;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod contention;
pub mod disk;
pub mod doctor;
pub mod export;
pub mod files;
pub mod filter;
pub mod flight;
pub mod info;
pub mod judge;
pub mod kernel;
pub mod live_setup;
pub mod logger;
pub mod mode;
pub mod model;
pub mod order;
pub mod outside;
pub mod pipeline;
pub mod probe;
pub mod provoke;
pub mod range;
pub mod recording;
mod say;
pub mod serve;
pub mod sim;
pub mod sink;
pub mod source;
pub mod stacks;
pub mod state;
pub mod sums;
pub mod text;
pub mod trigger;
pub mod tui;
pub mod validate;
pub mod watch;
