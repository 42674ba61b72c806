//! What `provoke` says, for programs and for people.

use std::io::{self, Write};

use serde::Serialize;
use tracer_common::lock::refcnt::RefcntClass;
use tracer_common::wire::Reason;

use super::states::{Claim, SEQS, States};
use crate::check::Checker;
use crate::check::accounting::{Accounting, OpenReason};
use crate::info::{Losses, SourceInfo};
use crate::sink::text::{count, duration};
use crate::state::{Engine, Lock};

/// Name and version of the JSON.
pub const SCHEMA: &str = "tracer.provoke.v1";

/// Everything that `provoke --json` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// What was run: a scenario's name, or `all`.
    pub scenario: String,
    /// How long the workload ran, in nanoseconds.
    pub duration_ns: u64,
    /// Threads that worked.
    pub threads: usize,
    /// Scenarios that this kernel or a sandbox does not allow, each with the reason.
    pub impossible: Vec<String>,
    /// What was done.
    pub operations: Vec<Operation>,
    /// Why nothing was counted, if so.
    pub untraced: Option<String>,
    /// What was counted.
    pub seen: Option<Seen>,
}

/// One kind of operation.
#[derive(Debug, Serialize)]
pub struct Operation {
    /// Its name.
    pub name: String,
    /// How often it was done.
    pub count: u64,
    /// The same, in a second.
    pub per_second: u64,
}

/// What events told.
#[derive(Debug, Serialize)]
pub struct Seen {
    /// `uname -r`.
    pub release: String,
    /// Events that were received.
    pub events: u64,
    /// Events that found the buffer full, and probe runs that the kernel skipped.
    pub lost: u64,
    /// Values of `vm_refcnt`, by class and by whether `vm_lock_seq` equals `mm_lock_seq`.
    pub refcnt: Vec<RefcntSeen>,
    /// Temporary readers by reason.
    pub temporary: Vec<ReasonSeen>,
    /// Refused readers by reason.
    pub refused: Vec<ReasonSeen>,
    /// Waits by lock.
    pub waits: Vec<WaitSeen>,
    /// `vm_area_structs` that began another life.
    pub recycled: u64,
    /// What `vma_assert_locked` would have said at every event, in each variant.
    pub assertions: Vec<AssertionSeen>,
    /// False verdicts that were foretold.
    pub claims: Vec<ClaimSeen>,
    /// Observed counts against known holders; `null` where the kernel counts none.
    pub accounting: Option<AccountingSeen>,
    /// Operations that this kernel does not show.
    pub unseen: Vec<String>,
}

/// One class of values.
#[derive(Debug, Serialize)]
pub struct RefcntSeen {
    /// As `docs/assertions.md` writes it.
    pub class: &'static str,
    /// `equal different unknown`.
    pub seq: &'static str,
    /// How often.
    pub count: u64,
}

/// One reason.
#[derive(Debug, Serialize)]
pub struct ReasonSeen {
    /// Its name.
    pub reason: &'static str,
    /// How often.
    pub count: u64,
}

/// Waits for one kind of lock.
#[derive(Debug, Serialize)]
pub struct WaitSeen {
    /// Its name.
    pub lock: &'static str,
    /// How many of known length.
    pub count: u64,
    /// The longest, in nanoseconds.
    pub max_ns: u64,
}

/// What one variant of `vma_assert_locked` would have said, to the acting task, to others that hold the VMA, and to one
/// that holds nothing.
#[derive(Debug, Serialize)]
pub struct AssertionSeen {
    /// Its name.
    pub variant: &'static str,
    /// Whether the kernel has lockdep: `on` or `off`.
    pub lockdep: &'static str,
    /// `right + false_positive + false_negative + unknown + unclaimed`.
    pub evaluated: u64,
    /// It said what was so.
    pub right: u64,
    /// It fired, and should not have.
    pub false_positive: u64,
    /// It was silent, and should have fired.
    pub false_negative: u64,
    /// It hung on what is not known.
    pub unknown: u64,
    /// The kernel asserts nothing there.
    pub unclaimed: u64,
}

/// One claim about an assertion.
#[derive(Debug, Serialize)]
pub struct ClaimSeen {
    /// Its name.
    pub claim: &'static str,
    /// How often it came true.
    pub count: u64,
    /// At how many events it could have.
    pub tries: u64,
    #[serde(skip)]
    words: &'static str,
}

