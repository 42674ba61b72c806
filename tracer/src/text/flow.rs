//! One function: its instructions, where control goes, and what each register stands for.
//!
//! The values are symbolic and deliberately few: "what register R held on entry, plus 8", "what the
//! instruction at I left in R", "what lies 16 bytes into that". Two registers with the same value
//! hold the same number, which is all that is needed to tell that `0(%rbp)` after
//! `lea 0x80(%rbx),%rbp` is the same field as `0x80(%rbx)`, or that what `rcuwait_wake_up` is given
//! belongs to the mm of the VMA whose count was lowered. Where paths with different values meet, the
//! value becomes a new one of that place; nothing is ever guessed.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};
use rustc_hash::FxHashMap;

/// Functions longer than this are not decoded: the longest function of a real kernel has a tenth of it.
const MAX_INSTRUCTIONS: usize = 1 << 18;
/// How often a block may be looked at again before its registers are given up as unknown.
const MAX_VISITS: u32 = 24;
/// Registers of general use.
pub(super) const REGISTERS: usize = 16;
pub(super) const RAX: usize = 0;
pub(super) const RSP: usize = 4;
pub(super) const RDI: usize = 7;
/// What a call may change: rax, rcx, rdx, rsi, rdi, r8 to r11.
const CALLER_SAVED: [usize; 9] = [0, 1, 2, 6, 7, 8, 9, 10, 11];

/// A value: a constant, or a symbol plus a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Value {
    Const(u64),
    Sym(u32, i64),
}

impl Value {
    pub(super) fn plus(self, delta: i64) -> Self {
        match self {
            Self::Const(value) => Self::Const(value.wrapping_add_signed(delta)),
            Self::Sym(id, offset) => Self::Sym(id, offset.wrapping_add(delta)),
        }
    }
}

/// Where a symbol comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    /// A register on entry to the function.
    Entry(u8),
    /// What an instruction (by index) left in a register.
    Def(u32, u8),
    /// Paths with different values meet at a block.
    Join(u32, u8),
    /// The same for a stack slot.
    JoinSlot(u32, u32, i64),
    /// What lies in memory at a symbol plus an offset, in so many bytes.
    Load(u32, i64, u8),
}

/// A place on the stack: distance from the stack pointer as it was on entry, or after it was aligned.
pub(super) type Slot = (u32, i64);

/// What is known at one instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) regs: [Value; REGISTERS],
    /// Stack slots of eight bytes by their place, sorted.
    slots: Vec<(Slot, Value)>,
}

/// An edge between blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) to: usize,
    /// Leads on after a trap: a warning comes back, a bug does not. Such an edge proves nothing.
    pub(super) weak: bool,
}

/// Instructions `first..end`, entered only at the first and left only at the last.
#[derive(Clone, Debug, Default)]
pub(super) struct Block {
    pub(super) first: usize,
    pub(super) end: usize,
    /// At a conditional branch: where it goes when taken.
    pub(super) taken: Option<Edge>,
    /// Where control goes otherwise.
    pub(super) next: Option<Edge>,
    pub(super) preds: Vec<(usize, bool)>,
}

/// A function, decoded.
pub(super) struct Flow {
    /// A call here leaves all registers alone.
    entry: Option<u64>,
    pub(super) code: Vec<Instruction>,
    /// First byte of each instruction, for prefixes that the decoder passes over.
    first_byte: Vec<u8>,
    by_ip: FxHashMap<u64, u32>,
    pub(super) blocks: Vec<Block>,
    /// Block of each instruction.
    pub(super) block_of: Vec<u32>,
    inputs: Vec<Option<State>>,
    origins: Vec<Origin>,
    ids: FxHashMap<Origin, u32>,
    /// Branches into the middle of an instruction: text that is data, or that somebody patched.
    pub(super) torn: bool,
    /// Breakpoints where code should be: somebody's probes.
    pub(super) traps: Vec<u64>,
    /// Blocks that only computed or patched jumps reach.
    orphans: Vec<bool>,
}

/// A piece of a function: its body, or a part that the compiler moved away.
pub(super) struct Part<'a> {
    pub(super) address: u64,
    pub(super) bytes: &'a [u8],
}

