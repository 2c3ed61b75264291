//! How limits and budgets stand, for whoever looks at them. Looking takes nothing, makes no account and
//! keeps none. Called by `app` for the admin API.

use super::Governor;
use super::budget::Span;
use super::limits::Bounds;
use super::rate::{Cells, Moment, Rate};
use super::scope::{Id, Measure, drawn_name, purse_name, sum_name};
use super::settings::{Allowance, Budget, Period, Terms};
use super::shared::{Fleet, Kind};
use crate::types::Money;
use std::sync::atomic::{AtomicI64, Ordering};
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

/// How limits stand, all processes and hosts together; `None` where there is no limit.
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
    /// Where other hosts share it.
    pub part: Option<Part<u64>>,
}

/// How places stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// So many there are; 0 = no limit.
    pub max: u64,
    /// So many are taken.
    pub taken: u64,
    /// Where other hosts share them.
    pub part: Option<Part<u64>>,
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
    /// Where other hosts share it.
    pub part: Option<Part<Money>>,
}

/// What others have of a shared allowance, and what this host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<T> {
    /// Used by other hosts; of a rate, had by them. It counts in what is used.
    pub elsewhere: T,
    /// Granted to this host, and not used yet. It counts in what is left.
    pub share: T,
}

impl Governor {
    /// How these allowances stand on other hosts, where some share them. Blocks for a moment; what can't be
    /// heard then is as this host heard it last.
    pub fn fleet<'a>(
        &self,
        all: impl Iterator<Item = (Of<'a>, &'a Allowance)>,
        now: SystemTime,
    ) -> Fleet {
        let Some(sharing) = self.scopes.sharing() else {
            return Fleet::default();
        };
        let mut names = Vec::new();
        for (of, allowance) in all {
            let (id, bounds) = (Id::from(of), Bounds::from(allowance));
            let rate = |rate: Option<Rate>| rate.map(|_| Kind::Rate { burst: 0 });
            let places = |max: u64| (max > 0).then_some(Kind::Slots);
            for (kind, measure) in [
                (rate(bounds.requests), Measure::Requests),
                (rate(bounds.tokens), Measure::Tokens),
                (places(bounds.in_flight), Measure::InFlight),
                (places(bounds.in_flight_tokens), Measure::InFlightTokens),
            ] {
                names.extend(kind.map(|kind| (sum_name(&id, measure), kind)));
            }
            let spans = allowance.budgets.iter().map(|it| Span::of(it.per, now));
            names.extend(spans.map(|span| (purse_name(&id, &span), Kind::Budget)));
        }
        sharing.fleet(&names)
    }

    /// How the limits of an allowance stand; `fleet` as [`Governor::fleet`] has said of it.
    pub fn look(&self, of: Of<'_>, allowance: &Allowance, fleet: &Fleet, now: SystemTime) -> Look {
        let id = Id::from(of);
        let bounds = Bounds::from(allowance);
        let rate = |rate: Option<Rate>, measure| Some(self.fill(&id, measure, rate?, fleet, now));
        let places = |max, measure| (max > 0).then(|| self.taken(&id, measure, max, fleet));
        let budgets = allowance.budgets.iter();
        Look {
            requests: rate(bounds.requests, Measure::Requests),
            tokens: rate(bounds.tokens, Measure::Tokens),
            in_flight: places(bounds.in_flight, Measure::InFlight),
            in_flight_tokens: places(bounds.in_flight_tokens, Measure::InFlightTokens),
            budgets: budgets
                .map(|budget| self.spending(&id, budget, fleet, now))
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
                part: None,
            }),
            in_flight_tokens: (tokens_max > 0).then(|| Taken {
                max: tokens_max,
                taken: tokens().unwrap_or_default(),
                part: None,
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

    fn fill(&self, id: &Id, measure: Measure, rate: Rate, fleet: &Fleet, now: SystemTime) -> Fill {
        let level = |numbers: &Cells| rate.level(numbers.bucket(), Moment::from(now));
        let name = sum_name(id, measure);
        let here = level(&self.accounts.look_at_rate(&name));
        let mut fill = Fill {
            per_minute: rate.count(),
            remaining: here.remaining,
            full_in: here.full_in,
            part: None,
        };
        if self.scopes.sharing().is_some() {
            let (share, _) = self.accounts.look_shared(&drawn_name(&name));
            let share = u64::try_from(share).unwrap_or_default();
            let mut elsewhere = 0;
            if let Some(full_in_us) = fleet.told(&name) {
                let full_in = Duration::from_micros(full_in_us.unsigned_abs());
                let full_at = Moment::from(now).plus(full_in).unix_ns();
                let all = level(&Cells {
                    full_at: AtomicI64::new(full_at),
                    ..Cells::default()
                });
                elsewhere = (here.remaining.saturating_sub(all.remaining)).saturating_sub(share);
                fill.remaining = (all.remaining + share).min(here.remaining);
                fill.full_in = all.full_in;
            }
            fill.part = Some(Part { elsewhere, share });
        }
        fill
    }

    fn taken(&self, id: &Id, measure: Measure, max: u64, fleet: &Fleet) -> Taken {
        let name = sum_name(id, measure);
        let whole = |count: i64| u64::try_from(count).unwrap_or_default();
        let part = self.scopes.sharing().map(|_| {
            let (share, elsewhere) = self.accounts.look_shared(&name);
            Part {
                elsewhere: whole(fleet.told(&name).unwrap_or(elsewhere)),
                share: whole(share),
            }
        });
        Taken {
            max,
            taken: whole(self.sum(id, measure)) + part.map_or(0, |part| part.elsewhere),
            part,
        }
    }

    fn spending(&self, id: &Id, budget: &Budget, fleet: &Fleet, now: SystemTime) -> Spending {
        let span = Span::of(budget.per, now);
        let name = purse_name(id, &span);
        let used = self.accounts.look(&name).unwrap_or_default();
        let part = self.scopes.sharing().map(|_| {
            let (share, elsewhere) = self.accounts.look_shared(&name);
            let elsewhere = elsewhere.max(fleet.told(&name).unwrap_or_default());
            Part {
                elsewhere: Money::from_pico(elsewhere),
                share: Money::from_pico(share),
            }
        });
        let elsewhere = part.map_or(Money::ZERO, |part| part.elsewhere);
        Spending {
            per: budget.per,
            limit: budget.limit,
            used: Money::from_pico(used.saturating_add(elsewhere.pico())),
            ends: span.ends(),
            part,
        }
    }
}

impl From<Of<'_>> for Id {
    fn from(of: Of<'_>) -> Self {
        match of {
            Of::Key(team, key) => Self::Key(team.into(), key.into()),
            Of::Team(team) => Self::Team(team.into()),
            Of::Model(model) => Self::Model(model.into()),
        }
    }
}
