//! Brings a recording to the disk while it is written, so that a power cut costs little.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Pause between two times that the disk is asked to have everything.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Shared {
    dirty: AtomicBool,
    over: AtomicBool,
}

/// A thread that does it: whoever records does not wait for the disk.
#[derive(Debug)]
pub(super) struct Syncer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// `None` if it cannot be had: the recording is as good, only less safe.
    pub(super) fn start(file: &File) -> Option<Self> {
        let shared = Arc::new(Shared::default());
        let thread = file.try_clone().and_then(|file| {
            let shared = Arc::clone(&shared);
            let sync = thread::Builder::new().name("sync".to_owned());
            sync.spawn(move || keep(&file, &shared))
        });
        match thread {
            Ok(thread) => Some(Self {
                shared,
                thread: Some(thread),
            }),
            Err(error) => {
                log::warn!("a power cut may cost more of the recording than its last second: {error}");
                None
            }
        }
    }

    /// There is more in the file.
    pub(super) fn more(&self) {
        self.shared.dirty.store(true, Ordering::Release);
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It has nothing to say, and a panic of it would have been shown.
            drop(thread.join());
        }
    }
}

fn keep(file: &File, shared: &Shared) {
    let mut rounds = 0u64;
    loop {
        thread::park_timeout(PAUSE);
        let over = shared.over.load(Ordering::Acquire);
        // What took less than one round is not worth a wait at its end.
        if (rounds > 0 || !over)
            && shared.dirty.swap(false, Ordering::AcqRel)
            && let Err(error) = file.sync_data()
        {
            // What is wrong with the disk shows when it is written to.
            log::debug!("cannot bring the recording to the disk: {error}");
        }
        if over {
            return;
        }
        rounds += 1;
    }
}
