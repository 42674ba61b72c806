//! The terminal: taken over, and given back in any case, a panic included.

use std::io::{self, Write as _};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use crossterm::cursor::{Hide, Show};
use crossterm::event::{DisableMouseCapture, EnableMouseCapture};
use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};

/// Whether the terminal is ours at this moment.
static TAKEN: AtomicBool = AtomicBool::new(false);
static PANICKED: AtomicBool = AtomicBool::new(false);
static HOOK: Once = Once::new();

/// The terminal, for as long as this lives.
pub(super) struct Screen(());

impl Screen {
    pub(super) fn enter() -> anyhow::Result<Self> {
        // A panic of any thread would print over the screen, and into a screen that then goes away.
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if TAKEN.load(Ordering::Relaxed) {
                    PANICKED.store(true, Ordering::Relaxed);
                    restore();
                }
                before(info);
            }));
        });
        take()?;
        Ok(Self(()))
    }

    /// Stops the program as `^Z` does, and takes the terminal again when it goes on.
    pub(super) fn suspend(&mut self) -> anyhow::Result<()> {
        restore();
        // SAFETY: raise has no preconditions; the signal stops the process until SIGCONT.
        unsafe { libc::raise(libc::SIGTSTP) };
        take()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether some thread panicked, so that nothing is to be drawn any more.
pub(super) fn panicked() -> bool {
    PANICKED.load(Ordering::Relaxed)
}

/// Whether the terminal was closed.
pub(super) fn is_gone() -> bool {
    let mut stdin = libc::pollfd {
        fd: libc::STDIN_FILENO,
        events: 0,
        revents: 0,
    };
    // SAFETY: the pointer is to one live pollfd.
    let count = unsafe { libc::poll(&raw mut stdin, 1, 0) };
    count > 0 && stdin.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
}

fn take() -> anyhow::Result<()> {
    enable_raw_mode().context("cannot set up the terminal")?;
    TAKEN.store(true, Ordering::Relaxed);
    execute!(io::stdout(), EnterAlternateScreen, EnableMouseCapture, Hide)
        .context("cannot write to the terminal")
}

/// Gives the terminal back, once. What fails here fails because the terminal is gone.
fn restore() {
    if TAKEN.swap(false, Ordering::Relaxed) {
        let _ = execute!(io::stdout(), Show, DisableMouseCapture, LeaveAlternateScreen);
        let _ = disable_raw_mode();
        let _ = io::stdout().flush();
    }
}
