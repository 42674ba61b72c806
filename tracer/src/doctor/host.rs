//! What of this machine's settings, and who else on it, stands in the way of looking: each with what would change it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::kernel::Capabilities;
use crate::outside;
use crate::probe::attach::online_cpus;
use crate::probe::perf::{self, Breakpoint};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing stands in the way.
    Ok,
    /// Something costs more, or has to be known to read the results rightly.
    Note,
    /// Something cannot be seen for it.
    Limits,
    /// It could not be found out.
    Unknown,
}

impl Verdict {
    /// The word in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Limits => "limits",
            Self::Unknown => "unknown",
        }
    }
}

/// One setting, or one kind of neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostCheck {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found, and what follows from it.
    pub found: String,
    /// What would change that, if it is not `ok`.
    pub remedy: Option<String>,
}

/// What is read of the machine, before anything of ours is attached.
#[derive(Clone, Debug, Default)]
pub struct Host {
    checks: Vec<HostCheck>,
    /// Functions that ftrace calls somebody for.
    ftraced: Option<BTreeSet<String>>,
    /// Functions with a kprobe in them.
    kprobed: Option<BTreeSet<String>>,
    /// Functions that a live patch has replaced, and which patch.
    patched: Vec<(String, String)>,
}

impl Host {
    /// Reads what is below a root, `/` on a live machine. `slots`: hardware breakpoints that are free on every CPU, as far as
    /// that could be tried.
    pub fn read(root: &Path, slots: Result<u32, String>) -> Self {
        let status = root.join("proc/self/status");
        let capabilities = Capabilities::read(&status).unwrap_or_default();
        Self {
            checks: vec![
                permitted(capabilities),
                paranoid(root, capabilities),
                pointers(root, capabilities),
                switch(
                    root,
                    "ftrace_enabled",
                    "proc/sys/kernel/ftrace_enabled",
                    Verdict::Limits,
                    "entries and returns of functions (fentry, fexit) are not reported",
                    "sysctl kernel.ftrace_enabled=1",
                ),
                switch(
                    root,
                    "bpf_jit_enable",
                    "proc/sys/net/core/bpf_jit_enable",
                    Verdict::Limits,
                    "programs are interpreted: they cost several times as much, and fentry and fexit are refused",
                    "sysctl net.core.bpf_jit_enable=1",
                ),
                switch(
                    root,
                    "kprobes_optimization",
                    "proc/sys/debug/kprobes-optimization",
                    Verdict::Note,
                    "each probe on an instruction is a trap, which costs more than twice as much as a jump",
                    "sysctl debug.kprobes-optimization=1",
                ),
                breakpoints(slots),
            ],
            ftraced: names(
                root,
                &["sys/kernel/tracing", "sys/kernel/debug/tracing"],
                "enabled_functions",
                0,
            ),
            kprobed: names(root, &["sys/kernel/debug/kprobes"], "list", 2),
            patched: patched(&root.join("sys/kernel/livepatch")),
        }
    }

    /// All checks, those included that are about the functions that we look at.
    pub(super) fn checks(&self, ours: &BTreeSet<&str>) -> Vec<HostCheck> {
        let mut checks = self.checks.clone();
        checks.push(self.live_patches(ours));
        checks.push(self.others(ours));
        checks
    }

    fn live_patches(&self, ours: &BTreeSet<&str>) -> HostCheck {
        let replaced: Vec<String> = self
            .patched
            .iter()
            .filter(|(function, _)| ours.contains(function.as_str()))
            .map(|(function, patch)| {
                format!(
                    "{} (by {})",
                    outside::name(function.as_bytes()),
                    outside::name(patch.as_bytes())
                )
            })
            .collect();
        let patches: BTreeSet<&str> = self.patched.iter().map(|(_, patch)| patch.as_str()).collect();
        let (verdict, found, remedy) = if !replaced.is_empty() {
            (
                Verdict::Limits,
                format!(
                    "replaced by a live patch: {}. Probes on instructions of the old text are never reached; those at \
                     entries and returns are",
                    replaced.join(", ")
                ),
                Some("take the patch out (echo 0 > /sys/kernel/livepatch/NAME/enabled), or boot a kernel that has its changes".to_owned()),
            )
        } else if patches.is_empty() {
            (Verdict::Ok, "none".to_owned(), None)
        } else {
            (
                Verdict::Ok,
                format!("{} active, none on a function that is looked at", patches.len()),
                None,
            )
        };
        HostCheck {
            name: "livepatch",
            verdict,
            found,
            remedy,
        }
    }

