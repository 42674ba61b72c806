//! A recording gives back what went in, and of a damaged one all that is good, with the place of the damage.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use tracer::info::{Anchor, CpuLosses, Losses, SourceInfo};
use tracer::order::Order;
use tracer::recording::{End, FRAME_LEN, Frame, Item, PREFIX_LEN, ReadError, RecordReader, create};
use tracer::source::replay::Replay;
use tracer::source::{Poll, Source as _};
use tracer::stacks::{self, Stack, Stacks};
use tracer_common::wire::{Event, Kind, MAX_EVENT};

#[path = "recording/disk.rs"]
mod disk;
#[path = "recording/kill.rs"]
mod kill;
#[path = "recording/versions.rs"]
mod versions;

/// A folder of its own that goes away with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tracer-test-{}-{name}", std::process::id()));
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

fn info() -> SourceInfo {
    SourceInfo {
        source: "live".into(),
        cpus: 2,
        self_pid: 77,
        ..SourceInfo::default()
    }
}

fn losses() -> Losses {
    Losses {
        cpus: vec![CpuLosses {
            produced: 10,
            dropped: 4,
            received: 6,
        }],
        missed: 2,
        ..Losses::default()
    }
}

fn event(seq: u32) -> Event {
    let kind = if seq.is_multiple_of(3) {
        Kind::FaultEnd
    } else {
        Kind::MmapStart
    };
    let mut event = Event::synthetic(kind, 1000 + u64::from(seq) * 10);
    event.header.seq = seq;
    event.header.tid = 7;
    event.body.mm = 0xabc;
    event
}

/// A whole recording with `count` events, a block for each hundred.
fn recording(folder: &Folder, count: u32) -> Vec<u8> {
    let path = folder.file("whole.rec");
    let mut writer = create(&path, &info()).unwrap();
    for seq in 0..count {
        writer.push(&event(seq)).unwrap();
        if seq % 100 == 99 {
            writer.flush().unwrap();
        }
    }
    writer.losses(&losses()).unwrap();
    writer.finish(&losses(), "test").unwrap();
    fs::read(path).unwrap()
}

struct Found {
    events: Vec<Event>,
    end: End,
    warning: Option<String>,
    losses: Losses,
}

fn read(bytes: &[u8]) -> Result<Found, ReadError> {
    replay(RecordReader::new(input(bytes), "test.rec")?)
}

fn recover(bytes: &[u8]) -> Result<Found, ReadError> {
    replay(RecordReader::new_recovering(input(bytes), "test.rec")?)
}

fn input(bytes: &[u8]) -> Box<dyn Read + Send> {
    Box::new(std::io::Cursor::new(bytes.to_vec()))
}

fn replay(reader: RecordReader) -> Result<Found, ReadError> {
    let mut replay = Replay::new(reader);
    let mut events = Vec::new();
    while replay
        .poll(Duration::ZERO, &mut |event| events.push(*event))
        .unwrap()
        != Poll::End
    {}
    Ok(Found {
        events,
        end: replay.end().cloned().unwrap_or(End::Clean),
        warning: replay.warning(),
        losses: replay.losses().unwrap(),
    })
}

#[test]
fn what_goes_in_comes_out() {
    let folder = Folder::new("roundtrip");
    let bytes = recording(&folder, 250);
    let found = read(&bytes).unwrap();
    assert_eq!(found.events, (0..250).map(event).collect::<Vec<_>>());
    assert_eq!(found.end, End::Clean);
    assert_eq!(found.warning, None);
    assert_eq!(found.losses, losses());
    let replay = Replay::open(&folder.file("whole.rec")).unwrap();
    let format_version = 2;
    let expected = SourceInfo {
        format_version,
        ..info()
    };
    assert_eq!(replay.info(), &expected);
}

#[test]
fn a_recording_of_version_1_is_read() {
    let events: Vec<_> = (0..250).map(event).collect();
    let bytes = version_1(&events);
    let found = read(&bytes).unwrap();
    assert_eq!(found.events, events);
    assert_eq!((found.end, found.warning), (End::Clean, None));
    assert_eq!(found.losses, losses());
    for cut in (PREFIX_LEN..bytes.len()).step_by(101) {
        if let Ok(found) = read(&bytes[..cut]) {
            assert_eq!(found.events, events[..found.events.len()]);
            assert_ne!(found.end, End::Clean);
        }
    }
}

