//! Accounting: does each observed `vm_refcnt` equal what is known of the VMA's holders?
//!
//! On kernels that count readers the count of an attached VMA is 1, plus its readers, plus the flag (2^30) while a writer
//! keeps readers out. So each event that has read the count is a proof, or a disproof, of everything that was seen of
//! that VMA so far: no acquire and no release was missed, none was invented.
//!
//! # What concurrency allows
//!
//! An event reads the count some time after its task's previous event and before its own time: the *window*. A reader is
//! *definite* if its acquire lies before the window and its release after it. It is *possible* if
//!
//! * its acquire or its release lies within the window;
//! * it was seen to be about to give the lock back, and nothing later was seen of its task: it may not have done so;
//! * it took the lock before the count was read, and the event that says so comes later: its task's previous event is
//!   not after the count was read. Such cases wait for that event, in a bounded list.
//!
//! A count is *closed* if it lies between the definite readers and these together with the possible ones: exactly, if it
//! is what the engine holds to be so at this moment, else by operations in flight. What is not closed is *open*, and the
//! reason is told as far as it is known: readers from before the attach (until the VMA's first quiet point), a gap, an
//! operation that is known not to be seen here, a filter, a release that was missed. What none of these explain is a
//! candidate for a violation.
//!
//! It costs nothing where it is not fed: it is a consumer of the engine's state, and the engine does not know of it.

mod pending;
mod tables;

use tracer_common::lock::refcnt::VM_REFCNT_EXCLUDE_READERS_FLAG as FLAG;
use tracer_common::site;
use tracer_common::wire::{Event, Kind, Provenance, fault};

use super::holders::Holders;
use super::violation::{Violation, ViolationKind};
use crate::info::{Family, SourceInfo};
use crate::state::{Engine, Meta, Start, VmaEntry, is_beside_locks};
use pending::{Demand, Pending, Wait};
pub(super) use tables::Change;
use tables::Tables;

/// After these results the lock was given back inside the fault, and nothing of the VMA was read.
const DROPPED: u16 = fault::RESULT_RETRY | fault::RESULT_COMPLETED;

/// How many open cases are kept in full; all are counted.
pub const CASES_KEPT: usize = 32;

/// Why a count could not be closed.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpenReason {
    /// Holders from before the attach, of a VMA that has had no quiet point since.
    BeforeAttach,
    /// Events are missing since the VMA's last quiet point.
    Gap,
    /// The stream was filtered in the kernel: others may hold it.
    Filtered,
    /// Some place where VMAs are read-locked is not seen.
    UnseenAcquire,
    /// Some place where they are given back is not seen, or was not this time.
    UnseenRelease,
    /// Tries that are taken back are not seen everywhere.
    UnseenTemporary,
    /// Some place where a writer keeps readers out is not seen.
    UnseenWriter,
    /// Its memory has become another VMA, or another address space, unseen.
    Recycled,
    /// Nothing explains more readers than are known.
    TooMany,
    /// Nothing explains fewer readers than are known.
    TooFew,
    /// Nothing explains the writer's flag.
    StrayFlag,
    /// It is proved that the lock cannot be so.
    Violation,
}

impl OpenReason {
    /// All, by number.
    pub const ALL: [Self; 12] = [
        Self::BeforeAttach,
        Self::Gap,
        Self::Filtered,
        Self::UnseenAcquire,
        Self::UnseenRelease,
        Self::UnseenTemporary,
        Self::UnseenWriter,
        Self::Recycled,
        Self::TooMany,
        Self::TooFew,
        Self::StrayFlag,
        Self::Violation,
    ];

    /// The name in all output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeAttach => "before_attach",
            Self::Gap => "gap",
            Self::Filtered => "filtered",
            Self::UnseenAcquire => "unseen_acquire",
            Self::UnseenRelease => "unseen_release",
            Self::UnseenTemporary => "unseen_temporary",
            Self::UnseenWriter => "unseen_writer",
            Self::Recycled => "recycled",
            Self::TooMany => "too_many",
            Self::TooFew => "too_few",
            Self::StrayFlag => "stray_flag",
            Self::Violation => "violation",
        }
    }

    /// Whether nothing harmless explains it.
    pub const fn is_candidate(self) -> bool {
        matches!(self, Self::TooMany | Self::TooFew | Self::StrayFlag)
    }
}

