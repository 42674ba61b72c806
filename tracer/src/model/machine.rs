//! Takes one step of one task: from a state to the next.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use tracer_common::lock::lockdep::{LockClass, Mode};
use tracer_common::lock::mmap::{
    GiveUp, Kill, MmapGiveUp, MmapReadLock, MmapReadTrylock, MmapReadUnlock, MmapWriteLock, SpeculateRetry,
    SpeculateTryBegin,
};
use tracer_common::lock::read::{LockVmaUnderRcu, Put, StartReadLocked};
use tracer_common::lock::write::{InitVma, MarkAttached, MarkDetached, StartWrite, WriteOutcome};
use tracer_common::lock::{Cx, Family, Flow, MmId, Op, Slot, VmaId, Word, World};

use super::memory::{Memory, index};
use super::script::{Instr, Role};
use super::state::{Effects, ModelWorld, Rules, Running, State, Status, TaskModel, Violation};

/// Takes the next step of task `who`, which must be able to take one, and checks what must hold.
pub fn step<M: Memory>(
    state: &mut State<M>,
    rules: &Rules,
    roles: &[Role],
    who: usize,
    effects: &mut Effects,
) {
    let instr = roles[who].program[usize::from(state.tasks[who].pc)];
    let mut running = state.tasks[who]
        .running
        .unwrap_or_else(|| start(&state.tasks[who], instr));
    state.tasks[who].status = Status::Ready;
    let vma_before = state.tasks[who].vma;

    let flow = advance(state, rules, who, instr, &mut running, effects);
    // The very first step of detaching drops the reference that stands for being attached.
    if let (Running::Detach(_), Some(vma)) = (&running, vma_before) {
        state.attached &= !(1 << vma.0);
    }
    match flow {
        Flow::Again => state.tasks[who].running = Some(running),
        Flow::Blocked { at, value, killable } => {
            let at = index(at) as u8;
            state.tasks[who].status = Status::Blocked { at, value, killable };
            state.tasks[who].running = Some(running);
        }
        Flow::Done(()) => {
            state.tasks[who].running = None;
            state.tasks[who].pc += 1;
            settle(state, roles, who);
        }
    }
    if let Err(violation) = state.check(rules) {
        effects.violate(violation);
    }
}

/// Passes over instructions that take no step, to the next one that does.
pub fn settle<M: Memory>(state: &mut State<M>, roles: &[Role], who: usize) {
    let program = &roles[who].program;
    let task = &mut state.tasks[who];
    if matches!(task.status, Status::Grace(_)) {
        return;
    }
    while let Some(&instr) = program.get(usize::from(task.pc)) {
        match instr {
            Instr::SkipIfLocked(by) => task.pc += 1 + if task.reading.is_some() { by } else { 0 },
            _ if applies(task, instr) => return,
            _ => task.pc += 1,
        }
    }
    *task = TaskModel {
        status: Status::Done,
        vma: None,
        read: (0, 0),
        ..*task
    };
    state.mem.retire(who);
}

/// Has the task what the instruction needs?
fn applies(task: &TaskModel, instr: Instr) -> bool {
    let mmap = |mm: MmId, mode| task.task.held.holds(LockClass::MmapLock, mm.0, mode);
    match instr {
        Instr::StartReadLocked(mm) => task.vma.is_some() && task.reading.is_none() && mmap(mm, None),
        Instr::ReadData | Instr::CheckAnon | Instr::UseAnon | Instr::TouchPte | Instr::EndRead => {
            task.reading.is_some()
        }
        Instr::MmapWriteUnlock(mm) | Instr::MmapDowngrade(mm) => mmap(mm, Some(Mode::Exclusive)),
        Instr::MmapReadUnlock(mm) => mmap(mm, Some(Mode::Shared)),
        Instr::Find(mm, _) => mmap(mm, None),
        Instr::Alloc(mm, _) => mmap(mm, Some(Mode::Exclusive)),
        Instr::StartWrite(mm, _) | Instr::Detach(mm) | Instr::Unlink(mm, _) | Instr::Attach(mm, _) => {
            task.vma.is_some() && mmap(mm, Some(Mode::Exclusive))
        }
        Instr::WriteData(_) | Instr::WriteAnon(_) | Instr::ReadPte | Instr::Free => task.vma.is_some(),
        Instr::SpeculateRead(_) | Instr::SpeculateEnd(_) => task.seq.is_some(),
        Instr::LockVma(..)
        | Instr::SkipIfLocked(_)
        | Instr::PeekAnon(..)
        | Instr::MmapWriteLock(..)
        | Instr::MmapReadLock(_)
        | Instr::MmapReadTrylock(_)
        | Instr::MmDrop(_)
        | Instr::SpeculateBegin(_)
        | Instr::Kill(_) => true,
    }
}

