//! Reads a recording ahead: copies of the world to go back to, and special moments to go to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::player::{Copy, Player};
use crate::tui::snapshot::{Mark, MarkKind};

/// Events between two copies, at first. So many are gone through again in some 50 ms.
const SPACING: u64 = 1 << 16;
/// Memory for copies, in bytes, unless the machine has little. Copies are made so far apart that it lasts to the end; if
/// it does not, every second one goes. A copy of 10,000 tasks with as many VMAs is some 35 MB, and 120 of them keep the
/// ways in 10 million events short enough.
const BUDGET: usize = 4 << 30;
/// Waits below this are not listed, in nanoseconds, at first.
const SHORTEST_NS: u64 = 10_000;
/// Special moments that are listed.
const MARKS: usize = 1 << 18;
/// Parts of the time bar.
const PARTS: u64 = 1_000;

/// What was found by reading ahead.
#[derive(Debug, Default)]
pub struct Index(Mutex<Found>);

#[derive(Debug)]
struct Found {
    copies: Vec<Arc<Copy>>,
    weight: usize,
    budget: usize,
    spacing: u64,
    marks: Vec<Mark>,
    shortest_ns: u64,
    number: u64,
    first_ns: u64,
    last_ns: u64,
    whole: bool,
    bar: Arc<Vec<Mark>>,
    warning: Option<String>,
}

impl Default for Found {
    fn default() -> Self {
        Self {
            copies: Vec::new(),
            weight: 0,
            budget: BUDGET.min(free_memory() / 4),
            spacing: SPACING,
            marks: Vec::new(),
            shortest_ns: SHORTEST_NS,
            number: 0,
            first_ns: 0,
            last_ns: 0,
            whole: false,
            bar: Arc::default(),
            warning: None,
        }
    }
}

/// Memory that the machine can spare, in bytes.
fn free_memory() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: Option<usize> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    kib.map_or(BUDGET, |kib| kib.saturating_mul(1024))
}

/// How far it has been read ahead.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Events.
    pub number: u64,
    /// Time of the latest one, in nanoseconds.
    pub last_ns: u64,
    /// Whether this is all.
    pub whole: bool,
    /// Special moments for the time bar.
    pub marks: Arc<Vec<Mark>>,
    /// What is wrong with the recording.
    pub warning: Option<String>,
}

impl Index {
    fn lock(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it has been read ahead.
    pub fn progress(&self) -> Progress {
        let found = self.lock();
        Progress {
            number: found.number,
            last_ns: found.last_ns,
            whole: found.whole,
            marks: Arc::clone(&found.bar),
            warning: found.warning.clone(),
        }
    }

    /// Whether all of it has been read.
    pub fn is_whole(&self) -> bool {
        self.lock().whole
    }

    /// Times of the first and of the latest event, in nanoseconds.
    pub fn times(&self) -> (u64, u64) {
        let found = self.lock();
        (found.first_ns, found.last_ns)
    }

    /// Events between two copies.
    pub fn spacing(&self) -> u64 {
        self.lock().spacing
    }

    /// Waits below this are not listed, in nanoseconds.
    pub fn shortest_wait_ns(&self) -> u64 {
        self.lock().shortest_ns
    }

    /// The latest copy that has no event after this one.
    pub fn before_number(&self, number: u64) -> Option<Arc<Copy>> {
        let found = self.lock();
        let at = found.copies.partition_point(|copy| copy.number() <= number);
        found.copies.get(at.checked_sub(1)?).cloned()
    }

    /// The latest copy that has no event after this time.
    pub fn before_time(&self, ns: u64) -> Option<Arc<Copy>> {
        let found = self.lock();
        let at = found.copies.partition_point(|copy| copy.now_ns() <= ns);
        found.copies.get(at.checked_sub(1)?).cloned()
    }

    /// The next special moment of a kind after an event, or the one before it.
    pub fn mark(&self, kind: MarkKind, back: bool, number: u64) -> Option<Mark> {
        let found = self.lock();
        let fits = |mark: &&Mark| match (kind, mark.kind) {
            (MarkKind::Wait(least), MarkKind::Wait(ns)) => ns >= least,
            (wanted, kind) => wanted == kind,
        };
        if back {
            let end = found.marks.partition_point(|mark| mark.number < number);
            found.marks[..end].iter().rev().find(fits).copied()
        } else {
            let start = found.marks.partition_point(|mark| mark.number <= number);
            found.marks[start..].iter().find(fits).copied()
        }
    }
}

impl Found {
    /// Keeps a copy, with about so many events still to come.
    fn keep(&mut self, copy: Copy, rest: Option<u64>) {
        let weight = copy.weight();
        self.weight += weight;
        self.copies.push(Arc::new(copy));
        if let Some(rest) = rest
            && let Some(left @ 1..) = (self.budget / 10 * 9).checked_sub(self.weight)
        {
            // If the copies to come are about as heavy as this one, the memory lasts to the end.
            let apart = u128::from(rest) * weight as u128 / left as u128;
            self.spacing = u64::try_from(apart).unwrap_or(u64::MAX).max(SPACING);
        }
        while self.weight > self.budget && self.copies.len() > 2 {
            let mut at = 0;
            self.copies.retain(|_| {
                at += 1;
                at % 2 == 1
            });
            self.weight = self.copies.iter().map(|copy| copy.weight()).sum();
            self.spacing *= 2;
        }
    }

