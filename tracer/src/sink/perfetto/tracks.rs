//! Tracks: one for each task, and beneath it lanes for what overlaps.

use std::collections::HashMap;

use tracer_common::wire::COMM_LEN;

/// What a lane shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Waits = 0,
    MmapHolds = 1,
    ReadHolds = 2,
    WriteHolds = 3,
    OffCpu = 4,
}

impl Lane {
    pub(super) const COUNT: usize = 5;

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Waits => "waits",
            Self::MmapHolds => "holds mmap_lock",
            Self::ReadHolds => "holds VMAs for reading",
            Self::WriteHolds => "holds VMAs for writing",
            Self::OffCpu => "off CPU",
        }
    }
}

/// A track to be described before it is used.
#[derive(Debug)]
pub(super) enum New {
    Process {
        uuid: u64,
        pid: u32,
    },
    Thread {
        uuid: u64,
        pid: u32,
        tid: u32,
        comm: [u8; COMM_LEN],
    },
    Lane {
        uuid: u64,
        parent: u64,
        lane: Lane,
    },
}

/// One task.
#[derive(Debug)]
struct Thread {
    uuid: u64,
    pid: u32,
    comm: [u8; COMM_LEN],
    /// Number of the track, and when its last slice ended: slices of a track must not overlap.
    lanes: [Vec<(u64, u64)>; Lane::COUNT],
}

/// Above so many tasks their tracks are forgotten; those who come again get new ones.
const MOST: usize = 1 << 15;

/// All tracks.
#[derive(Debug, Default)]
pub(super) struct Tracks {
    threads: HashMap<u32, Thread, rustc_hash::FxBuildHasher>,
    processes: HashMap<u32, u64, rustc_hash::FxBuildHasher>,
    next: u64,
    new: Vec<New>,
}

impl Tracks {
    /// A number that no other track has.
    pub(super) fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Those that are to be described.
    pub(super) fn take_new(&mut self) -> Vec<New> {
        core::mem::take(&mut self.new)
    }

    pub(super) fn has_new(&self) -> bool {
        !self.new.is_empty()
    }

    /// The track of a task.
    pub(super) fn thread(&mut self, pid: u32, tid: u32, comm: [u8; COMM_LEN]) -> u64 {
        self.find(pid, tid, comm).uuid
    }

    fn find(&mut self, pid: u32, tid: u32, comm: [u8; COMM_LEN]) -> &mut Thread {
        if self.threads.len() > MOST {
            self.threads.clear();
            self.processes.clear();
        }
        let Self {
            threads,
            processes,
            next,
            new,
        } = self;
        let thread = threads.entry(tid).or_insert_with(|| Thread {
            uuid: 0,
            pid,
            comm,
            lanes: Default::default(),
        });
        let reused = thread.pid != pid;
        if thread.uuid == 0 || reused {
            processes.entry(pid).or_insert_with(|| {
                *next += 1;
                new.push(New::Process { uuid: *next, pid });
                *next
            });
            *next += 1;
            thread.uuid = *next;
            thread.pid = pid;
            thread.lanes = Default::default();
        } else if thread.comm == comm {
            return thread;
        }
        thread.comm = comm;
        new.push(New::Thread {
            uuid: thread.uuid,
            pid,
            tid,
            comm,
        });
        thread
    }

    /// A track for a slice; slices of one lane come in the order of their ends.
    pub(super) fn lane(
        &mut self,
        (pid, tid): (u32, u32),
        comm: [u8; COMM_LEN],
        lane: Lane,
        begin_ns: u64,
        end_ns: u64,
    ) -> u64 {
        let thread = self.find(pid, tid, comm);
        let parent = thread.uuid;
        let free = thread.lanes[lane as usize]
            .iter_mut()
            .find(|(_, last)| *last <= begin_ns);
        if let Some((uuid, last)) = free {
            *last = end_ns.max(*last);
            return *uuid;
        }
        self.next += 1;
        let uuid = self.next;
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.lanes[lane as usize].push((uuid, end_ns));
        }
        self.new.push(New::Lane { uuid, parent, lane });
        uuid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: [u8; COMM_LEN] = *b"work\0\0\0\0\0\0\0\0\0\0\0\0";

    #[test]
    fn what_overlaps_lies_on_tracks_of_its_own() {
        let mut tracks = Tracks::default();
        let mut lane = |begin, end| tracks.lane((1, 2), NAME, Lane::ReadHolds, begin, end);
        let first = lane(10, 20);
        let overlaps = lane(15, 25);
        assert_ne!(first, overlaps);
        assert_eq!(lane(20, 30), first);
        assert_eq!(lane(26, 31), overlaps);
        // A process, a thread, two lanes.
        assert_eq!(tracks.take_new().len(), 4);
    }

    #[test]
    fn a_tid_of_another_process_is_another_task() {
        let mut tracks = Tracks::default();
        let one = tracks.thread(1, 2, NAME);
        assert_eq!(tracks.thread(1, 2, NAME), one);
        assert_ne!(tracks.thread(3, 2, NAME), one);
        let mut other = NAME;
        other[0] = b'x';
        tracks.take_new();
        tracks.thread(3, 2, other);
        assert!(matches!(tracks.take_new()[..], [New::Thread { tid: 2, .. }]));
    }
}
