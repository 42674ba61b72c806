//! One state of the model, and what must hold in it.

use std::fmt;
use std::sync::atomic::Ordering;

use tracer_common::lock::lockdep::{LockClass, Mode, Order};
use tracer_common::lock::mmap::{
    Kill, MmapGiveUp, MmapReadLock, MmapReadTrylock, MmapReadUnlock, MmapWriteLock, SpeculateRetry,
    SpeculateTryBegin,
};
use tracer_common::lock::read::{LockVmaUnderRcu, Put, StartReadLocked};
use tracer_common::lock::world::Note;
use tracer_common::lock::write::{InitVma, MarkAttached, MarkDetached, StartWrite};
use tracer_common::lock::{
    Alteration, Family, MmId, RefcntClass, Slot, Task, TaskId, VM_REFCNT_EXCLUDE_READERS_FLAG,
    VM_REFCNT_LIMIT, VmaId, Warning, Word, World,
};

use super::memory::{Choice, MMS, Memory, TASKS, VMAS, index};

/// What stays the same during a search.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The form of the lock.
    pub family: Family,
    /// A change of the lock, if one is tried.
    pub alteration: Option<Alteration>,
    /// Is what lockdep reports a violation?
    pub lockdep_reports: bool,
    /// Was the scenario made so that sequence numbers meet again after an overflow?
    pub overflow: bool,
    /// Readers of each attached VMA that are there throughout, to come near the limit.
    pub phantom_readers: u32,
}

/// Something that must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A reader is inside a VMA that a writer holds.
    ReaderInsideWriter(VmaId),
    /// Something that the lock guards was changed under a reader.
    ChangedUnderReader(VmaId),
    /// Success for a VMA that is in no tree.
    LockedDetached(VmaId),
    /// Success for another mm's VMA.
    LockedForeign(VmaId),
    /// Success for a VMA at another address.
    LockedOutOfRange(VmaId),
    /// Locked as seen by a reader, though nobody locked it, and neither overflow nor recycling explains it.
    FalselyLocked(VmaId),
    /// `vm_refcnt` has a value that is not documented.
    UndocumentedRefcnt(VmaId),
    /// `vm_refcnt` differs from the number of references there are.
    Miscounted(VmaId),
    /// A task waits and nobody is left to wake it.
    NeverWoken(TaskId),
    /// An mm was used after it was freed.
    FreedMmUsed(MmId),
    /// Under a lock, a task saw an old value of what that lock guards.
    StaleRead,
    /// Under a lock, or in a validated speculation, the two halves of one change did not match.
    TornRead,
    /// A fault relied on something that was no longer so.
    WrongAssumption(VmaId),
    /// `mm_lock_seq` is odd without a holder of the exclusive mmap_lock, or even with one.
    SeqParity(MmId),
    /// Lockdep's "I hold it" differs from the truth.
    LockdepWrong(VmaId),
    /// The lock's own code warned.
    Warned(Warning),
    /// At the end something is still held, set or registered.
    LeftBehind(&'static str),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReaderInsideWriter(v) => write!(f, "a reader is inside VMA {} while a writer is", v.0),
            Self::ChangedUnderReader(v) => write!(f, "VMA {} was changed under a reader", v.0),
            Self::LockedDetached(v) => write!(f, "VMA {} was read-locked though it is detached", v.0),
            Self::LockedForeign(v) => write!(f, "VMA {} was read-locked though it is another mm's", v.0),
            Self::LockedOutOfRange(v) => write!(f, "VMA {} was read-locked for an address outside it", v.0),
            Self::FalselyLocked(v) => write!(f, "VMA {} seemed write-locked though it is not", v.0),
            Self::UndocumentedRefcnt(v) => write!(f, "vm_refcnt of VMA {} has no documented value", v.0),
            Self::Miscounted(v) => write!(f, "vm_refcnt of VMA {} differs from its references", v.0),
            Self::NeverWoken(t) => write!(f, "task {} waits and nobody is left to wake it", t.0),
            Self::FreedMmUsed(m) => write!(f, "mm {} was used after it was freed", m.0),
            Self::StaleRead => f.write_str("a task that holds the lock read an old value"),
            Self::TornRead => f.write_str("a task read one half of a change and not the other"),
            Self::WrongAssumption(v) => write!(f, "a fault relied on an anon_vma that VMA {} has not", v.0),
            Self::SeqParity(m) => write!(f, "mm_lock_seq of mm {} contradicts its mmap_lock", m.0),
            Self::LockdepWrong(v) => write!(f, "lockdep is wrong about who holds VMA {}", v.0),
            Self::Warned(w) => write!(f, "the lock warned: {w:?}"),
            Self::LeftBehind(what) => write!(f, "left behind at the end: {what}"),
        }
    }
}

