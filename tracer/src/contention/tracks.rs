//! Contention over time: who was in whose way, for how long, and what it did meanwhile.
//!
//! Only locks that somebody waits for while another is in the way are followed. Of each is noted who is at the end of
//! its chain, and since when: a *segment*. When a wait ends its time is divided among the segments that it has lived
//! through. Of several holders the one is followed that itself waits, else one that sleeps, else the oldest.

use std::collections::VecDeque;

use tracer_common::wire::{COMM_LEN, Event, Kind, Provenance};

use super::Limits;
use super::chains::{DEPTH, Doing, Person, Why};
use super::cycles::Cycles;
use super::rows::{Row, Rows};
use super::summary::Caused;
use crate::state::{Engine, Held, Lock, Place, RunState, Span, TaskView, What};

/// Locks that are followed at a time.
const TRACKS: usize = 64;
/// Segments of one lock that are kept.
const SEGMENTS: usize = 64;
/// Waits that were given up while the holds in their way go on.
const GIVEN_UP: usize = 256;

/// One holder in a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// What it holds.
    pub lock: Lock,
    /// Of what.
    pub place: Place,
    /// Since when, in nanoseconds.
    pub since_ns: u64,
    /// How surely.
    pub certainty: Provenance,
    /// How many others held the same lock.
    pub others: u32,
}

/// Who is in the way of those that wait for a lock, who is in the way of that one, and so on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    links: [Link; DEPTH],
    len: usize,
    /// What the last one does.
    pub doing: Doing,
    /// The stacks with which the last one left its processor; 0: none.
    pub stacks: (u32, u32),
}

impl Path {
    /// The holders, the nearest first.
    pub fn links(&self) -> &[Link] {
        &self.links[..self.len]
    }

    fn of(engine: &Engine, mm: u64, vma: u64) -> Self {
        let mut path = Self {
            doing: Doing::Nobody,
            ..Self::default()
        };
        let (mut mm, mut vma) = (mm, vma);
        while path.len < DEPTH {
            let Some((held, view, others)) = holder(engine, mm, vma) else {
                if path.len > 0 {
                    path.doing = Doing::Waiting;
                }
                return path;
            };
            let seen = path.links().iter().any(|link| link.tid == held.tid);
            path.links[path.len] = Link {
                pid: held.pid,
                tid: held.tid,
                lock: held.hold.lock,
                place: Place {
                    mm: held.hold.mm,
                    vma: held.hold.vma,
                    vm_start: held.hold.vm_start,
                    vm_end: held.hold.vm_end,
                },
                since_ns: held.hold.since_ns,
                certainty: held.hold.certainty,
                others,
            };
            path.len += 1;
            if seen {
                path.doing = Doing::Cycle;
                return path;
            }
            let Some(wait) = view.waits().last() else {
                let run = view.run();
                path.doing = Doing::of(&run);
                if run.state == RunState::Sleeping {
                    path.stacks = (run.kernel_stack, run.user_stack);
                }
                return path;
            };
            path.doing = Doing::Waiting;
            (mm, vma) = (wait.mm, wait.vma);
        }
        path
    }

    /// Whether it says the same, whatever its certainty.
    fn same(&self, other: &Self) -> bool {
        let key = |link: &Link| (link.tid, link.lock, link.place.mm, link.place.vma);
        (self.len, self.doing) == (other.len, other.doing)
            && self.links().iter().map(key).eq(other.links().iter().map(key))
    }
}