/// What version 1 of the format was: wire events as they are, a hundred in a block.
fn version_1(events: &[Event]) -> Vec<u8> {
    let mut file = b"\x89VMATR\x1a\n".to_vec();
    file.extend(1u64.to_le_bytes());
    let mut frame = |kind: u8, events: &[Event], payload: &[u8]| {
        let mut bytes = b"fRm\x01".to_vec();
        bytes.extend([kind, 0, 0, 0]);
        let len = u32::try_from(payload.len()).unwrap();
        bytes.extend(
            [len, len, u32::try_from(events.len()).unwrap(), 0]
                .map(u32::to_le_bytes)
                .concat(),
        );
        let time = |event: Option<&Event>| event.map_or(0, |event| event.header.ts_ns);
        bytes.extend(
            [time(events.first()), time(events.last())]
                .map(u64::to_le_bytes)
                .concat(),
        );
        bytes.extend(payload);
        seal(&mut bytes);
        file.extend(bytes);
    };
    frame(1, &[], &serde_json::to_vec(&info()).unwrap());
    for block in events.chunks(100) {
        let mut payload = Vec::new();
        for event in block {
            let mut bytes = [0; MAX_EVENT];
            let len = event.encode(&mut bytes);
            payload.extend(&bytes[..len]);
        }
        frame(2, block, &payload);
    }
    frame(3, &[], &serde_json::to_vec(&losses()).unwrap());
    let summary = tracer::recording::Summary {
        losses: losses(),
        ..Default::default()
    };
    frame(4, &[], &serde_json::to_vec(&summary).unwrap());
    file
}

/// Makes the checksum of a frame right.
fn seal(frame: &mut [u8]) {
    if frame[3] >= 2 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&frame[..6]);
        hasher.update(&frame[8..20]);
        hasher.update(&frame[24..40]);
        let check = hasher.finalize() as u16;
        frame[6..8].copy_from_slice(&check.to_le_bytes());
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..20]);
    hasher.update(&frame[24..]);
    let crc = hasher.finalize();
    frame[20..24].copy_from_slice(&crc.to_le_bytes());
}

/// Offsets and lengths of all frames.
fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut at = PREFIX_LEN;
    let mut found = Vec::new();
    while at < bytes.len() {
        let len = FRAME_LEN + u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        found.push((at, len));
        at += len;
    }
    found
}

#[test]
fn stacks_come_before_the_events_that_have_their_numbers() {
    let folder = Folder::new("stacks");
    let path = folder.file("a.rec");
    let mut stacks = Stacks::default();
    let mut writer = create(&path, &info()).unwrap();
    let name = |addresses: &[u64]| {
        let frame = |&address| tracer::stacks::Frame {
            address,
            name: format!("down_read+{address:#x}"),
            module: String::new(),
        };
        addresses.iter().map(frame).collect()
    };
    for round in 1..=3_u32 {
        stacks.number(0, &[u64::from(round), 9], name);
        writer.stacks(&stacks).unwrap();
        // Nothing new, nothing written.
        let written = writer.bytes_written();
        writer.stacks(&stacks).unwrap();
        assert_eq!(writer.bytes_written(), written);
        let mut event = Event::synthetic(Kind::Stack, u64::from(round));
        event.body.vma = u64::from(round);
        writer.push(&event).unwrap();
    }
    writer.finish(&Losses::default(), "test").unwrap();
    let mut replay = Replay::open(&path).unwrap();
    let mut numbers = Vec::new();
    loop {
        let poll = replay.poll(Duration::ZERO, &mut |event| numbers.push(event.stacks().0));
        for &number in &numbers {
            assert_eq!(replay.stacks().get(number), stacks.get(number));
        }
        if poll.unwrap() == Poll::End {
            break;
        }
    }
    assert_eq!((numbers, replay.stacks().len()), (vec![1, 2, 3], 3));
}

