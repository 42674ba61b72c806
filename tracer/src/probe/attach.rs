//! Loads and attaches a plan. Each probe by itself: one that fails is a line in `doctor`, not a failed start.

use std::collections::{BTreeMap, HashMap};
use std::io::IsTerminal as _;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};
use std::{io, mem, thread};

use anyhow::Context as _;
use aya::programs::{BtfTracePoint, FEntry, FExit, KProbe, Program, ProgramError, TracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_info};

use super::instructions::{self, Instructions};
use super::mapped::Mapped;
use super::{Attach, Mechanism, Plan, Planned};
use tracer_common::site::{FIRST_DYNAMIC, SiteEntry};
use tracer_common::wire::MAX_SITES;

use crate::cgroup::Cgroup;
use crate::info::UnseenInfo;
use crate::kernel::{Facts, Lockdown};
use crate::mode::Mode;
use crate::range::Range;

/// The object with all programs, built by `cargo xtask build-ebpf`.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TRACER_EBPF_OBJECT"));

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
    /// Only tasks in this cgroup or below it.
    pub cgroup: Option<Cgroup>,
    /// Only VMAs that reach into this range of addresses.
    pub addr: Option<Range>,
    /// Kinds to record, one bit by number.
    pub kinds: u64,
    /// Name the frames of programs, which takes locks of theirs.
    pub user_symbols: bool,
    /// Keep temporary readers from leaving for so long, in nanoseconds.
    pub linger_ns: u32,
    /// How much comes out of the kernel.
    pub mode: Mode,
    /// With holds alone: only those that lasted so long, in nanoseconds.
    pub holds_from_ns: u64,
    /// Sum up besides, whatever the mode.
    pub sums: bool,
    /// Let the programs log.
    pub log: bool,
    /// Load and attach what would be recorded with, but let it make no event.
    pub idle: bool,
}

/// aya, ready to load.
pub struct Loader {
    /// The kernel's types, as far as programs are attached by them.
    pub btf: Btf,
    /// The loader, which has read the kernel's types by itself.
    pub loader: EbpfLoader<'static>,
}

/// All that is attached.
pub struct Attached {
    /// The object.
    pub ebpf: Ebpf,
    /// Programs that are still to come.
    pub later: Later,
    instructions: Instructions,
}

/// The program for instructions, by kprobe and by breakpoint.
pub(super) const POINT: &str = "point";
pub(super) const POINT_BREAKPOINT: &str = "point_breakpoint";