fn index_of(register: Register) -> Option<usize> {
    let full = register.full_register();
    (Register::RAX..=Register::R15)
        .contains(&full)
        .then(|| full as usize - Register::RAX as usize)
}

/// Whether the bytes after a breakpoint are the rest of a locked instruction.
fn hides_a_lock(rest: &[u8]) -> bool {
    let rest = match rest {
        [0x40..=0x4f, rest @ ..] => rest,
        rest => rest,
    };
    matches!(rest, [0x0f, 0xb0 | 0xb1 | 0xc0 | 0xc1, ..])
}

impl Flow {
    /// Decodes a function. `entry` is where ftrace's call is, `no_return` tells of a call's target
    /// whether it never comes back.
    pub(super) fn new(parts: &[Part<'_>], entry: Option<u64>, no_return: &dyn Fn(u64) -> bool) -> Self {
        let mut flow = Self {
            entry,
            code: Vec::new(),
            first_byte: Vec::new(),
            by_ip: FxHashMap::default(),
            blocks: Vec::new(),
            block_of: Vec::new(),
            inputs: Vec::new(),
            origins: Vec::new(),
            ids: FxHashMap::default(),
            torn: false,
            traps: Vec::new(),
            orphans: Vec::new(),
        };
        let mut starts = Vec::new();
        for part in parts {
            starts.push(flow.code.len());
            flow.decode(part);
        }
        flow.split(&starts, no_return);
        flow.solve();
        flow
    }

    fn decode(&mut self, part: &Part<'_>) {
        let mut decoder = Decoder::with_ip(64, part.bytes, part.address, DecoderOptions::NONE);
        while decoder.can_decode() && self.code.len() < MAX_INSTRUCTIONS {
            let at = decoder.position();
            let instruction = decoder.decode();
            let byte = part.bytes[at];
            if byte == 0xcc && hides_a_lock(&part.bytes[at + 1..]) {
                // A probe sits on the lock prefix: read the instruction as it was.
                let mut whole = part.bytes[at..part.bytes.len().min(at + 15)].to_vec();
                whole[0] = 0xf0;
                let address = part.address + at as u64;
                let mut again = Decoder::with_ip(64, &whole, address, DecoderOptions::NONE);
                let original = again.decode();
                if !original.is_invalid() && decoder.set_position(at + original.len()).is_ok() {
                    decoder.set_ip(address + original.len() as u64);
                    self.code.push(original);
                    self.first_byte.push(0xf0);
                    self.traps.push(address);
                    continue;
                }
            }
            self.code.push(instruction);
            self.first_byte.push(byte);
        }
    }

    /// The instruction at an address.
    pub(super) fn at(&self, address: u64) -> Option<usize> {
        self.by_ip.get(&address).map(|&i| i as usize)
    }

    fn split(&mut self, starts: &[usize], no_return: &dyn Fn(u64) -> bool) {
        let by_ip: FxHashMap<u64, u32> = self
            .code
            .iter()
            .enumerate()
            .map(|(i, c)| (c.ip(), i as u32))
            .collect();
        let covers = |ip: u64| {
            (1..15).any(|back| {
                let found = ip.checked_sub(back).and_then(|start| by_ip.get(&start));
                found.is_some_and(|&i| self.code[i as usize].next_ip() > ip)
            })
        };
        let mut leader = vec![false; self.code.len() + 1];
        for &start in starts {
            leader[start] = true;
        }
        let mut torn = false;
        for (i, c) in self.code.iter().enumerate() {
            match c.flow_control() {
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                    leader[i + 1] = true;
                    match by_ip.get(&c.near_branch_target()) {
                        Some(&target) => leader[target as usize] = true,
                        None => torn |= covers(c.near_branch_target()),
                    }
                }
                FlowControl::Next => {
                    if c.is_invalid() {
                        leader[i + 1] = true;
                    }
                }
                FlowControl::Call => {
                    if no_return(c.near_branch_target()) {
                        leader[i + 1] = true;
                    }
                }
                FlowControl::IndirectCall => {}
                _ => leader[i + 1] = true,
            }
        }
        self.torn = torn;
        self.block_of = vec![0; self.code.len()];
        let mut first = 0;
        for i in 0..self.code.len() {
            self.block_of[i] = self.blocks.len() as u32;
            if leader[i + 1] || i + 1 == self.code.len() {
                self.blocks.push(Block {
                    first,
                    end: i + 1,
                    ..Block::default()
                });
                first = i + 1;
            }
        }
        for b in 0..self.blocks.len() {
            let last = self.blocks[b].end - 1;
            let c = self.code[last];
            let follows = self
                .blocks
                .get(b + 1)
                .filter(|_| !starts.contains(&(last + 1)))
                .map(|_| b + 1);
            let to = |ip: u64| by_ip.get(&ip).map(|&i| self.block_of[i as usize] as usize);
            let strong = |to| Edge { to, weak: false };
            let (taken, next) = match c.flow_control() {
                FlowControl::ConditionalBranch => {
                    (to(c.near_branch_target()).map(strong), follows.map(strong))
                }
                FlowControl::UnconditionalBranch => (None, to(c.near_branch_target()).map(strong)),
                FlowControl::Call if no_return(c.near_branch_target()) => (None, None),
                FlowControl::Exception if c.mnemonic() != Mnemonic::INVALID => {
                    (None, follows.map(|to| Edge { to, weak: true }))
                }
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall
                    if c.mnemonic() != Mnemonic::INVALID =>
                {
                    (None, follows.map(strong))
                }
                _ => (None, None),
            };
            self.blocks[b].taken = taken;
            self.blocks[b].next = next;
            for edge in [taken, next].into_iter().flatten() {
                self.blocks[edge.to].preds.push((b, edge.weak));
            }
        }
        self.by_ip = by_ip;
        // A breakpoint that control reaches is a probe; others are padding.
        for block in &self.blocks {
            let c = &self.code[block.first];
            if c.mnemonic() == Mnemonic::Int3 && block.preds.iter().any(|&(_, weak)| !weak) {
                self.traps.push(c.ip());
            }
        }
    }

