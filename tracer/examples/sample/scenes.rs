//! Some scenes: a chain of three tasks that wait for each other, faults, births and deaths, strange names, a gap.

use std::path::Path;

use tracer::info::{CpuLosses, Losses, SourceInfo};
use tracer::recording::create;
use tracer::stacks::{Frame, Stack, Stacks};
use tracer_common::wire::{Event, Kind, Reason, fault, flag};

/// Names that somebody may have chosen to do harm, or without thinking of others.
const NAMES: [&[u8]; 10] = [
    b"=1+1|calc!A1",
    b"</script><b>",
    b"a\"b,c'd",
    b"tab\there",
    b"new\nline",
    b"\xff\xfe bytes",
    "\u{202e}rtl".as_bytes(),
    b"\x1b[31mred",
    b"a;b c$`",
    b"<img src=x>",
];

const KNOWN: u16 = flag::VMA | flag::RANGE | flag::REFCNT | flag::VMA_SEQ | flag::MM_SEQ;
const ROUNDS: u32 = 40;

struct Scenes {
    events: Vec<Event>,
    seqs: [u32; 4],
    now_ns: u64,
}

impl Scenes {
    fn push(&mut self, tid: u32, kind: Kind, change: impl FnOnce(&mut Event)) {
        self.now_ns += 1_000;
        let mut event = Event::synthetic(kind, self.now_ns);
        let cpu = tid % 4;
        event.header.cpu = u16::try_from(cpu).unwrap_or(0);
        event.header.pid = 1_000 + tid / 100;
        event.header.tid = 2_000 + tid;
        event.header.comm[..4].copy_from_slice(b"work");
        event.header.site = 0;
        event.header.flags = flag::MM;
        event.body.mm = 0xffff_8880_0000_0000 + u64::from(tid / 100) * 0x800;
        change(&mut event);
        event.header.seq = self.seqs[cpu as usize];
        // A gap stands for the numbers that it covers.
        self.seqs[cpu as usize] += if kind == Kind::Gap { event.body.arg } else { 1 };
        self.events.push(event);
    }

    fn vma(&mut self, tid: u32, kind: Kind, arg: u32, count: u32) {
        self.push(tid, kind, |event| {
            event.header.flags |= KNOWN;
            event.header.site = 1;
            event.body.vma = 0xffff_8881_0000_0000;
            event.body.vm_start = 0x7f00_0000_0000;
            event.body.vm_end = 0x7f00_0020_0000;
            event.body.vm_refcnt = count;
            // Equal, and the latter odd, only under a writer.
            event.body.mm_lock_seq = 2;
            event.body.vm_lock_seq = 1;
            if kind == Kind::VmaWriteAcquire {
                (event.body.vm_lock_seq, event.body.mm_lock_seq) = (3, 3);
            }
            event.body.arg = arg;
        });
    }

    fn mmap(&mut self, tid: u32, kind: Kind, write: bool) {
        self.push(tid, kind, |event| {
            event.header.flags |= if write { flag::WRITE } else { 0 };
        });
    }

    fn stack(&mut self, tid: u32, of: Kind, ns: u64, kernel: u64, user: u64) {
        self.push(tid, Kind::Stack, |event| {
            event.body.vma = kernel;
            event.body.vm_start = user;
            event.body.vm_end = ns;
            event.body.arg = of as u32;
        });
    }

    /// 13 waits for 12, who waits for 11: the wait chain that everybody asks about.
    fn chain(&mut self) {
        let under_vma = u32::from(fault::FLAG_VMA_LOCK | fault::FLAG_USER) << 16;
        self.vma(11, Kind::VmaReadAcquire, 0, 2);
        self.vma(11, Kind::FaultBegin, under_vma, 2);
        self.mmap(12, Kind::MmapStart, true);
        self.mmap(12, Kind::MmapAcquire, true);
        self.mmap(13, Kind::MmapStart, false);
        self.vma(12, Kind::VmaWriteStart, 0, 2);
        self.push(12, Kind::SchedOut, |event| event.body.arg = 2);
        self.now_ns += 400_000;
        self.vma(11, Kind::VmaReadRelease, 0, 1);
        self.push(11, Kind::SchedWake, |event| {
            event.body.vm_refcnt = 1_000;
            event.body.arg = 2_012;
        });
        self.vma(11, Kind::FaultEnd, under_vma | u32::from(fault::RESULT_RETRY), 1);
        self.push(12, Kind::SchedIn, |_| {});
        self.vma(12, Kind::VmaWriteAcquire, 0, 1);
        self.stack(12, Kind::VmaWriteAcquire, 405_000, 1, 2);
        self.now_ns += 90_000;
        self.mmap(12, Kind::MmapRelease, true);
        self.stack(12, Kind::MmapRelease, 500_000, 3, 2);
        self.mmap(13, Kind::MmapAcquire, false);
        self.stack(13, Kind::MmapAcquire, 500_000, 4, 5);
        self.mmap(13, Kind::MmapRelease, false);
    }

