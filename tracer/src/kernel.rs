//! Facts about a kernel: what it is, where its fields are, what of it can be attached to.
//!
//! Everything is read through [`Paths`], so that captured kernels serve as fixtures, and ends in
//! one plain value, [`Facts`], from which the planner decides. Nothing here decides anything.

mod btf;
mod config;
mod facts;
mod privileges;
mod symbols;

pub use btf::{Btf, BtfError};
pub use facts::{Depth, FUNCTIONS, Facts, Layout, NoTypes, Paths, TracepointArgs};
pub use privileges::{Capabilities, Lockdown};
