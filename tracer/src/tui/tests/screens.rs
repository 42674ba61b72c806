//! Every view at three sizes, from recordings; what is said when things go wrong.

use super::scene::{self, Folder, Scene};
use super::{Bench, end_of, keys_of};
use crate::tui::app::Drill;
use crate::tui::snapshot::{Cost, Mark, MarkKind, ReplayState, View};
use tracer_common::wire::Kind;

const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (200, 60)];

/// A view and what is entered in it, by name.
const STATES: [(&str, View, &str); 15] = [
    ("overview", View::Overview, ""),
    ("tasks", View::Tasks, ""),
    ("task", View::Tasks, "<enter>"),
    ("spaces", View::Space, ""),
    ("vmas", View::Space, "<enter>"),
    ("vma", View::Space, "<enter><enter>"),
    ("contention", View::Contention, ""),
    ("assertions", View::Assertions, ""),
    ("assertion", View::Assertions, "<enter>"),
    ("waits", View::Contention, "<enter>"),
    ("events", View::Events, ""),
    ("event", View::Events, "<enter>"),
    ("histograms", View::Histograms, ""),
    ("probes", View::Probes, ""),
    ("probe", View::Probes, "<enter>"),
];

fn bench() -> Bench {
    Bench::at(scene::world(), 20_000_000)
}

fn stuck() -> Bench {
    let world = scene::stuck();
    let later_ns = scene::STUCK_NS - world.now_ns();
    Bench::at(world, later_ns)
}

fn shown(mut bench: Bench, view: View, keys: &str, (width, height): (u16, u16)) -> String {
    bench.app.show(view);
    bench.screen(width, height);
    for key in keys_of(keys) {
        bench.app.key(key, &bench.shot.clone());
        bench.screen(width, height);
    }
    bench.screen(width, height)
}

#[test]
fn every_view_at_every_size() {
    for (width, height) in SIZES {
        for (name, view, keys) in STATES {
            let screen = shown(bench(), view, keys, (width, height));
            insta::assert_snapshot!(format!("{name}_{width}x{height}"), screen);
        }
    }
}

/// The same from a recording of a real kernel, at a moment when four tasks are stuck.
#[test]
fn every_view_of_a_real_kernel_at_every_size() {
    let real = stuck();
    for (width, height) in SIZES {
        for (name, view, keys) in STATES {
            if !keys.is_empty() && width != 120 {
                continue;
            }
            let later_ns = real.now_ns - real.world.now_ns();
            let screen = shown(
                Bench::at(real.world.clone(), later_ns),
                view,
                keys,
                (width, height),
            );
            insta::assert_snapshot!(format!("real_{name}_{width}x{height}"), screen);
        }
    }
}

#[test]
fn who_is_stuck_on_whom_is_seen_at_a_glance() {
    for view in [View::Overview, View::Tasks, View::Contention] {
        let screen = shown(stuck(), view, "", (80, 24));
        for name in ["w-writer", "w-mmap", "w-fault", "w-holder"] {
            assert!(screen.contains(name), "{view:?}: {name}\n{screen}");
        }
    }
    // The filter language knows what the scheduler says.
    let mut bench = stuck();
    bench.app.show(View::Tasks);
    bench.screen(120, 40);
    bench.press("/run=io<enter>");
    assert_eq!(bench.rows(), [132]);
    bench.press("/<ctrl-u>lock=vma_write wait>100ms<enter>");
    assert_eq!(bench.rows(), [133]);
}

#[test]
fn help_is_whole_and_scrolls() {
    let mut bench = bench();
    bench.press("?");
    insta::assert_snapshot!("help_80x24", bench.screen(80, 24));
    let tall = bench.screen(120, 140);
    for action in crate::tui::action::Action::ALL {
        assert!(tall.contains(action.help()), "{}", action.help());
    }
    bench.screen(120, 40);
    bench.press("G");
    assert!(bench.screen(120, 40).contains("a name that contains it"));
}

fn replay_state(playing: bool) -> ReplayState {
    let mark = |ms: u64, kind| Mark {
        ts_ns: scene::START + ms * 1_000_000,
        number: ms,
        kind,
    };
    ReplayState {
        name: "scene.rec".into(),
        number: 123,
        total: 10_000_000,
        whole: playing,
        first_ns: scene::START,
        last_ns: scene::START + 200_000_000,
        playing,
        speed_permille: if playing { 500 } else { 1000 },
        marks: std::sync::Arc::new(vec![
            mark(20, MarkKind::Wait(500)),
            mark(60, MarkKind::Wait(3_000_000)),
            mark(120, MarkKind::Gap),
            mark(180, MarkKind::Violation),
        ]),
        warning: None,
    }
}

