//! Two memories for the search: one that everybody sees alike, and one in which loads may be stale.

use std::hash::Hash;
use std::sync::atomic::Ordering;

use tracer_common::lock::{MmId, Slot, TaskId, VmaId, Word};

/// Largest numbers a scenario may use. Small, since a state is copied and hashed for every step.
pub const VMAS: usize = 2;
/// See [`VMAS`].
pub const MMS: usize = 2;
/// See [`VMAS`].
pub const SLOTS: usize = 2;
/// See [`VMAS`].
pub const TASKS: usize = 8;

const PER_VMA: usize = 9;
const PER_MM: usize = 4 + SLOTS;
const PER_TASK: usize = 2;
/// Words of shared memory in all.
pub const WORDS: usize = VMAS * PER_VMA + MMS * PER_MM + TASKS * PER_TASK;

/// The place of a word in memory.
pub fn index(at: Word) -> usize {
    let vma = |v: VmaId, n: usize| v.0 as usize * PER_VMA + n;
    let mm = |m: MmId, n: usize| VMAS * PER_VMA + m.0 as usize * PER_MM + n;
    let task = |t: TaskId, n: usize| VMAS * PER_VMA + MMS * PER_MM + t.0 as usize * PER_TASK + n;
    match at {
        Word::Refcnt(v) => vma(v, 0),
        Word::LockSeq(v) => vma(v, 1),
        Word::VmMm(v) => vma(v, 2),
        Word::Start(v) => vma(v, 3),
        Word::Data(v, n) => vma(v, 4 + usize::from(n)),
        Word::Pte(v) => vma(v, 6),
        Word::Rwsem(v) => vma(v, 7),
        Word::Detached(v) => vma(v, 8),
        Word::MmSeq(m) => mm(m, 0),
        Word::MmapLock(m) => mm(m, 1),
        Word::Waiter(m) => mm(m, 2),
        Word::MmCount(m) => mm(m, 3),
        Word::Tree(m, Slot(s)) => mm(m, 4 + s as usize),
        Word::TaskState(t) => task(t, 0),
        Word::Killed(t) => task(t, 1),
    }
}

/// Which of several possible results a step gets: the search asks for each in turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    /// Number of the wanted result; 0 is the newest value.
    pub pick: usize,
    /// Number of results there were, as found out by the step.
    pub count: usize,
}

/// What a load gave.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// The value.
    pub value: u32,
    /// A newer one existed.
    pub stale: bool,
}

/// A memory model, by value.
pub trait Memory: Clone + Eq + Hash + Send {
    /// Its name in tables.
    const NAME: &'static str;
    /// Can loads be stale?
    const WEAK: bool;
    /// A memory with these contents, known to all tasks.
    fn new(words: [u32; WORDS], tasks: usize) -> Self;
    /// Loads.
    fn load(&mut self, task: usize, at: usize, order: Ordering, choice: &mut Choice) -> Loaded;
    /// Stores.
    fn store(&mut self, task: usize, at: usize, value: u32, order: Ordering);
    /// Replaces the newest value by a function of it, if it gives one; returns the newest value.
    /// `order` has what a success orders, and what a failure does.
    fn rmw(
        &mut self,
        task: usize,
        at: usize,
        order: (Ordering, Ordering),
        f: &mut dyn FnMut(u32) -> Option<u32>,
    ) -> Result<u32, u32>;
    /// A barrier.
    fn fence(&mut self, task: usize, order: Ordering);
    /// The newest value.
    fn newest(&self, at: usize) -> u32;
    /// The task takes no more steps, so what it could still see is of no interest.
    fn retire(&mut self, _task: usize) {}
}

/// Every load gives the newest value: all interleavings, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Interleaved([u32; WORDS]);

impl Memory for Interleaved {
    const NAME: &'static str = "interleaved";
    const WEAK: bool = false;

    fn new(words: [u32; WORDS], _: usize) -> Self {
        Self(words)
    }
    #[inline]
    fn load(&mut self, _: usize, at: usize, _: Ordering, choice: &mut Choice) -> Loaded {
        choice.count = choice.count.max(1);
        Loaded {
            value: self.0[at],
            stale: false,
        }
    }
    #[inline]
    fn store(&mut self, _: usize, at: usize, value: u32, _: Ordering) {
        self.0[at] = value;
    }
    #[inline]
    fn rmw(
        &mut self,
        _: usize,
        at: usize,
        _: (Ordering, Ordering),
        f: &mut dyn FnMut(u32) -> Option<u32>,
    ) -> Result<u32, u32> {
        let old = self.0[at];
        match f(old) {
            Some(new) => {
                self.0[at] = new;
                Ok(old)
            }
            None => Err(old),
        }
    }
    #[inline]
    fn fence(&mut self, _: usize, _: Ordering) {}
    #[inline]
    fn newest(&self, at: usize) -> u32 {
        self.0[at]
    }
}

