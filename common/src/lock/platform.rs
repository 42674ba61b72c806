//! Whose atomics: those of the standard library, of loom, or of shuttle.

use core::sync::atomic::Ordering;

/// A 32-bit word that several threads use.
pub trait AtomicWord: Sized + Send + Sync {
    /// A word with this value.
    fn new(value: u32) -> Self;
    /// Loads it.
    fn load(&self, order: Ordering) -> u32;
    /// Stores into it.
    fn store(&self, value: u32, order: Ordering);
    /// Compares and swaps, never failing without cause; a failure is relaxed.
    ///
    /// # Errors
    /// The value found, if it was not `current`.
    fn compare_exchange(&self, current: u32, new: u32, order: Ordering) -> Result<u32, u32>;
    /// Adds; returns what was there.
    fn fetch_add(&self, value: u32, order: Ordering) -> u32;
    /// Subtracts; returns what was there.
    fn fetch_sub(&self, value: u32, order: Ordering) -> u32;
}

/// A place to sleep. A wake-up between looking and sleeping is not lost.
pub trait Turnstile: Sized + Send + Sync {
    /// A place where nobody sleeps.
    fn new() -> Self;
    /// Sleeps while `blocked` says so; it is asked again after every wake-up.
    fn wait(&self, blocked: &mut dyn FnMut() -> bool);
    /// Wakes all who sleep here.
    fn wake_all(&self);
}

/// A family of atomics and what belongs to it.
pub trait Platform: Send + Sync + 'static {
    /// Its words.
    type Atomic: AtomicWord;
    /// Its places to sleep.
    type Turnstile: Turnstile;
    /// May the lock be altered at run time? Where it may not, no trace of alterations is compiled.
    const ALTERABLE: bool;
    /// A barrier.
    fn fence(order: Ordering);
    /// Gives way while polling.
    fn yield_now();
}

macro_rules! platform {
    ($(#[$doc:meta])* $name:ident, $root:ident, alterable: $alterable:literal, spins: $spins:literal) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}

        const _: () = {
            use $root::sync::atomic::{self, AtomicU32};
            use $root::sync::{Condvar, Mutex};
            use std::sync::PoisonError;

            impl AtomicWord for AtomicU32 {
                #[inline]
                fn new(value: u32) -> Self {
                    AtomicU32::new(value)
                }
                #[inline]
                fn load(&self, order: Ordering) -> u32 {
                    self.load(order)
                }
                #[inline]
                fn store(&self, value: u32, order: Ordering) {
                    self.store(value, order);
                }
                #[inline]
                fn compare_exchange(&self, current: u32, new: u32, order: Ordering) -> Result<u32, u32> {
                    self.compare_exchange(current, new, order, Ordering::Relaxed)
                }
                #[inline]
                fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
                    self.fetch_add(value, order)
                }
                #[inline]
                fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
                    self.fetch_sub(value, order)
                }
            }

            /// Sleepers are counted, so that waking nobody costs one load.
            pub struct Place {
                sleepers: AtomicU32,
                mutex: Mutex<()>,
                condvar: Condvar,
            }

            impl Turnstile for Place {
                fn new() -> Self {
                    Self { sleepers: AtomicU32::new(0), mutex: Mutex::new(()), condvar: Condvar::new() }
                }

                fn wait(&self, blocked: &mut dyn FnMut() -> bool) {
                    let mut spins = $spins;
                    while spins > 0 {
                        if !blocked() {
                            return;
                        }
                        core::hint::spin_loop();
                        spins -= 1;
                    }
                    self.sleepers.fetch_add(1, Ordering::SeqCst);
                    atomic::fence(Ordering::SeqCst);
                    let mut guard = self.mutex.lock().unwrap_or_else(PoisonError::into_inner);
                    while blocked() {
                        guard = self.condvar.wait(guard).unwrap_or_else(PoisonError::into_inner);
                    }
                    drop(guard);
                    self.sleepers.fetch_sub(1, Ordering::SeqCst);
                }

                fn wake_all(&self) {
                    // Pairs with the fence above: either the sleeper sees the change that this
                    // wake-up is about, or it is counted by now.
                    atomic::fence(Ordering::SeqCst);
                    if self.sleepers.load(Ordering::SeqCst) != 0 {
                        drop(self.mutex.lock().unwrap_or_else(PoisonError::into_inner));
                        self.condvar.notify_all();
                    }
                }
            }

            impl Platform for $name {
                type Atomic = AtomicU32;
                type Turnstile = Place;
                const ALTERABLE: bool = $alterable;
                #[inline]
                fn fence(order: Ordering) {
                    atomic::fence(order);
                }
                #[inline]
                fn yield_now() {
                    $root::thread::yield_now();
                }
            }
        };
    };
}

platform! {
    /// The standard library: the lock as it is, at full speed.
    Std, std, alterable: false, spins: 200
}

#[cfg(feature = "loom")]
platform! {
    /// loom: every execution that the C11 memory model allows, within bounds.
    Loom, loom, alterable: true, spins: 0
}

#[cfg(feature = "shuttle")]
platform! {
    /// shuttle: random schedules, for sizes that no exhaustive search reaches.
    Shuttle, shuttle, alterable: true, spins: 0
}
