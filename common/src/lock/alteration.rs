//! Single changes to the lock that can be switched on: historical bugs, and mutants.
//!
//! A step asks its world whether a change is on. The world of real threads answers "no" at compile
//! time, so that nothing of this remains there.

macro_rules! alterations {
    ($($(#[$kind:meta])* $variant:ident = $name:literal, $what:literal;)*) => {
        /// One single-step change of the lock.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Alteration {
            $(#[doc = $what] $variant,)*
        }

        impl Alteration {
            /// All changes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What is done differently, in a phrase.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Self::$variant => $what,)* }
            }
        }
    };
}

alterations! {
    RecycledWithoutGrab = "CVE-2025-38554", "a reader that met a recycled VMA drops it without holding on to the other mm";
    SeqWithoutOrder = "b1f02b95758d", "mm_lock_seq is read without acquire and advanced without release";

    CountRelaxed = "count-relaxed", "the reader's reference is taken without acquire";
    PutRelaxed = "put-relaxed", "the reader's reference is dropped without release";
    LateSeqRelaxed = "late-seq-relaxed", "the second look at mm_lock_seq has no acquire";
    SeqEndRelaxed = "seq-end-relaxed", "mm_lock_seq is advanced without release at the end of all write locks";
    SeqBeginRelaxed = "seq-begin-relaxed", "mm_lock_seq turns odd without release, as by the letter of the kernel's source";
    SeqBeginUnfenced = "seq-begin-unfenced", "no barrier follows when mm_lock_seq turns odd";
    WaitRelaxed = "wait-relaxed", "the writer's look at vm_refcnt orders nothing after it";
    FlagSubRelaxed = "flag-sub-relaxed", "the flag is subtracted without release";
    AttachRelaxed = "attach-relaxed", "vm_refcnt is set to 1 without release";
    WakeUnfenced = "wake-unfenced", "no full barrier between dropping the reference and looking for a sleeper";
    SleepUnfenced = "sleep-unfenced", "no full barrier between announcing sleep and looking at vm_refcnt";
    RetryUnfenced = "retry-unfenced", "speculation validates without a read barrier";

    LateSeqSkipped = "late-seq-skipped", "the second look at the sequence numbers is left out";
    MmCheckSkipped = "mm-check-skipped", "the check for a recycled VMA is left out";
    RangeCheckSkipped = "range-check-skipped", "the check of the address range is left out";
    FlagIsLimit = "flag-is-limit", "readers are refused at the flag instead of at the limit";
    LimitIgnored = "limit-ignored", "readers are not refused by limit or flag";
    ZeroIgnored = "zero-ignored", "readers take a reference on a detached VMA";
    CountByStore = "count-by-store", "the reference is taken by a plain store instead of a compare-and-swap";
    WakeOffByOne = "wake-off-by-one", "the writer is woken at the flag, but not at the flag plus one";
    WakeNever = "wake-never", "the last reader does not look for a sleeper";
    WakeBeforeSub = "wake-before-sub", "the sleeper is woken before the reference is dropped";
    MmCopiedLate = "mm-copied-late", "vm_mm is read only after the reference is dropped";
    WaitTargetDetached = "wait-target-detached", "a writer waits for the flag, as if the VMA were detached";
    WaitTargetAttached = "wait-target-attached", "a detacher waits for the flag plus one, as if the VMA were attached";
    WaitOnce = "wait-once", "a woken writer does not look at vm_refcnt again";
    SleepUnannounced = "sleep-unannounced", "vm_refcnt is looked at before sleep is announced";
    WaitSkipped = "wait-skipped", "the writer does not wait for readers";
    FlagNotSet = "flag-not-set", "the writer waits for readers without keeping new ones out";
    FlagAddedToZero = "flag-added-to-zero", "the flag is added even if the VMA is detached";
    SeqStoreSkipped = "seq-store-skipped", "the writer does not set vm_lock_seq";
    SeqStoredEarly = "seq-stored-early", "vm_lock_seq is set before the wait, and stays when the writer is killed";
    SeqStoredLate = "seq-stored-late", "vm_lock_seq is set after the flag is dropped";
    KilledKeepsFlag = "killed-keeps-flag", "a killed writer leaves the flag behind";
    KilledSeemsDone = "killed-seems-done", "a killed writer reports success";
    DetachWithoutWait = "detach-without-wait", "the detacher does not wait for temporary readers";
    SeqBeginSkipped = "seq-begin-skipped", "mm_lock_seq does not turn odd when the mmap_lock is write-locked";
    SeqEndSkipped = "seq-end-skipped", "mm_lock_seq does not advance at a downgrade";
    SeqEndLate = "seq-end-late", "mm_lock_seq advances only after the downgrade";
    SpeculateOdd = "speculate-odd", "speculation begins while the mmap_lock is write-locked";
    LockdepKept = "lockdep-kept", "lockdep is not told of the release of a read lock";
}

impl Alteration {
    /// Is this a bug the kernel once had? Else it is a mutant made for the purpose.
    #[must_use]
    pub const fn historical(self) -> bool {
        matches!(self, Self::RecycledWithoutGrab | Self::SeqWithoutOrder)
    }

    /// The change of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|a| a.name() == name)
    }
}
