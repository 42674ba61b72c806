//! A running watch: what is loaded and armed, and the loop that empties the buffers.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aya::maps::perf::{PerfEvent as Record, PerfEventArrayBuffer};
use aya::maps::{MapData, PerCpuArray, PerfEventArray};
use aya::programs::{FExit, PerfEvent, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};
use tracer_common::wire::{WatchEvent, WatchFound, WatchRuns, WatchTarget, flag};

use super::chain::{Chain, Link, Linked};
use super::decode::{self, Write};
use super::find::{FINDERS, Process, set_target};
use super::names::{Names, is_inlined};
use super::report::{Change, Field, Header, Report};
use super::slots::{self, NoSlot, Watchpoint};
use super::{Impossible, WatchArgs};
use crate::clock;
use crate::info::Family;
use crate::kernel::{Depth, Facts, Layout, Lockdown, Paths};
use crate::outside;
use crate::pipeline::{Ended, Stop};
use crate::probe::attach;
use crate::probe::attach::OBJECT;
use crate::sink::address::Addresses;
use crate::text::{Operation, SitesArgs, Symbols, discover};

/// How often the buffers are emptied.
const NAP: Duration = Duration::from_millis(10);
/// How late an event may come out of the kernel: its CPU may be a virtual one that is not running.
const LATE: Duration = Duration::from_millis(60);
/// How long after the process's end its mappings may still be there.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// `VM_REFCNT_EXCLUDE_READERS_FLAG`
const EXCLUDE_READERS: i64 = 0x4000_0000;

/// [`WatchRuns`] for aya.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct RunsPod(WatchRuns);
// SAFETY: integers without padding.
unsafe impl aya::Pod for RunsPod {}

/// What the watch came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Losses {
    /// Events that found their CPU's buffer full.
    pub(super) dropped: u64,
    /// Hits of the watchpoints that the kernel did not hand on (throttled), as it counts.
    pub(super) held_back: u64,
    /// CPUs that came online meanwhile, and were not watched.
    pub(super) unwatched_cpus: Vec<u32>,
}

/// A running watch. When it is dropped, nothing of it is left.
pub(super) struct Session {
    ebpf: Ebpf,
    /// The one on `vm_refcnt`, and, if there was a slot, the one on `vm_lock_seq`.
    watchpoints: Vec<Watchpoint>,
    buffers: Vec<PerfEventArrayBuffer<MapData>>,
    cpus: Vec<u32>,
    received: u64,
    target: WatchTarget,
    layout: Layout,
    found: WatchFound,
    names: Names,
    pidfd: File,
    refcnt: Chain<Change>,
    lock_seq: Chain<Change>,
}

/// Why the VMA is no longer the one that was asked for.
fn gone(change: &Change, found: &WatchFound, address: u64) -> Option<String> {
    let event = &change.event;
    let has = |bit: u16| event.flags & u32::from(bit) != 0;
    if has(flag::MM) && event.mm != found.mm {
        return Some("the VMA was freed, and belongs to another process now".to_owned());
    }
    if has(flag::RANGE) && !(event.vm_start..event.vm_end).contains(&address) {
        return Some(format!(
            "the VMA no longer covers {address:#x}: it is {:#x}-{:#x} now",
            event.vm_start, event.vm_end
        ));
    }
    None
}

