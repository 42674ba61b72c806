//! `tracer`: see `tracer --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(tracer::commands::main())
}
