//! The report as tables of at most 80 columns.

mod contention;

use std::io::{self, Write};

use super::{Report, TaskReport};
use crate::sink::text::{count, duration, fit, wrap};

/// A part of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Section {
    /// Events by kind.
    Events,
    /// Each lock: taken, given back, held; waits and holds in sum; how surely that is known.
    Locks,
    /// Waits by task, process, VMA, address space, site and caller; the longest.
    Waits,
    /// Holds by the same, idle or contended; the worst and the longest.
    Holds,
    /// Who waited for whom, what that one did, and who waits for each other.
    Chains,
    /// Page faults, and by process and VMA why they took the mmap_lock.
    Faults,
    /// Tasks: what they did, hold and wait for.
    Tasks,
    /// Address spaces.
    Mms,
    /// Events and losses by CPU.
    Cpus,
    /// What the probes cost.
    Probes,
    /// What this kernel does not show.
    Unseen,
    /// Observed counts against known readers.
    Accounting,
    /// What should not be.
    Anomalies,
}

/// How tables look.
#[derive(Clone, Debug, Default)]
pub struct Style {
    /// Whether headings are bold; to be had only on a terminal and without `NO_COLOR`.
    pub bold: bool,
    /// How many tasks and address spaces to list; the rest is counted.
    pub rows: usize,
    /// Only these, in full; empty: all, those that can be long in short.
    pub sections: Vec<Section>,
}

impl Style {
    /// For standard output as it is: a terminal, `NO_COLOR` or a pipe.
    pub fn for_stdout() -> Self {
        use std::io::IsTerminal as _;
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            bold: !no_color && io::stdout().is_terminal(),
            rows: 20,
            sections: Vec::new(),
        }
    }
}

/// Writes the report for people.
///
/// # Errors
/// Those of `out`.
pub fn render(report: &Report, style: Style, out: &mut impl Write) -> io::Result<()> {
    let mut page = Page {
        out,
        style,
        start_ns: report.start_ns,
    };
    page.summary(report)?;
    if let Some(contention) = &report.contention {
        page.deadlocks(&contention.chains)?;
    }
    const ALL: &[Section] = &[
        Section::Events,
        Section::Locks,
        Section::Waits,
        Section::Holds,
        Section::Chains,
        Section::Faults,
        Section::Tasks,
        Section::Mms,
        Section::Cpus,
        Section::Probes,
        Section::Unseen,
        Section::Accounting,
        Section::Anomalies,
    ];
    let chosen = page.style.sections.clone();
    for &section in ALL {
        if chosen.is_empty() || chosen.contains(&section) {
            page.section(report, section, !chosen.is_empty())?;
        }
    }
    Ok(())
}

pub(super) struct Page<'a, W> {
    pub(super) out: &'a mut W,
    style: Style,
    /// When the source began (`CLOCK_MONOTONIC`).
    start_ns: u64,
}

impl<'a, W: Write> Page<'a, W> {
    /// An empty page.
    #[cfg(test)]
    pub(super) fn new(out: &'a mut W, style: Style) -> Self {
        Self {
            out,
            style,
            start_ns: 0,
        }
    }
}