/// Loads the object and attaches what the plan says. What fails is moved from the plan's sites to its unseen.
///
/// # Errors
/// When the object as a whole cannot be loaded, or not a single probe could be attached.
pub fn attach(plan: &mut Plan, facts: &Facts, loader: Loader, options: &Options) -> anyhow::Result<Attached> {
    let Loader { btf, loader } = loader;
    let start = Instant::now();
    let mut ebpf = load(plan, &btf, loader, options)?;
    log::debug!("maps made in {} ms", start.elapsed().as_millis());
    fill_filters(&mut ebpf, options)?;
    fill_points(&mut ebpf, plan)?;

    let mut follow = Vec::new();
    if options.follow {
        follow.extend([
            ("follow_fork", "sched_process_fork"),
            ("follow_free", "sched_process_free"),
        ]);
    }
    let mut later = Vec::new();
    if options.follow && plan.twice {
        later.push((
            "follow_fork_again".to_owned(),
            Attach::TpBtf("sched_process_fork"),
        ));
    }
    let mut first = Vec::new();
    for Planned {
        program,
        attach,
        again,
        ..
    } in &plan.probes
    {
        // The second program has to run after the first: a tracepoint calls the oldest first, a function's
        // trampoline the newest. Either does all the work alone until the other is there.
        match again {
            Some(again) if matches!(attach, Attach::TpBtf(_)) => {
                first.push((*program).to_owned());
                later.push((again.clone(), attach.clone()));
            }
            Some(again) => {
                first.push(again.clone());
                later.push(((*program).to_owned(), attach.clone()));
            }
            None => first.push((*program).to_owned()),
        }
    }
    let hooks = plan.probes.iter().map(|probe| probe.attach.clone());
    let mut wanted: Vec<(String, Attach)> = first.iter().cloned().zip(hooks).collect();
    wanted.extend(
        follow
            .iter()
            .map(|&(program, tracepoint)| (program.to_owned(), Attach::TpBtf(tracepoint))),
    );
    let by_breakpoint = |point: &super::Point| point.by == Mechanism::Breakpoint;
    if !plan.points.iter().all(by_breakpoint) {
        wanted.push((POINT.to_owned(), Attach::Instructions));
    }
    if plan.points.iter().any(by_breakpoint) {
        wanted.push((POINT_BREAKPOINT.to_owned(), Attach::Instructions));
    }
    let mut loaded = load_programs(&mut ebpf, &btf, &wanted);
    // Instructions are attached beside all else: most of it is waiting.
    let kprobe = program_fd(&ebpf, POINT, loaded.remove(POINT));
    let breakpoint = program_fd(&ebpf, POINT_BREAKPOINT, loaded.remove(POINT_BREAKPOINT));
    let points = plan.points.clone();
    let cpus = online_cpus()?;
    let instructions = thread::spawn(move || {
        let programs = instructions::Programs {
            kprobe: kprobe.as_ref().map(AsFd::as_fd),
            breakpoint: breakpoint.as_ref().map(AsFd::as_fd),
        };
        instructions::attach(&points, &programs, &cpus)
    });
    let mut hook_loaded = |ebpf: &mut Ebpf, program: &str, attach: &Attach| {
        let result = loaded.remove(program).unwrap_or(Err(ProgramError::NotLoaded));
        result.and_then(|()| hook(ebpf, program, attach))
    };

    for (program, tracepoint) in follow {
        hook_loaded(&mut ebpf, program, &Attach::TpBtf(tracepoint))
            .context("cannot follow child processes")?;
    }
    let mut first_error = None;
    let mut attached = 0;
    for (Planned { attach, site, .. }, program) in plan.probes.iter().zip(&first) {
        let start = Instant::now();
        let result = hook_loaded(&mut ebpf, program, attach);
        match result {
            Ok(()) => {
                log::debug!("{program} attached in {} ms", start.elapsed().as_millis());
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
    let (instructions, failed) = instructions
        .join()
        .map_err(|_| anyhow::anyhow!("attaching to instructions failed"))?;
    for point in &plan.points {
        plan.sites[point.site as usize].attached = true;
    }
    for (site, error) in failed {
        let info = &mut plan.sites[site as usize];
        log::info!("{} at {}: {error}", info.mechanism, info.place);
        info.attached = false;
        info.reason = explain_instruction(&info.mechanism, &error, facts);
        plan.unseen.push(UnseenInfo {
            operation: info.operation.clone(),
            function: info.function.clone(),
            reason: info.reason.clone(),
            remedy: remedy(facts),
        });
    }
    match first_error {
        Some(why) if attached == 0 => anyhow::bail!("no probe could be attached: {why}; -vv tells more"),
        _ => {
            plan.settle();
            // Where the one was refused, the other would be, too.
            later.retain(|(_, attach)| {
                plan.probes.iter().any(|probe| probe.attach == *attach)
                    || *attach == Attach::TpBtf("sched_process_fork")
            });
            Ok(Attached {
                ebpf,
                later: Later { btf, programs: later },
                instructions,
            })
        }
    }
}

impl Attached {
    /// Attaches one more of the programs that are still to come; gives how many runs its partner had lost until
    /// then, if that is no longer counted.
    pub fn one_more(&mut self) -> u64 {
        self.later.one(&mut self.ebpf)
    }
}

/// Second programs that are still to come. Events flow without them; they are there for when the kernel skips
/// one of the first.
pub struct Later {
    btf: Btf,
    programs: Vec<(String, Attach)>,
}

impl Later {
    /// Whether all are attached.
    pub fn is_done(&self) -> bool {
        self.programs.is_empty()
    }

    /// Attaches one more; gives how many runs its partner had lost until then, if that is no longer counted.
    pub fn one(&mut self, ebpf: &mut Ebpf) -> u64 {
        let Some((name, attach)) = self.programs.pop() else {
            return 0;
        };
        let start = Instant::now();
        let partner = name
            .strip_suffix("_again")
            .and_then(|partner| ebpf.program(partner)?.fd().ok());
        let lost = partner.map_or(0, |fd| recursion_misses(fd.as_fd()).unwrap_or(0));
        let result = ebpf
            .program_mut(&name)
            .ok_or(ProgramError::NotLoaded)
            .and_then(|program| verify(program, &self.btf, &attach))
            .and_then(|()| hook(ebpf, &name, &attach));
        match result {
            Ok(()) => {
                log::debug!("{name} attached in {} ms", start.elapsed().as_millis());
                lost
            }
            Err(error) => {
                // Its partner does the work alone; what the kernel skips then is counted as missed.
                log::info!("{name}: {error}");
                0
            }
        }
    }
}

/// Gives the programs to the verifier, several at a time: that is most of the time of a start.
fn load_programs<'a>(
    ebpf: &mut Ebpf,
    btf: &Btf,
    wanted: &'a [(String, Attach)],
) -> HashMap<&'a str, Result<(), ProgramError>> {
    let start = Instant::now();
    let jobs: Vec<_> = ebpf
        .programs_mut()
        .filter_map(|(name, program)| {
            let (name, attach) = wanted.iter().find(|(wanted, _)| *wanted == name)?;
            Some((name.as_str(), attach, program))
        })
        .collect();
    let jobs = Mutex::new(jobs);
    let results = Mutex::new(HashMap::new());
    let workers = thread::available_parallelism().map_or(1, usize::from).min(8);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let job = jobs.lock().map(|mut jobs| jobs.pop());
                    let Ok(Some((name, attach, program))) = job else {
                        break;
                    };
                    let result = verify(program, btf, attach);
                    if let Ok(mut results) = results.lock() {
                        results.insert(name, result);
                    }
                }
            });
        }
    });
    log::debug!("programs loaded in {} ms", start.elapsed().as_millis());
    results.into_inner().unwrap_or_default()
}

