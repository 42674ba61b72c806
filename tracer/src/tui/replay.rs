//! `tracer replay FILE`: a recording on the screen, with a time bar.
//!
//! A [`player::Player`] goes forward event by event. Going back is to take up the nearest copy of the world before, of
//! which [`index`] makes some while it reads ahead, and to go forward from there.

pub mod index;
pub mod player;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;

use super::app::Control;
use super::feed::{self, Desk, Wish};
use super::snapshot::{MarkKind, ReplayState, Request};
use super::{ScreenArgs, require_terminal, screen};
use crate::cli::parse_duration;
use crate::outside;
use crate::sink::address::Addresses;
use index::Index;
use player::Player;

/// Options of `replay`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    tracer replay a.rec\n  \
    tracer replay a.rec --at 1.5s     held at 1.5 s after the first event\n\n\
    Keys: space plays, . and , step, w v x go to the next long wait, violation, gap; ? shows all.")]
pub struct ReplayArgs {
    /// The recording.
    pub file: PathBuf,
    /// Begin here, held: a time since the first event.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub at: Option<Duration>,
    /// Play so many times as fast.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub speed: f64,
    /// The screen.
    #[command(flatten)]
    pub screen: ScreenArgs,
}

/// How many events are taken in before wishes are looked at.
const SLICE: u32 = 20_000;
/// Between two looks at the clock while it plays.
const TICK: Duration = Duration::from_millis(10);
/// Speeds go from a thousandth to a million times.
const SPEEDS: core::ops::RangeInclusive<u64> = 1..=1_000_000_000;

/// Shows a recording until the user quits.
///
/// # Errors
/// If it is none, or there is no terminal.
pub fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.file.as_os_str() != "-",
        "a pipe cannot be gone back in: save the recording to a file first, then `tracer replay FILE`"
    );
    let mut player = Player::open(&args.file)?;
    require_terminal()?;
    let mut reader = Player::open(&args.file)?;
    if args.screen.raw_addresses {
        player.show_addresses(Addresses::raw());
        reader.show_addresses(Addresses::raw());
    }
    let (board, desk) = feed::pair();
    let app = args.screen.app(true);
    let over = Arc::new(AtomicBool::new(false));
    let index = Arc::new(Index::default());
    let ahead = thread::Builder::new().name("ahead".to_owned()).spawn({
        let (index, over) = (Arc::clone(&index), Arc::clone(&over));
        move || index::read_ahead(reader, &index, &over)
    });
    let ahead = ahead.context("cannot start a thread to read ahead")?;
    let mut deck = Deck::new(player, index, desk, args.screen.frame());
    let name = args.file.file_name().unwrap_or(args.file.as_os_str());
    deck.name = outside::path(name);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "kept within bounds"
    )]
    let speed = (args.speed * 1000.0) as u64;
    deck.speed = speed.clamp(*SPEEDS.start(), *SPEEDS.end());
    match args.at {
        Some(at) => deck.control(Control::Time(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX))),
        None => deck.control(Control::Play(true)),
    }
    let deck = thread::Builder::new().name("player".to_owned()).spawn({
        let over = Arc::clone(&over);
        move || {
            while !over.load(Ordering::Relaxed) {
                deck.round()?;
            }
            anyhow::Ok(())
        }
    });
    let deck = deck.context("cannot start a thread to play")?;
    log::set_max_level(log::LevelFilter::Off);
    let result = screen::run(&board, app, &over);
    over.store(true, Ordering::Relaxed);
    let played = deck
        .join()
        .map_err(|_| anyhow::anyhow!("the player failed; the terminal was restored"))?;
    ahead
        .join()
        .map_err(|_| anyhow::anyhow!("reading ahead failed; the terminal was restored"))?;
    result?;
    played
}

/// Where to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// Up to and with the event of this number.
    Number(u64),
    /// Up to and with the events of this time.
    Time(u64),
}

/// Plays a recording as it is told.
pub struct Deck {
    player: Player,
    index: Arc<Index>,
    desk: Desk,
    name: String,
    frame: Duration,
    next: Instant,
    goal: Option<Goal>,
    playing: bool,
    /// In thousandths of real time.
    speed: u64,
    /// Where playing began: on the clock, and in the recording.
    since: (Instant, u64),
    /// The moment that is shown, in nanoseconds.
    now_ns: u64,
    notice: Option<(u64, String)>,
    request: Request,
}

impl Deck {
    /// At the start of a recording.
    pub fn new(player: Player, index: Arc<Index>, desk: Desk, frame: Duration) -> Self {
        Self {
            player,
            index,
            desk,
            name: String::new(),
            frame,
            next: Instant::now(),
            goal: None,
            playing: false,
            speed: 1000,
            since: (Instant::now(), 0),
            now_ns: 0,
            notice: None,
            request: Request::default(),
        }
    }

