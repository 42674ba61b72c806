//! What a kernel function tells: why a fault was sent back from there, and where a lock was taken.

use super::faults::SentBack;
use crate::stacks::Stack;

/// Why a round under the VMA lock was sent back, from the function that gave the lock back. Derived: the functions have
/// been read, but one may have several reasons.
pub fn retry_reason(function: Option<&str>, cause: SentBack) -> &'static str {
    if cause.mmap_failed {
        // Under the VMA lock only this is tried with the mmap_lock: an anon_vma has to be made.
        return "anon_vma";
    }
    let Some(function) = function else {
        return "not_seen";
    };
    match function {
        "__folio_lock_or_retry" => "folio_locked",
        "filemap_fault" => "file_read",
        "shmem_fault" | "shmem_get_folio_gfp" => "shmem",
        "handle_userfault" => "userfaultfd",
        "do_swap_page" => "swap",
        "fault_dirty_shared_page" | "balance_dirty_pages_ratelimited" => "writeback",
        _ if function.contains("hugetlb") => "hugetlb",
        // vmf_can_call_fault, or vmf_anon_prepare where the failed trylock was not seen.
        "do_fault" | "do_cow_fault" | "do_read_fault" | "do_shared_fault" | "do_wp_page" | "wp_page_copy"
        | "do_anonymous_page" => "fault_handler_or_anon_vma",
        _ => "other",
    }
}

/// Functions that take and give back locks, or that watch: not where the time goes.
fn is_locking(function: &str) -> bool {
    const PREFIXES: &[&str] = &[
        "bpf_",
        "__bpf_",
        "trace_",
        "__traceiter_",
        "__mmap_lock_",
        "mmap_read_",
        "mmap_write_",
        "rwsem_",
        "__rwsem",
        "down_",
        "__down_",
        "up_",
        "__up_",
        "vma_start_",
        "__vma_start_",
        "vma_end_",
        "vma_mark_",
        "vma_refcount_",
        "__vma_exclude_",
        "__vma_end_",
        "lock_vma_",
        "lock_mm_",
        "lock_next_vma",
        "unlock_",
        "rcuwait_",
        "schedule",
        "__schedule",
        "preempt_schedule",
        "ftrace_",
        "kprobe_",
        "optimized_callback",
        "get_mmap_lock_carefully",
        "lock_acquire",
        "lock_release",
        "percpu_down",
        "osq_lock",
        "vma_lock_",
        "uffd_lock_",
        "__kprobe",
        "kretprobe",
        "fprobe_",
        "arch_ftrace",
        "asm_",
        "irqentry",
        "mmap_lock_",
        "perf_trace",
    ];
    PREFIXES.iter().any(|prefix| function.starts_with(prefix))
}

/// The name of a frame without its offset.
fn function(name: &str) -> &str {
    name.split('+').next().unwrap_or(name)
}

/// The first function of a kernel stack, from inside, that is not about locking itself: who wanted the lock.
/// `None`: there is none with a name.
pub fn caller(stack: &Stack) -> Option<&str> {
    stack
        .frames
        .iter()
        .map(|frame| function(&frame.name))
        .find(|name| !name.is_empty() && !is_locking(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::Frame;

    fn stack(names: &[&str]) -> Stack {
        let frame = |name: &&str| Frame {
            name: (*name).into(),
            ..Frame::default()
        };
        Stack {
            pid: 0,
            frames: names.iter().map(frame).collect(),
        }
    }

    #[test]
    fn the_caller_is_the_first_that_does_not_lock() {
        let deep = stack(&[
            "bpf_prog_1234_mmap_acquire",
            "bpf_trace_run3+0x8c",
            "__mmap_lock_do_trace_acquire_returned+0x5e",
            "down_write_killable+0x90",
            "vm_mmap_pgoff+0xcb/0x180",
            "do_syscall_64+0x5e",
        ]);
        assert_eq!(caller(&deep), Some("vm_mmap_pgoff"));
        assert_eq!(caller(&stack(&["", "rwsem_down_write_slowpath+0x1"])), None);
        assert_eq!(caller(&stack(&[])), None);
        let inside = stack(&["__vma_start_write+0x9", "mmap_region+0x1c"]);
        assert_eq!(caller(&inside), Some("mmap_region"));
    }

    #[test]
    fn a_failed_trylock_says_more_than_the_function() {
        let cause = |mmap_failed| SentBack {
            site: Some(40),
            mmap_failed,
        };
        assert_eq!(retry_reason(Some("do_anonymous_page"), cause(true)), "anon_vma");
        assert_eq!(retry_reason(Some("filemap_fault"), cause(false)), "file_read");
        assert_eq!(retry_reason(None, cause(false)), "not_seen");
    }
}
