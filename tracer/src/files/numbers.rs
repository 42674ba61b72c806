//! New numbers for events of which some were left out: without holes but for the gaps that are told.

use tracer_common::wire::{Event, Kind};

use crate::info::{CpuLosses, Losses};

/// What was numbered on each CPU.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    cpus: Vec<CpuLosses>,
}

impl Numbers {
    /// Gives an event its number; a gap covers as many as it tells of.
    #[inline]
    pub(crate) fn number(&mut self, event: &mut Event) {
        let at = usize::from(event.header.cpu);
        if at >= self.cpus.len() {
            self.cpus.resize(at + 1, CpuLosses::default());
        }
        let cpu = &mut self.cpus[at];
        // Numbers wrap at 2^32 by design.
        event.header.seq = cpu.produced as u32;
        if event.kind == Kind::Gap {
            cpu.produced += u64::from(event.body.arg);
            cpu.dropped += u64::from(event.body.arg);
        } else {
            cpu.produced += 1;
            cpu.received += 1;
        }
    }

    /// The losses of what was numbered. What else is missing is known of `whole` recordings only, not of which events.
    pub(crate) fn losses(&self, whole: &Losses) -> Losses {
        Losses {
            cpus: self.cpus.clone(),
            ..whole.clone()
        }
    }
}
