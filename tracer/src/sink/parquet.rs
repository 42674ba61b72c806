//! `tracer export -f parquet`: tables for query engines, many recordings of many hosts beside each other.
//!
//! `OUT/TABLE/host=H/date=D/RECORDING-N.parquet`, with the tables `events`, `holds` and `waits`. What is exported again
//! replaces its own files and no others. One thread reads and fills columns, another encodes them.

mod columns;
mod files;
mod schema;
mod texts;

use std::path::Path;

use parquet::file::metadata::KeyValue;
use parquet::schema::types::TypePtr;
use tracer_common::wire::{COMM_LEN, Event, Kind, Provenance, Reason, sched};

use super::address::Addresses;
use crate::export::{Ending, Exporter, Interval, PrivacyArgs};
use crate::info::SourceInfo;
use crate::outside;
use crate::stacks::Stacks;
use crate::state::{Lock, Meta, What};

use columns::{Batch, Texts, names};
use files::{Encoder, Job, Place};
use schema::Table;

/// About the most bytes of a host's name in a path.
const LONGEST: usize = 200;
const DAY_US: i64 = 86_400_000_000;

/// Writes tables.
pub struct ParquetWriter {
    encoder: Encoder,
    schemas: [TypePtr; 3],
    batches: [Batch; 3],
    /// Of which day the rows at hand are, in days since 1970, by table.
    days: [i64; 3],
    addresses: Addresses,
    /// From the clock of the events to that of the wall, in nanoseconds.
    wall_offset_ns: i128,
    /// How many sites have a name.
    sites: usize,
}

impl ParquetWriter {
    /// Starts to write under `folder`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(
        folder: &Path,
        info: &SourceInfo,
        addresses: Addresses,
        privacy: PrivacyArgs,
    ) -> anyhow::Result<Self> {
        anyhow::ensure!(
            folder.as_os_str() != "-",
            "parquet is a folder of files, which standard output cannot be: name a folder"
        );
        let [events, holds, waits] = Table::ALL.map(Table::schema);
        let schemas = [events?, holds?, waits?];
        let mut by_number = vec![""; 256];
        for kind in Kind::ALL {
            by_number[*kind as usize] = kind.name();
        }
        let place = Place {
            folder: folder.to_owned(),
            host: as_path(&info.host),
            recording: info.start_realtime_ns.to_string(),
            properties: schema::properties(metadata(info, privacy)),
            schemas: schemas.clone(),
            // In the order of `Pool`.
            texts: [
                names(by_number.iter()),
                names((0..4).map(|bits| Provenance::from_bits(bits).name())),
                names(Reason::ALL.iter().map(|reason| reason.name())),
                names(Lock::ALL.iter().map(|lock| lock.name())),
                names(info.sites.iter().map(|site| outside::plain(&site.function))),
            ],
        };
        Ok(Self {
            encoder: Encoder::start(place)?,
            batches: schemas.each_ref().map(schema::batch),
            schemas,
            days: [i64::MIN; 3],
            addresses,
            wall_offset_ns: i128::from(info.start_realtime_ns) - i128::from(info.start_monotonic_ns),
            sites: info.sites.len(),
        })
    }

    /// Microseconds since 1970 of a time on the events' clock.
    #[inline]
    fn wall_us(&self, ts_ns: u64) -> i64 {
        // Fits: 2^64 nanoseconds are 584 years.
        i64::try_from((i128::from(ts_ns) + self.wall_offset_ns).div_euclid(1_000)).unwrap_or(i64::MAX)
    }

    /// Makes room for a row of that time: rows of one batch are of one day.
    #[inline]
    fn make_room(&mut self, table: Table, wall_us: i64) -> anyhow::Result<()> {
        let at = table as usize;
        let day = wall_us.div_euclid(DAY_US);
        if self.days[at] != day || self.batches[at].is_full() {
            self.send(table)?;
            self.days[at] = day;
        }
        Ok(())
    }

    fn send(&mut self, table: Table) -> anyhow::Result<()> {
        let at = table as usize;
        if self.batches[at].rows == 0 {
            return Ok(());
        }
        anyhow::ensure!(
            self.batches[at].is_even(),
            "columns of {} have different lengths; this is a mistake in the program",
            table.name()
        );
        let next = self.encoder.empty(table);
        let next = next.unwrap_or_else(|| schema::batch(&self.schemas[at]));
        let batch = core::mem::replace(&mut self.batches[at], next);
        self.encoder.send(Job {
            table,
            date: date(self.days[at]),
            batch,
        })
    }
}

