//! What is searched: some tasks with their programs, and how memory looks at first.

use tracer_common::lock::refcnt::VM_LOCK_SEQ_NEVER;
use tracer_common::lock::{Alteration, Family, MmId, Slot, TaskId, VM_REFCNT_LIMIT, VmaId, Word};

use super::memory::{MMS, Memory, TASKS, VMAS, WORDS, index};
use super::script::{Instr, Role};
use super::state::{Rules, State, TaskModel};

/// One thing to search.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is about, in a sentence.
    pub about: &'static str,
    /// Can loads be stale?
    pub weak: bool,
    /// What stays the same.
    pub rules: Rules,
    /// The tasks.
    pub roles: Vec<Role>,
    /// What is mapped at first: VMA by number, where.
    pub mapped: Vec<(MmId, Slot)>,
    /// `mm_lock_seq` at first. `vm_lock_seq` of a mapped VMA is 1.
    pub mm_seq: u32,
    /// The second word that the lock guards, at first.
    pub anon: u32,
}

/// How many of each task the exhaustive search takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Readers of one address.
    pub readers: u32,
    /// Writers.
    pub writers: u32,
    /// Tasks that unmap.
    pub detachers: u32,
    /// How often a reader tries.
    pub rounds: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            readers: 2,
            writers: 1,
            detachers: 1,
            rounds: 1,
        }
    }
}

/// The mm most scenarios play in.
pub const A: MmId = MmId(0);
/// The other mm.
pub const B: MmId = MmId(1);
/// The address most scenarios play at.
pub const LOW: Slot = Slot(0);
/// The other address.
pub const HIGH: Slot = Slot(1);

/// A fault: lock, look, unlock.
pub fn reader(mm: MmId, slot: Slot) -> Vec<Instr> {
    vec![Instr::LockVma(mm, slot), Instr::ReadData, Instr::EndRead]
}

/// A fault that takes the mmap_lock if it has to, and turns that into a VMA read lock.
pub fn persistent_reader(mm: MmId, slot: Slot) -> Vec<Instr> {
    vec![
        Instr::LockVma(mm, slot),
        Instr::SkipIfLocked(4),
        Instr::MmapReadLock(mm),
        Instr::Find(mm, slot),
        Instr::StartReadLocked(mm),
        Instr::MmapReadUnlock(mm),
        Instr::ReadData,
        Instr::EndRead,
    ]
}

/// Changes a VMA under its write lock.
pub fn writer(mm: MmId, slot: Slot) -> Vec<Instr> {
    vec![
        Instr::MmapWriteLock(mm, false),
        Instr::Find(mm, slot),
        Instr::StartWrite(mm, false),
        Instr::WriteData(7),
        Instr::MmapWriteUnlock(mm),
    ]
}

/// Unmaps a VMA.
pub fn detacher(mm: MmId, slot: Slot) -> Vec<Instr> {
    vec![
        Instr::MmapWriteLock(mm, false),
        Instr::Find(mm, slot),
        Instr::StartWrite(mm, false),
        Instr::Detach(mm),
        Instr::Unlink(mm, slot),
        Instr::Free,
        Instr::MmapWriteUnlock(mm),
    ]
}

/// Maps a VMA from the pool.
pub fn mapper(mm: MmId, slot: Slot) -> Vec<Instr> {
    vec![
        Instr::MmapWriteLock(mm, false),
        Instr::Alloc(mm, slot),
        Instr::StartWrite(mm, false),
        Instr::Attach(mm, slot),
        Instr::MmapWriteUnlock(mm),
    ]
}

/// Unmaps a VMA of one mm, maps it in the other, and ends that mm.
fn mover() -> Vec<Instr> {
    let mut program = detacher(A, LOW);
    program.extend(mapper(B, LOW));
    program.extend(detacher(B, LOW));
    program.push(Instr::MmDrop(B));
    program
}

