//! What a workload did, as the kernel must have seen it.

use serde_json::{Map, Value, json};

use crate::sys::Faults;

macro_rules! counts {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $is_fault:literal;)*) => {
        /// Something that is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Count { $($(#[$doc])* $variant,)* }

        impl Count {
            const ALL: &[(Self, &'static str, bool)] = &[$((Self::$variant, $name, $is_fault),)*];
        }
    };
}

counts! {
    /// First write or read of an anonymous page: one fault.
    Touches = "touches", true;
    /// Write to a page that is mapped read-only: one fault.
    WpFaults = "wp_faults", true;
    /// First access to a page of a file.
    FileFaults = "file_faults", true;
    /// First access to a page of shared memory.
    ShmemFaults = "shmem_faults", true;
    /// First access to a page from hugetlbfs.
    HugeFaults = "huge_faults", true;
    /// Access to a page in swap space.
    SwapFaults = "swap_faults", true;
    /// Access that is resolved through userfaultfd.
    UffdFaults = "uffd_faults", true;
    /// Access that ended in a signal: a fault that getrusage does not count.
    Signals = "signals", false;
    /// mmap.
    Mmap = "mmap_calls", false;
    /// munmap.
    Munmap = "munmap_calls", false;
    /// mprotect.
    Mprotect = "mprotect_calls", false;
    /// madvise.
    Madvise = "madvise_calls", false;
    /// Those of the madvise calls that take mmap_lock for writing.
    MadviseWrite = "madvise_write_calls", false;
    /// mremap.
    Mremap = "mremap_calls", false;
    /// fork (as clone).
    Forks = "forks", false;
    /// Growth of a stack mapping by a fault below it.
    Expansions = "stack_expansions", false;
    /// Faults that children took where it is known how many.
    ChildFaults = "child_faults", false;
    /// UFFDIO_COPY.
    UffdCopy = "uffd_copy_calls", false;
    /// UFFDIO_ZEROPAGE.
    UffdZero = "uffd_zeropage_calls", false;
    /// UFFDIO_CONTINUE.
    UffdContinue = "uffd_continue_calls", false;
    /// UFFDIO_WRITEPROTECT.
    UffdWp = "uffd_writeprotect_calls", false;
    /// UFFDIO_MOVE.
    UffdMove = "uffd_move_calls", false;
    /// UFFDIO_POISON.
    UffdPoison = "uffd_poison_calls", false;
    /// Messages read from a userfaultfd.
    UffdMessages = "uffd_messages", false;
    /// open of a file in /proc.
    Opens = "proc_opens", false;
    /// read of a file in /proc.
    Reads = "proc_reads", false;
    /// Lines that began a mapping.
    MapLines = "map_lines", false;
    /// PROCMAP_QUERY that found a mapping.
    QueryFound = "queries_found", false;
    /// PROCMAP_QUERY that found none.
    QueryMissed = "queries_missed", false;
    /// getsockopt TCP_ZEROCOPY_RECEIVE.
    Zerocopy = "zerocopy_calls", false;
    /// Bytes that were mapped rather than copied.
    BytesMapped = "bytes_mapped", false;
    /// Bytes touched, copied or transferred.
    Bytes = "bytes", false;
}

/// How often each thing was done.
#[derive(Debug, Clone)]
pub(crate) struct Counts([u64; Count::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; Count::ALL.len()])
    }
}

impl Counts {
    /// Adds to one count.
    pub(crate) fn add(&mut self, count: Count, n: usize) {
        self.0[count as usize] += n as u64;
    }

    /// One count.
    pub(crate) fn get(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    /// Adds another's.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// The faults that the kernel must have counted.
    pub(crate) fn faults(&self) -> u64 {
        Count::ALL
            .iter()
            .filter(|(_, _, is_fault)| *is_fault)
            .map(|(count, _, _)| self.get(*count))
            .sum()
    }

    /// Calls that take mmap_lock of this process for writing, once each.
    pub(crate) fn mmap_writes(&self) -> u64 {
        [
            Count::Mmap,
            Count::Munmap,
            Count::Mprotect,
            Count::MadviseWrite,
            Count::Mremap,
            Count::Forks,
            Count::Expansions,
        ]
        .iter()
        .map(|count| self.get(*count))
        .sum()
    }
}

/// A child process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Child {
    /// Its process id.
    pub(crate) pid: i32,
    /// The faults that it was made to take.
    pub(crate) known: u64,
    /// The faults that the kernel counted, those on its text and its stack among them.
    pub(crate) counted: Faults,
}

