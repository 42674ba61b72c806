//! Bugs that the kernel had, each as a switch: on, the search finds it; off, it proves it absent.

use tracer_common::lock::{Alteration, Family};

use super::scenario::{A, B, LOW, Scenario, detacher, mapper, reader, writer};
use super::script::{Instr, Role};

/// A bug with and without.
#[derive(Clone, Debug)]
pub struct Bug {
    /// Its number or commit.
    pub name: &'static str,
    /// What was wrong, in a sentence.
    pub what: &'static str,
    /// How it was put right.
    pub fix: &'static str,
    /// With the bug.
    pub on: Scenario,
    /// Without.
    pub off: Scenario,
}

/// All bugs.
pub fn all(family: Family) -> Vec<Bug> {
    vec![
        recycled(family),
        unordered(family),
        fork(family),
        anon_vma(family),
        mbind(family),
        fault_under_mmap_lock(family),
        inversion(family),
    ]
}

/// The bug of that name.
pub fn find(name: &str, family: Family) -> Option<Bug> {
    all(family).into_iter().find(|b| b.name == name)
}

fn pair(
    name: &'static str,
    what: &'static str,
    fix: &'static str,
    family: Family,
    roles: impl Fn(bool) -> Vec<Role>,
) -> Bug {
    let scenario = |on| Scenario::new(name, what, family, roles(on));
    Bug {
        name,
        what,
        fix,
        on: scenario(true),
        off: scenario(false),
    }
}

fn recycled(family: Family) -> Bug {
    let change = Alteration::RecycledWithoutGrab;
    let mut mover = detacher(A, LOW);
    mover.extend(mapper(B, LOW));
    mover.extend(detacher(B, LOW));
    mover.push(Instr::MmDrop(B));
    let mut bug = pair(
        change.name(),
        "a reader drops a recycled VMA and then wakes the writer of the other mm, which may be freed by then",
        "hold on to the other mm before dropping the reference",
        family,
        |_| {
            vec![
                Role::new("reader", reader(A, LOW)),
                Role::new("mover", mover.clone()),
            ]
        },
    );
    bug.on = bug.on.with(change);
    bug
}

fn unordered(family: Family) -> Bug {
    let change = Alteration::SeqWithoutOrder;
    let mut bug = pair(
        change.name(),
        "mm_lock_seq is read and advanced without order, so a reader may enter before it sees the writer's changes",
        "release when the write locks end, acquire when a reader compares",
        family,
        |_| {
            vec![
                Role::new("reader", reader(A, LOW)),
                Role::new("writer", writer(A, LOW)),
            ]
        },
    );
    bug.on = bug.on.with(change).weak();
    bug.off = bug.off.weak();
    bug
}

fn fork(family: Family) -> Bug {
    pair(
        "fb49c455323f",
        "fork copies page tables with the mmap_lock held but without write-locking the parent's VMAs; faults go on under it",
        "write-lock each VMA before copying it",
        family,
        |on| {
            let mut fork = writer(A, LOW);
            if on {
                fork.retain(|i| !matches!(i, Instr::StartWrite(..)));
            }
            vec![Role::new("fault", reader(A, LOW)), Role::new("fork", fork)]
        },
    )
}

fn anon_vma(family: Family) -> Bug {
    let mut bug = pair(
        "657b5146955e",
        "a fault looks at anon_vma before it locks the VMA, and relies on it afterwards",
        "look at it once the VMA is locked",
        family,
        |on| {
            let mut fault = vec![
                Instr::LockVma(A, LOW),
                Instr::CheckAnon,
                Instr::UseAnon,
                Instr::EndRead,
            ];
            if on {
                fault[1] = Instr::PeekAnon(A, LOW);
                fault.swap(0, 1);
            }
            let change = [
                Instr::MmapWriteLock(A, false),
                Instr::Find(A, LOW),
                Instr::StartWrite(A, false),
                Instr::WriteAnon(0),
                Instr::MmapWriteUnlock(A),
            ];
            vec![Role::new("fault", fault), Role::new("unlink", change)]
        },
    );
    bug.on.anon = 1;
    bug.off.anon = 1;
    bug
}

fn mbind(family: Family) -> Bug {
    pair(
        "6c21e066f925",
        "mbind replaces vm_policy with the mmap_lock held but without the VMA's write lock; a fault still uses the old one",
        "write-lock the VMA first",
        family,
        |on| {
            let mut mbind = vec![
                Instr::MmapWriteLock(A, false),
                Instr::Find(A, LOW),
                Instr::StartWrite(A, false),
                Instr::WriteAnon(0),
                Instr::MmapWriteUnlock(A),
            ];
            if on {
                mbind.remove(2);
            }
            let fault = vec![Instr::LockVma(A, LOW), Instr::TouchPte, Instr::EndRead];
            vec![Role::new("fault", fault), Role::new("mbind", mbind)]
        },
    )
}

fn fault_under_mmap_lock(family: Family) -> Bug {
    let mut bug = pair(
        "9874b2917b9f",
        "a task faults while it holds the mmap_lock shared; a writer queues in between, and the fault queues behind it",
        "touch user memory only after the mmap_lock is released",
        family,
        |on| {
            let fault = [Instr::MmapReadLock(A), Instr::MmapReadUnlock(A)];
            let task = if on {
                vec![
                    Instr::MmapReadLock(A),
                    fault[0],
                    fault[1],
                    Instr::MmapReadUnlock(A),
                ]
            } else {
                vec![
                    Instr::MmapReadLock(A),
                    Instr::MmapReadUnlock(A),
                    fault[0],
                    fault[1],
                ]
            };
            vec![Role::new("task", task), Role::new("writer", writer(A, LOW))]
        },
    );
    // Lockdep would report the second acquisition at once; the deadlock itself is to be shown.
    bug.on.rules.lockdep_reports = false;
    bug
}

fn inversion(family: Family) -> Bug {
    let mut bug = pair(
        "lock-inversion",
        "a task takes the mmap_lock while it holds a VMA read lock; the holder of the mmap_lock waits for that reader",
        "release the VMA before taking the mmap_lock",
        family,
        |on| {
            let mut task = vec![
                Instr::LockVma(A, LOW),
                Instr::MmapReadLock(A),
                Instr::MmapReadUnlock(A),
            ];
            task.insert(if on { 3 } else { 1 }, Instr::EndRead);
            vec![Role::new("task", task), Role::new("writer", writer(A, LOW))]
        },
    );
    bug.on.rules.lockdep_reports = false;
    bug
}
