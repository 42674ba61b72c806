//! Assertions side by side: what every variant says at every event, and whether it is right.
//!
//! At each event that has read a VMA's lock, all variants of `vma_assert_locked` and the assertions beside it are asked
//! as several tasks could ask them at that instant ([`Viewpoint`]), with lockdep and without. They see what the event
//! has read; what lockdep would answer, and what would be right, comes from the rebuilt truth. The vocabulary, what each
//! assertion says and what it should say, is that of the model checker ([`super::vocabulary`]), whose predictions
//! are in `docs/assertions.md`.
//!
//! # When it is judged
//!
//! What the task at hand is to the VMA, its own event says. That it is still so when the fields are read is sure, since
//! it does one thing at a time. Another reader counts only if it holds the lock over the whole window of the event (see
//! [`super::accounting`]). That somebody holds the VMA for writing the numbers prove: `vm_lock_seq` was read before
//! `mm_lock_seq`, the latter only grows, and the former is set to it under the write lock; if they are equal then the
//! lock was held in between. An odd `mm_lock_seq` proves a writer of the `mmap_lock`. Who holds the `mmap_lock` for
//! reading is known only if somebody held it over the whole window, or nobody was near it; else all that may be is
//! tried, and where the answer hangs on it, it is *unknown*.
//!
//! # What it costs
//!
//! An event and a viewpoint make a small number, the [`Key`]; counting it is all that is done. What the assertions say
//! of each key is worked out when somebody wants to know.

mod key;
mod predicted;
mod tally;

use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use tracer_common::lock::RefcntClass;
use tracer_common::wire::{Event, Kind, Provenance, fault, flag};

use super::accounting::Place;
use super::holders::Holders;
use crate::check::vocabulary::Standing;
use crate::info::{Family, SourceInfo};
use crate::state::{Engine, Lock, VmaEntry};
pub use key::{Key, Mmap, Viewpoint};
pub use tally::{Judged, Row, Which};

/// After these results the lock was given back inside the fault, and nothing of the VMA was read.
const DROPPED: u16 = fault::RESULT_RETRY | fault::RESULT_COMPLETED;
/// All that an assertion looks at.
const CAPTURED: u16 = flag::MM | flag::VMA | flag::REFCNT | flag::VMA_SEQ | flag::MM_SEQ;
/// How many of the latest wrong verdicts are kept.
pub const RECENT_KEPT: usize = 64;

/// Why nothing could be judged.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unknown {
    /// The event has not read all that assertions look at, or the kernel has not all of it.
    NotCaptured,
    /// What the task holds was never seen to be taken.
    BeforeAttach,
    /// A gap took that knowledge away.
    Gap,
    /// Another operation was under way while the fields were read.
    InFlight,
    /// Others were filtered out in the kernel.
    Filtered,
}

impl Unknown {
    /// All, by number.
    pub const ALL: [Self; 5] = [
        Self::NotCaptured,
        Self::BeforeAttach,
        Self::Gap,
        Self::InFlight,
        Self::Filtered,
    ];

    /// The name in all output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotCaptured => "not_captured",
            Self::BeforeAttach => "before_attach",
            Self::Gap => "gap",
            Self::InFlight => "in_flight",
            Self::Filtered => "filtered",
        }
    }
}

/// An instant at which assertions were asked.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    /// The event that read the lock.
    pub event: Event,
    /// Who else held it, as far as it is known.
    pub holders: Holders,
}

/// All that was asked and answered; see the module.
#[derive(Clone, Debug)]
pub struct Assertions {
    applies: bool,
    filtered: bool,
    late_detach: bool,
    counts: Vec<u64>,
    unknown: [[u64; Unknown::ALL.len()]; Viewpoint::ALL.len()],
    examples: FxHashMap<Key, Example>,
    /// By key: whether some assertion is wrong there.
    wrong: Vec<bool>,
    recent: VecDeque<(Key, Example)>,
}

impl Assertions {
    /// For a stream that `info` tells about.
    pub fn new(info: &SourceInfo) -> Self {
        let keys = || (0..Key::COUNT).filter_map(Key::from_number);
        Self {
            applies: info.kernel.family == Family::Refcount,
            filtered: !info.filters.is_empty(),
            late_detach: super::accounting::detach_is_late(info),
            counts: vec![0; usize::from(Key::COUNT)],
            unknown: Default::default(),
            examples: FxHashMap::default(),
            wrong: keys().map(tally::is_wrong_somewhere).collect(),
            recent: VecDeque::with_capacity(RECENT_KEPT),
        }
    }

    /// Whether the watched kernel has the lock that these assertions are about.
    pub fn applies(&self) -> bool {
        self.applies
    }

