//! Leave to be served: a seat among those in flight, and a stake of tokens and money. Dropping it gives
//! all back; what was used is settled instead.
//!
//! ```text
//! enter ──▶ Grant{seat} ── admit ──▶ Grant{seat, stake} ── the request is over ──▶ seat: dropped
//!                                                       └─ what it used is known ─▶ stake: settled
//! ```

use super::accounts::Held;
use super::budget::{Crossing, Purse};
use super::keys::Caller;
use super::limits::{Bounds, Denied};
use super::rate::{Late, Lot, Moment, Rate};
use super::scope::{Measure, Place, Sums, Whose};
use super::settings::{Budget, Period};
use super::shared::Short;
use crate::types::Money;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// One request's leave to be served.
#[derive(Debug)]
pub struct Grant {
    pub(super) seat: Seat,
    pub(super) stake: Stake,
    /// Whose limits it is under.
    pub(super) limited: Vec<Limited>,
}

/// Its places among those in flight.
#[derive(Debug)]
pub struct Seat {
    counted: Option<Counted>,
    freed: Arc<Notify>,
    pub(super) places: Vec<Place>,
}

/// One of so many. Dropping it makes room for another.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

/// Tokens and money that are set aside for it.
#[derive(Debug, Default)]
pub struct Stake {
    pub(super) caller: Option<Caller>,
    pub(super) tokens: Vec<Taken>,
    pub(super) money: Vec<Reserved>,
    pub(super) ignore_cached: bool,
}

/// What a request has used in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// Nobody was asked, or whoever was has refused.
    Nothing,
    /// Nobody knows: what was thought stands.
    AsThought,
    /// This.
    Used {
        /// Tokens of prompt and answer, cached ones included.
        tokens: u64,
        /// Those of the prompt that came from a cache.
        cached: u64,
        /// What they cost; `None` where they have no price.
        cost: Option<Money>,
    },
}

/// A budget's share was passed with what was settled.
#[derive(Clone, Debug, PartialEq)]
pub struct Warning {
    /// Of the key's budget or of the team's.
    pub whose: Whose,
    /// The team.
    pub team: Arc<str>,
    /// The key, where it is its budget.
    pub key: Option<Arc<str>>,
    /// The budget's period.
    pub per: Period,
    /// Which share, and what is used by now.
    pub crossing: Crossing,
}

/// How the limits stand that a caller is nearest to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Requests in a minute.
    pub requests: Option<Tier>,
    /// Tokens in a minute.
    pub tokens: Option<Tier>,
}

/// How one limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    /// So many a minute.
    pub limit: u64,
    /// So many now.
    pub remaining: u64,
    /// Until all that may come at once may come again.
    pub reset: Duration,
}

/// Limits of one scope, and its sums.
#[derive(Clone, Debug)]
pub(super) struct Limited {
    pub(super) whose: Whose,
    pub(super) sums: Sums,
    pub(super) bounds: Bounds,
}

/// Something taken of a rate. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Taken {
    sums: Sums,
    measure: Measure,
    rate: Rate,
    lot: Lot,
    amount: u64,
    /// Of what this host has drawn, where other hosts share the rate.
    drawn: Option<Held>,
}

/// Why nothing was taken of a rate.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// It isn't there yet.
    Late,
    /// Not on this host.
    Drawn {
        denied: Denied,
        short: Option<Short>,
    },
}

/// Money that counts as spent until it is settled.
#[derive(Debug)]
pub(super) struct Reserved {
    pub(super) whose: Whose,
    /// Its place among the budgets of the key or team.
    pub(super) index: usize,
    pub(super) purse: Arc<Purse>,
    pub(super) held: Held,
}

// === impl Grant ===

impl Grant {
    pub(super) fn new(seat: Seat, limited: Vec<Limited>) -> Self {
        Self {
            seat,
            stake: Stake::default(),
            limited,
        }
    }

    /// What ends with the request, and what is settled when it is known what it used.
    pub fn parts(self) -> (Seat, Stake) {
        (self.seat, self.stake)
    }

    /// True where [`Governor::admit`](super::Governor::admit) has something to ask.
    pub fn is_limited(&self) -> bool {
        !self.limited.is_empty() || self.has_budget()
    }

    /// True where somebody's tokens or money are counted; what the host may carry isn't somebody's.
    pub(super) fn counts_tokens(&self) -> bool {
        let counts = |it: &Limited| {
            let tokens = it.bounds.tokens.is_some() || it.bounds.in_flight_tokens > 0;
            it.whose != Whose::Host && tokens
        };
        self.limited.iter().any(counts) || self.has_budget()
    }

    fn has_budget(&self) -> bool {
        let budgets = |caller: &Caller| {
            let (key, team) = (&caller.key.allowance, &caller.team.allowance);
            !key.budgets.is_empty() || !team.budgets.is_empty()
        };
        self.stake.caller.as_ref().is_some_and(budgets)
    }

