//! What the user can want. The one table of it: keys, help, keymap file and documents are made from it.

macro_rules! actions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $keys:literal, $group:ident, $help:literal;)*) => {
        /// What the user can want by a key.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Action {
            $(#[doc = $help] $variant,)*
        }

        impl Action {
            /// All of them, in the order of the help.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in the keymap file.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Its keys, unless the keymap file says otherwise.
            pub const fn default_keys(self) -> &'static str {
                match self { $(Self::$variant => $keys,)* }
            }

            /// What it does, for the help.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }

            /// Under which heading the help has it.
            pub const fn group(self) -> Group {
                match self { $(Self::$variant => Group::$group,)* }
            }
        }
    };
}

/// Headings of the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Which view.
    Views,
    /// Moving about.
    Moving,
    /// What is shown of it.
    Showing,
    /// What is done.
    Doing,
    /// In a recording.
    Replay,
}

impl Group {
    /// All, in the order of the help.
    pub const ALL: [Self; 5] = [
        Self::Views,
        Self::Moving,
        Self::Showing,
        Self::Doing,
        Self::Replay,
    ];

    /// Its heading.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Views => "Views",
            Self::Moving => "Moving",
            Self::Showing => "Showing",
            Self::Doing => "Doing",
            Self::Replay => "Replay",
        }
    }
}

actions! {
    Overview = "overview", "1", Views, "everything at a glance";
    Tasks = "tasks", "2", Views, "tasks: what they hold and wait for";
    Space = "space", "3", Views, "address spaces and their VMAs";
    Contention = "contention", "4", Views, "who waits for whom, and where";
    Assertions = "assertions", "5", Views, "the kernel's assertions, beside what is known";
    Events = "events", "6", Views, "single events";
    Histograms = "histograms", "7", Views, "how long waits and holds are";
    Probes = "probes", "8", Views, "where events come from, and what stays unseen";
    NextView = "next-view", "tab", Views, "the next view";
    PreviousView = "previous-view", "backtab", Views, "the view before";

    Up = "up", "up k", Moving, "up";
    Down = "down", "down j", Moving, "down";
    PageUp = "page-up", "pgup ctrl-b", Moving, "a page up";
    PageDown = "page-down", "pgdn ctrl-f", Moving, "a page down";
    Top = "top", "home g", Moving, "to the top";
    Bottom = "bottom", "end G", Moving, "to the bottom; in Events: follow what is new";
    Enter = "enter", "enter right l", Moving, "look at the chosen row closely";
    Back = "back", "esc left h", Moving, "back out; drop what is typed, the search, or the filter";

    Filter = "filter", "/", Showing, "show only what fits: /comm=post* && wait>1ms; /!… shows the rest, //… searches";
    Search = "search", "f", Showing, "search among the rows";
    NextMatch = "next-match", "n", Showing, "the next row that the search fits";
    PreviousMatch = "previous-match", "N", Showing, "the row before that the search fits";
    Sort = "sort", "s", Showing, "sort by the next column";
    SortReverse = "sort-reverse", "S", Showing, "turn the order round";
    ActiveOnly = "active-only", "a", Showing, "only what is held or awaited, or all";

    Pause = "pause", "p space", Doing, "hold the screen or go on; events are taken in all the while";
    Export = "export", "e", Doing, "write what is shown to a file";
    Record = "record", "r", Doing, "start or stop recording to a file";
    Trigger = "trigger", "t", Doing, "set a trigger: what the screen is held at, such as wait>5ms or violation";
    Command = "command", ":", Doing, "type a command; :help lists them";
    Names = "names", "m", Doing, "in Space: read names and flags from /proc/PID/maps, once";
    Help = "help", "? f1", Doing, "show or hide this help";
    Redraw = "redraw", "ctrl-l", Doing, "draw the screen anew";
    Suspend = "suspend", "ctrl-z", Doing, "stop the program; fg goes on";
    Quit = "quit", "q ctrl-c", Doing, "leave";

    StepForward = "step-forward", ".", Replay, "one event on";
    StepBack = "step-back", ",", Replay, "one event back";
    JumpForward = "jump-forward", ">", Replay, "a twentieth of the recording on";
    JumpBack = "jump-back", "<", Replay, "a twentieth of the recording back";
    Faster = "faster", "]", Replay, "play faster";
    Slower = "slower", "[", Replay, "play slower";
    NextWait = "next-wait", "w", Replay, "to the next wait over 1 ms, or over what :wait TIME says";
    PreviousWait = "previous-wait", "W", Replay, "to the one before";
    NextViolation = "next-violation", "v", Replay, "to the next violation";
    PreviousViolation = "previous-violation", "V", Replay, "to the one before";
    NextGap = "next-gap", "x", Replay, "to the next gap";
    PreviousGap = "previous-gap", "X", Replay, "to the one before";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_have_names_of_their_own() {
        for (at, action) in Action::ALL.iter().enumerate() {
            assert!(
                Action::ALL[..at]
                    .iter()
                    .all(|other| other.name() != action.name())
            );
        }
    }
}
