//! Waits and holds by task, process, VMA, address space, call site and stack.

use tracer_common::wire::COMM_LEN;

use super::Limits;
use super::rows::Rows;
use super::summary::{Caused, Longest, Summaries};
use crate::state::{Lock, Span, What, Who};

/// A task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TaskKey {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
}

/// An address space, as one process uses it: its address alone would mix it up with one that later has the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MmKey {
    /// Address of the `mm_struct`; 0 if unknown.
    pub mm: u64,
    /// The process that waited or held.
    pub pid: u32,
}

/// A VMA by what it covers, so that it stays one row while its `vm_area_struct` comes and goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VmaKey {
    /// Of which address space.
    pub mm: MmKey,
    /// First address.
    pub vm_start: u64,
    /// First address after it; 0: the `mmap_lock`, or a VMA whose range is not known.
    pub vm_end: u64,
}

/// A row of a task or process, with its command name, raw.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// The latest name.
    pub comm: [u8; COMM_LEN],
    /// What it waited for and held.
    pub all: Summaries,
}

impl super::rows::Row for Named {
    fn weight(&self) -> u64 {
        self.all.weight()
    }

    fn reset(&mut self) {
        self.comm = [0; COMM_LEN];
        self.all.reset();
    }
}

/// The longest ones of one kind, the longest first.
#[derive(Clone, Debug)]
pub struct Top {
    list: Vec<Longest>,
    limit: usize,
    by: fn(&Longest) -> u64,
    /// What comes below this is not among them.
    least: u64,
}

impl Top {
    fn new(limit: usize, by: fn(&Longest) -> u64) -> Self {
        Self {
            list: Vec::with_capacity(limit + 1),
            limit,
            by,
            least: 0,
        }
    }

    /// The list.
    pub fn list(&self) -> &[Longest] {
        &self.list
    }

    #[inline]
    fn takes(&self, value: u64) -> bool {
        value > self.least
    }

    fn add(&mut self, one: Longest) {
        let value = (self.by)(&one);
        let at = self.list.partition_point(|other| (self.by)(other) >= value);
        self.list.insert(at, one);
        self.list.truncate(self.limit);
        if self.list.len() == self.limit {
            self.least = self.list.last().map_or(0, self.by);
        }
    }

    fn stack(&mut self, span: &Span, stacks: (u32, u32)) {
        if let Some(found) = self
            .list
            .iter_mut()
            .find(|one| one.lock == span.lock && one.is(span))
        {
            found.stacks = stacks;
        }
    }
}

/// A task's latest span, to which a stack may still come.
#[derive(Clone, Copy, Debug)]
struct Pending {
    span: Span,
    caused: Caused,
}

/// Waits and holds in groups; see the module.
#[derive(Clone, Debug)]
pub struct Groups {
    /// All of them.
    pub all: Summaries,
    /// By task.
    pub tasks: Rows<TaskKey, Named>,
    /// What had to go from the tasks, by process.
    processes: Rows<u32, Named>,
    /// By VMA; rows without a range are those of the `mmap_lock`.
    pub vmas: Rows<VmaKey, Summaries>,
    /// What had to go from the VMAs, by address space.
    mms: Rows<MmKey, Summaries>,
    /// By the site of the event that ended it: an index into the sources' sites.
    pub sites: Vec<Summaries>,
    /// By kernel and user stack; what has none is not here.
    pub stacks: Rows<(u32, u32), Summaries>,
    /// What no row has: of tasks, of VMAs, of stacks.
    others: Box<[Summaries; 3]>,
    /// The longest waits by lock.
    pub longest_waits: [Top; 4],
    /// The longest holds by lock.
    pub longest_holds: [Top; 4],
    /// The holds by lock that others waited for most.
    pub worst_holds: [Top; 4],
    /// By number of task.
    pending: Vec<Option<Pending>>,
    /// The rows of tasks by number of task: whose, where, and as of which [`Rows::moves`].
    rows: Vec<(TaskKey, u32, u32)>,
    /// Stacks whose event was not known as the end of a wait or a hold.
    pub stray_stacks: u64,
}

/// Index of `others`.
const TASKS: usize = 0;
const VMAS: usize = 1;
const STACKS: usize = 2;

impl Groups {
    /// With nothing in it.
    pub fn new(limits: &Limits) -> Self {
        let top = |by: fn(&Longest) -> u64| core::array::from_fn(|_| Top::new(limits.longest, by));
        Self {
            all: Summaries::default(),
            tasks: Rows::new(limits.tasks),
            processes: Rows::new(limits.processes),
            vmas: Rows::new(limits.vmas),
            mms: Rows::new(limits.mms),
            sites: Vec::new(),
            stacks: Rows::new(limits.stacks),
            others: Box::default(),
            longest_waits: top(|one| one.ns),
            longest_holds: top(|one| one.ns),
            worst_holds: top(|one| one.caused_ns),
            pending: Vec::new(),
            rows: Vec::new(),
            stray_stacks: 0,
        }
    }