#[test]
fn the_summary_says_what_is_inside() {
    let folder = Folder::new("summary");
    let mut writer = create(&folder.file("a.rec"), &info()).unwrap();
    writer.push(&event(0)).unwrap();
    writer.push(&Event::synthetic(Kind::Gap, 1500)).unwrap();
    assert_eq!(writer.events(), 2);
    let summary = writer.finish(&losses(), "interrupt").unwrap();
    assert_eq!((summary.events, summary.gaps), (2, 1));
    assert_eq!((summary.first_ns, summary.last_ns), (1000, 1500));
    let mut reader = RecordReader::open(&folder.file("a.rec")).unwrap();
    let mut kept = None;
    while let Some(frame) = reader.next_frame().unwrap() {
        if let Frame::Summary(found) = frame {
            kept = Some(*found);
        }
    }
    assert_eq!(kept, Some(summary));
}

#[test]
fn a_cut_at_any_byte_keeps_every_whole_frame() {
    let folder = Folder::new("cut");
    let bytes = recording(&folder, 250);
    let mut seen = 0;
    for cut in 0..bytes.len() {
        match read(&bytes[..cut]) {
            Ok(found) => {
                assert!(found.events.len() >= seen, "a longer file has fewer events");
                seen = found.events.len();
                assert_eq!(found.events, (0..).take(seen).map(event).collect::<Vec<_>>());
                assert_ne!(found.end, End::Clean);
                let warning = found.warning.unwrap();
                assert!(warning.contains("at offset"), "{warning}");
            }
            Err(error) => assert!(
                matches!(error, ReadError::NoHeader { .. })
                    || cut == 0 && matches!(error, ReadError::Foreign { .. }),
                "cut at {cut}: {error}"
            ),
        }
    }
    assert_eq!(seen, 250);
}

/// Every byte of every recording: told with its place; all before it is kept; with --recover, all but its frame.
fn flip_every_byte(bytes: &[u8], expected: &[Event], per_block: usize) {
    let all = frames(bytes);
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x41;
        let hit = all
            .iter()
            .find(|(offset, len)| (*offset..offset + len).contains(&at));
        match read(&damaged) {
            Ok(found) => {
                assert_ne!(found.end, End::Clean, "byte {at}");
                assert!(found.warning.unwrap().contains("at offset"), "byte {at}");
                assert_eq!(found.events, expected[..found.events.len()], "byte {at}");
                let (End::Corrupt { offset, .. } | End::Truncated { offset } | End::Unfinished { offset }) =
                    found.end
                else {
                    panic!("byte {at} is not told");
                };
                assert!(offset as usize <= at, "byte {at}: told at {offset}");
                assert_eq!(Some(offset as usize), hit.map(|hit| hit.0), "byte {at}");
            }
            Err(error) => assert!(at < all[0].0 + all[0].1, "byte {at}: {error}"),
        }
        let found = recover(&damaged).unwrap_or_else(|error| panic!("byte {at}: {error}"));
        let good: Vec<_> = found
            .events
            .iter()
            .filter(|event| event.kind != Kind::Gap)
            .copied()
            .collect();
        assert!(
            good.len() + per_block >= expected.len(),
            "byte {at}: {} events",
            good.len()
        );
        let mut rest = expected.iter();
        assert!(
            good.iter().all(|event| rest.any(|other| other == event)),
            "byte {at}"
        );
        if good.len() < expected.len() {
            let gap = found.events.iter().find(|event| event.kind == Kind::Gap);
            let gap = gap.unwrap_or_else(|| panic!("byte {at}: no gap stands for what is lost"));
            assert_eq!(Some(gap.body.vma as usize), hit.map(|hit| hit.0), "byte {at}");
            assert!(
                found.warning.unwrap().contains("could not be read at offset"),
                "byte {at}"
            );
        }
    }
}

#[test]
fn a_flipped_byte_is_told_with_its_place_and_costs_one_frame_at_most() {
    let folder = Folder::new("flip");
    flip_every_byte(
        &recording(&folder, 250),
        &(0..250).map(event).collect::<Vec<_>>(),
        100,
    );
}

