//! One base URL of one provider: what it is, and what is known of it.

use super::ProviderId;
use super::balance::{Candidate, Standing, UNIT};
use super::breaker::{Event, Look, Pass, Rules};
use super::bulkhead::Bulkhead;
use super::condition::{Account, Change, Condition, Terms};
use super::pace::Pace;
use super::settings;
use crate::observe::Breakers;
use crate::types::BaseUrl;
use http::HeaderValue;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// One base URL of one provider.
#[derive(Debug)]
pub struct Endpoint {
    /// Whose it is.
    pub provider: ProviderId,
    /// Where it is.
    pub base: BaseUrl,
    /// `host:port`: its name in the access log.
    pub name: Arc<str>,
    /// `Host` of requests to it.
    pub host_header: HeaderValue,
    /// What it carries now; survives a reload.
    pub(super) load: Arc<Load>,
    /// How many requests its provider carries, and who waits for that.
    pub(super) bulkhead: Arc<Bulkhead>,
    /// What is known of its provider; survives a reload.
    pub(super) account: Arc<Account>,
    pub(super) provider_name: Arc<str>,
    /// Its place among the provider's.
    pub(super) place: usize,
    pub(super) terms: Terms,
    /// What the provider as a whole is judged by.
    pub(super) provider_rules: Option<Rules>,
    pub(super) health: Option<settings::Health>,
    pub(super) breakers: Breakers,
}

/// What an endpoint carries; shared by all configurations that know it.
#[derive(Debug)]
pub(super) struct Load {
    /// Counted by those who hold a permit.
    pub in_flight: AtomicUsize,
    pub failures: AtomicU64,
    /// When it last refused a request for asking for usage.
    usage_refused: Mutex<Option<Instant>>,
    pub condition: Condition,
}

/// Leave of the breakers to try: the endpoint's, and its provider's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leave {
    endpoint: Pass,
    provider: Pass,
}

/// What is known of an endpoint, for whoever looks.
#[derive(Clone, Debug)]
pub struct Known {
    /// Requests that it carries.
    pub in_flight: usize,
    /// Attempts that failed since the start.
    pub failures: u64,
    /// Its breaker, or that of its provider where that is more open.
    pub breaker: Look,
    /// Whether it answers when it is asked whether it lives; `None` where it isn't asked.
    pub healthy: Option<bool>,
    /// How soon it answers.
    pub first_byte: Option<Duration>,
    /// How long it isn't tried.
    pub paused: Option<Duration>,
    /// How long it is tried after others, for it said that it has no time.
    pub resting: Option<Duration>,
    /// How long its provider is tried after others, for it didn't accept weir's account.
    pub unaccepted: Option<Duration>,
}

/// An endpoint that refused to report usage is asked again after this long: servers are updated.
const USAGE_REFUSED_FOR: Duration = Duration::from_secs(24 * 3600);

impl Load {
    /// Of an endpoint that nobody knows; `joins` where others were there before.
    pub(super) fn new(joins: bool, now: Instant) -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            failures: AtomicU64::new(0),
            usage_refused: Mutex::default(),
            condition: Condition::new(joins, now),
        }
    }
}

impl Endpoint {
    /// Requests that it carries now.
    pub fn in_flight(&self) -> usize {
        self.load.in_flight.load(Ordering::Relaxed)
    }

    /// Attempts that failed since the start.
    pub fn failures(&self) -> u64 {
        self.load.failures.load(Ordering::Relaxed)
    }

    /// Whether it is known to refuse requests that ask for usage.
    pub fn refuses_usage(&self, now: Instant) -> bool {
        let since = *self.load.usage_refused.lock();
        since.is_some_and(|since| now.saturating_duration_since(since) < USAGE_REFUSED_FOR)
    }

    /// Remembers that it refuses requests that ask for usage.
    pub fn usage_refused(&self, now: Instant) {
        *self.load.usage_refused.lock() = Some(now);
    }

    /// How it is asked whether it lives; `None` where it isn't.
    pub fn health(&self) -> Option<&settings::Health> {
        self.health.as_ref()
    }

    /// What is known of it.
    pub fn known(&self, now: Instant) -> Known {
        let condition = &self.load.condition;
        let (own, rests_until) = condition.look(&self.terms, now);
        let rules = self.provider_rules.as_ref();
        let (whole, marked_until) = self.account.look(rules, now);
        let left = |until: Option<Instant>| until.map(|it| it.saturating_duration_since(now));
        let pace = condition.pace();
        Known {
            in_flight: self.in_flight(),
            failures: self.failures(),
            breaker: if whole.code() > own.code() {
                whole
            } else {
                own
            },
            healthy: self.health.as_ref().map(|_| condition.is_up()),
            first_byte: pace.map(|it| Duration::from_secs_f64(it.seconds())),
            paused: self.wait(now),
            resting: left(rests_until),
            unaccepted: left(marked_until),
        }
    }

