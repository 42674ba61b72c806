//! States that the lock cannot be in, with the proof that it was.

use std::collections::VecDeque;

use tracer_common::wire::Event;

use super::holders::Holders;

/// How many violations are kept in full; all are counted.
pub const VIOLATIONS_KEPT: usize = 64;
/// So many of the latest can be taken back when a gap turns up that explains them.
const RECENT: usize = 4096;

/// What is impossible about a state.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ViolationKind {
    /// `vm_refcnt` is lower than the number of those that certainly are inside.
    CountBelowHolders,
    /// It is higher than all that could be inside, and later it was not, without anybody having been seen to leave.
    CountAboveHolders,
    /// The flag that keeps readers out was set while no writer was near, and later it was not.
    FlagWithoutWriter,
    /// A task holds a VMA for reading that is write-locked: its `vm_lock_seq` is the `mm_lock_seq`.
    ReaderInsideWriter,
    /// Right after a VMA was write-locked its `vm_lock_seq` is not the `mm_lock_seq`.
    WriteLockNotTaken,
    /// `mm_lock_seq` is even under the writer of the `mmap_lock`.
    SeqEvenUnderWriter,
    /// It is odd under a reader of the `mmap_lock`.
    SeqOddUnderReader,
    /// It changed while one task held the `mmap_lock`.
    SeqChangedUnderHolder,
    /// `vm_lock_seq` changed while one task held the VMA for reading.
    VmaSeqChangedUnderReader,
    /// A VMA that joins an address space is in one already.
    AttachOfAttached,
    /// A VMA has left its address space, and is still counted.
    DetachLeftReaders,
}

impl ViolationKind {
    /// All, by number.
    pub const ALL: [Self; 11] = [
        Self::CountBelowHolders,
        Self::CountAboveHolders,
        Self::FlagWithoutWriter,
        Self::ReaderInsideWriter,
        Self::WriteLockNotTaken,
        Self::SeqEvenUnderWriter,
        Self::SeqOddUnderReader,
        Self::SeqChangedUnderHolder,
        Self::VmaSeqChangedUnderReader,
        Self::AttachOfAttached,
        Self::DetachLeftReaders,
    ];

    /// The name in all output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CountBelowHolders => "count_below_holders",
            Self::CountAboveHolders => "count_above_holders",
            Self::FlagWithoutWriter => "flag_without_writer",
            Self::ReaderInsideWriter => "reader_inside_writer",
            Self::WriteLockNotTaken => "write_lock_not_taken",
            Self::SeqEvenUnderWriter => "seq_even_under_writer",
            Self::SeqOddUnderReader => "seq_odd_under_reader",
            Self::SeqChangedUnderHolder => "seq_changed_under_holder",
            Self::VmaSeqChangedUnderReader => "vma_seq_changed_under_reader",
            Self::AttachOfAttached => "attach_of_attached",
            Self::DetachLeftReaders => "detach_left_readers",
        }
    }

    /// Whether the event proves it by itself. Else what is missing could explain it.
    pub const fn is_proven_alone(self) -> bool {
        !matches!(
            self,
            Self::CountBelowHolders
                | Self::CountAboveHolders
                | Self::FlagWithoutWriter
                | Self::SeqChangedUnderHolder
                | Self::VmaSeqChangedUnderReader
        )
    }
}

/// One state that the lock cannot be in.
#[derive(Clone, Copy, Debug)]
pub struct Violation {
    /// What is impossible.
    pub kind: ViolationKind,
    /// The event that read it.
    pub event: Event,
    /// What should have been read instead: of a count the least, or the most, that is possible; else a sequence number.
    pub expected: u32,
    /// Who held it then.
    pub holders: Holders,
    /// Time of the event that completed the proof, in nanoseconds; that of `event` if it needed no other.
    pub proven_ns: u64,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Violations {
    counts: [u64; ViolationKind::ALL.len()],
    kept: Vec<Violation>,
    recent: VecDeque<(u64, ViolationKind)>,
    taken_back: u64,
}

impl Violations {
    /// All.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How many of one kind.
    pub fn count(&self, kind: ViolationKind) -> u64 {
        self.counts[kind as usize]
    }

    /// The first ones, up to [`VIOLATIONS_KEPT`].
    pub fn kept(&self) -> &[Violation] {
        &self.kept
    }

    /// What a gap explained that turned up later.
    pub fn taken_back(&self) -> u64 {
        self.taken_back
    }

    #[cold]
    pub(super) fn add(&mut self, violation: Violation) {
        self.counts[violation.kind as usize] += 1;
        if self.kept.len() < VIOLATIONS_KEPT {
            self.kept.push(violation);
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((
            violation.proven_ns.max(violation.event.header.ts_ns),
            violation.kind,
        ));
    }

    /// Events are missing since then: what hangs on them proves nothing any more.
    #[cold]
    pub(super) fn gap(&mut self, from_ns: u64) {
        let explained = |proven_ns: u64, kind: ViolationKind| proven_ns >= from_ns && !kind.is_proven_alone();
        for &(proven_ns, kind) in self.recent.iter().filter(|&&(ns, kind)| explained(ns, kind)) {
            let _ = proven_ns;
            self.counts[kind as usize] -= 1;
            self.taken_back += 1;
        }
        self.recent.retain(|&(ns, kind)| !explained(ns, kind));
        self.kept.retain(|violation| {
            !explained(
                violation.proven_ns.max(violation.event.header.ts_ns),
                violation.kind,
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::wire::Kind;

    use super::*;

    fn violation(kind: ViolationKind, ts_ns: u64) -> Violation {
        Violation {
            kind,
            event: Event::synthetic(Kind::VmaReadAcquire, ts_ns),
            expected: 0,
            holders: Holders::default(),
            proven_ns: ts_ns,
        }
    }

    #[test]
    fn a_gap_takes_back_what_hangs_on_what_is_missing() {
        let mut all = Violations::default();
        all.add(violation(ViolationKind::CountAboveHolders, 10));
        all.add(violation(ViolationKind::CountAboveHolders, 20));
        all.add(violation(ViolationKind::ReaderInsideWriter, 20));
        all.gap(15);
        assert_eq!(all.total(), 2);
        assert_eq!(all.count(ViolationKind::CountAboveHolders), 1);
        assert_eq!(all.taken_back(), 1);
        assert_eq!(all.kept().len(), 2);
    }
}
