//! The guide must not go stale unnoticed: its commands are understood, and what it shows of their output has the headings
//! that the program prints.
//!
//! In a guide page, a block ```sh holds commands, and a block ```text what they printed.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{CommandFactory as _, Parser as _};
use tracer::cli::{Cli, Command};
use tracer::provoke::SCENARIOS;

struct Block {
    place: String,
    language: String,
    lines: Vec<String>,
}

fn pages() -> Vec<PathBuf> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut pages: Vec<_> = fs::read_dir(docs.join("guide"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .collect();
    assert!(pages.len() >= 3, "the guide has lost pages");
    pages.push(docs.join("flight-recorder.md"));
    pages
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let name = page.file_name().unwrap().to_string_lossy().into_owned();
        let mut open: Option<Block> = None;
        for (at, line) in text.lines().enumerate() {
            match (line.strip_prefix("```"), &mut open) {
                (Some(language), None) => {
                    open = Some(Block {
                        place: format!("{name}:{}", at + 1),
                        language: language.to_owned(),
                        lines: Vec::new(),
                    });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some(block)) => block.lines.push(line.to_owned()),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{name}: a block is not closed");
    }
    blocks
}

/// Splits a command line as a shell would, as far as the guide needs it: quotes, pipes, redirections, comments.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quote, mut any) = (None, false);
    for c in line.chars() {
        match (quote, c) {
            (None, '#') if !any => break,
            (None, '\'' | '"') => (quote, any) = (Some(c), true),
            (Some(open), _) if c == open => quote = None,
            (None, ' ') => {
                if any {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            _ => {
                word.push(c);
                any = true;
            }
        }
    }
    if any {
        words.push(word);
    }
    let end = words
        .iter()
        .position(|word| ["|", ">", "2>", "&"].contains(&word.as_str()));
    words.truncate(end.unwrap_or(words.len()));
    words
}

#[test]
fn the_commands_of_the_guide_are_understood() {
    let mut commands = 0;
    for block in blocks().iter().filter(|block| block.language == "sh") {
        for line in &block.lines {
            let mut words = words(line);
            if words.first().is_some_and(|word| word == "sudo") {
                words.remove(0);
            }
            if words.first().is_none_or(|word| word != "tracer") {
                continue;
            }
            commands += 1;
            let cli = Cli::try_parse_from(&words)
                .unwrap_or_else(|error| panic!("{}: {line}: {error}", block.place));
            // A command that is given to another one to run is one, too.
            if let Some(at) = words.iter().position(|word| word == "--")
                && words.get(at + 1).is_some_and(|word| word == "tracer")
            {
                let inner = Cli::try_parse_from(&words[at + 1..])
                    .unwrap_or_else(|error| panic!("{}: {line}: {error}", block.place));
                scenario_exists(&inner, line);
            }
            scenario_exists(&cli, line);
        }
    }
    assert!(commands >= 10, "only {commands} commands were found");
    Cli::command().debug_assert();
}

fn scenario_exists(cli: &Cli, line: &str) {
    if let Some(Command::Provoke(args)) = &cli.command {
        let known = SCENARIOS.iter().any(|scenario| scenario.name == args.scenario);
        assert!(
            known || ["all", "list"].contains(&args.scenario.as_str()),
            "{line}"
        );
    }
}

#[test]
fn the_headings_in_the_guide_are_printed_by_the_program() {
    let mut source = String::new();
    read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut source);
    let mut headings = 0;
    for block in blocks().iter().filter(|block| block.language == "text") {
        for line in &block.lines {
            // A heading begins a line with a word in capitals.
            let first = line.split(' ').next().unwrap_or_default();
            let letters = first.trim_end_matches([':', ',']);
            if letters.len() < 4 || !letters.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
                continue;
            }
            headings += 1;
            // In a string, at its beginning or after a line's end.
            let printed = ["\"", "\\n"].map(|before| format!("{before}{letters}"));
            assert!(
                printed.iter().any(|printed| source.contains(printed)),
                "{}: nothing prints the heading {letters}",
                block.place
            );
        }
    }
    assert!(headings >= 8, "only {headings} headings were found");
}

fn read_all(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn words_are_split_as_a_shell_does() {
    assert_eq!(
        words("tracer record --on 'wait>10ms' -- sh -c \"a b\" | head   # all"),
        ["tracer", "record", "--on", "wait>10ms", "--", "sh", "-c", "a b"]
    );
}
