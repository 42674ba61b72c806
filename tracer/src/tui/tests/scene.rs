//! A small recording of much that can happen, made by hand.

use std::path::PathBuf;

use tracer_common::wire::{Event, Kind, flag};

use crate::info::{KernelInfo, Losses, SiteInfo, SourceInfo, UnseenInfo};
use crate::recording;
use crate::sink::address::Addresses;
use crate::tui::replay::player::Player;
use crate::tui::world::{LOG, World};

pub(super) const START: u64 = 1_000_000_000;

pub(super) fn info() -> SourceInfo {
    let site = |operation: &str, function: &str, mechanism: &str, provenance: &str| SiteInfo {
        operation: operation.into(),
        function: function.into(),
        mechanism: mechanism.into(),
        provenance: provenance.into(),
        reason: "the first that this kernel allows".into(),
        attached: true,
        ..SiteInfo::default()
    };
    SourceInfo {
        source: "live".into(),
        kernel: KernelInfo {
            release: "7.3.4-cloud-amd64".into(),
            ..KernelInfo::default()
        },
        self_pid: 41,
        start_monotonic_ns: START,
        // So that addresses have the same names each time.
        address_key: "0123456789abcdef0123456789abcdef".into(),
        sites: vec![
            site("mmap_acquire", "mmap_lock_acquire_returned", "tp_btf", "observed"),
            site("vma_read_acquire", "lock_vma_under_rcu", "fexit", "observed"),
            site("vma_write_acquire", "__vma_start_write", "fexit", "observed"),
            SiteInfo {
                place: "proc_get_vma+0x1c4".into(),
                bound_ns: Some(350),
                ..site("vma_read_release", "proc_get_vma", "kprobe", "derived")
            },
        ],
        unseen: vec![UnseenInfo {
            operation: "vma_read_release".into(),
            function: "do_user_addr_fault".into(),
            reason: "the kernel lets no probe into it".into(),
            remedy: "none: the release follows from the end of the fault".into(),
        }],
        ..SourceInfo::default()
    }
}

pub(super) struct Scene {
    pub(super) events: Vec<Event>,
    seq: [u32; 4],
}

impl Scene {
    pub(super) fn new() -> Self {
        Self {
            events: Vec::new(),
            seq: [0; 4],
        }
    }

    pub(super) fn add(&mut self, kind: Kind, tid: u32, comm: &[u8], us: u64, edit: impl FnOnce(&mut Event)) {
        let mut event = Event::synthetic(kind, START + us * 1_000);
        let cpu = tid as usize % 4;
        event.header.cpu = cpu as u16;
        event.header.seq = self.seq[cpu];
        self.seq[cpu] += 1;
        event.header.tid = tid;
        event.header.pid = tid / 10 * 10 + 1;
        event.header.comm[..comm.len()].copy_from_slice(comm);
        event.header.flags = flag::MM;
        event.body.mm = 0xffff_8881_0000_1000;
        edit(&mut event);
        self.events.push(event);
    }

    /// Numbers that nobody will see: a gap.
    pub(super) fn lose(&mut self, cpu: usize, count: u32) {
        self.seq[cpu] += count;
    }
}

fn vma(number: u64) -> impl Fn(&mut Event) {
    move |event| {
        event.header.flags |= flag::VMA | flag::RANGE | flag::REFCNT | flag::VMA_SEQ | flag::MM_SEQ;
        event.header.site = 1;
        event.body.vma = 0xffff_8882_0000_0000 + number * 0x100;
        event.body.vm_start = 0x7f12_3456_0000 + number * 0x10_0000;
        event.body.vm_end = event.body.vm_start + 0x4000 * number;
        event.body.vm_refcnt = 2;
        event.body.vm_lock_seq = 7;
        event.body.mm_lock_seq = 10;
    }
}

fn write(event: &mut Event) {
    event.header.flags |= flag::WRITE;
}

