//! `hotvma DIR THREADS PAGES [ROUNDS]`: one VMA that nothing else touches, for whoever watches its lock.
//!
//! Maps it, writes what and where it is to `DIR/hot` (process, address, length; decimal), waits for `DIR/go`, lets each
//! thread write to its pages for the first time, and ROUNDS times more after giving each back (`MADV_DONTNEED`), writes the number of touches to `DIR/done`, and waits for `DIR/quit`
//! before it unmaps the VMA and ends.
//!
//! `hotvma --slot`: takes one hardware breakpoint of CPU 0 and keeps it until it is killed.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::{fs, io, ptr, thread};

const PAGE: usize = 4096;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words == ["--slot"] {
        return match slot() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("hotvma: no breakpoint: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let (dir, numbers) = words.split_first().unzip();
    let numbers: Vec<usize> = numbers
        .into_iter()
        .flatten()
        .filter_map(|word| word.parse().ok())
        .collect();
    let (Some(dir), &[threads, pages, ref rounds @ ..]) = (dir, numbers.as_slice()) else {
        eprintln!("hotvma: wants a folder, threads, pages for each, and perhaps rounds");
        return ExitCode::from(2);
    };
    let rounds = rounds.first().copied().unwrap_or(0);
    match run(Path::new(dir), threads, pages, rounds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hotvma: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path, threads: usize, pages: usize, rounds: usize) -> io::Result<()> {
    // Nothing can grow into it: a page without access stands on either side. Its own first page is touched before,
    // so that what a VMA needs but once is there.
    let len = (threads * pages + 1) * PAGE;
    let all = map(len + 2 * PAGE)?;
    let start = all + PAGE;
    // SAFETY: the range is ours, and nothing lies there yet.
    unsafe {
        check(libc::mprotect(
            start as *mut _,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
        ))?;
        check(libc::madvise(start as *mut _, len, libc::MADV_NOHUGEPAGE))?;
    }
    touch(start);
    // Written under another name first, so that whoever sees it sees all of it.
    fs::write(
        dir.join("hot.new"),
        format!("{} {start} {len}\n", std::process::id()),
    )?;
    let workers: Vec<_> = (0..threads)
        .map(|index| {
            let (dir, first) = (dir.to_owned(), start + PAGE * (1 + index));
            thread::spawn(move || {
                wait(&dir.join("go"));
                for round in 0..=rounds {
                    for page in 0..pages {
                        // Neighbours belong to different threads.
                        let page = first + page * threads * PAGE;
                        if round > 0 {
                            // SAFETY: the page is ours, and what is in it does not matter.
                            unsafe { libc::madvise(page as *mut _, PAGE, libc::MADV_DONTNEED) };
                        }
                        touch(page);
                    }
                }
            })
        })
        .collect();
    fs::rename(dir.join("hot.new"), dir.join("hot"))?;
    for worker in workers {
        worker.join().map_err(|_| io::Error::other("a thread failed"))?;
    }
    fs::write(
        dir.join("done.new"),
        format!("{}\n", threads * pages * (1 + rounds)),
    )?;
    fs::rename(dir.join("done.new"), dir.join("done"))?;
    wait(&dir.join("quit"));
    // SAFETY: nobody uses it any more.
    unsafe { check(libc::munmap(start as *mut _, len)) }
}

fn map(len: usize) -> io::Result<usize> {
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(start as usize)
}

/// Watches a byte of its own, which nobody writes to.
fn slot() -> io::Result<()> {
    // `struct perf_event_attr`: type and size, then words; a breakpoint that is off, and its address and length.
    const BREAKPOINT: u64 = 5;
    const SIZE: u64 = 112;
    const WRITE: u64 = 2;
    static BYTE: u8 = 0;
    let mut attr = [0_u64; SIZE as usize / 8];
    attr[0] = BREAKPOINT | SIZE << 32;
    attr[5] = 1;
    attr[6] = WRITE << 32;
    attr[7] = &raw const BYTE as u64;
    attr[8] = 1;
    // SAFETY: the structure is as long as it says, and lives until the call returns.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attr.as_ptr(), -1, 0, -1, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

fn touch(address: usize) {
    // SAFETY: the address is in a writable mapping of ours, which nothing else uses.
    unsafe { ptr::write_volatile(address as *mut u8, 1) };
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn wait(file: &Path) {
    while !file.exists() {
        thread::sleep(Duration::from_millis(5));
    }
}
