//! Waits and holds in groups, as they are printed.

use std::collections::BTreeMap;

use serde::Serialize;

use super::name;
use crate::contention::Contention;
use crate::contention::groups::Top;
use crate::contention::places;
use crate::contention::summary::{Longest, Summaries, Summary};
use crate::info::SourceInfo;
use crate::outside;
use crate::sink::address::Addresses;
use crate::stacks::{Stack, Stacks};
use crate::state::{Lock, What};

/// Rows of a group that are printed; the rest is in its `others`.
const ROWS: usize = 200;

/// What names are made from.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) addresses: &'a Addresses,
    pub(super) info: &'a SourceInfo,
    pub(super) stacks: &'a Stacks,
}

impl Names<'_> {
    /// The function or tracepoint of a site.
    pub(super) fn function(&self, site: u32) -> Option<&str> {
        let site = self.info.sites.get(site as usize)?;
        Some(&site.function)
            .filter(|name| !name.is_empty())
            .map(String::as_str)
    }

    /// The instruction of a site, or else its function.
    fn place(&self, site: u32) -> Option<String> {
        let found = self.info.sites.get(site as usize)?;
        let place = if found.place.is_empty() {
            &found.function
        } else {
            &found.place
        };
        (!place.is_empty()).then(|| place.clone())
    }

    /// The stacks with these numbers, innermost frame first; `None`: there are none.
    pub(super) fn stacks(&self, (kernel, user): (u32, u32)) -> Option<StackReport> {
        let frames = |number: u32, kernel: bool| {
            let stack = self.stacks.get(number);
            stack.map_or(Vec::new(), |stack| frames(stack, kernel))
        };
        (kernel != 0 || user != 0).then(|| StackReport {
            kernel: frames(kernel, true),
            user: frames(user, false),
        })
    }
}

/// Addresses of the kernel are not shown: a frame without a name is `?`.
fn frames(stack: &Stack, kernel: bool) -> Vec<String> {
    let one = |frame: &crate::stacks::Frame| {
        let name = match (frame.name.is_empty(), kernel) {
            (false, _) => outside::plain(&frame.name).into_owned(),
            (true, true) => "?".into(),
            (true, false) => format!("{:#x}", frame.address),
        };
        if frame.module.is_empty() {
            name
        } else {
            format!("{name} [{}]", outside::plain(&frame.module))
        }
    };
    stack.frames.iter().map(one).collect()
}

/// Where a task was, innermost frame first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct StackReport {
    /// In the kernel.
    pub kernel: Vec<String>,
    /// In its program.
    pub user: Vec<String>,
}

/// One wait or hold.
#[derive(Clone, Debug, Serialize)]
pub struct SpanReport {
    /// How long, in nanoseconds.
    pub ns: u64,
    /// Since when (`CLOCK_MONOTONIC`).
    pub since_ns: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Command name, control characters escaped.
    pub comm: String,
    /// Address space, as its name in this report.
    pub mm: Option<String>,
    /// VMA, as its name in this report.
    pub vma: Option<String>,
    /// First address of the VMA.
    pub vm_start: Option<u64>,
    /// First address after it.
    pub vm_end: Option<u64>,
    /// The instruction, function or tracepoint of the event that ended it.
    pub site: Option<String>,
    /// Where it ended, if that is known.
    pub stack: Option<StackReport>,
    /// For how long others waited for it, summed over them, in nanoseconds; holds only.
    pub caused_ns: Option<u64>,
    /// How many did; holds only.
    pub waiters: Option<u32>,
}

impl SpanReport {
    fn new(names: Names<'_>, one: &Longest, hold: bool) -> Self {
        let has_range = one.place.vm_end != 0;
        let hold = hold && one.lock != Lock::VmaWrite;
        Self {
            ns: one.ns,
            since_ns: one.since_ns,
            pid: one.who.pid,
            tid: one.who.tid,
            comm: outside::name(&one.comm).into_owned(),
            mm: name(names.addresses, one.place.mm),
            vma: name(names.addresses, one.place.vma),
            vm_start: has_range.then_some(one.place.vm_start),
            vm_end: has_range.then_some(one.place.vm_end),
            site: names.place(one.site),
            stack: names.stacks(one.stacks),
            caused_ns: hold.then_some(one.caused_ns),
            waiters: hold.then_some(one.waiters),
        }
    }
}

/// Waits of one kind in one group.
#[derive(Clone, Debug, Serialize)]
pub struct TimesReport {
    /// How many have a known length.
    pub count: u64,
    /// How many have not.
    pub unknown: u64,
    /// Sum in nanoseconds.
    pub total_ns: u64,
    /// Half do not exceed this; percentiles are rounded up by at most 1/16.
    pub p50_ns: u64,
    /// 90 of 100.
    pub p90_ns: u64,
    /// 99 of 100.
    pub p99_ns: u64,
    /// 999 of 1000.
    pub p999_ns: u64,
    /// The longest.
    pub longest: Option<SpanReport>,
    /// Holds that somebody waited for; `null` for waits, and for VMA write locks, which nobody waits for.
    pub contended: Option<u64>,
    /// Holds that nobody waited for.
    pub idle: Option<u64>,
    /// For how long others waited for them, summed, in nanoseconds.
    pub caused_ns: Option<u64>,
}

