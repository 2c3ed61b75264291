//! One try at one endpoint. It opens when it is made and closes when it is dropped, so nothing
//! leaks when a client vanishes between two bytes.

use super::Endpoint;
use super::breaker::Event;
use super::bulkhead::Permit;
use super::endpoint::Leave;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A try at an endpoint; see [`Upstreams::attempt`](super::Upstreams::attempt).
#[derive(Debug)]
pub struct Attempt {
    endpoint: Arc<Endpoint>,
    outcome: Outcome,
    /// Its place, and leave of the breakers; `None` for an echo.
    hold: Option<(Permit, Leave)>,
    /// The head of its answer has come.
    heard: bool,
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody said: the client left, or the request was given up.
    Abandoned,
    /// It answered whole; also that the request is wrong.
    Answered,
    /// It could not be reached, broke off, was too slow, or answered with an error of its own.
    Failed,
    /// It has no time now (429, 503, …); it may be asked again after this long, where it said so.
    Busy(Option<Duration>),
    /// It doesn't accept weir's account.
    Unaccepted,
}

impl Attempt {
    pub(super) fn begin(endpoint: Arc<Endpoint>, permit: Permit, leave: Leave) -> Self {
        Self {
            endpoint,
            outcome: Outcome::Abandoned,
            hold: Some((permit.used(), leave)),
            heard: false,
        }
    }

    /// A try at this endpoint that is another one's, as a further request has it that it is made for: it
    /// weighs nothing, and how it ends isn't told twice.
    pub fn echo(endpoint: Arc<Endpoint>) -> Self {
        Self {
            endpoint,
            outcome: Outcome::Abandoned,
            hold: None,
            heard: false,
        }
    }

    /// How long its place was waited for, if it was.
    pub fn waited(&self) -> Option<Duration> {
        self.hold.as_ref()?.0.waited()
    }

    /// Where it goes.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The same, to be kept when the attempt is over.
    pub fn shared_endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.endpoint)
    }

    /// The head of a usable answer has come, this long after the request had gone out. So long as it
    /// may go on, that it can be asked is known from here on.
    pub fn heard(&mut self, after: Duration) {
        let Some((_, leave)) = &self.hold else {
            return;
        };
        if !std::mem::replace(&mut self.heard, true) {
            let now = Instant::now();
            self.endpoint.load.condition.measured(after, now);
            self.endpoint.accepted();
            self.endpoint.handle(*leave, Event::Good(after), now);
        }
    }

    /// Says how it ended; the last word counts, but that an answer is whole takes nothing back.
    pub fn ended(&mut self, outcome: Outcome) {
        if outcome != Outcome::Answered || self.outcome == Outcome::Abandoned {
            self.outcome = outcome;
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some((_, leave)) = &self.hold else {
            return;
        };
        let load = &self.endpoint.load;
        let now = Instant::now();
        match self.outcome {
            Outcome::Failed => {
                load.failures.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Busy(Some(time)) => load.condition.rests(time, now),
            Outcome::Unaccepted => self.endpoint.unaccepted(now),
            Outcome::Busy(None) | Outcome::Abandoned | Outcome::Answered => {}
        }
        let event = match (self.outcome, self.heard) {
            (Outcome::Failed, true) => Event::Broken,
            (Outcome::Failed, false) => Event::Bad,
            (_, true) => return,
            // Whoever answers at all is there.
            (Outcome::Answered | Outcome::Unaccepted, false) => Event::Good(Duration::ZERO),
            (Outcome::Busy(_) | Outcome::Abandoned, false) => Event::Lost,
        };
        self.endpoint.handle(*leave, event, now);
    }
}
