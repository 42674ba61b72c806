//! Columns of texts. Rows name their texts by number, so that what a file has of them is made without a look at any text:
//! the numbers are renumbered to those that occur, which are the dictionary, and written as runs and packed bits.
//!
//! The library's own writer takes texts only one by one, and looks each of them up again.

use anyhow::Context as _;
use parquet::basic::{Compression, Encoding, PageType};
use parquet::column::page::{CompressedPage, Page, PageWriter as _};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::file::metadata::{ColumnChunkMetaData, PageEncodingStats};
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, SerializedRowGroupWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use super::columns::Text;
use crate::export::Output;

/// Numbers that no row has.
const NONE: u32 = u32::MAX;

/// Writes columns of texts, and keeps its memory from one to the next.
pub(super) struct TextWriter {
    /// For each number that a row may have its number in the dictionary.
    renumbered: Vec<u32>,
    /// The dictionary: what rows call its entries.
    used: Vec<u32>,
    /// The rows' numbers in the dictionary.
    numbers: Vec<u32>,
    page: Vec<u8>,
    packed: Vec<u8>,
    snappy: snap::raw::Encoder,
}

impl TextWriter {
    pub(super) fn new() -> Self {
        Self {
            renumbered: Vec::new(),
            used: Vec::new(),
            numbers: Vec::new(),
            page: Vec::new(),
            packed: Vec::new(),
            snappy: snap::raw::Encoder::new(),
        }
    }

    /// Writes the next column of a row group: for each level of 1, or for each row if there are no levels, the number of
    /// its text in `texts`.
    pub(super) fn write(
        &mut self,
        group: &mut SerializedRowGroupWriter<'_, Output>,
        descr: &ColumnDescPtr,
        (values, levels): (&[u32], Option<&[i16]>),
        texts: &[Text],
    ) -> anyhow::Result<()> {
        self.renumber(values, texts.len())?;
        let rows = levels.map_or(values.len(), <[i16]>::len);
        let mut chunk = TrackedWrite::new(Vec::new());
        let mut pages = SerializedPageWriter::new(&mut chunk);
        let (dictionary, dictionary_len) = self.dictionary(texts)?;
        let first = pages.write_page(CompressedPage::new(dictionary, dictionary_len))?;
        let (data, data_len) = self.data(levels, rows)?;
        let second = pages.write_page(CompressedPage::new(data, data_len))?;
        pages.close()?;
        let chunk = chunk.into_inner()?;
        let stats = |page_type, encoding| PageEncodingStats {
            page_type,
            encoding,
            count: 1,
        };
        let metadata = ColumnChunkMetaData::builder(descr.clone())
            .set_compression(Compression::SNAPPY)
            .set_encodings(vec![Encoding::PLAIN, Encoding::RLE, Encoding::RLE_DICTIONARY])
            .set_page_encoding_stats(vec![
                stats(PageType::DICTIONARY_PAGE, Encoding::PLAIN),
                stats(PageType::DATA_PAGE, Encoding::RLE_DICTIONARY),
            ])
            .set_num_values(i64::try_from(rows)?)
            .set_total_compressed_size(i64::try_from(chunk.len())?)
            .set_total_uncompressed_size(i64::try_from(first.uncompressed_size + second.uncompressed_size)?)
            .set_dictionary_page_offset(Some(i64::try_from(first.offset)?))
            .set_data_page_offset(i64::try_from(second.offset)?)
            .set_statistics(self.statistics(texts, (rows - values.len()) as u64))
            .build()?;
        let result = ColumnCloseResult {
            bytes_written: chunk.len() as u64,
            rows_written: rows as u64,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        };
        group.append_column(&bytes::Bytes::from(chunk), result)?;
        Ok(())
    }

    /// Numbers those that occur, in the order in which they do.
    fn renumber(&mut self, values: &[u32], texts: usize) -> anyhow::Result<()> {
        self.renumbered.clear();
        self.renumbered.resize(texts, NONE);
        self.used.clear();
        self.numbers.clear();
        self.numbers.reserve(values.len());
        for &value in values {
            let number = self
                .renumbered
                .get_mut(value as usize)
                .context("a row names a text that is not there; this is a mistake in the program")?;
            if *number == NONE {
                *number = u32::try_from(self.used.len())?;
                self.used.push(value);
            }
            self.numbers.push(*number);
        }
        Ok(())
    }

