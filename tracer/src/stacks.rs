//! Call stacks beside the events: `sched_out` and `stack` events have their numbers.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use serde::{Deserialize, Serialize};

use crate::outside;

/// One place in a stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Frame {
    /// The return address, or the address of the code itself for the innermost one.
    pub address: u64,
    /// The function, as `name+0x1c`; empty: not known.
    pub name: String,
    /// The module or file that it is in; empty for the kernel itself, or if it is not known.
    pub module: String,
}

impl Frame {
    /// What the frame is called in exports: the function without the distance in it, else where it is, as far as that
    /// can be told without an address.
    pub fn label(&self) -> &str {
        if !self.name.is_empty() {
            let end = self.name.rfind("+0x").unwrap_or(self.name.len());
            return &self.name[..end];
        }
        if self.module.is_empty() {
            return "[unknown]";
        }
        self.module.rsplit('/').next().unwrap_or(&self.module)
    }
}

/// One stack, innermost frame first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stack {
    /// The process whose program it is of; 0: it is the kernel's.
    pub pid: u32,
    /// Its frames.
    pub frames: Vec<Frame>,
}

impl Stack {
    /// The labels of its frames, outermost first, apart by semicolons: as flame graphs have it.
    pub fn folded(&self) -> String {
        let mut text = String::new();
        for frame in self.frames.iter().rev() {
            if !text.is_empty() {
                text.push(';');
            }
            // A semicolon or a line end would be taken for the end of a frame or of the stack.
            let label = outside::rewrite(frame.label(), |safe, _| safe.push('_'));
            text.push_str(&label.replace(';', "_"));
        }
        text
    }
}

/// All stacks of a stream, numbered from 1 in the order in which they were first seen.
#[derive(Clone, Debug, Default)]
pub struct Stacks {
    all: Vec<Stack>,
    hasher: RandomState,
    /// By hash, so that looking one up makes no copy of it.
    numbers: HashMap<u64, Vec<Known>>,
}

#[derive(Clone, Debug)]
struct Known {
    pid: u32,
    addresses: Box<[u64]>,
    number: u32,
}

impl Stacks {
    /// The stack with that number.
    pub fn get(&self, number: u32) -> Option<&Stack> {
        self.all.get((number as usize).checked_sub(1)?)
    }

    /// How many there are; also the highest number.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The stacks with numbers above `number`, in order.
    pub fn since(&self, number: usize) -> &[Stack] {
        self.all.get(number..).unwrap_or_default()
    }

    /// Forgets all but the first ones, of a table that grew by [`Self::push`] only.
    pub fn truncate(&mut self, len: usize) {
        self.all.truncate(len);
    }

    /// Adds one that has its names already, as recordings have them; gives its number.
    pub fn push(&mut self, stack: Stack) -> u32 {
        self.all.push(stack);
        self.all.len() as u32
    }

    /// The number of the stack with these addresses (of that process; 0: the kernel), up to the first zero. `name`
    /// names a new one's frames. No addresses: 0.
    pub fn number(&mut self, pid: u32, addresses: &[u64], name: impl FnOnce(&[u64]) -> Vec<Frame>) -> u32 {
        let end = addresses
            .iter()
            .position(|&address| address == 0)
            .unwrap_or(addresses.len());
        let addresses = &addresses[..end];
        if addresses.is_empty() {
            return 0;
        }
        let hash = self.hasher.hash_one((pid, addresses));
        let alike = self.numbers.get(&hash).into_iter().flatten();
        for known in alike {
            if known.pid == pid && *known.addresses == *addresses {
                return known.number;
            }
        }
        let frames = name(addresses);
        let number = self.push(Stack { pid, frames });
        self.numbers.entry(hash).or_default().push(Known {
            pid,
            addresses: addresses.into(),
            number,
        });
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_stack_has_one_number() {
        let mut stacks = Stacks::default();
        let name = |addresses: &[u64]| {
            addresses
                .iter()
                .map(|&address| Frame {
                    address,
                    ..Frame::default()
                })
                .collect()
        };
        assert_eq!(stacks.number(0, &[0, 5], name), 0);
        assert_eq!(stacks.number(0, &[7, 5, 0, 9], name), 1);
        assert_eq!(stacks.number(3, &[7, 5], name), 2);
        assert_eq!(stacks.number(0, &[7, 5], name), 1);
        assert_eq!(stacks.get(1).unwrap().frames.len(), 2);
        assert_eq!(stacks.since(1).len(), 1);
        assert_eq!((stacks.get(0), stacks.get(3)), (None, None));
    }
}
