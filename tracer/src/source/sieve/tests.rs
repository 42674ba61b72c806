use std::collections::BTreeSet;
use std::time::Duration;

use tracer_common::wire::{Event, Kind, flag};

use super::super::replay::Replay;
use super::*;
use crate::check::Checker;
use crate::state::{Lock, Note, What};

const MM: u64 = 0xffff_8880_0000_1000;
const MS: u64 = 1_000_000;

fn least(hold_ms: Option<u64>, wait_ms: Option<u64>) -> Least {
    Least {
        hold_ns: hold_ms.map(|ms| ms * MS),
        wait_ns: wait_ms.map(|ms| ms * MS),
    }
}

/// An event of an `mmap_lock`, of a thread, after so many milliseconds.
fn mmap(kind: Kind, tid: u32, ms: u64) -> Event {
    let mut event = Event::synthetic(kind, ms * MS);
    event.header.tid = tid;
    event.header.pid = 1;
    event.header.flags = flag::MM;
    event.body.mm = MM;
    event
}

/// A source that gives its events in rounds: all before the end of each.
struct Script {
    info: SourceInfo,
    rounds: Vec<(u64, Vec<Event>)>,
    given: u64,
}

impl Script {
    fn new(mut events: Vec<Event>, round_ms: &[u64]) -> Self {
        for (seq, event) in events.iter_mut().enumerate() {
            event.header.seq = u32::try_from(seq).unwrap();
        }
        let mut rounds: Vec<_> = round_ms
            .iter()
            .map(|&ms| {
                let later = events.iter().position(|event| event.header.ts_ns >= ms * MS);
                let now = events.drain(..later.unwrap_or(events.len())).collect();
                (ms * MS, now)
            })
            .collect();
        let last_ns = events.last().map_or(0, |event| event.header.ts_ns);
        rounds.push((last_ns + 1, events));
        rounds.reverse();
        Self {
            info: SourceInfo::default(),
            rounds,
            given: 0,
        }
    }
}

impl Source for Script {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn poll(&mut self, _wait: Duration, sink: &mut dyn FnMut(&Event)) -> anyhow::Result<Poll> {
        let Some((watermark_ns, events)) = self.rounds.pop() else {
            return Ok(Poll::End);
        };
        self.given += events.len() as u64;
        for event in &events {
            sink(event);
        }
        Ok(Poll::More { watermark_ns })
    }

    fn stop(&mut self) {}

    fn losses(&mut self) -> anyhow::Result<Losses> {
        let cpu = CpuLosses {
            produced: self.given,
            dropped: 0,
            received: self.given,
        };
        Ok(Losses {
            cpus: vec![cpu],
            ..Losses::default()
        })
    }
}

/// What is left, in rounds.
fn sieved(source: impl Source, least: Least, kinds: u64) -> Vec<Vec<Event>> {
    let mut source = Sieved::new(source, least, kinds);
    let mut order = Order::new(0);
    let mut rounds = Vec::new();
    loop {
        let mut round = Vec::new();
        match source
            .poll(Duration::ZERO, &mut |event| order.push(event))
            .unwrap()
        {
            Poll::More { watermark_ns } => order.advance(watermark_ns, &mut |event| round.push(*event)),
            Poll::End => {
                order.finish(&source.losses().unwrap(), &mut |event| round.push(*event));
                rounds.push(round);
                let stats = order.stats();
                assert_eq!((stats.disordered, stats.duplicates, stats.late), (0, 0, 0));
                let losses = source.losses().unwrap();
                let received: u64 = losses.cpus.iter().map(|cpu| cpu.received).sum();
                assert_eq!(stats.received, received);
                return rounds;
            }
        }
        rounds.push(round);
    }
}

/// Kinds, threads and milliseconds.
fn brief(events: &[Event]) -> Vec<(Kind, u32, u64)> {
    events
        .iter()
        .map(|event| (event.kind, event.header.tid, event.header.ts_ns / MS))
        .collect()
}

