//! Screens at fixed sizes, made from recordings, and what keys, clicks and commands do.

mod acting;
mod documents;
mod scene;
mod screens;

use std::path::Path;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::app::{App, Effect};
use super::config::Config;
use super::draw;
use super::feed::{Board, Message, pair};
use super::replay::player::Player;
use super::screen::{After, Stage};
use super::snapshot::{Request, Snapshot};
use super::theme::{Base, Theme};
use super::world::World;
use crate::trigger::Trigger;

/// Theme without colour, so that what is told by colour alone is missed.
fn app(replay: bool) -> App {
    let config = Config {
        theme: Theme::new(Base::Mono),
        ..Config::default()
    };
    App::new(config, replay)
}

/// A screen on a world that stands still.
struct Bench {
    app: App,
    world: World,
    shot: Snapshot,
    now_ns: u64,
}

impl Bench {
    fn new(world: World) -> Self {
        Self::at(world, 0)
    }

    /// The screen so many nanoseconds after the last event.
    fn at(world: World, later_ns: u64) -> Self {
        let now_ns = world.now_ns() + later_ns;
        let shot = world.picture(&Request::default(), now_ns);
        Self {
            app: app(false),
            world,
            shot,
            now_ns,
        }
    }

    fn screen(&mut self, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let request = self.app.request();
        self.world.ask(&request);
        let head = self.shot.head.clone();
        self.shot = self.world.picture(&request, self.now_ns);
        self.shot.head.replay = head.replay;
        self.shot.head.cost = head.cost;
        let mut drawn = None;
        terminal
            .draw(|frame| {
                let area = frame.area();
                drawn = Some(draw::draw(frame.buffer_mut(), area, &self.app, &self.shot));
            })
            .unwrap();
        self.app.drawn(drawn.unwrap());
        let text = terminal.backend().to_string();
        let lines = text.lines().map(|line| line.trim_matches('"').trim_end());
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Presses keys, drawing after each as the loop does. Names in `<>`, such as `<enter>`.
    fn press(&mut self, keys: &str) -> Vec<Effect> {
        let mut effects = Vec::new();
        for key in keys_of(keys) {
            effects = self.app.key(key, &self.shot);
            self.screen(120, 40);
        }
        effects
    }

    fn rows(&self) -> &[u64] {
        &self.app.tab().drawn.keys
    }
}

fn keys_of(keys: &str) -> Vec<KeyEvent> {
    let mut all = Vec::new();
    let mut rest = keys;
    while let Some(char) = rest.chars().next() {
        let named = rest
            .strip_prefix('<')
            .and_then(|rest| rest.split_once('>'))
            .filter(|(name, _)| super::keys::parse(name).is_ok() && name.len() > 1);
        let (code, modifiers) = match named {
            Some((name, after)) => {
                rest = after;
                super::keys::parse(name).unwrap()
            }
            None => {
                rest = &rest[char.len_utf8()..];
                (KeyCode::Char(char), KeyModifiers::NONE)
            }
        };
        all.push(KeyEvent::new(code, modifiers));
    }
    all
}

/// The world at the end of a recording.
fn end_of(path: &Path) -> World {
    let mut player = Player::open(path).unwrap();
    while player.next().unwrap().is_some() {}
    player.world().clone()
}

#[test]
fn a_board_gives_the_latest_picture_and_the_wishes_arrive() {
    let (board, mut desk) = pair();
    assert_eq!(board.latest().head.events, 0);
    let (send, receive) = std::sync::mpsc::channel();
    board.tell(send);
    let world = scene::world();
    desk.publish(world.picture(&Request::default(), world.now_ns()));
    assert!(matches!(receive.try_recv(), Ok(Message::Picture)));
    let held = board.latest();
    desk.publish(Snapshot::default());
    assert!(held.head.events > 0);
    assert_eq!(board.latest().head.events, 0);
    assert!(!desk.request().1);
    let request = Request {
        view: super::snapshot::View::Events,
        ..Request::default()
    };
    board.ask(&request);
    assert_eq!(desk.request(), (&request, true));
    assert!(!desk.request().1);
}

/// A stage as the loop has it, fed by hand.
fn stage() -> (Board, super::feed::Desk, Stage) {
    let (board, desk) = pair();
    let stage = Stage::new(board.clone(), app(false));
    (board, desk, stage)
}

#[test]
fn a_held_screen_shows_every_view_of_that_moment() {
    let (_, desk, mut stage) = stage();
    let mut terminal = Terminal::new(TestBackend::new(100, 30)).unwrap();
    let world = scene::world();
    desk.publish(world.picture(&Request::default(), world.now_ns()));
    stage.take(Message::Picture);
    stage.frame(&mut terminal).unwrap();
    let press = |stage: &mut Stage, keys: &str| {
        for key in keys_of(keys) {
            assert_eq!(
                stage.take(Message::Input(crossterm::event::Event::Key(key))),
                After::Go
            );
        }
    };
    press(&mut stage, "p");
    assert!(matches!(desk.wish(), Some(super::feed::Wish::Hold)));
    stage.take(Message::World(Box::new(world)));
    // What comes in meanwhile is not shown.
    desk.publish(Snapshot::default());
    stage.take(Message::Picture);
    press(&mut stage, "6");
    stage.frame(&mut terminal).unwrap();
    assert!(!stage.shot().events.is_empty());
    press(&mut stage, "2");
    stage.frame(&mut terminal).unwrap();
    assert!(!stage.shot().tasks.is_empty());
    press(&mut stage, "p");
    assert_eq!(stage.shot().head.events, 0);
}

#[test]
fn a_trigger_holds_the_screen_where_it_fires() {
    let (_, desk, mut stage) = stage();
    let mut world = scene::world();
    world.set_trigger(Some(Trigger::parse("kind=vma_read_fail").unwrap()));
    let mut event =
        tracer_common::wire::Event::synthetic(tracer_common::wire::Kind::VmaReadFail, world.now_ns() + 5);
    (event.header.pid, event.header.tid) = (7, 77);
    world.event(&event);
    assert!(world.has_fired());
    desk.hand_over(Box::new(world.clone()));
    stage.take(Message::World(Box::new(world)));
    assert!(stage.app.paused);
    assert!(
        stage
            .app
            .message
            .as_ref()
            .unwrap()
            .0
            .contains("kind=vma_read_fail held the screen: vma_read_fail of  (77)")
    );
}

#[test]
fn what_is_wrong_with_the_file_of_settings_is_said_on_the_screen() {
    let folder = scene::Folder::new("settings");
    let path = folder.0.join("tui.toml");
    std::fs::write(&path, "[theme]\nbase = \"dark\"\n\n[keys]\nquit = \"nokey\"\n").unwrap();
    let args = super::ScreenArgs {
        config: Some(path),
        filter: Some("comm=post*".parse().unwrap()),
        ..super::ScreenArgs::default()
    };
    let mut bench = Bench::new(scene::world());
    bench.app = args.app(false);
    let screen = bench.screen(200, 30);
    assert!(
        screen.contains("tui.toml:5: no key is called 'nokey'"),
        "{screen}"
    );
    assert!(screen.contains("defaults are used"), "{screen}");
    assert_eq!(bench.press("q"), [Effect::Quit]);
    // The filter from the command line is there.
    bench.press("2");
    assert_eq!(bench.rows(), [102, 101]);
}

#[test]
fn a_trigger_fires_at_what_is_stuck_although_nothing_happens() {
    let mut world = scene::world();
    world.set_trigger(Some(Trigger::parse("wait>60ms").unwrap()));
    let now_ns = world.now_ns();
    world.look(now_ns + 1_000_000);
    assert!(!world.has_fired());
    // 102 waits since 34 ms before the end of the scene.
    world.look(now_ns + 30_000_000);
    assert!(
        world
            .fired()
            .unwrap()
            .what
            .contains("postgres (102) has been waiting")
    );
    world.take_fired();
    assert!(world.trigger().is_none());
}
