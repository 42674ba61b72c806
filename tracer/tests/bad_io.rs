//! What cannot be read or written: full disks, folders that take nothing, readers that went away, files of other
//! programs, other machines and newer versions. Every command says what and where, and none panics.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/recordings/v2.rec");

/// What prints. `FILE` stands for a recording.
const PRINTS: [&str; 18] = [
    "info FILE",
    "info FILE --json",
    "verify FILE",
    "verify FILE --json",
    "stats FILE",
    "stats FILE --json",
    "check FILE",
    "check FILE --json",
    "export FILE -f jsonl -o -",
    "export FILE -f csv -o -",
    "export FILE -f perfetto -o -",
    "export FILE -f folded -o -",
    "export FILE -f flamegraph -o -",
    "export FILE -f html -o -",
    "cut FILE -o -",
    "merge FILE FILE -o -",
    "model list",
    "man",
];

/// What writes to `OUT`.
const WRITES: [&str; 8] = [
    "export FILE -f jsonl -o OUT",
    "export FILE -f csv -o OUT",
    "export FILE -f perfetto -o OUT",
    "export FILE -f folded -o OUT",
    "export FILE -f html -o OUT",
    "export FILE -f parquet -o OUT",
    "cut FILE -o OUT",
    "merge FILE FILE -o OUT",
];

/// What reads a recording.
const READS: [&str; 7] = [
    "info FILE",
    "verify FILE",
    "stats FILE",
    "check FILE",
    "export FILE -f jsonl -o -",
    "cut FILE -o -",
    "merge FILE -o -",
];

/// Exit code and standard error of a command whose standard output is `out`.
fn run(line: &str, file: &str, output: &str, out: impl Into<Stdio>) -> (i32, String) {
    let words = line.split(' ').map(|word| match word {
        "FILE" => file,
        "OUT" => output,
        word => word,
    });
    let output = Command::new(env!("CARGO_BIN_EXE_tracer"))
        .args(words)
        .stdin(Stdio::null())
        .stdout(out)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("panicked"), "{line}: {said}");
    (
        output.status.code().unwrap_or_else(|| panic!("{line}: {said}")),
        said,
    )
}

#[test]
fn an_output_that_is_full_is_told() {
    for line in PRINTS {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (code, said) = run(line, RECORDING, "", full);
        assert_eq!(code, 1, "{line}: {said}");
        assert!(said.contains("No space left on device"), "{line}: {said}");
        // Where: by its name, or by what it is.
        assert!(
            said.contains("standard output") || said.contains("cannot export to -"),
            "{line}: {said}"
        );
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    for line in PRINTS {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (code, said) = run(line, RECORDING, "", writer);
        assert_eq!(code, 0, "{line}: {said}");
        assert!(!said.contains("ipe"), "{line}: {said}");
    }
}

#[test]
fn a_folder_that_takes_no_files_is_told_with_the_path() {
    // Not even root may make a file there.
    let output = "/sys/tracer-test";
    for line in WRITES {
        let (code, said) = run(line, RECORDING, output, Stdio::null());
        assert_eq!(code, 1, "{line}: {said}");
        assert!(said.contains(output), "{line}: {said}");
        assert!(
            said.contains("Permission denied")
                || said.contains("not permitted")
                || said.contains("Read-only file system"),
            "{line}: {said}"
        );
    }
}

#[test]
fn a_full_disk_is_told_with_the_path() {
    for line in WRITES.iter().filter(|line| !line.contains("parquet")) {
        let (code, said) = run(line, RECORDING, "/dev/full", Stdio::null());
        assert_eq!(code, 1, "{line}: {said}");
        assert!(
            said.contains("No space left on device") && said.contains("/dev/full"),
            "{line}: {said}"
        );
    }
}

#[test]
fn recordings_that_cannot_be_read_say_why() {
    let folder = std::env::temp_dir().join(format!("tracer-bad-io-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let made = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let good = fs::read(RECORDING).unwrap();
    let mut newer = good.clone();
    newer[8..12].copy_from_slice(&99u32.to_le_bytes());
    let mut swapped = good.clone();
    swapped[8..12].reverse();
    swapped[12..16].reverse();
    let files = [
        (made("newer", &newer), "newer"),
        (made("swapped", &swapped), "order of bytes"),
        (
            made("text", b"#!/bin/sh\necho this is no recording\n"),
            "no recording",
        ),
        (made("empty", b""), "no recording"),
        (folder.join("missing"), "No such file"),
        (folder.clone(), "directory"),
    ];
    for (file, why) in &files {
        for line in READS {
            let file = file.to_str().unwrap();
            let (code, said) = run(line, file, "", Stdio::null());
            assert_eq!(code, 1, "{line} of {file}: {said}");
            assert!(said.contains(file), "{line} of {file}: {said}");
            assert!(said.contains(why), "{line} of {file}: {said}");
        }
    }
    fs::remove_dir_all(&folder).unwrap();
}