impl Scenario {
    /// A scenario in which VMA 0 is mapped at [`LOW`] of [`A`], with these tasks.
    pub fn new(name: &'static str, about: &'static str, family: Family, roles: Vec<Role>) -> Self {
        assert!(roles.len() <= TASKS, "at most {TASKS} tasks");
        let rules = Rules {
            family,
            alteration: None,
            lockdep_reports: true,
            overflow: false,
            phantom_readers: 0,
        };
        Self {
            name,
            about,
            weak: false,
            rules,
            roles,
            mapped: vec![(A, LOW)],
            mm_seq: 2,
            anon: 0,
        }
    }

    /// The same with one change of the lock.
    #[must_use]
    pub fn with(mut self, change: Alteration) -> Self {
        self.rules.alteration = Some(change);
        self
    }

    /// The same in weak memory.
    #[must_use]
    pub fn weak(mut self) -> Self {
        self.weak = true;
        self
    }

    /// How memory looks at first.
    pub fn initial<M: Memory>(&self) -> State<M> {
        let mut words = [0; WORDS];
        let mut set = |at, value| words[index(at)] = value;
        let (mut attached, mut free) = (0, 0);
        for v in (0..VMAS as u32).map(VmaId) {
            if let Some(&(mm, slot)) = self.mapped.get(v.0 as usize) {
                attached |= 1 << v.0;
                set(Word::Refcnt(v), 1 + self.rules.phantom_readers);
                set(Word::VmMm(v), mm.0);
                set(Word::Start(v), slot.0);
                set(Word::LockSeq(v), 1);
                set(Word::Tree(mm, slot), v.0 + 1);
            } else {
                free |= 1 << v.0;
                set(Word::LockSeq(v), VM_LOCK_SEQ_NEVER);
                set(Word::Detached(v), 1);
            }
            set(Word::Data(v, 1), self.anon);
        }
        for m in (0..MMS as u32).map(MmId) {
            set(Word::MmSeq(m), self.mm_seq);
            set(Word::MmCount(m), 1);
        }
        State {
            mem: M::new(words, self.roles.len()),
            tasks: std::array::from_fn(|n| TaskModel::new(n as u32)),
            count: self.roles.len() as u8,
            attached,
            free,
            class_order: Default::default(),
        }
    }
}

fn named(name: &str, number: u32, program: &[Instr]) -> Role {
    Role::new(format!("{name}{number}"), program)
}

/// The scenario that the bounds of a search are about.
pub fn exclusion(family: Family, bounds: Bounds) -> Scenario {
    let mut roles = Vec::new();
    let again = |program: Vec<Instr>| program.repeat(bounds.rounds as usize);
    roles.extend((1..=bounds.readers).map(|n| named("reader", n, &again(reader(A, LOW)))));
    roles.extend((1..=bounds.writers).map(|n| named("writer", n, &writer(A, LOW))));
    roles.extend((1..=bounds.detachers).map(|n| named("detacher", n, &detacher(A, LOW))));
    Scenario::new(
        "exclusion",
        "readers, a writer and a detacher on one VMA",
        family,
        roles,
    )
}

/// All scenarios, for a family. Those in weak memory come last.
pub fn all(family: Family, bounds: Bounds) -> Vec<Scenario> {
    let mut scenarios = interleaved(family, bounds);
    scenarios.extend(weak(family));
    scenarios
}

