//! Taking the processor away from a task that holds a lock.

use std::fs::{self, File};
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::sys::{self, impossible};
use crate::{name_thread, pin};

/// Gives the calling thread a real-time priority.
pub(crate) fn realtime(priority: i32) -> Result<()> {
    let param = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: `param` outlives the call, which concerns this thread only.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) };
    if result != 0 {
        return Err(impossible(format!(
            "{:#}: real-time priority needs root, or CAP_SYS_NICE",
            sys::last("sched_setscheduler")
        )));
    }
    Ok(())
}

/// Real-time tasks are normally stopped for a twentieth of each second.
pub(crate) struct Throttle(Option<String>);

const RT_RUNTIME: &str = "/proc/sys/kernel/sched_rt_runtime_us";

impl Throttle {
    /// Lets them run on.
    pub(crate) fn off() -> Self {
        let mut old = String::new();
        let read = File::open(RT_RUNTIME).and_then(|mut f| f.read_to_string(&mut old));
        if read.is_err() || fs::write(RT_RUNTIME, "-1").is_err() {
            eprintln!(
                "workload: {RT_RUNTIME} cannot be set: a long hold may be cut short by the kernel's throttling"
            );
            return Self(None);
        }
        Self(Some(old))
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        if let Some(old) = &self.0
            && let Err(error) = fs::write(RT_RUNTIME, old)
        {
            eprintln!("workload: setting {RT_RUNTIME} back to {}: {error}", old.trim());
        }
    }
}

/// The task that takes the processor.
#[derive(Debug, Default)]
pub(crate) struct Hog {
    /// Its thread id, once it is ready.
    pub(crate) tid: AtomicI32,
    /// Until when (CLOCK_MONOTONIC) it spins; 0: it sleeps.
    pub(crate) until: AtomicU64,
    /// It spins.
    pub(crate) runs: AtomicBool,
}

impl Hog {
    /// The task: waits for a time to be set, and spins until then on processor `cpu`.
    pub(crate) fn run(&self, cpu: usize, stop: &AtomicBool) -> Result<()> {
        name_thread("w-hog")?;
        pin(cpu)?;
        realtime(20)?;
        self.tid.store(sys::tid(), Ordering::Release);
        while !stop.load(Ordering::Acquire) {
            if self.until.load(Ordering::Acquire) != 0 {
                self.runs.store(true, Ordering::Release);
                while sys::now() < self.until.load(Ordering::Acquire) {
                    std::hint::spin_loop();
                }
                return Ok(());
            }
            thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }
}
