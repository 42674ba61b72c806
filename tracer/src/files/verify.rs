//! `tracer verify`: reads every frame and every event, and says what is wrong.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use serde::Serialize;

use super::args::VerifyArgs;
use crate::export::{Meter, Progress};
use crate::outside;
use crate::recording::{Damage, End, Frame, FrameType, Item, ReadError, RecordReader, Summary};
use crate::sink::text::count;

const DONE: u8 = 0;
const FAILED: u8 = 1;

/// Problems that are told one by one.
const TOLD: usize = 100;

/// Something that is not as it has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where, in bytes from the start of the file.
    pub offset: u64,
    /// How many bytes cannot be read; 0: they can, but say something wrong.
    pub bytes: u64,
    /// What.
    pub what: String,
}

/// What was found; `docs/schema/verify.md`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    file: String,
    /// Version of the format.
    format_version: u32,
    /// Whether nothing is wrong.
    pub good: bool,
    /// Whether it was ended on purpose.
    pub complete: bool,
    /// How it ends, in words.
    end: String,
    /// Bytes that were read.
    bytes: u64,
    frames: BTreeMap<&'static str, u64>,
    /// Events, gaps included.
    pub events: u64,
    unknown_kinds: u64,
    /// The first hundred.
    pub problems: Vec<Problem>,
    problem_count: u64,
}

/// Runs `tracer verify`; the result is the exit code.
///
/// # Errors
/// If it cannot be read at all.
pub fn run(args: &VerifyArgs) -> anyhow::Result<u8> {
    let stop = stop_at_signals()?;
    let report = match RecordReader::open_as(&args.file, args.recover) {
        Ok(mut reader) => {
            let meter = Meter::default();
            let mut progress = Progress::new(&args.file, meter.clone());
            let report = verify(&mut reader, |reader, events| {
                meter.set(reader.position());
                progress.show(events);
                !stop.load(Ordering::Relaxed)
            });
            progress.clear();
            report?
        }
        Err(ReadError::NoHeader { name, end }) => Report::hopeless(name, &end),
        Err(error) => return Err(error.into()),
    };
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", outside::formats::json_pretty(&report)?)?;
    } else {
        out.write_all(report.text().as_bytes())?;
    }
    out.flush()?;
    Ok(if report.good { DONE } else { FAILED })
}

fn stop_at_signals() -> anyhow::Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("cannot catch signals")?;
    }
    Ok(stop)
}

/// Reads a recording to its end. `go_on` is asked after each frame.
///
/// # Errors
/// If it cannot be read; what is wrong in it is in the report.
pub fn verify(
    reader: &mut RecordReader,
    mut go_on: impl FnMut(&RecordReader, u64) -> bool,
) -> Result<Report, ReadError> {
    let mut report = Report {
        schema: "tracer.verify.v1",
        file: reader.name().to_owned(),
        format_version: reader.version(),
        good: false,
        complete: false,
        end: String::new(),
        bytes: 0,
        frames: BTreeMap::new(),
        events: 0,
        unknown_kinds: 0,
        problems: Vec::new(),
        problem_count: 0,
    };
    let mut latest_ns = 0;
    let mut blocks: Vec<(u64, u32)> = Vec::new();
    let mut stopped = false;
    loop {
        let offset = reader.position();
        let mut summary = None;
        let name = match reader.next_frame()? {
            None => break,
            Some(Frame::Damage(Damage {
                offset, len, reason, ..
            })) => {
                report.problem(offset, len, reason);
                continue;
            }
            Some(Frame::Events(block)) => {
                let entry = *block.entry();
                blocks.push((entry.offset, entry.count));
                let (mut first, mut last, mut events) = (None, latest_ns, 0);
                let mut disordered = 0u64;
                let result = block.read(|item| {
                    let ts_ns = match item {
                        Item::Event(event) => event.header.ts_ns,
                        Item::Unknown(bytes) => {
                            report.unknown_kinds += 1;
                            tracer_common::wire::header(bytes).map_or(0, |header| header.ts_ns)
                        }
                    };
                    first.get_or_insert(ts_ns);
                    disordered += u64::from(ts_ns < last);
                    last = ts_ns;
                    events += 1;
                });
                report.events += events;
                if let Err(error) = result {
                    report.problem(entry.offset, 0, error.to_string());
                }
                if first.is_some_and(|first| first != entry.first_ns) || events > 0 && last != entry.last_ns {
                    report.problem(
                        entry.offset,
                        0,
                        "the times in the frame's header are not those of its events".to_owned(),
                    );
                }
                if disordered > 0 {
                    report.problem(
                        entry.offset,
                        0,
                        format!("{disordered} events are not in the order of time"),
                    );
                }
                latest_ns = last;
                FrameType::Columns.name()
            }
            Some(Frame::Losses(_)) => FrameType::Losses.name(),
            Some(Frame::Clock(_)) => FrameType::Clock.name(),
            Some(Frame::Stacks) => FrameType::Stacks.name(),
            Some(Frame::Summary(found)) => {
                summary = Some(found);
                FrameType::Summary.name()
            }
        };
        if let Some(summary) = summary {
            report.compare(offset, &summary);
        }
        *report.frames.entry(name).or_default() += 1;
        if !go_on(reader, report.events) {
            stopped = true;
            break;
        }
    }
    report.bytes = reader.position();
    if let Some(len) = reader.len()
        && !stopped
    {
        report.check_index(reader, &blocks)?;
        let read = report.bytes;
        if matches!(reader.end(), Some(End::Clean)) && read < len {
            report.problem(read, len - read, format!("{} bytes follow the end", len - read));
        }
    }
    let end = reader.end().cloned();
    report.complete = end == Some(End::Clean);
    match end {
        Some(End::Clean) => report.end = "complete".to_owned(),
        Some(end) => {
            let (End::Unfinished { offset } | End::Truncated { offset } | End::Corrupt { offset, .. }) =
                end.clone()
            else {
                return Ok(report);
            };
            report.end = end.to_string();
            let bytes = reader.len().map_or(0, |len| len.saturating_sub(offset));
            report.problem(offset, bytes, report.end.clone());
        }
        None => report.end = "not read to its end: stopped".to_owned(),
    }
    if reader.unknown_frames() > 0 {
        *report.frames.entry("unknown").or_default() = reader.unknown_frames();
    }
    report.good = report.problem_count == 0 && !stopped;
    report.problems.sort_by_key(|problem| problem.offset);
    Ok(report)
}

