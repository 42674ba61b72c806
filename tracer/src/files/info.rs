//! `tracer info`: what a recording says of itself, without reading its events.

use std::io::{self, Write as _};

use serde::Serialize;

use super::args::InfoArgs;
use super::span::wall;
use crate::info::{Anchor, SourceInfo};
use crate::outside;
use crate::recording::{End, Frame, RecordReader, Summary};
use crate::sink::text::{count, duration};

/// What is printed; `docs/schema/info.md`.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    file: String,
    bytes: Option<u64>,
    /// Whether it was ended on purpose.
    complete: bool,
    events: u64,
    blocks: u64,
    bytes_per_event: Option<f64>,
    first_ns: Option<u64>,
    last_ns: Option<u64>,
    first_wall: String,
    last_wall: String,
    has_index: bool,
    stacks: usize,
    clocks: Vec<Anchor>,
    summary: Option<Summary>,
    warnings: Vec<String>,
    #[serde(flatten)]
    info: SourceInfo,
}

/// Runs `tracer info`; the result is the exit code.
///
/// # Errors
/// If it cannot be read.
pub fn run(args: &InfoArgs) -> anyhow::Result<u8> {
    let mut reader = RecordReader::open_as(&args.file, args.recover)?;
    let report = report(&mut reader)?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", outside::formats::json_pretty(&report)?)?;
    } else {
        out.write_all(report.text().as_bytes())?;
    }
    out.flush()?;
    Ok(0)
}

fn report(reader: &mut RecordReader) -> anyhow::Result<Report> {
    let mut report = Report {
        schema: "tracer.info.v1",
        file: reader.name().to_owned(),
        bytes: reader.len(),
        complete: false,
        events: 0,
        blocks: 0,
        bytes_per_event: None,
        first_ns: None,
        last_ns: None,
        first_wall: String::new(),
        last_wall: String::new(),
        has_index: false,
        stacks: 0,
        clocks: Vec::new(),
        summary: None,
        warnings: Vec::new(),
        info: reader.info().clone(),
    };
    // Whoever has it can undo the hashing of exports, and reports are passed on.
    report.info.address_key = String::new();
    if reader.len().is_some() {
        let index = reader.index()?;
        report.has_index = index.stored;
        let mut skipped: Vec<_> = index
            .entries()
            .iter()
            .filter(|entry| !entry.is_block())
            .copied()
            .collect();
        report.events = index.events();
        report.blocks = index.blocks().count() as u64;
        if let Some((first, last)) = index.span() {
            (report.first_ns, report.last_ns) = (Some(first), Some(last));
        }
        // From there on: what comes after a stored index, or the last frame of a file without one, which may be its end.
        let end = index.entries().last().map(|last| {
            if last.is_block() {
                last.offset + last.len
            } else {
                last.offset
            }
        });
        skipped.retain(|entry| Some(entry.offset) != end);
        for entry in skipped {
            reader.resume(entry.offset)?;
            report.take(reader.next_frame()?);
        }
        if let Some(end) = end {
            reader.resume(end)?;
        }
    }
    // A pipe is read to its end, a file from where its index leaves off.
    loop {
        let frame = reader.next_frame()?;
        if frame.is_none() {
            break;
        }
        if let Some(Frame::Events(block)) = &frame {
            let entry = block.entry();
            report.events += u64::from(entry.count);
            report.blocks += 1;
            report.first_ns.get_or_insert(entry.first_ns);
            report.last_ns = Some(entry.last_ns);
        }
        report.take(frame);
    }
    report.stacks = reader.stacks().len();
    match reader.end() {
        Some(End::Clean) => report.complete = true,
        Some(end) => report.warnings.push(format!("{end}; what comes before is good")),
        None => {}
    }
    report.first_wall = report
        .first_ns
        .map(|ns| wall(&report.info, ns))
        .unwrap_or_default();
    report.last_wall = report
        .last_ns
        .map(|ns| wall(&report.info, ns))
        .unwrap_or_default();
    if let (Some(bytes), 1..) = (report.bytes, report.events) {
        report.bytes_per_event = Some(bytes as f64 / report.events as f64);
    }
    Ok(report)
}

