//! Triggers: conditions on what is seen, for a flight recorder that writes when one comes true.
//!
//! They are in the language of [`crate::filter`]: the first event that fits fires. Four conditions are more than an event
//! can tell, each by itself: `wait>TIME`, `hold>TIME`, `violation` and `fallback-rate>PERCENT`.
//!
//! They are pure, like the engine that they look at. A wait or a hold is measured while it goes on, too: what is stuck
//! never ends. Each one fires once.

use std::collections::HashSet;
use std::fmt;

use tracer_common::wire::{Event, Provenance};

use crate::check::Checker;
use crate::check::violation::Violations;
use crate::filter::parse::{Token, duration, tokens};
use crate::filter::{EventFacts, Filter, FilterError, ending_wait};
use crate::info::{Fired, SiteInfo, SourceInfo};
use crate::outside;
use crate::state::{Engine, Lock, Meta, Note, RoundEnd, What};

/// How often the waits and holds that go on are looked at, in nanoseconds of the events' time.
const LOOK_NS: u64 = 2_000_000;
/// The rate of falling back is that of so long, in nanoseconds, in [`SLICES`] parts.
const WINDOW_NS: u64 = 1_000_000_000;
const SLICES: usize = 10;
/// Of fewer faults than these no rate is told.
const FEWEST_FAULTS: u64 = 100;
/// More waits and holds that have fired than these are not remembered.
const FIRED_LIMIT: usize = 4096;

/// What may fire.
#[derive(Clone, Debug, PartialEq)]
enum Condition {
    /// A wait of more than so many nanoseconds.
    Wait(u64),
    /// A hold of more than so many nanoseconds.
    Hold(u64),
    /// A state that the lock cannot be in.
    Violation,
    /// More than so many of a hundred faults of user mode took the mmap_lock.
    FallbackRate(f64),
    /// An event that fits.
    Event(Filter),
}

/// One `--on`, or what `t` sets on the screen.
#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    /// As the user wrote it.
    text: String,
    condition: Condition,
}

impl Trigger {
    /// Understands `wait>10ms`, `hold>5ms`, `violation`, `fallback-rate>50%`, or a filter of events.
    ///
    /// # Errors
    /// When it is none of these; says what and where.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        Ok(Self {
            text: text.trim().to_owned(),
            condition: condition(text)?,
        })
    }

    /// What kind of event fires, if it is one.
    fn filter(&self) -> Option<&Filter> {
        match &self.condition {
            Condition::Event(filter) => Some(filter),
            _ => None,
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn condition(text: &str) -> Result<Condition, FilterError> {
    let tokens = tokens(text)?;
    let word = |at: usize| match tokens.get(at) {
        Some((_, Token::Word(word))) => Some(word.as_str()),
        _ => None,
    };
    let is_above = matches!(tokens.get(1), Some((_, Token::Compare(">" | ">="))));
    let wrong = |at: usize, message: String| FilterError { at, message };
    match (word(0), word(2)) {
        (Some("violation"), None) if tokens.len() == 1 => return Ok(Condition::Violation),
        (Some(name), Some(value)) if is_above && tokens.len() == 3 => {
            let of_value = |message| wrong(tokens[2].0, message);
            match name {
                "wait" => return duration(value).map(Condition::Wait).map_err(of_value),
                "hold" => return duration(value).map(Condition::Hold).map_err(of_value),
                "fallback-rate" => return share(value).map(Condition::FallbackRate).map_err(of_value),
                _ => {}
            }
        }
        _ => {}
    }
    for (at, (place, token)) in tokens.iter().enumerate() {
        let is_value = at > 0 && matches!(tokens[at - 1].1, Token::Compare(_));
        if let Token::Word(word) = token
            && !is_value
            && matches!(word.as_str(), "violation" | "fallback-rate")
        {
            let what = "violation and fallback-rate>50% each are a whole condition, with nothing beside it";
            return Err(wrong(*place, what.to_owned()));
        }
    }
    let filter: Filter = text.parse().map_err(|error: FilterError| {
        let message = error
            .message
            .replace("; there are comm", "; there are violation, fallback-rate, comm");
        wrong(error.at, message)
    })?;
    match filter.unfit_for_events() {
        Some(why) => Err(wrong(0, why)),
        None => Ok(Condition::Event(filter)),
    }
}

/// So many of a hundred.
fn share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.parse().ok());
    number
        .filter(|percent| (0.0..100.0).contains(percent))
        .ok_or_else(|| "a share should stand here, such as 50%".to_owned())
}

/// A wait or hold that has fired: thread, lock, since when.
type Key = (bool, u32, u8, u64);

