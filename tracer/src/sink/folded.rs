//! `tracer export -f folded`: time waited or held, by stack, in the format that flame graph tools read; and `-f
//! flamegraph`, the picture itself.
//!
//! A line is a command's name, the program's functions, the kernel's (`_[k]`), the lock, and the time in nanoseconds,
//! outermost first, apart by semicolons.

mod flame;

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;

use tracer_common::wire::COMM_LEN;

use crate::export::{Ending, Exporter, Interval, Measure, Output};
use crate::outside::{self, formats};
use crate::say::tell;
use crate::stacks::{Stack, Stacks};
use crate::state::{Lock, What};

/// What lines have in common: a command, two stacks, a lock.
type Key = ([u8; COMM_LEN], (u32, u32), Lock);

/// Sums up time by stack.
pub struct FoldedWriter {
    out: Output,
    measure: Measure,
    picture: bool,
    /// Command names of their own make it grow; above [`MOST`] they are summed up without.
    sums: HashMap<Key, u64, rustc_hash::FxBuildHasher>,
    unknown: u64,
}

const MOST: usize = 1 << 18;
/// The name of all commands together.
const ALL: [u8; COMM_LEN] = *b"[others]\0\0\0\0\0\0\0\0";

impl FoldedWriter {
    /// Starts to sum up; `picture`: it becomes a flame graph.
    pub fn new(out: Output, measure: Measure, picture: bool) -> Self {
        Self {
            out,
            measure,
            picture,
            sums: HashMap::default(),
            unknown: 0,
        }
    }
}

impl Exporter for FoldedWriter {
    fn wants_intervals(&self) -> bool {
        true
    }

    fn interval(&mut self, interval: &Interval, _stacks: &Stacks) -> anyhow::Result<()> {
        let is_hold = interval.span.what == What::Hold;
        if is_hold != (self.measure == Measure::Held) {
            return Ok(());
        }
        let Some(ns) = interval.ns() else {
            self.unknown += 1;
            return Ok(());
        };
        let mut key = (interval.comm, interval.stacks, interval.span.lock);
        if self.sums.len() >= MOST && !self.sums.contains_key(&key) {
            key.0 = ALL;
        }
        *self.sums.entry(key).or_default() += ns;
        Ok(())
    }

    fn finish(mut self: Box<Self>, end: &Ending<'_>) -> anyhow::Result<()> {
        // Two stacks with other addresses may have the same names.
        let mut lines: BTreeMap<String, u64> = BTreeMap::new();
        for (key, ns) in &self.sums {
            *lines.entry(line(key, end.stacks)).or_default() += ns;
        }
        if self.unknown > 0 {
            tell!(
                "{} of unknown length are not in it",
                crate::sink::text::count(self.unknown)
            );
        }
        if self.picture {
            let title = match self.measure {
                Measure::Waited => "Time waited for locks, by stack",
                Measure::Held => "Time that locks were held, by stack",
            };
            self.out.write_all(
                flame::draw(title, lines.iter().map(|(line, ns)| (line.as_str(), *ns))).as_bytes(),
            )?;
        } else {
            for (line, ns) in &lines {
                writeln!(self.out, "{line} {ns}")?;
            }
        }
        self.out.finish()
    }
}

fn line((comm, (kernel, user), lock): &Key, stacks: &Stacks) -> String {
    let mut line = String::new();
    frame(&mut line, &outside::words(comm), "");
    let (kernel, user) = (stacks.get(*kernel), stacks.get(*user));
    if kernel.is_none() && user.is_none() {
        frame(&mut line, "[no_stack]", "");
    }
    for (stack, end) in [(user, ""), (kernel, "_[k]")] {
        for label in stack.into_iter().flat_map(outermost_first) {
            frame(&mut line, label, end);
        }
    }
    frame(&mut line, lock.name(), "");
    line
}

fn outermost_first(stack: &Stack) -> impl Iterator<Item = &str> {
    stack.frames.iter().rev().map(|frame| frame.label())
}

/// Adds a frame. What would be taken for the end of a frame, of the stack or of the line is replaced.
fn frame(line: &mut String, label: &str, end: &str) {
    if !line.is_empty() {
        line.push(';');
    }
    if label.is_empty() {
        line.push('_');
    }
    line.push_str(&formats::frame(label));
    line.push_str(end);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::Frame;

    #[test]
    fn a_line_goes_from_the_command_to_the_lock() {
        let mut stacks = Stacks::default();
        let stack = |names: &[&str]| Stack {
            pid: 0,
            frames: names
                .iter()
                .map(|name| Frame {
                    name: (*name).into(),
                    ..Frame::default()
                })
                .collect(),
        };
        stacks.push(stack(&["down_read+0x1c", "do_mmap+0x20"]));
        stacks.push(stack(&["mmap", "main"]));
        let mut comm = [0; COMM_LEN];
        comm[..6].copy_from_slice(b"a;b \nc");
        assert_eq!(
            line(&(comm, (1, 2), Lock::MmapRead), &stacks),
            "a:b__c;main;mmap;do_mmap_[k];down_read_[k];mmap_read"
        );
        assert_eq!(
            line(&([0; COMM_LEN], (0, 0), Lock::VmaWrite), &stacks),
            "_;[no_stack];vma_write"
        );
    }
}
