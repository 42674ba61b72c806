//! `tracer export -f csv`: one line an event, the fields of `docs/schema/jsonl.md` as columns, in their order.
//!
//! Spreadsheets take a cell that begins with `=`, `+`, `-` or `@` for a formula, and run it. Names of commands are
//! whatever a user made them, so such a text gets an apostrophe before it, which spreadsheets take for "this is text".

use std::io::Write;

use anyhow::Context as _;
use csv::ByteRecord;
use tracer_common::wire::{Event, Kind, Provenance, sched};

use super::address::Addresses;
use crate::export::{Ending, Exporter, Output};
use crate::info::SourceInfo;
use crate::outside::{self, formats::cell};
use crate::stacks::{Stack, Stacks};
use crate::state::Meta;

/// The columns, in order.
pub const COLUMNS: [&str; 42] = [
    "ts_ns",
    "cpu",
    "seq",
    "pid",
    "tid",
    "comm",
    "kind",
    "mm",
    "vma",
    "vm_start",
    "vm_end",
    "address",
    "vm_refcnt",
    "vm_lock_seq",
    "mm_lock_seq",
    "provenance",
    "bound_ns",
    "derived",
    "held_since_ns",
    "held_since_provenance",
    "held_since_bound_ns",
    "write",
    "fault_flags",
    "result",
    "errno",
    "reason",
    "missing",
    "gap_from_ns",
    "gap_to_ns",
    "other_pid",
    "other_tid",
    "last",
    "state",
    "iowait",
    "reclaim",
    "preempted",
    "of",
    "length_ns",
    "waited_ns",
    "stack",
    "user_stack",
    "site",
];

/// Writes events as lines of a table.
pub struct CsvWriter<W: Write> {
    out: csv::Writer<W>,
    record: ByteRecord,
    addresses: Addresses,
    sites: Vec<Vec<u8>>,
    /// Text that is being put together.
    text: Vec<u8>,
}

impl<W: Write> CsvWriter<W> {
    /// Starts to write events of the stream that `info` tells about, with the names of the columns as the first line.
    ///
    /// # Errors
    /// If that line cannot be written.
    pub fn new(out: W, info: &SourceInfo, addresses: Addresses) -> anyhow::Result<Self> {
        let mut out = csv::WriterBuilder::new()
            .buffer_capacity(64 << 10)
            .from_writer(out);
        out.write_record(COLUMNS)?;
        let sites = info
            .sites
            .iter()
            .map(|site| cell(&site.function).into_owned().into_bytes());
        Ok(Self {
            out,
            record: ByteRecord::with_capacity(1024, COLUMNS.len()),
            addresses,
            sites: sites.collect(),
            text: Vec::new(),
        })
    }

    /// Writes one event.
    ///
    /// # Errors
    /// Those of the output.
    pub fn write(&mut self, event: &Event, meta: &Meta, stacks: &Stacks) -> anyhow::Result<()> {
        let header = &event.header;
        self.record.clear();
        self.number(header.ts_ns);
        self.number(header.cpu);
        self.number(header.seq);
        self.number(header.pid);
        self.number(header.tid);
        self.words(&outside::words(event.comm()));
        self.name(event.kind.name());
        self.address(event.mm());
        self.address(event.vma());
        let range = event.range();
        self.optional(range.map(|(start, _)| start));
        self.optional(range.map(|(_, end)| end));
        self.optional(event.address());
        self.optional(event.vm_refcnt());
        self.optional(event.vm_lock_seq());
        self.optional(event.mm_lock_seq());
        self.name(meta.provenance.name());
        self.optional(meta.bound_ns);
        self.flag(Some(meta.derived));
        let known = meta.hold.filter(|start| start.provenance != Provenance::Unknown);
        self.optional(known.map(|start| start.since_ns));
        self.name(meta.hold.map_or("", |start| start.provenance.name()));
        self.optional(known.and_then(|start| start.bound_ns));
        self.by_kind(event);
        self.tasks(event, stacks);
        self.out.write_byte_record(&self.record)?;
        Ok(())
    }

    fn by_kind(&mut self, event: &Event) {
        let kind = event.kind;
        self.flag(event.writes());
        self.optional(event.flags_of_fault());
        self.optional(event.result_of_fault());
        let has_errno = matches!(
            kind,
            Kind::VmaReadFail | Kind::VmaWriteFail | Kind::VmaReadRefused
        );
        self.optional(has_errno.then_some(event.errno()));
        let has_reason = matches!(
            kind,
            Kind::VmaReadFail | Kind::VmaReadRefused | Kind::VmaReadTemporary
        );
        self.name(if has_reason { event.reason().name() } else { "" });
        let is_gap = kind == Kind::Gap;
        let end = is_gap && event.body.vm_end != 0;
        self.optional(is_gap.then_some(event.body.arg));
        self.optional(is_gap.then_some(event.body.vm_start));
        self.optional(end.then_some(event.body.vm_end));
    }

