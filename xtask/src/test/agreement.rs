//! Whether a recording and a watchpoint tell the same about one VMA, change by change.
//!
//! The watchpoint has every write to the count. What the engine calls an acquire, or a temporary reader, raised it by
//! one in the same task at nearly the same time; a release lowered it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// What came of a comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Agreement {
    /// Changes by readers that both tell.
    pub(crate) changes: usize,
    /// Tasks that made them.
    pub(crate) tasks: usize,
    /// Half of the pairs are closer than this, in nanoseconds.
    pub(crate) median_ns: u64,
    /// All pairs are as close as this, in nanoseconds.
    pub(crate) worst_ns: u64,
}

/// One step of a task: its time, +1 or -1, and what the line calls it.
type Step = (u64, i64, String);

/// Compares the lines of `tracer watch --json` with those of `tracer export -f jsonl` of one process.
pub(crate) fn compare(watch: &[Value], export: &[Value]) -> Result<Agreement> {
    let begin = watch.first().context("the watch has no lines")?;
    let end = watch
        .iter()
        .rev()
        .find_map(|line| line["ts_ns"].as_u64())
        .context("the watch has no times")?;
    let (start, pid) = (&begin["vm_start"], &begin["pid"]);
    let name = export
        .iter()
        .find(|line| line["pid"] == *pid && line["vm_start"] == *start && line["vma"].is_string())
        .context("the recording does not know the VMA")?;
    let from = begin["ts_ns"].as_u64().context("the watch has no beginning")?;

    let watched = steps(
        watch
            .iter()
            .filter(|line| line["field"] == "vm_refcnt" && line["pid"] == *pid),
        |line| match line["operation"].as_str()? {
            "read_try" | "read_locked" | "read_put" => line["delta"].as_i64(),
            _ => None,
        },
        "place",
    )?;
    let recorded = steps(
        export.iter().filter(|line| {
            line["vma"] == name["vma"]
                && line["pid"] == *pid
                && line["ts_ns"]
                    .as_u64()
                    .is_some_and(|ts| (from..=end + MARGIN_NS).contains(&ts))
        }),
        |line| match line["kind"].as_str()? {
            "vma_read_acquire" | "vma_read_temporary" => Some(1),
            "vma_read_release" => Some(-1),
            _ => None,
        },
        "kind",
    )?;
    pair(&watched, &recorded)
}

/// An event may be dated a little after the write.
const MARGIN_NS: u64 = 20_000_000;

fn steps<'a>(
    lines: impl Iterator<Item = &'a Value>,
    delta: impl Fn(&Value) -> Option<i64>,
    name: &str,
) -> Result<BTreeMap<u64, Vec<Step>>> {
    let mut tasks = BTreeMap::<u64, Vec<Step>>::new();
    for line in lines {
        if let Some(delta) = delta(line) {
            let tid = line["tid"].as_u64().context("a line without a task")?;
            let time = line["ts_ns"].as_u64().context("a line without a time")?;
            let name = line[name].as_str().unwrap_or_default().to_owned();
            tasks.entry(tid).or_default().push((time, delta, name));
        }
    }
    for steps in tasks.values_mut() {
        // A task is on one CPU at a time, so its own times are in order.
        steps.sort_by_key(|step| step.0);
    }
    Ok(tasks)
}

fn pair(watched: &BTreeMap<u64, Vec<Step>>, recorded: &BTreeMap<u64, Vec<Step>>) -> Result<Agreement> {
    ensure!(
        watched.keys().eq(recorded.keys()),
        "the watch saw tasks {:?}, the recording {:?}",
        watched.keys(),
        recorded.keys()
    );
    let mut apart = Vec::new();
    for (tid, watched) in watched {
        let recorded = &recorded[tid];
        for (i, (seen, told)) in watched.iter().zip(recorded).enumerate() {
            if seen.1 != told.1 {
                bail!("task {tid}, change {i}: the watch saw {seen:?}, the recording tells {told:?}");
            }
            apart.push(seen.0.abs_diff(told.0));
        }
        let (seen, told) = (watched.len(), recorded.len());
        ensure!(
            seen == told,
            "task {tid}: the watch saw {seen} changes, the recording tells {told}; the first without partner: {:?}",
            watched.get(told).or_else(|| recorded.get(seen))
        );
    }
    ensure!(!apart.is_empty(), "no changes were seen");
    apart.sort_unstable();
    Ok(Agreement {
        changes: apart.len(),
        tasks: watched.len(),
        median_ns: apart[apart.len() / 2],
        worst_ns: apart[apart.len() - 1],
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn watch(changes: &[(u64, u64, i64)]) -> Vec<Value> {
        let begin = json!({"type": "begin", "ts_ns": 100, "pid": 7, "vm_start": 4096});
        let changes = changes.iter().map(|(ts, tid, delta)| {
            let operation = if *delta > 0 { "read_try" } else { "read_put" };
            json!({"type": "change", "field": "vm_refcnt", "ts_ns": ts, "pid": 7, "tid": tid, "delta": delta,
                   "operation": operation, "place": "f+0x1"})
        });
        std::iter::once(begin).chain(changes).collect()
    }

    fn export(events: &[(u64, u64, &str)]) -> Vec<Value> {
        let events = events.iter().map(|(ts, tid, kind)| {
            json!({"ts_ns": ts, "pid": 7, "tid": tid, "kind": kind, "vma": "ab", "vm_start": 4096})
        });
        events.collect()
    }

    #[test]
    fn what_is_told_alike_agrees() {
        let watch = watch(&[(200, 8, 1), (210, 9, 1), (300, 8, -1), (310, 9, -1)]);
        let export = export(&[
            (50, 8, "vma_read_acquire"),
            (205, 8, "vma_read_acquire"),
            (214, 9, "vma_read_temporary"),
            (290, 8, "vma_read_release"),
            (311, 9, "vma_read_release"),
        ]);
        let expected = Agreement {
            changes: 4,
            tasks: 2,
            median_ns: 5,
            worst_ns: 10,
        };
        assert_eq!(compare(&watch, &export).unwrap(), expected);
    }

    #[test]
    fn a_release_that_was_missed_or_invented_is_found() {
        let watched = watch(&[(200, 8, 1), (300, 8, -1)]);
        let missed = export(&[(200, 8, "vma_read_acquire")]);
        let error = compare(&watched, &missed).unwrap_err().to_string();
        assert!(error.contains("saw 2 changes, the recording tells 1"), "{error}");
        let invented = export(&[
            (200, 8, "vma_read_acquire"),
            (250, 8, "vma_read_release"),
            (300, 8, "vma_read_release"),
        ]);
        assert!(compare(&watched, &invented).is_err());
    }

    #[test]
    fn the_wrong_task_is_found() {
        let watched = watch(&[(200, 8, 1), (300, 8, -1)]);
        let other = export(&[(200, 9, "vma_read_acquire"), (300, 9, "vma_read_release")]);
        let error = compare(&watched, &other).unwrap_err().to_string();
        assert!(error.contains("tasks"), "{error}");
    }

    #[test]
    fn the_wrong_order_is_found() {
        let watched = watch(&[(200, 8, 1), (300, 8, -1)]);
        let other = export(&[(200, 8, "vma_read_release"), (300, 8, "vma_read_acquire")]);
        let error = compare(&watched, &other).unwrap_err().to_string();
        assert!(error.contains("change 0"), "{error}");
    }
}
