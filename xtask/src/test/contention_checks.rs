//! Statistics of contention, on real kernels: who waited for whom is what the workload made them do.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::guests::{Ctx, Evidence, On, Scenario, expect};
use crate::vm::Outcome;

/// Kinds of the workload `holder` whose holder sleeps by itself.
const KINDS: [&str; 2] = ["fault", "mmap"];
/// The part of a task's call, in per cent, that it must be seen to wait for the holder.
const LEAST: u64 = 80;

/// Scenarios of contention.
pub(crate) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "contention",
    on: On::These(&["6.12", "7.3"]),
    boot,
    checks: &[
        ("waiter-blocker-and-length-are-told", pairs),
        ("the-chain-behind-is-told", chains),
        ("the-hold-is-contended", holds),
        ("groups-sum-up", groups_sum_up),
        ("no-deadlock-is-told", |e| {
            for kind in KINDS {
                let stats = stats(e, kind)?;
                expect("cycles", &list(&stats, "/contention/chains/cycles")?.len(), &0)?;
            }
            Ok(())
        }),
        ("kernel-is-content", Evidence::kernel_is_content),
    ],
}];

fn boot(ctx: &Ctx) -> Result<Outcome> {
    let run = |kind: &str| {
        format!(
            "tracer record -o /tmp/{kind}.rec --stacks 1ms -- workload holder --kind {kind} -d 400 --json \
               > /out/{kind}.json 2> /out/{kind}.err &&
             tracer stats --json /tmp/{kind}.rec > /out/{kind}-stats.json &&
             tracer stats /tmp/{kind}.rec --section waits,holds,chains,faults > /out/{kind}-stats.txt"
        )
    };
    ctx.guest().sh(&KINDS.map(run).join(" &&\n"))
}

fn json(e: &Evidence, name: &str) -> Result<Value> {
    serde_json::from_str(&e.out_text(name)?).with_context(|| format!("{name} is no JSON"))
}

fn stats(e: &Evidence, kind: &str) -> Result<Value> {
    e.succeeded()?;
    json(e, &format!("{kind}-stats.json"))
}

fn list<'a>(value: &'a Value, at: &str) -> Result<&'a Vec<Value>> {
    value
        .pointer(at)
        .and_then(Value::as_array)
        .with_context(|| format!("no list at {at}"))
}

fn number(value: &Value, at: &str) -> Result<u64> {
    value
        .pointer(at)
        .and_then(Value::as_u64)
        .with_context(|| format!("no number at {at} in {value}"))
}

/// What the workload says of those who slept: tid and length of the call.
fn sleepers(truth: &Value) -> Result<Vec<(u64, u64)>> {
    let waits = list(truth, "/waits")?;
    let slept: Vec<(u64, u64)> = waits
        .iter()
        .filter(|wait| wait["slept"] == true)
        .map(|wait| {
            let call = number(wait, "/end_ns")? - number(wait, "/begin_ns")?;
            Ok((number(wait, "/tid")?, call))
        })
        .collect::<Result<_>>()?;
    ensure!(!slept.is_empty(), "the workload saw nobody wait");
    Ok(slept)
}

/// Whoever slept waited, in the end, for the holder, who slept meanwhile: so long.
fn pairs(e: &Evidence) -> Result<()> {
    for kind in KINDS {
        let (stats, truth) = (stats(e, kind)?, json(e, &format!("{kind}.json"))?);
        let holder = number(&truth, "/holder/tid")?;
        for (tid, call) in sleepers(&truth)? {
            let mut asleep = 0;
            for pair in list(&stats, "/contention/chains/pairs")? {
                let of_it = pair["waiter"]["tid"] == tid && pair["blocker"]["tid"] == holder;
                if of_it && (pair["doing"] == "io" || pair["doing"] == "sleeping") {
                    asleep += number(pair, "/total_ns")?;
                }
            }
            ensure!(
                asleep * 100 >= call * LEAST && asleep <= call,
                "{kind}: task {tid} was {call} ns in its call, but it is said to have waited {asleep} ns for the \
                 sleeping holder {holder}"
            );
        }
    }
    Ok(())
}

/// The longest wait of each who slept has the holder at its end, with the stack where it slept.
fn chains(e: &Evidence) -> Result<()> {
    for kind in KINDS {
        let (stats, truth) = (stats(e, kind)?, json(e, &format!("{kind}.json"))?);
        let holder = number(&truth, "/holder/tid")?;
        let longest = list(&stats, "/contention/chains/longest")?;
        for (tid, _) in sleepers(&truth)? {
            let chain = longest
                .iter()
                .find(|chain| chain["waiter"]["tid"] == tid)
                .with_context(|| format!("{kind}: no long wait of {tid}"))?;
            let last = list(chain, "/chain")?.last().context("an empty chain")?;
            expect("the end of the chain", &number(last, "/tid")?, &holder)?;
            let frames = list(chain, "/stack/kernel")?;
            ensure!(frames.len() > 3, "{kind}: the holder's stack has {frames:?}");
        }
    }
    Ok(())
}

/// The hold is among those that others waited for most, and it is no idle one.
fn holds(e: &Evidence) -> Result<()> {
    for kind in KINDS {
        let (stats, truth) = (stats(e, kind)?, json(e, &format!("{kind}.json"))?);
        let holder = number(&truth, "/holder/tid")?;
        let worst = stats["contention"]["groups"]["worst_holds"]
            .as_object()
            .context("no worst holds")?;
        let found = worst
            .values()
            .filter_map(Value::as_array)
            .flatten()
            .find(|hold| hold["tid"] == holder && hold["caused_ns"].as_u64() > Some(0));
        ensure!(
            found.is_some(),
            "{kind}: no contended hold of {holder} in {worst:?}"
        );
    }
    Ok(())
}

/// Groups, whatever they are by, sum up to the whole.
fn groups_sum_up(e: &Evidence) -> Result<()> {
    for kind in KINDS {
        let stats = stats(e, kind)?;
        for lock in ["mmap_read", "mmap_write", "vma_read", "vma_write"] {
            for what in ["waits", "holds"] {
                let all = number(&stats, &format!("/{what}/{lock}/count"))?;
                for table in ["tasks", "processes", "vmas", "mms", "sites"] {
                    let at = format!("/contention/groups/{table}");
                    let count = |row: &Value| {
                        let found = row.pointer(&format!("/{what}/{lock}/count"));
                        found.and_then(Value::as_u64).unwrap_or(0)
                    };
                    let rows: u64 = list(&stats, &format!("{at}/rows"))?.iter().map(count).sum();
                    let others = stats.pointer(&format!("{at}/others")).map_or(0, count);
                    expect(&format!("{what} of {lock} by {table}"), &(rows + others), &all)?;
                }
            }
        }
        faults_equal_vmstat(&stats)?;
    }
    Ok(())
}

/// Faults by process and by VMA sum up to what `/proc/vmstat` counts, by the report's own totals.
pub(super) fn faults_equal_vmstat(stats: &Value) -> Result<()> {
    for table in ["processes", "vmas"] {
        let at = format!("/contention/faults/{table}");
        for name in ["vma_lock_success", "vma_lock_retry", "vma_lock_abort"] {
            let count = |row: &Value| row["vmstat"][name].as_u64().unwrap_or(0);
            let rows: u64 = list(stats, &format!("{at}/rows"))?.iter().map(count).sum();
            let others = stats.pointer(&format!("{at}/others")).map_or(0, count);
            let all = number(stats, &format!("/vmstat/{name}"))?;
            expect(&format!("{name} by {table}"), &(rows + others), &all)?;
        }
    }
    Ok(())
}
