//! When which name is to be asked for again.
//!
//! An agenda only: `resolver.rs` walks it in a task, and asks for the names that are due and in use.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A name is renewed ahead of time until it wasn't looked up for this long. So what is asked for
/// now and then is fresh as well, and what nobody wants any more costs nothing.
pub(crate) const IN_USE: Duration = Duration::from_secs(600);

/// Appointments kept at most: a fuse, as names are bounded.
const APPOINTMENTS_MAX: usize = 4 * crate::cache::NAMES_MAX;

/// Names and when they are due. A name may stand in it twice: the cache knows which is right.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    appointments: Mutex<BinaryHeap<Appointment>>,
    /// There is an earlier one, or nobody needs the agenda any more.
    pub(crate) changed: Notify,
}

/// The earliest is on top.
type Appointment = Reverse<(Instant, Box<str>)>;

// === impl Agenda ===

impl Agenda {
    pub(crate) fn add(&self, name: &str, at: Instant) {
        let mut appointments = self.appointments.lock();
        if appointments.len() >= APPOINTMENTS_MAX {
            return;
        }
        let is_first = appointments
            .peek()
            .is_none_or(|Reverse((first, _))| at < *first);
        appointments.push(Reverse((at, name.into())));
        drop(appointments);
        if is_first {
            self.changed.notify_one();
        }
    }

    /// When the next one is.
    pub(crate) fn next(&self) -> Option<Instant> {
        let appointments = self.appointments.lock();
        appointments.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes out one that is due.
    pub(crate) fn due(&self, now: Instant) -> Option<Box<str>> {
        let mut appointments = self.appointments.lock();
        if appointments
            .peek()
            .is_some_and(|Reverse((at, _))| *at <= now)
        {
            appointments.pop().map(|Reverse((_, name))| name)
        } else {
            None
        }
    }
}
