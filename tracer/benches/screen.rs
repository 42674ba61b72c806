//! What the screen costs, at 200,000 events a second and 10,000 tasks, and how fast recordings are gone back in:
//! `cargo bench -p tracer --bench screen`.
//!
//! The program's own threads do what they do live: one takes events that come by the clock, through a buffer of the usual
//! size, and makes pictures; one draws on a terminal in memory, while somebody types. Each line is a name, a number and
//! its unit.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crossterm::event::{Event as Input, KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use tracer::clock::monotonic_ns;
use tracer::info::{Losses, SiteInfo, SourceInfo};
use tracer::order::Order;
use tracer::pipeline::{self, Consumer, Stop};
use tracer::source::{Poll, Source};
use tracer::tui::FRAME;
use tracer::tui::app::{App, Control};
use tracer::tui::config::Config;
use tracer::tui::feed::{Board, Message, pair};
use tracer::tui::live::Watcher;
use tracer::tui::replay::Deck;
use tracer::tui::replay::index::{Index, read_ahead};
use tracer::tui::replay::player::Player;
use tracer::tui::screen::{After, Stage};
use tracer_common::wire::{Event, Kind, flag};

const TASKS: u32 = 10_000;
const RATE: u64 = 200_000;
/// The buffer between kernel and program, as by default, in events.
const BUFFER: u64 = (8 << 20) / 104;
/// Events of the recording.
const RECORDED: u64 = 10_000_000;

fn main() {
    // `cargo test --benches` only asks whether it runs.
    let short = std::env::args().any(|argument| argument == "--test");
    let seconds = |long| Duration::from_secs(if short { 1 } else { long });
    busy(seconds(40), FRAME, "");
    busy(seconds(10), Duration::from_secs(1) / 60, "-at-60");
    going_back(if short { 100_000 } else { RECORDED });
    match start() {
        Ok(time) => println!("start {:.2} s", time.as_secs_f64()),
        Err(error) => println!("start is not measured: {error}"),
    }
}

fn info() -> SourceInfo {
    SourceInfo {
        source: "live".into(),
        sites: vec![SiteInfo {
            operation: "mmap_acquire".into(),
            provenance: "observed".into(),
            attached: true,
            ..SiteInfo::default()
        }],
        start_monotonic_ns: monotonic_ns(),
        ..SourceInfo::default()
    }
}

/// The event of that number: all tasks by turns fault, and one in ten waits for the `mmap_lock`.
fn event(number: u64, start_ns: u64) -> Event {
    let turn = number / 3;
    let task = (turn.wrapping_mul(0x9e37_79b9) >> 8) as u32 % TASKS;
    let slow = turn.is_multiple_of(10);
    let kind = match (slow, number % 3) {
        (false, 0) => Kind::VmaReadAcquire,
        (false, 1) => Kind::FaultBegin,
        (false, _) => Kind::FaultEnd,
        (true, 0) => Kind::MmapStart,
        (true, 1) => Kind::MmapAcquire,
        (true, _) => Kind::MmapRelease,
    };
    let mut event = Event::synthetic(kind, start_ns + number * (1_000_000_000 / RATE));
    event.header.seq = number as u32;
    event.header.tid = 1_000 + task;
    event.header.pid = 1_000 + task / 16 * 16;
    event.header.comm[..6].copy_from_slice(b"worker");
    event.header.flags = flag::MM;
    event.body.mm = 0xffff_8881_0000_0000 + u64::from(task / 16) * 0x1000;
    if !slow {
        event.header.flags |= flag::VMA | flag::RANGE;
        event.body.vma = 0xffff_8882_0000_0000 + u64::from(task) * 0x100;
        event.body.vm_start = 0x7f00_0000_0000 + u64::from(task) * 0x10_0000;
        event.body.vm_end = event.body.vm_start + 0x10_0000;
        event.body.arg = 0x1040_0000;
    }
    event
}

/// A kernel in which so much happens by the clock.
struct Storm {
    info: SourceInfo,
    start: Instant,
    given: u64,
    lost: u64,
    /// Most events that were ever waiting to be taken.
    behind: u64,
    stopped: bool,
}

impl Storm {
    fn new() -> Self {
        Self {
            info: info(),
            start: Instant::now(),
            given: 0,
            lost: 0,
            behind: 0,
            stopped: false,
        }
    }

    fn due(&self) -> u64 {
        let due = self.start.elapsed().as_nanos() * u128::from(RATE) / 1_000_000_000;
        u64::try_from(due).unwrap_or(u64::MAX)
    }
}

