//! From the world to a picture of it: only what the view at hand shows.

use rustc_hash::FxHashMap;

use super::log::Tap;
use super::snapshot::{
    Detail, Head, Lengths, Place, Request, Snapshot, SpaceRow, Stuck, Subject, TaskDetail, TaskRow, Verdicts,
    View, VmaRow, Waits,
};
use super::world::{STEP_NS, World};
use crate::contention::chains::{Chains, Doing};
use crate::contention::faults::{FALLBACKS, fallback_name};
use crate::contention::summary::Summaries;
use crate::state::{Engine, Lock, TaskView, VmaView, What};

/// Events of a picture, unless all are wanted.
const EVENTS: usize = 4_096;
/// Steps of a second.
const SECOND: u64 = 1_000_000_000 / STEP_NS;

impl World {
    /// A picture for a request. `now_ns` (`CLOCK_MONOTONIC`) is what ages are measured to: live the clock, in a
    /// recording the time of its latest event.
    pub fn picture(&self, request: &Request, now_ns: u64) -> Snapshot {
        let now_ns = now_ns.max(self.engine.now_ns());
        let mut shot = Snapshot {
            request: request.clone(),
            head: self.head(now_ns),
            ..Snapshot::default()
        };
        match request.view {
            View::Overview => {
                shot.steps = self.steps.iter().copied().collect();
                shot.tasks = self.task_rows(now_ns, true);
                shot.worst.clone_from(&self.worst);
            }
            View::Tasks => shot.tasks = self.task_rows(now_ns, false),
            View::Space => match request.space {
                None => shot.spaces = self.space_rows(),
                Some(mm) => {
                    shot.spaces = self.space_rows();
                    shot.vmas = self
                        .engine
                        .vmas()
                        .filter(|view| view.vma().mm == mm)
                        .map(|view| self.vma_row(view))
                        .collect();
                    shot.heat_lost = self.heat_lost;
                }
            },
            View::Contention => shot.contention = Some(Box::new(self.stuck())),
            View::Assertions => shot.verdicts = Some(Box::new(self.verdicts())),
            View::Events => {
                let ring = self.events_tap.as_ref().map_or(&self.log, Tap::ring);
                let count = if request.deep { usize::MAX } else { EVENTS };
                shot.events = ring.latest(count);
                shot.events_gone = ring.gone() + (ring.iter().len() - shot.events.len()) as u64;
            }
            View::Histograms => shot.lengths = self.lengths(),
            View::Probes => shot.hits.clone_from(&self.sites),
        }
        self.look_closely(&mut shot, now_ns);
        shot
    }

    /// Who is in whose way, and the heaviest groups of waits.
    fn stuck(&self) -> Stuck {
        let groups = &self.contention.groups;
        let of_site = |at: usize, summaries: &Summaries| {
            let waits = Lock::ALL.into_iter().filter_map(move |lock| {
                let summary = summaries.get(What::Wait, lock)?;
                Some(Waits::new(Place::Site(at as u32, lock), summary))
            });
            waits.collect::<Vec<_>>()
        };
        let mut waits: Vec<Waits> = Vec::new();
        for lock in Lock::ALL {
            if let Some(summary) = groups.all.get(What::Wait, lock) {
                waits.push(Waits::new(Place::Lock(lock), summary));
            }
        }
        for (at, summaries) in groups.sites.iter().enumerate() {
            waits.extend(of_site(at, summaries));
        }
        for ((kernel, user), summaries) in groups.stacks.iter() {
            for lock in Lock::ALL {
                if let Some(summary) = summaries.get(What::Wait, lock) {
                    waits.push(Waits::new(Place::Stack(*kernel, *user, lock), summary));
                }
            }
        }
        let mut fallbacks = [0; FALLBACKS];
        let rows = self.contention.faults.processes.iter().map(|(_, row)| row);
        for row in rows.chain([self.contention.faults.other_processes()]) {
            for (sum, count) in fallbacks.iter_mut().zip(row.fallbacks) {
                *sum += count;
            }
        }
        Stuck {
            chains: Chains::of(&self.engine),
            now_ns: self.engine.now_ns(),
            waits,
            worst_holds: groups
                .worst_holds
                .each_ref()
                .map(|top| top.list().first().copied()),
            fallbacks: fallbacks
                .iter()
                .enumerate()
                .filter(|(_, count)| **count > 0)
                .map(|(at, count)| (fallback_name(at), *count))
                .collect(),
            stacks: self.stacks.clone(),
        }
    }

