//! Files of every version of the format that was ever written stay readable: one of each is kept here.
//!
//! `fixtures/recordings/v1.rec` was recorded on Linux 7.3.4 by the tracer of that time; `v2.rec` is `tracer cut` of it
//! by the first tracer that wrote version 2. A file once here is never made anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracer::recording::{End, RecordReader, VERSION};
use tracer::source::replay::Replay;
use tracer::source::{Poll, Source as _};
use tracer_common::wire::{Event, MAX_EVENT};

fn fixture(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/recordings/v{version}.rec"))
}

struct Content {
    events: Vec<Event>,
    kinds: BTreeMap<&'static str, u32>,
    /// CRC-32 over all events as on the wire, but for their numbers, which a cut gives anew.
    crc: u32,
    /// CRC-32 over the names in all stacks.
    stacks: u32,
}

fn content(version: u32) -> Content {
    let mut replay = Replay::open(&fixture(version)).unwrap();
    assert_eq!(replay.info().format_version, version);
    let info = replay.info();
    assert_eq!(info.kernel.release, "7.3.4+deb13-cloud-amd64");
    assert_eq!((info.cpus, info.host.as_str()), (2, "guest"));
    assert!(info.sites.iter().filter(|site| site.attached).count() > 100);
    let mut events = Vec::new();
    while replay
        .poll(Duration::ZERO, &mut |event| events.push(*event))
        .unwrap()
        != Poll::End
    {}
    assert_eq!(replay.end(), Some(&End::Clean), "version {version}");
    assert_eq!(replay.warning(), None, "version {version}");
    assert_eq!(replay.losses().unwrap().dropped(), 0);
    assert_eq!(replay.summary().unwrap().events, events.len() as u64);
    let (mut kinds, mut hasher) = (BTreeMap::new(), crc32fast::Hasher::new());
    for event in &events {
        *kinds.entry(event.kind.name()).or_default() += 1;
        let mut event = *event;
        event.header.seq = 0;
        let mut bytes = [0; MAX_EVENT];
        let len = event.encode(&mut bytes);
        hasher.update(&bytes[..len]);
    }
    let mut stacks = crc32fast::Hasher::new();
    for stack in replay.stacks().since(0) {
        stack
            .frames
            .iter()
            .for_each(|frame| stacks.update(frame.name.as_bytes()));
    }
    Content {
        events,
        kinds,
        crc: hasher.finalize(),
        stacks: stacks.finalize(),
    }
}

#[test]
fn one_of_each_version_is_kept_and_read() {
    for version in 1..=VERSION {
        let found = content(version);
        let said = format!(
            "{} events, {:08x}, stacks {:08x}, {:?}",
            found.events.len(),
            found.crc,
            found.stacks,
            found.kinds
        );
        assert_eq!(said, EXPECTED, "version {version}");
    }
}

/// What is in all of them.
const EXPECTED: &str = "3563 events, b1920d49, stacks ccfbe038, {\"fault_begin\": 971, \"fault_end\": 971, \
    \"mmap_acquire\": 142, \"mmap_downgrade\": 12, \"mmap_fail\": 1, \"mmap_release\": 142, \
    \"mmap_start\": 143, \"sched_in\": 18, \"sched_out\": 18, \"sched_wake\": 6, \"stack\": 27, \
    \"task_exec\": 2, \"task_exit\": 6, \"task_fork\": 5, \"vma_attach\": 53, \"vma_detach\": 136, \
    \"vma_read_acquire\": 412, \"vma_read_fail\": 1, \"vma_read_refused\": 1, \
    \"vma_read_release\": 46, \"vma_write_acquire\": 225, \"vma_write_start\": 225}";

#[test]
fn a_time_in_a_file_of_each_version_is_found() {
    for version in 1..=VERSION {
        let events = content(version).events;
        let mut reader = RecordReader::open(&fixture(version)).unwrap();
        for at in [0, events.len() / 3, events.len() - 1] {
            let wanted = events[at].header.ts_ns;
            reader.seek(wanted).unwrap();
            let mut replay = Replay::new(reader);
            let mut found = Vec::new();
            while replay
                .poll(Duration::ZERO, &mut |event| found.push(*event))
                .unwrap()
                != Poll::End
            {}
            let from = found
                .iter()
                .position(|event| event.header.ts_ns >= wanted)
                .unwrap();
            let expected = events
                .iter()
                .position(|event| event.header.ts_ns >= wanted)
                .unwrap();
            assert_eq!(found[from..], events[expected..], "version {version}");
            assert_eq!(replay.end(), Some(&End::Clean), "version {version}");
            reader = RecordReader::open(&fixture(version)).unwrap();
        }
    }
}
