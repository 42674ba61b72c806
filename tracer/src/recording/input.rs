//! Bytes of a recording from a file or a pipe, with a window that can be looked at more than once.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};

/// How much is asked for at a time, in bytes: after a seek first the lower, then twice as much each time.
const CHUNK: std::ops::RangeInclusive<usize> = 16 << 10..=256 << 10;

/// Where the bytes come from.
pub(super) enum Source {
    /// A regular file, which can be sought in.
    File(File),
    /// Anything else.
    Stream(Box<dyn Read + Send>),
}

/// A window into a recording. It grows only as far as bytes are there, so that a wrong length claims no memory.
pub(super) struct Input {
    source: Source,
    /// The window is what is between `at` and `filled`; what follows is room that was made before.
    buf: Vec<u8>,
    at: usize,
    filled: usize,
    offset: u64,
    chunk: usize,
}

impl Input {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            buf: Vec::new(),
            at: 0,
            filled: 0,
            offset: 0,
            chunk: *CHUNK.start(),
        }
    }

    /// Where the window starts in the recording, in bytes.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// What is in the window.
    pub(super) fn window(&self) -> &[u8] {
        &self.buf[self.at..self.filled]
    }

    /// Widens the window to `len` bytes if that many are left; gives how many there are of them.
    pub(super) fn want(&mut self, len: usize) -> io::Result<usize> {
        while self.window().len() < len {
            if self.at > 0 {
                self.buf.copy_within(self.at..self.filled, 0);
                self.filled -= self.at;
                self.at = 0;
            }
            let end = self.filled + self.chunk;
            if end > self.buf.len() {
                self.buf.resize(end, 0);
            }
            self.chunk = (self.chunk * 2).min(*CHUNK.end());
            let room = &mut self.buf[self.filled..end];
            let read = loop {
                let read = match &mut self.source {
                    Source::File(file) => file.read(room),
                    Source::Stream(stream) => stream.read(room),
                };
                match read {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            match read? {
                0 => break,
                read => self.filled += read,
            }
        }
        Ok(self.window().len().min(len))
    }

    /// Moves the start of the window on; no further than to its end.
    pub(super) fn skip(&mut self, len: usize) {
        let len = len.min(self.window().len());
        self.at += len;
        self.offset += len as u64;
    }

    /// The file, if it is one that can be sought in.
    pub(super) fn file(&self) -> Option<&File> {
        match &self.source {
            Source::File(file) => Some(file),
            Source::Stream(_) => None,
        }
    }

    /// Moves the window; `false` if that cannot be done here.
    pub(super) fn seek(&mut self, offset: u64) -> io::Result<bool> {
        let Source::File(file) = &mut self.source else {
            return Ok(false);
        };
        file.seek(SeekFrom::Start(offset))?;
        (self.at, self.filled) = (0, 0);
        self.offset = offset;
        self.chunk = *CHUNK.start();
        Ok(true)
    }
}
