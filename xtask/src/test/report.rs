//! What passed and what failed, as it happens and at the end.

use std::sync::Mutex;
use std::time::Duration;

use crate::ui;

/// One thing that was checked.
#[derive(Debug)]
struct Entry {
    name: String,
    outcome: Outcome,
    /// The command that runs just this again.
    rerun: String,
}

#[derive(Debug)]
enum Outcome {
    Passed,
    /// It passed in a second run only; how it failed in the first.
    Unsteady(String),
    /// How.
    Failed(String),
    /// Why nothing is known.
    Skipped(String),
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
            outcome: result.map_or_else(Outcome::Failed, |()| Outcome::Passed),
            rerun: rerun.to_owned(),
        };
        self.lock().push(entry);
    }

    /// Something that could not be checked here, for which this project can do nothing. It is no failure, and no pass either.
    pub(crate) fn skipped(&self, name: &str, why: &str, rerun: &str) {
        ui::line(&format!("NOT CHECKED {name}: {why}"));
        self.lock().push(Entry {
            name: name.to_owned(),
            outcome: Outcome::Skipped(why.to_owned()),
            rerun: rerun.to_owned(),
        });
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
        let outcome = match second {
            Ok(()) => {
                ui::line(&format!(
                    "ok     {name} ({took}), in a second run: it is unsteady"
                ));
                Outcome::Unsteady(first.to_owned())
            }
            Err(failure) => {
                ui::line(&format!("FAILED {name} ({took}), in a second run, too"));
                Outcome::Failed(format!("{failure}\n\nand the first time:\n{first}"))
            }
        };
        self.lock().push(Entry {
            name: name.to_owned(),
            outcome,
            rerun: rerun.to_owned(),
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        // A thread that panicked while it held the lock had at most added an entry.
        self.entries
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Prints all failures in full then what was not checked, and, as the very last line, the counts. True if nothing failed.
    pub(crate) fn close(&self, took: Duration) -> bool {
        let entries = self.lock();
        let mut failures = Vec::new();
        let mut skipped = Vec::new();
        let mut unsteady = Vec::new();
        for entry in entries.iter() {
            match &entry.outcome {
                Outcome::Passed => {}
                Outcome::Unsteady(first) => unsteady.push((entry, first)),
                Outcome::Failed(how) => failures.push((entry, how)),
                Outcome::Skipped(why) => skipped.push((entry, why)),
            }
        }
        for (entry, first) in &unsteady {
            ui::line(&format!(
                "\n──── unsteady {}: passed in a second run; the first time:\n{}\nagain: {}",
                entry.name,
                first.trim_end(),
                entry.rerun
            ));
        }
        for (entry, failure) in &failures {
            ui::line(&format!(
                "\n──── FAILED {}\n{}\nagain: {}",
                entry.name,
                failure.trim_end(),
                entry.rerun
            ));
        }
        if !failures.is_empty() {
            ui::line("\nfailed:");
            for (entry, _) in &failures {
                ui::line(&format!("  {}    again: {}", entry.name, entry.rerun));
            }
        }
        if !unsteady.is_empty() {
            ui::line("\nunsteady (failed once, passed when run again):");
            for (entry, _) in &unsteady {
                ui::line(&format!("  {}    again: {}", entry.name, entry.rerun));
            }
        }
        if !skipped.is_empty() {
            ui::line("\nNOT CHECKED, so nothing is known of:");
            for (entry, why) in &skipped {
                ui::line(&format!("  {}: {why}    again: {}", entry.name, entry.rerun));
            }
        }
        let passed = entries.len() - failures.len() - skipped.len();
        ui::line(&format!("\nfinished in {}", ui::elapsed(took)));
        let skipped = match skipped.len() {
            0 => String::new(),
            skipped => format!(", {skipped} skipped"),
        };
        ui::line(&format!("{passed} passed, {} failed{skipped}", failures.len()));
        failures.is_empty() && passed > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_decides_and_both_failures_are_told() {
        let report = Report::default();
        report.again("a", Duration::ZERO, "once", Ok(()), "again a");
        assert!(matches!(&report.lock()[0].outcome, Outcome::Unsteady(first) if first == "once"));
        assert!(report.close(Duration::ZERO));
        report.again("b", Duration::ZERO, "once", Err("twice".to_owned()), "again b");
        assert!(matches!(&report.lock()[1].outcome,
            Outcome::Failed(both) if both.contains("twice") && both.contains("once")));
        assert!(!report.close(Duration::ZERO));
    }
}
