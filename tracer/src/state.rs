//! The engine: from events to who holds, who waits, and since when.
//!
//! It is pure: no clock, no I/O; all time comes from events, so that live, replayed and made-up
//! streams give the same answers. Events must come in the order of [`crate::order`].
//!
//! # What is derived
//!
//! The release of a VMA read lock is an event of its own wherever a probe can be at the place. Where none can, the
//! engine makes the `vma_read_release` itself and hands it on with the others ([`Meta::derived`]):
//!
//! * after a `fault_end` under the VMA lock without RETRY or COMPLETED: *derived*, the kernel
//!   gives the lock back right after (if [`tracer_common::site::USER`] is attached);
//! * after one with RETRY or COMPLETED, if no release was seen inside: *bounded*, it was given back
//!   somewhere within the fault;
//! * before an event that proves it gone: *bounded* between the acquire and that event. A VMA read
//!   lock is never kept across a return to user mode, no task waits for `mmap_lock` while it holds
//!   one, and no VMA is write-locked or detached while it is read-locked. One system call holds two
//!   at a time (moving pages by userfaultfd), so a second acquire alone proves nothing, a third does.
//!
//! Where all releases are seen, or follow from what is, these last two should not occur: a hold that is gone all the
//! same is closed like that, and counted as an anomaly, a *coverage hole*. Where some places are known not to be seen
//! (`unseen` in [`SourceInfo`]) it is none. With lockdep as a source its releases are exact, and its acquires date the
//! start of a hold that a `vma_read_acquire` confirms; what it confirms not was a temporary reader.
//!
//! Every hold says how surely its start and its end are known, and within what bound: the start in [`Hold`] and, at its
//! end, in [`Meta::hold`], the end as the provenance of the event that ends it.
//!
//! A derived event has cpu, number, site and time of the event that it comes from, and the task
//! whose lock it is, which is another one if a writer's progress proves a reader gone.
//!
//! # What is not known
//!
//! Knowledge has an *epoch*. A gap ends it, since the lost events may have been about anything: all
//! holds and waits of earlier epochs are from then on of unknown certainty, until new events
//! confirm them. That costs nothing: nothing is walked. At the attach nothing is known either, and
//! a release whose acquire was not seen is then no error but an *unknown start*. What contradicts the
//! state with no gap to explain it is counted as an [`Anomaly`], and the newest event is believed. Of a
//! stream that was cut down to some kinds of events (`--only`) nothing is called an anomaly.
//!
//! Memory is bounded by [`Limits`]: what has been idle for long makes room, and is counted.

mod attempt;
mod counters;
mod fault;
pub(crate) mod hist;
mod life;
mod lock;
mod lockdep;
mod mmap;
mod notes;
mod recent;
mod run;
mod sites;
mod small;
mod table;
mod task;
mod view;
mod vma;
mod waiting;
mod whole;

use tracer_common::site::FIRST_DYNAMIC;
use tracer_common::wire::{Event, Kind, Provenance, Reason, flag};

use crate::info::SourceInfo;
pub use counters::{
    ANOMALIES_KEPT, Anomaly, AnomalyKind, Balance, ByReason, BySurety, Durations, Faults, TaskCounters,
    Totals,
};
pub use hist::Histogram;
pub use lock::{Mm, Vma, WriteLocked};
use lock::{TaskKey, unlink};
use notes::Notes;
pub use notes::{Note, Place, Round, RoundEnd, Span, What, Who};
use recent::Recent;
pub use run::{Run, RunState};
use sites::Sites;
use table::Table;
pub use task::{Frame, Hold, Lock, Start, Task, Wait};
pub(crate) use view::{Busy, VmaEntry};
pub use view::{Held, MmView, Standing, TaskView, VmaView};
pub use waiting::{Blocker, Blocks, Waiting};

/// How surely an event is known, beside the event itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// How surely.
    pub provenance: Provenance,
    /// The event happened at most so long before or after its time, in nanoseconds, if that is known.
    pub bound_ns: Option<u64>,
    /// Whether the engine made the event; it is in no recording then.
    pub derived: bool,
    /// When the hold began that this event ends, if it ends a known one.
    pub hold: Option<Start>,
}

