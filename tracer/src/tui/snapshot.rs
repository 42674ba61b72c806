//! What the screen shows: a picture of the world at one moment, that nothing changes any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracer_common::wire::{COMM_LEN, Provenance};

use super::log::Entry;
use super::world::{EndedWait, GapNote, Heat, Step};
use crate::check::accounting::{Case, Totals};
use crate::check::assertions::{Example, Key, Row, Unknown};
use crate::check::violation::Violation;
use crate::contention::chains::{Chains, Doing};
use crate::contention::summary::{Longest, Summary};
use crate::filter::{Facts, Field, Filter, Value};
use crate::info::{ProbeCosts, SourceInfo};
use crate::stacks::Stack;
use crate::state::{Balance, Faults, Frame, Histogram, Hold, Lock, TaskCounters, Wait};

/// The eight views, in the order of their keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum View {
    /// Everything at a glance.
    #[default]
    Overview,
    /// Tasks: what they hold and wait for.
    Tasks,
    /// Address spaces and their VMAs.
    Space,
    /// Who waits for whom, and where.
    Contention,
    /// The kernel's assertions, beside what is known.
    Assertions,
    /// Single events.
    Events,
    /// How long waits and holds are.
    Histograms,
    /// Where events come from.
    Probes,
}

impl View {
    /// All, in the order of their keys.
    pub const ALL: [Self; 8] = [
        Self::Overview,
        Self::Tasks,
        Self::Space,
        Self::Contention,
        Self::Assertions,
        Self::Events,
        Self::Histograms,
        Self::Probes,
    ];

    /// The name that is shown and that `:view` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Tasks => "Tasks",
            Self::Space => "Space",
            Self::Contention => "Contention",
            Self::Assertions => "Assertions",
            Self::Events => "Events",
            Self::Histograms => "Histograms",
            Self::Probes => "Probes",
        }
    }
}

/// What one looks at closely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A task, by its tid.
    Task(u32),
    /// A VMA, by the address of its structure.
    Vma(u64),
}

/// What the screen wants pictures of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// For this view.
    pub view: View,
    /// What events have to be like.
    pub events: Option<Filter>,
    /// What is looked at closely.
    pub subject: Option<Subject>,
    /// The address space whose VMAs are wanted, by the address of its structure.
    pub space: Option<u64>,
    /// All that is remembered, and not just the latest: for a screen that holds.
    pub deep: bool,
}

/// What holds for every view: where this comes from, and how far it can be believed.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// What was said before the first event.
    pub info: Arc<SourceInfo>,
    /// The moment of the picture (`CLOCK_MONOTONIC`), in nanoseconds.
    pub now_ns: u64,
    /// Events from the kernel so far.
    pub events: u64,
    /// Events in the latest second.
    pub rate: u64,
    /// Events that found the ring buffer full.
    pub dropped: u64,
    /// Events missing by their numbering.
    pub missing: u64,
    /// Runs of probes that the kernel skipped.
    pub missed: u64,
    /// What the probes cost.
    pub probes: Arc<ProbeCosts>,
    /// Events that found no room, by site.
    pub dropped_at: Arc<BTreeMap<u32, u64>>,
    /// Gaps so far.
    pub gaps: u64,
    /// The latest gap.
    pub last_gap: Option<GapNote>,
    /// Events by how surely they are known, by [`Provenance`].
    pub by_provenance: [u64; 4],
    /// What should not be.
    pub anomalies: u64,
    /// Read locks that were gone without their release having been seen, where all should be.
    pub coverage_holes: u64,
    /// Tasks, VMAs and address spaces that were in use and had to make room.
    pub aged_busy: u64,
    /// Page faults by how they ended.
    pub faults: Faults,
    /// How many of each [`Lock`] are held.
    pub held: [u64; 4],
    /// How many tasks wait for each.
    pub waiting: [u64; 4],
    /// Tasks that are remembered.
    pub tasks: usize,
    /// Waits whose length is not known, by [`Lock`].
    pub waits_unknown: [u64; 4],
    /// Holds whose length is not known, by [`Lock`].
    pub holds_unknown: [u64; 4],
    /// What this program itself uses; not in a recording.
    pub cost: Option<Cost>,
    /// The recording that is being made.
    pub recording: Option<Recording>,
    /// Whether the source is at its end.
    pub ended: bool,
    /// Where in a recording this is.
    pub replay: Option<ReplayState>,
    /// What was set as a trigger, in words.
    pub trigger: Option<String>,
    /// What the feed has to say, and a number that grows with each message.
    pub notice: Option<(u64, String)>,
}

/// What this program itself uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Of one CPU, in tenths of a percent, since the picture a second ago.
    pub cpu_permille: u64,
    /// Resident memory in bytes.
    pub resident: u64,
    /// The latest picture took so long, in nanoseconds.
    pub picture_ns: u64,
}

