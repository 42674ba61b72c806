//! From the order of arrival to the order of time, and from jumps in numbering to [`Kind::Gap`].
//!
//! Events of one CPU arrive nearly in order, those of different CPUs do not. [`Order`] holds them
//! back until the source promises (by its watermark) that nothing earlier can come, and hands
//! them on sorted by time, then CPU, then number.
//!
//! # Gaps
//!
//! Each CPU numbers all that it produces, lost events included, so a number that never comes is a
//! lost event. Numbers may come slightly permuted, since a probe can be interrupted between reserving
//! space and taking its number. A hole is therefore judged only when the watermark has passed
//! the first event after it *and* one more round went by; for that one round the events after the
//! hole are held back. No clock is asked. Should a number come even later than that, it
//! is handed on, and [`OrderStats::late`] takes it off the books again, so that
//! [`OrderStats::missing`] is exact in the end.
//!
//! A gap is handed on as early as possible, so that nothing in it is taken for certain: right
//! after the last event of its CPU before the hole, or, if time has moved on, where time is
//! now. Its fields:
//!
//! | field | means |
//! |---|---|
//! | `header.cpu` | where |
//! | `header.seq` | the first missing number |
//! | `header.ts_ns` | time of the last good event before the hole, but never before what was already handed on |
//! | `body.arg` | how many are missing |
//! | `body.vm_start`, `body.vm_end` | times (ns) of the last event before and the first one after; `vm_end` is 0 when the stream ended in the gap. No flag is set: they are no addresses |
//!
//! A recording keeps its gaps as events; [`Order`] takes them as covering the numbers that they
//! tell of, so that replaying finds each gap once.

use tracer_common::wire::{Event, Header, Kind};

use crate::info::Losses;

/// Puts events into the order of time; see the module.
#[derive(Clone, Debug, Default)]
pub struct Order {
    pending: Vec<Event>,
    /// Sort keys of what goes out in this round; a field only for its memory.
    keys: Vec<Key>,
    cpus: Vec<Cpu>,
    /// CPUs whose `ahead` is not empty.
    open_holes: usize,
    start_ns: u64,
    midway: bool,
    emitted_ns: u64,
    watermark_ns: u64,
    /// By CPU: the number that it begins with, if not 0.
    first: Vec<u32>,
    stats: OrderStats,
}

/// What was found on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderStats {
    /// Events taken in, gaps of a recording not counted.
    pub received: u64,
    /// Gaps handed on.
    pub gaps: u64,
    /// Events declared missing by those gaps.
    pub declared: u64,
    /// Events that came after they had been declared missing.
    pub late: u64,
    /// Events with a number that had already come.
    pub duplicates: u64,
    /// Events that came after later ones had been handed on: the source broke its promise.
    pub disordered: u64,
    /// Events of kinds that this version does not know; their numbers count as present.
    pub unknown_kinds: u64,
}

impl OrderStats {
    /// Events that are missing, to the best of what is known by now.
    pub fn missing(&self) -> u64 {
        self.declared.saturating_sub(self.late)
    }
}

/// Stands for an event of a kind that this version does not know: it takes part in the numbering
/// and is not handed on.
pub fn placeholder(header: Header) -> Event {
    let mut event = Event::synthetic(Kind::Gap, header.ts_ns);
    event.header = header;
    event
}

fn is_placeholder(event: &Event) -> bool {
    event.kind == Kind::Gap && event.header.kind != Kind::Gap as u8
}

/// Time, then CPU and number, then place in `pending`.
type Key = (u64, u64, u32);

#[derive(Clone, Debug, Default)]
struct Cpu {
    /// All numbers before this one came or were declared missing.
    next: u32,
    /// Latest time of an event before `next`.
    last_ns: u64,
    /// What came after a hole, as runs of numbers without holes, in order.
    ahead: Vec<Run>,
    /// The latest gaps: first number and count.
    declared: [(u32, u32); 4],
    declared_at: usize,
    received: u64,
    missing: u64,
    /// Whether the first number is yet to come, and will be taken as it is.
    midway: bool,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    start: u32,
    /// First number after it.
    end: u32,
    first_ns: u64,
    last_ns: u64,
    /// Whether its hole has already been waited for during one round.
    waited: bool,
}

