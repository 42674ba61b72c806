//! The running kernel as a source.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aya::maps::Map;
use aya_log::EbpfLogger;
use log::Log;
use tracer_common::site::{self, FIRST_DYNAMIC};
use tracer_common::wire::{ABI, CpuCounters, Event, MAX_SITES, decode};

use super::frames::Framer;
use super::ring::{Drained, Ring};
use super::{Poll, Source};
use crate::clock;
use crate::info::{Anchor, CpuLosses, KernelInfo, Losses, SourceInfo};
use crate::kernel::Facts;
use crate::mode::Mode;
use crate::probe::attach::{self, Attached};
use crate::probe::cost::Meter;
use crate::probe::mapped::Mapped;
use crate::probe::{self, Found, Plan, Wishes};
use crate::sink::address::Addresses;
use crate::stacks::Stacks;
use crate::sums::Sums;

/// How long a quiet ring is left alone. The kernel wakes us earlier if it fills up.
const NAP: Duration = Duration::from_millis(10);
/// How long to wait for probes that were running when they were detached.
const LAST_PROBES: Duration = Duration::from_millis(500);

// Words of `SiteCounters`.
const DROPPED: usize = 1;
const SPARED: usize = 2;

/// The running kernel as a source.
pub struct Live {
    attached: Attached,
    /// What the programs themselves say, under `-v`.
    log: Option<EbpfLogger<&'static dyn Log>>,
    ring: Ring,
    /// The switch of all probes.
    enabled: Mapped,
    /// `CpuSlot` by CPU.
    counters: Mapped,
    /// `SiteCounters` by CPU and site.
    sites: Mapped,
    /// `CpuSummary` by CPU, if the kernel sums up.
    sums: Option<Mapped>,
    info: SourceInfo,
    received: Vec<u64>,
    /// Skipped runs before events were wanted.
    missed_before: u64,
    /// Runs that first programs lost before their second ones were there.
    missed_alone: u64,
    missed: u64,
    watermark_ns: u64,
    stopped: bool,
    end_ns: Option<u64>,
    undecodable: u64,
    framer: Framer,
    meter: Meter,
}

impl Live {
    /// Plans, loads and attaches.
    ///
    /// # Errors
    /// [`probe::Refusal`] when this kernel or these privileges give nothing; else what went wrong.
    pub fn start(
        facts: &Facts,
        found: &Found,
        wishes: &Wishes,
        loader: attach::Loader,
        options: &attach::Options,
        filters: Vec<String>,
    ) -> anyhow::Result<Self> {
        let mut plan = probe::plan(facts, found, wishes)?;
        // Before our own programs are among the symbols.
        let framer = Framer::new(
            wishes.stacks_from_ns.is_some() && !options.idle,
            options.user_symbols,
        );
        let mut attached = attach::attach(&mut plan, facts, loader, options)?;
        let ebpf = &mut attached.ebpf;
        let events = ebpf.take_map("EVENTS").context("the object has no map EVENTS")?;
        let Map::RingBuf(events) = events else {
            anyhow::bail!("the map EVENTS is no ring buffer")
        };
        let log = if options.log {
            Some(EbpfLogger::init(ebpf).context("cannot read the log of the probes")?)
        } else {
            None
        };
        let map = |name: &str, writable: bool| {
            let map = ebpf
                .map(name)
                .with_context(|| format!("the object has no map {name}"))?;
            Mapped::new(name, map, writable)
        };
        let (enabled, counters, sites) = (
            map("ENABLED", true)?,
            map("COUNTERS", false)?,
            map("SITES", false)?,
        );
        let sums = (options.mode != Mode::Stream || options.sums).then(|| map("SUMS", false));
        let sums = sums.transpose()?;
        let cpus = attach::cpus()?;
        let missed_before = attach::missed(&attached);
        // All is in place: from here on events are wanted.
        let start = clock::anchor();
        if !options.idle {
            enabled.set(1)?;
        }
        Ok(Self {
            missed_before,
            missed_alone: 0,
            ring: Ring::new(events, options.ring_bytes)?,
            enabled,
            counters,
            sites,
            sums,
            info: info(facts, plan, options, wishes, filters, cpus, start),
            received: vec![0; cpus],
            missed: 0,
            watermark_ns: start.monotonic_ns,
            stopped: false,
            end_ns: None,
            undecodable: 0,
            framer,
            meter: Meter::new(facts.lockdep.is_none()),
            log,
            attached,
        })
    }

