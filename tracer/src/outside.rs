//! Text from outside: names of commands, paths, hosts, symbols, command lines, whatever a recording says.
//!
//! All of it is chosen by somebody else, who may be an attacker: a process names itself, and a recording comes from
//! anywhere. [`rewrite`] is the one place that decides what may be shown. What a single format needs beyond that is in
//! [`formats`], on top of it.

pub mod formats;

use core::fmt::Write as _;
use std::borrow::Cow;
use std::path::Path;

/// Whether a character does something other than to be seen: gives orders to a terminal, ends a line, turns the direction
/// of the text around it, or is there without being seen, so that two names look alike that are not. Those that are no
/// characters at all belong to them, since XML has no form for some.
pub const fn is_harmful(char: char) -> bool {
    matches!(char,
        // C0 with ESC, BEL and line ends; DEL; C1 with the one-byte forms of CSI, OSC and the string terminator.
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        // Soft hyphen, grapheme joiner, fillers, Mongolian and Khmer signs: nothing is seen of them.
        | '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{3164}' | '\u{ffa0}'
        // Marks of direction, embeddings, overrides, isolates; spaces and joiners without width; ends of lines and
        // paragraphs.
        | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        // Variants of the character before, byte order mark, annotations, shorthand and musical controls, tags.
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
        | '\u{fdd0}'..='\u{fdef}')
        || char as u32 & 0xfffe == 0xfffe
}

/// The text with something harmless in the place of each harmful character: what `stand_in` adds for it. Everything that
/// is shown from outside goes through here.
pub fn rewrite(text: &str, mut stand_in: impl FnMut(&mut String, char)) -> Cow<'_, str> {
    let Some(first) = text.find(is_harmful) else {
        return Cow::Borrowed(text);
    };
    let mut safe = String::with_capacity(text.len() + 16);
    safe.push_str(&text[..first]);
    for char in text[first..].chars() {
        if is_harmful(char) {
            stand_in(&mut safe, char);
        } else {
            safe.push(char);
        }
    }
    Cow::Owned(safe)
}

/// The text on one line, what is harmful written as `\u{1b}`: for tables, messages and the screen.
pub fn plain(text: &str) -> Cow<'_, str> {
    rewrite(text, spell)
}

/// The same for several texts.
pub fn plain_all(texts: &[String]) -> Vec<String> {
    texts.iter().map(|text| plain(text).into_owned()).collect()
}

/// The same for text of several lines that this program laid out: line ends and tabs stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    rewrite(text, |safe, char| match char {
        '\n' | '\t' => safe.push(char),
        _ => spell(safe, char),
    })
}

/// A name as the kernel hands it out, up to its first zero byte; what is no UTF-8 is replaced.
pub fn name(raw: &[u8]) -> Cow<'_, str> {
    match words(raw) {
        Cow::Borrowed(text) => plain(text),
        Cow::Owned(text) => Cow::Owned(plain(&text).into_owned()),
    }
}

/// The same, harmful characters included: for [`formats`], which have forms of their own for them.
pub fn words(raw: &[u8]) -> Cow<'_, str> {
    let end = raw.iter().position(|&byte| byte == 0).unwrap_or(raw.len());
    String::from_utf8_lossy(&raw[..end])
}

/// A path for a message.
pub fn path(path: impl AsRef<Path>) -> String {
    plain(&path.as_ref().to_string_lossy()).into_owned()
}

fn spell(safe: &mut String, char: char) {
    // Writing to a string cannot fail.
    let _ = write!(safe, "{}", char.escape_default());
}

/// Makes a text that is kept harmless in its place.
pub fn clean(text: &mut String) {
    if let Cow::Owned(safe) = plain(text) {
        *text = safe;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_talk_to_the_terminal() {
        assert_eq!(name(b"cat\0junk"), "cat");
        assert_eq!(name(b"\x1b[31mred\x07"), "\\u{1b}[31mred\\u{7}");
        assert_eq!(name("a\u{202e}b".as_bytes()), "a\\u{202e}b");
        assert_eq!(name(b"\xff\xfe"), "\u{fffd}\u{fffd}");
        assert_eq!(name("größe".as_bytes()), "größe");
    }

    #[test]
    fn line_ends_of_our_own_stay_and_those_of_others_do_not() {
        assert_eq!(lines("a\n\tb\r\x1b"), "a\n\tb\\r\\u{1b}");
        assert_eq!(plain("a\nb"), "a\\nb");
        assert_eq!(path(Path::new("/tmp/\x1b]0;x\x07")), "/tmp/\\u{1b}]0;x\\u{7}");
    }

    #[test]
    fn what_people_write_stays() {
        for text in [
            "größe",
            "日本語",
            "עברית",
            "العربية",
            "e\u{301}",
            "–…µ",
            "\u{fffd}",
            "🦀",
            "",
        ] {
            assert!(
                matches!(plain(text), Cow::Borrowed(same) if same == text),
                "{text}"
            );
        }
    }

    /// Every character that Unicode calls a control or a format character that is not seen, by its own names for them.
    #[test]
    fn nothing_invisible_is_left() {
        let seen_of_format = ['\u{600}', '\u{605}', '\u{6dd}', '\u{70f}', '\u{8e2}'];
        assert!(!seen_of_format.into_iter().any(is_harmful));
        for char in (0..=0x10_ffff).filter_map(char::from_u32) {
            if char.is_control() {
                assert!(is_harmful(char), "{char:?}");
            }
            // The library escapes what it takes for not printable, most of which is unassigned or private.
            if is_harmful(char) && char != '\u{34f}' {
                let escaped = char.escape_debug().count() > 1;
                let is_filler = matches!(char, '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}');
                let is_mark = matches!(char, '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{fe00}'..='\u{fe0f}'
                    | '\u{e0100}'..='\u{e01ef}');
                assert!(
                    escaped || is_filler || is_mark,
                    "{char:?} is shown as it is by others"
                );
            }
        }
    }
}
