//! How soon an endpoint begins to answer: a moving mean that follows a rise at once and a fall slowly
//! (Finagle's peak EWMA). Pure: time is an argument.

use std::time::{Duration, Instant};

/// A mean of first-byte times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// The mean, in seconds.
    seconds: f64,
    /// When it was last measured.
    measured: Instant,
}

/// After this long a measurement counts for 1/e.
const FADES_IN: Duration = Duration::from_secs(10);

impl Pace {
    /// The first measurement.
    pub fn first(after: Duration, now: Instant) -> Self {
        Self {
            seconds: after.as_secs_f64(),
            measured: now,
        }
    }

    /// With one more measurement.
    #[must_use]
    pub fn measured(self, after: Duration, now: Instant) -> Self {
        let sample = after.as_secs_f64();
        let kept = self.kept(now);
        let mean = self.seconds * kept + sample * (1.0 - kept);
        Self {
            seconds: mean.max(sample),
            measured: now.max(self.measured),
        }
    }

    /// The mean as it was last measured, in seconds.
    pub fn seconds(self) -> f64 {
        self.seconds
    }

    /// What is to be expected now, in seconds. Who was slow and hasn't been asked since is slowly thought
    /// to be no worse than `hoped`, so that somebody finds out.
    pub fn expected(self, hoped: f64, now: Instant) -> f64 {
        match self.seconds > hoped {
            true => hoped + (self.seconds - hoped) * self.kept(now),
            false => self.seconds,
        }
    }

    /// How much of it counts now, from 1 down to 0.
    fn kept(self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.measured);
        (-age.as_secs_f64() / FADES_IN.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rise_counts_at_once_and_a_fall_slowly() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let ms = Duration::from_millis;
        let pace = Pace::first(ms(100), start).measured(ms(900), at(0));
        assert_eq!(pace.seconds(), 0.9);
        let soon = pace.measured(ms(100), at(1));
        assert!((0.8..0.85).contains(&soon.seconds()), "{soon:?}");
        let late = pace.measured(ms(100), at(60));
        assert!((0.1..0.11).contains(&late.seconds()), "{late:?}");
    }

    #[test]
    fn who_was_slow_is_hoped_for_again() {
        let start = Instant::now();
        let pace = Pace::first(Duration::from_secs(9), start);
        assert_eq!(pace.expected(1.0, start), 9.0);
        let after = |seconds| pace.expected(1.0, start + Duration::from_secs(seconds));
        assert!((3.9..4.0).contains(&after(10)), "{}", after(10));
        assert!((1.0..1.01).contains(&after(100)));
        assert_eq!(pace.expected(10.0, start), 9.0, "the quick stay so");
    }
}
