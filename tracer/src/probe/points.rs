//! From found instructions to points: which of them get a probe, of what kind, and what the program there has to
//! know. Pure, as all of the planner.

use std::collections::{BTreeMap, BTreeSet};

use tracer_common::site::{self, Place, Role, SiteEntry};
use tracer_common::wire::{self, Kind, MAX_SITES};

use super::plan::{Elsewhere, Mechanism, Plan, Point, unseen};
use super::ways::{Ways, Why};
use crate::info::{Family, SiteInfo, UnseenInfo};
use crate::text::{self, Confidence, FoundSite, Kprobe, Operation, Reason, Register, Sites, Spot};

/// Functions that give the lock of a page fault back after `handle_mm_fault` has returned. They run for every fault,
/// and the kernel keeps kprobes out of them.
const FAULT: [&str; 3] = ["do_user_addr_fault", "handle_page_fault", "exc_page_fault"];
/// The fault that the VMA does not allow.
const BAD_AREA: &str = "__bad_area";
/// What begins to lock a VMA for writing, where it is a function.
const START_WRITE: &str = "__vma_start_write";

/// What functions and tracepoints show, so that no point is needed for it.
#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each thing that may be seen"
)]
pub(super) struct Seen {
    pub(super) family: Family,
    /// Releases are taken from lockdep. It is told of a get before its checks are done, so that it only dates acquires.
    pub(super) lockdep: bool,
    /// Return of `lock_vma_under_rcu`.
    pub(super) rcu_return: bool,
    /// Return of `lock_next_vma`.
    pub(super) next_return: bool,
    /// Entry and return of `__vma_start_write`.
    pub(super) write: bool,
    /// Return of `vma_mark_detached`.
    pub(super) detach: bool,
    /// Return of `handle_mm_fault`.
    pub(super) fault_end: bool,
    /// Entry of `__bad_area`.
    pub(super) bad_area: bool,
    /// Readers are to be kept where they raise the count.
    pub(super) linger: bool,
}

impl Seen {
    /// Whether this function gives out locked VMAs, and its return is seen.
    fn returns(&self, function: &str) -> bool {
        self.rcu_return && function == "lock_vma_under_rcu" || self.next_return && function == "lock_next_vma"
    }
}

/// Which programs have to stand in for instructions that no probe is at.
pub(super) struct StandIn {
    /// The end of the fault, for the put after it.
    pub(super) fault: bool,
    /// The entry of `__bad_area`, for the put in it.
    pub(super) bad_area: bool,
    /// `vm_area_free`, for detaching.
    pub(super) area_free: bool,
}

impl StandIn {
    /// Where nothing is known of instructions.
    pub(super) const fn unread(seen: &Seen, put_is_function: bool) -> Self {
        let releases = seen.lockdep || put_is_function;
        Self {
            fault: !releases && seen.fault_end,
            bad_area: !releases,
            area_free: !seen.detach,
        }
    }
}

/// A probe that we would like to have.
struct Want<'a> {
    site: &'a FoundSite,
    spot: Spot,
    role: Role,
    reasons: u32,
    shared: bool,
}

impl Want<'_> {
    /// Which of them get the few hardware breakpoints: what decides over holds before what only explains.
    fn rank(&self) -> (u8, u32, u64) {
        let rank = match self.role {
            _ if self.site.function.starts_with("rust_helper_") => 9,
            Role::ReadRelease | Role::ReadTemporary => 0,
            Role::ReadAcquire => 1,
            Role::WriteAcquire | Role::WriteStart | Role::Detach => 2,
            Role::Attach | Role::None => 3,
            Role::ReadRefused => 4,
            Role::Linger => 8,
        };
        // Of two explanations the one that explains more.
        (rank, u32::MAX - self.reasons.count_ones(), self.spot.address)
    }

    /// Whether every page fault comes by: a breakpoint, which is an exception, would cost too much.
    fn is_hot(&self) -> bool {
        FAULT.contains(&self.site.function.as_str())
            || self.role == Role::ReadAcquire && self.site.operation == Operation::ReadTry
    }
}

