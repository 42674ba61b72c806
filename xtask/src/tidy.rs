//! Rules about the source that no compiler holds. Each says why it is there.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::rustlex;
use crate::ws;

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    what: String,
}

/// One rule.
struct Rule {
    name: &'static str,
    reason: &'static str,
    /// Does it look at this path?
    looks_at: fn(&str) -> bool,
    /// What it finds, given the path and the text.
    check: fn(&str, &str) -> Vec<Finding>,
}

const RULES: &[Rule] = &[
    Rule {
        name: "file-length",
        reason: "a file that nobody can hold in mind wants to be two",
        looks_at: is_rust,
        check: length,
    },
    Rule {
        name: "unfinished",
        reason: "what is unfinished is an issue, and a test that does not run proves nothing",
        looks_at: |path| is_rust(path) || path.starts_with(".ci/"),
        check: |_, text| mentions(text, UNFINISHED),
    },
    Rule {
        name: "pure-engine",
        reason: "the engine, the checks and what they use take time from events and do no I/O, so that live, replayed and \
                 simulated events are judged by the same code with the same result (docs/architecture.md)",
        looks_at: is_pure,
        check: purity,
    },
    Rule {
        name: "one-hand",
        reason: "files are opened for writing in tracer/src/disk.rs alone, which makes them their owner's and follows no link",
        looks_at: |path| is_of_tracer(path) && !path.starts_with("tracer/src/disk"),
        check: |_, text| mentions(before_tests(text), OPENS),
    },
    Rule {
        name: "one-mouth",
        reason: "what is said on standard error goes through tracer/src/say.rs, so that no name of a file gives orders to a \
                 terminal",
        looks_at: |path| is_of_tracer(path) && path != "tracer/src/say.rs",
        check: |_, text| mentions(before_tests(text), SAYS),
    },
    Rule {
        name: "own-tree",
        reason: "a clone builds anywhere, from whatever registry or mirror its machine is set up with",
        looks_at: |path| path != "Cargo.lock",
        check: |_, text| mentions(text, FOREIGN),
    },
    Rule {
        name: "readme-docs",
        reason: "a README that points at nothing helps nobody",
        looks_at: |path| path == "README.md",
        check: |_, text| missing_docs(text, |doc| ws::root().join(doc).exists()),
    },
];

const MOST_LINES: usize = 800;

// Written in two parts, so that this file does not break its own rules.
const UNFINISHED: &[&str] = &[
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("#[ign", "ore"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];
const FOREIGN: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("../sha", "red"),
    concat!("deb.deb", "ian.org"),
    concat!("security.deb", "ian.org"),
    concat!("snapshot.deb", "ian.org"),
    concat!("static.cra", "tes.io"),
    concat!("index.cra", "tes.io"),
    concat!("registry.npm", "js.org"),
    concat!("pypi", ".org"),
    concat!("files.python", "hosted.org"),
];

const OPENS: &[&str] = &[
    "File::create",
    "OpenOptions",
    "fs::write(",
    "create_dir",
    "DirBuilder",
    "fs::rename(",
];
const SAYS: &[&str] = &["eprintln!", "eprint!"];

/// Paths that the pure modules may not name, wherever they stand.
const IMPURE: &[&str] = &[
    "aya",
    "aya_log",
    "crossterm",
    "libc",
    "ratatui",
    "rustix",
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio",
];

/// The modules of tracer that are pure, and that the pure ones may use.
const PURE: &[&str] = &[
    "contention",
    "state",
    "check",
    "order",
    "info",
    "stacks",
    "outside",
];

fn is_rust(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|e| e == "rs")
}

fn is_pure(path: &str) -> bool {
    PURE.iter().any(|module| {
        path.strip_prefix("tracer/src/")
            .and_then(|p| p.strip_prefix(*module))
            .is_some_and(|rest| rest == ".rs" || rest.starts_with('/') && is_rust(rest))
    })
}

/// The program itself, without files that hold tests only.
fn is_of_tracer(path: &str) -> bool {
    path.starts_with("tracer/src/")
        && is_rust(path)
        && !path.contains("/tests")
        && !path.ends_with("tests.rs")
}

/// Tests stand at the end of a file.
fn before_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

fn length(_: &str, text: &str) -> Vec<Finding> {
    let lines = text.lines().count();
    if lines <= MOST_LINES {
        return Vec::new();
    }
    vec![Finding {
        line: lines,
        what: format!("{lines} lines; at most {MOST_LINES}"),
    }]
}

fn mentions(text: &str, words: &[&str]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (n, line) in text.lines().enumerate() {
        for word in words {
            if line.contains(word) {
                found.push(Finding {
                    line: n + 1,
                    what: format!("mentions {word}"),
                });
            }
        }
    }
    found
}

fn purity(path: &str, text: &str) -> Vec<Finding> {
    let module = module_of(path);
    let mut found = Vec::new();
    for (line, named) in rustlex::paths(text) {
        let named = resolve(&module, &named);
        let parts: Vec<&str> = named.split("::").collect();
        let forbidden = IMPURE
            .iter()
            .any(|i| named == *i || named.starts_with(&format!("{i}::")));
        let foreign = parts[0] == "crate" && parts.get(1).is_some_and(|m| *m != "*" && !PURE.contains(m));
        // `use crate::*` would bring in everything, unseen.
        let all = named == "crate::*" || named == "std::*" || named == "std::time::*";
        if forbidden || foreign || all {
            found.push(Finding {
                line,
                what: format!("names {named}"),
            });
        }
    }
    found
}

/// `tracer/src/state/engine.rs` is `crate::state::engine`.
fn module_of(path: &str) -> Vec<String> {
    let inner = path
        .trim_start_matches("tracer/src/")
        .trim_end_matches(".rs")
        .trim_end_matches("/mod");
    std::iter::once("crate")
        .chain(inner.split('/'))
        .map(ToOwned::to_owned)
        .collect()
}

