//! A known number of operations on the locks that tracer watches, for the tests that count them.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("usage: workload SCENARIO [OPTIONS]\n\nno scenario is built in yet");
    ExitCode::from(2)
}
