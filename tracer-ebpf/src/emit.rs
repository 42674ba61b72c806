//! The one place that numbers, reserves, stamps and submits an event, and counts what found no room.
//!
//! Numbers are per CPU, and an event that finds the ring full takes one, too: it leaves a hole that
//! user space sees. Number and time are taken *after* the space was reserved. User space reads no
//! further than to what is reserved and not filled in, so a task that is preempted there holds others
//! up, but leaves no hole that is filled later. And whatever user space has not read yet was reserved,
//! hence stamped, later than the moment when it found the ring empty. On that rests the exact merge
//! of CPUs by time (see `order` on the other side).
//!
//! Those that return the time of their event return none if there was no room for it, or if nobody asked for its kind.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_smp_processor_id, bpf_ktime_get_ns,
        generated::{bpf_get_current_comm, bpf_get_stack},
    },
    macros::map,
    maps::{Array, RingBuf, ring_buf::RingBufEntry},
};
use aya_log_ebpf::warn;
use tracer_common::site;
use tracer_common::wire::{
    ABI, COMM_LEN, CpuCounters, CpuSlot, Header, Kind, MAX_SITES, MmapBody, MmapEvent, SiteCounters,
    VmaEvent,
    sched::{KERNEL_FRAMES, StackEvent, USER_FRAMES},
};

use crate::{
    filter::{self, Task},
    kread::Fields,
    sched,
};

/// The way to user space. Its size is set by the loader.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// User space reads these from memory. While a task is inside a system call on a map, the kernel skips all programs
/// of the old kind on that CPU: those on instructions, and on lockdep's tracepoints. If it is preempted there they
/// are blind until it runs again.
pub(crate) const BPF_F_MMAPABLE: u32 = 1 << 10;
/// What each CPU produced and dropped. The loader makes it as long as there are CPUs.
#[map]
static COUNTERS: Array<CpuSlot> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Hits and drops by site, of one CPU after the other. The loader makes it as long as that.
#[map]
static SITES: Array<SiteCounters> = Array::with_max_entries(MAX_SITES, BPF_F_MMAPABLE);

// Flags of the ring buffer helpers.
const BPF_RB_NO_WAKEUP: u64 = 1;
const BPF_RB_FORCE_WAKEUP: u64 = 2;
const BPF_RB_AVAIL_DATA: u64 = 0;
const BPF_RB_RING_SIZE: u64 = 1;

/// A program may be interrupted by another one on the same CPU, so counting is atomic even per CPU.
#[inline(always)]
fn count(counter: *mut u64) -> u64 {
    add(counter, 1)
}

#[inline(always)]
fn add(counter: *mut u64, number: u64) -> u64 {
    // SAFETY: `counter` points into a map value of this CPU, which lives as long as the program.
    // The strongest order, since LLVM makes of a relaxed one the instruction that does not return the
    // old value. The intrinsic, because core offers no `AtomicU64::fetch_add` on a target without compare-and-swap.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(counter, number) }
}

/// This CPU. Programs do not migrate.
#[inline(always)]
fn this_cpu() -> u32 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_get_smp_processor_id() }
}

#[inline(always)]
fn counters(cpu: u32) -> Option<*mut CpuCounters> {
    let slot = COUNTERS.get_ptr_mut(cpu)?;
    // SAFETY: the map gave a valid pointer.
    Some(unsafe { &raw mut (*slot).counters })
}

#[inline(always)]
fn site_counters(cpu: u32, site: u32) -> Option<*mut SiteCounters> {
    if site >= MAX_SITES {
        return None;
    }
    SITES.get_ptr_mut(cpu * MAX_SITES + site)
}

/// What tells one event from all others.
#[derive(Clone, Copy)]
struct Number {
    cpu: u32,
    seq: u32,
}

