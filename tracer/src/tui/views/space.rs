//! Address spaces; the VMAs of one: range, flags, name, count, holders, heat.

use super::tasks::{ago, known, some_tids};
use super::{Canvas, short};
use crate::filter::Filter;
use crate::sink::text::{count, duration};
use crate::state::Lock;
use crate::tui::header;
use crate::tui::snapshot::{SpaceRow, VmaRow};
use crate::tui::table::{Cell, Column, Look, Manner, Row};
use crate::tui::theme::Role;
use ratatui::text::{Line, Span};
use tracer_common::lock::refcnt::VM_REFCNT_EXCLUDE_READERS_FLAG as FLAG;

impl Row for SpaceRow {
    fn key(&self) -> u64 {
        self.mm
    }

    fn fits(&self, filter: &Filter, _: &Look<'_>) -> bool {
        filter.fits(self)
    }
}

impl Row for VmaRow {
    fn key(&self) -> u64 {
        self.vma
    }

    fn fits(&self, filter: &Filter, _: &Look<'_>) -> bool {
        filter.fits(self)
    }
}

/// How address spaces are shown at first: those that are waited for first.
pub const MANNER: Manner = Manner {
    follows: false,
    sort: Some(4),
};

/// The columns of address spaces.
pub const COLUMNS: &[Column<SpaceRow>] = &[
    Column {
        name: "pid",
        title: "PID",
        width: 8,
        right: true,
        from: 0,
        show: |row, _| (row.pid.to_string(), Role::Text),
        order: Some(|one, other| one.pid.cmp(&other.pid)),
    },
    Column {
        name: "comm",
        title: "COMM",
        width: 15,
        right: false,
        from: 0,
        show: |row, look| {
            let own = row.pid == look.info.self_pid && row.pid != 0;
            (header::name(&row.comm, own), Role::Text)
        },
        order: Some(|one, other| one.comm.cmp(&other.comm)),
    },
    Column {
        name: "writer",
        title: "WRITER",
        width: 8,
        right: true,
        from: 0,
        show: |row, _| {
            (
                row.writer.map_or_else(String::new, |tid| tid.to_string()),
                Role::Writing,
            )
        },
        order: Some(|one, other| other.writer.is_some().cmp(&one.writer.is_some())),
    },
    Column {
        name: "readers",
        title: "READERS",
        width: 8,
        right: true,
        from: 0,
        show: |row, _| (nothing_for_zero(row.readers), Role::Reading),
        order: Some(|one, other| other.readers.cmp(&one.readers)),
    },
    Column {
        name: "waiters",
        title: "WAITERS",
        width: 8,
        right: true,
        from: 0,
        show: |row, _| (nothing_for_zero(row.waiters), Role::Waiting),
        order: Some(|one, other| (other.waiters, other.last_ns).cmp(&(one.waiters, one.last_ns))),
    },
    Column {
        name: "vmas",
        title: "VMAS",
        width: 7,
        right: true,
        from: 0,
        show: |row, _| (count(u64::from(row.vmas)), Role::Text),
        order: Some(|one, other| other.vmas.cmp(&one.vmas)),
    },
    Column {
        name: "locked",
        title: "READ/WRITTEN",
        width: 12,
        right: true,
        from: 90,
        show: |row, _| {
            let text = match (row.read_locked, row.write_locked) {
                (0, 0) => String::new(),
                (read, write) => format!("{read}/{write}"),
            };
            (text, Role::Text)
        },
        order: Some(|one, other| other.write_locked.cmp(&one.write_locked)),
    },
    Column {
        name: "faults",
        title: "FAULTS",
        width: 10,
        right: true,
        from: 0,
        show: |row, _| (count(row.faults), Role::Text),
        order: Some(|one, other| other.faults.cmp(&one.faults)),
    },
    Column {
        name: "mmap-writes",
        title: "MMAP:W",
        width: 10,
        right: true,
        from: 110,
        show: |row, _| (count(row.acquires[Lock::MmapWrite as usize]), Role::Text),
        order: Some(|one, other| other.acquires[1].cmp(&one.acquires[1])),
    },
    Column {
        name: "mmap-reads",
        title: "MMAP:R",
        width: 10,
        right: true,
        from: 125,
        show: |row, _| (count(row.acquires[Lock::MmapRead as usize]), Role::Text),
        order: Some(|one, other| other.acquires[0].cmp(&one.acquires[0])),
    },
    Column {
        name: "seq",
        title: "SEQ",
        width: 10,
        right: true,
        from: 140,
        show: |row, _| {
            (
                row.seq.map_or_else(String::new, |seq| seq.to_string()),
                Role::Quiet,
            )
        },
        order: None,
    },
    Column {
        name: "mm",
        title: "MM",
        width: 17,
        right: true,
        from: 160,
        show: |row, _| (format!("{:016x}", row.mm), Role::Quiet),
        order: None,
    },
    Column {
        name: "seen",
        title: "SEEN",
        width: 9,
        right: true,
        from: 79,
        show: |row, look| (ago(look.now_ns, row.last_ns), Role::Quiet),
        order: Some(|one, other| other.last_ns.cmp(&one.last_ns)),
    },
];

