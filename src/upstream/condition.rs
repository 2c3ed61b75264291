//! What is known of an endpoint, and of the account at its provider: whether it may be asked, how
//! soon it answers, what share it gets. All configurations that know an endpoint share it.

use super::balance::{Standing, UNIT};
use super::breaker::{self, Event, Look, Pass, Rules};
use super::health::Health;
use super::pace::Pace;
use super::settings;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// An endpoint's condition.
#[derive(Debug)]
pub(super) struct Condition {
    /// Nothing is wrong: whoever only looks needn't lock.
    fine: AtomicBool,
    known: Mutex<Known>,
    pace: Mutex<Option<Pace>>,
}

#[derive(Debug)]
struct Known {
    breaker: breaker::State,
    health: Health,
    /// When it is asked whether it lives again.
    asked_again: Option<Instant>,
    /// It said that it has no time until then.
    rests_until: Option<Instant>,
    /// It came back then.
    back_since: Option<Instant>,
}

/// What a condition is judged by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Terms {
    /// `None` pauses nothing.
    pub breaker: Option<Rules>,
    pub slow_start: Duration,
}

/// Something has changed that somebody may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Opened { until: Instant },
    Closed,
    Up,
    Down,
}

/// An endpoint may say that it has no time for this long at most.
const REST_MAX: Duration = Duration::from_secs(60);

impl Condition {
    /// Of an endpoint of which nothing is known; one that others were there before begins slowly.
    pub(super) fn new(joins: bool, now: Instant) -> Self {
        Self {
            fine: AtomicBool::new(!joins),
            known: Mutex::new(Known {
                breaker: breaker::State::new(now),
                health: Health::default(),
                asked_again: None,
                rests_until: None,
                back_since: joins.then_some(now),
            }),
            pace: Mutex::default(),
        }
    }

    /// How it stands, and its share in thousandths.
    pub(super) fn standing(&self, terms: &Terms, now: Instant) -> (Standing, i64) {
        if self.fine.load(Ordering::Relaxed) {
            return (Standing::Fine, UNIT);
        }
        let mut known = self.known.lock();
        let share = known.share(terms, now);
        let standing = match known.wait(terms, now) {
            Some(_) => Standing::Paused,
            None if known.rests_until.is_some_and(|until| now < until) => Standing::Resting,
            None => Standing::Fine,
        };
        self.fine.store(known.is_fine(now), Ordering::Relaxed);
        (standing, share)
    }

    /// How long it isn't asked from now on; `None` where it is.
    pub(super) fn wait(&self, terms: &Terms, now: Instant) -> Option<Duration> {
        match self.fine.load(Ordering::Relaxed) {
            true => None,
            false => self.known.lock().wait(terms, now),
        }
    }

    /// Lets a try through, if one may be.
    pub(super) fn enter(&self, terms: &Terms, now: Instant) -> Option<Pass> {
        if self.fine.load(Ordering::Relaxed) {
            return Some(Pass::Free);
        }
        let mut known = self.known.lock();
        if !known.health.is_up() {
            return None;
        }
        match &terms.breaker {
            None => Some(Pass::Free),
            Some(rules) => known.step(now, |breaker| breaker.enter(rules, now)),
        }
    }

    /// Takes note of what became of a try.
    pub(super) fn handle(
        &self,
        terms: &Terms,
        pass: Pass,
        event: Event,
        who: usize,
        now: Instant,
        chance: f64,
    ) -> Option<Change> {
        let rules = terms.breaker.as_ref()?;
        let mut known = self.known.lock();
        let before = Before::of(&known.breaker);
        known.step(now, |breaker| {
            (
                breaker.handle(rules, pass, event, who, now, chance),
                Some(()),
            )
        });
        let change = before.change(&known.breaker);
        if change == Some(Change::Closed) {
            known.back_since = Some(now);
        }
        self.fine.store(known.is_fine(now), Ordering::Relaxed);
        change
    }

    /// The head of its answer came after this long.
    pub(super) fn measured(&self, after: Duration, now: Instant) {
        let mut pace = self.pace.lock();
        *pace = Some(match *pace {
            Some(pace) => pace.measured(after, now),
            None => Pace::first(after, now),
        });
    }

    /// How soon it answers, where that was ever measured.
    pub(super) fn pace(&self) -> Option<Pace> {
        *self.pace.lock()
    }

