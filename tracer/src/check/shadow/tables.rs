//! What the shadow remembers of VMAs, address spaces and tasks, by their slots in the engine.

/// One address space.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MmShadow {
    pub address: u64,
    /// The state of knowledge in which `seq` is known; 0: it is not.
    pub epoch: u32,
    /// What `mm_lock_seq` is now; odd under a writer.
    pub seq: u32,
    /// The writer, or who was it last: its thread.
    pub writer: u32,
    /// When `seq` became what it is, in nanoseconds.
    pub since_ns: u64,
    /// The last writer may not have made it even before this time.
    pub until_ns: u64,
}

/// One VMA.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct VmaShadow {
    pub address: u64,
    /// The state of knowledge in which `seq` is known; 0: it is not.
    pub epoch: u32,
    pub seq: u32,
}

/// One task.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TaskShadow {
    /// The VMA that it has read under its lock, and since when it holds it.
    pub hold: (u64, u64),
    pub vm_lock_seq: u32,
    /// The address space whose writer it was until its next event: its slot and one.
    pub leaves: u32,
}

/// Slots of one kind, made when they are needed.
#[derive(Clone, Debug)]
pub(super) struct Slots<T>(Vec<T>);

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy + Default> Slots<T> {
    #[inline]
    pub(super) fn get(&mut self, slot: u32) -> &mut T {
        let at = slot as usize;
        if at >= self.0.len() {
            self.0.resize(at + 1, T::default());
        }
        &mut self.0[at]
    }
}