impl TimesReport {
    fn new(names: Names<'_>, summary: &Summary, hold: bool) -> Self {
        let counts = hold && summary.longest.lock != Lock::VmaWrite;
        Self {
            count: summary.count,
            unknown: summary.unknown,
            total_ns: summary.total_ns,
            p50_ns: summary.percentile(500),
            p90_ns: summary.percentile(900),
            p99_ns: summary.percentile(990),
            p999_ns: summary.percentile(999),
            longest: (summary.count > 0).then(|| SpanReport::new(names, &summary.longest, hold)),
            contended: counts.then_some(summary.contended),
            idle: counts.then(|| summary.count - summary.contended),
            caused_ns: counts.then_some(summary.caused_ns),
        }
    }
}

/// Waits and holds of one group, by lock, those that occurred.
#[derive(Clone, Debug, Default, Serialize)]
pub struct GroupReport {
    /// Waits that ended with the lock.
    pub waits: BTreeMap<&'static str, TimesReport>,
    /// Waits that ended without it: failed trylocks, and killed tasks.
    pub given_up: BTreeMap<&'static str, TimesReport>,
    /// Holds.
    pub holds: BTreeMap<&'static str, TimesReport>,
}

impl GroupReport {
    fn new(names: Names<'_>, all: &Summaries) -> Self {
        let of = |what: What| {
            let one = |&lock: &Lock| {
                let summary = all.get(what, lock)?;
                Some((lock.name(), TimesReport::new(names, summary, what == What::Hold)))
            };
            Lock::ALL.iter().filter_map(one).collect()
        };
        Self {
            waits: of(What::Wait),
            given_up: of(What::GaveUp),
            holds: of(What::Hold),
        }
    }
}

/// One row: what it is of, and its times.
#[derive(Clone, Debug, Serialize)]
pub struct RowReport<K> {
    /// What it is of.
    #[serde(flatten)]
    pub of: K,
    /// Its times.
    #[serde(flatten)]
    pub times: GroupReport,
}

/// A group: its rows, those with the most waiting first, and what they do not have.
#[derive(Clone, Debug, Serialize)]
pub struct TableReport<K> {
    /// The rows.
    pub rows: Vec<RowReport<K>>,
    /// All that is in no row.
    pub others: GroupReport,
    /// How many rows were merged into `others`; one may have been so several times.
    pub merged: u64,
    /// Whether rows may lack a part, which is then in `others`.
    pub cut: bool,
}

/// Of a task.
#[derive(Clone, Debug, Serialize)]
pub struct TaskId {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Command name, control characters escaped.
    pub comm: String,
}

/// Of a process.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessId {
    /// Process.
    pub pid: u32,
    /// Command name of its first thread, if that was seen, else of another.
    pub comm: String,
}

/// Of a VMA, as one process used it.
#[derive(Clone, Debug, Serialize)]
pub struct VmaId {
    /// Process.
    pub pid: u32,
    /// Address space, as its name in this report.
    pub mm: Option<String>,
    /// First address; `null`: the `mmap_lock`, or a VMA whose range is not known.
    pub vm_start: Option<u64>,
    /// First address after it.
    pub vm_end: Option<u64>,
}

/// Of an address space, as one process used it.
#[derive(Clone, Debug, Serialize)]
pub struct MmId {
    /// Process.
    pub pid: u32,
    /// Its name in this report.
    pub mm: Option<String>,
}

/// Of the place of the events that ended it.
#[derive(Clone, Debug, Serialize)]
pub struct SiteId {
    /// The instruction, function or tracepoint.
    pub site: Option<String>,
}

/// Of the first kernel function outside the locking code.
#[derive(Clone, Debug, Serialize)]
pub struct CallerId {
    /// The function; `null`: none of the frames has a name.
    pub function: Option<String>,
}

/// Of a stack.
#[derive(Clone, Debug, Serialize)]
pub struct StackId {
    /// The stack.
    pub stack: StackReport,
}

/// All groups.
#[derive(Clone, Debug, Serialize)]
pub struct GroupsReport {
    /// Sums over everything.
    pub all: GroupReport,
    /// By task.
    pub tasks: TableReport<TaskId>,
    /// By process.
    pub processes: TableReport<ProcessId>,
    /// By VMA.
    pub vmas: TableReport<VmaId>,
    /// By address space.
    pub mms: TableReport<MmId>,
    /// By place of the events.
    pub sites: TableReport<SiteId>,
    /// By the function that wanted the lock, of those with a stack.
    pub callers: TableReport<CallerId>,
    /// By stack, of those that have one.
    pub stacks: TableReport<StackId>,
    /// The longest waits by lock.
    pub longest_waits: BTreeMap<&'static str, Vec<SpanReport>>,
    /// The longest holds by lock.
    pub longest_holds: BTreeMap<&'static str, Vec<SpanReport>>,
    /// The holds by lock that others waited for most.
    pub worst_holds: BTreeMap<&'static str, Vec<SpanReport>>,
    /// Stacks of which it is not known what they belong to.
    pub stray_stacks: u64,
}

