//! Who waits for whom, as trees, cycles marked; waits that are over by lock, place and stack; who kept others waiting
//! most, and why faults took the `mmap_lock`.

use core::cmp::Ordering;

use ratatui::text::{Line, Span};
use tracer_common::wire::Provenance;

use super::{Canvas, short};
use crate::contention::chains::{Doing, Edge, Tree, Why};
use crate::contention::places;
use crate::filter::{Facts, Field, Filter, Value};
use crate::outside;
use crate::sink::text::{count, duration};
use crate::stacks::Stack;
use crate::tui::app::Drill;
use crate::tui::header::{many, name};
use crate::tui::snapshot::{Place, Snapshot, Stuck, Waits};
use crate::tui::table::{Cell, Column, Look, Manner, Row};
use crate::tui::theme::{Role, Theme};

impl Facts for Waits {
    fn any(&self, field: Field, test: &mut dyn FnMut(Value<'_>) -> bool) -> bool {
        let longest = &self.longest;
        match field {
            Field::Lock => test(Value::Text(lock_of(self).name().as_bytes())),
            Field::Wait => test(Value::Number(longest.ns)),
            Field::Events => test(Value::Number(self.count)),
            Field::Comm => test(Value::Text(
                longest.comm.split(|&byte| byte == 0).next().unwrap_or_default(),
            )),
            Field::Tid => test(Value::Number(u64::from(longest.who.tid))),
            Field::Pid => test(Value::Number(u64::from(longest.who.pid))),
            _ => false,
        }
    }
}

impl Row for Waits {
    fn key(&self) -> u64 {
        match self.place {
            Place::Lock(lock) => lock as u64,
            Place::Site(site, lock) => 1 << 60 | u64::from(site) << 2 | lock as u64,
            Place::Stack(kernel, user, lock) => {
                2 << 60 | u64::from(kernel) << 32 | u64::from(user) << 2 | lock as u64
            }
        }
    }

