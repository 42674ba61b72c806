//! The lock as a semaphore (6.4 to 6.14), and calls of functions that are one operation.

use super::*;

impl Search<'_> {
    pub(super) fn vma_of_lock(&self, lock: Value) -> Option<Value> {
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

    pub(super) fn semaphores(&mut self) {
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
            } else if known.down_read.contains(&target) {
                Operation::ReadLocked
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

    pub(super) fn name_callee(&mut self, target: u64) {
        let symbols = self.kernel.symbols;
        let name = symbols
            .containing(target)
            .map(|i| symbols.name(&symbols.all()[i]).to_owned());
        if let Some(site) = self.sites.last_mut() {
            site.callee = name;
        }
    }

    /// If this function is a helper on its argument that no probe can be put on: how to see its calls.
    pub(super) fn helper(&mut self) -> Option<Helper> {
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

    pub(super) fn call(&mut self, helper: &Helper, address: u64) {
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
}
