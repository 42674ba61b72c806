//! What the plan says of the places that events come from, as far as the engine has to know it.

use tracer_common::site;
use tracer_common::wire::{Kind, Provenance};

use crate::info::SourceInfo;

/// What the plan says of one site.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site {
    pub provenance: Provenance,
    pub bound_ns: Option<u64>,
    /// Whether this is `lock_next_vma`, whose caller keeps one VMA locked at a time.
    pub is_next_vma: bool,
}

/// The table of sites, and what follows from it as a whole.
#[derive(Clone, Debug)]
pub(super) struct Sites {
    table: Vec<Site>,
    /// Every release of a VMA read lock is seen at its own place, or follows from what is.
    pub releases_complete: bool,
    /// A fault under the VMA lock gives it back right after its end, where no probe can be.
    pub release_at_fault_end: bool,
    /// How late that is at most.
    pub fault_end_bound_ns: Option<u64>,
    /// No place where a VMA is read-locked is known to be unseen.
    pub acquires_observed: bool,
    /// The same for tries that were taken back.
    pub temporaries_observed: bool,
    /// Some of those are seen at their own places.
    pub temporaries_have_places: bool,
    /// What lockdep says counts; else it is not there, or there only to judge by.
    pub lockdep: bool,
    /// Only lockdep tells of acquires: what it was told and did not take back is a hold.
    pub acquires_by_lockdep: bool,
    /// The release inside `__bad_area` is seen at its own instruction.
    pub bad_area_put: bool,
}

impl Sites {
    pub(super) fn new(info: &SourceInfo) -> Self {
        let table = info.sites.iter().map(|site| Site {
            provenance: site.provenance(),
            bound_ns: site.bound_ns,
            is_next_vma: site.function == "lock_next_vma",
        });
        let attached = |at: u32| info.sites.get(at as usize).filter(|site| site.attached);
        let unseen = |kind: Kind| info.unseen.iter().any(|unseen| unseen.operation == kind.name());
        let releases = || {
            let name = Kind::VmaReadRelease.name();
            let sites = info.sites.iter().enumerate();
            sites.filter(move |(_, site)| site.attached && site.operation == name)
        };
        let lockdep = !info.truth && attached(site::LOCKDEP).is_some();
        let user = attached(site::USER);
        // A stream that says nothing of releases has none but those that follow from faults.
        let from_faults = user.is_some() || releases().next().is_none();
        Self {
            table: table.collect(),
            releases_complete: lockdep || (releases().next().is_some() && !unseen(Kind::VmaReadRelease)),
            release_at_fault_end: from_faults && !lockdep,
            fault_end_bound_ns: user.and_then(|site| site.bound_ns),
            acquires_observed: !unseen(Kind::VmaReadAcquire),
            temporaries_observed: !unseen(Kind::VmaReadTemporary) && !unseen(Kind::VmaReadRefused),
            temporaries_have_places: info.sites.iter().enumerate().any(|(at, site)| {
                // A place where the lock is given back may serve tries that failed, too.
                let shows = |kind: Kind| site.operation == kind.name();
                site.attached
                    && at >= site::FIRST_DYNAMIC as usize
                    && (shows(Kind::VmaReadTemporary) || shows(Kind::VmaReadRelease))
            }),
            lockdep,
            acquires_by_lockdep: lockdep
                && !info
                    .sites
                    .iter()
                    .any(|site| site.attached && site.operation == Kind::VmaReadAcquire.name()),
            bad_area_put: releases()
                .any(|(at, site)| at >= site::FIRST_DYNAMIC as usize && site.function == "__bad_area"),
        }
    }

    #[inline]
    pub(super) fn get(&self, number: u32) -> Option<&Site> {
        self.table.get(number as usize)
    }
}
