//! What passed and what failed, as it happens and at the end.

use std::sync::Mutex;
use std::time::Duration;

use crate::ui;

/// One thing that was checked.
#[derive(Debug)]
struct Entry {
    name: String,
    /// How it failed.
    failure: Option<String>,
    /// How it failed the first time, if it was well the second.
    once: Option<String>,
    /// The command that runs just this again.
    rerun: String,
}

/// Collects results; may be used from several threads.
#[derive(Debug, Default)]
pub(crate) struct Report {
    entries: Mutex<Vec<Entry>>,
}

impl Report {
    /// One result, told at once.
    pub(crate) fn result(&self, name: &str, took: Option<Duration>, result: Result<(), String>, rerun: &str) {
        let took = took.map_or_else(String::new, |t| format!(" ({})", ui::elapsed(t)));
        let word = if result.is_ok() { "ok    " } else { "FAILED" };
        ui::line(&format!("{word} {name}{took}"));
        self.quiet(name, result, rerun);
    }

    /// One result that somebody else tells.
    pub(crate) fn quiet(&self, name: &str, result: Result<(), String>, rerun: &str) {
        let entry = Entry {
            name: name.to_owned(),
            failure: result.err(),
            once: None,
            rerun: rerun.to_owned(),
        };
        self.lock().push(entry);
    }

    /// One result of a second run, told at once, and how the first one failed, which is told at the end, too.
    pub(crate) fn again(
        &self,
        name: &str,
        took: Duration,
        first: &str,
        second: Result<(), String>,
        rerun: &str,
    ) {
        let took = ui::elapsed(took);
        let entry = match second {
            Ok(()) => {
                ui::line(&format!(
                    "ok     {name} ({took}), in a second run: it is unsteady"
                ));
                Entry {
                    name: name.to_owned(),
                    failure: None,
                    once: Some(first.to_owned()),
                    rerun: rerun.to_owned(),
                }
            }
            Err(failure) => {
                ui::line(&format!("FAILED {name} ({took}), in a second run, too"));
                Entry {
                    name: name.to_owned(),
                    failure: Some(format!("{failure}\n\nand the first time:\n{first}")),
                    once: None,
                    rerun: rerun.to_owned(),
                }
            }
        };
        self.lock().push(entry);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        // A thread that panicked while it held the lock had at most added an entry.
        self.entries
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Prints all failures in full and, as the very last line, the counts. True if nothing failed.
    pub(crate) fn close(&self, took: Duration) -> bool {
        let entries = self.lock();
        let failures: Vec<&Entry> = entries.iter().filter(|e| e.failure.is_some()).collect();
        let unsteady: Vec<&Entry> = entries.iter().filter(|e| e.once.is_some()).collect();
        for entry in &unsteady {
            let first = entry.once.as_deref().unwrap_or_default();
            ui::line(&format!(
                "\n──── unsteady {}: passed in a second run; the first time:\n{}\nagain: {}",
                entry.name,
                first.trim_end(),
                entry.rerun
            ));
        }
        for entry in &failures {
            let failure = entry.failure.as_deref().unwrap_or_default();
            ui::line(&format!(
                "\n──── FAILED {}\n{}\nagain: {}",
                entry.name,
                failure.trim_end(),
                entry.rerun
            ));
        }
        if !failures.is_empty() {
            ui::line("\nfailed:");
            for entry in &failures {
                ui::line(&format!("  {}    again: {}", entry.name, entry.rerun));
            }
        }
        if !unsteady.is_empty() {
            ui::line("\nunsteady (failed once, passed when run again):");
            for entry in &unsteady {
                ui::line(&format!("  {}    again: {}", entry.name, entry.rerun));
            }
        }
        let passed = entries.len() - failures.len();
        ui::line(&format!("\nfinished in {}", ui::elapsed(took)));
        ui::line(&format!("{passed} passed, {} failed", failures.len()));
        failures.is_empty() && passed > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Duration = Duration::ZERO;

    #[test]
    fn a_second_run_decides_and_both_failures_are_told() {
        let report = Report::default();
        report.again("a", NONE, "once", Ok(()), "again a");
        assert!(report.lock()[0].failure.is_none());
        assert_eq!(report.lock()[0].once.as_deref(), Some("once"));
        assert!(report.close(NONE));
        report.again("b", NONE, "once", Err("twice".to_owned()), "again b");
        let failure = report.lock()[1].failure.clone().unwrap();
        assert!(failure.contains("twice") && failure.contains("once"), "{failure}");
        assert!(!report.close(NONE));
    }
}
