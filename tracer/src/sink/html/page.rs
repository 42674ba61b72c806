//! The page itself.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};

use super::markup::{Cell, table};
use super::pictures;
use super::timeline::{Longest, Timeline};
use crate::export::{Ending, PrivacyArgs};
use crate::outside::formats::markup as escape;
use crate::sink::stats::Report;
use crate::sink::{check, text};
use crate::state::Lock;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// Tasks in the table.
const TASKS: usize = 1_000;
/// Chains in the list.
const CHAINS: usize = 100;

/// What is shown.
pub(super) struct Content<'a> {
    pub(super) end: &'a Ending<'a>,
    pub(super) report: &'a Report,
    pub(super) checked: Option<&'a check::Report>,
    pub(super) timeline: &'a Timeline,
    pub(super) longest: &'a Longest,
    pub(super) privacy: PrivacyArgs,
}

/// Of a script or a style, as a policy wants it.
fn hash(text: &str) -> String {
    format!("sha256-{}", BASE64.encode(Sha256::digest(text.as_bytes())))
}

pub(super) fn render(content: &Content<'_>) -> String {
    let mut page = String::with_capacity(1 << 20);
    let title = format!(
        "tracer: {} {}",
        content.end.info.host, content.end.info.kernel.release
    );
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src '{}'; style-src '{}'; \
         base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n",
        hash(SCRIPT),
        hash(STYLE),
        escape(&title)
    );
    head(&mut page, content);
    timeline(&mut page, content);
    tasks(&mut page, content);
    locks(&mut page, content);
    chains(&mut page, content);
    assertions(&mut page, content);
    losses(&mut page, content);
    let _ = write!(
        page,
        "<div id=\"tip\" role=\"status\"></div>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    );
    page
}

fn head(page: &mut String, content: &Content<'_>) {
    let (info, report) = (content.end.info, content.report);
    let _ = write!(
        page,
        "<header><h1>Locks of memory maps: {}</h1>\n<dl>",
        escape(&info.host)
    );
    let mut fact = |name: &str, value: String| {
        let _ = write!(page, "<dt>{name}</dt><dd>{}</dd>", escape(&value));
    };
    fact(
        "kernel",
        format!("{} {}", info.kernel.release, info.kernel.machine),
    );
    let start = i64::try_from(info.start_realtime_ns).unwrap_or(0);
    let start = chrono::DateTime::from_timestamp_nanos(start);
    fact("began", start.format("%Y-%m-%d %H:%M:%S UTC").to_string());
    fact("length", text::duration(report.duration_ns));
    fact(
        "events",
        format!(
            "{}, {} missing in {} gaps",
            text::count(report.events.total),
            text::count(report.events.missing),
            text::count(report.events.gaps)
        ),
    );
    fact(
        "faults",
        format!(
            "{}: {} under the VMA lock, {} sent back, {} under the mmap_lock",
            text::count(report.faults.total),
            text::count(report.faults.vma_lock),
            text::count(report.faults.retried),
            text::count(report.faults.mmap_lock)
        ),
    );
    if !report.filters.is_empty() {
        fact("filters", report.filters.join(" "));
    }
    let part = content.end.pick.describe(info);
    if let Some(part) = &part {
        fact("part", part.clone());
    }
    if content.privacy.command_lines {
        fact("command", info.command.join(" "));
    }
    fact("made by", format!("tracer {}", info.tracer_version));
    page.push_str("</dl>\n");
    for warning in &report.warnings {
        let _ = writeln!(page, "<p class=\"warning\">{}</p>", escape(warning));
    }
    if part.is_some() {
        page.push_str(
            "<p class=\"note\">The timeline shows the part. The tables count from the beginning of the recording to the end of the part; \
             tasks and wait chains are those of its processes.</p>\n",
        );
    }
    page.push_str(
        "</header>\n<nav><a href=\"#timeline\">timeline</a><a href=\"#tasks\">tasks</a><a href=\"#locks\">locks</a>\
         <a href=\"#chains\">wait chains</a><a href=\"#assertions\">assertions</a><a href=\"#losses\">what is missing</a></nav>\n",
    );
}

