//! Numbers of Perfetto's fields, and texts that are written once and referred to by number.

use std::collections::HashMap;

use super::proto::Proto;

/// `TracePacket` and what is in it, by the names that `perfetto_trace.proto` has.
pub(super) mod field {
    pub(in super::super) const TRACE_PACKET: u32 = 1;

    pub(in super::super) const CLOCK_SNAPSHOT: u32 = 6;
    pub(in super::super) const TIMESTAMP: u32 = 8;
    pub(in super::super) const SEQUENCE_ID: u32 = 10;
    pub(in super::super) const TRACK_EVENT: u32 = 11;
    pub(in super::super) const INTERNED_DATA: u32 = 12;
    pub(in super::super) const SEQUENCE_FLAGS: u32 = 13;
    pub(in super::super) const SYSTEM_INFO: u32 = 45;
    pub(in super::super) const PACKET_DEFAULTS: u32 = 59;
    pub(in super::super) const TRACK_DESCRIPTOR: u32 = 60;

    pub(in super::super) const EVENT_CATEGORY: u32 = 3;
    pub(in super::super) const EVENT_ANNOTATION: u32 = 4;
    pub(in super::super) const EVENT_TYPE: u32 = 9;
    pub(in super::super) const EVENT_NAME: u32 = 10;
    pub(in super::super) const EVENT_TRACK: u32 = 11;
    pub(in super::super) const EVENT_COUNTER: u32 = 30;
    pub(in super::super) const EVENT_FLOW: u32 = 47;

    pub(in super::super) const ANNOTATION_NAME: u32 = 1;
    pub(in super::super) const ANNOTATION_BOOL: u32 = 2;
    pub(in super::super) const ANNOTATION_UINT: u32 = 3;
    pub(in super::super) const ANNOTATION_POINTER: u32 = 7;
    pub(in super::super) const ANNOTATION_INTERNED: u32 = 17;
}

/// Kinds of texts, each numbered by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Category = 0,
    Event = 1,
    Annotation = 2,
    Value = 3,
}

/// Their fields of `InternedData`.
const FIELDS: [u32; 4] = [1, 2, 3, 29];

/// Texts that have been written.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: [HashMap<String, u64, rustc_hash::FxBuildHasher>; 4],
    /// Numbers of stacks among [`Sort::Value`], by their number in the stream.
    stacks: HashMap<u32, u64, rustc_hash::FxBuildHasher>,
    next: u64,
    /// New ones that the next packet brings along.
    new: Vec<(Sort, u64, String)>,
}

impl Names {
    /// The number of a text.
    pub(super) fn number(&mut self, sort: Sort, text: &str) -> u64 {
        if let Some(&number) = self.known[sort as usize].get(text) {
            return number;
        }
        self.next += 1;
        self.known[sort as usize].insert(text.to_owned(), self.next);
        self.new.push((sort, self.next, text.to_owned()));
        self.next
    }

    /// The number of a stack's text.
    pub(super) fn stack(&mut self, number: u32, text: impl FnOnce() -> String) -> u64 {
        if let Some(&known) = self.stacks.get(&number) {
            return known;
        }
        let text = self.number(Sort::Value, &text());
        self.stacks.insert(number, text);
        text
    }

    /// Writes those that were not written yet into a packet.
    pub(super) fn write(&mut self, packet: &mut Proto) {
        if self.new.is_empty() {
            return;
        }
        packet.message(field::INTERNED_DATA, |data| {
            for (sort, number, text) in self.new.drain(..) {
                data.message(FIELDS[sort as usize], |entry| {
                    entry.number(1, number);
                    entry.text(2, &text);
                });
            }
        });
    }
}
