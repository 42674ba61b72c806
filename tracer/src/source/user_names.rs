//! Names for the frames of programs, by their files' symbols; only when asked for.
//!
//! That takes the process's map, and the kernel takes the process's `mmap_lock` for that, or the locks of its VMAs: what
//! is watched. So a map is read once for each process, and again only when it has become another one: after an `exec`,
//! or when an address is in no mapping that was known (at most once in [`AGAIN`]).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use blazesym::Pid;
use blazesym::symbolize::cache::{self, Cache};
use blazesym::symbolize::source::{Process, Source};
use blazesym::symbolize::{Input, Reason, Symbolized, Symbolizer};

use crate::stacks::Frame;

/// How often the map of one process is read at most, because of addresses that it does not know.
const AGAIN: Duration = Duration::from_secs(1);
/// Processes whose maps are kept; with more, all are read anew.
const PROCESSES: usize = 4096;

/// The symbols of programs.
pub(super) struct UserNames {
    symbolizer: Symbolizer,
    /// When a process's map was read.
    read: HashMap<u32, Instant>,
    /// Processes that were gone before their first stack could be named, for one message.
    gone: u64,
}

impl UserNames {
    pub(super) fn new() -> Self {
        Self {
            symbolizer: Symbolizer::new(),
            read: HashMap::new(),
            gone: 0,
        }
    }

    /// The process has another program, or ends: its number says nothing any more.
    pub(super) fn forget(&mut self, pid: u32) {
        self.read.remove(&pid);
    }

    /// Frames with names, innermost first, as far as the files have symbols.
    pub(super) fn named(&mut self, pid: u32, addresses: &[u64]) -> Vec<Frame> {
        // A call that never returns may be the last instruction of its function, and where it would return to the next.
        let codes: Vec<u64> = addresses
            .iter()
            .enumerate()
            .map(|(i, &address)| address.wrapping_sub(u64::from(i > 0)))
            .collect();
        let now = Instant::now();
        let mut names = if self.map(pid, now, |read| read.is_none()) {
            self.names(pid, &codes)
        } else {
            Vec::new()
        };
        let moved = names.iter().any(|name| matches!(name, Name::Unmapped));
        let late = |read: Option<Instant>| read.is_none_or(|read| now.duration_since(read) >= AGAIN);
        if moved && late(self.read.get(&pid).copied()) && self.map(pid, now, late) {
            names = self.names(pid, &codes);
        }
        names.resize_with(addresses.len(), || Name::Unknown);
        let frames = addresses.iter().zip(&codes).zip(names);
        frames
            .map(|((&address, &code), name)| match name {
                Name::Known { name, module, offset } => Frame {
                    address,
                    name: format!("{name}+{:#x}", offset + (address - code)),
                    module,
                },
                Name::Unmapped | Name::Unknown => Frame {
                    address,
                    ..Frame::default()
                },
            })
            .collect()
    }

    /// Reads a process's map, if it is `due`. Whether there is one.
    fn map(&mut self, pid: u32, now: Instant, due: impl Fn(Option<Instant>) -> bool) -> bool {
        if !due(self.read.get(&pid).copied()) {
            return true;
        }
        if self.read.len() >= PROCESSES {
            self.read.clear();
            self.symbolizer = Symbolizer::new();
        }
        let mut process = cache::Process::new(Pid::from(pid));
        process.cache_perf_map = false;
        match self.symbolizer.cache(&Cache::Process(process)) {
            Ok(()) => {
                self.read.insert(pid, now);
                true
            }
            Err(error) => {
                if self.gone == 0 {
                    log::warn!(
                        "the frames of process {pid} get no names: {error}. It may have ended already; others are not told of"
                    );
                }
                self.gone += 1;
                self.read.contains_key(&pid)
            }
        }
    }

    fn names(&self, pid: u32, codes: &[u64]) -> Vec<Name> {
        let source = Source::Process(Process::new(Pid::from(pid)));
        let symbolized = match self.symbolizer.symbolize(&source, Input::AbsAddr(codes)) {
            Ok(symbolized) => symbolized,
            Err(error) => {
                log::debug!("frames of process {pid} get no names: {error}");
                return Vec::new();
            }
        };
        symbolized.into_iter().map(Name::of).collect()
    }
}

/// What became of an address.
enum Name {
    Known {
        name: String,
        module: String,
        offset: u64,
    },
    /// In nothing that was mapped when the map was read.
    Unmapped,
    /// In a file without symbols for it, or in memory without a file.
    Unknown,
}

impl Name {
    fn of(symbolized: Symbolized<'_>) -> Self {
        match symbolized {
            Symbolized::Sym(sym) => Self::Known {
                name: sym.name.into_owned(),
                module: sym
                    .module
                    .map_or_else(String::new, |module| module.to_string_lossy().into_owned()),
                offset: sym.offset as u64,
            },
            Symbolized::Unknown(Reason::Unmapped) => Self::Unmapped,
            Symbolized::Unknown(_) => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn somewhere_in_this_program() -> usize {
        std::hint::black_box(7)
    }

    #[test]
    fn frames_of_this_program_have_names_and_its_file() {
        let mut names = UserNames::new();
        let address = somewhere_in_this_program as *const () as usize as u64;
        // The second one is where a call in it would return to.
        let frames = names.named(std::process::id(), &[address, address + 1, 16]);
        assert!(
            frames[0].name.contains("somewhere_in_this_program+0x0"),
            "{frames:?}"
        );
        assert!(
            frames[1].name.contains("somewhere_in_this_program+0x1"),
            "{frames:?}"
        );
        assert!(!frames[0].module.is_empty(), "{frames:?}");
        assert_eq!((frames[2].address, frames[2].name.as_str()), (16, ""));
    }

    #[test]
    fn a_map_is_read_again_when_it_does_not_know_an_address_but_not_at_once() {
        let mut names = UserNames::new();
        let pid = std::process::id();
        names.named(pid, &[16]);
        let first = names.read[&pid];
        names.named(pid, &[16]);
        assert_eq!(names.read[&pid], first);
        let long_ago = first.checked_sub(AGAIN).unwrap();
        names.read.insert(pid, long_ago);
        names.named(pid, &[16]);
        assert!(names.read[&pid] > long_ago);
        names.forget(pid);
        assert!(names.read.is_empty());
    }

    #[test]
    fn a_process_that_is_gone_keeps_its_addresses() {
        let mut names = UserNames::new();
        let frames = names.named(i32::MAX as u32, &[4096, 8192]);
        let addresses: Vec<u64> = frames.iter().map(|frame| frame.address).collect();
        assert_eq!(addresses, [4096, 8192]);
        assert!(frames.iter().all(|frame| frame.name.is_empty()));
    }
}