fn timeline(page: &mut String, content: &Content<'_>) {
    let length = content.report.duration_ns;
    let kept = content.longest.bars().len() as u64;
    let _ = write!(
        page,
        "<section id=\"timeline\" data-ns=\"{length}\"><h2>Timeline</h2>\n\
         <div class=\"tools\" hidden><button type=\"button\" data-do=\"in\">+</button>\
         <button type=\"button\" data-do=\"out\">−</button><button type=\"button\" data-do=\"left\">◀</button>\
         <button type=\"button\" data-do=\"right\">▶</button><button type=\"button\" data-do=\"whole\">whole</button>\
         <output id=\"range\"></output><span class=\"faint\">Ctrl and the wheel magnify, too</span></div>\n"
    );
    pictures::rates(page, content.timeline, length);
    let _ = writeln!(
        page,
        "<p class=\"note\"><span class=\"key wait\"></span>waits<span class=\"key hold\"></span>holds for reading\
         <span class=\"key write\"></span>holds for writing. The {} longest of {} waits and holds, by task.</p>",
        text::count(kept),
        text::count(content.longest.seen)
    );
    pictures::tasks(page, content.longest, content.end.info.start_monotonic_ns, length);
    page.push_str("</section>\n");
}

fn tasks(page: &mut String, content: &Content<'_>) {
    page.push_str(
        "<section id=\"tasks\"><h2>Tasks</h2>\n<div class=\"tools\" hidden><label>Filter \
         <input id=\"filter\" type=\"search\" placeholder=\"name, tid or pid\"></label><output id=\"shown\"></output></div>\n",
    );
    let sum = |sums: &std::collections::BTreeMap<&'static str, crate::sink::stats::Sums>| {
        let total: u64 = sums.values().map(|one| one.total_ns).sum();
        let most = sums.values().map(|one| one.max_ns).max().unwrap_or(0);
        (total, most)
    };
    let tasks: Vec<_> = content
        .report
        .tasks
        .iter()
        .filter(|task| content.end.pick.takes_pid(task.pid))
        .collect();
    let rows = tasks.iter().take(TASKS).map(|task| {
        let (waited, longest_wait) = sum(&task.counters.waits);
        let (held, longest_hold) = sum(&task.counters.holds);
        let acquires = |name: &str| task.counters.acquires.get(name).copied().unwrap_or(0);
        let name = format!("{} {} {}", task.tid, task.pid, task.comm);
        let cells = vec![
            Cell::text(&task.comm),
            Cell::Number(task.tid.to_string(), f64::from(task.tid)),
            Cell::Number(task.pid.to_string(), f64::from(task.pid)),
            Cell::count(task.counters.events),
            Cell::count(acquires("mmap_read")),
            Cell::count(acquires("mmap_write")),
            Cell::count(acquires("vma_read")),
            Cell::count(acquires("vma_write")),
            Cell::count(task.counters.vma_read_fails),
            Cell::count(task.counters.faults.total),
            Cell::time(waited),
            Cell::time(longest_wait),
            Cell::time(held),
            Cell::time(longest_hold),
        ];
        (Some(name), cells)
    });
    let heads = [
        "command",
        "tid",
        "pid",
        "events",
        "mmap read",
        "mmap write",
        "VMA read",
        "VMA write",
        "failed",
        "faults",
        "waited",
        "longest wait",
        "held",
        "longest hold",
    ];
    table(page, "task-table", &heads, rows);
    if tasks.len() > TASKS {
        let _ = writeln!(
            page,
            "<p class=\"note\">The {TASKS} most active of {}.</p>",
            text::count(tasks.len() as u64)
        );
    }
    page.push_str("</section>\n");
}

fn locks(page: &mut String, content: &Content<'_>) {
    let report = content.report;
    page.push_str("<section id=\"locks\"><h2>Waits and holds</h2>\n");
    let both = [("wait", &report.waits), ("hold", &report.holds)];
    let rows = both.iter().flat_map(|(what, locks)| {
        locks.iter().map(move |(lock, one)| {
            let cells = vec![
                Cell::text(format!("{what}: {lock}")),
                Cell::count(one.count),
                Cell::count(one.unknown),
                Cell::time(one.total_ns),
                Cell::time(one.p50_ns),
                Cell::time(one.p90_ns),
                Cell::time(one.p99_ns),
                Cell::time(one.p999_ns),
                Cell::time(one.max_ns),
            ];
            (None, cells)
        })
    });
    let heads = [
        "of",
        "count",
        "unknown length",
        "total",
        "half",
        "90 %",
        "99 %",
        "99.9 %",
        "longest",
    ];
    table(page, "lock-table", &heads, rows);
    page.push_str(
        "<p class=\"note\">By length, a bar for each doubling; heights are square roots.</p>\n<div class=\"graphs\">",
    );
    let totals = content.end.engine.totals();
    for (what, histograms) in [("waits", &totals.waits), ("holds", &totals.holds)] {
        for lock in Lock::ALL {
            pictures::histogram(
                page,
                &format!("{what}, {}", lock.name()),
                &histograms[lock as usize],
            );
        }
    }
    page.push_str("</div>\n</section>\n");
}

