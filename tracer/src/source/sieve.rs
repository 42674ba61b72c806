//! `--min-hold` and `--min-wait`: of what a source gives, only what was held or awaited for long.
//!
//! How long a hold lasts is known when it ends, and its acquire is to be handed on before all that happened meanwhile.
//! So events wait in a line, in the order of time, until it is known whether they stay. They do not wait for the end: what
//! has lasted for the asked time by now is long, however much longer it will take. So nothing waits for longer than that time,
//! or the two of them where a wait leads to a hold, and what still goes on is seen, too.
//!
//! What is kept together is a *spell* of a task: from when it begins to wait for a lock, to hold one or to be in a fault, until it
//! does nothing of that any more. If one hold or wait in it is long, all that the task does in it from there on stays, and
//! all before it that could still wait. While nothing is under way that could become long, nothing waits: with
//! `--min-hold` alone that is so before the first hold.
//!
//! Who holds and awaits what, an engine of its own tells, so that releases that no probe sees end holds here as
//! everywhere. What is not known stays: after a gap all that was under way at that time, and the ends of what began
//! before the first event of its task.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use tracer_common::wire::{Event, Kind};

use super::{Poll, Source};
use crate::files::Numbers;
use crate::info::{CpuLosses, Losses, SourceInfo};
use crate::order::Order;
use crate::stacks::Stacks;
use crate::state::{Busy, Engine, is_beside_locks};

/// So many events wait at most: some 16 MiB.
const MOST: usize = 1 << 17;
/// So many tasks are remembered before those that do nothing are forgotten.
const TASKS: usize = 1 << 16;

/// For how long something has to last to be kept, in nanoseconds; `None`: such things are not looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Least {
    /// A hold.
    pub hold_ns: Option<u64>,
    /// A wait.
    pub wait_ns: Option<u64>,
}

impl Least {
    /// Kinds of events without which nobody knows how long something lasts, one bit by number.
    pub fn kinds() -> u64 {
        let of_locks = Kind::ALL
            .iter()
            .filter(|&&kind| !is_beside_locks(kind) && kind != Kind::Gap);
        of_locks.fold(0, |mask, &kind| mask | 1 << kind as u8)
    }

    /// Whether something that is under way may still become long.
    fn is_running(self, busy: &Busy) -> bool {
        self.hold_ns.and(busy.hold_since_ns).is_some() || self.wait_ns.and(busy.wait_since_ns).is_some()
    }

    /// Whether something that is under way is long by now.
    fn is_long(self, busy: &Busy, now_ns: u64) -> bool {
        let is_over = |least: Option<u64>, since: Option<u64>| {
            least
                .zip(since)
                .is_some_and(|(least, since)| now_ns.saturating_sub(since) >= least)
        };
        is_over(self.hold_ns, busy.hold_since_ns) || is_over(self.wait_ns, busy.wait_since_ns)
    }
}

/// A source of which only long holds and waits are left; all of it, if nobody asked for that.
pub struct Sieved<S> {
    source: S,
    order: Order,
    sieve: Option<Box<Sieve>>,
}

impl<S: Source> Sieved<S> {
    /// Before the source has given anything. Of what stays only `kinds` are handed on, one bit by number.
    pub fn new(source: S, least: Least, kinds: u64) -> Self {
        let info = source.info();
        let order = Order::beginning_with(info.start_monotonic_ns, &info.first_numbers);
        let sieve = (least != Least::default()).then(|| Box::new(Sieve::new(info, least, kinds)));
        Self { source, order, sieve }
    }
}

impl<S> Sieved<S> {
    /// The source itself.
    pub fn inner(&self) -> &S {
        &self.source
    }
}

impl<S: Source> Source for Sieved<S> {
    fn info(&self) -> &SourceInfo {
        self.source.info()
    }

