//! What the programs of the comparison say: what they lost, what the kernel counted, what they took.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Events that were lost, by the way in which they were.
pub(in crate::bench) type Lost = BTreeMap<&'static str, u64>;

/// What `tracer stats` says that was lost, in any way.
pub(in crate::bench) fn lost_by_tracer(said: &str) -> Result<Lost> {
    let stats: Value = serde_json::from_str(said).context("what `tracer stats` said")?;
    let ways = [
        ("dropped", "/events/dropped"),
        ("missing", "/events/missing"),
        ("missed", "/events/missed"),
    ];
    let count = |(way, at)| {
        let count = stats.pointer(at).and_then(Value::as_u64);
        Ok((
            way,
            count.with_context(|| format!("`tracer stats` tells no {at}"))?,
        ))
    };
    ways.into_iter().map(count).collect()
}

/// What `perf report --stats` says: for each tracepoint how many samples found no room. Above them, where it sums up, the
/// same word counts records that tell so, and not samples.
pub(in crate::bench) fn lost_by_perf(said: &str) -> Result<Lost> {
    let mut lost = 0;
    let mut tracepoint = false;
    let mut tracepoints = 0;
    for line in said.lines() {
        if let Some(name) = line.strip_suffix(" stats:") {
            tracepoint = name.starts_with("mmap_lock:");
            tracepoints += u64::from(tracepoint);
        } else if let Some(count) = line.trim().strip_prefix("LOST_SAMPLES events:")
            && tracepoint
        {
            lost += first_number(count).with_context(|| format!("`perf report --stats` said {line:?}"))?;
        }
    }
    ensure!(
        tracepoints > 0,
        "`perf report --stats` tells of no tracepoint:\n{said}"
    );
    Ok(Lost::from([("LOST_SAMPLES", lost)]))
}

/// What `trace-cmd report --stat` says that the kernel had no room for, on all processors. `entries` are none of these:
/// with a file that it wrote through, the kernel counts in them what has been read, too.
pub(in crate::bench) fn lost_by_trace_cmd(said: &str) -> Result<Lost> {
    let mut lost = Lost::new();
    for line in said.lines() {
        for what in ["overrun", "commit overrun", "dropped events"] {
            if let Some(count) = line.trim().strip_prefix(what)
                && let Some(count) = count.strip_prefix(':')
            {
                *lost.entry(what).or_default() +=
                    first_number(count).with_context(|| format!("`trace-cmd report` said {line:?}"))?;
            }
        }
    }
    ensure!(
        !lost.is_empty(),
        "`trace-cmd report --stat` tells of no losses:\n{said}"
    );
    Ok(lost)
}

fn first_number(said: &str) -> Option<u64> {
    said.split_whitespace().next()?.parse().ok()
}

/// How many events the kernel counted, as `perf stat -x,` has it: a line a tracepoint, the count first.
pub(in crate::bench) fn counted(said: &str) -> Result<u64> {
    let lines = said.lines().filter(|line| line.contains(",mmap_lock:"));
    let counts = lines.map(|line| {
        let count = line.split(',').next().and_then(|count| count.parse::<u64>().ok());
        count.with_context(|| format!("`perf stat` counted nothing: {line}"))
    });
    let counts: Vec<u64> = counts.collect::<Result<_>>()?;
    ensure!(
        counts.len() == 3,
        "`perf stat` counted {} tracepoints instead of 3",
        counts.len()
    );
    Ok(counts.iter().sum())
}

/// What `usage` told, in nanoseconds of processor time.
pub(in crate::bench) fn cpu(said: &str) -> Result<f64> {
    let told: Value = serde_json::from_str(said).with_context(|| format!("usage told {said:?}"))?;
    let part = |name: &str| {
        told[name]
            .as_f64()
            .with_context(|| format!("usage told no {name}"))
    };
    Ok((part("user_us")? + part("system_us")?) * 1000.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn losses_of_ours_are_of_three_ways() {
        let stats = json!({"events": {"dropped": 1, "missing": 2, "missed": 4}});
        assert_eq!(
            lost_by_tracer(&stats.to_string()).unwrap(),
            Lost::from([("dropped", 1), ("missing", 2), ("missed", 4)])
        );
        assert!(lost_by_tracer("{}").is_err());
    }

    #[test]
    fn losses_of_perf_are_samples_and_not_records() {
        let said = "\nAggregated stats:\n               TOTAL events:      25946\n                LOST events:        443  ( 1.7%)\n        \
                    LOST_SAMPLES events:          6  ( 0.0%)\nmmap_lock:mmap_lock_acquire_returned stats:\n              \
                    SAMPLE events:      10257\n        LOST_SAMPLES events:      49828\nmmap_lock:mmap_lock_released stats:\n        \
                    LOST_SAMPLES events:      33232\ncycles stats:\n        LOST_SAMPLES events:      5\n";
        assert_eq!(
            lost_by_perf(said).unwrap(),
            Lost::from([("LOST_SAMPLES", 83_060)])
        );
        assert!(lost_by_perf("Aggregated stats:\n").is_err());
    }

    #[test]
    fn losses_of_trace_cmd_are_those_of_all_processors() {
        let said = "cpus=2\n\nCPU: 0\nentries: 10092\noverrun: 3\ncommit overrun: 0\nbytes: 364380\ndropped events: 4\n\
                    read events: 4181\n\nCPU: 1\nentries: 0\noverrun: 10\ncommit overrun: 1\ndropped events: 0\n";
        assert_eq!(
            lost_by_trace_cmd(said).unwrap(),
            Lost::from([("overrun", 13), ("commit overrun", 1), ("dropped events", 4)])
        );
        assert!(lost_by_trace_cmd("cpus=2\n").is_err());
    }

    #[test]
    fn the_kernel_counts_three_tracepoints_or_nothing() {
        let line =
            |name: &str, count: &str| format!("{count},,mmap_lock:mmap_lock_{name},29965256,100.00,,\n");
        let head = "# started on Tue Dec  1 00:26:02 2026\n\n".to_owned();
        let two = head + &line("acquire_returned", "6046") + &line("released", "4042");
        assert!(counted(&two).is_err());
        assert_eq!(
            counted(&(two.clone() + &line("start_locking", "4042"))).unwrap(),
            14_130
        );
        assert!(counted(&(two + &line("start_locking", "<not counted>"))).is_err());
    }

    #[test]
    fn times_are_of_user_and_kernel() {
        let said = r#"{"max_rss_kib":2996,"status":0,"system_us":23555,"user_us":1288,"wall_us":115180}"#;
        assert_eq!(cpu(said).unwrap(), 24_843_000.0);
        assert!(cpu("{}").is_err());
        assert!(cpu("").is_err());
    }
}
