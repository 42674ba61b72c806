//! The live kernel on the screen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tracer_common::wire::{Event, Kind};

use super::cost::Meter;
use super::feed::{self, Desk, Wish};
use super::snapshot::Recording;
use super::world::{LOG, World};
use super::{ScreenArgs, screen};
use crate::clock;
use crate::info::{CpuLosses, Losses, SourceInfo};
use crate::order::Order;
use crate::pipeline::{self, Consumer, Stop};
use crate::recording::{self, RecordWriter};
use crate::sink::address::Addresses;
use crate::source::Source;
use crate::stacks::Stacks;

/// Shows a source on the screen until the user quits, or it ends.
///
/// # Errors
/// Of the source, or if the terminal cannot be set up.
pub fn run<S: Source>(source: &mut S, stop: &mut Stop, args: &ScreenArgs) -> anyhow::Result<()> {
    let (board, desk) = feed::pair();
    let app = args.app(false);
    let (over, by_user) = (Arc::new(AtomicBool::new(false)), stop.switch());
    let shown = thread::Builder::new().name("screen".to_owned()).spawn({
        let over = Arc::clone(&over);
        move || {
            let result = screen::run(&board, app, &over);
            by_user.store(true, Ordering::Relaxed);
            result
        }
    });
    let shown = shown.context("cannot start a thread for the screen")?;
    // What the program has to say would run across the screen; the header says it there.
    log::set_max_level(log::LevelFilter::Off);
    let mut watcher = Watcher::new(Arc::new(source.info().clone()), desk, args.frame());
    if args.raw_addresses {
        watcher.world.show_addresses(Addresses::raw());
    }
    let result = pipeline::run(source, stop, &mut watcher);
    let finished = watcher.finish();
    over.store(true, Ordering::Relaxed);
    let shown = shown
        .join()
        .map_err(|_| anyhow::anyhow!("the screen failed; the terminal was restored"))?;
    result?;
    finished?;
    shown
}

/// Grows the world, and takes pictures of it for the screen.
pub struct Watcher {
    world: World,
    /// As it goes into recordings, which keep what was found.
    info: Arc<SourceInfo>,
    desk: Desk,
    frame: Duration,
    next: Instant,
    meter: Meter,
    took: Duration,
    pictures: u64,
    recorder: Option<Recorder>,
    notice: Option<(u64, String)>,
}

impl Watcher {
    /// For a stream that `info` tells about.
    pub fn new(info: Arc<SourceInfo>, desk: Desk, frame: Duration) -> Self {
        Self {
            world: World::new(&info, LOG),
            info,
            desk,
            frame,
            next: Instant::now(),
            meter: Meter::default(),
            took: Duration::ZERO,
            pictures: 0,
            recorder: None,
            notice: None,
        }
    }

    /// How long the latest picture took.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// How many pictures there were.
    pub fn pictures(&self) -> u64 {
        self.pictures
    }

    fn tell(&mut self, text: String) {
        let number = self.notice.take().map_or(0, |(number, _)| number) + 1;
        self.notice = Some((number, text));
        self.next = Instant::now();
    }

    fn fulfil(&mut self, wish: Wish) {
        match wish {
            Wish::Hold => self.desk.hand_over(Box::new(self.world.clone())),
            Wish::Record(None) if self.recorder.is_some() => self.stop_recording(),
            Wish::Record(name) => self.start_recording(name),
            Wish::StopRecording => {
                if self.recorder.is_some() {
                    self.stop_recording();
                } else {
                    self.tell("nothing is being recorded".into());
                }
            }
            Wish::Trigger(trigger) => {
                let text = match &trigger {
                    Some(trigger) => format!("the screen will be held at {trigger}"),
                    None => "no trigger".into(),
                };
                self.world.set_trigger(trigger);
                self.tell(text);
            }
            Wish::Frames(frames) => {
                self.frame = Duration::from_secs(1) / frames.max(1);
                self.tell(format!("{frames} pictures a second"));
            }
            Wish::Replay(_) => {}
        }
    }

    fn hold_if_fired(&mut self) {
        if self.world.has_fired() {
            // The copy keeps what fired, so that the screen knows that it is to hold.
            self.desk.hand_over(Box::new(self.world.clone()));
            self.world.take_fired();
        }
    }

    fn start_recording(&mut self, name: Option<String>) {
        if let Some(recorder) = &self.recorder {
            let text = format!("it records to {} already", recorder.name);
            return self.tell(text);
        }
        let name = name.unwrap_or_else(|| format!("tracer-{}.rec", screen::stamp()));
        match Recorder::start(&name, &self.info, &self.world) {
            Ok(recorder) => {
                self.recorder = Some(recorder);
                self.tell(format!("recording to {name}"));
            }
            Err(error) => self.tell(format!("{error:#}")),
        }
    }

    fn stop_recording(&mut self) {
        if let Some(recorder) = self.recorder.take() {
            let name = recorder.name.clone();
            let text = match recorder.finish() {
                Ok(events) => format!("{events} events in {name}"),
                Err(error) => format!("{error:#}"),
            };
            self.tell(text);
        }
    }

