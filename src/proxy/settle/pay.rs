//! What a request cost, and who pays: tokens and money of the limits that it was under. A part of
//! `settle`.

use super::{Plan, Told, Tried, asked_model};
use crate::govern::grant::Stake;
use crate::govern::{Moment, Spent};
use crate::snapshot::Snapshot;
use crate::tokens::meter;
use crate::tokens::price::Billed;
use crate::types::Money;

/// What is booked of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bill {
    /// What it used; `None` where nobody knows.
    pub usage: Option<meter::Usage>,
    /// What that costs; `None` where the model has no price.
    pub cost: Option<Money>,
}

impl Bill {
    /// Looks the price up, once for all who are told of it.
    pub(super) fn of(
        snapshot: &Snapshot,
        tried: Option<&Tried>,
        plan: Option<&Plan>,
        usage: Option<meter::Usage>,
    ) -> Self {
        let cost = usage.and_then(|usage| cost(snapshot, tried, plan, &usage));
        Self { usage, cost }
    }
}

impl Told<'_> {
    /// Settles tokens and money of the limits that the request was under.
    pub(super) fn pay(&self, stake: &mut Stake, bill: &Bill) {
        let untold = self.plan.is_some_and(|plan| plan.untold);
        let spent = match bill.usage {
            // What was delivered isn't what was made.
            Some(usage)
                if untold && usage.source != meter::Source::Upstream && self.may_have_cost() =>
            {
                Spent::AsThought
            }
            Some(usage) => Spent::Used {
                tokens: (usage.input.unwrap_or(0)).saturating_add(usage.output.unwrap_or(0)),
                cached: usage.cached.unwrap_or(0),
                cost: bill.cost,
            },
            // Nobody reads what such an answer used.
            None if self.may_have_cost() => Spent::AsThought,
            None => Spent::Nothing,
        };
        for warning in stake.settle(spent, Moment::now()) {
            let (team, key) = (&*warning.team, warning.key.as_deref());
            let per = warning.per.as_str();
            let metrics = &self.snapshot.observer.metrics;
            metrics.budget_warning(team, key, per);
            tracing::warn!(
                team,
                key,
                per,
                share = warning.crossing.share,
                used = warning.crossing.used,
                "a budget is nearly spent"
            );
        }
    }

    /// An upstream has the request, and hasn't refused it.
    fn may_have_cost(&self) -> bool {
        let sent = self.tried.is_some_and(|tried| tried.sent);
        let answered = matches!(self.reply.status, 101 | 200..300);
        sent && (answered || self.reply.status == 0)
    }
}

fn cost(
    snapshot: &Snapshot,
    tried: Option<&Tried>,
    plan: Option<&Plan>,
    usage: &meter::Usage,
) -> Option<Money> {
    let provider = snapshot.upstreams.provider(tried?.endpoint.provider);
    let model = asked_model(tried, plan?);
    let price = snapshot.prices.find(&provider.name, model)?;
    Some(price.cost(&Billed {
        input: usage.input.unwrap_or(0),
        cached: usage.cached.unwrap_or(0),
        cache_write: usage.cache_write.unwrap_or(0),
        output: usage.output.unwrap_or(0),
        reasoning: usage.reasoning.unwrap_or(0),
    }))
}
