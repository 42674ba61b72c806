//! Finds the operations on VMA locks in a kernel's text. `docs/sites.md` describes the patterns.

use std::collections::BTreeSet;

use iced_x86::{ConditionCode, FastFormatter, FlowControl, Mnemonic, OpKind, Register as Iced};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

use super::flow::{Flow, Origin, Part, RAX, RDI, REGISTERS, RSP, State, Value};
use super::sites::{
    Confidence, Evidence, Failure, Form, FoundSite, Kprobe, Operation, Place, Reason, Register, Sites, Spot,
    Stats, Unrecognised,
};
use super::symbols::without_cold;
use super::{Symbols, Text, TextError};
use crate::kernel::Btf;

/// What a writer adds to `vm_refcnt`.
const FLAG: u32 = 0x4000_0000;
/// How many instructions and blocks to follow from a locked instruction.
const REACH: usize = 48;
const REACH_BLOCKS: usize = 40;
/// How many blocks to look back from a get.
const BACK_BLOCKS: usize = 16;
/// How many blocks without a branch to follow to the put of a failed try.
const STRAIGHT_BLOCKS: usize = 6;

/// Where the fields are, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offsets {
    /// `vm_area_struct.vm_refcnt` (6.15 and later)
    pub vm_refcnt: Option<u32>,
    /// `vm_area_struct.vm_lock` (6.4 to 6.14), if it is a pointer
    pub vm_lock: Option<u32>,
    /// `vma_lock.lock`
    pub lock: u32,
    /// `vm_area_struct.vm_start`
    pub vm_start: u32,
    /// `vm_area_struct.vm_end`
    pub vm_end: u32,
    /// `vm_area_struct.vm_mm`
    pub vm_mm: u32,
    /// `vm_area_struct.vm_lock_seq`
    pub vm_lock_seq: u32,
    /// `mm_struct.mm_lock_seq`
    pub mm_lock_seq: u32,
    /// `mm_struct.vma_writer_wait`
    pub vma_writer_wait: Option<u32>,
}

impl Offsets {
    /// Takes them from the kernel's type information.
    ///
    /// # Errors
    /// When a field is not there.
    pub fn from_btf(btf: &Btf) -> Result<Self, TextError> {
        let vma = |field| btf.offset("vm_area_struct", field);
        let need = |offset: Option<u32>, field| offset.ok_or(TextError::NoField { field });
        let offsets = Self {
            vm_refcnt: vma("vm_refcnt"),
            vm_lock: vma("vm_lock"),
            lock: btf.offset("vma_lock", "lock").unwrap_or(0),
            vm_start: need(vma("vm_start"), "vm_area_struct.vm_start")?,
            vm_end: need(vma("vm_end"), "vm_area_struct.vm_end")?,
            vm_mm: need(vma("vm_mm"), "vm_area_struct.vm_mm")?,
            vm_lock_seq: need(vma("vm_lock_seq"), "vm_area_struct.vm_lock_seq")?,
            mm_lock_seq: need(btf.offset("mm_struct", "mm_lock_seq"), "mm_struct.mm_lock_seq")?,
            vma_writer_wait: btf.offset("mm_struct", "vma_writer_wait"),
        };
        need(
            offsets.vm_refcnt.or(offsets.vm_lock),
            "vm_area_struct.vm_refcnt or vm_lock",
        )?;
        Ok(offsets)
    }
}

/// Where the kernel says that it takes no kprobes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blacklist(Vec<(u64, u64)>);

impl Blacklist {
    /// Parses `/sys/kernel/debug/kprobes/blacklist`. None if it shows no addresses.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        let mut ranges: Vec<_> = text
            .lines()
            .filter_map(|line| {
                let (start, end) = line.split_whitespace().next()?.split_once('-')?;
                Some((hex(start)?, hex(end)?)).filter(|&(start, end)| 0 < start && start < end)
            })
            .collect();
        ranges.sort_unstable();
        (!ranges.is_empty()).then_some(Self(ranges))
    }

    /// From what symbols tell, where the kernel's own list cannot be read.
    pub fn from_symbols(symbols: &Symbols) -> Self {
        const SECTIONS: [&str; 6] = [
            "__kprobes_text_start",
            "__kprobes_text_end",
            "__noinstr_text_start",
            "__noinstr_text_end",
            "__entry_text_start",
            "__entry_text_end",
        ];
        let marked: Vec<&str> = symbols.marked().collect();
        let found = symbols.exactly(&SECTIONS);
        let address = |n: usize| found[n].first().map(|&i| symbols.all()[i].address);
        let mut ranges: Vec<_> = (0..SECTIONS.len())
            .step_by(2)
            .filter_map(|n| Some((address(n)?, address(n + 1)?)))
            .collect();
        let functions = symbols
            .exactly(&marked)
            .into_iter()
            .flatten()
            .map(|i| &symbols.all()[i]);
        ranges.extend(functions.map(|symbol| (symbol.address, symbol.end)));
        ranges.retain(|&(start, end)| start < end);
        ranges.sort_unstable();
        Self(ranges)
    }

    /// Whether an address lies in one.
    pub fn has(&self, address: u64) -> bool {
        // Ranges may nest, but only few are before an address and not over by then.
        let after = self.0.partition_point(|&(start, _)| start <= address);
        self.0[..after]
            .iter()
            .rev()
            .take(64)
            .any(|&(_, end)| address < end)
    }
}

/// Functions that the matcher knows by name.
struct Known {
    wake: FxHashSet<u64>,
    detach_slow: FxHashSet<u64>,
    no_return: FxHashSet<u64>,
    fentry: FxHashSet<u64>,
    try_read: FxHashSet<u64>,
    up_read: FxHashSet<u64>,
    down_write: FxHashSet<u64>,
    up_write: FxHashSet<u64>,
}

impl Known {
    fn new(symbols: &Symbols) -> Self {
        const NAMES: [&str; 17] = [
            "rcuwait_wake_up",
            "__vma_exclude_readers_for_detach",
            "__vma_enter_locked",
            "__stack_chk_fail",
            "panic",
            "__fortify_panic",
            "usercopy_abort",
            "do_exit",
            "rewind_stack_and_make_dead",
            "__fentry__",
            "ftrace_caller",
            "ftrace_regs_caller",
            "down_read_trylock",
            "up_read",
            "down_write",
            "down_write_killable",
            "up_write",
        ];
        let found = symbols.exactly(&NAMES);
        let set = |range: std::ops::Range<usize>| {
            found[range]
                .iter()
                .flatten()
                .map(|&i| symbols.all()[i].address)
                .collect::<FxHashSet<_>>()
        };
        Self {
            wake: set(0..1),
            detach_slow: set(1..3),
            no_return: set(3..9),
            fentry: set(9..12),
            try_read: set(12..13),
            up_read: set(13..14),
            down_write: set(14..16),
            up_write: set(16..17),
        }
    }
}

/// The inputs, together.
struct Kernel<'a> {
    text: &'a Text,
    symbols: &'a Symbols,
    offsets: &'a Offsets,
    blacklist: &'a Blacklist,
    known: Known,
}

/// Finds all sites in a text.
///
/// # Errors
/// When text, symbols and type information do not belong together.
pub fn find(
    text: &Text,
    symbols: &Symbols,
    offsets: &Offsets,
    blacklist: Option<&Blacklist>,
) -> Result<Sites, TextError> {
    search(text, symbols, offsets, blacklist, true)
}

/// Functions that are worth a closer look.
pub(super) fn candidates(text: &Text, symbols: &Symbols, offsets: &Offsets) -> Vec<usize> {
    let blacklist = &Blacklist::default();
    Kernel {
        text,
        symbols,
        offsets,
        blacklist,
        known: Known::new(symbols),
    }
    .interesting(&mut Stats::default())
}

/// The same as [`find`] in a part of a text, such as modules only: without a look whether it is all there.
///
/// # Errors
/// As [`find`].
pub fn find_in_part(
    text: &Text,
    symbols: &Symbols,
    offsets: &Offsets,
    blacklist: Option<&Blacklist>,
) -> Result<Sites, TextError> {
    search(text, symbols, offsets, blacklist, false)
}

