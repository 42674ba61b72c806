//! What a flight recorder writes is a whole recording of the right time, which says why it was written.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracer::flight::{Limits, Options, Outcome, Recorder};
use tracer::info::SourceInfo;
use tracer::order::Order;
use tracer::pipeline::{self, Stop};
use tracer::recording::create;
use tracer::source::replay::Replay;
use tracer::source::{Poll, Source as _};
use tracer::trigger::Trigger;
use tracer_common::wire::{Event, Kind, flag};

const MS: u64 = 1_000_000;

/// A folder of its own that goes away with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tracer-flight-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Numbers events of two CPUs as the kernel does.
#[derive(Default)]
struct Stream {
    events: Vec<Event>,
    numbers: [u32; 2],
}

impl Stream {
    fn add(&mut self, kind: Kind, ms: u64, tid: u32, write: bool) {
        let cpu = (tid % 2) as usize;
        let mut event = Event::synthetic(kind, ms * MS);
        event.header.flags = flag::MM | if write { flag::WRITE } else { 0 };
        (event.header.pid, event.header.tid, event.body.mm) = (7, tid, 0x1000);
        event.header.comm[..5].copy_from_slice(b"someb");
        event.header.cpu = cpu as u16;
        event.header.seq = self.numbers[cpu];
        self.numbers[cpu] += 1;
        self.events.push(event);
    }

    /// One that found no room.
    fn lose(&mut self, cpu: usize) {
        self.numbers[cpu] += 1;
    }

    /// Tasks 10 and 11 take and give back the lock every millisecond.
    fn quiet(&mut self, from_ms: u64, to_ms: u64) {
        for ms in from_ms..to_ms {
            for tid in [10, 11] {
                self.add(Kind::MmapStart, ms, tid, false);
                self.add(Kind::MmapAcquire, ms, tid, false);
                self.add(Kind::MmapRelease, ms, tid, false);
            }
        }
    }

    /// Writes it through the very same order that a live source has.
    fn record(&self, file: &Path) {
        let info = SourceInfo {
            source: "live".into(),
            cpus: 2,
            start_realtime_ns: 1_000_000 * MS,
            ..SourceInfo::default()
        };
        let mut writer = create(file, &info).unwrap();
        let mut order = Order::new(0);
        for event in &self.events {
            order.push(event);
        }
        order.finish(&tracer::info::Losses::default(), &mut |event| {
            writer.push(event).unwrap();
        });
        writer.finish(&tracer::info::Losses::default(), "test").unwrap();
    }
}

fn watch(from: &Path, output: &Path, on: &str, times: u32, bytes: usize) -> Outcome {
    let mut replay = Replay::open(from).unwrap();
    let mut stop = Stop::new(None).unwrap();
    let options = Options {
        output: output.to_owned(),
        triggers: vec![Trigger::parse(on).unwrap()],
        limits: Limits {
            last_ns: 100 * MS,
            bytes,
        },
        after_ns: 20 * MS,
        times,
    };
    let mut recorder = Recorder::new(options, replay.info(), stop.switch());
    pipeline::run(&mut replay, &mut stop, &mut recorder).unwrap();
    recorder.finish().unwrap()
}

/// A recording read back.
struct Read {
    info: SourceInfo,
    events: Vec<Event>,
    missing: u64,
    odd: u64,
    balanced: bool,
    reason: String,
}

fn read(file: &Path) -> Read {
    let mut replay = Replay::open(file).unwrap();
    let info = replay.info().clone();
    let mut order = Order::beginning_with(info.start_monotonic_ns, &info.first_numbers);
    let mut events = Vec::new();
    while replay
        .poll(Duration::ZERO, &mut |event| order.push(event))
        .unwrap()
        != Poll::End
    {}
    assert_eq!(replay.warning(), None);
    let losses = replay.losses().unwrap();
    order.finish(&losses, &mut |event| events.push(*event));
    let by_cpu: Vec<_> = order.by_cpu().collect();
    Read {
        info,
        missing: order.stats().missing(),
        odd: order.stats().late + order.stats().duplicates + order.stats().disordered,
        balanced: losses.cpus.iter().zip(by_cpu).all(|(cpu, (received, missing))| {
            cpu.produced == cpu.received + cpu.dropped && cpu.received == received && cpu.dropped == missing
        }),
        reason: replay.summary().unwrap().reason.clone(),
        events,
    }
}

