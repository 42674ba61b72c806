//! Who was in whose way, as it is printed.

use serde::Serialize;
use tracer_common::wire::Provenance;

use super::groups::{Names, StackReport};
use super::name;
use crate::contention::Contention;
use crate::contention::chains::{Cycle, Doing, Edge, Person, Tree};
use crate::contention::tracks::{Link, LongChain, PairKey, PairRow, why_name};
use crate::outside;
use crate::state::{Place, Wait};

/// Pairs that are printed; the rest is in `other_pairs`.
const PAIRS: usize = 200;
/// Trees of those who still wait at the end that are printed.
const TREES: usize = 200;

/// A task.
#[derive(Clone, Debug, Serialize)]
pub struct PersonReport {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Command name, control characters escaped.
    pub comm: String,
}

impl PersonReport {
    fn new(pid: u32, tid: u32, comm: &[u8]) -> Self {
        Self {
            pid,
            tid,
            comm: outside::name(comm).into_owned(),
        }
    }

    fn of(person: &Person) -> Self {
        Self::new(person.pid, person.tid, &person.comm)
    }
}

/// A lock.
#[derive(Clone, Debug, Serialize)]
pub struct LockReport {
    /// Which way.
    pub lock: &'static str,
    /// Address space, as its name in this report.
    pub mm: Option<String>,
    /// VMA, as its name in this report.
    pub vma: Option<String>,
    /// First address of the VMA.
    pub vm_start: Option<u64>,
    /// First address after it.
    pub vm_end: Option<u64>,
}

impl LockReport {
    fn new(names: Names<'_>, lock: crate::state::Lock, place: &Place) -> Self {
        let known = place.vm_end != 0;
        Self {
            lock: lock.name(),
            mm: name(names.addresses, place.mm),
            vma: name(names.addresses, place.vma),
            vm_start: known.then_some(place.vm_start),
            vm_end: known.then_some(place.vm_end),
        }
    }
}

/// Time that one waited, and for whom in the end.
#[derive(Clone, Debug, Serialize)]
pub struct PairReport {
    /// Who waited.
    pub waiter: PersonReport,
    /// For what.
    pub wanted: &'static str,
    /// Who was at the end of the chain; `null`: nobody, the lock was being handed over.
    pub blocker: Option<PersonReport>,
    /// What that one held.
    pub held: Option<&'static str>,
    /// What it did: `running runnable io reclaim sleeping waiting cycle nobody unknown`.
    pub doing: &'static str,
    /// In nanoseconds.
    pub total_ns: u64,
    /// The longest time at a stretch.
    pub max_ns: u64,
    /// How many stretches.
    pub times: u64,
    /// Holders between the two, at most.
    pub between: u32,
    /// As sure as the least sure hold in it.
    pub certainty: &'static str,
    /// Where the blocker slept, at the longest.
    pub stack: Option<StackReport>,
}

/// One holder in a chain.
#[derive(Clone, Debug, Serialize)]
pub struct LinkReport {
    /// Who.
    #[serde(flatten)]
    pub who: PersonReport,
    /// What it held.
    #[serde(flatten)]
    pub lock: LockReport,
    /// Since when (`CLOCK_MONOTONIC`).
    pub since_ns: u64,
    /// How surely.
    pub certainty: &'static str,
    /// How many others held the same lock.
    pub others: u32,
}

/// One wait with the chain behind it.
#[derive(Clone, Debug, Serialize)]
pub struct LongReport {
    /// Who waited.
    pub waiter: PersonReport,
    /// For what.
    #[serde(flatten)]
    pub lock: LockReport,
    /// Since when (`CLOCK_MONOTONIC`).
    pub since_ns: u64,
    /// How long, in nanoseconds.
    pub ns: u64,
    /// Who was in the way for the longest part of it, the nearest first.
    pub chain: Vec<LinkReport>,
    /// How long that part was, in nanoseconds.
    pub chain_ns: u64,
    /// What the last one did then.
    pub doing: &'static str,
    /// Where it slept.
    pub stack: Option<StackReport>,
}