impl Session {
    /// Finds the VMA, and arms the watchpoints.
    pub(super) fn start(args: &WatchArgs) -> anyhow::Result<(Self, Header)> {
        let process = Process::open(args.pid)?;
        let pidfd = pidfd(args.pid)?;
        let text = args.kernel_text.clone();
        let names = thread::spawn(move || {
            let sites = SitesArgs {
                kernel_text: text,
                ..SitesArgs::default()
            };
            (Symbols::read(&sites.kallsyms), discover(&sites))
        });
        let (facts, types) = Facts::gather(&Paths::default(), Depth::Attach)?;
        check(&facts)?;
        let pared = types.pared(&FINDERS.map(|(_, function)| function));
        let btf =
            Btf::parse(&pared, aya::Endianness::default()).context("cannot use /sys/kernel/btf/vmlinux")?;
        let mut ebpf = load(&facts.layout, &btf)?;
        load_finders(&mut ebpf, &btf, &facts)?;

        let mut target = WatchTarget::default();
        let found = process.find(&mut ebpf, args.addr, target)?;
        target.vma = found.vma;
        let cpus = attach::online_cpus()?;
        let refcnt = offset(facts.layout.vm_refcnt, "vm_refcnt")?;
        let first = match Watchpoint::reserve(found.vma + refcnt, &cpus) {
            Ok(first) => first,
            Err(NoSlot::Taken { cpu }) => return Err(taken(cpu).into()),
            Err(NoSlot::Other(why)) => return Err(why.into()),
        };
        let mut watchpoints = vec![first];
        let seq = offset(facts.layout.vm_lock_seq, "vm_lock_seq")?;
        let no_second = match Watchpoint::reserve(found.vma + seq, &cpus) {
            Ok(second) => {
                watchpoints.push(second);
                None
            }
            Err(NoSlot::Taken { cpu }) => Some(format!("no second slot is free on CPU {cpu}")),
            Err(NoSlot::Other(why)) => Some(why.0),
        };
        let buffers = open_buffers(&mut ebpf, &cpus, args.buffer)?;
        let program = load_watch(&mut ebpf, &facts)?;
        for watchpoint in &watchpoints {
            watchpoint
                .run(program.as_fd())
                .context("cannot run a program at the watchpoint")?;
            watchpoint.enable().context("cannot enable the watchpoint")?;
        }
        // It may have been freed, and another one made in its place, before the watchpoint stood.
        let again = process.find(&mut ebpf, args.addr, target)?;
        anyhow::ensure!(
            again.vma == found.vma && again.mm == found.mm,
            "the mapping of process {} at {:#x} changed while it was looked up; try again",
            args.pid,
            args.addr
        );
        let (symbols, sites) = names
            .join()
            .map_err(|_| anyhow::anyhow!("reading the kernel's text failed"))?;
        let addresses = if args.raw_addresses {
            Addresses::raw()
        } else {
            Addresses::hashed()
        };
        let no_sites = sites.as_ref().err().map(ToString::to_string);
        let names = Names::new(symbols.ok(), sites.ok(), addresses);
        let header = Header {
            start_ns: clock::monotonic_ns(),
            release: facts.release.clone(),
            pid: args.pid,
            comm: comm(args.pid),
            address: args.addr,
            range: (again.vm_start, again.vm_end),
            vma: names.address(again.vma),
            mm: names.address(again.mm),
            cpus: cpus.len(),
            no_second,
            no_sites,
        };
        target.on = 1;
        set_target(&mut ebpf, target)?;
        let session = Self {
            ebpf,
            watchpoints,
            buffers,
            cpus,
            received: 0,
            target,
            layout: facts.layout,
            found: again,
            names,
            pidfd,
            refcnt: Chain::new(None),
            lock_seq: Chain::new(Some(u64::from(again.vm_lock_seq))),
        };
        Ok((session, header))
    }

    /// Runs until it is to stop, or the VMA is no more.
    pub(super) fn run(&mut self, args: &WatchArgs, report: &mut Report) -> anyhow::Result<()> {
        let mut stop = Stop::new(args.duration)?;
        let mut before = clock::monotonic_ns();
        let mut dead_since = None;
        let why = loop {
            if let Some(ended) = stop.due()? {
                break match ended {
                    Ended::Duration => "the time is over".to_owned(),
                    _ => "interrupted".to_owned(),
                };
            }
            let now = clock::monotonic_ns();
            self.drain(report)?;
            let ripe = before.saturating_sub(LATE.as_nanos() as u64);
            before = now;
            if let Some(why) = self.hand_out(ripe, args, report)? {
                break why;
            }
            report.flush()?;
            if self.process_ended()? {
                let since = *dead_since.get_or_insert_with(Instant::now);
                if since.elapsed() > LAST_WORDS {
                    break "the process has ended".to_owned();
                }
            }
            thread::sleep(NAP);
        };
        let losses = self.stop(report)?;
        let over = report.is_over();
        let why = match self.hand_out(u64::MAX, args, report)? {
            Some(last) if !over => last,
            _ => why,
        };
        report.end(&why, &losses)
    }

