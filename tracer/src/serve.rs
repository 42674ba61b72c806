//! `tracer serve`: numbers for monitoring, fetched by Prometheus or pushed to a collector.

mod http;
mod push;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use tracer_common::wire::Event;

use crate::child::Output;
use crate::cli::{LiveArgs, parse_duration};
use crate::export::Progress;
use crate::info::{Losses, SourceInfo};
use crate::live_setup::{self, Started};
use crate::order::Order;
use crate::outside;
use crate::pipeline::{self, Consumer, Ended, Stop};
use crate::say::tell;
use crate::sink::metrics::Metrics;
use crate::source::Source;
use crate::source::replay::Replay;
use crate::state::Engine;

const DONE: u8 = 0;
/// How old what is served may be.
const EVERY: Duration = Duration::from_millis(500);

/// Options of `serve`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    sudo tracer serve --listen 127.0.0.1:9477                   for Prometheus, until ^C\n  \
    sudo tracer serve --otlp http://127.0.0.1:4318 -p 1234      to an OpenTelemetry collector, of one process\n  \
    tracer serve --listen 127.0.0.1:9477 --file a.rec           what a recording came to")]
pub struct ServeArgs {
    /// Answer at this address, under /metrics. Whoever reaches it can read: other than loopback addresses are up to you.
    #[arg(long, value_name = "ADDRESS:PORT", required_unless_present = "otlp")]
    pub listen: Option<SocketAddr>,
    /// Push to this collector, by OTLP over HTTP as JSON; without a path, to /v1/metrics there.
    #[arg(long, value_name = "URL", value_parser = push::parse_url)]
    pub otlp: Option<String>,
    /// How often to push.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub otlp_every: Duration,
    /// A recording instead of the live kernel; `-` is the standard input. What it came to is served until ^C.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// What to watch.
    #[command(flatten)]
    pub live: LiveArgs,
}

/// What is served at the moment.
#[derive(Clone, Default)]
pub(crate) struct Shown(Arc<Mutex<Metrics>>);

impl Shown {
    fn set(&self, metrics: Metrics) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = metrics;
    }

    pub(crate) fn get(&self) -> Metrics {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs `tracer serve`; the result is the exit code.
///
/// # Errors
/// When the address is taken, or the kernel cannot be watched.
pub fn run(args: &ServeArgs, log: bool) -> anyhow::Result<u8> {
    let shown = Shown::default();
    match &args.file {
        Some(file) => {
            anyhow::ensure!(
                !args.live.is_set(),
                "filters apply to the live kernel; leave out either them or {}",
                outside::path(file)
            );
            let mut replay = Replay::open(file)?;
            let outputs = Outputs::start(args, &shown)?;
            let mut stop = Stop::new(None)?;
            let ended = watch(&mut replay, &mut stop, &shown)?;
            if let Some(warning) = replay.warning() {
                tell!("{warning}");
            }
            if ended == Ended::Source {
                tell!("read to its end; serving until ^C");
                while stop.due()?.is_none() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            outputs.finish();
        }
        None => {
            // Before anything is attached: a port that is taken is the user's first mistake.
            let outputs = Outputs::start(args, &shown)?;
            let Started { mut live, mut stop } = live_setup::start(&args.live, log, Output::Shown)?;
            live_setup::tell_unseen(&live);
            watch(&mut live, &mut stop, &shown)?;
            outputs.finish();
        }
    }
    Ok(DONE)
}

/// Those who fetch and those who are pushed to.
struct Outputs {
    _server: Option<http::Server>,
    pusher: Option<push::Pusher>,
}

impl Outputs {
    fn start(args: &ServeArgs, shown: &Shown) -> anyhow::Result<Self> {
        let server = match args.listen {
            Some(address) => {
                let server = http::Server::start(address, shown.clone())?;
                tell!("serving http://{}/metrics", server.address());
                if !address.ip().is_loopback() {
                    tell!("note: whoever reaches {address} can read it; 127.0.0.1 keeps it here");
                }
                Some(server)
            }
            None => None,
        };
        let pusher = match &args.otlp {
            Some(url) => Some(push::Pusher::start(url.clone(), args.otlp_every, shown.clone())?),
            None => None,
        };
        Ok(Self {
            _server: server,
            pusher,
        })
    }

    /// Pushes what is known last.
    fn finish(self) {
        if let Some(pusher) = self.pusher {
            pusher.finish();
        }
    }
}

fn watch<S: Source>(source: &mut S, stop: &mut Stop, shown: &Shown) -> anyhow::Result<Ended> {
    let info = source.info().clone();
    let mut watcher = Watcher {
        engine: Engine::new(&info),
        losses: Losses::default(),
        missed: 0,
        next: Instant::now(),
        progress: Progress::default(),
        info: &info,
        shown,
    };
    let outcome = pipeline::run(source, stop, &mut watcher)?;
    watcher.progress.clear();
    watcher.show(&outcome.order);
    Ok(outcome.ended)
}

/// Feeds the engine, and shows what it counts.
struct Watcher<'a> {
    engine: Engine,
    losses: Losses,
    missed: u64,
    next: Instant,
    progress: Progress,
    info: &'a SourceInfo,
    shown: &'a Shown,
}

impl Watcher<'_> {
    fn show(&self, order: &Order) {
        self.shown
            .set(Metrics::new(self.info, &self.engine, Some(order), &self.losses));
    }
}

impl Consumer for Watcher<'_> {
    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        self.engine.apply(event, &mut |_, _| {});
        Ok(())
    }

    fn far(&mut self, read: u64, length: u64) {
        self.progress.far(read, length);
        self.progress.show(self.engine.totals().received);
    }

    fn round(&mut self, order: &Order) -> anyhow::Result<()> {
        if Instant::now() >= self.next {
            self.next = Instant::now() + EVERY;
            self.show(order);
        }
        Ok(())
    }

    fn losses(&mut self, losses: &Losses) -> anyhow::Result<()> {
        // A run that the kernel skipped leaves no hole in the numbering.
        if losses.missed != self.missed {
            self.missed = losses.missed;
            self.engine.forget();
        }
        self.losses.clone_from(losses);
        Ok(())
    }
}
