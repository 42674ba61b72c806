//! Addresses of the kernel help whoever attacks it. A recording whose addresses are known goes through everything that
//! shows something of it, and none of them may come out, in whatever form; with `--raw-addresses` they do, where that is
//! promised.

#[path = "outputs/mod.rs"]
mod outputs;

use outputs::Said;
use tracer::info::{SiteInfo, SourceInfo, UnseenInfo};
use tracer::stacks::{Frame, Stack, Stacks};
use tracer_common::wire::{Event, Kind};

/// What all addresses of the recording begin with.
const CANARY: u64 = 0xffff_8881_dead_0000;

/// The addresses of the scenes as others that are known.
fn canary(address: u64) -> u64 {
    CANARY | address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & 0xfff8
}

fn info() -> SourceInfo {
    let mut info = SourceInfo {
        source: "live".into(),
        host: "canary".into(),
        command: vec!["tracer".into(), "record".into()],
        cpus: 4,
        start_monotonic_ns: 1_000_000,
        start_realtime_ns: 1_795_391_999_500_000_000,
        address_key: "00112233445566778899aabbccddeeff".into(),
        ..SourceInfo::default()
    };
    for function in [
        "mmap_lock_start_locking",
        "handle_mm_fault",
        "lock_vma_under_rcu",
        "down_write",
    ] {
        info.sites.push(SiteInfo {
            operation: "mmap_acquire".into(),
            function: function.into(),
            place: format!("{function}+0x1c"),
            provenance: "observed".into(),
            attached: true,
            ..SiteInfo::default()
        });
    }
    info.unseen.push(UnseenInfo {
        operation: "vma_read_release".into(),
        function: "do_user_addr_fault".into(),
        reason: "the kernel lets no probe into it".into(),
        ..UnseenInfo::default()
    });
    info
}

/// Stacks of the kernel with and without names, in the kernel and in modules; the fifth is a program's.
fn stacks() -> Stacks {
    let mut stacks = Stacks::default();
    for number in 0..5u64 {
        let frame = |at: u64| Frame {
            address: if number == 4 || number == 1 {
                0x7f00_0000_1000 + at
            } else {
                CANARY | number << 8 | at << 3
            },
            name: if at == 0 {
                format!("function_{number}+0x1c")
            } else {
                String::new()
            },
            module: if at == 1 { "module".into() } else { String::new() },
        };
        stacks.push(Stack {
            pid: if number == 4 || number == 1 { 1_000 } else { 0 },
            frames: (0..4).map(frame).collect(),
        });
    }
    stacks
}

fn change(known: &mut Vec<u64>) -> impl FnMut(&mut Event) {
    move |event| {
        let body = &mut event.body;
        let is_stack = matches!(event.kind, Kind::SchedOut | Kind::Stack);
        for address in [Some(&mut body.mm), (!is_stack).then_some(&mut body.vma)]
            .into_iter()
            .flatten()
        {
            if *address != 0 {
                *address = canary(*address);
                known.push(*address);
            }
        }
    }
}

/// Whether the command is one whose addresses can be had as they are.
fn promises_addresses(command: &str) -> bool {
    let shows = ["-f jsonl", "-f csv", "-f perfetto", "-f parquet"];
    command.starts_with("check FILE --json")
        || command.starts_with("export") && shows.iter().any(|format| command.contains(format))
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// All forms of an address.
fn forms(address: u64) -> Vec<Vec<u8>> {
    let mut forms: Vec<Vec<u8>> = [
        format!("{address:x}"),
        format!("{address:X}"),
        address.to_string(),
        address.cast_signed().to_string(),
    ]
    .map(String::into_bytes)
    .into();
    forms.push(address.to_le_bytes().into());
    forms.push(address.to_be_bytes().into());
    forms.push(varint(address));
    forms
}

fn has(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

/// Whether it shows any of these addresses, or anything that begins like all of them.
fn leaks(said: &Said, known: &[u64]) -> Option<String> {
    let lower = said.bytes.to_ascii_lowercase();
    for begin in ["ffff8881dead", "ffff8881_dead", "8881dead"] {
        if has(&lower, begin.as_bytes()) {
            return Some(begin.to_owned());
        }
    }
    let forms = known.iter().flat_map(|&address| forms(address));
    let mut found = forms.filter(|form| has(&said.bytes, form));
    found
        .next()
        .map(|form| String::from_utf8_lossy(&form).into_owned())
}

fn recording(folder: &tempfile::TempDir) -> (std::path::PathBuf, Vec<u64>) {
    let path = folder.path().join("canary.rec");
    let mut known = Vec::new();
    let stacks = stacks();
    outputs::record(&path, &info(), &stacks, change(&mut known));
    known.extend(
        stacks
            .since(0)
            .iter()
            .filter(|stack| stack.pid == 0)
            .flat_map(|stack| {
                let addresses = stack.frames.iter().map(|frame| frame.address);
                addresses.collect::<Vec<_>>()
            }),
    );
    known.sort_unstable();
    known.dedup();
    assert!(known.len() > 10, "{known:x?}");
    (path, known)
}

#[test]
fn no_address_of_the_kernel_comes_out() {
    let folder = outputs::folder();
    let (path, known) = recording(&folder);
    // The recording has them: what is looked for can be found.
    let all = outputs::all(&path, folder.path(), &[]);
    let told: Vec<String> = all
        .iter()
        .filter_map(|said| leaks(said, &known).map(|form| format!("{}: {form}", said.name)))
        .collect();
    assert!(told.is_empty(), "{told:#?}");
    // There is something in all of it.
    assert!(all.len() > 100, "{}", all.len());
    for said in &all {
        let may_be_empty =
            said.name.ends_with('!') || said.name.starts_with("merge") || said.name.starts_with("cut");
        assert!(
            may_be_empty || said.bytes.len() > 50,
            "{} says nothing",
            said.name
        );
    }
}

#[test]
fn addresses_are_told_where_that_is_asked_for_and_promised() {
    let folder = outputs::folder();
    let (path, known) = recording(&folder);
    let mut views = 0;
    for said in outputs::all(&path, folder.path(), &["--raw-addresses"]) {
        let found = leaks(&said, &known);
        if promises_addresses(&said.name) && !said.name.ends_with('!') {
            assert!(found.is_some(), "{} tells none", said.name);
        } else if said.name.starts_with("screen") {
            views += u32::from(found.is_some());
        } else if !said.name.starts_with("check") {
            assert_eq!(found, None, "{}", said.name);
        }
    }
    assert!(views > 4, "{views} views tell addresses");
}
