//! Lines on standard output, from commands that print as they go.

use std::fmt::Arguments;
use std::io::{self, Write as _};

/// As `println!`, but without a panic when the output is full or nobody reads it any more.
macro_rules! say {
    ($($words:tt)*) => {
        $crate::say::line(format_args!($($words)*))
    };
}
pub(crate) use say;

/// Prints a line. If that cannot be done the process ends: without a word if nobody listens any more.
pub(crate) fn line(words: Arguments<'_>) {
    text(format_args!("{words}\n"));
}

/// The same without the end of the line.
pub(crate) fn text(words: Arguments<'_>) {
    let mut out = io::stdout().lock();
    let Err(error) = out.write_fmt(words).and_then(|()| out.flush()) else {
        return;
    };
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    eprintln!("tracer: cannot write to the standard output: {error}");
    std::process::exit(1);
}
