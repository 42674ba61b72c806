//! Reads the kernel's ring buffer in place.
//!
//! aya has a reader too, but it does not tell an empty ring from one whose next record is still
//! being written, and the exact watermark of [`super::Poll::More`] hangs on that difference.
//!
//! Layout: <https://docs.kernel.org/bpf/ringbuf.html>. One page with the consumer's position, which
//! we write; one page with the producers' position, then the data twice in a row, so that a record
//! that wraps is contiguous.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use aya::maps::MapData;

const BUSY: u32 = 1 << 31;
const DISCARD: u32 = 1 << 30;
const RECORD_HEADER: u64 = 8;

struct Mapping {
    start: *mut libc::c_void,
    len: usize,
}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, len: usize, protection: i32, offset: usize) -> io::Result<Self> {
        // SAFETY: a new shared mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if start == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self { start, len })
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrowed from it outlives it.
        unsafe { libc::munmap(self.start, self.len) };
    }
}

/// How a [`Ring::drain`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// All that was reserved when it began has been read.
    All,
    /// A record before that is still being written.
    Busy,
}

/// The reading end of the ring buffer.
pub(super) struct Ring {
    map: MapData,
    consumer: Mapping,
    producer: Mapping,
    mask: u64,
    page: usize,
    /// Our own copy of the consumer's position: nobody else writes it.
    position: u64,
}

// SAFETY: the mappings belong to this value alone, and the kernel's side of them is only touched
// through atomics.
unsafe impl Send for Ring {}

impl Ring {
    pub(super) fn new(map: MapData, bytes: u32) -> anyhow::Result<Self> {
        // SAFETY: sysconf has no precondition.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let fd = map.fd().as_fd();
        let consumer = Mapping::new(fd, page, libc::PROT_READ | libc::PROT_WRITE, 0)
            .context("cannot map the ring buffer's first page")?;
        let producer = Mapping::new(fd, page + 2 * bytes as usize, libc::PROT_READ, page)
            .context("cannot map the ring buffer: try a smaller --buffer")?;
        Ok(Self {
            map,
            consumer,
            producer,
            mask: u64::from(bytes) - 1,
            page,
            position: 0,
        })
    }

    fn produced(&self) -> u64 {
        // SAFETY: the page is mapped and starts with this counter, which the kernel writes atomically.
        unsafe { AtomicU64::from_ptr(self.producer.start.cast()) }.load(Ordering::Acquire)
    }

    fn release(&self) {
        // SAFETY: as above; this page is ours to write.
        unsafe { AtomicU64::from_ptr(self.consumer.start.cast()) }.store(self.position, Ordering::Release);
    }

    /// Hands over what was reserved up to now, record by record.
    pub(super) fn drain(&mut self, mut each: impl FnMut(&[u8])) -> Drained {
        let end = self.produced();
        let mut released = self.position;
        while self.position < end {
            let at = (self.position & self.mask) as usize;
            // SAFETY: `at` is below the ring's size, the data is mapped twice behind the first page,
            // and records are aligned to 8 bytes.
            let record = unsafe { self.producer.start.cast::<u8>().add(self.page + at) };
            // SAFETY: as above; the kernel sets the length and its flags with release order.
            let header = unsafe { AtomicU32::from_ptr(record.cast()) }.load(Ordering::Acquire);
            if header & BUSY != 0 {
                self.release();
                return Drained::Busy;
            }
            let len = header & !(BUSY | DISCARD);
            if header & DISCARD == 0 {
                // SAFETY: the record is complete and stays until the consumer's position passes it;
                // it may wrap, but the second mapping continues it.
                each(unsafe { std::slice::from_raw_parts(record.add(RECORD_HEADER as usize), len as usize) });
            }
            self.position += (u64::from(len) + RECORD_HEADER).next_multiple_of(8);
            // Room is given back now and then: often enough for producers, seldom enough for the cache.
            if self.position - released > (self.mask + 1) / 16 {
                self.release();
                released = self.position;
            }
        }
        self.release();
        Drained::All
    }

    /// Waits until the kernel wakes us, which it does when the ring fills up quickly, or until the time is over.
    pub(super) fn wait(&self, time: Duration) -> io::Result<()> {
        let mut poll = libc::pollfd {
            fd: self.map.fd().as_fd().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let limit = libc::timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        // SAFETY: one valid pollfd and one valid timespec.
        let result = unsafe { libc::ppoll(&raw mut poll, 1, &raw const limit, ptr::null()) };
        if result < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(())
    }
}
