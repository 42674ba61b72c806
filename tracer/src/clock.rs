//! The clocks: the one that events carry, and the one on the wall.

use crate::info::Anchor;

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for writing; these clocks always exist.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// What `CLOCK_MONOTONIC` and `CLOCK_REALTIME` say at one instant, as exactly as it can be had, and how far the
/// latter may be off.
pub fn anchor() -> Anchor {
    let mut best = Anchor {
        read_error_ns: u64::MAX,
        ..Anchor::default()
    };
    // The shortest of some tries was the least disturbed one.
    for _ in 0..8 {
        let before = monotonic_ns();
        let realtime_ns = read(libc::CLOCK_REALTIME);
        let took = monotonic_ns().saturating_sub(before);
        if took < best.read_error_ns {
            best = Anchor {
                monotonic_ns: before + took / 2,
                realtime_ns,
                read_error_ns: took,
                realtime_error_ns: None,
            };
        }
    }
    best.read_error_ns = best.read_error_ns.div_ceil(2);
    best.realtime_error_ns = realtime_error_ns();
    best
}

/// Which run of the kernel this is, and so which [`monotonic_ns`]; empty if the kernel does not tell.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

fn realtime_error_ns() -> Option<u64> {
    // SAFETY: all zeros is a valid `timex`, one that asks for no change.
    let mut state: libc::timex = unsafe { core::mem::zeroed() };
    // SAFETY: `state` is valid for reading and writing.
    let clock = unsafe { libc::adjtimex(&raw mut state) };
    if clock < 0 || clock == libc::TIME_ERROR || state.status & libc::STA_UNSYNC != 0 {
        return None;
    }
    u64::try_from(state.maxerror).ok()?.checked_mul(1_000)
}
