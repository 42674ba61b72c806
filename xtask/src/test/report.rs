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
            rerun: rerun.to_owned(),
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
        let passed = entries.len() - failures.len();
        ui::line(&format!("\nfinished in {}", ui::elapsed(took)));
        ui::line(&format!("{passed} passed, {} failed", failures.len()));
        failures.is_empty() && passed > 0
    }
}
