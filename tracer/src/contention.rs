//! Statistics of contention, beside the engine and pure like it: waits and holds in groups, chains of those who wait,
//! and why faults took the `mmap_lock`.
//!
//! It is fed with each event right after the engine ([`Contention::observe`]), and reads what the engine has noted
//! ([`crate::state::Note`]). Memory is bounded by [`Limits`]: of everything the heaviest rows are kept, and what had to
//! go is merged into a row that says how much it was. It takes memory when something new comes up, and none for more
//! of the same.

pub mod chains;
pub mod cycles;
pub mod faults;
pub mod groups;
pub mod places;
pub mod rows;
pub mod summary;
pub mod tracks;

use tracer_common::wire::{Event, Kind};

use crate::state::{Engine, Note, What, Who};
use chains::{Chains, Cycle};
use faults::FaultTables;
use groups::Groups;
use summary::Caused;
use tracks::Tracks;

/// Upper bounds on rows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tasks.
    pub tasks: usize,
    /// Processes.
    pub processes: usize,
    /// VMAs.
    pub vmas: usize,
    /// Address spaces.
    pub mms: usize,
    /// Stacks.
    pub stacks: usize,
    /// Whom who waited for.
    pub pairs: usize,
    /// Single waits and holds of each kind.
    pub longest: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tasks: 4_096,
            processes: 2_048,
            vmas: 8_192,
            mms: 2_048,
            stacks: 4_096,
            pairs: 2_048,
            longest: 16,
        }
    }
}

/// The statistics; see the module.
#[derive(Clone, Debug)]
pub struct Contention {
    /// Waits and holds in groups.
    pub groups: Groups,
    /// Faults by process and VMA.
    pub faults: FaultTables,
    /// Who was in whose way.
    pub tracks: Tracks,
    /// Who waits after the last event.
    pub at_end: Chains,
    end_ns: u64,
}

impl Default for Contention {
    fn default() -> Self {
        Self::with_limits(&Limits::default())
    }
}

impl Contention {
    /// With bounds other than the usual ones.
    pub fn with_limits(limits: &Limits) -> Self {
        Self {
            groups: Groups::new(limits),
            faults: FaultTables::new(limits),
            tracks: Tracks::new(limits),
            at_end: Chains::default(),
            end_ns: 0,
        }
    }

    /// Takes one event in, right after the engine, which has to keep notes ([`Engine::keep_notes`]).
    #[inline]
    pub fn observe(&mut self, engine: &Engine, event: &Event) {
        if event.kind == Kind::Gap {
            self.tracks.event(engine, event);
            return;
        }
        let who = Who {
            pid: event.header.pid,
            tid: event.header.tid,
            slot: engine.current_task(),
        };
        for note in engine.notes() {
            self.note(engine, event, who, note);
        }
        if event.kind == Kind::Stack {
            if let Some(of) = event.stack_of() {
                let waits = matches!(
                    of,
                    Kind::MmapAcquire | Kind::VmaWriteAcquire | Kind::VmaWriteFail | Kind::MmapFail
                );
                self.groups.stack(who, waits, event.stacks(), &event.header.comm);
            }
            return;
        }
        self.faults.event(who, event);
        self.tracks.event(engine, event);
    }

    #[inline]
    fn note(&mut self, engine: &Engine, event: &Event, current: Who, note: &Note) {
        let comm_of = |who: Who| {
            if who == current {
                event.header.comm
            } else {
                engine.comm_of(who)
            }
        };
        match note {
            Note::Span(span) => {
                let comm = comm_of(span.who);
                let caused = if span.what == What::Hold {
                    self.tracks.caused(engine, span)
                } else {
                    self.tracks.wait_ended(engine, span, &comm);
                    Caused::default()
                };
                self.groups.add(span, caused, &comm);
            }
            Note::Round(round) => self.faults.note(note, &comm_of(round.who)),
            Note::Abandoned(who) | Note::LookUpFailed(who, ..) | Note::Miss(who) => {
                self.faults.note(note, &comm_of(*who));
            }
        }
    }

    /// After the last event.
    pub fn finish(&mut self, engine: &Engine) {
        self.faults.finish();
        self.at_end = Chains::of(engine);
        self.end_ns = engine.now_ns();
    }

    /// Those who wait for each other and will not get on, as of the last event.
    pub fn deadlocks(&self) -> impl Iterator<Item = &Cycle> {
        self.at_end
            .cycles
            .iter()
            .filter(|cycle| cycle.is_deadlock(self.end_ns))
    }
}