fn search(
    text: &Text,
    symbols: &Symbols,
    offsets: &Offsets,
    blacklist: Option<&Blacklist>,
    whole: bool,
) -> Result<Sites, TextError> {
    let own;
    let blacklist = if let Some(list) = blacklist {
        list
    } else {
        own = Blacklist::from_symbols(symbols);
        &own
    };
    let kernel = Kernel {
        text,
        symbols,
        offsets,
        blacklist,
        known: Known::new(symbols),
    };
    if whole {
        kernel.check_belongs()?;
    }

    let mut found = Sites {
        build_id: text.build_id.clone(),
        text_base: symbols.text().ok_or(TextError::NoSymbol { name: "_text" })?,
        ..Sites::default()
    };
    let mut stats = Stats {
        text_bytes: text.len() as u64,
        symbols: symbols.all().len() as u64,
        ..Stats::default()
    };
    let mut helpers = Vec::new();
    let mut odd_layouts = BTreeSet::new();
    let mut done = FxHashSet::default();
    for function in kernel.interesting(&mut stats) {
        done.insert(function);
        let Some(mut search) = Search::new(&kernel, function) else {
            continue;
        };
        stats.functions_decoded += 1;
        stats.instructions += search.flow.code.len() as u64;
        search.run();
        helpers.extend(search.helper());
        odd_layouts.extend(search.odd_layouts);
        found.sites.extend(search.sites);
        found.unrecognised.extend(search.unrecognised);
        found.notes.extend(search.notes);
    }
    let calls = kernel.calls_of(&helpers);
    for (function, helper, at) in calls {
        let Some(mut search) = Search::new(&kernel, function) else {
            continue;
        };
        if done.insert(function) {
            stats.functions_decoded += 1;
            stats.instructions += search.flow.code.len() as u64;
        }
        search.call(&helpers[helper], at);
        found.sites.extend(search.sites);
    }
    found
        .sites
        .sort_by_key(|site| (site.spot.address, site.operation));
    found
        .sites
        .dedup_by_key(|site| (site.spot.address, site.operation));
    found.unrecognised.sort_by_key(|odd| odd.address);
    if found.sites.iter().all(|site| site.form != Form::Cmpxchg)
        && offsets.vm_refcnt.is_some()
        && let Some(odd) = odd_layouts.first()
    {
        return Err(TextError::Layout {
            what: format!(
                "a VMA's count is changed at offset {odd:#x}, but should be at {:#x}",
                offsets.vm_refcnt.unwrap_or(0)
            ),
        });
    }
    found.stats = stats;
    found.count();
    Ok(found)
}

/// Whether bytes, with the first one a lock prefix or what may stand in its place, are an operation on a count.
fn is_locked(bytes: &[u8]) -> bool {
    let [prefix, rest @ ..] = bytes else { return false };
    let rest = match rest {
        [0x40..=0x4f, rest @ ..] => rest,
        rest => rest,
    };
    let memory = |modrm: u8| modrm < 0xc0;
    let nth = |modrm: u8| modrm >> 3 & 7;
    match *rest {
        [0x0f, 0xb1 | 0xc1, modrm, ..] => memory(modrm),
        [0xff, modrm, ..] => *prefix == 0xf0 && memory(modrm) && nth(modrm) < 2,
        [0x81 | 0x83, modrm, ..] => *prefix == 0xf0 && memory(modrm) && matches!(nth(modrm), 0 | 5),
        [0x01 | 0x29, modrm, ..] => *prefix == 0xf0 && memory(modrm),
        _ => false,
    }
}

fn rel32(bytes: &[u8], at: usize) -> Option<i64> {
    let rel = i32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
    Some(i64::from(rel))
}

/// Whether a function calls or jumps to one of the targets, or names one of the constants of the lock.
fn names_the_lock(bytes: &[u8], address: u64, targets: &FxHashSet<u64>) -> bool {
    let constant = memchr::memchr3_iter(0x40, 0x3f, 0xc0, bytes).any(|p| {
        p >= 3
            && matches!(
                bytes[p - 3..=p],
                [0 | 1, 0, 0, 0x40] | [0xff, 0xff, 0xff, 0x3f] | [0, 0, 0, 0xc0]
            )
    });
    constant || calls(bytes, address, targets).next().is_some()
}

/// Direct calls and long jumps to one of the targets: where, and to which. May see some inside of other instructions.
fn calls<'a>(
    bytes: &'a [u8],
    address: u64,
    targets: &'a FxHashSet<u64>,
) -> impl Iterator<Item = (u64, u64)> + 'a {
    memchr::memchr2_iter(0xe8, 0xe9, bytes).filter_map(move |p| {
        let target = (address + p as u64 + 5).wrapping_add_signed(rel32(bytes, p + 1)?);
        targets.contains(&target).then_some((address + p as u64, target))
    })
}

impl Kernel<'_> {
    fn bytes(&self, symbol: usize) -> Option<&[u8]> {
        let symbol = &self.symbols.all()[symbol];
        self.text.get(symbol.address..symbol.end).or_else(|| {
            // The last function of a piece ends with it.
            let rest = self.text.from(symbol.address)?;
            Some(&rest[..rest.len().min(usize::try_from(symbol.end - symbol.address).ok()?)])
        })
    }

    /// Looks at functions all over the text: do they begin like one?
    fn check_belongs(&self) -> Result<(), TextError> {
        const SAMPLES: usize = 200;
        let kernel: Vec<usize> = (0..self.symbols.all().len())
            .filter(|&i| {
                let symbol = &self.symbols.all()[i];
                self.symbols.module(symbol).is_none() && symbol.end - symbol.address >= 16
            })
            .collect();
        if let (Some(range), Some(first)) = (self.symbols.kernel_range(), self.text.pieces().next()) {
            let last = range.end - 1;
            if self.text.from(range.start).is_none() || self.text.from(last).is_none() {
                let inside = first.0 == range.start;
                return Err(TextError::Outside {
                    address: if inside { last } else { range.start },
                });
            }
        }
        let (mut good, mut tried) = (0, 0);
        for &i in kernel.iter().step_by((kernel.len() / SAMPLES).max(1)) {
            let symbol = &self.symbols.all()[i];
            let Some(bytes) = self.text.from(symbol.address) else {
                continue;
            };
            tried += 1;
            // A function begins with ftrace's place, or where branches are marked, or after padding.
            let before = self.text.get(symbol.address.saturating_sub(1)..symbol.address);
            let padded = matches!(before, Some([0x90 | 0xcc | 0x00 | 0xc3]));
            good += usize::from(self.ftrace_entry(symbol.address, bytes).is_some() || padded);
        }
        if tried == 0 {
            let address = kernel.first().map_or(0, |&i| self.symbols.all()[i].address);
            return Err(TextError::Outside { address });
        }
        if good * 2 < tried {
            return Err(TextError::NotFunctions { good, tried });
        }
        Ok(())
    }

    /// Where ftrace patches a function's entry, if it can.
    fn ftrace_entry(&self, address: u64, bytes: &[u8]) -> Option<u64> {
        let marked = match bytes {
            [0xf3, 0x0f, 0x1e, 0xfa, ..] | [0x66, 0x0f, 0x1f, 0x00, ..] | [0x0f, 0x1f, 0x40, 0xd6, ..] => 4,
            _ => 0,
        };
        let at = address + marked as u64;
        match bytes.get(marked..)? {
            [0x0f, 0x1f, 0x44, 0x00, 0x00, ..] | [0xcc, 0x1f, 0x44, 0x00, 0x00, ..] => Some(at),
            [0xe8, rest @ ..] => {
                let target = (at + 5).wrapping_add_signed(rel32(rest, 0)?);
                // ftrace's own code, or a trampoline, which is no function of the kernel.
                let trampoline = self.text.live && self.symbols.containing(target).is_none();
                (self.known.fentry.contains(&target) || trampoline).then_some(at)
            }
            _ => None,
        }
    }

    /// Functions that may have a site, by symbol.
    fn interesting(&self, stats: &mut Stats) -> Vec<usize> {
        let mut targets = FxHashSet::default();
        let refcount = self.offsets.vm_refcnt.is_some();
        if refcount {
            targets.extend(self.known.wake.iter().chain(&self.known.detach_slow));
        } else {
            let known = &self.known;
            targets.extend(
                known
                    .try_read
                    .iter()
                    .chain(&known.up_read)
                    .chain(&known.down_write),
            );
        }
        let mut functions = BTreeSet::new();
        let mut moved = Vec::new();
        let mut take = |i: usize| {
            let name = self.symbols.name(&self.symbols.all()[i]);
            match without_cold(name) {
                Some(base) => moved.push(base.to_owned()),
                None => {
                    functions.insert(i);
                }
            }
        };
        for (address, bytes) in self.text.pieces() {
            let mut until = 0;
            let consider = |p: usize| -> Option<usize> {
                let i = self.symbols.containing(address + p as u64)?;
                Some(i)
            };
            if refcount {
                for p in memchr::memchr3_iter(0xf0, 0x3e, 0xcc, bytes) {
                    if p < until || !is_locked(&bytes[p..]) {
                        continue;
                    }
                    let Some(i) = consider(p) else { continue };
                    let symbol = &self.symbols.all()[i];
                    until = (symbol.end - address).min(bytes.len() as u64) as usize;
                    stats.functions_with_lock += 1;
                    let Some(own) = self.bytes(i) else { continue };
                    if names_the_lock(own, symbol.address, &targets) {
                        take(i);
                    }
                }
                self.attaching(address, bytes, &mut take);
            } else {
                for (at, _) in calls(bytes, address, &targets) {
                    let p = (at - address) as usize;
                    if p < until {
                        continue;
                    }
                    let Some(i) = consider(p) else { continue };
                    let symbol = &self.symbols.all()[i];
                    until = (symbol.end - address).min(bytes.len() as u64) as usize;
                    stats.functions_with_lock += 1;
                    if self.bytes(i).is_some_and(|own| self.loads_a_lock(own)) {
                        take(i);
                    }
                }
            }
        }
        // Its marking of the VMA needs no lock of its own.
        if refcount {
            functions.extend(self.symbols.exactly(&["__vma_start_write"]).into_iter().flatten());
        }
        let moved: Vec<&str> = moved.iter().map(String::as_str).collect();
        functions.extend(self.symbols.exactly(&moved).into_iter().flatten());
        functions.into_iter().collect()
    }

    /// Stores of 1 at the count's offset.
    fn attaching(&self, address: u64, bytes: &[u8], take: &mut dyn FnMut(usize)) {
        let Some(offset) = self.offsets.vm_refcnt else {
            return;
        };
        let mut needle = offset.to_le_bytes().to_vec();
        needle.extend_from_slice(&1_u32.to_le_bytes());
        for p in memchr::memmem::find_iter(bytes, &needle) {
            // mov dword ptr [reg + disp32], imm32, with or without a byte that scales.
            let plain = p >= 2 && bytes[p - 2] == 0xc7 && bytes[p - 1] & 0xf8 == 0x80 && bytes[p - 1] != 0x84;
            let scaled = p >= 3 && bytes[p - 3] == 0xc7 && bytes[p - 2] == 0x84;
            if (plain || scaled)
                && let Some(i) = self.symbols.containing(address + p as u64)
            {
                take(i);
            }
        }
    }

    /// Whether bytes load a pointer from the offset of `vm_lock`.
    fn loads_a_lock(&self, bytes: &[u8]) -> bool {
        let Some(offset) = self.offsets.vm_lock else {
            return false;
        };
        memchr::memchr_iter(0x8b, bytes).any(|p| {
            if p == 0 || bytes[p - 1] & 0xf8 != 0x48 {
                return false;
            }
            let Some(&modrm) = bytes.get(p + 1) else {
                return false;
            };
            let scaled = usize::from(modrm & 7 == 4);
            match modrm >> 6 {
                1 => bytes.get(p + 2 + scaled) == Some(&(offset as u8)) && offset < 0x80,
                2 => rel32(bytes, p + 2 + scaled) == Some(i64::from(offset)),
                _ => false,
            }
        })
    }

    /// Where helpers are called: function, helper, address.
    fn calls_of(&self, helpers: &[Helper]) -> Vec<(usize, usize, u64)> {
        if helpers.is_empty() {
            return Vec::new();
        }
        let targets: FxHashSet<u64> = helpers.iter().map(|helper| helper.address).collect();
        let mut found = Vec::new();
        let mut moved: Vec<(String, usize, u64)> = Vec::new();
        for (address, bytes) in self.text.pieces() {
            for (at, target) in calls(bytes, address, &targets) {
                let Some(i) = self.symbols.containing(at) else {
                    continue;
                };
                let Some(helper) = helpers.iter().position(|helper| helper.address == target) else {
                    continue;
                };
                match without_cold(self.symbols.name(&self.symbols.all()[i])) {
                    Some(base) => moved.push((base.to_owned(), helper, at)),
                    None => found.push((i, helper, at)),
                }
            }
        }
        for (base, helper, at) in moved {
            let parents = self.symbols.exactly(&[&base]);
            found.extend(parents.into_iter().flatten().map(|i| (i, helper, at)));
        }
        found.sort_unstable();
        found
    }
}

