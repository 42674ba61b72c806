//! Who waits for whom at this instant, as trees, and those who wait for each other.
//!
//! A task that waits for a lock waits for whoever holds it; if nobody holds it in a way that would keep the task out,
//! for the writers before it in the line: a `rw_semaphore` lets no reader past a waiting writer while readers own it.
//! Whom such a one waits for in turn is the next level. An edge is as sure as the least sure of its facts: that the one
//! waits, and that the other holds. A place in the line is never more than *derived*, since the kernel may let a
//! later one in before.

use tracer_common::wire::{COMM_LEN, Provenance};

use crate::state::{Blocks, Engine, Hold, Lock, Place, Run, RunState, TaskView, Wait};

/// Deeper than this is not looked.
pub const DEPTH: usize = 8;
/// Edges of all trees of one snapshot.
const EDGES: usize = 4_096;
/// Who waits for each other for so long will not get on: a failing trylock is over by then.
pub const DEADLOCK_NS: u64 = 100_000_000;

/// What somebody does who keeps others waiting.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Doing {
    /// It is not known.
    #[default]
    Unknown = 0,
    /// It is on a processor.
    Running = 1,
    /// It could run, and has no processor.
    Runnable = 2,
    /// It waits for I/O.
    Io = 3,
    /// It sleeps while it reclaims memory.
    Reclaim = 4,
    /// It sleeps for another reason.
    Sleeping = 5,
    /// It waits for a lock, and whom for is not known.
    Waiting = 6,
    /// It waits for itself, through others or not.
    Cycle = 7,
    /// There is nobody: the lock was given back, and who waits has not got it yet; or the holder is not known.
    Nobody = 8,
}

impl Doing {
    /// All, by number.
    pub const ALL: [Self; 9] = [
        Self::Unknown,
        Self::Running,
        Self::Runnable,
        Self::Io,
        Self::Reclaim,
        Self::Sleeping,
        Self::Waiting,
        Self::Cycle,
        Self::Nobody,
    ];

    /// Those that [`Self::of`] can say.
    pub const OF_RUN: [Self; 6] = [
        Self::Unknown,
        Self::Running,
        Self::Runnable,
        Self::Io,
        Self::Reclaim,
        Self::Sleeping,
    ];

    /// The name in all output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Running => "running",
            Self::Runnable => "runnable",
            Self::Io => "io",
            Self::Reclaim => "reclaim",
            Self::Sleeping => "sleeping",
            Self::Waiting => "waiting",
            Self::Cycle => "cycle",
            Self::Nobody => "nobody",
        }
    }

    /// Of a task that waits for no lock.
    pub const fn of(run: &Run) -> Self {
        match run.state {
            RunState::Unknown => Self::Unknown,
            RunState::Running => Self::Running,
            RunState::Runnable => Self::Runnable,
            RunState::Sleeping if run.iowait => Self::Io,
            RunState::Sleeping if run.reclaim => Self::Reclaim,
            RunState::Sleeping => Self::Sleeping,
        }
    }
}

/// A task in a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Person {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Command name, raw.
    pub comm: [u8; COMM_LEN],
}

impl Person {
    pub(super) fn of(engine: &Engine, pid: u32, tid: u32) -> Self {
        let task = engine.task(tid).map(|view| view.task());
        Self {
            pid,
            tid,
            comm: task
                .filter(|task| task.pid == pid)
                .map_or([0; COMM_LEN], |task| task.comm),
        }
    }
}

/// How somebody is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It holds the lock.
    Holds,
    /// It waits for the lock too, and came first.
    Ahead,
}

/// Somebody who is in the way of another.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Who.
    pub person: Person,
    /// How.
    pub why: Why,
    /// The lock that it holds, or waits for.
    pub lock: Lock,
    /// Of what.
    pub place: Place,
    /// Since when it holds or waits, in nanoseconds.
    pub since_ns: u64,
    /// Whether that is when it began, and not just when it was first known.
    pub since_known: bool,
    /// How surely it is in the way.
    pub certainty: Provenance,
    /// What it does.
    pub doing: Doing,
    /// What it does with its processor, with the stacks with which it left it.
    pub run: Run,
    /// Number of the kernel and the user stack with which it took the lock; 0: not known.
    pub stacks: (u32, u32),
    /// Whom it waits for in turn.
    pub next: Vec<Edge>,
}