fn load(plan: &Plan, btf: &Btf, loader: EbpfLoader<'static>, options: &Options) -> anyhow::Result<Ebpf> {
    let on = |yes: bool| u8::from(yes);
    let filter_pids = on(options.follow || !options.pids.is_empty());
    let filter_tids = on(!options.tids.is_empty());
    let filter_comm = on(options.comm.is_some());
    let comm = options.comm.unwrap_or_default();
    let cgroup = options.cgroup.as_ref();
    let (cgroup_from, cgroup_to) = cgroup.map_or((0, 0), |cgroup| cgroup.depth());
    let cgroup = cgroup.map_or(0, |cgroup| cgroup.id);
    let filter_tasks = filter_pids | filter_tids | filter_comm | on(cgroup != 0);
    let (addr_start, addr_end) = options.addr.map_or((0, 0), |addr| (addr.start, addr.end));
    let streams = on(options.mode == Mode::Stream);
    let pairs = on(options.mode != Mode::Stream || options.sums);
    let holds = on(options.mode == Mode::Holds);
    let summary = on(options.mode == Mode::Summary || options.sums);
    let log_level: u8 = if options.log {
        aya_log::Level::Debug as u8
    } else {
        0
    };

    let mut loader: EbpfLoader<'_> = loader;
    loader.btf(Some(btf));
    for (name, value) in &plan.globals.words {
        loader.override_global(name, value, true);
    }
    for (name, value) in &plan.globals.bytes {
        loader.override_global(name, value, true);
    }
    for (name, value) in &plan.globals.longs {
        loader.override_global(name, value, true);
    }
    loader
        .override_global("FILTER_KINDS", &options.kinds, true)
        .override_global("FILTER_SELF", &options.exclude_pid, true)
        .override_global("FILTER_TASKS", &filter_tasks, true)
        .override_global("FILTER_PIDS", &filter_pids, true)
        .override_global("FILTER_TIDS", &filter_tids, true)
        .override_global("FILTER_COMM", &filter_comm, true)
        .override_global("COMM", &comm, true)
        .override_global("FILTER_CGROUP", &cgroup, true)
        .override_global("CGROUP_FROM", &cgroup_from, true)
        .override_global("CGROUP_TO", &cgroup_to, true)
        .override_global("ADDR_START", &addr_start, true)
        .override_global("ADDR_END", &addr_end, true)
        .override_global("LINGER_NS", &options.linger_ns, true)
        .override_global("STREAM", &streams, true)
        .override_global("PAIRS", &pairs, true)
        .override_global("HOLDS", &holds, true)
        .override_global("HOLDS_FROM_NS", &options.holds_from_ns, true)
        .override_global("SUMMARY", &summary, true)
        .override_global("AYA_LOG_LEVEL", &log_level, false)
        .map_max_entries("EVENTS", options.ring_bytes);
    // Memory for what this run does not use would only cost time.
    if !plan.has("vma_start_read_return") {
        loader.map_max_entries("INFLIGHT", 1);
    }
    if options.addr.is_none() {
        loader.map_max_entries("FAULTS", 1);
    }
    if !plan.twice {
        loader.map_max_entries("NOTES", 1);
    }
    if plan.globals.bytes.contains(&("MARKS", 0)) {
        loader.map_max_entries("TASKS", 1);
    }
    if pairs == 0 {
        loader.map_max_entries("PAIRED", 1);
    }
    if filter_pids == 0 {
        loader.map_max_entries("PIDS", 1);
    }
    let cpus = cpus()? as u32;
    loader
        .map_max_entries("COUNTERS", cpus)
        .map_max_entries("SITES", cpus * MAX_SITES)
        .map_max_entries("SUMS", if pairs == 0 { 1 } else { cpus });
    loader
        .load(OBJECT)
        .context("cannot create the maps of the probes")
}