fn start(task: &TaskModel, instr: Instr) -> Running {
    // Only called for instructions that apply, so the VMA is there where one is needed.
    let vma = task.vma.unwrap_or(VmaId(0));
    match instr {
        Instr::LockVma(mm, slot) => Running::LockVma(LockVmaUnderRcu::new(mm, slot)),
        Instr::StartReadLocked(mm) => Running::StartReadLocked(StartReadLocked::new(mm, vma)),
        Instr::EndRead => Running::Put(Put::new(task.reading.unwrap_or(vma))),
        Instr::MmapWriteLock(mm, killable) => Running::MmapWriteLock(MmapWriteLock::new(mm, killable)),
        Instr::MmapWriteUnlock(mm) => Running::GiveUp(MmapGiveUp::new(mm, GiveUp::Unlock)),
        Instr::MmapDowngrade(mm) => Running::GiveUp(MmapGiveUp::new(mm, GiveUp::Downgrade)),
        Instr::MmapReadLock(mm) => Running::MmapReadLock(MmapReadLock::new(mm)),
        Instr::MmapReadTrylock(mm) => Running::MmapReadTrylock(MmapReadTrylock { mm }),
        Instr::MmapReadUnlock(mm) => Running::MmapReadUnlock(MmapReadUnlock { mm }),
        Instr::StartWrite(mm, killable) => Running::StartWrite(StartWrite::new(mm, vma, killable)),
        Instr::Detach(mm) => Running::Detach(MarkDetached::new(mm, vma)),
        Instr::Attach(..) => Running::Attach(MarkAttached { vma }),
        Instr::SpeculateBegin(mm) => Running::Begin(SpeculateTryBegin { mm }),
        Instr::SpeculateEnd(mm) => Running::Retry(SpeculateRetry {
            mm,
            seq: task.seq.unwrap_or(0),
        }),
        Instr::Kill(task) => Running::Kill(Kill::new(task)),
        _ => Running::Own { done: 0, first: 0 },
    }
}

