//! What the probes cost while they run. The kernel counts each program's runs and their time if it is told to, which
//! costs some tens of nanoseconds a run; so it is told to for a tenth of the time only.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::sys::{Stats, enable_stats};

use crate::info::{ProbeCosts, ProgramCost};

/// For how long the kernel measures at a time.
const WINDOW: Duration = Duration::from_millis(200);
/// From the start of one measurement to that of the next. Switching it on and off changes the kernel's text, which
/// interrupts all processors.
const EACH: Duration = Duration::from_secs(2);

/// Runs of a program, and nanoseconds in them, since it was loaded.
type Counts = BTreeMap<String, (u64, u64)>;

/// Measures from time to time.
#[derive(Debug)]
pub struct Meter {
    /// What keeps the kernel measuring, since when, and what the counts were then.
    on: Option<(OwnedFd, Instant, Counts)>,
    next: Instant,
    sums: Counts,
    costs: ProbeCosts,
    /// The kernel does not let us, which is said once, or it is not to.
    refused: bool,
}

impl Meter {
    /// Not `on` a kernel with lockdep: to switch its statistics changes its text, under all of lockdep's checks, and
    /// what a program costs there is no use to anybody.
    pub fn new(on: bool) -> Self {
        Self {
            on: None,
            next: Instant::now(),
            sums: Counts::new(),
            costs: ProbeCosts::default(),
            refused: !on,
        }
    }

    /// Begins or ends a measurement when it is time to.
    #[inline]
    pub fn tick(&mut self, ebpf: &Ebpf) {
        let now = Instant::now();
        if now < self.next || self.refused {
            return;
        }
        match self.on.take() {
            None => self.begin(ebpf, now),
            Some(window) => self.end(ebpf, window),
        }
    }

    /// Ends the measurement that is under way.
    pub fn stop(&mut self, ebpf: &Ebpf) {
        if let Some(window) = self.on.take() {
            self.end(ebpf, window);
        }
        self.refused = true;
    }

    /// What was measured by now.
    pub fn costs(&self) -> &ProbeCosts {
        &self.costs
    }

    fn begin(&mut self, ebpf: &Ebpf, now: Instant) {
        match enable_stats(Stats::RunTime) {
            Ok(fd) => {
                self.next = now + WINDOW;
                self.on = Some((fd, Instant::now(), counts(ebpf)));
            }
            Err(error) => {
                log::debug!("what probes cost is not measured: {error}");
                self.refused = true;
            }
        }
    }

    fn end(&mut self, ebpf: &Ebpf, (fd, since, before): (OwnedFd, Instant, Counts)) {
        let after = counts(ebpf);
        let took = since.elapsed();
        drop(fd);
        self.next = Instant::now() + EACH.saturating_sub(WINDOW);
        let mut ns_now = 0;
        for (program, (runs, ns)) in after {
            // A program that came in between began with nothing.
            let (runs_before, ns_before) = before.get(&program).copied().unwrap_or_default();
            let ns = ns.saturating_sub(ns_before);
            ns_now += ns;
            let sum = self.sums.entry(program).or_default();
            sum.0 += runs.saturating_sub(runs_before);
            sum.1 += ns;
        }
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.costs = ProbeCosts {
            measured_ns: self.costs.measured_ns.saturating_add(took_ns),
            latest_ppm: ns_now.saturating_mul(1_000_000) / took_ns,
            programs: self
                .sums
                .iter()
                .filter(|(_, (runs, _))| *runs > 0)
                .map(|(program, &(runs, ns))| ProgramCost {
                    program: program.clone(),
                    runs,
                    ns,
                })
                .collect(),
        };
    }
}

fn counts(ebpf: &Ebpf) -> Counts {
    let count = |program: &aya::programs::Program| {
        let info = program.info().ok()?;
        let ns = u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX);
        Some((info.run_count(), ns))
    };
    ebpf.programs()
        .filter_map(|(name, program)| Some((name.to_owned(), count(program)?)))
        .collect()
}
