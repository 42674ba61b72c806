//! What one probe costs on the path of a page fault, by mechanism, and what tracer's own filters save: instructions,
//! counted as in [`fault_cost`].

use anyhow::{Result, ensure};
use serde_json::{Map, json};

use super::Row;
use super::fault_cost::{self, Mode, NOBODY, Who};

pub(super) const PROBE_COST: &str = "probe-cost";

/// bpftrace with one probe that adds to a counter, the least that a program can do.
const fn counting(name: &'static str, label: &'static str, program: &'static str) -> Mode {
    Mode {
        name,
        label,
        who: Who::Bpftrace {
            program,
            sysctl: None,
        },
    }
}

/// tracer, its probes attached as ever, and what it is asked for.
const fn tracer(name: &'static str, label: &'static str, args: &'static str, sees: bool) -> Mode {
    Mode {
        name,
        label,
        who: Who::Tracer { args, sees },
    }
}

const MODES: [Mode; 11] = [
    NOBODY,
    tracer(
        "other-kinds",
        "tracer --only mmap_start",
        "--only mmap_start",
        false,
    ),
    tracer("other-process", "tracer -p 1", "-p 1", false),
    tracer("one-kind", "tracer --only fault_end", "--only fault_end", true),
    counting(
        "fentry",
        "fentry",
        "fentry:vmlinux:handle_mm_fault { @ = count(); }",
    ),
    counting("fexit", "fexit", "fexit:vmlinux:handle_mm_fault { @ = count(); }"),
    counting(
        "kprobe-entry",
        "kprobe at entry",
        "kprobe:handle_mm_fault { @ = count(); }",
    ),
    counting(
        "kretprobe",
        "kretprobe",
        "kretprobe:handle_mm_fault { @ = count(); }",
    ),
    counting(
        "kprobe-jump",
        "kprobe as a jump",
        "kprobe:lock_vma_under_rcu+OFFSET { @ = count(); }",
    ),
    Mode {
        name: "kprobe-trap",
        label: "kprobe as a trap",
        who: Who::Bpftrace {
            program: "kprobe:lock_vma_under_rcu+OFFSET { @ = count(); }",
            sysctl: Some("debug.kprobes-optimization"),
        },
    },
    counting(
        "breakpoint",
        "hardware breakpoint",
        "watchpoint:ADDRESS:8:x { @ = count(); }",
    ),
];

/// Measures the row.
pub(super) fn run() -> Result<Vec<Row>> {
    let (costs, versions) = fault_cost::measure(&MODES, 1)?;
    // That the kernel makes a jump of a probe, and not of another, shows in nothing but this.
    ensure!(
        costs.added("kprobe-trap")? > costs.added("kprobe-jump")?,
        "a kprobe by a trap was no dearer than one by a jump: debug.kprobes-optimization had no effect on this kernel"
    );
    let mut figures = Map::new();
    let mut notes = Vec::new();
    let mut parts = Vec::new();
    for cost in &costs.all {
        let (name, label) = (cost.mode.name, cost.mode.label);
        let added = costs.added(name)?;
        figures.insert(
            name.to_owned(),
            json!({"instructions": cost.cpu(), "added": added}),
        );
        match cost.mode.who {
            Who::Nobody => continue,
            Who::Tracer { .. } | Who::Sums(_) => {}
            Who::Bpftrace { .. } => parts.push(format!("{label} {added:.0}")),
        }
        notes.push(format!("{label:<30}{added:>8.0} instructions added to a fault"));
    }
    notes.push(format!("counted by {}; tracer by itself", versions.join(", ")));
    Ok(vec![Row {
        name: PROBE_COST,
        measured: format!("instructions a run: {}", parts.join(", ")),
        method: "as fault-cost, one turn each; bpftrace with one probe that counts, tracer with all of its probes, filtered",
        notes,
        figures: json!({"modes": figures, "peers": versions}),
        ..Row::default()
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_for_one_turn_only() {
        let script = fault_cost::script_of(&MODES, 1);
        let lines: Vec<&str> = script.lines().map(str::trim).collect();
        let at = lines
            .iter()
            .position(|line| line.starts_with("peer kprobe-trap "))
            .unwrap();
        assert_eq!(
            lines[at - 1],
            "sysctl -q -w debug.kprobes-optimization=0 || exit 1"
        );
        assert_eq!(
            lines[at + 1],
            "sysctl -q -w debug.kprobes-optimization=1 || exit 1"
        );
        assert!(lines.contains(&"trace other-process -p 1"), "{script}");
    }

    #[test]
    fn modes_have_names_of_their_own() {
        for (at, mode) in MODES.iter().enumerate() {
            assert!(
                MODES[..at].iter().all(|other| other.name != mode.name),
                "{}",
                mode.name
            );
        }
    }
}
