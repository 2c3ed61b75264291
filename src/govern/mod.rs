//! Who may do how much: requests in flight, buffered bytes, requests per client address. It never
//! sees a session or a header. Called by `proxy::plan` and `proxy::peek`.

pub mod buffers;
pub mod grant;
pub mod limits;
pub mod settings;

pub use buffers::{Buffers, Hold};
pub use grant::Grant;
pub use settings::Settings;

use limits::Buckets;
use parking_lot::RwLock;
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
            settings: RwLock::new(settings),
        }
    }

    /// Replaces the settings; what is in flight stays counted.
    pub fn apply(&self, settings: Settings) {
        self.buffers.set_max(settings.buffered_bytes_max);
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
        Grant::new(&self.in_flight, in_flight_max).ok_or(Denied::InFlight)
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
