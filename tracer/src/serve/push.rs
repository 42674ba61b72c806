//! The pushes to a collector. They never hold anything up, and what fails is said once.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use super::Shown;
use crate::say::tell;
use crate::sink::metrics::otlp;

/// A collector that takes longer is not there.
const PATIENCE: Duration = Duration::from_secs(5);

/// A thread that pushes.
pub(super) struct Pusher {
    over: SyncSender<()>,
    thread: JoinHandle<()>,
}

/// Checks an address, and adds the path that collectors have by default.
pub(super) fn parse_url(text: &str) -> Result<String, String> {
    let uri: ureq::http::Uri = text.parse().map_err(|error| format!("no address: {error}"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err("https is not spoken; push to a collector on this host over http".to_owned());
        }
        _ => return Err("an address such as http://127.0.0.1:4318".to_owned()),
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err("an address such as http://127.0.0.1:4318".to_owned());
    }
    Ok(match uri.path() {
        "" | "/" => format!("{}/v1/metrics", text.trim_end_matches('/')),
        _ => text.to_owned(),
    })
}

impl Pusher {
    pub(super) fn start(url: String, every: Duration, shown: Shown) -> anyhow::Result<Self> {
        let (over, ended) = sync_channel(1);
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        let every = every.max(Duration::from_millis(100));
        let thread = thread::Builder::new()
            .name("push".to_owned())
            .spawn(move || {
                let mut failing = false;
                loop {
                    let last = ended.recv_timeout(every) != Err(RecvTimeoutError::Timeout);
                    let metrics = shown.get();
                    // Nothing was counted yet.
                    if !metrics.families.is_empty() {
                        match push(&agent, &url, &otlp(&metrics, now_ns()).to_string()) {
                            Ok(()) if failing => {
                                tell!("{url} takes what is pushed again");
                                failing = false;
                            }
                            Ok(()) => {}
                            Err(error) if !failing => {
                                tell!("cannot push to {url}: {error}; trying on");
                                failing = true;
                            }
                            Err(_) => {}
                        }
                    }
                    if last {
                        return;
                    }
                }
            })
            .context("cannot start a thread")?;
        Ok(Self { over, thread })
    }

    /// Pushes once more, and ends.
    pub(super) fn finish(self) {
        let Self { over, thread } = self;
        let _ = over.send(());
        if thread.join().is_err() {
            log::error!("the thread that pushes failed");
        }
    }
}

fn push(agent: &ureq::Agent, url: &str, body: &str) -> Result<(), ureq::Error> {
    agent
        .post(url)
        .header("content-type", "application/json")
        .send(body)
        .map(drop)
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_before_anything_starts() {
        assert_eq!(
            parse_url("http://127.0.0.1:4318").unwrap(),
            "http://127.0.0.1:4318/v1/metrics"
        );
        assert_eq!(parse_url("http://h:1/x").unwrap(), "http://h:1/x");
        assert!(parse_url("https://h").unwrap_err().contains("http"));
        assert!(parse_url("h:1").is_err());
    }
}