    /// It said that it has no time for this long.
    pub(super) fn rests(&self, time: Duration, now: Instant) {
        let mut known = self.known.lock();
        let until = now + time.min(REST_MAX);
        known.rests_until = known.rests_until.max(Some(until));
        self.fine.store(known.is_fine(now), Ordering::Relaxed);
    }

    /// It was asked whether it lives.
    pub(super) fn told(
        &self,
        good: bool,
        rules: &settings::Health,
        now: Instant,
    ) -> Option<Change> {
        let mut known = self.known.lock();
        let before = known.health.is_up();
        known.health = known.health.told(good, rules);
        known.asked_again = Some(now + rules.interval);
        let change = match (before, known.health.is_up()) {
            (true, false) => Some(Change::Down),
            (false, true) => {
                known.back_since = Some(now);
                Some(Change::Up)
            }
            _ => None,
        };
        self.fine.store(known.is_fine(now), Ordering::Relaxed);
        change
    }

    /// Nobody asks any more whether it lives.
    pub(super) fn unasked(&self, now: Instant) {
        let mut known = self.known.lock();
        known.health = Health::default();
        known.asked_again = None;
        self.fine.store(known.is_fine(now), Ordering::Relaxed);
    }

    /// No breaker watches it any more.
    pub(super) fn unwatched(&self, now: Instant) {
        let mut known = self.known.lock();
        known.breaker = breaker::State::new(now);
        self.fine.store(known.is_fine(now), Ordering::Relaxed);
    }

    pub(super) fn is_up(&self) -> bool {
        self.known.lock().health.is_up()
    }

    /// The breaker, and until when the endpoint rests.
    pub(super) fn look(&self, terms: &Terms, now: Instant) -> (Look, Option<Instant>) {
        let known = self.known.lock();
        let rests = known.rests_until.filter(|until| now < *until);
        let breaker = terms
            .breaker
            .map_or(Look::Closed, |_| known.breaker.look(now));
        (breaker, rests)
    }
}

impl Known {
    fn step<T>(
        &mut self,
        now: Instant,
        step: impl FnOnce(breaker::State) -> (breaker::State, Option<T>),
    ) -> Option<T> {
        let before = self.breaker.take(now);
        let (after, result) = step(before);
        self.breaker = after;
        result
    }

    fn wait(&self, terms: &Terms, now: Instant) -> Option<Duration> {
        /// An endpoint that isn't well is asked again before long.
        const SOON: Duration = Duration::from_secs(1);
        let rules = terms.breaker.as_ref();
        let paused = rules.and_then(|rules| self.breaker.wait(rules, now));
        if self.health.is_up() {
            return paused;
        }
        let asked = self.asked_again.map_or(SOON, |at| {
            at.saturating_duration_since(now)
                .max(Duration::from_millis(1))
        });
        Some(paused.map_or(asked, |paused| paused.max(asked)))
    }

    /// From a tenth to all of it, in thousandths.
    fn share(&mut self, terms: &Terms, now: Instant) -> i64 {
        let Some(since) = self.back_since else {
            return UNIT;
        };
        let age = now.saturating_duration_since(since);
        if age >= terms.slow_start {
            self.back_since = None;
            return UNIT;
        }
        let part = age.as_secs_f64() / terms.slow_start.as_secs_f64();
        UNIT / 10 + (part * 0.9 * UNIT as f64) as i64
    }

    fn is_fine(&self, now: Instant) -> bool {
        matches!(self.breaker, breaker::State::Closed(_))
            && self.health.is_up()
            && self.rests_until.is_none_or(|until| until <= now)
            && self.back_since.is_none()
    }
}

/// What a breaker was before something happened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Closed,
    Open(Instant),
    HalfOpen,
}

impl Before {
    fn of(state: &breaker::State) -> Self {
        match state {
            breaker::State::Closed(_) => Self::Closed,
            breaker::State::Open { until, .. } => Self::Open(*until),
            breaker::State::HalfOpen { .. } => Self::HalfOpen,
        }
    }

    fn change(self, now: &breaker::State) -> Option<Change> {
        match Self::of(now) {
            after if after == self => None,
            Self::Open(until) => Some(Change::Opened { until }),
            Self::Closed => Some(Change::Closed),
            Self::HalfOpen => None,
        }
    }
}

