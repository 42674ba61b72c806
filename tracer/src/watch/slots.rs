//! Hardware breakpoints, by the kernel's own book-keeping: what is taken stays with whoever has it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::Path;

use super::Impossible;
use crate::outside;
use crate::probe::perf::{self, Breakpoint};

// Requests of perf events.
const IOC_ENABLE: libc::Ioctl = 0x2400;
const IOC_DISABLE: libc::Ioctl = 0x2401;
const IOC_SET_BPF: libc::Ioctl = 0x4004_2408;

/// A watchpoint on four bytes of kernel memory, on each CPU. It ends with this value, or with the process.
pub(super) struct Watchpoint {
    events: Vec<(u32, File)>,
}

/// Why there is no watchpoint.
#[derive(Debug)]
pub(super) enum NoSlot {
    /// All slots of this CPU are taken.
    Taken {
        /// The CPU.
        cpu: u32,
    },
    /// Something else.
    Other(Impossible),
}

impl Watchpoint {
    /// Reserves a slot on each CPU; nothing happens before [`Self::enable`].
    pub(super) fn reserve(address: u64, cpus: &[u32]) -> Result<Self, NoSlot> {
        let mut events = Vec::new();
        for &cpu in cpus {
            match perf::breakpoint_event(Breakpoint::Write, address, cpu) {
                Ok(event) => events.push((cpu, File::from(event))),
                Err(error) => return Err(refused(cpu, &error)),
            }
        }
        Ok(Self { events })
    }

    /// Runs a program at each hit.
    pub(super) fn run(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        self.each(IOC_SET_BPF, program.as_raw_fd() as libc::c_ulong)
    }

    /// Begins to watch.
    pub(super) fn enable(&self) -> io::Result<()> {
        self.each(IOC_ENABLE, 0)
    }

    /// Ends to watch; hits stay counted.
    pub(super) fn disable(&self) -> io::Result<()> {
        self.each(IOC_DISABLE, 0)
    }

    fn each(&self, request: libc::Ioctl, argument: libc::c_ulong) -> io::Result<()> {
        for (_, event) in &self.events {
            // SAFETY: these requests of a perf event take a number, no pointer.
            if unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// How often it was hit, as the kernel counts.
    pub(super) fn hits(&self) -> io::Result<u64> {
        let mut sum = 0;
        for (_, event) in &self.events {
            let mut count = [0; 8];
            let mut event: &File = event;
            event.read_exact(&mut count)?;
            sum += u64::from_ne_bytes(count);
        }
        Ok(sum)
    }
}

fn refused(cpu: u32, error: &io::Error) -> NoSlot {
    NoSlot::Other(match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EBUSY) => return NoSlot::Taken { cpu },
        Some(libc::EPERM | libc::EACCES) => Impossible(format!(
            "the kernel refuses a watchpoint on its memory ({error}): CAP_SYS_ADMIN is needed for that; run it with sudo"
        )),
        Some(libc::EOPNOTSUPP | libc::ENOENT | libc::ENODEV) => Impossible(format!(
            "this machine has no hardware watchpoints ({error} on CPU {cpu}): CONFIG_HAVE_HW_BREAKPOINT and \
             CONFIG_PERF_EVENTS are needed; virtual machines may lack them"
        )),
        _ => Impossible(format!("the kernel refuses a watchpoint on CPU {cpu}: {error}")),
    })
}

/// Who may hold breakpoints: processes with perf events open, and debuggers. The kernel does not tell which of
/// their events are breakpoints.
pub(super) fn likely_holders(proc: &Path) -> Vec<String> {
    let mut holders = Vec::new();
    let own = std::process::id();
    for entry in fs::read_dir(proc).into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if pid == own {
            continue;
        }
        let name = || {
            let name = fs::read(entry.path().join("comm")).unwrap_or_default();
            outside::name(name.trim_ascii_end()).into_owned()
        };
        let perf = fs::read_dir(entry.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == "anon_inode:[perf_event]"));
        if perf {
            holders.push(format!("{pid} ({}, has perf events)", name()));
        }
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let traced = status
            .lines()
            .find_map(|line| line.strip_prefix("TracerPid:"))
            .map_or("0", str::trim);
        if traced != "0" {
            holders.push(format!("{traced} (debugs {pid}, {})", name()));
        }
    }
    holders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_cpu_is_told_from_a_refusal() {
        let error = io::Error::from_raw_os_error(libc::ENOSPC);
        assert!(matches!(refused(3, &error), NoSlot::Taken { cpu: 3 }));
        let NoSlot::Other(why) = refused(0, &io::Error::from_raw_os_error(libc::EACCES)) else {
            panic!("a refusal is no lack of slots");
        };
        assert!(why.0.contains("CAP_SYS_ADMIN"), "{why}");
    }
}
