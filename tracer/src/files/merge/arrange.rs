//! Where each recording goes in the whole: its CPUs, tasks, addresses, sites, and its clock.

use anyhow::bail;
use tracer_common::site::FIRST_DYNAMIC;

use super::clocks::Clock;
use super::part::Part;
use crate::info::{PartInfo, SiteInfo, SourceInfo};

/// Most hosts: the upper seven bits of a kernel address, which are all ones on every one of them, tell them apart.
const HOSTS: usize = 128;
/// Process IDs are below 2^22 (`PID_MAX_LIMIT`); the host comes above.
const PID_BITS: u32 = 22;
/// Where the host stands in addresses.
const ADDRESS_BIT: u32 = 57;
/// Events have 16 bits for the CPU.
const CPUS: u32 = 1 << 16;

/// One run of a kernel: its recordings share CPUs, tasks, addresses and the clock.
struct Run {
    boot_id: String,
    first_cpu: u32,
    cpus: u32,
}

/// Gives each part its place, and makes the header of the whole.
pub(super) fn arrange(parts: &mut [Part]) -> anyhow::Result<SourceInfo> {
    let infos: Vec<SourceInfo> = parts.iter().map(|part| part.info().clone()).collect();
    let Some((first, others)) = infos.split_first() else {
        bail!("there is nothing to merge");
    };
    for other in others {
        same_locks(first, other)?;
    }
    let (runs, run_of) = runs(parts, &infos)?;
    let mut whole = first.clone();
    whole
        .history
        .push(format!("merged from {} recordings", parts.len()));
    whole.first_numbers = Vec::new();
    whole.parts = Vec::new();
    whole.sites = Vec::new();
    whole.cpus = runs.iter().map(|run| run.cpus).sum();
    if !others.is_empty() {
        whole.flight = None;
    }
    if runs.len() > 1 {
        whole.boot_id = String::new();
    }
    let reference = Clock::of(&mut parts[0])?;
    for ((part, info), &number) in parts.iter_mut().zip(&infos).zip(&run_of) {
        let run = &runs[number];
        let aligned = Clock::of(part)?.against(&reference);
        part.place = PartInfo {
            file: part.name().to_owned(),
            host: info.host.clone(),
            boot_id: info.boot_id.clone(),
            release: info.kernel.release.clone(),
            first_cpu: run.first_cpu,
            cpus: info.cpus,
            // Below 128, both.
            pid_base: (number as u32) << PID_BITS,
            address_mask: (number as u64) << ADDRESS_BIT,
            first_site: add_sites(&mut whole.sites, &info.sites),
            shift_ns: aligned.shift_ns,
            uncertainty_ns: aligned.uncertainty_ns,
        };
        let started = info.start_monotonic_ns.saturating_add_signed(aligned.shift_ns);
        if started < whole.start_monotonic_ns {
            let earlier = whole.start_monotonic_ns - started;
            whole.start_monotonic_ns = started;
            whole.start_realtime_ns = whole.start_realtime_ns.saturating_sub(earlier);
        }
        join(&mut whole.unseen, &info.unseen);
        join(&mut whole.filters, &info.filters);
        join(&mut whole.without, &info.without);
        whole.truth &= info.truth;
        whole.self_excluded &= info.self_excluded;
        whole.parts.push(part.place.clone());
    }
    let mut hosts = Vec::new();
    for info in infos {
        join(&mut hosts, &[info.host]);
    }
    whole.host = hosts.join("+");
    Ok(whole)
}

/// The engine knows one form of the lock at a time.
fn same_locks(one: &SourceInfo, other: &SourceInfo) -> anyhow::Result<()> {
    let (one, other) = (&one.shown(), &other.shown());
    if one.kernel.family != other.kernel.family {
        bail!(
            "the locks of {} (Linux {}) and {} (Linux {}) are not of one form, so no engine could follow both; merge \
             recordings of like kernels",
            one.host,
            one.kernel.release,
            other.host,
            other.kernel.release
        );
    }
    if one.source != other.source {
        bail!(
            "a recording from `{}` and one from `{}` have nothing in common; merge those of one source",
            one.source,
            other.source
        );
    }
    Ok(())
}

