//! One of the recordings that are merged: its events one by one, and as they are to be in the whole.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use tracer_common::site::FIRST_DYNAMIC;
use tracer_common::wire::{Event, Kind};

use crate::info::{Anchor, Losses, PartInfo, SourceInfo};
use crate::order::Order;
use crate::recording::Frame;
use crate::source::replay::Replay;
use crate::source::{Poll, Source as _};
use crate::stacks::Stacks;

pub(super) struct Part {
    replay: Replay,
    order: Order,
    /// Events at hand, in order, with their own times.
    ready: VecDeque<Event>,
    done: bool,
    /// Number in the whole by own number less one.
    stacks: Vec<u32>,
    losses: Losses,
    pub(super) place: PartInfo,
}

impl Part {
    pub(super) fn open(path: &Path, recover: bool) -> anyhow::Result<Self> {
        let replay = Replay::open_as(path, recover)?;
        let info = replay.info();
        let order = Order::beginning_with(info.start_monotonic_ns, &info.first_numbers);
        Ok(Self {
            replay,
            order,
            ready: VecDeque::new(),
            done: false,
            stacks: Vec::new(),
            losses: Losses::default(),
            place: PartInfo::default(),
        })
    }

    pub(super) fn info(&self) -> &SourceInfo {
        self.replay.info()
    }

    pub(super) fn name(&self) -> &str {
        self.replay.name()
    }

    pub(super) fn len(&self) -> Option<u64> {
        self.replay.len()
    }

    pub(super) fn position(&mut self) -> u64 {
        self.replay.reader().position()
    }

    pub(super) fn warning(&self) -> Option<String> {
        self.replay.warning()
    }

    pub(super) fn losses(&self) -> &Losses {
        &self.losses
    }

    /// What its clocks said later on; nothing for a pipe, which cannot be read twice.
    pub(super) fn anchors(&mut self) -> anyhow::Result<Vec<Anchor>> {
        let reader = self.replay.reader();
        if reader.len().is_none() {
            return Ok(Vec::new());
        }
        let start = reader.position();
        let clock = crate::recording::FrameType::Clock as u8;
        let offsets: Vec<u64> = reader
            .index()?
            .entries()
            .iter()
            .filter(|entry| entry.kind == clock)
            .map(|entry| entry.offset)
            .collect();
        let mut anchors = Vec::new();
        for offset in offsets {
            reader.resume(offset)?;
            if let Some(Frame::Clock(anchor)) = reader.next_frame()? {
                anchors.push(anchor);
            }
        }
        reader.resume(start)?;
        Ok(anchors)
    }

    /// Time of its next event in the whole, in nanoseconds; `None` at its end.
    pub(super) fn peek(&mut self) -> anyhow::Result<Option<u64>> {
        while self.ready.is_empty() && !self.done {
            let Self {
                replay, order, ready, ..
            } = self;
            match replay.poll(Duration::ZERO, &mut |event| order.push(event))? {
                Poll::More { watermark_ns } => {
                    order.advance(watermark_ns, &mut |event| ready.push_back(*event));
                }
                Poll::End => {
                    let losses = replay.losses()?;
                    order.finish(&losses, &mut |event| ready.push_back(*event));
                    self.losses = losses;
                    self.done = true;
                }
            }
        }
        let shift_ns = self.place.shift_ns;
        Ok(self
            .ready
            .front()
            .map(|event| event.header.ts_ns.saturating_add_signed(shift_ns)))
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    /// Adds the stacks that its events have numbers of to those of the whole.
    pub(super) fn take_stacks(&mut self, whole: &mut Stacks) {
        for stack in self.replay.stacks().since(self.stacks.len()) {
            self.stacks.push(whole.push(stack.clone()));
        }
    }

    /// Changes an event so that it stands apart from those of other parts.
    pub(super) fn change(&self, event: &mut Event) -> anyhow::Result<()> {
        let place = &self.place;
        let cpu = u32::from(event.header.cpu);
        if cpu >= place.cpus {
            bail!(
                "{} has an event of CPU {cpu}, and says that there are {}: it is damaged",
                place.file,
                place.cpus
            );
        }
        let moved = |ts_ns: u64| match ts_ns {
            0 => 0,
            ts_ns => ts_ns.saturating_add_signed(place.shift_ns),
        };
        let id = |id: u32| {
            if id == 0 {
                0
            } else {
                id.wrapping_add(place.pid_base)
            }
        };
        let address = |address: u64| {
            if address == 0 {
                0
            } else {
                address ^ place.address_mask
            }
        };
        let stack = |number: u64| {
            let at = usize::try_from(number)
                .ok()
                .and_then(|number| number.checked_sub(1));
            at.and_then(|at| self.stacks.get(at))
                .map_or(0, |&number| u64::from(number))
        };
        let Event { kind, header, body } = event;
        // Both are at most 65,536 in all.
        header.cpu = (cpu + place.first_cpu) as u16;
        header.ts_ns = header.ts_ns.saturating_add_signed(place.shift_ns);
        if header.site >= FIRST_DYNAMIC {
            header.site = header.site.wrapping_add(place.first_site);
        }
        (header.pid, header.tid) = (id(header.pid), id(header.tid));
        match kind {
            Kind::Gap => {
                (body.vm_start, body.vm_end) = (moved(body.vm_start), moved(body.vm_end));
                return Ok(());
            }
            Kind::SchedOut | Kind::Stack => {
                (body.vma, body.vm_start) = (stack(body.vma), stack(body.vm_start));
            }
            Kind::TaskFork | Kind::SchedWake => {
                (body.vm_refcnt, body.arg) = (id(body.vm_refcnt), id(body.arg));
                body.vma = address(body.vma);
            }
            Kind::TaskExec => {
                body.arg = id(body.arg);
                body.vma = address(body.vma);
            }
            _ => body.vma = address(body.vma),
        }
        body.mm = address(body.mm);
        Ok(())
    }
}