    /// Ends all effects on the kernel, and takes what is left.
    fn stop(&mut self, report: &mut Report) -> anyhow::Result<Losses> {
        set_target(&mut self.ebpf, WatchTarget { on: 0, ..self.target })?;
        for watchpoint in &self.watchpoints {
            watchpoint.disable().context("cannot disable the watchpoint")?;
        }
        // What runs now ends soon.
        thread::sleep(Duration::from_millis(5));
        self.drain(report)?;
        let map = self
            .ebpf
            .map("WATCH_RUNS")
            .context("the object has no map WATCH_RUNS")?;
        let runs = PerCpuArray::<_, RunsPod>::try_from(map)?;
        let runs = runs
            .get(&0, 0)
            .context("cannot read the counters of the probes")?;
        let made: u64 = runs.iter().map(|cpu| cpu.0.made).sum();
        let off: u64 = runs.iter().map(|cpu| cpu.0.off).sum();
        let mut hits = 0;
        for watchpoint in &self.watchpoints {
            hits += watchpoint
                .hits()
                .context("cannot read how often the watchpoint was hit")?;
        }
        let now = attach::online_cpus()?;
        Ok(Losses {
            dropped: made.saturating_sub(self.received),
            held_back: hits.saturating_sub(made + off),
            unwatched_cpus: now.into_iter().filter(|cpu| !self.cpus.contains(cpu)).collect(),
        })
    }

    fn drain(&mut self, report: &mut Report) -> anyhow::Result<()> {
        let mut events = Vec::new();
        for buffer in &mut self.buffers {
            buffer.for_each(|record| {
                // Lost ones are told by the difference to what was made.
                if let Record::Sample { head, tail } = record {
                    let event = if tail.is_empty() {
                        WatchEvent::from_bytes(head)
                    } else {
                        WatchEvent::from_bytes(&[head, tail].concat())
                    };
                    events.extend(event);
                }
            });
        }
        self.received += events.len() as u64;
        for event in events {
            self.resolve(event, report)?;
        }
        Ok(())
    }

    /// Tells what an event means, and puts it into its chain.
    fn resolve(&mut self, event: WatchEvent, report: &mut Report) -> anyhow::Result<()> {
        let field =
            if Some(event.address.wrapping_sub(self.found.vma)) == self.layout.vm_refcnt.map(u64::from) {
                Field::Refcount
            } else {
                Field::LockSeq
            };
        let copied = self.names.is_copy(event.ip);
        let ip = if copied {
            decode::origin(&event).unwrap_or(event.ip)
        } else {
            event.ip
        };
        let site = self.names.site_before(ip);
        let operation = site.map(|site| site.operation);
        let place = match site {
            Some(site) => Some((
                site.function.clone(),
                format!("{}+{:#x}", site.spot.symbol, site.spot.offset),
            )),
            None => self
                .names
                .function(ip)
                .map(|(name, _)| (name.to_owned(), format!("before {}", self.names.symbol(ip)))),
        };
        let (function, at) = place.unwrap_or_else(|| ("unknown".to_owned(), self.names.symbol(ip)));
        let read = match field {
            Field::Refcount => event.vm_refcnt,
            Field::LockSeq => event.vm_lock_seq,
        };
        let (old, new, certain) = match decode::write_of(&event) {
            Write::Refused { .. } => {
                report.refused(&function);
                return Ok(());
            }
            Write::Swapped { old, new } => (Some(old), new, true),
            Write::Stored { new } => (None, new, true),
            Write::Added { old } => added(old, operation, read),
            Write::Changed { by } => (Some(wrap(u64::from(read), -by)), u64::from(read), false),
            Write::Unknown => (None, u64::from(read), false),
        };
        let frames = usize::try_from(event.stack_bytes).unwrap_or(0) / 8;
        let stack = event.stack.iter().take(frames).enumerate();
        let stack = stack
            .map(|(depth, &address)| self.names.symbol(if depth == 0 { ip } else { address }))
            .collect();
        let link = Link {
            cpu: event.cpu,
            tid: event.tid,
            ts_ns: event.ts_ns,
            old,
            new,
        };
        let change = Change {
            event,
            field,
            operation,
            inlined: operation.map(|operation| is_inlined(operation, &function)),
            function,
            at,
            certain,
            copied,
            stack,
        };
        match field {
            Field::Refcount => self.refcnt.push(link, change),
            Field::LockSeq => self.lock_seq.push(link, change),
        }
        Ok(())
    }

