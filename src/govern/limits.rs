//! May this request be served? All limits that it is under at once: all of them let it in, or none
//! has taken anything. Called by `proxy::plan`, twice a request: [`Governor::enter`] before its body is
//! read, [`Governor::admit`] when it is known what it asks for.

use super::Governor;
use super::accounts::Found;
use super::budget::Span;
use super::grant::{Grant, Limited, NotTaken, Reserved, Seat, Stake, Taken};
use super::keys::Caller;
use super::rate::{Late, Moment, Rate};
use super::scope::{Id, Measure, NoPlace, Sums, Whose, purse_name};
use super::settings::{Allowance, Budget, Period, Unmetered, Unpriced};
use super::shared::{PATIENCE, Short};
use crate::types::Money;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Estimated tokens of the prompt, and the most that the answer may have.
    pub tokens: u64,
    /// What they cost at most; `None` where they have no price.
    pub cost: Option<Money>,
}

/// Why a request may not be served now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The client's address asks too often (`rate_limit`); the next one may come after this long.
    RateLimited(Duration),
    /// As many requests are in flight as the host may carry.
    InFlight,
    /// A rate is used up.
    Rate {
        /// Whose.
        whose: Whose,
        /// Requests or tokens.
        measure: Measure,
        /// So many may come in a minute.
        per_minute: u64,
        /// After this long it may come.
        wait: Duration,
    },
    /// It is larger than a limit ever lets in.
    TooLarge {
        /// Whose limit.
        whose: Whose,
        /// Of tokens in a minute, or at once.
        measure: Measure,
        /// So many tokens at most.
        max: u64,
        /// It asks for these.
        tokens: u64,
    },
    /// As many requests or tokens are in flight as may be.
    Full {
        /// Whose.
        whose: Whose,
        /// Requests or tokens at once.
        measure: Measure,
        /// So many.
        max: u64,
    },
    /// The rest of a budget doesn't cover it.
    Budget {
        /// Whose.
        whose: Whose,
        /// Of which period.
        per: Period,
        /// How long until the next one begins; `None` where that wouldn't help.
        wait: Option<Duration>,
    },
    /// What is left of a budget that other hosts share couldn't be learnt in time.
    Unshared {
        /// Whose.
        whose: Whose,
    },
    /// It is under a budget, and there is no room to note what is spent of it.
    NoAccount {
        /// Whose.
        whose: Whose,
    },
    /// It is under a budget and has no price.
    Unpriced,
    /// It is under a budget or a limit of tokens, and nobody can tell its tokens.
    Unmetered,
    /// As many wait as may wait.
    QueueFull {
        /// After this long it may be worth a try.
        wait: Duration,
    },
}

/// An [`Allowance`], ready to be applied.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bounds {
    pub(super) requests: Option<Rate>,
    pub(super) tokens: Option<Rate>,
    pub(super) in_flight: u64,
    pub(super) in_flight_tokens: u64,
}

// === impl Governor ===

impl Governor {
    /// Asks leave for one request, before its body is read.
    ///
    /// # Errors
    /// Which limit says no.
    pub fn enter(
        &self,
        client: Option<IpAddr>,
        caller: Option<&Caller>,
        now: Moment,
    ) -> Result<Grant, Denied> {
        let (rate_limit, per_address, in_flight_max) = {
            let settings = self.settings.read();
            let per_address = Bounds::from(&settings.per_address);
            (settings.rate_limit, per_address, settings.in_flight_max)
        };
        let wanted = rate_limit.is_some() || per_address.is_some();
        let slot = client
            .filter(|_| wanted)
            .map(|it| self.addresses.slot(it, now));
        if let (Some(limit), Some(slot)) = (rate_limit, &slot) {
            let rate = Rate::per_second(limit.per_second, limit.burst);
            if let Err(Late::For(wait)) = rate.take(&slot.rate, 1, now) {
                return Err(Denied::RateLimited(wait));
            }
        }
        let here_max = match in_flight_max {
            0 => 0,
            // At least one, so that a host that drains much still serves.
            max => (max.saturating_sub(self.elsewhere.load(Ordering::Relaxed))).max(1),
        };
        let seat = Seat::take(&self.in_flight, here_max, &self.freed).ok_or(Denied::InFlight)?;
        let mut limited = Vec::new();
        if let Some(slot) = slot.filter(|_| per_address.is_some()) {
            limited.push(Limited {
                whose: Whose::Address,
                sums: Sums::Address(slot),
                bounds: per_address,
            });
        }
        if let Some(caller) = caller {
            let team = &caller.team.name;
            let key = || Id::of(team, Some(&caller.key.name));
            self.limit(&mut limited, Whose::Key, &caller.key.allowance, key);
            let team = || Id::of(team, None);
            self.limit(&mut limited, Whose::Team, &caller.team.allowance, team);
        }
        let mut grant = Grant::new(seat, limited);
        grant.stake.caller = caller.cloned();
        Ok(grant)
    }