fn all(events: Vec<Event>, least: Least) -> Vec<(Kind, u32, u64)> {
    brief(&sieved(Script::new(events, &[]), least, u64::MAX).concat())
}

use Kind::{MmapAcquire as Acquire, MmapFail as Fail, MmapRelease as Release, MmapStart as Start};

#[test]
fn a_long_hold_comes_with_its_beginning_and_a_short_one_not_at_all() {
    let events = vec![
        mmap(Start, 1, 10),
        mmap(Acquire, 1, 11),
        mmap(Start, 2, 12),
        mmap(Release, 1, 13),
        mmap(Acquire, 2, 14),
        mmap(Release, 2, 30),
    ];
    let long = [(Acquire, 2, 14), (Release, 2, 30)];
    assert_eq!(all(events.clone(), least(Some(10), None)), long);
    let with_waits = [(Start, 2, 12), (Acquire, 2, 14), (Release, 2, 30)];
    assert_eq!(all(events.clone(), least(Some(10), Some(100))), with_waits);
    assert_eq!(all(events.clone(), least(Some(17), Some(100))), []);
    assert_eq!(all(events, least(Some(0), Some(0))).len(), 6);
}

#[test]
fn a_long_wait_comes_with_the_hold_that_it_led_to() {
    let events = vec![
        mmap(Start, 1, 10),
        mmap(Acquire, 1, 10),
        mmap(Start, 2, 11),
        mmap(Start, 3, 12),
        mmap(Fail, 3, 25),
        mmap(Release, 1, 30),
        mmap(Acquire, 2, 30),
        mmap(Release, 2, 31),
        mmap(Start, 2, 40),
        mmap(Acquire, 2, 41),
        mmap(Release, 2, 90),
    ];
    let long = [
        (Start, 2, 11),
        (Start, 3, 12),
        (Fail, 3, 25),
        (Acquire, 2, 30),
        (Release, 2, 31),
    ];
    assert_eq!(all(events, least(None, Some(10))), long);
}

#[test]
fn what_still_goes_on_is_seen_once_it_is_long() {
    let events = vec![
        mmap(Start, 1, 10),
        mmap(Acquire, 1, 11),
        mmap(Start, 2, 12),
        mmap(Acquire, 2, 13),
        mmap(Release, 2, 14),
        mmap(Release, 1, 500),
    ];
    let rounds = sieved(
        Script::new(events, &[15, 20, 22, 100]),
        least(Some(10), None),
        u64::MAX,
    );
    let rounds: Vec<_> = rounds.iter().map(|round| brief(round)).collect();
    assert_eq!(rounds[0], []);
    assert_eq!(rounds[1], []);
    assert_eq!(rounds[2], [(Acquire, 1, 11)]);
    assert_eq!(rounds[3], []);
    assert_eq!(rounds[4..].concat(), [(Release, 1, 500)]);
}

#[test]
fn what_is_not_known_stays() {
    let mut gap = Event::synthetic(Kind::Gap, 21 * MS);
    gap.body.arg = 1;
    let events = vec![
        // It was held before the start.
        mmap(Release, 1, 10),
        mmap(Start, 2, 20),
        mmap(Acquire, 2, 20),
        gap,
        mmap(Release, 2, 22),
        mmap(Release, 1, 23),
        mmap(Start, 2, 24),
        mmap(Acquire, 2, 25),
        mmap(Release, 2, 26),
    ];
    let left = all(events, least(Some(10), None));
    let expected = [
        (Release, 1, 10),
        (Acquire, 2, 20),
        (Kind::Gap, 0, 21),
        (Release, 2, 22),
        (Release, 1, 23),
    ];
    assert_eq!(left, expected);
}

#[test]
fn what_was_not_long_by_the_end_goes() {
    let events = vec![mmap(Start, 1, 10), mmap(Acquire, 1, 11)];
    assert_eq!(all(events, least(Some(10), Some(10))), []);
}

