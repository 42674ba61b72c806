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

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    let mut terminal = Terminal::new(CrosstermBackend::new(std::io::stdout()))?;
    let theme = Theme::from_env();
    let mut app = App::default();
    let mut held: Option<Arc<Snapshot>> = None;
    loop {
        let start = Instant::now();
        if quit.load(Ordering::Relaxed) || terminal::panicked() {
            return Ok(());
        }
        if !app.paused {
            held = None;
        }
        let snapshot = held.get_or_insert_with(|| snapshots.latest());
        if frame(&mut terminal, &mut app, snapshot, theme).is_err() {
            return Ok(());
        }
        match input(&mut app, start + FRAME) {
            Ok(After::Go) => {}
            Ok(After::Suspend) => {
                screen.suspend()?;
                terminal.clear()?;
            }
            // No more input means no more terminal.
            Ok(After::Quit) | Err(_) => return Ok(()),
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
fn input(app: &mut App, until: Instant) -> std::io::Result<After> {
    loop {
        if !event::poll(until.saturating_duration_since(Instant::now()))? {
            return Ok(After::Go);
        }
        match event::read()? {
            Event::Key(key) => {
                if let Some(action) = keys::action_of(key, app.typing) {
                    return Ok(app.update(action));
                }
            }
            Event::Resize(..) => return Ok(After::Go),
            _ => {}
        }
    }
}