/// The runs of kernels, and of which one each part is.
fn runs(parts: &[Part], infos: &[SourceInfo]) -> anyhow::Result<(Vec<Run>, Vec<usize>)> {
    let mut runs: Vec<Run> = Vec::new();
    let mut run_of = Vec::new();
    for (part, info) in parts.iter().zip(infos) {
        if info.cpus == 0 || info.cpus > CPUS {
            bail!(
                "{} says that it is of {} CPUs, so they cannot be kept apart from others",
                part.name(),
                info.cpus
            );
        }
        let known = runs
            .iter()
            .position(|run| !run.boot_id.is_empty() && run.boot_id == info.boot_id);
        let number = known.unwrap_or(runs.len());
        run_of.push(number);
        if let Some(run) = runs.get_mut(number) {
            run.cpus = run.cpus.max(info.cpus);
        } else {
            runs.push(Run {
                boot_id: info.boot_id.clone(),
                first_cpu: 0,
                cpus: info.cpus,
            });
        }
    }
    if runs.len() > HOSTS {
        bail!("more than {HOSTS} hosts cannot be told apart in one recording; merge fewer");
    }
    let mut next = 0;
    for run in &mut runs {
        run.first_cpu = next;
        next += run.cpus;
        if next > CPUS {
            bail!("the recordings have more than {CPUS} CPUs together; merge fewer");
        }
    }
    Ok((runs, run_of))
}

/// Adds the sites of a part: single instructions to the end, the others where all have them. Gives what is added to the
/// numbers of the former.
fn add_sites(whole: &mut Vec<SiteInfo>, part: &[SiteInfo]) -> u32 {
    let fixed = FIRST_DYNAMIC as usize;
    let is_first = whole.is_empty();
    for (at, site) in part.iter().take(fixed).enumerate() {
        let Some(known) = whole.get_mut(at) else {
            whole.push(site.clone());
            continue;
        };
        if !known.attached {
            known.clone_from(site);
        } else if site.attached && site.provenance() > known.provenance() {
            // What is told of all of them is what is sure of each.
            known.provenance.clone_from(&site.provenance);
            known.bound_ns = known.bound_ns.max(site.bound_ns);
        }
    }
    let single = part.get(fixed..).unwrap_or_default();
    if single.is_empty() {
        return 0;
    }
    if whole.len() < fixed {
        whole.resize(fixed, SiteInfo::default());
    }
    let first = if is_first { 0 } else { whole.len() - fixed };
    whole.extend_from_slice(single);
    u32::try_from(first).unwrap_or(u32::MAX)
}

/// Adds what is not there yet.
fn join<T: Clone + PartialEq>(all: &mut Vec<T>, more: &[T]) {
    for one in more {
        if !all.contains(one) {
            all.push(one.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(operation: &str, provenance: &str) -> SiteInfo {
        SiteInfo {
            operation: operation.into(),
            provenance: provenance.into(),
            attached: true,
            ..SiteInfo::default()
        }
    }

    #[test]
    fn sites_that_all_have_stay_where_they_are_and_the_least_sure_counts() {
        let mut whole = Vec::new();
        assert_eq!(
            add_sites(&mut whole, &[site("a", "observed"), SiteInfo::default()]),
            0
        );
        assert_eq!(
            add_sites(&mut whole, &[site("a", "derived"), site("b", "observed")]),
            0
        );
        assert_eq!(whole, [site("a", "derived"), site("b", "observed")]);
    }

    #[test]
    fn sites_of_single_instructions_follow_each_other() {
        let fixed = FIRST_DYNAMIC as usize;
        let with = |names: &[&str]| {
            let mut sites = vec![site("all", "observed"); fixed];
            sites.extend(names.iter().map(|name| site(name, "observed")));
            sites
        };
        let mut whole = Vec::new();
        assert_eq!(add_sites(&mut whole, &with(&["a", "b"])), 0);
        assert_eq!(add_sites(&mut whole, &with(&["c"])), 2);
        assert_eq!(add_sites(&mut whole, &with(&["d", "e"])), 3);
        let names: Vec<&str> = whole[fixed..]
            .iter()
            .map(|site| site.operation.as_str())
            .collect();
        assert_eq!(names, ["a", "b", "c", "d", "e"]);
    }
}