    /// What is set aside for it.
    pub fn stake(&mut self) -> &mut Stake {
        &mut self.stake
    }

    /// How the limits stand that are nearest to being reached.
    pub fn standing(&self, now: Moment) -> Standing {
        let tier = |measure| {
            let tiers = self.limited.iter().filter_map(|it| it.tier(measure, now));
            tiers.min_by_key(|tier| (tier.remaining, tier.limit))
        };
        Standing {
            requests: tier(Measure::Requests),
            tokens: tier(Measure::Tokens),
        }
    }

    /// Budgets of which a share was passed that is warned of: whose, of which period, how much is used.
    pub fn nearly_spent(&self) -> impl Iterator<Item = (Whose, Period, f64)> {
        self.stake.money.iter().filter_map(|reserved| {
            let budget = self.stake.budget(reserved)?;
            let first = budget.warn_at.first()?;
            let used = reserved.purse.used(budget);
            (used >= *first).then_some((reserved.whose, budget.per, used))
        })
    }
}

// === impl Seat, Counted ===

impl Seat {
    /// Takes a seat when fewer than `max` are taken; `max` 0 is no cap.
    pub(super) fn take(
        in_flight: &Arc<AtomicUsize>,
        max: usize,
        freed: &Arc<Notify>,
    ) -> Option<Self> {
        Some(Self {
            counted: Some(Counted::take(in_flight, max)?),
            freed: Arc::clone(freed),
            places: Vec::new(),
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.places.clear();
        self.counted = None;
        self.freed.notify_waiters();
    }
}

impl Counted {
    /// Counts one more when there are fewer than `max`; `max` 0 is no cap.
    pub(super) fn take(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let counted = Self(Arc::clone(count));
        (max == 0 || before < max).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Stake ===

impl Stake {
    /// Settles what was used: what was set aside beyond that is free again, what was used beyond it is
    /// owed. Once; a second time changes nothing. Answers with the warnings that are due.
    pub fn settle(&mut self, spent: Spent, now: Moment) -> Vec<Warning> {
        let mut money = std::mem::take(&mut self.money);
        let tokens = std::mem::take(&mut self.tokens);
        let (used, cost) = match spent {
            Spent::Nothing => return Vec::new(),
            Spent::AsThought => (None, None),
            Spent::Used {
                tokens,
                cached,
                cost,
            } => {
                let free = if self.ignore_cached { cached } else { 0 };
                let cost = cost.unwrap_or(Money::ZERO);
                (Some(tokens.saturating_sub(free)), Some(cost))
            }
        };
        for taken in tokens {
            match used {
                Some(used) => taken.settle(used, now),
                None => taken.keep(),
            }
        }
        let mut warnings = Vec::new();
        for reserved in money.drain(..) {
            let thought = reserved.held.amount();
            let used = cost.map_or(thought, Money::pico);
            reserved.held.settle(used);
            let place = (reserved.whose, reserved.index);
            if let Some((caller, budget)) = self.caller.as_ref().zip(self.budget_at(place))
                && let Some(crossing) = reserved.purse.crossed(budget)
            {
                let key = (reserved.whose == Whose::Key).then(|| Arc::clone(&caller.key.name));
                warnings.push(Warning {
                    whose: reserved.whose,
                    team: Arc::clone(&caller.team.name),
                    key,
                    per: budget.per,
                    crossing,
                });
            }
        }
        warnings
    }

    fn budget(&self, reserved: &Reserved) -> Option<&Budget> {
        self.budget_at((reserved.whose, reserved.index))
    }

    fn budget_at(&self, (whose, index): (Whose, usize)) -> Option<&Budget> {
        let caller = self.caller.as_ref()?;
        let allowance = match whose {
            Whose::Key => &caller.key.allowance,
            _ => &caller.team.allowance,
        };
        allowance.budgets.get(index)
    }
}

// === impl Limited ===

impl Limited {
    pub(super) fn rate(&self, measure: Measure) -> Option<Rate> {
        match measure {
            Measure::Requests => self.bounds.requests,
            Measure::Tokens => self.bounds.tokens,
            _ => None,
        }
    }

    /// Takes something of a rate, where there is one.
    pub(super) fn take(
        &self,
        measure: Measure,
        amount: u64,
        now: Moment,
    ) -> Result<Option<Taken>, NotTaken> {
        let Some(rate) = self.rate(measure) else {
            return Ok(None);
        };
        let lot =
            (rate.reserve(self.sums.bucket(measure), amount, now)).map_err(|_| NotTaken::Late)?;
        // From here on it is given back when it is dropped.
        let mut taken = Taken {
            sums: self.sums.clone(),
            measure,
            rate,
            lot,
            amount,
            drawn: None,
        };
        if let Some(stock) = self.sums.stock(measure, rate) {
            let amount = i64::try_from(amount).unwrap_or(i64::MAX);
            let drawn = stock
                .hold(amount, i64::MAX)
                .map_err(|full| NotTaken::Drawn {
                    denied: Denied::Rate {
                        whose: self.whose,
                        measure,
                        per_minute: rate.count(),
                        wait: stock.wait_for(amount),
                    },
                    short: Short::of(stock, amount, i64::MAX, full),
                })?;
            taken.drawn = Some(drawn);
        }
        Ok(Some(taken))
    }

    /// What [`Limited::take`] would say.
    pub(super) fn look(&self, measure: Measure, amount: u64, now: Moment) -> Result<(), Late> {
        let Some(rate) = self.rate(measure) else {
            return Ok(());
        };
        rate.look(self.sums.bucket(measure), amount, now)
    }

    fn tier(&self, measure: Measure, now: Moment) -> Option<Tier> {
        let rate = self.rate(measure)?;
        let level = rate.level(self.sums.bucket(measure), now);
        let elsewhere = self
            .sums
            .stock(measure, rate)
            .map(|stock| stock.standing().left);
        let left = elsewhere.map_or(u64::MAX, |left| u64::try_from(left).unwrap_or(0));
        Some(Tier {
            limit: rate.count(),
            remaining: level.remaining.min(left),
            reset: level.full_in,
        })
    }
}

// === impl Taken ===

impl Taken {
    /// It was used as it was taken.
    pub(super) fn keep(mut self) {
        if let Some(drawn) = self.drawn.take() {
            let amount = drawn.amount();
            drawn.settle(amount);
        }
        self.amount = 0;
    }

    fn settle(mut self, used: u64, now: Moment) {
        let bucket = self.sums.bucket(self.measure);
        if used > self.amount {
            self.rate.charge(bucket, used - self.amount, now);
        } else {
            (self.rate).give(bucket, self.lot, self.amount - used, now);
        }
        if let Some(drawn) = self.drawn.take() {
            // As much is owed at most to other hosts as to this one.
            let most = self.amount.saturating_add(self.rate.owed_max());
            drawn.settle(i64::try_from(used.min(most)).unwrap_or(i64::MAX));
        }
        self.amount = 0;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let bucket = self.sums.bucket(self.measure);
        (self.rate).give(bucket, self.lot, self.amount, Moment::now());
    }
}

// === impl Tier ===

/// `limit`, `remaining` and `reset` as OpenAI writes a duration: `6m0s`, `1s`, `120ms`.
impl Tier {
    /// The time until all is there again, rounded up to milliseconds.
    pub fn reset_text(&self) -> impl fmt::Display {
        struct Text(u64);
        impl fmt::Display for Text {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let (minutes, millis) = (self.0 / 60_000, self.0 % 60_000);
                if self.0 == 0 {
                    return f.write_str("0s");
                }
                if self.0 < 1000 {
                    return write!(f, "{millis}ms");
                }
                if minutes > 0 {
                    write!(f, "{minutes}m")?;
                }
                let (seconds, part) = (millis / 1000, format!("{:03}", millis % 1000));
                match part.trim_end_matches('0') {
                    "" => write!(f, "{seconds}s"),
                    part => write!(f, "{seconds}.{part}s"),
                }
            }
        }
        Text(
            self.reset
                .as_nanos()
                .div_ceil(1_000_000)
                .try_into()
                .unwrap_or(u64::MAX),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seat_past_the_last_is_refused_and_a_drop_frees_one() {
        let (in_flight, freed) = Default::default();
        let take = |max| Seat::take(&in_flight, max, &freed);
        let first = take(2);
        let second = take(2);
        assert!(first.is_some() && second.is_some());
        assert!(take(2).is_none());
        assert_eq!(
            in_flight.load(Ordering::Relaxed),
            2,
            "a refusal takes no seat"
        );
        drop(first);
        assert!(take(2).is_some());
        drop(second);
        assert_eq!(in_flight.load(Ordering::Relaxed), 0);
        let all: Vec<_> = (0..1000).map(|_| take(0)).collect();
        assert!(all.iter().all(Option::is_some), "zero is no cap");
    }

    #[test]
    fn a_reset_is_written_as_openai_does() {
        for (micros, text) in [
            (0, "0s"),
            (1, "1ms"),
            (120_000, "120ms"),
            (999_001, "1s"),
            (1_000_000, "1s"),
            (1_500_000, "1.5s"),
            (59_999_000, "59.999s"),
            (60_000_000, "1m0s"),
            (360_000_000, "6m0s"),
            (61_050_000, "1m1.05s"),
        ] {
            let tier = Tier {
                limit: 1,
                remaining: 0,
                reset: Duration::from_micros(micros),
            };
            assert_eq!(tier.reset_text().to_string(), text);
        }
    }
}
