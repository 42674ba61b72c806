//! Threads that work until the time is over, and what they did.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::sys;

macro_rules! operations {
    ($($variant:ident $name:literal;)*) => {
        /// What scenarios do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Op { $($variant,)* }

        impl Op {
            /// All, by number.
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As the report has it.
            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

operations! {
    Touch "page touches";
    Mmap "mmap";
    Munmap "munmap";
    Mprotect "mprotect";
    Mremap "mremap";
    DontNeed "madvise(DONTNEED)";
    DontDump "madvise(DONTDUMP, DODUMP)";
    Fork "fork";
    Copy "ioctl(UFFDIO_COPY)";
    Barrier "membarrier";
}

/// How often each was done, in memory that children share.
pub(super) type Counts = [AtomicU64; Op::ALL.len()];

/// What one thread has done, until it is added to the others'.
#[derive(Debug, Default)]
pub(super) struct Tally([u64; Op::ALL.len()]);

impl Tally {
    #[inline]
    pub(super) fn add(&mut self, op: Op, times: usize) {
        self.0[op as usize] += times as u64;
    }

    fn deliver(&self, counts: &Counts) {
        for (count, &times) in counts.iter().zip(&self.0) {
            count.fetch_add(times, Ordering::Relaxed);
        }
    }
}

/// What a scenario runs with.
pub(super) struct Team {
    threads: usize,
    duration: Duration,
    /// The most that ran at a time.
    most: AtomicUsize,
    counts: &'static Counts,
    interrupted: &'static AtomicBool,
}

/// What a thread of a team sees of it.
pub(super) struct Shift<'a> {
    over: &'a AtomicBool,
    interrupted: &'a AtomicBool,
}

impl Shift<'_> {
    /// Whether there is time left.
    #[inline]
    pub(super) fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed) && !self.interrupted.load(Ordering::Relaxed)
    }
}

impl Team {
    /// `threads` threads for so long; `interrupted` ends it early.
    ///
    /// # Errors
    /// When there is no memory for the counts.
    pub(super) fn new(
        threads: usize,
        duration: Duration,
        interrupted: &'static AtomicBool,
    ) -> anyhow::Result<Self> {
        let counts = sys::shared::<Counts>()?;
        // SAFETY: zeroed memory for the rest of the process's life, and zeroes are valid counts.
        let counts = unsafe { &*counts };
        Ok(Self {
            threads,
            duration,
            most: AtomicUsize::new(0),
            counts,
            interrupted,
        })
    }

    pub(super) const fn threads(&self) -> usize {
        self.threads
    }

    /// The most threads that one process of a scenario had at a time.
    pub(super) fn most_threads(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// How often each operation was done by now.
    pub(super) fn done(&self) -> Vec<(&'static str, u64)> {
        let counts = Op::ALL.iter().zip(self.counts);
        counts
            .map(|(op, count)| (op.name(), count.load(Ordering::Relaxed)))
            .filter(|&(_, count)| count > 0)
            .collect()
    }

    /// Runs `work` on every thread, with its number, until the time is over; each `work` looks at that itself. Afterwards
    /// none of the threads is left, not even on its way out: whoever forks then takes over no lock that one of them holds.
    ///
    /// # Errors
    /// The first of the threads'.
    pub(super) fn run(
        &self,
        work: impl Fn(usize, &mut Tally, &Shift<'_>) -> anyhow::Result<()> + Sync,
    ) -> anyhow::Result<()> {
        self.run_with(self.threads, work)
    }

    /// The same with another number of threads.
    ///
    /// # Errors
    /// The first of the threads'.
    pub(super) fn run_with(
        &self,
        threads: usize,
        work: impl Fn(usize, &mut Tally, &Shift<'_>) -> anyhow::Result<()> + Sync,
    ) -> anyhow::Result<()> {
        self.most.fetch_max(threads, Ordering::Relaxed);
        let over = AtomicBool::new(false);
        let failure = Mutex::new(None);
        thread::scope(|scope| {
            let mut members = Vec::with_capacity(threads);
            for index in 0..threads {
                let (over, failure, work) = (&over, &failure, &work);
                let member = move || {
                    let shift = Shift {
                        over,
                        interrupted: self.interrupted,
                    };
                    let mut tally = Tally::default();
                    if let Err(error) = work(index, &mut tally, &shift) {
                        over.store(true, Ordering::Relaxed);
                        let mut failure = failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                        failure.get_or_insert(error);
                    }
                    tally.deliver(self.counts);
                };
                let builder = thread::Builder::new().name(format!("provoke-{index}"));
                match builder.spawn_scoped(scope, member) {
                    Ok(member) => members.push(member),
                    Err(error) => {
                        over.store(true, Ordering::Relaxed);
                        return Err(error).with_context(|| {
                            format!("cannot start thread {index} of {threads}; give fewer --threads")
                        });
                    }
                }
            }
            let until = Instant::now() + self.duration;
            let shift = Shift {
                over: &over,
                interrupted: self.interrupted,
            };
            while shift.goes_on() {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                thread::sleep(left.min(Duration::from_millis(20)));
            }
            over.store(true, Ordering::Relaxed);
            // The scope itself waits only until their work is done.
            for member in members {
                if let Err(panic) = member.join() {
                    std::panic::resume_unwind(panic);
                }
            }
            Ok(())
        })?;
        match failure
            .into_inner()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
        {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
