//! What a watch shows: lines for people, or JSON.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, StdoutLock, Write};

use anyhow::Context as _;
use serde_json::json;
use tracer_common::wire::{WatchEvent, flag};

use super::WatchArgs;
use super::chain::{Linked, Place};
use super::session::Losses;
use crate::outside;
use crate::sink::text as words;
use crate::text::Operation;

/// Version of the JSON lines; it changes when a field changes its meaning.
const SCHEMA: u32 = 1;

/// A watched field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// `vm_refcnt`
    Refcount,
    /// `vm_lock_seq`
    LockSeq,
}

impl Field {
    const fn name(self) -> &'static str {
        match self {
            Self::Refcount => "vm_refcnt",
            Self::LockSeq => "vm_lock_seq",
        }
    }
}

/// What is watched.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) start_ns: u64,
    pub(super) release: String,
    pub(super) pid: u32,
    pub(super) comm: String,
    pub(super) address: u64,
    pub(super) range: (u64, u64),
    pub(super) vma: String,
    pub(super) mm: String,
    pub(super) cpus: usize,
    /// Why `vm_lock_seq` is not watched.
    pub(super) no_second: Option<String>,
    /// Why the kernel's text could not be searched.
    pub(super) no_sites: Option<String>,
}

/// One change, beside its old and new value.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) event: WatchEvent,
    pub(super) field: Field,
    pub(super) operation: Option<Operation>,
    pub(super) inlined: Option<bool>,
    /// The function, parts that were moved away under its name.
    pub(super) function: String,
    /// The instruction: symbol and offset.
    pub(super) at: String,
    /// Whether the values are from the instruction itself, not read a little later.
    pub(super) certain: bool,
    /// The instruction ran from a copy, since a kprobe sits on it.
    pub(super) copied: bool,
    pub(super) stack: Vec<String>,
}

#[derive(Default)]
struct Tally {
    changes: u64,
    sum: i64,
}

/// Writes lines, and counts for the last one.
pub(super) struct Report {
    out: BufWriter<StdoutLock<'static>>,
    json: bool,
    stacks: bool,
    start_ns: u64,
    range: (u64, u64),
    changes: u64,
    by_field: BTreeMap<&'static str, Tally>,
    by_place: BTreeMap<(String, &'static str), Tally>,
    places: BTreeMap<Place, u64>,
    uncertain_values: u64,
    refused: BTreeMap<String, u64>,
    over: bool,
}

impl Report {
    pub(super) fn new(args: &WatchArgs, header: &Header) -> anyhow::Result<Self> {
        let mut report = Self {
            out: BufWriter::new(io::stdout().lock()),
            json: args.json,
            stacks: !args.no_stack,
            start_ns: header.start_ns,
            range: header.range,
            changes: 0,
            by_field: BTreeMap::new(),
            by_place: BTreeMap::new(),
            places: BTreeMap::new(),
            uncertain_values: 0,
            refused: BTreeMap::new(),
            over: false,
        };
        report.header(header)?;
        Ok(report)
    }

    fn header(&mut self, header: &Header) -> anyhow::Result<()> {
        let Header {
            release,
            pid,
            comm,
            address,
            range: (start, end),
            vma,
            mm,
            cpus,
            no_second,
            no_sites,
            start_ns,
        } = header;
        let mut fields = vec![Field::Refcount.name()];
        if no_second.is_none() {
            fields.push(Field::LockSeq.name());
        }
        if self.json {
            self.line(&json!({
                "type": "begin", "schema": SCHEMA, "ts_ns": start_ns, "release": release, "pid": pid, "comm": comm,
                "address": address, "vm_start": start, "vm_end": end, "vma": vma, "mm": mm, "cpus": cpus,
                "fields": fields, "no_vm_lock_seq": no_second, "no_sites": no_sites,
            }))?;
        } else {
            writeln!(
                self.out,
                "watching {} of the VMA {start:#x}-{end:#x} of {pid} ({comm}), Linux {release}, {cpus} CPUs",
                fields.join(" and ")
            )?;
            match no_second {
                None => writeln!(self.out, "a second slot was free, so vm_lock_seq is watched, too")?,
                Some(why) => writeln!(self.out, "vm_lock_seq is not watched: {why}")?,
            }
            if let Some(why) = no_sites {
                writeln!(
                    self.out,
                    "operations have no names, since the kernel's text is not known: {why}"
                )?;
            }
            writeln!(
                self.out,
                "{:>16} {:>3} {:>7} {:<15} {:<11} {:>10}    {:<10} {:<12} PLACE",
                "TIME", "CPU", "TID", "COMM", "FIELD", "OLD", "NEW", "OPERATION"
            )?;
        }
        self.flush()
    }

