//! Draws one picture. Everything that matters is said in words; colour only helps.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table};
use tracer_common::wire::Provenance;

use super::app::App;
use super::keys::BINDINGS;
use super::snapshot::{Snapshot, TaskRow, short};
use crate::sink::text::{count, duration, fit};

/// From this width on there is room for what is nice to know.
const WIDE: u16 = 110;

/// How things look.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    color: bool,
}

impl Theme {
    /// With colours, or without.
    pub const fn new(color: bool) -> Self {
        Self { color }
    }

    /// As the environment wants it: `NO_COLOR` means none.
    pub fn from_env() -> Self {
        Self::new(std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
    }

    fn paint(self, style: Style, color: Color) -> Style {
        if self.color { style.fg(color) } else { style }
    }

    fn heading(self) -> Style {
        self.paint(Style::new().add_modifier(Modifier::BOLD), Color::Cyan)
    }

    fn alarm(self) -> Style {
        self.paint(Style::new().add_modifier(Modifier::BOLD), Color::Red)
    }

    fn waiting(self) -> Style {
        self.paint(Style::new(), Color::Yellow)
    }

    fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }
}

/// Draws the whole screen.
pub fn draw(frame: &mut Frame<'_>, app: &mut App, snapshot: &Snapshot, theme: Theme) {
    let [header, table, footer] =
        Layout::vertical([Constraint::Length(3), Constraint::Min(0), Constraint::Length(1)])
            .areas(frame.area());
    draw_header(frame, header, app, snapshot, theme);
    draw_table(frame, table, app, snapshot, theme);
    draw_footer(frame, footer, app, theme);
    if app.help {
        draw_help(frame, theme);
    }
}

fn draw_header(frame: &mut Frame<'_>, area: Rect, app: &App, snapshot: &Snapshot, theme: Theme) {
    let state = match (app.paused, snapshot.ended) {
        (true, _) => Span::styled(" PAUSED ", Style::new().add_modifier(Modifier::REVERSED)),
        (false, true) => Span::styled(" ENDED ", Style::new().add_modifier(Modifier::REVERSED)),
        (false, false) => Span::styled(snapshot.source.clone(), theme.heading()),
    };
    let first = Line::from(vec![
        Span::styled("tracer ", theme.heading()),
        state,
        Span::raw(format!(
            "  {}  {}  {} events  {}/s",
            fit(&snapshot.kernel, 28),
            duration(snapshot.elapsed_ns),
            count(snapshot.events),
            count(snapshot.rate)
        )),
    ]);
    let (faults, fast) = snapshot.faults;
    let second = Line::from(vec![
        losses(snapshot, theme),
        Span::raw(format!(
            "   faults {}, {} by VMA lock",
            count(faults),
            percent(fast, faults)
        )),
    ]);
    let all: u64 = snapshot.by_provenance.iter().sum();
    let share = |provenance: Provenance| percent(snapshot.by_provenance[provenance as usize], all);
    let mut third = vec![Span::raw(format!(
        "known: {} observed, {} derived, {} bounded   {} unseen",
        share(Provenance::Observed),
        share(Provenance::Derived),
        share(Provenance::Bounded),
        snapshot.unseen,
    ))];
    if snapshot.anomalies > 0 {
        third.push(Span::styled(
            format!("   {} ANOMALIES", count(snapshot.anomalies)),
            theme.alarm(),
        ));
    }
    frame.render_widget(Paragraph::new(vec![first, second, Line::from(third)]), area);
}

fn losses(snapshot: &Snapshot, theme: Theme) -> Span<'static> {
    let Snapshot {
        dropped,
        missing,
        missed,
        ..
    } = snapshot;
    if dropped + missing + missed == 0 {
        return Span::raw("nothing lost");
    }
    let text = format!(
        "LOST: {} dropped, {} missing, {} skipped",
        count(*dropped),
        count(*missing),
        count(*missed)
    );
    Span::styled(text, theme.alarm())
}

