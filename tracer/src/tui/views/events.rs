//! Single events: the log, the timeline of a task or a VMA, and one event with all that it says.

use core::cmp::Ordering;

use ratatui::text::{Line, Span};
use tracer_common::wire::sched::out;
use tracer_common::wire::{Event, Kind, Provenance, fault};

use super::tasks::known;
use super::{Canvas, short, space, tasks};
use crate::contention::chains::Doing;
use crate::filter::Filter;
use crate::sink::text::{count, duration};
use crate::state::Lock;
use crate::tui::header::{clock, name};
use crate::tui::log::Entry;
use crate::tui::snapshot::{Detail, Subject, TaskDetail, VmaRow};
use crate::tui::table::{Cell, Column, Look, Manner, Row};
use crate::tui::theme::Role;

impl Row for Entry {
    fn key(&self) -> u64 {
        self.id
    }

    fn fits(&self, filter: &Filter, look: &Look<'_>) -> bool {
        filter.fits(&self.facts(&look.info.sites))
    }
}

/// The newest are shown, at the end.
pub const MANNER: Manner = Manner {
    follows: true,
    sort: Some(0),
};

/// The columns.
pub const COLUMNS: &[Column<Entry>] = &[
    Column {
        name: "time",
        title: "TIME",
        width: 12,
        right: true,
        from: 0,
        show: |entry, look| {
            let ns = entry
                .event
                .header
                .ts_ns
                .saturating_sub(look.info.start_monotonic_ns);
            (clock(ns), Role::Quiet)
        },
        order: Some(|one, other| one.id.cmp(&other.id)),
    },
    Column {
        name: "cpu",
        title: "CPU",
        width: 3,
        right: true,
        from: 100,
        show: |entry, _| (entry.event.header.cpu.to_string(), Role::Quiet),
        order: None,
    },
    Column {
        name: "tid",
        title: "TID",
        width: 8,
        right: true,
        from: 0,
        show: |entry, _| task_only(entry, entry.event.header.tid.to_string()),
        order: None,
    },
    Column {
        name: "comm",
        title: "COMM",
        width: 15,
        right: false,
        from: 90,
        show: |entry, _| task_only(entry, name(&entry.event.header.comm, false)),
        order: None,
    },
    Column {
        name: "kind",
        title: "KIND",
        width: 18,
        right: false,
        from: 0,
        show: kind,
        order: None,
    },
    Column {
        name: "what",
        title: "WHAT",
        width: 0,
        right: false,
        from: 0,
        show: |entry, _| (what(entry), Role::Text),
        order: None,
    },
    Column {
        name: "wait",
        title: "WAIT",
        width: 8,
        right: true,
        from: 110,
        show: |entry, _| (time(entry.wait_ns), Role::Waiting),
        order: Some(|one, other| longest(one.wait_ns, other.wait_ns)),
    },
    Column {
        name: "hold",
        title: "HOLD",
        width: 8,
        right: true,
        from: 110,
        show: |entry, _| (time(entry.hold_ns), Role::Text),
        order: Some(|one, other| longest(one.hold_ns, other.hold_ns)),
    },
    Column {
        name: "known",
        title: "KNOWN",
        width: 8,
        right: false,
        from: 0,
        show: |entry, _| match entry.event.kind {
            Kind::Gap => (String::new(), Role::Text),
            _ => known(Some(entry.provenance)),
        },
        order: None,
    },
    Column {
        name: "site",
        title: "SITE",
        width: 30,
        right: false,
        from: 150,
        show: |entry, look| {
            let site = look.info.sites.get(entry.event.header.site as usize);
            let text = site.map_or("", |site| {
                if site.place.is_empty() {
                    &site.function
                } else {
                    &site.place
                }
            });
            (text.to_owned(), Role::Quiet)
        },
        order: None,
    },
];

fn longest(one: Option<u64>, other: Option<u64>) -> Ordering {
    other.cmp(&one)
}

fn time(ns: Option<u64>) -> String {
    ns.map_or_else(String::new, duration)
}

fn task_only(entry: &Entry, text: String) -> Cell {
    if entry.event.kind == Kind::Gap {
        (String::new(), Role::Text)
    } else {
        (text, Role::Text)
    }
}

