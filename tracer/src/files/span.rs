//! Times of a recording, for people.

use chrono::{DateTime, SecondsFormat};

use crate::info::SourceInfo;

/// A time of the events on the wall, as text; empty if the recording does not say when it began.
pub(super) fn wall(info: &SourceInfo, ts_ns: u64) -> String {
    if info.start_realtime_ns == 0 {
        return String::new();
    }
    let since = i128::from(ts_ns) - i128::from(info.start_monotonic_ns);
    i64::try_from(i128::from(info.start_realtime_ns) + since)
        .map(|ns| DateTime::from_timestamp_nanos(ns).to_rfc3339_opts(SecondsFormat::Micros, true))
        .unwrap_or_default()
}
