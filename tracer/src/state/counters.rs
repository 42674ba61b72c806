//! What the engine counts.

use tracer_common::wire::{Event, Kind, Provenance, Reason};

use super::hist::Histogram;
use super::task::{Lock, Start};

/// Counts by [`Reason`].
pub type ByReason = [u64; Reason::ALL.len()];
/// Counts by [`Lock`] and [`Provenance`].
pub type BySurety = [[u64; 4]; 4];

/// Count, sum and maximum of some durations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many.
    pub count: u64,
    /// Their sum in nanoseconds.
    pub total_ns: u64,
    /// The longest in nanoseconds.
    pub max_ns: u64,
}

impl Durations {
    /// Adds one.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        self.count += 1;
        self.total_ns = self.total_ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }
}

/// Logical faults by how they ended: one that was sent back and came again is one fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Done under the VMA lock.
    pub vma_lock: u64,
    /// Sent back with RETRY under the VMA lock, then done under the `mmap_lock`.
    pub retried: u64,
    /// Done under the `mmap_lock`, the VMA lock having failed or not been tried.
    pub mmap_lock: u64,
    /// Ended in an error, under whichever lock.
    pub error: u64,
    /// Sent back and never come again: killed, or the mapping was gone. Not in [`Self::total`].
    pub abandoned: u64,
}

impl Faults {
    /// Completed ones.
    pub fn total(&self) -> u64 {
        self.vma_lock + self.retried + self.mmap_lock + self.error
    }

    /// Adds the counts of another.
    pub fn add(&mut self, other: &Self) {
        self.vma_lock += other.vma_lock;
        self.retried += other.retried;
        self.mmap_lock += other.mmap_lock;
        self.error += other.error;
        self.abandoned += other.abandoned;
    }
}

/// What one task did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskCounters {
    /// Its events, derived ones not counted.
    pub events: u64,
    /// Times that it took each lock, by [`Lock`].
    pub acquires: [u64; 4],
    /// VMA read locks that it wanted and did not get.
    pub read_fails: u64,
    /// The same by reason.
    pub fails: ByReason,
    /// Tries at one VMA that were refused; the look-up may have gone on.
    pub refused: u64,
    /// VMAs whose count it raised and had to take back.
    pub temporary_reads: u64,
    /// Tries for the `mmap_lock` that failed.
    pub mmap_fails: u64,
    /// Its page faults from user mode.
    pub user_faults: Faults,
    /// Its page faults from inside the kernel, such as by `copy_from_user` or `get_user_pages`.
    pub kernel_faults: Faults,
    /// Waits by [`Lock`]; a VMA read lock is never waited for.
    pub waits: [Durations; 4],
    /// Holds of known length by [`Lock`].
    pub holds: [Durations; 4],
}

impl TaskCounters {
    /// Adds the counts of another.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.read_fails += other.read_fails;
        for (sum, count) in self.fails.iter_mut().zip(other.fails) {
            *sum += count;
        }
        self.refused += other.refused;
        self.temporary_reads += other.temporary_reads;
        self.mmap_fails += other.mmap_fails;
        self.user_faults.add(&other.user_faults);
        self.kernel_faults.add(&other.kernel_faults);
        for at in 0..4 {
            self.acquires[at] += other.acquires[at];
            self.waits[at].add(&other.waits[at]);
            self.holds[at].add(&other.holds[at]);
        }
    }

    /// Faults of both origins.
    pub fn faults(&self) -> Faults {
        let mut sum = self.user_faults;
        sum.add(&self.kernel_faults);
        sum
    }
}

/// The books of one way to hold a lock:
/// `acquires + unknown_starts + converted_in = releases + converted_out + lost + held now`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Seen to be taken.
    pub acquires: u64,
    /// Known to be or have been held, without its start having been seen: before the attach, in a
    /// gap, or at an unseen place.
    pub unknown_starts: u64,
    /// Seen, derived or bounded to be given back.
    pub releases: u64,
    /// Became a hold of this kind by a downgrade.
    pub converted_in: u64,
    /// Became a hold of another kind by a downgrade.
    pub converted_out: u64,
    /// Known to be gone, without it being known when: its end fell into a gap, or it made room.
    pub lost: u64,
}

