//! `tracer info`, `verify`, `cut` and `merge`, as they are called.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tracer::info::{Anchor, CpuLosses, Losses, SiteInfo, SourceInfo};
use tracer::order::Order;
use tracer::recording::create;
use tracer::source::replay::Replay;
use tracer::source::{Poll, Source as _};
use tracer::stacks::{Frame, Stack, Stacks};
use tracer_common::site::FIRST_DYNAMIC;
use tracer_common::wire::{Event, Kind};

/// When the recordings of these tests begin, in nanoseconds.
const START: u64 = 5_000_000_000;
/// Between two events.
const STEP: u64 = 1_000_000;
const ADDRESS: u64 = 0xffff_8880_1234_0000;

/// A folder of its own that goes away with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tracer-files-{}-{name}", std::process::id()));
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

fn info(host: &str) -> SourceInfo {
    SourceInfo {
        source: "live".into(),
        host: host.into(),
        boot_id: format!("run-of-{host}"),
        cpus: 2,
        start_monotonic_ns: START,
        start_realtime_ns: 1_700_000_000_000_000_000,
        anchor: Some(Anchor {
            monotonic_ns: START,
            realtime_ns: 1_700_000_000_000_000_000,
            read_error_ns: 50,
            realtime_error_ns: Some(1_000),
        }),
        address_key: "00112233445566778899aabbccddeeff".into(),
        ..SourceInfo::default()
    }
}

/// Events of two CPUs and of processes 100 to 103, one after the other.
fn event(number: u32) -> Event {
    let mut event = Event::synthetic(Kind::MmapStart, START + u64::from(number) * STEP);
    event.header.cpu = u16::from(number % 2 == 1);
    event.header.seq = number / 2;
    event.header.pid = 100 + number % 4;
    event.header.tid = event.header.pid;
    event.header.site = 1;
    event.body.mm = ADDRESS;
    event
}

fn losses(count: u64) -> Losses {
    let cpu = CpuLosses {
        produced: count / 2,
        dropped: 0,
        received: count / 2,
    };
    Losses {
        cpus: vec![cpu; 2],
        missed: 3,
        ..Losses::default()
    }
}

fn record(path: &Path, info: &SourceInfo, events: impl IntoIterator<Item = Event>) {
    let mut writer = create(path, info).unwrap();
    let mut count = 0;
    for event in events {
        writer.push(&event).unwrap();
        count += 1;
        if count % 50 == 0 {
            writer.flush().unwrap();
        }
    }
    writer.finish(&losses(count), "test").unwrap();
}

