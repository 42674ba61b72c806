//! What tracer must get right on real kernels.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::guests::{Ctx, Evidence, On, Scenario, expect};
use crate::vm::Outcome;
use crate::ws;

/// Kernels that tracer attaches to.
pub(super) const TRACED: On = On::These(&[
    "6.12", "6.16", "6.17", "6.18", "6.19", "7.0", "7.1", "7.2", "7.3", "oracle",
]);
/// Those whose lock is a reference count.
const REFCOUNT: &[&str] = &[
    "6.16", "6.17", "6.18", "6.19", "7.0", "7.1", "7.2", "7.3", "oracle",
];

/// Scenarios of tracer, in the order in which they run on each kernel.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "counts",
        on: TRACED,
        boot: counts,
        checks: &[
            ("nothing-lost", nothing_lost),
            ("every-mmap-lock-is-given-back", every_lock_is_given_back),
            ("every-vma-lock-is-given-back", every_vma_lock_is_given_back),
            ("write-locks-equal-the-calls", write_locks_equal_the_calls),
            ("touches-equal-faults", touches_equal_faults),
            ("each-fault-is-told-how", each_fault_is_told_how),
            ("children-are-followed", children_are_followed),
            ("nothing-odd", nothing_odd),
            ("operations-of-the-vma-lock-are-seen", operations_are_seen),
            ("kernel-is-content", Evidence::kernel_is_content),
        ],
    },
    Scenario {
        name: "full-ring",
        on: TRACED,
        boot: |ctx| {
            ctx.guest().sh(
                "tracer record --buffer 4K -o /out/a.rec -- workload anon --json --threads 2 --pages 2048 > /out/truth 2> /out/err
                 tracer stats --json /out/a.rec > /out/stats.json",
            )
        },
        checks: &[
            ("drops-are-exact", drops_are_exact),
            ("gaps-make-no-anomalies", |e| {
                expect("anomalies", &number(&stats(e)?, "/anomalies/total")?, &0)
            }),
        ],
    },
    Scenario {
        name: "leaving",
        on: TRACED,
        boot: leaving,
        checks: &[
            ("no-probe-left", no_probe_left),
            ("what-was-killed-can-be-read", |e| {
                for how in ["INT", "TERM", "KILL"] {
                    let stats = json(&e.out_text(&format!("stats-{how}"))?)?;
                    ensure!(
                        number(&stats, "/events/received")? > 0,
                        "nothing was recorded before SIG{how}"
                    );
                    let complete = stats.pointer("/complete").and_then(Value::as_bool);
                    expect(
                        &format!("complete after SIG{how}"),
                        &complete,
                        &Some(how != "KILL"),
                    )?;
                }
                Ok(())
            }),
        ],
    },
    Scenario {
        name: "old",
        on: On::These(&["6.1"]),
        boot: |ctx| {
            ctx.guest().sh("tracer record -o /tmp/a.rec --duration 1s 2> /out/err; echo $? > /out/code; test ! -e /tmp/a.rec")
        },
        checks: &[("is-refused-clearly", |e| {
            e.succeeded()?;
            expect("exit code", &e.out_text("code")?.trim(), &"4")?;
            let said = e.out_text("err")?;
            ensure!(
                said.contains("has no per-VMA lock") && said.contains("6.4"),
                "{said}"
            );
            expect("lines said", &said.lines().count(), &1)
        })],
    },
    Scenario {
        name: "bad-input",
        on: On::These(&["7.3"]),
        boot: bad_input,
        checks: &[
            ("no-privileges", |e| refused(e, "user", "4", "CAP_BPF")),
            ("no-types", |e| refused(e, "btf", "4", "CONFIG_DEBUG_INFO_BTF")),
            ("dead-process", |e| refused(e, "pid", "1", "no process 999999")),
            ("no-such-folder", |e| {
                refused(e, "folder", "1", "/nonexistent/a.rec")
            }),
            ("full-disk", |e| refused(e, "full", "1", "No space left")),
            ("full-disk-leaves-a-readable-file", |e| {
                let stats = json(&e.out_text("full-stats")?)?;
                ensure!(number(&stats, "/events/received")? > 0, "nothing can be read");
                Ok(())
            }),
            ("truncated", |e| {
                refused(e, "cut", "0", "what comes before is good")
            }),
            ("foreign", |e| refused(e, "foreign", "1", "is no recording")),
            ("no-terminal", |e| refused(e, "top", "1", "tracer record")),
            ("no-such-kind", |e| refused(e, "kind", "2", "vma_read_acquire")),
            ("no-such-cgroup", |e| {
                refused(e, "cgroup", "1", "/proc/PID/cgroup")
            }),
            ("folder-that-is-no-cgroup", |e| {
                refused(e, "no-cgroup", "1", "/tmp is no folder of cgroup v2")
            }),
            ("empty-range", |e| refused(e, "addr", "2", "above the start")),
            ("no-such-time", |e| refused(e, "hold", "2", "such as 10s")),
            ("head", |e| {
                expect("exit code", &e.out_text("head.code")?.trim(), &"0")?;
                expect("errors", &e.out_text("head.err")?.as_str(), &"")?;
                expect("lines", &e.out_text("head.out")?.lines().count(), &1)
            }),
            ("no-command", |e| {
                refused(e, "cmd", "1", "cannot start /nonexistent/command")
            }),
            ("nobody-panics", |e| {
                ensure!(
                    !e.outcome
                        .kernel_warnings
                        .iter()
                        .any(|line| line.contains("segfault")),
                    "{}",
                    e.story()
                );
                for name in [
                    "user",
                    "btf",
                    "pid",
                    "folder",
                    "full",
                    "cut",
                    "foreign",
                    "top",
                    "kind",
                    "cgroup",
                    "no-cgroup",
                    "addr",
                    "hold",
                    "cmd",
                ] {
                    let said = e.out_text(&format!("{name}.err"))?;
                    ensure!(!said.contains("panicked"), "{said}");
                }
                Ok(())
            }),
        ],
    },
    Scenario {
        name: "locked-down",
        on: On::These(&["7.3"]),
        boot: |ctx| {
            let mut guest = ctx.guest();
            "lockdown=confidentiality".clone_into(&mut guest.append);
            guest.sh(
                "tracer record -o /out/a.rec -- workload mprotect --json > /out/truth.json 2> /out/err
                 tracer stats --json /out/a.rec > /out/stats.json; tracer doctor --json > /out/doctor.json",
            )
        },
        checks: &[
            ("typed-loads-still-work", |e| {
                // Lockdown forbids the helper that reads any address, not loads that the verifier knows the
                // type of: a stock kernel's plan needs nothing else.
                let stats = stats(e)?;
                let of = |kind: &str| number(&stats, &format!("/events/by_kind/{kind}"));
                ensure!(
                    of("mmap_acquire")? > 0 && of("fault_begin")? > 0 && of("vma_read_acquire")? > 0,
                    "{stats}"
                );
                ensure!(
                    events(e, "a.rec")?.iter().any(|event| event.mm_lock_seq > 1),
                    "no mm_lock_seq was read"
                );
                touches_equal_faults(e)
            }),
            ("doctor-names-it", |e| {
                let doctor = json(&e.out_text("doctor.json")?)?;
                expect("lockdown", &doctor["lockdown"].as_str(), &Some("confidentiality"))
            }),
        ],
    },
    Scenario {
        name: "holder",
        on: TRACED,
        boot: |ctx| {
            ctx.guest().sh(
                "tracer record -o /out/a.rec -- workload holder --json > /out/truth.json 2> /out/err && \
                 tracer stats --json /out/a.rec > /out/stats.json",
            )
        },
        checks: &[("known-waits-are-seen", known_waits)],
    },
];

