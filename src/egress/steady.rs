//! Keeps an endpoint on its road while the answers for its name change.
//!
//! One name, some of whose addresses are intranet, or are now and then: it goes by proxy, and stays
//! there until its answers have been all intranet for a while. Belongs to an [`super::Endpoint`], so
//! there are as many as the configuration has. Time is an argument.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// For how long an answer that isn't all intranet counts after later ones that are.
const HOLD: Duration = Duration::from_secs(60);

/// What is remembered of an endpoint's answers.
#[derive(Debug)]
pub(super) struct Steady {
    began: Instant,
    /// Milliseconds from `began` to the last answer that wasn't all intranet, and one more; 0 for
    /// never.
    external_ms: AtomicU64,
    told_of_mixed: AtomicBool,
    told_of_forbidden: AtomicBool,
}

impl Steady {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            external_ms: AtomicU64::new(0),
            told_of_mixed: AtomicBool::new(false),
            told_of_forbidden: AtomicBool::new(false),
        }
    }

    /// An answer wasn't all intranet.
    pub(super) fn external(&self, now: Instant) {
        self.external_ms.store(self.ms(now) + 1, Ordering::Relaxed);
    }

    /// An answer is all intranet: whether that can be relied on.
    pub(super) fn is_settled(&self, now: impl FnOnce() -> Instant) -> bool {
        match self.external_ms.load(Ordering::Relaxed) {
            0 => true,
            then => u128::from((self.ms(now()) + 1).saturating_sub(then)) >= HOLD.as_millis(),
        }
    }

    /// True the first time.
    pub(super) fn first_mixed(&self) -> bool {
        !self.told_of_mixed.swap(true, Ordering::Relaxed)
    }

    /// True the first time.
    pub(super) fn first_forbidden(&self) -> bool {
        !self.told_of_forbidden.swap(true, Ordering::Relaxed)
    }

    fn ms(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.began).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_the_outside_counts_for_a_while() {
        let began = Instant::now();
        let steady = Steady::new(began);
        assert!(steady.is_settled(|| began));
        // In the very first moment, too.
        steady.external(began);
        assert!(!steady.is_settled(|| began));
        assert!(!steady.is_settled(|| began + HOLD - Duration::from_millis(1)));
        assert!(steady.is_settled(|| began + HOLD));
        // Flapping: each one counts anew.
        let later = began + 2 * HOLD;
        steady.external(later);
        assert!(!steady.is_settled(|| later + HOLD / 2));
        steady.external(later + HOLD / 2);
        assert!(!steady.is_settled(|| later + HOLD));
        assert!(steady.is_settled(|| later + HOLD + HOLD / 2));
    }

    #[test]
    fn each_warning_is_told_once() {
        let steady = Steady::new(Instant::now());
        assert!(steady.first_mixed() && !steady.first_mixed());
        assert!(steady.first_forbidden() && !steady.first_forbidden());
    }
}
