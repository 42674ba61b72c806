//! Loads and attaches a plan. Each probe by itself: one that fails is a line in `doctor`, not a failed start.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::{io, mem};

use anyhow::Context as _;
use aya::programs::{BtfTracePoint, FEntry, FExit, KProbe, Program, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_info};

use super::{Attach, Plan, Planned};
use crate::info::UnseenInfo;
use crate::kernel::{Facts, Lockdown};

/// The object with all programs, built by `cargo xtask build-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TRACER_EBPF_OBJECT"));

/// What the user wants of the programs, beyond the plan.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the ring buffer in bytes: a power of two, and a multiple of the page size.
    pub ring_bytes: u32,
    /// Process to leave out, 0: none.
    pub exclude_pid: u32,
    /// Only these processes; empty: all, unless `follow`.
    pub pids: Vec<u32>,
    /// Follow forks of the traced processes; the set may start empty.
    pub follow: bool,
    /// Only these threads; empty: all.
    pub tids: Vec<u32>,
    /// Only threads of this name.
    pub comm: Option<[u8; 16]>,
    /// Kinds to record, one bit by number.
    pub kinds: u64,
    /// Let the programs log.
    pub log: bool,
}

/// Loads the object and attaches what the plan says. What fails is moved from the plan's sites to its unseen.
///
/// # Errors
/// When the object as a whole cannot be loaded, or not a single probe could be attached.
pub fn attach(plan: &mut Plan, facts: &Facts, options: &Options) -> anyhow::Result<Ebpf> {
    let btf = Btf::from_sys_fs().context("cannot read /sys/kernel/btf/vmlinux")?;
    let mut ebpf = load(plan, &btf, options)?;
    fill_filters(&mut ebpf, options)?;

    if options.follow {
        for (program, tracepoint) in
            [("follow_fork", "sched_process_fork"), ("follow_free", "sched_process_free")]
        {
            let attach = Attach::TpBtf(tracepoint);
            attach_one(&mut ebpf, &btf, program, &attach)
                .with_context(|| format!("cannot follow child processes ({tracepoint})"))?;
        }
    }
    let mut first_error = None;
    let mut attached = 0;
    let probes = plan.probes.clone();
    for Planned { program, attach, site } in &probes {
        match attach_one(&mut ebpf, &btf, program, attach) {
            Ok(()) => {
                plan.sites[*site as usize].attached = true;
                attached += 1;
            }
            Err(error) => {
                let why = explain(&error, facts);
                log::info!("{program}: {why}");
                log::debug!("{program}: {error}");
                let info = &mut plan.sites[*site as usize];
                info.attached = false;
                info.reason.clone_from(&why);
                plan.unseen.push(UnseenInfo {
                    operation: info.operation.clone(),
                    function: info.function.clone(),
                    reason: why.clone(),
                    remedy: remedy(facts),
                });
                first_error.get_or_insert(why);
            }
        }
    }
    match first_error {
        Some(why) if attached == 0 => anyhow::bail!("no probe could be attached: {why}; -vv tells more"),
        _ => {
            plan.settle();
            Ok(ebpf)
        }
    }
}

fn load(plan: &Plan, btf: &Btf, options: &Options) -> anyhow::Result<Ebpf> {
    let on = |yes: bool| u8::from(yes);
    let filter_pids = on(options.follow || !options.pids.is_empty());
    let filter_tids = on(!options.tids.is_empty());
    let filter_comm = on(options.comm.is_some());
    let comm = options.comm.unwrap_or_default();
    let log_level: u8 = if options.log { aya_log::Level::Debug as u8 } else { 0 };

    let mut loader = EbpfLoader::new();
    loader.btf(Some(btf));
    for (name, value) in &plan.globals.words {
        loader.override_global(name, value, true);
    }
    for (name, value) in &plan.globals.bytes {
        loader.override_global(name, value, true);
    }
    loader
        .override_global("FILTER_KINDS", &options.kinds, true)
        .override_global("FILTER_SELF", &options.exclude_pid, true)
        .override_global("FILTER_PIDS", &filter_pids, true)
        .override_global("FILTER_TIDS", &filter_tids, true)
        .override_global("FILTER_COMM", &filter_comm, true)
        .override_global("COMM", &comm, true)
        .override_global("AYA_LOG_LEVEL", &log_level, false)
        .map_max_entries("EVENTS", options.ring_bytes);
    loader.load(OBJECT).context("cannot create the maps of the probes")
}

