//! Filters on real kernels: what was asked for is recorded, and nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::guests::{Ctx, Evidence, On, Scenario, expect};
use super::tracer_checks::{Event, balanced, events, json, number, waits_are_seen};
use crate::ui;
use crate::vm::Outcome;

/// Scenarios of filters.
pub(crate) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "filters",
    on: On::These(&["6.12", "7.3"]),
    boot: filters,
    checks: &[
        ("by-process", |e| {
            let pid = said_number(e, "pid")?;
            all_events(e, "pid.rec", |event| event.pid == pid)
        }),
        ("by-name", |e| {
            let of_name = |event: &Event| event.comm == "w-writer";
            let all = events(e, "comm.rec")?;
            // A wake-up is its waker's event, and is told of whoever was asked for.
            all_events(e, "comm.rec", |event| {
                of_name(event)
                    || event.kind == "sched_wake"
                        && all.iter().any(|one| of_name(one) && one.tid == event.other_tid)
            })
        }),
        ("by-kind", |e| {
            all_events(e, "only.rec", |event| {
                event.derived || event.kind == "mmap_acquire" || event.kind == "mmap_release"
            })
        }),
        ("by-thread", |e| {
            let tid = said_number(e, "tid")?;
            all_events(e, "tid.rec", |event| {
                event.tid == tid || event.kind == "sched_wake" && event.other_tid == tid
            })
        }),
        ("by-cgroup", by_cgroup),
        ("by-address", by_address),
        ("by-hold", by_hold),
        ("by-wait", by_wait),
        ("kernel-is-content", Evidence::kernel_is_content),
    ],
}];

