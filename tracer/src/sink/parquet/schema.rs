//! The tables: their names, types and encodings. `docs/exports.md` says what the columns mean.

use std::sync::Arc;

use anyhow::Context as _;
use parquet::basic::{Compression, Encoding, Repetition, Type as Physical};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr, WriterVersion};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, TypePtr};

use super::columns::{BATCH, Batch, Column, Pool, Texts};

/// One of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// One row an event.
    Events,
    /// One row a hold.
    Holds,
    /// One row a wait.
    Waits,
}

impl Table {
    pub(super) const ALL: [Self; 3] = [Self::Events, Self::Holds, Self::Waits];

    /// Also the name of its folder.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Holds => "holds",
            Self::Waits => "waits",
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::Events => EVENTS,
            Self::Holds | Self::Waits => SPANS,
        }
    }

    pub(super) fn schema(self) -> anyhow::Result<TypePtr> {
        let schema = parse_message_type(self.message()).context("the schema of a table")?;
        Ok(Arc::new(schema))
    }
}

/// Signed, since Spark has no unsigned integers: an address of the kernel that was not hashed is negative.
const EVENTS: &str = "message event {
    required int64 ts_ns; required int64 time (TIMESTAMP(MICROS,true));
    required int32 cpu; required int64 seq; required int32 pid; required int32 tid;
    required binary comm (STRING); required binary kind (STRING);
    optional int64 mm; optional int64 vma; optional int64 vm_start; optional int64 vm_end; optional int64 address;
    optional int64 vm_refcnt; optional int64 vm_lock_seq; optional int64 mm_lock_seq;
    required binary provenance (STRING); optional int64 bound_ns; required boolean derived;
    optional int64 held_since_ns; optional binary held_since_provenance (STRING); optional int64 held_since_bound_ns;
    optional boolean write; optional int32 fault_flags; optional int32 result; optional int32 errno;
    optional binary reason (STRING); optional int64 missing; optional int64 gap_from_ns; optional int64 gap_to_ns;
    optional int32 other_pid; optional int32 other_tid; optional boolean last; optional int32 state;
    optional boolean iowait; optional boolean reclaim; optional boolean preempted;
    optional binary of (STRING); optional int64 length_ns; optional int64 waited_ns;
    optional binary stack (STRING); optional binary user_stack (STRING); optional binary site (STRING);
}";

const SPANS: &str = "message span {
    required int64 end_ns; required int64 time (TIMESTAMP(MICROS,true));
    optional int64 begin_ns; optional int64 duration_ns;
    required binary lock (STRING); required boolean got; required binary provenance (STRING);
    required int32 pid; required int32 tid; required binary comm (STRING);
    optional int64 mm; optional int64 vma; optional int64 vm_start; optional int64 vm_end;
    required binary ended_by (STRING); required int32 cpu; required int64 seq; optional binary site (STRING);
    required int32 waiters; optional int32 holder_pid; optional int32 holder_tid; optional binary holder_comm (STRING);
    optional binary holder_lock (STRING); optional int64 holder_since_ns;
    optional binary stack (STRING); optional binary user_stack (STRING);
}";

/// Columns that hardly ever have the same value twice, and grow slowly: differences are kept.
const GROWING: [&str; 6] = ["ts_ns", "time", "seq", "end_ns", "begin_ns", "held_since_ns"];
/// Columns whose values do not come again, without being alike.
const VARIOUS: [&str; 1] = ["duration_ns"];

/// How files of these tables are written.
pub(super) fn properties(metadata: Vec<KeyValue>) -> WriterPropertiesPtr {
    let mut builder = WriterProperties::builder()
        .set_created_by(format!("tracer {}", env!("CARGO_PKG_VERSION")))
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(BATCH))
        // A row group is small: what is known of it is enough to leave it out, and nothing has to be known of its pages.
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_write_batch_size(8 << 10)
        .set_key_value_metadata(Some(metadata));
    for name in GROWING {
        builder = builder
            .set_column_dictionary_enabled(ColumnPath::from(name), false)
            .set_column_encoding(ColumnPath::from(name), Encoding::DELTA_BINARY_PACKED);
    }
    for name in VARIOUS {
        builder = builder.set_column_dictionary_enabled(ColumnPath::from(name), false);
    }
    Arc::new(builder.build())
}

/// An empty batch of a table.
pub(super) fn batch(schema: &TypePtr) -> Batch {
    let columns = schema.get_fields().iter().map(|field| {
        let optional = field.get_basic_info().repetition() == Repetition::OPTIONAL;
        let levels = optional.then(|| Vec::with_capacity(BATCH));
        // What is always there gets its room at once, what is often missing when it comes.
        let room = if optional { 0 } else { BATCH };
        match field.get_physical_type() {
            Physical::INT32 => Column::Int32(Vec::with_capacity(room), levels),
            Physical::BOOLEAN => Column::Bool(Vec::with_capacity(room), levels),
            Physical::BYTE_ARRAY => Column::Text(Vec::with_capacity(room), levels, pool(field.name())),
            _ => Column::Int64(Vec::with_capacity(room), levels),
        }
    });
    Batch {
        columns: columns.collect(),
        rows: 0,
        comms: Texts::default(),
        stacks: Texts::default(),
    }
}

/// Where the texts of a column are.
fn pool(column: &str) -> Pool {
    match column {
        "comm" | "holder_comm" => Pool::Comms,
        "stack" | "user_stack" => Pool::Stacks,
        "provenance" | "held_since_provenance" => Pool::Provenances,
        "reason" => Pool::Reasons,
        "lock" | "holder_lock" => Pool::Locks,
        "site" => Pool::Sites,
        // `kind`, `of`, `ended_by`.
        _ => Pool::Kinds,
    }
}
