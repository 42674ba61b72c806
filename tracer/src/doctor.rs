//! `tracer doctor`: what this kernel lets us see, by which mechanism, what stays unseen and why.

use std::fmt::Write as _;

use serde::Serialize;

use crate::info::{SiteInfo, SourceInfo};
use crate::kernel::{Facts, Lockdown};

/// The whole report; its JSON form is this structure.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this structure.
    pub schema: u32,
    /// The kernel.
    pub kernel: crate::info::KernelInfo,
    /// Kernel lockdown.
    pub lockdown: Lockdown,
    /// Counted over all sites.
    pub coverage: Coverage,
    /// By operation.
    pub operations: Vec<Operation>,
}

/// Sites by how surely they are seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// At the very place.
    pub observed: u32,
    /// Implied by another event.
    pub derived: u32,
    /// Known to lie between two times.
    pub bounded: u32,
    /// Not at all.
    pub unseen: u32,
}

impl Coverage {
    fn count(&mut self, provenance: &str) {
        match provenance {
            "observed" => self.observed += 1,
            "derived" => self.derived += 1,
            "bounded" => self.bounded += 1,
            _ => self.unseen += 1,
        }
    }
}

/// One kind of event.
#[derive(Debug, Serialize)]
pub struct Operation {
    /// Its name.
    pub operation: String,
    /// Counted over its sites.
    pub coverage: Coverage,
    /// The places where it happens.
    pub sites: Vec<Site>,
}

/// One place.
#[derive(Debug, Serialize)]
pub struct Site {
    /// Function or tracepoint.
    pub function: String,
    /// How it is attached; `none` if it is not.
    pub mechanism: String,
    /// How surely its facts are known: `observed`, `derived`, `bounded`, `unseen`.
    pub provenance: String,
    /// Why.
    pub reason: String,
    /// What would change that, if it is not seen.
    pub remedy: Option<String>,
}

impl Report {
    /// Builds the report from a source that was started for it.
    pub fn new(facts: &Facts, info: &SourceInfo) -> Self {
        let mut report = Self {
            schema: 1,
            kernel: info.kernel.clone(),
            lockdown: facts.lockdown,
            coverage: Coverage::default(),
            operations: Vec::new(),
        };
        for site in info.sites.iter().filter(|site| site.attached) {
            report.add(&site.operation, Site::seen(site));
        }
        for unseen in &info.unseen {
            report.add(
                &unseen.operation,
                Site {
                    function: unseen.function.clone(),
                    mechanism: "none".to_owned(),
                    provenance: "unseen".to_owned(),
                    reason: unseen.reason.clone(),
                    remedy: Some(unseen.remedy.clone()),
                },
            );
        }
        report
    }

    fn add(&mut self, operation: &str, site: Site) {
        self.coverage.count(&site.provenance);
        let index = match self
            .operations
            .iter()
            .position(|known| known.operation == operation)
        {
            Some(index) => index,
            None => {
                self.operations.push(Operation {
                    operation: operation.to_owned(),
                    coverage: Coverage::default(),
                    sites: Vec::new(),
                });
                self.operations.len() - 1
            }
        };
        let operation = &mut self.operations[index];
        operation.coverage.count(&site.provenance);
        operation.sites.push(site);
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let Coverage {
            observed,
            derived,
            bounded,
            unseen,
        } = self.coverage;
        let _ = writeln!(out, "Linux {} ({})", self.kernel.release, self.kernel.machine);
        if matches!(self.lockdown, Lockdown::Integrity | Lockdown::Confidentiality) {
            let _ = writeln!(
                out,
                "kernel lockdown: {}",
                if self.lockdown == Lockdown::Integrity {
                    "integrity"
                } else {
                    "confidentiality"
                }
            );
        }
        let _ = writeln!(
            out,
            "sites: {observed} observed, {derived} derived, {bounded} bounded, {unseen} unseen\n"
        );
        for operation in &self.operations {
            let _ = writeln!(out, "{}", operation.operation);
            for site in &operation.sites {
                let _ = writeln!(
                    out,
                    "  {:<9} {:<17} {}",
                    site.provenance, site.mechanism, site.function
                );
                if site.provenance != "observed" {
                    let _ = writeln!(out, "            {}", site.reason);
                }
                if let Some(remedy) = &site.remedy {
                    let _ = writeln!(out, "            would help: {remedy}");
                }
            }
        }
        out
    }
}

impl Site {
    fn seen(site: &SiteInfo) -> Self {
        Self {
            function: site.function.clone(),
            mechanism: site.mechanism.clone(),
            provenance: site.provenance.clone(),
            reason: site.reason.clone(),
            remedy: None,
        }
    }
}
