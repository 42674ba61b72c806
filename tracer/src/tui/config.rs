//! The file with theme and keymap. What is wrong in it is said with line and reason, and the defaults hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::action::Action;
use super::keys::{self, Keymap};
use super::theme::{Base, Role, Theme};
use crate::outside;

/// What can be set.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// How things look.
    pub theme: Theme,
    /// Which key does what.
    pub keymap: Keymap,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    theme: BTreeMap<Spanned<String>, Spanned<toml::Value>>,
    #[serde(default)]
    keys: BTreeMap<Spanned<String>, Spanned<toml::Value>>,
}

/// Where the file is, unless the user says otherwise: `tracer/tui.toml` in the folder for settings.
pub fn default_path(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let folder = set("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&set("HOME")?).join(".config")))?;
    Some(folder.join("tracer/tui.toml"))
}

impl Config {
    /// What a file says, on top of `base`.
    ///
    /// # Errors
    /// What is wrong in it and in which line, and that the defaults are used.
    pub fn read(path: &Path, base: Base) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("defaults are used: cannot read {}: {error}", outside::path(path)))?;
        Self::parse(&text, base)
            .map_err(|(line, reason)| format!("defaults are used: {}:{line}: {reason}", outside::path(path)))
    }

    /// The same from its text; an error has the line.
    ///
    /// # Errors
    /// The line, from 1, and what is wrong there.
    pub fn parse(text: &str, base: Base) -> Result<Self, (usize, String)> {
        let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let file: File = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            (line(at), error.message().trim().replace('\n', " "))
        })?;
        let mut config = Self {
            theme: Theme::new(base),
            keymap: Keymap::default(),
        };
        config
            .set_theme(&file.theme, base)
            .map_err(|(at, reason)| (line(at), reason))?;
        config
            .set_keys(&file.keys)
            .map_err(|(at, reason)| (line(at), reason))?;
        Ok(config)
    }

    fn set_theme(
        &mut self,
        entries: &BTreeMap<Spanned<String>, Spanned<toml::Value>>,
        base: Base,
    ) -> Result<(), (usize, String)> {
        let find = |name: &str| entries.iter().find(|(key, _)| key.get_ref() == name);
        if let Some((_, value)) = find("base") {
            let names: Vec<_> = Base::NAMES.iter().map(|(name, _)| *name).collect();
            let wanted = value.get_ref().as_str().unwrap_or_default();
            let Some((_, wanted)) = Base::NAMES.iter().find(|(name, _)| *name == wanted) else {
                return Err((value.span().start, format!("base is one of {}", names.join(", "))));
            };
            // NO_COLOR is above the file.
            if base != Base::Mono {
                self.theme = Theme::new(*wanted);
            }
        }
        for (key, value) in entries {
            let name = key.get_ref().as_str();
            let at = value.span().start;
            match name {
                "base" => {}
                "ascii" => {
                    self.theme.ascii = value
                        .get_ref()
                        .as_bool()
                        .ok_or_else(|| (at, "ascii is true or false".to_owned()))?;
                }
                _ => {
                    let Some(role) = Role::ALL.into_iter().find(|role| role.name() == name) else {
                        let names: Vec<_> = Role::ALL.iter().map(|role| role.name()).collect();
                        let names = names.join(", ");
                        return Err((
                            key.span().start,
                            format!("the theme has no '{name}'; there are base, ascii, {names}"),
                        ));
                    };
                    let words = value
                        .get_ref()
                        .as_str()
                        .ok_or_else(|| (at, format!("{name} is a text, such as \"bold red\"")))?;
                    self.theme.set(role, words).map_err(|reason| (at, reason))?;
                }
            }
        }
        Ok(())
    }

    fn set_keys(
        &mut self,
        entries: &BTreeMap<Spanned<String>, Spanned<toml::Value>>,
    ) -> Result<(), (usize, String)> {
        let mut taken: Vec<(keys::Key, &str)> = Vec::new();
        let mut all = Vec::new();
        for (name, value) in entries {
            let Some(&action) = Action::ALL.iter().find(|action| action.name() == name.get_ref()) else {
                return Err((
                    name.span().start,
                    format!(
                        "no action is called '{}'; docs/tui.md and ? list them",
                        name.get_ref()
                    ),
                ));
            };
            let at = value.span().start;
            let names: Vec<&str> = match value.get_ref() {
                toml::Value::String(one) => vec![one],
                toml::Value::Array(many) => many
                    .iter()
                    .map(|one| one.as_str().ok_or_else(|| (at, "keys are texts".to_owned())))
                    .collect::<Result<_, _>>()?,
                _ => return Err((at, "a key, such as \"q\", or a list of them".to_owned())),
            };
            let mut keys = Vec::new();
            for key_name in names {
                let key = keys::parse(key_name).map_err(|reason| (at, reason))?;
                if let Some((_, other)) = taken.iter().find(|(other, _)| *other == key) {
                    return Err((at, format!("the key '{key_name}' is already given to {other}")));
                }
                taken.push((key, action.name()));
                keys.push(key);
            }
            all.push((action, keys));
        }
        for (action, keys) in all {
            self.keymap.bind(action, &keys);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> (usize, String) {
        Config::parse(text, Base::Dark).unwrap_err()
    }

    #[test]
    fn a_file_sets_theme_and_keys() {
        let text = "[theme]\nbase = \"16\"\nascii = true\nalarm = \"bold red\"\n\n[keys]\nquit = [\"q\", \"f10\"]\npause = \"P\"\n";
        let config = Config::parse(text, Base::Dark).unwrap();
        assert!(config.theme.ascii);
        assert_eq!(config.keymap.shown(Action::Quit), "q F10");
        assert_eq!(config.keymap.shown(Action::Pause), "P");
        assert_eq!(config.keymap.shown(Action::Help), "? F1");
        assert!(Config::parse("", Base::Dark).is_ok());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, line, words) in [
            ("[theme]\n\nbase = \"purple\"", 3, "dark, light"),
            ("[theme]\nalram = \"red\"", 2, "alarm"),
            ("[theme]\nalarm = \"redd\"", 2, "redd"),
            ("[theme]\nalarm = 3", 2, "bold red"),
            ("[theme]\nascii = 3", 2, "true or false"),
            (
                "[keys]\nquit = \"q\"\nqiut = \"q\"",
                3,
                "no action is called 'qiut'",
            ),
            ("[keys]\nquit = \"qq\"", 2, "no key is called 'qq'"),
            ("[keys]\nquit = 5", 2, "a key"),
            ("[keys]\nhelp = \"x\"\nquit = \"x\"", 3, "already given to help"),
            ("[keys]\nquit = \"q\n", 2, ""),
            ("[colours]\nx = 1", 1, "colours"),
            ("x", 1, ""),
        ] {
            let (found, reason) = wrong(text);
            assert_eq!(found, line, "{text}: {reason}");
            assert!(reason.contains(words), "{text}: {reason}");
        }
    }

    #[test]
    fn no_color_is_above_the_file() {
        let config = Config::parse("[theme]\nbase = \"dark\"", Base::Mono).unwrap();
        assert_eq!(config.theme, Theme::new(Base::Mono));
    }

    #[test]
    fn the_folder_for_settings() {
        let home = |name: &str| (name == "HOME").then(|| "/home/x".to_owned());
        assert_eq!(
            default_path(home).unwrap(),
            Path::new("/home/x/.config/tracer/tui.toml")
        );
        assert_eq!(default_path(|_| None), None);
    }
}