    /// Shows what is ripe; gives why the watch is over, if it is.
    fn hand_out(
        &mut self,
        ripe_ns: u64,
        args: &WatchArgs,
        report: &mut Report,
    ) -> anyhow::Result<Option<String>> {
        let (mut counts, mut seqs) = (Vec::new(), Vec::new());
        self.refcnt.advance(ripe_ns, &mut |linked| counts.push(linked));
        self.lock_seq.advance(ripe_ns, &mut |linked| seqs.push(linked));
        for linked in merge(counts, seqs) {
            if report.is_over() {
                return Ok(None);
            }
            let detached = linked.with.field == Field::Refcount && linked.link.new == 0;
            let gone = gone(&linked.with, &self.found, args.addr).filter(|_| !detached);
            if let Some(why) = gone {
                report.over();
                return Ok(Some(why));
            }
            report.change(&linked)?;
            if detached {
                report.over();
                return Ok(Some(
                    "the VMA was detached: it is no longer part of the process".to_owned(),
                ));
            }
            if args.count.is_some_and(|count| report.changes() >= count) {
                report.over();
                return Ok(Some("as many changes as asked for were seen".to_owned()));
            }
        }
        Ok(None)
    }

    fn process_ended(&self) -> anyhow::Result<bool> {
        let mut poll = libc::pollfd {
            fd: self.pidfd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            anyhow::ensure!(
                error.kind() == io::ErrorKind::Interrupted,
                "cannot tell whether the process lives: {error}"
            );
        }
        Ok(ready > 0)
    }
}

/// What `xadd` left: by how much it added, the place of the instruction tells; if that is not known, what was read
/// a little later has to do.
fn added(old: u64, operation: Option<Operation>, read: u32) -> (Option<u64>, u64, bool) {
    let by = match operation {
        Some(Operation::ReadPut | Operation::Detach) => Some(-1),
        Some(Operation::WriterLeave) => Some(-EXCLUDE_READERS),
        Some(Operation::WriterEnter) => Some(EXCLUDE_READERS),
        _ => None,
    };
    match by {
        Some(by) => (Some(old), wrap(old, by), true),
        None => (Some(old), u64::from(read), false),
    }
}

/// The sum in the width of the fields.
const fn wrap(value: u64, by: i64) -> u64 {
    (value.wrapping_add_signed(by)) & 0xffff_ffff
}

/// Two ordered lists as one, by time as far as their own orders allow.
fn merge(counts: Vec<Linked<Change>>, seqs: Vec<Linked<Change>>) -> Vec<Linked<Change>> {
    let mut merged = Vec::with_capacity(counts.len() + seqs.len());
    let mut seqs = seqs.into_iter().peekable();
    for count in counts {
        while let Some(seq) = seqs.next_if(|seq| seq.link.ts_ns < count.link.ts_ns) {
            merged.push(seq);
        }
        merged.push(count);
    }
    merged.extend(seqs);
    merged
}

