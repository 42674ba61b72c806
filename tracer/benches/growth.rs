//! What becomes of the price of an event when there is more to keep: `cargo bench -p tracer --bench growth`.
//!
//! The same number of events, spread over more and more VMAs, and over more and more tasks. If an event took as many steps as
//! there are tasks, its price would grow as they do; what grows is that the tables leave the processor's caches. Last comes a
//! line of JSON.

#[path = "common/stages.rs"]
mod stages;
#[path = "common/stream.rs"]
mod stream;

use serde_json::{Value, json};
use stream::stream;
use tracer::info::SourceInfo;
use tracer_common::wire::Event;

const EVENTS: usize = 1_500_000;
/// Threads and VMAs of each process.
const VMAS: [(u32, u64); 5] = [(8, 10), (8, 100), (8, 1_000), (8, 10_000), (8, 100_000)];
const TASKS: [(u32, u64); 5] = [(1, 80), (10, 80), (100, 80), (1_000, 80), (10_000, 80)];

fn main() {
    let info = stages::info();
    println!("nanoseconds an event, best of 3 passes of {EVENTS} events");
    let vmas = grow(&info, "VMAs", &VMAS, |&(_, vmas)| vmas);
    let tasks = grow(&info, "tasks", &TASKS, |&(tasks, _)| u64::from(tasks));
    println!("{}", json!({"events": EVENTS, "vmas": vmas, "tasks": tasks}));
}

/// One kind of growth; a line for each size.
fn grow(
    info: &SourceInfo,
    what: &str,
    sizes: &[(u32, u64)],
    size: impl Fn(&(u32, u64)) -> u64,
) -> Vec<Value> {
    println!(
        "{:>10}{:>10}{:>14}{:>12}",
        what, "engine", "+ statistics", "+ checks"
    );
    let rows = sizes.iter().map(|one| {
        let events = stream(EVENTS, one.0, one.1);
        let engine = measure(&events, || stages::engine(info, &events));
        let statistics = measure(&events, || stages::statistics(info, &events));
        let checks = measure(&events, || stages::checks(info, &events));
        let size = size(one);
        println!("{size:>10}{engine:>10.1}{statistics:>14.1}{checks:>12.1}");
        json!({"size": size, "engine_ns": engine, "statistics_ns": statistics, "checks_ns": checks})
    });
    rows.collect()
}

/// Nanoseconds an event.
fn measure(events: &[Event], run: impl FnMut() -> u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let each = stages::best(run) * 1e9 / events.len() as f64;
    each
}