#[test]
fn a_wait_is_written_with_what_came_before_and_after() {
    let folder = Folder::new("wait");
    let mut stream = Stream::default();
    stream.quiet(0, 1000);
    stream.add(Kind::MmapAcquire, 1000, 4, true);
    stream.add(Kind::MmapStart, 1000, 5, false);
    stream.add(Kind::MmapRelease, 1030, 4, true);
    stream.add(Kind::MmapAcquire, 1031, 5, false);
    stream.add(Kind::MmapRelease, 1032, 5, false);
    stream.quiet(1040, 2000);
    let (from, output) = (folder.file("all.rec"), folder.file("a.rec"));
    stream.record(&from);
    let outcome = watch(&from, &output, "wait>25ms", 1, 64 << 20);
    assert_eq!((outcome.files, outcome.lines.len()), (1, 1));
    assert!(outcome.lines[0].contains("someb (5)"), "{}", outcome.lines[0]);

    let read = read(&output);
    assert_eq!((read.missing, read.odd, read.balanced), (0, 0, true));
    assert_eq!(read.reason, "trigger");
    let flight = read.info.flight.unwrap();
    assert_eq!(flight.fired.trigger, "wait>25ms");
    assert_eq!((flight.fired.tid, flight.fired.lock.as_str()), (5, "mmap_read"));
    assert!(!flight.cut_short);
    // The time before, a block more at most; the time after, and not more.
    let (first, last) = (
        read.events[0].header.ts_ns,
        read.events[read.events.len() - 1].header.ts_ns,
    );
    let fired = flight.fired.ts_ns;
    assert!((100 * MS..110 * MS).contains(&(fired - first)), "{first} {fired}");
    assert!(last > fired && last <= fired + 20 * MS, "{fired} {last}");
    assert_eq!(flight.before_ns, fired - first);
    // Both clocks tell the same instant.
    assert_eq!(read.info.start_monotonic_ns, first);
    assert_eq!(read.info.start_realtime_ns, 1_000_000 * MS + first);
    assert!(
        read.events
            .iter()
            .any(|event| event.kind == Kind::MmapStart && event.header.tid == 5),
        "the wait itself is there"
    );
}

#[test]
fn a_hold_that_has_no_end_fires_while_others_go_on() {
    let folder = Folder::new("stuck");
    let mut stream = Stream::default();
    stream.quiet(0, 50);
    stream.add(Kind::MmapAcquire, 50, 4, true);
    for ms in 51..300 {
        stream.add(Kind::MmapStart, ms, 10, false);
        stream.add(Kind::MmapFail, ms, 10, false);
    }
    let (from, output) = (folder.file("all.rec"), folder.file("a.rec"));
    stream.record(&from);
    assert_eq!(watch(&from, &output, "hold>30ms", 1, 64 << 20).files, 1);
    let fired = read(&output).info.flight.unwrap().fired;
    assert!(fired.ongoing && fired.tid == 4, "{fired:?}");
    assert!(fired.ts_ns < 90 * MS, "{fired:?}");
}

#[test]
fn a_quiet_stream_writes_nothing() {
    let folder = Folder::new("quiet");
    let mut stream = Stream::default();
    stream.quiet(0, 500);
    let (from, output) = (folder.file("all.rec"), folder.file("a.rec"));
    stream.record(&from);
    for on in ["wait>10ms", "hold>10ms", "violation", "fallback-rate>50%"] {
        assert_eq!(watch(&from, &output, on, 1, 64 << 20), Outcome::default(), "{on}");
        assert!(!output.exists());
    }
}

