//! The lock under loom: every execution that C11 allows, within a bound on preemptions. The search of
//! `tracer model` has its own weak memory; this is a second opinion by another program.
#![cfg(feature = "loom")]

use loom::sync::Arc;
use loom::thread;
use tracer_common::lock::arena::{Arena, Size};
use tracer_common::lock::platform::Loom;
use tracer_common::lock::{Alteration, Family, MmId, Slot, TaskId, VmaId, Word};

const MM: MmId = MmId(0);
const OTHER: MmId = MmId(1);
const SLOT: Slot = Slot(0);
const VMA: VmaId = VmaId(0);

fn arena(change: Option<Alteration>) -> Arc<Arena<Loom>> {
    let mut arena = Arena::new(
        Family::Refcnt7_0,
        Size {
            vmas: 1,
            mms: 2,
            slots: 1,
            tasks: 3,
        },
        true,
    );
    if let Some(change) = change {
        arena = arena.altered(change);
    }
    let mut task = arena.thread(TaskId(0));
    task.mmap_write_lock(MM);
    assert_eq!(task.map(MM, SLOT), Some(VMA));
    task.mmap_write_unlock(MM);
    Arc::new(arena)
}

/// `None` is exhaustive.
fn explore(preemptions: Option<usize>, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 5_000;
    builder.check(body);
}

/// A reader that leaves a mark and a writer that leaves another: whoever was first, the second sees
/// all of the first one's marks and the first none of the second's.
fn one_before_the_other(change: Option<Alteration>) {
    let arena = arena(change);
    let reader = {
        let arena = Arc::clone(&arena);
        thread::spawn(move || {
            let mut task = arena.thread(TaskId(1));
            let vma = task.lock_vma_under_rcu(MM, SLOT).ok()?;
            let seen = [0, 1].map(|half| arena.peek(Word::Data(vma, half)));
            arena.poke(Word::Pte(vma), 1);
            task.vma_end_read(vma);
            Some(seen)
        })
    };
    let mut writer = arena.thread(TaskId(0));
    writer.mmap_write_lock(MM);
    writer.vma_start_write(MM, VMA);
    let pte = arena.peek(Word::Pte(VMA));
    arena.poke(Word::Data(VMA, 0), 1);
    arena.poke(Word::Data(VMA, 1), 1);
    writer.mmap_write_unlock(MM);
    if let Some(seen) = reader.join().unwrap() {
        assert!(
            (seen, pte) == ([0, 0], 1) || (seen, pte) == ([1, 1], 0),
            "{seen:?} {pte}"
        );
    }
    assert_eq!(arena.peek(Word::Refcnt(VMA)), 1);
    assert_eq!(arena.warnings(), 0);
}

/// Under a reader, a VMA is unmapped and comes back in another mm.
fn recycled(change: Option<Alteration>) {
    let arena = arena(change);
    let reader = {
        let arena = Arc::clone(&arena);
        thread::spawn(move || {
            let mut task = arena.thread(TaskId(1));
            if let Ok(vma) = task.lock_vma_under_rcu(MM, SLOT) {
                assert_eq!(arena.peek(Word::VmMm(vma)), MM.0);
                task.vma_end_read(vma);
            }
        })
    };
    let mut mover = arena.thread(TaskId(0));
    mover.mmap_write_lock(MM);
    assert!(mover.unmap(MM, SLOT));
    mover.mmap_write_unlock(MM);
    mover.mmap_write_lock(OTHER);
    assert_eq!(mover.map(OTHER, SLOT), Some(VMA));
    mover.mmap_write_unlock(OTHER);
    reader.join().unwrap();
    assert_eq!(arena.peek(Word::Refcnt(VMA)), 1);
    assert_eq!(arena.warnings(), 0);
}

