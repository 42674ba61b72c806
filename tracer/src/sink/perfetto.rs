//! `tracer export -f perfetto`: a trace for the Perfetto UI and its query engine.
//!
//! Tasks are tracks; waits, holds, faults and times off the CPU are slices on lanes beneath them. A wait that somebody
//! was in the way of is tied by a flow to the instant at which each of those gave the lock back. Rates and losses
//! are counters. `docs/exports.md` has the details. Slices are written when they end, so that they come with all that
//! is known of them; readers sort by time.

mod names;
mod proto;
mod tracks;

use std::collections::HashMap;
use std::io::Write;

use tracer_common::wire::{Event, Kind};

use super::address::Addresses;
use crate::export::{Ending, Exporter, Interval, Output, PrivacyArgs};
use crate::info::{Losses, SourceInfo};
use crate::outside;
use crate::stacks::Stacks;
use crate::state::{Lock, Meta, What};

use names::{Names, Sort, field};
use proto::Proto;
use tracks::{Lane, New, Tracks};

const BUFFER: usize = 64 << 10;
/// Perfetto's number for `CLOCK_MONOTONIC`.
const MONOTONIC: u64 = 3;
const REALTIME: u64 = 1;
/// All packets are of one writer.
const SEQUENCE: u64 = 1;
/// This packet starts the numbering of texts anew; it depends on that numbering.
const CLEARED: u64 = 1;
const NEEDS: u64 = 2;
/// Rates are counted over so long, in nanoseconds.
const STEP_NS: u64 = 10_000_000;
/// More slices than this at once are summed up in the last: a thousand on top of each other nobody can see.
const MOST_WRITES: usize = 16;

#[derive(Clone, Copy)]
enum Type {
    Begin = 1,
    End = 2,
    Instant = 3,
    Counter = 4,
}

/// What a task has begun.
#[derive(Debug, Default)]
struct Begun {
    /// Faults, innermost last.
    faults: Vec<u64>,
    off_cpu: Option<u64>,
}

/// Counters, each with a track.
#[derive(Clone, Copy)]
enum Rate {
    Events = 0,
    Waits = 1,
    Fallbacks = 2,
    Lost = 3,
}

const RATES: [&str; 4] = [
    "events/s",
    "contended waits/s",
    "failed look-ups/s",
    "lost events (in sum)",
];

/// Writes a trace.
pub struct PerfettoWriter<W: Write> {
    out: W,
    packets: Proto,
    names: Names,
    tracks: Tracks,
    addresses: Addresses,
    sites: Vec<String>,
    begun: HashMap<u32, Begun, rustc_hash::FxBuildHasher>,
    /// VMA write locks that ended at one instant.
    writes: Vec<Interval>,
    counters: [u64; RATES.len()],
    gaps: u64,
    step: u64,
    counted: [u64; 3],
    /// Events missing by gaps, and dropped by the kernel's own count.
    lost: (u64, u64),
}

impl<W: Write> PerfettoWriter<W> {
    /// Starts to write.
    pub fn new(out: W, info: &SourceInfo, addresses: Addresses, privacy: PrivacyArgs) -> Self {
        let mut tracks = Tracks::default();
        let counters = [(); RATES.len()].map(|()| tracks.fresh());
        let gaps = tracks.fresh();
        let mut writer = Self {
            out,
            packets: Proto::default(),
            names: Names::default(),
            tracks,
            addresses,
            sites: info.sites.iter().map(|site| site.function.clone()).collect(),
            begun: HashMap::default(),
            writes: Vec::new(),
            counters,
            gaps,
            step: info.start_monotonic_ns / STEP_NS,
            counted: [0; 3],
            lost: (0, 0),
        };
        writer.start(info, privacy);
        writer
    }

