//! How limits and budgets stand, for whoever looks at them. Looking takes nothing, makes no account and
//! keeps none. Called by `app` for the admin API.

use super::Governor;
use super::budget::Span;
use super::limits::Bounds;
use super::rate::{Moment, Rate};
use super::scope::{Id, Measure, purse_name, sum_name};
use super::settings::{Allowance, Budget, Period, Terms};
use crate::types::Money;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

/// Whose limits.
#[derive(Clone, Copy, Debug)]
pub enum Of<'a> {
    /// A key's, by team and name.
    Key(&'a str, &'a str),
    /// A team's.
    Team(&'a str),
    /// A model's, by its route's pattern.
    Model(&'a str),
}

/// How limits stand, all processes together; `None` where there is no limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// Requests in a minute.
    pub requests: Option<Fill>,
    /// Tokens in a minute.
    pub tokens: Option<Fill>,
    /// Requests at once.
    pub in_flight: Option<Taken>,
    /// Tokens at once.
    pub in_flight_tokens: Option<Taken>,
    /// In the order of the allowance.
    pub budgets: Vec<Spending>,
}

/// How a rate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// So many in a minute.
    pub per_minute: u64,
    /// So many may come now.
    pub remaining: u64,
    /// Until all that may come at once may come again.
    pub full_in: Duration,
}

/// How places stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// So many there are; 0 = no limit.
    pub max: u64,
    /// So many are taken.
    pub taken: u64,
}

/// How a budget stands in its current period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spending {
    /// Of which kind the period is.
    pub per: Period,
    /// What may be spent in it.
    pub limit: Money,
    /// What is: settled, or reserved by what is in flight.
    pub used: Money,
    /// When the next period begins.
    pub ends: Option<SystemTime>,
}

impl Governor {
    /// How the limits of an allowance stand.
    pub fn look(&self, of: Of<'_>, allowance: &Allowance, now: SystemTime) -> Look {
        let id = match of {
            Of::Key(team, key) => Id::Key(team.into(), key.into()),
            Of::Team(team) => Id::Team(team.into()),
            Of::Model(model) => Id::Model(model.into()),
        };
        let bounds = Bounds::from(allowance);
        let rate = |rate: Option<Rate>, measure| {
            let rate = rate?;
            let numbers = self.accounts.look_at_rate(&sum_name(&id, measure));
            let level = rate.level(numbers.bucket(), Moment::from(now));
            Some(Fill {
                per_minute: rate.count(),
                remaining: level.remaining,
                full_in: level.full_in,
            })
        };
        let places = |max, measure| {
            let taken = || u64::try_from(self.sum(&id, measure)).unwrap_or_default();
            (max > 0).then(|| Taken {
                max,
                taken: taken(),
            })
        };
        let budgets = allowance.budgets.iter();
        Look {
            requests: rate(bounds.requests, Measure::Requests),
            tokens: rate(bounds.tokens, Measure::Tokens),
            in_flight: places(bounds.in_flight, Measure::InFlight),
            in_flight_tokens: places(bounds.in_flight_tokens, Measure::InFlightTokens),
            budgets: budgets
                .map(|budget| self.spending(&id, budget, now))
                .collect(),
        }
    }

    /// How the caps of the host stand.
    pub fn look_at_host(&self) -> Look {
        let (in_flight_max, tokens_max) = {
            let settings = self.settings.read();
            (settings.in_flight_max, settings.in_flight_tokens_max)
        };
        let elsewhere = self.elsewhere.load(Ordering::Relaxed);
        let tokens = || u64::try_from(self.sum(&Id::Host, Measure::InFlightTokens));
        Look {
            in_flight: Some(Taken {
                max: in_flight_max as u64,
                taken: (self.in_flight() + elsewhere) as u64,
            }),
            in_flight_tokens: (tokens_max > 0).then(|| Taken {
                max: tokens_max,
                taken: tokens().unwrap_or_default(),
            }),
            ..Look::default()
        }
    }

    /// The model routes that have limits of their own, by pattern.
    pub fn limited_routes(&self) -> Vec<(String, Terms)> {
        self.settings.read().routes.clone()
    }

    fn sum(&self, id: &Id, measure: Measure) -> i64 {
        let name = sum_name(id, measure);
        self.accounts.look(&name).unwrap_or_default()
    }

    fn spending(&self, id: &Id, budget: &Budget, now: SystemTime) -> Spending {
        let span = Span::of(budget.per, now);
        let used = self.accounts.look(&purse_name(id, &span));
        Spending {
            per: budget.per,
            limit: budget.limit,
            used: Money::from_pico(used.unwrap_or_default()),
            ends: span.ends(),
        }
    }
}