/// The project's own workload, with a processor for each of its threads: a probe that is interrupted for another
/// task makes the kernel skip that other task's run of it. Such runs are counted, and a recording with any proves
/// nothing about equality, so it is made again; how often is in the evidence. The same goes for events that found no
/// room: up to 6.15 a kprobe does not wait for the ring's lock, which an emulated processor may hold for long.
fn counts(ctx: &Ctx) -> Result<Outcome> {
    let mut guest = ctx.guest();
    guest.smp = 6;
    guest.timeout = Duration::from_secs(300);
    guest.sh(
        "for try in 1 2 3 4 5 6; do
           echo $try > /out/tries
           tracer record -o /out/a.rec -- workload mixed --json --threads 3 > /out/truth.json 2> /out/err || exit 1
           tracer stats --json /out/a.rec > /out/stats.json || exit 1
           test -s /out/truth.json && grep -q '\"missed\": 0' /out/stats.json && grep -q ', 0 dropped,' /out/err && exit 0
         done",
    )
}

/// All of the machine, the tracer included, beside what the kernel counts itself.
fn leaving(ctx: &Ctx) -> Result<Outcome> {
    ctx.guest().sh("witness --bpf > /out/before
         for how in INT TERM KILL; do
           tracer record -o /out/$how.rec 2> /dev/null & t=$!
           while ! test -s /out/$how.rec; do sleep 0.1; done
           witness --bpf > /out/during; workload anon > /dev/null; sleep 1.5
           kill -$how $t; wait $t
           for i in 1 2 3 4 5 6 7 8 9 10; do
             sleep 0.2; witness --bpf > /out/after-$how; cmp -s /out/before /out/after-$how && break
           done
           tracer stats --json /out/$how.rec > /out/stats-$how 2> /dev/null
         done; true")
}

fn bad_input(ctx: &Ctx) -> Result<Outcome> {
    let mut guest = ctx.guest();
    guest.timeout = Duration::from_secs(240);
    guest.sh(
        "try() { name=$1; shift; \"$@\" > /out/$name.out 2> /out/$name.err < /dev/null; echo $? > /out/$name.code; }
         cd /tmp
         try user su user -c 'tracer record -o /tmp/user.rec --duration 1s'
         try pid tracer record -o pid.rec -p 999999
         try folder tracer record -o /nonexistent/a.rec --duration 1s
         try top tracer
         try kind tracer record -o kind.rec --only nonsense
         try cgroup tracer record -o cgroup.rec --cgroup /no-such.slice
         try no-cgroup tracer record -o cgroup.rec --cgroup /tmp
         try addr tracer record -o addr.rec --addr 0x2000-0x1000
         try hold tracer record -o hold.rec --min-hold long
         try cmd tracer record -o cmd.rec -- /nonexistent/command
         mkdir small; mount -t tmpfs -o size=256k none small
         try full tracer record -o small/a.rec -- workload anon --threads 2 --pages 4096
         tracer stats --json small/a.rec > /out/full-stats
         tracer record -o a.rec -- workload anon
         head -c $(($(wc -c < a.rec) * 3 / 4)) a.rec > cut.rec
         try cut tracer stats cut.rec
         try foreign tracer stats /bin/busybox
         (tracer export a.rec -f jsonl -o - 2> /out/head.err; echo $? > /out/head.code) | head -n 1 > /out/head.out
         : > empty; mount --bind empty /sys/kernel/btf/vmlinux
         try btf tracer record -o btf.rec --duration 1s
         true",
    )
}

pub(super) fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("no JSON: {text}"))
}

