//! Just enough of Rust's grammar to tell which paths a source file names.

/// Every path in the code of a file, with its line, `use` trees expanded (`use a::{b, c::d}` names `a::b` and
/// `a::c::d`). Comments, strings and everything from the first `#[cfg(test)]` on are left out: tests may do as
/// they like.
pub(crate) fn paths(text: &str) -> Vec<(usize, String)> {
    let code = blank(text);
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].1 == "use" {
            at = tree(&tokens, at + 1, "", &mut found);
        } else if is_word(tokens[at].1) {
            let line = tokens[at].0;
            let mut path = tokens[at].1.to_owned();
            while tokens.get(at + 1).is_some_and(|t| t.1 == "::")
                && tokens.get(at + 2).is_some_and(|t| is_word(t.1))
            {
                path.push_str("::");
                path.push_str(tokens[at + 2].1);
                at += 2;
            }
            // A word alone is a name in scope, and how it came there was seen at its `use`.
            if path.contains("::") {
                found.push((line, path));
            }
            at += 1;
        } else {
            at += 1;
        }
    }
    found
}

/// One `use` tree from `at`; returns where it ends.
fn tree(tokens: &[(usize, &str)], mut at: usize, prefix: &str, found: &mut Vec<(usize, String)>) -> usize {
    let mut path = prefix.to_owned();
    let mut line = tokens.get(at).map_or(0, |t| t.0);
    let mut renamed = false;
    let mut grouped = false;
    while let Some((here, token)) = tokens.get(at) {
        match *token {
            "{" => {
                at += 1;
                grouped = true;
                // A `;` in here means that this was no `use` tree at all.
                while tokens.get(at).is_some_and(|t| t.1 != "}" && t.1 != ";") {
                    at = tree(tokens, at, &path, found);
                    if tokens.get(at).is_some_and(|t| t.1 == ",") {
                        at += 1;
                    }
                }
            }
            "," | "}" | ";" => break,
            // `impl Trait + use<'a>` captures lifetimes and imports nothing.
            "<" => return at,
            "as" => renamed = true,
            // A leading one only says that the rest is a crate's name.
            "::" if path.is_empty() => {}
            // `use a::b::{self}` is `a::b`.
            "self" if !prefix.is_empty() && path == prefix => path.truncate(path.len().saturating_sub(2)),
            word if !renamed => {
                line = *here;
                path.push_str(word);
            }
            _ => {}
        }
        at += 1;
    }
    if !grouped && !path.is_empty() {
        found.push((line, path));
    }
    at
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words, `::` and single characters, each with its line.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut rest = code;
    let mut line = 1;
    while let Some(c) = rest.chars().next() {
        let length = if c.is_alphanumeric() || c == '_' {
            rest.find(|c: char| !(c.is_alphanumeric() || c == '_'))
                .unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            c.len_utf8()
        };
        if c == '\n' {
            line += 1;
        }
        if !c.is_whitespace() {
            found.push((line, &rest[..length]));
        }
        rest = &rest[length..];
    }
    found
}

/// The text with comments, strings and character literals blanked, line breaks kept.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest, out.chars().next_back()) {
            length
        } else if c == '"' {
            quoted(rest)
        } else if c == '\'' {
            character(rest)
        } else {
            0
        };
        if length == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            let (gone, left) = rest.split_at(length);
            out.push(' ');
            out.extend(gone.chars().filter(|c| *c == '\n'));
            rest = left;
        }
    }
    out
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let here = &text.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// Length of a `r"…"` or `r#"…"#` that starts here.
fn raw_string(text: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|c| (c.is_alphanumeric() || c == '_') && c != 'b' && c != 'c') {
        return None;
    }
    let after = text.strip_prefix('r')?;
    let hashes = after.bytes().take_while(|c| *c == b'#').count();
    after[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let start = 1 + hashes + 1;
    Some(
        text[start..]
            .find(&close)
            .map_or(text.len(), |end| start + end + close.len()),
    )
}

fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of a character literal, or 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text[2..]
            .char_indices()
            .skip(1)
            .find(|(_, c)| *c == '\'')
            .map_or(0, |(at, _)| at + 3),
        Some(_) => chars
            .next()
            .filter(|(_, c)| *c == '\'')
            .map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        paths(text).into_iter().map(|(_, path)| path).collect()
    }

    #[test]
    fn use_trees_are_expanded() {
        assert_eq!(names("use a::b;"), ["a::b"]);
        assert_eq!(
            names("pub use a::{b, c::{d, e as f}, g::*};"),
            ["a::b", "a::c::d", "a::c::e", "a::g::*"]
        );
        assert_eq!(names("use a::{self, b};"), ["a", "a::b"]);
        assert_eq!(names("use ::a;"), ["a"]);
        assert_eq!(names("fn f() -> impl T + use<'_> { a::b; }"), ["a::b"]);
        assert_eq!(names("use x { ; } c::d"), ["c::d"]);
    }

    #[test]
    fn paths_in_code_are_found_with_their_lines() {
        let text = "fn f() {\n    let x: Vec<a::B> = c::d::<E>(g);\n}\n";
        assert_eq!(paths(text), [(2, "a::B".to_owned()), (2, "c::d".to_owned())]);
    }

    #[test]
    fn what_is_no_code_is_left_out() {
        let text = "// a::b\n/* a::b /* c::d */ e::f */\nlet s = \"a::b\\\"::c\"; let r = br#\"x::y\"#; 'x: loop {} '\\'' 'q' z::w";
        assert_eq!(names(text), ["z::w"]);
        assert_eq!(paths(text)[0].0, 3);
    }
}
