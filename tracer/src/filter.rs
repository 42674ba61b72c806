//! The language of conditions, the same on the screen and on the command line: `comm=post* && wait>1ms`.
//!
//! Filters and searches of the screen are in it, and what [`crate::trigger`] fires at. `docs/tui.md` has it for users. A filter is parsed once; asking it costs no memory. What is asked has [`Facts`]:
//! for each field no value, one, or several, of which one has to fit. `a!=b` is the contrary of `a=b`, so it also fits
//! what has no such field at all.

pub(crate) mod parse;

use core::fmt;

use tracer_common::wire::{Event, Kind, Provenance, Reason};

use crate::contention::chains::Doing;
use crate::info::SiteInfo;
use crate::state::{Engine, Lock, Meta, Wait};

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// Command name.
    Comm,
    /// Process.
    Pid,
    /// Thread.
    Tid,
    /// CPU.
    Cpu,
    /// Kind of event.
    Kind,
    /// Lock that is held, awaited, or that an event is about.
    Lock,
    /// How long something waits or waited.
    Wait,
    /// How long something is or was held.
    Hold,
    /// A VMA, by an address in it or by that of its structure.
    Vma,
    /// An address space, by the address of its structure.
    Mm,
    /// An address that was looked for.
    Addr,
    /// `vm_refcnt`.
    Refcnt,
    /// Why a lock was not to be had.
    Reason,
    /// The function or place in the kernel.
    Site,
    /// How surely it is known.
    Known,
    /// Number of events.
    Events,
    /// Number of page faults.
    Faults,
    /// What a task does with its processor.
    Run,
}

/// What values a field has, and so what can be asked of it.
#[derive(Clone, Copy, Debug)]
pub enum Type {
    /// A name; `*` and `?` stand for any characters.
    Text,
    /// One of some names.
    Name(fn() -> Vec<&'static str>),
    /// A number.
    Number,
    /// A time with its unit.
    Duration,
    /// A hexadecimal address, or a range of them.
    Address,
}

impl Field {
    /// All fields, in the order of the documents.
    pub const ALL: [Self; 18] = [
        Self::Comm,
        Self::Pid,
        Self::Tid,
        Self::Cpu,
        Self::Kind,
        Self::Lock,
        Self::Wait,
        Self::Hold,
        Self::Vma,
        Self::Mm,
        Self::Addr,
        Self::Refcnt,
        Self::Reason,
        Self::Site,
        Self::Known,
        Self::Events,
        Self::Faults,
        Self::Run,
    ];

    /// Its name in the language.
    pub const fn name(self) -> &'static str {
        self.about().0
    }

    /// What it is, in a few words.
    pub const fn help(self) -> &'static str {
        self.about().2
    }

    /// What values it has.
    pub const fn value_type(self) -> Type {
        self.about().1
    }

    const fn about(self) -> (&'static str, Type, &'static str) {
        match self {
            Self::Comm => ("comm", Type::Text, "command name of the task"),
            Self::Pid => ("pid", Type::Number, "process"),
            Self::Tid => ("tid", Type::Number, "thread"),
            Self::Cpu => ("cpu", Type::Number, "CPU of an event"),
            Self::Kind => ("kind", Type::Name(kinds), "kind of an event"),
            Self::Lock => (
                "lock",
                Type::Name(locks),
                "a lock that is held, awaited or spoken of",
            ),
            Self::Wait => (
                "wait",
                Type::Duration,
                "how long it waits, or the wait that an event ended",
            ),
            Self::Hold => (
                "hold",
                Type::Duration,
                "how long it is held, or the hold that an event ended",
            ),
            Self::Vma => (
                "vma",
                Type::Address,
                "a VMA, by an address in it, or by its vm_area_struct",
            ),
            Self::Mm => ("mm", Type::Address, "an address space, by its mm_struct"),
            Self::Addr => ("addr", Type::Address, "the address that was looked for"),
            Self::Refcnt => ("refcnt", Type::Number, "vm_refcnt"),
            Self::Reason => ("reason", Type::Name(reasons), "why a lock was not to be had"),
            Self::Site => ("site", Type::Text, "function or place in the kernel"),
            Self::Known => ("known", Type::Name(provenances), "how surely it is known"),
            Self::Events => ("events", Type::Number, "events of a task or VMA so far"),
            Self::Faults => ("faults", Type::Number, "page faults of a task or VMA so far"),
            Self::Run => (
                "run",
                Type::Name(doings),
                "whether a task runs, could run, or sleeps, and what for",
            ),
        }
    }
}

fn kinds() -> Vec<&'static str> {
    Kind::ALL.iter().map(|kind| kind.name()).collect()
}

fn locks() -> Vec<&'static str> {
    Lock::ALL.iter().map(|lock| lock.name()).collect()
}

fn reasons() -> Vec<&'static str> {
    Reason::ALL.iter().map(|reason| reason.name()).collect()
}

