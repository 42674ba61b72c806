//! What `--mode summary` hands to user space: sums in memory, by CPU, and no events. And what was not paired, with
//! `--mode holds`, too.
//!
//! A program may be preempted, and interrupted by another one on the same CPU, which may count in the same place: so each
//! number is added to by one atomic instruction. Nobody reads it back, and no other CPU writes to its cache line.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{Global, helpers::bpf_get_smp_processor_id, macros::map, maps::Array};
use tracer_common::summary::{BUCKETS, Count, CpuSummary, Measure, bucket};

use crate::emit::BPF_F_MMAPABLE;

/// 1: they are wanted.
#[unsafe(no_mangle)]
static SUMMARY: Global<u8> = Global::new(0);

/// By CPU; the loader makes it as long as there are CPUs. User space reads it from memory.
#[map]
static SUMS: Array<CpuSummary> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[inline(always)]
fn sums() -> Option<*mut CpuSummary> {
    // SAFETY: the helper has no precondition. Programs do not migrate.
    SUMS.get_ptr_mut(unsafe { bpf_get_smp_processor_id() })
}

/// Whose old value nobody wants is one instruction, without a loop.
#[inline(always)]
fn add(number: *mut u64, more: u64) {
    // SAFETY: `number` points into a map value, which lives as long as the program.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(number, more) };
}

/// Counts one more, if that is wanted.
#[inline(always)]
pub(crate) fn count(what: Count) {
    if SUMMARY.load() != 0 {
        lost(what);
    }
}

/// Counts something that makes no time, whoever pairs.
#[inline(always)]
pub(crate) fn lost(what: Count) {
    if let Some(sums) = sums() {
        // SAFETY: the map gave a valid pointer, and the index is below the array's length.
        add(unsafe { &raw mut (*sums).counts[what as usize] }, 1);
    }
}

/// A wait or hold from `since` to `now`.
#[inline(always)]
pub(crate) fn record(measure: Measure, since: u64, now: u64) {
    if SUMMARY.load() == 0 {
        return;
    }
    let ns = now.saturating_sub(since);
    let at = bucket(ns);
    if at >= BUCKETS {
        return;
    }
    if let Some(sums) = sums() {
        // SAFETY: the map gave a valid pointer, and the indices are below the arrays' lengths.
        unsafe {
            let histogram = &raw mut (*sums).histograms[measure as usize];
            add(&raw mut (*histogram).buckets[at], 1);
            add(&raw mut (*histogram).sum_ns, ns);
        }
    }
}
