//! Text on its way into a page.

use std::fmt::Write as _;

/// A text as it may stand anywhere in a page, in an attribute, too.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' => out.push(' '),
            // Control characters have no business there, and those that turn the direction round hide what follows.
            char if char.is_control()
                || matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                out.push('\u{fffd}');
            }
            char => out.push(char),
        }
    }
    out
}

/// One cell of a table.
pub(super) enum Cell {
    Text(String),
    /// What is shown, and the number that it is sorted by.
    Number(String, f64),
}

impl Cell {
    pub(super) fn text(text: impl AsRef<str>) -> Self {
        Self::Text(text.as_ref().to_owned())
    }

    #[expect(clippy::cast_precision_loss, reason = "for sorting")]
    pub(super) fn count(number: u64) -> Self {
        Self::Number(crate::sink::text::count(number), number as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "for sorting")]
    pub(super) fn time(ns: u64) -> Self {
        Self::Number(crate::sink::text::duration(ns), ns as f64)
    }
}

/// A table; `task`: what rows are filtered by.
pub(super) fn table(
    page: &mut String,
    id: &str,
    heads: &[&str],
    rows: impl Iterator<Item = (Option<String>, Vec<Cell>)>,
) {
    let _ = write!(
        page,
        "<div class=\"wide\"><table id=\"{id}\" class=\"sortable\"><thead><tr>"
    );
    for head in heads {
        let _ = write!(page, "<th scope=\"col\">{}</th>", escape(head));
    }
    page.push_str("</tr></thead><tbody>\n");
    for (task, cells) in rows {
        match task {
            Some(task) => {
                let _ = write!(page, "<tr data-task=\"{}\">", escape(&task));
            }
            None => page.push_str("<tr>"),
        }
        for cell in cells {
            let _ = match cell {
                Cell::Text(text) => write!(page, "<td class=\"text\">{}</td>", escape(&text)),
                Cell::Number(shown, number) => {
                    write!(page, "<td data-v=\"{number}\">{}</td>", escape(&shown))
                }
            };
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_is_markup() {
        let shown = escape("</script><img src=x onerror='a()'>\"&\u{202e}\x1b");
        assert_eq!(
            shown,
            "&lt;/script&gt;&lt;img src=x onerror=&#39;a()&#39;&gt;&quot;&amp;\u{fffd}\u{fffd}"
        );
    }
}
