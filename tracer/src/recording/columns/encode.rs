//! From events to a block.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;
use tracer_common::wire::{COMM_LEN, Event, flag};

use super::{
    BYTES_KIND, COLUMNS, Cpu, EXPECTED, FIRST, MmPast, NEW, Shape, ShapeKey, TaskPast, VmaPast, column, mask,
    mask_of, put, zigzag,
};

/// A task as events name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct TaskKey {
    pid: u32,
    tid: u32,
    comm: [u8; COMM_LEN],
}

/// Collects a block. Memory is kept from block to block: nothing is allocated for each event.
#[derive(Debug)]
pub(in crate::recording) struct Encoder {
    columns: [Vec<u8>; COLUMNS],
    count: u32,
    bytes: usize,
    cpu: u16,
    time: u64,
    /// The last new address.
    address: u64,
    cpus: Vec<Cpu>,
    shapes: Vec<Shape>,
    shape_numbers: FxHashMap<ShapeKey, u32>,
    tasks: Vec<(TaskKey, TaskPast)>,
    task_numbers: FxHashMap<TaskKey, u32>,
    vmas: Vec<VmaPast>,
    vma_numbers: FxHashMap<u64, u32>,
    mms: Vec<MmPast>,
    mm_numbers: FxHashMap<u64, u32>,
}

impl Encoder {
    pub(in crate::recording) fn new() -> Self {
        let mut encoder = Self {
            columns: Default::default(),
            count: 0,
            bytes: 0,
            cpu: 0,
            time: 0,
            address: 0,
            cpus: Vec::new(),
            shapes: Vec::new(),
            shape_numbers: FxHashMap::default(),
            tasks: Vec::new(),
            task_numbers: FxHashMap::default(),
            vmas: Vec::new(),
            vma_numbers: FxHashMap::default(),
            mms: Vec::new(),
            mm_numbers: FxHashMap::default(),
        };
        encoder.clear();
        encoder
    }

    /// Forgets the block, not the memory.
    pub(in crate::recording) fn clear(&mut self) {
        self.columns.iter_mut().for_each(Vec::clear);
        self.count = 0;
        self.bytes = 0;
        self.cpu = 0;
        self.time = 0;
        self.address = 0;
        self.cpus.clear();
        self.shapes.clear();
        self.shape_numbers.clear();
        self.tasks.clear();
        self.task_numbers.clear();
        self.vmas.clear();
        self.vmas.push(VmaPast::default());
        self.vma_numbers.clear();
        self.mms.clear();
        self.mms.push(MmPast::default());
        self.mm_numbers.clear();
    }

    /// Events in the block.
    pub(in crate::recording) fn count(&self) -> u32 {
        self.count
    }

    /// About how long the block is, in bytes: exact for events that are kept as bytes.
    pub(in crate::recording) fn len(&self) -> usize {
        self.bytes
    }

