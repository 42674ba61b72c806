//! How long waits and holds are, on a logarithmic scale.

use ratatui::text::{Line, Span};

use super::{Canvas, short};
use crate::sink::text::{count, duration};
use crate::state::{Histogram, Lock};
use crate::tui::theme::Role;

/// Draws the view.
pub fn draw(canvas: &mut Canvas<'_>) {
    let theme = canvas.look.theme;
    let lengths = &canvas.shot.lengths;
    let head = &canvas.shot.head;
    let mut lines = Vec::new();
    let width = usize::from(canvas.area.width);
    let all = [
        ("waited for", &lengths.waits, head.waits_unknown, Role::Waiting),
        ("held", &lengths.holds, head.holds_unknown, Role::Bar),
    ];
    for (verb, histograms, unknown, role) in all {
        for lock in Lock::ALL {
            let histogram = &histograms[lock as usize];
            let unknown = unknown[lock as usize];
            if histogram.count() == 0 && unknown == 0 {
                continue;
            }
            let more = match unknown {
                0 => String::new(),
                many => format!(", {} more of unknown length", count(many)),
            };
            lines.push(Line::from(vec![
                Span::styled(format!("{} {verb}", short(lock)), theme.style(Role::Heading)),
                Span::raw(format!(
                    "  {} times{more}  p50 {}  p90 {}  p99 {}  p99.9 {}  longest {}  in all {}",
                    count(histogram.count()),
                    duration(histogram.percentile(50.0)),
                    duration(histogram.percentile(90.0)),
                    duration(histogram.percentile(99.0)),
                    duration(histogram.percentile(99.9)),
                    duration(histogram.max_ns()),
                    duration(histogram.total_ns()),
                )),
            ]));
            for (label, number, bar) in bars(histogram, width.saturating_sub(34)) {
                lines.push(Line::from(vec![
                    Span::styled(format!("{label:>20} "), theme.style(Role::Quiet)),
                    Span::raw(format!("{:>11} ", count(number))),
                    Span::styled(bar, theme.style(role)),
                ]));
            }
            lines.push(Line::default());
        }
    }
    if lines.is_empty() {
        lines.push(Line::from(Span::styled(
            "no wait or hold has ended yet",
            theme.style(Role::Quiet),
        )));
    }
    canvas.text(&lines);
}

/// By powers of two: from when to when, how many, and a bar as long as its share of the most.
fn bars(histogram: &Histogram, width: usize) -> Vec<(String, u64, String)> {
    let mut by_power = [0u64; 65];
    for (low, _, number) in histogram.buckets() {
        by_power[64 - low.leading_zeros() as usize] += number;
    }
    let most = by_power.iter().copied().max().unwrap_or(0).max(1);
    let first = by_power.iter().position(|&number| number > 0);
    let last = by_power.iter().rposition(|&number| number > 0);
    let (Some(first), Some(last)) = (first, last) else {
        return Vec::new();
    };
    (first..=last)
        .map(|power| {
            let number = by_power[power];
            let low = if power == 0 { 0 } else { 1u64 << (power - 1) };
            let high = if power >= 64 { u64::MAX } else { 1u64 << power };
            (
                format!("{}–{}", duration(low), duration(high)),
                number,
                bar(number, most, width),
            )
        })
        .collect()
}

/// In eighths of a character; something is at least an eighth.
fn bar(number: u64, most: u64, width: usize) -> String {
    const PARTS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    if number == 0 {
        return String::new();
    }
    let eighths = u128::from(number) * (width as u128 * 8) / u128::from(most);
    let eighths = usize::try_from(eighths).unwrap_or(0).max(1);
    let mut bar = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        bar.push(PARTS[eighths % 8]);
    }
    bar
}
