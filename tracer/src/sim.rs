//! `tracer sim`: the bundled lock, contended by real threads, as a source of events.
//!
//! Needs no privileges and no kernel. Every event is stamped from one clock that never gives the same
//! time twice: releases before they happen, acquisitions after, so that the order of stamps is an
//! order in which everything could have happened. What each task holds in truth, as it knows itself
//! and as the lock's own lockdep has it, rides along for tests.

mod command;
mod observe;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tracer_common::lock::arena::Arena;
use tracer_common::lock::{Family, MmId, Slot, TaskId};
use tracer_common::wire::{Event, Kind};

use crate::clock;
use crate::info::{self, Anchor, CpuLosses, KernelInfo, Losses, SiteInfo, SourceInfo};
use crate::source::{Poll, Source};
use crate::state::Lock;
pub use command::{SimArgs, run};
use observe::{Batch, SITES};
use worker::Worker;

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Threads, writers included.
    pub threads: u32,
    /// VMAs that are mapped, in all address spaces together.
    pub vmas: u32,
    /// Threads that change address spaces.
    pub writers: u32,
    /// Start of the random numbers; what each thread tries depends on nothing else.
    pub seed: u64,
    /// Which form of the lock.
    pub family: Family,
}

/// Address spaces; each is a process of its own, to which threads belong by turns.
const MMS: u32 = 2;
/// Pause of the writers between two changes, in turns of an empty loop, where nobody watches.
const PAUSE: u32 = 20_000;

impl Default for Setup {
    fn default() -> Self {
        Self {
            threads: 4,
            vmas: 64,
            writers: 1,
            seed: 1,
            family: Family::Refcnt7_0,
        }
    }
}

impl Setup {
    fn slots(self) -> u32 {
        self.vmas.div_ceil(MMS)
    }

    fn arena(self) -> Arena {
        let size = tracer_common::lock::arena::Size {
            // Spare ones, so that what is unmapped comes back as something else.
            vmas: self.slots() * MMS + self.writers,
            mms: MMS,
            slots: self.slots(),
            tasks: self.threads.max(1),
        };
        let arena = Arena::new(self.family, size, true);
        let mut task = arena.thread(TaskId(0));
        for mm in (0..MMS).map(MmId) {
            task.mmap_write_lock(mm);
            for slot in (0..self.slots()).map(Slot) {
                task.map(mm, slot);
            }
            task.mmap_write_unlock(mm);
        }
        arena
    }
}

/// What one task held in truth, between two of its operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truth {
    /// The task.
    pub tid: u32,
    /// Time of its latest event, which is in no other event.
    pub after_ns: u64,
    /// The locks: which way, address of the mm, address of the VMA (0: the mmap_lock).
    pub holds: Vec<(Lock, u64, u64)>,
    /// VMAs that it detached since it took the mmap_lock. They stay write-locked by their sequence
    /// number, but may be somebody else's by now: whether they are held is no question.
    pub detached: Vec<u64>,
}

/// The lock at work, as a source.
pub struct Sim {
    info: SourceInfo,
    batches: Receiver<Batch>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    received: Vec<u64>,
    truths: Vec<Truth>,
}

/// What the threads share beside the lock.
struct Shared {
    arena: Arena,
    setup: Setup,
    stop: AtomicBool,
    /// The latest stamp.
    clock: AtomicU64,
    /// For each thread, a time before which it has no more events.
    marks: Box<[AtomicU64]>,
    /// For each thread, operations done.
    operations: Box<[AtomicU64]>,
    truths: bool,
}

impl Shared {
    fn new(setup: Setup, truths: bool) -> Self {
        let counters = || (0..setup.threads).map(|_| AtomicU64::new(0)).collect();
        Self {
            arena: setup.arena(),
            setup,
            stop: AtomicBool::new(false),
            clock: AtomicU64::new(clock::monotonic_ns()),
            marks: counters(),
            operations: counters(),
            truths,
        }
    }

    /// A time that no other event has.
    fn stamp(&self) -> u64 {
        let now = clock::monotonic_ns();
        let next = |last| Some(now.max(last + 1));
        let last = self
            .clock
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
            .unwrap_or_else(|last| last);
        now.max(last + 1)
    }
}