    fn mark(&mut self, mark: Mark) {
        if let MarkKind::Wait(ns) = mark.kind
            && ns < self.shortest_ns
        {
            return;
        }
        self.marks.push(mark);
        while self.marks.len() > MARKS {
            let before = self.marks.len();
            self.shortest_ns = self.shortest_ns.saturating_mul(2);
            let shortest_ns = self.shortest_ns;
            self.marks
                .retain(|mark| !matches!(mark.kind, MarkKind::Wait(ns) if ns < shortest_ns));
            if self.marks.len() == before && shortest_ns == u64::MAX {
                self.marks.truncate(MARKS);
            }
        }
    }

    /// The worst of each kind in each part of the bar.
    fn make_bar(&mut self) {
        let length = self.last_ns.saturating_sub(self.first_ns).max(1);
        let mut bar: Vec<Mark> = Vec::new();
        let part = |mark: &Mark| {
            let since = mark.ts_ns.saturating_sub(self.first_ns);
            u128::from(since) * u128::from(PARTS) / u128::from(length)
        };
        let mut current = (u128::MAX, [None::<Mark>; 3]);
        for mark in &self.marks {
            if part(mark) != current.0 {
                bar.extend(current.1.into_iter().flatten());
                current = (part(mark), [None; 3]);
            }
            let place = &mut current.1[match mark.kind {
                MarkKind::Wait(_) => 0,
                MarkKind::Gap => 1,
                MarkKind::Violation => 2,
            }];
            if place.is_none_or(|other| mark.kind > other.kind) {
                *place = Some(*mark);
            }
        }
        bar.extend(current.1.into_iter().flatten());
        self.bar = Arc::new(bar);
    }
}

/// Reads all of a recording, until `over` is set. What cannot be read is said in the warning.
pub fn read_ahead(mut player: Player, index: &Index, over: &AtomicBool) {
    index.lock().first_ns = player.first_ns();
    let mut last_copy = 0;
    let mut shown = Instant::now();
    let mut marks = Vec::new();
    let error = loop {
        if player.is_between_blocks() || player.world().number().is_multiple_of(4096) {
            if over.load(Ordering::Relaxed) {
                return;
            }
            let number = player.world().number();
            let copy = (player.is_between_blocks() && number >= last_copy + index.spacing()).then(|| {
                last_copy = number;
                player.copy()
            });
            let mut found = index.lock();
            found.number = number;
            found.last_ns = player.world().now_ns();
            if let Some(copy) = copy {
                found.keep(copy, player.rest());
            }
            for mark in marks.drain(..) {
                found.mark(mark);
            }
            if shown.elapsed() > Duration::from_millis(200) {
                shown = Instant::now();
                found.make_bar();
            }
        }
        let noted = match player.next() {
            Ok(Some(noted)) => noted,
            Ok(None) => break None,
            Err(error) => break Some(format!("{error:#}")),
        };
        let mut note = |kind| {
            marks.push(Mark {
                ts_ns: player.world().now_ns(),
                number: player.world().number(),
                kind,
            });
        };
        if let Some(ns) = noted.wait_ns.filter(|&ns| ns >= SHORTEST_NS) {
            note(MarkKind::Wait(ns));
        }
        if noted.gap {
            note(MarkKind::Gap);
        }
        if noted.violation {
            note(MarkKind::Violation);
        }
    };
    let mut found = index.lock();
    for mark in marks.drain(..) {
        found.mark(mark);
    }
    found.number = player.world().number();
    found.last_ns = player.world().now_ns();
    found.whole = true;
    found.warning = error.or_else(|| player.warning());
    found.make_bar();
}
