//! The state of the screen: what keys, clicks and commands do to it. It knows no terminal and does nothing itself; what
//! has to be done outside is handed back as [`Effect`]s.

use crossterm::event::{KeyEvent, MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::{Position, Rect};

use super::action::Action;
use super::command::{self, Command};
use super::config::Config;
use super::log::Entry;
use super::prompt::{Prompt, Purpose, Typed};
use super::snapshot::{MarkKind, Request, Snapshot, Subject, View};
use super::views;
use crate::filter::Filter;
use crate::trigger::Trigger;

/// What has to be done outside of the screen.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Leave.
    Quit,
    /// Stop the program, then go on.
    Suspend,
    /// Draw everything anew.
    Redraw,
    /// Hold the world, or let it go on.
    Hold(bool),
    /// Write what is shown to a file.
    Export(Option<String>),
    /// Record to a file, or if it records: stop.
    Record(Option<String>),
    /// Stop recording.
    StopRecording,
    /// Hold when it comes true.
    Trigger(Option<Trigger>),
    /// Read names of mappings of a process.
    Names(u32),
    /// Move about in a recording.
    Replay(Control),
    /// Pictures a second.
    Frames(u32),
}

/// How to move in a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Play, or stop.
    Play(bool),
    /// So fast, in thousandths of real time.
    Speed(u64),
    /// So many events on, or back.
    Step(i64),
    /// To a time since the first event, in nanoseconds.
    Time(u64),
    /// So many thousandths of the recording on, or back.
    Jump(i64),
    /// To the event of that number.
    Event(u64),
    /// To the next or the previous special moment; a wait has to be so long.
    Mark {
        /// What.
        kind: MarkKind,
        /// Back, not on.
        back: bool,
    },
}

/// What is looked at more closely than the table before.
#[derive(Clone, Debug)]
pub enum Drill {
    /// A task and its timeline.
    Task(u32),
    /// The VMAs of an address space.
    Space(u64),
    /// A VMA and its history.
    Vma(u64),
    /// One event.
    Event(Box<Entry>),
    /// One probe.
    Probe(usize),
    /// One row of an analysis, by its key.
    Row(u64),
}

/// One table: where it is, how it is sorted, what it leaves out.
#[derive(Clone, Debug, Default)]
pub struct Tab {
    /// The row that is chosen, by its key.
    pub cursor: Option<u64>,
    /// Where that row was last.
    pub place: usize,
    /// The column that rows are sorted by; none: as the view has it.
    pub sort: Option<usize>,
    /// Whether the order is turned round.
    pub reverse: bool,
    /// What rows have to be like.
    pub filter: Option<Filter>,
    /// What is looked for.
    pub search: Option<Filter>,
    /// The first row that is shown.
    pub scroll: usize,
    /// What was last drawn.
    pub drawn: DrawnTable,
}

/// What was drawn of a table.
#[derive(Clone, Debug, Default)]
pub struct DrawnTable {
    /// Keys of all rows that passed the filter, in order.
    pub keys: Vec<u64>,
    /// Rows that fit on the screen.
    pub page: usize,
    /// The first row that was shown.
    pub scroll: usize,
    /// Where the chosen row is.
    pub place: Option<usize>,
    /// Rows that the search fits.
    pub matches: Vec<usize>,
    /// Columns that can be sorted by, by number.
    pub sortable: Vec<usize>,
    /// Their names, by number.
    pub names: Vec<&'static str>,
    /// The column that was sorted by.
    pub sort: usize,
}

/// What a place on the screen stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A view.
    View(View),
    /// A row, by its number.
    Row(usize),
    /// A column's title, by its number.
    Column(usize),
    /// The time bar.
    Time,
}

/// What drawing found out.
#[derive(Clone, Debug, Default)]
pub struct Drawn {
    /// The table, if there was one.
    pub table: Option<DrawnTable>,
    /// What can be clicked at.
    pub targets: Vec<(Rect, Target)>,
    /// Lines of a text that can be scrolled, and how many of them fit.
    pub text: Option<(usize, usize)>,
}

/// How deep one can look.
pub const LEVELS: usize = 4;

