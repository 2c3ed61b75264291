//! How heavy a request is, before anybody has served it: its tokens, and what they cost at most. It
//! decides nothing; called by `plan` where a limit or a budget wants to know.

use super::arrive::Arrival;
use super::peek::{Body, Held, Kind};
use super::plan::{Plan, Surface, model_in_path};
use crate::snapshot::Snapshot;
use crate::tokens::count::{family, loaded};
use crate::tokens::estimate::{Estimate, INLINE_BYTES_MAX, admission};
use crate::tokens::prompt::Api;
use crate::types::Money;
use http::Method;
use std::sync::Arc;

/// What a request may come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Tokens of the prompt, and of an answer that is as long as it may be, or as is usual.
    pub tokens: u64,
    /// What the dearest of its candidates would take at most for the longest answer; `None` where one
    /// of them has no price.
    pub cost: Option<Money>,
}

/// Weighs a request. What is long is read on a thread that serves nobody.
///
/// Where a request says how long its answer may be, that bounds what it costs. Where it doesn't, the
/// model's `max_output` of the price list does; only of a model that has none an answer may cost more
/// than was thought.
pub async fn weigh(snapshot: &Snapshot, plan: &Plan, arrival: &Arrival) -> Weight {
    let estimate = estimate(plan, arrival).await;
    let (input, output) = estimate.map_or((0, 0), |it| (it.input, it.output_max));
    let images = match arrival.path.contains("/images/") {
        true => plan
            .body
            .asked()
            .and_then(|asked| asked.choices)
            .unwrap_or(1),
        false => 0,
    };
    let mut cost = Some(Money::ZERO);
    for choice in &plan.candidates {
        let endpoint = snapshot.upstreams.endpoint(choice.endpoint);
        let provider = &snapshot.upstreams.provider(endpoint.provider).name;
        let model = choice.model.as_deref().or(plan.model.as_deref());
        let price = model.and_then(|model| snapshot.prices.find(provider, model));
        let own = price.map(|price| {
            let output = match estimate {
                Some(it) if !it.output_said && price.output_max > 0 => {
                    price.output_max.saturating_mul(it.answers)
                }
                _ => output,
            };
            price.at_most(input, output) + price.image.times(images)
        });
        cost = cost.zip(own).map(|(cost, own)| cost.max(own));
    }
    // Reading and deleting cost nothing.
    let idle = plan.model.is_none() && IDLE.contains(&arrival.method);
    Weight {
        tokens: input.saturating_add(output),
        cost: if idle { Some(Money::ZERO) } else { cost },
    }
}

const IDLE: [Method; 4] = [Method::GET, Method::HEAD, Method::OPTIONS, Method::DELETE];

/// `None` for what has no prompt: nothing, sound, pictures.
async fn estimate(plan: &Plan, arrival: &Arrival) -> Option<Estimate> {
    let Body::Held(Held {
        kind: Kind::Json(_),
        ..
    }) = &plan.body
    else {
        return None;
    };
    let body = plan.body.plain().filter(|body| !body.is_empty())?;
    let model = plan
        .candidates
        .first()
        .and_then(|choice| choice.model.clone());
    let model: Arc<str> = model.unwrap_or_else(|| plan.model.as_deref().unwrap_or_default().into());
    let api = api(plan.surface, &arrival.path);
    // A vocabulary that is still being made ready would be waited for.
    if body.len() <= INLINE_BYTES_MAX && loaded(family(&model).encoding) {
        return Some(admission(api, &model, body));
    }
    let body = body.clone();
    let job = tokio::task::spawn_blocking(move || admission(api, &model, &body));
    job.await.ok()
}

/// Where the prompt lies.
fn api(surface: Surface, path: &str) -> Api {
    match surface {
        Surface::Chat => Api::Chat,
        Surface::Completions => Api::Completions,
        Surface::Embeddings => Api::Embeddings,
        Surface::Messages => Api::Messages,
        _ if path.ends_with("/responses") => Api::Responses,
        _ if model_in_path(path).is_some() => Api::Gemini,
        _ if path.ends_with("/embed") || path.ends_with("/rerank") => Api::Cohere,
        _ if path.ends_with("/moderations") => Api::Embeddings,
        _ => Api::Chat,
    }
}
