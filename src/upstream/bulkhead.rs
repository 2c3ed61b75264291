//! How many requests a provider and each of its endpoints carry at once, and who waits for a place. A
//! provider that hangs takes no place of another, and its line holds nobody up who wants another.
//!
//! Places are given one by one, as they become free: whoever gives one back hands it on to the next in
//! line, in fair turns between teams (see [`Turns`]). So there is never a free place that somebody waits
//! for, and who comes new overtakes nobody. A request that several providers could serve stands in the
//! line of each, and goes where the first place is.

mod line;
#[cfg(test)]
mod tests;

use super::Endpoint;
use super::endpoint::Load;
use super::settings::Places;
use crate::types::turns::Turns;
use crate::types::{BaseUrl, Priority, Tenant};
use line::{Waiter, Waiting, Wish};
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Who wants a place, and what is known of that for the line.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Whose requests share a turn.
    pub tenant: Tenant,
    /// How urgent it is.
    pub priority: Priority,
    /// What it is thought to use.
    pub tokens: u64,
    /// By when it must be let in.
    pub until: Option<std::time::Instant>,
}

/// Why no try could be begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// Each endpoint is paused, because it failed; the first may be asked again after this long.
    Paused {
        /// After this long.
        wait: Duration,
    },
    /// Each endpoint carries as many as it may, and as many wait as may.
    QueueFull {
        /// After this long it may be worth a try.
        wait: Duration,
    },
    /// No place was free in time, or none can be.
    NotInTime {
        /// After this long it may be worth a try.
        wait: Duration,
    },
}

impl Unavailable {
    /// After this long it may be worth a try.
    pub fn wait(&self) -> Duration {
        match self {
            Self::Paused { wait } | Self::QueueFull { wait } | Self::NotInTime { wait } => *wait,
        }
    }
}

/// A provider's places; shared by all configurations that know it.
#[derive(Debug)]
pub(super) struct Bulkhead {
    /// There is a cap: places are counted under the lock.
    capped: AtomicBool,
    /// Requests that it carries, at all its endpoints. Each endpoint's own are in its [`Load`].
    taken: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    places: Places,
    line: Turns<Tenant, Waiter>,
    /// How long a place is taken, on average of the last few.
    service: Option<Duration>,
    /// When the last one was taken.
    last_taken: Instant,
}

/// A place at an endpoint. Dropping it gives it to the next in line.
#[derive(Debug)]
pub(super) struct Permit {
    bulkhead: Arc<Bulkhead>,
    load: Arc<Load>,
    since: Instant,
    /// How long it was waited for, if it was.
    waited: Option<Duration>,
    /// A request is carried there.
    used: bool,
}

/// A place at the first of these endpoints that has one, and which that is; where none has, it waits. Who
/// waited elsewhere before did so `since` then, and waits no longer in all for that. Dropping the future
/// leaves the line.
///
/// # Errors
/// There is no place to wait, or none came in time, or none can be expected by then.
pub(super) async fn place(
    endpoints: &[&Arc<Endpoint>],
    turn: &Turn,
    since: Option<Instant>,
) -> Result<(usize, Permit), Unavailable> {
    for (number, endpoint) in endpoints.iter().enumerate() {
        if let Some(mut permit) = endpoint.bulkhead.take(&endpoint.load) {
            permit.waited = since.map(|since| since.elapsed());
            return Ok((number, permit));
        }
    }
    let now = Instant::now();
    let (wish, receiver) = Wish::new(since.unwrap_or(now));
    let mut waiting = Waiting::new(wish, receiver);
    let (mut deadline, mut refused) = (now, None::<Unavailable>);
    for (number, endpoint) in endpoints.iter().enumerate() {
        let bulkhead = &endpoint.bulkhead;
        let is_same = |other: &&Arc<Endpoint>| Arc::ptr_eq(&other.bulkhead, bulkhead);
        if endpoints[..number].iter().any(is_same) {
            continue;
        }
        let numbered = endpoints.iter().enumerate();
        let here = numbered.filter(|(_, endpoint)| is_same(endpoint));
        let waiter = Waiter {
            wish: Arc::clone(&waiting.wish),
            ways: here.map(|(n, it)| (n, Arc::clone(&it.load))).collect(),
        };
        match bulkhead.join(waiter, turn, now) {
            Ok((ticket, until)) => {
                deadline = deadline.max(until);
                waiting.stands(bulkhead, ticket);
            }
            Err(no) => {
                let sooner = refused.as_ref().is_none_or(|it| no.wait() < it.wait());
                refused = if sooner { Some(no) } else { refused };
            }
        }
    }
    match refused {
        Some(no) if waiting.is_nowhere() => return Err(no),
        _ => {}
    }
    let given = match timeout_at(deadline, &mut waiting.receiver).await {
        // What was handed over in this moment counts.
        Err(_) if !waiting.wish.close() => (&mut waiting.receiver).await.ok(),
        given => given.ok().and_then(Result::ok),
    };
    if let Some(given) = given {
        return Ok(given);
    }
    let wait = |bulkhead: &Arc<Bulkhead>| bulkhead.expected(turn);
    let wait = waiting.lines().map(wait).min().unwrap_or(WAIT_MIN);
    Err(Unavailable::NotInTime { wait })
}

