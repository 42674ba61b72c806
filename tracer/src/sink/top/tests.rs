//! Screens at fixed sizes, and what keys do.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use tracer_common::wire::{Event, Kind, flag};

use super::app::{After, App, Sort};
use super::draw::Theme;
use super::keys::action_of;
use super::{Board, Camera, Snapshot, SnapshotSource as _, frame};
use crate::info::{KernelInfo, Losses, SourceInfo, UnseenInfo};
use crate::order::Order;
use crate::state::Engine;

fn info() -> SourceInfo {
    SourceInfo {
        source: "live".into(),
        kernel: KernelInfo {
            release: "7.3.4-cloud-amd64".into(),
            ..KernelInfo::default()
        },
        self_pid: 42,
        start_monotonic_ns: 1_000_000_000,
        unseen: vec![UnseenInfo::default(); 2],
        ..SourceInfo::default()
    }
}

fn apply(engine: &mut Engine, kind: Kind, tid: u32, comm: &[u8], ms: u64, edit: impl FnOnce(&mut Event)) {
    let mut event = Event::synthetic(kind, 1_000_000_000 + ms * 1_000_000);
    event.header.tid = tid;
    event.header.pid = tid / 10 * 10 + 2;
    event.header.comm[..comm.len()].copy_from_slice(comm);
    event.header.flags = flag::MM;
    event.body.mm = 0x1000;
    edit(&mut event);
    engine.apply(&event, &mut |_, _| {});
}

/// A writer that holds two VMAs, two that wait for it, a reader in a fault, one that does nothing,
/// one with a nasty name, and the tracer itself.
fn picture() -> Snapshot {
    let info = info();
    let mut engine = Engine::new(&info);
    let e = &mut engine;
    let vma = |address: u64| {
        move |event: &mut Event| {
            event.header.flags |= flag::VMA | flag::RANGE;
            event.body.vma = address;
            event.body.vm_start = 0x7f12_3456_0000 + address;
            event.body.vm_end = 0x7f12_3456_0000 + address * 2;
        }
    };
    let write = |event: &mut Event| event.header.flags |= flag::WRITE;
    apply(e, Kind::MmapStart, 101, b"postgres", 1, write);
    apply(e, Kind::MmapAcquire, 101, b"postgres", 3, write);
    for (at, address) in [(5, 0x1000), (6, 0x2000)] {
        apply(e, Kind::VmaWriteStart, 101, b"postgres", at, vma(address));
        apply(e, Kind::VmaWriteAcquire, 101, b"postgres", at, vma(address));
    }
    apply(e, Kind::MmapStart, 102, b"postgres", 20, |_| {});
    apply(e, Kind::MmapStart, 103, b"\x1b[31mevil", 40, |_| {});
    apply(e, Kind::VmaReadAcquire, 211, b"java", 50, vma(0x4000));
    apply(e, Kind::FaultBegin, 211, b"java", 51, |event| {
        vma(0x4000)(event);
        event.body.arg = 0x1040_0000;
    });
    apply(e, Kind::MmapStart, 305, b"idle", 60, |event| {
        event.body.mm = 0x9000;
    });
    apply(e, Kind::MmapAcquire, 305, b"idle", 61, |event| {
        event.body.mm = 0x9000;
    });
    apply(e, Kind::MmapRelease, 305, b"idle", 73, |event| {
        event.body.mm = 0x9000;
    });
    apply(e, Kind::VmaWriteAcquire, 42, b"tracer", 74, |event| {
        vma(0x8000)(event);
        event.body.mm = 0x5000;
    });
    apply(e, Kind::FaultEnd, 404, b"cc1plus", 75, |event| {
        event.body.mm = 0x7000;
        event.body.arg = 0x0040_0000;
    });
    Camera::default().take(&engine, &Order::new(0), &Losses::default(), &info, 1_100_000_000)
}

fn screen(width: u16, height: u16, app: &mut App, snapshot: &Snapshot) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    frame(&mut terminal, app, snapshot, Theme::new(false)).unwrap();
    terminal.backend().to_string()
}

fn press(app: &mut App, keys: &str) -> After {
    let mut after = After::Go;
    for char in keys.chars() {
        let code = match char {
            '⏎' => KeyCode::Enter,
            '⎋' => KeyCode::Esc,
            '⌫' => KeyCode::Backspace,
            '⇟' => KeyCode::PageDown,
            char => KeyCode::Char(char),
        };
        let key = KeyEvent::new(code, KeyModifiers::NONE);
        if let Some(action) = action_of(key, app.typing) {
            after = app.update(action);
        }
    }
    after
}

fn tids(app: &App, snapshot: &Snapshot) -> Vec<u32> {
    app.rows(snapshot).iter().map(|row| row.tid).collect()
}

#[test]
fn table_80x24() {
    insta::assert_snapshot!(screen(80, 24, &mut App::default(), &picture()));
}

#[test]
fn table_120x40() {
    insta::assert_snapshot!(screen(120, 40, &mut App::default(), &picture()));
}

#[test]
fn help_80x24() {
    let mut app = App::default();
    press(&mut app, "?");
    insta::assert_snapshot!(screen(80, 24, &mut app, &picture()));
}

