//! A block of events as columns: what `docs/recording-format.md` calls a *columns* payload.
//!
//! Fields of one kind stand together, each as a small difference to what was to be expected from the events before
//! it: the same task as before on this CPU, the number after the last one, the range that this VMA had. Most
//! differences are zero, and zstd makes next to nothing of them. A block needs no other block, so that reading can start
//! at any of them.
//!
//! | column | for each event | holds |
//! |---|---|---|
//! | cpu | all | difference to the event before |
//! | shape | all | reference to the table of shapes; expected: what came after this CPU's last shape the last time |
//! | time | all but bytes | difference to the event before |
//! | seq | all but bytes | difference to the number after this CPU's last one |
//! | task | all but bytes | reference to the table of tasks; expected: this CPU's last one |
//! | mm | if not zero | reference to the table of address spaces; expected: this task's last one |
//! | vma | if not zero | reference to the table of VMAs; expected: this task's last one |
//! | start | if not zero | difference to the last one of the same VMA, or with flag `ADDR` of the same task |
//! | end | if not zero | likewise, less the difference of start |
//! | refcnt, `vma_seq` | if not zero | difference to the last one of the same VMA |
//! | `mm_seq` | if not zero | difference to the last one of the same address space |
//! | arg | if not zero | difference to the last one of the same shape |
//!
//! A reference is 0 for the expected entry, 1 for a new one, which stands in the table's own column, and *n* + 2 for
//! entry *n*. A difference is a zigzag LEB128 number.

mod decode;
mod encode;
mod varint;

use tracer_common::wire::{Kind, VmaBody};

pub(super) use decode::Decoder;
pub use decode::{BlockError, Item};
pub(super) use encode::Encoder;
pub(super) use varint::{Reader, put, unzigzag, zigzag};

/// Number of columns; stands in front of every block.
const COLUMNS: usize = 17;

/// Which column is where.
mod column {
    pub(super) const CPU: usize = 0;
    pub(super) const SHAPE: usize = 1;
    pub(super) const TIME: usize = 2;
    pub(super) const SEQ: usize = 3;
    pub(super) const TASK: usize = 4;
    pub(super) const MM: usize = 5;
    pub(super) const VMA: usize = 6;
    pub(super) const START: usize = 7;
    pub(super) const END: usize = 8;
    pub(super) const REFCNT: usize = 9;
    pub(super) const VMA_SEQ: usize = 10;
    pub(super) const MM_SEQ: usize = 11;
    pub(super) const ARG: usize = 12;
    /// Table of shapes.
    pub(super) const SHAPES: usize = 13;
    /// Table of tasks.
    pub(super) const TASKS: usize = 14;
    /// Tables of address spaces and VMAs, in one.
    pub(super) const ADDRESSES: usize = 15;
    /// Events of kinds that the writer did not know, as they were.
    pub(super) const BYTES: usize = 16;
}

/// Which fields of the body are not zero.
mod mask {
    pub(super) const MM: u8 = 1 << 0;
    pub(super) const VMA: u8 = 1 << 1;
    pub(super) const START: u8 = 1 << 2;
    pub(super) const END: u8 = 1 << 3;
    pub(super) const REFCNT: u8 = 1 << 4;
    pub(super) const VMA_SEQ: u8 = 1 << 5;
    pub(super) const MM_SEQ: u8 = 1 << 6;
    pub(super) const ARG: u8 = 1 << 7;
}

/// Kind of the shape of events that are kept as bytes. No event has it.
const BYTES_KIND: u8 = 0;

/// A reference to what was expected, and to a new entry.
const EXPECTED: u64 = 0;
const NEW: u64 = 1;
const FIRST: u64 = 2;

/// All that events of one sort have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ShapeKey {
    kind: u8,
    mask: u8,
    flags: u16,
    len: u16,
    site: u32,
}

/// What is remembered of a shape while a block is written or read.
#[derive(Clone, Copy, Debug)]
struct Shape {
    key: ShapeKey,
    /// `None` if this program does not know the kind.
    kind: Option<Kind>,
    /// The shape that came after it the last time, on the same CPU.
    next: u32,
    arg: u32,
}

impl Shape {
    const fn new(key: ShapeKey) -> Self {
        Self {
            key,
            kind: Kind::from_number(key.kind),
            next: 0,
            arg: 0,
        }
    }
}

/// What is remembered of a CPU.
#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    /// The number that is expected next.
    seq: u32,
    shape: u32,
    task: u32,
}

/// What is remembered of a task beside its names.
#[derive(Clone, Copy, Debug, Default)]
struct TaskPast {
    mm: u32,
    vma: u32,
    /// The addresses that it looked for last.
    sought: (u64, u64),
}

/// What is remembered of a VMA; the first entry is that of events without one.
#[derive(Clone, Copy, Debug, Default)]
struct VmaPast {
    address: u64,
    start: u64,
    end: u64,
    refcnt: u32,
    seq: u32,
}

/// What is remembered of an address space; the first entry is that of events without one.
#[derive(Clone, Copy, Debug, Default)]
struct MmPast {
    address: u64,
    seq: u32,
}

const fn mask_of(body: &VmaBody) -> u8 {
    let mut found = 0;
    if body.mm != 0 {
        found |= mask::MM;
    }
    if body.vma != 0 {
        found |= mask::VMA;
    }
    if body.vm_start != 0 {
        found |= mask::START;
    }
    if body.vm_end != 0 {
        found |= mask::END;
    }
    if body.vm_refcnt != 0 {
        found |= mask::REFCNT;
    }
    if body.vm_lock_seq != 0 {
        found |= mask::VMA_SEQ;
    }
    if body.mm_lock_seq != 0 {
        found |= mask::MM_SEQ;
    }
    if body.arg != 0 {
        found |= mask::ARG;
    }
    found
}
