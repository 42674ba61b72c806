//! Accesses that may end in a signal, and go on after it.

use std::arch::global_asm;
use std::ptr;

use anyhow::Result;

use crate::sys;

global_asm!(
    ".pushsection .text.workload_try,\"ax\",@progbits",
    ".p2align 6",
    ".globl workload_try_store",
    "workload_try_store:",
    "mov [rdi], rdi",
    "mov eax, 1",
    "ret",
    ".globl workload_try_load",
    "workload_try_load:",
    "mov rax, [rdi]",
    "mov eax, 1",
    "ret",
    ".globl workload_try_failed",
    "workload_try_failed:",
    "xor eax, eax",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    fn workload_try_store(address: usize) -> u32;
    fn workload_try_load(address: usize) -> u32;
    fn workload_try_failed();
}

/// Where the instruction pointer stands in the saved registers.
const RIP: usize = libc::REG_RIP as usize;

extern "C" fn caught(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes the interrupted thread's registers, which this handler may change.
    let at = unsafe { &mut (*context).uc_mcontext.gregs[RIP] };
    let here = at.cast_unsigned() as usize;
    if here == workload_try_store as *const () as usize || here == workload_try_load as *const () as usize {
        *at = (workload_try_failed as *const () as usize).cast_signed() as i64;
        return;
    }
    // A fault that nobody meant: let it end the process, as it would have without us.
    // SAFETY: the default action takes no memory; the instruction faults again after the return.
    unsafe {
        libc::signal(libc::SIGSEGV, libc::SIG_DFL);
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
    }
}

/// Makes [`store`] and [`load`] survive.
pub(crate) fn install() -> Result<()> {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: an all-zero sigaction is valid; the handler is async-signal-safe.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = caught as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(signal, &raw const action, ptr::null_mut())
        };
        sys::check(result, "sigaction")?;
    }
    Ok(())
}

/// Writes a word. `false` if a signal came of it.
pub(crate) fn store(address: usize) -> bool {
    // SAFETY: callers pass addresses in mappings of their own, or where nothing is mapped.
    unsafe { workload_try_store(address) == 1 }
}

/// Reads a word. `false` if a signal came of it.
pub(crate) fn load(address: usize) -> bool {
    // SAFETY: as for `store`.
    unsafe { workload_try_load(address) == 1 }
}