fn fill_filters(ebpf: &mut Ebpf, options: &Options) -> anyhow::Result<()> {
    for (map, ids) in [("PIDS", &options.pids), ("TIDS", &options.tids)] {
        let map = ebpf
            .map_mut(map)
            .with_context(|| format!("the object has no map {map}"))?;
        let mut map = aya::maps::HashMap::<_, u32, u8>::try_from(map)?;
        for id in ids {
            map.insert(id, 1, 0)
                .context("cannot set a filter: too many processes or threads")?;
        }
    }
    Ok(())
}

/// Hands a program to the verifier, for the place where it will go.
fn verify(program: &mut Program, btf: &Btf, attach: &Attach) -> Result<(), ProgramError> {
    match attach {
        Attach::TpBtf(tracepoint) => <&mut BtfTracePoint>::try_from(program)?.load(tracepoint, btf),
        Attach::Tracepoint(..) => <&mut TracePoint>::try_from(program)?.load(),
        Attach::FEntry(function) => <&mut FEntry>::try_from(program)?.load(function, btf),
        Attach::FExit(function) => <&mut FExit>::try_from(program)?.load(function, btf),
        Attach::KProbe(_) | Attach::KRetProbe(_) => <&mut KProbe>::try_from(program)?.load(),
        Attach::Instructions => match program {
            Program::KProbe(program) => program.load(),
            Program::PerfEvent(program) => program.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        },
    }
}

