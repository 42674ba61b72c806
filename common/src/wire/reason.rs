//! Why a task did not get a VMA's lock for reading.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// Why a task did not get a VMA's lock for reading. Numbers are part of the wire format.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Reason {
            /// All reasons, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in all output.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The reason with that number; what this version does not know cannot be told.
            pub const fn from_number(number: u8) -> Self {
                match number { $($number => Self::$variant,)* _ => Self::Unknown }
            }

            /// Its bit in a set of reasons.
            pub const fn bit(self) -> u32 {
                1 << self as u8
            }
        }
    };
}

reasons! {
    /// It cannot be told which of several.
    #[default]
    Unknown = 0, "unknown";
    /// No VMA covers the address.
    NoVma = 1, "no_vma";
    /// It is write-locked: its sequence number is that of its mm.
    WriteLocked = 2, "write_locked";
    /// It has left its address space: the count was 0.
    Detached = 3, "detached";
    /// A writer has shut readers out, and waits for those that are inside.
    WriterWaiting = 4, "writer_waiting";
    /// There are as many readers as the count can hold.
    ReaderLimit = 5, "reader_limit";
    /// It belongs to another address space by now.
    Recycled = 6, "recycled";
    /// It does not cover the address any more.
    AddressMoved = 7, "address_moved";
}
