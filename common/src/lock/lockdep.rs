//! A lockdep in small: what each task holds, exactly, and the order in which classes are taken.
//!
//! It keeps the kernel's quirks on purpose. A temporary reader counts as a holder, because the lock
//! tells lockdep right after raising `vm_refcnt`; so does a task that excludes readers. A VMA write
//! lock is not tracked at all: only the mmap_lock it hangs on is. And once switched off, every
//! question is answered with "unknown", which C reads as yes.

use super::assertion::HeldAnswer;

/// The two classes of this lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum LockClass {
    /// `mm->mmap_lock`.
    MmapLock,
    /// `vma->vmlock_dep_map`, in reports "vm_lock".
    VmLock,
}

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Together with other readers.
    Shared,
    /// Alone.
    Exclusive,
}

/// One held lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Held {
    /// Its class.
    pub class: LockClass,
    /// Which lock of the class: the number of the mm or of the VMA.
    pub instance: u32,
    /// How.
    pub mode: Mode,
}

/// A mistake that lockdep reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Complaint {
    /// A class is waited for while holding one that is elsewhere taken after it.
    Inversion {
        /// What is held.
        holding: LockClass,
        /// What is being taken.
        taking: LockClass,
    },
    /// The very lock is already held by this task, and at least one of the two is exclusive, or a
    /// writer in between would block both.
    Recursion(LockClass),
    /// Released without being held.
    NotHeld(LockClass),
    /// More locks at once than the table has room for.
    TooMany,
}

/// Which class was ever waited for while holding which: one bit per pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Order(pub u8);

impl Order {
    /// The bit for "`taking` was waited for while holding `holding`".
    #[inline]
    #[must_use]
    pub const fn bit(holding: LockClass, taking: LockClass) -> u8 {
        1 << (holding as u8 * 2 + taking as u8)
    }
}

/// The locks one task holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct HeldLocks {
    entries: [Option<Held>; Self::CAPACITY],
}

impl HeldLocks {
    /// How many locks a task can hold at once. The longest chain of this lock is two; the rest is
    /// room for a task that wrongly takes more, so that the mistake is reported and not the table.
    pub const CAPACITY: usize = 4;

    /// Notes a lock as taken. `trylock` says that the task could not have waited, which creates no
    /// order: the VMA read lock is announced so.
    ///
    /// Returns the order bits that this acquisition adds, to be merged into the world's.
    ///
    /// # Errors
    /// The mistake, if it is one. The lock is noted all the same, where there is room.
    #[inline]
    pub fn acquire(&mut self, lock: Held, trylock: bool, order: Order) -> Result<Order, Complaint> {
        let mut added = Order(0);
        let mut complaint = None;
        if !trylock {
            for held in self.iter() {
                if held.class == lock.class {
                    if held.instance == lock.instance {
                        complaint = Some(Complaint::Recursion(lock.class));
                    }
                    continue;
                }
                added.0 |= Order::bit(held.class, lock.class);
                if order.0 & Order::bit(lock.class, held.class) != 0 {
                    complaint = Some(Complaint::Inversion {
                        holding: held.class,
                        taking: lock.class,
                    });
                }
            }
        }
        match self.entries.iter_mut().find(|e| e.is_none()) {
            Some(entry) => *entry = Some(lock),
            None => complaint = Some(Complaint::TooMany),
        }
        complaint.map_or(Ok(added), Err)
    }

    /// Notes a lock as released.
    ///
    /// # Errors
    /// If this task does not hold it.
    #[inline]
    pub fn release(&mut self, class: LockClass, instance: u32) -> Result<(), Complaint> {
        let found = self
            .entries
            .iter()
            .position(|e| matches!(e, Some(h) if h.class == class && h.instance == instance))
            .ok_or(Complaint::NotHeld(class))?;
        // Close the gap, so that equal sets of locks taken in the same order compare equal.
        for at in found..Self::CAPACITY {
            self.entries[at] = self.entries.get(at + 1).copied().flatten();
        }
        Ok(())
    }

