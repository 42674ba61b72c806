//! Children that take a known number of faults, made so that forking costs the parent none.
//!
//! An ordinary fork write-protects every page that the parent's threads have written: stacks, heap, data. Each later
//! write by any of them would be a fault that nobody counts. So all of that is kept from children ([`seal`]), and
//! what remains for a child is its text, a stack in shared memory and the pages that it is made to touch. Having no
//! heap, no thread-local storage and no standard library, it makes its system calls by itself.

use std::arch::asm;
use std::fs;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::report::Child;
use crate::sys::{self, Faults, Mapping, PAGE};

/// Keeps from children all private memory that can be written, save the ranges to be forked.
///
/// Runs before each measured part, since memory that was allocated after the last time is not sealed yet.
pub(crate) fn seal(forked: &[&Mapping]) -> Result<()> {
    let maps = fs::read_to_string("/proc/self/maps").context("reading /proc/self/maps")?;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(perms)) = (words.next(), words.next()) else {
            continue;
        };
        if !perms.contains('w') || !perms.ends_with('p') {
            continue;
        }
        let (low, high) = range.split_once('-').context("a line of /proc/self/maps")?;
        let low = usize::from_str_radix(low, 16).context("a line of /proc/self/maps")?;
        let high = usize::from_str_radix(high, 16).context("a line of /proc/self/maps")?;
        sys::advise(low, high - low, libc::MADV_DONTFORK)?;
    }
    for mapping in forked {
        mapping.advise(libc::MADV_DOFORK)?;
    }
    Ok(())
}

/// What a child is told, and where it leaves its answer; lies in shared memory.
#[repr(C)]
struct Orders {
    /// Address of the first page to write.
    first: usize,
    /// How many pages it writes.
    pages: usize,
    /// How many mappings it makes.
    maps: usize,
    /// Pages that it touches in each of them.
    each: usize,
    /// Not to end before this is 0.
    hold: AtomicU32,
    /// Faults that the kernel counted over the writes: before, and after.
    counted: [u64; 2],
}

/// A place for one child at a time.
#[derive(Debug)]
pub(crate) struct Nursery {
    stack: Mapping,
}

const STACK_PAGES: usize = 8;

impl Nursery {
    /// Reserves a child's stack.
    pub(crate) fn new() -> Result<Self> {
        let stack = Mapping::shared(STACK_PAGES)?;
        stack.write_all();
        Ok(Self { stack })
    }

    fn orders(&self) -> *mut Orders {
        self.stack.page(STACK_PAGES - 1) as *mut Orders
    }

    /// Forks a child that writes `pages` pages from `first` on (copying each), and makes `maps` mappings of which
    /// it touches `each` pages. It ends by itself, or, if it is told to `hold`, after [`Self::release`]. Returns its
    /// process id.
    pub(crate) fn start(
        &self,
        first: usize,
        pages: usize,
        maps: usize,
        each: usize,
        hold: bool,
    ) -> Result<i32> {
        let orders = Orders {
            first,
            pages,
            maps,
            each,
            hold: AtomicU32::new(u32::from(hold)),
            counted: [0; 2],
        };
        // SAFETY: the last page of the stack is for the orders and nobody else uses it: a nursery has one child.
        unsafe { self.orders().write(orders) };
        let pid: i64;
        // SAFETY: the child starts on a stack of its own, never returns into Rust code that would use the parent's,
        // and shares nothing with it but that stack. The parent sees an ordinary system call.
        unsafe {
            asm!(
                "syscall",
                "test rax, rax",
                "jnz 2f",
                "xor ebp, ebp",
                "mov rdi, r12",
                "call r13",
                "ud2",
                "2:",
                inlateout("rax") libc::SYS_clone => pid,
                in("rdi") libc::SIGCHLD,
                in("rsi") self.stack.page(STACK_PAGES - 1),
                in("rdx") 0,
                in("r10") 0,
                in("r8") 0,
                in("r12") self.orders(),
                in("r13") live as extern "C" fn(*mut Orders) -> !,
                lateout("rcx") _,
                lateout("r11") _,
            );
        }
        if pid < 0 {
            let errno = i32::try_from(-pid).unwrap_or(0);
            return Err(anyhow!(std::io::Error::from_raw_os_error(errno)).context("clone"));
        }
        i32::try_from(pid).context("clone")
    }

