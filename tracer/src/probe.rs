//! Which probes there are, which of them this kernel gets, and their attaching.
//!
//! [`plan`] is a pure function from [`crate::kernel::Facts`] to a [`Plan`] with reasons: it is tested
//! on captured kernels without any privilege. [`attach`] has the effects.

pub mod attach;
mod catalogue;
pub mod cost;
mod instructions;
mod lockdep;
pub mod mapped;
mod pare;
pub(crate) mod perf;
mod plan;
mod points;
mod ways;

pub use plan::{Attach, Elsewhere, Found, Globals, Mechanism, Plan, Planned, Point, Refusal, Wishes, plan};
