//! Why faults took the `mmap_lock`: by process and by VMA.
//!
//! Each number is counted from the engine's notes, at the places where the engine counts its totals, so that all rows
//! together are the totals, and these are what `/proc/vmstat` counts where the kernel does.

use tracer_common::wire::{COMM_LEN, Event, Kind, Reason};

use super::Limits;
use super::groups::{MmKey, VmaKey};
use super::rows::{Row, Rows};
use crate::state::{Note, Place, Round, RoundEnd, Who};

/// Why a fault ran under the `mmap_lock` from the start.
pub const FALLBACKS: usize = Reason::ALL.len() + 2;
/// Beside the [`Reason`]s: it came from inside the kernel, where the VMA lock is not tried.
pub const KERNEL_MODE: usize = Reason::ALL.len();
/// Beside the [`Reason`]s: it came from user mode, and no failed look-up was seen before it.
pub const NOT_SEEN: usize = Reason::ALL.len() + 1;

/// The name of a fall-back in all output.
pub fn fallback_name(at: usize) -> &'static str {
    match at {
        KERNEL_MODE => "kernel_mode",
        NOT_SEEN => "not_seen",
        _ => Reason::ALL.get(at).map_or("unknown", |reason| reason.name()),
    }
}

/// What is known of why a round under the VMA lock was sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SentBack {
    /// The site where the VMA lock was given back, if that was seen.
    pub site: Option<u32>,
    /// The `mmap_lock` was tried inside the fault, and was not to be had.
    pub mmap_failed: bool,
}

/// So many causes of a retry each row tells apart; there are about 20 places.
const CAUSES: usize = 6;

/// The faults of one process or VMA.
#[derive(Clone, Debug, Default)]
pub struct FaultRow {
    /// Command name of the first task seen, or of the process's first thread; raw. Processes only.
    pub comm: [u8; COMM_LEN],
    /// Done under the VMA lock.
    pub vma_lock: u64,
    /// Sent back under the VMA lock, and then done under the `mmap_lock`.
    pub retried: u64,
    /// Done under the `mmap_lock` from the start: fallen back, or from inside the kernel.
    pub mmap_lock: u64,
    /// Ended in an error.
    pub error: u64,
    /// Sent back, and not come again.
    pub abandoned: u64,
    /// Rounds under the VMA lock that were not sent back: `vma_lock_success`.
    pub rounds_done: u64,
    /// Rounds under the VMA lock that were sent back: `vma_lock_retry`.
    pub rounds_retried: u64,
    /// Failed look-ups by [`Reason`]; all: `vma_lock_abort`.
    pub failed: [u64; Reason::ALL.len()],
    /// Of these, look-ups after which no fault came: no VMA, or not on behalf of a fault.
    pub failed_alone: u64,
    /// Look-ups that met a detached VMA: `vma_lock_miss`. Processes only.
    pub misses: u64,
    /// [`Self::mmap_lock`] by why.
    pub fallbacks: [u64; FALLBACKS],
    /// [`Self::rounds_retried`] by why, those told apart.
    causes: [Option<(SentBack, u64)>; CAUSES],
    /// The others.
    pub other_causes: u64,
    /// Rows that were merged into this one.
    pub merged: u64,
}

impl FaultRow {
    /// Completed faults.
    pub fn total(&self) -> u64 {
        self.vma_lock + self.retried + self.mmap_lock + self.error
    }

    /// Failed look-ups.
    pub fn look_ups_failed(&self) -> u64 {
        self.failed.iter().sum()
    }

    /// Why rounds were sent back, and how many; [`Self::other_causes`] are not among them.
    pub fn causes(&self) -> impl Iterator<Item = (SentBack, u64)> + '_ {
        self.causes.iter().filter_map(|cause| *cause)
    }

    fn sent_back(&mut self, cause: SentBack, number: u64) {
        for slot in &mut self.causes {
            match slot {
                Some((known, count)) if *known == cause => {
                    *count += number;
                    return;
                }
                None => {
                    *slot = Some((cause, number));
                    return;
                }
                Some(_) => {}
            }
        }
        self.other_causes += number;
    }

    /// Takes in another.
    pub fn merge(&mut self, other: &Self) {
        self.vma_lock += other.vma_lock;
        self.retried += other.retried;
        self.mmap_lock += other.mmap_lock;
        self.error += other.error;
        self.abandoned += other.abandoned;
        self.rounds_done += other.rounds_done;
        self.rounds_retried += other.rounds_retried;
        self.failed_alone += other.failed_alone;
        self.misses += other.misses;
        self.other_causes += other.other_causes;
        self.merged += other.merged;
        for (sum, count) in self.failed.iter_mut().zip(other.failed) {
            *sum += count;
        }
        for (sum, count) in self.fallbacks.iter_mut().zip(other.fallbacks) {
            *sum += count;
        }
        for (cause, number) in other.causes() {
            self.sent_back(cause, number);
        }
    }
}

