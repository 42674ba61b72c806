//! The latest events, with what the engine said of them.

use std::collections::VecDeque;

use tracer_common::wire::{Event, Provenance};

use crate::filter::{EventFacts, Filter};
use crate::info::SiteInfo;

/// One event as the engine handed it on.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its number among all that were handed on, derived ones included; from 1.
    pub id: u64,
    /// Number of the source's events up to and including the one that it came with.
    pub number: u64,
    /// The event.
    pub event: Event,
    /// How surely it is known.
    pub provenance: Provenance,
    /// Whether the engine made it.
    pub derived: bool,
    /// Largest error of its time, in nanoseconds, where that is known.
    pub bound_ns: Option<u64>,
    /// The hold that it ended, in nanoseconds.
    pub hold_ns: Option<u64>,
    /// The wait that it ended, in nanoseconds.
    pub wait_ns: Option<u64>,
}

impl Entry {
    /// What a filter can ask of it.
    pub fn facts<'a>(&'a self, sites: &'a [SiteInfo]) -> EventFacts<'a> {
        EventFacts {
            event: &self.event,
            provenance: self.provenance,
            hold_ns: self.hold_ns,
            wait_ns: self.wait_ns,
            sites,
        }
    }
}

/// The latest entries, up to a limit.
#[derive(Clone, Debug)]
pub struct Ring {
    entries: VecDeque<Entry>,
    limit: usize,
    /// Entries that made room.
    gone: u64,
}

impl Ring {
    /// With room for so many.
    pub fn new(limit: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            limit: limit.max(1),
            gone: 0,
        }
    }

    /// Adds one, in place of the oldest if there is no more room.
    #[inline]
    pub fn push(&mut self, entry: Entry) {
        if self.entries.len() >= self.limit {
            // Not `pop_front`: that would read what nobody has looked at for long, and wait for it.
            self.entries.drain(..1);
            self.gone += 1;
        }
        self.entries.push_back(entry);
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator {
        self.entries.iter()
    }

    /// The latest ones, at most so many, oldest first.
    pub fn latest(&self, count: usize) -> Vec<Entry> {
        let from = self.entries.len().saturating_sub(count);
        let (front, back) = self.entries.as_slices();
        let mut all = Vec::with_capacity(self.entries.len() - from);
        all.extend_from_slice(front.get(from..).unwrap_or_default());
        all.extend_from_slice(&back[from.saturating_sub(front.len()).min(back.len())..]);
        all
    }

    /// How many made room.
    pub fn gone(&self) -> u64 {
        self.gone
    }

    /// A copy that holds at most so many.
    #[must_use]
    pub fn shortened(&self, count: usize) -> Self {
        let kept = self.latest(count);
        Self {
            gone: self.gone + (self.entries.len() - kept.len()) as u64,
            entries: kept.into(),
            limit: self.limit,
        }
    }
}

/// The latest events that a filter lets through.
#[derive(Clone, Debug)]
pub struct Tap {
    filter: Filter,
    ring: Ring,
}

/// Entries that a tap keeps.
const TAP: usize = 16_384;

impl Tap {
    /// Begins with what the log still has.
    pub fn new(filter: Filter, log: &Ring, sites: &[SiteInfo]) -> Self {
        let mut tap = Self {
            filter,
            ring: Ring::new(TAP),
        };
        for entry in log.iter() {
            tap.push(entry, sites);
        }
        // What the log had forgotten may have fitted as well.
        tap.ring.gone += log.gone;
        tap
    }

    /// Takes an entry if it fits.
    #[inline]
    pub fn push(&mut self, entry: &Entry, sites: &[SiteInfo]) {
        if self.filter.fits(&entry.facts(sites)) {
            self.ring.push(*entry);
        }
    }

    /// What it lets through.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// What was let through.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }
}
