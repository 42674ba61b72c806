//! The kernel's assertions: what every variant would have said at what was seen, and whether it would have been right;
//! states that the lock cannot be in; whether each count that was read is accounted for.

use core::cmp::Ordering;

use ratatui::text::{Line, Span};

use super::{Canvas, events};
use crate::check::Holders;
use crate::check::accounting::OpenReason;
use crate::check::assertions::{Example, Key, Row as Verdict, Unknown};
use crate::filter::{Facts, Field, Filter, Value};
use crate::sink::text::{count, duration};
use crate::tui::app::Drill;
use crate::tui::header::{clock, many, percent};
use crate::tui::snapshot::{Snapshot, Verdicts};
use crate::tui::table::{Cell, Column, Look, Manner, Row};
use crate::tui::theme::{Role, Theme};

/// One assertion in one variant from one viewpoint, with its number.
#[derive(Clone, Copy)]
pub struct Judged {
    at: u64,
    row: Verdict,
}

impl Facts for Judged {
    fn any(&self, field: Field, test: &mut dyn FnMut(Value<'_>) -> bool) -> bool {
        match field {
            Field::Kind | Field::Comm => {
                test(Value::Text(self.row.which.variant().as_bytes()))
                    || test(Value::Text(self.row.which.assertion().as_bytes()))
                    || test(Value::Text(self.row.viewpoint.name().as_bytes()))
            }
            Field::Events => test(Value::Number(self.row.evaluated)),
            _ => false,
        }
    }
}

impl Row for Judged {
    fn key(&self) -> u64 {
        self.at
    }