    fn texts<'a>(&'a self, texts: &'a [Text]) -> impl Iterator<Item = &'a [u8]> {
        self.used.iter().map(|&value| texts[value as usize].as_bytes())
    }

    /// The first page, and how long it is uncompressed.
    fn dictionary(&mut self, texts: &[Text]) -> anyhow::Result<(Page, usize)> {
        let mut page = core::mem::take(&mut self.page);
        page.clear();
        for text in self.texts(texts) {
            page.extend_from_slice(&u32::try_from(text.len())?.to_le_bytes());
            page.extend_from_slice(text);
        }
        let dictionary = Page::DictionaryPage {
            buf: self.snappy.compress_vec(&page)?.into(),
            num_values: u32::try_from(self.used.len())?,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        let len = page.len();
        self.page = page;
        Ok((dictionary, len))
    }

    /// The other page, and how long it is uncompressed.
    fn data(&mut self, levels: Option<&[i16]>, rows: usize) -> anyhow::Result<(Page, usize)> {
        let page = &mut self.page;
        page.clear();
        if let Some(levels) = levels {
            page.extend_from_slice(&[0; 4]);
            let level = |at: usize| u32::from(levels[at].cast_unsigned());
            hybrid(levels.len(), level, 1, &mut self.packed, page);
            let len = u32::try_from(page.len() - 4)?;
            page[..4].copy_from_slice(&len.to_le_bytes());
        }
        let width = match self.used.len() {
            0 | 1 => 0,
            more => (more - 1).ilog2() + 1,
        };
        page.push(u8::try_from(width)?);
        hybrid(
            self.numbers.len(),
            |at| self.numbers[at],
            width,
            &mut self.packed,
            page,
        );
        let data = Page::DataPage {
            buf: self.snappy.compress_vec(page)?.into(),
            num_values: u32::try_from(rows)?,
            encoding: Encoding::RLE_DICTIONARY,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        Ok((data, page.len()))
    }

    fn statistics(&self, texts: &[Text], missing: u64) -> Statistics {
        let of = |text: Option<&[u8]>| text.map(|text| ByteArray::from(text.to_vec()));
        let (least, most) = (self.texts(texts).min(), self.texts(texts).max());
        Statistics::byte_array(of(least), of(most), None, Some(missing), false)
    }
}

/// Numbers of `width` bits as Parquet's mixture of runs and groups of eight packed ones. `packed` is for what is not
/// written yet.
fn hybrid(len: usize, at: impl Fn(usize) -> u32, width: u32, packed: &mut Vec<u8>, out: &mut Vec<u8>) {
    const GROUP: usize = 8;
    packed.clear();
    let mut groups = 0;
    let mut next = 0;
    while next < len {
        let value = at(next);
        let run = 1 + (next + 1..len).take_while(|&other| at(other) == value).count();
        if run >= GROUP || next + run == len {
            flush(&mut groups, packed, out);
            varint(run << 1, out);
            out.extend_from_slice(&value.to_le_bytes()[..width.div_ceil(8) as usize]);
            next += run;
            continue;
        }
        let (mut bits, mut have) = (0_u64, 0);
        for place in next..next + GROUP {
            // The last group is filled up; readers know how many there are.
            bits |= u64::from(if place < len { at(place) } else { 0 }) << have;
            have += width;
            while have >= 8 {
                packed.push(bits as u8);
                bits >>= 8;
                have -= 8;
            }
        }
        groups += 1;
        next += GROUP;
    }
    flush(&mut groups, packed, out);
}

/// Writes packed groups.
fn flush(groups: &mut usize, packed: &mut Vec<u8>, out: &mut Vec<u8>) {
    if *groups > 0 {
        varint(*groups << 1 | 1, out);
        out.append(packed);
        *groups = 0;
    }
}

fn varint(mut number: usize, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;
    use std::sync::Arc;

    use parquet::file::properties::WriterProperties;
    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::record::RowAccessor as _;
    use parquet::schema::parser::parse_message_type;
    use proptest::prelude::*;

    use super::*;

    /// Writes a row group for each list of rows, with one column that is always there and one that is not.
    fn write(path: &Path, groups: &[Vec<Option<u32>>], texts: &[Text]) {
        let schema = "message x { required binary always (STRING); optional binary perhaps (STRING); }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let output = Output::create(path).unwrap();
        let properties = Arc::new(WriterProperties::builder().build());
        let mut file = SerializedFileWriter::new(output, schema, properties).unwrap();
        let columns = file.schema_descr().columns().to_vec();
        let mut writer = TextWriter::new();
        for rows in groups {
            let always: Vec<u32> = rows.iter().map(|row| row.unwrap_or(0)).collect();
            let values: Vec<u32> = rows.iter().flatten().copied().collect();
            let levels: Vec<i16> = rows.iter().map(|row| i16::from(row.is_some())).collect();
            let mut group = file.next_row_group().unwrap();
            writer
                .write(&mut group, &columns[0], (&always, None), texts)
                .unwrap();
            writer
                .write(&mut group, &columns[1], (&values, Some(&levels)), texts)
                .unwrap();
            group.close().unwrap();
        }
        let whole = file.into_inner().unwrap().close().unwrap();
        whole.unwrap().place().unwrap();
    }

    /// Reads them back with the library's own reader.
    fn read(path: &Path) -> Vec<(String, Option<String>)> {
        let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
        let rows = reader.get_row_iter(None).unwrap();
        rows.map(|row| {
            let row = row.unwrap();
            let perhaps = row.get_string(1).ok().cloned();
            (row.get_string(0).unwrap().clone(), perhaps)
        })
        .collect()
    }

    fn check(groups: &[Vec<Option<u32>>], texts: &[Text]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        write(&path, groups, texts);
        let text = |number: u32| texts[number as usize].to_string();
        let expected: Vec<_> = groups
            .iter()
            .flatten()
            .map(|row| (text(row.unwrap_or(0)), row.map(text)))
            .collect();
        assert_eq!(read(&path), expected);
    }

    fn texts(count: u32) -> Vec<Text> {
        (0..count)
            .map(|n| format!("text {n} {}", "x".repeat(n as usize % 7)).into())
            .collect()
    }

    #[test]
    fn what_was_written_is_read() {
        let texts = texts(70_000);
        let runs = |lengths: &[usize]| -> Vec<Option<u32>> {
            let numbers = lengths.iter().zip(0_u32..);
            numbers
                .flat_map(|(len, number)| vec![(number % 3 > 0).then_some(number); *len])
                .collect()
        };
        check(
            &[
                vec![Some(7)],
                vec![None; 100],
                vec![Some(3); 1_000],
                runs(&[1, 7, 8, 9, 15, 16, 17, 1, 1, 1, 1, 1, 1, 1, 1, 100, 1]),
                (0..300).map(Some).collect(),
                // More than 16 bits each.
                (0..70_000).map(Some).collect(),
                (0..257).map(|n| Some(n * 251 % 257)).collect(),
            ],
            &texts,
        );
    }

    #[test]
    fn statistics_have_the_ends_and_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        write(
            &path,
            &[vec![Some(2), None, Some(1)]],
            &["c".into(), "b".into(), "a".into()],
        );
        let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
        let group = reader.metadata().row_group(0);
        let ends = |column: usize| {
            let said = group.column(column).statistics().unwrap();
            let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
            (
                text(said.min_bytes_opt()),
                text(said.max_bytes_opt()),
                said.null_count_opt(),
            )
        };
        assert_eq!(ends(0), ("a".to_owned(), "c".to_owned(), Some(0)));
        assert_eq!(ends(1), ("a".to_owned(), "b".to_owned(), Some(1)));
    }

    #[test]
    fn a_text_that_is_not_there_is_an_error() {
        let mut writer = TextWriter::new();
        assert!(writer.renumber(&[0, 1], 1).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn any_rows_are_read_as_they_were_written(
            runs in prop::collection::vec((prop::option::of(0_u32..40), 1_usize..20), 1..60),
        ) {
            let rows = runs.iter().flat_map(|(row, len)| vec![*row; *len]).collect();
            check(&[rows], &texts(40));
        }
    }
}
