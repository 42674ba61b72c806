//! What the probes cost, as the kernel measured it.

use std::io::{self, Write};

use serde::Serialize;

use super::render::Page;
use crate::info::ProbeCosts;
use crate::outside;
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
    pub(crate) fn new(costs: &ProbeCosts) -> Option<Self> {
        let mut programs: Vec<_> = costs
            .programs
            .iter()
            .map(|cost| ProgramReport {
                program: outside::plain(&cost.program).into_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::ProgramCost;
    use crate::sink::stats::Style;

    fn costs() -> ProbeCosts {
        let programs = (1..=10u64).map(|number| ProgramCost {
            program: format!("program{number}"),
            runs: 1_000,
            ns: number * 100_000,
        });
        ProbeCosts {
            measured_ns: 400_000_000,
            latest_ppm: 1,
            programs: programs.collect(),
        }
    }

    #[test]
    fn shares_are_of_the_time_that_was_measured() {
        let report = ProbesReport::new(&costs()).expect("something was measured");
        assert_eq!(report.cpu_ppm, 13_750, "5.5 ms of 400 ms");
        let first = &report.programs[0];
        assert_eq!(
            (first.program.as_str(), first.ns_a_run, first.cpu_ppm),
            ("program10", 1_000, 2_500)
        );
        assert!(ProbesReport::new(&ProbeCosts::default()).is_none());
    }

    #[test]
    fn what_is_left_out_is_summed() {
        let report = ProbesReport::new(&costs()).expect("something was measured");
        let shown = |all| {
            let mut out = Vec::new();
            Page::new(&mut out, Style::default())
                .probes(&report, all)
                .expect("memory");
            String::from_utf8(out).expect("text")
        };
        let short = shown(false);
        assert!(
            short.contains("2 more (--section probes)") && short.contains("0.07 %"),
            "{short}"
        );
        assert!(
            !short.contains("program1 ") && shown(true).contains("program1 "),
            "{short}"
        );
        assert!(short.ends_with("1.37 %\n"), "{short}");
    }
}
