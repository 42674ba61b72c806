//! Which mechanisms a kernel and its user allow, and for each that is not: why, and what would change that.

use super::{Mechanism, Wishes};
use crate::kernel::{Facts, Lockdown};
use crate::text::Kprobe;

/// Why a mechanism is not to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Why {
    pub(super) reason: String,
    pub(super) remedy: String,
}

fn why(reason: impl Into<String>, remedy: impl Into<String>) -> Why {
    Why {
        reason: reason.into(),
        remedy: remedy.into(),
    }
}

type Way = Result<(), Why>;

/// What can be used.
pub(super) struct Ways<'a> {
    wishes: &'a Wishes,
    tp_btf: Way,
    fentry: Way,
    lockdep: Way,
    kprobe: Way,
    notrace: Way,
    breakpoint: Way,
    /// Breakpoints that may be used.
    pub(super) slots: u8,
}

impl<'a> Ways<'a> {
    pub(super) fn new(facts: &Facts, wishes: &'a Wishes) -> Self {
        let wanted = |mechanism: Mechanism| {
            if wishes.without.contains(&mechanism) {
                let name = mechanism.name();
                Err(why(
                    format!("left out by --without {name}"),
                    format!("leave out --without {name}"),
                ))
            } else {
                Ok(())
            }
        };
        let unlocked = || match facts.lockdown {
            Lockdown::Confidentiality => Err(why(
                "kernel lockdown (confidentiality) refuses probes at instructions",
                "boot with lockdown=none, or without Secure Boot",
            )),
            _ => Ok(()),
        };
        let built = || match facts.kprobes {
            Some(false) => Err(why(
                "the kernel takes no kprobes",
                "a kernel with CONFIG_KPROBE_EVENTS, and 1 in /sys/kernel/debug/kprobes/enabled",
            )),
            _ => Ok(()),
        };
        let kprobe = wanted(Mechanism::Kprobe)
            .and_then(|()| built())
            .and_then(|()| unlocked());
        let notrace = kprobe
            .clone()
            .and_then(|()| wanted(Mechanism::KprobeNotrace))
            .and_then(|()| match facts.kprobes_on_notrace {
                Some(true) => Ok(()),
                _ => Err(why(
                    "the function is notrace, which this kernel takes no kprobe in",
                    "a kernel with CONFIG_KPROBE_EVENTS_ON_NOTRACE",
                )),
            });
        let slots = facts.breakpoints_free.unwrap_or(0);
        let breakpoint = wanted(Mechanism::Breakpoint)
            .and_then(|()| unlocked())
            .and_then(|()| {
                if slots == 0 {
                    Err(why(
                        "no hardware breakpoint is free",
                        "end what uses hardware breakpoints (a debugger, perf)",
                    ))
                } else {
                    Ok(())
                }
            });
        Self {
            wishes,
            tp_btf: wanted(Mechanism::TpBtf),
            fentry: wanted(Mechanism::Fentry),
            // As the truth it is no part of what is judged by it.
            lockdep: lockdep(facts).and_then(|()| {
                if wishes.truth {
                    Ok(())
                } else {
                    wanted(Mechanism::Lockdep)
                }
            }),
            kprobe,
            notrace,
            slots: if breakpoint.is_ok() { slots } else { 0 },
            breakpoint,
        }
    }

    pub(super) fn tp_btf(&self) -> Result<(), &Why> {
        self.tp_btf.as_ref().copied()
    }

    pub(super) fn fentry(&self) -> Result<(), &Why> {
        self.fentry.as_ref().copied()
    }

    pub(super) fn kprobe_notrace(&self) -> Result<(), &Why> {
        self.notrace.as_ref().copied()
    }

    pub(super) fn breakpoint(&self) -> Result<(), &Why> {
        self.breakpoint.as_ref().copied()
    }

    /// Whether lockdep can be attached to.
    pub(super) fn lockdep_works(&self) -> Result<(), &Why> {
        self.lockdep.as_ref().copied()
    }

    /// Whether lockdep is to be taken as a source.
    pub(super) fn lockdep(&self) -> bool {
        self.lockdep.is_ok() && !self.wishes.truth
    }

    /// The kind of kprobe that an instruction takes.
    pub(super) fn at(&self, kprobe: Kprobe) -> Result<Mechanism, Why> {
        match kprobe {
            Kprobe::Yes => self.kprobe.clone().map(|()| Mechanism::Kprobe),
            Kprobe::Notrace => self.notrace.clone().map(|()| Mechanism::KprobeNotrace),
            Kprobe::Blacklisted => Err(why(
                "the kernel keeps kprobes out of this function (NOKPROBE)",
                "none without another kernel build",
            )),
        }
    }
}

fn lockdep(facts: &Facts) -> Way {
    match facts.lockdep {
        Some(true) if facts.layout.vma_dep_map.is_some() => Ok(()),
        Some(false) => Err(why(
            "lockdep has switched itself off after the first bug that it found (debug_locks: 0)",
            "boot again, and see the kernel's log",
        )),
        _ => Err(why(
            "the kernel was built without lockdep",
            "a kernel with CONFIG_PROVE_LOCKING",
        )),
    }
}