    fn others(&self, ours: &BTreeSet<&str>) -> HostCheck {
        let name = "other_tracers";
        let (Some(ftraced), Some(kprobed)) = (&self.ftraced, &self.kprobed) else {
            return HostCheck {
                name,
                verdict: Verdict::Unknown,
                found: "enabled_functions of tracefs and the list of kprobes of debugfs cannot both be read".to_owned(),
                remedy: Some(
                    "mount -t tracefs nodev /sys/kernel/tracing; mount -t debugfs nodev /sys/kernel/debug; run as root".to_owned(),
                ),
            };
        };
        let on = |theirs: &BTreeSet<String>| -> Vec<String> {
            let both = theirs.iter().filter(|function| ours.contains(function.as_str()));
            both.map(|function| outside::name(function.as_bytes()).into_owned())
                .collect()
        };
        let lists = [("by ftrace or BPF", on(ftraced)), ("by kprobe", on(kprobed))];
        let parts: Vec<String> = lists
            .iter()
            .filter(|(_, functions)| !functions.is_empty())
            .map(|(how, functions)| format!("{how}: {}", functions.join(", ")))
            .collect();
        if parts.is_empty() {
            return HostCheck {
                name,
                verdict: Verdict::Ok,
                found: "nobody else has a probe on a function that is looked at".to_owned(),
                remedy: None,
            };
        }
        HostCheck {
            name,
            verdict: Verdict::Note,
            found: format!(
                "somebody else looks at the same functions ({}). Both work, and the time of each is in the other's",
                parts.join("; ")
            ),
            remedy: Some(
                "bpftool link, and trace-cmd stat, tell who; stop them before you measure times".to_owned(),
            ),
        }
    }
}

/// How many hardware breakpoints are free on every CPU, found out by taking them for a moment.
///
/// # Errors
/// Why they cannot be tried, in words.
pub fn free_breakpoints() -> Result<u32, String> {
    /// Any address of the kernel's text does: they are never switched on.
    const ADDRESS: u64 = 0xffff_ffff_8100_0000;
    /// More than any processor has.
    const MOST: u32 = 16;
    let cpus = online_cpus().map_err(|error| format!("{error:#}"))?;
    let mut taken = Vec::new();
    for free in 0..MOST {
        for &cpu in &cpus {
            match perf::breakpoint_event(Breakpoint::Execute, ADDRESS, cpu) {
                Ok(event) => taken.push(event),
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EBUSY)) => {
                    return Ok(free);
                }
                Err(error) => return Err(format!("the kernel refuses hardware breakpoints: {error}")),
            }
        }
    }
    Ok(MOST)
}

fn permitted(has: Capabilities) -> HostCheck {
    let all = [
        (has.bpf, "CAP_BPF"),
        (has.perfmon, "CAP_PERFMON"),
        (has.ptrace, "CAP_SYS_PTRACE"),
        (has.syslog, "CAP_SYSLOG"),
    ];
    let missing: Vec<&str> = all
        .iter()
        .filter(|(has, _)| !has)
        .map(|(_, name)| *name)
        .collect();
    let why = |name: &&str| {
        match *name {
            "CAP_SYS_PTRACE" => "CAP_SYS_PTRACE (without it programs' frames in stacks have no names)",
            "CAP_SYSLOG" => "CAP_SYSLOG (without it functions of the kernel have no addresses)",
            name => name,
        }
        .to_owned()
    };
    HostCheck {
        name: "capabilities",
        verdict: if missing.is_empty() {
            Verdict::Ok
        } else {
            Verdict::Limits
        },
        found: if missing.is_empty() {
            "CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_SYSLOG".to_owned()
        } else {
            format!(
                "missing: {}",
                missing.iter().map(why).collect::<Vec<_>>().join(", ")
            )
        },
        remedy: (!missing.is_empty()).then(|| {
            "run it with sudo, or setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_syslog+ep on the program"
                .to_owned()
        }),
    }
}

fn number(root: &Path, file: &str) -> Option<i64> {
    fs::read_to_string(root.join(file)).ok()?.trim().parse().ok()
}

fn unknown(name: &'static str, file: &str) -> HostCheck {
    HostCheck {
        name,
        verdict: Verdict::Unknown,
        found: format!("/{file} cannot be read"),
        remedy: Some("a kernel that has it, or proc mounted; nothing else depends on knowing".to_owned()),
    }
}