    fn start(&mut self, info: &SourceInfo, privacy: PrivacyArgs) {
        self.packets.message(field::TRACE_PACKET, |packet| {
            packet.message(field::CLOCK_SNAPSHOT, |snapshot| {
                for (clock, ns) in [
                    (MONOTONIC, info.start_monotonic_ns),
                    (REALTIME, info.start_realtime_ns),
                ] {
                    snapshot.message(1, |entry| {
                        entry.number(1, clock);
                        entry.number(2, ns);
                    });
                }
                snapshot.number(2, MONOTONIC);
            });
            packet.number(field::SEQUENCE_ID, SEQUENCE);
            packet.number(field::SEQUENCE_FLAGS, CLEARED);
            packet.message(field::PACKET_DEFAULTS, |defaults| {
                defaults.number(58, MONOTONIC);
            });
        });
        self.packets.message(field::TRACE_PACKET, |packet| {
            packet.number(field::SEQUENCE_ID, SEQUENCE);
            packet.message(field::SYSTEM_INFO, |system| {
                system.message(1, |name| {
                    name.text(1, "Linux");
                    name.text(2, &info.kernel.version);
                    name.text(3, &info.kernel.release);
                    name.text(4, &info.kernel.machine);
                });
                let command = if privacy.command_lines {
                    format!(": {}", info.command.join(" "))
                } else {
                    String::new()
                };
                system.text(4, &format!("tracer {}{command}", info.tracer_version));
            });
        });
        for (at, name) in RATES.iter().enumerate() {
            let uuid = self.counters[at];
            self.describe(|track| {
                track.number(1, uuid);
                track.text(2, name);
                // An empty description: its track has values, not slices.
                track.message(8, |counter| counter.number(3, 2));
            });
        }
        let gaps = self.gaps;
        self.describe(|track| {
            track.number(1, gaps);
            track.text(2, "gaps");
        });
    }

    fn describe(&mut self, fill: impl FnOnce(&mut Proto)) {
        self.packets.message(field::TRACE_PACKET, |packet| {
            packet.number(field::SEQUENCE_ID, SEQUENCE);
            packet.message(field::TRACK_DESCRIPTOR, fill);
        });
    }

    fn describe_new(&mut self) {
        if !self.tracks.has_new() {
            return;
        }
        for new in self.tracks.take_new() {
            self.describe(|track| match new {
                New::Process { uuid, pid } => {
                    track.number(1, uuid);
                    track.message(3, |process| process.number(1, u64::from(pid)));
                }
                New::Thread { uuid, pid, tid, comm } => {
                    track.number(1, uuid);
                    track.message(4, |thread| {
                        thread.number(1, u64::from(pid));
                        thread.number(2, u64::from(tid));
                        thread.text(5, &outside::words(&comm));
                    });
                }
                New::Lane { uuid, parent, lane } => {
                    track.number(1, uuid);
                    track.text(2, lane.name());
                    track.number(5, parent);
                }
            });
        }
    }

    /// One event on a track. `fill` adds to the event itself.
    fn packet(
        &mut self,
        ts_ns: u64,
        (kind, track): (Type, u64),
        name: Option<(u64, u64)>,
        fill: impl FnOnce(&mut Proto),
    ) {
        let Self { packets, names, .. } = self;
        packets.message(field::TRACE_PACKET, |packet| {
            packet.number(field::TIMESTAMP, ts_ns);
            packet.number(field::SEQUENCE_ID, SEQUENCE);
            packet.number(field::SEQUENCE_FLAGS, NEEDS);
            names.write(packet);
            packet.message(field::TRACK_EVENT, |event| {
                event.number(field::EVENT_TYPE, kind as u64);
                event.number(field::EVENT_TRACK, track);
                if let Some((name, category)) = name {
                    event.number(field::EVENT_NAME, name);
                    event.number(field::EVENT_CATEGORY, category);
                }
                fill(event);
            });
        });
    }

    fn flush(&mut self, at_least: usize) -> std::io::Result<()> {
        if self.packets.bytes().len() >= at_least {
            self.out.write_all(self.packets.bytes())?;
            self.packets.clear();
        }
        Ok(())
    }

    fn named(&mut self, name: &str, category: &str) -> Option<(u64, u64)> {
        Some((
            self.names.number(Sort::Event, name),
            self.names.number(Sort::Category, category),
        ))
    }

