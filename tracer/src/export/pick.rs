//! Which events are asked for.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tracer_common::wire::{Event, Kind};

use super::args::PickArgs;
use crate::cli::parse_duration;
use crate::info::SourceInfo;
use crate::sink::text;

/// A time on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// So long after the recording began.
    After(Duration),
    /// A wall time, in nanoseconds since 1970.
    Wall(i64),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(duration) = parse_duration(text) {
            return Ok(Self::After(duration));
        }
        chrono::DateTime::parse_from_rfc3339(text)
            .ok()
            .and_then(|time| time.timestamp_nanos_opt())
            .map(Self::Wall)
            .ok_or_else(|| {
                "neither a time since the recording began, such as 2s or 1500ms, nor a date and time with its zone, \
                 such as 2026-11-22T10:00:00Z"
                    .to_owned()
            })
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After(duration) => write!(f, "{duration:?}"),
            Self::Wall(ns) => write!(f, "{}", chrono::DateTime::from_timestamp_nanos(*ns).to_rfc3339()),
        }
    }
}

impl Moment {
    /// On the clock of the events, in nanoseconds.
    pub fn monotonic_ns(self, info: &SourceInfo) -> u64 {
        let start = info.start_monotonic_ns;
        match self {
            Self::After(duration) => {
                start.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
            }
            Self::Wall(ns) => {
                let since = i128::from(ns) - i128::from(info.start_realtime_ns) + i128::from(start);
                u64::try_from(since.max(0)).unwrap_or(u64::MAX)
            }
        }
    }
}

/// The choice, on the clock of one recording.
#[derive(Clone, Debug)]
pub struct Pick {
    from_ns: u64,
    until_ns: u64,
    pids: Vec<u32>,
    kinds: Option<Box<[bool; 256]>>,
}

impl Pick {
    /// What `args` mean for a recording.
    ///
    /// # Errors
    /// If nothing could be in it.
    pub fn new(args: &PickArgs, info: &SourceInfo) -> anyhow::Result<Self> {
        let from_ns = args.since.map_or(0, |since| since.monotonic_ns(info));
        let until_ns = args.until.map_or(u64::MAX, |until| until.monotonic_ns(info));
        anyhow::ensure!(
            from_ns < until_ns,
            "--since is not before --until: nothing lies between them"
        );
        let kinds = (!args.kinds.is_empty()).then(|| {
            let mut chosen = Box::new([false; 256]);
            for &kind in args.kinds.iter().chain(&[Kind::Gap]) {
                chosen[kind as usize] = true;
            }
            chosen
        });
        Ok(Self {
            from_ns,
            until_ns,
            pids: args.pids.clone(),
            kinds,
        })
    }

    /// Whether an event is asked for.
    #[inline]
    pub fn takes(&self, event: &Event) -> bool {
        let header = &event.header;
        header.ts_ns >= self.from_ns
            && header.ts_ns < self.until_ns
            && self.kinds.as_ref().is_none_or(|kinds| kinds[event.kind as usize])
            && (self.pids.is_empty() || event.kind == Kind::Gap || self.pids.contains(&header.pid))
    }

    /// Whether a wait or hold is asked for that `event` ended: it may have begun before.
    #[inline]
    pub fn takes_span(&self, pid: u32, event: &Event) -> bool {
        event.header.ts_ns >= self.from_ns
            && event.header.ts_ns < self.until_ns
            && self.kinds.as_ref().is_none_or(|kinds| kinds[event.kind as usize])
            && self.takes_pid(pid)
    }

    /// What was asked for, in words; `None`: everything.
    pub fn describe(&self, info: &SourceInfo) -> Option<String> {
        let since = |ns: u64| text::duration(ns.saturating_sub(info.start_monotonic_ns));
        let mut parts = Vec::new();
        if self.from_ns > info.start_monotonic_ns {
            parts.push(format!("from {}", since(self.from_ns)));
        }
        if self.until_ns < u64::MAX {
            parts.push(format!("up to {}", since(self.until_ns)));
        }
        if !self.pids.is_empty() {
            let pids: Vec<String> = self.pids.iter().map(u32::to_string).collect();
            parts.push(format!("processes {}", pids.join(" ")));
        }
        if let Some(chosen) = &self.kinds {
            let kinds = Kind::ALL.iter().filter(|kind| chosen[**kind as usize]);
            let names: Vec<&str> = kinds.map(|kind| kind.name()).collect();
            parts.push(format!("kinds {}", names.join(" ")));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// Whether this process is asked for.
    pub fn takes_pid(&self, pid: u32) -> bool {
        self.pids.is_empty() || self.pids.contains(&pid)
    }

    /// Whether all kinds are asked for.
    pub fn takes_all_kinds(&self) -> bool {
        self.kinds.is_none()
    }

    /// Whether nothing is asked for from this time on.
    #[inline]
    pub fn is_past(&self, ts_ns: u64) -> bool {
        ts_ns >= self.until_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> SourceInfo {
        SourceInfo {
            start_monotonic_ns: 1_000,
            start_realtime_ns: 1_795_341_600_000_000_000,
            ..SourceInfo::default()
        }
    }

    fn at(ts_ns: u64, pid: u32, kind: Kind) -> Event {
        let mut event = Event::synthetic(kind, ts_ns);
        event.header.pid = pid;
        event
    }

    #[test]
    fn times_are_since_the_start_or_of_the_wall() {
        let wall: Moment = "2026-11-22T10:00:00.5Z".parse().unwrap();
        assert_eq!(wall.monotonic_ns(&info()), 500_001_000);
        let zone: Moment = "2026-11-22T11:00:00.5+01:00".parse().unwrap();
        assert_eq!(zone.monotonic_ns(&info()), 500_001_000);
        let after: Moment = "500ms".parse().unwrap();
        assert_eq!(after.monotonic_ns(&info()), 500_001_000);
        let before: Moment = "1971-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(before.monotonic_ns(&info()), 0);
        assert!("yesterday".parse::<Moment>().unwrap_err().contains("1500ms"));
    }

    #[test]
    fn all_conditions_hold_at_once_and_gaps_are_nobodys() {
        let args = PickArgs {
            since: Some(Moment::After(Duration::from_nanos(10))),
            until: Some(Moment::After(Duration::from_nanos(20))),
            pids: vec![7],
            kinds: vec![Kind::MmapAcquire],
        };
        let pick = Pick::new(&args, &info()).unwrap();
        assert!(pick.takes(&at(1_010, 7, Kind::MmapAcquire)));
        assert!(!pick.takes(&at(1_009, 7, Kind::MmapAcquire)));
        assert!(!pick.takes(&at(1_020, 7, Kind::MmapAcquire)));
        assert!(!pick.takes(&at(1_010, 8, Kind::MmapAcquire)));
        assert!(!pick.takes(&at(1_010, 7, Kind::MmapRelease)));
        assert!(pick.takes(&at(1_010, 0, Kind::Gap)));
        assert!(pick.is_past(1_020) && !pick.is_past(1_019));
        assert_eq!(
            pick.describe(&info()).unwrap(),
            "from 10 ns, up to 20 ns, processes 7, kinds mmap_acquire gap"
        );
        assert_eq!(
            Pick::new(&PickArgs::default(), &info())
                .unwrap()
                .describe(&info()),
            None
        );
    }

    #[test]
    fn an_empty_choice_is_refused() {
        let args = PickArgs {
            since: Some(Moment::After(Duration::from_secs(2))),
            until: Some(Moment::After(Duration::from_secs(1))),
            ..PickArgs::default()
        };
        assert!(Pick::new(&args, &info()).is_err());
    }
}