fn doings() -> Vec<&'static str> {
    Doing::OF_RUN.iter().map(|doing| doing.name()).collect()
}

fn provenances() -> Vec<&'static str> {
    (0..4).map(|bits| Provenance::from_bits(bits).name()).collect()
}

/// A value of something that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A name, raw.
    Text(&'a [u8]),
    /// A number, an address, or a time in nanoseconds.
    Number(u64),
    /// From the first address to before the second.
    Range(u64, u64),
}

/// What can be asked.
pub trait Facts {
    /// Calls `test` with the values of a field until it says yes; whether it did.
    fn any(&self, field: Field, test: &mut dyn FnMut(Value<'_>) -> bool) -> bool;
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Contains,
    Within,
}

/// What a value is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Text(Vec<u8>),
    Number(u64),
    Range(u64, u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Is(Field, Compare, Wanted),
    /// A word by itself.
    Word(Vec<u8>, Option<u64>),
}

/// A filter, ready to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    text: String,
    root: Node,
}

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    /// Where, in characters from 0.
    pub at: usize,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "character {}: {}", self.at + 1, self.message)
    }
}

impl std::error::Error for FilterError {}

impl FilterError {
    /// For a command line: what is wrong, then the text with a mark below the place.
    pub fn pointing_at(&self, text: &str) -> String {
        format!("{}\n  {text}\n  {}^", self.message, " ".repeat(self.at))
    }
}

impl core::str::FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Ok(Self {
            text: text.trim().to_owned(),
            root: parse::parse(text)?,
        })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Filter {
    /// Whether it lets this through.
    pub fn fits(&self, facts: &impl Facts) -> bool {
        fits(&self.root, facts)
    }

    /// The same, the other way round.
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self {
            text: format!("!({})", self.text),
            root: Node::Not(Box::new(self.root.clone())),
        }
    }

    /// Why no event can ever fit, or what makes it unlikely that this was meant; `None`: it can be waited for.
    pub(crate) fn unfit_for_events(&self) -> Option<String> {
        let mut nodes = vec![&self.root];
        while let Some(node) = nodes.pop() {
            match node {
                Node::All(more) | Node::Any(more) => nodes.extend(more),
                Node::Not(node) => nodes.push(node),
                Node::Is(field @ (Field::Events | Field::Faults | Field::Run), ..) => {
                    let name = field.name();
                    return Some(format!("{name} is of tasks and VMAs: no event has it"));
                }
                Node::Is(..) => {}
                Node::Word(word, _) => {
                    let word = String::from_utf8_lossy(word);
                    return Some(format!(
                        "'{word}' needs a field, such as comm~{word} or kind={word}"
                    ));
                }
            }
        }
        None
    }

    /// For one thread.
    pub fn of_task(tid: u32) -> Self {
        Self {
            text: format!("tid={tid}"),
            root: Node::Is(Field::Tid, Compare::Equal, Wanted::Number(u64::from(tid))),
        }
    }

    /// For one VMA, by the address of its structure.
    pub fn of_vma(address: u64) -> Self {
        Self {
            text: format!("vma={address:x}"),
            root: Node::Is(Field::Vma, Compare::Equal, Wanted::Number(address)),
        }
    }
}

fn fits(node: &Node, facts: &impl Facts) -> bool {
    match node {
        Node::All(nodes) => nodes.iter().all(|node| fits(node, facts)),
        Node::Any(nodes) => nodes.iter().any(|node| fits(node, facts)),
        Node::Not(node) => !fits(node, facts),
        Node::Is(field, compare, wanted) => facts.any(*field, &mut |value| compares(value, *compare, wanted)),
        Node::Word(word, number) => {
            let contains = |value: Value<'_>| matches!(value, Value::Text(text) if contains(text, word));
            let names = [Field::Comm, Field::Kind, Field::Lock, Field::Site, Field::Reason];
            names.iter().any(|&field| facts.any(field, &mut { contains }))
                || number.is_some_and(|number| {
                    let equal = |value: Value<'_>| value == Value::Number(number);
                    facts.any(Field::Tid, &mut { equal }) || facts.any(Field::Pid, &mut { equal })
                })
        }
    }
}

fn compares(value: Value<'_>, compare: Compare, wanted: &Wanted) -> bool {
    match (value, wanted) {
        (Value::Text(text), Wanted::Text(wanted)) => match compare {
            Compare::Contains => contains(text, wanted),
            _ => glob(wanted, text),
        },
        (Value::Number(value), Wanted::Number(wanted)) => match compare {
            Compare::Less => value < *wanted,
            Compare::LessOrEqual => value <= *wanted,
            Compare::Greater => value > *wanted,
            Compare::GreaterOrEqual => value >= *wanted,
            Compare::Equal | Compare::Contains | Compare::Within => value == *wanted,
        },
        (Value::Number(value), Wanted::Range(start, end)) => (*start..*end).contains(&value),
        (Value::Range(start, end), Wanted::Number(wanted)) => (start..end).contains(wanted),
        (Value::Range(start, end), Wanted::Range(from, to)) => start < *to && end > *from,
        _ => false,
    }
}