pub(super) fn number(value: &Value, at: &str) -> Result<u64> {
    value
        .pointer(at)
        .and_then(Value::as_u64)
        .with_context(|| format!("no number at {at} in {value}"))
}

pub(super) fn stats(e: &Evidence) -> Result<Value> {
    json(&e.out_text("stats.json")?)
}

/// What the workload says of itself.
fn said(e: &Evidence) -> Result<Value> {
    json(e.out_text("truth.json")?.trim())
}

/// One line of the export.
pub(super) struct Event {
    pub(super) ts_ns: u64,
    pub(super) pid: u64,
    pub(super) tid: u64,
    pub(super) other_tid: u64,
    pub(super) comm: String,
    pub(super) kind: String,
    pub(super) write: bool,
    pub(super) derived: bool,
    pub(super) fault_flags: u64,
    pub(super) result: u64,
    pub(super) errno: u64,
    pub(super) reason: String,
    pub(super) site: String,
    pub(super) mm: String,
    pub(super) vma: String,
    pub(super) length_ns: Option<u64>,
    pub(super) waited_ns: Option<u64>,
    mm_lock_seq: u64,
    pub(super) vm_start: u64,
    pub(super) vm_end: u64,
    pub(super) address: u64,
}

const FAULT_FLAG_USER: u64 = 1 << 6;
pub(super) const VM_FAULT_RETRY: u64 = 0x400;

