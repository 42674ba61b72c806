//! `tracer provoke`: small workloads that bring the per-VMA lock into every state that it can be in on a real kernel.
//!
//! The workload needs no privileges: it maps, unmaps and touches memory of its own. It runs in a process of its own, as
//! the user who called; with privileges just that process is traced, and the report says how often each state of the
//! lock was seen, from events, never from what the workload meant to do.

mod command;
mod report;
mod scenario;
mod states;
mod sys;
mod team;
mod userfault;

pub use command::{ProvokeArgs, run};
pub use report::{Report, SCHEMA};
pub use scenario::{SCENARIOS, Scenario};
pub use states::{Claim, Claims, States};
