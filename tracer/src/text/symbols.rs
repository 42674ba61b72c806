//! Where functions begin and end, from kallsyms.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use super::TextError;

/// One symbol in the kernel's text, or in a module's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Where it begins.
    pub address: u64,
    /// Where the next one begins.
    pub end: u64,
    name: (u32, u32),
    /// Index into the modules, 0: the kernel itself.
    module: u16,
    /// Seen from outside its file.
    global: bool,
}

/// The text symbols of a kernel and its modules, by address.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    names: String,
    symbols: Vec<Symbol>,
    modules: Vec<String>,
    /// Functions that the kernel keeps free of kprobes, as far as their marks have symbols.
    marked: Vec<(u32, u32)>,
    /// `_text`, `_stext`, `_etext`.
    marks: [Option<u64>; 3],
    /// Keep symbols of padding: they tell where something ends.
    ends: bool,
}

const MARKS: [&str; 3] = ["_text", "_stext", "_etext"];
/// Variables that `NOKPROBE_SYMBOL` leaves behind.
const NOKPROBE: &str = "_kbl_addr_";
/// A module's last function has no next symbol; it surely ends with its page.
const PAGE: u64 = 4096;

impl Symbols {
    /// Reads `/proc/kallsyms`, or a copy of it, or a `System.map`.
    ///
    /// # Errors
    /// When it cannot be read, or shows no addresses.
    pub fn read(path: &Path) -> Result<Self, TextError> {
        let bytes = fs::read(path).map_err(|error| TextError::unreadable(path, &error))?;
        Self::parse(&bytes)
    }

    /// Where `_text` is, from the first lines of such a file; `None` also if addresses are hidden.
    pub(super) fn text_only(path: &Path) -> Option<u64> {
        let mut lines = BufReader::new(fs::File::open(path).ok()?);
        let mut line = String::new();
        loop {
            line.clear();
            if lines.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let mut words = line.split_ascii_whitespace();
            if let (Some(address), _, Some("_text")) = (words.next(), words.next(), words.next()) {
                return u64::from_str_radix(address, 16)
                    .ok()
                    .filter(|&address| address != 0);
            }
        }
    }

    /// Parses the same.
    ///
    /// # Errors
    /// When there are no symbols, or no addresses.
    pub fn parse(bytes: &[u8]) -> Result<Self, TextError> {
        Self::parse_lines(bytes, false)
    }

    /// The same of a part of the symbols, which says itself where each function ends.
    pub(super) fn parse_with_ends(bytes: &[u8]) -> Result<Self, TextError> {
        Self::parse_lines(bytes, true)
    }

