//! How fast something may come: the generic cell rate algorithm (ITU-T I.371, annex A), on one number
//! that several processes may share. It knows neither requests nor tokens. Time is an argument.
//!
//! The number is the *theoretical arrival time*: the moment, in nanoseconds of Unix time, at which the
//! bucket will be full again. What lies in the past says as much as 0.
//!
//! ```text
//!          now ├────── taken ──────┤ moment      ├─ what is still there ─┤
//!              ├────────────────────── burst ────────────────────────────┤
//! ```
//!
//! A clock that steps back would lock everybody out until it is where it was: a moment that lies
//! further ahead than twice the burst is taken for one that lies there. So nobody owes more than a
//! second bucket either, however much more a request used than was thought.

use chrono::{DateTime, Utc};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A rate, and how much of it may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// This many …
    count: u64,
    /// … in this many nanoseconds.
    window_ns: u64,
    /// What may come at once after a pause; 1 or more.
    burst: u64,
}

/// A moment, in nanoseconds of Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

/// Why something may not come now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It may after this long, if nobody else comes first.
    For(Duration),
    /// Never: it is more than may come at once.
    Never,
}

/// How a rate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// What may come now.
    pub remaining: u64,
    /// Until all of the burst may come again.
    pub full_in: Duration,
}

// === impl Rate ===

impl Rate {
    /// So many a minute; all of them may come at once unless `burst` says less (or more); 0 for
    /// neither.
    pub fn per_minute(count: u64, burst: u64) -> Option<Self> {
        const MINUTE_NS: u64 = 60_000_000_000;
        (count > 0).then_some(Self {
            count,
            window_ns: MINUTE_NS,
            burst: if burst > 0 { burst } else { count },
        })
    }

    /// So many a second, which may be a fraction; above 0.
    pub fn per_second(count: f64, burst: u32) -> Self {
        const MILLION: f64 = 1e6;
        // Nanoseconds for a million of them: precise to a millionth of a nanosecond each.
        let window_ns = (MILLION * 1e9 / count).round().clamp(1.0, 1e18);
        Self {
            count: MILLION as u64,
            window_ns: window_ns as u64,
            burst: u64::from(burst.max(1)),
        }
    }

    /// How many in its window: a minute, where it was made of one.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// In how long so much comes.
    pub fn time(&self, amount: u64) -> Duration {
        Duration::from_nanos(self.span(amount).unsigned_abs())
    }

    /// What may come at once after a pause.
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// Takes `amount`, or nothing.
    ///
    /// # Errors
    /// How long it must wait: who comes after that finds room, unless others came first.
    pub fn take(&self, cell: &AtomicI64, amount: u64, now: Moment) -> Result<(), Late> {
        let mut late = Late::Never;
        let taken = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            match self.after(full_at, amount, now) {
                Ok(next) => Some(next),
                Err(why) => {
                    late = why;
                    None
                }
            }
        });
        taken.map(drop).map_err(|_| late)
    }

    /// What [`Rate::take`] would say.
    ///
    /// # Errors
    /// As there.
    pub fn look(&self, cell: &AtomicI64, amount: u64, now: Moment) -> Result<(), Late> {
        let full_at = cell.load(Ordering::Relaxed);
        self.after(full_at, amount, now).map(drop)
    }

    fn after(&self, full_at: i64, amount: u64, now: Moment) -> Result<i64, Late> {
        if amount > self.burst {
            return Err(Late::Never);
        }
        let next = self.base(full_at, now).saturating_add(self.span(amount));
        let last = now.0.saturating_add(self.span(self.burst));
        if next <= last {
            return Ok(next);
        }
        let wait = u64::try_from(next.saturating_sub(last)).unwrap_or(u64::MAX);
        Err(Late::For(Duration::from_nanos(wait)))
    }

    /// Gives back what was taken and not used.
    pub fn give(&self, cell: &AtomicI64, amount: u64) {
        if amount > 0 {
            cell.fetch_sub(self.span(amount), Ordering::Relaxed);
        }
    }

    /// Takes what was used beyond what was thought, whether it is there or not.
    pub fn charge(&self, cell: &AtomicI64, amount: u64, now: Moment) {
        let more = |full_at| {
            let owed = self.base(full_at, now).saturating_add(self.span(amount));
            Some(owed.min(self.furthest(now)))
        };
        // The closure always answers.
        let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// How it stands.
    pub fn level(&self, cell: &AtomicI64, now: Moment) -> Level {
        let ahead = self.base(cell.load(Ordering::Relaxed), now) - now.0;
        let free = (self.span(self.burst) - ahead).max(0);
        let remaining =
            u128::from(free.unsigned_abs()) * u128::from(self.count) / u128::from(self.window_ns);
        Level {
            remaining: u64::try_from(remaining).unwrap_or(u64::MAX).min(self.burst),
            full_in: Duration::from_nanos(ahead.unsigned_abs()),
        }
    }

    /// The moment at which all would be there again, as far as it can be believed.
    fn base(&self, full_at: i64, now: Moment) -> i64 {
        full_at.clamp(now.0, self.furthest(now))
    }

    fn furthest(&self, now: Moment) -> i64 {
        now.0
            .saturating_add(self.span(self.burst).saturating_mul(2))
    }

    /// In how many nanoseconds so much comes. Rounded down: many small ones never take longer than
    /// their sum.
    fn span(&self, amount: u64) -> i64 {
        let span = u128::from(amount) * u128::from(self.window_ns) / u128::from(self.count);
        // At most a hundred years, so that sums of a few stay in range.
        const MAX: u128 = 100 * 365 * 24 * 3600 * 1_000_000_000;
        span.min(MAX) as i64
    }
}

