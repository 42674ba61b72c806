//! What is told of a site.

use super::*;

impl Search<'_> {
    pub(super) fn kprobe(&self, address: u64) -> Kprobe {
        if self.kernel.blacklist.has(address) {
            Kprobe::Blacklisted
        } else if self.entry.is_none() {
            Kprobe::Notrace
        } else {
            Kprobe::Yes
        }
    }

    pub(super) fn place(&self, state: &State, vma: Value) -> Option<Place> {
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

    pub(super) fn spot(&mut self, i: usize, vma: Value, shared: bool) -> Spot {
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
    pub(super) fn block_spot(&mut self, block: usize, vma: Value, from: &[usize]) -> Spot {
        let shared = self.flow.blocks[block]
            .preds
            .iter()
            .any(|&(p, weak)| !weak && !from.contains(&p));
        self.spot(self.flow.blocks[block].first, vma, shared)
    }

    pub(super) fn text_of(&self, i: usize) -> String {
        let mut text = String::new();
        FastFormatter::new().format(&self.flow.code[i], &mut text);
        text
    }

    pub(super) fn site(
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

    pub(super) fn plain(
        &mut self,
        i: usize,
        operation: Operation,
        form: Form,
        vma: Value,
        evidence: Vec<Evidence>,
    ) {
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
    pub(super) fn odd(&mut self, i: usize, why: &str) {
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
