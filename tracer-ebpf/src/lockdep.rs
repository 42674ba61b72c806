//! What lockdep is told of the locks that we trace: the truth, where a kernel has it.
//!
//! These tracepoints fire for every lock of the whole kernel, so nearly all runs end at the comparison of the lock's
//! name, which lies in what the kernel hands to the program.
//!
//! They are programs of the old kind, that perf calls. The kernel takes (imaginary) locks of its own around a
//! program on a typed or raw tracepoint, before it looks whether that program is running already: on *these*
//! tracepoints it would never come back. perf looks first. It also forbids preemption, so that no second program is
//! needed. Skipped runs of these programs tell nothing: they are for locks that were taken inside other programs. But
//! perf also skips them while anybody is inside a system call on a map, which tracer therefore does without.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _, Global,
    helpers::{bpf_get_stack, bpf_ktime_get_ns},
    macros::{btf_tracepoint, map},
    maps::PerCpuArray,
    programs::{BtfTracePointContext, TracePointContext},
};
use tracer_common::{
    site,
    wire::{Kind, acquire_arg, flag, release_arg},
};

use crate::{
    args::arg,
    emit, filter,
    kread::{self, ABSENT, Bare, Fields, Memory as _},
    mark,
};

/// `vm_area_struct.vmlock_dep_map`
#[unsafe(no_mangle)]
static OFF_VMA_LOCKDEP: Global<u32> = Global::new(ABSENT);
/// `mm_struct.mmap_lock.dep_map`
#[unsafe(no_mangle)]
static OFF_MM_LOCKDEP: Global<u32> = Global::new(ABSENT);
/// 1: releases tell how long ago their CPU was disturbed.
#[unsafe(no_mangle)]
static DISTURBANCES: Global<u8> = Global::new(0);

/// `vm_lock`, with the byte that ends it.
const VMA_NAME: u64 = u64::from_le_bytes(*b"vm_lock\0");
/// `&mm->mmap_lock`, in two parts, with the byte that ends it.
const MM_NAME: [u64; 2] = [
    u64::from_le_bytes(*b"&mm->mma"),
    u64::from_le_bytes(*b"p_lock\0\0"),
];
/// The bytes of the second part.
const MM_NAME_MASK: u64 = 0x00ff_ffff_ffff_ffff;

/// When something else than its task last ran on each CPU: an interrupt, or another task.
#[map]
static DISTURBED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The lock that a map of lockdep lies in.
enum Lock {
    Vma(u64),
    Mm(u64),
}

/// What the lock is, if it is one of ours. In the records of both tracepoints its address is word 2, and its name
/// comes after that. Programs may not look beyond a record's last field of fixed length by themselves.
#[inline(always)]
fn whose(ctx: &TracePointContext) -> Option<Lock> {
    const NAME: u32 = 24;
    let [start, more] = Bare::read::<[u64; 2]>(ctx.as_ptr() as u64, NAME).ok()?;
    if start == VMA_NAME {
        let offset = OFF_VMA_LOCKDEP.load();
        return Some(Lock::Vma(arg::<2>(ctx).wrapping_sub(u64::from(offset))));
    }
    if start == MM_NAME[0] && more & MM_NAME_MASK == MM_NAME[1] {
        let offset = OFF_MM_LOCKDEP.load();
        return Some(Lock::Mm(arg::<2>(ctx).wrapping_sub(u64::from(offset))));
    }
    None
}

/// Where lockdep was called from.
#[inline(always)]
fn caller(ctx: &TracePointContext) -> u64 {
    // Of the stack, one frame: the one behind lockdep's own function.
    const SKIP: u64 = 1;
    let mut code = 0_u64;
    // SAFETY: the buffer is as long as said.
    unsafe { bpf_get_stack(ctx.as_ptr(), (&raw mut code).cast(), 8, SKIP) };
    code
}