// === impl Moment ===

impl Moment {
    /// The clock's time.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// That much later.
    pub fn plus(self, time: Duration) -> Self {
        let time = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(time))
    }

    /// Nanoseconds since 1970.
    pub fn unix_ns(self) -> i64 {
        self.0
    }
}

impl From<DateTime<Utc>> for Moment {
    fn from(time: DateTime<Utc>) -> Self {
        SystemTime::from(time).into()
    }
}

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    const START: Moment = Moment(1_800_000_000_000_000_000);

    fn minute(count: u64) -> Rate {
        Rate::per_minute(count, 0).unwrap()
    }

    #[track_caller]
    fn wait(late: Result<(), Late>) -> Duration {
        match late {
            Err(Late::For(wait)) => wait,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_burst_goes_through_and_one_past_it_is_told_when_to_come_back() {
        for count in [1, 7, 60, 600, 100_000] {
            let (rate, cell) = (minute(count), AtomicI64::new(0));
            for number in 0..count {
                assert_eq!(rate.take(&cell, 1, START), Ok(()), "{number} of {count}");
            }
            let wait = wait(rate.take(&cell, 1, START));
            let early = START.plus(wait - Duration::from_nanos(1));
            assert!(rate.take(&cell, 1, early).is_err(), "{count}");
            assert_eq!(rate.take(&cell, 1, START.plus(wait)), Ok(()), "{count}");
            assert!(rate.take(&cell, 1, START.plus(wait)).is_err(), "{count}");
        }
    }

    #[test]
    fn what_is_more_than_the_burst_never_comes() {
        let (rate, cell) = (minute(10), AtomicI64::new(0));
        assert_eq!(rate.take(&cell, 11, START), Err(Late::Never));
        assert_eq!(rate.take(&cell, 10, START), Ok(()));
        let small = Rate::per_minute(10, 3).unwrap();
        assert_eq!(small.take(&AtomicI64::new(0), 4, START), Err(Late::Never));
        assert_eq!(small.level(&AtomicI64::new(0), START).remaining, 3);
    }

    #[test]
    fn what_is_given_back_is_there_again_and_what_was_used_beyond_is_owed() {
        let (rate, cell) = (minute(1000), AtomicI64::new(0));
        rate.take(&cell, 900, START).unwrap();
        rate.give(&cell, 500);
        assert_eq!(rate.level(&cell, START).remaining, 600);
        rate.charge(&cell, 700, START);
        assert_eq!(rate.level(&cell, START).remaining, 0);
        // 1100 are owed of 1000: a hundred and one come in 6.06 seconds.
        let wait = wait(rate.take(&cell, 1, START));
        assert_eq!(wait, Duration::from_millis(6060));
        rate.charge(&cell, u64::MAX, START);
        let level = rate.level(&cell, START);
        assert_eq!(
            level.full_in,
            Duration::from_secs(120),
            "a second bucket at most"
        );
        // What was never taken can't be given: a full bucket is full.
        rate.give(&cell, 1_000_000);
        assert_eq!(rate.level(&cell, START).remaining, 1000);
        assert!(rate.take(&cell, 1001, START).is_err());
    }

    #[test]
    fn a_clock_that_steps_back_locks_nobody_out_for_long() {
        let (rate, cell) = (minute(10), AtomicI64::new(0));
        let later = START.plus(Duration::from_secs(86_400));
        (0..10).for_each(|_| rate.take(&cell, 1, later).unwrap());
        let wait = wait(rate.take(&cell, 1, START));
        assert!(wait <= Duration::from_secs(66), "{wait:?}");
        assert!(rate.take(&cell, 1, START.plus(wait)).is_ok() || wait > Duration::ZERO);
    }

    #[test]
    fn whoever_waits_as_told_gets_in_and_nobody_gets_more_than_the_rate_allows() {
        for seed in 0..200 {
            let mut chance = SmallRng::seed_from_u64(seed);
            let count = chance.random_range(1..5_000);
            let burst = chance.random_range(1..5_000);
            let rate = Rate::per_minute(count, burst).unwrap();
            let cell = AtomicI64::new(0);
            let (mut now, mut taken) = (START, 0);
            for _ in 0..300 {
                let amount = chance.random_range(1..=burst);
                if let Err(late) = rate.take(&cell, amount, now) {
                    let wait = wait(Err(late));
                    now = now.plus(wait);
                    assert_eq!(rate.take(&cell, amount, now), Ok(()), "seed {seed}");
                }
                taken += amount;
                let passed = (now.0 - START.0) as f64 / 60e9;
                let most = burst as f64 + passed * count as f64 + 1.0;
                assert!(taken as f64 <= most, "seed {seed}: {taken} of {most}");
                now = now.plus(Duration::from_micros(chance.random_range(0..2_000_000)));
            }
        }
    }

    #[test]
    fn threads_take_exactly_what_there_is() {
        let (rate, cell) = (minute(1000), AtomicI64::new(0));
        let one = |_: &u32| rate.take(&cell, 1, START).is_ok();
        let taken: usize = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..400).filter(one).count()))
                .collect();
            all.into_iter().map(|it| it.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }

    #[test]
    fn fractions_of_a_second_are_kept() {
        let rate = Rate::per_second(0.5, 1);
        let cell = AtomicI64::new(0);
        rate.take(&cell, 1, START).unwrap();
        assert_eq!(wait(rate.take(&cell, 1, START)), Duration::from_secs(2));
        let rate = Rate::per_second(1e6, 10);
        let cell = AtomicI64::new(0);
        rate.take(&cell, 10, START).unwrap();
        assert_eq!(wait(rate.take(&cell, 1, START)), Duration::from_micros(1));
    }
}
