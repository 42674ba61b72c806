//! What the guest's first process and `cargo xtask vm run` say to each other.
//!
//! The guest has three one-way virtio serial ports to the host: [`PORT_STDOUT`] and [`PORT_STDERR`] carry the
//! command's bytes as they are, [`PORT_CONTROL`] carries [`Frame`]s. Virtio serial is built into Debian's cloud
//! kernels, needs no terminal settings, and stays open under lockdown, which mapping a device's memory would not.

use std::io::{self, Read, Write};

/// Name of the port that carries the command's standard output.
pub const PORT_STDOUT: &str = "tracer.stdout";
/// Name of the port that carries the command's standard error.
pub const PORT_STDERR: &str = "tracer.stderr";
/// Name of the port that carries [`Frame`]s.
pub const PORT_CONTROL: &str = "tracer.control";
/// The command to run: its words, each ended by a NUL.
pub const COMMAND_FILE: &str = "/.vm/command";
/// Kernel modules to load first: `0.ko`, `1.ko`, … in this order.
pub const MODULES_DIR: &str = "/.vm/modules";
/// If this file exists the guest sends what the command left in `/out`.
pub const WANT_OUT_FILE: &str = "/.vm/want-out";

/// No frame is longer: a reader that sees a longer one is out of step.
pub const MAX_FRAME: usize = 1 << 20;

/// One message from the guest to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The first frame, just before the command starts: the kernel's release.
    Hello(String),
    /// Something the person at the host should read.
    Note(String),
    /// The command ended with this status (128 + N for signal N), having written that many bytes.
    Exit {
        /// Exit status as a shell would tell it.
        code: u8,
        /// Bytes written to [`PORT_STDOUT`].
        stdout: u64,
        /// Bytes written to [`PORT_STDERR`].
        stderr: u64,
    },
    /// A line of the kernel's log at warning level or above that appeared while the command ran.
    KernelWarning(String),
    /// A folder under `/out`.
    Dir {
        /// Permission bits.
        mode: u32,
        /// Path relative to `/out`.
        path: String,
    },
    /// A file under `/out`; [`Frame::Data`] frames of `size` bytes in all and one [`Frame::Sum`] follow.
    File {
        /// Permission bits.
        mode: u32,
        /// Length in bytes.
        size: u64,
        /// Path relative to `/out`.
        path: String,
    },
    /// A symbolic link under `/out`.
    Link {
        /// Path relative to `/out`.
        path: String,
        /// What the link says.
        target: String,
    },
    /// A piece of the file that was named last.
    Data(Vec<u8>),
    /// The [`Checksum`] of the file that was named last.
    Sum(u64),
    /// The last frame: so many files came before it.
    Done {
        /// Number of [`Frame::File`] frames.
        files: u32,
    },
}

const HELLO: u8 = 1;
const NOTE: u8 = 2;
const EXIT: u8 = 3;
const KERNEL_WARNING: u8 = 4;
const DIR: u8 = 5;
const FILE: u8 = 6;
const LINK: u8 = 7;
const DATA: u8 = 8;
const SUM: u8 = 9;
const DONE: u8 = 10;

fn bad(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl Frame {
    /// Writes the frame: tag, length, payload.
    ///
    /// # Errors
    /// What the writer says; a payload over [`MAX_FRAME`].
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut body = Vec::new();
        let tag = match self {
            Self::Hello(s) => {
                body.extend(s.bytes());
                HELLO
            }
            Self::Note(s) => {
                body.extend(s.bytes());
                NOTE
            }
            Self::Exit { code, stdout, stderr } => {
                body.push(*code);
                body.extend(stdout.to_le_bytes());
                body.extend(stderr.to_le_bytes());
                EXIT
            }
            Self::KernelWarning(s) => {
                body.extend(s.bytes());
                KERNEL_WARNING
            }
            Self::Dir { mode, path } => {
                body.extend(mode.to_le_bytes());
                body.extend(path.bytes());
                DIR
            }
            Self::File { mode, size, path } => {
                body.extend(mode.to_le_bytes());
                body.extend(size.to_le_bytes());
                body.extend(path.bytes());
                FILE
            }
            Self::Link { path, target } => {
                body.extend(path.bytes());
                body.push(0);
                body.extend(target.bytes());
                LINK
            }
            Self::Data(bytes) => {
                body.extend(bytes);
                DATA
            }
            Self::Sum(sum) => {
                body.extend(sum.to_le_bytes());
                SUM
            }
            Self::Done { files } => {
                body.extend(files.to_le_bytes());
                DONE
            }
        };
        if body.len() > MAX_FRAME {
            return Err(bad(format!(
                "a frame of {} bytes is over the limit of {MAX_FRAME}",
                body.len()
            )));
        }
        let length = u32::try_from(body.len()).map_err(|_| bad("frame length"))?;
        let mut head = [tag, 0, 0, 0, 0];
        head[1..].copy_from_slice(&length.to_le_bytes());
        to.write_all(&head)?;
        to.write_all(&body)
    }

    /// Reads one frame; `None` at a clean end of the stream.
    ///
    /// # Errors
    /// What the reader says; a stream that ends inside a frame; a frame that makes no sense.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut tag = [0];
        if from.read(&mut tag)? == 0 {
            return Ok(None);
        }
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_FRAME {
            return Err(bad(format!("a frame claims {length} bytes")));
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        Self::decode(tag[0], body).map(Some)
    }

    fn decode(tag: u8, body: Vec<u8>) -> io::Result<Self> {
        let mut rest = body.as_slice();
        Ok(match tag {
            HELLO => Self::Hello(text(rest)?),
            NOTE => Self::Note(text(rest)?),
            KERNEL_WARNING => Self::KernelWarning(text(rest)?),
            EXIT => {
                let [code] = take::<1>(&mut rest)?;
                let stdout = u64::from_le_bytes(take(&mut rest)?);
                let stderr = u64::from_le_bytes(take(&mut rest)?);
                Self::Exit { code, stdout, stderr }
            }
            DIR => {
                let mode = u32::from_le_bytes(take(&mut rest)?);
                Self::Dir {
                    mode,
                    path: text(rest)?,
                }
            }
            FILE => {
                let mode = u32::from_le_bytes(take(&mut rest)?);
                let size = u64::from_le_bytes(take(&mut rest)?);
                Self::File {
                    mode,
                    size,
                    path: text(rest)?,
                }
            }
            LINK => {
                let both = text(rest)?;
                let (path, target) = both
                    .split_once('\0')
                    .ok_or_else(|| bad("a link without a target"))?;
                Self::Link {
                    path: path.into(),
                    target: target.into(),
                }
            }
            DATA => Self::Data(body),
            SUM => Self::Sum(u64::from_le_bytes(take(&mut rest)?)),
            DONE => Self::Done {
                files: u32::from_le_bytes(take(&mut rest)?),
            },
            other => return Err(bad(format!("unknown frame kind {other}"))),
        })
    }
}

