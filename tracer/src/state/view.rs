//! Reading the state: what is held and awaited, with the certainty that it has at this moment.

use tracer_common::wire::{Event, Provenance};

use super::lock::Writer;
use super::{Engine, Faults, Hold, Lock, Mm, Place, Task, Vma, Wait, WriteLocked};

/// One task, as it is now.
#[derive(Clone, Copy)]
pub struct TaskView<'a> {
    pub(super) engine: &'a Engine,
    pub(super) task: &'a Task,
    pub(super) key: u32,
}

/// One VMA, as it is now.
#[derive(Clone, Copy)]
pub struct VmaView<'a> {
    pub(super) engine: &'a Engine,
    pub(super) vma: &'a Vma,
    /// Address of the `vm_area_struct`.
    pub address: u64,
}

/// One lock that one task holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Which lock, since when, and how surely.
    pub hold: Hold,
}

/// One address space, as it is now.
#[derive(Clone, Copy)]
pub struct MmView<'a> {
    pub(super) engine: &'a Engine,
    pub(super) mm: &'a Mm,
    /// Address of the `mm_struct`.
    pub address: u64,
}

/// What one task has under way, as whoever asks at every event needs it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Busy {
    /// It holds or awaits a lock, or is in a fault.
    pub(crate) is_busy: bool,
    /// Since when it has held what it has held longest.
    pub(crate) hold_since_ns: Option<u64>,
    /// Since when it has waited for what it has waited for longest.
    pub(crate) wait_since_ns: Option<u64>,
}

/// What holds for all tasks together, as it is now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// Tasks that are remembered.
    pub tasks: usize,
    /// How many of each [`Lock`] are held, doubtful ones included.
    pub held: [u64; 4],
    /// How many wait for each [`Lock`].
    pub waiting: [u64; 4],
    /// Page faults, those of tasks included that had to make room.
    pub faults: Faults,
}

