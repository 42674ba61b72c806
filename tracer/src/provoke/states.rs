//! How often each state of the lock was seen: counts of what events have read, nothing else.

use std::collections::HashMap;

use tracer_common::lock::assertion::{HeldAnswer, LockState, Lockdep, Variant};
use tracer_common::lock::refcnt::RefcntClass;
use tracer_common::wire::{Event, Kind};

use crate::state::Engine;

/// Whether `vm_lock_seq` equals `mm_lock_seq`: it does while the VMA is write-locked.
pub(super) const SEQS: [&str; 3] = ["equal", "different", "unknown"];

/// A false verdict that the mail or the model foretells. All others are the checker's to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A temporary reader of a VMA that is being detached sees F+1, and v2 with lockdep fires for it.
    TemporaryAtFlagPlusOne,
    /// A writer sees 2 to F-1 through another's temporary increment, and v2 with lockdep fires for it.
    WriterWithTemporary,
    /// The VMA's writer would see that now, since another task reads such a value while it holds the write lock.
    WriterWouldSee,
}

impl Claim {
    /// All, by number.
    pub const ALL: [Self; 3] = [
        Self::TemporaryAtFlagPlusOne,
        Self::WriterWithTemporary,
        Self::WriterWouldSee,
    ];

    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TemporaryAtFlagPlusOne => "v2_lockdep_false_positive_temporary_reader_of_detaching",
            Self::WriterWithTemporary => "v2_lockdep_false_positive_writer_saw_temporary_reader",
            Self::WriterWouldSee => "v2_lockdep_false_positive_writer_would_see_temporary_reader",
        }
    }

    /// The same for people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::TemporaryAtFlagPlusOne => {
                "v2, lockdep: fires for a temporary reader of a detaching VMA, at F+1"
            }
            Self::WriterWithTemporary => {
                "v2, lockdep: fires for a writer beside a temporary reader, as it saw"
            }
            Self::WriterWouldSee => "the same, had the writer asserted when the reader looked",
        }
    }
}

/// How often each claim came true, and at how many events it could have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// By number of the claim.
    pub seen: [u64; Claim::ALL.len()],
    /// By number of the claim: the events of the kind that would show it.
    pub tries: [u64; Claim::ALL.len()],
}

impl Claims {
    fn note(&mut self, claim: Claim, seen: bool) {
        self.tries[claim as usize] += 1;
        self.seen[claim as usize] += u64::from(seen);
    }
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct States {
    /// Values of `vm_refcnt` by class, then by [`SEQS`].
    pub refcnt: [[u64; 3]; RefcntClass::ALL.len()],
    /// False verdicts.
    pub claims: Claims,
    /// Temporary readers that have not put their increment back yet, by thread: the VMA, and whether the claims about
    /// them have come true already.
    inside: HashMap<u32, (u64, [bool; 2])>,
}

impl States {
    /// Takes one event in as the engine handed it on, after it did.
    pub fn observe(&mut self, engine: &Engine, event: &Event) {
        let Some(refcnt) = event.vm_refcnt().filter(|_| is_of_vma(event.kind)) else {
            return;
        };
        let class = RefcntClass::of(refcnt);
        let (seq, equal) = match (event.vm_lock_seq(), event.mm_lock_seq()) {
            (Some(vma), Some(mm)) if vma == mm => (0, true),
            (Some(_), Some(_)) => (1, false),
            _ => (2, false),
        };
        self.refcnt[class as usize][seq] += 1;
        if seq == 2 {
            return;
        }
        let state = |held, mmap_write: bool| LockState {
            refcnt,
            vm_lock_seq: event.body.vm_lock_seq,
            mm_lock_seq: event.body.mm_lock_seq,
            held: HeldAnswer::from_held(held),
            mmap_write_held_by_me: HeldAnswer::from_held(mmap_write),
            mmap_held_by_me: HeldAnswer::from_held(mmap_write),
            // An odd number says that the mmap_lock is write-locked.
            mmap_write_locked_by_anyone: event.body.mm_lock_seq & 1 == 1,
            mmap_locked_by_anyone: event.body.mm_lock_seq & 1 == 1,
        };
        let v2_fires = |state: &LockState| Variant::V2.vma_assert_locked(Lockdep::On, state).fires();
        match event.kind {
            // Nobody but a temporary reader gives back a VMA that is write-locked.
            Kind::VmaReadRelease if !equal => {}
            Kind::VmaReadTemporary | Kind::VmaReadRelease => {
                // lockdep says that a temporary reader holds the lock. At F+1 v2 does not ask it.
                let fired = v2_fires(&state(true, false));
                let at_flag_plus_one = fired && class == RefcntClass::FlagPlusOne;
                let beside_writer = equal && v2_fires(&state(false, true)) && has_writer(engine, event);
                self.temporary(event, [at_flag_plus_one, beside_writer]);
            }
            Kind::VmaWriteAcquire | Kind::VmaDetach => {
                let fired = equal && v2_fires(&state(false, true));
                self.claims.note(Claim::WriterWithTemporary, fired);
            }
            _ => {}
        }
    }
}

impl States {
    /// A temporary reader looked: when it found that it may not have the lock, when it put it back, or both times.
    fn temporary(&mut self, event: &Event, true_now: [bool; 2]) {
        let before = self.inside.remove(&event.header.tid);
        let before = before.filter(|&(vma, _)| vma == event.body.vma && event.kind == Kind::VmaReadRelease);
        let claims = [Claim::TemporaryAtFlagPlusOne, Claim::WriterWouldSee];
        for (at, (claim, now)) in claims.into_iter().zip(true_now).enumerate() {
            match before.map(|(_, seen)| seen[at]) {
                None => self.claims.note(claim, now),
                Some(false) => self.claims.seen[claim as usize] += u64::from(now),
                Some(true) => {}
            }
        }
        if event.kind == Kind::VmaReadTemporary {
            self.inside.insert(event.header.tid, (event.body.vma, true_now));
        }
    }
}

const fn is_of_vma(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::TaskFork
            | Kind::TaskExec
            | Kind::TaskExit
            | Kind::SchedOut
            | Kind::SchedIn
            | Kind::SchedWake
            | Kind::Stack
            | Kind::Hold
    )
}

