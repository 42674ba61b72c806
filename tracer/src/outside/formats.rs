//! What single formats need beyond [`super::rewrite`]: their own marks, in a text from outside, as nothing but text.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

use super::{is_harmful, rewrite, spell};

/// For HTML and SVG, in an attribute, too. What is harmful is seen to have been there, and no more: neither has a form for
/// all of it.
pub fn markup(text: &str) -> String {
    let text = rewrite(text, |safe, char| {
        safe.push(if char == '\n' { ' ' } else { '\u{fffd}' });
    });
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            char => out.push(char),
        }
    }
    out
}

/// For a cell of a table, before its quotes: control characters as `\u001b`, and an apostrophe before what a spreadsheet
/// would take for a formula and run.
pub fn cell(text: &str) -> Cow<'_, str> {
    let safe = rewrite(text, four_digits);
    // Blanks before it are skipped by some. Full-width forms are taken for the plain ones by others.
    let begins = text.trim_start().chars().next();
    let runs = matches!(
        begins,
        Some('=' | '+' | '-' | '@' | '|' | '%' | '＝' | '＋' | '－' | '＠')
    ) || text.starts_with(['\t', '\r', '\n']);
    if runs {
        Cow::Owned(format!("'{safe}"))
    } else {
        safe
    }
}

/// For a frame of a folded stack, where a semicolon ends the frame and a blank the stack.
pub fn frame(text: &str) -> String {
    let text = rewrite(text, |safe, _| safe.push('_'));
    let plain = text.chars().map(|char| match char {
        ';' => ':',
        char if char.is_whitespace() => '_',
        char => char,
    });
    plain.collect()
}

/// For the value of a label of Prometheus and OpenMetrics, before its quotes.
pub fn label(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            // A backslash that is meant as one is written twice.
            char if is_harmful(char) => {
                out.push('\\');
                spell(&mut out, char);
            }
            char => out.push(char),
        }
    }
    out
}

/// A text in a JSON document, with its quotes. Nothing is lost: what is harmful is escaped, that above ASCII included,
/// so that a line can be shown on a terminal.
pub fn json_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let text = rewrite_json(text);
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

fn rewrite_json(text: &str) -> Cow<'_, str> {
    if !text.contains(|char| matches!(char, '"' | '\\') || is_harmful(char)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            char if is_harmful(char) => four_digits(&mut out, char),
            char => out.push(char),
        }
    }
    Cow::Owned(out)
}

/// `\u001b`; two of them for what is above U+FFFF, as JSON wants it.
fn four_digits(out: &mut String, char: char) {
    use std::fmt::Write as _;
    for unit in char.encode_utf16(&mut [0; 2]) {
        // Writing to a string cannot fail.
        let _ = write!(out, "\\u{unit:04x}");
    }
}

/// A value as JSON on many lines, harmless on a terminal; nothing in it is lost.
///
/// # Errors
/// If it has no form in JSON.
pub fn json_pretty(value: &impl Serialize) -> serde_json::Result<String> {
    let mut out = Vec::new();
    value.serialize(&mut Serializer::with_formatter(
        &mut out,
        Harmless(PrettyFormatter::new()),
    ))?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// The same on one line.
///
/// # Errors
/// If it has no form in JSON, or cannot be written.
pub fn json_line(out: impl Write, value: &impl Serialize) -> serde_json::Result<()> {
    value.serialize(&mut Serializer::with_formatter(out, Harmless(CompactFormatter)))
}

/// A formatter that escapes what the library leaves as it is: DEL, C1, and what is not seen or turns the direction.
struct Harmless<F>(F);

impl<F: Formatter> Formatter for Harmless<F> {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        out.write_all(rewrite(fragment, four_digits).as_bytes())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_array(out)
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array(out)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array_value(out)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object(out)
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object(out)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object_value(out)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object_value(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_is_markup() {
        let shown = markup("</script><img src=x onerror='a()'>\"&\u{202e}\x1b\u{ffff}a\nb");
        assert_eq!(
            shown,
            "&lt;/script&gt;&lt;img src=x onerror=&#39;a()&#39;&gt;&quot;&amp;\u{fffd}\u{fffd}\u{fffd}a b"
        );
    }

    #[test]
    fn no_cell_is_a_formula() {
        for text in [
            "=1", "+1", "-1", "@a", "|a", "%a", "\t=1", "\r=1", "\n", "  =1", "\u{a0}=1", "＝1",
        ] {
            assert!(cell(text).starts_with('\''), "{text:?}");
        }
        assert_eq!(cell("a=b"), "a=b");
        assert_eq!(cell("a\x1b\n"), "a\\u001b\\u000a");
        assert_eq!(cell("\u{200b}"), "\\u200b");
    }

    #[test]
    fn a_frame_ends_where_it_ends() {
        assert_eq!(frame("a;b c\n\u{202e}\u{3000}d"), "a:b_c___d");
    }

    #[test]
    fn a_label_ends_at_its_quotes() {
        assert_eq!(label("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
        assert_eq!(label("\x1b"), "\\\\u{1b}");
    }

    #[test]
    fn json_loses_nothing_and_shows_nothing_harmful() {
        let text = "a\"\\\n\x1b\u{7f}\u{9b}\u{202e}\u{feff}\u{e0041}é🦀";
        let mut line = Vec::new();
        json_string(&mut line, text);
        let pretty = json_pretty(&serde_json::json!({text: [text, 1], "e": [], "o": {}})).unwrap();
        let mut compact = Vec::new();
        json_line(&mut compact, &text).unwrap();
        for found in [&line[..], &compact[..]] {
            let shown = core::str::from_utf8(found).unwrap();
            assert!(!shown.contains(is_harmful), "{shown}");
            assert_eq!(serde_json::from_str::<String>(shown).unwrap(), text);
        }
        assert!(!pretty.replace('\n', "").contains(is_harmful), "{pretty}");
        let back: serde_json::Value = serde_json::from_str(&pretty).unwrap();
        assert_eq!(back[text][0], text);
        // Where nothing is harmful it is what the library writes.
        let plain = serde_json::json!({"a": [1, 2.5, null, {"b": "c\n"}], "d": {}, "e": []});
        assert_eq!(
            json_pretty(&plain).unwrap(),
            serde_json::to_string_pretty(&plain).unwrap()
        );
    }
}
