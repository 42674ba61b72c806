//! For every assertion, the exact set of states in which it is wrong.

use std::collections::BTreeMap;

use tracer_common::lock::assertion::{vma_assert_can_modify, vma_assert_stabilised, vma_assert_write_locked};
use tracer_common::lock::{Family, HeldAnswer, LockState, Lockdep, RefcntClass, Variant, Verdict, VmaId};

use super::listing::lock_state;
use super::memory::{Interleaved, Memory, VMAS};
use super::scenario::{Bounds, Scenario, all};
use super::search::{Ending, Move, Search};
use super::state::{Running, State, TaskModel};

/// What a task is to a VMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Read-locked it, and may use it.
    Reader,
    /// Raised `vm_refcnt` and does not know yet whether it may stay.
    TemporaryReader,
    /// In the middle of `vma_refcount_put`.
    Releasing,
    /// Write-locked it.
    Writer,
    /// Write-locked it and detaches it, or has detached it.
    Detacher,
    /// In the middle of write-locking, initialising or attaching it.
    Changing,
    /// None of these.
    Bystander,
}

impl Standing {
    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::TemporaryReader => "temporary reader",
            Self::Releasing => "releasing reader",
            Self::Writer => "writer",
            Self::Detacher => "detacher",
            Self::Changing => "in vma_start_write",
            Self::Bystander => "bystander",
        }
    }

    /// What this task is to this VMA.
    pub fn of<M: Memory>(state: &State<M>, task: &TaskModel, vma: VmaId) -> Self {
        let putting = match &task.running {
            Some(Running::Put(_)) => true,
            Some(Running::LockVma(lock)) => lock.putting().is_some(),
            _ => false,
        };
        if task.reference() == Some(vma) {
            return if putting {
                Self::Releasing
            } else if task.temporary() == Some(vma) {
                Self::TemporaryReader
            } else {
                Self::Reader
            };
        }
        match (task.writes(vma), state.is_attached(vma)) {
            (true, true) if !task.changing(vma) => Self::Writer,
            (true, false) => Self::Detacher,
            _ if task.changing(vma) => Self::Changing,
            _ => Self::Bystander,
        }
    }
}

/// One assertion in one configuration.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// With lockdep or without.
    pub lockdep: Lockdep,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Locked(Variant),
    WriteLocked,
    Stabilised,
    CanModify,
}

impl Column {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let mut columns = Vec::new();
        for lockdep in [Lockdep::On, Lockdep::Off] {
            let column = |name, what| Self { name, lockdep, what };
            columns.extend(Variant::ALL.map(|v| column(v.name(), What::Locked(v))));
            columns.push(column("vma_assert_write_locked", What::WriteLocked));
            columns.push(column("vma_assert_stabilised", What::Stabilised));
            columns.push(column("vma_assert_can_modify", What::CanModify));
        }
        columns
    }

    /// What it says.
    pub fn verdict(&self, s: &LockState) -> Verdict {
        match self.what {
            What::Locked(variant) => variant.vma_assert_locked(self.lockdep, s),
            What::WriteLocked => vma_assert_write_locked(self.lockdep, s),
            What::Stabilised => vma_assert_stabilised(self.lockdep, s),
            What::CanModify => vma_assert_can_modify(self.lockdep, s),
        }
    }

    /// What it should say: fire or not; `None` where the kernel makes no claim, because it does not
    /// assert there.
    pub fn should_fire(&self, standing: Standing, s: &LockState) -> Option<bool> {
        let unclear = matches!(
            standing,
            Standing::TemporaryReader | Standing::Releasing | Standing::Changing | Standing::Detacher
        );
        match self.what {
            What::Locked(_) if unclear => None,
            What::Locked(_) => Some(standing == Standing::Bystander),
            What::Stabilised if s.mmap_held_by_me == HeldAnswer::Held => Some(false),
            What::Stabilised if unclear => None,
            What::Stabilised => Some(standing == Standing::Bystander),
            What::CanModify if s.refcnt == 0 => None,
            What::WriteLocked | What::CanModify if unclear => None,
            What::WriteLocked | What::CanModify => Some(standing != Standing::Writer),
        }
    }
}

/// A class of states, as one task sees one VMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// What the task is to the VMA.
    pub standing: Standing,
    /// The class of `vm_refcnt`.
    pub refcnt: RefcntClass,
    /// `vm_lock_seq` equals `mm_lock_seq`.
    pub eq: bool,
    /// Who holds the mmap_lock.
    pub mmap: Mmap,
}

/// Who holds the mmap_lock, as far as assertions can tell the difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mmap {
    /// The asking task, exclusively.
    WrittenByMe,
    /// Another task, exclusively.
    WrittenByOther,
    /// The asking task, shared.
    SharedByMe,
    /// Other tasks, shared.
    SharedByOthers,
    /// Nobody.
    Free,
}

