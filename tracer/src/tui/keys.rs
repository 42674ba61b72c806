//! From keys to actions.

use core::fmt::Write as _;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::action::{Action, Group};

/// A key, with what is held down beside it.
pub type Key = (KeyCode, KeyModifiers);

/// Which key does what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keymap {
    bound: Vec<(Key, Action)>,
}

impl Default for Keymap {
    fn default() -> Self {
        let bound = Action::ALL.iter().flat_map(|&action| {
            let keys = action.default_keys().split(' ');
            keys.filter_map(move |key| Some((parse(key).ok()?, action)))
        });
        Self {
            bound: bound.collect(),
        }
    }
}

impl Keymap {
    /// What a key means.
    pub fn action(&self, key: KeyEvent) -> Option<Action> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        let key = normal(key);
        self.bound
            .iter()
            .find(|(bound, _)| *bound == key)
            .map(|(_, action)| *action)
    }

    /// The keys of an action, as the help shows them.
    pub fn shown(&self, action: Action) -> String {
        let keys = self.bound.iter().filter(|(_, other)| *other == action);
        let keys: Vec<String> = keys.map(|(key, _)| show(*key)).collect();
        keys.join(" ")
    }

    /// The first key of an action, for the footer.
    pub fn first(&self, action: Action) -> String {
        let key = self.bound.iter().find(|(_, other)| *other == action);
        key.map_or_else(String::new, |(key, _)| show(*key))
    }

    /// Gives an action these keys instead of those that it had; other actions lose them.
    pub fn bind(&mut self, action: Action, keys: &[Key]) {
        self.bound
            .retain(|(key, other)| *other != action && !keys.contains(key));
        self.bound.extend(keys.iter().map(|&key| (key, action)));
    }

    /// The table of all keys for the documents.
    pub fn document(&self) -> String {
        let mut text = String::new();
        for group in Group::ALL {
            let _ = write!(
                text,
                "\n**{}**\n\n| keys | action | does |\n|---|---|---|\n",
                group.name()
            );
            for &action in Action::ALL.iter().filter(|action| action.group() == group) {
                let keys: Vec<String> = action
                    .default_keys()
                    .split(' ')
                    .map(|key| format!("`{key}`"))
                    .collect();
                let _ = writeln!(
                    text,
                    "| {} | `{}` | {} |",
                    keys.join(" "),
                    action.name(),
                    action.help()
                );
            }
        }
        text
    }
}

/// Shift is in the character already, and terminals differ in whether they say it again.
fn normal(key: KeyEvent) -> Key {
    let modifiers = match key.code {
        KeyCode::Char(_) | KeyCode::BackTab => key.modifiers - KeyModifiers::SHIFT,
        _ => key.modifiers,
    };
    (key.code, modifiers)
}

const NAMED: [(&str, KeyCode); 18] = [
    ("space", KeyCode::Char(' ')),
    ("enter", KeyCode::Enter),
    ("esc", KeyCode::Esc),
    ("tab", KeyCode::Tab),
    ("backtab", KeyCode::BackTab),
    ("backspace", KeyCode::Backspace),
    ("delete", KeyCode::Delete),
    ("insert", KeyCode::Insert),
    ("up", KeyCode::Up),
    ("down", KeyCode::Down),
    ("left", KeyCode::Left),
    ("right", KeyCode::Right),
    ("home", KeyCode::Home),
    ("end", KeyCode::End),
    ("pgup", KeyCode::PageUp),
    ("pgdn", KeyCode::PageDown),
    ("plus", KeyCode::Char('+')),
    ("minus", KeyCode::Char('-')),
];

