//! Runs every scenario in `tests/scenarios/`: events in, state and derived events out.
//!
//! One thing a line; `#` starts a comment. Anything that is not understood fails the test.
//!
//! ```text
//! releases observed            every release of a VMA read lock is seen (else they are derived)
//! only KINDS                  the other kinds were left out in the kernel
//! acquires unseen              some acquires happen at places that are not seen
//! releases unseen              some releases are not seen at their own place
//! source USER 7                site 14 is attached: releases follow from the end of a fault; bound in ns or nothing
//! source LOCKDEP               site 16 is attached: lockdep is a source
//! truth                        lockdep's events are there only to judge the others by
//! get 5 vma_start_read         site 5 is an acquire in that function, seen at its own place
//! put 40 __bad_area            site 40 is a release in that function, seen at its own instruction
//! site 1 lock_next_vma         where events with site=1 come from; a number behind it is their bound in ns
//! limits 2 2 2                 at most so many tasks, VMAs, mms
//! 10 mmap_start t1 m1 write    time, kind, task, then mm, vma and fields in any order
//! 10 task_fork t1 child=5/7 m2 · task_exec t1/1 was=3 m2 · task_exit t1 last
//! 10 sched_out t1 state=2 iowait stacks=3,4 · sched_in t1 · sched_wake t1 woken=5/7
//! 10 stack t1 stacks=3,4 of=mmap_acquire
//! 20 gap cpu=1 missing=3
//! < vma_read_release t1 v1 bounded 5    derived and handed on before the last event; bound in ns or -
//! > vma_read_release t1 v1 derived -    the same, after it
//! since 10 observed -          the last event ended a hold that began then, so surely, with that bound
//! explained write_locked       the last event was handed on with this reason
//! = mmap_downgrade                      the last event was handed on as this kind
//! t1 holds mmap_write(m1)@10/observed vma_read(v1)@?12/bounded    all that it holds; `@?`: start not seen
//! t1 ranges m1:- v1:1000-3000           the ranges of all that it holds
//! t1 waits mmap_read(m1)@5/observed     or `-` for nothing; so below
//! t1 faults vma_lock=1 retried=2        those named, all others are 0
//! t1 run sleeping@10/observed state=2 iowait stacks=3,4    what it does with its processor; `@?`: since then at least
//! t1 exited 10                          when it ended
//! t1 blocked t2:vma_read(v1)@5/observed t3>mmap_write(m1)@6/observed    who is in its way: holds it, or waits ahead
//! v1 readers t1 t2 · v1 writer t1 · v1 awaited t1 · v1 detached yes · v1 range 1000-3000
//! v1 held t1@5/observed                 its readers' holds; `writes` is its writer's
//! m1 readers t1 · m1 writer t1 · m1 waiters t1 t2
//! m1 line t1:mmap_read@5/observed       who waits for it, the longest first
//! count unknown_starts/mmap_read 1
//! anomaly write_of_read_locked 1        all others must not occur
//! account checked 3 · account exact 2 · account concurrent 1 · account too_few 1    at the end; all other reasons: 0
//! ```
//!
//! Derived events must all be named, in order. After every event the books must balance.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use tracer::check::accounting::{Accounting, OpenReason};
use tracer::info::{SiteInfo, SourceInfo, UnseenInfo};
use tracer::state::{AnomalyKind, Blocks, Engine, Held, Limits, Lock, Meta, Run, RunState, Start};
use tracer_common::site;
use tracer_common::wire::{Event, Kind, Provenance, Reason};

#[path = "scenarios/fields.rs"]
mod fields;

use fields::{address_of, is_name, name_of, parse, set_field};

type Result<T> = std::result::Result<T, String>;

