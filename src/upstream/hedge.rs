//! When a request is worth a second call: not before it has taken longer than its like, and not more
//! often than its route allows. Pure: time is an argument. Asked by `proxy::call`; one for each route
//! that wants it, and what it has learnt survives a reload.

use super::settings::{self, After};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A route's hedging.
#[derive(Debug)]
pub struct Hedge {
    settings: settings::Hedge,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What requests have earned and hedges haven't spent, in millionths of a hedge.
    credit_millionths: u64,
    /// When an answer came, and how long it had taken; the oldest first.
    seen: VecDeque<(Instant, Duration)>,
    /// Answers since the threshold was worked out.
    unread: usize,
    threshold: Option<Duration>,
}

/// Latencies that are remembered.
const SAMPLES_MAX: usize = 1000;
/// With fewer nothing is known of a percentile.
pub const SAMPLES_MIN: usize = 100;
/// Older latencies say nothing of now.
const WINDOW: Duration = Duration::from_secs(300);
/// A percentile is worked out again after so many answers.
const UNREAD_MAX: usize = 16;
/// Hedges that can be saved up: a route that was quiet for a day doesn't hedge everything for a minute.
const SAVED_MAX: u64 = 10;
const ONE: u64 = 1_000_000;

impl Hedge {
    /// Hedging as `settings` say, with what `old` has learnt.
    pub fn new(settings: settings::Hedge, old: Option<&Self>) -> Self {
        let state = old.map(|old| Arc::clone(&old.state));
        Self {
            settings,
            state: state.unwrap_or_default(),
        }
    }

    /// A request begins. How long its call may take before a second one is made; `None` where too
    /// little is known to say.
    pub fn begin(&self, now: Instant) -> Option<Duration> {
        let mut state = self.state.lock();
        let earned = state.credit_millionths + u64::from(self.settings.max_millionths);
        state.credit_millionths = earned.min(SAVED_MAX * ONE);
        match self.settings.after {
            After::Time(time) => Some(time),
            After::Percentile(percentile) => state.threshold(percentile, now),
        }
    }

    /// Leave to make a second call, where the route has one left.
    pub fn spend(&self) -> bool {
        let mut state = self.state.lock();
        let left = state.credit_millionths.checked_sub(ONE);
        state.credit_millionths = left.unwrap_or(state.credit_millionths);
        left.is_some()
    }

    /// A first call was answered well after this long, or was given up then for a second one.
    pub fn learn(&self, latency: Duration, now: Instant) {
        let mut state = self.state.lock();
        if state.seen.len() == SAMPLES_MAX {
            state.seen.pop_front();
        }
        state.seen.push_back((now, latency));
        state.unread += 1;
    }
}

impl State {
    fn threshold(&mut self, percentile: u8, now: Instant) -> Option<Duration> {
        let before = self.seen.len();
        let is_old = |(at, _): &(Instant, _)| now.saturating_duration_since(*at) > WINDOW;
        while self.seen.front().is_some_and(is_old) {
            self.seen.pop_front();
        }
        if self.seen.len() < SAMPLES_MIN {
            return None;
        }
        if self.unread >= UNREAD_MAX || self.seen.len() != before || self.threshold.is_none() {
            self.unread = 0;
            let mut all: Vec<Duration> = self.seen.iter().map(|(_, latency)| *latency).collect();
            let rank = (all.len() * usize::from(percentile)).div_ceil(100).max(1) - 1;
            self.threshold = Some(*all.select_nth_unstable(rank).1);
        }
        self.threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    fn hedge(after: After, max_millionths: u32) -> Hedge {
        let settings = settings::Hedge {
            after,
            max_millionths,
        };
        Hedge::new(settings, None)
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_percentile_is_known_when_there_are_enough_of_it() {
        let (hedge, now) = (hedge(After::Percentile(95), 50_000), Instant::now());
        for number in 1..SAMPLES_MIN {
            hedge.learn(MS * u32::try_from(number).unwrap(), now);
        }
        assert_eq!(hedge.begin(now), None, "one too few");
        hedge.learn(MS * 100, now);
        assert_eq!(hedge.begin(now), Some(MS * 95));
        assert_eq!(hedge.begin(now + WINDOW), Some(MS * 95), "at the end");
        assert_eq!(hedge.begin(now + WINDOW + MS), None, "forgotten");
    }

    #[test]
    fn the_latest_answers_count() {
        let (hedge, now) = (hedge(After::Percentile(50), 50_000), Instant::now());
        for _ in 0..SAMPLES_MAX {
            hedge.learn(MS, now);
        }
        assert_eq!(hedge.begin(now), Some(MS));
        for _ in 0..SAMPLES_MAX {
            hedge.learn(MS * 9, now);
        }
        assert_eq!(hedge.begin(now), Some(MS * 9));
        assert_eq!(hedge.state.lock().seen.len(), SAMPLES_MAX);
    }

    /// Whatever the order in which requests and slow calls come.
    #[test]
    fn there_are_never_more_hedges_than_the_share_of_requests() {
        for seed in 0..50 {
            let mut chance = StdRng::seed_from_u64(seed);
            let share = chance.random_range(1..=1_000_000);
            let hedge = hedge(After::Time(MS), share);
            let now = Instant::now();
            let (mut requests, mut hedges) = (0_u64, 0_u64);
            for _ in 0..5000 {
                if chance.random_bool(0.5) {
                    assert_eq!(hedge.begin(now), Some(MS));
                    requests += 1;
                } else if hedge.spend() {
                    hedges += 1;
                }
                assert!(
                    hedges * ONE <= requests * u64::from(share),
                    "seed {seed}: {hedges} of {requests} at {share} millionths"
                );
            }
            assert!(hedges > 0 || share < 1000, "seed {seed}: none at {share}");
        }
    }

    #[test]
    fn little_is_saved_up_and_a_reload_keeps_what_is() {
        let old = hedge(After::Time(MS), 100_000);
        for _ in 0..10_000 {
            old.begin(Instant::now());
        }
        let settings = settings::Hedge {
            after: After::Time(MS),
            max_millionths: 1,
        };
        let new = Hedge::new(settings, Some(&old));
        let spent = std::iter::repeat_with(|| new.spend()).take_while(|it| *it);
        assert_eq!(spent.count(), 10);
        assert!(!old.spend(), "it is the same purse");
    }
}
