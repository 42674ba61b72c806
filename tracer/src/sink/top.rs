//! `tracer top`: who holds and who waits, live.
//!
//! Input becomes an [`keys::Action`], which changes the [`app::App`]; [`draw::draw`] renders that and a
//! [`Snapshot`], and nothing else. The event path leaves snapshots on a [`Board`] and never waits for the screen.

pub mod app;
pub mod draw;
pub mod keys;
mod snapshot;
mod terminal;
#[cfg(test)]
mod tests;

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::bail;
use crossterm::event::{self, Event};
use ratatui::Terminal;
use ratatui::backend::{Backend, CrosstermBackend};

use app::{After, App};
use draw::Theme;
pub use snapshot::{Board, Camera, Snapshot, SnapshotSource, TaskRow};
use terminal::Screen;

/// Time between two pictures.
pub const FRAME: Duration = Duration::from_millis(100);

/// Whether there is a terminal to draw on; to be asked before anything is attached.
///
/// # Errors
/// If not, with what to do instead.
pub fn require_terminal() -> anyhow::Result<()> {
    use std::io::IsTerminal as _;
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        return Ok(());
    }
    bail!(
        "there is no terminal to show the live table on; use `tracer record -o FILE` to record, or `tracer stats` for tables"
    )
}

/// Shows snapshots until the user quits, or until `quit` is set.
///
/// # Errors
/// If there is no terminal, or it cannot be set up. One that goes away is a quiet end.
pub fn run(snapshots: &impl SnapshotSource, quit: &AtomicBool) -> anyhow::Result<()> {
    require_terminal()?;
    let mut screen = Screen::enter()?;
    // Never dropped: it would show the cursor, which Screen does, and panic if the terminal is gone.
    let mut terminal = ManuallyDrop::new(Terminal::new(CrosstermBackend::new(std::io::stdout()))?);
    let keys = read_input();
    let theme = Theme::from_env();
    let mut app = App::default();
    let mut held: Option<Arc<Snapshot>> = None;
    loop {
        let start = Instant::now();
        if quit.load(Ordering::Relaxed) || terminal::panicked() || terminal::is_gone() {
            return Ok(());
        }
        if !app.paused {
            held = None;
        }
        let snapshot = held.get_or_insert_with(|| snapshots.latest());
        if frame(&mut terminal, &mut app, snapshot, theme).is_err() {
            return Ok(());
        }
        match input(&mut app, &keys, start + FRAME) {
            After::Go => {}
            After::Suspend => {
                screen.suspend()?;
                terminal.clear()?;
            }
            After::Quit => return Ok(()),
        }
    }
}

/// Draws one picture on any backend.
///
/// # Errors
/// Those of the backend.
pub fn frame<B: Backend>(
    terminal: &mut Terminal<B>,
    app: &mut App,
    snapshot: &Snapshot,
    theme: Theme,
) -> Result<(), B::Error> {
    terminal.draw(|frame| draw::draw(frame, app, snapshot, theme))?;
    Ok(())
}

/// Takes in what is typed, up to the next frame; returns at once when something changed.
fn input(app: &mut App, keys: &Receiver<Event>, until: Instant) -> After {
    loop {
        match keys.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Event::Key(key)) => {
                if let Some(action) = keys::action_of(key, app.typing) {
                    return app.update(action);
                }
            }
            Ok(Event::Resize(..)) | Err(RecvTimeoutError::Timeout) => return After::Go,
            Ok(_) => {}
            Err(RecvTimeoutError::Disconnected) => return After::Quit,
        }
    }
}

/// Reads the terminal in a thread of its own, since crossterm does not come back from a terminal that
/// was closed. The thread ends with the program.
fn read_input() -> Receiver<Event> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if send.send(event).is_err() {
                break;
            }
        }
    });
    receive
}
