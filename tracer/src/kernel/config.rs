//! The kernel's build configuration, where it is told.

use std::io::Read as _;
use std::path::Path;

/// Whether an option is set; `None` if the kernel does not tell.
///
/// Looks into `/proc/config.gz`, then into `/boot/config-RELEASE`.
pub(super) fn option(proc_config: &Path, boot_config: &Path, option: &str) -> Option<bool> {
    let text = read_gz(proc_config).or_else(|| std::fs::read_to_string(boot_config).ok())?;
    let wanted = format!("{option}=y");
    Some(text.lines().any(|line| line == wanted))
}

fn read_gz(path: &Path) -> Option<String> {
    let file = std::fs::File::open(path).ok()?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(file)
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}
