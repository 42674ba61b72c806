//! Numbers, times and long texts as people read them. What others chose goes through [`crate::outside`].

use core::fmt::Write as _;
use std::borrow::Cow;

/// A count with its thousands apart: `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration with three digits and its unit: `12.3 ms`.
pub fn duration(ns: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("ns", 1), ("µs", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];
    if ns < 1_000 {
        return format!("{ns} ns");
    }
    // The largest unit of which there is at least one, so that three digits say it.
    let (unit, size) = UNITS
        .iter()
        .rev()
        .find(|(_, size)| ns >= *size)
        .copied()
        .unwrap_or(UNITS[0]);
    let whole = ns / size;
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match whole {
        0..10 => write!(text, "{whole}.{:02}", ns % size * 100 / size),
        10..100 => write!(text, "{whole}.{:01}", ns % size * 10 / size),
        _ => write!(
            text,
            "{}",
            if unit == "s" {
                count(whole)
            } else {
                whole.to_string()
            }
        ),
    };
    text.push(' ');
    text.push_str(unit);
    text
}

/// At most `width` characters; what is cut off ends in `…`.
pub fn fit(text: &str, width: usize) -> Cow<'_, str> {
    if text.chars().count() <= width {
        return Cow::Borrowed(text);
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    Cow::Owned(cut)
}

/// The text in lines of at most `width` characters; a longer word has a line for itself.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_their_thousands_apart() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
    }

    #[test]
    fn durations_have_three_digits() {
        let cases = [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 µs"),
            (12_345, "12.3 µs"),
            (999_999, "999 µs"),
            (1_234_567, "1.23 ms"),
            (61_000_000_000, "61.0 s"),
            (4_000_000_000_000, "4,000 s"),
        ];
        for (ns, text) in cases {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn long_texts_are_wrapped_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("unbreakable a", 4), ["unbreakable", "a"]);
        assert!(wrap("  ", 4).is_empty());
    }

    #[test]
    fn what_is_too_long_is_cut() {
        assert_eq!(fit("kworker/0:1", 20), "kworker/0:1");
        assert_eq!(fit("kworker/0:1", 6), "kwork…");
    }
}
