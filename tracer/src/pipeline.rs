//! Wires the parts: source → order → whoever consumes the ordered events.
//!
//! User commands reach only this: they may ask it to stop, and it tells the source.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tracer_common::wire::Event;

use crate::info::Losses;
use crate::order::Order;
use crate::source::{Poll, Source};
use crate::stacks::Stacks;

/// How long a quiet source is waited for before the consumer gets a turn.
const ROUND: Duration = Duration::from_millis(20);
/// How often losses are looked up, which costs system calls.
const LOSSES: Duration = Duration::from_millis(500);

/// Who takes events in the order of time.
pub trait Consumer {
    /// Takes one event.
    ///
    /// # Errors
    /// When it can take no more; the pipeline then ends.
    fn event(&mut self, event: &Event) -> anyhow::Result<()>;

    /// The stacks that the events to come have numbers of, in each round before them.
    ///
    /// # Errors
    /// As for events.
    fn stacks(&mut self, _stacks: &Stacks) -> anyhow::Result<()> {
        Ok(())
    }

    /// How many of how many bytes of a recording have been read, before each round.
    fn far(&mut self, _read: u64, _length: u64) {}

    /// Some events later, at the latest some milliseconds later.
    ///
    /// # Errors
    /// As for events.
    fn round(&mut self, _order: &Order) -> anyhow::Result<()> {
        Ok(())
    }

    /// What is known to be missing by now; twice a second.
    ///
    /// # Errors
    /// As for events.
    fn losses(&mut self, _losses: &Losses) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Why a pipeline ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The source had no more.
    Source,
    /// The time was over.
    Duration,
    /// A signal, such as ^C.
    Signal,
    /// The command that was watched ended.
    Command,
    /// The user said so on the screen.
    User,
}

impl Ended {
    /// As recordings have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Duration => "duration",
            Self::Signal => "interrupt",
            Self::Command => "command",
            Self::User => "user",
        }
    }
}

/// When to stop.
pub struct Stop {
    signal: Arc<AtomicBool>,
    user: Arc<AtomicBool>,
    until: Option<Instant>,
    others: Vec<Box<dyn FnMut() -> anyhow::Result<Option<Ended>>>>,
}

impl Stop {
    /// Stops at `SIGINT`, `SIGTERM` and `SIGHUP`, and when the time is over. A second signal ends
    /// the program at once, in case the orderly way is blocked.
    ///
    /// # Errors
    /// When signals cannot be caught.
    pub fn new(duration: Option<Duration>) -> anyhow::Result<Self> {
        let signal = Arc::new(AtomicBool::new(false));
        for number in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&signal))
                .and_then(|_| signal_hook::flag::register(number, Arc::clone(&signal)))
                .context("cannot catch signals")?;
        }
        Ok(Self {
            signal,
            user: Arc::new(AtomicBool::new(false)),
            until: duration.map(|duration| Instant::now() + duration),
            others: Vec::new(),
        })
    }

    /// A switch for whoever has a quit key.
    pub fn switch(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.user)
    }

    /// Whether a signal came, for whoever waits elsewhere.
    pub(crate) fn signal(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.signal)
    }

    /// One more reason to look at.
    pub fn also(&mut self, reason: impl FnMut() -> anyhow::Result<Option<Ended>> + 'static) {
        self.others.push(Box::new(reason));
    }

    /// Whether it is time, and why.
    ///
    /// # Errors
    /// Of the reasons to look at.
    pub(crate) fn due(&mut self) -> anyhow::Result<Option<Ended>> {
        if self.signal.load(Ordering::Relaxed) {
            return Ok(Some(Ended::Signal));
        }
        if self.user.load(Ordering::Relaxed) {
            return Ok(Some(Ended::User));
        }
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return Ok(Some(Ended::Duration));
        }
        for other in &mut self.others {
            if let Some(ended) = other()? {
                return Ok(Some(ended));
            }
        }
        Ok(None)
    }
}

/// What a pipeline leaves behind.
pub struct Outcome {
    /// Why it ended.
    pub ended: Ended,
    /// The order, with its counts.
    pub order: Order,
    /// What is known to be missing.
    pub losses: Losses,
}

/// Runs until the source ends or `stop` says so; then empties the source.
///
/// # Errors
/// Of the source or the consumer. Probes are detached in any case, when the source is dropped.
pub fn run<S: Source>(
    source: &mut S,
    stop: &mut Stop,
    consumer: &mut impl Consumer,
) -> anyhow::Result<Outcome> {
    let info = source.info();
    let mut order = Order::beginning_with(info.start_monotonic_ns, &info.first_numbers);
    let mut ended = None;
    let mut next_losses = Instant::now() + LOSSES;
    loop {
        if ended.is_none()
            && let Some(reason) = stop.due()?
        {
            ended = Some(reason);
            source.stop();
        }
        let poll = source.poll(ROUND, &mut |event| order.push(event))?;
        consumer.stacks(source.stacks())?;
        let mut result = Ok(());
        let mut hand_on = |event: &Event| {
            if result.is_ok() {
                result = consumer.event(event);
            }
        };
        match poll {
            Poll::More { watermark_ns } => order.advance(watermark_ns, &mut hand_on),
            Poll::End => {
                let losses = source.losses()?;
                order.finish(&losses, &mut hand_on);
                result?;
                consumer.losses(&losses)?;
                consumer.round(&order)?;
                return Ok(Outcome {
                    ended: ended.unwrap_or(Ended::Source),
                    order,
                    losses,
                });
            }
        }
        result?;
        if Instant::now() >= next_losses {
            next_losses = Instant::now() + LOSSES;
            consumer.losses(&source.losses()?)?;
        }
        if let Some((read, length)) = source.far() {
            consumer.far(read, length);
        }
        consumer.round(&order)?;
    }
}
