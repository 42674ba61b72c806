//! Tasks: what they hold and wait for, since when, how surely, and behind whom they wait.

use core::cmp::Ordering;

use tracer_common::wire::Provenance;

use super::{Canvas, short};
use crate::contention::chains::Doing;
use crate::filter::Filter;
use crate::sink::text::{count, duration};
use crate::state::Lock;
use crate::tui::app::App;
use crate::tui::header;
use crate::tui::snapshot::{Snapshot, TaskRow};
use crate::tui::table::{Cell, Column, Look, Manner, Row};
use crate::tui::theme::Role;

impl Row for TaskRow {
    fn key(&self) -> u64 {
        u64::from(self.tid)
    }

    fn fits(&self, filter: &Filter, _: &Look<'_>) -> bool {
        filter.fits(self)
    }

    fn rank(&self, column: &str) -> Option<u128> {
        // The highest first, and those that have none last.
        let most = |number: u64| u128::from(!number);
        let some = |number: Option<u64>| {
            number.map_or(u128::from(u64::MAX), |number| most(number.saturating_add(1)))
        };
        let hold = some(self.hold_ns.filter(|_| self.wait.is_none()));
        Some(match column {
            "tid" => self.tid.into(),
            "comm" => u128::from_be_bytes(self.comm),
            "wait" => some(self.wait.map(|(_, ns)| ns)) << 64 | hold,
            "run" => most(self.doing as u64),
            "hold" => hold,
            "known" => some(self.certainty.map(|certainty| certainty as u64)),
            "pid" => self.pid.into(),
            "events" => most(self.events),
            "faults" => most(self.faults),
            "waited" => most(self.waited_ns),
            "worst-hold" => most(self.worst_hold_ns),
            "seen" => most(self.last_ns),
            _ => return None,
        })
    }
}

/// The longest wait first, then the longest hold.
fn by_wait(one: &TaskRow, other: &TaskRow) -> Ordering {
    let wait = |row: &TaskRow| row.wait.map(|(_, ns)| ns);
    wait(other).cmp(&wait(one)).then_with(|| by_hold(one, other))
}

fn by_hold(one: &TaskRow, other: &TaskRow) -> Ordering {
    let hold = |row: &TaskRow| row.hold_ns.filter(|_| row.wait.is_none());
    hold(other).cmp(&hold(one))
}

/// How they are shown at first.
pub const MANNER: Manner = Manner {
    follows: false,
    sort: Some(2),
};

/// The columns.
pub const COLUMNS: &[Column<TaskRow>] = &[
    Column {
        name: "tid",
        title: "TID",
        width: 7,
        right: true,
        from: 0,
        show: |row, _| (row.tid.to_string(), Role::Text),
        order: Some(|one, other| one.tid.cmp(&other.tid)),
    },
    Column {
        name: "comm",
        title: "COMM",
        width: 15,
        right: false,
        from: 0,
        show: |row, _| (header::name(&row.comm, row.is_self), Role::Text),
        order: Some(|one, other| one.comm.cmp(&other.comm)),
    },
    Column {
        name: "wait",
        title: "WAITS",
        width: 7,
        right: false,
        from: 0,
        show: |row, _| {
            (
                row.wait.map_or("", |(lock, _)| short(lock)).to_owned(),
                Role::Waiting,
            )
        },
        order: Some(by_wait),
    },
    Column {
        name: "run",
        title: "RUN",
        width: 8,
        right: false,
        from: 100,
        show: |row, _| doing(row.doing),
        order: Some(|one, other| other.doing.cmp(&one.doing)),
    },
    Column {
        name: "behind",
        title: "BEHIND",
        width: 9,
        right: false,
        from: 70,
        show: behind,
        order: None,
    },
    Column {
        name: "holds",
        title: "HOLDS",
        width: 0,
        right: false,
        from: 0,
        show: holds,
        order: None,
    },
    Column {
        name: "hold",
        title: "SINCE",
        width: 9,
        right: true,
        from: 0,
        show: since,
        order: Some(by_hold),
    },
    Column {
        name: "known",
        title: "KNOWN",
        width: 8,
        right: false,
        from: 0,
        show: |row, _| known(row.certainty),
        order: Some(|one, other| other.certainty.cmp(&one.certainty)),
    },
    Column {
        name: "pid",
        title: "PID",
        width: 8,
        right: true,
        from: 130,
        show: |row, _| (row.pid.to_string(), Role::Quiet),
        order: Some(|one, other| one.pid.cmp(&other.pid)),
    },
    Column {
        name: "events",
        title: "EVENTS",
        width: 10,
        right: true,
        from: 100,
        show: |row, _| (count(row.events), Role::Text),
        order: Some(|one, other| other.events.cmp(&one.events)),
    },
    Column {
        name: "faults",
        title: "FAULTS",
        width: 10,
        right: true,
        from: 140,
        show: |row, _| (count(row.faults), Role::Text),
        order: Some(|one, other| other.faults.cmp(&one.faults)),
    },
    Column {
        name: "waited",
        title: "WAITED",
        width: 9,
        right: true,
        from: 112,
        show: |row, _| some_time(row.waited_ns),
        order: Some(|one, other| other.waited_ns.cmp(&one.waited_ns)),
    },
    Column {
        name: "worst-hold",
        title: "WORST HOLD",
        width: 11,
        right: true,
        from: 150,
        show: |row, _| some_time(row.worst_hold_ns),
        order: Some(|one, other| other.worst_hold_ns.cmp(&one.worst_hold_ns)),
    },
    Column {
        name: "seen",
        title: "SEEN",
        width: 10,
        right: true,
        from: 165,
        show: |row, look| (ago(look.now_ns, row.last_ns), Role::Quiet),
        order: Some(|one, other| other.last_ns.cmp(&one.last_ns)),
    },
];

