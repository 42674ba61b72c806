//! One decoded event, and how surely its fact is known.

use super::{COMM_LEN, Header, Kind, Reason, VmaBody, fault, flag};

/// How surely a fact is known.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provenance {
    /// Seen at the very instruction or tracepoint.
    #[default]
    Observed = 0,
    /// Implied by another event, with a known bound on its time.
    Derived = 1,
    /// Known only to lie between two times.
    Bounded = 2,
    /// Not known.
    Unknown = 3,
}

impl Provenance {
    /// The name in all output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Observed => "observed",
            Self::Derived => "derived",
            Self::Bounded => "bounded",
            Self::Unknown => "unknown",
        }
    }

    /// From the two bits that events carry.
    pub const fn from_bits(bits: u16) -> Self {
        match bits & 3 {
            0 => Self::Observed,
            1 => Self::Derived,
            2 => Self::Bounded,
            _ => Self::Unknown,
        }
    }
}

/// One decoded event: header and the union of all bodies; what is not there says so by a `None`
/// of its accessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// Who, where, when. `abi`, `kind` and `len` are as they were on the wire.
    pub header: Header,
    /// The lock; for `mmap_*` kinds only `mm` and `mm_lock_seq` mean something.
    pub body: VmaBody,
}

impl Event {
    /// An event that user space makes itself, all fields zero but those named.
    pub const fn synthetic(kind: Kind, ts_ns: u64) -> Self {
        Self {
            kind,
            header: Header {
                abi: super::ABI,
                kind: kind as u8,
                len: kind.wire_len(),
                cpu: 0,
                flags: 0,
                ts_ns,
                seq: 0,
                pid: 0,
                tid: 0,
                site: 0,
                comm: [0; COMM_LEN],
            },
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
        }
    }

    /// Whether all bits of `mask` (of [`flag`]) are set.
    pub const fn has(&self, mask: u16) -> bool {
        self.header.flags & mask == mask
    }

    /// Address of the `mm_struct`.
    pub const fn mm(&self) -> Option<u64> {
        if self.has(flag::MM) {
            Some(self.body.mm)
        } else {
            None
        }
    }

    /// Address of the `vm_area_struct`.
    pub const fn vma(&self) -> Option<u64> {
        if self.has(flag::VMA) {
            Some(self.body.vma)
        } else {
            None
        }
    }

    /// `vm_start` and `vm_end`.
    pub const fn range(&self) -> Option<(u64, u64)> {
        if self.has(flag::RANGE) {
            Some((self.body.vm_start, self.body.vm_end))
        } else {
            None
        }
    }

    /// The address that a failed look-up wanted.
    pub const fn address(&self) -> Option<u64> {
        if self.has(flag::ADDR) {
            Some(self.body.vm_start)
        } else {
            None
        }
    }

    /// `vma->vm_refcnt`.
    pub const fn vm_refcnt(&self) -> Option<u32> {
        if self.has(flag::REFCNT) {
            Some(self.body.vm_refcnt)
        } else {
            None
        }
    }

    /// `vma->vm_lock_seq`.
    pub const fn vm_lock_seq(&self) -> Option<u32> {
        if self.has(flag::VMA_SEQ) {
            Some(self.body.vm_lock_seq)
        } else {
            None
        }
    }

    /// `mm->mm_lock_seq`.
    pub const fn mm_lock_seq(&self) -> Option<u32> {
        if self.has(flag::MM_SEQ) {
            Some(self.body.mm_lock_seq)
        } else {
            None
        }
    }

    /// Whether an `mmap_*` event is about writing.
    pub const fn is_write(&self) -> bool {
        self.has(flag::WRITE)
    }

    /// `FAULT_FLAG_*` of a fault; 0 for other kinds.
    pub const fn fault_flags(&self) -> u16 {
        match self.kind {
            Kind::FaultBegin | Kind::FaultEnd => (self.body.arg >> 16) as u16,
            _ => 0,
        }
    }

    /// `VM_FAULT_*` of a `fault_end`; 0 for other kinds.
    pub const fn fault_result(&self) -> u16 {
        match self.kind {
            Kind::FaultEnd => (self.body.arg & 0xffff) as u16,
            _ => 0,
        }
    }

    /// Why a task did not get a VMA's lock for reading; unknown for other kinds.
    pub const fn reason(&self) -> Reason {
        match self.kind {
            Kind::VmaReadFail | Kind::VmaReadRefused | Kind::VmaReadTemporary => {
                Reason::from_number((self.body.arg >> 16) as u8)
            }
            _ => Reason::Unknown,
        }
    }

    /// The errno of a failed attempt; 0: it has none.
    pub const fn errno(&self) -> u16 {
        match self.kind {
            Kind::VmaReadFail | Kind::VmaReadRefused | Kind::VmaWriteFail => self.body.arg as u16,
            _ => 0,
        }
    }

    /// Whether a fault runs under the per-VMA lock.
    pub const fn is_vma_fault(&self) -> bool {
        self.fault_flags() & fault::FLAG_VMA_LOCK != 0
    }

    /// How surely this is known.
    pub const fn provenance(&self) -> Provenance {
        Provenance::from_bits(self.header.flags >> flag::PROVENANCE_SHIFT)
    }

    /// The same event, known in another way.
    pub const fn with_provenance(mut self, provenance: Provenance) -> Self {
        self.header.flags = self.header.flags & !(3 << flag::PROVENANCE_SHIFT)
            | (provenance as u16) << flag::PROVENANCE_SHIFT;
        self
    }

    /// The command name up to its first zero byte. Raw bytes from another user: sanitise before showing.
    pub fn comm(&self) -> &[u8] {
        let comm = &self.header.comm;
        let end = comm.iter().position(|&byte| byte == 0).unwrap_or(COMM_LEN);
        &comm[..end]
    }
}