    fn fits(&self, filter: &Filter, _: &Look<'_>) -> bool {
        filter.fits(self)
    }
}

const fn lock_of(waits: &Waits) -> crate::state::Lock {
    match waits.place {
        Place::Lock(lock) | Place::Site(_, lock) | Place::Stack(_, _, lock) => lock,
    }
}

/// By lock first, then by place, then by stack; the longest in all first.
fn by_total(one: &Waits, other: &Waits) -> Ordering {
    let group = |waits: &Waits| match waits.place {
        Place::Lock(_) => 0,
        Place::Site(..) => 1,
        Place::Stack(..) => 2,
    };
    group(one)
        .cmp(&group(other))
        .then(other.total_ns.cmp(&one.total_ns))
}

/// How groups are shown at first.
pub const MANNER: Manner = Manner {
    follows: false,
    sort: Some(4),
};

/// The columns.
pub const COLUMNS: &[Column<Waits>] = &[
    Column {
        name: "lock",
        title: "LOCK",
        width: 6,
        right: false,
        from: 0,
        show: |waits, _| (short(lock_of(waits)).to_owned(), Role::Waiting),
        order: Some(|one, other| (lock_of(one) as u8).cmp(&(lock_of(other) as u8))),
    },
    Column {
        name: "place",
        title: "ENDED AT",
        width: 0,
        right: false,
        from: 0,
        show: place,
        order: None,
    },
    Column {
        name: "waits",
        title: "WAITS",
        width: 10,
        right: true,
        from: 0,
        show: |waits, _| (count(waits.count), Role::Text),
        order: Some(|one, other| other.count.cmp(&one.count)),
    },
    Column {
        name: "unknown",
        title: "UNKNOWN",
        width: 8,
        right: true,
        from: 110,
        show: |waits, _| {
            (
                if waits.unknown == 0 {
                    String::new()
                } else {
                    count(waits.unknown)
                },
                Role::Unsure,
            )
        },
        order: None,
    },
    Column {
        name: "total",
        title: "IN ALL",
        width: 8,
        right: true,
        from: 0,
        show: |waits, _| (duration(waits.total_ns), Role::Text),
        order: Some(by_total),
    },
    Column {
        name: "p50",
        title: "P50",
        width: 8,
        right: true,
        from: 70,
        show: |waits, _| (duration(waits.p50_ns), Role::Text),
        order: Some(|one, other| other.p50_ns.cmp(&one.p50_ns)),
    },
    Column {
        name: "p99",
        title: "P99",
        width: 8,
        right: true,
        from: 0,
        show: |waits, _| (duration(waits.p99_ns), Role::Text),
        order: Some(|one, other| other.p99_ns.cmp(&one.p99_ns)),
    },
    Column {
        name: "longest",
        title: "LONGEST",
        width: 8,
        right: true,
        from: 0,
        show: |waits, _| (duration(waits.longest.ns), Role::Waiting),
        order: Some(|one, other| other.longest.ns.cmp(&one.longest.ns)),
    },
    Column {
        name: "whose",
        title: "WHOSE",
        width: 24,
        right: false,
        from: 100,
        show: |waits, _| {
            let longest = &waits.longest;
            (
                format!("{} {}", longest.who.tid, name(&longest.comm, false)),
                Role::Text,
            )
        },
        order: None,
    },
];

fn place(waits: &Waits, look: &Look<'_>) -> Cell {
    match waits.place {
        Place::Lock(_) => ("anywhere".into(), Role::Heading),
        Place::Site(site, _) => {
            let site = look.info.sites.get(site as usize);
            (
                site.map_or_else(|| "?".into(), |site| site.function.clone()),
                Role::Text,
            )
        }
        Place::Stack(kernel, user, _) => {
            let named = |number: u32| {
                let stack = look.stacks.get((number as usize).checked_sub(1)?)?;
                Some(places::caller(stack)?.to_owned())
            };
            let text = named(kernel).or_else(|| named(user));
            (
                format!(
                    "from {}",
                    text.unwrap_or_else(|| format!("stack {kernel}/{user}"))
                ),
                Role::Quiet,
            )
        }
    }
}

/// Draws the view.
pub fn draw(canvas: &mut Canvas<'_>) {
    let theme = canvas.look.theme;
    let shot = canvas.shot;
    let Some(stuck) = &shot.contention else {
        canvas.text(&[Line::from(Span::styled("looking …", theme.style(Role::Quiet)))]);
        return;
    };
    let now_ns = canvas.look.now_ns;
    let mut lines = chains(stuck, theme, now_ns);
    // The table keeps at least a third.
    let room = usize::from(canvas.area.height) * 2 / 3;
    if lines.len() > room.max(2) {
        let more = lines.len() - room.max(2) + 1;
        lines.truncate(room.max(2) - 1);
        lines.push(Line::from(Span::styled(
            format!("… {more} more lines; Tasks lists everybody"),
            theme.style(Role::Unsure),
        )));
    }
    lines.extend(who_kept(stuck, theme));
    lines.push(Line::from(Span::styled(
        "WAITS THAT ARE OVER",
        theme.style(Role::Heading),
    )));
    canvas.lines(&lines);
    canvas.look.stacks = &stuck.stacks;
    canvas.table(&stuck.waits, COLUMNS, MANNER, "no wait has ended yet");
}

/// Who kept others waiting most, and why faults took the `mmap_lock`.
fn who_kept<'a>(stuck: &Stuck, theme: &Theme) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    let worst = stuck.worst_holds.iter().flatten();
    if let Some(hold) = worst
        .filter(|hold| hold.caused_ns > 0)
        .max_by_key(|hold| hold.caused_ns)
    {
        lines.push(Line::from(vec![
            Span::styled("worst hold  ", theme.style(Role::Heading)),
            Span::raw(format!(
                "{} {} held {} for {}; {} waited {} in all",
                hold.who.tid,
                name(&hold.comm, false),
                short(hold.lock),
                duration(hold.ns),
                many(u64::from(hold.waiters), "other"),
                duration(hold.caused_ns)
            )),
        ]));
    }
    if !stuck.fallbacks.is_empty() {
        let mut reasons = stuck.fallbacks.clone();
        reasons.sort_by_key(|(_, number)| core::cmp::Reverse(*number));
        let reasons: Vec<String> = reasons
            .iter()
            .map(|(reason, number)| format!("{reason} {}", count(*number)))
            .collect();
        lines.push(Line::from(vec![
            Span::styled("faults that took mmap_lock  ", theme.style(Role::Heading)),
            Span::raw(reasons.join(", ")),
        ]));
    }
    lines
}