/// Things that should not be, with no gap to explain them.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnomalyKind {
    /// A task began to wait for a lock that it already waited for.
    StartWhileWaiting,
    /// The `mmap_lock` was taken without having been tried for.
    AcquireWithoutStart,
    /// A lock was given back that nobody was known to hold.
    ReleaseWithoutAcquire,
    /// A release in one mode of a lock that was held in the other.
    ReleaseInOtherMode,
    /// A writer gave back what another task had taken.
    ReleaseOfOthersWrite,
    /// The `mmap_lock` was taken for writing while others held it.
    WriterBesideHolder,
    /// The `mmap_lock` was taken for reading while a writer held it.
    ReaderBesideWriter,
    /// A VMA was read-locked twice by one task.
    DoubleRead,
    /// A VMA was read-locked while it was write-locked.
    ReadOfWriteLocked,
    /// A VMA was write-locked or detached while it was read-locked.
    WriteOfReadLocked,
    /// A VMA was write-locked without the `mmap_lock` being held for writing.
    WriteWithoutMmapLock,
    /// A wait for a VMA's readers ended that had not begun.
    WriteWithoutStart,
    /// A fault ended that had not begun.
    FaultEndWithoutBegin,
    /// A fault began in user mode while an earlier one had not ended.
    FaultWithoutEnd,
    /// A VMA was still read-locked when its task came from user mode: the release was missed.
    ReadKeptInUserMode,
    /// A VMA's read lock is gone, although no place that could give it back was seen to: one has no probe.
    CoverageHole,
    /// A probe at an instruction found no VMA where one has to be: the text that was read is not what runs.
    NotAVma,
    /// A task ran another program with a lock held that it had taken before.
    HeldAcrossExec,
}

impl AnomalyKind {
    /// All kinds.
    pub const ALL: [Self; 18] = [
        Self::StartWhileWaiting,
        Self::AcquireWithoutStart,
        Self::ReleaseWithoutAcquire,
        Self::ReleaseInOtherMode,
        Self::ReleaseOfOthersWrite,
        Self::WriterBesideHolder,
        Self::ReaderBesideWriter,
        Self::DoubleRead,
        Self::ReadOfWriteLocked,
        Self::WriteOfReadLocked,
        Self::WriteWithoutMmapLock,
        Self::WriteWithoutStart,
        Self::FaultEndWithoutBegin,
        Self::FaultWithoutEnd,
        Self::ReadKeptInUserMode,
        Self::CoverageHole,
        Self::NotAVma,
        Self::HeldAcrossExec,
    ];

    /// The name in all output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StartWhileWaiting => "start_while_waiting",
            Self::AcquireWithoutStart => "acquire_without_start",
            Self::ReleaseWithoutAcquire => "release_without_acquire",
            Self::ReleaseInOtherMode => "release_in_other_mode",
            Self::ReleaseOfOthersWrite => "release_of_others_write",
            Self::WriterBesideHolder => "writer_beside_holder",
            Self::ReaderBesideWriter => "reader_beside_writer",
            Self::DoubleRead => "double_read",
            Self::ReadOfWriteLocked => "read_of_write_locked",
            Self::WriteOfReadLocked => "write_of_read_locked",
            Self::WriteWithoutMmapLock => "write_without_mmap_lock",
            Self::WriteWithoutStart => "write_without_start",
            Self::FaultEndWithoutBegin => "fault_end_without_begin",
            Self::FaultWithoutEnd => "fault_without_end",
            Self::ReadKeptInUserMode => "read_kept_in_user_mode",
            Self::CoverageHole => "coverage_hole",
            Self::NotAVma => "not_a_vma",
            Self::HeldAcrossExec => "held_across_exec",
        }
    }
}

/// One thing that should not be.
#[derive(Clone, Copy, Debug)]
pub struct Anomaly {
    /// What.
    pub kind: AnomalyKind,
    /// The event at which it showed.
    pub event: Event,
    /// The other task in it; 0 if there is none.
    pub other_tid: u32,
    /// The hold in it, if it is about one: when it began.
    pub hold: Option<Start>,
}

/// How many anomalies are kept in full; all are counted.
pub const ANOMALIES_KEPT: usize = 64;

