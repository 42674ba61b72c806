//! The one program for all instructions that the loader found inlined somewhere.
//!
//! Which of them it runs at is told by the cookie of the attachment; what it has to know of it is in a table.
//! It runs as a kprobe, or on a hardware breakpoint where the kernel takes no kprobe.

use aya_ebpf::{
    EbpfContext, Global,
    helpers::{bpf_get_current_task, bpf_ktime_get_ns, generated::bpf_get_attach_cookie},
    macros::{kprobe, map, perf_event},
    maps::Array,
    programs::{PerfEventContext, ProbeContext},
};
use tracer_common::{
    lock::{VM_REFCNT_EXCLUDE_READERS_FLAG, VM_REFCNT_LIMIT},
    site::{FIRST_DYNAMIC, Place, Role, SiteEntry},
    wire::{Kind, MAX_SITES, Reason, flag},
};

use crate::{
    args::arg,
    emit, filter,
    kread::{self, Bare, Fields, Memory},
    mark, pair,
};

/// What the loader found, by the site's number less [`FIRST_DYNAMIC`].
#[map]
static POINTS: Array<SiteEntry> = Array::with_max_entries(MAX_SITES - FIRST_DYNAMIC, 0);

/// Offset of `task_struct.mm`.
#[unsafe(no_mangle)]
pub(crate) static OFF_TASK_MM: Global<u32> = Global::new(kread::ABSENT);

/// One past the highest address that user space can have, with five levels of page tables.
const USER_END: u64 = 1 << 56;
const PAGE_MASK: u64 = 0xfff;

/// For how long a reader is kept from raising the count, in nanoseconds, or until there is a writer; and a temporary
/// reader from giving it back, or until a writer shuts readers out. 0 except when states of the lock are provoked.
#[unsafe(no_mangle)]
static LINGER_NS: Global<u32> = Global::new(0);
/// They look so often at most, whatever time that takes.
const LOOKS: u32 = 2048;

#[kprobe]
pub(crate) fn point(ctx: ProbeContext) -> u32 {
    at(&ctx);
    0
}

#[perf_event]
pub(crate) fn point_breakpoint(ctx: PerfEventContext) -> u32 {
    at(&ctx);
    0
}

/// A general register of the interrupted code, by the number that instructions encode. The context starts
/// with `struct pt_regs`.
#[inline(always)]
fn register(ctx: &impl EbpfContext, number: u8) -> u64 {
    match number {
        0 => arg::<10>(ctx),
        1 => arg::<11>(ctx),
        2 => arg::<12>(ctx),
        3 => arg::<5>(ctx),
        4 => arg::<19>(ctx),
        5 => arg::<4>(ctx),
        6 => arg::<13>(ctx),
        7 => arg::<14>(ctx),
        8 => arg::<9>(ctx),
        9 => arg::<8>(ctx),
        10 => arg::<7>(ctx),
        11 => arg::<6>(ctx),
        12 => arg::<3>(ctx),
        13 => arg::<2>(ctx),
        14 => arg::<1>(ctx),
        _ => arg::<0>(ctx),
    }
}

#[inline(always)]
fn at(ctx: &impl EbpfContext) {
    // SAFETY: the helper takes the context of any program of these types.
    let index = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } as u32;
    let Some(entry) = POINTS.get(index) else { return };
    if LINGER_NS.load() != 0 {
        linger(ctx, entry);
    }
    let Some(kind) = kind_of(entry.role) else { return };
    let site = FIRST_DYNAMIC + index;
    let Some(task) = filter::passes(kind) else { return };
    let mut fields = Fields::EMPTY;
    let vma = address(ctx, entry);
    let believed = kread::looks_like_kernel(vma) && read(vma, &mut fields);
    let (kind, reason) = match kind {
        Kind::VmaReadRefused | Kind::VmaReadTemporary => {
            let reason = reason(entry, vma, believed, &fields);
            if reason == Reason::Unknown && entry.shared & SiteEntry::SHARED != 0 {
                // Control came here for something else.
                return;
            }
            (kind, reason)
        }
        // A put that serves a failed try too. Nobody who really held the lock sees the VMA write-locked.
        Kind::VmaReadRelease if entry.reasons != 0 && is_write_locked(&fields) => {
            (Kind::VmaReadTemporary, Reason::WriteLocked)
        }
        _ => (kind, Reason::Unknown),
    };
    if believed {
        if !filter::has_range(fields.body.vm_start, fields.body.vm_end) {
            return;
        }
    } else if reason == Reason::NoVma {
        // No VMA, and no address either.
        if filter::is_by_address() {
            return;
        }
    } else {
        // No VMA where one has to be: the site is not what it seemed, and nothing is said of any VMA.
        fields = Fields::EMPTY;
        fields.flags = flag::READ_FAULT;
    }
    if !pair::streams() {
        return pair::vma::<Bare, true>(kind, &task, site, vma, 0, None);
    }
    fields.body.arg = (reason as u32) << 16;
    mark::before_vma(kind, &task, vma, false);
    let event = emit::vma_in_nmi(kind, site, &task, &fields);
    mark::after_vma(ctx, kind, &task, vma, event, false);
    pair::vma::<Bare, true>(kind, &task, site, vma, 0, event);
}

