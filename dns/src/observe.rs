//! What can be seen of a resolver at work: each lookup by its outcome, each query by its server.
//!
//! [`Observer`] is told as it happens; [`Tally`] is one that counts.

use std::cell::Cell;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How a lookup of a name ended. Literals aren't lookups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lookup {
    /// Answered from memory, within the TTL.
    Hit,
    /// Answered from memory, past the TTL or while "no such name" isn't confirmed.
    Stale,
    /// Answered after a query, or by the hosts file.
    Miss,
    /// The name doesn't exist or has no address.
    Negative,
    /// Nobody could say.
    Failure,
}

/// How one query to one server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QueryEnd {
    /// Addresses, or an alias.
    Found,
    /// No such name, or no address of the family that was asked for.
    Negative,
    /// The server failed, refused or didn't understand.
    Refused,
    /// No answer in time.
    Silent,
    /// The answer or the connection was broken.
    Broken,
}

/// One query that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// Whom it was sent to.
    pub server: SocketAddr,
    /// For IPv6 addresses (AAAA), else for IPv4 (A).
    pub ipv6: bool,
    /// Over TCP at last, as the answer didn't fit into a datagram.
    pub tcp: bool,
    /// From the first byte sent to the end.
    pub took: Duration,
    /// How it ended.
    pub end: QueryEnd,
}

/// Who wants to know what a resolver does. Calls come from whichever thread looks up: they must be
/// short, and a [`Observer::lookup`] that two threads fight for slows every lookup down.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A lookup has ended.
    fn lookup(&self, lookup: Lookup) {
        let _ = lookup;
    }

    /// A query has ended.
    fn query(&self, query: &Query) {
        let _ = query;
    }
}

/// Nobody.
impl Observer for () {}

/// Counts lookups by outcome. Threads count apart, each on cache lines of its own.
#[derive(Debug, Default)]
pub struct Tally {
    stripes: [Stripe; STRIPES],
}

/// Threads that can count without meeting.
const STRIPES: usize = 16;

/// Two cache lines, as processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe([AtomicU64; Lookup::ALL.len()]);

// === impl Tally ===

impl Tally {
    /// Lookups that ended so, since the beginning.
    pub fn lookups(&self, lookup: Lookup) -> u64 {
        let counts = self.stripes.iter().map(|Stripe(counts)| {
            let count = &counts[lookup as usize];
            count.load(Ordering::Relaxed)
        });
        counts.sum()
    }
}

impl Observer for Tally {
    fn lookup(&self, lookup: Lookup) {
        let Stripe(counts) = &self.stripes[stripe()];
        counts[lookup as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// The stripe of this thread.
fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    MINE.with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES);
        }
        mine.get()
    })
}

// === impl Lookup ===

impl Lookup {
    /// All of them, in their order.
    pub const ALL: [Self; 5] = [
        Self::Hit,
        Self::Stale,
        Self::Miss,
        Self::Negative,
        Self::Failure,
    ];

    /// Its word for a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Miss => "miss",
            Self::Negative => "negative",
            Self::Failure => "failure",
        }
    }
}

// === impl QueryEnd ===

impl QueryEnd {
    /// All of them, in their order.
    pub const ALL: [Self; 5] = [
        Self::Found,
        Self::Negative,
        Self::Refused,
        Self::Silent,
        Self::Broken,
    ];

    /// Its word for a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Negative => "negative",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Broken => "broken",
        }
    }
}