    fn id(&mut self, origin: Origin) -> u32 {
        let next = self.origins.len() as u32;
        let id = *self.ids.entry(origin).or_insert(next);
        if id == next {
            self.origins.push(origin);
        }
        id
    }

    fn sym(&mut self, origin: Origin) -> Value {
        Value::Sym(self.id(origin), 0)
    }

    /// The symbol of an origin, if anything in this function has it.
    pub(super) fn known(&self, origin: Origin) -> Option<u32> {
        self.ids.get(&origin).copied()
    }

    pub(super) fn origin(&self, id: u32) -> Origin {
        self.origins[id as usize]
    }

    fn solve(&mut self) {
        if self.blocks.is_empty() {
            return;
        }
        let mut entry = [Value::Const(0); REGISTERS];
        for (r, value) in entry.iter_mut().enumerate() {
            *value = self.sym(Origin::Entry(r as u8));
        }
        let entry = State {
            regs: entry,
            slots: Vec::new(),
        };
        let n = self.blocks.len();
        self.inputs = vec![None; n];
        self.orphans = vec![false; n];
        let mut outputs: Vec<Option<State>> = vec![None; n];
        let mut visits = vec![0_u32; n];
        let mut queued = vec![false; n];
        let mut work = std::collections::BinaryHeap::new();
        // In the order of the text, which is close enough to that of the flow.
        work.push(std::cmp::Reverse(0));
        queued[0] = true;
        let mut info = InstructionInfoFactory::new();
        // Blocks that nothing leads to (exception tables, branches that are patched in) start with
        // nothing known. They come last, and take nothing away from what is known elsewhere.
        let mut orphan = 0;
        let mut late = false;
        loop {
            let Some(std::cmp::Reverse(b)) = work.pop() else {
                while orphan < n && self.inputs[orphan].is_some() {
                    orphan += 1;
                }
                if orphan == n {
                    break;
                }
                late = true;
                self.inputs[orphan] = Some(self.unknown(orphan));
                queued[orphan] = true;
                work.push(std::cmp::Reverse(orphan));
                visits[orphan] = 0;
                continue;
            };
            queued[b] = false;
            visits[b] += 1;
            let input = if b == 0 {
                // A loop back to the very start would need a join; compilers leave room before it.
                entry.clone()
            } else if visits[b] > MAX_VISITS {
                if visits[b] > MAX_VISITS + 1 {
                    continue;
                }
                self.unknown(b)
            } else {
                match self.merge(b, &outputs) {
                    Some(state) => state,
                    None => match &self.inputs[b] {
                        Some(state) => state.clone(),
                        None => continue,
                    },
                }
            };
            if outputs[b].is_some() && self.inputs[b].as_ref() == Some(&input) {
                continue;
            }
            let mut state = input.clone();
            self.orphans[b] |= late && outputs[b].is_none();
            self.inputs[b] = Some(input);
            for i in self.blocks[b].first..self.blocks[b].end {
                self.step(i, &mut state, &mut info);
            }
            let changed = outputs[b].as_ref() != Some(&state);
            outputs[b] = Some(state);
            if changed {
                for edge in [self.blocks[b].taken, self.blocks[b].next].into_iter().flatten() {
                    if !queued[edge.to] {
                        queued[edge.to] = true;
                        work.push(std::cmp::Reverse(edge.to));
                    }
                }
            }
        }
    }

