//! From bytes to an [`Event`], and back. Never panics; what is wrong is an error that names itself.

use core::fmt;

use super::{ABI, Body, COMM_LEN, Event, Header, Kind, MAX_EVENT, VmaBody};

/// Why bytes are no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Fewer bytes than the event says, or than a header needs.
    Short {
        /// How many are needed.
        need: usize,
        /// How many are there.
        have: usize,
    },
    /// Written by another version of the header.
    Abi(u8),
    /// A kind that this version does not know; `len` bytes can be skipped.
    Kind {
        /// Its number.
        kind: u8,
        /// Length of the event in bytes.
        len: u16,
    },
    /// A length that cannot be.
    Length {
        /// The kind.
        kind: u8,
        /// The length in bytes.
        len: u16,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Short { need, have } => write!(f, "event cut short: {have} bytes of {need}"),
            Self::Abi(abi) => write!(f, "event of wire version {abi}; this program reads version {ABI}"),
            Self::Kind { kind, .. } => write!(f, "event of unknown kind {kind}"),
            Self::Length { kind, len } => write!(f, "event of kind {kind} with impossible length {len}"),
        }
    }
}

impl core::error::Error for DecodeError {}

const HEADER_LEN: usize = size_of::<Header>();

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

/// The header of the event at the start of `bytes`, whatever its kind is: the layout is the same for all. `None` if
/// there are fewer bytes than a header has, or if it is of another version.
pub fn header(bytes: &[u8]) -> Option<Header> {
    (bytes.len() >= HEADER_LEN && bytes[0] == ABI).then(|| header_of(bytes))
}

#[inline]
fn header_of(bytes: &[u8]) -> Header {
    let mut comm = [0; COMM_LEN];
    comm.copy_from_slice(&bytes[32..48]);
    Header {
        abi: bytes[0],
        kind: bytes[1],
        len: u16_at(bytes, 2),
        cpu: u16_at(bytes, 4),
        flags: u16_at(bytes, 6),
        ts_ns: u64_at(bytes, 8),
        seq: u32_at(bytes, 16),
        pid: u32_at(bytes, 20),
        tid: u32_at(bytes, 24),
        site: u32_at(bytes, 28),
        comm,
    }
}

/// Decodes the event at the start of `bytes`; gives it and the number of bytes that it took.
///
/// # Errors
/// See [`DecodeError`]. After [`DecodeError::Kind`] the reader may go on `len` bytes further.
#[inline]
pub fn decode(bytes: &[u8]) -> Result<(Event, usize), DecodeError> {
    if bytes.len() < HEADER_LEN {
        return Err(DecodeError::Short {
            need: HEADER_LEN,
            have: bytes.len(),
        });
    }
    if bytes[0] != ABI {
        return Err(DecodeError::Abi(bytes[0]));
    }
    let number = bytes[1];
    let len = u16_at(bytes, 2);
    let total = usize::from(len);
    if total < HEADER_LEN || total % 8 != 0 {
        return Err(DecodeError::Length { kind: number, len });
    }
    let Some(kind) = Kind::from_number(number) else {
        return Err(DecodeError::Kind { kind: number, len });
    };
    if len < kind.wire_len() {
        return Err(DecodeError::Length { kind: number, len });
    }
    if bytes.len() < total {
        return Err(DecodeError::Short {
            need: total,
            have: bytes.len(),
        });
    }

    let header = header_of(bytes);
    let body = match kind.body() {
        Body::Mmap => VmaBody {
            mm: u64_at(bytes, 48),
            vma: 0,
            vm_start: 0,
            vm_end: 0,
            vm_refcnt: 0,
            vm_lock_seq: 0,
            mm_lock_seq: u32_at(bytes, 56),
            arg: 0,
        },
        Body::Vma => VmaBody {
            mm: u64_at(bytes, 48),
            vma: u64_at(bytes, 56),
            vm_start: u64_at(bytes, 64),
            vm_end: u64_at(bytes, 72),
            vm_refcnt: u32_at(bytes, 80),
            vm_lock_seq: u32_at(bytes, 84),
            mm_lock_seq: u32_at(bytes, 88),
            arg: u32_at(bytes, 92),
        },
    };
    Ok((Event { kind, header, body }, total))
}