/// The events of a recording, as `tracer export` gives them; it runs here, on what the guest recorded.
pub(super) fn events(e: &Evidence, recording: &str) -> Result<Vec<Event>> {
    let text = ws::capture(
        Command::new(e.ctx.program("tracer")?)
            .args(["export", "-f", "jsonl", "-o", "-"])
            .arg(e.ctx.out().join(recording)),
    )?;
    let events = text.lines().map(|line| {
        let line = json(line)?;
        let number = |name: &str| line[name].as_u64().unwrap_or_default();
        Ok(Event {
            ts_ns: number("ts_ns"),
            pid: number("pid"),
            tid: number("tid"),
            other_tid: number("other_tid"),
            comm: line["comm"].as_str().unwrap_or_default().to_owned(),
            kind: line["kind"]
                .as_str()
                .context("an event without a kind")?
                .to_owned(),
            write: line["write"].as_bool().unwrap_or_default(),
            derived: line["derived"].as_bool().unwrap_or_default(),
            fault_flags: number("fault_flags"),
            result: number("result"),
            errno: number("errno"),
            reason: line["reason"].as_str().unwrap_or_default().to_owned(),
            site: line["site"].as_str().unwrap_or_default().to_owned(),
            mm: line["mm"].as_str().unwrap_or_default().to_owned(),
            vma: line["vma"].as_str().unwrap_or_default().to_owned(),
            length_ns: line["length_ns"].as_u64(),
            waited_ns: line["waited_ns"].as_u64(),
            mm_lock_seq: number("mm_lock_seq"),
            vm_start: number("vm_start"),
            vm_end: number("vm_end"),
            address: number("address"),
        })
    });
    events.collect()
}

/// The events of the workload's own threads in its measured part.
fn measured(e: &Evidence) -> Result<Vec<Event>> {
    let said = said(e)?;
    let (begin, end) = (number(&said, "/begin_ns")?, number(&said, "/end_ns")?);
    let tids: Vec<u64> = said["tids"]
        .as_array()
        .context("no tids")?
        .iter()
        .filter_map(Value::as_u64)
        .collect();
    let mut events = events(e, "a.rec")?;
    events.retain(|event| tids.contains(&event.tid) && (begin..end).contains(&event.ts_ns));
    Ok(events)
}

pub(super) fn nothing_lost(e: &Evidence) -> Result<()> {
    e.succeeded()?;
    let stats = stats(e)?;
    for what in ["dropped", "gaps", "missing", "missed"] {
        expect(what, &number(&stats, &format!("/events/{what}"))?, &0)?;
    }
    balanced(&stats)
}

/// For each CPU, what was produced has arrived or was counted as dropped.
pub(super) fn balanced(stats: &Value) -> Result<()> {
    let cpus = stats["cpus"].as_array().context("no cpus")?;
    ensure!(!cpus.is_empty(), "no cpus");
    for cpu in cpus {
        let (produced, received, dropped) = (
            number(cpu, "/produced")?,
            number(cpu, "/received")?,
            number(cpu, "/dropped")?,
        );
        expect(&format!("produced on {cpu}"), &produced, &(received + dropped))?;
    }
    Ok(())
}

