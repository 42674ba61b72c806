//! What nobody asked for is not attached: what a mode does not need, and what `--only` leaves out.

use tracer_common::site::Role;
use tracer_common::wire::Kind;

use super::{Mechanism, Plan, Wishes};
use crate::info::SiteInfo;
use crate::mode::Mode;

impl Wishes {
    /// Without what the mode has no use for.
    pub(super) fn pared(mut self) -> Self {
        if self.mode != Mode::Stream {
            self.without.push(Mechanism::Lockdep);
            self.truth = false;
        }
        self
    }
}

impl Plan {
    /// Leaves out what shows nothing that the mode needs.
    pub(super) fn pare(&mut self, mode: Mode) {
        if mode == Mode::Stream {
            return;
        }
        let Self {
            points,
            sites,
            unseen,
            ..
        } = self;
        let needed = |operation: &str| Kind::from_name(operation).is_some_and(|kind| mode.needs(kind));
        points.retain(|point| {
            let site = &mut sites[point.site as usize];
            let stays = needed(&site.operation);
            if !stays {
                *site = SiteInfo::default();
            }
            stays
        });
        unseen.retain(|one| needed(&one.operation));
    }

    /// Leaves out what shows only kinds that nobody wants, if no program needs to know of them for another one.
    pub(super) fn pare_unwanted(&mut self, wishes: &Wishes) {
        if wishes.mode != Mode::Stream || wishes.unwanted == 0 || wishes.truth {
            return;
        }
        let Self {
            points,
            probes,
            sites,
            unseen,
            ..
        } = self;
        probes.retain(|probe| {
            let stays = shows(probe.program).is_none_or(|kinds| kinds.iter().any(|&kind| wishes.has(kind)))
                || probe.program == "fault_begin" && wishes.by_address && wishes.has(Kind::FaultEnd);
            if !stays {
                sites[probe.site as usize] = SiteInfo::default();
            }
            stays
        });
        points.retain(|point| {
            let kind = Role::ALL[usize::from(point.entry.role)].kind();
            // A place where the lock is given back may serve tries that failed, too.
            let stays = kind.is_none_or(|kind| {
                wishes.has(kind) || kind == Kind::VmaReadRelease && wishes.has(Kind::VmaReadTemporary)
            });
            if !stays {
                sites[point.site as usize] = SiteInfo::default();
            }
            stays
        });
        unseen.retain(|one| Kind::from_name(&one.operation).is_none_or(|kind| wishes.has(kind)));
    }
}

/// All that a program shows; none: it serves others besides.
fn shows(program: &str) -> Option<&'static [Kind]> {
    Some(match program {
        "mmap_start" => &[Kind::MmapStart],
        "mmap_acquire" => &[Kind::MmapAcquire, Kind::MmapFail, Kind::MmapDowngrade],
        "mmap_release" => &[Kind::MmapRelease],
        "lock_vma_under_rcu" | "lock_next_vma" => &[Kind::VmaReadAcquire, Kind::VmaReadFail],
        "bad_area" => &[Kind::VmaReadRelease],
        "fault_begin" => &[Kind::FaultBegin],
        "fault_end" => &[Kind::FaultEnd],
        "write_start" => &[Kind::VmaWriteStart],
        "write_acquire" => &[Kind::VmaWriteAcquire, Kind::VmaWriteFail],
        "mark_detached" | "area_free" => &[Kind::VmaDetach],
        _ => return None,
    })
}
