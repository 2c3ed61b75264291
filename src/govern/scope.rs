//! Whom a limit holds for: an address, a key, a team, a model, the host; and the sums that are kept of
//! each. The names of all accounts are made here, and nowhere else.
//!
//! ```text
//! team:search|rpm       key:search/ci|tpm       model:gpt-4o|in_flight       host|in_flight_tokens
//! team:search|budget|month|2026-11
//! ```

use super::accounts::{Account, Accounts, Held, Keep};
use super::addresses::{Slot, SlotHeld};
use super::budget::{Purse, Span};
use super::rate::{Bucket, Rate};
use super::settings::Period;
use super::shared::{Kind, Sharing, Short, Stock};
use ahash::AHashMap;
use parking_lot::{Mutex, RwLock};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

/// Whom a limit holds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    /// The client's address.
    Address,
    /// The caller's key.
    Key,
    /// The caller's team.
    Team,
    /// The model's route.
    Model,
    /// Everybody.
    Host,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Measure {
    /// Requests in a minute.
    Requests,
    /// Tokens in a minute.
    Tokens,
    /// Requests at once.
    InFlight,
    /// Tokens at once.
    InFlightTokens,
}

/// Names a scope, without a copy of its names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Id {
    Key(Arc<str>, Arc<str>),
    Team(Arc<str>),
    Model(Arc<str>),
    Host,
}

/// One scope's accounts, each opened when it is first needed.
#[derive(Debug)]
pub(super) struct Scope {
    name: String,
    accounts: Accounts,
    sums: [OnceLock<Account>; Measure::COUNT],
    /// Where other hosts share its allowances.
    sharing: Option<Sharing>,
    stocks: [OnceLock<Stock>; Measure::COUNT],
    purses: Mutex<Vec<Arc<Purse>>>,
    used: AtomicBool,
}

/// All scopes that were asked for lately.
#[derive(Debug)]
pub(super) struct Scopes {
    accounts: Accounts,
    sharing: Option<Sharing>,
    known: RwLock<AHashMap<Id, Arc<Scope>>>,
}

/// Where a scope's sums are.
#[derive(Clone, Debug)]
pub(super) enum Sums {
    Address(Arc<Slot>),
    Named(Arc<Scope>),
}

/// A place among what is in flight. Dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Place {
    _held: Either,
}

#[derive(Debug)]
enum Either {
    Address { _held: SlotHeld },
    Named { _held: Held },
}

/// There is no place; where another host may have one, that is said.
#[derive(Debug)]
pub(super) struct NoPlace(pub(super) Option<Short>);

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

// === impl Whose, Measure ===

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "address",
            Self::Key => "key",
            Self::Team => "team",
            Self::Model => "model",
            Self::Host => "server",
        })
    }
}

impl Measure {
    pub(super) const COUNT: usize = 4;

    /// The end of an account's name.
    fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "rpm",
            Self::Tokens => "tpm",
            Self::InFlight => "in_flight",
            Self::InFlightTokens => "in_flight_tokens",
        }
    }
}

// === impl Id ===

impl Id {
    /// Of a team's key, or without one of the team itself.
    pub(super) fn of(team: &Arc<str>, key: Option<&Arc<str>>) -> Self {
        match key {
            Some(key) => Self::Key(Arc::clone(team), Arc::clone(key)),
            None => Self::Team(Arc::clone(team)),
        }
    }
}

impl fmt::Display for Id {
    /// Names are unique: what divides them is written otherwise within them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |name: &str| {
            let name = name.replace('%', "%25");
            name.replace('/', "%2F").replace('|', "%7C")
        };
        match self {
            Self::Key(team, key) => write!(f, "key:{}/{}", plain(team), plain(key)),
            Self::Team(team) => write!(f, "team:{}", plain(team)),
            Self::Model(model) => write!(f, "model:{}", plain(model)),
            Self::Host => f.write_str("host"),
        }
    }
}

/// The name of the account of one measure of a scope.
pub(super) fn sum_name(scope: impl fmt::Display, measure: Measure) -> String {
    format!("{scope}|{}", measure.as_str())
}

/// The name of the account of what this host has drawn of a rate of that name.
pub(super) fn drawn_name(name: &str) -> String {
    format!("{name}|drawn")
}

/// The name of the account of what a scope spends in a period.
pub(super) fn purse_name(scope: impl fmt::Display, span: &Span) -> String {
    format!("{scope}|budget|{}", span.name())
}

// === impl Scopes ===

impl Scopes {
    pub(super) fn new(accounts: Accounts) -> Self {
        Self {
            accounts,
            sharing: None,
            known: RwLock::default(),
        }
    }

    /// From now on other hosts share them: all but the host's own.
    pub(super) fn share(&mut self, sharing: Sharing) {
        self.sharing = Some(sharing);
    }

    pub(super) fn sharing(&self) -> Option<&Sharing> {
        self.sharing.as_ref()
    }

    pub(super) fn scope(&self, id: Id) -> Arc<Scope> {
        if let Some(scope) = self.known.read().get(&id) {
            if !scope.used.load(Ordering::Relaxed) {
                scope.used.store(true, Ordering::Relaxed);
            }
            return Arc::clone(scope);
        }
        let mut known = self.known.write();
        let scope = known.entry(id).or_insert_with_key(|id| {
            Arc::new(Scope {
                name: id.to_string(),
                accounts: self.accounts.clone(),
                sums: Default::default(),
                sharing: self.sharing.clone().filter(|_| *id != Id::Host),
                stocks: Default::default(),
                purses: Mutex::default(),
                used: AtomicBool::new(true),
            })
        });
        Arc::clone(scope)
    }