    fn take(&mut self, event: &Event) {
        let header = &event.header;
        let now = header.ts_ns;
        let step = now / STEP_NS;
        if step != self.step {
            self.rates(step);
        }
        self.counted[Rate::Events as usize] += 1;
        match event.kind {
            Kind::FaultBegin => self.begun.entry(header.tid).or_default().faults.push(now),
            Kind::FaultEnd => {
                let begun = self.begun.entry(header.tid).or_default().faults.pop();
                if let Some(begin) = begun {
                    self.fault(event, begin);
                }
            }
            Kind::SchedOut => self.begun.entry(header.tid).or_default().off_cpu = Some(now),
            Kind::SchedIn => {
                let begun = self.begun.entry(header.tid).or_default().off_cpu.take();
                if let Some(begin) = begun {
                    let who = (header.pid, header.tid);
                    let track = self.tracks.lane(who, header.comm, Lane::OffCpu, begin, now);
                    self.describe_new();
                    let name = self.named("off CPU", "sched");
                    self.packet(begin, (Type::Begin, track), name, |_| {});
                    self.packet(now, (Type::End, track), None, |_| {});
                }
            }
            Kind::VmaReadFail => {
                self.counted[Rate::Fallbacks as usize] += 1;
                self.instant(event, &format!("vma_read_fail: {}", event.reason().name()));
            }
            Kind::TaskFork | Kind::TaskExec => self.instant(event, event.kind.name()),
            Kind::TaskExit => {
                self.instant(event, event.kind.name());
                self.begun.remove(&header.tid);
            }
            Kind::Gap => {
                // What was begun before may have ended unseen.
                self.begun.clear();
                self.lost.0 += u64::from(event.body.arg);
                let name = self.named("gap", "loss");
                let number = self.names.number(Sort::Annotation, "missing");
                let (cpu, track) = (self.names.number(Sort::Annotation, "cpu"), self.gaps);
                self.packet(now, (Type::Instant, track), name, |packet| {
                    annotate(packet, number, field::ANNOTATION_UINT, u64::from(event.body.arg));
                    annotate(packet, cpu, field::ANNOTATION_UINT, u64::from(header.cpu));
                });
                self.tell_lost(now);
            }
            _ => {}
        }
    }

    fn instant(&mut self, event: &Event, name: &str) {
        let header = &event.header;
        let track = self.tracks.thread(header.pid, header.tid, header.comm);
        self.describe_new();
        let name = self.named(name, "event");
        self.packet(header.ts_ns, (Type::Instant, track), name, |_| {});
    }

    fn fault(&mut self, event: &Event, begin: u64) {
        let header = &event.header;
        let track = self.tracks.thread(header.pid, header.tid, header.comm);
        self.describe_new();
        let name = self.named(
            if event.is_vma_fault() {
                "fault under the VMA lock"
            } else {
                "fault under the mmap_lock"
            },
            "fault",
        );
        let result = self.names.number(Sort::Annotation, "VM_FAULT bits");
        let vma = self.names.number(Sort::Annotation, "vma");
        let shown = event.vma().map(|vma| self.addresses.show(vma));
        self.packet(begin, (Type::Begin, track), name, |packet| {
            annotate(
                packet,
                result,
                field::ANNOTATION_UINT,
                u64::from(event.fault_result()),
            );
            if let Some(shown) = shown {
                annotate(packet, vma, field::ANNOTATION_POINTER, shown);
            }
        });
        self.packet(header.ts_ns, (Type::End, track), None, |_| {});
    }

    /// Writes the rates of the step that is over.
    fn rates(&mut self, step: u64) {
        let then = self.step * STEP_NS;
        self.step = step;
        let counted = core::mem::take(&mut self.counted);
        for (at, count) in counted.into_iter().enumerate() {
            self.counter(at, then, count * (1_000_000_000 / STEP_NS));
        }
        if then + STEP_NS < step * STEP_NS {
            // Nothing happened in between.
            for at in 0..counted.len() {
                self.counter(at, then + STEP_NS, 0);
            }
        }
    }

    fn counter(&mut self, at: usize, ts_ns: u64, value: u64) {
        let track = self.counters[at];
        self.packet(ts_ns, (Type::Counter, track), None, |packet| {
            packet.number(field::EVENT_COUNTER, value);
        });
    }

    fn tell_lost(&mut self, ts_ns: u64) {
        // Both count the same events, one of them later.
        self.counter(Rate::Lost as usize, ts_ns, self.lost.0.max(self.lost.1));
    }

    fn span(&mut self, interval: &Interval, stacks: &Stacks, more: usize) {
        let span = &interval.span;
        let who = (span.who.pid, span.who.tid);
        let end = interval.end_ns;
        let Some(begin) = interval.begin_ns() else {
            let track = self.tracks.thread(who.0, who.1, interval.comm);
            self.describe_new();
            let name = self.named(&format!("{} of unknown length ends", verb(interval)), "unknown");
            self.packet(end, (Type::Instant, track), name, |_| {});
            return;
        };
        let track = self.tracks.lane(who, interval.comm, lane(interval), begin, end);
        self.describe_new();
        let name = if more > 0 {
            self.named(
                &format!("{} and {more} more", verb(interval)),
                category(span.what),
            )
        } else {
            self.named(verb(interval), category(span.what))
        };
        let contended = interval.holder.is_some();
        self.counted[Rate::Waits as usize] += u64::from(contended);
        self.begin(interval, begin, track, name, stacks);
        if !interval.waiters.is_empty() {
            let name = self.named("gives back what others wait for", "flow");
            self.packet(end, (Type::Instant, track), name, |packet| {
                for waiter in &interval.waiters {
                    packet.fixed64(field::EVENT_FLOW, flow(waiter.tid, waiter.since_ns));
                }
            });
        }
        self.packet(end, (Type::End, track), None, |_| {});
    }

