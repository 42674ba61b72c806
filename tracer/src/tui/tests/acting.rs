//! Every key, by driving actions.

use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};

use super::Bench;
use super::scene;
use crate::sink::address::Addresses;
use crate::tui::action::Action;
use crate::tui::app::{Control, Drill, Effect};
use crate::tui::keys::parse;
use crate::tui::snapshot::{MarkKind, View};

fn bench() -> Bench {
    let mut bench = Bench::at(scene::world(), 20_000_000);
    bench.screen(120, 40);
    bench
}

fn in_view(view: View) -> Bench {
    let mut bench = bench();
    bench.app.show(view);
    bench.screen(120, 40);
    bench
}

fn text(bench: &mut Bench) -> String {
    bench.screen(120, 40)
}

/// Every action does something that can be seen: another screen, another state, or an effect.
#[test]
fn every_key_of_every_action_does_something() {
    for &action in Action::ALL {
        for key in action.default_keys().split(' ') {
            let start = if action == Action::Tasks {
                View::Space
            } else {
                View::Tasks
            };
            let mut bench = in_view(start);
            bench.press("jj/postgres||java||idle<enter>fjava<enter>");
            bench.app.replay = action.group() == crate::tui::action::Group::Replay;
            let before = (bench.screen(120, 12), format!("{:?}", bench.app));
            let (code, modifiers) = parse(key).unwrap();
            let event = crossterm::event::KeyEvent::new(code, modifiers);
            assert_eq!(bench.app.config.keymap.action(event), Some(action), "{key}");
            let effects = bench.app.key(event, &bench.shot.clone());
            let after = (bench.screen(120, 12), format!("{:?}", bench.app));
            assert!(
                !effects.is_empty() || before != after,
                "{key} of {}",
                action.name()
            );
        }
    }
}

#[test]
fn numbers_and_tab_choose_views() {
    let mut bench = bench();
    for (at, view) in View::ALL.into_iter().enumerate() {
        bench.press(&(at + 1).to_string());
        assert_eq!(bench.app.view, view);
    }
    bench.press("<tab>");
    assert_eq!(bench.app.view, View::Overview);
    bench.press("<backtab>");
    assert_eq!(bench.app.view, View::Probes);
}

#[test]
fn moving_chooses_a_row_and_stays_with_it() {
    let mut bench = in_view(View::Tasks);
    let rows = bench.rows().to_vec();
    assert_eq!(bench.app.tab().cursor, None);
    bench.press("j");
    assert_eq!(bench.app.tab().cursor, Some(rows[1]));
    bench.press("k");
    assert_eq!(bench.app.tab().cursor, Some(rows[0]));
    bench.press("G");
    assert_eq!(bench.app.tab().cursor, rows.last().copied());
    bench.press("g<pgdn><down><up>");
    let chosen = bench.app.tab().cursor;
    // Another order moves the row, not the choice.
    bench.press("S");
    assert_eq!(bench.app.tab().cursor, chosen);
    let place = bench.app.tab().drawn.place.unwrap();
    assert_eq!(Some(bench.rows()[place]), chosen);
}

#[test]
fn sorting_goes_by_columns_and_by_name() {
    let mut bench = in_view(View::Tasks);
    assert_eq!(&bench.rows()[..3], [102, 103, 101]);
    bench.press(":sort tid<enter>");
    let mut sorted = bench.rows().to_vec();
    sorted.sort_unstable();
    assert_eq!(bench.rows(), sorted);
    bench.press("S");
    sorted.reverse();
    assert_eq!(bench.rows(), sorted);
    bench.press(":sort nonsense<enter>");
    assert!(text(&mut bench).contains("there is no column nonsense; there are tid, comm, wait"));
    let before = bench.app.tab().drawn.sort;
    bench.press("s");
    assert_ne!(bench.app.tab().drawn.sort, before);
}

#[test]
fn filters_are_tried_while_they_are_typed() {
    let mut bench = in_view(View::Tasks);
    let all = bench.rows().len();
    bench.press("/comm=post*");
    assert_eq!(bench.rows(), [102, 101]);
    bench.press(" && wait>");
    assert!(text(&mut bench).contains("a value is missing for wait"));
    bench.press("30ms<enter>");
    assert_eq!(bench.rows(), [102]);
    assert!(text(&mut bench).contains("filter: comm=post* && wait>30ms"));
    // What is given up leaves the filter as it was.
    bench.press("/x<esc>");
    assert_eq!(bench.rows(), [102]);
    bench.press("<esc>");
    assert_eq!(bench.rows().len(), all);
    bench.press("/!comm=post*<enter>");
    assert_eq!(bench.rows().len(), all - 2);
    bench.press("/<ctrl-u><enter>");
    assert_eq!(bench.rows().len(), all);
    bench.press("/comm=<enter>");
    assert!(bench.app.prompt.is_some());
    bench.press("<esc>");
    bench.press("a");
    assert!(bench.rows().len() < all);
}