impl Report {
    /// Of a file whose first frame is gone.
    fn hopeless(file: String, end: &End) -> Self {
        let offset = match *end {
            End::Clean => 0,
            End::Unfinished { offset } | End::Truncated { offset } | End::Corrupt { offset, .. } => offset,
        };
        Self {
            schema: "tracer.verify.v1",
            file,
            format_version: 0,
            good: false,
            complete: false,
            end: end.to_string(),
            bytes: offset,
            frames: BTreeMap::new(),
            events: 0,
            unknown_kinds: 0,
            problems: vec![Problem {
                offset,
                bytes: 0,
                what: end.to_string(),
            }],
            problem_count: 1,
        }
    }

    fn problem(&mut self, offset: u64, bytes: u64, what: String) {
        self.problem_count += 1;
        if self.problems.len() < TOLD {
            self.problems.push(Problem { offset, bytes, what });
        }
    }

    fn compare(&mut self, offset: u64, summary: &Summary) {
        if self.problem_count == 0 && summary.events != self.events && self.format_version >= 2 {
            self.problem(
                offset,
                0,
                format!(
                    "the summary tells of {} events, and there are {}",
                    summary.events, self.events
                ),
            );
        }
    }

    /// Compares the index that the file has with what was read.
    fn check_index(&mut self, reader: &mut RecordReader, blocks: &[(u64, u32)]) -> Result<(), ReadError> {
        let index = reader.index()?;
        let same = index
            .blocks()
            .map(|entry| (entry.offset, entry.count))
            .eq(blocks.iter().copied());
        if index.stored && !same && self.problem_count == 0 {
            let at = index.entries().last().map_or(0, |last| last.offset + last.len);
            self.problem(at, 0, "the index is not that of the blocks".to_owned());
        }
        Ok(())
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{}: {}, format version {}\n{} events in {} blocks, {} bytes\n",
            outside::plain(&self.file),
            if self.good { "good" } else { "DAMAGED" },
            self.format_version,
            count(self.events),
            count(self.frames.get("events").copied().unwrap_or(0)),
            count(self.bytes)
        );
        if self.unknown_kinds > 0 {
            text += &format!(
                "{} events are of kinds that this version does not know\n",
                count(self.unknown_kinds)
            );
        }
        for problem in &self.problems {
            let bytes = match problem.bytes {
                0 => String::new(),
                bytes => format!(", {} bytes", count(bytes)),
            };
            text += &format!(
                "at offset {}{bytes}: {}\n",
                problem.offset,
                outside::plain(&problem.what)
            );
        }
        let more = self.problem_count - self.problems.len() as u64;
        if more > 0 {
            text += &format!("and {} more\n", count(more));
        }
        text
    }
}