    /// A compare-and-swap that found another value than it expected: no change.
    pub(super) fn refused(&mut self, function: &str) {
        *self.refused.entry(function.to_owned()).or_default() += 1;
    }

    /// Changes shown so far.
    pub(super) const fn changes(&self) -> u64 {
        self.changes
    }

    /// No more changes are to be shown.
    pub(super) const fn over(&mut self) {
        self.over = true;
    }

    /// Whether that is so.
    pub(super) const fn is_over(&self) -> bool {
        self.over
    }

    /// Shows one.
    pub(super) fn change(&mut self, linked: &Linked<Change>) -> anyhow::Result<()> {
        let Linked { link, place, with } = linked;
        self.changes += 1;
        let delta = link.old.map(|old| difference(old, link.new));
        let operation = with.operation.map_or("unknown", Operation::name);
        for tally in [
            self.by_field.entry(with.field.name()).or_default(),
            self.by_place
                .entry((with.function.clone(), operation))
                .or_default(),
        ] {
            tally.changes += 1;
            if with.field == Field::Refcount {
                tally.sum += delta.unwrap_or(0);
            }
        }
        *self.places.entry(*place).or_default() += 1;
        self.uncertain_values += u64::from(!with.certain);
        let event = &with.event;
        let range = (event.vm_start, event.vm_end);
        if event.flags & u32::from(flag::RANGE) != 0 && range != self.range && link.new != 0 {
            self.range = range;
            let (start, end) = range;
            let what = format!("the VMA is {start:#x}-{end:#x} now");
            if self.json {
                self.line(&json!({"type": "note", "ts_ns": event.ts_ns, "note": what}))?;
            } else {
                writeln!(self.out, "note: {what}")?;
            }
        }
        if self.json {
            self.change_json(linked, delta, operation)
        } else {
            self.change_text(linked, operation)
        }
    }

    fn change_json(
        &mut self,
        linked: &Linked<Change>,
        delta: Option<i64>,
        operation: &str,
    ) -> anyhow::Result<()> {
        let Linked { link, place, with } = linked;
        let event = &with.event;
        let known = |bit: u16, value: u32| (event.flags & u32::from(bit) != 0).then_some(value);
        let mut line = json!({
            "type": "change", "ts_ns": event.ts_ns, "cpu": event.cpu, "pid": event.pid, "tid": event.tid,
            "comm": outside::name(&event.comm), "field": with.field.name(), "old": link.old, "new": link.new,
            "delta": delta, "order": place.name(), "values": if with.certain { "exact" } else { "read" },
            "operation": operation, "function": with.function, "place": with.at, "inlined": with.inlined,
            "kprobe": with.copied,
            "vm_refcnt": known(flag::REFCNT, event.vm_refcnt),
            "vm_lock_seq": known(flag::VMA_SEQ, event.vm_lock_seq),
            "mm_lock_seq": known(flag::MM_SEQ, event.mm_lock_seq),
        });
        if self.stacks {
            line["stack"] = json!(with.stack);
        }
        self.line(&line)
    }

    fn change_text(&mut self, linked: &Linked<Change>, operation: &str) -> anyhow::Result<()> {
        let Linked { link, place, with } = linked;
        let event = &with.event;
        let time = event.ts_ns.saturating_sub(self.start_ns) as f64 / 1e9;
        let mut about = Vec::new();
        match with.inlined {
            Some(true) => about.push("inlined"),
            Some(false) => about.push("not inlined"),
            None => {}
        }
        if with.copied {
            about.push("through a kprobe");
        }
        if !with.certain {
            about.push("value read later");
        }
        match place {
            Place::Exact => {}
            Place::Uncertain => about.push("order uncertain"),
            Place::Broken => about.push("something before it was not seen"),
        }
        writeln!(
            self.out,
            "{time:>14.6} s {:>3} {:>7} {:<15} {:<11} {:>10} -> {:<10} {operation:<12} {} ({})",
            event.cpu,
            event.tid,
            outside::name(&event.comm),
            with.field.name(),
            link.old.map_or_else(|| "?".to_owned(), value),
            value(link.new),
            with.at,
            about.join(", ")
        )?;
        if self.stacks {
            if with.stack.is_empty() {
                writeln!(self.out, "    no stack (error {})", event.stack_bytes)?;
            } else {
                writeln!(self.out, "    {}", with.stack.join(" < "))?;
            }
        }
        Ok(())
    }

