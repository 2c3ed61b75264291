//! What Ollama's clients ask of a server beside answers: which models it has, and its version.
//!
//! Source: Ollama's API reference (`docs/api.md`), "List Local Models", "List Running Models",
//! "Version". What only a server with files of its own knows is empty.

use serde_json::{Value, json};

/// The version that weir says it is: one whose API is that of this module.
const VERSION: &str = "0.12.0";

/// A time for what was never changed.
const ALWAYS: &str = "1970-01-01T00:00:00Z";

/// The answer to `/api/tags`: the models of these names.
pub fn tags<'n>(models: impl IntoIterator<Item = &'n str>) -> Vec<u8> {
    let model = |name: &str| {
        json!({
            "name": name,
            "model": name,
            "modified_at": ALWAYS,
            "size": 0,
            "digest": "",
            "details": details(),
        })
    };
    let models: Vec<_> = models.into_iter().map(model).collect();
    json!({"models": models}).to_string().into_bytes()
}

/// The answer to `/api/ps`: nothing is in memory here.
pub fn running() -> Vec<u8> {
    json!({"models": []}).to_string().into_bytes()
}

/// The answer to `/api/version`.
pub fn version() -> Vec<u8> {
    json!({"version": VERSION}).to_string().into_bytes()
}

fn details() -> Value {
    json!({
        "parent_model": "",
        "format": "",
        "family": "",
        "families": [],
        "parameter_size": "",
        "quantization_level": "",
    })
}
