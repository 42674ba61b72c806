//! Watches for triggers, and writes recordings.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracer_common::wire::Event;

use super::ring::{Limits, Ring};
use crate::info::{CpuLosses, Fired, Flight, Losses, SourceInfo};
use crate::order::Order;
use crate::outside;
use crate::pipeline::Consumer;
use crate::recording::{self, RecordWriter};
use crate::sink::text::{count, duration};
use crate::stacks::Stacks;
use crate::state::Engine;
use crate::trigger::{Trigger, Triggers};

/// Blocks that are written at a time while events go on coming.
const BLOCKS_AT_ONCE: usize = 64;

/// What to record, and when.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file; with several of them, a number goes before its ending.
    pub output: PathBuf,
    /// What fires.
    pub triggers: Vec<Trigger>,
    /// How much is kept.
    pub limits: Limits,
    /// How long the recording goes on, in nanoseconds.
    pub after_ns: u64,
    /// How many recordings are made; then it ends.
    pub times: u32,
}

/// Watches for triggers, and writes recordings.
pub struct Recorder {
    options: Options,
    info: SourceInfo,
    engine: Engine,
    triggers: Triggers,
    ring: Ring,
    writing: Option<Writing>,
    outcome: Outcome,
    missed: u64,
    /// All that events so far have numbers of.
    stacks: Stacks,
    /// To end the pipeline with.
    enough: Arc<AtomicBool>,
}

/// A recording that is being written.
struct Writing {
    writer: RecordWriter,
    path: PathBuf,
    fired: Fired,
    /// It ends with the events up to then, in nanoseconds.
    until_ns: u64,
    /// By CPU: the number of its first event.
    first: Vec<u32>,
    /// By CPU: events written, and those known to be missing among them.
    received: Vec<u64>,
    missed_before: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// One line for each recording.
    pub lines: Vec<String>,
    /// Recordings that were written.
    pub files: u32,
    /// Triggers that fired while a recording was being written.
    pub meanwhile: u64,
}

impl Recorder {
    /// For a stream that `info` tells about. `enough` is set when the last recording is written.
    pub fn new(options: Options, info: &SourceInfo, enough: Arc<AtomicBool>) -> Self {
        let mut engine = Engine::new(info);
        engine.keep_notes();
        Self {
            triggers: Triggers::new(options.triggers.clone(), info),
            ring: Ring::new(options.limits),
            options,
            info: info.clone(),
            engine,
            writing: None,
            outcome: Outcome::default(),
            missed: 0,
            stacks: Stacks::default(),
            enough,
        }
    }

    /// How it goes, in a line.
    pub fn progress(&self) -> String {
        let state = match &self.writing {
            Some(writing) => format!("writing {}", outside::path(&writing.path)),
            None => "waiting for a trigger".to_owned(),
        };
        let (first, last) = self.ring.span().unwrap_or_default();
        format!(
            "{state}: {} events of {} in {} MiB, {} fired; ^C stops",
            count(self.ring.len()),
            duration(last.saturating_sub(first)),
            self.ring.memory() >> 20,
            self.outcome.files + u32::from(self.writing.is_some()),
        )
    }

