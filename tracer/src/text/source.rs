//! Where the bytes of the kernel's text come from: the running kernel, a vmlinux, a boot image.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::{Symbols, TextError};

/// Nothing that we unpack is larger.
const MAX_IMAGE: usize = 1 << 30;
/// The kernel's own half of the address space.
const KERNEL: u64 = 0xffff_8000_0000_0000;

/// The bytes of a kernel's text.
#[derive(Clone, Debug, Default)]
pub struct Text {
    segments: Vec<Segment>,
    /// The build id that stands in the file itself.
    pub build_id: Option<String>,
    /// What is at an address when it runs was patched for this machine.
    pub live: bool,
}

#[derive(Clone, Debug)]
struct Segment {
    address: u64,
    bytes: Vec<u8>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        bytes.get(at..at.checked_add(2)?)?.try_into().ok()?,
    ))
}
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        bytes.get(at..at.checked_add(8)?)?.try_into().ok()?,
    ))
}

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PF_X: u32 = 1;

struct Program {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_size: u64,
}

/// Reads the program headers of an ELF file for x86-64.
fn programs(header: &[u8]) -> Result<Vec<Program>, TextError> {
    let broken = |what| TextError::Broken { what };
    if !header.starts_with(b"\x7fELF") {
        return Err(broken("not an ELF file"));
    }
    if header.get(4) != Some(&2) || header.get(5) != Some(&1) || u16_at(header, 18) != Some(62) {
        return Err(broken("an ELF file, but not for x86-64"));
    }
    let cut = || broken("ELF header cut short");
    let start = u64_at(header, 32).ok_or_else(cut)?;
    let size = u64::from(u16_at(header, 54).ok_or_else(cut)?);
    let count = u64::from(u16_at(header, 56).ok_or_else(cut)?);
    if size < 56 {
        return Err(broken("ELF program headers are too small"));
    }
    (0..count)
        .map(|i| {
            let at = usize::try_from(start.checked_add(i * size)?).ok()?;
            Some(Program {
                kind: u32_at(header, at)?,
                flags: u32_at(header, at.checked_add(4)?)?,
                offset: u64_at(header, at.checked_add(8)?)?,
                address: u64_at(header, at.checked_add(16)?)?,
                file_size: u64_at(header, at.checked_add(32)?)?,
            })
        })
        .collect::<Option<Vec<_>>>()
        .ok_or(broken("ELF program headers cut short"))
}

fn open_kcore(path: &Path) -> Result<(File, Vec<Program>), TextError> {
    let unreadable = |error: io::Error| TextError::unreadable(path, &error);
    let file = File::open(path).map_err(unreadable)?;
    let mut header = vec![0; 64];
    file.read_exact_at(&mut header, 0).map_err(unreadable)?;
    let count = u16_at(&header, 56).map_or(0, usize::from);
    let size = u16_at(&header, 54).map_or(0, usize::from);
    let start = u64_at(&header, 32).and_then(|start| usize::try_from(start).ok());
    let start = start.filter(|start| (64..1 << 20).contains(start));
    let start = start.ok_or(TextError::Broken {
        what: "ELF program headers are not where they should be",
    })?;
    header.resize(start + count * size, 0);
    file.read_exact_at(&mut header, 0).map_err(unreadable)?;
    Ok((file, programs(&header)?))
}

