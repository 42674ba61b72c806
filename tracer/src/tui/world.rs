//! All that the screen can show, as it grows with each event. Pure and plain data: a clone is the same world at this
//! instant, which is how the screen is held and how a recording is gone back in.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use tracer_common::wire::{Event, Kind, Provenance};

use super::log::{Entry, Ring, Tap};
use super::snapshot::{Request, Subject};
use crate::check::Checker;
use crate::contention::Contention;
use crate::filter::{Filter, ending_wait};
use crate::info::{Fired, Losses, ProbeCosts, SourceInfo};
use crate::order::OrderStats;
use crate::outside;
use crate::sink::address::Addresses;
use crate::stacks::{Stack, Stacks};
use crate::state::{Engine, Hold, Lock};
use crate::trigger::{Trigger, Triggers};

/// Width of one step of the rates, in nanoseconds.
pub const STEP_NS: u64 = 100_000_000;
/// Steps that are kept: a minute.
const STEPS: usize = 600;
/// Waits that are kept, the longest ones.
const WORST: usize = 64;
/// Gaps that are kept in full.
const GAPS: usize = 256;
/// VMAs whose heat is kept.
const HEAT: usize = 1 << 17;
/// Events that the log keeps, live.
pub const LOG: usize = 1 << 16;

/// What happened in one step of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Its number: its start by [`STEP_NS`].
    pub at: u64,
    /// Events of the source.
    pub events: u64,
    /// Page faults that began.
    pub faults: u64,
    /// Look-ups that did not get the VMA lock, so that the `mmap_lock` was taken.
    pub fallbacks: u64,
    /// Waits that ended.
    pub waits: u64,
    /// How long those were, in nanoseconds.
    pub wait_ns: u64,
    /// Events that are missing.
    pub lost: u64,
}

/// A wait that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedWait {
    /// How long, in nanoseconds.
    pub ns: u64,
    /// When it ended, in nanoseconds.
    pub end_ns: u64,
    /// Number of the event that ended it.
    pub number: u64,
    /// Thread.
    pub tid: u32,
    /// Process.
    pub pid: u32,
    /// Command name, raw.
    pub comm: [u8; 16],
    /// For which lock.
    pub lock: Lock,
    /// In which address space.
    pub mm: u64,
    /// For which VMA; 0: for the `mmap_lock`.
    pub vma: u64,
    /// Where it was taken in the end.
    pub site: u32,
}

/// What happened to one VMA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heat {
    /// Whose it was.
    pub mm: u64,
    /// Page faults.
    pub faults: u64,
    /// Look-ups and tries that did not get its lock.
    pub refused: u64,
    /// Waits of writers for its readers.
    pub waits: u64,
    /// How long those were, in nanoseconds.
    pub wait_ns: u64,
}

/// A gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GapNote {
    /// When it was noticed, in nanoseconds.
    pub ts_ns: u64,
    /// Where.
    pub cpu: u16,
    /// How many events are missing.
    pub missing: u32,
}

/// What was special about one event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// It ended a wait of so many nanoseconds.
    pub wait_ns: Option<u64>,
    /// It is a gap.
    pub gap: bool,
    /// Something showed that should not be.
    pub violation: bool,
}

/// The whole state that the screen shows parts of.
#[derive(Clone, Debug)]
pub struct World {
    /// Harmless to show.
    pub(super) info: Arc<SourceInfo>,
    /// What stands for addresses of the kernel.
    addresses: Addresses,
    pub(super) engine: Engine,
    pub(super) checker: Checker,
    pub(super) contention: Contention,
    /// Stacks by number, from 1.
    pub(super) stacks: Vec<Arc<Stack>>,
    pub(super) log: Ring,
    pub(super) events_tap: Option<Tap>,
    pub(super) subject_tap: Option<Tap>,
    pub(super) steps: VecDeque<Step>,
    pub(super) worst: Vec<EndedWait>,
    pub(super) sites: Vec<u64>,
    pub(super) heat: FxHashMap<u64, Heat>,
    /// VMAs whose heat was forgotten for want of room.
    pub(super) heat_lost: u64,
    pub(super) gaps: VecDeque<GapNote>,
    pub(super) losses: Losses,
    /// What the probes cost by now.
    pub(super) costs: Arc<ProbeCosts>,
    /// Events that found no room, by site.
    pub(super) dropped_at: Arc<BTreeMap<u32, u64>>,
    pub(super) order: OrderStats,
    pub(super) number: u64,
    pub(super) trigger: Option<Box<Triggers>>,
    /// What made the trigger fire.
    fired: Option<Box<Fired>>,
    id: u64,
    violations: u64,
}

