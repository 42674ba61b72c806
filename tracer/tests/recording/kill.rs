//! A recorder that is killed: whatever it had brought to its file is there, time and again.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tracer::recording::{End, create};

use super::{Folder, event, info, losses, read};

/// Recorders that are killed, if `TRACER_KILLS` has no other number.
const KILLS: u32 = 200;
/// Recorders at one time: some wait while others run.
const AT_A_TIME: u32 = 8;
/// Events of one recorder at most, since on a busy machine it may run for long.
const EVENTS: u32 = 5_000;
/// What the child needs to know: its file, and where it says how far it is.
const FILE: &str = "TRACER_TEST_KILLED";

/// Numbers without a pattern, the same in each run.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn of_a_killed_recorder_every_block_that_was_written_is_there() {
    let folder = Folder::new("kill");
    let kills: u32 = std::env::var("TRACER_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut random = 0x5eed;
    let (mut with_events, mut within_a_frame, mut events) = (0u32, 0u32, 0usize);
    for round in 0..kills.div_ceil(AT_A_TIME) {
        let start = |at: u32| {
            let path = folder.file(&format!("{at}.rec"));
            let _ = fs::remove_file(&path);
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "kill::records_until_it_is_killed", "--nocapture"])
                .env(FILE, &path)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            (path, child)
        };
        let children: Vec<_> = (0..AT_A_TIME).map(start).collect();
        let killed = children.into_iter().map(|(path, mut child)| {
            wait_for_start(&mut child);
            std::thread::sleep(Duration::from_micros(next(&mut random) % 3_000));
            child.kill().unwrap();
            child.wait().unwrap();
            path
        });
        // All are gone before the first one is looked at: the others would go on meanwhile.
        for path in killed.collect::<Vec<_>>() {
            let flushed = fs::read(path.with_extension("so-far")).unwrap();
            let flushed = u32::from_le_bytes(flushed[..4].try_into().unwrap());
            let found =
                read(&fs::read(&path).unwrap()).unwrap_or_else(|error| panic!("round {round}: {error}"));
            let count = u32::try_from(found.events.len()).unwrap();
            assert!(
                count >= flushed,
                "round {round}: {count} events of {flushed} that were written before"
            );
            assert_eq!(
                found.events,
                (0..count).map(event).collect::<Vec<_>>(),
                "round {round}"
            );
            match found.end {
                End::Unfinished { .. } => {}
                End::Truncated { .. } => within_a_frame += 1,
                other => panic!("round {round}: {other}"),
            }
            with_events += u32::from(count > 0);
            events += found.events.len();
        }
    }
    println!(
        "{kills} kills, {with_events} with events, {within_a_frame} within a frame, {events} events in all"
    );
    assert!(
        with_events > kills / 2,
        "the recorders were killed before they had begun: {with_events}"
    );
}

/// The child tells when its file has a header.
fn wait_for_start(child: &mut Child) {
    let mut said = child.stdout.take().unwrap();
    let (mut byte, mut seen) = ([0], Vec::new());
    while byte != *b"\x06" {
        assert_eq!(
            said.read(&mut byte).unwrap(),
            1,
            "{}",
            String::from_utf8_lossy(&seen)
        );
        seen.push(byte[0]);
    }
    child.stdout = Some(said);
}

/// The child of the test above; by itself there is nothing to do.
#[test]
fn records_until_it_is_killed() {
    let Some(path) = std::env::var_os(FILE) else {
        return;
    };
    let path = std::path::PathBuf::from(path);
    let so_far = File::create(path.with_extension("so-far")).unwrap();
    so_far.write_all_at(&0u32.to_le_bytes(), 0).unwrap();
    let mut writer = create(&path, &info()).unwrap();
    let mut out = std::io::stdout();
    out.write_all(b"\x06").unwrap();
    out.flush().unwrap();
    let mut random = u64::from(std::process::id()) | 1;
    for seq in 0..EVENTS {
        writer.push(&event(seq)).unwrap();
        if next(&mut random).is_multiple_of(97) {
            writer.flush().unwrap();
            so_far.write_all_at(&(seq + 1).to_le_bytes(), 0).unwrap();
            if next(&mut random).is_multiple_of(5) {
                writer.losses(&losses()).unwrap();
            }
        }
    }
    // To be killed all the same; but a parent that died leaves no child behind.
    std::thread::sleep(Duration::from_secs(60));
}
