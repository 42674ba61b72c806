//! The system calls that workloads are made of, with errors that say which call failed.
//!
//! Nothing here allocates on success: all of it is used inside measured parts.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, anyhow};

/// The size of a page on every machine that is traced.
pub(crate) const PAGE: usize = 4096;
/// The kernel maps the neighbours of a page that is read from a file, within blocks of this size.
pub(crate) const AROUND: usize = 64 << 10;

/// This workload cannot run on this kernel or with these privileges.
#[derive(Debug)]
pub(crate) struct Impossible(pub(crate) String);

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not possible here: {}", self.0)
    }
}

impl std::error::Error for Impossible {}

/// An [`Impossible`] as an error.
pub(crate) fn impossible(why: impl Into<String>) -> anyhow::Error {
    anyhow!(Impossible(why.into()))
}

/// Turns the result of a system call into an error that names the call.
pub(crate) fn check(result: impl Into<i64>, call: &str) -> Result<i64> {
    let result = result.into();
    if result < 0 {
        return Err(last(call));
    }
    Ok(result)
}

/// The error of the system call that has just failed.
pub(crate) fn last(call: &str) -> anyhow::Error {
    anyhow!(io::Error::last_os_error()).context(call.to_owned())
}

/// The error number behind an error of [`check`].
pub(crate) fn errno(error: &anyhow::Error) -> i32 {
    error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::raw_os_error)
        .unwrap_or(0)
}

/// A range of pages, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: usize,
    len: usize,
}

impl Mapping {
    /// Private anonymous memory, not forked and without huge pages if the process said so.
    pub(crate) fn anon(pages: usize) -> Result<Self> {
        Self::map(
            pages * PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
        )
    }

    /// Private anonymous memory whose page tables hold nothing else.
    pub(crate) fn anon_apart(pages: usize) -> Result<Self> {
        // One page table holds 2 MiB.
        const TABLE: usize = 2 << 20;
        let len = (pages * PAGE).next_multiple_of(TABLE);
        let whole = Self::anon((len + TABLE) / PAGE)?;
        let base = whole.base.next_multiple_of(TABLE);
        let [head, tail] = [base - whole.base, whole.base + TABLE - base];
        std::mem::forget(whole);
        for (at, len) in [(base - head, head), (base + len, tail)] {
            if len > 0 {
                unmap_at(at, len)?;
            }
        }
        let room = Self { base, len };
        if len > pages * PAGE {
            room.protect(pages, len / PAGE - pages, libc::PROT_NONE)?;
        }
        Ok(room)
    }

    /// Anonymous memory that children share.
    pub(crate) fn shared(pages: usize) -> Result<Self> {
        Self::map(
            pages * PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
        )
    }

    /// The whole of a file.
    pub(crate) fn file(fd: &impl AsRawFd, len: usize, prot: i32, flags: i32) -> Result<Self> {
        Self::map(len, prot, flags, fd.as_raw_fd())
    }