impl Mmap {
    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WrittenByMe => "me, exclusive",
            Self::WrittenByOther => "another, exclusive",
            Self::SharedByMe => "me, shared",
            Self::SharedByOthers => "others, shared",
            Self::Free => "nobody",
        }
    }

    fn of(s: &LockState) -> Self {
        match (s.mmap_write_held_by_me, s.mmap_held_by_me) {
            (HeldAnswer::Held, _) => Self::WrittenByMe,
            _ if s.mmap_write_locked_by_anyone => Self::WrittenByOther,
            (_, HeldAnswer::Held) => Self::SharedByMe,
            _ if s.mmap_locked_by_anyone => Self::SharedByOthers,
            _ => Self::Free,
        }
    }
}

/// Where an example of a row is: scenario by number, and the moves that lead there.
#[derive(Clone, Debug)]
pub struct Example {
    /// The scenario.
    pub scenario: usize,
    /// The moves.
    pub moves: Vec<Move>,
    /// The asking task.
    pub who: usize,
    /// The VMA.
    pub vma: VmaId,
    /// What it sees.
    pub state: LockState,
}

/// Every row that can be reached, with a shortest example.
pub struct Survey {
    /// The scenarios searched.
    pub scenarios: Vec<Scenario>,
    /// The rows.
    pub rows: BTreeMap<Row, Example>,
    /// States visited.
    pub states: u64,
    /// Did every search come to its end?
    pub complete: bool,
}

/// Looks at every task and VMA in every reachable state.
pub fn survey(family: Family, bounds: Bounds) -> Survey {
    let scenarios: Vec<Scenario> = all(family, bounds)
        .into_iter()
        .filter(|s| !s.weak && s.rules.phantom_readers == 0 && !s.rules.overflow)
        .collect();
    let mut survey = Survey {
        scenarios,
        rows: BTreeMap::new(),
        states: 0,
        complete: true,
    };
    for (n, scenario) in survey.scenarios.iter().enumerate() {
        let mut found: BTreeMap<Row, (u32, usize, VmaId, LockState)> = BTreeMap::new();
        let mut search = Search::<Interleaved>::new(scenario, false);
        let outcome = search.run(|visit| {
            for (row, who, vma, state) in rows(visit.state) {
                found.entry(row).or_insert((visit.number, who, vma, state));
            }
            false
        });
        survey.states += outcome.states;
        survey.complete &= outcome.ending == Ending::Complete;
        for (row, (number, who, vma, state)) in found {
            let moves = search.schedule(number);
            let shorter = survey
                .rows
                .get(&row)
                .is_none_or(|old| moves.len() < old.moves.len());
            if shorter {
                survey.rows.insert(
                    row,
                    Example {
                        scenario: n,
                        moves,
                        who,
                        vma,
                        state,
                    },
                );
            }
        }
    }
    survey
}

fn rows<M: Memory>(state: &State<M>) -> impl Iterator<Item = (Row, usize, VmaId, LockState)> + '_ {
    let pairs = (0..state.tasks().len()).flat_map(|who| (0..VMAS as u32).map(move |v| (who, VmaId(v))));
    pairs.filter_map(|(who, vma)| {
        let task = &state.tasks[who];
        // A task that waits for the mmap_lock is told to lockdep already, but calls nothing.
        if matches!(
            task.running,
            Some(Running::MmapWriteLock(_) | Running::MmapReadLock(_) | Running::GiveUp(_))
        ) {
            return None;
        }
        // A VMA in the pool, or on its way out of it, is nobody's to ask about.
        let initialised = |t: &TaskModel| t.vma == Some(vma) && matches!(t.running, Some(Running::Init(_)));
        if state.free & (1 << vma.0) != 0 || state.tasks().iter().any(initialised) {
            return None;
        }
        let s = lock_state(state, who, vma);
        let standing = Standing::of(state, task, vma);
        let row = Row {
            standing,
            refcnt: RefcntClass::of(s.refcnt),
            eq: s.seq_equal(),
            mmap: Mmap::of(&s),
        };
        Some((row, who, vma, s))
    })
}

impl Survey {
    /// The rows in which an assertion is wrong, and whether it fires there (else it is silent).
    pub fn wrong<'a>(
        &'a self,
        column: &'a Column,
    ) -> impl Iterator<Item = (&'a Row, &'a Example, bool)> + 'a {
        self.rows.iter().filter_map(|(row, example)| {
            let fires = column.verdict(&example.state).fires();
            let should = column.should_fire(row.standing, &example.state)?;
            (fires != should).then_some((row, example, fires))
        })
    }
}