fn check(facts: &Facts) -> Result<(), Impossible> {
    match facts.family {
        Some(Family::Refcount) => {}
        Some(Family::Rwsem) => {
            return Err(Impossible(format!(
                "Linux {} has a rw-semaphore in each VMA instead of vm_refcnt (6.4 to 6.14), whose value alone does \
                 not tell who holds it: `tracer record -p PID` shows its operations",
                facts.release
            )));
        }
        None => {
            return Err(Impossible(format!(
                "Linux {} has no per-VMA lock: Linux 6.4 or later is needed, 6.15 or later for this command",
                facts.release
            )));
        }
    }
    let missing = facts.capabilities.missing();
    if !missing.is_empty() {
        return Err(Impossible(format!(
            "not permitted: this process lacks {}; run it with sudo",
            missing.join(" and ")
        )));
    }
    if facts.lockdown == Lockdown::Confidentiality {
        return Err(Impossible(
            "kernel lockdown (confidentiality) forbids programs that read kernel memory, which is how the VMA is \
             found and its values are read: boot with lockdown=none or lockdown=integrity"
                .to_owned(),
        ));
    }
    Ok(())
}

fn offset(field: Option<u32>, name: &str) -> Result<u64, Impossible> {
    field
        .map(u64::from)
        .ok_or_else(|| Impossible(format!("this kernel's vm_area_struct has no field {name}")))
}

fn load(layout: &Layout, btf: &Btf) -> anyhow::Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    loader.btf(Some(btf));
    for (name, offset) in [
        ("OFF_VM_START", &layout.vm_start),
        ("OFF_VM_END", &layout.vm_end),
        ("OFF_VM_MM", &layout.vm_mm),
        ("OFF_VM_REFCNT", &layout.vm_refcnt),
        ("OFF_VM_LOCK_SEQ", &layout.vm_lock_seq),
        ("OFF_MM_LOCK_SEQ", &layout.mm_lock_seq),
    ] {
        if let Some(offset) = offset {
            loader.override_global(name, offset, true);
        }
    }
    // What belongs to the other commands stays small.
    for (map, entries) in [
        ("EVENTS", 4096),
        ("INFLIGHT", 1),
        ("NOTES", 1),
        ("PIDS", 1),
        ("TIDS", 1),
    ] {
        loader.map_max_entries(map, entries);
    }
    loader
        .load(OBJECT)
        .context("cannot create the maps of the probes")
}

fn load_finders(ebpf: &mut Ebpf, btf: &Btf, facts: &Facts) -> anyhow::Result<()> {
    let mut refused = Vec::new();
    for (program, function) in FINDERS {
        let program: &mut FExit = ebpf
            .program_mut(program)
            .with_context(|| format!("the object has no program {program}"))?
            .try_into()?;
        if let Err(error) = program
            .load(function, btf)
            .and_then(|()| program.attach().map(drop))
        {
            log::info!("{function}: {error}");
            refused.push(format!("{function}: {}", reason(&error, facts)));
        }
    }
    if refused.len() == FINDERS.len() {
        return Err(Impossible(format!(
            "the VMA cannot be found, since no look-up can be listened to ({})",
            refused.join("; ")
        ))
        .into());
    }
    Ok(())
}

fn load_watch<'a>(ebpf: &'a mut Ebpf, facts: &Facts) -> anyhow::Result<std::os::fd::BorrowedFd<'a>> {
    let program: &mut PerfEvent = ebpf
        .program_mut("watch_change")
        .context("the object has no program watch_change")?
        .try_into()?;
    if let Err(error) = program.load() {
        log::info!("watch_change: {error}");
        return Err(Impossible(format!(
            "the kernel refuses the program that reads the lock: {}",
            reason(&error, facts)
        ))
        .into());
    }
    Ok(program.fd()?.as_fd())
}