impl Event {
    /// Writes the event as the kernel would; gives the number of bytes.
    pub fn encode(&self, out: &mut [u8; MAX_EVENT]) -> usize {
        let header = &self.header;
        let len = self.kind.wire_len();
        out[0] = ABI;
        out[1] = self.kind as u8;
        out[2..4].copy_from_slice(&len.to_le_bytes());
        out[4..6].copy_from_slice(&header.cpu.to_le_bytes());
        out[6..8].copy_from_slice(&header.flags.to_le_bytes());
        out[8..16].copy_from_slice(&header.ts_ns.to_le_bytes());
        out[16..20].copy_from_slice(&header.seq.to_le_bytes());
        out[20..24].copy_from_slice(&header.pid.to_le_bytes());
        out[24..28].copy_from_slice(&header.tid.to_le_bytes());
        out[28..32].copy_from_slice(&header.site.to_le_bytes());
        out[32..48].copy_from_slice(&header.comm);
        let body = &self.body;
        out[48..56].copy_from_slice(&body.mm.to_le_bytes());
        match self.kind.body() {
            Body::Mmap => {
                out[56..60].copy_from_slice(&body.mm_lock_seq.to_le_bytes());
                out[60..64].fill(0);
            }
            Body::Vma => {
                out[56..64].copy_from_slice(&body.vma.to_le_bytes());
                out[64..72].copy_from_slice(&body.vm_start.to_le_bytes());
                out[72..80].copy_from_slice(&body.vm_end.to_le_bytes());
                out[80..84].copy_from_slice(&body.vm_refcnt.to_le_bytes());
                out[84..88].copy_from_slice(&body.vm_lock_seq.to_le_bytes());
                out[88..92].copy_from_slice(&body.mm_lock_seq.to_le_bytes());
                out[92..96].copy_from_slice(&body.arg.to_le_bytes());
            }
        }
        usize::from(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Provenance, flag};

    fn sample(kind: Kind) -> Event {
        let mut event = Event::synthetic(kind, 0x0102_0304_0506_0708);
        event.header.cpu = 3;
        event.header.flags = flag::MM | flag::MM_SEQ;
        event.header.seq = u32::MAX;
        event.header.pid = 7;
        event.header.tid = 8;
        event.header.site = 9;
        event.header.comm[..4].copy_from_slice(b"cat\x1b");
        event.body.mm = 0xffff_8881_0000_0000;
        event.body.mm_lock_seq = 5;
        if kind.body() == Body::Vma {
            event.body.vma = 0xffff_8881_1111_0000;
            event.body.vm_start = 0x1000;
            event.body.vm_end = 0x3000;
            event.body.vm_refcnt = 0x4000_0002;
            event.body.vm_lock_seq = 11;
            event.body.arg = 0x1000_0400;
        }
        event
    }

    #[test]
    fn every_kind_survives_the_wire() {
        for &kind in Kind::ALL {
            let event = sample(kind);
            let mut bytes = [0xaa; MAX_EVENT];
            let len = event.encode(&mut bytes);
            assert_eq!(decode(&bytes[..len]), Ok((event, len)), "{}", kind.name());
        }
    }

    #[test]
    fn a_cut_event_says_how_much_is_missing() {
        let mut bytes = [0; MAX_EVENT];
        let len = sample(Kind::FaultEnd).encode(&mut bytes);
        for cut in 0..len {
            assert!(matches!(decode(&bytes[..cut]), Err(DecodeError::Short { have, .. }) if have == cut));
        }
    }

    #[test]
    fn an_unknown_kind_can_be_skipped() {
        let mut bytes = [0; MAX_EVENT];
        sample(Kind::FaultEnd).encode(&mut bytes);
        bytes[1] = 250;
        assert_eq!(decode(&bytes), Err(DecodeError::Kind { kind: 250, len: 96 }));
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        let mut bytes = [0; MAX_EVENT];
        sample(Kind::FaultEnd).encode(&mut bytes);
        for len in [0u16, 47, 49, 64] {
            bytes[2..4].copy_from_slice(&len.to_le_bytes());
            assert!(matches!(decode(&bytes), Err(DecodeError::Length { .. })), "{len}");
        }
    }

    #[test]
    fn a_longer_event_of_a_later_version_is_read_and_its_tail_skipped() {
        let mut bytes = [0u8; 104];
        let mut first = [0; MAX_EVENT];
        let event = sample(Kind::VmaDetach);
        event.encode(&mut first);
        bytes[..96].copy_from_slice(&first);
        bytes[2..4].copy_from_slice(&104u16.to_le_bytes());
        let (decoded, len) = decode(&bytes).unwrap();
        assert_eq!(len, 104);
        assert_eq!(decoded.body, event.body);
    }

    #[test]
    fn provenance_rides_in_the_flags() {
        for provenance in [
            Provenance::Observed,
            Provenance::Derived,
            Provenance::Bounded,
            Provenance::Unknown,
        ] {
            let event = sample(Kind::VmaReadRelease).with_provenance(provenance);
            assert_eq!(event.provenance(), provenance);
            assert!(event.has(flag::MM | flag::MM_SEQ));
        }
    }
}
