//! How things look. Colour only helps: whatever it says is said in words or marks as well.

use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier, Style};

/// What something is, so that it can be made to look like it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Plain text.
    #[default]
    Text,
    /// Headings, titles of columns.
    Heading,
    /// What is chosen.
    Chosen,
    /// Losses, violations, what is broken.
    Alarm,
    /// Somebody waits.
    Waiting,
    /// Somebody holds something for writing.
    Writing,
    /// Somebody holds something for reading.
    Reading,
    /// What is known less than surely.
    Unsure,
    /// What is of less interest.
    Quiet,
    /// What is as it should be.
    Good,
    /// Bars and lines.
    Bar,
    /// What the search found.
    Match,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Text,
        Self::Heading,
        Self::Chosen,
        Self::Alarm,
        Self::Waiting,
        Self::Writing,
        Self::Reading,
        Self::Unsure,
        Self::Quiet,
        Self::Good,
        Self::Bar,
        Self::Match,
    ];

    /// Its name in the theme file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Heading => "heading",
            Self::Chosen => "chosen",
            Self::Alarm => "alarm",
            Self::Waiting => "waiting",
            Self::Writing => "writing",
            Self::Reading => "reading",
            Self::Unsure => "unsure",
            Self::Quiet => "quiet",
            Self::Good => "good",
            Self::Bar => "bar",
            Self::Match => "match",
        }
    }
}

/// Themes that are built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// 256 colours on a dark ground.
    Dark,
    /// 256 colours on a light ground.
    Light,
    /// The 16 colours that every terminal has, as it sets them.
    Sixteen,
    /// No colour.
    Mono,
}

impl Base {
    /// All, by name.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("dark", Self::Dark),
        ("light", Self::Light),
        ("16", Self::Sixteen),
        ("mono", Self::Mono),
    ];

    /// What the environment wants: `NO_COLOR` means none, `COLORFGBG` tells the ground, `TERM` how many colours.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Self {
        if variable("NO_COLOR").is_some_and(|value| !value.is_empty()) {
            return Self::Mono;
        }
        let term = variable("TERM").unwrap_or_default();
        if term == "dumb" {
            return Self::Mono;
        }
        let ground = variable("COLORFGBG").and_then(|value| value.rsplit(';').next()?.parse::<u8>().ok());
        let many = term.contains("256") || term.contains("direct") || variable("COLORTERM").is_some();
        match (many, ground) {
            (false, _) => Self::Sixteen,
            (true, Some(7 | 15)) => Self::Light,
            (true, _) => Self::Dark,
        }
    }
}

/// How things look.
#[derive(Clone, Debug, PartialEq)]
pub struct Theme {
    styles: [Style; Role::ALL.len()],
    /// Whether only ASCII is drawn.
    pub ascii: bool,
    /// Whether there is colour.
    color: bool,
}

impl Default for Theme {
    fn default() -> Self {
        Self::new(Base::Dark)
    }
}

impl Theme {
    /// A theme that is built in.
    pub fn new(base: Base) -> Self {
        let bold = Modifier::BOLD;
        let plain = Modifier::empty();
        let mut theme = Self {
            styles: [Style::new(); Role::ALL.len()],
            ascii: false,
            color: base != Base::Mono,
        };
        let paint = |dark, light, sixteen| match base {
            Base::Dark => Color::Indexed(dark),
            Base::Light => Color::Indexed(light),
            Base::Sixteen => sixteen,
            Base::Mono => Color::Reset,
        };
        let looks = [
            (Role::Heading, paint(81, 25, Color::Cyan), bold),
            (Role::Alarm, paint(203, 160, Color::Red), bold),
            (Role::Waiting, paint(221, 130, Color::Yellow), plain),
            (Role::Writing, paint(177, 90, Color::Magenta), plain),
            (Role::Reading, paint(114, 28, Color::Green), plain),
            (Role::Unsure, paint(180, 94, Color::Yellow), Modifier::ITALIC),
            (Role::Quiet, paint(245, 243, Color::Reset), Modifier::DIM),
            (Role::Good, paint(114, 28, Color::Green), plain),
            (Role::Bar, paint(74, 31, Color::Blue), plain),
            (Role::Match, paint(221, 130, Color::Yellow), Modifier::UNDERLINED),
        ];
        for (role, color, modifier) in looks {
            theme.styles[role as usize] = Style::new().fg(color).add_modifier(modifier);
        }
        theme.styles[Role::Chosen as usize] = Style::new().add_modifier(Modifier::REVERSED);
        theme
    }

    /// How something looks.
    pub fn style(&self, role: Role) -> Style {
        self.styles[role as usize]
    }