/// A task that waits, and for whom.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Who waits.
    pub person: Person,
    /// For which lock, since when.
    pub wait: Wait,
    /// Of what.
    pub place: Place,
    /// Others that are to wait for it in turn, directly.
    pub waited_for_by: u32,
    /// Who is in the way; nobody: it is not known who, or the lock was just given back.
    pub blocked_by: Vec<Edge>,
}

/// Tasks each of which waits for the next, and the last for the first.
#[derive(Clone, Debug)]
pub struct Cycle {
    /// Who, and for what; the lowest tid first.
    pub members: Vec<(Person, Wait)>,
    /// Since when all of them wait, in nanoseconds.
    pub since_ns: u64,
    /// As sure as the least sure of its edges.
    pub certainty: Provenance,
}

impl Cycle {
    /// Whether nobody in it will get on. Otherwise it may be a trylock that is about to fail, or doubtful.
    pub fn is_deadlock(&self, now_ns: u64) -> bool {
        self.certainty <= Provenance::Derived && now_ns.saturating_sub(self.since_ns) >= DEADLOCK_NS
    }
}

/// All who wait at this instant.
#[derive(Clone, Debug, Default)]
pub struct Chains {
    /// By waiter, the longest wait first.
    pub trees: Vec<Tree>,
    /// Those who wait for each other.
    pub cycles: Vec<Cycle>,
    /// Whether there was more than is kept.
    pub truncated: bool,
}

impl Chains {
    /// Looks at each task once, and at whom it waits for.
    pub fn of(engine: &Engine) -> Self {
        let mut walk = Walk {
            engine,
            path: Vec::new(),
            cycles: Vec::new(),
            edges: 0,
        };
        let mut trees: Vec<Tree> = Vec::new();
        for view in engine.tasks() {
            for wait in view.waits() {
                let task = view.task();
                let person = Person {
                    pid: task.pid,
                    tid: task.tid,
                    comm: task.comm,
                };
                let blocked_by = walk.edges_of(view, &wait, person);
                trees.push(Tree {
                    person,
                    place: place(engine, wait.mm, wait.vma),
                    wait,
                    waited_for_by: 0,
                    blocked_by,
                });
            }
        }
        let mut waited_for: rustc_hash::FxHashMap<u32, u32> = rustc_hash::FxHashMap::default();
        for edge in trees.iter().flat_map(|tree| &tree.blocked_by) {
            *waited_for.entry(edge.person.tid).or_default() += 1;
        }
        for tree in &mut trees {
            tree.waited_for_by = waited_for.get(&tree.person.tid).copied().unwrap_or(0);
        }
        trees.sort_by_key(|tree| (tree.wait.since_ns, tree.person.tid));
        Self {
            trees,
            cycles: walk.cycles,
            truncated: walk.edges >= EDGES,
        }
    }

    /// Those of [`Self::trees`] that are part of no other one.
    pub fn roots(&self) -> impl Iterator<Item = &Tree> {
        self.trees.iter().filter(|tree| tree.waited_for_by == 0)
    }
}

/// What is known of a place of which the addresses are.
pub(super) fn place(engine: &Engine, mm: u64, vma: u64) -> Place {
    let view = if vma == 0 { None } else { engine.vma(vma) };
    Place {
        mm,
        vma,
        vm_start: view.map_or(0, |view| view.vma().vm_start),
        vm_end: view.map_or(0, |view| view.vma().vm_end),
    }
}

/// Whether the waiters that came first are certain to keep later ones out: readers own the lock.
fn certainty_of_line(engine: &Engine, wait: &Wait) -> Provenance {
    let owned = engine.mm(wait.mm).is_some_and(|mm| {
        mm.readers_held()
            .any(|held| held.hold.certainty <= Provenance::Derived)
    });
    if owned {
        Provenance::Derived
    } else {
        Provenance::Bounded
    }
}

