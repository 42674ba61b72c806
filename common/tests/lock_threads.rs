//! The lock run by real threads: small enough for Miri, which checks every access of them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use tracer_common::lock::arena::{Arena, Size};
use tracer_common::lock::write::WriteOutcome;
use tracer_common::lock::{Family, MmId, Slot, TaskId, VM_REFCNT_EXCLUDE_READERS_FLAG, VmaId, Word};

const MM: MmId = MmId(0);
const SIZE: Size = Size {
    vmas: 3,
    mms: 1,
    slots: 2,
    tasks: 4,
};
/// Miri takes about a thousand times as long.
const ROUNDS: u32 = if cfg!(miri) { 20 } else { 20_000 };

fn mapped(family: Family) -> Arena {
    let arena = Arena::new(family, SIZE, true);
    let mut task = arena.thread(TaskId(0));
    task.mmap_write_lock(MM);
    for slot in 0..SIZE.slots {
        assert!(task.map(MM, Slot(slot)).is_some());
    }
    task.mmap_write_unlock(MM);
    task.expect_nothing_held().unwrap();
    arena
}

/// Readers see both halves of what a writer changes under the lock, or neither; VMAs are unmapped
/// and reused under the readers.
fn readers_writer_and_recycling(family: Family) {
    let arena = mapped(family);
    let done = AtomicBool::new(false);
    let (arena, done) = (&arena, &done);
    thread::scope(|scope| {
        for id in 1..SIZE.tasks {
            scope.spawn(move || {
                let mut task = arena.thread(TaskId(id));
                let mut slot = 0;
                while !done.load(Relaxed) {
                    slot = (slot + 1) % SIZE.slots;
                    if let Ok(vma) = task.lock_vma_under_rcu(MM, Slot(slot)) {
                        assert!(!task.vma_assert_locked(vma).fires());
                        let halves = [0, 1].map(|half| arena.peek(Word::Data(vma, half)));
                        assert_eq!(halves[0], halves[1]);
                        assert_eq!(arena.peek(Word::Start(vma)), slot);
                        task.vma_end_read(vma);
                    } else if task.mmap_read_trylock(MM) {
                        if let Some(vma) = task.find(MM, Slot(slot)) {
                            assert!(task.vma_start_read_locked(MM, vma));
                            task.mmap_read_unlock(MM);
                            task.vma_end_read(vma);
                        } else {
                            task.mmap_read_unlock(MM);
                        }
                    }
                    task.expect_nothing_held().unwrap();
                }
            });
        }
        let mut writer = arena.thread(TaskId(0));
        for round in 1..=ROUNDS {
            let slot = Slot(round % SIZE.slots);
            writer.mmap_write_lock(MM);
            if round % 8 == 0 {
                assert!(writer.unmap(MM, slot) && writer.map(MM, slot).is_some());
            } else {
                let vma = writer.find(MM, slot).unwrap();
                writer.vma_start_write(MM, vma);
                assert!(!writer.vma_assert_locked(vma).fires());
                for half in [0, 1] {
                    arena.poke(Word::Data(vma, half), round);
                }
            }
            if round % 3 == 0 {
                writer.mmap_write_downgrade(MM);
                writer.mmap_read_unlock(MM);
            } else {
                writer.mmap_write_unlock(MM);
            }
        }
        done.store(true, Relaxed);
    });
    assert_eq!(arena.warnings(), 0);
    if family != Family::Rwsem {
        let attached = (0..SIZE.vmas)
            .filter(|v| arena.peek(Word::Refcnt(VmaId(*v))) == 1)
            .count();
        assert_eq!(attached, SIZE.slots as usize);
    }
}

#[test]
fn family_6_12() {
    readers_writer_and_recycling(Family::Rwsem);
}

#[test]
fn family_6_15() {
    readers_writer_and_recycling(Family::Refcnt6_15);
}

#[test]
fn family_7_0() {
    readers_writer_and_recycling(Family::Refcnt7_0);
}

#[test]
fn a_killed_writer_leaves_the_vma_as_it_was() {
    let arena = mapped(Family::Refcnt7_0);
    let arena = &arena;
    let mut reader = arena.thread(TaskId(1));
    let vma = reader.lock_vma_under_rcu(MM, Slot(0)).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut writer = arena.thread(TaskId(0));
            writer.mmap_write_lock(MM);
            assert_eq!(
                writer.vma_start_write_killable(MM, vma),
                WriteOutcome::Interrupted
            );
            writer.mmap_write_unlock(MM);
        });
        while arena.peek(Word::Refcnt(vma)) != VM_REFCNT_EXCLUDE_READERS_FLAG + 2 {
            thread::yield_now();
        }
        arena.thread(TaskId(2)).kill(TaskId(0));
    });
    assert_eq!(arena.peek(Word::Refcnt(vma)), 2);
    reader.vma_end_read(vma);
    assert!(reader.lock_vma_under_rcu(MM, Slot(0)).is_ok());
}
