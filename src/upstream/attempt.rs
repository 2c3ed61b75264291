//! One try at one endpoint. It opens when it is made and closes when it is dropped, so nothing
//! leaks when a client vanishes between two bytes.

use super::Endpoint;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What an endpoint carries; shared by all configurations that know it.
#[derive(Debug, Default)]
pub(super) struct Load {
    in_flight: AtomicUsize,
    failures: AtomicU64,
    /// When it last refused a request for asking for usage.
    usage_refused: Mutex<Option<Instant>>,
}

/// An endpoint that refused to report usage is asked again after this long: servers are updated.
const USAGE_REFUSED_FOR: Duration = Duration::from_secs(24 * 3600);

impl Endpoint {
    /// Requests that it carries now.
    pub fn in_flight(&self) -> usize {
        self.load.in_flight.load(Ordering::Relaxed)
    }

    /// Attempts that failed since the start.
    pub fn failures(&self) -> u64 {
        self.load.failures.load(Ordering::Relaxed)
    }

    /// Whether it is known to refuse requests that ask for usage.
    pub fn refuses_usage(&self, now: Instant) -> bool {
        let since = *self.load.usage_refused.lock();
        since.is_some_and(|since| now.saturating_duration_since(since) < USAGE_REFUSED_FOR)
    }

    /// Remembers that it refuses requests that ask for usage.
    pub fn usage_refused(&self, now: Instant) {
        *self.load.usage_refused.lock() = Some(now);
    }
}

/// A try at an endpoint; see [`Upstreams::attempt`](super::Upstreams::attempt).
#[derive(Debug)]
pub struct Attempt {
    endpoint: Arc<Endpoint>,
    outcome: Outcome,
    /// It is another one seen again; see [`Attempt::echo`].
    is_echo: bool,
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
    pub(super) fn begin(endpoint: Arc<Endpoint>) -> Self {
        endpoint.load.in_flight.fetch_add(1, Ordering::Relaxed);
        Self {
            endpoint,
            outcome: Outcome::Abandoned,
            is_echo: false,
        }
    }

    /// A try at this endpoint that is another one's, as a further request has it that it is made for: it
    /// weighs nothing, and how it ends isn't told twice.
    pub fn echo(endpoint: Arc<Endpoint>) -> Self {
        Self {
            endpoint,
            outcome: Outcome::Abandoned,
            is_echo: true,
        }
    }

    /// Where it goes.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The same, to be kept when the attempt is over.
    pub fn shared_endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.endpoint)
    }

    /// The answer's head has come, this long after the request had gone out.
    pub fn heard(&mut self, _after: Duration) {}

    /// Says how it ended; the last word counts, but that an answer is whole takes nothing back.
    pub fn ended(&mut self, outcome: Outcome) {
        if outcome != Outcome::Answered || self.outcome == Outcome::Abandoned {
            self.outcome = outcome;
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.is_echo {
            return;
        }
        let load = &self.endpoint.load;
        load.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.outcome == Outcome::Failed {
            load.failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}
