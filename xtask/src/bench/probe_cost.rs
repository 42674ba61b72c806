//! What one probe costs on the path of a page fault, by mechanism, and what tracer's own filters save: instructions,
//! counted as in [`fault_cost`].

use anyhow::{Result, ensure};
use serde_json::{Map, json};

use super::Row;
use super::fault_cost::{self, bpftrace, tracer};
use super::peers::said;
use super::turns::{Observer, Turns};

pub(super) const PROBE_COST: &str = "probe-cost";

/// bpftrace has one probe that adds to a counter, the least that its programs can do; tracer is asked for little, and has all
/// of its probes attached where it is not asked by kind.
static OBSERVERS: [Observer; 10] = [
    Observer {
        read: said::tracer_without_faults,
        ..tracer(
            "other-kinds",
            "tracer --only mmap_start",
            "tracer record -o /tmp/f --only mmap_start",
        )
    },
    Observer {
        read: said::tracer_without_faults,
        ..tracer("other-process", "tracer -p 1", "tracer record -o /tmp/f -p 1")
    },
    tracer(
        "one-kind",
        "tracer --only fault_end",
        "tracer record -o /tmp/f --only fault_end",
    ),
    bpftrace(
        "fentry",
        "fentry",
        "bpftrace -f json -e 'fentry:vmlinux:handle_mm_fault { @ = count(); }'",
    ),
    bpftrace(
        "fexit",
        "fexit",
        "bpftrace -f json -e 'fexit:vmlinux:handle_mm_fault { @ = count(); }'",
    ),
    bpftrace(
        "kprobe-entry",
        "kprobe at entry",
        "bpftrace -f json -e 'kprobe:handle_mm_fault { @ = count(); }'",
    ),
    bpftrace(
        "kretprobe",
        "kretprobe",
        "bpftrace -f json -e 'kretprobe:handle_mm_fault { @ = count(); }'",
    ),
    bpftrace("kprobe-jump", "kprobe as a jump", BY_INSTRUCTION),
    Observer {
        without: Some("debug.kprobes-optimization"),
        ..bpftrace("kprobe-trap", "kprobe as a trap", BY_INSTRUCTION)
    },
    bpftrace(
        "breakpoint",
        "hardware breakpoint",
        "bpftrace -f json -e \"watchpoint:$address:8:x { @ = count(); }\"",
    ),
];
const BY_INSTRUCTION: &str = "bpftrace -f json -e \"kprobe:lock_vma_under_rcu+$offset { @ = count(); }\"";

/// The address of `handle_mm_fault`, and where an instruction of `lock_vma_under_rcu` begins.
const TURNS: Turns = Turns {
    observers: &OBSERVERS,
    operations: &["fault"],
    times: 5120,
    storms: 5,
    rounds: 1,
    first: r#"
address=0x$(awk '$3 == "handle_mm_fault" { print $1 }' /proc/kallsyms)
for offset in $(seq 6 64); do
  echo "p:probe lock_vma_under_rcu+$offset" 2> /dev/null > /sys/kernel/tracing/kprobe_events && break
done
echo > /sys/kernel/tracing/kprobe_events"#,
    last: "tracer doctor --json > /out/doctor.json || exit 1",
};

/// Measures the row.
pub(super) fn run() -> Result<Vec<Row>> {
    let (costs, versions) = fault_cost::measure(&TURNS)?;
    // That the kernel makes a jump of a probe, and not of another, shows in nothing but this.
    ensure!(
        costs.added("kprobe-trap")? > costs.added("kprobe-jump")?,
        "a kprobe by a trap was no dearer than one by a jump: debug.kprobes-optimization had no effect on this kernel"
    );
    let mut figures = Map::from_iter([(
        "none".to_owned(),
        json!({"instructions": costs.untraced(), "added": 0.0}),
    )]);
    let mut notes = Vec::new();
    let mut parts = Vec::new();
    for cost in &costs.all {
        let (name, label) = (cost.observer.name, cost.observer.label);
        let added = costs.added(name)?;
        figures.insert(
            name.to_owned(),
            json!({"instructions": cost.cpu(), "added": added}),
        );
        if cost.observer.command.starts_with("bpftrace ") {
            parts.push(format!("{label} {added:.0}"));
        }
        notes.push(format!("{label:<30}{added:>8.0} instructions added to a fault"));
    }
    notes.push(format!("counted by {}; tracer by itself", versions.join(", ")));
    Ok(vec![Row {
        name: PROBE_COST,
        measured: format!("instructions a run: {}", parts.join(", ")),
        method: "as fault-cost, one turn each; bpftrace with one probe that counts, tracer, filtered",
        notes,
        figures: json!({"modes": figures, "peers": versions}),
        ..Row::default()
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observers_have_names_of_their_own() {
        for (at, one) in OBSERVERS.iter().enumerate() {
            assert!(
                OBSERVERS[..at].iter().all(|other| other.name != one.name),
                "{}",
                one.name
            );
        }
    }
}
