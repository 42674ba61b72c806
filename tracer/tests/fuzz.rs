//! The fuzz targets of `fuzz/`, a fixed number of times each, over a made corpus with a fixed seed: what fails here fails
//! again. `TRACER_FUZZ_RUNS` has another number of runs; `cargo xtask fuzz` looks for hours, guided by coverage.

use std::fs;
use std::path::Path;

use tracer::info::SourceInfo;
use tracer::recording::{FRAME_LEN, PREFIX_LEN, create};
use tracer::stacks::{Frame, Stack, Stacks};
use tracer_common::wire::{Event, Kind, MAX_EVENT};

#[path = "../../fuzz/targets.rs"]
mod targets;

/// Most memory that all targets together may have had, in KiB.
const RESIDENT_KIB: u64 = 700 << 10;

/// Numbers without a pattern, the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Runs a target on its corpus as it is, and on mutations of it.
fn drive(name: &str, runs: usize, corpus: &[Vec<u8>], words: &[&str]) {
    let target = |input: &[u8]| targets::run(name, input);
    let seeds = seeds(name, corpus);
    corpus.iter().chain(&seeds).for_each(|input| target(input));
    let runs = std::env::var("TRACER_FUZZ_RUNS").map_or(runs, |runs| runs.parse().unwrap());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for run in 0..runs {
        let mut input = corpus[random.below(corpus.len())].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut input, corpus, words, &mut random);
        }
        // What fails is kept for `cargo xtask fuzz` and for people.
        let outcome = std::panic::catch_unwind(|| target(&input));
        if let Err(panic) = outcome {
            let kept = std::env::temp_dir().join(format!("tracer-fuzz-{name}-{run}"));
            fs::write(&kept, &input).unwrap();
            eprintln!("{name}: run {run} panics; its input is in {}", kept.display());
            std::panic::resume_unwind(panic);
        }
    }
    let resident = resident_kib();
    assert!(resident < RESIDENT_KIB, "{name}: {resident} KiB");
    println!("{name}: {runs} runs, at most {resident} KiB");
}

