//! Kprobes and hardware breakpoints at single instructions, by perf events.
//!
//! aya's own kprobes take a symbol, carry no cookie, and are attached one after the other. Here each instruction is
//! named by its address, its number goes along as the cookie, and many are attached and detached at a time. All of it
//! hangs on file descriptors: the kernel takes it down when they are closed, whichever way this process ends.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, perf_event_attr, perf_type_id};

/// When a hardware breakpoint hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breakpoint {
    /// When the instruction there is about to be executed (`HW_BREAKPOINT_X`).
    Execute,
    /// After four bytes there were written (`HW_BREAKPOINT_W`).
    Write,
}

/// `PERF_EVENT_IOC_ENABLE`
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
/// `PERF_FLAG_FD_CLOEXEC`
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;

/// A program at an instruction. Dropping it detaches it.
#[derive(Debug)]
pub(super) struct Attached {
    // In the order of closing: first the program, then the event that it hangs on.
    link: OwnedFd,
    _event: OwnedFd,
}

impl Attached {
    /// How often the kernel skipped the kprobe since it was in another one; `None`: the kernel does not tell.
    pub(super) fn missed(&self) -> Option<u64> {
        link_missed(&self.link).ok()
    }
}

/// Number of the kernel's source of kprobes; without it there are none.
///
/// # Errors
/// When the kernel has no kprobes.
pub(super) fn kprobe_type() -> io::Result<u32> {
    let text = std::fs::read_to_string("/sys/bus/event_source/devices/kprobe/type")?;
    text.trim()
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "no number in the type of kprobes"))
}

/// Puts a program at an instruction, by kprobe.
///
/// # Errors
/// What the kernel says: `EINVAL` for a place that takes none, `EILSEQ` in the middle of an instruction.
pub(super) fn kprobe(
    kprobe_type: u32,
    program: BorrowedFd<'_>,
    address: u64,
    cookie: u64,
) -> io::Result<Attached> {
    let mut attr = attr(kprobe_type);
    // No name: then it is the address that counts.
    attr.__bindgen_anon_4.kprobe_addr = address;
    let event = open(&attr, 0)?;
    let link = link(program, &event, cookie)?;
    Ok(Attached { link, _event: event })
}

/// Puts a program at an instruction, by a hardware breakpoint of one CPU, if that has one free.
///
/// # Errors
/// What the kernel says: `ENOSPC` when all are taken.
pub(super) fn breakpoint(
    program: BorrowedFd<'_>,
    address: u64,
    cookie: u64,
    cpu: u32,
) -> io::Result<Attached> {
    let event = breakpoint_event(Breakpoint::Execute, address, cpu)?;
    let link = link(program, &event, cookie)?;
    // SAFETY: the descriptor is a perf event; the request takes no memory.
    let result = unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_ENABLE, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Attached { link, _event: event })
}

/// Takes a hardware breakpoint of one CPU, if that has one free; it is off until it is enabled.
///
/// # Errors
/// What the kernel says: `ENOSPC` when all are taken.
pub(crate) fn breakpoint_event(kind: Breakpoint, address: u64, cpu: u32) -> io::Result<OwnedFd> {
    let (bp_type, len) = match kind {
        Breakpoint::Execute => (4, size_of::<libc::c_long>()),
        Breakpoint::Write => (2, 4),
    };
    let mut attr = attr(perf_type_id::PERF_TYPE_BREAKPOINT as u32);
    attr.bp_type = bp_type;
    attr.__bindgen_anon_3.bp_addr = address;
    attr.__bindgen_anon_4.bp_len = len as u64;
    attr.__bindgen_anon_1.sample_period = 1;
    attr.set_exclude_user(1);
    attr.set_exclude_hv(1);
    open(&attr, cpu as libc::c_int)
}

fn attr(type_: u32) -> perf_event_attr {
    // SAFETY: a plain C structure for which all zeroes is a valid value.
    let mut attr: perf_event_attr = unsafe { mem::zeroed() };
    attr.type_ = type_;
    attr.size = size_of::<perf_event_attr>() as u32;
    attr.set_disabled(1);
    attr
}

fn open(attr: &perf_event_attr, cpu: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the structure has the length that it says, and lives until the call returns.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attr,
            -1 as libc::pid_t,
            cpu,
            -1 as libc::c_int,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    owned(fd)
}

fn link(program: BorrowedFd<'_>, event: &OwnedFd, cookie: u64) -> io::Result<OwnedFd> {
    // SAFETY: a plain C union for which all zeroes is a valid value.
    let mut request: bpf_attr = unsafe { mem::zeroed() };
    request.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    request.link_create.__bindgen_anon_2.target_fd = event.as_raw_fd() as u32;
    request.link_create.attach_type = bpf_attach_type::BPF_PERF_EVENT as u32;
    request.link_create.__bindgen_anon_3.perf_event.bpf_cookie = cookie;
    owned(bpf(bpf_cmd::BPF_LINK_CREATE, &mut request))
}

/// `bpf_link_info`, as far as kprobes on perf events fill it in.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    type_: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    perf_type: u32,
    pad2: u32,
    name: u64,
    name_len: u32,
    offset: u32,
    address: u64,
    missed: u64,
    cookie: u64,
}

fn link_missed(link: &OwnedFd) -> io::Result<u64> {
    let mut info = LinkInfo::default();
    // SAFETY: a plain C union for which all zeroes is a valid value.
    let mut request: bpf_attr = unsafe { mem::zeroed() };
    request.info.bpf_fd = link.as_raw_fd() as u32;
    request.info.info_len = size_of::<LinkInfo>() as u32;
    request.info.info = (&raw mut info) as u64;
    if bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut request) < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(info.missed)
}

fn bpf(command: bpf_cmd, request: &mut bpf_attr) -> libc::c_long {
    // SAFETY: the request is as long as it says, and what it points to lives until the call returns.
    unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(request),
            size_of::<bpf_attr>(),
        )
    }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}