fn paranoid(root: &Path, has: Capabilities) -> HostCheck {
    const FILE: &str = "proc/sys/kernel/perf_event_paranoid";
    let name = "perf_event_paranoid";
    let Some(level) = number(root, FILE) else {
        return unknown(name, FILE);
    };
    if has.perfmon || level < 0 {
        HostCheck {
            name,
            verdict: Verdict::Ok,
            found: format!("{level}; CAP_PERFMON stands above it"),
            remedy: None,
        }
    } else {
        HostCheck {
            name,
            verdict: Verdict::Limits,
            found: format!("{level}, and without CAP_PERFMON no probe can be opened"),
            remedy: Some("run it with sudo, or give it CAP_PERFMON; sysctl kernel.perf_event_paranoid alone is not enough".to_owned()),
        }
    }
}

fn pointers(root: &Path, has: Capabilities) -> HostCheck {
    const FILE: &str = "proc/sys/kernel/kptr_restrict";
    let name = "kptr_restrict";
    let Some(level) = number(root, FILE) else {
        return unknown(name, FILE);
    };
    let hidden = "the kernel hides the addresses of its functions: its text cannot be searched, and stacks have no names";
    let (verdict, found, remedy) = match level {
        0 => (Verdict::Ok, "0".to_owned(), None),
        1 if has.syslog => (Verdict::Ok, "1; CAP_SYSLOG stands above it".to_owned(), None),
        1 => (
            Verdict::Limits,
            format!("1, and without CAP_SYSLOG {hidden}"),
            Some("run it with sudo, or give it CAP_SYSLOG".to_owned()),
        ),
        level => (
            Verdict::Limits,
            format!("{level}: {hidden}, whoever asks"),
            Some("sysctl kernel.kptr_restrict=1".to_owned()),
        ),
    };
    HostCheck {
        name,
        verdict,
        found,
        remedy,
    }
}

/// A setting that should not be 0.
fn switch(
    root: &Path,
    name: &'static str,
    file: &str,
    off: Verdict,
    follows: &str,
    remedy: &str,
) -> HostCheck {
    match number(root, file) {
        None => unknown(name, file),
        Some(0) => HostCheck {
            name,
            verdict: off,
            found: format!("0: {follows}"),
            remedy: Some(remedy.to_owned()),
        },
        Some(level) => HostCheck {
            name,
            verdict: Verdict::Ok,
            found: level.to_string(),
            remedy: None,
        },
    }
}

fn breakpoints(slots: Result<u32, String>) -> HostCheck {
    let name = "breakpoints";
    match slots {
        Ok(0) => HostCheck {
            name,
            verdict: Verdict::Limits,
            found: "no hardware breakpoint is free on every CPU: instructions that take no kprobe stay unseen, and tracer watch cannot work".to_owned(),
            remedy: Some("end whoever has them: gdb with hbreak or watch, perf record -e mem:, another tracer".to_owned()),
        },
        Ok(free) => HostCheck {
            name,
            verdict: Verdict::Ok,
            found: format!("{free} free on every CPU"),
            remedy: None,
        },
        Err(why) => HostCheck {
            name,
            verdict: Verdict::Unknown,
            found: why,
            remedy: Some("a machine with hardware breakpoints, and CAP_SYS_ADMIN to try them".to_owned()),
        },
    }
}

/// The functions in a list of the kernel: one column of each line, without the distance behind the name.
fn names(root: &Path, folders: &[&str], file: &str, column: usize) -> Option<BTreeSet<String>> {
    let text = folders
        .iter()
        .find_map(|folder| fs::read_to_string(root.join(folder).join(file)).ok())?;
    let functions = text.lines().filter_map(|line| {
        let word = line.split_whitespace().nth(column)?;
        Some(word.split('+').next().unwrap_or(word).to_owned())
    });
    Some(functions.collect())
}

