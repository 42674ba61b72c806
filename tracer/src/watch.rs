//! `tracer watch`: every change of one VMA's lock, by a hardware watchpoint.
//!
//! What the probes of the other commands conclude about many locks, this sees of one, on any kernel, inlined or not:
//! the exception comes with the instruction that wrote. `docs/watch.md` says what it shows and what it costs.

mod chain;
mod decode;
mod find;
mod names;
mod report;
mod session;
mod slots;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

pub use chain::{Chain, JITTER_NS, Link, Linked, PATIENCE_NS, Place};

/// Options of `watch`.
#[derive(Args, Clone, Debug)]
pub struct WatchArgs {
    /// The process.
    #[arg(short, long, value_name = "PID")]
    pub pid: u32,
    /// An address in the VMA, as in /proc/PID/maps: decimal, or hexadecimal after 0x.
    #[arg(short, long, value_name = "ADDRESS", value_parser = parse_address)]
    pub addr: u64,
    /// Stop after this time, such as 500ms, 10s or 2m.
    #[arg(long, value_name = "TIME", value_parser = crate::cli::parse_duration)]
    pub duration: Option<Duration>,
    /// Stop after so many changes.
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub count: Option<u64>,
    /// One JSON object a line, see docs/schema/watch.md.
    #[arg(long)]
    pub json: bool,
    /// Leave out the kernel stacks.
    #[arg(long)]
    pub no_stack: bool,
    /// Kernel addresses as they are. Otherwise they are hashed, alike within one run.
    #[arg(long)]
    pub raw_addresses: bool,
    /// Size of the buffer of each CPU, such as 1M; a power of two.
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = crate::cli::parse_size)]
    pub buffer: u32,
    /// A vmlinux or boot image of the running kernel to read its text from, instead of its memory.
    #[arg(long, value_name = "FILE")]
    pub kernel_text: Option<PathBuf>,
}

/// It cannot be done here, or is not permitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impossible(pub String);

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Impossible {}

fn parse_address(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| {
        "an address, such as 0x7f0012345000 (see /proc/PID/maps; hexadecimal wants 0x)".to_owned()
    })
}

/// Runs it.
///
/// # Errors
/// [`Impossible`] when this kernel or these privileges do not allow it; else what went wrong.
pub fn run(args: &WatchArgs) -> anyhow::Result<()> {
    let (mut session, header) = session::Session::start(args)?;
    let mut report = report::Report::new(args, &header)?;
    session.run(args, &mut report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_decimal_or_say_that_they_are_not() {
        assert_eq!(parse_address("0x7f00"), Ok(0x7f00));
        assert_eq!(parse_address("4096"), Ok(4096));
        assert!(parse_address("7f00").unwrap_err().contains("0x"));
    }
}