/// Counts of counts: `checked = closed_exact + closed_concurrent + open`, once nothing waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Observed counts that were checked.
    pub checked: u64,
    /// Equal to what was known at that moment.
    pub closed_exact: u64,
    /// Explained by operations in flight.
    pub closed_concurrent: u64,
    /// Neither.
    pub open: u64,
    /// The same by [`OpenReason`].
    pub open_by_reason: [u64; OpenReason::ALL.len()],
}

/// One count that could not be closed.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The event that read it.
    pub event: Event,
    /// Readers that were certainly inside.
    pub definite: u32,
    /// Further ones that may have been.
    pub possible: u32,
    /// Why it is open.
    pub reason: OpenReason,
    /// Who held the VMA then.
    pub holders: Holders,
}

/// The check; see the module.
#[derive(Clone, Debug)]
pub struct Accounting {
    applies: bool,
    explains: Explains,
    tables: Tables,
    pending: Pending,
    totals: Totals,
    cases: Vec<Case>,
    /// What was proved and is not taken out yet.
    proved: Vec<Violation>,
}

/// What the plan lets go by unseen.
#[derive(Clone, Copy, Debug)]
struct Explains {
    filtered: bool,
    acquire: bool,
    release: bool,
    temporary: bool,
    writer: bool,
    /// A VMA is seen to leave only after it has left.
    late_detach: bool,
}

/// What an event says of its own task and the VMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The task is inside: it is counted.
    Inside,
    /// It was counted some time before this event, and is.
    Arrives,
    /// A writer does something: it is not counted.
    Changes(Change),
}

/// Where an event stands: what the other checks need to know of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The task, by its slot in the engine.
    pub task: u32,
    /// Time of the task's event before, or 0: what this event has read it has read after that.
    pub prev_ns: u64,
}

impl Accounting {
    /// For a stream that `info` tells about.
    pub fn new(info: &SourceInfo) -> Self {
        let unseen = |kind: Kind| info.unseen.iter().any(|unseen| unseen.operation == kind.name());
        Self {
            applies: info.kernel.family == Family::Refcount,
            explains: Explains {
                filtered: !info.filters.is_empty(),
                acquire: unseen(Kind::VmaReadAcquire),
                release: unseen(Kind::VmaReadRelease),
                temporary: unseen(Kind::VmaReadTemporary) || unseen(Kind::VmaReadRefused),
                writer: unseen(Kind::VmaWriteStart) || unseen(Kind::VmaWriteAcquire),
                late_detach: detach_is_late(info),
            },
            tables: Tables::default(),
            pending: Pending::default(),
            totals: Totals::default(),
            cases: Vec::new(),
            proved: Vec::new(),
        }
    }

    /// Whether the watched kernel counts readers at all.
    pub fn applies(&self) -> bool {
        self.applies
    }

    /// What was counted. Until [`Self::finish`] some counts wait, and are neither closed nor open.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The first open cases, up to [`CASES_KEPT`].
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// Takes in one event of the source, after `engine` has.
    #[inline]
    pub fn observe(&mut self, engine: &Engine, event: &Event) {
        if self.applies {
            self.place(engine, event, None);
        }
    }

    /// Takes out what was proved since the last time.
    #[inline]
    pub(super) fn take_proved(&mut self) -> Option<Violation> {
        self.proved.pop()
    }

    /// The same, and tells where the event stands; nothing for a gap. `ended`: the start of the read hold that the event
    /// ends.
    #[inline]
    pub(super) fn place(&mut self, engine: &Engine, event: &Event, ended: Option<Start>) -> Option<Place> {
        if event.kind == Kind::Gap {
            self.gap(event.body.vm_start);
            return None;
        }
        if is_beside_locks(event.kind) {
            // It may come between an event and what that event tells of: the task has not done it by then.
            return None;
        }
        let task = engine.current_task();
        let prev_ns = self.tables.step(task, event);
        if self.applies {
            self.count(engine, event, task, prev_ns, ended);
        }
        Some(Place { task, prev_ns })
    }