fn percent(part: u64, all: u64) -> String {
    if all == 0 {
        return "–".into();
    }
    // Rounded down, so that 100 % means all.
    let tenths = u128::from(part) * 1000 / u128::from(all);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, app: &mut App, snapshot: &Snapshot, theme: Theme) {
    let rows = app.rows(snapshot);
    app.rows = rows.len();
    app.page = usize::from(area.height.saturating_sub(1));
    app.scroll = app.scroll.min(rows.len().saturating_sub(app.page));
    let wide = area.width >= WIDE;
    let shown = rows
        .iter()
        .skip(app.scroll)
        .take(app.page)
        .map(|row| table_row(row, wide, theme));
    let mut widths = vec![
        Constraint::Length(7),
        Constraint::Length(15),
        Constraint::Length(8),
        Constraint::Fill(1),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(9),
    ];
    let mut titles = vec![
        "    TID",
        "COMM",
        "WAITS",
        "HOLDS",
        "    SINCE",
        "KNOWN",
        "   EVENTS",
    ];
    if wide {
        widths.extend([
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(10),
        ]);
        titles.extend(["   FAULTS", "   WAITED", "WORST HOLD"]);
    }
    let table = Table::new(shown, widths)
        .header(Row::new(titles).style(theme.heading()))
        .column_spacing(1);
    frame.render_widget(table, area);
    if rows.is_empty() && area.height > 1 {
        let text = if snapshot.tasks.is_empty() {
            "no event yet"
        } else {
            "no task passes the filter (Esc drops it, a shows idle ones)"
        };
        let line = Rect {
            y: area.y + 1,
            height: 1,
            ..area
        };
        frame.render_widget(Paragraph::new(text).style(theme.quiet()), line);
    }
}

fn table_row(task: &TaskRow, wide: bool, theme: Theme) -> Row<'static> {
    let comm = if task.is_self {
        format!("{}*", fit(&task.comm, 14))
    } else {
        fit(&task.comm, 15).into_owned()
    };
    let mark = if task.at_least { ">" } else { "" };
    let since = task
        .since_ns
        .map_or(String::new(), |ns| format!("{mark}{}", duration(ns)));
    let certainty = task.certainty.map_or("", Provenance::name);
    let mut cells = vec![
        format!("{:>7}", task.tid),
        comm,
        task.wait.map_or("", short).to_owned(),
        task.held_text(),
        format!("{since:>9}"),
        certainty.to_owned(),
        format!("{:>9}", task.events),
    ];
    if wide {
        cells.push(format!("{:>9}", task.faults));
        cells.push(format!("{:>9}", duration(task.waited_ns)));
        cells.push(format!("{:>10}", duration(task.worst_hold_ns)));
    }
    let style = match (task.wait, task.is_active()) {
        (Some(_), _) => theme.waiting(),
        (None, true) => Style::new(),
        (None, false) => theme.quiet(),
    };
    Row::new(cells).style(style)
}

fn draw_footer(frame: &mut Frame<'_>, area: Rect, app: &App, theme: Theme) {
    if app.typing {
        let line = format!("/{}▏  Enter keeps the filter, Esc drops it", app.filter);
        frame.render_widget(Paragraph::new(line).style(theme.heading()), area);
        return;
    }
    let order = if app.reverse { ", reversed" } else { "" };
    let last = (app.scroll + app.page).min(app.rows);
    let first = (app.scroll + 1).min(last);
    let mut text = format!("{first}-{last} of {}  by {}{order}", app.rows, app.sort.name());
    if app.active_only {
        text += "  active only";
    }
    if !app.filter.is_empty() {
        text += &format!("  /{}", app.filter);
    }
    text += "   ? help  q quit  p pause  s sort  / filter";
    frame.render_widget(Paragraph::new(text).style(theme.quiet()), area);
}

fn draw_help(frame: &mut Frame<'_>, theme: Theme) {
    let mut lines: Vec<Line<'_>> = BINDINGS
        .iter()
        .map(|binding| {
            Line::from(vec![
                Span::styled(format!(" {:<9}", binding.shown), theme.heading()),
                Span::raw(binding.help),
            ])
        })
        .collect();
    lines.push(Line::raw(""));
    lines.push(Line::raw(
        " r reads, w writes; × how many; > at least so long; * the tracer itself",
    ));
    let area = frame.area();
    let height = u16::try_from(lines.len() + 2)
        .unwrap_or(u16::MAX)
        .min(area.height);
    let width = 74.min(area.width);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, place);
    let block = Block::bordered().title(" Keys ");
    frame.render_widget(Paragraph::new(lines).block(block), place);
}
