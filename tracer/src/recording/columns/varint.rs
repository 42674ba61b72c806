//! Numbers of variable length: LEB128, differences as zigzag.

use super::BlockError;

/// The sign goes into the lowest bit, so that small differences are small numbers.
#[inline]
pub(crate) const fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ (((difference as i64) >> 63) as u64)
}

/// The difference again.
#[inline]
pub(crate) const fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

/// Appends a number in 1 to 10 bytes.
#[inline]
pub(crate) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads one column from its front.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) fn number(&mut self) -> Result<u64, BlockError> {
        match *self.0 {
            [first, ref rest @ ..] if first < 0x80 => {
                self.0 = rest;
                Ok(u64::from(first))
            }
            [first, second, ref rest @ ..] if second < 0x80 => {
                self.0 = rest;
                Ok(u64::from(first & 0x7f) | u64::from(second) << 7)
            }
            _ => self.long_number(),
        }
    }

    #[inline(never)]
    fn long_number(&mut self) -> Result<u64, BlockError> {
        let mut number = 0;
        for at in 0..10 {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if at == 9 && part > 1 {
                break;
            }
            number |= part << (7 * at);
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(BlockError::Columns("a number of more than 64 bits"))
    }

    /// A difference, to be added.
    #[inline]
    pub(crate) fn difference(&mut self) -> Result<u64, BlockError> {
        self.number().map(unzigzag)
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8, BlockError> {
        let (&first, rest) = self
            .0
            .split_first()
            .ok_or(BlockError::Columns("a column is too short"))?;
        self.0 = rest;
        Ok(first)
    }

    #[inline]
    pub(crate) fn bytes(&mut self, len: u64) -> Result<&'a [u8], BlockError> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let (found, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(BlockError::Columns("a column is too short"))?;
        self.0 = rest;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let numbers = [
            0,
            1,
            0x7f,
            0x80,
            0x3fff,
            0x4000,
            u64::from(u32::MAX),
            u64::MAX - 1,
            u64::MAX,
        ];
        let mut bytes = Vec::new();
        for number in numbers {
            put(&mut bytes, number);
            put(&mut bytes, zigzag(number));
        }
        let mut reader = Reader(&bytes);
        for number in numbers {
            assert_eq!(reader.number(), Ok(number));
            assert_eq!(reader.difference(), Ok(number));
        }
        assert!(reader.number().is_err());
    }

    #[test]
    fn small_differences_of_both_signs_take_one_byte() {
        for difference in [0u64, 1, 63, 1u64.wrapping_neg(), 64u64.wrapping_neg()] {
            let mut bytes = Vec::new();
            put(&mut bytes, zigzag(difference));
            assert_eq!(bytes.len(), 1);
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        assert!(Reader(&[0xff; 11]).number().is_err());
        assert!(Reader(&[0x80, 0x80]).number().is_err());
        let too_large = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert!(Reader(&too_large).number().is_err());
    }
}
