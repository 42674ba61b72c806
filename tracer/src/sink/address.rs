//! Addresses of kernel objects, which would help an attacker, as names that only tell them apart.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::OnceLock;

use siphasher::sip::SipHasher13;
use tracer_common::wire::{Event, Kind};

use crate::info::SourceInfo;

/// Turns addresses into names: the same name for the same address, within one recording only.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    key: Option<(u64, u64)>,
}

impl Addresses {
    /// Shows addresses as they are.
    pub fn raw() -> Self {
        Self { key: None }
    }

    /// Hides them behind a hash whose random key is forgotten with this value.
    pub fn hashed() -> Self {
        Self {
            key: Some(random_key()),
        }
    }

    /// Hides them behind a hash whose key is in the recording, so that all exports of one recording have the same
    /// names, and nobody who has only them can try which address gives which name. A recording from before there were
    /// such keys gets a new one in each run of the program.
    pub fn of(info: &SourceInfo) -> Self {
        let parse = |part: Option<&str>| u64::from_str_radix(part?, 16).ok();
        let key = &info.address_key;
        match (parse(key.get(..16)), parse(key.get(16..))) {
            (Some(one), Some(other)) if key.len() == 32 => Self {
                key: Some((one, other)),
            },
            _ => Self {
                key: Some(*OF_THIS_RUN.get_or_init(random_key)),
            },
        }
    }

    /// A new key for a recording, as [`SourceInfo::address_key`] has it.
    pub fn new_key() -> String {
        let (one, other) = random_key();
        format!("{one:016x}{other:016x}")
    }

    /// Whether addresses are shown as they are.
    pub fn are_raw(&self) -> bool {
        self.key.is_none()
    }

    /// Puts the numbers that stand for them in the place of the addresses of an event. What is made from it then cannot
    /// give them away, however it is shown.
    #[inline]
    pub fn hide(&self, event: &mut Event) {
        if self.are_raw() {
            return;
        }
        let body = &mut event.body;
        match event.kind {
            Kind::Gap => return,
            // Numbers of stacks are there.
            Kind::SchedOut | Kind::Stack => {}
            _ => body.vma = self.show(body.vma),
        }
        body.mm = self.show(body.mm);
    }

    /// The number that stands for an address; 0 stays 0.
    #[inline]
    pub fn show(&self, address: u64) -> u64 {
        match &self.key {
            Some((one, other)) if address != 0 => {
                let mut hasher = SipHasher13::new_with_keys(*one, *other);
                hasher.write_u64(address);
                hasher.finish().max(1)
            }
            _ => address,
        }
    }
}

/// One for all readers of one recording: the screen reads it twice at a time.
static OF_THIS_RUN: OnceLock<(u64, u64)> = OnceLock::new();

/// The standard library's keys for hash tables come from the system's random numbers; what they hash to is as hard to
/// guess.
fn random_key() -> (u64, u64) {
    let random = RandomState::new();
    (random.hash_one(1u8), random.hash_one(2u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_stable_within_one_export_only() {
        let (one, two) = (Addresses::hashed(), Addresses::hashed());
        assert_eq!(one.show(0xffff_8881_0000_0000), one.show(0xffff_8881_0000_0000));
        assert_ne!(one.show(0xffff_8881_0000_0000), two.show(0xffff_8881_0000_0000));
        assert_ne!(one.show(1), one.show(2));
        assert_eq!(one.show(0), 0);
        assert_eq!(Addresses::raw().show(7), 7);
    }

    #[test]
    fn all_exports_of_one_recording_have_the_same_names() {
        let info = |key: String| SourceInfo {
            address_key: key,
            ..SourceInfo::default()
        };
        let one = info(Addresses::new_key());
        let name = Addresses::of(&one).show(0xffff_8881_0000_0000);
        assert_eq!(name, Addresses::of(&one).show(0xffff_8881_0000_0000));
        assert_ne!(name, 0xffff_8881_0000_0000);
        let other = info(Addresses::new_key());
        assert_ne!(name, Addresses::of(&other).show(0xffff_8881_0000_0000));
        // From before there were keys, or nonsense: hidden all the same.
        for key in ["", "zz", "0123456789abcdef0123456789abcdé"] {
            assert_ne!(Addresses::of(&info(key.into())).show(7), 7);
        }
    }
}