impl Row for FaultRow {
    /// What did not end under the VMA lock is what one looks for.
    fn weight(&self) -> u64 {
        (self.retried + self.mmap_lock + self.error + self.abandoned + self.look_ups_failed()) * 16
            + self.vma_lock
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Where one task is on its way through a fault.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    who: Who,
    /// A look-up that failed, of which it is not known yet whether a fault comes.
    failed: Option<(Place, Reason)>,
    /// The reason for which the fault at hand has fallen back.
    fallback: Option<Reason>,
    /// It is in a round under the VMA lock.
    in_round: bool,
    /// The VMA lock was given back inside, at this site.
    released: Option<u32>,
    /// The `mmap_lock` was tried inside, and was not to be had.
    mmap_failed: bool,
    /// The VMA of the round that was sent back last.
    sent_back: Place,
}

/// Faults by process and by VMA; see the module.
#[derive(Clone, Debug)]
pub struct FaultTables {
    /// By process.
    pub processes: Rows<u32, FaultRow>,
    /// By VMA; a row without a range has what met no VMA.
    pub vmas: Rows<VmaKey, FaultRow>,
    /// What no row has: of processes, of VMAs.
    others: Box<[FaultRow; 2]>,
    /// By number of task.
    ways: Vec<Way>,
}

const PROCESSES: usize = 0;
const VMAS: usize = 1;

impl FaultTables {
    /// With nothing in it.
    pub fn new(limits: &Limits) -> Self {
        Self {
            processes: Rows::new(limits.processes),
            vmas: Rows::new(limits.vmas),
            others: Box::default(),
            ways: Vec::new(),
        }
    }

    /// Processes that have no row any more, all together.
    pub fn other_processes(&self) -> &FaultRow {
        &self.others[PROCESSES]
    }

    /// VMAs that have no row any more, all together.
    pub fn other_vmas(&self) -> &FaultRow {
        &self.others[VMAS]
    }

    /// Takes one note in.
    #[inline]
    pub fn note(&mut self, note: &Note, comm: &[u8; COMM_LEN]) {
        match *note {
            Note::Span(_) => {}
            Note::Round(round) => self.round(&round, comm),
            Note::Abandoned(who) => {
                let place = self.way(who).sent_back;
                self.count(who, place, comm, |row| row.abandoned += 1);
            }
            Note::LookUpFailed(who, place, reason) => {
                self.settle(who, comm);
                self.way(who).failed = Some((place, reason));
            }
            Note::Miss(who) => self.process(who, comm).misses += 1,
        }
    }

    /// What the event itself tells of the way of its task; after its notes.
    #[inline]
    pub fn event(&mut self, who: Who, event: &Event) {
        match event.kind {
            Kind::FaultBegin => self.begin(who, event),
            Kind::VmaReadRelease => {
                let way = self.way(who);
                if way.in_round {
                    way.released = Some(event.header.site);
                }
            }
            Kind::MmapFail => {
                let way = self.way(who);
                way.mmap_failed |= way.in_round;
            }
            // It has the lock that the look-up before had failed to get, by another look-up.
            Kind::VmaReadAcquire => self.settle(who, &event.header.comm),
            Kind::FaultEnd => self.way(who).in_round = false,
            _ => {}
        }
    }