    fn begin(
        &mut self,
        interval: &Interval,
        begin: u64,
        track: u64,
        name: Option<(u64, u64)>,
        stacks: &Stacks,
    ) {
        let span = interval.span;
        let names = &mut self.names;
        let mut notes = [(0, 0, 0); 10];
        let mut count = 0;
        let mut note = |name: u64, kind: u32, value: u64| {
            notes[count] = (name, kind, value);
            count += 1;
        };
        let how = names.number(Sort::Value, span.how.name());
        note(
            names.number(Sort::Annotation, "known"),
            field::ANNOTATION_INTERNED,
            how,
        );
        for (name, value) in [
            ("mm", self.addresses.show(span.place.mm)),
            ("vma", self.addresses.show(span.place.vma)),
            ("vm_start", span.place.vm_start),
            ("vm_end", span.place.vm_end),
        ] {
            if value != 0 {
                note(
                    names.number(Sort::Annotation, name),
                    field::ANNOTATION_POINTER,
                    value,
                );
            }
        }
        if let Some(site) = self.sites.get(span.site as usize) {
            let site = names.number(Sort::Value, site);
            note(
                names.number(Sort::Annotation, "ended at"),
                field::ANNOTATION_INTERNED,
                site,
            );
        }
        if let Some(holder) = &interval.holder {
            let tid = u64::from(holder.tid);
            note(
                names.number(Sort::Annotation, "waited for thread"),
                field::ANNOTATION_UINT,
                tid,
            );
        }
        for (title, number) in [
            ("kernel stack", interval.stacks.0),
            ("user stack", interval.stacks.1),
        ] {
            if let Some(stack) = stacks.get(number) {
                let text = names.stack(number, || stack.folded());
                note(
                    names.number(Sort::Annotation, title),
                    field::ANNOTATION_INTERNED,
                    text,
                );
            }
        }
        let gave_up = (span.what == What::GaveUp).then(|| names.number(Sort::Annotation, "gave up"));
        let flow_id = interval
            .holder
            .is_some()
            .then(|| flow(span.who.tid, span.since_ns));
        self.packet(begin, (Type::Begin, track), name, |packet| {
            for &(name, kind, value) in &notes[..count] {
                annotate(packet, name, kind, value);
            }
            if let Some(name) = gave_up {
                annotate(packet, name, field::ANNOTATION_BOOL, 1);
            }
            if let Some(id) = flow_id {
                packet.fixed64(field::EVENT_FLOW, id);
            }
        });
    }

    /// Writes the VMA write locks that ended together: the later begun on top of the earlier.
    fn flush_writes(&mut self, stacks: &Stacks) {
        let mut writes = core::mem::take(&mut self.writes);
        writes.sort_by_key(|interval| interval.begin_ns());
        let shown = writes.len().min(MOST_WRITES);
        let more = writes.len() - shown;
        let mut tracks = Vec::new();
        for (at, interval) in writes.iter().take(shown).enumerate() {
            let more = if at + 1 == shown { more } else { 0 };
            let Some(begin) = interval.begin_ns() else {
                self.span(interval, stacks, 0);
                continue;
            };
            if tracks.is_empty() {
                let who = (interval.span.who.pid, interval.span.who.tid);
                let end = interval.end_ns;
                tracks.push(self.tracks.lane(who, interval.comm, Lane::WriteHolds, begin, end));
                self.describe_new();
            }
            let name = match more {
                0 => self.named(verb(interval), "hold"),
                _ => self.named(&format!("{} and {more} more", verb(interval)), "hold"),
            };
            self.begin(interval, begin, tracks[0], name, stacks);
        }
        let ends = writes.iter().take(shown).filter(|i| i.begin_ns().is_some());
        for interval in ends {
            self.packet(interval.end_ns, (Type::End, tracks[0]), None, |_| {});
        }
        writes.clear();
        self.writes = writes;
    }
}