/// What becomes of the found instructions.
struct Sorting<'a> {
    ways: &'a Ways<'a>,
    seen: &'a Seen,
    sites: &'a [FoundSite],
    /// By address.
    wants: BTreeMap<u64, Want<'a>>,
    elsewhere: Vec<Elsewhere>,
    unseen: Vec<UnseenInfo>,
    stand_in: StandIn,
}

/// Adds points for all that was found and is not seen by a function's probe.
pub(super) fn add(plan: &mut Plan, found: &Sites, ways: &Ways<'_>, seen: &Seen) -> StandIn {
    let mut sorting = Sorting {
        ways,
        seen,
        sites: &found.sites,
        wants: BTreeMap::new(),
        elsewhere: Vec::new(),
        unseen: Vec::new(),
        stand_in: StandIn {
            fault: false,
            bad_area: false,
            area_free: !seen.detach && !found.sites.iter().any(|site| site.operation == Operation::Detach),
        },
    };
    for site in &found.sites {
        sorting.sort(site);
    }
    for odd in &found.unrecognised {
        let at = format!("{}+{:#x}", odd.function, odd.offset);
        sorting.unseen.push(unseen(
            Kind::VmaReadRelease,
            &odd.function,
            &format!("{at} ({}) fits no known pattern: {}", odd.instruction, odd.why),
            "`tracer sites --capture FILE`, and a report with that file",
        ));
    }
    for note in found.notes.iter().filter(|note| hides_sites(note)) {
        sorting.unseen.push(unseen(
            Kind::VmaReadRelease,
            note.split(':').next().unwrap_or_default(),
            note,
            "end what else has probes there, or --kernel-text /boot/vmlinuz-RELEASE",
        ));
    }
    sorting.finish(plan)
}

/// Whether a note of the search says that there may be sites which it could not find.
fn hides_sites(note: &str) -> bool {
    note.contains("may be missing") || note.starts_with("modules:")
}

/// A release that is derived, but from what is not seen.
pub(super) fn fault_end_unseen() -> UnseenInfo {
    unseen(
        Kind::VmaReadRelease,
        FAULT[0],
        "it would be derived from the end of the fault, which is not seen here",
        "see fault_end",
    )
}

impl<'a> Sorting<'a> {
    fn sort(&mut self, site: &'a FoundSite) {
        match site.operation {
            Operation::ReadPut => self.put(site),
            Operation::ReadTry | Operation::ReadLocked => self.get(site),
            Operation::WriterEnter | Operation::WriterMark | Operation::WriterLeave => self.writer(site),
            Operation::Detach if self.seen.detach && site.function == "vma_mark_detached" => {
                self.elsewhere(site, "the function's return shows it");
            }
            Operation::Detach => self.want(site, &site.spot, Role::Detach, 0, false),
            Operation::Attach => self.want(site, &site.spot, Role::Attach, 0, false),
        }
    }

    fn elsewhere(&mut self, site: &FoundSite, why: &'static str) {
        self.elsewhere.push(Elsewhere {
            address: site.spot.address,
            place: place_of(&site.spot, site),
            operation: site.operation,
            why,
        });
    }

