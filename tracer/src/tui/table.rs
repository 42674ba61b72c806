//! Tables: columns, order, filter, search, the chosen row. Only rows that are shown are put into words.

use core::cmp::Ordering;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Modifier;

use std::sync::Arc;

use super::app::{Drawn, DrawnTable, Tab, Target};
use super::theme::{Role, Theme};
use super::views::Names;
use crate::filter::Filter;
use crate::info::SourceInfo;
use crate::outside;
use crate::stacks::Stack;

/// What rows are put into words with.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// How things look.
    pub theme: &'a Theme,
    /// What was said before the first event.
    pub info: &'a SourceInfo,
    /// The moment of the picture, in nanoseconds.
    pub now_ns: u64,
    /// Names of mappings that were read.
    pub names: &'a Names,
    /// Stacks by number, from 1.
    pub stacks: &'a [Arc<Stack>],
    /// The process that mappings are of.
    pub names_pid: u32,
}

/// A row of a table.
pub trait Row {
    /// What it is known by, from one picture to the next.
    fn key(&self) -> u64;
    /// Whether a filter lets it through.
    fn fits(&self, filter: &Filter, look: &Look<'_>) -> bool;
    /// A number that gives the same order as the column of this name does, the lowest first, if there is one. With many
    /// rows it makes sorting short: each row is looked at once.
    fn rank(&self, _column: &str) -> Option<u128> {
        None
    }
}

/// What stands in one place, and what that is.
pub type Cell = (String, Role);

/// A column of a table.
pub struct Column<R: 'static> {
    /// Its name for `:sort` and in exports.
    pub name: &'static str,
    /// Its title.
    pub title: &'static str,
    /// How wide it is, in characters; 0: as wide as there is room.
    pub width: u16,
    /// Whether it ends on the right, as numbers do.
    pub right: bool,
    /// It is shown from this width of the screen on.
    pub from: u16,
    /// What stands in it.
    pub show: fn(&R, &Look<'_>) -> Cell,
    /// The order that it gives, what one wants to see first being first; none: it gives none.
    pub order: Option<fn(&R, &R) -> Ordering>,
}

/// How a table is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Rows are in the order of time, the newest last, and the newest are shown until a row is chosen.
    pub follows: bool,
    /// The column that rows are sorted by at first.
    pub sort: Option<usize>,
}

/// Numbers of the rows that pass the filter, in order.
pub fn arrange<R: Row>(
    rows: &[R],
    columns: &[Column<R>],
    tab: &Tab,
    manner: Manner,
    look: &Look<'_>,
) -> Vec<usize> {
    let fits = |row: &R| tab.filter.as_ref().is_none_or(|filter| row.fits(filter, look));
    let mut order: Vec<usize> = (0..rows.len()).filter(|&at| fits(&rows[at])).collect();
    let column = tab.sort.or(manner.sort).and_then(|column| columns.get(column));
    let ranks: Option<Vec<_>> = column.and_then(|column| {
        let rank = |&at: &usize| Some((rows[at].rank(column.name)?, rows[at].key(), at));
        order.iter().map(rank).collect()
    });
    // What is equal otherwise keeps its place from one picture to the next.
    if let Some(mut ranks) = ranks {
        ranks.sort_unstable();
        order = ranks.into_iter().map(|(.., at)| at).collect();
    } else if let Some(compare) = column.and_then(|column| column.order) {
        order.sort_unstable_by(|&one, &other| {
            let (one, other) = (&rows[one], &rows[other]);
            compare(one, other).then_with(|| one.key().cmp(&other.key()))
        });
    }
    if tab.reverse {
        order.reverse();
    }
    order
}

/// Draws a table; what it found out is added to `drawn`.
#[expect(clippy::too_many_arguments, reason = "a table and a place for it")]
pub fn draw<R: Row>(
    buffer: &mut Buffer,
    area: Rect,
    rows: &[R],
    columns: &[Column<R>],
    tab: &Tab,
    manner: Manner,
    look: &Look<'_>,
    drawn: &mut Drawn,
    empty: &str,
) {
    let order = arrange(rows, columns, tab, manner, look);
    let sort = tab.sort.or(manner.sort);
    let mut table = DrawnTable {
        keys: order.iter().map(|&at| rows[at].key()).collect(),
        page: usize::from(area.height.saturating_sub(1)),
        sortable: (0..columns.len())
            .filter(|&at| columns[at].order.is_some())
            .collect(),
        names: columns.iter().map(|column| column.name).collect(),
        sort: sort.unwrap_or(usize::MAX),
        ..DrawnTable::default()
    };
    if table.sort == usize::MAX
        && let Some(&first) = table.sortable.first()
    {
        table.sort = first;
    }
    table.place = tab
        .cursor
        .and_then(|cursor| table.keys.iter().position(|&key| key == cursor))
        // Where the chosen row was is where one still looks.
        .or_else(|| {
            tab.cursor
                .map(|_| tab.place.min(table.keys.len().saturating_sub(1)))
        });
    if table.keys.is_empty() {
        table.place = None;
    }
    table.scroll = scroll(tab, &table, manner);
    if let Some(search) = &tab.search {
        let found = order.iter().enumerate();
        table.matches = found
            .filter(|(_, at)| rows[**at].fits(search, look))
            .map(|(place, _)| place)
            .collect();
    }
    let places = places(area, columns);
    titles(buffer, area, columns, &places, tab, &table, look, drawn);
    if order.is_empty() && area.height > 1 {
        buffer.set_stringn(
            area.x,
            area.y + 1,
            empty,
            usize::from(area.width),
            look.theme.style(Role::Quiet),
        );
    }
    let shown = order.iter().enumerate().skip(table.scroll).take(table.page);
    for (line, (place, &at)) in shown.enumerate() {
        let y = area.y + 1 + u16::try_from(line).unwrap_or(u16::MAX);
        let line = Rect { y, height: 1, ..area };
        let chosen = table.place == Some(place);
        let found = table.matches.binary_search(&place).is_ok();
        one_row(buffer, line, &rows[at], columns, &places, look, found);
        if chosen {
            buffer.set_style(line, look.theme.style(Role::Chosen));
        }
        drawn.targets.push((line, Target::Row(place)));
    }
    drawn.table = Some(table);
}

