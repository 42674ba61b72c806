//! The report as tables of at most 80 columns.

use std::io::{self, Write};

use super::collect::refcnt;
use super::{AssertionReport, InstantReport, Report};
use crate::sink::stats::Style;
use crate::sink::text::{count, duration, fit, wrap};

/// How many violations are told in full.
const VIOLATIONS_SHOWN: usize = 10;

/// Writes the report for people.
///
/// # Errors
/// Those of `out`.
pub fn render(report: &Report, style: Style, out: &mut impl Write) -> io::Result<()> {
    let mut page = Page { out, style };
    page.summary(report)?;
    page.accounting(report)?;
    page.violations(report)?;
    page.assertions(report)?;
    page.examples(report)
}

struct Page<'a, W> {
    out: &'a mut W,
    style: Style,
}

impl<W: Write> Page<'_, W> {
    fn heading(&mut self, text: &str) -> io::Result<()> {
        if self.style.bold {
            writeln!(self.out, "\n\x1b[1m{text}\x1b[0m")
        } else {
            writeln!(self.out, "\n{text}")
        }
    }

    fn labelled(&mut self, label: &str, text: &str) -> io::Result<()> {
        for (at, line) in wrap(text, 71).iter().enumerate() {
            let label = if at == 0 { label } else { "" };
            writeln!(self.out, "{label:<9}{line}")?;
        }
        Ok(())
    }

    fn summary(&mut self, report: &Report) -> io::Result<()> {
        let (events, kernel) = (&report.events, &report.kernel);
        writeln!(
            self.out,
            "kernel   {} {}   source {}   {}",
            kernel.release,
            kernel.machine,
            report.source,
            duration(report.duration_ns)
        )?;
        writeln!(
            self.out,
            "events   {}: {} gaps, {} missing, {} dropped, {} probe runs skipped, {} odd",
            count(events.received),
            count(events.gaps),
            count(events.missing),
            count(events.dropped),
            count(events.missed),
            count(events.odd)
        )?;
        if !report.filters.is_empty() {
            self.labelled("only", &report.filters.join(" "))?;
        }
        let truth = match report.truth.by {
            "lockdep" => format!(
                "lockdep's; ours was compared with it {} times and differed {} times",
                count(report.truth.compared),
                count(report.truth.differed)
            ),
            _ => "rebuilt from the events".to_owned(),
        };
        writeln!(self.out, "truth    {truth}")?;
        let unknown: Vec<String> = report
            .unknown_by_reason
            .iter()
            .map(|(why, number)| format!("{} {why}", count(*number)))
            .collect();
        if !unknown.is_empty() {
            self.labelled("unknown", &format!("verdicts at {} instants", unknown.join(", ")))?;
        }
        for unseen in &report.unseen {
            self.labelled("unseen", &format!("{} in {}", unseen.operation, unseen.function))?;
        }
        if report.coverage_holes > 0 {
            let holes = format!(
                "{} read locks were found gone whose release no probe has seen",
                count(report.coverage_holes)
            );
            self.labelled("holes", &holes)?;
        }
        for warning in &report.warnings {
            self.labelled("note", warning)?;
        }
        Ok(())
    }

    fn accounting(&mut self, report: &Report) -> io::Result<()> {
        let accounting = &report.accounting;
        self.heading(&format!(
            "{:<14}{:>13}{:>13}{:>13}{:>11}{:>11}",
            "ACCOUNTING", "checked", "as predicted", "in flight", "open", "closed"
        ))?;
        for (name, quantity) in &accounting.by_quantity {
            if !quantity.applies {
                writeln!(
                    self.out,
                    "{name:<14}  this kernel's lock has none, or not this one"
                )?;
                continue;
            }
            let closed = quantity.closed_exact + quantity.closed_concurrent;
            writeln!(
                self.out,
                "{name:<14}{:>13}{:>13}{:>13}{:>11}{:>11}",
                count(quantity.checked),
                count(quantity.closed_exact),
                count(quantity.closed_concurrent),
                count(quantity.open),
                percent(closed, quantity.checked)
            )?;
        }
        writeln!(
            self.out,
            "{:<14}{:>13}{:>13}{:>13}{:>11}{:>11}",
            "all",
            count(accounting.checked),
            count(accounting.closed_exact),
            count(accounting.closed_concurrent),
            count(accounting.open),
            percent(accounting.closed, accounting.checked)
        )?;
        for (reason, number) in &accounting.open_by_reason {
            writeln!(self.out, "  open: {reason:<22}{:>12}", count(*number))?;
        }
        Ok(())
    }

    fn violations(&mut self, report: &Report) -> io::Result<()> {
        if report.violation_count == 0 {
            self.heading("VIOLATIONS: none")?;
        } else {
            self.heading("VIOLATIONS: states that the lock cannot be in")?;
        }
        for (kind, number) in &report.violations_by_kind {
            writeln!(self.out, "{kind:<32}{:>12}", count(*number))?;
        }
        for violation in report.violations.iter().take(VIOLATIONS_SHOWN) {
            writeln!(self.out, "  {}", violation.violation)?;
            self.indented(&violation.what)?;
            self.instant(&violation.instant)?;
        }
        if report.taken_back > 0 {
            writeln!(
                self.out,
                "{} more were explained by a gap that turned up later",
                count(report.taken_back)
            )?;
        }
        Ok(())
    }

    fn indented(&mut self, text: &str) -> io::Result<()> {
        for line in wrap(text, 74) {
            writeln!(self.out, "      {line}")?;
        }
        Ok(())
    }

    fn instant(&mut self, instant: &InstantReport) -> io::Result<()> {
        let number = |value: Option<u32>| value.map_or("?".to_owned(), |value| value.to_string());
        let mut line = format!(
            "at {} ns: {} by {} ({})",
            instant.ts_ns, instant.kind, instant.tid, instant.comm
        );
        if let Some(vma) = &instant.vma {
            line += &format!(", VMA {vma}");
        }
        line += &format!(
            ", vm_refcnt {}, vm_lock_seq {}, mm_lock_seq {}",
            instant.vm_refcnt.map_or("?".to_owned(), refcnt),
            number(instant.vm_lock_seq),
            number(instant.mm_lock_seq)
        );
        let mut held = Vec::new();
        if instant.reader_count > 0 {
            let tids: Vec<String> = instant.readers.iter().map(u32::to_string).collect();
            let more = instant.reader_count as usize - instant.readers.len();
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            held.push(format!("read by {}{more}", tids.join(" ")));
        }
        for (what, who) in [
            ("written by", instant.writer),
            ("awaited by", instant.waiting_writer),
            ("mmap_lock written by", instant.mmap_writer),
        ] {
            if let Some(who) = who {
                held.push(format!("{what} {who}"));
            }
        }
        line += "; then ";
        line += &if held.is_empty() {
            "held by nobody".to_owned()
        } else {
            held.join(", ")
        };
        self.indented(&line)
    }

    fn assertions(&mut self, report: &Report) -> io::Result<()> {
        if report.kernel.family == crate::info::Family::Rwsem {
            self.heading("ASSERTIONS")?;
            return self.indented(
                "This kernel's lock has no count: the assertions do not exist there, and nothing is judged.",
            );
        }
        self.heading(&format!(
            "{:<21}{:<5}{:<12} {:>11} {:>9} {:>9} {:>9}",
            "ASSERTION, lockdep", "", "asked by", "right", "false +", "false -", "unknown"
        ))?;
        let mut last = "";
        for row in report
            .assertions
            .iter()
            .filter(|row| row.evaluated > row.unclaimed)
        {
            let name = if row.assertion == "vma_assert_locked" {
                row.variant
            } else {
                row.assertion.trim_start_matches("vma_assert_")
            };
            if row.assertion == "vma_assert_locked" && last != "vma_assert_locked" {
                writeln!(self.out, "vma_assert_locked, by variant:")?;
            } else if row.assertion != "vma_assert_locked" && last == "vma_assert_locked" {
                writeln!(self.out, "vma_assert_…:")?;
            }
            last = row.assertion;
            writeln!(
                self.out,
                "  {name:<19}{:<5}{:<12} {:>11} {:>9} {:>9} {:>9}",
                row.lockdep,
                row.viewpoint,
                count(row.right),
                count(row.false_positive),
                count(row.false_negative),
                count(row.unknown)
            )?;
        }
        Ok(())
    }

    fn examples(&mut self, report: &Report) -> io::Result<()> {
        let wrong: Vec<&AssertionReport> = report
            .assertions
            .iter()
            .filter(|row| row.example.is_some())
            .collect();
        if wrong.is_empty() {
            return Ok(());
        }
        self.heading("WRONG VERDICTS, one of each")?;
        for row in wrong {
            let Some(example) = &row.example else { continue };
            let name = if row.assertion == "vma_assert_locked" {
                format!("{} (vma_assert_locked)", row.variant)
            } else {
                row.assertion.to_owned()
            };
            let line = format!(
                "{name}, lockdep {}, asked by {}: {}",
                row.lockdep, row.viewpoint, example.verdict
            );
            writeln!(self.out, "  {}", fit(&line, 78))?;
            let predicted = if row.unpredicted == 0 {
                "predicted by the model".to_owned()
            } else {
                format!("{} of these the model does not predict", count(row.unpredicted))
            };
            self.indented(&format!(
                "a {}, refcnt {}, sequence numbers {}, mmap_lock: {}; {predicted}",
                example.standing,
                example.refcnt_class,
                if example.seq_equal { "equal" } else { "different" },
                example.mmap_lock.join(" or "),
            ))?;
            self.instant(&example.instant)?;
        }
        Ok(())
    }
}

/// Rounded down, so that what is not all is never shown as all.
fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let thousandths = u128::from(part) * 100_000 / u128::from(whole);
    format!("{}.{:03} %", thousandths / 1000, thousandths % 1000)
}