impl Exporter for ParquetWriter {
    fn event(&mut self, event: &Event, meta: &Meta, stacks: &Stacks) -> anyhow::Result<()> {
        let header = &event.header;
        let time = self.wall_us(header.ts_ns);
        self.make_room(Table::Events, time)?;
        let batch = &mut self.batches[Table::Events as usize];
        let comm = batch.comms.get(header.comm, || comm(&header.comm));
        let (kernel, user) = event.stacks();
        let kernel = stack(&mut batch.stacks, kernel, stacks);
        let user = stack(&mut batch.stacks, user, stacks);
        let mut row = batch.row();
        row.int64(Some(header.ts_ns));
        row.int64(Some(time.cast_unsigned()));
        row.int32(Some(u32::from(header.cpu)));
        row.int64(Some(u64::from(header.seq)));
        row.int32(Some(header.pid));
        row.int32(Some(header.tid));
        row.text(Some(comm));
        row.text(Some(event.kind as usize));
        row.int64(event.mm().map(|mm| self.addresses.show(mm)));
        row.int64(event.vma().map(|vma| self.addresses.show(vma)));
        let range = event.range();
        row.int64(range.map(|(start, _)| start));
        row.int64(range.map(|(_, end)| end));
        row.int64(event.address());
        row.int64(event.vm_refcnt().map(u64::from));
        row.int64(event.vm_lock_seq().map(u64::from));
        row.int64(event.mm_lock_seq().map(u64::from));
        row.text(Some(meta.provenance as usize));
        row.int64(meta.bound_ns);
        row.flag(Some(meta.derived));
        let known = meta.hold.filter(|start| start.provenance != Provenance::Unknown);
        row.int64(known.map(|start| start.since_ns));
        row.text(meta.hold.map(|start| start.provenance as usize));
        row.int64(known.and_then(|start| start.bound_ns));
        let kind = event.kind;
        row.flag(event.writes());
        row.int32(event.flags_of_fault().map(u32::from));
        row.int32(event.result_of_fault().map(u32::from));
        let has_errno = matches!(
            kind,
            Kind::VmaReadFail | Kind::VmaWriteFail | Kind::VmaReadRefused
        );
        row.int32(has_errno.then(|| u32::from(event.errno())));
        let has_reason = matches!(
            kind,
            Kind::VmaReadFail | Kind::VmaReadRefused | Kind::VmaReadTemporary
        );
        row.text(has_reason.then(|| event.reason() as usize));
        let is_gap = kind == Kind::Gap;
        row.int64(is_gap.then(|| u64::from(event.body.arg)));
        row.int64(is_gap.then_some(event.body.vm_start));
        row.int64((is_gap && event.body.vm_end != 0).then_some(event.body.vm_end));
        let other = event.other_task();
        row.int32(other.map(|(pid, _)| pid));
        let before = (kind == Kind::TaskExec).then_some(event.body.arg);
        row.int32(other.map(|(_, tid)| tid).or(before));
        row.flag((kind == Kind::TaskExit).then_some(event.body.arg == 1));
        let is_out = kind == Kind::SchedOut;
        row.int32(is_out.then(|| u32::from(event.sched_state())));
        for bit in [sched::out::IOWAIT, sched::out::RECLAIM, sched::out::PREEMPTED] {
            row.flag(is_out.then(|| event.sched_out_is(bit)));
        }
        row.text(event.stack_of().map(|of| of as usize));
        row.int64(event.length_ns());
        row.int64(event.waited_ns());
        row.text(kernel);
        row.text(user);
        let site = header.site as usize;
        row.text((site < self.sites && !is_gap).then_some(site));
        Ok(())
    }

    fn wants_intervals(&self) -> bool {
        true
    }

