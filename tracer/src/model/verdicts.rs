//! For every assertion, the exact set of states in which it is wrong.

use std::collections::BTreeMap;

use tracer_common::lock::{Family, LockState, RefcntClass, VmaId};

use super::listing::lock_state;
use super::memory::{Interleaved, Memory, VMAS};
use super::scenario::{Bounds, Scenario, all};
use super::search::{Ending, Move, Search};
use super::state::{Running, State, TaskModel};
pub use crate::check::vocabulary::{Column, Mmap, Standing};

impl Standing {
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
