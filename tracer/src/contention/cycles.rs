//! Those who wait for each other, over time.
//!
//! Only a new wait can close a cycle, so it is looked for when one begins that somebody is in the way of. Most that are
//! found pass at once: a trylock that is about to fail is a wait like any other. What stays is a deadlock.

use tracer_common::wire::Provenance;

use super::chains::{Cycle, DEPTH, Person};
use crate::state::{Engine, Held, Lock, Span, TaskView, Wait};

/// So many are remembered.
const KEPT: usize = 16;
/// So many tasks are looked at for each.
const LOOKED_AT: usize = 64;

/// Cycles so far.
#[derive(Clone, Debug, Default)]
pub struct Cycles {
    open: Vec<Cycle>,
    /// How many passed.
    pub passed: u64,
    /// How long the longest of these lasted, in nanoseconds.
    pub longest_ns: u64,
    /// How many more there were at a time than are remembered.
    pub not_kept: u64,
}

impl Cycles {
    /// Those that nobody of has got on.
    pub fn open(&self) -> &[Cycle] {
        &self.open
    }

    /// One of those who wait got on, or gave up.
    #[inline]
    pub(super) fn wait_ended(&mut self, span: &Span) {
        if !self.open.is_empty() {
            self.pass(span);
        }
    }

    #[cold]
    fn pass(&mut self, span: &Span) {
        let is_of = |(person, wait): &(Person, Wait)| {
            person.tid == span.who.tid && wait.lock == span.lock && wait.since_ns == span.since_ns
        };
        let until = span.since_ns + span.ns.unwrap_or(0);
        let (passed, longest_ns) = (&mut self.passed, &mut self.longest_ns);
        self.open.retain(|cycle| {
            let gone = cycle.members.iter().any(is_of);
            if gone {
                *passed += 1;
                *longest_ns = (*longest_ns).max(until.saturating_sub(cycle.since_ns));
            }
            !gone
        });
    }

    /// Whether the wait that this task has just begun waits for itself.
    pub(super) fn look(&mut self, engine: &Engine, tid: u32) {
        let Some(view) = engine.task(tid) else { return };
        let mut search = Search {
            engine,
            target: tid,
            path: Vec::new(),
            seen: [0; LOOKED_AT],
            looked: 0,
        };
        if !search.walk(view) {
            return;
        }
        let members: Vec<(Person, Wait)> = search
            .path
            .iter()
            .map(|&(tid, wait, _)| {
                let pid = engine.task(tid).map_or(0, |view| view.task().pid);
                (Person::of(engine, pid, tid), wait)
            })
            .collect();
        let certainty = search.path.iter().map(|step| step.2).max().unwrap_or_default();
        let since_ns = members.iter().map(|(_, wait)| wait.since_ns).max().unwrap_or(0);
        if self.open.len() >= KEPT {
            self.not_kept += 1;
            return;
        }
        self.open.push(Cycle {
            members,
            since_ns,
            certainty,
        });
    }
}

struct Search<'a> {
    engine: &'a Engine,
    target: u32,
    /// Who waits, for what, and how surely the next one is in the way. Takes memory only where there is contention
    /// between tasks that hold and wait.
    path: Vec<(u32, Wait, Provenance)>,
    seen: [u32; LOOKED_AT],
    looked: usize,
}

impl Search<'_> {
    fn walk(&mut self, view: TaskView<'_>) -> bool {
        let tid = view.task().tid;
        if self.path.len() >= DEPTH || self.looked >= LOOKED_AT {
            return false;
        }
        self.seen[self.looked] = tid;
        self.looked += 1;
        for wait in view.waits() {
            self.path.push((tid, wait, wait.certainty));
            if self.blocked(tid, &wait) {
                return true;
            }
            self.path.pop();
        }
        false
    }

    fn blocked(&mut self, tid: u32, wait: &Wait) -> bool {
        let engine = self.engine;
        let certain = wait.certainty;
        let mut step = |tid: u32, how: Provenance| self.step(tid, how.max(certain));
        let is = |held: Held| (held.tid, held.hold.certainty);
        if wait.lock == Lock::VmaWrite {
            return engine
                .vma(wait.vma)
                .is_some_and(|vma| vma.readers_held().map(is).any(|(tid, how)| step(tid, how)));
        }
        let Some(mm) = engine.mm(wait.mm) else {
            return false;
        };
        if let Some(writer) = mm.writer_held() {
            return step(writer.tid, writer.hold.certainty);
        }
        if wait.lock == Lock::MmapWrite {
            return mm.readers_held().map(is).any(|(tid, how)| step(tid, how));
        }
        // Readers own the lock: a writer that came first keeps a reader out.
        let owned = mm
            .readers_held()
            .any(|held| held.hold.certainty <= Provenance::Derived);
        let line = if owned {
            Provenance::Derived
        } else {
            Provenance::Bounded
        };
        mm.waiting()
            .take_while(|other| other.tid != tid || other.wait.lock != wait.lock)
            .filter(|other| other.wait.lock == Lock::MmapWrite)
            .any(|other| step(other.tid, other.wait.certainty.max(line)))
    }

    fn step(&mut self, tid: u32, how: Provenance) -> bool {
        if let Some(last) = self.path.last_mut() {
            last.2 = how;
        }
        if tid == self.target {
            return true;
        }
        if self.seen[..self.looked].contains(&tid) {
            return false;
        }
        match self.engine.task(tid) {
            Some(view) if view.waits().next().is_some() => self.walk(view),
            _ => false,
        }
    }
}
