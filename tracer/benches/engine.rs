//! How many events a second each stage takes on one core: `cargo bench -p tracer --bench engine`.
//!
//! The stream is that of 64 threads that fault, read and write; it fits into no cache of the engine's
//! own, so that look-ups are paid for.

#[path = "common/stages.rs"]
mod stages;
#[path = "common/stream.rs"]
mod stream;

use stream::stream;
use tracer::check::accounting::Accounting;
use tracer::info::Losses;
use tracer::order::Order;
use tracer::recording::create;
use tracer::sink::address::Addresses;
use tracer::sink::jsonl::JsonlWriter;
use tracer::state::Engine;

const EVENTS: usize = 4_000_000;

fn main() {
    let info = stages::info();
    let events = stream(EVENTS, 64, 4_096);

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
    measure("engine", events.len(), || stages::engine(&info, &events));
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
        stages::statistics(&info, &events)
    });
    let mut asked = 0;
    measure("engine + checks", events.len(), || {
        asked = stages::checks(&info, &events);
        asked
    });
    println!(
        "engine + checks: {asked} verdicts, at most {} MiB in memory, events included",
        peak_mib()
    );
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

/// The most memory that this process had, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

fn measure(name: &str, events: usize, run: impl FnMut() -> u64) {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = events as f64 / stages::best(run);
    println!("{name:<20} {:>8.2} million events/s", rate / 1e6);
}
