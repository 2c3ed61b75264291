//! What happened lately: counts in a window that slides by tenths.

use std::time::{Duration, Instant};

/// Counts of the last tenths.
#[derive(Clone, Debug)]
pub struct Window {
    /// Where the tenths begin to be counted.
    origin: Instant,
    tenths: [Tenth; 10],
}

#[derive(Clone, Copy, Debug, Default)]
struct Tenth {
    /// Which it is, from 1; 0 for none.
    number: u64,
    counts: Counts,
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Tries whose fate is known.
    pub outcomes: u32,
    /// Those that failed.
    pub failures: u32,
    /// Those whose answer was slow to begin.
    pub slow: u32,
    /// Who failed or was slow, one bit each.
    pub who: u64,
}

impl Window {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            origin: now,
            tenths: Default::default(),
        }
    }

    pub(super) fn good(&mut self, slow: bool, who: usize, span: Duration, now: Instant) {
        let counts = self.now(span, now);
        counts.outcomes = counts.outcomes.saturating_add(1);
        if slow {
            counts.slow = counts.slow.saturating_add(1);
            counts.who |= bit(who);
        }
    }

    pub(super) fn bad(&mut self, who: usize, span: Duration, now: Instant) {
        let counts = self.now(span, now);
        counts.outcomes = counts.outcomes.saturating_add(1);
        counts.failures = counts.failures.saturating_add(1);
        counts.who |= bit(who);
    }

    /// One that was counted as good has failed after all.
    pub(super) fn broken(&mut self, who: usize, span: Duration, now: Instant) {
        let counts = self.now(span, now);
        counts.failures = counts.failures.saturating_add(1);
        counts.who |= bit(who);
    }

    /// The sums of the whole window.
    pub(super) fn counts(&self, span: Duration, now: Instant) -> Counts {
        let last = self.number(span, now);
        let of_window = |it: &&Tenth| it.number <= last && it.number + self.length() > last;
        let tenths = self.tenths.iter().filter(of_window).map(|it| it.counts);
        tenths.fold(Counts::default(), |sum, it| Counts {
            outcomes: sum.outcomes.saturating_add(it.outcomes),
            failures: sum.failures.saturating_add(it.failures),
            slow: sum.slow.saturating_add(it.slow),
            who: sum.who | it.who,
        })
    }

    fn now(&mut self, span: Duration, now: Instant) -> &mut Counts {
        let number = self.number(span, now);
        let place = (number % self.length()) as usize;
        let tenth = &mut self.tenths[place];
        if tenth.number != number {
            *tenth = Tenth {
                number,
                counts: Counts::default(),
            };
        }
        &mut tenth.counts
    }

    fn number(&self, span: Duration, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.origin);
        let tenth = (span / 10).max(Duration::from_millis(1));
        1 + u64::try_from(age.as_nanos() / tenth.as_nanos()).unwrap_or(u64::MAX - 20)
    }

    fn length(&self) -> u64 {
        self.tenths.len() as u64
    }
}

fn bit(who: usize) -> u64 {
    1 << (who % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let (start, span) = (Instant::now(), Duration::from_secs(10));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut window = Window::new(start);
        window.bad(0, span, at(0));
        window.good(true, 1, span, at(5));
        window.good(false, 2, span, at(9));
        let all = Counts {
            outcomes: 3,
            failures: 1,
            slow: 1,
            who: 0b11,
        };
        assert_eq!(window.counts(span, at(9)), all);
        assert_eq!(window.counts(span, at(10)).failures, 0);
        assert_eq!(window.counts(span, at(10)).outcomes, 2);
        assert_eq!(window.counts(span, at(19)), Counts::default());
        window.bad(0, span, at(1_000_000));
        assert_eq!(window.counts(span, at(1_000_000)).outcomes, 1);
    }
}