fn one_row<R: Row>(
    buffer: &mut Buffer,
    line: Rect,
    row: &R,
    columns: &[Column<R>],
    places: &[(usize, u16, u16)],
    look: &Look<'_>,
    found: bool,
) {
    for &(column, x, width) in places {
        let column = &columns[column];
        let (text, role) = (column.show)(row, look);
        let mut style = look.theme.style(role);
        if found {
            style = style
                .add_modifier(Modifier::UNDERLINED)
                .add_modifier(Modifier::BOLD);
        }
        put(buffer, x, line.y, width, &text, column.right, style);
    }
}

fn put(
    buffer: &mut Buffer,
    x: u16,
    y: u16,
    width: u16,
    text: &str,
    right: bool,
    style: ratatui::style::Style,
) {
    let length = u16::try_from(text.chars().count()).unwrap_or(u16::MAX);
    let indent = if right { width.saturating_sub(length) } else { 0 };
    let fitting = crate::sink::text::fit(text, usize::from(width));
    buffer.set_stringn(x + indent, y, fitting, usize::from(width - indent), style);
}

fn scroll(tab: &Tab, table: &DrawnTable, manner: Manner) -> usize {
    let last = table.keys.len().saturating_sub(table.page);
    match table.place {
        None if manner.follows => last,
        None => 0,
        Some(place) => {
            let lowest = (place + 1).saturating_sub(table.page);
            tab.scroll.clamp(lowest.min(place), place).min(last)
        }
    }
}

/// Which columns there is room for: number, place and width.
fn places<R>(area: Rect, columns: &[Column<R>]) -> Vec<(usize, u16, u16)> {
    let shown = || {
        columns
            .iter()
            .enumerate()
            .filter(|(_, column)| area.width >= column.from)
    };
    let fixed: u16 = shown().map(|(_, column)| column.width).sum();
    let gaps = u16::try_from(shown().count().saturating_sub(1)).unwrap_or(0);
    let flexible = u16::try_from(shown().filter(|(_, column)| column.width == 0).count()).unwrap_or(1);
    let room = area.width.saturating_sub(fixed + gaps);
    let mut places = Vec::new();
    let mut x = area.x;
    let mut rest = room;
    let mut left = flexible;
    for (at, column) in shown() {
        let width = if column.width == 0 {
            let width = rest / left.max(1);
            rest -= width;
            left -= 1;
            width
        } else {
            column.width
        };
        let end = area.x + area.width;
        if x >= end {
            break;
        }
        let width = width.min(end - x);
        if width > 0 {
            places.push((at, x, width));
            x += width + 1;
        }
    }
    places
}

#[expect(clippy::too_many_arguments, reason = "what a table is drawn from")]
fn titles<R>(
    buffer: &mut Buffer,
    area: Rect,
    columns: &[Column<R>],
    places: &[(usize, u16, u16)],
    tab: &Tab,
    table: &DrawnTable,
    look: &Look<'_>,
    drawn: &mut Drawn,
) {
    if area.height == 0 {
        return;
    }
    for &(at, x, width) in places {
        let column = &columns[at];
        let sorted = at == table.sort && column.order.is_some();
        let mark = match (sorted, tab.reverse) {
            (false, _) => "",
            (true, false) => "▼",
            (true, true) => "▲",
        };
        let title = format!("{}{mark}", column.title);
        put(
            buffer,
            x,
            area.y,
            width,
            &title,
            column.right,
            look.theme.style(Role::Heading),
        );
        let place = Rect {
            x,
            y: area.y,
            width,
            height: 1,
        };
        drawn.targets.push((place, Target::Column(at)));
    }
}

/// All rows that pass the filter as CSV, with a line of names.
pub fn csv<R: Row>(rows: &[R], columns: &[Column<R>], tab: &Tab, manner: Manner, look: &Look<'_>) -> String {
    let mut text = String::new();
    let line = |text: &mut String, cells: &mut dyn Iterator<Item = String>| {
        for (at, cell) in cells.enumerate() {
            if at > 0 {
                text.push(',');
            }
            let cell = outside::formats::cell(cell.trim());
            if cell.contains([',', '"', '\n', '\r']) {
                text.push('"');
                text.push_str(&cell.replace('"', "\"\""));
                text.push('"');
            } else {
                text.push_str(&cell);
            }
        }
        text.push('\n');
    };
    line(
        &mut text,
        &mut columns.iter().map(|column| column.name.to_owned()),
    );
    for at in arrange(rows, columns, tab, manner, look) {
        let row = &rows[at];
        line(
            &mut text,
            &mut columns.iter().map(|column| (column.show)(row, look).0),
        );
    }
    text
}