impl Report {
    fn take(&mut self, frame: Option<Frame<'_>>) {
        match frame {
            Some(Frame::Clock(anchor)) => self.clocks.push(anchor),
            Some(Frame::Summary(summary)) => self.summary = Some(*summary),
            Some(Frame::Damage(damage)) => self.warnings.push(format!(
                "{} bytes could not be read at offset {}: {}",
                damage.len, damage.offset, damage.reason
            )),
            _ => {}
        }
    }

    fn text(&self) -> String {
        let info = &self.info;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            if !value.is_empty() {
                text += &format!("{name:<9}{}\n", outside::plain(&value));
            }
        };
        let size = self
            .bytes
            .map_or(String::new(), |bytes| format!(", {} bytes", count(bytes)));
        let each = self
            .bytes_per_event
            .map_or(String::new(), |each| format!(" ({each:.1} an event)"));
        let complete = if self.complete { "complete" } else { "INCOMPLETE" };
        line(
            "file",
            format!(
                "{}: {complete}, format version {}{size}{each}",
                self.file, info.format_version
            ),
        );
        line(
            "made by",
            format!(
                "tracer {} ({}): {}",
                info.tracer_version,
                info.source,
                info.command.join(" ")
            ),
        );
        for done in &info.history {
            line("then", done.clone());
        }
        line("host", info.host.clone());
        let layout = info.kernel.layout.len();
        line(
            "kernel",
            format!(
                "{} {} {}",
                info.kernel.release, info.kernel.version, info.kernel.machine
            ),
        );
        if layout > 0 {
            line("layout", format!("{layout} facts from BTF (--json has them)"));
        }
        let attached = info.sites.iter().filter(|site| site.attached).count();
        line(
            "plan",
            format!(
                "{attached} of {} places attached, {} operations unseen",
                info.sites.len(),
                info.unseen.len()
            ),
        );
        line("filters", info.filters.join(", "));
        let span = match (self.first_ns, self.last_ns) {
            (Some(first), Some(last)) => format!(
                ", {} to {} ({})",
                self.first_wall,
                self.last_wall,
                duration(last - first.min(last))
            ),
            _ => String::new(),
        };
        line(
            "events",
            format!(
                "{} in {} blocks, {} CPUs, {} stacks{span}",
                count(self.events),
                count(self.blocks),
                info.cpus,
                count(self.stacks as u64)
            ),
        );
        if let Some(summary) = &self.summary {
            line(
                "lost",
                format!(
                    "{} dropped, {} gaps, {} probe runs skipped",
                    count(summary.losses.dropped()),
                    count(summary.gaps),
                    count(summary.losses.missed)
                ),
            );
            line("ended", summary.reason.clone());
        }
        if let Some(anchor) = info.anchor.or(self.clocks.first().copied()) {
            let error = anchor.realtime_error_ns.map_or_else(
                || "nothing kept the clock on the wall in step".to_owned(),
                |error| format!("the clock on the wall within {}", duration(error)),
            );
            line("clocks", format!("read {} times; {error}", self.clocks.len() + 1));
        }
        for part in &info.parts {
            let off = part
                .uncertainty_ns
                .map_or("by an unknown amount".to_owned(), |ns| {
                    format!("at most {}", duration(ns))
                });
            line(
                "part",
                format!(
                    "{} of {}: CPUs from {}, process IDs + {}, {:+} ns, off {off}",
                    part.file, part.host, part.first_cpu, part.pid_base, part.shift_ns
                ),
            );
        }
        for warning in &self.warnings {
            line("warning", warning.clone());
        }
        text
    }
}
