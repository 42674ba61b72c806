//! From what the lock says of itself to events in the wire format.

use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;

use tracer_common::lock::arena::{Arena, Observer};
use tracer_common::lock::lockdep::{LockClass, Mode};
use tracer_common::lock::platform::Platform;
use tracer_common::lock::world::Note;
use tracer_common::lock::{Family, MmId, Slot, Task, VmaId, Word};
use tracer_common::wire::{COMM_LEN, Event, Kind, flag};

use super::{MMS, Shared, Truth};
use crate::state::Lock;

/// Which function each kind of event comes from; an event's site is the place in this table.
pub(super) const SITES: [(Kind, &str); 14] = [
    (Kind::MmapStart, "mmap_lock:mmap_lock_start_locking"),
    (Kind::MmapAcquire, "mmap_lock:mmap_lock_acquire_returned"),
    (Kind::MmapFail, "mmap_lock:mmap_lock_acquire_returned"),
    (Kind::MmapRelease, "mmap_lock:mmap_lock_released"),
    (Kind::MmapDowngrade, "mmap_lock:mmap_lock_acquire_returned"),
    (Kind::VmaReadAcquire, "vma_start_read"),
    (Kind::VmaReadFail, "lock_vma_under_rcu"),
    (Kind::VmaReadRelease, "vma_refcount_put"),
    (Kind::VmaWriteStart, "__vma_start_write"),
    (Kind::VmaWriteAcquire, "__vma_start_write"),
    (Kind::VmaDetach, "vma_mark_detached"),
    (Kind::VmaWriteFail, "__vma_start_write"),
    (Kind::VmaReadRefused, "vma_start_read"),
    (Kind::VmaReadTemporary, "vma_start_read"),
];

/// Events of one thread, in order.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) events: Vec<Event>,
    pub(super) truths: Vec<Truth>,
}

/// What a writer did since it took the mmap_lock.
#[derive(Default)]
pub(super) struct Changes {
    /// VMAs that it write-locked and that are attached.
    pub(super) locked: Vec<(MmId, VmaId)>,
    /// VMAs that it detached.
    pub(super) detached: Vec<VmaId>,
}

impl Changes {
    pub(super) fn lock(&mut self, mm: MmId, vma: VmaId) {
        self.detached.retain(|&v| v != vma);
        if !self.locked.contains(&(mm, vma)) {
            self.locked.push((mm, vma));
        }
    }

    pub(super) fn detach(&mut self, vma: VmaId) {
        self.locked.retain(|&(_, v)| v != vma);
        self.detached.push(vma);
    }
}

/// So many events are handed over at once.
const BATCH: usize = 256;
/// Addresses look like the kernel's, so that every sink shows them as usual.
const MM_BASE: u64 = 0xffff_8881_0000_0000;
const VMA_BASE: u64 = 0xffff_8881_4000_0000;
const RANGE: u64 = 0x20_0000;
const FIRST_RANGE: u64 = 0x7f00_0000_0000;

pub(super) fn mm_address(mm: MmId) -> u64 {
    MM_BASE + u64::from(mm.0) * 0x1000
}

pub(super) fn vma_address(vma: VmaId) -> u64 {
    VMA_BASE + u64::from(vma.0) * 0x100
}

fn range_start(slot: u32) -> u64 {
    FIRST_RANGE + u64::from(slot) * RANGE
}