impl Engine {
    /// All tasks that are remembered, in no particular order.
    pub fn tasks(&self) -> impl Iterator<Item = TaskView<'_>> {
        self.tasks.iter_ahead(Task::fetch).map(|(key, task)| TaskView {
            engine: self,
            task,
            key: u32::try_from(key).unwrap_or(u32::MAX),
        })
    }

    /// The task that an event is of, if it is remembered.
    pub fn task_at(&self, event: &Event) -> Option<TaskView<'_>> {
        let key = super::task_key(event);
        let (_, task) = self.tasks.peek_slot(u64::from(key))?;
        (task.pid == event.header.pid).then_some(TaskView {
            engine: self,
            task,
            key,
        })
    }

    /// What the task of an event has under way. Write locks of VMAs are not looked at: an `mmap_lock` is held around them.
    #[inline]
    pub(crate) fn busy(&self, event: &Event) -> Busy {
        let Some(TaskView { task, .. }) = self.task_at(event) else {
            return Busy::default();
        };
        let held = task.holds.iter().map(|hold| hold.since_ns);
        let told = task.tentative.iter().map(|tentative| tentative.since_ns);
        Busy {
            is_busy: !(task.holds.is_empty()
                && task.waits.is_empty()
                && task.frames.is_empty()
                && task.tentative.is_empty()),
            hold_since_ns: held.chain(told).min(),
            wait_since_ns: task.waits.iter().map(|wait| wait.since_ns).min(),
        }
    }

    /// How many tasks, VMAs and address spaces are remembered.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (
            self.tasks.iter().count(),
            self.vmas.iter().count(),
            self.mms.iter().count(),
        )
    }

    /// All VMAs that are remembered, in no particular order.
    pub fn vmas(&self) -> impl Iterator<Item = VmaView<'_>> {
        self.vmas.iter().map(|(address, vma)| VmaView {
            engine: self,
            vma,
            address,
        })
    }

    /// All address spaces that are remembered, in no particular order.
    pub fn mms(&self) -> impl Iterator<Item = MmView<'_>> {
        self.mms.iter().map(|(address, mm)| MmView {
            engine: self,
            mm,
            address,
        })
    }

    /// The task with that small number (see [`super::Who`]), which has to be remembered still.
    pub fn task_of(&self, slot: u32) -> TaskView<'_> {
        TaskView {
            engine: self,
            task: &self.tasks[slot],
            key: self.key(slot),
        }
    }

    /// Calls `each` for whoever waits for a lock that a hold like this is in the way of: with the small number of the
    /// task, its tid, and since when it waits.
    pub fn waits_for(&self, lock: Lock, place: Place, mut each: impl FnMut(u32, u32, u64)) {
        let mut see = |key: u32, wanted: &dyn Fn(&Wait) -> bool| {
            if let Some((slot, task)) = self.tasks.peek_slot(u64::from(key))
                && let Some(wait) = task.waits.iter().find(|wait| wanted(wait))
            {
                each(slot, task.tid, wait.since_ns);
            }
        };
        match lock {
            Lock::MmapRead | Lock::MmapWrite => {
                let Some(mm) = self.mms.peek(place.mm) else { return };
                for &key in mm.waiters.iter() {
                    see(key, &|wait| {
                        let conflict = lock == Lock::MmapWrite || wait.lock == Lock::MmapWrite;
                        wait.mm == place.mm && wait.vma == 0 && conflict
                    });
                }
            }
            Lock::VmaRead => {
                if let Some(key) = self.vmas.peek(place.vma).and_then(|vma| vma.waiting_writer) {
                    see(key, &|wait| wait.lock == Lock::VmaWrite && wait.vma == place.vma);
                }
            }
            // Readers that meet a write-locked VMA do not wait for it: they go for the mmap_lock.
            Lock::VmaWrite => {}
        }
    }

    /// Everything that is held at this instant, by whom, and how surely, in no particular order. It looks at each
    /// task once and takes no memory: meant for samples.
    pub fn held_set(&self) -> impl Iterator<Item = Held> + '_ {
        self.tasks()
            .filter(|view| !view.task.holds.is_empty())
            .flat_map(|view| {
                let (pid, tid) = (view.task.pid, view.task.tid);
                view.holds().map(move |hold| Held { pid, tid, hold })
            })
    }

    /// How many of each [`Lock`] are held now, doubtful ones included.
    pub fn held(&self) -> [u64; 4] {
        self.standing().held
    }

    /// What holds for all tasks together. Goes through them once.
    pub fn standing(&self) -> Standing {
        let mut all = Standing {
            faults: self.aged_counters.faults(),
            ..Standing::default()
        };
        for (_, task) in self.tasks.iter_ahead(Task::fetch_standing) {
            all.tasks += 1;
            all.faults.add(&task.counters.user_faults);
            all.faults.add(&task.counters.kernel_faults);
            for hold in task.holds.iter() {
                all.held[hold.lock as usize] += 1;
            }
            for wait in task.waits.iter() {
                all.waiting[wait.lock as usize] += 1;
            }
        }
        for (_, mm) in self.mms.iter() {
            all.held[Lock::VmaWrite as usize] += mm.write_count();
        }
        all
    }

    /// Whether both sides of everything agree: a hold or wait and the lock that it is of.
    ///
    /// # Errors
    /// In words, what does not.
    #[doc(hidden)]
    pub fn audit(&self) -> Result<(), String> {
        let mut links: std::collections::BTreeMap<u64, u32> = std::collections::BTreeMap::new();
        for (key, task) in self.tasks.iter() {
            for hold in task.holds.iter().filter(|hold| hold.lock == Lock::VmaRead) {
                *links.entry(hold.mm).or_default() += 1;
            }
            for wait in task.waits.iter().filter(|wait| wait.lock == Lock::VmaWrite) {
                *links.entry(wait.mm).or_default() += 1;
                let vma = self.vmas.peek(wait.vma);
                if vma.is_none_or(|vma| vma.waiting_writer != u32::try_from(key).ok()) {
                    return Err(format!(
                        "task {key} waits for VMA {:#x}, which does not know",
                        wait.vma
                    ));
                }
            }
        }
        // 0 is an mm that is not known.
        links.remove(&0);
        for (address, mm) in self.mms.iter() {
            let found = links.remove(&address).unwrap_or(0);
            if mm.links != found {
                return Err(format!("mm {address:#x} counts {} links of {found}", mm.links));
            }
            let gone = mm.write_locked.iter().filter(|locked| locked.gone).count();
            if gone as u64 + mm.write_count() != mm.write_locked.len() as u64 {
                return Err(format!("mm {address:#x} counts {} of {gone} gone", mm.write_gone));
            }
            let mut vmas: Vec<u64> = mm.write_held().map(|(_, locked)| locked.vma).collect();
            vmas.sort_unstable();
            if let Some(twice) = vmas.windows(2).find(|pair| pair[0] == pair[1]) {
                let forgotten = self.vmas.aged().0 > 0;
                if !forgotten {
                    return Err(format!("VMA {:#x} is write-locked twice", twice[0]));
                }
            }
        }
        for (address, vma) in self.vmas.iter() {
            let Some(key) = vma.waiting_writer else { continue };
            let task = self.tasks.peek(u64::from(key));
            if task.is_none_or(|task| !task.waits.iter().any(|wait| wait.vma == address)) {
                return Err(format!(
                    "VMA {address:#x} is awaited by task {key}, which does not know"
                ));
            }
        }
        match links.first_key_value() {
            Some((mm, links)) => Err(format!("mm {mm:#x} is not known and has {links} links")),
            None => Ok(()),
        }
    }

    /// Releases whose meaning only the next event of their task will tell.
    pub fn open_releases(&self) -> u64 {
        self.tasks
            .iter()
            .filter(|(_, task)| task.open_put.is_some_and(|put| !put.by_lockdep))
            .count() as u64
    }

    pub(super) fn now(&self, certainty: Provenance, epoch: u32) -> Provenance {
        if epoch == self.epoch {
            certainty
        } else {
            Provenance::Unknown
        }
    }

    fn tid(&self, key: u32) -> u32 {
        self.tasks.peek(u64::from(key)).map_or(0, |task| task.tid)
    }
}

