//! Texts that somebody chose to do harm, as names of commands, hosts, symbols and files, through everything that shows
//! them: no terminal, spreadsheet, browser or reader of metrics may take them for anything but text.

#[path = "outputs/mod.rs"]
mod outputs;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::process::Command;

use outputs::Said;
use serde_json::Value;
use tracer::info::{Flight, Losses, SiteInfo, SourceInfo, UnseenInfo};
use tracer::order::Order;
use tracer::outside::is_harmful;
use tracer::sink::metrics::{Metrics, otlp};
use tracer::stacks::{Frame, Stack, Stacks};
use tracer::state::Engine;
use tracer_common::wire::{Event, Kind};

const CORPUS: &str = include_str!("fixtures/hostile/corpus.txt");

/// The corpus, and what is too long.
fn corpus() -> Vec<Vec<u8>> {
    let lines = CORPUS
        .lines()
        .filter(|line| !line.starts_with("# ") || *line == "# HELP x y");
    let mut all: Vec<_> = lines.map(unescape).collect();
    assert!(all.len() > 60);
    all.push("long ".repeat(5_000).into_bytes());
    all.push(vec![0x1b; 5_000]);
    all.push(Vec::new());
    all
}

fn unescape(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'x') => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                bytes.push(u8::from_str_radix(core::str::from_utf8(&digits).unwrap(), 16).unwrap());
            }
            Some(b'n') => bytes.push(b'\n'),
            Some(b'r') => bytes.push(b'\r'),
            Some(b't') => bytes.push(b'\t'),
            Some(b'\\') => bytes.push(b'\\'),
            other => panic!("{line}: {other:?}"),
        }
    }
    bytes
}

/// Where a recording has text that is no bytes, as JSON does.
fn texts() -> Vec<String> {
    let all = corpus().into_iter();
    all.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect()
}

/// The pieces of the corpus that fit into the name of a command, in turn: no zero bytes, up to 15.
fn names() -> Vec<[u8; 16]> {
    let all = corpus().into_iter();
    let name = |bytes: Vec<u8>| {
        let mut name = [0; 16];
        let length = bytes.len().min(15);
        name[..length].copy_from_slice(&bytes[..length]);
        name
    };
    all.map(name).collect()
}

fn info(text: &str) -> SourceInfo {
    let own = || text.to_owned();
    let mut info = SourceInfo {
        tracer_version: own(),
        source: own(),
        host: own(),
        command: vec!["tracer".into(), own(), own()],
        cpus: 4,
        start_monotonic_ns: 1_000_000,
        start_realtime_ns: 1_795_391_999_500_000_000,
        boot_id: own(),
        history: vec![own()],
        filters: vec![own()],
        without: vec![own()],
        flight: Some(Flight::default()),
        ..SourceInfo::default()
    };
    if let Some(flight) = &mut info.flight {
        flight.fired.trigger = own();
        flight.fired.comm = own();
        flight.fired.lock = own();
        flight.fired.what = own();
    }
    (info.kernel.release, info.kernel.version, info.kernel.machine) = (own(), own(), own());
    for _ in 0..4 {
        info.sites.push(SiteInfo {
            operation: own(),
            function: own(),
            place: own(),
            program: own(),
            mechanism: own(),
            provenance: "observed".into(),
            reason: own(),
            attached: true,
            ..SiteInfo::default()
        });
    }
    info.unseen.push(UnseenInfo {
        operation: own(),
        function: own(),
        reason: own(),
        remedy: own(),
    });
    info
}

fn stacks(text: &str) -> Stacks {
    let mut stacks = Stacks::default();
    for number in 0..5u32 {
        let frame = |at: u64| Frame {
            address: 0x1000 + at,
            name: if at == 1 { String::new() } else { text.to_owned() },
            module: if at == 0 { String::new() } else { text.to_owned() },
        };
        stacks.push(Stack {
            pid: (number % 2) * 1_000,
            frames: (0..3).map(frame).collect(),
        });
    }
    stacks
}

/// The whole corpus in one recording, and each text by itself in the places that have room for one.
fn mixed(folder: &tempfile::TempDir) -> PathBuf {
    let names = names();
    let mut next = 0;
    // Of a name each, so that tables have a row for each.
    let path = folder.path().join(OsStr::from_bytes(
        b"mixed \x1b]0;x\x07\n\xe2\x80\xaetracer: x\xff.rec",
    ));
    let all: String = texts()
        .iter()
        .filter(|text| text.len() < 100)
        .map(String::as_str)
        .collect();
    outputs::record(&path, &info(&all), &stacks(&all), |event: &mut Event| {
        if event.kind != Kind::Gap {
            event.header.comm = names[next % names.len()];
            next += 1;
        }
    });
    path
}

