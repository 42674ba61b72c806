//! Visits every state that can be reached, nearest first, so that the first mistake found has the
//! shortest schedule.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::machine::{settle, step};
use super::memory::Memory;
use super::scenario::Scenario;
use super::state::{Effects, State, Violation};

/// Set by ^C: searches stop and say that they are incomplete.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// One step of a schedule: which task, and which of a load's possible results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The task.
    pub who: usize,
    /// Number of the result; 0 is the newest value.
    pub pick: usize,
}

/// Why a search ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All states were visited.
    Complete,
    /// Something that must not be, after this schedule.
    Violated(Violation, Vec<Move>),
    /// What was looked for, after this schedule.
    Reached(Vec<Move>),
    /// ^C.
    Interrupted,
    /// More states than allowed.
    TooMany,
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Why it ended.
    pub ending: Ending,
    /// States visited.
    pub states: u64,
    /// Steps tried.
    pub steps: u64,
    /// Length of the longest shortest schedule.
    pub depth: u32,
    /// Time taken.
    pub time: Duration,
}

impl Outcome {
    /// Did it visit everything and find nothing wrong?
    pub fn proved(&self) -> bool {
        self.ending == Ending::Complete
    }
}

/// A state that is looked at, and how it was reached.
pub struct Visit<'a, M> {
    /// The state.
    pub state: &'a State<M>,
    /// Its number, for [`Search::schedule`].
    pub number: u32,
}

/// 128 bits of fingerprint instead of the state: for 10^8 states the chance that any two share one
/// is below 10^-22.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Fingerprint(u64, u64);

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.0);
    }
}

#[derive(Default)]
struct Passed(u64);

impl Hasher for Passed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// Two lanes of folded multiplication.
struct Lanes(u64, u64);

impl Lanes {
    #[inline]
    fn mix(&mut self, word: u64) {
        let fold = |a: u64, b: u64| {
            let wide = u128::from(a) * u128::from(b);
            wide as u64 ^ (wide >> 64) as u64
        };
        self.0 = fold(self.0 ^ word, 0x9e37_79b9_7f4a_7c15);
        self.1 = fold(
            self.1.rotate_left(23) ^ word ^ 0x5851_f42d_4c95_7f2d,
            0xd6e8_feb8_6659_fd93,
        );
    }
}

impl Hasher for Lanes {
    fn finish(&self) -> u64 {
        self.0
    }
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word) ^ (chunk.len() as u64) << 56);
        }
    }
    #[inline]
    fn write_u8(&mut self, value: u8) {
        self.mix(u64::from(value));
    }
    #[inline]
    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value));
    }
    #[inline]
    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }
    #[inline]
    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }
    #[inline]
    fn write_isize(&mut self, value: isize) {
        self.mix(value as u64);
    }
}

fn fingerprint<T: Hash>(value: &T) -> Fingerprint {
    let mut lanes = Lanes(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344);
    value.hash(&mut lanes);
    lanes.mix(0);
    Fingerprint(lanes.0, lanes.1)
}

type Seen = HashMap<Fingerprint, u32, BuildHasherDefault<Passed>>;

/// A breadth-first search through one scenario.
pub struct Search<'a, M> {
    scenario: &'a Scenario,
    /// Tasks that may be exchanged for one another: equal number, equal group.
    groups: Vec<Vec<usize>>,
    seen: Seen,
    /// For each state, the one it was reached from.
    parents: Vec<u32>,
    queue: VecDeque<(u32, u32, State<M>)>,
    /// Give up beyond so many states.
    pub limit: u64,
}