/// One address space, as a check of every event sees it.
pub(crate) struct MmEntry<'a> {
    engine: &'a Engine,
    mm: &'a Mm,
    /// Address of the `mm_struct`.
    pub(crate) address: u64,
    /// A small number that it keeps while it is remembered.
    pub(crate) slot: u32,
}

/// One VMA, as a check of every event sees it.
pub(crate) struct VmaEntry<'a> {
    engine: &'a Engine,
    vma: &'a Vma,
    read_by_current: bool,
    /// Address of the `vm_area_struct`.
    pub(crate) address: u64,
    /// A small number that it keeps while it is remembered.
    pub(crate) slot: u32,
}

impl Engine {
    /// A small number for the task of the latest event, which it keeps while it is remembered.
    #[inline]
    pub(crate) fn current_task(&self) -> u32 {
        self.current
    }

    /// The state of knowledge: another number after each gap, never 0.
    #[inline]
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    #[inline]
    pub(crate) fn vma_entry(&self, address: u64) -> Option<VmaEntry<'_>> {
        let (slot, vma) = self.vmas.peek_slot(address)?;
        let current = self.key(self.current);
        Some(VmaEntry {
            engine: self,
            vma,
            read_by_current: vma.readers.contains(&current),
            address,
            slot,
        })
    }
}

impl Engine {
    #[inline]
    pub(crate) fn mm_entry(&self, address: u64) -> Option<MmEntry<'_>> {
        let (slot, mm) = self.mms.peek_slot(address)?;
        Some(MmEntry {
            engine: self,
            mm,
            address,
            slot,
        })
    }

    /// How the task of the latest event holds that `mmap_lock`, as far as it is certain.
    #[inline]
    pub(crate) fn current_mmap_hold(&self, mm: u64) -> Option<&Hold> {
        self.tasks[self.current].holds.iter().rev().find(|hold| {
            hold.vma == 0
                && hold.mm == mm
                && hold.epoch == self.epoch
                && matches!(hold.lock, Lock::MmapRead | Lock::MmapWrite)
        })
    }
}

