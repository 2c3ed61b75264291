//! Whether an endpoint is asked at all: a breaker that opens when too much goes wrong, and lets a few
//! probes find out when that is over. Pure: time and chance are arguments.

mod window;

use super::settings;
use std::time::{Duration, Instant};
use window::Window;

/// When a breaker opens and closes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    of: settings::Breaker,
    /// So many different endpoints must have failed.
    spread: u32,
}

/// What a breaker is at.
///
/// ```text
///                failures, or slow answers: so many, and such a share
///   ┌────────┐ ────────────────────────────────────────────────> ┌──────┐
///   │ Closed │                                                   │ Open │ <─┐
///   └────────┘ <──────┐                                          └──────┘   │
///                     │ `probes` good ones        its time is over, and     │ a bad one: twice as
///                     │                           somebody wants to try     │ long, up to 8 times
///                     │                                          │          │
///                ┌────┴─────┐ <──────────────────────────────────┘          │
///                │ HalfOpen │ ──────────────────────────────────────────────┘
///                └──────────┘
/// ```
#[derive(Clone, Debug)]
pub enum State {
    /// All are let through.
    Closed(Window),
    /// None is.
    Open {
        /// Until then.
        until: Instant,
        /// How often it was opened in a row, from 1.
        times: u32,
    },
    /// A few are, to find out.
    HalfOpen {
        /// Which pause this follows: the probes of an earlier one don't count.
        paused_until: Instant,
        times: u32,
        /// Probes that are under way.
        out: u32,
        /// When the last of them began.
        began: Instant,
        /// Probes that went well.
        good: u32,
    },
}

/// How one was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// As anyone.
    Free,
    /// As a probe after this pause.
    Probe(Instant),
}

/// What became of one that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The head of a usable answer came after this long.
    Good(Duration),
    /// It failed before that.
    Bad,
    /// It failed after that.
    Broken,
    /// Nothing is known of it: the client left, or the endpoint had no time.
    Lost,
}

/// A breaker's state as a word; see [`Look::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// All are let through.
    Closed,
    /// A few are.
    HalfOpen,
    /// None is.
    Open,
}

/// How many times as long a breaker may stay open as at first.
const LONGER_MAX: u32 = 8;

impl Rules {
    /// For one endpoint.
    pub fn of_endpoint(of: settings::Breaker) -> Self {
        Self { of, spread: 1 }
    }

    /// For all endpoints of a provider together: half of them fail, and no other one answers. So one that
    /// fails never takes those with it that do answer.
    pub fn of_provider(of: settings::Breaker, endpoints: usize) -> Option<Self> {
        let half = u32::try_from(endpoints.div_ceil(2)).unwrap_or(u32::MAX);
        let of = settings::Breaker {
            failure_rate: 1.0,
            slow_rate: 1.0,
            ..of
        };
        let spread = half.max(2);
        (endpoints > 1).then_some(Self { of, spread })
    }

    /// How long it stays open the `times`-th time: anything between nine tenths and eleven tenths, so that
    /// those who failed together aren't asked together again.
    fn pause(&self, times: u32, chance: f64) -> Duration {
        let longer = 1_u32 << times.saturating_sub(1).min(LONGER_MAX.ilog2());
        let jitter = 0.9 + 0.2 * chance.clamp(0.0, 1.0);
        self.of.open.saturating_mul(longer).mul_f64(jitter)
    }

    fn is_slow(&self, after: Duration) -> bool {
        !self.of.slow.is_zero() && after > self.of.slow
    }

    fn opens(&self, window: &Window, now: Instant) -> bool {
        let counts = window.counts(self.of.window, now);
        let many = |count: u32, share: f64| {
            count >= self.of.failures && f64::from(count) >= share * f64::from(counts.outcomes)
        };
        let failing = many(counts.failures, self.of.failure_rate);
        let slow = !self.of.slow.is_zero() && many(counts.slow, self.of.slow_rate);
        (failing || slow) && counts.who.count_ones() >= self.spread.min(64)
    }
}

impl State {
    /// Nothing has happened yet.
    pub fn new(now: Instant) -> Self {
        Self::Closed(Window::new(now))
    }

    /// What it is now, in a word.
    pub fn look(&self, now: Instant) -> Look {
        match self {
            Self::Closed(_) => Look::Closed,
            Self::Open { until, .. } if now < *until => Look::Open,
            Self::Open { .. } | Self::HalfOpen { .. } => Look::HalfOpen,
        }
    }

    /// How long nobody is let through from now on; `None` where one is.
    pub fn wait(&self, rules: &Rules, now: Instant) -> Option<Duration> {
        let until = match self {
            Self::Closed(_) => return None,
            Self::Open { until, .. } => *until,
            Self::HalfOpen {
                out, good, began, ..
            } => {
                if out + good < rules.of.probes {
                    return None;
                }
                // A probe of which nothing is heard for so long gives its place up.
                *began + rules.of.open
            }
        };
        let wait = until.saturating_duration_since(now);
        (!wait.is_zero()).then_some(wait)
    }

    /// Lets one through, if one may be.
    pub fn enter(self, rules: &Rules, now: Instant) -> (Self, Option<Pass>) {
        if self.wait(rules, now).is_some() {
            return (self, None);
        }
        let half_open = |paused_until, times, out, good| {
            let state = Self::HalfOpen {
                paused_until,
                times,
                out,
                began: now,
                good,
            };
            (state, Some(Pass::Probe(paused_until)))
        };
        match self {
            Self::Closed(_) => (self, Some(Pass::Free)),
            Self::Open { until, times } => half_open(until, times, 1, 0),
            Self::HalfOpen {
                paused_until,
                times,
                out,
                good,
                ..
            } => {
                let places = rules.of.probes.saturating_sub(good);
                let out = if out < places { out + 1 } else { 1 };
                half_open(paused_until, times, out, good)
            }
        }
    }

    /// What comes of what became of one that was let through. `who` is the place of its endpoint among
    /// those that the breaker watches.
    #[must_use]
    pub fn handle(
        self,
        rules: &Rules,
        pass: Pass,
        event: Event,
        who: usize,
        now: Instant,
        chance: f64,
    ) -> Self {
        let open = |times: u32| Self::Open {
            until: now + rules.pause(times, chance),
            times,
        };
        match self {
            Self::Closed(mut window) => {
                let span = rules.of.window;
                match event {
                    Event::Good(after) => window.good(rules.is_slow(after), who, span, now),
                    Event::Bad => window.bad(who, span, now),
                    Event::Broken => window.broken(who, span, now),
                    Event::Lost => return Self::Closed(window),
                }
                match rules.opens(&window, now) {
                    true => open(1),
                    false => Self::Closed(window),
                }
            }
            // Who was let through before has nothing new to say.
            Self::Open { .. } => self,
            Self::HalfOpen {
                paused_until,
                times,
                out,
                began,
                good,
            } => {
                if pass != Pass::Probe(paused_until) {
                    return self;
                }
                let good = match event {
                    Event::Good(after) if !rules.is_slow(after) => good + 1,
                    Event::Good(_) | Event::Bad | Event::Broken => return open(times + 1),
                    Event::Lost => good,
                };
                match good >= rules.of.probes {
                    true => Self::new(now),
                    false => Self::HalfOpen {
                        paused_until,
                        times,
                        out: out.saturating_sub(1),
                        began,
                        good,
                    },
                }
            }
        }
    }
}

impl Look {
    /// The value of the metric.
    pub fn code(self) -> i64 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
        }
    }

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

#[cfg(test)]
mod tests;