    /// Adds an event.
    #[inline]
    pub(in crate::recording) fn push(&mut self, event: &Event) {
        let (header, body) = (&event.header, &event.body);
        self.begin(header.cpu);
        let cpu_at = usize::from(header.cpu);
        let here = mask_of(body);
        let key = ShapeKey {
            kind: event.kind as u8,
            mask: here,
            flags: header.flags,
            len: header.len,
            site: header.site,
        };
        let shape = self.shape(cpu_at, key) as usize;

        put(
            &mut self.columns[column::TIME],
            zigzag(header.ts_ns.wrapping_sub(self.time)),
        );
        self.time = header.ts_ns;
        let expected = &mut self.cpus[cpu_at].seq;
        put(
            &mut self.columns[column::SEQ],
            zigzag32(header.seq.wrapping_sub(*expected)),
        );
        *expected = header.seq.wrapping_add(1);

        let key = TaskKey {
            pid: header.pid,
            tid: header.tid,
            comm: header.comm,
        };
        let task = self.task(cpu_at, key) as usize;
        let mm = if here & mask::MM == 0 {
            0
        } else {
            self.mm(task, body.mm) as usize
        };
        let vma = if here & mask::VMA == 0 {
            0
        } else {
            self.vma(task, body.vma) as usize
        };
        if here & (mask::START | mask::END) != 0 {
            let past = &mut self.vmas[vma];
            let (start, end) = if header.flags & flag::ADDR == 0 {
                (&mut past.start, &mut past.end)
            } else {
                let sought = &mut self.tasks[task].1.sought;
                (&mut sought.0, &mut sought.1)
            };
            let mut moved = 0;
            if here & mask::START != 0 {
                moved = body.vm_start.wrapping_sub(*start);
                put(&mut self.columns[column::START], zigzag(moved));
                *start = body.vm_start;
            }
            if here & mask::END != 0 {
                // A range that moves, or that is new, is expected to keep its length.
                let expected = end.wrapping_add(moved);
                let difference = body.vm_end.wrapping_sub(expected);
                put(&mut self.columns[column::END], zigzag(difference));
                *end = body.vm_end;
            }
        }
        let past = &mut self.vmas[vma];
        if here & mask::REFCNT != 0 {
            let difference = body.vm_refcnt.wrapping_sub(past.refcnt);
            put(&mut self.columns[column::REFCNT], zigzag32(difference));
            past.refcnt = body.vm_refcnt;
        }
        if here & mask::VMA_SEQ != 0 {
            let difference = body.vm_lock_seq.wrapping_sub(past.seq);
            put(&mut self.columns[column::VMA_SEQ], zigzag32(difference));
            past.seq = body.vm_lock_seq;
        }
        if here & mask::MM_SEQ != 0 {
            let past = &mut self.mms[mm].seq;
            let difference = body.mm_lock_seq.wrapping_sub(*past);
            put(&mut self.columns[column::MM_SEQ], zigzag32(difference));
            *past = body.mm_lock_seq;
        }
        if here & mask::ARG != 0 {
            let past = &mut self.shapes[shape].arg;
            put(
                &mut self.columns[column::ARG],
                zigzag32(body.arg.wrapping_sub(*past)),
            );
            *past = body.arg;
        }
    }

    /// Adds an event of a kind that this program does not know, as it came.
    pub(in crate::recording) fn push_bytes(&mut self, cpu: u16, bytes: &[u8]) {
        self.begin(cpu);
        self.bytes += bytes.len() + 10;
        let key = ShapeKey {
            kind: BYTES_KIND,
            mask: 0,
            flags: 0,
            len: 0,
            site: 0,
        };
        self.shape(usize::from(cpu), key);
        put(&mut self.columns[column::BYTES], bytes.len() as u64);
        self.columns[column::BYTES].extend_from_slice(bytes);
    }

    #[inline]
    fn begin(&mut self, cpu: u16) {
        self.count += 1;
        self.bytes += 16;
        let difference = i64::from(cpu) - i64::from(self.cpu);
        put(&mut self.columns[column::CPU], zigzag(difference as u64));
        self.cpu = cpu;
        if usize::from(cpu) >= self.cpus.len() {
            self.cpus.resize(usize::from(cpu) + 1, Cpu::default());
        }
    }

    #[inline]
    fn shape(&mut self, cpu: usize, key: ShapeKey) -> u32 {
        let last = self.cpus[cpu].shape as usize;
        // Before the first event there is no shape to come after.
        let expected = self.shapes.get(last).map_or(0, |shape| shape.next);
        let is_expected = self
            .shapes
            .get(expected as usize)
            .is_some_and(|shape| shape.key == key);
        let number = if is_expected {
            put(&mut self.columns[column::SHAPE], EXPECTED);
            expected
        } else if let Some(&number) = self.shape_numbers.get(&key) {
            put(&mut self.columns[column::SHAPE], u64::from(number) + FIRST);
            number
        } else {
            put(&mut self.columns[column::SHAPE], NEW);
            let number = self.shapes.len() as u32;
            self.shape_numbers.insert(key, number);
            self.shapes.push(Shape::new(key));
            let table = &mut self.columns[column::SHAPES];
            table.extend([key.kind, key.mask]);
            put(table, u64::from(key.flags));
            put(table, u64::from(key.len));
            put(table, u64::from(key.site));
            number
        };
        self.shapes[last].next = number;
        self.cpus[cpu].shape = number;
        number
    }