    fn unknown(&mut self, block: usize) -> State {
        let mut regs = [Value::Const(0); REGISTERS];
        for (r, value) in regs.iter_mut().enumerate() {
            *value = self.sym(Origin::Join(block as u32, r as u8));
        }
        State {
            regs,
            slots: Vec::new(),
        }
    }

    /// What holds on entry to a block, from what is known at the end of those before it.
    fn merge(&mut self, b: usize, outputs: &[Option<State>]) -> Option<State> {
        let preds = &self.blocks[b].preds;
        let sound = |&(p, weak): &(usize, bool)| !weak && !self.orphans[p];
        let strong = preds.iter().any(|pred| sound(pred) && outputs[pred.0].is_some());
        let known: Vec<&State> = preds
            .iter()
            .filter(|pred| sound(pred) || !strong)
            .filter_map(|&(p, _)| outputs[p].as_ref())
            .collect();
        let (&first, rest) = known.split_first()?;
        let mut state = first.clone();
        if rest.is_empty() {
            return Some(state);
        }
        // Registers that differ between the paths by the same amount as another one still belong together.
        let mut leaders: Vec<(usize, Vec<Value>)> = Vec::new();
        for r in 0..REGISTERS {
            let values: Vec<Value> = known.iter().map(|state| state.regs[r]).collect();
            if values.iter().all(|&value| value == values[0]) {
                continue;
            }
            let delta = |of: &[Value]| -> Option<i64> {
                let mut found = None;
                for (a, b) in of.iter().zip(&values) {
                    let (Value::Sym(ia, oa), Value::Sym(ib, ob)) = (a, b) else {
                        return None;
                    };
                    let delta = ob.wrapping_sub(*oa);
                    if ia != ib || found.is_some_and(|found| found != delta) {
                        return None;
                    }
                    found = Some(delta);
                }
                found
            };
            let follows = leaders
                .iter()
                .find_map(|(leader, of)| Some((*leader, delta(of)?)));
            state.regs[r] = if let Some((leader, delta)) = follows {
                self.sym(Origin::Join(b as u32, leader as u8)).plus(delta)
            } else {
                leaders.push((r, values));
                self.sym(Origin::Join(b as u32, r as u8))
            };
        }
        let mut slots = Vec::new();
        for &(at, value) in &first.slots {
            if rest.iter().all(|state| state.slot(at).is_some()) {
                let same = rest.iter().all(|state| state.slot(at) == Some(value));
                slots.push((
                    at,
                    if same {
                        value
                    } else {
                        self.sym(Origin::JoinSlot(b as u32, at.0, at.1))
                    },
                ));
            }
        }
        state.slots = slots;
        Some(state)
    }

    /// Where a memory operand points, if it is a register plus a constant.
    pub(super) fn address(&self, i: usize, state: &State) -> Option<Value> {
        let c = &self.code[i];
        if c.memory_index() != Register::None
            || matches!(c.segment_prefix(), Register::FS | Register::GS)
            || c.is_ip_rel_memory_operand()
        {
            return None;
        }
        let base = index_of(c.memory_base())?;
        Some(state.regs[base].plus(c.memory_displacement64() as i64))
    }

    fn stack_slot(&self, address: Value) -> Option<Slot> {
        let Value::Sym(id, offset) = address else {
            return None;
        };
        let stack = match self.origins[id as usize] {
            Origin::Entry(r) => usize::from(r) == RSP,
            Origin::Def(i, r) => usize::from(r) == RSP && self.code[i as usize].mnemonic() == Mnemonic::And,
            _ => false,
        };
        stack.then_some((id, offset))
    }