#[test]
fn all_scenarios_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "scn"))
        .collect();
    files.sort();
    assert!(files.len() >= 25, "scenarios are missing");
    let mut failures = String::new();
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy();
        if let Err((line, error)) = run(&text) {
            let _ = writeln!(failures, "{name}:{line}: {error}");
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

#[test]
fn what_is_not_understood_is_refused() {
    for bad in [
        "10 mmap_start t1 m1 wriite",
        "10 mmap_begin t1 m1",
        "10 mmap_start m1",
        "ten mmap_start t1 m1",
        "10 fault_begin t1 v1 flags=vma,wrong",
        "t1 keeps -",
        "count something 1",
        "anomaly something 1",
        "anomaly double_read 1",
        "account something 1",
        "10 mmap_start t1 m1\naccount checked 1",
        "10 mmap_start t1 m1\nt1 waits mmap_read(m1)@10",
        "10 mmap_start t1 m1\nt1 waits -",
        "10 fault_end t1 m1 v1 flags=vma",
    ] {
        assert!(run(bad).is_err(), "{bad}");
    }
}

fn run(text: &str) -> std::result::Result<(), (usize, String)> {
    let mut scenario = Scenario::default();
    let mut last = 0;
    for (at, line) in text.lines().enumerate() {
        last = at + 1;
        let line = line.split('#').next().unwrap_or("").trim();
        if !line.is_empty() {
            scenario.line(line).map_err(|error| (last, error))?;
        }
    }
    scenario.finish().map_err(|error| (last, error))
}

#[derive(Default)]
struct Scenario {
    info: SourceInfo,
    limits: Option<Limits>,
    engine: Option<Engine>,
    seq: u32,
    /// What the last event led to: marker and description.
    handed_on: Vec<(char, String)>,
    /// The start of the hold that the last event ended, and the reason that it was handed on with.
    since: Option<Start>,
    reason: Reason,
    expected_anomalies: BTreeMap<String, u64>,
    accounting: Option<Accounting>,
    expected_accounts: BTreeMap<String, u64>,
}

impl Scenario {
    fn line(&mut self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            "releases" | "acquires" | "only" | "site" | "limits" | "source" | "truth" | "put" | "get"
            | "back" => self.set_up(&words),
            "since" => self.expect_since(&words),
            "explained" => same(
                "reason",
                "of it",
                &self.reason.name(),
                &words[1..].join(" ").as_str(),
            ),
            "<" | ">" | "=" => self.expect_event(&words),
            "count" => self.expect_count(&words),
            "anomaly" => self.expect_anomaly(&words),
            "account" => self.expect_account(&words),
            first if first.starts_with(|c: char| c.is_ascii_digit()) => {
                self.all_named()?;
                self.event(&words)
            }
            first if is_name(first, 't') => self.expect_task(&words),
            first if is_name(first, 'v') => self.expect_vma(&words),
            first if is_name(first, 'm') => self.expect_mm(&words),
            first => Err(format!("'{first}' starts no line")),
        }
    }

    fn finish(&mut self) -> Result<()> {
        self.all_named()?;
        let engine = self.engine.as_ref().ok_or("no event")?;
        for kind in AnomalyKind::ALL {
            let found = engine.totals().anomalies[kind as usize];
            let expected = self.expected_anomalies.get(kind.name()).copied().unwrap_or(0);
            same("anomaly", kind.name(), &found, &expected)?;
        }
        let accounting = self.accounting.as_mut().ok_or("no event")?;
        accounting.finish();
        let totals = accounting.totals();
        for (name, expected) in &self.expected_accounts {
            let found = match name.as_str() {
                "checked" => totals.checked,
                "exact" => totals.closed_exact,
                "concurrent" => totals.closed_concurrent,
                _ => continue,
            };
            same("account", name, &found, expected)?;
        }
        for reason in OpenReason::ALL {
            let expected = self.expected_accounts.get(reason.name()).copied().unwrap_or(0);
            let found = totals.open_by_reason[reason as usize];
            if !self.expected_accounts.is_empty() {
                same("account", reason.name(), &found, &expected)?;
            }
        }
        let all = totals.closed_exact + totals.closed_concurrent + totals.open;
        same("account", "sum", &all, &totals.checked)
    }

    fn expect_account(&mut self, words: &[&str]) -> Result<()> {
        let [_, name, number] = words else {
            return Err("an account has a name and a number".into());
        };
        let known = ["checked", "exact", "concurrent"].contains(name)
            || OpenReason::ALL.iter().any(|reason| reason.name() == *name);
        if !known {
            return Err(format!("no account {name}"));
        }
        self.expected_accounts.insert((*name).into(), parse(number)?);
        Ok(())
    }

    fn set_up(&mut self, words: &[&str]) -> Result<()> {
        if self.engine.is_some() {
            return Err("comes after the first event".into());
        }
        match words {
            ["releases", "observed"] => {
                self.info.sites.push(SiteInfo {
                    operation: "vma_read_release".into(),
                    function: "vma_refcount_put".into(),
                    provenance: "observed".into(),
                    attached: true,
                    ..SiteInfo::default()
                });
            }
            ["acquires", "unseen"] => self.info.unseen.push(UnseenInfo {
                operation: "vma_read_acquire".into(),
                ..UnseenInfo::default()
            }),
            ["releases", "unseen"] => self.info.unseen.push(UnseenInfo {
                operation: "vma_read_release".into(),
                ..UnseenInfo::default()
            }),
            ["source", name, bound @ ..] => {
                let at = match *name {
                    "USER" => site::USER,
                    "LOCKDEP" => site::LOCKDEP,
                    _ => return Err(format!("no source {name}")),
                };
                let operation = if at == site::USER {
                    "vma_read_release"
                } else {
                    "lockdep_acquire"
                };
                self.attach(at as usize, operation, "")?;
                if let [ns] = bound {
                    self.info.sites[at as usize].bound_ns = Some(parse(ns)?);
                }
            }
            ["put", number, function] => self.attach(parse(number)?, "vma_read_release", function)?,
            ["back", number, function] => self.attach(parse(number)?, "vma_read_temporary", function)?,
            ["get", number, function] => self.attach(parse(number)?, "vma_read_acquire", function)?,
            ["truth"] => self.info.truth = true,
            ["only", kinds] => self.info.filters.push(format!("--only {kinds}")),
            ["site", number, function, bound @ ..] => {
                let at: usize = parse(number)?;
                if at >= self.info.sites.len() {
                    let observed = SiteInfo {
                        provenance: "observed".into(),
                        ..SiteInfo::default()
                    };
                    self.info.sites.resize(at + 1, observed);
                }
                self.info.sites[at].function = (*function).into();
                self.info.sites[at].bound_ns = match bound {
                    [] => None,
                    [ns] => Some(parse(ns)?),
                    _ => return Err("one bound at most".into()),
                };
            }
            ["limits", tasks, vmas, mms] => {
                self.limits = Some(Limits {
                    tasks: parse(tasks)?,
                    vmas: parse(vmas)?,
                    mms: parse(mms)?,
                });
            }
            _ => return Err("not understood".into()),
        }
        Ok(())
    }

    fn attach(&mut self, at: usize, operation: &str, function: &str) -> Result<()> {
        if at >= self.info.sites.len() {
            let observed = SiteInfo {
                provenance: "observed".into(),
                ..SiteInfo::default()
            };
            self.info.sites.resize(at + 1, observed);
        }
        let site = &mut self.info.sites[at];
        if site.attached {
            return Err(format!("site {at} is there already"));
        }
        site.attached = true;
        site.operation = operation.into();
        site.function = function.into();
        Ok(())
    }

    fn event(&mut self, words: &[&str]) -> Result<()> {
        let [time, kind, fields @ ..] = words else {
            return Err("an event has a time and a kind".into());
        };
        let kind = Kind::from_name(kind).ok_or_else(|| format!("no kind {kind}"))?;
        let mut event = Event::synthetic(kind, parse(time)?);
        event.header.seq = self.seq;
        self.seq += 1;
        event.header.comm[..4].copy_from_slice(b"task");
        for field in fields {
            set_field(&mut event, field)?;
        }
        if kind != Kind::Gap && event.header.tid == 0 {
            return Err("an event has a task".into());
        }
        let engine = self
            .engine
            .get_or_insert_with(|| Engine::with_limits(&self.info, self.limits.unwrap_or_default()));
        let accounting = self.accounting.get_or_insert_with(|| Accounting::new(&self.info));
        let handed_on = &mut self.handed_on;
        handed_on.clear();
        let mut own = 0;
        let (since, reason) = (&mut self.since, &mut self.reason);
        engine.apply(&event, &mut |out, meta| {
            if meta.derived {
                accounting.derived(out, meta);
                let place = if own == 0 { '<' } else { '>' };
                handed_on.push((place, describe(out, meta)));
                assert_eq!(
                    (out.header.cpu, out.header.seq),
                    (event.header.cpu, event.header.seq)
                );
                assert_eq!(out.provenance(), meta.provenance);
            } else {
                own += 1;
                *since = meta.hold;
                *reason = out.reason();
                if out.kind != event.kind {
                    handed_on.push(('=', out.kind.name().into()));
                }
            }
        });
        accounting.observe(engine, &event);
        if own != 1 {
            return Err(format!("the event itself was handed on {own} times"));
        }
        check_books(engine)
    }

    fn all_named(&self) -> Result<()> {
        match self.handed_on.first() {
            Some((marker, text)) => Err(format!("not expected by the lines above: {marker} {text}")),
            None => Ok(()),
        }
    }

    fn expect_event(&mut self, words: &[&str]) -> Result<()> {
        let wanted = words.join(" ");
        if self.handed_on.is_empty() {
            return Err("nothing was derived here".into());
        }
        let (marker, text) = self.handed_on.remove(0);
        same("derived", "event", &format!("{marker} {text}"), &wanted)
    }

    fn expect_since(&mut self, words: &[&str]) -> Result<()> {
        let found = self.since.map_or("-".into(), |start| {
            let bound = start.bound_ns.map_or("-".into(), |ns| ns.to_string());
            format!("{} {} {bound}", start.since_ns, start.provenance.name())
        });
        same("held", "since", &found, &words[1..].join(" "))
    }

    fn expect_task(&mut self, words: &[&str]) -> Result<()> {
        let engine = self.engine.as_ref().ok_or("no event yet")?;
        let tid: u32 = parse(&words[0][1..])?;
        let view = engine.tasks().find(|view| view.task().tid == tid);
        let [_, what, values @ ..] = words else {
            return Err("what of it?".into());
        };
        let found: Vec<String> = match *what {
            "holds" => view
                .iter()
                .flat_map(tracer::state::TaskView::holds)
                .map(|hold| {
                    let start = if hold.start_known { "" } else { "?" };
                    let lock = lock_name(hold.lock, hold.mm, hold.vma);
                    format!("{lock}@{start}{}/{}", hold.since_ns, hold.certainty.name())
                })
                .collect(),
            "waits" => view
                .iter()
                .flat_map(tracer::state::TaskView::waits)
                .map(|wait| {
                    let lock = lock_name(wait.lock, wait.mm, wait.vma);
                    format!("{lock}@{}/{}", wait.since_ns, wait.certainty.name())
                })
                .collect(),
            "faults" => {
                let faults = view.map(|view| view.task().counters.faults()).unwrap_or_default();
                [
                    ("vma_lock", faults.vma_lock),
                    ("retried", faults.retried),
                    ("mmap_lock", faults.mmap_lock),
                    ("error", faults.error),
                    ("abandoned", faults.abandoned),
                ]
                .iter()
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| format!("{name}={count}"))
                .collect()
            }
            "ranges" => view
                .iter()
                .flat_map(tracer::state::TaskView::holds)
                .map(|hold| {
                    let name = name_of(if hold.vma == 0 { hold.mm } else { hold.vma });
                    match hold.vm_end {
                        0 => format!("{name}:-"),
                        _ => format!("{name}:{:x}-{:x}", hold.vm_start, hold.vm_end),
                    }
                })
                .collect(),
            "run" => view.iter().flat_map(|view| run_words(view.run())).collect(),
            "exited" => view
                .and_then(|view| view.exited_ns())
                .map(|ns| ns.to_string())
                .into_iter()
                .collect(),
            "blocked" => view
                .iter()
                .flat_map(tracer::state::TaskView::blockers)
                .map(|blocker| {
                    let (how, lock, mm, vma, since_ns) = match blocker.why {
                        Blocks::Holds(hold) => (':', hold.lock, hold.mm, hold.vma, hold.since_ns),
                        Blocks::Ahead(wait) => ('>', wait.lock, wait.mm, wait.vma, wait.since_ns),
                    };
                    let lock = lock_name(lock, mm, vma);
                    format!(
                        "t{}{how}{lock}@{since_ns}/{}",
                        blocker.tid,
                        blocker.certainty().name()
                    )
                })
                .collect(),
            _ => return Err(format!("a task has no {what}")),
        };
        same(words[0], what, &or_dash(&found), &values.join(" "))
    }

    fn expect_vma(&mut self, words: &[&str]) -> Result<()> {
        let engine = self.engine.as_ref().ok_or("no event yet")?;
        let address = address_of(words[0])?;
        let view = engine.vmas().find(|view| view.address == address);
        let [_, what, values @ ..] = words else {
            return Err("what of it?".into());
        };
        let found = match (*what, &view) {
            ("readers" | "writer" | "awaited" | "detached" | "held" | "writes" | "range", None) => "?".into(),
            ("readers", Some(view)) => tids(view.readers()),
            ("held", Some(view)) => or_dash(
                &view
                    .readers_held()
                    .map(|held| held_word(&held))
                    .collect::<Vec<_>>(),
            ),
            ("writes", Some(view)) => or_dash(&view.writer_held().iter().map(held_word).collect::<Vec<_>>()),
            ("range", Some(view)) => format!("{:x}-{:x}", view.vma().vm_start, view.vma().vm_end),
            ("writer", Some(view)) => tids(view.writer()),
            ("awaited", Some(view)) => tids(view.waiting_writer()),
            ("detached", Some(view)) => if view.vma().detached { "yes" } else { "no" }.into(),
            _ => return Err(format!("a VMA has no {what}")),
        };
        same(words[0], what, &found, &values.join(" "))
    }

    fn expect_mm(&mut self, words: &[&str]) -> Result<()> {
        let engine = self.engine.as_ref().ok_or("no event yet")?;
        let address = address_of(words[0])?;
        let view = engine.mms().find(|view| view.address == address);
        let [_, what, values @ ..] = words else {
            return Err("what of it?".into());
        };
        let found = match (*what, &view) {
            ("readers" | "writer" | "waiters" | "line" | "pid", None) => "?".into(),
            ("readers", Some(view)) => tids(view.readers()),
            ("pid", Some(view)) => view.mm().pid.to_string(),
            ("line", Some(view)) => {
                let words = view.waiting().map(|waiting| {
                    let wait = waiting.wait;
                    let lock = wait.lock.name();
                    format!(
                        "t{}:{lock}@{}/{}",
                        waiting.tid,
                        wait.since_ns,
                        wait.certainty.name()
                    )
                });
                or_dash(&words.collect::<Vec<_>>())
            }
            ("writer", Some(view)) => tids(view.writer()),
            ("waiters", Some(view)) => tids(view.waiters()),
            _ => return Err(format!("an address space has no {what}")),
        };
        same(words[0], what, &found, &values.join(" "))
    }

    fn expect_count(&mut self, words: &[&str]) -> Result<()> {
        let engine = self.engine.as_ref().ok_or("no event yet")?;
        let [_, name, number] = words else {
            return Err("a count has a name and a number".into());
        };
        let totals = engine.totals();
        let aged = engine.aged();
        let found = match name.split_once('/') {
            Some((name, lock)) => {
                let lock = Lock::ALL
                    .iter()
                    .find(|known| known.name() == lock)
                    .ok_or_else(|| format!("no lock {lock}"))?;
                let at = *lock as usize;
                let books = &totals.balance[at];
                match name {
                    "acquires" => books.acquires,
                    "holds_observed" => totals.holds_by[at][Provenance::Observed as usize],
                    "holds_derived" => totals.holds_by[at][Provenance::Derived as usize],
                    "holds_bounded" => totals.holds_by[at][Provenance::Bounded as usize],
                    "releases_observed" => totals.releases_by[at][Provenance::Observed as usize],
                    "releases_derived" => totals.releases_by[at][Provenance::Derived as usize],
                    "releases_bounded" => totals.releases_by[at][Provenance::Bounded as usize],
                    "unknown_starts" => books.unknown_starts,
                    "releases" => books.releases,
                    "lost" => books.lost,
                    "waits" => totals.waits[at].count(),
                    "waits_unknown" => totals.waits_unknown[at],
                    "wait_max" => totals.waits[at].max_ns(),
                    "holds" => totals.holds[at].count(),
                    "holds_unknown" => totals.holds_unknown[at],
                    "hold_max" => totals.holds[at].max_ns(),
                    _ => return Err(format!("no count {name}")),
                }
            }
            None => match *name {
                "gaps" => totals.gaps,
                "missing" => totals.missing,
                "derived" => totals.derived,
                "temporary_reads" => totals.temporary_reads,
                "coverage_holes" => totals.coverage_holes,
                "echoes" => totals.echoes,
                "failed_unknown" => totals.fails[Reason::Unknown as usize],
                "failed_write_locked" => totals.fails[Reason::WriteLocked as usize],
                "failed_detached" => totals.fails[Reason::Detached as usize],
                "refused_detached" => totals.refused[Reason::Detached as usize],
                "non_owner_releases" => totals.non_owner_releases,
                "recycled_mms" => totals.recycled_mms,
                "recycled_vmas" => totals.recycled_vmas,
                "reused_tids" => totals.reused_tids,
                "read_fails" => totals.read_fails,
                "read_misses" => totals.read_misses,
                "rounds_done" => totals.vma_rounds_done,
                "rounds_retried" => totals.vma_rounds_retried,
                "aged_tasks" => aged.tasks.0,
                "aged_vmas" => aged.vmas.0,
                "aged_mms" => aged.mms.0,
                _ => return Err(format!("no count {name}")),
            },
        };
        same("count", name, &found, &parse(number)?)
    }

    fn expect_anomaly(&mut self, words: &[&str]) -> Result<()> {
        let [_, name, number] = words else {
            return Err("an anomaly has a name and a number".into());
        };
        if !AnomalyKind::ALL.iter().any(|kind| kind.name() == *name) {
            return Err(format!("no anomaly {name}"));
        }
        self.expected_anomalies.insert((*name).into(), parse(number)?);
        Ok(())
    }
}

