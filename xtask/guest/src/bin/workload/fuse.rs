//! A disk that is as slow as one likes: a file system with one file, served by a thread of this process.
//!
//! It is never mounted anywhere: its root is reached through a descriptor only, and it is gone with the process.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::sys::{self, PAGE, impossible};
use crate::team;

/// How slow it is, and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// Time that each read takes, in nanoseconds.
    pub(crate) read_ns: AtomicU64,
    /// Until when (CLOCK_MONOTONIC) writes are not answered.
    pub(crate) write_until: AtomicU64,
    /// Read requests so far.
    pub(crate) reads: AtomicU64,
    /// Write requests so far, counted when they arrive.
    pub(crate) writes: AtomicU64,
    len: u64,
}

/// The file system and the thread that serves it.
#[derive(Debug)]
pub(crate) struct SlowDisk {
    /// What can be set and seen of it.
    pub(crate) disk: Arc<Disk>,
    root: OwnedFd,
}

fn owned(fd: i64, call: &str) -> Result<OwnedFd> {
    let fd = i32::try_from(sys::check(fd, call)?).context("a descriptor")?;
    // SAFETY: a new descriptor that is ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl SlowDisk {
    /// Starts one whose file has `len` bytes.
    pub(crate) fn start(len: usize) -> Result<Self> {
        // SAFETY: the path is NUL-terminated.
        let device = unsafe { libc::open(c"/dev/fuse".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        let device = owned(i64::from(device), "open").map_err(|e| {
            impossible(format!(
                "/dev/fuse: {e:#} (it needs a kernel with FUSE, and root)"
            ))
        })?;
        let disk = Arc::new(Disk {
            len: len as u64,
            ..Disk::default()
        });
        let context = context(&device)?;
        let shared = Arc::clone(&disk);
        // It ends when the last user of the file system is gone, or with the process: nobody waits for it, since a
        // mapping that still lives would make that wait endless.
        std::thread::Builder::new()
            .name("w-disk".into())
            .spawn(move || {
                if let Err(error) = serve(&device, &shared) {
                    eprintln!("workload: the slow disk failed: {error:#}");
                }
            })
            .context("creating the thread that serves the disk")?;
        // SAFETY: no memory is involved.
        let root = owned(
            unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) },
            "fsmount",
        )?;
        Ok(Self { disk, root })
    }

    /// Opens the file. With `O_DIRECT` the server has the kernel bypass the page cache for this descriptor.
    pub(crate) fn open(&self, flags: i32) -> Result<OwnedFd> {
        // SAFETY: the name is NUL-terminated.
        let fd = unsafe {
            libc::openat(
                self.root.as_raw_fd(),
                c"file".as_ptr(),
                libc::O_RDWR | libc::O_CLOEXEC | flags,
            )
        };
        owned(i64::from(fd), "opening the file of the slow disk")
    }
}

/// A file system that is made but not reachable yet.
fn context(device: &OwnedFd) -> Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, c"fuse".as_ptr(), 1) };
    let context = owned(context, "fsopen")
        .map_err(|e| impossible(format!("making a FUSE file system: {e:#} (it needs root)")))?;
    const SET_STRING: i32 = 1;
    const CREATE: i32 = 6;
    let fd = std::ffi::CString::new(device.as_raw_fd().to_string()).context("a number")?;
    let set = |key: &CStr, value: &CStr| {
        // SAFETY: both are NUL-terminated.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                SET_STRING,
                key.as_ptr(),
                value.as_ptr(),
                0,
            )
        };
        sys::check(result, "fsconfig")
    };
    set(c"fd", &fd)?;
    set(c"rootmode", c"40000")?;
    set(c"user_id", c"0")?;
    set(c"group_id", c"0")?;
    // SAFETY: no memory is involved.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            CREATE,
            ptr::null::<u8>(),
            ptr::null::<u8>(),
            0,
        )
    };
    sys::check(result, "creating the FUSE file system")?;
    Ok(context)
}

// Operations of the protocol, from the kernel's linux/fuse.h.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const DESTROY: u32 = 38;
const BATCH_FORGET: u32 = 42;

/// The root and its file.
const ROOT: u64 = 1;
const FILE: u64 = 2;

/// Lengths of the header of a request and of an answer.
const IN: usize = 40;
const OUT: usize = 16;
/// The largest request and answer.
const MAX: usize = 256 << 10;

fn word(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
    u64::from_le_bytes(word.unwrap_or_default())
}

fn half(bytes: &[u8], at: usize) -> u32 {
    let half = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    u32::from_le_bytes(half.unwrap_or_default())
}

