//! Who waits for whom: what stands between a task and the lock that it wants, and the lines before locks.

use tracer_common::wire::Provenance;

use super::table::Idle as _;
use super::view::{Held, MmView, TaskView, VmaView};
use super::{Engine, Hold, Lock, Run, RunState, TaskKey, Wait};

/// One lock that one task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Which lock, since when, and how surely.
    pub wait: Wait,
}

/// Why somebody keeps another from a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// It holds it.
    Holds(Hold),
    /// It waits for it too, and came first: nobody is known to hold it in a way that would keep the other out.
    Ahead(Wait),
}

/// Somebody who keeps a task from the lock that it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// What the task waits for.
    pub wait: Wait,
    /// Process of the one who is in the way.
    pub pid: u32,
    /// Thread of the one who is in the way.
    pub tid: u32,
    /// How it is in the way.
    pub why: Blocks,
}

impl Blocker {
    /// How surely: as surely as both that the one waits and that the other is in the way.
    pub fn certainty(&self) -> Provenance {
        let other = match self.why {
            Blocks::Holds(hold) => hold.certainty,
            Blocks::Ahead(wait) => wait.certainty,
        };
        self.wait.certainty.max(other)
    }

    /// Since when both hold true, in nanoseconds.
    pub fn since_ns(&self) -> u64 {
        let other = match self.why {
            Blocks::Holds(hold) => hold.since_ns,
            Blocks::Ahead(wait) => wait.since_ns,
        };
        self.wait.since_ns.max(other)
    }
}

impl<'a> TaskView<'a> {
    /// What it does with its processor. The scheduler's events are made for tasks that hold or await a lock, so that of
    /// others nothing is known once they run.
    pub fn run(&self) -> Run {
        let run = self.task.run.seen_in(self.engine.epoch);
        let unwatched = self.task.is_idle() && self.task.exited_ns == 0;
        if unwatched && run.state == RunState::Running {
            return Run::default().seen_in(self.engine.epoch);
        }
        run
    }

    /// When it ended, in nanoseconds, if that was seen. It may still take and give back the `mmap_lock` of what it
    /// leaves behind.
    pub fn exited_ns(&self) -> Option<u64> {
        (self.task.exited_ns != 0).then_some(self.task.exited_ns)
    }

    /// Everybody who keeps it from what it waits for. A writer of a VMA waits for each of its readers; who waits for
    /// the `mmap_lock` waits for those that hold it, and if nobody does in a way that would keep it out, for those
    /// before it in the line. Itself may be among them: then it waits for ever.
    pub fn blockers(&self) -> Vec<Blocker> {
        let mut all = Vec::new();
        for wait in self.waits() {
            let found = all.len();
            let add = |tid: u32, pid: u32, why: Blocks| Blocker { wait, pid, tid, why };
            let holds = |held: Held| add(held.tid, held.pid, Blocks::Holds(held.hold));
            if wait.lock == Lock::VmaWrite {
                if let Some(vma) = self.engine.vma(wait.vma) {
                    all.extend(vma.readers_held().map(holds));
                }
                continue;
            }
            let Some(mm) = self.engine.mm(wait.mm) else {
                continue;
            };
            all.extend(mm.writer_held().map(holds));
            if wait.lock == Lock::MmapWrite {
                all.extend(mm.readers_held().map(holds));
            }
            if all.len() == found {
                let ahead = mm
                    .waiting()
                    .take_while(|other| other.tid != self.task.tid || other.wait.lock != wait.lock)
                    .filter(|other| wait.lock == Lock::MmapWrite || other.wait.lock == Lock::MmapWrite);
                all.extend(ahead.map(|other| add(other.tid, other.pid, Blocks::Ahead(other.wait))));
            }
        }
        all
    }
}