    /// Makes something look otherwise: a list of a colour and of `bold`, `dim`, `italic`, `underlined`, `reversed`;
    /// a second colour behind `on` is the ground.
    ///
    /// # Errors
    /// If a word is none of these.
    pub fn set(&mut self, role: Role, words: &str) -> Result<(), String> {
        let mut style = Style::new();
        let mut ground = false;
        for word in words.split_whitespace() {
            let modifier = match word {
                "bold" => Modifier::BOLD,
                "dim" => Modifier::DIM,
                "italic" => Modifier::ITALIC,
                "underlined" => Modifier::UNDERLINED,
                "reversed" => Modifier::REVERSED,
                "on" => {
                    ground = true;
                    continue;
                }
                _ => {
                    let color: Color = word.parse().map_err(|_| {
                        format!("'{word}' is neither a colour (red, lightblue, #ff8800, 208) nor bold, dim, italic, underlined, reversed")
                    })?;
                    style = if ground { style.bg(color) } else { style.fg(color) };
                    ground = false;
                    continue;
                }
            };
            style = style.add_modifier(modifier);
        }
        self.styles[role as usize] = style;
        Ok(())
    }

    /// Takes out of a drawn screen what this theme does not want: colours, or what is not ASCII.
    pub fn finish(&self, buffer: &mut Buffer) {
        if self.color && !self.ascii {
            return;
        }
        for cell in &mut buffer.content {
            if !self.color {
                cell.fg = Color::Reset;
                cell.bg = Color::Reset;
            }
            if self.ascii && !cell.symbol().is_ascii() {
                let plain = cell.symbol().chars().next().map_or(' ', ascii);
                cell.set_char(plain);
            }
        }
    }
}

/// What stands for a character where there is only ASCII.
const fn ascii(char: char) -> char {
    match char {
        'µ' => 'u',
        '…' => '~',
        '×' => 'x',
        '·' | '•' => '.',
        '–' | '—' | '─' | '━' => '-',
        '│' | '┃' | '▏' | '▎' | '▍' => '|',
        '├' | '└' | '┌' | '┐' | '┘' | '┤' | '╭' | '╮' | '╯' | '╰' | '┼' => '+',
        '↑' | '▲' => '^',
        '↓' | '▼' => 'v',
        '→' | '▶' | '►' => '>',
        '←' | '◀' => '<',
        '≥' => '>',
        '≤' => '<',
        '≈' => '~',
        '●' => 'o',
        '▁' => '.',
        '▂' => ':',
        '▃' => '-',
        '▄' => '=',
        '▅' => '+',
        '▆' => '*',
        '▇' => '%',
        '█' | '▌' | '▋' | '▊' | '▉' => '#',
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Base {
        Base::from_env(|name| {
            let pair = pairs.iter().find(|(other, _)| *other == name);
            pair.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_chooses() {
        assert_eq!(env(&[("NO_COLOR", "1"), ("TERM", "xterm-256color")]), Base::Mono);
        assert_eq!(env(&[("NO_COLOR", ""), ("TERM", "xterm-256color")]), Base::Dark);
        assert_eq!(env(&[("TERM", "linux")]), Base::Sixteen);
        assert_eq!(
            env(&[("TERM", "xterm-256color"), ("COLORFGBG", "0;15")]),
            Base::Light
        );
        assert_eq!(env(&[("TERM", "dumb")]), Base::Mono);
        assert_eq!(env(&[]), Base::Sixteen);
    }

    #[test]
    fn sixteen_colours_are_the_sixteen() {
        let theme = Theme::new(Base::Sixteen);
        for role in Role::ALL {
            assert!(!matches!(
                theme.style(role).fg,
                Some(Color::Indexed(_) | Color::Rgb(..))
            ));
        }
    }

    #[test]
    fn words_make_a_style() {
        let mut theme = Theme::default();
        theme.set(Role::Alarm, "bold #ff8800 on black").unwrap();
        let style = theme.style(Role::Alarm);
        assert_eq!(
            (style.fg, style.bg),
            (Some(Color::Rgb(255, 136, 0)), Some(Color::Black))
        );
        assert!(theme.set(Role::Alarm, "blod").unwrap_err().contains("blod"));
    }

    #[test]
    fn nothing_but_ascii_is_left() {
        let mut buffer = Buffer::with_lines(["µ…×█→漢"]);
        let theme = Theme {
            ascii: true,
            ..Theme::default()
        };
        theme.finish(&mut buffer);
        assert!(buffer.content.iter().all(|cell| cell.symbol().is_ascii()));
    }
}