impl World {
    /// Before the first event of a stream that `info` tells about. `log`: how many events are kept for looking back.
    pub fn new(info: &SourceInfo, log: usize) -> Self {
        let mut engine = Engine::new(info);
        engine.keep_notes();
        let addresses = Addresses::of(info);
        let info = Arc::new(info.shown());
        Self {
            addresses,
            engine,
            checker: Checker::new(&info),
            contention: Contention::default(),
            stacks: Vec::new(),
            sites: vec![0; info.sites.len()],
            info,
            log: Ring::new(log),
            events_tap: None,
            subject_tap: None,
            steps: VecDeque::new(),
            worst: Vec::new(),
            heat: FxHashMap::default(),
            heat_lost: 0,
            gaps: VecDeque::new(),
            losses: Losses::default(),
            costs: Arc::default(),
            dropped_at: Arc::default(),
            order: OrderStats::default(),
            number: 0,
            trigger: None,
            fired: None,
            id: 0,
            violations: 0,
        }
    }

    /// Shows the addresses of the kernel otherwise; to be called before the first event.
    pub fn show_addresses(&mut self, addresses: Addresses) {
        self.addresses = addresses;
    }

    /// Takes one event in, in the order of time.
    pub fn event(&mut self, event: &Event) -> Noted {
        // From here on nobody knows the addresses any more: no view, no filter, no file that is written from the screen.
        let mut event = *event;
        self.addresses.hide(&mut event);
        let event = &event;
        self.number += 1;
        let wait = self.wait_ended_by(event);
        let Self {
            info,
            engine,
            checker,
            contention,
            log,
            events_tap,
            subject_tap,
            trigger,
            number,
            id,
            ..
        } = self;
        checker.apply(engine, event, &mut |event, meta| {
            *id += 1;
            let known = meta.hold.filter(|start| start.provenance != Provenance::Unknown);
            let entry = Entry {
                id: *id,
                number: *number,
                event: *event,
                provenance: meta.provenance,
                derived: meta.derived,
                bound_ns: meta.bound_ns,
                hold_ns: known.map(|start| event.header.ts_ns.saturating_sub(start.since_ns)),
                wait_ns: wait.filter(|_| !meta.derived).map(|wait| wait.ns),
            };
            for tap in [&mut *events_tap, &mut *subject_tap].into_iter().flatten() {
                tap.push(&entry, &info.sites);
            }
            if let Some(trigger) = trigger {
                trigger.event(&entry.facts(&info.sites));
            }
            log.push(entry);
        });
        contention.observe(engine, event);
        if let Some(trigger) = trigger
            && let Some(found) = trigger.after(engine, Some(checker.violations()), event)
        {
            self.fired.get_or_insert_with(|| Box::new(found));
        }
        self.note(event, wait)
    }

    /// The wait that this event is about to end, asked before the engine takes it in.
    fn wait_ended_by(&self, event: &Event) -> Option<EndedWait> {
        let wait = ending_wait(&self.engine, event)?;
        Some(EndedWait {
            ns: event.header.ts_ns.saturating_sub(wait.since_ns),
            end_ns: event.header.ts_ns,
            number: self.number,
            tid: event.header.tid,
            pid: event.header.pid,
            comm: event.header.comm,
            lock: wait.lock,
            mm: wait.mm,
            vma: wait.vma,
            site: event.header.site,
        })
    }

