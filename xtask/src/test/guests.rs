//! The frame for tests on real kernels: boots guests, two at a time, and checks what came of them.
//!
//! A [`Scenario`] boots one guest on each of its kernels and gathers [`Evidence`]; its checks then look at that.
//! Each check counts as one test, named `vm/KERNEL/SCENARIO/CHECK`.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::report::Report;
use super::{
    accuracy_checks, check_checks, contention_checks, cost_checks, dist_checks, doctor_checks, filter_checks,
    modes_checks, provoke_checks, sched_checks, screen_checks, tracer_checks, truth_checks, vm_checks,
    watch_checks,
};
use crate::kernels::{self, FAMILIES, Kernel, ORACLE};
use crate::vm::{Guest, Outcome, Tools};
use crate::{ui, ws};

/// Most of a boot keeps one processor busy.
const AT_ONCE: usize = 2;

/// Which kernels a scenario runs on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum On {
    /// All of them, the oracle too.
    All,
    /// These, by short name.
    These(&'static [&'static str]),
}

/// One check of what came of a guest.
pub(crate) type Check = (&'static str, fn(&Evidence) -> Result<()>);

/// One guest on each of some kernels, and what is checked about it.
pub(crate) struct Scenario {
    /// Its name: a word.
    pub(crate) name: &'static str,
    /// Where it runs.
    pub(crate) on: On,
    /// Boots the guest. It may set the guest up as it likes; an error fails every check.
    pub(crate) boot: fn(&Ctx) -> Result<Outcome>,
    /// The checks, each named by a word.
    pub(crate) checks: &'static [Check],
}

/// What a scenario has to boot with.
pub(crate) struct Ctx {
    /// Short name of the kernel.
    pub(crate) name: &'static str,
    /// The kernel.
    pub(crate) kernel: Kernel,
    tools: Arc<Tools>,
    scratch: ws::Scratch,
    sites: PathBuf,
}

/// Where tracer remembers, in a guest, the instructions that it found in the kernel's text.
const REMEMBERED: &str = "/root/.cache/tracer";
/// Where a guest leaves that in `/out` for those that boot the same kernel later: emulated, the search takes seconds.
pub(crate) const SITES_OUT: &str = "sites";

impl Ctx {
    /// A guest with the defaults, whose `/out` is kept for the checks.
    pub(crate) fn guest(&self) -> Guest {
        let mut guest = Guest::new(self.kernel.clone(), Arc::clone(&self.tools));
        guest.out = Some(self.out());
        // Beside other work on the machine each of these may take several times as long.
        guest.timeout = Duration::from_secs(300);
        if self.sites.is_dir() {
            guest.adds.push((self.sites.clone(), REMEMBERED.to_owned()));
        }
        guest
    }

    /// A program that guests have in PATH; it is static, so it runs here, too.
    pub(crate) fn program(&self, name: &str) -> Result<&Path> {
        let found = self.tools.programs.iter().find(|(known, _)| *known == name);
        Ok(&found.with_context(|| format!("guests have no {name}"))?.1)
    }

    /// The folder that gets the guest's `/out`.
    pub(crate) fn out(&self) -> PathBuf {
        self.scratch.path().join("out")
    }

    /// A folder for what the scenario itself makes, such as files to add. It goes when the checks are done.
    pub(crate) fn scratch(&self) -> &Path {
        self.scratch.path()
    }
}

/// What a kernel says when its processors stand still for a while, as emulated ones do on a busy machine. It says
/// nothing of what ran there; anything else counts.
const OF_TIME: &[&str] = &[
    "clocksource: ",
    "hrtimer: interrupt took",
    "perf: interrupt took too long",
    "sched: DL replenish lagged too much",
    "hogged CPU for >",
    "timekeeping watchdog",
    "TSC found unstable",
];

/// What came of a guest.
pub(crate) struct Evidence {
    /// How it was booted.
    pub(crate) ctx: Ctx,
    /// What it said.
    pub(crate) outcome: Outcome,
}

impl Evidence {
    /// A file that the guest left in `/out`.
    pub(crate) fn out(&self, path: &str) -> Result<Vec<u8>> {
        let file = self.ctx.out().join(path);
        std::fs::read(&file).with_context(|| format!("the guest left no /out/{path}\n{}", self.story()))
    }

    /// The same as text.
    pub(crate) fn out_text(&self, path: &str) -> Result<String> {
        String::from_utf8(self.out(path)?).with_context(|| format!("/out/{path}"))
    }

    /// The guest's command ended with 0.
    pub(crate) fn succeeded(&self) -> Result<()> {
        ensure!(
            self.outcome.status == 0,
            "the command ended with {}\n{}",
            self.outcome.status,
            self.story()
        );
        Ok(())
    }

    /// The kernel complained about nothing while the command ran, save about time itself.
    pub(crate) fn kernel_is_content(&self) -> Result<()> {
        self.kernel_is_content_but_for(&[])
    }

    /// The same, and what has any of these words in it is no complaint about us.
    pub(crate) fn kernel_is_content_but_for(&self, words: &[&str]) -> Result<()> {
        let known = |line: &str| OF_TIME.iter().chain(words).any(|word| line.contains(word));
        let warnings: Vec<&str> = self
            .outcome
            .kernel_warnings
            .iter()
            .map(String::as_str)
            .filter(|line| !known(line))
            .collect();
        ensure!(
            warnings.is_empty(),
            "the kernel complained:\n{}",
            warnings.join("\n")
        );
        Ok(())
    }

    /// What a person wants to see when a check fails.
    pub(crate) fn story(&self) -> String {
        let end = |bytes: &[u8]| {
            let text = crate::vm::plain(&String::from_utf8_lossy(bytes));
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(20)..].join("\n")
        };
        let outcome = &self.outcome;
        let mut story = format!(
            "guest {}: status {}\nend of its stdout:\n{}\nend of its stderr:\n{}",
            self.ctx.name,
            outcome.status,
            end(&outcome.stdout),
            end(&outcome.stderr)
        );
        // Where the scripts put what the recorder said, and where each task was when something hung.
        if let Ok(said) = std::fs::read(self.ctx.out().join("err"))
            && !said.is_empty()
        {
            story.push_str("\nend of /out/err:\n");
            story.push_str(&end(&said));
        }
        if let Ok(said) = std::fs::read(self.ctx.out().join("hang")) {
            story.push_str("\n/out/hang:\n");
            story.push_str(&crate::vm::plain(&String::from_utf8_lossy(&said)));
        }
        for more in outcome
            .trouble()
            .iter()
            .chain(&outcome.notes)
            .chain(&outcome.kernel_warnings)
        {
            story.push('\n');
            story.push_str(more);
        }
        story
    }
}

