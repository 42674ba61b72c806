//! What observers say of what they saw.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::super::recorders::said::{lost_by_perf, lost_by_trace_cmd, lost_by_tracer};
use super::super::turns::Seen;

/// What the kernel counted itself, of the three tracepoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) events: u64,
    /// Times that the lock was given back.
    pub(super) holds: u64,
}

/// The lines of `perf stat -x,`: a tracepoint each, the count first.
pub(super) fn made(said: &str) -> Result<Made> {
    let events = super::super::recorders::said::counted(said)?;
    let line = said
        .lines()
        .find(|line| line.contains(",mmap_lock:mmap_lock_released,"));
    let holds = line.and_then(|line| line.split(',').next()?.parse().ok());
    Ok(Made {
        events,
        holds: holds.with_context(|| format!("`perf stat` counted no releases:\n{said}"))?,
    })
}

/// `tracer stats --json`.
pub(in crate::bench) fn tracer(said: &str) -> Result<Seen> {
    let stats: Value = serde_json::from_str(said).context("what `tracer stats` said")?;
    let kind = |name: &str| stats["events"]["by_kind"][name].as_u64().unwrap_or(0);
    let events = [
        "mmap_start",
        "mmap_acquire",
        "mmap_fail",
        "mmap_release",
        "mmap_downgrade",
    ];
    Ok(Seen {
        events: Some(events.map(kind).iter().sum()),
        holds: Some(kind("mmap_release")),
        faults: Some(kind("fault_end")),
        lost: lost_by_tracer(said)?.values().sum(),
    })
}

/// The same where no faults were asked for.
pub(in crate::bench) fn tracer_without_faults(said: &str) -> Result<Seen> {
    Ok(Seen {
        faults: None,
        ..tracer(said)?
    })
}

/// The same of `--mode holds`: an event for each hold of either lock.
pub(in crate::bench) fn tracer_holds(said: &str) -> Result<Seen> {
    let stats: Value = serde_json::from_str(said).context("what `tracer stats` said")?;
    let holds = stats["events"]["by_kind"]["hold"].as_u64().unwrap_or(0);
    Ok(Seen {
        events: None,
        holds: Some(holds),
        faults: Some(holds),
        lost: lost_by_tracer(said)?.values().sum(),
    })
}

/// `tracer stats --mode summary --json`.
pub(in crate::bench) fn tracer_sums(said: &str) -> Result<Seen> {
    let sums: Value = serde_json::from_str(said).context("what `tracer stats` said")?;
    let holds = |lock: &str| sums["holds"][lock]["count"].as_u64();
    let mmap = ["mmap_read", "mmap_write"].map(holds).into_iter().flatten();
    Ok(Seen {
        events: None,
        holds: Some(mmap.sum()),
        faults: Some(holds("vma_read").context("the sums have no holds of VMAs")?),
        lost: sums["lost"]["missed"]
            .as_u64()
            .context("the sums tell of nothing lost")?,
    })
}

/// Histograms of bpftrace, in JSON.
pub(in crate::bench) fn bpftrace_histogram(said: &str) -> Result<Seen> {
    let values = said
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut seen = Seen::default();
    for value in values {
        // Of those that it could not put into a map it says the number only.
        if value["type"] == "lost_events" {
            seen.lost += value["data"]["events"].as_u64().unwrap_or(0);
        }
        let Some(maps) = value["data"].as_object() else {
            continue;
        };
        let sum = |name: &str| {
            let buckets = maps.get(name)?.as_array()?;
            Some(buckets.iter().filter_map(|bucket| bucket["count"].as_u64()).sum())
        };
        seen.holds = seen.holds.or_else(|| sum("@mmap"));
        seen.faults = seen.faults.or_else(|| sum("@vma"));
    }
    ensure!(
        seen.holds.is_some() && seen.faults.is_some(),
        "bpftrace printed no histogram:\n{said}"
    );
    Ok(seen)
}

