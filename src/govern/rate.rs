//! How fast something may come: the generic cell rate algorithm (ITU-T I.371, annex A), on numbers that
//! several processes may share. It knows neither requests nor tokens. Time is an argument.
//!
//! The first number is the *theoretical arrival time*: the moment, in nanoseconds of Unix time, at which
//! the bucket will be full again. What lies in the past says as much as 0.
//!
//! ```text
//!          now ├────── taken ──────┤ moment      ├─ what is still there ─┤
//!              ├────────────────────── burst ────────────────────────────┤
//! ```
//!
//! *What is given back* must not come twice: once by itself, in time, and once more as a gift. So a part
//! that the bucket has filled up again meanwhile isn't given back; of all that was taken, what was taken
//! first fills up first.
//!
//! *What was used beyond what was taken* is a debt, and is paid off whole, by waiting, at the rate that
//! holds while it is paid. What goes beyond a second bucket is kept as an amount of its own, so that a
//! clock that steps back is told from a debt: a moment that lies further ahead than twice the burst is
//! taken for one that lies there. Nobody owes more than comes in a day: what an upstream says that was
//! used may be wrong.

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

/// The numbers of one rate. All are 0 in the beginning.
#[derive(Clone, Copy, Debug)]
pub struct Bucket<'c> {
    /// The moment at which all that is taken will have come again: nanoseconds of Unix time.
    pub full_at: &'c AtomicI64,
    /// What is owed beyond that moment: an amount; with a mark while it is moved there.
    pub owed: &'c AtomicI64,
    /// All that was ever given back: nanoseconds, modulo 2^64.
    pub given: &'c AtomicI64,
}

/// The numbers of a rate that this process has for itself.
#[derive(Debug, Default)]
pub struct Cells {
    /// See [`Bucket::full_at`].
    pub full_at: AtomicI64,
    /// See [`Bucket`].
    pub owed: AtomicI64,
    /// See [`Bucket::given`].
    pub given: AtomicI64,
}

/// Something that was taken and may be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lot {
    /// When it will have come again.
    full_at: i64,
    /// What was given back before.
    given: i64,
}

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

/// Somebody makes what is owed a part of the moment, which takes nanoseconds.
const MOVING: i64 = 1 << 62;

// === impl Bucket ===

