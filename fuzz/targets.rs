//! What is fuzzed, one function each: it may refuse its input, but neither panic nor take memory without bound.
//!
//! `fuzz_targets/` hands these to libFuzzer, `cargo xtask fuzz` runs that for hours; `tracer/tests/fuzz.rs` drives the
//! same functions a fixed number of times over a made corpus in every run of the tests.

use std::fs::File;
use std::io::{Cursor, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::time::Duration;

use tracer::recording::{FRAME_LEN, RecordReader};
use tracer::source::replay::Replay;
use tracer::source::{Poll, Source as _};
use tracer_common::wire::{MAX_EVENT, decode, header};

type Target = fn(&[u8]);

/// Name and function of each target.
const ALL: [(&str, Target); 9] = [
    ("recording", recording),
    ("frames", frames),
    ("wire", wire),
    ("expressions", expressions),
    ("screen", screen),
    ("btf", btf),
    ("symbols", symbols),
    ("image", image),
    ("code", code),
];

/// Hands an input to the target of that name.
pub(crate) fn run(name: &str, input: &[u8]) {
    let found = ALL.iter().find(|(known, _)| *known == name);
    let (_, target) = found.unwrap_or_else(|| panic!("there is no target {name}"));
    target(input);
}

/// A file as it is: by the strict reader, by the one that recovers, and by its index.
fn recording(data: &[u8]) {
    for recovering in [false, true] {
        let input = Box::new(Cursor::new(data.to_vec()));
        let reader = if recovering {
            RecordReader::new_recovering(input, "fuzz")
        } else {
            RecordReader::new(input, "fuzz")
        };
        if let Ok(reader) = reader {
            replay(reader);
        }
    }
    let Some(file) = memory_file(data) else { return };
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let recovering = data.len() % 2 == 1;
    let Ok(mut reader) = RecordReader::open_as(path.as_ref(), recovering) else {
        return;
    };
    let Ok(index) = reader.index() else { return };
    let (first, last) = index.span().unwrap_or_default();
    for time in [last, u64::MAX, first.midpoint(last)] {
        if reader.seek(time).is_ok() {
            let _ = reader.next_frame();
        }
    }
    if reader.resume(0).is_ok() && reader.seek(0).is_ok() {
        let _ = tracer::files::verify_reader(&mut reader, |_, _| true);
    }
}

/// Reads to the end; whatever is handed over can be written again.
fn replay(reader: RecordReader) {
    let mut replay = Replay::new(reader);
    let mut bytes = [0; MAX_EVENT];
    let mut polls = 0;
    while let Ok(Poll::More { .. }) = replay.poll(Duration::ZERO, &mut |event| {
        event.encode(&mut bytes);
    }) {
        polls += 1;
        assert!(polls < 1_000_000, "no end is reached");
    }
    let _ = replay.warning();
}

fn memory_file(data: &[u8]) -> Option<File> {
    // SAFETY: the name is a string with an end.
    let fd = unsafe { libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return None;
    }
    // SAFETY: the descriptor is new and nobody else's.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(data).ok()?;
    Some(file)
}

/// A recording whose frames are all well formed and sealed, so that what is in them is reached: the input is a
/// sequence of type, codec, number of events, length when unpacked and length (2 bytes each), payload.
fn frames(data: &[u8]) {
    let mut file = b"\x89VMATR\x1a\n\x02\0\0\0\x04\x03\x02\x01".to_vec();
    seal(&mut file, 1, 0, 0, 2, b"{}");
    let mut rest = data;
    while let [kind, codec, count, raw_low, raw_high, low, high, after @ ..] = rest {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let (payload, next) = after.split_at(len);
        let raw_len = usize::from(u16::from_le_bytes([*raw_low, *raw_high]));
        seal(
            &mut file,
            kind % 11,
            codec % 2,
            u32::from(*count),
            raw_len,
            payload,
        );
        rest = next;
    }
    recording(&file);
}

fn seal(file: &mut Vec<u8>, kind: u8, codec: u8, count: u32, raw_len: usize, payload: &[u8]) {
    let mut frame = vec![b'f', b'R', b'm', 2, kind, codec, 0, 0];
    for word in [payload.len() as u32, raw_len as u32, count, 0] {
        frame.extend(word.to_le_bytes());
    }
    frame.resize(FRAME_LEN, 0);
    let part = |ranges: &[&[u8]]| {
        let mut hasher = crc32fast::Hasher::new();
        ranges.iter().for_each(|range| hasher.update(range));
        hasher.finalize()
    };
    let check = part(&[&frame[..6], &frame[8..20], &frame[24..]]) as u16;
    frame[6..8].copy_from_slice(&check.to_le_bytes());
    let crc = part(&[&frame[..20], &frame[24..], payload]);
    frame[20..24].copy_from_slice(&crc.to_le_bytes());
    file.extend(&frame);
    file.extend(payload);
}

/// Events as they come from the kernel.
fn wire(data: &[u8]) {
    let mut rest = data;
    while let Ok((event, len)) = decode(rest) {
        let mut bytes = [0; MAX_EVENT];
        let written = event.encode(&mut bytes);
        let again = decode(&bytes[..written]).map(|(event, _)| event);
        // What a newer kernel part appended is not kept.
        let mut expected = event;
        expected.header.len = event.kind.wire_len();
        assert_eq!(again, Ok(expected), "an event comes back otherwise");
        let _ = (event.stacks(), event.stack_of());
        rest = &rest[len..];
    }
    let _ = header(rest);
}

/// What people write: filters, triggers, times.
fn expressions(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(filter) = text.parse::<tracer::filter::Filter>() {
        let _ = format!("{filter:?}");
    }
    let _ = tracer::trigger::Trigger::parse(text);
    let _ = text.parse::<tracer::export::Moment>();
}

/// What the screen takes: its configuration, commands, keys, maps of processes.
fn screen(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = tracer::tui::config::Config::parse(text, tracer::tui::theme::Base::Dark);
    let _ = tracer::tui::command::parse(text);
    let _ = tracer::tui::keys::parse(text);
    tracer::tui::views::Names::default().read(1, text);
}

/// Type information of a kernel.
fn btf(data: &[u8]) {
    let Ok(btf) = tracer::kernel::Btf::parse(data.to_vec()) else {
        return;
    };
    let _ = btf.offset("vm_area_struct", "vm_lock_seq");
    let _ = btf.offset("mm_struct", "mm_lock_seq.sequence");
    let _ = btf.bit("task_struct", "in_iowait");
    let _ = btf.function("lock_vma_under_rcu");
    let _ = btf.tracepoint("mmap_lock_start_locking");
    let _ = btf.pared(&["lock_vma_under_rcu"]);
    let _ = tracer::text::Offsets::from_btf(&btf);
}

/// Names and addresses as `/proc/kallsyms` has them, and the list of places without probes.
fn symbols(data: &[u8]) {
    if let Ok(symbols) = tracer::text::Symbols::parse(data) {
        for symbol in symbols.all() {
            let _ = (
                symbols.containing(symbol.address),
                symbols.name(symbol),
                symbols.module(symbol),
            );
        }
        let _ = (symbols.kernel_range(), symbols.module_ranges(), symbols.text());
        let _ = tracer::text::Blacklist::from_symbols(&symbols).has(1);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = tracer::text::Blacklist::parse(text).is_some_and(|list| list.has(1));
    }
}

/// Images of kernels, and their notes.
fn image(data: &[u8]) {
    if let Ok(text) = tracer::text::Text::from_image(data) {
        let _ = text.pieces().map(|(_, bytes)| bytes.len()).sum::<usize>();
    }
    let _ = tracer::text::build_id(data);
}

/// Machine code, whatever it is: the search for inlined operations goes over all of it.
fn code(data: &[u8]) {
    use tracer::text::{Blacklist, Offsets, Symbols, Text, find_in_part};

    const BASE: u64 = 0xffff_ffff_8100_0000;
    let (first, rest) = data.split_at(data.len() / 3);
    let middle = BASE + first.len() as u64 + 1;
    let end = BASE + data.len() as u64 + 1;
    let names = format!(
        "{BASE:016x} T _stext\n{BASE:016x} T handle_mm_fault\n{middle:016x} T lock_vma_under_rcu\n{end:016x} T _etext\n"
    );
    let Ok(symbols) = Symbols::parse(names.as_bytes()) else {
        return;
    };
    let text = Text::from_pieces([(BASE, [first, &[0xc3], rest].concat())]);
    for refcnt in [Some(0xc0), None] {
        let offsets = Offsets {
            vm_refcnt: refcnt,
            vm_lock: refcnt.is_none().then_some(0x38),
            vm_start: 0,
            vm_end: 8,
            vm_mm: 0x10,
            vm_lock_seq: 0x30,
            mm_lock_seq: 0x150,
            ..Offsets::default()
        };
        let _ = find_in_part(&text, &symbols, &offsets, Some(&Blacklist::default()));
    }
}
