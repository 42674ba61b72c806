//! What assertions can tell apart of an instant, as a small number.

use tracer_common::lock::{HeldAnswer, LockState, RefcntClass, VM_REFCNT_EXCLUDE_READERS_FLAG as FLAG};

use crate::check::vocabulary::{self, Standing};

/// Who asks.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Viewpoint {
    /// The task of the event.
    Own,
    /// A task that holds nothing there; there always could be one.
    Bystander,
    /// Another task that holds the VMA for reading.
    Reader,
    /// Another task that holds it for writing.
    Writer,
}

impl Viewpoint {
    /// All, by number.
    pub const ALL: [Self; 4] = [Self::Own, Self::Bystander, Self::Reader, Self::Writer];

    /// The name in all output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Own => "self",
            Self::Bystander => "bystander",
            Self::Reader => "other_reader",
            Self::Writer => "other_writer",
        }
    }
}

/// Who holds the `mmap_lock`, as far as that is known.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mmap {
    /// Whoever asks, for writing.
    WrittenByMe,
    /// Another, for writing.
    WrittenByOther,
    /// Whoever asks, for reading.
    SharedByMe,
    /// Others, for reading.
    SharedByOthers,
    /// Others for reading, or nobody.
    SharedOrFree,
}

impl Mmap {
    const ALL: [Self; 5] = [
        Self::WrittenByMe,
        Self::WrittenByOther,
        Self::SharedByMe,
        Self::SharedByOthers,
        Self::SharedOrFree,
    ];

    /// What it may be, by the model's names.
    pub const fn possible(self) -> &'static [vocabulary::Mmap] {
        match self {
            Self::WrittenByMe => &[vocabulary::Mmap::WrittenByMe],
            Self::WrittenByOther => &[vocabulary::Mmap::WrittenByOther],
            Self::SharedByMe => &[vocabulary::Mmap::SharedByMe],
            Self::SharedByOthers => &[vocabulary::Mmap::SharedByOthers],
            Self::SharedOrFree => &[vocabulary::Mmap::SharedByOthers, vocabulary::Mmap::Free],
        }
    }
}

const STANDINGS: [Standing; 7] = [
    Standing::Reader,
    Standing::TemporaryReader,
    Standing::Releasing,
    Standing::Writer,
    Standing::Detacher,
    Standing::Changing,
    Standing::Bystander,
];

/// A class of instants that no assertion can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Who asks.
    pub viewpoint: Viewpoint,
    /// What that task is to the VMA.
    pub standing: Standing,
    /// The class of `vm_refcnt`.
    pub class: RefcntClass,
    /// `vm_lock_seq` equals `mm_lock_seq`.
    pub eq: bool,
    /// Who holds the `mmap_lock`.
    pub mmap: Mmap,
}

impl Key {
    /// How many there are.
    pub const COUNT: u16 = 4 * 7 * 6 * 2 * 5;

    /// Its number; nothing for a count that no lock can have.
    #[inline]
    pub fn number(self) -> Option<u16> {
        if self.class == RefcntClass::Undocumented {
            return None;
        }
        let mut number = self.viewpoint as u16;
        number = number * 7 + standing_number(self.standing);
        number = number * 6 + self.class as u16;
        number = number * 2 + u16::from(self.eq);
        Some(number * 5 + self.mmap as u16)
    }

    /// The key with that number.
    pub fn from_number(number: u16) -> Option<Self> {
        let number = usize::from(number);
        let (rest, mmap) = (number / 5, number % 5);
        let (rest, eq) = (rest / 2, rest % 2);
        let (rest, class) = (rest / 6, rest % 6);
        let (viewpoint, standing) = (rest / 7, rest % 7);
        Some(Self {
            viewpoint: *Viewpoint::ALL.get(viewpoint)?,
            standing: STANDINGS[standing],
            class: RefcntClass::ALL[class],
            eq: eq == 1,
            mmap: Mmap::ALL[mmap],
        })
    }

    /// All that an assertion could look at there, one for each way in which the `mmap_lock` may be held.
    pub fn states(self) -> impl Iterator<Item = (vocabulary::Mmap, LockState)> {
        self.mmap.possible().iter().map(move |&mmap| {
            let held = matches!(
                self.standing,
                Standing::Reader | Standing::TemporaryReader | Standing::Changing
            );
            let writes = mmap == vocabulary::Mmap::WrittenByMe;
            let written = writes || mmap == vocabulary::Mmap::WrittenByOther;
            let state = LockState {
                refcnt: refcnt(self.class),
                vm_lock_seq: 1,
                mm_lock_seq: if self.eq { 1 } else { 3 },
                held: HeldAnswer::from_held(held),
                mmap_write_held_by_me: HeldAnswer::from_held(writes),
                mmap_held_by_me: HeldAnswer::from_held(writes || mmap == vocabulary::Mmap::SharedByMe),
                mmap_write_locked_by_anyone: written,
                mmap_locked_by_anyone: mmap != vocabulary::Mmap::Free,
            };
            (mmap, state)
        })
    }
}

#[inline]
const fn standing_number(standing: Standing) -> u16 {
    match standing {
        Standing::Reader => 0,
        Standing::TemporaryReader => 1,
        Standing::Releasing => 2,
        Standing::Writer => 3,
        Standing::Detacher => 4,
        Standing::Changing => 5,
        Standing::Bystander => 6,
    }
}

/// A value of that class; assertions do not tell them apart.
const fn refcnt(class: RefcntClass) -> u32 {
    match class {
        RefcntClass::Detached => 0,
        RefcntClass::Attached => 1,
        RefcntClass::Readers => 2,
        RefcntClass::Flag => FLAG,
        RefcntClass::FlagPlusOne => FLAG + 1,
        RefcntClass::Waiting => FLAG + 2,
        RefcntClass::Undocumented => u32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back() {
        for number in 0..Key::COUNT {
            let key = Key::from_number(number).unwrap();
            assert_eq!(key.number(), Some(number), "{key:?}");
        }
        assert_eq!(Key::from_number(Key::COUNT), None);
    }

    #[test]
    fn a_class_is_told_by_its_value() {
        for class in RefcntClass::ALL {
            assert_eq!(RefcntClass::of(refcnt(class)), class);
        }
    }
}