    /// Turns an exclusively held lock into a shared one.
    ///
    /// # Errors
    /// If this task does not hold it exclusively.
    pub fn downgrade(&mut self, class: LockClass, instance: u32) -> Result<(), Complaint> {
        let exclusive = Held {
            class,
            instance,
            mode: Mode::Exclusive,
        };
        let entry = self
            .entries
            .iter_mut()
            .find(|e| **e == Some(exclusive))
            .ok_or(Complaint::NotHeld(class))?;
        *entry = Some(Held {
            mode: Mode::Shared,
            ..exclusive
        });
        Ok(())
    }

    /// All held locks, in the order they were taken.
    pub fn iter(&self) -> impl Iterator<Item = Held> + '_ {
        self.entries.iter().map_while(|e| *e)
    }

    /// Does this task hold the lock in this mode (`None`: in any)?
    #[inline]
    #[must_use]
    pub fn holds(&self, class: LockClass, instance: u32, mode: Option<Mode>) -> bool {
        self.iter()
            .any(|h| h.class == class && h.instance == instance && mode.is_none_or(|mode| mode == h.mode))
    }

    /// The same question, answered the way `lock_is_held` answers it.
    #[inline]
    #[must_use]
    pub fn lock_is_held(
        &self,
        debug_locks: bool,
        class: LockClass,
        instance: u32,
        mode: Option<Mode>,
    ) -> HeldAnswer {
        if !debug_locks {
            return HeldAnswer::Unknown;
        }
        HeldAnswer::from_held(self.holds(class, instance, mode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MMAP: Held = Held {
        class: LockClass::MmapLock,
        instance: 0,
        mode: Mode::Exclusive,
    };
    const VMA_READ: Held = Held {
        class: LockClass::VmLock,
        instance: 7,
        mode: Mode::Shared,
    };
    const VMA_WRITE: Held = Held {
        mode: Mode::Exclusive,
        ..VMA_READ
    };

    #[test]
    fn a_reader_that_takes_the_mmap_lock_inverts_the_writers_order() {
        let mut writer = HeldLocks::default();
        let mut order = writer.acquire(MMAP, false, Order(0)).unwrap();
        order.0 |= writer.acquire(VMA_WRITE, false, order).unwrap().0;

        let mut reader = HeldLocks::default();
        reader.acquire(VMA_READ, true, order).unwrap();
        assert_eq!(
            reader.acquire(
                Held {
                    mode: Mode::Shared,
                    ..MMAP
                },
                false,
                order
            ),
            Err(Complaint::Inversion {
                holding: LockClass::VmLock,
                taking: LockClass::MmapLock
            })
        );
    }

    #[test]
    fn a_trylock_creates_no_order() {
        let mut task = HeldLocks::default();
        task.acquire(MMAP, false, Order(0)).unwrap();
        assert_eq!(task.acquire(VMA_READ, true, Order(0)), Ok(Order(0)));
    }

    #[test]
    fn taking_the_same_lock_again_is_reported() {
        let mut task = HeldLocks::default();
        let shared = Held {
            mode: Mode::Shared,
            ..MMAP
        };
        task.acquire(shared, false, Order(0)).unwrap();
        assert_eq!(
            task.acquire(shared, false, Order(0)),
            Err(Complaint::Recursion(LockClass::MmapLock))
        );
    }

    #[test]
    fn answers_are_exact_until_switched_off() {
        let mut task = HeldLocks::default();
        let ask = |t: &HeldLocks, on| t.lock_is_held(on, LockClass::VmLock, 7, None);
        assert_eq!(ask(&task, true), HeldAnswer::NotHeld);
        task.acquire(VMA_READ, true, Order(0)).unwrap();
        assert_eq!(ask(&task, true), HeldAnswer::Held);
        assert_eq!(ask(&task, false), HeldAnswer::Unknown);
        task.release(LockClass::VmLock, 7).unwrap();
        assert_eq!(
            task.release(LockClass::VmLock, 7),
            Err(Complaint::NotHeld(LockClass::VmLock))
        );
        assert_eq!(task, HeldLocks::default());
    }

    #[test]
    fn downgrade_keeps_the_lock() {
        let mut task = HeldLocks::default();
        task.acquire(MMAP, false, Order(0)).unwrap();
        task.downgrade(LockClass::MmapLock, 0).unwrap();
        assert!(task.holds(LockClass::MmapLock, 0, Some(Mode::Shared)));
        assert!(task.downgrade(LockClass::MmapLock, 0).is_err());
    }
}
