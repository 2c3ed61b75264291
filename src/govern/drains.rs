//! Answers that are read on after their clients have left, for the usage at their end: how many at once.

use super::grant::Counted;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// All of them. Clones share everything.
#[derive(Clone, Debug)]
pub struct Drains(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    open: Arc<AtomicUsize>,
    max: AtomicUsize,
}

/// One answer's place among them. Dropping it gives the place back.
#[derive(Debug)]
pub struct Drain(#[expect(dead_code, reason = "held for its drop")] Counted);

impl Drains {
    /// At most `max` at once; 0 = none.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Shared {
            open: Arc::default(),
            max: AtomicUsize::new(max),
        }))
    }

    /// Changes the cap; those that are open stay.
    pub fn set_max(&self, max: usize) {
        self.0.max.store(max, Ordering::Relaxed);
    }

    /// A place, if one is free.
    pub fn begin(&self) -> Option<Drain> {
        match self.0.max.load(Ordering::Relaxed) {
            0 => None,
            max => Counted::take(&self.0.open, max).map(Drain),
        }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_drain_at_once_than_may() {
        let drains = Drains::new(2);
        let (first, second) = (drains.begin(), drains.begin());
        assert!(first.is_some() && second.is_some(), "at the limit");
        assert!(drains.begin().is_none(), "one past it");
        drop(first);
        assert!(drains.begin().is_some());
        assert_eq!(drains.open(), 1);
        drains.set_max(0);
        drop(second);
        assert!(drains.begin().is_none(), "zero is none");
        assert_eq!(drains.open(), 0);
    }
}
