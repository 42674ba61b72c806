//! The loop of the screen: what comes in, what goes out.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crossterm::event::{self, Event};
use ratatui::Terminal;
use ratatui::backend::{Backend, CrosstermBackend};

use super::app::{App, Effect};
use super::feed::{Board, Message, Wish};
use super::snapshot::Snapshot;
use super::terminal::{self, Screen};
use super::world::World;
use super::{draw, require_terminal};

/// How long nothing has to come in before the terminal is asked whether it is still there.
const IDLE: Duration = Duration::from_millis(250);

/// Shows pictures until the user quits, or until `quit` is set.
///
/// # Errors
/// If there is no terminal, or it cannot be set up. One that goes away is a quiet end.
pub fn run(board: &Board, app: App, quit: &AtomicBool) -> anyhow::Result<()> {
    require_terminal()?;
    let mut screen = Screen::enter()?;
    // Never dropped: it would show the cursor, which Screen does, and panic if the terminal is gone.
    let mut terminal = ManuallyDrop::new(Terminal::new(CrosstermBackend::new(std::io::stdout()))?);
    let (send, receive) = mpsc::channel();
    board.tell(send.clone());
    read_input(send);
    let mut stage = Stage::new(board.clone(), app);
    loop {
        if quit.load(Ordering::Relaxed) || terminal::panicked() || terminal::is_gone() {
            return Ok(());
        }
        if screen.heed_signals()? {
            draw_anew(&mut terminal)?;
        }
        if stage.frame(&mut terminal).is_err() {
            return Ok(());
        }
        match stage.wait(&receive) {
            After::Go => {}
            After::Redraw => draw_anew(&mut terminal)?,
            After::Suspend => {
                screen.suspend()?;
                draw_anew(&mut terminal)?;
            }
            After::Quit => return Ok(()),
        }
    }
}

/// Has the next picture drawn in full. Not by [`Terminal::clear`], which asks the terminal where its cursor is: the answer
/// would go to the thread that reads keys, and nobody else may read meanwhile.
fn draw_anew<B: Backend>(terminal: &mut Terminal<B>) -> Result<(), B::Error> {
    let size = terminal.size()?;
    terminal.resize(size.into())
}

/// What the loop has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Draw.
    Go,
    /// Draw everything anew.
    Redraw,
    /// Stop the program, then draw.
    Suspend,
    /// Leave.
    Quit,
}

/// The state of the screen, with the picture that it shows.
pub struct Stage {
    /// The state of the screen.
    pub app: App,
    board: Board,
    shot: Arc<Snapshot>,
    /// The world that is held.
    held: Option<Box<World>>,
    /// The latest notice that was shown.
    noticed: u64,
}

impl Stage {
    /// At the start.
    pub fn new(board: Board, app: App) -> Self {
        let shot = board.latest();
        board.ask(&app.request());
        Self {
            app,
            board,
            shot,
            held: None,
            noticed: 0,
        }
    }

    /// The picture that is shown.
    pub fn shot(&self) -> &Snapshot {
        &self.shot
    }

