//! What failed lately: it is put last for a while, and never left out. Pure; time is an argument.

use std::hash::Hash;
use std::time::{Duration, Instant};

use ahash::AHashMap;

/// The first failure counts for this long, each that follows for twice as long as the one before.
const FIRST: Duration = Duration::from_secs(30);
/// No failure counts longer than this.
const LONGEST: Duration = Duration::from_secs(480);
/// Who hasn't failed again for this long after its time begins anew with [`FIRST`].
const FORGOTTEN: Duration = Duration::from_secs(600);

/// Failures by who failed, a bounded number of them.
#[derive(Debug)]
pub(super) struct Faults<K> {
    known: AHashMap<K, Fault>,
    entries_max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Fault {
    lasts: Duration,
    until: Instant,
    /// When it failed last, counted or not.
    last: Instant,
}

impl<K: Clone + Eq + Hash> Faults<K> {
    pub(super) fn new(entries_max: usize) -> Self {
        Self {
            known: AHashMap::new(),
            entries_max,
        }
    }

    /// Until when it is put last, if it is.
    pub(super) fn until(&self, who: &K, now: Instant) -> Option<Instant> {
        let fault = self.known.get(who)?;
        (now < fault.until).then_some(fault.until)
    }

    /// When it failed last, if it is put last: of those that failed the one that hasn't been tried for
    /// longest is first.
    pub(super) fn last(&self, who: &K, now: Instant) -> Option<Instant> {
        let fault = self.known.get(who)?;
        (now < fault.until).then_some(fault.last)
    }

    /// It failed. Failures while it is put last anyway don't prolong that: many who try at once are
    /// one piece of news.
    pub(super) fn failed(&mut self, who: K, now: Instant) {
        let lasts = match self.known.get_mut(&who) {
            Some(fault) if now < fault.until => {
                fault.last = now;
                return;
            }
            Some(fault) if now < fault.until + FORGOTTEN => (fault.lasts * 2).min(LONGEST),
            _ => FIRST,
        };
        self.make_room(now);
        let until = now + lasts;
        let last = now;
        self.known.insert(who, Fault { lasts, until, last });
    }

    /// It works.
    pub(super) fn works(&mut self, who: &K) {
        if !self.known.is_empty() {
            self.known.remove(who);
        }
    }

    fn make_room(&mut self, now: Instant) {
        if self.known.len() < self.entries_max {
            return;
        }
        self.known.retain(|_, fault| now < fault.until + FORGOTTEN);
        if self.known.len() < self.entries_max {
            return;
        }
        let soonest = self.known.iter().min_by_key(|(_, fault)| fault.until);
        if let Some(who) = soonest.map(|(who, _)| who.clone()) {
            self.known.remove(&who);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_failure_counts_twice_as_long_as_the_one_before_up_to_a_cap() {
        let mut now = Instant::now();
        let mut faults = Faults::new(8);
        for lasts in [30, 60, 120, 240, 480, 480] {
            faults.failed("a", now);
            let last = now + lasts * SECOND - Duration::from_nanos(1);
            assert!(faults.until(&"a", last).is_some(), "{lasts}");
            assert_eq!(faults.until(&"a", now + lasts * SECOND), None, "{lasts}");
            now += lasts * SECOND;
        }
    }

    #[test]
    fn fifty_failures_at_once_are_one() {
        let now = Instant::now();
        let mut faults = Faults::new(8);
        for _ in 0..50 {
            faults.failed("a", now);
        }
        assert_eq!(faults.until(&"a", now), Some(now + FIRST));
        faults.failed("a", now + FIRST);
        assert_eq!(faults.until(&"a", now + FIRST), Some(now + FIRST * 3));
    }

    #[test]
    fn when_it_failed_last_is_known_though_that_prolongs_nothing() {
        let now = Instant::now();
        let mut faults = Faults::new(8);
        faults.failed("a", now);
        faults.failed("a", now + SECOND);
        assert_eq!(faults.until(&"a", now + SECOND), Some(now + FIRST));
        assert_eq!(faults.last(&"a", now + SECOND), Some(now + SECOND));
        assert_eq!(faults.last(&"a", now + FIRST), None);
    }

    #[test]
    fn success_and_a_long_time_make_all_good() {
        let now = Instant::now();
        let mut faults = Faults::new(8);
        faults.failed("a", now);
        faults.works(&"a");
        assert_eq!(faults.until(&"a", now), None);
        faults.failed("b", now);
        let later = now + FIRST + FORGOTTEN;
        faults.failed("b", later);
        assert_eq!(faults.until(&"b", later), Some(later + FIRST));
    }

    #[test]
    fn the_memory_is_bounded_and_loses_what_ends_first() {
        let now = Instant::now();
        let mut faults = Faults::new(3);
        for who in 0..3 {
            faults.failed(who, now + who * SECOND);
        }
        let now = now + 3 * SECOND;
        faults.failed(3, now);
        assert_eq!(faults.known.len(), 3);
        let kept = |who| faults.until(&who, now).is_some();
        assert!(!kept(0) && kept(1) && kept(2) && kept(3));
    }
}