    fn tasks(&mut self, event: &Event, stacks: &Stacks) {
        let kind = event.kind;
        let other = event.other_task();
        self.optional(other.map(|(pid, _)| pid));
        let before = (kind == Kind::TaskExec).then_some(event.body.arg);
        self.optional(other.map(|(_, tid)| tid).or(before));
        self.flag((kind == Kind::TaskExit).then_some(event.body.arg == 1));
        let is_out = kind == Kind::SchedOut;
        self.optional(is_out.then_some(event.sched_state()));
        for bit in [sched::out::IOWAIT, sched::out::RECLAIM, sched::out::PREEMPTED] {
            self.flag(is_out.then_some(event.sched_out_is(bit)));
        }
        self.name(event.stack_of().map_or("", Kind::name));
        self.optional(event.length_ns());
        self.optional(event.waited_ns());
        let (kernel, user) = event.stacks();
        self.frames(stacks.get(kernel));
        self.frames(stacks.get(user));
        let is_gap = kind == Kind::Gap;
        match self.sites.get(event.header.site as usize) {
            Some(name) if !is_gap => self.record.push_field(name),
            _ => self.record.push_field(b""),
        }
    }

    fn number(&mut self, value: impl itoa::Integer) {
        self.record
            .push_field(itoa::Buffer::new().format(value).as_bytes());
    }

    fn optional(&mut self, value: Option<impl itoa::Integer>) {
        match value {
            Some(value) => self.number(value),
            None => self.record.push_field(b""),
        }
    }

    fn flag(&mut self, value: Option<bool>) {
        self.record.push_field(match value {
            Some(true) => b"true",
            Some(false) => b"false",
            None => b"",
        });
    }

    /// A name that this program gave.
    fn name(&mut self, name: &str) {
        self.record.push_field(name.as_bytes());
    }

    /// A text that somebody else gave.
    fn words(&mut self, words: &str) {
        self.record.push_field(cell(words).as_bytes());
    }

    fn address(&mut self, address: Option<u64>) {
        self.text.clear();
        if let Some(address) = address {
            // Sixteen digits, of which the first may be a figure: with the x it is text for every reader.
            let _ = write!(self.text, "0x{:016x}", self.addresses.show(address));
        }
        self.record.push_field(&self.text);
    }

    /// Outermost first, apart by semicolons.
    fn frames(&mut self, stack: Option<&Stack>) {
        self.words(&stack.map(Stack::folded).unwrap_or_default());
    }

    /// Writes what is left; gives the output back.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(self) -> anyhow::Result<W> {
        self.out
            .into_inner()
            .map_err(|error| anyhow::Error::from(error.into_error()))
            .context("writing the last lines")
    }
}

impl Exporter for CsvWriter<Output> {
    fn event(&mut self, event: &Event, meta: &Meta, stacks: &Stacks) -> anyhow::Result<()> {
        self.write(event, meta, stacks)
    }

    fn finish(self: Box<Self>, _end: &Ending<'_>) -> anyhow::Result<()> {
        CsvWriter::finish(*self)?.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: Meta = Meta {
        provenance: Provenance::Observed,
        bound_ns: None,
        derived: false,
        hold: None,
    };

    fn table(events: &[Event]) -> String {
        let info = SourceInfo::default();
        let mut writer = CsvWriter::new(Vec::new(), &info, Addresses::raw()).unwrap();
        for event in events {
            writer.write(event, &META, &Stacks::default()).unwrap();
        }
        String::from_utf8(writer.finish().unwrap()).unwrap()
    }

    fn named(comm: &[u8]) -> Event {
        let mut event = Event::synthetic(Kind::MmapStart, 5);
        event.header.comm[..comm.len()].copy_from_slice(comm);
        event
    }

    #[test]
    fn no_name_of_a_command_is_a_formula() {
        for begin in ["=", "+", "-", "@", "\t=", "\r=", "|", "%"] {
            let said = table(&[named(format!("{begin}cmd|'/C x'!A").as_bytes())]);
            let mut reader = csv::Reader::from_reader(said.as_bytes());
            let record = reader.records().next().unwrap().unwrap();
            assert!(record[5].starts_with('\''), "{said}");
        }
        assert!(table(&[named(b"a=b")]).contains(",a=b,"));
    }

    #[test]
    fn what_a_reader_finds_is_what_was_written() {
        let said = table(&[named(b"a,\"b\"\x1b\n"), named(b"")]);
        let mut reader = csv::Reader::from_reader(said.as_bytes());
        assert_eq!(reader.headers().unwrap(), &csv::StringRecord::from(&COLUMNS[..]));
        let records: Vec<_> = reader.records().map(Result::unwrap).collect();
        assert_eq!(records.len(), 2);
        assert_eq!(&records[0][5], "a,\"b\"\\u001b\\u000a");
        assert_eq!(&records[0][6], "mmap_start");
        assert_eq!(said.lines().count(), 3);
    }

    #[test]
    fn every_kind_fills_every_column() {
        let events: Vec<_> = Kind::ALL.iter().map(|&kind| Event::synthetic(kind, 1)).collect();
        let said = table(&events);
        let mut reader = csv::Reader::from_reader(said.as_bytes());
        let kinds: Vec<String> = reader.records().map(|r| r.unwrap()[6].to_owned()).collect();
        let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(kinds, names);
    }
}