    /// Lets the child end.
    pub(crate) fn release(&self) {
        // SAFETY: the orders live as long as the nursery; the child reads this word only, atomically. The wake-up is
        // by address, not private, since the child has another mm.
        unsafe {
            let hold = &raw const (*self.orders()).hold;
            (*hold).store(0, Ordering::Release);
            libc::syscall(libc::SYS_futex, hold, libc::FUTEX_WAKE, 1);
        }
    }

    /// Waits for the child's end.
    pub(crate) fn wait(&self, pid: i32) -> Result<Child> {
        let mut status = 0;
        // SAFETY: an all-zero rusage is valid, and both outlive the call.
        let (result, usage) = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            (
                libc::wait4(pid, &raw mut status, libc::__WALL, &raw mut usage),
                usage,
            )
        };
        sys::check(result, "wait4")?;
        if !libc::WIFEXITED(status) || libc::WEXITSTATUS(status) != 0 {
            bail!("child {pid} failed (wait status {status:#x})");
        }
        // SAFETY: the child has ended, nobody else writes the orders.
        let orders = unsafe { ptr::read(self.orders()) };
        let known = (orders.pages + orders.maps * orders.each) as u64;
        let counted = orders.counted[1] - orders.counted[0];
        if counted != known {
            bail!("child {pid} made {known} faults, but the kernel counted {counted}");
        }
        Ok(Child {
            pid,
            known,
            counted: Faults::from(&usage),
        })
    }
}

/// A system call with up to six arguments.
///
/// # Safety
/// As for the system call; without thread-local storage, so without errno.
#[inline(always)]
unsafe fn syscall(number: i64, args: [usize; 6]) -> i64 {
    let result;
    // SAFETY: the caller's promise. The kernel changes rax, rcx and r11 only.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Minor and major faults of this process; the structure lies on the child's stack, touched by the first call.
#[inline(never)]
fn faults() -> u64 {
    // rusage: two timevals (four words), then maxrss, ixrss, idrss, isrss, minflt, majflt.
    let mut usage = [0_usize; 18];
    // SAFETY: 18 words are the size of struct rusage.
    unsafe {
        syscall(
            libc::SYS_getrusage,
            [
                libc::RUSAGE_SELF as usize,
                usage.as_mut_ptr() as usize,
                0,
                0,
                0,
                0,
            ],
        );
    }
    (usage[8] + usage[9]) as u64
}

/// What a child does, start to end.
extern "C" fn live(orders: *mut Orders) -> ! {
    // The text of what follows, which may lie across two blocks that the kernel maps at once.
    // SAFETY: both bytes are text of this program, which is far longer.
    unsafe {
        ptr::read_volatile(obey as *const u8);
        ptr::read_volatile((obey as *const u8).wrapping_add(1024));
    }
    obey(0, 0, 0, 0);
    faults();
    // SAFETY: the orders lie in shared memory and outlive the child; the parent reads them after its end.
    let status = unsafe {
        (*orders).counted[0] = faults();
        (*orders).counted[0] = faults();
        let status = obey((*orders).first, (*orders).pages, (*orders).maps, (*orders).each);
        (*orders).counted[1] = faults();
        while (*orders).hold.load(Ordering::Acquire) != 0 {
            let hold = &raw const (*orders).hold as usize;
            syscall(libc::SYS_futex, [hold, libc::FUTEX_WAIT as usize, 1, 0, 0, 0]);
        }
        status
    };
    // SAFETY: ends the process.
    unsafe { syscall(libc::SYS_exit_group, [status, 0, 0, 0, 0, 0]) };
    loop {
        std::hint::spin_loop();
    }
}

#[inline(never)]
fn obey(first: usize, pages: usize, maps: usize, each: usize) -> usize {
    let mut at = first;
    let end = first.wrapping_add(pages.wrapping_mul(PAGE));
    while at != end {
        sys::poke(at);
        at = at.wrapping_add(PAGE);
    }
    let mut made = 0_usize;
    while made != maps {
        // Neighbours differ in what may be done with them, so that they do not become one mapping.
        let prot = if made & 1 == 0 {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC
        };
        // SAFETY: the kernel picks a range that nothing uses.
        let base = unsafe {
            syscall(
                libc::SYS_mmap,
                [
                    0,
                    each.wrapping_mul(PAGE),
                    prot as usize,
                    (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize,
                    usize::MAX,
                    0,
                ],
            )
        };
        if base < 0 {
            return 1;
        }
        let mut at = base as usize;
        let end = at.wrapping_add(each.wrapping_mul(PAGE));
        while at != end {
            sys::poke(at);
            at = at.wrapping_add(PAGE);
        }
        made = made.wrapping_add(1);
    }
    0
}