impl Bucket<'_> {
    fn owed(self) -> i64 {
        self.owed.load(Ordering::SeqCst) & !MOVING
    }

    /// Whoever was moving what is owed is gone, since nobody else is there.
    pub fn forget_mover(self) {
        // Looked at first: what is only read needs no page of the disk.
        if self.owed.load(Ordering::SeqCst) & MOVING != 0 {
            self.owed.fetch_and(!MOVING, Ordering::SeqCst);
        }
    }
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

    /// Takes `amount`, or nothing, of a rate to which nothing is given back and nothing is owed.
    ///
    /// # Errors
    /// How long it must wait: who comes after that finds room, unless others came first.
    pub fn take(&self, cell: &AtomicI64, amount: u64, now: Moment) -> Result<(), Late> {
        self.take_beside(cell, 0, amount, now).map(drop)
    }

    /// Takes `amount`, or nothing.
    ///
    /// # Errors
    /// As [`Rate::take`].
    pub fn reserve(&self, bucket: Bucket<'_>, amount: u64, now: Moment) -> Result<Lot, Late> {
        self.begin_to_pay(bucket, now);
        // Before the moment: what is given back between them then counts as given later, which gives
        // less back of this.
        let given = bucket.given.load(Ordering::SeqCst);
        let owed = bucket.owed();
        let full_at = self.take_beside(bucket.full_at, owed, amount, now)?;
        Ok(Lot { full_at, given })
    }

    /// Answers with the moment at which all will have come, what is owed too.
    fn take_beside(
        &self,
        cell: &AtomicI64,
        owed: i64,
        amount: u64,
        now: Moment,
    ) -> Result<i64, Late> {
        let mut answer = Err(Late::Never);
        let _ = cell.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |full_at| {
            answer = self.after(full_at, owed, amount, now);
            Some(answer.ok()?.saturating_sub(self.span_of(owed)))
        });
        answer
    }

    /// What [`Rate::reserve`] would say.
    ///
    /// # Errors
    /// As there.
    pub fn look(&self, bucket: Bucket<'_>, amount: u64, now: Moment) -> Result<(), Late> {
        let owed = bucket.owed();
        let full_at = bucket.full_at.load(Ordering::SeqCst);
        self.after(full_at, owed, amount, now).map(drop)
    }

    fn after(&self, full_at: i64, owed: i64, amount: u64, now: Moment) -> Result<i64, Late> {
        if amount > self.burst {
            return Err(Late::Never);
        }
        let base = self.base(full_at, owed, now);
        let next = base.saturating_add(self.span(amount));
        let last = now.0.saturating_add(self.span(self.burst));
        if next <= last {
            return Ok(next);
        }
        let wait = u64::try_from(next.saturating_sub(last)).unwrap_or(u64::MAX);
        Err(Late::For(Duration::from_nanos(wait)))
    }

    /// Gives back what was taken with the lot and not used, as far as it hasn't come by itself.
    pub fn give(&self, bucket: Bucket<'_>, lot: Lot, amount: u64, now: Moment) {
        let span = self.span(amount);
        // What was given back since has moved the lot forward, or others behind it: which isn't known.
        let left = |given: i64| {
            let moved = given.wrapping_sub(lot.given).max(0);
            let last = lot.full_at.saturating_sub(moved);
            Some(span.min(last.saturating_sub(now.0))).filter(|left| *left > 0)
        };
        let noted = |given: i64| Some(given.wrapping_add(left(given)?));
        let before = (bucket.given).fetch_update(Ordering::SeqCst, Ordering::SeqCst, noted);
        let Some(back) = before.ok().and_then(left) else {
            return;
        };
        let owed = self.span_of(bucket.owed());
        let past = now.0.saturating_sub(owed);
        let earlier = |full_at: i64| Some(full_at.saturating_sub(back).max(full_at.min(past)));
        let _ = (bucket.full_at).fetch_update(Ordering::SeqCst, Ordering::SeqCst, earlier);
    }

    /// Takes what was used beyond what was thought, whether it is there or not.
    pub fn charge(&self, bucket: Bucket<'_>, amount: u64, now: Moment) {
        self.begin_to_pay(bucket, now);
        let owed = bucket.owed();
        let mut is_beyond = false;
        let more = |full_at: i64| {
            let base = self.base(full_at, owed, now);
            let next = base.saturating_add(self.span(amount));
            is_beyond = owed > 0 || next > self.furthest(now);
            Some(match owed {
                _ if !is_beyond => next.saturating_sub(self.span_of(owed)),
                // What has passed pays nothing that is owed from now on.
                0 => base,
                _ => full_at,
            })
        };
        // The closure always answers.
        let _ = (bucket.full_at).fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        if is_beyond {
            let amount = i64::try_from(amount).unwrap_or(i64::MAX);
            let more = |found: i64| {
                let (owed, moving) = (found & !MOVING, found & MOVING);
                let most = self.owed_max().cast_signed().max(owed);
                Some(owed.saturating_add(amount).min(most) | moving)
            };
            let _ = (bucket.owed).fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        }
    }

    /// How it stands.
    pub fn level(&self, bucket: Bucket<'_>, now: Moment) -> Level {
        let owed = bucket.owed();
        let full_at = bucket.full_at.load(Ordering::SeqCst);
        let ahead = self.base(full_at, owed, now).saturating_sub(now.0);
        let free = self.span(self.burst).saturating_sub(ahead).max(0);
        let remaining =
            u128::from(free.unsigned_abs()) * u128::from(self.count) / u128::from(self.window_ns);
        Level {
            remaining: u64::try_from(remaining).unwrap_or(u64::MAX).min(self.burst),
            full_in: Duration::from_nanos(ahead.unsigned_abs()),
        }
    }

    /// What is owed is a part of the moment again as soon as there is room for it: so long it says how
    /// much there is to wait for, and what that is depends on the rate.
    ///
    /// One of those that come at once moves it, who marks it first. First the moment: between the two it
    /// is owed twice, and who comes then waits, but never finds too much.
    fn begin_to_pay(&self, bucket: Bucket<'_>, now: Moment) {
        let owed = bucket.owed.load(Ordering::SeqCst);
        if owed <= 0 || owed & MOVING != 0 {
            return;
        }
        let (span, furthest) = (self.span(owed.unsigned_abs()), self.furthest(now));
        let full_at = bucket.full_at.load(Ordering::SeqCst);
        if full_at.min(furthest).saturating_add(span) > furthest {
            return;
        }
        let moving = owed | MOVING;
        let marked =
            (bucket.owed).compare_exchange(owed, moving, Ordering::SeqCst, Ordering::SeqCst);
        if marked.is_ok() {
            let later = |full_at: i64| Some(full_at.min(furthest).saturating_add(span));
            // The closure always answers.
            let _ = (bucket.full_at).fetch_update(Ordering::SeqCst, Ordering::SeqCst, later);
            bucket.owed.fetch_sub(moving, Ordering::SeqCst);
        }
    }

    /// The moment at which all would be there again, as far as it can be believed.
    fn base(&self, full_at: i64, owed: i64, now: Moment) -> i64 {
        let full_at = full_at.min(self.furthest(now));
        full_at.saturating_add(self.span_of(owed)).max(now.0)
    }

    fn furthest(&self, now: Moment) -> i64 {
        now.0
            .saturating_add(self.span(self.burst).saturating_mul(2))
    }

    /// The most that can be owed: what comes in a day.
    pub fn owed_max(&self) -> u64 {
        const DAY_NS: u128 = 24 * 3600 * 1_000_000_000;
        let max = DAY_NS * u128::from(self.count) / u128::from(self.window_ns);
        max.min((MOVING - 1).unsigned_abs().into()) as u64
    }

    /// As [`Rate::span`], of what is owed.
    fn span_of(&self, owed: i64) -> i64 {
        self.span(owed.max(0).unsigned_abs())
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

// === impl Cells ===

impl Cells {
    /// The same, as a rate wants them.
    pub fn bucket(&self) -> Bucket<'_> {
        Bucket {
            full_at: &self.full_at,
            owed: &self.owed,
            given: &self.given,
        }
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
        assert_eq!(small.level(Cells::default().bucket(), START).remaining, 3);
    }

    #[test]
    fn what_is_given_back_is_there_again_and_what_was_used_beyond_is_owed() {
        let (rate, cells) = (minute(1000), Cells::default());
        let bucket = cells.bucket();
        let lot = rate.reserve(bucket, 900, START).unwrap();
        rate.give(bucket, lot, 500, START);
        assert_eq!(rate.level(bucket, START).remaining, 600);
        rate.charge(bucket, 700, START);
        assert_eq!(rate.level(bucket, START).remaining, 0);
        // 1100 are owed of 1000: a hundred and one come in 6.06 seconds.
        let wait = wait(rate.reserve(bucket, 1, START).map(drop));
        assert_eq!(wait, Duration::from_millis(6060));
    }

    #[test]
    fn a_bucket_that_has_filled_up_again_takes_nothing_back() {
        let (rate, cells) = (minute(100), Cells::default());
        let bucket = cells.bucket();
        let lot = rate.reserve(bucket, 100, START).unwrap();
        let minute_later = START.plus(Duration::from_secs(60));
        assert!(rate.reserve(bucket, 100, minute_later).is_ok());
        rate.give(bucket, lot, 100, minute_later);
        assert!(
            rate.look(bucket, 1, minute_later).is_err(),
            "it came already"
        );
        // Of what is half there again half can be given back.
        let lot = rate.reserve(bucket, 100, minute_later.plus(Duration::from_secs(60)));
        let half_later = START.plus(Duration::from_secs(150));
        rate.give(bucket, lot.unwrap(), 100, half_later);
        assert_eq!(rate.level(bucket, half_later).remaining, 100);
        assert!(rate.reserve(bucket, 100, half_later).is_ok());
        assert!(rate.look(bucket, 1, half_later).is_err());
    }

    #[test]
    fn what_others_gave_back_comes_sooner_by_itself() {
        let (rate, cells) = (Rate::per_minute(100, 200).unwrap(), Cells::default());
        let bucket = cells.bucket();
        let first = rate.reserve(bucket, 100, START).unwrap();
        let second = rate.reserve(bucket, 100, START).unwrap();
        // The second lot comes where the first one would have come: within a minute.
        rate.give(bucket, first, 100, START);
        let later = START.plus(Duration::from_secs(100));
        assert!(rate.reserve(bucket, 200, later).is_ok());
        rate.give(bucket, second, 100, later);
        assert!(rate.look(bucket, 1, later).is_err());
    }

    #[test]
    fn what_is_owed_is_paid_off_whole_and_whoever_waits_as_told_gets_in() {
        let (rate, cells) = (minute(1000), Cells::default());
        let bucket = cells.bucket();
        let lot = rate.reserve(bucket, 1000, START).unwrap();
        // Twelve buckets more than was thought, in parts.
        for _ in 0..4 {
            rate.charge(bucket, 3000, START);
        }
        let minutes = |count: u64| Duration::from_secs(60 * count);
        assert_eq!(rate.level(bucket, START).full_in, minutes(13));
        assert_eq!(rate.level(bucket, START).remaining, 0);
        assert_eq!(rate.look(bucket, 1000, START), Err(Late::For(minutes(13))));
        // Nobody has asked for an hour, but for one that is told the rest of it.
        let later = START.plus(minutes(5));
        assert_eq!(rate.level(bucket, later).full_in, minutes(8));
        let told = wait(rate.reserve(bucket, 500, later).map(drop));
        assert_eq!(told, Duration::from_secs(7 * 60 + 30));
        // Nothing of it is given back by whoever used more than was thought.
        rate.give(bucket, lot, 0, later);
        let early = later.plus(told - Duration::from_nanos(1));
        assert!(rate.reserve(bucket, 500, early).is_err());
        assert!(rate.reserve(bucket, 500, later.plus(told)).is_ok());
        assert!(rate.reserve(bucket, 1, later.plus(told)).is_err());
        // All was paid, and none of it twice.
        let over = START.plus(minutes(60));
        assert_eq!(rate.level(bucket, over).full_in, Duration::ZERO);
        assert!(rate.reserve(bucket, 1000, over).is_ok());
        assert!(rate.reserve(bucket, 1, over).is_err());
    }

    #[test]
    fn a_debt_is_paid_at_the_rate_of_the_day_and_is_a_days_worth_at_most() {
        let (slow, fast, cells) = (minute(100), minute(10_000), Cells::default());
        let bucket = cells.bucket();
        slow.charge(bucket, 10_000, START);
        let level = slow.level(bucket, START).full_in;
        assert_eq!(level, Duration::from_secs(100 * 60));
        let level = fast.level(bucket, START).full_in;
        assert_eq!(level, Duration::from_secs(60), "the limit was raised");
        slow.charge(bucket, u64::MAX, START);
        slow.charge(bucket, u64::MAX, START);
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(slow.level(bucket, START).full_in, day);
        assert!(slow.reserve(bucket, 100, START.plus(day)).is_ok());
    }

    /// What a request took, used in the end, and when.
    struct Taken {
        at: Moment,
        lot: Lot,
        taken: u64,
        used: u64,
        ends: Moment,
        over: bool,
    }

    #[test]
    fn in_no_stretch_of_time_more_is_used_than_the_burst_and_what_came() {
        for seed in 0..300 {
            let mut chance = SmallRng::seed_from_u64(seed);
            let count = chance.random_range(1..100_000);
            let burst = chance.random_range(1..100_000);
            let rate = Rate::per_minute(count, burst).unwrap();
            let cells = Cells::default();
            let bucket = cells.bucket();
            let longest = chance.random_range(1..200_000_000);
            let pause = chance.random_range(1..10_000_000);
            let (mut now, mut all) = (START, Vec::<Taken>::new());
            for _ in 0..150 {
                now = now.plus(Duration::from_micros(chance.random_range(0..pause)));
                for it in all.iter_mut().filter(|it| !it.over && it.ends <= now) {
                    rate.give(bucket, it.lot, it.taken - it.used, now);
                    it.over = true;
                }
                let taken = chance.random_range(1..=burst);
                if let Ok(lot) = rate.reserve(bucket, taken, now) {
                    let used = chance.random_range(0..=taken);
                    let lasts = Duration::from_micros(chance.random_range(0..longest));
                    let ends = now.plus(lasts);
                    all.push(Taken {
                        at: now,
                        lot,
                        taken,
                        used,
                        ends,
                        over: false,
                    });
                }
            }
            for (first, from) in all.iter().enumerate() {
                let mut used = 0;
                for to in &all[first..] {
                    used += to.used;
                    let passed = (to.at.0 - from.at.0) as f64 / 60e9;
                    let most = burst as f64 + passed * count as f64 + 1.0;
                    assert!(used as f64 <= most, "seed {seed}: {used} of {most}");
                }
            }
        }
    }

    #[test]
    fn what_requests_dont_use_is_there_for_others_while_many_come() {
        // Each takes ten times what it uses, for five seconds, as often as it may.
        let (rate, cells) = (minute(60_000), Cells::default());
        let bucket = cells.bucket();
        let (mut now, mut open, mut used) = (START, std::collections::VecDeque::new(), 0);
        let end = START.plus(Duration::from_secs(600));
        while now < end {
            while let Some((lot, ends)) = open.front().copied()
                && ends <= now
            {
                rate.give(bucket, lot, 900, now);
                open.pop_front();
            }
            while let Ok(lot) = rate.reserve(bucket, 1000, now) {
                open.push_back((lot, now.plus(Duration::from_secs(5))));
                used += 100;
            }
            now = now.plus(Duration::from_millis(100));
        }
        assert!((600_000..=660_000).contains(&used), "{used}");
    }

    #[test]
    fn threads_that_begin_to_pay_at_once_lose_nothing() {
        let rate = minute(1000);
        for _ in 0..500 {
            let cells = Cells::default();
            let charge = || rate.charge(cells.bucket(), 1500, START);
            std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(charge))));
            let full_in = |now| rate.level(cells.bucket(), now).full_in;
            assert_eq!(full_in(START), Duration::from_secs(720));
            let later = START.plus(Duration::from_secs(700));
            let ask = || assert!(rate.reserve(cells.bucket(), 900, later).is_err());
            std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(ask))));
            assert_eq!(full_in(later), Duration::from_secs(20));
            assert_eq!(cells.owed.load(Ordering::SeqCst), 0);
        }
    }

    #[test]
    fn what_somebody_was_moving_who_died_is_owed_and_is_moved_when_he_is_forgotten() {
        let (rate, cells) = (minute(1000), Cells::default());
        let bucket = cells.bucket();
        (0..2).for_each(|_| rate.charge(bucket, 1500, START));
        cells.owed.fetch_or(MOVING, Ordering::SeqCst);
        rate.charge(bucket, 500, START);
        let full_in = |now| rate.level(bucket, now).full_in;
        assert_eq!(full_in(START), Duration::from_secs(210));
        bucket.forget_mover();
        assert_eq!(full_in(START), Duration::from_secs(210));
        let later = START.plus(Duration::from_secs(180));
        assert!(rate.reserve(bucket, 501, later).is_err());
        assert!(rate.reserve(bucket, 500, later).is_ok());
        assert_eq!(cells.owed.load(Ordering::SeqCst), 0);
        assert_eq!(full_in(later), Duration::from_secs(60));
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
