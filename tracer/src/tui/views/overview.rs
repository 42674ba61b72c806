//! Everything at a glance: rates, who is stuck behind whom now, and the worst waits so far.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Canvas, short, tasks};
use crate::sink::text::{count, duration};
use crate::state::Lock;
use crate::tui::header::{name, percent};
use crate::tui::snapshot::Snapshot;
use crate::tui::theme::Role;
use crate::tui::world::{STEP_NS, Step};

/// A line of the rates.
struct Rate {
    title: &'static str,
    role: Role,
    value: fn(&Step) -> u64,
}

const RATES: [Rate; 4] = [
    Rate {
        title: "events",
        role: Role::Bar,
        value: |step| step.events,
    },
    Rate {
        title: "faults",
        role: Role::Bar,
        value: |step| step.faults,
    },
    Rate {
        title: "waited",
        role: Role::Waiting,
        value: |step| step.wait_ns,
    },
    Rate {
        title: "lost",
        role: Role::Alarm,
        value: |step| step.lost,
    },
];

/// Draws the view.
pub fn draw(canvas: &mut Canvas<'_>) {
    let shot = canvas.shot;
    rates(canvas);
    canvas.lines(&[locks(canvas)]);
    // The worst waits get what the tasks leave, at least three lines of them, at most a third.
    let wanted = u16::try_from(shot.worst.len()).unwrap_or(u16::MAX);
    let worst = match canvas.area.height {
        0..=7 => 0,
        height => (wanted + 1).min(height / 3).max(2),
    };
    let whole = canvas.area;
    canvas.area.height = whole.height - worst;
    canvas.table(
        &shot.tasks,
        tasks::COLUMNS,
        tasks::MANNER,
        if shot.head.events == 0 {
            "no event yet"
        } else {
            "nobody holds or waits for anything now"
        },
    );
    canvas.area = Rect {
        y: whole.y + whole.height - worst,
        height: worst,
        ..whole
    };
    worst_waits(canvas);
}

fn rates(canvas: &mut Canvas<'_>) {
    let shot = canvas.shot;
    let theme = canvas.look.theme;
    let width = usize::from(canvas.area.width).saturating_sub(32).min(120);
    if canvas.area.height < 14 || width < 10 {
        return;
    }
    let (values, step_ns) = columns(shot, width);
    let mut lines = Vec::new();
    for rate in RATES {
        let sums: Vec<u64> = values
            .iter()
            .map(|steps| steps.iter().map(rate.value).sum())
            .collect();
        if rate.title == "lost" && sums.iter().all(|&sum| sum == 0) {
            continue;
        }
        let most = sums.iter().copied().max().unwrap_or(0);
        let per_second = |sum: u64| u128::from(sum) * 1_000_000_000 / u128::from(step_ns.max(1));
        let shown = u64::try_from(per_second(most)).unwrap_or(u64::MAX);
        let shown = if rate.title == "waited" {
            duration(shown)
        } else {
            count(shown)
        };
        lines.push(Line::from(vec![
            Span::styled(format!("{:<7}", rate.title), theme.style(Role::Heading)),
            Span::styled(spark(&sums, most), theme.style(rate.role)),
            Span::styled(format!("  most {shown}/s"), theme.style(Role::Quiet)),
        ]));
    }
    lines.push(Line::from(Span::styled(
        format!("       the last {}", duration(step_ns * width as u64)),
        theme.style(Role::Quiet),
    )));
    canvas.lines(&lines);
}

/// The steps of the latest time in so many columns, and what time a column stands for.
fn columns(shot: &Snapshot, width: usize) -> (Vec<Vec<Step>>, u64) {
    let now = shot.head.now_ns / STEP_NS;
    let first = shot.steps.first().map_or(now, |step| step.at);
    let steps = (now - first.min(now) + 1).clamp(width as u64, 600);
    let each = steps.div_ceil(width as u64).max(1);
    let begin = (now + 1).saturating_sub(each * width as u64);
    let mut columns = vec![Vec::new(); width];
    for step in &shot.steps {
        if let Some(at) = step.at.checked_sub(begin)
            && let Some(column) = usize::try_from(at / each).ok().and_then(|at| columns.get_mut(at))
        {
            column.push(*step);
        }
    }
    (columns, each * STEP_NS)
}

/// Bars of eighths; nothing is a blank, and something at least the lowest bar.
pub fn spark(values: &[u64], most: u64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let bar = |&value: &u64| {
        if value == 0 || most == 0 {
            return ' ';
        }
        let eighths = u128::from(value) * 8 / u128::from(most);
        BARS[usize::try_from(eighths).unwrap_or(8).clamp(1, 8) - 1]
    };
    values.iter().map(bar).collect()
}

fn locks<'a>(canvas: &Canvas<'_>) -> Line<'a> {
    let head = &canvas.shot.head;
    let theme = canvas.look.theme;
    let mut spans = Vec::new();
    for (title, counts, role) in [
        ("held ", head.held, Role::Text),
        ("  awaited ", head.waiting, Role::Waiting),
    ] {
        spans.push(Span::styled(title, theme.style(Role::Heading)));
        let mut any = false;
        for lock in Lock::ALL {
            let number = counts[lock as usize];
            if number > 0 {
                any = true;
                spans.push(Span::styled(
                    format!("{} {}  ", short(lock), count(number)),
                    theme.style(role),
                ));
            }
        }
        if !any {
            spans.push(Span::styled("nothing", theme.style(Role::Quiet)));
        }
    }
    let faults = head.faults;
    let fallback = faults.mmap_lock + faults.retried;
    spans.push(Span::raw(format!(
        "  faults by mmap_lock {}",
        percent(fallback, faults.total())
    )));
    Line::from(spans)
}

fn worst_waits(canvas: &mut Canvas<'_>) {
    let shot = canvas.shot;
    let theme = canvas.look.theme;
    if canvas.area.height < 2 {
        return;
    }
    let unknown: u64 = shot.head.waits_unknown.iter().sum();
    let mut title = "WORST WAITS SO FAR".to_owned();
    if unknown > 0 {
        title = format!("{title} (the length of {} more is not known)", count(unknown));
    }
    let mut lines = vec![Line::from(Span::styled(title, theme.style(Role::Heading)))];
    if shot.worst.is_empty() {
        lines.push(Line::from(Span::styled(
            "no wait has ended yet",
            theme.style(Role::Quiet),
        )));
    }
    for wait in &shot.worst {
        let place = shot.head.info.sites.get(wait.site as usize);
        lines.push(Line::from(vec![
            Span::styled(format!("{:>9}  ", duration(wait.ns)), theme.style(Role::Waiting)),
            Span::raw(format!(
                "{:<7} {:>8} {:<15}  ended {} ago",
                short(wait.lock),
                wait.tid,
                name(&wait.comm, false),
                duration(shot.head.now_ns.saturating_sub(wait.end_ns))
            )),
            Span::styled(
                place.map_or_else(String::new, |site| format!("  {}", site.function)),
                theme.style(Role::Quiet),
            ),
        ]));
    }
    canvas.lines(&lines);
}