fn filters(ctx: &Ctx) -> Result<Outcome> {
    let mut guest = ctx.guest();
    guest.timeout = Duration::from_secs(400);
    // What waits for no instruction is asked without kprobes: a hundred of them take seconds to attach and as long to go.
    guest.sh("cd /out
         quick='--without kprobe,kprobe-notrace,breakpoint'
         did() { test $1 = 0 || { echo \"$2 ended with $1\" >&2; exit 1; }; }
         workload storm --json --threads 2 --duration 200000 > /dev/null & w=$!; echo $w > pid; sleep 1
         tracer record -o pid.rec -p $w --duration 400ms; did $? pid
         tid=$(ls /proc/$w/task | tail -n 1); echo $tid > tid
         tracer record $quick -o tid.rec -t $tid --duration 400ms; did $? tid
         lo=$(tracer export pid.rec -f jsonl -o - | grep fault_end |
              sed -n 's/.*\"vm_start\":\\([0-9]*\\),.*/\\1/p' | sort | uniq -c | sort -rn | head -n 1 | awk '{ print $2 }')
         echo $lo > lo
         tracer record -o addr.rec -p $w --addr $lo+4096 --duration 400ms; did $? addr
         tracer stats --json addr.rec > addr.json; tracer check addr.rec > addr.check; echo $? > addr.code
         kill $w; wait $w
         workload storm --threads 1 --duration 200000 > /dev/null & w=$!
         g=/sys/fs/cgroup; mkdir -p $g/t/in $g/u
         sh -c \"echo \\$\\$ > $g/t/in/cgroup.procs; exec workload storm --threads 1 --duration 200000\" > /dev/null & c=$!
         echo $c > cgroup-pid; sleep 1
         tracer record $quick -o above.rec --cgroup t --duration 400ms; did $? above
         tracer record $quick -o in.rec --cgroup $g/t/in --duration 400ms; did $? in
         tracer record $quick -o beside.rec --cgroup 0::/u --duration 400ms; did $? beside
         mkdir /tmp/part; mount --bind $g/t /tmp/part; umount $g; did $? umount
         tracer record $quick -o part.rec --cgroup /in --duration 400ms; did $? part
         kill $w $c; wait $w $c
         tracer record $quick -o only.rec --only mmap_acquire,mmap_release -- workload mprotect > /dev/null; did $? only
         tracer record $quick -o comm.rec --comm w-writer -- workload holder > /dev/null; did $? comm
         for what in hold wait; do for try in 1 2 3 4; do
           tracer record $quick -o $what.rec --min-$what 300ms -- workload holder --kind write -p 4096 -d 1500 --json > $what.truth
           did $? $what; tracer stats --json $what.rec > $what.json; did $? stats
           # Where the kernel skipped runs of probes, what was under way stays, however short.
           grep -q '\"missed\": 0' $what.json && break
         done; done")
}

fn said_number(e: &Evidence, file: &str) -> Result<u64> {
    let text = e.out_text(file)?;
    text.trim()
        .parse()
        .with_context(|| format!("{file} has no number: {text}"))
}

fn all_events(e: &Evidence, recording: &str, wanted: impl Fn(&Event) -> bool) -> Result<()> {
    e.succeeded()?;
    let events = events(e, recording)?;
    ensure!(!events.is_empty(), "{recording} is empty");
    // A gap is nobody's: it says that something was lost, on a machine that is slow.
    let mut all_but_gaps = events.iter().filter(|event| event.kind != "gap");
    if let Some(other) = all_but_gaps.find(|event| !wanted(event)) {
        anyhow::bail!(
            "{recording} has {} of {} ({}, {})",
            other.kind,
            other.comm,
            other.pid,
            other.tid
        );
    }
    Ok(())
}

/// Others fault meanwhile, in the root of all cgroups. At last only a part of all groups is in sight, as in a container.
fn by_cgroup(e: &Evidence) -> Result<()> {
    let pid = said_number(e, "cgroup-pid")?;
    for recording in ["above.rec", "in.rec", "part.rec"] {
        all_events(e, recording, |event| {
            event.pid == pid || event.kind == "sched_wake"
        })?;
        let faults = events(e, recording)?
            .iter()
            .filter(|event| event.kind == "fault_end")
            .count();
        ensure!(faults > 0, "{recording} has no faults");
    }
    let beside = events(e, "beside.rec")?.len();
    expect("events of a cgroup without tasks", &beside, &0)
}

/// One of the two threads' areas is asked for, by its first page alone.
fn by_address(e: &Evidence) -> Result<()> {
    let lo = said_number(e, "lo")?;
    all_events(e, "addr.rec", |event| {
        let reaches = event.vm_start < lo + 4096 && event.vm_end > lo;
        reaches
            || (lo..lo + 4096).contains(&event.address)
            // These have no address.
            || event.kind.starts_with("mmap_")
            || event.kind.starts_with("sched_")
            || event.kind.starts_with("task_")
            || event.kind == "stack"
            // Where a fault has lost its lock nothing is read of the VMA any more.
            || event.vm_end == 0 && event.kind == "fault_end"
    })?;
    let of = |events: &[Event], there: bool| {
        let faults = events.iter().filter(|event| event.kind == "fault_end");
        faults.filter(|event| (event.vm_start == lo) == there).count()
    };
    let (asked, all) = (events(e, "addr.rec")?, events(e, "pid.rec")?);
    ensure!(of(&asked, true) > 0, "no fault in the range was recorded");
    ensure!(
        of(&all, false) > 0,
        "without the filter there are no other faults"
    );
    let stats = json(&e.out_text("addr.json")?)?;
    expect("anomalies", &number(&stats, "/anomalies/total")?, &0)?;
    balanced(&stats)?;
    expect("exit code of check", &e.out_text("addr.code")?.trim(), &"0")
}

/// What `--min-hold` and `--min-wait` were given.
const LONG_NS: u64 = 300_000_000;

/// Events about locks and faults, by thread.
fn by_thread(events: &[Event]) -> BTreeMap<u64, Vec<&Event>> {
    let mut threads: BTreeMap<u64, Vec<&Event>> = BTreeMap::new();
    for event in events {
        let beside = ["sched_", "task_", "stack", "gap"];
        if !event.derived && !beside.iter().any(|name| event.kind.starts_with(name)) {
            threads.entry(event.tid).or_default().push(event);
        }
    }
    threads
}

/// What was left out has left no hole. Tells whether all of it is known: of what was under way when the kernel skipped a
/// probe's run, or when an event was dropped, nobody knows how long it lasted, so it stays.
fn is_whole(e: &Evidence, what: &str) -> Result<bool> {
    e.succeeded()?;
    let stats = json(&e.out_text(&format!("{what}.json"))?)?;
    let of = |at: &str| number(&stats, at);
    expect("missing", &of("/events/missing")?, &of("/events/dropped")?)?;
    expect("anomalies", &of("/anomalies/total")?, &0)?;
    balanced(&stats)?;
    let uncertain = of("/events/missed")? + of("/events/dropped")?;
    if uncertain > 0 {
        ui::line(&format!(
            "       {}: with --min-{what} {uncertain} events or runs of probes were lost in each of four tries, so short ones may stay",
            e.ctx.name
        ));
    }
    Ok(uncertain == 0)
}

fn truth(e: &Evidence, what: &str) -> Result<Value> {
    json(e.out_text(&format!("{what}.truth"))?.trim())
}

fn by_hold(e: &Evidence) -> Result<()> {
    let is_certain = is_whole(e, "hold")?;
    let events = events(e, "hold.rec")?;
    let threads = by_thread(&events);
    for (tid, events) in threads.iter().filter(|_| is_certain) {
        let begin = events.iter().map(|event| event.ts_ns).min().unwrap_or_default();
        let end = events.iter().map(|event| event.ts_ns).max().unwrap_or_default();
        ensure!(
            end - begin >= LONG_NS,
            "thread {tid} ({}) did nothing for so long, but has {} events",
            events[0].comm,
            events.len()
        );
    }
    let truth = truth(e, "hold")?;
    let holder = number(&truth, "/holder/tid")?;
    let (from, to) = (number(&truth, "/hold_ns/0")?, number(&truth, "/hold_ns/1")?);
    let events = threads.get(&holder).context("the holder was left out")?;
    let taken = |event: &&&Event| event.kind == "mmap_acquire" && event.write && event.ts_ns <= from;
    let given = |event: &&&Event| event.kind == "mmap_release" && event.ts_ns >= to;
    ensure!(
        events.iter().any(|event| taken(&event)),
        "the holder's acquire is missing"
    );
    ensure!(
        events.iter().any(|event| given(&event)),
        "the holder's release is missing"
    );
    Ok(())
}

fn by_wait(e: &Evidence) -> Result<()> {
    let is_certain = is_whole(e, "wait")?;
    let events = events(e, "wait.rec")?;
    for (tid, events) in by_thread(&events).into_iter().filter(|_| is_certain) {
        let mut events = events;
        events.sort_by_key(|event| event.ts_ns);
        let longest = events
            .windows(2)
            .filter(|pair| pair[0].kind.ends_with("_start"))
            .map(|pair| pair[1].ts_ns - pair[0].ts_ns)
            .max();
        ensure!(
            longest.is_some_and(|longest| longest >= LONG_NS),
            "thread {tid} ({}) waited for {longest:?} ns, but has {} events",
            events[0].comm,
            events.len()
        );
    }
    waits_are_seen(&truth(e, "wait")?, &events)
}