    /// Draws one picture on any backend.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn frame<B: Backend>(&mut self, terminal: &mut Terminal<B>) -> Result<(), B::Error> {
        let mut drawn = None;
        terminal.draw(|frame| {
            let area = frame.area();
            drawn = Some(draw::draw(frame.buffer_mut(), area, &self.app, &self.shot));
            if let Some(place) = draw::cursor(area, &self.app) {
                frame.set_cursor_position(place);
            }
        })?;
        if let Some(drawn) = drawn {
            self.app.drawn(drawn);
        }
        Ok(())
    }

    /// Waits for something that changes the picture, and takes it in with all else that has come by then.
    pub fn wait(&mut self, messages: &Receiver<Message>) -> After {
        match messages.recv_timeout(IDLE) {
            Ok(message) => {
                let mut after = self.take(message);
                // What is typed faster than it can be drawn is drawn once.
                while after == After::Go
                    && let Ok(message) = messages.try_recv()
                {
                    after = self.take(message);
                }
                after
            }
            Err(RecvTimeoutError::Timeout) => After::Go,
            Err(RecvTimeoutError::Disconnected) => After::Quit,
        }
    }

    /// Takes one message in.
    pub fn take(&mut self, message: Message) -> After {
        let effects = match message {
            Message::Picture => {
                if self.held.is_none() {
                    self.shot = self.board.latest();
                    self.notice();
                    if let Some(replay) = &self.shot.head.replay {
                        self.app.paused = !replay.playing;
                    }
                } else {
                    self.notice();
                }
                return After::Go;
            }
            Message::World(world) => {
                self.hold(world);
                return After::Go;
            }
            Message::InputEnded => return After::Quit,
            Message::Input(Event::Key(key)) => self.app.key(key, &self.shot),
            Message::Input(Event::Mouse(mouse)) => self.app.mouse(mouse, &self.shot),
            Message::Input(_) => return After::Go,
        };
        let mut after = After::Go;
        for effect in effects {
            match self.carry_out(effect) {
                After::Go => {}
                other => after = other,
            }
        }
        self.ask();
        after
    }

    /// Asks for the pictures that the state of the screen wants.
    fn ask(&mut self) {
        let request = self.app.request();
        if let Some(world) = &mut self.held {
            if self.shot.request != request {
                world.ask(&request);
                let now_ns = self.shot.head.now_ns;
                let mut shot = world.picture(&request, now_ns);
                shot.head.cost = self.shot.head.cost;
                shot.head.recording.clone_from(&self.shot.head.recording);
                self.shot = Arc::new(shot);
            }
        } else {
            self.board.ask(&request);
        }
    }

    fn hold(&mut self, world: Box<World>) {
        if self.app.replay {
            return;
        }
        let fired = world
            .fired()
            .map(|fired| format!("the trigger {} held the screen: {}", fired.trigger, fired.what));
        if let Some(text) = fired {
            self.app.paused = true;
            self.app.tell(text, false);
        }
        if !self.app.paused {
            // It was asked for and has been given up since.
            return;
        }
        let request = self.app.request();
        let mut world = world;
        world.ask(&request);
        let mut shot = world.picture(&request, self.shot.head.now_ns.min(world.now_ns()));
        shot.head.cost = self.shot.head.cost;
        shot.head.recording.clone_from(&self.shot.head.recording);
        self.shot = Arc::new(shot);
        self.held = Some(world);
    }

    fn notice(&mut self) {
        let latest = self.board.latest();
        if let Some((number, text)) = &latest.head.notice
            && *number > self.noticed
        {
            self.noticed = *number;
            self.app.tell(text.clone(), false);
        }
    }

    fn carry_out(&mut self, effect: Effect) -> After {
        match effect {
            Effect::Quit => return After::Quit,
            Effect::Suspend => return After::Suspend,
            Effect::Redraw => return After::Redraw,
            Effect::Hold(true) => self.board.wish(Wish::Hold),
            Effect::Hold(false) => {
                self.held = None;
                self.shot = self.board.latest();
            }
            Effect::Export(file) => self.export(file),
            Effect::Record(file) => self.board.wish(Wish::Record(file)),
            Effect::StopRecording => self.board.wish(Wish::StopRecording),
            Effect::Trigger(filter) => self.board.wish(Wish::Trigger(filter)),
            Effect::Names(pid) => self.read_names(pid),
            Effect::Replay(control) => self.board.wish(Wish::Replay(control)),
            Effect::Frames(frames) => self.board.wish(Wish::Frames(frames)),
        }
        After::Go
    }

    fn export(&mut self, file: Option<String>) {
        let (text, ending) = draw::export(&self.app, &self.shot);
        let view = self.app.view.name().to_lowercase();
        let name = file.unwrap_or_else(|| format!("tracer-{view}-{}.{ending}", stamp()));
        match write_new(&name, &text) {
            Ok(()) => self.app.tell(format!("written to {name}"), false),
            Err(error) => self.app.tell(format!("cannot write {name}: {error}"), true),
        }
    }

    /// Reading them takes the process's own locks for reading, as `cat /proc/PID/maps` does: only on demand.
    fn read_names(&mut self, pid: u32) {
        match std::fs::read_to_string(format!("/proc/{pid}/maps")) {
            Ok(maps) => {
                let count = self.app.names.read(pid, &maps);
                self.app
                    .tell(format!("{count} mappings of {pid}, as they are now"), false);
            }
            Err(error) => self
                .app
                .tell(format!("cannot read /proc/{pid}/maps: {error}"), true),
        }
    }
}

/// The time of day for names of files: seconds since 1970.
pub fn stamp() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// A new file; nothing is overwritten.
fn write_new(name: &str, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    crate::disk::create_new(std::path::Path::new(name))?.write_all(text.as_bytes())
}

/// Reads the terminal in a thread of its own, since crossterm does not come back from a terminal that was closed. The
/// thread ends with the program.
fn read_input(send: Sender<Message>) {
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if send.send(Message::Input(event)).is_err() {
                return;
            }
        }
        let _ = send.send(Message::InputEnded);
    });
}

/// How long a picture takes to draw, for benchmarks: draws it on any backend.
///
/// # Errors
/// Those of the backend.
pub fn draw_once<B: Backend>(stage: &mut Stage, terminal: &mut Terminal<B>) -> Result<Duration, B::Error> {
    let start = Instant::now();
    stage.frame(terminal)?;
    Ok(start.elapsed())
}
