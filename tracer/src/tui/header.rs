//! The header: where this comes from, and how far it can be believed. It is the same above every view.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use tracer_common::wire::Provenance;

use super::app::{App, Drawn, Target};
use super::snapshot::{Head, MarkKind, Snapshot, View};
use super::theme::{Role, Theme};
use crate::outside;
use crate::sink::text::{count, duration, fit};

/// Lines of the header, without the time bar.
pub const LINES: u16 = 3;

/// Draws the header.
pub fn draw(buffer: &mut Buffer, area: Rect, app: &App, shot: &Snapshot) {
    let theme = &app.config.theme;
    let lines = [
        first(app, &shot.head, theme),
        second(&shot.head, theme),
        third(&shot.head, theme),
    ];
    for (line, y) in lines.iter().zip(area.y..area.y.saturating_add(area.height)) {
        buffer.set_line(area.x, y, line, area.width);
    }
}

fn first<'a>(app: &App, head: &Head, theme: &Theme) -> Line<'a> {
    let flag = |text: &str| Span::styled(format!(" {text} "), theme.style(Role::Chosen));
    let state = match (&head.replay, app.paused, head.ended) {
        (Some(replay), _, _) if replay.playing => Span::styled(
            format!("REPLAY ×{}", speed(replay.speed_permille)),
            theme.style(Role::Good),
        ),
        (Some(_), _, _) => flag("REPLAY STOPPED"),
        (None, true, _) => flag("PAUSED"),
        (None, false, true) => flag("ENDED"),
        (None, false, false) => {
            let source = if head.info.source.is_empty() {
                "starting"
            } else {
                &head.info.source
            };
            Span::styled(source.to_uppercase(), theme.style(Role::Good))
        }
    };
    let start_ns = head
        .replay
        .as_ref()
        .map_or(head.info.start_monotonic_ns, |replay| replay.first_ns);
    let mut spans = vec![
        Span::styled("tracer ", theme.style(Role::Heading)),
        state,
        Span::raw(format!(
            "  {}  {}  {} events  {}/s",
            fit(&head.info.kernel.release, 28),
            duration(head.now_ns.saturating_sub(start_ns)),
            count(head.events),
            count(head.rate)
        )),
    ];
    if let Some(recording) = &head.recording {
        spans.push(Span::styled(
            format!(
                "  REC {} {} KiB",
                fit(&recording.name, 40),
                count(recording.bytes / 1024)
            ),
            theme.style(Role::Alarm),
        ));
    }
    let mut own = Vec::new();
    if let Some(cost) = head.cost {
        let cpu = format!("{}.{}", cost.cpu_permille / 10, cost.cpu_permille % 10);
        own.push(format!("own {cpu} % CPU"));
    }
    if !head.probes.is_empty() {
        own.push(format!("probes {}", ppm(head.probes.latest_ppm)));
    }
    if let Some(cost) = head.cost {
        own.push(format!("{} MiB", cost.resident >> 20));
    }
    if !own.is_empty() {
        let own = format!("  {}", own.join(", "));
        spans.push(Span::styled(own, theme.style(Role::Quiet)));
    }
    Line::from(spans)
}

/// A share of one CPU in millionths, in words.
pub fn ppm(ppm: u64) -> String {
    format!("{}.{:02} %", ppm / 10_000, ppm % 10_000 / 100)
}

fn speed(permille: u64) -> String {
    if permille.is_multiple_of(1000) {
        count(permille / 1000)
    } else {
        let text = format!("{}.{:03}", permille / 1000, permille % 1000);
        text.trim_end_matches('0').to_owned()
    }
}

fn second<'a>(head: &Head, theme: &Theme) -> Line<'a> {
    let mut spans = vec![losses(head, theme)];
    let faults = head.faults;
    spans.push(Span::raw(format!(
        "  faults {}, {} by VMA lock",
        count(faults.total()),
        percent(faults.vma_lock, faults.total())
    )));
    if head.anomalies > 0 {
        spans.push(Span::styled(
            format!("  {} VIOLATIONS", count(head.anomalies)),
            theme.style(Role::Alarm),
        ));
    }
    if let Some(trigger) = &head.trigger {
        spans.push(Span::styled(
            format!("  trigger: {}", fit(trigger, 30)),
            theme.style(Role::Waiting),
        ));
    }
    if !head.info.filters.is_empty() {
        let filters = head.info.filters.join(", ");
        spans.push(Span::styled(
            format!("  only {}", fit(&filters, 40)),
            theme.style(Role::Unsure),
        ));
    }
    Line::from(spans)
}