    /// It was asked whether it lives.
    pub fn told(&self, good: bool, now: Instant) {
        let Some(rules) = &self.health else {
            return;
        };
        let (provider, endpoint) = (&self.provider_name, &self.name);
        match self.load.condition.told(good, rules, now) {
            Some(Change::Down) => tracing::warn!(
                %provider, %endpoint, path = rules.path,
                "an endpoint doesn't answer its health checks and isn't tried until it does"
            ),
            Some(Change::Up) => tracing::info!(
                %provider, %endpoint,
                "an endpoint answers its health checks again"
            ),
            _ => {}
        }
    }

    // === for the room ===

    /// What isn't watched any more isn't known.
    pub(super) fn go_live(&self, now: Instant) {
        let condition = &self.load.condition;
        if self.health.is_none() {
            condition.unasked(now);
        }
        if self.terms.breaker.is_none() {
            condition.unwatched(now);
        }
        if self.provider_rules.is_none() {
            self.account.unwatched(now);
        }
    }

    /// It as a choice of a route, `weight` being its share there.
    pub(super) fn candidate(&self, number: usize, weight: i64, now: Instant) -> Candidate {
        let (standing, share) = self.load.condition.standing(&self.terms, now);
        let account = self.account.standing(self.provider_rules.as_ref(), now);
        let weight = match share {
            UNIT => weight,
            share => weight.saturating_mul(share) / UNIT,
        };
        let standing = standing.max(account);
        Candidate::new(number, standing, weight, self.in_flight())
    }

    pub(super) fn pace(&self) -> Option<Pace> {
        self.load.condition.pace()
    }

    /// How long it isn't tried from now on; `None` where it is.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let own = self.load.condition.wait(&self.terms, now);
        own.max(self.account.wait(self.provider_rules.as_ref(), now))
    }

    /// Leave to try it.
    ///
    /// # Errors
    /// After this long it may be given.
    pub(super) fn enter(&self, now: Instant) -> Result<Leave, Duration> {
        let soon = |wait: Option<Duration>| wait.unwrap_or(Duration::from_secs(1));
        let Some(provider) = self.account.enter(self.provider_rules.as_ref(), now) else {
            return Err(soon(self.wait(now)));
        };
        let Some(endpoint) = self.load.condition.enter(&self.terms, now) else {
            self.account.handle(
                self.provider_rules.as_ref(),
                provider,
                Event::Lost,
                self.place,
                now,
                0.5,
            );
            return Err(soon(self.wait(now)));
        };
        Ok(Leave { endpoint, provider })
    }

    /// Leave that nobody's breaker gave, for want of something better.
    pub(super) fn forced(&self) -> Leave {
        Leave {
            endpoint: Pass::Free,
            provider: Pass::Free,
        }
    }

    /// Tells the breakers what became of a try.
    pub(super) fn handle(&self, leave: Leave, event: Event, now: Instant) {
        self.handle_by(leave, event, now, rand::random());
    }

    pub(super) fn handle_by(&self, leave: Leave, event: Event, now: Instant, chance: f64) {
        let own =
            self.load
                .condition
                .handle(&self.terms, leave.endpoint, event, self.place, now, chance);
        let (provider, endpoint) = (&self.provider_name, &self.name);
        match own {
            Some(Change::Opened { until }) => {
                self.breakers.opened(provider, endpoint);
                let seconds = until.saturating_duration_since(now).as_secs_f64();
                tracing::warn!(
                    %provider, %endpoint, seconds,
                    "an endpoint fails too often, or is too slow: it is paused (providers[].breaker)"
                );
            }
            Some(Change::Closed) => {
                tracing::info!(%provider, %endpoint, "an endpoint answers again");
            }
            _ => {}
        }
        let rules = self.provider_rules.as_ref();
        let whole = &self.account;
        match whole.handle(rules, leave.provider, event, self.place, now, chance) {
            Some(Change::Opened { until }) => {
                self.breakers.opened(provider, "");
                let seconds = until.saturating_duration_since(now).as_secs_f64();
                tracing::warn!(
                    %provider, seconds,
                    "half of a provider's endpoints fail and none answers: it is paused \
                     (providers[].breaker)"
                );
            }
            Some(Change::Closed) => tracing::info!(%provider, "a provider answers again"),
            _ => {}
        }
    }

    pub(super) fn accepted(&self) {
        if self.account.accepted() {
            tracing::info!(provider = %self.provider_name, "a provider accepts weir's account again");
        }
    }

    pub(super) fn unaccepted(&self, now: Instant) {
        let Some(lasts) = self.account.unaccepted(now) else {
            return;
        };
        tracing::error!(
            provider = %self.provider_name,
            endpoint = %self.name,
            seconds = lasts.as_secs(),
            "a provider doesn't accept weir's account (401, 402 or 403) and is tried after all others for \
             a while; look at the provider's api_key, and at its balance there"
        );
    }

    /// How long it is tried after others, for it said that it has no time.
    pub fn rests(&self, now: Instant) -> Option<Duration> {
        let (_, until) = self.load.condition.look(&self.terms, now);
        until.map(|it| it.saturating_duration_since(now))
    }

    /// Whether nothing speaks against it.
    pub fn is_fine(&self, now: Instant) -> bool {
        self.candidate(0, UNIT, now).standing == Standing::Fine
    }
}