/// Somebody in the way, and who is in the way of that one.
#[derive(Clone, Debug, Serialize)]
pub struct EdgeReport {
    /// Who.
    #[serde(flatten)]
    pub who: PersonReport,
    /// `holds`, or `ahead`: it came first.
    pub why: &'static str,
    /// What it holds or waits for.
    #[serde(flatten)]
    pub lock: LockReport,
    /// Since when (`CLOCK_MONOTONIC`); `null`: its start was not seen.
    pub since_ns: Option<u64>,
    /// How surely it is in the way.
    pub certainty: &'static str,
    /// What it does.
    pub doing: &'static str,
    /// Since when it does that, if that is known.
    pub doing_since_ns: Option<u64>,
    /// Where it left its processor.
    pub stack: Option<StackReport>,
    /// Who is in its way.
    pub blocked_by: Vec<EdgeReport>,
}

/// Somebody who waits.
#[derive(Clone, Debug, Serialize)]
pub struct TreeReport {
    /// Who.
    pub waiter: PersonReport,
    /// For what.
    #[serde(flatten)]
    pub lock: LockReport,
    /// Since when (`CLOCK_MONOTONIC`).
    pub since_ns: u64,
    /// How surely it waits.
    pub certainty: &'static str,
    /// How many wait for it in turn.
    pub waited_for_by: u32,
    /// Who is in its way; none: nobody is known.
    pub blocked_by: Vec<EdgeReport>,
}

/// Tasks that wait for each other.
#[derive(Clone, Debug, Serialize)]
pub struct CycleReport {
    /// Each waits for the next, the last for the first.
    pub members: Vec<MemberReport>,
    /// Since when all of them wait (`CLOCK_MONOTONIC`).
    pub since_ns: u64,
    /// How long by the last event, in nanoseconds.
    pub lasted_ns: u64,
    /// As sure as the least sure edge.
    pub certainty: &'static str,
    /// Whether nobody will get on; else it may pass.
    pub deadlock: bool,
}

/// One of a cycle.
#[derive(Clone, Debug, Serialize)]
pub struct MemberReport {
    /// Who.
    #[serde(flatten)]
    pub who: PersonReport,
    /// What it waits for.
    #[serde(flatten)]
    pub lock: LockReport,
    /// Since when (`CLOCK_MONOTONIC`).
    pub since_ns: u64,
}

/// Contention.
#[derive(Clone, Debug, Serialize)]
pub struct ChainsReport {
    /// Whom somebody waited for in the end, the longest time first.
    pub pairs: Vec<PairReport>,
    /// Waiting time of pairs that are not listed, and of too short a time to tell, in nanoseconds.
    pub other_pairs_ns: u64,
    /// How many these are; one may have been counted several times.
    pub other_pairs: u64,
    /// Waiting time with nobody known in the way, in nanoseconds: mostly of waits that met none.
    pub alone_ns: u64,
    /// Waits for locks that were not followed, there being too many at a time.
    pub not_followed: u64,
    /// The longest waits with somebody in the way.
    pub longest: Vec<LongReport>,
    /// Who waits at the end, the longest first.
    pub at_end: Vec<TreeReport>,
    /// Whether more wait than are listed.
    pub at_end_truncated: bool,
    /// Those who wait for each other at the end.
    pub cycles: Vec<CycleReport>,
    /// How many cycles passed: trylocks that failed, above all.
    pub cycles_passed: u64,
    /// The longest that one of these lasted, in nanoseconds.
    pub cycles_passed_max_ns: u64,
}

impl ChainsReport {
    pub(super) fn new(names: Names<'_>, contention: &Contention, now_ns: u64) -> Self {
        let tracks = &contention.tracks;
        let mut pairs: Vec<_> = tracks.pairs.iter().collect();
        pairs.sort_by_key(|(key, row)| {
            let order = (key.waiter_tid, key.blocker_tid, key.doing);
            (core::cmp::Reverse(row.total_ns), order)
        });
        let mut others = tracks.other_pairs;
        for (_, row) in pairs.iter().skip(PAIRS) {
            others.merge(row);
        }
        let at_end = &contention.at_end;
        Self {
            pairs: pairs
                .iter()
                .take(PAIRS)
                .map(|(key, row)| pair(names, key, row))
                .collect(),
            other_pairs_ns: others.total_ns,
            other_pairs: others.merged,
            alone_ns: tracks.alone_ns,
            not_followed: tracks.not_followed,
            longest: tracks.longest.iter().map(|chain| long(names, chain)).collect(),
            at_end: at_end
                .trees
                .iter()
                .take(TREES)
                .map(|one| tree(names, one))
                .collect(),
            at_end_truncated: at_end.truncated || at_end.trees.len() > TREES,
            cycles: at_end
                .cycles
                .iter()
                .map(|one| cycle(names, one, now_ns))
                .collect(),
            cycles_passed: tracks.cycles.passed,
            cycles_passed_max_ns: tracks.cycles.longest_ns,
        }
    }
}