#[test]
fn losses_and_pause_are_said_in_words() {
    let mut snapshot = picture();
    snapshot.dropped = 1_234;
    snapshot.missing = 1_234;
    snapshot.missed = 5;
    snapshot.anomalies = 2;
    let mut app = App::default();
    press(&mut app, "p/post⏎");
    insta::assert_snapshot!(screen(80, 10, &mut app, &snapshot));
}

#[test]
fn nothing_yet() {
    insta::assert_snapshot!(screen(80, 6, &mut App::default(), &Snapshot::default()));
}

#[test]
fn any_size_can_be_drawn() {
    let snapshot = picture();
    for (width, height) in [(1, 1), (2, 9), (20, 3), (300, 2), (79, 23)] {
        for keys in ["", "?", "/x"] {
            let mut app = App::default();
            press(&mut app, keys);
            screen(width, height, &mut app, &snapshot);
        }
    }
}

#[test]
fn sorting() {
    let snapshot = picture();
    let mut app = App::default();
    assert_eq!(tids(&app, &snapshot), [102, 103, 101, 211, 42, 305, 404]);
    press(&mut app, "s");
    assert_eq!(app.sort, Sort::Hold);
    assert_eq!(tids(&app, &snapshot)[..3], [101, 211, 42]);
    press(&mut app, "s");
    assert_eq!(tids(&app, &snapshot)[..3], [101, 305, 211]);
    press(&mut app, "s");
    assert_eq!(tids(&app, &snapshot), [42, 101, 102, 103, 211, 305, 404]);
    press(&mut app, "S");
    assert_eq!(tids(&app, &snapshot), [404, 305, 211, 103, 102, 101, 42]);
    press(&mut app, "sS");
    assert_eq!(app.sort, Sort::Comm);
    assert_eq!(tids(&app, &snapshot)[..2], [103, 404]);
    press(&mut app, "s");
    assert_eq!(app.sort, Sort::Wait);
}

#[test]
fn filtering() {
    let snapshot = picture();
    let mut app = App::default();
    press(&mut app, "/POST");
    assert!(app.typing);
    assert_eq!(tids(&app, &snapshot), [102, 101]);
    press(&mut app, "⌫⌫⌫⌫vma:w⏎");
    assert!(!app.typing);
    assert_eq!(tids(&app, &snapshot), [101, 42]);
    press(&mut app, "/⌫⌫⌫⌫⌫211⏎");
    assert_eq!(tids(&app, &snapshot), [211]);
    assert_eq!(press(&mut app, "⎋"), After::Go);
    assert_eq!(tids(&app, &snapshot).len(), 7);
    press(&mut app, "a");
    assert_eq!(tids(&app, &snapshot), [102, 103, 101, 211, 42]);
    assert_eq!(press(&mut app, "⎋"), After::Quit);
}

#[test]
fn scrolling_stays_within_the_rows() {
    let snapshot = picture();
    let mut app = App::default();
    screen(80, 8, &mut app, &snapshot);
    assert_eq!((app.page, app.rows), (3, 7));
    press(&mut app, "jj");
    assert_eq!(app.scroll, 2);
    press(&mut app, "⇟⇟⇟");
    assert_eq!(app.scroll, 4);
    press(&mut app, "k");
    assert_eq!(app.scroll, 3);
    press(&mut app, "G");
    assert_eq!(app.scroll, 4);
    press(&mut app, "g");
    assert_eq!(app.scroll, 0);
    press(&mut app, "kkk");
    assert_eq!(app.scroll, 0);
}

#[test]
fn quitting() {
    for keys in ["q", "⎋", "?⎋⎋", "/x⎋q"] {
        assert_eq!(press(&mut App::default(), keys), After::Quit, "{keys}");
    }
    assert_eq!(press(&mut App::default(), "/q"), After::Go);
    assert_eq!(press(&mut App::default(), "?⎋"), After::Go);
}

#[test]
fn no_escape_sequence_of_a_task_reaches_the_screen() {
    let text = screen(120, 40, &mut App::default(), &picture());
    assert!(text.contains("\\u{1b}"));
    assert!(text.chars().all(|char| char == '\n' || !char.is_control()));
}

#[test]
fn the_rate_is_measured_between_two_pictures() {
    let info = info();
    let mut engine = Engine::new(&info);
    let mut camera = Camera::default();
    let order = Order::new(0);
    let mut take = |engine: &Engine, now_ns| camera.take(engine, &order, &Losses::default(), &info, now_ns);
    assert_eq!(take(&engine, 1_000_000_000).rate, 0);
    for ms in 0..50 {
        apply(&mut engine, Kind::VmaReadFail, 7, b"x", ms, |_| {});
    }
    assert_eq!(take(&engine, 1_100_000_000).rate, 500);
    assert_eq!(take(&engine, 1_200_000_000).rate, 0);
}

#[test]
fn a_board_gives_the_latest_picture() {
    let board = Board::new();
    assert_eq!(board.latest().events, 0);
    board.clone().publish(picture());
    let held = board.latest();
    board.publish(Snapshot::default());
    assert_eq!(held.tasks.len(), 7);
    assert_eq!(board.latest().tasks.len(), 0);
}