/// One guest to boot.
struct Job {
    scenario: &'static Scenario,
    kernel: &'static str,
    checks: Vec<&'static Check>,
}

/// Checks that may not fail a single time, even where the guest's command did not end well: what they find is a fault of the
/// program or of the kernel, however busy the machine is.
///
/// Where the command did end well, no check may: what it left is there, and wrong. Only where it did not, so that there is
/// nothing to judge by, the others are made again in a guest of their own, since emulated processors stand still for as long as
/// the machine likes; if they are well then, they have passed, and are told as unsteady at the end.
const NEVER: &[&str] = &[
    "kernel-is-content",
    "finds-no-violation",
    "held-sets-are-equal",
    "no-probe-left",
    "nobody-panics",
    "the-truth-is-lockdeps-where-it-is",
];
/// More scenarios than this are not made again: so many are no accident.
const AGAIN_AT_MOST: usize = 6;

/// A scenario that did not go well, and how each of its checks failed.
struct Failed {
    job: Job,
    failures: Vec<String>,
    took: Duration,
}

fn jobs(only: &str) -> Vec<Job> {
    // Stock kernels first: building the oracle takes long, and what else is wrong shall show before.
    let all = FAMILIES.iter().map(|(name, _)| *name).chain([ORACLE]);
    let mut jobs = Vec::new();
    for kernel in all {
        // The longest first: what is long and comes last leaves a processor without work.
        let scenarios = accuracy_checks::SCENARIOS
            .iter()
            .chain(provoke_checks::SCENARIOS)
            .chain(screen_checks::SCENARIOS)
            .chain(cost_checks::SCENARIOS)
            .chain(tracer_checks::SCENARIOS)
            .chain(truth_checks::SCENARIOS)
            .chain(filter_checks::SCENARIOS)
            .chain(modes_checks::SCENARIOS)
            .chain(watch_checks::SCENARIOS)
            .chain(sched_checks::SCENARIOS)
            .chain(contention_checks::SCENARIOS)
            .chain(doctor_checks::SCENARIOS)
            .chain(check_checks::SCENARIOS)
            .chain(dist_checks::SCENARIOS)
            .chain(vm_checks::SCENARIOS);
        for scenario in scenarios {
            let runs = match scenario.on {
                On::All => true,
                On::These(names) => names.contains(&kernel),
            };
            let chosen = |check: &&Check| title(kernel, scenario, check.0).contains(only);
            let checks: Vec<_> = scenario.checks.iter().filter(chosen).collect();
            if runs && !checks.is_empty() {
                jobs.push(Job {
                    scenario,
                    kernel,
                    checks,
                });
            }
        }
    }
    jobs
}

