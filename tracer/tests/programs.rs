//! What the built programs may do, read off the object itself. No privilege is needed.
//!
//! Held here: the invariant of `docs/architecture.md` that the probes call no helper that takes
//! `mmap_lock`, walks VMAs, faults, or writes to anything but our own maps; that they are of types that only look on,
//! with maps that nothing waits for; that their stack and their loops are bounded as stated.

use std::collections::BTreeSet;

use aya_obj::Object;

#[path = "programs/code.rs"]
mod code;

/// Helpers that a program may call, with why that is harmless inside a page fault.
/// Numbers are from `include/uapi/linux/bpf.h`.
const ALLOWED: &[(i32, &str, &str)] = &[
    (1, "bpf_map_lookup_elem", "takes no lock"),
    (5, "bpf_ktime_get_ns", "reads a clock"),
    (8, "bpf_get_smp_processor_id", "reads a register"),
    (14, "bpf_get_current_pid_tgid", "reads the current task"),
    (16, "bpf_get_current_comm", "copies the current task's name"),
    (35, "bpf_get_current_task", "reads a register"),
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
    (158, "bpf_get_current_task_btf", "reads a register"),
    (
        174,
        "bpf_get_attach_cookie",
        "reads what the program was attached with",
    ),
];

/// Helpers that change a hash map take the lock of its bucket: only at fork and at a task's end,
/// which hold none of the locks that we trace.
const MAY_CHANGE_MAPS: &[&str] = &["follow_fork", "follow_fork_again", "follow_free"];
const CHANGES_MAPS: &[(i32, &str)] = &[(2, "bpf_map_update_elem"), (3, "bpf_map_delete_elem")];

/// Helpers of the watchpoint alone, which runs in an exception like an NMI and waits for nothing.
const WATCHES: &[&str] = &["watch_change"];
const FOR_WATCHES: &[(i32, &str, &str)] = &[(
    25,
    "bpf_perf_event_output",
    "its CPU's own buffer, without a lock",
)];

/// What a program may be, with why that is harmless: all of them look on, none decides anything for the kernel.
const KINDS: &[(&str, &str)] = &[
    ("BtfTracePoint", "runs at a tracepoint"),
    (
        "FEntry",
        "runs when a function begins; it cannot keep it from running",
    ),
    (
        "FExit",
        "runs when a function has ended; it cannot change what it returns",
    ),
    (
        "KProbe",
        "runs at an instruction; bpf_override_return is on no list",
    ),
    ("KRetProbe", "runs when a function has ended"),
    ("TracePoint", "runs at a tracepoint"),
    ("PerfEvent", "runs at a hardware breakpoint"),
];

/// Types of maps, by their numbers in `include/uapi/linux/bpf.h`, with why they may be used inside a page fault.
const MAPS: &[(u32, &str, &str)] = &[
    (
        1,
        "hash",
        "looked up without a lock; who changes one is in MAY_CHANGE_MAPS",
    ),
    (2, "array", "made before the program runs; no lock"),
    (4, "perf event array", "each CPU's own buffer"),
    (6, "array for each CPU", "made before the program runs; no lock"),
    (
        27,
        "ring buffer",
        "a lock of its own for some instructions; in an NMI it gives up instead of waiting",
    ),
];

/// Functions that go in circles, and what ends them; the verifier follows each to its end.
const CIRCLES: &[(&str, &str)] = &[
    ("memcpy", "the compiler's own: over as many bytes as a type has"),
    ("memmove", "the same"),
    ("memset", "the same"),
    (
        "is_in_cgroup",
        "`--cgroup`, which is dead code without that option: up from the task's cgroup, 32 of them at most",
    ),
    (
        "point",
        "LOOKS of `--linger`, which is dead code without that option",
    ),
    ("point_breakpoint", "the same"),
];

/// Most bytes of stack, of the 512 that the kernel gives to a chain of calls, by program. From 64 on newer kernels lay the
/// stack aside for each program and CPU, which 7.0 has had trouble with: the less the better. The first programs of pairs put the
/// message of a full ring together there.
const STACKS: &[(usize, &[&str])] = &[
    (
        32,
        &[
            "disturb_call",
            "disturb_call_single",
            "disturb_irq",
            "disturb_irq_work",
            "disturb_reschedule",
            "disturb_softirq",
            "disturb_switch",
            "disturb_timer",
            "follow_fork",
            "follow_fork_again",
            "follow_free",
            "sched_waking",
            "watch_find_vma",
            "watch_lock_next_vma",
        ],
    ),
    (64, &["vma_start_read_entry"]),
    (
        128,
        &[
            "mmap_release_again",
            "mmap_start_again",
            "sched_switch",
            "sched_wakeup",
            "task_exec_again",
            "task_exit_again",
            "task_fork_again",
        ],
    ),
    (
        192,
        &[
            "area_free_again",
            "bad_area_again",
            "fault_begin_again",
            "fault_end_again",
            "lock_next_vma_again",
            "lock_vma_under_rcu_again",
            "lockdep_acquire",
            "lockdep_release",
            "mark_detached_again",
            "mmap_acquire_again",
            "vma_refcount_put",
            "vma_start_read_return",
            "watch_change",
            "write_acquire_again",
            "write_start_again",
        ],
    ),
    (224, &["point", "point_breakpoint"]),
    (
        352,
        &[
            "area_free",
            "bad_area",
            "fault_begin",
            "fault_end",
            "lock_next_vma",
            "lock_vma_under_rcu",
            "mark_detached",
            "mmap_acquire",
            "mmap_release",
            "mmap_start",
            "task_exec",
            "task_exit",
            "task_fork",
            "write_acquire",
            "write_start",
        ],
    ),
];

