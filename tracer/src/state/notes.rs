//! What ended at the latest event: waits, holds, faults, failed look-ups. For statistics beside the engine.
//!
//! Notes are made at the very places where [`super::Totals`] are counted, so that whatever is grouped from them sums up
//! to the totals. They cost nothing until [`Engine::keep_notes`] asks for them, and take no memory in the long run: the
//! list is emptied at each event.

use tracer_common::wire::{COMM_LEN, Event, Provenance, Reason};

use super::task::{Frame, Hold, Lock, Wait};
use super::{Engine, WriteLocked};

/// What a [`Span`] was.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// A wait that ended with the lock.
    Wait = 0,
    /// A wait for the `mmap_lock` that ended without it: a failed trylock, or the task was killed.
    GaveUp = 1,
    /// A hold.
    Hold = 2,
}

impl What {
    /// All, by number.
    pub const ALL: [Self; 3] = [Self::Wait, Self::GaveUp, Self::Hold];
}

/// Who did something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Who {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// A small number that the task keeps while it is remembered.
    pub slot: u32,
}

/// Some memory: a VMA of an address space, or all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// Address of the `mm_struct`; 0 if unknown.
    pub mm: u64,
    /// Address of the `vm_area_struct`; 0 for the `mmap_lock`, or if unknown.
    pub vma: u64,
    /// First address of the VMA.
    pub vm_start: u64,
    /// First address after the VMA; 0: range unknown.
    pub vm_end: u64,
}

/// A wait or a hold that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// A wait or a hold.
    pub what: What,
    /// Of which lock.
    pub lock: Lock,
    /// Whose.
    pub who: Who,
    /// Of what.
    pub place: Place,
    /// Since when, in nanoseconds; without a known length just when it was first known of.
    pub since_ns: u64,
    /// How long, in nanoseconds, where that is known.
    pub ns: Option<u64>,
    /// How surely: the less sure one of its two ends.
    pub how: Provenance,
    /// The site of the event that ended it.
    pub site: u32,
}

/// How one round of a fault ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundEnd {
    /// The fault is done, under the VMA lock.
    VmaLock,
    /// The fault is done under the `mmap_lock`, having been sent back under the VMA lock before.
    Retried,
    /// The fault is done under the `mmap_lock`.
    MmapLock,
    /// The fault ended in an error.
    Error,
    /// It is to come again.
    SentBack,
}

/// One round of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Whose.
    pub who: Who,
    /// The VMA.
    pub place: Place,
    /// How it ended.
    pub end: RoundEnd,
    /// It ran under the VMA lock.
    pub under_vma: bool,
    /// It came from user mode.
    pub user: bool,
    /// The fault was under the VMA lock in a round before, or is in this one.
    pub was_vma: bool,
}

/// Something that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A wait or a hold.
    Span(Span),
    /// A round of a fault.
    Round(Round),
    /// A fault that was sent back did not come again.
    Abandoned(Who),
    /// A look-up of a VMA to read-lock failed; of the VMA only what is known is there.
    LookUpFailed(Who, Place, Reason),
    /// A look-up met a detached VMA.
    Miss(Who),
}

/// The notes of the latest event.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    on: bool,
    list: Vec<Note>,
    /// The site of the event at hand.
    pub(super) site: u32,
}

impl Notes {
    #[inline]
    pub(super) fn clear(&mut self, event: &Event) {
        self.list.clear();
        self.site = event.header.site;
    }

    /// Whether anybody wants them.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    #[inline]
    pub(super) fn add(&mut self, note: impl FnOnce() -> Note) {
        if self.on {
            self.list.push(note());
        }
    }
}

impl Engine {
    /// Makes [`Self::notes`] be there from now on.
    pub fn keep_notes(&mut self) {
        self.notes.on = true;
    }

    /// What ended at the latest event, in the order in which it was found out.
    #[inline]
    pub fn notes(&self) -> &[Note] {
        &self.notes.list
    }

    /// The command name of a task that a note is about.
    pub(crate) fn comm_of(&self, who: Who) -> [u8; COMM_LEN] {
        let task = self.tasks.peek(u64::from(who.tid));
        task.filter(|task| task.pid == who.pid)
            .map_or([0; COMM_LEN], |task| task.comm)
    }

    #[inline]
    pub(super) fn who(&self, t: u32) -> Who {
        let task = &self.tasks[t];
        Who {
            pid: task.pid,
            tid: task.tid,
            slot: t,
        }
    }

    #[inline]
    pub(super) fn note_hold(&mut self, t: u32, hold: &Hold, ns: Option<u64>, how: Provenance) {
        let (who, site) = (self.who(t), self.notes.site);
        self.notes.add(|| {
            Note::Span(Span {
                what: What::Hold,
                lock: hold.lock,
                who,
                place: Place {
                    mm: hold.mm,
                    vma: hold.vma,
                    vm_start: hold.vm_start,
                    vm_end: hold.vm_end,
                },
                since_ns: hold.since_ns,
                ns,
                how,
                site,
            })
        });
    }

    #[inline]
    pub(super) fn note_wait(&mut self, t: u32, wait: &Wait, what: What, ns: Option<u64>) {
        if !self.notes.is_on() {
            return;
        }
        let vma = if wait.vma == 0 {
            None
        } else {
            self.vmas.peek(wait.vma)
        };
        let note = Note::Span(Span {
            what,
            lock: wait.lock,
            who: self.who(t),
            place: Place {
                mm: wait.mm,
                vma: wait.vma,
                vm_start: vma.map_or(0, |vma| vma.vm_start),
                vm_end: vma.map_or(0, |vma| vma.vm_end),
            },
            since_ns: wait.since_ns,
            ns,
            how: if ns.is_some() {
                Provenance::Observed
            } else {
                Provenance::Unknown
            },
            site: self.notes.site,
        });
        self.notes.list.push(note);
    }

    /// The VMA of a fault, as it was when the round began.
    #[inline]
    pub(super) fn place_of_fault(&self, event: &Event, frame: Option<&Frame>) -> Place {
        if let Some(frame) = frame.filter(|frame| frame.vm_end != 0) {
            return Place {
                mm: frame.mm,
                vma: frame.vma,
                vm_start: frame.vm_start,
                vm_end: frame.vm_end,
            };
        }
        self.place_of_vma(event.vma().unwrap_or(0), event.mm().unwrap_or(0))
    }

    /// What is known of a VMA.
    pub(super) fn place_of_vma(&self, address: u64, mm: u64) -> Place {
        let vma = if address == 0 {
            None
        } else {
            self.vmas.peek(address)
        };
        Place {
            mm: vma.map_or(mm, |vma| vma.mm),
            vma: address,
            vm_start: vma.map_or(0, |vma| vma.vm_start),
            vm_end: vma.map_or(0, |vma| vma.vm_end),
        }
    }
}

/// A VMA write lock that ended with the `mmap_lock`'s write side.
#[inline]
pub(super) fn write_lock_ended(who: Who, mm: u64, locked: &WriteLocked, ns: Option<u64>, site: u32) -> Note {
    Note::Span(Span {
        what: What::Hold,
        lock: Lock::VmaWrite,
        who,
        place: Place {
            mm,
            vma: locked.vma,
            vm_start: locked.vm_start,
            vm_end: locked.vm_end,
        },
        since_ns: locked.since_ns,
        ns,
        how: if ns.is_some() {
            Provenance::Derived
        } else {
            Provenance::Unknown
        },
        site,
    })
}
