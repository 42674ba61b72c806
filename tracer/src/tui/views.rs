//! The eight views. Each makes a picture of an immutable snapshot; none changes anything.

pub mod assertions;
pub mod contention;
pub mod events;
pub mod histograms;
pub mod overview;
pub mod probes;
pub mod space;
pub mod tasks;

use std::collections::HashMap;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

use super::app::{App, Drawn, DrawnTable, Drill};
use super::snapshot::{Snapshot, View};
use super::table::{self, Column, Look, Manner, Row};
use crate::outside;
use crate::state::Lock;

/// Names and flags of mappings, as `/proc/PID/maps` had them when it was read.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// By process and first address: flags and name.
    by_start: HashMap<(u32, u64), (String, String)>,
}

impl Names {
    /// Takes in the text of `/proc/PID/maps`; gives the number of mappings.
    pub fn read(&mut self, pid: u32, maps: &str) -> usize {
        self.by_start.retain(|(other, _), _| *other != pid);
        let mut count = 0;
        for line in maps.lines() {
            let mut words = line.splitn(6, ' ');
            let (Some(range), Some(flags)) = (words.next(), words.next()) else {
                continue;
            };
            let Some(start) = range
                .split('-')
                .next()
                .and_then(|start| u64::from_str_radix(start, 16).ok())
            else {
                continue;
            };
            let name = words.nth(3).unwrap_or_default().trim();
            let name = if name.is_empty() { "[anon]" } else { name };
            let safe = outside::plain(name).into_owned();
            self.by_start.insert((pid, start), (flags.to_owned(), safe));
            count += 1;
        }
        count
    }

    /// Flags and name of a mapping, if they were read.
    pub fn get(&self, pid: u32, start: u64) -> Option<&(String, String)> {
        self.by_start.get(&(pid, start))
    }

    /// Whether those of a process were read.
    pub fn has(&self, pid: u32) -> bool {
        self.by_start.keys().any(|(other, _)| *other == pid)
    }
}

/// A lock in five or six characters.
pub const fn short(lock: Lock) -> &'static str {
    match lock {
        Lock::MmapRead => "mmap:r",
        Lock::MmapWrite => "mmap:w",
        Lock::VmaRead => "vma:r",
        Lock::VmaWrite => "vma:w",
    }
}

/// Whether the table at hand is a log whose newest rows are shown until one is chosen.
pub fn follows(app: &App) -> bool {
    match app.drills().last() {
        Some(Drill::Task(_) | Drill::Vma(_)) => true,
        Some(_) => false,
        None => app.view == View::Events,
    }
}

/// What is meant by entering the row with that key.
pub fn drill(app: &App, shot: &Snapshot, key: u64) -> Option<Drill> {
    let task = || u32::try_from(key).ok().map(Drill::Task);
    match app.drills().last() {
        Some(Drill::Task(_) | Drill::Vma(_)) => {
            let entry = shot.history.iter().find(|entry| entry.id == key)?;
            Some(Drill::Event(Box::new(*entry)))
        }
        Some(Drill::Space(_)) => Some(Drill::Vma(key)),
        Some(_) => None,
        None => match app.view {
            View::Overview | View::Tasks => task(),
            View::Space => Some(Drill::Space(key)),
            View::Contention => contention::drill(shot, key),
            View::Assertions => assertions::drill(shot, key),
            View::Events => {
                let entry = shot.events.iter().find(|entry| entry.id == key)?;
                Some(Drill::Event(Box::new(*entry)))
            }
            View::Histograms => None,
            View::Probes => usize::try_from(key).ok().map(Drill::Probe),
        },
    }
}

/// Where to draw, and from what.
pub struct Canvas<'a> {
    /// The screen.
    pub buffer: &'a mut Buffer,
    /// The part of it.
    pub area: Rect,
    /// The state of the screen.
    pub app: &'a App,
    /// The picture.
    pub shot: &'a Snapshot,
    /// What rows are put into words with.
    pub look: Look<'a>,
    /// What drawing found out.
    pub drawn: &'a mut Drawn,
}

