//! The screen on a real (pseudo) terminal: taken over, and given back in every case.
//!
//! Each case runs this test program again as a child whose terminal is the pseudo terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tracer::tui::app::App;
use tracer::tui::config::Config;
use tracer::tui::feed::pair;
use tracer::tui::screen::run;

const CASE: &str = "TRACER_TEST_TOP";
const PATIENCE: Duration = Duration::from_secs(20);

/// The child; by itself there is nothing to do.
#[test]
fn child() {
    let Some(case) = std::env::var_os(CASE) else {
        return;
    };
    let quit = AtomicBool::new(false);
    if case == "panic" {
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            panic!("on purpose");
        });
    }
    if case == "hangup" {
        // SAFETY: ignoring a signal has no preconditions.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    }
    let (board, _desk) = pair();
    let result = run(&board, App::new(Config::default(), false), &quit);
    // Without destructors of the test harness, which would print more.
    std::process::exit(if result.is_ok() { 42 } else { 43 });
}

struct Terminal {
    master: File,
    child: Child,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Who waits for what does not come is not to wait for the child as well.
        let _ = self.child.kill();
    }
}

/// Between openpty and FD_CLOEXEC no other test may start a child.
static START: std::sync::Mutex<()> = std::sync::Mutex::new(());

impl Terminal {
    fn start(case: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child", "--nocapture"]).env(CASE, case);
        Self::run(command)
    }

    /// A shell with job control, to which commands can be typed.
    fn shell() -> Self {
        let mut command = Command::new("sh");
        command
            .arg("-i")
            .env("PS1", "ready> ")
            .env("CHILD", std::env::current_exe().unwrap())
            .env_remove("ENV");
        Self::run(command)
    }

    fn run(mut command: Command) -> Self {
        let _alone = START.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (mut master, mut slave) = (0, 0);
        let size = libc::winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: all pointers are to live values or null, as openpty(3) allows.
        let opened = unsafe {
            libc::openpty(
                &raw mut master,
                &raw mut slave,
                std::ptr::null_mut(),
                std::ptr::null(),
                &raw const size,
            )
        };
        assert_eq!(opened, 0, "no pseudo terminal");
        for fd in [master, slave] {
            // SAFETY: both are open. A child that kept the master would keep its own terminal alive.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
        // SAFETY: openpty gave both, and nobody else owns them.
        let (master, slave) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        // SAFETY: setsid and ioctl are safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        Self { master, child }
    }

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads what is new until the child has printed `text`.
    fn shows(&mut self, text: &str) {
        self.read_until(text, &mut String::new());
    }

    fn takes_the_screen(&mut self) {
        let mut seen = String::new();
        self.read_until(ENTER, &mut seen);
        self.read_until("tracer", &mut seen);
    }

    fn resize(&self, columns: u16, rows: u16) {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the pointer is to a live winsize.
        let done = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(done, 0);
    }

    /// Sends a signal to whoever has the terminal.
    fn signal(&self, number: i32) {
        // SAFETY: neither has preconditions.
        let done = unsafe { libc::kill(-libc::tcgetpgrp(self.master.as_raw_fd()), number) };
        assert_eq!(done, 0);
    }

    /// Reads until the child has printed `text`.
    fn read_until(&mut self, text: &str, seen: &mut String) {
        let start = Instant::now();
        let mut bytes = [0; 4096];
        while !seen.contains(text) {
            assert!(start.elapsed() < PATIENCE, "no {text:?} in {seen:?}");
            let mut poll = libc::pollfd {
                fd: self.master.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: the pointer is to one live pollfd.
            if unsafe { libc::poll(&raw mut poll, 1, 200) } == 0 {
                continue;
            }
            match self.master.read(&mut bytes) {
                Ok(len) if len > 0 => seen.push_str(&String::from_utf8_lossy(&bytes[..len])),
                _ => panic!("the terminal ended without {text:?}: {seen:?}"),
            }
        }
    }

    fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if start.elapsed() > PATIENCE {
                self.child.kill().unwrap();
                panic!("it did not end");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

#[test]
fn q_leaves_and_gives_the_terminal_back() {
    let mut terminal = Terminal::start("quit");
    let mut seen = String::new();
    terminal.read_until(ENTER, &mut seen);
    terminal.read_until("tracer", &mut seen);
    terminal.master.write_all(b"q").unwrap();
    terminal.read_until(LEAVE, &mut seen);
    assert_eq!(terminal.wait().code(), Some(42));
}

#[test]
fn a_screen_that_is_stopped_leaves_the_terminal_and_takes_it_again() {
    let mut terminal = Terminal::shell();
    terminal.shows("ready> ");
    terminal.press(&format!("{CASE}=quit \"$CHILD\" --exact child --nocapture\n"));
    terminal.takes_the_screen();
    // By its key, by the signal that the key is in other programs, and by the one that cannot be caught.
    for how in ["key", "SIGTSTP", "SIGSTOP"] {
        match how {
            "key" => terminal.press("\u{1a}"),
            "SIGTSTP" => terminal.signal(libc::SIGTSTP),
            _ => terminal.signal(libc::SIGSTOP),
        }
        let mut seen = String::new();
        terminal.read_until("ready> ", &mut seen);
        assert!(seen.contains("topped"), "{how}: {seen:?}");
        assert!(how == "SIGSTOP" || seen.contains(LEAVE), "{how}: {seen:?}");
        terminal.press("fg; echo left with $?\n");
        terminal.takes_the_screen();
    }
    // Everything is drawn anew.
    terminal.press("\u{c}");
    terminal.shows("tracer");
    terminal.press("q");
    let mut seen = String::new();
    terminal.read_until("left with 42", &mut seen);
    assert!(seen.contains(LEAVE), "{seen:?}");
    terminal.press("exit 0\n");
    terminal.wait();
}

#[test]
fn a_terminal_of_another_size_is_drawn_anew() {
    let mut terminal = Terminal::start("quit");
    terminal.shows("tracer");
    terminal.resize(120, 40);
    // The last line of the screen begins there.
    terminal.shows("\u{1b}[40;");
    terminal.resize(3, 1);
    terminal.resize(1, 1);
    terminal.resize(200, 60);
    terminal.shows("\u{1b}[60;");
    terminal.press("q");
    terminal.shows(LEAVE);
    assert_eq!(terminal.wait().code(), Some(42));
}

#[test]
fn a_panic_of_any_thread_is_readable() {
    let mut terminal = Terminal::start("panic");
    let mut seen = String::new();
    terminal.read_until("on purpose", &mut seen);
    let (left, told) = (seen.find(LEAVE), seen.find("on purpose"));
    assert!(left.is_some() && left < told, "{seen:?}");
    assert_eq!(terminal.wait().code(), Some(42));
}

#[test]
fn a_terminal_that_goes_away_is_a_quiet_end() {
    let mut terminal = Terminal::start("hangup");
    let mut seen = String::new();
    terminal.read_until("tracer", &mut seen);
    terminal.master = File::open("/dev/null").unwrap();
    let status = terminal.wait();
    assert_eq!((status.code(), status.signal()), (Some(42), None));
}

#[test]
fn without_a_terminal_it_says_what_to_do() {
    let _alone = START.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CASE, "quit")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(43));
    assert!(!String::from_utf8_lossy(&output.stdout).contains(ENTER));
}