/// A path as seen from the crate's root.
fn resolve(module: &[String], path: &str) -> String {
    let mut at = module.to_vec();
    let mut rest = path;
    let mut relative = false;
    loop {
        if let Some(r) = rest.strip_prefix("super::") {
            at.pop();
            rest = r;
        } else if let Some(r) = rest.strip_prefix("self::") {
            rest = r;
        } else {
            break;
        }
        relative = true;
    }
    if relative {
        format!("{}::{rest}", at.join("::"))
    } else {
        rest.to_owned()
    }
}

/// Files under docs/ that a text names and that are not there.
fn missing_docs(text: &str, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut found = Vec::new();
    for (n, line) in text.lines().enumerate() {
        for (at, _) in line.match_indices("docs/") {
            let end = |c: char| !(c.is_ascii_alphanumeric() || "-_./".contains(c));
            let doc = line[at..]
                .split(end)
                .next()
                .unwrap_or_default()
                .trim_end_matches('.');
            if !exists(doc) {
                found.push(Finding {
                    line: n + 1,
                    what: format!("names {doc}, which is not there"),
                });
            }
        }
    }
    found
}

/// Checks every file that git tracks or would track.
pub(crate) fn check() -> Result<()> {
    let root = ws::root();
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(&root);
    let list = ws::capture(&mut git).context("listing the project's files")?;
    let mut wrong = Vec::new();
    for path in list.split('\0').filter(|p| !p.is_empty()) {
        let rules: Vec<&Rule> = RULES.iter().filter(|r| (r.looks_at)(path)).collect();
        let full = root.join(path);
        // A file that is removed but not yet committed is listed, too.
        if rules.is_empty() || !full.is_file() {
            continue;
        }
        let bytes = fs::read(&full).with_context(|| format!("reading {}", full.display()))?;
        // Pictures and recordings have no lines.
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        for rule in rules {
            for finding in (rule.check)(path, &text) {
                wrong.push(format!(
                    "{path}:{}: {} [{}: {}]",
                    finding.line, finding.what, rule.name, rule.reason
                ));
            }
        }
    }
    if !wrong.is_empty() {
        bail!(
            "{} broken:\n{}",
            if wrong.len() == 1 {
                "a rule is"
            } else {
                "rules are"
            },
            wrong.join("\n")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(found: Vec<Finding>) -> Vec<String> {
        found
            .into_iter()
            .map(|f| format!("{}: {}", f.line, f.what))
            .collect()
    }

    #[test]
    fn long_files_are_found() {
        assert!(length("", &"\n".repeat(MOST_LINES)).is_empty());
        assert_eq!(length("", &"\n".repeat(MOST_LINES + 1)).len(), 1);
    }

    #[test]
    fn words_are_found_where_they_stand() {
        let text = format!("fine\n    {} later\n", UNFINISHED[3]);
        assert_eq!(
            whats(mentions(&text, UNFINISHED)),
            [format!("2: mentions {}", UNFINISHED[3])]
        );
    }

    #[test]
    fn the_engine_may_not_reach_out() {
        let find = |text| whats(purity("tracer/src/state/engine.rs", text));
        assert!(
            find("use std::collections::HashMap;\nuse tracer_common::wire::Event;\nuse crate::state::Task;")
                .is_empty()
        );
        assert_eq!(find("use std::{collections::HashMap, fs};"), ["1: names std::fs"]);
        assert_eq!(
            find("use std::time::{Duration, Instant};"),
            ["1: names std::time::Instant"]
        );
        assert_eq!(
            find("use std::time as t;\nlet x = std::time::SystemTime::now();").len(),
            1
        );
        assert_eq!(find("let x = libc::getpid();"), ["1: names libc::getpid"]);
        assert_eq!(find("use crate::source::live;"), ["1: names crate::source::live"]);
        assert_eq!(
            find("use super::super::sink::tui;"),
            ["1: names crate::sink::tui"]
        );
        assert_eq!(find("use super::*;\nuse super::task::Task;"), [""; 0]);
        assert_eq!(find("// std::fs\nlet x = \"aya::Ebpf\"; /* libc::x */"), [""; 0]);
        assert_eq!(find("#[cfg(test)]\nmod tests { use std::fs; }"), [""; 0]);
        assert_eq!(find("use aya;"), ["1: names aya"]);
    }

    #[test]
    fn the_engine_is_found_by_its_path() {
        assert!(is_pure("tracer/src/state.rs") && is_pure("tracer/src/check/mod.rs"));
        assert!(!is_pure("tracer/src/statement.rs") && !is_pure("tracer/src/sink/state.rs"));
    }

    #[test]
    fn only_the_program_itself_has_one_hand_and_one_mouth() {
        let text = "fs::write(a);\n#[cfg(test)]\nmod tests { fs::write(b); }\n";
        assert_eq!(
            whats(mentions(before_tests(text), OPENS)),
            ["1: mentions fs::write("]
        );
        assert!(is_of_tracer("tracer/src/say.rs") && is_of_tracer("tracer/src/tui/screen.rs"));
        assert!(!is_of_tracer("tracer/src/tui/tests/scene.rs") && !is_of_tracer("tracer/src/disk/tests.rs"));
        assert!(!is_of_tracer("xtask/src/ui.rs") && !is_of_tracer("tracer/src/sink/html/page.js"));
    }

    #[test]
    fn docs_that_are_not_there_are_found() {
        let text = "See [it](docs/a.md), docs/b.md.\n";
        assert_eq!(
            whats(missing_docs(text, |doc| doc == "docs/a.md")),
            ["1: names docs/b.md, which is not there"]
        );
    }
}
