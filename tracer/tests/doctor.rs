//! What `tracer doctor` says, on plans for captured kernels as if all of it had been attached.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use tracer::doctor::{Host, Inputs, Report};
use tracer::info::{KernelInfo, SourceInfo};
use tracer::kernel::{Capabilities, Facts, Lockdown};
use tracer::probe::{Found, Mechanism, Plan, Wishes, plan};

fn fixture(path: &str) -> fs::File {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(path);
    fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn facts(kernel: &str) -> Facts {
    serde_json::from_reader(fixture(&format!("kernels/{kernel}.json"))).unwrap()
}

fn found(kernel: &str) -> Found {
    let packed = fixture(&format!("sites/{kernel}.json.gz"));
    Ok(serde_json::from_reader(flate2::read::GzDecoder::new(packed)).unwrap())
}

struct Case {
    info: SourceInfo,
    found: Found,
    plan: Plan,
    host: Host,
    verified: BTreeMap<String, u32>,
}

/// A machine on which all is well but that kprobes are traps.
fn host() -> Host {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("proc/sys/kernel/perf_event_paranoid", "3\n"),
        ("proc/sys/kernel/kptr_restrict", "0\n"),
        ("proc/sys/kernel/ftrace_enabled", "1\n"),
        ("proc/sys/net/core/bpf_jit_enable", "1\n"),
        ("proc/sys/debug/kprobes-optimization", "0\n"),
        ("sys/kernel/tracing/enabled_functions", ""),
        ("sys/kernel/debug/kprobes/list", ""),
    ] {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let all = Capabilities {
        bpf: true,
        perfmon: true,
        syslog: true,
        ptrace: true,
    };
    Host::read(root.path(), all, Ok(4))
}

/// As if everything could be attached.
fn case(kernel: &str, found: Found, without: &[Mechanism]) -> Case {
    let facts = facts(kernel);
    let wishes = Wishes {
        without: without.to_vec(),
        ..Wishes::default()
    };
    let mut plan = plan(&facts, &found, &wishes).unwrap();
    for site in plan.sites.iter_mut().filter(|site| !site.function.is_empty()) {
        site.attached = true;
    }
    let info = SourceInfo {
        kernel: KernelInfo {
            release: facts.release,
            machine: facts.machine,
            ..KernelInfo::default()
        },
        sites: plan.sites.clone(),
        unseen: plan.unseen.clone(),
        without: without.iter().map(|left| left.name().to_owned()).collect(),
        ..SourceInfo::default()
    };
    let verified = [("mmap_start", 1_234), ("write_acquire_again", 999_999)];
    let verified = verified.map(|(name, count)| (name.to_owned(), count));
    Case {
        info,
        found,
        plan,
        host: host(),
        verified: BTreeMap::from(verified),
    }
}

fn report(case: &Case) -> Report {
    Report::new(&Inputs {
        info: &case.info,
        lockdown: Lockdown::None,
        host: &case.host,
        found: &case.found,
        elsewhere: &case.plan.elsewhere,
        verified: &case.verified,
    })
}

#[test]
fn the_table_is_readable() {
    use Mechanism::{Kprobe, KprobeNotrace, Lockdep};
    let unread = Err("/proc/kcore: refused: kernel lockdown, or CAP_SYS_RAWIO is missing".to_owned());
    for (name, case) in [
        ("7.3", case("7.3", found("7.3"), &[])),
        ("6.12", case("6.12", found("6.12"), &[])),
        ("oracle", case("oracle", found("oracle"), &[])),
        (
            "oracle-as-stock",
            case("oracle", found("oracle"), &[Lockdep, KprobeNotrace]),
        ),
        ("7.3-without-kprobe", case("7.3", found("7.3"), &[Kprobe])),
        ("7.3-unread", case("7.3", unread, &[])),
    ] {
        let text = report(&case).text(false);
        let more = report(&case).text(true);
        for line in more.lines() {
            assert!(line.len() <= 80, "{name}: {line}");
        }
        assert_eq!(
            more.strip_prefix(&text),
            Some(
                "\nInstructions that the verifier looked at, of 1,000,000 at most:\n  \
                 mmap_start                       1,234\n  \
                 write_acquire_again            999,999\n\n\
                 Well on this machine:\n  \
                 capabilities         CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_SYSLOG\n  \
                 perf_event_paranoid  3; CAP_PERFMON stands above it\n  \
                 kptr_restrict        0\n  \
                 ftrace_enabled       1\n  \
                 bpf_jit_enable       1\n  \
                 breakpoints          4 free on every CPU\n  \
                 livepatch            none\n  \
                 other_tracers        nobody else has a probe on a function that is looked at\n"
            )
        );
        insta::assert_snapshot!(name, text);
    }
}

#[test]
fn on_a_stock_kernel_only_the_put_of_the_fault_is_not_observed() {
    let report = report(&case("7.3", found("7.3"), &[]));
    assert_eq!(report.coverage.unseen, 0);
    assert!(report.coverage.bounded <= 2);
    assert_eq!(report.coverage.derived, 1);
    assert!(report.coverage.observed > 90);
    assert_eq!(report.improvements, []);
}

#[test]
fn the_json_has_what_its_page_promises() {
    let case = case("6.12", found("6.12"), &[]);
    let json = serde_json::to_value(report(&case)).unwrap();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema/doctor.md");
    let page = fs::read_to_string(page).unwrap();
    for name in keys(&json) {
        assert!(
            page.contains(&name),
            "docs/schema/doctor.md does not tell of {name}"
        );
    }
    let total = |name: &str| json["coverage"][name].as_u64().unwrap();
    let operations = json["operations"].as_array().unwrap();
    for name in ["observed", "derived", "bounded", "unseen"] {
        let sum: u64 = operations
            .iter()
            .map(|operation| operation["coverage"][name].as_u64().unwrap())
            .sum();
        assert_eq!(sum, total(name), "{name}");
        let sites = operations
            .iter()
            .flat_map(|operation| operation["sites"].as_array().unwrap())
            .filter(|site| site["provenance"] == name);
        assert_eq!(sites.count() as u64, total(name), "{name}");
    }
    // Releases that no probe is at are bounded, each with its place and with what would help.
    assert_eq!(total("bounded"), 2);
    let bounded: Vec<&Value> = operations
        .iter()
        .flat_map(|operation| operation["sites"].as_array().unwrap())
        .filter(|site| site["provenance"] == "bounded")
        .collect();
    assert_eq!(bounded[0]["function"], "filemap_fault");
    assert_eq!(bounded[0]["place"], "filemap_fault+0x9ab");
    assert_eq!(bounded[0]["mechanism"], "none");
    assert!(!bounded[0]["remedy"].as_str().unwrap().is_empty());
}

fn keys(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| std::iter::once(key.clone()).chain(keys(value)))
            .collect(),
        Value::Array(list) => list.iter().flat_map(keys).collect(),
        _ => Vec::new(),
    }
}