/// Makes events for one thread.
pub(super) struct Recorder<'a> {
    shared: &'a Shared,
    sender: SyncSender<Batch>,
    batch: Batch,
    thread: u16,
    tid: u32,
    comm: [u8; COMM_LEN],
    seq: u32,
    /// Nobody reads any more.
    pub(super) closed: bool,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(shared: &'a Shared, thread: u32, sender: SyncSender<Batch>) -> Self {
        let name: &[u8] = if thread < shared.setup.writers {
            b"sim-writer"
        } else {
            b"sim-reader"
        };
        let mut comm = [0; COMM_LEN];
        comm[..name.len()].copy_from_slice(name);
        Self {
            shared,
            sender,
            batch: Batch::default(),
            thread: thread as u16,
            tid: tid(thread),
            comm,
            seq: 0,
            closed: false,
        }
    }

    fn push(&mut self, kind: Kind, fill: impl FnOnce(&mut Event)) {
        let mut event = Event::synthetic(kind, 0);
        // Read before the stamp, as the probes do.
        fill(&mut event);
        event.header.ts_ns = self.shared.stamp();
        let header = &mut event.header;
        header.cpu = self.thread;
        header.seq = self.seq;
        header.pid = self.tid - self.tid % 1000 + 1000 * (u32::from(self.thread) % MMS);
        header.tid = self.tid;
        header.site = SITES.iter().position(|(k, _)| *k == kind).unwrap_or(0) as u32;
        header.comm = self.comm;
        self.seq = self.seq.wrapping_add(1);
        self.batch.events.push(event);
    }

    fn mmap<P: Platform>(&mut self, arena: &Arena<P>, kind: Kind, mm: MmId, mode: Mode) {
        self.push(kind, |event| {
            event.body.mm = mm_address(mm);
            event.body.mm_lock_seq = arena.peek(Word::MmSeq(mm));
            event.header.flags |= flag::MM | flag::MM_SEQ;
            if mode == Mode::Exclusive {
                event.header.flags |= flag::WRITE;
            }
        });
    }

    fn vma<P: Platform>(&mut self, arena: &Arena<P>, kind: Kind, mm: MmId, vma: VmaId, refcnt: Option<u32>) {
        let counted = self.shared.setup.family != Family::Rwsem;
        self.push(kind, |event| {
            let start = range_start(arena.peek(Word::Start(vma)));
            event.body.mm = mm_address(mm);
            event.body.vma = vma_address(vma);
            (event.body.vm_start, event.body.vm_end) = (start, start + RANGE);
            event.body.vm_lock_seq = arena.peek(Word::LockSeq(vma));
            event.body.mm_lock_seq = arena.peek(Word::MmSeq(mm));
            event.header.flags |= flag::MM | flag::VMA | flag::RANGE | flag::VMA_SEQ | flag::MM_SEQ;
            if counted {
                event.body.vm_refcnt = refcnt.unwrap_or_else(|| arena.peek(Word::Refcnt(vma)));
                event.header.flags |= flag::REFCNT;
            }
        });
    }

    /// Between two operations: notes what is held in truth, and hands over what there is.
    pub(super) fn between(&mut self, task: &Task, changes: &Changes) {
        if self.shared.truths
            && let Some(last) = self.batch.events.last()
        {
            let held = task.held.iter().map(|held| match (held.class, held.mode) {
                (LockClass::MmapLock, Mode::Shared) => (Lock::MmapRead, mm_address(MmId(held.instance)), 0),
                (LockClass::MmapLock, Mode::Exclusive) => {
                    (Lock::MmapWrite, mm_address(MmId(held.instance)), 0)
                }
                (LockClass::VmLock, mode) => {
                    let lock = if mode == Mode::Shared {
                        Lock::VmaRead
                    } else {
                        Lock::VmaWrite
                    };
                    let vma = VmaId(held.instance);
                    let mm = MmId(self.shared.arena.peek(Word::VmMm(vma)));
                    (lock, mm_address(mm), vma_address(vma))
                }
            });
            // Lockdep does not know VMA write locks; the thread does.
            let writes = changes
                .locked
                .iter()
                .map(|&(mm, vma)| (Lock::VmaWrite, mm_address(mm), vma_address(vma)));
            let holds = held.chain(writes).collect();
            let detached = changes.detached.iter().map(|&vma| vma_address(vma)).collect();
            self.batch.truths.push(Truth {
                tid: self.tid,
                after_ns: last.header.ts_ns,
                holds,
                detached,
            });
        }
        if self.batch.events.len() >= BATCH {
            self.flush();
        }
    }

    /// Hands over what there is, waiting for room. The thread must hold no lock that others want;
    /// it may all the same, and then they wait too: that is what a simulation can afford.
    pub(super) fn flush(&mut self) {
        let mark = self.batch.events.last().map(|e| e.header.ts_ns);
        let batch = std::mem::replace(
            &mut self.batch,
            Batch {
                events: Vec::with_capacity(BATCH + 16),
                truths: Vec::new(),
            },
        );
        self.closed |= self.sender.send(batch).is_err();
        if let Some(mark) = mark {
            self.shared.marks[usize::from(self.thread)].store(mark, Ordering::Release);
        }
    }

    /// There will be no more.
    pub(super) fn finish(mut self) {
        self.flush();
        self.shared.marks[usize::from(self.thread)].store(u64::MAX, Ordering::Release);
    }
}

/// The thread's number in events.
pub(super) fn tid(thread: u32) -> u32 {
    100_000 + thread
}

impl Observer for Recorder<'_> {
    fn note<P: Platform>(&mut self, arena: &Arena<P>, _: &Task, note: Note) {
        match note {
            Note::MmapStart(mm, mode) => self.mmap(arena, Kind::MmapStart, mm, mode),
            Note::MmapAcquired(mm, mode, true) => self.mmap(arena, Kind::MmapAcquire, mm, mode),
            Note::MmapAcquired(mm, mode, false) => self.mmap(arena, Kind::MmapFail, mm, mode),
            Note::MmapReleased(mm, mode) => self.mmap(arena, Kind::MmapRelease, mm, mode),
            Note::MmapDowngrade(mm) => self.mmap(arena, Kind::MmapDowngrade, mm, Mode::Shared),
            Note::ReadAcquired(mm, vma, refcnt) => {
                self.vma(arena, Kind::VmaReadAcquire, mm, vma, Some(refcnt));
            }
            Note::ReadRefused(mm, vma) => self.vma(arena, Kind::VmaReadRefused, mm, vma, None),
            Note::ReadReleasing(mm, vma, true) => self.vma(arena, Kind::VmaReadRelease, mm, vma, None),
            Note::ReadReleasing(mm, vma, false) => self.vma(arena, Kind::VmaReadTemporary, mm, vma, None),
            Note::ReadFailed(mm, Slot(slot)) => self.push(Kind::VmaReadFail, |event| {
                event.body.mm = mm_address(mm);
                event.body.vm_start = range_start(slot);
                event.header.flags |= flag::MM | flag::ADDR;
            }),
            Note::WriteStart(mm, vma) => self.vma(arena, Kind::VmaWriteStart, mm, vma, None),
            Note::WriteAcquired(mm, vma, _) => self.vma(arena, Kind::VmaWriteAcquire, mm, vma, None),
            Note::WriteFailed(mm, vma) => self.vma(arena, Kind::VmaWriteFail, mm, vma, None),
            Note::Detached(mm, vma) => self.vma(arena, Kind::VmaDetach, mm, vma, None),
            // The kernel has no such places.
            Note::SeemsWriteLocked(..) | Note::ReadReleased(..) => {}
        }
    }
}
