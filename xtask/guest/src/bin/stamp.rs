//! `stamp FILE CMD…`: writes the time (`CLOCK_MONOTONIC`, in nanoseconds) into FILE and becomes CMD, so that the start
//! of CMD is known on the clock that events carry.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let (Some(file), Some(program)) = (words.next(), words.next()) else {
        eprintln!("stamp: wants a file and a command");
        return ExitCode::from(2);
    };
    let mut command = Command::new(program);
    command.args(words);
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for writing; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let error = match std::fs::write(file, format!("{}{:09}\n", time.tv_sec, time.tv_nsec)) {
        Ok(()) => command.exec(),
        Err(error) => error,
    };
    eprintln!("stamp: {error}");
    ExitCode::from(127)
}
