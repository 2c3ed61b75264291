//! Keys, as the admin API tells of them and changes them. Everything waits for the disk.

use super::limits::period;
use crate::admin::api::Moment;
use crate::admin::api::Trouble;
use crate::admin::api::nouns::{
    Allowed, Budget, Credential, Key, KeyName, Made, NewKey, Overlap, Period, Source, State,
};
use crate::govern::Keys;
use crate::govern::keys::store::{self, Issued, Limits, Listed, Spending, StoreFault, Wish};
use crate::govern::settings::{self, Period as Per};
use std::time::{Duration, SystemTime};

/// All of them, or a team's.
pub(super) fn listed(keys: &Keys, team: Option<&str>) -> Result<Vec<Key>, Trouble> {
    if keys.is_open() {
        return Ok(Vec::new());
    }
    let all = keys.list(SystemTime::now()).map_err(trouble)?;
    let asked = |key: &Listed| team.is_none_or(|team| key.team == team);
    Ok(all.into_iter().filter(asked).map(key).collect())
}

pub(super) fn one(keys: &Keys, name: &KeyName) -> Result<Key, Trouble> {
    let all = listed(keys, Some(&name.team))?;
    let found = all.into_iter().find(|key| key.name == name.name);
    found.ok_or_else(|| trouble(StoreFault::NoKey(format!("{}/{}", name.team, name.name))))
}

pub(super) fn make(keys: &Keys, new: NewKey) -> Result<Made, Trouble> {
    let now = SystemTime::now();
    let expires = new.expires.map(|when| {
        let ahead = when.ahead(now);
        ahead.ok_or_else(|| Trouble::Wrong("expires is after all time".into()))
    });
    let limits = |it: Option<u64>| it.unwrap_or_default();
    let wish = Wish {
        team: new.team,
        name: new.name,
        expires: expires.transpose()?.map(store::Moment),
        models: new.models,
        limits: Limits {
            requests_per_minute: limits(new.limits.requests_per_minute),
            tokens_per_minute: limits(new.limits.tokens_per_minute),
            in_flight: limits(new.limits.in_flight),
            in_flight_tokens: limits(new.limits.in_flight_tokens),
        },
        budgets: new.budgets.into_iter().map(spending).collect(),
    };
    let issued = keys.store().create(keys.teams(), &wish, now);
    made(keys, issued.map_err(trouble)?)
}

pub(super) fn rotate(keys: &Keys, name: &KeyName, overlap: Overlap) -> Result<Made, Trouble> {
    let lapse = overlap.overlap.map_or(Duration::ZERO, |lapse| lapse.0);
    let (teams, now) = (keys.teams(), SystemTime::now());
    let issued = (keys.store()).rotate(teams, &name.team, &name.name, lapse, now);
    made(keys, issued.map_err(trouble)?)
}

pub(super) fn revoke(keys: &Keys, name: &KeyName) -> Result<(), Trouble> {
    let revoked = (keys.store()).revoke(keys.teams(), &name.team, &name.name);
    revoked.map_err(trouble)
}

/// What was made, as it stands now.
fn made(keys: &Keys, issued: Issued) -> Result<Made, Trouble> {
    let name = KeyName {
        team: issued.team,
        name: issued.name,
    };
    Ok(Made {
        key: one(keys, &name)?,
        secret: issued.secret.expose().clone(),
    })
}

fn trouble(fault: StoreFault) -> Trouble {
    let sentence = fault.to_string();
    match fault {
        StoreFault::NoKey(_) => Trouble::Unknown(sentence),
        StoreFault::Open | StoreFault::Taken(_) | StoreFault::Written(_) => {
            Trouble::Conflict(sentence)
        }
        StoreFault::NoTeam(_) | StoreFault::Wrong(_) => Trouble::Wrong(sentence),
        StoreFault::File(_) => Trouble::Failed(sentence),
    }
}

fn spending(budget: Budget) -> Spending {
    Spending {
        usd: budget.usd,
        per: match budget.per {
            Period::Day => Per::Day,
            Period::Week => Per::Week,
            Period::Month => Per::Month,
            Period::Year => Per::Year,
            Period::Total => Per::Total,
        },
        warn: (budget.warn).unwrap_or_else(settings::Budget::warn_at_default),
    }
}

fn key(listed: Listed) -> Key {
    let some = |limit: u64| (limit > 0).then_some(limit);
    let moment = |it: store::Moment| Moment(it.0);
    Key {
        source: match listed.source {
            store::Source::Configuration => Source::Configuration,
            store::Source::Made => Source::Made,
        },
        state: match listed.state {
            store::State::Active => State::Active,
            store::State::Expired => State::Expired,
            store::State::NoTeam => State::NoTeam,
            store::State::Shadowed => State::Shadowed,
        },
        credential: if listed.credential == "client_cert" {
            Credential::ClientCert
        } else {
            Credential::Sha256
        },
        created: listed.created.map(moment),
        expires: listed.expires.map(moment),
        replaced_until: listed.replaced_until.map(moment),
        models: listed.models,
        limits: Allowed {
            requests_per_minute: some(listed.limits.requests_per_minute),
            tokens_per_minute: some(listed.limits.tokens_per_minute),
            in_flight: some(listed.limits.in_flight),
            in_flight_tokens: some(listed.limits.in_flight_tokens),
        },
        budgets: (listed.budgets.into_iter())
            .map(|budget| Budget {
                usd: budget.usd,
                per: period(budget.per),
                warn: Some(budget.warn),
            })
            .collect(),
        team: listed.team,
        name: listed.name,
    }
}
