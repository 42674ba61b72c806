//! Counts that are written down in the tree, and that tests hold new ones against.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ws;

/// A file of JSON, by its path in the tree.
pub(crate) struct Table(pub(crate) &'static str);

impl Table {
    fn path(&self) -> PathBuf {
        ws::root().join(self.0)
    }

    /// Whether there is one yet.
    pub(crate) fn exists(&self) -> bool {
        self.path().exists()
    }

    /// All of it.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        let text = fs::read_to_string(self.path()).with_context(|| format!("reading {}", self.0))?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", self.0))
    }

    /// Writes it anew.
    pub(crate) fn write(&self, all: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(all).context("writing JSON")?;
        fs::write(self.path(), text + "\n").with_context(|| format!("writing {}", self.0))
    }
}

/// A count, for a comparison in percent.
pub(crate) trait Number: Copy + Display {
    /// It, as a fraction.
    fn number(self) -> f64;
}

impl Number for u64 {
    fn number(self) -> f64 {
        self as f64
    }
}

impl Number for f64 {
    fn number(self) -> f64 {
        self
    }
}

/// What is not as known, a line each: more by so many percent than is tolerated, new, or gone. To take less is no fault.
pub(crate) fn differ<N: Number>(
    known: &BTreeMap<String, N>,
    seen: &BTreeMap<String, N>,
    tolerated: u32,
) -> Vec<String> {
    let mut differ = Vec::new();
    for (name, count) in seen {
        match known.get(name) {
            None => differ.push(format!("{name}: {count}, and it is not in there")),
            Some(known) if count.number() * 100.0 > known.number() * f64::from(100 + tolerated) => differ
                .push(format!(
                    "{name}: {count} instead of {known}, more than {tolerated} % above"
                )),
            Some(_) => {}
        }
    }
    let gone = known.keys().filter(|name| !seen.contains_key(*name));
    differ.extend(gone.map(|name| format!("{name}: not met, and it is in there")));
    differ
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<N: Copy>(list: &[(&str, N)]) -> BTreeMap<String, N> {
        list.iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    }

    #[test]
    fn more_than_is_tolerated_is_told() {
        let known = of(&[("a", 100_u64), ("b", 100), ("c", 100)]);
        assert!(differ(&known, &of(&[("a", 125), ("b", 100), ("c", 1)]), 25).is_empty());
        assert_eq!(
            differ(&known, &of(&[("a", 126), ("b", 100), ("new", 1)]), 25),
            [
                "a: 126 instead of 100, more than 25 % above",
                "new: 1, and it is not in there",
                "c: not met, and it is in there",
            ]
        );
        let known = of(&[("a", 100.0)]);
        assert!(differ(&known, &of(&[("a", 105.0)]), 5).is_empty());
        assert_eq!(
            differ(&known, &of(&[("a", 105.1)]), 5),
            ["a: 105.1 instead of 100, more than 5 % above"]
        );
    }
}
