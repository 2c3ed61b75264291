//! Keys made at run time, as operators ask for them: on the control socket, or where no weir runs.

use crate::govern::keys::store::{Issued, Limits, Listed, Moment, Spending, StoreFault, Wish};
use crate::govern::settings::{Allowance, Period};
use crate::govern::{Caller, Keys};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum KeysAsk {
    /// Make one; the answer is an [`IssuedKey`].
    New {
        /// What it is to be.
        wish: Wish,
    },
    /// List all; the answer is a [`KeyList`].
    List,
    /// Take one back.
    Revoke {
        /// Its team.
        team: String,
        /// Its name.
        name: String,
    },
    /// Give one a new secret; the answer is an [`IssuedKey`].
    Rotate {
        /// Its team.
        team: String,
        /// Its name.
        name: String,
        /// How long the secret that it has is good.
        overlap_seconds: u64,
    },
}

/// A key with its secret, which nobody is told again.
#[derive(Clone, Serialize, Deserialize)]
pub struct IssuedKey {
    /// Its team.
    pub team: String,
    /// Its name.
    pub name: String,
    /// What clients send.
    pub key: String,
    /// From when on it isn't accepted.
    pub expires: Option<Moment>,
    /// How long the secret before it is good.
    pub replaced_until: Option<Moment>,
}

/// All keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyList {
    /// By team and name.
    pub keys: Vec<Listed>,
}

/// The answer in JSON; `refused` says why something wasn't done.
pub(super) fn answer(what: &KeysAsk, keys: &Keys, now: SystemTime) -> Value {
    done(what, keys, now).unwrap_or_else(|fault| json!({"refused": fault.to_string()}))
}

fn done(what: &KeysAsk, keys: &Keys, now: SystemTime) -> Result<Value, StoreFault> {
    let (store, teams) = (keys.store(), keys.teams());
    match what {
        KeysAsk::New { wish } => store.create(teams, wish, now).map(issued),
        KeysAsk::List => keys.list(now).map(|keys| json!(KeyList { keys })),
        KeysAsk::Revoke { team, name } => {
            store.revoke(teams, team, name)?;
            Ok(json!({}))
        }
        KeysAsk::Rotate {
            team,
            name,
            overlap_seconds,
        } => {
            let overlap = Duration::from_secs(*overlap_seconds);
            store.rotate(teams, team, name, overlap, now).map(issued)
        }
    }
}

fn issued(issued: Issued) -> Value {
    json!(IssuedKey {
        team: issued.team,
        name: issued.name,
        key: issued.secret.expose().clone(),
        expires: issued.expires,
        replaced_until: issued.replaced_until,
    })
}

// === in words ===

/// What may be used: `600 requests/min, 500.00 USD a month`, or `no limit`.
pub fn allowance_in_words(limits: &Limits, budgets: &[Spending]) -> String {
    let mut words = Vec::new();
    for (count, unit) in [
        (limits.requests_per_minute, "requests/min"),
        (limits.tokens_per_minute, "tokens/min"),
        (limits.in_flight, "requests at once"),
        (limits.in_flight_tokens, "tokens at once"),
    ] {
        if count > 0 {
            words.push(format!("{count} {unit}"));
        }
    }
    words.extend(budgets.iter().map(|budget| {
        let per = match budget.per {
            Period::Day => "a day",
            Period::Week => "a week",
            Period::Month => "a month",
            Period::Year => "a year",
            Period::Total => "in total",
        };
        format!("{:.2} USD {per}", budget.usd)
    }));
    if words.is_empty() {
        return "no limit".to_owned();
    }
    words.join(", ")
}

/// The same of checked settings.
pub fn told(allowance: &Allowance) -> String {
    let (limits, budgets) = Limits::of(allowance);
    allowance_in_words(&limits, &budgets)
}

/// Who a key on the command line is: a secret, or `TEAM/NAME`; else the code of the refusal.
///
/// # Errors
/// Nobody is known by it.
pub fn asked_for(
    keys: &Keys,
    key: Option<&str>,
    now: SystemTime,
) -> Result<Option<Caller>, &'static str> {
    let named = key.and_then(|key| key.split_once('/'));
    if let Some(caller) = named.and_then(|(team, name)| keys.named(team, name)) {
        return match caller.key.expires {
            Some(expires) if expires <= now => Err("expired_key"),
            _ => Ok(Some(caller)),
        };
    }
    let presented = crate::govern::keys::Presented {
        bearer: key.map(str::as_bytes),
        certificate: None,
    };
    keys.identify(presented, now).map_err(|fault| fault.code())
}
