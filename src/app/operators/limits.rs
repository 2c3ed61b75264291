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

/// All limits, or those of a team. Waits for the disk, where keys made at run time are, and for what other
/// hosts say.
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
    let teams = teams.into_iter().flatten().filter(|it| asked(&it.name));
    let teams: Vec<_> = teams.filter(|it| is_limited(&it.allowance)).collect();
    let listed = super::keys::listed(keys, team)?.into_iter();
    let callers = listed.filter_map(|it| keys.named(&it.team, &it.name));
    let callers: Vec<_> = callers.filter(|it| is_limited(&it.key.allowance)).collect();
    let mut routes = governor.limited_routes();
    routes.retain(|(_, terms)| team.is_none() && is_limited(&terms.allowance));

    let of_teams = teams.iter().map(|it| (Of::Team(&it.name), &it.allowance));
    let of_keys = callers.iter();
    let of_keys = of_keys.map(|it| (Of::Key(&it.team.name, &it.key.name), &it.key.allowance));
    let of_routes = routes.iter();
    let of_routes = of_routes.map(|(model, terms)| (Of::Model(model), &terms.allowance));
    let fleet = governor.fleet(of_teams.chain(of_keys).chain(of_routes), now);
    let look =
        |of: Of<'_>, allowance: &Allowance| standing(governor.look(of, allowance, &fleet, now));
    for team in &teams {
        told.teams.push(TeamStanding {
            team: team.name.to_string(),
            standing: look(Of::Team(&team.name), &team.allowance),
        });
    }
    for caller in &callers {
        let (team, key) = (&caller.team.name, &caller.key);
        told.keys.push(KeyStanding {
            team: team.to_string(),
            key: key.name.to_string(),
            standing: look(Of::Key(team, &key.name), &key.allowance),
        });
    }
    for (model, terms) in &routes {
        let standing = look(Of::Model(model), &terms.allowance);
        let model = model.clone();
        told.models.push(ModelStanding { model, standing });
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
        elsewhere: fill.part.map(|part| part.elsewhere),
        share: fill.part.map(|part| part.share),
    }
}

fn places(taken: Taken) -> Places {
    let limit = (taken.max > 0).then_some(taken.max);
    Places {
        limit,
        used: taken.taken,
        remaining: limit.map(|limit| limit.saturating_sub(taken.taken)),
        elsewhere: taken.part.map(|part| part.elsewhere),
        share: taken.part.map(|part| part.share),
    }
}

fn spending(spent: Spent) -> Spending {
    let left = (spent.limit - spent.used).usd();
    Spending {
        per: period(spent.per),
        usd: spent.limit.usd(),
        used_usd: spent.used.usd(),
        remaining_usd: left.max(0.0),
        elsewhere_usd: spent.part.map(|part| part.elsewhere.usd()),
        share_usd: spent.part.map(|part| part.share.usd()),
        ends: spent.ends.map(Moment),
    }
}