    fn limit(
        &self,
        limited: &mut Vec<Limited>,
        whose: Whose,
        allowance: &Allowance,
        id: impl FnOnce() -> Id,
    ) {
        let bounds = Bounds::from(allowance);
        if bounds.is_some() {
            limited.push(Limited {
                whose,
                sums: Sums::Named(self.scopes.scope(id())),
                bounds,
            });
        }
    }

    /// Puts the limits of the model's route, and of the host, to those that a request is under. Once a
    /// request.
    pub fn aim(&self, grant: &mut Grant, model: Option<(&Arc<str>, &Allowance)>) {
        if let Some((model, allowance)) = model {
            let id = || Id::Model(Arc::clone(model));
            self.limit(&mut grant.limited, Whose::Model, allowance, id);
        }
        let host = Allowance {
            in_flight_tokens: self.settings.read().in_flight_tokens_max,
            ..Allowance::default()
        };
        self.limit(&mut grant.limited, Whose::Host, &host, || Id::Host);
    }

    /// Whether a request may be served whose tokens nobody can tell. Asked when the grant is
    /// [aimed](Self::aim).
    ///
    /// # Errors
    /// It is under a limit that counts them.
    pub fn admit_unmetered(&self, grant: &Grant) -> Result<(), Denied> {
        match self.settings.read().unmetered {
            Unmetered::Refuse if grant.counts_tokens() => Err(Denied::Unmetered),
            Unmetered::Refuse | Unmetered::Allow => Ok(()),
        }
    }

    /// Asks leave for what a request asks for, under all limits that it was [aimed](Self::aim) at. Where
    /// one says no, nothing is taken.
    ///
    /// # Errors
    /// Which limit says no: of rates the one that takes longest, so that whoever waits as told gets in.
    pub fn admit(&self, grant: &mut Grant, ask: &Ask, now: Moment) -> Result<(), Denied> {
        self.try_to_admit(grant, ask, now).map_err(|no| no.denied)
    }

    /// As [`Governor::admit`]; where other hosts share the allowance that says no, what they don't use is
    /// drawn, which takes [`PATIENCE`] at most. Dropping the future takes nothing.
    ///
    /// # Errors
    /// As there.
    pub async fn admit_drawing(
        &self,
        grant: &mut Grant,
        ask: &Ask,
        now: Moment,
    ) -> Result<(), Denied> {
        let mut no = match self.try_to_admit(grant, ask, now) {
            Ok(()) => return Ok(()),
            Err(no) => no,
        };
        let until = tokio::time::Instant::now() + PATIENCE;
        while let Some(short) = no.short {
            if !short.wait(until).await {
                break;
            }
            no = match self.try_to_admit(grant, ask, Moment::now()) {
                Ok(()) => return Ok(()),
                Err(no) => no,
            };
        }
        Err(no.denied)
    }