/// Keeps a reader from raising the count until there is a writer, and a temporary one from giving it back until a writer shuts
/// readers out. Before all else, and in one loop: the verifier follows it look by look, for each way that leads here.
#[inline(always)]
fn linger(ctx: &impl EbpfContext, entry: &SiteEntry) {
    let wants_writer = entry.role == Role::Linger as u8;
    let puts = entry.role == Role::ReadTemporary as u8
        || entry.role == Role::ReadRelease as u8 && entry.reasons != 0;
    if !wants_writer && !puts || filter::passes(Kind::VmaReadTemporary).is_none() {
        return;
    }
    let vma = address(ctx, entry);
    let mut fields = Fields::EMPTY;
    kread::vma::<Bare>(vma, &mut fields);
    let mm = fields.body.mm;
    if puts && !kread::is_write_locked::<Bare>(vma, mm) {
        return;
    }
    // SAFETY: the helper has no precondition.
    let start = unsafe { bpf_ktime_get_ns() };
    for _ in 0..LOOKS {
        let is_over = if wants_writer {
            kread::is_write_locked::<Bare>(vma, mm)
        } else {
            kread::vm_refcnt::<Bare>(vma) & VM_REFCNT_EXCLUDE_READERS_FLAG != 0
        };
        // SAFETY: as above.
        if is_over || unsafe { bpf_ktime_get_ns() } - start > u64::from(LINGER_NS.load()) {
            break;
        }
    }
}

#[inline(always)]
fn kind_of(role: u8) -> Option<Kind> {
    const ACQUIRE: u8 = Role::ReadAcquire as u8;
    const RELEASE: u8 = Role::ReadRelease as u8;
    const TEMPORARY: u8 = Role::ReadTemporary as u8;
    const REFUSED: u8 = Role::ReadRefused as u8;
    const WRITE_START: u8 = Role::WriteStart as u8;
    const WRITE_ACQUIRE: u8 = Role::WriteAcquire as u8;
    const DETACH: u8 = Role::Detach as u8;
    const ATTACH: u8 = Role::Attach as u8;
    Some(match role {
        ACQUIRE => Kind::VmaReadAcquire,
        RELEASE => Kind::VmaReadRelease,
        TEMPORARY => Kind::VmaReadTemporary,
        REFUSED => Kind::VmaReadRefused,
        WRITE_START => Kind::VmaWriteStart,
        WRITE_ACQUIRE => Kind::VmaWriteAcquire,
        DETACH => Kind::VmaDetach,
        ATTACH => Kind::VmaAttach,
        _ => return None,
    })
}

/// The VMA's address by the registers; 0: not in reach.
#[inline(always)]
fn address(ctx: &impl EbpfContext, entry: &SiteEntry) -> u64 {
    const IN_REGISTER: u8 = Place::Register as u8;
    const IN_MEMORY: u8 = Place::Memory as u8;
    match entry.place {
        IN_REGISTER => register(ctx, entry.register).wrapping_add(entry.displacement as u64),
        IN_MEMORY => {
            let at = register(ctx, entry.register).wrapping_add(entry.offset as u64);
            Bare::read::<u64>(at, 0).map_or(0, |value| value.wrapping_add(entry.displacement as u64))
        }
        _ => 0,
    }
}