/// Nothing in it is taken for an order, and every line end is one of ours.
fn check(said: &Said) {
    let name = &said.name;
    let text = said.text();
    let harmful = text.chars().find(|&char| char != '\n' && is_harmful(char));
    assert_eq!(harmful, None, "{name}:\n{}", around(text, harmful));
    for line in text.lines() {
        assert!(!line.starts_with("tracer: error: made up"), "{name}: {line}");
        if name.ends_with('!') {
            assert!(
                line.starts_with("tracer: "),
                "{name}: a line that is not ours: {line}"
            );
        }
    }
}

fn around(text: &str, harmful: Option<char>) -> String {
    let at = harmful.and_then(|char| text.find(char)).unwrap_or_default();
    let chars: Vec<char> = text[..at].chars().rev().take(60).collect();
    chars
        .into_iter()
        .rev()
        .chain(text[at..].chars().take(60))
        .map(|char| char.escape_default().to_string())
        .collect()
}

/// Packed bytes are not text; what would be harmful there is looked for as it would be.
fn check_packed(said: &Said) {
    for bytes in corpus() {
        let text = String::from_utf8_lossy(&bytes);
        let is_harmless = !text.contains(is_harmful);
        // Three bytes may be there by chance.
        if is_harmless || bytes.len() < 6 {
            continue;
        }
        let found = memchr::memmem::find(&said.bytes, text.as_bytes());
        assert_eq!(found, None, "{}: {text:?}", said.name);
    }
    for part in ["\x1b[", "\x1b]", "\u{202e}exe", "\u{9b}31m", "\u{2066}a"] {
        assert_eq!(
            memchr::memmem::find(&said.bytes, part.as_bytes()),
            None,
            "{}: {part:?}",
            said.name
        );
    }
}

fn check_csv(said: &Said, columns: Option<usize>) {
    let text = said.text();
    let mut reader = csv::ReaderBuilder::new()
        .flexible(false)
        .from_reader(text.as_bytes());
    let named = reader.headers().unwrap().len();
    assert!(columns.is_none_or(|columns| columns == named), "{named}");
    let mut rows = 0;
    for record in reader.records() {
        let record = record.unwrap_or_else(|error| panic!("{}: {error}", said.name));
        rows += 1;
        for cell in &record {
            let begins = cell.trim_start().chars().next().unwrap_or(' ');
            assert!(!"=+-@|%＝＋－＠\t\r".contains(begins), "{}: {cell}", said.name);
        }
    }
    assert_eq!(text.lines().count(), rows + 1, "{}: a cell has lines", said.name);
}

fn check_jsonl(said: &Said) {
    let names: Vec<String> = names()
        .iter()
        .map(|name| {
            String::from_utf8_lossy(&name[..name.iter().position(|&byte| byte == 0).unwrap()]).into_owned()
        })
        .collect();
    let mut found = std::collections::BTreeSet::new();
    for line in said.text().lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(value.as_object().unwrap().len(), 42, "{line}");
        found.insert(value["comm"].as_str().unwrap().to_owned());
    }
    // Nothing of them is lost.
    for name in names {
        assert!(found.contains(&name), "{name:?}");
    }
}

fn check_markup(said: &Said, tags: &[&str]) {
    let text = said.text();
    for part in text.split('<').skip(1) {
        let name = part
            .trim_start_matches('/')
            .split([' ', '>', '\n', '/'])
            .next()
            .unwrap();
        assert!(
            tags.contains(&name),
            "{}: <{}",
            said.name,
            part.chars().take(60).collect::<String>()
        );
        // No attribute has come in from outside.
        let tag = part.split('>').next().unwrap();
        for no in ["onload", "onerror", "javascript:", "evil"] {
            let quoted = tag.split('"').step_by(2).collect::<String>();
            assert!(!quoted.contains(no), "{}: <{tag}>", said.name);
        }
    }
    for (entity, _) in text.match_indices('&').map(|(at, _)| (&text[at..], ())) {
        let known = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
        let is_known = known.iter().any(|known| entity.starts_with(known));
        assert!(
            is_known || said.name.contains("html"),
            "{}",
            entity.chars().take(20).collect::<String>()
        );
    }
}

