//! How heavy a request is, before anybody has served it: its tokens, and what they cost at most. It
//! decides nothing; called by `plan` where a limit or a budget wants to know.

use super::arrive::Arrival;
use super::peek::{Body, Kind};
use super::plan::{Plan, Surface};
use crate::snapshot::Snapshot;
use crate::tokens::estimate::estimate;
use crate::types::Money;
use http::Method;

/// What a request may come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Tokens of the prompt, and of an answer that is as long as it may be, or as is usual.
    pub tokens: u64,
    /// What the dearest of its candidates would take at most for the longest answer; `None` where one
    /// of them has no price.
    pub cost: Option<Money>,
}

/// The answer that is reckoned with where neither the request nor the price list says how long it
/// may become.
const OUTPUT_DEFAULT: u64 = 4096;

/// Weighs a request.
///
/// Where a request says how long its answer may be, that bounds what it costs. Where it doesn't, the
/// model's `max_output` of the price list does; only of a model that has none an answer may cost more
/// than was thought.
pub fn weigh(snapshot: &Snapshot, plan: &Plan, arrival: &Arrival) -> Weight {
    let (input, asked, choices) = prompt(plan);
    let generates = input > 0 && plan.surface != Surface::Embeddings;
    let output = |max: u64| match asked {
        _ if !generates => 0,
        Some(asked) => asked.saturating_mul(choices),
        None => max.saturating_mul(choices),
    };
    let images = if arrival.path.contains("/images/") {
        choices
    } else {
        0
    };
    let mut cost = Some(Money::ZERO);
    for choice in &plan.candidates {
        let endpoint = snapshot.upstreams.endpoint(choice.endpoint);
        let provider = &snapshot.upstreams.provider(endpoint.provider).name;
        let model = choice.model.as_deref().or(plan.model.as_deref());
        let price = model.and_then(|model| snapshot.prices.find(provider, model));
        let own = price.map(|price| {
            let max = match price.output_max {
                0 => OUTPUT_DEFAULT,
                max => max,
            };
            price.at_most(input, output(max)) + price.image.times(images)
        });
        cost = cost.zip(own).map(|(cost, own)| cost.max(own));
    }
    // Reading and deleting cost nothing.
    let idle = plan.model.is_none()
        && [Method::GET, Method::HEAD, Method::DELETE].contains(&arrival.method);
    Weight {
        tokens: input.saturating_add(output(OUTPUT_DEFAULT)),
        cost: if idle { Some(Money::ZERO) } else { cost },
    }
}

/// Estimated tokens of the prompt, the most that one answer may have, and how many answers.
fn prompt(plan: &Plan) -> (u64, Option<u64>, u64) {
    let Body::Held(held) = &plan.body else {
        return (0, None, 1);
    };
    let input = plan.body.plain().map_or(0, |body| estimate(body));
    match &held.kind {
        Kind::Json(asked) => (input, asked.max_tokens, asked.choices.unwrap_or(1).max(1)),
        // Sound and pictures are no text.
        Kind::Form(_) => (0, Some(0), 1),
    }
}