/// The operation a task is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Running {
    /// `lock_vma_under_rcu`.
    LockVma(LockVmaUnderRcu),
    /// `vma_start_read_locked`.
    StartReadLocked(StartReadLocked),
    /// `vma_end_read`.
    Put(Put),
    /// `mmap_write_lock`.
    MmapWriteLock(MmapWriteLock),
    /// `mmap_write_unlock` or `mmap_write_downgrade`.
    GiveUp(MmapGiveUp),
    /// `mmap_read_lock`.
    MmapReadLock(MmapReadLock),
    /// `mmap_read_trylock`.
    MmapReadTrylock(MmapReadTrylock),
    /// `mmap_read_unlock`.
    MmapReadUnlock(MmapReadUnlock),
    /// `vma_start_write`.
    StartWrite(StartWrite),
    /// `vma_mark_detached`.
    Detach(MarkDetached),
    /// `vma_mark_attached`.
    Attach(MarkAttached),
    /// `vma_init`.
    Init(InitVma),
    /// `mmap_lock_speculate_try_begin`.
    Begin(SpeculateTryBegin),
    /// `mmap_lock_speculate_retry`.
    Retry(SpeculateRetry),
    /// A signal.
    Kill(Kill),
    /// An instruction of the scenario's own; how many of its steps are done, and what it read.
    Own {
        /// Steps done.
        done: u8,
        /// What the first step read.
        first: u32,
    },
}

/// Why a task cannot take a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It can.
    Ready,
    /// It waits for a word to change, or to be killed.
    Blocked {
        /// The word's place.
        at: u8,
        /// The value it had.
        value: u32,
        /// Does a signal end the wait?
        killable: bool,
    },
    /// It waits for the end of all RCU read sections that were open: a bit per task.
    Grace(u8),
    /// Its program is over.
    Done,
}

/// A task, with what is known of it beyond what the lock itself keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskModel {
    /// The lock's part.
    pub task: Task,
    /// Next instruction.
    pub pc: u8,
    /// The operation in progress.
    pub running: Option<Running>,
    /// Can it go on?
    pub status: Status,
    /// The VMA it works on.
    pub vma: Option<VmaId>,
    /// The VMA it has read-locked.
    pub reading: Option<VmaId>,
    /// VMAs that it has write-locked, a bit each.
    pub writing: u8,
    /// Is it in an RCU read section?
    pub rcu: bool,
    /// Sequence number of its speculation.
    pub seq: Option<u32>,
    /// What it read under speculation.
    pub read: (u32, u32),
}

impl TaskModel {
    /// A task about to start.
    pub fn new(id: u32) -> Self {
        Self {
            task: Task::new(TaskId(id)),
            pc: 0,
            running: None,
            status: Status::Ready,
            vma: None,
            reading: None,
            writing: 0,
            rcu: false,
            seq: None,
            read: (0, 0),
        }
    }

    /// The VMA in which it is a reader: it found no writer, and has not dropped its reference.
    pub fn inside(&self) -> Option<VmaId> {
        match &self.running {
            Some(Running::Put(put)) => put.reference(),
            Some(Running::LockVma(lock)) => lock.entered(),
            _ => self.reading,
        }
    }

    /// The VMA on which it is a temporary reader.
    pub fn temporary(&self) -> Option<VmaId> {
        match &self.running {
            Some(Running::LockVma(lock)) => lock.temporary_reader(),
            _ => None,
        }
    }

    /// The VMA of which it holds a reference.
    pub fn reference(&self) -> Option<VmaId> {
        self.temporary().or(self.inside())
    }

    /// Does it hold this VMA's write lock?
    pub fn writes(&self, vma: VmaId) -> bool {
        let held = !matches!(&self.running, Some(Running::GiveUp(g)) if !g.write_locks_held());
        held && self.writing & (1 << vma.0) != 0
    }

    /// Is it write-locking, detaching or attaching this VMA right now?
    pub fn changing(&self, vma: VmaId) -> bool {
        self.vma == Some(vma)
            && matches!(
                self.running,
                Some(Running::StartWrite(_) | Running::Detach(_) | Running::Init(_) | Running::Attach(_))
            )
    }
}

