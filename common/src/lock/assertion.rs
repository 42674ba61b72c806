//! The lock's assertions, as pure functions of a captured state.
//!
//! `vma_assert_locked` exists in four variants, each with lockdep and without; `docs/assertions.md`
//! compares them. All are cheap enough to be called for every event of a live kernel: no branch
//! depends on memory, and the answer is one byte.

use core::fmt;

use super::refcnt::vma_is_read_locked;

/// What lockdep says when asked whether the current task holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(i8)]
pub enum HeldAnswer {
    /// `LOCK_STATE_UNKNOWN`: lockdep is built in, but switched itself off after a report, or is
    /// being asked from within itself. As a condition in C this counts as held.
    #[default]
    Unknown = -1,
    /// Not held by this task.
    NotHeld = 0,
    /// Held by this task. A temporary reader holds, and so does a task that is excluding readers.
    Held = 1,
}

impl HeldAnswer {
    /// The answer as C reads it in an `if`.
    #[inline]
    #[must_use]
    pub const fn truthy(self) -> bool {
        !matches!(self, Self::NotHeld)
    }

    /// The exact answer.
    #[inline]
    #[must_use]
    pub const fn from_held(held: bool) -> Self {
        if held { Self::Held } else { Self::NotHeld }
    }
}

/// Whether the kernel is built with lockdep (`CONFIG_LOCKDEP`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lockdep {
    /// Built in: assertions ask who holds the lock.
    On,
    /// Not built in: assertions see only whether somebody does.
    Off,
}

/// All that an assertion can look at, taken at one instant for one task and one VMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct LockState {
    /// `vma->vm_refcnt`.
    pub refcnt: u32,
    /// `vma->vm_lock_seq`.
    pub vm_lock_seq: u32,
    /// `vma->vm_mm->mm_lock_seq`.
    pub mm_lock_seq: u32,
    /// Lockdep's answer for the VMA lock, about this task.
    pub held: HeldAnswer,
    /// Lockdep's answer for the mmap_lock, exclusively, about this task.
    pub mmap_write_held_by_me: HeldAnswer,
    /// Lockdep's answer for the mmap_lock in any mode, about this task.
    pub mmap_held_by_me: HeldAnswer,
    /// Some task holds the mmap_lock exclusively.
    pub mmap_write_locked_by_anyone: bool,
    /// Some task holds the mmap_lock in some mode.
    pub mmap_locked_by_anyone: bool,
}

impl LockState {
    /// Does `vm_lock_seq` mark the VMA as write-locked in the mm's present cycle?
    #[inline]
    #[must_use]
    pub const fn seq_equal(&self) -> bool {
        self.vm_lock_seq == self.mm_lock_seq
    }
}

/// What an assertion had to say: nothing, or one or more complaints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Verdict(u8);

impl Verdict {
    /// No complaint.
    pub const SILENT: Self = Self(0);
    /// The mmap_lock is not held exclusively (by this task with lockdep, by anyone without).
    pub const MMAP_NOT_WRITE_LOCKED: Self = Self(1);
    /// `vm_lock_seq` differs from `mm_lock_seq`: the VMA is not write-locked.
    pub const VMA_NOT_WRITE_LOCKED: Self = Self(2);
    /// Lockdep says that this task does not hold the VMA lock.
    pub const NOT_HELD: Self = Self(4);
    /// The VMA is detached where it must be attached.
    pub const DETACHED: Self = Self(8);
    /// The VMA is attached where it must be detached.
    pub const ATTACHED: Self = Self(16);

