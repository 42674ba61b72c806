//! What the probes cost, as the kernel measured it.

use std::io::{self, Write};

use serde::Serialize;

use super::render::Page;
use crate::info::ProbeCosts;
use crate::sink::text::{count, duration};
use crate::tui::header::ppm;

/// What the probes cost.
#[derive(Clone, Debug, Serialize)]
pub struct ProbesReport {
    /// For how long the kernel measured.
    pub measured_ns: u64,
    /// Share of one CPU that all of them took, in millionths.
    pub cpu_ppm: u64,
    /// By program, the most costly first.
    pub programs: Vec<ProgramReport>,
}

/// What one program cost.
#[derive(Clone, Debug, Serialize)]
pub struct ProgramReport {
    /// Its name.
    pub program: String,
    /// How often it ran while the kernel measured.
    pub runs: u64,
    /// How long it ran then.
    pub ns: u64,
    /// Of one run.
    pub ns_a_run: u64,
    /// Share of one CPU, in millionths.
    pub cpu_ppm: u64,
}

impl ProbesReport {
    pub(super) fn new(costs: &ProbeCosts) -> Option<Self> {
        let mut programs: Vec<_> = costs
            .programs
            .iter()
            .map(|cost| ProgramReport {
                program: cost.program.clone(),
                runs: cost.runs,
                ns: cost.ns,
                ns_a_run: cost.ns_a_run(),
                cpu_ppm: costs.share_ppm(cost.ns),
            })
            .collect();
        programs.sort_by_key(|program| core::cmp::Reverse(program.ns));
        (!costs.is_empty()).then(|| Self {
            measured_ns: costs.measured_ns,
            cpu_ppm: costs.ppm(),
            programs,
        })
    }
}

/// Programs that are shown unless all are asked for.
const SHOWN: usize = 8;

impl<W: Write> Page<'_, W> {
    pub(super) fn probes(&mut self, probes: &ProbesReport, all: bool) -> io::Result<()> {
        self.heading(&format!(
            "{:<34}{:>14}{:>14}{:>14}",
            format!("PROBES, measured for {}", duration(probes.measured_ns)),
            "runs",
            "ns a run",
            "of one CPU"
        ))?;
        let shown = if all { usize::MAX } else { SHOWN };
        for program in probes.programs.iter().take(shown) {
            writeln!(
                self.out,
                "{:<34}{:>14}{:>14}{:>14}",
                program.program,
                count(program.runs),
                count(program.ns_a_run),
                ppm(program.cpu_ppm)
            )?;
        }
        let rest = probes.programs.iter().skip(shown);
        let (number, ppm_left) = rest.fold((0, 0), |(number, sum), program| {
            (number + 1, sum + program.cpu_ppm)
        });
        if number > 0 {
            writeln!(
                self.out,
                "{:<34}{:>14}{:>14}{:>14}",
                format!("{number} more (--section probes)"),
                "",
                "",
                ppm(ppm_left)
            )?;
        }
        writeln!(
            self.out,
            "{:<34}{:>14}{:>14}{:>14}",
            "all",
            "",
            "",
            ppm(probes.cpu_ppm)
        )
    }
}