/// A function of its own that does nothing but an operation on its argument, and that no probe can be put on.
struct Helper {
    address: u64,
    name: String,
    operation: Operation,
    /// The register that it takes the VMA in, and what to add.
    register: usize,
    displacement: i64,
    confidence: Confidence,
}

/// What follows a locked instruction.
#[derive(Default)]
struct Ahead {
    compares_flag: bool,
    wake: Option<usize>,
    slow: Option<usize>,
    enters: bool,
}

/// The search in one function.
struct Search<'a> {
    kernel: &'a Kernel<'a>,
    function: usize,
    name: String,
    flow: Flow,
    entry: Option<u64>,
    sites: Vec<FoundSite>,
    unrecognised: Vec<Unrecognised>,
    notes: Vec<String>,
    odd_layouts: Vec<i64>,
    /// Where a VMA's semaphore is taken for writing, and which.
    entered: Vec<Value>,
}

impl<'a> Search<'a> {
    fn new(kernel: &'a Kernel<'a>, function: usize) -> Option<Self> {
        let symbol = &kernel.symbols.all()[function];
        let name = kernel.symbols.name(symbol).to_owned();
        let body = kernel.bytes(function)?;
        let mut parts = vec![Part {
            address: symbol.address,
            bytes: body,
        }];
        // Parts that were moved away: jumped to, and named after this function.
        let jumps = memchr::memchr2_iter(0xe9, 0x0f, body).filter_map(|p| match body[p..] {
            [0xe9, ..] => Some((p + 5, rel32(body, p + 1)?)),
            [0x0f, 0x80..=0x8f, ..] => Some((p + 6, rel32(body, p + 2)?)),
            _ => None,
        });
        for (end, rel) in jumps {
            let target = (symbol.address + end as u64).wrapping_add_signed(rel);
            if (symbol.address..symbol.end).contains(&target) {
                continue;
            }
            let Some(i) = kernel.symbols.containing(target) else {
                continue;
            };
            let moved = &kernel.symbols.all()[i];
            if without_cold(kernel.symbols.name(moved)) == Some(&name)
                && parts.iter().all(|part| part.address != moved.address)
                && let Some(bytes) = kernel.bytes(i)
            {
                parts.push(Part {
                    address: moved.address,
                    bytes,
                });
            }
        }
        let entry = kernel.ftrace_entry(symbol.address, body);
        let flow = Flow::new(&parts, entry, &|target| kernel.known.no_return.contains(&target));
        Some(Self {
            kernel,
            function,
            name,
            flow,
            entry,
            sites: Vec::new(),
            unrecognised: Vec::new(),
            notes: Vec::new(),
            odd_layouts: Vec::new(),
            entered: Vec::new(),
        })
    }

    fn run(&mut self) {
        if self.kernel.offsets.vm_refcnt.is_some() {
            self.refcounts();
        } else {
            self.semaphores();
        }
        if !self.sites.is_empty() && (self.flow.torn || !self.flow.traps.is_empty()) {
            self.notes.push(if self.flow.traps.is_empty() {
                format!("{}: a branch leads into the middle of an instruction: patched text, sites may be missing", self.name)
            } else {
                format!("{}: {} breakpoints of somebody's probes: sites may be missing", self.name, self.flow.traps.len())
            });
        }
    }

    // ---- the family with a count

