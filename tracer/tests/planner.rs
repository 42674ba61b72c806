//! The planner on captured kernels: no privilege, no virtual machine.
//!
//! A fixture is what `tracer doctor --capture FILE` wrote on a booted kernel. The expected plans are
//! snapshots; `cargo insta review` shows what changed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use tracer::info::Family;
use tracer::kernel::{Capabilities, Facts};
use tracer::probe::{Attach, Found, Refusal, Wishes, plan};

fn facts(name: &str) -> Facts {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/kernels")
        .join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn all() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kernels");
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn describe(facts: &Facts) -> String {
    let plan = match plan(facts, &unread(), &Wishes::default()) {
        Ok(plan) => plan,
        Err(refusal) => return format!("refused: {refusal}\n"),
    };
    let mut out = String::new();
    for probe in &plan.probes {
        let site = &plan.sites[probe.site as usize];
        let at = match &probe.attach {
            Attach::KProbe(copies) | Attach::KRetProbe(copies) => format!(" ({} copies)", copies.len()),
            _ => String::new(),
        };
        let _ = writeln!(
            out,
            "{:<18} {:<9} {:<17} {}{at} by {}",
            site.operation, site.provenance, site.mechanism, site.function, probe.program
        );
    }
    for unseen in &plan.unseen {
        let _ = writeln!(out, "{:<18} unseen    {}", unseen.operation, unseen.function);
    }
    let _ = writeln!(out, "{:?}\n{:?}", plan.globals.words, plan.globals.bytes);
    out
}

#[test]
fn every_captured_kernel_gets_the_plan_it_should() {
    let names = all();
    for wanted in [
        "6.1", "6.12", "6.16", "6.17", "6.18", "6.19", "7.0", "7.1", "7.2", "7.3", "oracle",
    ] {
        assert!(
            names.contains(&format!("{wanted}.json")),
            "no captured kernel {wanted}"
        );
    }
    for name in names {
        insta::assert_snapshot!(name.trim_end_matches(".json"), describe(&facts(&name)));
    }
}

#[test]
fn each_program_is_planned_once_and_each_site_has_a_name() {
    for name in all() {
        let Ok(plan) = plan(&facts(&name), &unread(), &Wishes::default()) else {
            continue;
        };
        let programs: BTreeSet<_> = plan.probes.iter().map(|probe| probe.program).collect();
        assert_eq!(programs.len(), plan.probes.len(), "{name}");
        for probe in &plan.probes {
            assert!(
                !plan.sites[probe.site as usize].function.is_empty(),
                "{name}: {}",
                probe.program
            );
        }
    }
}

#[test]
fn without_privileges_the_missing_capability_is_named() {
    let mut facts = facts("7.3.json");
    facts.capabilities = Capabilities {
        bpf: true,
        ..Capabilities::default()
    };
    let refusal = plan(&facts, &unread(), &Wishes::default()).unwrap_err();
    assert_eq!(refusal, Refusal::NotPermitted(vec!["CAP_PERFMON"]));
    assert!(refusal.to_string().contains("sudo"));
}

#[test]
fn a_kernel_without_the_lock_is_refused_even_without_privileges() {
    let mut facts = facts("6.1.json");
    facts.capabilities = Capabilities::default();
    assert!(matches!(
        plan(&facts, &unread(), &Wishes::default()),
        Err(Refusal::NoVmaLock { .. })
    ));
}

#[test]
fn fields_decide_not_the_version() {
    let mut facts = facts("7.3.json");
    facts.release = "5.4.0-ancient".to_owned();
    assert!(plan(&facts, &unread(), &Wishes::default()).is_ok());
    facts.family = Some(Family::Rwsem);
    let plan = plan(&facts, &unread(), &Wishes::default()).unwrap();
    assert!(
        plan.unseen
            .iter()
            .any(|unseen| unseen.function == "vma_start_write")
    );
}

#[test]
fn a_function_that_changed_its_shape_is_not_probed_blindly() {
    let mut facts = facts("7.3.json");
    facts.functions.insert("handle_mm_fault".to_owned(), (5, true));
    let plan = plan(&facts, &unread(), &Wishes::default()).unwrap();
    assert!(!plan.probes.iter().any(|probe| probe.program == "fault_end"));
    assert!(
        plan.unseen
            .iter()
            .any(|unseen| unseen.reason.contains("5 arguments"))
    );
    // And nothing is derived from what is not seen.
    assert!(!plan.sites.iter().any(|site| site.mechanism == "derived"));
}

/// A kernel whose text could not be read.
fn unread() -> Found {
    Err("not read in this test".to_owned())
}