    const NAMES: [(Self, &'static str); 5] = [
        (Self::MMAP_NOT_WRITE_LOCKED, "mmap_lock not write-locked"),
        (Self::VMA_NOT_WRITE_LOCKED, "vm_lock_seq differs"),
        (Self::NOT_HELD, "VMA lock not held"),
        (Self::DETACHED, "detached"),
        (Self::ATTACHED, "attached"),
    ];

    /// Did the assertion fire?
    #[inline]
    #[must_use]
    pub const fn fires(self) -> bool {
        self.0 != 0
    }

    /// The complaints as bits, for storing.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Both assertions' complaints.
    #[inline]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The complaint if the condition holds, else silence.
    #[inline]
    const fn when(self, condition: bool) -> Self {
        if condition { self } else { Self::SILENT }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.fires() {
            return f.write_str("silent");
        }
        let mut first = true;
        for (bit, name) in Self::NAMES {
            if self.0 & bit.0 != 0 {
                f.write_str(if first { "fires: " } else { ", " })?;
                f.write_str(name)?;
                first = false;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The variants of `vma_assert_locked`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// Before the patch: a count above one, or write-locked.
    Baseline,
    /// The mail's second version: the count decides whether lockdep or the write lock is asserted.
    V2,
    /// The reviewer's proposal: lockdep decides, and the count only where there is no lockdep.
    LockdepFirst,
    /// As merged in 7.0.
    Merged,
}

impl Variant {
    /// All variants, oldest first.
    pub const ALL: [Self; 4] = [Self::Baseline, Self::V2, Self::LockdepFirst, Self::Merged];

    /// The name used on the command line and in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::V2 => "v2",
            Self::LockdepFirst => "lockdep-first",
            Self::Merged => "merged",
        }
    }

    /// This variant's `vma_assert_locked`.
    #[inline]
    #[must_use]
    pub const fn vma_assert_locked(self, lockdep: Lockdep, s: &LockState) -> Verdict {
        match self {
            Self::Baseline => vma_assert_locked_baseline(lockdep, s),
            Self::V2 => vma_assert_locked_v2(lockdep, s),
            Self::LockdepFirst => vma_assert_locked_lockdep_first(lockdep, s),
            Self::Merged => vma_assert_locked_merged(lockdep, s),
        }
    }
}

/// The mmap_lock must be held exclusively: by this task if lockdep can tell, else by anyone.
#[inline]
#[must_use]
pub const fn mmap_assert_write_locked(lockdep: Lockdep, s: &LockState) -> Verdict {
    let held = match lockdep {
        Lockdep::On => s.mmap_write_held_by_me.truthy(),
        Lockdep::Off => s.mmap_write_locked_by_anyone,
    };
    Verdict::MMAP_NOT_WRITE_LOCKED.when(!held)
}

/// The mmap_lock must be held exclusively, and the VMA be write-locked under it.
#[inline]
#[must_use]
pub const fn vma_assert_write_locked(lockdep: Lockdep, s: &LockState) -> Verdict {
    mmap_assert_write_locked(lockdep, s).and(Verdict::VMA_NOT_WRITE_LOCKED.when(!s.seq_equal()))
}

/// `vma_assert_locked` before the patch.
#[inline]
#[must_use]
pub const fn vma_assert_locked_baseline(lockdep: Lockdep, s: &LockState) -> Verdict {
    if s.refcnt > 1 {
        return Verdict::SILENT;
    }
    vma_assert_write_locked(lockdep, s)
}

/// `vma_assert_locked` in the mail's second version.
#[inline]
#[must_use]
pub const fn vma_assert_locked_v2(lockdep: Lockdep, s: &LockState) -> Verdict {
    if vma_is_read_locked(s.refcnt) {
        return match lockdep {
            Lockdep::On => Verdict::NOT_HELD.when(!s.held.truthy()),
            Lockdep::Off => Verdict::SILENT,
        };
    }
    vma_assert_write_locked(lockdep, s)
}

/// `vma_assert_locked` as the reviewer proposed it. He left open what happens without lockdep, where
/// there is nobody to ask; the count decides there, as in the second version.
#[inline]
#[must_use]
pub const fn vma_assert_locked_lockdep_first(lockdep: Lockdep, s: &LockState) -> Verdict {
    match lockdep {
        Lockdep::On if s.held.truthy() => Verdict::SILENT,
        Lockdep::On => vma_assert_write_locked(lockdep, s),
        Lockdep::Off => vma_assert_locked_v2(lockdep, s),
    }
}

/// `vma_assert_locked` as merged in 7.0.
#[inline]
#[must_use]
pub const fn vma_assert_locked_merged(lockdep: Lockdep, s: &LockState) -> Verdict {
    match lockdep {
        Lockdep::On if s.held.truthy() => Verdict::SILENT,
        Lockdep::On => vma_assert_write_locked(lockdep, s),
        Lockdep::Off if s.refcnt > 1 => Verdict::SILENT,
        Lockdep::Off => Verdict::DETACHED
            .when(s.refcnt == 0)
            .and(vma_assert_write_locked(lockdep, s)),
    }
}

/// The VMA must not be able to change under this task: mmap_lock held, or else the VMA lock.
#[inline]
#[must_use]
pub const fn vma_assert_stabilised(lockdep: Lockdep, s: &LockState) -> Verdict {
    let mmap = match lockdep {
        Lockdep::On => s.mmap_held_by_me.truthy(),
        Lockdep::Off => s.mmap_locked_by_anyone,
    };
    if mmap {
        return Verdict::SILENT;
    }
    vma_assert_locked_merged(lockdep, s)
}

/// The VMA must be in a tree. Checked in every build, unlike the assertions above.
#[inline]
#[must_use]
pub const fn vma_assert_attached(s: &LockState) -> Verdict {
    Verdict::DETACHED.when(s.refcnt == 0)
}

/// The VMA must be in no tree. Checked in every build.
#[inline]
#[must_use]
pub const fn vma_assert_detached(s: &LockState) -> Verdict {
    Verdict::ATTACHED.when(s.refcnt != 0)
}

/// The VMA may be changed: it is detached, or else write-locked. (7.3)
#[inline]
#[must_use]
pub const fn vma_assert_can_modify(lockdep: Lockdep, s: &LockState) -> Verdict {
    if s.refcnt == 0 {
        return Verdict::SILENT;
    }
    vma_assert_write_locked(lockdep, s)
}

#[cfg(test)]
mod tests {
    use super::super::refcnt::VM_REFCNT_EXCLUDE_READERS_FLAG as F;
    use super::*;

    /// A task that holds nothing, looking at an attached, unlocked VMA of an unlocked mm.
    fn bystander(refcnt: u32) -> LockState {
        LockState {
            refcnt,
            vm_lock_seq: 1,
            mm_lock_seq: 2,
            held: HeldAnswer::NotHeld,
            mmap_write_held_by_me: HeldAnswer::NotHeld,
            mmap_held_by_me: HeldAnswer::NotHeld,
            ..LockState::default()
        }
    }

    fn writer(refcnt: u32) -> LockState {
        LockState {
            mm_lock_seq: 1,
            mmap_write_held_by_me: HeldAnswer::Held,
            mmap_held_by_me: HeldAnswer::Held,
            mmap_write_locked_by_anyone: true,
            mmap_locked_by_anyone: true,
            ..bystander(refcnt)
        }
    }

    /// Section 6 of the facts page, row by row: does the variant defer to `vma_assert_write_locked`?
    #[test]
    fn decision_tables() {
        // (refcnt, [baseline, v2, merged without lockdep]) for a task that holds nothing; lockdep off.
        for (refcnt, fires) in [
            (0, [true, true, true]),
            (1, [true, true, true]),
            (2, [false, false, false]),
            (F - 1, [false, false, false]),
            (F, [false, true, false]),
            (F + 1, [false, true, false]),
            (F + 2, [false, false, false]),
        ] {
            let s = bystander(refcnt);
            let got = [Variant::Baseline, Variant::V2, Variant::Merged]
                .map(|v| v.vma_assert_locked(Lockdep::Off, &s).fires());
            assert_eq!(got, fires, "{refcnt:#x}");
            // With lockdep only the baseline still believes the count.
            for v in [Variant::V2, Variant::LockdepFirst, Variant::Merged] {
                assert!(v.vma_assert_locked(Lockdep::On, &s).fires(), "{v:?} {refcnt:#x}");
            }
        }
    }

    #[test]
    fn the_second_version_fires_on_a_writer_with_a_temporary_reader() {
        let s = writer(2);
        assert_eq!(vma_assert_locked_v2(Lockdep::On, &s), Verdict::NOT_HELD);
        assert!(!vma_assert_locked_v2(Lockdep::Off, &s).fires());
        assert!(!vma_assert_locked_lockdep_first(Lockdep::On, &s).fires());
        assert!(!vma_assert_locked_merged(Lockdep::On, &s).fires());
    }

    #[test]
    fn merged_differs_on_a_detached_but_write_locked_vma() {
        let s = writer(0);
        assert!(!vma_assert_locked_merged(Lockdep::On, &s).fires());
        assert_eq!(vma_assert_locked_merged(Lockdep::Off, &s), Verdict::DETACHED);
    }

    #[test]
    fn an_unknown_answer_counts_as_held() {
        let s = LockState {
            held: HeldAnswer::Unknown,
            mmap_write_held_by_me: HeldAnswer::Unknown,
            ..bystander(2)
        };
        for v in [Variant::V2, Variant::LockdepFirst, Variant::Merged] {
            assert!(!v.vma_assert_locked(Lockdep::On, &s).fires());
        }
        // The sequence numbers need no lockdep.
        assert_eq!(
            vma_assert_write_locked(Lockdep::On, &s),
            Verdict::VMA_NOT_WRITE_LOCKED
        );
    }

    #[test]
    fn the_smaller_assertions() {
        assert!(vma_assert_attached(&bystander(0)).fires() && !vma_assert_attached(&bystander(F)).fires());
        assert!(!vma_assert_detached(&bystander(0)).fires() && vma_assert_detached(&bystander(1)).fires());
        assert!(!vma_assert_can_modify(Lockdep::On, &bystander(0)).fires());
        assert!(vma_assert_can_modify(Lockdep::On, &bystander(1)).fires());
        assert!(!vma_assert_can_modify(Lockdep::On, &writer(1)).fires());
        assert!(!vma_assert_stabilised(Lockdep::On, &writer(1)).fires());
        // Without lockdep anybody's mmap_lock silences it: a false negative the source admits.
        let foreign = LockState {
            mmap_locked_by_anyone: true,
            ..bystander(1)
        };
        assert!(!vma_assert_stabilised(Lockdep::Off, &foreign).fires());
        assert!(vma_assert_stabilised(Lockdep::On, &foreign).fires());
    }

    #[test]
    fn verdicts_name_every_complaint() {
        let s = bystander(0);
        assert_eq!(
            vma_assert_locked_merged(Lockdep::Off, &s).to_string(),
            "fires: mmap_lock not write-locked, vm_lock_seq differs, detached"
        );
        assert_eq!(Verdict::SILENT.to_string(), "silent");
    }
}
