//! Going back gives what going there gave.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tracer_common::wire::{Event, Kind, flag};

use super::index::{Index, read_ahead};
use super::player::Player;
use super::{Control, Deck};
use crate::info::{Losses, SourceInfo};
use crate::tui::feed::{Board, pair};
use crate::tui::snapshot::{MarkKind, Request, Snapshot, View};

const EVENTS: u64 = 300_000;

struct File(std::path::PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Tasks by turns take and give back the lock of their process; every 100,000th event is lost; a wait of 5 ms now and then.
fn recording(name: &str) -> File {
    let path = std::env::temp_dir().join(format!("tracer-replay-{name}-{}.rec", std::process::id()));
    let mut writer = crate::recording::create(&path, &SourceInfo::default()).unwrap();
    let mut seq = 0;
    let mut ts_ns = 1_000;
    for at in 0..EVENTS {
        let turn = at / 3;
        let kind = [Kind::MmapStart, Kind::MmapAcquire, Kind::MmapRelease][(at % 3) as usize];
        ts_ns += if kind == Kind::MmapAcquire && turn % 20_000 == 19_999 {
            5_000_000
        } else {
            1_000
        };
        let mut event = Event::synthetic(kind, ts_ns);
        if at % 100_000 == 99_999 {
            seq += 3;
        }
        event.header.seq = seq;
        seq += 1;
        event.header.tid = 100 + (turn % 50) as u32;
        event.header.pid = 100;
        event.header.flags = flag::MM;
        event.body.mm = 0x1000 + turn % 7;
        writer.push(&event).unwrap();
    }
    writer.finish(&Losses::default(), "test").unwrap();
    File(path)
}

fn deck(file: &File) -> (Deck, Board, Arc<Index>) {
    let index = Arc::new(Index::default());
    let (board, desk) = pair();
    let deck = Deck::new(
        Player::open(&file.0).unwrap(),
        Arc::clone(&index),
        desk,
        Duration::from_millis(1),
    );
    (deck, board, index)
}

fn arrive(deck: &mut Deck) {
    loop {
        deck.round().unwrap();
        if deck.has_arrived() {
            return;
        }
    }
}

/// What is the same at one place however it was reached.
fn essence(shot: &Snapshot) -> String {
    let mut tasks = shot.tasks.clone();
    tasks.sort_by_key(|task| task.tid);
    format!(
        "{} {:?} {:?} {tasks:?}",
        shot.head.events, shot.head.by_provenance, shot.head.faults
    )
}

fn picture(deck: &Deck) -> String {
    let request = Request {
        view: View::Tasks,
        ..Request::default()
    };
    essence(&deck.player().world().picture(&request, 0))
}

#[test]
fn going_back_gives_what_going_there_gave() {
    let file = recording("back");
    let (mut deck, _, index) = deck(&file);
    read_ahead(Player::open(&file.0).unwrap(), &index, &AtomicBool::new(false));
    assert!(index.is_whole());
    let mut straight = Player::open(&file.0).unwrap();
    let mut expected = Vec::new();
    let places = [1, 2, 999, 65_535, 65_536, 65_537, 131_500, 250_001, 300_000];
    for place in places {
        while straight.world().number() < place {
            straight.next().unwrap();
        }
        let request = Request {
            view: View::Tasks,
            ..Request::default()
        };
        expected.push(essence(&straight.world().picture(&request, 0)));
    }
    for (&place, expected) in places.iter().zip(&expected).rev() {
        deck.control(Control::Event(place));
        arrive(&mut deck);
        assert_eq!(deck.player().world().number(), place);
        assert_eq!(&picture(&deck), expected, "at {place}");
    }
    deck.control(Control::Event(70_000));
    arrive(&mut deck);
    let here = picture(&deck);
    deck.control(Control::Step(1));
    arrive(&mut deck);
    assert_ne!(picture(&deck), here);
    deck.control(Control::Step(-1));
    arrive(&mut deck);
    assert_eq!(picture(&deck), here);
}

#[test]
fn special_moments_are_found_both_ways() {
    let file = recording("marks");
    let (mut deck, _, index) = deck(&file);
    read_ahead(Player::open(&file.0).unwrap(), &index, &AtomicBool::new(false));
    let go = |deck: &mut Deck, kind, back| {
        deck.control(Control::Mark { kind, back });
        arrive(deck);
        deck.player().world().number()
    };
    let wait = MarkKind::Wait(1_000_000);
    let first = go(&mut deck, wait, false);
    let second = go(&mut deck, wait, false);
    assert_eq!((first, second), (59_999, 120_000));
    assert_eq!(go(&mut deck, wait, true), first);
    let gap = go(&mut deck, MarkKind::Gap, false);
    assert!((99_999..=100_003).contains(&gap), "{gap}");
    // There is no violation, and so no way.
    assert_eq!(go(&mut deck, MarkKind::Violation, false), gap);
    assert_eq!(go(&mut deck, MarkKind::Wait(50_000_000), false), gap);
}

#[test]
fn times_are_found_and_playing_keeps_to_the_clock() {
    let file = recording("times");
    let (mut deck, board, index) = deck(&file);
    read_ahead(Player::open(&file.0).unwrap(), &index, &AtomicBool::new(false));
    deck.control(Control::Time(10_000_500));
    arrive(&mut deck);
    let world = deck.player().world();
    assert!(world.now_ns() <= 2_000 + 10_000_500);
    assert_eq!(world.number(), 10_001);
    // A hundredth of real time, which is ten events a millisecond.
    deck.control(Control::Speed(10));
    let start = std::time::Instant::now();
    deck.control(Control::Play(true));
    while start.elapsed() < Duration::from_millis(100) {
        deck.round().unwrap();
    }
    let passed = deck.player().world().now_ns() - 10_002_000;
    let elapsed = u64::try_from(start.elapsed().as_nanos()).unwrap();
    assert!(
        passed >= 500_000 && passed <= elapsed / 100 + 2_000,
        "{passed} of {elapsed}"
    );
    let shot = board.latest();
    assert!(shot.head.replay.as_ref().unwrap().playing);
    deck.control(Control::Speed(1_000_000_000));
    while deck.player().world().number() < 300_000 {
        deck.round().unwrap();
    }
    deck.round().unwrap();
    deck.round().unwrap();
    assert!(!board.latest().head.replay.as_ref().unwrap().playing);
}

#[test]
fn what_is_asked_for_late_is_there_as_if_it_had_always_been() {
    let file = recording("late");
    let (mut deck, board, index) = deck(&file);
    read_ahead(Player::open(&file.0).unwrap(), &index, &AtomicBool::new(false));
    deck.control(Control::Event(200_000));
    arrive(&mut deck);
    board.ask(&Request {
        view: View::Events,
        events: Some("tid=107 && kind=mmap_acquire".parse().unwrap()),
        ..Request::default()
    });
    deck.round().unwrap();
    assert_eq!(deck.player().world().number(), 200_000);
    let shot = board.latest();
    assert!(shot.events.len() >= 400, "{}", shot.events.len());
    assert!(shot.events.iter().all(|entry| entry.event.header.tid == 107));
}

#[test]
fn a_recording_that_is_cut_shows_what_is_good_and_says_so() {
    let file = recording("cut");
    let length = std::fs::metadata(&file.0).unwrap().len();
    let handle = std::fs::OpenOptions::new().write(true).open(&file.0).unwrap();
    handle.set_len(length / 2).unwrap();
    let (mut deck, board, index) = deck(&file);
    read_ahead(Player::open(&file.0).unwrap(), &index, &AtomicBool::new(false));
    deck.control(Control::Event(u64::MAX));
    arrive(&mut deck);
    let shot = board.latest();
    let replay = shot.head.replay.as_ref().unwrap();
    assert!(
        replay
            .warning
            .as_ref()
            .unwrap()
            .contains("what comes before is good"),
        "{replay:?}"
    );
    assert!(deck.player().is_at_end());
    assert!(Player::open(std::path::Path::new("/dev/null")).is_err());
}
