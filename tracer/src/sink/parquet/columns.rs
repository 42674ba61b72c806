//! Rows on their way into columns: plain vectors, filled by one thread and encoded by another.

use std::collections::HashMap;

use parquet::data_type::ByteArray;

/// Rows that are encoded together.
pub(super) const BATCH: usize = 128 << 10;

/// The values of one column of a batch; what is missing is in `there` alone.
#[derive(Debug)]
pub(super) enum Column {
    Int32(Vec<i32>, Levels),
    Int64(Vec<i64>, Levels),
    Bool(Vec<bool>, Levels),
    Text(Vec<ByteArray>, Levels),
}

/// For each row whether it has a value; `None`: the column always has one.
pub(super) type Levels = Option<Vec<i16>>;

/// Rows of one table.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) columns: Vec<Column>,
    pub(super) rows: usize,
}

/// Fills the columns of one row, from left to right.
pub(super) struct Row<'a> {
    columns: core::slice::IterMut<'a, Column>,
}

impl Batch {
    pub(super) fn row(&mut self) -> Row<'_> {
        self.rows += 1;
        Row {
            columns: self.columns.iter_mut(),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows >= BATCH
    }

    /// Whether every column has a level, or a value, for every row: a row that was not filled to its end would shift
    /// all that follow.
    pub(super) fn is_even(&self) -> bool {
        self.columns.iter().all(|column| {
            let (values, levels) = match column {
                Column::Int32(values, levels) => (values.len(), levels),
                Column::Int64(values, levels) => (values.len(), levels),
                Column::Bool(values, levels) => (values.len(), levels),
                Column::Text(values, levels) => (values.len(), levels),
            };
            levels.as_ref().map_or(values, Vec::len) == self.rows
        })
    }
}

macro_rules! put {
    ($self:ident, $variant:ident, $value:expr) => {
        if let Some(Column::$variant(values, levels)) = $self.columns.next() {
            match $value {
                Some(value) => {
                    values.push(value);
                    if let Some(levels) = levels {
                        levels.push(1);
                    }
                }
                None => {
                    if let Some(levels) = levels {
                        levels.push(0);
                    }
                }
            }
        }
    };
}

impl Row<'_> {
    #[inline]
    pub(super) fn int32(&mut self, value: Option<u32>) {
        put!(self, Int32, value.map(u32::cast_signed));
    }

    #[inline]
    pub(super) fn int64(&mut self, value: Option<u64>) {
        put!(self, Int64, value.map(u64::cast_signed));
    }

    #[inline]
    pub(super) fn flag(&mut self, value: Option<bool>) {
        put!(self, Bool, value);
    }

    #[inline]
    pub(super) fn text(&mut self, value: Option<&ByteArray>) {
        put!(self, Text, value.cloned());
    }
}

/// Texts that come again and again, each in memory once.
#[derive(Debug, Default)]
pub(super) struct Texts<K> {
    known: HashMap<K, ByteArray, rustc_hash::FxBuildHasher>,
}

/// Above this many, a table of texts starts anew: they then do not come again and again.
const MOST_TEXTS: usize = 1 << 16;

impl<K: Eq + core::hash::Hash> Texts<K> {
    #[inline]
    pub(super) fn get(&mut self, key: K, make: impl FnOnce() -> String) -> &ByteArray {
        if self.known.len() >= MOST_TEXTS && !self.known.contains_key(&key) {
            self.known.clear();
        }
        self.known
            .entry(key)
            .or_insert_with(|| ByteArray::from(make().into_bytes()))
    }
}

/// A text for each name of a list.
pub(super) fn names(names: impl Iterator<Item = impl AsRef<str>>) -> Vec<ByteArray> {
    names
        .map(|name| ByteArray::from(name.as_ref().as_bytes().to_vec()))
        .collect()
}
