//! Goes through a recording event by event, and takes up where a copy was made.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracer_common::wire::Event;

use crate::order::Order;
use crate::sink::address::Addresses;
use crate::source::replay::{Place, Replay};
use crate::source::{Poll, Source as _};
use crate::tui::world::{LOG, Noted, World};

/// Events that a copy keeps for looking back.
const COPY_LOG: usize = 4_096;

/// The world at one place of a recording, to go on from.
#[derive(Clone, Debug)]
pub struct Copy {
    place: Place,
    order: Order,
    world: World,
    weight: usize,
}

impl Copy {
    /// Number of the latest event in it.
    pub fn number(&self) -> u64 {
        self.world.number()
    }

    /// Time of the latest event in it, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.world.now_ns()
    }

    /// About how much memory it takes, in bytes.
    pub fn weight(&self) -> usize {
        self.weight
    }
}

/// Goes through a recording.
pub struct Player {
    source: Replay,
    order: Order,
    /// In order, and not yet taken in.
    ready: VecDeque<Event>,
    world: World,
    first_ns: u64,
    ended: bool,
    /// How to show addresses of the kernel, if not as the recording says.
    addresses: Option<Addresses>,
    start: Place,
}

impl Player {
    /// Opens a recording.
    ///
    /// # Errors
    /// If it is none, or cannot be read.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let source = Replay::open(path)?;
        let info = source.info().clone();
        let mut player = Self {
            order: Order::beginning_with(info.start_monotonic_ns, &info.first_numbers),
            ready: VecDeque::new(),
            first_ns: 0,
            world: World::new(&info, LOG),
            ended: false,
            addresses: None,
            start: source.place(),
            source,
        };
        player.first_ns = player.peek()?.unwrap_or(player.source.info().start_monotonic_ns);
        Ok(player)
    }

    /// Shows the addresses of the kernel otherwise; to be called before the first event.
    pub fn show_addresses(&mut self, addresses: Addresses) {
        self.world.show_addresses(addresses.clone());
        self.addresses = Some(addresses);
    }

    /// The world as it is here.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The same, to ask it for something else.
    pub fn world_mut(&mut self) -> &mut World {
        &mut self.world
    }

    /// Time of the first event, in nanoseconds.
    pub fn first_ns(&self) -> u64 {
        self.first_ns
    }

    /// Whether there is nothing more.
    pub fn is_at_end(&self) -> bool {
        self.ended && self.ready.is_empty()
    }

    /// About how many events are still to come, if those that were read are anything to go by; `None`: nobody can tell.
    pub fn rest(&self) -> Option<u64> {
        let position = self.source.position();
        let read = position
            .checked_sub(self.start.position())
            .filter(|&read| read > 0)?;
        let rest = self.source.len()?.saturating_sub(position);
        let events = u128::from(self.world.number()) * u128::from(rest) / u128::from(read);
        u64::try_from(events).ok()
    }

    /// What is wrong with the recording, once all of it was read.
    pub fn warning(&self) -> Option<String> {
        self.source.warning()
    }

    /// Time of the next event, in nanoseconds.
    ///
    /// # Errors
    /// If the recording cannot be read.
    pub fn peek(&mut self) -> anyhow::Result<Option<u64>> {
        self.fill()?;
        Ok(self.ready.front().map(|event| event.header.ts_ns))
    }

    /// Takes the next event in; `None` at the end.
    ///
    /// # Errors
    /// If the recording cannot be read.
    #[expect(clippy::should_implement_trait, reason = "it can fail")]
    pub fn next(&mut self) -> anyhow::Result<Option<Noted>> {
        self.fill()?;
        Ok(self.ready.pop_front().map(|event| self.world.event(&event)))
    }

    /// Whether all that was read has been taken in: only then a copy can be made.
    pub fn is_between_blocks(&self) -> bool {
        self.ready.is_empty() && !self.ended
    }

    fn fill(&mut self) -> anyhow::Result<()> {
        while self.ready.is_empty() && !self.ended {
            let Self {
                source, order, ready, ..
            } = self;
            let poll = source.poll(Duration::ZERO, &mut |event| order.push(event))?;
            let mut out = |event: &Event| ready.push_back(*event);
            match poll {
                Poll::More { watermark_ns } => order.advance(watermark_ns, &mut out),
                Poll::End => {
                    let losses = source.losses()?;
                    order.finish(&losses, &mut out);
                    self.ended = true;
                }
            }
            self.world.stacks(self.source.stacks());
            let losses = self.source.losses()?;
            self.world.losses(&losses);
            self.world.ordered(self.order.stats());
        }
        Ok(())
    }

    /// A copy of the world here, with a short memory of single events.
    pub fn copy(&self) -> Copy {
        let world = self.world.light(COPY_LOG);
        Copy {
            place: self.source.place(),
            order: self.order.clone(),
            weight: world.weight(),
            world,
        }
    }

    /// Goes on from a copy.
    ///
    /// # Errors
    /// If the recording cannot be read any more.
    pub fn take_up(&mut self, copy: &Copy) -> anyhow::Result<()> {
        self.source.go_to(&copy.place)?;
        self.order.clone_from(&copy.order);
        let trigger = self.world.trigger().cloned();
        self.world = copy.world.clone();
        self.world.set_trigger(trigger);
        self.ready.clear();
        self.ended = false;
        Ok(())
    }

    /// Goes back to the start.
    ///
    /// # Errors
    /// If the recording cannot be read any more.
    pub fn rewind(&mut self) -> anyhow::Result<()> {
        self.source.go_to(&self.start)?;
        let info = Arc::clone(self.world.info());
        self.order = Order::beginning_with(info.start_monotonic_ns, &info.first_numbers);
        let trigger = self.world.trigger().cloned();
        self.world = World::new(&info, LOG);
        if let Some(addresses) = &self.addresses {
            self.world.show_addresses(addresses.clone());
        }
        self.world.set_trigger(trigger);
        self.ready.clear();
        self.ended = false;
        Ok(())
    }
}
