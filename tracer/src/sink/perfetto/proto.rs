//! Protocol buffers, as far as it takes to write them: a message goes straight into one buffer.
//!
//! The usual libraries build a message as a tree first, which costs several allocations for each slice of a trace.

/// Room for the length of a message within another: four bytes, the first three with the bit that says "more follows".
/// Longer than need be, which every reader takes, and known before the message is there.
const LENGTH: usize = 4;

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

/// A buffer that messages are put together in.
#[derive(Debug, Default)]
pub(super) struct Proto {
    bytes: Vec<u8>,
}

impl Proto {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    #[inline]
    fn raw(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// A field of a type that is a varint: integers that are not negative, booleans, enumerations.
    #[inline]
    pub(super) fn number(&mut self, field: u32, value: u64) {
        self.raw(u64::from(field << 3 | VARINT));
        self.raw(value);
    }

    /// A field of type `fixed64`.
    #[inline]
    pub(super) fn fixed64(&mut self, field: u32, value: u64) {
        self.raw(u64::from(field << 3 | FIXED64));
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// A field of type `string`. All texts of a trace go through here, also those that others chose.
    pub(super) fn text(&mut self, field: u32, value: &str) {
        let value = crate::outside::plain(value);
        self.raw(u64::from(field << 3 | BYTES));
        self.raw(value.len() as u64);
        self.bytes.extend_from_slice(value.as_bytes());
    }

    /// A message within this one; at most 256 MiB.
    #[inline]
    pub(super) fn message(&mut self, field: u32, fill: impl FnOnce(&mut Self)) {
        self.raw(u64::from(field << 3 | BYTES));
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; LENGTH]);
        fill(self);
        let length = self.bytes.len() - at - LENGTH;
        for (n, place) in self.bytes[at..at + LENGTH].iter_mut().enumerate() {
            let more = if n + 1 < LENGTH { 0x80 } else { 0 };
            *place = (length >> (7 * n) & 0x7f) as u8 | more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_as_the_format_has_them() {
        let mut proto = Proto::default();
        proto.number(1, 150);
        proto.text(2, "ab");
        proto.fixed64(3, 5);
        proto.message(4, |inner| inner.number(1, 1));
        let expected = [
            &[0x08, 0x96, 0x01][..],
            &[0x12, 2, b'a', b'b'],
            &[0x19, 5, 0, 0, 0, 0, 0, 0, 0],
            &[0x22, 0x82, 0x80, 0x80, 0x00, 0x08, 0x01],
        ];
        assert_eq!(proto.bytes(), expected.concat());
    }
}