impl Order {
    /// For a source that starts at `start_ns` (`CLOCK_MONOTONIC`) with number 0 on every CPU.
    pub fn new(start_ns: u64) -> Self {
        Self {
            start_ns,
            ..Self::default()
        }
    }

    /// The same for a stream that begins in the middle: with these numbers, by CPU; those beyond begin with 0.
    pub fn beginning_with(start_ns: u64, first: &[u32]) -> Self {
        Self {
            first: first.to_vec(),
            ..Self::new(start_ns)
        }
    }

    /// For a recording that is read from somewhere in its middle: the first number of each CPU is taken as it comes.
    /// What is missing between there and the start of the recording is not looked for.
    pub fn midway(start_ns: u64) -> Self {
        Self {
            start_ns,
            midway: true,
            ..Self::default()
        }
    }

    /// Takes one event in.
    #[inline]
    pub fn push(&mut self, event: &Event) {
        let index = usize::from(event.header.cpu);
        if index >= self.cpus.len() {
            self.add_cpus(index);
        }
        if event.kind == Kind::Gap && event.body.arg == 0 && !is_placeholder(event) {
            // A part of a recording that could not be read: the numbers of each CPU tell what was in it.
            self.stats.gaps += 1;
            self.pending.push(*event);
            return;
        }
        let cpu = &mut self.cpus[index];
        if cpu.midway {
            cpu.midway = false;
            cpu.next = event.header.seq;
            cpu.last_ns = event.header.ts_ns;
        }
        let had_hole = !cpu.ahead.is_empty();
        let header = &event.header;
        if event.kind == Kind::Gap {
            if is_placeholder(event) {
                self.stats.unknown_kinds += 1;
                cpu.arrive(header.seq, 1, header.ts_ns, &mut self.stats);
            } else {
                // Counted before it arrives: a number inside it that comes later is late, not double.
                cpu.declare(header.seq, event.body.arg);
                self.stats.gaps += 1;
                self.stats.declared += u64::from(event.body.arg);
                cpu.arrive(header.seq, event.body.arg, header.ts_ns, &mut self.stats);
                self.pending.push(*event);
            }
        } else {
            self.stats.received += 1;
            cpu.received += 1;
            cpu.arrive(header.seq, 1, header.ts_ns, &mut self.stats);
            self.stats.disordered += u64::from(header.ts_ns < self.emitted_ns);
            self.pending.push(*event);
        }
        match (had_hole, !self.cpus[index].ahead.is_empty()) {
            (false, true) => self.open_holes += 1,
            (true, false) => self.open_holes -= 1,
            _ => {}
        }
    }

    /// Hands on what is certain now that nothing before `watermark_ns` can come any more.
    pub fn advance(&mut self, watermark_ns: u64, out: &mut impl FnMut(&Event)) {
        let limit = if self.open_holes == 0 {
            watermark_ns
        } else {
            self.judge_holes(watermark_ns, false)
        };
        self.watermark_ns = self.watermark_ns.max(limit);
        self.emit(limit, out);
    }

    /// Hands on all that is left. By `losses` even events that are missing at the very end are found.
    pub fn finish(&mut self, losses: &Losses, out: &mut impl FnMut(&Event)) {
        self.judge_holes(u64::MAX, true);
        let last = losses.cpus.len().min(usize::from(u16::MAX) + 1);
        if last > self.cpus.len() {
            self.add_cpus(last - 1);
        }
        for (index, losses) in losses.cpus.iter().take(last).enumerate() {
            if self.cpus[index].midway {
                continue;
            }
            #[expect(clippy::cast_possible_truncation, reason = "numbers wrap at 2^32 by design")]
            let end = self.first_number(index).wrapping_add(losses.produced as u32);
            let missing = end.wrapping_sub(self.cpus[index].next);
            if is_ahead(missing) && missing > 0 {
                self.declare_gap(index, missing, 0);
            }
        }
        self.emit(u64::MAX, out);
        // The very last nanosecond is a time as well.
        self.emit_rest(out);
    }

    /// All events before this time have been handed on, in nanoseconds.
    pub fn watermark_ns(&self) -> u64 {
        self.watermark_ns
    }

    /// What was found so far.
    pub fn stats(&self) -> &OrderStats {
        &self.stats
    }