impl Source for Storm {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn poll(&mut self, _: Duration, sink: &mut dyn FnMut(&Event)) -> anyhow::Result<Poll> {
        if self.stopped {
            return Ok(Poll::End);
        }
        // The kernel wakes the reader when there is something, and not for each event.
        thread::sleep(Duration::from_millis(1));
        let due = self.due();
        let waiting = due - self.given;
        self.behind = self.behind.max(waiting);
        let taken = waiting.min(BUFFER);
        for number in self.given..self.given + taken {
            sink(&event(number, self.info.start_monotonic_ns));
        }
        // What found no room is gone, with its numbers.
        self.lost += waiting - taken;
        self.given = due;
        Ok(Poll::More {
            watermark_ns: self.info.start_monotonic_ns + due * (1_000_000_000 / RATE) - 1,
        })
    }

    fn stop(&mut self) {
        self.stopped = true;
    }

    fn losses(&mut self) -> anyhow::Result<Losses> {
        Ok(Losses::default())
    }
}

/// The watcher, with how long each of its pictures took.
struct Timed {
    watcher: Watcher,
    pictures: Vec<Duration>,
    missing: u64,
}

impl Consumer for Timed {
    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        self.watcher.event(event)
    }

    fn round(&mut self, order: &Order) -> anyhow::Result<()> {
        let before = self.watcher.pictures();
        self.watcher.round(order)?;
        if self.watcher.pictures() != before {
            self.pictures.push(self.watcher.took());
        }
        self.missing = order.stats().missing();
        Ok(())
    }

    fn losses(&mut self, losses: &Losses) -> anyhow::Result<()> {
        self.watcher.losses(losses)
    }
}

fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    let at = (times.len() * percent).div_ceil(100).clamp(1, times.len().max(1)) - 1;
    times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

/// CPU time of the calling thread.
fn thread_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for writing, and the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(
        time.tv_sec.cast_unsigned(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// What the thread of the screen found out.
struct Seen {
    frames: Vec<Duration>,
    inputs: Vec<Duration>,
    cpu: Duration,
}

/// As [`tracer::tui::screen::run`], without a terminal.
fn show(
    board: Board,
    messages: &mpsc::Receiver<Message>,
    typed: &Mutex<Option<Instant>>,
    over: &AtomicBool,
) -> Seen {
    let mut stage = Stage::new(board, App::new(Config::default(), false));
    let mut terminal = Terminal::new(TestBackend::new(200, 60)).expect("memory for a screen");
    let (mut frames, mut inputs) = (Vec::new(), Vec::new());
    let cpu = thread_cpu();
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        stage.frame(&mut terminal).expect("a screen in memory");
        frames.push(start.elapsed());
        // It is on the screen once the picture is one of what the key asks for.
        let answered = stage.shot().request == stage.app.request();
        let mut typed = typed.lock().expect("nobody panicked");
        if answered && let Some(since) = typed.take() {
            inputs.push(since.elapsed());
        }
        drop(typed);
        if stage.wait(messages) == After::Quit {
            break;
        }
    }
    Seen {
        frames,
        inputs,
        cpu: thread_cpu() - cpu,
    }
}

/// Through all views, in and out, with filters, and with the screen held and going on.
const KEYS: &str = "1jj2jsS/comm=w* && run=unknown\n\u{1b}\u{1b}2jl\u{1b}3jl\u{1b}4j5j6jjl\u{1b}7 8jl\u{1b}2pj6j3 p?\u{1b}a2a";

/// Some time of a busy machine, all told with this ending of names.
fn busy(time: Duration, frame: Duration, ending: &str) {
    let (board, desk) = pair();
    let (send, messages) = mpsc::channel();
    board.tell(send.clone());
    let typed = Arc::new(Mutex::new(None));
    let over = Arc::new(AtomicBool::new(false));
    let screen = thread::spawn({
        let (typed, over) = (Arc::clone(&typed), Arc::clone(&over));
        move || show(board, &messages, &typed, &over)
    });
    let typist = thread::spawn({
        let (typed, over) = (Arc::clone(&typed), Arc::clone(&over));
        move || {
            thread::sleep(Duration::from_millis(700));
            for char in KEYS.chars().cycle() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let code = match char {
                    '\n' => KeyCode::Enter,
                    '\u{1b}' => KeyCode::Esc,
                    char => KeyCode::Char(char),
                };
                typed
                    .lock()
                    .expect("nobody panicked")
                    .get_or_insert_with(Instant::now);
                let key = KeyEvent::new(code, KeyModifiers::NONE);
                if send.send(Message::Input(Input::Key(key))).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(211));
            }
        }
    });
    let mut storm = Storm::new();
    let mut timed = Timed {
        watcher: Watcher::new(Arc::new(storm.info.clone()), desk, frame),
        pictures: Vec::new(),
        missing: 0,
    };
    let mut stop = Stop::new(Some(time)).expect("signals can be caught");
    let cpu = thread_cpu();
    pipeline::run(&mut storm, &mut stop, &mut timed).expect("nothing is written");
    let path = thread_cpu() - cpu;
    over.store(true, Ordering::Relaxed);
    let mut seen = screen.join().expect("the screen does not fail");
    typist.join().expect("the typist does not fail");
    let wall = storm.start.elapsed().as_secs_f64();
    let pictures: Duration = timed.pictures.iter().sum();
    let share = |cpu: Duration| cpu.as_secs_f64() / wall * 100.0;
    println!("events{ending} {:.0} a-second", storm.given as f64 / wall);
    println!("frames{ending} {:.1} a-second", seen.frames.len() as f64 / wall);
    println!(
        "picture-p99{ending} {:.2} ms",
        percentile(&mut timed.pictures, 99)
    );
    println!("draw-p99{ending} {:.2} ms", percentile(&mut seen.frames, 99));
    // At worst both, one after the other.
    let frame = percentile(&mut timed.pictures, 99) + percentile(&mut seen.frames, 99);
    println!("frame-p99{ending} {frame:.2} ms");
    println!("cpu{ending} {:.2} %", share(seen.cpu + pictures));
    println!("event-path{ending} {:.2} %", share(path.saturating_sub(pictures)));
    println!("input-p99{ending} {:.2} ms", percentile(&mut seen.inputs, 99));
    println!("input-worst{ending} {:.2} ms", percentile(&mut seen.inputs, 100));
    println!(
        "behind{ending} {:.1} %-of-the-buffer",
        storm.behind as f64 / BUFFER as f64 * 100.0
    );
    println!("lost{ending} {} events", storm.lost + timed.missing);
}