/// The state of the screen.
#[derive(Debug)]
pub struct App {
    /// Theme and keys.
    pub config: Config,
    /// The view at hand.
    pub view: View,
    /// What is looked at closely, by view.
    pub drills: [Vec<Drill>; 8],
    /// Tables, by view and level.
    pub tabs: [[Tab; LEVELS]; 8],
    /// The line that is being typed.
    pub prompt: Option<Prompt>,
    /// The filter or search from before it was typed at.
    before: Option<Filter>,
    /// Whether the screen holds; in a recording, whether it does not play.
    pub paused: bool,
    /// Whether a recording is shown.
    pub replay: bool,
    /// Whether the help is shown, and its first line.
    pub help: Option<usize>,
    /// Whether only what is held or awaited is shown.
    pub active_only: bool,
    /// What to tell the user, and whether something went wrong.
    pub message: Option<(String, bool)>,
    /// Waits of that length or longer are long, in nanoseconds.
    pub long_wait_ns: u64,
    /// Names of mappings that were read.
    pub names: views::Names,
    targets: Vec<(Rect, Target)>,
    text_lines: (usize, usize),
}

impl App {
    /// At the start.
    pub fn new(config: Config, replay: bool) -> Self {
        let mut app = Self {
            config,
            view: View::Overview,
            drills: Default::default(),
            tabs: Default::default(),
            prompt: None,
            before: None,
            paused: replay,
            replay,
            help: None,
            active_only: false,
            message: None,
            long_wait_ns: 1_000_000,
            names: views::Names::default(),
            targets: Vec::new(),
            text_lines: (0, 0),
        };
        // What just happened is what one wants to see.
        app.tabs[View::Space as usize][0].sort = None;
        app
    }

    /// Which table of the view is shown.
    pub fn level(&self) -> usize {
        self.drills[self.view as usize].len().min(LEVELS - 1)
    }

    /// What is looked at closely, the closest last.
    pub fn drills(&self) -> &[Drill] {
        &self.drills[self.view as usize]
    }

    /// The table at hand.
    pub fn tab(&self) -> &Tab {
        &self.tabs[self.view as usize][self.level()]
    }

    /// The same, to change it.
    pub fn tab_mut(&mut self) -> &mut Tab {
        let level = self.level();
        &mut self.tabs[self.view as usize][level]
    }

    /// What pictures are wanted.
    pub fn request(&self) -> Request {
        let drills = self.drills();
        let subject = drills.iter().rev().find_map(|drill| match drill {
            Drill::Task(tid) => Some(Subject::Task(*tid)),
            Drill::Vma(address) => Some(Subject::Vma(*address)),
            _ => None,
        });
        let space = drills.iter().rev().find_map(|drill| match drill {
            Drill::Space(mm) => Some(*mm),
            _ => None,
        });
        let events = self.tabs[View::Events as usize][0].filter.clone();
        Request {
            view: self.view,
            events: events.filter(|_| self.view == View::Events),
            subject,
            space,
            deep: self.paused,
        }
    }

    /// Takes in what drawing found out.
    pub fn drawn(&mut self, drawn: Drawn) {
        self.targets = drawn.targets;
        if let Some(text) = drawn.text {
            self.text_lines = text;
        }
        if let Some(table) = drawn.table {
            let tab = self.tab_mut();
            tab.scroll = table.scroll;
            if let Some(place) = table.place {
                tab.place = place;
            }
            tab.drawn = table;
        }
    }

    /// Tells the user something.
    pub fn tell(&mut self, text: impl Into<String>, wrong: bool) {
        self.message = Some((text.into(), wrong));
    }

    /// A key was pressed.
    pub fn key(&mut self, key: KeyEvent, shot: &Snapshot) -> Vec<Effect> {
        if key.kind == crossterm::event::KeyEventKind::Release {
            return Vec::new();
        }
        if let Some(prompt) = &mut self.prompt {
            match prompt.key(key) {
                Typed::Changed => {
                    self.typed();
                    return Vec::new();
                }
                Typed::Moved => return Vec::new(),
                Typed::Accepted => return self.accept(),
                Typed::Cancelled => {
                    self.cancel();
                    return Vec::new();
                }
                Typed::NotMine => {}
            }
        }
        match self.config.keymap.action(key) {
            Some(action) => self.act(action, shot),
            None => Vec::new(),
        }
    }

