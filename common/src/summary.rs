//! What the kernel side sums up by itself (`--mode summary`): how long locks were held and waited for, in buckets, and
//! how often. Shared by both sides, so that a time falls into one bucket wherever it is sorted.

/// Buckets in each of which times below 4 ns, and then four to each power of two, up to [`LIMIT_NS`].
pub const BUCKETS: usize = 156;
/// From here on all times are in the last bucket: some 18 minutes.
pub const LIMIT_NS: u64 = 1 << 40;

/// The bucket of a time: 0 to 3 ns have one each, and each power of two from there on has four.
#[inline(always)]
pub const fn bucket(ns: u64) -> usize {
    if ns < 4 {
        return ns as usize;
    }
    if ns >= LIMIT_NS {
        return BUCKETS - 1;
    }
    // The number of the highest bit, in steps: eBPF has no instruction for it. Most times have two bytes.
    let (mut rest, mut high) = if ns < 1 << 16 {
        if ns < 1 << 8 { (ns, 0) } else { (ns >> 8, 8) }
    } else if ns < 1 << 24 {
        (ns >> 16, 16)
    } else if ns < 1 << 32 {
        (ns >> 24, 24)
    } else {
        (ns >> 32, 32_u32)
    };
    if rest >= 1 << 4 {
        rest >>= 4;
        high += 4;
    }
    if rest >= 1 << 2 {
        rest >>= 2;
        high += 2;
    }
    high += (rest >> 1) as u32;
    (high as usize - 1) * 4 + ((ns >> (high - 2)) & 3) as usize
}

/// The least time in a bucket; of one past the last: [`u64::MAX`].
pub const fn least(bucket: usize) -> u64 {
    if bucket < 4 {
        return bucket as u64;
    }
    if bucket >= BUCKETS {
        return u64::MAX;
    }
    let high = bucket / 4 + 1;
    (4 + bucket as u64 % 4) << (high - 2)
}

macro_rules! words {
    ($(#[$doc:meta])* $type:ident: $($(#[$each:meta])* $name:ident = $text:literal,)*) => {
        $(#[$doc])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $type {
            $($(#[$each])* $name,)*
        }

        impl $type {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in all output.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

words! {
    /// What is measured, each in a histogram of its own.
    Measure:
    /// How long the mmap_lock was held for reading.
    HoldMmapRead = "hold_mmap_read",
    /// How long it was held for writing.
    HoldMmapWrite = "hold_mmap_write",
    /// How long a page fault held a VMA for reading; the end is derived from the end of the fault.
    HoldVmaFault = "hold_vma_fault",
    /// How long a VMA was held for reading that was given back at a place with a probe of its own.
    HoldVmaOther = "hold_vma_other",
    /// From the start of taking the mmap_lock for reading to having it.
    WaitMmapRead = "wait_mmap_read",
    /// The same for writing.
    WaitMmapWrite = "wait_mmap_write",
    /// From the start of locking a VMA for writing to having it: what its readers took to go.
    WaitVmaWrite = "wait_vma_write",
}

words! {
    /// What is only counted.
    Count:
    /// Look-ups of a VMA that gave none: the task takes the mmap_lock.
    VmaReadFails = "vma_read_fails",
    /// mmap_lock taken for reading.
    MmapReadAcquires = "mmap_read_acquires",
    /// mmap_lock taken for writing.
    MmapWriteAcquires = "mmap_write_acquires",
    /// mmap_lock not got: a failed trylock, or killed.
    MmapFails = "mmap_fails",
    /// Writers of the mmap_lock that went on as readers.
    MmapDowngrades = "mmap_downgrades",
    /// Writers killed while they waited for a VMA's readers.
    VmaWriteFails = "vma_write_fails",
    /// Faults under a VMA's lock that lost it inside, and come again.
    FaultsRetried = "faults_retried",
    /// Faults under a VMA's lock that lost it inside, and were done.
    FaultsCompleted = "faults_completed",
    /// Faults under the mmap_lock.
    FaultsMmapLock = "faults_mmap_lock",

    // From here on: what is in no histogram.
    /// Ends of VMA read holds whose beginning was not seen.
    VmaUnbegun = "vma_unbegun",
    /// VMA read holds whose end no probe saw.
    VmaUnended = "vma_unended",
    /// Ends of mmap_lock holds whose beginning was not seen, those on behalf of another task among them.
    MmapUnbegun = "mmap_unbegun",
    /// mmap_lock holds whose end was not seen by the task that took it.
    MmapUnended = "mmap_unended",
    /// Waits whose beginning was not seen.
    WaitUnbegun = "wait_unbegun",
    /// Waits whose end was not seen.
    WaitUnended = "wait_unended",
    /// Begun holds and waits that were lost, since two threads share one place in the table.
    Crowded = "crowded",
}

impl Count {
    /// Whether it counts what is in no histogram.
    pub const fn is_of_unpaired(self) -> bool {
        self as u8 >= Self::VmaUnbegun as u8
    }
}

/// How many [`Measure`]s there are.
pub const MEASURES: usize = Measure::ALL.len();
/// How many [`Count`]s there are.
pub const COUNTS: usize = Count::ALL.len();

/// Times in buckets, and their sum.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// How many, by [`bucket`].
    pub buckets: [u64; BUCKETS],
    /// The sum of the times themselves, in nanoseconds.
    pub sum_ns: u64,
}

/// What one CPU has summed up.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuSummary {
    /// By [`Measure`].
    pub histograms: [Histogram; MEASURES],
    /// By [`Count`].
    pub counts: [u64; COUNTS],
}

/// 64-bit words in a [`Histogram`].
pub const HISTOGRAM_WORDS: usize = BUCKETS + 1;
// All 64-bit words, for whoever reads them as such.
const _: () = assert!(size_of::<Histogram>() == HISTOGRAM_WORDS * 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_hole_or_overlap() {
        for at in 0..BUCKETS {
            assert_eq!(bucket(least(at)), at);
            let next = least(at + 1);
            assert!(next > least(at));
            if at + 1 < BUCKETS {
                assert_eq!(bucket(next - 1), at);
            }
        }
        assert_eq!(least(BUCKETS - 1), LIMIT_NS / 8 * 7);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_bucket_is_no_wider_than_a_quarter_of_its_least_time() {
        for at in 4..BUCKETS - 1 {
            assert!((least(at + 1) - least(at)) * 4 <= least(at));
        }
    }

    #[test]
    fn names_are_told_apart() {
        for (at, measure) in Measure::ALL.iter().enumerate() {
            assert_eq!(*measure as usize, at);
        }
        for (at, count) in Count::ALL.iter().enumerate() {
            assert_eq!(*count as usize, at);
            assert!(Count::ALL[..at].iter().all(|other| other.name() != count.name()));
        }
    }
}
