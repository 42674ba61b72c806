//! Runs every scenario in `tests/contention/`: events in, chains and statistics of contention out; and random streams,
//! of which all groups must sum up to the engine's totals.
//!
//! Events are written as in `tests/scenarios.rs`; `releases observed` before the first one says that every release of a
//! VMA read lock is seen. Between them, and after the last one:
//!
//! ```text
//! chain t1 mmap_write [t2 mmap_read observed io [...]]    whom t1 waits for at this instant; `ahead`: it came first
//! chain t1 -                                              it waits for nothing
//! cycle t1 t2 derived                                     all who wait for each other now, or `-`; a `deadlock` is old and sure
//! pair t1 mmap_write t2 io 80                             so long, in ns, until now: the waiter, the end of its chain, what that did
//! pairs 2                                                 so many such pairs
//! hold t1 mmap_write 100 idle                             the longest hold of t1, in ns, and nobody waited
//! hold t1 mmap_write 100 contended 2 150                  the same, and 2 waited 150 ns in sum
//! passed 1                                                so many cycles passed
//! stack t1 mmap_write 7                                   the kernel stack of the longest wait of t1
//! why v1 retried=1 mmap_lock=2 ...                        faults on the VMA; after the last event
//! because v1 write_locked=2                               why they ran under the mmap_lock from the start
//! sent_back v1 40=1 anon_vma=2                            where rounds were sent back: site, or that the mmap_lock was tried
//! ```

use std::fmt::Write as _;
use std::path::Path;

use tracer::contention::chains::{Chains, Edge, Why};
use tracer::contention::faults::{FALLBACKS, FaultRow, fallback_name};
use tracer::contention::rows::Row as _;
use tracer::contention::summary::Summaries;
use tracer::contention::{Contention, Limits};
use tracer::info::{SiteInfo, SourceInfo};
use tracer::state::{Engine, Lock, What};
use tracer_common::wire::{Event, Kind, fault, flag};

#[path = "scenarios/fields.rs"]
mod fields;

use fields::{address_of, name_of, parse, set_field};

type Result<T> = std::result::Result<T, String>;