#[test]
fn only_kinds_that_were_asked_for_are_handed_on() {
    let events = vec![mmap(Start, 1, 10), mmap(Acquire, 1, 11), mmap(Release, 1, 60)];
    let left = sieved(
        Script::new(events, &[]),
        least(Some(10), None),
        1 << Release as u8,
    );
    assert_eq!(brief(&left.concat()), [(Release, 1, 60)]);
}

#[test]
fn too_many_that_wait_stay_and_are_counted() {
    let mut events = vec![mmap(Start, 1, 1), mmap(Acquire, 1, 1)];
    // Of one task that ends nothing, and of one whose holds are all short: those make room.
    for _ in 0..MOST {
        events.extend([Start, Acquire, Release].map(|kind| mmap(kind, 2, 2)));
    }
    events.extend((0..MOST).map(|_| mmap(Kind::MmapFail, 1, 3)));
    events.push(mmap(Release, 1, 4));
    let mut source = Sieved::new(Script::new(events, &[]), least(Some(10), None), u64::MAX);
    let mut left = 0;
    while source.poll(Duration::ZERO, &mut |_| left += 1).unwrap() != Poll::End {}
    let crowded = source.losses().unwrap().crowded;
    assert!(
        (MOST as u64 / 4 * 3..=MOST as u64).contains(&crowded),
        "{crowded}"
    );
    assert_eq!(left, MOST + 2);
}

/// Waits and holds whose length is known, of locks that are taken by themselves.
fn spans(events: &[Event], info: &SourceInfo, least: Least) -> BTreeSet<(u32, u64, u64, bool)> {
    let mut engine = Engine::new(info);
    engine.keep_notes();
    let mut checker = Checker::new(info);
    let mut spans = BTreeSet::new();
    for event in events {
        checker.apply(&mut engine, event, &mut |_, _| ());
        for note in engine.notes() {
            let Note::Span(span) = note else { continue };
            let is_hold = span.what == What::Hold;
            let least = if is_hold { least.hold_ns } else { least.wait_ns };
            if let (Some(ns), Some(least)) = (span.ns, least)
                && ns >= least
                && span.lock != Lock::VmaWrite
            {
                spans.insert((span.who.tid, span.since_ns, ns, is_hold));
            }
        }
    }
    checker.finish();
    assert_eq!(checker.violations().total(), 0);
    assert_eq!(engine.totals().anomalies.iter().sum::<u64>(), 0);
    assert_eq!(engine.audit(), Ok(()));
    spans
}

#[test]
fn of_a_real_kernel_every_long_hold_and_wait_is_left() {
    let packed = include_bytes!("../../../tests/fixtures/recordings/holder-7.3.rec.xz");
    let path = std::env::temp_dir().join(format!("tracer-sieve-{}.rec", std::process::id()));
    let mut reader = lzma_rust2::XzReader::new(&packed[..], true);
    std::io::copy(&mut reader, &mut std::fs::File::create(&path).unwrap()).unwrap();
    let open = || Replay::open(&path).unwrap();
    let whole = sieved(open(), Least::default(), u64::MAX).concat();
    let info = open().info().clone();
    let mut before = usize::MAX;
    for (hold, wait) in [(1, Some(1)), (100, Some(100)), (250, Some(100)), (250, None)] {
        let least = least(Some(hold), wait);
        let left = sieved(open(), least, u64::MAX).concat();
        let mut filtered = info.clone();
        filtered.filters.push(format!("min-hold {hold}ms"));
        assert_eq!(
            spans(&left, &filtered, least),
            spans(&whole, &info, least),
            "{least:?}"
        );
        assert!(
            left.len() <= before,
            "{least:?}: {} of {}",
            left.len(),
            whole.len()
        );
        assert!(!spans(&left, &filtered, least).is_empty(), "{least:?}");
        before = left.len();
    }
    assert!(before * 10 < whole.len(), "{before} of {}", whole.len());
    std::fs::remove_file(&path).unwrap();
}