impl MmEntry<'_> {
    /// The thread that certainly holds the `mmap_lock` for writing, and since when.
    #[inline]
    pub(crate) fn writer(&self) -> Option<(u32, u64)> {
        let key = self.mm.writer?;
        let (_, task) = self.engine.tasks.peek_slot(u64::from(key))?;
        let hold = task.holds.iter().rev().find(|hold| {
            hold.lock == Lock::MmapWrite && hold.epoch == self.engine.epoch && hold.mm == self.address
        })?;
        Some((task.tid, hold.since_ns))
    }

    /// Whether somebody holds it for writing or waits for it, surely or not.
    #[inline]
    pub(crate) fn is_wanted(&self) -> bool {
        self.mm.writer.is_some() || !self.mm.waiters.is_empty()
    }

    /// Whether somebody certainly holds it for reading since that time at the latest, the task of the latest event
    /// not counted.
    pub(crate) fn is_read_since(&self, ts_ns: u64) -> bool {
        let engine = self.engine;
        let own = engine.key(engine.current);
        self.mm.readers.iter().any(|&key| {
            key != own
                && engine.tasks.peek_slot(u64::from(key)).is_some_and(|(_, task)| {
                    task.holds.iter().any(|hold| {
                        hold.lock == Lock::MmapRead
                            && hold.mm == self.address
                            && hold.epoch == engine.epoch
                            && hold.since_ns <= ts_ns
                            && hold.certainty <= Provenance::Derived
                    })
                })
        })
    }
}

impl VmaEntry<'_> {
    /// The thread that certainly holds it for writing.
    #[inline]
    pub(crate) fn write_locked_by(&self) -> Option<u32> {
        let writer = self
            .vma
            .writer
            .filter(|writer| writer.epoch == self.engine.epoch)?;
        let (_, mm) = self.engine.mms.peek_slot(self.vma.mm)?;
        (mm.write_life == writer.life).then(|| self.engine.tid(writer.task))
    }

    /// The thread that waits for its readers.
    #[inline]
    pub(crate) fn awaited_by(&self) -> Option<u32> {
        self.vma.waiting_writer.map(|key| self.engine.tid(key))
    }

    /// Threads that hold it for reading, surely or not.
    pub(crate) fn reader_tids(&self) -> impl Iterator<Item = u32> + '_ {
        self.vma.readers.iter().map(|&key| self.engine.tid(key))
    }

    /// The hold of the task of the latest event, as far as it is certain.
    #[inline]
    pub(crate) fn current_hold(&self) -> Option<&Hold> {
        let task = &self.engine.tasks[self.engine.current];
        task.read_of(self.address)
            .map(|at| &task.holds[at])
            .filter(|hold| hold.epoch == self.engine.epoch)
    }

    /// Tasks that hold it for reading, surely or not.
    #[inline]
    pub(crate) fn readers(&self) -> u32 {
        u32::try_from(self.vma.readers.len()).unwrap_or(u32::MAX)
    }

    /// Whether the task of the latest event is one of them.
    #[inline]
    pub(crate) fn is_read_by_current(&self) -> bool {
        self.read_by_current
    }

    #[inline]
    pub(crate) fn is_detached(&self) -> bool {
        self.vma.detached
    }

    /// Whether a writer keeps readers out, or waits for them.
    pub(crate) fn is_awaited(&self) -> bool {
        self.vma.waiting_writer.is_some()
    }

    /// Its readers by slot, and whether each has surely held it since that time at the latest.
    pub(crate) fn readers_since(&self, ts_ns: u64) -> impl Iterator<Item = (u32, bool)> + '_ {
        let engine = self.engine;
        self.vma.readers.iter().filter_map(move |&key| {
            let (t, task) = engine.tasks.peek_slot(u64::from(key))?;
            let hold = &task.holds[task.read_of(self.address)?];
            let surely = engine.now(hold.certainty, hold.epoch) <= Provenance::Derived;
            Some((t, surely && hold.since_ns <= ts_ns))
        })
    }
}

impl<'a> TaskView<'a> {
    /// Identity, time of the latest event, counters.
    pub fn task(&self) -> &'a Task {
        self.task
    }

    /// Everything that it holds; VMA write locks come last, in the order in which they were taken.
    pub fn holds(&self) -> impl Iterator<Item = Hold> + use<'a> {
        let engine = self.engine;
        let key = self.key;
        let task = self.task;
        let direct = task.holds.iter().map(move |hold| Hold {
            certainty: engine.now(hold.certainty, hold.epoch),
            ..*hold
        });
        let writes = task
            .holds
            .iter()
            .filter(|hold| hold.lock == Lock::MmapWrite)
            .filter_map(move |hold| Some((hold.mm, engine.mms.peek(hold.mm)?)))
            .filter(move |(_, mm)| mm.writer == Some(key))
            .flat_map(move |(address, mm)| {
                mm.write_held()
                    .map(move |(at, locked)| engine.as_hold(address, at, locked))
            });
        direct.chain(writes)
    }

    /// Everything that it waits for; a second entry is an interrupt's.
    pub fn waits(&self) -> impl Iterator<Item = Wait> + use<'a> {
        let engine = self.engine;
        self.task.waits.iter().map(move |wait| Wait {
            certainty: engine.now(wait.certainty, wait.epoch),
            ..*wait
        })
    }

    /// The faults that it is in, innermost last.
    pub fn frames(&self) -> &'a [super::Frame] {
        &self.task.frames
    }
}