    /// Ends the recording at hand, if there is one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> anyhow::Result<Outcome> {
        if self.writing.is_some() {
            self.write(usize::MAX)?;
            self.end_file()?;
        }
        Ok(self.outcome)
    }

    /// What memory had to let go.
    pub fn evicted(&self) -> super::Evicted {
        self.ring.evicted()
    }

    fn fire(&mut self, fired: Fired) -> anyhow::Result<()> {
        if self.writing.is_some() {
            self.outcome.meanwhile += 1;
            return Ok(());
        }
        if self.outcome.files >= self.options.times {
            return Ok(());
        }
        let (first_ns, _) = self.ring.span().unwrap_or((fired.ts_ns, fired.ts_ns));
        let first = self.ring.first_numbers();
        let evicted = self.ring.evicted();
        let before_ns = fired.ts_ns.saturating_sub(first_ns);
        let wanted_ns = fired.ts_ns.saturating_sub(self.options.limits.last_ns);
        let info = SourceInfo {
            start_monotonic_ns: first_ns,
            start_realtime_ns: self
                .info
                .start_realtime_ns
                .saturating_add(first_ns.saturating_sub(self.info.start_monotonic_ns)),
            first_numbers: first.clone(),
            flight: Some(Flight {
                fired: fired.clone(),
                before_ns,
                cut_short: evicted.by_bytes_ns > wanted_ns,
            }),
            ..self.info.clone()
        };
        let path = self.path();
        let writer = recording::create(&path, &info)?;
        self.ring.keep_all(true);
        log::info!("{} fired: {}", fired.trigger, fired.what);
        self.writing = Some(Writing {
            writer,
            path,
            until_ns: fired.ts_ns.saturating_add(self.options.after_ns),
            fired,
            received: vec![0; first.len()],
            first,
            missed_before: self.missed,
        });
        Ok(())
    }

    fn path(&self) -> PathBuf {
        if self.options.times == 1 {
            return self.options.output.clone();
        }
        numbered(&self.options.output, self.outcome.files + 1)
    }

    /// Writes some of what has been kept.
    fn write(&mut self, blocks: usize) -> anyhow::Result<()> {
        let Some(writing) = &mut self.writing else {
            return Ok(());
        };
        // All of them: which ones the kept events have, only a look at each would tell.
        writing.writer.stacks(&self.stacks)?;
        for _ in 0..blocks {
            let Writing { writer, received, .. } = writing;
            let more = self.ring.drain_one(|block| {
                for event in block.events().flatten() {
                    let cpu = usize::from(event.header.cpu);
                    if cpu >= received.len() {
                        received.resize(cpu + 1, 0);
                    }
                    received[cpu] += u64::from(event.kind != tracer_common::wire::Kind::Gap);
                }
                writer.write_block(block)
            })?;
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn end_file(&mut self) -> anyhow::Result<()> {
        let Some(writing) = self.writing.take() else {
            return Ok(());
        };
        self.ring.keep_all(false);
        let next = self.ring.next_numbers().iter().enumerate();
        let cpus = next.map(|(cpu, next)| {
            let first = writing.first.get(cpu).copied().unwrap_or(0);
            let produced = u64::from(next.wrapping_sub(first));
            let received = writing.received.get(cpu).copied().unwrap_or(0);
            CpuLosses {
                produced,
                dropped: produced.saturating_sub(received),
                received,
            }
        });
        let losses = Losses {
            cpus: cpus.collect(),
            missed: self.missed - writing.missed_before,
            ..Losses::default()
        };
        let bytes = writing.writer.bytes_written();
        let summary = writing.writer.finish(&losses, "trigger")?;
        let span = summary.last_ns.saturating_sub(summary.first_ns);
        self.outcome.files += 1;
        self.outcome.lines.push(format!(
            "{} fired: {}; {}: {} events of {}, {} dropped, {} gaps, {} KiB",
            writing.fired.trigger,
            writing.fired.what,
            outside::path(&writing.path),
            count(summary.events),
            duration(span),
            count(losses.dropped()),
            count(summary.gaps),
            count(bytes.div_ceil(1024)),
        ));
        if self.outcome.files >= self.options.times {
            self.enough.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Consumer for Recorder {
    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        if self.outcome.files >= self.options.times {
            return Ok(());
        }
        if let Some(writing) = &self.writing
            && event.header.ts_ns > writing.until_ns
        {
            // This one is the first of what follows.
            self.write(usize::MAX)?;
            self.end_file()?;
        }
        if self.writing.is_some() && self.ring.is_at_limit() {
            self.write(BLOCKS_AT_ONCE)?;
        }
        self.ring.push(event);
        let fired = self.triggers.apply(&mut self.engine, event);
        match fired {
            Some(fired) => self.fire(fired),
            None => Ok(()),
        }
    }

    fn stacks(&mut self, stacks: &Stacks) -> anyhow::Result<()> {
        for stack in stacks.since(self.stacks.len()) {
            self.stacks.push(stack.clone());
        }
        Ok(())
    }

    fn round(&mut self, order: &Order) -> anyhow::Result<()> {
        let now_ns = order.watermark_ns();
        if let Some(fired) = self.triggers.look(&self.engine, now_ns) {
            self.fire(fired)?;
        }
        self.write(BLOCKS_AT_ONCE)?;
        if self
            .writing
            .as_ref()
            .is_some_and(|writing| now_ns > writing.until_ns)
        {
            self.write(usize::MAX)?;
            self.end_file()?;
        }
        Ok(())
    }

    fn losses(&mut self, losses: &Losses) -> anyhow::Result<()> {
        let missed = losses.missed != self.missed;
        self.missed = losses.missed;
        self.triggers.losses(&mut self.engine, missed);
        Ok(())
    }
}

/// `a.rec` becomes `a.2.rec`.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!(".{number}"));
    if let Some(ending) = path.extension() {
        name.push(".");
        name.push(ending);
    }
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_before_the_ending() {
        assert_eq!(numbered(Path::new("/x/a.rec"), 2), Path::new("/x/a.2.rec"));
        assert_eq!(numbered(Path::new("a"), 10), Path::new("a.10"));
    }
}