/// A key from its name: `q`, `G`, `ctrl-c`, `alt-x`, `f1`, `pgup`, `space`.
///
/// # Errors
/// If there is no such key; says which there are.
pub fn parse(name: &str) -> Result<Key, String> {
    let mut modifiers = KeyModifiers::NONE;
    let mut rest = name;
    loop {
        rest = if let Some(rest) = rest.strip_prefix("ctrl-") {
            modifiers |= KeyModifiers::CONTROL;
            rest
        } else if let Some(rest) = rest.strip_prefix("alt-") {
            modifiers |= KeyModifiers::ALT;
            rest
        } else {
            break;
        };
    }
    let mut chars = rest.chars();
    let code = match (chars.next(), chars.next()) {
        (Some(char), None) if !char.is_control() => KeyCode::Char(char),
        _ => match NAMED.iter().find(|(named, _)| *named == rest) {
            Some((_, code)) => *code,
            None => match rest.strip_prefix('f').and_then(|number| number.parse().ok()) {
                Some(number @ 1..=24) => KeyCode::F(number),
                _ => {
                    let names: Vec<_> = NAMED.iter().map(|(name, _)| *name).collect();
                    return Err(format!(
                        "no key is called '{name}'; there are single characters, {}, f1 to f24, each also with ctrl- or alt-",
                        names.join(", ")
                    ));
                }
            },
        },
    };
    Ok((code, modifiers))
}

/// A key as people know it.
fn show((code, modifiers): Key) -> String {
    let mut text = String::new();
    if modifiers.contains(KeyModifiers::CONTROL) {
        text.push('^');
    }
    if modifiers.contains(KeyModifiers::ALT) {
        text.push_str("M-");
    }
    match code {
        KeyCode::Char(' ') => text.push_str("space"),
        KeyCode::Char(char) if modifiers.contains(KeyModifiers::CONTROL) => {
            text.extend(char.to_uppercase());
        }
        KeyCode::Char(char) => text.push(char),
        KeyCode::F(number) => {
            let _ = write!(text, "F{number}");
        }
        KeyCode::Up => text.push('↑'),
        KeyCode::Down => text.push('↓'),
        KeyCode::Left => text.push('←'),
        KeyCode::Right => text.push('→'),
        KeyCode::PageUp => text.push_str("PgUp"),
        KeyCode::PageDown => text.push_str("PgDn"),
        KeyCode::BackTab => text.push_str("S-Tab"),
        other => {
            let name = NAMED
                .iter()
                .find(|(_, code)| *code == other)
                .map_or("", |(name, _)| name);
            let mut chars = name.chars();
            text.extend(chars.next().map(|first| first.to_ascii_uppercase()));
            text.push_str(chars.as_str());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(code: KeyCode, modifiers: KeyModifiers) -> KeyEvent {
        KeyEvent::new(code, modifiers)
    }

    #[test]
    fn all_default_keys_are_keys_and_none_has_two_meanings() {
        let mut seen = Vec::new();
        for &action in Action::ALL {
            for name in action.default_keys().split(' ') {
                let key = parse(name).unwrap();
                assert!(!seen.contains(&key), "{name}");
                seen.push(key);
            }
        }
        assert_eq!(Keymap::default().bound.len(), seen.len());
    }

    #[test]
    fn shift_says_nothing_beside_a_character() {
        let map = Keymap::default();
        assert_eq!(
            map.action(key(KeyCode::Char('S'), KeyModifiers::SHIFT)),
            Some(Action::SortReverse)
        );
        assert_eq!(
            map.action(key(KeyCode::BackTab, KeyModifiers::SHIFT)),
            Some(Action::PreviousView)
        );
        assert_eq!(
            map.action(key(KeyCode::Char('c'), KeyModifiers::CONTROL)),
            Some(Action::Quit)
        );
        assert_eq!(map.action(key(KeyCode::Char('c'), KeyModifiers::NONE)), None);
    }

    #[test]
    fn a_new_key_is_taken_from_whoever_had_it() {
        let mut map = Keymap::default();
        map.bind(Action::Quit, &[parse("p").unwrap(), parse("f10").unwrap()]);
        assert_eq!(
            map.action(key(KeyCode::Char('p'), KeyModifiers::NONE)),
            Some(Action::Quit)
        );
        assert_eq!(map.action(key(KeyCode::Char('q'), KeyModifiers::NONE)), None);
        assert_eq!(map.shown(Action::Pause), "space");
        assert_eq!(map.shown(Action::Quit), "p F10");
    }

    #[test]
    fn names_of_keys() {
        assert_eq!(
            parse("ctrl-alt-x").unwrap().1,
            KeyModifiers::CONTROL | KeyModifiers::ALT
        );
        assert_eq!(parse("ctrl--").unwrap().0, KeyCode::Char('-'));
        for wrong in ["", "f0", "f25", "escape", "ctrl-", "pgupp"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