/// Looks at every event for what the triggers are about.
#[derive(Clone, Debug)]
pub struct Triggers {
    triggers: Vec<Trigger>,
    checker: Option<Checker>,
    /// Places that events come from, if a trigger may ask.
    sites: Vec<SiteInfo>,
    violations: u64,
    fired: HashSet<Key>,
    next_look_ns: u64,
    faults: Faults,
    /// The trigger that the event at hand fits, and what is to be said.
    event: Option<(usize, String)>,
}

/// Faults of user mode, by how they ended, of the latest [`WINDOW_NS`].
#[derive(Clone, Debug, Default)]
struct Faults {
    /// Under the VMA lock, under the mmap_lock.
    slices: [[u64; 2]; SLICES],
    now: u64,
    /// Not to fire again before the rate has been below.
    above: Vec<bool>,
}

impl Triggers {
    /// For a stream that `info` tells about; the engine must keep notes.
    pub fn new(triggers: Vec<Trigger>, info: &SourceInfo) -> Self {
        let violation = |trigger: &Trigger| trigger.condition == Condition::Violation;
        let checker = triggers.iter().any(violation).then(|| Checker::new(info));
        Self {
            checker,
            ..Self::beside_checks(triggers, info)
        }
    }

    /// The same for who has checks of its own, to be shown by [`Self::after`].
    pub fn beside_checks(triggers: Vec<Trigger>, info: &SourceInfo) -> Self {
        let asks = triggers.iter().any(|trigger| trigger.filter().is_some());
        Self {
            checker: None,
            sites: if asks { info.sites.clone() } else { Vec::new() },
            violations: 0,
            fired: HashSet::new(),
            next_look_ns: 0,
            faults: Faults {
                above: vec![false; triggers.len()],
                ..Faults::default()
            },
            triggers,
            event: None,
        }
    }

    /// Takes one event into the engine; gives the first trigger that it makes come true.
    pub fn apply(&mut self, engine: &mut Engine, event: &Event) -> Option<Fired> {
        let mut checker = self.checker.take();
        let wait_ns = self.wait_ended_by(engine, event);
        let mut each = |event: &Event, meta: &Meta| {
            if self.filters_events() {
                let wait_ns = wait_ns.filter(|_| !meta.derived);
                let facts = EventFacts {
                    wait_ns,
                    ..EventFacts::new(event, meta, &[])
                };
                self.event(&facts);
            }
        };
        match &mut checker {
            Some(checker) => checker.apply(engine, event, &mut each),
            None => engine.apply(event, &mut each),
        }
        let fired = self.after(engine, checker.as_ref().map(Checker::violations), event);
        self.checker = checker;
        fired
    }

    /// Forgets what had come true before.
    pub fn begin(&mut self, violations: Option<&Violations>) {
        self.violations = violations.map_or(0, Violations::total);
    }

    /// The triggers.
    pub fn all(&self) -> &[Trigger] {
        &self.triggers
    }

    /// Whether single events are looked at.
    pub fn filters_events(&self) -> bool {
        self.triggers.iter().any(|trigger| trigger.filter().is_some())
    }

    fn wait_ended_by(&self, engine: &Engine, event: &Event) -> Option<u64> {
        let wait = self.filters_events().then(|| ending_wait(engine, event))??;
        Some(event.header.ts_ns.saturating_sub(wait.since_ns))
    }

    /// Looks at one event that the engine hands on, derived ones included.
    pub fn event(&mut self, facts: &EventFacts<'_>) {
        if self.event.is_some() {
            return;
        }
        let facts = EventFacts {
            sites: &self.sites,
            ..*facts
        };
        let fits = |trigger: &Trigger| trigger.filter().is_some_and(|filter| filter.fits(&facts));
        if let Some(at) = self.triggers.iter().position(fits) {
            let event = facts.event;
            let who = format!("{} ({})", comm(&event.header.comm), event.header.tid);
            self.event = Some((at, format!("{} of {who}", event.kind.name())));
        }
    }

