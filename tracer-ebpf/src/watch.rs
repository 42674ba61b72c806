//! `tracer watch`: a hardware watchpoint on the lock of one VMA.
//!
//! The watchpoint's exception runs [`watch_change`] right after the instruction that wrote, in a context like an
//! NMI: no lock may be waited for there. So events go out through perf's buffers, one for each CPU, which take none;
//! the ring buffer's lock would be found taken whenever two CPUs write at once, which is just what is looked for.
//! The exception cannot interrupt itself, so one scratch buffer a CPU is enough.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns,
        generated::{bpf_get_current_comm, bpf_get_stack},
    },
    macros::{fexit, map, perf_event},
    maps::{Array, PerCpuArray, PerfEventArray},
    programs::{FExitContext, PerfEventContext},
};
use tracer_common::wire::{COMM_LEN, WATCH_STACK, WatchEvent, WatchFound, WatchRuns, WatchTarget};

use crate::{
    args::arg,
    kread::{self, Bare, Fields, Typed},
};

/// What is watched.
#[map]
static WATCH_TARGET: Array<WatchTarget> = Array::with_max_entries(1, 0);
/// What the kernel's look-up gave.
#[map]
static WATCH_FOUND: Array<WatchFound> = Array::with_max_entries(1, 0);
/// The way to user space, a buffer for each CPU.
#[map]
static WATCH_EVENTS: PerfEventArray<WatchEvent> = PerfEventArray::new(0);
/// Where an event is made; it is too large for the stack.
#[map]
static WATCH_SCRATCH: PerCpuArray<WatchEvent> = PerCpuArray::with_max_entries(1, 0);
/// What each CPU did; the watchpoints count by themselves how often they were hit.
#[map]
static WATCH_RUNS: PerCpuArray<WatchRuns> = PerCpuArray::with_max_entries(1, 0);

/// `find_vma(mm, address)` returned. `PROCMAP_QUERY` asks it on kernels before 6.18.
#[fexit(function = "find_vma")]
pub(crate) fn watch_find_vma(ctx: FExitContext) -> i32 {
    found(arg::<0>(&ctx), arg::<2>(&ctx));
    0
}

/// `lock_next_vma(mm, iterator, address)` returned. `PROCMAP_QUERY` asks it from 6.18 on.
#[fexit(function = "lock_next_vma")]
pub(crate) fn watch_lock_next_vma(ctx: FExitContext) -> i32 {
    found(arg::<0>(&ctx), arg::<3>(&ctx));
    0
}

/// Notes what our own thread found.
#[inline(always)]
fn found(mm: u64, vma: u64) {
    let Some(target) = WATCH_TARGET.get(0) else { return };
    if target.finder_tid == 0 || target.finder_tid != bpf_get_current_pid_tgid() as u32 {
        return;
    }
    // Nothing, or one of the last addresses, which stand for an errno.
    if vma == 0 || vma > u64::MAX - 4095 {
        return;
    }
    let mut fields = Fields::EMPTY;
    kread::vma::<Typed>(vma, &mut fields);
    let Some(found) = WATCH_FOUND.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the map gave a valid pointer; only the one thread that is listened to comes here.
    unsafe {
        (*found).vma = vma;
        (*found).searched_mm = mm;
        (*found).mm = fields.body.mm;
        (*found).vm_start = fields.body.vm_start;
        (*found).vm_end = fields.body.vm_end;
        (*found).vm_lock_seq = fields.body.vm_lock_seq;
        (*found).calls += 1;
    }
}

/// Words of the context: `struct pt_regs`, the sample's period, its address.
mod word {
    pub(super) const IP: usize = 16;
    pub(super) const FLAGS: usize = 18;
    /// After the registers and the period of the sample.
    pub(super) const ADDRESS: usize = 22;
}

/// The watchpoint was hit.
#[perf_event]
pub(crate) fn watch_change(ctx: PerfEventContext) -> u32 {
    let Some(target) = WATCH_TARGET.get(0) else {
        return 0;
    };
    let (Some(runs), Some(event)) = (WATCH_RUNS.get_ptr_mut(0), WATCH_SCRATCH.get_ptr_mut(0)) else {
        return 0;
    };
    if target.on == 0 {
        // SAFETY: the map gave a valid pointer, and nothing else writes there meanwhile: see the module's head.
        unsafe { (*runs).off += 1 };
        return 0;
    }
    let vma = target.vma;
    let mut fields = Fields::EMPTY;
    // First, since it changes fastest.
    kread::vma::<Bare>(vma, &mut fields);
    let ip = arg::<{ word::IP }>(&ctx);
    let both = bpf_get_current_pid_tgid();
    // SAFETY: the maps gave valid pointers, and nothing else uses them on this CPU while this program runs: see
    // the module's head. The helpers get the sizes of what they write to.
    unsafe {
        (*event).number = (*runs).made;
        (*runs).made += 1;
        (*event).ts_ns = bpf_ktime_get_ns();
        (*event).address = arg::<{ word::ADDRESS }>(&ctx);
        (*event).ip = ip;
        (*event).rflags = arg::<{ word::FLAGS }>(&ctx);
        // From the order of `struct pt_regs` to that of the instructions' encoding.
        (*event).registers = [
            arg::<10>(&ctx),
            arg::<11>(&ctx),
            arg::<12>(&ctx),
            arg::<5>(&ctx),
            arg::<19>(&ctx),
            arg::<4>(&ctx),
            arg::<13>(&ctx),
            arg::<14>(&ctx),
            arg::<9>(&ctx),
            arg::<8>(&ctx),
            arg::<7>(&ctx),
            arg::<6>(&ctx),
            arg::<3>(&ctx),
            arg::<2>(&ctx),
            arg::<1>(&ctx),
            arg::<0>(&ctx),
        ];
        (*event).mm = fields.body.mm;
        (*event).vm_start = fields.body.vm_start;
        (*event).vm_end = fields.body.vm_end;
        (*event).vm_refcnt = fields.body.vm_refcnt;
        (*event).vm_lock_seq = fields.body.vm_lock_seq;
        (*event).mm_lock_seq = fields.body.mm_lock_seq;
        (*event).pid = (both >> 32) as u32;
        (*event).tid = both as u32;
        (*event).cpu = bpf_get_smp_processor_id();
        (*event).flags = u32::from(fields.flags);
        bpf_get_current_comm((&raw mut (*event).comm).cast(), COMM_LEN as u32);
        kread::code(ip, &mut (*event).before, &mut (*event).after);
        (*event).stack_bytes = bpf_get_stack(
            ctx.as_ptr(),
            (&raw mut (*event).stack).cast(),
            (WATCH_STACK * 8) as u32,
            0,
        ) as i32;
        // A reference, and not the value, which would not fit on the stack.
        let event: &WatchEvent = &*event;
        WATCH_EVENTS.output(&ctx, event, 0);
    }
    0
}
