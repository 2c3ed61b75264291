//! Money that may be spent in a period. What is reserved counts as spent until it is settled; what was
//! reserved in one period is settled there, also when the next one has begun.
//!
//! Each period has an account of its own, named after it, so nothing needs to be set to zero.

use super::accounts::{Account, Held, Keep};
use super::settings::{Budget, Period};
use super::shared::{Kind, Sharing, Short, Stock};
use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, Utc};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// From a period's beginning to the next one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Of which kind it is.
    pub per: Period,
    /// Its first day; of [`Period::Total`], any.
    first: NaiveDate,
    /// The day after its last.
    next: Option<NaiveDate>,
}

/// What was spent of a budget in one period.
#[derive(Debug)]
pub(super) struct Purse {
    pub(super) span: Span,
    pub(super) account: Account,
    name: String,
    sharing: Option<Sharing>,
    stock: OnceLock<Stock>,
    /// Warnings that were given.
    warned: AtomicUsize,
}

/// A share of a budget was passed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crossing {
    /// The share that `warn` names.
    pub share: f64,
    /// What is used by now.
    pub used: f64,
}

// === impl Span ===

impl Span {
    /// The period of that kind in which `now` lies, in UTC.
    pub fn of(per: Period, now: SystemTime) -> Self {
        let day = DateTime::<Utc>::from(now).date_naive();
        let first = match per {
            Period::Day | Period::Total => day,
            Period::Week => {
                let since_monday = u64::from(day.weekday().num_days_from_monday());
                day.checked_sub_days(Days::new(since_monday)).unwrap_or(day)
            }
            Period::Month => day.with_day(1).unwrap_or(day),
            Period::Year => day.with_ordinal(1).unwrap_or(day),
        };
        let next = match per {
            Period::Day => first.succ_opt(),
            Period::Week => first.checked_add_days(Days::new(7)),
            Period::Month => first.checked_add_months(Months::new(1)),
            Period::Year => first.checked_add_months(Months::new(12)),
            Period::Total => None,
        };
        Self { per, first, next }
    }

    /// When it began; `None` for [`Period::Total`].
    pub fn begins(&self) -> Option<SystemTime> {
        self.next.map(|_| midnight(self.first))
    }

    /// When it ends; `None` for [`Period::Total`].
    pub fn ends(&self) -> Option<SystemTime> {
        self.next.map(midnight)
    }

    /// True for a moment within it.
    pub fn contains(&self, now: SystemTime) -> bool {
        let Some(ends) = self.ends() else { return true };
        (midnight(self.first)..ends).contains(&now)
    }

    /// `month|2026-11`: the end of its account's name.
    pub(super) fn name(&self) -> String {
        let first = self.first;
        let per = self.per.as_str();
        match self.per {
            Period::Day => format!("{per}|{first}"),
            Period::Week => format!("{per}|{}", first.format("%G-W%V")),
            Period::Month => format!("{per}|{}", first.format("%Y-%m")),
            Period::Year => format!("{per}|{}", first.format("%Y")),
            Period::Total => per.to_owned(),
        }
    }

    pub(super) fn keep(&self) -> Keep {
        const LATE: Duration = Duration::from_secs(2 * 24 * 3600);
        const ALWAYS: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        Keep::Until(match self.ends() {
            Some(ends) => ends + LATE,
            None => SystemTime::now() + ALWAYS,
        })
    }
}

fn midnight(day: NaiveDate) -> SystemTime {
    day.and_time(NaiveTime::MIN).and_utc().into()
}

impl Period {
    /// As the configuration and account names have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
            Self::Total => "total",
        }
    }
}

// === impl Purse ===

impl Purse {
    /// `name` is the account's, by which other hosts know it where it is shared.
    pub(super) fn new(
        span: Span,
        account: Account,
        name: String,
        sharing: Option<Sharing>,
    ) -> Self {
        Self {
            span,
            account,
            name,
            sharing,
            stock: OnceLock::new(),
            warned: AtomicUsize::new(0),
        }
    }

    /// Holds that much of the budget, or says what of it may be had from other hosts.
    pub(super) fn hold(&self, amount: i64, budget: &Budget) -> Result<Held, Option<Short>> {
        let limit = budget.limit.pico();
        let Some(stock) = self.stock(limit) else {
            return self.account.hold(amount, limit).map_err(|_| None);
        };
        let short = |full| Short::of(stock, amount, limit, full);
        stock.hold(amount, limit).map_err(short)
    }