/// Everything that is counted over all tasks.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    by_kind: KindCounts,
    /// Events of the source, gaps not counted.
    pub received: u64,
    /// Gaps.
    pub gaps: u64,
    /// Events that the gaps tell are missing.
    pub missing: u64,
    /// Events made by the engine.
    pub derived: u64,
    /// All events by how surely they are known, by [`Provenance`].
    pub by_provenance: [u64; 4],
    /// The books by [`Lock`].
    pub balance: [Balance; 4],
    /// Waits by [`Lock`].
    pub waits: [Histogram; 4],
    /// Waits whose length is not known.
    pub waits_unknown: [u64; 4],
    /// Holds by [`Lock`].
    pub holds: [Histogram; 4],
    /// Holds whose length is not known, or only bounded.
    pub holds_unknown: [u64; 4],
    /// Times that each lock was taken, by how surely that is known; in sum [`Balance::acquires`].
    pub acquires_by: BySurety,
    /// Times that each lock was given back, by how surely that is known; in sum [`Balance::releases`].
    pub releases_by: BySurety,
    /// Holds by the less sure one of their two ends; in sum [`Self::holds`] and [`Self::holds_unknown`].
    pub holds_by: BySurety,
    /// Readers who raised a VMA's count and backed out before they had the lock.
    pub temporary_reads: u64,
    /// Those that were seen at their own place, by reason.
    pub temporary: ByReason,
    /// Tries at one VMA that were refused, by reason.
    pub refused: ByReason,
    /// Failed look-ups, by reason.
    pub fails: ByReason,
    /// Releases that were seen a second time, at another place.
    pub echoes: u64,
    /// Read locks that were found gone although all releases should be seen; the anomalies have the first ones.
    pub coverage_holes: u64,
    /// `mmap_lock` read holds given back by another task.
    pub non_owner_releases: u64,
    /// VMAs whose memory was seen to be used for another VMA.
    pub recycled_vmas: u64,
    /// Address spaces whose memory was seen to be used for another one: what was held in the old one is lost.
    pub recycled_mms: u64,
    /// Tasks whose tid was seen to be used for another process.
    pub reused_tids: u64,
    /// Rounds of faults under the VMA lock that ended without RETRY: `vma_lock_success` of `/proc/vmstat`.
    pub vma_rounds_done: u64,
    /// Rounds of faults under the VMA lock that ended with RETRY: `vma_lock_retry`.
    pub vma_rounds_retried: u64,
    /// Failed look-ups: `vma_lock_abort`.
    pub read_fails: u64,
    /// Look-ups that met a detached VMA: `vma_lock_miss`.
    pub read_misses: u64,
    /// Anomalies by [`AnomalyKind`].
    pub anomalies: [u64; AnomalyKind::ALL.len()],
}

/// Counts by kind of event.
#[derive(Clone, Debug)]
struct KindCounts([u64; 256]);

impl Default for KindCounts {
    fn default() -> Self {
        Self([0; 256])
    }
}

impl Totals {
    /// How many events of a kind were handed on, derived ones and gaps included.
    pub fn of_kind(&self, kind: Kind) -> u64 {
        self.by_kind.0[kind as usize]
    }

    /// All events that were handed on, derived ones and gaps included.
    pub fn events(&self) -> u64 {
        self.by_kind.0.iter().sum()
    }

    #[inline]
    pub(super) fn count(&mut self, kind: Kind, provenance: Provenance) {
        self.by_kind.0[kind as usize] += 1;
        self.by_provenance[provenance as usize] += 1;
    }

    #[inline]
    pub(super) fn books(&mut self, lock: Lock) -> &mut Balance {
        &mut self.balance[lock as usize]
    }

    /// A lock was taken.
    #[inline]
    pub(super) fn took(&mut self, lock: Lock, how: Provenance) {
        self.balance[lock as usize].acquires += 1;
        self.acquires_by[lock as usize][how as usize] += 1;
    }

    /// A lock was given back.
    #[inline]
    pub(super) fn gave(&mut self, lock: Lock, how: Provenance) {
        self.balance[lock as usize].releases += 1;
        self.releases_by[lock as usize][how as usize] += 1;
    }

    /// A hold ended whose length is not known.
    #[inline]
    pub(super) fn unknown_hold(&mut self, lock: Lock, how: Provenance) {
        self.holds_unknown[lock as usize] += 1;
        self.holds_by[lock as usize][how as usize] += 1;
    }
}
