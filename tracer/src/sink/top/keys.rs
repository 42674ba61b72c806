//! Keys, what they do, and the help that is made from the same table.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave the program.
    Quit,
    /// Leave what is open: help, filter, program.
    Back,
    /// Show or hide the help.
    Help,
    /// Hold the picture, or go on.
    Pause,
    /// Sort by the next column.
    SortNext,
    /// Turn the order round.
    SortReverse,
    /// Begin to type a filter.
    Filter,
    /// Show only tasks that hold or wait, or all.
    ActiveOnly,
    /// One row up.
    Up,
    /// One row down.
    Down,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the first row.
    Top,
    /// To the last row.
    Bottom,
    /// Stop, as `^Z` does.
    Suspend,
    /// While a filter is typed: one more character.
    Type(char),
    /// While a filter is typed: one less.
    Erase,
    /// While a filter is typed: done.
    Accept,
}

/// One line of the help, and the keys behind it.
pub struct Binding {
    keys: &'static [(KeyCode, KeyModifiers)],
    /// The keys as people know them.
    pub shown: &'static str,
    /// What they do.
    pub action: Action,
    /// The same in words.
    pub help: &'static str,
}

const NONE: KeyModifiers = KeyModifiers::NONE;
const CTRL: KeyModifiers = KeyModifiers::CONTROL;

/// All keys, in the order of the help.
pub const BINDINGS: &[Binding] = &[
    Binding {
        keys: &[(KeyCode::Char('q'), NONE), (KeyCode::Char('c'), CTRL)],
        shown: "q ^C",
        action: Action::Quit,
        help: "quit",
    },
    Binding {
        keys: &[(KeyCode::Esc, NONE)],
        shown: "Esc",
        action: Action::Back,
        help: "close the help, drop the filter, or quit",
    },
    Binding {
        keys: &[(KeyCode::Char('?'), NONE), (KeyCode::F(1), NONE)],
        shown: "? F1",
        action: Action::Help,
        help: "show or hide this help",
    },
    Binding {
        keys: &[(KeyCode::Char('p'), NONE), (KeyCode::Char(' '), NONE)],
        shown: "p space",
        action: Action::Pause,
        help: "hold the screen or go on; events are taken in all the while",
    },
    Binding {
        keys: &[(KeyCode::Char('s'), NONE)],
        shown: "s",
        action: Action::SortNext,
        help: "sort by the next column: wait, hold, events, tid, comm",
    },
    Binding {
        keys: &[(KeyCode::Char('S'), NONE)],
        shown: "S",
        action: Action::SortReverse,
        help: "turn the order round",
    },
    Binding {
        keys: &[(KeyCode::Char('/'), NONE)],
        shown: "/",
        action: Action::Filter,
        help: "show tasks whose name, tid, pid or locks contain a text",
    },
    Binding {
        keys: &[(KeyCode::Char('a'), NONE)],
        shown: "a",
        action: Action::ActiveOnly,
        help: "show only tasks that hold or wait, or all",
    },
    Binding {
        keys: &[(KeyCode::Up, NONE), (KeyCode::Char('k'), NONE)],
        shown: "↑ k",
        action: Action::Up,
        help: "up",
    },
    Binding {
        keys: &[(KeyCode::Down, NONE), (KeyCode::Char('j'), NONE)],
        shown: "↓ j",
        action: Action::Down,
        help: "down",
    },
    Binding {
        keys: &[(KeyCode::PageUp, NONE), (KeyCode::Char('b'), CTRL)],
        shown: "PgUp ^B",
        action: Action::PageUp,
        help: "a page up",
    },
    Binding {
        keys: &[(KeyCode::PageDown, NONE), (KeyCode::Char('f'), CTRL)],
        shown: "PgDn ^F",
        action: Action::PageDown,
        help: "a page down",
    },
    Binding {
        keys: &[(KeyCode::Home, NONE), (KeyCode::Char('g'), NONE)],
        shown: "Home g",
        action: Action::Top,
        help: "to the top",
    },
    Binding {
        keys: &[(KeyCode::End, NONE), (KeyCode::Char('G'), NONE)],
        shown: "End G",
        action: Action::Bottom,
        help: "to the bottom",
    },
    Binding {
        keys: &[(KeyCode::Char('z'), CTRL)],
        shown: "^Z",
        action: Action::Suspend,
        help: "stop the program; `fg` goes on",
    },
];

/// What a key means; `typing`: a filter is being typed.
pub fn action_of(key: KeyEvent, typing: bool) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    // Shift is in the character already, and terminals differ in whether they say it again.
    let modifiers = key.modifiers - KeyModifiers::SHIFT;
    if typing {
        match (key.code, modifiers) {
            (KeyCode::Char(char), NONE) => return Some(Action::Type(char)),
            (KeyCode::Backspace, _) => return Some(Action::Erase),
            (KeyCode::Enter, _) => return Some(Action::Accept),
            _ => {}
        }
    }
    BINDINGS
        .iter()
        .find(|binding| binding.keys.contains(&(key.code, modifiers)))
        .map(|binding| binding.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_has_two_meanings() {
        let mut keys: Vec<_> = BINDINGS.iter().flat_map(|binding| binding.keys).collect();
        let all = keys.len();
        keys.sort_by_key(|key| format!("{key:?}"));
        keys.dedup();
        assert_eq!(keys.len(), all);
    }

    #[test]
    fn letters_are_text_while_a_filter_is_typed() {
        let q = KeyEvent::new(KeyCode::Char('q'), NONE);
        assert_eq!(action_of(q, false), Some(Action::Quit));
        assert_eq!(action_of(q, true), Some(Action::Type('q')));
        let interrupt = KeyEvent::new(KeyCode::Char('c'), CTRL);
        assert_eq!(action_of(interrupt, true), Some(Action::Quit));
        let shifted = KeyEvent::new(KeyCode::Char('S'), KeyModifiers::SHIFT);
        assert_eq!(action_of(shifted, false), Some(Action::SortReverse));
    }
}
