//! A range of addresses, as users write it.

use std::fmt;
use std::str::FromStr;

/// Addresses from `start` to `end`, which is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first one.
    pub start: u64,
    /// The first one after it.
    pub end: u64,
}

/// One past the highest address that a program can have, with five levels of page tables.
const USER_END: u64 = 1 << 56;

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start, self.end)
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || {
            "two addresses, such as 0x7f0000000000-0x7f0000010000, or one and a length, such as 0x7f0000000000+64K"
                .to_owned()
        };
        let (start, end) = if let Some((start, length)) = text.split_once('+') {
            let start = address(start, has_letters(start))?.ok_or_else(form)?;
            let length = length_of(length).ok_or_else(form)?;
            (start, start.checked_add(length).ok_or_else(form)?)
        } else {
            let (start, end) = text.split_once('-').ok_or_else(form)?;
            // As in /proc/PID/maps: if one of them has letters, both are hexadecimal.
            let hex = has_letters(start) || has_letters(end);
            (
                address(start, hex)?.ok_or_else(form)?,
                address(end, hex)?.ok_or_else(form)?,
            )
        };
        if start >= end {
            return Err(format!(
                "no address is in {start:#x}-{end:#x}: the end has to be above the start"
            ));
        }
        if start >= USER_END {
            return Err(format!(
                "{start:#x} is an address of the kernel: no program has memory there"
            ));
        }
        Ok(Self { start, end })
    }
}

/// Whether a number without 0x can only be hexadecimal: by its letters, or by the zero before it.
fn has_letters(text: &str) -> bool {
    !is_marked(text)
        && (text.contains(|c: char| c.is_ascii_alphabetic()) || text.len() > 1 && text.starts_with('0'))
}

fn is_marked(text: &str) -> bool {
    text.starts_with("0x") || text.starts_with("0X")
}

/// An address; `None`: it is no number.
fn address(text: &str, hex: bool) -> Result<Option<u64>, String> {
    if is_marked(text) {
        return Ok(digits(&text[2..], 16));
    }
    if hex {
        return Ok(digits(text, 16));
    }
    if text.len() == 12 {
        // So long are those of /proc/PID/maps, which need not have a letter. In decimal nothing of a program is there.
        return Err(format!(
            "{text} may be meant in hexadecimal: write 0x{text}, or 0x and the number"
        ));
    }
    Ok(digits(text, 10))
}

/// A number without a sign.
fn digits(text: &str, radix: u32) -> Option<u64> {
    (!text.starts_with('+')).then(|| u64::from_str_radix(text, radix).ok())?
}

/// Bytes, such as 4096, 0x1000, 64K or 2M.
fn length_of(text: &str) -> Option<u64> {
    if is_marked(text) {
        return digits(&text[2..], 16);
    }
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit {
        "" => 1,
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        _ => return None,
    };
    digits(number, 10)?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_hexadecimal_or_decimal() {
        let range = |start, end| Ok(Range { start, end });
        for (text, expected) in [
            (
                "0x7f0000000000-0x7f0000010000",
                range(0x7f00_0000_0000, 0x7f00_0001_0000),
            ),
            (
                "7f0000000000-7f0000010000",
                range(0x7f00_0000_0000, 0x7f00_0001_0000),
            ),
            ("7f1234567000-701234568000", Err(())),
            (
                "555512345000-55551234a000",
                range(0x5555_1234_5000, 0x5555_1234_a000),
            ),
            ("00400000-00452000", range(0x40_0000, 0x45_2000)),
            ("0-4096", range(0, 4096)),
            ("4194304-0x500000", range(0x40_0000, 0x50_0000)),
            ("0x400000+64K", range(0x40_0000, 0x41_0000)),
            ("0x400000+0x1000", range(0x40_0000, 0x40_1000)),
            ("0x400000+4096", range(0x40_0000, 0x40_1000)),
            ("94000000000000+1G", range(94_000_000_000_000, 94_001_073_741_824)),
        ] {
            assert_eq!(text.parse::<Range>().map_err(drop), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused_with_a_reason() {
        for (text, word) in [
            ("0x1000", "two addresses"),
            ("", "two addresses"),
            ("-", "two addresses"),
            ("0x1000-", "two addresses"),
            ("stack-heap", "two addresses"),
            ("0x1000-+5", "two addresses"),
            ("0x1000+5Q", "two addresses"),
            ("0xffffffffffffffff+1", "two addresses"),
            ("0x2000-0x1000", "above the start"),
            ("0x1000-0x1000", "above the start"),
            ("0x1000+0", "above the start"),
            ("555512345000-555512346000", "0x555512345000"),
            ("0xffff888000000000-0xffff888000001000", "of the kernel"),
        ] {
            let error = text.parse::<Range>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_range_is_printed_as_it_can_be_given_again() {
        let range: Range = "0x400000+64K".parse().unwrap();
        assert_eq!(range.to_string(), "0x400000-0x410000");
        assert_eq!(range.to_string().parse(), Ok(range));
    }
}
