//! `usage FILE CMD…`: runs CMD, and writes into FILE as JSON what it and all the children that it waited for took of the
//! processor. It ends as CMD does.
//!
//! busybox's `time` tells hundredths of a second, and a recorder that starts and stops takes little more than that.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let (Some(file), Some(program)) = (words.next(), words.next()) else {
        eprintln!("usage: wants a file and a command");
        return ExitCode::from(2);
    };
    let mut command = Command::new(program);
    command.args(words);
    match run(&mut command) {
        Ok((told, code)) => match std::fs::write(file, told) {
            Ok(()) => ExitCode::from(code),
            Err(error) => {
                eprintln!("usage: {error}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprintln!("usage: {error:#}");
            ExitCode::from(127)
        }
    }
}

/// What the command took, and the status that a shell would give it.
fn run(command: &mut Command) -> Result<(String, u8)> {
    let start = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    let wall = start.elapsed();
    // SAFETY: all zeroes is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is valid for writing.
    let done = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    ensure!(done == 0, "getrusage: {}", std::io::Error::last_os_error());
    let micros = |time: libc::timeval| time.tv_sec * 1_000_000 + time.tv_usec;
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or(0),
    };
    let told = json!({
        "user_us": micros(usage.ru_utime), "system_us": micros(usage.ru_stime), "wall_us": wall.as_micros() as u64,
        "max_rss_kib": usage.ru_maxrss, "status": code,
    });
    Ok((format!("{told}\n"), u8::try_from(code & 0xff).unwrap_or(u8::MAX)))
}
