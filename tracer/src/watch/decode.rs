//! What an instruction did to the memory that it wrote, from its bytes and the registers after it.
//!
//! The watchpoint's exception comes right after the instruction, so the registers still tell what it found:
//! `xadd` leaves the old value in its register, `cmpxchg` in rax, and whether it wrote in the zero flag. Nothing
//! has to be read again that others may have changed meanwhile.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use tracer_common::wire::WatchEvent;

/// The longest instruction, in bytes.
const LONGEST: usize = 15;
const ZERO_FLAG: u64 = 1 << 6;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// It compared, found something else, and changed nothing; what it found.
    Refused {
        /// The value.
        found: u64,
    },
    /// It compared and swapped.
    Swapped {
        /// What was there.
        old: u64,
        /// What is there now.
        new: u64,
    },
    /// It added to what was there; how much, the register does not tell any more.
    Added {
        /// What was there.
        old: u64,
    },
    /// It stored a value.
    Stored {
        /// The value.
        new: u64,
    },
    /// It changed the value by a constant; what was there, the registers do not tell.
    Changed {
        /// The difference.
        by: i64,
    },
    /// It is none of these, or its bytes cannot be read.
    Unknown,
}

/// What the instruction before `event.ip` did to the four bytes at `event.address`.
pub(super) fn write_of(event: &WatchEvent) -> Write {
    // The prefix that locks the bus belongs to the longest reading of the bytes; a shorter one lacks it.
    (2..=LONGEST)
        .rev()
        .find_map(|length| candidate(event, length))
        .unwrap_or(Write::Unknown)
}

fn candidate(event: &WatchEvent, length: usize) -> Option<Write> {
    let bytes = &event.before[event.before.len() - length..];
    let start = event.ip.wrapping_sub(length as u64);
    let instruction = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE).decode();
    if instruction.is_invalid()
        || instruction.len() != length
        || instruction.op_count() == 0
        || instruction.op0_kind() != OpKind::Memory
        || instruction.memory_size().size() != 4
    {
        return None;
    }
    let register = |register: Register| event.registers.get(number(register)?).copied();
    let target = instruction.virtual_address(0, 0, |name, _, _| {
        // Segments have no base here, save gs, which no VMA is addressed by.
        if name.is_segment_register() {
            Some(0)
        } else {
            register(name)
        }
    })?;
    if target != event.address {
        return None;
    }
    let source = || operand(&instruction, &register);
    Some(match instruction.mnemonic() {
        Mnemonic::Cmpxchg => {
            let old = low(event.registers[0]);
            if event.rflags & ZERO_FLAG != 0 {
                Write::Swapped { old, new: source()? }
            } else {
                Write::Refused { found: old }
            }
        }
        Mnemonic::Xadd => Write::Added { old: source()? },
        Mnemonic::Mov => Write::Stored { new: source()? },
        Mnemonic::Inc => Write::Changed { by: 1 },
        Mnemonic::Dec => Write::Changed { by: -1 },
        Mnemonic::Add => Write::Changed {
            by: i64::from(source()? as u32 as i32),
        },
        Mnemonic::Sub => Write::Changed {
            by: -i64::from(source()? as u32 as i32),
        },
        _ => return None,
    })
}

const fn low(value: u64) -> u64 {
    value & 0xffff_ffff
}

/// The second operand's value.
fn operand(instruction: &Instruction, register: &impl Fn(Register) -> Option<u64>) -> Option<u64> {
    match instruction.op1_kind() {
        OpKind::Register => register(instruction.op1_register()).map(low),
        OpKind::Immediate8 | OpKind::Immediate32 | OpKind::Immediate8to32 => {
            Some(low(instruction.immediate(1)))
        }
        _ => None,
    }
}

/// A general register by the number that instructions encode.
fn number(register: Register) -> Option<usize> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number())
}