    fn parse_lines(bytes: &[u8], ends: bool) -> Result<Self, TextError> {
        let mut all = Self {
            ends,
            ..Self::default()
        };
        all.modules.push(String::new());
        let mut at = 0;
        while at < bytes.len() {
            let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |len| at + len);
            all.line(&bytes[at..end]);
            at = end + 1;
        }
        let hidden = all.symbols.iter().all(|symbol| symbol.address == 0);
        if all.symbols.is_empty() {
            return Err(TextError::NoSymbols);
        }
        if hidden {
            return Err(TextError::HiddenSymbols);
        }
        all.symbols.retain(|symbol| symbol.address != 0);
        // Of names for one address the one that others see stands first.
        all.symbols.sort_by_key(|symbol| (symbol.address, !symbol.global));
        let mut end = u64::MAX;
        let mut module = u16::MAX;
        for i in (0..all.symbols.len()).rev() {
            let next = all.symbols.get(i + 1).map(|symbol| symbol.address);
            if next.is_some_and(|next| next != all.symbols[i].address) {
                end = next.unwrap_or(u64::MAX);
            }
            let symbol = &mut all.symbols[i];
            let page = (symbol.address | (PAGE - 1)).saturating_add(1);
            if symbol.module != module && next != Some(symbol.address) {
                end = end.min(page);
            }
            module = symbol.module;
            symbol.end = end;
        }
        Ok(all)
    }

    fn line(&mut self, line: &[u8]) {
        // "ffffffff81000000 T _text", and for a module's symbol a tab and its name in brackets.
        let Some(space) = line.iter().position(|&byte| byte == b' ') else {
            return;
        };
        let (Some(&kind), Some(b' ')) = (line.get(space + 1), line.get(space + 2)) else {
            return;
        };
        let rest = &line[space + 3..];
        let (name, module) = match rest.iter().position(|&byte| byte == b'\t') {
            Some(tab) => (&rest[..tab], &rest[tab + 1..]),
            None => (rest, &b""[..]),
        };
        let marked = name.starts_with(NOKPROBE.as_bytes());
        if !marked && !matches!(kind, b't' | b'T' | b'w' | b'W') {
            return;
        }
        let Ok(name) = std::str::from_utf8(name) else {
            return;
        };
        let mut address = 0_u64;
        for &digit in &line[..space] {
            let Some(digit) = (digit as char).to_digit(16) else {
                return;
            };
            address = address << 4 | u64::from(digit);
        }
        let start = self.names.len() as u32;
        if marked {
            self.names.push_str(&name[NOKPROBE.len()..]);
            self.marked.push((start, self.names.len() as u32));
            return;
        }
        if module.is_empty()
            && let Some(mark) = MARKS.iter().position(|&mark| mark == name)
        {
            self.marks[mark] = Some(address);
        }
        // Padding before a function, and labels that end something, are no functions.
        if !self.ends && name.starts_with("__pfx_") || name.starts_with("__cfi_") {
            return;
        }
        let module = match module {
            b"" => 0,
            [b'[', inner @ .., b']'] => {
                let inner = String::from_utf8_lossy(inner);
                // Symbols of one module stand together.
                match self.modules.iter().rposition(|known| *known == inner) {
                    Some(known) => known as u16,
                    None => {
                        self.modules.push(inner.into_owned());
                        (self.modules.len() - 1) as u16
                    }
                }
            }
            _ => return,
        };
        self.names.push_str(name);
        self.symbols.push(Symbol {
            address,
            end: 0,
            name: (start, self.names.len() as u32),
            module,
            global: kind.is_ascii_uppercase(),
        });
    }

    /// The name of a symbol.
    pub fn name(&self, symbol: &Symbol) -> &str {
        &self.names[symbol.name.0 as usize..symbol.name.1 as usize]
    }

    /// The module that a symbol is in, if any.
    pub fn module(&self, symbol: &Symbol) -> Option<&str> {
        (symbol.module != 0).then(|| self.modules[symbol.module as usize].as_str())
    }

    /// All text symbols, by address.
    pub fn all(&self) -> &[Symbol] {
        &self.symbols
    }

    /// `_text`, `_stext`, `_etext`.
    pub(super) fn marks(&self) -> [Option<u64>; 3] {
        self.marks
    }

    /// `_text`.
    pub fn text(&self) -> Option<u64> {
        self.marks[0].or(self.marks[1])
    }

    /// From `_stext` to `_etext`.
    pub fn kernel_range(&self) -> Option<std::ops::Range<u64>> {
        let range = self.marks[1].or(self.marks[0])?..self.marks[2]?;
        (range.start < range.end).then_some(range)
    }

    /// The extent of each module's text, as far as symbols tell.
    pub fn module_ranges(&self) -> Vec<std::ops::Range<u64>> {
        let mut ranges: Vec<std::ops::Range<u64>> = Vec::new();
        let mut last = 0;
        for symbol in self.symbols.iter().filter(|symbol| symbol.module != 0) {
            match ranges.last_mut() {
                Some(range)
                    if last == symbol.module && symbol.address <= range.end.saturating_add(16 * PAGE) =>
                {
                    range.end = range.end.max(symbol.end);
                }
                _ => ranges.push(symbol.address..symbol.end),
            }
            last = symbol.module;
        }
        ranges
    }

    /// Index of the symbol that an address belongs to: the first of those with the same address.
    pub fn containing(&self, address: u64) -> Option<usize> {
        let after = self.symbols.partition_point(|symbol| symbol.address <= address);
        let last = self.symbols.get(after.checked_sub(1)?)?;
        if address >= last.end {
            return None;
        }
        Some(
            self.symbols
                .partition_point(|symbol| symbol.address < last.address),
        )
    }

    /// The name of the symbol that an address belongs to, and the distance from its start.
    pub fn at(&self, address: u64) -> Option<(&str, u64)> {
        let symbol = &self.symbols[self.containing(address)?];
        Some((self.name(symbol), address - symbol.address))
    }

    /// Addresses of all symbols of a name, with and without what the compiler appends (`.isra.0`).
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Symbol> {
        self.symbols.iter().filter(move |symbol| {
            let own = self.name(symbol);
            own.strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    /// Symbols of exactly these names, in one pass.
    pub fn exactly(&self, names: &[&str]) -> Vec<Vec<usize>> {
        let mut found = vec![Vec::new(); names.len()];
        for (i, symbol) in self.symbols.iter().enumerate() {
            let len = symbol.name.1 - symbol.name.0;
            for (n, name) in names.iter().enumerate() {
                if name.len() == len as usize && self.name(symbol) == *name {
                    found[n].push(i);
                }
            }
        }
        found
    }

    /// Names of functions that `NOKPROBE_SYMBOL` marks.
    pub fn marked(&self) -> impl Iterator<Item = &str> {
        self.marked
            .iter()
            .map(|&(start, end)| &self.names[start as usize..end as usize])
    }
}

/// A function's name without what says that it is a part that was moved away.
pub(super) fn without_cold(name: &str) -> Option<&str> {
    let at = name.find(".cold")?;
    let rest = &name[at + 5..];
    (rest.is_empty() || rest.starts_with('.')).then(|| &name[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    const KALLSYMS: &[u8] = b"ffffffff81000000 T _text\nffffffff81000000 T _stext\n\
        ffffffff81000000 t start\nffffffff81000100 t twice\nffffffff81000180 t twice\n\
        ffffffff81000180 t __pfx_other\nffffffff81000200 T _etext\nffffffff82000000 d _kbl_addr_twice\n\
        ffffffffc0001000 t twice\t[binder]\nffffffffc0001080 t last\t[binder]\n";

    #[test]
    fn functions_end_where_the_next_begins() {
        let symbols = Symbols::parse(KALLSYMS).unwrap();
        let i = symbols.containing(0xffff_ffff_8100_0170).unwrap();
        assert_eq!(symbols.name(&symbols.all()[i]), "twice");
        assert_eq!(symbols.all()[i].end, 0xffff_ffff_8100_0180);
        assert_eq!(
            symbols.kernel_range(),
            Some(0xffff_ffff_8100_0000..0xffff_ffff_8100_0200)
        );
        assert_eq!(symbols.named("twice").count(), 3);
        assert_eq!(symbols.marked().collect::<Vec<_>>(), ["twice"]);
    }

    #[test]
    fn a_module_ends_with_its_page() {
        let symbols = Symbols::parse(KALLSYMS).unwrap();
        assert_eq!(
            symbols.module_ranges(),
            std::slice::from_ref(&(0xffff_ffff_c000_1000..0xffff_ffff_c000_2000))
        );
        let i = symbols.containing(0xffff_ffff_c000_1090).unwrap();
        assert_eq!(symbols.module(&symbols.all()[i]), Some("binder"));
        assert_eq!(symbols.containing(0xffff_ffff_c000_2000), None);
    }

    #[test]
    fn hidden_and_absent_symbols_are_told_apart() {
        assert!(matches!(
            Symbols::parse(b"0000000000000000 T _text\n"),
            Err(TextError::HiddenSymbols)
        ));
        assert!(matches!(Symbols::parse(b"\0\0\n"), Err(TextError::NoSymbols)));
    }

    #[test]
    fn parts_that_were_moved_away_belong_to_a_function() {
        assert_eq!(without_cold("do_fault.cold"), Some("do_fault"));
        assert_eq!(without_cold("do_fault.isra.0.cold"), Some("do_fault.isra.0"));
        assert_eq!(without_cold("do_fault.colder"), None);
    }
}
