//! The models that a caller may use, from the configuration, as each dialect's clients ask for them.

use super::{Surface, auth, percent_decoded};
use crate::dialect::ollama as lists;
use crate::proxy::journey::Journey;
use crate::proxy::refuse::Refusal;
use crate::proxy::surface::plain;
use crate::route::Found;
use crate::snapshot::Snapshot;
use serde_json::{Value, json};

/// The answer to a GET; `None` lets an upstream answer.
pub(super) fn listed(
    snapshot: &Snapshot,
    journey: &Journey,
    surface: Surface,
) -> Option<Result<bytes::Bytes, Refusal>> {
    if surface == Surface::Models {
        return models(snapshot, journey);
    }
    let list: fn(&[String]) -> Vec<u8> = match &*plain(&journey.arrival.path) {
        "/v1beta/models" => gemini,
        "/api/tags" => |names| lists::tags(names.iter().map(String::as_str)),
        "/api/ps" => |_| lists::running(),
        "/api/version" => |_| lists::version(),
        _ => return None,
    };
    let found = snapshot.routes.find(&journey.arrival.path, None);
    if matches!(found, Ok(Found::Path(..))) {
        // The operator says where that goes.
        return None;
    }
    let known = models(snapshot, journey)?;
    Some(known.map(|known| {
        let known: Value = serde_json::from_slice(&known).unwrap_or_default();
        let names = known["data"].as_array().into_iter().flatten();
        let names = names.filter_map(|entry| entry["id"].as_str().map(str::to_owned));
        list(&names.collect::<Vec<_>>()).into()
    }))
}

/// Google's list of models.
fn gemini(names: &[String]) -> Vec<u8> {
    let model = |name: &String| {
        json!({
            "name": format!("models/{name}"),
            "displayName": name,
            "supportedGenerationMethods": ["generateContent", "countTokens", "embedContent"],
        })
    };
    let models: Vec<_> = names.iter().map(model).collect();
    json!({"models": models}).to_string().into_bytes()
}

/// The answer to `GET /v1/models` and `GET /v1/models/{model}`, with the models that the caller may use;
/// `None` lets an upstream answer.
fn models(snapshot: &Snapshot, journey: &Journey) -> Option<Result<bytes::Bytes, Refusal>> {
    let caller = journey.arrival.caller.as_ref();
    let caller = caller.filter(|caller| caller.is_restricted());
    let list = match &snapshot.model_list {
        Some(list) => list.clone(),
        // An upstream would list what this caller may not use.
        None if caller.is_some() => bytes::Bytes::from_static(NO_MODELS),
        None => return None,
    };
    let segments = journey.arrival.path.split('/');
    let mut segments = segments.filter(|segment| !segment.is_empty());
    // The first of them is `models`, after `v1` where that is there; however it is written.
    let first = segments.next().unwrap_or_default();
    if plain(first) == "v1" {
        segments.next();
    }
    let name = match journey.surface() {
        Surface::Models => segments.collect::<Vec<_>>().join("/"),
        _ => String::new(),
    };
    let model = Some(percent_decoded(&name)).filter(|name| !name.is_empty());
    if model.is_none() && caller.is_none() {
        return Some(Ok(list));
    }
    let may_use = |entry: &serde_json::Value| {
        let name = entry["id"].as_str().unwrap_or_default();
        caller.is_none_or(|caller| auth::may_use(snapshot, caller, name))
    };
    let mut known: serde_json::Value = serde_json::from_slice(&list).unwrap_or_default();
    if let Some(entries) = known["data"].as_array_mut() {
        entries.retain(may_use);
    }
    let Some(model) = model else {
        return Some(Ok(known.to_string().into()));
    };
    let found = known["data"]
        .as_array()
        .and_then(|models| models.iter().find(|entry| entry["id"] == *model));
    Some(match found {
        Some(entry) => Ok(entry.to_string().into()),
        None => Err(Refusal::ModelNotFound(model.into_owned())),
    })
}

const NO_MODELS: &[u8] = br#"{"object":"list","data":[]}"#;