/// Nobody is told to come back sooner.
const WAIT_MIN: Duration = Duration::from_secs(1);

// === impl Bulkhead ===

impl Bulkhead {
    pub(super) fn new(places: Places) -> Arc<Self> {
        Arc::new(Self {
            capped: AtomicBool::new(places.are_bounded()),
            taken: AtomicUsize::new(0),
            state: Mutex::new(State {
                places,
                line: Turns::default(),
                service: None,
                last_taken: Instant::now(),
            }),
        })
    }

    /// Other caps hold from now on: who waits is let in where there is more room now; where there is
    /// less, nobody is until enough have left.
    pub(super) fn set_places(self: &Arc<Self>, places: Places) {
        let mut state = self.state.lock();
        self.capped.store(places.are_bounded(), Ordering::SeqCst);
        state.places = places;
        self.hand_out(state, usize::MAX);
    }

    /// Requests that wait here.
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().line.len()
    }

    /// A place, where there is one. As nobody waits for a free place, nobody is overtaken.
    pub(super) fn take(self: &Arc<Self>, load: &Arc<Load>) -> Option<Permit> {
        let now = Instant::now();
        if !self.capped.load(Ordering::SeqCst) {
            return Some(self.permit(load, now, None));
        }
        let mut state = self.state.lock();
        if !self.has_place(&state.places, load) {
            return None;
        }
        state.last_taken = now;
        Some(self.permit(load, now, None))
    }

    fn has_place(&self, places: &Places, load: &Load) -> bool {
        let below = |taken: &AtomicUsize, max| max == 0 || taken.load(Ordering::SeqCst) < max;
        below(&self.taken, places.max) && below(&load.in_flight, places.endpoint_max)
    }

    fn permit(
        self: &Arc<Self>,
        load: &Arc<Load>,
        since: Instant,
        waited: Option<Duration>,
    ) -> Permit {
        self.taken.fetch_add(1, Ordering::SeqCst);
        load.in_flight.fetch_add(1, Ordering::SeqCst);
        Permit {
            bulkhead: Arc::clone(self),
            load: Arc::clone(load),
            since,
            waited,
            used: false,
        }
    }

    /// Takes a place in the line, and says until when it may wait there.
    fn join(
        self: &Arc<Self>,
        waiter: Waiter,
        turn: &Turn,
        now: Instant,
    ) -> Result<(line::Ticket, Instant), Unavailable> {
        let mut state = self.state.lock();
        let expected = state.expected(&waiter.ways, turn, now);
        let wait = expected.unwrap_or_default().max(WAIT_MIN);
        let mut until = waiter.wish.since + state.places.queue_timeout;
        if let Some(other) = turn.until {
            until = until.min(other.into());
        }
        // A place may have become free since it was asked for.
        let free = (waiter.ways.iter()).any(|(_, load)| self.has_place(&state.places, load));
        if !free {
            if state.line.len() >= state.places.queue_max {
                return Err(Unavailable::QueueFull { wait });
            }
            if expected.is_some_and(|expected| now + expected > until) || until <= now {
                return Err(Unavailable::NotInTime { wait });
            }
        }
        let (tenant, priority) = (turn.tenant.clone(), turn.priority);
        let ticket = state.line.push(tenant, priority, turn.tokens, waiter);
        if free {
            self.hand_out(state, 1);
        }
        Ok((ticket, until))
    }

    fn leave(&self, ticket: &line::Ticket) {
        self.state.lock().line.remove(ticket);
    }

    /// Gives as many free places to those whose turn it is: as many as became free, so that afterwards no
    /// place is free that somebody waits for.
    fn hand_out(self: &Arc<Self>, mut state: MutexGuard<'_, State>, mut free: usize) {
        let mut returned = Vec::new();
        let State {
            places,
            line,
            last_taken,
            ..
        } = &mut *state;
        let has_place = |load: &Load| self.has_place(places, load);
        while free > 0
            && let Some(waiter) = line.pop(|it| it.wish.is_open() && it.way(has_place).is_some())
        {
            let (Some((number, load)), Some(hand)) = (waiter.way(has_place), waiter.wish.claim())
            else {
                // Another provider had a place for it.
                continue;
            };
            free -= 1;
            let now = Instant::now();
            *last_taken = now;
            let permit = self.permit(load, now, Some(now - waiter.wish.since));
            if let Err((_, permit)) = hand.send((number, permit)) {
                // It left in this moment.
                returned.push(permit);
            }
        }
        drop(state);
        // Each is handed on, which needs the lock.
        drop(returned);
    }

    /// Gives a place back where a request was `served` this long, if it was.
    fn give_back(self: &Arc<Self>, load: &Load, served: Option<Duration>) {
        let leave = || {
            self.taken.fetch_sub(1, Ordering::SeqCst);
            load.in_flight.fetch_sub(1, Ordering::SeqCst);
        };
        if !self.capped.load(Ordering::SeqCst) {
            leave();
            // Who came since it has a cap, and waits, saw this place taken.
            if self.capped.load(Ordering::SeqCst) {
                self.hand_out(self.state.lock(), 1);
            }
            return;
        }
        let mut state = self.state.lock();
        leave();
        if let Some(served) = served {
            state.served(served);
        }
        self.hand_out(state, 1);
    }

    /// After how long a place may be free for such a request, at least a second.
    fn expected(&self, turn: &Turn) -> Duration {
        let state = self.state.lock();
        let taken = self.taken.load(Ordering::SeqCst);
        let expected = state.wait_behind(taken, turn, Instant::now());
        expected.unwrap_or_default().max(WAIT_MIN)
    }
}