#[test]
fn of_a_file_whose_header_is_damaged_the_copy_is_used() {
    let folder = Folder::new("header");
    let mut bytes = recording(&folder, 250);
    bytes[PREFIX_LEN + FRAME_LEN + 3] ^= 1;
    bytes[3] = 0;
    let path = folder.file("damaged.rec");
    fs::write(&path, &bytes).unwrap();
    let error = RecordReader::open(&path).err().unwrap();
    assert!(matches!(error, ReadError::Foreign { .. }), "{error}");
    let reader = RecordReader::recover(&path).unwrap();
    assert_eq!(reader.info().self_pid, 77);
    let found = replay(reader).unwrap();
    let good = found.events.iter().filter(|event| event.kind != Kind::Gap);
    assert_eq!(
        good.copied().collect::<Vec<_>>(),
        (0..250).map(event).collect::<Vec<_>>()
    );
    assert!(found.warning.unwrap().contains("offset 0"));
}

#[test]
fn junk_between_frames_is_skipped_and_told() {
    let folder = Folder::new("junk");
    let bytes = recording(&folder, 250);
    let (second, _) = frames(&bytes)[2];
    // Looks like the start of a frame again and again, for longer than a read takes.
    let junk = b"fRm\x02".repeat(200_000);
    let damaged = [&bytes[..second], &junk, &bytes[second..]].concat();
    assert!(matches!(read(&damaged).unwrap().end, End::Corrupt { offset, .. } if offset as usize == second));
    let found = recover(&damaged).unwrap();
    assert_eq!(
        found
            .events
            .iter()
            .filter(|event| event.kind != Kind::Gap)
            .count(),
        250
    );
    let gap = found.events.iter().find(|event| event.kind == Kind::Gap).unwrap();
    assert_eq!((gap.body.vma, gap.body.mm), (second as u64, junk.len() as u64));
    // The numbers of each CPU are whole: nothing is missing.
    let mut order = Order::new(0);
    found.events.iter().for_each(|event| order.push(event));
    order.finish(&Losses::default(), &mut |_| {});
    assert_eq!((order.stats().gaps, order.stats().declared), (1, 0));
}

#[test]
fn a_wrong_length_claims_no_memory() {
    let folder = Folder::new("length");
    let bytes = recording(&folder, 3);
    let (block, len) = frames(&bytes)[1];
    for at in [8, 12] {
        for length in [u32::MAX, 17 << 20, 16 << 20, 5 << 20] {
            let mut damaged = bytes.clone();
            damaged[block + at..block + at + 4].copy_from_slice(&length.to_le_bytes());
            seal(&mut damaged[block..block + len]);
            let found = read(&damaged).unwrap();
            assert!(found.events.is_empty());
            assert!(
                matches!(found.end, End::Corrupt { offset, .. } if offset as usize == block),
                "{length}"
            );
        }
    }
}

#[test]
fn foreign_files_and_newer_versions_are_told_apart() {
    for foreign in [&b""[..], b"#!/bin/sh\necho no recording\n", &[0; 100], b"\x7fELF"] {
        assert!(
            matches!(read(foreign), Err(ReadError::Foreign { .. })),
            "{foreign:?}"
        );
    }
    let folder = Folder::new("newer");
    let mut bytes = recording(&folder, 1);
    bytes[8] = 9;
    let error = read(&bytes).err().unwrap();
    assert!(matches!(error, ReadError::Newer { found: 9, .. }));
    assert!(error.to_string().contains("use a newer tracer"));
    let error = RecordReader::open(&folder.file("none.rec")).err().unwrap();
    assert!(matches!(error, ReadError::Io { .. }));
}

#[test]
fn the_other_order_of_bytes_is_told() {
    let folder = Folder::new("endian");
    let mut bytes = recording(&folder, 1);
    bytes[8..12].reverse();
    bytes[12..16].reverse();
    let error = read(&bytes).err().unwrap();
    assert!(matches!(error, ReadError::Endian { .. }));
    assert!(error.to_string().contains("big-endian"), "{error}");
}