fn nothing_for_zero(number: u32) -> String {
    if number == 0 {
        String::new()
    } else {
        number.to_string()
    }
}

/// Draws the table of address spaces.
pub fn draw(canvas: &mut Canvas<'_>) {
    let shot = canvas.shot;
    let empty = if shot.spaces.is_empty() {
        "no address space seen yet"
    } else {
        "no address space passes the filter (Esc drops it)"
    };
    canvas.table(&shot.spaces, COLUMNS, MANNER, empty);
}

/// How VMAs are shown at first: by address.
pub const VMA_MANNER: Manner = Manner {
    follows: false,
    sort: Some(0),
};

/// The columns of VMAs.
pub const VMA_COLUMNS: &[Column<VmaRow>] = &[
    Column {
        name: "addr",
        title: "RANGE",
        width: 25,
        right: false,
        from: 0,
        show: range,
        order: Some(|one, other| one.range.cmp(&other.range)),
    },
    Column {
        name: "flags",
        title: "FLAGS",
        width: 5,
        right: false,
        from: 150,
        show: |row, look| {
            (
                name_of(row, look).map_or("–", |(flags, _)| flags).to_owned(),
                Role::Text,
            )
        },
        order: None,
    },
    Column {
        name: "refcnt",
        title: "REFCNT",
        width: 12,
        right: false,
        from: 0,
        show: |row, _| refcnt(row.refcnt),
        order: Some(|one, other| other.refcnt.cmp(&one.refcnt)),
    },
    Column {
        name: "holders",
        title: "HELD OR AWAITED BY",
        width: 0,
        right: false,
        from: 0,
        show: holders,
        order: Some(|one, other| {
            let busy = |row: &VmaRow| (row.waiting.is_some(), row.writer.is_some(), row.readers);
            busy(other).cmp(&busy(one))
        }),
    },
    Column {
        name: "known",
        title: "KNOWN",
        width: 8,
        right: false,
        from: 90,
        show: |row, _| {
            let anybody = row.readers > 0 || row.writer.is_some();
            known(anybody.then_some(row.known))
        },
        order: Some(|one, other| other.known.cmp(&one.known)),
    },
    Column {
        name: "seq",
        title: "SEQ/MM",
        width: 13,
        right: true,
        from: 140,
        show: |row, _| {
            let number = |seq: Option<u32>| seq.map_or_else(|| "?".into(), |seq| seq.to_string());
            (format!("{}/{}", number(row.seq), number(row.mm_seq)), Role::Quiet)
        },
        order: None,
    },
    Column {
        name: "faults",
        title: "FAULTS",
        width: 8,
        right: true,
        from: 0,
        show: |row, _| (count(row.heat.faults), Role::Text),
        order: Some(|one, other| other.heat.faults.cmp(&one.heat.faults)),
    },
    Column {
        name: "refused",
        title: "REFUSED",
        width: 8,
        right: true,
        from: 110,
        show: |row, _| (count(row.heat.refused), Role::Text),
        order: Some(|one, other| other.heat.refused.cmp(&one.heat.refused)),
    },
    Column {
        name: "wait",
        title: "WAITED",
        width: 8,
        right: true,
        from: 79,
        show: |row, _| {
            let ns = row.heat.wait_ns;
            (if ns == 0 { String::new() } else { duration(ns) }, Role::Waiting)
        },
        order: Some(|one, other| other.heat.wait_ns.cmp(&one.heat.wait_ns)),
    },
    Column {
        name: "heat",
        title: "HEAT",
        width: 10,
        right: false,
        from: 110,
        show: |row, _| (heat(row), Role::Bar),
        order: None,
    },
    Column {
        name: "vma",
        title: "VMA",
        width: 17,
        right: true,
        from: 170,
        show: |row, _| (format!("{:016x}", row.vma), Role::Quiet),
        order: None,
    },
    Column {
        name: "name",
        title: "NAME",
        width: 30,
        right: false,
        from: 150,
        show: |row, look| {
            (
                name_of(row, look).map_or("–", |(_, name)| name).to_owned(),
                Role::Text,
            )
        },
        order: None,
    },
];

