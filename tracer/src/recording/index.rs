//! Which frame is where, and which time it is of: for seeking, and for telling what a file holds without reading it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::columns::{Reader, put, unzigzag, zigzag};
use super::frame::{FRAME_LEN, FrameHeader, FrameType, PAYLOAD_LIMIT, PREFIX_LEN, checksum};

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it starts, in bytes.
    pub offset: u64,
    /// How long it is, its header included, in bytes.
    pub len: u64,
    /// [`FrameType`] as its number.
    pub kind: u8,
    /// Events in it; for stacks, how many.
    pub count: u32,
    /// Time of its first event in nanoseconds; without events, that of the last event before it.
    pub first_ns: u64,
    /// Time of its last event; likewise.
    pub last_ns: u64,
}

impl Entry {
    pub(super) fn new(offset: u64, header: &FrameHeader) -> Self {
        Self {
            offset,
            len: header.frame_len(),
            kind: header.kind,
            count: header.count,
            first_ns: header.first_ns,
            last_ns: header.last_ns,
        }
    }

    /// Whether it holds events.
    pub fn is_block(&self) -> bool {
        FrameType::from_number(self.kind).is_some_and(FrameType::is_block)
    }
}

/// All frames of a recording up to its index, in the order in which they stand there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    entries: Vec<Entry>,
    /// Whether the file had one; else it was made from the frames' headers.
    pub stored: bool,
}

impl Index {
    /// The frames.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The blocks of events.
    pub fn blocks(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.is_block())
    }

    /// Events in all blocks.
    pub fn events(&self) -> u64 {
        self.blocks().map(|block| u64::from(block.count)).sum()
    }

    /// Times of the first and the last event, in nanoseconds; `None` without events.
    pub fn span(&self) -> Option<(u64, u64)> {
        let first = self.blocks().next()?.first_ns;
        let last = self.blocks().map(|block| block.last_ns).max()?;
        Some((first, last))
    }

    /// The first frame from which all events at `ts_ns` and later follow; `None`: there are none.
    pub fn find(&self, ts_ns: u64) -> Option<&Entry> {
        // Times of frames do not fall, but an event that came late may lie before its time.
        let at = self.entries.partition_point(|entry| entry.last_ns < ts_ns);
        self.entries[at..].iter().find(|entry| entry.is_block())
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Each entry as differences to the one before.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put(out, self.entries.len() as u64);
        let (mut end, mut time) = (PREFIX_LEN as u64, 0);
        for entry in &self.entries {
            out.push(entry.kind);
            put(out, entry.offset - end);
            put(out, entry.len);
            put(out, u64::from(entry.count));
            put(out, zigzag(entry.first_ns.wrapping_sub(time)));
            put(out, zigzag(entry.last_ns.wrapping_sub(entry.first_ns)));
            end = entry.offset + entry.len;
            time = entry.last_ns;
        }
    }

    /// `None` if the bytes are no index.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Reader(bytes);
        let count = bytes.number().ok()?;
        // An entry takes six bytes or more: a wrong count claims no memory.
        let count = usize::try_from(count).ok().filter(|&n| n <= bytes.0.len() / 6)?;
        let mut entries = Vec::with_capacity(count);
        let (mut end, mut time) = (PREFIX_LEN as u64, 0u64);
        for _ in 0..count {
            let kind = bytes.byte().ok()?;
            let offset = end.checked_add(bytes.number().ok()?)?;
            let len = bytes.number().ok()?;
            end = offset.checked_add(len)?;
            let events = u32::try_from(bytes.number().ok()?).ok()?;
            let first_ns = time.wrapping_add(unzigzag(bytes.number().ok()?));
            time = first_ns.wrapping_add(unzigzag(bytes.number().ok()?));
            entries.push(Entry {
                offset,
                len,
                kind,
                count: events,
                first_ns,
                last_ns: time,
            });
        }
        bytes.0.is_empty().then_some(Self {
            entries,
            stored: true,
        })
    }

    /// That of a file: the one at its end, or one made from the headers of its frames up to the first that is damaged.
    pub(super) fn of(file: &File) -> std::io::Result<Self> {
        let len = file.metadata()?.len();
        if let Some(index) = Self::stored(file, len)? {
            return Ok(index);
        }
        let mut index = Self::default();
        let mut offset = PREFIX_LEN as u64;
        while let Some(header) = header_at(file, offset, len)? {
            index.push(Entry::new(offset, &header));
            offset += header.frame_len();
        }
        Ok(index)
    }

    fn stored(file: &File, len: u64) -> std::io::Result<Option<Self>> {
        const END_LEN: u64 = FRAME_LEN as u64 + 8;
        let Some(at) = len.checked_sub(END_LEN) else {
            return Ok(None);
        };
        let Some(end) = whole_at(file, at, len, FrameType::End)? else {
            return Ok(None);
        };
        let Ok(offset) = <[u8; 8]>::try_from(end) else {
            return Ok(None);
        };
        let offset = u64::from_le_bytes(offset);
        let Some(payload) = whole_at(file, offset, len, FrameType::Index)? else {
            return Ok(None);
        };
        // One that speaks of frames behind itself is of another file.
        Ok(Self::decode(&payload).filter(|index| {
            index
                .entries
                .last()
                .is_none_or(|last| last.offset + last.len <= offset)
        }))
    }
}