fn every_lock_is_given_back(e: &Evidence) -> Result<()> {
    let stats = stats(e)?;
    for lock in ["mmap_read", "mmap_write"] {
        let of = |what: &str| number(&stats, &format!("/balance/{lock}/{what}"));
        expect(&format!("{lock} held at the end"), &of("held")?, &0)?;
        expect(
            &format!("{lock} held before the start"),
            &of("unknown_starts")?,
            &0,
        )?;
        expect(&format!("{lock} lost"), &of("lost")?, &0)?;
        expect(
            &format!("{lock} given back"),
            &(of("releases")? + of("converted_out")?),
            &(of("acquires")? + of("converted_in")?),
        )?;
        ensure!(of("acquires")? > 0, "no {lock}");
    }
    Ok(())
}

fn every_vma_lock_is_given_back(e: &Evidence) -> Result<()> {
    let stats = stats(e)?;
    let of = |what: &str| number(&stats, &format!("/balance/vma_read/{what}"));
    expect("held at the end", &of("held")?, &0)?;
    expect("held before the start", &of("unknown_starts")?, &0)?;
    expect("given back", &of("releases")?, &of("acquires")?)?;
    ensure!(of("acquires")? > 0, "no vma_read_acquire");
    Ok(())
}

fn write_locks_equal_the_calls(e: &Evidence) -> Result<()> {
    let events = measured(e)?;
    // A fork locks the new address space, too; that one is not the workload's.
    let own = own_mm(&events)?;
    let seen = events
        .iter()
        .filter(|event| event.kind == "mmap_acquire" && event.write && event.mm == own)
        .count();
    expect(
        "mmap_acquire for writing",
        &(seen as u64),
        &number(&said(e)?, "/mmap_write_locks")?,
    )
}

/// The address space that the threads fault in.
fn own_mm(events: &[Event]) -> Result<String> {
    let fault = events
        .iter()
        .find(|event| event.kind == "fault_begin" && !event.mm.is_empty());
    Ok(fault.context("no fault_begin with an mm")?.mm.clone())
}

fn touches_equal_faults(e: &Evidence) -> Result<()> {
    let events = measured(e)?;
    let done = events.iter().filter(|event| {
        event.kind == "fault_end"
            && event.fault_flags & FAULT_FLAG_USER != 0
            && event.result & VM_FAULT_RETRY == 0
    });
    expect(
        "faults done",
        &(done.count() as u64),
        &number(&said(e)?, "/faults")?,
    )
}

fn each_fault_is_told_how(e: &Evidence) -> Result<()> {
    let stats = stats(e)?;
    for of in ["faults", "user_faults"] {
        let part = |what: &str| number(&stats, &format!("/{of}/{what}"));
        expect(
            of,
            &(part("vma_lock")? + part("retried")? + part("mmap_lock")? + part("error")?),
            &part("total")?,
        )?;
        ensure!(part("vma_lock")? > 0, "no fault under the VMA lock");
    }
    Ok(())
}

fn children_are_followed(e: &Evidence) -> Result<()> {
    let said = said(e)?;
    let events = events(e, "a.rec")?;
    let children = said["children"].as_array().context("no children")?;
    ensure!(!children.is_empty(), "the workload made no children");
    for child in children {
        let pid = number(child, "/pid")?;
        let done = events.iter().filter(|event| {
            event.pid == pid && event.kind == "fault_end" && event.result & VM_FAULT_RETRY == 0
        });
        // The kernel counts a child's faults up to its very end.
        let counted = number(child, "/ru_minflt")? + number(child, "/ru_majflt")?;
        expect(
            &format!("faults of child {pid}"),
            &(done.count() as u64),
            &counted,
        )?;
    }
    Ok(())
}

