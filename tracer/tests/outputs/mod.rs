//! Everything that the program shows of a recording, in all forms, for tests of what may not be in it.

#[path = "../../examples/sample/scenes.rs"]
mod scenes;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use tracer::info::SourceInfo;
use tracer::recording::create;
use tracer::sink::address::Addresses;
use tracer::source::replay::Replay;
use tracer::source::{Poll, Source as _};
use tracer::stacks::Stacks;
use tracer::tui::app::App;
use tracer::tui::config::Config;
use tracer::tui::draw;
use tracer::tui::replay::player::Player;
use tracer::tui::snapshot::View;
use tracer_common::wire::Event;

/// What was shown.
pub(crate) struct Said {
    /// By what.
    pub(crate) name: String,
    /// What came out; of files that are packed, what is in them.
    pub(crate) bytes: Vec<u8>,
}

impl Said {
    fn new(name: &str, bytes: Vec<u8>) -> Self {
        let name = name.to_owned();
        Self { name, bytes }
    }

    /// It has to be text.
    pub(crate) fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

/// Writes a recording of the scenes that exports are tested with, of what `change` makes of their events.
pub(crate) fn record(path: &Path, info: &SourceInfo, stacks: &Stacks, mut change: impl FnMut(&mut Event)) {
    let plain = path.with_extension("plain");
    scenes::write(&plain, info).unwrap();
    let mut replay = Replay::open(&plain).unwrap();
    let mut writer = create(path, info).unwrap();
    writer.stacks(stacks).unwrap();
    let mut events = Vec::new();
    while replay
        .poll(Duration::ZERO, &mut |event| events.push(*event))
        .unwrap()
        != Poll::End
    {}
    for mut event in events {
        change(&mut event);
        writer.push(&event).unwrap();
    }
    let losses = replay.losses().unwrap();
    let reason = replay.summary().unwrap().reason.clone();
    writer.finish(&losses, &reason).unwrap();
    fs::remove_file(plain).unwrap();
}

/// Runs the program; gives its exit code and both outputs.
pub(crate) fn run(arguments: &[&std::ffi::OsStr]) -> (Option<i32>, Vec<u8>, Vec<u8>) {
    let output = Command::new(env!("CARGO_BIN_EXE_tracer"))
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("NO_COLOR")
        .output()
        .unwrap();
    (output.status.code(), output.stdout, output.stderr)
}

/// What commands say of a recording; `FILE` and `OUT` stand for paths.
const COMMANDS: [&str; 25] = [
    "export FILE -f jsonl -o OUT",
    "export FILE -f csv -o OUT",
    "export FILE -f perfetto -o OUT",
    "export FILE -f folded -o OUT",
    "export FILE -f folded --measure held -o OUT",
    "export FILE -f flamegraph -o OUT",
    "export FILE -f flamegraph --measure held -o OUT",
    "export FILE -f html -o OUT",
    "export FILE -f parquet -o OUT",
    "export FILE -f jsonl -o -",
    "stats FILE",
    "stats FILE --json",
    "stats FILE --section chains",
    "stats FILE --section waits",
    "stats FILE --section holds",
    "stats FILE --section faults",
    "stats FILE --section unseen",
    "check FILE",
    "check FILE --json",
    "info FILE",
    "info FILE --json",
    "verify FILE",
    "verify FILE --json",
    "merge FILE FILE -o OUT",
    "cut FILE -o OUT --to 1ms",
];

/// All that commands show of a recording, what they say meanwhile (` !`), and the screen. `more`: options of those that
/// take them.
pub(crate) fn all(file: &Path, folder: &Path, more: &[&str]) -> Vec<Said> {
    let mut all = Vec::new();
    for (at, command) in COMMANDS.iter().enumerate() {
        let out = folder.join(format!("out-{at}"));
        let mut words: Vec<_> = command
            .split(' ')
            .map(|word| match word {
                "FILE" => file.as_os_str(),
                "OUT" => out.as_os_str(),
                word => word.as_ref(),
            })
            .collect();
        words.insert(0, "-vvv".as_ref());
        for &option in more {
            let takes =
                command.starts_with("export") || command.starts_with("check") && option == "--raw-addresses";
            if takes {
                words.push(option.as_ref());
            }
        }
        let (code, stdout, stderr) = run(&words);
        // A lock in a state that it cannot be in is no failure of ours.
        assert!(
            code == Some(0) || code == Some(3) && command.starts_with("check"),
            "{command}: {}",
            String::from_utf8_lossy(&stderr)
        );
        let written = if out.is_dir() {
            tables(&out)
        } else {
            // What they write is a recording again: it keeps what was found.
            let is_recording = command.starts_with("merge") || command.starts_with("cut");
            fs::read(&out).map_or(stdout, |bytes| if is_recording { Vec::new() } else { bytes })
        };
        all.push(Said::new(command, written));
        all.push(Said::new(&format!("{command} !"), stderr));
    }
    all.push(flight(file, folder));
    all.extend(served(file));
    all.extend(screens(file, more.contains(&"--raw-addresses")));
    all
}

/// What is in all files of a folder: names, texts as they are, numbers in figures and in both orders of bytes.
fn tables(folder: &Path) -> Vec<u8> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        found.extend(path.file_name().unwrap().to_string_lossy().bytes());
        if path.is_dir() {
            found.extend(tables(&path));
            continue;
        }
        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        for pair in reader.metadata().file_metadata().key_value_metadata().unwrap() {
            found.extend(format!("{}={:?} ", pair.key, pair.value).bytes());
        }
        for row in reader.get_row_iter(None).unwrap() {
            for (_, field) in row.unwrap().get_column_iter() {
                match field {
                    Field::Str(text) => found.extend(text.bytes()),
                    Field::Long(number) => {
                        found.extend(format!(" {number} {} ", number.cast_unsigned()).bytes());
                        found.extend(number.to_le_bytes());
                        found.extend(number.to_be_bytes());
                    }
                    field => found.extend(format!(" {field} ").bytes()),
                }
            }
        }
    }
    found
}