/// Who waits for whom: below everybody who waits those who are in the way, and whom these wait for in turn.
fn chains<'a>(stuck: &Stuck, theme: &Theme, now_ns: u64) -> Vec<Line<'a>> {
    let chains = &stuck.chains;
    let mut lines = vec![Line::from(Span::styled(
        "WHO WAITS FOR WHOM NOW",
        theme.style(Role::Heading),
    ))];
    for cycle in &chains.cycles {
        let members: Vec<String> = cycle
            .members
            .iter()
            .map(|(person, wait)| format!("{} ({})", person.tid, short(wait.lock)))
            .collect();
        let word = if cycle.is_deadlock(stuck.now_ns) {
            "DEADLOCK"
        } else {
            "CYCLE"
        };
        lines.push(Line::from(Span::styled(
            format!(
                "{word} for {}, {}: {} → {}",
                duration(now_ns.saturating_sub(cycle.since_ns)),
                cycle.certainty.name(),
                members.join(" → "),
                cycle.members.first().map_or(0, |(person, _)| person.tid)
            ),
            theme.style(Role::Alarm),
        )));
    }
    let mut last: Option<(u32, crate::state::Lock, u64)> = None;
    let mut alike = 0u32;
    let flush = |lines: &mut Vec<Line<'a>>, alike: &mut u32| {
        if *alike > 0 {
            lines.push(Line::from(Span::styled(
                format!("   and {} behind the same", many(u64::from(*alike), "other")),
                theme.style(Role::Quiet),
            )));
            *alike = 0;
        }
    };
    for tree in chains.roots() {
        // Many who wait for one are one line each only for the first.
        let first = tree.blocked_by.first().map(|edge| edge.person.tid);
        let key = first.map(|tid| (tid, tree.wait.lock, tree.wait.mm ^ tree.wait.vma));
        if key.is_some() && key == last {
            alike += 1;
            continue;
        }
        flush(&mut lines, &mut alike);
        last = key;
        lines.push(waiter(tree, theme, now_ns));
        if tree.blocked_by.is_empty() {
            lines.push(Line::from(vec![
                Span::styled("└─ ", theme.style(Role::Bar)),
                Span::styled(
                    "nobody that is known, or it was just given back",
                    theme.style(Role::Unsure),
                ),
            ]));
        }
        edges(&tree.blocked_by, "", theme, now_ns, &mut lines);
    }
    flush(&mut lines, &mut alike);
    if chains.trees.is_empty() {
        lines.push(Line::from(Span::styled("nobody waits", theme.style(Role::Quiet))));
    }
    if chains.truncated {
        lines.push(Line::from(Span::styled(
            "there are more chains than are followed",
            theme.style(Role::Unsure),
        )));
    }
    lines
}

fn waiter<'a>(tree: &Tree, theme: &Theme, now_ns: u64) -> Line<'a> {
    let mut spans = vec![
        Span::styled(
            format!("{} {}", tree.person.tid, name(&tree.person.comm, false)),
            theme.style(Role::Heading),
        ),
        Span::styled(
            format!(
                "  waits {} {}",
                short(tree.wait.lock),
                duration(now_ns.saturating_sub(tree.wait.since_ns))
            ),
            theme.style(Role::Waiting),
        ),
    ];
    unsure(&mut spans, tree.wait.certainty, theme);
    Line::from(spans)
}

fn unsure(spans: &mut Vec<Span<'_>>, certainty: Provenance, theme: &Theme) {
    if certainty != Provenance::Observed {
        spans.push(Span::styled(
            format!("  {}", certainty.name()),
            theme.style(Role::Unsure),
        ));
    }
}