/// The books of the count.
#[derive(Debug, Serialize)]
pub struct AccountingSeen {
    /// Values that were compared.
    pub checked: u64,
    /// Those that are explained.
    pub closed: u64,
    /// Those that are not.
    pub open: u64,
    /// By reason, those that occurred.
    pub open_by_reason: Vec<ReasonSeen>,
    /// States that the lock cannot be in.
    pub violations: u64,
}

impl Seen {
    pub(super) fn new(
        info: &SourceInfo,
        engine: &Engine,
        states: &States,
        checker: &Checker,
        losses: &Losses,
    ) -> Self {
        let totals = engine.totals();
        let reasons = |counts: &[u64]| {
            let pairs = Reason::ALL.iter().zip(counts);
            pairs
                .map(|(reason, &count)| ReasonSeen {
                    reason: reason.name(),
                    count,
                })
                .collect()
        };
        let mut refcnt = Vec::new();
        for class in RefcntClass::ALL {
            for (seq, &count) in SEQS.iter().zip(&states.refcnt[class as usize]) {
                refcnt.push(RefcntSeen {
                    class: class.name(),
                    seq,
                    count,
                });
            }
        }
        let mut unseen: Vec<String> = info
            .unseen
            .iter()
            .map(|unseen| format!("{} in {}: {}", unseen.operation, unseen.function, unseen.reason))
            .collect();
        unseen.dedup();
        Self {
            release: info.kernel.release.clone(),
            events: totals.received,
            lost: losses.dropped() + losses.missed,
            refcnt,
            temporary: reasons(&totals.temporary),
            refused: reasons(&totals.refused),
            waits: Lock::ALL
                .iter()
                .map(|&lock| WaitSeen {
                    lock: lock.name(),
                    count: totals.waits[lock as usize].count(),
                    max_ns: totals.waits[lock as usize].max_ns(),
                })
                .collect(),
            recycled: totals.recycled_vmas,
            claims: Claim::ALL
                .iter()
                .map(|&claim| ClaimSeen {
                    claim: claim.name(),
                    count: states.claims.seen[claim as usize],
                    tries: states.claims.tries[claim as usize],
                    words: claim.words(),
                })
                .collect(),
            assertions: assertions(checker),
            accounting: checker
                .accounting()
                .applies()
                .then(|| AccountingSeen::new(checker.accounting(), checker.violations().total())),
            unseen,
        }
    }
}

fn assertions(checker: &Checker) -> Vec<AssertionSeen> {
    let mut all: Vec<AssertionSeen> = Vec::new();
    for row in checker.assertions().rows() {
        if row.which.assertion() != "vma_assert_locked" {
            continue;
        }
        let (variant, lockdep) = (row.which.variant(), row.which.lockdep());
        let known = all
            .iter()
            .position(|seen| seen.variant == variant && seen.lockdep == lockdep);
        let at = known.unwrap_or_else(|| {
            all.push(AssertionSeen {
                variant,
                lockdep,
                evaluated: 0,
                right: 0,
                false_positive: 0,
                false_negative: 0,
                unknown: 0,
                unclaimed: 0,
            });
            all.len() - 1
        });
        let seen = &mut all[at];
        seen.evaluated += row.evaluated;
        seen.right += row.right;
        seen.false_positive += row.false_positive;
        seen.false_negative += row.false_negative;
        seen.unknown += row.unknown;
        seen.unclaimed += row.unclaimed;
    }
    all
}

impl AccountingSeen {
    fn new(accounting: &Accounting, violations: u64) -> Self {
        let totals = accounting.totals();
        let by = |reason: OpenReason| totals.open_by_reason[reason as usize];
        Self {
            checked: totals.checked,
            closed: totals.closed_exact + totals.closed_concurrent,
            open: totals.open,
            open_by_reason: OpenReason::ALL
                .iter()
                .filter(|&&reason| by(reason) > 0)
                .map(|&reason| ReasonSeen {
                    reason: reason.name(),
                    count: by(reason),
                })
                .collect(),
            violations,
        }
    }
}

impl Report {
    /// Whether something was seen that the lock cannot do.
    pub fn has_violations(&self) -> bool {
        let accounting = self.seen.as_ref().and_then(|seen| seen.accounting.as_ref());
        accounting.is_some_and(|accounting| accounting.violations > 0)
    }

