//! How limits stand, as the admin API tells it.

use crate::admin::api::nouns::{
    Allowed, Budget, KeyStanding, Limits, ModelStanding, Period, Places, Rate, Spending, Standing,
    TeamStanding,
};
use crate::admin::api::{Moment, Trouble};
use crate::govern::look::{Fill, Look, Of, Spending as Spent, Taken};
use crate::govern::settings::{Allowance, Period as Per};
use crate::snapshot::Snapshot;
use std::time::SystemTime;

/// All limits, or those of a team. Waits for the disk: keys made at run time have limits, too.
pub(super) fn limits(snapshot: &Snapshot, team: Option<&str>) -> Result<Limits, Trouble> {
    let (governor, keys, now) = (&snapshot.governor, &snapshot.keys, SystemTime::now());
    let asked = |name: &str| team.is_none_or(|team| team == name);
    let mut told = Limits {
        host: standing(governor.look_at_host()),
        teams: Vec::new(),
        keys: Vec::new(),
        models: Vec::new(),
    };
    let teams = keys.teams().map(|teams| teams.all());
    for team in teams.into_iter().flatten() {
        if asked(&team.name) && is_limited(&team.allowance) {
            let look = governor.look(Of::Team(&team.name), &team.allowance, now);
            told.teams.push(TeamStanding {
                team: team.name.to_string(),
                standing: standing(look),
            });
        }
    }
    for listed in super::keys::listed(keys, team)? {
        let Some(caller) = keys.named(&listed.team, &listed.name) else {
            continue;
        };
        let allowance = &caller.key.allowance;
        if is_limited(allowance) {
            let look = governor.look(Of::Key(&listed.team, &listed.name), allowance, now);
            told.keys.push(KeyStanding {
                team: listed.team,
                key: listed.name,
                standing: standing(look),
            });
        }
    }
    for (model, terms) in governor.limited_routes() {
        if team.is_none() && is_limited(&terms.allowance) {
            let look = governor.look(Of::Model(&model), &terms.allowance, now);
            told.models.push(ModelStanding {
                model,
                standing: standing(look),
            });
        }
    }
    Ok(told)
}

/// As it is told.
pub(super) fn standing(look: Look) -> Standing {
    Standing {
        requests: look.requests.map(rate),
        tokens: look.tokens.map(rate),
        in_flight: look.in_flight.map(places),
        in_flight_tokens: look.in_flight_tokens.map(places),
        budgets: look.budgets.into_iter().map(spending).collect(),
    }
}

/// There is something to stand in some way.
fn is_limited(allowance: &Allowance) -> bool {
    let limits = [
        allowance.requests_per_minute,
        allowance.tokens_per_minute,
        allowance.in_flight,
        allowance.in_flight_tokens,
    ];
    !allowance.budgets.is_empty() || limits.iter().any(|limit| *limit > 0)
}

/// As it was configured.
pub(super) fn allowed(allowance: &Allowance) -> Allowed {
    let some = |limit: u64| (limit > 0).then_some(limit);
    Allowed {
        requests_per_minute: some(allowance.requests_per_minute),
        tokens_per_minute: some(allowance.tokens_per_minute),
        in_flight: some(allowance.in_flight),
        in_flight_tokens: some(allowance.in_flight_tokens),
    }
}

pub(super) fn budgets(allowance: &Allowance) -> Vec<Budget> {
    let all = allowance.budgets.iter().map(|budget| Budget {
        usd: budget.limit.usd(),
        per: period(budget.per),
        warn: Some(budget.warn_at.clone()),
    });
    all.collect()
}

pub(super) fn period(per: Per) -> Period {
    match per {
        Per::Day => Period::Day,
        Per::Week => Period::Week,
        Per::Month => Period::Month,
        Per::Year => Period::Year,
        Per::Total => Period::Total,
    }
}

fn rate(fill: Fill) -> Rate {
    Rate {
        limit: fill.per_minute,
        remaining: fill.remaining,
        resets_seconds: fill.full_in.as_secs_f64(),
    }
}

fn places(taken: Taken) -> Places {
    let limit = (taken.max > 0).then_some(taken.max);
    Places {
        limit,
        used: taken.taken,
        remaining: limit.map(|limit| limit.saturating_sub(taken.taken)),
    }
}

fn spending(spent: Spent) -> Spending {
    let left = (spent.limit - spent.used).usd();
    Spending {
        per: period(spent.per),
        usd: spent.limit.usd(),
        used_usd: spent.used.usd(),
        remaining_usd: left.max(0.0),
        ends: spent.ends.map(Moment),
    }
}