/// Three counts of lines (faults, events, releases), and what bpftrace says that it lost.
pub(in crate::bench) fn bpftrace_print(said: &str) -> Result<Seen> {
    let [faults, events, holds] = counts(said)?;
    let lost = said.lines().filter_map(|line| number_after(line, "Lost "));
    Ok(Seen {
        events: Some(events),
        holds: Some(holds),
        faults: Some(faults),
        lost: lost.sum(),
    })
}

/// A count of lines, and `perf report --stats`.
pub(in crate::bench) fn perf_record(said: &str) -> Result<Seen> {
    let [events] = counts(said)?;
    Ok(Seen {
        events: Some(events),
        lost: lost_by_perf(said)?.values().sum(),
        ..Seen::default()
    })
}

/// A count of lines, and lines such as `LOST 27 events!`.
pub(in crate::bench) fn perf_trace(said: &str) -> Result<Seen> {
    let [events] = counts(said)?;
    let lost = said.lines().filter_map(|line| number_after(line, "LOST "));
    Ok(Seen {
        events: Some(events),
        lost: lost.sum(),
        ..Seen::default()
    })
}

/// A count of lines, and `trace-cmd report --stat`.
pub(in crate::bench) fn trace_cmd(said: &str) -> Result<Seen> {
    let [events] = counts(said)?;
    Ok(Seen {
        events: Some(events),
        lost: lost_by_trace_cmd(said)?.values().sum(),
        ..Seen::default()
    })
}

/// The same of functions.
pub(in crate::bench) fn trace_cmd_functions(said: &str) -> Result<Seen> {
    let Seen { events, lost, .. } = trace_cmd(said)?;
    Ok(Seen {
        faults: events,
        lost,
        ..Seen::default()
    })
}

/// Tables of klockstat, whose third column counts: how often each caller waited for a lock, and how often it held one.
/// Locks of all kinds are in them, so this is more than `mmap_lock` was held.
pub(in crate::bench) fn klockstat(said: &str) -> Result<Seen> {
    let mut held = false;
    let mut holds = None;
    for line in said.lines() {
        if line.contains("Caller") {
            held = line.contains("Hold");
            if held {
                holds.get_or_insert(0);
            }
        } else if held {
            *holds.get_or_insert(0) += row_count(line).unwrap_or(0);
        }
    }
    Ok(Seen {
        holds: Some(holds.with_context(|| format!("klockstat printed no table of holds:\n{said}"))?),
        ..Seen::default()
    })
}

/// Of `caller+0x1f  1.2 us  312  3.4 us …` the 312: the number after the first time.
fn row_count(line: &str) -> Option<u64> {
    let mut words = line.split_whitespace().skip(1);
    let average = words.next()?;
    average.parse::<f64>().ok()?;
    words.next().filter(|unit| unit.ends_with('s'))?;
    words.next()?.parse().ok()
}

/// What `limit --runs` told last: how often each program ran.
pub(in crate::bench) fn limit(said: &str) -> Result<Seen> {
    let last = said.lines().last().unwrap_or_default();
    let told: Value = serde_json::from_str(last).with_context(|| format!("`limit` told {said:?}"))?;
    let hooks = told["hooks"].as_object().context("`limit` told of no hooks")?;
    let runs = |of: &dyn Fn(&str) -> bool| -> u64 {
        let wanted = hooks.iter().filter(|(name, _)| of(name));
        wanted.filter_map(|(_, hook)| hook["runs"].as_u64()).sum()
    };
    Ok(Seen {
        events: Some(runs(&|name| name.starts_with("tp_btf mmap_lock_"))),
        holds: Some(runs(&|name| name == "tp_btf mmap_lock_released")),
        faults: Some(runs(&|name| name == "fexit lock_vma_under_rcu")),
        lost: 0,
    })
}