/// One step of the operation, and what follows from its end.
fn advance<M: Memory>(
    state: &mut State<M>,
    rules: &Rules,
    who: usize,
    instr: Instr,
    running: &mut Running,
    effects: &mut Effects,
) -> Flow<()> {
    // The operation works on the task while the world holds the state: take it out, put it back.
    let mut task = state.tasks[who].task;
    macro_rules! run {
        ($op:expr) => {{
            let mut world = ModelWorld {
                state: &mut *state,
                rules,
                me: who,
                effects: &mut *effects,
            };
            let flow = $op.step(&mut Cx {
                world: &mut world,
                task: &mut task,
            });
            state.tasks[who].task = task;
            flow
        }};
    }
    macro_rules! finish {
        ($op:expr, |$me:ident, $output:pat_param| $then:block) => {
            match run!($op) {
                Flow::Done($output) => {
                    let $me = &mut state.tasks[who];
                    $then
                    Flow::Done(())
                }
                Flow::Again => Flow::Again,
                Flow::Blocked { at, value, killable } => Flow::Blocked { at, value, killable },
            }
        };
    }
    match running {
        Running::LockVma(op) => match run!(op) {
            Flow::Done(Ok(vma)) => {
                state.tasks[who].vma = Some(vma);
                state.tasks[who].reading = Some(vma);
                if let Instr::LockVma(mm, slot) = instr
                    && let Err(violation) = state.check_locked(vma, mm, slot)
                {
                    effects.violate(violation);
                }
                Flow::Done(())
            }
            Flow::Done(Err(_)) => {
                state.tasks[who].vma = None;
                Flow::Done(())
            }
            Flow::Again => Flow::Again,
            Flow::Blocked { at, value, killable } => Flow::Blocked { at, value, killable },
        },
        Running::StartReadLocked(op) => finish!(op, |me, locked| {
            me.reading = me.vma.filter(|_| locked);
        }),
        Running::Put(op) => finish!(op, |me, ()| {
            me.reading = None;
            me.vma = None;
        }),
        Running::MmapWriteLock(op) => finish!(op, |_me, _| {}),
        Running::GiveUp(op) => finish!(op, |me, ()| {
            me.writing = 0;
            me.vma = me.vma.filter(|_| matches!(instr, Instr::MmapDowngrade(_)));
        }),
        Running::MmapReadLock(op) => finish!(op, |_me, ()| {}),
        Running::MmapReadTrylock(op) => finish!(op, |_me, _| {}),
        Running::MmapReadUnlock(op) => finish!(op, |_me, ()| {}),
        Running::StartWrite(op) => finish!(op, |me, outcome| {
            match (outcome, me.vma) {
                (WriteOutcome::Interrupted, _) | (_, None) => me.vma = None,
                (_, Some(vma)) => me.writing |= 1 << vma.0,
            }
        }),
        Running::Detach(op) => finish!(op, |_me, ()| {}),
        Running::Attach(op) => {
            let vma = op.vma;
            let _: Flow<()> = run!(op);
            state.attached |= 1 << vma.0;
            // Publishing it in the tree is a step of its own.
            *running = Running::Own { done: 1, first: 0 };
            Flow::Again
        }
        Running::Init(op) => finish!(op, |_me, ()| {}),
        Running::Begin(op) => finish!(op, |me, seq| {
            me.seq = seq;
        }),
        Running::Retry(op) => match run!(op) {
            Flow::Done(retry) => {
                let me = &mut state.tasks[who];
                if !retry && me.read.0 != me.read.1 {
                    effects.violate(Violation::TornRead);
                }
                me.seq = None;
                me.read = (0, 0);
                Flow::Done(())
            }
            Flow::Again | Flow::Blocked { .. } => Flow::Again,
        },
        Running::Kill(op) => finish!(op, |_me, ()| {}),
        Running::Own { done, first } => {
            let mut own = Own {
                state,
                rules,
                who,
                effects,
                done,
                first,
            };
            match own.step(instr) {
                Some(Running::Own { .. }) => Flow::Again,
                Some(other) => {
                    *running = other;
                    Flow::Again
                }
                None => Flow::Done(()),
            }
        }
    }
}

/// An instruction of the scenario's own in progress.
struct Own<'a, M> {
    state: &'a mut State<M>,
    rules: &'a Rules,
    who: usize,
    effects: &'a mut Effects,
    done: &'a mut u8,
    first: &'a mut u32,
}

const GO_ON: Option<Running> = Some(Running::Own { done: 0, first: 0 });