fn interleaved(family: Family, bounds: Bounds) -> Vec<Scenario> {
    let new = |name, about, roles| Scenario::new(name, about, family, roles);
    let readers = |n, program: &[Instr]| (1..=n).map(|n| named("reader", n, program)).collect::<Vec<_>>();
    let with = |mut roles: Vec<Role>, more: Vec<Role>| {
        roles.extend(more);
        roles
    };
    let mut killable = writer(A, LOW);
    killable[2] = Instr::StartWrite(A, true);
    let mut killed_early = killable.clone();
    killed_early[0] = Instr::MmapWriteLock(A, true);
    let mut downgrading = writer(A, LOW);
    downgrading.splice(4.., [Instr::MmapDowngrade(A), Instr::MmapReadUnlock(A)]);
    let mut remapper = detacher(A, LOW);
    remapper.pop();
    remapper.extend_from_slice(&mapper(A, HIGH)[1..]);

    let mut overflow = new(
        "overflow",
        "2^31 write cycles on, an unlocked VMA seems locked, and only that",
        with(
            readers(2, &persistent_reader(A, LOW)),
            vec![Role::new(
                "writer",
                [Instr::MmapWriteLock(A, false), Instr::MmapWriteUnlock(A)],
            )],
        ),
    );
    overflow.mm_seq = 0;
    overflow.rules.overflow = true;

    let mut limit = new(
        "limit",
        "so many readers that one more is the last that fits",
        with(readers(3, &reader(A, LOW)), vec![]),
    );
    limit.rules.phantom_readers = VM_REFCNT_LIMIT - 2;

    let mut two_vmas = new(
        "two-vmas",
        "one writer locks two VMAs, and one unlock releases both",
        with(
            vec![
                Role::new("reader1", reader(A, LOW)),
                Role::new("reader2", reader(A, HIGH)),
            ],
            vec![Role::new(
                "writer",
                [
                    Instr::MmapWriteLock(A, false),
                    Instr::Find(A, LOW),
                    Instr::StartWrite(A, false),
                    Instr::WriteData(7),
                    Instr::Find(A, HIGH),
                    Instr::StartWrite(A, false),
                    Instr::WriteData(7),
                    Instr::MmapWriteUnlock(A),
                ],
            )],
        ),
    );
    two_vmas.mapped.push((A, HIGH));

    vec![
        exclusion(family, bounds),
        new(
            "recycling",
            "a VMA leaves one mm, is reused in the other, and that mm ends, under a reader of the first",
            with(
                readers(bounds.readers, &reader(A, LOW)),
                vec![Role::new("mover", mover())],
            ),
        ),
        new(
            "recycling-both",
            "the same with a reader in either mm, and two VMAs",
            vec![
                Role::new("readerA", reader(A, LOW)),
                Role::new("readerB", reader(B, LOW)),
                Role::new("moverA", detacher(A, LOW)),
                Role::new("moverB", [mapper(B, LOW), detacher(B, LOW)].concat()),
            ],
        ),
        new(
            "move",
            "a VMA is reused at another address of the same mm",
            with(readers(2, &reader(A, LOW)), vec![Role::new("mover", remapper)]),
        ),
        new(
            "downgrade",
            "a writer keeps the mmap_lock shared; others lock the VMA with it or without",
            vec![
                Role::new("reader", persistent_reader(A, LOW)),
                Role::new(
                    "holder",
                    [
                        Instr::MmapReadLock(A),
                        Instr::Find(A, LOW),
                        Instr::StartReadLocked(A),
                        Instr::MmapReadUnlock(A),
                        Instr::ReadData,
                        Instr::EndRead,
                    ],
                ),
                Role::new("writer", downgrading),
            ],
        ),
        new(
            "killed-writer",
            "a writer is killed while it waits for a reader",
            vec![
                Role::new("reader1", reader(A, LOW)),
                Role::new("reader2", reader(A, LOW)),
                Role::new("writer", killable),
                Role::new("killer", [Instr::Kill(TaskId(2))]),
            ],
        ),
        new(
            "killed-queue",
            "a writer is killed while it waits for the mmap_lock or for a reader",
            vec![
                Role::new("reader", persistent_reader(A, LOW)),
                Role::new("other", writer(A, LOW)),
                Role::new("writer", killed_early),
                Role::new("killer", [Instr::Kill(TaskId(2))]),
            ],
        ),
        new(
            "fallback",
            "readers that fail take the mmap_lock shared and then the VMA's",
            with(
                readers(2, &persistent_reader(A, LOW)),
                vec![Role::new("writer", writer(A, LOW))],
            ),
        ),
        two_vmas,
        new(
            "trylock",
            "the mmap_lock is tried while a writer comes and goes",
            vec![
                Role::new("reader", reader(A, LOW)),
                Role::new(
                    "trier",
                    [
                        Instr::MmapReadTrylock(A),
                        Instr::Find(A, LOW),
                        Instr::StartReadLocked(A),
                        Instr::MmapReadUnlock(A),
                        Instr::ReadData,
                        Instr::EndRead,
                    ],
                ),
                Role::new("writer", writer(A, LOW)),
            ],
        ),
        new(
            "speculation",
            "reading without any lock, validated by the sequence number",
            vec![
                Role::new("speculator", speculator()),
                Role::new("writer", writer(A, LOW)),
                Role::new("reader", reader(A, LOW)),
            ],
        ),
        overflow,
        limit,
    ]
}

