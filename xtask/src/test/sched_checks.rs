//! What tasks do beside their locks, on real kernels: who sleeps with a lock or for one is reported, with its stack.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::guests::{Ctx, Evidence, On, Scenario, expect};
use crate::vm::Outcome;

/// A kind of the workload `holder`, and what its holder's stack shows if it sleeps by itself.
type Play = (&'static str, &'static [&'static str]);

/// The holder sleeps, or is preempted.
const PLAYS: &[Play] = &[
    ("fault", &["handle_mm_fault"]),
    ("mmap", &["do_mmap", "vm_mmap_pgoff"]),
    ("read", &[]),
];
/// Without FUSE it can only be preempted.
const WITHOUT_FUSE: &[Play] = &[("write", &[]), ("read", &[])];

fn plays(ctx: &Ctx) -> &'static [Play] {
    if ctx.name == "oracle" { WITHOUT_FUSE } else { PLAYS }
}

/// What the stack of a task shows that waits for one of the locks, in all kernels' names.
const WAITS: &[&str] = &[
    "rwsem_down_",
    "down_write",
    "down_read",
    "vma_start_write",
    "vma_start_exclude_readers",
];
/// `--stacks`, in nanoseconds.
const LONG_NS: u64 = 1_000_000;

/// Scenarios of scheduler, lifecycle and stacks.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "sleepers",
        on: On::These(&["6.12", "7.3", "oracle"]),
        boot,
        checks: &[
            ("each-sleeper-is-reported", each_sleeper),
            ("a-preempted-holder-is-reported", preempted_holder),
            ("sleepers-show-where-they-sleep", sleeping_stacks),
            ("long-waits-and-holds-have-stacks", long_ones),
            ("lives-are-seen", lives),
            ("kernel-is-content", Evidence::kernel_is_content),
        ],
    },
    Scenario {
        name: "user-symbols",
        on: On::These(&["7.3"]),
        boot: |ctx| {
            let mut guest = ctx.guest();
            guest.timeout = Duration::from_secs(300);
            guest.sh(
                "tracer record -o /tmp/it.rec --stacks 0 --user-symbols -- workload holder --kind read -p 4096 -d 200 --json \
                   > /out/it.json 2> /out/it.err &&
                 tracer export -f jsonl -o /out/it.jsonl /tmp/it.rec",
            )
        },
        checks: &[
            ("frames-of-programs-have-names", user_names),
            ("kernel-is-content", Evidence::kernel_is_content),
        ],
    },
];

fn boot(ctx: &Ctx) -> Result<Outcome> {
    let runs: Vec<String> = plays(ctx)
        .iter()
        .map(|(kind, _)| {
            format!(
                "tracer record -o /tmp/{kind}.rec --stacks 1ms -- workload holder --kind {kind} -p 4096 -d 1500 --json \
                   > /out/{kind}.json 2> /out/{kind}.err &&
                 tracer export -f jsonl -o /out/{kind}.jsonl /tmp/{kind}.rec"
            )
        })
        .collect();
    let mut guest = ctx.guest();
    guest.timeout = Duration::from_secs(300);
    guest.sh(&runs.join(" &&\n"))
}

/// One run: what the workload says of itself, and the trace.
struct Run {
    name: &'static str,
    /// What the holder's stack shows.
    holds: &'static [&'static str],
    truth: Value,
    events: Vec<Value>,
}

fn runs(e: &Evidence) -> Result<Vec<Run>> {
    e.succeeded()?;
    let run = |&(name, holds): &(&'static str, &'static [&'static str])| {
        let truth =
            serde_json::from_str(&e.out_text(&format!("{name}.json"))?).context("the workload's report")?;
        let lines = e.out_text(&format!("{name}.jsonl"))?;
        let events = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        Ok(Run {
            name,
            holds,
            truth,
            events: events.context("the export")?,
        })
    };
    plays(&e.ctx).iter().map(run).collect()
}

/// A task that slept, for sure.
struct Sleeper<'a> {
    role: &'a str,
    tid: u64,
    /// It was inside its call from here on.
    begin: u64,
    end: u64,
    shows: &'static [&'static str],
}

