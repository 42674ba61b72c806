//! A vector whose first few elements need no heap: nearly all tasks hold one or two locks.

/// Up to `N` elements in place; more move all of them to the heap, whose memory is kept for the next time.
#[derive(Clone, Debug)]
pub(super) struct Small<T, const N: usize> {
    inline: [T; N],
    len: usize,
    spill: Vec<T>,
}

impl<T: Copy + Default, const N: usize> Default for Small<T, N> {
    fn default() -> Self {
        Self {
            inline: [T::default(); N],
            len: 0,
            spill: Vec::new(),
        }
    }
}

impl<T: Copy + Default, const N: usize> Small<T, N> {
    /// Adds at the end.
    #[inline]
    pub(super) fn push(&mut self, value: T) {
        if self.spill.is_empty() && self.len < N {
            self.inline[self.len] = value;
            self.len += 1;
            return;
        }
        if self.spill.is_empty() {
            self.spill.extend_from_slice(&self.inline[..self.len]);
            self.len = 0;
        }
        self.spill.push(value);
    }

    /// Removes the element at `at`, keeping the order of the others.
    ///
    /// # Panics
    /// If there is no such element.
    #[inline]
    pub(super) fn remove(&mut self, at: usize) -> T {
        if !self.spill.is_empty() {
            return self.spill.remove(at);
        }
        assert!(at < self.len, "no element {at} of {}", self.len);
        let value = self.inline[at];
        self.inline.copy_within(at + 1..self.len, at);
        self.len -= 1;
        value
    }

    /// Tells the processor that it is about to be read.
    #[inline]
    pub(super) fn fetch(&self) {
        fetch(&self.len);
        fetch(&self.inline);
    }

    /// Removes all.
    pub(super) fn clear(&mut self) {
        self.len = 0;
        self.spill.clear();
    }
}

impl<T, const N: usize> core::ops::Deref for Small<T, N> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        if self.spill.is_empty() {
            &self.inline[..self.len]
        } else {
            &self.spill
        }
    }
}

impl<T, const N: usize> core::ops::DerefMut for Small<T, N> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        if self.spill.is_empty() {
            &mut self.inline[..self.len]
        } else {
            &mut self.spill
        }
    }
}

/// Has the line of memory where this begins brought into the cache.
#[inline]
pub(super) fn fetch<T>(what: &T) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: all processors of this architecture have it, and it reads nothing, wherever the pointer points.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(what).cast()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_as_a_vector_across_the_spill() {
        let mut small = Small::<u32, 2>::default();
        let mut vec = Vec::new();
        for round in 0..200u32 {
            if round % 7 < 4 {
                small.push(round);
                vec.push(round);
            } else if !vec.is_empty() {
                let at = round as usize % vec.len();
                assert_eq!(small.remove(at), vec.remove(at));
            }
            assert_eq!(&small[..], &vec[..]);
        }
        small.clear();
        assert!(small.is_empty());
    }
}
