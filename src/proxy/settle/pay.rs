//! What a request cost, and who pays: tokens and money of the limits that it was under. A part of
//! `settle`.

use super::{Told, asked_model};
use crate::govern::grant::Stake;
use crate::govern::{Moment, Spent};
use crate::tokens::meter;
use crate::tokens::price::Billed;
use crate::types::Money;

impl Told<'_> {
    /// Settles tokens and money of the limits that the request was under.
    pub(super) fn pay(&self, stake: &mut Stake, usage: Option<meter::Usage>) {
        let spent = match usage {
            Some(usage) => Spent::Used {
                tokens: (usage.input.unwrap_or(0)).saturating_add(usage.output.unwrap_or(0)),
                cached: usage.cached.unwrap_or(0),
                cost: self.cost(&usage),
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

    /// What it cost; `None` where the model has no price.
    pub(super) fn cost(&self, usage: &meter::Usage) -> Option<Money> {
        let provider = self.tried?.endpoint.provider;
        let provider = self.snapshot.upstreams.provider(provider);
        let model = asked_model(self.tried, self.plan?);
        let price = self.snapshot.prices.find(&provider.name, model)?;
        Some(price.cost(&Billed {
            input: usage.input.unwrap_or(0),
            cached: usage.cached.unwrap_or(0),
            cache_write: usage.cache_write.unwrap_or(0),
            output: usage.output.unwrap_or(0),
            reasoning: usage.reasoning.unwrap_or(0),
        }))
    }

    /// An upstream has the request, and hasn't refused it.
    fn may_have_cost(&self) -> bool {
        let sent = self.tried.is_some_and(|tried| tried.sent);
        let answered = matches!(self.reply.status, 101 | 200..300);
        sent && (answered || self.reply.status == 0)
    }
}