/// Reads the VMA, and tells whether it is one: a range of whole pages that user space can have, and an mm.
#[inline(always)]
fn read(vma: u64, fields: &mut Fields) -> bool {
    kread::vma::<Bare>(vma, fields);
    let body = &fields.body;
    fields.flags & flag::READ_FAULT == 0
        && body.vm_start < body.vm_end
        && body.vm_end <= USER_END
        && (body.vm_start | body.vm_end) & PAGE_MASK == 0
        && kread::looks_like_kernel(body.mm)
}

#[inline(always)]
fn is_write_locked(fields: &Fields) -> bool {
    const BOTH: u16 = flag::VMA_SEQ | flag::MM_SEQ;
    fields.flags & BOTH == BOTH && fields.body.vm_lock_seq == fields.body.mm_lock_seq
}

/// Which of the reasons that lead here it was. One alone needs no look at the lock.
#[inline(always)]
fn reason(entry: &SiteEntry, vma: u64, believed: bool, fields: &Fields) -> Reason {
    let may = |reason: Reason| entry.reasons & reason.bit() != 0;
    let shared = entry.shared & SiteEntry::SHARED != 0;
    if vma == 0 {
        return if may(Reason::NoVma) {
            Reason::NoVma
        } else {
            Reason::Unknown
        };
    }
    if !shared && let Some(only) = only(entry.reasons) {
        return only;
    }
    if !believed {
        return Reason::Unknown;
    }
    let count = fields.body.vm_refcnt;
    let counted = fields.flags & flag::REFCNT != 0;
    if may(Reason::WriteLocked) && is_write_locked(fields) {
        Reason::WriteLocked
    } else if may(Reason::Recycled) && entry.shared & SiteEntry::OWN_MM != 0 && is_foreign(fields) {
        Reason::Recycled
    } else if counted && may(Reason::Detached) && count == 0 {
        Reason::Detached
    } else if counted && may(Reason::WriterWaiting) && count & VM_REFCNT_EXCLUDE_READERS_FLAG != 0 {
        Reason::WriterWaiting
    } else if counted && may(Reason::ReaderLimit) && count >= VM_REFCNT_LIMIT {
        Reason::ReaderLimit
    } else if may(Reason::AddressMoved) && no_other(entry) && !was_just_write_locked(fields) {
        Reason::AddressMoved
    } else {
        Reason::Unknown
    }
}

/// Whether all reasons but a moved address have been ruled out by now.
#[inline(always)]
fn no_other(entry: &SiteEntry) -> bool {
    let mut ruled_out = Reason::AddressMoved.bit() | Reason::WriteLocked.bit();
    if entry.shared & SiteEntry::OWN_MM != 0 {
        ruled_out |= Reason::Recycled.bit();
    }
    entry.reasons & !ruled_out == 0
}

/// Whether the VMA's last write lock was ended by the last change of its mm's sequence number: then it may have been
/// write-locked when the task looked.
#[inline(always)]
fn was_just_write_locked(fields: &Fields) -> bool {
    fields.body.vm_lock_seq.wrapping_add(1) == fields.body.mm_lock_seq
}

/// The only reason in a set.
#[inline(always)]
fn only(reasons: u32) -> Option<Reason> {
    if reasons == 0 || reasons & (reasons - 1) != 0 {
        return None;
    }
    const ALL: [Reason; 7] = [
        Reason::NoVma,
        Reason::WriteLocked,
        Reason::Detached,
        Reason::WriterWaiting,
        Reason::ReaderLimit,
        Reason::Recycled,
        Reason::AddressMoved,
    ];
    ALL.into_iter().find(|reason| reason.bit() == reasons)
}

/// Whether the VMA is of another address space than the task's.
#[inline(always)]
fn is_foreign(fields: &Fields) -> bool {
    let offset = OFF_TASK_MM.load();
    if offset == kread::ABSENT {
        return false;
    }
    // SAFETY: no precondition.
    let task = unsafe { bpf_get_current_task() };
    Bare::read::<u64>(task, offset).is_ok_and(|mm| mm != 0 && mm != fields.body.mm)
}
