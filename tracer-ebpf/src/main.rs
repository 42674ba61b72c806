//! The probes. Each is thin: filter, read, emit.
//!
//! What they may not do is in `docs/architecture.md`: no helper that takes `mmap_lock` or walks
//! VMAs, no map that takes a lock on a fault or lock path, no loop without a bound, no write to
//! kernel state. All reads of kernel memory are in [`kread`], the one place that makes events is
//! [`emit`].
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "aya's macros hand each program its context by value"
)]
#![expect(
    internal_features,
    reason = "BPF has an atomic add, but core exposes it in no other way"
)]

#[macro_use]
mod twice;
mod args;
mod emit;
mod filter;
mod follow;
mod inflight;
mod kread;
mod lockdep;
mod mark;
mod mmap;
mod pair;
mod point;
mod sched;
mod summary;
mod vma;
mod watch;

/// The kernel lends the helpers that we use to programs that say GPL here.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // No code path leads here; the verifier would refuse one that did.
    loop {}
}
