//! What the screen shows: a picture of the state at one moment, that nothing changes any more.

use std::sync::{Arc, Mutex, PoisonError};

use tracer_common::wire::Provenance;

use crate::info::{Losses, SourceInfo};
use crate::order::Order;
use crate::sink::text;
use crate::state::{Engine, Lock, TaskView};

/// A picture of the state.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Release of the watched kernel.
    pub kernel: String,
    /// `live`, or what is replayed.
    pub source: String,
    /// From the start of the source to this picture.
    pub elapsed_ns: u64,
    /// The moment of the picture (`CLOCK_MONOTONIC`).
    pub now_ns: u64,
    /// Events from the kernel so far.
    pub events: u64,
    /// Events a second since the picture before.
    pub rate: u64,
    /// Events that found the ring buffer full.
    pub dropped: u64,
    /// Events missing by their numbering.
    pub missing: u64,
    /// Runs of probes that the kernel skipped.
    pub missed: u64,
    /// Events by how surely they are known, by [`Provenance`].
    pub by_provenance: [u64; 4],
    /// Operations that this kernel does not show.
    pub unseen: usize,
    /// What should not be.
    pub anomalies: u64,
    /// Page faults, and those of them that were done under the VMA lock.
    pub faults: (u64, u64),
    /// Whether the source is at its end.
    pub ended: bool,
    /// One row for each task, in no particular order.
    pub tasks: Vec<TaskRow>,
}

/// One task.
#[derive(Clone, Debug, Default)]
pub struct TaskRow {
    /// Thread.
    pub tid: u32,
    /// Process.
    pub pid: u32,
    /// Command name, safe to show.
    pub comm: String,
    /// Whether it is the tracer's own.
    pub is_self: bool,
    /// What it waits for.
    pub wait: Option<Lock>,
    /// How many locks of each kind it holds, by [`Lock`].
    pub held: [u32; 4],
    /// Range of the one VMA that it holds, if it is one.
    pub range: Option<(u64, u64)>,
    /// For how long it has waited, or else has held what it has held longest.
    pub since_ns: Option<u64>,
    /// Whether that is only a lower bound, the start not having been seen.
    pub at_least: bool,
    /// The least sure of what it holds and waits for.
    pub certainty: Option<Provenance>,
    /// Its events.
    pub events: u64,
    /// Its page faults.
    pub faults: u64,
    /// How long it has waited in all, finished waits only.
    pub waited_ns: u64,
    /// Its longest hold that is over.
    pub worst_hold_ns: u64,
}

impl TaskRow {
    fn new(view: TaskView<'_>, now_ns: u64, self_pid: u32) -> Self {
        let task = view.task();
        let counters = &task.counters;
        let mut row = Self {
            tid: task.tid,
            pid: task.pid,
            comm: text::comm(&task.comm).into_owned(),
            is_self: task.pid == self_pid && self_pid != 0,
            events: counters.events,
            faults: counters.faults().total(),
            waited_ns: counters.waits.iter().map(|wait| wait.total_ns).sum(),
            worst_hold_ns: counters.holds.iter().map(|hold| hold.max_ns).max().unwrap_or(0),
            ..Self::default()
        };
        let mut oldest: Option<(u64, bool)> = None;
        for hold in view.holds() {
            row.held[hold.lock as usize] += 1;
            row.certainty = row.certainty.max(Some(hold.certainty));
            if hold.vm_end != 0 {
                row.range = Some((hold.vm_start, hold.vm_end));
            }
            if oldest.is_none_or(|(since_ns, _)| hold.since_ns < since_ns) {
                oldest = Some((hold.since_ns, !hold.start_known));
            }
        }
        if row.held[Lock::VmaRead as usize] + row.held[Lock::VmaWrite as usize] != 1 {
            row.range = None;
        }
        if let Some(wait) = view.waits().next() {
            row.wait = Some(wait.lock);
            row.certainty = row.certainty.max(Some(wait.certainty));
            oldest = Some((wait.since_ns, false));
        }
        row.since_ns = oldest.map(|(since_ns, _)| now_ns.saturating_sub(since_ns));
        row.at_least = oldest.is_some_and(|(_, at_least)| at_least);
        row
    }

    /// Whether it holds or waits for anything.
    pub fn is_active(&self) -> bool {
        self.certainty.is_some()
    }

    /// What it holds, in short: `mmap:w vma:w×3`, or `vma:r 7f1234564000`, where the one VMA starts.
    pub fn held_text(&self) -> String {
        let mut words = Vec::new();
        for lock in Lock::ALL {
            match self.held[lock as usize] {
                0 => {}
                1 => words.push(short(lock).to_owned()),
                count => words.push(format!("{}×{count}", short(lock))),
            }
        }
        if let Some((start, _)) = self.range {
            words.push(format!("{start:x}"));
        }
        words.join(" ")
    }
}

/// A lock in five or six characters.
pub(super) const fn short(lock: Lock) -> &'static str {
    match lock {
        Lock::MmapRead => "mmap:r",
        Lock::MmapWrite => "mmap:w",
        Lock::VmaRead => "vma:r",
        Lock::VmaWrite => "vma:w",
    }
}

/// Makes pictures one after the other, which the rate is measured between.
#[derive(Debug, Default)]
pub struct Camera {
    last: Option<(u64, u64)>,
    rate: u64,
}

impl Camera {
    /// Takes a picture. `now_ns` (`CLOCK_MONOTONIC`) is what ages are measured to: live the clock, in
    /// a recording [`Engine::now_ns`].
    pub fn take(
        &mut self,
        engine: &Engine,
        order: &Order,
        losses: &Losses,
        info: &SourceInfo,
        now_ns: u64,
    ) -> Snapshot {
        let totals = engine.totals();
        let events = totals.received;
        if let Some((last_ns, last_events)) = self.last
            && now_ns > last_ns
        {
            let rate = u128::from(events - last_events) * 1_000_000_000 / u128::from(now_ns - last_ns);
            self.rate = u64::try_from(rate).unwrap_or(u64::MAX);
        }
        self.last = Some((now_ns, events));
        let faults = engine.all_tasks().faults();
        Snapshot {
            kernel: info.kernel.release.clone(),
            source: info.source.clone(),
            elapsed_ns: now_ns.saturating_sub(info.start_monotonic_ns),
            now_ns,
            events,
            rate: self.rate,
            dropped: losses.dropped(),
            missing: order.stats().missing(),
            missed: losses.missed,
            by_provenance: totals.by_provenance,
            unseen: info.unseen.len(),
            anomalies: totals.anomalies.iter().sum(),
            faults: (faults.total(), faults.vma_lock),
            ended: false,
            tasks: engine
                .tasks()
                .map(|view| TaskRow::new(view, now_ns, info.self_pid))
                .collect(),
        }
    }
}

/// Where the screen gets its pictures from.
pub trait SnapshotSource {
    /// The latest one.
    fn latest(&self) -> Arc<Snapshot>;
}

/// Where the event path leaves pictures, and the screen takes them. Neither waits for the other
/// longer than it takes to exchange a pointer.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Arc<Snapshot>>>);

impl Board {
    /// With an empty picture.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves a picture in place of the one before.
    pub fn publish(&self, snapshot: Snapshot) {
        let new = Arc::new(snapshot);
        // Whoever panicked while holding this left a whole pointer.
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let old = core::mem::replace(&mut *place, new);
        drop(place);
        drop(old);
    }
}

impl SnapshotSource for Board {
    fn latest(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
