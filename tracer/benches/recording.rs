//! What a recording costs: bytes for each event, events written and read a second on one core, time to seek, memory.
//! `cargo bench -p tracer --bench recording [-- FILE [EVENTS]]`; with a file, its events are what is recorded, again and
//! again with their times moved on, else those of the bundled lock under real threads. Rates are by the time that
//! the processor gave, all threads and the kernel's part included, so that they hold on a busy machine, too. The last
//! line is JSON.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracer::info::{Losses, SourceInfo};
use tracer::recording::{Frame, Item, RecordReader, create};
use tracer::sim::{Setup, Sim};
use tracer::source::replay::Replay;
use tracer::source::{Poll, Source};
use tracer_common::wire::Event;

/// Events that are kept in memory and recorded again and again.
const KEPT: usize = 400_000;

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let events = args
        .get(1)
        .map_or(10_000_000, |count| count.parse().expect("a number of events"));
    let kept = match args.first() {
        Some(file) => kept(&mut Replay::open(Path::new(file)).expect("a recording")),
        None => {
            let setup = Setup {
                threads: 16,
                vmas: 2_048,
                ..Setup::default()
            };
            kept(&mut Sim::start(setup, false))
        }
    };
    assert!(!kept.is_empty(), "there are no events to record");
    let folder = PathBuf::from(
        std::env::var_os("CARGO_TARGET_TMPDIR").unwrap_or_else(|| std::env::temp_dir().into_os_string()),
    );
    let path = folder.join(format!("bench-{}.rec", std::process::id()));
    measure(&path, &kept, events);
    std::fs::remove_file(&path).expect("removing the recording");
}

/// The first events of a source, in the order of time.
fn kept<S: Source>(source: &mut S) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < KEPT {
        if source
            .poll(Duration::from_millis(10), &mut |event| events.push(*event))
            .expect("events")
            == Poll::End
        {
            break;
        }
    }
    source.stop();
    events.sort_by_key(|event| event.header.ts_ns);
    events
}

fn measure(path: &Path, kept: &[Event], events: u64) {
    let span = kept[kept.len() - 1].header.ts_ns - kept[0].header.ts_ns + 1_000;
    let start = processor_seconds();
    let mut writer = create(path, &SourceInfo::default()).expect("a new recording");
    let mut written = 0;
    'all: for round in 0.. {
        for event in kept {
            let mut event = *event;
            event.header.ts_ns += round * span;
            writer.push(&event).expect("room");
            written += 1;
            if written == events {
                break 'all;
            }
        }
        writer.tick().expect("room");
    }
    let summary = writer.finish(&Losses::default(), "bench").expect("room");
    let write = processor_seconds() - start;
    let bytes = std::fs::metadata(path).expect("the recording").len();

    let start = processor_seconds();
    let mut reader = RecordReader::open(path).expect("the recording");
    let (mut count, mut sum) = (0u64, 0u64);
    while let Some(frame) = reader.next_frame().expect("frames") {
        if let Frame::Events(block) = frame {
            block
                .read(|item| {
                    if let Item::Event(event) = item {
                        count += 1;
                        sum = sum.wrapping_add(event.header.ts_ns ^ event.body.vma);
                    }
                })
                .expect("a block");
        }
    }
    let read = processor_seconds() - start;
    std::hint::black_box(sum);
    assert_eq!(count, events);

    let mut seeks = Vec::new();
    let ends = summary.last_ns - summary.first_ns;
    for at in 0..100u64 {
        // Opened anew, so that the index is read each time.
        let wanted = summary.first_ns + ends / 100 * (at * 37 % 100);
        let start = Instant::now();
        let mut reader = RecordReader::open(path).expect("the recording");
        reader.seek(wanted).expect("a time");
        let mut found = None;
        if let Some(Frame::Events(block)) = reader.next_frame().expect("frames") {
            block
                .read(|item| {
                    if let Item::Event(event) = item
                        && found.is_none()
                        && event.header.ts_ns >= wanted
                    {
                        found = Some(event.header.ts_ns);
                    }
                })
                .expect("a block");
        }
        seeks.push(start.elapsed().as_secs_f64() * 1e3);
        assert!(found.is_some_and(|found| found >= wanted));
    }
    seeks.sort_by(f64::total_cmp);
    let (write_rate, read_rate) = (events as f64 / write, events as f64 / read);
    let (seek_half, seek_worst) = (seeks[seeks.len() / 2], seeks[seeks.len() - 1]);
    let per_event = bytes as f64 / events as f64;
    let resident = resident_kib();
    println!("{events} events: {per_event:.2} bytes each on disk");
    println!(
        "written {:.2} million/s, read {:.2} million/s",
        write_rate / 1e6,
        read_rate / 1e6
    );
    println!(
        "seek {seek_half:.2} ms, at worst {seek_worst:.2} ms; resident at most {} MiB",
        resident / 1024
    );
    println!(
        "{{\"events\":{events},\"bytes_per_event\":{per_event:.3},\"write_per_s\":{write_rate:.0},\
         \"read_per_s\":{read_rate:.0},\"seek_ms\":{seek_half:.3},\"seek_worst_ms\":{seek_worst:.3},\
         \"resident_kib\":{resident},\"kept_kib\":{}}}",
        size_of_val(kept) / 1024
    );
}

/// What this process has had of the processors so far, in seconds.
fn processor_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for writing.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The most memory that this process ever had resident, in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}