/// The result of one workload.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// CLOCK_MONOTONIC when the measured part began.
    pub(crate) begin_ns: u64,
    /// CLOCK_MONOTONIC when it had ended.
    pub(crate) end_ns: u64,
    /// Thread ids, in order of their index, without the main thread.
    pub(crate) tids: Vec<i32>,
    /// Threads in all, sums of what they did.
    pub(crate) counts: Counts,
    /// Faults as the kernel counted them over the measured part, all threads.
    pub(crate) counted: Faults,
    /// Must the kernel's count equal ours?
    pub(crate) exact: bool,
    /// Children.
    pub(crate) children: Vec<Child>,
    /// What else there is to say about this workload.
    pub(crate) more: Map<String, Value>,
}

impl Report {
    /// Adds a member of its own.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.more.insert(name.into(), value.into());
    }

    /// As JSON. The counts that every workload has are always there; others only if they are not 0.
    pub(crate) fn json(&self, name: &str) -> Value {
        let mut all = Map::new();
        all.insert("workload".into(), name.into());
        all.insert("kernel".into(), crate::kernel_release().into());
        all.insert("pid".into(), std::process::id().into());
        all.insert("tids".into(), self.tids.clone().into());
        all.insert("begin_ns".into(), self.begin_ns.into());
        all.insert("end_ns".into(), self.end_ns.into());
        all.insert("exact".into(), self.exact.into());
        all.insert("mmap_write_locks".into(), self.counts.mmap_writes().into());
        all.insert("faults".into(), self.counts.faults().into());
        all.insert("ru_minflt".into(), self.counted.minor.into());
        all.insert("ru_majflt".into(), self.counted.major.into());
        const ALWAYS: [Count; 7] = [
            Count::Touches,
            Count::WpFaults,
            Count::Mmap,
            Count::Munmap,
            Count::Mprotect,
            Count::Madvise,
            Count::Forks,
        ];
        for (count, key, _) in Count::ALL {
            let n = self.counts.get(*count);
            if n != 0 || ALWAYS.contains(count) {
                all.insert((*key).into(), n.into());
            }
        }
        if !self.children.is_empty() {
            let children: Vec<Value> = self
                .children
                .iter()
                .map(|c| json!({"pid": c.pid, "faults": c.known, "ru_minflt": c.counted.minor, "ru_majflt": c.counted.major}))
                .collect();
            all.insert("children".into(), children.into());
        }
        all.extend(self.more.clone());
        Value::Object(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_where_their_names_are() {
        for (at, (count, _, _)) in Count::ALL.iter().enumerate() {
            assert_eq!(*count as usize, at);
        }
    }

    #[test]
    fn faults_and_write_locks_are_sums_of_what_was_done() {
        let mut counts = Counts::default();
        counts.add(Count::Touches, 3);
        counts.add(Count::WpFaults, 2);
        counts.add(Count::Signals, 5);
        counts.add(Count::Mmap, 1);
        counts.add(Count::Madvise, 4);
        counts.add(Count::MadviseWrite, 1);
        let mut twice = counts.clone();
        twice.merge(&counts);
        assert_eq!((counts.faults(), twice.faults()), (5, 10));
        assert_eq!((counts.mmap_writes(), twice.mmap_writes()), (2, 4));
        let json = Report {
            counts,
            ..Report::default()
        }
        .json("x");
        assert_eq!(json["touches"], 3);
        assert_eq!(json["munmap_calls"], 0, "the usual counts are always there");
        assert!(json.get("uffd_copy_calls").is_none());
    }
}
