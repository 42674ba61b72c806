//! The per-VMA lock and the mmap_lock, in userspace, step for step as in the kernel.
//!
//! Every operation is written once, as a state machine whose step touches shared memory at most
//! once. Real threads run the steps in a loop; loom and shuttle run the very same steps on their
//! atomics; the explicit-state search of `tracer model` takes one step of one task at a time and so
//! sees every interleaving.
//!
//! Read in this order: [`refcnt`] (what the counter means), [`lockdep`] and [`assertion`] (who holds
//! what, and what the kernel believes), then the operations.

pub mod assertion;
pub mod lockdep;
pub mod refcnt;

pub use assertion::{HeldAnswer, LockState, Lockdep, Variant, Verdict};
pub use refcnt::{RefcntClass, VM_REFCNT_EXCLUDE_READERS_FLAG, VM_REFCNT_LIMIT};