/// A writer that holds two VMAs and waits for a reader of a third, two that wait for the writer, a reader in a fault,
/// one that does nothing, one with a nasty name, and the tracer itself.
pub(super) fn scene() -> Scene {
    let mut scene = Scene::new();
    let s = &mut scene;
    for round in 0..40u64 {
        let us = round * 700;
        s.add(Kind::VmaReadAcquire, 212, b"java", us, vma(4 + round % 3));
        s.add(Kind::FaultBegin, 212, b"java", us + 1, |event| {
            vma(4 + round % 3)(event);
            event.body.arg = 0x1040_0000;
        });
        s.add(Kind::FaultEnd, 212, b"java", us + 3 + round % 7, |event| {
            vma(4 + round % 3)(event);
            event.body.arg = 0x1040_0000;
        });
        if round % 4 == 0 {
            s.add(Kind::MmapStart, 305, b"idle", us + 20, write);
            s.add(Kind::MmapAcquire, 305, b"idle", us + 24 + round, write);
            s.add(Kind::MmapRelease, 305, b"idle", us + 90 + round, write);
        }
        if round % 10 == 9 {
            s.add(Kind::VmaReadFail, 404, b"cc1plus", us + 200, |event| {
                event.header.flags |= flag::ADDR;
                event.body.vm_start = 0x7f12_3490_1000;
                event.body.arg = 2 << 16;
            });
            s.add(Kind::MmapStart, 404, b"cc1plus", us + 201, |_| {});
            s.add(Kind::MmapAcquire, 404, b"cc1plus", us + 203, |_| {});
            s.add(Kind::MmapRelease, 404, b"cc1plus", us + 240, |_| {});
        }
    }
    s.add(Kind::MmapStart, 101, b"postgres", 30_000, write);
    s.add(Kind::MmapAcquire, 101, b"postgres", 33_000, write);
    for (us, number) in [(35_000, 1), (36_000, 2)] {
        s.add(Kind::VmaWriteStart, 101, b"postgres", us, vma(number));
        s.add(Kind::VmaWriteAcquire, 101, b"postgres", us + 2, |event| {
            vma(number)(event);
            event.body.vm_refcnt = 1;
            event.body.vm_lock_seq = 11;
            event.body.mm_lock_seq = 11;
        });
    }
    s.add(Kind::MmapStart, 102, b"postgres", 40_000, |_| {});
    s.add(Kind::MmapStart, 103, b"\x1b[31mevil", 50_000, |_| {});
    s.add(Kind::VmaReadAcquire, 211, b"java", 60_000, vma(3));
    s.add(Kind::FaultBegin, 211, b"java", 60_002, |event| {
        vma(3)(event);
        event.body.arg = 0x1040_0000;
    });
    s.add(Kind::VmaWriteStart, 101, b"postgres", 70_000, vma(3));
    s.add(Kind::VmaWriteAcquire, 42, b"tracer", 74_000, |event| {
        vma(8)(event);
        event.body.mm = 0xffff_8881_0000_5000;
    });
    scene
}

pub(super) fn world() -> World {
    let mut world = World::new(&info(), LOG);
    for event in scene().events {
        world.event(&event);
    }
    world
}

/// A folder that goes with this value.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tracer-tui-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Writes events to a recording.
pub(super) fn record(folder: &Folder, events: &[Event]) -> PathBuf {
    let path = folder.0.join("scene.rec");
    let mut writer = recording::create(&path, &info()).unwrap();
    for event in events {
        writer.push(event).unwrap();
    }
    writer.finish(&Losses::default(), "test").unwrap();
    path
}

/// When a task of [`real`] that reads a page from a slow disk has held a VMA for 0.3 s, a writer waits for that VMA,
/// and two others for the writer.
pub(super) const STUCK_NS: u64 = 25_300_000_000;

/// A recording of a real kernel: `tracer record --stacks 1ms -- workload holder --kind fault -d 400` on Debian's 7.3.4.
pub(super) fn real(folder: &Folder) -> PathBuf {
    let packed = include_bytes!("../../../tests/fixtures/recordings/holder-7.3.rec.xz");
    let path = folder.0.join("holder-7.3.rec");
    let mut reader = lzma_rust2::XzReader::new(&packed[..], true);
    let mut file = std::fs::File::create(&path).unwrap();
    std::io::copy(&mut reader, &mut file).unwrap();
    path
}

/// The world of [`real`] at [`STUCK_NS`].
pub(super) fn stuck() -> World {
    let folder = Folder::new("stuck");
    let mut player = Player::open(&real(&folder)).unwrap();
    // It is from before recordings had a key.
    player.show_addresses(Addresses::of(&info()));
    while player.peek().unwrap().is_some_and(|ns| ns <= STUCK_NS) {
        player.next().unwrap();
    }
    player.world().clone()
}