/// Upper bounds on what is remembered.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tasks.
    pub tasks: usize,
    /// VMAs.
    pub vmas: usize,
    /// Address spaces.
    pub mms: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tasks: 1 << 14,
            vmas: 1 << 17,
            mms: 1 << 13,
        }
    }
}

/// More holds than this at a time no task has: the releases of the oldest were not seen.
const HOLDS_LIMIT: usize = 64;
/// The same for faults in faults.
const FRAMES_LIMIT: usize = 8;
/// The same for waits, of which an interrupt may add one.
const WAITS_LIMIT: usize = 4;
/// The same for VMAs that are write-locked in one address space.
const WRITE_LOCKED_LIMIT: usize = 1 << 17;

/// What had to make room: how many, and how many of those were in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aged {
    /// Tasks.
    pub tasks: (u64, u64),
    /// VMAs.
    pub vmas: (u64, u64),
    /// Address spaces.
    pub mms: (u64, u64),
}

/// The state of all tasks and locks; see the module. A clone is the state at this instant, to go on from later.
#[derive(Clone, Debug)]
pub struct Engine {
    tasks: Table<Task>,
    vmas: Table<Vma>,
    mms: Table<Mm>,
    /// Never 0, which stands for "never known".
    epoch: u32,
    /// Source of [`Mm::write_life`]; each value is used once.
    lives: u64,
    now_ns: u64,
    sites: Sites,
    self_pid: u32,
    /// Whether all kinds of events were asked for; else what looks wrong was only left out.
    whole: bool,
    /// Derived events that go out before and after the one at hand.
    before: Vec<(Event, Meta)>,
    after: Vec<(Event, Meta)>,
    /// The event at hand as it should have been.
    rewritten: Option<Event>,
    /// How surely the event at hand is known, and within what bound.
    own: (Provenance, Option<u64>),
    /// The start of the hold that the event at hand ends.
    ended: Option<Start>,
    /// The VMA that the task's event before the one at hand gave back.
    echo: Option<u64>,
    /// The task of the latest event.
    current: u32,
    /// Whether the scheduler's events are there: then who makes an event of its own runs, until one says otherwise.
    runs_known: bool,
    totals: Totals,
    anomalies: Vec<Anomaly>,
    recent: Recent,
    notes: Notes,
    aged_counters: TaskCounters,
    aged_self: TaskCounters,
}

impl Engine {
    /// For a stream that `info` tells about.
    pub fn new(info: &SourceInfo) -> Self {
        Self::with_limits(info, Limits::default())
    }

    /// As [`Self::new`], with other bounds on memory.
    pub fn with_limits(info: &SourceInfo, limits: Limits) -> Self {
        Self {
            tasks: Table::new(limits.tasks),
            vmas: Table::new(limits.vmas),
            mms: Table::new(limits.mms),
            epoch: 1,
            lives: 0,
            now_ns: info.start_monotonic_ns,
            sites: Sites::new(info),
            self_pid: info.self_pid,
            whole: info.has_all_kinds(),
            before: Vec::new(),
            after: Vec::new(),
            rewritten: None,
            own: (Provenance::Observed, None),
            ended: None,
            echo: None,
            current: 0,
            runs_known: false,
            totals: Totals::default(),
            anomalies: Vec::new(),
            recent: Recent::default(),
            notes: Notes::default(),
            aged_counters: TaskCounters::default(),
            aged_self: TaskCounters::default(),
        }
    }