fn fill_filters(ebpf: &mut Ebpf, options: &Options) -> anyhow::Result<()> {
    for (map, ids) in [("PIDS", &options.pids), ("TIDS", &options.tids)] {
        let map = ebpf.map_mut(map).with_context(|| format!("the object has no map {map}"))?;
        let mut map = aya::maps::HashMap::<_, u32, u8>::try_from(map)?;
        for id in ids {
            map.insert(id, 1, 0).context("cannot set a filter: too many processes or threads")?;
        }
    }
    Ok(())
}

fn attach_one(ebpf: &mut Ebpf, btf: &Btf, name: &str, attach: &Attach) -> Result<(), ProgramError> {
    let program = ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?;
    match attach {
        Attach::TpBtf(tracepoint) => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(tracepoint, btf)?;
            program.attach()?;
        }
        Attach::FEntry(function) => {
            let program: &mut FEntry = program.try_into()?;
            program.load(function, btf)?;
            program.attach()?;
        }
        Attach::FExit(function) => {
            let program: &mut FExit = program.try_into()?;
            program.load(function, btf)?;
            program.attach()?;
        }
        Attach::KProbe(offsets) | Attach::KRetProbe(offsets) => {
            let program: &mut KProbe = program.try_into()?;
            program.load()?;
            for offset in offsets {
                program.attach("_text", *offset)?;
            }
        }
    }
    Ok(())
}

/// What went wrong, in a line.
fn explain(error: &ProgramError, facts: &Facts) -> String {
    let os = match error {
        ProgramError::LoadError { io_error, .. } => Some(io_error.raw_os_error()),
        ProgramError::SyscallError(call) => Some(call.io_error.raw_os_error()),
        _ => None,
    };
    match os.flatten() {
        Some(libc::EPERM) if facts.lockdown == Lockdown::Confidentiality => {
            "refused: kernel lockdown (confidentiality) forbids reading kernel memory".to_owned()
        }
        Some(libc::EPERM) => match facts.lockdown {
            Lockdown::Integrity => "refused (EPERM); kernel lockdown is at integrity".to_owned(),
            Lockdown::Unknown => "refused (EPERM); whether by kernel lockdown cannot be told, securityfs is not mounted".to_owned(),
            _ => "refused (EPERM) though kernel lockdown is off".to_owned(),
        },
        Some(libc::EBUSY) => "refused (EBUSY): the function cannot be patched, or somebody else holds it".to_owned(),
        Some(code) => format!("refused: {}", io::Error::from_raw_os_error(code)),
        None => error.to_string(),
    }
}

fn remedy(facts: &Facts) -> String {
    match facts.lockdown {
        Lockdown::Confidentiality | Lockdown::Integrity => "boot with lockdown=none, or without Secure Boot".to_owned(),
        _ => "run with -v to see what the kernel said".to_owned(),
    }
}

/// Detaches everything, in parallel as far as the kernel lets us, by closing it.
pub fn detach(ebpf: &mut Ebpf) {
    for (name, program) in ebpf.programs_mut() {
        let result = match program {
            Program::BtfTracePoint(program) => program.unload(),
            Program::FEntry(program) => program.unload(),
            Program::FExit(program) => program.unload(),
            Program::KProbe(program) => program.unload(),
            _ => Ok(()),
        };
        match result {
            Ok(()) | Err(ProgramError::NotLoaded) => {}
            Err(error) => log::warn!("{name} could not be unloaded: {error}"),
        }
    }
}

/// Runs of probes that the kernel skipped since the probe was already running on that CPU, over all programs.
pub fn missed(ebpf: &Ebpf) -> u64 {
    ebpf.programs()
        .filter_map(|(_, program)| program.fd().ok())
        .filter_map(|fd| match recursion_misses(fd.as_fd()) {
            Ok(count) => Some(count),
            Err(error) => {
                log::warn!("cannot read a probe's statistics: {error}");
                None
            }
        })
        .sum()
}

/// `bpf_prog_info.recursion_misses`, which aya does not hand out.
fn recursion_misses(program: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: both are plain C structures for which all zeroes is a valid value.
    let (mut info, mut request): (bpf_prog_info, bpf_attr) = unsafe { (mem::zeroed(), mem::zeroed()) };
    request.info.bpf_fd = program.as_raw_fd() as u32;
    request.info.info_len = size_of::<bpf_prog_info>() as u32;
    request.info.info = (&raw mut info) as u64;
    // SAFETY: the request points to `info` with its right length; both live until the call returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_OBJ_GET_INFO_BY_FD as libc::c_long,
            &raw mut request,
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(info.recursion_misses) }
}
