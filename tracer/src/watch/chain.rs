//! From what each CPU saw to the one order in which a value changed.
//!
//! The time of a change is taken some hundred nanoseconds after it, on the CPU that made it. When two CPUs change
//! the value at nearly the same time, their times may stand the wrong way round. The values do not: each change
//! knows what it found and what it left, so the order is right when each finds what the one before left. This is a
//! search for such an order, which keeps to the times where the values leave a choice, and always to the order of
//! each CPU and of each task: a task that moves to another CPU has taken the time of its change before.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// Changes of two CPUs whose times are this close may have happened in either order, in nanoseconds.
pub const JITTER_NS: u64 = 10_000;
/// How long changes wait for one without which they make no chain, in nanoseconds: the CPU that made it may stand
/// still before it could tell (of a virtual machine, for a good part of a second).
pub const PATIENCE_NS: u64 = 1_000_000_000;
/// Where all that has waited long makes no chain, its older half is tried, and half of that, and so on; so many attempts.
const PARTS: u32 = 8;
/// Steps of the search for each change before it is given up.
const STEPS: usize = 256;

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The CPU that made it.
    pub cpu: u32,
    /// The task that made it.
    pub tid: u32,
    /// When, in nanoseconds, a little late.
    pub ts_ns: u64,
    /// The value that it found; none: the instruction does not tell (a store).
    pub old: Option<u64>,
    /// The value that it left.
    pub new: u64,
}

/// How sure a change's place in the order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// It found what the one before left, and nothing else would fit here.
    Exact,
    /// It fits, but another change of about the same time would have fitted, too.
    Uncertain,
    /// It found something else than the one before left: a change between them was not seen.
    Broken,
}

impl Place {
    /// Its name in JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Uncertain => "uncertain",
            Self::Broken => "broken",
        }
    }
}

/// A change at its place in the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linked<T> {
    /// The change; `old` is known unless it is the first one.
    pub link: Link,
    /// How sure its place is.
    pub place: Place,
    /// What was pushed with it.
    pub with: T,
}

/// Puts the changes of one value in order.
#[derive(Debug)]
pub struct Chain<T> {
    queues: BTreeMap<u32, VecDeque<(Link, T)>>,
    value: Option<u64>,
    /// When each CPU made the last of its changes that was handed out.
    handed_out: BTreeMap<u32, u64>,
}

impl<T> Default for Chain<T> {
    fn default() -> Self {
        Self::new(None)
    }
}

impl<T> Chain<T> {
    /// A chain that begins with a value, if it is known.
    pub const fn new(value: Option<u64>) -> Self {
        Self {
            queues: BTreeMap::new(),
            value,
            handed_out: BTreeMap::new(),
        }
    }

    /// Takes a change; those of one CPU come in their order.
    pub fn push(&mut self, link: Link, with: T) {
        self.queues.entry(link.cpu).or_default().push_back((link, with));
    }

    /// Hands out, in order, all changes up to a time before which no more will be pushed; also later ones
    /// if the order wants them before. Where they make no chain, they are kept for [`PATIENCE_NS`].
    pub fn advance(&mut self, ripe_ns: u64, out: &mut impl FnMut(Linked<T>)) {
        while let Some(oldest) = self.oldest() {
            let newest = self.newest().min(ripe_ns);
            if let Some(order) = self.search(newest) {
                for cpu in order {
                    self.take(cpu, out);
                }
                return;
            }
            if ripe_ns != u64::MAX && ripe_ns < oldest.saturating_add(PATIENCE_NS) {
                return;
            }
            // One that is wanted is not there yet, or never will be. What is long before it need not wait for it.
            let half = |part| oldest + (newest.saturating_sub(oldest) >> part);
            let Some(order) = (1..PARTS).find_map(|part| self.search(half(part))) else {
                break;
            };
            for cpu in order {
                self.take(cpu, out);
            }
        }
        // There is no such order: something was not seen. What fits goes first, else what came first.
        while let Some(cpu) = self.next(|link| link.ts_ns <= ripe_ns, true) {
            self.take(cpu, out);
        }
    }