/// Whether a text contains another one, ASCII letters being alike in both cases.
fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty()
        || text
            .windows(part.len())
            .any(|window| window.eq_ignore_ascii_case(part))
}

/// Whether a pattern with `*` and `?` stands for a text.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                (p, t) = (at + 1, from + 1);
            }
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// The lock that an event is about, if it is about one.
pub fn lock_of(event: &Event) -> Option<Lock> {
    match event.kind {
        Kind::MmapStart | Kind::MmapAcquire | Kind::MmapFail | Kind::MmapRelease => {
            Some(Lock::mmap(event.is_write()))
        }
        Kind::MmapDowngrade => Some(Lock::MmapRead),
        Kind::VmaReadAcquire
        | Kind::VmaReadFail
        | Kind::VmaReadRelease
        | Kind::VmaReadRefused
        | Kind::VmaReadTemporary => Some(Lock::VmaRead),
        Kind::VmaWriteStart | Kind::VmaWriteAcquire | Kind::VmaWriteFail | Kind::VmaDetach => {
            Some(Lock::VmaWrite)
        }
        _ => None,
    }
}

/// The wait that an event is about to end; to be asked before the engine takes it in.
pub fn ending_wait(engine: &Engine, event: &Event) -> Option<Wait> {
    let ends = matches!(
        event.kind,
        Kind::MmapAcquire | Kind::MmapFail | Kind::VmaWriteAcquire | Kind::VmaWriteFail
    );
    if !ends {
        return None;
    }
    let vma = event.vma().unwrap_or(0);
    engine.task_at(event)?.waits().find(|wait| {
        let fits = if vma == 0 {
            wait.vma == 0 && event.mm() == Some(wait.mm)
        } else {
            wait.vma == vma
        };
        fits && wait.certainty != Provenance::Unknown
    })
}

/// An event with what the engine says of it.
#[derive(Clone, Copy, Debug)]
pub struct EventFacts<'a> {
    /// The event.
    pub event: &'a Event,
    /// How surely it is known.
    pub provenance: Provenance,
    /// The hold that it ended, in nanoseconds.
    pub hold_ns: Option<u64>,
    /// The wait that it ended, in nanoseconds.
    pub wait_ns: Option<u64>,
    /// The places that events come from.
    pub sites: &'a [SiteInfo],
}

impl<'a> EventFacts<'a> {
    /// As the engine hands them on.
    pub fn new(event: &'a Event, meta: &Meta, sites: &'a [SiteInfo]) -> Self {
        let known = meta.hold.filter(|start| start.provenance != Provenance::Unknown);
        Self {
            event,
            provenance: meta.provenance,
            hold_ns: known.map(|start| event.header.ts_ns.saturating_sub(start.since_ns)),
            wait_ns: None,
            sites,
        }
    }
}

impl Facts for EventFacts<'_> {
    fn any(&self, field: Field, test: &mut dyn FnMut(Value<'_>) -> bool) -> bool {
        let event = self.event;
        let header = &event.header;
        let mut number = |value: Option<u64>| value.is_some_and(|value| test(Value::Number(value)));
        match field {
            Field::Comm => test(Value::Text(event.comm())),
            Field::Pid => number(Some(u64::from(header.pid))),
            Field::Tid => number(Some(u64::from(header.tid))),
            Field::Cpu => number(Some(u64::from(header.cpu))),
            Field::Kind => test(Value::Text(event.kind.name().as_bytes())),
            Field::Lock => lock_of(event).is_some_and(|lock| test(Value::Text(lock.name().as_bytes()))),
            Field::Wait => number(self.wait_ns),
            Field::Hold => number(self.hold_ns),
            Field::Vma => {
                number(event.vma())
                    || event
                        .range()
                        .is_some_and(|(start, end)| test(Value::Range(start, end)))
            }
            Field::Mm => number(event.mm()),
            Field::Addr => number(event.address()),
            Field::Refcnt => number(event.vm_refcnt().map(u64::from)),
            Field::Reason => {
                let named = matches!(
                    event.kind,
                    Kind::VmaReadFail | Kind::VmaReadRefused | Kind::VmaReadTemporary
                );
                named && test(Value::Text(event.reason().name().as_bytes()))
            }
            Field::Site => self.sites.get(header.site as usize).is_some_and(|site| {
                test(Value::Text(site.function.as_bytes())) || test(Value::Text(site.place.as_bytes()))
            }),
            Field::Known => test(Value::Text(self.provenance.name().as_bytes())),
            Field::Events | Field::Faults | Field::Run => false,
        }
    }
}

#[cfg(test)]
mod tests;