    /// Forgets those that nobody asked for since it was last called, and of whose budgets nobody was
    /// warned.
    pub(super) fn sweep(&self) {
        let mut known = self.known.write();
        known.retain(|_, scope| {
            let used = scope.used.swap(false, Ordering::Relaxed);
            used || Arc::strong_count(scope) > 1 || scope.has_warned()
        });
    }
}

// === impl Scope ===

impl Scope {
    fn sum(&self, measure: Measure) -> &Account {
        self.sums[measure as usize].get_or_init(|| {
            let account = self.accounts.account(&self.name_of(measure), Keep::Weeks);
            if self.sharing.is_none() {
                // Whatever this host was granted when it shared.
                account.grant(i64::MAX);
            }
            account
        })
    }

    fn name_of(&self, measure: Measure) -> String {
        sum_name(&self.name, measure)
    }

    /// This host's part of an allowance that it shares. A rate's sum is a moment, so what is drawn of
    /// it has an account of its own.
    fn stock(&self, measure: Measure, kind: Kind, limit: i64) -> Option<&Stock> {
        let sharing = self.sharing.as_ref()?;
        let stock = self.stocks[measure as usize].get_or_init(|| {
            let name = self.name_of(measure);
            let account = match kind {
                Kind::Rate { .. } => self.accounts.account(&drawn_name(&name), Keep::Weeks),
                Kind::Budget | Kind::Slots => self.sum(measure).clone(),
            };
            sharing.stock(&name, kind, limit, account, Keep::Weeks)
        });
        stock.set_terms(kind, limit);
        Some(stock)
    }

    fn has_warned(&self) -> bool {
        let now = SystemTime::now();
        let purses = self.purses.lock();
        purses
            .iter()
            .any(|purse| purse.has_warned() && purse.span.contains(now))
    }

    /// What is spent in the period of that kind in which `now` lies.
    pub(super) fn purse(&self, per: Period, now: SystemTime) -> Arc<Purse> {
        let mut purses = self.purses.lock();
        let place = purses.iter().position(|purse| purse.span.per == per);
        if let Some(purse) = place.map(|place| &purses[place])
            && purse.span.contains(now)
            && !purse.account.is_homeless()
        {
            return Arc::clone(purse);
        }
        let span = Span::of(per, now);
        let name = purse_name(&self.name, &span);
        let account = self.accounts.account(&name, span.keep());
        if self.sharing.is_none() {
            account.grant(i64::MAX);
        }
        let sharing = self.sharing.clone();
        let purse = Arc::new(Purse::new(span, account, name, sharing));
        match place {
            Some(place) => purses[place] = Arc::clone(&purse),
            None => purses.push(Arc::clone(&purse)),
        }
        purse
    }
}

// === impl Sums ===

impl Sums {
    pub(super) fn bucket(&self, measure: Measure) -> Bucket<'_> {
        match self {
            Self::Address(slot) => slot.bucket(measure),
            Self::Named(scope) => scope.sum(measure).bucket(),
        }
    }

    /// The host's part of a rate, where it is shared.
    pub(super) fn stock(&self, measure: Measure, rate: Rate) -> Option<&Stock> {
        let [count, burst] = [rate.count(), rate.burst()].map(whole);
        match self {
            Self::Address(_) => None,
            Self::Named(scope) => scope.stock(measure, Kind::Rate { burst }, count),
        }
    }

    pub(super) fn hold(&self, measure: Measure, amount: u64, max: u64) -> Result<Place, NoPlace> {
        let [amount, max] = [amount, max].map(whole);
        let held = match self {
            Self::Address(slot) => Either::Address {
                _held: slot.hold(measure, amount, max).map_err(|_| NoPlace(None))?,
            },
            Self::Named(scope) => Either::Named {
                _held: match scope.stock(measure, Kind::Slots, max) {
                    None => scope
                        .sum(measure)
                        .hold(amount, max)
                        .map_err(|_| NoPlace(None))?,
                    Some(stock) => {
                        let short = |full| NoPlace(Short::of(stock, amount, max, full));
                        stock.hold(amount, max).map_err(short)?
                    }
                },
            },
        };
        Ok(Place { _held: held })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_scopes_share_a_name() {
        let key = |team: &str, key: &str| Id::Key(team.into(), key.into()).to_string();
        assert_eq!(key("search", "ci"), "key:search/ci");
        assert_ne!(key("a/b", "c"), key("a", "b/c"));
        assert_ne!(key("a%2Fb", "c"), key("a/b", "c"));
        assert_eq!(Id::Team("a|rpm".into()).to_string(), "team:a%7Crpm");
        assert_ne!(
            Id::Team("x".into()).to_string(),
            Id::Model("x".into()).to_string()
        );
    }

    #[test]
    fn a_scope_that_nobody_asks_for_is_forgotten_and_its_sums_are_not() {
        let accounts = Accounts::private();
        let scopes = Scopes::new(accounts.clone());
        let id = || Id::Team("a".into());
        let now = SystemTime::now();
        scopes.scope(id()).purse(Period::Day, now).account.add(5);
        scopes.sweep();
        assert_eq!(scopes.known.read().len(), 1, "it was asked for since");
        scopes.sweep();
        assert_eq!(scopes.known.read().len(), 0);
        accounts.sweep();
        assert_eq!(
            scopes.scope(id()).purse(Period::Day, now).account.total(),
            5
        );
    }
}
