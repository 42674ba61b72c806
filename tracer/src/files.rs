//! Recordings as files: `tracer info`, `verify`, `cut` and `merge`.

mod args;
mod cut;
mod info;
mod merge;
mod numbers;
mod span;
mod verify;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::bail;

use crate::outside;

pub use args::{CutArgs, InfoArgs, MergeArgs, VerifyArgs};
pub use cut::run as cut;
pub use info::run as info;
pub use merge::run as merge;
pub(crate) use numbers::Numbers;
pub use verify::{Report, run as verify, verify as verify_reader};

/// Refuses to write over what is still to be read.
fn keep_apart(inputs: &[&Path], output: &Path) -> anyhow::Result<()> {
    let Ok(out) = fs::metadata(output) else {
        return Ok(());
    };
    for input in inputs {
        let same = fs::metadata(input).is_ok_and(|meta| (meta.dev(), meta.ino()) == (out.dev(), out.ino()));
        if same && out.is_file() {
            bail!(
                "{} is read and cannot be written at the same time; name another file",
                outside::path(input)
            );
        }
    }
    Ok(())
}