impl Run {
    fn sleepers(&self) -> Result<Vec<Sleeper<'_>>> {
        let waits = self.truth["waits"].as_array().context("no waits")?;
        let all = waits
            .iter()
            .map(|task| (task, WAITS))
            .chain([(&self.truth["holder"], self.holds)]);
        let sleepers: Vec<_> = all
            .filter(|(task, _)| task["slept"] == true)
            .map(|(task, shows)| {
                Ok(Sleeper {
                    role: task["role"].as_str().context("role")?,
                    tid: task["tid"].as_u64().context("tid")?,
                    begin: task["begin_ns"].as_u64().context("begin_ns")?,
                    end: task["end_ns"].as_u64().context("end_ns")?,
                    shows,
                })
            })
            .collect::<Result<_>>()?;
        // Where the reader holds the mmap_lock and no VMA, the fault goes its own way: only the two writers sleep.
        let fault_waits = waits
            .iter()
            .any(|task| task["role"] == "w-fault" && task["waits_for"] != "");
        ensure!(
            sleepers.len() >= if self.name != "read" || fault_waits { 3 } else { 2 },
            "{}: too few slept for this to say anything: {}",
            self.name,
            self.truth
        );
        Ok(sleepers)
    }

    /// Events of a kind within the call of a task, by the field that has the task.
    fn of<'a>(
        &'a self,
        task: &'a Sleeper<'_>,
        kind: &'a str,
        field: &'a str,
    ) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |event| {
            let within = event["ts_ns"]
                .as_u64()
                .is_some_and(|ts| (task.begin..=task.end).contains(&ts));
            event["kind"] == kind && event[field] == task.tid && within
        })
    }

    /// The longest time that a task slept, or was runnable without a CPU, as the trace has it: its beginning and length.
    fn longest<'a>(&'a self, task: &'a Sleeper<'_>, slept: bool) -> Option<(&'a Value, u64)> {
        let ends: Vec<u64> = self
            .of(task, "sched_in", "tid")
            .filter_map(|event| event["ts_ns"].as_u64())
            .collect();
        self.of(task, "sched_out", "tid")
            .filter(|event| (event["state"] != 0) == slept)
            .filter_map(|event| {
                let begin = event["ts_ns"].as_u64()?;
                let end = ends.iter().find(|&&end| end >= begin)?;
                Some((event, end - begin))
            })
            .max_by_key(|(_, length)| *length)
    }
}

fn each_sleeper(e: &Evidence) -> Result<()> {
    for run in runs(e)? {
        for task in run.sleepers()? {
            let (out, length) = run.longest(&task, true).with_context(|| {
                format!("{}: {} slept, and no pair of events says so", run.name, task.role)
            })?;
            // They slept for nearly all of their calls.
            ensure!(
                length * 2 > task.end - task.begin,
                "{}: {} slept for {length} ns of {}, it is said",
                run.name,
                task.role,
                task.end - task.begin
            );
            expect(
                &format!("preempted, of {}", task.role),
                &out["preempted"],
                &Value::Bool(false),
            )?;
            let begin = out["ts_ns"].as_u64().context("ts_ns")?;
            let mut wakes = run.of(&task, "sched_wake", "other_tid");
            ensure!(
                wakes.any(|wake| wake["ts_ns"].as_u64().is_some_and(|ts| ts >= begin)),
                "{}: nobody woke {}, it seems",
                run.name,
                task.role
            );
        }
    }
    Ok(())
}

fn preempted_holder(e: &Evidence) -> Result<()> {
    for run in runs(e)? {
        let holder = &run.truth["holder"];
        if holder["slept"] == true {
            continue;
        }
        let task = Sleeper {
            role: "w-holder",
            tid: holder["tid"].as_u64().context("tid")?,
            begin: holder["begin_ns"].as_u64().context("begin_ns")?,
            end: holder["end_ns"].as_u64().context("end_ns")?,
            shows: &[],
        };
        let (_, length) = run
            .longest(&task, false)
            .with_context(|| format!("{}: the holder lost its CPU, and no event says so", run.name))?;
        ensure!(
            length * 2 > task.end - task.begin,
            "{}: the holder was without a CPU for {length} ns of {}, it is said",
            run.name,
            task.end - task.begin
        );
    }
    Ok(())
}

fn names(event: &Value) -> Vec<&str> {
    let frames = event["stack"].as_array();
    frames.into_iter().flatten().filter_map(Value::as_str).collect()
}

