//! The three tracepoints of `mmap_lock`, which every kernel of interest has.

use aya_ebpf::{Global, macros::btf_tracepoint, programs::BtfTracePointContext};
use tracer_common::{
    site,
    wire::{Kind, flag},
};

use crate::{args::arg, emit, filter, kread, mark, pair};

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
fn report<const AGAIN: bool>(ctx: &BtfTracePointContext, kind: Kind, site: u32, write: bool) {
    let Some(task) = filter::wanted::<AGAIN>(kind, site) else {
        return;
    };
    let mm: u64 = arg::<0>(ctx);
    if !pair::streams() {
        return pair::mmap(kind, &task, mm, write, None);
    }
    mark::before_mmap(kind, &task, mm);
    let mut flags = flag::MM | if write { flag::WRITE } else { 0 };
    let seq = kread::mm_lock_seq::<kread::Typed>(mm, &mut flags);
    let event = emit::mmap(kind, site, &task, flags, mm, seq);
    mark::after_mmap(ctx, kind, &task, mm, event);
    pair::mmap(kind, &task, mm, write, event);
}

twice!(btf_tracepoint("mmap_lock_start_locking") mmap_start, mmap_start_again, BtfTracePointContext => on_mmap_start);
/// A task starts to take the lock.
#[inline(always)]
fn on_mmap_start<const AGAIN: bool>(ctx: &BtfTracePointContext) -> i32 {
    report::<AGAIN>(ctx, Kind::MmapStart, site::MMAP_START, is_write(ctx));
    0
}

twice!(btf_tracepoint("mmap_lock_acquire_returned") mmap_acquire, mmap_acquire_again, BtfTracePointContext => on_mmap_acquire);
/// A task has the lock, failed to take it, or goes on as a reader.
#[inline(always)]
fn on_mmap_acquire<const AGAIN: bool>(ctx: &BtfTracePointContext) -> i32 {
    let write = is_write(ctx);
    if !is_success(ctx) {
        report::<AGAIN>(ctx, Kind::MmapFail, site::MMAP_ACQUIRE, write);
        return 0;
    }
    // Beginnings and ends that are brought together tell a downgrade by themselves.
    if write || SEQ_IS_COUNT.load() == 0 || !pair::streams() {
        report::<AGAIN>(ctx, Kind::MmapAcquire, site::MMAP_ACQUIRE, write);
        return 0;
    }
    // Nobody gets the lock for reading while the sequence is odd, except the writer itself, who
    // says so just before he makes it even: that is how a downgrade looks.
    let mm: u64 = arg::<0>(ctx);
    let mut flags = 0;
    let seq = kread::mm_lock_seq::<kread::Typed>(mm, &mut flags);
    let kind = if flags & flag::MM_SEQ != 0 && seq & 1 == 1 {
        Kind::MmapDowngrade
    } else {
        Kind::MmapAcquire
    };
    let Some(task) = filter::wanted::<AGAIN>(kind, site::MMAP_ACQUIRE) else {
        return 0;
    };
    let event = emit::mmap(kind, site::MMAP_ACQUIRE, &task, flags | flag::MM, mm, seq);
    mark::after_mmap(ctx, kind, &task, mm, event);
    pair::mmap(kind, &task, mm, write, event);
    0
}

twice!(btf_tracepoint("mmap_lock_released") mmap_release, mmap_release_again, BtfTracePointContext => on_mmap_release);
/// A task is about to give the lock back.
#[inline(always)]
fn on_mmap_release<const AGAIN: bool>(ctx: &BtfTracePointContext) -> i32 {
    report::<AGAIN>(ctx, Kind::MmapRelease, site::MMAP_RELEASE, is_write(ctx));
    0
}