fn title(kernel: &str, scenario: &Scenario, check: &str) -> String {
    format!("vm/{kernel}/{}/{check}", scenario.name)
}

/// The names of all checks that contain `only`.
pub(crate) fn names(only: &str) -> Vec<String> {
    let jobs = jobs(only);
    jobs.iter()
        .flat_map(|job| job.checks.iter().map(|c| title(job.kernel, job.scenario, c.0)))
        .collect()
}

/// Boots what there is to boot and checks it.
pub(crate) fn run(report: &Report, only: &str) {
    let jobs = jobs(only);
    if jobs.is_empty() {
        let failure = format!("no check's name contains {only:?}; `cargo xtask test --list` shows them");
        report.result("virtual machines", None, Err(failure), "cargo xtask test --list");
        return;
    }
    let start = Instant::now();
    let tools = match Tools::get(true) {
        Ok(tools) => tools,
        Err(error) => {
            let failure = format!("{error:#}");
            for job in &jobs {
                fail_all(report, job, &failure, start.elapsed());
            }
            return;
        }
    };
    let (oracle, stock): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.kernel == ORACLE);
    let sites = match ws::Scratch::new(None) {
        Ok(sites) => sites,
        Err(error) => {
            let failure = Err(format!("{error:#}"));
            return report.result("virtual machines", None, failure, "cargo xtask test");
        }
    };
    for jobs in [stock, oracle] {
        boot_all(report, jobs, &tools, sites.path());
    }
}