    /// The world as it is where it stands.
    pub fn player(&self) -> &Player {
        &self.player
    }

    /// Whether it is where it was told to go.
    pub fn has_arrived(&self) -> bool {
        self.goal.is_none()
    }

    fn tell(&mut self, text: impl Into<String>) {
        let number = self.notice.take().map_or(0, |(number, _)| number) + 1;
        self.notice = Some((number, text.into()));
    }

    /// One turn: wishes, some events, and a picture when it is time.
    ///
    /// # Errors
    /// If the recording cannot be read any more.
    pub fn round(&mut self) -> anyhow::Result<()> {
        let mut changed = self.wishes();
        let (request, other) = self.desk.request();
        if other {
            self.request = request.clone();
            self.serve()?;
            changed = true;
        }
        let mut busy = false;
        if self.goal.is_some() {
            self.approach()?;
            busy = self.goal.is_some();
            changed |= !busy;
        } else if self.playing {
            changed |= self.play()?;
        }
        if changed || (Instant::now() >= self.next && (self.playing || busy || !self.index.is_whole())) {
            self.next = Instant::now() + self.frame;
            self.picture();
        }
        if !busy && !changed {
            // Something to do comes with a wish, or with time.
            if let Some(wish) = self.desk.wait(TICK) {
                self.fulfil(wish);
                self.next = Instant::now();
            }
        }
        Ok(())
    }

    fn wishes(&mut self) -> bool {
        let mut any = false;
        while let Some(wish) = self.desk.wish() {
            self.fulfil(wish);
            any = true;
        }
        any
    }

    fn fulfil(&mut self, wish: Wish) {
        match wish {
            Wish::Replay(control) => self.control(control),
            Wish::Frames(frames) => self.frame = Duration::from_secs(1) / frames.max(1),
            Wish::Trigger(trigger) => {
                let text = match &trigger {
                    Some(trigger) => format!("it will stop at {trigger}"),
                    None => "no trigger".into(),
                };
                self.player.world_mut().set_trigger(trigger);
                self.tell(text);
            }
            Wish::Hold | Wish::Record(_) | Wish::StopRecording => {}
        }
    }

    /// Does what the user wants.
    pub fn control(&mut self, control: Control) {
        self.next = Instant::now();
        let number = self.goal_number();
        match control {
            Control::Play(on) => {
                self.playing = on && !self.player.is_at_end();
                if on && !self.playing {
                    self.tell("this is the end; < goes back, :goto 0 to the start");
                }
                self.since = (Instant::now(), self.shown_ns());
                return;
            }
            Control::Speed(permille) => {
                self.speed = match permille {
                    0 => self.speed / 2,
                    u64::MAX => self.speed.saturating_mul(2),
                    permille => permille,
                }
                .clamp(*SPEEDS.start(), *SPEEDS.end());
                self.since = (Instant::now(), self.shown_ns());
                return;
            }
            Control::Step(by) => self.goal = Some(Goal::Number(number.saturating_add_signed(by))),
            Control::Event(number) => self.goal = Some(Goal::Number(number)),
            Control::Time(ns) => {
                let first_ns = self.first_ns();
                self.goal = Some(Goal::Time(first_ns.saturating_add(ns)));
            }
            Control::Jump(permille) => {
                let (first_ns, last_ns) = self.index.times();
                let by = i64::try_from(last_ns.saturating_sub(first_ns) / 1000).unwrap_or(i64::MAX);
                let to = self.shown_ns().saturating_add_signed(by.saturating_mul(permille));
                self.goal = Some(Goal::Time(to.clamp(first_ns, last_ns.max(first_ns))));
            }
            Control::Mark { kind, back } => match self.index.mark(kind, back, number) {
                Some(mark) => self.goal = Some(Goal::Number(mark.number)),
                None => {
                    let text = self.no_mark(kind, back);
                    self.tell(text);
                }
            },
        }
        self.playing = false;
    }

    fn no_mark(&self, kind: MarkKind, back: bool) -> String {
        let what = match kind {
            MarkKind::Wait(ns) => format!("wait of {} or more", crate::sink::text::duration(ns)),
            MarkKind::Gap => "gap".into(),
            MarkKind::Violation => "violation".into(),
        };
        let place = if back { "before" } else { "after" };
        let shortest = self.index.shortest_wait_ns();
        match kind {
            MarkKind::Wait(ns) if ns < shortest => {
                let shortest = crate::sink::text::duration(shortest);
                format!("so short waits are not listed; from {shortest} on they are")
            }
            _ if self.index.is_whole() => format!("there is no {what} {place} this"),
            _ => format!("there is no {what} {place} this in what has been read ahead yet"),
        }
    }

