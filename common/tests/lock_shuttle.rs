//! The lock under shuttle: random schedules of more tasks, VMAs and rounds than any exhaustive
//! search reaches. A failing schedule is printed and can be replayed.
#![cfg(feature = "shuttle")]

use shuttle::sync::Arc;
use shuttle::thread;
use tracer_common::lock::arena::{Arena, Size};
use tracer_common::lock::platform::Shuttle;
use tracer_common::lock::{Alteration, Family, MmId, Slot, TaskId, Word};

const SIZE: Size = Size {
    vmas: 3,
    mms: 2,
    slots: 2,
    tasks: 7,
};
const READERS: u32 = 4;
const ROUNDS: u32 = 4;

fn run(family: Family, change: Option<Alteration>) {
    let mut arena = Arena::<Shuttle>::new(family, SIZE, true);
    if let Some(change) = change {
        arena = arena.altered(change);
    }
    let mut first = arena.thread(TaskId(0));
    for mm in (0..SIZE.mms).map(MmId) {
        first.mmap_write_lock(mm);
        first.map(mm, Slot(0));
        first.mmap_write_unlock(mm);
    }
    let arena = Arc::new(arena);
    let mut threads = Vec::new();
    for id in 0..READERS {
        let arena = Arc::clone(&arena);
        threads.push(thread::spawn(move || {
            let mut task = arena.thread(TaskId(id));
            for round in 0..ROUNDS {
                let (mm, slot) = (MmId((id + round) % SIZE.mms), Slot(round / 3 % SIZE.slots));
                if let Ok(vma) = task.lock_vma_under_rcu(mm, slot) {
                    let look = || [0, 1].map(|half| arena.peek(Word::Data(vma, half)));
                    let seen = look();
                    thread::yield_now();
                    assert_eq!(seen[0], seen[1]);
                    assert_eq!(seen, look());
                    assert_eq!(arena.peek(Word::VmMm(vma)), mm.0);
                    assert_eq!(arena.peek(Word::Start(vma)), slot.0);
                    assert!(!task.vma_assert_locked(vma).fires());
                    task.vma_end_read(vma);
                }
                task.expect_nothing_held().unwrap();
            }
        }));
    }
    for id in READERS..SIZE.tasks {
        let arena = Arc::clone(&arena);
        threads.push(thread::spawn(move || {
            let mut task = arena.thread(TaskId(id));
            for round in 0..ROUNDS {
                let (mm, slot) = (MmId((id + round) % SIZE.mms), Slot(round / 2 % SIZE.slots));
                task.mmap_write_lock(mm);
                match task.find(mm, slot) {
                    Some(_) if round == 1 => assert!(task.unmap(mm, slot)),
                    Some(vma) => {
                        task.vma_start_write(mm, vma);
                        for half in [0, 1] {
                            arena.poke(Word::Data(vma, half), id * 100 + round);
                            thread::yield_now();
                        }
                    }
                    None => {
                        // The pool may be empty; the VMA may come from the other mm at this instant.
                        task.map(mm, slot);
                    }
                }
                if round % 2 == 0 {
                    task.mmap_write_downgrade(mm);
                    task.mmap_read_unlock(mm);
                } else {
                    task.mmap_write_unlock(mm);
                }
                task.expect_nothing_held().unwrap();
            }
        }));
    }
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(arena.warnings(), 0);
}

#[test]
fn families() {
    for family in Family::ALL {
        shuttle::check_random(move || run(family, None), 300);
    }
}

// The random schedules are not so tame that they would find nothing.

fn mutated(change: Alteration) {
    shuttle::check_random(move || run(Family::Refcnt7_0, Some(change)), 20_000);
}

#[test]
#[should_panic(expected = "left == right")]
fn a_writer_that_does_not_wait_is_found() {
    mutated(Alteration::WaitSkipped);
}

#[test]
#[should_panic(expected = "left == right")]
fn readers_that_ignore_the_flag_are_found() {
    mutated(Alteration::LimitIgnored);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_lost_wake_up_is_found() {
    mutated(Alteration::WakeNever);
}