    #[inline]
    fn count(&mut self, engine: &Engine, event: &Event, t: u32, prev_ns: u64, ended: Option<Start>) {
        let Some(role) = role(event) else { return };
        let Some(vma) = event.vma().and_then(|address| engine.vma_entry(address)) else {
            return;
        };
        let v = vma.slot;
        self.tables.vma(v, vma.address);
        if self.tables.pending_of(v) > 0 {
            self.explain(&vma, t, role, event, prev_ns, ended);
        }
        if let Role::Changes(change) = role {
            self.tables.change(t, v, change);
        }
        let lockdep = matches!(event.kind, Kind::LockdepAcquire | Kind::LockdepRelease);
        if let Some(refcnt) = event.vm_refcnt().filter(|_| !lockdep) {
            self.check(engine, &vma, t, role, event, prev_ns, refcnt);
        }
        if !matches!(role, Role::Changes(_)) && !vma.is_read_by_current() {
            // About to be given back, or only about to be held: whether it is inside only its next event tells.
            self.tables.perhaps(t, v);
        }
    }

    /// Takes in one event that the engine has made: a release that was missed explains what was open before.
    pub fn derived(&mut self, event: &Event, meta: &Meta) {
        if event.kind != Kind::VmaReadRelease || meta.provenance < Provenance::Bounded {
            return;
        }
        let (Some(address), Some(start)) = (event.vma(), meta.hold) else {
            return;
        };
        let missed =
            |case: &Case| case.reason == OpenReason::TooFew && case.event.header.ts_ns >= start.since_ns;
        self.pending
            .reclassify(Some(address), missed, OpenReason::UnseenRelease);
    }

    /// Nothing more comes: what waits is open.
    pub fn finish(&mut self) {
        for case in self.pending.take_all() {
            open(&mut self.totals, &mut self.cases, case);
        }
    }

    /// Events may be missing since then.
    pub(super) fn lost_since(&mut self, from_ns: u64) {
        self.gap(from_ns);
    }