/// Another writer's odd number ends the first one's lock for a reader as well as the even one does.
fn next_writer(change: Option<Alteration>) {
    let arena = arena(change);
    let reader = {
        let arena = Arc::clone(&arena);
        thread::spawn(move || {
            let mut task = arena.thread(TaskId(1));
            let vma = task.lock_vma_under_rcu(MM, SLOT).ok()?;
            let seen = arena.peek(Word::Data(vma, 0));
            arena.poke(Word::Pte(vma), 1);
            task.vma_end_read(vma);
            Some(seen)
        })
    };
    let other = {
        let arena = Arc::clone(&arena);
        thread::spawn(move || {
            let mut task = arena.thread(TaskId(2));
            task.mmap_write_lock(MM);
            task.mmap_write_unlock(MM);
        })
    };
    let mut writer = arena.thread(TaskId(0));
    writer.mmap_write_lock(MM);
    writer.vma_start_write(MM, VMA);
    let pte = arena.peek(Word::Pte(VMA));
    arena.poke(Word::Data(VMA, 0), 1);
    writer.mmap_write_unlock(MM);
    other.join().unwrap();
    if let Some(seen) = reader.join().unwrap() {
        assert_ne!(seen, pte);
    }
}

fn speculation(change: Option<Alteration>) {
    let arena = arena(change);
    let reader = {
        let arena = Arc::clone(&arena);
        thread::spawn(move || {
            let mut task = arena.thread(TaskId(1));
            let Some(seq) = task.mmap_lock_speculate_try_begin(MM) else {
                return;
            };
            let seen = [0, 1].map(|half| arena.peek(Word::Data(VMA, half)));
            if !task.mmap_lock_speculate_retry(MM, seq) {
                assert_eq!(seen[0], seen[1]);
            }
        })
    };
    let mut writer = arena.thread(TaskId(0));
    writer.mmap_write_lock(MM);
    arena.poke(Word::Data(VMA, 0), 1);
    arena.poke(Word::Data(VMA, 1), 1);
    writer.mmap_write_unlock(MM);
    reader.join().unwrap();
}

#[test]
fn readers_and_writers_are_ordered() {
    explore(Some(6), || one_before_the_other(None));
}

#[test]
fn a_recycled_vma_is_noticed() {
    explore(Some(4), || recycled(None));
}

#[test]
fn a_reader_sees_the_first_of_two_writers() {
    explore(Some(2), || next_writer(None));
}

#[test]
fn a_valid_speculation_is_consistent() {
    explore(None, || speculation(None));
}

/// loom finds every weakened ordering that the search of `tracer model` finds.
///
/// Each in a process of its own: a deadlock that loom reports takes the process with it.
#[test]
fn weakened_orderings_are_found() {
    let missed: Vec<_> = cases()
        .map(|(change, _)| change.name())
        .filter(|name| !fails_under(name))
        .collect();
    assert_eq!(missed, [""; 0]);
}

const VARIABLE: &str = "LOCK_ALTERATION";

fn fails_under(name: &str) -> bool {
    let me = std::env::current_exe().expect("the test knows its own program");
    let child = std::process::Command::new(me)
        .args(["--exact", "the_lock_as_the_environment_has_it"])
        .env(VARIABLE, name)
        .output()
        .expect("the test can run itself");
    !child.status.success()
}

/// Run by `weakened_orderings_are_found` with a variable that names an alteration. Without it this is the
/// lock as it should be, under every body that an alteration is searched with: there nothing may be found.
#[test]
fn the_lock_as_the_environment_has_it() {
    let Ok(name) = std::env::var(VARIABLE) else {
        let bodies: [Body; 4] = [one_before_the_other, next_writer, recycled, speculation];
        for body in bodies {
            explore(Some(3), move || body(None));
        }
        return;
    };
    let (change, body) = cases()
        .find(|(change, _)| change.name() == name)
        .expect("a case of that name");
    explore(Some(3), move || body(Some(change)));
}

type Body = fn(Option<Alteration>);

fn cases() -> impl Iterator<Item = (Alteration, Body)> {
    let cases: [(Alteration, Body); 13] = [
        (Alteration::SeqWithoutOrder, one_before_the_other),
        (Alteration::CountRelaxed, one_before_the_other),
        (Alteration::PutRelaxed, one_before_the_other),
        (Alteration::LateSeqRelaxed, one_before_the_other),
        (Alteration::SeqEndRelaxed, one_before_the_other),
        (Alteration::WaitRelaxed, one_before_the_other),
        (Alteration::FlagSubRelaxed, one_before_the_other),
        (Alteration::WakeUnfenced, one_before_the_other),
        (Alteration::SleepUnfenced, one_before_the_other),
        (Alteration::SeqBeginRelaxed, next_writer),
        (Alteration::AttachRelaxed, recycled),
        (Alteration::RetryUnfenced, speculation),
        (Alteration::SeqBeginUnfenced, speculation),
    ];
    cases.into_iter()
}
