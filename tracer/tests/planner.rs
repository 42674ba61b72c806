//! The planner on captured kernels: no privilege, no virtual machine.
//!
//! A fixture is what `tracer doctor --capture FILE` wrote on a booted kernel. The expected plans are
//! snapshots; `cargo insta review` shows what changed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use tracer::info::Family;
use tracer::kernel::{Capabilities, Facts, Lockdown};
use tracer::mode::Mode;
use tracer::probe::{Attach, Found, Mechanism, Plan, Refusal, Wishes, plan};
use tracer::text::{Kprobe, Sites, Unrecognised};
use tracer_common::site::{self, Role, SiteEntry};
use tracer_common::wire::{Kind, MAX_SITES, Reason};

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

/// What `tracer sites --json` said on the same kernel; nothing on a kernel without the lock.
fn sites(name: &str) -> Found {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/sites")
        .join(format!("{name}.gz"));
    let file = fs::File::open(&path).map_err(|error| error.to_string())?;
    serde_json::from_reader(flate2::read::GzDecoder::new(file)).map_err(|error| error.to_string())
}

fn without(list: &[Mechanism]) -> Wishes {
    Wishes {
        without: list.to_vec(),
        ..Wishes::default()
    }
}

fn planned(name: &str, wishes: &Wishes) -> Plan {
    plan(&facts(name), &sites(name), wishes).unwrap()
}

