//! A line that is being typed.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A filter for the rows.
    Filter,
    /// What to look for among the rows.
    Search,
    /// A command.
    Command,
}

impl Purpose {
    /// What stands before the text.
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Filter => "/",
            Self::Search => "//",
            Self::Command => ":",
        }
    }
}

/// A line that is being typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// For what.
    pub purpose: Purpose,
    /// The text so far.
    pub text: String,
    /// Where the next character goes, in characters.
    pub at: usize,
    /// What is wrong with it.
    pub error: Option<String>,
}

/// What a key did to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typed {
    /// The text is another one.
    Changed,
    /// Nothing, or only the place.
    Moved,
    /// It is done.
    Accepted,
    /// It is given up.
    Cancelled,
    /// The key is not one for typing.
    NotMine,
}

impl Prompt {
    /// With a text to begin with.
    pub fn new(purpose: Purpose, text: &str) -> Self {
        Self {
            purpose,
            text: text.to_owned(),
            at: text.chars().count(),
            error: None,
        }
    }

    /// Takes a key.
    pub fn key(&mut self, key: KeyEvent) -> Typed {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Enter => Typed::Accepted,
            KeyCode::Esc => Typed::Cancelled,
            KeyCode::Char('u') if control => {
                let rest = self.text.split_off(self.byte(self.at));
                self.text = rest;
                self.at = 0;
                Typed::Changed
            }
            KeyCode::Char('w') if control => {
                while self.at > 0 && self.before() == Some(' ') {
                    self.erase();
                }
                while self.at > 0 && self.before() != Some(' ') {
                    self.erase();
                }
                Typed::Changed
            }
            KeyCode::Char(_) if control || key.modifiers.contains(KeyModifiers::ALT) => Typed::NotMine,
            KeyCode::Char(char) if !char.is_control() => {
                let byte = self.byte(self.at);
                self.text.insert(byte, char);
                self.at += 1;
                Typed::Changed
            }
            KeyCode::Backspace if self.text.is_empty() => Typed::Cancelled,
            KeyCode::Backspace => {
                self.erase();
                Typed::Changed
            }
            KeyCode::Delete => {
                if self.at < self.text.chars().count() {
                    self.at += 1;
                    self.erase();
                }
                Typed::Changed
            }
            KeyCode::Left => self.go(self.at.saturating_sub(1)),
            KeyCode::Right => self.go(self.at + 1),
            KeyCode::Home => self.go(0),
            KeyCode::End => self.go(usize::MAX),
            _ => Typed::NotMine,
        }
    }

    fn go(&mut self, at: usize) -> Typed {
        self.at = at.min(self.text.chars().count());
        Typed::Moved
    }

    fn before(&self) -> Option<char> {
        self.text.chars().nth(self.at.checked_sub(1)?)
    }

    fn erase(&mut self) {
        if self.at > 0 {
            self.at -= 1;
            let byte = self.byte(self.at);
            self.text.remove(byte);
        }
    }

    fn byte(&self, at: usize) -> usize {
        self.text
            .char_indices()
            .nth(at)
            .map_or(self.text.len(), |(byte, _)| byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(prompt: &mut Prompt, code: KeyCode, modifiers: KeyModifiers) -> Typed {
        prompt.key(KeyEvent::new(code, modifiers))
    }

    #[test]
    fn a_line_can_be_edited_anywhere() {
        let mut prompt = Prompt::new(Purpose::Filter, "");
        for char in "cömm=x yz".chars() {
            press(&mut prompt, KeyCode::Char(char), KeyModifiers::NONE);
        }
        press(&mut prompt, KeyCode::Home, KeyModifiers::NONE);
        press(&mut prompt, KeyCode::Right, KeyModifiers::NONE);
        press(&mut prompt, KeyCode::Delete, KeyModifiers::NONE);
        assert_eq!(prompt.text, "cmm=x yz");
        press(&mut prompt, KeyCode::Char('o'), KeyModifiers::NONE);
        assert_eq!(prompt.text, "comm=x yz");
        press(&mut prompt, KeyCode::End, KeyModifiers::NONE);
        press(&mut prompt, KeyCode::Char('w'), KeyModifiers::CONTROL);
        assert_eq!(prompt.text, "comm=x ");
        press(&mut prompt, KeyCode::Left, KeyModifiers::NONE);
        press(&mut prompt, KeyCode::Backspace, KeyModifiers::NONE);
        assert_eq!(prompt.text, "comm= ");
        press(&mut prompt, KeyCode::Char('u'), KeyModifiers::CONTROL);
        assert_eq!(prompt.text, " ");
        assert_eq!(
            press(&mut prompt, KeyCode::Enter, KeyModifiers::NONE),
            Typed::Accepted
        );
        assert_eq!(
            press(&mut prompt, KeyCode::Esc, KeyModifiers::NONE),
            Typed::Cancelled
        );
    }

    #[test]
    fn backspace_on_nothing_gives_up() {
        let mut prompt = Prompt::new(Purpose::Command, "");
        assert_eq!(
            press(&mut prompt, KeyCode::Backspace, KeyModifiers::NONE),
            Typed::Cancelled
        );
    }
}