impl Sim {
    /// Starts the threads. With `truths`, what every task holds is kept, see [`Sim::take_truths`].
    #[must_use]
    pub fn start(setup: Setup, truths: bool) -> Self {
        let shared = Arc::new(Shared::new(setup, truths));
        // Threads wait for whoever reads; nothing is ever lost here.
        let (sender, batches) = sync_channel(64);
        let begun = clock::anchor();
        let threads = (0..setup.threads)
            .map(|id| {
                let (shared, sender) = (Arc::clone(&shared), sender.clone());
                std::thread::spawn(move || Worker::new(&shared, id).run_watched(sender))
            })
            .collect();
        Self {
            info: source_info(setup, begun),
            batches,
            shared,
            threads,
            received: vec![0; setup.threads as usize],
            truths: Vec::new(),
        }
    }

    /// What was true so far, in no particular order.
    pub fn take_truths(&mut self) -> Vec<Truth> {
        std::mem::take(&mut self.truths)
    }

    /// Warnings of the lock itself, of which there must be none.
    #[must_use]
    pub fn warnings(&self) -> u32 {
        self.shared.arena.warnings()
    }

    fn hand_over(&mut self, batch: Batch, sink: &mut dyn FnMut(&Event)) {
        for event in &batch.events {
            self.received[usize::from(event.header.cpu)] += 1;
            sink(event);
        }
        self.truths.extend(batch.truths);
    }
}

impl Source for Sim {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn poll(&mut self, wait: Duration, sink: &mut dyn FnMut(&Event)) -> anyhow::Result<Poll> {
        // Read before the batches: what a mark speaks of has been sent by then.
        let mark = self
            .shared
            .marks
            .iter()
            .map(|m| m.load(Ordering::Acquire))
            .min()
            .unwrap_or(0);
        match self.batches.recv_timeout(wait) {
            Ok(batch) => self.hand_over(batch, sink),
            Err(RecvTimeoutError::Timeout) => return Ok(Poll::More { watermark_ns: mark }),
            Err(RecvTimeoutError::Disconnected) => {
                for thread in self.threads.drain(..) {
                    thread
                        .join()
                        .map_err(|_| anyhow::anyhow!("a thread of the simulation failed"))?;
                }
                return Ok(Poll::End);
            }
        }
        while let Ok(batch) = self.batches.try_recv() {
            self.hand_over(batch, sink);
        }
        Ok(Poll::More { watermark_ns: mark })
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    fn losses(&mut self) -> anyhow::Result<Losses> {
        let cpu = |&received: &u64| CpuLosses {
            produced: received,
            dropped: 0,
            received,
        };
        Ok(Losses {
            cpus: self.received.iter().map(cpu).collect(),
            missed: 0,
            ..Losses::default()
        })
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.stop();
        // Take what is left, so that no thread waits for room.
        while !self.threads.is_empty() {
            if let Err(RecvTimeoutError::Disconnected) = self.batches.recv_timeout(Duration::from_millis(20))
            {
                self.threads.drain(..).for_each(|thread| drop(thread.join()));
            }
        }
    }
}

fn source_info(setup: Setup, begun: Anchor) -> SourceInfo {
    let site = |&(kind, function): &(Kind, &str)| SiteInfo {
        program: String::new(),
        place: String::new(),
        operation: kind.name().to_owned(),
        function: function.to_owned(),
        mechanism: "sim".to_owned(),
        provenance: "observed".to_owned(),
        bound_ns: None,
        reason: "the bundled lock says so itself".to_owned(),
        attached: true,
    };
    SourceInfo {
        address_key: crate::sink::address::Addresses::new_key(),
        tracer_version: env!("CARGO_PKG_VERSION").to_owned(),
        source: "sim".to_owned(),
        kernel: KernelInfo {
            release: format!("bundled lock, {}", setup.family.name()),
            version: format!(
                "threads={} vmas={} writers={} seed={}",
                setup.threads, setup.vmas, setup.writers, setup.seed
            ),
            machine: std::env::consts::ARCH.to_owned(),
            family: match setup.family {
                Family::Rwsem => info::Family::Rwsem,
                Family::Refcnt6_15 | Family::Refcnt7_0 => info::Family::Refcount,
            },
            ..KernelInfo::default()
        },
        command: std::env::args().collect(),
        cpus: setup.threads,
        self_pid: std::process::id(),
        start_monotonic_ns: begun.monotonic_ns,
        start_realtime_ns: begun.realtime_ns,
        anchor: Some(begun),
        boot_id: clock::boot_id(),
        wire_version: tracer_common::wire::ABI,
        sites: SITES.iter().map(site).collect(),
        ..SourceInfo::default()
    }
}
