//! Leave to be in flight. Dropping it gives the place back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One request's place among those in flight.
#[derive(Debug)]
pub struct Grant {
    in_flight: Arc<AtomicUsize>,
}

impl Grant {
    /// Takes a place when fewer than `max` are taken; `max` 0 is no cap.
    pub(super) fn new(in_flight: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let before = in_flight.fetch_add(1, Ordering::Relaxed);
        let grant = Self {
            in_flight: Arc::clone(in_flight),
        };
        (max == 0 || before < max).then_some(grant)
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_past_the_last_is_refused_and_a_drop_frees_one() {
        let in_flight = Arc::default();
        let first = Grant::new(&in_flight, 2);
        let second = Grant::new(&in_flight, 2);
        assert!(first.is_some() && second.is_some());
        assert!(Grant::new(&in_flight, 2).is_none());
        assert_eq!(
            in_flight.load(Ordering::Relaxed),
            2,
            "a refusal takes no place"
        );
        drop(first);
        assert!(Grant::new(&in_flight, 2).is_some());
        drop(second);
        assert_eq!(in_flight.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn zero_is_no_cap() {
        let in_flight = Arc::default();
        let grants: Vec<_> = (0..1000).map(|_| Grant::new(&in_flight, 0)).collect();
        assert!(grants.iter().all(Option::is_some));
    }
}