#[test]
fn several_recordings_are_numbered_and_share_no_event() {
    let folder = Folder::new("repeat");
    let mut stream = Stream::default();
    for round in 0..5 {
        let begin = round * 200;
        stream.add(Kind::MmapStart, begin, 5, true);
        stream.add(Kind::MmapAcquire, begin + 50, 5, true);
        stream.add(Kind::MmapRelease, begin + 51, 5, true);
        stream.quiet(begin + 52, begin + 200);
    }
    let (from, output) = (folder.file("all.rec"), folder.file("a.rec"));
    stream.record(&from);
    assert_eq!(watch(&from, &output, "wait>40ms", 3, 64 << 20).files, 3);
    assert!(!output.exists() && !folder.file("a.4.rec").exists());
    let mut last = 0;
    for number in 1..=3 {
        let read = read(&folder.file(&format!("a.{number}.rec")));
        assert_eq!((read.missing, read.odd, read.balanced), (0, 0, true));
        assert!(read.events[0].header.ts_ns > last || number == 1);
        last = read.events[read.events.len() - 1].header.ts_ns;
    }
}

#[test]
fn what_was_lost_is_a_gap_there_too_and_the_books_balance() {
    let folder = Folder::new("lost");
    let mut stream = Stream::default();
    stream.quiet(0, 340);
    stream.lose(0);
    stream.lose(1);
    stream.quiet(340, 350);
    stream.lose(1);
    stream.add(Kind::MmapStart, 360, 5, true);
    stream.add(Kind::MmapAcquire, 400, 5, true);
    stream.quiet(401, 410);
    let (from, output) = (folder.file("all.rec"), folder.file("a.rec"));
    stream.record(&from);
    assert_eq!(watch(&from, &output, "wait>30ms", 1, 64 << 20).files, 1);
    let read = read(&output);
    assert_eq!((read.missing, read.odd, read.balanced), (3, 0, true));
}

#[test]
fn too_little_memory_is_told_in_the_recording() {
    let folder = Folder::new("memory");
    let mut stream = Stream::default();
    for at in 0..40_000_u64 {
        stream.add(Kind::MmapFail, at / 800, 10, false);
    }
    stream.add(Kind::MmapStart, 50, 5, true);
    stream.add(Kind::MmapAcquire, 90, 5, true);
    let (from, output) = (folder.file("all.rec"), folder.file("a.rec"));
    stream.record(&from);
    assert_eq!(watch(&from, &output, "wait>30ms", 1, 1 << 20).files, 1);
    let read = read(&output);
    assert!(read.info.flight.unwrap().cut_short);
    assert_eq!((read.missing, read.odd, read.balanced), (0, 0, true));
}

#[test]
fn a_recording_that_is_cut_short_is_good_up_to_there() {
    let folder = Folder::new("cut");
    let mut stream = Stream::default();
    stream.quiet(0, 2000);
    stream.add(Kind::MmapStart, 2000, 5, true);
    stream.add(Kind::MmapAcquire, 2050, 5, true);
    let (from, output) = (folder.file("all.rec"), folder.file("a.rec"));
    stream.record(&from);
    assert_eq!(watch(&from, &output, "wait>30ms", 1, 64 << 20).files, 1);
    let whole = fs::read(&output).unwrap();
    fs::write(&output, &whole[..whole.len() * 2 / 3]).unwrap();
    let mut replay = Replay::open(&output).unwrap();
    assert!(replay.info().flight.is_some());
    let mut events = 0;
    while replay.poll(Duration::ZERO, &mut |_| events += 1).unwrap() != Poll::End {}
    assert!(events > 0);
    assert!(replay.warning().unwrap().contains("what comes before is good"));
}
