//! `tracer doctor`: what this kernel lets us see, by which mechanism, what stays unseen and why.
//!
//! The report is made of a plan that was attached, since only that tells what the kernel refuses; making it is pure.

mod host;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tracer_common::wire::Kind;

use crate::info::{KernelInfo, SiteInfo, SourceInfo, UnseenInfo};
use crate::kernel::Lockdown;
use crate::probe::{Elsewhere, Found};

pub use host::{Host, HostCheck, Verdict, free_breakpoints};

/// The whole report; its JSON form is this structure.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this structure.
    pub schema: u32,
    /// The kernel.
    pub kernel: KernelInfo,
    /// Kernel lockdown.
    pub lockdown: Lockdown,
    /// Settings of this machine, and neighbours on it.
    pub host: Vec<HostCheck>,
    /// Mechanisms that the user left out.
    pub without: Vec<String>,
    /// What was found in the kernel's text.
    pub text: Text,
    /// Counted over all sites.
    pub coverage: Coverage,
    /// What would show more, the most effective first.
    pub improvements: Vec<Improvement>,
    /// By operation.
    pub operations: Vec<Operation>,
    /// The programs that the kernel let in, by name.
    pub programs: Vec<Program>,
}

/// One program in the kernel.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Program {
    /// Its name in the object.
    pub name: String,
    /// Instructions that the verifier looked at, on all ways through it; it gives up at a million.
    pub verified: u32,
}

/// What was found in the kernel's text.
#[derive(Debug, Default, Serialize)]
pub struct Text {
    /// Why it could not be searched.
    pub error: Option<String>,
    /// Instructions that change the lock of a VMA.
    pub found: usize,
    /// Instructions that look as if they did, but fit no pattern.
    pub unrecognised: usize,
    /// What the search met on its way.
    pub notes: Vec<String>,
    /// Found instructions that need no probe of their own.
    pub elsewhere: Vec<Shown>,
}

/// A found instruction that something else shows.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// Symbol and distance.
    pub place: String,
    /// What it does, as `tracer sites` has it.
    pub operation: &'static str,
    /// What shows it.
    pub why: &'static str,
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

/// Something that can be done about what is not seen.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Improvement {
    /// A package, a setting, a kernel option.
    pub remedy: String,
    /// How many sites it would help.
    pub sites: usize,
    /// Of which operations.
    pub operations: Vec<String>,
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
    /// Where in it, for a single instruction: symbol and distance.
    pub place: Option<String>,
    /// How it is attached; `none` if it is not.
    pub mechanism: String,
    /// How surely its facts are known: `observed`, `derived`, `bounded`, `unseen`.
    pub provenance: String,
    /// Largest error of the time of its events, in nanoseconds, where it is known.
    pub bound_ns: Option<u64>,
    /// Why.
    pub reason: String,
    /// What would change that, if it is not seen.
    pub remedy: Option<String>,
}

/// What a report is made of.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// Of a source that was started for it.
    pub info: &'a SourceInfo,
    /// Kernel lockdown.
    pub lockdown: Lockdown,
    /// What was read of the machine before.
    pub host: &'a Host,
    /// What the search of the text found.
    pub found: &'a Found,
    /// What the planner has nothing to do for.
    pub elsewhere: &'a [Elsewhere],
    /// Instructions that the verifier looked at, by program.
    pub verified: &'a BTreeMap<String, u32>,
}