#[test]
fn all_scenarios_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contention");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 10, "scenarios are missing");
    let mut failures = String::new();
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy();
        let mut scenario = Scenario::default();
        for (at, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or("").trim();
            if line.is_empty() {
                continue;
            }
            if let Err(error) = scenario.line(line) {
                let _ = writeln!(failures, "{name}:{}: {error}", at + 1);
                break;
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

#[test]
fn what_is_not_understood_is_refused() {
    let start = "10 mmap_start t1 m1 write";
    for bad in [
        "chain t1",
        "cycle t1 t2 derived",
        "hold t1 mmap_write 7 idle",
        "nonsense",
        "pair t1 x",
    ] {
        let mut scenario = Scenario::default();
        scenario.line(start).unwrap();
        assert!(scenario.line(bad).is_err(), "{bad}");
    }
}

#[derive(Default)]
struct Scenario {
    info: SourceInfo,
    state: Option<(Engine, Contention)>,
    finished: bool,
}

impl Scenario {
    fn line(&mut self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line == "releases observed" {
            self.info.sites.push(SiteInfo {
                operation: "vma_read_release".into(),
                function: "vma_refcount_put".into(),
                provenance: "observed".into(),
                attached: true,
                ..SiteInfo::default()
            });
            return Ok(());
        }
        if line.starts_with(|c: char| c.is_ascii_digit()) {
            return self.event(&words);
        }
        let (engine, contention) = self.state.as_mut().ok_or("no event yet")?;
        if matches!(words[0], "why" | "because" | "sent_back") && !self.finished {
            self.finished = true;
            contention.finish(engine);
        }
        let (found, wanted) = match words.as_slice() {
            ["chain", task, wanted @ ..] => (chain(engine, task)?, wanted.join(" ")),
            ["cycle", wanted @ ..] => (cycles(engine, false), wanted.join(" ")),
            ["deadlock", wanted @ ..] => (cycles(engine, true), wanted.join(" ")),
            ["pair", waiter, wanted, blocker, doing, ns] => {
                let key = format!("{waiter} {wanted} {blocker} {doing}");
                (pair(contention, &key), (*ns).to_owned())
            }
            ["pairs", number] => (
                contention.tracks.pairs.iter().count().to_string(),
                (*number).into(),
            ),
            ["hold", task, lock, wanted @ ..] => (hold(contention, task, lock)?, wanted.join(" ")),
            ["passed", number] => (contention.tracks.cycles.passed.to_string(), (*number).into()),
            ["stack", task, lock, number] => {
                let list = contention.groups.longest_waits[lock_of(lock)? as usize].list();
                let tid = tid_of(task)?;
                let found = list.iter().find(|one| one.who.tid == tid).ok_or("no such wait")?;
                (found.stacks.0.to_string(), (*number).into())
            }
            ["why", vma, wanted @ ..] => (why(&faults(contention, vma)?), wanted.join(" ")),
            ["because", vma, wanted @ ..] => (because(&faults(contention, vma)?), wanted.join(" ")),
            ["sent_back", vma, wanted @ ..] => (sent_back(&faults(contention, vma)?), wanted.join(" ")),
            _ => return Err("not understood".into()),
        };
        if found == wanted {
            Ok(())
        } else {
            Err(format!("{}: found '{found}', expected '{wanted}'", words[0]))
        }
    }

    fn event(&mut self, words: &[&str]) -> Result<()> {
        let [time, kind, fields @ ..] = words else {
            return Err("an event has a time and a kind".into());
        };
        let kind = Kind::from_name(kind).ok_or_else(|| format!("no kind {kind}"))?;
        let mut event = Event::synthetic(kind, parse(time)?);
        event.header.comm[..4].copy_from_slice(b"task");
        for field in fields {
            match (kind, field.split_once('=')) {
                (Kind::Stack, Some(("of", name))) => {
                    event.body.arg = Kind::from_name(name).ok_or("no such kind")? as u32;
                }
                (Kind::Stack, Some(("kernel", number))) => event.body.vma = parse(number)?,
                _ => set_field(&mut event, field)?,
            }
        }
        let info = &self.info;
        let (engine, contention) = self.state.get_or_insert_with(|| {
            let mut engine = Engine::new(info);
            engine.keep_notes();
            (engine, Contention::default())
        });
        engine.apply(&event, &mut |_, _| {});
        contention.observe(engine, &event);
        Ok(())
    }
}

fn tid_of(name: &str) -> Result<u32> {
    parse(name.strip_prefix('t').ok_or("a task is t1")?)
}

fn lock_of(name: &str) -> Result<Lock> {
    let found = Lock::ALL.into_iter().find(|lock| lock.name() == name);
    found.ok_or_else(|| format!("no lock {name}"))
}

fn chain(engine: &Engine, task: &str) -> Result<String> {
    let tid = tid_of(task)?;
    let chains = Chains::of(engine);
    let found = chains.trees.iter().find(|tree| tree.person.tid == tid);
    Ok(found.map_or("-".into(), |tree| {
        format!("{}{}", tree.wait.lock.name(), edges(&tree.blocked_by))
    }))
}

fn edges(all: &[Edge]) -> String {
    let one = |edge: &Edge| {
        let ahead = if edge.why == Why::Ahead { " ahead" } else { "" };
        format!(
            "t{} {}{ahead} {} {}{}",
            edge.person.tid,
            edge.lock.name(),
            edge.certainty.name(),
            edge.doing.name(),
            edges(&edge.next)
        )
    };
    if all.is_empty() {
        return String::new();
    }
    format!(" [{}]", all.iter().map(one).collect::<Vec<_>>().join(", "))
}

fn cycles(engine: &Engine, deadlocks: bool) -> String {
    let chains = Chains::of(engine);
    let found: Vec<String> = chains
        .cycles
        .iter()
        .filter(|cycle| !deadlocks || cycle.is_deadlock(engine.now_ns()))
        .map(|cycle| {
            let tids: Vec<String> = cycle
                .members
                .iter()
                .map(|(one, _)| format!("t{}", one.tid))
                .collect();
            format!("{} {}", tids.join(" "), cycle.certainty.name())
        })
        .collect();
    if found.is_empty() {
        "-".into()
    } else {
        found.join(", ")
    }
}

fn pair(contention: &Contention, wanted: &str) -> String {
    let name = |key: &tracer::contention::tracks::PairKey| {
        let blocker = key.held.map_or("-".into(), |_| format!("t{}", key.blocker_tid));
        format!(
            "t{} {} {blocker} {}",
            key.waiter_tid,
            key.wanted.name(),
            key.doing.name()
        )
    };
    let mut pairs = contention.tracks.pairs.iter();
    match pairs.find(|(key, _)| name(key) == wanted) {
        Some((_, row)) => row.total_ns.to_string(),
        None => {
            let all: Vec<String> = contention.tracks.pairs.iter().map(|(key, _)| name(key)).collect();
            format!("only {}", all.join(", "))
        }
    }
}

fn hold(contention: &Contention, task: &str, lock: &str) -> Result<String> {
    let (tid, lock) = (tid_of(task)?, lock_of(lock)?);
    let list = contention.groups.longest_holds[lock as usize].list();
    let found = list.iter().find(|one| one.who.tid == tid).ok_or("no such hold")?;
    Ok(if found.caused_ns == 0 {
        format!("{} idle", found.ns)
    } else {
        format!("{} contended {} {}", found.ns, found.waiters, found.caused_ns)
    })
}

/// All rows of the VMA with that start; `v0`: those that met none.
fn faults(contention: &Contention, vma: &str) -> Result<FaultRow> {
    let start = address_of(vma)? & 0xffff_ffff;
    let mut sum = FaultRow::default();
    for (_, row) in contention
        .faults
        .vmas
        .iter()
        .filter(|(key, _)| key.vm_start == start)
    {
        sum.merge(row);
    }
    Ok(sum)
}

fn listed(all: impl IntoIterator<Item = (String, u64)>) -> String {
    let all = all.into_iter().filter(|(_, count)| *count > 0);
    all.map(|(name, count)| format!("{name}={count}"))
        .collect::<Vec<_>>()
        .join(" ")
}

fn why(row: &FaultRow) -> String {
    listed(
        [
            ("vma_lock", row.vma_lock),
            ("retried", row.retried),
            ("mmap_lock", row.mmap_lock),
            ("error", row.error),
            ("abandoned", row.abandoned),
            ("failed", row.look_ups_failed()),
            ("alone", row.failed_alone),
        ]
        .map(|(name, count)| (name.to_owned(), count)),
    )
}

fn because(row: &FaultRow) -> String {
    listed((0..FALLBACKS).map(|at| (fallback_name(at).to_owned(), row.fallbacks[at])))
}

fn sent_back(row: &FaultRow) -> String {
    listed(row.causes().map(|(cause, count)| {
        let name = match (cause.mmap_failed, cause.site) {
            (true, _) => "anon_vma".into(),
            (_, Some(site)) => site.to_string(),
            (_, None) => "unseen".into(),
        };
        (name, count)
    }))
}

struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

/// Anything, in any order: what makes no sense has to add up too.
fn random_event(random: &mut Random, ts_ns: u64) -> Event {
    const KINDS: &[Kind] = &[
        Kind::MmapStart,
        Kind::MmapAcquire,
        Kind::MmapRelease,
        Kind::MmapFail,
        Kind::MmapDowngrade,
        Kind::VmaReadAcquire,
        Kind::VmaReadRelease,
        Kind::VmaReadFail,
        Kind::VmaReadRefused,
        Kind::VmaWriteStart,
        Kind::VmaWriteAcquire,
        Kind::VmaDetach,
        Kind::FaultBegin,
        Kind::FaultEnd,
        Kind::SchedOut,
        Kind::SchedIn,
        Kind::SchedWake,
        Kind::Stack,
        Kind::TaskExit,
    ];
    let choice = random.below(200);
    let kind = match usize::try_from(choice).unwrap() {
        0 => Kind::Gap,
        at => KINDS[at % KINDS.len()],
    };
    let mut event = Event::synthetic(kind, ts_ns);
    let task = u32::try_from(random.below(7)).unwrap() + 1;
    event.header.tid = task;
    event.header.pid = task / 3 + 1;
    event.header.site = u32::try_from(random.below(3)).unwrap();
    event.header.flags = flag::MM;
    let vma = random.below(5);
    event.body.mm = 0xffff_8880_0000_0000 + ((vma % 2) << 8);
    match kind {
        Kind::MmapStart | Kind::MmapAcquire | Kind::MmapRelease | Kind::MmapFail | Kind::MmapDowngrade => {
            event.header.flags |= if random.below(2) == 0 { flag::WRITE } else { 0 };
        }
        Kind::Stack => {
            event.body.vma = random.below(4);
            event.body.vm_start = 0;
            event.body.arg = KINDS[usize::try_from(random.below(4)).unwrap()] as u32;
        }
        Kind::SchedWake => {
            event.body.arg = u32::try_from(random.below(7)).unwrap() + 1;
            event.body.vm_refcnt = event.body.arg / 3 + 1;
        }
        Kind::SchedOut => event.body.arg = u32::try_from(random.below(3)).unwrap(),
        Kind::Gap => event.body.arg = 3,
        _ => {
            event.header.flags |= flag::VMA | flag::RANGE;
            event.body.vma = 0xffff_8881_0000_0000 + (vma << 8);
            event.body.vm_start = vma << 12;
            event.body.vm_end = (vma + 1 + random.below(2)) << 12;
        }
    }
    if matches!(kind, Kind::FaultBegin | Kind::FaultEnd) {
        let flags = [fault::FLAG_USER | fault::FLAG_VMA_LOCK, fault::FLAG_USER, 0];
        let results = [0, 0, fault::RESULT_RETRY, 2];
        let flags = flags[usize::try_from(random.below(3)).unwrap()];
        let result = results[usize::try_from(random.below(4)).unwrap()];
        event.body.arg = u32::from(flags) << 16 | u32::from(result);
    }
    if matches!(kind, Kind::VmaReadFail | Kind::VmaReadRefused) {
        event.header.flags &= !flag::RANGE;
        event.body.arg = u32::try_from(random.below(8)).unwrap() << 16;
    }
    event
}

#[test]
fn all_groups_sum_up_to_the_totals() {
    let wide = Limits::default();
    let narrow = Limits {
        tasks: 3,
        processes: 2,
        vmas: 3,
        mms: 2,
        stacks: 2,
        pairs: 2,
        longest: 2,
    };
    for seed in 1..60 {
        for limits in [&wide, &narrow] {
            sums(seed, limits).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
    }
}

fn sums(seed: u64, limits: &Limits) -> Result<()> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
    let info = SourceInfo::default();
    let mut engine = Engine::new(&info);
    engine.keep_notes();
    let mut contention = Contention::with_limits(limits);
    let mut ts_ns = 0;
    for _ in 0..2_000 {
        ts_ns += random.below(1_000);
        let event = random_event(&mut random, ts_ns);
        engine.apply(&event, &mut |_, _| {});
        contention.observe(&engine, &event);
    }
    contention.finish(&engine);
    let groups = &contention.groups;
    let mut tables: Vec<(&str, Summaries)> = Vec::new();
    let mut table = |name, rows: &mut dyn Iterator<Item = &Summaries>, others: Summaries| {
        let mut sum = others;
        for row in rows {
            sum.merge(row);
        }
        tables.push((name, sum));
    };
    table(
        "tasks",
        &mut groups.tasks.iter().map(|(_, row)| &row.all),
        groups.other_tasks(),
    );
    table(
        "vmas",
        &mut groups.vmas.iter().map(|(_, row)| row),
        groups.other_vmas(),
    );
    table("sites", &mut groups.sites.iter(), Summaries::default());
    let (processes, others) = groups.processes();
    table(
        "processes",
        &mut processes.iter().map(|(_, row)| &row.all),
        others,
    );
    let (mms, others) = groups.mms();
    table("mms", &mut mms.iter().map(|(_, row)| row), others);
    let same = |what: &str, found: u64, expected: u64| {
        if found == expected {
            Ok(())
        } else {
            Err(format!("{what}: {found}, and in all {expected}"))
        }
    };
    let mut waited = 0;
    for what in What::ALL {
        for lock in Lock::ALL {
            let of = |all: &Summaries| {
                all.get(what, lock).map_or((0, 0, 0, 0), |one| {
                    (one.count, one.total_ns, one.unknown, one.caused_ns)
                })
            };
            let all = of(&groups.all);
            for (name, sum) in &tables {
                let sum = of(sum);
                if sum != all {
                    return Err(format!(
                        "{name} {what:?} {}: {sum:?}, and in all {all:?}",
                        lock.name()
                    ));
                }
            }
            let totals = engine.totals();
            let known = match what {
                What::Wait => &totals.waits[lock as usize],
                What::Hold => &totals.holds[lock as usize],
                What::GaveUp => {
                    waited += all.1;
                    continue;
                }
            };
            same("count", all.0, known.count())?;
            same("total", all.1, known.total_ns())?;
            if what == What::Wait {
                waited += all.1;
            }
            for per_mille in [500, 900, 990, 999] {
                let percent = f64::from(u32::try_from(per_mille).unwrap()) / 10.0;
                let of = groups
                    .all
                    .get(what, lock)
                    .map_or(0, |one| one.percentile(per_mille));
                same("percentile", of, known.percentile(percent))?;
            }
        }
    }
    let tracks = &contention.tracks;
    let pairs: u64 = tracks.pairs.iter().map(|(_, row)| row.total_ns).sum();
    same(
        "waited",
        pairs + tracks.other_pairs.total_ns + tracks.alone_ns,
        waited,
    )?;
    faults_sum_up(&engine, &contention)
}

fn faults_sum_up(engine: &Engine, contention: &Contention) -> Result<()> {
    let tables = &contention.faults;
    let totals = engine.totals();
    let all = engine.all_tasks();
    let sum = |rows: &mut dyn Iterator<Item = &FaultRow>, others: &FaultRow| {
        let mut sum = others.clone();
        for row in rows {
            sum.merge(row);
        }
        sum
    };
    let processes = sum(
        &mut tables.processes.iter().map(|(_, row)| row),
        tables.other_processes(),
    );
    let vmas = sum(&mut tables.vmas.iter().map(|(_, row)| row), tables.other_vmas());
    if processes.misses != totals.read_misses {
        return Err("misses".into());
    }
    for (name, row) in [("processes", &processes), ("VMAs", &vmas)] {
        let faults = all.faults();
        let found = (row.vma_lock, row.retried, row.mmap_lock, row.error, row.abandoned);
        let wanted = (
            faults.vma_lock,
            faults.retried,
            faults.mmap_lock,
            faults.error,
            faults.abandoned,
        );
        if found != wanted {
            return Err(format!("faults of {name}: {found:?}, and in all {wanted:?}"));
        }
        let found = (row.rounds_done, row.rounds_retried, row.failed);
        let wanted = (totals.vma_rounds_done, totals.vma_rounds_retried, totals.fails);
        if found != wanted {
            return Err(format!("vmstat of {name}: {found:?}, and in all {wanted:?}"));
        }
        let causes: u64 = row.causes().map(|(_, count)| count).sum::<u64>() + row.other_causes;
        if causes != row.rounds_retried || row.fallbacks.iter().sum::<u64>() != row.mmap_lock {
            return Err(format!("reasons of {name} do not add up"));
        }
        assert!(row.weight() >= row.vma_lock);
    }
    Ok(())
}

#[test]
fn names_lead_back() {
    assert_eq!(name_of(address_of("v3").unwrap()), "v3");
}
