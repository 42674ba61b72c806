//! Waits and holds as they end, with who was in the way, who waits on, and the stacks of the task.

use tracer_common::wire::{COMM_LEN, Event, Kind};

use super::Pick;
use crate::state::{Engine, Lock, Note, Span, What};

/// Who was in the way of a wait: the task that gave the lock back last before the wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Command name.
    pub comm: [u8; COMM_LEN],
    /// Which lock it had.
    pub lock: Lock,
    /// Since when, as far as it is known, in nanoseconds.
    pub since_ns: u64,
    /// Until when.
    pub until_ns: u64,
}

/// Who still waits at the end of a hold that was in its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Thread.
    pub tid: u32,
    /// When the wait began, in nanoseconds: with `tid` its name.
    pub since_ns: u64,
}

/// A wait or a hold that has ended.
#[derive(Clone, Debug)]
pub struct Interval {
    /// What the engine knows of it.
    pub span: Span,
    /// Whose.
    pub comm: [u8; COMM_LEN],
    /// When it ended, in nanoseconds; of an unknown length: when that was found out.
    pub end_ns: u64,
    /// The event that ended it: its kind, CPU and number there.
    pub ended_by: (Kind, u16, u32),
    /// The kernel and the user stack of the task at its end; 0: not known.
    pub stacks: (u32, u32),
    /// Of a wait: who was in the way, if anybody gave the lock back meanwhile.
    pub holder: Option<Holder>,
    /// Of a hold: whom it kept waiting when it ended.
    pub waiters: Vec<Waiter>,
}

impl Interval {
    /// Its length in nanoseconds, where that is known.
    pub fn ns(&self) -> Option<u64> {
        self.span.ns
    }

    /// When it began, in nanoseconds, where that is known.
    pub fn begin_ns(&self) -> Option<u64> {
        self.span.ns.map(|ns| self.end_ns.saturating_sub(ns))
    }
}

/// What a task has under way.
#[derive(Debug, Default)]
struct Slot {
    /// Ended at its latest event; their stacks may still come.
    pending: Vec<Interval>,
    /// Who gave back last what it waits for, and the start of that wait.
    holder: Option<(u64, Holder)>,
}

/// Makes [`Interval`]s of the engine's notes.
#[derive(Debug, Default)]
pub struct Intervals {
    slots: Vec<Slot>,
    /// Slots with something pending: at most as many as tasks are remembered.
    waiters: Vec<Waiter>,
}

impl Intervals {
    /// Looks at what ended at `event`, which the engine has just taken.
    pub fn observe(&mut self, engine: &Engine, event: &Event, pick: &Pick, out: &mut impl FnMut(&Interval)) {
        if event.kind == Kind::Gap {
            return;
        }
        let current = engine.current_task() as usize;
        if current >= self.slots.len() {
            self.slots.resize_with(current + 1, Slot::default);
        }
        if !self.slots[current].pending.is_empty() {
            let mut pending = core::mem::take(&mut self.slots[current].pending);
            for interval in &mut pending {
                if event.kind == Kind::Stack {
                    interval.stacks = event.stacks();
                }
                out(interval);
            }
            pending.clear();
            self.slots[current].pending = pending;
        }
        for note in engine.notes() {
            if let Note::Span(span) = note {
                self.ended(engine, event, *span, current, pick, out);
            }
        }
    }

    fn ended(
        &mut self,
        engine: &Engine,
        event: &Event,
        span: Span,
        current: usize,
        pick: &Pick,
        out: &mut impl FnMut(&Interval),
    ) {
        let own = span.who.slot as usize == current;
        let comm = if own {
            event.header.comm
        } else {
            engine.task_of(span.who.slot).task().comm
        };
        let end_ns = event.header.ts_ns;
        self.waiters.clear();
        let mut holder = None;
        if span.what == What::Hold {
            self.keeps_waiting(engine, &span, comm, end_ns);
        } else if let Some(slot) = self.slots.get_mut(span.who.slot as usize) {
            holder = slot
                .holder
                .take()
                .filter(|(since_ns, _)| *since_ns == span.since_ns);
        }
        if !pick.takes_span(span.who.pid, event) {
            return;
        }
        let interval = Interval {
            span,
            comm,
            end_ns,
            ended_by: (event.kind, event.header.cpu, event.header.seq),
            stacks: (0, 0),
            holder: holder.map(|(_, holder)| holder),
            waiters: self.waiters.clone(),
        };
        if own {
            self.slots[current].pending.push(interval);
        } else {
            // Another task's progress proved its end: no stack of its own can belong to it.
            out(&interval);
        }
    }

    /// Finds whom a hold that ends was in the way of, and tells them.
    fn keeps_waiting(&mut self, engine: &Engine, span: &Span, comm: [u8; COMM_LEN], end_ns: u64) {
        let holder = Holder {
            pid: span.who.pid,
            tid: span.who.tid,
            comm,
            lock: span.lock,
            since_ns: span.since_ns,
            until_ns: end_ns,
        };
        let Self { slots, waiters } = self;
        engine.waits_for(span.lock, span.place, |slot, tid, since_ns| {
            if tid == span.who.tid {
                return;
            }
            waiters.push(Waiter { tid, since_ns });
            let slot = slot as usize;
            if slot >= slots.len() {
                slots.resize_with(slot + 1, Slot::default);
            }
            slots[slot].holder = Some((since_ns, holder));
        });
    }

    /// Hands on what had no event after it.
    pub fn finish(&mut self, out: &mut impl FnMut(&Interval)) {
        for slot in &mut self.slots {
            for interval in slot.pending.drain(..) {
                out(&interval);
            }
        }
    }
}