    /// The value that an operand has, when it is a register, a constant, or memory.
    pub(super) fn operand(&self, i: usize, n: u32, state: &State) -> Option<Value> {
        let c = &self.code[i];
        match c.op_kind(n) {
            OpKind::Register => index_of(c.op_register(n)).map(|r| state.regs[r]),
            OpKind::Memory => {
                let Value::Sym(id, offset) = self.address(i, state)? else {
                    return None;
                };
                let size = c.memory_size().size() as u8;
                self.known(Origin::Load(id, offset, size))
                    .map(|id| Value::Sym(id, 0))
            }
            _ => c.try_immediate(n).ok().map(Value::Const),
        }
    }

    fn define(&mut self, i: usize, r: usize) -> Value {
        self.sym(Origin::Def(i as u32, r as u8))
    }

    /// What an instruction does to what is known.
    fn step(&mut self, i: usize, state: &mut State, info: &mut InstructionInfoFactory) {
        let c = self.code[i];
        let op0 = (c.op_count() > 0 && c.op0_kind() == OpKind::Register)
            .then(|| index_of(c.op0_register()))
            .flatten();
        let wide = op0.is_some() && c.op0_register().size() >= 4;
        let immediate = || c.try_immediate(1).ok();
        match c.mnemonic() {
            Mnemonic::Call if self.entry == Some(c.ip()) => return,
            Mnemonic::Call => {
                for r in CALLER_SAVED {
                    state.regs[r] = self.define(i, r);
                }
                return;
            }
            Mnemonic::Push => {
                let value = match c.op0_kind() {
                    OpKind::Register => index_of(c.op0_register()).map(|r| state.regs[r]),
                    _ => c.try_immediate(0).ok().map(Value::Const),
                };
                state.regs[RSP] = state.regs[RSP].plus(-8);
                if let Some(at) = self.stack_slot(state.regs[RSP]) {
                    state.set_slot(at, value);
                }
                return;
            }
            Mnemonic::Pop if wide => {
                let value = self.stack_slot(state.regs[RSP]).and_then(|at| state.slot(at));
                state.regs[RSP] = state.regs[RSP].plus(8);
                if let Some(r) = op0 {
                    state.regs[r] = match value {
                        Some(value) => value,
                        None => self.define(i, r),
                    };
                }
                return;
            }
            Mnemonic::Mov => {
                if c.op0_kind() == OpKind::Memory {
                    if let Some(at) = self.address(i, state).and_then(|at| self.stack_slot(at)) {
                        let value = if c.memory_size().size() == 8 {
                            self.operand(i, 1, state)
                        } else {
                            None
                        };
                        state.set_slot(at, value);
                    }
                    return;
                }
                if let (Some(r), true) = (op0, wide) {
                    let value = match c.op1_kind() {
                        OpKind::Register => index_of(c.op1_register()).map(|from| state.regs[from]),
                        OpKind::Memory => match self.address(i, state) {
                            Some(address) => match self.stack_slot(address) {
                                Some(at) => state.slot(at),
                                None => match address {
                                    // The stack's own content changes: it is known by its slots or not at all.
                                    Value::Sym(..) if c.memory_base() == Register::RSP => None,
                                    Value::Sym(id, offset) => {
                                        Some(self.sym(Origin::Load(id, offset, c.memory_size().size() as u8)))
                                    }
                                    Value::Const(_) => None,
                                },
                            },
                            None => None,
                        },
                        _ => immediate().map(|value| {
                            Value::Const(if c.op0_register().size() == 4 {
                                value & 0xffff_ffff
                            } else {
                                value
                            })
                        }),
                    };
                    state.regs[r] = match value {
                        Some(value) => value,
                        None => self.define(i, r),
                    };
                    return;
                }
            }
            Mnemonic::Lea => {
                if let (Some(r), true) = (op0, wide) {
                    let value = if c.is_ip_rel_memory_operand() {
                        Some(Value::Const(c.ip_rel_memory_address()))
                    } else {
                        self.address(i, state)
                    };
                    state.regs[r] = match value {
                        Some(value) => value,
                        None => self.define(i, r),
                    };
                    return;
                }
            }
            Mnemonic::Add | Mnemonic::Sub => {
                if let (Some(r), true, Some(value)) = (op0, wide, immediate()) {
                    let mut value = value as i64;
                    if c.op0_register().size() == 4 {
                        value = i64::from(value as i32);
                    }
                    state.regs[r] = state.regs[r].plus(if c.mnemonic() == Mnemonic::Sub {
                        value.wrapping_neg()
                    } else {
                        value
                    });
                    return;
                }
            }
            Mnemonic::Inc | Mnemonic::Dec => {
                if let (Some(r), true) = (op0, wide) {
                    state.regs[r] = state.regs[r].plus(if c.mnemonic() == Mnemonic::Inc { 1 } else { -1 });
                    return;
                }
            }
            Mnemonic::Xor
                if wide && c.op1_kind() == OpKind::Register && c.op0_register() == c.op1_register() =>
            {
                if let Some(r) = op0 {
                    state.regs[r] = Value::Const(0);
                    return;
                }
            }
            Mnemonic::Or if wide && immediate().is_some_and(|value| value as i32 == -1) => {
                if let Some(r) = op0 {
                    state.regs[r] = Value::Const(if c.op0_register().size() == 4 {
                        0xffff_ffff
                    } else {
                        u64::MAX
                    });
                    return;
                }
            }
            _ => {}
        }
        // A load from memory gets a name even where it only feeds a comparison.
        if (0..c.op_count()).any(|n| c.op_kind(n) == OpKind::Memory)
            && let Some(Value::Sym(id, offset)) = self.address(i, state)
        {
            self.id(Origin::Load(id, offset, c.memory_size().size() as u8));
        }
        let mut written = 0_u16;
        for used in info.info(&c).used_registers() {
            if matches!(
                used.access(),
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            ) && let Some(r) = index_of(used.register())
            {
                written |= 1 << r;
            }
        }
        for r in 0..REGISTERS {
            if written & 1 << r != 0 {
                state.regs[r] = self.define(i, r);
            }
        }
    }