/// The one to look at of those who hold a lock, and how many others there are.
fn holder(engine: &Engine, mm: u64, vma: u64) -> Option<(Held, TaskView<'_>, u32)> {
    let mut best: Option<(u8, Held, TaskView<'_>)> = None;
    let mut count = 0_u32;
    let mut look = |held: Held| {
        count += 1;
        let Some(view) = engine.task(held.tid) else { return };
        let rank = if view.waits().next().is_some() {
            2
        } else {
            u8::from(view.run().state == RunState::Sleeping)
        };
        let better = best.as_ref().is_none_or(|(best, than, _)| {
            (rank, core::cmp::Reverse(held.hold.since_ns)) > (*best, core::cmp::Reverse(than.hold.since_ns))
        });
        if better {
            best = Some((rank, held, view));
        }
    };
    if vma == 0 {
        let mm = engine.mm(mm)?;
        match mm.writer_held() {
            Some(writer) => look(writer),
            None => mm.readers_held().for_each(look),
        }
    } else {
        engine.vma(vma)?.readers_held().for_each(look);
    }
    best.map(|(_, held, view)| (held, view, count.saturating_sub(1)))
}

/// Whom somebody waited for in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PairKey {
    /// Process of the one who waited.
    pub waiter_pid: u32,
    /// Its thread.
    pub waiter_tid: u32,
    /// What it waited for.
    pub wanted: Lock,
    /// Process at the end of the chain; 0: nobody.
    pub blocker_pid: u32,
    /// Its thread.
    pub blocker_tid: u32,
    /// What that one held; nothing if there was nobody.
    pub held: Option<Lock>,
    /// What that one did.
    pub doing: Doing,
}

/// How long.
#[derive(Clone, Copy, Debug, Default)]
pub struct PairRow {
    /// Command name of the one who waited, raw.
    pub waiter_comm: [u8; COMM_LEN],
    /// Command name of the one at the end of the chain, raw.
    pub blocker_comm: [u8; COMM_LEN],
    /// In nanoseconds.
    pub total_ns: u64,
    /// The longest time at a stretch.
    pub max_ns: u64,
    /// How many stretches.
    pub times: u64,
    /// How many holders were between, at most.
    pub between: u32,
    /// The least sure hold.
    pub certainty: Provenance,
    /// The stacks with which that one left its processor, at the longest; 0: none.
    pub stacks: (u32, u32),
    /// Rows that were merged into this one.
    pub merged: u64,
}

impl PairRow {
    /// Takes in another.
    pub fn merge(&mut self, other: &Self) {
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
        self.times += other.times;
        self.merged += 1 + other.merged;
    }
}

impl Row for PairRow {
    fn weight(&self) -> u64 {
        self.total_ns
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}

/// One wait with the chain behind it.
#[derive(Clone, Copy, Debug)]
pub struct LongChain {
    /// Who waited.
    pub person: Person,
    /// For what, how long.
    pub span: Span,
    /// Who was in the way for the longest part of it.
    pub path: Path,
    /// Command names of these.
    pub comms: [[u8; COMM_LEN]; DEPTH],
    /// How long that part was, in nanoseconds.
    pub path_ns: u64,
}

#[derive(Clone, Debug)]
struct Track {
    mm: u64,
    /// 0: the `mmap_lock`.
    vma: u64,
    segments: VecDeque<Segment>,
}

/// Who was in the way from that time on; nothing: several, each for a short time, there being too many to keep.
type Segment = (u64, Option<Path>);

/// Makes room for one more: the two that together are shortest become one of which it is not told who was in the way.
fn make_room(segments: &mut VecDeque<Segment>) {
    if segments.len() < SEGMENTS {
        return;
    }
    let length = |at: usize| segments[at + 2].0.saturating_sub(segments[at].0);
    if let Some(at) = (0..segments.len() - 2).min_by_key(|&at| length(at)) {
        segments[at].1 = None;
        segments.remove(at + 1);
    }
}

/// Contention over time; see the module.
#[derive(Clone, Debug)]
pub struct Tracks {
    tracks: Vec<Track>,
    spare: Vec<Track>,
    /// Whom somebody waited for in the end, and how long.
    pub pairs: Rows<PairKey, PairRow>,
    /// What had to go from there.
    pub other_pairs: PairRow,
    /// The longest waits with somebody in the way, the longest first.
    pub longest: Vec<LongChain>,
    limit: usize,
    /// Waiting time, in nanoseconds, during which nobody was known to be in the way: mostly of waits that met none.
    pub alone_ns: u64,
    /// Waits for locks that were not followed, there being too many at the time.
    pub not_followed: u64,
    /// Those who waited for each other.
    pub cycles: Cycles,
    given_up: Vec<(u32, Lock, u64, u64)>,
}

impl Tracks {
    /// With nothing in it.
    pub fn new(limits: &Limits) -> Self {
        Self {
            tracks: Vec::new(),
            spare: Vec::new(),
            pairs: Rows::new(limits.pairs),
            other_pairs: PairRow::default(),
            longest: Vec::with_capacity(limits.longest + 1),
            limit: limits.longest,
            alone_ns: 0,
            not_followed: 0,
            cycles: Cycles::default(),
            given_up: Vec::new(),
        }
    }

