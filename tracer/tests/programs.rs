//! What the built programs may do, read off the object itself. No privilege is needed.
//!
//! Held here: the invariant of `docs/architecture.md` that the probes call no helper that takes
//! `mmap_lock`, walks VMAs, faults, or writes to anything but our own maps.

use std::collections::{BTreeMap, BTreeSet};

use aya_obj::Object;

/// Helpers that a program may call, with why that is harmless inside a page fault.
/// Numbers are from `include/uapi/linux/bpf.h`.
const ALLOWED: &[(i32, &str, &str)] = &[
    (1, "bpf_map_lookup_elem", "takes no lock"),
    (5, "bpf_ktime_get_ns", "reads a clock"),
    (8, "bpf_get_smp_processor_id", "reads a register"),
    (35, "bpf_get_current_task", "reads a register"),
    (174, "bpf_get_attach_cookie", "reads what was given at the attach"),
    (14, "bpf_get_current_pid_tgid", "reads the current task"),
    (16, "bpf_get_current_comm", "copies the current task's name"),
    (35, "bpf_get_current_task", "reads a register"),
    (
        174,
        "bpf_get_attach_cookie",
        "reads what the program was attached with",
    ),
    (
        67,
        "bpf_get_stack",
        "unwinds what is in memory anyway, without build ids; of a program's stack it reads only what is there",
    ),
    (
        113,
        "bpf_probe_read_kernel",
        "does not fault: a bad address is an error",
    ),
    (
        123,
        "bpf_get_current_ancestor_cgroup_id",
        "walks up from the current task's cgroup under RCU, without a lock",
    ),
    (
        131,
        "bpf_ringbuf_reserve",
        "our own ring; gives up instead of waiting in an NMI",
    ),
    (132, "bpf_ringbuf_submit", "our own ring"),
    (133, "bpf_ringbuf_discard", "our own ring"),
    (134, "bpf_ringbuf_query", "reads positions of our own ring"),
];

/// Helpers that change a hash map take the lock of its bucket: only at fork and at a task's end,
/// which hold none of the locks that we trace.
const MAY_CHANGE_MAPS: &[&str] = &["follow_fork", "follow_fork_again", "follow_free"];
const CHANGES_MAPS: &[(i32, &str)] = &[(2, "bpf_map_update_elem"), (3, "bpf_map_delete_elem")];

/// Helpers of the watchpoint alone, which runs in an exception like an NMI and waits for nothing.
const WATCHES: &[&str] = &["watch_change"];
const FOR_WATCHES: &[(i32, &str)] = &[
    (25, "bpf_perf_event_output"), // its CPU's own buffer, without a lock
    (67, "bpf_get_stack"),         // of the kernel: unwinds what is in memory anyway
];

const CALL: u8 = 0x85;

fn object() -> Object {
    let bytes = std::fs::read(env!("TRACER_EBPF_OBJECT")).expect("the object that build.rs found");
    Object::parse(&bytes).expect("the object parses")
}

/// Helpers by program, calls to other functions of the object followed.
fn helpers() -> BTreeMap<String, BTreeSet<i32>> {
    let object = object();
    let mut found = BTreeMap::new();
    for (name, program) in &object.programs {
        let function = &object.functions[&program.function_key()];
        // A register as source says whom the number names: 0 a helper, 1 a function of the object.
        let calls = function
            .instructions
            .iter()
            .filter(|instruction| instruction.code == CALL && instruction.src_reg() == 0)
            .map(|instruction| instruction.imm);
        found.insert(name.clone(), calls.collect());
    }
    found
}

#[test]
fn programs_call_only_helpers_that_are_harmless_inside_a_page_fault() {
    let helpers = helpers();
    assert!(
        helpers.len() >= 15,
        "programs are missing from the object: {:?}",
        helpers.keys()
    );
    for (program, calls) in &helpers {
        for call in calls {
            let allowed = ALLOWED.iter().any(|(number, ..)| number == call)
                || MAY_CHANGE_MAPS.contains(&program.as_str())
                    && CHANGES_MAPS.iter().any(|(number, _)| number == call)
                || WATCHES.contains(&program.as_str())
                    && FOR_WATCHES.iter().any(|(number, _)| number == call);
            assert!(allowed, "{program} calls helper {call}, which is not on the list");
        }
    }
}

#[test]
fn the_object_may_use_what_the_kernel_lends_to_gpl_programs() {
    assert_eq!(object().license.to_bytes(), b"Dual MIT/GPL");
}

#[test]
fn events_go_out_through_one_ring_and_nothing_else() {
    let object = object();
    let maps: BTreeSet<&str> = object.maps.keys().map(String::as_str).collect();
    let known = BTreeSet::from([
        ".rodata",
        "AYA_LOGS",
        "COUNTERS",
        "ENABLED",
        "EVENTS",
        "FAULTS",
        "INFLIGHT",
        "NOTES",
        "PIDS",
        "POINTS",
        "SITES",
        "TASKS",
        "TIDS",
        "WATCH_EVENTS",
        "WATCH_FOUND",
        "WATCH_RUNS",
        "WATCH_SCRATCH",
        "WATCH_TARGET",
        "DISTURBED",
    ]);
    let unknown: Vec<_> = maps.difference(&known).collect();
    assert!(
        unknown.is_empty(),
        "a map that docs/wire-format.md does not tell of: {unknown:?}"
    );
}