/// What is committed for this target: where its search begins, and what was ever found. `TRACER_FUZZ_SEEDS` has the made
/// corpus put there.
fn seeds(name: &str, corpus: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/seeds")
        .join(name);
    if std::env::var_os("TRACER_FUZZ_SEEDS").is_some() {
        fs::create_dir_all(&dir).unwrap();
        // Of many small ones, some in one file.
        for (number, inputs) in corpus.chunks(corpus.len().div_ceil(10)).enumerate() {
            fs::write(dir.join(format!("made-{number}")), inputs.concat()).unwrap();
        }
    }
    let mut files: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", dir.display());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&str], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let rest = input.len() - at;
    match random.below(9) {
        0 if rest > 0 => input[at] ^= 1 << random.below(8),
        1 if rest > 0 => {
            input[at] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b' ', random.next() as u8][random.below(8)];
        }
        2 => {
            let len = random.below(rest.min(64) + 1);
            input.drain(at..at + len);
        }
        3 => {
            let len = random.below(rest.min(64) + 1);
            let again = input[at..at + len].to_vec();
            input.splice(at..at, again);
        }
        4 if rest >= 4 => {
            let word = [0, 1, u32::MAX, 1 << 31, input.len() as u32, random.next() as u32][random.below(6)];
            input[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        5 if rest >= 8 => {
            let word = [0, u64::MAX, 1 << 63, random.next()][random.below(4)];
            input[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        6 => input.truncate(at),
        7 => {
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.len() + 1);
            let len = random.below((other.len() - from).min(256) + 1);
            input.splice(at..at, other[from..from + len].iter().copied());
        }
        _ => {
            let word = match words.len() {
                0 => vec![random.next() as u8; random.below(5)],
                len => words[random.below(len)].as_bytes().to_vec(),
            };
            input.splice(at..at, word);
        }
    }
    input.truncate(1 << 16);
}

/// The most memory that this process ever had resident, in KiB.
fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn event(seq: u32) -> Event {
    let kind = Kind::ALL[seq as usize % Kind::ALL.len()];
    let mut event = Event::synthetic(kind, 1_000 + u64::from(seq) * 10);
    event.header.seq = seq / 2;
    event.header.cpu = (seq % 2) as u16;
    event.header.tid = 7 + seq % 3;
    event.header.comm[..4].copy_from_slice(b"make");
    event.body.mm = 0xffff_8880_0000_1000;
    event.body.vma = u64::from(seq % 5) * 0x40;
    event.body.vm_start = 0x7000_0000 + u64::from(seq) * 0x1000;
    event.body.vm_end = 0x7000_1000 + u64::from(seq) * 0x1000;
    event.body.vm_refcnt = seq % 4;
    event
}

/// Small whole recordings, one after the other of both versions.
fn recordings(name: &str) -> Vec<Vec<u8>> {
    let path = std::env::temp_dir().join(format!("tracer-fuzz-{}-{name}.rec", std::process::id()));
    let mut made = Vec::new();
    for count in [0, 1, 90] {
        let mut writer = create(&path, &SourceInfo::default()).unwrap();
        let mut stacks = Stacks::default();
        for seq in 0..count {
            stacks.push(Stack {
                pid: 0,
                frames: vec![Frame {
                    address: 1,
                    name: "f+0x1".into(),
                    module: String::new(),
                }],
            });
            writer.stacks(&stacks).unwrap();
            if seq % 10 == 9 {
                let mut unknown = [0; MAX_EVENT];
                event(seq).encode(&mut unknown);
                unknown[1] = 200;
                writer.push_unknown(&unknown).unwrap();
            } else {
                writer.push(&event(seq)).unwrap();
            }
            if seq % 40 == 39 {
                writer.flush().unwrap();
            }
        }
        writer.clock(&tracer::clock::anchor()).unwrap();
        writer.finish(&tracer::info::Losses::default(), "test").unwrap();
        made.push(fs::read(&path).unwrap());
    }
    fs::remove_file(&path).unwrap();
    // Of version 1, its last frames after its prefix.
    let first = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recordings/v1.rec");
    let first = fs::read(first).unwrap();
    made.push([&first[..PREFIX_LEN], &first[first.len() - 20_000..]].concat());
    made
}

/// What the target `frames` makes recordings from, once as stored and once unpacked.
fn frames() -> Vec<Vec<u8>> {
    let mut made = Vec::new();
    for file in &recordings("frames")[..3] {
        let (mut stored, mut unpacked) = (Vec::new(), Vec::new());
        let mut at = PREFIX_LEN;
        while at < file.len() {
            let word = |from: usize| u32::from_le_bytes(file[at + from..at + from + 4].try_into().unwrap());
            let (len, raw_len) = (word(8) as usize, word(12) as usize);
            let payload = &file[at + FRAME_LEN..at + FRAME_LEN + len];
            let add = |to: &mut Vec<u8>, codec: u8, raw_len: usize, payload: &[u8]| {
                to.extend([file[at + 4], codec, word(16) as u8]);
                to.extend((raw_len as u16).to_le_bytes());
                to.extend((payload.len() as u16).to_le_bytes());
                to.extend(payload);
            };
            add(&mut stored, file[at + 5], raw_len, payload);
            if file[at + 5] == 1 {
                let raw = zstd::bulk::decompress(payload, raw_len).unwrap();
                add(&mut unpacked, 0, raw_len, &raw);
            }
            at += FRAME_LEN + len;
        }
        made.extend([stored, unpacked]);
    }
    made
}

#[test]
fn recording() {
    drive("recording", 100, &recordings("recording"), &[]);
}

#[test]
fn frames_of_a_recording() {
    drive(
        "frames",
        4_000,
        &frames(),
        &["{\"first\":", "18446744073709551615", "null", "[]", "{}"],
    );
}

#[test]
fn wire() {
    let corpus: Vec<_> = (0..60)
        .map(|seq| {
            let mut bytes = [0; MAX_EVENT];
            let len = event(seq).encode(&mut bytes);
            bytes[..len].to_vec()
        })
        .collect();
    drive("wire", 100_000, &corpus, &[]);
}

#[test]
fn expressions() {
    let corpus = [
        "wait>10ms",
        "lock == mmap and (wait >= 1s or not write)",
        "comm ~ \"ma*\" && pid in (1, 2, 3)",
        "hold>100ms or violation",
        "fallbacks>5%",
        "2026-11-22T10:00:00Z",
        "1500ms",
    ];
    let words = [
        "and",
        "or",
        "not",
        "(",
        ")",
        "\"",
        ">",
        "<=",
        "ms",
        "99999999999999999999",
        "-",
        "~",
        "é",
        "%",
    ];
    let corpus: Vec<_> = corpus.iter().map(|text| text.as_bytes().to_vec()).collect();
    drive("expressions", 100_000, &corpus, &words);
}

#[test]
fn screen() {
    let corpus = [
        "[keys]\nquit = [\"q\", \"ctrl-c\"]\n[theme]\nbase = \"dark\"\nheld = { fg = \"#ff8800\", bold = true }\n",
        "filter wait>1ms",
        "ctrl-alt-f12",
        "7f0000000000-7f0000001000 rw-p 00000000 08:01 42 /usr/lib/libc.so.6\n",
    ];
    let words = [
        "[",
        "]",
        "=",
        "\"",
        "{",
        "}",
        "ctrl-",
        "#",
        "\u{1b}[2J",
        "é",
        "\n",
        "99999999999999999999",
        "-",
    ];
    let corpus: Vec<_> = corpus.iter().map(|text| text.as_bytes().to_vec()).collect();
    drive("screen", 30_000, &corpus, &words);
}

/// An integer, a structure with it, a function of it.
fn type_information() -> Vec<u8> {
    let strings = b"\0int\0vm_area_struct\0vm_lock_seq\0lock_vma_under_rcu\0";
    let mut types: Vec<u32> = Vec::new();
    types.extend([1, 1 << 24, 4, 32]);
    types.extend([5, 4 << 24 | 1, 8, 20, 1, 32]);
    types.extend([0, 13 << 24 | 1, 1, 20, 2]);
    types.extend([32, 12 << 24, 3]);
    let types: Vec<u8> = types.into_iter().flat_map(u32::to_le_bytes).collect();
    let mut bytes = vec![0x9f, 0xeb, 1, 0];
    for word in [
        24,
        0,
        types.len() as u32,
        types.len() as u32,
        strings.len() as u32,
    ] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(types);
    bytes.extend(strings);
    bytes
}

#[test]
fn btf() {
    let whole = type_information();
    let found = tracer::kernel::Btf::parse(whole.clone()).unwrap();
    assert_eq!(found.offset("vm_area_struct", "vm_lock_seq"), Some(4));
    assert!(found.function("lock_vma_under_rcu").is_some());
    drive("btf", 100_000, &[whole], &[]);
}

#[test]
fn symbols() {
    let names =
        b"ffffffff81000000 T _stext\nffffffff81000010 t down_read.isra.0\nffffffff81000100 T _etext\n\
        ffffffffc0000000 t ext4_read [ext4]\nffffffffc0000080 t ext4_write [ext4]\n"
            .to_vec();
    let list = b"0xffffffff81000000-0xffffffff81000080\tasm_exc_int3\n".to_vec();
    let words = ["ffffffffffffffff", " T ", "\t", "[", "]", "\n", "0x", "-"];
    drive("symbols", 60_000, &[names, list], &words);
}

#[test]
fn image() {
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    elf.extend([0; 8]);
    elf.extend(64u64.to_le_bytes());
    elf.extend([0; 12]);
    elf.extend([64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // One segment, to be loaded and executed.
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0u64, 0xffff_ffff_8100_0000, 0, 200, 200, 4096] {
        elf.extend(word.to_le_bytes());
    }
    elf.resize(200, 0x90);
    let mut note = vec![4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0];
    note.extend(b"GNU\0");
    note.extend([0xab; 20]);
    drive("image", 60_000, &[elf, note], &[]);
}

#[test]
fn code() {
    // lock addl $1, 0xc0(%rdi); lock cmpxchg %ecx, 0xc0(%rbx); lock xadd %eax, 0xc0(%rdi); calls, jumps and returns.
    let corpus = [
        &b"\xf0\x83\x87\xc0\0\0\0\x01\xe8\0\0\0\0\xc3"[..],
        b"\xf0\x0f\xb1\x8b\xc0\0\0\0\x75\xf6\xc3",
        b"\xb8\xff\xff\xff\xff\xf0\x0f\xc1\x87\xc0\0\0\0\x83\xf8\x01\x74\x05\xe9\0\0\0\0\xc3",
        b"\x8b\x47\x30\x48\x8b\x57\x10\x3b\x82\x50\x01\0\0\x74\x10\xeb\xee\x0f\x0b",
    ];
    let corpus: Vec<_> = corpus.iter().map(|code| code.to_vec()).collect();
    drive("code", 8_000, &corpus, &[]);
}