    /// Takes one event in; `out` gets it and the events derived from it, in order.
    #[inline]
    pub fn apply(&mut self, event: &Event, out: &mut impl FnMut(&Event, &Meta)) {
        self.before.clear();
        self.after.clear();
        self.rewritten = None;
        self.ended = None;
        self.notes.clear(event);
        self.now_ns = self.now_ns.max(event.header.ts_ns);
        let meta = if event.kind == Kind::Gap {
            self.totals.gaps += 1;
            self.totals.missing += u64::from(event.body.arg);
            self.explain_since(event.body.vm_start);
            self.forget();
            Meta {
                provenance: Provenance::Observed,
                bound_ns: None,
                derived: false,
                hold: None,
            }
        } else {
            self.totals.received += 1;
            let meta = self.meta(event);
            self.own = (meta.provenance, meta.bound_ns);
            self.take(event);
            Meta {
                hold: self.ended,
                ..meta
            }
        };
        for (event, meta) in &self.before {
            self.totals.derived += 1;
            self.totals.count(event.kind, meta.provenance);
            out(event, meta);
        }
        let event = self.rewritten.as_ref().unwrap_or(event);
        self.totals.count(event.kind, meta.provenance);
        out(event, &meta);
        for (event, meta) in &self.after {
            self.totals.derived += 1;
            self.totals.count(event.kind, meta.provenance);
            out(event, meta);
        }
    }

    /// Makes all that is held and awaited uncertain, as a gap does. For losses that leave no hole in
    /// the numbering, such as runs of a probe that the kernel skipped.
    pub fn forget(&mut self) {
        // 2^32 gaps later an old hold would be believed again; that many take longer than any hold.
        self.epoch = self.epoch.checked_add(1).unwrap_or(1);
    }

    /// What was counted.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The first anomalies, up to [`ANOMALIES_KEPT`]; [`Totals::anomalies`] has the number of all.
    pub fn anomalies(&self) -> &[Anomaly] {
        &self.anomalies
    }

    /// What had to make room.
    pub fn aged(&self) -> Aged {
        Aged {
            tasks: self.tasks.aged(),
            vmas: self.vmas.aged(),
            mms: self.mms.aged(),
        }
    }

    /// Time of the latest event, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Counters of all tasks, those included that had to make room.
    pub fn all_tasks(&self) -> TaskCounters {
        let mut sum = self.aged_counters;
        for (_, task) in self.tasks.iter() {
            sum.add(&task.counters);
        }
        sum
    }

    /// Counters of the tracer's own tasks.
    pub fn own_tasks(&self) -> TaskCounters {
        let mut sum = self.aged_self;
        for (_, task) in self.tasks.iter() {
            if task.pid == self.self_pid {
                sum.add(&task.counters);
            }
        }
        sum
    }

    fn meta(&self, event: &Event) -> Meta {
        let site = self.sites.get(event.header.site);
        let own = event.provenance();
        Meta {
            provenance: site.map_or(own, |site| own.max(site.provenance)),
            bound_ns: site.and_then(|site| site.bound_ns),
            derived: false,
            hold: None,
        }
    }

    #[inline]
    fn take(&mut self, event: &Event) {
        if is_beside_locks(event.kind) {
            self.take_beside(event);
            return;
        }
        let t = self.enter(event);
        self.current = t;
        if let Some(put) = self.tasks[t].open_put {
            self.tasks[t].open_put = None;
            self.resolve_put(t, put, event);
        }
        if event.header.site >= FIRST_DYNAMIC && event.has(flag::READ_FAULT) && event.vma().is_none() {
            // Some lock changed, and it is not known which.
            self.anomaly(AnomalyKind::NotAVma, event, None);
            self.forget();
            return;
        }
        self.drop_stale_waits(t, event.kind);
        self.end_attempt(t, event.kind);
        self.echo = self.tasks[t].echo.take();
        self.settle_tentative(t, event);
        match event.kind {
            Kind::MmapStart => self.mmap_start(t, event),
            Kind::MmapAcquire => self.mmap_acquire(t, event),
            Kind::MmapFail => self.mmap_fail(t, event),
            Kind::MmapRelease => self.mmap_release(t, event),
            Kind::MmapDowngrade => self.mmap_downgrade(t, event),
            Kind::VmaReadAcquire => self.vma_read_acquire(t, event),
            Kind::VmaReadFail => self.vma_read_fail(t, event),
            Kind::VmaReadRelease => self.vma_read_release(t, event),
            Kind::VmaReadRefused => self.vma_read_refused(t, event),
            Kind::VmaReadTemporary => self.vma_read_temporary(t, event),
            Kind::VmaWriteStart => self.vma_write_start(t, event),
            Kind::VmaWriteAcquire => self.vma_write_acquire(t, event),
            Kind::VmaWriteFail => self.vma_write_fail(t, event),
            Kind::VmaDetach => self.vma_detach(event),
            Kind::VmaAttach => self.vma_attach(event),
            Kind::FaultBegin => self.fault_begin(t, event),
            Kind::FaultEnd => self.fault_end(t, event),
            Kind::LockdepAcquire => self.lockdep_acquire(t, event),
            Kind::LockdepRelease => self.lockdep_release(t, event),
            Kind::TaskFork | Kind::TaskExec | Kind::TaskExit => {}
            Kind::SchedOut | Kind::SchedIn | Kind::SchedWake | Kind::Stack | Kind::Hold => {}
            Kind::Gap => {}
        }
    }

