//! Arguments of traced functions, each loaded at a constant offset.
//!
//! The verifier takes no other load from a program's context, but the compiler likes to make one
//! load with a computed offset out of two in different branches. Assembly it leaves alone.

use core::arch::asm;

use aya_ebpf::EbpfContext;

/// The `N`th argument; for a function's return, the value behind its arguments is what it returned.
#[inline(always)]
pub(crate) fn arg<const N: usize>(ctx: &impl EbpfContext) -> u64 {
    let value: u64;
    // SAFETY: the context of these programs is an array of 64-bit words; the verifier checks its length.
    unsafe {
        asm!(
            "{value} = *(u64 *)({ctx} + {offset})",
            value = lateout(reg) value,
            ctx = in(reg) ctx.as_ptr(),
            offset = const N * 8,
            options(pure, readonly, nostack),
        );
    }
    value
}