    fn refcounts(&mut self) {
        let mut gets = Vec::new();
        let mut puts = Vec::new();
        let mut odd = Vec::new();
        for i in 0..self.flow.code.len() {
            let c = self.flow.code[i];
            if c.mnemonic() == Mnemonic::Mov && c.op0_kind() == OpKind::Memory {
                self.store(i);
                continue;
            }
            if c.op_count() == 0 || c.op0_kind() != OpKind::Memory || !self.flow.locked(i) {
                continue;
            }
            let state = self.flow.before(i);
            let Some(vma) = self.vma_of_count(i, &state) else {
                continue;
            };
            let mut evidence = self.pointer_evidence(vma, &state);
            match c.mnemonic() {
                Mnemonic::Cmpxchg => match self.cmpxchg_adds(i, &state) {
                    Some(1) if self.has_limit(i, &state) => {
                        if evidence.is_empty() {
                            self.odd_layouts.extend(self.odd_layout(i, &state));
                            odd.push((i, "reads like a get, but the pointer does not look like a VMA"));
                            continue;
                        }
                        evidence.extend([Evidence::AddsOne, Evidence::Limit]);
                        gets.push((i, vma, evidence));
                    }
                    Some(added) if added == i64::from(FLAG) => {
                        if evidence.is_empty() {
                            odd.push((i, "adds the flag, but the pointer does not look like a VMA"));
                            continue;
                        }
                        evidence.push(Evidence::AddsFlag);
                        self.plain(i, Operation::WriterEnter, Form::Cmpxchg, vma, evidence);
                    }
                    _ => odd.push((i, "a compare-and-swap at the count's offset, but not the get's")),
                },
                Mnemonic::Xadd => {
                    let added = self.flow.operand(i, 1, &state);
                    match added {
                        Some(Value::Const(value)) if value as u32 == u32::MAX => {
                            puts.push((i, vma, evidence));
                        }
                        Some(Value::Const(value)) if value as u32 == FLAG.wrapping_neg() => {
                            if evidence.is_empty() {
                                odd.push((i, "subtracts the flag, but the pointer does not look like a VMA"));
                                continue;
                            }
                            evidence.push(Evidence::SubtractsFlag);
                            self.plain(i, Operation::WriterLeave, Form::Xadd, vma, evidence);
                        }
                        Some(Value::Const(value)) if value as u32 == FLAG => {
                            evidence.push(Evidence::AddsFlag);
                            self.plain(i, Operation::WriterEnter, Form::Xadd, vma, evidence);
                        }
                        _ => odd.push((i, "adds at the count's offset, but not a value of the lock's")),
                    }
                }
                Mnemonic::Add | Mnemonic::Sub | Mnemonic::Inc | Mnemonic::Dec
                    if c.memory_size().size() == 4 =>
                {
                    odd.push((i, "a locked operation at the count's offset that no pattern has"));
                }
                _ => {}
            }
        }
        for (i, vma, evidence) in puts {
            self.put(i, vma, evidence, &mut odd);
        }
        let mut failing = FxHashMap::default();
        for (i, vma, evidence) in gets {
            self.get(i, vma, evidence, &mut failing);
        }
        self.mark_undoing(&failing);
        for (i, why) in odd {
            self.odd(i, why);
        }
    }

    /// The VMA that a locked instruction's operand is the count of, if it is one.
    fn vma_of_count(&self, i: usize, state: &State) -> Option<Value> {
        let offset = i64::from(self.kernel.offsets.vm_refcnt?);
        Some(self.flow.address(i, state)?.plus(-offset))
    }

    /// Whether something in the function reads a field of what a value points to.
    fn reads(&self, vma: Value, field: u32, size: u8) -> bool {
        let Value::Sym(id, offset) = vma else { return false };
        self.flow
            .known(Origin::Load(id, offset + i64::from(field), size))
            .is_some()
    }

    /// What makes a value the address of a VMA; empty if nothing.
    fn pointer_evidence(&self, vma: Value, state: &State) -> Vec<Evidence> {
        let offsets = self.kernel.offsets;
        let is_vma = self.reads(vma, offsets.vm_mm, 8) || self.reads(vma, offsets.vm_lock_seq, 4);
        let whole = matches!(vma, Value::Sym(_, 0)) || state.regs.contains(&vma);
        let mut evidence = Vec::new();
        if whole || is_vma {
            evidence.push(Evidence::OperandAtField);
        }
        if is_vma {
            evidence.push(Evidence::PointerIsVma);
        }
        evidence
    }

    /// What a compare-and-swap adds to the old value.
    fn cmpxchg_adds(&self, i: usize, state: &State) -> Option<i64> {
        let new = self.flow.operand(i, 1, state)?;
        let (Value::Sym(new_id, new), Value::Sym(old_id, old)) = (new, state.regs[RAX]) else {
            return None;
        };
        (new_id == old_id).then(|| i64::from((new - old) as i32))
    }

    fn mentions(&self, i: usize, wanted: &[u32]) -> bool {
        let c = &self.flow.code[i];
        (0..c.op_count()).any(|n| {
            c.try_immediate(n)
                .is_ok_and(|value| wanted.contains(&(value as u32)))
        })
    }

    /// Whether a get compares with the limit of readers.
    fn has_limit(&self, i: usize, state: &State) -> bool {
        // Also as what is left of the count when the flag is taken off.
        let limits = [FLAG - 1, FLAG - 2, FLAG.wrapping_neg(), FLAG];
        state
            .regs
            .iter()
            .any(|value| matches!(value, Value::Const(c) if limits.contains(&(*c as u32))))
            || (i.saturating_sub(16)..i).any(|at| {
                let c = &self.flow.code[at];
                self.mentions(at, &limits)
                    || c.mnemonic() == Mnemonic::Lea
                        && c.memory_displacement64() as u32 == FLAG.wrapping_neg()
            })
    }

    /// Offset from the pointer's start that a get with the right limit uses: tells that the layout is another kernel's.
    fn odd_layout(&self, i: usize, state: &State) -> Option<i64> {
        match self.flow.address(i, state)? {
            Value::Sym(_, offset) if offset != 0 => Some(offset),
            _ => None,
        }
    }

    /// Follows control from after an instruction.
    fn ahead(&mut self, i: usize, vma: Value) -> Ahead {
        let mut ahead = Ahead::default();
        let mut seen = FxHashSet::default();
        // Nearest first: what belongs to this operation comes before what the function does next.
        let mut work = std::collections::VecDeque::from([(i + 1, REACH)]);
        while let Some((start, mut reach)) = work.pop_front() {
            if start >= self.flow.code.len() || seen.len() > REACH_BLOCKS {
                continue;
            }
            let block = self.flow.block_of[start] as usize;
            if start != i + 1 && !seen.insert(block) {
                continue;
            }
            let end = self.flow.blocks[block].end;
            let mut at = start;
            // The locked instruction may be the last of its block.
            if start == i + 1 && self.flow.block_of[i] as usize != block {
                continue;
            }
            let stopped = loop {
                if at == end {
                    break false;
                }
                if reach == 0 {
                    break true;
                }
                reach -= 1;
                let c = self.flow.code[at];
                if self.mentions(at, &[FLAG, FLAG + 1, FLAG + 2]) || self.tests_flag_bit(at) {
                    ahead.compares_flag = true;
                }
                if let Some(target) = self.flow.leaves_to(at) {
                    if self.kernel.known.wake.contains(&target) {
                        ahead.wake.get_or_insert(at);
                        break true;
                    }
                    if self.kernel.known.detach_slow.contains(&target) {
                        ahead.slow.get_or_insert(at);
                        break true;
                    }
                }
                if self.flow.locked(at) && matches!(c.mnemonic(), Mnemonic::Xadd | Mnemonic::Cmpxchg) {
                    let state = self.flow.before(at);
                    if self.vma_of_count(at, &state) == Some(vma)
                        && self.cmpxchg_adds(at, &state) == Some(i64::from(FLAG))
                    {
                        ahead.enters = true;
                    }
                    break true;
                }
                at += 1;
            };
            if !stopped {
                let edges = [self.flow.blocks[block].taken, self.flow.blocks[block].next];
                for edge in edges.into_iter().flatten() {
                    work.push_back((self.flow.blocks[edge.to].first, reach));
                }
            }
        }
        ahead
    }

    fn tests_flag_bit(&self, at: usize) -> bool {
        let c = &self.flow.code[at];
        c.mnemonic() == Mnemonic::Bt && c.try_immediate(1).is_ok_and(|bit| bit == 30)
    }

