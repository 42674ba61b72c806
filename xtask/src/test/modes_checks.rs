//! `--mode`: what the kernel pairs and sums up by itself is what streaming shows.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::guests::{Ctx, Evidence, On, Scenario, expect};
use super::tracer_checks::{Event, balanced, events, json, number};
use crate::build;
use crate::vm::Outcome;

/// Scenarios of modes.
pub(crate) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "modes",
    on: On::These(&["6.12", "7.3"]),
    boot: modes,
    checks: &[
        ("counts-are-equal", counts_are_equal),
        ("sums-equal-the-stream", sums_equal_the_stream),
        ("sums-equal-the-holds", sums_equal_the_holds),
        ("refusals-are-clear", refusals_are_clear),
        ("kernel-is-content", Evidence::kernel_is_content),
    ],
}];

/// Pairs of mmap and munmap of the workload that is alike each time.
const PAIRS: u64 = 1_000;
/// Pages that another touches, in each of two rounds.
const FAULTS: u64 = 2_000;

fn modes(ctx: &Ctx) -> Result<Outcome> {
    let mut guest = ctx.guest();
    guest.timeout = Duration::from_secs(300);
    for program in ["mmapstorm", "opstorm"] {
        guest
            .adds
            .push((build::guest_bin(program)?, format!("/usr/bin/{program}")));
    }
    // Nothing that differs from run to run: where things lie, or what a process does before it runs the program. A hundred
    // kprobes take seconds to attach and as long to go, so only one run has them.
    guest.sh(&format!(
        "cd /out; sysctl -q -w kernel.randomize_va_space=0
         quick='--without kprobe,kprobe-notrace,breakpoint'
         did() {{ test $1 = 0 || {{ echo \"$2 ended with $1\" >&2; cat err; exit 1; }}; }}
         for what in mmapstorm opstorm; do
           case $what in mmapstorm) run='mmapstorm --threads 1 --pairs {PAIRS}';; *) run='opstorm --times {FAULTS} --rounds 1 fault';; esac
           tracer record $quick --buffer 64M --comm $what -o /tmp/s.rec -- $run > /dev/null 2> err; did $? stream
           tracer stats --json /tmp/s.rec > $what.stream 2>> err; did $? stream-stats
           tracer record $quick --mode holds --buffer 64M --comm $what -o /tmp/h.rec -- $run > /dev/null 2> err; did $? holds
           tracer stats --json /tmp/h.rec > $what.holds 2>> err; did $? holds-stats
           tracer stats $quick --mode summary --json --comm $what -- $run > said 2> err; did $? summary
           sed -n '/^{{$/,$p' said > $what.summary
         done
         tracer record --buffer 64M --sums both.json -o both.rec -- workload storm --threads 2 --duration 400 > /dev/null 2> err
         did $? both
         tracer record $quick --mode holds --buffer 64M --sums holds.json -o holds.rec -- \
           workload storm --threads 2 --duration 400 > /dev/null 2> err; did $? holds-both
         tracer stats --json holds.rec > holds.stats; did $? stats
         for command in top check record; do
           case $command in record) more='-o /tmp/x.rec';; *) more=;; esac
           tracer $command --mode summary $more > $command.said 2>&1 < /dev/null; echo $? > $command.code
         done
         test ! -e /tmp/x.rec"
    ))
}

const LOCKS: [&str; 3] = ["mmap_read", "mmap_write", "vma_read"];

/// The same workload three times, each time looked at in another way.
fn counts_are_equal(e: &Evidence) -> Result<()> {
    e.succeeded()?;
    for what in ["mmapstorm", "opstorm"] {
        let [stream, holds, summary] = ["stream", "holds", "summary"].map(|mode| {
            let name = format!("{what}.{mode}");
            json(&e.out_text(&name)?).with_context(|| format!("in {name}"))
        });
        let (stream, holds, summary) = (stream?, holds?, summary?);
        nothing_dropped(&stream)?;
        nothing_dropped(&holds)?;
        expect("runs that were skipped", &number(&stream, "/events/missed")?, &0)?;
        let one_by_one = ("one by one", &holds, number(&holds, "/events/missed")?);
        let in_sum = ("in sum", &summary, number(&summary, "/lost/missed")?);
        let mut counts = BTreeMap::new();
        for at in [
            "holds/mmap_read",
            "holds/mmap_write",
            "holds/vma_read",
            "waits/mmap_read",
            "waits/mmap_write",
        ] {
            let at = format!("/{at}/count");
            let streamed = number(&stream, &at)?;
            for (how, report, missed) in [one_by_one, in_sum] {
                // Where the kernel skipped a run, which it tells, a hold or wait is less, and no other.
                let found = number(report, &at)?;
                ensure!(
                    found <= streamed && streamed - found <= missed,
                    "{what}: {at} {how} is {found} instead of {streamed}, with {missed} runs skipped"
                );
            }
            counts.insert(at, streamed);
        }
        // And they are those of the workload, not of nothing.
        let (lock, least) = match what {
            "mmapstorm" => ("/holds/mmap_write/count", 2 * PAIRS),
            _ => ("/holds/vma_read/count", 2 * FAULTS),
        };
        ensure!(
            counts[lock] >= least,
            "{what}: {lock} is {}, at least {least} were made",
            counts[lock]
        );
    }
    Ok(())
}