/// The numbers that stand alone in the first lines.
fn counts<const N: usize>(said: &str) -> Result<[u64; N]> {
    let mut lines = said.lines();
    let mut all = [0; N];
    for count in &mut all {
        let line = lines.next().unwrap_or_default();
        let number = line.trim().parse();
        *count = number.with_context(|| format!("{line:?} is no count, in:\n{said}"))?;
    }
    Ok(all)
}

/// The number behind a word.
fn number_after(line: &str, word: &str) -> Option<u64> {
    let (_, rest) = line.split_once(word)?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_kernel_counts_events_and_releases() {
        let line = |name: &str, count: &str| format!("{count},,mmap_lock:mmap_lock_{name},2996,100.00,,\n");
        let said =
            line("acquire_returned", "6046") + &line("released", "4042") + &line("start_locking", "4043");
        let expected = Made {
            events: 14_131,
            holds: 4042,
        };
        assert_eq!(made(&said).unwrap(), expected);
        assert!(made(&line("released", "1")).is_err());
    }

    #[test]
    fn events_of_ours_are_of_five_kinds() {
        let stats = json!({"events": {"dropped": 1, "missing": 2, "missed": 0, "by_kind":
            {"mmap_start": 3, "mmap_acquire": 4, "mmap_release": 5, "fault_end": 6}}});
        let seen = tracer(&stats.to_string()).unwrap();
        let expected = Seen {
            events: Some(12),
            holds: Some(5),
            faults: Some(6),
            lost: 3,
        };
        assert_eq!(seen, expected);
        assert_eq!(tracer_without_faults(&stats.to_string()).unwrap().faults, None);
        assert!(tracer("{}").is_err());
    }

    #[test]
    fn histograms_are_added_up() {
        let bucket = |count: u64| json!({"min": 1024, "max": 2047, "count": count});
        let line = |name: &str, counts: [u64; 2]| {
            json!({"type": "hist", "data": {name: counts.map(bucket)}}).to_string()
        };
        let both = format!("{}\n{}\n", line("@mmap", [3, 4]), line("@vma", [10, 1]));
        let seen = bpftrace_histogram(&both).unwrap();
        assert_eq!((seen.holds, seen.faults, seen.events), (Some(7), Some(11), None));
        assert!(bpftrace_histogram(&line("@mmap", [3, 4])).is_err());
    }

    #[test]
    fn lines_are_counted_and_losses_added() {
        let seen = bpftrace_print("10\n20\n5\n/tmp/err:Lost 3 events\n/tmp/err:Lost 4 events\n").unwrap();
        let expected = Seen {
            events: Some(20),
            holds: Some(5),
            faults: Some(10),
            lost: 7,
        };
        assert_eq!(seen, expected);
        assert!(bpftrace_print("10\nLost\n").is_err());
        let seen = perf_trace("12\nLOST 27 events!\n").unwrap();
        assert_eq!((seen.events, seen.lost), (Some(12), 27));
        let said = "12\nmmap_lock:mmap_lock_released stats:\n        LOST_SAMPLES events:      332\n";
        let seen = perf_record(said).unwrap();
        assert_eq!((seen.events, seen.lost, seen.faults), (Some(12), 332, None));
        let seen = trace_cmd_functions("9\nCPU: 0\noverrun: 2\n").unwrap();
        assert_eq!((seen.events, seen.lost, seen.faults), (None, 2, Some(9)));
    }

    #[test]
    fn runs_of_the_limit_are_by_hook() {
        let said = json!({"program": "empty", "hooks": {
            "tp_btf mmap_lock_released": {"runs": 5, "events": 0}, "tp_btf mmap_lock_start_locking": {"runs": 6},
            "fexit lock_vma_under_rcu": {"runs": 9}, "fentry x": {"runs": 1}}});
        let seen = limit(&format!("{{\"attached\": 4}}\n{said}\n")).unwrap();
        let expected = Seen {
            events: Some(11),
            holds: Some(5),
            faults: Some(9),
            lost: 0,
        };
        assert_eq!(seen, expected);
        assert!(limit("").is_err());
    }
}