#[test]
fn a_search_goes_from_match_to_match() {
    let mut bench = in_view(View::Tasks);
    bench.press(":sort tid<enter>");
    bench.press("//java<enter>");
    assert_eq!(bench.app.tab().cursor, Some(211));
    bench.press("n");
    assert_eq!(bench.app.tab().cursor, Some(212));
    bench.press("n");
    assert_eq!(bench.app.tab().cursor, Some(211));
    bench.press("N");
    assert_eq!(bench.app.tab().cursor, Some(212));
    assert_eq!(bench.rows().len(), 8);
    bench.press("<esc>n");
    assert!(text(&mut bench).contains("nothing is looked for"));
    bench.press("fnobody<enter>");
    assert!(text(&mut bench).contains("no row fits"));
}

#[test]
fn enter_goes_in_and_esc_comes_out() {
    let mut bench = in_view(View::Tasks);
    bench.press("<enter>");
    assert!(matches!(bench.app.drills(), [Drill::Task(102)]));
    assert!(text(&mut bench).contains("waits mmap:r"));
    bench.press("<enter>");
    assert!(matches!(bench.app.drills(), [Drill::Task(102), Drill::Event(_)]));
    assert!(text(&mut bench).contains("mmap_start"));
    bench.press("<esc>h");
    assert!(bench.app.drills().is_empty());
    bench.press("<esc>");
    assert!(text(&mut bench).contains("q leaves"));

    let mut bench = in_view(View::Space);
    bench.press("/pid=211<enter>l");
    let shown = |address| Addresses::of(&scene::info()).show(address);
    assert!(matches!(bench.app.drills(), [Drill::Space(mm)] if *mm == shown(0xffff_8881_0000_1000)));
    bench.press("/lock=vma_read<enter><enter>");
    assert!(matches!(bench.app.drills(), [_, Drill::Vma(vma)] if *vma == shown(0xffff_8882_0000_0300)));
    assert!(text(&mut bench).contains("read by 211"));
    assert!(text(&mut bench).contains("101 waits for its readers"));
}

#[test]
fn the_log_follows_until_a_row_is_chosen() {
    let mut bench = in_view(View::Events);
    let last = *bench.rows().last().unwrap();
    let event = tracer_common::wire::Event::synthetic(tracer_common::wire::Kind::VmaReadFail, bench.now_ns);
    bench.world.event(&event);
    bench.screen(120, 40);
    assert_eq!(*bench.rows().last().unwrap(), last + 1);
    assert_eq!(bench.app.tab().cursor, None);
    bench.press("k");
    assert_eq!(bench.app.tab().cursor, Some(last));
    bench.press("G");
    assert_eq!(bench.app.tab().cursor, None);
    bench.press("/kind=vma_read_fail && !cpu=0<enter>");
    assert!(bench.rows().iter().all(|id| *id <= last));
    assert_eq!(
        bench.app.request().events.unwrap().to_string(),
        "kind=vma_read_fail && !cpu=0"
    );
}

#[test]
fn effects_are_handed_out() {
    let mut bench = bench();
    assert_eq!(bench.press("q"), [Effect::Quit]);
    assert_eq!(bench.press("<ctrl-c>"), [Effect::Quit]);
    assert_eq!(bench.press(":q<enter>"), [Effect::Quit]);
    assert_eq!(bench.press("<ctrl-z>"), [Effect::Suspend]);
    assert_eq!(bench.press("<ctrl-l>"), [Effect::Redraw]);
    assert_eq!(bench.press("p"), [Effect::Hold(true)]);
    assert!(bench.app.request().deep);
    assert_eq!(bench.press(" "), [Effect::Hold(false)]);
    assert_eq!(bench.press("e"), [Effect::Export(None)]);
    assert_eq!(
        bench.press(":export a.csv<enter>"),
        [Effect::Export(Some("a.csv".into()))]
    );
    assert_eq!(bench.press("r"), [Effect::Record(None)]);
    assert_eq!(
        bench.press(":record a.rec<enter>"),
        [Effect::Record(Some("a.rec".into()))]
    );
    assert_eq!(bench.press(":stop<enter>"), [Effect::StopRecording]);
    let trigger = crate::trigger::Trigger::parse("wait>5ms").unwrap();
    assert_eq!(bench.press("twait>5ms<enter>"), [Effect::Trigger(Some(trigger))]);
    assert_eq!(bench.press(":fps 30<enter>"), [Effect::Frames(30)]);
    bench.press("3<enter>");
    assert_eq!(bench.press("m"), [Effect::Names(211)]);
    assert!(bench.press(".").is_empty());
    assert!(text(&mut bench).contains("tracer replay FILE"));
}