fn kind(entry: &Entry, _: &Look<'_>) -> Cell {
    let kind = entry.event.kind;
    let role = match kind {
        Kind::Gap => Role::Alarm,
        Kind::MmapStart | Kind::VmaWriteStart => Role::Waiting,
        Kind::VmaReadFail | Kind::VmaReadRefused | Kind::MmapFail | Kind::VmaWriteFail => Role::Waiting,
        Kind::VmaWriteAcquire | Kind::VmaDetach => Role::Writing,
        Kind::VmaReadAcquire => Role::Reading,
        Kind::MmapAcquire if entry.event.is_write() => Role::Writing,
        Kind::MmapAcquire => Role::Reading,
        _ => Role::Text,
    };
    // A mark for what the engine made, so that it is told apart without the colour.
    let mark = if entry.derived { "~" } else { "" };
    (format!("{mark}{}", kind.name()), role)
}

/// What an event says beside its kind, in short.
pub fn what(entry: &Entry) -> String {
    let event = &entry.event;
    let mut words: Vec<String> = Vec::new();
    match event.kind {
        Kind::Gap => {
            return match event.body.arg {
                0 => "events are missing here".into(),
                1 => "1 event is missing here".into(),
                many => format!("{} events are missing here", count(u64::from(many))),
            };
        }
        Kind::MmapStart | Kind::MmapAcquire | Kind::MmapFail | Kind::MmapRelease => {
            words.push(if event.is_write() { "write" } else { "read" }.into());
        }
        Kind::VmaReadFail | Kind::VmaReadRefused | Kind::VmaReadTemporary => {
            words.push(event.reason().name().into());
        }
        Kind::FaultBegin | Kind::FaultEnd => words.push(fault_words(event)),
        Kind::TaskFork => words.push(format!("child {}", event.body.arg)),
        Kind::SchedOut => words.push(why_out(event).into()),
        Kind::SchedWake => words.push(format!("wakes {}", event.body.arg)),
        _ => {}
    }
    if let Some((start, end)) = event.range() {
        words.push(format!("{start:x}-{end:x}"));
    } else if let Some(address) = event.address() {
        words.push(format!("at {address:x}"));
    } else if event.vma().is_none()
        && let Some(mm) = event.mm()
    {
        words.push(format!("mm {mm:016x}"));
    }
    if event.vm_refcnt().is_some() {
        words.push(format!("refcnt {}", space::refcnt(event.vm_refcnt()).0));
    }
    words.join(" ")
}

/// Why a task left its processor.
fn why_out(event: &Event) -> &'static str {
    match event.sched_state() {
        0 if event.sched_out_is(out::PREEMPTED) => "preempted",
        0 => "could run",
        _ if event.sched_out_is(out::IOWAIT) => "to wait for I/O",
        _ if event.sched_out_is(out::RECLAIM) => "to sleep while it reclaims memory",
        _ => "to sleep",
    }
}

fn fault_words(event: &Event) -> String {
    let flags = event.fault_flags();
    let mut words = Vec::new();
    words.push(if flags & fault::FLAG_VMA_LOCK != 0 {
        "vma_lock"
    } else {
        "mmap_lock"
    });
    if flags & fault::FLAG_TRIED != 0 {
        words.push("again");
    }
    let result = event.fault_result();
    if result & fault::RESULT_RETRY != 0 {
        words.push("RETRY");
    }
    if result & fault::RESULT_COMPLETED != 0 {
        words.push("COMPLETED");
    }
    words.join(" ")
}

/// Draws the log.
pub fn draw(canvas: &mut Canvas<'_>) {
    let shot = canvas.shot;
    let gone = shot.events_gone;
    let chosen = canvas.app.tab().cursor;
    let lost = chosen.is_some_and(|id| shot.events.first().is_some_and(|first| first.id > id));
    let theme = canvas.look.theme;
    let text = if lost {
        "the chosen event has made room for newer ones; p holds the screen".to_owned()
    } else if gone > 0 {
        format!(
            "{} older events are not kept; a filter keeps more of what fits, p holds all",
            count(gone)
        )
    } else {
        "all events so far".to_owned()
    };
    let role = if lost { Role::Alarm } else { Role::Quiet };
    canvas.lines(&[Line::from(Span::styled(text, theme.style(role)))]);
    let empty = if shot.request.events.is_some() {
        "no event has fitted the filter yet (Esc drops it)"
    } else {
        "no event yet"
    };
    canvas.table(&shot.events, COLUMNS, MANNER, empty);
}