fn name_of<'a>(row: &VmaRow, look: &Look<'a>) -> Option<(&'a str, &'a str)> {
    let (flags, name) = look.names.get(look.names_pid, row.range.0)?;
    Some((flags, name))
}

fn range(row: &VmaRow, _: &Look<'_>) -> Cell {
    match row.range {
        (_, 0) => ("range not known".into(), Role::Unsure),
        (start, end) if row.detached => (format!("{start:x}-{end:x}"), Role::Quiet),
        (start, end) => (format!("{start:x}-{end:x}"), Role::Text),
    }
}

/// A count, spelled out.
pub fn refcnt(refcnt: Option<u32>) -> Cell {
    match refcnt {
        None => ("–".into(), Role::Quiet),
        Some(0) => ("0 detached".into(), Role::Quiet),
        Some(1) => ("1".into(), Role::Text),
        Some(FLAG) => ("F leaving".into(), Role::Writing),
        Some(count) if count > FLAG => (format!("F+{}", count - FLAG), Role::Writing),
        Some(count) => (count.to_string(), Role::Reading),
    }
}

fn holders(row: &VmaRow, _: &Look<'_>) -> Cell {
    let mut words = Vec::new();
    let mut role = Role::Text;
    if row.readers > 0 {
        role = Role::Reading;
        words.push(format!("r {}", some_tids(&row.some_readers, row.readers)));
    }
    if let Some(writer) = row.writer {
        role = Role::Writing;
        words.push(format!("w {writer}"));
    }
    if let Some(waiting) = row.waiting {
        role = Role::Waiting;
        words.push(format!("w waits {waiting}"));
    }
    if row.detached {
        words.push("gone".into());
    }
    (words.join(" "), role)
}

/// Faults and waits on a logarithmic scale.
fn heat(row: &VmaRow) -> String {
    let amount = row.heat.faults + row.heat.refused + row.heat.wait_ns / 1_000;
    let digits = 64 - amount.leading_zeros();
    "█".repeat((digits as usize).div_ceil(2).min(10))
}

/// Draws the VMAs of one address space.
pub fn vmas(canvas: &mut Canvas<'_>, mm: u64) {
    let shot = canvas.shot;
    let theme = canvas.look.theme;
    let mut spans = Vec::new();
    if let Some(space) = shot.spaces.iter().find(|space| space.mm == mm) {
        canvas.look.names_pid = space.pid;
        spans.push(Span::styled(
            format!("{} {}", space.pid, header::name(&space.comm, false)),
            theme.style(Role::Heading),
        ));
        let tid = |tid: Option<u32>| tid.map_or_else(|| "nobody".into(), |tid: u32| tid.to_string());
        spans.push(Span::raw(format!(
            "  mmap:w {}  mmap:r {}  waiting {}",
            tid(space.writer),
            space.readers,
            space.waiters
        )));
        let taken: Vec<String> = Lock::ALL
            .into_iter()
            .map(|lock| format!("{} {}", short(lock), count(space.acquires[lock as usize])))
            .collect();
        spans.push(Span::styled(
            format!("  taken: {}", taken.join(" ")),
            theme.style(Role::Quiet),
        ));
        if !canvas.look.names.has(space.pid) && canvas.area.width >= 150 {
            spans.push(Span::styled(
                "  m reads flags and names",
                theme.style(Role::Quiet),
            ));
        }
    } else {
        spans.push(Span::styled(
            format!("the address space {mm:016x} is gone, or was forgotten"),
            theme.style(Role::Unsure),
        ));
    }
    canvas.lines(&[Line::from(spans)]);
    if shot.heat_lost > 0 {
        canvas.lines(&[Line::from(Span::styled(
            format!(
                "faults and waits of {} VMAs were forgotten for want of room",
                count(shot.heat_lost)
            ),
            theme.style(Role::Unsure),
        ))]);
    }
    let empty = if shot.vmas.is_empty() {
        "no event has named a VMA of it yet"
    } else {
        "no VMA passes the filter (Esc drops it)"
    };
    canvas.table(&shot.vmas, VMA_COLUMNS, VMA_MANNER, empty);
}
