//! Who held a VMA at an instant, for people to read.

use tracer_common::wire::Event;

use crate::state::Engine;

/// More readers than these are only counted.
const READERS_KEPT: usize = 6;

/// Who held a VMA at an instant, as far as it is known, the task at hand included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// Threads that held it for reading, as many as there is room for.
    readers: [u32; READERS_KEPT],
    /// How many there were.
    pub reader_count: u32,
    /// The thread that held it for writing.
    pub writer: Option<u32>,
    /// The thread that waited for its readers.
    pub waiting_writer: Option<u32>,
    /// The thread that held the `mmap_lock` for writing.
    pub mmap_writer: Option<u32>,
}

impl Holders {
    /// Of the VMA of an event, after the engine has taken the event in.
    #[cold]
    pub(super) fn of(engine: &Engine, event: &Event) -> Self {
        let mut holders = Self::default();
        if let Some(vma) = event.vma().and_then(|address| engine.vma_entry(address)) {
            for (to, tid) in holders.readers.iter_mut().zip(vma.reader_tids()) {
                *to = tid;
            }
            holders.reader_count = vma.readers();
            holders.writer = vma.write_locked_by();
            holders.waiting_writer = vma.awaited_by();
        }
        holders.mmap_writer = event
            .mm()
            .and_then(|mm| engine.mm_entry(mm)?.writer())
            .map(|(tid, _)| tid);
        holders
    }

    /// Threads that held it for reading, as many as are known by number.
    pub fn readers(&self) -> &[u32] {
        let len = READERS_KEPT.min(self.reader_count as usize);
        &self.readers[..len]
    }
}
