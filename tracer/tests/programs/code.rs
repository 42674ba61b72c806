//! Reads built programs as the kernel gets them: which functions each consists of, what they call, whether they can go
//! round in circles, and how much stack they take.

use std::collections::{BTreeMap, BTreeSet};

use aya_obj::Object;
use aya_obj::generated::bpf_insn;

// Classes, and single instructions, of include/uapi/linux/bpf.h.
const CLASS: u8 = 0x07;
const LOADS: u8 = 0x01;
const STORES: u8 = 0x02;
const STORES_REGISTER: u8 = 0x03;
const JUMPS: u8 = 0x05;
const JUMPS_32: u8 = 0x06;
const OPERATION: u8 = 0xf0;
const ALWAYS: u8 = 0x00;
const CALLS: u8 = 0x80;
const EXITS: u8 = 0x90;
const CALL: u8 = JUMPS | CALLS;
/// Takes two places.
const LOAD_64: u8 = 0x18;
const COPY: u8 = 0xbf;
const ADD_NUMBER: u8 = 0x07;

/// What a call calls, by the register that is its source.
const A_HELPER: u8 = 0;
const A_FUNCTION: u8 = 1;

/// Points at the end of the stack.
const FRAME: u8 = 10;

/// One function of a program.
pub(crate) struct Function<'a> {
    code: &'a [bpf_insn],
    /// Where it begins, in instructions from the start of the program.
    begin: usize,
}

/// One program, its own function first, then all that it calls, each once.
pub(crate) struct Program<'a> {
    pub(crate) functions: Vec<Function<'a>>,
}

/// Where each call of a function of the program itself leads.
fn targets(code: &[bpf_insn], begin: usize) -> impl Iterator<Item = usize> {
    let calls = code.iter().enumerate();
    let calls = calls.filter(|(_, one)| one.code == CALL && one.src_reg() == A_FUNCTION);
    calls.map(move |(at, one)| (begin + at + 1).wrapping_add_signed(one.imm as isize))
}

/// All programs by name, linked as the loader links them.
pub(crate) fn programs(object: &Object) -> BTreeMap<&str, Program<'_>> {
    object
        .programs
        .iter()
        .map(|(name, program)| {
            let code = &object.functions[&program.function_key()].instructions;
            let begins: BTreeSet<usize> = targets(code, 0).chain([0]).collect();
            let ends = begins.iter().skip(1).copied().chain([code.len()]);
            let functions = begins.iter().zip(ends).map(|(&begin, end)| Function {
                code: &code[begin..end],
                begin,
            });
            let functions = functions.collect();
            (name.as_str(), Program { functions })
        })
        .collect()
}

impl Program<'_> {
    /// Numbers of the helpers that it calls.
    pub(crate) fn helpers(&self) -> BTreeSet<i32> {
        let code = self.functions.iter().flat_map(|function| function.code);
        code.filter(|one| one.code == CALL && one.src_reg() == A_HELPER)
            .map(|one| one.imm)
            .collect()
    }

    /// Calls of what is neither a helper nor a function of its own: kernel functions are called so.
    pub(crate) fn other_calls(&self) -> usize {
        let code = self.functions.iter().flat_map(|function| function.code);
        code.filter(|one| one.code == CALL && ![A_HELPER, A_FUNCTION].contains(&one.src_reg()))
            .count()
    }

    /// Bytes of stack along the deepest chain of calls, each function's rounded up as the verifier does.
    ///
    /// `None`: a function calls itself, by whatever way.
    pub(crate) fn stack(&self) -> Option<usize> {
        self.chain(0, &mut Vec::new())
    }

    fn chain(&self, begin: usize, callers: &mut Vec<usize>) -> Option<usize> {
        if callers.contains(&begin) {
            return None;
        }
        let function = self.functions.iter().find(|function| function.begin == begin)?;
        callers.push(begin);
        let mut below = 0;
        for target in targets(function.code, begin) {
            below = below.max(self.chain(target, callers)?);
        }
        callers.pop();
        Some(frame(function.code).max(1).next_multiple_of(32) + below)
    }
}

/// Bytes of stack that one function takes: how far below its frame's end it points.
fn frame(code: &[bpf_insn]) -> usize {
    // Registers that point into the stack, and where.
    let mut points: BTreeMap<u8, i32> = BTreeMap::from([(FRAME, 0)]);
    let mut lowest = 0;
    for one in code {
        let to = match one.code & CLASS {
            LOADS => points.get(&one.src_reg()),
            STORES | STORES_REGISTER => points.get(&one.dst_reg()),
            _ => None,
        };
        if let Some(to) = to {
            lowest = lowest.min(to + i32::from(one.off));
        }
        match one.code {
            COPY => {
                match points.get(&one.src_reg()).copied() {
                    Some(at) => points.insert(one.dst_reg(), at),
                    None => points.remove(&one.dst_reg()),
                };
            }
            ADD_NUMBER => {
                if let Some(at) = points.get_mut(&one.dst_reg()) {
                    *at += one.imm;
                    lowest = lowest.min(*at);
                }
            }
            CALL => points.retain(|&register, _| register > 5),
            // Stores and jumps change no register; all else makes a number of what was a pointer.
            code if ![STORES, STORES_REGISTER, JUMPS, JUMPS_32].contains(&(code & CLASS)) => {
                points.remove(&one.dst_reg());
            }
            _ => {}
        }
    }
    lowest.unsigned_abs() as usize
}

