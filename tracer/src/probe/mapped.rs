//! Maps of the kernel as memory.
//!
//! While a task is inside a system call on a map the kernel runs no program of the old kind on its CPU: none on an
//! instruction, none on lockdep's tracepoints. If it is preempted there, that CPU's probes are blind until it runs
//! again, for many milliseconds on a busy machine. So whatever is read or written while events flow is mapped.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{Context as _, ensure};
use aya::maps::{Map, MapData};

/// An array of the kernel's that was made to be mapped.
pub struct Mapped {
    start: NonNull<u8>,
    len: usize,
    value: usize,
}

// SAFETY: it is memory that others change at any time; all access is by atomics.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps the array called `name`, to be written only if `writable`.
    ///
    /// # Errors
    /// When it is no such array, or the kernel refuses.
    pub fn new(name: &str, map: &Map, writable: bool) -> anyhow::Result<Self> {
        let Map::Array(data) = map else {
            anyhow::bail!("the map {name} is no array")
        };
        Self::of(data, writable).with_context(|| format!("cannot map {name}, which the probes count in"))
    }

    fn of(data: &MapData, writable: bool) -> anyhow::Result<Self> {
        let info = data.info()?;
        let value = (info.value_size() as usize).next_multiple_of(8);
        let len = value * info.max_entries() as usize;
        let write = if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: a new shared mapping, at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | write,
                libc::MAP_SHARED,
                data.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error().into());
        }
        let start = NonNull::new(start.cast::<u8>()).context("the kernel mapped it at address 0")?;
        Ok(Self { start, len, value })
    }

    /// How many values it has.
    pub fn count(&self) -> usize {
        self.len / self.value
    }

    /// The 64-bit number that is the `word`th of value `index`.
    ///
    /// # Panics
    /// If it is none of the map's.
    pub fn word(&self, index: usize, word: usize) -> u64 {
        let at = index * self.value + word * 8;
        assert!(at + 8 <= self.len, "value {index}, word {word} is not in the map");
        // SAFETY: it lies within the mapping, and is aligned as all values are.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(at).cast()) }.load(Ordering::Relaxed)
    }

    /// Sets the 32-bit number that value 0 begins with.
    ///
    /// # Errors
    /// When the map has no room for it.
    pub fn set(&self, number: u32) -> anyhow::Result<()> {
        ensure!(self.len >= 4, "the map is too small");
        // SAFETY: as above; only a map that may be written is set.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().cast()) }.store(number, Ordering::SeqCst);
        Ok(())
    }

    /// Sums up its bytes, of each value those in `range`.
    pub fn sum(&self, range: std::ops::Range<usize>) -> u64 {
        // SAFETY: the mapping is as long as this; the probes are through with it.
        let bytes = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) };
        let of = |value: &[u8]| {
            value[range.clone()]
                .iter()
                .map(|&byte| u64::from(byte))
                .sum::<u64>()
        };
        bytes.chunks_exact(self.value).map(of).sum()
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody has a reference into it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