impl Canvas<'_> {
    /// Draws lines at the top, and leaves the rest.
    pub fn lines(&mut self, lines: &[Line<'_>]) {
        let height = self.area.height;
        for (line, y) in lines.iter().zip(0..height) {
            self.buffer
                .set_line(self.area.x, self.area.y + y, line, self.area.width);
        }
        let used = u16::try_from(lines.len()).unwrap_or(u16::MAX).min(height);
        self.area.y += used;
        self.area.height -= used;
    }

    /// Draws lines that can be scrolled in all that is left.
    pub fn text(&mut self, lines: &[Line<'_>]) {
        let page = usize::from(self.area.height);
        let from = self.app.tab().scroll.min(lines.len().saturating_sub(page));
        for (line, y) in lines.iter().skip(from).zip(0..self.area.height) {
            self.buffer
                .set_line(self.area.x, self.area.y + y, line, self.area.width);
        }
        self.drawn.text = Some((lines.len(), page));
        // No rows, so that moving means scrolling.
        self.drawn.table = Some(DrawnTable {
            scroll: from,
            ..DrawnTable::default()
        });
    }

    /// Draws a table in all that is left.
    pub fn table<R: Row>(&mut self, rows: &[R], columns: &[Column<R>], manner: Manner, empty: &str) {
        table::draw(
            self.buffer,
            self.area,
            rows,
            columns,
            self.app.tab(),
            manner,
            &self.look,
            self.drawn,
            empty,
        );
    }
}

/// Draws the view at hand.
pub fn draw(canvas: &mut Canvas<'_>) {
    let app = canvas.app;
    match app.drills().last() {
        Some(Drill::Task(_) | Drill::Vma(_)) => events::timeline(canvas),
        Some(Drill::Space(mm)) => space::vmas(canvas, *mm),
        Some(Drill::Event(entry)) => events::one(canvas, entry),
        Some(Drill::Probe(at)) => probes::one(canvas, *at),
        Some(Drill::Row(key)) => match app.view {
            View::Assertions => assertions::one(canvas, *key),
            _ => contention::one(canvas, *key),
        },
        None => match app.view {
            View::Overview => overview::draw(canvas),
            View::Tasks => tasks::draw(canvas),
            View::Space => space::draw(canvas),
            View::Contention => contention::draw(canvas),
            View::Assertions => assertions::draw(canvas),
            View::Events => events::draw(canvas),
            View::Histograms => histograms::draw(canvas),
            View::Probes => probes::draw(canvas),
        },
    }
}

/// The table at hand as CSV; `None` if the view is no table.
pub fn csv(app: &App, shot: &Snapshot, look: &Look<'_>) -> Option<String> {
    let tab = app.tab();
    let history = |entries| table::csv(entries, events::COLUMNS, tab, events::MANNER, look);
    Some(match app.drills().last() {
        Some(Drill::Task(_) | Drill::Vma(_)) => history(&shot.history),
        Some(Drill::Space(_)) => table::csv(&shot.vmas, space::VMA_COLUMNS, tab, space::VMA_MANNER, look),
        Some(_) => return None,
        None => match app.view {
            View::Tasks => {
                let rows = tasks::rows(app, shot);
                table::csv(&rows, tasks::COLUMNS, tab, tasks::MANNER, look)
            }
            View::Space => table::csv(&shot.spaces, space::COLUMNS, tab, space::MANNER, look),
            View::Events => history(&shot.events),
            View::Contention => {
                let stuck = shot.contention.as_ref()?;
                table::csv(&stuck.waits, contention::COLUMNS, tab, contention::MANNER, look)
            }
            View::Assertions => table::csv(
                &assertions::rows(shot),
                assertions::COLUMNS,
                tab,
                assertions::MANNER,
                look,
            ),
            View::Probes => table::csv(&probes::rows(shot), probes::COLUMNS, tab, probes::MANNER, look),
            _ => return None,
        },
    })
}
