//! What a request may come to, before anybody has served it: its tokens, and what they cost at most. A
//! part of `plan`; it decides nothing.

use super::arrive::Arrival;
use super::plan::{Plan, Surface};
use crate::govern::Ask;
use crate::snapshot::Snapshot;
use crate::tokens::estimate::at_a_glance;
use crate::tokens::family::family;
use crate::tokens::meter;
use crate::tokens::prompt::length::{Length, invoked_length};
use crate::tokens::settings::Price;
use crate::types::Money;
use http::Method;

/// Reckons with the dearest of a request's candidates.
///
/// Where a request says how long its answer may be, that bounds what it costs, up to the model's
/// `max_output` of the price list; where it doesn't say so, that does. Of a model that has none, an answer
/// is thought as long as answers of its kind commonly are at most, and may cost more.
pub fn reckon(snapshot: &Snapshot, plan: &Plan, arrival: &Arrival) -> Ask {
    // Reading and deleting cost nothing.
    if plan.model.is_none() && !plan.upgrade && IDLE.contains(&arrival.method) {
        return Ask {
            tokens: Size::of(plan, None).input,
            cost: Some(Money::ZERO),
        };
    }
    let images = match plan.surface {
        Surface::Metered(meter::Surface::Images) => plan.body.choices().unwrap_or(1).max(1),
        _ => 0,
    };
    let (mut tokens, mut cost) = (0, Some(Money::ZERO));
    for choice in &plan.candidates {
        let endpoint = snapshot.upstreams.endpoint(choice.endpoint);
        let provider = &snapshot.upstreams.provider(endpoint.provider).name;
        let named = choice.model.as_deref().or(plan.model.as_deref());
        let others = plan.body.others().iter().map(|other| Some(&**other));
        for model in std::iter::once(named).chain(others) {
            let price = model.and_then(|model| snapshot.prices.find(provider, model));
            let size = Size::of(plan, model);
            let output = size.output(price);
            let own =
                price.map(|price| price.at_most(size.input, output) + price.image.times(images));
            cost = cost.zip(own).map(|(cost, own)| cost.max(own));
            tokens = tokens.max(size.input.saturating_add(output));
        }
    }
    Ask { tokens, cost }
}

/// Methods of requests that read or delete.
pub const IDLE: [Method; 4] = [Method::GET, Method::HEAD, Method::OPTIONS, Method::DELETE];

struct Size {
    input: u64,
    /// Tokens of all answers, as the request says or as they commonly are at most.
    output: u64,
    /// It says so.
    said: bool,
    answers: u64,
    /// They are sound or pictures, which most models don't sell as tokens.
    media: bool,
}

impl Size {
    fn of(plan: &Plan, model: Option<&str>) -> Self {
        if let Some(estimate) = plan.estimate {
            return Self {
                input: estimate.input,
                output: estimate.output_max,
                said: estimate.output_said,
                answers: estimate.answers,
                media: false,
            };
        }
        // An API whose prompts nobody can read; sound and pictures are no text.
        let asked = plan.body.asked();
        let body = asked.and_then(|_| plan.body.plain());
        let input = body.map_or(0, |body| at_a_glance(body));
        let (Some(model), true) = (model, plan.surface.spends()) else {
            // What names no model has no answer that is known to be one.
            return Self {
                input,
                output: 0,
                said: true,
                answers: 0,
                media: false,
            };
        };
        let said = match (plan.surface, body) {
            (Surface::Metered(meter::Surface::Invoke), Some(body)) => invoked_length(model, body),
            _ => Length {
                each: None,
                answers: plan.body.choices().unwrap_or(1).max(1),
            },
        };
        let each = said.each.unwrap_or(family(model).output_max.into());
        Self {
            input,
            output: each.saturating_mul(said.answers),
            said: said.each.is_some(),
            answers: said.answers,
            media: matches!(
                plan.surface,
                Surface::Metered(meter::Surface::Audio | meter::Surface::Images)
            ),
        }
    }

    /// Tokens of all answers at most, of a model with this price.
    fn output(&self, price: Option<&Price>) -> u64 {
        let Some(price) = price else {
            return self.output;
        };
        let longest = price.output_max.saturating_mul(self.answers);
        match (price.output_max > 0, self.said) {
            (true, true) => self.output.min(longest),
            (true, false) => longest,
            (false, false)
                if self.media && price.output == Money::ZERO && price.reasoning.is_none() =>
            {
                0
            }
            (false, _) => self.output,
        }
    }
}