impl<W: Write> Page<'_, W> {
    fn section(&mut self, report: &Report, section: Section, all: bool) -> io::Result<()> {
        let parts = report.contention.as_ref();
        match section {
            Section::Events => self.events(report),
            Section::Locks => {
                self.locks(report)?;
                self.surety(report)
            }
            Section::Waits => parts.map_or(Ok(()), |of| self.waits(&of.groups, all)),
            Section::Holds => parts.map_or(Ok(()), |of| self.holds(&of.groups, all)),
            Section::Chains => parts.map_or(Ok(()), |of| self.chains(&of.chains, all)),
            Section::Faults => {
                self.failures(report)?;
                self.faults(report)?;
                let Some(groups) = parts.map(|of| &of.faults) else {
                    return Ok(());
                };
                self.faults_by("FAULTS BY PROCESS", &groups.processes, all, |of| {
                    format!("{} {}", of.pid, of.comm)
                })?;
                self.faults_by("FAULTS BY VMA", &groups.vmas, all, |of| {
                    match (of.vm_start, of.vm_end) {
                        (None, _) | (_, None) => format!("no VMA, of {}", of.pid),
                        _ => contention::range(of.pid, of.vm_start, of.vm_end),
                    }
                })
            }
            Section::Tasks => self.tasks(report),
            Section::Mms => self.mms(report),
            Section::Cpus => self.cpus(report),
            Section::Probes => report
                .probes
                .as_ref()
                .map_or(Ok(()), |probes| self.probes(probes, all)),
            Section::Unseen => self.unseen(report),
            Section::Accounting => self.accounting(report),
            Section::Anomalies => self.anomalies(report),
        }
    }

    pub(super) fn heading(&mut self, text: &str) -> io::Result<()> {
        if self.style.bold {
            writeln!(self.out, "\n\x1b[1m{text}\x1b[0m")
        } else {
            writeln!(self.out, "\n{text}")
        }
    }

    fn summary(&mut self, report: &Report) -> io::Result<()> {
        let events = &report.events;
        let kernel = &report.kernel;
        let rate = u128::from(events.received) * 1_000_000_000 / u128::from(report.duration_ns.max(1));
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        writeln!(
            self.out,
            "kernel {} {}   source {}   {}   {} events/s",
            kernel.release,
            kernel.machine,
            report.source,
            duration(report.duration_ns),
            count(rate)
        )?;
        writeln!(
            self.out,
            "events {}: {} received, {} derived, {} gaps",
            count(events.total),
            count(events.received),
            count(events.derived),
            count(events.gaps),
        )?;
        writeln!(
            self.out,
            "lost   {} dropped by a full ring buffer, {} missing, {} probe runs skipped",
            count(events.dropped),
            count(events.missing),
            count(events.missed)
        )?;
        if !events.unpaired.is_empty() {
            let all: Vec<String> = events
                .unpaired
                .iter()
                .map(|(why, &number)| format!("{} {}", count(number), why.replace('_', " ")))
                .collect();
            writeln!(self.out, "       in no hold: {}", all.join(", "))?;
        }
        if !report.filters.is_empty() {
            writeln!(self.out, "only   {}", fit(&report.filters.join(" "), 73))?;
        }
        if let Some(flight) = &report.flight {
            let fired = &flight.fired;
            let short = if flight.cut_short {
                ", all that there was memory for"
            } else {
                ""
            };
            let before = duration(flight.before_ns);
            let why = format!("{}: {}; {before} before{short}", fired.trigger, fired.what);
            for (at, line) in wrap(&why, 73).iter().enumerate() {
                let label = if at == 0 { "fired" } else { "" };
                writeln!(self.out, "{label:<7}{line}")?;
            }
        }
        for warning in &report.warnings {
            for (at, line) in wrap(warning, 73).iter().enumerate() {
                let label = if at == 0 { "note" } else { "" };
                writeln!(self.out, "{label:<7}{line}")?;
            }
        }
        Ok(())
    }

    fn events(&mut self, report: &Report) -> io::Result<()> {
        self.heading("EVENTS")?;
        let kinds: Vec<_> = tracer_common::wire::Kind::ALL
            .iter()
            .map(|kind| (kind.name(), report.events.by_kind[kind.name()]))
            .filter(|&(_, count)| count > 0)
            .collect();
        for pair in kinds.chunks(2) {
            let mut line = String::new();
            for (name, number) in pair {
                line += &format!("{name:<18}{:>16}      ", count(*number));
            }
            writeln!(self.out, "{}", line.trim_end())?;
        }
        if kinds.is_empty() {
            writeln!(self.out, "none")?;
        }
        Ok(())
    }

    fn locks(&mut self, report: &Report) -> io::Result<()> {
        self.heading(&format!(
            "{:<10}{:>13}{:>13}{:>8}{:>16}{:>14}",
            "LOCKS", "taken", "given back", "held", "start unknown", "end unknown"
        ))?;
        for (name, books) in &report.balance {
            writeln!(
                self.out,
                "{name:<10}{:>13}{:>13}{:>8}{:>16}{:>14}",
                count(books.acquires + books.converted_in),
                count(books.releases + books.converted_out),
                count(books.held),
                count(books.unknown_starts),
                count(books.lost)
            )?;
            if !books.balanced {
                writeln!(self.out, "          {name} does not add up: please report this")?;
            }
        }
        for (title, table) in [("WAITS", &report.waits), ("HOLDS", &report.holds)] {
            self.heading(&format!(
                "{title:<10}{:>12}{:>12}{:>11}{:>11}{:>11}{:>12}",
                "count", "total", "half", "99 %", "longest", "unknown"
            ))?;
            for (name, times) in table {
                if times.count + times.unknown == 0 {
                    continue;
                }
                writeln!(
                    self.out,
                    "{name:<10}{:>12}{:>12}{:>11}{:>11}{:>11}{:>12}",
                    count(times.count),
                    duration(times.total_ns),
                    duration(times.p50_ns),
                    duration(times.p99_ns),
                    duration(times.max_ns),
                    count(times.unknown)
                )?;
            }
        }
        Ok(())
    }

    /// Only of what is not all observed: most of it is.
    fn surety(&mut self, report: &Report) -> io::Result<()> {
        let mut rows = Vec::new();
        for (lock, known) in &report.provenance {
            for (what, counts) in [
                ("taken", known.acquires),
                ("given back", known.releases),
                ("holds", known.holds),
            ] {
                if counts.derived + counts.bounded + counts.unknown > 0 {
                    rows.push((lock, what, counts));
                }
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        self.heading(&format!(
            "{:<10}{:<12}{:>13}{:>13}{:>13}{:>13}",
            "HOW KNOWN", "", "observed", "derived", "bounded", "unknown"
        ))?;
        for (lock, what, counts) in rows {
            writeln!(
                self.out,
                "{lock:<10}{what:<12}{:>13}{:>13}{:>13}{:>13}",
                count(counts.observed),
                count(counts.derived),
                count(counts.bounded),
                count(counts.unknown)
            )?;
        }
        Ok(())
    }

    fn failures(&mut self, report: &Report) -> io::Result<()> {
        if report.read_failures.is_empty() {
            return Ok(());
        }
        self.heading(&format!(
            "{:<16}{:>16}{:>16}{:>16}",
            "NOT READ-LOCKED", "look-ups", "tries refused", "taken back"
        ))?;
        for (reason, counts) in &report.read_failures {
            writeln!(
                self.out,
                "{reason:<16}{:>16}{:>16}{:>16}",
                count(counts.failed),
                count(counts.refused),
                count(counts.temporary)
            )?;
        }
        Ok(())
    }

    fn faults(&mut self, report: &Report) -> io::Result<()> {
        self.heading(&format!(
            "{:<12}{:>12}{:>14}{:>10}{:>12}{:>8}{:>10}",
            "PAGE FAULTS", "total", "VMA lock", "retried", "mmap_lock", "error", "given up"
        ))?;
        for (name, faults) in [("all", &report.faults), ("user", &report.user_faults)] {
            writeln!(
                self.out,
                "{name:<12}{:>12}{:>14}{:>10}{:>12}{:>8}{:>10}",
                count(faults.total),
                count(faults.vma_lock),
                count(faults.retried),
                count(faults.mmap_lock),
                count(faults.error),
                count(faults.abandoned)
            )?;
        }
        Ok(())
    }

    fn tasks(&mut self, report: &Report) -> io::Result<()> {
        self.heading(&format!(
            "{:<7} {:<15}{:>9}{:>8}{:>8}{:>9}{:>10}{:>11}",
            "TASK", "", "events", "mmap r", "mmap w", "faults", "waited", "worst hold"
        ))?;
        for task in report.tasks.iter().take(self.style.rows) {
            self.task(task)?;
        }
        self.rest(report.tasks.len(), "tasks")
    }

    fn task(&mut self, task: &TaskReport) -> io::Result<()> {
        let counters = &task.counters;
        let waited = counters.waits.values().map(|wait| wait.total_ns).sum();
        let worst = counters.holds.values().map(|hold| hold.max_ns).max();
        let comm = if task.is_self {
            format!("{} (self)", task.comm)
        } else {
            task.comm.clone()
        };
        writeln!(
            self.out,
            "{:<7} {:<15}{:>9}{:>8}{:>8}{:>9}{:>10}{:>11}",
            task.tid,
            fit(&comm, 15),
            counters.events,
            counters.acquires["mmap_read"],
            counters.acquires["mmap_write"],
            counters.faults.total,
            duration(waited),
            duration(worst.unwrap_or(0))
        )?;
        if let Some(wait) = &task.wait {
            writeln!(self.out, "        waits for {} ({})", wait.lock, wait.certainty)?;
        }
        for (at, hold) in task.held.iter().enumerate() {
            if at == 4 {
                return writeln!(self.out, "        and {} more", task.held.len() - at);
            }
            let range = match (hold.vm_start, hold.vm_end) {
                (Some(start), Some(end)) => format!(" of {start:x}-{end:x}"),
                _ => String::new(),
            };
            writeln!(
                self.out,
                "        holds {}{range} ({})",
                hold.lock, hold.certainty
            )?;
        }
        Ok(())
    }

    fn mms(&mut self, report: &Report) -> io::Result<()> {
        self.heading(&format!(
            "{:<17} {:>8}{:>11}{:>11}{:>11}{:>11}",
            "ADDRESS SPACE", "pid", "mmap r", "mmap w", "vma r", "vma w"
        ))?;
        for mm in report.mms.iter().take(self.style.rows) {
            writeln!(
                self.out,
                "{:<17} {:>8}{:>11}{:>11}{:>11}{:>11}",
                mm.mm,
                mm.pid,
                count(mm.acquires["mmap_read"]),
                count(mm.acquires["mmap_write"]),
                count(mm.acquires["vma_read"]),
                count(mm.acquires["vma_write"])
            )?;
        }
        self.rest(report.mms.len(), "address spaces")?;
        let reused = report.reused;
        if reused.vmas + reused.mms + reused.tids > 0 {
            writeln!(
                self.out,
                "used again: {} vm_area_structs, {} mm_structs, {} thread numbers",
                count(reused.vmas),
                count(reused.mms),
                count(reused.tids)
            )?;
        }
        Ok(())
    }

    fn rest(&mut self, all: usize, what: &str) -> io::Result<()> {
        if all > self.style.rows {
            writeln!(
                self.out,
                "and {} more {what}; --json has them all",
                all - self.style.rows
            )?;
        }
        Ok(())
    }

    fn cpus(&mut self, report: &Report) -> io::Result<()> {
        self.heading("CPU        produced      received       dropped       missing")?;
        for cpu in &report.cpus {
            let mark = if cpu.balanced { "" } else { "  does not add up" };
            writeln!(
                self.out,
                "{:<5}{:>14}{:>14}{:>14}{:>14}{mark}",
                cpu.cpu,
                count(cpu.produced),
                count(cpu.received),
                count(cpu.dropped),
                count(cpu.missing)
            )?;
        }
        Ok(())
    }

    fn unseen(&mut self, report: &Report) -> io::Result<()> {
        if report.unseen.is_empty() {
            return Ok(());
        }
        self.heading("NOT SEEN on this kernel")?;
        for unseen in &report.unseen {
            writeln!(self.out, "{} in {}:", unseen.operation, unseen.function)?;
            for line in wrap(&unseen.reason, 76) {
                writeln!(self.out, "    {line}")?;
            }
        }
        Ok(())
    }

    fn accounting(&mut self, report: &Report) -> io::Result<()> {
        let Some(accounting) = report.accounting.as_ref().filter(|all| all.checked > 0) else {
            return Ok(());
        };
        self.heading("ACCOUNTING: each observed vm_refcnt against what is known of its VMA")?;
        let part = 100.0 * accounting.closed as f64 / accounting.checked as f64;
        // Rounded down, so that what is not all is never shown as all.
        let part = (part * 1000.0).floor() / 1000.0;
        writeln!(
            self.out,
            "{} checked, {} closed ({part:.3} %): {} exactly, {} by operations in flight",
            count(accounting.checked),
            count(accounting.closed),
            count(accounting.closed_exact),
            count(accounting.closed_concurrent)
        )?;
        for (reason, number) in &accounting.open_by_reason {
            writeln!(self.out, "open: {reason:<22}{:>12}", count(*number))?;
        }
        for case in accounting.first.iter().take(5) {
            let line = format!(
                "  {} at {} ns: {} by {} read {:#x}, {} to {} readers known",
                case.reason,
                case.ts_ns,
                case.kind,
                case.tid,
                case.vm_refcnt,
                case.definite,
                case.definite + case.possible
            );
            for (at, line) in wrap(&line, 76).iter().enumerate() {
                writeln!(self.out, "{}{line}", if at == 0 { "  " } else { "    " })?;
            }
        }
        Ok(())
    }

    fn anomalies(&mut self, report: &Report) -> io::Result<()> {
        if report.anomalies.total == 0 {
            return Ok(());
        }
        self.heading("ANOMALIES: what should not be, with no gap to explain it")?;
        for (name, number) in &report.anomalies.by_kind {
            writeln!(self.out, "{name:<28}{:>12}", count(*number))?;
        }
        for anomaly in report.anomalies.first.iter().take(5) {
            let line = format!(
                "  {} at {} ns: {} by {} ({})",
                anomaly.anomaly, anomaly.ts_ns, anomaly.kind, anomaly.tid, anomaly.comm
            );
            writeln!(self.out, "{}", fit(&line, 80))?;
        }
        Ok(())
    }
}
