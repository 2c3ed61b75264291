//! Allowances that several hosts share: budgets, rates, requests in flight, through one server that
//! speaks Redis' protocol.
//!
//! No request waits for that server as a rule. Each host has a [`Stock`] of every allowance: a part
//! that it was granted, which requests take from by memory alone. A task in the background draws ahead
//! of use, tells what was used, and gives back what isn't. What all hosts are granted together never
//! passes the limit, since the server adds it up in one script; so neither does what they use, but for
//! what answers cost more than was reserved for them.
//!
//! A request that finds the stock empty waits for one draw, [`PATIENCE`] at most. When the server is
//! away, a host goes on with its stock, and then by [`OnDown`].
//!
//! It knows neither keys nor prices: amounts are numbers. Called by the rest of `govern`; `app` runs
//! the [`Keeper`].

mod agreeing;
mod draw;
mod fleet;
mod host;
mod keeper;
mod kept;
mod lease;
mod link;
pub mod settings;
mod stock;
mod words;

pub use draw::Kind;
pub use fleet::Fleet;
pub use keeper::Keeper;
pub use link::{Dial, Stream};
pub use settings::{OnDown, Server, SharedState};
pub use stock::{Short, Standing, Stock};
pub use words::{Versions, Word, Words};

use super::accounts::{Account, Keep};
use ahash::AHashMap;
use host::Host;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// What a request may wait for its stock to be filled.
pub const PATIENCE: Duration = Duration::from_millis(50);

/// All shared allowances of this host. Clones share everything.
#[derive(Clone, Debug)]
pub struct Sharing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: Host,
    known: Mutex<AHashMap<String, Weak<stock::Inner>>>,
    /// Those that the keeper has to look after and doesn't know yet.
    fresh: Mutex<Vec<Arc<stock::Inner>>>,
    /// What people want to know.
    questions: Mutex<VecDeque<fleet::Question>>,
    wake: Notify,
    state: AtomicU8,
    /// What is done when it is down: [`OnDown::Local`].
    local: AtomicBool,
}

/// Whether the server can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Nobody has tried yet.
    Unknown = 0,
    /// It answers.
    Up = 1,
    /// It doesn't.
    Down = 2,
}

// === impl Sharing ===

impl Sharing {
    /// Of the host whose `state_dir` that is: all its processes are one host.
    ///
    /// # Errors
    /// Why the file with the host's name can't be used.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(Inner {
            host: Host::open(state_dir)?,
            known: Mutex::default(),
            fresh: Mutex::default(),
            questions: Mutex::default(),
            wake: Notify::new(),
            state: AtomicU8::new(State::Unknown as u8),
            local: AtomicBool::new(false),
        })))
    }

    /// The stock of the allowance of that name. `account` is this host's part of it; from now on it
    /// holds no more than the host was granted. A budget lasts as long as `keep` says.
    pub fn stock(&self, name: &str, kind: Kind, limit: i64, account: Account, keep: Keep) -> Stock {
        let mut known = self.0.known.lock();
        if let Some(inner) = known.get(name).and_then(Weak::upgrade) {
            inner.set_terms(kind, limit);
            return Stock(inner);
        }
        if known.len() == known.capacity() {
            known.retain(|_, stock| stock.strong_count() > 0);
        }
        let inner = stock::Inner::new(name, kind, limit, account, keep, &self.0);
        known.insert(name.to_owned(), Arc::downgrade(&inner));
        drop(known);
        inner.wants_keeping();
        Stock(inner)
    }

    /// Whether others may have been granted what this host had drawn: it wasn't heard for that long, or never.
    pub fn is_over(&self, lease: Duration) -> bool {
        let silence = self.0.host.noted().silence(host::Now::read());
        silence.is_none_or(|silence| silence >= keeper::until_over(lease))
    }

    /// Whether the server can be asked.
    pub fn state(&self) -> State {
        self.0.state()
    }
}

impl Inner {
    fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            1 => State::Up,
            2 => State::Down,
            _ => State::Unknown,
        }
    }

    fn is_local(&self) -> bool {
        self.local.load(Ordering::Relaxed)
    }

    fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }
}
