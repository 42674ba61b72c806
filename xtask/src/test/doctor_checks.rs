//! What `tracer doctor` says on real kernels, and that it says so when something is in the way.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::guests::{Ctx, Evidence, On, Scenario, expect};
use super::tracer_checks::TRACED;
use crate::vm::Outcome;
use crate::{kernels, ui, verifier};

/// Scenarios of `tracer doctor`.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "doctor",
        on: TRACED,
        boot: |ctx| {
            ctx.guest().sh(
                "tracer -v doctor --json > /out/doctor.json 2> /out/doctor.err; echo $? > /out/doctor.code",
            )
        },
        checks: &[
            ("nothing-is-refused", |e| {
                expect("exit code", &e.out_text("doctor.code")?.trim(), &"0")?;
                let report = report(e, "doctor")?;
                let totals = &report["coverage"];
                ui::line(&format!("       {}: {}; {}", e.ctx.name, totals, times(e)?));
                let refused: Vec<String> = unseen(&report)
                    .into_iter()
                    .filter(|why| why.contains(": refused"))
                    .collect();
                ensure!(
                    refused.is_empty(),
                    "the kernel refused some: {}",
                    refused.join("\n")
                );
                Ok(())
            }),
            ("verifier-works-no-harder", |e| {
                let counts = verifier::counts(&report(e, "doctor")?)?;
                ui::line(&format!("       {}: {}", e.ctx.name, verifier::summary(&counts)));
                verifier::check(e.ctx.name, &counts)
            }),
            ("all-is-seen-on-the-newest", |e| {
                if !["7.0", "7.3", "oracle"].contains(&e.ctx.name) {
                    return Ok(());
                }
                let report = report(e, "doctor")?;
                let of = |what: &str| report["coverage"][what].as_u64().unwrap_or(u64::MAX);
                ensure!(of("unseen") == 0, "unseen: {}", unseen(&report).join("\n"));
                ensure!(of("bounded") <= 2, "{}", report["coverage"]);
                // Where lockdep tells, nothing has to be derived.
                ensure!(of("derived") <= 1, "{}", report["coverage"]);
                let derived: Vec<&Value> = sites(&report, "derived");
                ensure!(
                    derived
                        .iter()
                        .all(|site| site["function"] == "do_user_addr_fault"),
                    "{derived:?}"
                );
                Ok(())
            }),
            ("kernel-is-content", Evidence::kernel_is_content),
        ],
    },
    Scenario {
        name: "doctor-in-the-way",
        on: On::These(&["7.3"]),
        boot: in_the_way,
        checks: &[
            ("text-of-another-kernel", |e| {
                told(e, "other", "build id")?;
                seen_only_by_functions(e, "other")
            }),
            ("no-such-text", |e| told(e, "missing", "there is no such file")),
            ("slots-are-taken", |e| {
                told(e, "slots", "no hardware breakpoint is free")?;
                host_says(e, "slots", "breakpoints", "limits", "tracer watch")?;
                host_says(e, "other", "breakpoints", "ok", "4 free")
            }),
            ("neighbours-are-told", |e| {
                host_says(e, "neighbours", "other_tracers", "note", "handle_mm_fault")?;
                host_says(e, "other", "other_tracers", "ok", "nobody else")
            }),
            ("hidden-addresses-are-told", |e| {
                host_says(e, "pointers", "kptr_restrict", "limits", "whoever asks")
            }),
            ("who-may-not-attach-learns-why", |e| {
                expect("exit code", &e.out_text("user.code")?.trim(), &"4")?;
                let said = e.out_text("user.out")?;
                ensure!(
                    said.contains("limits    capabilities") && said.contains("would help: run it with sudo"),
                    "{said}{}",
                    e.out_text("user.err")?
                );
                Ok(())
            }),
            ("no-kprobes", |e| {
                told(e, "kprobes", "--without kprobe")?;
                seen_only_by_functions(e, "kprobes")
            }),
            ("recording-goes-on", |e| {
                // Less is seen then, and what was seen is right.
                expect("exit code", &e.out_text("record.code")?.trim(), &"0")?;
                let stats: Value = serde_json::from_str(&e.out_text("record.json")?)?;
                ensure!(
                    stats
                        .pointer("/events/by_kind/vma_read_acquire")
                        .and_then(Value::as_u64)
                        > Some(0),
                    "{stats}"
                );
                Ok(())
            }),
            ("kernel-is-content", Evidence::kernel_is_content),
        ],
    },
    Scenario {
        name: "module",
        on: On::These(&["6.12"]),
        boot: module,
        checks: &[
            ("its-sites-are-found", |e| {
                let sites: Value = serde_json::from_str(&e.out_text("sites.json")?)?;
                let list = sites["sites"].as_array().context("no list of sites")?;
                let own = list.iter().filter(|site| site["module"] == "uio");
                ensure!(own.count() > 0, "none in the module: {}", sites["notes"]);
                let report = report(e, "doctor")?;
                ensure!(report.to_string().contains("uio_mmap"), "doctor does not name it");
                Ok(())
            }),
            ("it-may-go-while-it-is-probed", |e| {
                expect("rmmod", &e.out_text("rmmod.code")?.trim(), &"0")?;
                expect("record", &e.out_text("record.code")?.trim(), &"0")?;
                let stats: Value = serde_json::from_str(&e.out_text("record.json")?)?;
                ensure!(
                    stats.pointer("/events/by_kind/fault_end").and_then(Value::as_u64) > Some(0),
                    "{stats}"
                );
                Ok(())
            }),
            ("kernel-is-content", |e| {
                // A module that is not signed by the kernel's maker is no complaint about us.
                e.kernel_is_content_but_for(&["module verification failed", "taints kernel"])
            }),
        ],
    },
];