    /// The first trigger that an event made come true, which the engine has taken in.
    pub fn after(
        &mut self,
        engine: &Engine,
        violations: Option<&Violations>,
        event: &Event,
    ) -> Option<Fired> {
        let now_ns = event.header.ts_ns;
        let mut fired = self.event.take().map(|(at, what)| Fired {
            trigger: self.triggers[at].text.clone(),
            ts_ns: now_ns,
            pid: event.header.pid,
            tid: event.header.tid,
            comm: comm(&event.header.comm),
            what,
            ..Fired::default()
        });
        for note in engine.notes() {
            let found = match *note {
                Note::Span(span) => self.span(engine, &span, now_ns),
                Note::Round(round) if round.user => {
                    match round.end {
                        RoundEnd::VmaLock => self.faults.count(now_ns, 0),
                        RoundEnd::Retried | RoundEnd::MmapLock => self.faults.count(now_ns, 1),
                        RoundEnd::Error | RoundEnd::SentBack => {}
                    }
                    self.rate(event)
                }
                _ => None,
            };
            fired = fired.or(found);
        }
        if let Some(violations) = violations {
            fired = fired.or(self.violation(violations, event));
        }
        if now_ns >= self.next_look_ns {
            fired = fired.or_else(|| self.look(engine, now_ns));
        }
        fired
    }

    /// Looks at what goes on at that time, which no event that is still to come is before.
    pub fn look(&mut self, engine: &Engine, now_ns: u64) -> Option<Fired> {
        if now_ns < self.next_look_ns {
            return None;
        }
        self.next_look_ns = now_ns + LOOK_NS;
        let is_timed =
            |trigger: &Trigger| matches!(trigger.condition, Condition::Wait(_) | Condition::Hold(_));
        if !self.triggers.iter().any(is_timed) {
            return None;
        }
        let mut found = None;
        for view in engine.tasks() {
            let task = view.task();
            let waits = view
                .waits()
                .map(|wait| (true, wait.lock, wait.since_ns, wait.certainty));
            let holds = view
                .holds()
                .take_while(|hold| hold.lock != Lock::VmaWrite)
                .map(|hold| (false, hold.lock, hold.since_ns, hold.certainty));
            for (is_wait, lock, since_ns, certainty) in waits.chain(holds) {
                let ns = now_ns.saturating_sub(since_ns);
                // What a gap has made doubtful may be over for long.
                if certainty == Provenance::Unknown {
                    continue;
                }
                let Some(trigger) = self.too_long(is_wait, ns) else {
                    continue;
                };
                let key = (is_wait, task.tid, lock as u8, since_ns);
                if !self.fired.contains(&key) && found.as_ref().is_none_or(|&(_, _, longest)| ns > longest) {
                    let by = By {
                        pid: task.pid,
                        tid: task.tid,
                        comm: comm(&task.comm),
                    };
                    found = Some((key, fired(trigger, by, now_ns, is_wait, lock, ns, true), ns));
                }
            }
        }
        let (key, fired, _) = found?;
        self.remember(key);
        Some(fired)
    }

    /// The first trigger that so long a wait or hold makes come true.
    fn too_long(&self, is_wait: bool, ns: u64) -> Option<&Trigger> {
        self.triggers.iter().find(|trigger| match trigger.condition {
            Condition::Wait(limit) => is_wait && ns > limit,
            Condition::Hold(limit) => !is_wait && ns > limit,
            Condition::Violation | Condition::FallbackRate(_) | Condition::Event(_) => false,
        })
    }

    fn remember(&mut self, key: Key) {
        if self.fired.len() >= FIRED_LIMIT {
            self.fired.clear();
        }
        self.fired.insert(key);
    }

    /// A wait or hold that has just ended.
    fn span(&mut self, engine: &Engine, span: &crate::state::Span, now_ns: u64) -> Option<Fired> {
        let is_wait = span.what != What::Hold;
        let ns = span.ns?;
        if span.lock == Lock::VmaWrite && !is_wait {
            return None;
        }
        let trigger = self.too_long(is_wait, ns)?;
        let key = (is_wait, span.who.tid, span.lock as u8, span.since_ns);
        if self.fired.contains(&key) {
            return None;
        }
        let name = engine
            .tasks()
            .find(|view| view.task().tid == span.who.tid)
            .map(|view| comm(&view.task().comm));
        let by = By {
            pid: span.who.pid,
            tid: span.who.tid,
            comm: name.unwrap_or_default(),
        };
        let fired = fired(trigger, by, now_ns, is_wait, span.lock, ns, false);
        self.remember(key);
        Some(fired)
    }

    fn rate(&mut self, event: &Event) -> Option<Fired> {
        let (percent, all) = self.faults.percent()?;
        for (at, trigger) in self.triggers.iter().enumerate() {
            let Condition::FallbackRate(limit) = trigger.condition else {
                continue;
            };
            let was_above = std::mem::replace(&mut self.faults.above[at], percent > limit);
            if percent > limit && !was_above {
                return Some(Fired {
                    trigger: trigger.text.clone(),
                    ts_ns: event.header.ts_ns,
                    what: format!("{percent:.1} % of {all} faults within a second took the mmap_lock"),
                    ..Fired::default()
                });
            }
        }
        None
    }