fn chains(page: &mut String, content: &Content<'_>) {
    page.push_str("<section id=\"chains\"><h2>Wait chains</h2>\n");
    let contention = content.report.contention.as_ref();
    let longest: Vec<_> = contention
        .map(|contention| contention.chains.longest.as_slice())
        .unwrap_or_default()
        .iter()
        .filter(|wait| content.end.pick.takes_pid(wait.waiter.pid))
        .collect();
    if longest.is_empty() {
        page.push_str("<p class=\"note\">Nobody waited for anybody.</p>\n");
    }
    for wait in longest.into_iter().take(CHAINS) {
        let _ = write!(
            page,
            "<details><summary>{} ({}) waited {} for {}",
            escape(&wait.waiter.comm),
            wait.waiter.tid,
            text::duration(wait.ns),
            wait.lock.lock
        );
        for link in &wait.chain {
            let _ = write!(page, " ← {} ({})", escape(&link.who.comm), link.who.tid);
        }
        page.push_str("</summary><ol>");
        for link in &wait.chain {
            let _ = write!(
                page,
                "<li>{} (thread {} of process {}) held {}, {}, since {} before</li>",
                escape(&link.who.comm),
                link.who.tid,
                link.who.pid,
                link.lock.lock,
                link.certainty,
                text::duration((wait.since_ns + wait.ns).saturating_sub(link.since_ns))
            );
        }
        let _ = write!(
            page,
            "</ol><p>For {} of it the last one was {}.</p>",
            text::duration(wait.chain_ns),
            escape(wait.doing)
        );
        page.push_str("</details>\n");
    }
    page.push_str("</section>\n");
}

fn assertions(page: &mut String, content: &Content<'_>) {
    page.push_str("<section id=\"assertions\"><h2>Assertions</h2>\n");
    let Some(checked) = content.checked else {
        page.push_str("<p class=\"note\">Not checked.</p></section>\n");
        return;
    };
    let _ = writeln!(
        page,
        "<p>{} states that the lock cannot be in; {} of {} values of the lock are as predicted.</p>",
        text::count(checked.violation_count),
        text::count(checked.accounting.closed),
        text::count(checked.accounting.checked)
    );
    if !checked.violations.is_empty() {
        page.push_str("<ul>");
        for violation in &checked.violations {
            let _ = write!(
                page,
                "<li>{}: {}</li>",
                escape(violation.violation),
                escape(&violation.what)
            );
        }
        page.push_str("</ul>\n");
    }
    let rows = checked.assertions.iter().map(|row| {
        let cells = vec![
            Cell::text(row.assertion),
            Cell::text(row.variant),
            Cell::text(row.lockdep),
            Cell::text(row.viewpoint),
            Cell::count(row.evaluated),
            Cell::count(row.right),
            Cell::count(row.false_positive),
            Cell::count(row.false_negative),
            Cell::count(row.unknown),
        ];
        (None, cells)
    });
    let heads = [
        "assertion",
        "variant",
        "lockdep",
        "asked by",
        "evaluated",
        "right",
        "fires wrongly",
        "silent wrongly",
        "unknown",
    ];
    table(page, "assertion-table", &heads, rows);
    page.push_str("</section>\n");
}

fn losses(page: &mut String, content: &Content<'_>) {
    let report = content.report;
    page.push_str("<section id=\"losses\"><h2>What is missing</h2>\n");
    let rows = report.cpus.iter().map(|cpu| {
        let cells = vec![
            Cell::count(cpu.cpu as u64),
            Cell::count(cpu.produced),
            Cell::count(cpu.received),
            Cell::count(cpu.dropped),
            Cell::count(cpu.missing),
            Cell::text(if cpu.balanced { "balanced" } else { "NOT BALANCED" }),
        ];
        (None, cells)
    });
    let heads = ["CPU", "produced", "received", "dropped", "missing", "account"];
    table(page, "cpu-table", &heads, rows);
    if !report.unseen.is_empty() {
        page.push_str("<h3>Operations that this kernel does not show</h3>\n<ul>");
        for unseen in &report.unseen {
            let _ = write!(
                page,
                "<li>{} in {}: {}</li>",
                escape(&unseen.operation),
                escape(&unseen.function),
                escape(&unseen.reason)
            );
        }
        page.push_str("</ul>\n");
    }
    let _ = write!(
        page,
        "<p>{} anomalies, {} probe runs skipped by the kernel.</p>",
        text::count(report.anomalies.total),
        text::count(report.events.missed)
    );
    if !report.anomalies.by_kind.is_empty() {
        page.push_str("<ul>");
        for (kind, count) in &report.anomalies.by_kind {
            let _ = write!(page, "<li>{}: {}</li>", escape(kind), text::count(*count));
        }
        page.push_str("</ul>");
    }
    page.push_str("</section>\n");
}
