//! What was found: plain values, ready for a planner, a file, or a table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Symbols;

/// What an instruction does to a VMA's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// A try to read-lock that may fail, and that checks again afterwards (`vma_start_read`).
    ReadTry,
    /// A read lock under `mmap_lock`, which needs no second check (`vma_start_read_locked`).
    ReadLocked,
    /// A read lock is given back.
    ReadPut,
    /// A writer shuts readers out: the flag is added, or the VMA's rw-semaphore taken.
    WriterEnter,
    /// The write lock is there: `vm_lock_seq` is set.
    WriterMark,
    /// A writer lets readers in again, or the last one sees the detached VMA off.
    WriterLeave,
    /// The VMA's own reference is given back: it is leaving its tree.
    Detach,
    /// The VMA gets its own reference.
    Attach,
}

impl Operation {
    /// Its name in JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadTry => "read_try",
            Self::ReadLocked => "read_locked",
            Self::ReadPut => "read_put",
            Self::WriterEnter => "writer_enter",
            Self::WriterMark => "writer_mark",
            Self::WriterLeave => "writer_leave",
            Self::Detach => "detach",
            Self::Attach => "attach",
        }
    }
}

/// The instruction at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// `lock cmpxchg`
    Cmpxchg,
    /// `lock xadd`
    Xadd,
    /// A plain store.
    Store,
    /// A call of an out-of-line function.
    Call,
    /// A jump to it, as the last thing that a function does.
    TailCall,
}

/// Why a try to lock fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There is no VMA at the address.
    NoVma,
    /// Write-locked, before the count was touched, or the count was raised and the check repeated.
    WriteLocked,
    /// The count was 0.
    Detached,
    /// The count was at the limit, or a writer has set the flag: which, the count tells.
    LimitOrWriter,
    /// The VMA belongs to another mm now.
    Recycled,
    /// The VMA no longer covers the address.
    AddressMoved,
    /// The try failed, the instruction alone does not tell why.
    Unknown,
}

/// A general register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Register {
    /// rax
    Rax,
    /// rcx
    Rcx,
    /// rdx
    Rdx,
    /// rbx
    Rbx,
    /// rsp
    Rsp,
    /// rbp
    Rbp,
    /// rsi
    Rsi,
    /// rdi
    Rdi,
    /// r8
    R8,
    /// r9
    R9,
    /// r10
    R10,
    /// r11
    R11,
    /// r12
    R12,
    /// r13
    R13,
    /// r14
    R14,
    /// r15
    R15,
}

impl Register {
    /// By the number that instructions encode.
    pub const ALL: [Self; 16] = [
        Self::Rax,
        Self::Rcx,
        Self::Rdx,
        Self::Rbx,
        Self::Rsp,
        Self::Rbp,
        Self::Rsi,
        Self::Rdi,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
    ];

    /// Its name, as assemblers write it.
    pub const fn name(self) -> &'static str {
        [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
            "r14", "r15",
        ][self as usize]
    }
}

/// How to compute the VMA's address from the registers before an instruction runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Register plus displacement.
    Register {
        /// The register.
        register: Register,
        /// To be added.
        displacement: i64,
    },
    /// The eight bytes at register plus offset, plus displacement.
    Memory {
        /// The register.
        register: Register,
        /// To be added before reading.
        offset: i64,
        /// To be added afterwards.
        displacement: i64,
    },
}

/// Whether a kprobe can be put there. What the kernel says when asked counts for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kprobe {
    /// Nothing speaks against it.
    Yes,
    /// The function has no place for ftrace: refused unless the kernel has `KPROBE_EVENTS_ON_NOTRACE`.
    Notrace,
    /// The kernel keeps kprobes out of this function (`NOKPROBE`, noinstr, entry code).
    Blacklisted,
}

/// An instruction, and where the VMA is before it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spot {
    /// Its address.
    pub address: u64,
    /// Its distance from `_text`; none for modules.
    pub text_offset: Option<u64>,
    /// Symbol that it is in, parts that were moved away by their own name.
    pub symbol: String,
    /// Its distance from that symbol.
    pub offset: u64,
    /// How to compute the VMA there; none: not in reach.
    pub vma: Option<Place>,
    /// Whether control comes here by other ways too, for which it means something else.
    pub shared: bool,
    /// Whether a kprobe can be put there.
    pub kprobe: Kprobe,
}

/// A way in which a try to lock fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Where it goes then: the first instruction.
    pub spot: Spot,
    /// Why; several when ways with different reasons meet there.
    pub reasons: Vec<Reason>,
    /// The conditional branches that lead there.
    pub branches: Vec<u64>,
    /// Whether the count had been raised: this is a temporary reader.
    pub temporary: bool,
    /// Address of the put that takes it back.
    pub put: Option<u64>,
    /// Where it goes on right after, together with others: one probe there serves several ways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joins: Option<Spot>,
}

/// What a site was recognised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The operand is at the field's offset from a pointer.
    OperandAtField,
    /// That pointer's mm, or its sequence number, is read in the function too.
    PointerIsVma,
    /// Compares with the limit of readers.
    Limit,
    /// Adds one.
    AddsOne,
    /// Subtracts one.
    SubtractsOne,
    /// Adds the flag.
    AddsFlag,
    /// Subtracts the flag.
    SubtractsFlag,
    /// Compares with the flag.
    ComparesFlag,
    /// Reaches a call of `rcuwait_wake_up`.
    WakesWriter,
    /// And what it wakes is the writer of that VMA's mm.
    WakesThatMm,
    /// Reaches the slow path of detaching with that VMA.
    DetachSlowPath,
    /// The sequence numbers are compared again afterwards.
    ChecksAgain,
    /// Calls a function whose own text was recognised.
    CallsRecognised,
    /// The lock is what the VMA points to at the offset of `vm_lock`.
    LockOfVma,
    /// Warns unless the count was zero before.
    WarnsUnlessDetached,
    /// Sets the VMA's sequence number to that of its mm.
    StoresSequence,
}