    /// The mouse did something.
    pub fn mouse(&mut self, event: MouseEvent, shot: &Snapshot) -> Vec<Effect> {
        let at = Position::new(event.column, event.row);
        match event.kind {
            MouseEventKind::ScrollUp => self.wheel(-3),
            MouseEventKind::ScrollDown => self.wheel(3),
            MouseEventKind::Down(MouseButton::Left) => {
                let hit = self
                    .targets
                    .iter()
                    .rev()
                    .find(|(area, _)| area.contains(at))
                    .copied();
                return hit.map_or_else(Vec::new, |(area, target)| self.click(target, area, at, shot));
            }
            _ => {}
        }
        Vec::new()
    }

    fn wheel(&mut self, by: isize) {
        if self.help.is_some() || self.shows_text() {
            self.scroll_text(by);
        } else {
            self.go(|place, _, last| place.saturating_add_signed(by).min(last));
        }
    }

    fn click(&mut self, target: Target, area: Rect, at: Position, shot: &Snapshot) -> Vec<Effect> {
        match target {
            Target::View(view) => self.show(view),
            Target::Row(row) => {
                let key = self.tab().drawn.keys.get(row).copied();
                if key.is_some() && self.tab().cursor == key {
                    return self.act(Action::Enter, shot);
                }
                self.go(|_, _, last| row.min(last));
            }
            Target::Column(column) => {
                let tab = self.tab_mut();
                if tab.drawn.sort == column {
                    tab.reverse = !tab.reverse;
                } else if tab.drawn.sortable.contains(&column) {
                    tab.sort = Some(column);
                    tab.reverse = false;
                }
            }
            Target::Time => {
                if let Some(replay) = &shot.head.replay {
                    let length = replay.last_ns.saturating_sub(replay.first_ns);
                    let part = u128::from(at.x.saturating_sub(area.x)) * u128::from(length);
                    let time = part / u128::from(area.width.saturating_sub(1).max(1));
                    let time = u64::try_from(time).unwrap_or(u64::MAX);
                    return vec![Effect::Replay(Control::Time(time))];
                }
            }
        }
        Vec::new()
    }

    /// The user wants something.
    pub fn act(&mut self, action: Action, shot: &Snapshot) -> Vec<Effect> {
        self.message = None;
        if let Some(effects) = self.act_in_replay(action) {
            return effects;
        }
        match action {
            Action::Quit => return vec![Effect::Quit],
            Action::Suspend => return vec![Effect::Suspend],
            Action::Redraw => return vec![Effect::Redraw],
            Action::Overview => self.show(View::Overview),
            Action::Tasks => self.show(View::Tasks),
            Action::Space => self.show(View::Space),
            Action::Contention => self.show(View::Contention),
            Action::Assertions => self.show(View::Assertions),
            Action::Events => self.show(View::Events),
            Action::Histograms => self.show(View::Histograms),
            Action::Probes => self.show(View::Probes),
            Action::NextView => self.show(View::ALL[(self.view as usize + 1) % 8]),
            Action::PreviousView => self.show(View::ALL[(self.view as usize + 7) % 8]),
            Action::Up | Action::Down | Action::PageUp | Action::PageDown | Action::Top | Action::Bottom => {
                self.move_by(action);
            }
            Action::Enter => self.enter(shot),
            Action::Back => self.back(),
            Action::Filter => {
                self.help = None;
                self.before = self.tab().filter.clone();
                let text = self.before.as_ref().map(ToString::to_string).unwrap_or_default();
                self.prompt = Some(Prompt::new(Purpose::Filter, &text));
            }
            Action::Search => {
                self.help = None;
                self.before = self.tab().search.clone();
                self.prompt = Some(Prompt::new(Purpose::Search, ""));
            }
            Action::NextMatch => self.match_on(false),
            Action::PreviousMatch => self.match_on(true),
            Action::Sort => {
                let tab = self.tab_mut();
                let columns = &tab.drawn.sortable;
                if let Some(at) = columns.iter().position(|&column| column == tab.drawn.sort) {
                    tab.sort = Some(columns[(at + 1) % columns.len()]);
                    tab.reverse = false;
                }
            }
            Action::SortReverse => {
                let tab = self.tab_mut();
                tab.reverse = !tab.reverse;
            }
            Action::ActiveOnly => self.active_only = !self.active_only,
            Action::Pause => {
                self.paused = !self.paused;
                return vec![Effect::Hold(self.paused)];
            }
            Action::Export => return vec![Effect::Export(None)],
            Action::Record => return vec![Effect::Record(None)],
            Action::Trigger => self.prompt = Some(Prompt::new(Purpose::Command, "trigger ")),
            Action::Command => self.prompt = Some(Prompt::new(Purpose::Command, "")),
            Action::Names => return self.read_names(shot),
            Action::Help => self.help = if self.help.is_some() { None } else { Some(0) },
            _ => self.tell("this is for recordings: tracer replay FILE", false),
        }
        Vec::new()
    }

