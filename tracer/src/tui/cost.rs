//! What this program itself uses.

use std::time::{Duration, Instant};

use super::snapshot::Cost;

/// Measures from time to time.
#[derive(Debug)]
pub struct Meter {
    last: Instant,
    last_cpu: Duration,
    cost: Cost,
}

/// Between two measurements.
const EACH: Duration = Duration::from_secs(1);

impl Default for Meter {
    fn default() -> Self {
        Self {
            last: Instant::now(),
            last_cpu: cpu(),
            cost: Cost {
                resident: resident(),
                ..Cost::default()
            },
        }
    }
}

impl Meter {
    /// The latest figures; measured anew when a second is over.
    pub fn cost(&mut self, picture: Duration) -> Cost {
        let elapsed = self.last.elapsed();
        if elapsed >= EACH {
            let now = cpu();
            let used = now.saturating_sub(self.last_cpu).as_nanos() * 1000 / elapsed.as_nanos().max(1);
            self.cost.cpu_permille = u64::try_from(used).unwrap_or(u64::MAX);
            self.cost.resident = resident();
            self.last = Instant::now();
            self.last_cpu = now;
        }
        self.cost.picture_ns = u64::try_from(picture.as_nanos()).unwrap_or(u64::MAX);
        self.cost
    }
}

/// CPU time of all threads of this program.
pub fn cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for writing, and the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(
        time.tv_sec.cast_unsigned(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    pages * 4096
}