/// Takes the number of the next event on this CPU.
#[inline(always)]
fn number(site: u32) -> Option<Number> {
    let cpu = this_cpu();
    let counters = counters(cpu)?;
    if let Some(site) = site_counters(cpu, site) {
        // SAFETY: the map gave a valid pointer.
        count(unsafe { &raw mut (*site).hits });
    }
    // SAFETY: the map gave a valid pointer.
    let seq = count(unsafe { &raw mut (*counters).produced }) as u32;
    Some(Number { cpu, seq })
}

/// Counts an event that found no room.
#[inline(always)]
fn full(site: u32) {
    number(site);
    if let Some(counters) = counters(this_cpu()) {
        // SAFETY: the map gave a valid pointer.
        if count(unsafe { &raw mut (*counters).dropped }) == 0 {
            // Once for each CPU; the count itself is in every report.
            warn!(
                (),
                "the ring buffer is full: events are dropped from now on; a larger --buffer helps"
            );
        }
    }
    dropped(site);
}

/// The same where nothing may be logged.
#[inline(always)]
fn full_quietly(site: u32) {
    number(site);
    if let Some(counters) = counters(this_cpu()) {
        // SAFETY: the map gave a valid pointer.
        count(unsafe { &raw mut (*counters).dropped });
    }
    dropped(site);
}

/// Counts something that a site lost.
#[inline(always)]
pub(crate) fn dropped(site: u32) {
    if let Some(site) = site_counters(this_cpu(), site) {
        // SAFETY: the map gave a valid pointer.
        count(unsafe { &raw mut (*site).dropped });
    }
}

/// Fills in a header where it lies in the ring; without a command name it is the current task's. Returns the time.
///
/// # Safety
/// `header` points to writable memory of its size.
#[inline(always)]
unsafe fn stamp(
    header: *mut Header,
    kind: Kind,
    site: u32,
    flags: u16,
    task: &Task,
    comm: Option<[u64; 2]>,
    number: Number,
) -> u64 {
    // SAFETY: the caller's pointer; the helpers have no precondition.
    unsafe {
        let now = bpf_ktime_get_ns();
        (*header).abi = ABI;
        (*header).kind = kind as u8;
        (*header).len = kind.wire_len();
        (*header).cpu = number.cpu as u16;
        (*header).flags = flags;
        (*header).ts_ns = now;
        (*header).seq = number.seq;
        (*header).pid = task.pid;
        (*header).tid = task.tid;
        (*header).site = site;
        put_comm(header, comm);
        now
    }
}

/// Writes a command name into a header, that of the current task where none is given.
///
/// # Safety
/// `header` points to writable memory of its size.
#[inline(always)]
unsafe fn put_comm(header: *mut Header, comm: Option<[u64; 2]>) {
    // SAFETY: the caller's pointer; the helper cannot fail for a buffer of this size, and zeroes the rest of it itself.
    unsafe {
        let place = &raw mut (*header).comm;
        match comm.or_else(sched::current_comm) {
            Some(comm) => place.cast::<[u64; 2]>().write(comm),
            None => {
                bpf_get_current_comm(place.cast(), COMM_LEN as u32);
            }
        }
    }
}

/// Counts skipped runs that lost nothing.
#[inline(always)]
pub(crate) fn spared(site: u32, runs: u64) {
    if let Some(site) = site_counters(this_cpu(), site) {
        // SAFETY: the map gave a valid pointer.
        add(unsafe { &raw mut (*site).spared }, runs);
    }
}

/// User space looks by itself every few milliseconds; it is woken only when the ring fills up
/// faster than that, and asked about that only now and then.
#[inline(always)]
fn wakeup(seq: u32) -> u64 {
    if seq & 0x7f == 0 && EVENTS.query(BPF_RB_AVAIL_DATA) > EVENTS.query(BPF_RB_RING_SIZE) / 4 {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    }
}