    /// What the assertions would have said, and what is wrong.
    fn verdicts(&self) -> Verdicts {
        let assertions = self.checker.assertions();
        let violations = self.checker.violations();
        let accounting = self.checker.accounting();
        Verdicts {
            applies: assertions.applies(),
            rows: assertions.rows(),
            unknown: assertions.unknown(),
            recent: assertions.recent().copied().collect(),
            violations: violations.kept().to_vec(),
            violations_all: violations.total(),
            taken_back: violations.taken_back(),
            accounting: accounting.applies().then(|| *accounting.totals()),
            cases: accounting.cases().to_vec(),
        }
    }

    fn look_closely(&self, shot: &mut Snapshot, now_ns: u64) {
        let Some(subject) = shot.request.subject else {
            return;
        };
        let detail = match subject {
            Subject::Task(tid) => self.engine.task(tid).map(|view| {
                Detail::Task(Box::new(TaskDetail {
                    row: self.task_row(view, now_ns),
                    holds: view.holds().collect(),
                    waits: view.waits().collect(),
                    frames: view.frames().to_vec(),
                    counters: view.task().counters,
                }))
            }),
            Subject::Vma(address) => self
                .engine
                .vma(address)
                .map(|view| Detail::Vma(Box::new(self.vma_row(view)))),
        };
        shot.detail = Some(detail.unwrap_or(Detail::Gone(subject)));
        if let Some(tap) = &self.subject_tap {
            let count = if shot.request.deep { usize::MAX } else { EVENTS };
            shot.history = tap.ring().latest(count);
            shot.history_gone = tap.ring().gone() + (tap.ring().iter().len() - shot.history.len()) as u64;
        }
    }

    fn head(&self, now_ns: u64) -> Head {
        let totals = self.engine.totals();
        let aged = self.engine.aged();
        let standing = self.engine.standing();
        let from = (now_ns / STEP_NS).saturating_sub(SECOND);
        let recent = self.steps.iter().rev().take_while(|step| step.at >= from);
        Head {
            info: std::sync::Arc::clone(&self.info),
            now_ns,
            events: totals.received,
            // The step that has only begun would make the rate too low, and its place is taken by an older one.
            rate: recent
                .filter(|step| step.at < now_ns / STEP_NS)
                .map(|step| step.events)
                .sum(),
            dropped: self.losses.dropped(),
            missing: self
                .order
                .missing()
                .max(if self.order.gaps == 0 { totals.missing } else { 0 }),
            missed: self.losses.missed,
            probes: std::sync::Arc::clone(&self.costs),
            dropped_at: std::sync::Arc::clone(&self.dropped_at),
            gaps: totals.gaps,
            last_gap: self.gaps.back().copied(),
            by_provenance: totals.by_provenance,
            anomalies: totals.anomalies.iter().sum::<u64>() + self.checker.violations().total(),
            coverage_holes: totals.coverage_holes,
            aged_busy: aged.tasks.1 + aged.vmas.1 + aged.mms.1,
            faults: standing.faults,
            held: standing.held,
            waiting: standing.waiting,
            tasks: standing.tasks,
            trigger: self.trigger().map(ToString::to_string),
            waits_unknown: totals.waits_unknown,
            holds_unknown: totals.holds_unknown,
            ..Head::default()
        }
    }

    fn lengths(&self) -> Box<Lengths> {
        let totals = self.engine.totals();
        Box::new(Lengths {
            waits: totals.waits.clone(),
            holds: totals.holds.clone(),
            balance: totals.balance,
        })
    }

    fn task_rows(&self, now_ns: u64, active: bool) -> Vec<TaskRow> {
        let rows = self.engine.tasks().map(|view| self.task_row(view, now_ns));
        if active {
            rows.filter(TaskRow::is_active).collect()
        } else {
            rows.collect()
        }
    }