/// One state of the whole.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct State<M> {
    /// Shared memory.
    pub mem: M,
    /// The tasks.
    pub tasks: [TaskModel; TASKS],
    /// How many of them there are.
    pub count: u8,
    /// VMAs that are attached, a bit each.
    pub attached: u8,
    /// VMAs in the pool, a bit each.
    pub free: u8,
    /// The order in which lockdep saw classes.
    pub class_order: Order,
}

/// One access to shared memory, for listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The word.
    pub word: Word,
    /// What was done.
    pub what: &'static str,
    /// The value before.
    pub old: u32,
    /// The value after; the same for a load.
    pub new: u32,
    /// A load that did not give the newest value.
    pub stale: bool,
}

/// What goes with one step of one task: the result wanted, and what was found.
#[derive(Default)]
pub struct Effects {
    /// Which result of a load is wanted, and how many there are.
    pub choice: Choice,
    /// Accesses made, if they are asked for.
    pub accesses: Option<Vec<Access>>,
    /// The first thing that must not be.
    pub violation: Option<Violation>,
    /// The last load was stale.
    pub stale: bool,
}

impl Effects {
    /// Notes a violation, unless one was noted before.
    pub fn violate(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }
}

/// A state as the lock's operations see it.
pub struct ModelWorld<'a, M> {
    /// The state, without the acting task's lock part, which the operation holds.
    pub state: &'a mut State<M>,
    /// The rules.
    pub rules: &'a Rules,
    /// Who acts.
    pub me: usize,
    /// What comes of it.
    pub effects: &'a mut Effects,
}

impl<M: Memory> ModelWorld<'_, M> {
    fn check_freed(&mut self, at: Word) {
        if let Word::MmSeq(mm) | Word::MmapLock(mm) | Word::Waiter(mm) | Word::MmCount(mm) | Word::Tree(mm, _) =
            at
            && self.state.mem.newest(index(Word::MmCount(mm))) == 0
        {
            self.effects.violate(Violation::FreedMmUsed(mm));
        }
    }

    fn log(&mut self, word: Word, what: &'static str, old: u32, new: u32, stale: bool) {
        if let Some(accesses) = &mut self.effects.accesses {
            accesses.push(Access {
                word,
                what,
                old,
                new,
                stale,
            });
        }
    }

    /// A load on behalf of the scenario; true if it was stale.
    pub fn load_noting(&mut self, at: Word, order: Ordering) -> (u32, bool) {
        let value = self.load(at, order);
        (value, std::mem::take(&mut self.effects.stale))
    }
}

