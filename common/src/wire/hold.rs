//! A hold in one event (`--mode holds`): its fields in the body of the `vma_*` kinds.

use super::{Event, Kind, Provenance, VmaBody, fault, flag};

/// Bits of [`VmaBody::arg`] for holds of an `mmap_lock`.
pub mod hold_arg {
    /// It did not end with a release: the writer went on as a reader.
    pub const TO_READER: u32 = 1 << 0;
    /// It did not begin with an acquire: a writer went on as a reader.
    pub const FROM_WRITER: u32 = 1 << 1;
}

/// What was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The `mmap_lock`, for reading.
    MmapRead,
    /// The `mmap_lock`, for writing.
    MmapWrite,
    /// A VMA, for reading.
    VmaRead,
}

/// What a `hold` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldFacts {
    /// Which lock.
    pub held: Held,
    /// For how long, in nanoseconds, up to the event's time.
    pub length_ns: u64,
    /// For how long it had been waited for, in nanoseconds; `None`: not known, or there is no wait.
    pub waited_ns: Option<u64>,
    /// Its page fault was done: `FAULT_FLAG_*` and `VM_FAULT_*`.
    pub fault: Option<(u16, u16)>,
    /// See [`hold_arg::TO_READER`].
    pub to_reader: bool,
    /// See [`hold_arg::FROM_WRITER`].
    pub from_writer: bool,
}

impl Event {
    /// How long what a `stack` or `hold` tells of took, in nanoseconds.
    pub const fn length_ns(&self) -> Option<u64> {
        match (self.kind, self.hold()) {
            (Kind::Stack, _) => Some(self.body.vm_end),
            (_, Some(facts)) => Some(facts.length_ns),
            _ => None,
        }
    }

    /// Whether the lock of an `mmap_*` event, or of a `hold` of an `mmap_lock`, is meant for writing.
    pub const fn writes(&self) -> Option<bool> {
        match self.kind {
            Kind::MmapStart | Kind::MmapAcquire | Kind::MmapFail | Kind::MmapRelease => Some(self.is_write()),
            Kind::Hold if !self.has(flag::VMA) => Some(self.is_write()),
            _ => None,
        }
    }

    /// `FAULT_FLAG_*` of the fault that begins, or that ended here.
    pub const fn flags_of_fault(&self) -> Option<u16> {
        match (self.kind, self.hold()) {
            (Kind::FaultBegin | Kind::FaultEnd, _) => Some((self.body.arg >> 16) as u16),
            (
                _,
                Some(HoldFacts {
                    fault: Some((flags, _)),
                    ..
                }),
            ) => Some(flags),
            _ => None,
        }
    }

    /// `VM_FAULT_*` of the fault that ended here.
    pub const fn result_of_fault(&self) -> Option<u16> {
        match (self.kind, self.hold()) {
            (Kind::FaultEnd, _) => Some(self.body.arg as u16),
            (
                _,
                Some(HoldFacts {
                    fault: Some((_, result)),
                    ..
                }),
            ) => Some(result),
            _ => None,
        }
    }

    /// For how long what a `hold` tells of had been waited for, in nanoseconds.
    pub const fn waited_ns(&self) -> Option<u64> {
        match self.hold() {
            Some(facts) => facts.waited_ns,
            None => None,
        }
    }

    /// What a `hold` tells; of other kinds nothing.
    pub const fn hold(&self) -> Option<HoldFacts> {
        if !matches!(self.kind, Kind::Hold) {
            return None;
        }
        let VmaBody {
            vm_start,
            vm_end,
            vm_refcnt,
            vm_lock_seq,
            arg,
            ..
        } = self.body;
        let of_vma = self.has(flag::VMA);
        let (flags, result) = ((arg >> 16) as u16, arg as u16);
        Some(HoldFacts {
            held: match (of_vma, self.has(flag::WRITE)) {
                (true, _) => Held::VmaRead,
                (false, true) => Held::MmapWrite,
                (false, false) => Held::MmapRead,
            },
            length_ns: (vm_lock_seq as u64) << 32 | vm_refcnt as u64,
            waited_ns: if !of_vma && vm_end != 0 {
                Some(vm_start)
            } else {
                None
            },
            fault: if of_vma && flags & fault::FLAG_VMA_LOCK != 0 {
                Some((flags, result))
            } else {
                None
            },
            to_reader: !of_vma && arg & hold_arg::TO_READER != 0,
            from_writer: !of_vma && arg & hold_arg::FROM_WRITER != 0,
        })
    }

    /// A `hold` that ends at `ts_ns`, for tests and whoever else makes events; `mm`, `vma` and its range are for the
    /// caller to fill in.
    pub const fn of_hold(ts_ns: u64, facts: &HoldFacts, how: Provenance) -> Self {
        let mut event = Self::synthetic(Kind::Hold, ts_ns);
        event.header.flags = (how as u16) << flag::PROVENANCE_SHIFT
            | match facts.held {
                Held::MmapRead => flag::MM,
                Held::MmapWrite => flag::MM | flag::WRITE,
                Held::VmaRead => flag::MM | flag::VMA | flag::RANGE,
            };
        event.body.vm_refcnt = facts.length_ns as u32;
        event.body.vm_lock_seq = (facts.length_ns >> 32) as u32;
        if let (Some(waited_ns), Held::MmapRead | Held::MmapWrite) = (facts.waited_ns, facts.held) {
            event.body.vm_start = waited_ns;
            event.body.vm_end = 1;
        }
        event.body.arg = match facts.fault {
            Some((flags, result)) => (flags as u32) << 16 | result as u32,
            None => {
                ((facts.to_reader as u32) * hold_arg::TO_READER)
                    | ((facts.from_writer as u32) * hold_arg::FROM_WRITER)
            }
        };
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out() {
        let fault = HoldFacts {
            held: Held::VmaRead,
            length_ns: 5 << 32 | 7,
            waited_ns: None,
            fault: Some((fault::FLAG_VMA_LOCK | fault::FLAG_USER, 4)),
            to_reader: false,
            from_writer: false,
        };
        let writer = HoldFacts {
            held: Held::MmapWrite,
            length_ns: 9,
            waited_ns: Some(0),
            fault: None,
            to_reader: true,
            from_writer: false,
        };
        let reader = HoldFacts {
            held: Held::MmapRead,
            waited_ns: None,
            to_reader: false,
            from_writer: true,
            ..writer
        };
        for facts in [fault, writer, reader] {
            let event = Event::of_hold(100, &facts, Provenance::Derived);
            assert_eq!(event.hold(), Some(facts));
            assert_eq!(event.provenance(), Provenance::Derived);
        }
        assert_eq!(Event::synthetic(Kind::FaultEnd, 1).hold(), None);
    }
}