/// Where an instruction really stands that ran from a copy, which is how the kernel runs instructions on which a
/// kprobe sits: the copy ends with a jump back. `None` if there is none.
pub(super) fn origin(event: &WatchEvent) -> Option<u64> {
    let mut decoder = Decoder::with_ip(64, &event.after, event.ip, DecoderOptions::NONE);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return None;
        }
        if instruction.mnemonic() == Mnemonic::Jmp && instruction.op0_kind() == OpKind::NearBranch64 {
            let between = instruction.ip() - event.ip;
            return Some(instruction.near_branch_target().wrapping_sub(between));
        }
        // A copy is straight.
        if instruction.flow_control() != iced_x86::FlowControl::Next {
            return None;
        }
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use tracer_common::wire::{COMM_LEN, WATCH_AFTER, WATCH_BEFORE, WATCH_STACK};

    use super::*;

    pub(crate) const EMPTY: WatchEvent = WatchEvent {
        ts_ns: 0,
        number: 0,
        address: 0x1080,
        ip: 0xffff_ffff_8100_0100,
        rflags: 0,
        registers: [0; 16],
        mm: 0,
        vm_start: 0,
        vm_end: 0,
        vm_refcnt: 0,
        vm_lock_seq: 0,
        mm_lock_seq: 0,
        pid: 0,
        tid: 0,
        cpu: 0,
        flags: 0,
        stack_bytes: 0,
        comm: [0; COMM_LEN],
        before: [0; WATCH_BEFORE],
        after: [0; WATCH_AFTER],
        stack: [0; WATCH_STACK],
    };

    pub(crate) fn event(code: &[u8], registers: &[(usize, u64)], rflags: u64) -> WatchEvent {
        let mut event = WatchEvent { rflags, ..EMPTY };
        // What stands before is any other code.
        event.before = [0x90; WATCH_BEFORE];
        event.before[WATCH_BEFORE - code.len()..].copy_from_slice(code);
        for &(register, value) in registers {
            event.registers[register] = value;
        }
        event
    }

    // lock xadd [rbx+80h],eax
    const XADD: &[u8] = &[0xf0, 0x0f, 0xc1, 0x83, 0x80, 0, 0, 0];
    // lock cmpxchg [rbp],ecx
    const CMPXCHG: &[u8] = &[0xf0, 0x0f, 0xb1, 0x4d, 0];
    // mov dword ptr [r13+80h],1
    const STORE: &[u8] = &[0x41, 0xc7, 0x85, 0x80, 0, 0, 0, 1, 0, 0, 0];

    #[test]
    fn xadd_leaves_what_it_found_in_its_register() {
        let event = event(XADD, &[(3, 0x1000), (0, 0xdead_0000_0002)], 0);
        assert_eq!(write_of(&event), Write::Added { old: 2 });
    }

    #[test]
    fn one_processor_turns_the_lock_prefix_into_another() {
        let mut code = XADD.to_vec();
        code[0] = 0x3e;
        let event = event(&code, &[(3, 0x1000), (0, 7)], 0);
        assert_eq!(write_of(&event), Write::Added { old: 7 });
    }

    #[test]
    fn cmpxchg_says_by_the_zero_flag_whether_it_wrote() {
        let registers = [(5, 0x1080), (0, 1), (1, 2)];
        assert_eq!(
            write_of(&event(CMPXCHG, &registers, ZERO_FLAG)),
            Write::Swapped { old: 1, new: 2 }
        );
        assert_eq!(
            write_of(&event(CMPXCHG, &registers, 0)),
            Write::Refused { found: 1 }
        );
    }

    #[test]
    fn a_store_of_a_constant_is_read_off_the_instruction() {
        assert_eq!(
            write_of(&event(STORE, &[(13, 0x1000)], 0)),
            Write::Stored { new: 1 }
        );
    }

    #[test]
    fn an_instruction_that_writes_elsewhere_is_not_it() {
        assert_eq!(write_of(&event(XADD, &[(3, 0x2000), (0, 2)], 0)), Write::Unknown);
        assert_eq!(write_of(&EMPTY), Write::Unknown);
    }

    #[test]
    fn a_copy_is_traced_back_by_its_jump() {
        // test eax,eax; jmp +0x1000
        let mut event = EMPTY;
        event.after[..7].copy_from_slice(&[0x85, 0xc0, 0xe9, 0x00, 0x10, 0, 0]);
        assert_eq!(origin(&event), Some(event.ip + 7 + 0x1000 - 2));
        // int3: single-stepped, there is no way back.
        event.after[0] = 0xcc;
        assert_eq!(origin(&event), None);
    }
}