    fn failures(&mut self) {
        for (at, &reason) in Reason::ALL.iter().enumerate() {
            let tid = 100 + u32::try_from(at).unwrap_or(0);
            self.vma(tid, Kind::VmaReadFail, (reason as u32) << 16 | 11, 1);
        }
        self.mmap(14, Kind::MmapStart, true);
        self.mmap(14, Kind::MmapFail, true);
    }

    fn lives(&mut self, round: u32) {
        let child = 500 + round;
        self.push(11, Kind::TaskFork, |event| {
            event.body.vm_refcnt = 1_005;
            event.body.arg = 2_000 + child;
        });
        let name = NAMES[round as usize % NAMES.len()];
        for kind in [
            Kind::TaskExec,
            Kind::MmapStart,
            Kind::MmapAcquire,
            Kind::MmapRelease,
            Kind::TaskExit,
        ] {
            self.push(child, kind, |event| {
                event.header.comm = [0; 16];
                event.header.comm[..name.len()].copy_from_slice(name);
                event.header.site = 3;
                event.body.arg = u32::from(kind == Kind::TaskExit);
            });
        }
    }
}

/// Stacks of the kernel and of programs, one with names that mean something in other formats.
fn stacks() -> Stacks {
    let all: [(u32, &[&str]); 5] = [
        (
            0,
            &[
                "__vma_start_write+0x1c",
                "vma_expand+0x40",
                "mmap_region+0x9",
                "do_mmap+0x20",
            ],
        ),
        (1_000, &["mmap+0x5", "grow<T>(a;b)+0x7", "main+0x1"]),
        (0, &["up_write+0x3", "vm_mmap_pgoff+0x20"]),
        (
            0,
            &[
                "down_read_killable+0x1",
                "lock_mm_and_find_vma+0x8",
                "do_user_addr_fault+0x2",
            ],
        ),
        (1_000, &["", "main+0x2"]),
    ];
    let mut stacks = Stacks::default();
    for (pid, names) in all {
        let frame = |name: &&str| Frame {
            address: 0xffff_ffff_8100_0000,
            name: (*name).to_owned(),
            module: String::new(),
        };
        stacks.push(Stack {
            pid,
            frames: names.iter().map(frame).collect(),
        });
    }
    stacks
}

pub(crate) fn write(path: &Path, info: &SourceInfo) -> anyhow::Result<()> {
    let mut scenes = Scenes {
        events: Vec::new(),
        seqs: [0; 4],
        now_ns: info.start_monotonic_ns,
    };
    for round in 0..ROUNDS {
        scenes.chain();
        scenes.lives(round);
        if round % 8 == 3 {
            scenes.failures();
        }
        if round == 20 {
            let now = scenes.now_ns;
            scenes.push(12, Kind::Gap, |event| {
                event.header = Event::synthetic(Kind::Gap, event.header.ts_ns).header;
                event.body = Event::synthetic(Kind::Gap, 0).body;
                event.body.arg = 17;
                event.body.vm_start = now - 1_000;
                event.body.vm_end = now + 2_000;
            });
        }
        // A second in all, so that midnight lies between.
        scenes.now_ns += 24_000_000;
    }
    // Who waits and holds at the end.
    scenes.mmap(12, Kind::MmapStart, true);
    scenes.mmap(12, Kind::MmapAcquire, true);
    scenes.mmap(13, Kind::MmapStart, false);
    let mut writer = create(path, info)?;
    writer.stacks(&stacks())?;
    let mut losses = Losses::default();
    losses.cpus.resize(4, CpuLosses::default());
    for event in &scenes.events {
        writer.push(event)?;
        let cpu = &mut losses.cpus[usize::from(event.header.cpu)];
        if event.kind == Kind::Gap {
            cpu.produced += u64::from(event.body.arg);
            cpu.dropped += u64::from(event.body.arg);
            writer.losses(&losses)?;
        } else {
            cpu.produced += 1;
            cpu.received += 1;
        }
    }
    writer.finish(&losses, "duration")?;
    Ok(())
}
