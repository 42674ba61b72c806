//! A recording gives back what went in, and of a damaged one all that is good, with the place of the damage.

use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::time::Duration;

use tracer::info::{CpuLosses, Losses, SourceInfo};
use tracer::order::Order;
use tracer::recording::{End, FRAME_LEN, Frame, PREFIX_LEN, ReadError, RecordReader, create};
use tracer::source::replay::Replay;
use tracer::source::{Poll, Source as _};
use tracer::stacks::Stacks;
use tracer_common::wire::{Event, Kind};

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
    let input: Box<dyn Read + Send> = Box::new(std::io::Cursor::new(bytes.to_vec()));
    let mut replay = Replay::new(RecordReader::new(input, "test.rec")?);
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
    assert_eq!(replay.info(), &info());
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

#[test]
fn a_flipped_byte_is_told_with_its_place_and_what_comes_before_is_kept() {
    let folder = Folder::new("flip");
    let bytes = recording(&folder, 250);
    let expected: Vec<_> = (0..250).map(event).collect();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x41;
        let Ok(found) = read(&damaged) else { continue };
        if found.events.len() < 250 {
            assert_ne!(found.end, End::Clean, "byte {at}");
        }
        assert_eq!(found.events, expected[..found.events.len()], "byte {at}");
        if let End::Corrupt { offset, .. } | End::Truncated { offset } = found.end {
            assert!(offset as usize <= at, "byte {at}: told at {offset}");
        }
    }
}

#[test]
fn a_wrong_length_claims_no_memory() {
    let folder = Folder::new("length");
    let bytes = recording(&folder, 3);
    for length in [u32::MAX, 17 << 20, 16 << 20] {
        let mut damaged = bytes.clone();
        damaged[PREFIX_LEN + 8..PREFIX_LEN + 12].copy_from_slice(&length.to_le_bytes());
        assert!(
            matches!(read(&damaged), Err(ReadError::NoHeader { .. })),
            "{length}"
        );
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
fn unknown_kinds_are_counted_and_leave_no_gap() {
    let folder = Folder::new("unknown");
    let mut bytes = recording(&folder, 90);
    // The first block follows the header; its checksum is made again after the change.
    let at = |bytes: &[u8], offset: usize| {
        u32::from_le_bytes([
            bytes[offset],
            bytes[offset + 1],
            bytes[offset + 2],
            bytes[offset + 3],
        ]) as usize
    };
    let block = PREFIX_LEN + FRAME_LEN + at(&bytes, PREFIX_LEN + 8);
    let len = at(&bytes, block + 8);
    bytes[block + FRAME_LEN + 1] = 200;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[block..block + 20]);
    hasher.update(&bytes[block + 24..block + FRAME_LEN + len]);
    let crc = hasher.finalize();
    bytes[block + 20..block + 24].copy_from_slice(&crc.to_le_bytes());

    let found = read(&bytes).unwrap();
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

#[test]
fn a_recording_is_for_its_owner_only() {
    let folder = Folder::new("mode");
    let path = folder.file("a.rec");
    create(&path, &info()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // An old file of this user is written anew, and closed to others.
    fs::write(&path, b"something longer than what comes").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    create(&path, &info()).unwrap().finish(&losses(), "test").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(read(&fs::read(&path).unwrap()).unwrap().end, End::Clean);
}

#[test]
fn links_and_folders_are_not_written_to() {
    let folder = Folder::new("links");
    let target = folder.file("precious");
    fs::write(&target, b"precious").unwrap();
    let link = folder.file("link.rec");
    symlink(&target, &link).unwrap();
    let error = format!("{:#}", create(&link, &info()).err().unwrap());
    assert!(error.contains("symbolic link"), "{error}");
    let hard = folder.file("hard.rec");
    fs::hard_link(&target, &hard).unwrap();
    let error = format!("{:#}", create(&hard, &info()).err().unwrap());
    assert!(error.contains("several names"), "{error}");
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    assert!(create(&folder.0, &info()).is_err());
    let error = format!("{:#}", create(&folder.file("none/a.rec"), &info()).err().unwrap());
    assert!(error.contains("cannot write the recording"), "{error}");
}

#[test]
fn a_full_disk_is_told() {
    let error = format!("{:#}", create("/dev/full".as_ref(), &info()).err().unwrap());
    assert!(
        error.contains("No space left") && error.contains("/dev/full"),
        "{error}"
    );
}

#[test]
fn a_file_that_may_not_grow_keeps_its_whole_frames() {
    // A limit on the size of files stands in for a full disk; it is the process's, so a child has it.
    let folder = Folder::new("full");
    let path = folder.file("a.rec");
    let exe = std::env::current_exe().unwrap();
    let status = std::process::Command::new("sh")
        .arg("-c")
        .arg("ulimit -f 200; trap '' XFSZ; exec \"$0\" --exact fills_its_file --nocapture")
        .arg(exe)
        .env("TRACER_TEST_FILE", &path)
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&status.stdout).into_owned() + &String::from_utf8_lossy(&status.stderr);
    assert!(text.contains("good up to its last whole frame"), "{text}");
    let found = read(&fs::read(&path).unwrap()).unwrap();
    assert!(matches!(found.end, End::Unfinished { .. }), "{:?}", found.end);
    assert!(found.events.len() > 500);
    let count = u32::try_from(found.events.len()).unwrap();
    assert_eq!(found.events, (0..count).map(event).collect::<Vec<_>>());
}

/// The child of the test above; by itself there is nothing to do.
#[test]
fn fills_its_file() {
    let Some(path) = std::env::var_os("TRACER_TEST_FILE") else {
        return;
    };
    let mut writer = create(path.as_ref(), &info()).unwrap();
    let mut out = std::io::stdout();
    for seq in 0..1_000_000 {
        if let Err(error) = writer.push(&event(seq)) {
            writeln!(out, "{error:#}").unwrap();
            assert!(writer.flush().is_ok(), "there is nothing left to write");
            assert!(
                writer.losses(&losses()).is_err(),
                "a failed recording takes nothing more"
            );
            return;
        }
    }
}
