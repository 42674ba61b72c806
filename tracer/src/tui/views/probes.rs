//! Probes: every place that events come from, what it costs, and what stays unseen and why.

use core::cmp::Ordering;
use std::sync::Arc;

use ratatui::text::{Line, Span};

use super::Canvas;
use crate::filter::{Facts, Field, Filter, Value};
use crate::info::{ProbeCosts, ProgramCost, SiteInfo, SourceInfo, UnseenInfo};
use crate::sink::text::{count, duration, wrap};
use crate::tui::header::{self, percent};
use crate::tui::snapshot::Snapshot;
use crate::tui::table::{Cell, Column, Look, Manner, Row};
use crate::tui::theme::Role;

/// A place that has a probe, or was to have one, or is not seen.
#[derive(Clone)]
pub struct Place {
    info: Arc<SourceInfo>,
    /// Its number, or that among the unseen ones from [`UNSEEN`] on.
    at: usize,
    /// Its events.
    hits: u64,
    /// Those that found no room in the buffer.
    dropped: u64,
    /// Events of all places.
    all: u64,
    /// What programs cost.
    costs: Arc<ProbeCosts>,
}

/// Numbers of unseen places begin here.
const UNSEEN: usize = 1 << 32;

/// Instructions that a probe costs without its event, by mechanism: see docs/benchmarks.md, `probe-cost`.
const COSTS: [(&str, u64); 6] = [
    ("tp_btf", 140),
    ("fentry", 140),
    ("fexit", 200),
    ("kprobe", 354),
    ("kretprobe", 666),
    ("breakpoint", 745),
];

impl Place {
    fn site(&self) -> Option<&SiteInfo> {
        self.info.sites.get(self.at)
    }

    fn unseen(&self) -> Option<&UnseenInfo> {
        self.info.unseen.get(self.at.checked_sub(UNSEEN)?)
    }

    fn operation(&self) -> &str {
        let site = self.site().map(|site| &site.operation);
        site.or(self.unseen().map(|unseen| &unseen.operation))
            .map_or("", String::as_str)
    }

    fn function(&self) -> &str {
        match self.site() {
            Some(site) if !site.place.is_empty() => &site.place,
            Some(site) => &site.function,
            None => self.unseen().map_or("", |unseen| &unseen.function),
        }
    }

    /// What its program cost, if that was measured.
    fn measured(&self) -> Option<&ProgramCost> {
        let program = &self.site()?.program;
        self.costs.of(program).filter(|_| !program.is_empty())
    }

    fn known(&self) -> &str {
        match self.site() {
            Some(site) if site.attached => &site.provenance,
            Some(_) => "off",
            None => "unseen",
        }
    }
}

impl Facts for Place {
    fn any(&self, field: Field, test: &mut dyn FnMut(Value<'_>) -> bool) -> bool {
        match field {
            Field::Kind => test(Value::Text(self.operation().as_bytes())),
            Field::Site => test(Value::Text(self.function().as_bytes())),
            Field::Known => test(Value::Text(self.known().as_bytes())),
            Field::Events => test(Value::Number(self.hits)),
            _ => false,
        }
    }
}

impl Row for Place {
    fn key(&self) -> u64 {
        self.at as u64
    }