    /// What a task does beside its locks. It may come between any two events about them, and ends no wait, try or
    /// release whose meaning is still open.
    fn take_beside(&mut self, event: &Event) {
        let t = self.enter(event);
        self.current = t;
        match event.kind {
            Kind::TaskFork => self.task_fork(event),
            Kind::TaskExec => self.task_exec(t, event),
            Kind::TaskExit => self.task_exit(t, event),
            Kind::SchedOut => self.sched_out(t, event),
            Kind::SchedIn => self.sched_in(t, event),
            Kind::SchedWake => self.sched_wake(event),
            Kind::Stack => self.stack(t, event),
            Kind::Hold => self.whole_hold(t, event),
            _ => {}
        }
    }

    /// Who does something does not wait: a wait from before a gap is over, unless this event ends it.
    #[inline]
    fn drop_stale_waits(&mut self, t: u32, kind: Kind) {
        let ends_wait = matches!(
            kind,
            Kind::MmapAcquire | Kind::MmapFail | Kind::VmaWriteAcquire | Kind::VmaWriteFail
        );
        if ends_wait || self.tasks[t].waits.is_empty() {
            return;
        }
        let epoch = self.epoch;
        while let Some(wait) = self.take_wait(t, |wait| wait.epoch != epoch) {
            self.totals.waits_unknown[wait.lock as usize] += 1;
            self.note_wait(t, &wait, What::Wait, None);
        }
    }

    /// Finds or makes the task of an event.
    #[inline]
    fn enter(&mut self, event: &Event) -> u32 {
        let header = &event.header;
        let key = u64::from(task_key(event));
        let t = match self.tasks.find(key) {
            Some(t) if self.tasks[t].pid == header.pid => t,
            Some(t) => {
                self.replace_task(t);
                t
            }
            None => self.insert_task(key),
        };
        let task = &mut self.tasks[t];
        task.tid = header.tid;
        task.pid = header.pid;
        task.comm = header.comm;
        task.last_ns = header.ts_ns;
        task.counters.events += 1;
        if self.runs_known && !task.run.says_running(self.epoch) {
            self.is_running(t, header.ts_ns);
        }
        t
    }

    #[cold]
    fn insert_task(&mut self, key: u64) -> u32 {
        let room = self.tasks.make_room();
        if let Some(old) = room {
            self.unlink_task(old);
        }
        let (t, old) = self.tasks.insert(room, key, Task::default());
        if let Some(old) = old {
            self.keep_counters(&old);
        }
        t
    }

    fn keep_counters(&mut self, old: &Task) {
        self.aged_counters.add(&old.counters);
        if old.pid == self.self_pid {
            self.aged_self.add(&old.counters);
        }
    }

