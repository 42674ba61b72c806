//! From a block to its events.

use core::fmt;

use tracer_common::wire::{ABI, COMM_LEN, DecodeError, Event, Header, Kind, MAX_EVENT, VmaBody, flag};

use super::{
    BYTES_KIND, COLUMNS, Cpu, EXPECTED, MmPast, NEW, Reader, Shape, ShapeKey, TaskPast, VmaPast, column, mask,
};

/// Why a block that came through its checksum is still none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// Its columns do not fit together.
    Columns(&'static str),
    /// A version 1 block holds no event where one should be.
    Wire(DecodeError),
    /// A version 1 block has another number of events than its frame says.
    Count,
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Columns(what) => write!(f, "a block that cannot be: {what}"),
            Self::Wire(error) => write!(f, "a block holds no event where one should be: {error}"),
            Self::Count => write!(f, "a block has another number of events than it says"),
        }
    }
}

impl core::error::Error for BlockError {}

/// One event of a recording.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// One that this program knows.
    Event(&'a Event),
    /// One of a kind that it does not know, as it is on the wire: a whole header and what follows it.
    Unknown(&'a [u8]),
}

/// A task as events name it, and what is remembered of it.
#[derive(Clone, Copy, Debug)]
struct Task {
    pid: u32,
    tid: u32,
    comm: [u8; COMM_LEN],
    past: TaskPast,
}

/// Reads blocks. Memory is kept from block to block, and is bounded by a block's length.
#[derive(Debug, Default)]
pub(in crate::recording) struct Decoder {
    cpus: Vec<Cpu>,
    shapes: Vec<Shape>,
    tasks: Vec<Task>,
    vmas: Vec<VmaPast>,
    mms: Vec<MmPast>,
}

/// What goes on from event to event.
struct Cursor<'a> {
    columns: [Reader<'a>; COLUMNS],
    cpu: u16,
    time: u64,
    address: u64,
}

impl Decoder {
    /// Hands over `count` events of a block.
    ///
    /// # Errors
    /// If the bytes are no block of `count` events; what came before the damage has been handed over then.
    pub(in crate::recording) fn read(
        &mut self,
        block: &[u8],
        count: u32,
        sink: &mut impl FnMut(Item<'_>),
    ) -> Result<(), BlockError> {
        self.clear();
        let mut cursor = Cursor {
            columns: split(block)?,
            cpu: 0,
            time: 0,
            address: 0,
        };
        let mut event = Event::synthetic(Kind::Gap, 0);
        for _ in 0..count {
            let (cpu, shape) = self.begin(&mut cursor)?;
            if self.shapes[shape].key.kind == BYTES_KIND {
                let column = &mut cursor.columns[column::BYTES];
                let len = column.number()?;
                let bytes = column.bytes(len)?;
                if bytes.len() < size_of::<Header>() {
                    return Err(BlockError::Columns("an event shorter than its header"));
                }
                sink(Item::Unknown(bytes));
                continue;
            }
            self.event(&mut cursor, cpu, shape, &mut event)?;
            if self.shapes[shape].kind.is_some() {
                sink(Item::Event(&event));
            } else {
                let mut bytes = [0; MAX_EVENT];
                event.encode(&mut bytes);
                bytes[1] = event.header.kind;
                sink(Item::Unknown(&bytes));
            }
        }
        if cursor.columns.iter().any(|column| !column.0.is_empty()) {
            return Err(BlockError::Columns("more in its columns than its events need"));
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.cpus.clear();
        self.shapes.clear();
        self.tasks.clear();
        self.vmas.clear();
        self.vmas.push(VmaPast::default());
        self.mms.clear();
        self.mms.push(MmPast::default());
    }

    /// Finds the CPU and the shape of the next event.
    #[inline]
    fn begin(&mut self, cursor: &mut Cursor<'_>) -> Result<(usize, usize), BlockError> {
        let difference = cursor.columns[column::CPU].difference()?;
        cursor.cpu = u16::try_from(u64::from(cursor.cpu).wrapping_add(difference))
            .map_err(|_| BlockError::Columns("a CPU above 65535"))?;
        let cpu = usize::from(cursor.cpu);
        if cpu >= self.cpus.len() {
            self.cpus.resize(cpu + 1, Cpu::default());
        }
        let last = self.cpus[cpu].shape as usize;
        let number = match cursor.columns[column::SHAPE].number()? {
            EXPECTED => self.shapes.get(last).map_or(0, |shape| shape.next),
            NEW => {
                let table = &mut cursor.columns[column::SHAPES];
                let (kind, mask) = (table.byte()?, table.byte()?);
                let too_large = |_| BlockError::Columns("a shape that no event has");
                let key = ShapeKey {
                    kind,
                    mask,
                    flags: u16::try_from(table.number()?).map_err(too_large)?,
                    len: u16::try_from(table.number()?).map_err(too_large)?,
                    site: u32::try_from(table.number()?).map_err(too_large)?,
                };
                self.shapes.push(Shape::new(key));
                self.shapes.len() as u32 - 1
            }
            number => entry(number),
        };
        let shape = number as usize;
        if shape >= self.shapes.len() {
            return Err(BlockError::Columns("a shape that is not in its table"));
        }
        self.shapes[last].next = number;
        self.cpus[cpu].shape = number;
        Ok((cpu, shape))
    }

    /// Reads the rest of an event.
    #[inline]
    fn event(
        &mut self,
        cursor: &mut Cursor<'_>,
        cpu: usize,
        shape: usize,
        out: &mut Event,
    ) -> Result<(), BlockError> {
        let Cursor {
            columns,
            time,
            address,
            ..
        } = cursor;
        let shape = &mut self.shapes[shape];
        let cpu = &mut self.cpus[cpu];
        *time = time.wrapping_add(columns[column::TIME].difference()?);
        let seq = cpu.seq.wrapping_add(columns[column::SEQ].difference()? as u32);
        cpu.seq = seq.wrapping_add(1);

        match columns[column::TASK].number()? {
            EXPECTED => {}
            NEW => {
                cpu.task = self.tasks.len() as u32;
                self.tasks.push(new_task(&mut columns[column::TASKS])?);
            }
            number => cpu.task = entry(number),
        }
        let task = self
            .tasks
            .get_mut(cpu.task as usize)
            .ok_or(BlockError::Columns("a task that is not in its table"))?;

        let here = shape.key.mask;
        let mut body = VmaBody {
            mm: 0,
            vma: 0,
            vm_start: 0,
            vm_end: 0,
            vm_refcnt: 0,
            vm_lock_seq: 0,
            mm_lock_seq: 0,
            arg: 0,
        };
        let mut mm = 0;
        if here & mask::MM != 0 {
            match columns[column::MM].number()? {
                EXPECTED => {}
                NEW => {
                    *address = address.wrapping_add(columns[column::ADDRESSES].difference()?);
                    task.past.mm = self.mms.len() as u32;
                    self.mms.push(MmPast {
                        address: *address,
                        seq: 0,
                    });
                }
                number => task.past.mm = entry(number),
            }
            mm = task.past.mm as usize;
        }
        let mut vma = 0;
        if here & mask::VMA != 0 {
            match columns[column::VMA].number()? {
                EXPECTED => {}
                NEW => {
                    *address = address.wrapping_add(columns[column::ADDRESSES].difference()?);
                    task.past.vma = self.vmas.len() as u32;
                    self.vmas.push(VmaPast {
                        address: *address,
                        ..VmaPast::default()
                    });
                }
                number => task.past.vma = entry(number),
            }
            vma = task.past.vma as usize;
        }
        let vma = self
            .vmas
            .get_mut(vma)
            .ok_or(BlockError::Columns("a VMA that is not in its table"))?;
        if here & mask::VMA != 0 {
            body.vma = vma.address;
        }
        if here & (mask::START | mask::END) != 0 {
            let (start, end) = if shape.key.flags & flag::ADDR == 0 {
                (&mut vma.start, &mut vma.end)
            } else {
                let sought = &mut task.past.sought;
                (&mut sought.0, &mut sought.1)
            };
            let mut moved = 0;
            if here & mask::START != 0 {
                moved = columns[column::START].difference()?;
                *start = start.wrapping_add(moved);
                body.vm_start = *start;
            }
            if here & mask::END != 0 {
                let difference = columns[column::END].difference()?;
                *end = end.wrapping_add(moved).wrapping_add(difference);
                body.vm_end = *end;
            }
        }
        if here & mask::REFCNT != 0 {
            vma.refcnt = vma
                .refcnt
                .wrapping_add(columns[column::REFCNT].difference()? as u32);
            body.vm_refcnt = vma.refcnt;
        }
        if here & mask::VMA_SEQ != 0 {
            vma.seq = vma
                .seq
                .wrapping_add(columns[column::VMA_SEQ].difference()? as u32);
            body.vm_lock_seq = vma.seq;
        }
        if here & (mask::MM | mask::MM_SEQ) != 0 {
            let past = self
                .mms
                .get_mut(mm)
                .ok_or(BlockError::Columns("an address space that is not in its table"))?;
            if here & mask::MM != 0 {
                body.mm = past.address;
            }
            if here & mask::MM_SEQ != 0 {
                past.seq = past
                    .seq
                    .wrapping_add(columns[column::MM_SEQ].difference()? as u32);
                body.mm_lock_seq = past.seq;
            }
        }
        if here & mask::ARG != 0 {
            shape.arg = shape.arg.wrapping_add(columns[column::ARG].difference()? as u32);
            body.arg = shape.arg;
        }
        *out = Event {
            kind: shape.kind.unwrap_or(Kind::Gap),
            header: Header {
                abi: ABI,
                kind: shape.key.kind,
                len: shape.key.len,
                cpu: cursor.cpu,
                flags: shape.key.flags,
                ts_ns: *time,
                seq,
                pid: task.pid,
                tid: task.tid,
                site: shape.key.site,
                comm: task.comm,
            },
            body,
        };
        Ok(())
    }
}

/// An entry of a table; one that is not there fails when it is looked up.
#[inline]
fn entry(number: u64) -> u32 {
    u32::try_from(number - super::FIRST).unwrap_or(u32::MAX)
}

fn new_task(table: &mut Reader<'_>) -> Result<Task, BlockError> {
    let pid = u32::try_from(table.number()?)
        .map_err(|_| BlockError::Columns("a process ID of more than 32 bits"))?;
    let tid = pid.wrapping_add(table.difference()? as u32);
    let len = table.byte()?;
    let name = table.bytes(u64::from(len))?;
    let mut comm = [0; COMM_LEN];
    comm.get_mut(..name.len())
        .ok_or(BlockError::Columns("a command name of more than 16 bytes"))?
        .copy_from_slice(name);
    Ok(Task {
        pid,
        tid,
        comm,
        past: TaskPast::default(),
    })
}

fn split(block: &[u8]) -> Result<[Reader<'_>; COLUMNS], BlockError> {
    let mut rest = Reader(block);
    if usize::from(rest.byte()?) != COLUMNS {
        return Err(BlockError::Columns(
            "another number of columns: use a newer tracer",
        ));
    }
    let mut lens = [0; COLUMNS];
    for len in &mut lens {
        *len = rest.number()?;
    }
    let mut columns = [Reader::default(); COLUMNS];
    for (column, len) in columns.iter_mut().zip(lens) {
        *column = Reader(rest.bytes(len)?);
    }
    if rest.0.is_empty() {
        Ok(columns)
    } else {
        Err(BlockError::Columns("more bytes than its columns have"))
    }
}
