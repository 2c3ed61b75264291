//! Who may do how much: requests in flight, buffered bytes, requests per client address. It never
//! sees a session or a header. Called by `proxy::plan` and `proxy::peek`.

pub mod accounts;
pub mod buffers;
pub mod drains;
pub mod ending;
pub mod grant;
pub mod keys;
pub mod ledger;
pub mod limits;
pub mod settings;
pub mod streams;

pub use accounts::Accounts;
pub use buffers::{Buffers, Hold};
pub use drains::{Drain, Drains};
pub use ending::Ending;
pub use grant::Grant;
pub use keys::{Caller, Keys};
pub use ledger::Ledger;
pub use settings::Settings;
pub use streams::{OpenStream, Streams};

use limits::Buckets;
use parking_lot::RwLock;
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The host's limits with their state. Settings are replaced by a reload, state stays.
#[derive(Debug)]
pub struct Governor {
    settings: RwLock<Settings>,
    in_flight: Arc<AtomicUsize>,
    buffers: Buffers,
    buckets: Buckets,
    ending: Ending,
    streams: Streams,
    drains: Drains,
    /// Requests that other processes of this host have in flight; see [`Governor::elsewhere`].
    elsewhere: AtomicUsize,
}

/// Why a request may not go on now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The client's address asks too often; a token comes back after this long.
    RateLimited(Duration),
    /// As many requests are in flight as the host may carry.
    InFlight,
}

impl Governor {
    /// A governor with nothing in flight.
    pub fn new(settings: Settings) -> Self {
        Self {
            buffers: Buffers::new(settings.buffered_bytes_max),
            buckets: Buckets::default(),
            in_flight: Arc::default(),
            drains: Drains::new(settings.drains_max),
            settings: RwLock::new(settings),
            ending: Ending::default(),
            streams: Streams::default(),
            elsewhere: AtomicUsize::new(0),
        }
    }

    /// Replaces the settings; what is in flight stays counted.
    pub fn apply(&self, settings: Settings) {
        self.buffers.set_max(settings.buffered_bytes_max);
        self.drains.set_max(settings.drains_max);
        *self.settings.write() = settings;
    }

    /// Asks leave for one request of `client`.
    ///
    /// # Errors
    /// Which limit says no.
    pub fn admit(&self, client: Option<IpAddr>, now: Instant) -> Result<Grant, Denied> {
        let (rate_limit, in_flight_max) = {
            let settings = self.settings.read();
            (settings.rate_limit, settings.in_flight_max)
        };
        if let (Some(limit), Some(client)) = (rate_limit, client) {
            self.buckets
                .take(client, limit, now)
                .map_err(Denied::RateLimited)?;
        }
        let here_max = match in_flight_max {
            0 => 0,
            // At least one, so that a host that drains much still serves.
            max => (max.saturating_sub(self.elsewhere.load(Ordering::Relaxed))).max(1),
        };
        Grant::new(&self.in_flight, here_max).ok_or(Denied::InFlight)
    }

    /// Says what other processes of this host carry: generations that drain. It counts against the
    /// caps of the host.
    pub fn elsewhere(&self, in_flight: usize, buffered_bytes: usize) {
        self.elsewhere.store(in_flight, Ordering::Relaxed);
        self.buffers.set_elsewhere(buffered_bytes);
    }

    /// What the next process needs to go on limiting: a value for [`Governor::take_over`].
    pub fn hand_over(&self, now: Instant) -> Value {
        let limit = self.settings.read().rate_limit;
        limit.map_or(Value::Null, |limit| self.buckets.hand_over(limit, now))
    }

    /// Goes on where another process stands. Nobody gets more than both allow.
    pub fn take_over(&self, state: &Value, now: Instant) {
        if let Some(limit) = self.settings.read().rate_limit {
            self.buckets.take_over(state, limit, now);
        }
    }

    /// The end of what is in flight.
    pub fn ending(&self) -> &Ending {
        &self.ending
    }

    /// The open streams.
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// The answers that are read on after their clients have left.
    pub fn drains(&self) -> &Drains {
        &self.drains
    }

    /// Largest request body, bytes.
    pub fn body_bytes_max(&self) -> usize {
        self.settings.read().body_bytes_max
    }

    /// The cap that all buffers share.
    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}
