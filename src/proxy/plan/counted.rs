//! Questions for the tokens of a prompt, in a dialect that the model's provider doesn't speak: weir counts
//! them itself, by what it has learnt of that model there.

use super::{Plan, Surface};
use crate::proxy::arrive::Arrival;
use crate::proxy::carriage;
use crate::proxy::refuse::Refusal;
use crate::snapshot::Snapshot;
use crate::tokens::calibration::Key;
use crate::tokens::meter::Surface as Of;
use crate::tokens::prompt::{Api, prompt};
use bytes::Bytes;
use serde_json::json;

/// The answer; `None` where the provider is to be asked.
///
/// # Errors
/// Where weir can't count.
pub(super) async fn counted(
    snapshot: &Snapshot,
    arrival: &Arrival,
    plan: &Plan,
) -> Option<Result<Bytes, Refusal>> {
    let Surface::Metered(surface @ (Of::MessagesCount | Of::GeminiCount)) = plan.surface else {
        return None;
    };
    let first = plan.course.untried().first()?;
    let endpoint = snapshot.upstreams.endpoint(first.endpoint);
    let provider = snapshot.upstreams.provider(endpoint.provider);
    if !carriage::is_needed(plan, arrival, provider.dialect.as_ref()) {
        return None;
    }
    let Some(body) = plan.body.plain().cloned() else {
        return Some(Err(Refusal::invalid("its body is too long to be counted")));
    };
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&body) {
        return Some(Err(Refusal::InvalidJson(error.to_string())));
    }
    let model = first.model.as_deref().or(plan.model.as_deref());
    let model = model.unwrap_or_default().to_owned();
    let api = Api::of(surface)?;
    // A long prompt takes a while, and a vocabulary may have to be made ready.
    let name = model.clone();
    let counting = tokio::task::spawn_blocking(move || prompt(api, &name, &body));
    let Ok(prompt) = counting.await else {
        return Some(Err(Refusal::Overloaded("threads for long requests")));
    };
    let key = Key {
        provider: &provider.name,
        model: &model,
    };
    let tokens = snapshot.calibration.input(key, &prompt);
    let answer = match surface {
        Of::MessagesCount => json!({"input_tokens": tokens}),
        _ => json!({"totalTokens": tokens}),
    };
    Some(Ok(answer.to_string().into()))
}