/// Draws a task or a VMA and its latest events.
pub fn timeline(canvas: &mut Canvas<'_>) {
    let shot = canvas.shot;
    let theme = canvas.look.theme;
    let mut lines = match &shot.detail {
        Some(Detail::Task(task)) => of_task(canvas, task),
        Some(Detail::Vma(vma)) => of_vma(canvas, vma),
        Some(Detail::Gone(Subject::Task(tid))) => {
            vec![warn(
                canvas,
                format!("thread {tid} is not known: no event of it, or forgotten since"),
            )]
        }
        Some(Detail::Gone(Subject::Vma(address))) => {
            vec![warn(
                canvas,
                format!("the VMA {address:016x} is not known: no event of it, or forgotten since"),
            )]
        }
        None => vec![Line::from(Span::styled("looking …", theme.style(Role::Quiet)))],
    };
    if shot.history_gone > 0 {
        lines.push(Line::from(Span::styled(
            "what happened before is not kept any more",
            theme.style(Role::Quiet),
        )));
    }
    let room = usize::from(canvas.area.height) / 2;
    lines.truncate(room.max(1));
    canvas.lines(&lines);
    canvas.table(
        &shot.history,
        COLUMNS,
        MANNER,
        "no event of it since it is looked at",
    );
}

fn warn<'a>(canvas: &Canvas<'_>, text: String) -> Line<'a> {
    Line::from(Span::styled(text, canvas.look.theme.style(Role::Unsure)))
}

fn of_task<'a>(canvas: &Canvas<'_>, task: &TaskDetail) -> Vec<Line<'a>> {
    let theme = canvas.look.theme;
    let now_ns = canvas.look.now_ns;
    let row = &task.row;
    let mut lines = vec![Line::from(vec![
        Span::styled(
            format!("{} {}", row.tid, name(&row.comm, row.is_self)),
            theme.style(Role::Heading),
        ),
        Span::raw(format!(
            "  process {}  {}{} events  {} faults  waited {}  seen {} ago",
            row.pid,
            match row.doing {
                Doing::Unknown => String::new(),
                doing => format!("{}  ", doing.name()),
            },
            count(row.events),
            count(row.faults),
            duration(row.waited_ns),
            tasks::ago(now_ns, row.last_ns)
        )),
    ])];
    for wait in &task.waits {
        lines.push(Line::from(vec![
            Span::styled(
                format!("waits {:<7}", short(wait.lock)),
                theme.style(Role::Waiting),
            ),
            Span::raw(format!(
                "for {}, {}, behind {}",
                duration(now_ns.saturating_sub(wait.since_ns)),
                wait.certainty.name(),
                match row.behind_count {
                    0 => "nobody that is known".to_owned(),
                    all => tasks::some_tids(&row.behind, all),
                }
            )),
        ]));
    }
    for hold in &task.holds {
        let role = if matches!(hold.lock, Lock::MmapWrite | Lock::VmaWrite) {
            Role::Writing
        } else {
            Role::Reading
        };
        let range = match hold.vm_end {
            0 => String::new(),
            end => format!("  {:x}-{end:x}", hold.vm_start),
        };
        let at_least = if hold.start_known { "" } else { "at least " };
        lines.push(Line::from(vec![
            Span::styled(format!("holds {:<7}", short(hold.lock)), theme.style(role)),
            Span::raw(format!(
                "for {at_least}{}, {}{range}",
                duration(now_ns.saturating_sub(hold.since_ns)),
                hold.certainty.name()
            )),
        ]));
    }
    for frame in &task.frames {
        let lock = if frame.flags & fault::FLAG_VMA_LOCK != 0 {
            "VMA lock"
        } else {
            "mmap_lock"
        };
        lines.push(Line::from(format!(
            "in a fault under the {lock} for {}",
            duration(now_ns.saturating_sub(frame.since_ns))
        )));
    }
    if task.waits.is_empty() && task.holds.is_empty() && task.frames.is_empty() {
        lines.push(Line::from(Span::styled(
            "holds and awaits nothing",
            theme.style(Role::Quiet),
        )));
    }
    lines
}