impl Report {
    /// Builds the report.
    pub fn new(inputs: &Inputs<'_>) -> Self {
        let Inputs {
            info,
            lockdown,
            host,
            found,
            elsewhere,
            verified,
        } = *inputs;
        let looked_at = info.sites.iter().filter(|site| site.attached);
        let ours: BTreeSet<&str> = looked_at
            .flat_map(|site| {
                [
                    site.function.as_str(),
                    site.place.split('+').next().unwrap_or_default(),
                ]
            })
            .collect();
        let mut report = Self {
            schema: 1,
            kernel: info.kernel.clone(),
            lockdown,
            host: host.checks(&ours),
            without: info.without.clone(),
            text: text(found, elsewhere),
            coverage: Coverage::default(),
            improvements: Vec::new(),
            operations: Vec::new(),
            programs: programs(verified),
        };
        for site in info.sites.iter().filter(|site| site.attached) {
            for operation in operations(site, info.truth) {
                report.add(operation, Site::seen(site));
            }
        }
        let acquires = report
            .operations
            .iter()
            .any(|operation| operation.operation == Kind::VmaReadAcquire.name());
        let failed = info.sites.iter().filter(|site| is_unexplained(site, info));
        let failed: Vec<UnseenInfo> = failed
            .map(|site| UnseenInfo {
                operation: site.operation.clone(),
                function: site.function.clone(),
                reason: format!("could not be attached ({})", site.reason),
                remedy: "run with -v to see what the kernel said".to_owned(),
            })
            .collect();
        let unseen: Vec<&UnseenInfo> = info.unseen.iter().chain(&failed).collect();
        report.improvements = improvements(&unseen);
        for unseen in unseen {
            // No task keeps a VMA's read lock when it goes back to user mode, and few take a second one.
            let bounded = acquires && unseen.operation == Kind::VmaReadRelease.name();
            report.add(&unseen.operation, Site::unseen(unseen, bounded));
        }
        let order = |name: &str| Kind::ALL.iter().position(|kind| kind.name() == name);
        report.operations.sort_by_key(|known| order(&known.operation));
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

    /// For people: at most 80 columns, if no single word is longer. `verbose`: with the programs.
    pub fn text(&self, verbose: bool) -> String {
        table::text(self, verbose)
    }
}

fn programs(verified: &BTreeMap<String, u32>) -> Vec<Program> {
    let program = |(name, &verified): (&String, &u32)| Program {
        name: name.clone(),
        verified,
    };
    verified.iter().map(program).collect()
}

/// What a site shows; lockdep tells of both ends of a hold.
fn operations(site: &SiteInfo, truth: bool) -> Vec<&str> {
    if site.mechanism == "lockdep" && !truth {
        vec![Kind::VmaReadAcquire.name(), Kind::VmaReadRelease.name()]
    } else if site.mechanism == "lockdep" {
        vec![Kind::LockdepAcquire.name(), Kind::LockdepRelease.name()]
    } else {
        vec![&site.operation]
    }
}

/// Whether a site is not attached, and nothing that is told to be unseen accounts for it.
fn is_unexplained(site: &SiteInfo, info: &SourceInfo) -> bool {
    !site.function.is_empty()
        && !site.attached
        && !info
            .unseen
            .iter()
            .any(|unseen| unseen.operation == site.operation && unseen.function == site.function)
}

fn text(found: &Found, elsewhere: &[Elsewhere]) -> Text {
    let elsewhere = elsewhere.iter().map(|known| Shown {
        place: known.place.clone(),
        operation: known.operation.name(),
        why: known.why,
    });
    match found {
        Ok(sites) => Text {
            error: None,
            found: sites.sites.len(),
            unrecognised: sites.unrecognised.len(),
            notes: sites.notes.clone(),
            elsewhere: elsewhere.collect(),
        },
        Err(error) => Text {
            error: Some(error.clone()),
            ..Text::default()
        },
    }
}

/// What would help, by how much it would.
fn improvements(unseen: &[&UnseenInfo]) -> Vec<Improvement> {
    let mut by_remedy = BTreeMap::<&str, Improvement>::new();
    let helps =
        |remedy: &str| !remedy.is_empty() && !remedy.starts_with("none") && !remedy.starts_with("see ");
    for unseen in unseen.iter().filter(|unseen| helps(&unseen.remedy)) {
        let known = by_remedy.entry(&unseen.remedy).or_insert_with(|| Improvement {
            remedy: unseen.remedy.clone(),
            sites: 0,
            operations: Vec::new(),
        });
        known.sites += 1;
        if !known.operations.contains(&unseen.operation) {
            known.operations.push(unseen.operation.clone());
        }
    }
    let mut improvements: Vec<_> = by_remedy.into_values().collect();
    improvements.sort_by_key(|known| usize::MAX - known.sites);
    improvements
}

impl Site {
    fn seen(site: &SiteInfo) -> Self {
        Self {
            function: site.function.clone(),
            place: Some(site.place.clone()).filter(|place| !place.is_empty()),
            mechanism: site.mechanism.clone(),
            provenance: site.provenance.clone(),
            bound_ns: site.bound_ns,
            reason: site.reason.clone(),
            remedy: None,
        }
    }

    fn unseen(unseen: &UnseenInfo, bounded: bool) -> Self {
        // Single instructions are told as `symbol+0x1c4: why`.
        let place = unseen
            .reason
            .split_once(": ")
            .filter(|(place, _)| place.contains("+0x") && !place.contains(", "));
        let (place, reason) = match place {
            Some((place, reason)) => (Some(place.to_owned()), reason.to_owned()),
            None => (None, unseen.reason.clone()),
        };
        Self {
            function: unseen.function.clone(),
            place,
            mechanism: "none".to_owned(),
            provenance: if bounded { "bounded" } else { "unseen" }.to_owned(),
            bound_ns: None,
            reason: if bounded {
                format!("{reason}; what was held is over at the task's next event")
            } else {
                reason
            },
            remedy: Some(unseen.remedy.clone()),
        }
    }
}
