//! Counts that wait for a later event to explain them: a bounded number, in all and of each VMA.

use rustc_hash::FxHashMap;

use tracer_common::lock::VM_REFCNT_EXCLUDE_READERS_FLAG as FLAG;

use super::tables::Tasks;
use super::{Case, OpenReason};

/// So many in all: a task may be stopped just after it has taken the lock, while others go on for a time slice.
const ALL: usize = 1 << 17;
/// So many of a VMA that had filled it up.
const OF_IMPATIENT: usize = 32;
/// A task that was inside all along is held against so many of a VMA.
const LOOK_AT: usize = 256;
/// Queues whose memory is kept, and for how many entries.
const SPARE: usize = 64;
const SPARE_LEN: usize = 256;

/// What a count needs in order to be closed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    /// So many readers more than are known.
    pub surplus: u32,
    /// So many fewer.
    pub deficit: u32,
    /// A writer that explains the flag.
    pub flag: bool,
}

impl Demand {
    pub(super) fn is_met(self) -> bool {
        self.surplus == 0 && self.deficit == 0 && !self.flag
    }
}

/// One count that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    slot: u32,
    pub demand: Demand,
    /// Tasks that are taken to be inside already.
    pub tasks: Tasks,
    /// Tasks that are known by now to have been inside, beside the one whose event it is.
    inside: Tasks,
    /// It was read after that time.
    from_ns: u64,
    /// So many of these the count leaves room for.
    room: u32,
    case: Case,
}

impl Wait {
    /// A count of the VMA in `slot`, which was read after `from_ns` and has `room` for others.
    pub(super) fn new(slot: u32, case: Case, demand: Demand, tasks: Tasks, from_ns: u64, room: u32) -> Self {
        Self {
            slot,
            demand,
            tasks,
            inside: Tasks::none(),
            from_ns,
            room,
            case,
        }
    }

    pub(super) fn case(&self) -> &Case {
        &self.case
    }

    /// The least that the count can be with those who are known to have been inside.
    pub(super) fn least(&self) -> u32 {
        let count = self.case.event.body.vm_refcnt & !FLAG;
        count - self.room.min(count) + self.inside.len()
    }

    fn ts_ns(&self) -> u64 {
        self.case.event.header.ts_ns
    }

    /// The thread whose event it is.
    pub(super) fn tid(&self) -> u32 {
        self.case.event.header.tid
    }
}

/// Those of one VMA, in the order in which they came.
#[derive(Clone, Debug, Default)]
struct Queue {
    waits: Vec<Wait>,
    /// It was full before: something is there that no event explains, and waiting for it is idle.
    impatient: bool,
}

/// By the address of their VMA.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    queues: FxHashMap<u64, Queue>,
    /// Memory of queues that are not needed now.
    spare: Vec<Vec<Wait>>,
    all: usize,
}

impl Pending {
    /// Adds one. Those that have to make room are given to `open`, oldest first.
    pub(super) fn add(&mut self, wait: Wait, mut open: impl FnMut(u32, Case)) {
        let queue = self
            .queues
            .entry(wait.case.event.body.vma)
            .or_insert_with(|| Queue {
                waits: self.spare.pop().unwrap_or_default(),
                impatient: false,
            });
        let full = self.all >= ALL || queue.impatient && queue.waits.len() >= OF_IMPATIENT;
        if full && queue.waits.is_empty() {
            open(wait.slot, wait.case);
            return;
        }
        if full {
            // Half of them at once, so that it costs nothing on average.
            let half = queue.waits.len().div_ceil(2);
            for wait in queue.waits.drain(..half) {
                self.all -= 1;
                open(wait.slot, wait.case);
            }
            queue.impatient = true;
        }
        queue.waits.push(wait);
        self.all += 1;
    }

    /// Shows those of one VMA that were read at `since_ns` or later to `look`, and takes out those that are explained by
    /// that; says how many.
    pub(super) fn explain(&mut self, vma: u64, since_ns: u64, mut look: impl FnMut(&mut Wait)) -> usize {
        let Some(queue) = self.queues.get_mut(&vma) else {
            return 0;
        };
        // They are in the order of time, and those who come late enough to explain many are few.
        let from = queue.waits.partition_point(|wait| wait.ts_ns() < since_ns);
        let before = queue.waits.len();
        let mut kept = from;
        for at in from..before {
            look(&mut queue.waits[at]);
            if !queue.waits[at].demand.is_met() {
                queue.waits.swap(kept, at);
                kept += 1;
            }
        }
        queue.waits.truncate(kept);
        let explained = before - kept;
        self.all -= explained;
        if queue.waits.is_empty()
            && let Some(queue) = self.queues.remove(&vma)
            && self.spare.len() < SPARE
            && queue.waits.capacity() <= SPARE_LEN
        {
            self.spare.push(queue.waits);
        }
        explained
    }

    /// A task, by slot and thread, was inside since `since_ns`: takes out those that leave no room for it and the others of whom that is known.
    pub(super) fn confirm(
        &mut self,
        vma: u64,
        (task, tid): (u32, u32),
        since_ns: u64,
        mut proved: impl FnMut(&Wait),
    ) {
        let Some(queue) = self.queues.get_mut(&vma) else {
            return;
        };
        let before = queue.waits.len();
        let mut seen = 0;
        queue.waits.retain_mut(|wait| {
            seen += 1;
            if seen > LOOK_AT
                || wait.demand.deficit == 0
                || wait.from_ns < since_ns
                // It is counted there already.
                || wait.tid() == tid
                || !wait.case.reason.is_candidate()
            {
                return true;
            }
            wait.inside.add(task);
            if wait.inside.is_full() || wait.inside.len() <= wait.room {
                return true;
            }
            proved(wait);
            false
        });
        self.all -= before - queue.waits.len();
    }

    /// The VMA was quiet: takes out those that were read at `until_ns` or before and lack readers or a writer.
    pub(super) fn settle(&mut self, vma: u64, until_ns: u64, mut over: impl FnMut(&Wait)) {
        let Some(queue) = self.queues.get_mut(&vma) else {
            return;
        };
        let before = queue.waits.len();
        queue.waits.retain(|wait| {
            let stays = wait.ts_ns() > until_ns || wait.demand.deficit > 0;
            if !stays {
                over(wait);
            }
            stays
        });
        self.all -= before - queue.waits.len();
    }

    /// Gives another reason to those of one VMA, or of all, that `which` says.
    pub(super) fn reclassify(&mut self, vma: Option<u64>, which: impl Fn(&Case) -> bool, reason: OpenReason) {
        for (&address, queue) in &mut self.queues {
            if vma.is_none_or(|vma| vma == address) {
                for wait in &mut queue.waits {
                    if which(&wait.case) {
                        wait.case.reason = reason;
                    }
                }
            }
        }
    }

    /// Takes out all, in the order of their events.
    pub(super) fn take_all(&mut self) -> Vec<Case> {
        self.all = 0;
        let queues = self.queues.drain();
        let mut cases: Vec<Case> = queues
            .flat_map(|(_, queue)| queue.waits)
            .map(|wait| wait.case)
            .collect();
        cases.sort_by_key(|case| case.event.header.ts_ns);
        cases
    }
}