#[test]
fn a_recording_is_moved_about_in() {
    let mut bench = bench();
    bench.app.replay = true;
    bench.app.paused = true;
    let replay = |bench: &mut Bench, keys: &str, control| {
        assert_eq!(bench.press(keys), [Effect::Replay(control)], "{keys}");
    };
    replay(&mut bench, " ", Control::Play(true));
    assert!(!bench.app.paused);
    replay(&mut bench, ".", Control::Step(1));
    assert!(bench.app.paused);
    replay(&mut bench, ",", Control::Step(-1));
    replay(&mut bench, ">", Control::Jump(50));
    replay(&mut bench, "<", Control::Jump(-50));
    replay(&mut bench, "]", Control::Speed(u64::MAX));
    replay(&mut bench, "[", Control::Speed(0));
    let mark = |kind, back| Control::Mark { kind, back };
    replay(&mut bench, "w", mark(MarkKind::Wait(1_000_000), false));
    bench.press(":wait 20us<enter>");
    replay(&mut bench, "W", mark(MarkKind::Wait(20_000), true));
    replay(&mut bench, "v", mark(MarkKind::Violation, false));
    replay(&mut bench, "V", mark(MarkKind::Violation, true));
    replay(&mut bench, "x", mark(MarkKind::Gap, false));
    replay(&mut bench, "X", mark(MarkKind::Gap, true));
    replay(&mut bench, ":goto 1.5s<enter>", Control::Time(1_500_000_000));
    replay(&mut bench, ":event 77<enter>", Control::Event(77));
    replay(&mut bench, ":speed 0.01<enter>", Control::Speed(10));
    assert!(bench.press("r").is_empty());
}

#[test]
fn the_mouse_chooses_sorts_and_scrolls() {
    let mut bench = in_view(View::Tasks);
    let click = |bench: &mut Bench, x, y| {
        let event = MouseEvent {
            kind: MouseEventKind::Down(MouseButton::Left),
            column: x,
            row: y,
            modifiers: crossterm::event::KeyModifiers::NONE,
        };
        let effects = bench.app.mouse(event, &bench.shot.clone());
        bench.screen(120, 40);
        effects
    };
    let screen = text(&mut bench);
    let line = |needle: &str| {
        let at = screen.lines().position(|line| line.contains(needle)).unwrap();
        u16::try_from(at).unwrap()
    };
    click(&mut bench, 3, line("cc1plus"));
    assert_eq!(bench.app.tab().cursor, Some(404));
    click(&mut bench, 3, line("cc1plus"));
    assert!(matches!(bench.app.drills(), [Drill::Task(404)]));
    bench.press("<esc>");
    let titles = line("TID");
    click(&mut bench, 6, titles);
    assert_eq!(bench.rows()[0], 42);
    click(&mut bench, 6, titles);
    assert_eq!(bench.rows()[0], 404);
    click(&mut bench, 3, 3);
    assert_eq!(bench.app.view, View::Overview);
    bench.press("2");
    let wheel = MouseEvent {
        kind: MouseEventKind::ScrollDown,
        column: 5,
        row: 10,
        modifiers: crossterm::event::KeyModifiers::NONE,
    };
    let place = bench.app.tab().place;
    bench.app.mouse(wheel, &bench.shot.clone());
    bench.screen(120, 40);
    assert_eq!(bench.app.tab().place, place + 3);
}

#[test]
fn commands_that_are_wrong_say_why() {
    let mut bench = bench();
    bench.press(":wibble<enter>");
    assert!(text(&mut bench).contains("no command is called wibble"));
    bench.press("<esc>:goto 1s<enter>");
    assert!(text(&mut bench).contains("tracer replay FILE"));
    bench.press(":view ev<enter>");
    assert_eq!(bench.app.view, View::Events);
    bench.press(":pid 211<enter>");
    assert_eq!((bench.app.view, bench.rows().len()), (View::Space, 1));
    bench.press(":tid 211<enter>");
    assert!(text(&mut bench).contains("211 java"));
}

#[test]
fn what_is_shown_can_be_exported() {
    let mut bench = in_view(View::Tasks);
    bench.press("/comm=java<enter>");
    let (text, ending) = crate::tui::draw::export(&bench.app, &bench.shot);
    assert_eq!(ending, "csv");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("tid,comm,wait,run,behind,holds,hold,known"));
    assert!(lines[1].starts_with("212,java,"));
    bench.press("7");
    let (text, ending) = crate::tui::draw::export(&bench.app, &bench.shot);
    assert_eq!(ending, "txt");
    assert!(
        text.contains("mmap:w waited for") && !text.contains("help"),
        "{text}"
    );
}

#[test]
fn names_of_mappings_are_shown_once_they_were_read() {
    let mut bench = in_view(View::Space);
    bench.press("/pid=211<enter><enter>");
    let maps = "7f1234660000-7f1234664000 r-xp 00000000 00:00 0   /usr/lib/lib\u{1b}c.so\n7f1234760000-7f1234768000 rw-p 0 0 0\n";
    assert_eq!(bench.app.names.read(211, maps), 2);
    let screen = bench.screen(200, 40);
    assert!(screen.contains("/usr/lib/lib\\u{1b}c.so"), "{screen}");
    assert!(screen.contains("[anon]"), "{screen}");
}
