//! What `arg` of a `lockdep_*` event holds: the low byte by kind, above it where the kernel's code asked.

use super::{Event, Kind};

/// Addresses of code repeat after so many bytes: there is no room for more, and no kernel's text is longer.
pub const CODE_PERIOD: u64 = 1 << 25;

const fn pack(code: u64, low: u8) -> u32 {
    ((code >> 1) as u32) << 8 | low as u32
}

/// `arg` of a `lockdep_acquire`: the address that it returns to, and lockdep's `read`.
pub const fn acquire_arg(code: u64, read: bool) -> u32 {
    pack(code, read as u8)
}

/// `arg` of a `lockdep_release`: the address that it returns to, and for how long nothing else has run on its CPU.
pub const fn release_arg(code: u64, undisturbed_ns: u64) -> u32 {
    pack(code, compress(undisturbed_ns))
}

/// A number of nanoseconds as 5 bits of magnitude and 3 of precision, rounded down; 16 s and more are one.
const fn compress(ns: u64) -> u8 {
    if ns < 8 {
        return ns as u8;
    }
    let magnitude = 63 - ns.leading_zeros();
    if magnitude > 33 {
        return u8::MAX;
    }
    ((magnitude - 2) << 3) as u8 | (ns >> (magnitude - 3)) as u8 & 7
}

const fn expand(code: u8) -> u64 {
    if code < 8 {
        return code as u64;
    }
    (8 | code as u64 & 7) << ((code >> 3) - 1)
}

impl Event {
    /// Whether a `lockdep_acquire` is a reader's.
    pub const fn is_lockdep_read(&self) -> bool {
        matches!(self.kind, Kind::LockdepAcquire) && self.body.arg & 0xff != 0
    }

    /// Where the function returns to that called lockdep or has that call inlined; the address modulo
    /// [`CODE_PERIOD`], for there is no room for all of it.
    pub const fn lockdep_code(&self) -> Option<u64> {
        match self.kind {
            Kind::LockdepAcquire | Kind::LockdepRelease => Some((self.body.arg as u64 >> 8) << 1),
            _ => None,
        }
    }

    /// For how long nothing but its task had run on the CPU of a `lockdep_release`, in nanoseconds: at least so
    /// long, and less than an eighth longer.
    pub const fn undisturbed_ns(&self) -> Option<u64> {
        match self.kind {
            Kind::LockdepRelease => Some(expand(self.body.arg as u8)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_down_by_less_than_an_eighth() {
        let mut ns = 0_u64;
        while ns < 1 << 34 {
            for value in [ns, ns + 1, ns + ns / 3] {
                let back = expand(compress(value));
                if value < 1 << 34 {
                    assert!(
                        back <= value && value < back + back / 8 + 1,
                        "{value} became {back}"
                    );
                }
            }
            ns = ns * 5 / 4 + 1;
        }
        assert_eq!(compress(u64::MAX), u8::MAX);
    }

    #[test]
    fn code_and_low_byte_do_not_mix() {
        let mut event = Event::synthetic(Kind::LockdepAcquire, 0);
        event.body.arg = acquire_arg(0xffff_ffff_8123_4566, true);
        assert!(event.is_lockdep_read());
        assert_eq!(event.lockdep_code(), Some(0xffff_ffff_8123_4566 % CODE_PERIOD));
        event.kind = Kind::LockdepRelease;
        event.body.arg = release_arg(u64::MAX, 1000);
        assert_eq!(event.lockdep_code(), Some(CODE_PERIOD - 2));
        assert_eq!(event.undisturbed_ns(), Some(960));
        assert!(!event.is_lockdep_read());
    }
}