/// What is known of weir's account at a provider, and of all its endpoints together.
#[derive(Debug)]
pub(super) struct Account {
    fine: AtomicBool,
    known: Mutex<AccountKnown>,
}

#[derive(Debug)]
struct AccountKnown {
    breaker: breaker::State,
    mark: Option<Mark>,
}

/// A provider didn't accept weir's account.
#[derive(Clone, Copy, Debug)]
struct Mark {
    until: Instant,
    lasts: Duration,
}

/// The provider is asked last for this long, and then twice as long each time, up to the second.
const MARK: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));

impl Account {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            fine: AtomicBool::new(true),
            known: Mutex::new(AccountKnown {
                breaker: breaker::State::new(now),
                mark: None,
            }),
        }
    }

    pub(super) fn standing(&self, rules: Option<&Rules>, now: Instant) -> Standing {
        if self.fine.load(Ordering::Relaxed) {
            return Standing::Fine;
        }
        let known = self.known.lock();
        let paused = rules.and_then(|rules| known.breaker.wait(rules, now));
        match paused {
            Some(_) => Standing::Paused,
            None if known.mark.is_some_and(|mark| now < mark.until) => Standing::Unaccepted,
            None => Standing::Fine,
        }
    }

    pub(super) fn wait(&self, rules: Option<&Rules>, now: Instant) -> Option<Duration> {
        match self.fine.load(Ordering::Relaxed) {
            true => None,
            false => rules.and_then(|rules| self.known.lock().breaker.wait(rules, now)),
        }
    }

    pub(super) fn enter(&self, rules: Option<&Rules>, now: Instant) -> Option<Pass> {
        let Some(rules) = rules.filter(|_| !self.fine.load(Ordering::Relaxed)) else {
            return Some(Pass::Free);
        };
        let mut known = self.known.lock();
        let before = known.breaker.take(now);
        let (after, pass) = before.enter(rules, now);
        known.breaker = after;
        pass
    }

    pub(super) fn handle(
        &self,
        rules: Option<&Rules>,
        pass: Pass,
        event: Event,
        who: usize,
        now: Instant,
        chance: f64,
    ) -> Option<Change> {
        let rules = rules?;
        let mut known = self.known.lock();
        let was = Before::of(&known.breaker);
        let before = known.breaker.take(now);
        known.breaker = before.handle(rules, pass, event, who, now, chance);
        let change = was.change(&known.breaker);
        self.fine.store(known.is_fine(), Ordering::Relaxed);
        change
    }

    /// It didn't accept the account: for how long it is asked last, where that is news.
    pub(super) fn unaccepted(&self, now: Instant) -> Option<Duration> {
        let mut known = self.known.lock();
        let lasts = match known.mark {
            Some(mark) if now < mark.until => return None,
            Some(mark) => (mark.lasts * 2).min(MARK.1),
            None => MARK.0,
        };
        known.mark = Some(Mark {
            until: now + lasts,
            lasts,
        });
        self.fine.store(false, Ordering::Relaxed);
        Some(lasts)
    }

    /// It accepted the account; whether that is news.
    pub(super) fn accepted(&self) -> bool {
        if self.fine.load(Ordering::Relaxed) {
            return false;
        }
        let mut known = self.known.lock();
        let news = known.mark.take().is_some();
        self.fine.store(known.is_fine(), Ordering::Relaxed);
        news
    }

    /// No breaker watches it any more.
    pub(super) fn unwatched(&self, now: Instant) {
        let mut known = self.known.lock();
        known.breaker = breaker::State::new(now);
        self.fine.store(known.is_fine(), Ordering::Relaxed);
    }

    /// The breaker, and until when the provider is asked last.
    pub(super) fn look(&self, rules: Option<&Rules>, now: Instant) -> (Look, Option<Instant>) {
        let known = self.known.lock();
        let marked = known.mark.map(|mark| mark.until);
        let breaker = rules.map_or(Look::Closed, |_| known.breaker.look(now));
        (breaker, marked.filter(|until| now < *until))
    }
}

impl AccountKnown {
    fn is_fine(&self) -> bool {
        matches!(self.breaker, breaker::State::Closed(_)) && self.mark.is_none()
    }
}