/// Whether it runs, could run, or sleeps, and what for; nothing where that is not known.
fn doing(doing: Doing) -> Cell {
    match doing {
        Doing::Unknown => (String::new(), Role::Quiet),
        Doing::Running => (doing.name().into(), Role::Good),
        _ => (doing.name().into(), Role::Text),
    }
}

/// A time, or nothing for none.
pub fn some_time(ns: u64) -> Cell {
    (if ns == 0 { String::new() } else { duration(ns) }, Role::Text)
}

/// For how long nothing was seen.
pub fn ago(now_ns: u64, last_ns: u64) -> String {
    duration(now_ns.saturating_sub(last_ns))
}

/// How surely, in a word.
pub fn known(certainty: Option<Provenance>) -> Cell {
    let role = match certainty {
        None | Some(Provenance::Observed) => Role::Text,
        Some(Provenance::Unknown) => Role::Alarm,
        Some(_) => Role::Unsure,
    };
    (certainty.map_or("", Provenance::name).to_owned(), role)
}

/// Threads, the first ones by number.
pub fn some_tids(tids: &[u32], all: u32) -> String {
    let shown = tids.iter().take(all as usize);
    let mut text: Vec<String> = shown.map(ToString::to_string).collect();
    let more = (all as usize).saturating_sub(text.len());
    if more > 0 {
        text.push(format!("+{more}"));
    }
    text.join(" ")
}

fn behind(row: &TaskRow, _: &Look<'_>) -> Cell {
    if row.wait.is_none() {
        return (String::new(), Role::Text);
    }
    match row.behind_count {
        0 => ("?".into(), Role::Unsure),
        1 => (row.behind[0].to_string(), Role::Waiting),
        all => (format!("{} +{}", row.behind[0], all - 1), Role::Waiting),
    }
}

/// What a task holds, in short: `mmap:w vma:w×3`, or `vma:r 7f1234564000`, where the one VMA starts.
pub fn held_text(row: &TaskRow) -> String {
    let mut words = Vec::new();
    for lock in Lock::ALL {
        match row.held[lock as usize] {
            0 => {}
            1 => words.push(short(lock).to_owned()),
            count => words.push(format!("{}×{count}", short(lock))),
        }
    }
    if let Some((start, _)) = row.range {
        words.push(format!("{start:x}"));
    }
    words.join(" ")
}

fn holds(row: &TaskRow, _: &Look<'_>) -> Cell {
    let writes = row.held[Lock::MmapWrite as usize] + row.held[Lock::VmaWrite as usize];
    (
        held_text(row),
        if writes > 0 { Role::Writing } else { Role::Reading },
    )
}

fn since(row: &TaskRow, _: &Look<'_>) -> Cell {
    let mark = if row.at_least && row.wait.is_none() {
        ">"
    } else {
        ""
    };
    let text = row
        .since_ns()
        .map_or_else(String::new, |ns| format!("{mark}{}", duration(ns)));
    (text, Role::Text)
}

/// The rows to show.
pub fn rows(app: &App, shot: &Snapshot) -> Vec<TaskRow> {
    let rows = shot
        .tasks
        .iter()
        .filter(|row| !app.active_only || row.is_active());
    rows.copied().collect()
}

/// Draws the view.
pub fn draw(canvas: &mut Canvas<'_>) {
    let empty = if canvas.shot.tasks.is_empty() {
        "no event yet"
    } else {
        "no task passes the filter (Esc drops it; a shows idle ones)"
    };
    if canvas.app.active_only {
        let rows = rows(canvas.app, canvas.shot);
        canvas.table(&rows, COLUMNS, MANNER, empty);
    } else {
        let shot = canvas.shot;
        canvas.table(&shot.tasks, COLUMNS, MANNER, empty);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row() -> impl Strategy<Value = TaskRow> {
        let number = || prop_oneof![0..4u64, u64::MAX - 2..=u64::MAX];
        (
            (0..4u32, 0..4u32, any::<[u8; 2]>(), 0..Doing::ALL.len(), 0..5usize),
            (proptest::option::of(number()), proptest::option::of(number())),
            (number(), number(), number(), number(), number()),
        )
            .prop_map(|((tid, pid, name, doing, certainty), (wait, hold_ns), numbers)| {
                let mut row = TaskRow {
                    tid,
                    pid,
                    // A time is none that could ever be as long.
                    wait: wait.map(|ns| (Lock::MmapRead, ns.min(u64::MAX - 1))),
                    doing: Doing::ALL[doing],
                    certainty: [
                        Provenance::Observed,
                        Provenance::Derived,
                        Provenance::Bounded,
                        Provenance::Unknown,
                    ]
                    .get(certainty)
                    .copied(),
                    hold_ns: hold_ns.map(|ns| ns.min(u64::MAX - 1)),
                    events: numbers.0,
                    faults: numbers.1,
                    waited_ns: numbers.2,
                    worst_hold_ns: numbers.3,
                    last_ns: numbers.4,
                    ..TaskRow::default()
                };
                row.comm[..2].copy_from_slice(&name);
                row
            })
    }

    proptest! {
        #[test]
        fn ranks_give_the_order_of_the_column(one in row(), other in row()) {
            for column in COLUMNS {
                let (Some(a), Some(b)) = (one.rank(column.name), other.rank(column.name)) else { continue };
                let order = column.order.expect("what is ranked is ordered");
                prop_assert_eq!(a.cmp(&b), order(&one, &other), "{}", column.name);
            }
        }
    }
}