/// Goes to places all over a recording, backwards.
fn going_back(events: u64) {
    let path = std::env::temp_dir().join(format!("tracer-bench-screen-{}.rec", std::process::id()));
    let mut writer = tracer::recording::create(&path, &info()).expect("a file in the temporary folder");
    for number in 0..events {
        writer
            .push(&event(number, 1_000_000))
            .expect("space for the benchmark");
    }
    writer
        .finish(&Losses::default(), "bench")
        .expect("space for the benchmark");
    let index = Arc::new(Index::default());
    let start = Instant::now();
    read_ahead(
        Player::open(&path).expect("it was just written"),
        &index,
        &AtomicBool::new(false),
    );
    println!(
        "read-ahead {:.2} million events/s",
        events as f64 / start.elapsed().as_secs_f64() / 1e6
    );
    let (_board, desk) = pair();
    let player = Player::open(&path).expect("it was just written");
    let mut deck = Deck::new(player, Arc::clone(&index), desk, Duration::from_millis(100));
    let mut times = Vec::new();
    for step in (0..40u64).rev() {
        // Not where copies are.
        let place = (events / 40 * step + step * 7_919).min(events);
        let start = Instant::now();
        deck.control(Control::Event(place));
        while {
            deck.round().expect("it was just written");
            !deck.has_arrived()
        } {}
        times.push(start.elapsed());
    }
    let _ = std::fs::remove_file(&path);
    println!("copies-apart {} events", index.spacing());
    println!("back-p50 {:.2} ms", percentile(&mut times, 50));
    println!("back-worst {:.2} ms", percentile(&mut times, 100));
}

/// From the start of `tracer` without any option, on a terminal, to a screen of the running kernel.
fn start() -> anyhow::Result<Duration> {
    let (mut master, mut slave) = (0, 0);
    let size = libc::winsize {
        ws_row: 40,
        ws_col: 120,
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
    anyhow::ensure!(opened == 0, "there is no pseudo terminal");
    // SAFETY: a child that kept the master would keep its own terminal alive.
    unsafe { libc::fcntl(master, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: openpty gave both, and nobody else owns them.
    let (mut master, slave) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
    let mut command = Command::new(env!("CARGO_BIN_EXE_tracer"));
    command
        .env("TERM", "xterm-256color")
        .stdin(Stdio::from(slave.try_clone()?))
        .stdout(Stdio::from(slave.try_clone()?))
        .stderr(Stdio::from(slave));
    // SAFETY: setsid and ioctl are safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
    let start = Instant::now();
    let mut child = command.spawn()?;
    drop(command);
    let mut seen = String::new();
    let mut bytes = [0; 4096];
    while !seen.contains("LIVE") {
        match master.read(&mut bytes) {
            Ok(len) if len > 0 => seen.push_str(&String::from_utf8_lossy(&bytes[..len])),
            _ => {
                child.wait()?;
                anyhow::bail!("{}", seen.trim().replace(['\r', '\n'], " "));
            }
        }
    }
    let time = start.elapsed();
    master.write_all(b"q")?;
    while master.read(&mut bytes).is_ok_and(|len| len > 0) {}
    child.wait()?;
    Ok(time)
}