fn nothing_dropped(stats: &Value) -> Result<()> {
    for lost in ["dropped", "missing"] {
        expect(lost, &number(stats, &format!("/events/{lost}"))?, &0)?;
    }
    balanced(stats)
}

/// Times by what they are of.
type Times = BTreeMap<&'static str, Vec<u64>>;

/// What has begun of one thread: by lock's address, and since when.
#[derive(Default)]
struct Begun {
    vmas: Vec<(String, u64)>,
    mms: Vec<(String, u64, bool)>,
    wait: Option<(String, u64)>,
    vma_write: Option<(String, u64)>,
}

/// Takes what has begun, if it has.
fn end(of: &mut Option<(String, u64)>, what: &str) -> Option<u64> {
    let (_, since) = of.take_if(|(begun, _)| begun == what)?;
    Some(since)
}

/// Two are kept of each, and the oldest goes, as in the kernel.
fn make_room<T>(held: &mut Vec<T>) {
    if held.len() == 2 {
        held.remove(0);
    }
}

/// The times that the events of a stream tell of, each of its two ends: the pairing of the kernel's side, once more.
fn times(events: &[Event]) -> Times {
    const VMA_LOCK: u64 = 1 << 12;
    const USER: u64 = 1 << 6;
    const DROPPED: u64 = 0x4400;
    let mut all = Times::new();
    let mut threads: BTreeMap<u64, Begun> = BTreeMap::new();
    for event in events.iter().filter(|event| !event.derived) {
        let thread = threads.entry(event.tid).or_default();
        let mut took = |what, since: Option<u64>| {
            if let Some(since) = since {
                all.entry(what).or_default().push(event.ts_ns - since);
            }
        };
        let mut end_vma = || {
            let at = thread.vmas.iter().rposition(|(vma, _)| *vma == event.vma)?;
            Some(thread.vmas.remove(at).1)
        };
        match event.kind.as_str() {
            "vma_read_acquire" => {
                make_room(&mut thread.vmas);
                thread.vmas.push((event.vma.clone(), event.ts_ns));
            }
            "vma_read_release" => took("observed", end_vma()),
            "fault_end" if event.fault_flags & VMA_LOCK != 0 => {
                let since = end_vma();
                took("derived", since.filter(|_| event.result & DROPPED == 0));
                if event.fault_flags & USER != 0 {
                    // What is left of an end that nobody saw.
                    thread.vmas.clear();
                }
            }
            "vma_write_start" => thread.vma_write = Some((event.vma.clone(), event.ts_ns)),
            "vma_write_acquire" => took("wait_vma_write", end(&mut thread.vma_write, &event.vma)),
            "mmap_start" => thread.wait = Some((event.mm.clone(), event.ts_ns)),
            "mmap_fail" => thread.wait = None,
            "mmap_acquire" => {
                let waited = end(&mut thread.wait, &event.mm);
                let what = if event.write {
                    "wait_mmap_write"
                } else {
                    "wait_mmap_read"
                };
                took(what, waited);
                make_room(&mut thread.mms);
                thread.mms.push((event.mm.clone(), event.ts_ns, event.write));
            }
            "mmap_downgrade" | "mmap_release" => {
                let write = event.write || event.kind == "mmap_downgrade";
                let held = |(mm, _, of_write): &(String, u64, bool)| *mm == event.mm && *of_write == write;
                let at = thread.mms.iter().rposition(held);
                let since = at.map(|at| thread.mms.remove(at).1);
                took(if write { "mmap_write" } else { "mmap_read" }, since);
                if event.kind == "mmap_downgrade" {
                    thread.mms.push((event.mm.clone(), event.ts_ns, false));
                }
            }
            _ => {}
        }
    }
    all
}

/// The buckets of a report are those that these times fall into, and their sum is theirs.
fn is_histogram_of(what: &str, report: &Value, times: &[u64]) -> Result<()> {
    let buckets = report["buckets"].as_array().context("no buckets")?;
    let mut left = times.to_vec();
    for bucket in buckets {
        let (from, count) = (number(bucket, "/from_ns")?, number(bucket, "/count")?);
        let to = bucket["to_ns"].as_u64().unwrap_or(u64::MAX);
        let before = left.len();
        left.retain(|time| !(from..to).contains(time));
        expect(
            &format!("{what} of {from} to {to} ns"),
            &count,
            &((before - left.len()) as u64),
        )?;
    }
    ensure!(left.is_empty(), "{what}: the kernel has none of {left:?}");
    expect(
        &format!("{what} in sum"),
        &number(report, "/total_ns")?,
        &times.iter().sum(),
    )
}