    /// For people, in at most 80 columns.
    ///
    /// # Errors
    /// Of the writer.
    pub fn render(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "{}: {} threads, {}",
            self.scenario,
            self.threads,
            duration(self.duration_ns)
        )?;
        for why in &self.impossible {
            writeln!(out, "not run: {why}")?;
        }
        writeln!(out, "\n{:<40}{:>18}{:>15}", "DONE", "times", "a second")?;
        for operation in &self.operations {
            let Operation {
                name,
                count: times,
                per_second,
            } = operation;
            writeln!(out, "{name:<40}{:>18}{:>15}", count(*times), count(*per_second))?;
        }
        if let Some(why) = &self.untraced {
            writeln!(out, "\nnothing was counted: {why}")?;
        }
        match &self.seen {
            Some(seen) => seen.render(out),
            None => Ok(()),
        }
    }
}

impl Seen {
    fn render(&self, out: &mut impl Write) -> io::Result<()> {
        let events = count(self.events);
        writeln!(
            out,
            "\nseen on {} in {events} events, {} lost",
            self.release,
            count(self.lost)
        )?;
        // Where a value occurs depends on the kernel's offers; what never occurs is said as a count, too.
        writeln!(
            out,
            "\n{:<28}{:>16}{:>18}{:>15}",
            "VM_REFCNT", "write-locked", "not write-locked", "not known"
        )?;
        for row in self.refcnt.chunks(SEQS.len()) {
            let [equal, different, unknown] = row else {
                continue;
            };
            if equal.class == RefcntClass::Undocumented.name() && row.iter().all(|seen| seen.count == 0) {
                continue;
            }
            writeln!(
                out,
                "{:<28}{:>16}{:>18}{:>15}",
                equal.class,
                count(equal.count),
                count(different.count),
                count(unknown.count)
            )?;
        }
        writeln!(out, "\n{:<28}{:>16}{:>18}", "READERS", "temporary", "refused")?;
        for (temporary, refused) in self.temporary.iter().zip(&self.refused) {
            writeln!(
                out,
                "{:<28}{:>16}{:>18}",
                temporary.reason,
                count(temporary.count),
                count(refused.count)
            )?;
        }
        writeln!(out, "\n{:<28}{:>16}{:>18}", "WAITS", "count", "longest")?;
        for wait in &self.waits {
            writeln!(
                out,
                "{:<28}{:>16}{:>18}",
                wait.lock,
                count(wait.count),
                duration(wait.max_ns)
            )?;
        }
        writeln!(out, "\n{:<28}{:>16}", "VMAs used again", count(self.recycled))?;
        self.render_assertions(out)?;
        for claim in &self.claims {
            writeln!(out, "{}", claim.words)?;
            writeln!(
                out,
                "    {} times in {} tries, {events} events",
                count(claim.count),
                count(claim.tries)
            )?;
        }
        match &self.accounting {
            Some(accounting) => accounting.render(out)?,
            None => writeln!(out, "\nthis kernel's lock counts no readers: nothing to compare")?,
        }
        if !self.unseen.is_empty() {
            writeln!(
                out,
                "\nnot (or not wholly) seen here, so counts are too low; `tracer doctor` tells more:"
            )?;
            for line in &self.unseen {
                writeln!(out, "  {line}")?;
            }
        }
        Ok(())
    }
}

impl Seen {
    fn render_assertions(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "\n{:<28}{:>16}{:>18}{:>15}",
            "VMA_ASSERT_LOCKED", "asked", "fires falsely", "falsely silent"
        )?;
        for seen in &self.assertions {
            writeln!(
                out,
                "{:<28}{:>16}{:>18}{:>15}",
                format!("{}, lockdep {}", seen.variant, seen.lockdep),
                count(seen.evaluated - seen.unknown - seen.unclaimed),
                count(seen.false_positive),
                count(seen.false_negative)
            )?;
        }
        writeln!(out, "\nFORETOLD")
    }
}

impl AccountingSeen {
    fn render(&self, out: &mut impl Write) -> io::Result<()> {
        let percent = 100.0 * self.closed as f64 / self.checked.max(1) as f64;
        writeln!(
            out,
            "\nCHECKED {} counts against known holders: {} explained ({percent:.3} %), {} open, {} violations",
            count(self.checked),
            count(self.closed),
            count(self.open),
            count(self.violations)
        )?;
        for reason in &self.open_by_reason {
            writeln!(out, "    {:<24}{:>16}", reason.reason, count(reason.count))?;
        }
        Ok(())
    }
}