    /// The last line, and the losses.
    pub(super) fn end(&mut self, why: &str, losses: &Losses) -> anyhow::Result<()> {
        let of = |place: Place| self.places.get(&place).copied().unwrap_or(0);
        let (exact, uncertain, broken) = (of(Place::Exact), of(Place::Uncertain), of(Place::Broken));
        let mut by_place: Vec<_> = self.by_place.iter().collect();
        by_place.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.changes));
        let refused: u64 = self.refused.values().sum();
        if self.json {
            let by_place: Vec<_> = by_place
                .iter()
                .map(|((function, operation), tally)| {
                    json!({"function": function, "operation": operation, "changes": tally.changes, "sum": tally.sum})
                })
                .collect();
            let by_field: BTreeMap<_, _> = self
                .by_field
                .iter()
                .map(|(field, tally)| (*field, tally.changes))
                .collect();
            let line = json!({
                "type": "end", "reason": why, "changes": self.changes, "by_field": by_field,
                "sum": self.by_field.get(Field::Refcount.name()).map_or(0, |tally| tally.sum),
                "by_function": by_place, "order": {"exact": exact, "uncertain": uncertain, "broken": broken},
                "values_read_later": self.uncertain_values, "tries_that_changed_nothing": refused,
                "lost": {"dropped": losses.dropped, "held_back": losses.held_back},
                "unwatched_cpus": losses.unwatched_cpus,
            });
            self.line(&line)?;
            return self.flush();
        }
        let out = &mut self.out;
        writeln!(out, "end: {why}")?;
        let fields: Vec<String> = self
            .by_field
            .iter()
            .map(|(field, tally)| format!("{} of {field}", words::count(tally.changes)))
            .collect();
        writeln!(
            out,
            "{} changes{}{}; {} tries changed nothing",
            words::count(self.changes),
            if fields.is_empty() { "" } else { ": " },
            fields.join(", "),
            words::count(refused)
        )?;
        for ((function, operation), tally) in by_place {
            writeln!(
                out,
                "  {:>8}  {operation:<12} {function}",
                words::count(tally.changes)
            )?;
        }
        writeln!(
            out,
            "order: {} exact, {} uncertain, {} after something unseen",
            words::count(exact),
            words::count(uncertain),
            words::count(broken)
        )?;
        writeln!(
            out,
            "lost: {} found the buffer full, {} were held back by the kernel (kernel.perf_event_max_sample_rate)",
            words::count(losses.dropped),
            words::count(losses.held_back)
        )?;
        if !losses.unwatched_cpus.is_empty() {
            writeln!(
                out,
                "not watched: CPUs {:?}, which came online meanwhile",
                losses.unwatched_cpus
            )?;
        }
        self.flush()
    }

    fn line(&mut self, value: &serde_json::Value) -> anyhow::Result<()> {
        outside::formats::json_line(&mut self.out, value).context("cannot write")?;
        Ok(self.out.write_all(b"\n")?)
    }

    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.out.flush()?)
    }
}

/// In the width of the fields.
const fn difference(old: u64, new: u64) -> i64 {
    (new as u32).wrapping_sub(old as u32) as i32 as i64
}

/// Large ones by the flag that they carry.
fn value(number: u64) -> String {
    const EXCLUDE_READERS: u64 = 0x4000_0000;
    match number {
        EXCLUDE_READERS => "F".to_owned(),
        0x4000_0001..0x8000_0000 => format!("F+{}", number - EXCLUDE_READERS),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_show_the_flag_of_a_writer() {
        assert_eq!(value(2), "2");
        assert_eq!(value(0x4000_0000), "F");
        assert_eq!(value(0x4000_0002), "F+2");
        assert_eq!(value(0xffff_ffff), "4294967295");
    }

    #[test]
    fn differences_are_those_of_32_bits() {
        assert_eq!(difference(1, 2), 1);
        assert_eq!(difference(0x4000_0001, 1), -0x4000_0000);
        assert_eq!(difference(0, 0xffff_ffff), -1);
    }
}
