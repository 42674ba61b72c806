//! A schedule as a listing: a column per task, `vm_refcnt` after every step, every variant's verdict.

use serde_json::{Value, json};
use tracer_common::lock::lockdep::{LockClass, Mode};
use tracer_common::lock::refcnt::VM_LOCK_SEQ_NEVER;
use tracer_common::lock::world::task_state;
use tracer_common::lock::{
    HeldAnswer, LockState, Lockdep, MmId, VM_REFCNT_EXCLUDE_READERS_FLAG, Variant, VmaId, Word, rwsem,
};

use super::machine::{settle, step};
use super::memory::{Interleaved, Memory, Views};
use super::scenario::Scenario;
use super::script::Instr;
use super::search::Move;
use super::state::{Access, Effects, Running, State, TaskModel};

/// One step of a listing.
#[derive(Clone, Debug)]
pub struct Line {
    /// Which task took it.
    pub who: usize,
    /// What it did to memory.
    pub action: String,
    /// Where in the lock's code.
    pub place: String,
    /// The VMA that the rest of the line is about.
    pub vma: VmaId,
    /// `vm_refcnt` after the step.
    pub refcnt: u32,
    /// What assertions would see in this task after the step.
    pub state: LockState,
}

/// Plays a schedule back, step by step.
pub fn replay(scenario: &Scenario, moves: &[Move]) -> Vec<Line> {
    if scenario.weak {
        replay_in::<Views>(scenario, moves)
    } else {
        replay_in::<Interleaved>(scenario, moves)
    }
}

fn replay_in<M: Memory>(scenario: &Scenario, moves: &[Move]) -> Vec<Line> {
    let mut state = scenario.initial::<M>();
    for who in 0..scenario.roles.len() {
        settle(&mut state, &scenario.roles, who);
    }
    let mut lines = Vec::new();
    for &Move { who, pick } in moves {
        let before = state.tasks[who];
        let instr = scenario.roles[who].program[usize::from(before.pc)];
        let mut effects = Effects {
            accesses: Some(Vec::new()),
            ..Effects::default()
        };
        effects.choice.pick = pick;
        step(&mut state, &scenario.rules, &scenario.roles, who, &mut effects);
        let accesses = effects.accesses.unwrap_or_default();
        let touched = accesses.iter().find_map(|a| vma_of(a.word));
        let vma = touched.or(before.reference()).or(before.vma).unwrap_or(VmaId(0));
        let action = accesses.iter().map(describe).collect::<Vec<_>>().join("; ");
        lines.push(Line {
            who,
            action: if action.is_empty() { "waits".into() } else { action },
            place: place(&before, instr),
            vma,
            refcnt: state.newest(Word::Refcnt(vma)),
            state: lock_state(&state, who, vma),
        });
    }
    lines
}

/// What assertions called by this task about this VMA would see.
pub fn lock_state<M: Memory>(state: &State<M>, who: usize, vma: VmaId) -> LockState {
    let mm = MmId(state.newest(Word::VmMm(vma)));
    let mmap_lock = state.newest(Word::MmapLock(mm));
    let held = &state.tasks[who].task.held;
    let answer = |class, instance, mode| HeldAnswer::from_held(held.holds(class, instance, mode));
    // Lockdep hears of the mmap_lock when it is asked for; a task that still waits calls nothing.
    LockState {
        refcnt: state.newest(Word::Refcnt(vma)),
        vm_lock_seq: state.newest(Word::LockSeq(vma)),
        mm_lock_seq: state.newest(Word::MmSeq(mm)),
        held: answer(LockClass::VmLock, vma.0, None),
        mmap_write_held_by_me: answer(LockClass::MmapLock, mm.0, Some(Mode::Exclusive)),
        mmap_held_by_me: answer(LockClass::MmapLock, mm.0, None),
        mmap_write_locked_by_anyone: rwsem::is_write_locked(mmap_lock),
        mmap_locked_by_anyone: rwsem::is_locked(mmap_lock),
    }
}

fn vma_of(word: Word) -> Option<VmaId> {
    match word {
        Word::Refcnt(v)
        | Word::LockSeq(v)
        | Word::VmMm(v)
        | Word::Start(v)
        | Word::Data(v, _)
        | Word::Pte(v)
        | Word::Rwsem(v)
        | Word::Detached(v) => Some(v),
        _ => None,
    }
}