fn in_the_way(ctx: &Ctx) -> Result<Outcome> {
    let other = kernels::get("7.2")?;
    let mut guest = ctx.guest();
    guest.adds.push((other.image, "/add/other".to_owned()));
    guest.timeout = std::time::Duration::from_secs(240);
    guest.sh(
        "try() { name=$1; shift; tracer doctor --json $* > /out/$name.json 2> /out/$name.err; echo $? > /out/$name.code; }
         try other --kernel-text /add/other
         try missing --kernel-text /add/nothing
         try kprobes --without kprobe
         slots=; for i in 1 2 3 4; do hotvma --slot & slots=\"$slots $!\"; done; sleep 1
         try slots; kill $slots
         tracer record -o /tmp/n.rec 2> /dev/null & n=$!
         while ! test -s /tmp/n.rec; do sleep 0.1; done
         try neighbours; kill -INT $n; wait $n
         echo 2 > /proc/sys/kernel/kptr_restrict; try pointers; echo 1 > /proc/sys/kernel/kptr_restrict
         su user -c 'tracer doctor' > /out/user.out 2> /out/user.err; echo $? > /out/user.code
         tracer record --kernel-text /add/other -o /out/a.rec -- workload anon > /dev/null 2> /out/record.err
         echo $? > /out/record.code; tracer stats --json /out/a.rec > /out/record.json",
    )
}

fn module(ctx: &Ctx) -> Result<Outcome> {
    let mut guest = ctx.guest();
    let module = kernels::module(&ctx.kernel, "uio")?;
    guest.adds.push((module, "/add/uio.ko".to_owned()));
    guest.sh("insmod /add/uio.ko || exit 1
         tracer sites --json > /out/sites.json || exit 1
         tracer doctor --json > /out/doctor.json; echo $? > /out/doctor.code
         tracer record -o /out/a.rec 2> /out/record.err & p=$!
         while ! test -s /out/a.rec; do sleep 0.1; done
         rmmod uio; echo $? > /out/rmmod.code; workload anon > /dev/null
         kill -INT $p; wait $p; echo $? > /out/record.code
         tracer stats --json /out/a.rec > /out/record.json")
}

fn report(e: &Evidence, name: &str) -> Result<Value> {
    serde_json::from_str(&e.out_text(&format!("{name}.json"))?).with_context(|| {
        format!(
            "{name}: {}",
            e.out_text(&format!("{name}.err")).unwrap_or_default()
        )
    })
}

/// The report is there, whole, and says what is wrong.
fn told(e: &Evidence, name: &str, what: &str) -> Result<()> {
    expect("exit code", &e.out_text(&format!("{name}.code"))?.trim(), &"0")?;
    let report = report(e, name)?;
    ensure!(report.to_string().contains(what), "nothing of {what:?}: {report}");
    Ok(())
}

/// A check of the machine came out like that, and says so; what is not well has a remedy.
fn host_says(e: &Evidence, name: &str, check: &str, verdict: &str, what: &str) -> Result<()> {
    let report = report(e, name)?;
    let host = report["host"].as_array().context("no checks of the machine")?;
    let found = host.iter().find(|one| one["name"] == check);
    let found = found.with_context(|| format!("no check of {check}: {host:?}"))?;
    ensure!(
        found["verdict"] == verdict && found["found"].as_str().is_some_and(|found| found.contains(what)),
        "{name}: {found}"
    );
    ensure!(
        verdict == "ok" || found["remedy"].is_string(),
        "{name}: no remedy in {found}"
    );
    Ok(())
}

/// Without instructions, functions and tracepoints still show what they show.
fn seen_only_by_functions(e: &Evidence, name: &str) -> Result<()> {
    let report = report(e, name)?;
    let mechanisms: Vec<&str> = sites(&report, "observed")
        .iter()
        .filter_map(|site| site["mechanism"].as_str())
        .collect();
    ensure!(mechanisms.len() >= 8, "{mechanisms:?}");
    ensure!(!mechanisms.contains(&"kprobe"), "{mechanisms:?}");
    Ok(())
}

fn sites<'a>(report: &'a Value, provenance: &str) -> Vec<&'a Value> {
    let operations = report["operations"].as_array().into_iter().flatten();
    operations
        .flat_map(|operation| operation["sites"].as_array().into_iter().flatten())
        .filter(|site| site["provenance"] == provenance)
        .collect()
}

fn unseen(report: &Value) -> Vec<String> {
    sites(report, "unseen")
        .iter()
        .map(|site| format!("{}: {}", site["function"], site["reason"]))
        .collect()
}

/// What it says of attaching and detaching.
fn times(e: &Evidence) -> Result<String> {
    let said = e.out_text("doctor.err")?;
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("tached in")).collect();
    Ok(lines.join("; ").replace("tracer: note: ", ""))
}
