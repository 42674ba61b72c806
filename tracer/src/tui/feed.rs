//! Between the event path and the screen: pictures one way, wishes the other. Neither waits for the other longer than it
//! takes to exchange a pointer.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::app::Control;
use super::snapshot::{Request, Snapshot};
use super::world::World;
use crate::trigger::Trigger;

/// What the screen wants of whoever feeds it.
#[derive(Debug)]
pub enum Wish {
    /// The world as it is at this instant, to hold.
    Hold,
    /// Record to a file; without a name, to one that is made up, or if it records: stop.
    Record(Option<String>),
    /// Stop recording.
    StopRecording,
    /// Hold when it comes true.
    Trigger(Option<Trigger>),
    /// Move about in a recording.
    Replay(Control),
    /// Pictures a second.
    Frames(u32),
}

/// What comes to the screen.
#[derive(Debug)]
pub enum Message {
    /// A new picture is there.
    Picture,
    /// The world that was asked for, or that a trigger held.
    World(Box<World>),
    /// Something happened at the terminal.
    Input(crossterm::event::Event),
    /// The terminal tells nothing more.
    InputEnded,
}

#[derive(Debug, Default)]
struct Shared {
    latest: Mutex<Arc<Snapshot>>,
    request: Mutex<(u64, Request)>,
    to_screen: Mutex<Option<Sender<Message>>>,
}

/// The screen's side.
#[derive(Clone, Debug)]
pub struct Board {
    shared: Arc<Shared>,
    wishes: Sender<Wish>,
}

/// The event path's side.
#[derive(Debug)]
pub struct Desk {
    shared: Arc<Shared>,
    wishes: Receiver<Wish>,
    seen: u64,
    request: Request,
}

/// Both sides.
pub fn pair() -> (Board, Desk) {
    let shared = Arc::<Shared>::default();
    let (send, receive) = channel();
    (
        Board {
            shared: Arc::clone(&shared),
            wishes: send,
        },
        Desk {
            shared,
            wishes: receive,
            seen: 0,
            request: Request::default(),
        },
    )
}

/// Whoever panicked while holding one of these left a whole value.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    /// The latest picture.
    pub fn latest(&self) -> Arc<Snapshot> {
        Arc::clone(&lock(&self.shared.latest))
    }

    /// Asks for pictures of something else.
    pub fn ask(&self, request: &Request) {
        let mut place = lock(&self.shared.request);
        if place.1 != *request {
            place.0 += 1;
            place.1.clone_from(request);
        }
    }

    /// Wishes something. Whoever has gone fulfils nothing.
    pub fn wish(&self, wish: Wish) {
        let _ = self.wishes.send(wish);
    }

    /// Where the screen wants to be told of new pictures.
    pub fn tell(&self, to_screen: Sender<Message>) {
        *lock(&self.shared.to_screen) = Some(to_screen);
    }
}

impl Desk {
    /// Leaves a picture in place of the one before.
    pub fn publish(&self, snapshot: Snapshot) {
        let new = Arc::new(snapshot);
        let old = core::mem::replace(&mut *lock(&self.shared.latest), new);
        drop(old);
        self.send(Message::Picture);
    }

    /// Hands a world over, to be held.
    pub fn hand_over(&self, world: Box<World>) {
        self.send(Message::World(world));
    }

    fn send(&self, message: Message) {
        if let Some(screen) = &*lock(&self.shared.to_screen) {
            let _ = screen.send(message);
        }
    }

    /// What is asked for, and whether that has changed.
    pub fn request(&mut self) -> (&Request, bool) {
        let place = lock(&self.shared.request);
        let changed = place.0 != self.seen;
        if changed {
            self.seen = place.0;
            self.request.clone_from(&place.1);
        }
        drop(place);
        (&self.request, changed)
    }

    /// The next wish, if there is one.
    pub fn wish(&self) -> Option<Wish> {
        self.wishes.try_recv().ok()
    }

    /// The next wish, waiting for it.
    pub fn wait(&self, until: std::time::Duration) -> Option<Wish> {
        self.wishes.recv_timeout(until).ok()
    }
}