impl<M: Memory> Own<'_, M> {
    fn world(&mut self) -> ModelWorld<'_, M> {
        ModelWorld {
            state: self.state,
            rules: self.rules,
            me: self.who,
            effects: self.effects,
        }
    }

    fn me(&mut self) -> &mut TaskModel {
        &mut self.state.tasks[self.who]
    }

    fn vma(&mut self) -> VmaId {
        let me = self.me();
        me.reading.or(me.vma).unwrap_or(VmaId(0))
    }

    /// Reads what the lock guards, with the lock held: must give the newest value.
    fn guarded(&mut self, at: Word) -> u32 {
        let (value, stale) = self.world().load_noting(at, Relaxed);
        if stale {
            self.effects.violate(Violation::StaleRead);
        }
        value
    }

    /// Changes what the lock guards: no other task may be reading.
    fn change(&mut self, at: Word, value: u32) {
        let vma = self.vma();
        let others = |(n, t): (usize, &TaskModel)| n != self.who && t.inside() == Some(vma);
        if self.state.tasks().iter().enumerate().any(others) {
            self.effects.violate(Violation::ChangedUnderReader(vma));
        }
        self.world().store(at, value, Relaxed);
    }

    /// One step; `None` when the instruction is over.
    fn step(&mut self, instr: Instr) -> Option<Running> {
        *self.done += 1;
        let done = *self.done;
        let vma = self.vma();
        match instr {
            Instr::ReadData => {
                let value = self.guarded(Word::Data(vma, done - 1));
                if done == 1 {
                    *self.first = value;
                    return GO_ON;
                }
                if value != *self.first {
                    self.effects.violate(Violation::TornRead);
                }
            }
            Instr::UseAnon => {
                let anon_vma = self.guarded(Word::Data(vma, 1));
                if anon_vma == 0 {
                    self.effects.violate(Violation::WrongAssumption(vma));
                }
            }
            Instr::CheckAnon => {
                let anon_vma = self.guarded(Word::Data(vma, 1));
                if anon_vma == 0 {
                    self.me().pc += 1;
                }
            }
            Instr::PeekAnon(mm, slot) => {
                if done == 1 {
                    *self.first = self.world().load(Word::Tree(mm, slot), Acquire);
                    return GO_ON;
                }
                let found = (*self.first).checked_sub(1).map(VmaId);
                let suits = match found {
                    Some(vma) => self.world().load(Word::Data(vma, 1), Relaxed) != 0,
                    None => false,
                };
                // Unsuitable: the fault takes the slow path, which is not the subject.
                if !suits {
                    self.me().pc += 1;
                }
            }
            Instr::TouchPte => self.world().store(Word::Pte(vma), 1, Relaxed),
            Instr::ReadPte => {
                self.guarded(Word::Pte(vma));
            }
            Instr::Find(mm, slot) => {
                let found = self.world().load(Word::Tree(mm, slot), Acquire);
                self.me().vma = found.checked_sub(1).map(VmaId);
            }
            Instr::WriteData(value) => {
                self.change(Word::Data(vma, done - 1), value);
                return GO_ON.filter(|_| done == 1);
            }
            Instr::WriteAnon(value) => self.change(Word::Data(vma, 1), value),
            Instr::Unlink(mm, slot) => self.world().store(Word::Tree(mm, slot), 0, Release),
            Instr::Free => return self.free(vma),
            Instr::Alloc(mm, slot) => return self.alloc(mm, slot),
            Instr::Attach(mm, slot) => self.world().store(Word::Tree(mm, slot), vma.0 + 1, Release),
            Instr::MmDrop(mm) => {
                self.world().fetch_sub(Word::MmCount(mm), 1, AcqRel);
            }
            Instr::SpeculateRead(vma) => {
                let value = self.world().load(Word::Data(vma, done - 1), Relaxed);
                if done == 1 {
                    self.me().read.0 = value;
                    return GO_ON;
                }
                self.me().read.1 = value;
            }
            // All others are operations of the lock.
            _ => {}
        }
        None
    }

    fn free(&mut self, vma: VmaId) -> Option<Running> {
        let readers = self.state.tasks().iter().enumerate().filter(|(_, t)| t.rcu);
        let waits_for = readers.fold(0, |bits, (n, _)| bits | 1 << n);
        if self.rules.family == Family::Rwsem {
            // A grace period orders: who enters a read section after it sees what went before it.
            self.state.mem.fence(self.who, SeqCst);
        }
        // Only 6.12 frees through RCU; later a VMA of the pool may come back at once.
        if self.rules.family == Family::Rwsem && *self.done == 1 && waits_for != 0 {
            self.me().status = Status::Grace(waits_for);
            return GO_ON;
        }
        self.state.free |= 1 << vma.0;
        self.me().writing &= !(1 << vma.0);
        self.me().vma = None;
        None
    }

    fn alloc(&mut self, mm: MmId, slot: Slot) -> Option<Running> {
        let vma = match self.state.free.trailing_zeros() {
            8.. => {
                self.me().vma = None;
                return None;
            }
            lowest => VmaId(lowest),
        };
        self.state.free &= !(1 << vma.0);
        self.me().vma = Some(vma);
        Some(Running::Init(InitVma::new(mm, vma, slot)))
    }
}