impl Exporter for PerfettoWriter<Output> {
    fn event(&mut self, event: &Event, _meta: &Meta, _stacks: &Stacks) -> anyhow::Result<()> {
        self.take(event);
        Ok(self.flush(BUFFER)?)
    }

    fn wants_intervals(&self) -> bool {
        true
    }

    fn interval(&mut self, interval: &Interval, stacks: &Stacks) -> anyhow::Result<()> {
        let key = |one: &Interval| (one.span.who.tid, one.end_ns);
        if self
            .writes
            .first()
            .is_some_and(|first| key(first) != key(interval) || interval.span.lock != Lock::VmaWrite)
        {
            self.flush_writes(stacks);
        }
        if interval.span.lock == Lock::VmaWrite && interval.span.what == What::Hold {
            self.writes.push(interval.clone());
        } else {
            self.span(interval, stacks, 0);
        }
        Ok(())
    }

    fn losses(&mut self, ts_ns: u64, losses: &Losses) -> anyhow::Result<()> {
        self.lost.1 = losses.dropped() + losses.missed;
        self.tell_lost(ts_ns);
        Ok(())
    }

    fn finish(mut self: Box<Self>, end: &Ending<'_>) -> anyhow::Result<()> {
        self.flush_writes(end.stacks);
        let now = end.engine.now_ns();
        self.rates(now / STEP_NS + 1);
        // What is held and awaited still has a beginning and no end.
        for view in end.engine.tasks() {
            let task = view.task();
            if !end.pick.takes_pid(task.pid) {
                continue;
            }
            let who = (task.pid, task.tid);
            let holds = view.holds().filter(|hold| hold.start_known).map(|hold| {
                let lane = match hold.lock {
                    Lock::MmapRead | Lock::MmapWrite => Lane::MmapHolds,
                    Lock::VmaRead => Lane::ReadHolds,
                    Lock::VmaWrite => Lane::WriteHolds,
                };
                (lane, held(hold.lock), "hold", hold.since_ns)
            });
            let waits = view
                .waits()
                .map(|wait| (Lane::Waits, awaited(wait.lock), "wait", wait.since_ns));
            let open: Vec<_> = holds.chain(waits).take(MOST_WRITES).collect();
            for (lane, name, category, since) in open {
                let track = self.tracks.lane(who, task.comm, lane, since, u64::MAX);
                self.describe_new();
                let name = self.named(name, category);
                self.packet(since, (Type::Begin, track), name, |_| {});
            }
        }
        self.flush(0)?;
        self.out.finish()
    }
}

fn annotate(event: &mut Proto, name: u64, kind: u32, value: u64) {
    event.message(field::EVENT_ANNOTATION, |note| {
        note.number(field::ANNOTATION_NAME, name);
        note.number(kind, value);
    });
}

/// What ties a wait to the instants at which the lock was given back: a number that no other wait has.
fn flow(tid: u32, since_ns: u64) -> u64 {
    use std::hash::Hasher as _;
    let mut hasher = rustc_hash::FxHasher::default();
    hasher.write_u64(since_ns);
    hasher.write_u32(tid);
    hasher.finish() | 1
}

fn lane(interval: &Interval) -> Lane {
    match (interval.span.what, interval.span.lock) {
        (What::Wait | What::GaveUp, _) => Lane::Waits,
        (What::Hold, Lock::MmapRead | Lock::MmapWrite) => Lane::MmapHolds,
        (What::Hold, Lock::VmaRead) => Lane::ReadHolds,
        (What::Hold, Lock::VmaWrite) => Lane::WriteHolds,
    }
}

fn verb(interval: &Interval) -> &'static str {
    match interval.span.what {
        What::Hold => held(interval.span.lock),
        What::Wait | What::GaveUp => awaited(interval.span.lock),
    }
}

const fn held(lock: Lock) -> &'static str {
    match lock {
        Lock::MmapRead => "holds mmap_lock for reading",
        Lock::MmapWrite => "holds mmap_lock for writing",
        Lock::VmaRead => "holds a VMA for reading",
        Lock::VmaWrite => "holds a VMA for writing",
    }
}

const fn awaited(lock: Lock) -> &'static str {
    match lock {
        Lock::MmapRead => "waits for mmap_lock for reading",
        Lock::MmapWrite => "waits for mmap_lock for writing",
        Lock::VmaRead => "waits for a VMA for reading",
        Lock::VmaWrite => "waits for the readers of a VMA",
    }
}

const fn category(what: What) -> &'static str {
    match what {
        What::Hold => "hold",
        What::Wait | What::GaveUp => "wait",
    }
}
