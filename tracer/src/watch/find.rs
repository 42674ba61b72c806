//! From a process and an address to the kernel's VMA.
//!
//! We ask the kernel for the mapping by the `PROCMAP_QUERY` ioctl, as any program may, and programs at the end of the
//! functions that look a VMA up for it note what they return to our own thread. No program of ours takes a lock, and
//! nothing is walked that may change under us; the kernel's own look-up has the locks that it needs.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use anyhow::Context as _;
use aya::Ebpf;
use aya::maps::Array;
use tracer_common::wire::{WatchFound, WatchTarget};

use super::Impossible;

/// `_IOWR('f', 17, struct procmap_query)`
const PROCMAP_QUERY: libc::Ioctl = 0xc068_6611_u32 as libc::Ioctl;

/// `struct procmap_query`
#[repr(C)]
#[derive(Default)]
struct Query {
    size: u64,
    flags: u64,
    address: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    device: [u32; 2],
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}
const _: () = assert!(size_of::<Query>() == 104);

/// [`WatchTarget`] for aya.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct TargetPod(pub(super) WatchTarget);
// SAFETY: integers without padding.
unsafe impl aya::Pod for TargetPod {}

/// [`WatchFound`] for aya.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct FoundPod(WatchFound);
// SAFETY: integers without padding.
unsafe impl aya::Pod for FoundPod {}

/// Programs that listen to look-ups, and the functions that they end.
pub(super) const FINDERS: [(&str, &str); 2] = [
    ("watch_find_vma", "find_vma"),
    ("watch_lock_next_vma", "lock_next_vma"),
];

/// Tells the programs what to do.
pub(super) fn set_target(ebpf: &mut Ebpf, target: WatchTarget) -> anyhow::Result<()> {
    let map = ebpf
        .map_mut("WATCH_TARGET")
        .context("the object has no map WATCH_TARGET")?;
    let mut map = Array::<_, TargetPod>::try_from(map)?;
    map.set(0, TargetPod(target), 0)
        .context("cannot tell the probes what to watch")
}

fn found(ebpf: &Ebpf) -> anyhow::Result<WatchFound> {
    let map = ebpf
        .map("WATCH_FOUND")
        .context("the object has no map WATCH_FOUND")?;
    let map = Array::<_, FoundPod>::try_from(map)?;
    Ok(map.get(&0, 0).context("cannot read what the probes found")?.0)
}

/// A process's mappings, to be asked about.
pub(super) struct Process {
    pid: u32,
    maps: File,
}

impl Process {
    /// Opens them.
    pub(super) fn open(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/maps");
        let maps = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => anyhow::anyhow!("there is no process {pid}; see `ps -e`"),
            io::ErrorKind::PermissionDenied => Impossible(format!(
                "not permitted to look at process {pid} ({path}: {error}): its owner, or CAP_SYS_PTRACE, is needed; run it with sudo"
            ))
            .into(),
            _ => anyhow::Error::new(error).context(format!("cannot open {path}")),
        })?;
        Ok(Self { pid, maps })
    }

    /// The range of the VMA at an address.
    fn query(&self, address: u64) -> anyhow::Result<(u64, u64)> {
        let pid = self.pid;
        let mut query = Query {
            size: size_of::<Query>() as u64,
            address,
            ..Query::default()
        };
        // SAFETY: the request takes a structure of this layout, whose size is in its first field; no names are
        // asked for, so the kernel writes nowhere else.
        if unsafe { libc::ioctl(self.maps.as_raw_fd(), PROCMAP_QUERY, &raw mut query) } == 0 {
            return Ok((query.vma_start, query.vma_end));
        }
        let error = io::Error::last_os_error();
        Err(match error.raw_os_error() {
            Some(libc::ENOENT) => anyhow::anyhow!(
                "process {pid} has no mapping at {address:#x}; see /proc/{pid}/maps"
            ),
            Some(libc::ESRCH) => anyhow::anyhow!(
                "process {pid} has no memory of its own: it has ended, or is a thread of the kernel"
            ),
            Some(libc::ENOTTY) => Impossible(
                "this kernel cannot be asked for the mapping at an address (PROCMAP_QUERY, Linux 6.11 and later)".to_owned(),
            )
            .into(),
            _ => anyhow::Error::new(error)
                .context(format!("the kernel does not tell the mapping of process {pid} at {address:#x}")),
        })
    }

    /// The VMA at an address.
    ///
    /// # Errors
    /// When there is none, or the kernel found it on a way that was not listened to.
    pub(super) fn find(
        &self,
        ebpf: &mut Ebpf,
        address: u64,
        target: WatchTarget,
    ) -> anyhow::Result<WatchFound> {
        // SAFETY: no precondition.
        let finder_tid = unsafe { libc::gettid() } as u32;
        let before = found(ebpf)?;
        set_target(ebpf, WatchTarget { finder_tid, ..target })?;
        let range = self.query(address);
        set_target(ebpf, target)?;
        let (start, end) = range?;
        let found = found(ebpf)?;
        let functions = FINDERS.map(|(_, function)| function).join(" and ");
        if found.calls == before.calls {
            return Err(Impossible(format!(
                "the kernel looked the mapping up by another function than {functions}, so its VMA is not known; \
                 please report this kernel's release"
            ))
            .into());
        }
        // All that is known of it has to fit: what was returned to our thread last, in the mm that was searched.
        let fits = found.mm == found.searched_mm
            && (found.vm_start, found.vm_end) == (start, end)
            && (start..end).contains(&address);
        if !fits {
            anyhow::bail!(
                "the mapping of process {} at {address:#x} changed while it was looked up; try again",
                self.pid
            );
        }
        Ok(found)
    }
}