    /// Takes a task that is to be forgotten out of everything that refers to it.
    fn unlink_task(&mut self, t: u32) {
        while !self.tasks[t].holds.is_empty() {
            self.lose_hold(t, 0);
        }
        let key = self.key(t);
        for at in 0..self.tasks[t].waits.len() {
            let wait = self.tasks[t].waits[at];
            self.unlink_wait(key, &wait);
        }
        self.tasks[t].waits.clear();
        match self.tasks[t].open_put.take() {
            Some(put) if put.by_lockdep => self.count_temporary(t, put.vma, Reason::Unknown),
            Some(_) => self.book_unknown_put(),
            None => {}
        }
    }

    /// The VMA of an event, with what the event tells of it.
    fn vma_of(&mut self, event: &Event) -> Option<u32> {
        let address = event.vma()?;
        let v = match self.vmas.find(address) {
            Some(v) => v,
            None => self.insert_vma(address),
        };
        let starts_life = matches!(
            event.kind,
            Kind::VmaReadAcquire | Kind::FaultBegin | Kind::VmaWriteStart | Kind::VmaWriteAcquire
        );
        let vma = &self.vmas[v];
        let foreign = event.mm().is_some_and(|mm| vma.mm != 0 && mm != vma.mm);
        let elsewhere = event
            .range()
            .is_some_and(|range| range != (vma.vm_start, vma.vm_end));
        let comes_back = vma.detached && event.kind == Kind::VmaAttach;
        if foreign || (vma.detached && starts_life) || (comes_back && elsewhere && vma.vm_end != 0) {
            self.recycle_vma(v, event);
        }
        let vma = &mut self.vmas[v];
        vma.last_ns = event.header.ts_ns;
        if let Some(mm) = event.mm() {
            vma.mm = mm;
        }
        if let Some((start, end)) = event.range() {
            (vma.vm_start, vma.vm_end) = (start, end);
        }
        if let Some(refcnt) = event.vm_refcnt() {
            vma.vm_refcnt = Some(refcnt);
        }
        if let Some(seq) = event.vm_lock_seq() {
            vma.vm_lock_seq = Some(seq);
        }
        Some(v)
    }

    #[cold]
    fn insert_vma(&mut self, address: u64) -> u32 {
        let room = self.vmas.make_room();
        if let Some(old) = room {
            let address = self.vmas.key(old);
            while let Some(&key) = self.vmas[old].readers.first() {
                match self.reader(key, address) {
                    Some((t, at)) => self.lose_hold(t, at),
                    None => unlink(&mut self.vmas[old].readers, key),
                }
            }
            if let Some(key) = self.vmas[old].waiting_writer.take() {
                self.drop_waits(key, |wait| wait.vma == address);
            }
        }
        self.vmas.insert(room, address, Vma::default()).0
    }

    /// The address space with that address.
    fn mm_of(&mut self, address: u64, event: &Event) -> u32 {
        let m = match self.mms.find(address) {
            Some(m) => m,
            None => self.insert_mm(address, event.header.pid),
        };
        let mm = &mut self.mms[m];
        mm.last_ns = event.header.ts_ns;
        if let Some(seq) = event.mm_lock_seq() {
            mm.mm_lock_seq = Some(seq);
        }
        m
    }

    #[cold]
    fn insert_mm(&mut self, address: u64, pid: u32) -> u32 {
        let room = self.mms.make_room();
        if let Some(old) = room {
            let address = self.mms.key(old);
            self.totals.books(Lock::VmaWrite).lost += self.mms[old].write_count();
            self.lose_others(old, None);
            while let Some(&key) = self.mms[old].waiters.first() {
                self.drop_waits(key, |wait| wait.vma == 0 && wait.mm == address);
                unlink(&mut self.mms[old].waiters, key);
            }
            self.lose_links(old, u64::MAX);
        }
        self.lives += 1;
        let mm = Mm {
            pid,
            write_life: self.lives,
            ..Mm::default()
        };
        self.mms.insert(room, address, mm).0
    }

    #[inline]
    fn key(&self, t: u32) -> TaskKey {
        // Keys are made from 32 bits by `task_key`.
        u32::try_from(self.tasks.key(t)).unwrap_or(u32::MAX)
    }