fn describe(event: &Event, meta: &Meta) -> String {
    let bound = meta.bound_ns.map_or("-".into(), |ns| ns.to_string());
    let vma = event
        .vma()
        .map_or(String::new(), |vma| format!(" {}", name_of(vma)));
    format!(
        "{} t{}{vma} {} {bound}",
        event.kind.name(),
        event.header.tid,
        meta.provenance.name()
    )
}

/// What was taken was given back, is held or is known to be lost; and both sides of every hold agree.
fn check_books(engine: &Engine) -> Result<()> {
    let held = engine.held();
    for lock in Lock::ALL {
        let totals = engine.totals();
        let books = &totals.balance[lock as usize];
        let by = |counts: &[[u64; 4]; 4]| counts[lock as usize].iter().sum::<u64>();
        same(
            "acquires by provenance of",
            lock.name(),
            &by(&totals.acquires_by),
            &books.acquires,
        )?;
        same(
            "releases by provenance of",
            lock.name(),
            &by(&totals.releases_by),
            &books.releases,
        )?;
        let holds = totals.holds[lock as usize].count() + totals.holds_unknown[lock as usize];
        same(
            "holds by provenance of",
            lock.name(),
            &by(&totals.holds_by),
            &holds,
        )?;
        let came = books.acquires + books.unknown_starts + books.converted_in;
        let went = books.releases + books.converted_out + books.lost + held[lock as usize];
        same("books of", lock.name(), &came, &went)?;
    }
    engine.audit()?;
    for view in engine.vmas() {
        for tid in view.readers() {
            let task = engine.tasks().find(|task| task.task().tid == tid);
            let holds = task.is_some_and(|task| task.holds().any(|hold| hold.vma == view.address));
            if !holds {
                return Err(format!(
                    "t{tid} reads {} and does not know",
                    name_of(view.address)
                ));
            }
        }
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Display>(what: &str, of: &str, found: &T, expected: &T) -> Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what} {of}: found '{found}', expected '{expected}'"))
    }
}