fn third<'a>(head: &Head, theme: &Theme) -> Line<'a> {
    let all: u64 = head.by_provenance.iter().sum();
    let share = |provenance: Provenance| percent(head.by_provenance[provenance as usize], all);
    let mut spans = vec![Span::raw(format!(
        "observed {}, derived {}, bounded {}, unknown {}",
        share(Provenance::Observed),
        share(Provenance::Derived),
        share(Provenance::Bounded),
        share(Provenance::Unknown),
    ))];
    let unseen = head.info.unseen.len();
    let text = match unseen {
        0 => "  nothing unseen".to_owned(),
        _ => format!("  {unseen} unseen"),
    };
    let role = if unseen == 0 { Role::Quiet } else { Role::Unsure };
    spans.push(Span::styled(text, theme.style(role)));
    if head.aged_busy > 0 {
        spans.push(Span::styled(
            format!("  {} forgotten for want of room", count(head.aged_busy)),
            theme.style(Role::Alarm),
        ));
    }
    Line::from(spans)
}

fn losses<'a>(head: &Head, theme: &Theme) -> Span<'a> {
    let Head {
        dropped,
        missing,
        missed,
        ..
    } = head;
    if dropped + missing + missed == 0 {
        return Span::styled("nothing lost", theme.style(Role::Good));
    }
    let parts = [(dropped, "dropped"), (missing, "missing"), (missed, "skipped")];
    let parts = parts.iter().filter(|(number, _)| **number > 0);
    let parts: Vec<String> = parts
        .map(|(number, name)| format!("{} {name}", count(**number)))
        .collect();
    Span::styled(format!("LOST: {}", parts.join(", ")), theme.style(Role::Alarm))
}

/// A number of something.
pub fn many(number: u64, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {what}{s}", count(number))
}

/// A share in percent with one digit behind the point, rounded down, so that 100 % means all.
pub fn percent(part: u64, all: u64) -> String {
    if all == 0 {
        return "–".into();
    }
    let tenths = u128::from(part) * 1000 / u128::from(all);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// What has to be said above a view about how far it can be believed.
pub fn note(view: View, head: &Head) -> Option<(String, Role)> {
    let lost = |what: &str| {
        let gap = head.last_gap?;
        let ago = duration(head.now_ns.saturating_sub(gap.ts_ns));
        let events = match gap.missing {
            0 => "events missing".to_owned(),
            1 => "1 event missing".to_owned(),
            many => format!("{} events missing", count(u64::from(many))),
        };
        let text = match head.gaps {
            1 => format!("GAP {ago} ago: {events} on CPU {}; {what}", gap.cpu),
            gaps => format!(
                "{} GAPS, the latest {ago} ago: {events} on CPU {}; {what}",
                count(gaps),
                gap.cpu
            ),
        };
        Some((text, Role::Alarm))
    };
    let missed = |what: &str| {
        let runs = head.missed;
        (runs > 0).then(|| {
            (
                format!("the kernel skipped {} runs of probes; {what}", count(runs)),
                Role::Alarm,
            )
        })
    };
    let unseen = |kinds: &[&str], what: &str| {
        let mut operations: Vec<&str> = head
            .info
            .unseen
            .iter()
            .map(|unseen| unseen.operation.as_str())
            .collect();
        operations
            .retain(|operation| kinds.is_empty() || kinds.iter().any(|kind| operation.starts_with(kind)));
        operations.sort_unstable();
        operations.dedup();
        (!operations.is_empty()).then(|| {
            (
                format!("not wholly seen here: {}; {what}", operations.join(", ")),
                Role::Unsure,
            )
        })
    };
    let held = "what was held before and not seen since is marked unknown";
    match view {
        View::Overview | View::Tasks | View::Space | View::Contention => {
            lost(held).or_else(|| missed(held)).or_else(|| {
                unseen(
                    &["vma_read_acquire", "vma_read_release", "mmap_", "vma_write"],
                    "see Probes",
                )
            })
        }
        View::Assertions => {
            lost("nothing is judged across it").or_else(|| missed("nothing is judged across it"))
        }
        View::Events => lost("shown where they are missing").or_else(|| unseen(&[], "see Probes")),
        View::Histograms => {
            let waits: u64 = head.waits_unknown.iter().sum();
            let holds: u64 = head.holds_unknown.iter().sum();
            (waits + holds > 0).then(|| {
                let text = format!(
                    "not in here, since their length is not known: {}, {}",
                    many(waits, "wait"),
                    many(holds, "hold")
                );
                (text, Role::Unsure)
            })
        }
        View::Probes => lost("they are in no count").or_else(|| missed("they are in no count")),
    }
}

/// Draws the tabs.
pub fn tabs(buffer: &mut Buffer, area: Rect, app: &App, drawn: &mut Drawn) {
    let theme = &app.config.theme;
    let mut x = area.x;
    let wide = area.width >= 92;
    for (at, view) in View::ALL.into_iter().enumerate() {
        let name = if wide { view.name() } else { fit_name(view) };
        let label = format!("{} {name}", at + 1);
        let here = view == app.view;
        // The brackets say it where there is no colour.
        let text = if here {
            format!("[{label}]")
        } else {
            format!(" {label} ")
        };
        let room = (area.x + area.width).saturating_sub(x);
        if room == 0 {
            break;
        }
        let style = theme.style(if here { Role::Heading } else { Role::Quiet });
        let (end, _) = buffer.set_stringn(x, area.y, &text, usize::from(room), style);
        drawn.targets.push((
            Rect {
                x,
                y: area.y,
                width: end - x,
                height: 1,
            },
            Target::View(view),
        ));
        x = end;
    }
}

const fn fit_name(view: View) -> &'static str {
    match view {
        View::Overview => "Over",
        View::Contention => "Contend",
        View::Assertions => "Assert",
        View::Histograms => "Hist",
        _ => view.name(),
    }
}

