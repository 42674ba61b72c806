//! The least that a probe can do, in three steps: nothing; to reserve an event and to submit it; to write it, too. What is
//! below them is the kernel's own, and no tracer can save it.
//!
//! They stand beside the product's object and not in it. `limit`, a program for guests, attaches them to the hooks that
//! tracer has there.
#![no_std]
#![no_main]

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, fexit, kprobe, map},
    maps::RingBuf,
    programs::{BtfTracePointContext, FEntryContext, FExitContext, ProbeContext},
};

/// The way to user space.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Nobody is woken: user space looks by itself, as tracer does.
const BPF_RB_NO_WAKEUP: u64 = 1;

#[inline(always)]
fn empty() {}

/// An event of that many words, none of them written.
#[inline(always)]
fn submit<const WORDS: usize>() {
    if let Some(entry) = EVENTS.reserve::<[u64; WORDS]>(0) {
        entry.submit(BPF_RB_NO_WAKEUP);
    }
}

/// An event of that many words, all of them written, each by one store: left to itself the compiler writes byte by byte.
#[inline(always)]
fn write<const WORDS: usize>() {
    if let Some(mut entry) = EVENTS.reserve::<[u64; WORDS]>(0) {
        let words = entry.as_mut_ptr().cast::<u64>();
        for at in 0..WORDS {
            // SAFETY: the entry has room for so many words, and the kernel aligns it to eight bytes.
            unsafe { words.add(at).write_volatile(u64::MAX) };
        }
        entry.submit(BPF_RB_NO_WAKEUP);
    }
}

/// One program for each kind of hook, since the kernel looks at the kind. What it hooks into, the loader says.
macro_rules! on_all_hooks {
    ($($tracepoint:ident, $entry:ident, $exit:ident, $instruction:ident => $body:expr;)*) => {$(
        #[btf_tracepoint]
        pub(crate) fn $tracepoint(_: BtfTracePointContext) -> i32 {
            $body;
            0
        }

        #[fentry]
        pub(crate) fn $entry(_: FEntryContext) -> i32 {
            $body;
            0
        }

        #[fexit]
        pub(crate) fn $exit(_: FExitContext) -> i32 {
            $body;
            0
        }

        #[kprobe]
        pub(crate) fn $instruction(_: ProbeContext) -> u32 {
            $body;
            0
        }
    )*};
}

on_all_hooks! {
    empty_tp_btf, empty_fentry, empty_fexit, empty_kprobe => empty();
    submit64_tp_btf, submit64_fentry, submit64_fexit, submit64_kprobe => submit::<8>();
    submit96_tp_btf, submit96_fentry, submit96_fexit, submit96_kprobe => submit::<12>();
    write64_tp_btf, write64_fentry, write64_fexit, write64_kprobe => write::<8>();
    write96_tp_btf, write96_fentry, write96_fexit, write96_kprobe => write::<12>();
}

/// The kernel lends the ring buffer's helpers to programs that say GPL here.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // No code path leads here; the verifier would refuse one that did.
    loop {}
}