fn of_vma<'a>(canvas: &Canvas<'_>, vma: &VmaRow) -> Vec<Line<'a>> {
    let theme = canvas.look.theme;
    let range = match vma.range {
        (_, 0) => "range not known".to_owned(),
        (start, end) => format!("{start:x}-{end:x}"),
    };
    let number = |seq: Option<u32>| seq.map_or_else(|| "?".to_owned(), |seq| seq.to_string());
    let mut lines = vec![
        Line::from(vec![
            Span::styled(format!("VMA {range}"), theme.style(Role::Heading)),
            Span::raw(format!(
                "  vm_refcnt {}  vm_lock_seq {}  mm_lock_seq {}{}",
                space::refcnt(vma.refcnt).0,
                number(vma.seq),
                number(vma.mm_seq),
                if vma.detached { "  detached" } else { "" }
            )),
        ]),
        Line::from(format!(
            "{} faults  {} refused  {} backed out  {} waits, {} in all",
            count(vma.heat.faults),
            count(vma.heat.refused),
            count(vma.temporary),
            count(vma.heat.waits),
            duration(vma.heat.wait_ns)
        )),
    ];
    let mut held = Vec::new();
    if vma.readers > 0 {
        held.push(format!(
            "read by {}",
            tasks::some_tids(&vma.some_readers, vma.readers)
        ));
    }
    if let Some(writer) = vma.writer {
        held.push(format!("write-locked by {writer}"));
    }
    if let Some(waiting) = vma.waiting {
        held.push(format!("{waiting} waits for its readers"));
    }
    if held.is_empty() {
        lines.push(Line::from(Span::styled(
            "nobody holds or awaits it",
            theme.style(Role::Quiet),
        )));
    } else {
        let sure = if vma.known == Provenance::Observed {
            String::new()
        } else {
            format!(" ({})", vma.known.name())
        };
        lines.push(Line::from(format!("{}{sure}", held.join(", "))));
    }
    lines
}

/// Draws one event with all that it says.
pub fn one(canvas: &mut Canvas<'_>, entry: &Entry) {
    let theme = canvas.look.theme;
    let event = &entry.event;
    let header = &event.header;
    let site = canvas.look.info.sites.get(header.site as usize);
    let mut lines = vec![Line::from(Span::styled(
        format!(
            "{}{}",
            if entry.derived { "derived: " } else { "" },
            event.kind.name()
        ),
        theme.style(Role::Heading),
    ))];
    let mut field = |name: &str, text: String| {
        lines.push(Line::from(vec![
            Span::styled(format!("{name:<14}"), theme.style(Role::Quiet)),
            Span::raw(text),
        ]));
    };
    let since = header.ts_ns.saturating_sub(canvas.look.info.start_monotonic_ns);
    field("time", format!("{}  ({} ns)", clock(since), header.ts_ns));
    field(
        "task",
        format!(
            "{} of process {}, {}",
            header.tid,
            header.pid,
            name(&header.comm, false)
        ),
    );
    field("cpu, number", format!("{}, {}", header.cpu, header.seq));
    let bound = entry
        .bound_ns
        .map_or_else(String::new, |ns| format!(", at most {} off", duration(ns)));
    field("known", format!("{}{bound}", entry.provenance.name()));
    if entry.derived {
        field(
            "",
            "made by the engine from the event with the same CPU and number".into(),
        );
    }
    field("says", what(entry));
    if let Some(wait_ns) = entry.wait_ns {
        field("ended a wait", duration(wait_ns));
    }
    if let Some(hold_ns) = entry.hold_ns {
        field("ended a hold", duration(hold_ns));
    }
    if let Some(vma) = event.vma() {
        field("vma", format!("{vma:016x}"));
    }
    if let Some(mm) = event.mm() {
        field("mm", format!("{mm:016x}"));
    }
    if let Some(refcnt) = event.vm_refcnt() {
        field("vm_refcnt", format!("{refcnt:#x}: {}", refcnt_words(refcnt)));
    }
    if let (Some(seq), mm_seq) = (event.vm_lock_seq(), event.mm_lock_seq()) {
        let locked = match mm_seq {
            Some(mm_seq) if mm_seq == seq => "equal: write-locked until the mmap_lock's write side ends",
            Some(_) => "not equal: not write-locked",
            None => "the other is not known",
        };
        let mm_seq = mm_seq.map_or_else(|| "?".into(), |seq| seq.to_string());
        field(
            "sequence",
            format!("vm_lock_seq {seq}, mm_lock_seq {mm_seq}: {locked}"),
        );
    }
    if let Some(site) = site {
        field(
            "seen at",
            format!("{} {} by {}", site.function, site.place, site.mechanism),
        );
    }
    canvas.text(&lines);
}

/// What a count means, in words.
pub fn refcnt_words(refcnt: u32) -> String {
    use tracer_common::lock::refcnt::VM_REFCNT_EXCLUDE_READERS_FLAG as FLAG;
    match refcnt {
        0 => "detached".into(),
        1 => "attached, no readers".into(),
        2 => "1 reader".into(),
        FLAG => "detached, the writer's flag about to go".into(),
        _ if refcnt == FLAG + 1 => "a writer has shut readers out, none is inside".into(),
        _ if refcnt > FLAG => format!("a writer waits for {} readers", refcnt - FLAG - 1),
        _ => format!("{} readers, temporary ones included", refcnt - 1),
    }
}