fn boot_all(report: &Report, jobs: Vec<Job>, tools: &Arc<Tools>, sites: &Path) {
    let mut got: BTreeMap<&'static str, Result<Kernel, String>> = BTreeMap::new();
    for job in &jobs {
        got.entry(job.kernel)
            .or_insert_with(|| kernels::get(job.kernel).map_err(|e| format!("{e:#}")));
    }
    let total = jobs.len();
    let running = Arc::new(Mutex::new(Running::default()));
    let shown = Arc::clone(&running);
    let _progress = ui::Progress::watch("real kernels", move || {
        let running = lock(&shown);
        format!(
            "{} of {total} guests done; now {}",
            running.done,
            running.now.join(", ")
        )
    });
    let failed = at_once(jobs, |job| {
        let label = format!("{} {}", job.kernel, job.scenario.name);
        lock(&running).now.push(label.clone());
        let bad = match &got[job.kernel] {
            Ok(kernel) => boot_one(report, &job, kernel, tools, &sites.join(job.kernel)),
            Err(failure) => {
                fail_all(report, &job, failure, Duration::ZERO);
                None
            }
        };
        let mut running = lock(&running);
        running.now.retain(|l| *l != label);
        running.done += 1;
        bad
    });
    for (n, bad) in failed.into_iter().enumerate() {
        let label = format!("{} {}", bad.job.kernel, bad.job.scenario.name);
        match &got[bad.job.kernel] {
            Ok(kernel) if n < AGAIN_AT_MOST => {
                lock(&running).now.push(format!("{label} again"));
                boot_again(report, &bad, kernel, tools, &sites.join(bad.job.kernel));
                lock(&running).now.clear();
            }
            _ => {
                for (check, failure) in bad.job.checks.iter().zip(&bad.failures) {
                    let title = title(bad.job.kernel, bad.job.scenario, check.0);
                    let failure = format!("{failure}\n(not made again: {n} others failed before it)");
                    report.result(&title, Some(bad.took), Err(failure), &rerun(&title));
                }
            }
        }
    }
}

/// Does all of it, [`AT_ONCE`] at a time, and gives what came of it.
fn at_once<J: Send, R: Send>(jobs: Vec<J>, work: impl Fn(J) -> Option<R> + Sync) -> Vec<R> {
    let queue = Mutex::new(VecDeque::from(jobs));
    let results = Mutex::new(Vec::new());
    let next = || lock(&queue).pop_front();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(job) = next() {
                    // In one line with what follows, the lock would be held at work, and nobody else could be.
                    let result = work(job);
                    lock(&results).extend(result);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// What the progress line shows.
#[derive(Debug, Default)]
struct Running {
    now: Vec<String>,
    done: usize,
}

/// A thread that panicked while it held a lock has left nothing half done in these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Boots a guest and tells what its checks say; those that failed and may be made again are handed back.
fn boot_one(report: &Report, job: &Job, kernel: &Kernel, tools: &Arc<Tools>, sites: &Path) -> Option<Failed> {
    let start = Instant::now();
    let (ended_well, verdicts) = verdicts(job, kernel, tools, sites);
    let took = start.elapsed();
    let mut checks = Vec::new();
    let mut failures = Vec::new();
    for (check, verdict) in job.checks.iter().zip(verdicts) {
        let title = title(job.kernel, job.scenario, check.0);
        match verdict {
            Err(failure) if !ended_well && !NEVER.contains(&check.0) => {
                ui::line(&format!("again  {title} ({}) failed once", ui::elapsed(took)));
                checks.push(*check);
                failures.push(failure);
            }
            verdict => report.result(&title, Some(took), verdict, &rerun(&title)),
        }
    }
    let job = Job {
        scenario: job.scenario,
        kernel: job.kernel,
        checks,
    };
    (!failures.is_empty()).then_some(Failed { job, failures, took })
}

/// The second run of what failed. It is alone on the machine.
fn boot_again(report: &Report, bad: &Failed, kernel: &Kernel, tools: &Arc<Tools>, sites: &Path) {
    let start = Instant::now();
    let (_, verdicts) = verdicts(&bad.job, kernel, tools, sites);
    let took = start.elapsed();
    for ((check, first), second) in bad.job.checks.iter().zip(&bad.failures).zip(verdicts) {
        let title = title(bad.job.kernel, bad.job.scenario, check.0);
        report.again(&title, took, first, second, &rerun(&title));
    }
}

/// Whether a guest's command ended well, and what each check says of it.
fn verdicts(job: &Job, kernel: &Kernel, tools: &Arc<Tools>, sites: &Path) -> (bool, Vec<Result<(), String>>) {
    let mut booted = contained(|| boot(job, kernel, tools, sites));
    if let Ok(evidence) = &booted
        && evidence.outcome.never_came_up()
    {
        // So even what may never fail is looked at in another guest.
        let trouble = evidence.outcome.trouble().unwrap_or_default();
        ui::line(&format!(
            "again  vm/{}/{}: {}",
            job.kernel,
            job.scenario.name,
            trouble.lines().next().unwrap_or_default()
        ));
        booted = contained(|| boot(job, kernel, tools, sites));
    }
    match booted {
        Ok(evidence) => {
            let judge =
                |check: &&'static Check| contained(|| (check.1)(&evidence)).map_err(|e| format!("{e:#}"));
            let verdicts = job.checks.iter().map(judge).collect();
            (evidence.outcome.status == 0, verdicts)
        }
        Err(error) => (false, vec![Err(format!("{error:#}")); job.checks.len()]),
    }
}

/// A check that panics has failed, and the others go on.
fn contained<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or_default();
        bail!("it panicked: {said}")
    })
}

