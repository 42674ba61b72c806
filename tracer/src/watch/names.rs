//! Names for what a write did, and where.

use std::collections::HashMap;

use crate::sink::address::Addresses;
use crate::text::{Form, FoundSite, Operation, Sites, Symbols};

/// Functions that do an operation and nothing else: what stands elsewhere is inlined there.
const fn own_functions(operation: Operation) -> &'static [&'static str] {
    match operation {
        Operation::ReadTry => &["vma_start_read"],
        Operation::ReadLocked => &["vma_start_read_locked", "vma_start_read_locked_nested"],
        Operation::ReadPut => &["vma_refcount_put", "vma_end_read"],
        Operation::WriterEnter => &["__vma_start_exclude_readers", "__vma_enter_locked"],
        Operation::WriterLeave => &["__vma_end_exclude_readers", "__vma_exit_locked"],
        Operation::WriterMark => &["__vma_start_write"],
        Operation::Detach => &["vma_mark_detached"],
        Operation::Attach => &["vma_mark_attached"],
    }
}

/// Whether the code of an operation was copied into the function that it is in.
pub(super) fn is_inlined(operation: Operation, function: &str) -> bool {
    // What the compiler appends (`.isra.0`) makes no other function.
    let plain = function.split('.').next().unwrap_or(function);
    !own_functions(operation).contains(&plain)
}

/// The kernel's names.
pub(super) struct Names {
    symbols: Option<Symbols>,
    /// By the address of the instruction that follows.
    sites: HashMap<u64, FoundSite>,
    addresses: Addresses,
}

impl Names {
    pub(super) fn new(symbols: Option<Symbols>, sites: Option<Sites>, addresses: Addresses) -> Self {
        let sites = sites
            .into_iter()
            .flat_map(|sites| sites.sites)
            .filter(|site| matches!(site.form, Form::Cmpxchg | Form::Xadd | Form::Store))
            .map(|site| (site.spot.address + u64::from(site.length), site))
            .collect();
        Self {
            symbols,
            sites,
            addresses,
        }
    }

    /// The site whose instruction ends at an address.
    pub(super) fn site_before(&self, address: u64) -> Option<&FoundSite> {
        self.sites.get(&address)
    }

    /// Function and offset; a hashed address where there is no symbol.
    pub(super) fn symbol(&self, address: u64) -> String {
        match self.function(address) {
            Some((name, offset)) => format!("{name}+{offset:#x}"),
            None => format!("[{:016x}]", self.addresses.show(address)),
        }
    }

    /// Function and offset.
    pub(super) fn function(&self, address: u64) -> Option<(&str, u64)> {
        self.symbols.as_ref()?.at(address)
    }

    /// Whether the address is in a copy that the kernel runs because a kprobe sits on the original.
    pub(super) fn is_copy(&self, address: u64) -> bool {
        self.function(address)
            .is_none_or(|(name, _)| name.starts_with("kprobe_") && name.contains("insn_page"))
    }

    pub(super) fn address(&self, address: u64) -> String {
        format!("{:016x}", self.addresses.show(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_in_another_function_is_inlined() {
        assert!(is_inlined(Operation::ReadPut, "do_user_addr_fault"));
        assert!(!is_inlined(Operation::ReadPut, "vma_refcount_put"));
        assert!(!is_inlined(Operation::ReadTry, "vma_start_read.isra.0"));
        assert!(is_inlined(Operation::ReadTry, "lock_vma_under_rcu"));
    }

    #[test]
    fn without_symbols_addresses_are_hashed() {
        let names = Names::new(None, None, Addresses::hashed());
        assert!(!names.symbol(0xffff_ffff_8100_0000).contains("ffffffff81000000"));
        assert!(names.is_copy(0xffff_ffff_8100_0000));
        let names = Names::new(None, None, Addresses::raw());
        assert_eq!(names.symbol(0xffff_ffff_8100_0000), "[ffffffff81000000]");
    }
}