    fn act_in_replay(&mut self, action: Action) -> Option<Vec<Effect>> {
        if !self.replay {
            return None;
        }
        let wait = MarkKind::Wait(self.long_wait_ns);
        let mark = |kind, back| Control::Mark { kind, back };
        let control = match action {
            Action::Pause => {
                self.paused = !self.paused;
                Control::Play(!self.paused)
            }
            Action::StepForward => Control::Step(1),
            Action::StepBack => Control::Step(-1),
            Action::JumpForward => Control::Jump(50),
            Action::JumpBack => Control::Jump(-50),
            Action::Faster => Control::Speed(u64::MAX),
            Action::Slower => Control::Speed(0),
            Action::NextWait => mark(wait, false),
            Action::PreviousWait => mark(wait, true),
            Action::NextViolation => mark(MarkKind::Violation, false),
            Action::PreviousViolation => mark(MarkKind::Violation, true),
            Action::NextGap => mark(MarkKind::Gap, false),
            Action::PreviousGap => mark(MarkKind::Gap, true),
            Action::Record => {
                self.tell("this is a recording already", false);
                return Some(Vec::new());
            }
            Action::Names => {
                self.tell("names are not in recordings, and the process may be gone", false);
                return Some(Vec::new());
            }
            _ => return None,
        };
        if !matches!(control, Control::Play(_) | Control::Speed(_)) {
            self.paused = true;
        }
        Some(vec![Effect::Replay(control)])
    }

    /// Goes to a view.
    pub fn show(&mut self, view: View) {
        self.help = None;
        self.view = view;
    }

    fn shows_text(&self) -> bool {
        self.tab().drawn.keys.is_empty() && self.text_lines.0 > 0
    }

    fn scroll_text(&mut self, by: isize) {
        let (lines, page) = self.text_lines;
        let last = lines.saturating_sub(page);
        if let Some(at) = &mut self.help {
            *at = at.saturating_add_signed(by).min(last);
        } else {
            let tab = self.tab_mut();
            tab.scroll = tab.scroll.saturating_add_signed(by).min(last);
        }
    }

    fn move_by(&mut self, action: Action) {
        if self.help.is_some() || self.shows_text() {
            let page = self.text_lines.1.max(1).cast_signed();
            self.scroll_text(match action {
                Action::Up => -1,
                Action::Down => 1,
                Action::PageUp => -page,
                Action::PageDown => page,
                Action::Top => isize::MIN / 2,
                _ => isize::MAX / 2,
            });
            return;
        }
        // The end of a log is where what is new comes in: there nothing is chosen.
        if action == Action::Bottom && views::follows(self) {
            let tab = self.tab_mut();
            tab.cursor = None;
            return;
        }
        self.go(|place, page, last| match action {
            Action::Up => place.saturating_sub(1),
            Action::Down => (place + 1).min(last),
            Action::PageUp => place.saturating_sub(page),
            Action::PageDown => (place + page).min(last),
            Action::Top => 0,
            _ => last,
        });
    }