/// Exit code, standard output, standard error.
fn tracer(args: &[&dyn AsRef<std::ffi::OsStr>]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tracer"))
        .args(args.iter().map(|arg| arg.as_ref()))
        .output()
        .unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn replay(path: &Path) -> (Replay, Vec<Event>) {
    let mut replay = Replay::open(path).unwrap();
    let mut events = Vec::new();
    while replay
        .poll(Duration::ZERO, &mut |event| events.push(*event))
        .unwrap()
        != Poll::End
    {}
    (replay, events)
}

/// Nothing is missing by the numbers, and the file is whole.
fn assert_whole(path: &Path) {
    let (mut replay, events) = replay(path);
    assert_eq!(replay.warning(), None);
    let mut order = Order::new(replay.info().start_monotonic_ns);
    let expected = events.len();
    events.iter().for_each(|event| order.push(event));
    let mut passed = 0;
    order.finish(&replay.losses().unwrap(), &mut |_| passed += 1);
    assert_eq!((passed, order.stats().gaps), (expected, 0));
    let (code, text, _) = tracer(&[&"verify", &path]);
    assert_eq!(code, 0, "{text}");
}

/// All fields of an object are on the page.
fn assert_documented(page: &str, value: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/schema")
        .join(page);
    let page = fs::read_to_string(path).unwrap();
    for field in value.as_object().unwrap().keys() {
        assert!(
            page.contains(&format!("`{field}`"))
                || page.contains(&format!("`{field}["))
                || page.contains(&format!("`{field}.")),
            "{field} is not documented"
        );
    }
}

#[test]
fn info_tells_what_the_header_and_the_index_know() {
    let folder = Folder::new("info");
    let path = folder.file("a.rec");
    record(&path, &info("one"), (0..400).map(event));
    let (code, text, _) = tracer(&[&"info", &path]);
    assert_eq!(code, 0);
    for part in [
        "complete",
        "format version 2",
        "400 in 8 blocks, 2 CPUs",
        "2023-11-14T22:13:20",
        "within 1.00 µs",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    let (_, text, _) = tracer(&[&"info", &path, &"--json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_documented("info.md", &json);
    assert_eq!(json["schema"], "tracer.info.v1");
    assert_eq!((&json["events"], &json["complete"]), (&400.into(), &true.into()));
    assert_eq!(json["last_ns"], START + 399 * STEP);
    assert_eq!(json["summary"]["losses"]["missed"], 3);
    assert_eq!(
        json["address_key"], "",
        "what would undo the hashing is not handed on"
    );

    // As a kill leaves it.
    let bytes = fs::read(&path).unwrap();
    let cut = bytes.len() / 2;
    fs::write(&path, &bytes[..cut]).unwrap();
    let (code, text, _) = tracer(&[&"info", &path, &"--json"]);
    assert_eq!(code, 0);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["complete"], false);
    assert_eq!(json["has_index"], false);
    let events = json["events"].as_u64().unwrap();
    assert!(
        events > 0 && events < 400 && events.is_multiple_of(50),
        "{events}"
    );
    assert!(
        json["warnings"][0].as_str().unwrap().contains("at offset"),
        "{text}"
    );
}

#[test]
fn info_reads_a_pipe() {
    let folder = Folder::new("info-pipe");
    let path = folder.file("a.rec");
    record(&path, &info("one"), (0..400).map(event));
    let output = Command::new(env!("CARGO_BIN_EXE_tracer"))
        .args(["info", "-", "--json"])
        .stdin(fs::File::open("/dev/null").unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "nothing is no recording");
    let mut cat = Command::new("cat")
        .arg(&path)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tracer"))
        .args(["info", "-", "--json"])
        .stdin(cat.stdout.take().unwrap())
        .output()
        .unwrap();
    cat.wait().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["events"], &json["complete"]), (&400.into(), &true.into()));
    assert_eq!(json["bytes"], Value::Null);
}

#[test]
fn verify_names_the_place_of_each_damage() {
    let folder = Folder::new("verify");
    let path = folder.file("a.rec");
    record(&path, &info("one"), (0..400).map(event));
    let (code, text, _) = tracer(&[&"verify", &path]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("good") && text.contains("400 events in 8 blocks"),
        "{text}"
    );
    let (_, text, _) = tracer(&[&"verify", &path, &"--json"]);
    assert_documented("verify.md", &serde_json::from_str(&text).unwrap());

    // The second and the fourth block.
    let mut reader = tracer::recording::RecordReader::open(&path).unwrap();
    let blocks: Vec<_> = reader.index().unwrap().blocks().copied().collect();
    let mut bytes = fs::read(&path).unwrap();
    for block in [1, 3] {
        bytes[blocks[block].offset as usize + 60] ^= 0x10;
    }
    fs::write(&path, &bytes).unwrap();
    let (code, text, _) = tracer(&[&"verify", &path]);
    assert_eq!(code, 1);
    let place = |block: usize| format!("at offset {}", blocks[block].offset);
    assert!(
        text.contains("DAMAGED") && text.contains(&place(1)) && !text.contains(&place(3)),
        "{text}"
    );
    let (code, text, _) = tracer(&[&"verify", &path, &"--recover", &"--json"]);
    assert_eq!(code, 1);
    let json: Value = serde_json::from_str(&text).unwrap();
    let found: Vec<_> = json["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| {
            (
                problem["offset"].as_u64().unwrap(),
                problem["bytes"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (blocks[1].offset, blocks[1].len),
            (blocks[3].offset, blocks[3].len)
        ]
    );
    assert_eq!(json["events"], 300);
}

#[test]
fn verify_sees_what_does_not_belong_there() {
    let folder = Folder::new("verify-more");
    let path = folder.file("a.rec");
    record(&path, &info("one"), (0..100).map(event));
    let mut bytes = fs::read(&path).unwrap();
    let len = bytes.len();
    bytes.extend(b"something");
    fs::write(&path, &bytes).unwrap();
    let (code, text, _) = tracer(&[&"verify", &path]);
    assert_eq!(code, 1);
    assert!(text.contains(&format!("at offset {len}, 9 bytes")), "{text}");
    // Not in the order of time.
    record(&path, &info("one"), [event(4), event(2)]);
    let (code, text, _) = tracer(&[&"verify", &path]);
    assert_eq!(code, 1);
    assert!(text.contains("not in the order of time"), "{text}");
    let (code, _, error) = tracer(&[&"verify", &"/bin/sh"]);
    assert_eq!(code, 1);
    assert!(error.contains("no recording"), "{error}");
}

#[test]
fn cut_takes_a_time_and_processes() {
    let folder = Folder::new("cut");
    let (whole, part) = (folder.file("a.rec"), folder.file("b.rec"));
    record(&whole, &info("one"), (0..400).map(event));
    let (code, _, error) = tracer(&[
        &"cut", &whole, &"-o", &part, &"--from", &"100ms", &"--to", &"200ms", &"--pid", &"101", &"--pid",
        &"102",
    ]);
    assert_eq!(code, 0, "{error}");
    assert_whole(&part);
    let (replay, events) = replay(&part);
    let expected: Vec<_> = (100..200)
        .map(event)
        .filter(|event| [101, 102].contains(&event.header.pid))
        .map(|event| (event.header.ts_ns, event.header.pid, event.header.cpu))
        .collect();
    let found: Vec<_> = events
        .iter()
        .map(|event| (event.header.ts_ns, event.header.pid, event.header.cpu))
        .collect();
    assert_eq!(found, expected);
    let info = replay.info();
    assert_eq!(info.start_monotonic_ns, START + 100 * STEP);
    assert!(
        info.history[0].contains("--from 100ms --to 200ms --pid 101 --pid 102"),
        "{:?}",
        info.history
    );
    // On the wall, the same.
    let again = folder.file("c.rec");
    let (code, _, error) = tracer(&[
        &"cut",
        &whole,
        &"-o",
        &again,
        &"--from",
        &"2023-11-14T22:13:20.1Z",
        &"--to",
        &"2023-11-14T22:13:20.2Z",
    ]);
    assert_eq!(code, 0, "{error}");
    assert_eq!(self::replay(&again).1.len(), 100);
}

#[test]
fn cut_refuses_what_cannot_be() {
    let folder = Folder::new("cut-bad");
    let path = folder.file("a.rec");
    record(&path, &info("one"), (0..10).map(event));
    let before = fs::read(&path).unwrap();
    let (code, _, error) = tracer(&[&"cut", &path, &"-o", &path]);
    assert_eq!(code, 1);
    assert!(error.contains("name another file"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
    let (code, _, error) = tracer(&[
        &"cut",
        &path,
        &"-o",
        &folder.file("b.rec"),
        &"--from",
        &"2s",
        &"--to",
        &"1s",
    ]);
    assert_eq!(code, 2);
    assert!(error.contains("--from is not before --to"), "{error}");
    assert!(!folder.file("b.rec").exists(), "nothing is written for that");
}

#[test]
fn cut_recovers_what_is_left_and_a_gap_says_so() {
    let folder = Folder::new("cut-recover");
    let (broken, whole) = (folder.file("a.rec"), folder.file("b.rec"));
    record(&broken, &info("one"), (0..400).map(event));
    let mut reader = tracer::recording::RecordReader::open(&broken).unwrap();
    let block = *reader.index().unwrap().blocks().nth(2).unwrap();
    let mut bytes = fs::read(&broken).unwrap();
    bytes[block.offset as usize + 50] ^= 1;
    fs::write(&broken, &bytes).unwrap();
    let (code, _, error) = tracer(&[&"cut", &broken, &"-o", &whole, &"--recover"]);
    assert_eq!(code, 0);
    assert!(error.contains(&format!("at offset {}", block.offset)), "{error}");
    let (code, text, _) = tracer(&[&"verify", &whole]);
    assert_eq!(code, 0, "{text}");
    let (mut replay, events) = replay(&whole);
    let gaps: Vec<_> = events.iter().filter(|event| event.kind == Kind::Gap).collect();
    assert_eq!(events.len() - gaps.len(), 350);
    // The hole itself, and what each CPU lacks by its numbers.
    assert_eq!(gaps.iter().map(|gap| u64::from(gap.body.arg)).sum::<u64>(), 50);
    assert!(gaps.iter().any(|gap| gap.body.arg == 0));
    assert_eq!(replay.losses().unwrap().dropped(), 50);
}

fn with_stack(number: u32, name: &str) -> (Stack, Event) {
    let stack = Stack {
        pid: 0,
        frames: vec![Frame {
            address: 1,
            name: name.into(),
            module: String::new(),
        }],
    };
    let mut event = event(number);
    event.kind = Kind::Stack;
    event.header.kind = Kind::Stack as u8;
    event.body.mm = 0;
    event.body.vma = 1;
    (stack, event)
}

#[test]
fn merge_brings_hosts_onto_one_clock_and_keeps_them_apart() {
    let folder = Folder::new("merge");
    let (one, two, both) = (folder.file("a.rec"), folder.file("b.rec"), folder.file("c.rec"));
    let write = |path: &Path, info: &SourceInfo, name: &str, later: u64| {
        let (stack, mut last) = with_stack(100, name);
        last.header.site = FIRST_DYNAMIC;
        let mut writer = create(path, info).unwrap();
        for mut event in (0..100).map(event).chain([last]) {
            if event.kind == Kind::Stack {
                let mut stacks = Stacks::default();
                stacks.push(stack.clone());
                writer.stacks(&stacks).unwrap();
            }
            event.header.ts_ns += later;
            writer.push(&event).unwrap();
        }
        writer.finish(&losses(0), "test").unwrap();
    };
    let site = |place: &str| SiteInfo {
        place: place.into(),
        attached: true,
        ..SiteInfo::default()
    };
    let mut first = info("one");
    first.sites = vec![SiteInfo::default(); FIRST_DYNAMIC as usize];
    first.sites.push(site("one+0x10"));
    write(&one, &first, "in_one", 0);
    // The other one was booted an hour earlier, and its recording begins half a step later.
    let hour = 3_600_000_000_000;
    let mut second = info("two");
    second.start_monotonic_ns += hour;
    if let Some(anchor) = &mut second.anchor {
        anchor.monotonic_ns += hour;
    }
    second.sites = vec![SiteInfo::default(); FIRST_DYNAMIC as usize];
    second.sites.push(site("two+0x20"));
    write(&two, &second, "in_two", hour + STEP / 2);

    let (code, _, error) = tracer(&[&"merge", &one, &two, &"-o", &both]);
    assert_eq!(code, 0, "{error}");
    assert!(
        error.contains("-3600000000000 ns, which is within 2.10 µs"),
        "{error}"
    );
    assert_whole(&both);
    let (replay, events) = replay(&both);
    assert_eq!(events.len(), 202);
    for (at, event) in events.iter().enumerate() {
        let (number, host) = (at as u64 / 2, at as u64 % 2);
        assert_eq!(
            event.header.ts_ns,
            START + number * STEP + host * (STEP / 2),
            "{at}"
        );
        assert_eq!(u64::from(event.header.cpu / 2), host, "{at}");
        assert_eq!(u64::from(event.header.pid >> 22), host, "{at}");
        if event.kind == Kind::Stack {
            let name = if host == 0 { "in_one" } else { "in_two" };
            assert_eq!(
                replay.stacks().get(event.stacks().0).unwrap().frames[0].name,
                name
            );
            let place = if host == 0 { "one+0x10" } else { "two+0x20" };
            assert_eq!(replay.info().sites[event.header.site as usize].place, place);
        } else {
            assert_eq!(event.body.mm, ADDRESS ^ host << 57, "{at}");
            assert_eq!(event.header.site, 1);
        }
    }
    let info = replay.info();
    assert_eq!(
        (info.host.as_str(), info.cpus, info.boot_id.as_str()),
        ("one+two", 4, "")
    );
    assert_eq!(info.parts[1].uncertainty_ns, Some(2_100));
    let (_, text, _) = tracer(&[&"info", &both]);
    assert!(
        text.contains("b.rec of two: CPUs from 2, process IDs + 4194304"),
        "{text}"
    );
}

#[test]
fn merge_joins_what_ran_on_one_kernel() {
    let folder = Folder::new("merge-same");
    let (one, two, both) = (folder.file("a.rec"), folder.file("b.rec"), folder.file("c.rec"));
    record(&one, &info("one"), (0..100).map(event));
    let later = |number: u32| {
        let mut event = event(number + 200);
        event.header.seq = number / 2;
        event
    };
    record(&two, &info("one"), (0..100).map(later));
    let (code, _, error) = tracer(&[&"merge", &two, &one, &"-o", &both]);
    assert_eq!(code, 0, "{error}");
    assert!(
        error.contains("its clock is that of the first") && !error.contains("twice"),
        "{error}"
    );
    assert_whole(&both);
    let (replay, events) = replay(&both);
    assert_eq!((events.len(), replay.info().cpus), (200, 2));
    assert!(
        events
            .iter()
            .all(|event| event.header.cpu < 2 && event.header.pid < 200)
    );
    assert!(events.is_sorted_by_key(|event| event.header.ts_ns));
    // Twice the same.
    let (code, _, error) = tracer(&[&"merge", &one, &one, &"-o", &both]);
    assert_eq!(code, 0);
    assert!(error.contains("twice"), "{error}");
}

#[test]
fn merge_refuses_locks_of_two_forms() {
    let folder = Folder::new("merge-forms");
    let (one, two, both) = (folder.file("a.rec"), folder.file("b.rec"), folder.file("c.rec"));
    record(&one, &info("one"), (0..10).map(event));
    let mut other = info("two");
    other.kernel.family = tracer::info::Family::Rwsem;
    record(&two, &other, (0..10).map(event));
    let (code, _, error) = tracer(&[&"merge", &one, &two, &"-o", &both]);
    assert_eq!(code, 1);
    assert!(error.contains("not of one form"), "{error}");
    assert!(!both.exists());
    let (code, _, error) = tracer(&[&"merge", &one, &two, &"-o", &two]);
    assert_eq!(code, 1);
    assert!(error.contains("name another file"), "{error}");
}

#[test]
fn how_far_a_recording_is_read_is_known_of_a_file_and_not_of_a_pipe() {
    let folder = Folder::new("far");
    let path = folder.file("a.rec");
    record(&path, &info("a"), (0..500).map(event));
    let length = fs::metadata(&path).unwrap().len();
    let mut replay = Replay::open(&path).unwrap();
    let mut before = 0;
    while replay.poll(Duration::ZERO, &mut |_| {}).unwrap() != Poll::End {
        let (read, of) = replay.far().unwrap();
        assert_eq!(of, length);
        assert!(before < read && read <= length, "{before}, {read}, {length}");
        before = read;
    }
    assert_eq!(replay.far(), Some((length, length)));

    let bytes = std::io::Cursor::new(fs::read(&path).unwrap());
    let reader = tracer::recording::RecordReader::new(Box::new(bytes), "pipe").unwrap();
    assert_eq!(Replay::new(reader).far(), None);
}
