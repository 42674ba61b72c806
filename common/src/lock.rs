//! The per-VMA lock and the mmap_lock, in userspace, step for step as in the kernel.
//!
//! Every operation is written once, as a state machine whose step touches shared memory at most
//! once. Real threads run the steps in a loop; loom and shuttle run the very same steps on their
//! atomics; the explicit-state search of `tracer model` takes one step of one task at a time and so
//! sees every interleaving.
//!
//! Read in this order: [`refcnt`] (what the counter means), [`lockdep`] and [`assertion`] (who holds
//! what, and what the kernel believes), [`world`] (what operations stand on), then the operations:
//! [`read`], [`write`], [`mmap`]; at last [`arena`], which runs them on real atomics.

pub mod alteration;
#[cfg(feature = "std")]
pub mod arena;
pub mod assertion;
pub mod lockdep;
pub mod mmap;
#[cfg(feature = "std")]
pub mod platform;
pub mod read;
pub mod refcnt;
pub mod rwsem;
pub mod world;
pub mod write;

pub use alteration::Alteration;
pub use assertion::{HeldAnswer, LockState, Lockdep, Variant, Verdict};
pub use refcnt::{RefcntClass, VM_REFCNT_EXCLUDE_READERS_FLAG, VM_REFCNT_LIMIT};
pub use world::{Cx, Family, Flow, MmId, Note, Op, Slot, Task, TaskId, VmaId, Warning, Word, World};