    fn fits(&self, filter: &Filter, _: &Look<'_>) -> bool {
        filter.fits(self)
    }
}

fn wrong(row: &Verdict) -> u64 {
    row.false_positive + row.false_negative
}

fn by_wrong(one: &Judged, other: &Judged) -> Ordering {
    wrong(&other.row)
        .cmp(&wrong(&one.row))
        .then(other.row.evaluated.cmp(&one.row.evaluated))
}

/// How they are shown at first: what is wrong most often first.
pub const MANNER: Manner = Manner {
    follows: false,
    sort: Some(6),
};

const fn number(number: u64, role: Role) -> (u64, Role) {
    (number, role)
}

fn cell((number, role): (u64, Role)) -> Cell {
    if number == 0 {
        ("0".into(), Role::Quiet)
    } else {
        (count(number), role)
    }
}

/// The columns.
pub const COLUMNS: &[Column<Judged>] = &[
    Column {
        name: "assertion",
        title: "ASSERTION",
        width: 0,
        right: false,
        from: 0,
        show: |one, _| (one.row.which.assertion().to_owned(), Role::Text),
        order: Some(|one, other| one.row.which.assertion().cmp(other.row.which.assertion())),
    },
    Column {
        name: "variant",
        title: "VARIANT",
        width: 12,
        right: false,
        from: 0,
        show: |one, _| (one.row.which.variant().to_owned(), Role::Heading),
        order: Some(|one, other| one.row.which.variant().cmp(other.row.which.variant())),
    },
    Column {
        name: "lockdep",
        title: "LOCKDEP",
        width: 7,
        right: false,
        from: 0,
        show: |one, _| (one.row.which.lockdep().to_owned(), Role::Text),
        order: Some(|one, other| one.row.which.lockdep().cmp(other.row.which.lockdep())),
    },
    Column {
        name: "asked-by",
        title: "ASKED BY",
        width: 12,
        right: false,
        from: 0,
        show: |one, _| (one.row.viewpoint.name().to_owned(), Role::Text),
        order: Some(|one, other| one.row.viewpoint.cmp(&other.row.viewpoint)),
    },
    Column {
        name: "asked",
        title: "ASKED",
        width: 11,
        right: true,
        from: 100,
        show: |one, _| cell(number(one.row.evaluated, Role::Text)),
        order: Some(|one, other| other.row.evaluated.cmp(&one.row.evaluated)),
    },
    Column {
        name: "right",
        title: "RIGHT",
        width: 10,
        right: true,
        from: 0,
        show: |one, _| cell(number(one.row.right, Role::Good)),
        order: Some(|one, other| other.row.right.cmp(&one.row.right)),
    },
    Column {
        name: "false-positive",
        title: "FALSE+",
        width: 9,
        right: true,
        from: 0,
        show: |one, _| cell(number(one.row.false_positive, Role::Alarm)),
        order: Some(by_wrong),
    },
    Column {
        name: "false-negative",
        title: "FALSE–",
        width: 9,
        right: true,
        from: 0,
        show: |one, _| cell(number(one.row.false_negative, Role::Alarm)),
        order: Some(|one, other| other.row.false_negative.cmp(&one.row.false_negative)),
    },
    Column {
        name: "unpredicted",
        title: "NEWS",
        width: 7,
        right: true,
        from: 120,
        show: |one, _| cell(number(one.row.unpredicted, Role::Alarm)),
        order: Some(|one, other| other.row.unpredicted.cmp(&one.row.unpredicted)),
    },
    Column {
        name: "unknown",
        title: "UNKNOWN",
        width: 10,
        right: true,
        from: 110,
        show: |one, _| cell(number(one.row.unknown, Role::Unsure)),
        order: None,
    },
    Column {
        name: "unclaimed",
        title: "UNCLAIMED",
        width: 10,
        right: true,
        from: 130,
        show: |one, _| cell(number(one.row.unclaimed, Role::Quiet)),
        order: None,
    },
];

/// The rows to show: what was asked at all.
pub fn rows(shot: &Snapshot) -> Vec<Judged> {
    let rows = shot
        .verdicts
        .iter()
        .flat_map(|verdicts| verdicts.rows.iter().enumerate());
    rows.filter(|(_, row)| row.evaluated > 0)
        .map(|(at, row)| Judged {
            at: at as u64,
            row: *row,
        })
        .collect()
}

/// Draws the view.
pub fn draw(canvas: &mut Canvas<'_>) {
    let theme = canvas.look.theme;
    let shot = canvas.shot;
    let Some(verdicts) = &shot.verdicts else {
        canvas.text(&[Line::from(Span::styled("looking …", theme.style(Role::Quiet)))]);
        return;
    };
    let mut lines = vec![violations(verdicts, theme)];
    lines.extend(accounting(verdicts, theme));
    lines.push(unjudged(verdicts, theme));
    if let Some((key, example)) = verdicts.recent.last() {
        lines.push(Line::from(vec![
            Span::styled("latest disagreement  ", theme.style(Role::Heading)),
            Span::raw(format!("{}  {}", at(canvas, example), state(*key))),
        ]));
    }
    lines.truncate(usize::from(canvas.area.height / 2));
    canvas.lines(&lines);
    let empty = if verdicts.applies {
        "nothing was read yet that an assertion could be asked about"
    } else {
        "this kernel's lock is a semaphore; these assertions are not in it"
    };
    canvas.table(&rows(shot), COLUMNS, MANNER, empty);
}

fn violations<'a>(verdicts: &Verdicts, theme: &Theme) -> Line<'a> {
    let all = verdicts.violations_all;
    if all == 0 {
        let taken = match verdicts.taken_back {
            0 => String::new(),
            taken => format!(" ({} taken back, a gap explains them)", count(taken)),
        };
        return Line::from(Span::styled(
            format!("no state seen that the lock cannot be in{taken}"),
            theme.style(Role::Good),
        ));
    }
    let mut kinds: Vec<&str> = verdicts
        .violations
        .iter()
        .map(|violation| violation.kind.name())
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    Line::from(Span::styled(
        format!(
            "{}: {}; Enter shows them",
            many(all, "VIOLATION"),
            kinds.join(", ")
        ),
        theme.style(Role::Alarm),
    ))
}

fn accounting<'a>(verdicts: &Verdicts, theme: &Theme) -> Option<Line<'a>> {
    let totals = verdicts.accounting?;
    let closed = totals.closed_exact + totals.closed_concurrent;
    let mut spans = vec![
        Span::styled("vm_refcnt  ", theme.style(Role::Heading)),
        Span::raw(format!(
            "{} read, {} accounted for",
            count(totals.checked),
            percent(closed, totals.checked)
        )),
    ];
    let open: Vec<String> = OpenReason::ALL
        .into_iter()
        .filter(|reason| totals.open_by_reason[*reason as usize] > 0)
        .map(|reason| {
            format!(
                "{} {}",
                reason.name(),
                count(totals.open_by_reason[reason as usize])
            )
        })
        .collect();
    if !open.is_empty() {
        spans.push(Span::styled(
            format!("; open: {}", open.join(", ")),
            theme.style(Role::Unsure),
        ));
    }
    Some(Line::from(spans))
}

fn unjudged<'a>(verdicts: &Verdicts, theme: &Theme) -> Line<'a> {
    let reasons: Vec<String> = Unknown::ALL
        .into_iter()
        .filter(|reason| verdicts.unknown[*reason as usize] > 0)
        .map(|reason| format!("{} {}", reason.name(), count(verdicts.unknown[reason as usize])))
        .collect();
    let text = if reasons.is_empty() {
        "every instant could be judged".to_owned()
    } else {
        format!("not judged: {}", reasons.join(", "))
    };
    Line::from(Span::styled(text, theme.style(Role::Quiet)))
}

fn at(canvas: &Canvas<'_>, example: &Example) -> String {
    let header = &example.event.header;
    let ns = header.ts_ns.saturating_sub(canvas.look.info.start_monotonic_ns);
    format!("{} {} of {}", clock(ns), example.event.kind.name(), header.tid)
}

/// The state of the lock, in words.
fn state(key: Key) -> String {
    let mmap: Vec<&str> = key.mmap.possible().iter().map(|mmap| mmap.name()).collect();
    format!(
        "{} ({}), count {:?}, sequence {}, mmap_lock held by {}",
        key.standing.name(),
        key.viewpoint.name(),
        key.class,
        if key.eq { "equal" } else { "not equal" },
        mmap.join(" or ")
    )
}

fn holders(holders: &Holders) -> String {
    let mut words = Vec::new();
    if holders.reader_count > 0 {
        let tids: Vec<String> = holders.readers().iter().map(ToString::to_string).collect();
        words.push(format!(
            "{} ({})",
            many(u64::from(holders.reader_count), "reader"),
            tids.join(" ")
        ));
    }
    for (who, what) in [
        (holders.writer, "writer"),
        (holders.waiting_writer, "waiting writer"),
        (holders.mmap_writer, "mmap_lock writer"),
    ] {
        if let Some(tid) = who {
            words.push(format!("{what} {tid}"));
        }
    }
    if words.is_empty() {
        "nobody that is known".into()
    } else {
        words.join(", ")
    }
}

/// What is meant by entering a row.
pub fn drill(_: &Snapshot, key: u64) -> Option<Drill> {
    Some(Drill::Row(key))
}

/// Draws one assertion closely: a wrong verdict of it with the state of the lock, then the latest ones of all, then
/// violations.
pub fn one(canvas: &mut Canvas<'_>, key: u64) {
    let theme = canvas.look.theme;
    let shot = canvas.shot;
    let Some(verdicts) = &shot.verdicts else { return };
    let mut lines = Vec::new();
    let heading = |text: String| Line::from(Span::styled(text, theme.style(Role::Heading)));
    let field = |name: &str, text: String| {
        Line::from(vec![
            Span::styled(format!("   {name:<12}"), theme.style(Role::Quiet)),
            Span::raw(text),
        ])
    };
    let told = |example: &Example, lines: &mut Vec<Line<'_>>| {
        let event = &example.event;
        lines.push(field("event", at(canvas, example)));
        if let Some((start, end)) = event.range() {
            lines.push(field("vma", format!("{start:x}-{end:x}")));
        }
        if let Some(refcnt) = event.vm_refcnt() {
            lines.push(field(
                "vm_refcnt",
                format!("{refcnt:#x}: {}", events::refcnt_words(refcnt)),
            ));
        }
        let seq = |seq: Option<u32>| seq.map_or_else(|| "?".into(), |seq| seq.to_string());
        lines.push(field(
            "sequence",
            format!(
                "vm_lock_seq {}, mm_lock_seq {}",
                seq(event.vm_lock_seq()),
                seq(event.mm_lock_seq())
            ),
        ));
        lines.push(field("held by", holders(&example.holders)));
    };
    if let Some(row) = usize::try_from(key).ok().and_then(|at| verdicts.rows.get(at)) {
        lines.push(heading(format!(
            "{}, variant {}, lockdep {}, asked by {}",
            row.which.assertion(),
            row.which.variant(),
            row.which.lockdep(),
            row.viewpoint.name()
        )));
        lines.push(Line::from(format!(
            "asked {}: {} right, {} fired and should not, {} silent and should fire, {} unknown, {} where the kernel does not assert",
            count(row.evaluated),
            count(row.right),
            count(row.false_positive),
            count(row.false_negative),
            count(row.unknown),
            count(row.unclaimed)
        )));
        match &row.example {
            Some((key, example, predicted)) => {
                let known = if *predicted {
                    "the model checker knows of it"
                } else {
                    "NEWS: the model checker does not know of it"
                };
                lines.push(Line::from(format!(
                    "it is wrong where it is asked by: {}",
                    state(*key)
                )));
                lines.push(Line::from(known));
                told(example, &mut lines);
            }
            None => lines.push(Line::from("it was never seen to be wrong")),
        }
    }
    if !verdicts.violations.is_empty() {
        lines.push(Line::default());
        lines.push(heading("States that the lock cannot be in".into()));
    }
    for violation in &verdicts.violations {
        let example = Example {
            event: violation.event,
            holders: violation.holders,
        };
        lines.push(Line::from(Span::styled(
            format!(
                "{}: {} expected; proven {} later",
                violation.kind.name(),
                violation.expected,
                duration(violation.proven_ns.saturating_sub(violation.event.header.ts_ns))
            ),
            theme.style(Role::Alarm),
        )));
        told(&example, &mut lines);
    }
    if !verdicts.recent.is_empty() {
        lines.push(Line::default());
        lines.push(heading("Latest disagreements, the newest first".into()));
    }
    for (key, example) in verdicts.recent.iter().rev() {
        lines.push(Line::from(state(*key)));
        told(example, &mut lines);
    }
    canvas.text(&lines);
}