fn nothing_odd(e: &Evidence) -> Result<()> {
    let stats = stats(e)?;
    let anomalies = &stats["anomalies"];
    ensure!(number(anomalies, "/total")? == 0, "{anomalies:#}");
    for what in ["disordered", "late", "duplicates", "unknown_kinds"] {
        expect(what, &number(&stats, &format!("/events/odd/{what}"))?, &0)?;
    }
    Ok(())
}

fn operations_are_seen(e: &Evidence) -> Result<()> {
    let stats = stats(e)?;
    let of = |kind: &str| number(&stats, &format!("/events/by_kind/{kind}"));
    expect("fault_end", &of("fault_end")?, &of("fault_begin")?)?;
    ensure!(of("vma_detach")? > 0, "no vma_detach");
    if REFCOUNT.contains(&e.ctx.name) {
        ensure!(of("vma_write_acquire")? > 0, "no vma_write_acquire");
        expect(
            "vma_write_acquire",
            &of("vma_write_acquire")?,
            &of("vma_write_start")?,
        )?;
    }
    Ok(())
}

fn drops_are_exact(e: &Evidence) -> Result<()> {
    let stats = stats(e)?;
    ensure!(
        number(&stats, "/events/dropped")? > 0,
        "nothing was dropped: the ring was not full"
    );
    ensure!(number(&stats, "/events/gaps")? > 0, "drops, but no gap");
    expect(
        "missing by the numbering",
        &number(&stats, "/events/missing")?,
        &number(&stats, "/events/dropped")?,
    )?;
    let places = stats["events"]["dropped_at"].as_array().into_iter().flatten();
    let by_place: u64 = places.filter_map(|place| place["dropped"].as_u64()).sum();
    expect(
        "dropped, by place",
        &by_place,
        &number(&stats, "/events/dropped")?,
    )?;
    balanced(&stats)
}

fn no_probe_left(e: &Evidence) -> Result<()> {
    let before = e.out_text("before")?;
    let during = e.out_text("during")?;
    ensure!(before != during, "the witness does not see the probes: {during}");
    for how in ["INT", "TERM", "KILL"] {
        let after = e.out_text(&format!("after-{how}"))?;
        expect(&format!("left after SIG{how}"), &after.trim(), &before.trim())?;
    }
    Ok(())
}

fn refused(e: &Evidence, name: &str, code: &str, word: &str) -> Result<()> {
    let said = e.out_text(&format!("{name}.err"))?;
    let seen = e.out_text(&format!("{name}.code"))?;
    ensure!(
        seen.trim() == code,
        "exit code {}, not {code}; it said: {said}",
        seen.trim()
    );
    ensure!(said.contains(word), "it does not say '{word}': {said}");
    Ok(())
}

/// Each task that the workload saw sleep in a call was seen to wait for the lock in it.
fn known_waits(e: &Evidence) -> Result<()> {
    e.succeeded()?;
    waits_are_seen(&said(e)?, &events(e, "a.rec")?)
}

/// The same for what the workload said and what was recorded.
pub(super) fn waits_are_seen(said: &Value, events: &[Event]) -> Result<()> {
    let waits = said["waits"].as_array().context("no waits")?;
    ensure!(!waits.is_empty(), "the workload saw no waits");
    for wait in waits {
        let tid = number(wait, "/tid")?;
        let (begin, end) = (number(wait, "/begin_ns")?, number(wait, "/end_ns")?);
        if wait["slept"] != true {
            continue;
        }
        let mut starts: Vec<&Event> = events
            .iter()
            .filter(|event| event.tid == tid && (begin..=end).contains(&event.ts_ns))
            .collect();
        starts.sort_by_key(|event| event.ts_ns);
        let longest = starts
            .windows(2)
            .map(|pair| pair[1].ts_ns - pair[0].ts_ns)
            .max()
            .unwrap_or_default();
        let call = end - begin;
        ensure!(
            longest * 10 >= call * 8,
            "{}: was {call} ns in its call, but the longest time between two events in it is {longest} ns",
            wait["task"]
        );
    }
    Ok(())
}
