//! The report for people.

use std::fmt::Write as _;

use super::{Coverage, HostCheck, Operation, Report, Site, Verdict};
use crate::kernel::Lockdown;
use crate::sink::text::count;

const WIDTH: usize = 80;

pub(super) fn text(report: &Report, verbose: bool) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "Linux {} ({})", report.kernel.release, report.kernel.machine);
    let lockdown = match report.lockdown {
        Lockdown::Integrity => Some("integrity"),
        Lockdown::Confidentiality => Some("confidentiality"),
        _ => None,
    };
    if let Some(lockdown) = lockdown {
        let _ = writeln!(out, "kernel lockdown: {lockdown}");
    }
    host(&mut out, &report.host);
    if !report.without.is_empty() {
        let _ = writeln!(out, "left out: {}", report.without.join(", "));
    }
    wrapped(&mut out, "kernel text: ", &search(report));
    for note in &report.text.notes {
        wrapped(&mut out, "  note: ", note);
    }
    let _ = writeln!(out, "sites: {}", counts(report.coverage));
    for operation in &report.operations {
        out.push('\n');
        one(&mut out, operation);
    }
    if !report.improvements.is_empty() {
        out.push_str("\nWould show more:\n");
        for improvement in &report.improvements {
            let sites = match improvement.sites {
                1 => "1 site".to_owned(),
                sites => format!("{sites} sites"),
            };
            wrapped(&mut out, "  - ", &format!("{} ({sites})", improvement.remedy));
        }
    }
    if verbose && !report.programs.is_empty() {
        out.push_str("\nInstructions that the verifier looked at, of 1,000,000 at most:\n");
        for program in &report.programs {
            let _ = writeln!(
                out,
                "  {:<28} {:>9}",
                program.name,
                count(u64::from(program.verified))
            );
        }
    }
    if verbose {
        out.push_str("\nWell on this machine:\n");
        for check in report.host.iter().filter(|check| check.verdict == Verdict::Ok) {
            wrapped(&mut out, &format!("  {:<20} ", check.name), &check.found);
        }
    }
    out
}

/// What of the machine's settings is in the way.
pub(super) fn host(out: &mut String, checks: &[HostCheck]) {
    let (well, bad): (Vec<_>, Vec<_>) = checks.iter().partition(|check| check.verdict == Verdict::Ok);
    let _ = writeln!(
        out,
        "this machine: {} of {} checks are well",
        well.len(),
        checks.len()
    );
    for check in bad {
        let head = format!("  {:<9} {:<20} ", check.verdict.name(), check.name);
        wrapped(out, &head, &check.found);
        if let Some(remedy) = &check.remedy {
            wrapped(out, "            would help: ", remedy);
        }
    }
}

fn search(report: &Report) -> String {
    let text = &report.text;
    if let Some(error) = &text.error {
        return format!("not searched: {error}");
    }
    let mut line = format!(
        "{} instructions change the lock of a VMA, {} of them are seen by other means",
        text.found,
        text.elsewhere.len()
    );
    if text.unrecognised > 0 {
        let _ = write!(line, "; {} look like it, but fit no pattern", text.unrecognised);
    }
    line
}

fn counts(coverage: Coverage) -> String {
    let Coverage {
        observed,
        derived,
        bounded,
        unseen,
    } = coverage;
    format!("{observed} observed, {derived} derived, {bounded} bounded, {unseen} unseen")
}

fn one(out: &mut String, operation: &Operation) {
    let Coverage {
        observed,
        derived,
        bounded,
        unseen,
    } = operation.coverage;
    let counts = [
        (observed, "observed"),
        (derived, "derived"),
        (bounded, "bounded"),
        (unseen, "unseen"),
    ];
    let counts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    let _ = writeln!(out, "{} ({})", operation.operation, counts.join(", "));
    // Equal lines are one line: the functions of one mechanism, and of one reason unless that is the best one.
    let mut groups: Vec<(&Site, Vec<(&str, usize)>)> = Vec::new();
    for site in &operation.sites {
        let same = |known: &Site| {
            let observed = site.provenance == "observed";
            known.mechanism == site.mechanism
                && known.provenance == site.provenance
                && (observed || known.reason == site.reason && known.remedy == site.remedy)
        };
        let functions = match groups.iter().position(|(known, _)| same(known)) {
            Some(at) => &mut groups[at].1,
            None => {
                groups.push((site, Vec::new()));
                let last = groups.len() - 1;
                &mut groups[last].1
            }
        };
        match functions.iter_mut().find(|(name, _)| *name == site.function) {
            Some((_, count)) => *count += 1,
            None => functions.push((&site.function, 1)),
        }
    }
    for (site, functions) in groups {
        let names: Vec<String> = functions
            .iter()
            .map(|&(name, count)| {
                if count == 1 {
                    name.to_owned()
                } else {
                    format!("{name} x{count}")
                }
            })
            .collect();
        let head = format!("  {:<9} {:<14} ", site.provenance, site.mechanism);
        wrapped(out, &head, &names.join(", "));
        if site.provenance != "observed" {
            wrapped(out, "            ", &site.reason);
        }
        if let Some(remedy) = site.remedy.as_ref().filter(|remedy| !remedy.is_empty()) {
            wrapped(out, "            would help: ", remedy);
        }
    }
}

/// Writes words behind a head, and under its end where they do not fit into one line. What belongs together, as
/// `filemap_fault x7`, is not torn apart.
fn wrapped(out: &mut String, head: &str, text: &str) {
    out.push_str(head);
    let indent = if head.trim_end().ends_with("help:") {
        14
    } else {
        head.len()
    };
    let mut column = head.len();
    let mut first = true;
    let mut words = text.split(' ').peekable();
    while let Some(word) = words.next() {
        let mut word = word.to_owned();
        while let Some(next) = words.next_if(|next| {
            next.strip_prefix('x').is_some_and(|count| {
                count
                    .trim_end_matches(',')
                    .bytes()
                    .all(|byte| byte.is_ascii_digit())
            })
        }) {
            word.push(' ');
            word.push_str(next);
        }
        if !first && column + 1 + word.len() > WIDTH {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if !first {
            out.push(' ');
            column += 1;
        }
        column += word.len();
        out.push_str(&word);
        first = false;
    }
    out.push('\n');
}
