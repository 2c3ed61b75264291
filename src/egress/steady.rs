//! Keeps an endpoint on its road while the answers for its name change.
//!
//! One name, some of whose addresses are intranet, or are now and then: it goes by proxy, and stays
//! there until its answers have been all intranet for a while. It is part of the
//! [`super::Memory`], by host and port, so that a reload doesn't forget it. Time is an argument.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use parking_lot::Mutex;

/// For how long an answer that isn't all intranet counts after later ones that are.
const HOLD: Duration = Duration::from_secs(60);

/// Endpoints that are remembered; of more the one that was seen first is forgotten.
const ENDPOINTS_MAX: usize = 4096;

/// What is remembered of all endpoints, by host and port.
#[derive(Debug, Default)]
pub(super) struct Steadies(Mutex<AHashMap<Origin, Arc<Steady>>>);

/// Host and port.
type Origin = (Arc<str>, u16);

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

// === impl Steadies ===

impl Steadies {
    /// That of this endpoint, a new one if there was none.
    pub(super) fn of(&self, host: &Arc<str>, port: u16) -> Arc<Steady> {
        let mut all = self.0.lock();
        let key = (Arc::clone(host), port);
        if let Some(steady) = all.get(&key) {
            return Arc::clone(steady);
        }
        if all.len() >= ENDPOINTS_MAX {
            let first = all.iter().min_by_key(|(_, steady)| steady.began);
            if let Some(first) = first.map(|(key, _)| key.clone()) {
                all.remove(&first);
            }
        }
        let steady = Arc::new(Steady::new(Instant::now()));
        all.insert(key, Arc::clone(&steady));
        steady
    }
}

// === impl Steady ===

impl Steady {
    fn new(now: Instant) -> Self {
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
    fn it_is_kept_by_host_and_port_and_never_of_too_many() {
        let all = Steadies::default();
        let host = |number: usize| Arc::<str>::from(format!("{number}.test"));
        let first = all.of(&host(0), 443);
        first.external(Instant::now());
        assert!(Arc::ptr_eq(&first, &all.of(&host(0), 443)));
        assert!(all.of(&host(0), 444).is_settled(Instant::now));
        for number in 1..ENDPOINTS_MAX {
            all.of(&host(number), 443);
        }
        assert_eq!(all.0.lock().len(), ENDPOINTS_MAX);
        assert!(!Arc::ptr_eq(&first, &all.of(&host(0), 443)), "forgotten");
    }

    #[test]
    fn each_warning_is_told_once() {
        let steady = Steady::new(Instant::now());
        assert!(steady.first_mixed() && !steady.first_mixed());
        assert!(steady.first_forbidden() && !steady.first_forbidden());
    }
}