    fn poll(&mut self, wait: Duration, sink: &mut dyn FnMut(&Event)) -> anyhow::Result<Poll> {
        let Some(sieve) = &mut self.sieve else {
            return self.source.poll(wait, sink);
        };
        let order = &mut self.order;
        match self.source.poll(wait, &mut |event| order.push(event))? {
            Poll::More { watermark_ns } => {
                order.advance(watermark_ns, &mut |event| sieve.take(event));
                Ok(Poll::More {
                    watermark_ns: sieve.hand_on(order.watermark_ns(), sink),
                })
            }
            Poll::End => {
                let losses = self.source.losses()?;
                order.finish(&losses, &mut |event| sieve.take(event));
                sieve.finish(sink);
                Ok(Poll::End)
            }
        }
    }

    fn stop(&mut self) {
        self.source.stop();
    }

    fn stacks(&self) -> &Stacks {
        self.source.stacks()
    }

    fn far(&self) -> Option<(u64, u64)> {
        self.source.far()
    }

    fn losses(&mut self) -> anyhow::Result<Losses> {
        let losses = self.source.losses()?;
        Ok(match &mut self.sieve {
            Some(sieve) => sieve.losses(&losses),
            None => losses,
        })
    }
}

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Stays,
    Goes,
}

/// Events that share their fate.
type Batch = Rc<Cell<Fate>>;

/// What is known of one task.
struct Task {
    /// The latest events of its spell, or of the last one.
    batch: Batch,
    /// Something in its spell was long: all that follows in it stays.
    stays: bool,
    in_spell: bool,
}

impl Task {
    fn stay(&mut self) {
        // What goes may be gone in part.
        if self.batch.get() == Fate::Open {
            self.batch.set(Fate::Stays);
        }
        self.stays = true;
    }
}

struct Sieve {
    least: Least,
    kinds: u64,
    engine: Engine,
    tasks: HashMap<u32, Task>,
    /// In the order of time; those without a batch stay.
    line: VecDeque<(Event, Option<Batch>)>,
    numbers: Numbers,
    /// Events that stay since the line was full before it was known whether they should.
    crowded: u64,
    missed: u64,
}

impl Sieve {
    fn new(info: &SourceInfo, least: Least, kinds: u64) -> Self {
        Self {
            least,
            kinds,
            engine: Engine::new(info),
            tasks: HashMap::new(),
            line: VecDeque::new(),
            numbers: Numbers::default(),
            crowded: 0,
            missed: 0,
        }
    }

    /// Takes the next event in the order of time.
    fn take(&mut self, event: &Event) {
        match event.kind {
            Kind::Gap => {
                self.engine.apply(event, &mut |_, _| ());
                self.lose();
                self.push(event, None);
            }
            Kind::TaskFork | Kind::TaskExec | Kind::TaskExit => {
                self.engine.apply(event, &mut |_, _| ());
                self.push(event, None);
            }
            Kind::SchedOut | Kind::SchedIn | Kind::Stack => self.take_beside(event, key(event)),
            // It is its waker's, and of interest for whom it wakes.
            Kind::SchedWake => self.take_beside(event, event.body.arg),
            _ => self.take_lock(event),
        }
    }

    /// What a task does beside its locks goes the way of what it does with them.
    fn take_beside(&mut self, event: &Event, key: u32) {
        self.engine.apply(event, &mut |_, _| ());
        let Some(task) = self.tasks.get(&key) else { return };
        if task.stays {
            self.push(event, None);
        } else {
            let batch = Rc::clone(&task.batch);
            self.push(event, Some(batch));
        }
    }

