//! Shows who holds and who waits for the per-VMA locks and the mmap_lock of a live Linux kernel.
//!
//! Events flow one way: `source` → `order` → `state` → `sink`. `docs/architecture.md` is the map.

pub mod info;
pub mod order;
pub mod source;