    fn try_to_admit(&self, grant: &mut Grant, ask: &Ask, now: Moment) -> Result<(), No> {
        let limited = &grant.limited;
        // The widest limit last: what a key may not have takes nothing from its team meanwhile.
        let late = |why| match why {
            NotTaken::Late => No::from(latest(limited, ask.tokens, now)),
            NotTaken::Drawn { denied, short } => No { denied, short },
        };
        let requests = taken(limited, Measure::Requests, 1, now).map_err(late)?;
        let tokens = taken(limited, Measure::Tokens, ask.tokens, now).map_err(late)?;
        let mut places = Vec::new();
        for it in limited {
            for (measure, amount, max) in [
                (Measure::InFlight, 1, it.bounds.in_flight),
                (
                    Measure::InFlightTokens,
                    ask.tokens,
                    it.bounds.in_flight_tokens,
                ),
            ] {
                if max > 0 {
                    let place = it.sums.hold(measure, amount, max);
                    let no = |no: NoPlace| No {
                        denied: full(it.whose, measure, amount, max),
                        short: no.0,
                    };
                    places.push(place.map_err(no)?);
                }
            }
        }
        let money = self.reserve(&grant.stake, ask.cost)?;
        requests.into_iter().for_each(Taken::keep);
        grant.seat.places = places;
        grant.stake.tokens = tokens;
        grant.stake.money = money;
        grant.stake.ignore_cached = !self.settings.read().cached_tokens_count;
        Ok(())
    }

    /// Reserves the cost in all budgets that the caller is under.
    fn reserve(&self, stake: &Stake, cost: Option<Money>) -> Result<Vec<Reserved>, No> {
        let Some(caller) = &stake.caller else {
            return Ok(Vec::new());
        };
        let (key, team) = (
            &caller.key.allowance.budgets,
            &caller.team.allowance.budgets,
        );
        if key.is_empty() && team.is_empty() {
            return Ok(Vec::new());
        }
        let cost = match (cost, self.settings.read().unpriced) {
            (Some(cost), _) => cost,
            (None, Unpriced::Allow) => Money::ZERO,
            (None, Unpriced::Refuse) => return Err(Denied::Unpriced.into()),
        };
        let now = SystemTime::now();
        let mut money = Vec::with_capacity(key.len() + team.len());
        for (whose, name, budgets) in [
            (Whose::Key, Some(&caller.key.name), key),
            (Whose::Team, None, team),
        ] {
            if budgets.is_empty() {
                continue;
            }
            let scope = self.scopes.scope(Id::of(&caller.team.name, name));
            for (index, budget) in budgets.iter().enumerate() {
                let purse = scope.purse(budget.per, now);
                if purse.account.is_homeless() {
                    return Err(Denied::NoAccount { whose }.into());
                }
                let held = purse.hold(cost.pico(), budget).map_err(|short| {
                    if short.as_ref().is_some_and(Short::may_be_met) {
                        let denied = Denied::Unshared { whose };
                        return No { denied, short };
                    }
                    let ends = purse.span.ends().filter(|_| cost <= budget.limit);
                    let wait = ends.map(|ends| ends.duration_since(now).unwrap_or_default());
                    let per = budget.per;
                    let denied = Denied::Budget { whose, per, wait };
                    No { denied, short }
                })?;
                money.push(Reserved {
                    whose,
                    index,
                    purse,
                    held,
                });
            }
        }
        Ok(money)
    }

    /// Says what the books have of a budget, of requests that came before what was found: what is missing
    /// is added, whatever was settled since. Once for each budget. `key` is `None` for the team's own.
    /// True where something was missing.
    pub fn restore_spent(
        &self,
        found: &Found,
        team: &Arc<str>,
        key: Option<&Arc<str>>,
        per: Period,
        spent: Money,
    ) -> bool {
        let span = Span::of(per, found.at);
        let name = purse_name(Id::of(team, key), &span);
        let missing = spent.pico().saturating_sub(found.total(&name));
        if missing > 0 {
            self.accounts.account(&name, span.keep()).add(missing);
        }
        missing > 0
    }

    /// Calls `tell` with each budget that the file gives: the team, the key where it is a key's, and how it
    /// stands.
    pub fn budgets(&self, mut tell: impl FnMut(&str, Option<&str>, Period, BudgetNow)) {
        let teams = self.settings.read().teams.clone().unwrap_or_default();
        for team in &teams {
            let keys = team
                .keys
                .iter()
                .map(|key| (Some(&key.name), &key.allowance));
            let all = std::iter::once((None, &team.allowance)).chain(keys);
            for (key, allowance) in all {
                for budget in &allowance.budgets {
                    let now = self.budget(&team.name, key, budget);
                    tell(&team.name, key.map(|key| &**key), budget.per, now);
                }
            }
        }
    }

