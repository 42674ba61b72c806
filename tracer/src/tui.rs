//! The screen: `tracer` (live) and `tracer replay FILE`.
//!
//! Input becomes an [`action::Action`], which changes the [`app::App`]; [`draw::draw`] renders that and a
//! [`snapshot::Snapshot`], and nothing else. The event path, or the player of a recording, grows a [`world::World`],
//! makes pictures of it for the view at hand and leaves them on the [`feed`]: it never waits for the screen. To hold the
//! screen is to take a copy of the world, of which pictures can then be made at leisure.

pub mod action;
pub mod app;
pub mod command;
pub mod config;
pub mod cost;
pub mod draw;
pub mod feed;
pub mod header;
pub mod keys;
pub mod live;
pub mod log;
mod picture;
pub mod prompt;
pub mod replay;
pub mod screen;
pub mod snapshot;
pub mod table;
mod terminal;
pub mod theme;
pub mod views;
pub mod world;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use app::App;
use config::Config;
use snapshot::View;
use theme::Base;

use crate::filter::Filter;

/// Time between two pictures, unless the user says otherwise.
pub const FRAME: Duration = Duration::from_millis(100);

/// Options of the screen.
#[derive(Args, Clone, Debug, Default)]
pub struct ScreenArgs {
    /// Draw with ASCII characters only.
    #[arg(long)]
    pub ascii: bool,
    /// Pictures a second, 1 to 60.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60))]
    pub fps: Option<u32>,
    /// Begin with this filter in Tasks and Events, such as 'comm=post* && wait>1ms' (docs/tui.md, Filters).
    #[arg(long, value_name = "EXPR", value_parser = crate::cli::parse_filter)]
    pub filter: Option<Filter>,
    /// Kernel addresses as they are. Otherwise they are hashed, as in exports; filters take what is shown.
    #[arg(long)]
    pub raw_addresses: bool,
    /// Theme and keys (see docs/tui.md); without it, tracer/tui.toml in your folder for settings.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ScreenArgs {
    /// Theme and keys, and what was wrong with them.
    pub fn config(&self) -> (Config, Option<String>) {
        let variable = |name: &str| std::env::var(name).ok();
        let base = Base::from_env(variable);
        let wanted = self.config.clone();
        let path = wanted
            .clone()
            .or_else(|| config::default_path(variable).filter(|path| path.exists()));
        let read = path.map(|path| Config::read(&path, base));
        let (mut config, error) = match read {
            Some(Ok(config)) => (config, None),
            Some(Err(error)) => (default_config(base), Some(error)),
            None => (default_config(base), None),
        };
        config.theme.ascii |= self.ascii;
        (config, error)
    }

    /// The screen at the start; what was wrong with the file is said on it.
    pub fn app(&self, replay: bool) -> App {
        let (config, error) = self.config();
        let mut app = App::new(config, replay);
        for view in [View::Tasks, View::Events] {
            app.tabs[view as usize][0].filter.clone_from(&self.filter);
        }
        if let Some(error) = error {
            app.tell(error, true);
        }
        app
    }

    /// Time between two pictures.
    pub fn frame(&self) -> Duration {
        self.fps.map_or(FRAME, |fps| Duration::from_secs(1) / fps.max(1))
    }
}

fn default_config(base: Base) -> Config {
    Config {
        theme: theme::Theme::new(base),
        ..Config::default()
    }
}

/// Whether there is a terminal to draw on; to be asked before anything is attached.
///
/// # Errors
/// If not, with what to do instead.
pub fn require_terminal() -> anyhow::Result<()> {
    use std::io::IsTerminal as _;
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        return Ok(());
    }
    bail!(
        "there is no terminal to draw on; use `tracer record -o FILE` to record, or `tracer stats` for tables"
    )
}

#[cfg(test)]
mod tests;
