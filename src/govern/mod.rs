//! Who may do how much: who is asking, requests and tokens by the minute and at once, money by the
//! month, buffered bytes. It never sees a session or a header. Called by `proxy::plan` and
//! `proxy::peek`, told by `proxy::settle` what was used.

pub mod accounts;
mod addresses;
pub mod budget;
pub mod buffers;
pub mod drains;
pub mod ending;
#[cfg(test)]
mod folder;
pub mod grant;
pub mod keys;
pub mod ledger;
pub mod limits;
pub mod look;
mod queue;
pub mod rate;
pub mod scope;
pub mod settings;
pub mod shared;
pub mod streams;
#[cfg(test)]
mod tests;

pub use accounts::Accounts;
pub use buffers::{Buffers, Hold};
pub use drains::{Drain, Drains};
pub use ending::Ending;
pub use grant::{Grant, Spent};
pub use keys::{Caller, Keys};
pub use ledger::Ledger;
pub use limits::{Ask, Denied};
pub use queue::Whom;
pub use rate::Moment;
pub use settings::Settings;
pub use streams::{OpenStream, Streams};

use addresses::Addresses;
use parking_lot::RwLock;
use queue::Queue;
use scope::Scopes;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// The host's limits with their state. Settings are replaced by a reload, state stays.
#[derive(Debug)]
pub struct Governor {
    settings: RwLock<Settings>,
    in_flight: Arc<AtomicUsize>,
    /// Told whenever a request is over.
    freed: Arc<Notify>,
    buffers: Buffers,
    addresses: Addresses,
    scopes: Scopes,
    accounts: Accounts,
    queue: Queue,
    sweeps: AtomicUsize,
    ending: Ending,
    streams: Streams,
    drains: Drains,
    /// Requests that other processes of this host have in flight; see [`Governor::elsewhere`].
    elsewhere: AtomicUsize,
}

impl Governor {
    /// A governor with nothing in flight, which keeps its sums in `accounts`.
    pub fn new(settings: Settings, accounts: Accounts) -> Self {
        Self {
            buffers: Buffers::new(settings.buffered_bytes_max),
            addresses: Addresses::default(),
            scopes: Scopes::new(accounts.clone()),
            accounts,
            queue: Queue::default(),
            sweeps: AtomicUsize::new(0),
            freed: Arc::default(),
            in_flight: Arc::default(),
            drains: Drains::new(settings.drains_max),
            settings: RwLock::new(settings),
            ending: Ending::default(),
            streams: Streams::default(),
            elsewhere: AtomicUsize::new(0),
        }
    }

    /// The same, whose allowances of keys, teams and models other hosts share. What was drawn before and
    /// isn't used is theirs, where this host was silent for the `lease`.
    pub fn sharing(mut self, sharing: shared::Sharing, lease: Duration) -> Self {
        if sharing.is_over(lease) {
            self.accounts.take_back_grants();
        }
        self.scopes.share(sharing);
        self
    }

    /// Replaces the settings; what is in flight stays counted.
    pub fn apply(&self, settings: Settings) {
        self.buffers.set_max(settings.buffered_bytes_max);
        self.drains.set_max(settings.drains_max);
        *self.settings.write() = settings;
    }

    /// Says what other processes of this host carry: generations that drain. It counts against the
    /// caps of the host.
    pub fn elsewhere(&self, in_flight: usize, buffered_bytes: usize) {
        self.elsewhere.store(in_flight, Ordering::Relaxed);
        self.buffers.set_elsewhere(buffered_bytes);
    }

    /// What the next process needs to go on limiting addresses: a value for [`Governor::take_over`].
    pub fn hand_over(&self, now: Moment) -> Value {
        self.addresses.hand_over(now)
    }

    /// Goes on where another process stands. No address gets more than both allow.
    pub fn take_over(&self, state: &Value, now: Moment) {
        self.addresses.take_over(state, now);
    }

    /// Gives back what processes held that are gone, and forgets whom nobody asked for. Called every
    /// second or so.
    pub fn sweep(&self) {
        /// A scope that is asked for now and then needs not be opened each time.
        const SCOPES_EVERY: usize = 600;
        self.accounts.sweep();
        let beats = self.sweeps.fetch_add(1, Ordering::Relaxed);
        if beats % SCOPES_EVERY == SCOPES_EVERY - 1 {
            self.scopes.sweep();
        }
    }

    /// Where the sums are kept.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Requests that wait for a limit to let them in.
    pub fn waiting(&self) -> usize {
        self.queue.waiting()
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