    /// Events taken in and events missing, by CPU.
    pub fn by_cpu(&self) -> impl ExactSizeIterator<Item = (u64, u64)> {
        self.cpus.iter().map(|cpu| (cpu.received, cpu.missing))
    }

    /// Events that wait for the watermark.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    fn first_number(&self, cpu: usize) -> u32 {
        self.first.get(cpu).copied().unwrap_or(0)
    }

    #[cold]
    fn add_cpus(&mut self, index: usize) {
        for cpu in self.cpus.len()..=index {
            self.cpus.push(Cpu {
                next: self.first_number(cpu),
                last_ns: self.start_ns,
                midway: self.midway,
                ..Cpu::default()
            });
        }
    }

    /// Declares the gaps that are due; gives the time up to which events may go out.
    #[cold]
    fn judge_holes(&mut self, watermark_ns: u64, at_end: bool) -> u64 {
        let mut limit = watermark_ns;
        for index in 0..self.cpus.len() {
            while let Some(run) = self.cpus[index].ahead.first_mut() {
                if !at_end {
                    if run.first_ns >= watermark_ns {
                        break;
                    }
                    if !run.waited {
                        run.waited = true;
                        limit = limit.min(run.first_ns);
                        break;
                    }
                }
                let run = *run;
                let missing = run.start.wrapping_sub(self.cpus[index].next);
                self.declare_gap(index, missing, run.first_ns);
                let cpu = &mut self.cpus[index];
                cpu.ahead.remove(0);
                cpu.next = run.end;
                cpu.last_ns = cpu.last_ns.max(run.last_ns);
                if cpu.ahead.is_empty() {
                    self.open_holes -= 1;
                }
            }
        }
        limit
    }

    fn declare_gap(&mut self, index: usize, missing: u32, end_ns: u64) {
        let cpu = &mut self.cpus[index];
        let latest = if end_ns == 0 { u64::MAX } else { end_ns };
        let mut gap = Event::synthetic(Kind::Gap, cpu.last_ns.min(latest).max(self.emitted_ns));
        gap.header.cpu = u16::try_from(index).unwrap_or(u16::MAX);
        gap.header.seq = cpu.next;
        gap.body.arg = missing;
        gap.body.vm_start = cpu.last_ns;
        gap.body.vm_end = end_ns;
        cpu.declare(cpu.next, missing);
        cpu.next = cpu.next.wrapping_add(missing);
        self.stats.gaps += 1;
        self.stats.declared += u64::from(missing);
        self.pending.push(gap);
    }

    fn emit(&mut self, limit_ns: u64, out: &mut impl FnMut(&Event)) {
        self.keys.clear();
        for (at, event) in self.pending.iter().enumerate() {
            if event.header.ts_ns < limit_ns {
                let cpu = &self.cpus[usize::from(event.header.cpu)];
                // Relative to what is expected, so that wrapped numbers sort after those before.
                let number = event.header.seq.wrapping_sub(cpu.next.wrapping_sub(1 << 31));
                let place = u64::from(event.header.cpu) << 32 | u64::from(number);
                self.keys
                    .push((event.header.ts_ns, place, u32::try_from(at).unwrap_or(u32::MAX)));
            }
        }
        if self.keys.is_empty() {
            return;
        }
        self.keys.sort_unstable();
        for &(_, _, at) in &self.keys {
            out(&self.pending[at as usize]);
        }
        self.emitted_ns = self
            .emitted_ns
            .max(self.keys.last().map_or(0, |&(ts_ns, _, _)| ts_ns));
        if self.keys.len() == self.pending.len() {
            self.pending.clear();
        } else {
            self.pending.retain(|event| event.header.ts_ns >= limit_ns);
        }
    }

    fn emit_rest(&mut self, out: &mut impl FnMut(&Event)) {
        for event in &self.pending {
            out(event);
        }
        self.pending.clear();
    }
}

/// Whether a difference of two wrapping numbers means "later".
const fn is_ahead(difference: u32) -> bool {
    difference < 1 << 31
}

