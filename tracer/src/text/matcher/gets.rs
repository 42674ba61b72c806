//! Gets: where they succeed, and every way in which they fail.

use super::*;

impl Search<'_> {
    /// The comparison that a block's conditional branch goes by, and the branch's condition.
    pub(super) fn condition(&self, block: usize) -> Option<(usize, ConditionCode)> {
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
    pub(super) fn equal_edges(&self, block: usize, code: ConditionCode) -> Option<(usize, usize)> {
        let taken = self.flow.blocks[block].taken?.to;
        let next = self.flow.blocks[block].next?.to;
        match code {
            ConditionCode::e => Some((taken, next)),
            ConditionCode::ne => Some((next, taken)),
            _ => None,
        }
    }

    /// The block that control is in after a compare-and-swap, or a try, has succeeded.
    pub(super) fn success(&mut self, i: usize, value: Option<Value>) -> Option<(usize, usize)> {
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
    pub(super) fn straight_to_put(&mut self, block: usize, vma: Value) -> Option<usize> {
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

    pub(super) fn is_put_of(&mut self, at: usize, vma: Value) -> bool {
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
    pub(super) fn field(&self, value: Option<Value>, vma: Value, field: u32, size: u8) -> bool {
        let (Some(Value::Sym(id, 0)), Value::Sym(vma, offset)) = (value, vma) else {
            return false;
        };
        self.flow.origin(id) == Origin::Load(vma, offset + i64::from(field), size)
    }

    /// What the branch at a block's end checks after a get: why it fails, and on which edge; and the other edge.
    pub(super) fn check_after(&mut self, b: usize, vma: Value) -> Option<(Reason, usize, usize)> {
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
    pub(super) fn check_detached(
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
    pub(super) fn byte_of(&self, compare: usize, state: &State, vma: Value) -> Option<()> {
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
    pub(super) fn get(
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
    pub(super) fn defined(&self, i: usize, r: usize) -> Option<Value> {
        self.flow
            .known(Origin::Def(i as u32, r as u8))
            .map(|id| Value::Sym(id, 0))
    }

    /// Checks after a get, and the edge behind the last that a try needs.
    pub(super) fn checks_after(
        &mut self,
        success: usize,
        vma: Value,
        exits: &mut Vec<Exit>,
    ) -> Option<(usize, usize)> {
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
    pub(super) fn found_in(&self, vma: Value) -> Option<usize> {
        let Value::Sym(id, _) = vma else { return None };
        match self.flow.origin(id) {
            Origin::Def(at, _) => Some(self.flow.block_of[at as usize] as usize),
            _ => None,
        }
    }

    pub(super) fn calls_a_put(&self, block: usize) -> bool {
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
    pub(super) fn checks_before(&mut self, i: usize, vma: Value, success: usize, exits: &mut Vec<Exit>) {
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

    pub(super) fn check_before(&mut self, b: usize, i: usize, vma: Value, out: usize) -> Option<Reason> {
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

    pub(super) fn reads_count(&self, value: Value, vma: Value) -> bool {
        self.kernel
            .offsets
            .vm_refcnt
            .is_some_and(|count| self.field(Some(value), vma, count, 4))
    }

    /// Where the VMA came from, if a call returned it.
    pub(super) fn candidate(&mut self, vma: Value) -> Option<Spot> {
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

    pub(super) fn failures(&mut self, exits: &[Exit], vma: Value) -> Vec<Failure> {
        let mut targets: Vec<usize> = exits.iter().map(|exit| exit.to).collect();
        targets.sort_unstable();
        targets.dedup();
        let mut failures = Vec::new();
        for to in targets {
            let own: Vec<&Exit> = exits.iter().filter(|exit| exit.to == to).collect();
            let refused = own.iter().any(|exit| exit.reason != Reason::NoVma);
            if refused && self.is_patchable(self.flow.blocks[to].first) {
                // No kprobe may stand where the kernel switches a branch on and off: then at what leads there.
                failures.extend(own.iter().map(|exit| self.failure_at_branch(exit, vma)));
                continue;
            }
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
            let joins = self.joined(to).map(|next| self.block_spot(next, vma, &[to]));
            failures.push(Failure {
                joins,
                spot: self.block_spot(to, vma, &from),
                reasons,
                branches,
                temporary: own.iter().any(|exit| exit.temporary),
                put,
            });
        }
        failures
    }

    /// Whether an instruction looks like a branch that the kernel has switched off.
    fn is_patchable(&self, i: usize) -> bool {
        let code = &self.flow.code[i];
        code.mnemonic() == Mnemonic::Nop && matches!(code.len(), 2 | 5)
    }

    /// A failure as seen by the branch that goes there if the try fails, and on if it does not.
    fn failure_at_branch(&mut self, exit: &Exit, vma: Value) -> Failure {
        let branch = self.flow.blocks[exit.from].end - 1;
        Failure {
            joins: None,
            spot: self.spot(branch, vma, true),
            reasons: vec![exit.reason],
            branches: vec![self.flow.code[branch].ip()],
            temporary: exit.temporary,
            put: self
                .straight_to_put(exit.to, vma)
                .map(|at| self.flow.code[at].ip()),
        }
    }

    /// The block that this one leads to, if it does little before that and others lead there, too.
    fn joined(&self, block: usize) -> Option<usize> {
        const FEW: usize = 4;
        let known = &self.flow.blocks[block];
        let next = match (&known.taken, &known.next) {
            (Some(edge), None) | (None, Some(edge)) => edge.to,
            _ => return None,
        };
        let code = &self.flow.code[known.first..known.end];
        let short = code.len() <= FEW && code.iter().all(|c| c.mnemonic() != Mnemonic::Call);
        (short && self.flow.blocks[next].preds.len() > 1).then_some(next)
    }

    /// Tells puts that only take back failed tries from those that end a hold.
    pub(super) fn mark_undoing(&mut self, failing: &FxHashMap<(usize, usize), Reason>) {
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
}