    fn oldest(&self) -> Option<u64> {
        let firsts = self.queues.values().filter_map(VecDeque::front);
        firsts.map(|(link, _)| link.ts_ns).min()
    }

    fn newest(&self) -> u64 {
        let lasts = self.queues.values().filter_map(VecDeque::back);
        lasts.map(|(link, _)| link.ts_ns).max().unwrap_or(0)
    }

    fn fits(value: Option<u64>, link: &Link) -> bool {
        link.old.is_none() || value.is_none() || link.old == value
    }

    /// The CPU whose first change is the earliest of those that are wanted; of those that fit, if there are any.
    fn next(&self, wanted: impl Fn(&Link) -> bool, or_any: bool) -> Option<u32> {
        let firsts = || {
            self.queues
                .values()
                .filter_map(VecDeque::front)
                .map(|(link, _)| link)
                .filter(|link| wanted(link) && self.turn(link))
        };
        let earliest = firsts()
            .filter(|link| Self::fits(self.value, link))
            .min_by_key(|link| link.ts_ns);
        earliest
            .or_else(|| firsts().min_by_key(|link| link.ts_ns).filter(|_| or_any))
            .map(|link| link.cpu)
    }

    fn take(&mut self, cpu: u32, out: &mut impl FnMut(Linked<T>)) {
        let Some((mut link, with)) = self.queues.get_mut(&cpu).and_then(VecDeque::pop_front) else {
            return;
        };
        let place = if !Self::fits(self.value, &link) {
            Place::Broken
        } else if self.rival(&link) {
            Place::Uncertain
        } else {
            Place::Exact
        };
        link.old = link.old.or(self.value);
        self.value = Some(link.new);
        self.handed_out.insert(cpu, link.ts_ns);
        out(Linked { link, place, with });
    }

    /// Whether a change is the next one of its task.
    fn turn(&self, link: &Link) -> bool {
        let others = self.queues.iter().filter(|(cpu, _)| **cpu != link.cpu);
        !others
            .flat_map(|(_, queue)| {
                queue
                    .iter()
                    .map(|(other, _)| other)
                    .take_while(|other| other.ts_ns < link.ts_ns)
            })
            .any(|other| other.tid == link.tid)
    }

    /// Whether another CPU's next change would have fitted as well.
    fn rival(&self, taken: &Link) -> bool {
        let firsts = self.queues.values().filter_map(VecDeque::front);
        firsts
            .map(|(link, _)| link)
            .filter(|link| link.cpu != taken.cpu && link.tid != taken.tid)
            .filter(|link| link.ts_ns.abs_diff(taken.ts_ns) < JITTER_NS)
            .any(|link| Self::fits(self.value, link) && self.turn(link))
    }