/// A recording that is being made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// The file.
    pub name: String,
    /// Events in it.
    pub events: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Where in a recording the picture is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplayState {
    /// The file.
    pub name: String,
    /// Events up to here.
    pub number: u64,
    /// Events in all, as far as is known yet.
    pub total: u64,
    /// Whether the whole recording has been read ahead.
    pub whole: bool,
    /// Time of the first event, in nanoseconds.
    pub first_ns: u64,
    /// Time of the last event, as far as is known yet, in nanoseconds.
    pub last_ns: u64,
    /// Whether it plays.
    pub playing: bool,
    /// How fast: thousandths of real time.
    pub speed_permille: u64,
    /// Special moments for the time bar.
    pub marks: Arc<Vec<Mark>>,
    /// What is wrong with the recording.
    pub warning: Option<String>,
}

/// A special moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// When, in nanoseconds.
    pub ts_ns: u64,
    /// Number of its event.
    pub number: u64,
    /// What.
    pub kind: MarkKind,
}

/// What a special moment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MarkKind {
    /// A wait ended, of so many nanoseconds.
    Wait(u64),
    /// Events are missing.
    Gap,
    /// Something showed that should not be.
    Violation,
}

/// One task.
#[derive(Clone, Copy, Debug, Default)]
pub struct TaskRow {
    /// Thread.
    pub tid: u32,
    /// Process.
    pub pid: u32,
    /// Command name, raw.
    pub comm: [u8; COMM_LEN],
    /// Whether it is the tracer's own.
    pub is_self: bool,
    /// What it does with its processor.
    pub doing: Doing,
    /// What it waits for, and for how long, in nanoseconds.
    pub wait: Option<(Lock, u64)>,
    /// How many locks of each kind it holds, by [`Lock`].
    pub held: [u32; 4],
    /// For how long it has held what it has held longest, in nanoseconds.
    pub hold_ns: Option<u64>,
    /// Whether that is only a lower bound, the start not having been seen.
    pub at_least: bool,
    /// Range of the one VMA that it holds or waits for, if it is one.
    pub range: Option<(u64, u64)>,
    /// Some of those who hold what it waits for.
    pub behind: [u32; 3],
    /// How many those are in all.
    pub behind_count: u32,
    /// The address space of what it waits for, or else holds; 0: none.
    pub mm: u64,
    /// The least sure of what it holds and waits for.
    pub certainty: Option<Provenance>,
    /// Its events.
    pub events: u64,
    /// Its page faults.
    pub faults: u64,
    /// How long it has waited in all, finished waits only, in nanoseconds.
    pub waited_ns: u64,
    /// Its longest hold that is over, in nanoseconds.
    pub worst_hold_ns: u64,
    /// Time of its latest event, in nanoseconds.
    pub last_ns: u64,
}

impl TaskRow {
    /// Whether it holds or waits for anything.
    pub fn is_active(&self) -> bool {
        self.certainty.is_some()
    }

    /// For how long it has waited, or else held, in nanoseconds.
    pub fn since_ns(&self) -> Option<u64> {
        self.wait.map(|(_, ns)| ns).or(self.hold_ns)
    }
}

fn raw_comm(comm: &[u8; COMM_LEN]) -> &[u8] {
    let end = comm.iter().position(|&byte| byte == 0).unwrap_or(COMM_LEN);
    &comm[..end]
}