/// An answer, put together without allocating.
struct Answer<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Answer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn words(&mut self, words: &[u64]) {
        for word in words {
            self.put(&word.to_le_bytes());
        }
    }

    fn halves(&mut self, halves: &[u32]) {
        for half in halves {
            self.put(&half.to_le_bytes());
        }
    }

    /// struct fuse_attr.
    fn attributes(&mut self, node: u64, len: u64) {
        let (mode, size) = if node == ROOT {
            (0o040_755, 0)
        } else {
            (0o100_644, len)
        };
        self.words(&[node, size, size.div_ceil(512), 0, 0, 0]);
        self.halves(&[0, 0, 0, mode, 1, 0, 0, 0, PAGE as u32, 0]);
    }
}

/// Serves until the file system is gone.
fn serve(device: &OwnedFd, disk: &Disk) -> Result<()> {
    team::touch_stack(7);
    let mut request = vec![1_u8; MAX];
    let mut reply = vec![1_u8; MAX];
    loop {
        // SAFETY: the buffer is as long as is said.
        let n = unsafe { libc::read(device.as_raw_fd(), request.as_mut_ptr().cast(), MAX) };
        if n < 0 {
            let error = sys::last("reading /dev/fuse");
            match sys::errno(&error) {
                // A request was taken back, or a signal came.
                libc::ENOENT | libc::EINTR | libc::EAGAIN => continue,
                libc::ENODEV => return Ok(()),
                _ => return Err(error),
            }
        }
        let request = &request[..n.cast_unsigned()];
        let mut answer = Answer {
            bytes: &mut reply,
            len: OUT,
        };
        let Some(error) = handle(request, &mut answer, disk) else {
            continue;
        };
        let len = if error == 0 { answer.len } else { OUT };
        reply[..4].copy_from_slice(&(len as u32).to_le_bytes());
        reply[4..8].copy_from_slice(&(-error).to_le_bytes());
        reply[8..16].copy_from_slice(&word(request, 8).to_le_bytes());
        // SAFETY: the buffer is at least as long as is said.
        let n = unsafe { libc::write(device.as_raw_fd(), reply.as_ptr().cast(), len) };
        if n < 0 {
            let error = sys::last("writing /dev/fuse");
            if !matches!(sys::errno(&error), libc::ENOENT | libc::ENODEV) {
                return Err(error);
            }
        }
    }
}

/// Puts the answer to one request together. Returns the error number, or `None` if there is nothing to answer.
fn handle(request: &[u8], answer: &mut Answer<'_>, disk: &Disk) -> Option<i32> {
    let node = word(request, 16);
    let body = &request[IN.min(request.len())..];
    const FOREVER: u64 = 1 << 30;
    match half(request, 4) {
        // Version 7.31; no read-ahead: a page that is read is one request.
        INIT => {
            answer.halves(&[7, 31, 0, 0]);
            answer.put(&12_u16.to_le_bytes());
            answer.put(&9_u16.to_le_bytes());
            answer.halves(&[128 << 10, 1]);
            answer.put(&[0; 36]);
        }
        LOOKUP if body.starts_with(b"file\0") => {
            answer.words(&[FILE, 0, FOREVER, FOREVER, 0]);
            answer.attributes(FILE, disk.len);
        }
        LOOKUP => return Some(libc::ENOENT),
        GETATTR | SETATTR => {
            answer.words(&[FOREVER, 0]);
            answer.attributes(node, disk.len);
        }
        OPEN => {
            const DIRECT: u32 = 1;
            const KEEP_CACHE: u32 = 2;
            let direct = half(body, 0) & libc::O_DIRECT.cast_unsigned() != 0;
            answer.words(&[1]);
            answer.halves(&[KEEP_CACHE | if direct { DIRECT } else { 0 }, 0]);
        }
        READ => {
            disk.reads.fetch_add(1, Ordering::Release);
            let delay = disk.read_ns.load(Ordering::Acquire);
            if delay > 0 {
                std::thread::sleep(Duration::from_nanos(delay));
            }
            let (offset, size) = (word(body, 8), u64::from(half(body, 16)));
            let len = disk.len.saturating_sub(offset).min(size) as usize;
            let end = answer.len + len.min(MAX - OUT);
            answer.bytes[answer.len..end].fill(0x5a);
            answer.len = end;
        }
        WRITE => {
            disk.writes.fetch_add(1, Ordering::Release);
            while sys::now() < disk.write_until.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_micros(500));
            }
            answer.halves(&[half(body, 16), 0]);
        }
        RELEASE | FLUSH | FSYNC => {}
        FORGET | BATCH_FORGET | INTERRUPT => return None,
        DESTROY => {}
        _ => return Some(libc::ENOSYS),
    }
    Some(0)
}