/// Makes the kernel call a loaded program.
fn hook(ebpf: &mut Ebpf, name: &str, attach: &Attach) -> Result<(), ProgramError> {
    let program = ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?;
    match attach {
        Attach::TpBtf(_) => <&mut BtfTracePoint>::try_from(program)?.attach().map(drop),
        Attach::Tracepoint(category, name) => <&mut TracePoint>::try_from(program)?
            .attach(category, name)
            .map(drop),
        Attach::FEntry(_) => <&mut FEntry>::try_from(program)?.attach().map(drop),
        Attach::FExit(_) => <&mut FExit>::try_from(program)?.attach().map(drop),
        Attach::KProbe(offsets) | Attach::KRetProbe(offsets) => {
            let program = <&mut KProbe>::try_from(program)?;
            offsets
                .iter()
                .try_for_each(|offset| program.attach("_text", *offset).map(drop))
        }
        // Attached one by one, elsewhere.
        Attach::Instructions => Ok(()),
    }
}

/// CPUs that are online.
///
/// # Errors
/// When the kernel does not tell.
pub fn online_cpus() -> anyhow::Result<Vec<u32>> {
    aya::util::online_cpus().map_err(|(what, error)| {
        anyhow::Error::new(error).context(format!("cannot tell which CPUs are online from {what}"))
    })
}

/// The table that tells the program for instructions what it runs at.
fn fill_points(ebpf: &mut Ebpf, plan: &Plan) -> anyhow::Result<()> {
    let map = ebpf.map_mut("POINTS").context("the object has no map POINTS")?;
    let mut map = aya::maps::Array::<_, EntryPod>::try_from(map)?;
    for point in &plan.points {
        map.set(point.site - FIRST_DYNAMIC, EntryPod(point.entry), 0)
            .context("cannot tell the probes about an instruction")?;
    }
    Ok(())
}

/// [`SiteEntry`] for aya.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct EntryPod(SiteEntry);
// SAFETY: integers without padding.
unsafe impl aya::Pod for EntryPod {}

/// A loaded program as a descriptor of its own; `None` with a line in the log if it was refused.
fn program_fd(ebpf: &Ebpf, name: &str, loaded: Option<Result<(), ProgramError>>) -> Option<OwnedFd> {
    match loaded? {
        Ok(()) => ebpf.program(name)?.fd().ok()?.as_fd().try_clone_to_owned().ok(),
        Err(error) => {
            log::info!("{name}: {error}");
            None
        }
    }
}

/// Why an instruction could not be attached to, in a line.
fn explain_instruction(mechanism: &str, error: &io::Error, facts: &Facts) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EBUSY) if mechanism == Mechanism::Breakpoint.name() => {
            "refused: no hardware breakpoint is free, others use them (debuggers, perf); none was taken away"
                .to_owned()
        }
        Some(libc::EINVAL) => "refused (EINVAL): the kernel takes no kprobe in this function".to_owned(),
        Some(libc::EILSEQ) => {
            "refused (EILSEQ): no instruction begins there; the text that was read is not what runs"
                .to_owned()
        }
        Some(libc::EPERM | libc::EACCES) => match facts.lockdown {
            Lockdown::Confidentiality => {
                "refused: kernel lockdown (confidentiality) forbids kprobes".to_owned()
            }
            _ => format!("refused: {error}"),
        },
        _ => format!("refused: {error}"),
    }
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
            Lockdown::Unknown => {
                "refused (EPERM); whether by kernel lockdown cannot be told, securityfs is not mounted"
                    .to_owned()
            }
            _ => "refused (EPERM) though kernel lockdown is off".to_owned(),
        },
        Some(libc::EBUSY) => {
            "refused (EBUSY): the function cannot be patched, or somebody else holds it".to_owned()
        }
        Some(code) => format!("refused: {}", io::Error::from_raw_os_error(code)),
        None => error.to_string(),
    }
}

fn remedy(facts: &Facts) -> String {
    match facts.lockdown {
        Lockdown::Confidentiality | Lockdown::Integrity => {
            "boot with lockdown=none, or without Secure Boot".to_owned()
        }
        _ => "run with -v to see what the kernel said".to_owned(),
    }
}

/// How many CPUs there can be.
///
/// # Errors
/// When the kernel does not tell.
pub fn cpus() -> anyhow::Result<usize> {
    aya::util::nr_cpus().map_err(|(file, error)| {
        anyhow::Error::new(error).context(format!("cannot tell the number of CPUs from {file}"))
    })
}