fn edges<'a>(edges: &[Edge], indent: &str, theme: &Theme, now_ns: u64, lines: &mut Vec<Line<'a>>) {
    for (at, edge) in edges.iter().enumerate() {
        let last = at + 1 == edges.len();
        let verb = match edge.why {
            Why::Holds => "holds",
            Why::Ahead => "is ahead, waits",
        };
        let at_least = if edge.since_known { "" } else { ">" };
        let mut spans = vec![
            Span::styled(
                format!("{indent}{}", if last { "└─ " } else { "├─ " }),
                theme.style(Role::Bar),
            ),
            Span::styled(
                format!("{} {}", edge.person.tid, name(&edge.person.comm, false)),
                theme.style(Role::Heading),
            ),
            Span::styled(
                format!("  {verb} {}", short(edge.lock)),
                theme.style(Role::Writing),
            ),
            Span::raw(format!(
                " {at_least}{}",
                duration(now_ns.saturating_sub(edge.since_ns))
            )),
        ];
        if edge.doing != Doing::Unknown {
            let role = if edge.doing == Doing::Cycle {
                Role::Alarm
            } else {
                Role::Text
            };
            spans.push(Span::styled(
                format!("  {}", edge.doing.name()),
                theme.style(role),
            ));
        }
        unsure(&mut spans, edge.certainty, theme);
        lines.push(Line::from(spans));
        let deeper = format!("{indent}{}", if last { "   " } else { "│  " });
        self::edges(&edge.next, &deeper, theme, now_ns, lines);
    }
}

/// What is meant by entering a row.
pub fn drill(_: &Snapshot, key: u64) -> Option<Drill> {
    Some(Drill::Row(key))
}

/// Draws one group closely: its longest wait, and its stacks.
pub fn one(canvas: &mut Canvas<'_>, key: u64) {
    let theme = canvas.look.theme;
    let shot = canvas.shot;
    let row = shot
        .contention
        .as_ref()
        .and_then(|stuck| Some((stuck, stuck.waits.iter().find(|waits| waits.key() == key)?)));
    let Some((stuck, waits)) = row else {
        canvas.text(&[Line::from(Span::styled(
            "this group is not kept any more",
            theme.style(Role::Unsure),
        ))]);
        return;
    };
    canvas.look.stacks = &stuck.stacks;
    let longest = &waits.longest;
    let mut lines = vec![
        Line::from(vec![
            Span::styled(
                format!("waits for {}  ", short(lock_of(waits))),
                theme.style(Role::Heading),
            ),
            Span::raw(place(waits, &canvas.look).0),
        ]),
        Line::from(format!(
            "{} of known length, {} of unknown; p50 {}, p99 {}, in all {}",
            count(waits.count),
            count(waits.unknown),
            duration(waits.p50_ns),
            duration(waits.p99_ns),
            duration(waits.total_ns)
        )),
        Line::from(format!(
            "longest: {} by {} {}, {} ago",
            duration(longest.ns),
            longest.who.tid,
            name(&longest.comm, false),
            duration(canvas.look.now_ns.saturating_sub(longest.since_ns + longest.ns))
        )),
    ];
    let (kernel, user) = match waits.place {
        Place::Stack(kernel, user, _) => (kernel, user),
        _ => longest.stacks,
    };
    for (title, number) in [("kernel stack", kernel), ("stack of the program", user)] {
        if let Some(stack) = stuck.stack(number) {
            lines.push(Line::default());
            lines.push(Line::from(Span::styled(title, theme.style(Role::Heading))));
            lines.extend(frames(stack));
        }
    }
    if kernel == 0 && user == 0 {
        lines.push(Line::from(Span::styled(
            "no stack was taken of it",
            theme.style(Role::Quiet),
        )));
    }
    canvas.text(&lines);
}

fn frames<'a>(stack: &Stack) -> Vec<Line<'a>> {
    let frame = |frame: &crate::stacks::Frame| {
        let place = match (frame.name.as_str(), frame.address) {
            ("", 0) => "?".to_owned(),
            ("", address) => format!("{address:x}"),
            (name, _) => name.to_owned(),
        };
        let module = if frame.module.is_empty() {
            String::new()
        } else {
            format!("  [{}]", frame.module)
        };
        let safe = outside::plain(&format!("   {place}{module}")).into_owned();
        Line::from(safe)
    };
    stack.frames.iter().map(frame).collect()
}
