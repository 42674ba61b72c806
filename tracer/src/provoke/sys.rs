//! The system calls that scenarios are made of; errors name the call.

use std::io;
use std::ptr;

use anyhow::Context as _;

/// The size of a page on every machine that is traced, in bytes.
pub(super) const PAGE: usize = 4096;
/// The size of a huge page there, in bytes.
pub(super) const HUGE: usize = 2 << 20;

const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
const WRITABLE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// A scenario that this kernel, or a sandbox around us, does not allow.
#[derive(Debug, thiserror::Error)]
#[error("not possible here: {0}")]
pub(super) struct Impossible(pub(super) String);

/// Turns the result of a system call into an error that names the call.
pub(super) fn check(result: i32, call: &'static str) -> anyhow::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error()).context(call)
    } else {
        Ok(result)
    }
}

/// A range of pages of our own, unmapped when dropped.
#[derive(Debug)]
pub(super) struct Area {
    base: usize,
    pages: usize,
}

impl Area {
    /// Private anonymous memory without huge pages, so that each page takes a fault of its own.
    pub(super) fn new(pages: usize) -> anyhow::Result<Self> {
        let area = Self {
            base: map(0, pages * PAGE, ANONYMOUS)?,
            pages,
        };
        // Kernels without huge pages refuse this, and have none to forbid.
        let _ = area.advise(0, pages, libc::MADV_NOHUGEPAGE);
        Ok(area)
    }

    /// The same that begins at a huge page's boundary, for huge pages where the kernel has them.
    pub(super) fn huge(huge_pages: usize) -> anyhow::Result<Self> {
        let len = huge_pages * HUGE;
        let whole = map(0, len + HUGE, ANONYMOUS)?;
        let base = whole.next_multiple_of(HUGE);
        let area = Self {
            base,
            pages: len / PAGE,
        };
        for (at, len) in [(whole, base - whole), (base + len, whole + HUGE - base)] {
            if len > 0 {
                unmap(at, len)?;
            }
        }
        let _ = area.advise(0, area.pages, libc::MADV_HUGEPAGE);
        Ok(area)
    }

    pub(super) const fn pages(&self) -> usize {
        self.pages
    }

    /// The address of a page.
    pub(super) const fn at(&self, page: usize) -> usize {
        self.base + page * PAGE
    }

    /// Writes to a page.
    #[inline]
    pub(super) fn touch(&self, page: usize) {
        debug_assert!(page < self.pages);
        // SAFETY: the page is ours and stays mapped, if not always by the same mapping; nobody has references into it.
        unsafe { ptr::write_volatile(self.at(page) as *mut u8, 1) };
    }

    /// `madvise` of some of its pages.
    pub(super) fn advise(&self, first: usize, pages: usize, advice: i32) -> anyhow::Result<()> {
        // SAFETY: the range is ours, and nobody relies on what is in it.
        check(
            unsafe { libc::madvise(self.at(first) as *mut _, pages * PAGE, advice) },
            "madvise",
        )
        .map(drop)
    }

    /// Lets some of its pages be written, or only read.
    pub(super) fn protect(&self, first: usize, pages: usize, writable: bool) -> anyhow::Result<()> {
        let prot = if writable { WRITABLE } else { libc::PROT_READ };
        // SAFETY: the range is ours; who writes to it leaves out the pages that are read-only at times.
        check(
            unsafe { libc::mprotect(self.at(first) as *mut _, pages * PAGE, prot) },
            "mprotect",
        )
        .map(drop)
    }

    /// Takes the right to read from all of it, or gives it back; to write is allowed all the time.
    pub(super) fn write_only(&self, only: bool) -> anyhow::Result<()> {
        let prot = if only { libc::PROT_WRITE } else { WRITABLE };
        // SAFETY: the range is ours, and is only written to.
        check(
            unsafe { libc::mprotect(self.base as *mut _, self.pages * PAGE, prot) },
            "mprotect",
        )
        .map(drop)
    }

    /// Puts a fresh mapping into the place of this one, at once: at no time is nothing mapped there.
    pub(super) fn replace(&self) -> anyhow::Result<()> {
        map(self.base, self.pages * PAGE, ANONYMOUS | libc::MAP_FIXED).map(drop)
    }

    /// Moves it to where the kernel likes, with another size.
    pub(super) fn resize(&mut self, pages: usize) -> anyhow::Result<()> {
        // SAFETY: the range is ours, and nobody has its address but us.
        let base = unsafe {
            libc::mremap(
                self.base as *mut _,
                self.pages * PAGE,
                pages * PAGE,
                libc::MREMAP_MAYMOVE,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("mremap");
        }
        (self.base, self.pages) = (base as usize, pages);
        Ok(())
    }
}

/// Two places, with a mapping in one and a placeholder in the other.
#[derive(Debug)]
pub(super) struct Places {
    whole: usize,
    starts: [usize; 2],
    pages: usize,
}

impl Places {
    /// A mapping without pages but with page tables, in place 0. The places lie differently within the tables, so that
    /// a move has to look at every entry.
    pub(super) fn new(pages: usize) -> anyhow::Result<Self> {
        /// Far below all that the kernel picks places for: the place that a move leaves must not be picked, for the stack
        /// of a thread that starts, before the placeholder is there.
        const LOW: usize = 1 << 40;
        let len = pages * PAGE;
        let whole = map_with(
            LOW,
            Self::whole(pages),
            libc::PROT_NONE,
            ANONYMOUS | libc::MAP_NORESERVE,
        )?;
        let first = whole.next_multiple_of(HUGE);
        let places = Self {
            whole,
            starts: [first, (first + len).next_multiple_of(HUGE) + HUGE + PAGE],
            pages,
        };
        let area = std::mem::ManuallyDrop::new(Area {
            base: map(first, len, ANONYMOUS | libc::MAP_FIXED)?,
            pages,
        });
        let _ = area.advise(0, pages, libc::MADV_NOHUGEPAGE);
        for page in (0..pages).step_by(HUGE / PAGE) {
            area.touch(page);
            area.advise(page, 1, libc::MADV_DONTNEED)?;
        }
        Ok(places)
    }

