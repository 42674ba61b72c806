//! Symbols of the running kernel, and which functions ftrace knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Addresses of each wanted symbol of the kernel itself (not of modules), in the order found. A
/// name may stand for several functions. `None` if the file cannot be read or hides its addresses.
pub(super) fn addresses(kallsyms: &Path, wanted: &[&str]) -> Option<BTreeMap<String, Vec<u64>>> {
    let text = fs::read(kallsyms).ok()?;
    parse(&text, wanted)
}

fn parse(text: &[u8], wanted: &[&str]) -> Option<BTreeMap<String, Vec<u64>>> {
    let mut found = BTreeMap::<String, Vec<u64>>::new();
    let mut any_address = false;
    for line in text.split(|&byte| byte == b'\n') {
        // "ffffffff81000000 T _text", and for a module's symbol a tab and its name in brackets.
        if line.len() < 20 || line.contains(&b'\t') {
            continue;
        }
        let name = &line[19..];
        if !wanted.iter().any(|wanted| wanted.as_bytes() == name) {
            continue;
        }
        let address = std::str::from_utf8(&line[..16])
            .ok()
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())?;
        any_address |= address != 0;
        found
            .entry(String::from_utf8_lossy(name).into_owned())
            .or_default()
            .push(address);
    }
    any_address.then_some(found)
}

/// Which of the wanted functions ftrace can patch; `None` if the list cannot be read.
pub(super) fn traceable(functions: &Path, wanted: &[&str]) -> Option<BTreeSet<String>> {
    let text = fs::read(functions).ok()?;
    if text.is_empty() {
        return None;
    }
    let mut found = BTreeSet::new();
    for line in text.split(|&byte| byte == b'\n') {
        let name = line
            .split(|&byte| byte == b' ' || byte == b'\t')
            .next()
            .unwrap_or_default();
        if wanted.iter().any(|wanted| wanted.as_bytes() == name) {
            found.insert(String::from_utf8_lossy(name).into_owned());
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KALLSYMS: &[u8] = b"ffffffff81000000 T _text\n\
        ffffffff81200000 t vma_refcount_put\n\
        ffffffff81300000 t vma_refcount_put\n\
        ffffffffc0000000 t vma_refcount_put\t[binder]\n\
        short\n";

    #[test]
    fn all_copies_of_a_static_function_are_found_but_modules_are_apart() {
        let found = parse(KALLSYMS, &["_text", "vma_refcount_put"]).unwrap();
        assert_eq!(
            found["vma_refcount_put"],
            [0xffff_ffff_8120_0000, 0xffff_ffff_8130_0000]
        );
        assert_eq!(found["_text"], [0xffff_ffff_8100_0000]);
    }

    #[test]
    fn hidden_addresses_are_no_addresses() {
        assert_eq!(parse(b"0000000000000000 T _text\n", &["_text"]), None);
    }
}