/// What the kernel said, in few words.
fn reason(error: &ProgramError, facts: &Facts) -> String {
    match error {
        ProgramError::LoadError { io_error, .. } => format!("{io_error}; lockdown: {:?}", facts.lockdown),
        ProgramError::SyscallError(call) => format!("{}; lockdown: {:?}", call.io_error, facts.lockdown),
        other => other.to_string(),
    }
}

fn open_buffers(
    ebpf: &mut Ebpf,
    cpus: &[u32],
    bytes: u32,
) -> anyhow::Result<Vec<PerfEventArrayBuffer<MapData>>> {
    let map = ebpf
        .take_map("WATCH_EVENTS")
        .context("the object has no map WATCH_EVENTS")?;
    let mut map = PerfEventArray::try_from(map)?;
    // SAFETY: sysconf has no precondition.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let mut open = |&cpu: &u32| {
        map.open(cpu, Some((bytes as usize / page).max(1)))
            .with_context(|| format!("cannot make the buffer of CPU {cpu}: try a smaller --buffer"))
    };
    cpus.iter().map(&mut open).collect()
}

fn taken(cpu: u32) -> Impossible {
    let holders = slots::likely_holders(Path::new("/proc"));
    let who = if holders.is_empty() {
        "no process with perf events or a debugger was found; the kernel's own debugger, or a machine without \
         breakpoints (some virtual ones), may be why"
            .to_owned()
    } else {
        format!("likely held by {}", holders.join(", "))
    };
    Impossible(format!(
        "all hardware breakpoints of CPU {cpu} are taken, and nothing is taken away from anybody: {who}. End what \
         uses them (gdb, perf record -e mem:…, another tracer watch) and try again"
    ))
}

fn pidfd(pid: u32) -> anyhow::Result<File> {
    // SAFETY: takes two numbers, gives a descriptor or an error.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    if fd < 0 {
        let error = io::Error::last_os_error();
        if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) {
            anyhow::bail!(
                "{pid} is a thread, not a process: give the process's number (Tgid in /proc/{pid}/status)"
            );
        }
        return Err(error).with_context(|| format!("there is no process {pid}; see `ps -e`"));
    }
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd as i32) })
}

fn comm(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    outside::name(name.trim_ascii_end()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_addition_is_known_by_its_place() {
        assert_eq!(added(2, Some(Operation::ReadPut), 7), (Some(2), 1, true));
        assert_eq!(
            added(0x4000_0001, Some(Operation::WriterLeave), 7),
            (Some(0x4000_0001), 1, true)
        );
        assert_eq!(added(2, None, 7), (Some(2), 7, false));
    }

    #[test]
    fn a_dead_process_is_named() {
        let error = pidfd(0x3fff_ffff).unwrap_err();
        assert!(format!("{error:#}").contains("no process"), "{error:#}");
        let error = Process::open(u32::MAX).err().unwrap();
        assert!(error.to_string().contains("no process 4294967295"), "{error:#}");
    }

    #[test]
    fn what_is_not_the_vma_any_more_is_found_out() {
        let mut change = Change {
            event: super::decode::tests::EMPTY,
            field: Field::Refcount,
            operation: None,
            inlined: None,
            function: String::new(),
            at: String::new(),
            certain: true,
            copied: false,
            stack: Vec::new(),
        };
        let found = WatchFound {
            mm: 5,
            ..WatchFound::default()
        };
        change.event.flags = u32::from(flag::MM | flag::RANGE);
        (change.event.mm, change.event.vm_start, change.event.vm_end) = (5, 0x1000, 0x3000);
        assert_eq!(gone(&change, &found, 0x2000), None);
        assert!(
            gone(&change, &found, 0x3000)
                .unwrap()
                .contains("no longer covers")
        );
        change.event.mm = 6;
        assert!(gone(&change, &found, 0x2000).unwrap().contains("another process"));
    }
}