#[test]
fn unknown_kinds_are_counted_kept_and_leave_no_gap() {
    let folder = Folder::new("unknown");
    let mut unknown = [0; MAX_EVENT];
    event(40).encode(&mut unknown);
    unknown[1] = 200;
    unknown[90] = 3;
    let path = folder.file("a.rec");
    let mut writer = create(&path, &info()).unwrap();
    for seq in 0..90 {
        if seq == 40 {
            writer.push_unknown(&unknown).unwrap();
        } else {
            writer.push(&event(seq)).unwrap();
        }
    }
    assert!(writer.push_unknown(&unknown[..40]).is_err());
    writer.finish(&losses(), "test").unwrap();
    let mut kept = Vec::new();
    let mut reader = RecordReader::open(&path).unwrap();
    while let Some(frame) = reader.next_frame().unwrap() {
        if let Frame::Events(block) = frame {
            block
                .read(|item| {
                    if let Item::Unknown(bytes) = item {
                        kept.push(bytes.to_vec());
                    }
                })
                .unwrap();
        }
    }
    assert_eq!(kept, [unknown]);

    let found = read(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(found.end, End::Clean);
    assert!(found.warning.unwrap().contains("1 events of kinds"));
    let mut order = Order::new(0);
    let mut passed = 0;
    for event in &found.events {
        order.push(event);
    }
    order.finish(&Losses::default(), &mut |_| passed += 1);
    assert_eq!(
        (passed, order.stats().gaps, order.stats().unknown_kinds),
        (89, 0, 1)
    );
}

fn any_event() -> impl Strategy<Value = Event> {
    let few = prop_oneof![4 => 0u64..4, 1 => any::<u64>()];
    let some = prop_oneof![4 => 0u32..4, 1 => any::<u32>()];
    let names = prop_oneof![4 => Just(*b"make\0\0\0\0\0\0\0\0\0\0\0\0"), 1 => any::<[u8; 16]>()];
    (
        (
            0..Kind::ALL.len(),
            any::<u16>(),
            prop_oneof![9 => 0u16..3, 1 => any::<u16>()],
            names,
        ),
        prop::array::uniform6(few),
        prop::array::uniform8(some),
    )
        .prop_map(|((kind, flags, cpu, comm), wide, narrow)| {
            let mut event = Event::synthetic(Kind::ALL[kind], wide[0]);
            event.header.flags = flags;
            event.header.cpu = cpu;
            event.header.comm = comm;
            [
                event.header.seq,
                event.header.pid,
                event.header.tid,
                event.header.site,
            ] = [narrow[0], narrow[1], narrow[2], narrow[3]];
            [
                event.body.mm,
                event.body.vma,
                event.body.vm_start,
                event.body.vm_end,
            ] = [wide[1], wide[2], wide[3], wide[4]];
            [
                event.body.vm_refcnt,
                event.body.vm_lock_seq,
                event.body.mm_lock_seq,
                event.body.arg,
            ] = [narrow[4], narrow[5], narrow[6], narrow[7]];
            if wide[5] > 2 {
                event.header.len = 104;
            }
            event
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every field of every event, whatever is in it.
    #[test]
    fn every_field_comes_back(events in prop::collection::vec(any_event(), 0..400), block in 1usize..200) {
        let folder = Folder::new("fields");
        let path = folder.file("a.rec");
        let mut writer = create(&path, &info()).unwrap();
        for events in events.chunks(block) {
            for event in events {
                writer.push(event).unwrap();
            }
            writer.flush().unwrap();
        }
        writer.finish(&losses(), "test").unwrap();
        let found = read(&fs::read(&path).unwrap()).unwrap();
        prop_assert_eq!(found.events, events);
        prop_assert_eq!(found.end, End::Clean);
    }
}

fn stack(number: u32) -> Stack {
    Stack {
        pid: number,
        frames: vec![stacks::Frame {
            address: u64::from(number) << 12,
            name: format!("function_{number}+0x1c"),
            module: String::new(),
        }],
    }
}

#[test]
fn stacks_are_known_before_the_events_that_have_their_numbers_and_after_every_seek() {
    let folder = Folder::new("stacks-seek");
    let path = folder.file("a.rec");
    let mut writer = create(&path, &info()).unwrap();
    let mut table = Stacks::default();
    for seq in 0..1_000 {
        if seq % 10 == 0 {
            table.push(stack(seq / 10));
            writer.stacks(&table).unwrap();
        }
        let mut event = event(seq);
        event.body.vma = table.len() as u64;
        writer.push(&event).unwrap();
        if seq % 100 == 99 {
            writer.flush().unwrap();
        }
    }
    writer.finish(&losses(), "test").unwrap();

    let check = |reader: &mut RecordReader, from: u32| {
        let mut next = from;
        loop {
            let mut most = 0;
            match reader.next_frame().unwrap() {
                None => break,
                Some(Frame::Events(block)) => block
                    .read(|item| {
                        if let Item::Event(found) = item {
                            assert_eq!(found.header.seq, next);
                            next += 1;
                            most = most.max(found.body.vma);
                        }
                    })
                    .unwrap(),
                Some(_) => {}
            }
            assert!(
                most <= reader.stacks().len() as u64,
                "an event has a stack that nobody knows"
            );
        }
        assert_eq!(next, 1_000, "from {from}: {:?}", reader.end());
        assert_eq!(reader.end(), Some(&End::Clean));
        assert_eq!(reader.stacks().len(), 100);
        assert_eq!(reader.stacks().get(42), Some(&stack(41)));
    };
    check(&mut RecordReader::open(&path).unwrap(), 0);
    let mut reader = RecordReader::open(&path).unwrap();
    // Forth, back, before the start; blocks begin at the hundreds.
    for (seq, block) in [(555, 500), (20, 0), (999, 900), (300, 300), (0, 0)] {
        reader.seek(event(seq).header.ts_ns).unwrap();
        check(&mut reader, block);
    }
    reader.seek(u64::MAX).unwrap();
    check(&mut reader, 1_000);
}

#[test]
fn without_an_index_one_is_made() {
    let folder = Folder::new("index");
    let bytes = recording(&folder, 950);
    let mut whole = RecordReader::open(&folder.file("whole.rec")).unwrap();
    let index = whole.index().unwrap().clone();
    assert!(index.stored);
    assert_eq!(index.events(), 950);
    assert_eq!(index.blocks().count(), 10);
    assert_eq!(index.span(), Some((1_000, 1_000 + 949 * 10)));
    // As kill -9 leaves it, after six blocks and a bit.
    let seventh = index.blocks().nth(6).unwrap().offset as usize;
    let path = folder.file("killed.rec");
    fs::write(&path, &bytes[..seventh + 50]).unwrap();
    let mut killed = RecordReader::open(&path).unwrap();
    let made = killed.index().unwrap();
    assert!(!made.stored);
    assert_eq!(made.entries(), &index.entries()[..made.entries().len()]);
    assert_eq!(made.events(), 600);
    killed.seek(event(450).header.ts_ns).unwrap();
    let mut replay = Replay::new(killed);
    let mut order = Order::midway(0);
    let mut first = None;
    while replay
        .poll(Duration::ZERO, &mut |event| order.push(event))
        .unwrap()
        != Poll::End
    {}
    order.finish(&Losses::default(), &mut |event| {
        first.get_or_insert(event.header.seq);
    });
    assert_eq!(first, Some(400));
    assert_eq!(order.stats().gaps, 0, "nothing is missing where reading begins");
    assert!(matches!(replay.end(), Some(End::Truncated { offset }) if *offset as usize == seventh));
    // A pipe cannot be sought in.
    let mut pipe = RecordReader::new(input(&bytes), "pipe").unwrap();
    assert!(matches!(pipe.seek(0), Err(ReadError::NotSeekable { .. })));
}

#[test]
fn what_the_clocks_said_is_kept() {
    let folder = Folder::new("clock");
    let path = folder.file("a.rec");
    let mut writer = create(&path, &info()).unwrap();
    let anchor = Anchor {
        monotonic_ns: 5,
        realtime_ns: 7,
        read_error_ns: 1,
        realtime_error_ns: Some(9),
    };
    writer.clock(&anchor).unwrap();
    writer.finish(&losses(), "test").unwrap();
    let mut reader = RecordReader::open(&path).unwrap();
    let mut kept = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        if let Frame::Clock(anchor) = frame {
            kept.push(anchor);
        }
    }
    assert_eq!(kept, [anchor]);
}
