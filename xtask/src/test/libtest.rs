//! Reading what `cargo test` prints.

/// What a run of `cargo test` came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Tests that passed.
    pub(crate) passed: usize,
    /// Tests that were left out by an attribute.
    pub(crate) ignored: usize,
    /// Tests that failed.
    pub(crate) failed: Vec<Failed>,
    /// Test programs that ended without their closing line: they crashed or were killed.
    pub(crate) crashed: Vec<String>,
}

/// One test that failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// The test program, as cargo names it.
    pub(crate) program: String,
    /// The test.
    pub(crate) test: String,
    /// What it printed.
    pub(crate) output: String,
}

/// Reads the mixed output (stdout and stderr in one) of `cargo test --no-fail-fast`.
pub(crate) fn parse(output: &str) -> Summary {
    let mut summary = Summary::default();
    let mut program = String::new();
    // Between a program's "running N tests" and its "test result".
    let mut open = false;
    let mut failed: Vec<String> = Vec::new();
    // The section of a failed test's output that we are in.
    let mut section: Option<(String, String)> = None;
    let mut sections: Vec<(String, String)> = Vec::new();
    for line in output.lines() {
        let trimmed = line.trim();
        let starts = trimmed
            .strip_prefix("Running ")
            .or_else(|| trimmed.strip_prefix("Doc-tests "));
        if let Some(name) = starts
            && line.starts_with("   ")
        {
            close(&mut summary, open, &program);
            open = false;
            // `tests/t.rs (target/debug/deps/t-2)`: where it lies helps nobody.
            program = name.split(" (").next().unwrap_or(name).to_owned();
        } else if line.starts_with("running ") && (line.ends_with(" tests") || line.ends_with(" test")) {
            open = true;
        } else if let Some(result) = line.strip_prefix("test result: ") {
            sections.extend(section.take());
            summary.passed += count(result, "passed");
            summary.ignored += count(result, "ignored");
            for test in failed.drain(..) {
                let at = sections.iter().position(|(name, _)| *name == test);
                let output = at.map(|at| sections.swap_remove(at).1).unwrap_or_default();
                let output = output.trim().to_owned();
                summary.failed.push(Failed {
                    program: program.clone(),
                    test,
                    output,
                });
            }
            sections.clear();
            open = false;
        } else if let Some(test) = line
            .strip_prefix("test ")
            .and_then(|l| l.strip_suffix(" ... FAILED"))
        {
            failed.push(test.to_owned());
        } else if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|l| l.strip_suffix(" stdout ----"))
        {
            sections.extend(section.take());
            section = Some((name.to_owned(), String::new()));
        } else if line == "failures:" {
            sections.extend(section.take());
        } else if let Some((_, text)) = &mut section {
            text.push_str(line);
            text.push('\n');
        }
    }
    close(&mut summary, open, &program);
    summary
}

fn close(summary: &mut Summary, open: bool, program: &str) {
    if open {
        summary.crashed.push(program.to_owned());
    }
}

/// The number before a word: `ok. 3 passed; 0 failed; …`.
fn count(result: &str, word: &str) -> usize {
    let mut parts = result.split([' ', ';', '.']).filter(|p| !p.is_empty());
    let mut last = "";
    parts
        .find_map(|part| {
            let found = (part == word).then(|| last.parse().ok()).flatten();
            last = part;
            found
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "   Compiling x v0.1.0
    Finished `test` profile in 1s
     Running unittests src/lib.rs (target/debug/deps/x-1)

running 3 tests
test a ... ok
test b ... FAILED
test c::d - should panic ... FAILED

failures:

---- b stdout ----

thread 'b' panicked at src/lib.rs:5:9:
left != right
  two lines

---- c::d stdout ----
note: test did not panic as expected

failures:
    b
    c::d

test result: FAILED. 1 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

error: test failed, to rerun pass `-p x --lib`
     Running tests/t.rs (target/debug/deps/t-2)

running 2 tests
test e ... ok
error: test failed, to rerun pass `-p x --test t`

Caused by:
  process didn't exit successfully: `t-2` (signal: 11, SIGSEGV: invalid memory reference)
   Doc-tests x

running 12 tests
............
test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn counts_failures_and_crashes_are_read() {
        let summary = parse(SAID);
        assert_eq!((summary.passed, summary.ignored), (13, 1));
        assert_eq!(summary.crashed, ["tests/t.rs"]);
        assert_eq!(summary.failed.len(), 2);
        assert_eq!(summary.failed[0].test, "b");
        assert_eq!(summary.failed[0].program, "unittests src/lib.rs");
        assert!(summary.failed[0].output.ends_with("left != right\n  two lines"));
    }

    #[test]
    fn nothing_is_no_tests() {
        assert_eq!(parse("error: could not compile"), Summary::default());
    }
}
