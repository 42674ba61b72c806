//! Names for the frames of stacks: the kernel's by its symbols, the programs' by their files' when that is asked for.

use std::thread::JoinHandle;

use tracer_common::wire::sched::Frames;
use tracer_common::wire::{Event, Kind};

use crate::stacks::{Frame, Stacks};
use crate::text::{SitesArgs, Symbols};

use super::user_names::UserNames;

/// Stacks that are kept, so that memory is bounded; more are counted.
const LIMIT: usize = 1 << 14;

/// Beginnings of the names of what the kernel calls probes through: they are on top of every stack that a probe takes.
const MACHINERY: &[&str] = &[
    "bpf_",
    "__bpf_",
    "__traceiter_",
    "trace_call_bpf",
    "kprobe_",
    "__mmap_lock_trace_",
    "__mmap_lock_do_trace_",
];

/// Numbers stacks, and names their frames.
pub(super) struct Framer {
    pub(super) stacks: Stacks,
    kernel: Kernel,
    /// Without it, the programs' frames keep their addresses only.
    user: Option<UserNames>,
    /// Stacks that found no place, for one message.
    refused: u64,
}

/// The kernel's symbols. They are read beside all else, since the kernel has to print them first.
enum Kernel {
    Reading(JoinHandle<Option<Symbols>>),
    Read(Option<Symbols>),
}

impl Framer {
    /// `wanted`: stacks will come; `user`: programs' frames get names, too.
    pub(super) fn new(wanted: bool, user: bool) -> Self {
        let read = || {
            let kallsyms = SitesArgs::default().kallsyms;
            Symbols::read(&kallsyms)
                .inspect_err(|error| log::info!("frames of the kernel get no names: {error}"))
                .ok()
        };
        Self {
            stacks: Stacks::default(),
            kernel: if wanted {
                Kernel::Reading(std::thread::spawn(read))
            } else {
                Kernel::Read(None)
            },
            user: (wanted && user).then(UserNames::new),
            refused: 0,
        }
    }

    /// Puts the frames that follow an event's body into the table, and their numbers into the event.
    pub(super) fn number(&mut self, event: &mut Event, bytes: &[u8]) {
        // What follows the body is not part of the event any more.
        event.header.len = event.kind.wire_len();
        if let Some(user) = &mut self.user
            && matches!(event.kind, Kind::TaskExec | Kind::TaskExit)
            && event.header.pid == event.header.tid
        {
            user.forget(event.header.pid);
        }
        if !matches!(event.kind, Kind::SchedOut | Kind::Stack) {
            return;
        }
        let Some(frames) = Frames::after_body(bytes) else {
            return;
        };
        if self.stacks.len() + 2 > LIMIT {
            if self.refused == 0 {
                log::warn!("{LIMIT} different stacks are known; events with new ones go without from now on");
            }
            self.refused += 1;
            return;
        }
        let Self {
            stacks, kernel, user, ..
        } = self;
        let number = stacks.number(0, &frames.kernel, |addresses| named(addresses, kernel.symbols()));
        event.body.vma = u64::from(number);
        let pid = event.header.pid;
        let number = stacks.number(pid, &frames.user, |addresses| match user {
            Some(names) => names.named(pid, addresses),
            None => named(addresses, None),
        });
        event.body.vm_start = u64::from(number);
    }
}

impl Kernel {
    fn symbols(&mut self) -> Option<&Symbols> {
        if matches!(self, Self::Reading(_))
            && let Self::Reading(reader) = std::mem::replace(self, Self::Read(None))
        {
            *self = Self::Read(reader.join().ok().flatten());
        }
        match self {
            Self::Read(symbols) => symbols.as_ref(),
            Self::Reading(_) => None,
        }
    }
}

/// Frames with names, as far as there are symbols. What probes add on top is left out then.
fn named(addresses: &[u64], symbols: Option<&Symbols>) -> Vec<Frame> {
    let mut frames: Vec<Frame> = addresses
        .iter()
        .enumerate()
        .map(|(i, &address)| frame(address, i == 0, symbols))
        .collect();
    if symbols.is_some() {
        let is_ours = |frame: &Frame| {
            frame.name.is_empty() || MACHINERY.iter().any(|start| frame.name.starts_with(start))
        };
        let ours = frames.iter().take_while(|frame| is_ours(frame)).count();
        // A stack of nothing else is shown as it is.
        if ours < frames.len() {
            frames.drain(..ours);
        }
    }
    frames
}

fn frame(address: u64, innermost: bool, symbols: Option<&Symbols>) -> Frame {
    let mut frame = Frame {
        address,
        ..Frame::default()
    };
    // A call that never returns may be the last instruction of its function, and where it would return to the next one.
    let back = u64::from(!innermost);
    if let Some(symbols) = symbols
        && let Some(index) = symbols.containing(address.wrapping_sub(back))
    {
        let symbol = &symbols.all()[index];
        frame.name = format!("{}+{:#x}", symbols.name(symbol), address - symbol.address);
        symbols
            .module(symbol)
            .unwrap_or_default()
            .clone_into(&mut frame.module);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols() -> Symbols {
        let text = "ffffffff81000000 T _text\n\
                    ffffffff81000100 T __schedule\n\
                    ffffffff81000200 T schedule\n\
                    ffffffff81000300 T down_write\n\
                    ffffffff81000400 T __traceiter_sched_switch\n\
                    ffffffff81000500 T _etext\n\
                    ffffffffc0000000 t bpf_prog_1_of_another\t[bpf]\n";
        Symbols::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_probes_add_is_left_out() {
        let addresses = [
            0xffff_ffff_c000_1234,
            0xffff_ffff_c000_0010,
            0xffff_ffff_8100_0410,
            0xffff_ffff_8100_0110,
            0xffff_ffff_8100_0300,
        ];
        let names: Vec<_> = named(&addresses, Some(&symbols()))
            .into_iter()
            .map(|frame| frame.name)
            .collect();
        // The last one returns to the first instruction after its function.
        assert_eq!(names, ["__schedule+0x10", "schedule+0x100"]);
    }

    #[test]
    fn without_symbols_all_addresses_stay() {
        let frames = named(&[7, 8], None);
        assert_eq!((frames.len(), frames[0].address), (2, 7));
        assert!(frames.iter().all(|frame| frame.name.is_empty()));
    }

    #[test]
    fn numbers_go_into_the_event_and_its_length_is_that_of_the_body() {
        use tracer_common::wire::MAX_EVENT;
        use tracer_common::wire::sched::StackEvent;
        let mut start = [0; MAX_EVENT];
        let mut event = Event::synthetic(Kind::Stack, 1);
        event.encode(&mut start);
        let mut bytes = [0; size_of::<StackEvent>()];
        bytes[..MAX_EVENT].copy_from_slice(&start);
        bytes[MAX_EVENT] = 9;
        event.header.len = 480;
        let mut framer = Framer::new(false, false);
        framer.number(&mut event, &bytes);
        assert_eq!((event.stacks(), event.header.len), ((1, 0), 96));
        // The same again.
        framer.number(&mut event, &bytes);
        assert_eq!((event.stacks(), framer.stacks.len()), ((1, 0), 1));
    }
}
