//! The lock as a count: puts, detaching, attaching, and what writers do.

use super::*;

impl Search<'_> {
    pub(super) fn refcounts(&mut self) {
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
    pub(super) fn vma_of_count(&self, i: usize, state: &State) -> Option<Value> {
        let offset = i64::from(self.kernel.offsets.vm_refcnt?);
        Some(self.flow.address(i, state)?.plus(-offset))
    }

    /// Whether something in the function reads a field of what a value points to.
    pub(super) fn reads(&self, vma: Value, field: u32, size: u8) -> bool {
        let Value::Sym(id, offset) = vma else { return false };
        self.flow
            .known(Origin::Load(id, offset + i64::from(field), size))
            .is_some()
    }

    /// What makes a value the address of a VMA; empty if nothing.
    pub(super) fn pointer_evidence(&self, vma: Value, state: &State) -> Vec<Evidence> {
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
    pub(super) fn cmpxchg_adds(&self, i: usize, state: &State) -> Option<i64> {
        let new = self.flow.operand(i, 1, state)?;
        let (Value::Sym(new_id, new), Value::Sym(old_id, old)) = (new, state.regs[RAX]) else {
            return None;
        };
        (new_id == old_id).then(|| i64::from((new - old) as i32))
    }

    pub(super) fn mentions(&self, i: usize, wanted: &[u32]) -> bool {
        let c = &self.flow.code[i];
        (0..c.op_count()).any(|n| {
            c.try_immediate(n)
                .is_ok_and(|value| wanted.contains(&(value as u32)))
        })
    }

    /// Whether a get compares with the limit of readers.
    pub(super) fn has_limit(&self, i: usize, state: &State) -> bool {
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
    pub(super) fn odd_layout(&self, i: usize, state: &State) -> Option<i64> {
        match self.flow.address(i, state)? {
            Value::Sym(_, offset) if offset != 0 => Some(offset),
            _ => None,
        }
    }

    /// Follows control from after an instruction.
    pub(super) fn ahead(&mut self, i: usize, vma: Value) -> Ahead {
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

    pub(super) fn tests_flag_bit(&self, at: usize) -> bool {
        let c = &self.flow.code[at];
        c.mnemonic() == Mnemonic::Bt && c.try_immediate(1).is_ok_and(|bit| bit == 30)
    }

    pub(super) fn put(
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
    pub(super) fn store(&mut self, i: usize) {
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
    pub(super) fn handles_vmas(&self) -> bool {
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
    pub(super) fn seq_store(&mut self, i: usize) {
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

    pub(super) fn is_mm_sequence(&self, value: Value) -> bool {
        let Value::Sym(id, 0) = value else { return false };
        matches!(self.flow.origin(id), Origin::Load(_, at, 4) if at == i64::from(self.kernel.offsets.mm_lock_seq))
    }

    /// Whether the count is tested before a store, with a warning when it is not zero.
    pub(super) fn warns_unless_zero(&mut self, i: usize, vma: Value) -> bool {
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
}