fn speculator() -> Vec<Instr> {
    vec![
        Instr::SpeculateBegin(A),
        Instr::SpeculateRead(VmaId(0)),
        Instr::SpeculateEnd(A),
    ]
}

fn weak(family: Family) -> Vec<Scenario> {
    let new = |name, about, roles| Scenario::new(name, about, family, roles).weak();
    let toucher = [Instr::LockVma(A, LOW), Instr::TouchPte, Instr::EndRead];
    let unmapper = [
        Instr::MmapWriteLock(A, false),
        Instr::Find(A, LOW),
        Instr::StartWrite(A, false),
        Instr::ReadPte,
        Instr::MmapWriteUnlock(A),
    ];
    vec![
        new(
            "weak-publish",
            "a reader sees all that a writer changed before it",
            vec![
                Role::new("reader", reader(A, LOW)),
                Role::new("writer", writer(A, LOW)),
            ],
        ),
        new(
            "weak-pte",
            "a writer sees all that a reader changed before it",
            vec![Role::new("reader", toucher), Role::new("writer", unmapper)],
        ),
        new(
            "weak-recycled",
            "a reader sees the life of the VMA that it counted itself into",
            vec![
                Role::new("reader", reader(A, LOW)),
                Role::new("mover", [&detacher(A, LOW)[..], &mapper(B, LOW)[..]].concat()),
            ],
        ),
        new(
            "weak-writers",
            "a reader sees what a writer changed, also after the next writer came",
            vec![
                Role::new("reader", reader(A, LOW)),
                Role::new("writer", writer(A, LOW)),
                Role::new(
                    "other",
                    [Instr::MmapWriteLock(A, false), Instr::MmapWriteUnlock(A)],
                ),
            ],
        ),
        new(
            "weak-exclusion",
            "two readers and a detacher on one VMA",
            vec![
                Role::new("reader", reader(A, LOW)),
                Role::new("toucher", toucher),
                Role::new("detacher", detacher(A, LOW)),
            ],
        ),
        new(
            "weak-speculation",
            "what is read under a valid speculation is consistent",
            vec![
                Role::new("speculator", speculator()),
                Role::new("writer", writer(A, LOW)),
            ],
        ),
        new(
            "weak-speculation-mmap",
            "the same for what only the mmap_lock guards",
            vec![
                Role::new("speculator", speculator()),
                Role::new(
                    "writer",
                    [
                        Instr::MmapWriteLock(A, false),
                        Instr::Find(A, LOW),
                        Instr::WriteData(7),
                        Instr::MmapWriteUnlock(A),
                    ],
                ),
            ],
        ),
    ]
}

/// The scenario of that name, bugs included.
pub fn find(name: &str, family: Family, bounds: Bounds) -> Option<Scenario> {
    all(family, bounds).into_iter().find(|s| s.name == name)
}