    fn stock(&self, limit: i64) -> Option<&Stock> {
        let sharing = self.sharing.as_ref()?;
        let stock = self.stock.get_or_init(|| {
            let account = self.account.clone();
            sharing.stock(&self.name, Kind::Budget, limit, account, self.span.keep())
        });
        stock.set_terms(Kind::Budget, limit);
        Some(stock)
    }

    /// What is spent for good, with what other hosts have used.
    pub(super) fn spent(&self) -> i64 {
        self.account
            .settled()
            .saturating_add(self.account.elsewhere())
    }

    pub(super) fn has_warned(&self) -> bool {
        self.warned.load(Ordering::Relaxed) > 0
    }

    /// The share of the budget that is spent for good.
    pub(super) fn used(&self, budget: &Budget) -> f64 {
        self.spent() as f64 / budget.limit.pico().max(1) as f64
    }

    /// The highest share that was passed, the first time that it is seen.
    pub(super) fn crossed(&self, budget: &Budget) -> Option<Crossing> {
        let warned = self.warned.load(Ordering::Relaxed);
        if warned >= budget.warn_at.len() {
            return None;
        }
        let used = self.used(budget);
        let passed = budget.warn_at.iter().filter(|share| used >= **share);
        let passed = passed.count();
        let before = self.warned.fetch_max(passed, Ordering::Relaxed);
        let share = *budget.warn_at.get(passed.checked_sub(1)?)?;
        (passed > before).then_some(Crossing { share, used })
    }
}

#[cfg(test)]
mod tests {
    use super::super::accounts::Accounts;
    use super::*;
    use crate::types::Money;

    fn at(text: &str) -> SystemTime {
        text.parse::<DateTime<Utc>>().unwrap().into()
    }

    #[test]
    fn a_period_begins_and_ends_at_midnight_utc() {
        for (per, now, name, begins, ends) in [
            (
                Period::Day,
                "2026-11-27T23:59:59Z",
                "day|2026-11-27",
                "2026-11-27",
                "2026-11-28",
            ),
            (
                Period::Week,
                "2026-11-29T12:00:00Z",
                "week|2026-W48",
                "2026-11-23",
                "2026-11-30",
            ),
            (
                Period::Week,
                "2027-01-01T00:00:00Z",
                "week|2026-W53",
                "2026-12-28",
                "2027-01-04",
            ),
            (
                Period::Month,
                "2028-02-29T01:00:00Z",
                "month|2028-02",
                "2028-02-01",
                "2028-03-01",
            ),
            (
                Period::Month,
                "2026-12-31T23:00:00Z",
                "month|2026-12",
                "2026-12-01",
                "2027-01-01",
            ),
            (
                Period::Year,
                "2026-11-27T00:00:00Z",
                "year|2026",
                "2026-01-01",
                "2027-01-01",
            ),
        ] {
            let span = Span::of(per, at(now));
            let midnight = |day: &str| Some(at(&format!("{day}T00:00:00Z")));
            assert_eq!(span.name(), name);
            assert_eq!(
                (span.begins(), span.ends()),
                (midnight(begins), midnight(ends))
            );
            assert!(span.contains(at(now)));
            assert!(!span.contains(span.ends().unwrap()), "{name}");
            assert_ne!(Span::of(per, span.ends().unwrap()).name(), name);
        }
        let total = Span::of(Period::Total, at("2026-11-27T00:00:00Z"));
        assert_eq!((total.name().as_str(), total.ends()), ("total", None));
        assert!(total.contains(at("2099-01-01T00:00:00Z")));
    }

    #[test]
    fn each_share_is_warned_of_once_and_the_highest_when_several_are_passed() {
        let account = Accounts::private().account("a", Keep::Weeks);
        let span = Span::of(Period::Day, SystemTime::now());
        let purse = Purse::new(span, account.clone(), "a".into(), None);
        let budget = Budget {
            limit: Money::from_pico(100),
            per: Period::Day,
            warn_at: vec![0.5, 0.8, 0.95],
        };
        let held = account.hold(60, 100).unwrap();
        assert_eq!(purse.crossed(&budget), None, "what is held isn't spent");
        drop(held);
        account.add(49);
        assert_eq!(purse.crossed(&budget), None);
        account.add(1);
        let share = |crossing: Option<Crossing>| crossing.map(|it| it.share);
        assert_eq!(share(purse.crossed(&budget)), Some(0.5));
        assert_eq!(purse.crossed(&budget), None);
        account.add(46);
        assert_eq!(share(purse.crossed(&budget)), Some(0.95));
        assert_eq!(purse.crossed(&budget), None);
    }
}
