//! userfaultfd as far as one scenario needs it: missing pages, of user mode only, which everybody may.
//!
//! The numbers are those of the kernel's `linux/userfaultfd.h`; the libc crate has none of them.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::Context as _;

use super::sys::{Area, Impossible, PAGE, check};

/// A request number of its ioctls, for so many words.
const fn request(number: u64, words: u64) -> u64 {
    3 << 30 | (words * 8) << 16 | 0xaa << 8 | number
}

const API: u64 = request(0x3f, 3);
const REGISTER: u64 = request(0, 4);
const COPY: u64 = request(3, 5);
const USER_MODE_ONLY: i32 = 1;
const MODE_MISSING: u64 = 1;
const PAGEFAULT: u64 = 0x12;

/// Reports the faults of one area's missing pages.
pub(super) struct Userfault(OwnedFd);

impl Userfault {
    /// Reports those of `area`.
    ///
    /// # Errors
    /// [`Impossible`] where the kernel does not have or not allow it.
    pub(super) fn new(area: &Area) -> anyhow::Result<Self> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY;
        // SAFETY: no memory is involved.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) } as i32;
        if fd < 0 {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::ENOSYS) => Impossible("this kernel has no userfaultfd".to_owned()).into(),
                Some(libc::EPERM) => Impossible("userfaultfd is not permitted here".to_owned()).into(),
                _ => anyhow::Error::new(error).context("userfaultfd"),
            });
        }
        // SAFETY: the descriptor is new, and ours alone.
        let this = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        this.ioctl(API, &mut [0xaa, 0, 0], "ioctl(UFFDIO_API)")?;
        let len = (area.pages() * PAGE) as u64;
        let mut words = [area.at(0) as u64, len, MODE_MISSING, 0];
        this.ioctl(REGISTER, &mut words, "ioctl(UFFDIO_REGISTER)")?;
        Ok(this)
    }

    fn ioctl(&self, request: u64, words: &mut [u64], call: &'static str) -> anyhow::Result<()> {
        debug_assert_eq!((request >> 16 & 0x3fff) as usize, size_of_val(words));
        // SAFETY: the words are as many as the request number says.
        check(
            unsafe { libc::ioctl(self.0.as_raw_fd(), request, words.as_mut_ptr()) },
            call,
        )
        .map(drop)
    }

    /// Waits up to 10 ms for faults, and gives each page that misses a copy of `page`. Returns how many it gave.
    ///
    /// # Errors
    /// Of the system calls.
    pub(super) fn serve(&self, page: &Area) -> anyhow::Result<usize> {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one structure, as is said.
        if unsafe { libc::poll(&raw mut poll, 1, 10) } <= 0 {
            return Ok(0);
        }
        // struct uffd_msg has 32 bytes; the event is its first byte, an address its third word.
        let mut messages = [[0_u64; 4]; 16];
        let len = size_of_val(&messages);
        // SAFETY: the buffer is as long as is said.
        let read = unsafe { libc::read(self.0.as_raw_fd(), messages.as_mut_ptr().cast(), len) };
        if read < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(0),
                _ => Err(error).context("reading a userfaultfd"),
            };
        }
        let count = read.cast_unsigned() / size_of_val(&messages[0]);
        for message in &messages[..count] {
            anyhow::ensure!(message[0] & 0xff == PAGEFAULT, "userfaultfd reported no fault");
            let to = message[2] & !(PAGE as u64 - 1);
            self.copy(to, page)?;
        }
        Ok(count)
    }
}

impl Userfault {
    fn copy(&self, to: u64, page: &Area) -> anyhow::Result<()> {
        loop {
            let mut words = [to, page.at(0) as u64, PAGE as u64, 0, 0];
            let result = self.ioctl(COPY, &mut words, "ioctl(UFFDIO_COPY)");
            match result.as_ref().err().and_then(errno) {
                // A change of the mapping is under way.
                Some(libc::EAGAIN) => {}
                // It was given already, and whoever waited was woken by that.
                Some(libc::EEXIST) => return Ok(()),
                _ => return result,
            }
        }
    }
}

fn errno(error: &anyhow::Error) -> Option<i32> {
    error.downcast_ref::<io::Error>()?.raw_os_error()
}