#[inline(always)]
fn report(ctx: &TracePointContext, kind: Kind, lock: &Lock, arg: u32) {
    // perf's programs are not preempted, so there is nothing to note.
    let Some(task) = filter::wanted::<false>(kind, site::FIRST_DYNAMIC) else {
        return;
    };
    let mut fields = Fields::EMPTY;
    match *lock {
        Lock::Vma(vma) if !filter::has_vma::<Bare>(vma) => return,
        Lock::Vma(vma) => {
            mark::before_vma(kind, &task, vma, true);
            kread::vma::<Bare>(vma, &mut fields);
        }
        Lock::Mm(mm) => {
            fields.flags |= flag::MM;
            fields.body.mm = mm;
            fields.body.mm_lock_seq = kread::mm_lock_seq::<Bare>(mm, &mut fields.flags);
        }
    }
    fields.body.arg = arg;
    let event = emit::vma(kind, site::LOCKDEP, &task, &fields);
    // Of an `mmap_lock` the tracepoints tell more.
    if let Lock::Vma(vma) = *lock {
        mark::after_vma(ctx, kind, &task, vma, event, true);
    }
}

/// What the programs return: with 0 the kernel would keep the event from everybody else who has asked for it. The
/// macro for tracepoints always returns that, so these do without.
const GO_ON: u32 = 1;

/// `lock_acquire`: of a VMA's lock, once it is there; of an `mmap_lock`, before it is waited for.
#[unsafe(no_mangle)]
#[unsafe(link_section = "tracepoint")]
pub(crate) extern "C" fn lockdep_acquire(ctx: *mut c_void) -> u32 {
    /// In the record's flags: a reader.
    const READ: u64 = 2;
    let ctx = TracePointContext::new(ctx);
    if let Some(lock) = whose(&ctx) {
        let read = arg::<1>(&ctx) & READ != 0;
        report(&ctx, Kind::LockdepAcquire, &lock, acquire_arg(caller(&ctx), read));
    }
    GO_ON
}

/// `lock_release`: right before it is given back.
#[unsafe(no_mangle)]
#[unsafe(link_section = "tracepoint")]
pub(crate) extern "C" fn lockdep_release(ctx: *mut c_void) -> u32 {
    let ctx = TracePointContext::new(ctx);
    if let Some(lock) = whose(&ctx) {
        report(
            &ctx,
            Kind::LockdepRelease,
            &lock,
            release_arg(caller(&ctx), undisturbed()),
        );
    }
    GO_ON
}

/// For how long nothing else has run on this CPU, in nanoseconds.
#[inline(always)]
fn undisturbed() -> u64 {
    if DISTURBANCES.load() == 0 {
        return 0;
    }
    let Some(last) = DISTURBED.get_ptr(0) else {
        return 0;
    };
    // SAFETY: the map gave a valid pointer; the helper has no precondition.
    unsafe { bpf_ktime_get_ns().saturating_sub(*last) }
}

#[inline(always)]
fn disturb() -> i32 {
    if let Some(last) = DISTURBED.get_ptr_mut(0) {
        // SAFETY: the map gave a valid pointer; the helper has no precondition.
        unsafe { *last = bpf_ktime_get_ns() };
    }
    0
}

macro_rules! disturbances {
    ($($name:ident = $tracepoint:literal;)*) => {
        $(
            #[doc = concat!("`", $tracepoint, "`: something else than the task that ran here runs.")]
            #[btf_tracepoint(function = $tracepoint)]
            pub(crate) fn $name(_ctx: BtfTracePointContext) -> i32 {
                disturb()
            }
        )*
    };
}

disturbances! {
    disturb_switch = "sched_switch";
    disturb_irq = "irq_handler_entry";
    disturb_softirq = "softirq_entry";
    disturb_timer = "local_timer_entry";
    disturb_reschedule = "reschedule_entry";
    disturb_call = "call_function_entry";
    disturb_call_single = "call_function_single_entry";
    disturb_irq_work = "irq_work_entry";
}