/// What a flight recorder says when it fires.
fn flight(file: &Path, folder: &Path) -> Said {
    let out = folder.join("flight.rec");
    let words = ["-vvv", "record", "--on", "wait>100us", "--after", "1ms", "--from"].map(AsRef::as_ref);
    let words = [&words[..], &[file.as_os_str(), "-o".as_ref(), out.as_os_str()]].concat();
    let (code, _, stderr) = run(&words);
    let said = Said::new("record --from !", stderr);
    assert_eq!(code, Some(0), "{}", said.text());
    assert!(said.text().contains("fired"), "{}", said.text());
    said
}

/// What Prometheus gets, in both dialects, and what `serve` says.
fn served(file: &Path) -> Vec<Said> {
    let mut server = Command::new(env!("CARGO_BIN_EXE_tracer"))
        .args(["-vvv", "serve", "--listen", "127.0.0.1:0", "--file"])
        .arg(file)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(server.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("read to its end") {
        assert_ne!(errors.read_line(&mut said).unwrap(), 0, "{said}");
    }
    let address = said
        .split("http://")
        .nth(1)
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let fetch = |accept: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.as_bytes().to_vec()
    };
    let metrics = [
        Said::new("serve, Prometheus", fetch("text/plain")),
        Said::new("serve, OpenMetrics", fetch("application/openmetrics-text")),
    ];
    server.kill().unwrap();
    server.wait().unwrap();
    let said = Said::new("serve !", said.into_bytes());
    metrics.into_iter().chain([said]).collect()
}

/// Every view of the screen at two sizes, with what Enter leads to, and what is written from there.
fn screens(file: &Path, raw: bool) -> Vec<Said> {
    let mut player = Player::open(file).unwrap();
    if raw {
        player.show_addresses(Addresses::raw());
    }
    while player.next().unwrap().is_some() {}
    let mut all = Vec::new();
    for (width, height) in [(80, 24), (200, 60)] {
        for view in View::ALL {
            for (keys, is_replay) in [(0, true), (0, false), (1, false), (2, false), (3, false)] {
                let mut app = App::new(Config::default(), is_replay);
                app.show(view);
                let mut world = player.world().clone();
                let mut text = String::new();
                for press in 0..=keys {
                    let request = app.request();
                    world.ask(&request);
                    let shot = world.picture(&request, world.now_ns() + 1_000_000);
                    if press > 0 {
                        app.key(KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE), &shot);
                    }
                    let request = app.request();
                    world.ask(&request);
                    let shot = world.picture(&request, world.now_ns() + 1_000_000);
                    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
                    let mut drawn = None;
                    terminal
                        .draw(|frame| {
                            let area = frame.area();
                            drawn = Some(draw::draw(frame.buffer_mut(), area, &app, &shot));
                        })
                        .unwrap();
                    app.drawn(drawn.unwrap());
                    let buffer = terminal.backend().buffer();
                    text = buffer
                        .content
                        .chunks(usize::from(width))
                        .map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>() + "\n")
                        .collect();
                    if press == keys && width > 100 {
                        let (file, ending) = draw::export(&app, &shot);
                        all.push(Said::new(
                            &format!("screen {view:?} {keys} as {ending}"),
                            file.into_bytes(),
                        ));
                    }
                }
                all.push(Said::new(
                    &format!("screen {view:?} {keys} {width}"),
                    text.into_bytes(),
                ));
            }
        }
    }
    all
}

/// A folder of its own that goes away with the value.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}