    fn fits(&self, filter: &Filter, _: &Look<'_>) -> bool {
        filter.fits(self)
    }
}

/// All places of a picture.
pub fn rows(shot: &Snapshot) -> Vec<Place> {
    let info = &shot.head.info;
    let all = shot.hits.iter().sum();
    let place = |at: usize| Place {
        info: Arc::clone(info),
        at,
        costs: Arc::clone(&shot.head.probes),
        hits: shot.hits.get(at).copied().unwrap_or(0),
        dropped: u32::try_from(at)
            .ok()
            .and_then(|at| shot.head.dropped_at.get(&at).copied())
            .unwrap_or(0),
        all,
    };
    let sites = (0..info.sites.len()).filter(|&at| !info.sites[at].operation.is_empty());
    sites
        .chain((0..info.unseen.len()).map(|at| UNSEEN + at))
        .map(place)
        .collect()
}

/// How they are shown at first: the busiest first.
pub const MANNER: Manner = Manner {
    follows: false,
    sort: Some(4),
};

fn by_hits(one: &Place, other: &Place) -> Ordering {
    // What is unseen is worth a look, so it comes before what is only quiet.
    let rank = |place: &Place| (place.hits, place.unseen().is_some());
    rank(other).cmp(&rank(one))
}

/// The columns.
pub const COLUMNS: &[Column<Place>] = &[
    Column {
        name: "kind",
        title: "OPERATION",
        width: 18,
        right: false,
        from: 0,
        show: |place, _| (place.operation().to_owned(), Role::Text),
        order: Some(|one, other| one.operation().cmp(other.operation())),
    },
    Column {
        name: "site",
        title: "PLACE",
        width: 0,
        right: false,
        from: 0,
        show: |place, _| (place.function().to_owned(), Role::Text),
        order: Some(|one, other| one.function().cmp(other.function())),
    },
    Column {
        name: "mechanism",
        title: "BY",
        width: 10,
        right: false,
        from: 60,
        show: |place, _| {
            (
                place.site().map_or("–", |site| &site.mechanism).to_owned(),
                Role::Quiet,
            )
        },
        order: None,
    },
    Column {
        name: "known",
        title: "KNOWN",
        width: 8,
        right: false,
        from: 0,
        show: known,
        order: Some(|one, other| one.known().cmp(other.known())),
    },
    Column {
        name: "hits",
        title: "HITS",
        width: 11,
        right: true,
        from: 0,
        show: |place, _| match place.site() {
            Some(_) => (count(place.hits), Role::Text),
            None => ("–".into(), Role::Quiet),
        },
        order: Some(by_hits),
    },
    Column {
        name: "dropped",
        title: "DROPPED",
        width: 9,
        right: true,
        from: 110,
        show: |place, _| match place.site() {
            Some(_) if place.dropped > 0 => (count(place.dropped), Role::Alarm),
            Some(_) => ("0".into(), Role::Quiet),
            None => (String::new(), Role::Quiet),
        },
        order: Some(|one, other| other.dropped.cmp(&one.dropped)),
    },
    Column {
        name: "share",
        title: "SHARE",
        width: 8,
        right: true,
        from: 90,
        show: |place, _| match place.site() {
            Some(_) => (percent(place.hits, place.all), Role::Quiet),
            None => (String::new(), Role::Quiet),
        },
        order: None,
    },
    Column {
        name: "cost",
        title: "≈COST",
        width: 8,
        right: true,
        from: 100,
        show: |place, _| {
            let text = match (place.measured(), cost(place)) {
                (Some(cost), _) => format!("{} ns", count(cost.ns_a_run())),
                (None, Some(cost)) => format!("{cost} i"),
                (None, None) => String::new(),
            };
            (text, Role::Quiet)
        },
        order: Some(|one, other| {
            let cost = |place: &Place| (place.measured().map(ProgramCost::ns_a_run), cost(place));
            cost(other).cmp(&cost(one))
        }),
    },
    Column {
        name: "bound",
        title: "BOUND",
        width: 9,
        right: true,
        from: 120,
        show: |place, _| {
            let bound = place.site().and_then(|site| site.bound_ns);
            (
                bound.map_or_else(String::new, |ns| format!("{} ns", count(ns))),
                Role::Quiet,
            )
        },
        order: None,
    },
    Column {
        name: "reason",
        title: "WHY",
        width: 60,
        right: false,
        from: 180,
        show: |place, _| match (place.site(), place.unseen()) {
            (Some(site), _) => (site.reason.clone(), Role::Quiet),
            (None, Some(unseen)) => (unseen.reason.clone(), Role::Unsure),
            (None, None) => (String::new(), Role::Quiet),
        },
        order: None,
    },
];

fn known(place: &Place, _: &Look<'_>) -> Cell {
    let text = place.known();
    let role = match text {
        "observed" => Role::Good,
        "unseen" | "off" => Role::Alarm,
        _ => Role::Unsure,
    };
    (text.to_owned(), role)
}

fn cost(place: &Place) -> Option<u64> {
    let site = place.site()?;
    COSTS
        .iter()
        .find(|(mechanism, _)| site.mechanism.contains(mechanism))
        .map(|(_, cost)| *cost)
}

/// Draws the view.
pub fn draw(canvas: &mut Canvas<'_>) {
    let shot = canvas.shot;
    let theme = canvas.look.theme;
    let head = &shot.head;
    let attached = head.info.sites.iter().filter(|site| site.attached).count();
    let mut text = format!(
        "{attached} places attached, {} not (or not wholly) seen; lost {} in the buffer, {} skipped by the kernel",
        head.info.unseen.len(),
        count(head.dropped),
        count(head.missed)
    );
    if canvas.area.width >= 100 {
        text.push_str(if head.probes.is_empty() {
            "; ≈COST: instructions a hit, without the event, as measured by the bench probe-cost"
        } else {
            "; ≈COST: nanoseconds a run of its program, as this kernel measures them"
        });
    }
    canvas.lines(&[Line::from(Span::styled(text, theme.style(Role::Quiet)))]);
    let rows = rows(shot);
    canvas.table(&rows, COLUMNS, MANNER, "this stream tells nothing of its places");
}

/// Draws one place with all that is known of it.
pub fn one(canvas: &mut Canvas<'_>, at: usize) {
    let shot = canvas.shot;
    let theme = canvas.look.theme;
    let width = usize::from(canvas.area.width).saturating_sub(14).max(20);
    let rows = rows(shot);
    let Some(place) = rows.iter().find(|place| place.at == at) else {
        canvas.text(&[Line::from("this place is not known any more")]);
        return;
    };
    let mut lines = vec![Line::from(Span::styled(
        format!("{}  {}", place.operation(), place.function()),
        theme.style(Role::Heading),
    ))];
    let mut field = |name: &str, text: &str| {
        for (at, line) in wrap(text, width).into_iter().enumerate() {
            let name = if at == 0 { name } else { "" };
            lines.push(Line::from(vec![
                Span::styled(format!("{name:<12} "), theme.style(Role::Quiet)),
                Span::raw(line),
            ]));
        }
    };
    match (place.site(), place.unseen()) {
        (Some(site), _) => {
            field("function", &site.function);
            field("place", &site.place);
            field("by", &site.mechanism);
            field("attached", if site.attached { "yes" } else { "no" });
            field("known", &site.provenance);
            if let Some(bound) = site.bound_ns {
                field("bound", &format!("at most {} ns off", count(bound)));
            }
            field("why", &site.reason);
            field(
                "events",
                &format!("{}, {} of all", count(place.hits), percent(place.hits, place.all)),
            );
            field(
                "dropped",
                &format!("{}, which found the buffer full", count(place.dropped)),
            );
            if let Some(cost) = place.measured() {
                field(
                    "measured",
                    &format!(
                        "{}: {} runs in {}, {} ns each, {} of a CPU; all places that it has together",
                        cost.program,
                        count(cost.runs),
                        duration(place.costs.measured_ns),
                        count(cost.ns_a_run()),
                        header::ppm(place.costs.share_ppm(cost.ns))
                    ),
                );
            }
            if let Some(cost) = cost(place) {
                field(
                    "cost",
                    &format!(
                        "about {cost} instructions a hit, and some 700 for the event; see docs/benchmarks.md"
                    ),
                );
            }
        }
        (None, Some(unseen)) => {
            field("function", &unseen.function);
            field("known", "not, or not wholly, seen");
            field("why", &unseen.reason);
            field("would help", &unseen.remedy);
        }
        (None, None) => {}
    }
    canvas.text(&lines);
}
