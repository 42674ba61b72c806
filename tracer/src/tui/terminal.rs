//! The terminal: taken over, and given back in any case, a panic included.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};

use anyhow::Context as _;
use crossterm::cursor::{Hide, Show};
use crossterm::event::{DisableMouseCapture, EnableMouseCapture};
use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use signal_hook::consts::{SIGCONT, SIGTSTP};

/// Whether the terminal is ours at this moment.
static TAKEN: AtomicBool = AtomicBool::new(false);
static PANICKED: AtomicBool = AtomicBool::new(false);
static HOOK: Once = Once::new();

/// The terminal, for as long as this lives.
pub(super) struct Screen {
    /// Somebody asked the program to stop (`SIGTSTP`); `^Z` itself is a key here.
    stop: Arc<AtomicBool>,
    /// It was stopped and goes on (`SIGCONT`): the shell has used the terminal meanwhile.
    continued: Arc<AtomicBool>,
    /// Whether signals act as they do by themselves.
    by_default: Arc<AtomicBool>,
}

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
        let screen = Self {
            stop: Arc::default(),
            continued: Arc::default(),
            by_default: Arc::default(),
        };
        signal_hook::flag::register_conditional_default(SIGTSTP, Arc::clone(&screen.by_default))
            .and_then(|_| signal_hook::flag::register(SIGTSTP, Arc::clone(&screen.stop)))
            .and_then(|_| signal_hook::flag::register(SIGCONT, Arc::clone(&screen.continued)))
            .context("cannot catch signals")?;
        take()?;
        Ok(screen)
    }

    /// Stops the program as `^Z` does, and takes the terminal again when it goes on.
    pub(super) fn suspend(&mut self) -> anyhow::Result<()> {
        restore();
        stop();
        self.stop.store(false, Ordering::Relaxed);
        self.continued.store(false, Ordering::Relaxed);
        take()
    }

    /// Does what signals asked for; whether everything has to be drawn anew.
    pub(super) fn heed_signals(&mut self) -> anyhow::Result<bool> {
        if self.stop.load(Ordering::Relaxed) {
            self.suspend()?;
            return Ok(true);
        }
        if self.continued.swap(false, Ordering::Relaxed) {
            restore();
            take()?;
            return Ok(true);
        }
        Ok(false)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
        self.by_default.store(true, Ordering::Relaxed);
    }
}

/// Stops all threads, until somebody lets them go on. By the signal's own action, and not `SIGSTOP`: where there is no
/// shell that could let it go on, the kernel does not stop it.
fn stop() {
    // SAFETY: all-zero is a valid sigaction, the pointers are to live values, and raise has no preconditions.
    unsafe {
        let mut by_default: libc::sigaction = core::mem::zeroed();
        by_default.sa_sigaction = libc::SIG_DFL;
        let mut before: libc::sigaction = core::mem::zeroed();
        if libc::sigaction(SIGTSTP, &raw const by_default, &raw mut before) == 0 {
            libc::raise(SIGTSTP);
            libc::sigaction(SIGTSTP, &raw const before, core::ptr::null_mut());
        }
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
