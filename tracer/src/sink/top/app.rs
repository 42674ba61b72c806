//! The state of the screen: what an [`Action`] does to it, and which rows it shows.

use std::cmp::Ordering;

use super::keys::Action;
use super::snapshot::{Snapshot, TaskRow, short};

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Waiting ones first, the longest wait first; then as [`Self::Hold`].
    #[default]
    Wait,
    /// The longest hold first.
    Hold,
    /// The most events first.
    Events,
    /// By thread.
    Tid,
    /// By command name.
    Comm,
}

impl Sort {
    const fn next(self) -> Self {
        match self {
            Self::Wait => Self::Hold,
            Self::Hold => Self::Events,
            Self::Events => Self::Tid,
            Self::Tid => Self::Comm,
            Self::Comm => Self::Wait,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Hold => "hold",
            Self::Events => "events",
            Self::Tid => "tid",
            Self::Comm => "comm",
        }
    }

    fn compare(self, one: &TaskRow, other: &TaskRow) -> Ordering {
        let hold = |row: &TaskRow| row.since_ns.filter(|_| row.wait.is_none());
        let wait = |row: &TaskRow| row.since_ns.filter(|_| row.wait.is_some());
        let by_hold = || hold(other).cmp(&hold(one));
        let order = match self {
            Self::Wait => wait(other).cmp(&wait(one)).then_with(by_hold),
            Self::Hold => by_hold(),
            Self::Events => other.events.cmp(&one.events),
            Self::Tid => Ordering::Equal,
            Self::Comm => one.comm.cmp(&other.comm),
        };
        // Tasks that are equal otherwise keep their places from one picture to the next.
        order.then(one.tid.cmp(&other.tid))
    }
}

/// What the loop has to do after an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Draw.
    Go,
    /// Stop the program, then draw.
    Suspend,
    /// Leave.
    Quit,
}

/// The state of the screen.
#[derive(Clone, Debug, Default)]
pub struct App {
    /// What rows are sorted by.
    pub sort: Sort,
    /// Whether the order is turned round.
    pub reverse: bool,
    /// What rows must contain.
    pub filter: String,
    /// Whether the filter is being typed.
    pub typing: bool,
    /// Whether the screen holds still.
    pub paused: bool,
    /// Whether the help is shown.
    pub help: bool,
    /// Whether only tasks that hold or wait are shown.
    pub active_only: bool,
    /// The first row that is shown.
    pub scroll: usize,
    /// Rows of a page, as last drawn.
    pub page: usize,
    /// Rows that passed the filter, as last drawn.
    pub rows: usize,
}

impl App {
    /// Takes in what the user wants.
    pub fn update(&mut self, action: Action) -> After {
        match action {
            Action::Quit => return After::Quit,
            Action::Suspend => return After::Suspend,
            Action::Back => {
                if self.help {
                    self.help = false;
                } else if self.typing || !self.filter.is_empty() {
                    self.typing = false;
                    self.filter.clear();
                } else {
                    return After::Quit;
                }
            }
            Action::Help => self.help = !self.help,
            Action::Pause => self.paused = !self.paused,
            Action::SortNext => {
                self.sort = self.sort.next();
                self.scroll = 0;
            }
            Action::SortReverse => self.reverse = !self.reverse,
            Action::Filter => {
                self.typing = true;
                self.help = false;
            }
            Action::ActiveOnly => self.active_only = !self.active_only,
            Action::Up => self.scroll = self.scroll.saturating_sub(1),
            Action::Down => self.scroll = self.scroll.saturating_add(1),
            Action::PageUp => self.scroll = self.scroll.saturating_sub(self.page.max(1)),
            Action::PageDown => self.scroll = self.scroll.saturating_add(self.page.max(1)),
            Action::Top => self.scroll = 0,
            Action::Bottom => self.scroll = usize::MAX,
            Action::Type(char) => self.filter.push(char),
            Action::Erase => {
                self.filter.pop();
            }
            Action::Accept => self.typing = false,
        }
        // So that the way back from far below starts at the last row at once.
        self.scroll = self.scroll.min(self.rows.saturating_sub(self.page));
        After::Go
    }

    /// The rows that pass, in order.
    pub fn rows<'a>(&self, snapshot: &'a Snapshot) -> Vec<&'a TaskRow> {
        let needle = self.filter.to_lowercase();
        let mut rows: Vec<&TaskRow> = snapshot
            .tasks
            .iter()
            .filter(|row| !self.active_only || row.is_active())
            .filter(|row| needle.is_empty() || matches(row, &needle))
            .collect();
        rows.sort_unstable_by(|one, other| self.sort.compare(one, other));
        if self.reverse {
            rows.reverse();
        }
        rows
    }
}

fn matches(row: &TaskRow, needle: &str) -> bool {
    row.comm.to_lowercase().contains(needle)
        || row.tid.to_string().contains(needle)
        || row.pid.to_string().contains(needle)
        || row.held_text().contains(needle)
        || row.wait.is_some_and(|lock| short(lock).contains(needle))
}
