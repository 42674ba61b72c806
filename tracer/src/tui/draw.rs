//! Draws the whole screen from the state of the screen and a picture.

use std::borrow::Cow;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Modifier;
use ratatui::text::{Line, Span};

use super::action::{Action, Group};
use super::app::{App, Drawn};
use super::command::COMMANDS;
use super::header;
use super::snapshot::Snapshot;
use super::table::Look;
use super::theme::Role;
use super::views::{self, Canvas};
use crate::filter::Field;
use crate::outside;
use crate::sink::text::count;

/// Draws everything; gives what it found out, for [`App::drawn`].
pub fn draw(buffer: &mut Buffer, area: Rect, app: &App, shot: &Snapshot) -> Drawn {
    let mut drawn = Drawn::default();
    let look = Look {
        theme: &app.config.theme,
        info: &shot.head.info,
        now_ns: shot.head.now_ns,
        names: &app.names,
        stacks: shot.contention.as_ref().map_or(&[], |stuck| &stuck.stacks),
        names_pid: 0,
    };
    if area.width == 0 || area.height == 0 {
        return drawn;
    }
    // In a tiny window the table is worth more than what stands around it.
    let head = if area.height >= 12 {
        header::LINES
    } else {
        u16::from(area.height >= 4)
    };
    let tabs = u16::from(area.height >= 8);
    let bar = u16::from(shot.head.replay.is_some() && area.height >= 10);
    let foot = u16::from(area.height >= 3 || app.prompt.is_some());
    let mut y = area.y;
    let mut take = |height: u16| {
        let height = height.min(area.y + area.height - y);
        let part = Rect { y, height, ..area };
        y += height;
        part
    };
    let (head, tabs, bar) = (take(head), take(tabs), take(bar));
    let body = take(
        area.height
            .saturating_sub(head.height + tabs.height + bar.height + foot),
    );
    let foot = take(foot);
    header::draw(buffer, head, app, shot);
    if tabs.height > 0 {
        header::tabs(buffer, tabs, app, &mut drawn);
    }
    if bar.height > 0 {
        header::time_bar(buffer, bar, &shot.head, app, &mut drawn);
    }
    let mut canvas = Canvas {
        buffer,
        area: body,
        app,
        shot,
        look,
        drawn: &mut drawn,
    };
    if let Some(from) = app.help {
        help(&mut canvas, from);
    } else {
        let warning = shot
            .head
            .replay
            .as_ref()
            .and_then(|replay| replay.warning.clone());
        let notes = [
            warning.map(|text| (text, Role::Alarm)),
            header::note(app.view, &shot.head),
        ];
        for (text, role) in notes.into_iter().flatten().take(usize::from(body.height / 3)) {
            let text = crate::sink::text::fit(&text, usize::from(body.width)).into_owned();
            canvas.lines(&[Line::from(Span::styled(text, look.theme.style(role)))]);
        }
        views::draw(&mut canvas);
    }
    if foot.height > 0 {
        footer(buffer, foot, app, &drawn);
    }
    app.config.theme.finish(buffer);
    neutralise(buffer, area);
    drawn
}

/// What the views show is harmless already; this holds for what they may forget, and for what is typed and pasted. Only
/// here all of it comes by.
fn neutralise(buffer: &mut Buffer, area: Rect) {
    for y in area.top()..area.bottom() {
        for x in area.left()..area.right() {
            let cell = &mut buffer[(x, y)];
            if let Cow::Owned(safe) = outside::rewrite(cell.symbol(), |safe, _| safe.push('\u{fffd}')) {
                // A cell has room for one.
                let shown = safe
                    .chars()
                    .find(|&char| char != '\u{fffd}')
                    .unwrap_or('\u{fffd}');
                cell.set_char(shown);
            }
        }
    }
}

/// Where the cursor stands, if something is typed.
pub fn cursor(area: Rect, app: &App) -> Option<(u16, u16)> {
    let prompt = app.prompt.as_ref()?;
    let x = prompt.purpose.sign().len() + prompt.at;
    let x = u16::try_from(x)
        .unwrap_or(u16::MAX)
        .min(area.width.saturating_sub(1));
    Some((area.x + x, area.y + area.height.saturating_sub(1)))
}