    fn position(&self, mm: u64, vma: u64) -> Option<usize> {
        self.tracks
            .iter()
            .position(|track| track.vma == vma && (vma != 0 || track.mm == mm))
    }

    /// How long others waited for a hold that just ended.
    #[inline]
    pub fn caused(&mut self, engine: &Engine, span: &Span) -> Caused {
        if self.tracks.is_empty() && self.given_up.is_empty() || span.lock == Lock::VmaWrite {
            return Caused::default();
        }
        self.caused_by(engine, span)
    }

    #[cold]
    fn caused_by(&mut self, engine: &Engine, span: &Span) -> Caused {
        let Some(ns) = span.ns else {
            return Caused::default();
        };
        let until = span.since_ns + ns;
        let mut caused = Caused::default();
        let mut add = |since_ns: u64, certainty: Provenance| {
            let overlap = until.saturating_sub(since_ns.max(span.since_ns));
            if certainty != Provenance::Unknown && overlap > 0 {
                caused.ns = caused.ns.saturating_add(overlap);
                caused.waiters += 1;
            }
        };
        if span.lock == Lock::VmaRead {
            let writer = engine.vma(span.place.vma).and_then(|vma| vma.writer_waiting());
            if let Some(writer) = writer {
                add(writer.wait.since_ns, writer.wait.certainty);
            }
        } else if let Some(mm) = engine.mm(span.place.mm) {
            let mut behind_writer = span.lock == Lock::MmapWrite;
            for waiting in mm.waiting().filter(|waiting| waiting.tid != span.who.tid) {
                // Readers wait for a reader only if a writer is between them.
                behind_writer |= waiting.wait.lock == Lock::MmapWrite;
                if behind_writer {
                    add(waiting.wait.since_ns, waiting.wait.certainty);
                }
            }
        }
        self.given_up.retain(|&(tid, lock, mm, ns)| {
            let of_it = (tid, lock, mm) == (span.who.tid, span.lock, span.place.mm);
            if of_it {
                caused.ns = caused.ns.saturating_add(ns);
                caused.waiters += 1;
            }
            !of_it
        });
        caused
    }

    /// A wait ended.
    #[inline]
    pub fn wait_ended(&mut self, engine: &Engine, span: &Span, comm: &[u8; COMM_LEN]) {
        self.cycles.wait_ended(span);
        let Some(ns) = span.ns else { return };
        let vma = if span.lock == Lock::VmaWrite {
            span.place.vma
        } else {
            0
        };
        if self.tracks.is_empty() {
            self.alone_ns = self.alone_ns.saturating_add(ns);
            return;
        }
        match self.position(span.place.mm, vma) {
            Some(at) => self.divide(engine, at, span, ns, comm),
            None => self.alone_ns = self.alone_ns.saturating_add(ns),
        }
    }