    const fn whole(pages: usize) -> usize {
        2 * pages * PAGE + 4 * HUGE
    }

    /// Moves the mapping out of place `from` into the other one.
    pub(super) fn go(&self, from: usize) -> anyhow::Result<()> {
        let len = self.pages * PAGE;
        let [from, to] = [self.starts[from], self.starts[1 - from]];
        // SAFETY: both ranges are ours, and nobody has references into them.
        let base = unsafe {
            libc::mremap(
                from as *mut _,
                len,
                len,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                to as *mut libc::c_void,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("mremap");
        }
        // Fails if somebody else has taken the place, rather than to take it from them later.
        let flags = ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        map_with(from, len, libc::PROT_NONE, flags).map(drop)
    }

    /// Drops a page of place `place`, where there is anything at the moment.
    pub(super) fn drop_page(&self, place: usize, page: usize) {
        let at = self.starts[place] + page * PAGE;
        // SAFETY: the range is ours, and nobody relies on what is in it. In the middle of a move nothing may be there.
        unsafe { libc::madvise(at as *mut _, PAGE, libc::MADV_DONTNEED) };
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let _ = unmap(self.whole, Self::whole(self.pages));
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // It fails only if the range were no range, and then there is nothing to free.
        let _ = unmap(self.base, self.pages * PAGE);
    }
}

fn map(at: usize, len: usize, flags: i32) -> anyhow::Result<usize> {
    map_with(at, len, WRITABLE, flags)
}

fn map_with(at: usize, len: usize, prot: i32, flags: i32) -> anyhow::Result<usize> {
    // SAFETY: without MAP_FIXED the kernel picks a free range; with it the caller owns the range.
    let base = unsafe { libc::mmap(at as *mut _, len, prot, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error()).context("mmap");
    }
    Ok(base as usize)
}

fn unmap(at: usize, len: usize) -> anyhow::Result<()> {
    // SAFETY: callers own the range.
    check(unsafe { libc::munmap(at as *mut _, len) }, "munmap").map(drop)
}

/// Memory that children share, all zero, for as long as the process lives.
pub(super) fn shared<T>() -> anyhow::Result<*mut T> {
    let len = size_of::<T>().next_multiple_of(PAGE);
    let base = map_shared(len)?;
    Ok(base.cast())
}

fn map_shared(len: usize) -> anyhow::Result<*mut libc::c_void> {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    // SAFETY: the kernel picks a free range.
    let base = unsafe { libc::mmap(ptr::null_mut(), len, WRITABLE, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error()).context("mmap");
    }
    Ok(base)
}

/// A child that runs `work` and ends. Between the fork and the end it may use no memory of the allocator, unless the
/// calling process has one thread only.
pub(super) fn fork(work: impl FnOnce() -> i32) -> anyhow::Result<i32> {
    // SAFETY: the child does only what the caller vouches for, and ends without running destructors.
    let pid = check(unsafe { libc::fork() }, "fork")?;
    if pid == 0 {
        let status = work();
        // SAFETY: no precondition.
        unsafe { libc::_exit(status) };
    }
    Ok(pid)
}

/// Waits for a child to end well.
pub(super) fn wait(pid: i32) -> anyhow::Result<()> {
    let mut status = 0;
    loop {
        // SAFETY: the status lives here.
        match check(unsafe { libc::waitpid(pid, &raw mut status, 0) }, "waitpid") {
            Ok(_) => break,
            Err(error) if interrupted(&error) => {}
            Err(error) => return Err(error),
        }
    }
    // ^C ends children along with us; that is no failure of theirs.
    anyhow::ensure!(
        status == 0 || libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGINT,
        "a child ended with status {status:#x}"
    );
    Ok(())
}

fn interrupted(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::Interrupted)
}

/// Lets [`interrupt_all`] do something from now on. `false` where the kernel does not allow it.
pub(super) fn may_interrupt_all() -> bool {
    membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
}

/// Interrupts every processor that runs a thread of this process, wherever in the kernel it may be.
pub(super) fn interrupt_all() {
    membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
}

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: no memory is involved.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

/// Lets the calling thread run on one processor only, of those that it may use; without effect where that is refused.
pub(super) fn pin(nth: usize) {
    // SAFETY: a set of zeroes is an empty one; the calls get its size, and 0 is the calling thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) != 0 {
            return;
        }
        let allowed: Vec<usize> = (0..libc::CPU_SETSIZE as usize)
            .filter(|&cpu| libc::CPU_ISSET(cpu, &set))
            .collect();
        if let Some(&cpu) = allowed.get(nth % allowed.len().max(1)) {
            libc::CPU_ZERO(&mut set);
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
        }
    }
}

/// Lets the calling thread run only when nobody else wants its processor.
pub(super) fn be_idle() {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: one structure, and 0 is the calling thread. Where it is refused the thread only runs sooner.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const param) };
}
