//! The shadow lock: what each event has read, against what the lock could have come to.
//!
//! # What an event proves by itself
//!
//! Some states need no history: the task of the event holds the lock while the fields are read, and what it holds rules
//! out what is read. `vm_lock_seq` is read before `mm_lock_seq`, and the latter only grows, so that both being equal
//! proves that the VMA was write-locked when the former was read.

use tracer_common::lock::VM_REFCNT_EXCLUDE_READERS_FLAG as FLAG;
use tracer_common::wire::{Event, Kind, fault, flag};

use super::holders::Holders;
use super::violation::{Violation, ViolationKind, Violations};
use crate::info::{Family, SiteInfo, SourceInfo};
use crate::state::{Engine, Start};

/// After these results the lock was given back inside the fault, and nothing of the VMA was read.
const DROPPED: u16 = fault::RESULT_RETRY | fault::RESULT_COMPLETED;
const SEQS: u16 = flag::VMA | flag::MM | flag::VMA_SEQ | flag::MM_SEQ;

/// The check; see the module.
#[derive(Clone, Debug)]
pub(super) struct Shadow {
    /// Readers are counted, and `mm_lock_seq` is odd under a writer.
    refcount: bool,
    /// By number of the site: it tells of a VMA that has just been write-locked, or has just left.
    returns: Vec<bool>,
}

impl Shadow {
    /// For a stream that `info` tells about.
    pub(super) fn new(info: &SourceInfo) -> Self {
        Self {
            refcount: info.kernel.family == Family::Refcount,
            returns: info.sites.iter().map(returns).collect(),
        }
    }

    /// Takes in one event, after the engine has. `ended`: the start of the read hold that the event ends.
    #[inline]
    pub(super) fn observe(
        &mut self,
        engine: &Engine,
        event: &Event,
        ended: Option<Start>,
        violations: &mut Violations,
    ) {
        if event.has(flag::READ_FAULT) {
            return;
        }
        if let Some((kind, expected)) = self.alone(event, ended) {
            violations.add(Violation {
                kind,
                event: *event,
                expected,
                holders: Holders::of(engine, event),
                proven_ns: event.header.ts_ns,
            });
        }
    }

    /// What the event proves by itself.
    #[inline]
    fn alone(&self, event: &Event, ended: Option<Start>) -> Option<(ViolationKind, u32)> {
        let body = &event.body;
        let held = match event.kind {
            Kind::VmaReadAcquire => true,
            // Only what gives back what was seen to be taken; else it may be a try that is taken back.
            Kind::VmaReadRelease => ended.is_some(),
            Kind::FaultBegin => event.is_vma_fault(),
            Kind::FaultEnd => event.is_vma_fault() && event.fault_result() & DROPPED == 0,
            _ => false,
        };
        if held {
            if event.has(SEQS) && body.vm_lock_seq == body.mm_lock_seq {
                return Some((ViolationKind::ReaderInsideWriter, body.mm_lock_seq));
            }
            // Itself, and the VMA, which nobody takes out while it is read.
            let count = event.vm_refcnt().filter(|_| self.refcount);
            return (count.is_some_and(|count| count & !FLAG < 2))
                .then_some((ViolationKind::CountBelowHolders, 2));
        }
        if !self.refcount {
            return None;
        }
        let odd = event.mm_lock_seq().map(|seq| seq & 1 == 1);
        match event.kind {
            Kind::VmaWriteAcquire if self.returns(event) => (event.has(SEQS)
                && body.vm_lock_seq != body.mm_lock_seq)
                .then_some((ViolationKind::WriteLockNotTaken, body.mm_lock_seq)),
            Kind::MmapAcquire | Kind::MmapRelease if event.is_write() => {
                (odd == Some(false)).then_some((ViolationKind::SeqEvenUnderWriter, body.mm_lock_seq | 1))
            }
            Kind::MmapAcquire | Kind::MmapRelease => {
                (odd == Some(true)).then_some((ViolationKind::SeqOddUnderReader, body.mm_lock_seq + 1))
            }
            Kind::VmaAttach => event
                .vm_refcnt()
                .filter(|&count| count != 0)
                .map(|_| (ViolationKind::AttachOfAttached, 0)),
            Kind::VmaDetach if self.returns(event) => event
                .vm_refcnt()
                .filter(|&count| count != 0)
                .map(|_| (ViolationKind::DetachLeftReaders, 0)),
            _ => None,
        }
    }

    /// Whether the event comes from the end of the function, and not from some instruction inside.
    #[inline]
    fn returns(&self, event: &Event) -> bool {
        let site = self.returns.get(event.header.site as usize);
        site.copied().unwrap_or(false)
    }
}

fn returns(site: &SiteInfo) -> bool {
    matches!(site.mechanism.as_str(), "fexit" | "kretprobe" | "sim")
        && matches!(site.function.as_str(), "__vma_start_write" | "vma_mark_detached")
}