#[test]
fn the_time_bar_shows_where_and_what() {
    let mut bench = bench();
    bench.app.replay = true;
    bench.shot.head.replay = Some(replay_state(true));
    insta::assert_snapshot!("replay_playing", bench.screen(100, 20));
    bench.shot.head.replay = Some(ReplayState {
        warning: Some("scene.rec: truncated at offset 4711; what comes before is good".into()),
        ..replay_state(false)
    });
    insta::assert_snapshot!("replay_stopped", bench.screen(100, 20));
}

#[test]
fn losses_are_seen_in_every_view() {
    let folder = Folder::new("losses");
    let mut scene = scene::scene();
    scene.lose(1, 12);
    scene.add(Kind::MmapStart, 901, b"late", 80_000, |_| {});
    let world = end_of(&scene::record(&folder, &scene.events));
    for view in View::ALL {
        let screen = shown(Bench::new(world.clone()), view, "", (120, 24));
        assert!(screen.contains("LOST: 12 missing"), "{view:?}\n{screen}");
        let said = match view {
            View::Histograms => "their length is not known",
            _ => "GAP",
        };
        assert!(screen.contains(said), "{view:?}\n{screen}");
    }
    let tasks = shown(Bench::new(world), View::Tasks, "", (120, 24));
    insta::assert_snapshot!("tasks_after_a_gap", tasks);
}

#[test]
fn skipped_runs_cost_and_recordings_are_in_the_header() {
    let mut world = scene::world();
    world.losses(&crate::info::Losses {
        missed: 5,
        costs: crate::info::ProbeCosts {
            measured_ns: 200_000_000,
            latest_ppm: 12_345,
            programs: Vec::new(),
        },
        dropped_at: [(0, 3)].into(),
        ..Default::default()
    });
    let mut bench = Bench::new(world);
    bench.shot.head.cost = Some(Cost {
        cpu_permille: 42,
        resident: 50 << 20,
        picture_ns: 0,
    });
    bench.press("p");
    insta::assert_snapshot!("header_with_losses", bench.screen(100, 8));
}

#[test]
fn nothing_yet() {
    let world = crate::tui::world::World::new(&scene::info(), 10);
    for view in View::ALL {
        let screen = shown(Bench::new(world.clone()), view, "<enter>j", (80, 24));
        assert!(screen.contains("tracer"), "{view:?}");
    }
    insta::assert_snapshot!("nothing_yet", shown(Bench::new(world), View::Tasks, "", (80, 8)));
}

#[test]
fn any_size_can_be_drawn() {
    let world = scene::world();
    for (_, view, keys) in STATES {
        for more in ["", "?", "/x", ":goto"] {
            let mut bench = Bench::new(world.clone());
            bench.app.show(view);
            bench.screen(120, 40);
            bench.press(keys);
            bench.press(more);
            bench.shot.head.replay = Some(replay_state(true));
            for (width, height) in [(1, 1), (2, 9), (20, 3), (300, 2), (79, 23), (7, 50), (40, 12)] {
                bench.screen(width, height);
            }
        }
    }
}

#[test]
fn ascii_is_ascii() {
    for (_, view, keys) in STATES {
        let mut bench = bench();
        bench.app.config.theme.ascii = true;
        bench.shot.head.replay = Some(replay_state(true));
        let screen = shown(bench, view, keys, (120, 40));
        assert!(screen.is_ascii(), "{screen}");
    }
}

#[test]
fn no_escape_sequence_of_a_task_reaches_the_screen() {
    let text = shown(bench(), View::Tasks, "", (120, 40));
    assert!(text.contains("\\u{1b}"));
    assert!(text.chars().all(|char| char == '\n' || !char.is_control()));
}

#[test]
fn what_was_forgotten_is_said() {
    let mut bench = bench();
    bench.app.show(View::Tasks);
    bench.app.look(Drill::Task(9_999));
    assert!(bench.screen(100, 20).contains("thread 9999 is not known"));
    bench.app.show(View::Space);
    bench.app.look(Drill::Space(0xdead));
    assert!(bench.screen(100, 20).contains("is gone, or was forgotten"));
    bench.app.look(Drill::Vma(0xdead));
    assert!(
        bench
            .screen(100, 20)
            .contains("the VMA 000000000000dead is not known")
    );
}

#[test]
fn a_long_log_says_what_it_does_not_keep() {
    let mut scene = Scene::new();
    for at in 0..6_000 {
        scene.add(Kind::VmaReadFail, 7, b"x", at, |_| {});
    }
    let mut world = crate::tui::world::World::new(&scene::info(), 5_000);
    for event in &scene.events {
        world.event(event);
    }
    let screen = shown(Bench::new(world), View::Events, "", (100, 20));
    assert!(screen.contains("1,904 older events are not kept"), "{screen}");
}