impl Cpu {
    /// Books `count` numbers from `seq` on as present.
    #[inline]
    fn arrive(&mut self, seq: u32, count: u32, ts_ns: u64, stats: &mut OrderStats) {
        if seq == self.next {
            self.next = seq.wrapping_add(count);
            self.last_ns = self.last_ns.max(ts_ns);
            if !self.ahead.is_empty() {
                self.close_holes();
            }
        } else if is_ahead(seq.wrapping_sub(self.next)) {
            self.arrive_ahead(seq, count, ts_ns, stats);
        } else if self.was_declared(seq) {
            stats.late += 1;
            self.missing = self.missing.saturating_sub(1);
        } else {
            stats.duplicates += 1;
        }
    }

    fn close_holes(&mut self) {
        while let Some(run) = self.ahead.first().copied() {
            if run.start != self.next {
                break;
            }
            self.next = run.end;
            self.last_ns = self.last_ns.max(run.last_ns);
            self.ahead.remove(0);
        }
    }

    #[cold]
    fn arrive_ahead(&mut self, seq: u32, count: u32, ts_ns: u64, stats: &mut OrderStats) {
        // Searched from the end: what comes is nearly always the latest.
        let distance = |number: u32, from: u32| number.wrapping_sub(from);
        let mut at = self.ahead.len();
        while at > 0 && distance(self.ahead[at - 1].start, self.next) > distance(seq, self.next) {
            at -= 1;
        }
        if at > 0
            && distance(seq, self.ahead[at - 1].start)
                < distance(self.ahead[at - 1].end, self.ahead[at - 1].start)
        {
            stats.duplicates += 1;
            return;
        }
        let new = Run {
            start: seq,
            end: seq.wrapping_add(count),
            first_ns: ts_ns,
            last_ns: ts_ns,
            waited: false,
        };
        if at > 0 && self.ahead[at - 1].end == seq {
            at -= 1;
            self.ahead[at].absorb(&new);
        } else {
            self.ahead.insert(at, new);
        }
        if at + 1 < self.ahead.len() && self.ahead[at].end == self.ahead[at + 1].start {
            let next = self.ahead.remove(at + 1);
            self.ahead[at].absorb(&next);
        }
    }

    fn declare(&mut self, first: u32, count: u32) {
        self.declared[self.declared_at] = (first, count);
        self.declared_at = (self.declared_at + 1) % self.declared.len();
        self.missing += u64::from(count);
    }

    fn was_declared(&self, seq: u32) -> bool {
        self.declared
            .iter()
            .any(|&(first, count)| seq.wrapping_sub(first) < count)
    }
}

