//! What becomes of recordings on real files: whose they are, full disks.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use tracer::recording::{End, create};
use tracer_common::wire::Event;

use super::{Folder, event, info, losses, read};

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
        .arg("ulimit -f 2000; trap '' XFSZ; exec \"$0\" --exact disk::fills_its_file --nocapture")
        .arg(exe)
        .env("TRACER_TEST_FILE", &path)
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&status.stdout).into_owned() + &String::from_utf8_lossy(&status.stderr);
    assert!(text.contains("good up to its last whole frame"), "{text}");
    let found = read(&fs::read(&path).unwrap()).unwrap();
    assert!(matches!(found.end, End::Unfinished { .. }), "{:?}", found.end);
    assert!(found.events.len() > 16_384);
    let count = u32::try_from(found.events.len()).unwrap();
    assert_eq!(found.events, (0..count).map(noisy).collect::<Vec<_>>());
}

/// An event that compression makes nothing of.
fn noisy(seq: u32) -> Event {
    let mut event = event(seq);
    let mixed = u64::from(seq + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    event.body.mm = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    event
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
        if let Err(error) = writer.push(&noisy(seq)) {
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