/// `/sys/kernel/livepatch/PATCH/OBJECT/FUNCTION,POSITION`, of patches that are on.
fn patched(folder: &Path) -> Vec<(String, String)> {
    let entries = |folder: &Path| {
        let all = fs::read_dir(folder).into_iter().flatten().flatten();
        let folders = all.filter(|entry| entry.path().is_dir());
        folders
            .map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned()))
            .collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    for (patch, name) in entries(folder) {
        if fs::read_to_string(patch.join("enabled")).is_ok_and(|on| on.trim() == "1") {
            for (object, _) in entries(&patch) {
                for (_, function) in entries(&object) {
                    let function = function.split(',').next().unwrap_or_default().to_owned();
                    found.push((function, name.clone()));
                }
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine, as files.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let usual = [
            ("proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n"),
            ("proc/sys/kernel/perf_event_paranoid", "3\n"),
            ("proc/sys/kernel/kptr_restrict", "1\n"),
            ("proc/sys/kernel/ftrace_enabled", "1\n"),
            ("proc/sys/net/core/bpf_jit_enable", "1\n"),
            ("proc/sys/debug/kprobes-optimization", "1\n"),
            ("sys/kernel/tracing/enabled_functions", "vfs_read (1) R I\n"),
            ("sys/kernel/debug/kprobes/list", ""),
        ];
        for (name, text) in usual.iter().chain(files) {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn checks(root: &Path) -> Vec<HostCheck> {
        let ours = BTreeSet::from(["handle_mm_fault", "vma_start_read"]);
        Host::read(root, Ok(4)).checks(&ours)
    }

    /// All that is not well.
    fn not_well(root: &Path) -> Vec<(&'static str, Verdict)> {
        let all = checks(root).into_iter();
        let bad = all.filter(|check| check.verdict != Verdict::Ok);
        bad.map(|check| {
            assert!(check.remedy.is_some(), "{check:?}");
            (check.name, check.verdict)
        })
        .collect()
    }

    #[test]
    fn a_usual_machine_is_well() {
        let root = machine(&[]);
        assert_eq!(not_well(root.path()), []);
        assert!(checks(root.path()).iter().all(|check| check.remedy.is_none()));
    }

    #[test]
    fn each_setting_is_told_with_what_changes_it() {
        let root = machine(&[
            ("proc/self/status", "CapEff:\t0000000000000000\n"),
            ("proc/sys/kernel/ftrace_enabled", "0\n"),
            ("proc/sys/net/core/bpf_jit_enable", "0\n"),
            ("proc/sys/debug/kprobes-optimization", "0\n"),
        ]);
        let expected = [
            ("capabilities", Verdict::Limits),
            ("perf_event_paranoid", Verdict::Limits),
            ("kptr_restrict", Verdict::Limits),
            ("ftrace_enabled", Verdict::Limits),
            ("bpf_jit_enable", Verdict::Limits),
            ("kprobes_optimization", Verdict::Note),
        ];
        assert_eq!(not_well(root.path()), expected);
    }

    #[test]
    fn two_hides_addresses_from_root_too() {
        let root = machine(&[("proc/sys/kernel/kptr_restrict", "2\n")]);
        assert_eq!(not_well(root.path()), [("kptr_restrict", Verdict::Limits)]);
    }

    #[test]
    fn others_count_only_on_the_same_functions() {
        let root = machine(&[
            (
                "sys/kernel/tracing/enabled_functions",
                "handle_mm_fault (2) R   tramp: x\nvfs_read (1)\n",
            ),
            (
                "sys/kernel/debug/kprobes/list",
                "ffffffff81 k vma_start_read+0x122 [OPTIMIZED]\nffffffff82 k vfs_write+0x0 [FTRACE]\n",
            ),
        ]);
        let all = checks(root.path());
        let others = all.iter().find(|check| check.name == "other_tracers").unwrap();
        assert_eq!(others.verdict, Verdict::Note);
        assert!(
            others
                .found
                .contains("handle_mm_fault; by kprobe: vma_start_read"),
            "{}",
            others.found
        );
        assert!(!others.found.contains("vfs"), "{}", others.found);
    }

    #[test]
    fn only_active_patches_of_our_functions_limit() {
        let patch = |on: &str, function: &str| {
            machine(&[
                ("sys/kernel/livepatch/fix/enabled", on),
                (&format!("sys/kernel/livepatch/fix/vmlinux/{function},1/x"), ""),
            ])
        };
        assert_eq!(
            not_well(patch("1\n", "handle_mm_fault").path()),
            [("livepatch", Verdict::Limits)]
        );
        assert_eq!(not_well(patch("0\n", "handle_mm_fault").path()), []);
        assert_eq!(not_well(patch("1\n", "vfs_read").path()), []);
    }

    #[test]
    fn what_cannot_be_read_is_not_called_well() {
        let root = tempfile::tempdir().unwrap();
        let all = Host::read(root.path(), Err("refused".to_owned())).checks(&BTreeSet::new());
        let well: Vec<&str> = all
            .iter()
            .filter(|check| check.verdict == Verdict::Ok)
            .map(|check| check.name)
            .collect();
        assert_eq!(well, ["livepatch"]);
    }
}
