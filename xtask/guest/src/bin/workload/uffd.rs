//! userfaultfd, as far as the workloads use it.
//!
//! The numbers are those of the kernel's `linux/userfaultfd.h`; the libc crate has none of them.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context as _, Result, bail};

use crate::sys::{self, Mapping, PAGE, impossible};

/// A request number of its ioctls: both directions unless told otherwise.
const fn request(number: u64, size: usize) -> u64 {
    (3 << 30) | ((size as u64) << 16) | (0xaa << 8) | number
}

const API: u64 = request(0x3f, 24);
const REGISTER: u64 = request(0, 32);
const COPY: u64 = request(3, 40);
const ZEROPAGE: u64 = request(4, 32);
const MOVE: u64 = request(5, 40);
const WRITEPROTECT: u64 = request(6, 24);
const CONTINUE: u64 = request(7, 32);
const POISON: u64 = request(8, 32);

/// What faults a range reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Pages that are missing.
    Missing = 1,
    /// Writes to pages that were write-protected through it.
    Wp = 2,
    /// Pages that are in the page cache but not mapped.
    Minor = 4,
}

/// Things that not every kernel has.
pub(crate) const FEATURE_WP: (u64, &str) = (1 << 0, "write protection (Linux 5.7)");
/// Minor faults on shared memory.
pub(crate) const FEATURE_MINOR: (u64, &str) = (1 << 10, "minor faults on shared memory (Linux 5.14)");
/// UFFDIO_POISON.
pub(crate) const FEATURE_POISON: (u64, &str) = (1 << 14, "UFFDIO_POISON (Linux 6.6)");
/// UFFDIO_MOVE.
pub(crate) const FEATURE_MOVE: (u64, &str) = (1 << 16, "UFFDIO_MOVE (Linux 6.8)");
/// Nothing beyond the first version.
pub(crate) const FEATURE_NONE: (u64, &str) = (0, "");

/// A userfaultfd.
#[derive(Debug)]
pub(crate) struct Uffd(OwnedFd);

impl Uffd {
    /// Opens one with a feature.
    pub(crate) fn new(feature: (u64, &str)) -> Result<Self> {
        let features = Self::open()?.api(0)?;
        if features & feature.0 != feature.0 {
            return Err(impossible(format!(
                "this kernel's userfaultfd has no {}",
                feature.1
            )));
        }
        let uffd = Self::open()?;
        uffd.api(feature.0)?;
        Ok(uffd)
    }

    fn open() -> Result<Self> {
        /// Reports faults of user mode only, which is all that is needed and all that everybody may.
        const USER_MODE_ONLY: i32 = 1;
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY;
        // SAFETY: no memory is involved; the descriptor is ours alone.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        if fd < 0 {
            let error = sys::last("userfaultfd");
            return Err(match sys::errno(&error) {
                libc::ENOSYS => impossible("this kernel has no userfaultfd"),
                libc::EPERM => impossible("userfaultfd is not permitted here (a sandbox?)"),
                _ => error,
            });
        }
        let fd = i32::try_from(fd).context("userfaultfd")?;
        // SAFETY: as above.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// An ioctl on words: the kernel's structures for these calls consist of nothing else.
    fn ioctl(&self, request: u64, words: &mut [u64], name: &str) -> Result<()> {
        debug_assert_eq!(((request >> 16) & 0x3fff) as usize, words.len() * 8);
        // SAFETY: the words are as many as the request number says.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request, words.as_mut_ptr()) };
        sys::check(result, name).map(drop)
    }

    /// Agrees on the interface; returns the features of this kernel.
    fn api(&self, features: u64) -> Result<u64> {
        let mut words = [0xaa, features, 0];
        self.ioctl(API, &mut words, "UFFDIO_API")?;
        Ok(words[1])
    }

    /// Has faults of a mapping reported.
    pub(crate) fn register(&self, area: &Mapping, mode: Mode) -> Result<()> {
        let mut words = [area.base() as u64, area.len() as u64, mode as u64, 0];
        self.ioctl(REGISTER, &mut words, "UFFDIO_REGISTER")
    }

    /// Puts a copy of a page where one is missing.
    pub(crate) fn copy(&self, to: usize, from: usize) -> Result<()> {
        let mut words = [to as u64, from as u64, PAGE as u64, 0, 0];
        self.ioctl(COPY, &mut words, "UFFDIO_COPY")
    }

    /// Puts zero pages where some are missing.
    pub(crate) fn zero(&self, at: usize, pages: usize) -> Result<()> {
        let mut words = [at as u64, (pages * PAGE) as u64, 0, 0];
        self.ioctl(ZEROPAGE, &mut words, "UFFDIO_ZEROPAGE")
    }

    /// Moves a page to where one is missing.
    pub(crate) fn transfer(&self, to: usize, from: usize) -> Result<()> {
        let mut words = [to as u64, from as u64, PAGE as u64, 0, 0];
        self.ioctl(MOVE, &mut words, "UFFDIO_MOVE")
    }

    /// Write-protects pages, or no longer.
    pub(crate) fn protect(&self, at: usize, pages: usize, protect: bool) -> Result<()> {
        let mut words = [at as u64, (pages * PAGE) as u64, u64::from(protect)];
        self.ioctl(WRITEPROTECT, &mut words, "UFFDIO_WRITEPROTECT")
    }

    /// Maps a page that is in the page cache.
    pub(crate) fn proceed(&self, at: usize) -> Result<()> {
        let mut words = [at as u64, PAGE as u64, 0, 0];
        self.ioctl(CONTINUE, &mut words, "UFFDIO_CONTINUE")
    }

    /// Makes every access to a page that is missing end in SIGBUS.
    pub(crate) fn poison(&self, at: usize) -> Result<()> {
        let mut words = [at as u64, PAGE as u64, 0, 0];
        self.ioctl(POISON, &mut words, "UFFDIO_POISON")
    }

    /// Waits for faults and hands the address of each one's page on. Returns how many there were: 0 after some time
    /// without any.
    pub(crate) fn serve(&self, mut resolve: impl FnMut(usize) -> Result<()>) -> Result<usize> {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one structure, as is said.
        if sys::check(unsafe { libc::poll(&raw mut poll, 1, 20) }, "poll")? == 0 {
            return Ok(0);
        }
        // struct uffd_msg is 32 bytes; the event is its first byte, an address its third word.
        let mut messages = [[0_u64; 4]; 16];
        // SAFETY: the buffer is as long as is said.
        let read = unsafe {
            libc::read(
                self.0.as_raw_fd(),
                messages.as_mut_ptr().cast(),
                size_of_val(&messages),
            )
        };
        if read < 0 {
            let error = sys::last("reading a userfaultfd");
            // Somebody's signal took the fault back.
            return if sys::errno(&error) == libc::EAGAIN {
                Ok(0)
            } else {
                Err(error)
            };
        }
        let count = read.cast_unsigned() / size_of_val(&messages[0]);
        for message in &messages[..count] {
            const PAGEFAULT: u64 = 0x12;
            if message[0] & 0xff != PAGEFAULT {
                bail!("userfaultfd reported event {:#x}, not a fault", message[0] & 0xff);
            }
            resolve(message[2] as usize & !(PAGE - 1))?;
        }
        Ok(count)
    }
}