fn lock_name(lock: Lock, mm: u64, vma: u64) -> String {
    format!("{}({})", lock.name(), name_of(if vma == 0 { mm } else { vma }))
}

fn held_word(held: &Held) -> String {
    format!(
        "t{}@{}/{}",
        held.tid,
        held.hold.since_ns,
        held.hold.certainty.name()
    )
}

fn run_words(run: Run) -> Vec<String> {
    if run.state == RunState::Unknown {
        return vec!["unknown".into()];
    }
    let since = if run.since_known { "" } else { "?" };
    let mut words = vec![format!(
        "{}@{since}{}/{}",
        run.state.name(),
        run.since_ns,
        run.certainty.name()
    )];
    if run.state == RunState::Sleeping {
        words.push(format!("state={}", run.task_state));
    }
    for (is, name) in [
        (run.iowait, "iowait"),
        (run.reclaim, "reclaim"),
        (run.preempted, "preempted"),
    ] {
        words.extend(is.then(|| name.to_owned()));
    }
    if run.state != RunState::Running && (run.kernel_stack, run.user_stack) != (0, 0) {
        words.push(format!("stacks={},{}", run.kernel_stack, run.user_stack));
    }
    words
}

fn tids(tids: impl IntoIterator<Item = u32>) -> String {
    or_dash(&tids.into_iter().map(|tid| format!("t{tid}")).collect::<Vec<_>>())
}

fn or_dash(words: &[String]) -> String {
    if words.is_empty() {
        "-".into()
    } else {
        words.join(" ")
    }
}