    fn task_row(&self, view: TaskView<'_>, now_ns: u64) -> TaskRow {
        let task = view.task();
        let counters = &task.counters;
        let mut row = TaskRow {
            tid: task.tid,
            pid: task.pid,
            comm: task.comm,
            is_self: task.pid == self.info.self_pid && self.info.self_pid != 0,
            events: counters.events,
            faults: counters.faults().total(),
            waited_ns: counters.waits.iter().map(|wait| wait.total_ns).sum(),
            worst_hold_ns: counters.holds.iter().map(|hold| hold.max_ns).max().unwrap_or(0),
            last_ns: task.last_ns,
            doing: Doing::of(&view.run()),
            ..TaskRow::default()
        };
        let mut oldest: Option<(u64, bool)> = None;
        for hold in view.holds() {
            row.held[hold.lock as usize] += 1;
            row.certainty = row.certainty.max(Some(hold.certainty));
            row.mm = hold.mm;
            if oldest.is_none_or(|(since_ns, _)| hold.since_ns < since_ns) {
                oldest = Some((hold.since_ns, !hold.start_known));
            }
        }
        row.hold_ns = oldest.map(|(since_ns, _)| now_ns.saturating_sub(since_ns));
        row.at_least = oldest.is_some_and(|(_, at_least)| at_least);
        if oldest.is_some() {
            row.range = Self::single_range(view.holds());
        }
        if let Some(wait) = view.waits().next() {
            row.wait = Some((wait.lock, now_ns.saturating_sub(wait.since_ns)));
            row.certainty = row.certainty.max(Some(wait.certainty));
            row.mm = wait.mm;
            if let Some(vma) = self.engine.vma(wait.vma).filter(|_| wait.vma != 0) {
                let vma = vma.vma();
                row.range = Some((vma.vm_start, vma.vm_end)).filter(|range| range.1 != 0);
            }
            self.blockers(&mut row, wait.mm, wait.vma);
        }
        row
    }

    /// Who holds what a task waits for.
    fn blockers(&self, row: &mut TaskRow, mm: u64, vma: u64) {
        let me = row.tid;
        let mut note = |tid: u32| {
            if tid != me {
                if let Some(place) = row.behind.get_mut(row.behind_count as usize) {
                    *place = tid;
                }
                row.behind_count += 1;
            }
        };
        if vma == 0 {
            let Some(view) = self.engine.mm(mm) else { return };
            view.writer().into_iter().for_each(&mut note);
            view.readers().for_each(&mut note);
        } else if let Some(view) = self.engine.vma(vma) {
            view.readers().for_each(&mut note);
        }
    }

    fn space_rows(&self) -> Vec<SpaceRow> {
        let mut names: FxHashMap<u32, [u8; 16]> = FxHashMap::default();
        for view in self.engine.tasks() {
            let task = view.task();
            let name = names.entry(task.pid).or_insert(task.comm);
            // The first thread has the program's own name.
            if task.tid == task.pid {
                *name = task.comm;
            }
        }
        let mut by_mm: FxHashMap<u64, (u32, u32, u64)> = FxHashMap::default();
        for view in self.engine.vmas() {
            let vma = view.vma();
            let entry = by_mm.entry(vma.mm).or_default();
            entry.0 += u32::from(!vma.detached);
            entry.1 += u32::from(view.readers().next().is_some());
            entry.2 += self.heat_of(view.address, vma.mm).faults;
        }
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        self.engine
            .mms()
            .map(|view| {
                let mm = view.mm();
                let (vmas, read_locked, faults) = by_mm.get(&view.address).copied().unwrap_or_default();
                SpaceRow {
                    mm: view.address,
                    pid: mm.pid,
                    comm: names.get(&mm.pid).copied().unwrap_or_default(),
                    writer: view.writer(),
                    readers: count(view.readers().count()),
                    waiters: count(view.waiters().count()),
                    first_waiter: view.waiters().next(),
                    write_locked: count(view.write_locked().count()),
                    vmas,
                    read_locked,
                    seq: mm.mm_lock_seq,
                    acquires: mm.acquires,
                    faults,
                    last_ns: mm.last_ns,
                }
            })
            .collect()
    }

    fn heat_of(&self, vma: u64, mm: u64) -> super::world::Heat {
        let heat = self.heat.get(&vma).copied().unwrap_or_default();
        if heat.mm == mm {
            heat
        } else {
            super::world::Heat::default()
        }
    }

    fn vma_row(&self, view: VmaView<'_>) -> VmaRow {
        let vma = view.vma();
        let mut some_readers = [0; 3];
        for (place, tid) in some_readers.iter_mut().zip(view.readers()) {
            *place = tid;
        }
        VmaRow {
            vma: view.address,
            mm: vma.mm,
            range: (vma.vm_start, vma.vm_end),
            refcnt: vma.vm_refcnt,
            seq: vma.vm_lock_seq,
            mm_seq: mm_seq(&self.engine, vma.mm),
            readers: u32::try_from(view.readers().count()).unwrap_or(u32::MAX),
            some_readers,
            writer: view.writer(),
            waiting: view.waiting_writer(),
            detached: vma.detached,
            known: view.known(),
            heat: self.heat_of(view.address, vma.mm),
            temporary: vma.temporary_reads,
            last_ns: vma.last_ns,
        }
    }
}

fn mm_seq(engine: &Engine, mm: u64) -> Option<u32> {
    engine.mm(mm).and_then(|view| view.mm().mm_lock_seq)
}
