//! What a request may come to, before anybody has served it: its tokens, and what they cost at most. A
//! part of `plan`; it decides nothing.

use super::arrive::Arrival;
use super::plan::{Plan, Surface};
use crate::govern::Ask;
use crate::snapshot::Snapshot;
use crate::tokens::estimate::at_a_glance;
use crate::tokens::meter;
use crate::types::Money;
use http::Method;

/// Reckons with the dearest of a request's candidates.
///
/// Where a request says how long its answer may be, that bounds what it costs. Where it doesn't, the
/// model's `max_output` of the price list does; only of a model that has none an answer may cost more
/// than was thought.
pub fn reckon(snapshot: &Snapshot, plan: &Plan, arrival: &Arrival) -> Ask {
    let size = Size::of(plan);
    let images = match plan.surface {
        Surface::Metered(meter::Surface::Images) => {
            let asked = plan.body.asked().and_then(|asked| asked.choices);
            asked.unwrap_or(1)
        }
        _ => 0,
    };
    let mut cost = Some(Money::ZERO);
    for choice in &plan.candidates {
        let endpoint = snapshot.upstreams.endpoint(choice.endpoint);
        let provider = &snapshot.upstreams.provider(endpoint.provider).name;
        let model = choice.model.as_deref().or(plan.model.as_deref());
        let price = model.and_then(|model| snapshot.prices.find(provider, model));
        let own = price.map(|price| {
            let output = match size.answers {
                Some(answers) if price.output_max > 0 => price.output_max.saturating_mul(answers),
                _ => size.output,
            };
            price.at_most(size.input, output) + price.image.times(images)
        });
        cost = cost.zip(own).map(|(cost, own)| cost.max(own));
    }
    // Reading and deleting cost nothing.
    let idle = plan.model.is_none() && IDLE.contains(&arrival.method);
    Ask {
        tokens: size.input.saturating_add(size.output),
        cost: if idle { Some(Money::ZERO) } else { cost },
    }
}

const IDLE: [Method; 4] = [Method::GET, Method::HEAD, Method::OPTIONS, Method::DELETE];

struct Size {
    input: u64,
    output: u64,
    /// How many answers are asked for, where it isn't said how long they may be.
    answers: Option<u64>,
}

impl Size {
    fn of(plan: &Plan) -> Self {
        if let Some(estimate) = plan.estimate {
            return Self {
                input: estimate.input,
                output: estimate.output_max,
                answers: (!estimate.output_said).then_some(estimate.answers),
            };
        }
        // An API whose prompts nobody can read; sound and pictures are no text.
        let asked = plan.body.asked();
        let body = asked.and_then(|_| plan.body.plain());
        Self {
            input: body.map_or(0, |body| at_a_glance(body)),
            output: asked.and_then(|asked| asked.max_tokens).unwrap_or(0),
            answers: None,
        }
    }
}