    fn put(
        &mut self,
        i: usize,
        vma: Value,
        mut evidence: Vec<Evidence>,
        odd: &mut Vec<(usize, &'static str)>,
    ) {
        let ahead = self.ahead(i, vma);
        evidence.push(Evidence::SubtractsOne);
        if ahead.compares_flag {
            evidence.push(Evidence::ComparesFlag);
        }
        let known_pointer = evidence.contains(&Evidence::OperandAtField);
        if let Some(wake) = ahead.wake {
            evidence.push(Evidence::WakesWriter);
            let state = self.flow.before(wake);
            let (mut some_mm, mut that_mm) = (false, false);
            if let (Some(wait), Value::Sym(mm, at)) = (self.kernel.offsets.vma_writer_wait, state.regs[RDI])
                && at == i64::from(wait)
                && let Origin::Load(from, at, 8) = self.flow.origin(mm)
            {
                // The pointers may have come here on different ways, too tangled to see that they are one.
                let field = i64::from(self.kernel.offsets.vm_mm);
                some_mm = at == field;
                that_mm = vma == Value::Sym(from, at - field);
            }
            if that_mm {
                evidence.push(Evidence::WakesThatMm);
            }
            if that_mm || ahead.compares_flag && (known_pointer || some_mm) {
                self.plain(i, Operation::ReadPut, Form::Xadd, vma, evidence);
                return;
            }
            odd.push((
                i,
                "lowers a count and wakes an rcuwait, but does not compare with the flag",
            ));
            return;
        }
        let slow = ahead.slow.is_some_and(|slow| {
            let state = self.flow.before(slow);
            state.regs[RDI] == vma
        });
        if (slow || ahead.enters) && known_pointer {
            evidence.push(Evidence::DetachSlowPath);
            self.plain(i, Operation::Detach, Form::Xadd, vma, evidence);
        } else if ahead.slow.is_some() {
            odd.push((
                i,
                "lowers a count and reaches the slow path of detaching, but with another pointer",
            ));
        } else {
            odd.push((i, "lowers a count, but neither wakes a writer nor detaches"));
        }
    }

    /// A count that is set to 1, or a sequence number that is set.
    fn store(&mut self, i: usize) {
        let c = self.flow.code[i];
        let offsets = self.kernel.offsets;
        let Some(count) = offsets.vm_refcnt else { return };
        let displacement = c.memory_displacement64();
        if c.memory_size().size() != 4 {
            return;
        }
        if c.try_immediate(1).is_ok_and(|value| value == 1) && displacement == u64::from(count) {
            let state = self.flow.before(i);
            let Some(vma) = self.vma_of_count(i, &state) else {
                return;
            };
            let mut evidence = self.pointer_evidence(vma, &state);
            // Other objects have a state that goes from 0 to 1 with a warning, too.
            let tree = self.reads(vma, offsets.vm_lock_seq, 4) || self.handles_vmas();
            if tree && evidence.contains(&Evidence::OperandAtField) && self.warns_unless_zero(i, vma) {
                evidence.push(Evidence::WarnsUnlessDetached);
                self.plain(i, Operation::Attach, Form::Store, vma, evidence);
            }
            return;
        }
        self.seq_store(i);
    }

    /// Whether the function calls what works on VMAs or on their tree.
    fn handles_vmas(&self) -> bool {
        let symbols = self.kernel.symbols;
        (0..self.flow.code.len()).any(|at| {
            let called = self
                .flow
                .leaves_to(at)
                .and_then(|target| symbols.containing(target));
            let name = called.map(|i| symbols.name(&symbols.all()[i]));
            name.is_some_and(|name| {
                ["mas_", "vma_", "__vma_", "vm_area_", "__mt_"]
                    .iter()
                    .any(|&with| name.starts_with(with))
            })
        })
    }

    /// A store of the mm's sequence number into the VMA's.
    fn seq_store(&mut self, i: usize) {
        let c = self.flow.code[i];
        let offsets = self.kernel.offsets;
        if c.memory_displacement64() != u64::from(offsets.vm_lock_seq)
            || c.op1_kind() != OpKind::Register
            || c.memory_size().size() != 4
        {
            return;
        }
        let state = self.flow.before(i);
        let Some(vma) = self
            .flow
            .address(i, &state)
            .map(|field| field.plus(-i64::from(offsets.vm_lock_seq)))
        else {
            return;
        };
        let Some(value) = self.flow.operand(i, 1, &state) else {
            return;
        };
        // The number may be an argument, or have come over the stack; then the place tells.
        let argument = self.name.starts_with("__vma_start_write")
            && matches!(vma, Value::Sym(id, 0) if self.flow.origin(id) == Origin::Entry(RDI as u8));
        // Between taking and giving back the VMA's semaphore nothing else is stored there.
        let entered = self.entered.contains(&vma);
        if !argument && !entered && !self.is_mm_sequence(value) {
            return;
        }
        let mut evidence = self.pointer_evidence(vma, &state);
        evidence.push(Evidence::StoresSequence);
        if evidence.contains(&Evidence::OperandAtField) {
            self.plain(i, Operation::WriterMark, Form::Store, vma, evidence);
        }
    }

    fn is_mm_sequence(&self, value: Value) -> bool {
        let Value::Sym(id, 0) = value else { return false };
        matches!(self.flow.origin(id), Origin::Load(_, at, 4) if at == i64::from(self.kernel.offsets.mm_lock_seq))
    }

    /// Whether the count is tested before a store, with a warning when it is not zero.
    fn warns_unless_zero(&mut self, i: usize, vma: Value) -> bool {
        let Value::Sym(id, offset) = vma else { return false };
        let count = i64::from(self.kernel.offsets.vm_refcnt.unwrap_or(0));
        let Some(load) = self.flow.known(Origin::Load(id, offset + count, 4)) else {
            return false;
        };
        let load = Value::Sym(load, 0);
        let mut seen = FxHashSet::default();
        let mut work = vec![self.flow.block_of[i] as usize];
        while let Some(b) = work.pop() {
            if !seen.insert(b) || seen.len() > BACK_BLOCKS {
                continue;
            }
            if let Some((compare, code)) = self.condition(b)
                && matches!(code, ConditionCode::e | ConditionCode::ne)
            {
                let state = self.flow.before(compare);
                let left = self.flow.operand(compare, 0, &state);
                let warns = [self.flow.blocks[b].taken, self.flow.blocks[b].next]
                    .into_iter()
                    .flatten()
                    .any(|edge| {
                        let block = &self.flow.blocks[edge.to];
                        (block.first..block.end).any(|at| {
                            matches!(
                                self.flow.code[at].mnemonic(),
                                Mnemonic::Ud2 | Mnemonic::Ud1 | Mnemonic::Ud0
                            )
                        })
                    });
                if left == Some(load) && warns {
                    return true;
                }
            }
            work.extend(self.flow.blocks[b].preds.iter().map(|&(p, _)| p));
        }
        false
    }

    // ---- gets

    /// The comparison that a block's conditional branch goes by, and the branch's condition.
    fn condition(&self, block: usize) -> Option<(usize, ConditionCode)> {
        let block = &self.flow.blocks[block];
        let last = block.end - 1;
        let branch = &self.flow.code[last];
        if branch.flow_control() != FlowControl::ConditionalBranch
            || branch.condition_code() == ConditionCode::None
        {
            return None;
        }
        let compare = (block.first..last).rev().find(|&at| {
            self.flow.code[at].rflags_modified() & (iced_x86::RflagsBits::ZF | iced_x86::RflagsBits::CF) != 0
        })?;
        Some((compare, branch.condition_code()))
    }

    /// Blocks that a comparison leads to when equal, and when not.
    fn equal_edges(&self, block: usize, code: ConditionCode) -> Option<(usize, usize)> {
        let taken = self.flow.blocks[block].taken?.to;
        let next = self.flow.blocks[block].next?.to;
        match code {
            ConditionCode::e => Some((taken, next)),
            ConditionCode::ne => Some((next, taken)),
            _ => None,
        }
    }

    /// The block that control is in after a compare-and-swap, or a try, has succeeded.
    fn success(&mut self, i: usize, value: Option<Value>) -> Option<(usize, usize)> {
        let mut block = self.flow.block_of[i] as usize;
        for _ in 0..3 {
            let Some((compare, code)) = self.condition(block) else {
                // The result of a call may be tested a block later.
                let next = self.flow.blocks[block]
                    .next
                    .filter(|_| self.flow.blocks[block].taken.is_none())?;
                block = next.to;
                continue;
            };
            let (equal, other) = self.equal_edges(block, code)?;
            if compare == i {
                return Some((equal, other));
            }
            let state = self.flow.before(compare);
            let tested = self.flow.operand(compare, 0, &state);
            let wanted = value?;
            return (self.flow.code[compare].mnemonic() == Mnemonic::Test && tested == Some(wanted))
                .then_some((other, equal));
        }
        None
    }

    /// The put that control reaches from a block without another branch.
    fn straight_to_put(&mut self, block: usize, vma: Value) -> Option<usize> {
        let mut b = block;
        for _ in 0..STRAIGHT_BLOCKS {
            let (first, end) = (self.flow.blocks[b].first, self.flow.blocks[b].end);
            for at in first..end {
                if self.is_put_of(at, vma) {
                    return Some(at);
                }
            }
            if self.flow.blocks[b].taken.is_some() {
                return None;
            }
            b = self.flow.blocks[b].next?.to;
        }
        None
    }

    fn is_put_of(&mut self, at: usize, vma: Value) -> bool {
        let address = self.flow.code[at].ip();
        if !self
            .sites
            .iter()
            .any(|site| site.operation == Operation::ReadPut && site.spot.address == address)
        {
            return false;
        }
        let state = self.flow.before(at);
        if self.kernel.offsets.vm_refcnt.is_some() {
            self.vma_of_count(at, &state) == Some(vma)
        } else {
            self.vma_of_lock(state.regs[RDI]) == Some(vma)
        }
    }

    /// A field of the VMA that a value was read from.
    fn field(&self, value: Option<Value>, vma: Value, field: u32, size: u8) -> bool {
        let (Some(Value::Sym(id, 0)), Value::Sym(vma, offset)) = (value, vma) else {
            return false;
        };
        self.flow.origin(id) == Origin::Load(vma, offset + i64::from(field), size)
    }

    /// What the branch at a block's end checks after a get: why it fails, and on which edge; and the other edge.
    fn check_after(&mut self, b: usize, vma: Value) -> Option<(Reason, usize, usize)> {
        let offsets = *self.kernel.offsets;
        let (compare, code) = self.condition(b)?;
        if self.flow.code[compare].mnemonic() != Mnemonic::Cmp {
            return self.check_detached(b, compare, code, vma);
        }
        let state = self.flow.before(compare);
        let (left, right) = (
            self.flow.operand(compare, 0, &state),
            self.flow.operand(compare, 1, &state),
        );
        let either = |field, size| self.field(left, vma, field, size) || self.field(right, vma, field, size);
        if either(offsets.vm_lock_seq, 4)
            && [left, right]
                .into_iter()
                .flatten()
                .any(|value| self.is_mm_sequence(value))
        {
            let (equal, other) = self.equal_edges(b, code)?;
            return Some((Reason::WriteLocked, equal, other));
        }
        if offsets.vm_refcnt.is_some() && either(offsets.vm_mm, 8) {
            let (equal, other) = self.equal_edges(b, code)?;
            return Some((Reason::Recycled, other, equal));
        }
        let taken = self.flow.blocks[b].taken?.to;
        let next = self.flow.blocks[b].next?.to;
        // address < vm_start, or address >= vm_end
        let fails_taken = if self.field(right, vma, offsets.vm_start, 8) {
            [ConditionCode::b, ConditionCode::ae]
        } else if self.field(left, vma, offsets.vm_start, 8) {
            [ConditionCode::a, ConditionCode::be]
        } else if self.field(right, vma, offsets.vm_end, 8) {
            [ConditionCode::ae, ConditionCode::b]
        } else if self.field(left, vma, offsets.vm_end, 8) {
            [ConditionCode::be, ConditionCode::a]
        } else {
            return None;
        };
        let (fail, pass) = if code == fails_taken[0] {
            (taken, next)
        } else if code == fails_taken[1] {
            (next, taken)
        } else {
            return None;
        };
        Some((Reason::AddressMoved, fail, pass))
    }

    /// 6.4 to 6.14 have a flag for detached VMAs, which is tested after the lock is there.
    fn check_detached(
        &mut self,
        b: usize,
        compare: usize,
        code: ConditionCode,
        vma: Value,
    ) -> Option<(Reason, usize, usize)> {
        if self.kernel.offsets.vm_refcnt.is_some() || self.flow.code[compare].mnemonic() != Mnemonic::Test {
            return None;
        }
        let state = self.flow.before(compare);
        self.byte_of(compare, &state, vma)?;
        let (equal, other) = self.equal_edges(b, code)?;
        Some((Reason::Detached, other, equal))
    }

    /// Whether a comparison looks at a byte of the VMA.
    fn byte_of(&self, compare: usize, state: &State, vma: Value) -> Option<()> {
        let c = &self.flow.code[compare];
        if c.op0_kind() != OpKind::Memory || c.memory_size().size() != 1 {
            return None;
        }
        match (self.flow.address(compare, state)?, vma) {
            (Value::Sym(a, _), Value::Sym(b, _)) if a == b => Some(()),
            _ => None,
        }
    }

    /// A get, with what leads to it and what follows. Edges that take it back go to `failing`.
    fn get(
        &mut self,
        i: usize,
        vma: Value,
        mut evidence: Vec<Evidence>,
        failing: &mut FxHashMap<(usize, usize), Reason>,
    ) {
        let form = if self.flow.code[i].mnemonic() == Mnemonic::Call {
            Form::Call
        } else {
            Form::Cmpxchg
        };
        let result = (form == Form::Call).then(|| self.defined(i, RAX)).flatten();
        let success = self.success(i, result);
        let mut exits: Vec<Exit> = Vec::new();
        let mut confirmed = None;
        if let Some((success, failed)) = success {
            confirmed = self.checks_after(success, vma, &mut exits);
            if form == Form::Call {
                exits.push(Exit {
                    from: self.flow.block_of[self.flow.blocks[failed]
                        .preds
                        .first()
                        .map_or(i, |&(p, _)| self.flow.blocks[p].end - 1)] as usize,
                    to: failed,
                    reason: Reason::LimitOrWriter,
                    temporary: false,
                });
            }
            self.checks_before(i, vma, success, &mut exits);
        }
        for exit in exits.iter().filter(|exit| exit.temporary) {
            failing.insert((exit.from, exit.to), exit.reason);
        }
        if confirmed.is_some() {
            evidence.push(Evidence::ChecksAgain);
        }
        let operation = if confirmed.is_some() {
            Operation::ReadTry
        } else {
            Operation::ReadLocked
        };
        let mut site = self.site(i, operation, form, vma, evidence);
        site.after = success.map(|(to, _)| {
            let from = self.flow.block_of[i] as usize;
            self.block_spot(to, vma, &[from])
        });
        site.confirmed = confirmed.map(|(from, to)| self.block_spot(to, vma, &[from]));
        site.candidate = self.candidate(vma);
        site.failures = self.failures(&exits, vma);
        if success.is_none() {
            site.confidence = Confidence::Likely;
        }
        self.sites.push(site);
    }

    /// What an instruction leaves in a register, if the function uses it.
    fn defined(&self, i: usize, r: usize) -> Option<Value> {
        self.flow
            .known(Origin::Def(i as u32, r as u8))
            .map(|id| Value::Sym(id, 0))
    }

    /// Checks after a get, and the edge behind the last that a try needs.
    fn checks_after(&mut self, success: usize, vma: Value, exits: &mut Vec<Exit>) -> Option<(usize, usize)> {
        let mut confirmed = None;
        let mut seen = FxHashSet::default();
        // Where the VMA is looked up again, another try begins.
        seen.extend(self.found_in(vma));
        let mut work = std::collections::VecDeque::from([success]);
        while let Some(b) = work.pop_front() {
            if !seen.insert(b) || seen.len() > REACH_BLOCKS {
                continue;
            }
            let (first, end) = (self.flow.blocks[b].first, self.flow.blocks[b].end);
            if (first..end).any(|at| self.is_put_of(at, vma)) {
                continue;
            }
            if let Some((reason, fail, pass)) = self.check_after(b, vma) {
                let straight = self.straight_to_put(fail, vma).is_some();
                if reason != Reason::AddressMoved || straight {
                    let out_of_line = self.calls_a_put(fail);
                    let tried =
                        reason == Reason::WriteLocked || reason == Reason::Recycled && confirmed.is_none();
                    if straight || out_of_line || tried {
                        let temporary = reason != Reason::AddressMoved;
                        exits.push(Exit {
                            from: b,
                            to: fail,
                            reason,
                            temporary,
                        });
                    }
                    if reason == Reason::WriteLocked && confirmed.is_none() {
                        confirmed = Some((b, pass));
                    }
                    if fail != pass {
                        work.push_back(pass);
                    }
                    continue;
                }
            }
            let edges = [self.flow.blocks[b].taken, self.flow.blocks[b].next];
            work.extend(edges.into_iter().flatten().map(|edge| edge.to));
        }
        confirmed
    }

    /// The block in which a call returns the VMA.
    fn found_in(&self, vma: Value) -> Option<usize> {
        let Value::Sym(id, _) = vma else { return None };
        match self.flow.origin(id) {
            Origin::Def(at, _) => Some(self.flow.block_of[at as usize] as usize),
            _ => None,
        }
    }

    fn calls_a_put(&self, block: usize) -> bool {
        let block = &self.flow.blocks[block];
        (block.first..block.end).any(|at| {
            self.flow.leaves_to(at).is_some_and(|target| {
                let name = self
                    .kernel
                    .symbols
                    .containing(target)
                    .map(|i| self.kernel.symbols.name(&self.kernel.symbols.all()[i]));
                name.is_some_and(|name| {
                    name.starts_with("vma_refcount_put") || name.starts_with("vma_end_read")
                })
            })
        })
    }

    /// Checks before a get that leave it.
    fn checks_before(&mut self, i: usize, vma: Value, success: usize, exits: &mut Vec<Exit>) {
        let Value::Sym(id, _) = vma else { return };
        let own = self.flow.block_of[i] as usize;
        let limit = match self.flow.origin(id) {
            Origin::Def(at, _) => self.flow.block_of[at as usize] as usize,
            Origin::Join(b, _) | Origin::JoinSlot(b, ..) => b as usize,
            Origin::Entry(_) => 0,
            Origin::Load(..) => usize::MAX,
        };
        let reach = if limit == usize::MAX {
            BACK_BLOCKS / 2
        } else {
            BACK_BLOCKS
        };
        let mut region = vec![own];
        let mut next = 0;
        while next < region.len() && region.len() < reach {
            let b = region[next];
            next += 1;
            if b == limit {
                continue;
            }
            for &(p, weak) in &self.flow.blocks[b].preds {
                if !weak && !region.contains(&p) && p != success {
                    region.push(p);
                }
            }
        }
        for &b in &region {
            if b == own {
                continue;
            }
            let (Some(taken), Some(next)) = (self.flow.blocks[b].taken, self.flow.blocks[b].next) else {
                continue;
            };
            // Back to where the VMA was looked up is out, too.
            let again = self.found_in(vma);
            let inside = |to: usize| region.contains(&to) && again != Some(to);
            let out = match (inside(taken.to), inside(next.to)) {
                (true, false) => next.to,
                (false, true) => taken.to,
                _ => continue,
            };
            if let Some(reason) = self.check_before(b, i, vma, out) {
                exits.push(Exit {
                    from: b,
                    to: out,
                    reason,
                    temporary: false,
                });
            }
        }
    }

    fn check_before(&mut self, b: usize, i: usize, vma: Value, out: usize) -> Option<Reason> {
        let (compare, code) = self.condition(b)?;
        let state = self.flow.before(compare);
        let c = self.flow.code[compare];
        let (left, right) = (
            self.flow.operand(compare, 0, &state),
            self.flow.operand(compare, 1, &state),
        );
        let edges = self.equal_edges(b, code);
        if let Some((equal, _)) = edges {
            let zero = c.mnemonic() == Mnemonic::Test && left == right
                || c.mnemonic() == Mnemonic::Cmp && right == Some(Value::Const(0));
            if zero && equal == out && left == Some(vma) {
                return Some(Reason::NoVma);
            }
            if zero && equal == out && self.kernel.offsets.vm_refcnt.is_some() {
                let old = self.flow.before(i).regs[RAX];
                if left.is_some_and(|left| left == old || self.reads_count(left, vma)) {
                    return Some(Reason::Detached);
                }
            }
            let offsets = self.kernel.offsets;
            let sequence = self.field(left, vma, offsets.vm_lock_seq, 4)
                || self.field(right, vma, offsets.vm_lock_seq, 4);
            if sequence
                && equal == out
                && [left, right]
                    .into_iter()
                    .flatten()
                    .any(|value| self.is_mm_sequence(value))
            {
                return Some(Reason::WriteLocked);
            }
            return None;
        }
        // Not an equality, and right before the swap: the limit.
        (self.kernel.offsets.vm_refcnt.is_some()
            && compare < i
            && i - compare < 12
            && self.has_limit(compare + 1, &state))
        .then_some(Reason::LimitOrWriter)
    }

    fn reads_count(&self, value: Value, vma: Value) -> bool {
        self.kernel
            .offsets
            .vm_refcnt
            .is_some_and(|count| self.field(Some(value), vma, count, 4))
    }

    /// Where the VMA came from, if a call returned it.
    fn candidate(&mut self, vma: Value) -> Option<Spot> {
        let Value::Sym(id, 0) = vma else { return None };
        let Origin::Def(at, r) = self.flow.origin(id) else {
            return None;
        };
        let at = at as usize;
        if usize::from(r) != RAX
            || self.flow.code[at].mnemonic() != Mnemonic::Call
            || at + 1 >= self.flow.code.len()
        {
            return None;
        }
        Some(self.spot(at + 1, vma, false))
    }

    fn failures(&mut self, exits: &[Exit], vma: Value) -> Vec<Failure> {
        let mut targets: Vec<usize> = exits.iter().map(|exit| exit.to).collect();
        targets.sort_unstable();
        targets.dedup();
        let mut failures = Vec::new();
        for to in targets {
            let own: Vec<&Exit> = exits.iter().filter(|exit| exit.to == to).collect();
            let from: Vec<usize> = own.iter().map(|exit| exit.from).collect();
            let mut reasons: Vec<Reason> = own.iter().map(|exit| exit.reason).collect();
            reasons.sort_unstable();
            reasons.dedup();
            let mut branches: Vec<u64> = from
                .iter()
                .map(|&b| self.flow.code[self.flow.blocks[b].end - 1].ip())
                .collect();
            branches.sort_unstable();
            branches.dedup();
            let put = self.straight_to_put(to, vma).map(|at| self.flow.code[at].ip());
            failures.push(Failure {
                spot: self.block_spot(to, vma, &from),
                reasons,
                branches,
                temporary: own.iter().any(|exit| exit.temporary),
                put,
            });
        }
        failures
    }

    /// Tells puts that only take back failed tries from those that end a hold.
    fn mark_undoing(&mut self, failing: &FxHashMap<(usize, usize), Reason>) {
        for s in 0..self.sites.len() {
            if self.sites[s].operation != Operation::ReadPut {
                continue;
            }
            let Some(at) = self.flow.at(self.sites[s].spot.address) else {
                continue;
            };
            let mut reasons = BTreeSet::new();
            let mut only = true;
            let mut seen = FxHashSet::default();
            let mut work = vec![self.flow.block_of[at] as usize];
            while let Some(b) = work.pop() {
                if !seen.insert(b) {
                    continue;
                }
                if self.flow.blocks[b].preds.is_empty() || seen.len() > STRAIGHT_BLOCKS {
                    only = false;
                }
                for &(p, _) in &self.flow.blocks[b].preds {
                    if let Some(&reason) = failing.get(&(p, b)) {
                        reasons.insert(reason);
                    } else if self.flow.blocks[p].taken.is_none() {
                        work.push(p);
                    } else {
                        only = false;
                    }
                }
            }
            let site = &mut self.sites[s];
            site.only_undoes = only && !reasons.is_empty();
            site.undoes = reasons.into_iter().collect();
        }
    }

    // ---- the family with a semaphore for each VMA

    fn vma_of_lock(&self, lock: Value) -> Option<Value> {
        let offsets = self.kernel.offsets;
        let Value::Sym(id, offset) = lock else { return None };
        if offset != i64::from(offsets.lock) {
            return None;
        }
        match self.flow.origin(id) {
            Origin::Load(vma, at, 8) => {
                let offset = at - i64::from(offsets.vm_lock?);
                (offset == 0).then_some(Value::Sym(vma, 0))
            }
            _ => None,
        }
    }

    fn semaphores(&mut self) {
        let mut tries = Vec::new();
        for i in 0..self.flow.code.len() {
            if self.flow.code[i].mnemonic() == Mnemonic::Mov && self.flow.code[i].op0_kind() == OpKind::Memory
            {
                self.seq_store(i);
                continue;
            }
            let Some(target) = self.flow.leaves_to(i) else {
                continue;
            };
            let known = &self.kernel.known;
            let operation = if known.try_read.contains(&target) {
                Operation::ReadTry
            } else if known.up_read.contains(&target) {
                Operation::ReadPut
            } else if known.down_write.contains(&target) {
                Operation::WriterEnter
            } else if known.up_write.contains(&target) {
                Operation::WriterLeave
            } else {
                continue;
            };
            let state = self.flow.before(i);
            let Some(vma) = self.vma_of_lock(state.regs[RDI]) else {
                continue;
            };
            let mut evidence = vec![Evidence::LockOfVma];
            let offsets = self.kernel.offsets;
            if self.reads(vma, offsets.vm_mm, 8) || self.reads(vma, offsets.vm_lock_seq, 4) {
                evidence.push(Evidence::PointerIsVma);
            }
            if operation == Operation::ReadTry {
                tries.push((i, vma, evidence));
                continue;
            }
            if operation == Operation::WriterEnter {
                self.entered.push(vma);
            }
            let form = if self.flow.code[i].mnemonic() == Mnemonic::Call {
                Form::Call
            } else {
                Form::TailCall
            };
            self.plain(i, operation, form, vma, evidence);
            self.name_callee(target);
        }
        let mut failing = FxHashMap::default();
        for (i, vma, evidence) in tries {
            self.get(i, vma, evidence, &mut failing);
            if let Some(target) = self.flow.leaves_to(i) {
                self.name_callee(target);
            }
        }
        self.mark_undoing(&failing);
    }

    fn name_callee(&mut self, target: u64) {
        let symbols = self.kernel.symbols;
        let name = symbols
            .containing(target)
            .map(|i| symbols.name(&symbols.all()[i]).to_owned());
        if let Some(site) = self.sites.last_mut() {
            site.callee = name;
        }
    }

    // ---- calls of functions that are one operation

    /// If this function is a helper on its argument that no probe can be put on: how to see its calls.
    fn helper(&mut self) -> Option<Helper> {
        let symbol = &self.kernel.symbols.all()[self.function];
        if self.kprobe(symbol.address) == Kprobe::Yes {
            return None;
        }
        let site = self
            .sites
            .iter()
            .find(|site| matches!(site.operation, Operation::ReadTry | Operation::ReadLocked));
        let site = site
            .or_else(|| self.sites.iter().find(|site| site.form != Form::Store))?
            .clone();
        let at = self.flow.at(site.spot.address)?;
        let state = self.flow.before(at);
        let Value::Sym(id, displacement) = self.vma_of_count(at, &state)? else {
            return None;
        };
        let Origin::Entry(register) = self.flow.origin(id) else {
            return None;
        };
        Some(Helper {
            address: symbol.address,
            name: self.name.clone(),
            operation: site.operation,
            register: usize::from(register),
            displacement,
            confidence: site.confidence,
        })
    }

    fn call(&mut self, helper: &Helper, address: u64) {
        // Bytes inside of another instruction may look like a call.
        let Some(at) = self.flow.at(address) else { return };
        if self.flow.leaves_to(at) != Some(helper.address) {
            return;
        }
        let state = self.flow.before(at);
        let vma = state.regs[helper.register].plus(helper.displacement);
        let mut evidence = self.pointer_evidence(vma, &state);
        evidence.retain(|&found| found == Evidence::PointerIsVma);
        evidence.push(Evidence::CallsRecognised);
        let call = self.flow.code[at].mnemonic() == Mnemonic::Call;
        let form = if call { Form::Call } else { Form::TailCall };
        let mut site = self.site(at, helper.operation, form, vma, evidence);
        site.spot.vma = Some(Place::Register {
            register: Register::ALL[helper.register],
            displacement: helper.displacement,
        });
        site.confidence = helper.confidence;
        site.callee = Some(helper.name.clone());
        if call && at + 1 < self.flow.code.len() {
            site.after = Some(self.spot(at + 1, vma, false));
            if helper.operation == Operation::ReadTry {
                site.candidate = self.candidate(vma);
            }
        }
        self.sites.push(site);
    }

    // ---- results

    fn kprobe(&self, address: u64) -> Kprobe {
        if self.kernel.blacklist.has(address) {
            Kprobe::Blacklisted
        } else if self.entry.is_none() {
            Kprobe::Notrace
        } else {
            Kprobe::Yes
        }
    }

    fn place(&self, state: &State, vma: Value) -> Option<Place> {
        let Value::Sym(id, offset) = vma else { return None };
        // As it is, if it can be had; and rather from a register that calls leave alone.
        let mut order: Vec<usize> = (0..REGISTERS).filter(|&r| r != RSP).collect();
        order.sort_by_key(|&r| {
            let exact = state.regs[r] == vma;
            (!exact, !matches!(r, 3 | 5 | 12..=15), r)
        });
        for r in order {
            if let Value::Sym(found, at) = state.regs[r]
                && found == id
                && (at - offset).abs() <= 4096
            {
                return Some(Place::Register {
                    register: Register::ALL[r],
                    displacement: offset - at,
                });
            }
        }
        let Value::Sym(stack, depth) = state.regs[RSP] else {
            return None;
        };
        state.slots().iter().find_map(|&((base, at), value)| match value {
            Value::Sym(found, inner) if found == id && base == stack && at >= depth => Some(Place::Memory {
                register: Register::Rsp,
                offset: at - depth,
                displacement: offset - inner,
            }),
            _ => None,
        })
    }

    fn spot(&mut self, i: usize, vma: Value, shared: bool) -> Spot {
        let state = self.flow.before(i);
        let address = self.flow.code[i].ip();
        let symbols = self.kernel.symbols;
        let symbol = symbols
            .containing(address)
            .map_or(&symbols.all()[self.function], |i| &symbols.all()[i]);
        let base = if symbols.module(symbol).is_none() {
            symbols.text()
        } else {
            None
        };
        Spot {
            address,
            text_offset: base.and_then(|base| address.checked_sub(base)),
            symbol: symbols.name(symbol).to_owned(),
            offset: address - symbol.address,
            vma: self.place(&state, vma),
            shared,
            kprobe: self.kprobe(address),
        }
    }

    /// The first instruction of a block, to which control comes from the given ones, and from others or not.
    fn block_spot(&mut self, block: usize, vma: Value, from: &[usize]) -> Spot {
        let shared = self.flow.blocks[block]
            .preds
            .iter()
            .any(|&(p, weak)| !weak && !from.contains(&p));
        self.spot(self.flow.blocks[block].first, vma, shared)
    }

    fn text_of(&self, i: usize) -> String {
        let mut text = String::new();
        FastFormatter::new().format(&self.flow.code[i], &mut text);
        text
    }

    fn site(
        &mut self,
        i: usize,
        operation: Operation,
        form: Form,
        vma: Value,
        evidence: Vec<Evidence>,
    ) -> FoundSite {
        let c = self.flow.code[i];
        let mut spot = self.spot(i, vma, false);
        // The operand itself is the surest way to the VMA.
        if let (Some(count), Form::Cmpxchg | Form::Xadd) = (self.kernel.offsets.vm_refcnt, form) {
            let base = Register::ALL.get((c.memory_base() as usize).wrapping_sub(Iced::RAX as usize));
            if let Some(&register) = base {
                let displacement = (c.memory_displacement64() as i64).wrapping_sub(i64::from(count));
                spot.vma = Some(Place::Register {
                    register,
                    displacement,
                });
            }
        }
        let sure = evidence.contains(&Evidence::PointerIsVma)
            || evidence.contains(&Evidence::WakesThatMm)
            || evidence.contains(&Evidence::DetachSlowPath)
            || evidence.contains(&Evidence::WarnsUnlessDetached)
            || (evidence.contains(&Evidence::OperandAtField)
                && evidence.iter().any(|found| {
                    matches!(
                        found,
                        Evidence::Limit
                            | Evidence::ComparesFlag
                            | Evidence::AddsFlag
                            | Evidence::SubtractsFlag
                    )
                }));
        let symbols = self.kernel.symbols;
        FoundSite {
            operation,
            form,
            function: self.name.clone(),
            module: symbols.module(&symbols.all()[self.function]).map(str::to_owned),
            spot,
            length: c.len() as u8,
            instruction: self.text_of(i),
            after: None,
            confirmed: None,
            candidate: None,
            failures: Vec::new(),
            undoes: Vec::new(),
            only_undoes: false,
            callee: None,
            ftrace_entry: self.entry,
            confidence: if sure {
                Confidence::Certain
            } else {
                Confidence::Likely
            },
            evidence,
        }
    }

    fn plain(&mut self, i: usize, operation: Operation, form: Form, vma: Value, evidence: Vec<Evidence>) {
        let mut site = self.site(i, operation, form, vma, evidence);
        let falls_through = form != Form::TailCall && i + 1 < self.flow.code.len();
        if falls_through {
            let block = self.flow.block_of[i + 1] as usize;
            let shared = self.flow.blocks[block].first == i + 1 && self.flow.blocks[block].preds.len() > 1;
            site.after = Some(self.spot(i + 1, vma, shared));
        }
        self.sites.push(site);
    }

    /// Something at the count's offset that fits no pattern: told if this function has to do with the lock.
    fn odd(&mut self, i: usize, why: &str) {
        let c = self.flow.code[i];
        let state = self.flow.before(i);
        let Some(vma) = self.vma_of_count(i, &state) else {
            return;
        };
        let evidence = self.pointer_evidence(vma, &state);
        let wakes = (0..self.flow.code.len()).any(|at| {
            self.flow
                .leaves_to(at)
                .is_some_and(|target| self.kernel.known.wake.contains(&target))
        });
        let sequence = self.reads(vma, self.kernel.offsets.vm_lock_seq, 4);
        let conclusive = why.starts_with("reads like a get") || why.starts_with("lowers a count and");
        let whole = matches!(vma, Value::Sym(_, 0)) || state.regs.contains(&vma);
        if !(conclusive || whole && !evidence.is_empty() && (wakes || sequence)) {
            return;
        }
        let symbols = self.kernel.symbols;
        let symbol = &symbols.all()[self.function];
        self.unrecognised.push(Unrecognised {
            function: self.name.clone(),
            module: symbols.module(symbol).map(str::to_owned),
            address: c.ip(),
            offset: c.ip().wrapping_sub(symbol.address),
            instruction: self.text_of(i),
            why: why.to_owned(),
        });
    }
}

/// An edge on which a try to lock fails.
struct Exit {
    from: usize,
    to: usize,
    reason: Reason,
    temporary: bool,
}