    /// mmap(2) at an address that the kernel chooses.
    pub(crate) fn map(len: usize, prot: i32, flags: i32, fd: i32) -> Result<Self> {
        // SAFETY: without MAP_FIXED the kernel picks a range that nothing uses.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(last("mmap"));
        }
        Ok(Self {
            base: base as usize,
            len,
        })
    }

    /// First address.
    pub(crate) fn base(&self) -> usize {
        self.base
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Length in pages.
    pub(crate) fn pages(&self) -> usize {
        self.len / PAGE
    }

    /// The address of a page.
    pub(crate) fn page(&self, index: usize) -> usize {
        assert!(index < self.pages(), "page {index} of {}", self.pages());
        self.base + index * PAGE
    }

    /// Writes one word to a page.
    pub(crate) fn write(&self, page: usize) {
        poke(self.page(page));
    }

    /// Reads one word from a page.
    pub(crate) fn read(&self, page: usize) -> u64 {
        peek(self.page(page))
    }

    /// Writes to every page.
    pub(crate) fn write_all(&self) {
        for page in 0..self.pages() {
            self.write(page);
        }
    }

    /// mprotect(2) of some of its pages.
    pub(crate) fn protect(&self, first: usize, pages: usize, prot: i32) -> Result<()> {
        assert!(first + pages <= self.pages(), "mprotect beyond the mapping");
        // SAFETY: the range belongs to this mapping, which holds no Rust object.
        let result = unsafe { libc::mprotect((self.base + first * PAGE) as *mut _, pages * PAGE, prot) };
        check(result, "mprotect").map(drop)
    }

    /// madvise(2) of all of it.
    pub(crate) fn advise(&self, advice: i32) -> Result<()> {
        self.advise_part(0, self.pages(), advice)
    }

    /// madvise(2) of some of its pages.
    pub(crate) fn advise_part(&self, first: usize, pages: usize, advice: i32) -> Result<()> {
        assert!(first + pages <= self.pages(), "madvise beyond the mapping");
        advise(self.base + first * PAGE, pages * PAGE, advice)
    }

    /// munmap(2), with its error.
    pub(crate) fn unmap(self) -> Result<()> {
        let (base, len) = (self.base, self.len);
        std::mem::forget(self);
        // SAFETY: the range belongs to this mapping, which is gone now.
        check(unsafe { libc::munmap(base as *mut _, len) }, "munmap").map(drop)
    }

    /// The middle of a mapping and its two ends, each `len` long.
    pub(crate) fn split3(self, len: usize) -> [Self; 3] {
        let base = self.base;
        std::mem::forget(self);
        [len, 0, 2 * len].map(|offset| Self {
            base: base + offset,
            len,
        })
    }

    /// mremap(2) to another length, to a place that the kernel chooses or to that of another mapping, which ends.
    pub(crate) fn remap(self, pages: usize, to: Option<Self>) -> Result<Self> {
        let (base, old) = (self.base, self.len);
        let (flags, target) = match &to {
            Some(place) => (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, place.base),
            None => (libc::MREMAP_MAYMOVE, 0),
        };
        std::mem::forget(self);
        let len = pages * PAGE;
        if let Some(place) = to {
            assert!(len <= place.len, "mremap beyond the place for it");
            std::mem::forget(place);
        }
        // SAFETY: source and target are mappings of ours, which nobody else knows any more.
        let base = unsafe { libc::mremap(base as *mut _, old, len, flags, target as *mut libc::c_void) };
        if base == libc::MAP_FAILED {
            return Err(last("mremap"));
        }
        Ok(Self {
            base: base as usize,
            len,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range belongs to this mapping alone. A failure leaves memory mapped: no harm at the end.
        unsafe { libc::munmap(self.base as *mut _, self.len) };
    }
}

/// Maps fresh private memory over a range of one's own.
pub(crate) fn map_over(base: usize, len: usize, flags: i32) -> Result<()> {
    // SAFETY: callers name ranges inside mappings of their own that hold no Rust object.
    let result = unsafe {
        libc::mmap(
            base as *mut _,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            flags | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    if result == libc::MAP_FAILED {
        return Err(last("mmap"));
    }
    Ok(())
}

/// munmap(2) of a range of one's own.
pub(crate) fn unmap_at(base: usize, len: usize) -> Result<()> {
    // SAFETY: as for `map_over`.
    check(unsafe { libc::munmap(base as *mut _, len) }, "munmap").map(drop)
}

/// madvise(2).
pub(crate) fn advise(base: usize, len: usize, advice: i32) -> Result<()> {
    // SAFETY: callers name ranges that hold no Rust object, or advice that keeps contents.
    check(unsafe { libc::madvise(base as *mut _, len, advice) }, "madvise").map(drop)
}

/// Writes one word; a first write to a page is one fault. Inlined always: elsewhere its text might be one fault more, of
/// a child that counts them.
#[inline(always)]
pub(crate) fn poke(address: usize) {
    // SAFETY: callers pass word-aligned addresses inside mappings of their own that hold no Rust object. An atomic
    // store lets several threads write the same page.
    unsafe { AtomicU64::from_ptr(address as *mut u64) }.store(address as u64, Ordering::Relaxed);
}

/// Reads one word; a first read of a page is one fault.
pub(crate) fn peek(address: usize) -> u64 {
    // SAFETY: as for `poke`.
    std::hint::black_box(unsafe { ptr::read_volatile(address as *const u64) })
}

/// CLOCK_MONOTONIC, the clock of traces.
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` outlives the call, which cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Sleeps until a time of [`now`].
pub(crate) fn sleep_until(ns: u64) {
    let time = libc::timespec {
        tv_sec: (ns / 1_000_000_000).cast_signed(),
        tv_nsec: (ns % 1_000_000_000).cast_signed(),
    };
    // SAFETY: `time` outlives the call; no remainder is asked for with an absolute time.
    while unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &raw const time,
            ptr::null_mut(),
        )
    } == libc::EINTR
    {}
}

/// The calling thread's id.
pub(crate) fn tid() -> i32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// Minor and major faults that the kernel has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Without I/O.
    pub(crate) minor: u64,
    /// With I/O, or by way of a retry.
    pub(crate) major: u64,
}

impl Faults {
    /// The faults of this thread (`RUSAGE_THREAD`) or this process (`RUSAGE_SELF`) so far.
    pub(crate) fn of(who: i32) -> Self {
        // SAFETY: an all-zero rusage is valid, outlives the call, and the call cannot fail for these two.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(who, &raw mut usage);
            usage
        };
        Self::from(&usage)
    }

    /// Both kinds together.
    pub(crate) fn all(self) -> u64 {
        self.minor + self.major
    }

    /// What came since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            minor: self.minor - earlier.minor,
            major: self.major - earlier.major,
        }
    }
}

impl From<&libc::rusage> for Faults {
    fn from(usage: &libc::rusage) -> Self {
        Self {
            minor: usage.ru_minflt.cast_unsigned(),
            major: usage.ru_majflt.cast_unsigned(),
        }
    }
}

/// A file in memory, filled so that every page is in the page cache.
pub(crate) fn memfd(len: usize) -> Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated; the descriptor is ours alone.
    let fd = unsafe { libc::memfd_create(c"workload".as_ptr(), libc::MFD_CLOEXEC) };
    check(fd, "memfd_create")?;
    // SAFETY: as above.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    fill(&fd, len)?;
    Ok(fd)
}

/// Writes `len` bytes to a file.
pub(crate) fn fill(fd: &impl AsRawFd, len: usize) -> Result<()> {
    let block = [0x5a_u8; PAGE];
    for at in (0..len).step_by(PAGE) {
        // SAFETY: the buffer is as long as it is said to be.
        let written = unsafe {
            libc::pwrite(
                fd.as_raw_fd(),
                block.as_ptr().cast(),
                PAGE,
                at.cast_signed() as i64,
            )
        };
        if check(written as i64, "writing the file to be mapped")? != PAGE as i64 {
            return Err(anyhow!(
                "the file to be mapped was written in part: is its file system full?"
            ));
        }
    }
    Ok(())
}

/// A new file without a name in a directory, filled so that every page is in the page cache.
pub(crate) fn file_in(dir: &str, len: usize) -> Result<OwnedFd> {
    let path = format!("{dir}/workload.{}", std::process::id());
    let name = CString::new(path.clone()).context("the directory's name")?;
    // SAFETY: the name is NUL-terminated; the descriptor is ours alone.
    let fd = unsafe {
        libc::open(
            name.as_ptr(),
            libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC,
            0o600,
        )
    };
    check(fd, "open").with_context(|| format!("creating {path} (--dir names another directory)"))?;
    // SAFETY: as above.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the name is NUL-terminated.
    check(unsafe { libc::unlink(name.as_ptr()) }, "unlink")?;
    fill(&fd, len)?;
    Ok(fd)
}

/// Sets a file's length.
pub(crate) fn truncate(fd: &impl AsRawFd, len: usize) -> Result<()> {
    // SAFETY: no memory is involved.
    let result = unsafe { libc::ftruncate(fd.as_raw_fd(), len.cast_signed() as i64) };
    check(result, "ftruncate")?;
    Ok(())
}