    /// How a budget stands in the current period.
    pub fn budget(&self, team: &Arc<str>, key: Option<&Arc<str>>, budget: &Budget) -> BudgetNow {
        let scope = self.scopes.scope(Id::of(team, key));
        let purse = scope.purse(budget.per, SystemTime::now());
        let total = purse.account.total();
        let settled = purse.account.settled();
        BudgetNow {
            spent: Money::from_pico(purse.spent()),
            reserved: Money::from_pico(total.saturating_sub(settled)),
            used: purse.used(budget),
            ends: purse.span.ends(),
        }
    }
}

/// A limit says no; where other hosts share it, they may have what is missing.
struct No {
    denied: Denied,
    short: Option<Short>,
}

impl From<Denied> for No {
    fn from(denied: Denied) -> Self {
        Self {
            denied,
            short: None,
        }
    }
}

/// How a budget stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetNow {
    /// Spent in this period; with what other hosts have used, where they share it.
    pub spent: Money,
    /// Reserved for what is in flight.
    pub reserved: Money,
    /// The share of the limit that is spent.
    pub used: f64,
    /// When the next period begins.
    pub ends: Option<SystemTime>,
}

/// Takes of all rates of that measure, or of none.
fn taken(
    limited: &[Limited],
    measure: Measure,
    amount: u64,
    now: Moment,
) -> Result<Vec<Taken>, NotTaken> {
    let mut taken = Vec::new();
    for it in limited {
        taken.extend(it.take(measure, amount, now)?);
    }
    Ok(taken)
}

/// Of all rates that say no, the one that does so longest.
pub(super) fn latest(limited: &[Limited], tokens: u64, now: Moment) -> Denied {
    let mut latest = (Duration::ZERO, None);
    for it in limited {
        for (measure, amount) in [(Measure::Requests, 1), (Measure::Tokens, tokens)] {
            let Some(rate) = it.rate(measure) else {
                continue;
            };
            match it.look(measure, amount, now) {
                Ok(()) => {}
                Err(Late::Never) => {
                    let max = rate.burst();
                    let whose = it.whose;
                    return Denied::TooLarge {
                        whose,
                        measure,
                        max,
                        tokens,
                    };
                }
                Err(Late::For(wait)) if wait >= latest.0 => {
                    latest = (wait, Some((it.whose, measure, rate.count())));
                }
                Err(Late::For(_)) => {}
            }
        }
    }
    let (wait, of) = latest;
    // Somebody gave back what was missing a moment ago: it may come at once.
    let (whose, measure, per_minute) = of.unwrap_or((Whose::Host, Measure::Requests, 0));
    Denied::Rate {
        whose,
        measure,
        per_minute,
        wait,
    }
}

fn full(whose: Whose, measure: Measure, amount: u64, max: u64) -> Denied {
    match amount > max {
        true => Denied::TooLarge {
            whose,
            measure,
            max,
            tokens: amount,
        },
        false => Denied::Full {
            whose,
            measure,
            max,
        },
    }
}

// === impl Denied ===

impl Denied {
    /// When it is worth to come back; `None` where it isn't.
    pub fn wait(&self) -> Option<Duration> {
        /// What is in flight may be over in this long, and a server be back.
        const FULL: Duration = Duration::from_secs(1);
        match *self {
            Self::RateLimited(wait) | Self::Rate { wait, .. } | Self::QueueFull { wait } => {
                Some(wait)
            }
            Self::InFlight | Self::Full { .. } | Self::Unshared { .. } | Self::NoAccount { .. } => {
                Some(FULL)
            }
            Self::Budget { wait, .. } => wait,
            Self::TooLarge { .. } | Self::Unpriced | Self::Unmetered => None,
        }
    }
}

// === impl Bounds ===

impl From<&Allowance> for Bounds {
    fn from(allowance: &Allowance) -> Self {
        Self {
            requests: Rate::per_minute(allowance.requests_per_minute, allowance.requests_burst),
            tokens: Rate::per_minute(allowance.tokens_per_minute, allowance.tokens_burst),
            in_flight: allowance.in_flight,
            in_flight_tokens: allowance.in_flight_tokens,
        }
    }
}

impl Bounds {
    fn is_some(&self) -> bool {
        let rates = self.requests.is_some() || self.tokens.is_some();
        rates || self.in_flight > 0 || self.in_flight_tokens > 0
    }
}
