//! 100,000 VMAs and 10,000 tasks fit into 128 MiB, and so does whatever comes on top of them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use tracer::info::{SiteInfo, SourceInfo};
use tracer::state::{Engine, Lock};
use tracer_common::wire::{Event, Kind, flag};

/// What is allocated now, and the most that ever was, in bytes.
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[expect(unsafe_code, reason = "an allocator is made of nothing else")]
// SAFETY: all is done by the system's allocator; only sizes are noted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as asked for by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as asked for by the caller.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LIMIT: usize = 128 << 20;
const TASKS: u32 = 10_000;
const VMAS: u64 = 100_000;

fn event(kind: Kind, ts_ns: u64, tid: u32, vma: u64, write: bool) -> Event {
    let mut event = Event::synthetic(kind, ts_ns);
    event.header.tid = tid;
    event.header.pid = 1 + tid / 10;
    event.header.flags = flag::MM | if write { flag::WRITE } else { 0 };
    event.body.mm = 0xffff_8880_0000_0000 + (u64::from(tid / 10) << 11);
    if vma != 0 {
        event.header.flags |= flag::VMA | flag::RANGE;
        event.body.vma = 0xffff_8881_0000_0000 + vma * 256;
        (event.body.vm_start, event.body.vm_end) = (vma << 16, (vma + 1) << 16);
    }
    event
}

/// Every task holds two VMAs for reading, is in a fault, left its processor and waits for its `mmap_lock`; in each address
/// space one more task has write-locked a row of VMAs. `vmas` of them are known in all.
fn fill(engine: &mut Engine, first_tid: u32, tasks: u32, vmas: u64) {
    let mut ts_ns = 1;
    let mut apply = |event: Event| {
        ts_ns += 10;
        let mut event = event;
        event.header.ts_ns = ts_ns;
        engine.apply(&event, &mut |_, _| {});
    };
    let each = vmas / u64::from(tasks);
    for tid in first_tid..first_tid + tasks {
        let first = 1 + u64::from(tid) * each;
        if tid % 10 == 0 {
            apply(event(Kind::MmapStart, 0, tid, 0, true));
            apply(event(Kind::MmapAcquire, 0, tid, 0, true));
            for vma in first..first + each {
                apply(event(Kind::VmaWriteStart, 0, tid, vma, false));
                apply(event(Kind::VmaWriteAcquire, 0, tid, vma, false));
            }
            continue;
        }
        for vma in first..first + each {
            apply(event(Kind::VmaReadAcquire, 0, tid, vma, false));
            if vma + 2 < first + each {
                apply(event(Kind::VmaReadRelease, 0, tid, vma, false));
            }
        }
        apply(event(Kind::FaultBegin, 0, tid, first, false));
        apply(event(Kind::MmapStart, 0, tid, 0, false));
        let mut out = event(Kind::SchedOut, 0, tid, 0, false);
        out.body.arg = 2;
        apply(out);
    }
}

#[test]
fn many_tasks_and_vmas_fit() {
    let observed = SiteInfo {
        operation: Kind::VmaReadRelease.name().into(),
        function: "vma_refcount_put".into(),
        provenance: "observed".into(),
        attached: true,
        ..SiteInfo::default()
    };
    let info = SourceInfo {
        sites: vec![observed],
        ..SourceInfo::default()
    };
    let before = NOW.load(Ordering::Relaxed);
    let mib = |bytes: usize| (bytes - before) as f64 / f64::from(1 << 20);
    let mut engine = Engine::new(&info);
    fill(&mut engine, 10, TASKS, VMAS);
    assert_eq!(engine.tasks().count(), TASKS as usize);
    assert_eq!(engine.vmas().count() as u64, VMAS);
    let held = engine.held();
    assert_eq!(held[Lock::VmaWrite as usize], VMAS / 10);
    assert_eq!(held[Lock::VmaRead as usize], u64::from(TASKS) * 9 / 10 * 2);
    assert_eq!(engine.aged(), tracer::state::Aged::default(), "nothing had to go");
    println!(
        "{VMAS} VMAs, {TASKS} tasks: {:.1} MiB, at most {:.1} MiB",
        mib(NOW.load(Ordering::Relaxed)),
        mib(PEAK.load(Ordering::Relaxed))
    );
    assert!(PEAK.load(Ordering::Relaxed) - before <= LIMIT);

    // Three times as many on top: what is older makes room, and is counted.
    fill(&mut engine, 10 + TASKS, 3 * TASKS, 3 * VMAS);
    let aged = engine.aged();
    assert!(aged.tasks.0 > 0 && aged.vmas.0 > 0, "{aged:?}");
    println!(
        "with three times as many on top: {:.1} MiB, at most {:.1} MiB; made room: {aged:?}",
        mib(NOW.load(Ordering::Relaxed)),
        mib(PEAK.load(Ordering::Relaxed))
    );
    assert!(PEAK.load(Ordering::Relaxed) - before <= LIMIT);
    engine.audit().unwrap();
}