/// The build id in a list of ELF notes, such as `/sys/kernel/notes`.
pub fn build_id(notes: &[u8]) -> Option<String> {
    let mut at = 0_usize;
    let round = |len: u32| (len as usize).checked_add(3).map(|len| len & !3);
    loop {
        let name_len = u32_at(notes, at)?;
        let len = u32_at(notes, at + 4)?;
        let kind = u32_at(notes, at + 8)?;
        let name = at + 12;
        let value = name.checked_add(round(name_len)?)?;
        if kind == 3 && notes.get(name..name + 4) == Some(b"GNU\0") {
            let id = notes.get(value..value.checked_add(len as usize)?)?;
            return Some(id.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        at = value.checked_add(round(len)?)?;
    }
}

impl Text {
    /// A text of given pieces.
    pub fn from_pieces(pieces: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Self {
        let mut segments: Vec<Segment> = pieces
            .into_iter()
            .map(|(address, bytes)| Segment { address, bytes })
            .collect();
        segments.sort_by_key(|segment| segment.address);
        Self {
            segments,
            build_id: None,
            live: false,
        }
    }

    /// Reads the text of the running kernel and of its modules through `/proc/kcore`.
    ///
    /// # Errors
    /// When the kernel refuses, as under lockdown, or does not have the file, or when the symbols lie
    /// outside of what it has.
    pub fn from_kcore(path: &Path, symbols: &Symbols) -> Result<Self, TextError> {
        let kernel = symbols.kernel_range().ok_or(TextError::NoSymbol {
            name: "_stext or _etext",
        })?;
        let (file, programs) = open_kcore(path)?;
        let mut text = Self {
            live: true,
            ..Self::default()
        };
        text.add(&file, &programs, kernel)?;
        text.add_modules(&file, &programs, symbols);
        Ok(text)
    }

    /// The same, of its modules alone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn modules_from_kcore(path: &Path, symbols: &Symbols) -> Result<Self, TextError> {
        let mut text = Self {
            live: true,
            ..Self::default()
        };
        if !symbols.module_ranges().is_empty() {
            let (file, programs) = open_kcore(path)?;
            text.add_modules(&file, &programs, symbols);
        }
        Ok(text)
    }

    fn add_modules(&mut self, file: &File, programs: &[Program], symbols: &Symbols) {
        for module in symbols.module_ranges() {
            // One that was unloaded in the meantime is not there any more.
            let _ = self.add(file, programs, module);
        }
        self.segments.sort_by_key(|segment| segment.address);
    }

    fn add(&mut self, file: &File, programs: &[Program], range: Range<u64>) -> Result<(), TextError> {
        let len = usize::try_from(range.end - range.start)
            .ok()
            .filter(|&len| len <= MAX_IMAGE);
        let len = len.ok_or(TextError::Broken {
            what: "the text is too large to be one",
        })?;
        let offset = programs
            .iter()
            .filter(|program| program.kind == PT_LOAD)
            .find_map(|program| {
                let within = range.start.checked_sub(program.address)?;
                (within.checked_add(len as u64)? <= program.file_size)
                    .then(|| program.offset.checked_add(within))?
            })
            .ok_or(TextError::Broken {
                what: "the kernel's image does not cover its own text",
            })?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, offset)
            .map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => TextError::Refused {
                    path: "kernel memory".to_owned(),
                },
                _ => TextError::Outside { address: range.start },
            })?;
        self.segments.push(Segment {
            address: range.start,
            bytes,
        });
        Ok(())
    }

    /// Reads a vmlinux or a boot image, and moves it to where the symbols say that the kernel is.
    ///
    /// # Errors
    /// When the file cannot be read, unpacked or understood.
    pub fn from_file(path: &Path, symbols: &Symbols) -> Result<Self, TextError> {
        let bytes = fs::read(path).map_err(|error| TextError::unreadable(path, &error))?;
        let mut text = Self::from_image(&bytes)?;
        let wanted = symbols.text().ok_or(TextError::NoSymbol { name: "_text" })?;
        if let Some(first) = text.segments.first().map(|segment| segment.address) {
            for segment in &mut text.segments {
                segment.address = segment.address.wrapping_sub(first).wrapping_add(wanted);
            }
        }
        Ok(text)
    }

    /// The same, from bytes, at the addresses that it was linked for.
    ///
    /// # Errors
    /// When they cannot be unpacked or understood.
    pub fn from_image(bytes: &[u8]) -> Result<Self, TextError> {
        if bytes.starts_with(b"\x7fELF") {
            return Self::from_elf(bytes);
        }
        Self::from_elf(&unpack(payload(bytes)?)?)
    }

    fn from_elf(bytes: &[u8]) -> Result<Self, TextError> {
        let mut text = Self::default();
        for program in programs(bytes)? {
            let start = usize::try_from(program.offset).ok();
            let end = start.and_then(|start| start.checked_add(usize::try_from(program.file_size).ok()?));
            let content = start.zip(end).and_then(|(start, end)| bytes.get(start..end));
            let content = content.ok_or(TextError::Broken {
                what: "ELF segment lies outside the file",
            })?;
            match program.kind {
                PT_LOAD if program.flags & PF_X != 0 && program.address >= KERNEL => {
                    text.segments.push(Segment {
                        address: program.address,
                        bytes: content.to_vec(),
                    });
                }
                PT_NOTE => text.build_id = text.build_id.take().or_else(|| build_id(content)),
                _ => {}
            }
        }
        if text.segments.is_empty() {
            return Err(TextError::Broken {
                what: "no kernel text in this ELF file",
            });
        }
        text.segments.sort_by_key(|segment| segment.address);
        Ok(text)
    }

    /// Bytes in a range, if all of them are there.
    pub fn get(&self, range: Range<u64>) -> Option<&[u8]> {
        let after = self
            .segments
            .partition_point(|segment| segment.address <= range.start);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        let start = usize::try_from(range.start - segment.address).ok()?;
        let len = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
        segment.bytes.get(start..start.checked_add(len)?)
    }

    /// Bytes from an address on, to the end of the piece that it is in.
    pub fn from(&self, address: u64) -> Option<&[u8]> {
        let after = self
            .segments
            .partition_point(|segment| segment.address <= address);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        segment
            .bytes
            .get(usize::try_from(address - segment.address).ok()?..)
    }

    /// All pieces with their addresses.
    pub fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.segments
            .iter()
            .map(|segment| (segment.address, segment.bytes.as_slice()))
    }

    /// Number of bytes in all.
    pub fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.bytes.len()).sum()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The packed kernel inside a boot image: <https://docs.kernel.org/arch/x86/boot.html>.
