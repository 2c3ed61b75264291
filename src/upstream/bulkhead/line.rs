//! Who stands in a provider's line, or in those of several at once: it gets one place.

use super::{Bulkhead, Permit};
use crate::types::Tenant;
use crate::types::turns;
use crate::upstream::endpoint::Load;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::oneshot::{self, Receiver, Sender};
use tokio::time::Instant;

/// A place in one line.
pub(super) type Ticket = turns::Ticket<Tenant>;

/// A place at an endpoint, and which of those that were asked for.
type Given = (usize, Permit);

/// A wish for one place, fulfilled once.
#[derive(Debug)]
pub(super) struct Wish {
    hand: Mutex<Option<Sender<Given>>>,
    /// Since when it waits.
    pub(super) since: Instant,
}

/// A wish in one provider's line.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) wish: Arc<Wish>,
    /// The provider's endpoints that would do, best first, each with its number among all.
    pub(super) ways: Vec<(usize, Arc<Load>)>,
}

/// Standing in lines. Dropping it leaves all of them, and gives a place back that was just given.
pub(super) struct Waiting {
    pub(super) wish: Arc<Wish>,
    pub(super) receiver: Receiver<Given>,
    tickets: Vec<(Arc<Bulkhead>, Ticket)>,
}

// === impl Wish ===

impl Wish {
    pub(super) fn new(since: Instant) -> (Arc<Self>, Receiver<Given>) {
        let (sender, receiver) = oneshot::channel();
        let hand = Mutex::new(Some(sender));
        (Arc::new(Self { hand, since }), receiver)
    }

    /// Nobody has fulfilled it, and it wasn't given up.
    pub(super) fn is_open(&self) -> bool {
        self.hand.lock().is_some()
    }

    /// To fulfil it; `None` where somebody else does.
    pub(super) fn claim(&self) -> Option<Sender<Given>> {
        self.hand.lock().take()
    }

    /// Gives it up; `false` where somebody fulfils it.
    pub(super) fn close(&self) -> bool {
        self.claim().is_some()
    }
}

// === impl Waiter ===

impl Waiter {
    /// The first of its ways that has a place.
    pub(super) fn way(&self, has_place: impl Fn(&Load) -> bool) -> Option<(usize, &Arc<Load>)> {
        let ways = self.ways.iter().map(|(number, load)| (*number, load));
        ways.into_iter().find(|(_, load)| has_place(load))
    }
}

// === impl Waiting ===

impl Waiting {
    pub(super) fn new(wish: Arc<Wish>, receiver: Receiver<Given>) -> Self {
        Self {
            wish,
            receiver,
            tickets: Vec::new(),
        }
    }

    /// It stands in this line, too.
    pub(super) fn stands(&mut self, bulkhead: &Arc<Bulkhead>, ticket: Ticket) {
        self.tickets.push((Arc::clone(bulkhead), ticket));
    }

    pub(super) fn is_nowhere(&self) -> bool {
        self.tickets.is_empty()
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &Arc<Bulkhead>> {
        self.tickets.iter().map(|(bulkhead, _)| bulkhead)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.wish.close();
        for (bulkhead, ticket) in &self.tickets {
            bulkhead.leave(ticket);
        }
    }
}
