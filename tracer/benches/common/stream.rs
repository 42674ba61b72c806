//! A stream of events as threads would cause it, for benchmarks.

use tracer_common::wire::{Event, Kind, flag};

/// Threads of one process.
const TOGETHER: u32 = 8;

/// Events of so many threads, each process with so many VMAs.
///
/// Threads take turns; each does whole operations: a fault under the VMA lock, one sent back and
/// done under the `mmap_lock`, or a write to some VMAs.
pub(crate) fn stream(count: usize, threads: u32, vmas: u64) -> Vec<Event> {
    let mut events = Vec::with_capacity(count + 32);
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut seqs = [0u32; 4];
    let mms = threads.div_ceil(TOGETHER) as usize;
    // Sequence numbers of the address spaces and their VMAs.
    let mut mm_seqs = vec![0u32; mms];
    let mut vma_seqs = vec![u32::MAX; usize::try_from(vmas).unwrap_or(0) * mms];
    let mut ts_ns = 1;
    while events.len() < count {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let thread = u32::try_from(random % u64::from(threads)).unwrap_or(0);
        let vma = (random >> 16) % vmas;
        let mm = (thread / TOGETHER) as usize;
        let mut push = |kind: Kind, flags: u16, vma: u64, arg: u32| {
            ts_ns += 50;
            let vma_seq = &mut vma_seqs[usize::try_from(vma).unwrap_or(0) * mms + mm];
            if kind == Kind::MmapAcquire && flags & flag::WRITE != 0 {
                mm_seqs[mm] += 1;
            }
            if kind == Kind::VmaWriteAcquire {
                *vma_seq = mm_seqs[mm];
            }
            let mut event = Event::synthetic(kind, ts_ns);
            event.header.cpu = u16::try_from(thread % 4).unwrap_or(0);
            event.header.seq = seqs[usize::from(event.header.cpu)];
            seqs[usize::from(event.header.cpu)] += 1;
            event.header.pid = 1000 + thread / TOGETHER;
            event.header.tid = 1000 + thread;
            event.header.comm[..6].copy_from_slice(b"worker");
            event.header.flags = flag::MM | flag::MM_SEQ | flags;
            event.body.mm_lock_seq = mm_seqs[mm];
            event.body.vm_lock_seq = *vma_seq;
            event.body.mm = 0xffff_8880_0000_0000 + mm as u64 * 0x800;
            // VMAs belong to one address space each.
            event.body.vma = 0xffff_8881_0000_0000 + (vma * mms as u64 + mm as u64) * 0xc0;
            event.body.vm_start = vma << 21;
            event.body.vm_end = (vma + 1) << 21;
            event.body.arg = arg;
            // One reader at a time, or the writer.
            event.body.vm_refcnt = if arg & 0x1000_0000 != 0 || kind == Kind::VmaReadAcquire {
                2
            } else {
                1
            };
            events.push(event);
            if kind == Kind::MmapRelease && flags & flag::WRITE != 0 {
                mm_seqs[mm] += 1;
            }
        };
        let known = flag::VMA | flag::RANGE | flag::REFCNT | flag::VMA_SEQ | flag::MM_SEQ;
        let under_vma = 0x1040_0000;
        match (random >> 40) % 10 {
            0..7 => {
                push(Kind::VmaReadAcquire, known, vma, 0);
                push(Kind::FaultBegin, known, vma, under_vma);
                push(Kind::FaultEnd, known, vma, under_vma);
            }
            7 => {
                push(Kind::VmaReadAcquire, known, vma, 0);
                push(Kind::FaultBegin, known, vma, under_vma);
                push(Kind::FaultEnd, flag::VMA, vma, under_vma | 0x400);
                push(Kind::MmapStart, 0, 0, 0);
                push(Kind::MmapAcquire, 0, 0, 0);
                push(Kind::FaultBegin, known, vma, 0x0040_0000);
                push(Kind::FaultEnd, known, vma, 0x0040_0000);
                push(Kind::MmapRelease, 0, 0, 0);
            }
            _ => {
                push(Kind::MmapStart, flag::WRITE, 0, 0);
                push(Kind::MmapAcquire, flag::WRITE, 0, 0);
                for more in 0..vmas.min(3) {
                    push(Kind::VmaWriteStart, known, (vma + more) % vmas, 0);
                    push(Kind::VmaWriteAcquire, known, (vma + more) % vmas, 0);
                }
                push(Kind::MmapRelease, flag::WRITE, 0, 0);
            }
        }
    }
    events
}