    /// A task and its hold on a VMA, by the task's key.
    fn reader(&mut self, key: TaskKey, vma: u64) -> Option<(u32, usize)> {
        let t = self.tasks.find(u64::from(key))?;
        Some((t, self.tasks[t].read_of(vma)?))
    }

    fn add_hold(&mut self, t: u32, hold: Hold) {
        if self.tasks[t].holds.len() >= HOLDS_LIMIT {
            self.lose_hold(t, 0);
        }
        let key = self.key(t);
        match hold.lock {
            Lock::MmapRead => {
                if let Some(m) = self.mms.find(hold.mm) {
                    self.mms[m].readers.push(key);
                }
            }
            Lock::MmapWrite => {
                if let Some(m) = self.mms.find(hold.mm) {
                    self.mms[m].writer = Some(key);
                }
            }
            Lock::VmaRead => {
                self.link(t, hold.mm);
                if let Some(v) = self.vmas.find(hold.vma) {
                    self.vmas[v].readers.push(key);
                }
            }
            Lock::VmaWrite => {}
        }
        self.tasks[t].holds.push(hold);
    }

    /// Takes a hold away, and out of everything that refers to it.
    fn drop_hold(&mut self, t: u32, at: usize) -> Hold {
        let key = self.key(t);
        let hold = self.tasks[t].holds.remove(at);
        match hold.lock {
            Lock::MmapRead => {
                if let Some(m) = self.mms.find(hold.mm) {
                    unlink(&mut self.mms[m].readers, key);
                }
            }
            Lock::MmapWrite => {
                if let Some(m) = self.mms.find(hold.mm)
                    && self.mms[m].writer == Some(key)
                {
                    self.mms[m].writer = None;
                }
            }
            Lock::VmaRead => {
                if let Some(v) = self.vmas.find(hold.vma) {
                    unlink(&mut self.vmas[v].readers, key);
                }
                self.unlink(hold.mm);
                for frame in self.tasks[t].frames.iter_mut() {
                    frame.released |= frame.vma == hold.vma;
                }
            }
            Lock::VmaWrite => {}
        }
        hold
    }

    /// A hold is over; how surely that is known, and within what bound.
    fn end_hold(&mut self, t: u32, at: usize, ts_ns: u64, end: (Provenance, Option<u64>)) -> Hold {
        let hold = self.drop_hold(t, at);
        self.totals.gave(hold.lock, end.0);
        self.record_hold(t, &hold, ts_ns, end.0);
        hold
    }

    /// When a hold began, as far as that still counts: a gap since then may have hidden that it ended and began anew.
    fn start_of(&self, hold: &Hold) -> Start {
        let known = hold.epoch == self.epoch;
        Start {
            since_ns: hold.since_ns,
            provenance: if known { hold.start } else { Provenance::Unknown },
            bound_ns: hold.start_bound_ns.filter(|_| known),
        }
    }

    fn record_hold(&mut self, t: u32, hold: &Hold, ts_ns: u64, end: Provenance) {
        let how = self.start_of(hold).provenance.max(end);
        if how <= Provenance::Derived {
            let lock = hold.lock as usize;
            let ns = ts_ns.saturating_sub(hold.since_ns);
            self.totals.holds[lock].record(ns);
            self.totals.holds_by[lock][how as usize] += 1;
            self.tasks[t].counters.holds[lock].record(ns);
            self.note_hold(t, hold, Some(ns), how);
        } else {
            self.totals.unknown_hold(hold.lock, how);
            self.note_hold(t, hold, None, how);
        }
    }

    /// A hold is gone, nobody knows since when; with the write side of an `mmap_lock` go the VMA write locks under it.
    fn lose_hold(&mut self, t: u32, at: usize) {
        let hold = &self.tasks[t].holds[at];
        if hold.lock == Lock::MmapWrite
            && let Some(m) = self.mms.find(hold.mm)
            && self.mms[m].writer == Some(self.key(t))
        {
            self.end_vma_writes(None, m, self.now_ns);
        }
        self.lose_this_hold(t, at);
    }