    /// Chooses another row, by where the chosen one is, the rows of a page and the last row.
    fn go(&mut self, to: impl FnOnce(usize, usize, usize) -> usize) {
        let follows = views::follows(self);
        let tab = self.tab_mut();
        let Some(last) = tab.drawn.keys.len().checked_sub(1) else {
            return;
        };
        let place = match tab.cursor {
            None if follows => last,
            // The first press chooses the row that seems chosen.
            None => 0,
            Some(_) => tab.place.min(last),
        };
        let place = to(place, tab.drawn.page.max(1), last).min(last);
        tab.cursor = Some(tab.drawn.keys[place]);
        tab.place = place;
    }

    fn match_on(&mut self, back: bool) {
        let tab = self.tab();
        if tab.search.is_none() {
            self.tell("nothing is looked for: f or // begins a search", false);
            return;
        }
        let place = tab.drawn.place.unwrap_or(tab.place);
        let matches = &tab.drawn.matches;
        let next = if back {
            matches.iter().rev().find(|&&row| row < place).or(matches.last())
        } else {
            matches.iter().find(|&&row| row > place).or(matches.first())
        };
        match next.copied() {
            Some(row) => self.go(|_, _, _| row),
            None => self.tell("no row fits the search", false),
        }
    }

    fn enter(&mut self, shot: &Snapshot) {
        if self.help.is_some() {
            self.help = None;
            return;
        }
        if self.drills().len() + 1 >= LEVELS {
            return;
        }
        let tab = self.tab();
        let follows = views::follows(self);
        let key = tab.cursor.or_else(|| {
            let keys = &tab.drawn.keys;
            if follows { keys.last() } else { keys.first() }.copied()
        });
        let Some(key) = key else { return };
        if let Some(drill) = views::drill(self, shot, key) {
            self.look(drill);
        }
    }

    /// Looks at something closely.
    pub fn look(&mut self, drill: Drill) {
        self.drills[self.view as usize].push(drill);
        *self.tab_mut() = Tab::default();
    }

    fn back(&mut self) {
        if self.help.take().is_some() {
            return;
        }
        let tab = self.tab_mut();
        if tab.search.take().is_some() || tab.filter.take().is_some() {
            return;
        }
        if self.drills[self.view as usize].pop().is_none() {
            if self.tab().cursor.is_some() {
                self.tab_mut().cursor = None;
            } else {
                self.tell("q leaves", false);
            }
        }
    }

    fn read_names(&mut self, shot: &Snapshot) -> Vec<Effect> {
        let Some(Drill::Space(mm)) = self
            .drills()
            .iter()
            .rev()
            .find(|drill| matches!(drill, Drill::Space(_)))
        else {
            self.tell(
                "in Space, with a process chosen: reads names of its mappings",
                false,
            );
            return Vec::new();
        };
        let space = shot.spaces.iter().find(|space| space.mm == *mm);
        space.map_or_else(Vec::new, |space| vec![Effect::Names(space.pid)])
    }

    /// The text at the prompt is another one: what can be tried at once is.
    fn typed(&mut self) {
        let Some(prompt) = &mut self.prompt else { return };
        prompt.error = None;
        if prompt.purpose == Purpose::Filter
            && let Some(rest) = prompt.text.strip_prefix('/')
        {
            // `//` is a search.
            let text = rest.to_owned();
            self.prompt = Some(Prompt::new(Purpose::Search, &text));
            let before = self.before.take();
            self.tab_mut().filter = before;
            self.before = self.tab().search.clone();
            return self.typed();
        }
        let purpose = prompt.purpose;
        if purpose == Purpose::Command {
            return;
        }
        let wanted = match filter_of(&prompt.text) {
            Ok(wanted) => wanted,
            Err(error) => {
                prompt.error = Some(error);
                return;
            }
        };
        match purpose {
            Purpose::Filter => self.tab_mut().filter = wanted,
            _ => self.tab_mut().search = wanted,
        }
    }