impl Facts for TaskRow {
    fn any(&self, field: Field, test: &mut dyn FnMut(Value<'_>) -> bool) -> bool {
        let mut number = |value: Option<u64>| value.is_some_and(|value| test(Value::Number(value)));
        match field {
            Field::Comm => test(Value::Text(raw_comm(&self.comm))),
            Field::Pid => number(Some(u64::from(self.pid))),
            Field::Tid => number(Some(u64::from(self.tid))),
            Field::Lock => Lock::ALL.into_iter().any(|lock| {
                let is = self.held[lock as usize] > 0 || self.wait.is_some_and(|(wait, _)| wait == lock);
                is && test(Value::Text(lock.name().as_bytes()))
            }),
            Field::Wait => number(self.wait.map(|(_, ns)| ns)),
            Field::Hold => number(self.hold_ns),
            Field::Vma => self
                .range
                .is_some_and(|(start, end)| test(Value::Range(start, end))),
            Field::Mm => number(Some(self.mm).filter(|&mm| mm != 0)),
            Field::Known => self
                .certainty
                .is_some_and(|known| test(Value::Text(known.name().as_bytes()))),
            Field::Events => number(Some(self.events)),
            Field::Faults => number(Some(self.faults)),
            Field::Run => test(Value::Text(self.doing.name().as_bytes())),
            Field::Cpu | Field::Kind | Field::Addr | Field::Refcnt | Field::Reason | Field::Site => false,
        }
    }
}

/// What is looked at closely, as it is now.
#[derive(Clone, Debug)]
pub enum Detail {
    /// A task.
    Task(Box<TaskDetail>),
    /// A VMA.
    Vma(Box<VmaRow>),
    /// It is not remembered any more, or never was.
    Gone(Subject),
}

/// A task, looked at closely.
#[derive(Clone, Debug, Default)]
pub struct TaskDetail {
    /// As in the table.
    pub row: TaskRow,
    /// Everything that it holds.
    pub holds: Vec<Hold>,
    /// Everything that it waits for.
    pub waits: Vec<Wait>,
    /// The faults that it is in, innermost last.
    pub frames: Vec<Frame>,
    /// What it did so far.
    pub counters: TaskCounters,
}

/// One address space.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpaceRow {
    /// Address of the `mm_struct`.
    pub mm: u64,
    /// Process.
    pub pid: u32,
    /// Command name, raw; empty: not known.
    pub comm: [u8; COMM_LEN],
    /// The thread that holds the `mmap_lock` for writing.
    pub writer: Option<u32>,
    /// How many hold it for reading.
    pub readers: u32,
    /// How many wait for it.
    pub waiters: u32,
    /// The one that waits longest.
    pub first_waiter: Option<u32>,
    /// VMAs that are write-locked.
    pub write_locked: u32,
    /// VMAs that are remembered.
    pub vmas: u32,
    /// VMAs that somebody holds for reading.
    pub read_locked: u32,
    /// `mm_lock_seq` as last seen.
    pub seq: Option<u32>,
    /// Times that each lock was taken, by [`Lock`].
    pub acquires: [u64; 4],
    /// Page faults in its VMAs.
    pub faults: u64,
    /// Time of the latest event, in nanoseconds.
    pub last_ns: u64,
}

impl Facts for SpaceRow {
    fn any(&self, field: Field, test: &mut dyn FnMut(Value<'_>) -> bool) -> bool {
        match field {
            Field::Comm => test(Value::Text(raw_comm(&self.comm))),
            Field::Pid => test(Value::Number(u64::from(self.pid))),
            Field::Tid => [self.writer, self.first_waiter]
                .into_iter()
                .flatten()
                .any(|tid| test(Value::Number(u64::from(tid)))),
            Field::Mm => test(Value::Number(self.mm)),
            Field::Faults => test(Value::Number(self.faults)),
            Field::Events => test(Value::Number(self.acquires.iter().sum())),
            _ => false,
        }
    }
}

/// One VMA.
#[derive(Clone, Debug, Default)]
pub struct VmaRow {
    /// Address of the `vm_area_struct`.
    pub vma: u64,
    /// Address of the `mm_struct`; 0: not known.
    pub mm: u64,
    /// First address, and first one after it; 0: not known.
    pub range: (u64, u64),
    /// `vm_refcnt` as last seen.
    pub refcnt: Option<u32>,
    /// `vm_lock_seq` as last seen.
    pub seq: Option<u32>,
    /// The same of its address space.
    pub mm_seq: Option<u32>,
    /// How many hold it for reading.
    pub readers: u32,
    /// Some of them.
    pub some_readers: [u32; 3],
    /// The thread that holds it for writing.
    pub writer: Option<u32>,
    /// The thread that waits for its readers.
    pub waiting: Option<u32>,
    /// Whether it left its address space.
    pub detached: bool,
    /// Whether the readers and the writer named are known at all, after a gap.
    pub known: Provenance,
    /// Faults and waits.
    pub heat: Heat,
    /// Readers that had to back out.
    pub temporary: u64,
    /// Time of the latest event, in nanoseconds.
    pub last_ns: u64,
}

impl Facts for VmaRow {
    fn any(&self, field: Field, test: &mut dyn FnMut(Value<'_>) -> bool) -> bool {
        match field {
            Field::Tid => {
                let some = self.some_readers.iter().copied().filter(|&tid| tid != 0);
                some.chain(self.writer)
                    .chain(self.waiting)
                    .any(|tid| test(Value::Number(u64::from(tid))))
            }
            Field::Lock => {
                (self.readers > 0 && test(Value::Text(b"vma_read")))
                    || ((self.writer.is_some() || self.waiting.is_some()) && test(Value::Text(b"vma_write")))
            }
            Field::Vma => {
                test(Value::Number(self.vma))
                    || (self.range.1 != 0 && test(Value::Range(self.range.0, self.range.1)))
            }
            Field::Mm => test(Value::Number(self.mm)),
            Field::Refcnt => self
                .refcnt
                .is_some_and(|refcnt| test(Value::Number(u64::from(refcnt)))),
            Field::Faults => test(Value::Number(self.heat.faults)),
            Field::Wait => self.heat.wait_ns > 0 && test(Value::Number(self.heat.wait_ns)),
            Field::Known => test(Value::Text(self.known.name().as_bytes())),
            _ => false,
        }
    }
}

/// Waits and holds by length.
#[derive(Clone, Debug, Default)]
pub struct Lengths {
    /// Waits by [`Lock`].
    pub waits: [Histogram; 4],
    /// Holds by [`Lock`].
    pub holds: [Histogram; 4],
    /// How often each lock was taken and given back, by [`Lock`].
    pub balance: [Balance; 4],
}

/// A group of waits that are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// All for one kind of lock.
    Lock(Lock),
    /// Those that ended at a site.
    Site(u32, Lock),
    /// Those that ended with these stacks, the kernel's and the program's.
    Stack(u32, u32, Lock),
}

/// How long the waits of a group were.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// Which group.
    pub place: Place,
    /// How many have a known length.
    pub count: u64,
    /// How many have not.
    pub unknown: u64,
    /// Their sum in nanoseconds.
    pub total_ns: u64,
    /// Half of them were not longer, in nanoseconds.
    pub p50_ns: u64,
    /// 99 of 100 were not longer, in nanoseconds.
    pub p99_ns: u64,
    /// The longest one.
    pub longest: Longest,
}