    fn note(&mut self, event: &Event, wait: Option<EndedWait>) -> Noted {
        let gap = event.kind == Kind::Gap;
        if let Some(count) = self.sites.get_mut(event.header.site as usize)
            && !gap
        {
            *count += 1;
        }
        self.warm(event, wait);
        let step = self.step(event.header.ts_ns);
        step.events += u64::from(!gap);
        match event.kind {
            Kind::FaultBegin => step.faults += 1,
            Kind::VmaReadFail => step.fallbacks += 1,
            Kind::Gap => step.lost += u64::from(event.body.arg),
            _ => {}
        }
        if let Some(wait) = wait {
            step.waits += 1;
            step.wait_ns += wait.ns;
            self.keep_if_long(wait);
        }
        if gap {
            if self.gaps.len() == GAPS {
                self.gaps.pop_front();
            }
            self.gaps.push_back(GapNote {
                ts_ns: event.header.ts_ns,
                cpu: event.header.cpu,
                missing: event.body.arg,
            });
        }
        let violations = self.count_violations();
        let violation = violations > self.violations;
        // A gap that shows late takes findings back.
        self.violations = violations;
        Noted {
            wait_ns: wait.map(|wait| wait.ns),
            gap,
            violation,
        }
    }

    fn count_violations(&self) -> u64 {
        let anomalies: u64 = self.engine.totals().anomalies.iter().sum();
        anomalies + self.checker.violations().total()
    }

    fn warm(&mut self, event: &Event, wait: Option<EndedWait>) {
        let refused = matches!(event.kind, Kind::VmaReadFail | Kind::VmaReadRefused);
        let fault = event.kind == Kind::FaultBegin;
        let wait = wait.filter(|wait| wait.vma != 0);
        if !(refused || fault || wait.is_some()) {
            return;
        }
        let Some(vma) = event.vma() else { return };
        if self.heat.len() >= HEAT && !self.heat.contains_key(&vma) {
            self.heat_lost += self.heat.len() as u64;
            self.heat.clear();
        }
        let heat = self.heat.entry(vma).or_default();
        if let Some(mm) = event.mm()
            && heat.mm != mm
        {
            // The memory of the structure is another VMA's now.
            *heat = Heat {
                mm,
                ..Heat::default()
            };
        }
        heat.refused += u64::from(refused);
        heat.faults += u64::from(fault);
        if let Some(wait) = wait {
            heat.waits += 1;
            heat.wait_ns += wait.ns;
        }
    }

    fn step(&mut self, ts_ns: u64) -> &mut Step {
        let at = ts_ns / STEP_NS;
        if self.steps.back().is_none_or(|step| step.at < at) {
            if self.steps.len() == STEPS {
                self.steps.pop_front();
            }
            self.steps.push_back(Step {
                at,
                ..Step::default()
            });
        }
        let last = self.steps.len() - 1;
        &mut self.steps[last]
    }

    fn keep_if_long(&mut self, wait: EndedWait) {
        if self.worst.len() >= WORST && self.worst.last().is_some_and(|last| last.ns >= wait.ns) {
            return;
        }
        let at = self.worst.partition_point(|other| other.ns >= wait.ns);
        self.worst.insert(at, wait);
        self.worst.truncate(WORST);
    }

    /// What is known to be missing by now.
    pub fn losses(&mut self, losses: &Losses) {
        // A run that the kernel skipped leaves no hole in the numbering.
        let missed = losses.missed != self.losses.missed;
        self.checker.losses(&mut self.engine, missed);
        if *self.dropped_at != losses.dropped_at {
            self.dropped_at = Arc::new(losses.dropped_at.clone());
        }
        if *self.costs != losses.costs {
            self.costs = Arc::new(losses.costs.clone());
        }
        self.losses.clone_from(losses);
    }

    /// The stacks that events so far have numbers of.
    pub fn stacks(&mut self, stacks: &Stacks) {
        let new = stacks.since(self.stacks.len()).iter();
        for stack in new {
            let mut stack = stack.clone();
            for frame in &mut stack.frames {
                outside::clean(&mut frame.name);
                outside::clean(&mut frame.module);
                if stack.pid == 0 && !self.addresses.are_raw() {
                    frame.address = 0;
                }
            }
            self.stacks.push(Arc::new(stack));
        }
    }

    /// What the order of events has found by now.
    pub fn ordered(&mut self, stats: &OrderStats) {
        self.order = *stats;
    }

    /// Sees to it that what was asked for is kept from now on.
    pub fn ask(&mut self, request: &Request) {
        let subject = request.subject.map(|subject| match subject {
            Subject::Task(tid) => Filter::of_task(tid),
            Subject::Vma(address) => Filter::of_vma(address),
        });
        let Self {
            info,
            log,
            events_tap,
            subject_tap,
            ..
        } = self;
        for (tap, wanted) in [(events_tap, request.events.clone()), (subject_tap, subject)] {
            if tap.as_ref().map(Tap::filter) != wanted.as_ref() {
                *tap = wanted.map(|filter| Tap::new(filter, log, &info.sites));
            }
        }
    }

