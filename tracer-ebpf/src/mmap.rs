//! The three tracepoints of `mmap_lock`, which every kernel of interest has.

use aya_ebpf::{Global, macros::btf_tracepoint, programs::BtfTracePointContext};
use tracer_common::{
    site,
    wire::{Kind, flag},
};

use crate::{args::arg, emit, filter, kread};

/// Which argument of the tracepoints is `write`: 1, or 2 where a `memcg_path` stands before it (6.12).
#[unsafe(no_mangle)]
static ARG_WRITE: Global<u8> = Global::new(1);
/// Whether `mm_lock_seq` is a seqcount, odd while `mmap_lock` is held for writing.
#[unsafe(no_mangle)]
static SEQ_IS_COUNT: Global<u8> = Global::new(1);

#[inline(always)]
fn is_write(ctx: &BtfTracePointContext) -> bool {
    // Each index is a constant of its own: the verifier takes no computed one.
    let write: u64 = if ARG_WRITE.load() == 1 {
        arg::<1>(ctx)
    } else {
        arg::<2>(ctx)
    };
    write & 1 != 0
}

#[inline(always)]
fn is_success(ctx: &BtfTracePointContext) -> bool {
    let success: u64 = if ARG_WRITE.load() == 1 {
        arg::<2>(ctx)
    } else {
        arg::<3>(ctx)
    };
    success & 1 != 0
}

#[inline(always)]
fn report(ctx: &BtfTracePointContext, kind: Kind, site: u32, write: bool) {
    let Some(task) = filter::wanted(kind) else { return };
    let mm: u64 = arg::<0>(ctx);
    let mut flags = flag::MM | if write { flag::WRITE } else { 0 };
    let seq = kread::mm_lock_seq::<kread::Typed>(mm, &mut flags);
    emit::mmap(kind, site, &task, flags, mm, seq);
}

/// A task starts to take the lock.
#[btf_tracepoint(function = "mmap_lock_start_locking")]
pub(crate) fn mmap_start(ctx: BtfTracePointContext) -> i32 {
    report(&ctx, Kind::MmapStart, site::MMAP_START, is_write(&ctx));
    0
}

/// A task has the lock, failed to take it, or goes on as a reader.
#[btf_tracepoint(function = "mmap_lock_acquire_returned")]
pub(crate) fn mmap_acquire(ctx: BtfTracePointContext) -> i32 {
    let write = is_write(&ctx);
    if !is_success(&ctx) {
        report(&ctx, Kind::MmapFail, site::MMAP_ACQUIRE, write);
        return 0;
    }
    if write || SEQ_IS_COUNT.load() == 0 {
        report(&ctx, Kind::MmapAcquire, site::MMAP_ACQUIRE, write);
        return 0;
    }
    // Nobody gets the lock for reading while the sequence is odd, except the writer itself, who
    // says so just before he makes it even: that is how a downgrade looks.
    let mm: u64 = arg::<0>(&ctx);
    let mut flags = 0;
    let seq = kread::mm_lock_seq::<kread::Typed>(mm, &mut flags);
    let kind = if flags & flag::MM_SEQ != 0 && seq & 1 == 1 {
        Kind::MmapDowngrade
    } else {
        Kind::MmapAcquire
    };
    let Some(task) = filter::wanted(kind) else {
        return 0;
    };
    emit::mmap(kind, site::MMAP_ACQUIRE, &task, flags | flag::MM, mm, seq);
    0
}

/// A task is about to give the lock back.
#[btf_tracepoint(function = "mmap_lock_released")]
pub(crate) fn mmap_release(ctx: BtfTracePointContext) -> i32 {
    report(&ctx, Kind::MmapRelease, site::MMAP_RELEASE, is_write(&ctx));
    0
}
