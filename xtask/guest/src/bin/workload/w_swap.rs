//! Memory that needs something of the machine: huge pages, swap space.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cli::{Entry, Opts, PLAIN};
use crate::report::{Count, Report};
use crate::sys::{self, Mapping, PAGE, impossible};
use crate::team::{Phase, measure};

/// The workloads of this file.
pub(crate) const TABLE: &[Entry] = &[
    Entry {
        name: "hugetlb",
        about: "Threads write to fresh huge pages of 2 MiB",
        detail: "huge_faults = threads x pages, each one fault. The pages are reserved before, by raising \
                 /proc/sys/vm/nr_hugepages for as long as this runs: needs root and that much contiguous memory.",
        pages: 8,
        rounds: 0,
        run: hugetlb,
        ..PLAIN
    },
    Entry {
        name: "swap",
        about: "Threads write to pages that are in swap space",
        detail: "Pages are written, and swapped out with MADV_PAGEOUT, before the measured part. swap_faults counts \
                 those that are in swap space when it begins, each one fault; `swapped` of threads x pages. Uses \
                 the swap space that is active, else a zram device of its own, else the block device of --device, \
                 which it overwrites; needs root.",
        pages: 256,
        rounds: 0,
        device: true,
        run: swap,
        ..PLAIN
    },
];

const HUGE: usize = 2 << 20;
const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

/// Huge pages that exist for as long as this does.
struct Reserved(u64);

impl Reserved {
    fn new(pages: usize) -> Result<Self> {
        let read = || -> Result<u64> {
            let text = fs::read_to_string(NR_HUGEPAGES)
                .map_err(|e| impossible(format!("this kernel has no huge pages: {NR_HUGEPAGES}: {e}")))?;
            text.trim().parse().with_context(|| NR_HUGEPAGES.to_owned())
        };
        let meminfo = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
        let size = meminfo
            .lines()
            .find_map(|l| l.strip_prefix("Hugepagesize:"))
            .map(|l| l.trim().to_owned());
        if size.as_deref() != Some("2048 kB") {
            return Err(impossible(format!(
                "the size of huge pages is {}, not 2048 kB",
                size.as_deref().unwrap_or("not known")
            )));
        }
        let old = read()?;
        let wanted = old + pages as u64;
        fs::write(NR_HUGEPAGES, wanted.to_string())
            .map_err(|e| impossible(format!("setting {NR_HUGEPAGES} to {wanted}: {e} (it needs root)")))?;
        let reserved = Self(old);
        let now = read()?;
        if now < wanted {
            return Err(impossible(format!(
                "the kernel found memory for {now} huge pages where {wanted} are needed; use fewer --pages"
            )));
        }
        Ok(reserved)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Err(error) = fs::write(NR_HUGEPAGES, self.0.to_string()) {
            eprintln!("workload: setting {NR_HUGEPAGES} back to {}: {error}", self.0);
        }
    }
}

fn hugetlb(opts: &Opts) -> Result<Report> {
    let _reserved = Reserved::new(opts.threads * (opts.pages + 1))?;
    let new = |pages| {
        Mapping::map(
            opts.threads * pages * HUGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB,
            -1,
        )
    };
    let areas = [new(1)?, new(opts.pages)?];
    measure(
        opts.threads,
        |index, phase: Phase| Ok((index, &areas[phase.index()])),
        |(index, area), counts| {
            for page in (*index..area.len() / HUGE).step_by(opts.threads) {
                sys::poke(area.base() + page * HUGE);
                counts.add(Count::HugeFaults, 1);
            }
            Ok(())
        },
        |_| Ok(()),
    )
}

/// Swap space, taken away again if it is ours.
struct SwapSpace {
    device: Option<String>,
    name: String,
}

const ZRAM: &str = "/sys/block/zram0";

impl SwapSpace {
    fn get(device: &str, len: usize) -> Result<Self> {
        let active = fs::read_to_string("/proc/swaps")
            .map_err(|e| impossible(format!("this kernel has no swap: /proc/swaps: {e}")))?;
        if let Some(line) = active.lines().nth(1) {
            let name = line.split_whitespace().next().unwrap_or_default().to_owned();
            return Ok(Self { device: None, name });
        }
        let name = if device.is_empty() {
            zram(len)?
        } else {
            device.to_owned()
        };
        let space = Self {
            device: Some(name.clone()),
            name,
        };
        make_swap(&space.name, len)?;
        let path = CString::new(space.name.clone()).context("the device's name")?;
        // SAFETY: the path is NUL-terminated.
        let result = unsafe { libc::swapon(path.as_ptr(), 0) };
        sys::check(result, "swapon").with_context(|| space.name.clone())?;
        Ok(space)
    }
}