    /// Takes one wait or hold in.
    #[inline]
    pub fn add(&mut self, span: &Span, caused: Caused, comm: &[u8; COMM_LEN]) {
        let comm = || *comm;
        let (what, lock) = (span.what, span.lock);
        self.all.of(what, lock).record(span, caused, comm);
        let site = span.site as usize;
        if site >= self.sites.len() {
            self.sites.resize_with(site + 1, Summaries::default);
        }
        self.sites[site].of(what, lock).record(span, caused, comm);
        self.task(span, comm).of(what, lock).record(span, caused, comm);
        self.vma(span).of(what, lock).record(span, caused, comm);
        self.keep(span, caused, comm);
    }

    /// Among the longest ones, if it belongs there; and for a stack that comes later.
    #[inline]
    fn keep(&mut self, span: &Span, caused: Caused, comm: impl Fn() -> [u8; COMM_LEN]) {
        let Some(ns) = span.ns else { return };
        let at = span.lock as usize;
        let one = || Longest {
            ns,
            since_ns: span.since_ns,
            lock: span.lock,
            who: span.who,
            comm: comm(),
            place: span.place,
            site: span.site,
            stacks: (0, 0),
            caused_ns: caused.ns,
            waiters: caused.waiters,
        };
        match span.what {
            What::Wait => {
                if self.longest_waits[at].takes(ns) {
                    self.longest_waits[at].add(one());
                }
            }
            What::GaveUp => {}
            What::Hold => {
                if self.longest_holds[at].takes(ns) {
                    self.longest_holds[at].add(one());
                }
                if self.worst_holds[at].takes(caused.ns) {
                    self.worst_holds[at].add(one());
                }
            }
        }
        // A writer's VMAs end together with its mmap_lock, whose stack it is.
        if span.lock != Lock::VmaWrite || span.what != What::Hold {
            let slot = span.who.slot as usize;
            if slot >= self.pending.len() {
                self.pending.resize(slot + 1, None);
            }
            self.pending[slot] = Some(Pending { span: *span, caused });
        }
    }

    /// The stack of the task's latest wait or hold.
    pub fn stack(&mut self, who: Who, waits: bool, stacks: (u32, u32), comm: &[u8; COMM_LEN]) {
        let pending = self.pending.get_mut(who.slot as usize).and_then(Option::take);
        let fits = |pending: &Pending| {
            pending.span.who == who && (pending.span.what == What::Hold) != waits && stacks != (0, 0)
        };
        let Some(Pending { span, caused }) = pending.filter(fits) else {
            self.stray_stacks += 1;
            return;
        };
        let (what, lock) = (span.what, span.lock);
        let at = lock as usize;
        self.all.of(what, lock).stack(&span, stacks);
        self.sites[span.site as usize].of(what, lock).stack(&span, stacks);
        self.task(&span, || *comm).of(what, lock).stack(&span, stacks);
        self.vma(&span).of(what, lock).stack(&span, stacks);
        if what == What::Hold {
            self.longest_holds[at].stack(&span, stacks);
            self.worst_holds[at].stack(&span, stacks);
        } else {
            self.longest_waits[at].stack(&span, stacks);
        }
        let others = &mut self.others[STACKS];
        let weight = span.ns.unwrap_or(0);
        let mut gone = |_: &(u32, u32), row: &Summaries| {
            others.merge(row);
            others.merged += 1;
        };
        let row = match self.stacks.place(stacks, weight, &mut gone) {
            Some(at) => self.stacks.at(at),
            None => others,
        };
        let summary = row.of(what, lock);
        summary.record(&span, caused, || *comm);
        summary.stack(&span, stacks);
    }

    #[inline]
    fn task(&mut self, span: &Span, comm: impl Fn() -> [u8; COMM_LEN]) -> &mut Summaries {
        let key = TaskKey {
            pid: span.who.pid,
            tid: span.who.tid,
        };
        let slot = span.who.slot as usize;
        if let Some(&(known, at, moves)) = self.rows.get(slot)
            && known == key
            && moves == self.tasks.moves()
            && moves != u32::MAX
        {
            let row = self.tasks.at(at);
            row.comm = comm();
            return &mut row.all;
        }
        self.find_task(key, slot, span.ns.unwrap_or(0), comm)
    }

