//! Waits, holds, chains and faults by group, as tables.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::super::chains::{ChainsReport, EdgeReport, LockReport, LongReport, PersonReport, TreeReport};
use super::super::fault_groups::{FaultGroupReport, FaultTableReport};
use super::super::groups::{GroupReport, GroupsReport, SpanReport, StackReport, TableReport, TimesReport};
use super::Page;
use crate::sink::text::{count, duration, fit, wrap};

/// One line of a table: of what, which lock, its times.
type Line<'a> = (String, &'static str, &'a TimesReport);

impl<W: Write> Page<'_, W> {
    /// What nobody will get out of comes first of all.
    pub(super) fn deadlocks(&mut self, chains: &ChainsReport) -> io::Result<()> {
        for cycle in &chains.cycles {
            let what = if cycle.deadlock {
                "DEADLOCK"
            } else {
                "WAIT FOR EACH OTHER, so far"
            };
            self.heading(&format!(
                "{what}: {} tasks, for {} ({})",
                cycle.members.len(),
                duration(cycle.lasted_ns),
                cycle.certainty
            ))?;
            for member in &cycle.members {
                let line = format!("{} waits for {}", person(&member.who), lock(&member.lock));
                self.lines("", &line)?;
            }
            self.lines("", "each waits for the next, the last for the first")?;
        }
        Ok(())
    }

    pub(super) fn waits(&mut self, groups: &GroupsReport, all: bool) -> io::Result<()> {
        let rows = self.rows(all);
        self.waits_of("WAITS BY TASK", &groups.tasks, rows, |of| {
            format!("{} {}", of.tid, of.comm)
        })?;
        if all {
            self.waits_of("WAITS BY PROCESS", &groups.processes, rows, |of| {
                format!("{} {}", of.pid, of.comm)
            })?;
        }
        self.waits_of("WAITS BY VMA", &groups.vmas, rows, |of| {
            range(of.pid, of.vm_start, of.vm_end)
        })?;
        if all {
            self.waits_of("WAITS BY MM", &groups.mms, rows, |of| {
                format!("{} of {}", of.mm.as_deref().unwrap_or("?"), of.pid)
            })?;
            self.waits_of("WAITS BY SITE", &groups.sites, rows, |of| {
                of.site.clone().unwrap_or_else(|| "?".into())
            })?;
        }
        self.waits_of("WAITS BY CALLER", &groups.callers, rows, |of| {
            of.function.clone().unwrap_or_else(|| "?".into())
        })?;
        if all {
            self.spans("LONGEST WAITS", &groups.longest_waits, rows)?;
            self.given_up(&groups.all)?;
        }
        Ok(())
    }

    pub(super) fn holds(&mut self, groups: &GroupsReport, all: bool) -> io::Result<()> {
        let rows = self.rows(all);
        self.holds_of("HOLDS BY TASK", &groups.tasks, rows, |of| {
            format!("{} {}", of.tid, of.comm)
        })?;
        if all {
            self.holds_of("HOLDS BY PROCESS", &groups.processes, rows, |of| {
                format!("{} {}", of.pid, of.comm)
            })?;
            self.holds_of("HOLDS BY VMA", &groups.vmas, rows, |of| {
                range(of.pid, of.vm_start, of.vm_end)
            })?;
            self.holds_of("HOLDS BY MM", &groups.mms, rows, |of| {
                format!("{} of {}", of.mm.as_deref().unwrap_or("?"), of.pid)
            })?;
            self.holds_of("HOLDS BY SITE", &groups.sites, rows, |of| {
                of.site.clone().unwrap_or_else(|| "?".into())
            })?;
        }
        self.holds_of("HOLDS BY CALLER", &groups.callers, rows, |of| {
            of.function.clone().unwrap_or_else(|| "?".into())
        })?;
        self.spans("WORST HOLDS (others waited)", &groups.worst_holds, rows.min(3))?;
        if all {
            self.spans("LONGEST HOLDS", &groups.longest_holds, rows)?;
        }
        Ok(())
    }

    fn rows(&self, all: bool) -> usize {
        if all {
            self.style.rows
        } else {
            self.style.rows.min(5)
        }
    }

    fn waits_of<K>(
        &mut self,
        title: &str,
        table: &TableReport<K>,
        most: usize,
        label: impl Fn(&K) -> String,
    ) -> io::Result<()> {
        let of = |group: &'_ GroupReport| -> Vec<&'static str> { group.waits.keys().copied().collect() };
        let mut lines: Vec<Line<'_>> = Vec::new();
        for row in &table.rows {
            for lock in of(&row.times) {
                lines.push((label(&row.of), lock, &row.times.waits[lock]));
            }
        }
        lines.sort_by_key(|(_, _, times)| core::cmp::Reverse(times.total_ns));
        if lines.is_empty() {
            return Ok(());
        }
        self.heading(&format!(
            "{title:<26}{:<7}{:>8}{:>9}{:>9}{:>9}{:>9}",
            "", "count", "total", "half", "99 %", "longest"
        ))?;
        for (label, lock, times) in lines.iter().take(most) {
            writeln!(
                self.out,
                "{:<26}{:<7}{:>8}{:>9}{:>9}{:>9}{:>9}",
                fit(label, 25),
                short(lock),
                count(times.count),
                duration(times.total_ns),
                duration(times.p50_ns),
                duration(times.p99_ns),
                duration(times.longest.as_ref().map_or(0, |span| span.ns))
            )?;
        }
        let others = table.others.waits.values();
        let others = others.map(|times| (times.count, times.total_ns));
        self.others(&lines[most.min(lines.len())..], others, table)
    }

    fn holds_of<K>(
        &mut self,
        title: &str,
        table: &TableReport<K>,
        most: usize,
        label: impl Fn(&K) -> String,
    ) -> io::Result<()> {
        let mut lines: Vec<Line<'_>> = Vec::new();
        for row in &table.rows {
            for (lock, times) in &row.times.holds {
                lines.push((label(&row.of), lock, times));
            }
        }
        lines.sort_by_key(|(_, _, times)| core::cmp::Reverse((times.caused_ns.unwrap_or(0), times.total_ns)));
        if lines.is_empty() {
            return Ok(());
        }
        self.heading(&format!(
            "{title:<26}{:<7}{:>7}{:>9}{:>8}{:>8}{:>7} {:>7}",
            "", "count", "total", "99 %", "longest", "waited", "caused"
        ))?;
        for (label, lock, times) in lines.iter().take(most) {
            writeln!(
                self.out,
                "{:<26}{:<7}{:>7}{:>9}{:>8}{:>8}{:>7} {:>7}",
                fit(label, 25),
                short(lock),
                count(times.count),
                duration(times.total_ns),
                duration(times.p99_ns),
                duration(times.longest.as_ref().map_or(0, |span| span.ns)),
                times.contended.map_or("-".into(), count),
                times.caused_ns.map_or("-".into(), duration)
            )?;
        }
        let others = table.others.holds.values();
        let others = others.map(|times| (times.count, times.total_ns));
        self.others(&lines[most.min(lines.len())..], others, table)
    }

    /// What the table does not show: lines that did not fit, and rows that had to go.
    fn others<K>(
        &mut self,
        lines: &[Line<'_>],
        gone: impl Iterator<Item = (u64, u64)>,
        table: &TableReport<K>,
    ) -> io::Result<()> {
        let shown = lines.iter().map(|(_, _, times)| (times.count, times.total_ns));
        let (number, total_ns) = shown.chain(gone).fold((0, 0_u64), |sum, one| {
            (sum.0 + one.0, sum.1.saturating_add(one.1))
        });
        if number > 0 {
            let merged = if table.merged > 0 {
                format!(", {} of them merged rows", count(table.merged))
            } else {
                String::new()
            };
            let text = format!("{} more lines{merged}", count(lines.len() as u64 + table.merged));
            writeln!(
                self.out,
                "{:<33}{:>8}{:>9}",
                fit(&text, 32),
                count(number),
                duration(total_ns)
            )?;
        }
        Ok(())
    }

    fn given_up(&mut self, all: &GroupReport) -> io::Result<()> {
        if all.given_up.is_empty() {
            return Ok(());
        }
        self.heading("GIVEN UP: failed trylocks, and tasks killed while they waited")?;
        for (lock, times) in &all.given_up {
            writeln!(
                self.out,
                "{lock:<11}{:>8} times, {} in all, longest {}",
                count(times.count),
                duration(times.total_ns),
                duration(times.longest.as_ref().map_or(0, |span| span.ns))
            )?;
        }
        Ok(())
    }

    fn spans(
        &mut self,
        title: &str,
        spans: &BTreeMap<&'static str, Vec<SpanReport>>,
        most: usize,
    ) -> io::Result<()> {
        if spans.is_empty() {
            return Ok(());
        }
        self.heading(title)?;
        for (lock, list) in spans {
            for span in list.iter().take(most) {
                let mut line = format!("{} {lock} by {} {}", duration(span.ns), span.tid, span.comm);
                if let (Some(start), Some(end)) = (span.vm_start, span.vm_end) {
                    line += &format!(" of {start:x}-{end:x}");
                }
                line += &format!(", from {}", self.at(span.since_ns));
                match (span.caused_ns, span.waiters) {
                    (Some(0), _) => line += ", idle: nobody waited",
                    (Some(ns), Some(waiters)) => {
                        line += &format!(", {waiters} waited {} for it", duration(ns));
                    }
                    _ => {}
                }
                self.lines("", &line)?;
                self.stack(span.stack.as_ref())?;
            }
        }
        Ok(())
    }

    fn stack(&mut self, stack: Option<&StackReport>) -> io::Result<()> {
        let Some(stack) = stack else { return Ok(()) };
        for (what, frames) in [("kernel", &stack.kernel), ("user", &stack.user)] {
            if !frames.is_empty() {
                let frames: Vec<&str> = frames.iter().take(8).map(String::as_str).collect();
                self.lines("      ", &format!("{what}: {}", frames.join(" < ")))?;
            }
        }
        Ok(())
    }

    /// A point in time, from the start of the source.
    fn at(&self, ts_ns: u64) -> String {
        format!("+{}", duration(ts_ns.saturating_sub(self.start_ns)))
    }

    /// A text in lines of at most 80 columns, the further ones indented.
    fn lines(&mut self, indent: &str, text: &str) -> io::Result<()> {
        for (at, line) in wrap(text, 74 - indent.len()).iter().enumerate() {
            let more = if at == 0 { "  " } else { "      " };
            writeln!(self.out, "{indent}{more}{}", fit(line, 74 - indent.len()))?;
        }
        Ok(())
    }

    pub(super) fn chains(&mut self, chains: &ChainsReport, all: bool) -> io::Result<()> {
        let rows = self.rows(all);
        if !chains.pairs.is_empty() {
            self.heading(&format!(
                "{:<46}{:<9}{:>8}{:>9}{:>8}",
                "WHO WAITED FOR WHOM, in the end", "who did", "total", "longest", "times"
            ))?;
            for pair in chains.pairs.iter().take(rows) {
                let short_person = |who: &PersonReport| format!("{} {}", who.tid, fit(&who.comm, 11));
                let (blocker, doing) = match (&pair.blocker, pair.held) {
                    (Some(blocker), Some(held)) => {
                        (format!("{} {}", short_person(blocker), short(held)), pair.doing)
                    }
                    _ => ("handed over".into(), ""),
                };
                let text = format!(
                    "{} {} <- {blocker}",
                    short_person(&pair.waiter),
                    short(pair.wanted)
                );
                writeln!(
                    self.out,
                    "{:<46}{doing:<9}{:>8}{:>9}{:>8}",
                    fit(&text, 45),
                    duration(pair.total_ns),
                    duration(pair.max_ns),
                    count(pair.times)
                )?;
            }
            let more = chains.pairs.iter().skip(rows);
            let (number, ns) = more.fold((0_u64, 0_u64), |sum, pair| {
                (sum.0 + 1, sum.1.saturating_add(pair.total_ns))
            });
            let (number, ns) = (
                number + chains.other_pairs,
                ns.saturating_add(chains.other_pairs_ns),
            );
            if number > 0 {
                writeln!(
                    self.out,
                    "{:<55}{:>8}",
                    format!("{} more", count(number)),
                    duration(ns)
                )?;
            }
            writeln!(
                self.out,
                "{:<55}{:>8}",
                "with nobody known in the way",
                duration(chains.alone_ns)
            )?;
        }
        if !chains.longest.is_empty() {
            self.heading("LONGEST WAITS with somebody in the way")?;
            for chain in chains.longest.iter().take(rows) {
                self.long(chain)?;
            }
        }
        if !chains.at_end.is_empty() {
            self.heading("WAITING at the end")?;
            for tree in chains.at_end.iter().take(rows) {
                self.tree(tree)?;
            }
            if chains.at_end.len() > rows {
                writeln!(
                    self.out,
                    "and {} more; --json has them",
                    chains.at_end.len() - rows
                )?;
            }
        }
        if all && chains.cycles_passed > 0 {
            self.heading(&format!(
                "{} times tasks waited for each other, and got on; the longest took {}",
                count(chains.cycles_passed),
                duration(chains.cycles_passed_max_ns)
            ))?;
        }
        Ok(())
    }

    fn long(&mut self, chain: &LongReport) -> io::Result<()> {
        let line = format!(
            "{} waited {} for {}, from {}; {} of it for",
            person(&chain.waiter),
            duration(chain.ns),
            lock(&chain.lock),
            self.at(chain.since_ns),
            duration(chain.chain_ns)
        );
        self.lines("", &line)?;
        let last = chain.chain.len().saturating_sub(1);
        for (at, link) in chain.chain.iter().enumerate() {
            let mut line = format!("{}, who had {}", person(&link.who), lock(&link.lock));
            if link.others > 0 {
                line += &format!(" with {} others", link.others);
            }
            if link.certainty != "observed" {
                line += &format!(" ({})", link.certainty);
            }
            line += &match (at == last, chain.doing) {
                (true, doing) => format!(": {}", doing_words(doing)),
                (false, _) => " and waited for".to_owned(),
            };
            self.lines(&"  ".repeat(at.min(8) + 1), &line)?;
        }
        self.stack(chain.stack.as_ref())
    }

    fn tree(&mut self, tree: &TreeReport) -> io::Result<()> {
        let line = format!(
            "{} waits for {}, since {} ({})",
            person(&tree.waiter),
            lock(&tree.lock),
            self.at(tree.since_ns),
            tree.certainty
        );
        self.lines("", &line)?;
        if tree.blocked_by.is_empty() {
            self.lines("  ", "nobody is known to be in the way")?;
        }
        self.edges(&tree.blocked_by, 1)
    }

    fn edges(&mut self, edges: &[EdgeReport], depth: usize) -> io::Result<()> {
        for (at, edge) in edges.iter().enumerate() {
            if at == 4 {
                let more = format!("and {} more", edges.len() - at);
                return self.lines(&"  ".repeat(depth), &more);
            }
            let how = if edge.why == "ahead" {
                "came first for"
            } else {
                "has"
            };
            let since = edge.since_ns.map_or("its start was not seen".into(), |ns| {
                format!("since {}", self.at(ns))
            });
            let line = format!(
                "{} {how} {}, {since} ({}): {}",
                person(&edge.who),
                lock(&edge.lock),
                edge.certainty,
                doing_words(edge.doing)
            );
            self.lines(&"  ".repeat(depth), &line)?;
            self.edges(&edge.blocked_by, depth + 1)?;
        }
        Ok(())
    }

    pub(super) fn faults_by<K>(
        &mut self,
        title: &str,
        table: &FaultTableReport<K>,
        all: bool,
        label: impl Fn(&K) -> String,
    ) -> io::Result<()> {
        if table.rows.is_empty() {
            return Ok(());
        }
        self.heading(&format!(
            "{title:<26}{:>8}{:>9}{:>11}{:>8}{:>9}{:>7}",
            "faults", "a second", "mmap_lock", "retried", "directly", "error"
        ))?;
        let rows = self.rows(all);
        for row in table.rows.iter().take(rows) {
            self.fault_row(&label(&row.of), &row.faults)?;
        }
        let left = table.rows.len().saturating_sub(rows) as u64 + table.merged;
        if left > 0 {
            let merged = if table.merged > 0 {
                format!(", {} of them merged", count(table.merged))
            } else {
                String::new()
            };
            writeln!(self.out, "and {} more{merged}; --json has up to 500", count(left))?;
        }
        Ok(())
    }

    fn fault_row(&mut self, label: &str, group: &FaultGroupReport) -> io::Result<()> {
        let faults = &group.faults;
        writeln!(
            self.out,
            "{:<26}{:>8}{:>9.1}{:>9.2} %{:>8}{:>9}{:>7}",
            fit(label, 25),
            count(faults.total),
            group.per_second,
            group.mmap_lock_share * 100.0,
            count(faults.retried),
            count(faults.mmap_lock),
            count(faults.error)
        )?;
        let listed = |list: Vec<String>| (!list.is_empty()).then(|| list.join(", "));
        let fell_back = group
            .fallbacks
            .iter()
            .map(|(why, number)| format!("{why} {}", count(*number)));
        let retries = group.retries.iter().map(|retry| {
            let place = retry
                .function
                .as_ref()
                .map_or(String::new(), |name| format!(" in {name}"));
            format!("{}{place} {}", retry.reason, count(retry.rounds))
        });
        let failed = group
            .look_ups_failed
            .iter()
            .map(|(why, number)| format!("{why} {}", count(*number)));
        for (what, list) in [
            ("under mmap_lock from the start", listed(fell_back.collect())),
            ("sent back", listed(retries.collect())),
            ("look-ups failed", listed(failed.collect())),
        ] {
            if let Some(list) = list {
                self.lines("", &format!("{what}: {list}"))?;
            }
        }
        Ok(())
    }
}

fn person(person: &PersonReport) -> String {
    format!("{} {}", person.tid, person.comm).trim_end().to_owned()
}

/// The name of a lock where there is little room.
fn short(lock: &str) -> String {
    lock.replace("_read", " r").replace("_write", " w")
}

fn lock(lock: &LockReport) -> String {
    match (lock.vm_start, lock.vm_end) {
        (Some(start), Some(end)) => format!("{} of {start:x}-{end:x}", lock.lock),
        _ => lock.lock.to_owned(),
    }
}

pub(super) fn range(pid: u32, start: Option<u64>, end: Option<u64>) -> String {
    match (start, end) {
        (Some(start), Some(end)) => format!("{start:x}-{end:x}"),
        _ => format!("mm of {pid}"),
    }
}

fn doing_words(doing: &str) -> &str {
    match doing {
        "running" => "it runs",
        "runnable" => "it could run, and has no processor",
        "io" => "it waits for I/O",
        "reclaim" => "it sleeps in reclaim",
        "sleeping" => "it sleeps",
        "waiting" => "it waits for a lock",
        "cycle" => "it waits for one of those before",
        "nobody" => "nobody has the lock",
        _ => "what it does is not known",
    }
}