    fn violation(&mut self, violations: &Violations, event: &Event) -> Option<Fired> {
        let count = violations.total();
        // A gap that shows late takes some back.
        if std::mem::replace(&mut self.violations, count) >= count {
            return None;
        }
        let trigger = self
            .triggers
            .iter()
            .find(|trigger| trigger.condition == Condition::Violation)?;
        let kept = violations.kept();
        let newest = kept.last().filter(|_| kept.len() as u64 == count);
        let event = newest.map_or(event, |violation| &violation.event);
        let what = match newest {
            Some(violation) => format!(
                "{}: {} ({}) read vm_refcnt {:#x}, vm_lock_seq {}, mm_lock_seq {}",
                violation.kind.name(),
                comm(&event.header.comm),
                event.header.tid,
                event.body.vm_refcnt,
                event.body.vm_lock_seq,
                event.body.mm_lock_seq
            ),
            None => "the lock was in a state that it cannot be in".to_owned(),
        };
        Some(Fired {
            trigger: trigger.text.clone(),
            ts_ns: event.header.ts_ns,
            pid: event.header.pid,
            tid: event.header.tid,
            comm: comm(&event.header.comm),
            what,
            ..Fired::default()
        })
    }

    /// What is lost was asked for; `missed`: the kernel skipped runs of probes since the last time.
    pub fn losses(&mut self, engine: &mut Engine, missed: bool) {
        match &mut self.checker {
            Some(checker) => checker.losses(engine, missed),
            None if missed => engine.forget(),
            None => {}
        }
    }
}

/// Whose wait or hold it is.
struct By {
    pid: u32,
    tid: u32,
    comm: String,
}

fn fired(trigger: &Trigger, by: By, ts_ns: u64, is_wait: bool, lock: Lock, ns: u64, ongoing: bool) -> Fired {
    let By { pid, tid, comm } = by;
    let what = match (is_wait, ongoing) {
        (true, true) => "has been waiting for",
        (true, false) => "waited for",
        (false, true) => "has been holding",
        (false, false) => "held",
    };
    let length = crate::sink::text::duration(ns);
    Fired {
        what: format!("{comm} ({tid}) {what} {} for {length}", lock.name()),
        trigger: trigger.text.clone(),
        ts_ns,
        pid,
        tid,
        comm,
        lock: lock.name().to_owned(),
        length_ns: ns,
        ongoing,
    }
}

fn comm(raw: &[u8]) -> String {
    outside::name(raw).into_owned()
}

impl Faults {
    fn count(&mut self, ts_ns: u64, way: usize) {
        let slice = ts_ns / (WINDOW_NS / SLICES as u64);
        // Slices that nothing happened in are empty.
        for _ in self.now..slice.min(self.now + SLICES as u64) {
            self.now += 1;
            self.slices[self.now as usize % SLICES] = [0; 2];
        }
        self.now = self.now.max(slice);
        self.slices[self.now as usize % SLICES][way] += 1;
    }