struct Step {
    person: Person,
    wait: Wait,
    /// Of the edge that leads on from here.
    certainty: Provenance,
}

struct Walk<'a> {
    engine: &'a Engine,
    path: Vec<Step>,
    cycles: Vec<Cycle>,
    edges: usize,
}

impl Walk<'_> {
    fn edges_of(&mut self, view: TaskView<'_>, wait: &Wait, person: Person) -> Vec<Edge> {
        let engine = self.engine;
        let same = |other: &Wait| (other.lock, other.mm, other.vma) == (wait.lock, wait.mm, wait.vma);
        self.path.push(Step {
            person,
            wait: *wait,
            certainty: Provenance::Observed,
        });
        let mut edges = Vec::new();
        for blocker in view.blockers() {
            if !same(&blocker.wait) || self.edges >= EDGES {
                continue;
            }
            self.edges += 1;
            let mut certainty = blocker.certainty();
            let edge = match blocker.why {
                Blocks::Holds(hold) => self.edge(blocker.pid, blocker.tid, &hold),
                Blocks::Ahead(ahead) => {
                    certainty = certainty.max(certainty_of_line(engine, wait));
                    Edge {
                        why: Why::Ahead,
                        lock: ahead.lock,
                        place: place(engine, ahead.mm, ahead.vma),
                        since_ns: ahead.since_ns,
                        since_known: true,
                        ..self.edge(blocker.pid, blocker.tid, &Hold::default())
                    }
                }
            };
            if let Some(last) = self.path.last_mut() {
                last.certainty = certainty;
            }
            edges.push(self.follow(Edge { certainty, ..edge }));
        }
        self.path.pop();
        edges
    }

    fn edge(&self, pid: u32, tid: u32, hold: &Hold) -> Edge {
        let run = self.engine.task(tid).map(|view| view.run()).unwrap_or_default();
        Edge {
            person: Person::of(self.engine, pid, tid),
            why: Why::Holds,
            lock: hold.lock,
            place: Place {
                mm: hold.mm,
                vma: hold.vma,
                vm_start: hold.vm_start,
                vm_end: hold.vm_end,
            },
            since_ns: hold.since_ns,
            since_known: hold.start_known,
            certainty: hold.certainty,
            doing: Doing::of(&run),
            run,
            stacks: hold.stacks,
            next: Vec::new(),
        }
    }

    fn follow(&mut self, mut edge: Edge) -> Edge {
        let engine = self.engine;
        if let Some(at) = self
            .path
            .iter()
            .position(|step| step.person.tid == edge.person.tid)
        {
            edge.doing = Doing::Cycle;
            self.cycle(at);
            return edge;
        }
        let Some(view) = engine.task(edge.person.tid) else {
            return edge;
        };
        for wait in view.waits() {
            if self.path.len() < DEPTH {
                let next = self.edges_of(view, &wait, edge.person);
                edge.next.extend(next);
            }
            edge.doing = Doing::Waiting;
        }
        edge
    }

    /// The path from there on leads back to where it begins.
    fn cycle(&mut self, at: usize) {
        let steps = &self.path[at..];
        let Some(first) = (0..steps.len()).min_by_key(|&at| steps[at].person.tid) else {
            return;
        };
        let members: Vec<(Person, Wait)> = steps[first..]
            .iter()
            .chain(&steps[..first])
            .map(|step| (step.person, step.wait))
            .collect();
        let known = |cycle: &Cycle| {
            let tids =
                |members: &[(Person, Wait)]| members.iter().map(|(one, _)| one.tid).collect::<Vec<_>>();
            tids(&cycle.members) == tids(&members)
        };
        if self.cycles.iter().any(known) {
            return;
        }
        let since_ns = members.iter().map(|(_, wait)| wait.since_ns).max().unwrap_or(0);
        let certainty = steps.iter().map(|step| step.certainty).max().unwrap_or_default();
        self.cycles.push(Cycle {
            members,
            since_ns,
            certainty,
        });
    }
}