    /// Waits for a condition to come true; `None`: for nothing more.
    pub fn set_trigger(&mut self, trigger: Option<Trigger>) {
        self.trigger = trigger.map(|trigger| {
            let mut triggers = Triggers::beside_checks(vec![trigger], &self.info);
            triggers.begin(Some(self.checker.violations()));
            Box::new(triggers)
        });
        self.fired = None;
    }

    /// What is waited for.
    pub fn trigger(&self) -> Option<&Trigger> {
        self.trigger.as_ref()?.all().first()
    }

    /// Looks for waits and holds that go on; no event before that time is still to come.
    pub fn look(&mut self, now_ns: u64) {
        if let Some(trigger) = &mut self.trigger
            && self.fired.is_none()
        {
            self.fired = trigger.look(&self.engine, now_ns).map(Box::new);
        }
    }

    /// What made the trigger fire, once; it waits for nothing more then.
    pub fn take_fired(&mut self) -> Option<Box<Fired>> {
        let fired = self.fired.take();
        if fired.is_some() {
            self.trigger = None;
        }
        fired
    }

    /// What made the trigger fire, if nobody has taken it yet.
    pub fn fired(&self) -> Option<&Fired> {
        self.fired.as_deref()
    }

    /// Whether the trigger has fired and nobody has asked yet.
    pub fn has_fired(&self) -> bool {
        self.fired.is_some()
    }

    /// Whether a request needs something that was not kept so far.
    pub fn lacks(&self, request: &Request) -> bool {
        let subject = request.subject.map(|subject| match subject {
            Subject::Task(tid) => Filter::of_task(tid),
            Subject::Vma(address) => Filter::of_vma(address),
        });
        let missing = |tap: &Option<Tap>, wanted: Option<&Filter>| {
            wanted.is_some() && tap.as_ref().map(Tap::filter) != wanted
        };
        missing(&self.events_tap, request.events.as_ref()) || missing(&self.subject_tap, subject.as_ref())
    }

    /// The same world with a short memory of single events, for keeping many of them.
    #[must_use]
    pub fn light(&self, log: usize) -> Self {
        Self {
            addresses: self.addresses.clone(),
            log: self.log.shortened(log),
            events_tap: None,
            subject_tap: None,
            info: Arc::clone(&self.info),
            engine: self.engine.clone(),
            checker: self.checker.clone(),
            contention: self.contention.clone(),
            stacks: self.stacks.clone(),
            steps: self.steps.clone(),
            worst: self.worst.clone(),
            sites: self.sites.clone(),
            heat: self.heat.clone(),
            gaps: self.gaps.clone(),
            losses: self.losses.clone(),
            costs: Arc::clone(&self.costs),
            dropped_at: Arc::clone(&self.dropped_at),
            trigger: None,
            fired: None,
            ..*self
        }
    }

    /// About how much memory it takes, in bytes.
    pub fn weight(&self) -> usize {
        let (tasks, vmas, mms) = self.engine.sizes();
        let log = self.log.iter().len() * size_of::<Entry>();
        let heat = self.heat.capacity() * (size_of::<Heat>() + 16);
        let rows = self.contention.groups.tasks.iter().count()
            + self.contention.groups.vmas.iter().count()
            + self.contention.groups.stacks.iter().count()
            + self.contention.faults.vmas.iter().count()
            + self.contention.tracks.pairs.iter().count();
        tasks * 1_500 + vmas * 450 + mms * 450 + rows * 700 + log + heat + 64 * 1024
    }

    /// What was said before the first event.
    pub fn info(&self) -> &Arc<SourceInfo> {
        &self.info
    }

    /// Events taken in, gaps included.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Time of the latest event, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.engine.now_ns()
    }

    /// The most interesting range of a task's holds: that of the one VMA that it holds.
    pub(super) fn single_range(holds: impl Iterator<Item = Hold>) -> Option<(u64, u64)> {
        let mut one = None;
        for hold in holds.filter(|hold| hold.vma != 0) {
            if one.is_some() {
                return None;
            }
            one = Some((hold.vm_start, hold.vm_end));
        }
        one.filter(|range| range.1 != 0)
    }
}