    #[cold]
    fn divide(&mut self, engine: &Engine, at: usize, span: &Span, ns: u64, comm: &[u8; COMM_LEN]) {
        let end = span.since_ns + ns;
        let mut rest = ns;
        let mut main: Option<(u64, Path)> = None;
        for segment in 0..self.tracks[at].segments.len() {
            let segments = &self.tracks[at].segments;
            let (from, path) = segments[segment];
            let to = segments.get(segment + 1).map_or(end, |next| next.0);
            let part = to.min(end).saturating_sub(from.max(span.since_ns)).min(rest);
            if part == 0 {
                continue;
            }
            rest -= part;
            let Some(path) = path else {
                self.other_pairs.merge(&PairRow {
                    total_ns: part,
                    max_ns: part,
                    times: 1,
                    ..PairRow::default()
                });
                continue;
            };
            self.pair(engine, span, &path, part, comm);
            if path.len > 0 && main.is_none_or(|(most, _)| part > most) {
                main = Some((part, path));
            }
        }
        self.alone_ns = self.alone_ns.saturating_add(rest);
        if let Some((path_ns, path)) = main {
            self.keep(engine, span, path, path_ns, comm);
            if span.what == What::GaveUp {
                self.gave_up(&path, path_ns);
            }
        }
    }

    fn gave_up(&mut self, path: &Path, ns: u64) {
        if let Some(link) = path.links().first()
            && self.given_up.len() < GIVEN_UP
        {
            self.given_up.push((link.tid, link.lock, link.place.mm, ns));
        }
    }

    fn pair(&mut self, engine: &Engine, span: &Span, path: &Path, ns: u64, comm: &[u8; COMM_LEN]) {
        let last = path.links().last();
        let key = PairKey {
            waiter_pid: span.who.pid,
            waiter_tid: span.who.tid,
            wanted: span.lock,
            blocker_pid: last.map_or(0, |link| link.pid),
            blocker_tid: last.map_or(0, |link| link.tid),
            held: last.map(|link| link.lock),
            doing: path.doing,
        };
        let others = &mut self.other_pairs;
        let mut gone = |_: &PairKey, row: &PairRow| others.merge(row);
        let new = PairRow {
            waiter_comm: *comm,
            blocker_comm: [0; COMM_LEN],
            total_ns: ns,
            max_ns: ns,
            times: 1,
            between: u32::try_from(path.len.saturating_sub(1)).unwrap_or(0),
            certainty: path
                .links()
                .iter()
                .map(|link| link.certainty)
                .max()
                .unwrap_or_default(),
            stacks: path.stacks,
            merged: 0,
        };
        let Some(at) = self.pairs.place(key, ns, &mut gone) else {
            self.other_pairs.merge(&new);
            return;
        };
        let row = self.pairs.at(at);
        if row.times == 0 {
            let blocker_comm = Person::of(engine, key.blocker_pid, key.blocker_tid).comm;
            *row = PairRow { blocker_comm, ..new };
            return;
        }
        row.total_ns = row.total_ns.saturating_add(ns);
        row.times += 1;
        row.between = row.between.max(new.between);
        row.certainty = row.certainty.max(new.certainty);
        if ns > row.max_ns {
            row.max_ns = ns;
            row.stacks = path.stacks;
        }
    }

    fn keep(&mut self, engine: &Engine, span: &Span, path: Path, path_ns: u64, comm: &[u8; COMM_LEN]) {
        let length = |chain: &LongChain| chain.span.ns.unwrap_or(0);
        let ns = span.ns.unwrap_or(0);
        let full = self.longest.len() >= self.limit;
        if full && self.longest.last().is_none_or(|last| ns <= length(last)) {
            return;
        }
        let at = self.longest.partition_point(|other| length(other) >= ns);
        let comms = core::array::from_fn(|at| {
            let link = path.links().get(at);
            link.map_or([0; COMM_LEN], |link| Person::of(engine, link.pid, link.tid).comm)
        });
        let person = Person {
            pid: span.who.pid,
            tid: span.who.tid,
            comm: *comm,
        };
        let chain = LongChain {
            person,
            span: *span,
            path,
            comms,
            path_ns,
        };
        self.longest.insert(at, chain);
        self.longest.truncate(self.limit);
    }

    /// What the event changes; after its notes.
    #[inline]
    pub fn event(&mut self, engine: &Engine, event: &Event) {
        let begins = matches!(
            event.kind,
            Kind::MmapStart | Kind::MmapAcquire | Kind::MmapDowngrade | Kind::VmaWriteStart
        );
        if begins {
            self.begin(engine, event);
        }
        if !self.tracks.is_empty() {
            self.refresh(engine, event);
        }
    }