impl Engine {
    /// The range is the latest that was seen: the writer may have changed it since it took the lock.
    pub(super) fn as_hold(&self, mm: u64, at: usize, locked: &WriteLocked) -> Hold {
        let vma = self.vmas.peek(locked.vma).filter(|vma| {
            let is_this = |writer: &Writer| writer.at as usize == at;
            vma.mm == mm && vma.vm_end != 0 && vma.writer.as_ref().is_some_and(is_this)
        });
        let (vm_start, vm_end) = match vma {
            Some(vma) => (vma.vm_start, vma.vm_end),
            None => (locked.vm_start, locked.vm_end),
        };
        Hold {
            lock: Lock::VmaWrite,
            certainty: self.now(Provenance::Observed, locked.epoch),
            start_known: true,
            start: Provenance::Observed,
            start_bound_ns: None,
            by_lockdep: false,
            epoch: locked.epoch,
            mm,
            vma: locked.vma,
            vm_start,
            vm_end,
            since_ns: locked.since_ns,
            stacks: (0, 0),
        }
    }
}

impl<'a> VmaView<'a> {
    /// Range, sequence numbers, whether it is detached.
    pub fn vma(&self) -> &'a Vma {
        self.vma
    }

    /// Threads that hold it for reading.
    pub fn readers(&self) -> impl Iterator<Item = u32> + use<'a> {
        let engine = self.engine;
        self.vma.readers.iter().map(move |&key| engine.tid(key))
    }

    /// The thread that holds it for writing.
    pub fn writer(&self) -> Option<u32> {
        self.writer_key().map(|key| self.engine.tid(key))
    }

    pub(super) fn writer_key(&self) -> Option<u32> {
        let writer = self.vma.writer?;
        let mm = self.engine.mms.peek(self.vma.mm)?;
        (mm.write_life == writer.life).then_some(writer.task)
    }

    /// How surely its readers and its writer are known: as the least sure of them.
    pub fn known(&self) -> Provenance {
        let reads = self.vma.readers.iter().filter_map(|&key| {
            let task = self.engine.tasks.peek(u64::from(key))?;
            let hold = &task.holds[task.read_of(self.address)?];
            Some(self.engine.now(hold.certainty, hold.epoch))
        });
        let writer = self.writer().and(self.vma.writer);
        let write = writer.map(|writer| self.engine.now(Provenance::Observed, writer.epoch));
        reads.chain(write).max().unwrap_or_default()
    }

    /// The thread that waits for its readers.
    pub fn waiting_writer(&self) -> Option<u32> {
        self.vma.waiting_writer.map(|key| self.engine.tid(key))
    }
}

impl<'a> MmView<'a> {
    /// Sequence number and counters.
    pub fn mm(&self) -> &'a Mm {
        self.mm
    }

    /// The thread that holds the `mmap_lock` for writing.
    pub fn writer(&self) -> Option<u32> {
        self.mm.writer.map(|key| self.engine.tid(key))
    }

    /// Threads that hold it for reading.
    pub fn readers(&self) -> impl Iterator<Item = u32> + use<'a> {
        let engine = self.engine;
        self.mm.readers.iter().map(move |&key| engine.tid(key))
    }

    /// Threads that wait for it, the longest first.
    pub fn waiters(&self) -> impl Iterator<Item = u32> + use<'a> {
        let engine = self.engine;
        self.mm.waiters.iter().map(move |&key| engine.tid(key))
    }

    /// VMAs that are write-locked until the write side ends.
    pub fn write_locked(&self) -> impl Iterator<Item = &'a WriteLocked> + use<'a> {
        self.mm.write_held().map(|(_, locked)| locked)
    }
}