/// Both at once: the histograms were made from the times that the events have.
fn sums_equal_the_stream(e: &Evidence) -> Result<()> {
    e.succeeded()?;
    let sums = json(&e.out_text("both.json")?)?;
    let events = events(e, "both.rec")?;
    ensure!(
        events.iter().all(|event| event.kind != "gap"),
        "events are missing, with a buffer of 64M"
    );
    expect("times lost to a full table", &number(&sums, "/lost/crowded")?, &0)?;
    let times = times(&events);
    let none = Vec::new();
    for (at, what) in [
        ("/vma_read_by_provenance/derived", "derived"),
        ("/vma_read_by_provenance/observed", "observed"),
        ("/holds/mmap_read", "mmap_read"),
        ("/holds/mmap_write", "mmap_write"),
        ("/waits/mmap_read", "wait_mmap_read"),
        ("/waits/mmap_write", "wait_mmap_write"),
        ("/waits/vma_write", "wait_vma_write"),
    ] {
        let report = sums.pointer(at).with_context(|| format!("no {at}"))?;
        let expected = times.get(what).unwrap_or(&none);
        ensure!(
            !expected.is_empty() || what == "observed",
            "the stream has no {what}"
        );
        is_histogram_of(what, report, expected)?;
    }
    let count = |kind: &str| {
        events
            .iter()
            .filter(|event| event.kind == kind && !event.derived)
            .count() as u64
    };
    for (name, kind) in [("mmap_fails", "mmap_fail"), ("vma_read_fails", "vma_read_fail")] {
        expect(name, &number(&sums, &format!("/counts/{name}"))?, &count(kind))?;
    }
    Ok(())
}

/// Each event of a hold has the length that went into the histogram.
fn sums_equal_the_holds(e: &Evidence) -> Result<()> {
    e.succeeded()?;
    let sums = json(&e.out_text("holds.json")?)?;
    let stats = json(&e.out_text("holds.stats")?)?;
    nothing_dropped(&stats)?;
    let mut times = Times::new();
    let mut waits = Times::new();
    for event in events(e, "holds.rec")? {
        expect("the only kind", &event.kind.as_str(), &"hold")?;
        let length = event.length_ns.context("a hold without a length")?;
        let lock = match (event.vma.is_empty(), event.write) {
            (false, _) => "vma_read",
            (true, true) => "mmap_write",
            (true, false) => "mmap_read",
        };
        times.entry(lock).or_default().push(length);
        waits.entry(lock).or_default().extend(event.waited_ns);
    }
    for lock in LOCKS {
        let times = times.get(lock).with_context(|| format!("no hold of {lock}"))?;
        is_histogram_of(lock, &sums["holds"][lock], times)?;
        expect(
            &format!("holds of {lock} in the tables"),
            &number(&stats, &format!("/holds/{lock}/count"))?,
            &(times.len() as u64),
        )?;
    }
    for lock in ["mmap_read", "mmap_write"] {
        let counted = number(&sums, &format!("/waits/{lock}/count"))?;
        let told = waits.get(lock).map_or(0, Vec::len) as u64;
        // Who still held it at the end had waited for it, too.
        ensure!(
            told <= counted && counted - told <= 4,
            "waits for {lock}: {told} told with their holds, {counted} counted"
        );
    }
    Ok(())
}

fn refusals_are_clear(e: &Evidence) -> Result<()> {
    for command in ["check", "record"] {
        let said = e.out_text(&format!("{command}.said"))?;
        expect("exit code", &e.out_text(&format!("{command}.code"))?.trim(), &"2")?;
        ensure!(
            said.contains("tracer stats --mode summary") && said.lines().count() == 1,
            "{said}"
        );
    }
    expect("exit code", &e.out_text("top.code")?.trim(), &"2")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_histogram_of_other_times_is_found_out() {
        let report = json!({"total_ns": 25, "buckets": [
            {"from_ns": 8, "to_ns": 10, "count": 1}, {"from_ns": 16, "to_ns": null, "count": 1}]});
        assert!(is_histogram_of("x", &report, &[9, 16]).is_ok());
        for wrong in [&[9, 15][..], &[8, 17], &[9], &[9, 9, 7]] {
            if wrong == [8, 17] {
                assert!(is_histogram_of("x", &report, wrong).is_ok());
            } else {
                assert!(is_histogram_of("x", &report, wrong).is_err(), "{wrong:?}");
            }
        }
    }
}
