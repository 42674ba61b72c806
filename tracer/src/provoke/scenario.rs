//! The scenarios: what each does, and which states of the lock come of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::sys::{self, Area, HUGE, PAGE};
use super::team::{Op, Tally, Team};
use super::userfault::Userfault;

/// One scenario.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Which states of the lock it is after, in a line.
    pub reaches: &'static str,
    run: fn(&Team) -> anyhow::Result<()>,
}

impl Scenario {
    pub(super) fn run(&self, team: &Team) -> anyhow::Result<()> {
        (self.run)(team)
    }
}

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "write-lock",
        about: "one thread changes a mapping again and again, the others fault on it",
        reaches: "write-locked VMAs under readers: F+1 and above, refused and temporary readers",
        run: write_lock,
    },
    Scenario {
        name: "detach",
        about: "one thread replaces a mapping again and again, the others fault on it",
        reaches: "detaching and detached VMAs under readers: F, F+1, 0",
        run: detach,
    },
    Scenario {
        name: "temporary-readers",
        about: "faults on a mapping that is write-locked and replaced, under a storm of interrupts",
        reaches: "temporary readers of write-locked and of detaching VMAs",
        run: temporary_readers,
    },
    Scenario {
        name: "move",
        about: "a large empty mapping is moved to and fro, pages are dropped in both places under interrupts",
        reaches: "VMAs that stay write-locked for long and are detached then, under temporary readers",
        run: move_to_and_fro,
    },
    Scenario {
        name: "waiting-writers",
        about: "threads fault huge pages in and drop them, others change the same mapping",
        reaches: "writers that wait for slow readers: above F+1",
        run: waiting_writers,
    },
    Scenario {
        name: "idle-holder",
        about: "a thread that gets no processor drops a large mapping's pages, others want its locks",
        reaches: "locks held by a task that does not run, and long waits for it",
        run: idle_holder,
    },
    Scenario {
        name: "recycle",
        about: "processes map and unmap in storms while threads of theirs fault",
        reaches: "vm_area_structs that are freed and used again, also by another process",
        run: recycle,
    },
    Scenario {
        name: "fork",
        about: "one thread forks again and again, the others fault on what is copied",
        reaches: "every VMA of an mm write-locked at once, under readers",
        run: fork,
    },
    Scenario {
        name: "split-merge",
        about: "a mapping's protection is changed in its middle and back, others fault at its sides and move mappings",
        reaches: "VMAs that are split, merged and moved under readers",
        run: split_merge,
    },
    Scenario {
        name: "userfault",
        about: "threads touch missing pages, which another thread supplies through userfaultfd",
        reaches: "faults that give the VMA's lock back inside and come again under mmap_lock",
        run: userfault,
    },
];

/// Pages that each thread works on.
const STRIPE: usize = 64;

/// Touches all pages of a stripe and drops them again.
fn fault_stripe(area: &Area, stripe: usize, tally: &mut Tally) -> anyhow::Result<()> {
    for page in stripe * STRIPE..(stripe + 1) * STRIPE {
        area.touch(page);
    }
    area.advise(stripe * STRIPE, STRIPE, libc::MADV_DONTNEED)?;
    tally.add(Op::Touch, STRIPE);
    tally.add(Op::DontNeed, 1);
    Ok(())
}

/// Write-locks all of an area twice, and changes nothing.
fn write_lock_twice(area: &Area, tally: &mut Tally) -> anyhow::Result<()> {
    area.advise(0, area.pages(), libc::MADV_DONTDUMP)?;
    area.advise(0, area.pages(), libc::MADV_DODUMP)?;
    tally.add(Op::DontDump, 2);
    Ok(())
}

fn write_lock(team: &Team) -> anyhow::Result<()> {
    let area = Area::new(STRIPE * team.threads())?;
    team.run(|index, tally, shift| {
        while shift.goes_on() {
            if index == 0 {
                write_lock_twice(&area, tally)?;
                // Split off and merged again; nobody touches the first stripe.
                area.protect(0, 1, false)?;
                area.protect(0, 1, true)?;
                tally.add(Op::Mprotect, 2);
            } else {
                fault_stripe(&area, index, tally)?;
            }
        }
        Ok(())
    })
}

