//! The engine against the truth: every thread of the simulated lock says what it holds, and the
//! engine, which has only the events, must say the same. Always, and of everything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tracer::order::Order;
use tracer::sim::{Setup, Sim, Truth};
use tracer::source::{Poll, Source};
use tracer::state::{Engine, Lock};
use tracer_common::lock::Family;
use tracer_common::wire::Event;

/// Runs for a while; gives all events in order, and all truths by the time of the event they follow.
fn play(setup: Setup, events_wanted: usize) -> (Sim, Vec<Event>, BTreeMap<u64, Truth>) {
    let mut sim = Sim::start(setup, true);
    let mut order = Order::new(sim.info().start_monotonic_ns);
    let (mut events, mut truths) = (Vec::new(), BTreeMap::new());
    let begun = Instant::now();
    loop {
        let poll = sim
            .poll(Duration::from_millis(20), &mut |event| order.push(event))
            .unwrap();
        truths.extend(sim.take_truths().into_iter().map(|t| (t.after_ns, t)));
        match poll {
            Poll::More { watermark_ns } => order.advance(watermark_ns, &mut |event| events.push(*event)),
            Poll::End => break,
        }
        if events.len() > events_wanted || begun.elapsed() > Duration::from_secs(20) {
            sim.stop();
        }
    }
    let losses = sim.losses().unwrap();
    order.finish(&losses, &mut |event| events.push(*event));
    (sim, events, truths)
}

fn engine_equals_truth(setup: Setup) {
    let (sim, events, truths) = play(setup, 60_000);
    assert_eq!(sim.warnings(), 0);
    assert!(
        events.windows(2).all(|w| w[0].header.ts_ns < w[1].header.ts_ns),
        "one order, no ties"
    );
    let mut engine = Engine::new(sim.info());
    let mut compared = 0;
    for event in &events {
        engine.apply(event, &mut |_, meta| {
            assert!(!meta.derived, "everything is observed");
        });
        let Some(truth) = truths.get(&event.header.ts_ns) else {
            continue;
        };
        let task = engine
            .tasks()
            .find(|t| t.task().tid == truth.tid)
            .expect("a task that made an event");
        let in_question = |vma: u64| !truth.detached.contains(&vma);
        let mut says: Vec<_> = task
            .holds()
            .filter(|h| in_question(h.vma))
            .map(|h| (h.lock as u8, h.mm, h.vma))
            .collect();
        let mut holds: Vec<_> = truth
            .holds
            .iter()
            .map(|&(lock, mm, vma)| (lock as u8, mm, vma))
            .collect();
        says.sort_unstable();
        // A VMA that was unmapped and mapped again under one write lock is in the engine's list twice.
        says.dedup();
        holds.sort_unstable();
        assert_eq!(says, holds, "after {event:?}");
        compared += 1;
    }
    assert!(compared > 1_000, "{compared} truths");
    assert!(engine.anomalies().is_empty(), "{:?}", engine.anomalies());
    assert!(
        truths
            .values()
            .any(|t| t.holds.iter().any(|h| h.0 == Lock::VmaWrite))
    );
    println!(
        "{}: {compared} answers compared, all equal, {} events",
        setup.family.name(),
        events.len()
    );
}

#[test]
fn the_engine_says_what_every_thread_knows() {
    for family in Family::ALL {
        engine_equals_truth(Setup {
            threads: 4,
            vmas: 8,
            writers: 2,
            seed: 7,
            family,
        });
    }
}

#[test]
fn many_vmas_and_readers() {
    engine_equals_truth(Setup {
        threads: 6,
        vmas: 200,
        writers: 1,
        seed: 42,
        ..Setup::default()
    });
}