fn boot(job: &Job, kernel: &Kernel, tools: &Arc<Tools>, sites: &Path) -> Result<Evidence> {
    let ctx = Ctx {
        name: job.kernel,
        kernel: kernel.clone(),
        tools: Arc::clone(tools),
        scratch: ws::Scratch::new(None)?,
        sites: sites.to_owned(),
    };
    std::fs::create_dir(ctx.out()).with_context(|| format!("creating {}", ctx.out().display()))?;
    let outcome = (job.scenario.boot)(&ctx)?;
    let found = ctx.out().join(SITES_OUT);
    if found.is_dir() {
        // In one step, since another guest may be packed right now. If somebody else was first, that does as well.
        let _ = std::fs::rename(&found, sites);
    }
    Ok(Evidence { ctx, outcome })
}

fn fail_all(report: &Report, job: &Job, failure: &str, took: Duration) {
    for (name, _) in &job.checks {
        let title = title(job.kernel, job.scenario, name);
        report.result(&title, Some(took), Err(failure.to_owned()), &rerun(&title));
    }
}

fn rerun(title: &str) -> String {
    format!("cargo xtask test --only {}", ws::quote(title))
}

/// An error that says what was seen and what was expected.
pub(crate) fn expect<T: PartialEq + std::fmt::Debug>(what: &str, seen: &T, expected: &T) -> Result<()> {
    if seen != expected {
        bail!("{what}: {seen:?} instead of {expected:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_have_names_that_choose_them() {
        let all = names("");
        let mut unique = all.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), all.len(), "two checks have one name");
        for (family, _) in FAMILIES {
            assert!(
                all.iter().any(|n| n.starts_with(&format!("vm/{family}/"))),
                "nothing runs on {family}"
            );
        }
        assert_eq!(names(&all[0]), [all[0].clone()]);
        assert!(all.iter().all(|n| ws::quote(n) == *n), "a name needs quoting");
        assert!(names("no such check").is_empty());
    }

    #[test]
    fn guests_run_beside_each_other() {
        let arrived = (Mutex::new(0), std::sync::Condvar::new());
        let met = at_once(vec![(); AT_ONCE], |()| {
            let mut count = lock(&arrived.0);
            *count += 1;
            arrived.1.notify_all();
            let all = |count: &mut usize| *count < AT_ONCE;
            let waited = arrived.1.wait_timeout_while(count, Duration::from_secs(60), all);
            let (_guard, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            Some(!waited.timed_out())
        });
        assert_eq!(met, [true; AT_ONCE]);
    }

    #[test]
    fn what_may_never_fail_is_there() {
        let all = names("");
        for never in NEVER {
            assert!(
                all.iter().any(|name| name.ends_with(&format!("/{never}"))),
                "no check is called {never}"
            );
        }
    }
}
