//! Every read of kernel memory, behind offsets that the loader takes from BTF.
//!
//! The offsets are read-only globals: the verifier knows their values, so a read by offset costs
//! what a read of a field costs in C, and what is switched off is not even loaded.

use aya_ebpf::{
    Global,
    helpers::{bpf_probe_read_kernel, bpf_probe_read_kernel_buf},
};
use tracer_common::wire::{VmaBody, flag};

/// Offset of a field that this kernel does not have.
pub(crate) const ABSENT: u32 = u32::MAX;

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $($(#[$doc])* #[unsafe(no_mangle)] static $name: Global<u32> = Global::new(ABSENT);)*
    };
}

offsets! {
    /// `vm_area_struct.vm_start`
    OFF_VM_START;
    /// `vm_area_struct.vm_end`
    OFF_VM_END;
    /// `vm_area_struct.vm_mm`
    OFF_VM_MM;
    /// `vm_area_struct.vm_refcnt`
    OFF_VM_REFCNT;
    /// `vm_area_struct.vm_lock_seq`
    OFF_VM_LOCK_SEQ;
    /// `mm_struct.mm_lock_seq`, down to its counter
    OFF_MM_LOCK_SEQ;
}

/// A way to read kernel memory.
pub(crate) trait Memory {
    /// Reads a `T` at `base + offset`.
    fn read<T: Copy + Default>(base: u64, offset: u32) -> Result<T, i32>;
}

/// Whether a value can be the address of a kernel object: upper half, no errno, aligned.
#[inline(always)]
pub(crate) const fn looks_like_kernel(address: u64) -> bool {
    (address as i64) < -4095 && address & 7 == 0
}

/// Plain loads, for pointers whose type the verifier knows (arguments and return values of
/// `fentry`, `fexit`, `tp_btf`). A load from a bad address gives 0, by the kernel's exception table.
pub(crate) struct Typed;

/// The helper, for bare addresses (`kprobe`).
pub(crate) struct Bare;

impl Memory for Typed {
    #[inline(always)]
    fn read<T: Copy + Default>(base: u64, offset: u32) -> Result<T, i32> {
        // SAFETY: the verifier lets the load pass only if `base` is a typed kernel pointer and
        // `offset` lies on a field of `T`'s size; it makes the load one that may fault.
        Ok(unsafe { core::ptr::read_volatile((base as *const u8).add(offset as usize).cast::<T>()) })
    }
}

impl Memory for Bare {
    #[inline(always)]
    fn read<T: Copy + Default>(base: u64, offset: u32) -> Result<T, i32> {
        // SAFETY: the helper checks the address itself.
        unsafe { bpf_probe_read_kernel((base as *const u8).add(offset as usize).cast::<T>()) }
    }
}

/// Fields of one body, and which of them are there.
pub(crate) struct Fields {
    pub(crate) body: VmaBody,
    pub(crate) flags: u16,
}

impl Fields {
    pub(crate) const EMPTY: Self = Self {
        body: VmaBody {
            mm: 0,
            vma: 0,
            vm_start: 0,
            vm_end: 0,
            vm_refcnt: 0,
            vm_lock_seq: 0,
            mm_lock_seq: 0,
            arg: 0,
        },
        flags: 0,
    };
}

#[inline(always)]
fn field<M: Memory, T: Copy + Default>(base: u64, offset: u32, bit: u16, flags: &mut u16) -> T {
    if offset == ABSENT {
        return T::default();
    }
    match M::read::<T>(base, offset) {
        Ok(value) => {
            *flags |= bit;
            value
        }
        Err(_) => {
            *flags |= flag::READ_FAULT;
            T::default()
        }
    }
}

/// `vma->vm_start` and `vma->vm_end`, if they can be read.
#[inline(always)]
pub(crate) fn range<M: Memory>(vma: u64) -> Option<(u64, u64)> {
    let start = M::read::<u64>(vma, OFF_VM_START.load()).ok()?;
    let end = M::read::<u64>(vma, OFF_VM_END.load()).ok()?;
    Some((start, end))
}

/// `mm->mm_lock_seq`.
#[inline(always)]
pub(crate) fn mm_lock_seq<M: Memory>(mm: u64, flags: &mut u16) -> u32 {
    field::<M, u32>(mm, OFF_MM_LOCK_SEQ.load(), flag::MM_SEQ, flags)
}

/// `vma->vm_refcnt`; 0 where there is none.
#[inline(always)]
pub(crate) fn vm_refcnt<M: Memory>(vma: u64) -> u32 {
    M::read::<u32>(vma, OFF_VM_REFCNT.load()).unwrap_or_default()
}

/// Whether the VMA is write-locked, as far as that can be read.
#[inline(always)]
pub(crate) fn is_write_locked<M: Memory>(vma: u64, mm: u64) -> bool {
    let vma = M::read::<u32>(vma, OFF_VM_LOCK_SEQ.load()).unwrap_or_default();
    let mm = M::read::<u32>(mm, OFF_MM_LOCK_SEQ.load()).unwrap_or_default();
    vma == mm
}

/// All that an event tells of a VMA, read as close together as can be; the counter first, since it
/// changes fastest.
#[inline(always)]
pub(crate) fn vma<M: Memory>(vma: u64, fields: &mut Fields) {
    let Fields { body, flags } = fields;
    *flags |= flag::VMA;
    body.vma = vma;
    body.vm_refcnt = field::<M, u32>(vma, OFF_VM_REFCNT.load(), flag::REFCNT, flags);
    body.vm_lock_seq = field::<M, u32>(vma, OFF_VM_LOCK_SEQ.load(), flag::VMA_SEQ, flags);
    body.vm_start = field::<M, u64>(vma, OFF_VM_START.load(), flag::RANGE, flags);
    body.vm_end = field::<M, u64>(vma, OFF_VM_END.load(), flag::RANGE, flags);
    body.mm = mm_of_vma::<M>(vma, flags);
    if body.mm != 0 {
        body.mm_lock_seq = mm_lock_seq::<M>(body.mm, flags);
    }
}

/// What does not change while somebody reads the VMA: its range and its mm.
#[inline(always)]
pub(crate) fn place<M: Memory>(vma: u64, fields: &mut Fields) {
    let Fields { body, flags } = fields;
    *flags |= flag::VMA;
    body.vma = vma;
    body.vm_start = field::<M, u64>(vma, OFF_VM_START.load(), flag::RANGE, flags);
    body.vm_end = field::<M, u64>(vma, OFF_VM_END.load(), flag::RANGE, flags);
    body.mm = mm_of_vma::<M>(vma, flags);
}

/// `vma->vm_mm`.
#[inline(always)]
fn mm_of_vma<M: Memory>(vma: u64, flags: &mut u16) -> u64 {
    field::<M, u64>(vma, OFF_VM_MM.load(), flag::MM, flags)
}

/// The code before and from `ip` on; zeroes for what cannot be read.
#[inline(always)]
pub(crate) fn code<const B: usize, const A: usize>(ip: u64, before: &mut [u8; B], after: &mut [u8; A]) {
    // A failed read leaves zeroes, which are no instruction that anybody looks for.
    // SAFETY: the helper checks the address itself, and gets the length of the buffer.
    unsafe {
        let _ = bpf_probe_read_kernel_buf(ip.wrapping_sub(B as u64) as *const u8, before);
        let _ = bpf_probe_read_kernel_buf(ip as *const u8, after);
    }
}