fn detach(team: &Team) -> anyhow::Result<()> {
    let area = Area::new(STRIPE)?;
    let touches = AtomicUsize::new(0);
    team.run(|index, tally, shift| {
        let mut page = index * 7 % STRIPE;
        while shift.goes_on() {
            if index == 0 {
                let before = touches.load(Ordering::Relaxed);
                area.replace()?;
                tally.add(Op::Mmap, 1);
                // Every mapping meets somebody, or there would be nothing to see.
                while touches.load(Ordering::Relaxed) == before && shift.goes_on() {
                    std::thread::yield_now();
                }
            } else {
                area.touch(page);
                page = (page + 5) % STRIPE;
                tally.add(Op::Touch, 1);
                touches.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    })
}

/// A reader is a temporary one if a writer came between its first look at the VMA and its increment, and still holds
/// the lock after it. Between the two are a few instructions; so the readers run only when nobody else wants their
/// processor, somebody does every moment, and the writer keeps the VMA locked for most of its time.
/// A move write-locks the VMA, looks at every entry of its page tables, and detaches it. There are no pages in it, so
/// that nobody has to be interrupted for the move: who is held up inside the lock holds up nothing else.
fn move_to_and_fro(team: &Team) -> anyhow::Result<()> {
    const PAGES: usize = 16384;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let readers = team.threads().max(4);
    let disturbers = (cpus - 1).clamp(1, readers);
    let place = |nth: usize| if cpus == 1 { 0 } else { 1 + nth % (cpus - 1) };
    let places = sys::Places::new(PAGES)?;
    let interrupts = sys::may_interrupt_all();
    team.run_with(1 + disturbers + readers, |index, tally, shift| {
        match index {
            0 => sys::pin(0),
            _ if index <= disturbers => sys::pin(place(index - 1)),
            _ => {
                sys::pin(place(index - 1 - disturbers));
                sys::be_idle();
            }
        }
        let mut rounds = index;
        let mut at = 0;
        while shift.goes_on() {
            rounds = rounds.wrapping_add(1);
            if index == 0 {
                places.go(at)?;
                at = 1 - at;
                tally.add(Op::Mremap, 1);
                for _ in 0..rounds % 7 * 100 {
                    core::hint::spin_loop();
                }
            } else if index <= disturbers {
                disturb(interrupts, tally);
            } else {
                places.drop_page(rounds % 2, rounds * 13 % PAGES);
                tally.add(Op::DontNeed, 1);
            }
        }
        Ok(())
    })
}

/// Interrupts everybody, and takes the processor from those who only have it while nobody else wants it.
fn disturb(interrupts: bool, tally: &mut Tally) {
    const BUSY: Duration = Duration::from_micros(150);
    const REST: Duration = Duration::from_micros(100);
    if interrupts {
        sys::interrupt_all();
        tally.add(Op::Barrier, 1);
    }
    let until = Instant::now() + BUSY;
    while Instant::now() < until {
        core::hint::spin_loop();
    }
    std::thread::sleep(REST);
}

fn temporary_readers(team: &Team) -> anyhow::Result<()> {
    const REPLACED_EVERY: usize = 8;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let readers = team.threads().max(4);
    // One who disturbs for each processor with a reader; the writer has the first one for itself, if there is another.
    let disturbers = (cpus - 1).clamp(1, readers);
    let place = |nth: usize| if cpus == 1 { 0 } else { 1 + nth % (cpus - 1) };
    let pages = STRIPE * team.threads();
    let area = Area::new(pages)?;
    let interrupts = sys::may_interrupt_all();
    team.run_with(1 + disturbers + readers, |index, tally, shift| {
        match index {
            0 => sys::pin(0),
            _ if index <= disturbers => sys::pin(place(index - 1)),
            _ => {
                sys::pin(place(index - 1 - disturbers));
                sys::be_idle();
            }
        }
        let mut rounds = index;
        while shift.goes_on() {
            rounds = rounds.wrapping_add(1);
            if index == 0 {
                if rounds.is_multiple_of(REPLACED_EVERY) {
                    area.replace()?;
                    tally.add(Op::Mmap, 1);
                } else {
                    // The kernel locks the VMA first, then looks at every page. Writing is allowed all the time.
                    area.write_only(rounds.is_multiple_of(2))?;
                    tally.add(Op::Mprotect, 1);
                }
                // Whoever finds the lock free of writers is needed here: they get a moment, never the same.
                for _ in 0..rounds % 7 * 100 {
                    core::hint::spin_loop();
                }
            } else if index <= disturbers {
                disturb(interrupts, tally);
            } else {
                // Each drop is a look-up of its own on kernels that have that.
                let page = rounds * 13 % pages;
                area.touch(page);
                if rounds.is_multiple_of(2) {
                    area.advise(page, 1, libc::MADV_DONTNEED)?;
                    tally.add(Op::DontNeed, 1);
                }
                tally.add(Op::Touch, 1);
            }
        }
        Ok(())
    })
}

fn waiting_writers(team: &Team) -> anyhow::Result<()> {
    const HUGE_PAGES: usize = 2;
    let area = Area::huge(HUGE_PAGES * team.threads())?;
    let stripe = HUGE_PAGES * HUGE / PAGE;
    // Where there are no huge pages, a page in sixteen makes a reader of some length as it is dropped.
    let step = 16;
    team.run(|index, tally, shift| {
        while shift.goes_on() {
            if index == 0 {
                write_lock_twice(&area, tally)?;
                continue;
            }
            for page in (index * stripe..(index + 1) * stripe).step_by(step) {
                area.touch(page);
            }
            area.advise(index * stripe, stripe, libc::MADV_DONTNEED)?;
            tally.add(Op::Touch, stripe / step);
            tally.add(Op::DontNeed, 1);
        }
        Ok(())
    })
}

fn idle_holder(team: &Team) -> anyhow::Result<()> {
    const PAGES: usize = 8192;
    const BUSY: Duration = Duration::from_millis(30);
    const REST: Duration = Duration::from_millis(3);
    let area = Area::new(PAGES)?;
    team.run_with(team.threads().max(5), |index, tally, shift| {
        // The holder runs only when nobody else does, and the first processor is wanted most of the time.
        sys::pin(index.saturating_sub(1));
        if index == 0 {
            sys::be_idle();
        }
        let mut page = 0;
        while shift.goes_on() {
            match index {
                0 => {
                    area.advise(0, PAGES, libc::MADV_DONTNEED)?;
                    tally.add(Op::DontNeed, 1);
                }
                1 => {
                    let until = Instant::now() + BUSY;
                    while Instant::now() < until {
                        core::hint::spin_loop();
                    }
                    std::thread::sleep(REST);
                }
                2 => {
                    // It fills what the holder empties.
                    area.touch(page);
                    page = (page + 1) % PAGES;
                    tally.add(Op::Touch, 1);
                }
                3 => {
                    write_lock_twice(&area, tally)?;
                    std::thread::sleep(REST);
                }
                _ => {
                    let small = Area::new(1)?;
                    small.touch(0);
                    drop(small);
                    tally.add(Op::Touch, 1);
                    tally.add(Op::Mmap, 1);
                    tally.add(Op::Munmap, 1);
                    std::thread::sleep(REST);
                }
            }
        }
        Ok(())
    })
}

/// Processes that exchange `vm_area_structs` through the allocator.
const PROCESSES: usize = 3;

fn recycle(team: &Team) -> anyhow::Result<()> {
    // At this point the process has one thread, none is on its way out, so that its children may do what they like.
    let mut children = Vec::new();
    for _ in 1..PROCESSES {
        children.push(sys::fork(|| i32::from(storm(team).is_err()))?);
    }
    let own = storm(team);
    let ended: Vec<anyhow::Result<()>> = children.into_iter().map(sys::wait).collect();
    own?;
    ended.into_iter().collect()
}

fn storm(team: &Team) -> anyhow::Result<()> {
    const PIECES: usize = 8;
    let window = Area::new(STRIPE)?;
    team.run_with(team.threads().div_ceil(2).max(2), |index, tally, shift| {
        let mut page = index;
        while shift.goes_on() {
            if index > 0 {
                window.touch(page % STRIPE);
                page += 3;
                tally.add(Op::Touch, 1);
                continue;
            }
            window.replace()?;
            let pieces: Vec<Area> = (0..PIECES).map(|_| Area::new(4)).collect::<anyhow::Result<_>>()?;
            for (at, piece) in pieces.iter().enumerate() {
                // Neighbours differ, or the kernel would merge them.
                piece.protect(3, 1, at % 2 == 0)?;
                piece.touch(0);
            }
            tally.add(Op::Mmap, 1 + PIECES);
            tally.add(Op::Mprotect, PIECES);
            tally.add(Op::Touch, PIECES);
            tally.add(Op::Munmap, PIECES);
        }
        Ok(())
    })
}

fn fork(team: &Team) -> anyhow::Result<()> {
    let area = Area::new(STRIPE * team.threads())?;
    team.run(|index, tally, shift| {
        while shift.goes_on() {
            if index > 0 {
                fault_stripe(&area, index, tally)?;
                continue;
            }
            let child = sys::fork(|| {
                for page in 0..16 {
                    area.touch(page);
                }
                0
            })?;
            sys::wait(child)?;
            tally.add(Op::Fork, 1);
            tally.add(Op::Touch, 16);
        }
        Ok(())
    })
}

fn split_merge(team: &Team) -> anyhow::Result<()> {
    let area = Area::new(STRIPE * (team.threads() + 1))?;
    team.run(|index, tally, shift| {
        while shift.goes_on() {
            match index {
                0 => {
                    // The stripe in the middle belongs to nobody else.
                    let middle = team.threads() / 2 * STRIPE;
                    area.protect(middle, STRIPE / 2, false)?;
                    area.protect(middle, STRIPE / 2, true)?;
                    tally.add(Op::Mprotect, 2);
                }
                1 => {
                    let mut own = Area::new(4)?;
                    own.touch(0);
                    own.resize(64)?;
                    own.touch(63);
                    own.resize(2)?;
                    tally.add(Op::Mmap, 1);
                    tally.add(Op::Mremap, 2);
                    tally.add(Op::Touch, 2);
                    tally.add(Op::Munmap, 1);
                }
                _ => {
                    // Left or right of the middle.
                    let stripe = if index % 2 == 0 { 0 } else { team.threads() };
                    fault_stripe(&area, stripe, tally)?;
                }
            }
        }
        Ok(())
    })
}

fn userfault(team: &Team) -> anyhow::Result<()> {
    let area = Area::new(STRIPE * (team.threads() + 1))?;
    let page = Area::new(1)?;
    page.touch(0);
    let userfault = Userfault::new(&area)?;
    let faulting = AtomicUsize::new(team.threads());
    // The last one serves for as long as anybody might wait for it.
    team.run_with(team.threads() + 1, |index, tally, shift| {
        if index == team.threads() {
            while faulting.load(Ordering::Acquire) > 0 {
                tally.add(Op::Copy, userfault.serve(&page)?);
            }
            return Ok(());
        }
        let mut result = Ok(());
        while shift.goes_on() && result.is_ok() {
            result = fault_stripe(&area, index, tally);
        }
        faulting.fetch_sub(1, Ordering::Release);
        result
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::super::sys::Impossible;
    use super::*;

    #[test]
    fn every_scenario_runs_without_privileges_and_does_something() {
        static NEVER: AtomicBool = AtomicBool::new(false);
        for scenario in SCENARIOS {
            // Children of a process with many threads may take no memory, and tests have many.
            if scenario.name == "recycle" {
                continue;
            }
            let team = Team::new(3, Duration::from_millis(40), &NEVER).unwrap();
            let begin = Instant::now();
            match scenario.run(&team) {
                Ok(()) => assert!(!team.done().is_empty(), "{} did nothing", scenario.name),
                Err(error) if error.downcast_ref::<Impossible>().is_some() => {}
                Err(error) => panic!("{}: {error:#}", scenario.name),
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "{}", scenario.name);
        }
    }

    #[test]
    fn an_interrupt_ends_a_scenario() {
        static NOW: AtomicBool = AtomicBool::new(true);
        let team = Team::new(3, Duration::from_secs(600), &NOW).unwrap();
        SCENARIOS[0].run(&team).unwrap();
    }

    #[test]
    fn names_are_words_that_occur_once() {
        for (at, scenario) in SCENARIOS.iter().enumerate() {
            let name = scenario.name;
            assert!(!["all", "list"].contains(&name));
            assert!(SCENARIOS[..at].iter().all(|other| other.name != name));
        }
    }
}
