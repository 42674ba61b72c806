//! Addresses of kernel objects, which would help an attacker, as names that only tell them apart.

use std::hash::{BuildHasher as _, RandomState};

/// Turns addresses into names: the same name for the same address, within one export only.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    key: Option<RandomState>,
}

impl Addresses {
    /// Shows addresses as they are.
    pub fn raw() -> Self {
        Self { key: None }
    }

    /// Hides them behind a hash whose random key is forgotten with this value.
    pub fn hashed() -> Self {
        Self {
            key: Some(RandomState::new()),
        }
    }

    /// Whether addresses are shown as they are.
    pub fn are_raw(&self) -> bool {
        self.key.is_none()
    }

    /// The number that stands for an address; 0 stays 0.
    #[inline]
    pub fn show(&self, address: u64) -> u64 {
        match &self.key {
            Some(key) if address != 0 => key.hash_one(address).max(1),
            _ => address,
        }
    }
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
}
