//! `tracer model`: the bundled lock under an explicit-state search.

pub mod machine;
pub mod memory;
pub mod scenario;
pub mod script;
pub mod search;
pub mod state;