    /// Attaches what [`Self::start`] left for later, at once. Otherwise it is done while events flow.
    pub fn complete(&mut self) {
        while !self.attached.later.is_done() {
            self.missed_alone += self.attached.one_more();
        }
    }

    /// How many instructions the verifier looked at in each program that is loaded, by name.
    pub fn verified(&self) -> BTreeMap<String, u32> {
        attach::verified(&self.attached)
    }

    /// What the kernel has summed up by now, if it does.
    pub fn sums(&self) -> Option<Sums> {
        let sums = self.sums.as_ref()?;
        Some(Sums::of_words(sums.count(), |cpu, word| sums.word(cpu, word)))
    }

    /// When the probes were told to make no more events; now, if they were not.
    pub fn end_ns(&self) -> u64 {
        self.end_ns.unwrap_or_else(clock::monotonic_ns)
    }

    /// Adds a process to those that are recorded.
    ///
    /// # Errors
    /// When the kernel refuses, for example because there are too many.
    pub fn follow(&mut self, pid: u32) -> anyhow::Result<()> {
        let map = self
            .attached
            .ebpf
            .map_mut("PIDS")
            .context("the object has no map PIDS")?;
        let mut map = aya::maps::HashMap::<_, u32, u8>::try_from(map)?;
        map.insert(pid, 1, 0)
            .context("cannot add the command's process to the filter")
    }

    /// Events that the kernel's skipping of programs has lost so far; see `twice.rs` on the other side.
    fn missed(&self) -> u64 {
        let spared: u64 = (0..FIRST_DYNAMIC).map(|site| self.at(site, SPARED)).sum();
        let skipped = attach::missed(&self.attached) + self.missed_alone;
        skipped.saturating_sub(self.missed_before + spared)
    }

    /// One of a site's counters, on all CPUs.
    fn at(&self, site: u32, word: usize) -> u64 {
        (0..self.received.len())
            .map(|cpu| self.sites.word(cpu * MAX_SITES as usize + site as usize, word))
            .sum()
    }

    /// Events that found no room, by site.
    fn dropped_at(&self) -> BTreeMap<u32, u64> {
        // Those that have these numbers count something else.
        let events = |site: &u32| ![site::MARKS, site::FRAMES].contains(site);
        (0..self.info.sites.len() as u32)
            .filter(events)
            .map(|site| (site, self.at(site, DROPPED)))
            .filter(|&(_, dropped)| dropped > 0)
            .collect()
    }

    fn produced(&self) -> impl Iterator<Item = CpuCounters> + '_ {
        (0..self.received.len()).map(|cpu| CpuCounters {
            // The other way round something could be dropped and not yet produced.
            dropped: self.counters.word(cpu, 1),
            produced: self.counters.word(cpu, 0),
        })
    }

    /// Whether every event that was produced has arrived or was counted as dropped.
    fn is_settled(&self) -> bool {
        self.produced()
            .zip(&self.received)
            .all(|(cpu, received)| cpu.produced == cpu.dropped + received)
    }

    fn drain(&mut self, sink: &mut dyn FnMut(&Event)) -> (Drained, bool) {
        let mut any = false;
        let Self {
            ring,
            received,
            undecodable,
            framer,
            ..
        } = self;
        let drained = ring.drain(|bytes| {
            any = true;
            match decode(bytes) {
                Ok((mut event, _)) => {
                    framer.number(&mut event, bytes);
                    if let Some(count) = received.get_mut(usize::from(event.header.cpu)) {
                        *count += 1;
                    }
                    sink(&event);
                }
                // Both sides are one build; this is a bug, and the accounting will not close.
                Err(_) => *undecodable += 1,
            }
        });
        (drained, any)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        attach::detach(&mut self.attached);
    }
}