/// Detaches everything: instructions many at a time, programs one after the other, both side by side. The kernel
/// waits for some ticks for each instruction, one after the other: some two seconds for all of a 7.3.
pub fn detach(attached: &mut Attached) {
    let instructions = mem::take(&mut attached.instructions);
    let (done, wait) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if wait.recv_timeout(DETACH_IN_SILENCE) == Err(mpsc::RecvTimeoutError::Timeout)
                && io::stderr().is_terminal()
            {
                crate::say::progress(
                    "tracer: all is written; waiting for the kernel to take the probes down …",
                );
                let _ = wait.recv();
                crate::say::progress("");
            }
        });
        let instructions = scope.spawn(|| drop(instructions));
        detach_programs(&mut attached.ebpf);
        // A panic in there was shown, and all is closed in any case.
        let _ = instructions.join();
        drop(done);
    });
}

/// How long detaching may take before somebody at a terminal is told.
const DETACH_IN_SILENCE: Duration = Duration::from_secs(1);

fn detach_programs(ebpf: &mut Ebpf) {
    for (name, program) in ebpf.programs_mut() {
        let result = match program {
            Program::BtfTracePoint(program) => program.unload(),
            Program::TracePoint(program) => program.unload(),
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

/// Runs that the kernel skipped, since the program was already running on that CPU, and that nothing stepped in
/// for: at most so many events are missing without a hole in the numbering.
pub fn missed(attached: &Attached) -> u64 {
    let Attached {
        ebpf, instructions, ..
    } = attached;
    let skipped: HashMap<&str, u64> = ebpf
        .programs()
        .filter(|(name, _)| !super::lockdep::is_one(name))
        .filter_map(|(name, program)| Some((name, program.fd().ok()?)))
        .filter_map(|(name, fd)| match recursion_misses(fd.as_fd()) {
            Ok(count) => Some((name, count)),
            Err(error) => {
                log::warn!("cannot read the statistics of {name}: {error}");
                None
            }
        })
        .collect();
    // Where a second program stepped in, only its own skipped runs can be losses.
    let lost = skipped
        .iter()
        .filter(|(name, _)| !skipped.contains_key(format!("{name}_again").as_str()));
    let rescued: u64 = skipped
        .iter()
        .filter(|(name, _)| !name.ends_with("_again"))
        .map(|(_, count)| count)
        .sum();
    log::debug!("the kernel skipped {rescued} runs of first programs");
    let kprobes = instructions.missed();
    for (site, count) in &kprobes {
        log::debug!("the kernel skipped the kprobe of site {site} {count} times");
    }
    lost.map(|(_, count)| count).sum::<u64>() + kprobes.iter().map(|(_, count)| count).sum::<u64>()
}

/// Notes of first programs that their second ones have not taken away; see `twice.rs` on the other side.
///
/// # Errors
/// When the map cannot be read.
pub fn notes_left(ebpf: &Ebpf) -> anyhow::Result<u64> {
    /// In a slot, behind the thread: one byte for each site.
    const DONE: std::ops::Range<usize> = 4..4 + FIRST_DYNAMIC as usize;
    let notes = ebpf.map("NOTES").context("the object has no map NOTES")?;
    Ok(Mapped::new("NOTES", notes, false)?.sum(DONE))
}

/// How many instructions the verifier looked at in each program that it let in, by name. A kernel that does not tell
/// has no such program.
pub fn verified(attached: &Attached) -> BTreeMap<String, u32> {
    let loaded = attached.ebpf.programs();
    loaded
        .filter_map(|(name, program)| match program.info() {
            Ok(info) => Some((name.to_owned(), info.verified_instruction_count()?)),
            Err(ProgramError::NotLoaded) => None,
            Err(error) => {
                log::warn!("cannot read what is known of {name}: {error}");
                None
            }
        })
        .collect()
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
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(info.recursion_misses)
    }
}