    /// A new wait, or a new holder before those who wait.
    fn begin(&mut self, engine: &Engine, event: &Event) {
        let tid = event.header.tid;
        if event.kind == Kind::VmaWriteStart {
            let Some(address) = event.vma() else { return };
            if engine
                .vma(address)
                .is_some_and(|vma| vma.readers_held().next().is_some())
            {
                self.follow(engine, event.mm().unwrap_or(0), address, event.header.ts_ns);
                self.cycles.look(engine, tid);
            }
            return;
        }
        let Some(address) = event.mm() else { return };
        let Some(mm) = engine.mm(address) else { return };
        let starts = event.kind == Kind::MmapStart;
        let contended = if mm.writer_held().is_some() {
            mm.waiting().next().is_some()
        } else {
            let held = mm.readers_held().next().is_some();
            held && mm.waiting().any(|waiting| waiting.wait.lock == Lock::MmapWrite)
        };
        if contended {
            self.follow(engine, address, 0, event.header.ts_ns);
            if starts {
                self.cycles.look(engine, tid);
            }
        }
    }

    #[cold]
    fn follow(&mut self, engine: &Engine, mm: u64, vma: u64, ts_ns: u64) {
        if self.position(mm, vma).is_some() {
            return;
        }
        if self.tracks.len() >= TRACKS {
            self.not_followed += 1;
            return;
        }
        let mut track = self.spare.pop().unwrap_or_else(|| Track {
            mm,
            vma,
            segments: VecDeque::with_capacity(SEGMENTS),
        });
        (track.mm, track.vma) = (mm, vma);
        track.segments.clear();
        track.segments.push_back((ts_ns, Some(Path::of(engine, mm, vma))));
        self.tracks.push(track);
    }

    #[cold]
    fn refresh(&mut self, engine: &Engine, event: &Event) {
        let of_mmap_lock = matches!(
            event.kind,
            Kind::MmapStart | Kind::MmapAcquire | Kind::MmapFail | Kind::MmapRelease | Kind::MmapDowngrade
        );
        let of_sched = matches!(event.kind, Kind::SchedOut | Kind::SchedIn | Kind::TaskExit);
        let gap = event.kind == Kind::Gap;
        let tid = match event.other_task() {
            Some((_, tid)) => tid,
            None => event.header.tid,
        };
        let (mm, vma) = (event.mm().unwrap_or(0), event.vma().unwrap_or(0));
        let mut at = 0;
        while at < self.tracks.len() {
            let track = &self.tracks[at];
            let own = if track.vma == 0 {
                of_mmap_lock && mm == track.mm
            } else {
                vma == track.vma
            };
            let last = track
                .segments
                .back()
                .and_then(|(_, path)| *path)
                .unwrap_or_default();
            let inside = last.links().iter().any(|link| link.tid == tid);
            let by_holder = inside && (of_sched || of_mmap_lock || vma != 0 || event.kind == Kind::SchedWake);
            if !(own || by_holder || gap) {
                at += 1;
                continue;
            }
            let waited_for = if track.vma == 0 {
                engine
                    .mm(track.mm)
                    .is_some_and(|mm| mm.waiting().next().is_some())
            } else {
                engine
                    .vma(track.vma)
                    .is_some_and(|vma| vma.writer_waiting().is_some())
            };
            if !waited_for {
                let done = self.tracks.swap_remove(at);
                self.spare.push(done);
                continue;
            }
            let path = Path::of(engine, track.mm, track.vma);
            if path.same(&last) {
                at += 1;
                continue;
            }
            let segments = &mut self.tracks[at].segments;
            make_room(segments);
            segments.push_back((event.header.ts_ns, Some(path)));
            at += 1;
        }
    }
}

/// Who is in the way in one word, for tests and tables.
pub fn why_name(why: Why) -> &'static str {
    match why {
        Why::Holds => "holds",
        Why::Ahead => "ahead",
    }
}