impl<'a, M: Memory> Search<'a, M> {
    /// A search that has visited nothing. With `symmetry`, states that differ only in which of some
    /// equal readers is where count as one.
    pub fn new(scenario: &'a Scenario, symmetry: bool) -> Self {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        if symmetry && !M::WEAK && scenario.rules.family != tracer_common::lock::Family::Rwsem {
            for (n, role) in scenario.roles.iter().enumerate() {
                let program = |m: usize| &scenario.roles[m].program;
                match groups
                    .iter_mut()
                    .find(|g| role.interchangeable() && *program(g[0]) == role.program)
                {
                    Some(group) => group.push(n),
                    None => groups.push(vec![n]),
                }
            }
            groups.retain(|g| g.len() > 1);
        }
        Self {
            scenario,
            groups,
            seen: Seen::default(),
            parents: Vec::new(),
            queue: VecDeque::new(),
            limit: u64::MAX,
        }
    }

    /// Are there tasks that count as interchangeable?
    pub fn symmetric(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Brings interchangeable tasks into one order. They are told apart by nothing but their place:
    /// no word of shared memory ever names them.
    fn canonical(&self, state: &mut State<M>) {
        for group in &self.groups {
            let mut members: Vec<_> = group.iter().map(|&n| state.tasks[n]).collect();
            for member in &mut members {
                member.task.id.0 = 0;
            }
            members.sort_by_key(|t| fingerprint(t).0);
            for (&place, mut member) in group.iter().zip(members) {
                member.task.id.0 = place as u32;
                state.tasks[place] = member;
            }
        }
    }

    fn initial(&self) -> State<M> {
        let mut state = self.scenario.initial();
        for who in 0..usize::from(state.count) {
            settle(&mut state, &self.scenario.roles, who);
        }
        state
    }

    /// Visits all states. `goal` is shown each one once and ends the search by returning true.
    pub fn run(&mut self, mut goal: impl FnMut(Visit<'_, M>) -> bool) -> Outcome {
        let begun = Instant::now();
        let (mut steps, mut depth) = (0_u64, 0);
        let mut first = self.initial();
        self.canonical(&mut first);
        self.seen.insert(fingerprint(&first), 0);
        self.parents.push(u32::MAX);
        let mut ending = Ending::Complete;
        if goal(Visit {
            state: &first,
            number: 0,
        }) {
            ending = Ending::Reached(Vec::new());
        }
        self.queue.push_back((0, 0, first));

        'search: while let Some((number, level, state)) = self.queue.pop_front() {
            if ending != Ending::Complete {
                break;
            }
            depth = depth.max(level);
            let mut stuck = true;
            for who in 0..usize::from(state.count) {
                if !state.enabled(who) {
                    continue;
                }
                stuck = false;
                let mut pick = 0;
                loop {
                    let mut next = state.clone();
                    let mut effects = Effects::default();
                    effects.choice.pick = pick;
                    step(
                        &mut next,
                        &self.scenario.rules,
                        &self.scenario.roles,
                        who,
                        &mut effects,
                    );
                    steps += 1;
                    if let Some(violation) = effects.violation {
                        let mut moves = self.schedule(number);
                        moves.push(Move { who, pick });
                        ending = Ending::Violated(violation, moves);
                        break 'search;
                    }
                    self.canonical(&mut next);
                    let new_number = self.parents.len() as u32;
                    let print = fingerprint(&next);
                    if *self.seen.entry(print).or_insert(new_number) == new_number {
                        self.parents.push(number);
                        if goal(Visit {
                            state: &next,
                            number: new_number,
                        }) {
                            ending = Ending::Reached(self.schedule(new_number));
                            break 'search;
                        }
                        self.queue.push_back((new_number, level + 1, next));
                    }
                    pick += 1;
                    if pick >= effects.choice.count {
                        break;
                    }
                }
            }
            if stuck && let Err(violation) = state.check_end(&self.scenario.rules) {
                ending = Ending::Violated(violation, self.schedule(number));
                break;
            }
            if self.parents.len() as u64 > self.limit {
                ending = Ending::TooMany;
                break;
            }
            if number % 1024 == 0 && INTERRUPTED.load(Ordering::Relaxed) {
                ending = Ending::Interrupted;
                break;
            }
        }
        let states = self.parents.len() as u64;
        Outcome {
            ending,
            states,
            steps,
            depth,
            time: begun.elapsed(),
        }
    }

    /// The moves that lead to a state: found again by walking from the start and comparing
    /// fingerprints, since the search keeps no moves. Without symmetry the moves can be replayed.
    pub fn schedule(&self, number: u32) -> Vec<Move> {
        let mut path = vec![number];
        while let Some(&parent) = self.parents.get(path[path.len() - 1] as usize)
            && parent != u32::MAX
        {
            path.push(parent);
        }
        path.reverse();
        let mut state = self.initial();
        self.canonical(&mut state);
        let mut moves = Vec::new();
        for &wanted in &path[1..] {
            let (next, made) = self.find_move(&state, wanted);
            state = next;
            moves.push(made);
        }
        moves
    }

    fn find_move(&self, state: &State<M>, wanted: u32) -> (State<M>, Move) {
        for who in (0..usize::from(state.count)).filter(|&who| state.enabled(who)) {
            let mut pick = 0;
            loop {
                let mut next = state.clone();
                let mut effects = Effects::default();
                effects.choice.pick = pick;
                step(
                    &mut next,
                    &self.scenario.rules,
                    &self.scenario.roles,
                    who,
                    &mut effects,
                );
                self.canonical(&mut next);
                if self.seen.get(&fingerprint(&next)) == Some(&wanted) {
                    return (next, Move { who, pick });
                }
                pick += 1;
                if pick >= effects.choice.count {
                    break;
                }
            }
        }
        unreachable!("a visited state was reached by some move of its parent")
    }
}