    fn accept(&mut self) -> Vec<Effect> {
        let Some(prompt) = self.prompt.take() else {
            return Vec::new();
        };
        let result = match prompt.purpose {
            Purpose::Command => match command::parse(&prompt.text) {
                Ok(command) => return self.run(command),
                Err(error) => Err(error),
            },
            Purpose::Filter | Purpose::Search => filter_of(&prompt.text),
        };
        match (result, prompt.purpose) {
            (Ok(filter), Purpose::Filter) => self.tab_mut().filter = filter,
            (Ok(search), _) => {
                self.tab_mut().search = search;
                self.jump_to_match();
            }
            (Err(error), _) => {
                self.prompt = Some(Prompt {
                    error: Some(error),
                    ..prompt
                });
            }
        }
        Vec::new()
    }

    /// The first match from here on, this row included.
    fn jump_to_match(&mut self) {
        let tab = self.tab();
        let place = tab.drawn.place.unwrap_or(0);
        let matches = &tab.drawn.matches;
        let row = matches
            .iter()
            .find(|&&row| row >= place)
            .or(matches.first())
            .copied();
        match row {
            Some(row) => self.go(|_, _, _| row),
            None if self.tab().search.is_some() => self.tell("no row fits the search", false),
            None => {}
        }
    }

    fn cancel(&mut self) {
        let before = self.before.take();
        match self.prompt.take().map(|prompt| prompt.purpose) {
            Some(Purpose::Filter) => self.tab_mut().filter = before,
            Some(Purpose::Search) => self.tab_mut().search = before,
            _ => {}
        }
    }

    fn run(&mut self, command: Command) -> Vec<Effect> {
        let replay = |app: &mut Self, control| {
            if app.replay {
                app.paused = true;
                vec![Effect::Replay(control)]
            } else {
                app.tell("this is for recordings: tracer replay FILE", true);
                Vec::new()
            }
        };
        match command {
            Command::Quit => return vec![Effect::Quit],
            Command::Help => self.help = Some(0),
            Command::View(view) => self.show(view),
            Command::Filter(filter) => self.tab_mut().filter = filter,
            Command::Sort(name) => {
                let tab = self.tab_mut();
                let column = tab.drawn.names.iter().position(|other| *other == name);
                match column.filter(|column| tab.drawn.sortable.contains(column)) {
                    Some(column) => tab.sort = Some(column),
                    None => {
                        let sortable = tab.drawn.sortable.iter().map(|&column| tab.drawn.names[column]);
                        let names: Vec<_> = sortable.collect();
                        self.tell(
                            format!("there is no column {name}; there are {}", names.join(", ")),
                            true,
                        );
                    }
                }
            }
            Command::Export(file) => return vec![Effect::Export(file)],
            Command::Record(_) if self.replay => self.tell("this is a recording already", true),
            Command::Record(file) => return vec![Effect::Record(file)],
            Command::Stop => return vec![Effect::StopRecording],
            Command::Trigger(filter) => return vec![Effect::Trigger(filter)],
            Command::Goto(ns) => return replay(self, Control::Time(ns)),
            Command::Event(number) => return replay(self, Control::Event(number)),
            Command::Speed(permille) => {
                let paused = self.paused;
                let effects = replay(self, Control::Speed(permille));
                self.paused = paused;
                return effects;
            }
            Command::Wait(ns) => self.long_wait_ns = ns,
            Command::Pid(pid) => {
                self.show(View::Space);
                self.drills[View::Space as usize].clear();
                self.tab_mut().filter = format!("pid={pid}").parse().ok();
            }
            Command::Tid(tid) => {
                self.show(View::Tasks);
                self.drills[View::Tasks as usize].clear();
                self.look(Drill::Task(tid));
            }
            Command::Frames(frames) => return vec![Effect::Frames(frames)],
        }
        Vec::new()
    }
}

/// What is typed at `/`: an expression, or with `!` before all of it what shows the rest.
fn filter_of(text: &str) -> Result<Option<Filter>, String> {
    let text = text.trim();
    if text.is_empty() || text == "!" {
        return Ok(None);
    }
    let parse = |text: &str| text.parse::<Filter>().map_err(|error| error.to_string());
    match text.strip_prefix('!') {
        Some(rest) if !rest.starts_with('(') => Ok(Some(parse(rest)?.inverse())),
        _ => Ok(Some(parse(text)?)),
    }
}
