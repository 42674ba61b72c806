//! Checks of what was seen, beside the engine: pure, like it.
//!
//! [`Checker`] runs all of them along with an engine: [`accounting`] compares what was read of the lock with what is
//! known of its holders, [`assertions`] asks what the kernel's assertions would say, and whether they would be right.

pub mod accounting;
pub mod assertions;
mod holders;
mod lockdep;
mod shadow;
pub mod violation;
pub mod vocabulary;

use tracer_common::wire::{Event, Kind, Provenance};

use crate::info::SourceInfo;
use crate::state::{Engine, Meta};
use accounting::{Accounting, Totals};
use assertions::Assertions;
pub use holders::Holders;
use lockdep::Lockdep;
use shadow::Shadow;
use violation::Violations;

/// All checks of one stream.
#[derive(Clone, Debug)]
pub struct Checker {
    accounting: Accounting,
    assertions: Assertions,
    shadow: Shadow,
    lockdep: Lockdep,
    violations: Violations,
    /// Time of the event before losses were last asked for, in nanoseconds.
    losses_ns: u64,
}

impl Checker {
    /// For a stream that `info` tells about.
    pub fn new(info: &SourceInfo) -> Self {
        Self {
            accounting: Accounting::new(info),
            assertions: Assertions::new(info),
            shadow: Shadow::new(info),
            lockdep: Lockdep::new(info),
            violations: Violations::default(),
            losses_ns: info.start_monotonic_ns,
        }
    }

    /// Takes in one event of the source: hands it to the engine, and then looks at what came of it.
    #[inline]
    pub fn apply(&mut self, engine: &mut Engine, event: &Event, out: &mut impl FnMut(&Event, &Meta)) {
        let mut ended = None;
        engine.apply(event, &mut |made, meta| {
            if meta.derived {
                self.accounting.derived(made, meta);
            }
            if made.kind == Kind::VmaReadRelease && meta.hold.is_some() {
                let own = (made.header.tid, made.body.vma) == (event.header.tid, event.body.vma);
                let sure = meta.provenance <= Provenance::Derived;
                let start = meta.hold.filter(|start| start.provenance != Provenance::Unknown);
                ended = start.filter(|_| own && sure).or(ended);
            }
            out(made, meta);
        });
        if event.kind == Kind::Gap {
            self.violations.gap(event.body.vm_start);
            self.shadow.gap(event.body.vm_start);
            self.lockdep.forget();
        }
        let Some(place) = self.accounting.place(engine, event, ended) else {
            return;
        };
        while let Some(violation) = self.accounting.take_proved() {
            self.violations.add(violation);
        }
        self.shadow
            .observe(engine, event, place, ended, &mut self.violations);
        let lockdep = self.lockdep.observe(engine, event, ended);
        self.assertions.observe(engine, event, place, lockdep);
    }

    /// What is lost was asked for. `missed`: the kernel skipped runs of probes since the last time, which leaves no hole in
    /// the numbering, so that nothing is sure that was found since.
    pub fn losses(&mut self, engine: &mut Engine, missed: bool) {
        if missed {
            engine.forget();
            self.accounting.lost_since(self.losses_ns);
            self.violations.gap(self.losses_ns);
            self.shadow.gap(self.losses_ns);
            self.lockdep.forget();
        }
        self.losses_ns = engine.now_ns();
    }

    /// Nothing more comes.
    pub fn finish(&mut self) {
        self.accounting.finish();
    }

    /// Whether what was read of the lock is what is known of its holders.
    pub fn accounting(&self) -> &Accounting {
        &self.accounting
    }

    /// States that the lock cannot be in.
    pub fn violations(&self) -> &Violations {
        &self.violations
    }

    /// What was predicted: its name, whether the watched kernel has it, and what came of it.
    pub fn quantities(&self) -> [(&'static str, bool, &Totals); 4] {
        let [vma_seq, mm_seq, outcome] = self.shadow.totals();
        let applies = self.shadow.applies();
        [
            ("vm_refcnt", self.accounting.applies(), self.accounting.totals()),
            ("vm_lock_seq", applies, vma_seq),
            ("mm_lock_seq", applies, mm_seq),
            ("outcome", applies, outcome),
        ]
    }

    /// Whether lockdep tells the truth here.
    pub fn has_lockdep(&self) -> bool {
        self.lockdep.is_present()
    }

    /// How often our truth was compared with lockdep's, and how often it was another.
    pub fn lockdep(&self) -> (u64, u64) {
        self.lockdep.counts()
    }

    /// What assertions would have said.
    pub fn assertions(&self) -> &Assertions {
        &self.assertions
    }
}
