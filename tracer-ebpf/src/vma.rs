//! Functions around the per-VMA lock, and page faults.

use aya_ebpf::{
    EbpfContext, Global,
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use tracer_common::{
    site,
    wire::{Kind, Provenance, fault, flag},
};

use crate::{
    args::arg,
    emit, filter, inflight,
    kread::{self, Bare, Fields, Typed},
    mark, pair,
};

/// Position of the return value behind the arguments of `__vma_start_write`; 0: it returns nothing.
#[unsafe(no_mangle)]
static RET_START_WRITE: Global<u8> = Global::new(0);
/// 1: `vma_start_read` has a probe of its own, so that acquires are not taken from its callers.
#[unsafe(no_mangle)]
static START_READ_SEEN: Global<u8> = Global::new(0);

/// Whether a pointer is one of the last 4095 addresses, which stand for an errno.
#[inline(always)]
const fn is_err(pointer: u64) -> bool {
    pointer > u64::MAX - 4095
}

const fn with(provenance: Provenance) -> u16 {
    (provenance as u16) << flag::PROVENANCE_SHIFT
}

/// Reports on a VMA that the verifier knows as one.
#[inline(always)]
fn report<const AGAIN: bool>(ctx: &impl EbpfContext, kind: Kind, site: u32, vma: u64, arg: u32, flags: u16) {
    let Some(task) = filter::wanted::<AGAIN>(kind, site) else {
        return;
    };
    if !filter::has_vma::<Typed>(vma) {
        return;
    }
    if !pair::streams() {
        return pair::vma::<Typed, false>(kind, &task, site, vma, flags, None);
    }
    mark::before_vma(kind, &task, vma, false);
    let mut fields = Fields::EMPTY;
    kread::vma::<Typed>(vma, &mut fields);
    fields.flags |= flags;
    fields.body.arg = arg;
    let event = emit::vma(kind, site, &task, &fields);
    mark::after_vma(ctx, kind, &task, vma, event, false);
    pair::vma::<Typed, false>(kind, &task, site, vma, flags, event);
}

/// Reports that no VMA was locked.
#[inline(always)]
fn report_fail<const AGAIN: bool>(site: u32, mm: u64, address: u64, errno: u32) {
    let Some(task) = filter::wanted::<AGAIN>(Kind::VmaReadFail, site) else {
        return;
    };
    if !filter::has_address(address) {
        return;
    }
    pair::vma_not_taken();
    if !pair::streams() {
        return;
    }
    let mut fields = Fields::EMPTY;
    fields.flags = flag::MM | flag::ADDR;
    fields.body.mm = mm;
    fields.body.vm_start = address;
    fields.body.arg = errno;
    fields.body.mm_lock_seq = kread::mm_lock_seq::<Typed>(mm, &mut fields.flags);
    emit::vma(Kind::VmaReadFail, site, &task, &fields);
}

twice!(fexit("lock_vma_under_rcu") lock_vma_under_rcu, lock_vma_under_rcu_again, FExitContext => on_lock_vma_under_rcu);
/// `lock_vma_under_rcu(mm, address)` returned a locked VMA or NULL.
#[inline(always)]
fn on_lock_vma_under_rcu<const AGAIN: bool>(ctx: &FExitContext) -> i32 {
    let vma: u64 = arg::<2>(ctx);
    if vma == 0 {
        report_fail::<AGAIN>(site::LOCK_VMA_UNDER_RCU, arg::<0>(ctx), arg::<1>(ctx), 0);
    } else if START_READ_SEEN.load() == 0 {
        report::<AGAIN>(ctx, Kind::VmaReadAcquire, site::LOCK_VMA_UNDER_RCU, vma, 0, 0);
    }
    0
}

twice!(fexit("lock_next_vma") lock_next_vma, lock_next_vma_again, FExitContext => on_lock_next_vma);
/// `lock_next_vma(mm, iterator, address)` returned a locked VMA, NULL at the end, or an errno.
#[inline(always)]
fn on_lock_next_vma<const AGAIN: bool>(ctx: &FExitContext) -> i32 {
    let vma: u64 = arg::<3>(ctx);
    if is_err(vma) {
        report_fail::<AGAIN>(
            site::LOCK_NEXT_VMA,
            arg::<0>(ctx),
            arg::<2>(ctx),
            vma.wrapping_neg() as u32,
        );
    } else if vma != 0 && START_READ_SEEN.load() == 0 {
        report::<AGAIN>(ctx, Kind::VmaReadAcquire, site::LOCK_NEXT_VMA, vma, 0, 0);
    }
    0
}

/// Entry of `vma_start_read(mm, vma)`, where it is a function: remembers the VMA.
#[kprobe]
pub(crate) fn vma_start_read_entry(ctx: ProbeContext) -> u32 {
    if let (Some(vma), Some(task)) = (
        ctx.arg::<u64>(1),
        filter::wanted::<false>(Kind::VmaReadAcquire, site::FIRST_DYNAMIC),
    ) {
        inflight::begin(task.tid, vma);
    }
    0
}

/// Return of `vma_start_read`: the VMA, NULL if it is write-locked or foreign, `-EAGAIN` if it is detached.
#[kretprobe]
pub(crate) fn vma_start_read_return(ctx: RetProbeContext) -> u32 {
    let vma: u64 = ctx.ret();
    let failed = vma == 0 || is_err(vma);
    let kind = if failed {
        Kind::VmaReadRefused
    } else {
        Kind::VmaReadAcquire
    };
    let Some(task) = filter::wanted::<false>(kind, site::FIRST_DYNAMIC) else {
        return 0;
    };
    let wanted = inflight::end(task.tid);
    let target = if failed { wanted } else { Some(vma) };
    if !target.is_none_or(filter::has_vma::<Bare>) {
        return 0;
    }
    if !pair::streams() {
        pair::vma::<Bare, false>(kind, &task, site::VMA_START_READ, vma, 0, None);
        return 0;
    }
    if !failed {
        mark::before_vma(kind, &task, vma, false);
    }
    let mut fields = Fields::EMPTY;
    if let Some(target) = target {
        kread::vma::<Bare>(target, &mut fields);
    }
    fields.body.arg = if failed { vma.wrapping_neg() as u32 } else { 0 };
    let event = emit::vma(kind, site::VMA_START_READ, &task, &fields);
    mark::after_vma(&ctx, kind, &task, vma, event, false);
    pair::vma::<Bare, false>(kind, &task, site::VMA_START_READ, vma, 0, event);
    0
}

/// Entry of `vma_refcount_put(vma)`, where it can be attached: the lock is about to be given back.
#[kprobe]
pub(crate) fn vma_refcount_put(ctx: ProbeContext) -> u32 {
    let Some(vma) = ctx.arg::<u64>(0) else { return 0 };
    let Some(task) = filter::wanted::<false>(Kind::VmaReadRelease, site::FIRST_DYNAMIC) else {
        return 0;
    };
    if !filter::has_vma::<Bare>(vma) {
        return 0;
    }
    if !pair::streams() {
        pair::vma_given::<Bare, false>(&task, site::VMA_REFCOUNT_PUT, vma, 0, None);
        return 0;
    }
    let mut fields = Fields::EMPTY;
    kread::vma::<Bare>(vma, &mut fields);
    let event = emit::vma(Kind::VmaReadRelease, site::VMA_REFCOUNT_PUT, &task, &fields);
    mark::after_vma(&ctx, Kind::VmaReadRelease, &task, vma, event, false);
    pair::vma_given::<Bare, false>(&task, site::VMA_REFCOUNT_PUT, vma, 0, event);
    0
}

twice!(fentry("handle_mm_fault") fault_begin, fault_begin_again, FEntryContext => on_fault_begin);
/// `handle_mm_fault(vma, address, flags, regs)` starts.
#[inline(always)]
fn on_fault_begin<const AGAIN: bool>(ctx: &FEntryContext) -> i32 {
    let vma: u64 = arg::<0>(ctx);
    let flags: u64 = arg::<2>(ctx);
    let Some(task) = filter::wanted::<AGAIN>(Kind::FaultBegin, site::FAULT_BEGIN) else {
        return 0;
    };
    if !filter::has_fault_begin::<Typed>(&task, vma) {
        return 0;
    }
    mark::fault_begin(&task, vma, flags as u16);
    let mut fields = Fields::EMPTY;
    kread::vma::<Typed>(vma, &mut fields);
    fields.body.arg = (flags as u32) << 16;
    emit::vma(Kind::FaultBegin, site::FAULT_BEGIN, &task, &fields);
    0
}

twice!(fexit("handle_mm_fault") fault_end, fault_end_again, FExitContext => on_fault_end);
/// `handle_mm_fault` returned. After `VM_FAULT_RETRY` or `VM_FAULT_COMPLETED` the lock is gone, and
/// the VMA may be too: then it is named, but not read.
#[inline(always)]
fn on_fault_end<const AGAIN: bool>(ctx: &FExitContext) -> i32 {
    let vma: u64 = arg::<0>(ctx);
    let flags: u64 = arg::<2>(ctx);
    let result: u64 = arg::<4>(ctx);
    let arg = (flags as u32) << 16 | (result as u32 & 0xffff);
    let dropped = result as u16 & (fault::RESULT_RETRY | fault::RESULT_COMPLETED) != 0;
    let Some(task) = filter::wanted::<AGAIN>(Kind::FaultEnd, site::FAULT_END) else {
        return 0;
    };
    if !pair::streams() {
        // Nothing was noted when the fault began, and of a VMA that may be gone nothing is known.
        if !(dropped && filter::is_by_address()) && filter::has_vma::<Typed>(vma) {
            pair::fault_ended(&task, vma, flags as u16, result as u16, None);
        }
        return 0;
    }
    if !filter::has_fault_end::<Typed>(&task, vma, dropped) {
        return 0;
    }
    let mut fields = Fields::EMPTY;
    if dropped {
        fields.flags = flag::VMA;
        fields.body.vma = vma;
    } else {
        kread::vma::<Typed>(vma, &mut fields);
    }
    fields.body.arg = arg;
    let event = emit::vma(Kind::FaultEnd, site::FAULT_END, &task, &fields);
    mark::fault_end(ctx, &task, vma, flags as u16, dropped, event);
    pair::fault_ended(&task, vma, flags as u16, result as u16, event);
    0
}

twice!(fentry("__vma_start_write") write_start, write_start_again, FEntryContext => on_write_start);
/// `__vma_start_write(vma, …)` starts; it waits for readers inside.
#[inline(always)]
fn on_write_start<const AGAIN: bool>(ctx: &FEntryContext) -> i32 {
    report::<AGAIN>(ctx, Kind::VmaWriteStart, site::WRITE_START, arg::<0>(ctx), 0, 0);
    0
}

twice!(fexit("__vma_start_write") write_acquire, write_acquire_again, FExitContext => on_write_acquire);
/// `__vma_start_write` returned: the VMA is write-locked, or the writer was killed while it waited.
#[inline(always)]
fn on_write_acquire<const AGAIN: bool>(ctx: &FExitContext) -> i32 {
    // Each index is a constant of its own: the verifier takes no computed one.
    let error: u64 = match RET_START_WRITE.load() {
        2 => arg::<2>(ctx),
        3 => arg::<3>(ctx),
        _ => 0,
    };
    let errno = (error as i32).wrapping_neg();
    if errno == 0 {
        report::<AGAIN>(
            ctx,
            Kind::VmaWriteAcquire,
            site::WRITE_ACQUIRE,
            arg::<0>(ctx),
            0,
            0,
        );
    } else {
        report::<AGAIN>(
            ctx,
            Kind::VmaWriteFail,
            site::WRITE_ACQUIRE,
            arg::<0>(ctx),
            errno as u32,
            0,
        );
    }
    0
}

twice!(fexit("vma_mark_detached") mark_detached, mark_detached_again, FExitContext => on_mark_detached);
/// `vma_mark_detached(vma)` returned: no reader is left, and none will come.
#[inline(always)]
fn on_mark_detached<const AGAIN: bool>(ctx: &FExitContext) -> i32 {
    report::<AGAIN>(ctx, Kind::VmaDetach, site::MARK_DETACHED, arg::<0>(ctx), 0, 0);
    0
}

twice!(fentry("vm_area_free") area_free, area_free_again, FEntryContext => on_area_free);
/// `vm_area_free(vma)` starts. Where detaching itself is inlined, this is the first that is seen of it.
#[inline(always)]
fn on_area_free<const AGAIN: bool>(ctx: &FEntryContext) -> i32 {
    report::<AGAIN>(
        ctx,
        Kind::VmaDetach,
        site::AREA_FREE,
        arg::<0>(ctx),
        0,
        with(Provenance::Derived),
    );
    0
}

twice!(fentry("__bad_area") bad_area, bad_area_again, FEntryContext => on_bad_area);
/// `__bad_area(regs, error, address, mm, vma, …)` starts: a fault that the VMA does not allow. Without
/// an `mm` it is the VMA lock that it is about to give back.
#[inline(always)]
fn on_bad_area<const AGAIN: bool>(ctx: &FEntryContext) -> i32 {
    let mm: u64 = arg::<3>(ctx);
    let vma: u64 = arg::<4>(ctx);
    if mm == 0 && vma != 0 {
        report::<AGAIN>(
            ctx,
            Kind::VmaReadRelease,
            site::BAD_AREA,
            vma,
            0,
            with(Provenance::Derived),
        );
    }
    0
}