/// A zram device of this size, the module loaded if need be.
fn zram(len: usize) -> Result<String> {
    if fs::metadata(ZRAM).is_err() {
        // What modprobe says does not matter: the device is there afterwards, or not.
        drop(Command::new("modprobe").arg("zram").output());
    }
    let disksize = format!("{ZRAM}/disksize");
    let old = fs::read_to_string(&disksize).map_err(|_| {
        impossible(
            "there is no active swap space, and no zram device: this kernel has it as a module that is not here, or \
             not at all; --device names a block device to use",
        )
    })?;
    if old.trim() != "0" {
        bail!("{ZRAM} is in use by somebody else; swapon it, or name another with --device");
    }
    fs::write(&disksize, len.to_string())
        .map_err(|e| impossible(format!("setting up {disksize}: {e} (it needs root)")))?;
    Ok("/dev/zram0".to_owned())
}

/// Writes the header of a swap area: version 1, the last page's number, and the mark at the end of the first page.
fn make_swap(device: &str, len: usize) -> Result<()> {
    let mut header = [0_u8; PAGE];
    header[1024..1028].copy_from_slice(&1_u32.to_le_bytes());
    let last = u32::try_from(len / PAGE - 1).context("the size of the swap space")?;
    header[1028..1032].copy_from_slice(&last.to_le_bytes());
    header[PAGE - 10..].copy_from_slice(b"SWAPSPACE2");
    let file = OpenOptions::new()
        .write(true)
        .open(device)
        .with_context(|| format!("opening {device}"))?;
    file.write_all_at(&header, 0)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("writing to {device}"))
}

impl Drop for SwapSpace {
    fn drop(&mut self) {
        let Some(device) = &self.device else {
            return;
        };
        if let Ok(path) = CString::new(device.clone()) {
            // SAFETY: the path is NUL-terminated. If it is not active this fails, and nothing is lost.
            unsafe { libc::swapoff(path.as_ptr()) };
        }
        if device == "/dev/zram0"
            && let Err(error) = fs::write(format!("{ZRAM}/reset"), "1")
        {
            eprintln!("workload: giving {device} back: {error}");
        }
    }
}

/// Which pages of a mapping are in swap space.
fn swapped(area: &Mapping, first: usize, pages: usize) -> Result<Vec<bool>> {
    let file = fs::File::open("/proc/self/pagemap").context("/proc/self/pagemap")?;
    let mut bytes = vec![0; pages * 8];
    file.read_exact_at(&mut bytes, (area.page(first) / PAGE * 8) as u64)
        .context("reading /proc/self/pagemap")?;
    // Bit 62 of each entry.
    Ok(bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|entry| u64::from_le_bytes(*entry) >> 62 & 1 == 1)
        .collect())
}

fn swap(opts: &Opts) -> Result<Report> {
    let pages = opts.threads * opts.pages;
    let space = SwapSpace::get(&opts.device, (4 * pages * PAGE).max(8 << 20))?;
    let areas = [Mapping::anon(pages)?, Mapping::anon(pages)?];
    let mut report = measure(
        opts.threads,
        |index, phase: Phase| {
            let (area, first) = (&areas[phase.index()], index * opts.pages);
            let mut out = Vec::new();
            // Pages that were touched a moment ago may still be on their way to the lists that are reclaimed from.
            for _ in 0..20 {
                for page in first..first + opts.pages {
                    area.write(page);
                }
                area.advise_part(first, opts.pages, libc::MADV_PAGEOUT)?;
                out = swapped(area, first, opts.pages)?;
                if out.iter().all(|o| *o) {
                    break;
                }
            }
            Ok((area, first, out))
        },
        |(area, first, out), counts| {
            for (page, out) in out.iter().enumerate() {
                area.write(*first + page);
                counts.add(Count::SwapFaults, usize::from(*out));
            }
            Ok(())
        },
        |_| Ok(()),
    )?;
    drop(areas);
    let out = report.counts.get(Count::SwapFaults);
    if out == 0 {
        bail!("MADV_PAGEOUT put nothing into the swap space {}", space.name);
    }
    report.set("swapped", out);
    report.set("swap_space", space.name.clone());
    Ok(report)
}