    fn interval(&mut self, interval: &Interval, stacks: &Stacks) -> anyhow::Result<()> {
        let span = &interval.span;
        let table = if span.what == What::Hold {
            Table::Holds
        } else {
            Table::Waits
        };
        let time = self.wall_us(interval.end_ns);
        self.make_room(table, time)?;
        let show = |address: u64| (address != 0).then(|| self.addresses.show(address));
        let batch = &mut self.batches[table as usize];
        let holder = interval.holder.as_ref();
        let own_comm = batch.comms.get(interval.comm, || comm(&interval.comm));
        let holder_comm = holder.map(|holder| batch.comms.get(holder.comm, || comm(&holder.comm)));
        let (kernel, user) = interval.stacks;
        let kernel = stack(&mut batch.stacks, kernel, stacks);
        let user = stack(&mut batch.stacks, user, stacks);
        let mut row = batch.row();
        row.int64(Some(interval.end_ns));
        row.int64(Some(time.cast_unsigned()));
        row.int64(interval.begin_ns());
        row.int64(interval.ns());
        row.text(Some(span.lock as usize));
        row.flag(Some(span.what != What::GaveUp));
        row.text(Some(span.how as usize));
        row.int32(Some(span.who.pid));
        row.int32(Some(span.who.tid));
        row.text(Some(own_comm));
        let place = span.place;
        row.int64(show(place.mm));
        row.int64(show(place.vma));
        let has_range = place.vm_end != 0;
        row.int64(has_range.then_some(place.vm_start));
        row.int64(has_range.then_some(place.vm_end));
        let (kind, cpu, seq) = interval.ended_by;
        row.text(Some(kind as usize));
        row.int32(Some(u32::from(cpu)));
        row.int64(Some(u64::from(seq)));
        let site = span.site as usize;
        row.text((site < self.sites).then_some(site));
        row.int32(Some(u32::try_from(interval.waiters.len()).unwrap_or(u32::MAX)));
        row.int32(holder.map(|holder| holder.pid));
        row.int32(holder.map(|holder| holder.tid));
        row.text(holder_comm);
        row.text(holder.map(|holder| holder.lock as usize));
        row.int64(holder.map(|holder| holder.since_ns));
        row.text(kernel);
        row.text(user);
        Ok(())
    }

    fn finish(mut self: Box<Self>, _end: &Ending<'_>) -> anyhow::Result<()> {
        for table in Table::ALL {
            self.send(table)?;
        }
        self.encoder.finish()
    }
}

/// A stack as one text, innermost frame last, apart by semicolons.
fn stack(texts: &mut Texts<u32>, number: u32, stacks: &Stacks) -> Option<usize> {
    let stack = stacks.get(number)?;
    Some(texts.get(number, || stack.folded()))
}

fn comm(raw: &[u8; COMM_LEN]) -> String {
    outside::name(raw).into_owned()
}

/// What a file says of its recording.
fn metadata(info: &SourceInfo, privacy: PrivacyArgs) -> Vec<KeyValue> {
    let mut all = vec![
        KeyValue::new("tracer.version".to_owned(), info.tracer_version.clone()),
        KeyValue::new("tracer.source".to_owned(), info.source.clone()),
        KeyValue::new("tracer.host".to_owned(), info.host.clone()),
        KeyValue::new("tracer.kernel".to_owned(), info.kernel.release.clone()),
        KeyValue::new("tracer.filters".to_owned(), info.filters.join("\n")),
        KeyValue::new("tracer.schema".to_owned(), "1".to_owned()),
    ];
    if privacy.command_lines {
        all.push(KeyValue::new("tracer.command".to_owned(), info.command.join(" ")));
    }
    all
}

/// A day since 1970 as `2026-11-22`.
fn date(day: i64) -> String {
    chrono::DateTime::from_timestamp(day.saturating_mul(86_400), 0).map_or_else(
        || "unknown".to_owned(),
        |time| time.format("%Y-%m-%d").to_string(),
    )
}

/// A name as a part of a path: what means something there is written as `%2F`, as Hive does.
fn as_path(name: &str) -> String {
    if name.is_empty() {
        return "unknown".to_owned();
    }
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        // A name in a folder has at most 255 bytes. What is too long is told apart by its sum.
        if path.len() > LONGEST {
            path.push_str(&format!("-{:08x}", crc32fast::hash(name.as_bytes())));
            break;
        }
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => path.push(char::from(byte)),
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_host_leads_out_of_its_folder() {
        assert_eq!(as_path("web-1.example"), "web-1.example");
        assert_eq!(as_path("../a/b=c"), "..%2Fa%2Fb%3Dc");
        assert_eq!(as_path(""), "unknown");
        let long = |end| as_path(&format!("{}{end}", "\u{202e}".repeat(100)));
        assert!(long("a").len() < 240 && long("a") != long("b"), "{}", long("a"));
    }

    #[test]
    fn days_are_dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(20_779), "2026-11-22");
    }
}
