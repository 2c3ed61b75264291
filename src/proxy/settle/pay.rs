//! What a request cost, and who pays: tokens and money of the limits that it was under. What its answer
//! doesn't say is estimated, once for all who are told of it. A part of `settle`.

use super::{Plan, Told, asked_model};
use crate::govern::grant::Stake;
use crate::govern::{Moment, Spent};
use crate::proxy::reckon::{self, Thought};
use crate::tokens::meter;
use crate::tokens::settings::Price;
use crate::types::Money;

/// What is booked of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bill {
    /// What it used, as reported, counted or estimated; `None` where nobody knows.
    pub usage: Option<meter::Usage>,
    /// What that costs; `None` where the model has no price.
    pub cost: Option<Money>,
}

impl Told<'_> {
    /// What it used and what that costs; what isn't known of that, where it may cost something, as it
    /// can be thought by the request.
    pub(super) fn bill(&self, usage: Option<meter::Usage>) -> Bill {
        let price = self.price();
        // Where nobody is told all, what was delivered isn't what was made.
        let untold = self.plan.is_some_and(|plan| plan.untold) && self.may_have_cost();
        let usage = usage.filter(|usage| !untold || usage.source == meter::Source::Upstream);
        // What names no model has no price that it could be thought by, not even that of all models.
        let partly = |plan: &Plan| match usage {
            Some(_) => plan.surface.is_media(),
            None => self.may_have_cost() && !asked_model(self.tried, plan).is_empty(),
        };
        let Some((price, plan)) = price.zip(self.plan.filter(|plan| partly(plan))) else {
            let cost = price.zip(usage).map(|(price, usage)| price.cost(&usage));
            return Bill { usage, cost };
        };
        let thought = Thought::of(plan, Some(asked_model(self.tried, plan)));
        let (usage, cost) = match (usage, thought.complete(usage, Some(price))) {
            (None, Some(_)) => {
                let most = thought.most(Some(price));
                (Some(most), Some(price.at_most(&most)))
            }
            (Some(_), Some(whole)) => (Some(whole), Some(price.cost(&whole))),
            // Nothing of it costs anything.
            (_, None) => (None, thought.is_media().then_some(Money::ZERO)),
        };
        Bill { usage, cost }
    }

    /// That of the model that was asked for, where it was asked for.
    fn price(&self) -> Option<&Price> {
        let (tried, plan) = (self.tried?, self.plan?);
        let provider = self.snapshot.upstreams.provider(tried.endpoint.provider);
        let model = asked_model(Some(tried), plan);
        reckon::price(self.snapshot, &provider.name, model, plan.surface)
    }

    /// Settles tokens and money of the limits that the request was under.
    pub(super) fn pay(&self, stake: &mut Stake, bill: &Bill) {
        let spent = match bill.usage {
            Some(usage) => Spent::Used {
                tokens: usage.tokens(),
                cached: usage.cached.unwrap_or(0),
                cost: bill.cost,
            },
            // Nobody knows, nor what it costs.
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
        let sent = self.tried.is_some_and(|tried| tried.sent)
            && self.plan.is_some_and(|plan| plan.surface.spends());
        let answered = matches!(self.reply.status, 101 | 200..300);
        sent && (answered || self.reply.status == 0)
    }
}
