//! Lines on standard output, from commands that print as they go, and all lines on standard error. What others chose is
//! in them, names of files above all: nothing goes out that a terminal would obey.

use std::fmt::Arguments;
use std::io::{self, Write};

use crate::outside;

/// As `println!`, but without a panic when the output is full or nobody reads it any more.
macro_rules! say {
    ($($words:tt)*) => {
        $crate::say::line(format_args!($($words)*))
    };
}
pub(crate) use say;

/// A line on standard error that begins with the program's name, as all of them do.
macro_rules! tell {
    ($($words:tt)*) => {
        $crate::say::error(format_args!($($words)*))
    };
}
pub(crate) use tell;

/// Prints a line. If that cannot be done the process ends: without a word if nobody listens any more.
pub(crate) fn line(words: Arguments<'_>) {
    text(format_args!("{words}\n"));
}

/// The same without the end of the line.
pub(crate) fn text(words: Arguments<'_>) {
    let mut out = io::stdout().lock();
    let text = words.to_string();
    let safe = outside::lines(&text);
    let Err(error) = out.write_all(safe.as_bytes()).and_then(|()| out.flush()) else {
        return;
    };
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    tell!("cannot write to the standard output: {error}");
    std::process::exit(1);
}

/// Writes a text that this program laid out in lines.
///
/// # Errors
/// Those of the output.
pub(crate) fn lines(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(outside::lines(text).as_bytes())
}

/// Prints a line on standard error. Nobody can be told that this failed.
pub(crate) fn error(words: Arguments<'_>) {
    let text = words.to_string();
    let _ = writeln!(io::stderr().lock(), "tracer: {}", outside::lines(&text));
}

/// Prints over the line that tells how far we are; an empty one takes it away.
pub(crate) fn progress(line: &str) {
    let _ = write!(io::stderr().lock(), "\r\x1b[K{}", outside::plain(line));
}