    /// An order of CPUs, in which all changes up to a time, and perhaps some later ones, make a chain.
    fn search(&self, ripe_ns: u64) -> Option<Vec<u32>> {
        let queues: Vec<(u32, Vec<Link>)> = self
            .queues
            .iter()
            .map(|(&cpu, queue)| (cpu, queue.iter().map(|(link, _)| *link).collect()))
            .collect();
        let ripe = |links: &[Link]| {
            links
                .iter()
                .rposition(|link| link.ts_ns <= ripe_ns)
                .map_or(0, |at| at + 1)
        };
        let before = predecessors(&queues);
        let since: Vec<u64> = queues
            .iter()
            .map(|(cpu, _)| self.handed_out.get(cpu).copied().unwrap_or(0))
            .collect();
        let goal: Vec<usize> = queues.iter().map(|(_, links)| ripe(links)).collect();
        let mut left: usize = goal.iter().sum();
        let mut budget = left.saturating_mul(STEPS) + STEPS;
        let mut at = vec![0; queues.len()];
        let mut value = self.value;
        let mut dead: HashSet<Vec<usize>> = HashSet::new();
        // What was taken, the value before, and how many of the choices there had been tried.
        let mut path: Vec<(usize, Option<u64>)> = Vec::new();
        let mut skip = 0;
        let may = |queue: usize, at: &[usize], value: Option<u64>| {
            let link = queues[queue].1.get(at[queue])?;
            let turn = before[queue][at[queue]].is_none_or(|(other, index)| at[other] > index);
            if !turn || !Self::fits(value, link) {
                return None;
            }
            // Made after its CPU had taken the time of the change before, and so after all that others had told of by then.
            let after = match at[queue] {
                0 => since[queue],
                more => queues[queue].1[more - 1].ts_ns,
            };
            let mut heads = queues
                .iter()
                .zip(at)
                .filter_map(|((_, links), &next)| links.get(next));
            heads
                .all(|head| head.ts_ns + JITTER_NS >= after)
                .then_some(link.ts_ns)
        };
        while left > 0 {
            budget = budget.checked_sub(1)?;
            let mut choices: Vec<usize> = (0..queues.len())
                .filter(|&queue| may(queue, &at, value).is_some())
                .collect();
            choices.sort_by_key(|&queue| queues[queue].1[at[queue]].ts_ns);
            let choice = choices.get(skip).copied();
            if let Some(queue) = choice {
                path.push((queue, value));
                left -= usize::from(at[queue] < goal[queue]);
                value = Some(queues[queue].1[at[queue]].new);
                at[queue] += 1;
                skip = 0;
                if dead.contains(&at) {
                    // As good as no choice at all.
                    skip = usize::MAX;
                }
                continue;
            }
            dead.insert(at.clone());
            let (queue, found) = path.pop()?;
            at[queue] -= 1;
            left += usize::from(at[queue] < goal[queue]);
            value = found;
            // Its successor among the choices there is tried next.
            let time = queues[queue].1[at[queue]].ts_ns;
            skip = (0..queues.len())
                .filter(|&other| may(other, &at, value).is_some_and(|ts_ns| (ts_ns, other) <= (time, queue)))
                .count();
        }
        Some(path.iter().map(|&(queue, _)| queues[queue].0).collect())
    }
}