impl<'a> VmaView<'a> {
    /// Its readers' holds: those that a waiting writer waits for.
    pub fn readers_held(&self) -> impl Iterator<Item = Held> + use<'a> {
        let engine = self.engine;
        let address = self.address;
        self.vma
            .readers
            .iter()
            .filter_map(move |&key| engine.held_by(key, |hold| hold.vma == address))
    }

    /// Its writer's hold, which lasts until the `mmap_lock` is given back or downgraded.
    pub fn writer_held(&self) -> Option<Held> {
        let key = self.writer_key()?;
        let at = self.vma.writer?.at as usize;
        let mm = self.engine.mms.peek(self.vma.mm)?;
        let locked = mm.write_locked.get(at)?;
        let task = self.engine.tasks.peek(u64::from(key))?;
        Some(Held {
            pid: task.pid,
            tid: task.tid,
            hold: self.engine.as_hold(self.vma.mm, at, locked),
        })
    }

    /// The writer that waits for its readers.
    pub fn writer_waiting(&self) -> Option<Waiting> {
        let address = self.address;
        self.engine
            .waiting_of(self.vma.waiting_writer?, |wait| wait.vma == address, 0)
    }
}

impl<'a> MmView<'a> {
    /// The writer's hold of the `mmap_lock`.
    pub fn writer_held(&self) -> Option<Held> {
        let address = self.address;
        self.engine.held_by(self.mm.writer?, |hold| {
            hold.lock == Lock::MmapWrite && hold.mm == address
        })
    }

    /// The readers' holds of the `mmap_lock`.
    pub fn readers_held(&self) -> impl Iterator<Item = Held> + use<'a> {
        let engine = self.engine;
        let address = self.address;
        self.mm.readers.iter().filter_map(move |&key| {
            engine.held_by(key, |hold| hold.lock == Lock::MmapRead && hold.mm == address)
        })
    }

    /// The line before the `mmap_lock`, the longest wait first. The kernel may let a later one in before.
    pub fn waiting(&self) -> impl Iterator<Item = Waiting> + use<'a> {
        let engine = self.engine;
        let address = self.address;
        let line = &self.mm.waiters[..];
        line.iter().enumerate().filter_map(move |(at, key)| {
            // An interrupt may make a task stand in the line twice.
            let earlier = line[..at].iter().filter(|other| *other == key).count();
            engine.waiting_of(*key, |wait| wait.vma == 0 && wait.mm == address, earlier)
        })
    }
}

impl Engine {
    /// The task with that tid; none of the idle tasks, which share tid 0.
    pub fn task(&self, tid: u32) -> Option<TaskView<'_>> {
        let task = self.tasks.peek(u64::from(tid)).filter(|_| tid != 0)?;
        Some(TaskView {
            engine: self,
            task,
            key: tid,
        })
    }

    /// The VMA with that address of its `vm_area_struct`.
    pub fn vma(&self, address: u64) -> Option<VmaView<'_>> {
        let vma = self.vmas.peek(address)?;
        Some(VmaView {
            engine: self,
            vma,
            address,
        })
    }

    /// The address space with that address of its `mm_struct`.
    pub fn mm(&self, address: u64) -> Option<MmView<'_>> {
        let mm = self.mms.peek(address)?;
        Some(MmView {
            engine: self,
            mm,
            address,
        })
    }

    fn held_by(&self, key: TaskKey, is: impl Fn(&Hold) -> bool) -> Option<Held> {
        let task = self.tasks.peek(u64::from(key))?;
        let hold = task.holds.iter().rfind(|hold| is(hold))?;
        Some(Held {
            pid: task.pid,
            tid: task.tid,
            hold: Hold {
                certainty: self.now(hold.certainty, hold.epoch),
                ..*hold
            },
        })
    }

    fn waiting_of(&self, key: TaskKey, is: impl Fn(&Wait) -> bool, skip: usize) -> Option<Waiting> {
        let task = self.tasks.peek(u64::from(key))?;
        let wait = task.waits.iter().filter(|wait| is(wait)).nth(skip)?;
        Some(Waiting {
            pid: task.pid,
            tid: task.tid,
            wait: Wait {
                certainty: self.now(wait.certainty, wait.epoch),
                ..*wait
            },
        })
    }
}