    /// Ends what is being recorded.
    ///
    /// # Errors
    /// If the recording cannot be finished.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        match self.recorder.take() {
            Some(recorder) => recorder.finish().map(drop),
            None => Ok(()),
        }
    }

    fn picture(&mut self, order: &Order) {
        let start = Instant::now();
        self.world.ordered(order.stats());
        let (request, _) = self.desk.request();
        let mut shot = self.world.picture(request, clock::monotonic_ns());
        shot.head.cost = Some(self.meter.cost(self.took));
        shot.head.recording = self.recorder.as_ref().map(Recorder::state);
        shot.head.notice.clone_from(&self.notice);
        self.desk.publish(shot);
        self.took = start.elapsed();
        self.pictures += 1;
    }
}

impl Consumer for Watcher {
    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        self.world.event(event);
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = recorder.push(event)
        {
            self.recorder = None;
            self.tell(format!("{error:#}"));
        }
        self.hold_if_fired();
        Ok(())
    }

    fn round(&mut self, order: &Order) -> anyhow::Result<()> {
        while let Some(wish) = self.desk.wish() {
            self.fulfil(wish);
        }
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = recorder.writer.tick()
        {
            self.recorder = None;
            self.tell(format!("{error:#}"));
        }
        // What is stuck makes no event.
        self.world.look(order.watermark_ns());
        self.hold_if_fired();
        let (request, changed) = self.desk.request();
        if changed {
            self.world.ask(request);
        }
        // Who has pressed a key looks at the screen and waits.
        if changed || Instant::now() >= self.next {
            self.next = Instant::now() + self.frame;
            self.picture(order);
        }
        Ok(())
    }

    fn stacks(&mut self, stacks: &Stacks) -> anyhow::Result<()> {
        self.world.stacks(stacks);
        if let Some(recorder) = &mut self.recorder {
            recorder.writer.stacks(stacks)?;
        }
        Ok(())
    }

    fn losses(&mut self, losses: &Losses) -> anyhow::Result<()> {
        self.world.losses(losses);
        if let Some(recorder) = &mut self.recorder {
            recorder.losses(losses)?;
        }
        Ok(())
    }
}

/// Records from the middle of a stream: each CPU's numbers begin at 0 again, so that what came before is no gap.
struct Recorder {
    writer: RecordWriter,
    name: String,
    /// By CPU: the first number, the number after the last one, and how many events there were.
    cpus: Vec<Option<(u32, u32, u64)>>,
    before: Losses,
    latest: Losses,
}

impl Recorder {
    fn start(name: &str, info: &SourceInfo, world: &World) -> anyhow::Result<Self> {
        let mut info = info.clone();
        let now = clock::anchor();
        let start = now.monotonic_ns.min(world.now_ns().max(info.start_monotonic_ns));
        info.start_monotonic_ns = start;
        info.start_realtime_ns = now.realtime_ns.saturating_sub(now.monotonic_ns - start);
        info.anchor = Some(now);
        info.first_numbers.clear();
        Ok(Self {
            writer: recording::create(std::path::Path::new(name), &info)?,
            name: name.to_owned(),
            cpus: Vec::new(),
            before: world.losses.clone(),
            latest: world.losses.clone(),
        })
    }

    fn push(&mut self, event: &Event) -> anyhow::Result<()> {
        let cpu = usize::from(event.header.cpu);
        if cpu >= self.cpus.len() {
            self.cpus.resize(cpu + 1, None);
        }
        let seq = event.header.seq;
        let (first, next, count) = self.cpus[cpu].get_or_insert((seq, seq, 0));
        let mut event = *event;
        event.header.seq = seq.wrapping_sub(*first);
        let gap = event.kind == Kind::Gap;
        *next = seq.wrapping_add(if gap { event.body.arg } else { 1 });
        *count += u64::from(!gap);
        self.writer.push(&event)
    }

    fn since(&self, losses: &Losses) -> Losses {
        let mut since = losses.clone();
        since.missed = losses.missed.saturating_sub(self.before.missed);
        for (cpu, before) in since.cpus.iter_mut().zip(&self.before.cpus) {
            cpu.dropped = cpu.dropped.saturating_sub(before.dropped);
            cpu.produced = cpu.produced.saturating_sub(before.produced);
            cpu.received = cpu.received.saturating_sub(before.received);
        }
        since
    }

    fn losses(&mut self, losses: &Losses) -> anyhow::Result<()> {
        if losses.dropped() != self.latest.dropped() || losses.missed != self.latest.missed {
            let since = self.since(losses);
            self.writer.losses(&since)?;
        }
        self.latest.clone_from(losses);
        Ok(())
    }

    fn state(&self) -> Recording {
        Recording {
            name: self.name.clone(),
            events: self.writer.events(),
            bytes: self.writer.bytes_written(),
        }
    }

    fn finish(self) -> anyhow::Result<u64> {
        let mut since = self.since(&self.latest);
        // What is still under way ends here: each CPU has produced what was seen, or seen to be missing.
        since.cpus = self
            .cpus
            .iter()
            .map(|cpu| {
                let (first, next, received) = cpu.unwrap_or_default();
                let produced = u64::from(next.wrapping_sub(first));
                CpuLosses {
                    produced,
                    dropped: produced.saturating_sub(received),
                    received,
                }
            })
            .collect();
        Ok(self.writer.finish(&since, "user")?.events)
    }
}
