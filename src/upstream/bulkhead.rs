//! How many requests a provider and each of its endpoints carry at once, and who waits for a place.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// Who wants a place, and what is known of that for the line.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Whose requests share a turn; `None` where nobody is told apart.
    pub team: Option<Arc<str>>,
    /// What it is thought to use.
    pub tokens: u64,
    /// By when it must be let in.
    pub until: Option<Instant>,
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