fn payload(bytes: &[u8]) -> Result<&[u8], TextError> {
    if bytes.get(0x202..0x206) != Some(b"HdrS") {
        return Err(TextError::Broken {
            what: "neither an ELF file nor an x86 boot image",
        });
    }
    let inner = || {
        let sectors = match bytes.get(0x1f1)? {
            0 => 4,
            &sectors => usize::from(sectors),
        };
        let start = ((sectors + 1) * 512).checked_add(u32_at(bytes, 0x248)? as usize)?;
        bytes.get(start..start.checked_add(u32_at(bytes, 0x24c)? as usize)?)
    };
    inner().ok_or(TextError::Broken {
        what: "boot image cut short",
    })
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>, TextError> {
    let limit = MAX_IMAGE as u64;
    let mut out = Vec::new();
    let failed = |method| move |_| TextError::Packed { method };
    match packed {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = ruzstd::decoding::StreamingDecoder::new(packed)
                .map_err(|_| TextError::Packed { method: "zstd" })?;
            decoder
                .by_ref()
                .take(limit)
                .read_to_end(&mut out)
                .map_err(failed("zstd"))?;
        }
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            lzma_rust2::XzReader::new(packed, false)
                .take(limit)
                .read_to_end(&mut out)
                .map_err(failed("xz"))?;
        }
        [0x1f, 0x8b, ..] => {
            flate2::read::GzDecoder::new(packed)
                .take(limit)
                .read_to_end(&mut out)
                .map_err(failed("gzip"))?;
        }
        [0x02, 0x21, 0x4c, 0x18, rest @ ..] => {
            out = unpack_lz4(rest).ok_or(TextError::Packed { method: "lz4" })?;
        }
        [b'B', b'Z', b'h', ..] => return Err(TextError::UnknownPacking { method: "bzip2" }),
        [0x89, b'L', b'Z', b'O', ..] => return Err(TextError::UnknownPacking { method: "lzo" }),
        [0x5d, 0, 0, ..] => return Err(TextError::UnknownPacking { method: "lzma" }),
        _ => {
            return Err(TextError::UnknownPacking {
                method: "an unknown method",
            });
        }
    }
    Ok(out)
}

/// The old frame format, which the kernel's build uses: blocks of at most 8 MiB, each with its packed length.
fn unpack_lz4(mut rest: &[u8]) -> Option<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    let mut out = Vec::new();
    while let Some(len) = u32_at(rest, 0) {
        let len = len as usize;
        // What follows the last block is the length of the whole, which no block's length can be.
        let Some(block) = rest.get(4..4_usize.checked_add(len)?) else {
            break;
        };
        if len == 0 || out.len() > MAX_IMAGE {
            break;
        }
        let mut unpacked = vec![0; BLOCK];
        let got = lz4_flex::block::decompress_into(block, &mut unpacked).ok()?;
        out.extend_from_slice(&unpacked[..got]);
        rest = &rest[4 + len..];
    }
    (!out.is_empty()).then_some(out)
}
