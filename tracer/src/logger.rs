//! Messages of the program itself, on standard error, under `-v`.

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::say::tell;

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What libraries tell of their own work is for those who ask three times.
        let ours = metadata.target().starts_with("tracer") || metadata.level() <= Level::Warn;
        metadata.level() <= log::max_level() && (ours || log::max_level() == LevelFilter::Trace)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = match record.level() {
                Level::Error => "error",
                Level::Warn => "warning",
                Level::Info => "note",
                Level::Debug | Level::Trace => "debug",
            };
            tell!("{level}: {}", record.args());
        }
    }

    fn flush(&self) {}
}

/// Installs the logger: warnings always, more with each `-v`.
pub fn install(verbose: u8) {
    // Fails only if one is installed already, as in tests.
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(match verbose {
            0 => LevelFilter::Warn,
            1 => LevelFilter::Info,
            2 => LevelFilter::Debug,
            _ => LevelFilter::Trace,
        });
    }
}