/// A value of `vm_refcnt`, with `F` for the flag.
pub fn refcnt(value: u32) -> String {
    const F: u32 = VM_REFCNT_EXCLUDE_READERS_FLAG;
    match value {
        F => "F".into(),
        _ if value > F => format!("F+{}", value - F),
        _ if value > F - 8 => format!("F-{}", F - value),
        _ => value.to_string(),
    }
}

fn value(word: Word, value: u32) -> String {
    match word {
        Word::Refcnt(_) => refcnt(value),
        Word::LockSeq(_) if value == VM_LOCK_SEQ_NEVER => "never".into(),
        Word::MmapLock(_) | Word::Rwsem(_) => match rwsem::parts(value) {
            (true, 0, _) => "writer".into(),
            (true, waiting, _) => format!("writer+{waiting} waiting"),
            (false, 0, 0) => "free".into(),
            (false, 0, readers) => format!("{readers} readers"),
            (false, waiting, readers) => format!("{readers} readers+{waiting} waiting"),
        },
        Word::TaskState(_) => match value {
            task_state::RUNNING => "runs".into(),
            task_state::UNINTERRUPTIBLE => "sleeps".into(),
            _ => "sleeps killable".into(),
        },
        Word::Waiter(_) if value == 0 => "nobody".into(),
        Word::Waiter(_) => format!("task {}", value - 1),
        Word::Tree(..) if value == 0 => "none".into(),
        Word::Tree(..) => format!("VMA {}", value - 1),
        Word::VmMm(_) => format!("mm {value}"),
        _ => value.to_string(),
    }
}

fn name(word: Word) -> String {
    let numbered = |what: &str, n: u32| {
        if n == 0 {
            what.to_owned()
        } else {
            format!("{what}[{n}]")
        }
    };
    match word {
        Word::Refcnt(v) => numbered("vm_refcnt", v.0),
        Word::LockSeq(v) => numbered("vm_lock_seq", v.0),
        Word::VmMm(v) => numbered("vm_mm", v.0),
        Word::Start(v) => numbered("vm_start", v.0),
        Word::Data(v, n) => numbered(if n == 0 { "data" } else { "data'" }, v.0),
        Word::Pte(v) => numbered("pte", v.0),
        Word::Rwsem(v) => numbered("vm_lock", v.0),
        Word::Detached(v) => numbered("detached", v.0),
        Word::MmSeq(m) => numbered("mm_lock_seq", m.0),
        Word::MmapLock(m) => numbered("mmap_lock", m.0),
        Word::Waiter(m) => numbered("vma_writer_wait", m.0),
        Word::MmCount(m) => numbered("mm_count", m.0),
        Word::Tree(m, _) => numbered("tree", m.0),
        Word::TaskState(t) => format!("state of task {}", t.0),
        Word::Killed(t) => format!("signal of task {}", t.0),
    }
}

fn describe(access: &Access) -> String {
    let (word, old, new) = (
        name(access.word),
        value(access.word, access.old),
        value(access.word, access.new),
    );
    match access.what {
        "load" | "look" if access.stale => format!("{word} = {old} (stale)"),
        "load" | "look" => format!("{word} = {old}"),
        "cmpxchg fails" => format!("cmpxchg {word} fails: {old}"),
        what => format!("{what} {word}: {old} -> {new}"),
    }
}