    fn take_lock(&mut self, event: &Event) {
        let before = self.engine.busy(event);
        self.engine.apply(event, &mut |_, _| ());
        let after = self.engine.busy(event);
        let is_known = self.tasks.contains_key(&key(event));
        if self.tasks.len() >= TASKS && !is_known {
            self.tasks.retain(|_, task| task.in_spell);
        }
        let task = self.tasks.entry(key(event)).or_insert_with(|| Task {
            batch: Rc::new(Cell::new(Fate::Goes)),
            stays: false,
            in_spell: false,
        });
        if !before.is_busy && task.stays {
            task.stays = false;
            task.batch = Rc::new(Cell::new(Fate::Goes));
        }
        if self.least.is_long(&before, event.header.ts_ns) {
            task.stay();
        }
        task.in_spell = after.is_busy;
        if !before.is_busy && !after.is_busy {
            let is_end = matches!(
                event.kind,
                Kind::MmapRelease | Kind::VmaReadRelease | Kind::LockdepRelease | Kind::FaultEnd
            );
            if is_end && !is_known {
                // Of what began before all that is known of the task.
                self.push(event, None);
            }
            return;
        }
        let is_running = self.least.is_running(&after);
        let batch = if task.stays {
            None
        } else {
            if task.batch.get() != Fate::Open && is_running {
                task.batch = Rc::new(Cell::new(Fate::Open));
            }
            Some(Rc::clone(&task.batch))
        };
        if task.batch.get() == Fate::Open && !is_running {
            task.batch.set(Fate::Goes);
        }
        self.push(event, batch);
    }

    fn push(&mut self, event: &Event, batch: Option<Batch>) {
        if is(&batch, Fate::Goes) {
            return;
        }
        if self.line.len() >= MOST {
            self.make_room();
        }
        self.line.push_back((*event, batch));
    }

    /// What is known to go is taken out; if that is little, what waits stays.
    #[cold]
    fn make_room(&mut self) {
        self.line.retain(|(_, batch)| !is(batch, Fate::Goes));
        if self.line.len() < MOST / 4 * 3 {
            return;
        }
        self.crowded += self
            .line
            .iter()
            .filter(|(_, batch)| is(batch, Fate::Open))
            .count() as u64;
        for task in self.tasks.values_mut() {
            if task.batch.get() == Fate::Open {
                task.stay();
            }
        }
    }

    /// Events are missing: of all that is under way it is not known how long it lasts.
    #[cold]
    fn lose(&mut self) {
        self.tasks.retain(|_, task| task.in_spell);
        for task in self.tasks.values_mut() {
            task.stay();
        }
    }

    /// Hands on what is decided, now that all before that time has come; gives the time before which nothing is to come.
    fn hand_on(&mut self, now_ns: u64, sink: &mut dyn FnMut(&Event)) -> u64 {
        while let Some((event, batch)) = self.line.front() {
            if is(batch, Fate::Open) {
                let busy = self.engine.busy(event);
                if busy.is_busy && !self.least.is_long(&busy, now_ns) {
                    return event.header.ts_ns;
                }
                // The first event of a batch is its task's own, and an open batch is the task's latest.
                if let Some(task) = self.tasks.get_mut(&key(event)) {
                    task.stay();
                }
                if let Some(batch) = batch {
                    batch.set(Fate::Stays);
                }
            }
            self.pass_first(sink);
        }
        now_ns
    }

    /// Nothing more comes: what was not long by now goes.
    fn finish(&mut self, sink: &mut dyn FnMut(&Event)) {
        while !self.line.is_empty() {
            self.pass_first(sink);
        }
    }

    fn pass_first(&mut self, sink: &mut dyn FnMut(&Event)) {
        if let Some((mut event, batch)) = self.line.pop_front()
            && batch.is_none_or(|batch| batch.get() == Fate::Stays)
            && (event.kind == Kind::Gap || self.kinds & (1 << event.kind as u8) != 0)
        {
            self.numbers.number(&mut event);
            sink(&event);
        }
    }

    fn losses(&mut self, whole: &Losses) -> Losses {
        if whole.missed > self.missed {
            self.missed = whole.missed;
            self.engine.forget();
            self.lose();
        }
        let mut losses = self.numbers.losses(whole);
        losses
            .cpus
            .resize(whole.cpus.len().max(losses.cpus.len()), CpuLosses::default());
        losses.crowded = self.crowded;
        losses
    }
}

fn is(batch: &Option<Batch>, fate: Fate) -> bool {
    batch.as_ref().is_some_and(|batch| batch.get() == fate)
}

/// The idle tasks of all CPUs share tid 0, and hold nothing.
fn key(event: &Event) -> u32 {
    event.header.tid
}

#[cfg(test)]
mod tests;
