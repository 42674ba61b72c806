//! Finds the operations on VMA locks in a kernel's text. `docs/sites.md` describes the patterns.

mod counts;
mod gets;
mod results;
mod semaphores;

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
    down_read: FxHashSet<u64>,
    up_read: FxHashSet<u64>,
    down_write: FxHashSet<u64>,
    up_write: FxHashSet<u64>,
}

impl Known {
    fn new(symbols: &Symbols) -> Self {
        const NAMES: [&str; 18] = [
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
            "down_read",
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
            down_read: set(17..18),
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
                    .chain(&known.down_read)
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
}

/// An edge on which a try to lock fails.
struct Exit {
    from: usize,
    to: usize,
    reason: Reason,
    temporary: bool,
}