    #[cold]
    fn find_task(
        &mut self,
        key: TaskKey,
        slot: usize,
        weight: u64,
        comm: impl Fn() -> [u8; COMM_LEN],
    ) -> &mut Summaries {
        let (processes, others) = (&mut self.processes, &mut self.others[TASKS]);
        let mut to_process = |key: &TaskKey, row: &Named| {
            let mut to_others = |_: &u32, row: &Named| others.merge(&row.all);
            match processes.row(key.pid, row.all.held_ns(), &mut to_others) {
                Some(process) => {
                    if process.comm == [0; COMM_LEN] {
                        process.comm = row.comm;
                    }
                    process.all.merge(&row.all);
                    process.all.merged += 1;
                }
                None => {
                    others.merge(&row.all);
                    others.merged += 1;
                }
            }
        };
        match self.tasks.place(key, weight, &mut to_process) {
            Some(at) => {
                if slot >= self.rows.len() {
                    self.rows.resize(slot + 1, (TaskKey::default(), 0, u32::MAX));
                }
                self.rows[slot] = (key, at, self.tasks.moves());
                let row = self.tasks.at(at);
                row.comm = comm();
                &mut row.all
            }
            None => {
                let others = &mut self.others[TASKS];
                let mut to_others = |_: &u32, row: &Named| others.merge(&row.all);
                match self.processes.place(key.pid, weight, &mut to_others) {
                    Some(at) => {
                        let row = self.processes.at(at);
                        if row.comm == [0; COMM_LEN] {
                            row.comm = comm();
                        }
                        &mut row.all
                    }
                    None => &mut self.others[TASKS],
                }
            }
        }
    }

    #[inline]
    fn vma(&mut self, span: &Span) -> &mut Summaries {
        let weight = span.ns.unwrap_or(0);
        let mm = MmKey {
            mm: span.place.mm,
            pid: span.who.pid,
        };
        let key = VmaKey {
            mm,
            vm_start: span.place.vm_start,
            vm_end: span.place.vm_end,
        };
        let (mms, others) = (&mut self.mms, &mut self.others[VMAS]);
        let mut to_mm = |key: &VmaKey, row: &Summaries| {
            let mut to_others = |_: &MmKey, row: &Summaries| others.merge(row);
            match mms.row(key.mm, row.held_ns(), &mut to_others) {
                Some(mm) => {
                    mm.merge(row);
                    mm.merged += 1;
                }
                None => {
                    others.merge(row);
                    others.merged += 1;
                }
            }
        };
        if let Some(at) = self.vmas.place(key, weight, &mut to_mm) {
            return self.vmas.at(at);
        }
        let others = &mut self.others[VMAS];
        let mut to_others = |_: &MmKey, row: &Summaries| others.merge(row);
        match self.mms.place(mm, weight, &mut to_others) {
            Some(at) => self.mms.at(at),
            None => &mut self.others[VMAS],
        }
    }

    /// Tasks that have no row any more, all together; with how many were merged into it.
    pub fn other_tasks(&self) -> Summaries {
        let mut sum = self.others[TASKS].clone();
        for (_, row) in self.processes.iter() {
            sum.merge(&row.all);
        }
        sum
    }

    /// VMAs that have no row any more, all together; with how many were merged into it.
    pub fn other_vmas(&self) -> Summaries {
        let mut sum = self.others[VMAS].clone();
        for (_, row) in self.mms.iter() {
            sum.merge(row);
        }
        sum
    }

    /// Stacks that have no row any more, all together.
    pub fn other_stacks(&self) -> &Summaries {
        &self.others[STACKS]
    }

    /// By process: the sum of its tasks, and what had to go from them. The second part: what belongs to no row.
    pub fn processes(&self) -> (Vec<(u32, Named)>, Summaries) {
        let rows = self.tasks.iter().map(|(key, row)| (key.pid, key.tid, row));
        let gone = self.processes.iter().map(|(pid, row)| (*pid, 0, row));
        let mut sums: rustc_hash::FxHashMap<u32, Named> = rustc_hash::FxHashMap::default();
        for (pid, tid, row) in rows.chain(gone) {
            let sum = sums.entry(pid).or_default();
            if sum.comm == [0; COMM_LEN] || tid == pid {
                sum.comm = row.comm;
            }
            sum.all.merge(&row.all);
        }
        (sums.into_iter().collect(), self.others[TASKS].clone())
    }

    /// By address space: the sum of its VMAs and its `mmap_lock`, and what had to go from them. The second part: what
    /// belongs to no row.
    pub fn mms(&self) -> (Vec<(MmKey, Summaries)>, Summaries) {
        let rows = self.vmas.iter().map(|(key, row)| (key.mm, row));
        let gone = self.mms.iter().map(|(mm, row)| (*mm, row));
        let mut sums: rustc_hash::FxHashMap<MmKey, Summaries> = rustc_hash::FxHashMap::default();
        for (mm, row) in rows.chain(gone) {
            sums.entry(mm).or_default().merge(row);
        }
        (sums.into_iter().collect(), self.others[VMAS].clone())
    }
}