    /// The latest instants at which some assertion was wrong, the oldest first.
    pub fn recent(&self) -> impl Iterator<Item = &(Key, Example)> {
        self.recent.iter()
    }

    /// Every assertion, in every variant, with lockdep and without, from every viewpoint.
    pub fn rows(&self) -> Vec<Row> {
        tally::rows(&self.counts, &self.unknown, &self.examples)
    }

    /// Instants that were looked at from each viewpoint, those included of which nothing is known.
    pub fn instants(&self, viewpoint: Viewpoint) -> u64 {
        let known = (0..Key::COUNT)
            .filter(|&number| Key::from_number(number).is_some_and(|key| key.viewpoint == viewpoint))
            .map(|number| self.counts[usize::from(number)])
            .sum::<u64>();
        known + self.unknown[viewpoint as usize].iter().sum::<u64>()
    }

    /// Why instants could not be judged at all, by [`Unknown`], over all viewpoints.
    pub fn unknown(&self) -> [u64; Unknown::ALL.len()] {
        let mut sum = [0; Unknown::ALL.len()];
        for counts in &self.unknown {
            for (sum, count) in sum.iter_mut().zip(counts) {
                *sum += count;
            }
        }
        sum
    }

    /// Takes in one event, after the engine has. `lockdep`: whether it says that the task holds the VMA, where it does.
    #[inline]
    pub(super) fn observe(&mut self, engine: &Engine, event: &Event, place: Place, lockdep: Option<bool>) {
        let standing = match (own_standing(event), lockdep) {
            (None, _) => return,
            (Some(Standing::Reader), Some(false)) => Standing::Bystander,
            (Some(Standing::Bystander), Some(true)) => Standing::Reader,
            (Some(standing), _) => standing,
        };
        if !self.applies {
            return;
        }
        let entry = event.vma().and_then(|address| engine.vma_entry(address));
        let (true, Some(vma)) = (event.has(CAPTURED) && !event.has(flag::READ_FAULT), entry) else {
            self.miss(Viewpoint::Own, Unknown::NotCaptured);
            return;
        };
        let class = RefcntClass::of(event.body.vm_refcnt);
        let eq = event.body.vm_lock_seq == event.body.mm_lock_seq;
        let nobody = elsewhere(engine, event, place);
        let key = |viewpoint, standing, mmap| Key {
            viewpoint,
            standing,
            class,
            eq,
            mmap,
        };
        match self.own(engine, event, &vma, standing, nobody) {
            Ok((standing, mmap)) => self.hit(engine, event, key(Viewpoint::Own, standing, mmap)),
            Err(why) => self.miss(Viewpoint::Own, why),
        }
        self.hit(
            engine,
            event,
            key(Viewpoint::Bystander, Standing::Bystander, nobody),
        );
        let own = u32::from(vma.is_read_by_current());
        if vma.readers() > own {
            let surely = vma
                .readers_since(place.prev_ns)
                .any(|(reader, surely)| surely && reader != place.task);
            if surely {
                self.hit(engine, event, key(Viewpoint::Reader, Standing::Reader, nobody));
            } else {
                let why = self.why(engine);
                self.miss(Viewpoint::Reader, why);
            }
        }
        if eq && !standing_writes(standing) {
            match self.writer(&vma, event) {
                Ok(()) => self.hit(
                    engine,
                    event,
                    key(Viewpoint::Writer, Standing::Writer, Mmap::WrittenByMe),
                ),
                Err(why) => self.miss(Viewpoint::Writer, why),
            }
        }
    }

    /// What the task of the event is to the VMA, and how it holds the `mmap_lock`.
    #[inline]
    fn own(
        &self,
        engine: &Engine,
        event: &Event,
        vma: &VmaEntry<'_>,
        standing: Standing,
        nobody: Mmap,
    ) -> Result<(Standing, Mmap), Unknown> {
        let hold = engine.current_mmap_hold(vma_mm(event)).map(|hold| hold.lock);
        let mmap = match (standing, hold) {
            // Nobody changes a VMA without it.
            (Standing::Writer | Standing::Changing | Standing::Detacher, _) | (_, Some(Lock::MmapWrite)) => {
                Mmap::WrittenByMe
            }
            (_, Some(_)) => Mmap::SharedByMe,
            // A fault that is not under the VMA lock is under the mmap_lock, in whichever way it was taken.
            (Standing::Bystander, None) => return Err(self.why(engine)),
            (_, None) => nobody,
        };
        match standing {
            // A task that has write-locked the VMA may fault on it too.
            Standing::Bystander if vma.write_locked_by() == Some(event.header.tid) => {
                Ok((Standing::Writer, mmap))
            }
            // A task may hold it for reading beside the mmap_lock.
            Standing::Bystander if vma.current_hold().is_some() => Ok((Standing::Reader, mmap)),
            Standing::Bystander if vma.is_read_by_current() => Err(self.why(engine)),
            // It is not in any tree yet, or not any more.
            Standing::Writer if event.body.vm_refcnt == 0 => Ok((Standing::Detacher, mmap)),
            Standing::Reader if event.kind == Kind::VmaReadAcquire && !vma.is_read_by_current() => {
                Err(self.why(engine))
            }
            standing => Ok((standing, mmap)),
        }
    }

