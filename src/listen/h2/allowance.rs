//! How much of something a client may do: so much at once, and so much per second from then on.

use tokio::time::Instant;

/// So many at once, and from then on so many per second.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// At once.
    pub at_once: u64,
    /// Per second.
    pub per_second: u64,
}

/// What is left of an allowance.
#[derive(Debug)]
pub struct Purse {
    allowance: Allowance,
    left: u64,
    filled: Instant,
}

impl Purse {
    /// A full one.
    pub fn new(allowance: Allowance, now: Instant) -> Self {
        Self {
            allowance,
            left: allowance.at_once,
            filled: now,
        }
    }

    /// Puts more in, as far as there is room.
    pub fn earn(&mut self, much: u64) {
        self.left = (self.left.saturating_add(much)).min(self.allowance.at_once);
    }

    /// Takes some out; false when there isn't enough left.
    pub fn spend(&mut self, much: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        let earned = passed.saturating_mul(self.allowance.per_second) / 1000;
        if earned > 0 {
            self.earn(earned);
            self.filled = now;
        }
        match self.left.checked_sub(much) {
            Some(left) => self.left = left,
            None => return false,
        }
        true
    }
}
