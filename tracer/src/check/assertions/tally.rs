//! From counts of keys to counts of verdicts.

use rustc_hash::FxHashMap;
use tracer_common::lock::assertion::{vma_assert_attached, vma_assert_detached};
use tracer_common::lock::{LockState, Lockdep, Verdict};

use super::key::{Key, Viewpoint};
use super::predicted::predicts;
use super::{Example, Unknown};
use crate::check::vocabulary::{Column, Standing};

/// One assertion in one configuration.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    /// One that the model checker knows too.
    Model(Column),
    /// `vma_assert_attached`, which is the same with lockdep and without.
    Attached,
    /// `vma_assert_detached`, likewise.
    Detached,
}

impl Which {
    fn all() -> Vec<Self> {
        let mut all: Vec<Self> = Column::all().into_iter().map(Self::Model).collect();
        all.extend([Self::Attached, Self::Detached]);
        all
    }

    /// Which variant of the kernel's source it is: `kernel` for what all of them have.
    pub fn variant(&self) -> &'static str {
        match self {
            Self::Model(column) if !column.name.starts_with("vma_assert") => column.name,
            _ => "kernel",
        }
    }

    /// The assertion's name.
    pub fn assertion(&self) -> &'static str {
        match self {
            Self::Model(column) if column.name.starts_with("vma_assert") => column.name,
            Self::Model(_) => "vma_assert_locked",
            Self::Attached => "vma_assert_attached",
            Self::Detached => "vma_assert_detached",
        }
    }

    /// `on`, `off`, or `any` where it makes no difference.
    pub fn lockdep(&self) -> &'static str {
        match self {
            Self::Model(column) if column.lockdep == Lockdep::On => "on",
            Self::Model(_) => "off",
            _ => "any",
        }
    }

    /// What it says.
    pub fn verdict(&self, state: &LockState) -> Verdict {
        match self {
            Self::Model(column) => column.verdict(state),
            Self::Attached => vma_assert_attached(state),
            Self::Detached => vma_assert_detached(state),
        }
    }

    fn should_fire(&self, standing: Standing, state: &LockState) -> Option<bool> {
        let attached = match standing {
            Standing::Reader | Standing::Writer => true,
            _ => return self.model_should_fire(standing, state),
        };
        match self {
            Self::Attached => Some(!attached),
            Self::Detached => Some(attached),
            Self::Model(_) => self.model_should_fire(standing, state),
        }
    }

    fn model_should_fire(&self, standing: Standing, state: &LockState) -> Option<bool> {
        match self {
            Self::Model(column) => column.should_fire(standing, state),
            _ => None,
        }
    }
}

/// What one assertion's verdict is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It says what is so.
    Right,
    /// It fires, and should not.
    FalsePositive,
    /// It is silent, and should fire.
    FalseNegative,
    /// It hangs on what is not known.
    Unknown,
    /// The kernel asserts nothing there, so that nothing is right or wrong.
    Unclaimed,
}

/// One assertion in one configuration from one viewpoint:
/// `evaluated = right + false_positive + false_negative + unknown + unclaimed`.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Which assertion.
    pub which: Which,
    /// Who asks.
    pub viewpoint: Viewpoint,
    /// Instants.
    pub evaluated: u64,
    /// See [`Judged`].
    pub right: u64,
    /// See [`Judged`].
    pub false_positive: u64,
    /// See [`Judged`].
    pub false_negative: u64,
    /// See [`Judged`].
    pub unknown: u64,
    /// See [`Judged`].
    pub unclaimed: u64,
    /// Wrong verdicts at states of which the model checker did not say so.
    pub unpredicted: u64,
    /// A wrong verdict, with what the model says of its kind: the most frequent one.
    pub example: Option<(Key, Example, bool)>,
}

/// What one assertion is worth at instants of one kind, and whether the model knows what is wrong there.
fn judge(which: &Which, key: Key) -> (Judged, bool) {
    let mut all = None;
    let mut known = true;
    for (mmap, state) in key.states() {
        let fires = which.verdict(&state).fires();
        let judged = match which.should_fire(key.standing, &state) {
            None => Judged::Unclaimed,
            Some(should) if should == fires => Judged::Right,
            Some(_) if fires => Judged::FalsePositive,
            Some(_) => Judged::FalseNegative,
        };
        if matches!(judged, Judged::FalsePositive | Judged::FalseNegative) {
            known &= match which {
                Which::Model(column) => predicts(
                    column.name,
                    column.lockdep,
                    fires,
                    key.standing,
                    key.class,
                    key.eq,
                    mmap,
                ),
                _ => false,
            };
        }
        all = match all {
            None => Some(judged),
            Some(before) if before == judged => all,
            Some(_) => return (Judged::Unknown, false),
        };
    }
    (all.unwrap_or(Judged::Unknown), known)
}

pub(super) fn is_wrong_somewhere(key: Key) -> bool {
    Which::all()
        .iter()
        .any(|which| matches!(judge(which, key).0, Judged::FalsePositive | Judged::FalseNegative))
}

pub(super) fn rows(
    counts: &[u64],
    unknown: &[[u64; Unknown::ALL.len()]; Viewpoint::ALL.len()],
    examples: &FxHashMap<Key, Example>,
) -> Vec<Row> {
    let seen: Vec<(Key, u64)> = (0..Key::COUNT)
        .filter_map(|number| Some((Key::from_number(number)?, counts[usize::from(number)])))
        .filter(|&(_, count)| count > 0)
        .collect();
    let mut rows = Vec::new();
    for which in Which::all() {
        for viewpoint in Viewpoint::ALL {
            let misses: u64 = unknown[viewpoint as usize].iter().sum();
            let mut row = Row {
                which,
                viewpoint,
                evaluated: misses,
                right: 0,
                false_positive: 0,
                false_negative: 0,
                unknown: misses,
                unclaimed: 0,
                unpredicted: 0,
                example: None,
            };
            let mut most = 0;
            for &(key, count) in seen.iter().filter(|(key, _)| key.viewpoint == viewpoint) {
                row.evaluated += count;
                let (judged, known) = judge(&which, key);
                match judged {
                    Judged::Right => row.right += count,
                    Judged::FalsePositive => row.false_positive += count,
                    Judged::FalseNegative => row.false_negative += count,
                    Judged::Unknown => row.unknown += count,
                    Judged::Unclaimed => row.unclaimed += count,
                }
                if matches!(judged, Judged::FalsePositive | Judged::FalseNegative) {
                    row.unpredicted += if known { 0 } else { count };
                    if count > most {
                        most = count;
                        row.example = examples.get(&key).map(|&example| (key, example, known));
                    }
                }
            }
            rows.push(row);
        }
    }
    rows
}
