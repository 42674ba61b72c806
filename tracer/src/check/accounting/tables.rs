//! What accounting remembers of tasks and VMAs, by their slots in the engine.

use tracer_common::wire::{Event, Kind};

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// What a writer does to a VMA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::check) enum Change {
    /// It locks it, which may set the flag.
    #[default]
    Write,
    /// It takes it out, which takes the VMA's own reference away and may set the flag.
    Detach,
    /// It puts it in, which makes that reference.
    Attach,
}

/// A few tasks, each once. When there are more than it can hold it says so, and they are not told apart any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tasks {
    slots: [u32; 12],
    len: u8,
    full: bool,
}

impl Tasks {
    pub(super) const fn none() -> Self {
        Self {
            slots: [NONE; 12],
            len: 0,
            full: false,
        }
    }

    pub(super) fn contains(&self, task: u32) -> bool {
        self.slots[..usize::from(self.len)].contains(&task)
    }

    pub(super) fn add(&mut self, task: u32) {
        if self.contains(task) {
            return;
        }
        match self.slots.get_mut(usize::from(self.len)) {
            Some(slot) => {
                *slot = task;
                self.len += 1;
            }
            None => self.full = true,
        }
    }

    pub(super) fn remove(&mut self, task: u32) {
        let len = usize::from(self.len);
        if let Some(at) = self.slots[..len].iter().position(|&slot| slot == task) {
            self.slots[at] = self.slots[len - 1];
            self.len -= 1;
        }
        self.full &= self.len > 0;
    }

    pub(super) fn len(&self) -> u32 {
        u32::from(self.len)
    }

    pub(super) fn is_full(&self) -> bool {
        self.full
    }
}

/// What was seen of one VMA within a window, or may be going on still.
pub(super) struct Seen {
    /// Tasks that may have been inside.
    pub tasks: Tasks,
    /// A writer was at work.
    pub changed: bool,
    /// And what it did was to put the VMA in.
    pub joining: bool,
}

#[derive(Clone, Copy, Debug)]
struct TaskState {
    tid: u32,
    last_ns: u64,
    /// The VMA that it may be inside of, until its next event.
    perhaps: u32,
    /// The VMA that it changes, until its next event.
    changes: u32,
}

/// How many tasks that went lately are remembered for each VMA.
const WENT: usize = 4;

#[derive(Clone, Debug)]
struct VmaState {
    address: u64,
    /// The engine's state of knowledge at its last quiet point; 0: there was none.
    settled: u32,
    pending: u32,
    next: u8,
    change: Change,
    /// Who changed it last, and until when that may go on.
    changer: u32,
    change_until: u64,
    /// Tasks that may be inside until their next event.
    perhaps: Tasks,
    /// Tasks that were so, and when their next event came.
    went: [(u32, u64); WENT],
    /// The latest such time of those that had to make room.
    forgotten_ns: u64,
}

impl VmaState {
    const fn new(address: u64) -> Self {
        Self {
            address,
            settled: 0,
            pending: 0,
            next: 0,
            change: Change::Write,
            changer: NONE,
            change_until: 0,
            perhaps: Tasks::none(),
            went: [(NONE, 0); WENT],
            forgotten_ns: 0,
        }
    }
}

/// All tasks and VMAs.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    tasks: Vec<TaskState>,
    vmas: Vec<VmaState>,
}

impl Tables {
    /// A task has an event: what it was about to do it has done, unless this is just another sign of it. Gives the time
    /// of its event before this one, or 0.
    #[inline]
    pub(super) fn step(&mut self, t: u32, event: &Event) -> u64 {
        let at = t as usize;
        let new = TaskState {
            tid: event.header.tid,
            last_ns: 0,
            perhaps: NONE,
            changes: NONE,
        };
        if at >= self.tasks.len() {
            self.tasks.resize(at + 1, new);
        }
        let task = &mut self.tasks[at];
        if task.tid != event.header.tid {
            *task = new;
        }
        let ts_ns = event.header.ts_ns;
        let prev_ns = core::mem::replace(&mut task.last_ns, ts_ns);
        if task.perhaps != NONE {
            let v = core::mem::replace(&mut task.perhaps, NONE);
            self.went(t, v, event);
        }
        let changed = core::mem::replace(&mut self.tasks[at].changes, NONE);
        if let Some(vma) = self.vmas.get_mut(changed as usize)
            && vma.changer == t
        {
            vma.change_until = ts_ns;
        }
        prev_ns
    }

    fn went(&mut self, t: u32, v: u32, event: &Event) {
        let Some(vma) = self.vmas.get_mut(v as usize) else {
            return;
        };
        // Several probes may tell of one release before it is done.
        let again = matches!(
            event.kind,
            Kind::VmaReadRelease | Kind::VmaReadTemporary | Kind::LockdepRelease
        ) && event.vma() == Some(vma.address);
        vma.perhaps.remove(t);
        if again {
            return;
        }
        let at = usize::from(vma.next);
        vma.forgotten_ns = vma.forgotten_ns.max(vma.went[at].1);
        vma.went[at] = (t, event.header.ts_ns);
        vma.next = (vma.next + 1) % WENT as u8;
    }

    /// The slot is that of the VMA with this address, from now on.
    #[inline]
    pub(super) fn vma(&mut self, v: u32, address: u64) {
        let at = v as usize;
        if at >= self.vmas.len() {
            self.vmas.resize(at + 1, VmaState::new(0));
        }
        if self.vmas[at].address != address {
            self.vmas[at] = VmaState::new(address);
        }
    }

    /// The task may be inside the VMA until its next event.
    #[inline]
    pub(super) fn perhaps(&mut self, t: u32, v: u32) {
        self.tasks[t as usize].perhaps = v;
        self.vmas[v as usize].perhaps.add(t);
    }

    /// The task changes the VMA until its next event.
    pub(super) fn change(&mut self, t: u32, v: u32, change: Change) {
        self.tasks[t as usize].changes = v;
        let vma = &mut self.vmas[v as usize];
        (vma.changer, vma.change, vma.change_until) = (t, change, u64::MAX);
    }

    /// The VMA's count is just what is known.
    #[inline]
    pub(super) fn settle(&mut self, v: u32, epoch: u32) {
        self.vmas[v as usize].settled = epoch;
    }

    pub(super) fn settled(&self, v: u32) -> u32 {
        self.vmas[v as usize].settled
    }

    /// What was seen of a VMA since `from_ns`, the task `own` left out.
    pub(super) fn in_window(&self, v: u32, own: u32, from_ns: u64) -> Seen {
        let vma = &self.vmas[v as usize];
        let mut tasks = vma.perhaps;
        for &(task, until_ns) in &vma.went {
            if until_ns > from_ns && task != own {
                tasks.add(task);
            }
        }
        tasks.remove(own);
        tasks.full |= vma.forgotten_ns > from_ns;
        let changed = vma.change_until > from_ns;
        Seen {
            tasks,
            changed,
            joining: changed && vma.change == Change::Attach,
        }
    }

    #[inline]
    pub(super) fn pending_of(&self, v: u32) -> u32 {
        self.vmas[v as usize].pending
    }

    pub(super) fn waits(&mut self, v: u32) {
        self.vmas[v as usize].pending += 1;
    }

    pub(super) fn waits_no_more(&mut self, v: u32) {
        let pending = &mut self.vmas[v as usize].pending;
        *pending = pending.saturating_sub(1);
    }

    pub(super) fn forget_pending(&mut self) {
        for vma in &mut self.vmas {
            vma.pending = 0;
        }
    }
}