impl<M: Memory> World for ModelWorld<'_, M> {
    #[inline]
    fn family(&self) -> Family {
        self.rules.family
    }
    #[inline]
    fn altered(&self, change: Alteration) -> bool {
        self.rules.alteration == Some(change)
    }
    fn load(&mut self, at: Word, order: Ordering) -> u32 {
        self.check_freed(at);
        let loaded = self
            .state
            .mem
            .load(self.me, index(at), order, &mut self.effects.choice);
        self.effects.stale = loaded.stale;
        self.log(at, "load", loaded.value, loaded.value, loaded.stale);
        loaded.value
    }
    fn store(&mut self, at: Word, value: u32, order: Ordering) {
        self.check_freed(at);
        let old = self.state.mem.newest(index(at));
        self.state.mem.store(self.me, index(at), value, order);
        self.log(at, "store", old, value, false);
    }
    fn compare_exchange(&mut self, at: Word, current: u32, new: u32, order: Ordering) -> Result<u32, u32> {
        self.check_freed(at);
        let mut swap = |old| (old == current).then_some(new);
        let result = self
            .state
            .mem
            .rmw(self.me, index(at), (order, Ordering::Relaxed), &mut swap);
        match result {
            Ok(old) => self.log(at, "cmpxchg", old, new, false),
            Err(old) => self.log(at, "cmpxchg fails", old, old, false),
        }
        result
    }
    fn fetch_sub(&mut self, at: Word, value: u32, order: Ordering) -> u32 {
        self.check_freed(at);
        let mut sub = |old: u32| Some(old.wrapping_sub(value));
        let old = self
            .state
            .mem
            .rmw(self.me, index(at), (order, order), &mut sub)
            .unwrap_or_else(|old| old);
        self.log(at, "sub", old, old.wrapping_sub(value), false);
        old
    }
    fn fetch_add(&mut self, at: Word, value: u32, order: Ordering) -> u32 {
        self.check_freed(at);
        let mut add = |old: u32| Some(old.wrapping_add(value));
        let old = self
            .state
            .mem
            .rmw(self.me, index(at), (order, order), &mut add)
            .unwrap_or_else(|old| old);
        self.log(at, "add", old, old.wrapping_add(value), false);
        old
    }
    fn update(
        &mut self,
        at: Word,
        order: Ordering,
        mut f: impl FnMut(u32) -> Option<u32>,
    ) -> Result<u32, u32> {
        self.check_freed(at);
        let result = self.state.mem.rmw(self.me, index(at), (order, order), &mut f);
        match result {
            Ok(old) => self.log(at, "update", old, self.state.mem.newest(index(at)), false),
            Err(old) => self.log(at, "look", old, old, false),
        }
        result
    }
    #[inline]
    fn fence(&mut self, order: Ordering) {
        self.state.mem.fence(self.me, order);
    }
    fn rcu_read_lock(&mut self, _: TaskId) {
        self.state.tasks[self.me].rcu = true;
        if self.rules.family == Family::Rwsem {
            // Pairs with the end of a grace period.
            self.state.mem.fence(self.me, Ordering::SeqCst);
        }
    }
    fn rcu_read_unlock(&mut self, _: TaskId) {
        self.state.tasks[self.me].rcu = false;
        for task in &mut self.state.tasks {
            if let Status::Grace(waits_for) = &mut task.status {
                *waits_for &= !(1 << self.me);
            }
        }
    }
    #[inline]
    fn class_order(&self) -> Order {
        self.state.class_order
    }
    fn add_class_order(&mut self, order: Order) {
        self.state.class_order.0 |= order.0;
    }
    fn note(&mut self, _: &Task, note: Note) {
        match note {
            Note::SeemsWriteLocked(mm, vma) => {
                if let Err(violation) = self.state.check_refused(self.rules, vma, mm) {
                    self.effects.violate(violation);
                }
            }
            // 6.12 finds out only after it locked whether the VMA is detached.
            Note::ReadAcquired(mm, vma, _) if self.rules.family != Family::Rwsem => {
                if !self.state.is_attached(vma) {
                    self.effects.violate(Violation::LockedDetached(vma));
                } else if self.state.newest(Word::VmMm(vma)) != mm.0 {
                    self.effects.violate(Violation::LockedForeign(vma));
                }
            }
            _ => {}
        }
    }
    fn warn(&mut self, _: TaskId, warning: Warning) {
        if self.rules.lockdep_reports || !matches!(warning, Warning::Lockdep(_)) {
            self.effects.violate(Violation::Warned(warning));
        }
    }
}

impl<M: Memory> State<M> {
    /// The tasks there are.
    pub fn tasks(&self) -> &[TaskModel] {
        &self.tasks[..usize::from(self.count)]
    }

    /// The newest value of a word.
    pub fn newest(&self, at: Word) -> u32 {
        self.mem.newest(index(at))
    }

    /// Can this task take a step?
    pub fn enabled(&self, who: usize) -> bool {
        let task = &self.tasks[who];
        match task.status {
            Status::Ready => true,
            Status::Done => false,
            Status::Grace(waits_for) => waits_for == 0,
            Status::Blocked { at, value, killable } => {
                self.mem.newest(usize::from(at)) != value
                    || killable && self.newest(Word::Killed(task.task.id)) != 0
            }
        }
    }

    /// Is the VMA attached, as its users know it?
    pub fn is_attached(&self, vma: VmaId) -> bool {
        self.attached & (1 << vma.0) != 0
    }

    /// The part of `vm_refcnt` that no task of the scenario accounts for.
    fn standing_references(&self, rules: &Rules, vma: VmaId) -> u32 {
        if self.is_attached(vma) {
            1 + rules.phantom_readers
        } else {
            0
        }
    }

    /// What must hold in every state.
    pub fn check(&self, rules: &Rules) -> Result<(), Violation> {
        for v in 0..VMAS as u32 {
            self.check_vma(rules, VmaId(v))?;
        }
        for m in 0..MMS as u32 {
            self.check_mm(MmId(m))?;
        }
        Ok(())
    }