fn place(task: &TaskModel, instr: Instr) -> String {
    let named = match &task.running {
        Some(Running::LockVma(op)) => Some(op.place()),
        Some(Running::Put(op)) => Some(op.place()),
        Some(Running::MmapWriteLock(op)) => Some(op.place()),
        Some(Running::GiveUp(op)) => Some(op.place()),
        Some(Running::StartWrite(op)) => Some(op.place()),
        Some(Running::Detach(op)) => Some(op.place()),
        _ => None,
    };
    let first = match instr {
        Instr::LockVma(..) => "lock_vma_under_rcu: walk the tree",
        Instr::StartReadLocked(_) => "vma_start_read_locked",
        Instr::ReadData => "uses the VMA",
        Instr::UseAnon => "uses anon_vma",
        Instr::CheckAnon => "looks at anon_vma",
        Instr::PeekAnon(..) => "looks at anon_vma, unlocked",
        Instr::TouchPte => "writes a page table entry",
        Instr::EndRead => "vma_refcount_put: copy vm_mm",
        Instr::MmapWriteLock(..) => "mmap_write_lock: down_write",
        Instr::MmapWriteUnlock(_) | Instr::MmapDowngrade(_) => "vma_end_write_all: mm_lock_seq turns even",
        Instr::MmapReadLock(_) => "mmap_read_lock",
        Instr::MmapReadTrylock(_) => "mmap_read_trylock",
        Instr::MmapReadUnlock(_) => "mmap_read_unlock",
        Instr::Find(..) => "finds the VMA",
        Instr::StartWrite(..) => "vma_start_write: write-locked already?",
        Instr::WriteData(_) | Instr::WriteAnon(_) => "changes the VMA",
        Instr::ReadPte => "reads the page table entry",
        Instr::Detach(_) => "vma_mark_detached: drop the attachment",
        Instr::Unlink(..) => "takes the VMA out of the tree",
        Instr::Free => "vm_area_free",
        Instr::Alloc(..) => "vm_area_alloc",
        Instr::Attach(..) => "vma_mark_attached",
        Instr::MmDrop(_) => "mmdrop",
        Instr::SpeculateBegin(_) => "mmap_lock_speculate_try_begin",
        Instr::SpeculateRead(_) => "reads, unlocked",
        Instr::SpeculateEnd(_) => "mmap_lock_speculate_retry",
        Instr::Kill(_) => "sends a fatal signal",
        Instr::SkipIfLocked(_) => "",
    };
    named.unwrap_or(first).to_owned()
}

/// One letter per variant: `.` silent, `F` fires; with lockdep, then without.
pub fn verdicts(state: &LockState) -> String {
    let letters = |lockdep| {
        Variant::ALL.map(|v| {
            if v.vma_assert_locked(lockdep, state).fires() {
                'F'
            } else {
                '.'
            }
        })
    };
    let text = |letters: [char; 4]| letters.iter().collect::<String>();
    format!("{} {}", text(letters(Lockdep::On)), text(letters(Lockdep::Off)))
}

/// The listing as text. Only tasks that act have a column.
pub fn text(scenario: &Scenario, lines: &[Line]) -> String {
    let mut acting: Vec<usize> = lines.iter().map(|l| l.who).collect();
    acting.sort_unstable();
    acting.dedup();
    let width = |who: &usize| {
        let widest = lines
            .iter()
            .filter(|l| l.who == *who)
            .map(|l| l.action.chars().count())
            .max();
        widest.unwrap_or(0).max(scenario.roles[*who].name.len())
    };
    let widths: Vec<usize> = acting.iter().map(width).collect();
    let mut out = String::from("  #  ");
    for (who, width) in acting.iter().zip(&widths) {
        out += &format!("{:width$}  ", scenario.roles[*who].name);
    }
    out += "vm_refcnt  bvlm bvlm  step of\n";
    for (n, line) in lines.iter().enumerate() {
        out += &format!("{:3}  ", n + 1);
        for (who, width) in acting.iter().zip(&widths) {
            let action = if *who == line.who {
                line.action.as_str()
            } else {
                ""
            };
            out += &format!("{action:width$}  ");
        }
        let counted = if line.vma.0 == 0 {
            refcnt(line.refcnt)
        } else {
            format!("[{}] {}", line.vma.0, refcnt(line.refcnt))
        };
        out += &format!("{counted:9}  {}  {}\n", verdicts(&line.state), line.place);
    }
    out
}

/// What the columns of verdicts mean.
pub const LEGEND: &str = "\
bvlm: vma_assert_locked, called by the acting task after the step, as baseline, v2, lockdep-first, merged;
first with lockdep, then without. '.' is silent, 'F' fires. F in vm_refcnt is VM_REFCNT_EXCLUDE_READERS_FLAG.";

/// The listing as data.
pub fn json(scenario: &Scenario, lines: &[Line]) -> Value {
    let verdict = |line: &Line, lockdep| {
        let of = |v: Variant| {
            (
                v.name().to_owned(),
                json!(v.vma_assert_locked(lockdep, &line.state).to_string()),
            )
        };
        Value::Object(Variant::ALL.map(of).into_iter().collect())
    };
    let lines = lines.iter().map(|line| {
        json!({
            "task": scenario.roles[line.who].name,
            "action": line.action,
            "place": line.place,
            "vma": line.vma.0,
            "vm_refcnt": line.refcnt,
            "verdicts": {
                "lockdep": verdict(line, Lockdep::On),
                "no_lockdep": verdict(line, Lockdep::Off),
            },
        })
    });
    Value::Array(lines.collect())
}