impl Waits {
    /// From what was counted.
    pub fn new(place: Place, summary: &Summary) -> Self {
        Self {
            place,
            count: summary.count,
            unknown: summary.unknown,
            total_ns: summary.total_ns,
            p50_ns: summary.percentile(500),
            p99_ns: summary.percentile(990),
            longest: summary.longest,
        }
    }
}

/// Who is in whose way, and has been.
#[derive(Clone, Debug, Default)]
pub struct Stuck {
    /// Who waits for whom now.
    pub chains: Chains,
    /// Time of the latest event, in nanoseconds.
    pub now_ns: u64,
    /// Waits that are over, in groups.
    pub waits: Vec<Waits>,
    /// By [`Lock`]: the hold that others waited for most.
    pub worst_holds: [Option<Longest>; 4],
    /// Why faults took the `mmap_lock`, and how many.
    pub fallbacks: Vec<(&'static str, u64)>,
    /// Stacks by number, from 1.
    pub stacks: Vec<Arc<Stack>>,
}

impl Stuck {
    /// The stack with that number.
    pub fn stack(&self, number: u32) -> Option<&Stack> {
        self.stacks
            .get((number as usize).checked_sub(1)?)
            .map(AsRef::as_ref)
    }
}

/// What the assertions would have said, and what is wrong.
#[derive(Clone, Debug, Default)]
pub struct Verdicts {
    /// Whether the watched kernel has the lock that the assertions are about.
    pub applies: bool,
    /// Every assertion in every variant.
    pub rows: Vec<Row>,
    /// Why instants could not be judged, by [`Unknown`].
    pub unknown: [u64; Unknown::ALL.len()],
    /// The latest instants at which some assertion was wrong, the oldest first.
    pub recent: Vec<(Key, Example)>,
    /// States that the lock cannot be in, the first ones.
    pub violations: Vec<Violation>,
    /// How many there are.
    pub violations_all: u64,
    /// What a gap explained that turned up later.
    pub taken_back: u64,
    /// Whether each count that was read is what is known of its holders; `None`: this kernel has no count.
    pub accounting: Option<Totals>,
    /// Some counts that could not be closed.
    pub cases: Vec<Case>,
}

/// A picture of the world.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What it was made for.
    pub request: Request,
    /// What holds for every view.
    pub head: Head,
    /// What happened in the latest minute, oldest first; steps without events are left out.
    pub steps: Vec<Step>,
    /// Tasks, in no particular order.
    pub tasks: Vec<TaskRow>,
    /// The longest waits that are over, longest first.
    pub worst: Vec<EndedWait>,
    /// Address spaces, in no particular order.
    pub spaces: Vec<SpaceRow>,
    /// VMAs of the one that was asked for, in no particular order.
    pub vmas: Vec<VmaRow>,
    /// VMAs whose faults and waits were forgotten for want of room.
    pub heat_lost: u64,
    /// The latest events that the filter lets through, oldest first.
    pub events: Vec<Entry>,
    /// Older ones that are not there any more.
    pub events_gone: u64,
    /// What is looked at closely.
    pub detail: Option<Detail>,
    /// Its latest events, oldest first.
    pub history: Vec<Entry>,
    /// Older ones that are not there any more.
    pub history_gone: u64,
    /// Waits and holds by length.
    pub lengths: Box<Lengths>,
    /// Who is in whose way.
    pub contention: Option<Box<Stuck>>,
    /// What the assertions would have said.
    pub verdicts: Option<Box<Verdicts>>,
    /// Events by site, as in [`SourceInfo::sites`].
    pub hits: Vec<u64>,
}