    /// Whether somebody else surely is the VMA's writer, and does not take it out, at an instant at which the numbers
    /// say that it is write-locked.
    #[inline]
    fn writer(&self, vma: &VmaEntry<'_>, event: &Event) -> Result<(), Unknown> {
        let Some(writer) = vma.write_locked_by() else {
            // It has not said so yet, or went to work before we looked.
            return Err(Unknown::InFlight);
        };
        let leaves = vma.is_detached() || self.late_detach && event.body.vm_refcnt > 1;
        if writer == event.header.tid || leaves || event.body.vm_refcnt == 0 {
            return Err(Unknown::InFlight);
        }
        Ok(())
    }

    fn why(&self, engine: &Engine) -> Unknown {
        if engine.totals().gaps > 0 {
            Unknown::Gap
        } else if self.filtered {
            Unknown::Filtered
        } else {
            Unknown::BeforeAttach
        }
    }

    #[inline]
    fn hit(&mut self, engine: &Engine, event: &Event, key: Key) {
        let Some(number) = key.number() else {
            self.miss(key.viewpoint, Unknown::NotCaptured);
            return;
        };
        let at = usize::from(number);
        self.counts[at] += 1;
        if self.counts[at] == 1 || self.wrong[at] && self.counts[at].is_power_of_two() {
            self.keep(engine, event, key);
        }
    }

    #[inline]
    fn miss(&mut self, viewpoint: Viewpoint, why: Unknown) {
        self.unknown[viewpoint as usize][why as usize] += 1;
    }

    #[cold]
    fn keep(&mut self, engine: &Engine, event: &Event, key: Key) {
        let example = Example {
            event: *event,
            holders: Holders::of(engine, event),
        };
        self.examples.entry(key).or_insert(example);
        if key.number().is_some_and(|number| self.wrong[usize::from(number)]) {
            if self.recent.len() == RECENT_KEPT {
                self.recent.pop_front();
            }
            self.recent.push_back((key, example));
        }
    }
}

#[inline]
fn vma_mm(event: &Event) -> u64 {
    event.mm().unwrap_or(0)
}

/// What the event says its task is to the VMA, by the model's names.
#[inline]
fn own_standing(event: &Event) -> Option<Standing> {
    Some(match event.kind {
        Kind::VmaReadAcquire => Standing::Reader,
        Kind::VmaReadTemporary => Standing::TemporaryReader,
        Kind::VmaReadRelease => Standing::Releasing,
        Kind::FaultBegin if event.is_vma_fault() => Standing::Reader,
        Kind::FaultEnd if event.fault_result() & DROPPED != 0 => return None,
        Kind::FaultEnd if event.is_vma_fault() => Standing::Reader,
        Kind::FaultBegin | Kind::FaultEnd => Standing::Bystander,
        Kind::VmaWriteStart => Standing::Changing,
        Kind::VmaWriteAcquire => Standing::Writer,
        // Only that tells of it at its own time; what comes late may be of a VMA that never was anywhere.
        Kind::VmaDetach if event.provenance() == Provenance::Observed => Standing::Detacher,
        _ => return None,
    })
}

fn standing_writes(standing: Standing) -> bool {
    matches!(
        standing,
        Standing::Writer | Standing::Changing | Standing::Detacher
    )
}

/// How the `mmap_lock` is held by others than whoever asks, who does not hold it.
#[inline]
fn elsewhere(engine: &Engine, event: &Event, place: Place) -> Mmap {
    if event.body.mm_lock_seq & 1 == 1 {
        return Mmap::WrittenByOther;
    }
    let address = vma_mm(event);
    // Whoever holds it over the whole window, the task of the event included, holds it for reading.
    let own = engine
        .current_mmap_hold(address)
        .is_some_and(|hold| hold.lock == Lock::MmapRead && hold.since_ns <= place.prev_ns);
    if own
        || engine
            .mm_entry(address)
            .is_some_and(|mm| mm.is_read_since(place.prev_ns))
    {
        Mmap::SharedByOthers
    } else {
        Mmap::SharedOrFree
    }
}