    #[inline]
    fn task(&mut self, cpu: usize, key: TaskKey) -> u32 {
        let expected = self.cpus[cpu].task;
        if self
            .tasks
            .get(expected as usize)
            .is_some_and(|task| task.0 == key)
        {
            put(&mut self.columns[column::TASK], EXPECTED);
            return expected;
        }
        let number = if let Some(&number) = self.task_numbers.get(&key) {
            put(&mut self.columns[column::TASK], u64::from(number) + FIRST);
            number
        } else {
            put(&mut self.columns[column::TASK], NEW);
            let number = self.tasks.len() as u32;
            self.task_numbers.insert(key, number);
            self.tasks.push((key, TaskPast::default()));
            let table = &mut self.columns[column::TASKS];
            put(table, u64::from(key.pid));
            put(table, zigzag32(key.tid.wrapping_sub(key.pid)));
            let len = key
                .comm
                .iter()
                .rposition(|&byte| byte != 0)
                .map_or(0, |last| last + 1);
            table.push(len as u8);
            table.extend_from_slice(&key.comm[..len]);
            number
        };
        self.cpus[cpu].task = number;
        number
    }

    #[inline]
    fn mm(&mut self, task: usize, address: u64) -> u32 {
        let expected = &mut self.tasks[task].1.mm;
        if self.mms[*expected as usize].address == address {
            put(&mut self.columns[column::MM], EXPECTED);
            return *expected;
        }
        let numbers = &mut self.mm_numbers;
        let (number, is_new) = lookup(numbers, address, self.mms.len(), &mut self.columns[column::MM]);
        if is_new {
            let difference = address.wrapping_sub(self.address);
            put(&mut self.columns[column::ADDRESSES], zigzag(difference));
            self.address = address;
            self.mms.push(MmPast { address, seq: 0 });
        }
        *expected = number;
        number
    }

    #[inline]
    fn vma(&mut self, task: usize, address: u64) -> u32 {
        let expected = &mut self.tasks[task].1.vma;
        if self.vmas[*expected as usize].address == address {
            put(&mut self.columns[column::VMA], EXPECTED);
            return *expected;
        }
        let numbers = &mut self.vma_numbers;
        let (number, is_new) = lookup(numbers, address, self.vmas.len(), &mut self.columns[column::VMA]);
        if is_new {
            let difference = address.wrapping_sub(self.address);
            put(&mut self.columns[column::ADDRESSES], zigzag(difference));
            self.address = address;
            self.vmas.push(VmaPast {
                address,
                ..VmaPast::default()
            });
        }
        *expected = number;
        number
    }

    /// Appends the block to `out`: the number of columns, their lengths, the columns.
    pub(in crate::recording) fn finish(&mut self, out: &mut Vec<u8>) {
        out.push(COLUMNS as u8);
        for column in &self.columns {
            put(out, column.len() as u64);
        }
        for column in &self.columns {
            out.extend_from_slice(column);
        }
    }
}

#[inline]
fn lookup(numbers: &mut FxHashMap<u64, u32>, key: u64, next: usize, column: &mut Vec<u8>) -> (u32, bool) {
    match numbers.entry(key) {
        Entry::Occupied(found) => {
            let number = *found.get();
            put(column, u64::from(number) + FIRST);
            (number, false)
        }
        Entry::Vacant(place) => {
            put(column, NEW);
            let number = next as u32;
            place.insert(number);
            (number, true)
        }
    }
}

/// A difference of 32-bit numbers, sign and all.
#[inline]
const fn zigzag32(difference: u32) -> u64 {
    zigzag((difference as i32) as i64 as u64)
}