fn take<const N: usize>(from: &mut &[u8]) -> io::Result<[u8; N]> {
    let (head, rest) = from
        .split_first_chunk::<N>()
        .ok_or_else(|| bad("a frame is too short"))?;
    *from = rest;
    Ok(*head)
}

fn text(bytes: &[u8]) -> io::Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| bad("a frame's text is not UTF-8"))
}

/// FNV-1a, a word at a time: made to notice loss and mix-ups on the way, quick even under emulation.
#[derive(Debug, Clone)]
pub struct Checksum {
    state: u64,
    pending: [u8; 8],
    filled: usize,
}

impl Default for Checksum {
    fn default() -> Self {
        Self {
            state: 0xcbf2_9ce4_8422_2325,
            pending: [0; 8],
            filled: 0,
        }
    }
}

impl Checksum {
    fn word(&mut self, word: u64) {
        self.state = (self.state ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        // FNV alone never carries a high bit of a word downwards.
        self.state ^= self.state >> 32;
    }

    /// Adds bytes; how they are cut into pieces does not matter.
    pub fn add(&mut self, mut bytes: &[u8]) {
        while self.filled != 0 && !bytes.is_empty() {
            self.pending[self.filled] = bytes[0];
            self.filled = (self.filled + 1) % 8;
            bytes = &bytes[1..];
            if self.filled == 0 {
                self.word(u64::from_le_bytes(self.pending));
            }
        }
        let (words, tail) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        for &byte in tail {
            self.pending[self.filled] = byte;
            self.filled += 1;
        }
    }

    /// The sum of all bytes added.
    #[must_use]
    pub fn finish(mut self) -> u64 {
        let filled = self.filled;
        self.pending[filled..].fill(0);
        let last = u64::from_le_bytes(self.pending);
        self.word(last);
        self.word(filled as u64);
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire() {
        let frames = [
            Frame::Hello("7.3.4".into()),
            Frame::Note("careful".into()),
            Frame::Exit {
                code: 137,
                stdout: 1 << 40,
                stderr: 0,
            },
            Frame::KernelWarning("WARNING: x".into()),
            Frame::Dir {
                mode: 0o755,
                path: "a".into(),
            },
            Frame::File {
                mode: 0o644,
                size: 3,
                path: "a/b".into(),
            },
            Frame::Data(vec![0, 255, 13]),
            Frame::Sum(7),
            Frame::Link {
                path: "l".into(),
                target: "a/b".into(),
            },
            Frame::Done { files: 1 },
        ];
        let mut wire = Vec::new();
        for frame in &frames {
            frame.write(&mut wire).unwrap();
        }
        let mut from = wire.as_slice();
        for frame in &frames {
            assert_eq!(Frame::read(&mut from).unwrap().as_ref(), Some(frame));
        }
        assert_eq!(Frame::read(&mut from).unwrap(), None);
    }

    #[test]
    fn a_cut_or_foreign_stream_is_an_error_and_no_panic() {
        let mut wire = Vec::new();
        Frame::Exit {
            code: 0,
            stdout: 1,
            stderr: 2,
        }
        .write(&mut wire)
        .unwrap();
        for cut in 1..wire.len() {
            assert!(Frame::read(&mut &wire[..cut]).is_err(), "cut at {cut}");
        }
        for tag in 0..=255_u8 {
            // Too short a body for most kinds: an error or a frame, never a panic.
            let _ = Frame::decode(tag, vec![1]).is_ok();
        }
        assert!(Frame::read(&mut [DATA, 255, 255, 255, 255].as_slice()).is_err());
    }

    #[test]
    fn the_checksum_does_not_care_how_bytes_are_cut() {
        let bytes: Vec<u8> = (0..100_u8).collect();
        let sum = |cuts: &[usize]| {
            let mut sum = Checksum::default();
            let mut at = 0;
            for &cut in cuts {
                sum.add(&bytes[at..cut]);
                at = cut;
            }
            sum.add(&bytes[at..]);
            sum.finish()
        };
        let whole = sum(&[]);
        assert_eq!(whole, sum(&[1, 2, 50, 51]));
        assert_eq!(whole, sum(&[8, 16, 99]));
        let mut less = Checksum::default();
        less.add(&bytes[..99]);
        assert_ne!(whole, less.finish());
    }
}