    fn check_vma(&self, rules: &Rules, vma: VmaId) -> Result<(), Violation> {
        let mut references = self.standing_references(rules, vma);
        let (mut inside, mut writer) = (None, None);
        for (n, task) in self.tasks().iter().enumerate() {
            let reference = task.reference() == Some(vma);
            references += u32::from(reference);
            if task.inside() == Some(vma) {
                inside = Some(n);
            }
            if task.writes(vma) {
                writer = Some(n);
            }
            let told = match &task.running {
                Some(Running::Put(put)) => put.lockdep_released(),
                Some(Running::LockVma(lock)) => lock.putting().is_some_and(Put::lockdep_released),
                _ => false,
            };
            if task.task.held.holds(LockClass::VmLock, vma.0, Some(Mode::Shared)) != (reference && !told) {
                return Err(Violation::LockdepWrong(vma));
            }
        }
        if inside.is_some() && writer.is_some() && inside != writer {
            return Err(Violation::ReaderInsideWriter(vma));
        }
        if rules.family == Family::Rwsem {
            return Ok(());
        }
        let refcnt = self.newest(Word::Refcnt(vma));
        // More references than the limit would look like the flag.
        if RefcntClass::of(refcnt) == RefcntClass::Undocumented || references > VM_REFCNT_LIMIT {
            return Err(Violation::UndocumentedRefcnt(vma));
        }
        if refcnt != references && refcnt != VM_REFCNT_EXCLUDE_READERS_FLAG + references {
            return Err(Violation::Miscounted(vma));
        }
        Ok(())
    }

    fn check_mm(&self, mm: MmId) -> Result<(), Violation> {
        let odd = self.newest(Word::MmSeq(mm)) & 1 == 1;
        let holder = self.tasks().iter().find(|t| {
            t.task
                .held
                .holds(LockClass::MmapLock, mm.0, Some(Mode::Exclusive))
                && !matches!(t.running, Some(Running::MmapWriteLock(_) | Running::GiveUp(_)))
        });
        let between = self.tasks().iter().any(|t| {
            matches!(t.running, Some(Running::MmapWriteLock(_) | Running::GiveUp(_)))
                && t.task.held.holds(LockClass::MmapLock, mm.0, None)
        });
        if !between && odd != holder.is_some() {
            return Err(Violation::SeqParity(mm));
        }
        Ok(())
    }

    /// What must hold once all tasks are done, or none can go on.
    pub fn check_end(&self, rules: &Rules) -> Result<(), Violation> {
        if let Some(waiting) = self.tasks().iter().find(|t| t.status != Status::Done) {
            return Err(Violation::NeverWoken(waiting.task.id));
        }
        for v in (0..VMAS as u32).map(VmaId) {
            let references = self.standing_references(rules, v);
            if rules.family != Family::Rwsem && self.newest(Word::Refcnt(v)) != references {
                return Err(Violation::LeftBehind("a changed vm_refcnt"));
            }
            if self.newest(Word::Rwsem(v)) != 0 {
                return Err(Violation::LeftBehind("a held vm_lock"));
            }
        }
        for m in (0..MMS as u32).map(MmId) {
            if self.newest(Word::MmapLock(m)) != 0 {
                return Err(Violation::LeftBehind("a held mmap_lock"));
            }
            if self.newest(Word::Waiter(m)) != 0 {
                return Err(Violation::LeftBehind("a task in vma_writer_wait"));
            }
        }
        if self.tasks().iter().any(|t| t.task.held.iter().next().is_some()) {
            return Err(Violation::LeftBehind("a lock that lockdep thinks held"));
        }
        Ok(())
    }

    /// Success of a look-up: is it the right VMA, and attached?
    pub fn check_locked(&self, vma: VmaId, mm: MmId, slot: Slot) -> Result<(), Violation> {
        if !self.is_attached(vma) {
            return Err(Violation::LockedDetached(vma));
        }
        if self.newest(Word::VmMm(vma)) != mm.0 {
            return Err(Violation::LockedForeign(vma));
        }
        if self.newest(Word::Start(vma)) != slot.0 {
            return Err(Violation::LockedOutOfRange(vma));
        }
        Ok(())
    }

    /// A reader believes that this VMA is write-locked: is it, or is there an excuse?
    fn check_refused(&self, rules: &Rules, vma: VmaId, mm: MmId) -> Result<(), Violation> {
        // A stale look may be a moment late; that is the race the source admits.
        if M::WEAK || rules.overflow {
            return Ok(());
        }
        let locked = self.tasks().iter().any(|t| t.writes(vma) || t.changing(vma));
        let recycled = !self.is_attached(vma) || self.newest(Word::VmMm(vma)) != mm.0;
        if locked || recycled {
            Ok(())
        } else {
            Err(Violation::FalselyLocked(vma))
        }
    }
}