/// For each word, the number of the oldest store that is still visible.
type View = [u8; WORDS];

fn join(into: &mut View, other: &View) {
    for (a, b) in into.iter_mut().zip(other) {
        *a = (*a).max(*b);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Message {
    /// Position among all stores to this word.
    at: u8,
    value: u32,
    /// What an acquiring reader of it gets to see.
    view: View,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TaskView {
    current: View,
    /// What the next acquire fence brings.
    acquired: View,
    /// What relaxed stores publish, since the last release fence.
    released: View,
    /// It takes no more steps.
    retired: bool,
}

/// The release-acquire fragment of C11 with relaxed accesses and fences, by views: a load may give
/// any store that the task is not yet known to have seen past.
///
/// Two things of C11 are left out, both of which only make the model stronger: a store always
/// becomes the newest one of its word, and no load happens after a later store of its own task.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Views {
    history: Vec<Vec<Message>>,
    tasks: Vec<TaskView>,
    /// Joined by every sequentially consistent fence.
    sc: View,
}

impl Views {
    fn acquires(order: Ordering) -> bool {
        matches!(order, Ordering::Acquire | Ordering::AcqRel | Ordering::SeqCst)
    }

    fn releases(order: Ordering) -> bool {
        matches!(order, Ordering::Release | Ordering::AcqRel | Ordering::SeqCst)
    }

    fn see(&mut self, task: usize, at: usize, position: u8, view: &View, order: Ordering) {
        let t = &mut self.tasks[task];
        t.current[at] = t.current[at].max(position);
        join(&mut t.acquired, view);
        if Self::acquires(order) {
            join(&mut t.current, view);
        }
    }

    fn append(&mut self, task: usize, at: usize, value: u32, order: Ordering, carried: Option<View>) {
        let last = self.history[at].last().map_or(0, |m| m.at);
        let position = last
            .checked_add(1)
            .expect("fewer than 255 stores to a word can be visible");
        let t = &mut self.tasks[task];
        t.current[at] = position;
        t.acquired[at] = t.acquired[at].max(position);
        let mut view = if Self::releases(order) {
            t.current
        } else {
            t.released
        };
        view[at] = position;
        if let Some(carried) = carried {
            // A read-modify-write goes on with the release sequence of what it read.
            join(&mut view, &carried);
        }
        self.history[at].push(Message {
            at: position,
            value,
            view,
        });
        self.forget(at);
    }

    /// Drops stores that no task can see any more and counts from the oldest one left, so that
    /// states with the same future are equal.
    fn forget(&mut self, at: usize) {
        let newest = self.history[at].last().map_or(0, |m| m.at);
        let live = self.tasks.iter().filter(|t| !t.retired);
        let oldest = live.map(|t| t.current[at]).min().unwrap_or(newest).min(newest);
        if oldest == 0 {
            return;
        }
        self.history[at].retain(|m| m.at >= oldest);
        // Having seen less than the oldest store left is the same as having seen nothing.
        let lower = |view: &mut View| view[at] = view[at].saturating_sub(oldest);
        for message in &mut self.history[at] {
            message.at -= oldest;
        }
        self.history.iter_mut().flatten().for_each(|m| lower(&mut m.view));
        for task in &mut self.tasks {
            lower(&mut task.current);
            lower(&mut task.acquired);
            lower(&mut task.released);
        }
        lower(&mut self.sc);
    }
}

impl Memory for Views {
    const NAME: &'static str = "weak";
    const WEAK: bool = true;

    fn new(words: [u32; WORDS], tasks: usize) -> Self {
        let view = [0; WORDS];
        let history = words
            .iter()
            .map(|&value| vec![Message { at: 0, value, view }])
            .collect();
        let task = TaskView {
            current: view,
            acquired: view,
            released: view,
            retired: false,
        };
        Self {
            history,
            tasks: vec![task; tasks],
            sc: view,
        }
    }

    fn load(&mut self, task: usize, at: usize, order: Ordering, choice: &mut Choice) -> Loaded {
        let seen = self.tasks[task].current[at];
        let visible = self.history[at].iter().rev().take_while(|m| m.at >= seen).count();
        // One step makes at most one load that can be stale; more choices would multiply.
        choice.count = choice.count.max(visible);
        let back = choice.pick.min(visible - 1);
        let message = self.history[at][self.history[at].len() - 1 - back].clone();
        self.see(task, at, message.at, &message.view, order);
        self.forget(at);
        Loaded {
            value: message.value,
            stale: back != 0,
        }
    }

    fn store(&mut self, task: usize, at: usize, value: u32, order: Ordering) {
        self.append(task, at, value, order, None);
    }

    fn rmw(
        &mut self,
        task: usize,
        at: usize,
        order: (Ordering, Ordering),
        f: &mut dyn FnMut(u32) -> Option<u32>,
    ) -> Result<u32, u32> {
        let newest = self.history[at].last().expect("a word has a value").clone();
        let Some(new) = f(newest.value) else {
            self.see(task, at, newest.at, &newest.view, order.1);
            self.forget(at);
            return Err(newest.value);
        };
        self.see(task, at, newest.at, &newest.view, order.0);
        self.append(task, at, new, order.0, Some(newest.view));
        Ok(newest.value)
    }

    fn fence(&mut self, task: usize, order: Ordering) {
        let t = &mut self.tasks[task];
        if Self::acquires(order) {
            let acquired = t.acquired;
            join(&mut t.current, &acquired);
        }
        if order == Ordering::SeqCst {
            join(&mut t.current, &self.sc);
            self.sc = t.current;
        }
        if Self::releases(order) {
            t.released = t.current;
        }
        for at in 0..WORDS {
            self.forget(at);
        }
    }

    fn newest(&self, at: usize) -> u32 {
        self.history[at].last().expect("a word has a value").value
    }

    fn retire(&mut self, task: usize) {
        let none = [0; WORDS];
        self.tasks[task] = TaskView {
            current: none,
            acquired: none,
            released: none,
            retired: true,
        };
        for at in 0..WORDS {
            self.forget(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

    const X: usize = 0;
    const Y: usize = 1;

    fn choices(mem: &Views, task: usize, at: usize, order: Ordering) -> Vec<u32> {
        let mut values = Vec::new();
        let mut choice = Choice::default();
        loop {
            let mut mem = mem.clone();
            values.push(mem.load(task, at, order, &mut choice).value);
            choice.pick += 1;
            if choice.pick >= choice.count {
                return values;
            }
        }
    }

    /// Message passing: with release and acquire the second load cannot be stale, without it can.
    #[test]
    fn message_passing() {
        for (store, load, stale) in [
            (Release, Acquire, false),
            (Relaxed, Acquire, true),
            (Release, Relaxed, true),
        ] {
            let mut mem = Views::new([0; WORDS], 3);
            mem.store(0, X, 1, Relaxed);
            mem.store(0, Y, 1, store);
            assert_eq!(mem.load(1, Y, load, &mut Choice::default()).value, 1);
            assert_eq!(
                choices(&mem, 1, X, Relaxed).contains(&0),
                stale,
                "{store:?} {load:?}"
            );
        }
    }

    /// Store buffering: full fences forbid that both miss the other's store.
    #[test]
    fn store_buffering() {
        for (fenced, both_miss) in [(true, false), (false, true)] {
            let mut mem = Views::new([0; WORDS], 3);
            mem.store(0, X, 1, Relaxed);
            mem.store(1, Y, 1, Relaxed);
            if fenced {
                mem.fence(0, SeqCst);
                mem.fence(1, SeqCst);
            }
            let first = choices(&mem, 0, Y, Relaxed).contains(&0);
            let second = choices(&mem, 1, X, Relaxed).contains(&0);
            assert_eq!(first && second, both_miss);
        }
    }

    #[test]
    fn a_release_sequence_goes_through_read_modify_writes() {
        let mut mem = Views::new([0; WORDS], 3);
        mem.store(0, X, 1, Relaxed);
        mem.store(0, Y, 1, Release);
        mem.rmw(2, Y, (Relaxed, Relaxed), &mut |v| Some(v + 1)).unwrap();
        assert_eq!(mem.load(1, Y, Acquire, &mut Choice::default()).value, 2);
        assert_eq!(choices(&mem, 1, X, Relaxed), [1]);
    }

    #[test]
    fn what_nobody_can_see_is_forgotten() {
        let mut mem = Views::new([0; WORDS], 3);
        mem.store(0, X, 1, Relaxed);
        for task in 1..3 {
            mem.load(task, X, Relaxed, &mut Choice::default());
        }
        assert_eq!(mem.history[X].len(), 1);
    }
}