/// For each change, where the one before it of the same task stands, if that is in another CPU's queue.
fn predecessors(queues: &[(u32, Vec<Link>)]) -> Vec<Vec<Option<(usize, usize)>>> {
    let mut all: Vec<(u64, usize, usize)> = Vec::new();
    for (queue, (_, links)) in queues.iter().enumerate() {
        all.extend(
            links
                .iter()
                .enumerate()
                .map(|(index, link)| (link.ts_ns, queue, index)),
        );
    }
    all.sort_unstable();
    let mut before: Vec<Vec<Option<(usize, usize)>>> =
        queues.iter().map(|(_, links)| vec![None; links.len()]).collect();
    let mut last: HashMap<u32, (usize, usize)> = HashMap::new();
    for (_, queue, index) in all {
        let previous = last.insert(queues[queue].1[index].tid, (queue, index));
        before[queue][index] = previous.filter(|(other, _)| *other != queue);
    }
    before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: Option<u64>, links: &[(u32, u64, u64, u64)], ripe: u64) -> Vec<(u64, u64, u64, Place)> {
        let mut chain = Chain::new(start);
        for &(cpu, ts_ns, old, new) in links {
            let link = Link {
                cpu,
                tid: cpu + 100,
                ts_ns,
                old: Some(old),
                new,
            };
            chain.push(link, ());
        }
        let mut out = Vec::new();
        chain.advance(ripe, &mut |linked| {
            out.push((
                linked.link.ts_ns,
                linked.link.old.unwrap_or(99),
                linked.link.new,
                linked.place,
            ));
        });
        out
    }

    #[test]
    fn values_decide_where_times_are_the_wrong_way_round() {
        // CPU 1 wrote first, but was slow to look at its clock.
        let out = run(Some(1), &[(0, 100, 2, 3), (1, 101, 1, 2)], u64::MAX);
        assert_eq!(out, [(101, 1, 2, Place::Exact), (100, 2, 3, Place::Exact)]);
    }

    #[test]
    fn times_decide_where_values_do_not_and_that_is_said_when_they_are_close() {
        let close = [(0, 100, 1, 2), (0, 200, 2, 1), (1, 300, 1, 2), (1, 400, 2, 1)];
        let out = run(Some(1), &close, u64::MAX);
        assert_eq!(
            out.iter().map(|change| change.0).collect::<Vec<_>>(),
            [100, 200, 300, 400]
        );
        assert_eq!(out[0].3, Place::Uncertain);
        assert_eq!(out[3].3, Place::Exact);
        let far = [
            (0, 100, 1, 2),
            (0, 200, 2, 1),
            (1, 300_000, 1, 2),
            (1, 400_000, 2, 1),
        ];
        assert!(
            run(Some(1), &far, u64::MAX)
                .iter()
                .all(|change| change.3 == Place::Exact)
        );
    }

    #[test]
    fn a_choice_that_leads_nowhere_is_taken_back() {
        // 2→1 has the earliest time, but then nothing finds 2 any more.
        let links = [(0, 100, 2, 1), (1, 110, 2, 3), (1, 120, 3, 2)];
        let out = run(Some(2), &links, u64::MAX);
        assert_eq!(
            out.iter().map(|change| change.0).collect::<Vec<_>>(),
            [110, 120, 100]
        );
        assert!(out.iter().all(|change| change.3 != Place::Broken));
    }

    #[test]
    fn a_hole_is_told_and_gone_past() {
        let out = run(
            Some(1),
            &[(0, 100, 1, 2), (0, 200, 7, 6), (0, 300, 6, 5)],
            u64::MAX,
        );
        assert_eq!(out[1], (200, 7, 6, Place::Broken));
        assert_eq!(out[2], (300, 6, 5, Place::Exact));
    }

    #[test]
    fn what_makes_no_chain_waits_for_a_cpu_that_stands_still() {
        let link = |cpu, ts_ns, old, new| Link {
            cpu,
            tid: cpu,
            ts_ns,
            old: Some(old),
            new,
        };
        let mut chain = Chain::new(Some(1));
        let mut out = Vec::new();
        chain.push(link(0, 100, 2, 3), ());
        chain.advance(500, &mut |linked| out.push(linked.place));
        assert_eq!(out, []);
        // It told of its change a tenth of a second later.
        chain.push(link(1, 100_000_000, 1, 2), ());
        chain.advance(150_000_000, &mut |linked| out.push(linked.place));
        assert_eq!(out, [Place::Exact, Place::Exact]);
        // A change that never comes is a hole.
        chain.push(link(0, 200_000_000, 7, 8), ());
        chain.advance(200_000_100 + PATIENCE_NS, &mut |linked| out.push(linked.place));
        assert_eq!(out[2], Place::Broken);
    }

    #[test]
    fn a_task_that_moves_keeps_its_order_and_is_no_rival_of_itself() {
        let link = |cpu, tid, ts_ns, old, new| Link {
            cpu,
            tid,
            ts_ns,
            old: Some(old),
            new,
        };
        let mut chain = Chain::new(Some(1));
        // Task 7 takes the lock on CPU 0, gives it back on CPU 1 and takes it there again; all in 3 µs.
        for change in [
            link(0, 7, 1_000, 1, 2),
            link(1, 7, 2_000, 2, 1),
            link(1, 7, 3_000, 1, 2),
        ] {
            chain.push(change, ());
        }
        // Task 8 looked at its clock late: by the times alone it came after what task 7 did on CPU 1.
        chain.push(link(2, 8, 2_500, 2, 3), ());
        chain.push(link(2, 8, 2_600, 3, 2), ());
        let mut out = Vec::new();
        chain.advance(u64::MAX, &mut |linked| {
            out.push((linked.link.tid, linked.link.ts_ns, linked.place));
        });
        assert_eq!(out[0], (7, 1_000, Place::Exact));
        let of_7: Vec<u64> = out
            .iter()
            .filter(|change| change.0 == 7)
            .map(|change| change.1)
            .collect();
        assert_eq!(of_7, [1_000, 2_000, 3_000]);
        assert!(out.iter().all(|change| change.2 != Place::Broken));
    }

    #[test]
    fn what_is_not_ripe_waits_unless_it_belongs_before() {
        let links = [(0, 100, 1, 2), (0, 900, 2, 1)];
        assert_eq!(run(Some(1), &links, 500).len(), 1);
        let links = [(0, 100, 2, 3), (1, 900, 1, 2), (1, 950, 3, 2)];
        assert_eq!(run(Some(1), &links, 500).len(), 2);
    }

    #[test]
    fn a_store_finds_what_was_there() {
        let mut chain = Chain::new(Some(5));
        for (ts_ns, new) in [(100, 7), (200, 9)] {
            let link = Link {
                cpu: 0,
                tid: 100,
                ts_ns,
                old: None,
                new,
            };
            chain.push(link, ());
        }
        let mut olds = Vec::new();
        chain.advance(u64::MAX, &mut |linked| olds.push(linked.link.old));
        assert_eq!(olds, [Some(5), Some(7)]);
    }

    #[test]
    fn any_interleaving_is_found_again() {
        // Readers on four CPUs, true order known; each time is late by up to 5 µs, each CPU's own order kept.
        let mut seed = 1_u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 33
        };
        let (mut value, mut holds, mut links) = (1_u64, [false; 4], Vec::new());
        let mut last = [0; 4];
        for i in 0..2000_u64 {
            let cpu = (random() % 4) as usize;
            let old = value;
            value = if holds[cpu] { value - 1 } else { value + 1 };
            holds[cpu] = !holds[cpu];
            let time = (i * 1000 + random() % 5000).max(last[cpu] + 1);
            last[cpu] = time;
            links.push((cpu as u32, time, old, value));
        }
        let out = run(Some(1), &links, u64::MAX);
        assert_eq!(out.len(), 2000);
        assert!(out.windows(2).all(|pair| pair[0].2 == pair[1].1), "no chain");
        assert!(out.iter().all(|change| change.3 != Place::Broken));
    }

    #[test]
    fn processors_that_stand_still_before_they_look_at_the_clock_break_nothing() {
        let mut seed = 1_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for still_ms in [1, 10, 100, 400, 900] {
            // Four tasks, each on its CPU, take and give back; each change takes some microseconds, and in one of 64 the
            // CPU stands still between the change and the look at the clock.
            let (mut value, mut holds, mut next) = (1_u64, [false; 4], [0_u64; 4]);
            let mut links = Vec::new();
            for _ in 0..1500 {
                let cpu = (0..4).min_by_key(|&cpu| next[cpu]).unwrap();
                let old = value;
                value = if holds[cpu] { value - 1 } else { value + 1 };
                holds[cpu] = !holds[cpu];
                let still = if random(64) == 0 {
                    random(still_ms * 1_000_000)
                } else {
                    random(3_000)
                };
                let ts_ns = next[cpu] + still + 1;
                next[cpu] = ts_ns + 1_000 + random(30_000);
                links.push(Link {
                    cpu: cpu as u32,
                    tid: cpu as u32,
                    ts_ns,
                    old: Some(old),
                    new: value,
                });
            }
            links.sort_by_key(|link| link.ts_ns);
            let mut chain = Chain::new(Some(1));
            let mut places = Vec::new();
            for some in links.chunks(50) {
                for &link in some {
                    chain.push(link, ());
                }
                chain.advance(some[some.len() - 1].ts_ns, &mut |linked| {
                    places.push(linked.place);
                });
            }
            chain.advance(u64::MAX, &mut |linked| places.push(linked.place));
            let broken = places.iter().filter(|&&place| place == Place::Broken).count();
            assert_eq!((broken, places.len()), (0, 1500), "up to {still_ms} ms");
        }
    }
}
