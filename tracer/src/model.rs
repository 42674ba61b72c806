//! `tracer model`: the bundled lock under an explicit-state search.
//!
//! [`script`] says what tasks do, [`scenario`] puts tasks together, [`machine`] takes one step of one
//! task on a [`state`] in a [`memory`], and [`search`] visits every state. On top of that: [`bugs`] and
//! [`mutants`] change the lock, [`verdicts`] and [`questions`] ask about its assertions, [`listing`]
//! shows a schedule, and [`command`] is the command line.

pub mod bugs;
pub mod check;
pub mod command;
pub mod listing;
pub mod machine;
pub mod memory;
pub mod mutants;
pub mod questions;
pub mod scenario;
pub mod script;
pub mod search;
pub mod state;
pub mod verdicts;

pub use command::{ModelArgs, run};