fn sleeping_stacks(e: &Evidence) -> Result<()> {
    for run in runs(e)? {
        for task in run.sleepers()? {
            let (out, _) = run.longest(&task, true).context("see the check before")?;
            let stack = names(out);
            ensure!(
                stack
                    .iter()
                    .any(|frame| task.shows.iter().any(|part| frame.contains(part))),
                "{}: {} slept in {stack:?}, which shows none of {:?}",
                run.name,
                task.role,
                task.shows
            );
            ensure!(
                stack.first().is_some_and(|frame| frame.contains("schedule")),
                "{}: the stack of {} does not begin where tasks sleep: {stack:?}",
                run.name,
                task.role
            );
            let user = out["user_stack"].as_array().map_or(0, Vec::len);
            ensure!(
                user > 0,
                "{}: {} has no stack of its program",
                run.name,
                task.role
            );
        }
    }
    Ok(())
}

/// Each sleeper's wait or hold ends with stacks of its own, whose length is that of its call.
fn long_ones(e: &Evidence) -> Result<()> {
    for run in runs(e)? {
        for event in run.events.iter().filter(|event| event["kind"] == "stack") {
            let length = event["length_ns"].as_u64().context("length_ns")?;
            ensure!(length >= LONG_NS, "{}: stacks of a short one: {event}", run.name);
        }
        for task in run.sleepers()? {
            let lengths: Vec<u64> = run
                .of(&task, "stack", "tid")
                .filter(|event| !names(event).is_empty())
                .filter_map(|event| event["length_ns"].as_u64())
                .collect();
            let long = lengths.iter().max().copied().unwrap_or_default();
            ensure!(
                long * 2 > task.end - task.begin && long <= task.end - task.begin,
                "{}: the call of {} took {} ns, and has stacks of {lengths:?} ns",
                run.name,
                task.role,
                task.end - task.begin
            );
        }
    }
    Ok(())
}

/// The names are there, and so is what getting them did to the process: it is not hidden.
fn user_names(e: &Evidence) -> Result<()> {
    e.succeeded()?;
    let truth: Value = serde_json::from_str(&e.out_text("it.json")?).context("the workload's report")?;
    let lines = e.out_text("it.jsonl")?;
    let events = lines
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Value>, _>>();
    let events = events.context("the export")?;
    let holder = &truth["holder"]["tid"];
    let user = |event: &Value| -> Vec<String> {
        let frames = event["user_stack"].as_array().into_iter().flatten();
        frames.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let stacks: Vec<Vec<String>> = events
        .iter()
        .filter(|event| event["comm"] == "w-holder" && !user(event).is_empty())
        .map(user)
        .collect();
    ensure!(!stacks.is_empty(), "no stack of the holder's program ({holder})");
    // The innermost one is the system call's instruction, in a function of the C library.
    let named = |stack: &&Vec<String>| stack[0].contains("+0x");
    let share = stacks.iter().filter(named).count();
    ensure!(
        share * 10 >= stacks.len() * 9,
        "{share} of {} stacks have a name where they are: {:?}",
        stacks.len(),
        stacks.first()
    );
    let ours = events.iter().filter(|event| event["comm"] == "tracer").count();
    ensure!(ours > 0, "the locks that were taken for the names are hidden");
    Ok(())
}

fn lives(e: &Evidence) -> Result<()> {
    for run in runs(e)? {
        let of = |kind: &str| {
            run.events
                .iter()
                .filter(|event| event["kind"] == kind)
                .collect::<Vec<_>>()
        };
        let exec = of("task_exec");
        let command = exec.iter().find(|event| event["comm"] == "workload");
        let command = command.context("the command's own exec was not seen")?;
        ensure!(
            command["mm"].is_string(),
            "its new address space is not told: {command}"
        );
        let forked: Vec<_> = of("task_fork")
            .iter()
            .map(|event| event["other_tid"].clone())
            .collect();
        let ended: Vec<_> = of("task_exit").iter().map(|event| event["tid"].clone()).collect();
        for task in run.sleepers()? {
            let tid = Value::from(task.tid);
            ensure!(
                forked.contains(&tid),
                "{}: the fork of {} was not seen",
                run.name,
                task.role
            );
            ensure!(
                ended.contains(&tid),
                "{}: the end of {} was not seen",
                run.name,
                task.role
            );
        }
        let last = of("task_exit")
            .iter()
            .filter(|event| event["last"] == true && event["pid"] == command["pid"])
            .count();
        ensure!(last >= 1, "{}: no task was the last of its process", run.name);
    }
    Ok(())
}