impl GroupsReport {
    pub(super) fn new(names: Names<'_>, contention: &Contention) -> Self {
        let groups = &contention.groups;
        let comm = |raw: &[u8]| outside::name(raw).into_owned();
        let tasks = groups.tasks.iter().map(|(key, row)| {
            let id = TaskId {
                pid: key.pid,
                tid: key.tid,
                comm: comm(&row.comm),
            };
            (id, (u64::from(key.pid), u64::from(key.tid)), &row.all)
        });
        let (processes, no_process) = groups.processes();
        let process = processes.iter().map(|(pid, row)| {
            let id = ProcessId {
                pid: *pid,
                comm: comm(&row.comm),
            };
            (id, (u64::from(*pid), 0), &row.all)
        });
        let vmas = groups.vmas.iter().map(|(key, row)| {
            let known = key.vm_end != 0;
            let id = VmaId {
                pid: key.mm.pid,
                mm: name(names.addresses, key.mm.mm),
                vm_start: known.then_some(key.vm_start),
                vm_end: known.then_some(key.vm_end),
            };
            (id, (key.mm.mm, key.vm_start), row)
        });
        let (mms, no_mm) = groups.mms();
        let mm = mms.iter().map(|(key, row)| {
            let id = MmId {
                pid: key.pid,
                mm: name(names.addresses, key.mm),
            };
            (id, (key.mm, u64::from(key.pid)), row)
        });
        let sites = (0..).zip(&groups.sites).map(|(site, row)| {
            let id = SiteId {
                site: names.place(site),
            };
            (id, (u64::from(site), 0), row)
        });
        let stacks = groups.stacks.iter().filter_map(|(key, row)| {
            let id = StackId {
                stack: names.stacks(*key)?,
            };
            Some((id, (u64::from(key.0), u64::from(key.1)), row))
        });
        let callers = callers(names, contention);
        let caller = (0..).zip(&callers).map(|(at, (function, row))| {
            let id = CallerId {
                function: function.clone(),
            };
            (id, (at, 0), row)
        });
        let cut = groups.tasks.is_cut();
        let vmas_cut = groups.vmas.is_cut();
        let stacks_cut = groups.stacks.is_cut();
        Self {
            all: GroupReport::new(names, &groups.all),
            tasks: table(names, tasks, &groups.other_tasks(), cut),
            processes: table(names, process, &no_process, false),
            vmas: table(names, vmas, &groups.other_vmas(), vmas_cut),
            mms: table(names, mm, &no_mm, false),
            sites: table(names, sites, &Summaries::default(), false),
            callers: table(names, caller, groups.other_stacks(), stacks_cut),
            stacks: table(names, stacks, groups.other_stacks(), stacks_cut),
            longest_waits: tops(names, &groups.longest_waits, false),
            longest_holds: tops(names, &groups.longest_holds, true),
            worst_holds: tops(names, &groups.worst_holds, true),
            stray_stacks: groups.stray_stacks,
        }
    }
}

/// The stacks by the function that wanted the lock.
fn callers(names: Names<'_>, contention: &Contention) -> BTreeMap<Option<String>, Summaries> {
    let mut sums: BTreeMap<Option<String>, Summaries> = BTreeMap::new();
    for ((kernel, _), row) in contention.groups.stacks.iter() {
        let stack = names.stacks.get(*kernel);
        let caller = stack
            .and_then(places::caller)
            .map(|name| outside::plain(name).into_owned());
        sums.entry(caller).or_default().merge(row);
    }
    sums
}

fn tops(names: Names<'_>, tops: &[Top; 4], hold: bool) -> BTreeMap<&'static str, Vec<SpanReport>> {
    let one = |&lock: &Lock| {
        let list = tops[lock as usize].list();
        let list: Vec<SpanReport> = list.iter().map(|one| SpanReport::new(names, one, hold)).collect();
        (lock.name(), list)
    };
    Lock::ALL
        .iter()
        .map(one)
        .filter(|(_, list)| !list.is_empty())
        .collect()
}

fn table<'a, K>(
    names: Names<'_>,
    rows: impl Iterator<Item = (K, (u64, u64), &'a Summaries)>,
    others: &Summaries,
    cut: bool,
) -> TableReport<K> {
    let mut rows: Vec<_> = rows.filter(|(_, _, row)| !row.is_empty()).collect();
    rows.sort_by_key(|(_, key, row)| {
        let weight = (row.contention_ns(), row.held_ns());
        (core::cmp::Reverse(weight), *key)
    });
    let mut others = others.clone();
    for (_, _, row) in rows.iter().skip(ROWS) {
        others.merge(row);
        others.merged += 1;
    }
    let one = |(of, _, row): (K, (u64, u64), &Summaries)| RowReport {
        of,
        times: GroupReport::new(names, row),
    };
    TableReport {
        rows: rows.into_iter().take(ROWS).map(one).collect(),
        merged: others.merged,
        others: GroupReport::new(names, &others),
        cut,
    }
}
