//! Where events and state end up: tables, lines of JSON.

pub mod address;
pub mod check;
pub mod csv;
pub mod folded;
pub mod html;
pub mod jsonl;
pub mod metrics;
pub mod parquet;
pub mod perfetto;
pub mod stats;
pub mod summary;
pub mod text;
