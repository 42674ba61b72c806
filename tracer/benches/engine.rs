//! How many events a second each stage takes on one core: `cargo bench -p tracer --bench engine`.
//!
//! The stream is that of 64 threads that fault, read and write; it fits into no cache of the engine's
//! own, so that look-ups are paid for.

use std::hint::black_box;
use std::time::Instant;

use tracer::check::accounting::Accounting;
use tracer::contention::Contention;
use tracer::info::{Losses, SiteInfo, SourceInfo};
use tracer::order::Order;
use tracer::recording::create;
use tracer::sink::address::Addresses;
use tracer::sink::jsonl::JsonlWriter;
use tracer::state::{Engine, Lock, What};
use tracer_common::wire::{Event, Kind, flag};

const EVENTS: usize = 4_000_000;
const THREADS: u32 = 64;
const VMAS: u64 = 4_096;

fn main() {
    let info = SourceInfo {
        sites: vec![SiteInfo {
            provenance: "observed".into(),
            ..SiteInfo::default()
        }],
        ..SourceInfo::default()
    };
    let events = stream();

    measure("order", events.len(), || {
        let mut order = Order::new(0);
        let mut count = 0u64;
        for chunk in events.chunks(4096) {
            for event in chunk {
                order.push(event);
            }
            order.advance(chunk[0].header.ts_ns, &mut |_| count += 1);
        }
        order.finish(&Losses::default(), &mut |_| count += 1);
        assert_eq!(order.stats().gaps, 0);
        count
    });
    measure("engine", events.len(), || {
        let mut engine = Engine::new(&info);
        let mut count = 0u64;
        for event in &events {
            engine.apply(event, &mut |_, _| count += 1);
        }
        assert_eq!(engine.totals().anomalies.iter().sum::<u64>(), 0);
        count
    });
    measure("engine + accounting", events.len(), || {
        let mut engine = Engine::new(&info);
        let mut accounting = Accounting::new(&info);
        for event in &events {
            engine.apply(event, &mut |_, _| {});
            accounting.observe(&engine, event);
        }
        accounting.finish();
        assert_eq!(accounting.totals().open, 0, "{:?}", accounting.cases());
        accounting.totals().checked
    });
    measure("engine + statistics", events.len(), || {
        let mut engine = Engine::new(&info);
        engine.keep_notes();
        let mut contention = Contention::default();
        for event in &events {
            engine.apply(event, &mut |_, _| {});
            contention.observe(&engine, event);
        }
        contention.finish(&engine);
        let row = contention.groups.all.get(What::Hold, Lock::VmaRead);
        row.map_or(0, |row| row.count)
    });
    measure("record", events.len(), || {
        let file = std::env::temp_dir().join(format!("tracer-bench-{}.rec", std::process::id()));
        let mut writer = create(&file, &info).expect("a file in the temporary folder");
        for event in &events {
            writer.push(event).expect("space for the benchmark");
        }
        let summary = writer
            .finish(&Losses::default(), "bench")
            .expect("space for the benchmark");
        let _ = std::fs::remove_file(&file);
        summary.events
    });
    measure("engine + jsonl", events.len(), || {
        let mut engine = Engine::new(&info);
        let mut writer = JsonlWriter::new(std::io::sink(), &info, Addresses::hashed());
        for event in &events {
            engine.apply(event, &mut |event, meta| {
                writer.write(event, meta).expect("nowhere is always writable");
            });
        }
        writer.lines()
    });
}

fn measure(name: &str, events: usize, mut run: impl FnMut() -> u64) {
    let mut best = f64::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        black_box(run());
        best = best.min(start.elapsed().as_secs_f64());
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = events as f64 / best;
    println!("{name:<20} {:>8.2} million events/s", rate / 1e6);
}

/// Threads take turns; each does whole operations: a fault under the VMA lock, one sent back and
/// done under the `mmap_lock`, or a write to some VMAs.
fn stream() -> Vec<Event> {
    let mut events = Vec::with_capacity(EVENTS + 32);
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut seqs = [0u32; 4];
    let mut ts_ns = 1;
    while events.len() < EVENTS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let thread = u32::try_from(random % u64::from(THREADS)).unwrap_or(0);
        let vma = (random >> 16) % VMAS;
        let mut push = |kind: Kind, flags: u16, vma: u64, arg: u32| {
            ts_ns += 50;
            let mut event = Event::synthetic(kind, ts_ns);
            event.header.cpu = u16::try_from(thread % 4).unwrap_or(0);
            event.header.seq = seqs[usize::from(event.header.cpu)];
            seqs[usize::from(event.header.cpu)] += 1;
            event.header.pid = 1000 + thread / 8;
            event.header.tid = 1000 + thread;
            event.header.comm[..6].copy_from_slice(b"worker");
            event.header.flags = flag::MM | flags;
            event.body.mm = 0xffff_8880_0000_0000 + u64::from(thread / 8) * 0x800;
            // VMAs belong to one address space each.
            event.body.vma = 0xffff_8881_0000_0000 + (vma * 8 + u64::from(thread / 8)) * 0xc0;
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
                for more in 0..3 {
                    push(Kind::VmaWriteStart, known, (vma + more) % VMAS, 0);
                    push(Kind::VmaWriteAcquire, known, (vma + more) % VMAS, 0);
                }
                push(Kind::MmapRelease, flag::WRITE, 0, 0);
            }
        }
    }
    events
}
