//! How far a reading of a recording is: a line on standard error, if anybody sits there.

use std::fs;
use std::io::{self, IsTerminal as _, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sink::text as words;

/// The first line comes after this time, so that short work stays silent.
const FIRST: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(500);

/// Bytes that have been read, counted by whoever reads them.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<AtomicU64>);

impl Meter {
    /// The reader, with its bytes counted.
    pub fn count<R: Read>(&self, input: R) -> Counted<R> {
        Counted {
            input,
            meter: self.clone(),
        }
    }
}

impl Meter {
    /// For whoever knows the number of bytes without counting.
    pub fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }
}

/// A reader whose bytes are counted.
#[derive(Debug)]
pub struct Counted<R> {
    input: R,
    meter: Meter,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(bytes)?;
        self.meter.0.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Shows rate and time left.
#[derive(Debug)]
pub struct Progress {
    meter: Meter,
    /// Length of the input in bytes; 0: it is a pipe.
    length: u64,
    start: Instant,
    next: Option<Instant>,
    shown: bool,
}

impl Progress {
    /// For reading `path`, whose bytes `meter` counts.
    pub fn new(path: &Path, meter: Meter) -> Self {
        let length = fs::metadata(path)
            .ok()
            .filter(fs::Metadata::is_file)
            .map_or(0, |meta| meta.len());
        Self::over(length, meter)
    }

    /// For reading so many bytes; 0: that is not known.
    pub fn over(length: u64, meter: Meter) -> Self {
        let start = Instant::now();
        Self {
            meter,
            length,
            start,
            next: io::stderr().is_terminal().then(|| start + FIRST),
            shown: false,
        }
    }

    /// Looks at the clock, and says how far it is if it is time.
    pub fn show(&mut self, events: u64) {
        self.show_with(events, String::new);
    }

    /// How many of how many bytes have been read, from whoever knows it without a meter.
    pub fn far(&mut self, read: u64, length: u64) {
        self.meter.0.store(read, Ordering::Relaxed);
        self.length = length;
    }

    /// As [`Self::show`], with more to say at the end.
    pub fn show_with(&mut self, events: u64, more: impl FnOnce() -> String) {
        let Some(next) = self.next else { return };
        let now = Instant::now();
        if now >= next {
            let read = self.meter.0.load(Ordering::Relaxed);
            let line = line(events, now - self.start, read, self.length);
            crate::say::progress(&format!("{line}{}; ^C stops", more()));
            self.next = Some(now + EVERY);
            self.shown = true;
        }
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if self.shown {
            crate::say::progress("");
            self.shown = false;
        }
    }
}

impl Default for Progress {
    /// For what nobody knows the length of, or says later.
    fn default() -> Self {
        Self::new(Path::new(""), Meter::default())
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "for people"
)]
fn line(events: u64, took: Duration, read: u64, length: u64) -> String {
    let seconds = took.as_secs_f64().max(1e-3);
    let mut line = format!(
        "{} events, {}/s",
        words::count(events),
        words::count((events as f64 / seconds) as u64)
    );
    if length > 0 && read > 0 {
        let part = (read as f64 / length as f64).min(1.0);
        let left = (seconds / part - seconds).round() as u64;
        line.push_str(&format!(
            ", {:.0} %, {}:{:02} left",
            part * 100.0,
            left / 60,
            left % 60
        ));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_left_are_said_where_the_end_is_known() {
        let took = Duration::from_secs(10);
        assert_eq!(
            line(20_000, took, 250, 1000),
            "20,000 events, 2,000/s, 25 %, 0:30 left"
        );
        assert_eq!(line(20_000, took, 250, 0), "20,000 events, 2,000/s");
    }

    #[test]
    fn bytes_are_counted() {
        let meter = Meter::default();
        let mut all = Vec::new();
        meter.count(&b"abc"[..]).read_to_end(&mut all).unwrap();
        assert_eq!(meter.0.load(Ordering::Relaxed), 3);
    }
}
