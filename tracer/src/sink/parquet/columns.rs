//! Rows on their way into columns: plain vectors, filled by one thread and encoded by another.

use std::collections::HashMap;

use tracer_common::wire::COMM_LEN;

/// Rows that are encoded together.
pub(super) const BATCH: usize = 128 << 10;

/// The values of one column of a batch; what is missing is in the levels alone.
#[derive(Debug)]
pub(super) enum Column {
    Int32(Vec<i32>, Levels),
    Int64(Vec<i64>, Levels),
    Bool(Vec<bool>, Levels),
    /// The number of each text in its pool.
    Text(Vec<u32>, Levels, Pool),
}

/// A text that rows have in common.
pub(super) type Text = Box<str>;

/// Where the texts of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    /// By the number of the kind.
    Kinds,
    /// By the bits of the provenance.
    Provenances,
    /// By the number of the reason.
    Reasons,
    /// By the number of the lock.
    Locks,
    /// By the number of the site.
    Sites,
    /// [`Batch::comms`].
    Comms,
    /// [`Batch::stacks`].
    Stacks,
}

/// The texts of the pools that are the same for all batches, in the order of [`Pool`].
pub(super) type Fixed = [Vec<Text>; 5];

/// For each row whether it has a value; `None`: the column always has one.
pub(super) type Levels = Option<Vec<i16>>;

/// Rows of one table.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) columns: Vec<Column>,
    pub(super) rows: usize,
    /// Names of commands in its rows.
    pub(super) comms: Texts<[u8; COMM_LEN]>,
    /// Stacks in its rows.
    pub(super) stacks: Texts<u32>,
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

    /// Makes it as if it were new, but for its memory.
    pub(super) fn clear(&mut self) {
        self.rows = 0;
        self.comms.clear();
        self.stacks.clear();
        for column in &mut self.columns {
            let levels = match column {
                Column::Int32(values, levels) => {
                    values.clear();
                    levels
                }
                Column::Int64(values, levels) => {
                    values.clear();
                    levels
                }
                Column::Bool(values, levels) => {
                    values.clear();
                    levels
                }
                Column::Text(values, levels, _) => {
                    values.clear();
                    levels
                }
            };
            if let Some(levels) = levels {
                levels.clear();
            }
        }
    }

    /// The texts that the numbers of a column mean.
    pub(super) fn pool<'a>(&'a self, pool: Pool, fixed: &'a Fixed) -> &'a [Text] {
        match pool {
            Pool::Comms => &self.comms.texts,
            Pool::Stacks => &self.stacks.texts,
            fixed_one => &fixed[fixed_one as usize],
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
                Column::Text(values, levels, _) => (values.len(), levels),
            };
            levels.as_ref().map_or(values, Vec::len) == self.rows
        })
    }
}

macro_rules! put {
    ($self:ident, $variant:ident, $value:expr $(, $rest:pat)?) => {
        if let Some(Column::$variant(values, levels $(, $rest)?)) = $self.columns.next() {
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
    pub(super) fn text(&mut self, value: Option<usize>) {
        // Pools have no more texts than fit: those of a batch no more than it has rows.
        put!(self, Text, value.map(|value| value as u32), _);
    }
}

/// Texts that come again and again, each in memory once.
#[derive(Debug)]
pub(super) struct Texts<K> {
    known: HashMap<K, usize, rustc_hash::FxBuildHasher>,
    texts: Vec<Text>,
}

impl<K> Default for Texts<K> {
    fn default() -> Self {
        Self {
            known: HashMap::default(),
            texts: Vec::new(),
        }
    }
}

impl<K: Eq + core::hash::Hash> Texts<K> {
    /// The number of a text.
    #[inline]
    pub(super) fn get(&mut self, key: K, make: impl FnOnce() -> String) -> usize {
        *self.known.entry(key).or_insert_with(|| {
            self.texts.push(make().into_boxed_str());
            self.texts.len() - 1
        })
    }

    fn clear(&mut self) {
        self.known.clear();
        self.texts.clear();
    }
}

/// A text for each name of a list.
pub(super) fn names(names: impl Iterator<Item = impl AsRef<str>>) -> Vec<Text> {
    names.map(|name| name.as_ref().into()).collect()
}