    fn begin(&mut self, who: Who, event: &Event) {
        let under_vma = event.is_vma_fault();
        let user = event.fault_flags() & tracer_common::wire::fault::FLAG_USER != 0;
        let way = self.way(who);
        way.in_round = under_vma;
        way.released = None;
        way.mmap_failed = false;
        if under_vma {
            way.fallback = None;
            return;
        }
        if user && let Some((_, reason)) = way.failed.take() {
            way.fallback = Some(reason);
            let (vm_start, vm_end) = event.range().unwrap_or_default();
            let place = Place {
                mm: event.mm().unwrap_or(0),
                vma: event.vma().unwrap_or(0),
                vm_start,
                vm_end,
            };
            let comm = event.header.comm;
            self.count(who, place, &comm, |row| row.failed[reason as usize] += 1);
        }
    }

    fn round(&mut self, round: &Round, comm: &[u8; COMM_LEN]) {
        let way = self.way(round.who);
        let cause = SentBack {
            site: way.released,
            mmap_failed: way.mmap_failed,
        };
        let fallback = match way.fallback {
            _ if !round.user => KERNEL_MODE,
            Some(reason) => reason as usize,
            None => NOT_SEEN,
        };
        if round.end == RoundEnd::SentBack {
            way.sent_back = round.place;
        } else {
            way.fallback = None;
        }
        let (end, under_vma) = (round.end, round.under_vma);
        self.count(round.who, round.place, comm, |row| {
            match (end, under_vma) {
                (RoundEnd::SentBack, true) => {
                    row.rounds_retried += 1;
                    row.sent_back(cause, 1);
                }
                (_, true) => row.rounds_done += 1,
                (_, false) => {}
            }
            match end {
                RoundEnd::VmaLock => row.vma_lock += 1,
                RoundEnd::Retried => row.retried += 1,
                RoundEnd::MmapLock => {
                    row.mmap_lock += 1;
                    row.fallbacks[fallback] += 1;
                }
                RoundEnd::Error => row.error += 1,
                RoundEnd::SentBack => {}
            }
        });
    }

    /// No fault came of the failed look-up.
    fn settle(&mut self, who: Who, comm: &[u8; COMM_LEN]) {
        if let Some((place, reason)) = self.way(who).failed.take() {
            self.count(who, place, comm, |row| {
                row.failed[reason as usize] += 1;
                row.failed_alone += 1;
            });
        }
    }

    /// After the last event: what is still open is counted.
    pub fn finish(&mut self) {
        for slot in 0..self.ways.len() {
            let who = self.ways[slot].who;
            self.settle(who, &[0; COMM_LEN]);
        }
    }

    #[inline]
    fn way(&mut self, who: Who) -> &mut Way {
        let slot = who.slot as usize;
        if slot >= self.ways.len() {
            self.ways.resize(slot + 1, Way::default());
        }
        if self.ways[slot].who != who {
            self.replace(who);
        }
        &mut self.ways[slot]
    }

    #[cold]
    fn replace(&mut self, who: Who) {
        let old = core::mem::take(&mut self.ways[who.slot as usize]);
        if let Some((place, reason)) = old.failed {
            self.count(old.who, place, &[0; COMM_LEN], |row| {
                row.failed[reason as usize] += 1;
                row.failed_alone += 1;
            });
        }
        self.ways[who.slot as usize].who = who;
    }

    #[inline]
    fn count(&mut self, who: Who, place: Place, comm: &[u8; COMM_LEN], add: impl Fn(&mut FaultRow)) {
        add(self.process(who, comm));
        let key = VmaKey {
            mm: MmKey {
                mm: place.mm,
                pid: who.pid,
            },
            vm_start: place.vm_start,
            vm_end: place.vm_end,
        };
        let others = &mut self.others[VMAS];
        let mut gone = |_: &VmaKey, row: &FaultRow| {
            others.merge(row);
            others.merged += 1;
        };
        match self.vmas.place(key, 1, &mut gone) {
            Some(at) => add(self.vmas.at(at)),
            None => add(others),
        }
    }

    #[inline]
    fn process(&mut self, who: Who, comm: &[u8; COMM_LEN]) -> &mut FaultRow {
        let others = &mut self.others[PROCESSES];
        let mut gone = |_: &u32, row: &FaultRow| {
            others.merge(row);
            others.merged += 1;
        };
        match self.processes.place(who.pid, 1, &mut gone) {
            Some(at) => {
                let row = self.processes.at(at);
                if row.comm[0] == 0 || (who.tid == who.pid && comm[0] != 0) {
                    row.comm = *comm;
                }
                row
            }
            None => others,
        }
    }
}