/// Emits an `mmap_*` event.
#[inline(always)]
pub(crate) fn mmap(kind: Kind, site: u32, task: &Task, flags: u16, mm: u64, mm_lock_seq: u32) -> Option<u64> {
    if !filter::is_asked(kind) {
        return None;
    }
    let Some(mut entry) = EVENTS.reserve::<MmapEvent>(0) else {
        full(site);
        return None;
    };
    let Some(number) = number(site) else {
        entry.discard(0);
        return None;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the ring gave room for one event, and every byte of it is written here.
    let now = unsafe {
        let now = stamp(&raw mut (*event).header, kind, site, flags, task, None, number);
        (*event).body = MmapBody {
            mm,
            mm_lock_seq,
            pad: 0,
        };
        now
    };
    entry.submit(wakeup(number.seq));
    Some(now)
}

/// Emits an event with the body of the `vma_*` ones.
#[inline(always)]
pub(crate) fn vma(kind: Kind, site: u32, task: &Task, fields: &Fields) -> Option<u64> {
    if !filter::is_asked(kind) {
        return None;
    }
    if let Some(entry) = EVENTS.reserve::<VmaEvent>(0) {
        fill(entry, kind, site, task, None, fields, true)
    } else {
        full(site);
        None
    }
}

/// The same from inside the scheduler, of whatever task: nobody is woken, nothing logged.
#[inline(always)]
pub(crate) fn quietly(kind: Kind, site: u32, task: &Task, comm: Option<[u64; 2]>, fields: &Fields) {
    match EVENTS.reserve::<VmaEvent>(0) {
        Some(entry) => {
            fill(entry, kind, site, task, comm, fields, false);
        }
        None => full_quietly(site),
    }
}

/// The same with the current task's stacks.
#[inline(always)]
pub(crate) fn with_frames(ctx: &impl EbpfContext, kind: Kind, site: u32, task: &Task, fields: &Fields) {
    /// Of `bpf_get_stack`: the program's stack, not the kernel's.
    const BPF_F_USER_STACK: u64 = 1 << 8;
    const KERNEL: u32 = (KERNEL_FRAMES * 8) as u32;
    const USER: u32 = (USER_FRAMES * 8) as u32;
    let Some(mut entry) = EVENTS.reserve::<StackEvent>(0) else {
        full_quietly(site);
        return;
    };
    let Some(number) = number(site) else {
        entry.discard(0);
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the ring gave room for one event, and every byte of it is written here: the helper zeroes what it does
    // not fill, and what it gives back as an error is zeroed below. It gets the sizes of what it writes to.
    unsafe {
        let header = &raw mut (*event).event.header;
        stamp(header, kind, site, fields.flags, task, None, number);
        (*header).len = size_of::<StackEvent>() as u16;
        (*event).event.body = fields.body;
        let frames = &raw mut (*event).frames;
        if bpf_get_stack(ctx.as_ptr(), (&raw mut (*frames).kernel).cast(), KERNEL, 0) < 0 {
            (*frames).kernel = [0; KERNEL_FRAMES];
            dropped(site::FRAMES);
        }
        if bpf_get_stack(
            ctx.as_ptr(),
            (&raw mut (*frames).user).cast(),
            USER,
            BPF_F_USER_STACK,
        ) < 0
        {
            (*frames).user = [0; USER_FRAMES];
            dropped(site::FRAMES);
        }
    }
    entry.submit(BPF_RB_NO_WAKEUP);
}

/// Emits the stacks of a wait or hold that ended with the task's event before.
#[inline(always)]
pub(crate) fn stack(ctx: &impl EbpfContext, task: &Task, of: Kind, length: u64) {
    if !filter::is_asked(Kind::Stack) {
        return;
    }
    let mut fields = Fields::EMPTY;
    fields.body.vm_end = length;
    fields.body.arg = of as u32;
    with_frames(ctx, Kind::Stack, site::STACK, task, &fields);
}

/// Emits a hold that began at `since` and ends now, and gives when that is. For what is cheap: its site counts no hits. `NMI`:
/// see [`vma_in_nmi`].
#[inline(always)]
pub(crate) fn hold<const NMI: bool>(site: u32, task: &Task, since: u64, fields: &Fields) -> u64 {
    let mut entry = EVENTS.reserve::<VmaEvent>(0);
    if NMI {
        for _ in 0..TRIES {
            if entry.is_some() || !has_room() {
                break;
            }
            entry = EVENTS.reserve::<VmaEvent>(0);
        }
    }
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_ns() };
    let cpu = this_cpu();
    let Some(mut entry) = entry else {
        full_quietly(site);
        return now;
    };
    let Some(counters) = counters(cpu) else {
        entry.discard(0);
        return now;
    };
    // SAFETY: the map gave a valid pointer.
    let seq = count(unsafe { &raw mut (*counters).produced }) as u32;
    let event = entry.as_mut_ptr();
    let length = now.saturating_sub(since);
    // SAFETY: the ring gave room for one event, and every byte of it is written here.
    unsafe {
        (*event).header.abi = ABI;
        (*event).header.kind = Kind::Hold as u8;
        (*event).header.len = Kind::Hold.wire_len();
        (*event).header.cpu = cpu as u16;
        (*event).header.flags = fields.flags;
        (*event).header.ts_ns = now;
        (*event).header.seq = seq;
        (*event).header.pid = task.pid;
        (*event).header.tid = task.tid;
        (*event).header.site = site;
        put_comm(&raw mut (*event).header, None);
        (*event).body.mm = fields.body.mm;
        (*event).body.vma = fields.body.vma;
        (*event).body.vm_start = fields.body.vm_start;
        (*event).body.vm_end = fields.body.vm_end;
        (*event).body.vm_refcnt = length as u32;
        (*event).body.vm_lock_seq = (length >> 32) as u32;
        (*event).body.mm_lock_seq = 0;
        (*event).body.arg = fields.body.arg;
    }
    entry.submit(wakeup(seq));
    now
}

/// Whether the ring has room for an event, whoever has its lock right now.
#[inline(always)]
fn has_room() -> bool {
    let free = EVENTS
        .query(BPF_RB_RING_SIZE)
        .wrapping_sub(EVENTS.query(BPF_RB_AVAIL_DATA));
    free >= 2 * size_of::<VmaEvent>() as u64
}

/// How often to ask for room where the kernel does not wait for the ring's lock.
const TRIES: u32 = 512;

/// The same from a place where the kernel takes an interrupt that cannot be put off, as kprobes and breakpoints are.
/// 6.12 does not wait for the ring's lock there: while another CPU has it there is no room, for a moment.
#[inline(always)]
pub(crate) fn vma_in_nmi(kind: Kind, site: u32, task: &Task, fields: &Fields) -> Option<u64> {
    if !filter::is_asked(kind) {
        return None;
    }
    for _ in 0..TRIES {
        if let Some(entry) = EVENTS.reserve::<VmaEvent>(0) {
            return fill(entry, kind, site, task, None, fields, true);
        }
        if !has_room() {
            break;
        }
    }
    full(site);
    None
}

/// The common end of many. `wakes`: user space may be woken for it.
#[inline(always)]
fn fill(
    mut entry: RingBufEntry<VmaEvent>,
    kind: Kind,
    site: u32,
    task: &Task,
    comm: Option<[u64; 2]>,
    fields: &Fields,
    wakes: bool,
) -> Option<u64> {
    let Some(number) = number(site) else {
        entry.discard(0);
        return None;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the ring gave room for one event, and every byte of it is written here.
    let now = unsafe {
        let now = stamp(
            &raw mut (*event).header,
            kind,
            site,
            fields.flags,
            task,
            comm,
            number,
        );
        (*event).body = fields.body;
        now
    };
    entry.submit(if wakes {
        wakeup(number.seq)
    } else {
        BPF_RB_NO_WAKEUP
    });
    Some(now)
}