fn pair(names: Names<'_>, key: &PairKey, row: &PairRow) -> PairReport {
    let blocker = PersonReport::new(key.blocker_pid, key.blocker_tid, &row.blocker_comm);
    PairReport {
        waiter: PersonReport::new(key.waiter_pid, key.waiter_tid, &row.waiter_comm),
        wanted: key.wanted.name(),
        blocker: key.held.map(|_| blocker),
        held: key.held.map(crate::state::Lock::name),
        doing: key.doing.name(),
        total_ns: row.total_ns,
        max_ns: row.max_ns,
        times: row.times,
        between: row.between,
        certainty: row.certainty.name(),
        stack: names.stacks(row.stacks),
    }
}

fn long(names: Names<'_>, chain: &LongChain) -> LongReport {
    let link = |(link, comm): (&Link, &[u8; 16])| LinkReport {
        who: PersonReport::new(link.pid, link.tid, comm),
        lock: LockReport::new(names, link.lock, &link.place),
        since_ns: link.since_ns,
        certainty: link.certainty.name(),
        others: link.others,
    };
    LongReport {
        waiter: PersonReport::of(&chain.person),
        lock: LockReport::new(names, chain.span.lock, &chain.span.place),
        since_ns: chain.span.since_ns,
        ns: chain.span.ns.unwrap_or(0),
        chain: chain.path.links().iter().zip(&chain.comms).map(link).collect(),
        chain_ns: chain.path_ns,
        doing: chain.path.doing.name(),
        stack: names.stacks(chain.path.stacks),
    }
}

fn tree(names: Names<'_>, tree: &Tree) -> TreeReport {
    TreeReport {
        waiter: PersonReport::of(&tree.person),
        lock: LockReport::new(names, tree.wait.lock, &tree.place),
        since_ns: tree.wait.since_ns,
        certainty: tree.wait.certainty.name(),
        waited_for_by: tree.waited_for_by,
        blocked_by: tree.blocked_by.iter().map(|one| edge(names, one)).collect(),
    }
}

fn edge(names: Names<'_>, of: &Edge) -> EdgeReport {
    let asleep = matches!(
        of.doing,
        Doing::Sleeping | Doing::Io | Doing::Reclaim | Doing::Waiting
    );
    let stacks = (of.run.kernel_stack, of.run.user_stack);
    EdgeReport {
        who: PersonReport::of(&of.person),
        why: why_name(of.why),
        lock: LockReport::new(names, of.lock, &of.place),
        since_ns: of.since_known.then_some(of.since_ns),
        certainty: of.certainty.name(),
        doing: of.doing.name(),
        doing_since_ns: (of.run.certainty != Provenance::Unknown && of.run.since_known)
            .then_some(of.run.since_ns),
        stack: if asleep { names.stacks(stacks) } else { None },
        blocked_by: of.next.iter().map(|one| edge(names, one)).collect(),
    }
}

fn cycle(names: Names<'_>, cycle: &Cycle, now_ns: u64) -> CycleReport {
    let member = |(person, wait): &(Person, Wait)| MemberReport {
        who: PersonReport::of(person),
        lock: LockReport::new(
            names,
            wait.lock,
            &Place {
                mm: wait.mm,
                vma: wait.vma,
                ..Place::default()
            },
        ),
        since_ns: wait.since_ns,
    };
    CycleReport {
        members: cycle.members.iter().map(member).collect(),
        since_ns: cycle.since_ns,
        lasted_ns: now_ns.saturating_sub(cycle.since_ns),
        certainty: cycle.certainty.name(),
        deadlock: cycle.is_deadlock(now_ns),
    }
}
