//! What lockdep says of the tasks that hold VMAs, where the kernel has it: the truth by which ours is judged.

use rustc_hash::FxHashMap;
use tracer_common::site;
use tracer_common::wire::{Event, Kind};

use super::shadow::holds;
use crate::info::SourceInfo;
use crate::state::{Engine, Start};

/// No task holds more VMAs at a time; then what it holds is not known.
const HELD_LIMIT: usize = 8;
/// So many tasks that hold something are remembered.
const TASKS_LIMIT: usize = 1 << 14;

/// The VMAs that lockdep says a task holds.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    vmas: [u64; HELD_LIMIT],
    len: usize,
}

/// The check; see the module.
#[derive(Clone, Debug)]
pub(super) struct Lockdep {
    present: bool,
    tasks: FxHashMap<u32, Held>,
    compared: u64,
    differed: u64,
}

impl Lockdep {
    /// For a stream that `info` tells about.
    pub(super) fn new(info: &SourceInfo) -> Self {
        let site = info.sites.get(site::LOCKDEP as usize);
        Self {
            present: site.is_some_and(|site| site.attached && site.operation.starts_with("lockdep")),
            tasks: FxHashMap::default(),
            compared: 0,
            differed: 0,
        }
    }

    /// Whether it tells the truth here.
    pub(super) fn is_present(&self) -> bool {
        self.present
    }

    /// How often ours was compared with it, and was another.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.compared, self.differed)
    }

    /// Takes in one event, after the engine has. Gives whether lockdep says that its task holds its VMA, where that is
    /// known and can be compared.
    #[inline]
    pub(super) fn observe(&mut self, engine: &Engine, event: &Event, ended: Option<Start>) -> Option<bool> {
        if !self.present {
            return None;
        }
        let (tid, vma) = (event.header.tid, event.vma()?);
        match event.kind {
            Kind::LockdepAcquire => {
                if self.tasks.len() >= TASKS_LIMIT {
                    self.tasks.clear();
                }
                let held = self.tasks.entry(tid).or_default();
                if held.len < HELD_LIMIT {
                    held.vmas[held.len] = vma;
                    held.len += 1;
                }
                None
            }
            Kind::LockdepRelease => {
                if let Some(held) = self.tasks.get_mut(&tid) {
                    if let Some(at) = held.vmas[..held.len].iter().rposition(|&other| other == vma) {
                        held.len -= 1;
                        held.vmas[at] = held.vmas[held.len];
                    }
                    if held.len == 0 {
                        self.tasks.remove(&tid);
                    }
                }
                None
            }
            // It is told of a release before the count falls.
            Kind::VmaReadRelease => None,
            _ if holds(event, ended) => {
                // What was held before the start, or was taken in a gap, it has told nobody of.
                let entry = engine.vma_entry(vma)?;
                let known = entry.current_hold().is_some_and(|hold| hold.start_known) || ended.is_some();
                known.then(|| self.compare(tid, vma, true))
            }
            Kind::FaultBegin => Some(self.compare(tid, vma, engine.vma_entry(vma)?.current_hold().is_some())),
            _ => None,
        }
    }

    fn compare(&mut self, tid: u32, vma: u64, ours: bool) -> bool {
        let held = self.tasks.get(&tid);
        let truth = held.is_some_and(|held| held.vmas[..held.len].contains(&vma));
        self.compared += 1;
        self.differed += u64::from(truth != ours);
        truth
    }

    /// Events are missing: what is held is not known.
    pub(super) fn forget(&mut self) {
        self.tasks.clear();
    }
}