    fn first_ns(&self) -> u64 {
        let (first_ns, _) = self.index.times();
        if first_ns == 0 {
            self.player.first_ns()
        } else {
            first_ns
        }
    }

    fn shown_ns(&self) -> u64 {
        self.now_ns.max(self.player.world().now_ns())
    }

    fn goal_number(&self) -> u64 {
        match self.goal {
            Some(Goal::Number(number)) => number,
            _ => self.player.world().number(),
        }
    }

    /// What is asked for has to be there as if it had always been asked for: goes over the latest events again.
    fn serve(&mut self) -> anyhow::Result<()> {
        if !self.player.world().lacks(&self.request) {
            let request = self.request.clone();
            self.player.world_mut().ask(&request);
            return Ok(());
        }
        let number = self.player.world().number();
        let back = number.saturating_sub(self.index.spacing());
        if let Some(copy) = self.index.before_number(back).filter(|_| self.goal.is_none()) {
            self.player.take_up(&copy)?;
        }
        let request = self.request.clone();
        self.player.world_mut().ask(&request);
        while self.player.world().number() < number && self.player.next()?.is_some() {}
        Ok(())
    }

    /// Goes some way towards the goal.
    fn approach(&mut self) -> anyhow::Result<()> {
        let Some(goal) = self.goal else { return Ok(()) };
        let world = self.player.world();
        let (number, now_ns) = (world.number(), world.now_ns());
        let (behind, copy) = match goal {
            Goal::Number(wanted) => (wanted < number, self.index.before_number(wanted)),
            Goal::Time(ns) => (ns < now_ns, self.index.before_time(ns)),
        };
        match copy {
            // A copy that is further on than this spares the way.
            Some(copy) if behind || copy.number() > number => {
                self.player.take_up(&copy)?;
                let request = self.request.clone();
                self.player.world_mut().ask(&request);
            }
            None if behind => {
                self.player.rewind()?;
                let request = self.request.clone();
                self.player.world_mut().ask(&request);
            }
            _ => {}
        }
        for _ in 0..SLICE {
            let arrived = match goal {
                Goal::Number(wanted) => self.player.world().number() >= wanted,
                Goal::Time(ns) => self.player.peek()?.is_none_or(|next_ns| next_ns > ns),
            };
            if arrived || self.player.next()?.is_none() {
                self.goal = None;
                self.now_ns = match goal {
                    Goal::Time(ns) if self.player.peek()?.is_some() => ns,
                    _ => self.player.world().now_ns(),
                };
                return Ok(());
            }
        }
        Ok(())
    }

    /// Plays on; whether it stopped.
    fn play(&mut self) -> anyhow::Result<bool> {
        let (start, from_ns) = self.since;
        let elapsed = start.elapsed();
        let passed = elapsed.as_nanos() * u128::from(self.speed) / 1000;
        let from_ns = from_ns.max(self.player.first_ns());
        let to_ns = from_ns.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX));
        for done in 0..SLICE {
            match self.player.peek()? {
                None => {
                    self.playing = false;
                    self.now_ns = self.player.world().now_ns();
                    self.tell("the end");
                    return Ok(true);
                }
                Some(next_ns) if next_ns > to_ns => break,
                Some(_) => {}
            }
            self.player.next()?;
            if let Some(fired) = self.player.world_mut().take_fired() {
                self.playing = false;
                self.now_ns = self.player.world().now_ns();
                self.tell(format!(
                    "the trigger {} stopped it: {}",
                    fired.trigger, fired.what
                ));
                return Ok(true);
            }
            if done + 1 == SLICE {
                // It cannot be read as fast as it should be played.
                self.since = (Instant::now(), self.player.world().now_ns());
                self.now_ns = self.player.world().now_ns();
                return Ok(false);
            }
        }
        self.now_ns = to_ns;
        Ok(false)
    }

    fn picture(&mut self) {
        let now_ns = self.shown_ns().max(self.player.first_ns());
        let mut shot = self.player.world().picture(&self.request, now_ns);
        let progress = self.index.progress();
        shot.head.replay = Some(ReplayState {
            name: self.name.clone(),
            number: self.player.world().number(),
            total: progress.number.max(self.player.world().number()),
            whole: progress.whole,
            first_ns: self.player.first_ns(),
            last_ns: progress.last_ns.max(self.player.world().now_ns()),
            playing: self.playing,
            speed_permille: self.speed,
            marks: progress.marks,
            warning: progress.warning,
        });
        shot.head.ended = self.player.is_at_end();
        shot.head.notice.clone_from(&self.notice);
        self.desk.publish(shot);
    }
}

#[cfg(test)]
mod tests;
