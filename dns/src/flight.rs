//! Queries under way: one a name, so many at once, the others in a queue.
//!
//! A flight is a task of the runtime that first asked. It goes on when those who wait leave, and it
//! is lost with its runtime, which its waiters see. `resolver.rs` starts flights.

use std::sync::Arc;

use ahash::AHashMap;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Semaphore, watch};

use crate::entry::Outcome;

/// Names asked for at the same time, at most; each costs two sockets. The others wait their turn.
pub(crate) const FLIGHTS_MAX: usize = 256;

/// Of them, renewals ahead of time: whoever waits for an answer finds the others free.
pub(crate) const RENEWALS_MAX: usize = 64;

/// Names under way and in the queue, at most.
pub(crate) const QUEUE_MAX: usize = 16_384;

/// A query under way. Its sender goes with its task, so a flight that was lost shows.
pub(crate) type Flight = watch::Receiver<Option<Outcome>>;

/// Where the query of a flight says its outcome.
pub(crate) type Landing = watch::Sender<Option<Outcome>>;

/// The flights by name.
#[derive(Debug)]
pub(crate) struct Flights {
    open: Mutex<AHashMap<Box<str>, Flight>>,
    pub(crate) runways: Arc<Semaphore>,
    pub(crate) renewals: Arc<Semaphore>,
}

/// What there is for one who wants to know a name.
pub(crate) enum Boarding {
    /// Somebody has asked already.
    Joined(Flight),
    /// Nobody has: whoever gets this must ask.
    Opened(Landing, Flight),
    /// Too many ask already.
    Full,
}

// === impl Flights ===

impl Flights {
    pub(crate) fn new() -> Self {
        Self {
            open: Mutex::default(),
            runways: Arc::new(Semaphore::new(FLIGHTS_MAX)),
            renewals: Arc::new(Semaphore::new(RENEWALS_MAX)),
        }
    }

    /// Joins the flight of `name` or opens one.
    pub(crate) fn board(&self, name: &str) -> Boarding {
        let mut open = self.open.lock();
        // An open flight without a change is under way; a closed one was lost.
        if let Some(flight) = open.get(name)
            && flight.has_changed().is_ok()
        {
            return Boarding::Joined(flight.clone());
        }
        if !has_room(&mut open) {
            return Boarding::Full;
        }
        let (landing, flight) = watch::channel(None);
        open.insert(name.into(), flight.clone());
        Boarding::Opened(landing, flight)
    }

    /// The flight of `name` has landed. Its outcome must be kept before: who comes later finds it
    /// there.
    pub(crate) fn land(&self, name: &str, landing: &Landing, outcome: Outcome) {
        self.open.lock().remove(name);
        landing.send_replace(Some(outcome));
    }
}

fn has_room(open: &mut MutexGuard<'_, AHashMap<Box<str>, Flight>>) -> bool {
    if open.len() >= QUEUE_MAX {
        open.retain(|_, flight| flight.has_changed().is_ok());
    }
    open.len() < QUEUE_MAX
}