/// The object, with the functions that each program calls behind it, as the kernel gets them.
fn object() -> Object {
    let bytes = std::fs::read(env!("TRACER_EBPF_OBJECT")).expect("the object that build.rs found");
    let mut object = Object::parse(&bytes).expect("the object parses");
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    object
        .relocate_calls(&sections)
        .expect("all that is called is there");
    object
}

#[test]
fn programs_call_only_helpers_that_are_harmless_inside_a_page_fault() {
    let object = object();
    let programs = code::programs(&object);
    assert!(
        programs.len() >= 15,
        "programs are missing from the object: {:?}",
        programs.keys()
    );
    for (name, program) in &programs {
        for call in program.helpers() {
            let allowed = ALLOWED.iter().any(|(number, ..)| *number == call)
                || MAY_CHANGE_MAPS.contains(name) && CHANGES_MAPS.iter().any(|(number, _)| *number == call)
                || WATCHES.contains(name) && FOR_WATCHES.iter().any(|(number, ..)| *number == call);
            assert!(allowed, "{name} calls helper {call}, which is not on the list");
        }
        assert_eq!(program.other_calls(), 0, "{name} calls functions of the kernel");
    }
}

#[test]
fn no_list_names_what_nothing_uses_and_none_names_it_twice() {
    let object = object();
    let programs = code::programs(&object);
    let called: BTreeSet<i32> = programs.values().flat_map(code::Program::helpers).collect();
    let helpers = ALLOWED.iter().map(|(number, ..)| *number);
    let helpers = helpers.chain(CHANGES_MAPS.iter().map(|(number, _)| *number));
    let mut helpers: Vec<i32> = helpers
        .chain(FOR_WATCHES.iter().map(|(number, ..)| *number))
        .collect();
    helpers.sort_unstable();
    assert_eq!(helpers, Vec::from_iter(called));
    let mut maps: Vec<u32> = MAPS.iter().map(|(number, ..)| *number).collect();
    maps.sort_unstable();
    let used = object.maps.values().map(|map| map.map_type());
    assert_eq!(maps, Vec::from_iter(used.collect::<BTreeSet<u32>>()));
    let mut stacks: Vec<&str> = STACKS.iter().flat_map(|(_, names)| *names).copied().collect();
    stacks.sort_unstable();
    assert_eq!(stacks, Vec::from_iter(programs.keys().copied()));
}

#[test]
fn programs_look_on_and_decide_nothing() {
    for (name, program) in &object().programs {
        let kind = format!("{:?}", program.section);
        let known = KINDS.iter().any(|(known, _)| kind.starts_with(known));
        assert!(known, "{name} is a {kind}, which is not on the list");
        assert!(!kind.contains("sleepable: true"), "{name} may sleep");
    }
}

#[test]
fn maps_are_of_types_that_no_page_fault_waits_for() {
    for (name, map) in &object().maps {
        let kind = map.map_type();
        let known = MAPS.iter().any(|(number, ..)| *number == kind);
        assert!(known, "{name} is of type {kind}, which is not on the list");
    }
}

#[test]
fn no_program_takes_more_stack_than_is_stated() {
    let object = object();
    let programs = code::programs(&object);
    for (most, names) in STACKS {
        for name in *names {
            let program = &programs[name];
            let Some(taken) = program.stack() else {
                panic!("a function of {name} calls itself");
            };
            assert!(
                taken <= *most,
                "{name} takes {taken} bytes of stack; {most} are stated in {}",
                file!()
            );
        }
    }
}

#[test]
fn only_loops_that_are_stated_go_in_circles() {
    let object = object();
    let circling = object
        .functions
        .values()
        .filter(|function| code::goes_in_circles(&function.instructions));
    let circling: BTreeSet<&str> = circling.map(|function| function.name.as_str()).collect();
    let stated: BTreeSet<&str> = CIRCLES.iter().map(|(name, _)| *name).collect();
    assert_eq!(circling, stated);
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
        "PAIRED",
        "PIDS",
        "POINTS",
        "SITES",
        "SUMS",
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
