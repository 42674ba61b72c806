//! What the kernel itself counted while a command ran, for tests to compare a recording with.
//!
//! `witness CMD ARGS…` prints one line of JSON: the times between which it counted, the changes of
//! `vma_lock_*` in `/proc/vmstat`, and how often lockdep's tracepoints named `vm_lock`. `witness --bpf`
//! prints what is left of BPF programs, links and kprobes instead.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("witness: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--bpf") => {
            println!("{}", left_over()?);
            Ok(ExitCode::SUCCESS)
        }
        Some(program) if !program.starts_with('-') => witness(program, &arguments[1..]),
        _ => bail!("usage: witness CMD ARGS…, or witness --bpf"),
    }
}

/// Counts around a command, whose output goes to standard error so that ours is one line.
fn witness(program: &str, arguments: &[String]) -> Result<ExitCode> {
    let mut counters = Counters::open()?;
    // Once without use, so that no page is touched for the first time between the clock and the counters.
    let _ = (monotonic_ns(), counters.read()?);
    let before = counters.read()?;
    let begin_ns = monotonic_ns();
    let output = Command::new(program)
        .args(arguments)
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("starting {program}"))?;
    let end_ns = monotonic_ns();
    let after = counters.read()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let said: Value = serde_json::from_str(said.trim()).unwrap_or(Value::Null);
    let changes: Map<String, Value> = after
        .iter()
        .zip(&before)
        .map(|((name, after), (_, before))| (name.clone(), json!(after - before)))
        .collect();
    println!(
        "{}",
        json!({ "begin_ns": begin_ns, "end_ns": end_ns, "counted": changes, "said": said })
    );
    ensure!(output.status.success(), "{program} ended with {}", output.status);
    Ok(ExitCode::SUCCESS)
}

fn monotonic_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for writing, and the clock exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Everything that is counted.
struct Counters {
    vmstat: fs::File,
    tracepoints: Vec<(&'static str, Vec<OwnedFd>)>,
    text: Vec<u8>,
}

impl Counters {
    fn open() -> Result<Self> {
        let vmstat = fs::File::open("/proc/vmstat").context("/proc/vmstat")?;
        let mut tracepoints = Vec::new();
        // Readers are told from writers by a flag of the acquire; the release has none.
        for (name, event, filter) in [
            (
                "read_acquire",
                "lock_acquire",
                c"name == \"vm_lock\" && flags & 2",
            ),
            ("acquire", "lock_acquire", c"name == \"vm_lock\""),
            ("release", "lock_release", c"name == \"vm_lock\""),
        ] {
            let id = format!("/sys/kernel/tracing/events/lock/{event}/id");
            // Only a kernel with lockdep has these.
            if let Ok(id) = fs::read_to_string(&id) {
                let id = id
                    .trim()
                    .parse()
                    .with_context(|| format!("the number of {event}"))?;
                let counters = count_tracepoint(id, filter).with_context(|| format!("counting {name}"))?;
                tracepoints.push((name, counters));
            }
        }
        Ok(Self {
            vmstat,
            tracepoints,
            text: vec![0; 1 << 16],
        })
    }

    fn read(&mut self) -> Result<Vec<(String, u64)>> {
        use std::os::unix::fs::FileExt as _;
        let len = self
            .vmstat
            .read_at(&mut self.text, 0)
            .context("reading /proc/vmstat")?;
        let text = std::str::from_utf8(&self.text[..len]).context("/proc/vmstat")?;
        let mut found = Vec::new();
        for line in text.lines().filter(|line| line.starts_with("vma_lock_")) {
            let (name, number) = line.split_once(' ').context("a line of /proc/vmstat")?;
            found.push((
                name.to_owned(),
                number.parse().context("a number in /proc/vmstat")?,
            ));
        }
        for (name, cpus) in &self.tracepoints {
            let mut sum = 0;
            for cpu in cpus {
                let mut count = [0; 8];
                // SAFETY: the buffer has room for the eight bytes that are asked for.
                let len = unsafe { libc::read(cpu.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
                ensure!(len == 8, "reading a counter: {}", io::Error::last_os_error());
                sum += u64::from_ne_bytes(count);
            }
            found.push(((*name).to_owned(), sum));
        }
        Ok(found)
    }
}

// From the kernel's user interface.
const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_ATTR_SIZE_VER0: u32 = 64;
const PERF_EVENT_IOC_SET_FILTER: libc::c_ulong = 0x4008_2406;

/// The oldest form of `perf_event_attr`, which every kernel takes.
#[repr(C)]
#[derive(Default)]
struct PerfAttr {
    kind: u32,
    size: u32,
    config: u64,
    rest: [u64; 6],
}
const _: () = assert!(size_of::<PerfAttr>() == PERF_ATTR_SIZE_VER0 as usize);

/// Counts what of a tracepoint passes a filter, on every CPU.
fn count_tracepoint(id: u64, filter: &CStr) -> Result<Vec<OwnedFd>> {
    // SAFETY: no precondition.
    let cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    let mut counters = Vec::new();
    for cpu in 0..i32::try_from(cpus).context("CPUs")? {
        let attr = PerfAttr {
            kind: PERF_TYPE_TRACEPOINT,
            size: PERF_ATTR_SIZE_VER0,
            config: id,
            ..PerfAttr::default()
        };
        // SAFETY: the structure has the size that it says.
        let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, -1, cpu, -1, 0) };
        ensure!(fd >= 0, "perf_event_open: {}", io::Error::last_os_error());
        // SAFETY: a new descriptor that nobody else has.
        let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).context("a descriptor")?) };
        // SAFETY: the filter is a string that ends in a zero byte.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), PERF_EVENT_IOC_SET_FILTER, filter.as_ptr()) };
        ensure!(result == 0, "setting the filter: {}", io::Error::last_os_error());
        counters.push(fd);
    }
    Ok(counters)
}

// Commands of bpf(2).
const BPF_PROG_GET_NEXT_ID: libc::c_int = 11;
const BPF_LINK_GET_NEXT_ID: libc::c_int = 31;

/// How many BPF programs, links and kprobes there are.
fn left_over() -> Result<Value> {
    let kprobes = fs::read_to_string("/sys/kernel/debug/kprobes/list").context("the list of kprobes")?;
    let events = fs::read_to_string("/sys/kernel/tracing/kprobe_events").unwrap_or_default();
    Ok(json!({
        "programs": count(BPF_PROG_GET_NEXT_ID).context("counting BPF programs")?,
        "links": count(BPF_LINK_GET_NEXT_ID).context("counting BPF links")?,
        "kprobes": kprobes.lines().count(),
        "kprobe_events": events.lines().count(),
    }))
}

fn count(command: libc::c_int) -> Result<u32> {
    let (mut id, mut found) = (0, 0);
    loop {
        // start_id, next_id, open_flags
        let mut request: [u32; 4] = [id, 0, 0, 0];
        // SAFETY: the structure is as long as it is said to be.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, request.as_mut_ptr(), 12) };
        if result != 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOENT) => Ok(found),
                _ => Err(error.into()),
            };
        }
        id = request[1];
        found += 1;
    }
}
