//! Tables on their way into a page.

use std::fmt::Write as _;

use crate::outside::formats::markup as escape;

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
