//! What the model checker says can go wrong.
//!
//! `docs/assertions.md` has its tables, printed by `tracer model questions`, and a test compares the page with what the
//! model says; so the page is what is asked here.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use tracer_common::lock::{Lockdep, RefcntClass};

use crate::check::vocabulary::{Mmap, Standing};

static PAGE: &str = include_str!("../../../../docs/assertions.md");

/// The rows of the table of wrong verdicts, as they stand there.
static WRONG: LazyLock<BTreeSet<&str>> = LazyLock::new(|| {
    let rows = PAGE
        .lines()
        .skip_while(|line| !line.starts_with("| assertion | lockdep | wrong |"));
    rows.skip(2).take_while(|line| line.starts_with('|')).collect()
});

/// Whether the model has found a schedule that leads to this wrong verdict.
pub(super) fn predicts(
    assertion: &str,
    lockdep: Lockdep,
    fires: bool,
    standing: Standing,
    class: RefcntClass,
    eq: bool,
    mmap: Mmap,
) -> bool {
    let row = format!(
        "| {assertion} | {} | {} | {} | {} | {} | {} |",
        if lockdep == Lockdep::On { "on" } else { "off" },
        if fires { "fires" } else { "silent" },
        standing.name(),
        class.name(),
        if eq { "yes" } else { "no" },
        mmap.name()
    );
    WRONG.contains(row.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mails_case_is_found() {
        let v2 = |standing, mmap| {
            predicts(
                "v2",
                Lockdep::On,
                true,
                standing,
                RefcntClass::Readers,
                true,
                mmap,
            )
        };
        assert!(v2(Standing::Writer, Mmap::WrittenByMe));
        assert!(!v2(Standing::Reader, Mmap::WrittenByMe));
    }
}