/// Draws the time bar of a recording.
pub fn time_bar(buffer: &mut Buffer, area: Rect, head: &Head, app: &App, drawn: &mut Drawn) {
    let Some(replay) = &head.replay else { return };
    let theme = &app.config.theme;
    let length = replay.last_ns.saturating_sub(replay.first_ns);
    let at = head.now_ns.saturating_sub(replay.first_ns).min(length);
    let left = format!("{} ", clock(at));
    let more = if replay.whole { "" } else { "+" };
    let right = format!(
        " {}{more}  event {}/{}{more}",
        clock(length),
        count(replay.number),
        count(replay.total)
    );
    let used = left.chars().count() + right.chars().count();
    let Some(width) = usize::from(area.width)
        .checked_sub(used)
        .filter(|width| *width >= 8)
    else {
        buffer.set_stringn(
            area.x,
            area.y,
            format!("{left}{right}"),
            usize::from(area.width),
            theme.style(Role::Text),
        );
        return;
    };
    let place = |ns: u64| {
        let part = u128::from(ns.min(length)) * (width as u128 - 1) / u128::from(length.max(1));
        usize::try_from(part).unwrap_or(0)
    };
    let mut bar: Vec<(char, Role)> = vec![('─', Role::Bar); width];
    for cell in bar.iter_mut().take(place(at)) {
        *cell = ('━', Role::Bar);
    }
    let mut worst: Vec<Option<MarkKind>> = vec![None; width];
    for mark in replay.marks.iter() {
        let cell = &mut worst[place(mark.ts_ns.saturating_sub(replay.first_ns))];
        *cell = (*cell).max(Some(mark.kind));
    }
    for (cell, worst) in bar.iter_mut().zip(worst) {
        match worst {
            Some(MarkKind::Violation) => *cell = ('!', Role::Alarm),
            Some(MarkKind::Gap) => *cell = ('x', Role::Alarm),
            Some(MarkKind::Wait(ns)) if ns >= app.long_wait_ns => *cell = ('w', Role::Waiting),
            _ => {}
        }
    }
    bar[place(at)] = ('●', Role::Heading);
    let mut spans = vec![Span::raw(left.clone())];
    spans.extend(
        bar.iter()
            .map(|(char, role)| Span::styled(char.to_string(), theme.style(*role))),
    );
    spans.push(Span::raw(right));
    buffer.set_line(area.x, area.y, &Line::from(spans), area.width);
    let bar = Rect {
        x: area.x + u16::try_from(left.chars().count()).unwrap_or(0),
        y: area.y,
        width: u16::try_from(width).unwrap_or(u16::MAX),
        height: 1,
    };
    drawn.targets.push((bar, Target::Time));
}

/// A time as on a stop-watch: `1:02.345678`.
pub fn clock(ns: u64) -> String {
    let (minutes, rest) = (ns / 60_000_000_000, ns % 60_000_000_000);
    let (seconds, micros) = (rest / 1_000_000_000, rest % 1_000_000_000 / 1_000);
    format!("{minutes}:{seconds:02}.{micros:06}")
}

/// A command name, safe to show.
pub fn name(raw: &[u8; 16], is_self: bool) -> String {
    let name = outside::name(raw);
    if is_self {
        format!("{}*", fit(&name, 14))
    } else {
        fit(&name, 15).into_owned()
    }
}