    /// What is known before an instruction.
    pub(super) fn before(&mut self, i: usize) -> State {
        let block = self.block_of[i] as usize;
        let mut state = match &self.inputs[block] {
            Some(state) => state.clone(),
            None => self.unknown(block),
        };
        let mut info = InstructionInfoFactory::new();
        for at in self.blocks[block].first..i {
            self.step(at, &mut state, &mut info);
        }
        state
    }

    /// Whether the instruction is locked, also where a kernel that found one processor patched the prefix away.
    pub(super) fn locked(&self, i: usize) -> bool {
        let c = &self.code[i];
        c.has_lock_prefix()
            || (self.first_byte[i] == 0x3e && matches!(c.mnemonic(), Mnemonic::Xadd | Mnemonic::Cmpxchg))
    }

    /// A direct call or jump out of the function, and where to.
    pub(super) fn leaves_to(&self, i: usize) -> Option<u64> {
        let c = &self.code[i];
        let target = match c.flow_control() {
            FlowControl::Call | FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
                c.near_branch_target()
            }
            _ => return None,
        };
        let block = &self.blocks[self.block_of[i] as usize];
        let inside = c.flow_control() != FlowControl::Call
            && block.end == i + 1
            && if c.flow_control() == FlowControl::ConditionalBranch {
                block.taken
            } else {
                block.next
            }
            .is_some_and(|edge| self.code[self.blocks[edge.to].first].ip() == target);
        (!inside).then_some(target)
    }
}

impl State {
    pub(super) fn slot(&self, at: Slot) -> Option<Value> {
        self.slots
            .binary_search_by_key(&at, |slot| slot.0)
            .ok()
            .map(|found| self.slots[found].1)
    }

    fn set_slot(&mut self, at: Slot, value: Option<Value>) {
        match (self.slots.binary_search_by_key(&at, |slot| slot.0), value) {
            (Ok(found), Some(value)) => self.slots[found].1 = value,
            (Ok(found), None) => {
                self.slots.remove(found);
            }
            (Err(place), Some(value)) => self.slots.insert(place, (at, value)),
            (Err(_), None) => {}
        }
    }

    pub(super) fn slots(&self) -> &[(Slot, Value)] {
        &self.slots
    }
}
