//! Recordings of one CPU at one time, whose events would be told twice.

use std::collections::BTreeSet;

/// Which recordings take turns on a CPU.
#[derive(Debug, Default)]
pub(super) struct Overlap {
    /// By CPU: the recording whose events come now, and those whose events came before.
    cpus: Vec<(Option<usize>, BTreeSet<usize>)>,
    found: BTreeSet<(usize, usize)>,
}

impl Overlap {
    /// An event of recording `part` on a CPU of the whole.
    #[inline]
    pub(super) fn saw(&mut self, part: usize, cpu: u16) {
        let at = usize::from(cpu);
        if self.cpus.get(at).is_none_or(|seen| seen.0 != Some(part)) {
            self.turn(part, at);
        }
    }

    #[cold]
    fn turn(&mut self, part: usize, at: usize) {
        if at >= self.cpus.len() {
            self.cpus.resize(at + 1, (None, BTreeSet::new()));
        }
        let (now, before) = &mut self.cpus[at];
        if let Some(other) = now.replace(part) {
            // One after the other is how recordings follow each other; one, another and the first again is not.
            if before.contains(&part) {
                self.found.insert((part.min(other), part.max(other)));
            }
            before.insert(other);
        }
    }

    /// Recordings that are of one time and one CPU, by number.
    pub(super) fn found(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.found.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(turns: &[(usize, u16)]) -> Vec<(usize, usize)> {
        let mut overlap = Overlap::default();
        turns.iter().for_each(|&(part, cpu)| overlap.saw(part, cpu));
        overlap.found().collect()
    }

    #[test]
    fn only_those_that_take_turns_overlap() {
        assert_eq!(
            found(&[(0, 0), (0, 0), (1, 0), (1, 0), (2, 0)]),
            [],
            "one after the other"
        );
        assert_eq!(
            found(&[(0, 0), (1, 1), (0, 0), (1, 1)]),
            [],
            "each on its own CPU"
        );
        assert_eq!(found(&[(0, 3), (1, 3), (0, 3), (1, 3)]), [(0, 1)]);
    }
}
