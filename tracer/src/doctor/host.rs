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

impl HostCheck {
    fn well(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    fn not_well(name: &'static str, verdict: Verdict, found: impl Into<String>, remedy: &str) -> Self {
        Self {
            name,
            verdict,
            found: found.into(),
            remedy: Some(remedy.to_owned()),
        }
    }
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
    pub fn read(root: &Path, capabilities: Capabilities, slots: Result<u32, String>) -> Self {
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

    /// What of the settings is in the way, for people.
    pub fn in_the_way(&self) -> String {
        let mut out = String::new();
        super::table::host(&mut out, &self.checks);
        out
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
        const NAME: &str = "livepatch";
        if !replaced.is_empty() {
            let found = format!(
                "replaced by a live patch: {}. Probes on instructions of the old text are never reached; those at entries and \
                 returns are",
                replaced.join(", ")
            );
            const REMEDY: &str = "take the patch out (echo 0 > /sys/kernel/livepatch/NAME/enabled), or boot a kernel that has \
                                  its changes";
            HostCheck::not_well(NAME, Verdict::Limits, found, REMEDY)
        } else if patches.is_empty() {
            HostCheck::well(NAME, "none")
        } else {
            let found = format!("{} active, none on a function that is looked at", patches.len());
            HostCheck::well(NAME, found)
        }
    }

    fn others(&self, ours: &BTreeSet<&str>) -> HostCheck {
        const NAME: &str = "other_tracers";
        let (Some(ftraced), Some(kprobed)) = (&self.ftraced, &self.kprobed) else {
            return HostCheck::not_well(
                NAME,
                Verdict::Unknown,
                "enabled_functions of tracefs and the list of kprobes of debugfs cannot both be read",
                "mount -t tracefs nodev /sys/kernel/tracing; mount -t debugfs nodev /sys/kernel/debug; run as root",
            );
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
            return HostCheck::well(NAME, "nobody else has a probe on a function that is looked at");
        }
        let found = format!(
            "somebody else looks at the same functions ({}). Both work, and the time of each is in the other's",
            parts.join("; ")
        );
        const REMEDY: &str = "bpftool link, and trace-cmd stat, tell who; stop them before you measure times";
        HostCheck::not_well(NAME, Verdict::Note, found, REMEDY)
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
    const NAME: &str = "capabilities";
    let all = [
        (has.bpf, "CAP_BPF"),
        (has.perfmon, "CAP_PERFMON"),
        (
            has.ptrace,
            "CAP_SYS_PTRACE (without it programs' frames in stacks have no names)",
        ),
        (
            has.syslog,
            "CAP_SYSLOG (without it functions of the kernel have no addresses)",
        ),
    ];
    let missing: Vec<&str> = all
        .iter()
        .filter(|(has, _)| !has)
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        return HostCheck::well(NAME, "CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_SYSLOG");
    }
    HostCheck::not_well(
        NAME,
        Verdict::Limits,
        format!("missing: {}", missing.join(", ")),
        "run it with sudo, or setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_syslog+ep on the program",
    )
}

fn number(root: &Path, file: &str) -> Option<i64> {
    fs::read_to_string(root.join(file)).ok()?.trim().parse().ok()
}

fn unknown(name: &'static str, file: &str) -> HostCheck {
    HostCheck::not_well(
        name,
        Verdict::Unknown,
        format!("/{file} cannot be read"),
        "mount -t proc proc /proc; a kernel that was built without it has no such file",
    )
}

fn paranoid(root: &Path, has: Capabilities) -> HostCheck {
    const FILE: &str = "proc/sys/kernel/perf_event_paranoid";
    const NAME: &str = "perf_event_paranoid";
    match number(root, FILE) {
        None => unknown(NAME, FILE),
        Some(level) if has.perfmon => HostCheck::well(NAME, format!("{level}; CAP_PERFMON stands above it")),
        Some(level) => HostCheck::not_well(
            NAME,
            Verdict::Limits,
            format!("{level}, and without CAP_PERFMON no probe can be opened"),
            "run it with sudo, or give it CAP_PERFMON; sysctl kernel.perf_event_paranoid alone is not enough",
        ),
    }
}

fn pointers(root: &Path, has: Capabilities) -> HostCheck {
    const FILE: &str = "proc/sys/kernel/kptr_restrict";
    const NAME: &str = "kptr_restrict";
    const HIDDEN: &str = "the kernel hides the addresses of its functions: its text cannot be searched, and stacks have no names";
    let limits = |found: String, remedy: &str| HostCheck::not_well(NAME, Verdict::Limits, found, remedy);
    match number(root, FILE) {
        None => unknown(NAME, FILE),
        Some(0) => HostCheck::well(NAME, "0"),
        Some(1) if has.syslog => HostCheck::well(NAME, "1; CAP_SYSLOG stands above it"),
        Some(1) => limits(
            format!("1, and without CAP_SYSLOG {HIDDEN}"),
            "run it with sudo, or give it CAP_SYSLOG",
        ),
        Some(level) => limits(
            format!("{level}: {HIDDEN}, whoever asks"),
            "sysctl kernel.kptr_restrict=1",
        ),
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
        Some(0) => HostCheck::not_well(name, off, format!("0: {follows}"), remedy),
        Some(level) => HostCheck::well(name, level.to_string()),
    }
}

fn breakpoints(slots: Result<u32, String>) -> HostCheck {
    const NAME: &str = "breakpoints";
    match slots {
        Ok(0) => HostCheck::not_well(
            NAME,
            Verdict::Limits,
            "no hardware breakpoint is free on every CPU: instructions that take no kprobe stay unseen, and tracer watch \
             cannot work",
            "end whoever has them: gdb with hbreak or watch, perf record -e mem:, another tracer",
        ),
        Ok(free) => HostCheck::well(NAME, format!("{free} free on every CPU")),
        Err(why) => HostCheck::not_well(
            NAME,
            Verdict::Unknown,
            why,
            "a machine with hardware breakpoints, and CAP_SYS_ADMIN to try them",
        ),
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

    const ALL: Capabilities = Capabilities {
        bpf: true,
        perfmon: true,
        syslog: true,
        ptrace: true,
    };

    fn checks_with(root: &Path, has: Capabilities) -> Vec<HostCheck> {
        let ours = BTreeSet::from(["handle_mm_fault", "vma_start_read"]);
        Host::read(root, has, Ok(4)).checks(&ours)
    }

    fn checks(root: &Path) -> Vec<HostCheck> {
        checks_with(root, ALL)
    }

    /// All that is not well.
    fn not_well(root: &Path) -> Vec<(&'static str, Verdict)> {
        of_those(checks(root))
    }

    fn of_those(all: Vec<HostCheck>) -> Vec<(&'static str, Verdict)> {
        let all = all.into_iter();
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
        let found = of_those(checks_with(root.path(), Capabilities::default()));
        assert_eq!(found, expected);
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
        let all = Host::read(root.path(), ALL, Err("refused".to_owned())).checks(&BTreeSet::new());
        let well: Vec<&str> = all
            .iter()
            .filter(|check| check.verdict == Verdict::Ok)
            .map(|check| check.name)
            .collect();
        assert_eq!(well, ["capabilities", "livepatch"]);
    }
}