/// The header at `offset`, if it is one and its frame ends within the file.
fn header_at(file: &File, offset: u64, len: u64) -> std::io::Result<Option<FrameHeader>> {
    if offset.checked_add(FRAME_LEN as u64).is_none_or(|end| end > len) {
        return Ok(None);
    }
    let mut bytes = [0; FRAME_LEN];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(FrameHeader::decode(&bytes)
        .filter(|header| header.impossible().is_none() && header.frame_len() <= len - offset))
}

/// The payload of the frame at `offset`, if it is whole, stored as it is and of that type.
fn whole_at(file: &File, offset: u64, len: u64, kind: FrameType) -> std::io::Result<Option<Vec<u8>>> {
    let Some(header) = header_at(file, offset, len)? else {
        return Ok(None);
    };
    if header.kind != kind as u8 || header.codec != 0 || header.stored_len > PAYLOAD_LIMIT {
        return Ok(None);
    }
    let mut payload = vec![0; header.stored_len as usize];
    file.read_exact_at(&mut payload, offset + FRAME_LEN as u64)?;
    let is_whole = checksum(&header.encode(), &payload) == header.crc;
    Ok(is_whole.then_some(payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let entry = |offset, kind: FrameType, first_ns, last_ns| Entry {
            offset,
            len: 100,
            kind: kind as u8,
            count: 7,
            first_ns,
            last_ns,
        };
        Index {
            entries: vec![
                entry(16, FrameType::Header, 0, 0),
                entry(116, FrameType::Columns, 1_000, 2_000),
                entry(216, FrameType::Losses, 2_000, 2_000),
                entry(316, FrameType::Columns, 2_000, 3_000),
                entry(416, FrameType::Columns, 2_900, 4_000),
            ],
            stored: true,
        }
    }

    #[test]
    fn an_index_comes_back() {
        let mut bytes = Vec::new();
        index().encode(&mut bytes);
        assert_eq!(Index::decode(&bytes), Some(index()));
        for len in 0..bytes.len() {
            assert_eq!(Index::decode(&bytes[..len]), None);
        }
    }

    #[test]
    fn a_wrong_count_claims_no_memory() {
        let mut bytes = Vec::new();
        put(&mut bytes, u64::MAX);
        assert_eq!(Index::decode(&bytes), None);
    }

    #[test]
    fn the_block_of_a_time_is_found() {
        let index = index();
        let found = |ts_ns| index.find(ts_ns).map(|entry| entry.offset);
        assert_eq!(found(0), Some(116));
        assert_eq!(
            found(2_000),
            Some(116),
            "the same time may go on in the next block"
        );
        assert_eq!(found(2_001), Some(316));
        assert_eq!(found(4_000), Some(416));
        assert_eq!(found(4_001), None);
        assert_eq!(index.span(), Some((1_000, 4_000)));
        assert_eq!(index.events(), 21);
    }
}