impl Run {
    /// Takes in the run that starts where this one ends.
    fn absorb(&mut self, next: &Self) {
        self.end = next.end;
        self.first_ns = self.first_ns.min(next.first_ns);
        self.last_ns = self.last_ns.max(next.last_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::CpuLosses;

    fn event(cpu: u16, seq: u32, ts_ns: u64) -> Event {
        let mut event = Event::synthetic(Kind::MmapStart, ts_ns);
        event.header.cpu = cpu;
        event.header.seq = seq;
        event
    }

    /// What comes out: kind, cpu, number, time; for a gap its count instead of its time.
    fn line(event: &Event) -> String {
        let header = &event.header;
        if event.kind == Kind::Gap {
            let Event { body, .. } = event;
            format!(
                "gap c{} #{}+{} @{} {}..{}",
                header.cpu, header.seq, body.arg, header.ts_ns, body.vm_start, body.vm_end
            )
        } else {
            format!("c{} #{} @{}", header.cpu, header.seq, header.ts_ns)
        }
    }

    fn advance(order: &mut Order, watermark: u64) -> Vec<String> {
        let mut lines = Vec::new();
        order.advance(watermark, &mut |event| lines.push(line(event)));
        lines
    }

    fn finish(order: &mut Order, losses: &Losses) -> Vec<String> {
        let mut lines = Vec::new();
        order.finish(losses, &mut |event| lines.push(line(event)));
        lines
    }

    #[test]
    fn cpus_are_merged_up_to_the_watermark() {
        let mut order = Order::new(0);
        order.push(&event(1, 0, 20));
        order.push(&event(1, 1, 40));
        order.push(&event(0, 0, 10));
        order.push(&event(0, 1, 30));
        assert_eq!(advance(&mut order, 30), ["c0 #0 @10", "c1 #0 @20"]);
        assert_eq!(order.pending(), 2);
        assert_eq!(finish(&mut order, &Losses::default()), ["c0 #1 @30", "c1 #1 @40"]);
    }

    #[test]
    fn equal_times_go_by_cpu_then_number() {
        let mut order = Order::new(0);
        for (cpu, seq) in [(2, 0), (1, 1), (1, 0), (0, 0)] {
            order.push(&event(cpu, seq, 5));
        }
        assert_eq!(
            advance(&mut order, 6),
            ["c0 #0 @5", "c1 #0 @5", "c1 #1 @5", "c2 #0 @5"]
        );
    }

    #[test]
    fn a_permutation_is_no_gap() {
        let mut order = Order::new(0);
        for (seq, ts) in [(0, 1), (2, 2), (1, 3), (4, 4), (5, 5), (3, 6)] {
            order.push(&event(0, seq, ts));
        }
        assert_eq!(advance(&mut order, 100).len(), 6);
        assert_eq!(order.stats().gaps, 0);
        assert_eq!(order.open_holes, 0);
    }

    #[test]
    fn a_permutation_across_the_watermark_is_no_gap() {
        let mut order = Order::new(0);
        order.push(&event(0, 1, 10));
        assert_eq!(
            advance(&mut order, 11),
            Vec::<String>::new(),
            "held back for a round"
        );
        order.push(&event(0, 0, 12));
        assert_eq!(advance(&mut order, 20), ["c0 #1 @10", "c0 #0 @12"]);
        assert_eq!(order.stats().gaps, 0);
    }

    #[test]
    fn a_gap_comes_right_after_the_last_good_event() {
        let mut order = Order::new(0);
        order.push(&event(0, 0, 10));
        order.push(&event(1, 0, 15));
        order.push(&event(0, 4, 20));
        assert_eq!(advance(&mut order, 30), ["c0 #0 @10", "c1 #0 @15"]);
        assert_eq!(advance(&mut order, 31), ["gap c0 #1+3 @15 10..20", "c0 #4 @20"]);
        assert_eq!(order.stats().missing(), 3);
        assert_eq!(order.by_cpu().collect::<Vec<_>>(), [(2, 3), (1, 0)]);
    }

    #[test]
    fn a_stream_starts_at_number_zero() {
        let mut order = Order::new(7);
        order.push(&event(0, 2, 20));
        assert_eq!(
            finish(&mut order, &Losses::default()),
            ["gap c0 #0+2 @7 7..20", "c0 #2 @20"]
        );
    }

    #[test]
    fn several_holes_are_several_gaps() {
        let mut order = Order::new(0);
        for (seq, ts) in [(0, 1), (2, 3), (4, 5), (5, 6), (9, 10)] {
            order.push(&event(0, seq, ts));
        }
        assert_eq!(
            finish(&mut order, &Losses::default()),
            [
                "c0 #0 @1",
                "gap c0 #1+1 @1 1..3",
                "c0 #2 @3",
                "gap c0 #3+1 @3 3..5",
                "c0 #4 @5",
                "c0 #5 @6",
                "gap c0 #6+3 @6 6..10",
                "c0 #9 @10",
            ]
        );
    }

    #[test]
    fn numbers_wrap() {
        let mut order = Order::new(0);
        order.push(&event(0, 0, 1));
        order.cpus[0].next = u32::MAX - 1;
        for (seq, ts) in [(u32::MAX - 1, 2), (1, 3), (u32::MAX, 3), (0, 3), (4, 4)] {
            order.push(&event(0, seq, ts));
        }
        let lines = finish(&mut order, &Losses::default());
        assert_eq!(
            lines[1..],
            [
                "c0 #4294967294 @2",
                "c0 #4294967295 @3",
                "c0 #0 @3",
                "c0 #1 @3",
                "gap c0 #2+2 @3 3..4",
                "c0 #4 @4"
            ]
        );
    }

    #[test]
    fn a_late_number_is_taken_off_the_books() {
        let mut order = Order::new(0);
        order.push(&event(0, 2, 10));
        advance(&mut order, 11);
        advance(&mut order, 12);
        assert_eq!(order.stats().missing(), 2);
        order.push(&event(0, 1, 13));
        assert_eq!(advance(&mut order, 20), ["c0 #1 @13"]);
        assert_eq!(order.stats().missing(), 1);
        assert_eq!(order.by_cpu().collect::<Vec<_>>(), [(2, 1)]);
        assert_eq!(order.stats().duplicates, 0);
    }

    #[test]
    fn losses_at_the_very_end_are_found_by_the_counters() {
        let mut order = Order::new(0);
        order.push(&event(0, 0, 10));
        let losses = Losses {
            cpus: vec![
                CpuLosses {
                    produced: 5,
                    dropped: 4,
                    received: 1,
                },
                CpuLosses {
                    produced: 2,
                    dropped: 2,
                    received: 0,
                },
            ],
            missed: 0,
            ..Losses::default()
        };
        assert_eq!(
            finish(&mut order, &losses),
            ["gap c1 #0+2 @0 0..0", "c0 #0 @10", "gap c0 #1+4 @10 10..0"]
        );
        assert_eq!(order.stats().missing(), 6);
    }

    #[test]
    fn a_replayed_stream_has_the_same_gaps_once() {
        let mut first = Order::new(0);
        for (cpu, seq, ts) in [(0, 0, 1), (1, 2, 2), (0, 3, 4), (0, 4, 5), (1, 3, 9)] {
            first.push(&event(cpu, seq, ts));
        }
        let mut recorded = Vec::new();
        first.finish(&Losses::default(), &mut |event| recorded.push(*event));
        assert_eq!(first.stats().gaps, 2);

        let mut second = Order::new(0);
        let mut replayed = Vec::new();
        for event in &recorded {
            second.push(event);
            second.advance(event.header.ts_ns, &mut |event| replayed.push(*event));
        }
        second.finish(&Losses::default(), &mut |event| replayed.push(*event));
        assert_eq!(replayed, recorded);
        assert_eq!(second.stats(), first.stats());
    }

    #[test]
    fn an_unknown_kind_leaves_no_gap() {
        let mut order = Order::new(0);
        order.push(&event(0, 0, 1));
        let mut header = event(0, 1, 2).header;
        header.kind = 200;
        order.push(&placeholder(header));
        order.push(&event(0, 2, 3));
        assert_eq!(finish(&mut order, &Losses::default()), ["c0 #0 @1", "c0 #2 @3"]);
        assert_eq!(order.stats().unknown_kinds, 1);
    }

    #[test]
    fn doubles_are_counted() {
        let mut order = Order::new(0);
        for seq in [0, 0, 2, 2, 1] {
            order.push(&event(0, seq, 1));
        }
        finish(&mut order, &Losses::default());
        assert_eq!(order.stats().duplicates, 2);
        assert_eq!(order.stats().gaps, 0);
    }

    proptest::proptest! {
        /// Whatever is lost and however arrival is shuffled: out comes everything, in order, and
        /// present plus missing is what was produced.
        #[test]
        fn nothing_is_lost_and_all_is_sorted(
            produced in proptest::collection::vec((0u16..4, 1u64..20, proptest::bool::weighted(0.8)), 1..300),
            rounds in 1usize..20,
        ) {
            let mut ts = 0;
            let mut next = [0u32; 4];
            let mut sent = Vec::new();
            for &(cpu, step, arrives) in &produced {
                ts += step;
                if arrives {
                    sent.push(event(cpu, next[usize::from(cpu)], ts));
                }
                next[usize::from(cpu)] += 1;
            }
            let losses = Losses {
                cpus: next.iter().map(|&n| CpuLosses { produced: u64::from(n), ..Default::default() }).collect(),
                missed: 0,
                ..Losses::default()
            };
            let mut order = Order::new(0);
            let mut out = Vec::new();
            for chunk in sent.chunks(sent.len().div_ceil(rounds).max(1)) {
                let mark = chunk[0].header.ts_ns;
                for event in chunk.iter().rev() {
                    order.push(event);
                }
                order.advance(mark, &mut |event| out.push(*event));
            }
            order.finish(&losses, &mut |event| out.push(*event));
            proptest::prop_assert!(out.is_sorted_by_key(|event| event.header.ts_ns));
            let kept = out.iter().filter(|event| event.kind != Kind::Gap).count();
            proptest::prop_assert_eq!(kept, sent.len());
            proptest::prop_assert_eq!(kept as u64 + order.stats().missing(), produced.len() as u64);
            proptest::prop_assert_eq!(order.stats().disordered, 0);
        }
    }
}