/// Whether a function can come by one of its instructions twice. A jump backwards alone does not say that: the compiler
/// lays branches out as it likes.
pub(crate) fn goes_in_circles(code: &[bpf_insn]) -> bool {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        No,
        OnTheWay,
        Done,
    }
    let mut seen = vec![Seen::No; code.len()];
    // Each with what comes next that has not been looked at yet.
    let mut way = vec![(0, next(code, 0))];
    seen[0] = Seen::OnTheWay;
    while let Some((at, rest)) = way.last_mut() {
        let at = *at;
        let Some(to) = rest.pop() else {
            seen[at] = Seen::Done;
            way.pop();
            continue;
        };
        match seen[to] {
            Seen::OnTheWay => return true,
            Seen::Done => {}
            Seen::No => {
                seen[to] = Seen::OnTheWay;
                way.push((to, next(code, to)));
            }
        }
    }
    false
}

/// Where a function may go on after one of its instructions.
fn next(code: &[bpf_insn], at: usize) -> Vec<usize> {
    let one = code[at];
    let jump = |distance: isize| (at + 1).wrapping_add_signed(distance);
    match (one.code & CLASS, one.code & OPERATION) {
        (JUMPS, EXITS) => Vec::new(),
        (JUMPS, ALWAYS) => vec![jump(isize::from(one.off))],
        (JUMPS_32, ALWAYS) => vec![jump(one.imm as isize)],
        (JUMPS, CALLS) => vec![at + 1],
        (JUMPS | JUMPS_32, _) => vec![at + 1, jump(isize::from(one.off))],
        _ if one.code == LOAD_64 => vec![at + 2],
        _ => vec![at + 1],
    }
}

mod tests {
    use super::*;

    fn code(program: &[(u8, u8, i16, i32)]) -> Vec<bpf_insn> {
        let one = |&(code, registers, off, imm): &(u8, u8, i16, i32)| {
            let mut bytes = [0; 8];
            bytes[0] = code;
            bytes[1] = registers;
            bytes[2..4].copy_from_slice(&off.to_ne_bytes());
            bytes[4..].copy_from_slice(&imm.to_ne_bytes());
            // SAFETY: eight bytes of integers, every value of which is one of theirs.
            unsafe { std::mem::transmute::<[u8; 8], bpf_insn>(bytes) }
        };
        program.iter().map(one).collect()
    }

    const EXIT: (u8, u8, i16, i32) = (JUMPS | EXITS, 0, 0, 0);
    const GOTO: u8 = JUMPS | ALWAYS;
    const IF: u8 = 0x15;

    #[test]
    fn a_jump_backwards_is_no_circle_by_itself() {
        // goto 2; 1: exit; 2: if r0 == 0 goto 1; exit
        assert!(!goes_in_circles(&code(&[
            (GOTO, 0, 1, 0),
            EXIT,
            (IF, 0, -2, 0),
            EXIT
        ])));
        // 0: if r0 == 0 goto 0; exit
        assert!(goes_in_circles(&code(&[(IF, 0, -1, 0), EXIT])));
        // The second place of a number is no instruction.
        assert!(!goes_in_circles(&code(&[
            (LOAD_64, 0, 0, 0),
            (IF, 0, -2, 0),
            EXIT
        ])));
    }

    #[test]
    fn the_stack_is_how_far_down_something_points() {
        // r1 = r10; r1 += -40; *(r1 + 4) = 0; exit
        let below = code(&[(COPY, 0xa1, 0, 0), (ADD_NUMBER, 1, 0, -40), (0x62, 1, 4, 0), EXIT]);
        assert_eq!(frame(&below), 40);
        // r1 = 7; r1 += -40; exit
        let number = code(&[(0xb7, 1, 0, 7), (ADD_NUMBER, 1, 0, -40), EXIT]);
        assert_eq!(frame(&number), 0);
        // *(r10 - 24) = r1; exit
        assert_eq!(frame(&code(&[(0x7b, 0x1a, -24, 0), EXIT])), 24);
    }

    #[test]
    fn a_chain_of_calls_takes_the_stack_of_all() {
        // main: *(r10 - 8) = r1; call 3; exit. 3: *(r10 - 40) = r1; exit
        let two = [
            (0x7b, 0x1a, -8, 0),
            (CALL, 0x10, 0, 1),
            EXIT,
            (0x7b, 0x1a, -40, 0),
            EXIT,
        ];
        let code = code(&two);
        let function = |begin: usize, end: usize| Function {
            code: &code[begin..end],
            begin,
        };
        let program = Program {
            functions: vec![function(0, 3), function(3, 5)],
        };
        assert_eq!(program.stack(), Some(32 + 64));
        assert_eq!(program.other_calls(), 0);
    }
}