// === impl State ===

impl State {
    /// After how long one of these places may be free for such a request; `None` where nobody knows.
    fn expected(&self, ways: &[(usize, Arc<Load>)], turn: &Turn, now: Instant) -> Option<Duration> {
        let taken = |(_, load): &(usize, Arc<Load>)| load.in_flight.load(Ordering::SeqCst);
        self.wait_behind(ways.iter().map(taken).sum(), turn, now)
    }

    /// The same, where this many places are taken: one becomes free after each `taken`th part of the
    /// time that one is taken.
    fn wait_behind(&self, taken: usize, turn: &Turn, now: Instant) -> Option<Duration> {
        let gap = self.service?.div_f64(taken.max(1) as f64);
        let first = gap.saturating_sub(now.saturating_duration_since(self.last_taken));
        let ahead = self.line.ahead(&turn.tenant, turn.priority, turn.tokens);
        Some(first + gap.mul_f64(ahead.entries))
    }

    /// A place was taken for this long.
    fn served(&mut self, served: Duration) {
        /// The last one counts for this part: about the last ten do.
        const PART: f64 = 0.2;
        self.service = Some(self.service.map_or(served, |mean| {
            mean.mul_f64(1.0 - PART) + served.mul_f64(PART)
        }));
    }
}

// === impl Permit ===

impl Permit {
    /// A request is carried there from now on.
    pub(super) fn used(mut self) -> Self {
        self.used = true;
        self
    }

    /// How long it was waited for, if it was.
    pub(super) fn waited(&self) -> Option<Duration> {
        self.waited
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let served = self.used.then(|| self.since.elapsed());
        self.bulkhead.give_back(&self.load, served);
    }
}

/// The bulkheads of an older configuration.
#[derive(Debug, Default)]
pub(super) struct Known(pub(super) Vec<(Arc<str>, Vec<BaseUrl>, Arc<Bulkhead>)>);

impl Known {
    /// That of this provider. Where several share a name, as bare URLs at one host do, the URLs tell
    /// which.
    pub(super) fn take(&mut self, name: &str, urls: &[BaseUrl]) -> Option<Arc<Bulkhead>> {
        let all = self.0.iter().enumerate();
        let named = all.filter(|(_, (other, ..))| **other == *name);
        let shared = |(_, (_, others, _)): &(usize, &(_, Vec<BaseUrl>, _))| {
            others.iter().any(|url| urls.contains(url))
        };
        let (at, _) = named
            .clone()
            .find(shared)
            .or_else(|| named.clone().next())?;
        Some(self.0.swap_remove(at).2)
    }
}