/// Whatever the attacher says, or forgets to say, of a probe that failed.
#[test]
fn a_probe_that_could_not_be_attached_is_told() {
    let mut case = case("7.3", found("7.3"), &[]);
    let whole = report(&case).coverage;
    let lost: Vec<usize> = (0..case.info.sites.len())
        .filter(|&i| case.info.sites[i].function == "mfill_get_vma")
        .collect();
    assert_eq!(lost.len(), 2);
    for i in lost {
        case.info.sites[i].attached = false;
        "refused: no memory".clone_into(&mut case.info.sites[i].reason);
    }
    let report = report(&case);
    assert_eq!(report.coverage.observed, whole.observed - 2);
    assert_eq!(report.coverage.bounded, 2);
    let text = report.text(false);
    assert!(text.contains("mfill_get_vma x2"), "{text}");
    assert!(text.contains("refused: no memory"), "{text}");
}

#[test]
fn a_search_that_met_something_odd_says_so() {
    let mut odd = found("7.3").unwrap();
    odd.notes
        .push("modules: /proc/kcore: refused: kernel lockdown".to_owned());
    let case = case("7.3", Ok(odd), &[]);
    let report = report(&case);
    assert_eq!(report.coverage.bounded, 1);
    let text = report.text(false);
    assert!(text.contains("note: modules:"), "{text}");
    assert!(text.contains("Would show more:"), "{text}");
}
