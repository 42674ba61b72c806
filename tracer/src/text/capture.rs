//! A small part of a kernel's text, with what is needed to search it: a fixture, or an attachment
//! to a report about a pattern that was not recognised.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};

use serde::{Deserialize, Serialize};

use super::matcher::{candidates, find_in_part};
use super::symbols::without_cold;
use super::{Blacklist, Offsets, Sites, Symbols, Text, TextError};

/// The functions that matter, as bytes, with the symbols that they refer to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Capture {
    /// Which kernel, for people.
    pub kernel: String,
    /// Whether the text was taken from a running kernel.
    pub live: bool,
    /// Where the fields are.
    pub offsets: Offsets,
    /// In the format of `/proc/kallsyms`.
    pub kallsyms: String,
    /// In the format of the kernel's list.
    pub blacklist: String,
    /// Address and bytes in hexadecimal.
    pub pieces: Vec<(u64, String)>,
}

impl Capture {
    /// Takes functions with sites, and some that only look as if they had one, up to about `budget`
    /// bytes: the core of the lock first, then the shortest ones.
    pub fn new(
        kernel: String,
        text: &Text,
        symbols: &Symbols,
        offsets: &Offsets,
        blacklist: &Blacklist,
        sites: &Sites,
        budget: usize,
    ) -> Self {
        let named: BTreeSet<&str> = sites
            .sites
            .iter()
            .map(|site| site.function.as_str())
            .chain(sites.unrecognised.iter().map(|odd| odd.function.as_str()))
            .collect();
        let core =
            |name: &str| name.starts_with("lock_") || name.contains("vma_") || name.contains("folio_lock");
        let mut order: Vec<(u8, u64, usize)> = symbols
            .all()
            .iter()
            .enumerate()
            .filter(|(_, symbol)| named.contains(symbols.name(symbol)))
            .map(|(i, symbol)| {
                (
                    u8::from(!core(symbols.name(symbol))),
                    symbol.end - symbol.address,
                    i,
                )
            })
            .collect();
        order.sort_unstable();
        let mut decoys: Vec<(u8, u64, usize)> = candidates(text, symbols, offsets)
            .into_iter()
            .filter(|&i| !named.contains(symbols.name(&symbols.all()[i])))
            .map(|i| (2, symbols.all()[i].end - symbols.all()[i].address, i))
            .filter(|decoy| decoy.1 > 64)
            .collect();
        decoys.sort_unstable();
        order.extend(decoys.into_iter().take(6));

        let mut taken = BTreeSet::new();
        let mut size = 0;
        for (rank, len, i) in order {
            if size > budget && rank == 1 {
                continue;
            }
            let symbol = &symbols.all()[i];
            let name = symbols.name(symbol);
            let cold = symbols.all().iter().enumerate().filter(|(_, moved)| {
                let own = symbols.name(moved);
                own.len() > name.len() && own.starts_with(name) && without_cold(own) == Some(name)
            });
            taken.extend(cold.map(|(i, _)| i));
            taken.insert(i);
            size += len as usize;
        }

        let mut lines = BTreeSet::new();
        for (name, address) in ["_text", "_stext", "_etext"].into_iter().zip(symbols.marks()) {
            lines.extend(address.map(|address| (address, 'T', name.to_owned())));
        }
        let mut ends = BTreeSet::new();
        let mut own = String::new();
        let mut pieces = Vec::new();
        for i in taken {
            let symbol = &symbols.all()[i];
            let Some(bytes) = text.get(symbol.address..symbol.end) else {
                continue;
            };
            lines.insert((symbol.address, 't', symbols.name(symbol).to_owned()));
            ends.insert(symbol.end);
            for target in targets(bytes, symbol.address) {
                let called = symbols.containing(target).map(|i| &symbols.all()[i]);
                if let Some(called) = called.filter(|called| called.address == target) {
                    lines.insert((target, 't', symbols.name(called).to_owned()));
                    ends.insert(called.end);
                }
            }
            if blacklist.has(symbol.address) {
                let _ = writeln!(
                    own,
                    "{:#x}-{:#x}\t{}",
                    symbol.address,
                    symbol.end,
                    symbols.name(symbol)
                );
            }
            let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            pieces.push((symbol.address, hex));
        }
        // So that everything ends where it ended.
        for (address, ..) in &lines {
            ends.remove(address);
        }
        lines.extend(ends.into_iter().map(|end| (end, 't', "__pfx_end".to_owned())));
        let kallsyms = lines
            .iter()
            .fold(String::new(), |mut all, (address, kind, name)| {
                let _ = writeln!(all, "{address:016x} {kind} {name}");
                all
            });
        Self {
            kernel,
            live: text.live,
            offsets: *offsets,
            kallsyms,
            blacklist: own,
            pieces,
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it is broken.
    pub fn read(packed: impl io::Read) -> io::Result<Self> {
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed)
            .take(1 << 26)
            .read_to_string(&mut text)?;
        serde_json::from_str(&text).map_err(io::Error::from)
    }

    /// Writes it, packed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, to: impl io::Write) -> io::Result<()> {
        let mut packer = flate2::write::GzEncoder::new(to, flate2::Compression::best());
        packer.write_all(&serde_json::to_vec(self)?)?;
        packer.finish()?.flush()
    }

    /// The text.
    pub fn text(&self) -> Text {
        let byte =
            |hex: &[u8]| u8::from_str_radix(std::str::from_utf8(hex).unwrap_or("cc"), 16).unwrap_or(0xcc);
        let piece = |(address, hex): &(u64, String)| (*address, hex.as_bytes().chunks(2).map(byte).collect());
        let mut text = Text::from_pieces(self.pieces.iter().map(piece));
        text.live = self.live;
        text
    }

    /// The symbols.
    ///
    /// # Errors
    /// When there are none.
    pub fn symbols(&self) -> Result<Symbols, TextError> {
        Symbols::parse_with_ends(self.kallsyms.as_bytes())
    }

    /// Searches it.
    ///
    /// # Errors
    /// As [`super::find`].
    pub fn find(&self) -> Result<Sites, TextError> {
        let blacklist = Blacklist::parse(&self.blacklist).unwrap_or_default();
        find_in_part(&self.text(), &self.symbols()?, &self.offsets, Some(&blacklist))
    }
}

/// Where direct calls and long jumps lead, among them some that are none.
fn targets(bytes: &[u8], address: u64) -> impl Iterator<Item = u64> + '_ {
    bytes.windows(6).enumerate().filter_map(move |(p, window)| {
        let (end, rel) = match window {
            [0xe8 | 0xe9, rel @ .., _] => (p + 5, rel),
            [0x0f, 0x80..=0x8f, rel @ ..] => (p + 6, rel),
            _ => return None,
        };
        let rel = i32::from_le_bytes(rel.try_into().ok()?);
        Some((address + end as u64).wrapping_add_signed(i64::from(rel)))
    })
}