    /// Events are missing since then, on whatever CPU: what waits for them, and what seemed odd since, is explained.
    #[cold]
    fn gap(&mut self, from_ns: u64) {
        self.pending.reclassify(None, |_| true, OpenReason::Gap);
        self.finish();
        self.tables.forget_pending();
        for case in &mut self.cases {
            if case.event.header.ts_ns >= from_ns && case.reason != OpenReason::Gap {
                self.totals.open_by_reason[case.reason as usize] -= 1;
                self.totals.open_by_reason[OpenReason::Gap as usize] += 1;
                case.reason = OpenReason::Gap;
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one hot function, called in one place")]
    #[inline]
    fn check(
        &mut self,
        engine: &Engine,
        vma: &VmaEntry<'_>,
        t: u32,
        role: Role,
        event: &Event,
        prev_ns: u64,
        refcnt: u32,
    ) {
        self.totals.checked += 1;
        let inside = role == Role::Inside || role == Role::Arrives;
        let own = u32::from(inside && !vma.is_read_by_current());
        let known = vma.readers() + own;
        let attached = u32::from(!vma.is_detached());
        if refcnt == attached + known || refcnt == 0 && known == 0 {
            self.totals.closed_exact += 1;
            let waits = self.tables.pending_of(vma.slot) > 0;
            if (waits || self.tables.settled(vma.slot) != engine.epoch())
                && self.is_quiet(vma, t, inside, prev_ns, refcnt)
            {
                self.tables.settle(vma.slot, engine.epoch());
                if waits {
                    self.quiet(vma, prev_ns, event.header.ts_ns);
                }
            }
            return;
        }
        self.check_window(engine, vma, t, inside, event, prev_ns, refcnt);
    }

    /// Whether those who were surely inside when the event read the count are all that it counts. That it equals what is
    /// known by the time of the event is not enough: by chance one came in since for one who was inside and has said
    /// nothing yet.
    #[cold]
    fn is_quiet(&self, vma: &VmaEntry<'_>, t: u32, inside: bool, prev_ns: u64, count: u32) -> bool {
        let seen = self.tables.in_window(vma.slot, t, prev_ns);
        let joins = seen.changed && seen.joining;
        let attached = u32::from(!(vma.is_detached() || joins));
        let others = vma
            .readers_since(prev_ns)
            .filter(|&(reader, surely)| surely && reader != t)
            .count() as u32;
        let own = inside || vma.is_read_by_current();
        count <= attached + others + u32::from(own)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the rest of the function above, out of its way"
    )]
    #[inline(never)]
    fn check_window(
        &mut self,
        engine: &Engine,
        vma: &VmaEntry<'_>,
        t: u32,
        inside: bool,
        event: &Event,
        prev_ns: u64,
        refcnt: u32,
    ) {
        let v = vma.slot;
        let seen = self.tables.in_window(v, t, prev_ns);
        let count = refcnt & !FLAG;
        let flag_unknown = refcnt & FLAG != 0 && !vma.is_awaited() && !seen.changed;
        let (low, high) = if vma.is_detached() {
            (0, u32::from(seen.changed))
        } else {
            (u32::from(!(seen.changed && seen.joining)), 1)
        };
        let own = u32::from(inside && !vma.is_read_by_current());
        if !flag_unknown && count == high + vma.readers() + own {
            self.totals.closed_exact += 1;
            if self.tables.settled(v) != engine.epoch() && self.is_quiet(vma, t, inside, prev_ns, count) {
                self.tables.settle(v, engine.epoch());
            }
            return;
        }
        let mut definite = u32::from(inside);
        let mut tasks = seen.tasks;
        for (reader, surely) in vma.readers_since(prev_ns) {
            if reader == t {
                // It is the one that the event is about.
                definite += u32::from(!inside);
            } else if surely {
                definite += 1;
                tasks.remove(reader);
            } else {
                tasks.add(reader);
            }
        }
        let possible = tasks.len();
        let demand = Demand {
            surplus: if tasks.is_full() {
                0
            } else {
                count.saturating_sub(high + definite + possible)
            },
            deficit: (low + definite).saturating_sub(count),
            flag: flag_unknown,
        };
        if demand.is_met() {
            self.totals.closed_concurrent += 1;
            return;
        }
        let mut case = Case {
            event: *event,
            definite,
            possible,
            reason: self.reason(engine, v, demand),
            holders: Holders::default(),
        };
        if case.reason.is_candidate() {
            case.holders = Holders::of(engine, event);
        }
        let others = count.checked_sub(low + u32::from(inside));
        if others.is_none() && inside && event.kind != Kind::VmaReadTemporary {
            // That the count is lower than the VMA and this task alone the event has proved by itself.
            case.reason = OpenReason::Violation;
            open(&mut self.totals, &mut self.cases, case);
            return;
        }
        let (tables, totals, cases) = (&mut self.tables, &mut self.totals, &mut self.cases);
        tables.waits(v);
        let wait = Wait::new(v, case, demand, tasks, prev_ns, others.unwrap_or(0));
        self.pending.add(wait, |slot, case| {
            tables.waits_no_more(slot);
            open(totals, cases, case);
        });
    }

    /// Why a count would be open if nothing more is said of it.
    fn reason(&self, engine: &Engine, v: u32, demand: Demand) -> OpenReason {
        let explains = self.explains;
        let settled = self.tables.settled(v);
        if settled != engine.epoch() {
            return if settled == 0 && engine.totals().gaps == 0 {
                OpenReason::BeforeAttach
            } else {
                OpenReason::Gap
            };
        }
        if demand.deficit > 0 {
            return if explains.release {
                OpenReason::UnseenRelease
            } else {
                OpenReason::TooFew
            };
        }
        if explains.filtered {
            OpenReason::Filtered
        } else if demand.surplus == 0 {
            if explains.writer {
                OpenReason::UnseenWriter
            } else {
                OpenReason::StrayFlag
            }
        } else if explains.acquire {
            OpenReason::UnseenAcquire
        } else if explains.temporary {
            OpenReason::UnseenTemporary
        } else {
            OpenReason::TooMany
        }
    }

    /// An event of a VMA of which counts wait: it may have been under way when they were read.
    #[cold]
    fn explain(
        &mut self,
        vma: &VmaEntry<'_>,
        t: u32,
        role: Role,
        event: &Event,
        prev_ns: u64,
        ended: Option<Start>,
    ) {
        let arrives = role == Role::Arrives;
        let changes = matches!(role, Role::Changes(_));
        let leaves = self.explains.late_detach && event.kind == Kind::VmaDetach;
        let closed = self.pending.explain(vma.address, prev_ns, |wait| {
            // What it has read itself it knew then.
            if wait.tid() == event.header.tid {
                return;
            }
            if arrives && !wait.tasks.contains(t) && wait.demand.surplus > 0 {
                wait.demand.surplus -= 1;
                wait.tasks.add(t);
            }
            wait.demand.flag &= !changes;
            if leaves {
                wait.demand.deficit = wait.demand.deficit.saturating_sub(1);
            }
        });
        for _ in 0..closed {
            self.totals.closed_concurrent += 1;
            self.tables.waits_no_more(vma.slot);
        }
        let hold = ended
            .map(|start| start.since_ns)
            .or_else(|| vma.current_hold().map(|hold| hold.since_ns));
        if role == Role::Inside
            && let Some(since_ns) = hold
        {
            self.was_inside(vma, (t, event.header.tid), event.header.ts_ns, since_ns);
        }
    }

    /// A task was inside all along since then: counts that were too low for that are proved to be wrong.
    #[cold]
    fn was_inside(&mut self, vma: &VmaEntry<'_>, task: (u32, u32), ts_ns: u64, since_ns: u64) {
        let Self {
            pending,
            tables,
            totals,
            cases,
            proved,
            ..
        } = self;
        pending.confirm(vma.address, task, since_ns, |wait| {
            let mut case = *wait.case();
            proved.push(prove(
                &case,
                ViolationKind::CountBelowHolders,
                wait.least(),
                ts_ns,
            ));
            case.reason = OpenReason::Violation;
            tables.waits_no_more(vma.slot);
            open(totals, cases, case);
        });
    }

    /// The VMA's count was just those who were surely inside: whoever else was so at an earlier time has left, and has been
    /// seen to leave, if it was seen at all.
    #[cold]
    fn quiet(&mut self, vma: &VmaEntry<'_>, until_ns: u64, ts_ns: u64) {
        let Self {
            pending,
            tables,
            totals,
            cases,
            proved,
            ..
        } = self;
        pending.settle(vma.address, until_ns, |wait| {
            let mut case = *wait.case();
            let kind = match case.reason {
                OpenReason::TooMany => Some(ViolationKind::CountAboveHolders),
                OpenReason::StrayFlag => Some(ViolationKind::FlagWithoutWriter),
                _ => None,
            };
            if let Some(kind) = kind {
                proved.push(prove(&case, kind, 1 + case.definite + case.possible, ts_ns));
                case.reason = OpenReason::Violation;
            }
            tables.waits_no_more(vma.slot);
            open(totals, cases, case);
        });
    }
}

/// Whether a VMA is seen to leave only after it has left.
pub(super) fn detach_is_late(info: &SourceInfo) -> bool {
    let attached = |at: u32| {
        info.sites
            .get(at as usize)
            .is_some_and(|site| site.attached && site.operation == Kind::VmaDetach.name())
    };
    let at_instructions = (site::FIRST_DYNAMIC..)
        .take(info.sites.len().saturating_sub(site::FIRST_DYNAMIC as usize))
        .any(attached);
    attached(site::MARK_DETACHED) || attached(site::AREA_FREE) || !at_instructions
}

fn prove(case: &Case, kind: ViolationKind, expected: u32, proven_ns: u64) -> Violation {
    Violation {
        kind,
        event: case.event,
        expected,
        holders: case.holders,
        proven_ns,
    }
}

fn open(totals: &mut Totals, cases: &mut Vec<Case>, case: Case) {
    totals.open += 1;
    totals.open_by_reason[case.reason as usize] += 1;
    if cases.len() < CASES_KEPT {
        cases.push(case);
    }
}

#[inline]
pub(super) fn role(event: &Event) -> Option<Role> {
    Some(match event.kind {
        Kind::VmaReadAcquire | Kind::VmaReadTemporary => Role::Arrives,
        Kind::VmaReadRelease | Kind::LockdepRelease => Role::Inside,
        Kind::FaultBegin if event.is_vma_fault() => Role::Inside,
        Kind::FaultEnd if event.is_vma_fault() && event.fault_result() & DROPPED == 0 => Role::Inside,
        Kind::LockdepAcquire if event.body.arg & 0xff != 0 => Role::Arrives,
        Kind::VmaWriteStart | Kind::VmaWriteAcquire | Kind::VmaWriteFail => Role::Changes(Change::Write),
        Kind::VmaDetach => Role::Changes(Change::Detach),
        Kind::VmaAttach => Role::Changes(Change::Attach),
        _ => return None,
    })
}