fn footer(buffer: &mut Buffer, area: Rect, app: &App, drawn: &Drawn) {
    let theme = &app.config.theme;
    let width = usize::from(area.width);
    if let Some(prompt) = &app.prompt {
        let mut spans = vec![Span::raw(format!("{}{}", prompt.purpose.sign(), prompt.text))];
        if let Some(error) = &prompt.error {
            spans.push(Span::styled(format!("   {error}"), theme.style(Role::Alarm)));
        }
        buffer.set_line(area.x, area.y, &Line::from(spans), area.width);
        return;
    }
    if let Some((text, wrong)) = &app.message {
        let role = if *wrong { Role::Alarm } else { Role::Heading };
        buffer.set_stringn(area.x, area.y, text, width, theme.style(role));
        return;
    }
    let mut spans = Vec::new();
    let tab = app.tab();
    if let Some(table) = drawn.table.as_ref().filter(|table| !table.names.is_empty()) {
        let rows = table.keys.len();
        let first = if rows == 0 { 0 } else { table.scroll + 1 };
        let last = (table.scroll + table.page).min(rows);
        let text = match rows {
            0 => "no rows".to_owned(),
            _ => format!("{first}–{last} of {}", count(rows as u64)),
        };
        spans.push(Span::raw(text));
        if let Some(name) = table.names.get(table.sort) {
            let order = if tab.reverse { " reversed" } else { "" };
            spans.push(Span::styled(
                format!("  by {name}{order}"),
                theme.style(Role::Quiet),
            ));
        }
    } else if let Some((lines, page)) = drawn.text.filter(|(lines, page)| lines > page) {
        let from = app.help.unwrap_or(tab.scroll);
        spans.push(Span::raw(format!(
            "lines {}–{} of {lines}",
            from + 1,
            (from + page).min(lines)
        )));
    }
    for (name, filter) in [("filter", &tab.filter), ("search", &tab.search)] {
        if let Some(filter) = filter {
            let style = theme.style(Role::Waiting).add_modifier(Modifier::BOLD);
            spans.push(Span::styled(format!("  {name}: {filter}"), style));
        }
    }
    if app.active_only {
        spans.push(Span::styled("  only active", theme.style(Role::Waiting)));
    }
    let keys = &app.config.keymap;
    let hints = if app.replay {
        [
            (Action::Help, "help"),
            (Action::Pause, "play"),
            (Action::StepForward, "step"),
            (Action::NextWait, "next wait"),
            (Action::Filter, "filter"),
            (Action::Enter, "look"),
            (Action::Quit, "quit"),
        ]
    } else {
        [
            (Action::Help, "help"),
            (Action::Pause, "pause"),
            (Action::Filter, "filter"),
            (Action::Sort, "sort"),
            (Action::Enter, "look"),
            (Action::Back, "back"),
            (Action::Quit, "quit"),
        ]
    };
    let mut used: usize = spans.iter().map(Span::width).sum();
    for (action, word) in hints {
        let gap = if used == 0 { "" } else { "  " };
        let hint = format!("{gap}{} {word}", keys.first(action));
        used += hint.chars().count();
        if used > width {
            break;
        }
        spans.push(Span::styled(hint, theme.style(Role::Quiet)));
    }
    buffer.set_line(area.x, area.y, &Line::from(spans), area.width);
}

/// The help is made from the table that binds the keys.
fn help(canvas: &mut Canvas<'_>, from: usize) {
    let theme = canvas.look.theme;
    let keys = &canvas.app.config.keymap;
    let heading = |text: &str| Line::from(Span::styled(text.to_owned(), theme.style(Role::Heading)));
    let entry = |key: String, what: &str| {
        Line::from(vec![
            Span::raw(format!("  {key:<12} ")),
            Span::styled(what.to_owned(), theme.style(Role::Text)),
        ])
    };
    let mut lines = Vec::new();
    let groups = Group::ALL;
    // In a recording its keys are what one looks for first.
    let order: Vec<Group> = if canvas.app.replay {
        groups
            .iter()
            .rev()
            .take(1)
            .chain(groups.iter().take(4))
            .copied()
            .collect()
    } else {
        groups.to_vec()
    };
    for group in order {
        lines.push(heading(group.name()));
        for &action in Action::ALL.iter().filter(|action| action.group() == group) {
            lines.push(entry(keys.shown(action), action.help()));
        }
        lines.push(Line::default());
    }
    lines.push(heading("Commands, typed behind :"));
    for (name, argument, what) in COMMANDS {
        lines.push(entry(format!("{name} {argument}"), what));
    }
    lines.push(Line::default());
    lines.push(heading(
        "Filters: FIELD=VALUE, with = != < <= > >= ~ (contains) in; && || ! ( )",
    ));
    for field in Field::ALL {
        lines.push(entry(field.name().to_owned(), field.help()));
    }
    lines.push(entry(
        "word".into(),
        "a name that contains it, or the thread or process of that number",
    ));
    let page = usize::from(canvas.area.height);
    let from = from.min(lines.len().saturating_sub(page));
    for (line, y) in lines.iter().skip(from).zip(0..canvas.area.height) {
        canvas
            .buffer
            .set_line(canvas.area.x, canvas.area.y + y, line, canvas.area.width);
    }
    canvas.drawn.text = Some((lines.len(), page));
}

/// What is shown now, for a file: a table as CSV, anything else as text. The second is the ending of the file's name.
pub fn export(app: &App, shot: &Snapshot) -> (String, &'static str) {
    let look = Look {
        theme: &app.config.theme,
        info: &shot.head.info,
        now_ns: shot.head.now_ns,
        names: &app.names,
        stacks: shot.contention.as_ref().map_or(&[], |stuck| &stuck.stacks),
        names_pid: shot
            .request
            .space
            .and_then(|mm| shot.spaces.iter().find(|space| space.mm == mm))
            .map_or(0, |space| space.pid),
    };
    if let Some(csv) = views::csv(app, shot, &look) {
        return (csv, "csv");
    }
    let area = Rect::new(0, 0, 160, 1000);
    let mut buffer = Buffer::empty(area);
    draw(&mut buffer, area, app, shot);
    let mut text = String::new();
    for y in 0..area.height {
        let line: String = (0..area.width).map(|x| buffer[(x, y)].symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    // The footer is at the very end, behind nothing.
    let text = text.trim_end();
    let body = text.rsplit_once('\n').map_or(text, |(body, _)| body.trim_end());
    (format!("{body}\n"), "txt")
}
