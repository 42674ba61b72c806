//! What a person sees while something takes long. All of it goes to stderr: stdout belongs to what was asked for.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Nothing is said about what takes less.
const QUIET: Duration = Duration::from_secs(2);
/// How often a line is printed where lines cannot be overwritten.
const PLAIN_EVERY: Duration = Duration::from_secs(30);

/// A progress line for one step: silent for two seconds, then the step and the time it has taken so far; plain
/// lines where stderr is no terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    stop: Option<mpsc::Sender<bool>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts the step.
    pub(crate) fn start(label: &str) -> Self {
        Self::watch(label, String::new)
    }

    /// Starts a step whose last log line is shown beside it.
    pub(crate) fn follow(label: &str, log: &Path) -> Self {
        let log = log.to_owned();
        Self::watch(label, move || last_line(&log).unwrap_or_default())
    }

    /// Starts a step with something beside it that changes.
    pub(crate) fn watch(label: &str, detail: impl Fn() -> String + Send + 'static) -> Self {
        let label = label.to_owned();
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || show(&label, &detail, &stopped));
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The step is done and went well, which is told if the step was. (Dropped, it vanishes without a word.)
    pub(crate) fn done(mut self) {
        self.end(true);
    }

    fn end(&mut self, well: bool) {
        if let Some(stop) = self.stop.take() {
            // The thread can only be gone if it panicked, and then it has said so itself.
            let _ = stop.send(well);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end(false);
    }
}

/// Runs one step under a progress line.
pub(crate) fn step<T>(label: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let progress = Progress::start(label);
    let result = work();
    if result.is_ok() {
        progress.done();
    }
    result
}

fn show(label: &str, detail: &dyn Fn() -> String, stopped: &mpsc::Receiver<bool>) {
    let tty = std::io::stderr().is_terminal();
    let start = Instant::now();
    let mut shown = false;
    let mut next = QUIET;
    loop {
        let wait = next.saturating_sub(start.elapsed());
        match stopped.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => {
                let took = elapsed(start.elapsed());
                let detail = detail();
                if tty {
                    let line: String = format!("… {label} {took}  {detail}").chars().take(100).collect();
                    eprint!("\r\x1b[K{line}");
                    // If stderr cannot be written to there is nowhere to say so.
                    let _ = std::io::stderr().flush();
                    next = start.elapsed() + Duration::from_millis(250);
                } else {
                    if shown {
                        eprintln!("… {label} {took}  {detail}");
                    } else {
                        eprintln!("… {label}");
                    }
                    next = start.elapsed() + PLAIN_EVERY;
                }
                shown = true;
            }
            Ok(well) => {
                if shown && tty {
                    eprint!("\r\x1b[K");
                }
                if shown && well {
                    eprintln!("✓ {label} ({})", elapsed(start.elapsed()));
                }
                return;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn last_line(log: &Path) -> Option<String> {
    let text = fs::read(log).ok()?;
    let end = text.len();
    let tail = String::from_utf8_lossy(&text[end.saturating_sub(400)..]).into_owned();
    let line = tail.lines().rev().find(|l| !l.trim().is_empty())?.trim();
    Some(line.chars().filter(|c| !c.is_control()).take(70).collect())
}

/// A word to the person at the terminal.
pub(crate) fn say(text: &str) {
    eprintln!("xtask: {text}");
}

/// A line of a result, on stdout. A progress line that is being shown gives way to it.
pub(crate) fn line(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    println!("{text}");
}

/// A time as a person reads it.
pub(crate) fn elapsed(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 10 {
        format!("{:.1} s", time.as_secs_f64())
    } else if seconds < 120 {
        format!("{seconds} s")
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        assert_eq!(elapsed(Duration::from_millis(1234)), "1.2 s");
        assert_eq!(elapsed(Duration::from_secs(61)), "61 s");
        assert_eq!(elapsed(Duration::from_secs(605)), "10 min 5 s");
    }
}
