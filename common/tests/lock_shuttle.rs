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
    let arena = Arc::new(arena);
    let mut threads = Vec::new();
    for id in 0..READERS {
        let arena = Arc::clone(&arena);
        threads.push(thread::spawn(move || {
            let mut task = arena.thread(TaskId(id));
            for round in 0..ROUNDS {
                let (mm, slot) = (MmId((id + round) % SIZE.mms), Slot(round % SIZE.slots));
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
                    Some(_) if round % 2 == 1 => assert!(task.unmap(mm, slot)),
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

/// The random schedules are not so tame that they would find nothing.
#[test]
fn some_mutants_are_found() {
    for change in [
        Alteration::WaitSkipped,
        Alteration::LimitIgnored,
        Alteration::WakeNever,
    ] {
        let found = std::panic::catch_unwind(move || {
            shuttle::check_random(move || run(Family::Refcnt7_0, Some(change)), 20_000);
        });
        assert!(found.is_err(), "{}", change.name());
    }
}