impl Source for Live {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn poll(&mut self, wait: Duration, sink: &mut dyn FnMut(&Event)) -> anyhow::Result<Poll> {
        if self.stopped {
            let until = Instant::now() + LAST_PROBES;
            loop {
                self.drain(sink);
                if self.is_settled() || Instant::now() >= until {
                    anyhow::ensure!(
                        self.undecodable == 0,
                        "{} events of the kernel side could not be decoded: the program and its probes differ",
                        self.undecodable
                    );
                    return Ok(Poll::End);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if let Some(log) = &mut self.log {
            log.flush();
        }
        if !self.attached.later.is_done() {
            self.missed_alone += self.attached.one_more();
        }
        self.meter.tick(&self.attached.ebpf);
        let now = clock::monotonic_ns();
        let (drained, any) = self.drain(sink);
        if drained == Drained::All {
            self.watermark_ns = now;
        }
        if !any {
            self.ring
                .wait(wait.min(NAP))
                .context("cannot wait for the ring buffer")?;
        }
        Ok(Poll::More {
            watermark_ns: self.watermark_ns,
        })
    }

    fn stacks(&self) -> &Stacks {
        &self.framer.stacks
    }

    /// Lets the probes make no more events. They are detached when this is dropped, which takes longer: whoever
    /// writes to a file or a screen is through with it by then.
    fn stop(&mut self) {
        if !self.stopped {
            self.meter.stop(&self.attached.ebpf);
            if let Err(error) = self.enabled.set(0) {
                log::warn!("probes will end one by one, not at once: {error:#}");
            }
            self.end_ns = Some(clock::monotonic_ns());
            // What runs now ends soon, and takes its notes away.
            std::thread::sleep(Duration::from_millis(2));
            let left = attach::notes_left(&self.attached.ebpf);
            match left {
                Ok(left) => self.missed = self.missed().saturating_sub(left),
                Err(error) => log::warn!("what the kernel skipped cannot be told: {error:#}"),
            }
            self.stopped = true;
        }
    }

    fn losses(&mut self) -> anyhow::Result<Losses> {
        if !self.stopped {
            self.missed = self.missed();
        }
        let cpus = self
            .produced()
            .zip(&self.received)
            .map(|(cpu, &received)| CpuLosses {
                produced: cpu.produced,
                dropped: cpu.dropped,
                received,
            })
            .collect();
        Ok(Losses {
            cpus,
            missed: self.missed,
            marks: self.at(site::MARKS, DROPPED),
            stacks: self.at(site::FRAMES, DROPPED),
            crowded: 0,
            unpaired: self.sums().map(|sums| sums.unpaired()).unwrap_or_default(),
            dropped_at: self.dropped_at(),
            costs: self.meter.costs().clone(),
        })
    }
}

fn info(
    facts: &Facts,
    plan: Plan,
    options: &attach::Options,
    wishes: &Wishes,
    filters: Vec<String>,
    cpus: usize,
    start: Anchor,
) -> SourceInfo {
    SourceInfo {
        tracer_version: env!("CARGO_PKG_VERSION").to_owned(),
        source: "live".to_owned(),
        kernel: KernelInfo {
            release: facts.release.clone(),
            version: facts.version.clone(),
            machine: facts.machine.clone(),
            family: facts.family.unwrap_or_default(),
            layout: facts.layout.offsets(),
        },
        host: std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map(|name| name.trim().to_owned())
            .unwrap_or_default(),
        command: std::env::args().collect(),
        cpus: cpus as u32,
        self_pid: std::process::id(),
        start_monotonic_ns: start.monotonic_ns,
        start_realtime_ns: start.realtime_ns,
        anchor: Some(start),
        boot_id: clock::boot_id(),
        wire_version: ABI,
        filters,
        self_excluded: options.exclude_pid != 0,
        ring_bytes: u64::from(options.ring_bytes),
        sites: plan.sites,
        unseen: plan.unseen,
        without: wishes
            .without
            .iter()
            .map(|mechanism| mechanism.name().to_owned())
            .collect(),
        truth: wishes.truth,
        address_key: Addresses::new_key(),
        ..SourceInfo::default()
    }
}