/// How sure the match is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// All that belongs to the pattern was seen.
    Certain,
    /// The pattern was seen, but not everything that surrounds it elsewhere.
    Likely,
}

/// One place where a VMA's lock changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundSite {
    /// What it does.
    pub operation: Operation,
    /// By which instruction.
    pub form: Form,
    /// The function, without what names a part of it.
    pub function: String,
    /// The module that it is in.
    pub module: Option<String>,
    /// The instruction itself: a kprobe there runs before it.
    pub spot: Spot,
    /// Its length in bytes.
    pub length: u8,
    /// It, for people.
    pub instruction: String,
    /// The first instruction after it; of a get, the first one after it has succeeded.
    pub after: Option<Spot>,
    /// Of a try to lock: the first instruction after all checks have passed.
    pub confirmed: Option<Spot>,
    /// Of a try to lock: right after the call that found the VMA, whose result it is.
    pub candidate: Option<Spot>,
    /// Of a try to lock: the ways in which it fails.
    pub failures: Vec<Failure>,
    /// Of a put: the failed tries that it takes back.
    pub undoes: Vec<Reason>,
    /// Of a put: whether it does nothing else, and so never ends a hold.
    pub only_undoes: bool,
    /// The out-of-line function that is called.
    pub callee: Option<String>,
    /// Address of ftrace's place at the function's entry, if it has one.
    pub ftrace_entry: Option<u64>,
    /// How sure the match is.
    pub confidence: Confidence,
    /// What it was recognised by.
    pub evidence: Vec<Evidence>,
}

/// Something that looks like an operation on a VMA's lock, but fits no pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unrecognised {
    /// The function.
    pub function: String,
    /// The module that it is in.
    pub module: Option<String>,
    /// The instruction.
    pub address: u64,
    /// Its distance from the function's symbol.
    pub offset: u64,
    /// It, for people.
    pub instruction: String,
    /// What is odd about it.
    pub why: String,
}

/// Numbers on the search itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Bytes of text.
    pub text_bytes: u64,
    /// Text symbols.
    pub symbols: u64,
    /// Functions with a locked instruction of the right kind.
    pub functions_with_lock: u64,
    /// Functions that were disassembled.
    pub functions_decoded: u64,
    /// Instructions in them.
    pub instructions: u64,
    /// Sites by operation.
    pub by_operation: BTreeMap<String, u64>,
}

/// Everything that was found in one kernel's text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sites {
    /// Of the kernel, if it is known.
    pub build_id: Option<String>,
    /// Where `_text` was when this was found.
    pub text_base: u64,
    /// By address.
    pub sites: Vec<FoundSite>,
    /// By address.
    pub unrecognised: Vec<Unrecognised>,
    /// What the search met on its way, one line each.
    pub notes: Vec<String>,
    /// Numbers on the search.
    pub stats: Stats,
}

impl FoundSite {
    /// All spots of a site, itself included.
    pub fn spots_mut(&mut self) -> impl Iterator<Item = &mut Spot> {
        std::iter::once(&mut self.spot)
            .chain(&mut self.after)
            .chain(&mut self.confirmed)
            .chain(&mut self.candidate)
            .chain(
                self.failures
                    .iter_mut()
                    .flat_map(|failure| std::iter::once(&mut failure.spot).chain(&mut failure.joins)),
            )
    }
}

impl Sites {
    /// What belongs to the kernel itself.
    #[must_use]
    pub fn without_modules(&self) -> Self {
        let mut own = self.clone();
        own.sites.retain(|site| site.module.is_none());
        own.unrecognised.retain(|odd| odd.module.is_none());
        own.count();
        own
    }

    /// The same sites where `_text` is elsewhere. None if these symbols are not that kernel's.
    pub(super) fn moved_to(self, base: u64, symbols: &Symbols) -> Option<Self> {
        let by = base.wrapping_sub(self.text_base);
        let mut moved = self.moved_by(by);
        for spot in moved.sites.iter_mut().flat_map(FoundSite::spots_mut) {
            let symbol = &symbols.all()[symbols.containing(spot.address)?];
            if symbols.name(symbol) != spot.symbol || symbol.address + spot.offset != spot.address {
                return None;
            }
        }
        Some(moved)
    }

    /// The same sites where all is so many bytes further on.
    pub(super) fn moved_by(mut self, by: u64) -> Self {
        for site in &mut self.sites {
            site.ftrace_entry = site.ftrace_entry.map(|at| at.wrapping_add(by));
            for failure in &mut site.failures {
                failure.put = failure.put.map(|at| at.wrapping_add(by));
                for branch in &mut failure.branches {
                    *branch = branch.wrapping_add(by);
                }
            }
            for spot in site.spots_mut() {
                spot.address = spot.address.wrapping_add(by);
            }
        }
        for odd in &mut self.unrecognised {
            odd.address = odd.address.wrapping_add(by);
        }
        self.text_base = self.text_base.wrapping_add(by);
        self
    }

    /// Adds what was found elsewhere.
    pub(super) fn extend(&mut self, other: Self) {
        self.sites.extend(other.sites);
        self.sites.sort_by_key(|site| (site.spot.address, site.operation));
        self.unrecognised.extend(other.unrecognised);
        self.notes.extend(other.notes);
        self.count();
    }

    /// Counts the sites by operation.
    pub(super) fn count(&mut self) {
        self.stats.by_operation.clear();
        for site in &self.sites {
            *self
                .stats
                .by_operation
                .entry(site.operation.name().to_owned())
                .or_default() += 1;
        }
    }
}