    /// How many of a hundred took the mmap_lock, and of how many faults.
    fn percent(&self) -> Option<(f64, u64)> {
        let [vma, mmap] = self
            .slices
            .iter()
            .fold([0, 0], |[vma, mmap], slice| [vma + slice[0], mmap + slice[1]]);
        let all = vma + mmap;
        (all >= FEWEST_FAULTS).then(|| (100.0 * mmap as f64 / all as f64, all))
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::wire::{Kind, flag};

    use super::*;

    const MS: u64 = 1_000_000;

    fn triggers(texts: &[&str]) -> (Triggers, Engine) {
        let info = SourceInfo::default();
        let all = texts.iter().map(|text| Trigger::parse(text).unwrap()).collect();
        let mut engine = Engine::new(&info);
        engine.keep_notes();
        (Triggers::new(all, &info), engine)
    }

    fn event(kind: Kind, ms: u64, tid: u32, write: bool) -> Event {
        let mut event = Event::synthetic(kind, ms * MS);
        event.header.flags = flag::MM | if write { flag::WRITE } else { 0 };
        (event.header.pid, event.header.tid, event.body.mm) = (7, tid, 0x1000);
        event.header.comm[..4].copy_from_slice(b"who\0");
        event
    }

    #[test]
    fn triggers_are_understood_and_others_refused() {
        for good in [
            "wait>10ms",
            "hold >= 5us",
            "violation",
            "fallback-rate>50%",
            "wait>10ms || hold>5ms",
            "comm=post* && wait>1ms",
            "kind=vma_read_fail reason=write_locked",
            "comm=violation",
        ] {
            assert_eq!(Trigger::parse(good).unwrap().to_string(), good);
        }
        for (bad, what) in [
            ("wait", "needs a field"),
            ("wait>10", "ms"),
            ("hold>50%", "1ms"),
            ("violation>1", "whole condition"),
            ("violation && pid=1", "whole condition"),
            ("violations", "needs a field"),
            ("fallback-rate>10ms", "a share"),
            ("fallback-rate>100%", "a share"),
            ("latency>10ms", "there are violation, fallback-rate, comm"),
            ("faults>10", "no event has it"),
            ("", "missing"),
        ] {
            let error = Trigger::parse(bad).unwrap_err().to_string();
            assert!(error.contains(what), "{bad}: {error}");
        }
    }

    #[test]
    fn a_wait_fires_at_its_end() {
        let (mut triggers, mut engine) = triggers(&["wait>10ms"]);
        assert_eq!(
            triggers.apply(&mut engine, &event(Kind::MmapStart, 1, 5, true)),
            None
        );
        let fired = triggers
            .apply(&mut engine, &event(Kind::MmapAcquire, 13, 5, true))
            .unwrap();
        assert_eq!((fired.tid, fired.length_ns, fired.ongoing), (5, 12 * MS, false));
        assert_eq!(fired.what, "who (5) waited for mmap_write for 12.0 ms");
    }

    #[test]
    fn an_event_that_fits_fires() {
        let (mut triggers, mut engine) = triggers(&["comm=who && wait>10ms && kind=mmap_acquire"]);
        for (ms, kind, fires) in [
            (1, Kind::MmapStart, false),
            (2, Kind::MmapAcquire, false),
            (3, Kind::MmapRelease, false),
            (4, Kind::MmapStart, false),
            (20, Kind::MmapAcquire, true),
            (21, Kind::MmapRelease, false),
        ] {
            let fired = triggers.apply(&mut engine, &event(kind, ms, 5, true));
            assert_eq!(fired.is_some(), fires, "{ms} {fired:?}");
            if let Some(fired) = fired {
                assert_eq!(fired.what, "mmap_acquire of who (5)");
            }
        }
    }

    #[test]
    fn a_wait_that_never_ends_fires_while_it_goes_on_and_once() {
        let (mut triggers, mut engine) = triggers(&["wait>10ms"]);
        assert_eq!(
            triggers.apply(&mut engine, &event(Kind::MmapStart, 1, 5, false)),
            None
        );
        assert_eq!(triggers.look(&engine, 11 * MS), None);
        let fired = triggers.look(&engine, 14 * MS).unwrap();
        assert!(fired.ongoing && fired.lock == "mmap_read", "{fired:?}");
        assert_eq!(triggers.look(&engine, 20 * MS), None);
        assert_eq!(
            triggers.apply(&mut engine, &event(Kind::MmapAcquire, 30, 5, false)),
            None
        );
    }

    #[test]
    fn another_tasks_event_is_enough_to_see_it() {
        let (mut triggers, mut engine) = triggers(&["hold>10ms"]);
        triggers.apply(&mut engine, &event(Kind::MmapAcquire, 1, 5, true));
        assert_eq!(
            triggers.apply(&mut engine, &event(Kind::MmapStart, 5, 6, false)),
            None
        );
        let fired = triggers
            .apply(&mut engine, &event(Kind::MmapFail, 20, 6, false))
            .unwrap();
        assert_eq!((fired.tid, fired.lock.as_str()), (5, "mmap_write"));
    }

    #[test]
    fn what_a_gap_made_doubtful_fires_not() {
        let (mut triggers, mut engine) = triggers(&["hold>10ms"]);
        triggers.apply(&mut engine, &event(Kind::MmapAcquire, 1, 5, true));
        triggers.apply(&mut engine, &Event::synthetic(Kind::Gap, 2 * MS));
        assert_eq!(triggers.look(&engine, 50 * MS), None);
    }

    #[test]
    fn the_rate_of_falling_back_is_that_of_a_second() {
        let mut faults = Faults::default();
        for ms in 0..200 {
            faults.count(ms * MS, 0);
        }
        assert_eq!(faults.percent(), Some((0.0, 200)));
        for ms in 500..700 {
            faults.count(ms * MS, 1);
        }
        assert_eq!(faults.percent(), Some((50.0, 400)));
        faults.count(1450 * MS, 1);
        assert_eq!(faults.percent(), Some((100.0, 201)));
        faults.count(9000 * MS, 1);
        assert_eq!(faults.percent(), None);
    }
}