    /// As [`Self::lose_hold`], but the VMA write locks are still held: only this one was doubtful.
    fn lose_this_hold(&mut self, t: u32, at: usize) {
        let hold = self.drop_hold(t, at);
        self.totals.books(hold.lock).lost += 1;
        self.totals.unknown_hold(hold.lock, Provenance::Unknown);
        self.note_hold(t, &hold, None, Provenance::Unknown);
    }

    fn record_wait(&mut self, t: u32, wait: &Wait, ts_ns: u64) {
        let lock = wait.lock as usize;
        if wait.epoch == self.epoch {
            let ns = ts_ns.saturating_sub(wait.since_ns);
            self.totals.waits[lock].record(ns);
            self.tasks[t].counters.waits[lock].record(ns);
            self.note_wait(t, wait, What::Wait, Some(ns));
        } else {
            self.totals.waits_unknown[lock] += 1;
            self.note_wait(t, wait, What::Wait, None);
        }
    }

    fn add_wait(&mut self, t: u32, wait: Wait) {
        if self.tasks[t].waits.len() >= WAITS_LIMIT {
            let oldest = self.tasks[t].waits.remove(0);
            let key = self.key(t);
            self.unlink_wait(key, &oldest);
        }
        if wait.lock == Lock::VmaWrite {
            self.link(t, wait.mm);
        }
        self.tasks[t].waits.push(wait);
    }

    /// Takes the latest wait that fits out of the task, and out of what is waited for.
    fn take_wait(&mut self, t: u32, fits: impl Fn(&Wait) -> bool) -> Option<Wait> {
        let at = self.tasks[t].waits.iter().rposition(fits)?;
        let wait = self.tasks[t].waits.remove(at);
        let key = self.key(t);
        self.unlink_wait(key, &wait);
        Some(wait)
    }

    fn drop_waits(&mut self, key: TaskKey, fits: impl Fn(&Wait) -> bool) {
        if let Some(t) = self.tasks.find(u64::from(key)) {
            while self.take_wait(t, &fits).is_some() {}
        }
    }

    fn unlink_wait(&mut self, key: TaskKey, wait: &Wait) {
        if wait.lock == Lock::VmaWrite {
            if let Some(v) = self.vmas.find(wait.vma)
                && self.vmas[v].waiting_writer == Some(key)
            {
                self.vmas[v].waiting_writer = None;
            }
            self.unlink(wait.mm);
        } else if let Some(m) = self.mms.find(wait.mm) {
            unlink(&mut self.mms[m].waiters, key);
        }
    }

    #[cold]
    fn anomaly(&mut self, kind: AnomalyKind, event: &Event, other: Option<TaskKey>) {
        if !self.whole {
            return;
        }
        self.totals.anomalies[kind as usize] += 1;
        self.recent.push(event.header.ts_ns, kind);
        if self.anomalies.len() < ANOMALIES_KEPT {
            let other = other.and_then(|key| self.tasks.peek(u64::from(key)));
            self.anomalies.push(Anomaly {
                kind,
                event: *event,
                other_tid: other.map_or(0, |task| task.tid),
                hold: None,
            });
        }
    }

    /// A hole shows only when its CPU's next event comes, which may be late. What seemed odd since it began, on
    /// whatever CPU, is explained by it.
    #[cold]
    fn explain_since(&mut self, from_ns: u64) {
        self.recent.take_back(from_ns, &mut self.totals);
        self.anomalies
            .retain(|anomaly| anomaly.event.header.ts_ns < from_ns);
    }
}

/// Whether events of a kind tell of a task, or of a hold that is over, and change no lock.
#[inline]
pub(crate) fn is_beside_locks(kind: Kind) -> bool {
    kind == Kind::Hold || (Kind::TaskFork as u8..=Kind::Stack as u8).contains(&(kind as u8))
}

/// The idle tasks of all CPUs share tid 0.
#[inline]
fn task_key(event: &Event) -> TaskKey {
    match event.header.tid {
        0 => 1 << 31 | u32::from(event.header.cpu),
        tid => tid,
    }
}