fn describe(facts: &Facts, found: &Found, wishes: &Wishes) -> String {
    let plan = match plan(facts, found, wishes) {
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
    let user = &plan.sites[site::USER as usize];
    if user.attached {
        let _ = writeln!(
            out,
            "{:<18} {:<9} {:<17} {}",
            user.operation, user.provenance, user.mechanism, user.function
        );
    }
    for point in &plan.points {
        let site = &plan.sites[point.site as usize];
        let SiteEntry {
            place,
            register,
            shared,
            reasons,
            offset,
            displacement,
            ..
        } = point.entry;
        let vma = match place {
            1 => format!("r{register}{displacement:+}"),
            2 => format!("[r{register}{offset:+}]{displacement:+}"),
            _ => "-".to_owned(),
        };
        let names: Vec<_> = Reason::ALL
            .iter()
            .filter(|reason| reasons & reason.bit() != 0)
            .map(|reason| reason.name())
            .collect();
        let _ = writeln!(
            out,
            "{:<18} {:<9} {:<17} {} {vma} {}{}",
            site.operation,
            site.provenance,
            site.mechanism,
            site.place,
            names.join("|"),
            if shared & SiteEntry::SHARED != 0 {
                " shared"
            } else {
                ""
            }
        );
    }
    for known in &plan.elsewhere {
        let _ = writeln!(
            out,
            "{:<18} elsewhere {}: {}",
            known.operation.name(),
            known.place,
            known.why
        );
    }
    for unseen in &plan.unseen {
        let _ = writeln!(
            out,
            "{:<18} unseen    {}: {}",
            unseen.operation, unseen.function, unseen.reason
        );
    }
    let _ = writeln!(out, "{:?}\n{:?}", plan.globals.words, plan.globals.bytes);
    out.lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

const KERNELS: [&str; 10] = [
    "6.12", "6.16", "6.17", "6.18", "6.19", "7.0", "7.1", "7.2", "7.3", "oracle",
];

/// Ways to make a rich kernel poor, and what their snapshots are called.
fn poorer() -> Vec<(&'static str, &'static str, Wishes)> {
    use Mechanism::{Breakpoint, Fentry, Kprobe, KprobeNotrace, Lockdep};
    vec![
        ("oracle", "oracle-without-lockdep", without(&[Lockdep])),
        ("oracle", "oracle-as-stock", without(&[Lockdep, KprobeNotrace])),
        (
            "oracle",
            "oracle-truth",
            Wishes {
                truth: true,
                ..without(&[KprobeNotrace])
            },
        ),
        ("7.3", "7.3-without-kprobe", without(&[Kprobe])),
        (
            "7.3",
            "7.3-without-kprobe-breakpoint",
            without(&[Kprobe, Breakpoint]),
        ),
        ("7.3", "7.3-without-fentry", without(&[Fentry])),
    ]
}

#[test]
fn every_captured_kernel_gets_the_plan_it_should() {
    let names = all();
    for wanted in KERNELS.iter().chain(&["6.1"]) {
        assert!(
            names.contains(&format!("{wanted}.json")),
            "no captured kernel {wanted}"
        );
    }
    for name in names {
        let plan = describe(&facts(&name), &sites(&name), &Wishes::default());
        insta::assert_snapshot!(name.trim_end_matches(".json"), plan);
    }
}

#[test]
fn a_rich_kernel_can_play_a_poor_one() {
    for (kernel, name, wishes) in poorer() {
        let kernel = format!("{kernel}.json");
        insta::assert_snapshot!(name, describe(&facts(&kernel), &sites(&kernel), &wishes));
    }
}

#[test]
fn a_kernel_whose_text_cannot_be_read_gets_the_functions() {
    insta::assert_snapshot!(
        "7.3-unread",
        describe(&facts("7.3.json"), &unread(), &Wishes::default())
    );
}

/// All plans that are tested here, with what they are made of.
fn plans() -> Vec<(String, Facts, Sites, Wishes, Plan)> {
    let mut plans = Vec::new();
    let plain = KERNELS.map(|kernel| (kernel, kernel, Wishes::default()));
    for (kernel, name, wishes) in plain.into_iter().chain(poorer()) {
        let kernel = format!("{kernel}.json");
        let plan = planned(&kernel, &wishes);
        let sites = sites(&kernel).unwrap();
        plans.push((name.to_owned(), facts(&kernel), sites, wishes, plan));
    }
    plans
}

#[test]
fn every_found_instruction_has_a_probe_or_a_reason() {
    for (name, _, sites, _, plan) in plans() {
        for found in &sites.sites {
            let at = format!("{}+{:#x}", found.spot.symbol, found.spot.offset);
            let spots: BTreeSet<u64> = [&found.after, &found.confirmed]
                .into_iter()
                .flatten()
                .chain([&found.spot])
                .map(|spot| spot.address)
                .collect();
            let point = plan.points.iter().any(|point| spots.contains(&point.address));
            let elsewhere = plan
                .elsewhere
                .iter()
                .any(|known| known.address == found.spot.address);
            let unseen = plan.unseen.iter().any(|unseen| unseen.function == found.function);
            assert!(point || elsewhere || unseen, "{name}: {at}");
        }
    }
}

#[test]
fn no_two_probes_meet_and_each_knows_what_it_does() {
    for (name, _, _, _, plan) in plans() {
        let addresses: BTreeSet<u64> = plan.points.iter().map(|point| point.address).collect();
        assert_eq!(addresses.len(), plan.points.len(), "{name}");
        for (i, point) in plan.points.iter().enumerate() {
            assert_eq!(point.site as usize, site::FIRST_DYNAMIC as usize + i, "{name}");
            let info = &plan.sites[point.site as usize];
            let role = Role::ALL[point.entry.role as usize];
            assert_eq!(
                role.kind().map(Kind::name),
                Some(info.operation.as_str()),
                "{name}"
            );
            assert_eq!(info.mechanism, point.by.name(), "{name}: {}", info.place);
            assert!(!info.place.is_empty() && !info.reason.is_empty(), "{name}");
            assert!(point.entry.place != 0 || point.entry.reasons == Reason::NoVma.bit());
            assert!(point.entry.register < 16, "{name}");
        }
        assert!(plan.sites.len() <= MAX_SITES as usize);
    }
}

#[test]
fn what_is_left_out_is_not_used_and_better_ways_come_first() {
    for (name, facts, sites, wishes, plan) in plans() {
        let left_out = |mechanism| wishes.without.contains(&mechanism);
        for point in &plan.points {
            assert!(!left_out(point.by), "{name}");
            let notrace = point.by == Mechanism::KprobeNotrace;
            assert!(!notrace || facts.kprobes_on_notrace == Some(true), "{name}");
            assert!(!notrace || !left_out(Mechanism::Kprobe), "{name}");
            // A breakpoint only where no kprobe goes.
            let spot = sites
                .sites
                .iter()
                .flat_map(|found| {
                    let mut found = found.clone();
                    found.spots_mut().map(|spot| spot.clone()).collect::<Vec<_>>()
                })
                .find(|spot| spot.address == point.address);
            if let Some(spot) = spot.filter(|_| point.by == Mechanism::Breakpoint) {
                let kprobe = spot.kprobe == Kprobe::Yes && !left_out(Mechanism::Kprobe);
                assert!(!kprobe, "{name}: {spot:?}");
            }
        }
        let breakpoints = plan
            .points
            .iter()
            .filter(|point| point.by == Mechanism::Breakpoint);
        assert!(breakpoints.count() <= 4, "{name}");
        for probe in &plan.probes {
            let mechanism = match plan.sites[probe.site as usize].mechanism.as_str() {
                "tp_btf" => Mechanism::TpBtf,
                "lockdep" => Mechanism::Lockdep,
                "fentry" | "fexit" => Mechanism::Fentry,
                _ => Mechanism::KprobeNotrace,
            };
            assert!(!left_out(mechanism), "{name}: {}", probe.program);
        }
    }
}

#[test]
fn on_stock_kernels_no_release_goes_by_unseen_and_only_nokprobe_makes_one_derived() {
    for kernel in KERNELS.iter().filter(|kernel| **kernel != "oracle") {
        let plan = planned(&format!("{kernel}.json"), &Wishes::default());
        let releases = |info: &&tracer::info::SiteInfo| info.operation == "vma_read_release";
        let derived: Vec<_> = plan
            .sites
            .iter()
            .filter(releases)
            .filter(|info| info.provenance != "observed")
            .map(|info| info.function.as_str())
            .collect();
        assert_eq!(derived, ["do_user_addr_fault"], "{kernel}");
        let lost = plan
            .unseen
            .iter()
            .filter(|unseen| unseen.operation == "vma_read_release");
        assert!(lost.count() <= if *kernel == "6.12" { 2 } else { 0 }, "{kernel}");
        // In some builds the ways of failing tries meet where the VMA is no longer known.
        let else_lost = plan
            .unseen
            .iter()
            .filter(|unseen| !unseen.operation.starts_with("vma_read_re"));
        assert!(
            else_lost.count() <= if *kernel == "6.12" { 2 } else { 0 },
            "{kernel}"
        );
        if kernel.starts_with('7') {
            assert_eq!(plan.unseen, [], "{kernel}");
        }
    }
}

#[test]
fn on_a_lockdep_kernel_that_plays_a_stock_one_breakpoints_fill_the_holes() {
    let plan = planned(
        "oracle.json",
        &without(&[Mechanism::Lockdep, Mechanism::KprobeNotrace]),
    );
    let functions: Vec<_> = plan
        .points
        .iter()
        .filter(|point| point.by == Mechanism::Breakpoint)
        .map(|point| plan.sites[point.site as usize].function.as_str())
        .collect();
    assert!(functions.contains(&"maybe_unlock_mmap_for_io"), "{functions:?}");
    // Refusals that go on at one instruction share the last one.
    assert_eq!(functions.len(), 4);
    assert_eq!(plan.unseen, []);
}

/// Of each pair of raising and lowering a count, exactly one side decides what it is: a put whose get nobody reports
/// is a temporary event, and no release.
#[test]
fn a_try_that_is_taken_back_is_no_hold() {
    let of = |plan: &Plan, function: &str| -> Vec<(String, u32)> {
        plan.points
            .iter()
            .filter(|point| point.entry.role == Role::ReadTemporary as u8)
            .filter(|point| plan.sites[point.site as usize].function == function)
            .map(|point| (plan.sites[point.site as usize].place.clone(), point.entry.reasons))
            .collect()
    };
    let plan = planned("7.3.json", &Wishes::default());
    let reasons: Vec<u32> = of(&plan, "lock_vma_under_rcu")
        .into_iter()
        .map(|(_, r)| r)
        .collect();
    assert_eq!(
        reasons,
        [
            Reason::AddressMoved.bit(),
            Reason::Recycled.bit(),
            Reason::WriteLocked.bit()
        ]
    );
    // Where the return is not seen, the acquire is reported inside, and a VMA that has moved was a hold.
    let plan = planned("7.3.json", &without(&[Mechanism::Fentry]));
    assert_eq!(of(&plan, "lock_vma_under_rcu").len(), 2);
    // Where the get is a function, its own puts and its callers' are none of holds.
    let plan = planned("oracle.json", &without(&[Mechanism::Lockdep]));
    let reasons: Vec<u32> = of(&plan, "vma_start_read").into_iter().map(|(_, r)| r).collect();
    assert_eq!(reasons, [Reason::WriteLocked.bit(), Reason::Recycled.bit()]);
    assert_eq!(of(&plan, "lock_vma_under_rcu").len(), 1);
    // A rw-semaphore is taken before the VMA is known to be attached.
    let plan = planned("6.12.json", &Wishes::default());
    assert!(
        of(&plan, "lock_vma_under_rcu")
            .iter()
            .any(|(_, reasons)| *reasons == Reason::Detached.bit())
    );
}

#[test]
fn what_the_search_could_not_make_out_lowers_what_is_claimed() {
    let mut found = sites("7.3.json").unwrap();
    found.unrecognised.push(Unrecognised {
        function: "strange_fault".to_owned(),
        module: None,
        address: 1,
        offset: 16,
        instruction: "lock xadd [rbx+80h],eax".to_owned(),
        why: "subtracts two".to_owned(),
    });
    found.notes = vec![
        "filemap_fault: 2 breakpoints of somebody's probes: sites may be missing".to_owned(),
        "the cache was of another kernel".to_owned(),
    ];
    let plan = plan(&facts("7.3.json"), &Ok(found), &Wishes::default()).unwrap();
    let lost: Vec<_> = plan
        .unseen
        .iter()
        .map(|unseen| (unseen.operation.as_str(), unseen.function.as_str()))
        .collect();
    assert_eq!(
        lost,
        [
            ("vma_read_release", "strange_fault"),
            ("vma_read_release", "filemap_fault")
        ]
    );
    assert!(plan.unseen[0].reason.contains("subtracts two"));
    assert!(plan.unseen[0].remedy.contains("--capture"));
}

#[test]
fn each_bad_state_of_a_kernel_is_told_with_its_remedy() {
    let ask = |change: &dyn Fn(&mut Facts)| {
        let mut facts = facts("7.3.json");
        change(&mut facts);
        plan(&facts, &sites("7.3.json"), &Wishes::default()).unwrap()
    };
    let no_kprobes = ask(&|facts| facts.kprobes = Some(false));
    assert!(
        no_kprobes
            .unseen
            .iter()
            .any(|unseen| unseen.remedy.contains("CONFIG_KPROBE_EVENTS"))
    );
    let locked = ask(&|facts| facts.lockdown = Lockdown::Confidentiality);
    assert_eq!(locked.points, []);
    assert!(
        locked
            .unseen
            .iter()
            .any(|unseen| unseen.remedy.contains("lockdown=none"))
    );
    let mut oracle = facts("oracle.json");
    oracle.breakpoints_free = Some(0);
    let wishes = without(&[Mechanism::Lockdep, Mechanism::KprobeNotrace]);
    let poor = plan(&oracle, &sites("oracle.json"), &wishes).unwrap();
    assert!(
        poor.unseen
            .iter()
            .any(|unseen| unseen.operation == "vma_read_release"
                && unseen.reason.contains("no hardware breakpoint is free"))
    );
    // lockdep ends with the first bug that it finds; the plan then does without.
    oracle.lockdep = Some(false);
    let plan = plan(&oracle, &sites("oracle.json"), &Wishes::default()).unwrap();
    assert!(
        !plan
            .probes
            .iter()
            .any(|probe| probe.program.starts_with("lockdep"))
    );
    for (error, remedy) in [
        (
            "/proc/kcore: refused: kernel lockdown, or CAP_SYS_RAWIO is missing",
            "lockdown=none",
        ),
        ("the kernel hides the addresses of its symbols", "kptr_restrict"),
        (
            "the text has build id 00, the running kernel 11",
            "the kernel that runs",
        ),
    ] {
        let found = Err(error.to_owned());
        let plan = super_plan(&facts("7.3.json"), &found);
        let told = plan
            .unseen
            .iter()
            .find(|unseen| unseen.operation == "vma_read_release");
        let told = told.unwrap_or_else(|| panic!("{error}"));
        assert!(
            told.reason.contains(error) && told.remedy.contains(remedy),
            "{told:?}"
        );
    }
}

fn super_plan(facts: &Facts, found: &Found) -> Plan {
    plan(facts, found, &Wishes::default()).unwrap()
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

/// Readers are kept where they raise the count only if that is wished for.
#[test]
fn only_who_provokes_lingers() {
    let lingering = |linger: bool| {
        let wishes = Wishes {
            linger,
            ..Wishes::default()
        };
        let plan = planned("7.3.json", &wishes);
        let is_one = |point: &&tracer::probe::Point| point.entry.role == Role::Linger as u8;
        plan.points.iter().filter(is_one).count()
    };
    assert_eq!(lingering(false), 0);
    assert!(lingering(true) >= 2, "{}", lingering(true));
}

/// What pairs in the kernel has a plain page fault meet two programs, neither of them twice, on every kernel.
#[test]
fn modes_attach_only_what_they_need() {
    for kernel in KERNELS {
        let name = format!("{kernel}.json");
        let all = planned(&name, &Wishes::default());
        for mode in [Mode::Holds, Mode::Summary] {
            let wishes = Wishes {
                mode,
                ..Wishes::default()
            };
            let plan = planned(&name, &wishes);
            let programs: BTreeSet<_> = plan.probes.iter().map(|probe| probe.program).collect();
            for needed in ["lock_vma_under_rcu", "fault_end", "mmap_acquire", "mmap_release"] {
                assert!(programs.contains(needed), "{kernel} {mode:?}: {programs:?}");
            }
            for other in [
                "fault_begin",
                "task_fork",
                "sched_switch",
                "lockdep_acquire",
                "area_free",
            ] {
                assert!(!programs.contains(other), "{kernel} {mode:?}: {programs:?}");
            }
            assert_eq!(
                programs.contains("write_start"),
                mode == Mode::Summary && {
                    let usual: BTreeSet<_> = all.probes.iter().map(|probe| probe.program).collect();
                    usual.contains("write_start")
                }
            );
            assert!(!plan.twice && plan.probes.iter().all(|probe| probe.again.is_none()));
            for point in &plan.points {
                let operation = &plan.sites[point.site as usize].operation;
                assert!(
                    Kind::from_name(operation).is_some_and(|kind| mode.needs(kind)),
                    "{kernel} {mode:?}: {operation}"
                );
            }
            // Where releases are given back inside a fault they are seen as when streaming.
            let releases = |plan: &Plan| {
                let of = |point: &&tracer::probe::Point| {
                    plan.sites[point.site as usize].operation == Kind::VmaReadRelease.name()
                };
                plan.points.iter().filter(of).count()
            };
            assert!(releases(&plan) >= releases(&all), "{kernel} {mode:?}");
            assert!(plan.sites[site::USER as usize].attached, "{kernel} {mode:?}");
        }
    }
}

/// Wishes for these kinds alone.
fn only(kinds: &[Kind]) -> Wishes {
    Wishes {
        unwanted: !kinds.iter().fold(0, |mask, &kind| mask | 1 << kind as u8),
        ..Wishes::default()
    }
}

#[test]
fn what_shows_nothing_wanted_is_not_attached() {
    for kernel in KERNELS {
        let name = format!("{kernel}.json");
        let whole = planned(&name, &Wishes::default());
        let wishes = only(&[Kind::MmapAcquire, Kind::MmapRelease]);
        let plan = planned(&name, &wishes);
        let programs: Vec<&str> = plan.probes.iter().map(|probe| probe.program).collect();
        assert!(
            programs.contains(&"mmap_acquire") && programs.contains(&"mmap_release"),
            "{kernel}: {programs:?}"
        );
        for left_out in [
            "mmap_start",
            "fault_begin",
            "fault_end",
            "lock_vma_under_rcu",
            "sched_switch",
        ] {
            assert!(!programs.contains(&left_out), "{kernel}: {left_out}");
        }
        assert!(plan.points.is_empty(), "{kernel}: {:?}", plan.points);
        assert!(plan.probes.len() < whole.probes.len(), "{kernel}");
        // A number that an event could carry has a name still, and no other has.
        for probe in &plan.probes {
            assert!(
                !plan.sites[probe.site as usize].operation.is_empty(),
                "{kernel}: {}",
                probe.program
            );
        }
        let attached = plan.sites.iter().filter(|site| site.operation == "fault_end");
        assert_eq!(attached.count(), 0, "{kernel}");
    }
}

#[test]
fn what_another_program_needs_to_know_stays() {
    let begins = |wishes: &Wishes| {
        let plan = planned("7.3.json", wishes);
        plan.probes.iter().any(|probe| probe.program == "fault_begin")
    };
    let ends = only(&[Kind::FaultEnd]);
    assert!(!begins(&ends));
    // By address, the end of a fault is believed by how it began.
    assert!(begins(&Wishes {
        by_address: true,
        ..ends.clone()
    }));
    // For stacks, tasks are marked from all their locks.
    let mut stacks = only(&[Kind::FaultEnd, Kind::Stack]);
    stacks.stacks_from_ns = Some(1_000_000);
    assert!(begins(&stacks));
}

#[test]
fn a_place_that_serves_failed_tries_stays_for_them() {
    let roles = |kind: Kind| -> Vec<u8> {
        let plan = planned("7.3.json", &only(&[kind]));
        plan.points.iter().map(|point| point.entry.role).collect()
    };
    let all = planned("7.3.json", &Wishes::default());
    let of = |role: Role| {
        all.points
            .iter()
            .filter(|point| point.entry.role == role as u8)
            .count()
    };
    let released = roles(Kind::VmaReadRelease);
    assert_eq!(released.len(), of(Role::ReadRelease));
    let temporary = roles(Kind::VmaReadTemporary);
    assert_eq!(temporary.len(), of(Role::ReadRelease) + of(Role::ReadTemporary));
}