/// Whether another task is known to hold the mmap_lock of the event's mm for writing.
fn has_writer(engine: &Engine, event: &Event) -> bool {
    let Some(mm) = event.mm() else { return false };
    // Temporary readers are rare, and a scenario has few address spaces.
    let writer = engine
        .mms()
        .find(|view| view.address == mm)
        .and_then(|view| view.writer());
    writer.is_some_and(|tid| tid != event.header.tid)
}

#[cfg(test)]
mod tests {
    use tracer_common::lock::refcnt::VM_REFCNT_EXCLUDE_READERS_FLAG as F;
    use tracer_common::wire::flag;

    use super::*;
    use crate::info::SourceInfo;

    fn event(kind: Kind, tid: u32, refcnt: u32, seqs: (u32, u32)) -> Event {
        let mut event = Event::synthetic(kind, u64::from(tid));
        event.header.flags = flag::MM | flag::VMA | flag::REFCNT | flag::VMA_SEQ | flag::MM_SEQ;
        (event.header.pid, event.header.tid) = (1, tid);
        (event.body.mm, event.body.vma) = (0x1000, 0x2000);
        event.body.vm_refcnt = refcnt;
        (event.body.vm_lock_seq, event.body.mm_lock_seq) = seqs;
        event
    }

    fn states(events: &[Event]) -> States {
        let mut engine = Engine::new(&SourceInfo::default());
        let mut states = States::default();
        for event in events {
            engine.apply(event, &mut |_, _| {});
            states.observe(&engine, event);
        }
        states
    }

    #[test]
    fn classes_are_counted_with_their_sequence_numbers() {
        let states = states(&[
            event(Kind::VmaReadAcquire, 1, 2, (1, 2)),
            event(Kind::VmaReadRelease, 1, F + 2, (1, 3)),
            event(Kind::VmaWriteAcquire, 2, 1, (3, 3)),
        ]);
        assert_eq!(states.refcnt[RefcntClass::Readers as usize], [0, 1, 0]);
        assert_eq!(states.refcnt[RefcntClass::Waiting as usize], [0, 1, 0]);
        assert_eq!(states.refcnt[RefcntClass::Attached as usize], [1, 0, 0]);
    }

    #[test]
    fn the_mails_case_is_a_temporary_reader_at_the_flag_plus_one() {
        let seen = |refcnt, seqs| {
            let claims = states(&[event(Kind::VmaReadTemporary, 1, refcnt, seqs)]).claims;
            assert_eq!(claims.tries[Claim::TemporaryAtFlagPlusOne as usize], 1);
            claims.seen[Claim::TemporaryAtFlagPlusOne as usize]
        };
        assert_eq!(seen(F + 1, (3, 3)), 1);
        assert_eq!(seen(F + 2, (3, 3)), 0);
        assert_eq!(seen(2, (3, 3)), 0);
    }

    #[test]
    fn a_temporary_reader_that_is_seen_twice_is_one() {
        let claims = states(&[
            event(Kind::VmaReadTemporary, 1, 2, (3, 3)),
            event(Kind::VmaReadRelease, 1, F + 1, (3, 3)),
            // This one was seen only as it put its increment back; and this is a plain reader.
            event(Kind::VmaReadRelease, 2, F + 1, (3, 3)),
            event(Kind::VmaReadRelease, 3, F + 2, (1, 3)),
        ])
        .claims;
        assert_eq!(claims.tries[Claim::TemporaryAtFlagPlusOne as usize], 2);
        assert_eq!(claims.seen[Claim::TemporaryAtFlagPlusOne as usize], 2);
    }

    #[test]
    fn a_writer_beside_a_temporary_reader_is_told_of_by_both() {
        let mut write = Event::synthetic(Kind::MmapAcquire, 1);
        write.header.flags = flag::MM | flag::WRITE;
        (write.header.pid, write.header.tid, write.body.mm) = (1, 2, 0x1000);
        let claims = states(&[
            write,
            event(Kind::VmaWriteAcquire, 2, 2, (3, 3)),
            event(Kind::VmaReadTemporary, 1, 2, (3, 3)),
        ])
        .claims;
        assert_eq!(claims.seen[Claim::WriterWithTemporary as usize], 1);
        assert_eq!(claims.seen[Claim::WriterWouldSee as usize], 1);
        // Without a known writer nobody would see it.
        let claims = states(&[event(Kind::VmaReadTemporary, 1, 2, (3, 3))]).claims;
        assert_eq!(claims.seen[Claim::WriterWouldSee as usize], 0);
    }
}
