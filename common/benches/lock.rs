//! The lock beside the standard library's and `parking_lot`'s read-write locks, on read-mostly work.
//!
//! All do the same: find one of some objects, take its lock shared, look at it, give the lock back;
//! one thread now and then takes one exclusively and changes it. Printed are millions of read sections
//! per second and the ratio to ours; with `--json` one object on the last line.
//!
//! The VMA lock does more for its price: the look-up in the tree, the check for recycling, and one
//! sequence number that ends all write locks at once.

use std::hint::black_box;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use tracer_common::lock::arena::{Arena, Size};
use tracer_common::lock::{Family, MmId, Slot, TaskId, Word};

const MM: MmId = MmId(0);
const OBJECTS: u32 = 64;

/// Something that readers and a writer work on.
trait Subject: Sync {
    /// A reader's or the writer's own state.
    type Thread<'a>
    where
        Self: 'a;
    fn thread(&self, id: u32) -> Self::Thread<'_>;
    fn read<'a>(&'a self, thread: &mut Self::Thread<'a>, object: u32) -> u32;
    fn write<'a>(&'a self, thread: &mut Self::Thread<'a>, object: u32);
}

struct Ours(Arena);

impl Ours {
    fn new(family: Family, lockdep: bool, threads: u32) -> Self {
        let size = Size {
            vmas: OBJECTS,
            mms: 1,
            slots: OBJECTS,
            tasks: threads,
        };
        let arena = Arena::new(family, size, lockdep);
        let mut task = arena.thread(TaskId(0));
        task.mmap_write_lock(MM);
        for slot in 0..OBJECTS {
            task.map(MM, Slot(slot));
        }
        task.mmap_write_unlock(MM);
        Self(arena)
    }
}

impl Subject for Ours {
    type Thread<'a> = tracer_common::lock::arena::Thread<'a>;

    fn thread(&self, id: u32) -> Self::Thread<'_> {
        self.0.thread(TaskId(id))
    }
    #[inline]
    fn read<'a>(&'a self, thread: &mut Self::Thread<'a>, object: u32) -> u32 {
        // A fault that cannot have the VMA's lock takes the mmap_lock.
        match thread.lock_vma_under_rcu(MM, Slot(object)) {
            Ok(vma) => {
                let value = self.0.peek(Word::Data(vma, 0));
                thread.vma_end_read(vma);
                value
            }
            Err(_) => {
                thread.mmap_read_lock(MM);
                let value = thread
                    .find(MM, Slot(object))
                    .map_or(0, |vma| self.0.peek(Word::Data(vma, 0)));
                thread.mmap_read_unlock(MM);
                value
            }
        }
    }
    fn write<'a>(&'a self, thread: &mut Self::Thread<'a>, object: u32) {
        thread.mmap_write_lock(MM);
        if let Some(vma) = thread.find(MM, Slot(object)) {
            thread.vma_start_write(MM, vma);
            self.0.poke(Word::Data(vma, 0), object);
        }
        thread.mmap_write_unlock(MM);
    }
}

#[repr(align(64))]
struct Line<T>(T);

struct Standard(Vec<Line<RwLock<u32>>>);

impl Subject for Standard {
    type Thread<'a> = ();
    fn thread(&self, _: u32) {}
    #[inline]
    fn read(&self, (): &mut (), object: u32) -> u32 {
        *self.0[object as usize].0.read().unwrap()
    }
    fn write(&self, (): &mut (), object: u32) {
        *self.0[object as usize].0.write().unwrap() = object;
    }
}

struct ParkingLot(Vec<Line<parking_lot::RwLock<u32>>>);

impl Subject for ParkingLot {
    type Thread<'a> = ();
    fn thread(&self, _: u32) {}
    #[inline]
    fn read(&self, (): &mut (), object: u32) -> u32 {
        *self.0[object as usize].0.read()
    }
    fn write(&self, (): &mut (), object: u32) {
        *self.0[object as usize].0.write() = object;
    }
}

/// Millions of read sections per second: `readers` threads, and one that writes once per so many
/// microseconds (0: never).
fn measure<S: Subject>(subject: &S, readers: u32, write_every: u64, time: Duration) -> f64 {
    let (stop, total) = (AtomicBool::new(false), AtomicU64::new(0));
    let begun = Instant::now();
    thread::scope(|scope| {
        for id in 1..=readers {
            let (stop, total) = (&stop, &total);
            scope.spawn(move || {
                let mut thread = subject.thread(id);
                let (mut done, mut object) = (0_u64, id);
                while !stop.load(Relaxed) {
                    for _ in 0..256 {
                        object = object.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        black_box(subject.read(&mut thread, object >> 26));
                    }
                    done += 256;
                }
                total.fetch_add(done, Relaxed);
            });
        }
        let mut thread = subject.thread(0);
        let mut object = 0;
        while begun.elapsed() < time {
            if write_every == 0 {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            object = (object + 1) % OBJECTS;
            subject.write(&mut thread, object);
            thread::sleep(Duration::from_micros(write_every));
        }
        stop.store(true, Relaxed);
    });
    total.load(Relaxed) as f64 / begun.elapsed().as_secs_f64() / 1e6
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let json = arguments.iter().any(|a| a == "--json");
    // `cargo test` runs benches, too, to see that they work.
    let quick = arguments.iter().any(|a| a == "--quick" || a == "--test")
        || !arguments.iter().any(|a| a == "--bench");
    let (time, samples) = if quick {
        (Duration::from_millis(20), 1)
    } else {
        (Duration::from_millis(300), 5)
    };
    let most = thread::available_parallelism().map_or(1, usize::from) as u32;

    let lines = || 0..OBJECTS;
    let standard = Standard(lines().map(|_| Line(RwLock::new(0))).collect());
    let parking_lot = ParkingLot(lines().map(|_| Line(parking_lot::RwLock::new(0))).collect());
    let ours = Ours::new(Family::Refcnt7_0, false, most + 1);
    let ours_lockdep = Ours::new(Family::Refcnt7_0, true, most + 1);
    let ours_rwsem = Ours::new(Family::Rwsem, false, most + 1);

    let mut results = Vec::new();
    for (readers, write_every) in [(1, 0), (most, 0), (most, 100)] {
        // Taken by turns, so that a change of the machine's speed hits all alike.
        let mut all: [Vec<f64>; 5] = Default::default();
        for _ in 0..samples {
            all[0].push(measure(&ours, readers, write_every, time));
            all[1].push(measure(&parking_lot, readers, write_every, time));
            all[2].push(measure(&standard, readers, write_every, time));
            all[3].push(measure(&ours_lockdep, readers, write_every, time));
            all[4].push(measure(&ours_rwsem, readers, write_every, time));
        }
        let medians = all.map(median);
        let names = [
            "bundled 7.0",
            "parking_lot",
            "std",
            "bundled 7.0 + lockdep",
            "bundled 6.12",
        ];
        let writes = if write_every == 0 {
            "no writer".to_owned()
        } else {
            format!("a write every {write_every} us")
        };
        println!("{readers} readers, {writes}:");
        for (name, speed) in names.iter().zip(medians) {
            println!("  {name:22} {speed:8.2} M reads/s  x{:.2}", speed / medians[0]);
            results.push(format!(
                r#"{{"readers":{readers},"write_every_us":{write_every},"lock":"{name}","mreads_per_s":{speed:.3},"ratio":{:.3}}}"#,
                speed / medians[0]
            ));
        }
    }
    if json {
        println!("[{}]", results.join(","));
    }
}