    fn want(&mut self, site: &'a FoundSite, spot: &Spot, role: Role, reasons: u32, shared: bool) {
        let new = Want {
            site,
            spot: spot.clone(),
            role,
            reasons,
            shared,
        };
        match self.wants.get_mut(&spot.address) {
            // One address, one probe: it asks the lock which of the reasons it is.
            Some(known) if known.role == role => {
                known.reasons |= reasons;
                known.shared |= shared;
            }
            Some(known) => {
                let (kept, lost) = if new.rank() < known.rank() {
                    (new.role, known.role)
                } else {
                    (known.role, new.role)
                };
                if known.role != kept {
                    *known = new;
                }
                let name = |role: Role| role.kind().map_or("nothing", Kind::name);
                let reason = format!("at the same instruction as {}, which is reported", name(kept));
                self.unseen.push(unseen(
                    lost.kind().unwrap_or(Kind::VmaReadRefused),
                    &site.function,
                    &reason,
                    "none without another kernel build",
                ));
            }
            None => {
                self.wants.insert(spot.address, new);
            }
        }
    }

    /// Sites of the same operation that call this function, which takes no kprobe.
    fn callers(&self, site: &FoundSite) -> Vec<&'a FoundSite> {
        let calls = |caller: &&FoundSite| {
            site.callee.is_none()
                && caller.operation == site.operation
                && caller.callee.as_deref() == Some(&site.function)
        };
        self.sites.iter().filter(calls).collect()
    }

    /// What a call of a function that was searched itself calls.
    fn called(&self, site: &FoundSite) -> Option<&'a FoundSite> {
        let callee = site.callee.as_deref()?;
        self.sites
            .iter()
            .find(|own| own.function == callee && own.operation == site.operation && own.callee.is_none())
    }

    fn put(&mut self, site: &'a FoundSite) {
        if let Some(reasons) = self.takes_back(site) {
            self.want(site, &site.spot, Role::ReadTemporary, reasons, false);
            return;
        }
        if self.seen.lockdep {
            self.elsewhere(site, "lockdep tells of each release");
            return;
        }
        if self
            .called(site)
            .is_some_and(|own| self.ways.at(own.spot.kprobe).is_ok())
        {
            self.elsewhere(site, "seen in the function that is called");
            return;
        }
        let possible = self.ways.at(site.spot.kprobe).is_ok();
        if !possible && !self.callers(site).is_empty() {
            self.elsewhere(site, "seen at the calls of this function");
            return;
        }
        if !possible && FAULT.contains(&site.function.as_str()) {
            if self.seen.fault_end {
                self.stand_in.fault = true;
                self.elsewhere(site, "derived from the return of handle_mm_fault");
            } else {
                self.unseen.push(fault_end_unseen());
            }
            return;
        }
        if !possible && site.function == BAD_AREA && self.seen.bad_area {
            self.stand_in.bad_area = true;
            self.elsewhere(site, "derived from the entry of __bad_area");
            return;
        }
        // Failed tries come here, too: the lock tells which it is.
        let reasons = bits(&site.undoes);
        self.want(
            site,
            &site.spot,
            Role::ReadRelease,
            reasons,
            !site.undoes.is_empty(),
        );
    }

    /// Of a put that never ends a hold which anybody was told of: why the lock is given back.
    fn takes_back(&self, site: &FoundSite) -> Option<u32> {
        let function = &site.function;
        let tries = || {
            self.sites
                .iter()
                .filter(move |get| get.function == *function && get.operation == Operation::ReadTry)
        };
        let failures = || tries().flat_map(|get| &get.failures);
        let is_get = tries().any(|get| get.callee.is_none() && !self.callers(get).is_empty());
        if !(site.only_undoes || is_get || self.seen.returns(function)) {
            return None;
        }
        let mut reasons = bits(&site.undoes);
        for failure in failures().filter(|failure| failure.put == Some(site.spot.address)) {
            reasons |= bits(&failure.reasons);
        }
        if reasons != 0 {
            return Some(reasons);
        }
        // What no other put of this function takes back.
        let told: BTreeSet<Reason> = self
            .sites
            .iter()
            .filter(|put| put.function == *function && put.operation == Operation::ReadPut)
            .flat_map(|put| put.undoes.iter().copied())
            .collect();
        let rest: Vec<Reason> = failures()
            .filter(|failure| failure.temporary && failure.put.is_none())
            .flat_map(|failure| failure.reasons.iter().copied())
            .filter(|reason| !told.contains(reason))
            .collect();
        Some(if !rest.is_empty() {
            bits(&rest)
        } else if self.seen.family == Family::Rwsem {
            // There the check for a detached VMA comes after the lock was taken.
            wire::Reason::Detached.bit()
        } else {
            wire::Reason::AddressMoved.bit()
        })
    }

    fn get(&mut self, site: &'a FoundSite) {
        if self.seen.linger && site.operation == Operation::ReadTry && site.spot.kprobe == Kprobe::Yes {
            self.want(site, &site.spot, Role::Linger, 0, false);
        }
        for failure in &site.failures {
            // What had the lock tells of itself at the put which takes it back.
            let reasons: Vec<Reason> = failure
                .reasons
                .iter()
                .copied()
                .filter(|&reason| reason != Reason::AddressMoved)
                .collect();
            if failure.temporary || reasons.is_empty() {
                continue;
            }
            match (&failure.spot.vma, &reasons[..]) {
                (None, [Reason::NoVma]) if failure.spot.shared => {}
                (None, other) if *other != [Reason::NoVma] => self.unseen.push(unseen(
                    Kind::VmaReadRefused,
                    &site.function,
                    &format!(
                        "{}: ways with different VMAs meet there; that the whole look-up failed is seen",
                        place_of(&failure.spot, site)
                    ),
                    "none without another kernel build",
                )),
                _ => self.want(
                    site,
                    &failure.spot,
                    Role::ReadRefused,
                    bits(&reasons),
                    failure.spot.shared,
                ),
            }
        }
        if self.seen.returns(&site.function) {
            return self.elsewhere(site, "the function's return shows it");
        }
        let callers = self.callers(site);
        if !callers.is_empty() && callers.iter().all(|caller| self.seen.returns(&caller.function)) {
            return self.elsewhere(site, "the return of the functions that call this one shows it");
        }
        if self.called(site).is_some() {
            return self.elsewhere(site, "seen in the function that is called");
        }
        match site.confirmed.as_ref().or(site.after.as_ref()) {
            Some(spot) => self.want(site, spot, Role::ReadAcquire, 0, spot.shared),
            None => self.unseen.push(unseen(
                Kind::VmaReadAcquire,
                &site.function,
                "where the try has succeeded could not be made out",
                "`tracer sites --capture FILE`, and a report with that file",
            )),
        }
    }

    fn writer(&mut self, site: &'a FoundSite) {
        match (self.seen.family, site.operation) {
            (_, Operation::WriterLeave) => {
                self.elsewhere(site, "a write lock lasts until the mmap_lock's end");
            }
            (Family::Rwsem, Operation::WriterEnter) => {
                self.want(site, &site.spot, Role::WriteStart, 0, false);
            }
            (Family::Rwsem, _) => self.want(site, &site.spot, Role::WriteAcquire, 0, false),
            (Family::Refcount, Operation::WriterMark) if self.seen.write && site.function == START_WRITE => {
                self.elsewhere(site, "entry and return of __vma_start_write show it");
            }
            (Family::Refcount, Operation::WriterMark) => {
                self.want(site, &site.spot, Role::WriteAcquire, 0, false);
                if let Some(entry) = site.ftrace_entry.filter(|_| site.function == START_WRITE) {
                    // The VMA is the first argument.
                    let start = site.spot.address - site.spot.offset;
                    let spot = Spot {
                        address: entry,
                        offset: entry.saturating_sub(start),
                        vma: Some(text::Place::Register {
                            register: Register::Rdi,
                            displacement: 0,
                        }),
                        ..site.spot.clone()
                    };
                    self.want(site, &spot, Role::WriteStart, 0, false);
                }
            }
            (Family::Refcount, _) => self.elsewhere(site, "a part of __vma_start_write, or of detaching"),
        }
    }

    fn finish(mut self, plan: &mut Plan) -> StandIn {
        let mut chosen: Vec<(Want<'a>, Mechanism)> = Vec::new();
        let mut left: Vec<(Want<'a>, Why)> = Vec::new();
        for (_, want) in std::mem::take(&mut self.wants) {
            if want.spot.vma.is_none() && want.reasons != wire::Reason::NoVma.bit() {
                let why = Why {
                    reason: "no register leads to the VMA there".to_owned(),
                    remedy: match self.seen.family {
                        Family::Rwsem => "Linux 6.15 or later, where the VMA itself has the count",
                        Family::Refcount => "none without another kernel build",
                    }
                    .to_owned(),
                };
                self.give_up(&want, &why);
                continue;
            }
            match self.ways.at(want.spot.kprobe) {
                Ok(by) => chosen.push((want, by)),
                Err(why) => left.push((want, why)),
            }
        }
        left.sort_by_key(|(want, _)| want.rank());
        if left.len() > usize::from(self.ways.slots) {
            left = joined(left);
        }
        let mut slots = self.ways.slots;
        for (want, why) in left {
            if want.is_hot() {
                self.give_up(&want, &why);
            } else if slots > 0
                && chosen
                    .iter()
                    .all(|(known, _)| known.spot.address != want.spot.address)
            {
                slots -= 1;
                chosen.push((want, Mechanism::Breakpoint));
            } else {
                let breakpoint = match self.ways.breakpoint() {
                    Ok(()) => "all hardware breakpoints are taken by other places",
                    Err(why) => &why.reason,
                };
                let why = Why {
                    reason: format!("{}; {breakpoint}", why.reason),
                    remedy: why.remedy,
                };
                self.give_up(&want, &why);
            }
        }
        chosen.sort_by_key(|(want, _)| want.spot.address);
        let room = (MAX_SITES - site::FIRST_DYNAMIC) as usize;
        for (want, _) in chosen.split_off(chosen.len().min(room)) {
            let why = Why {
                reason: format!("the table of the programs holds only {room} instructions"),
                remedy: "a newer version of tracer".to_owned(),
            };
            self.give_up(&want, &why);
        }
        for (want, by) in chosen {
            plan.points.push(Point {
                site: plan.sites.len() as u32,
                address: want.spot.address,
                by,
                entry: entry(&want),
            });
            plan.sites.push(describe(&want, by));
        }
        self.elsewhere.sort_by_key(|known| known.address);
        plan.elsewhere.append(&mut self.elsewhere);
        plan.unseen.append(&mut self.unseen);
        self.stand_in
    }

    fn give_up(&mut self, want: &Want<'_>, why: &Why) {
        let kind = want.role.kind().unwrap_or(Kind::VmaReadRefused);
        let reason = format!("{}: {}", place_of(&want.spot, want.site), why.reason);
        self.unseen
            .push(unseen(kind, &want.site.function, &reason, &why.remedy));
    }
}

/// Refusals that go on at one instruction, as one want there. It tells less surely which of them it is, and takes one
/// breakpoint for all.
fn joined<'a>(left: Vec<(Want<'a>, Why)>) -> Vec<(Want<'a>, Why)> {
    let join = |want: &Want<'_>| {
        let failures = &want.site.failures;
        let failure = failures
            .iter()
            .find(|failure| failure.spot.address == want.spot.address)?;
        // Not where those that succeed come by, too.
        let succeeds = [&want.site.after, &want.site.confirmed];
        let hot = |spot: &Spot| {
            succeeds
                .into_iter()
                .flatten()
                .any(|known| known.address == spot.address)
        };
        failure
            .joins
            .clone()
            .filter(|spot| spot.vma.is_some() && !hot(spot))
    };
    let mut kept: Vec<(Want<'a>, Why)> = Vec::new();
    let mut joined = BTreeMap::<u64, (Want<'a>, Why)>::new();
    for (mut want, why) in left {
        match join(&want).filter(|_| want.role == Role::ReadRefused) {
            Some(spot) => match joined.get_mut(&spot.address) {
                Some((known, _)) => {
                    known.reasons |= want.reasons;
                    known.shared = true;
                    known.spot = spot;
                }
                None => {
                    // Alone it stays where it is.
                    want.shared |= want.spot.shared;
                    joined.insert(spot.address, (want, why));
                }
            },
            None => kept.push((want, why)),
        }
    }
    kept.extend(joined.into_values());
    kept.sort_by_key(|(want, _)| want.rank());
    kept
}

/// The reasons as the programs know them. Between the limit and a writer the count decides.
fn bits(reasons: &[Reason]) -> u32 {
    use wire::Reason as To;
    reasons.iter().fold(0, |mask, reason| {
        mask | match reason {
            Reason::NoVma => To::NoVma.bit(),
            Reason::WriteLocked => To::WriteLocked.bit(),
            Reason::Detached => To::Detached.bit(),
            Reason::LimitOrWriter => To::WriterWaiting.bit() | To::ReaderLimit.bit(),
            Reason::Recycled => To::Recycled.bit(),
            Reason::AddressMoved => To::AddressMoved.bit(),
            Reason::Unknown => To::Unknown.bit(),
        }
    })
}

fn entry(want: &Want<'_>) -> SiteEntry {
    let number = |register: Register| register as u8;
    let mut shared = 0;
    if want.shared {
        shared |= SiteEntry::SHARED;
    }
    // A fault looks only in the task's own address space; the other users of the lock may look elsewhere.
    if want.site.function == "lock_vma_under_rcu" {
        shared |= SiteEntry::OWN_MM;
    }
    let base = SiteEntry {
        role: want.role as u8,
        shared,
        reasons: want.reasons,
        ..SiteEntry::default()
    };
    match want.spot.vma {
        None => base,
        Some(text::Place::Register {
            register,
            displacement,
        }) => SiteEntry {
            place: Place::Register as u8,
            register: number(register),
            displacement,
            ..base
        },
        Some(text::Place::Memory {
            register,
            offset,
            displacement,
        }) => SiteEntry {
            place: Place::Memory as u8,
            register: number(register),
            offset,
            displacement,
            ..base
        },
    }
}

/// `symbol+0x1c4`, and for a module its name behind it, as in `/proc/kallsyms`.
fn place_of(spot: &Spot, site: &FoundSite) -> String {
    let at = format!("{}+{:#x}", spot.symbol, spot.offset);
    match &site.module {
        Some(module) => format!("{at} [{module}]"),
        None => at,
    }
}

fn describe(want: &Want<'_>, by: Mechanism) -> SiteInfo {
    let Want { site, spot, .. } = want;
    let mut reason = match (by, spot.kprobe) {
        (Mechanism::Breakpoint, Kprobe::Notrace) => "no kprobe may be there (notrace)".to_owned(),
        (Mechanism::Breakpoint, _) => "no kprobe may be there".to_owned(),
        _ => "at the instruction".to_owned(),
    };
    if spot.address == site.spot.address {
        let _ = std::fmt::Write::write_fmt(&mut reason, format_args!(": {}", site.instruction));
    }
    if site.confidence == Confidence::Likely {
        reason.push_str("; the pattern is there, but not all that surrounds it elsewhere");
    }
    SiteInfo {
        operation: want.role.kind().map_or("", Kind::name).to_owned(),
        function: site.function.clone(),
        place: place_of(spot, site),
        program: match by {
            Mechanism::Breakpoint => super::attach::POINT_BREAKPOINT,
            _ => super::attach::POINT,
        }
        .to_owned(),
        mechanism: by.name().to_owned(),
        provenance: "observed".to_owned(),
        bound_ns: None,
        reason,
        attached: false,
    }
}