/// Exactly the script and the style of the page may run, and nothing may be fetched.
fn check_policy(page: &str) {
    let policy = page
        .split("<meta http-equiv=\"Content-Security-Policy\" content=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap();
    let parts: Vec<&str> = policy.split("; ").collect();
    assert_eq!(parts.len(), 5, "{policy}");
    assert_eq!(parts[0], "default-src 'none'");
    assert_eq!(parts[3..], ["base-uri 'none'", "form-action 'none'"]);
    for (part, kind) in [(parts[1], "script-src"), (parts[2], "style-src")] {
        let hash = part.strip_prefix(kind).unwrap().trim();
        let hash = hash
            .strip_prefix("'sha256-")
            .and_then(|rest| rest.strip_suffix("='"));
        assert_eq!(hash.map(str::len), Some(43), "{part}");
    }
    // Before anything that others chose.
    assert!(page.find("Content-Security-Policy") < page.find("<title>"));
    for tag in ["script", "style"] {
        assert_eq!(page.matches(&format!("<{tag}")).count(), 1, "{tag}");
    }
    for no in [" onload=\"", " onclick", "style=\"", "src=\"", "href=\"http"] {
        assert!(!page.contains(no), "{no}");
    }
}

fn check_folded(said: &Said) {
    for line in said.text().lines() {
        let (frames, ns) = line.rsplit_once(' ').unwrap();
        assert!(ns.parse::<u64>().is_ok(), "{line}");
        assert!(!frames.contains(char::is_whitespace), "{line}");
        let frames: Vec<_> = frames.split(';').collect();
        let locks = ["mmap_read", "mmap_write", "vma_read", "vma_write"];
        assert!(locks.contains(frames.last().unwrap()), "{line}");
        // A command, no or one stack of each, the lock.
        assert!([2, 3, 5, 8].contains(&frames.len()), "{line}");
    }
}

fn check_metrics(said: &Said) {
    for line in said.text().lines() {
        if line.starts_with("# ") {
            let word = line.split(' ').nth(1).unwrap();
            assert!(["HELP", "TYPE", "UNIT", "EOF"].contains(&word), "{line}");
            continue;
        }
        assert!(line.starts_with("tracer_"), "{line}");
        let Some((_, rest)) = line.split_once('{') else {
            continue;
        };
        let mut is_quoted = false;
        let mut chars = rest.chars();
        let end = loop {
            match chars
                .next()
                .unwrap_or_else(|| panic!("a label does not end: {line}"))
            {
                '\\' => assert!(matches!(chars.next(), Some('\\' | '"' | 'n')), "{line}"),
                '"' => is_quoted = !is_quoted,
                '}' if !is_quoted => break chars.as_str(),
                _ => {}
            }
        };
        assert!(end.trim().parse::<f64>().is_ok(), "{line}");
    }
    assert!(said.text().contains("tracer_info{"));
}

/// What is looked at of an output, by what is asked for.
fn form(name: &str) -> &str {
    let format = name.split("-f ").nth(1).and_then(|rest| rest.split(' ').next());
    if name.ends_with('!') {
        "said"
    } else {
        format.unwrap_or_default()
    }
}

fn check_all(said: &Said) {
    let name = said.name.as_str();
    match form(name) {
        "parquet" | "perfetto" => {
            check_packed(said);
            return;
        }
        "csv" => check_csv(said, Some(42)),
        "jsonl" => check_jsonl(said),
        "folded" => check_folded(said),
        "flamegraph" => check_markup(said, &["svg", "title", "rect", "text", "g"]),
        "html" => {
            let page = said.text();
            check_policy(page);
            let (before, rest) = page.split_once("<script>").unwrap();
            let (_, after) = rest.split_once("</script>").unwrap();
            let bytes = format!("{before}{after}").into_bytes();
            let tags = "!DOCTYPE html head meta title style body header h1 h2 h3 dl dt dd p nav a section div button \
                        output span svg path rect figure figcaption details summary ol ul li label input table thead \
                        tbody tr th td";
            let tags: Vec<_> = tags.split_whitespace().collect();
            check_markup(
                &Said {
                    name: said.name.clone(),
                    bytes,
                },
                &tags,
            );
        }
        _ if name.starts_with("serve,") => check_metrics(said),
        _ if name.starts_with("screen") && name.ends_with("csv") => check_csv(said, None),
        _ if name.ends_with("--json") => {
            let found: Value = serde_json::from_str(said.text()).unwrap();
            assert!(found["schema"].is_string());
        }
        _ => {}
    }
    check(said);
}

#[test]
fn no_output_takes_them_for_anything_but_text() {
    let folder = outputs::folder();
    let path = mixed(&folder);
    let mut checked = std::collections::BTreeMap::new();
    let mut wrong = Vec::new();
    for said in outputs::all(&path, folder.path(), &["--command-lines"]) {
        *checked.entry(form(&said.name).to_owned()).or_insert(0) += 1;
        // All of them are told at once.
        if std::panic::catch_unwind(|| check_all(&said)).is_err() {
            wrong.push(said.name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for form in [
        "csv",
        "jsonl",
        "folded",
        "flamegraph",
        "html",
        "parquet",
        "perfetto",
        "said",
    ] {
        assert!(checked.contains_key(form), "{form} of {checked:?}");
    }
}

#[test]
fn each_text_alone_is_no_more_than_a_host() {
    for text in texts() {
        let info = info(&text);
        let engine = Engine::new(&info);
        let metrics = Metrics::new(&info, &engine, Some(&Order::new(0)), &Losses::default());
        for dialect in ["text/plain", "application/openmetrics-text"] {
            let dialect = tracer::sink::metrics::Dialect::accepted(dialect);
            let said = Said {
                name: "metrics".into(),
                bytes: tracer::sink::metrics::text(&metrics, dialect).into_bytes(),
            };
            check(&said);
            check_metrics(&said);
        }
        strings(&otlp(&metrics, 5), &mut |found| {
            assert!(!found.contains(is_harmful), "{found:?}");
        });
    }
}

fn strings(value: &Value, check: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => check(text),
        Value::Array(all) => all.iter().for_each(|one| strings(one, check)),
        Value::Object(all) => {
            for (name, value) in all {
                check(name);
                strings(value, check);
            }
        }
        _ => {}
    }
}

/// As the terminal of whoever called the program would get it.
fn complaint(arguments: &[OsString]) {
    let output = Command::new(env!("CARGO_BIN_EXE_tracer"))
        .args(arguments)
        .output()
        .unwrap();
    assert_ne!(output.status.code(), Some(0), "{arguments:?}");
    assert_ne!(output.status.code(), None, "{arguments:?}");
    for bytes in [output.stdout, output.stderr] {
        let said = Said {
            name: format!("{arguments:?}"),
            bytes,
        };
        let text = said.text();
        let harmful = text.chars().find(|&char| char != '\n' && is_harmful(char));
        assert_eq!(harmful, None, "{}:\n{}", said.name, around(text, harmful));
        assert!(!text.contains("panicked"), "{text}");
    }
}

#[test]
fn errors_about_them_are_no_orders() {
    let folder = outputs::folder();
    let good = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/recordings/v2.rec");
    // Those of which a file's name can be made, one of each sort, since each is a process or twenty.
    let evil: Vec<_> = corpus()
        .into_iter()
        .filter(|bytes| !bytes.is_empty() && bytes.len() < 200)
        .step_by(3)
        .collect();
    for bytes in evil {
        let text = OsString::from_vec(bytes.clone());
        let mut missing = folder.path().join("not-there").into_os_string();
        missing.push("/");
        missing.push(&text);
        let foreign = folder.path().join(OsStr::from_bytes(
            &bytes
                .iter()
                .map(|&byte| if byte == b'/' { b'_' } else { byte })
                .collect::<Vec<_>>(),
        ));
        std::fs::write(&foreign, "no recording").unwrap();
        let at = |line: &str| -> Vec<OsString> {
            let word = |word: &str| match word {
                "GOOD" => good.into(),
                "MISSING" => missing.clone(),
                "FOREIGN" => foreign.clone().into_os_string(),
                "TEXT" => text.clone(),
                word => word.into(),
            };
            line.split(' ').map(word).collect()
        };
        for line in [
            "info MISSING",
            "info FOREIGN",
            "verify FOREIGN",
            "stats FOREIGN",
            "check MISSING",
            "cut FOREIGN -o -",
            "merge FOREIGN MISSING -o -",
            "cut GOOD -o MISSING",
            "export GOOD -f csv -o MISSING",
            "export GOOD -f parquet -o FOREIGN",
            "export FOREIGN -f html -o -",
            "export GOOD -f csv -o - --kinds TEXT",
            "export GOOD -f csv -o - --since TEXT",
            "export GOOD -f TEXT -o -",
            "record -o MISSING --from GOOD --on wait>1ms",
            "record -o x --on TEXT --from GOOD",
            "serve --listen TEXT",
            "serve --otlp TEXT",
            "model run TEXT",
            "provoke TEXT",
            "judge GOOD --parts FOREIGN",
            "man MISSING",
            "replay MISSING",
            "--filter TEXT",
            "--config TEXT --TEXT",
            "sites --kallsyms MISSING --no-cache",
        ] {
            complaint(&at(line));
        }
        std::fs::remove_file(&foreign).unwrap();
    }
}
