//! Holds that the kernel tells of in one event each (`--mode holds`), when they are over.
//!
//! They change nothing in who holds and who waits: of that such a stream shows nothing, not even in between. They are
//! counted where holds that were put together here are counted, so that all tables have them.

use tracer_common::wire::{Event, Held, HoldFacts, Provenance, fault};

use super::fault::origin;
use super::notes::{Round, RoundEnd};
use super::{Engine, Hold, Lock, Note, Place, Wait};

impl Engine {
    pub(super) fn whole_hold(&mut self, t: u32, event: &Event) {
        let (Some(facts), Some(mm)) = (event.hold(), event.mm()) else {
            return;
        };
        let lock = match facts.held {
            Held::MmapRead => Lock::MmapRead,
            Held::MmapWrite => Lock::MmapWrite,
            Held::VmaRead => Lock::VmaRead,
        };
        let since_ns = event.header.ts_ns.saturating_sub(facts.length_ns);
        let how = self.own.0;
        let m = self.mm_of(mm, event);
        if facts.from_writer {
            self.totals.books(lock).converted_in += 1;
        } else {
            self.totals.took(lock, Provenance::Observed);
            self.tasks[t].counters.acquires[lock as usize] += 1;
            self.mms[m].count(lock);
        }
        if facts.to_reader {
            self.totals.books(lock).converted_out += 1;
        } else {
            self.totals.gave(lock, how);
        }
        if let Some(waited_ns) = facts.waited_ns {
            let wait = Wait {
                lock,
                certainty: Provenance::Observed,
                epoch: self.epoch,
                mm,
                vma: 0,
                since_ns: since_ns.saturating_sub(waited_ns),
            };
            self.record_wait(t, &wait, since_ns);
        }
        let (vm_start, vm_end) = event.range().unwrap_or_default();
        let hold = Hold {
            lock,
            certainty: how,
            start_known: true,
            start: Provenance::Observed,
            epoch: self.epoch,
            mm,
            vma: event.vma().unwrap_or(0),
            vm_start,
            vm_end,
            since_ns,
            ..Hold::default()
        };
        self.ended = Some(self.start_of(&hold));
        self.record_hold(t, &hold, event.header.ts_ns, how);
        self.fault_of(t, &facts, &hold);
    }

    /// The page fault that ended with the hold: done under the VMA lock.
    fn fault_of(&mut self, t: u32, facts: &HoldFacts, hold: &Hold) {
        let Some((flags, result)) = facts.fault else {
            return;
        };
        self.totals.vma_rounds_done += 1;
        let user = flags & fault::FLAG_USER != 0;
        let faults = origin(&mut self.tasks[t].counters, user);
        let end = if result & fault::RESULT_ERROR != 0 {
            faults.error += 1;
            RoundEnd::Error
        } else {
            faults.vma_lock += 1;
            RoundEnd::VmaLock
        };
        let who = self.who(t);
        let place = Place {
            mm: hold.mm,
            vma: hold.vma,
            vm_start: hold.vm_start,
            vm_end: hold.vm_end,
        };
        self.notes.add(|| {
            Note::Round(Round {
                who,
                place,
                end,
                under_vma: true,
                user,
                was_vma: true,
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::wire::flag;

    use super::*;
    use crate::info::SourceInfo;

    fn event(ts_ns: u64, facts: HoldFacts) -> Event {
        let mut event = Event::of_hold(ts_ns, &facts, Provenance::Derived);
        (event.header.pid, event.header.tid) = (1, 2);
        event.header.flags |= flag::MM;
        event.body.mm = 0x100;
        event
    }

    #[test]
    fn a_whole_hold_is_counted_like_one_of_two_events() {
        let mut engine = Engine::new(&SourceInfo::default());
        engine.keep_notes();
        let fault = HoldFacts {
            held: Held::VmaRead,
            length_ns: 700,
            waited_ns: None,
            fault: Some((fault::FLAG_VMA_LOCK | fault::FLAG_USER, 0)),
            to_reader: false,
            from_writer: false,
        };
        let mut starts = Vec::new();
        let mut take = |engine: &mut Engine, event: &Event| {
            engine.apply(event, &mut |_, meta| {
                starts.push(meta.hold.map(|start| start.since_ns));
            });
        };
        take(&mut engine, &event(1_000, fault));
        assert_eq!(engine.notes().len(), 2);
        let writer = HoldFacts {
            held: Held::MmapWrite,
            length_ns: 50,
            waited_ns: Some(30),
            fault: None,
            to_reader: true,
            from_writer: false,
        };
        take(&mut engine, &event(2_000, writer));
        let reader = HoldFacts {
            held: Held::MmapRead,
            waited_ns: None,
            to_reader: false,
            from_writer: true,
            ..writer
        };
        take(&mut engine, &event(2_060, reader));
        assert_eq!(starts, [Some(300), Some(1_950), Some(2_010)]);
        let totals = engine.totals();
        for (lock, ns) in [(Lock::VmaRead, 700), (Lock::MmapWrite, 50), (Lock::MmapRead, 50)] {
            let holds = &totals.holds[lock as usize];
            assert_eq!((holds.count(), holds.max_ns()), (1, ns), "{lock:?}");
            let books = totals.balance[lock as usize];
            assert_eq!(books.acquires + books.converted_in, 1);
            assert_eq!(books.releases + books.converted_out, 1);
        }
        assert_eq!(totals.waits[Lock::MmapWrite as usize].max_ns(), 30);
        assert_eq!(engine.all_tasks().user_faults.vma_lock, 1);
        assert_eq!(totals.anomalies.iter().sum::<u64>(), 0);
    }
}
